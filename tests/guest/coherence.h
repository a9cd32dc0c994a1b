/* SPDX-License-Identifier: MIT */
/*
 * The parts of the coherence test (coherence.c says what it is): coherence.c is the processors at work, coherence_tables.c makes the
 * tables, coherence_model.c says what the manual allows.
 */
#ifndef COHERENCE_H
#define COHERENCE_H

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
#define CODE_SECOND 5u /* its second instruction */

struct cell {
    volatile uint64_t *entry;
    volatile unsigned started, committed, locked;
    uint64_t log[LOG];
    unsigned level;       /* of the entry */
    bool global;
    uint64_t frames[BIG_FRAMES];
    unsigned frame_count;
    uint64_t tables[2];   /* that it may lead to instead; 0: none */
};

struct slot {
    uint64_t va, sub;          /* sub: offset in a large page */
    struct cell *upper;        /* NULL: fixed */
    struct cell *lower[2];     /* by table of the upper cell */
    uint64_t fixed;            /* entry below a 1 GiB cell's table */
    int space;                 /* -1: global */
    bool may_write, may_fetch;
};

enum { CELLS_MAX = 64, SLOTS_MAX = 64, PER_SLOT = 3 }; /* PER_SLOT: slot_cell() of 0, 1, 2 */

struct flush {
    enum { FLUSH_PAGE, FLUSH_PCID_PAGE, FLUSH_PCID, FLUSH_ALL, FLUSH_NOT_GLOBAL, FLUSH_PGE, BY_FAULT } kind;
    unsigned space;
    uint64_t va;
};

struct cpu {
    uint64_t rsp, error, cr2, busy; /* coherence_access.S; GS base points here */
    uint64_t random, token;
    unsigned index, space;
    unsigned floor[SLOTS_MAX][PER_SLOT];
    uint8_t floor_by[SLOTS_MAX]; /* the last flush that took the slot in: for messages */
    unsigned long accesses, faults, changes;
    /* what the others are asked to flush */
    volatile struct flush request;
    volatile unsigned asked, acks, seen[CPUS_MAX];
} __attribute__((aligned(64)));
_Static_assert(offsetof(struct cpu, busy) == 24, "coherence_access.S");

enum kind { READ, WRITE, FETCH };

struct seen {
    uint64_t error; /* ~0: none */
    uint64_t value; /* that was read, or returned by the code */
    uint64_t token; /* that was written */
};

struct window {
    unsigned floor, before, after; /* versions: cached ones from floor on; what was in memory from before on */
};

extern struct cpu cpus[CPUS_MAX];

/* ---- the tables ---- */
extern struct cell cells[CELLS_MAX];
extern struct slot slots[SLOTS_MAX];
extern unsigned slot_count;
/* The same address in each space; or a global one, three times the same. */
extern struct slot *groups[SLOTS_MAX][SPACES];
extern unsigned group_count;
extern uint64_t *roots[SPACES];
void tables_make(void);

static inline struct cell *slot_cell(const struct slot *s, unsigned i)
{
    return i == 0 ? s->upper : s->lower[i - 1];
}

static inline uint64_t leaf_size(unsigned level)
{
    return 1ull << (3 + 9 * level);
}

/* ---- what the manual allows ---- */
bool is_allowed(const struct cpu *c, const struct slot *s, enum kind kind, bool user, const struct window w[PER_SLOT],
                const struct seen *seen);
bool flags_good(const struct slot *s, enum kind kind, const struct window w[PER_SLOT]);

#endif
