/* SPDX-License-Identifier: MIT */
/*
 * Shadow page tables: what kvm gives to a processor without EPT. The guest's own tables translate guest-virtual to
 * guest-physical addresses; from them, and from the memory slots, tables are built that lead from guest-virtual straight to
 * host addresses, in the one format that the processor's walker knows (64-bit entries, 4 or 5 levels) whatever mode the guest is in.
 *
 *   63  58..53 52   51                                12  8  7  6 5 4 3 2 1 0
 *   |NX|   0  |RO|  host address bits 51..12             |G|PS|D|A|0 0|U|W|P|     leaf, or table (PS, G clear; always U and W)
 *   |NX|   0  | 0| 1 | guest frame number, bits 50..12   |G|0 |D|A|0 0|U|W|P|     no slot is behind the page: MMIO
 *
 * A and D are always set. RO: the page is in a read-only slot, and a write that W allows goes to the device.
 *
 * The guest writes to its tables when it likes. A shadow page is therefore in one of three states (shadow_sync.c):
 *
 *   open     its guest frame may be written. It keeps the guest entries that its own were made from, and each flush that the guest
 *            asks for (MOV CR3, INVLPG, INVPCID, …) compares them with memory. Until then a stale entry is what a TLB might hold.
 *   closing  no entry lets the frame be written any more, and every vCPU has been asked to flush its TLB.
 *   closed   all have flushed: the frame cannot change without a page fault that opens it again. It need not be compared.
 *
 * Every function is called with one lock of the caller's held (kvm: memslots.mmu_lock), whose holder waits for no vCPU. Processors walk the
 * tables without it: entries are written by single stores, and a table's memory is used for nothing else before every vCPU has flushed its TLB.
 */
#ifndef KAGE_MMU_SHADOW_H
#define KAGE_MMU_SHADOW_H

#include "mmu/walk.h"

#define SHADOW_MAX_LEVELS 5u
#define SHADOW_ENTRIES 512u

#define SHADOW_PTE_ADDR 0x0007fffffffff000ull
#define SHADOW_PTE_MMIO (1ull << 51)
#define SHADOW_PTE_ROM (1ull << 52)

#define SHADOW_MIN_PAGES 64u /* KVM_MIN_ALLOC_MMU_PAGES */
#define SHADOW_ROOTS 8u      /* a vCPU's current root and those that it had before */

struct shadow;
struct shadow_page;

/* Rights that are left at some point of a path. */
#define SHADOW_W (1u << 0)
#define SHADOW_U (1u << 1)
#define SHADOW_X (1u << 2)
#define SHADOW_ALL (SHADOW_W | SHADOW_U | SHADOW_X)

/*
 * What a shadow page was made for. Two pages of one guest frame that differ in any of it are two. The guest's controls are in it where
 * they change what an entry means or how it is shadowed, so that a change of them finds other pages and no stale ones.
 */
union shadow_role {
    struct {
        uint32_t level : 3;      /* of the table, 1 to 5 */
        uint32_t direct : 1;     /* no guest table: consecutive frames from gfn on, of a large guest page or without paging */
        uint32_t own_root : 1;   /* upper level that the guest's format does not have; one vCPU's, not to be found by others */
        uint32_t access : 3;     /* rights left above it */
        uint32_t entry4 : 1;     /* 32-bit paging: entries of 4 bytes, a guest table takes 2 (level 1) or 4 (level 2) shadow pages */
        uint32_t quadrant : 2;   /* which of them */
        uint32_t pae : 1;        /* PAE paging: level 3 is PDPTE registers */
        uint32_t pse : 1;        /* CR4.PSE, 32-bit paging */
        uint32_t nx : 1;         /* EFER.NX: bit 63 is not reserved */
        uint32_t pge : 1;        /* CR4.PGE */
        uint32_t no_wp : 1;      /* CR0.WP is 0 */
        uint32_t smep_no_wp : 1; /* CR4.SMEP, with CR0.WP 0 */
        uint32_t smap_no_wp : 1; /* CR4.SMAP, with CR0.WP 0 */
        uint32_t levels5 : 1;    /* CR4.LA57 */
        uint32_t has_1g : 1;     /* the guest's processor has 1 GiB pages */
    };
    uint32_t word;
};
_Static_assert(sizeof(union shadow_role) == 4, "compared as a word");

/* A guest frame, as the memory slots have it. */
struct shadow_frame {
    uint8_t *host;
    unsigned max_level; /* a page of up to 1 << (12 + 9 * (max_level - 1)) bytes around it may be mapped at once: 1 to 3 */
    bool read_only;     /* slot */
    bool may_write;     /* now (not of read-only slots); false where a dirty log still has to note the first write */
};

/* What this needs of its owner. */
struct shadow_ops {
    /* The frame; write: it is about to be written, and noted as dirty. 0, -ENOENT: no slot, or other errors, which shadow_map() passes on. */
    int (*frame)(void *owner, uint64_t gfn, bool write, struct shadow_frame *out);
    /* Copies guest memory, 8-byte entries in one piece each. False: there is none. */
    bool (*read)(void *owner, gpa_t gpa, void *buf, size_t bytes);
    /* Asks every vCPU to flush its TLB before it runs on; a ticket for the question whether all have. */
    uint64_t (*ask_flush)(void *owner);
    bool (*has_flushed)(void *owner, uint64_t ticket);
};

/* By the kernel's names, where it has them (KVM_GET_STATS_FD). */
struct shadow_stats {
    uint64_t mmu_shadow_zapped;  /* shadow pages given up */
    uint64_t mmu_pte_write;      /* writes that opened a table */
    uint64_t mmu_pde_zapped;     /* links to tables dropped because the guest's entry changed */
    uint64_t mmu_flooded;        /* pages given up because their frame is no table any more */
    uint64_t mmu_recycled;       /* pages given up for others */
    uint64_t mmu_cache_miss;     /* pages made */
    uint64_t mmu_unsync;         /* pages now open */
    uint64_t mmu_closed;         /* times that pages were closed */
    uint64_t mmu_compared;       /* pages compared */
    uint64_t mmu_dropped;        /* entries dropped or narrowed by that */
    uint64_t pages_4k, pages_2m, pages_1g, pages_mmio; /* leaves now */
    uint64_t pages, max_pages;   /* shadow pages now, and their bound */
};

/* A root that a vCPU uses or has used. */
struct shadow_root {
    struct shadow_page *page; /* NULL: the slot is empty */
    uint64_t cr3;             /* the guest's, PCID included */
    uint64_t pdpte[4];        /* PAE */
    union shadow_role role;
};

struct shadow_vcpu {
    struct shadow_root root[SHADOW_ROOTS]; /* [0] is the current one, the others the most recent first */
};

KAGE_MUST_CHECK int shadow_new(const struct shadow_ops *ops, void *owner, struct shadow **out);
void shadow_free(struct shadow *shadow); /* every struct shadow_vcpu must be empty */
/* A new bound; what is over it goes at once. At least SHADOW_MIN_PAGES. */
void shadow_set_max_pages(struct shadow *shadow, uint32_t pages);
/* So many open pages are compared at each flush rather than closed (default 32; tests: 0). */
void shadow_set_open_pages(struct shadow *shadow, uint32_t pages);
void shadow_get_stats(struct shadow *shadow, struct shadow_stats *out);


/*
 * MOV to CR3 and whatever else changes the regime: makes its root current. *kept: the vCPU had it before, so that what its TLB holds under this
 * CR3 is still good. 0, -ENOMEM, -EAGAIN (see shadow_reclaim()).
 */
KAGE_MUST_CHECK int shadow_set_root(struct shadow *shadow, struct shadow_vcpu *vcpu, const struct paging_regime *r, bool has_1g,
                                    bool *kept);
/* Is there a current root, still good, for it? */
bool shadow_has_root(const struct shadow_vcpu *vcpu, const struct paging_regime *r, bool has_1g);
uint64_t shadow_root_address(const struct shadow_vcpu *vcpu); /* of the current root's table: for the actual CR3 */
void shadow_drop_roots(struct shadow *shadow, struct shadow_vcpu *vcpu);

/*
 * Makes the current root map va for the access, which a walk of the guest's tables by the root's regime has allowed just now (without the lock:
 * if an entry has changed meanwhile, nothing is done). 0: the instruction may run again. *spurious: nothing had to change. -EAGAIN:
 * shadow_reclaim() first. Else what ops->frame() or an allocation failed with.
 */
KAGE_MUST_CHECK int shadow_map(struct shadow *shadow, struct shadow_vcpu *vcpu, gva_t va, const struct walk *w, bool write, bool user,
                               bool *spurious);

/* The guest flushes: what is stale in open pages goes. All of it; or what INVLPG reaches: false if the whole TLB must be flushed. */
void shadow_sync(struct shadow *shadow);
KAGE_MUST_CHECK bool shadow_sync_page(struct shadow *shadow, const struct shadow_vcpu *vcpu, gva_t va);
/* A page fault of the guest's own: what is stale on the way to its address goes (SDM 3A 4.10.4.1). */
void shadow_sync_fault(struct shadow *shadow, const struct shadow_vcpu *vcpu, gva_t va);
/* Guest memory was written by someone whose writes do not fault: a client that restores it, say. Everything is compared. */
void shadow_sync_forced(struct shadow *shadow);
/* gfn is about to be written other than by guest code: its pages open. */
void shadow_frame_written(struct shadow *shadow, uint64_t gfn);

/* Memory slots change, with all vCPUs stopped; the caller has their TLBs flushed before they run again. */
void shadow_drop_range(struct shadow *shadow, uint64_t gfn, uint64_t frames); /* the range's memory goes */
void shadow_drop_mmio(struct shadow *shadow);                                 /* memory appears somewhere */
/* Takes W away from the frames. */
void shadow_write_protect(struct shadow *shadow, uint64_t gfn, uint64_t frames);

/*
 * With every vCPU stopped and every TLB flushed, or about to be before it runs: pages that waited for that may be used again. shadow_map() and
 * shadow_set_root() say -EAGAIN when too many do.
 */
void shadow_reclaim(struct shadow *shadow);

/* ---- looking at it ---- */

struct shadow_step {
    unsigned level;
    uint64_t table;  /* host address */
    unsigned index;
    uint64_t entry;
};
/* The current root's path to va, top first, without side effects; returns the number of steps, at most SHADOW_MAX_LEVELS. */
unsigned shadow_walk_steps(const struct shadow *shadow, const struct shadow_vcpu *vcpu, gva_t va, struct shadow_step *steps);
/* The guest-physical address of the 4 KiB page at host address `page`, to which a leaf in a table of ours led a moment ago. False: not any more. */
bool shadow_entry_gpa(const uint64_t *entry, hva_t page, gpa_t *gpa);

enum shadow_state { SHADOW_OPEN, SHADOW_CLOSING, SHADOW_CLOSED };
struct shadow_page_info {
    uint64_t gfn;
    union shadow_role role;
    unsigned present; /* entries */
    unsigned parents; /* entries that lead here */
    unsigned pins;    /* roots of vCPUs */
    enum shadow_state state;
    uint64_t table;   /* host address */
};
/* Calls fn for every shadow page, the most recently used first, until it returns false. */
void shadow_each_page(const struct shadow *shadow, bool (*fn)(void *arg, const struct shadow_page_info *info), void *arg);
/* The invariants that the code relies on, checked the long way (tests): NULL, or what is wrong. */
const char *shadow_check(struct shadow *shadow);

#endif
