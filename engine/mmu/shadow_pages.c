/* SPDX-License-Identifier: MIT */
/*
 * Shadow pages: where they come from, how they are found, and how they go. Their number is bounded; the least recently used make room.
 * A page that goes is empty at once, but a processor may still be walking it, or hold its address in its caches: its memory waits for a flush
 * of every vCPU's TLB, asked for by the batch.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "mmu/shadow_page.h"

#define RECYCLE_MIN 8u

/* ---- blocks ---- */

static struct page_block *block_map(void)
{
    uint8_t *map = mmap(NULL, 2 * SHADOW_BLOCK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (map == MAP_FAILED) {
        return NULL;
    }
    size_t head = (size_t)(-(uintptr_t)map & (SHADOW_BLOCK_BYTES - 1));
    uint8_t *block = map + head;
    if (head != 0) {
        munmap(map, head);
    }
    if (head != SHADOW_BLOCK_BYTES) {
        munmap(block + SHADOW_BLOCK_BYTES, SHADOW_BLOCK_BYTES - head);
    }
    return (struct page_block *)(void *)block;
}

static int add_block(struct shadow *s)
{
    if (s->block_count == s->block_room) {
        uint32_t room = s->block_room != 0 ? 2 * s->block_room : 16;
        struct page_block **blocks = room <= MAX_BLOCKS ? realloc(s->blocks, room * sizeof(struct page_block *)) : NULL;
        if (blocks == NULL) {
            return -ENOMEM;
        }
        s->blocks = blocks;
        s->block_room = room;
    }
    struct page_block *block = block_map();
    if (block == NULL) {
        return -ENOMEM;
    }
    uint8_t *part = (uint8_t *)block + BLOCK_TABLES_AT;
    for (unsigned i = 0; i < BLOCK_PAGES; i++, part += PAGE_PART_BYTES) {
        struct shadow_page *p = &block->pages[i];
        p->index = s->block_count * BLOCK_PAGES + i;
        p->table = (uint64_t *)(void *)part;
        p->gpte = p->table + SHADOW_ENTRIES;
        p->links = (struct entry_link *)(void *)(p->gpte + SHADOW_ENTRIES);
    }
    for (unsigned i = BLOCK_PAGES; i-- > 0;) {
        list_push(&s->free, &block->pages[i].lru);
    }
    s->free_count += BLOCK_PAGES;
    s->blocks[s->block_count++] = block;
    return 0;
}

void pages_free(struct shadow *s)
{
    for (uint32_t i = 0; i < s->block_count; i++) {
        munmap(s->blocks[i], SHADOW_BLOCK_BYTES);
    }
    free(s->blocks);
}

/* ---- finding ---- */

struct shadow_page *page_find(struct shadow *s, uint64_t gfn, union shadow_role role)
{
    for (struct shadow_page *p = s->hash[page_hash(gfn)]; p != NULL; p = p->hash_next) {
        if (p->gfn == gfn && p->role.word == role.word) {
            return p;
        }
    }
    return NULL;
}

static void hash_remove(struct shadow *s, struct shadow_page *p)
{
    struct shadow_page **at = &s->hash[page_hash(p->gfn)];

    while (*at != p) {
        at = &(*at)->hash_next;
    }
    *at = p->hash_next;
}

void page_touch(struct shadow *s, struct shadow_page *p)
{
    if (s->lru.next != &p->lru) {
        list_remove(&p->lru);
        list_push(&s->lru, &p->lru);
    }
}

struct shadow_page *page_make(struct shadow *s, uint64_t gfn, union shadow_role role)
{
    struct shadow_page *p = PAGE_BY(lru, s->free.next); /* pages_reserve() has been called */

    list_remove(&p->lru);
    s->free_count--;
    p->gfn = gfn;
    p->role = role;
    p->use = PAGE_LIVE;
    list_push(&s->lru, &p->lru);
    s->used++;
    s->stats.mmu_cache_miss++;
    if (!role.own_root) {
        p->hash_next = s->hash[page_hash(gfn)];
        s->hash[page_hash(gfn)] = p;
    }
    if (page_has_guest_table(p)) {
        sync_begin(s, p);
    }
    return p;
}

/* ---- going ---- */

static void page_die(struct shadow *s, struct shadow_page *p)
{
    list_push(&s->dying, &p->lru);
    s->dying_count++;
}

void page_pin(struct shadow_page *p)
{
    p->pins++;
}

void page_unpin(struct shadow *s, struct shadow_page *p)
{
    if (--p->pins > 0) {
        return;
    }
    if (p->use == PAGE_DYING) {
        page_die(s, p); /* it has been zapped meanwhile */
    } else if (p->role.own_root) {
        page_zap(s, p);
    }
}

void page_zap(struct shadow *s, struct shadow_page *p)
{
    while (p->parents != 0) {
        entry_drop(s, page_of_entry(s, p->parents), index_of_entry(p->parents));
    }
    for (unsigned w = 0; w < PRESENT_WORDS; w++) {
        while (p->bits[w] != 0) {
            unsigned i = w * 64 + (unsigned)__builtin_ctzll(p->bits[w]);
            uint64_t e = entry_get(p, i);
            entry_drop(s, p, i);
            if (!entry_is_leaf(e, p->role.level) && entry_child(e)->role.own_root) {
                page_zap(s, entry_child(e)); /* nobody else knows it; it has no such child itself */
            }
        }
    }
    if (page_has_guest_table(p)) {
        sync_end(s, p);
    }
    if (!p->role.own_root) {
        hash_remove(s, p);
    }
    list_remove(&p->lru);
    p->use = PAGE_DYING;
    s->stats.mmu_shadow_zapped++;
    if (p->pins == 0) {
        page_die(s, p);
    }
}

static void free_all(struct shadow *s, struct list_node *list)
{
    while (list->next != list) {
        struct shadow_page *p = PAGE_BY(lru, list->next);
        list_remove(&p->lru);
        p->use = PAGE_FREE;
        list_push(&s->free, &p->lru);
        s->free_count++;
        s->used--;
    }
}

/* Dying pages whose flush is over become free ones; the others' flush is asked for. */
static void reap(struct shadow *s)
{
    for (unsigned round = 0; round < 2; round++) {
        if (s->asked.next != &s->asked && s->ops->has_flushed(s->owner, s->asked_ticket)) {
            free_all(s, &s->asked);
        }
        if (s->asked.next != &s->asked || s->dying.next == &s->dying) {
            return;
        }
        s->asked_ticket = s->ops->ask_flush(s->owner);
        while (s->dying.next != &s->dying) {
            struct list_node *node = s->dying.next;
            list_remove(node);
            list_push(&s->asked, node);
        }
        s->dying_count = 0;
    }
}

void shadow_reclaim(struct shadow *s)
{
    free_all(s, &s->asked);
    free_all(s, &s->dying);
    s->dying_count = 0;
}

static void recycle(struct shadow *s, uint32_t count)
{
    for (struct list_node *node = s->lru.prev, *prev; node != &s->lru && count > 0; node = prev) {
        struct shadow_page *p = PAGE_BY(lru, node);
        prev = node->prev;
        if (p->pins > 0) {
            continue;
        }
        page_zap(s, p); /* not `prev` with it: only an upper level of one's own takes its child along, and that is pinned */
        s->stats.mmu_recycled++;
        count--;
    }
}

int pages_reserve(struct shadow *s, uint32_t count)
{
    if (s->dying_count > s->max_pages / 4 + RECYCLE_MIN) {
        reap(s);
    }
    if (s->used + count > s->max_pages) {
        reap(s);
        if (s->used + count > s->max_pages) {
            uint32_t batch = s->max_pages / 16 + RECYCLE_MIN, over = s->used + count - s->max_pages;
            recycle(s, batch > over ? batch : over);
            reap(s);
        }
        /* What is pinned is too few to count; what waits for a flush is held to half the bound. */
        if (s->used + count > s->max_pages + s->max_pages / 2 && (s->asked.next != &s->asked || s->dying.next != &s->dying)) {
            return -EAGAIN;
        }
    }
    while (s->free_count < count) {
        int err = add_block(s);
        if (err != 0) {
            return err;
        }
    }
    return 0;
}

void shadow_set_max_pages(struct shadow *s, uint32_t pages)
{
    s->max_pages = pages > SHADOW_MIN_PAGES ? pages : SHADOW_MIN_PAGES;
    if (s->used > s->max_pages) {
        recycle(s, s->used - s->max_pages);
        reap(s);
    }
}
