/* SPDX-License-Identifier: MIT */
/*
 * The shadow MMU as a whole: its life, changes of memory slots, and what can be seen of it. See shadow.h.
 */
#include "mmu/shadow.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "mmu/shadow_page.h"

#define OPEN_ENOUGH 32u

int shadow_new(const struct shadow_ops *ops, void *owner, struct shadow **out)
{
    struct shadow *s = calloc(1, sizeof(*s));

    if (s == NULL) {
        return -ENOMEM;
    }
    s->ops = ops;
    s->owner = owner;
    s->max_pages = SHADOW_MIN_PAGES;
    s->open_enough = OPEN_ENOUGH;
    list_init(&s->free);
    list_init(&s->lru);
    list_init(&s->dying);
    list_init(&s->asked);
    list_init(&s->open[0]);
    list_init(&s->open[1]);
    *out = s;
    return 0;
}

void shadow_free(struct shadow *s)
{
    if (s == NULL) {
        return;
    }
    pages_free(s);
    frames_free(s);
    free(s);
}

void shadow_set_open_pages(struct shadow *s, uint32_t pages)
{
    s->open_enough = pages;
}

void shadow_get_stats(struct shadow *s, struct shadow_stats *out)
{
    s->stats.mmu_unsync = s->open_count[0] + s->open_count[1];
    s->stats.pages = s->used;
    s->stats.max_pages = s->max_pages;
    *out = s->stats;
}

/* ---- memory slots ---- */

void shadow_drop_range(struct shadow *s, uint64_t gfn, uint64_t frames)
{
    for (struct list_node *node = s->lru.next, *next; node != &s->lru; node = next) {
        struct shadow_page *p = PAGE_BY(lru, node);
        next = node->next;
        if (page_has_guest_table(p) && p->gfn - gfn < frames) {
            page_zap(s, p);
        }
    }
    frames_drop(s, gfn, frames);
}

void shadow_drop_mmio(struct shadow *s)
{
    while (s->mmio != 0) {
        entry_drop(s, page_of_entry(s, s->mmio), index_of_entry(s->mmio));
    }
    /* Roots that were not in memory may be now. */
    for (struct list_node *node = s->lru.next, *next; node != &s->lru; node = next) {
        struct shadow_page *p = PAGE_BY(lru, node);
        next = node->next;
        if (p->role.own_root && !p->role.pae && !p->role.entry4) {
            page_zap(s, p);
        }
    }
}

void shadow_write_protect(struct shadow *s, uint64_t gfn, uint64_t frames)
{
    for (uint64_t i = 0; i < frames; i++) {
        (void)frame_write_protect(s, gfn + i);
    }
}

/* ---- looking at it ---- */

unsigned shadow_walk_steps(const struct shadow *s, const struct shadow_vcpu *vcpu, gva_t va, struct shadow_step *steps)
{
    const struct shadow_page *p = vcpu->root[0].page;
    unsigned n = 0;

    (void)s;
    while (p != NULL) {
        unsigned level = p->role.level, i = va_index(va, level);
        uint64_t e = entry_get(p, i);
        steps[n++] = (struct shadow_step){.level = level, .table = (uint64_t)(uintptr_t)p->table, .index = i, .entry = e};
        p = (e & X86_PTE_P) == 0 || entry_is_leaf(e, level) ? NULL : entry_child(e);
    }
    return n;
}

bool shadow_entry_gpa(const uint64_t *entry, hva_t page, gpa_t *gpa)
{
    const struct shadow_page *p = page_of_table((const uint64_t *)((uintptr_t)entry & KAGE_PAGE_MASK));
    unsigned i = (unsigned)((uintptr_t)entry & ~KAGE_PAGE_MASK) / 8;
    uint64_t e = entry_get(p, i);

    if ((e & X86_PTE_P) == 0 || !entry_is_leaf(e, p->role.level)) {
        return false;
    }
    uint64_t size = frames_at(p->role.level) << KAGE_PAGE_SHIFT, offset = page - (e & SHADOW_PTE_ADDR & ~(size - 1));
    if (entry_is_mmio(e)) {
        offset = 0;
    }
    *gpa = (entry_gfn(p, i) << KAGE_PAGE_SHIFT) + offset;
    return offset < size;
}

static unsigned list_length(const struct shadow *s, entry_id id)
{
    unsigned n = 0;

    for (; id != 0; id = page_of_entry(s, id)->links[index_of_entry(id)].next) {
        n++;
    }
    return n;
}

void shadow_each_page(const struct shadow *s, bool (*fn)(void *arg, const struct shadow_page_info *info), void *arg)
{
    for (const struct list_node *node = s->lru.next; node != &s->lru; node = node->next) {
        const struct shadow_page *p = PAGE_BY(lru, node);
        struct shadow_page_info info = {.gfn = p->gfn, .role = p->role, .present = p->present, .pins = p->pins,
                                        .parents = list_length(s, p->parents), .table = (uint64_t)(uintptr_t)p->table,
                                        .state = page_has_guest_table(p) ? (enum shadow_state)p->state : SHADOW_CLOSED};
        if (!fn(arg, &info)) {
            return;
        }
    }
}

/* ---- invariants ---- */

static bool is_in_list(const struct shadow *s, entry_id head, entry_id id)
{
    for (; head != 0 && head != id; head = page_of_entry(s, head)->links[index_of_entry(head)].next) {
    }
    return head == id;
}

static const char *check_entry(struct shadow *s, const struct shadow_page *p, unsigned i)
{
    uint64_t e = entry_get(p, i);
    entry_id id = entry_id_of(p, i);

    if ((e & X86_PTE_P) == 0) {
        return e != 0 ? "an absent entry is not 0" : NULL;
    }
    if (entry_is_mmio(e)) {
        return is_in_list(s, s->mmio, id) ? NULL : "an MMIO entry is not in its list";
    }
    if (!entry_is_leaf(e, p->role.level)) {
        const struct shadow_page *child = entry_child(e);
        if (child->use != PAGE_LIVE) {
            return "an entry leads to a page that is not live";
        }
        if (child->role.level != p->role.level - 1) {
            return "an entry leads to a page of another level";
        }
        return is_in_list(s, child->parents, id) ? NULL : "a link is not among the parents";
    }
    struct frame_entry *frame = frame_find(s, entry_gfn(p, i), p->role.level, false);
    if (frame == NULL || !is_in_list(s, frame->rmap, id)) {
        return "a leaf is not in the reverse map";
    }
    if ((e & (X86_PTE_W | SHADOW_PTE_ROM)) == X86_PTE_W && frame->closed != 0) {
        return "a leaf lets a closed table be written";
    }
    return NULL;
}

static const char *check_page(struct shadow *s, struct shadow_page *p)
{
    unsigned present = 0;

    for (unsigned i = 0; i < SHADOW_ENTRIES; i++) {
        bool bit = p->bits[i / 64] >> (i % 64) & 1;
        const char *wrong = check_entry(s, p, i);
        if (wrong != NULL) {
            return wrong;
        }
        if (bit != ((entry_get(p, i) & X86_PTE_P) != 0)) {
            return "the bit of an entry is wrong";
        }
        present += bit;
    }
    if (present != p->present) {
        return "the number of entries is wrong";
    }
    if (!p->role.own_root && page_find(s, p->gfn, p->role) != p) {
        return "a page is not found";
    }
    if (page_has_guest_table(p) && (p->open.next != NULL) != (p->state != SHADOW_CLOSED)) {
        return "an open page is not in the list of open ones, or a closed one is";
    }
    return NULL;
}

static uint32_t count_nodes(const struct list_node *list)
{
    uint32_t n = 0;

    for (const struct list_node *node = list->next; node != list; node = node->next) {
        n++;
    }
    return n;
}

const char *shadow_check(struct shadow *s)
{
    uint32_t live = 0, pinned_dead = 0;

    for (struct list_node *node = s->lru.next; node != &s->lru; node = node->next, live++) {
        struct shadow_page *p = PAGE_BY(lru, node);
        const char *wrong = p->use != PAGE_LIVE ? "a page in use is not live" : check_page(s, p);
        if (wrong != NULL) {
            return wrong;
        }
    }
    for (uint32_t i = 0; i < s->block_count * BLOCK_PAGES; i++) {
        const struct shadow_page *p = &s->blocks[i / BLOCK_PAGES]->pages[i % BLOCK_PAGES];
        pinned_dead += p->use == PAGE_DYING && p->pins > 0;
        if (p->use != PAGE_LIVE && (p->present != 0 || p->parents != 0)) {
            return "a page that is given up has entries or parents";
        }
    }
    if (s->used != live + pinned_dead + count_nodes(&s->dying) + count_nodes(&s->asked)) {
        return "the number of pages in use is wrong";
    }
    if (s->free_count != count_nodes(&s->free) || s->dying_count != count_nodes(&s->dying)) {
        return "the number of free or dying pages is wrong";
    }
    if (s->open_count[0] != count_nodes(&s->open[0]) || s->open_count[1] != count_nodes(&s->open[1])) {
        return "the number of open pages is wrong";
    }
    return NULL;
}
