/* SPDX-License-Identifier: MIT */
/*
 * Runs a litmus test many times: each processor goes through an array of instances of the test, meets the
 * others at each, waits a moment of random length, does its part, and notes what it loaded. How locations lie in
 * memory and by which instructions they are accessed is varied, because a translator has several ways for them.
 * Values are the same in all bytes of a location: one that is not was torn.
 */
#include "litmus.h"

#include <cpuid.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define INSTANCES      768u
#define LINE           64u
#define PAGE           4096u
#define PAGES_EACH     128u /* of each location, where it has pages of its own */
#define CODE_BYTES     1024u
#define TORN           15u
#define HISTOGRAM_ROOM 512u
#define BATCHES_LEAST  2u

enum place {
    PLACE_LINES, /* a cache line each */
    PLACE_PAGES, /* pages of their own, many of them */
    PLACE_CODE,  /* on pages that hold code too: a translator has to look at each store */
    PLACE_ODD,   /* not aligned, but inside eight aligned bytes: still one access (SDM 3A 8.1.1, APM 2 7.3.2) */
    PLACES,
};
enum flavour { FLAVOUR_MOV, FLAVOUR_STACK, FLAVOUR_STRING, FLAVOUR_VECTOR };

static const struct variant {
    const char *name;
    enum place place;
    enum flavour flavour;
    uint8_t size;
} variants[] = {
    {"mov8", PLACE_LINES, FLAVOUR_MOV, 1},
    {"mov16", PLACE_LINES, FLAVOUR_MOV, 2},
    {"mov32", PLACE_LINES, FLAVOUR_MOV, 4},
    {"mov64", PLACE_LINES, FLAVOUR_MOV, 8},
    {"mov32, pages", PLACE_PAGES, FLAVOUR_MOV, 4},
    {"mov64, pages", PLACE_PAGES, FLAVOUR_MOV, 8},
    {"mov32, code pages", PLACE_CODE, FLAVOUR_MOV, 4},
    {"mov64, code pages", PLACE_CODE, FLAVOUR_MOV, 8},
    {"mov16, misaligned", PLACE_ODD, FLAVOUR_MOV, 2},
    {"mov32, misaligned", PLACE_ODD, FLAVOUR_MOV, 4},
    {"push64 pop64", PLACE_LINES, FLAVOUR_STACK, 8},
    {"push16 pop16, pages", PLACE_PAGES, FLAVOUR_STACK, 2},
    {"push64 pop64, code pages", PLACE_CODE, FLAVOUR_STACK, 8},
    {"stosb lodsb", PLACE_LINES, FLAVOUR_STRING, 1},
    {"stosd lodsd", PLACE_LINES, FLAVOUR_STRING, 4},
    {"stosq lodsq", PLACE_PAGES, FLAVOUR_STRING, 8},
    {"stosd lodsd, code pages", PLACE_CODE, FLAVOUR_STRING, 4},
    {"stosd lodsd, misaligned", PLACE_ODD, FLAVOUR_STRING, 4},
    {"movd xmm", PLACE_LINES, FLAVOUR_VECTOR, 4},
    {"movq xmm", PLACE_PAGES, FLAVOUR_VECTOR, 8},
    {"movdqa", PLACE_LINES, FLAVOUR_VECTOR, 16},
    {"movdqa, code pages", PLACE_CODE, FLAVOUR_VECTOR, 16},
};
#define VARIANTS (sizeof(variants) / sizeof(variants[0]))

struct record {
    uint64_t loc[LOCATIONS];
    uint64_t pad[8 - LOCATIONS];
};
struct thread_args {
    uint64_t records, out, sync, count, seed, pad[3];
};

/* What all tests of a machine share in its arena. */
struct order {
    struct record *records;          /* INSTANCES */
    uint64_t (*out[CPUS_MAX])[REGS]; /* INSTANCES */
    uint32_t (*sync)[4];             /* INSTANCES */
    struct thread_args *args;        /* CPUS_MAX */
    uint8_t *area[PLACES];
    size_t area_bytes[PLACES];
};

static const uint8_t loc_reg[LOCATIONS] = {RSI, RDI, R8};
static const uint8_t out_reg[REGS] = {RAX, RDX, R10, R11};

static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

/* ---- code ---- */

static uint64_t splat(unsigned value)
{
    return value * 0x0101010101010101ull;
}

static void emit_mov_reg(struct emit *e, unsigned to, unsigned from)
{
    EMIT(e, (uint8_t)(0x48 | (from >> 3) << 2 | to >> 3), 0x89, (uint8_t)(0xc0 | (from & 7) << 3 | (to & 7)));
}

/* STOS and LODS take their operand from registers that hold something here: they are put aside. */
static void emit_string_op(struct emit *e, unsigned size, bool store)
{
    if (size == 2)
        EMIT(e, 0x66);
    if (size == 8)
        EMIT(e, 0x48);
    EMIT(e, (uint8_t)((store ? 0xaa : 0xac) | (size != 1)));
}

static void emit_store(struct emit *e, const struct variant *v, unsigned loc, uint64_t value)
{
    switch (v->flavour) {
    case FLAVOUR_MOV:
        emit_mov_imm(e, RCX, value);
        emit_rm(e, false, v->size, v->size == 1 ? 0x88 : 0x89, RCX, loc);
        break;
    case FLAVOUR_STACK:
        emit_mov_imm(e, RCX, value);
        emit_mov_reg(e, R9, RSP);
        EMIT(e, (uint8_t)(0x48 | loc >> 3), 0x8d, (uint8_t)(0x60 | (loc & 7)), v->size); /* lea rsp, [loc + size] */
        if (v->size == 2)
            EMIT(e, 0x66);
        EMIT(e, 0x51); /* push rcx */
        emit_mov_reg(e, RSP, R9);
        break;
    case FLAVOUR_STRING:
        emit_mov_reg(e, RCX, RAX);
        emit_mov_reg(e, R9, RDI);
        emit_mov_imm(e, RAX, value);
        emit_mov_reg(e, RDI, loc);
        emit_string_op(e, v->size, true);
        emit_mov_reg(e, RDI, R9);
        emit_mov_reg(e, RAX, RCX);
        break;
    case FLAVOUR_VECTOR:
        emit_mov_imm(e, RCX, value);
        EMIT(e, 0x66, 0x48, 0x0f, 0x6e, 0xc1); /* movq xmm0, rcx */
        if (v->size == 16) {
            EMIT(e, 0x66, 0x0f, 0x6c, 0xc0, 0x66); /* punpcklqdq xmm0, xmm0; movdqa [loc], xmm0 */
            emit_rm(e, false, 4, 0x0f7f, 0, loc);
        } else {
            EMIT(e, 0x66);
            emit_rm(e, false, v->size, 0x0f7e, 0, loc);
        }
        break;
    }
}

static void emit_load(struct emit *e, const struct variant *v, unsigned loc, unsigned reg)
{
    switch (v->flavour) {
    case FLAVOUR_MOV:
        emit_rm(e, false, v->size, v->size == 1 ? 0x8a : 0x8b, reg, loc);
        break;
    case FLAVOUR_STACK:
        emit_mov_reg(e, R9, RSP);
        emit_mov_reg(e, RSP, loc);
        if (v->size == 2)
            EMIT(e, 0x66);
        EMIT(e, (uint8_t)(0x40 | reg >> 3), (uint8_t)(0x58 | (reg & 7))); /* pop reg */
        emit_mov_reg(e, RSP, R9);
        break;
    case FLAVOUR_STRING:
        emit_mov_reg(e, RCX, RAX);
        emit_mov_reg(e, R9, RSI);
        emit_mov_reg(e, RSI, loc);
        emit_string_op(e, v->size, false);
        emit_mov_reg(e, RSI, R9);
        if (reg != RAX) {
            emit_mov_reg(e, reg, RAX);
            emit_mov_reg(e, RAX, RCX);
        }
        break;
    case FLAVOUR_VECTOR:
        EMIT(e, 0x66);
        emit_rm(e, false, v->size == 16 ? 4 : v->size, v->size == 16 ? 0x0f6f : 0x0f6e, 1, loc);
        EMIT(e, 0x66, (uint8_t)(0x48 | reg >> 3), 0x0f, 0x7e, (uint8_t)(0xc8 | (reg & 7))); /* movq reg, xmm1 */
        if (v->size == 16) { /* halves that differ leave something in the upper half of a byte */
            EMIT(e, 0x66, 0x0f, 0x73, 0xd9, 0x08, 0x66, 0x48, 0x0f, 0x7e, 0xc9); /* psrldq xmm1, 8; movq rcx, xmm1 */
            EMIT(e, (uint8_t)(0x48 | (reg >> 3) << 2), 0x31, (uint8_t)(0xc1 | (reg & 7) << 3)); /* xor rcx, reg */
            EMIT(e, 0x48, 0xc1, 0xe1, 0x04);                                                    /* shl rcx, 4 */
            EMIT(e, (uint8_t)(0x48 | reg >> 3), 0x09, (uint8_t)(0xc8 | (reg & 7)));             /* or reg, rcx */
        }
        break;
    }
}

static void emit_op(struct emit *e, const struct variant *v, const struct op *op)
{
    unsigned loc = loc_reg[op->loc], reg = out_reg[op->reg], size = v->size > 8 ? 8 : v->size;

    switch (op->kind) {
    case OP_STORE:
        emit_store(e, v, loc, splat(op->value));
        break;
    case OP_LOAD:
        emit_load(e, v, loc, reg);
        break;
    case OP_XCHG:
        emit_mov_imm(e, reg, splat(op->value));
        emit_rm(e, false, size, size == 1 ? 0x86 : 0x87, reg, loc);
        break;
    case OP_XADD:
        emit_mov_imm(e, reg, splat(op->value));
        emit_rm(e, true, size, size == 1 ? 0x0fc0 : 0x0fc1, reg, loc);
        break;
    case OP_MFENCE:
        EMIT(e, 0x0f, 0xae, 0xf0);
        break;
    case OP_SFENCE:
        EMIT(e, 0x0f, 0xae, 0xf8);
        break;
    case OP_LFENCE:
        EMIT(e, 0x0f, 0xae, 0xe8);
        break;
    case OP_LOCKED:
        EMIT(e, 0xf0, 0x83, 0x0c, 0x24, 0x00); /* lock or dword [rsp], 0 */
        break;
    }
}

static uint64_t emit_thread(struct machine *m, const struct litmus *t, unsigned cpu, const struct variant *v)
{
    struct emit e;

    e.start = e.at = machine_alloc(m, CODE_BYTES, 64);
    if (!e.start)
        return 0;
    e.end = e.start + CODE_BYTES;
    EMIT(&e, 0x48, 0x8b, 0x1f);       /* mov rbx, [rdi] */
    EMIT(&e, 0x4c, 0x8b, 0x6f, 0x08); /* mov r13, [rdi + 8] */
    EMIT(&e, 0x4c, 0x8b, 0x7f, 0x10); /* mov r15, [rdi + 16] */
    EMIT(&e, 0x48, 0x8b, 0x6f, 0x18); /* mov rbp, [rdi + 24] */
    EMIT(&e, 0x4c, 0x8b, 0x67, 0x20); /* mov r12, [rdi + 32] */
    uint8_t *again = e.at;
    EMIT(&e, 0x48, 0x8b, 0x33);                         /* mov rsi, [rbx] */
    EMIT(&e, 0x48, 0x8b, 0x7b, 0x08);                   /* mov rdi, [rbx + 8] */
    EMIT(&e, 0x4c, 0x8b, 0x43, 0x10);                   /* mov r8, [rbx + 16] */
    EMIT(&e, 0x31, 0xc0, 0x31, 0xd2);                   /* xor eax, eax; xor edx, edx */
    EMIT(&e, 0x45, 0x31, 0xd2, 0x45, 0x31, 0xdb);       /* xor r10d, r10d; xor r11d, r11d */
    EMIT(&e, 0x45, 0x69, 0xe4, 0x0d, 0x66, 0x19, 0x00); /* imul r12d, r12d, 1664525 */
    EMIT(&e, 0x41, 0x81, 0xc4, 0x5f, 0xf3, 0x6e, 0x3c); /* add r12d, 1013904223 */
    emit_meet(&e, t->cpus);
    EMIT(&e, 0x44, 0x89, 0xe1, 0xc1, 0xe9, 0x1b); /* mov ecx, r12d; shr ecx, 27 */
    EMIT(&e, 0xff, 0xc9, 0x79, 0xfc);             /* 1: dec ecx; jns 1b */
    for (unsigned i = 0; i < t->ops[cpu]; i++)
        emit_op(&e, v, &t->op[cpu][i]);
    EMIT(&e, 0x49, 0x89, 0x45, 0x00);                         /* mov [r13], rax */
    EMIT(&e, 0x49, 0x89, 0x55, 0x08);                         /* mov [r13 + 8], rdx */
    EMIT(&e, 0x4d, 0x89, 0x55, 0x10);                         /* mov [r13 + 16], r10 */
    EMIT(&e, 0x4d, 0x89, 0x5d, 0x18);                         /* mov [r13 + 24], r11 */
    EMIT(&e, 0x48, 0x83, 0xc3, sizeof(struct record));        /* add rbx, sizeof(struct record) */
    EMIT(&e, 0x49, 0x83, 0xc5, 0x20, 0x49, 0x83, 0xc7, 0x10); /* add r13, 32; add r15, 16 */
    emit_dec_jnz(&e, RBP, again);
    EMIT(&e, 0xc3);
    return machine_va(m, e.start);
}

/* ---- memory ---- */

static uint8_t *location(const struct order *o, const struct variant *v, unsigned instance, unsigned loc)
{
    uint8_t *area = o->area[v->place];
    const unsigned lines = PAGE / LINE - 1, each = lines / LOCATIONS; /* of a code page: the last line is code */

    switch (v->place) {
    case PLACE_LINES:
        return area + (instance * LOCATIONS + loc) * LINE;
    case PLACE_PAGES:
        return area + (loc * PAGES_EACH + instance % PAGES_EACH) * PAGE + instance / PAGES_EACH * LINE;
    case PLACE_CODE:
        return area + instance / each * PAGE + (instance % each * LOCATIONS + loc) * LINE;
    default:
        return area + (instance * LOCATIONS + loc) * LINE + 8 + 1 + (instance + loc) % (8u - v->size);
    }
}

/* Each page of the area that is to hold code: a RET at its end, called once. */
static int make_code_pages(struct machine *m, struct order *o)
{
    struct emit e;
    uint64_t entry, arg = 0;
    size_t pages = o->area_bytes[PLACE_CODE] / PAGE;

    e.start = e.at = machine_alloc(m, pages * 16 + 16, 64);
    if (!e.start)
        return -1;
    e.end = e.start + pages * 16 + 16;
    for (size_t i = 0; i < pages; i++) {
        uint8_t *ret = o->area[PLACE_CODE] + (i + 1) * PAGE - 8;
        *ret = 0xc3;
        emit_mov_imm(&e, RAX, machine_va(m, ret));
        EMIT(&e, 0xff, 0xd0); /* call rax */
    }
    EMIT(&e, 0xc3);
    entry = machine_va(m, e.start);
    return machine_run(m, 1, &entry, &arg);
}

static int order_init(struct machine *m)
{
    struct order *o = m->order = calloc(1, sizeof(*o));

    if (!o)
        return -1;
    o->area_bytes[PLACE_LINES] = INSTANCES * LOCATIONS * LINE;
    o->area_bytes[PLACE_PAGES] = LOCATIONS * PAGES_EACH * PAGE;
    o->area_bytes[PLACE_CODE] = (INSTANCES / ((PAGE / LINE - 1) / LOCATIONS) + 1) * PAGE;
    o->area_bytes[PLACE_ODD] = o->area_bytes[PLACE_LINES];
    o->records = machine_alloc(m, INSTANCES * sizeof(*o->records), PAGE);
    o->sync = machine_alloc(m, INSTANCES * sizeof(*o->sync), PAGE);
    o->args = machine_alloc(m, CPUS_MAX * sizeof(*o->args), PAGE);
    for (unsigned i = 0; i < CPUS_MAX; i++)
        if (!(o->out[i] = machine_alloc(m, INSTANCES * sizeof(*o->out[i]), PAGE)))
            return -1;
    for (unsigned i = 0; i < PLACES; i++)
        if (!(o->area[i] = machine_alloc(m, o->area_bytes[i], PAGE)))
            return -1;
    return make_code_pages(m, o);
}

/* The four bits of a value of `size` bytes. */
static unsigned value_of(const void *p, unsigned size)
{
    const uint8_t *bytes = p;

    for (unsigned i = 1; i < size; i++)
        if (bytes[i] != bytes[0])
            return TORN;
    return bytes[0] < TORN ? bytes[0] : TORN;
}

/* ---- running ---- */

struct seen {
    outcome_t outcome;
    unsigned long count;
    const char *variant; /* it was first seen in */
};
static struct {
    struct seen entry[HISTOGRAM_ROOM];
    unsigned count;
} histogram;

static void note(outcome_t outcome, const char *variant)
{
    for (unsigned i = 0; i < histogram.count; i++)
        if (histogram.entry[i].outcome == outcome) {
            histogram.entry[i].count++;
            return;
        }
    if (histogram.count < HISTOGRAM_ROOM)
        histogram.entry[histogram.count++] = (struct seen){outcome, 1, variant};
}

static int run_batch(struct machine *m, struct order *o, const struct litmus *t, const struct variant *v,
                     const uint64_t entry[])
{
    uint64_t entries[CPUS_MAX], args[CPUS_MAX];
    unsigned first = (unsigned)(litmus_random() % t->cpus), size = v->size > 8 ? 8 : v->size;

    for (unsigned i = 0; i < INSTANCES; i++)
        for (unsigned l = 0; l < LOCATIONS; l++) {
            uint8_t *at = location(o, v, i, l);
            memset(at, 0, v->size);
            o->records[i].loc[l] = machine_va(m, at);
        }
    memset(o->sync, 0, INSTANCES * sizeof(*o->sync));
    for (unsigned i = 0; i < t->cpus; i++) {
        unsigned cpu = (i + first) % t->cpus; /* which part it plays */
        o->args[cpu] = (struct thread_args){machine_va(m, o->records), machine_va(m, o->out[cpu]),
                                            machine_va(m, o->sync),    INSTANCES,
                                            litmus_random(),           {0}};
        entries[i] = entry[cpu];
        args[i] = machine_va(m, &o->args[cpu]);
    }
    if (machine_run(m, t->cpus, entries, args))
        return -1;
    for (unsigned i = 0; i < INSTANCES; i++) {
        outcome_t outcome = 0;
        for (unsigned c = 0; c < t->cpus; c++)
            for (unsigned r = 0; r < REGS; r++)
                if (t->reg_shift[c][r] != 0xff)
                    outcome |= (outcome_t)value_of(&o->out[c][i][r], size) << t->reg_shift[c][r];
        for (unsigned l = 0; l < t->locations; l++)
            outcome |= (outcome_t)value_of(location(o, v, i, l), v->size) << t->loc_shift[l];
        note(outcome, v->name);
    }
    return 0;
}

static void print_outcome(const struct litmus *t, outcome_t o)
{
    for (unsigned c = 0; c < t->cpus; c++)
        for (unsigned r = 0; r < REGS; r++)
            if (t->reg_shift[c][r] != 0xff)
                printf(" %u:%c=%x", c, (char)('a' + r), (unsigned)(o >> t->reg_shift[c][r] & 15));
    for (unsigned l = 0; l < t->locations; l++)
        printf(" %c=%x", (char)('x' + l), (unsigned)(o >> t->loc_shift[l] & 15));
}

static bool in_model(const struct litmus *t, outcome_t o)
{
    for (unsigned i = 0; i < t->outcomes; i++)
        if (t->outcome[i] == o)
            return true;
    return false;
}

static bool has_locked_access(const struct litmus *t)
{
    for (unsigned c = 0; c < t->cpus; c++)
        for (unsigned i = 0; i < t->ops[c]; i++)
            if (t->op[c][i].kind == OP_XCHG || t->op[c][i].kind == OP_XADD)
                return true;
    return false;
}

/* Sixteen aligned bytes are one access where there is AVX (both vendors say so). */
static bool variant_fits(const struct variant *v, const struct litmus *t)
{
    unsigned a, b, c, d;

    return v->size <= 8 || (!has_locked_access(t) && __get_cpuid(1, &a, &b, &c, &d) && (c & bit_AVX));
}

void order_test(struct machine *m, struct litmus *t, double seconds, struct totals *totals)
{
    uint64_t entry[VARIANTS][CPUS_MAX] = {0};
    unsigned long instances = 0, remarkable = 0;
    unsigned allowed = 0, batches = 0;
    bool failed = false;

    running = t->name;
    histogram.count = 0;
    if (!m->order && order_init(m))
        failed = true;
    double end = now() + seconds;
    for (; !failed && (batches < BATCHES_LEAST || now() < end); batches++) {
        unsigned which;
        do
            which = (unsigned)(litmus_random() % VARIANTS);
        while (!variant_fits(&variants[which], t));
        for (unsigned c = 0; c < t->cpus && !failed; c++)
            if (!entry[which][c] && !(entry[which][c] = emit_thread(m, t, c, &variants[which])))
                failed = true;
        if (failed || run_batch(m, m->order, t, &variants[which], entry[which]))
            failed = true;
        instances += INSTANCES;
    }
    for (unsigned i = 0; i < histogram.count; i++) {
        const struct seen *s = &histogram.entry[i];
        bool ok = in_model(t, s->outcome);
        allowed += ok;
        failed |= !ok;
        if (litmus_condition(t, s->outcome))
            remarkable += s->count;
        if (!ok) {
            printf("FAIL %s: %s: seen %lu times, first with %s, and not allowed:", m->mode->name, t->name, s->count,
                   s->variant);
            print_outcome(t, s->outcome);
            printf("\n");
        }
    }
    if (verbose || remarkable)
        printf("%-13s %-30s %7lu runs, %3u of %3u allowed outcomes seen; [%s] %s, %lu times\n", m->mode->name, t->name,
               instances, allowed, t->outcomes, t->condition, t->allowed ? "allowed" : "forbidden", remarkable);
    totals->passed += !failed;
    totals->failed += failed;
}
