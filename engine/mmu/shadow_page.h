/* SPDX-License-Identifier: MIT */
/*
 * The inside of the shadow MMU: pages, their blocks, and the lists that their entries are in. Private to shadow*.c.
 *
 * Every entry that is present is in exactly one list, by what it leads to:
 *   a table    the list of that page's parents
 *   a frame    the frame's reverse map (struct frame_entry)
 *   MMIO       one list for all
 * The lists are doubly linked through `links` of the entry's page, so that putting in and taking out cost the same however long a list is (a guest
 * may map one frame a million times), and cost no memory that could run out. An entry is named by a number: page << 9 | index, plus one.
 *
 *   block, SHADOW_BLOCK_BYTES, aligned to that:
 *   +---------+--------+--------------------------------------------+
 *   | pages[] | unused | page 0: table, gpte, links | page 1 … |      |
 *   +---------+--------+--------------------------------------------+
 */
#ifndef KAGE_MMU_SHADOW_PAGE_H
#define KAGE_MMU_SHADOW_PAGE_H

#include "mmu/shadow.h"

#define PRESENT_WORDS (SHADOW_ENTRIES / 64)

typedef uint32_t entry_id; /* 0: none */

struct entry_link {
    entry_id next, prev;
};

struct list_node {
    struct list_node *next, *prev;
};

enum page_use { PAGE_FREE, PAGE_LIVE, PAGE_DYING };

struct shadow_page {
    uint64_t *table;            /* what the processor walks */
    uint64_t *gpte;             /* the guest's entry behind each, while it is present */
    struct entry_link *links;
    uint64_t gfn;
    union shadow_role role;
    uint32_t index;             /* among all pages */
    entry_id parents;
    uint32_t pins;              /* roots of vCPUs: not recycled */
    uint16_t present;           /* entries */
    uint8_t use;                /* enum page_use */
    uint8_t state;              /* enum shadow_state; PAGE_LIVE and not direct */
    uint16_t quiet;             /* compared in a row without a change */
    uint16_t patience;          /* that many are enough to close it */
    uint64_t ticket;            /* closing: of the flush */
    uint64_t bits[PRESENT_WORDS];
    struct shadow_page *hash_next;
    struct list_node lru;       /* live: by last use; else free or dying */
    struct list_node open;      /* open and closing ones, by whether they are of level 1 */
};

#define SHADOW_BLOCK_BYTES (2ull << 20)
#define PAGE_PART_BYTES (3 * KAGE_PAGE_SIZE)
#define BLOCK_PAGES 128u
#define BLOCK_TABLES_AT (SHADOW_BLOCK_BYTES - BLOCK_PAGES * PAGE_PART_BYTES)
struct page_block {
    struct shadow_page pages[BLOCK_PAGES];
};
_Static_assert(sizeof(struct page_block) <= BLOCK_TABLES_AT, "pages end before the tables begin");

/* ---- frames (shadow_rmap.c) ---- */

/* A page-sized piece of guest-physical memory, 4 KiB, 2 MiB or 1 GiB. */
struct frame_entry {
    entry_id rmap;    /* leaves of that size that map it */
    uint32_t closed;  /* pages whose guest tables lie in it and are closing or closed: no leaf of that size may be writable */
};
struct frame_chunk {
    struct frame_chunk *next;
    uint64_t key; /* frame number >> 9, and level */
    struct frame_entry frames[512];
};
#define FRAME_LEVELS 3u
#define CHUNK_BUCKETS 4096u

/* ---- the whole ---- */

#define HASH_BUCKETS 4096u
#define MAX_BLOCKS (1u << 16) /* entry_id: 23 bits of page */

struct shadow {
    const struct shadow_ops *ops;
    void *owner;
    uint32_t max_pages, used; /* used: live and dying */
    uint32_t free_count, dying_count;
    struct page_block **blocks;
    uint32_t block_count, block_room;
    struct list_node free, lru;
    struct list_node dying, asked; /* wait for a flush: not asked for, asked for */
    uint64_t asked_ticket;
    struct list_node open[2]; /* [0] level 1, [1] above */
    uint32_t open_count[2], open_enough;
    entry_id mmio;
    struct shadow_page *hash[HASH_BUCKETS];
    struct frame_chunk *chunks[CHUNK_BUCKETS];
    struct frame_chunk *last_chunk;
    uint64_t missed[3];       /* see sync_missed(); by level of the link, from 3 on, and the low bits of the region's number */
    uint64_t pieces[64];      /* regions of 2 MiB, by 12 bits of the number: a large guest page there is mapped by pieces */
    uint64_t pieces_1g[64];   /* the same of 1 GiB pages */
    struct shadow_stats stats;
    uint64_t buffer[SHADOW_ENTRIES]; /* of a guest table */
};

static inline struct shadow_page *page_of_table(const uint64_t *table)
{
    uintptr_t at = (uintptr_t)table, block = at & ~(uintptr_t)(SHADOW_BLOCK_BYTES - 1);
    return &((struct page_block *)block)->pages[(at - block - BLOCK_TABLES_AT) / PAGE_PART_BYTES];
}

static inline struct shadow_page *page_of_entry(const struct shadow *s, entry_id id)
{
    uint32_t page = (id - 1) >> 9;
    return &s->blocks[page / BLOCK_PAGES]->pages[page % BLOCK_PAGES];
}

static inline unsigned index_of_entry(entry_id id)
{
    return (id - 1) & (SHADOW_ENTRIES - 1);
}

static inline entry_id entry_id_of(const struct shadow_page *p, unsigned i)
{
    return (p->index << 9 | i) + 1;
}

static inline uint64_t entry_get(const struct shadow_page *p, unsigned i)
{
    return __atomic_load_n(&p->table[i], __ATOMIC_RELAXED);
}

static inline void entry_put(struct shadow_page *p, unsigned i, uint64_t e)
{
    __atomic_store_n(&p->table[i], e, __ATOMIC_RELEASE);
}

static inline bool entry_is_mmio(uint64_t e)
{
    return (e & SHADOW_PTE_MMIO) != 0;
}

static inline bool entry_is_leaf(uint64_t e, unsigned level)
{
    return level == 1 || (e & X86_PTE_PS) != 0 || entry_is_mmio(e);
}

static inline struct shadow_page *entry_child(uint64_t e)
{
    return page_of_table((const uint64_t *)(uintptr_t)(e & SHADOW_PTE_ADDR));
}

static inline uint64_t frames_at(unsigned level) /* of 4 KiB, in one page of that level */
{
    return 1ull << (9 * (level - 1));
}

static inline unsigned va_index(gva_t va, unsigned level)
{
    return (unsigned)(va >> (KAGE_PAGE_SHIFT + 9 * (level - 1))) & (SHADOW_ENTRIES - 1);
}

/* Is it made from a table in guest memory, which may change? */
static inline bool page_has_guest_table(const struct shadow_page *p)
{
    return !p->role.direct && !p->role.own_root;
}

static inline void list_init(struct list_node *list)
{
    list->next = list->prev = list;
}

static inline void list_remove(struct list_node *node)
{
    node->next->prev = node->prev;
    node->prev->next = node->next;
    node->next = node->prev = NULL;
}

static inline void list_push(struct list_node *list, struct list_node *node)
{
    node->next = list->next;
    node->prev = list;
    list->next->prev = node;
    list->next = node;
}

#define PAGE_BY(member, node) ((struct shadow_page *)(void *)((char *)(node) - offsetof(struct shadow_page, member)))

/* ---- shadow_rmap.c ---- */

/* The guest frame (in units of 4 KiB) that entry i of the page is made to lead to: a frame of memory, or the guest table of a link. */
uint64_t entry_gfn(const struct shadow_page *p, unsigned i);
/* Puts a present entry into its place and its list; the place is empty. gpte: the guest's entry. -ENOMEM for a leaf without room for its frame. */
KAGE_MUST_CHECK int entry_set(struct shadow *s, struct shadow_page *p, unsigned i, uint64_t e, uint64_t gpte);
void entry_drop(struct shadow *s, struct shadow_page *p, unsigned i);
/* NULL if there is none; `make`: if there is no memory. gfn in units of 4 KiB. */
struct frame_entry *frame_find(struct shadow *s, uint64_t gfn, unsigned level, bool make);
/* Takes W from what maps the 4 KiB frame: small leaves keep the rest, larger ones go. True if anything could be written. */
bool frame_write_protect(struct shadow *s, uint64_t gfn);
/* Everything that maps any of it goes. */
void frames_drop(struct shadow *s, uint64_t gfn, uint64_t frames);
void frames_free(struct shadow *s);

/* ---- shadow_pages.c ---- */

struct shadow_page *page_find(struct shadow *s, uint64_t gfn, union shadow_role role);
/* So many can be made without any being recycled meanwhile: 0, -ENOMEM, -EAGAIN (shadow_reclaim()). May zap whatever is not pinned. */
KAGE_MUST_CHECK int pages_reserve(struct shadow *s, uint32_t count);
/* A live page with no entries, out of the reserve. */
struct shadow_page *page_make(struct shadow *s, uint64_t gfn, union shadow_role role);
/* Gives it up: nothing leads to it or from it any more. Pinned ones stay as empty tables until their vCPU has another root. */
void page_zap(struct shadow *s, struct shadow_page *p);
void page_touch(struct shadow *s, struct shadow_page *p);
void page_pin(struct shadow_page *p);
void page_unpin(struct shadow *s, struct shadow_page *p);
void pages_free(struct shadow *s);
static inline unsigned page_hash(uint64_t gfn)
{
    return (unsigned)((gfn * 0x9e3779b97f4a7c15ull) >> 52);
}
_Static_assert(HASH_BUCKETS == 1u << 12, "page_hash() gives 12 bits");

/* ---- shadow_sync.c ---- */

/* A page with a guest table begins open. */
void sync_begin(struct shadow *s, struct shadow_page *p);
void sync_end(struct shadow *s, struct shadow_page *p);
/* Compares an open page with its guest table now: before it is linked to again. */
void sync_page(struct shadow *s, struct shadow_page *p);
/* Links are to be made on the way to va: what they may lead to again is made to follow first. */
void sync_missed(struct shadow *s, const struct shadow_page *root, gva_t va);
/* The frame is to be written: every page of it is open afterwards. */
void sync_open_frame(struct shadow *s, uint64_t gfn);

#endif
