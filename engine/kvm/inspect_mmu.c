/* SPDX-License-Identifier: MIT */
/*
 * KAGE_INSPECT's topics of memory: the way of an address through the guest's own tables and the EPT or the shadow tables, what the EPT
 * maps, TLBs, memory slots, shadow pages. The guest's tables are read from the client's memory behind the slots, without the MMU: no bit of theirs is
 * set and no EPT entry made. EPTs are looked at with the MMU mutex, a gigabyte at a time where it may be long.
 */
#include <errno.h>
#include <string.h>

#include "cpu/guarded_copy.h"
#include "cpu/run.h"
#include "kvm/inspect.h"
#include "mmu/ept.h"
#include "mmu/inspect.h"
#include "mmu/tlb2.h"

#define GIGABYTE (1ull << 30)

/* Where gpa is in the client's memory, by the slots; 0: nowhere. */
static hva_t slot_address(struct kvm_vm *vm, gpa_t gpa, uint32_t *id, uint32_t *flags)
{
    hva_t hva = 0;

    pthread_mutex_lock(&vm->memslots.mmu_lock);
    const struct kvm_memslot *slot = kvm_memslot_find(&vm->memslots, gpa);
    if (slot) {
        hva = slot->hva + (gpa - slot->gpa);
        *id = slot->id;
        *flags = slot->flags;
    }
    pthread_mutex_unlock(&vm->memslots.mmu_lock);
    return hva;
}

/* Guest memory as guest_walk_steps() wants it. */
static bool read_memory(void *opaque, gpa_t gpa, void *to, unsigned bytes, const void **host)
{
    uint32_t id, flags;
    hva_t hva = slot_address(opaque, gpa, &id, &flags);

    *host = (const void *)(uintptr_t)hva;
    return hva && !cpu_guarded_copy(to, *host, bytes);
}

static enum kage_inspect_paging paging_of(const struct paging_regime *r)
{
    if (!(r->cr0 & X86_CR0_PG))
        return KAGE_PAGING_NONE;
    if (r->efer & X86_EFER_LMA)
        return r->cr4 & X86_CR4_LA57 ? KAGE_PAGING_5LEVEL : KAGE_PAGING_4LEVEL;
    return r->cr4 & X86_CR4_PAE ? KAGE_PAGING_PAE : KAGE_PAGING_32;
}

/* ---- KAGE_INSPECT_WALK ---- */

static uint32_t rights_of(const struct mmu_step *s)
{
    return (s->r ? KAGE_RIGHT_R : 0) | (s->w ? KAGE_RIGHT_W : 0) | (s->x ? KAGE_RIGHT_X : 0) | (s->u ? KAGE_RIGHT_U : 0);
}

static void put_steps(struct kage_inspect_step *to, const struct mmu_step *from, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        to[i] = (struct kage_inspect_step){
            .table = from[i].table, .entry = from[i].entry, .host = (uintptr_t)from[i].host, .level = from[i].level,
            .index = from[i].index, .rights = rights_of(&from[i]),
            .flags = (from[i].read ? KAGE_STEP_READ : 0) | (from[i].present ? KAGE_STEP_PRESENT : 0) |
                     (from[i].leaf ? KAGE_STEP_LEAF : 0) | (from[i].reserved ? KAGE_STEP_RESERVED : 0) |
                     (from[i].in_register ? KAGE_STEP_REGISTER : 0) | (from[i].mmio ? KAGE_STEP_MMIO : 0),
        };
}

/* The address that the last step, a leaf, gives: bits 51..12 of entries of both kinds, and the offset. */
static void take_leaf(struct kage_inspect_walk *out, const struct mmu_step *leaf, uint64_t address, uint64_t address_bits)
{
    out->second_page_shift = KAGE_PAGE_SHIFT + 9 * (leaf->level - 1);
    out->second_rights = rights_of(leaf);
    uint64_t low = (1ull << out->second_page_shift) - 1;
    out->hva = (leaf->entry & address_bits & ~low) | (address & low);
    out->flags |= KAGE_WALK_SECOND;
}

/* The slot that out->gpa is in, and the EPT's way from there; in a VM with shadow tables theirs, of the address that was asked for. */
static void walk_second(struct inspect *inspect, struct kage_inspect_walk *out)
{
    struct kvm_vm *vm = inspect->vm;
    struct mmu_step steps[MMU_STEPS_MAX];
    bool shadow = vm->shadow && (out->flags & KAGE_WALK_GVA);

    if (out->flags & KAGE_WALK_GPA) {
        out->hva = slot_address(vm, out->gpa, &out->slot, &out->slot_flags);
        out->flags |= out->hva ? KAGE_WALK_SLOT : 0;
    } else if (!shadow) {
        return;
    }
    pthread_mutex_lock(&vm->memslots.mmu_lock);
    if (shadow)
        out->second_count = shadow_mmu_steps(vm->shadow, &inspect->vcpu->shadow, out->gva, steps);
    else
        out->second_count = ept_walk_steps(ept_pointer(vm->ept), out->gpa, steps);
    pthread_mutex_unlock(&vm->memslots.mmu_lock);
    out->flags |= shadow ? KAGE_WALK_SHADOW : 0;
    put_steps(out->second, steps, out->second_count);
    if (out->second_count && steps[out->second_count - 1].leaf)
        take_leaf(out, &steps[out->second_count - 1], shadow ? out->gva : out->gpa, shadow ? SHADOW_PTE_ADDR : EPT_ADDR);
}

static bool is_canonical(const struct kage_inspect_walk *out)
{
    return out->paging < KAGE_PAGING_4LEVEL || x86_is_canonical(out->gva, out->paging == KAGE_PAGING_5LEVEL ? X86_LA57_BITS : X86_LA48_BITS);
}

static void walk_guest_side(struct inspect *inspect, struct kage_inspect_walk *out)
{
    struct cpu *cpu = inspect->vcpu->cpu;
    struct paging_regime regime = walk_guest_regime(cpu);
    const struct guest_memory memory = { read_memory, inspect->vm };
    struct mmu_step steps[MMU_STEPS_MAX];
    struct tlb_view view;
    struct walk walk;

    out->paging = paging_of(&regime);
    out->flags |= KAGE_WALK_GVA;
    if (!(regime.efer & X86_EFER_LMA))
        out->gva = (uint32_t)out->gva;
    if (out->paging == KAGE_PAGING_NONE) {
        out->gpa = out->gva;
        out->page_shift = KAGE_PAGE_SHIFT;
        out->rights = KAGE_RIGHT_R | KAGE_RIGHT_W | KAGE_RIGHT_X | KAGE_RIGHT_U;
        out->flags |= KAGE_WALK_GPA;
    } else if (!is_canonical(out)) {
        out->flags |= KAGE_WALK_NOT_CANONICAL;
        return;
    } else {
        out->guest_count = guest_walk_steps(cpu, &regime, out->gva, &memory, steps, &walk);
        put_steps(out->guest, steps, out->guest_count);
        const struct mmu_step *last = &steps[out->guest_count - 1];
        if (last->r && last->leaf) {
            out->gpa = walk.gpa;
            out->page_shift = walk.page_shift;
            out->rights = rights_of(last);
            out->flags |= KAGE_WALK_GPA | (walk.flags & MAP_DIRTY ? KAGE_WALK_DIRTY : 0) | (walk.flags & MAP_GLOBAL ? KAGE_WALK_GLOBAL : 0);
        } else {
            out->error = last->reserved || !last->read ? X86_PF_P | X86_PF_RSVD : 0; /* no memory reads as all ones */
        }
    }
    cpu_flush_if_asked(cpu); /* what the processor would do before it used an entry again */
    out->tlb_first = tlb_first_of(cpu, out->gva);
    out->flags |= tlb_find(cpu, out->gva, &view) ? KAGE_WALK_TLB : 0;
}

static void walk_look(void *arg)
{
    struct inspect *inspect = arg;
    struct kage_inspect_walk out = { 0 };

    if (inspect->ask->flags & KAGE_INSPECT_GPA) {
        out.gpa = inspect->ask->address;
        out.flags = KAGE_WALK_GPA;
    } else {
        out.gva = inspect->ask->address;
        walk_guest_side(inspect, &out);
    }
    if (!(out.flags & KAGE_WALK_NOT_CANONICAL))
        walk_second(inspect, &out);
    inspect_add(inspect, &out, sizeof(out));
}

int inspect_walk(struct inspect *inspect)
{
    return kvm_inspect_call(inspect->vcpu, walk_look, inspect);
}

/* ---- What the EPT maps ---- */

int inspect_tables(struct inspect *inspect)
{
    struct kvm_vm *vm = inspect->vm;
    struct ept_level_count levels[MMU_STEPS_MAX];

    if (vm->shadow)
        return -EOPNOTSUPP;
    pthread_mutex_lock(&vm->memslots.mmu_lock);
    unsigned count = ept_count_levels(ept_pointer(vm->ept), levels);
    pthread_mutex_unlock(&vm->memslots.mmu_lock);
    for (unsigned i = 0; i < count; i++) {
        struct kage_inspect_level out = { .level = i + 1, .tables = levels[i].tables, .links = levels[i].links, .leaves = levels[i].leaves,
                                          .mmio = levels[i].mmio };
        inspect_add(inspect, &out, sizeof(out));
    }
    return 0;
}

/* The next range, found a gigabyte at a time; one that goes on behind it is joined. */
static bool next_range(struct kvm_vm *vm, gpa_t from, gpa_t end, struct ept_range *range)
{
    bool found = false;

    while (from < end) {
        struct ept_range part;
        gpa_t stop = (from | (GIGABYTE - 1)) + 1;
        pthread_mutex_lock(&vm->memslots.mmu_lock);
        bool more = ept_next_range(ept_pointer(vm->ept), from, stop < end ? stop : end, &part);
        pthread_mutex_unlock(&vm->memslots.mmu_lock);
        if (found && (!more || part.gpa != range->gpa + range->bytes || part.page_shift != range->page_shift ||
                      part.rights != range->rights || part.host != range->host + range->bytes))
            return true;
        if (more && found) {
            range->bytes += part.bytes;
            range->accessed += part.accessed;
            range->dirty += part.dirty;
        } else if (more) {
            *range = part;
        }
        found = found || more;
        if (found && range->gpa + range->bytes < stop)
            return true;
        from = stop;
    }
    return found;
}

int inspect_ranges(struct inspect *inspect)
{
    struct inspect_answer *answer = &inspect->answer;
    struct kage_inspect_range out;
    struct ept_range range;
    gpa_t at = inspect->ask->address & KAGE_PAGE_MASK, end = 1ull << 52;

    if (inspect->vm->shadow)
        return -EOPNOTSUPP;
    /* Only as far as memory slots go: an EPT maps nothing else. */
    pthread_mutex_lock(&inspect->vm->memslots.mmu_lock);
    const struct kvm_memslots *memslots = &inspect->vm->memslots;
    end = memslots->count ? memslots->slots[memslots->count - 1].gpa + memslots->slots[memslots->count - 1].bytes : 0;
    pthread_mutex_unlock(&inspect->vm->memslots.mmu_lock);
    while (next_range(inspect->vm, at, end, &range)) {
        if (answer->room - answer->used < sizeof(out)) {
            inspect->ask->address = at;
            return 0;
        }
        out = (struct kage_inspect_range){
            .gpa = range.gpa, .bytes = range.bytes, .host = range.host, .page_shift = range.page_shift,
            .rights = (range.rights & EPT_R ? KAGE_RIGHT_R : 0) | (range.rights & EPT_W ? KAGE_RIGHT_W : 0) |
                      (range.rights & EPT_X ? KAGE_RIGHT_X : 0),
            .accessed = range.accessed, .dirty = range.dirty,
        };
        inspect_add(inspect, &out, sizeof(out));
        at = range.gpa + range.bytes;
    }
    inspect->ask->address = UINT64_MAX;
    return 0;
}

/* ---- TLBs ---- */

static const struct { uint32_t map; uint16_t out; } tlb_flags[] = {
    { MAP_GLOBAL, KAGE_TLB_GLOBAL }, { MAP_USER, KAGE_TLB_USER },   { MAP_WRITE, KAGE_TLB_WRITE },         { MAP_NX, KAGE_TLB_NX },
    { MAP_DIRTY, KAGE_TLB_DIRTY },   { MAP_LARGE, KAGE_TLB_LARGE }, { MAP_EPT_WRITE, KAGE_TLB_HOST_WRITE },
};

static void tlb_look(void *arg)
{
    struct inspect *inspect = arg;
    struct cpu *cpu = inspect->vcpu->cpu;
    struct tlb_summary sum;
    struct tlb_view view;
    size_t head_at = inspect->answer.used;
    struct kage_inspect_tlb out = { 0 };

    cpu_flush_if_asked(cpu);
    tlb_summarize(cpu, &sum);
    inspect_add(inspect, &out, sizeof(out));
    for (unsigned at = 0; tlb_next(cpu, &at, &view);) {
        struct kage_inspect_tlb_entry entry = { .va = view.va, .gpa = view.gpa, .host = view.host, .pcid = (uint16_t)view.pcid,
                                                .first = view.first };
        for (size_t i = 0; i < KAGE_ARRAY_SIZE(tlb_flags); i++)
            entry.flags |= view.flags & tlb_flags[i].map ? tlb_flags[i].out : 0;
        inspect_add(inspect, &entry, sizeof(entry));
        out.count++;
    }
    if (inspect->answer.used < head_at + sizeof(out))
        return;
    out.first_size = sum.first_size;
    out.second_size = sum.second_size;
    for (unsigned idx = 0; idx < MMU_IDX_COUNT; idx++)
        for (unsigned access = MMU_READ; access <= MMU_WRITE; access++)
            out.first_valid[idx][access] = sum.first_valid[idx][access];
    out.pde_size = sum.pde_size;
    out.pde_valid = sum.pde_valid;
    out.pdpte_size = sum.pdpte_size;
    out.pdpte_valid = sum.pdpte_valid;
    out.phys_size = sum.phys_size;
    out.phys_valid = sum.phys_valid;
    out.pcid = sum.pcid;
    out.pcids = sum.pcids;
    out.misses = cpu->stats[CPU_STAT_TLB_MISSES];
    out.second_misses = cpu->stats[CPU_STAT_TLB2_MISSES];
    out.flushes = cpu->stats[CPU_STAT_TLB_FLUSHES];
    out.page_flushes = cpu->stats[CPU_STAT_TLB_FLUSH_PAGES];
    memcpy(inspect->answer.at + head_at, &out, sizeof(out));
}

int inspect_tlb(struct inspect *inspect)
{
    return kvm_inspect_call(inspect->vcpu, tlb_look, inspect);
}

/* ---- Memory slots ---- */

/* By position, under the mutex for each: a slot that comes or goes meanwhile is shown or not. */
static bool slot_at(struct kvm_vm *vm, size_t i, struct kage_inspect_slot *out)
{
    pthread_mutex_lock(&vm->memslots.mmu_lock);
    bool there = i < vm->memslots.count;
    if (there) {
        const struct kvm_memslot *slot = &vm->memslots.slots[i];
        *out = (struct kage_inspect_slot){ .id = slot->id, .flags = slot->flags, .gpa = slot->gpa, .bytes = slot->bytes, .hva = slot->hva };
        for (uint64_t word = 0; slot->dirty_bitmap && word < (slot->bytes / KAGE_PAGE_SIZE + 63) / 64; word++)
            out->dirty_pages += (uint64_t)__builtin_popcountll(slot->dirty_bitmap[word]);
    }
    pthread_mutex_unlock(&vm->memslots.mmu_lock);
    return there;
}

int inspect_slots(struct inspect *inspect)
{
    struct kvm_vm *vm = inspect->vm;
    struct kage_inspect_slot out;

    for (size_t i = 0; slot_at(vm, i, &out); i++) {
        for (uint64_t at = 0; at < out.bytes;) {
            uint64_t left = out.bytes - at, part = GIGABYTE - ((out.gpa + at) & (GIGABYTE - 1)), pages[3];
            part = part < left ? part : left;
            pthread_mutex_lock(&vm->memslots.mmu_lock);
            if (vm->shadow)
                shadow_count_frames(vm->shadow, (out.gpa + at) >> KAGE_PAGE_SHIFT, part >> KAGE_PAGE_SHIFT, pages);
            else
                ept_count_range(ept_pointer(vm->ept), out.gpa + at, part, pages);
            pthread_mutex_unlock(&vm->memslots.mmu_lock);
            for (unsigned size = 0; size < 3; size++)
                out.pages[size] += pages[size];
            at += part;
        }
        inspect_add(inspect, &out, sizeof(out));
    }
    return 0;
}

/* ---- Shadow pages ---- */

static bool put_shadow_page(void *arg, const struct shadow_page_info *info)
{
    const union shadow_role role = info->role;
    struct kage_inspect_shadow_page out = {
        .gfn = info->gfn, .table = info->table, .level = role.level, .entries = info->present, .parents = info->parents,
        .roots = info->pins, .quadrant = role.quadrant,
        .rights = KAGE_RIGHT_R | (role.access & SHADOW_W ? KAGE_RIGHT_W : 0) | (role.access & SHADOW_X ? KAGE_RIGHT_X : 0) |
                  (role.access & SHADOW_U ? KAGE_RIGHT_U : 0),
        .flags = (role.direct ? KAGE_SHADOW_DIRECT : 0) | (role.own_root ? KAGE_SHADOW_OWN_ROOT : 0) |
                 (role.entry4 ? KAGE_SHADOW_32BIT : 0) | (role.pae ? KAGE_SHADOW_PAE : 0) | (role.no_wp ? 0 : KAGE_SHADOW_WP) |
                 (role.nx ? KAGE_SHADOW_NX : 0),
    };

    if (!role.direct && !role.own_root)
        out.flags |= info->state == SHADOW_OPEN ? KAGE_SHADOW_OPEN : info->state == SHADOW_CLOSING ? KAGE_SHADOW_CLOSING : 0;
    inspect_add(arg, &out, sizeof(out));
    return true;
}

int inspect_shadow(struct inspect *inspect)
{
    struct kvm_vm *vm = inspect->vm;

    if (!vm->shadow)
        return -EOPNOTSUPP;
    pthread_mutex_lock(&vm->memslots.mmu_lock);
    shadow_each_page(vm->shadow, put_shadow_page, inspect);
    pthread_mutex_unlock(&vm->memslots.mmu_lock);
    return 0;
}
