/* SPDX-License-Identifier: MIT */
/*
 * Shadow page tables without a guest: the test is the guest's processor, its walker, its TLB and its memory. Tables are changed at
 * random, by stores that go through the shadow tables themselves, and every access is compared with a model that knows nothing of
 * shadow pages: for each address it keeps all the translations that the guest's tables have given since the vCPU last flushed it. An
 * access that is served must be one of them; one that is refused must be refused by memory as it is now.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "mmu/shadow.h"

#define PAGE KAGE_PAGE_SIZE
#define FRAMES 4096u     /* 16 MiB of guest memory */
#define POOL 14u         /* frames 16 to 29 are tables, any of them of any level */
#define POOL_AT 16u
#define FIXED_AT 2u      /* tables of the window through which the test writes to guest memory */
#define ROM_AT 64u       /* frames 64 to 71: a read-only slot */
#define ROM_END 72u
#define VCPUS 2u
#define TLB 48u
#define HISTORY 96u
#define ADDRESSES 24u

enum format { LONG4, LONG5, PAE, LEGACY };

struct guest_regs {
    uint64_t cr0, cr3, cr4, efer, pdpte[4];
};

struct seen { /* what the tables said at some time */
    bool mapped;
    uint64_t gfn;
    uint32_t flags;
};

struct tlb_entry {
    bool valid;
    gva_t page;
    uint64_t entry, gfn; /* entry: rights and kind as the leaf has them */
};

struct vcpu {
    struct shadow_vcpu shadow;
    struct guest_regs regs;
    struct tlb_entry tlb[TLB];
    uint64_t asked, done;
    struct seen history[ADDRESSES][HISTORY];
    unsigned count[ADDRESSES];
};

struct world {
    uint8_t *mem;
    struct shadow *shadow;
    enum format format;
    unsigned max_level;
    bool log, clean[FRAMES]; /* dirty log: clean frames may not be written yet */
    uint64_t ticket;
    uint32_t seed;
    gva_t address[ADDRESSES];
    struct vcpu vcpu[VCPUS];
};

static uint32_t rnd(struct world *w, uint32_t below)
{
    w->seed = w->seed * 1664525u + 1013904223u;
    return (uint32_t)(((uint64_t)(w->seed ^ w->seed >> 15) * below) >> 32);
}

/* ---- what the shadow MMU asks for ---- */

static int frame(void *owner, uint64_t gfn, bool write, struct shadow_frame *out)
{
    struct world *w = owner;

    if (gfn >= FRAMES) {
        return -ENOENT;
    }
    if (write && w->log) {
        w->clean[gfn] = false;
    }
    bool rom = gfn >= ROM_AT && gfn < ROM_END;
    *out = (struct shadow_frame){.host = w->mem + gfn * PAGE, .max_level = w->log || rom || gfn < 512 ? 1 : w->max_level, .read_only = rom,
                                 .may_write = !(w->log && w->clean[gfn])};
    return 0;
}

static bool read_guest(void *owner, gpa_t gpa, void *buf, size_t bytes)
{
    struct world *w = owner;

    if (gpa + bytes > FRAMES * PAGE) {
        return false;
    }
    memcpy(buf, w->mem + gpa, bytes);
    return true;
}

static uint64_t ask_flush(void *owner)
{
    struct world *w = owner;

    w->ticket++;
    for (unsigned i = 0; i < VCPUS; i++) {
        w->vcpu[i].asked = w->ticket;
    }
    return w->ticket;
}

static bool has_flushed(void *owner, uint64_t ticket)
{
    struct world *w = owner;

    for (unsigned i = 0; i < VCPUS; i++) {
        if (w->vcpu[i].done < ticket) {
            return false;
        }
    }
    return true;
}

static const struct shadow_ops ops = {frame, read_guest, ask_flush, has_flushed};

static void poll(struct vcpu *v)
{
    if (v->asked > v->done) {
        memset(v->tlb, 0, sizeof(v->tlb));
        v->done = v->asked;
    }
}

/* ---- the model: the guest's tables by the manual, on its own ---- */

static unsigned entry_bytes(const struct world *w)
{
    return w->format == LEGACY ? 4 : 8;
}

static uint64_t load(const struct world *w, gpa_t gpa)
{
    uint64_t v = 0;

    memcpy(&v, w->mem + gpa, entry_bytes(w));
    return v;
}

static struct paging_regime regime(const struct vcpu *v)
{
    return (struct paging_regime){v->regs.cr0, v->regs.cr3, v->regs.cr4, v->regs.efer, v->regs.pdpte};
}

/* What memory says of va; the entries on the way are in *out. False: not mapped, or reserved bits. */
static bool model_walk(const struct world *w, const struct vcpu *v, gva_t va, struct walk *out)
{
    unsigned bits = w->format == LEGACY ? 10 : 9, bytes = entry_bytes(w);
    unsigned level = w->format == LONG5 ? 5 : w->format == LONG4 ? 4 : 2;
    uint64_t table = v->regs.cr3 & (w->format == LEGACY ? 0xfffff000ull : 0xffffffffff000ull);

    memset(out, 0, sizeof(*out));
    out->top = level;
    if (w->format == PAE) {
        uint64_t pdpte = v->regs.pdpte[va >> 30 & 3];
        if (!(pdpte & 1)) {
            return false;
        }
        table = pdpte & 0xffffffffff000ull;
    }
    uint32_t flags = MAP_USER | MAP_WRITE;
    for (;; level--) {
        unsigned shift = 12 + bits * (level - 1);
        gpa_t at = table + (va >> shift & ((1u << bits) - 1)) * bytes;
        if (at + bytes > FRAMES * PAGE) {
            return false;
        }
        uint64_t e = load(w, at);
        struct walk_step *step = &out->step[level];
        bool large = (e & X86_PTE_PS) != 0 && level > 1 && level <= (w->format == LEGACY || w->format == PAE ? 2 : 3);
        out->level = level;
        step->gpa = at;
        step->entry = e;
        step->read_only = at / PAGE >= ROM_AT && at / PAGE < ROM_END;
        if (!(e & 1) || (level > 3 && (e & X86_PTE_PS))) {
            return false;
        }
        if (w->format != LEGACY && ((e & (0xfffull << 40)) || (e >> 63 && !(v->regs.efer & X86_EFER_NX)))) {
            return false;
        }
        if (large && (w->format == LEGACY ? (e & 0x3fe000) : (e & ((1ull << shift) - 1) & ~0x1fffull))) {
            return false; /* 36-bit addresses of 4 MiB pages are left out: such bits do not occur here */
        }
        flags &= (e & X86_PTE_U ? ~0u : ~MAP_USER) & (e & X86_PTE_W ? ~0u : ~MAP_WRITE);
        flags |= w->format != LEGACY && e >> 63 ? MAP_NX : 0;
        step->flags = flags;
        if (level == 1 || large) {
            uint64_t address = (w->format == LEGACY ? e & 0xfffff000ull : e & 0xffffffffff000ull) & ~((1ull << shift) - 1);
            out->page_shift = shift;
            out->gpa = address | (va & ((1ull << shift) - 1));
            out->flags = flags | (e & X86_PTE_D ? MAP_DIRTY : 0) | (level > 1 ? MAP_LARGE : 0) |
                         (e & X86_PTE_G && v->regs.cr4 & X86_CR4_PGE ? MAP_GLOBAL : 0);
            return true;
        }
        table = w->format == LEGACY ? e & 0xfffff000ull : e & 0xffffffffff000ull;
    }
}

struct access {
    bool write, user, fetch;
};

static bool allows(uint32_t flags, uint64_t cr0, uint64_t cr4, struct access a)
{
    bool user_page = flags & MAP_USER, w = flags & MAP_WRITE, nx = flags & MAP_NX;

    if (a.user && !user_page)
        return false;
    if (a.fetch)
        return !nx && (a.user || !user_page || !(cr4 & X86_CR4_SMEP));
    if (a.write && !w && (a.user || (cr0 & X86_CR0_WP)))
        return false;
    return a.user || !user_page || !(cr4 & X86_CR4_SMAP);
}

/* Sets A and D, as the processor's walk does for an allowed access. */
static void mark(struct world *w, struct walk *walk, bool write)
{
    for (unsigned level = walk->top; level >= walk->level; level--) {
        struct walk_step *step = &walk->step[level];
        step->entry |= X86_PTE_A | (write && level == walk->level ? X86_PTE_D : 0);
        if (!step->read_only)
            memcpy(w->mem + step->gpa, &step->entry, entry_bytes(w));
    }
    if (write)
        walk->flags |= MAP_DIRTY;
}

/* The window: it maps all memory and never changes. */
static gva_t window(const struct world *w, gpa_t gpa)
{
    switch (w->format) {
    case LONG4:
        return 0xffffff8000000000ull + gpa;
    case LONG5:
        return 0xffff000000000000ull + gpa;
    default:
        return 0xc0000000ull + gpa;
    }
}

/* `stored`: an entry there was written, with A and D as the guest likes; UINT64_MAX: none was. */
static void remember(struct world *w, unsigned which, bool all, gpa_t stored)
{
    struct vcpu *v = &w->vcpu[which];

    for (unsigned i = 0; i < ADDRESSES; i++) {
        struct walk walk;
        struct seen now = {.mapped = model_walk(w, v, w->address[i], &walk)};
        if (now.mapped) {
            now.gfn = walk.gpa / PAGE;
            now.flags = walk.flags & (MAP_USER | MAP_WRITE | MAP_NX);
        }
        bool touched = false;
        for (unsigned level = walk.top; level >= walk.level && level > 0; level--)
            touched |= walk.step[level].gpa == stored;
        if (all)
            v->count[i] = 0;
        if (v->count[i] == 0 || touched || memcmp(&v->history[i][v->count[i] - 1], &now, sizeof(now)) != 0) {
            assert_true(v->count[i] < HISTORY);
            v->history[i][v->count[i]++] = now;
        }
    }
}

/* ---- the processor: shadow tables and a TLB ---- */

static unsigned shadow_levels(const struct world *w, const struct vcpu *v)
{
    return w->format == LONG5 && (v->regs.cr0 & X86_CR0_PG) ? 5 : 4;
}

static bool shadow_lookup(const struct world *w, const struct vcpu *v, gva_t va, uint64_t *leaf, uint64_t *gfn)
{
    const uint64_t *table = (const uint64_t *)(uintptr_t)shadow_root_address(&v->shadow);

    for (unsigned level = shadow_levels(w, v);; level--) {
        unsigned shift = 12 + 9 * (level - 1);
        const uint64_t *at = &table[va >> shift & 511];
        uint64_t e = *at;
        if (!(e & X86_PTE_P))
            return false;
        assert_int_equal(e & (X86_PTE_A | X86_PTE_D), X86_PTE_A | X86_PTE_D);
        if (level > 1 && !(e & X86_PTE_PS)) {
            assert_int_equal(e & (X86_PTE_W | X86_PTE_U | X86_PTE_NX), X86_PTE_W | X86_PTE_U);
            table = (const uint64_t *)(uintptr_t)(e & SHADOW_PTE_ADDR);
            continue;
        }
        uint64_t inside = va & ((1ull << shift) - 1) & KAGE_PAGE_MASK;
        gpa_t gpa;
        assert_true(shadow_entry_gpa(at, (e & SHADOW_PTE_ADDR & ~((1ull << shift) - 1)) + inside, &gpa));
        *gfn = gpa / PAGE;
        if (e & SHADOW_PTE_MMIO) {
            assert_int_equal(level, 1);
            assert_true(*gfn >= FRAMES);
        } else {
            assert_int_equal((e & SHADOW_PTE_ADDR & ~((1ull << shift) - 1)) + inside, (uint64_t)(uintptr_t)w->mem + *gfn * PAGE);
            assert_int_equal((e & SHADOW_PTE_ROM) != 0, *gfn >= ROM_AT && *gfn < ROM_END);
            if ((e & (X86_PTE_W | SHADOW_PTE_ROM)) == X86_PTE_W && w->log)
                assert_false(w->clean[*gfn]);
        }
        *leaf = e;
        return true;
    }
}

static uint32_t flags_of(uint64_t leaf)
{
    return (leaf & X86_PTE_U ? MAP_USER : 0) | (leaf & X86_PTE_W ? MAP_WRITE : 0) | (leaf & X86_PTE_NX ? MAP_NX : 0);
}

/* The actual controls: CR0.WP is 1, CR4.SMEP and SMAP are the guest's while it pages. */
static bool leaf_allows(const struct vcpu *v, uint64_t leaf, struct access a)
{
    return allows(flags_of(leaf), X86_CR0_WP, v->regs.cr0 & X86_CR0_PG ? v->regs.cr4 : 0, a);
}

static struct tlb_entry *tlb_find(struct vcpu *v, gva_t va)
{
    for (unsigned i = 0; i < TLB; i++)
        if (v->tlb[i].valid && v->tlb[i].page == (va & KAGE_PAGE_MASK))
            return &v->tlb[i];
    return NULL;
}

static void set_root(struct world *w, struct vcpu *v)
{
    struct paging_regime r = regime(v);
    bool kept;
    int err;

    while ((err = shadow_set_root(w->shadow, &v->shadow, &r, true, &kept)) == -EAGAIN) {
        for (unsigned i = 0; i < VCPUS; i++) {
            v->asked = ++w->ticket;
            poll(&w->vcpu[i]);
        }
        shadow_reclaim(w->shadow);
    }
    assert_int_equal(err, 0);
    assert_true(shadow_has_root(&v->shadow, &r, true));
}

enum outcome { SERVED, REFUSED };

/* The guest's access, as often as its instruction has to run. */
static enum outcome access_guest(struct world *w, struct vcpu *v, gva_t va, struct access a, uint64_t *gfn)
{
    for (unsigned round = 0; round < 8; round++) {
        struct tlb_entry *t = tlb_find(v, va);
        if (t != NULL && leaf_allows(v, t->entry, a)) {
            *gfn = t->gfn;
            return SERVED;
        }
        uint64_t leaf;
        if (t != NULL)
            t->valid = false;
        if (shadow_lookup(w, v, va, &leaf, gfn) && leaf_allows(v, leaf, a)) {
            v->tlb[rnd(w, TLB)] = (struct tlb_entry){.valid = true, .page = va & KAGE_PAGE_MASK, .entry = leaf, .gfn = *gfn};
            return SERVED;
        }
        struct walk walk;
        bool spurious;
        if (v->regs.cr0 & X86_CR0_PG) {
            if (!model_walk(w, v, va, &walk) || !allows(walk.flags, v->regs.cr0, v->regs.cr4, a))
                return REFUSED;
            mark(w, &walk, a.write);
        } else {
            walk = (struct walk){.gpa = (uint32_t)va, .flags = MAP_USER | MAP_WRITE | MAP_DIRTY, .page_shift = 12};
        }
        int err = shadow_map(w->shadow, &v->shadow, va, &walk, a.write, a.user, &spurious);
        if (err == -EAGAIN) {
            for (unsigned i = 0; i < VCPUS; i++) {
                w->vcpu[i].asked = ++w->ticket;
                poll(&w->vcpu[i]);
            }
            shadow_reclaim(w->shadow);
        } else {
            assert_int_equal(err, 0);
        }
        struct paging_regime r = regime(v);
        if (!shadow_has_root(&v->shadow, &r, true))
            set_root(w, v);
    }
    fail_msg("0x%llx is never served (write %d user %d fetch %d)", (unsigned long long)va, a.write, a.user, a.fetch);
    return REFUSED;
}

/* A store to guest memory, by the window. */
static void store(struct world *w, struct vcpu *v, gpa_t gpa, uint64_t value)
{
    uint64_t gfn;
    struct access a = {.write = true};

    assert_int_equal(access_guest(w, v, window(w, gpa), a, &gfn), SERVED);
    assert_int_equal(gfn, gpa / PAGE);
    memcpy(w->mem + gpa, &value, entry_bytes(w));
    for (unsigned i = 0; i < VCPUS; i++)
        remember(w, i, false, gpa);
}

static void flush_all(struct world *w, struct vcpu *v)
{
    shadow_sync(w->shadow);
    memset(v->tlb, 0, sizeof(v->tlb));
    set_root(w, v);
    remember(w, (unsigned)(v - w->vcpu), true, UINT64_MAX);
}

static void flush_page(struct world *w, struct vcpu *v, unsigned which)
{
    gva_t va = w->address[which];
    struct tlb_entry *t = tlb_find(v, va);

    if (!shadow_sync_page(w->shadow, &v->shadow, va))
        memset(v->tlb, 0, sizeof(v->tlb));
    else if (t != NULL)
        t->valid = false;
    v->count[which] = 0;
    remember(w, (unsigned)(v - w->vcpu), false, UINT64_MAX);
}

/* ---- building it ---- */

static uint8_t *map_memory(void)
{
    uint8_t *mem = aligned_alloc(4u << 20, FRAMES * PAGE);

    assert_non_null(mem);
    memset(mem, 0, FRAMES * PAGE);
    return mem;
}

static void put(struct world *w, gpa_t table, unsigned index, uint64_t entry)
{
    memcpy(w->mem + table * PAGE + index * entry_bytes(w), &entry, entry_bytes(w));
}

/* The window's tables, from the top entry on. Returns what that is. */
static uint64_t build_window(struct world *w)
{
    const uint64_t rights = X86_PTE_P | X86_PTE_W | X86_PTE_A | X86_PTE_D;

    if (w->format == LEGACY || w->format == PAE) {
        for (unsigned i = 0; i < FRAMES; i++) {
            unsigned per = w->format == LEGACY ? 1024 : 512;
            put(w, FIXED_AT + 1 + i / per, i % per, (uint64_t)i << 12 | rights);
            put(w, FIXED_AT, i / per + (w->format == LEGACY ? 768 : 0), (FIXED_AT + 1 + i / per) << 12 | rights);
        }
        return FIXED_AT << 12;
    }
    put(w, FIXED_AT, 0, (FIXED_AT + 1) << 12 | rights);
    put(w, FIXED_AT + 1, 0, (FIXED_AT + 2) << 12 | rights);
    for (unsigned i = 0; i < FRAMES / 512; i++) /* 2 MiB pages */
        put(w, FIXED_AT + 2, i, (uint64_t)i << 21 | rights | X86_PTE_PS);
    return FIXED_AT << 12 | rights;
}

static void window_in_root(struct world *w, uint64_t root)
{
    uint64_t top = build_window(w);

    if (w->format == LONG4)
        put(w, root, 511, (FIXED_AT + 1) << 12 | (top & 0xfff));
    else if (w->format == LONG5)
        put(w, root, 511, top);
    else if (w->format == LEGACY)
        memcpy(w->mem + root * PAGE + 768 * 4, w->mem + FIXED_AT * PAGE + 768 * 4, 16 * 4);
}

static void world_init(struct world *w, enum format format, uint32_t seed)
{
    memset(w, 0, sizeof(*w));
    w->mem = map_memory();
    w->format = format;
    w->seed = seed;
    w->max_level = 2;
    assert_int_equal(shadow_new(&ops, w, &w->shadow), 0);
    shadow_set_max_pages(w->shadow, 4096);
    shadow_set_open_pages(w->shadow, seed % 2 ? 0 : 8);
    for (unsigned i = 0; i < 2; i++)
        window_in_root(w, POOL_AT + i);
    for (unsigned i = 0; i < VCPUS; i++) {
        struct vcpu *v = &w->vcpu[i];
        v->regs = (struct guest_regs){.cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_WP, .cr3 = (POOL_AT + i) * PAGE,
                                      .cr4 = X86_CR4_PGE | X86_CR4_PSE | (format == LEGACY ? 0 : X86_CR4_PAE) |
                                             (format == LONG5 ? X86_CR4_LA57 : 0),
                                      .efer = format == LEGACY ? 0 : X86_EFER_NX | (format == PAE ? 0 : X86_EFER_LMA | X86_EFER_LME)};
        if (format == PAE) {
            for (unsigned k = 0; k < 3; k++)
                v->regs.pdpte[k] = (POOL_AT + (i + k) % 4) * PAGE | 1;
            v->regs.pdpte[3] = FIXED_AT * PAGE | 1;
        }
    }
    for (unsigned i = 0; i < ADDRESSES; i++) { /* few indices, so that tables meet */
        gva_t va = 0;
        unsigned levels = format == LONG5 ? 5 : format == LONG4 ? 4 : 3;
        for (unsigned level = 1; level <= levels; level++)
            va |= (uint64_t)(level == levels && format == LEGACY ? rnd(w, 3) : rnd(w, 3) * (level == 1 ? 1 : 1)) << (12 + 9 * (level - 1));
        w->address[i] = va;
    }
    for (unsigned i = 0; i < VCPUS; i++) {
        set_root(w, &w->vcpu[i]);
        remember(w, i, true, UINT64_MAX);
    }
}

static void world_fini(struct world *w)
{
    assert_null(shadow_check(w->shadow));
    for (unsigned i = 0; i < VCPUS; i++)
        shadow_drop_roots(w->shadow, &w->vcpu[i].shadow);
    assert_null(shadow_check(w->shadow));
    shadow_free(w->shadow);
    free(w->mem);
}

/* ---- one address at a time ---- */

static const struct access kernel_read = {0}, kernel_write = {.write = true}, user_read = {.user = true},
                           user_write = {.user = true, .write = true}, kernel_fetch = {.fetch = true}, user_fetch = {.user = true, .fetch = true};

#define RWU (X86_PTE_P | X86_PTE_W | X86_PTE_U | X86_PTE_A)

/* Tables for va 0: POOL_AT -> +2 -> +3 -> +4 (page table) in 64-bit format. */
static struct world *simple(struct world *w, uint64_t leaf)
{
    world_init(w, LONG4, 2);
    put(w, POOL_AT, 0, (POOL_AT + 2) << 12 | RWU);
    put(w, POOL_AT + 2, 0, (POOL_AT + 3) << 12 | RWU);
    put(w, POOL_AT + 3, 0, (POOL_AT + 4) << 12 | RWU);
    put(w, POOL_AT + 4, 0, leaf);
    return w;
}

static enum outcome try(struct world *w, gva_t va, struct access a)
{
    uint64_t gfn;

    return access_guest(w, &w->vcpu[0], va, a, &gfn);
}

static void forget(struct world *w)
{
    for (unsigned i = 0; i < VCPUS; i++)
        memset(w->vcpu[i].tlb, 0, sizeof(w->vcpu[i].tlb));
}

static struct shadow_stats stats(struct world *w)
{
    struct shadow_stats s;

    shadow_get_stats(w->shadow, &s);
    return s;
}

static void test_rights(void **state)
{
    struct world *w = simple(calloc(1, sizeof(*w)), 100ull << 12 | X86_PTE_P | X86_PTE_U | X86_PTE_NX);
    uint64_t leaf, gfn;

    (void)state;
    assert_int_equal(try(w, 0, user_write), REFUSED);
    assert_false(shadow_lookup(w, &w->vcpu[0], 0, &leaf, &gfn)); /* nothing is made for what is refused */
    assert_int_equal(try(w, 0, user_read), SERVED);
    assert_int_equal(load(w, (POOL_AT + 4) * PAGE) & (X86_PTE_A | X86_PTE_D), X86_PTE_A);
    assert_int_equal(try(w, 0, kernel_read), SERVED);
    assert_int_equal(try(w, 0, kernel_write), REFUSED);
    assert_int_equal(try(w, 0, kernel_fetch), REFUSED);
    assert_true(shadow_lookup(w, &w->vcpu[0], 0, &leaf, &gfn));
    assert_int_equal(gfn, 100);
    assert_int_equal(leaf & (X86_PTE_W | X86_PTE_U | X86_PTE_NX), X86_PTE_U | X86_PTE_NX);
    world_fini(w);
    free(w);
}

static void test_dirty_bit(void **state)
{
    struct world *w = simple(calloc(1, sizeof(*w)), 100ull << 12 | RWU);
    uint64_t leaf, gfn;

    (void)state;
    assert_int_equal(try(w, 0, kernel_read), SERVED);
    assert_true(shadow_lookup(w, &w->vcpu[0], 0, &leaf, &gfn));
    assert_int_equal(leaf & X86_PTE_W, 0); /* or the write that sets D would not be seen */
    assert_int_equal(try(w, 0, kernel_write), SERVED);
    assert_int_equal(load(w, (POOL_AT + 4) * PAGE) & X86_PTE_D, X86_PTE_D);
    store(w, &w->vcpu[0], (POOL_AT + 4) * PAGE, 100ull << 12 | RWU);
    flush_page(w, &w->vcpu[0], 0);
    flush_all(w, &w->vcpu[0]);
    assert_true(shadow_lookup(w, &w->vcpu[0], 0, &leaf, &gfn));
    assert_int_equal(leaf & X86_PTE_W, 0);
    assert_int_equal(try(w, 0, kernel_write), SERVED);
    assert_int_equal(load(w, (POOL_AT + 4) * PAGE) & X86_PTE_D, X86_PTE_D);
    store(w, &w->vcpu[0], (POOL_AT + 4) * PAGE, 100ull << 12 | (RWU & ~X86_PTE_A) | X86_PTE_D);
    flush_all(w, &w->vcpu[0]);
    assert_false(shadow_lookup(w, &w->vcpu[0], 0, &leaf, &gfn)); /* or A would not be set again */
    world_fini(w);
    free(w);
}

static void test_write_protect_off(void **state)
{
    struct world *w = simple(calloc(1, sizeof(*w)), 100ull << 12 | X86_PTE_P | X86_PTE_U);
    struct vcpu *v = &w->vcpu[0];

    (void)state;
    v->regs.cr0 &= ~X86_CR0_WP;
    v->regs.cr4 |= X86_CR4_SMEP;
    flush_all(w, v);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(try(w, 0, user_read), SERVED);
        assert_int_equal(try(w, 0, user_write), REFUSED);
        assert_int_equal(try(w, 0, kernel_write), SERVED);
        assert_int_equal(try(w, 0, user_write), REFUSED);
        assert_int_equal(try(w, 0, kernel_fetch), REFUSED);
        assert_int_equal(try(w, 0, user_fetch), SERVED);
    }
    v->regs.cr0 |= X86_CR0_WP;
    flush_all(w, v);
    assert_int_equal(try(w, 0, kernel_write), REFUSED);
    assert_int_equal(try(w, 0, user_read), SERVED);
    world_fini(w);
    free(w);
}

static void test_rom_and_mmio(void **state)
{
    struct world *w = simple(calloc(1, sizeof(*w)), (uint64_t)ROM_AT << 12 | RWU);
    uint64_t leaf, gfn;

    (void)state;
    put(w, POOL_AT + 4, 1, 0x12345000ull | RWU);
    assert_int_equal(try(w, 0, kernel_read), SERVED);
    assert_int_equal(try(w, 0, kernel_write), SERVED); /* the processor makes MMIO of it */
    assert_true(shadow_lookup(w, &w->vcpu[0], 0, &leaf, &gfn));
    assert_int_equal(leaf & SHADOW_PTE_ROM, SHADOW_PTE_ROM);
    assert_int_equal(try(w, PAGE, kernel_write), SERVED);
    assert_true(shadow_lookup(w, &w->vcpu[0], PAGE, &leaf, &gfn));
    assert_int_equal(leaf & SHADOW_PTE_MMIO, SHADOW_PTE_MMIO);
    assert_int_equal(gfn, 0x12345);
    assert_int_equal(stats(w).pages_mmio, 1);
    shadow_drop_mmio(w->shadow);
    assert_int_equal(stats(w).pages_mmio, 0);
    world_fini(w);
    free(w);
}

/* A guest's 2 MiB page is one until a table in it is write-protected. */
static void test_large(void **state)
{
    struct world *w = simple(calloc(1, sizeof(*w)), 0);
    struct vcpu *v = &w->vcpu[0];
    uint64_t leaf, gfn;

    (void)state;
    put(w, POOL_AT + 3, 1, 2ull << 21 | RWU | X86_PTE_PS);
    assert_int_equal(try(w, (2ull << 20) + 0x5000, kernel_write), SERVED);
    assert_int_equal(stats(w).pages_2m, 1);
    /* A page table in the middle of it: frame 1024 + 5 maps va 4 MiB. */
    put(w, POOL_AT + 3, 2, (1024ull + 5) << 12 | RWU);
    put(w, 1024 + 5, 0, 100ull << 12 | RWU);
    shadow_set_open_pages(w->shadow, 0);
    assert_int_equal(try(w, 4ull << 20, kernel_read), SERVED);
    for (unsigned i = 0; i < 8; i++)
        flush_all(w, v);
    assert_int_equal(stats(w).pages_2m, 0);
    assert_int_equal(stats(w).mmu_closed, 0); /* not before every vCPU has flushed */
    assert_int_equal(try(w, (2ull << 20) + 0x6000, kernel_write), SERVED);
    assert_int_equal(stats(w).pages_2m, 0);
    poll(v);
    poll(&w->vcpu[1]);
    flush_all(w, v);
    assert_true(stats(w).mmu_closed > 0);
    assert_int_equal(try(w, (2ull << 20) + 0x5000, kernel_read), SERVED);
    assert_true(shadow_lookup(w, v, (2ull << 20) + 0x5000, &leaf, &gfn));
    assert_int_equal(gfn, 1024 + 5);
    assert_int_equal(leaf & X86_PTE_W, 0);
    uint64_t writes = stats(w).mmu_pte_write;
    assert_int_equal(try(w, (2ull << 20) + 0x5000, kernel_write), SERVED); /* opens it */
    assert_int_equal(stats(w).mmu_pte_write, writes + 1);
    put(w, 1024 + 5, 0, 101ull << 12 | RWU); /* the TLB has it writable now: nobody is told */
    flush_all(w, v);
    assert_false(shadow_lookup(w, v, 4ull << 20, &leaf, &gfn));
    world_fini(w);
    free(w);
}

static void test_no_paging(void **state)
{
    struct world *w = simple(calloc(1, sizeof(*w)), 0);
    struct vcpu *v = &w->vcpu[0];
    uint64_t gfn;

    (void)state;
    v->regs.cr0 = X86_CR0_PE;
    v->regs.efer = 0;
    set_root(w, v);
    memset(v->tlb, 0, sizeof(v->tlb));
    assert_int_equal(access_guest(w, v, 0x345000, user_write, &gfn), SERVED);
    assert_int_equal(gfn, 0x345);
    assert_true(stats(w).pages_2m == 1 || stats(w).pages_4k == 1);
    assert_int_equal(access_guest(w, v, 0xfee00000, kernel_write, &gfn), SERVED);
    assert_int_equal(gfn, 0xfee00);
    world_fini(w);
    free(w);
}

/* Frames of the slot go, those of its tables too; a root in it becomes one that maps nothing. */
static void test_slots(void **state)
{
    struct world *w = simple(calloc(1, sizeof(*w)), 100ull << 12 | RWU);
    struct vcpu *v = &w->vcpu[0];
    uint64_t leaf, gfn;

    (void)state;
    assert_int_equal(try(w, 0, kernel_write), SERVED);
    shadow_drop_range(w->shadow, 100, 1);
    forget(w);
    assert_null(shadow_check(w->shadow));
    assert_false(shadow_lookup(w, v, 0, &leaf, &gfn));
    assert_int_equal(try(w, 0, kernel_write), SERVED);
    shadow_write_protect(w->shadow, 0, 200);
    assert_true(shadow_lookup(w, v, 0, &leaf, &gfn));
    assert_int_equal(leaf & X86_PTE_W, 0);
    shadow_drop_range(w->shadow, POOL_AT + 3, 1);
    forget(w);
    assert_null(shadow_check(w->shadow));
    assert_int_equal(try(w, 0, kernel_write), SERVED);
    shadow_drop_range(w->shadow, 0, FRAMES);
    forget(w);
    assert_null(shadow_check(w->shadow));
    struct paging_regime r = regime(v);
    assert_false(shadow_has_root(&v->shadow, &r, true));
    assert_false(shadow_lookup(w, v, 0, &leaf, &gfn)); /* the old root is empty, and still there to be walked */
    assert_int_equal(stats(w).pages_4k + stats(w).pages_2m, 0);
    v->regs.cr3 = 0x7654321000;
    set_root(w, v);
    assert_int_equal(try(w, 0, kernel_read), REFUSED);
    world_fini(w);
    free(w);
}

static void test_kept_roots(void **state)
{
    struct world *w = simple(calloc(1, sizeof(*w)), 100ull << 12 | RWU);
    struct vcpu *v = &w->vcpu[0];
    bool kept;

    (void)state;
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned i = 0; i < SHADOW_ROOTS; i++) {
            v->regs.cr3 = POOL_AT * PAGE | i; /* PCIDs */
            struct paging_regime r = regime(v);
            assert_int_equal(shadow_set_root(w->shadow, &v->shadow, &r, true, &kept), 0);
            assert_int_equal(kept, round == 1 || i == 0);
        }
    }
    v->regs.cr3 = (POOL_AT + 1) * PAGE;
    struct paging_regime r = regime(v);
    assert_int_equal(shadow_set_root(w->shadow, &v->shadow, &r, true, &kept), 0);
    assert_false(kept);
    r.cr3 = POOL_AT * PAGE; /* the oldest has gone */
    assert_int_equal(shadow_set_root(w->shadow, &v->shadow, &r, true, &kept), 0);
    assert_false(kept);
    world_fini(w);
    free(w);
}

/* A table that nothing led to for a while may have been written meanwhile, and what it said then was never said at its new place. */
static void test_linked_again(void **state)
{
    struct world *w = simple(calloc(1, sizeof(*w)), 100ull << 12 | RWU);
    struct vcpu *v = &w->vcpu[0];
    uint64_t gfn;

    (void)state;
    put(w, POOL_AT + 4, 1, 200ull << 12 | RWU);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(access_guest(w, v, i * PAGE, kernel_read, &gfn), SERVED);
        assert_int_equal(gfn, 100 + 100 * i);
    }
    store(w, v, (POOL_AT + 3) * PAGE, 0);
    flush_all(w, v);
    store(w, v, (POOL_AT + 4) * PAGE, 101ull << 12 | RWU);
    store(w, v, (POOL_AT + 4) * PAGE + 8, 201ull << 12 | RWU);
    store(w, v, (POOL_AT + 3) * PAGE + 8, (POOL_AT + 4) << 12 | RWU); /* it was absent: no flush */
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(access_guest(w, v, (2ull << 20) + i * PAGE, kernel_read, &gfn), SERVED);
        assert_int_equal(gfn, 101 + 100 * i);
    }
    world_fini(w);
    free(w);
}

/* The same of a root, which another vCPU loads. */
static void test_root_again(void **state)
{
    struct world *w = simple(calloc(1, sizeof(*w)), 100ull << 12 | RWU);
    uint64_t gfn;

    (void)state;
    assert_int_equal(access_guest(w, &w->vcpu[0], 0, kernel_read, &gfn), SERVED);
    put(w, POOL_AT + 5, 0, (POOL_AT + 3) << 12 | RWU);
    put(w, POOL_AT + 3, 0, (POOL_AT + 6) << 12 | RWU);
    put(w, POOL_AT + 6, 0, 101ull << 12 | RWU);
    store(w, &w->vcpu[0], POOL_AT * PAGE, (POOL_AT + 5) << 12 | RWU);
    w->vcpu[1].regs.cr3 = POOL_AT * PAGE;
    set_root(w, &w->vcpu[1]);
    assert_int_equal(access_guest(w, &w->vcpu[1], 0, kernel_read, &gfn), SERVED);
    assert_int_equal(gfn, 101);
    world_fini(w);
    free(w);
}

/* Flushed by address while nothing led to its table, which is then linked to as a part of what is above it. */
static void test_missed(void **state)
{
    struct world *w = simple(calloc(1, sizeof(*w)), 100ull << 12 | RWU);
    struct vcpu *v = &w->vcpu[0];
    uint64_t gfn;

    (void)state;
    w->address[0] = 0;
    put(w, POOL_AT + 4, 1, 200ull << 12 | RWU);
    assert_int_equal(try(w, 0, kernel_read), SERVED);
    assert_int_equal(try(w, PAGE, kernel_read), SERVED);
    store(w, v, POOL_AT * PAGE, 0);
    flush_page(w, v, 0);
    store(w, v, (POOL_AT + 4) * PAGE, 101ull << 12 | RWU);
    flush_page(w, v, 0);
    store(w, v, POOL_AT * PAGE, (POOL_AT + 2) << 12 | RWU);
    assert_int_equal(try(w, PAGE, kernel_read), SERVED);
    assert_int_equal(access_guest(w, v, 0, kernel_read, &gfn), SERVED);
    assert_int_equal(gfn, 101);
    world_fini(w);
    free(w);
}

/* The same where a vCPU's own upper levels are new, and the guest's page directory is not. */
static void test_missed_under_own_root(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    struct vcpu *v = &w->vcpu[0];
    uint64_t gfn;
    bool kept;

    (void)state;
    world_init(w, LEGACY, 2);
    w->address[0] = 0;
    put(w, POOL_AT, 0, (POOL_AT + 2) << 12 | RWU);
    put(w, POOL_AT + 2, 0, 100ull << 12 | RWU);
    put(w, POOL_AT + 2, 1, 200ull << 12 | RWU);
    assert_int_equal(try(w, 0, kernel_read), SERVED);
    assert_int_equal(try(w, PAGE, kernel_read), SERVED);
    for (unsigned i = SHADOW_ROOTS + 1; i-- > 0;) {
        v->regs.cr3 = (POOL_AT + i) * PAGE;
        struct paging_regime r = regime(v);
        assert_int_equal(shadow_set_root(w->shadow, &v->shadow, &r, true, &kept), 0);
        assert_false(kept);
    }
    memset(v->tlb, 0, sizeof(v->tlb));
    store(w, v, (POOL_AT + 2) * PAGE, 101ull << 12 | RWU);
    flush_page(w, v, 0);
    assert_int_equal(try(w, PAGE, kernel_read), SERVED);
    assert_int_equal(access_guest(w, v, 0, kernel_read, &gfn), SERVED);
    assert_int_equal(gfn, 101);
    world_fini(w);
    free(w);
}

/* INVLPG of one address in a large page flushes all of it, in however many pieces it is. */
static void test_pieces(void **state)
{
    struct world *w = simple(calloc(1, sizeof(*w)), 0);
    struct vcpu *v = &w->vcpu[0];
    uint64_t gfn;

    (void)state;
    w->max_level = 1;
    w->address[0] = 2ull << 20;
    put(w, POOL_AT + 3, 1, 2ull << 21 | RWU | X86_PTE_PS);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(access_guest(w, v, (2ull << 20) + i * 0x5000, kernel_read, &gfn), SERVED);
        assert_int_equal(gfn, 1024 + i * 5);
    }
    store(w, v, (POOL_AT + 3) * PAGE + 8, 3ull << 21 | RWU | X86_PTE_PS);
    flush_page(w, v, 0);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(access_guest(w, v, (2ull << 20) + i * 0x5000, kernel_read, &gfn), SERVED);
        assert_int_equal(gfn, 1536 + i * 5);
    }
    world_fini(w);
    free(w);
}

/* Clients write to guest memory too: then nothing of it is taken for known. */
static void test_forced(void **state)
{
    struct world *w = simple(calloc(1, sizeof(*w)), 100ull << 12 | RWU);
    struct vcpu *v = &w->vcpu[0];
    uint64_t leaf, gfn;

    (void)state;
    shadow_set_open_pages(w->shadow, 0);
    assert_int_equal(try(w, 0, kernel_read), SERVED);
    for (unsigned i = 0; i < 8; i++) {
        flush_all(w, v);
        poll(v);
        poll(&w->vcpu[1]);
    }
    assert_true(stats(w).mmu_closed > 0);
    put(w, POOL_AT + 4, 0, 0); /* by nobody that the MMU sees */
    flush_all(w, v);
    assert_true(shadow_lookup(w, v, 0, &leaf, &gfn));
    shadow_sync_forced(w->shadow);
    assert_false(shadow_lookup(w, v, 0, &leaf, &gfn));
    world_fini(w);
    free(w);
}

/* ---- at random ---- */

static uint64_t random_entry(struct world *w)
{
    static const unsigned data[] = {100, 101, 102, 1024 + 7, 2048, ROM_AT, ROM_AT + 1, 0x9000};
    uint64_t gfn = rnd(w, 5) < 3 ? POOL_AT + rnd(w, POOL) : data[rnd(w, KAGE_ARRAY_SIZE(data))];
    uint64_t e = rnd(w, 10) ? X86_PTE_P : 0;

    if (rnd(w, 6) == 0)
        gfn = rnd(w, 2) ? 1024 : 2048, e |= X86_PTE_PS; /* a large page, if it is in the right place */
    e |= rnd(w, 4) ? X86_PTE_W : 0;
    e |= rnd(w, 4) ? X86_PTE_U : 0;
    e |= rnd(w, 2) ? X86_PTE_A : 0;
    e |= rnd(w, 2) ? X86_PTE_D : 0;
    e |= rnd(w, 8) ? 0 : X86_PTE_G;
    e |= (uint64_t)rnd(w, 8) << 9;
    if (w->format != LEGACY && rnd(w, 6) == 0)
        e |= X86_PTE_NX;
    return e | gfn << 12;
}

static void random_store(struct world *w, struct vcpu *v)
{
    unsigned table = rnd(w, 12) == 0 ? ROM_AT + 2 : POOL_AT + rnd(w, POOL);
    unsigned index = rnd(w, 3);

    if (w->format == LEGACY)
        index += 256 * rnd(w, 3); /* the halves and quarters of tables */
    if (table < ROM_AT)
        store(w, v, table * PAGE + index * entry_bytes(w), random_entry(w));
}

static void random_access(struct world *w, struct vcpu *v)
{
    unsigned which = rnd(w, ADDRESSES);
    gva_t va = w->address[which] + rnd(w, 4096);
    struct access a = {.user = rnd(w, 2), .write = rnd(w, 2)};
    struct walk walk;
    uint64_t gfn;

    if (!a.write)
        a.fetch = rnd(w, 2);
    enum outcome got = access_guest(w, v, va, a, &gfn);
    bool mapped = model_walk(w, v, va, &walk), allowed = mapped && allows(walk.flags, v->regs.cr0, v->regs.cr4, a);
    if (got == REFUSED) {
        assert_false(allowed);
        return;
    }
    bool explained = false;
    for (unsigned i = 0; i < v->count[which] && !explained; i++) {
        const struct seen *seen = &v->history[which][i];
        explained = seen->mapped && seen->gfn == gfn && allows(seen->flags, v->regs.cr0, v->regs.cr4, a);
    }
    assert_true(explained);
    if (v->count[which] == 1) { /* nothing has changed: A and D are exact */
        for (unsigned level = walk.top; level >= walk.level; level--)
            if (!walk.step[level].read_only)
                assert_true(walk.step[level].entry & X86_PTE_A);
        if (a.write && !walk.step[walk.level].read_only)
            assert_true(walk.step[walk.level].entry & X86_PTE_D);
    }
}

/* The bits of A and D that accesses set are in the history as rights only, but clearing them is a change that a flush must find. */
static void random_rounds(enum format format, uint32_t seed, unsigned rounds, uint32_t max_pages)
{
    struct world *w = calloc(1, sizeof(*w));

    world_init(w, format, seed);
    if (max_pages)
        shadow_set_max_pages(w->shadow, max_pages);
    for (unsigned i = 0; i < rounds; i++) {
        struct vcpu *v = &w->vcpu[rnd(w, VCPUS)];
        if (rnd(w, 5) == 0)
            poll(&w->vcpu[rnd(w, VCPUS)]);
        bool full = false;
        for (unsigned k = 0; k < ADDRESSES; k++)
            full |= w->vcpu[0].count[k] >= HISTORY - 1 || w->vcpu[1].count[k] >= HISTORY - 1;
        if (full) {
            flush_all(w, &w->vcpu[0]);
            flush_all(w, &w->vcpu[1]);
        }
        switch (rnd(w, 24)) {
        default:
            random_access(w, v);
            break;
        case 1 ... 6:
            random_store(w, v);
            break;
        case 7 ... 8:
            flush_page(w, v, rnd(w, ADDRESSES));
            break;
        case 9:
            flush_all(w, v);
            break;
        case 10: /* another address space, its tables in the same frames */
            if (rnd(w, 4) == 0 && format != PAE) {
                v->regs.cr3 = (POOL_AT + rnd(w, 2)) * PAGE;
                flush_all(w, v);
            } else if (format == PAE) {
                v->regs.pdpte[rnd(w, 3)] = rnd(w, 8) ? (POOL_AT + rnd(w, POOL)) * PAGE | 1 : 0;
                flush_all(w, v);
            }
            break;
        case 11: /* controls */
            if (rnd(w, 4) == 0) {
                v->regs.cr0 ^= X86_CR0_WP;
                v->regs.cr4 ^= rnd(w, 2) && (v->regs.cr0 & X86_CR0_WP) ? X86_CR4_SMEP : 0;
                flush_all(w, v);
            }
            break;
        case 12:
            if (rnd(w, 16) == 0) { /* a slot is touched: all stop, all flush */
                uint64_t gfn = rnd(w, 128);
                shadow_drop_range(w->shadow, gfn, 1 + rnd(w, 64));
                shadow_drop_mmio(w->shadow);
                forget(w);
                for (unsigned k = 0; k < VCPUS; k++)
                    set_root(w, &w->vcpu[k]);
            } else if (rnd(w, 16) == 0) {
                w->log = !w->log;
                shadow_drop_range(w->shadow, 0, FRAMES);
                memset(w->clean, w->log, sizeof(w->clean));
                forget(w);
                for (unsigned k = 0; k < VCPUS; k++)
                    set_root(w, &w->vcpu[k]);
            }
            break;
        }
        if (i % 64 == 0)
            assert_null(shadow_check(w->shadow));
        struct shadow_stats s = stats(w);
        assert_true(s.pages <= s.max_pages + s.max_pages / 2 + 2 * VCPUS * SHADOW_ROOTS);
    }
    assert_true(stats(w).mmu_dropped > 0);
    assert_true(stats(w).mmu_closed > 0 || seed % 2 == 0);
    assert_true(max_pages == 0 || stats(w).mmu_recycled > 0);
    world_fini(w);
    free(w);
}

static void test_random(void **state)
{
    static const enum format formats[] = {LONG4, LONG5, PAE, LEGACY};

    (void)state;
    for (unsigned f = 0; f < KAGE_ARRAY_SIZE(formats); f++)
        for (uint32_t seed = 1; seed <= 6; seed++)
            random_rounds(formats[f], seed * 7919 + f, 20000, 0);
}

static void test_random_tiny(void **state)
{
    (void)state;
    for (uint32_t seed = 1; seed <= 4; seed++) {
        random_rounds(LONG4, seed * 104729, 20000, SHADOW_MIN_PAGES);
        random_rounds(LEGACY, seed * 104729, 20000, SHADOW_MIN_PAGES);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rights),    cmocka_unit_test(test_dirty_bit), cmocka_unit_test(test_write_protect_off),
        cmocka_unit_test(test_rom_and_mmio), cmocka_unit_test(test_large),  cmocka_unit_test(test_no_paging),
        cmocka_unit_test(test_slots),     cmocka_unit_test(test_kept_roots), cmocka_unit_test(test_forced),
        cmocka_unit_test(test_linked_again), cmocka_unit_test(test_root_again), cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_missed),    cmocka_unit_test(test_missed_under_own_root),
        cmocka_unit_test(test_random),    cmocka_unit_test(test_random_tiny),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
