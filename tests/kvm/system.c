/* SPDX-License-Identifier: MIT */
/*
 * The system object: version, sizes, and what KVM_CHECK_EXTENSION answers (api.rst 4.1 to 4.5). A capability here is one that QEMU
 * or kvmtool asks for; the row says the least that it must answer, and for a mask the bits.
 */
#include <stdio.h>

#include "machine.h"

static void version(void)
{
    int system = CHECK_OK(kvm->open());

    CHECK_EQ(ask(system, KVM_GET_API_VERSION, NULL), 12);
    CHECK_EQ(ask_number(system, KVM_GET_API_VERSION, 1), -EINVAL);
}

/* QEMU passes the request as an int: it comes sign-extended. */
static void request_sign_extended(void)
{
    int system = CHECK_OK(kvm->open());
    struct kvm_msr_list list = { 0 };

    CHECK_EQ(ask(system, (unsigned long)(int)KVM_GET_MSR_INDEX_LIST, &list), -E2BIG);
    CHECK(list.nmsrs > 0);
}

static void mmap_size(void)
{
    struct machine m = machine_new(0, 1);

    CHECK(m.run_bytes % 4096 == 0 && m.run_bytes >= sizeof(struct kvm_run));
    CHECK_EQ(ask_number(m.system, KVM_GET_VCPU_MMAP_SIZE, 1), -EINVAL);
    int ring = CHECK_OK(ask_number(m.system, KVM_CHECK_EXTENSION, KVM_CAP_COALESCED_MMIO));
    CHECK((size_t)(ring + 1) * 4096 <= m.run_bytes);
}

static void several_system_handles(void)
{
    int a = CHECK_OK(kvm->open()), b = CHECK_OK(kvm->open());

    CHECK(a != b);
    CHECK_EQ(kvm->close(a), 0);
    CHECK_EQ(ask(b, KVM_GET_API_VERSION, NULL), 12);
}

static void vm_types(void)
{
    int system = CHECK_OK(kvm->open());

    CHECK_OK(ask_number(system, KVM_CREATE_VM, 0));
    EXPECT("type 1", ask_number(system, KVM_CREATE_VM, 1), -EINVAL);
    CHECK_EQ(ask_number(system, KVM_CREATE_VM, 1000), -EINVAL);
}

static void unknown_capabilities(void)
{
    struct machine m = machine_new(0, 0);

    CHECK_EQ(ask_number(m.system, KVM_CHECK_EXTENSION, 0x7fffffff), 0);
    CHECK_EQ(ask_number(m.vm, KVM_CHECK_EXTENSION, 0x7fffffff), 0);
    CHECK_EQ(ask_number(m.vm, KVM_CHECK_EXTENSION, 100000), 0);
}

/* The system's answers and a VM's agree wherever they do not depend on the VM. */
static void vm_agrees(void)
{
    struct machine m = machine_new(0, 0);

    for (uintptr_t cap = 0; cap < 256; cap++) {
        char what[32];
        snprintf(what, sizeof(what), "capability %u", (unsigned)cap);
        EXPECT(what, ask_number(m.vm, KVM_CHECK_EXTENSION, cap), ask_number(m.system, KVM_CHECK_EXTENSION, cap));
    }
}

static void mce_cap(void)
{
    struct machine m = machine_new(0, 1);
    uint64_t cap = 0;

    CHECK_OK(ask(m.system, KVM_X86_GET_MCE_CAP_SUPPORTED, &cap));
    CHECK(cap & 1u << 8); /* MCG_CTL_P */
    cap |= 10;            /* banks */
    CHECK_OK(ask(m.vcpu[0], KVM_X86_SETUP_MCE, &cap));
    CHECK_EQ(machine_get_msr(&m, 0, 0x179), cap);
}

/* The state components that a guest may be given, as system attribute and as CPUID leaf 0xd. */
static void xcomp_supported(void)
{
    int system = CHECK_OK(kvm->open());
    uint64_t supported = 0;
    struct kvm_device_attr attr = { .attr = KVM_X86_XCOMP_GUEST_SUPP, .addr = (uintptr_t)&supported };

    CHECK_EQ(ask(system, KVM_HAS_DEVICE_ATTR, &attr), 0);
    CHECK_OK(ask(system, KVM_GET_DEVICE_ATTR, &attr));
    CHECK_EQ(supported & 3, 3);
    const struct kvm_cpuid2 *cpuid = machine_supported_cpuid(system);
    for (uint32_t i = 0; i < cpuid->nent; i++)
        if (cpuid->entries[i].function == 0xd && cpuid->entries[i].index == 0)
            CHECK_EQ(cpuid->entries[i].eax & ~supported, 0);
    attr.attr = 99;
    CHECK_EQ(ask(system, KVM_HAS_DEVICE_ATTR, &attr), -ENXIO);
    CHECK_EQ(ask(system, KVM_GET_DEVICE_ATTR, &attr), -ENXIO);
}

enum cap_test { AT_LEAST, EXACTLY, HAS_BITS };
struct cap_row {
    const char *name;
    int cap, value;
    enum cap_test test;
};
#define CAP(cap, test, value) { #cap, cap, value, test }
static const struct cap_row caps[] = {
    CAP(KVM_CAP_IRQCHIP, EXACTLY, 1), CAP(KVM_CAP_HLT, EXACTLY, 1), CAP(KVM_CAP_USER_MEMORY, EXACTLY, 1),
    CAP(KVM_CAP_SET_TSS_ADDR, EXACTLY, 1), CAP(KVM_CAP_EXT_CPUID, EXACTLY, 1), CAP(KVM_CAP_CLOCKSOURCE, EXACTLY, 1),
    CAP(KVM_CAP_NR_VCPUS, AT_LEAST, 1), CAP(KVM_CAP_MAX_VCPUS, AT_LEAST, 64), CAP(KVM_CAP_MAX_VCPU_ID, AT_LEAST, 64),
    CAP(KVM_CAP_NR_MEMSLOTS, AT_LEAST, 509), CAP(KVM_CAP_NOP_IO_DELAY, EXACTLY, 1), CAP(KVM_CAP_MP_STATE, EXACTLY, 1),
    CAP(KVM_CAP_COALESCED_MMIO, AT_LEAST, 2), CAP(KVM_CAP_SYNC_MMU, EXACTLY, 1),
    CAP(KVM_CAP_DESTROY_MEMORY_REGION_WORKS, EXACTLY, 1), CAP(KVM_CAP_USER_NMI, EXACTLY, 1),
    CAP(KVM_CAP_SET_GUEST_DEBUG, EXACTLY, 1), CAP(KVM_CAP_REINJECT_CONTROL, EXACTLY, 1), CAP(KVM_CAP_IRQ_ROUTING, EXACTLY, 4096),
    CAP(KVM_CAP_IRQ_INJECT_STATUS, EXACTLY, 1), CAP(KVM_CAP_JOIN_MEMORY_REGIONS_WORKS, EXACTLY, 1), CAP(KVM_CAP_MCE, EXACTLY, 32),
    CAP(KVM_CAP_IRQFD, EXACTLY, 1), CAP(KVM_CAP_PIT2, EXACTLY, 1), CAP(KVM_CAP_SET_BOOT_CPU_ID, EXACTLY, 1),
    CAP(KVM_CAP_PIT_STATE2, EXACTLY, 1), CAP(KVM_CAP_IOEVENTFD, EXACTLY, 1), CAP(KVM_CAP_SET_IDENTITY_MAP_ADDR, EXACTLY, 1),
    CAP(KVM_CAP_ADJUST_CLOCK, HAS_BITS, KVM_CLOCK_TSC_STABLE), CAP(KVM_CAP_INTERNAL_ERROR_DATA, EXACTLY, 1),
    CAP(KVM_CAP_VCPU_EVENTS, EXACTLY, 1), CAP(KVM_CAP_DEBUGREGS, EXACTLY, 1), CAP(KVM_CAP_X86_ROBUST_SINGLESTEP, EXACTLY, 1),
    CAP(KVM_CAP_ENABLE_CAP, EXACTLY, 1), CAP(KVM_CAP_XSAVE, EXACTLY, 1), CAP(KVM_CAP_XCRS, EXACTLY, 1),
    CAP(KVM_CAP_GET_TSC_KHZ, EXACTLY, 1), CAP(KVM_CAP_TSC_DEADLINE_TIMER, EXACTLY, 1), CAP(KVM_CAP_KVMCLOCK_CTRL, EXACTLY, 1),
    CAP(KVM_CAP_SIGNAL_MSI, EXACTLY, 1), CAP(KVM_CAP_READONLY_MEM, EXACTLY, 1), CAP(KVM_CAP_IRQFD_RESAMPLE, EXACTLY, 1),
    CAP(KVM_CAP_ENABLE_CAP_VM, EXACTLY, 1), CAP(KVM_CAP_IOEVENTFD_NO_LENGTH, EXACTLY, 1), CAP(KVM_CAP_CHECK_EXTENSION_VM, EXACTLY, 1),
    CAP(KVM_CAP_DISABLE_QUIRKS, EXACTLY, 1), CAP(KVM_CAP_MULTI_ADDRESS_SPACE, AT_LEAST, 1), CAP(KVM_CAP_SPLIT_IRQCHIP, EXACTLY, 1),
    CAP(KVM_CAP_IOEVENTFD_ANY_LENGTH, EXACTLY, 1),
    CAP(KVM_CAP_X2APIC_API, HAS_BITS, KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK),
    CAP(KVM_CAP_IMMEDIATE_EXIT, AT_LEAST, 1), CAP(KVM_CAP_GET_MSR_FEATURES, EXACTLY, 1), CAP(KVM_CAP_COALESCED_PIO, EXACTLY, 1),
    CAP(KVM_CAP_EXCEPTION_PAYLOAD, EXACTLY, 1),
    CAP(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, HAS_BITS, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET),
    CAP(KVM_CAP_X86_USER_SPACE_MSR, AT_LEAST, 1),
    CAP(KVM_CAP_X86_MSR_FILTER, EXACTLY, 1),
    CAP(KVM_CAP_SET_GUEST_DEBUG2, HAS_BITS, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_USE_SW_BP |
                                                KVM_GUESTDBG_USE_HW_BP | KVM_GUESTDBG_INJECT_DB | KVM_GUESTDBG_INJECT_BP |
                                                KVM_GUESTDBG_BLOCKIRQ),
    CAP(KVM_CAP_SREGS2, EXACTLY, 1), CAP(KVM_CAP_XSAVE2, AT_LEAST, 4096), CAP(KVM_CAP_SYS_ATTRIBUTES, EXACTLY, 1),
    CAP(KVM_CAP_X86_TRIPLE_FAULT_EVENT, EXACTLY, 1), CAP(KVM_CAP_ENFORCE_PV_FEATURE_CPUID, EXACTLY, 1),
    CAP(KVM_CAP_MSR_PLATFORM_INFO, EXACTLY, 1),
    /* gone from the kernel, or never of x86 */
    CAP(KVM_CAP_PPC_HTM, EXACTLY, 0),
    CAP(KVM_CAP_S390_PSW, EXACTLY, 0), CAP(KVM_CAP_ARM_PSCI, EXACTLY, 0),
};

static const struct row rows[] = {
    { "version", version },
    { "request sign-extended", request_sign_extended },
    { "mmap size", mmap_size },
    { "several system handles", several_system_handles },
    { "vm types", vm_types },
    { "unknown capabilities", unknown_capabilities },
    { "vm agrees", vm_agrees },
    { "mce cap", mce_cap },
    { "xcomp supported", xcomp_supported },
};

static const char *system_name(size_t row)
{
    return row < COUNT_OF(rows) ? rows[row].name : caps[row - COUNT_OF(rows)].name;
}

static void system_run(size_t row)
{
    if (row < COUNT_OF(rows)) {
        rows[row].run();
        return;
    }
    const struct cap_row *cap = &caps[row - COUNT_OF(rows)];
    int system = CHECK_OK(kvm->open()), value = ask_number(system, KVM_CHECK_EXTENSION, (uintptr_t)cap->cap);
    bool good = cap->test == AT_LEAST ? value >= cap->value
              : cap->test == EXACTLY  ? value == cap->value
                                      : (value & cap->value) == cap->value;
    if (!good)
        EXPECT("", value, cap->value);
}

const struct theme theme_system = { "system", COUNT_OF(rows) + COUNT_OF(caps), system_name, system_run };
