/* SPDX-License-Identifier: MIT */
/*
 * The system object ("/dev/kvm"): versions, capabilities, what a guest can be given.
 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "kvm/caps.h"
#include "kvm/inspect.h"

#define KVM_CAP_LIST_MAX_ROUTES IRQCHIP_MAX_GSI

/* Capabilities and what KVM_CHECK_EXTENSION answers; all others are 0. */
struct capability {
    uint32_t number;
    int value;
};

static const struct capability capabilities[] = {
    { KVM_CAP_IRQCHIP, 1 },
    { KVM_CAP_HLT, 1 },
    { KVM_CAP_USER_MEMORY, 1 },
    { KVM_CAP_SET_TSS_ADDR, 1 },
    { KVM_CAP_EXT_CPUID, 1 },
    { KVM_CAP_CLOCKSOURCE, 1 },
    { KVM_CAP_NR_MEMSLOTS, (int)KVM_MEMSLOT_MAX },
    { KVM_CAP_NOP_IO_DELAY, 1 },
    { KVM_CAP_MP_STATE, 1 },
    { KVM_CAP_COALESCED_MMIO, KVM_VCPU_RING_PAGE },
    { KVM_CAP_SYNC_MMU, 1 },
    { KVM_CAP_DESTROY_MEMORY_REGION_WORKS, 1 },
    { KVM_CAP_USER_NMI, 1 },
    { KVM_CAP_SET_GUEST_DEBUG, 1 },
    { KVM_CAP_REINJECT_CONTROL, 1 },
    { KVM_CAP_IRQ_ROUTING, IRQCHIP_MAX_GSI },
    { KVM_CAP_IRQ_INJECT_STATUS, 1 },
    { KVM_CAP_JOIN_MEMORY_REGIONS_WORKS, 1 },
    { KVM_CAP_MCE, (int)KVM_MCE_BANKS },
    { KVM_CAP_IRQFD, 1 },
    { KVM_CAP_PIT2, 1 },
    { KVM_CAP_SET_BOOT_CPU_ID, 1 },
    { KVM_CAP_PIT_STATE2, 1 },
    { KVM_CAP_IOEVENTFD, 1 },
    { KVM_CAP_SET_IDENTITY_MAP_ADDR, 1 },
    { KVM_CAP_ADJUST_CLOCK, KVM_CLOCK_TSC_STABLE | KVM_CLOCK_HOST_TSC },
    { KVM_CAP_INTERNAL_ERROR_DATA, 1 },
    { KVM_CAP_VCPU_EVENTS, 1 },
    { KVM_CAP_DEBUGREGS, 1 },
    { KVM_CAP_X86_ROBUST_SINGLESTEP, 1 },
    { KVM_CAP_ENABLE_CAP, 1 },
    { KVM_CAP_XSAVE, 1 },
    { KVM_CAP_XCRS, 1 },
    { KVM_CAP_GET_TSC_KHZ, 1 },
    { KVM_CAP_TSC_CONTROL, 0 },
    { KVM_CAP_MAX_VCPUS, (int)KVM_VM_MAX_VCPUS },
    { KVM_CAP_TSC_DEADLINE_TIMER, 1 },
    { KVM_CAP_KVMCLOCK_CTRL, 1 },
    { KVM_CAP_SIGNAL_MSI, 1 },
    { KVM_CAP_READONLY_MEM, 1 },
    { KVM_CAP_IRQFD_RESAMPLE, 1 },
    { KVM_CAP_ENABLE_CAP_VM, 1 },
    { KVM_CAP_IOEVENTFD_NO_LENGTH, 1 },
    { KVM_CAP_CHECK_EXTENSION_VM, 1 },
    { KVM_CAP_DISABLE_QUIRKS, 1 },
    { KVM_CAP_MULTI_ADDRESS_SPACE, 1 },
    { KVM_CAP_SPLIT_IRQCHIP, 1 },
    { KVM_CAP_IOEVENTFD_ANY_LENGTH, 1 },
    { KVM_CAP_MAX_VCPU_ID, (int)KVM_VM_MAX_VCPU_ID },
    { KVM_CAP_X2APIC_API, KVM_VALID_X2APIC_API },
    { KVM_CAP_IMMEDIATE_EXIT, 1 },
    { KVM_CAP_GET_MSR_FEATURES, 1 },
    { KVM_CAP_COALESCED_PIO, 1 },
    { KVM_CAP_EXCEPTION_PAYLOAD, 1 },
    { KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET },
    { KVM_CAP_X86_USER_SPACE_MSR, 1 },
    { KVM_CAP_X86_MSR_FILTER, 1 },
    { KVM_CAP_SET_GUEST_DEBUG2, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_USE_SW_BP |
                                    KVM_GUESTDBG_USE_HW_BP | KVM_GUESTDBG_INJECT_DB | KVM_GUESTDBG_INJECT_BP |
                                    KVM_GUESTDBG_BLOCKIRQ },
    { KVM_CAP_SREGS2, 1 },
    { KVM_CAP_XSAVE2, (int)sizeof(struct kvm_xsave) },
    { KVM_CAP_BINARY_STATS_FD, 1 },
    { KVM_CAP_SYS_ATTRIBUTES, 1 },
    { KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1 },
    { KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 1 },
    { KVM_CAP_MSR_PLATFORM_INFO, 1 },
    { KVM_CAP_MMU_SHADOW_CACHE_CONTROL, 1 },
    { KVM_CAP_SYNC_REGS, KVM_SYNC_X86_VALID_FIELDS },
    { KVM_CAP_VCPU_ATTRIBUTES, 1 },
    { KVM_CAP_X86_DISABLE_EXITS, KVM_OFFERED_DISABLE_EXITS },
    { KVM_CAP_PMU_EVENT_FILTER, 1 },
    { KVM_CAP_PMU_CAPABILITY, KVM_PMU_CAP_DISABLE },
    { KVM_CAP_HALT_POLL, 1 },
    { KVM_CAP_SMALLER_MAXPHYADDR, 1 },
    { KVM_CAP_STEAL_TIME, 1 },
    { KVM_CAP_DIRTY_LOG_RING, (int)KVM_DIRTY_RING_MAX_BYTES },
    { KVM_CAP_DIRTY_LOG_RING_ACQ_REL, (int)KVM_DIRTY_RING_MAX_BYTES },
    { KVM_CAP_EXIT_HYPERCALL, KVM_VALID_EXIT_HYPERCALLS },
    { KVM_CAP_EXIT_ON_EMULATION_FAILURE, 1 },
    { KVM_CAP_DISABLE_QUIRKS2, KVM_VALID_QUIRKS },
    { KAGE_CAP_EXTENSIONS, 1 },
    { KAGE_CAP_INSPECT, 1 },
    { KVM_CAP_KAGE_MMU, KVM_OFFERED_MMUS },
    { KVM_CAP_KAGE_LA57, 1 },
};

/* How many vCPUs are recommended: one for each of the host's processors, as the kernel has it. */
static int recommended_vcpus(void)
{
    long online = sysconf(_SC_NPROCESSORS_ONLN);

    return online > (long)KVM_VM_MAX_VCPUS ? (int)KVM_VM_MAX_VCPUS : online > 1 ? (int)online : 1;
}

int kvm_check_extension(uintptr_t capability)
{
    if (capability == KVM_CAP_NR_VCPUS)
        return recommended_vcpus();
    for (size_t i = 0; i < KAGE_ARRAY_SIZE(capabilities); i++)
        if (capabilities[i].number == capability)
            return capabilities[i].value;
    return 0;
}

static int system_get_api_version(struct kvm_object *object, void *arg)
{
    (void)object;
    return arg ? -EINVAL : KVM_API_VERSION;
}

static int system_create_vm(struct kvm_object *object, void *arg)
{
    (void)object;
    return kvm_vm_create((uintptr_t)arg);
}

static int system_check_extension(struct kvm_object *object, void *arg)
{
    (void)object;
    return kvm_check_extension((uintptr_t)arg);
}

static int system_get_vcpu_mmap_size(struct kvm_object *object, void *arg)
{
    (void)object;
    return arg ? -EINVAL : (int)(KVM_VCPU_PAGES * KAGE_PAGE_SIZE);
}

static int system_get_supported_cpuid(struct kvm_object *object, void *arg)
{
    struct kvm_cpuid2 *client = arg, *cpuid;
    uint32_t room;

    (void)object;
    if (kvm_copy_in(&room, &client->nent, sizeof(room)))
        return -EFAULT;
    if (room > KVM_CPUID_MAX_ENTRIES)
        room = KVM_CPUID_MAX_ENTRIES;
    cpuid = calloc(1, sizeof(*cpuid) + room * sizeof(cpuid->entries[0]));
    if (!cpuid)
        return -ENOMEM;
    cpuid->nent = room;
    int err = kvm_cpuid_supported(cpuid);
    if (!err)
        err = kvm_copy_out(client, cpuid, sizeof(*cpuid) + cpuid->nent * sizeof(cpuid->entries[0]));
    free(cpuid);
    return err;
}

/* What KVM_GET_SUPPORTED_CPUID leaves out because it is slow: nothing here is. */
static int system_get_emulated_cpuid(struct kvm_object *object, void *arg)
{
    struct kvm_cpuid2 header, *client = arg;

    (void)object;
    if (kvm_copy_in(&header, client, sizeof(header)))
        return -EFAULT;
    if (!header.nent)
        return -E2BIG;
    header.nent = 0;
    return kvm_copy_out(client, &header, sizeof(header));
}

static int system_get_msr_index_list(struct kvm_object *object, void *arg)
{
    (void)object;
    return kvm_msr_index_list(arg, false);
}

static int system_get_msr_feature_index_list(struct kvm_object *object, void *arg)
{
    (void)object;
    return kvm_msr_index_list(arg, true);
}

static int system_get_msrs(struct kvm_object *object, void *arg)
{
    (void)object;
    return kvm_msr_get_features(arg);
}

static int system_get_mce_cap(struct kvm_object *object, void *arg)
{
    (void)object;
    *(uint64_t *)arg = kvm_msr_mce_cap_supported();
    return 0;
}

/* Group 0, KVM_X86_XCOMP_GUEST_SUPP: the state components that a guest may have in XCR0. */
static int system_has_device_attr(struct kvm_object *object, void *arg)
{
    const struct kvm_device_attr *attr = arg;

    (void)object;
    return attr->group == 0 && attr->attr == KVM_X86_XCOMP_GUEST_SUPP ? 0 : -ENXIO;
}

static int system_get_device_attr(struct kvm_object *object, void *arg)
{
    const struct kvm_device_attr *attr = arg;
    int err = system_has_device_attr(object, arg);

    if (err)
        return err;
    uint64_t value = kvm_cpuid_xcr0_supported();
    return kvm_copy_out((void *)(uintptr_t)attr->addr, &value, sizeof(value));
}

static const struct kvm_ioctl_desc system_rows[] = {
    { KVM_GET_API_VERSION, KVM_ARG_VALUE, system_get_api_version },
    { KVM_CREATE_VM, KVM_ARG_VALUE, system_create_vm },
    { KVM_CHECK_EXTENSION, KVM_ARG_VALUE, system_check_extension },
    { KVM_GET_VCPU_MMAP_SIZE, KVM_ARG_VALUE, system_get_vcpu_mmap_size },
    { KVM_GET_SUPPORTED_CPUID, KVM_ARG_RAW, system_get_supported_cpuid },
    { KVM_GET_EMULATED_CPUID, KVM_ARG_RAW, system_get_emulated_cpuid },
    { KVM_GET_MSR_INDEX_LIST, KVM_ARG_RAW, system_get_msr_index_list },
    { KVM_GET_MSR_FEATURE_INDEX_LIST, KVM_ARG_RAW, system_get_msr_feature_index_list },
    { (uint32_t)KVM_GET_MSRS, KVM_ARG_RAW, system_get_msrs },
    { KVM_X86_GET_MCE_CAP_SUPPORTED, KVM_ARG_OUT, system_get_mce_cap },
    { KVM_HAS_DEVICE_ATTR, KVM_ARG_IN, system_has_device_attr },
    { KVM_GET_DEVICE_ATTR, KVM_ARG_IN, system_get_device_attr },
};
const struct kvm_ioctl_table kvm_system_ioctls = { system_rows, KAGE_ARRAY_SIZE(system_rows) };
