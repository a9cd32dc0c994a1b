/* SPDX-License-Identifier: MIT */
/*
 * Memory order and atomicity with several processors: litmus tests for x86-TSO and locked operations
 * under contention. The same machine code runs on threads of the bare host and on the vCPUs of one VM.
 *
 *   machine.c  threads or vCPUs that call code in an arena
 *   model.c    x86-TSO: every outcome that a test may have (Owens, Sarkar, Sewell: A Better x86 Memory Model, 2009)
 *   table.c    the litmus tests
 *   order.c    runs litmus tests and holds what was seen against the model
 *   atomic.c   locked operations by several processors on the same bytes
 */
#ifndef KAGE_TESTS_LITMUS_H
#define KAGE_TESTS_LITMUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define CPUS_MAX 4u

/* ---- machine.c ---- */

#define ARENA_BYTES (16u << 20)

/* KAGE_MMU_* of the guests; 0: the default. */
extern int machine_mmu;

struct machine_mode {
    const char *name;
    bool guest;     /* vCPUs of libkage; else threads of this process */
    unsigned flags; /* KAGE_TEST_* */
};

/*
 * Code sees the arena at `va`, this program at `arena`. In a guest, pages next to each other at `va` are
 * not so in guest-physical memory. Code is never written twice at the same place: `used` only grows.
 */
struct machine {
    const struct machine_mode *mode;
    uint8_t *arena;
    uint64_t va;
    size_t used;
    struct machine_impl *impl;
    struct order *order; /* of order.c */
};

int machine_init(struct machine *m, const struct machine_mode *mode);
void machine_fini(struct machine *m);
/* Calls entry[i] on processor i with arg[i] in RDI, all at once, and waits for all. 0, or -1 with a line on stderr. */
int machine_run(struct machine *m, unsigned cpus, const uint64_t entry[], const uint64_t arg[]);
/* Part of the arena that nobody has used yet; NULL: there is none. */
void *machine_alloc(struct machine *m, size_t bytes, size_t align);
static inline uint64_t machine_va(const struct machine *m, const void *p)
{
    return m->va + (uint64_t)((const uint8_t *)p - m->arena);
}

/* ---- emit.h's user: code in the arena ---- */

struct emit {
    uint8_t *start, *at, *end;
};
void emit_bytes(struct emit *e, const void *bytes, size_t len);
#define EMIT(e, ...) emit_bytes(e, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))
void emit_u32(struct emit *e, uint32_t value);
void emit_u64(struct emit *e, uint64_t value);
/* An instruction whose ModRM names [base] and reg: prefixes for the size, opcode (with 0x0f before it: 0x0f00 |
 * opcode), no displacement. */
void emit_rm(struct emit *e, bool lock, unsigned size, unsigned opcode, unsigned reg, unsigned base);
void emit_mov_imm(struct emit *e, unsigned reg, uint64_t value);
/* Waits until `cpus` have come here, or not much longer: [R15] counts. Uses ECX. */
void emit_meet(struct emit *e, unsigned cpus);
void emit_dec_jnz(struct emit *e, unsigned reg, const uint8_t *target);

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };

/* ---- model.c ---- */

#define OPS_MAX      6
#define LOCATIONS    3 /* x y z */
#define REGS         4 /* a b c d of each processor */
#define OUTCOMES_MAX 1024

enum op_kind { OP_STORE, OP_LOAD, OP_XCHG, OP_XADD, OP_MFENCE, OP_LOCKED, OP_SFENCE, OP_LFENCE };
struct op {
    enum op_kind kind;
    uint8_t loc, reg, value;
};

/* An outcome in one number, four bits a value: the registers that are loaded, by processor, then the locations. */
typedef uint64_t outcome_t;

struct litmus {
    const char *name;
    const char *code;      /* see litmus_parse() */
    const char *condition; /* what is remarkable about it */
    bool allowed;          /* may the condition hold? */

    /* By litmus_parse(). */
    unsigned cpus, locations;
    unsigned ops[CPUS_MAX];
    struct op op[CPUS_MAX][OPS_MAX];
    uint8_t reg_shift[CPUS_MAX][REGS]; /* into outcome_t; 0xff: not loaded */
    uint8_t loc_shift[LOCATIONS];
    outcome_t cond_mask, cond_value;

    /* By model_outcomes(). */
    unsigned outcomes;
    outcome_t outcome[OUTCOMES_MAX];
};

extern struct litmus litmus_table[];
extern const size_t litmus_count;

/* False, with a line on stderr: it is not written right. */
bool litmus_parse(struct litmus *t);
bool model_outcomes(struct litmus *t);
static inline bool litmus_condition(const struct litmus *t, outcome_t o)
{
    return (o & t->cond_mask) == t->cond_value;
}

/* ---- order.c, atomic.c ---- */

struct totals {
    unsigned long passed, failed, skipped;
};
extern bool verbose;
extern const char *running; /* for the message of a run that hangs */

uint64_t litmus_random(void);
/* One test for about `seconds`. */
void order_test(struct machine *m, struct litmus *t, double seconds, struct totals *totals);
void atomic_tests(struct machine *m, double seconds, const char *filter, struct totals *totals);

#endif
