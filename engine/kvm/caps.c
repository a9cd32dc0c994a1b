/* SPDX-License-Identifier: MIT */
/*
 * KVM_ENABLE_CAP on a VM: a row for each capability (api.rst 7). Checks first, then one store.
 */
#include "kvm/caps.h"

#include <errno.h>

#include "kvm/vcpu.h"

static int cap_disable_quirks(struct kvm_vm *vm, const struct kvm_enable_cap *cap)
{
    vm->disabled_quirks = cap->args[0]; /* as the kernel: here unknown bits are let pass */
    if (kvm_vm_irqchip(vm))
        irqchip_set_mmio_hole(kvm_vm_irqchip(vm), kvm_vm_has_quirk(vm, KVM_X86_QUIRK_LAPIC_MMIO_HOLE));
    return 0;
}

static int cap_disable_quirks2(struct kvm_vm *vm, const struct kvm_enable_cap *cap)
{
    return cap->args[0] & ~(uint64_t)KVM_VALID_QUIRKS ? -EINVAL : cap_disable_quirks(vm, cap);
}

static int cap_split_irqchip(struct kvm_vm *vm, const struct kvm_enable_cap *cap)
{
    if (cap->args[0] > IRQCHIP_MAX_GSI)
        return -EINVAL;
    if (atomic_load(&vm->vcpu_count))
        return -EEXIST; /* the kernel's answer; to KVM_CREATE_IRQCHIP it is EINVAL */
    return kvm_irq_create_chip(vm, true, (uint32_t)cap->args[0]);
}

static int cap_x2apic_api(struct kvm_vm *vm, const struct kvm_enable_cap *cap)
{
    if (cap->args[0] & ~(uint64_t)KVM_VALID_X2APIC_API)
        return -EINVAL;
    vm->x2apic_api |= cap->args[0];
    if (kvm_vm_irqchip(vm))
        irqchip_set_x2apic_api(kvm_vm_irqchip(vm), vm->x2apic_api);
    return 0;
}

static int cap_exception_payload(struct kvm_vm *vm, const struct kvm_enable_cap *cap)
{
    vm->exception_payload = cap->args[0] != 0;
    return 0;
}

static int cap_triple_fault_event(struct kvm_vm *vm, const struct kvm_enable_cap *cap)
{
    vm->triple_fault_event = cap->args[0] != 0;
    return 0;
}

static int cap_user_space_msr(struct kvm_vm *vm, const struct kvm_enable_cap *cap)
{
    if (cap->args[0] & ~(uint64_t)KVM_VALID_MSR_EXIT_REASONS)
        return -EINVAL;
    vm->user_space_msr_mask = (uint32_t)cap->args[0];
    return 0;
}

static int cap_manual_dirty_protect(struct kvm_vm *vm, const struct kvm_enable_cap *cap)
{
    uint64_t flags = cap->args[0];
    uint64_t known = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET;

    if ((flags & ~known) || (flags && !(flags & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE)))
        return -EINVAL;
    vm->memslots.manual_dirty_protect = flags;
    return 0;
}

/* Set once, and by the first vCPU at the latest; the same again is no error. */
static int cap_max_vcpu_id(struct kvm_vm *vm, const struct kvm_enable_cap *cap)
{
    if (cap->args[0] > KVM_VM_MAX_VCPU_ID || vm->boot_cpu_id > cap->args[0])
        return -EINVAL;
    if (vm->max_vcpu_id)
        return vm->max_vcpu_id == cap->args[0] ? 0 : -EINVAL;
    vm->max_vcpu_id = (uint32_t)cap->args[0];
    return 0;
}

static int cap_msr_platform_info(struct kvm_vm *vm, const struct kvm_enable_cap *cap)
{
    vm->no_platform_info = cap->args[0] == 0;
    return 0;
}

static int cap_dirty_log_ring(struct kvm_vm *vm, const struct kvm_enable_cap *cap)
{
    return kvm_dirty_ring_enable(vm, cap->args[0]);
}

static int cap_disable_exits(struct kvm_vm *vm, const struct kvm_enable_cap *cap)
{
    if ((cap->args[0] & ~(uint64_t)KVM_X86_DISABLE_VALID_EXITS) || atomic_load(&vm->vcpu_count))
        return -EINVAL;
    vm->disabled_exits |= cap->args[0] & KVM_OFFERED_DISABLE_EXITS;
    return 0;
}

static int cap_exit_on_emulation_failure(struct kvm_vm *vm, const struct kvm_enable_cap *cap)
{
    if (cap->args[0] & ~1ull)
        return -EINVAL;
    vm->exit_on_emulation_failure = cap->args[0] != 0;
    return 0;
}

static int cap_exit_hypercall(struct kvm_vm *vm, const struct kvm_enable_cap *cap)
{
    if (cap->args[0] & ~(uint64_t)KVM_VALID_EXIT_HYPERCALLS)
        return -EINVAL;
    vm->exit_hypercalls = cap->args[0];
    return 0;
}

/* KVM_PMU_CAP_DISABLE asks for what is always so. */
static int cap_pmu_capability(struct kvm_vm *vm, const struct kvm_enable_cap *cap)
{
    return (cap->args[0] & ~(uint64_t)KVM_PMU_CAP_DISABLE) || atomic_load(&vm->vcpu_count) ? -EINVAL : 0;
}

/* An upper bound on polling before a halt: there is none. */
static int cap_halt_poll(struct kvm_vm *vm, const struct kvm_enable_cap *cap)
{
    (void)vm;
    return cap->args[0] > UINT32_MAX ? -EINVAL : 0;
}

/* Before the first vCPU, whose VMCS has the controls that go with it. */
static int cap_kage_mmu(struct kvm_vm *vm, const struct kvm_enable_cap *cap)
{
    if (cap->args[0] >= 32 || !(KVM_OFFERED_MMUS & 1u << cap->args[0]))
        return -EINVAL;
    if (atomic_load(&vm->vcpu_count))
        return -EBUSY;
    if (cap->args[0] == KAGE_MMU_SHADOW && !vm->shadow) {
        int err = kvm_shadow_new(vm);
        if (err)
            return err;
    } else if (cap->args[0] != KAGE_MMU_SHADOW) {
        kvm_shadow_free(vm);
    }
    vm->mmu = (uint32_t)cap->args[0];
    return 0;
}

static const struct {
    uint32_t cap;
    int (*enable)(struct kvm_vm *vm, const struct kvm_enable_cap *cap);
} vm_caps[] = {
    { KVM_CAP_DISABLE_QUIRKS, cap_disable_quirks },
    { KVM_CAP_DISABLE_QUIRKS2, cap_disable_quirks2 },
    { KVM_CAP_SPLIT_IRQCHIP, cap_split_irqchip },
    { KVM_CAP_X2APIC_API, cap_x2apic_api },
    { KVM_CAP_EXCEPTION_PAYLOAD, cap_exception_payload },
    { KVM_CAP_X86_TRIPLE_FAULT_EVENT, cap_triple_fault_event },
    { KVM_CAP_X86_USER_SPACE_MSR, cap_user_space_msr },
    { KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, cap_manual_dirty_protect },
    { KVM_CAP_DIRTY_LOG_RING, cap_dirty_log_ring },
    { KVM_CAP_DIRTY_LOG_RING_ACQ_REL, cap_dirty_log_ring },
    { KVM_CAP_MAX_VCPU_ID, cap_max_vcpu_id },
    { KVM_CAP_MSR_PLATFORM_INFO, cap_msr_platform_info },
    { KVM_CAP_X86_DISABLE_EXITS, cap_disable_exits },
    { KVM_CAP_EXIT_ON_EMULATION_FAILURE, cap_exit_on_emulation_failure },
    { KVM_CAP_EXIT_HYPERCALL, cap_exit_hypercall },
    { KVM_CAP_PMU_CAPABILITY, cap_pmu_capability },
    { KVM_CAP_HALT_POLL, cap_halt_poll },
    { KVM_CAP_KAGE_MMU, cap_kage_mmu },
};

int kvm_vm_enable_cap(struct kvm_vm *vm, const struct kvm_enable_cap *cap)
{
    if (cap->flags)
        return -EINVAL;
    for (size_t i = 0; i < KAGE_ARRAY_SIZE(vm_caps); i++)
        if (vm_caps[i].cap == cap->cap)
            return vm_caps[i].enable(vm, cap);
    return -EINVAL;
}
