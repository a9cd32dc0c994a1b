/* SPDX-License-Identifier: MIT */
/*
 * KVM_SET_GUEST_DEBUG (api.rst 4.87): single step, software and hardware breakpoints of a debugger
 * outside the guest. While one is active, #DB and #BP exit to the client, which decides whose they are.
 */
#include <errno.h>
#include <string.h>

#include "kvm/vcpu.h"

#define DR6_FIXED 0xffff0ff0ull
#define DR6_BS (1ull << 14)

static bool debug_on(const struct kvm_vcpu *vcpu, uint32_t what)
{
    return (vcpu->guest_debug & KVM_GUESTDBG_ENABLE) && (vcpu->guest_debug & what);
}

void kvm_debug_update(struct kvm_vcpu *vcpu)
{
    struct cpu *cpu = vcpu->cpu;
    bool hardware = debug_on(vcpu, KVM_GUESTDBG_USE_HW_BP);
    uint32_t bitmap = 0;

    if (debug_on(vcpu, KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_USE_HW_BP))
        bitmap |= 1u << X86_EXC_DB;
    if (debug_on(vcpu, KVM_GUESTDBG_USE_SW_BP))
        bitmap |= 1u << X86_EXC_BP;
    if (!cpu_uses_ept(cpu))
        bitmap |= 1u << X86_EXC_PF; /* the shadow MMU's */
    cpu->vmcs.exception_bitmap = bitmap;
    cpu->guest_debug_step = debug_on(vcpu, KVM_GUESTDBG_SINGLESTEP);
    cpu->guest_debug_break = hardware && (vcpu->debug_dr[7] & 0xff) != 0;
    memcpy(cpu->guest_debug_dr, vcpu->debug_dr, sizeof(cpu->guest_debug_dr));
    cpu->guest_debug_dr7 = hardware ? vcpu->debug_dr[7] : 0;
    cpu_update_mode(cpu);
}

int kvm_vcpu_set_guest_debug(struct kvm_object *object, void *arg)
{
    struct kvm_vcpu *vcpu = kvm_vcpu_of(object);
    const struct kvm_guest_debug *debug = arg;

    if (debug->control & (KVM_GUESTDBG_INJECT_DB | KVM_GUESTDBG_INJECT_BP)) {
        if (vcpu->exception.pending || vcpu->exception.injected)
            return -EBUSY;
        kvm_event_queue_exception(vcpu, debug->control & KVM_GUESTDBG_INJECT_DB ? X86_EXC_DB : X86_EXC_BP, false, 0);
    }
    vcpu->guest_debug = debug->control & KVM_GUESTDBG_ENABLE ? debug->control : 0;
    memcpy(vcpu->debug_dr, debug->arch.debugreg, sizeof(vcpu->debug_dr));
    vcpu->stepped = false;
    kvm_debug_update(vcpu);
    return 0;
}

static int debug_to_client(struct kvm_vcpu *vcpu, unsigned vector, uint64_t dr6)
{
    const struct vmcs *vmcs = &vcpu->cpu->vmcs;

    vcpu->run->exit_reason = KVM_EXIT_DEBUG;
    vcpu->run->debug.arch.exception = vector;
    vcpu->run->debug.arch.pc = vmcs->guest_seg[X86_CS].base + vmcs->guest_rip;
    vcpu->run->debug.arch.dr6 = dr6;
    vcpu->run->debug.arch.dr7 = debug_on(vcpu, KVM_GUESTDBG_USE_HW_BP) ? vcpu->debug_dr[7] : vmcs->guest_dr7;
    return KVM_RUN_USER;
}

int kvm_debug_exit(struct kvm_vcpu *vcpu, unsigned vector)
{
    const struct vmcs *vmcs = &vcpu->cpu->vmcs;

    if (vector == X86_EXC_DB && debug_on(vcpu, KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_USE_HW_BP))
        return debug_to_client(vcpu, vector, vmcs->exit_qualification | DR6_FIXED);
    if (vector == X86_EXC_BP && debug_on(vcpu, KVM_GUESTDBG_USE_SW_BP))
        return debug_to_client(vcpu, vector, DR6_FIXED);
    /* Not the debugger's (any more): the guest gets it. */
    kvm_event_queue_exception(vcpu, vector, (vmcs->exit_intr_info & VMX_INFO_ERROR_CODE) != 0,
                              vmcs->exit_intr_error_code);
    if (vector == X86_EXC_DB) {
        vcpu->exception.has_payload = true;
        vcpu->exception.payload = vmcs->exit_qualification;
    }
    return KVM_RUN_ENTER;
}

void kvm_debug_note_step(struct kvm_vcpu *vcpu)
{
    vcpu->stepped = debug_on(vcpu, KVM_GUESTDBG_SINGLESTEP) || (vcpu->cpu->vmcs.guest_rflags & X86_FLAGS_TF) ||
                    vcpu->cpu->exit_breaks;
}

int kvm_debug_stepped(struct kvm_vcpu *vcpu)
{
    uint64_t bits = vcpu->cpu->exit_breaks;

    vcpu->stepped = false;
    vcpu->cpu->exit_breaks = 0;
    if (debug_on(vcpu, KVM_GUESTDBG_SINGLESTEP))
        return debug_to_client(vcpu, X86_EXC_DB, DR6_FIXED | DR6_BS | bits);
    if (bits && debug_on(vcpu, KVM_GUESTDBG_USE_HW_BP))
        return debug_to_client(vcpu, X86_EXC_DB, DR6_FIXED | bits);
    kvm_event_queue_exception(vcpu, X86_EXC_DB, false, 0);
    vcpu->exception.has_payload = true;
    vcpu->exception.payload = bits | (vcpu->cpu->vmcs.guest_rflags & X86_FLAGS_TF ? DR6_BS : 0);
    return KVM_RUN_ENTER;
}
