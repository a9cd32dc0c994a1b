/* SPDX-License-Identifier: MIT */
/*
 * VM exits: a row for each basic reason. A handler finishes the instruction in the engine and lets
 * the guest go on, or fills struct kvm_run for the client.
 */
#include <asm/kvm_para.h>
#include <errno.h>
#include <sched.h>
#include <string.h>

#include <linux/kvm_para.h>

#include "kvm/cpuid_features.h"
#include "kvm/vcpu.h"
#include "vmx/vmx.h"

typedef int kvm_exit_fn(struct kvm_vcpu *vcpu);

int kvm_exit_internal_error(struct kvm_vcpu *vcpu, uint32_t suberror)
{
    const struct vmcs *vmcs = &vcpu->cpu->vmcs;

    vcpu->run->exit_reason = KVM_EXIT_INTERNAL_ERROR;
    vcpu->run->internal.suberror = suberror;
    vcpu->run->internal.ndata = 3;
    vcpu->run->internal.data[0] = 0; /* emulation failures: no flags */
    vcpu->run->internal.data[1] = vmcs->exit_reason;
    vcpu->run->internal.data[2] = vmcs->exit_qualification;
    return KVM_RUN_USER;
}

static int exit_unexpected(struct kvm_vcpu *vcpu)
{
    uint32_t reason = vcpu->cpu->vmcs.exit_reason & 0xffff;

    kvm_error_set(&vcpu->error, "vCPU %u: unexpected VM exit %u (%s) at rip 0x%llx", vcpu->id, reason,
                  vmx_exit_reason_name(reason), (unsigned long long)vcpu->cpu->vmcs.guest_rip);
    return kvm_exit_internal_error(vcpu, KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON);
}

static int exit_enter(struct kvm_vcpu *vcpu)
{
    (void)vcpu;
    return KVM_RUN_ENTER;
}

static int exit_skip(struct kvm_vcpu *vcpu)
{
    kvm_vcpu_skip(vcpu);
    return KVM_RUN_ENTER;
}

static int exit_raise(struct kvm_vcpu *vcpu, unsigned vector)
{
    kvm_event_queue_exception(vcpu, vector, vector == X86_EXC_GP, 0);
    return KVM_RUN_ENTER;
}

static int exit_gp(struct kvm_vcpu *vcpu)
{
    return exit_raise(vcpu, X86_EXC_GP);
}

static int exit_ud(struct kvm_vcpu *vcpu)
{
    return exit_raise(vcpu, X86_EXC_UD);
}

static int exit_exception(struct kvm_vcpu *vcpu)
{
    uint32_t info = vcpu->cpu->vmcs.exit_intr_info;

    if ((info & VMX_INFO_TYPE) >> VMX_INFO_TYPE_SHIFT == VMX_EVENT_NMI)
        return KVM_RUN_ENTER; /* the host's, in VT-x terms: a kick */
    if (vcpu->vm->shadow && (info & VMX_INFO_VECTOR) == X86_EXC_PF)
        return kvm_shadow_page_fault(vcpu);
    return kvm_debug_exit(vcpu, info & VMX_INFO_VECTOR);
}

static int exit_triple_fault(struct kvm_vcpu *vcpu)
{
    kvm_log(KAGE_LOG_INFO, "vCPU %u: triple fault at rip 0x%llx", vcpu->id,
            (unsigned long long)vcpu->cpu->vmcs.guest_rip);
    vcpu->run->exit_reason = KVM_EXIT_SHUTDOWN;
    return KVM_RUN_USER;
}

static int exit_cpuid(struct kvm_vcpu *vcpu)
{
    uint64_t *gpr = vcpu->cpu->gpr;
    uint32_t out[4];

    kvm_cpuid_query(vcpu, (uint32_t)gpr[X86_RAX], (uint32_t)gpr[X86_RCX], out);
    gpr[X86_RAX] = out[CPUID_EAX];
    gpr[X86_RBX] = out[CPUID_EBX];
    gpr[X86_RCX] = out[CPUID_ECX];
    gpr[X86_RDX] = out[CPUID_EDX];
    return exit_skip(vcpu);
}

static int exit_hlt(struct kvm_vcpu *vcpu)
{
    kvm_vcpu_skip(vcpu);
    vcpu->cpu->vmcs.guest_activity_state = VMX_ACTIVITY_ACTIVE;
    if (vcpu->lapic || (vcpu->vm->disabled_exits & KVM_X86_DISABLE_EXITS_HLT)) {
        vcpu->mp_state = KVM_MP_STATE_HALTED;
        return KVM_RUN_ENTER;
    }
    vcpu->run->exit_reason = KVM_EXIT_HLT;
    return KVM_RUN_USER;
}

static int hypercall_done(struct kvm_vcpu *vcpu, uint64_t result)
{
    vcpu->cpu->gpr[X86_RAX] = cpu_in_64bit_code(vcpu->cpu) ? result : (uint32_t)result;
    return exit_skip(vcpu);
}

int kvm_exit_hypercall_complete(struct kvm_vcpu *vcpu)
{
    vcpu->hypercall_at_client = false;
    return hypercall_done(vcpu, vcpu->run->hypercall.ret);
}

/* Without its quirk only the host's own of VMCALL and VMMCALL is a hypercall. */
static bool hypercall_is_native(struct kvm_vcpu *vcpu)
{
    uint8_t bytes[3];

    return kvm_read_insn(vcpu, bytes, sizeof(bytes)) != sizeof(bytes) || bytes[2] == (kvm_cpuid_host_is_amd() ? 0xd9 : 0xc1);
}

static int exit_vmcall(struct kvm_vcpu *vcpu)
{
    if (!kvm_vm_has_quirk(vcpu->vm, KVM_X86_QUIRK_FIX_HYPERCALL_INSN) && !hypercall_is_native(vcpu))
        return exit_ud(vcpu);
    if (kvm_pv_hypercall_to_client(vcpu))
        return KVM_RUN_USER;
    return hypercall_done(vcpu, kvm_pv_hypercall(vcpu));
}

/* A PAUSE loop: whoever it waits for may need our host processor. */
static int exit_pause(struct kvm_vcpu *vcpu)
{
    sched_yield();
    return exit_skip(vcpu);
}

/* ---- control registers (SDM 3C table 28-3) ---- */

static int exit_cr_access(struct kvm_vcpu *vcpu)
{
    uint64_t qualification = vcpu->cpu->vmcs.exit_qualification;
    unsigned cr = qualification & 0xf, type = (qualification >> 4) & 3;
    uint64_t *gpr = kvm_exit_gpr(vcpu, (qualification >> 8) & 0xf);

    if (cr != 8 && vcpu->vm->shadow)
        return kvm_shadow_cr_access(vcpu);
    if (cr != 8)
        return exit_gp(vcpu); /* bits of CR4 that this processor does not have: see cr4_mask */
    if (type == 1) {
        *gpr = kvm_vcpu_cr8(vcpu);
        return exit_skip(vcpu);
    }
    if (*gpr & ~0xfull)
        return exit_gp(vcpu);
    uint8_t before = kvm_vcpu_cr8(vcpu);
    kvm_vcpu_set_cr8(vcpu, (uint8_t)*gpr);
    kvm_vcpu_skip(vcpu);
    if (vcpu->lapic || before <= *gpr)
        return KVM_RUN_ENTER;
    vcpu->run->exit_reason = KVM_EXIT_SET_TPR; /* the client's APIC may now have something */
    return KVM_RUN_USER;
}

static int exit_xsetbv(struct kvm_vcpu *vcpu)
{
    struct cpu *cpu = vcpu->cpu;
    uint64_t value = (uint32_t)cpu->gpr[X86_RAX] | cpu->gpr[X86_RDX] << 32;

    if ((uint32_t)cpu->gpr[X86_RCX] != 0 || cpu_cpl(cpu) || !kvm_xcr0_valid(vcpu, value))
        return exit_gp(vcpu);
    cpu->xcr0 = value;
    cpu_update_mode(cpu);
    return exit_skip(vcpu);
}

bool kvm_xcr0_valid(const struct kvm_vcpu *vcpu, uint64_t value)
{
    uint64_t zmm = value & X86_XCR0_AVX512;

    return (value & X86_XCR0_X87) && !(value & ~vcpu->guest_xcr0_supported) &&
           !((value & X86_XCR0_AVX) && !(value & X86_XCR0_SSE)) &&
           (!zmm || (zmm == X86_XCR0_AVX512 && (value & X86_XCR0_AVX)));
}

/* ---- MSRs ---- */

static int msr_to_client(struct kvm_vcpu *vcpu, bool write, uint32_t reason)
{
    struct cpu *cpu = vcpu->cpu;

    if (!(vcpu->vm->user_space_msr_mask & reason))
        return exit_gp(vcpu);
    vcpu->run->exit_reason = write ? KVM_EXIT_X86_WRMSR : KVM_EXIT_X86_RDMSR;
    memset(&vcpu->run->msr, 0, sizeof(vcpu->run->msr));
    vcpu->run->msr.reason = reason;
    vcpu->run->msr.index = (uint32_t)cpu->gpr[X86_RCX];
    if (write)
        vcpu->run->msr.data = (uint32_t)cpu->gpr[X86_RAX] | cpu->gpr[X86_RDX] << 32;
    vcpu->msr_at_client = true;
    vcpu->msr_is_write = write;
    return KVM_RUN_USER;
}

static int msr_done(struct kvm_vcpu *vcpu, bool write, uint64_t value)
{
    if (!write) {
        vcpu->cpu->gpr[X86_RAX] = (uint32_t)value;
        vcpu->cpu->gpr[X86_RDX] = value >> 32;
    }
    return exit_skip(vcpu);
}

int kvm_exit_msr_complete(struct kvm_vcpu *vcpu)
{
    vcpu->msr_at_client = false;
    if (vcpu->run->msr.error)
        return exit_gp(vcpu);
    return msr_done(vcpu, vcpu->msr_is_write, vcpu->run->msr.data);
}

static uint32_t msr_reason(int err)
{
    return err == KVM_MSR_UNKNOWN ? KVM_MSR_EXIT_REASON_UNKNOWN : KVM_MSR_EXIT_REASON_INVAL;
}

static int exit_rdmsr(struct kvm_vcpu *vcpu)
{
    uint32_t index = (uint32_t)vcpu->cpu->gpr[X86_RCX];
    uint64_t value = 0;

    if (!kvm_msr_filter_allows(vcpu->vm, index, KVM_MSR_FILTER_READ))
        return msr_to_client(vcpu, false, KVM_MSR_EXIT_REASON_FILTER);
    int err = kvm_msr_get(vcpu, index, &value, false);
    if (err) {
        kvm_log(KAGE_LOG_DEBUG, "vCPU %u: RDMSR 0x%x: #GP", vcpu->id, index);
        return msr_to_client(vcpu, false, msr_reason(err));
    }
    return msr_done(vcpu, false, value);
}

static int exit_wrmsr(struct kvm_vcpu *vcpu)
{
    uint32_t index = (uint32_t)vcpu->cpu->gpr[X86_RCX];
    uint64_t value = (uint32_t)vcpu->cpu->gpr[X86_RAX] | vcpu->cpu->gpr[X86_RDX] << 32;

    if (!kvm_msr_filter_allows(vcpu->vm, index, KVM_MSR_FILTER_WRITE))
        return msr_to_client(vcpu, true, KVM_MSR_EXIT_REASON_FILTER);
    int err = kvm_msr_set(vcpu, index, value, false);
    if (err) {
        kvm_log(KAGE_LOG_DEBUG, "vCPU %u: WRMSR 0x%x = 0x%llx: #GP", vcpu->id, index, (unsigned long long)value);
        return msr_to_client(vcpu, true, msr_reason(err));
    }
    return msr_done(vcpu, true, value);
}

/* ---- memory ---- */

/*
 * The dirty ring has no room for the page that the instruction writes: the loop finds it full. Or the client's memory
 * behind a slot is gone: KVM_RUN fails, as when the kernel cannot fault it in.
 */
static int exit_ept_violation(struct kvm_vcpu *vcpu)
{
    if (kvm_dirty_ring_is_full(vcpu))
        return KVM_RUN_ENTER;
    if (vcpu->cpu->gone)
        vcpu->cpu->vmcs.guest_physical_address = kvm_memslot_gpa(vcpu->vm, (hva_t)(uintptr_t)vcpu->cpu->gone);
    kvm_error_set(&vcpu->error, "vCPU %u: the memory behind guest address 0x%llx is gone (rip 0x%llx)", vcpu->id,
                  (unsigned long long)vcpu->cpu->vmcs.guest_physical_address,
                  (unsigned long long)vcpu->cpu->vmcs.guest_rip);
    return -EFAULT;
}

static int exit_entry_failure(struct kvm_vcpu *vcpu)
{
    const struct vmcs *vmcs = &vcpu->cpu->vmcs;

    kvm_error_set(&vcpu->error, "vCPU %u: VM entry failed, invalid guest state (rip 0x%llx, rflags 0x%llx, event 0x%x, interruptibility 0x%x)",
                  vcpu->id, (unsigned long long)vmcs->guest_rip, (unsigned long long)vmcs->guest_rflags, vmcs->entry_intr_info,
                  vmcs->guest_interruptibility);
    vcpu->run->exit_reason = KVM_EXIT_FAIL_ENTRY;
    vcpu->run->fail_entry.hardware_entry_failure_reason = vmcs->exit_reason;
    vcpu->run->fail_entry.cpu = vcpu->index;
    return KVM_RUN_USER;
}

static int exit_invalid_controls(struct kvm_vcpu *vcpu)
{
    kvm_error_set(&vcpu->error, "vCPU %u: VM entry failed, VM-instruction error %u", vcpu->id,
                  vcpu->cpu->vmcs.vm_instruction_error);
    vcpu->run->exit_reason = KVM_EXIT_FAIL_ENTRY;
    vcpu->run->fail_entry.hardware_entry_failure_reason = vcpu->cpu->vmcs.vm_instruction_error;
    vcpu->run->fail_entry.cpu = vcpu->index;
    return KVM_RUN_USER;
}

/* By basic reason; a reason without a row is one that no control asks for. */
static kvm_exit_fn *const exit_handlers[] = {
    [VMX_EXIT_EXCEPTION_NMI] = exit_exception,
    [VMX_EXIT_EXT_INTR] = exit_enter, /* a kick: the loop looks why */
    [VMX_EXIT_TRIPLE_FAULT] = exit_triple_fault,
    [VMX_EXIT_INTR_WINDOW] = exit_enter,
    [VMX_EXIT_NMI_WINDOW] = exit_enter,
    [VMX_EXIT_TASK_SWITCH] = kvm_exit_emulation_failure,
    [VMX_EXIT_CPUID] = exit_cpuid,
    [VMX_EXIT_HLT] = exit_hlt,
    [VMX_EXIT_INVD] = exit_skip, /* nothing is cached that is not in memory */
    [VMX_EXIT_INVLPG] = kvm_shadow_invlpg, /* this and INVPCID exit in shadow mode only */
    [VMX_EXIT_RDPMC] = exit_gp,  /* no performance counters */
    [VMX_EXIT_VMCALL] = exit_vmcall,
    [VMX_EXIT_VMXOFF] = exit_ud,
    [VMX_EXIT_VMXON] = exit_ud,
    [VMX_EXIT_CR_ACCESS] = exit_cr_access,
    [VMX_EXIT_IO] = kvm_pio_exit,
    [VMX_EXIT_RDMSR] = exit_rdmsr,
    [VMX_EXIT_WRMSR] = exit_wrmsr,
    [VMX_EXIT_ENTRY_GUEST_STATE] = exit_entry_failure,
    [VMX_EXIT_MWAIT] = exit_skip, /* MONITOR and MWAIT are NOPs, as in Linux' KVM without the feature */
    [VMX_EXIT_MONITOR] = exit_skip,
    [VMX_EXIT_PAUSE] = exit_pause,
    [VMX_EXIT_EPT_VIOLATION] = exit_ept_violation,
    [VMX_EXIT_EPT_MISCONFIG] = kvm_mmio_exit,
    [VMX_EXIT_WBINVD] = exit_skip,
    [VMX_EXIT_XSETBV] = exit_xsetbv,
    [VMX_EXIT_INVPCID] = kvm_shadow_invpcid,
    [VMX_EXIT_XSAVES] = exit_ud,
    [VMX_EXIT_XRSTORS] = exit_ud,
    [VMX_EXIT_KAGE_UNSUPPORTED] = kvm_exit_emulation_failure,
};
_Static_assert(KAGE_ARRAY_SIZE(exit_handlers) == VMX_EXIT_COUNT, "a row for every exit reason");

int kvm_exit_handle(struct kvm_vcpu *vcpu, uint32_t reason)
{
    uint32_t basic = reason & 0xffff;

    if (reason == VMX_INVALID_CONTROLS)
        return exit_invalid_controls(vcpu);
    if (basic >= VMX_EXIT_COUNT || !exit_handlers[basic])
        return exit_unexpected(vcpu);
    vcpu->counters->exit[basic]++;
    return exit_handlers[basic](vcpu);
}
