/* SPDX-License-Identifier: MIT */
/*
 * The second-level TLB and the caches of the walker; private to mmu/.
 *
 * Validity is by stamp: every PCID has one, global entries share one, and an entry is valid while
 * its stamp is the current one of its kind. A flush of any breadth is a new stamp.
 */
#ifndef KAGE_MMU_TLB2_H
#define KAGE_MMU_TLB2_H

#include "mmu/walk.h"

#define TLB2_BITS 13
#define TLB2_SIZE (1u << TLB2_BITS)
#define PDE_CACHE_SIZE 256u
#define PDPTE_CACHE_SIZE 32u
#define PHYS_CACHE_SIZE 512u
#define PCID_COUNT 4096u

struct tlb2_entry {
    gva_t va_page;
    uint64_t stamp;
    gpa_t gpa_page;
    uint64_t host;  /* of the page, if MAP_HAS_HOST */
    uint32_t flags; /* MAP_* */
};

/* An entry of the paging-structure caches (SDM 3A 4.10.3): of PDEs and of PDPTEs that lead to a table. */
struct walk_cache_entry {
    uint64_t region; /* va >> 21, va >> 30 */
    uint64_t stamp;
    gpa_t table;     /* the page table, the page directory */
    uint32_t flags;  /* MAP_USER, MAP_WRITE, MAP_NX accumulated above it */
};

struct phys_cache_entry {
    uint64_t gfn_plus_1; /* 0: empty */
    uint8_t *host;
    uint32_t rights; /* MAP_EPT_* */
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
    uint64_t global_low[64]; /* pages of the user half that are global, and were kept under the PCIDs that used them */
    struct tlb2_entry entries[TLB2_SIZE];
    struct walk_cache_entry pde_cache[PDE_CACHE_SIZE], pdpte_cache[PDPTE_CACHE_SIZE];
    struct phys_cache_entry phys_cache[PHYS_CACHE_SIZE];
};

/*
 * Host address of the guest-physical page that holds gpa, through EPT, and what else may be done there (MAP_EPT_*); fills the EPT on demand.
 * MMU_OK, MMU_MMIO, MMU_EXIT. gla_qualification: VMX_EPT_QUAL_GLA_*; without GLA_FINAL an access to the guest's own tables.
 */
enum mmu_result phys_page(struct cpu *cpu, gpa_t gpa, enum mmu_access access, uint64_t gla_qualification, uint8_t **host,
                          uint32_t *rights);
/* The same without the walker's cache, which is stale between a change of memory slots and the vCPU's flush. */
enum mmu_result phys_page_uncached(struct cpu *cpu, gpa_t gpa, enum mmu_access access, uint64_t gla_qualification, uint8_t **host,
                                   uint32_t *rights);
/* Do these MAP_EPT_* rights serve the access? */
static inline bool ept_allows(uint32_t rights, enum mmu_access access)
{
    return (rights & (access == MMU_FETCH ? MAP_EPT_EXEC : access == MMU_WRITE ? MAP_EPT_WRITE : MAP_EPT_READ)) != 0;
}

#endif
