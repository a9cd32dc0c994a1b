/* SPDX-License-Identifier: MIT */
/*
 * EPT tables in Intel's format. Entries are written with single atomic stores, so that processors
 * may walk while another thread fills; a table page, once linked, is freed only with the whole.
 * Callers that take mappings away stop the processors first and flush their TLBs.
 */
#include "mmu/ept.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#define LEVELS 4
#define ENTRIES 512u
#define EPT_RWX (EPT_R | EPT_W | EPT_X)

struct ept {
    uint64_t *root;
    pthread_mutex_t lock; /* writers */
    uint64_t table_pages;
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

static bool is_table(uint64_t e, unsigned level)
{
    return level > 0 && (e & EPT_RWX) != 0 && (e & EPT_PS) == 0;
}

static uint64_t *table_of(uint64_t e)
{
    return (uint64_t *)(uintptr_t)(e & EPT_ADDR);
}

static void free_table(uint64_t *table, unsigned level)
{
    for (unsigned i = 0; i < ENTRIES && level > 0; i++) {
        if (is_table(table[i], level)) {
            free_table(table_of(table[i]), level - 1);
        }
    }
    free(table);
}

void ept_free(struct ept *ept)
{
    if (ept == NULL) {
        return;
    }
    free_table(ept->root, LEVELS - 1);
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

static void put(uint64_t *slot, uint64_t e)
{
    __atomic_store_n(slot, e, __ATOMIC_RELEASE);
}

static uint64_t get(const uint64_t *slot)
{
    return __atomic_load_n(slot, __ATOMIC_ACQUIRE);
}

/* Replaces a large page by a table of its parts. */
static int split(struct ept *ept, uint64_t *slot, unsigned level)
{
    uint64_t e = *slot;
    uint64_t *t = new_table(ept);
    if (t == NULL) {
        return -ENOMEM;
    }
    uint64_t rights = e & 0xfffull & ~EPT_PS;
    for (unsigned i = 0; i < ENTRIES; i++) {
        t[i] = ((e & EPT_ADDR & ~(bytes_at(level) - 1)) + i * bytes_at(level - 1)) | rights |
               (level - 1 > 0 ? EPT_PS : 0);
    }
    put(slot, (uint64_t)(uintptr_t)t | EPT_RWX);
    return 0;
}

int ept_map(struct ept *ept, gpa_t gpa, hva_t hva, unsigned level, uint64_t prot)
{
    int err = 0;

    if (gpa >> (KAGE_PAGE_SHIFT + 9 * LEVELS) != 0) {
        return -EINVAL; /* a walk would not find it, and its index would be another page's */
    }
    pthread_mutex_lock(&ept->lock);
    uint64_t *table = ept->root;
    for (unsigned l = LEVELS - 1; l > level; l--) {
        uint64_t *slot = &table[index_at(gpa, l)];
        if ((*slot & EPT_RWX) == 0) {
            uint64_t *t = new_table(ept);
            if (t == NULL) {
                err = -ENOMEM;
                goto out_unlock;
            }
            put(slot, (uint64_t)(uintptr_t)t | EPT_RWX);
        } else if (*slot & EPT_PS) {
            err = split(ept, slot, l);
            if (err != 0) {
                goto out_unlock;
            }
        }
        table = table_of(*slot);
    }
    uint64_t *slot = &table[index_at(gpa, level)];
    if (is_table(*slot, level)) {
        /* Smaller pages stand here: the large one would leave their tables in use by walkers. Map by parts. */
        uint64_t *t = table_of(*slot);
        pthread_mutex_unlock(&ept->lock);
        for (unsigned i = 0; i < ENTRIES && err == 0; i++) {
            (void)t;
            err = ept_map(ept, gpa + i * bytes_at(level - 1), hva + i * bytes_at(level - 1), level - 1, prot);
        }
        return err;
    }
    put(slot, (hva & EPT_ADDR) | (prot & EPT_RWX) | EPT_MEMTYPE_WB | (level > 0 ? EPT_PS : 0));
out_unlock:
    pthread_mutex_unlock(&ept->lock);
    return err;
}

static void unmap_in(struct ept *ept, uint64_t *table, unsigned level, gpa_t base, gpa_t from, gpa_t to)
{
    for (unsigned i = 0; i < ENTRIES; i++) {
        gpa_t first = base + i * bytes_at(level), end = first + bytes_at(level);
        if (end <= from || first >= to || (table[i] & EPT_RWX) == 0) {
            continue;
        }
        if (is_table(table[i], level)) {
            unmap_in(ept, table_of(table[i]), level - 1, first, from, to);
        } else {
            put(&table[i], 0); /* a large page at the edge goes as a whole, and is filled again on demand */
        }
    }
}

void ept_unmap(struct ept *ept, gpa_t gpa, uint64_t bytes)
{
    pthread_mutex_lock(&ept->lock);
    unmap_in(ept, ept->root, LEVELS - 1, 0, gpa, gpa + bytes);
    pthread_mutex_unlock(&ept->lock);
}

static int protect_in(struct ept *ept, uint64_t *table, unsigned level, gpa_t base, gpa_t from, gpa_t to)
{
    for (unsigned i = 0; i < ENTRIES; i++) {
        gpa_t first = base + i * bytes_at(level), end = first + bytes_at(level);
        if (end <= from || first >= to || (table[i] & EPT_RWX) == 0) {
            continue;
        }
        if (level == 0) {
            put(&table[i], table[i] & ~(EPT_W | EPT_D));
            continue;
        }
        if (table[i] & EPT_PS) {
            int err = split(ept, &table[i], level);
            if (err != 0) {
                return err;
            }
        }
        int err = protect_in(ept, table_of(table[i]), level - 1, first, from, to);
        if (err != 0) {
            return err;
        }
    }
    return 0;
}

int ept_write_protect(struct ept *ept, gpa_t gpa, uint64_t bytes)
{
    pthread_mutex_lock(&ept->lock);
    int err = protect_in(ept, ept->root, LEVELS - 1, 0, gpa, gpa + bytes);
    pthread_mutex_unlock(&ept->lock);
    return err;
}

/* The leaf's slot, or NULL. */
static uint64_t *find_leaf(const struct ept *ept, gpa_t gpa, unsigned *level)
{
    uint64_t *table = ept->root;

    if (gpa >> (KAGE_PAGE_SHIFT + 9 * LEVELS) != 0) {
        return NULL;
    }
    for (unsigned l = LEVELS - 1;; l--) {
        uint64_t *slot = &table[index_at(gpa, l)];
        uint64_t e = get(slot);
        if ((e & EPT_RWX) == 0) {
            return NULL;
        }
        if (l == 0 || (e & EPT_PS) != 0) {
            *level = l;
            return slot;
        }
        table = table_of(e);
    }
}

uint64_t ept_walk(const struct ept *ept, gpa_t gpa, unsigned *level)
{
    const uint64_t *slot = find_leaf(ept, gpa, level);
    if (slot == NULL) {
        *level = 0;
        return 0;
    }
    return get(slot);
}

void ept_set_accessed(struct ept *ept, gpa_t gpa, bool dirty)
{
    unsigned level;
    uint64_t *slot = find_leaf(ept, gpa, &level);

    if (slot != NULL) {
        uint64_t e = get(slot);
        while ((e & EPT_R) != 0 && !__atomic_compare_exchange_n(slot, &e, e | EPT_A | (dirty ? EPT_D : 0), false,
                                                               __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {
        }
    }
}

static void count_in(const uint64_t *table, unsigned level, struct ept_stats *out)
{
    for (unsigned i = 0; i < ENTRIES; i++) {
        if ((table[i] & EPT_RWX) == 0) {
            continue;
        }
        if (is_table(table[i], level)) {
            count_in(table_of(table[i]), level - 1, out);
        } else if (level == 0) {
            out->pages_4k++;
        } else if (level == 1) {
            out->pages_2m++;
        } else {
            out->pages_1g++;
        }
    }
}

void ept_get_stats(const struct ept *ept, struct ept_stats *out)
{
    memset(out, 0, sizeof(*out));
    out->table_pages = ept->table_pages;
    count_in(ept->root, LEVELS - 1, out);
}
