/* SPDX-License-Identifier: MIT */
/*
 * Memory slots (see memslot.h): KVM_SET_USER_MEMORY_REGION, dirty logs, and the EPT filled on
 * demand. Every change is prepared first and then made in one step that cannot fail, with all vCPUs
 * stopped where a translation that they may hold goes away.
 */
#include "kvm/memslot.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/host_pages.h"
#include "kvm/vcpu.h"
#include "mmu/ept.h"

#define MEMSLOT_MAX_PAGES ((1ull << 31) - 1)
#define MEMSLOT_GPA_LIMIT (1ull << EPT_GPA_BITS)
#define MEMSLOT_HVA_LIMIT ((1ull << 47) - KAGE_PAGE_SIZE) /* TASK_SIZE_MAX */
#define MEMSLOT_FLAGS (KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY)

void kvm_memslots_init(struct kvm_memslots *memslots)
{
    memset(memslots, 0, sizeof(*memslots));
    pthread_mutex_init(&memslots->mmu_lock, NULL);
}

void kvm_memslots_fini(struct kvm_memslots *memslots)
{
    for (size_t i = 0; i < memslots->count; i++) {
        host_range_remove(memslots->slots[i].hva, memslots->slots[i].bytes);
        free(memslots->slots[i].dirty_bitmap);
    }
    free(memslots->slots);
    pthread_mutex_destroy(&memslots->mmu_lock);
}

struct kvm_memslot *kvm_memslot_find(struct kvm_memslots *memslots, gpa_t gpa)
{
    size_t low = 0, high = memslots->count;

    while (low < high) {
        size_t mid = low + (high - low) / 2;
        struct kvm_memslot *slot = &memslots->slots[mid];
        if (gpa < slot->gpa)
            high = mid;
        else if (gpa - slot->gpa >= slot->bytes)
            low = mid + 1;
        else
            return slot;
    }
    return NULL;
}

gpa_t kvm_memslot_gpa(struct kvm_vm *vm, hva_t hva)
{
    struct kvm_memslots *memslots = &vm->memslots;
    gpa_t gpa = UINT64_MAX;

    pthread_mutex_lock(&memslots->mmu_lock);
    for (size_t i = 0; i < memslots->count && gpa == UINT64_MAX; i++)
        if (hva >= memslots->slots[i].hva && hva - memslots->slots[i].hva < memslots->slots[i].bytes)
            gpa = memslots->slots[i].gpa + (hva - memslots->slots[i].hva);
    pthread_mutex_unlock(&memslots->mmu_lock);
    return gpa;
}

unsigned kvm_memslot_level(const struct kvm_memslot *slot, gpa_t gpa)
{
    if (slot->flags & KVM_MEM_LOG_DIRTY_PAGES)
        return 0;
    for (unsigned level = 2; level > 0; level--) {
        uint64_t size = KAGE_PAGE_SIZE << (9 * level);
        gpa_t start = gpa & ~(size - 1);
        if (((slot->hva - slot->gpa) & (size - 1)) == 0 && start >= slot->gpa && start - slot->gpa <= slot->bytes &&
            slot->bytes - (start - slot->gpa) >= size)
            return level;
    }
    return 0;
}

static uint64_t slot_pages(const struct kvm_memslot *slot)
{
    return slot->bytes >> KAGE_PAGE_SHIFT;
}

static size_t slot_bitmap_words(const struct kvm_memslot *slot)
{
    return (size_t)((slot_pages(slot) + 63) / 64);
}

/* The page's first write since it was last taken. False: there is no room to note it, so it must not be written. */
static bool note_dirty(struct kvm_vcpu *vcpu, struct kvm_memslot *slot, uint64_t page, uint64_t qualification)
{
    if (vcpu->dirty_ring.gfns &&
        !kvm_dirty_ring_push(vcpu, slot, page, (qualification & VMX_EPT_QUAL_GLA_VALID) != 0))
        return false;
    slot->dirty_bitmap[page / 64] |= 1ull << (page % 64);
    vcpu->vm->counters->dirty_pages++;
    return true;
}

bool kvm_memslot_is_dirty(const struct kvm_memslot *slot, gpa_t gpa)
{
    uint64_t page = (gpa - slot->gpa) >> KAGE_PAGE_SHIFT;

    return !slot->dirty_bitmap || (slot->dirty_bitmap[page / 64] >> (page % 64) & 1);
}

bool kvm_memslot_note_write(struct kvm_vcpu *vcpu, struct kvm_memslot *slot, gpa_t gpa)
{
    return kvm_memslot_is_dirty(slot, gpa) || note_dirty(vcpu, slot, (gpa - slot->gpa) >> KAGE_PAGE_SHIFT, VMX_EPT_QUAL_GLA_VALID);
}

static void count_ept_pages(struct kvm_vm *vm)
{
    struct ept_stats ept;

    ept_get_stats(vm->ept, &ept);
    vm->counters->pages_4k = ept.pages_4k;
    vm->counters->pages_2m = ept.pages_2m;
    vm->counters->pages_1g = ept.pages_1g;
    vm->counters->ept_table_pages = ept.table_pages;
    vm->counters->ept_mmio_entries = ept.mmio;
}

/*
 * gpa is in no slot: the largest range around it without one gets a misconfigured entry, at which the next walk ends without asking. As large
 * as can be, so that a guest that touches everything makes no more tables than there are edges of slots.
 */
static void map_mmio(struct kvm_vcpu *vcpu, gpa_t gpa)
{
    struct kvm_memslots *memslots = &vcpu->vm->memslots;
    gpa_t first = 0, end = 1ull << EPT_GPA_BITS;

    if (gpa >= end)
        return;
    for (size_t low = 0, high = memslots->count; low < high;) { /* the gap's slots on both sides */
        size_t mid = low + (high - low) / 2;
        const struct kvm_memslot *slot = &memslots->slots[mid];
        if (gpa < slot->gpa) {
            end = slot->gpa;
            high = mid;
        } else {
            first = slot->gpa + slot->bytes;
            low = mid + 1;
        }
    }
    for (unsigned level = EPT_LEVELS; level-- > 0;) {
        uint64_t size = KAGE_PAGE_SIZE << (9 * level);
        gpa_t start = gpa & ~(size - 1);
        if (start < first || end - start < size)
            continue;
        int err = ept_map_mmio(vcpu->vm->ept, gpa, level);
        if (!err)
            vcpu->counters->pf_mmio_spte_created++;
        if (err != -EEXIST)
            return; /* without memory for it there is only more to ask */
    }
}

/* The page gets the rights that its slot and the dirty log give now. */
static int map_page(struct kvm_vcpu *vcpu, struct kvm_memslot *slot, gpa_t gpa, uint64_t qualification)
{
    uint64_t page = (gpa - slot->gpa) >> KAGE_PAGE_SHIFT;
    uint64_t bit = 1ull << (page % 64), prot = EPT_R | EPT_X;
    bool write = (qualification & VMX_EPT_QUAL_WRITE) != 0;

    if (slot->dirty_bitmap) {
        if (write && !(slot->dirty_bitmap[page / 64] & bit) && !note_dirty(vcpu, slot, page, qualification))
            return -ENOSPC;
        if (slot->dirty_bitmap[page / 64] & bit)
            prot |= EPT_W;
    } else {
        prot |= EPT_W;
    }
    if (slot->flags & KVM_MEM_READONLY)
        prot &= ~EPT_W;
    unsigned level = kvm_memslot_level(slot, gpa);
    gpa_t start = gpa & ~((KAGE_PAGE_SIZE << (9 * level)) - 1);
    return ept_map(vcpu->vm->ept, start, slot->hva + (start - slot->gpa), level, prot) ? -EFAULT : 0;
}

static bool is_mapped(const struct kvm_vm *vm, gpa_t gpa, uint64_t qualification)
{
    unsigned level;
    uint64_t needed = qualification & (VMX_EPT_QUAL_READ | VMX_EPT_QUAL_WRITE | VMX_EPT_QUAL_FETCH); /* as EPT_R, EPT_W, EPT_X */

    return (ept_walk(vm->ept, gpa, &level) & needed) == needed;
}

int kvm_memslot_ept_violation(struct cpu *cpu, gpa_t gpa, uint64_t qualification)
{
    struct kvm_vcpu *vcpu = cpu->owner;
    struct kvm_vm *vm = vcpu->vm;
    bool write = (qualification & VMX_EPT_QUAL_WRITE) != 0;
    int result = -ENOENT;

    pthread_mutex_lock(&vm->memslots.mmu_lock);
    vm->counters->ept_violations++;
    struct kvm_memslot *slot = kvm_memslot_find(&vm->memslots, gpa);
    if (!slot)
        map_mmio(vcpu, gpa);
    else if (is_mapped(vm, gpa, qualification)) /* another vCPU was here first */
        result = 1;
    else if (!(write && (slot->flags & KVM_MEM_READONLY)))
        result = map_page(vcpu, slot, gpa, qualification);
    count_ept_pages(vm);
    pthread_mutex_unlock(&vm->memslots.mmu_lock);
    if (!vm->shadow) { /* where it is kvm's own map, it is no fault of the guest's */
        vcpu->counters->pf_taken++;
        if (result == -ENOENT)
            vcpu->counters->pf_emulate++;
        else if (result >= 0)
            ++*(result ? &vcpu->counters->pf_spurious : &vcpu->counters->pf_fixed);
    }
    return result < 0 ? result : 0;
}

void kvm_memslot_flush_tlbs(struct kvm_vm *vm)
{
    unsigned count = atomic_load(&vm->vcpu_count);

    for (unsigned i = 0; i < count; i++)
        cpu_request(kvm_vm_vcpu(vm, i)->cpu, CPU_REQ_TLB_FLUSH);
    vm->counters->remote_tlb_flush_requests++; /* VM mutex held */
    vm->counters->remote_tlb_flush++;
}

/* A prepared change: the new array, and what leaves the EPT: the old slot's pages, and the new one's range, which was MMIO. */
struct memslot_change {
    struct kvm_vm *vm;
    struct kvm_memslot *slots;
    size_t count;
    gpa_t unmap_gpa, new_gpa;
    uint64_t unmap_bytes, new_bytes;
    struct kvm_memslot *old_slots;
};

static void memslot_commit(void *arg)
{
    struct memslot_change *change = arg;
    struct kvm_memslots *memslots = &change->vm->memslots;

    pthread_mutex_lock(&memslots->mmu_lock);
    change->old_slots = memslots->slots;
    memslots->slots = change->slots;
    memslots->count = change->count;
    change->vm->counters->memory_slots = change->count;
    change->vm->counters->memory_slot_changes++;
    ept_unmap(change->vm->ept, change->unmap_gpa, change->unmap_bytes);
    ept_unmap(change->vm->ept, change->new_gpa, change->new_bytes);
    kvm_shadow_slot_gone(change->vm, change->unmap_gpa, change->unmap_bytes);
    kvm_shadow_slot_new(change->vm);
    kvm_shadow_set_pages(change->vm);
    count_ept_pages(change->vm);
    pthread_mutex_unlock(&memslots->mmu_lock);
    if (change->unmap_bytes || change->vm->shadow) /* that there is no memory is in no TLB; shadow pages may be walked still */
        kvm_memslot_flush_tlbs(change->vm);
}

struct kvm_memslot *kvm_memslot_by_id(struct kvm_memslots *memslots, uint32_t id)
{
    for (size_t i = 0; i < memslots->count; i++)
        if (memslots->slots[i].id == id)
            return &memslots->slots[i];
    return NULL;
}

static bool memslot_overlaps(struct kvm_memslots *memslots, gpa_t gpa, uint64_t bytes, uint32_t but_id)
{
    for (size_t i = 0; i < memslots->count; i++) {
        const struct kvm_memslot *slot = &memslots->slots[i];
        if (slot->id != but_id && gpa < slot->gpa + slot->bytes && slot->gpa < gpa + bytes)
            return true;
    }
    return false;
}

/* Checks that need no knowledge of other slots (api.rst 4.35). */
static bool memslot_region_valid(const struct kvm_userspace_memory_region *region)
{
    return !(region->flags & ~MEMSLOT_FLAGS) && (region->slot >> 16) == 0 && (region->slot & 0xffff) < KVM_MEMSLOT_MAX &&
           !(region->memory_size & ~KAGE_PAGE_MASK) && !(region->guest_phys_addr & ~KAGE_PAGE_MASK) &&
           !(region->userspace_addr & ~KAGE_PAGE_MASK) &&
           region->userspace_addr <= MEMSLOT_HVA_LIMIT && region->memory_size <= MEMSLOT_HVA_LIMIT - region->userspace_addr &&
           region->guest_phys_addr <= MEMSLOT_GPA_LIMIT &&
           region->memory_size <= MEMSLOT_GPA_LIMIT - region->guest_phys_addr &&
           region->memory_size >> KAGE_PAGE_SHIFT <= MEMSLOT_MAX_PAGES;
}

/* Copies the array without slot `id`, and with `add` (if not NULL) at its place. */
static struct kvm_memslot *memslot_array(const struct kvm_memslots *memslots, uint32_t id, const struct kvm_memslot *add,
                                         size_t *count)
{
    struct kvm_memslot *slots = malloc((memslots->count + 1) * sizeof(*slots));
    size_t n = 0;

    if (!slots)
        return NULL;
    for (size_t i = 0; i < memslots->count; i++) {
        if (memslots->slots[i].id == id)
            continue;
        if (add && memslots->slots[i].gpa > add->gpa) {
            slots[n++] = *add;
            add = NULL;
        }
        slots[n++] = memslots->slots[i];
    }
    if (add)
        slots[n++] = *add;
    *count = n;
    return slots;
}

static uint64_t *memslot_new_bitmap(const struct kvm_vm *vm, const struct kvm_memslot *slot)
{
    const struct kvm_memslots *memslots = &vm->memslots;
    size_t words = slot_bitmap_words(slot);
    uint64_t *bitmap = calloc(words, sizeof(*bitmap));

    /* With rings the bits say what is in one of them. */
    if (bitmap && (memslots->manual_dirty_protect & KVM_DIRTY_LOG_INITIALLY_SET) && !vm->dirty_ring_bytes) {
        uint64_t pages = slot_pages(slot);
        memset(bitmap, 0xff, (size_t)(pages / 64) * sizeof(*bitmap));
        if (pages % 64)
            bitmap[pages / 64] = (1ull << (pages % 64)) - 1;
    }
    return bitmap;
}

int kvm_memslot_set(struct kvm_vm *vm, const struct kvm_userspace_memory_region *region)
{
    struct kvm_memslots *memslots = &vm->memslots;
    struct memslot_change change = { .vm = vm };
    struct kvm_memslot *old, now;
    uint64_t *old_bitmap;

    if (!memslot_region_valid(region))
        return -EINVAL;
    old = kvm_memslot_by_id(memslots, region->slot);
    old_bitmap = old ? old->dirty_bitmap : NULL;
    if (!region->memory_size) {
        if (!old)
            return -EINVAL;
        change.unmap_gpa = old->gpa;
        change.unmap_bytes = old->bytes;
        change.slots = memslot_array(memslots, region->slot, NULL, &change.count);
    } else {
        now = (struct kvm_memslot){ .gpa = region->guest_phys_addr,
                                    .bytes = region->memory_size,
                                    .hva = region->userspace_addr,
                                    .id = region->slot,
                                    .flags = region->flags };
        if (old) {
            if (old->bytes != now.bytes || old->hva != now.hva || ((old->flags ^ now.flags) & KVM_MEM_READONLY))
                return -EINVAL;
            if (old->gpa == now.gpa && old->flags == now.flags)
                return 0;
            change.unmap_gpa = old->gpa;
            change.unmap_bytes = old->bytes;
        }
        if (memslot_overlaps(memslots, now.gpa, now.bytes, now.id))
            return -EEXIST;
        if (now.flags & KVM_MEM_LOG_DIRTY_PAGES) {
            now.dirty_bitmap = old_bitmap ? old_bitmap : memslot_new_bitmap(vm, &now);
            if (!now.dirty_bitmap)
                return -ENOMEM;
        }
        change.new_gpa = now.gpa;
        change.new_bytes = now.bytes;
        change.slots = memslot_array(memslots, now.id, &now, &change.count);
        if (!change.slots && now.dirty_bitmap != old_bitmap)
            free(now.dirty_bitmap);
        if (now.dirty_bitmap == old_bitmap)
            old_bitmap = NULL;
    }
    if (!change.slots)
        return -ENOMEM;
    if (region->memory_size && host_range_add(now.hva, now.bytes)) {
        free(change.slots);
        if (now.dirty_bitmap && now.dirty_bitmap != (old ? old->dirty_bitmap : NULL))
            free(now.dirty_bitmap);
        return -ENOMEM;
    }
    hva_t old_hva = old ? old->hva : 0;

    gpa_t code_gpa = change.unmap_gpa;
    uint64_t code_bytes = change.unmap_bytes;
    cpu_vm_exclusive(vm->cpu_vm, NULL, memslot_commit, &change);
    /* The ioctl is not over before the last code made from the old contents is gone. */
    if (code_bytes) {
        cpu_vm_code_invalidate(vm->cpu_vm, code_gpa, code_bytes);
        host_range_remove(old_hva, code_bytes);
    }
    free(change.old_slots);
    free(old_bitmap);
    return 0;
}

/* Taking dirty bits: the words, whose pages are write-protected again. */
struct dirty_take {
    struct kvm_vm *vm;
    struct kvm_memslot *slot;
    size_t first_word, words;
    uint64_t *out;         /* get: where the bits go */
    const uint64_t *clear; /* clear: which bits to take; NULL: all */
};

static void dirty_take_bits(void *arg)
{
    struct dirty_take *take = arg;
    struct kvm_memslots *memslots = &take->vm->memslots;
    bool any = false;

    pthread_mutex_lock(&memslots->mmu_lock);
    for (size_t i = 0; i < take->words; i++) {
        uint64_t *word = &take->slot->dirty_bitmap[take->first_word + i];
        uint64_t bits = *word & (take->clear ? take->clear[i] : UINT64_MAX);
        if (take->out)
            take->out[i] = bits;
        if (!bits)
            continue;
        *word &= ~bits;
        any = true;
        gpa_t gpa = take->slot->gpa + (((take->first_word + i) * 64) << KAGE_PAGE_SHIFT);
        ept_write_protect_pages(take->vm->ept, gpa, bits);
        kvm_shadow_protect(take->vm, gpa, bits);
    }
    pthread_mutex_unlock(&memslots->mmu_lock);
    if (any)
        kvm_memslot_flush_tlbs(take->vm);
}

int kvm_memslot_get_dirty(struct kvm_vm *vm, const struct kvm_dirty_log *log)
{
    if (vm->dirty_ring_bytes)
        return -ENXIO;
    if ((log->slot >> 16) || (log->slot & 0xffff) >= KVM_MEMSLOT_MAX)
        return -EINVAL;
    struct kvm_memslot *slot = kvm_memslot_by_id(&vm->memslots, log->slot);
    if (!slot || !slot->dirty_bitmap)
        return -ENOENT;
    size_t words = slot_bitmap_words(slot);
    uint64_t *bits = malloc(words * sizeof(*bits));
    if (!bits)
        return -ENOMEM;
    if (vm->memslots.manual_dirty_protect) {
        pthread_mutex_lock(&vm->memslots.mmu_lock);
        memcpy(bits, slot->dirty_bitmap, words * sizeof(uint64_t));
        pthread_mutex_unlock(&vm->memslots.mmu_lock);
    } else {
        struct dirty_take take = { .vm = vm, .slot = slot, .words = words, .out = bits };
        cpu_vm_exclusive(vm->cpu_vm, NULL, dirty_take_bits, &take);
    }
    int err = kvm_copy_out(log->dirty_bitmap, bits, words * sizeof(*bits));
    if (err) {
        pthread_mutex_lock(&vm->memslots.mmu_lock);
        for (size_t i = 0; i < words; i++) /* nobody has seen them */
            slot->dirty_bitmap[i] |= bits[i];
        pthread_mutex_unlock(&vm->memslots.mmu_lock);
    }
    free(bits);
    return err;
}

int kvm_memslot_clear_dirty(struct kvm_vm *vm, const struct kvm_clear_dirty_log *log)
{
    if (vm->dirty_ring_bytes)
        return -ENXIO;
    if ((log->slot >> 16) || (log->slot & 0xffff) >= KVM_MEMSLOT_MAX || (log->first_page & 63))
        return -EINVAL;
    struct kvm_memslot *slot = kvm_memslot_by_id(&vm->memslots, log->slot);
    if (!slot || !slot->dirty_bitmap)
        return -ENOENT;
    uint64_t pages = slot_pages(slot);
    if (log->first_page >= pages || log->num_pages > pages - log->first_page ||
        (log->num_pages < pages - log->first_page && (log->num_pages & 63)))
        return -EINVAL;
    size_t words = (log->num_pages + 63) / 64;
    uint64_t *wanted = malloc(words * sizeof(*wanted));
    if (!wanted)
        return -ENOMEM;
    if (kvm_copy_in(wanted, log->dirty_bitmap, words * sizeof(*wanted))) {
        free(wanted);
        return -EFAULT;
    }
    struct dirty_take take = { .vm = vm, .slot = slot, .first_word = (size_t)(log->first_page / 64), .words = words,
                               .clear = wanted };
    cpu_vm_exclusive(vm->cpu_vm, NULL, dirty_take_bits, &take);
    free(wanted);
    return 0;
}
