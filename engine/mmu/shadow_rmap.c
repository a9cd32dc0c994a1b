/* SPDX-License-Identifier: MIT */
/*
 * Entries of shadow pages and the lists that they are in (see shadow_page.h), and the reverse map: from a frame of guest-physical
 * memory to the leaves that map it. Nothing else writes an entry from absent to present or back.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "mmu/shadow_page.h"

/* ---- frames ---- */

static uint64_t chunk_key(uint64_t gfn, unsigned level)
{
    return (gfn >> (9 * level)) << 2 | level;
}

static unsigned chunk_bucket(uint64_t key)
{
    return (unsigned)((key * 0x9e3779b97f4a7c15ull) >> 52);
}
_Static_assert(CHUNK_BUCKETS == 1u << 12, "chunk_bucket() gives 12 bits");

struct frame_entry *frame_find(struct shadow *s, uint64_t gfn, unsigned level, bool make)
{
    uint64_t key = chunk_key(gfn, level);
    unsigned i = (unsigned)(gfn >> (9 * (level - 1))) & 511;
    struct frame_chunk *c = s->last_chunk;

    if (c != NULL && c->key == key) {
        return &c->frames[i];
    }
    struct frame_chunk **bucket = &s->chunks[chunk_bucket(key)];
    for (c = *bucket; c != NULL && c->key != key; c = c->next) {
    }
    if (c == NULL && make) {
        c = calloc(1, sizeof(*c));
        if (c != NULL) {
            c->key = key;
            c->next = *bucket;
            *bucket = c;
        }
    }
    if (c == NULL) {
        return NULL;
    }
    s->last_chunk = c;
    return &c->frames[i];
}

/* ---- entries ---- */

/* Of a leaf that is no MMIO. Address bits 39..32 of a 4 MiB page are bits 20..13 (SDM 3A table 4-4). */
static uint64_t gpte_gfn(const struct shadow_page *p, unsigned i)
{
    uint64_t e = p->gpte[i];

    if (p->role.direct) {
        return p->gfn + i * frames_at(p->role.level);
    }
    if (p->role.entry4) {
        if (p->role.level == 1) {
            return (e & 0xfffff000ull) >> KAGE_PAGE_SHIFT;
        }
        return (((e & 0xffc00000ull) | (e >> 13 & 0xff) << 32) >> KAGE_PAGE_SHIFT) + (i & 1) * frames_at(2);
    }
    return (e & 0x000ffffffffff000ull) >> KAGE_PAGE_SHIFT & ~(frames_at(p->role.level) - 1);
}

uint64_t entry_gfn(const struct shadow_page *p, unsigned i)
{
    uint64_t e = entry_get(p, i);

    if (entry_is_mmio(e)) {
        return (e & SHADOW_PTE_ADDR) >> KAGE_PAGE_SHIFT;
    }
    return entry_is_leaf(e, p->role.level) ? gpte_gfn(p, i) : entry_child(e)->gfn;
}

/* The list that entry i is in, or comes into. */
static entry_id *list_of(struct shadow *s, const struct shadow_page *p, unsigned i, uint64_t e, bool make)
{
    if (entry_is_mmio(e)) {
        return &s->mmio;
    }
    if (!entry_is_leaf(e, p->role.level)) {
        return &entry_child(e)->parents;
    }
    struct frame_entry *frame = frame_find(s, gpte_gfn(p, i), p->role.level, make);
    return frame != NULL ? &frame->rmap : NULL;
}

static struct entry_link *link_of(const struct shadow *s, entry_id id)
{
    return &page_of_entry(s, id)->links[index_of_entry(id)];
}

static void count_leaf(struct shadow *s, const struct shadow_page *p, uint64_t e, uint64_t by)
{
    if (entry_is_mmio(e)) {
        s->stats.pages_mmio += by;
    } else if (entry_is_leaf(e, p->role.level)) {
        uint64_t *const counters[] = {&s->stats.pages_4k, &s->stats.pages_2m, &s->stats.pages_1g};
        *counters[p->role.level - 1] += by;
    }
}

int entry_set(struct shadow *s, struct shadow_page *p, unsigned i, uint64_t e, uint64_t gpte)
{
    entry_id id = entry_id_of(p, i);

    p->gpte[i] = gpte;
    entry_id *head = list_of(s, p, i, e, true);
    if (head == NULL) {
        return -ENOMEM;
    }
    p->links[i] = (struct entry_link){.next = *head};
    if (*head != 0) {
        link_of(s, *head)->prev = id;
    }
    *head = id;
    p->bits[i / 64] |= 1ull << (i % 64);
    p->present++;
    count_leaf(s, p, e, 1);
    entry_put(p, i, e);
    return 0;
}

void entry_drop(struct shadow *s, struct shadow_page *p, unsigned i)
{
    uint64_t e = entry_get(p, i);
    struct entry_link *link = &p->links[i];

    if (link->prev != 0) {
        link_of(s, link->prev)->next = link->next;
    } else {
        *list_of(s, p, i, e, false) = link->next;
    }
    if (link->next != 0) {
        link_of(s, link->next)->prev = link->prev;
    }
    *link = (struct entry_link){0};
    p->bits[i / 64] &= ~(1ull << (i % 64));
    p->present--;
    count_leaf(s, p, e, UINT64_MAX);
    entry_put(p, i, 0);
}

/* ---- by frame ---- */

static bool protect_list(struct shadow *s, entry_id head, bool keep)
{
    bool any = false;

    for (entry_id id = head, next; id != 0; id = next) {
        struct shadow_page *p = page_of_entry(s, id);
        unsigned i = index_of_entry(id);
        uint64_t e = entry_get(p, i);
        next = p->links[i].next;
        if ((e & X86_PTE_W) == 0) {
            continue;
        }
        any = true;
        if (keep) {
            entry_put(p, i, e & ~X86_PTE_W);
        } else {
            entry_drop(s, p, i);
        }
    }
    return any;
}

bool frame_write_protect(struct shadow *s, uint64_t gfn)
{
    bool any = false;

    for (unsigned level = 1; level <= FRAME_LEVELS; level++) {
        struct frame_entry *frame = frame_find(s, gfn, level, false);
        if (frame != NULL) {
            any |= protect_list(s, frame->rmap, level == 1);
        }
    }
    return any;
}

static bool chunk_is_empty(const struct frame_chunk *c)
{
    for (unsigned i = 0; i < KAGE_ARRAY_SIZE(c->frames); i++) {
        if (c->frames[i].rmap != 0 || c->frames[i].closed != 0) {
            return false;
        }
    }
    return true;
}

void frames_drop(struct shadow *s, uint64_t gfn, uint64_t frames)
{
    uint64_t end = gfn + frames;

    s->last_chunk = NULL;
    for (unsigned bucket = 0; bucket < CHUNK_BUCKETS; bucket++) {
        for (struct frame_chunk **at = &s->chunks[bucket], *c; (c = *at) != NULL;) {
            unsigned level = c->key & 3;
            uint64_t first = (c->key >> 2) << (9 * level), size = frames_at(level);
            if (first >= end || first + 512 * size <= gfn) {
                at = &c->next;
                continue;
            }
            for (unsigned i = 0; i < KAGE_ARRAY_SIZE(c->frames); i++) {
                uint64_t frame = first + i * size;
                while (frame < end && frame + size > gfn && c->frames[i].rmap != 0) {
                    entry_id id = c->frames[i].rmap;
                    entry_drop(s, page_of_entry(s, id), index_of_entry(id));
                }
            }
            s->last_chunk = NULL; /* entry_drop() may have looked one up */
            if (chunk_is_empty(c)) {
                *at = c->next;
                free(c);
            } else {
                at = &c->next;
            }
        }
    }
}

void frames_free(struct shadow *s)
{
    for (unsigned bucket = 0; bucket < CHUNK_BUCKETS; bucket++) {
        for (struct frame_chunk *c = s->chunks[bucket], *next; c != NULL; c = next) {
            next = c->next;
            free(c);
        }
    }
}
