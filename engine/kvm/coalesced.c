/* SPDX-License-Identifier: MIT */
/*
 * Coalesced MMIO and PIO (api.rst 4.116): writes to registered zones go to a ring that the client
 * reads when it next has the vCPU, instead of an exit each. One ring for a VM, on a page of every
 * vCPU's mapping; here it is vCPU 0's, which is where clients look.
 */
#include <errno.h>
#include <string.h>

#include "kvm/vcpu.h"

#define RING_ENTRIES ((KAGE_PAGE_SIZE - sizeof(struct kvm_coalesced_mmio_ring)) / sizeof(struct kvm_coalesced_mmio))

int kvm_vm_register_coalesced(struct kvm_object *object, void *arg)
{
    struct kvm_vm *vm = kvm_vm_of(object);
    const struct kvm_coalesced_mmio_zone zone = *(const struct kvm_coalesced_mmio_zone *)arg;
    int err = 0;

    if (zone.pio > 1)
        return -EINVAL;
    pthread_rwlock_wrlock(&vm->zones_lock);
    if (vm->zone_count < KVM_VM_MAX_ZONES)
        vm->zones[vm->zone_count++] = zone;
    else
        err = -ENOSPC;
    pthread_rwlock_unlock(&vm->zones_lock);
    return err;
}

static bool zone_within(const struct kvm_coalesced_mmio_zone *zone, uint32_t pio, uint64_t addr, uint64_t len)
{
    return zone->pio == pio && addr >= zone->addr && len <= zone->size && addr - zone->addr <= zone->size - len;
}

/* Removes every zone that the given one lies within. */
int kvm_vm_unregister_coalesced(struct kvm_object *object, void *arg)
{
    struct kvm_vm *vm = kvm_vm_of(object);
    const struct kvm_coalesced_mmio_zone zone = *(const struct kvm_coalesced_mmio_zone *)arg;

    if (zone.pio > 1)
        return -EINVAL;
    pthread_rwlock_wrlock(&vm->zones_lock);
    for (unsigned i = 0; i < vm->zone_count;) {
        if (zone_within(&vm->zones[i], zone.pio, zone.addr, zone.size))
            vm->zones[i] = vm->zones[--vm->zone_count];
        else
            i++;
    }
    pthread_rwlock_unlock(&vm->zones_lock);
    return 0;
}

bool kvm_coalesced_write(struct kvm_vm *vm, bool pio, uint64_t addr, uint32_t len, const void *data)
{
    struct kvm_coalesced_mmio_ring *ring = atomic_load_explicit(&vm->ring, memory_order_acquire);
    bool hit = false;

    if (!ring || len > sizeof(ring->coalesced_mmio[0].data))
        return false;
    pthread_rwlock_rdlock(&vm->zones_lock);
    for (unsigned i = 0; i < vm->zone_count && !hit; i++)
        hit = zone_within(&vm->zones[i], pio, addr, len);
    pthread_rwlock_unlock(&vm->zones_lock);
    if (!hit)
        return false;

    /* The client writes `first` and may write nonsense: indices are reduced, and a full ring is an exit. */
    pthread_mutex_lock(&vm->ring_lock);
    uint32_t last = __atomic_load_n(&ring->last, __ATOMIC_RELAXED) % (uint32_t)RING_ENTRIES;
    uint32_t first = __atomic_load_n(&ring->first, __ATOMIC_ACQUIRE) % (uint32_t)RING_ENTRIES;
    uint32_t next = (last + 1) % (uint32_t)RING_ENTRIES;
    bool room = next != first;
    if (room) {
        struct kvm_coalesced_mmio *entry = &ring->coalesced_mmio[last];
        entry->phys_addr = addr;
        entry->len = len;
        entry->pio = pio;
        memcpy(entry->data, data, len);
        __atomic_store_n(&ring->last, next, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&vm->ring_lock);
    return room;
}
