/* SPDX-License-Identifier: MIT */
/*
 * The walk of a guest's page tables, for whoever needs one: the processor through EPT, with the registers that it runs by,
 * and kvm's shadow MMU with those that the guest sees.
 */
#ifndef KAGE_MMU_WALK_H
#define KAGE_MMU_WALK_H

#include "mmu/mmu.h"

/* Effective rights of a mapping, and what else is known of it. */
#define MAP_USER (1u << 0)
#define MAP_WRITE (1u << 1)
#define MAP_NX (1u << 2)
#define MAP_DIRTY (1u << 3)
#define MAP_GLOBAL (1u << 4)
#define MAP_EPT_WRITE (1u << 5) /* what is below the guest's tables allows a write, and knows that the page is dirty */
#define MAP_HAS_HOST (1u << 6)
#define MAP_LARGE (1u << 7)
#define MAP_EPT_READ (1u << 8)
#define MAP_EPT_EXEC (1u << 9)

#define WALK_MAX_LEVELS 5

/* All that translation depends on besides memory (SDM 3A 4.1.1). Paging is on. */
struct paging_regime {
    uint64_t cr0, cr3, cr4, efer;
    const uint64_t *pdpte; /* four, of PAE paging */
};

/* The registers that the processor runs by. */
static inline struct paging_regime walk_actual_regime(const struct cpu *cpu)
{
    const struct vmcs *v = &cpu->vmcs;

    return (struct paging_regime){v->guest_cr0, v->guest_cr3, v->guest_cr4, v->guest_ia32_efer, v->guest_pdpte};
}

/* Those that the guest sees: its own tables, whatever the processor walks. */
static inline struct paging_regime walk_guest_regime(const struct cpu *cpu)
{
    return (struct paging_regime){cpu_guest_cr0(cpu), cpu_guest_cr3(cpu), cpu_guest_cr4(cpu), cpu_guest_efer(cpu),
                                  cpu->vmcs.guest_pdpte};
}

/* One entry on the way. */
struct walk_step {
    gpa_t gpa; /* of the entry */
    uint8_t *at;
    uint64_t entry;
    uint32_t flags; /* MAP_USER, MAP_WRITE, MAP_NX of this entry and those above it */
    bool read_only; /* in a slot that the guest cannot write: its accessed and dirty bits are taken for set */
};

struct walk {
    gpa_t gpa;
    uint32_t flags;      /* MAP_USER, WRITE, NX, DIRTY, GLOBAL, LARGE */
    unsigned page_shift; /* 12, 21, 22 or 30 */
    uint32_t error;      /* page-fault error code, if refused */
    unsigned top, level; /* step[top] was read first, step[level] last; a page table's entry is step[1] */
    struct walk_step step[WALK_MAX_LEVELS + 1];
};

/*
 * How a walk goes about it. Without WALK_QUIET it sets accessed and dirty bits. WALK_CACHED: the walker's own caches, which
 * belong to the registers that the processor runs by, may be used. WALK_PAGES: only the cache of guest-physical pages may,
 * which must not be stale (see phys_page_uncached()).
 */
#define WALK_QUIET (1u << 0)
#define WALK_CACHED (1u << 1)
#define WALK_PAGES (1u << 2)

/*
 * MMU_OK; MMU_FAULT: w->error, nothing is recorded; MMU_EXIT: a table's memory is gone, the VM exit is in the VMCS. In
 * guest memory's hands: call it inside cpu_run() only, elsewhere mmu_walk().
 */
enum mmu_result walk_guest(struct cpu *cpu, const struct paging_regime *r, gva_t va, enum mmu_access access,
                           enum mmu_idx idx, unsigned how, struct walk *w);
/*
 * The same for everybody else on the vCPU's thread, in either state of paging (without it, w->top is 0). MMU_EXIT too if the
 * client has unmapped a table. How: 0 or WALK_QUIET.
 */
enum mmu_result mmu_walk(struct cpu *cpu, const struct paging_regime *r, gva_t va, enum mmu_access access,
                         enum mmu_idx idx, unsigned how, struct walk *w);

/*
 * Reads guest memory at a linear address as the guest's own tables have it, for an exit handler; canonical, or below 4 GiB.
 * MMU_OK; MMU_FAULT: w->error is the page fault's that the guest would have had; MMU_MMIO: no memory; MMU_EXIT as of mmu_walk().
 */
enum mmu_result mmu_read_virt(struct cpu *cpu, gva_t va, void *buf, size_t len, enum mmu_idx idx, struct walk *w);

/* SDM 3A 4.6.1: do the rights allow the access? */
static inline bool walk_rights_allow(uint64_t cr0, uint64_t cr4, uint32_t flags, enum mmu_access access, enum mmu_idx idx)
{
    bool user_page = (flags & MAP_USER) != 0;

    if (idx == MMU_IDX_USER) {
        return user_page && (access != MMU_WRITE || (flags & MAP_WRITE) != 0) &&
               (access != MMU_FETCH || (flags & MAP_NX) == 0);
    }
    if (access == MMU_FETCH) {
        return (flags & MAP_NX) == 0 && !(user_page && (cr4 & X86_CR4_SMEP) != 0);
    }
    return (access != MMU_WRITE || (flags & MAP_WRITE) != 0 || (cr0 & X86_CR0_WP) == 0) &&
           !(user_page && idx == MMU_IDX_KERNEL && (cr4 & X86_CR4_SMAP) != 0);
}

/* Bits of a page fault's error code that the access gives (SDM 3A 4.7): W, U, I. */
uint32_t walk_error_bits(const struct paging_regime *r, enum mmu_access access, enum mmu_idx idx);

#endif
