/* SPDX-License-Identifier: MIT */
/*
 * The guest side: cases in a VM with one vCPU, through the KVM API and nothing else. The VM maps the
 * cases' address space as the host side does, with the same permissions in its page tables, and runs
 * guest_kernel.S, which enters a case with IRETQ and reports the exception that it ended in.
 */
#include "diff.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "kage.h"

#define GUEST_BYTES 0x100000ull
#define GUEST_VA 0xffffffffa0000000ull /* all of guest memory, supervisor only; no value that a case would try */
#define PML4_GPA 0x1000
#define LOW_PDPT_GPA 0x2000
#define LOW_PD_GPA 0x3000
#define LOW_PT_GPA 0x4000
#define HIGH_PDPT_GPA 0x5000
#define HIGH_PD_GPA 0x6000
#define HIGH_PT_GPA 0x7000
#define GDT_GPA 0x8000
#define IDT_GPA 0x9000
#define TSS_GPA 0xa000
#define GUEST_TEXT 0xb000
#define STACK_TOP_GPA 0xf000
#define MAILBOX_GPA 0x10000
#define DATA_GPA 0x20000
#define CODE_GPA 0x30000
#define GDT_ENTRIES 16
#define TSS_SELECTOR 0x40
#define TSS_BYTES 0x68
#define TSS_IST1 0x24
#define REPORT_PORT 0x10
#define XSAVE_BYTES 4096

#define PTE_P 1ull
#define PTE_W 2ull
#define PTE_U 4ull
#define PTE_NX (1ull << 63)

#define CR0_BITS 0x80050033ull /* PG AM WP NE ET MP PE */
#define CR4_BITS 0x506a0ull    /* OSXSAVE FSGSBASE OSXMMEXCPT OSFXSR PGE PAE */
#define EFER_BITS 0xd01ull     /* NXE LMA LME SCE */

struct guest_mailbox {
    uint64_t gpr[16];
    uint64_t rip, cs, rflags, rsp, ss;
    uint64_t vector, error, cr2, fs_base, gs_base, seg[4];
    uint8_t pad[0x800 - 0xf0];
    uint8_t window[DIFF_WINDOW_BYTES];
};
_Static_assert(offsetof(struct guest_mailbox, rip) == 0x80 && offsetof(struct guest_mailbox, vector) == 0xa8, "guest_kernel.S");
_Static_assert(offsetof(struct guest_mailbox, seg) == 0xd0 && offsetof(struct guest_mailbox, window) == 0x800, "guest_kernel.S");

extern const uint8_t guest_kernel[], guest_kernel_resume[], guest_kernel_end[];

struct guest {
    const struct kvm_backend *kvm;
    const struct diff_mode *mode;
    int sys, vm, vcpu;
    uint8_t *ram;
    struct kvm_run *run;
    struct guest_mailbox *mailbox;
    struct kvm_xsave xsave;
};

static void put64(struct guest *g, uint64_t gpa, uint64_t value)
{
    memcpy(g->ram + gpa, &value, 8);
}

static void build_page_tables(struct guest *g)
{
    const uint64_t user = PTE_P | PTE_W | PTE_U;

    put64(g, PML4_GPA, LOW_PDPT_GPA | user);
    put64(g, LOW_PDPT_GPA, LOW_PD_GPA | user);
    put64(g, LOW_PD_GPA + 8 * (DIFF_CODE >> 21), LOW_PT_GPA | user);
    for (uint64_t i = 0; i < DIFF_CODE_BYTES >> 12; i++)
        put64(g, LOW_PT_GPA + 8 * i, (CODE_GPA + (i << 12)) | user);
    for (uint64_t i = 0; i < DIFF_DATA_BYTES >> 12; i++) {
        uint64_t write = i < DIFF_DATA_RW_BYTES >> 12 ? PTE_W : 0;
        put64(g, LOW_PT_GPA + 8 * (((DIFF_DATA - DIFF_CODE) >> 12) + i), (DATA_GPA + (i << 12)) | PTE_P | PTE_U | write | PTE_NX);
    }
    put64(g, PML4_GPA + 8 * 511, HIGH_PDPT_GPA | PTE_P | PTE_W);
    put64(g, HIGH_PDPT_GPA + 8 * 510, HIGH_PD_GPA | PTE_P | PTE_W);
    put64(g, HIGH_PD_GPA + 8 * 0x100, HIGH_PT_GPA | PTE_P | PTE_W);
    for (uint64_t i = 0; i < GUEST_BYTES >> 12; i++)
        put64(g, HIGH_PT_GPA + 8 * i, i << 12 | PTE_P | PTE_W);
}

static void build_descriptors(struct guest *g)
{
    /* the layout of Linux, so that selectors mean the same on both sides */
    static const uint64_t gdt[GDT_ENTRIES] = {
        [1] = 0x00cf9b000000ffff, [2] = 0x00af9b000000ffff, [3] = 0x00cf93000000ffff,
        [4] = 0x00cffb000000ffff, [5] = 0x00cff3000000ffff, [6] = 0x00affb000000ffff,
        [15] = 0x0040f50000000000,
    };
    uint64_t tss = GUEST_VA + TSS_GPA;

    memcpy(g->ram + GDT_GPA, gdt, sizeof(gdt));
    put64(g, GDT_GPA + TSS_SELECTOR, (TSS_BYTES - 1) | (tss & 0xffffff) << 16 | 0x8bull << 40 | ((tss >> 24) & 0xff) << 56);
    put64(g, GDT_GPA + TSS_SELECTOR + 8, tss >> 32);
    put64(g, TSS_GPA + TSS_IST1, GUEST_VA + STACK_TOP_GPA);
    g->ram[TSS_GPA + 0x66] = TSS_BYTES; /* no I/O permission bitmap */
    for (unsigned v = 0; v < 256; v++) {
        uint64_t at = GUEST_VA + GUEST_TEXT + 16 * v;
        uint64_t dpl = v == 3 || v == 4 || v == 0x80 ? 3 : 0; /* as Linux has it */
        put64(g, IDT_GPA + 16 * v,
              (at & 0xffff) | (uint64_t)DIFF_SEL_KERNEL_CS << 16 | 1ull << 32 | (0x8eull | dpl << 5) << 40 | ((at >> 16) & 0xffff) << 48);
        put64(g, IDT_GPA + 16 * v + 8, at >> 32);
    }
    memcpy(g->ram + GUEST_TEXT, guest_kernel, (size_t)(guest_kernel_end - guest_kernel));
    memset(g->ram + CODE_GPA, 0xcc, DIFF_CODE_BYTES);
    memcpy(g->ram + DATA_GPA, diff_templates[0], DIFF_DATA_BYTES);
}

static int set_cpuid(struct guest *g)
{
    const unsigned room = 256;
    struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + room * sizeof(cpuid->entries[0]));
    int err;

    if (!cpuid)
        return -1;
    cpuid->nent = room;
    err = g->kvm->ioctl(g->sys, KVM_GET_SUPPORTED_CPUID, cpuid) || g->kvm->ioctl(g->vcpu, KVM_SET_CPUID2, cpuid);
    free(cpuid);
    return err ? -1 : 0;
}

static int set_registers(struct guest *g)
{
    struct kvm_sregs sregs;
    struct kvm_regs regs = {.rflags = 2, .rsp = GUEST_VA + STACK_TOP_GPA};
    struct kvm_xcrs xcrs = {.nr_xcrs = 1, .xcrs = {{.xcr = 0, .value = diff_host_xcr0() & 0xe7}}};
    struct kvm_segment data = {.selector = DIFF_SEL_KERNEL_DS, .limit = 0xffffffff, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1};
    struct kvm_segment none = {.unusable = 1};

    if (g->kvm->ioctl(g->vcpu, KVM_GET_SREGS, &sregs))
        return -1;
    sregs.cr0 = CR0_BITS;
    sregs.cr3 = PML4_GPA;
    sregs.cr4 = CR4_BITS;
    sregs.efer = EFER_BITS;
    sregs.gdt = (struct kvm_dtable){.base = GUEST_VA + GDT_GPA, .limit = 8 * GDT_ENTRIES - 1};
    sregs.idt = (struct kvm_dtable){.base = GUEST_VA + IDT_GPA, .limit = 0xfff};
    sregs.cs = (struct kvm_segment){.selector = DIFF_SEL_KERNEL_CS, .limit = 0xffffffff, .type = 11, .present = 1, .l = 1, .s = 1, .g = 1};
    sregs.ss = data;
    sregs.ds = sregs.es = sregs.fs = sregs.gs = data;
    sregs.tr = (struct kvm_segment){.base = GUEST_VA + TSS_GPA, .selector = TSS_SELECTOR, .limit = TSS_BYTES - 1, .type = 11, .present = 1};
    sregs.ldt = none;
    regs.rip = GUEST_VA + GUEST_TEXT + (uint64_t)(guest_kernel_resume - guest_kernel);
    return g->kvm->ioctl(g->vcpu, KVM_SET_SREGS, &sregs) || g->kvm->ioctl(g->vcpu, KVM_SET_XCRS, &xcrs) ||
                   g->kvm->ioctl(g->vcpu, KVM_SET_REGS, &regs) || g->kvm->ioctl(g->vcpu, KVM_GET_XSAVE, &g->xsave)
               ? -1
               : 0;
}

int diff_mmu;

/* Returns NULL, or what failed. */
static const char *guest_init(struct guest *g)
{
    struct kvm_userspace_memory_region slot = {.memory_size = GUEST_BYTES};

    g->kvm = g->mode->kernel ? &kage_backend_kernel : &kage_backend_soft;
    g->sys = g->kvm->open();
    if (g->sys < 0)
        return "open";
    g->vm = g->kvm->ioctl(g->sys, KVM_CREATE_VM, NULL);
    if (g->vm < 0)
        return "KVM_CREATE_VM";
    if (diff_mmu && !g->mode->kernel && kage_vm_set_mmu(g->kvm, g->vm, diff_mmu))
        return "KVM_CAP_KAGE_MMU";
    if (g->mode->kernel) /* Intel's processors of the first years need it; others may refuse it */
        (void)g->kvm->ioctl(g->vm, KVM_SET_TSS_ADDR, (void *)0xfffbd000);
    if (g->mode->flags && g->kvm->ioctl(g->vm, KVM_KAGE_SET_TEST_FLAGS, (void *)(uintptr_t)g->mode->flags))
        return "KVM_KAGE_SET_TEST_FLAGS";
    g->ram = mmap(NULL, GUEST_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (g->ram == MAP_FAILED)
        return "mmap of guest memory";
    g->mailbox = (struct guest_mailbox *)(g->ram + MAILBOX_GPA);
    build_page_tables(g);
    build_descriptors(g);
    slot.userspace_addr = (uintptr_t)g->ram;
    if (g->kvm->ioctl(g->vm, KVM_SET_USER_MEMORY_REGION, &slot))
        return "KVM_SET_USER_MEMORY_REGION";
    g->vcpu = g->kvm->ioctl(g->vm, KVM_CREATE_VCPU, NULL);
    if (g->vcpu < 0)
        return "KVM_CREATE_VCPU";
    int run_bytes = g->kvm->ioctl(g->sys, KVM_GET_VCPU_MMAP_SIZE, NULL);
    if (run_bytes <= 0)
        return "KVM_GET_VCPU_MMAP_SIZE";
    g->run = g->kvm->mmap(NULL, (size_t)run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, g->vcpu, 0);
    if (g->run == MAP_FAILED)
        return "mmap of kvm_run";
    if (set_cpuid(g))
        return "KVM_SET_CPUID2";
    if (set_registers(g))
        return "setting registers";
    return NULL;
}

static int case_load(struct guest *g, const struct diff_case *c)
{
    struct guest_mailbox *m = g->mailbox;

    diff_case_memory(c, g->ram + DATA_GPA);
    diff_case_window(c, m->window);
    memcpy(m->gpr, c->in.gpr, sizeof(m->gpr));
    m->rip = c->in.rip;
    m->rsp = c->in.gpr[4];
    m->rflags = c->in.rflags;
    m->cs = g->mode->cpl0 ? DIFF_SEL_KERNEL_CS : DIFF_SEL_USER_CS;
    m->ss = g->mode->cpl0 ? DIFF_SEL_KERNEL_DS : DIFF_SEL_USER_DS;
    m->fs_base = c->in.fs_base;
    m->gs_base = c->in.gs_base;
    diff_vector_to_xsave(&c->vec, (uint8_t *)g->xsave.region);
    return g->kvm->ioctl(g->vcpu, KVM_SET_XSAVE, &g->xsave);
}

static int outcome_take(struct guest *g, struct diff_outcome *o)
{
    const struct guest_mailbox *m = g->mailbox;

    if (g->kvm->ioctl(g->vcpu, KVM_GET_XSAVE, &g->xsave))
        return -1;
    memcpy(o->out.gpr, m->gpr, sizeof(m->gpr));
    o->out.gpr[4] = m->rsp;
    o->out.rip = m->rip;
    o->out.rflags = m->rflags;
    o->out.fs_base = m->fs_base;
    o->out.gs_base = m->gs_base;
    o->out.seg = m->seg[0] | m->seg[1] << 16 | m->seg[2] << 32 | m->seg[3] << 48;
    o->vector = (uint32_t)m->vector;
    o->error = (uint32_t)m->error;
    o->cr2 = m->cr2;
    diff_vector_from_xsave(&o->vec, (const uint8_t *)g->xsave.region);
    memcpy(o->mem, g->ram + DATA_GPA, DIFF_DATA_BYTES);
    o->status = DIFF_DONE;
    return 0;
}

/* What the engine says about its failure. */
static void explain(struct guest *g, struct diff_outcome *o)
{
    _Alignas(struct kage_text) uint8_t buffer[sizeof(struct kage_text) + sizeof(o->text)] = {0};
    struct kage_text *message = (struct kage_text *)buffer;

    message->bytes = sizeof(o->text);
    if (!g->mode->kernel && g->kvm->ioctl(g->vcpu, KAGE_GET_ERROR, message) >= 0)
        memcpy(o->text, message->text, sizeof(o->text) - 1);
}

_Noreturn void diff_guest_run(struct diff_batch *batch, uint32_t first, const struct diff_mode *mode)
{
    static struct guest guest;
    struct guest *g = &guest;
    struct rlimit no_core = {0, 0};

    setrlimit(RLIMIT_CORE, &no_core);
    g->mode = mode;
    const char *failed = guest_init(g);
    if (failed) {
        fprintf(stderr, "difftest: %s: %s: %s\n", mode->name, failed, strerror(errno));
        _exit(3);
    }
    for (uint32_t i = first; i < batch->count; i++) {
        struct diff_outcome *o = &batch->outcomes[i];
        atomic_store(&batch->current, i);
        if (case_load(g, &batch->cases[i]))
            _exit(5);
        int err;
        do
            err = g->kvm->ioctl(g->vcpu, KVM_RUN, NULL);
        while (err && (errno == EINTR || errno == EAGAIN));
        if (err || g->run->exit_reason != KVM_EXIT_IO || g->run->io.port != REPORT_PORT) {
            o->note = err ? (uint32_t)errno : g->run->exit_reason;
            o->status = !err && mode->kernel && g->run->exit_reason == KVM_EXIT_INTERNAL_ERROR ? DIFF_REFUSED : DIFF_CRASH;
            explain(g, o);
            _exit(5);
        }
        if (outcome_take(g, o))
            _exit(5);
    }
    atomic_store(&batch->current, batch->count);
    _exit(0);
}
