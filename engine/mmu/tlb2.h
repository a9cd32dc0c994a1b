/* SPDX-License-Identifier: MIT */
/*
 * The second-level TLB and the caches of the walker; private to mmu/.
 *
 * Validity is by stamp: every PCID has one, global entries share one, and an entry is valid while
 * its stamp is the current one of its kind. A flush of any breadth is a new stamp.
 */
#ifndef KAGE_MMU_TLB2_H
#define KAGE_MMU_TLB2_H

#include "mmu/mmu.h"

#define TLB2_BITS 13
#define TLB2_SIZE (1u << TLB2_BITS)
#define PDE_CACHE_SIZE 256u
#define PHYS_CACHE_SIZE 512u
#define PCID_COUNT 4096u

/* Effective rights of a guest mapping. */
#define MAP_USER (1u << 0)
#define MAP_WRITE (1u << 1)
#define MAP_NX (1u << 2)
#define MAP_DIRTY (1u << 3)
#define MAP_GLOBAL (1u << 4)
#define MAP_EPT_WRITE (1u << 5)
#define MAP_HAS_HOST (1u << 6)
#define MAP_LARGE (1u << 7)

struct tlb2_entry {
    gva_t va_page;
    uint64_t stamp;
    gpa_t gpa_page;
    uint64_t host;  /* of the page, if MAP_HAS_HOST */
    uint32_t flags; /* MAP_* */
};

struct pde_cache_entry {
    uint64_t region; /* va >> 21 */
    uint64_t stamp;
    gpa_t table;     /* of the page table */
    uint32_t flags;  /* MAP_USER, MAP_WRITE, MAP_NX accumulated above it */
};

struct phys_cache_entry {
    uint64_t gfn_plus_1; /* 0: empty */
    uint8_t *host;
    bool writable;
};

struct tlb2 {
    uint64_t last_stamp, oldest_valid;
    uint64_t current, global, pde;
    unsigned pcid;
    bool tiny;
    bool bank_has_local[MMU_IDX_COUNT]; /* non-global translations in the first level */
    bool code_has_local[MMU_IDX_COUNT]; /* the same in the jump caches */
    struct clear_log bank_log[MMU_IDX_COUNT];
    uint64_t pcid_stamp[PCID_COUNT];
    uint64_t large_2m[64], large_1g[64]; /* regions with large pages: INVLPG of one must reach all its pieces */
    struct tlb2_entry entries[TLB2_SIZE];
    struct pde_cache_entry pde_cache[PDE_CACHE_SIZE];
    struct phys_cache_entry phys_cache[PHYS_CACHE_SIZE];
};

/* What a walk of the guest's tables found. */
struct walk {
    gpa_t gpa;
    uint32_t flags;      /* MAP_USER, WRITE, NX, DIRTY, GLOBAL, LARGE */
    unsigned page_shift; /* 12, 21, 22 or 30 */
    uint32_t error;      /* page-fault error code, if refused */
};

/* MMU_OK, MMU_FAULT (w->error; nothing recorded), MMU_EXIT. Sets accessed and dirty bits unless `quiet`. */
enum mmu_result walk_guest(struct cpu *cpu, gva_t va, enum mmu_access access, enum mmu_idx idx, bool quiet,
                           struct walk *w);
/* Would a mapping with these rights allow the access? Fills the error code if not. */
bool walk_allows(const struct cpu *cpu, uint32_t flags, enum mmu_access access, enum mmu_idx idx, uint32_t *error);
uint32_t walk_error_bits(const struct cpu *cpu, enum mmu_access access, enum mmu_idx idx);

/* Host address of the guest-physical page that holds gpa, through EPT; fills the EPT on demand. MMU_OK, MMU_MMIO, MMU_EXIT. */
enum mmu_result phys_page(struct cpu *cpu, gpa_t gpa, bool write, uint64_t gla_qualification, uint8_t **host,
                          bool *writable);
/* The same without the walker's cache, which is stale between a change of memory slots and the vCPU's flush. */
enum mmu_result phys_page_uncached(struct cpu *cpu, gpa_t gpa, bool write, uint64_t gla_qualification, uint8_t **host,
                                   bool *writable);

#endif
