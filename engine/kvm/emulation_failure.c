/* SPDX-License-Identifier: MIT */
/*
 * Code that the processor does not run: what the client is told (KVM_EXIT_INTERNAL_ERROR with the instruction's bytes), and
 * when the guest is told instead. Also the bytes at RIP for whoever must know which instruction exited.
 */
#include <string.h>

#include "kvm/vcpu.h"
#include "mmu/mmu.h"

unsigned kvm_read_insn(struct kvm_vcpu *vcpu, uint8_t *bytes, unsigned room)
{
    const struct vmcs *vmcs = &vcpu->cpu->vmcs;
    gva_t va = vmcs->guest_rip;
    unsigned count = 0;

    if (!cpu_in_64bit_code(vcpu->cpu))
        va = (uint32_t)(va + vmcs->guest_seg[X86_CS].base);
    while (count < room) {
        unsigned part = (unsigned)(KAGE_PAGE_SIZE - (va & ~KAGE_PAGE_MASK));
        bool writable, user;
        gpa_t gpa;
        if (part > room - count)
            part = room - count;
        if (!mmu_probe(vcpu->cpu, va, &gpa, &writable, &user) || !mmu_phys_read(vcpu->cpu, gpa, bytes + count, part))
            break;
        count += part;
        va += part;
    }
    return count;
}

/* Why the processor could not go on (the exit qualification of VMX_EXIT_KAGE_UNSUPPORTED). */
static const char *failure_text(const struct kvm_vcpu *vcpu)
{
    static const char *const by_qualification[] = {
        [1] = "the guest runs code from device memory",
        [2] = "guest memory with code is beyond the translator's reach",
    };
    uint64_t qualification = vcpu->cpu->vmcs.exit_qualification;

    if (qualification < KAGE_ARRAY_SIZE(by_qualification) && by_qualification[qualification])
        return by_qualification[qualification];
    return "the guest met an instruction that this engine does not run";
}

/* kvm_run.emulation_failure (linux/kvm.h): data[0] the flags, [1] and [2] the instruction; what follows is for people. */
static int failure_to_client(struct kvm_vcpu *vcpu)
{
    const struct vmcs *vmcs = &vcpu->cpu->vmcs;
    struct kvm_run *run = vcpu->run;
    uint8_t bytes[sizeof(run->emulation_failure.insn_bytes)];
    unsigned size = kvm_read_insn(vcpu, bytes, sizeof(bytes)), n = 1;

    memset(&run->internal, 0, sizeof(run->internal));
    run->exit_reason = KVM_EXIT_INTERNAL_ERROR;
    run->emulation_failure.suberror = KVM_INTERNAL_ERROR_EMULATION;
    if (size) {
        n = 3;
        run->emulation_failure.flags = KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES;
        run->emulation_failure.insn_size = (uint8_t)size;
        memset(run->emulation_failure.insn_bytes, 0x90, sizeof(run->emulation_failure.insn_bytes));
        memcpy(run->emulation_failure.insn_bytes, bytes, size);
    }
    run->internal.data[n++] = vmcs->exit_reason;
    run->internal.data[n++] = vmcs->exit_qualification;
    run->emulation_failure.ndata = n;
    return KVM_RUN_USER;
}

/* As the kernel (handle_emulation_failure): what a guest's user program ran is the guest's to kill, unless the client asked. */
int kvm_exit_emulation_failure(struct kvm_vcpu *vcpu)
{
    const struct vmcs *vmcs = &vcpu->cpu->vmcs;

    vcpu->counters->insn_emulation_fail++;
    kvm_error_set(&vcpu->error, "vCPU %u: %s (cs:rip %04x:%llx, cr0 0x%llx, efer 0x%llx)", vcpu->id, failure_text(vcpu),
                  vmcs->guest_seg[X86_CS].selector, (unsigned long long)vmcs->guest_rip,
                  (unsigned long long)cpu_guest_cr0(vcpu->cpu), (unsigned long long)cpu_guest_efer(vcpu->cpu));
    if (cpu_cpl(vcpu->cpu) && !vcpu->vm->exit_on_emulation_failure) {
        kvm_event_queue_exception(vcpu, X86_EXC_UD, false, 0);
        return KVM_RUN_ENTER;
    }
    return failure_to_client(vcpu);
}
