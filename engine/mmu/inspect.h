/* SPDX-License-Identifier: MIT */
/*
 * Looking at the MMU without touching it: the steps of a walk, what an EPT maps, what the TLBs hold. Nothing here sets a bit,
 * fills an entry or calls for memory. The caller sees to it that tables and TLBs stand still or, for tables, only grow.
 */
#ifndef KAGE_MMU_INSPECT_H
#define KAGE_MMU_INSPECT_H

#include "mmu/walk.h"

#define MMU_STEPS_MAX 5u

struct mmu_step {
    uint64_t table, entry;
    const void *host; /* of the entry, NULL: none */
    unsigned level;   /* 1: page table */
    unsigned index;
    bool read, present, leaf, reserved, in_register, mmio;
    bool r, w, x, u; /* what is still allowed from the root to here */
};

/*
 * The way of va through the guest's own tables, paging being on: the number of steps. The last is a leaf, or why there is none. `read` gets `bytes`
 * of guest memory at gpa, and says where they are; false: there is no memory. With a leaf, *w has what it says (the address, MAP_*).
 */
struct guest_memory {
    bool (*read)(void *opaque, gpa_t gpa, void *to, unsigned bytes, const void **host);
    void *opaque;
};
unsigned guest_walk_steps(const struct cpu *cpu, const struct paging_regime *r, gva_t va, const struct guest_memory *memory,
                          struct mmu_step steps[MMU_STEPS_MAX], struct walk *w);

/* The way of gpa through the EPT of an EPTP; the number of steps. The last is a leaf, or not present. */
unsigned ept_walk_steps(uint64_t ept_pointer, gpa_t gpa, struct mmu_step steps[MMU_STEPS_MAX]);

struct ept_level_count { uint64_t tables, links, leaves, mmio; };
/* Adds up each level, [0] the page tables; how many levels there are. */
unsigned ept_count_levels(uint64_t ept_pointer, struct ept_level_count levels[MMU_STEPS_MAX]);
/* Leaves by level (0: 4 KiB) that lie in the range, or begin in it. */
void ept_count_range(uint64_t ept_pointer, gpa_t gpa, uint64_t bytes, uint64_t pages[3]);

/* A run of leaves of one size and one set of rights, whose host addresses follow each other too. */
struct ept_range {
    gpa_t gpa;
    uint64_t bytes, host, rights; /* EPT_R, W, X */
    unsigned page_shift;
    uint64_t accessed, dirty; /* leaves */
};
/* The first run at or above `from` and below `end`, cut to the latter; false: none. */
bool ept_next_range(uint64_t ept_pointer, gpa_t from, gpa_t end, struct ept_range *range);

/* ---- Shadow pages (shadow_inspect.c) ---- */

struct shadow;
struct shadow_vcpu;
/* The way of va through a vCPU's current shadow tables. */
unsigned shadow_mmu_steps(const struct shadow *shadow, const struct shadow_vcpu *vcpu, gva_t va, struct mmu_step steps[MMU_STEPS_MAX]);
/* How many of the guest frames are mapped by at least one entry, of 4 KiB, 2 MiB and 1 GiB. */
void shadow_count_frames(const struct shadow *shadow, uint64_t gfn, uint64_t frames, uint64_t pages[3]);

/* ---- TLBs ---- */

struct tlb_summary {
    unsigned first_size, second_size;
    unsigned first_valid[MMU_IDX_COUNT][2];
    unsigned pde_size, pde_valid, pdpte_size, pdpte_valid, phys_size, phys_valid;
    unsigned pcid, pcids;
};
void tlb_summarize(const struct cpu *cpu, struct tlb_summary *summary);

struct tlb_view {
    gva_t va;
    gpa_t gpa;
    uint64_t host;
    unsigned pcid; /* of one that is not global */
    uint32_t flags; /* MAP_* of tlb2.h */
    unsigned first; /* bit 2 * mmu_idx + (MMU_READ or MMU_WRITE): the first level holds it too */
};
/* The valid entry at *at or behind it; *at is then where to go on (0 at the start). False: there is none. */
bool tlb_next(const struct cpu *cpu, unsigned *at, struct tlb_view *view);
/* What the first level holds of the page of va, as tlb_view.first. */
unsigned tlb_first_of(const struct cpu *cpu, gva_t va);
/* The second level's entry that an access to va would be served from now; false: a walk is made. */
bool tlb_find(const struct cpu *cpu, gva_t va, struct tlb_view *view);

#endif
