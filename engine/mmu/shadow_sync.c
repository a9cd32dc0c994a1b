/* SPDX-License-Identifier: MIT */
/*
 * How shadow pages follow the guest's tables. The rule is the architecture's for TLBs (SDM 3A 4.10): an entry may be stale until the guest
 * flushes, and an entry that is not present is not cached. So a guest may write to a table at any level without being stopped, and each flush
 * compares the open pages' entries with those that they were made from.
 *
 * Comparing tables that do not change is a waste: once there are many open pages, those that stayed the same for some flushes are closed. The
 * frame's write rights are taken first, then every vCPU flushes its TLB in its own time, and the first comparison after that is the last. Nobody
 * waits for anybody. A write opens the page again, and makes it harder to close.
 */
#include <errno.h>
#include <string.h>

#include "mmu/shadow_page.h"

#define PATIENCE_FIRST 4u
#define PATIENCE_MAX 256u

/* Bits of a guest's entry that say nothing about the translation: for software, caching, and what is ignored (SDM 3A tables 4-5 to 4-20). */
#define GPTE_IGNORED 0x7ff0000000000e18ull
#define GPTE_IGNORED_32 0xe18ull

static struct list_node *open_list(struct shadow *s, const struct shadow_page *p)
{
    return &s->open[p->role.level > 1];
}

static void open_add(struct shadow *s, struct shadow_page *p)
{
    list_push(open_list(s, p), &p->open);
    s->open_count[p->role.level > 1]++;
}

static void open_remove(struct shadow *s, struct shadow_page *p)
{
    list_remove(&p->open);
    s->open_count[p->role.level > 1]--;
}

/* Notes in the frame that holds the guest's table, and in those around it, that no leaf may be writable. */
static int count_closed(struct shadow *s, const struct shadow_page *p, bool closed)
{
    struct frame_entry *frame[FRAME_LEVELS];

    for (unsigned level = 1; level <= FRAME_LEVELS; level++) {
        frame[level - 1] = frame_find(s, p->gfn, level, closed);
        if (frame[level - 1] == NULL) {
            return -ENOMEM;
        }
    }
    for (unsigned i = 0; i < FRAME_LEVELS; i++) {
        frame[i]->closed += closed ? 1 : UINT32_MAX;
    }
    return 0;
}

void sync_begin(struct shadow *s, struct shadow_page *p)
{
    p->state = SHADOW_OPEN;
    p->ticket = 0;
    p->quiet = 0;
    p->patience = PATIENCE_FIRST;
    open_add(s, p);
}

static void reopen(struct shadow *s, struct shadow_page *p)
{
    if (p->state == SHADOW_OPEN) {
        return;
    }
    (void)count_closed(s, p, false); /* they exist */
    if (p->state == SHADOW_CLOSED) {
        open_add(s, p);
    }
    p->state = SHADOW_OPEN;
    p->ticket = 0;
    p->quiet = 0;
    p->patience = (uint16_t)(2 * p->patience < PATIENCE_MAX ? 2 * p->patience : PATIENCE_MAX);
}

void sync_end(struct shadow *s, struct shadow_page *p)
{
    reopen(s, p);
    open_remove(s, p);
}

void sync_open_frame(struct shadow *s, uint64_t gfn)
{
    struct frame_entry *frame = frame_find(s, gfn, 1, false);

    if (frame == NULL || frame->closed == 0) {
        return;
    }
    s->stats.mmu_pte_write++;
    for (struct shadow_page *p = s->hash[page_hash(gfn)]; p != NULL; p = p->hash_next) {
        if (p->gfn == gfn && page_has_guest_table(p)) {
            reopen(s, p);
        }
    }
}

/* ---- comparing ---- */

/* The guest's entry behind entry i: its offset in the table. */
static unsigned gpte_offset(const struct shadow_page *p, unsigned i)
{
    if (!p->role.entry4) {
        return i * 8;
    }
    return p->role.level == 1 ? (p->role.quadrant * SHADOW_ENTRIES + i) * 4 : (p->role.quadrant * SHADOW_ENTRIES / 2 + i / 2) * 4;
}

/* The guest's entry has become `now`. True if that took something away. */
static bool follow(struct shadow *s, struct shadow_page *p, unsigned i, uint64_t now)
{
    uint64_t e = entry_get(p, i), differs = now ^ p->gpte[i];
    uint64_t ignored = p->role.entry4 ? GPTE_IGNORED_32 : GPTE_IGNORED;

    if (!p->role.entry4 && p->role.pae) {
        ignored &= 0xfff; /* the upper ones are reserved there */
    }
    if (entry_is_leaf(e, p->role.level)) {
        /* Narrower for writing only: the rest stays, as after a fork. A right that grew is found by the fault that wants it. */
        ignored |= X86_PTE_D | X86_PTE_W;
    } else if (!entry_child(e)->role.direct) {
        ignored |= X86_PTE_D | X86_PTE_G;
    }
    if ((differs & ~ignored) != 0) {
        s->stats.mmu_dropped++;
        s->stats.mmu_pde_zapped += !entry_is_leaf(e, p->role.level);
        entry_drop(s, p, i);
        return true;
    }
    bool narrower = (differs & p->gpte[i] & (X86_PTE_D | X86_PTE_W)) != 0;
    p->gpte[i] = now;
    if (entry_is_leaf(e, p->role.level) && narrower) {
        s->stats.mmu_dropped++;
        entry_put(p, i, e & ~X86_PTE_W);
    }
    return narrower;
}

static uint64_t loaded(const struct shadow_page *p, const void *at)
{
    uint64_t v = 0;

    memcpy(&v, at, p->role.entry4 ? 4 : 8);
    return v;
}

/* All entries, in one copy of the part of the guest's table that they come from. True if something was taken away. */
static bool compare(struct shadow *s, struct shadow_page *p)
{
    unsigned first = SHADOW_ENTRIES, last = 0;
    bool changed = false;

    for (unsigned w = 0; w < PRESENT_WORDS; w++) {
        if (p->bits[w] != 0) {
            first = first < SHADOW_ENTRIES ? first : w * 64 + (unsigned)__builtin_ctzll(p->bits[w]);
            last = w * 64 + 63 - (unsigned)__builtin_clzll(p->bits[w]);
        }
    }
    if (p->present == 0) {
        return false;
    }
    unsigned from = gpte_offset(p, first), bytes = gpte_offset(p, last) + (p->role.entry4 ? 4 : 8) - from;
    if (!s->ops->read(s->owner, (p->gfn << KAGE_PAGE_SHIFT) + from, s->buffer, bytes)) {
        memset(s->buffer, 0, bytes); /* no memory there any more: nothing is present */
    }
    s->stats.mmu_compared++;
    for (unsigned w = 0; w < PRESENT_WORDS; w++) {
        for (uint64_t bits = p->bits[w]; bits != 0; bits &= bits - 1) {
            unsigned i = w * 64 + (unsigned)__builtin_ctzll(bits);
            uint64_t now = loaded(p, (const uint8_t *)s->buffer + (gpte_offset(p, i) - from));
            if (now != p->gpte[i]) {
                changed |= follow(s, p, i, now);
            }
        }
    }
    return changed;
}

void sync_page(struct shadow *s, struct shadow_page *p)
{
    if (page_has_guest_table(p) && p->state != SHADOW_CLOSED) {
        (void)compare(s, p);
    }
}

static void sync_list(struct shadow *s, struct list_node *list)
{
    for (struct list_node *node = list->next, *next; node != list; node = next) {
        struct shadow_page *p = PAGE_BY(open, node);
        next = node->next;
        bool last = p->state == SHADOW_CLOSING && s->ops->has_flushed(s->owner, p->ticket);
        bool changed = compare(s, p), orphan = p->parents == 0 && p->pins == 0;
        p->quiet = (uint16_t)(changed ? 0 : p->quiet < UINT16_MAX ? p->quiet + 1 : p->quiet);
        if (orphan && (changed || p->quiet >= p->patience)) {
            s->stats.mmu_flooded += changed;
            page_zap(s, p); /* its frame is no table any more, or nobody has asked for it for a while */
        } else if (last) {
            open_remove(s, p);
            p->state = SHADOW_CLOSED;
            s->stats.mmu_closed++;
        }
    }
}

/* Takes write rights from the frames of pages that do not change, and asks for one flush for all of them. */
static void close_quiet(struct shadow *s)
{
    uint64_t ticket = 0;
    bool any = false;

    for (unsigned which = 0; which < 2; which++) {
        for (struct list_node *node = s->open[which].next; node != &s->open[which]; node = node->next) {
            struct shadow_page *p = PAGE_BY(open, node);
            if (p->state != SHADOW_OPEN || p->quiet < p->patience || p->present == 0 || count_closed(s, p, true) != 0) {
                continue;
            }
            (void)frame_write_protect(s, p->gfn);
            p->state = SHADOW_CLOSING;
            any = true;
        }
    }
    if (!any) {
        return;
    }
    ticket = s->ops->ask_flush(s->owner); /* after the last entry has lost its W */
    for (unsigned which = 0; which < 2; which++) {
        for (struct list_node *node = s->open[which].next; node != &s->open[which]; node = node->next) {
            struct shadow_page *p = PAGE_BY(open, node);
            if (p->state == SHADOW_CLOSING && p->ticket == 0) {
                p->ticket = ticket;
            }
        }
    }
}

static void sync_all(struct shadow *s)
{
    sync_list(s, &s->open[1]);
    sync_list(s, &s->open[0]);
    memset(s->missed, 0, sizeof(s->missed));
}

void shadow_sync(struct shadow *s)
{
    sync_all(s);
    if (s->open_count[0] + s->open_count[1] > s->open_enough) {
        close_quiet(s);
    }
}

void shadow_sync_forced(struct shadow *s)
{
    for (struct list_node *node = s->lru.next; node != &s->lru; node = node->next) {
        struct shadow_page *p = PAGE_BY(lru, node);
        if (page_has_guest_table(p)) {
            reopen(s, p);
        }
    }
    shadow_sync(s);
}

void shadow_frame_written(struct shadow *s, uint64_t gfn)
{
    sync_open_frame(s, gfn);
}

/*
 * What the guest flushes by address is looked for under the roots. Where a link to a page directory or something above one is absent there, the
 * tables below may be live all the same, and be linked to again as they are; so the region is noted, for sync_missed().
 */
static void note_missed(struct shadow *s, unsigned level, gva_t va)
{
    if (level >= 3) {
        s->missed[level - 3] |= 1ull << (va_index(va, level) & 63);
    }
}

void sync_missed(struct shadow *s, const struct shadow_page *root, gva_t va)
{
    const struct shadow_page *p = root;
    unsigned level = p->role.level;

    for (uint64_t e; level >= 3; level--, p = entry_child(e)) {
        e = entry_get(p, va_index(va, level));
        if ((e & X86_PTE_P) == 0 || entry_is_leaf(e, level)) {
            break;
        }
    }
    for (; level >= 3; level--) {
        if ((s->missed[level - 3] >> (va_index(va, level) & 63) & 1) != 0) {
            sync_all(s);
            return;
        }
    }
}

/* Entry i of an open page follows memory. */
static void sync_entry(struct shadow *s, struct shadow_page *p, unsigned i)
{
    uint64_t now = 0;

    if (!page_has_guest_table(p) || p->state == SHADOW_CLOSED || (p->bits[i / 64] >> (i % 64) & 1) == 0) {
        return;
    }
    if (!s->ops->read(s->owner, (p->gfn << KAGE_PAGE_SHIFT) + gpte_offset(p, i), &now, p->role.entry4 ? 4 : 8)) {
        now = 0;
    }
    if (now != p->gpte[i] && follow(s, p, i, now)) {
        p->quiet = 0;
    }
}

/* The entry of the page table that va leads to under one root. */
static void sync_leaf(struct shadow *s, struct shadow_page *root, gva_t va)
{
    struct shadow_page *p = root;

    while (p->role.level > 1) {
        uint64_t e = entry_get(p, va_index(va, p->role.level));
        if ((e & X86_PTE_P) == 0) {
            note_missed(s, p->role.level, va);
            return;
        }
        if (entry_is_leaf(e, p->role.level)) {
            return; /* the pages of upper levels have been compared as a whole */
        }
        p = entry_child(e);
    }
    sync_entry(s, p, va_index(va, 1));
}

/* All entries that va leads over under one root. True: other roots may have what was at the end, a global page for one. */
static bool sync_path(struct shadow *s, struct shadow_page *root, gva_t va)
{
    for (struct shadow_page *p = root;;) {
        unsigned i = va_index(va, p->role.level);
        uint64_t was = entry_get(p, i);
        if ((was & X86_PTE_P) == 0) {
            note_missed(s, p->role.level, va);
            return false;
        }
        sync_entry(s, p, i);
        if (entry_is_leaf(was, p->role.level)) {
            return (was & X86_PTE_G) != 0;
        }
        if (entry_get(p, i) != was) {
            note_missed(s, p->role.level, va);
            return true;
        }
        p = entry_child(was);
    }
}

void shadow_sync_fault(struct shadow *s, const struct shadow_vcpu *vcpu, gva_t va)
{
    if (vcpu->root[0].page == NULL || vcpu->root[0].page->use != PAGE_LIVE || !sync_path(s, vcpu->root[0].page, va)) {
        return;
    }
    for (unsigned i = 1; i < SHADOW_ROOTS; i++) {
        if (vcpu->root[i].page != NULL && vcpu->root[i].page->use == PAGE_LIVE) {
            (void)sync_path(s, vcpu->root[i].page, va);
        }
    }
}

bool shadow_sync_page(struct shadow *s, const struct shadow_vcpu *vcpu, gva_t va)
{
    unsigned bit = (unsigned)(va >> 21) & 4095, bit_1g = (unsigned)(va >> 30) & 4095;

    /* INVLPG drops what is cached of tables for every address (SDM 3A 4.10.4.1). */
    sync_list(s, &s->open[1]);
    for (unsigned i = 0; i < SHADOW_ROOTS; i++) {
        if (vcpu->root[i].page != NULL) {
            sync_leaf(s, vcpu->root[i].page, va); /* global pages go under every PCID */
        }
    }
    return ((s->pieces[bit / 64] >> (bit % 64) | s->pieces_1g[bit_1g / 64] >> (bit_1g % 64)) & 1) == 0;
}
