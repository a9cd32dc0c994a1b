/* SPDX-License-Identifier: MIT */
/*
 * Exits that a guest has only without EPT: its loads and stores of control registers, INVLPG, INVPCID. Each does to what the guest sees all that
 * the instruction would, and has the shadow pages follow.
 */
#include <errno.h>

#include "kvm/shadow_mmu.h"
#include "kvm/vcpu.h"

static int raise_gp(struct kvm_vcpu *vcpu)
{
    kvm_event_queue_exception(vcpu, X86_EXC_GP, true, 0);
    return KVM_RUN_ENTER;
}

static int skip(struct kvm_vcpu *vcpu)
{
    kvm_vcpu_skip(vcpu);
    return KVM_RUN_ENTER;
}

static int load_cr3(struct kvm_vcpu *vcpu, uint64_t value)
{
    struct cpu *cpu = vcpu->cpu;
    bool noflush = (cpu_guest_cr4(cpu) & X86_CR4_PCIDE) && (value & X86_CR3_NOFLUSH);

    if (!cpu_load_cr3(cpu, noflush ? value & ~X86_CR3_NOFLUSH : value))
        return raise_gp(vcpu);
    int err = kvm_shadow_switch_cr3(vcpu, noflush);
    return err ? err : skip(vcpu);
}

/* SDM 3C table 28-3. */
enum { CR_MOV_TO, CR_MOV_FROM, CR_CLTS, CR_LMSW };

static uint64_t cr0_after(const struct cpu *cpu, unsigned type, uint64_t mov)
{
    const uint64_t msw = X86_CR0_PE | X86_CR0_MP | X86_CR0_EM | X86_CR0_TS;
    uint64_t cr0 = cpu_guest_cr0(cpu), source = cpu->vmcs.exit_qualification >> 16 & 0xffff;

    if (type == CR_CLTS)
        return cr0 & ~X86_CR0_TS;
    return type == CR_LMSW ? (cr0 & ~(msw & ~X86_CR0_PE)) | (source & msw) : mov;
}

int kvm_shadow_cr_access(struct kvm_vcpu *vcpu)
{
    struct cpu *cpu = vcpu->cpu;
    uint64_t qualification = cpu->vmcs.exit_qualification, *gpr = kvm_exit_gpr(vcpu, (qualification >> 8) & 0xf);
    unsigned cr = qualification & 0xf, type = (qualification >> 4) & 3;
    uint64_t mask = cpu_in_64bit_code(cpu) ? UINT64_MAX : UINT32_MAX, value = *gpr & mask;

    if (cr == 3 && type == CR_MOV_FROM) {
        *gpr = cpu_guest_cr3(cpu) & mask;
        return skip(vcpu);
    }
    if (cr == 3)
        return load_cr3(vcpu, value);
    bool done = cr == 0 ? cpu_load_cr0(cpu, cr0_after(cpu, type, value))
                        : !(value & kvm_limits_cr4_reserved(vcpu)) && cpu_load_cr4(cpu, value);
    if (!done)
        return raise_gp(vcpu);
    kvm_shadow_flush(vcpu);
    return skip(vcpu);
}

static void flush_page(struct kvm_vcpu *vcpu, gva_t va, unsigned pcid)
{
    kvm_shadow_lock(vcpu->vm);
    bool one = shadow_sync_page(vcpu->vm->shadow, &vcpu->shadow, va);
    kvm_shadow_unlock(vcpu->vm);
    if (one)
        mmu_flush_page_pcid(vcpu->cpu, va, pcid);
    else
        mmu_flush_all(vcpu->cpu);
}

static unsigned current_pcid(const struct cpu *cpu)
{
    return cpu_guest_cr4(cpu) & X86_CR4_PCIDE ? (unsigned)(cpu->guest_cr3 & X86_CR3_PCID_MASK) : 0;
}

int kvm_shadow_invlpg(struct kvm_vcpu *vcpu)
{
    gva_t va = vcpu->cpu->vmcs.exit_qualification;

    if (cpu_is_cpu_canonical(vcpu->cpu, va)) /* else nothing happens, not even #GP */
        flush_page(vcpu, va, current_pcid(vcpu->cpu));
    return skip(vcpu);
}

/* The operand, as the guest's instruction would have read it. KVM_RUN_USER: read; else what is to be returned. */
static bool read_descriptor(struct kvm_vcpu *vcpu, uint64_t descriptor[2], int *result)
{
    struct cpu *cpu = vcpu->cpu;
    gva_t va = cpu->vmcs.guest_linear_address;
    unsigned done = 0;

    while (done < 16) {
        struct walk w;
        unsigned room = (unsigned)(KAGE_PAGE_SIZE - ((va + done) & ~KAGE_PAGE_MASK)), n = room < 16 - done ? room : 16 - done;
        enum mmu_result r = mmu_read_virt(cpu, va + done, (uint8_t *)descriptor + done, n, cpu_mmu_idx(cpu), &w);
        if (r == MMU_OK) {
            done += n;
            continue;
        }
        *result = KVM_RUN_ENTER;
        if (r == MMU_FAULT)
            kvm_event_queue_page_fault(vcpu, va + done, w.error);
        else
            *result = r == MMU_MMIO ? kvm_exit_emulation_failure(vcpu) : kvm_dirty_ring_is_full(vcpu) ? KVM_RUN_ENTER : kvm_shadow_memory_gone(vcpu, va);
        return false;
    }
    return true;
}

int kvm_shadow_invpcid(struct kvm_vcpu *vcpu)
{
    struct cpu *cpu = vcpu->cpu;
    uint64_t type = *kvm_exit_gpr(vcpu, cpu->vmcs.exit_instruction_info >> 28) & (cpu_in_64bit_code(cpu) ? UINT64_MAX : UINT32_MAX);
    uint64_t descriptor[2];
    int result;

    if (!read_descriptor(vcpu, descriptor, &result))
        return result;
    bool pcide = (cpu_guest_cr4(cpu) & X86_CR4_PCIDE) != 0;
    if (type > 3 || descriptor[0] >> 12 || (type < 2 && !pcide && descriptor[0]) || (type == 0 && !cpu_is_cpu_canonical(cpu, descriptor[1])))
        return raise_gp(vcpu);
    unsigned pcid = (unsigned)descriptor[0];
    if (type == 0 && pcid == current_pcid(cpu)) {
        flush_page(vcpu, descriptor[1], pcid);
        return skip(vcpu);
    }
    kvm_shadow_lock(vcpu->vm);
    shadow_sync(vcpu->vm->shadow);
    kvm_shadow_unlock(vcpu->vm);
    if (type < 2)
        mmu_flush_pcid(cpu, pcid);
    else if (type == 2)
        mmu_flush_all(cpu);
    else
        mmu_flush_non_global(cpu);
    return skip(vcpu);
}
