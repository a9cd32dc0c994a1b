/* SPDX-License-Identifier: MIT */
/*
 * Arguments for the KVM API's ioctls, out of the fuzzer's input. A structure is what the matching GET ioctl says, or zeroes, or one made
 * for its request; then some of its bytes are the input's. It ends at a page that is not there, so that a byte read too
 * far is seen.
 */
#include <string.h>

#include "../kvm/requests.h"
#include "fuzz_kvm.h"

void *pointer_make(struct world *w, struct input *in)
{
    switch (take8(in) % 12) {
    case 0:
        return NULL;
    case 1:
        return w->scratch + ARGUMENT_BYTES; /* not there */
    case 2:
        return (void *)0xffff888000000000u;
    case 3:
        return (void *)0x1234567890abcdefu;
    case 4:
        return w->read_only;
    case 5:
        return w->scratch + ARGUMENT_BYTES - 1 - take8(in) % 64;
    default:
        return w->scratch + ARGUMENT_BYTES - 16 * (1 + take8(in)) * (1 + take8(in) % 8);
    }
}

/* ---- structures by request: `arg` has `bytes`; how many of them it needs ---- */

typedef size_t fill_fn(struct world *w, struct input *in, void *arg);

static size_t fill_region(struct world *w, struct input *in, void *arg)
{
    struct kvm_userspace_memory_region *region = arg;
    uint8_t kind = take8(in);

    region->slot = kind & 0x80 ? take32(in) : take8(in) % 8;
    region->flags = kind & 0x40 ? take32(in) : take8(in) & 3;
    region->guest_phys_addr = kind & 0x20 ? take_number(in) : (uint64_t)(take(in, 2) % (ARENA_BYTES / PAGE)) * PAGE;
    uint64_t page = take(in, 2) % (ARENA_BYTES / PAGE), most = ARENA_BYTES - page * PAGE;
    region->userspace_addr = (uintptr_t)w->arena + page * PAGE;
    region->memory_size = take8(in) & 1 ? most : (uint64_t)(1 + take8(in)) * PAGE % (most + 1);
    if (kind & 0x10) { /* far from everything */
        region->userspace_addr = FAR_HVA;
        region->memory_size = take_number(in) % FAR_BYTES;
    } else if (kind & 8) {
        region->userspace_addr = 0xffff800000000000u | take32(in);
        region->memory_size = take_number(in);
    } else if (kind & 4) {
        region->memory_size = 0;
    } else if (kind & 2) {
        region->userspace_addr += take8(in);
    }
    return sizeof(*region);
}

static size_t fill_dirty_log(struct world *w, struct input *in, void *arg)
{
    *(struct kvm_dirty_log *)arg = (struct kvm_dirty_log){ .slot = take8(in) % 8, .dirty_bitmap = pointer_make(w, in) };
    return sizeof(struct kvm_dirty_log);
}

static size_t fill_clear_log(struct world *w, struct input *in, void *arg)
{
    *(struct kvm_clear_dirty_log *)arg = (struct kvm_clear_dirty_log){
        .slot = take8(in) % 8, .first_page = take_number(in), .num_pages = (uint32_t)take_number(in), .dirty_bitmap = pointer_make(w, in)
    };
    return sizeof(struct kvm_clear_dirty_log);
}

static int any_fd(struct world *w, struct input *in)
{
    uint8_t which = take8(in);

    return which < 16 ? which : which < 32 ? w->system : which < 40 ? -1 : w->eventfd[which % FDS_MAX];
}

static size_t fill_irqfd(struct world *w, struct input *in, void *arg)
{
    *(struct kvm_irqfd *)arg = (struct kvm_irqfd){ .fd = (uint32_t)any_fd(w, in), .gsi = (uint32_t)take(in, 2) % 64, .flags = take8(in) % 4,
                                                   .resamplefd = (uint32_t)any_fd(w, in) };
    return sizeof(struct kvm_irqfd);
}

static size_t fill_ioeventfd(struct world *w, struct input *in, void *arg)
{
    *(struct kvm_ioeventfd *)arg = (struct kvm_ioeventfd){ .datamatch = take8(in), .addr = take_number(in), .len = take8(in) % 10,
                                                           .fd = any_fd(w, in), .flags = take8(in) % 8 };
    return sizeof(struct kvm_ioeventfd);
}

static size_t fill_routing(struct world *w, struct input *in, void *arg)
{
    struct kvm_irq_routing *routing = arg;
    uint32_t count = take8(in) % 32;

    (void)w;
    routing->nr = take8(in) == 0 ? (uint32_t)take_number(in) : count;
    for (uint32_t i = 0; i < count; i++) {
        struct kvm_irq_routing_entry *entry = &routing->entries[i];
        entry->gsi = (uint32_t)take(in, 2) % 80;
        entry->type = take8(in) % 6;
        take_into(in, &entry->u, 12);
        if (take8(in) & 1)
            entry->u.irqchip = (struct kvm_irq_routing_irqchip){ .irqchip = entry->gsi % 4, .pin = entry->gsi % 26 };
    }
    return sizeof(*routing) + count * sizeof(routing->entries[0]);
}

static size_t fill_msi(struct world *w, struct input *in, void *arg)
{
    (void)w;
    *(struct kvm_msi *)arg = (struct kvm_msi){ .address_lo = 0xfee00000u | (take32(in) & 0xfffff), .address_hi = (uint32_t)take_number(in),
                                               .data = (uint32_t)take(in, 2), .flags = take8(in) == 0 };
    return sizeof(struct kvm_msi);
}

static size_t fill_enable_cap(struct world *w, struct input *in, void *arg)
{
    static const uint16_t caps[] = {
        KVM_CAP_DISABLE_QUIRKS, KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_X2APIC_API, KVM_CAP_EXCEPTION_PAYLOAD, KVM_CAP_X86_TRIPLE_FAULT_EVENT,
        KVM_CAP_X86_USER_SPACE_MSR, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_CAP_MAX_VCPU_ID, KVM_CAP_MSR_PLATFORM_INFO,
        KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DISABLE_QUIRKS2, KVM_CAP_X86_DISABLE_EXITS, KVM_CAP_EXIT_HYPERCALL,
        KVM_CAP_EXIT_ON_EMULATION_FAILURE, KVM_CAP_ENFORCE_PV_FEATURE_CPUID, KVM_CAP_HYPERV_SYNIC, KVM_CAP_PMU_CAPABILITY,
        KVM_CAP_X86_BUS_LOCK_EXIT, KVM_CAP_X86_NOTIFY_VMEXIT, KVM_CAP_DIRTY_LOG_RING_ACQ_REL,
    };
    struct kvm_enable_cap *cap = arg;

    (void)w;
    cap->cap = caps[take8(in) % (sizeof(caps) / sizeof(caps[0]))];
    cap->args[0] = take_number(in);
    cap->flags = take8(in) == 0;
    return sizeof(*cap);
}

static size_t fill_msrs(struct world *w, struct input *in, void *arg)
{
    static const uint32_t bases[] = { 0x10, 0x1b, 0x174, 0x1a0, 0x200, 0x250, 0x277, 0x400, 0x6e0, 0x800, 0xc0000080, 0xc0000100, 0x4b564d00,
                                      0x40000000, 0xc0010010, 0x3b };
    struct kvm_msrs *msrs = arg;
    uint32_t count = take8(in) % 16;

    (void)w;
    msrs->nmsrs = take8(in) == 0 ? (uint32_t)take_number(in) : count;
    for (uint32_t i = 0; i < count; i++) {
        msrs->entries[i].index = bases[take8(in) % (sizeof(bases) / sizeof(bases[0]))] + take8(in) % 32;
        msrs->entries[i].data = take_number(in);
    }
    return sizeof(*msrs) + count * sizeof(msrs->entries[0]);
}

static size_t fill_msr_list(struct world *w, struct input *in, void *arg)
{
    struct kvm_msr_list *list = arg;
    uint32_t room = take8(in) & 1 ? 0 : 512;

    (void)w;
    list->nmsrs = take8(in) == 0 ? (uint32_t)take_number(in) : room;
    return sizeof(*list) + room * sizeof(list->indices[0]);
}

static size_t fill_cpuid(struct world *w, struct input *in, void *arg)
{
    struct kvm_cpuid2 *cpuid = arg;
    uint32_t room = 128;

    cpuid->nent = room;
    if (take8(in) & 1)
        kage_backend_soft.ioctl(w->system, KVM_GET_SUPPORTED_CPUID, cpuid);
    else
        cpuid->nent = room = take8(in) % 16;
    for (unsigned i = take8(in) % 8; i-- > 0 && room;) {
        struct kvm_cpuid_entry2 *entry = &cpuid->entries[take8(in) % room];
        uint32_t *words = &entry->function;
        words[take8(in) % 7] = take32(in);
    }
    if (take8(in) == 0)
        cpuid->nent = (uint32_t)take_number(in);
    return sizeof(*cpuid) + room * sizeof(cpuid->entries[0]);
}

static size_t fill_signal_mask(struct world *w, struct input *in, void *arg)
{
    struct kvm_signal_mask *mask = arg;

    mask->len = take8(in) == 0 ? (uint32_t)take_number(in) : 8;
    take_into(in, mask->sigset, 8);
    mask->sigset[(w->timer_signal - 1) / 8] &= (uint8_t)~(1u << ((w->timer_signal - 1) % 8));
    return sizeof(*mask) + 8;
}

static size_t fill_filter(struct world *w, struct input *in, void *arg)
{
    struct kvm_msr_filter *filter = arg;

    filter->flags = take8(in) % 3;
    for (unsigned i = take8(in) % 4; i-- > 0;)
        filter->ranges[take8(in) % KVM_MSR_FILTER_MAX_RANGES] = (struct kvm_msr_filter_range){
            .flags = take8(in) % 4, .nmsrs = (uint32_t)take_number(in) % 0x4000, .base = take32(in), .bitmap = pointer_make(w, in)
        };
    return sizeof(*filter);
}

static size_t fill_device_attr(struct world *w, struct input *in, void *arg)
{
    *(struct kvm_device_attr *)arg = (struct kvm_device_attr){ .flags = take8(in) == 0, .group = take8(in) % 2, .attr = take8(in) % 2,
                                                               .addr = (uintptr_t)pointer_make(w, in) };
    return sizeof(struct kvm_device_attr);
}

static size_t fill_zone(struct world *w, struct input *in, void *arg)
{
    (void)w;
    *(struct kvm_coalesced_mmio_zone *)arg = (struct kvm_coalesced_mmio_zone){ .addr = take_number(in), .size = (uint32_t)take_number(in),
                                                                               .pio = take8(in) % 3 };
    return sizeof(struct kvm_coalesced_mmio_zone);
}

static size_t fill_chip_id(struct world *w, struct input *in, void *arg)
{
    (void)w;
    ((struct kvm_irqchip *)arg)->chip_id = take8(in) % 4;
    return sizeof(struct kvm_irqchip);
}

/* A request, the GET that gives a sound structure for it, and what makes one. */
static const struct {
    unsigned long request, get;
    fill_fn *fill;
} fills[] = {
    { KVM_SET_USER_MEMORY_REGION, 0, fill_region }, { KVM_GET_DIRTY_LOG, 0, fill_dirty_log }, { KVM_CLEAR_DIRTY_LOG, 0, fill_clear_log },
    { KVM_IRQFD, 0, fill_irqfd }, { KVM_IOEVENTFD, 0, fill_ioeventfd }, { KVM_SET_GSI_ROUTING, 0, fill_routing },
    { KVM_SIGNAL_MSI, 0, fill_msi }, { KVM_ENABLE_CAP, 0, fill_enable_cap }, { KVM_GET_MSRS, 0, fill_msrs }, { KVM_SET_MSRS, 0, fill_msrs },
    { KVM_GET_MSR_INDEX_LIST, 0, fill_msr_list }, { KVM_GET_MSR_FEATURE_INDEX_LIST, 0, fill_msr_list },
    { KVM_GET_SUPPORTED_CPUID, 0, fill_cpuid }, { KVM_GET_EMULATED_CPUID, 0, fill_cpuid }, { KVM_SET_CPUID2, 0, fill_cpuid },
    { KVM_GET_CPUID2, 0, fill_cpuid }, { KVM_SET_SIGNAL_MASK, 0, fill_signal_mask }, { KVM_X86_SET_MSR_FILTER, 0, fill_filter },
    { KVM_HAS_DEVICE_ATTR, 0, fill_device_attr }, { KVM_GET_DEVICE_ATTR, 0, fill_device_attr }, { KVM_SET_DEVICE_ATTR, 0, fill_device_attr },
    { KVM_REGISTER_COALESCED_MMIO, 0, fill_zone }, { KVM_UNREGISTER_COALESCED_MMIO, 0, fill_zone }, { KVM_GET_IRQCHIP, 0, fill_chip_id },
    { KVM_SET_IRQCHIP, KVM_GET_IRQCHIP, fill_chip_id }, { KVM_SET_REGS, KVM_GET_REGS, NULL }, { KVM_SET_SREGS, KVM_GET_SREGS, NULL },
    { KVM_SET_SREGS2, KVM_GET_SREGS2, NULL }, { KVM_SET_FPU, KVM_GET_FPU, NULL }, { KVM_SET_XSAVE, KVM_GET_XSAVE, NULL },
    { KVM_SET_XCRS, KVM_GET_XCRS, NULL }, { KVM_SET_DEBUGREGS, KVM_GET_DEBUGREGS, NULL }, { KVM_SET_LAPIC, KVM_GET_LAPIC, NULL },
    { KVM_SET_MP_STATE, KVM_GET_MP_STATE, NULL }, { KVM_SET_VCPU_EVENTS, KVM_GET_VCPU_EVENTS, NULL }, { KVM_SET_PIT, KVM_GET_PIT, NULL },
    { KVM_SET_PIT2, KVM_GET_PIT2, NULL }, { KVM_SET_CLOCK, KVM_GET_CLOCK, NULL },
};

/* What the structure is before the input's bytes go over it; its size. */
static size_t fill(struct world *w, struct input *in, int handle, const struct kvm_request *request, void *arg)
{
    for (size_t i = 0; i < sizeof(fills) / sizeof(fills[0]); i++) {
        if ((uint32_t)fills[i].request != request->request)
            continue;
        size_t bytes = fills[i].fill ? fills[i].fill(w, in, arg) : request->bytes;
        if (fills[i].get)
            kage_backend_soft.ioctl(handle, fills[i].get, arg);
        return bytes;
    }
    return request->bytes;
}

void *argument_make(struct world *w, struct input *in, int handle, unsigned row)
{
    const struct kvm_request *request = &kvm_requests[row];
    uint8_t how = take8(in);

    if (!request->bytes)
        return (void *)(uintptr_t)take_number(in);
    if (how % 16 == 15)
        return pointer_make(w, in);
    uint8_t *arg = w->argument; /* made where there is room, then moved to the end */
    memset(arg, 0, ARGUMENT_BYTES);
    size_t bytes = fill(w, in, handle, request, arg);
    for (unsigned i = how % 8; i-- > 0 && bytes;) {
        size_t at = take(in, 2) % bytes, count = 1 + take8(in) % 8;
        if (request->request != KVM_SET_USER_MEMORY_REGION && request->request != KVM_SET_SIGNAL_MASK)
            take_into(in, arg + at, count < bytes - at ? count : bytes - at);
    }
    if (bytes % 8) /* the API's structures are aligned */
        bytes += 8 - bytes % 8;
    memmove(arg + ARGUMENT_BYTES - bytes, arg, bytes);
    return arg + ARGUMENT_BYTES - bytes;
}
