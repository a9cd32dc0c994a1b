/* SPDX-License-Identifier: MIT */
/*
 * Several processors change page tables at random, flush or do not, and access memory through them; every access is checked against
 * the translations that the manual allows it (SDM 3A 4.10): those since the processor's last flush of that address (old ones may be
 * used until then), and any newer one. An entry that is not present is never cached: a fault for it needs one that was there in the
 * time of the access.
 *
 * An entry that changes is a *cell*, with a log of what it was. Who changes it writes the log, then `started`, then the entry, then
 * `committed`; who accesses takes the floor of each cell (its `committed` before the last flush) and, behind the access, `started`.
 * Addresses are *slots*: in each address space (a root and a PCID) pages of all sizes, and global pages that all share. A page holds
 * its own frame number, and code that returns it.
 *
 * Argument: rounds of each processor in thousands, processors from bit 16 on, seed from bit 32 on (0: of the clock); bit 63: the lower
 * half of the addresses alone.
 */
#include "smp.h"

#define CPUS ((unsigned)(guest_arg >> 16 & 0xff))
#define ROUNDS ((unsigned)(guest_arg & 0xffff) * 1000)
#define VEC_SHOOT 0x71u
#define LOG 256u         /* versions that a cell remembers */
#define SPACES 3u
#define NOFLUSH (1ull << 63)
#define LEAF_BITS (PTE_A | PTE_D)
#define SIZE_2M 0x200000ull
#define SIZE_1G 0x40000000ull
#define BIG_BASE 0x800000ull /* 2 MiB frames from here on */
#define BIG_FRAMES 8u
#define SUB_1G 0x1c00000ull  /* what is accessed of a 1 GiB page */
#define CODE_OFFSET 0x800u

struct cell {
    volatile uint64_t *entry;
    volatile unsigned started, committed, locked;
    uint64_t log[LOG];
    unsigned level;       /* of the entry */
    bool global;
    uint64_t frames[BIG_FRAMES];
    unsigned frame_count;
    uint64_t tables[2];   /* that it may lead to instead; 0: none */
    unsigned first_slot, slot_count; /* slots that it is the upper, or the only, cell of */
};

struct slot {
    uint64_t va, sub;          /* sub: offset in a large page */
    struct cell *upper;        /* NULL: fixed */
    struct cell *lower[2];     /* by table of the upper cell */
    uint64_t fixed;            /* entry below a 1 GiB cell's table */
    int space;                 /* -1: global */
    bool may_write, may_fetch;
};

enum { CELLS_MAX = 64, SLOTS_MAX = 64, PER_SLOT = 3 };
static struct cell cells[CELLS_MAX];
static struct slot slots[SLOTS_MAX];
static unsigned cell_count, slot_count;
/* The same address in each space; or a global one, three times the same. The processors work on a few at a time. */
static struct slot *groups[SLOTS_MAX][SPACES];
static unsigned group_count;
static uint64_t *roots[SPACES];
static bool has_pcid, has_invpcid;
static uint64_t seed;

struct flush {
    enum { FLUSH_PAGE, FLUSH_PCID_PAGE, FLUSH_PCID, FLUSH_ALL, FLUSH_NOT_GLOBAL, FLUSH_PGE, BY_FAULT } kind;
    unsigned space;
    uint64_t va;
};

static struct cpu {
    uint64_t rsp, error, cr2, busy; /* coherence_access.S; GS base points here */
    uint64_t random, token;
    unsigned index, space;
    unsigned floor[SLOTS_MAX][PER_SLOT];
    uint8_t floor_by[SLOTS_MAX]; /* the last flush that took the slot in: for messages */
    unsigned long accesses, faults, stale, changes;
    /* what the others are asked to flush */
    volatile struct flush request;
    volatile unsigned asked, acks, seen[CPUS_MAX];
} __attribute__((aligned(64))) cpus[CPUS_MAX];
_Static_assert(offsetof(struct cpu, busy) == 24, "coherence_access.S");

static struct tss tss_of[CPUS_MAX];
static uint8_t stacks[CPUS_MAX][4096] __attribute__((aligned(16)));
USER_DATA static uint8_t user_stacks[CPUS_MAX][256] __attribute__((aligned(16), used));
static volatile unsigned failures, print_locked, ready, finished;

enum kind { READ, WRITE, FETCH };
uint64_t coherence_access(uint64_t fn, uint64_t va, uint64_t value);
uint64_t coherence_user(uint64_t fn, uint64_t va, uint64_t value, uint64_t stack);
extern uint8_t coherence_pf[], coherence_ud[];
extern const uint64_t coherence_fns[2][3]; /* [user][kind] */

static uint64_t random_next(struct cpu *c)
{
    c->random ^= c->random << 13;
    c->random ^= c->random >> 7;
    c->random ^= c->random << 17;
    return c->random * 0x2545f4914f6cdd1dull >> 16;
}

static unsigned below(struct cpu *c, unsigned n)
{
    return (unsigned)(random_next(c) % n);
}

static bool one_in(struct cpu *c, unsigned n)
{
    return below(c, n) == 0;
}

/* ---- what the manual allows ---- */

struct seen {
    uint64_t error; /* ~0: none */
    uint64_t value; /* that was read, or returned by the code */
    uint64_t token; /* that was written */
};

static uint64_t leaf_size(unsigned level)
{
    return 1ull << (3 + 9 * level);
}

/* Does the translation by these entries, the last one a page, give what was seen? */
static bool explains(const struct cpu *c, const struct slot *s, enum kind kind, bool user, uint64_t upper, uint64_t leaf, unsigned level,
                     const struct seen *seen)
{
    const uint64_t both = upper & leaf, error = (kind == WRITE ? PF_W : 0) | (user ? PF_U : 0) | (kind == FETCH ? PF_I : 0);
    const bool denied = (user && !(both & PTE_U)) || (kind == WRITE && !(both & PTE_W)) || (kind == FETCH && ((upper | leaf) & PTE_NX));
    if (denied)
        return seen->error == (error | PF_P);
    if (seen->error != ~0ull)
        return false;
    const uint64_t frame = (leaf & PTE_ADDR & ~(leaf_size(level) - 1)) + (s->sub & (leaf_size(level) - 1));
    if (kind == WRITE)
        return *(volatile uint64_t *)(frame + 64 * (c->index + 1)) == seen->token;
    return seen->value == frame >> 12;
}

static uint64_t absent_error(enum kind kind, bool user)
{
    return (kind == WRITE ? PF_W : 0) | (user ? PF_U : 0) | (kind == FETCH ? PF_I : 0);
}

struct window {
    unsigned floor, before, after; /* versions: cached ones from floor on; what was in memory from before on */
};

static bool lower_explains(const struct cpu *c, const struct slot *s, enum kind kind, bool user, uint64_t upper, unsigned which,
                           const struct window *w, const struct seen *seen)
{
    const struct cell *cell = s->lower[which];
    for (unsigned j = w->floor; j <= w->after; j++) {
        const uint64_t e = cell->log[j % LOG];
        if (!(e & PTE_P)) {
            if (j >= w->before && seen->error == absent_error(kind, user))
                return true;
            continue;
        }
        if (explains(c, s, kind, user, upper, e, 1, seen))
            return true;
    }
    return false;
}

static bool is_allowed(const struct cpu *c, const struct slot *s, enum kind kind, bool user, const struct window w[PER_SLOT],
                       const struct seen *seen)
{
    if (!s->upper)
        return lower_explains(c, s, kind, user, PTE_W | PTE_U, 0, &w[1], seen);
    for (unsigned i = w[0].floor; i <= w[0].after; i++) {
        const uint64_t e = s->upper->log[i % LOG];
        if (!(e & PTE_P)) {
            if (i >= w[0].before && seen->error == absent_error(kind, user))
                return true;
        } else if (e & PTE_PS) {
            if (explains(c, s, kind, user, PTE_W | PTE_U, e, s->upper->level, seen))
                return true;
        } else if (s->fixed) {
            if (explains(c, s, kind, user, e, s->fixed, 2, seen))
                return true;
        } else {
            const unsigned which = (e & PTE_ADDR) == s->upper->tables[1];
            if (lower_explains(c, s, kind, user, e, which, &w[1 + which], seen))
                return true;
        }
    }
    return false;
}

/* ---- flushes ---- */

static struct cell *slot_cell(const struct slot *s, unsigned i)
{
    return i == 0 ? s->upper : s->lower[i - 1];
}

/* Was the address mapped by large pages or not at all, since the slot's floor? Then INVLPG of any of its addresses flushes it. */
static bool is_large(const struct cpu *c, const struct slot *s)
{
    if (!s->upper)
        return false;
    for (unsigned i = c->floor[s - slots][0]; i <= s->upper->started; i++)
        if ((s->upper->log[i % LOG] & (PTE_P | PTE_PS)) == PTE_P)
            return false;
    return true;
}

static bool flushes(const struct cpu *c, const struct flush *f, const struct slot *s)
{
    switch (f->kind) {
    case FLUSH_PAGE: {
        if (s->space >= 0 && (unsigned)s->space != c->space)
            return false;
        return s->va >> 12 == f->va >> 12 || (is_large(c, s) && s->va / leaf_size(s->upper->level) == f->va / leaf_size(s->upper->level));
    }
    case FLUSH_PCID_PAGE:
        return s->space == (int)f->space && s->va >> 12 == f->va >> 12;
    case FLUSH_PCID:
        return s->space == (int)f->space;
    case FLUSH_NOT_GLOBAL:
        return s->space >= 0;
    default:
        return true;
    }
}

static void invpcid(uint64_t type, uint64_t pcid, uint64_t va)
{
    const struct {
        uint64_t pcid, va;
    } descriptor = {pcid, va};
    asm volatile("invpcid %0, %1" ::"m"(descriptor), "r"(type) : "memory");
}

static uint64_t cr3_of(unsigned space)
{
    return (uint64_t)roots[space] | (has_pcid ? space + 1 : 0);
}

static void flush_do(struct cpu *c, const struct flush *f)
{
    switch (f->kind) {
    case FLUSH_PAGE:
        invlpg(f->va);
        break;
    case FLUSH_PCID_PAGE:
        invpcid(0, f->space + 1, f->va);
        break;
    case FLUSH_PCID:
        if (f->space == c->space)
            write_cr3(cr3_of(c->space));
        else
            invpcid(1, f->space + 1, 0);
        break;
    case FLUSH_ALL:
        invpcid(2, 0, 0);
        break;
    case FLUSH_NOT_GLOBAL:
        invpcid(3, 0, 0);
        break;
    default:
        write_cr4(read_cr4() ^ CR4_PGE);
        write_cr4(read_cr4() ^ CR4_PGE);
        break;
    }
}

/* Floors rise to what was committed before the flush. An interrupt may have raised them further in between. */
static void flush(struct cpu *c, const struct flush *f)
{
    unsigned before[SLOTS_MAX][PER_SLOT];
    bool flushed[SLOTS_MAX];
    for (unsigned i = 0; i < slot_count; i++)
        for (unsigned n = 0; n < PER_SLOT; n++)
            before[i][n] = slot_cell(&slots[i], n) ? slot_cell(&slots[i], n)->committed : 0;
    for (unsigned i = 0; i < slot_count; i++)
        flushed[i] = flushes(c, f, &slots[i]); /* after the versions were noted: see is_large() */
    flush_do(c, f);
    for (unsigned i = 0; i < slot_count; i++) {
        for (unsigned n = 0; flushed[i] && n < PER_SLOT; n++)
            if (before[i][n] > c->floor[i][n])
                c->floor[i][n] = before[i][n];
        if (flushed[i])
            c->floor_by[i] = (uint8_t)f->kind;
    }
}

static bool flush_is_possible(const struct cpu *c, const struct flush *f)
{
    return f->kind == FLUSH_PAGE || f->kind == FLUSH_PGE || (f->kind == FLUSH_PCID && f->space == c->space) || has_invpcid;
}

/* A flush of some kind that takes in the slot, if its space is the current one where that matters. The narrow ones mostly: what is
 * flushed by one of the others never shows that one of them was forgotten. */
static struct flush random_flush(struct cpu *c, const struct slot *s)
{
    static const uint8_t kinds[] = {FLUSH_PAGE, FLUSH_PAGE, FLUSH_PAGE, FLUSH_PAGE, FLUSH_PAGE, FLUSH_PAGE, FLUSH_PCID_PAGE, FLUSH_PCID_PAGE,
                                    FLUSH_PCID_PAGE, FLUSH_PCID_PAGE, FLUSH_PCID, FLUSH_PCID, FLUSH_PCID, FLUSH_ALL, FLUSH_NOT_GLOBAL, FLUSH_PGE};
    struct flush f;
    do {
        f = (struct flush){kinds[below(c, ARRAY_SIZE(kinds))], s->space < 0 ? c->space : (unsigned)s->space, s->va};
        if (f.kind == FLUSH_PAGE && s->upper && one_in(c, 4)) /* another part of a large page */
            f.va = (s->va & ~(leaf_size(s->upper->level) - 1)) + (below(c, 512) << 12);
    } while (!flush_is_possible(c, &f));
    return f;
}

static void on_shoot(struct frame *frame)
{
    unsigned me;
    (void)frame;
    asm volatile("movl %%gs:%c1, %0" : "=r"(me) : "i"(offsetof(struct cpu, index)));
    struct cpu *const c = &cpus[me];
    for (unsigned from = 0; from < cpu_count; from++) {
        struct cpu *o = &cpus[from];
        const unsigned asked = __atomic_load_n(&o->asked, __ATOMIC_ACQUIRE);
        if (from == me || c->seen[from] == asked)
            continue;
        const struct flush f = {o->request.kind, o->request.space, o->request.va};
        if (flush_is_possible(c, &f))
            flush(c, &f);
        c->seen[from] = asked;
        __atomic_add_fetch(&o->acks, 1, __ATOMIC_SEQ_CST);
    }
    apic_write(APIC_EOI, 0);
}

static bool shoot(struct cpu *c, const struct flush *f)
{
    flush(c, f);
    if (cpu_count == 1)
        return true;
    c->request.kind = f->kind;
    c->request.space = f->space;
    c->request.va = f->va;
    c->acks = 0;
    __atomic_add_fetch(&c->asked, 1, __ATOMIC_SEQ_CST);
    apic_icr(0, 0xc0000 | VEC_SHOOT);
    return wait_for(&c->acks, cpu_count - 1);
}

/* ---- changes ---- */

static uint64_t random_entry(struct cpu *c, const struct cell *cell)
{
    const uint64_t rights = (one_in(c, 4) ? 0 : PTE_W) | (one_in(c, 2) ? PTE_U : 0) | (one_in(c, 4) ? PTE_NX : 0);
    if (one_in(c, 8))
        return (random_next(c) << 12 & PTE_ADDR) | rights; /* absent */
    if (cell->tables[0] && (!cell->frame_count || one_in(c, 2)))
        return cell->tables[cell->tables[1] ? below(c, 2) : 0] | PTE_P | (one_in(c, 6) ? 0 : PTE_W) | (one_in(c, 6) ? 0 : PTE_U) |
               (one_in(c, 6) ? PTE_NX : 0) | (one_in(c, 2) ? PTE_A : 0);
    return cell->frames[below(c, cell->frame_count)] | PTE_P | rights | (cell->level > 1 ? PTE_PS : 0) | (cell->global ? PTE_G : 0) |
           (one_in(c, 2) ? PTE_A : 0) | (one_in(c, 2) ? PTE_D : 0);
}

static bool change(struct cpu *c, struct cell *cell)
{
    if (__atomic_exchange_n(&cell->locked, 1, __ATOMIC_ACQUIRE))
        return true;
    const unsigned version = cell->started + 1;
    const uint64_t e = random_entry(c, cell);
    bool ok = true;
    cell->log[version % LOG] = e;
    __atomic_store_n(&cell->started, version, __ATOMIC_SEQ_CST);
    *cell->entry = e;
    __atomic_store_n(&cell->committed, version, __ATOMIC_SEQ_CST);
    c->changes++;
    if (version % (LOG / 2) == 0) { /* nobody may need what the log forgets */
        const struct flush f = {FLUSH_PGE, 0, 0};
        ok = shoot(c, &f);
    }
    __atomic_store_n(&cell->locked, 0, __ATOMIC_RELEASE);
    return ok;
}

static bool change_and_flush(struct cpu *c, struct slot *s)
{
    struct cell *cell = s->upper && one_in(c, 2) ? s->upper : slot_cell(s, 1 + (s->lower[1] ? below(c, 2) : 0));
    if (!cell)
        cell = s->upper;
    if (!change(c, cell))
        return false;
    const struct flush f = random_flush(c, s);
    switch (below(c, 5)) {
    case 0:
    case 1:
        flush(c, &f);
        return true;
    case 2:
    case 3:
        return shoot(c, &f);
    default:
        return true; /* forgotten, as no kernel should */
    }
}

/* ---- accesses ---- */

static void report(struct cpu *c, const struct slot *s, enum kind kind, bool user, const struct window *w, const struct seen *seen,
                   const char *what)
{
    static const char *const names[] = {"read", "write", "fetch"};
    static const char *const flush_names[] = {"INVLPG", "INVPCID 0", "MOV CR3 or INVPCID 1", "INVPCID 2", "INVPCID 3", "CR4.PGE", "a fault"};
    while (__atomic_exchange_n(&print_locked, 1, __ATOMIC_ACQUIRE))
        cpu_pause();
    if (failures++ < 4) {
        print("cpu %u slot %u va %lx space %u of %u, last flushed by %s, %s %s: error %lx cr2 %lx value %lx token %lx: %s\n", c->index,
              (uint32_t)(s - slots), s->va, (uint32_t)s->space, c->space, flush_names[c->floor_by[s - slots]], user ? "user" : "kernel",
              names[kind], seen->error, c->cr2, seen->value, seen->token, what);
        for (unsigned n = 0; n < PER_SLOT; n++) {
            const struct cell *cell = slot_cell(s, n);
            if (!cell)
                continue;
            print("  %s versions %u (in memory from %u) to %u, entry now %lx:", n ? "lower" : "upper", w[n].floor, w[n].before, w[n].after,
                  *cell->entry);
            for (unsigned i = w[n].floor > 2 ? w[n].floor - 2 : 0; i <= w[n].after; i++)
                print(" %u:%lx", i, cell->log[i % LOG]);
            print("\n");
        }
    }
    __atomic_store_n(&print_locked, 0, __ATOMIC_RELEASE);
}

/* With one translation possible, its entries have the flags that the access sets, and are otherwise what was written. */
static bool flags_good(const struct slot *s, enum kind kind, const struct window w[PER_SLOT])
{
    const uint64_t upper = s->upper ? s->upper->log[w[0].after % LOG] : 0;
    const bool has_leaf = !s->upper || (!(upper & PTE_PS) && !s->fixed);
    const unsigned which = s->upper && (upper & PTE_ADDR) == s->upper->tables[1] ? 2 : 1;
    if (s->upper) {
        if (w[0].floor != w[0].after)
            return true;
        const uint64_t now = *s->upper->entry, must = PTE_A | (kind == WRITE && (upper & PTE_PS) ? PTE_D : 0);
        if (s->upper->started == w[0].after && ((now & must) != must || ((now ^ upper) & ~LEAF_BITS)))
            return false;
    }
    if (has_leaf && w[which].floor == w[which].after) {
        const struct cell *cell = s->lower[which - 1];
        const uint64_t e = cell->log[w[which].after % LOG], now = *cell->entry, must = PTE_A | (kind == WRITE ? PTE_D : 0);
        if (cell->started == w[which].after && ((now & must) != must || ((now ^ e) & ~LEAF_BITS)))
            return false;
    }
    return true;
}

static void access_slot(struct cpu *c, const struct slot *s)
{
    const bool user = one_in(c, 3);
    const enum kind kind = s->may_write && one_in(c, 2) ? WRITE : s->may_fetch && one_in(c, 2) ? FETCH : READ;
    struct window w[PER_SLOT];
    struct seen seen = {.token = (uint64_t)c->index << 56 | ++c->token};
    const uint64_t va = s->va + (kind == WRITE ? 64 * (c->index + 1) : kind == FETCH ? CODE_OFFSET : 0);

    for (unsigned n = 0; n < PER_SLOT; n++)
        if (slot_cell(s, n))
            w[n] = (struct window){c->floor[s - slots][n], __atomic_load_n(&slot_cell(s, n)->committed, __ATOMIC_ACQUIRE), 0};
    c->error = ~0ull;
    seen.value = user ? coherence_user(coherence_fns[1][kind], va, seen.token, (uint64_t)user_stacks[c->index] + 240)
                      : coherence_access(coherence_fns[0][kind], va, seen.token);
    for (unsigned n = 0; n < PER_SLOT; n++)
        if (slot_cell(s, n))
            w[n].after = __atomic_load_n(&slot_cell(s, n)->started, __ATOMIC_ACQUIRE);
    seen.error = c->error;
    c->accesses++;
    if (!is_allowed(c, s, kind, user, w, &seen))
        report(c, s, kind, user, w, &seen, "no translation that is allowed gives that");
    else if (seen.error == ~0ull && !flags_good(s, kind, w))
        report(c, s, kind, user, w, &seen, "accessed or dirty flags");
    if (seen.error == ~0ull)
        return;
    c->faults++;
    if (c->cr2 != va)
        report(c, s, kind, user, w, &seen, "CR2");
    /* A fault flushes the address (SDM 3A 4.10.4.1). */
    for (unsigned n = 0; n < PER_SLOT; n++)
        if (slot_cell(s, n) && w[n].before > c->floor[s - slots][n])
            c->floor[s - slots][n] = w[n].before;
    c->floor_by[s - slots] = BY_FAULT;
}

static void switch_space(struct cpu *c, unsigned space, bool keep)
{
    const struct flush f = {FLUSH_PCID, space, 0};
    cli(); /* a request to flush looks at the space */
    c->space = space;
    if (keep && has_pcid)
        write_cr3(cr3_of(space) | NOFLUSH);
    else
        flush(c, &f); /* it is the current one: MOV to CR3 */
    sti();
}

static void cpu_setup(struct cpu *c, unsigned index)
{
    struct tss *t = &tss_of[index];
    const unsigned selector = SEL_FREE + 16 * index;
    const uint64_t base = (uint64_t)t;
    c->index = index;
    c->random = (seed + index) * 0x9e3779b97f4a7c15ull | 1;
    for (unsigned i = 0; i < 10; i++)
        random_next(c);
    t->rsp[0] = (uint64_t)(stacks[index] + sizeof stacks[index]);
    t->iomap = sizeof *t;
    gdt[selector / 8] = 103 | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
    gdt[selector / 8 + 1] = base >> 32;
    asm volatile("ltr %w0" ::"r"(selector));
    wrmsr(0xc0000101, (uint64_t)c);
    write_cr3((uint64_t)roots[0]);
    write_cr4(read_cr4() | CR4_PGE | (has_pcid ? CR4_PCIDE : 0));
    write_cr3(cr3_of(0));
}

/* One of a few addresses, others every 1024 rounds, the same for all processors. */
static struct slot **pick_group(struct cpu *c, uint64_t round)
{
    const uint64_t focus = ((round >> 10) + seed) * 0x9e3779b97f4a7c15ull >> 24;
    const unsigned wide = 1 + (unsigned)(focus >> 16) % 6;
    return groups[((unsigned)focus % group_count + below(c, wide)) % group_count];
}

static void cpu_work(unsigned index, uint64_t rounds)
{
    struct cpu *c = &cpus[index];
    bool ok = true;
    cpu_setup(c, index);
    __atomic_add_fetch(&ready, 1, __ATOMIC_SEQ_CST);
    while (ready < cpu_count)
        cpu_pause();
    sti();
    for (uint64_t i = 0; i < rounds && ok && failures < 4; i++) {
        const unsigned what = below(c, 64);
        struct slot **group = pick_group(c, i), *s = group[c->space];
        if (what == 0) {
            switch_space(c, below(c, SPACES), one_in(c, 2));
        } else if (what == 1) {
            const struct flush f = random_flush(c, s);
            flush(c, &f);
        } else if (what < 6) {
            ok = change_and_flush(c, one_in(c, 2) ? s : group[below(c, SPACES)]);
        } else {
            access_slot(c, s);
        }
    }
    if (!ok) {
        failures++;
        print("cpu %u: a shootdown was not answered\n", index);
    }
    /* It still answers, with interrupts on, until all are done. */
    __atomic_add_fetch(&finished, 1, __ATOMIC_SEQ_CST);
    while (finished < cpu_count)
        cpu_pause();
    cli();
    write_cr3((uint64_t)roots[0]);
    write_cr4(read_cr4() & ~(uint64_t)CR4_PCIDE);
    write_cr3((uint64_t)root_table);
}

/* ---- the tables ---- */

static void frame_init(uint64_t frame)
{
    uint8_t *code = (uint8_t *)frame + CODE_OFFSET; /* mov $number, %eax; ret */
    *(uint64_t *)frame = frame >> 12;
    code[0] = 0xb8;
    memcpy(code + 1, &(uint32_t){(uint32_t)(frame >> 12)}, 4);
    code[5] = 0xc3;
}

static struct cell *cell_new(uint64_t *entry, unsigned level, bool global)
{
    struct cell *c = &cells[cell_count++];
    c->entry = entry;
    c->level = level;
    c->global = global;
    return c;
}

/* The first version; the second time is not needed, as nobody runs yet. */
static void cell_begin(struct cell *c)
{
    c->log[0] = PTE_P | PTE_W | PTE_U;
    if (c->frame_count)
        c->log[0] |= c->frames[0] | (c->level > 1 ? PTE_PS : 0) | (c->global ? PTE_G : 0);
    else
        c->log[0] |= c->tables[0];
    *c->entry = c->log[0];
}

static void small_frames(struct cell *c)
{
    for (c->frame_count = 0; c->frame_count < 3; c->frame_count++) {
        c->frames[c->frame_count] = (uint64_t)table_alloc();
        frame_init(c->frames[c->frame_count]);
    }
    cell_begin(c);
}

static struct slot *slot_new(uint64_t va, int space, unsigned kinds)
{
    struct slot *s = &slots[slot_count++];
    *s = (struct slot){.va = va, .space = space, .may_write = kinds & 1, .may_fetch = kinds & 2};
    return s;
}

/* Slots are made in the same order for each space: `group` counts up with them. */
static void group_add(struct slot *s, unsigned group)
{
    for (unsigned space = 0; space < SPACES; space++)
        if (s->space < 0 || (unsigned)s->space == space)
            groups[group][space] = s;
    if (group >= group_count)
        group_count = group + 1;
}

static void small_slot(uint64_t *root, uint64_t va, int space, unsigned kinds)
{
    struct slot *s = slot_new(va, space, kinds);
    s->lower[0] = cell_new(pte_of(root, va, 1), 1, space < 0);
    small_frames(s->lower[0]);
}

/* 2 MiB at va: pages, or two tables, or either; two slots in it. */
static void large_slots(uint64_t *root, uint64_t va, int space, bool pages, bool tables)
{
    static const unsigned subs[2] = {3, 0x1f0};
    struct cell *cell = cell_new(pte_of(root, va, 2), 2, space < 0);
    uint64_t *table[2] = {NULL, NULL};
    for (; pages && cell->frame_count < BIG_FRAMES; cell->frame_count++)
        cell->frames[cell->frame_count] = BIG_BASE + cell->frame_count * SIZE_2M;
    for (unsigned i = 0; tables && i < 2; i++)
        cell->tables[i] = (uint64_t)(table[i] = table_alloc());
    for (unsigned i = 0; i < 2; i++) {
        struct slot *s = slot_new(va + (subs[i] << 12), space, 1 + i);
        s->upper = cell;
        s->sub = subs[i] << 12;
        for (unsigned n = 0; n < cell->frame_count; n++)
            frame_init(cell->frames[n] + s->sub);
        for (unsigned n = 0; tables && n < 2; n++) {
            s->lower[n] = cell_new(&table[n][subs[i]], 1, space < 0);
            small_frames(s->lower[n]);
        }
    }
    cell_begin(cell);
}

/* 1 GiB at va: pages, or a directory with a 2 MiB page. */
static void huge_slot(uint64_t *root, uint64_t va, int space)
{
    struct cell *cell = cell_new(pte_of(root, va, 3), 3, space < 0);
    uint64_t *directory = table_alloc();
    struct slot *s = slot_new(va + SUB_1G + 0x5000, space, 1);
    for (cell->frame_count = 0; cell->frame_count < 3; cell->frame_count++) {
        cell->frames[cell->frame_count] = cell->frame_count * SIZE_1G;
        frame_init(cell->frames[cell->frame_count] + SUB_1G + 0x5000);
    }
    s->upper = cell;
    s->sub = SUB_1G + 0x5000;
    s->fixed = BIG_BASE | PTE_P | PTE_W | PTE_U | PTE_PS;
    frame_init(BIG_BASE + 0x5000);
    directory[s->va >> 21 & 511] = s->fixed;
    cell->tables[0] = (uint64_t)directory;
    cell_begin(cell);
}

static void tables_make(void)
{
    /* Global pages in either half of the addresses, or in the lower one alone. */
    const uint64_t global_va[2] = {(guest_arg >> 63 ? 3ull << 39 : 0xffff800000000000ull) + 0x21000, (2ull << 39) + 0x35000};
    unsigned shared, group, from;
    for (unsigned space = 0; space < SPACES; space++) {
        roots[space] = table_alloc();
        roots[space][0] = root_table[0];
    }
    for (unsigned half = 0; half < 2; half++) {
        (void)pte_of(roots[0], global_va[half], 2);
        for (unsigned space = 1; space < SPACES; space++)
            roots[space][global_va[half] >> 39 & 511] = roots[0][global_va[half] >> 39 & 511];
        for (unsigned i = 0; i < 3; i++)
            small_slot(roots[0], global_va[half] + i * 0x1000, -1, 1 + i % 2);
        large_slots(roots[0], (global_va[half] & ~(SIZE_2M - 1)) + (3 + half) * SIZE_2M, -1, true, false);
    }
    for (shared = 0; shared < slot_count; shared++)
        group_add(&slots[shared], shared);
    for (unsigned space = 0; space < SPACES; space++) {
        from = slot_count;
        for (unsigned i = 0; i < 5; i++)
            small_slot(roots[space], TEST_VA + i * 0x1000, (int)space, i == 4 ? 3 : 1 + i % 2);
        large_slots(roots[space], TEST_VA + SIZE_2M, (int)space, true, true);
        large_slots(roots[space], TEST_VA + 6 * SIZE_2M, (int)space, false, true);
        if (HAS_1G)
            huge_slot(roots[space], TEST_VA + SIZE_1G, (int)space);
        for (group = shared; from < slot_count; from++, group++)
            group_add(&slots[from], group);
    }
}

void test_main(void)
{
    unsigned long accesses = 0, faults = 0, changes = 0;
    seed = guest_arg >> 32 & 0x7fffffff ? guest_arg >> 32 & 0x7fffffff : (rdtsc() & 0x7fffffff) | 1;
    print("seed %lx\n", seed);
    has_pcid = HAS_PCID;
    has_invpcid = has_pcid && HAS_INVPCID;
    if (CPUS > 1)
        check_eq(smp_start(CPUS, true), CPUS, "all-start");
    tables_make();
    irq_handlers[VEC_SHOOT] = on_shoot;
    idt_set(PF, coherence_pf, 0x8e, 0, SEL_KCS);
    idt_set(UD, coherence_ud, 0x8e, 0, SEL_KCS);
    cpu_count = CPUS;
    for (unsigned i = 1; i < cpu_count; i++)
        cpu_begin(i, cpu_work, ROUNDS);
    cpu_work(0, ROUNDS);
    idt_reset();
    for (unsigned i = 0; i < cpu_count; i++) {
        accesses += cpus[i].accesses;
        faults += cpus[i].faults;
        changes += cpus[i].changes;
    }
    print("%lu accesses, %lu of them faults, %lu changes\n", accesses, faults, changes);
    check_eq(failures, 0, "translations");
}
