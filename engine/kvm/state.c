/* SPDX-License-Identifier: MIT */
/*
 * General, segment, control and debug registers: KVM_GET/SET_REGS, SREGS, SREGS2, DEBUGREGS,
 * KVM_TRANSLATE. Outside of VM entry RIP, RSP and RFLAGS are the VMCS' (SDM 3C 25.4.1).
 */
#include <errno.h>
#include <string.h>

#include "kvm/vcpu.h"
#include "mmu/mmu.h"

#define CR4_SUPPORTED                                                                                                  \
    (X86_CR4_VME | X86_CR4_PVI | X86_CR4_TSD | X86_CR4_DE | X86_CR4_PSE | X86_CR4_PAE | X86_CR4_MCE | X86_CR4_PGE |    \
     X86_CR4_PCE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_UMIP | X86_CR4_FSGSBASE | X86_CR4_PCIDE |            \
     X86_CR4_OSXSAVE | X86_CR4_SMEP | X86_CR4_SMAP | X86_CR4_LA57)
#define DR6_FIXED 0xffff0ff0ull
#define DR7_FIXED 0x400ull

void kvm_regs_get(struct kvm_vcpu *vcpu, struct kvm_regs *regs)
{
    const uint64_t *gpr = vcpu->cpu->gpr;
    const struct vmcs *vmcs = &vcpu->cpu->vmcs;

    *regs = (struct kvm_regs){ .rax = gpr[X86_RAX], .rbx = gpr[X86_RBX], .rcx = gpr[X86_RCX], .rdx = gpr[X86_RDX],
                               .rsi = gpr[X86_RSI], .rdi = gpr[X86_RDI], .rsp = vmcs->guest_rsp, .rbp = gpr[X86_RBP],
                               .r8 = gpr[X86_R8], .r9 = gpr[X86_R9], .r10 = gpr[X86_R10], .r11 = gpr[X86_R11],
                               .r12 = gpr[X86_R12], .r13 = gpr[X86_R13], .r14 = gpr[X86_R14], .r15 = gpr[X86_R15],
                               .rip = vmcs->guest_rip, .rflags = vmcs->guest_rflags };
}

int kvm_regs_set(struct kvm_vcpu *vcpu, const struct kvm_regs *regs)
{
    struct vmcs *vmcs = &vcpu->cpu->vmcs;
    const uint64_t gpr[16] = { [X86_RAX] = regs->rax, [X86_RCX] = regs->rcx, [X86_RDX] = regs->rdx,
                               [X86_RBX] = regs->rbx, [X86_RSP] = regs->rsp, [X86_RBP] = regs->rbp,
                               [X86_RSI] = regs->rsi, [X86_RDI] = regs->rdi, [X86_R8] = regs->r8,
                               [X86_R9] = regs->r9, [X86_R10] = regs->r10, [X86_R11] = regs->r11,
                               [X86_R12] = regs->r12, [X86_R13] = regs->r13, [X86_R14] = regs->r14,
                               [X86_R15] = regs->r15 };

    /* Bytes that the client supplied for a read belong to the instruction that was there. */
    if (regs->rip != vmcs->guest_rip)
        for (size_t i = 0; i < KAGE_ARRAY_SIZE(vcpu->cpu->mmio); i++)
            vcpu->cpu->mmio[i].state = CPU_MMIO_NONE;
    memcpy(vcpu->cpu->gpr, gpr, sizeof(gpr));
    vmcs->guest_rsp = regs->rsp;
    vmcs->guest_rip = vcpu->cpu->rip = regs->rip;
    vmcs->guest_rflags = (regs->rflags & X86_FLAGS_VALID) | X86_FLAGS_FIXED;
    cpu_set_rflags(vcpu->cpu, vmcs->guest_rflags);
    cpu_update_mode(vcpu->cpu);
    vcpu->exception.pending = false;
    return 0;
}

int kvm_vcpu_get_regs(struct kvm_object *object, void *arg)
{
    kvm_regs_get(kvm_vcpu_of(object), arg);
    return 0;
}

int kvm_vcpu_set_regs(struct kvm_object *object, void *arg)
{
    return kvm_regs_set(kvm_vcpu_of(object), arg);
}

static void segment_get(const struct vmcs_segment *from, struct kvm_segment *to)
{
    uint32_t ar = from->access_rights;

    *to = (struct kvm_segment){ .base = from->base, .limit = from->limit, .selector = from->selector,
                                .type = ar & X86_AR_TYPE, .s = (ar & X86_AR_S) != 0,
                                .dpl = (ar & X86_AR_DPL) >> X86_AR_DPL_SHIFT, .avl = (ar & X86_AR_AVL) != 0,
                                .l = (ar & X86_AR_L) != 0, .db = (ar & X86_AR_DB) != 0, .g = (ar & X86_AR_G) != 0,
                                .unusable = (ar & X86_AR_UNUSABLE) != 0 };
    to->present = !to->unusable && (ar & X86_AR_P); /* as the kernel: unusable reads as not present */
}

static void segment_set(struct vmcs_segment *to, const struct kvm_segment *from, bool ldtr)
{
    uint32_t ar = (from->type & X86_AR_TYPE) | (from->s & 1u ? X86_AR_S : 0) |
                  (uint32_t)(from->dpl & 3u) << X86_AR_DPL_SHIFT | (from->present & 1u ? X86_AR_P : 0) |
                  (from->avl & 1u ? X86_AR_AVL : 0) | (from->l & 1u ? X86_AR_L : 0) |
                  (from->db & 1u ? X86_AR_DB : 0) | (from->g & 1u ? X86_AR_G : 0);

    if (from->unusable || !from->present)
        ar |= X86_AR_UNUSABLE;
    /* As the kernel with unrestricted guest: at power-up "accessed" is clear, which VM entry does not take. */
    if (!ldtr)
        ar |= 1;
    *to = (struct vmcs_segment){ .base = from->base, .limit = from->limit, .access_rights = ar,
                                 .selector = from->selector };
}

/* The part that kvm_sregs and kvm_sregs2 begin with, up to apic_base. */
static void sregs_get(struct kvm_vcpu *vcpu, struct kvm_sregs2 *sregs)
{
    const struct vmcs *vmcs = &vcpu->cpu->vmcs;
    const struct vmcs_segment *seg = vmcs->guest_seg;

    memset(sregs, 0, sizeof(*sregs));
    segment_get(&seg[X86_CS], &sregs->cs);
    segment_get(&seg[X86_DS], &sregs->ds);
    segment_get(&seg[X86_ES], &sregs->es);
    segment_get(&seg[X86_FS], &sregs->fs);
    segment_get(&seg[X86_GS], &sregs->gs);
    segment_get(&seg[X86_SS], &sregs->ss);
    segment_get(&seg[X86_TR], &sregs->tr);
    segment_get(&seg[X86_LDTR], &sregs->ldt);
    sregs->gdt.base = vmcs->guest_gdtr_base;
    sregs->gdt.limit = (uint16_t)vmcs->guest_gdtr_limit;
    sregs->idt.base = vmcs->guest_idtr_base;
    sregs->idt.limit = (uint16_t)vmcs->guest_idtr_limit;
    sregs->cr0 = cpu_guest_cr0(vcpu->cpu);
    sregs->cr2 = vcpu->cpu->cr2;
    sregs->cr3 = cpu_guest_cr3(vcpu->cpu);
    sregs->cr4 = cpu_guest_cr4(vcpu->cpu);
    sregs->cr8 = kvm_vcpu_cr8(vcpu);
    sregs->efer = cpu_guest_efer(vcpu->cpu);
    sregs->apic_base = kvm_vcpu_apic_base(vcpu);
}

/* A state that no guest could be in (as the kernel's kvm_is_valid_sregs). */
static bool sregs_valid(const struct kvm_vcpu *vcpu, const struct kvm_sregs2 *sregs)
{
    uint64_t cr0 = sregs->cr0;

    if ((cr0 >> 32) || ((cr0 & X86_CR0_NW) && !(cr0 & X86_CR0_CD)) || ((cr0 & X86_CR0_PG) && !(cr0 & X86_CR0_PE)) ||
        (sregs->cr4 & (~CR4_SUPPORTED | kvm_limits_cr4_reserved(vcpu))) || (sregs->efer & ~kvm_limits_efer_valid(vcpu, true)))
        return false;
    if ((sregs->efer & X86_EFER_LME) && (cr0 & X86_CR0_PG))
        return (sregs->cr4 & X86_CR4_PAE) && (sregs->efer & X86_EFER_LMA) &&
               !(sregs->cr3 & vcpu->cpu->maxphyaddr_mask);
    return !(sregs->efer & X86_EFER_LMA) && !sregs->cs.l;
}

static bool has_pdptrs(const struct cpu *cpu)
{
    return mmu_uses_pdptes(cpu_guest_cr0(cpu), cpu_guest_cr4(cpu), cpu_guest_efer(cpu));
}

/* pdptrs_given: sregs->pdptrs are what PAE paging starts at, else they are loaded from memory, as by MOV to CR3. */
static int sregs_set(struct kvm_vcpu *vcpu, const struct kvm_sregs2 *sregs, bool pdptrs_given)
{
    struct vmcs *vmcs = &vcpu->cpu->vmcs;
    struct vmcs_segment *seg = vmcs->guest_seg;

    if (!sregs_valid(vcpu, sregs))
        return -EINVAL;
    if (vcpu->lapic && lapic_set_base(vcpu->lapic, sregs->apic_base, true))
        return -EINVAL;
    vcpu->user_apic_base = sregs->apic_base;

    segment_set(&seg[X86_CS], &sregs->cs, false);
    segment_set(&seg[X86_DS], &sregs->ds, false);
    segment_set(&seg[X86_ES], &sregs->es, false);
    segment_set(&seg[X86_FS], &sregs->fs, false);
    segment_set(&seg[X86_GS], &sregs->gs, false);
    segment_set(&seg[X86_SS], &sregs->ss, false);
    segment_set(&seg[X86_TR], &sregs->tr, false);
    segment_set(&seg[X86_LDTR], &sregs->ldt, true);
    vmcs->guest_gdtr_base = sregs->gdt.base;
    vmcs->guest_gdtr_limit = sregs->gdt.limit;
    vmcs->guest_idtr_base = sregs->idt.base;
    vmcs->guest_idtr_limit = sregs->idt.limit;
    vcpu->cpu->cr2 = sregs->cr2;
    cpu_set_paging(vcpu->cpu, sregs->cr0, sregs->cr3, sregs->cr4, sregs->efer);
    kvm_vcpu_set_cr8(vcpu, (uint8_t)(sregs->cr8 & 0xf));
    kvm_shadow_restored(vcpu);
    mmu_flush_all(vcpu->cpu);
    if (pdptrs_given)
        memcpy(vmcs->guest_pdpte, sregs->pdptrs, sizeof(sregs->pdptrs));
    else if (has_pdptrs(vcpu->cpu) && !mmu_load_pdptes(vcpu->cpu, sregs->cr3))
        memset(vmcs->guest_pdpte, 0, sizeof(vmcs->guest_pdpte)); /* bad, or the memory is not there yet: none are present */

    /* Old clients set a BSP's reset state without its MP state. */
    if (kvm_vcpu_is_bsp(vcpu) && vmcs->guest_rip == 0xfff0 && sregs->cs.selector == 0xf000 &&
        sregs->cs.base == 0xffff0000 && !(sregs->cr0 & X86_CR0_PE))
        vcpu->mp_state = KVM_MP_STATE_RUNNABLE;
    return 0;
}

#define SREGS_COMMON_BYTES offsetof(struct kvm_sregs2, flags)
_Static_assert(offsetof(struct kvm_sregs, interrupt_bitmap) == SREGS_COMMON_BYTES, "kvm_sregs2 begins as kvm_sregs");

int kvm_vcpu_get_sregs(struct kvm_object *object, void *arg)
{
    struct kvm_vcpu *vcpu = kvm_vcpu_of(object);
    struct kvm_sregs *out = arg;
    struct kvm_sregs2 sregs;

    sregs_get(vcpu, &sregs);
    memset(out, 0, sizeof(*out));
    memcpy(out, &sregs, SREGS_COMMON_BYTES);
    if (vcpu->interrupt.injected && !vcpu->interrupt.soft)
        out->interrupt_bitmap[vcpu->interrupt.nr / 64] |= 1ull << (vcpu->interrupt.nr % 64);
    return 0;
}

int kvm_vcpu_set_sregs(struct kvm_object *object, void *arg)
{
    struct kvm_vcpu *vcpu = kvm_vcpu_of(object);
    const struct kvm_sregs *in = arg;
    struct kvm_sregs2 sregs = { 0 };

    memcpy(&sregs, in, SREGS_COMMON_BYTES);
    int err = sregs_set(vcpu, &sregs, false);
    if (err)
        return err;
    for (unsigned vector = 0; vector < KVM_NR_INTERRUPTS; vector++) {
        if (!((in->interrupt_bitmap[vector / 64] >> (vector % 64)) & 1))
            continue;
        vcpu->interrupt.injected = true;
        vcpu->interrupt.soft = false;
        vcpu->interrupt.nr = (uint8_t)vector;
        break;
    }
    return 0;
}

int kvm_vcpu_get_sregs2(struct kvm_object *object, void *arg)
{
    struct kvm_vcpu *vcpu = kvm_vcpu_of(object);
    struct kvm_sregs2 *sregs = arg;

    sregs_get(vcpu, sregs);
    if (has_pdptrs(vcpu->cpu)) {
        memcpy(sregs->pdptrs, vcpu->cpu->vmcs.guest_pdpte, sizeof(sregs->pdptrs));
        sregs->flags |= KVM_SREGS2_FLAGS_PDPTRS_VALID;
    }
    return 0;
}

int kvm_vcpu_set_sregs2(struct kvm_object *object, void *arg)
{
    struct kvm_vcpu *vcpu = kvm_vcpu_of(object);
    const struct kvm_sregs2 *sregs = arg;
    bool given = sregs->flags & KVM_SREGS2_FLAGS_PDPTRS_VALID;

    if (sregs->flags & ~(uint64_t)KVM_SREGS2_FLAGS_PDPTRS_VALID)
        return -EINVAL;
    if (given && !mmu_uses_pdptes(sregs->cr0, sregs->cr4, sregs->efer))
        return -EINVAL;
    return sregs_set(vcpu, sregs, given);
}

int kvm_vcpu_get_debugregs(struct kvm_object *object, void *arg)
{
    struct kvm_vcpu *vcpu = kvm_vcpu_of(object);
    struct kvm_debugregs *regs = arg;

    memset(regs, 0, sizeof(*regs));
    memcpy(regs->db, vcpu->cpu->dr, sizeof(regs->db));
    regs->dr6 = vcpu->cpu->dr6;
    regs->dr7 = vcpu->cpu->vmcs.guest_dr7;
    return 0;
}

int kvm_vcpu_set_debugregs(struct kvm_object *object, void *arg)
{
    struct kvm_vcpu *vcpu = kvm_vcpu_of(object);
    const struct kvm_debugregs *regs = arg;

    if (regs->flags || (regs->dr6 >> 32) || (regs->dr7 >> 32))
        return -EINVAL;
    memcpy(vcpu->cpu->dr, regs->db, sizeof(regs->db));
    vcpu->cpu->dr6 = regs->dr6 | DR6_FIXED;
    vcpu->cpu->vmcs.guest_dr7 = regs->dr7 | DR7_FIXED;
    cpu_update_mode(vcpu->cpu);
    return 0;
}

int kvm_vcpu_translate(struct kvm_object *object, void *arg)
{
    struct kvm_vcpu *vcpu = kvm_vcpu_of(object);
    struct kvm_translation *translation = arg;
    bool writable = false, user = false;
    gpa_t gpa = UINT64_MAX;

    bool valid = mmu_probe(vcpu->cpu, translation->linear_address, &gpa, &writable, &user);
    translation->physical_address = valid ? gpa : UINT64_MAX;
    translation->valid = valid;
    translation->writeable = writable;
    translation->usermode = user;
    return 0;
}
