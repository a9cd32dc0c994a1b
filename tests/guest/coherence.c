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
#include "coherence.h"

struct cpu cpus[CPUS_MAX];
static bool has_pcid, has_invpcid;
static uint64_t seed;
static struct tss tss_of[CPUS_MAX];
static uint8_t stacks[CPUS_MAX][4096] __attribute__((aligned(16)));
USER_DATA static uint8_t user_stacks[CPUS_MAX][256] __attribute__((aligned(16), used));
static volatile unsigned failures, print_locked, ready, finished;

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

/* ---- flushes ---- */

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
    /* The code is two instructions: the page may go between them. */
    if (c->cr2 != va && !(kind == FETCH && c->cr2 == va + CODE_SECOND))
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
