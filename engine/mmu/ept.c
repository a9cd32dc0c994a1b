/* SPDX-License-Identifier: MIT */
/*
 * EPT tables in Intel's format. Entries are written with single atomic stores, so that processors
 * may walk while another thread fills. Callers that take mappings away (and with them tables) stop
 * the processors first and flush their TLBs.
 */
#include "mmu/ept.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#define LEVELS EPT_LEVELS
#define ENTRIES 512u
#define EPT_RWX (EPT_R | EPT_W | EPT_X)

struct ept {
    uint64_t *root;
    pthread_mutex_t lock; /* writers */
    uint64_t table_pages, mmio;
    uint64_t pages[LEVELS];
};

static uint64_t *new_table(struct ept *ept)
{
    uint64_t *t = aligned_alloc(KAGE_PAGE_SIZE, KAGE_PAGE_SIZE);
    if (t != NULL) {
        memset(t, 0, KAGE_PAGE_SIZE);
        ept->table_pages++;
    }
    return t;
}

int ept_new(struct ept **out)
{
    struct ept *ept = calloc(1, sizeof(*ept));
    if (ept == NULL) {
        return -ENOMEM;
    }
    ept->root = new_table(ept);
    if (ept->root == NULL) {
        free(ept);
        return -ENOMEM;
    }
    pthread_mutex_init(&ept->lock, NULL);
    *out = ept;
    return 0;
}

static bool is_mmio(uint64_t e)
{
    return (e & EPT_RWX) == EPT_MMIO;
}

static bool is_table(uint64_t e, unsigned level)
{
    return level > 0 && (e & EPT_RWX) != 0 && (e & EPT_PS) == 0 && !is_mmio(e);
}

static uint64_t *table_of(uint64_t e)
{
    return (uint64_t *)(uintptr_t)(e & EPT_ADDR);
}

static void put(uint64_t *slot, uint64_t e)
{
    __atomic_store_n(slot, e, __ATOMIC_RELEASE);
}

static uint64_t get(const uint64_t *slot)
{
    return __atomic_load_n(slot, __ATOMIC_ACQUIRE);
}

static uint64_t *count_of(struct ept *ept, uint64_t e, unsigned level)
{
    return is_mmio(e) ? &ept->mmio : &ept->pages[level];
}

/* Writes a leaf, or 0, where a leaf or nothing was. What a walker has noted of the same page stays. */
static void put_leaf(struct ept *ept, uint64_t *slot, unsigned level, uint64_t e)
{
    uint64_t old = get(slot), now;

    do {
        bool same = ((old ^ e) & EPT_ADDR) == 0 && (old & EPT_R) != 0 && (e & EPT_R) != 0;
        now = e | (same ? old & (EPT_A | ((e & EPT_W) != 0 ? EPT_D : 0)) : 0);
    } while (!__atomic_compare_exchange_n(slot, &old, now, false, __ATOMIC_SEQ_CST, __ATOMIC_ACQUIRE));
    if ((old & EPT_RWX) != 0) {
        --*count_of(ept, old, level);
    }
    if (e != 0) {
        ++*count_of(ept, e, level);
    }
}

static void free_table(struct ept *ept, uint64_t *table, unsigned level)
{
    for (unsigned i = 0; i < ENTRIES; i++) {
        if (is_table(table[i], level)) {
            free_table(ept, table_of(table[i]), level - 1);
        } else if ((table[i] & EPT_RWX) != 0) {
            --*count_of(ept, table[i], level);
        }
    }
    ept->table_pages--;
    free(table);
}

void ept_free(struct ept *ept)
{
    if (ept == NULL) {
        return;
    }
    free_table(ept, ept->root, LEVELS - 1);
    pthread_mutex_destroy(&ept->lock);
    free(ept);
}

uint64_t ept_pointer(const struct ept *ept)
{
    return (uint64_t)(uintptr_t)ept->root | 6u | (LEVELS - 1) << 3 | 1u << 6; /* write-back, 4 levels, A/D */
}

static unsigned index_at(gpa_t gpa, unsigned level)
{
    return (unsigned)(gpa >> (KAGE_PAGE_SHIFT + 9 * level)) & (ENTRIES - 1);
}

static uint64_t bytes_at(unsigned level)
{
    return KAGE_PAGE_SIZE << (9 * level);
}

/* ---- mapping ---- */

/* Replaces a large page, or a range without memory, by a table of its parts. */
static int split(struct ept *ept, uint64_t *slot, unsigned level)
{
    uint64_t e = get(slot), table;
    uint64_t *t = new_table(ept);
    if (t == NULL) {
        return -ENOMEM;
    }
    do { /* a walker may mark it meanwhile */
        uint64_t rights = e & 0xfffull & ~EPT_PS;
        for (unsigned i = 0; i < ENTRIES; i++) {
            t[i] = is_mmio(e) ? e
                              : ((e & EPT_ADDR & ~(bytes_at(level) - 1)) + i * bytes_at(level - 1)) | rights |
                                    (level - 1 > 0 ? EPT_PS : 0);
        }
        table = (uint64_t)(uintptr_t)t | EPT_RWX | (e & EPT_A);
    } while (!__atomic_compare_exchange_n(slot, &e, table, false, __ATOMIC_SEQ_CST, __ATOMIC_ACQUIRE));
    --*count_of(ept, e, level);
    *count_of(ept, e, level - 1) += ENTRIES;
    return 0;
}

/* The entry for gpa at `level`, with the tables above it; NULL: no memory for one. */
static uint64_t *make_slot(struct ept *ept, gpa_t gpa, unsigned level)
{
    uint64_t *table = ept->root;

    for (unsigned l = LEVELS - 1; l > level; l--) {
        uint64_t *slot = &table[index_at(gpa, l)];
        uint64_t e = get(slot);
        if ((e & EPT_RWX) == 0) {
            uint64_t *t = new_table(ept);
            if (t == NULL) {
                return NULL;
            }
            put(slot, (uint64_t)(uintptr_t)t | EPT_RWX);
        } else if (!is_table(e, l) && split(ept, slot, l) != 0) {
            return NULL;
        }
        table = table_of(get(slot));
    }
    return &table[index_at(gpa, level)];
}

static int map_at(struct ept *ept, gpa_t gpa, hva_t hva, unsigned level, uint64_t prot)
{
    uint64_t *slot = make_slot(ept, gpa, level);
    int err = slot != NULL ? 0 : -ENOMEM;

    if (slot != NULL && is_table(get(slot), level)) {
        /* Smaller pages stand here, and walkers may be in their table: by parts. */
        for (unsigned i = 0; i < ENTRIES && err == 0; i++) {
            err = map_at(ept, gpa + i * bytes_at(level - 1), hva + i * bytes_at(level - 1), level - 1, prot);
        }
    } else if (slot != NULL) {
        put_leaf(ept, slot, level, (hva & EPT_ADDR) | (prot & EPT_RWX) | EPT_MEMTYPE_WB | (level > 0 ? EPT_PS : 0));
    }
    return err;
}

int ept_map(struct ept *ept, gpa_t gpa, hva_t hva, unsigned level, uint64_t prot)
{
    if (gpa >> EPT_GPA_BITS != 0) {
        return -EINVAL; /* a walk would not find it, and its index would be another page's */
    }
    pthread_mutex_lock(&ept->lock);
    int err = map_at(ept, gpa, hva, level, prot);
    pthread_mutex_unlock(&ept->lock);
    return err;
}

int ept_map_mmio(struct ept *ept, gpa_t gpa, unsigned level)
{
    if (gpa >> EPT_GPA_BITS != 0 || level >= LEVELS) {
        return -EINVAL;
    }
    pthread_mutex_lock(&ept->lock);
    uint64_t *slot = make_slot(ept, gpa, level);
    uint64_t e = slot != NULL ? get(slot) : 0;
    int err = slot == NULL ? -ENOMEM : (e & EPT_RWX) == 0 || is_mmio(e) ? 0 : -EEXIST;
    if (err == 0) {
        put_leaf(ept, slot, level, EPT_MMIO);
    }
    pthread_mutex_unlock(&ept->lock);
    return err;
}

/* ---- taking away ---- */

/* The entries of a table at `base` that meet [from, to): first and one beyond the last. */
static void entries_of(gpa_t base, unsigned level, gpa_t from, gpa_t to, unsigned *first, unsigned *end)
{
    uint64_t size = bytes_at(level);

    *first = from > base ? (unsigned)((from - base) / size) : 0;
    *end = to - base < ENTRIES * size ? (unsigned)((to - base + size - 1) / size) : ENTRIES;
}

static bool is_empty(const uint64_t *table)
{
    for (unsigned i = 0; i < ENTRIES; i++) {
        if ((table[i] & EPT_RWX) != 0) {
            return false;
        }
    }
    return true;
}

static void unmap_in(struct ept *ept, uint64_t *table, unsigned level, gpa_t base, gpa_t from, gpa_t to)
{
    unsigned i, end;

    for (entries_of(base, level, from, to, &i, &end); i < end; i++) {
        gpa_t first = base + i * bytes_at(level);
        if ((table[i] & EPT_RWX) == 0) {
            continue;
        }
        if (!is_table(table[i], level)) {
            put_leaf(ept, &table[i], level, 0);
            continue;
        }
        uint64_t *lower = table_of(table[i]);
        bool whole = from <= first && to - first >= bytes_at(level);
        if (!whole) {
            unmap_in(ept, lower, level - 1, first, from, to);
        }
        if (whole || is_empty(lower)) {
            put(&table[i], 0);
            free_table(ept, lower, level - 1);
        }
    }
}

/* The end of a range, cut to what there is; 0: nothing of it. */
static gpa_t end_of(gpa_t gpa, uint64_t bytes)
{
    gpa_t limit = 1ull << EPT_GPA_BITS;

    return gpa >= limit || bytes == 0 ? 0 : bytes > limit - gpa ? limit : gpa + bytes;
}

void ept_unmap(struct ept *ept, gpa_t gpa, uint64_t bytes)
{
    gpa_t end = end_of(gpa, bytes);

    pthread_mutex_lock(&ept->lock);
    if (end != 0) {
        unmap_in(ept, ept->root, LEVELS - 1, 0, gpa, end);
    }
    pthread_mutex_unlock(&ept->lock);
}

/* The last-level table of gpa. NULL: none; a large page that stood there is gone. */
static uint64_t *last_table(struct ept *ept, gpa_t gpa)
{
    uint64_t *table = ept->root;

    for (unsigned l = LEVELS - 1; l > 0; l--) {
        uint64_t *slot = &table[index_at(gpa, l)];
        if (!is_table(*slot, l)) {
            if ((*slot & EPT_RWX) != 0 && !is_mmio(*slot)) {
                put_leaf(ept, slot, l, 0);
            }
            return NULL;
        }
        table = table_of(*slot);
    }
    return table;
}

static void protect_leaf(uint64_t *slot)
{
    if (!is_mmio(*slot)) {
        put(slot, *slot & ~(EPT_W | EPT_D));
    }
}

void ept_write_protect_pages(struct ept *ept, gpa_t gpa, uint64_t pages)
{
    pthread_mutex_lock(&ept->lock);
    while (pages != 0) { /* once, or twice if the 64 pages lie in two tables */
        unsigned first = (unsigned)__builtin_ctzll(pages);
        gpa_t at = gpa + ((uint64_t)first << KAGE_PAGE_SHIFT);
        uint64_t *table = at >> EPT_GPA_BITS == 0 ? last_table(ept, at) : NULL;
        unsigned room = ENTRIES - index_at(at, 0); /* from `first` on in this table */
        uint64_t here = room >= 64 - first ? pages : pages & ((1ull << (first + room)) - 1);
        pages &= ~here;
        while (table != NULL && here != 0) {
            unsigned bit = (unsigned)__builtin_ctzll(here);
            here &= here - 1;
            protect_leaf(&table[index_at(at, 0) + bit - first]);
        }
    }
    pthread_mutex_unlock(&ept->lock);
}

static void protect_in(struct ept *ept, uint64_t *table, unsigned level, gpa_t base, gpa_t from, gpa_t to)
{
    unsigned i, end;

    for (entries_of(base, level, from, to, &i, &end); i < end; i++) {
        if (is_table(table[i], level)) {
            protect_in(ept, table_of(table[i]), level - 1, base + i * bytes_at(level), from, to);
        } else if (level > 0 && (table[i] & EPT_RWX) != 0 && !is_mmio(table[i])) {
            put_leaf(ept, &table[i], level, 0);
        } else if (level == 0 && (table[i] & EPT_RWX) != 0) {
            protect_leaf(&table[i]);
        }
    }
}

void ept_write_protect(struct ept *ept, gpa_t gpa, uint64_t bytes)
{
    gpa_t end = end_of(gpa, bytes);

    pthread_mutex_lock(&ept->lock);
    if (end != 0) {
        protect_in(ept, ept->root, LEVELS - 1, 0, gpa, end);
    }
    pthread_mutex_unlock(&ept->lock);
}

/* ---- the processor's side ---- */

uint64_t ept_walk(const struct ept *ept, gpa_t gpa, unsigned *level)
{
    const uint64_t *table = ept->root;
    uint64_t rights = EPT_RWX;

    *level = 0;
    if (gpa >> EPT_GPA_BITS != 0) {
        return 0;
    }
    for (unsigned l = LEVELS - 1;; l--) {
        uint64_t e = get(&table[index_at(gpa, l)]);
        if (!is_table(e, l)) {
            *level = l;
            return is_mmio(e) ? e : (e & EPT_RWX & rights) != 0 ? (e & ~EPT_RWX) | (e & rights & EPT_RWX) : 0;
        }
        rights &= e;
        table = table_of(e);
    }
}

/* A is set top down: a lower entry is never marked through an upper one that is not. */
bool ept_set_accessed(struct ept *ept, gpa_t gpa, uint64_t leaf, bool dirty)
{
    uint64_t *table = ept->root;

    for (unsigned l = LEVELS - 1;;) {
        uint64_t *slot = &table[index_at(gpa, l)];
        uint64_t e = get(slot);
        bool last = !is_table(e, l);
        uint64_t want = EPT_A | (last && dirty ? EPT_D : 0);
        if (last && (((e ^ leaf) & EPT_ADDR) != 0 || (e & EPT_RWX) == 0 || is_mmio(e) || (dirty && (e & EPT_W) == 0))) {
            return false;
        }
        if ((e & want) != want && !__atomic_compare_exchange_n(slot, &e, e | want, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {
            continue; /* it has changed: look again */
        }
        if (last) {
            return true;
        }
        table = table_of(e);
        l--;
    }
}

void ept_get_stats(const struct ept *ept, struct ept_stats *out)
{
    *out = (struct ept_stats){.table_pages = ept->table_pages, .pages_4k = ept->pages[0], .pages_2m = ept->pages[1],
                              .pages_1g = ept->pages[2], .mmio = ept->mmio};
}
