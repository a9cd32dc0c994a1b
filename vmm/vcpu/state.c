/* SPDX-License-Identifier: MIT */
/*
 * The boot processor's first state, set as any KVM client does: KVM_SET_SREGS, KVM_SET_REGS, KVM_SET_FPU,
 * KVM_SET_MSRS, KVM_SET_LAPIC. The hidden parts of the segment registers are those of the descriptors
 * that stand in guest memory, so that a guest that reloads them finds the same.
 */
#include "vcpu/state.h"

#include <errno.h>
#include <string.h>

#include "vcpu/cpuid_table.h"

#define CR0_PE 0x00000001u
#define CR0_ET 0x00000010u
#define CR0_NE 0x00000020u
#define CR0_PG 0x80000000u
#define CR4_PAE 0x20u
#define CR4_LA57 0x1000u
#define EFER_LME 0x100u
#define EFER_LMA 0x400u

#define MSR_IA32_TSC 0x10u
#define MSR_IA32_MISC_ENABLE 0x1a0u
#define MSR_IA32_SYSENTER_CS 0x174u
#define MSR_IA32_SYSENTER_ESP 0x175u
#define MSR_IA32_SYSENTER_EIP 0x176u
#define MSR_IA32_CR_PAT 0x277u
#define MSR_IA32_MTRR_DEF_TYPE 0x2ffu
#define MISC_ENABLE_FAST_STRING 0x1u
#define PAT_RESET UINT64_C(0x0007040600070406)
#define MTRR_DEF_TYPE_ENABLED_WB 0x806u

#define APIC_LVT0 0x350u
#define APIC_LVT1 0x360u
#define APIC_LVT_EXTINT 0x700u
#define APIC_LVT_NMI 0x400u

/* Segment types (SDM 3A, 3.4.5.1 and 3.5). */
#define TYPE_CODE 11u     /* execute, read, accessed */
#define TYPE_DATA 3u      /* read, write, accessed */
#define TYPE_TSS_BUSY 11u /* 32- and 64-bit */
#define TSS_LIMIT 0x67u

static struct kvm_segment state_code(enum vcpu_mode mode)
{
    bool is_long = mode == VCPU_MODE_LONG;
    return (struct kvm_segment){.limit = 0xffffffff, .selector = VCPU_CS_SELECTOR, .type = TYPE_CODE, .present = 1, .s = 1,
                                .db = !is_long, .l = is_long, .g = 1};
}

static struct kvm_segment state_data(void)
{
    return (struct kvm_segment){.limit = 0xffffffff, .selector = VCPU_DS_SELECTOR, .type = TYPE_DATA, .present = 1, .s = 1, .db = 1, .g = 1};
}

static struct kvm_segment state_tss(uint64_t tss_gpa)
{
    return (struct kvm_segment){.base = tss_gpa, .limit = TSS_LIMIT, .selector = VCPU_TR_SELECTOR, .type = TYPE_TSS_BUSY, .present = 1};
}

/*
 * A descriptor (SDM 3A, figure 3-8):
 *   63..56 base 31:24 | 55 G | 54 D/B | 53 L | 52 AVL | 51..48 limit 19:16 | 47 P | 46..45 DPL | 44 S | 43..40 type
 *   39..16 base 23:0  | 15..0 limit 15:0
 */
static uint64_t state_descriptor(const struct kvm_segment *segment)
{
    uint64_t limit = segment->g != 0 ? segment->limit >> 12 : segment->limit;
    return (limit & 0xffff) | (segment->base & 0xffffff) << 16 | (uint64_t)segment->type << 40 | (uint64_t)segment->s << 44 |
           (uint64_t)segment->dpl << 45 | (uint64_t)segment->present << 47 | (limit >> 16 & 0xf) << 48 | (uint64_t)segment->l << 53 |
           (uint64_t)segment->db << 54 | (uint64_t)segment->g << 55 | (segment->base >> 24 & 0xff) << 56;
}

void vcpu_gdt(uint64_t gdt[VCPU_GDT_ENTRIES], enum vcpu_mode mode, uint64_t tss_gpa)
{
    struct kvm_segment code = state_code(mode);
    struct kvm_segment data = state_data();
    struct kvm_segment tss = state_tss(tss_gpa);
    memset(gdt, 0, VCPU_GDT_ENTRIES * sizeof(gdt[0]));
    gdt[VCPU_CS_SELECTOR / 8] = state_descriptor(&code);
    gdt[VCPU_DS_SELECTOR / 8] = state_descriptor(&data);
    gdt[VCPU_TR_SELECTOR / 8] = state_descriptor(&tss);
    gdt[VCPU_TR_SELECTOR / 8 + 1] = tss_gpa >> 32;
}

static bool has_la57(const struct kvm_backend *backend, int vcpu_fd)
{
    union cpuid_table table;
    memset(&table, 0, sizeof(table));
    table.head.nent = CPUID_ENTRIES_MAX;
    const struct kvm_cpuid_entry2 *e = backend->ioctl(vcpu_fd, KVM_GET_CPUID2, &table) == 0 ? cpuid_find(&table, 7, 0) : NULL;
    return e != NULL && (e->ecx >> 16 & 1) != 0;
}

static void state_fill_sregs(struct kvm_sregs *sregs, const struct vcpu_start *start, bool la57)
{
    bool is_long = start->mode == VCPU_MODE_LONG;
    struct kvm_segment data = state_data();
    sregs->cs = state_code(start->mode);
    sregs->ds = sregs->es = sregs->fs = sregs->gs = sregs->ss = data;
    sregs->tr = state_tss(start->tss_gpa);
    sregs->ldt = (struct kvm_segment){.type = 2, .unusable = 1};
    sregs->gdt = (struct kvm_dtable){.base = start->gdt_gpa, .limit = VCPU_GDT_ENTRIES * 8 - 1};
    sregs->idt = (struct kvm_dtable){0};
    sregs->cr0 = CR0_PE | CR0_ET | CR0_NE | (is_long ? CR0_PG : 0);
    sregs->cr3 = !is_long ? 0 : la57 ? start->cr3_la57 : start->cr3;
    sregs->cr4 = !is_long ? 0 : CR4_PAE | (la57 ? CR4_LA57 : 0);
    sregs->efer = is_long ? EFER_LME | EFER_LMA : 0;
}

static int state_set_msrs(const struct kvm_backend *backend, int vcpu_fd)
{
    static const struct kvm_msr_entry wanted[] = {
        {.index = MSR_IA32_SYSENTER_CS, .data = 0},
        {.index = MSR_IA32_SYSENTER_ESP, .data = 0},
        {.index = MSR_IA32_SYSENTER_EIP, .data = 0},
        {.index = MSR_IA32_TSC, .data = 0},
        {.index = MSR_IA32_MISC_ENABLE, .data = MISC_ENABLE_FAST_STRING},
        {.index = MSR_IA32_CR_PAT, .data = PAT_RESET},
        {.index = MSR_IA32_MTRR_DEF_TYPE, .data = MTRR_DEF_TYPE_ENABLED_WB},
    };
    union {
        struct kvm_msrs head;
        uint8_t room[sizeof(struct kvm_msrs) + sizeof(wanted)]; /* kvm_msrs ends in its entries */
    } msrs = {.head.nmsrs = sizeof(wanted) / sizeof(wanted[0])};
    memcpy(msrs.head.entries, wanted, sizeof(wanted));
    /* Returns how many it has set: it stops at one that this processor does not have. */
    int done = backend->ioctl(vcpu_fd, KVM_SET_MSRS, &msrs);
    if (done < 0) {
        return -errno;
    }
    return done == (int)msrs.head.nmsrs ? 0 : -EINVAL;
}

static void state_write_lapic(struct kvm_lapic_state *lapic, unsigned reg, uint32_t value)
{
    memcpy(lapic->regs + reg, &value, sizeof(value));
}

int vcpu_set_start(const struct kvm_backend *backend, int vcpu_fd, const struct vcpu_start *start, struct error *error)
{
    struct kvm_sregs sregs;
    struct kvm_lapic_state lapic;
    struct kvm_regs regs = {.rip = start->rip, .rsp = start->rsp, .rax = start->rax, .rbx = start->rbx, .rsi = start->rsi, .rflags = 2};
    struct kvm_fpu fpu = {.fcw = 0x37f, .mxcsr = 0x1f80};

    if (backend->ioctl(vcpu_fd, KVM_GET_SREGS, &sregs) != 0) {
        return error_set(error, "-accel %s: KVM_GET_SREGS: %s", backend->name, strerror(errno));
    }
    state_fill_sregs(&sregs, start, start->cr3_la57 != 0 && has_la57(backend, vcpu_fd));
    if (backend->ioctl(vcpu_fd, KVM_SET_SREGS, &sregs) != 0) {
        return error_set(error, "-accel %s: KVM_SET_SREGS: %s", backend->name, strerror(errno));
    }
    if (backend->ioctl(vcpu_fd, KVM_SET_REGS, &regs) != 0) {
        return error_set(error, "-accel %s: KVM_SET_REGS: %s", backend->name, strerror(errno));
    }
    if (backend->ioctl(vcpu_fd, KVM_SET_FPU, &fpu) != 0) {
        return error_set(error, "-accel %s: KVM_SET_FPU: %s", backend->name, strerror(errno));
    }
    int result = state_set_msrs(backend, vcpu_fd);
    if (result != 0) {
        return error_set(error, "-accel %s: KVM_SET_MSRS: %s", backend->name, strerror(-result));
    }
    if (backend->ioctl(vcpu_fd, KVM_GET_LAPIC, &lapic) != 0) {
        return error_set(error, "-accel %s: KVM_GET_LAPIC: %s", backend->name, strerror(errno));
    }
    state_write_lapic(&lapic, APIC_LVT0, APIC_LVT_EXTINT);
    state_write_lapic(&lapic, APIC_LVT1, APIC_LVT_NMI);
    if (backend->ioctl(vcpu_fd, KVM_SET_LAPIC, &lapic) != 0) {
        return error_set(error, "-accel %s: KVM_SET_LAPIC: %s", backend->name, strerror(errno));
    }
    return 0;
}
