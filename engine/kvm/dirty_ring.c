/* SPDX-License-Identifier: MIT */
#include "kvm/dirty_ring.h"

#include <errno.h>
#include <sys/mman.h>

#include "kvm/vcpu.h"
#include "mmu/ept.h"

/* From here on the vCPU leaves at its next poll: what one block may dirty until then, as a rule. */
#define RING_SOFT_RESERVE 64u /* KVM_DIRTY_RING_RSVD_ENTRIES */
/* And from here on its instructions do not complete: what is left is for kvm-clock's, steal time's, PV EOI's pages. */
#define RING_HARD_RESERVE 16u

int kvm_dirty_ring_enable(struct kvm_vm *vm, uint64_t bytes)
{
    if (!bytes || (bytes & (bytes - 1)) || bytes < KAGE_PAGE_SIZE ||
        bytes < 2 * RING_SOFT_RESERVE * sizeof(struct kvm_dirty_gfn))
        return -EINVAL;
    if (bytes > KVM_DIRTY_RING_MAX_BYTES)
        return -E2BIG;
    if (vm->dirty_ring_bytes || atomic_load(&vm->vcpu_count))
        return -EINVAL;
    vm->dirty_ring_bytes = (uint32_t)bytes;
    return 0;
}

size_t kvm_dirty_ring_file_bytes(const struct kvm_vm *vm)
{
    return vm->dirty_ring_bytes ? KVM_DIRTY_LOG_PAGE_OFFSET * KAGE_PAGE_SIZE + vm->dirty_ring_bytes : 0;
}

int kvm_dirty_ring_map(struct kvm_vcpu *vcpu, int fd)
{
    uint32_t bytes = vcpu->vm->dirty_ring_bytes;

    if (!bytes)
        return 0;
    void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)(KVM_DIRTY_LOG_PAGE_OFFSET * KAGE_PAGE_SIZE));
    if (map == MAP_FAILED)
        return -errno;
    vcpu->dirty_ring = (struct kvm_dirty_ring){ .gfns = map, .entries = bytes / (uint32_t)sizeof(struct kvm_dirty_gfn) };
    return 0;
}

void kvm_dirty_ring_unmap(struct kvm_vcpu *vcpu)
{
    if (vcpu->dirty_ring.gfns)
        munmap(vcpu->dirty_ring.gfns, vcpu->dirty_ring.entries * sizeof(struct kvm_dirty_gfn));
}

static uint32_t ring_room(const struct kvm_dirty_ring *ring)
{
    return ring->entries - (ring->dirty_index - ring->reset_index);
}

bool kvm_dirty_ring_push(struct kvm_vcpu *vcpu, const struct kvm_memslot *slot, uint64_t page, bool by_guest)
{
    struct kvm_dirty_ring *ring = &vcpu->dirty_ring;

    if (ring_room(ring) <= (by_guest ? RING_HARD_RESERVE : 0))
        return false;
    struct kvm_dirty_gfn *entry = &ring->gfns[ring->dirty_index & (ring->entries - 1)];
    __atomic_store_n(&entry->slot, slot->id, __ATOMIC_RELAXED);
    __atomic_store_n(&entry->offset, page, __ATOMIC_RELAXED);
    __atomic_store_n(&entry->flags, KVM_DIRTY_GFN_F_DIRTY, __ATOMIC_RELEASE);
    ring->dirty_index++;
    if (ring_room(ring) <= RING_SOFT_RESERVE)
        cpu_request(vcpu->cpu, CPU_REQ_KICK);
    return true;
}

bool kvm_dirty_ring_is_full(const struct kvm_vcpu *vcpu)
{
    const struct kvm_dirty_ring *ring = &vcpu->dirty_ring;

    if (!ring->gfns)
        return false;
    pthread_mutex_lock(&vcpu->vm->memslots.mmu_lock);
    bool full = ring_room(ring) <= RING_SOFT_RESERVE;
    pthread_mutex_unlock(&vcpu->vm->memslots.mmu_lock);
    return full;
}

struct ring_reset {
    struct kvm_vm *vm;
    int taken;
};

/* The entry's words are the client's by now: a slot or page that is not there is passed over. */
static void reset_page(struct kvm_vm *vm, uint32_t id, uint64_t page)
{
    struct kvm_memslot *slot = kvm_memslot_by_id(&vm->memslots, id);

    if (!slot || !slot->dirty_bitmap || page >= slot->bytes >> KAGE_PAGE_SHIFT)
        return;
    slot->dirty_bitmap[page / 64] &= ~(1ull << (page % 64));
    ept_write_protect_pages(vm->ept, slot->gpa + (page << KAGE_PAGE_SHIFT), 1);
    kvm_shadow_protect(vm, slot->gpa + (page << KAGE_PAGE_SHIFT), 1);
}

static void reset_rings(void *arg)
{
    struct ring_reset *reset = arg;
    struct kvm_vm *vm = reset->vm;

    pthread_mutex_lock(&vm->memslots.mmu_lock);
    for (unsigned i = 0; i < atomic_load(&vm->vcpu_count); i++) {
        struct kvm_dirty_ring *ring = &kvm_vm_vcpu(vm, i)->dirty_ring;
        while (ring->reset_index != ring->dirty_index) {
            struct kvm_dirty_gfn *entry = &ring->gfns[ring->reset_index & (ring->entries - 1)];
            if (!(__atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_RESET))
                break;
            reset_page(vm, __atomic_load_n(&entry->slot, __ATOMIC_RELAXED), __atomic_load_n(&entry->offset, __ATOMIC_RELAXED));
            __atomic_store_n(&entry->flags, 0, __ATOMIC_RELEASE);
            ring->reset_index++;
            reset->taken++;
        }
    }
    pthread_mutex_unlock(&vm->memslots.mmu_lock);
    if (reset->taken)
        kvm_memslot_flush_tlbs(vm);
}

int kvm_vm_reset_dirty_rings(struct kvm_object *object, void *arg)
{
    struct ring_reset reset = { .vm = kvm_vm_of(object) };

    (void)arg;
    if (!reset.vm->dirty_ring_bytes)
        return -EINVAL;
    pthread_mutex_lock(&reset.vm->lock);
    cpu_vm_exclusive(reset.vm->cpu_vm, NULL, reset_rings, &reset);
    pthread_mutex_unlock(&reset.vm->lock);
    return reset.taken;
}
