/* SPDX-License-Identifier: MIT */
/*
 * Refusals: a request, what it is asked with, and the error that api.rst or the kernel's habit gives for it. Refusals that need
 * more than one call before stand with their theme.
 */
#include <stdlib.h>
#include <string.h>

#include "machine.h"
#include "requests.h"

struct refusal {
    const char *name;
    unsigned with;         /* WITH_*; a VM always has RAM in slot 0 */
    enum handle_kind on;   /* ON_VM: no vCPU yet, ON_VCPU: on the first; ON_VM | ON_VCPU: on the VM, which has one */
    uint32_t request;
    uintptr_t number;      /* the argument, if data is NULL */
    const void *data;      /* copied: the structure, with its tail */
    size_t bytes;
    int want;
    bool twice;            /* the first time it is taken */
};

#define DATA(type, ...) .data = &(const type){ __VA_ARGS__ }, .bytes = sizeof(type)
#define REGION(...) KVM_SET_USER_MEMORY_REGION, DATA(struct kvm_userspace_memory_region, __VA_ARGS__)
#define HVA 0x7e0000000000ul /* never touched */
#define ENABLE(capability, arg) KVM_ENABLE_CAP, DATA(struct kvm_enable_cap, .cap = capability, .args = { arg })
#define IRQFD(...) KVM_IRQFD, DATA(struct kvm_irqfd, __VA_ARGS__)
#define IOEVENTFD(...) KVM_IOEVENTFD, DATA(struct kvm_ioeventfd, __VA_ARGS__)
#define NO_FD 0x7fffffff

struct one_route {
    struct routing_head routing;
    struct kvm_irq_routing_entry entry;
};
struct two_routes {
    struct routing_head routing;
    struct kvm_irq_routing_entry entry[2];
};
#define ROUTE(...) KVM_SET_GSI_ROUTING, DATA(struct one_route, .routing.nr = 1, .entry = { __VA_ARGS__ })
#define CHIP_ROUTE(number, chip, pin_number)                                                                                     \
    { .gsi = number, .type = KVM_IRQ_ROUTING_IRQCHIP, .u.irqchip = { .irqchip = chip, .pin = pin_number } }
#define EVENTS(...) KVM_SET_VCPU_EVENTS, DATA(struct kvm_vcpu_events, __VA_ARGS__)
#define FILTER(...) KVM_X86_SET_MSR_FILTER, DATA(struct kvm_msr_filter, __VA_ARGS__)
static uint8_t filter_bitmap[0x2000];

static const struct refusal refusals[] = {
    /* ---- system ---- */
    { "msr list without room", 0, ON_SYSTEM, KVM_GET_MSR_INDEX_LIST, DATA(struct kvm_msr_list, 0), .want = -E2BIG },
    { "msr feature list without room", 0, ON_SYSTEM, KVM_GET_MSR_FEATURE_INDEX_LIST, DATA(struct kvm_msr_list, 0), .want = -E2BIG },
    { "supported cpuid without room", 0, ON_SYSTEM, KVM_GET_SUPPORTED_CPUID, DATA(struct kvm_cpuid2, 0), .want = -E2BIG },
    { "supported cpuid, one entry", 0, ON_SYSTEM, KVM_GET_SUPPORTED_CPUID, DATA(struct kvm_cpuid2, .nent = 1), .want = -E2BIG },
    { "emulated cpuid without room", 0, ON_SYSTEM, KVM_GET_EMULATED_CPUID, DATA(struct kvm_cpuid2, 0), .want = -E2BIG },
    { "system msrs, too many", 0, ON_SYSTEM, KVM_GET_MSRS, DATA(struct kvm_msrs, .nmsrs = 10000), .want = -E2BIG },
    { "system attr, no address", 0, ON_SYSTEM, KVM_GET_DEVICE_ATTR, DATA(struct kvm_device_attr, 0), .want = -EFAULT },
    { "system attr, other group", 0, ON_SYSTEM, KVM_GET_DEVICE_ATTR, DATA(struct kvm_device_attr, .group = 7), .want = -ENXIO },

    /* ---- VM: vCPUs and addresses ---- */
    { "vcpu id too large", 0, ON_VM, KVM_CREATE_VCPU, 100000, .want = -EINVAL },
    { "vcpu id negative", 0, ON_VM, KVM_CREATE_VCPU, UINTPTR_MAX, .want = -EINVAL },
    { "vcpu id taken", 0, ON_VM, KVM_CREATE_VCPU, 3, .want = -EEXIST, .twice = true },
    { "tss above 4g", 0, ON_VM, KVM_SET_TSS_ADDR, 0xfffff000u, .want = -EINVAL },
    { "identity map after vcpu", 0, ON_VM | ON_VCPU, KVM_SET_IDENTITY_MAP_ADDR, DATA(uint64_t, 0x1000), .want = -EINVAL },
    { "boot cpu after vcpu", 0, ON_VM | ON_VCPU, KVM_SET_BOOT_CPU_ID, 0, .want = -EBUSY },
    { "mmu pages too few", 0, ON_VM, KVM_SET_NR_MMU_PAGES, 1, .want = -EINVAL },
    { "device of unknown type", 0, ON_VM, KVM_CREATE_DEVICE, DATA(struct kvm_create_device, .type = 1000), .want = -ENODEV },

    /* ---- VM: memory slots ---- */
    { "slot size odd", 0, ON_VM, REGION(1, 0, 1 << 30, 0x1001, HVA), .want = -EINVAL },
    { "slot gpa odd", 0, ON_VM, REGION(1, 0, (1 << 30) + 1, 0x1000, HVA), .want = -EINVAL },
    { "slot hva odd", 0, ON_VM, REGION(1, 0, 1 << 30, 0x1000, HVA + 1), .want = -EINVAL },
    { "slot hva in the kernel", 0, ON_VM, REGION(1, 0, 1 << 30, 0x1000, 0xffff800000000000u), .want = -EINVAL },
    { "slot hva beyond user space", 0, ON_VM, REGION(1, 0, 1 << 30, 0x2000, 0x7fffffffe000u), .want = -EINVAL },
    { "slot wraps", 0, ON_VM, REGION(1, 0, 0xfffffffffffff000u, 0x2000, HVA), .want = -EINVAL },
    { "slot beyond 52 bits", 0, ON_VM, REGION(1, 0, 1ull << 52, 0x1000, HVA), .want = -EINVAL },
    { "slot id too large", 0, ON_VM, REGION(0xffff, 0, 1 << 30, 0x1000, HVA), .want = -EINVAL },
    { "slot address space too large", 0, ON_VM, REGION(0x70000, 0, 1 << 30, 0x1000, HVA), .want = -EINVAL },
    { "slot flags unknown", 0, ON_VM, REGION(1, 0x80, 1 << 30, 0x1000, HVA), .want = -EINVAL },
    { "slot too large", 0, ON_VM, REGION(1, 0, 1 << 30, 1ull << 43, 0), .want = -EINVAL },
    { "slot overlaps", 0, ON_VM, REGION(1, 0, RAM_BYTES - 0x1000, 0x2000, HVA), .want = -EEXIST },
    { "slot moved onto another", 0, ON_VM, REGION(1, 0, 1 << 30, 0, HVA), .want = -EINVAL },
    { "slot resized", 0, ON_VM, REGION(RAM_SLOT, 0, 0, RAM_BYTES / 2, HVA), .want = -EINVAL },
    { "slot with other memory", 0, ON_VM, REGION(RAM_SLOT, 0, 0, RAM_BYTES, HVA), .want = -EINVAL },
    { "slot deleted that is none", 0, ON_VM, REGION(9, 0, 0, 0, 0), .want = -EINVAL },
    { "dirty log of no slot", 0, ON_VM, KVM_GET_DIRTY_LOG, DATA(struct kvm_dirty_log, .slot = 9), .want = -ENOENT },
    { "dirty log of a slot without", 0, ON_VM, KVM_GET_DIRTY_LOG, DATA(struct kvm_dirty_log, .slot = RAM_SLOT), .want = -ENOENT },
    { "dirty log, slot too large", 0, ON_VM, KVM_GET_DIRTY_LOG, DATA(struct kvm_dirty_log, .slot = 0x7fff0000), .want = -EINVAL },
    { "clear log of no slot", 0, ON_VM, KVM_CLEAR_DIRTY_LOG, DATA(struct kvm_clear_dirty_log, .slot = 9), .want = -ENOENT },
    { "clear log, first page odd", 0, ON_VM, KVM_CLEAR_DIRTY_LOG, DATA(struct kvm_clear_dirty_log, .first_page = 1), .want = -EINVAL },

    /* ---- VM: interrupt chips ---- */
    { "irqchip twice", 0, ON_VM, KVM_CREATE_IRQCHIP, 0, .want = -EEXIST, .twice = true },
    { "irqchip after vcpu", 0, ON_VM | ON_VCPU, KVM_CREATE_IRQCHIP, 0, .want = -EINVAL },
    { "irqchip state without chip", 0, ON_VM, KVM_GET_IRQCHIP, DATA(struct kvm_irqchip, 0), .want = -ENXIO },
    { "irqchip set without chip", 0, ON_VM, KVM_SET_IRQCHIP, DATA(struct kvm_irqchip, 0), .want = -ENXIO },
    { "irqchip state of split chip", WITH_SPLIT, ON_VM, KVM_GET_IRQCHIP, DATA(struct kvm_irqchip, 0), .want = -ENXIO },
    { "irqchip id unknown", WITH_IRQCHIP, ON_VM, KVM_GET_IRQCHIP, DATA(struct kvm_irqchip, .chip_id = 3), .want = -EINVAL },
    { "irqchip set id unknown", WITH_IRQCHIP, ON_VM, KVM_SET_IRQCHIP, DATA(struct kvm_irqchip, .chip_id = 3), .want = -EINVAL },
    { "irq line without chip", 0, ON_VM, KVM_IRQ_LINE, DATA(struct kvm_irq_level, .irq = 1), .want = -ENXIO },
    { "irq line status without chip", 0, ON_VM, KVM_IRQ_LINE_STATUS, DATA(struct kvm_irq_level, .irq = 1), .want = -ENXIO },
    { "msi without chip", 0, ON_VM, KVM_SIGNAL_MSI, DATA(struct kvm_msi, .address_lo = 0xfee00000u), .want = -EINVAL },
    { "msi flags", WITH_IRQCHIP, ON_VM, KVM_SIGNAL_MSI, DATA(struct kvm_msi, .address_lo = 0xfee00000u, .flags = 2), .want = -EINVAL },
    { "routing without chip", 0, ON_VM, KVM_SET_GSI_ROUTING, DATA(struct kvm_irq_routing, 0), .want = -EINVAL },
    { "routing flags", WITH_IRQCHIP, ON_VM, KVM_SET_GSI_ROUTING, DATA(struct kvm_irq_routing, .flags = 1), .want = -EINVAL },
    { "routing too many", WITH_IRQCHIP, ON_VM, KVM_SET_GSI_ROUTING, DATA(struct kvm_irq_routing, .nr = 4097), .want = -EINVAL },
    { "route type unknown", WITH_IRQCHIP, ON_VM, ROUTE(.type = 9), .want = -EINVAL },
    { "route gsi too large", WITH_IRQCHIP, ON_VM, ROUTE(.gsi = 4096, .type = KVM_IRQ_ROUTING_MSI), .want = -EINVAL },
    { "route flags", WITH_IRQCHIP, ON_VM, ROUTE(.type = KVM_IRQ_ROUTING_IRQCHIP, .flags = 1), .want = -EINVAL },
    { "route msi flags", WITH_IRQCHIP, ON_VM, ROUTE(.type = KVM_IRQ_ROUTING_MSI, .flags = 2), .want = -EINVAL },
    { "route pic pin", WITH_IRQCHIP, ON_VM, ROUTE(.type = KVM_IRQ_ROUTING_IRQCHIP, .u.irqchip = { 0, 8 }), .want = -EINVAL },
    { "route ioapic pin", WITH_IRQCHIP, ON_VM, ROUTE(.type = KVM_IRQ_ROUTING_IRQCHIP, .u.irqchip = { 2, 24 }), .want = -EINVAL },
    { "route chip unknown", WITH_IRQCHIP, ON_VM, ROUTE(.type = KVM_IRQ_ROUTING_IRQCHIP, .u.irqchip = { 3, 0 }), .want = -EINVAL },
    { "route to a chip that is split", WITH_SPLIT, ON_VM, ROUTE(.type = KVM_IRQ_ROUTING_IRQCHIP), .want = -EINVAL },
    { "routes with one chip twice", WITH_IRQCHIP, ON_VM, KVM_SET_GSI_ROUTING,
      DATA(struct two_routes, .routing.nr = 2, .entry = { CHIP_ROUTE(5, 2, 1), CHIP_ROUTE(5, 2, 2) }), .want = -EINVAL },
    { "pit without chip", 0, ON_VM, KVM_CREATE_PIT2, DATA(struct kvm_pit_config, 0), .want = -ENOENT },
    { "pit with split chip", WITH_SPLIT, ON_VM, KVM_CREATE_PIT2, DATA(struct kvm_pit_config, 0), .want = -ENOENT },
    { "pit twice", WITH_IRQCHIP, ON_VM, KVM_CREATE_PIT2, DATA(struct kvm_pit_config, 0), .want = -EEXIST, .twice = true },
    { "old pit twice", WITH_IRQCHIP | WITH_PIT, ON_VM, KVM_CREATE_PIT, 0, .want = -EEXIST },
    { "pit state without pit", WITH_IRQCHIP, ON_VM, KVM_GET_PIT2, DATA(struct kvm_pit_state2, .flags = 0), .want = -ENXIO },
    { "pit set without pit", WITH_IRQCHIP, ON_VM, KVM_SET_PIT2, DATA(struct kvm_pit_state2, .flags = 0), .want = -ENXIO },
    { "old pit state without pit", WITH_IRQCHIP, ON_VM, KVM_GET_PIT, DATA(struct kvm_pit_state, .channels = { { 0 } }), .want = -ENXIO },
    { "reinject without pit", WITH_IRQCHIP, ON_VM, KVM_REINJECT_CONTROL, DATA(struct kvm_reinject_control, 1), .want = -ENXIO },

    /* ---- VM: eventfds, coalescing ---- */
    { "irqfd without chip", 0, ON_VM, IRQFD(.fd = NO_FD), .want = -EINVAL },
    { "irqfd flags", WITH_IRQCHIP, ON_VM, IRQFD(.fd = NO_FD, .flags = 8), .want = -EINVAL },
    { "irqfd no descriptor", WITH_IRQCHIP, ON_VM, IRQFD(.fd = NO_FD), .want = -EBADF },
    { "irqfd no eventfd", WITH_IRQCHIP, ON_VM, IRQFD(.fd = 2), .want = -EINVAL },
    { "irqfd resample without chip", WITH_SPLIT, ON_VM, IRQFD(.fd = NO_FD, .flags = KVM_IRQFD_FLAG_RESAMPLE), .want = -EINVAL },
    { "irqfd deassign no descriptor", WITH_IRQCHIP, ON_VM, IRQFD(.fd = NO_FD, .flags = KVM_IRQFD_FLAG_DEASSIGN), .want = -EBADF },
    { "ioeventfd length 3", 0, ON_VM, IOEVENTFD(.len = 3, .fd = NO_FD), .want = -EINVAL },
    { "ioeventfd length 16", 0, ON_VM, IOEVENTFD(.len = 16, .fd = NO_FD), .want = -EINVAL },
    { "ioeventfd wraps", 0, ON_VM, IOEVENTFD(.addr = UINT64_MAX, .len = 8, .fd = NO_FD), .want = -EINVAL },
    { "ioeventfd flags", 0, ON_VM, IOEVENTFD(.len = 2, .fd = NO_FD, .flags = 0x100), .want = -EINVAL },
    { "ioeventfd datamatch of any length", 0, ON_VM, IOEVENTFD(.fd = NO_FD, .flags = KVM_IOEVENTFD_FLAG_DATAMATCH), .want = -EINVAL },
    { "ioeventfd no descriptor", 0, ON_VM, IOEVENTFD(.len = 2, .fd = NO_FD), .want = -EBADF },
    { "ioeventfd no eventfd", 0, ON_VM, IOEVENTFD(.len = 2, .fd = 2), .want = -EINVAL },
    { "coalesced zone kind", 0, ON_VM, KVM_REGISTER_COALESCED_MMIO, DATA(struct kvm_coalesced_mmio_zone, .pio = 2), .want = -EINVAL },
    { "coalesced zone kind, unregister", 0, ON_VM, KVM_UNREGISTER_COALESCED_MMIO, DATA(struct kvm_coalesced_mmio_zone, .pio = 2),
      .want = -EINVAL },

    /* ---- VM: clock, MSR filter, capabilities ---- */
    { "clock flags", 0, ON_VM, KVM_SET_CLOCK, DATA(struct kvm_clock_data, .flags = 0x80), .want = -EINVAL },
    { "filter flags", 0, ON_VM, FILTER(.flags = 2), .want = -EINVAL },
    { "filter denies all", 0, ON_VM, FILTER(.flags = KVM_MSR_FILTER_DEFAULT_DENY), .want = -EINVAL },
    { "filter range flags", 0, ON_VM, FILTER(.ranges = { { .flags = 4, .nmsrs = 1, .bitmap = filter_bitmap } }), .want = -EINVAL },
    { "filter range without flags", 0, ON_VM, FILTER(.ranges = { { .nmsrs = 1, .bitmap = filter_bitmap } }), .want = -EINVAL },
    { "filter range too long", 0, ON_VM, FILTER(.ranges = { { .flags = 1, .nmsrs = 0x10000, .bitmap = filter_bitmap } }), .want = -EINVAL },
    { "filter without bitmap", 0, ON_VM, FILTER(.ranges = { { .flags = 1, .nmsrs = 1 } }), .want = -EFAULT },
    { "vm cap unknown", 0, ON_VM, ENABLE(100000, 0), .want = -EINVAL },
    { "vm cap flags", 0, ON_VM, KVM_ENABLE_CAP,
      DATA(struct kvm_enable_cap, .cap = KVM_CAP_EXCEPTION_PAYLOAD, .flags = 1, .args = { 1 }), .want = -EINVAL },
    { "split pins too many", 0, ON_VM, ENABLE(KVM_CAP_SPLIT_IRQCHIP, 5000), .want = -EINVAL },
    { "split after chip", WITH_IRQCHIP, ON_VM, ENABLE(KVM_CAP_SPLIT_IRQCHIP, 24), .want = -EEXIST },
    { "split after vcpu", 0, ON_VM | ON_VCPU, ENABLE(KVM_CAP_SPLIT_IRQCHIP, 24), .want = -EEXIST },
    { "chip after split", WITH_SPLIT, ON_VM, KVM_CREATE_IRQCHIP, 0, .want = -EEXIST },
    { "quirks unknown", 0, ON_VM, ENABLE(KVM_CAP_DISABLE_QUIRKS2, 1ull << 40), .want = -EINVAL },
    { "x2apic api unknown", WITH_IRQCHIP, ON_VM, ENABLE(KVM_CAP_X2APIC_API, 0x80), .want = -EINVAL },
    { "manual dirty log unknown", 0, ON_VM, ENABLE(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 0x80), .want = -EINVAL },
    { "manual dirty log without enable", 0, ON_VM, ENABLE(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_INITIALLY_SET), .want = -EINVAL },
    { "user msr reasons unknown", 0, ON_VM, ENABLE(KVM_CAP_X86_USER_SPACE_MSR, 0x80), .want = -EINVAL },
    { "max vcpu id too large", 0, ON_VM, ENABLE(KVM_CAP_MAX_VCPU_ID, 100000), .want = -EINVAL },
    { "max vcpu id after vcpu", 0, ON_VM | ON_VCPU, ENABLE(KVM_CAP_MAX_VCPU_ID, 8), .want = -EINVAL },

    /* ---- vCPU ---- */
    { "interrupt vector too large", 0, ON_VCPU, KVM_INTERRUPT, DATA(struct kvm_interrupt, 256), .want = -EINVAL },
    { "interrupt with chip", WITH_IRQCHIP, ON_VCPU, KVM_INTERRUPT, DATA(struct kvm_interrupt, 32), .want = -ENXIO },
    { "interrupt twice", 0, ON_VCPU, KVM_INTERRUPT, DATA(struct kvm_interrupt, 32), .want = -EEXIST, .twice = true },
    { "lapic without chip", 0, ON_VCPU, KVM_GET_LAPIC, DATA(struct kvm_lapic_state, { 0 }), .want = -EINVAL },
    { "lapic set without chip", 0, ON_VCPU, KVM_SET_LAPIC, DATA(struct kvm_lapic_state, { 0 }), .want = -EINVAL },
    { "mp state without chip", 0, ON_VCPU, KVM_SET_MP_STATE, DATA(struct kvm_mp_state, KVM_MP_STATE_HALTED), .want = -EINVAL },
    { "mp state unknown", WITH_IRQCHIP, ON_VCPU, KVM_SET_MP_STATE, DATA(struct kvm_mp_state, 99), .want = -EINVAL },
    { "signal mask length", 0, ON_VCPU, KVM_SET_SIGNAL_MASK, DATA(struct kvm_signal_mask, .len = 4), .want = -EINVAL },
    { "xcrs too many", 0, ON_VCPU, KVM_SET_XCRS, DATA(struct kvm_xcrs, .nr_xcrs = 17), .want = -EINVAL },
    { "xcrs flags", 0, ON_VCPU, KVM_SET_XCRS, DATA(struct kvm_xcrs, .nr_xcrs = 1, .flags = 1), .want = -EINVAL },
    { "xcr0 without x87", 0, ON_VCPU, KVM_SET_XCRS, DATA(struct kvm_xcrs, .nr_xcrs = 1, .xcrs = { { .value = 2 } }), .want = -EINVAL },
    { "xsave mxcsr reserved", 0, ON_VCPU, KVM_SET_XSAVE, DATA(struct kvm_xsave, .region = { [6] = 0xffff0000u, [128] = 3 }),
      .want = -EINVAL },
    { "xsave component unknown", 0, ON_VCPU, KVM_SET_XSAVE, DATA(struct kvm_xsave, .region = { [6] = 0x1f80, [129] = 0x40000000 }),
      .want = -EINVAL },
    { "debugregs flags", 0, ON_VCPU, KVM_SET_DEBUGREGS, DATA(struct kvm_debugregs, .flags = 1), .want = -EINVAL },
    { "dr6 high bits", 0, ON_VCPU, KVM_SET_DEBUGREGS, DATA(struct kvm_debugregs, .dr6 = 1ull << 32), .want = -EINVAL },
    { "dr7 high bits", 0, ON_VCPU, KVM_SET_DEBUGREGS, DATA(struct kvm_debugregs, .dr7 = 1ull << 32), .want = -EINVAL },
    { "events flags", 0, ON_VCPU, EVENTS(.flags = 0x8000), .want = -EINVAL },
    { "events exception 32", 0, ON_VCPU, EVENTS(.exception = { .injected = 1, .nr = 32 }), .want = -EINVAL },
    { "events exception nmi", 0, ON_VCPU, EVENTS(.exception = { .injected = 1, .nr = 2 }), .want = -EINVAL },
    { "events payload not enabled", 0, ON_VCPU, EVENTS(.flags = KVM_VCPUEVENT_VALID_PAYLOAD), .want = -EINVAL },
    { "events triple fault not enabled", 0, ON_VCPU, EVENTS(.flags = KVM_VCPUEVENT_VALID_TRIPLE_FAULT), .want = -EINVAL },
    { "cpuid too many", 0, ON_VCPU, KVM_SET_CPUID2, DATA(struct kvm_cpuid2, .nent = 10000), .want = -E2BIG },
    { "old cpuid too many", 0, ON_VCPU, KVM_SET_CPUID, DATA(struct kvm_cpuid, .nent = 10000), .want = -E2BIG },
    { "get msrs too many", 0, ON_VCPU, KVM_GET_MSRS, DATA(struct kvm_msrs, .nmsrs = 10000), .want = -E2BIG },
    { "set msrs too many", 0, ON_VCPU, KVM_SET_MSRS, DATA(struct kvm_msrs, .nmsrs = 10000), .want = -E2BIG },
    { "mce without banks", 0, ON_VCPU, KVM_X86_SETUP_MCE, DATA(uint64_t, 0), .want = -EINVAL },
    { "mce too many banks", 0, ON_VCPU, KVM_X86_SETUP_MCE, DATA(uint64_t, 0xff), .want = -EINVAL },
    { "mce capability unknown", 0, ON_VCPU, KVM_X86_SETUP_MCE, DATA(uint64_t, 1ull << 40 | 10), .want = -EINVAL },
    { "mce bank unknown", 0, ON_VCPU, KVM_X86_SET_MCE, DATA(struct kvm_x86_mce, .bank = 99, .status = 1ull << 63), .want = -EINVAL },
    { "mce status not valid", 0, ON_VCPU, KVM_X86_SET_MCE, DATA(struct kvm_x86_mce, .status = 1), .want = -EINVAL },
    { "tpr reporting flags", WITH_IRQCHIP, ON_VCPU, KVM_TPR_ACCESS_REPORTING, DATA(struct kvm_tpr_access_ctl, .flags = 1), .want = -EINVAL },
    { "vapic without chip", 0, ON_VCPU, KVM_SET_VAPIC_ADDR, DATA(struct kvm_vapic_addr, .vapic_addr = 0), .want = -EINVAL },
    { "debug while an exception waits", 0, ON_VCPU, KVM_SET_GUEST_DEBUG,
      DATA(struct kvm_guest_debug, .control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_INJECT_DB), .want = -EBUSY, .twice = true },
    { "clock ctrl without kvm-clock", 0, ON_VCPU, KVM_KVMCLOCK_CTRL, 0, .want = -EINVAL },
    { "vcpu cap unknown", 0, ON_VCPU, ENABLE(100000, 0), .want = -EINVAL },
    { "vcpu cap flags", 0, ON_VCPU, KVM_ENABLE_CAP,
      DATA(struct kvm_enable_cap, .cap = KVM_CAP_ENFORCE_PV_FEATURE_CPUID, .flags = 1), .want = -EINVAL },
    { "vcpu attr unknown", 0, ON_VCPU, KVM_HAS_DEVICE_ATTR, DATA(struct kvm_device_attr, .group = 9), .want = -ENXIO },
    { "vcpu attr without address", 0, ON_VCPU, KVM_GET_DEVICE_ATTR, DATA(struct kvm_device_attr, 0), .want = -EFAULT },
    { "vcpu attr set without address", 0, ON_VCPU, KVM_SET_DEVICE_ATTR, DATA(struct kvm_device_attr, 0), .want = -EFAULT },
    { "tsc far from the host's", 0, ON_VCPU, KVM_SET_TSC_KHZ, 1, .want = -EINVAL },
};

static const char *errors_name(size_t row)
{
    return refusals[row].name;
}

static void errors_run(size_t row)
{
    const struct refusal *refusal = &refusals[row];
    struct machine m = machine_new(refusal->with, refusal->on & ON_VCPU ? 1 : 0);
    int handle = refusal->on == ON_SYSTEM ? m.system : refusal->on == ON_VCPU ? m.vcpu[0] : m.vm;
    uint8_t *argument = machine_anonymous(65536);

    if (refusal->data)
        memcpy(argument, refusal->data, refusal->bytes);
    void *arg = refusal->data ? argument : (void *)refusal->number;
    if (refusal->twice)
        CHECK_OK(ask(handle, refusal->request, arg));
    EXPECT("", ask(handle, refusal->request, arg), refusal->want);
}

const struct theme theme_errors = { "errors", COUNT_OF(refusals), errors_name, errors_run };
