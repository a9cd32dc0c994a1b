/* SPDX-License-Identifier: MIT */
/*
 * The VM object: its life, and the ioctls that belong to no part with a file of its own.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "kage.h"
#include "kvm/inspect.h"
#include "kvm/vcpu.h"
#include "mmu/ept.h"

#define VM_MAX_PMU_EVENTS 300u /* KVM_PMU_EVENT_FILTER_MAX_EVENTS */

static int vm_init(struct kvm_vm *vm)
{
    int err = ept_new(&vm->ept);
    if (err)
        return err;
    err = cpu_vm_new(vm->ept, &vm->cpu_vm);
    if (err)
        goto out_ept;
    vm->ioeventfds = ioeventfd_new();
    if (!vm->ioeventfds) {
        err = -ENOMEM;
        goto out_cpu_vm;
    }
    kvm_object_init(&vm->object, KVM_KIND_VM);
    pthread_mutex_init(&vm->lock, NULL);
    pthread_mutex_init(&vm->error.lock, NULL);
    pthread_mutex_init(&vm->ring_lock, NULL);
    pthread_mutex_init(&vm->inspect_lock, NULL);
    pthread_rwlock_init(&vm->zones_lock, NULL);
    kvm_memslots_init(&vm->memslots);
    kvm_clock_init(&vm->clock);
    vm->counters = &vm->own_counters;
    kvm_stats_file_init(&vm->stats_file);
    vm->identity_map_addr = 0xfffbc000u;
    vm->mmu_pages = SHADOW_MIN_PAGES;
    return 0;

out_cpu_vm:
    cpu_vm_free(vm->cpu_vm);
out_ept:
    ept_free(vm->ept);
    return err;
}

int kvm_vm_create(uintptr_t type)
{
    if (type)
        return -EINVAL; /* KVM_X86_DEFAULT_VM is the only one */
    struct kvm_vm *vm = calloc(1, sizeof(*vm));
    if (!vm)
        return -ENOMEM;
    int err = vm_init(vm);
    if (err) {
        free(vm);
        return err;
    }
    int fd = kvm_handle_new_fd("kvm-vm");
    err = fd < 0 ? -errno : kvm_handle_install(fd, &vm->object);
    if (err) {
        if (fd >= 0)
            close(fd);
        kvm_object_put(&vm->object);
        return err;
    }
    return fd;
}

/* The last reference is gone: no vCPU has a handle or runs. */
void kvm_vm_free(struct kvm_object *object)
{
    struct kvm_vm *vm = kvm_vm_of(object);
    unsigned count = atomic_load(&vm->vcpu_count);

    kvm_inspect_leave(vm);
    if (kvm_vm_irqchip(vm))
        irqchip_free(kvm_vm_irqchip(vm)); /* first: its threads call into the vCPUs */
    for (unsigned i = 0; i < count; i++)
        kvm_vcpu_destroy(kvm_vm_vcpu(vm, i));
    kvm_shadow_free(vm);
    ioeventfd_free(vm->ioeventfds);
    kvm_memslots_fini(&vm->memslots);
    kvm_clock_fini(&vm->clock);
    kvm_stats_file_fini(&vm->stats_file);
    kvm_msr_filter_fini(vm);
    cpu_vm_free(vm->cpu_vm);
    ept_free(vm->ept);
    pthread_rwlock_destroy(&vm->zones_lock);
    pthread_mutex_destroy(&vm->ring_lock);
    pthread_mutex_destroy(&vm->inspect_lock);
    pthread_mutex_destroy(&vm->error.lock);
    pthread_mutex_destroy(&vm->lock);
    free(vm);
}

/* Runs fn with the VM mutex held. */
#define VM_LOCKED(vm, expression)                                                                                      \
    __extension__({                                                                                                    \
        pthread_mutex_lock(&(vm)->lock);                                                                               \
        int locked_result = (expression);                                                                              \
        pthread_mutex_unlock(&(vm)->lock);                                                                             \
        locked_result;                                                                                                 \
    })

static int vm_check_extension(struct kvm_object *object, void *arg)
{
    (void)object;
    return kvm_check_extension((uintptr_t)arg);
}

static int vm_create_vcpu(struct kvm_object *object, void *arg)
{
    struct kvm_vm *vm = kvm_vm_of(object);

    return VM_LOCKED(vm, kvm_vcpu_create(vm, (uintptr_t)arg));
}

static int vm_set_user_memory_region(struct kvm_object *object, void *arg)
{
    struct kvm_vm *vm = kvm_vm_of(object);
    const struct kvm_userspace_memory_region region = *(const struct kvm_userspace_memory_region *)arg;

    return VM_LOCKED(vm, kvm_memslot_set(vm, &region));
}

static int vm_get_dirty_log(struct kvm_object *object, void *arg)
{
    struct kvm_vm *vm = kvm_vm_of(object);
    const struct kvm_dirty_log log = *(const struct kvm_dirty_log *)arg;

    return VM_LOCKED(vm, kvm_memslot_get_dirty(vm, &log));
}

static int vm_clear_dirty_log(struct kvm_object *object, void *arg)
{
    struct kvm_vm *vm = kvm_vm_of(object);
    const struct kvm_clear_dirty_log log = *(const struct kvm_clear_dirty_log *)arg;

    return VM_LOCKED(vm, kvm_memslot_clear_dirty(vm, &log));
}

/* Pages that VT-x without unrestricted guest needs; this processor does not, but the addresses are checked and kept. */
static int vm_set_tss_addr(struct kvm_object *object, void *arg)
{
    uintptr_t address = (uintptr_t)arg;

    if (address > UINT32_MAX - 3 * KAGE_PAGE_SIZE)
        return -EINVAL;
    kvm_vm_of(object)->tss_addr = address;
    return 0;
}

static int vm_set_identity_map_addr(struct kvm_object *object, void *arg)
{
    struct kvm_vm *vm = kvm_vm_of(object);
    uint64_t address = *(const uint64_t *)arg;

    if (atomic_load(&vm->vcpu_count))
        return -EINVAL;
    vm->identity_map_addr = address ? address : 0xfffbc000u;
    return 0;
}

static int vm_set_boot_cpu_id(struct kvm_object *object, void *arg)
{
    struct kvm_vm *vm = kvm_vm_of(object);

    if (atomic_load(&vm->vcpu_count))
        return -EBUSY;
    vm->boot_cpu_id = (uint32_t)(uintptr_t)arg;
    return 0;
}

static int vm_get_clock(struct kvm_object *object, void *arg)
{
    struct kvm_vm *vm = kvm_vm_of(object);
    struct kvm_clock_data *data = arg;
    struct timespec real;
    uint64_t tsc = kvm_host_tsc();

    memset(data, 0, sizeof(*data));
    clock_gettime(CLOCK_REALTIME, &real);
    data->clock = (uint64_t)kvm_clock_at(&vm->clock, tsc, NULL);
    if (!kvm_clock_is_stable(&vm->clock))
        return 0; /* the pairs mean nothing where each vCPU has a TSC of its own */
    data->flags = KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC;
    data->realtime = (uint64_t)real.tv_sec * 1000000000ull + (uint64_t)real.tv_nsec;
    data->host_tsc = tsc;
    return 0;
}

static int vm_set_clock(struct kvm_object *object, void *arg)
{
    struct kvm_vm *vm = kvm_vm_of(object);
    const struct kvm_clock_data data = *(const struct kvm_clock_data *)arg;
    uint64_t clock = data.clock;

    if (data.flags & ~(uint32_t)(KVM_CLOCK_REALTIME | KVM_CLOCK_TSC_STABLE | KVM_CLOCK_HOST_TSC))
        return -EINVAL;
    if (data.flags & KVM_CLOCK_REALTIME) { /* the time that passed since it was read goes on top */
        struct timespec real;
        clock_gettime(CLOCK_REALTIME, &real);
        uint64_t now = (uint64_t)real.tv_sec * 1000000000ull + (uint64_t)real.tv_nsec;
        if (now > data.realtime)
            clock += now - data.realtime;
    }
    pthread_mutex_lock(&vm->clock.lock);
    vm->clock.reference_tsc = kvm_host_tsc();
    vm->clock.reference_ns = (int64_t)clock;
    vm->clock.generation++;
    pthread_mutex_unlock(&vm->clock.lock);
    for (unsigned i = 0; i < atomic_load(&vm->vcpu_count); i++)
        kvm_vcpu_request(kvm_vm_vcpu(vm, i), KVM_REQ_CLOCK);
    return 0;
}

static int vm_get_tsc_khz(struct kvm_object *object, void *arg)
{
    (void)object, (void)arg;
    return (int)kvm_host_tsc_khz();
}

/* Frequencies other than the host's would need a multiplication at every RDTSC: within 250 ppm it is the host's. */
int kvm_tsc_khz_check(uintptr_t khz)
{
    uintptr_t host = kvm_host_tsc_khz(), tolerance = host / 4000;

    return khz == 0 || (khz + tolerance >= host && khz <= host + tolerance) ? 0 : -EINVAL;
}

static int vm_set_tsc_khz(struct kvm_object *object, void *arg)
{
    (void)object;
    return kvm_tsc_khz_check((uintptr_t)arg);
}

static int vm_enable_cap(struct kvm_object *object, void *arg)
{
    struct kvm_vm *vm = kvm_vm_of(object);

    return VM_LOCKED(vm, kvm_vm_enable_cap(vm, arg));
}

static int vm_set_nr_mmu_pages(struct kvm_object *object, void *arg)
{
    struct kvm_vm *vm = kvm_vm_of(object);
    uintptr_t pages = (uint32_t)(uintptr_t)arg;

    if (pages < SHADOW_MIN_PAGES)
        return -EINVAL;
    pthread_mutex_lock(&vm->lock);
    pthread_mutex_lock(&vm->memslots.mmu_lock);
    vm->mmu_pages = (uint32_t)pages;
    vm->mmu_pages_asked = true;
    kvm_shadow_set_pages(vm);
    pthread_mutex_unlock(&vm->memslots.mmu_lock);
    pthread_mutex_unlock(&vm->lock);
    return 0;
}

static int vm_get_nr_mmu_pages(struct kvm_object *object, void *arg)
{
    (void)arg;
    return (int)kvm_vm_of(object)->mmu_pages;
}

/* There are no performance counters, so every event is denied already: only the argument is judged (api.rst 4.120). */
/* On x86 the kernel's only device is VFIO's, for passthrough. */
static int vm_create_device(struct kvm_object *object, void *arg)
{
    (void)object, (void)arg;
    return -ENODEV;
}

static int vm_set_pmu_event_filter(struct kvm_object *object, void *arg)
{
    struct kvm_pmu_event_filter filter, *client = arg;
    uint64_t event;

    (void)object;
    if (kvm_copy_in(&filter, client, sizeof(filter)))
        return -EFAULT;
    if (filter.action > KVM_PMU_EVENT_DENY || filter.flags)
        return -EINVAL;
    if (filter.nevents > VM_MAX_PMU_EVENTS)
        return -E2BIG;
    for (uint32_t i = 0; i < filter.nevents; i++)
        if (kvm_copy_in(&event, &client->events[i], sizeof(event)))
            return -EFAULT;
    return 0;
}

/* The bits are those of engine/cpu/code_cache.h. */
static int vm_set_test_flags(struct kvm_object *object, void *arg)
{
    uintptr_t flags = (uintptr_t)arg;

    if (flags & ~(uintptr_t)(KAGE_TEST_NO_CHAIN | KAGE_TEST_SINGLE_INSN | KAGE_TEST_TINY_TLB))
        return -EINVAL;
    cpu_vm_set_test_flags(kvm_vm_of(object)->cpu_vm, (unsigned)flags);
    return 0;
}

static const struct kvm_ioctl_desc vm_rows[] = {
    { KVM_CHECK_EXTENSION, KVM_ARG_VALUE, vm_check_extension },
    { KVM_CREATE_VCPU, KVM_ARG_VALUE, vm_create_vcpu },
    { KVM_SET_USER_MEMORY_REGION, KVM_ARG_IN, vm_set_user_memory_region },
    { KVM_GET_DIRTY_LOG, KVM_ARG_IN, vm_get_dirty_log },
    { (uint32_t)KVM_CLEAR_DIRTY_LOG, KVM_ARG_IN, vm_clear_dirty_log },
    { KVM_RESET_DIRTY_RINGS, KVM_ARG_VALUE, kvm_vm_reset_dirty_rings },
    { KVM_SET_NR_MMU_PAGES, KVM_ARG_VALUE, vm_set_nr_mmu_pages },
    { KVM_GET_NR_MMU_PAGES, KVM_ARG_VALUE, vm_get_nr_mmu_pages },
    { KVM_SET_PMU_EVENT_FILTER, KVM_ARG_RAW, vm_set_pmu_event_filter },
    { (uint32_t)KVM_CREATE_DEVICE, KVM_ARG_INOUT, vm_create_device },
    { KVM_SET_TSS_ADDR, KVM_ARG_VALUE, vm_set_tss_addr },
    { KVM_SET_IDENTITY_MAP_ADDR, KVM_ARG_IN, vm_set_identity_map_addr },
    { KVM_SET_BOOT_CPU_ID, KVM_ARG_VALUE, vm_set_boot_cpu_id },
    { KVM_GET_CLOCK, KVM_ARG_OUT, vm_get_clock },
    { KVM_SET_CLOCK, KVM_ARG_IN, vm_set_clock },
    { KVM_GET_TSC_KHZ, KVM_ARG_VALUE, vm_get_tsc_khz },
    { KVM_SET_TSC_KHZ, KVM_ARG_VALUE, vm_set_tsc_khz },
    { KVM_ENABLE_CAP, KVM_ARG_IN, vm_enable_cap },
    { KVM_CREATE_IRQCHIP, KVM_ARG_VALUE, kvm_vm_create_irqchip },
    { (uint32_t)KVM_GET_IRQCHIP, KVM_ARG_INOUT, kvm_vm_get_irqchip },
    { KVM_SET_IRQCHIP, KVM_ARG_IN, kvm_vm_set_irqchip },
    { KVM_IRQ_LINE, KVM_ARG_IN, kvm_vm_irq_line },
    { (uint32_t)KVM_IRQ_LINE_STATUS, KVM_ARG_INOUT, kvm_vm_irq_line_status },
    { KVM_SET_GSI_ROUTING, KVM_ARG_RAW, kvm_vm_set_gsi_routing },
    { KVM_SIGNAL_MSI, KVM_ARG_IN, kvm_vm_signal_msi },
    { KVM_IRQFD, KVM_ARG_IN, kvm_vm_irqfd },
    { KVM_IOEVENTFD, KVM_ARG_IN, kvm_vm_ioeventfd },
    { KVM_CREATE_PIT, KVM_ARG_VALUE, kvm_vm_create_pit },
    { KVM_CREATE_PIT2, KVM_ARG_IN, kvm_vm_create_pit2 },
    { (uint32_t)KVM_GET_PIT, KVM_ARG_INOUT, kvm_vm_get_pit },
    { KVM_SET_PIT, KVM_ARG_IN, kvm_vm_set_pit },
    { KVM_GET_PIT2, KVM_ARG_OUT, kvm_vm_get_pit2 },
    { KVM_SET_PIT2, KVM_ARG_IN, kvm_vm_set_pit2 },
    { KVM_REINJECT_CONTROL, KVM_ARG_RAW, kvm_vm_reinject_control },
    { KVM_REGISTER_COALESCED_MMIO, KVM_ARG_IN, kvm_vm_register_coalesced },
    { KVM_UNREGISTER_COALESCED_MMIO, KVM_ARG_IN, kvm_vm_unregister_coalesced },
    { KVM_X86_SET_MSR_FILTER, KVM_ARG_IN, kvm_vm_set_msr_filter },
    { KVM_KAGE_SET_TEST_FLAGS, KVM_ARG_VALUE, vm_set_test_flags },
    { KVM_GET_STATS_FD, KVM_ARG_VALUE, kvm_vm_get_stats_fd },
    { (uint32_t)KAGE_GET_STATS, KVM_ARG_RAW, kvm_vm_get_stats },
    { (uint32_t)KAGE_GET_ERROR, KVM_ARG_RAW, kvm_vm_get_error },
    { (uint32_t)KAGE_INSPECT, KVM_ARG_INOUT, kvm_vm_inspect },
};
const struct kvm_ioctl_table kvm_vm_ioctls = { vm_rows, KAGE_ARRAY_SIZE(vm_rows) };
