/* SPDX-License-Identifier: MIT */
/*
 * KVM_CAP_SYNC_REGS (api.rst 8.1 "KVM_CAP_SYNC_REGS", 5): registers that a client leaves in struct kvm_run before KVM_RUN and
 * finds there after it, instead of an ioctl for each set. The page is the client's: what is read from it is copied first.
 */
#include <errno.h>
#include <string.h>

#include "kvm/vcpu.h"

int kvm_sync_regs_check(const struct kvm_run *run)
{
    return (run->kvm_valid_regs | run->kvm_dirty_regs) & ~(uint64_t)KVM_SYNC_X86_VALID_FIELDS ? -EINVAL : 0;
}

int kvm_sync_regs_load(struct kvm_vcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;
    uint64_t dirty = run->kvm_dirty_regs;
    struct kvm_sync_regs regs;
    int err = 0;

    if (!(dirty & KVM_SYNC_X86_VALID_FIELDS))
        return 0;
    memcpy(&regs, &run->s.regs, sizeof(regs));
    if (dirty & KVM_SYNC_X86_REGS)
        err = kvm_vcpu_set_regs(&vcpu->object, &regs.regs);
    if (!err && (dirty & KVM_SYNC_X86_SREGS))
        err = kvm_vcpu_set_sregs(&vcpu->object, &regs.sregs);
    if (!err && (dirty & KVM_SYNC_X86_EVENTS))
        err = kvm_vcpu_set_events(&vcpu->object, &regs.events);
    run->kvm_dirty_regs = 0;
    return err ? -EINVAL : 0;
}

void kvm_sync_regs_store(struct kvm_vcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;
    uint64_t valid = run->kvm_valid_regs;

    if (valid & KVM_SYNC_X86_REGS)
        (void)kvm_vcpu_get_regs(&vcpu->object, &run->s.regs.regs);
    if (valid & KVM_SYNC_X86_SREGS)
        (void)kvm_vcpu_get_sregs(&vcpu->object, &run->s.regs.sregs);
    if (valid & KVM_SYNC_X86_EVENTS)
        (void)kvm_vcpu_get_events(&vcpu->object, &run->s.regs.events);
}
