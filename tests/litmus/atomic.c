/* SPDX-License-Identifier: MIT */
/*
 * Locked operations by several processors on the same bytes: aligned, across a cache line, across two pages
 * that are not neighbours in memory, on a page with code. Each processor repeats one operation, and what no
 * lost or torn update can leave true is checked: sums, bits that only one processor changes, tokens that are
 * swapped and never made, pairs that always add up.
 */
#include "litmus.h"

#include <string.h>
#include <time.h>

#define PAGE          4096u
#define CODE_BYTES    1024u
#define REPEATS       400u
#define REPEATS_PAGES 60u /* across pages the others are stopped for each */
#define ROUNDS_LEAST  2u
#define SITES         4u
#define TESTS_ABOUT   300

/* Registers of the emitted code: RSI the bytes, RBP repeats, R12 errors, R13 the processor's number, R14 a value of its
 * own. */
enum check {
    CHECK_SUM,     /* the memory has grown by what each processor says that it added */
    CHECK_OWN_BIT, /* each processor sees its own bit as it left it */
    CHECK_PARITY,  /* as many inversions as were made, or the memory is inverted */
    CHECK_TOKENS,  /* XOR of the memory and of what the processors hold */
    CHECK_PAIR,    /* low and high half add up to nought, in every copy seen */
    CHECK_GUARD,   /* a counter that only the holder of the lock changes */
    CHECK_OTHERS,  /* what a processor stores beside the operand stays */
};

struct operation {
    const char *name;
    enum check check;
    uint8_t sizes; /* bit 0: 1 byte, 1: 2, 2: 4, 3: 8, 4: 16 */
    void (*emit)(struct emit *e, unsigned size, unsigned cpu);
    uint64_t adds; /* CHECK_SUM: by each repetition */
};

struct atomic_args {
    uint64_t at, meet, repeats, errors, value, guarded;
};

static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static bool wide(unsigned size)
{
    return size != 1;
}

/* lock op [rsi], reg or /reg; opcodes of byte operands are one less */
static void lock_rm(struct emit *e, unsigned size, unsigned opcode, unsigned reg)
{
    emit_rm(e, true, size, opcode + wide(size), reg, RSI);
}

static void imm8(struct emit *e, uint8_t value)
{
    EMIT(e, value);
}

/* R12 |= the carry flag, inverted if `want`. */
static void expect_carry(struct emit *e, bool want)
{
    EMIT(e, 0x0f, (uint8_t)(want ? 0x93 : 0x92), 0xc1); /* setnc or setc cl */
    EMIT(e, 0x0f, 0xb6, 0xc9, 0x49, 0x09, 0xcc);        /* movzx ecx, cl; or r12, rcx */
}

/* Loads [rsi] and copies the bit in RDI's low byte into the carry flag. */
static void load_own_bit(struct emit *e, unsigned size)
{
    EMIT(e, 0x31, 0xc0); /* xor eax, eax */
    emit_rm(e, false, size, 0x8a + wide(size), RAX, RSI);
    EMIT(e, 0x4c, 0x0f, 0xa3, 0xe8); /* bt rax, r13 */
}

/* ---- sums ---- */

static void emit_add(struct emit *e, unsigned size, unsigned cpu)
{
    (void)cpu;
    lock_rm(e, size, 0x00, R14);
}
static void emit_sub(struct emit *e, unsigned size, unsigned cpu)
{
    (void)cpu;
    EMIT(e, 0x4c, 0x89, 0xf0, 0x48, 0xf7, 0xd8); /* mov rax, r14; neg rax */
    lock_rm(e, size, 0x28, RAX);
}
static void emit_adc(struct emit *e, unsigned size, unsigned cpu)
{
    (void)cpu;
    EMIT(e, 0x49, 0x8d, 0x46, 0xff, 0xf9); /* lea rax, [r14 - 1]; stc */
    lock_rm(e, size, 0x10, RAX);
}
static void emit_sbb(struct emit *e, unsigned size, unsigned cpu)
{
    (void)cpu;
    EMIT(e, 0x4c, 0x89, 0xf0, 0x48, 0xf7, 0xd0, 0xf9); /* mov rax, r14; not rax; stc */
    lock_rm(e, size, 0x18, RAX);
}
static void emit_add_imm(struct emit *e, unsigned size, unsigned cpu)
{
    (void)cpu;
    emit_rm(e, true, size, size == 1 ? 0x80 : 0x83, 0, RSI);
    imm8(e, 5);
}
static void emit_inc(struct emit *e, unsigned size, unsigned cpu)
{
    (void)cpu;
    lock_rm(e, size, 0xfe, 0);
}
static void emit_dec(struct emit *e, unsigned size, unsigned cpu)
{
    (void)cpu;
    lock_rm(e, size, 0xfe, 1);
}
static void emit_xadd(struct emit *e, unsigned size, unsigned cpu)
{
    (void)cpu;
    EMIT(e, 0x4c, 0x89, 0xf0); /* mov rax, r14 */
    lock_rm(e, size, 0x0fc0, RAX);
}
/* R10 as the operand: a translator may keep it elsewhere. */
static void emit_xadd_r10(struct emit *e, unsigned size, unsigned cpu)
{
    (void)cpu;
    EMIT(e, 0x4d, 0x89, 0xf2); /* mov r10, r14 */
    lock_rm(e, size, 0x0fc0, R10);
}
static void emit_cmpxchg(struct emit *e, unsigned size, unsigned cpu)
{
    (void)cpu;
    emit_rm(e, false, size, 0x8a + wide(size), RAX, RSI);
    uint8_t *again = e->at;
    EMIT(e, 0x48, 0x89, 0xc2, 0x4c, 0x01, 0xf2); /* mov rdx, rax; add rdx, r14 */
    lock_rm(e, size, 0x0fb0, RDX);
    EMIT(e, 0x75, (uint8_t)(again - e->at - 2)); /* jnz again */
}

/* ---- bits of one's own ---- */

/* R15 := 1 << R13 */
static void own_mask(struct emit *e)
{
    EMIT(e, 0x31, 0xc0, 0x4c, 0x0f, 0xab, 0xe8, 0x49, 0x89, 0xc7); /* xor eax, eax; bts rax, r13; mov r15, rax */
}
static void emit_or_and(struct emit *e, unsigned size, unsigned cpu)
{
    (void)cpu;
    own_mask(e);
    lock_rm(e, size, 0x08, R15);
    load_own_bit(e, size);
    expect_carry(e, true);
    EMIT(e, 0x49, 0xf7, 0xd7); /* not r15 */
    lock_rm(e, size, 0x20, R15);
    load_own_bit(e, size);
    expect_carry(e, false);
}
static void emit_xor(struct emit *e, unsigned size, unsigned cpu)
{
    (void)cpu;
    own_mask(e);
    for (unsigned i = 0; i < 2; i++) {
        lock_rm(e, size, 0x30, R15);
        load_own_bit(e, size);
        expect_carry(e, i == 0);
    }
}
static void emit_bts_btr(struct emit *e, unsigned size, unsigned cpu)
{
    (void)cpu;
    emit_rm(e, true, size, 0x0fab, R13, RSI);
    expect_carry(e, false);
    emit_rm(e, true, size, 0x0fb3, R13, RSI);
    expect_carry(e, true);
}
static void emit_btc(struct emit *e, unsigned size, unsigned cpu)
{
    (void)cpu;
    for (unsigned i = 0; i < 2; i++) {
        emit_rm(e, true, size, 0x0fbb, R13, RSI);
        expect_carry(e, i == 1);
    }
}
static void emit_bts_imm(struct emit *e, unsigned size, unsigned cpu)
{
    emit_rm(e, true, size, 0x0fba, 5, RSI);
    imm8(e, (uint8_t)(cpu * 3 + 1));
    expect_carry(e, false);
    emit_rm(e, true, size, 0x0fba, 7, RSI); /* btc */
    imm8(e, (uint8_t)(cpu * 3 + 1));
    expect_carry(e, true);
}

/* ---- inversions ---- */

static void emit_not(struct emit *e, unsigned size, unsigned cpu)
{
    (void)cpu;
    lock_rm(e, size, 0xf6, 2);
}
static void emit_neg(struct emit *e, unsigned size, unsigned cpu)
{
    (void)cpu;
    lock_rm(e, size, 0xf6, 3);
}

/* ---- swaps ---- */

static void emit_xchg(struct emit *e, unsigned size, unsigned cpu)
{
    emit_rm(e, (cpu & 1) != 0, size, 0x86 + wide(size), R14, RSI); /* LOCK changes nothing */
}
static void emit_xchg_r11(struct emit *e, unsigned size, unsigned cpu)
{
    (void)cpu;
    EMIT(e, 0x4d, 0x89, 0xf3); /* mov r11, r14 */
    emit_rm(e, false, size, 0x86 + wide(size), R11, RSI);
    EMIT(e, 0x4d, 0x89, 0xde); /* mov r14, r11 */
}

/* ---- pairs ---- */

/* size: of the pair. The halves are moved by R14 and -R14. */
static void emit_cmpxchg_pair(struct emit *e, unsigned size, unsigned cpu)
{
    uint8_t w = size == 16 ? 0x48 : 0x40;

    (void)cpu;
    EMIT(e, 0x31, 0xc0, 0x31, 0xd2); /* xor eax, eax; xor edx, edx: a guess, mostly wrong */
    uint8_t *again = e->at;
    EMIT(e, w, 0x89, 0xc1, w, 0x01, 0xd1);                /* mov ecx, eax; add ecx, edx */
    EMIT(e, 0x49, 0x09, 0xcc);                            /* or r12, rcx: they add up to nought */
    EMIT(e, w, 0x89, 0xc3, (uint8_t)(w | 4), 0x01, 0xf3); /* mov ebx, eax; add ebx, r14d */
    EMIT(e, w, 0x89, 0xd1, (uint8_t)(w | 4), 0x29, 0xf1); /* mov ecx, edx; sub ecx, r14d */
    EMIT(e, 0xf0, w, 0x0f, 0xc7, 0x0e);                   /* lock cmpxchg8b or 16b [rsi] */
    EMIT(e, 0x75, (uint8_t)(again - e->at - 2));          /* jnz again */
}

/* ---- locks ---- */

/*
 * XCHG takes the lock at [rsi], a plain store gives it back; the counter is at [r15], changed in two steps. Whoever
 * waits without end (the lock was torn) notes it and goes on.
 */
static void emit_spin_lock(struct emit *e, unsigned size, unsigned cpu)
{
    (void)cpu;
    EMIT(e, 0xb9, 0, 0, 4, 0); /* mov ecx, 0x40000 */
    uint8_t *again = e->at;
    EMIT(e, 0xb8, 1, 0, 0, 0); /* mov eax, 1 */
    emit_rm(e, false, size, 0x86 + wide(size), RAX, RSI);
    EMIT(e, 0x84, 0xc0, 0x74, 0x0a);             /* test al, al; jz over */
    EMIT(e, 0xf3, 0x90, 0xff, 0xc9);             /* pause; dec ecx */
    EMIT(e, 0x75, (uint8_t)(again - e->at - 2)); /* jnz again */
    EMIT(e, 0x49, 0x83, 0xcc, 0x01);             /* or r12, 1 */
    EMIT(e, 0x49, 0x8b, 0x07, 0x4c, 0x01, 0xf0); /* over: mov rax, [r15]; add rax, r14 */
    EMIT(e, 0x49, 0x89, 0x07, 0x31, 0xc0);       /* mov [r15], rax; xor eax, eax */
    emit_rm(e, false, size, 0x88 + wide(size), RAX, RSI);
}

/* ---- neighbours ---- */

/*
 * Even processors: a locked operation, or a plain store, on the operand. Odd ones: bytes right before or behind it.
 */
static void emit_neighbours(struct emit *e, unsigned size, unsigned cpu)
{
    uint8_t disp = (uint8_t)(cpu == 1 ? -1 : (int)size);

    if (cpu % 2 == 0) {
        if (cpu == 0)
            lock_rm(e, size, 0xfe, 0);
        else
            emit_rm(e, false, size, 0x88 + wide(size), R14, RSI);
        return;
    }
    EMIT(e, 0x40, 0x88, 0x6e, disp);             /* mov [rsi + disp], bpl */
    EMIT(e, 0xf3, 0x90, 0x8a, 0x46, disp);       /* pause; mov al, [rsi + disp] */
    EMIT(e, 0x40, 0x30, 0xe8, 0x0f, 0xb6, 0xc0); /* xor al, bpl; movzx eax, al */
    EMIT(e, 0x49, 0x09, 0xc4);                   /* or r12, rax */
}

static const struct operation operations[] = {
    {"add", CHECK_SUM, 0x0f, emit_add, 0},
    {"add imm8", CHECK_SUM, 0x0f, emit_add_imm, 5},
    {"sub", CHECK_SUM, 0x0f, emit_sub, 0},
    {"adc", CHECK_SUM, 0x0f, emit_adc, 0},
    {"sbb", CHECK_SUM, 0x0f, emit_sbb, 0},
    {"inc", CHECK_SUM, 0x0f, emit_inc, 1},
    {"dec", CHECK_SUM, 0x0f, emit_dec, ~0ull},
    {"xadd", CHECK_SUM, 0x0f, emit_xadd, 0},
    {"xadd with r10", CHECK_SUM, 0x0f, emit_xadd_r10, 0},
    {"cmpxchg", CHECK_SUM, 0x0f, emit_cmpxchg, 0},
    {"or and", CHECK_OWN_BIT, 0x0f, emit_or_and, 0},
    {"xor", CHECK_OWN_BIT, 0x0f, emit_xor, 0},
    {"bts btr", CHECK_OWN_BIT, 0x0e, emit_bts_btr, 0},
    {"btc", CHECK_OWN_BIT, 0x0e, emit_btc, 0},
    {"bts btc imm8", CHECK_OWN_BIT, 0x0e, emit_bts_imm, 0},
    {"not", CHECK_PARITY, 0x0f, emit_not, 0},
    {"neg", CHECK_PARITY, 0x0f, emit_neg, 0},
    {"xchg", CHECK_TOKENS, 0x0f, emit_xchg, 0},
    {"xchg with r11", CHECK_TOKENS, 0x0f, emit_xchg_r11, 0},
    {"cmpxchg8b", CHECK_PAIR, 0x08, emit_cmpxchg_pair, 0},
    {"cmpxchg16b", CHECK_PAIR, 0x10, emit_cmpxchg_pair, 0},
    {"spin lock", CHECK_GUARD, 0x0f, emit_spin_lock, 0},
    {"neighbours", CHECK_OTHERS, 0x0f, emit_neighbours, 0},
};
#define OPERATIONS (sizeof(operations) / sizeof(operations[0]))

/* Where the operand lies: what is left of it behind the boundary. */
static const struct site {
    const char *name;
    unsigned boundary; /* 0: aligned, at the start of a line */
    bool code;
} sites[SITES] = {{"aligned", 0, false},
                  {"across a cache line", 64, false},
                  {"across a page", PAGE, false},
                  {"on a code page", 0, true}};

struct memory {
    uint8_t *data; /* three pages */
    uint8_t *code; /* a page with code at its end */
    struct atomic_args *args;
    uint32_t *meet;
    uint64_t *guarded;
};

static uint64_t emit_processor(struct machine *m, const struct operation *op, unsigned size, unsigned cpu,
                               unsigned cpus)
{
    struct emit e;

    e.start = e.at = machine_alloc(m, CODE_BYTES, 64);
    if (!e.start)
        return 0;
    e.end = e.start + CODE_BYTES;
    EMIT(&e, 0x57);                   /* push rdi */
    EMIT(&e, 0x48, 0x8b, 0x37);       /* mov rsi, [rdi] */
    EMIT(&e, 0x4c, 0x8b, 0x7f, 0x08); /* mov r15, [rdi + 8] */
    EMIT(&e, 0x48, 0x8b, 0x6f, 0x10); /* mov rbp, [rdi + 16] */
    EMIT(&e, 0x45, 0x31, 0xe4);       /* xor r12d, r12d */
    EMIT(&e, 0x41, 0xbd);             /* mov r13d, cpu * 2 */
    emit_u32(&e, cpu * 2);
    EMIT(&e, 0x4c, 0x8b, 0x77, 0x20); /* mov r14, [rdi + 32] */
    emit_meet(&e, cpus);
    EMIT(&e, 0x4c, 0x8b, 0x7f, 0x28); /* mov r15, [rdi + 40] */
    uint8_t *again = e.at;
    op->emit(&e, size, cpu);
    emit_dec_jnz(&e, RBP, again);
    EMIT(&e, 0x5f);                         /* pop rdi */
    EMIT(&e, 0x4c, 0x89, 0x67, 0x18);       /* mov [rdi + 24], r12 */
    EMIT(&e, 0x4c, 0x89, 0x77, 0x20, 0xc3); /* mov [rdi + 32], r14; ret */
    return machine_va(m, e.start);
}

static uint64_t load(const uint8_t *p, unsigned size)
{
    uint64_t v = 0;

    memcpy(&v, p, size > 8 ? 8 : size);
    return v;
}

/* What the operation left, against what it must have; NULL, or what is wrong. */
static const char *verify(const struct operation *op, const struct memory *mem, const uint8_t *at, unsigned size,
                          unsigned cpus, const uint64_t value[], uint64_t before, unsigned repeats)
{
    uint64_t mask = size >= 8 ? ~0ull : (1ull << size * 8) - 1, now = load(at, size) & mask, want = before;

    for (unsigned i = 0; i < cpus; i++)
        if (mem->args[i].errors & mask)
            return "a processor saw what it did undone";
    switch (op->check) {
    case CHECK_SUM:
        for (unsigned i = 0; i < cpus; i++)
            want += repeats * (op->adds ? op->adds : value[i]);
        return ((now ^ want) & mask) == 0 ? NULL : "the sum is wrong";
    case CHECK_PARITY: /* one more by the first, so that the whole is odd */
        want = op->emit == emit_not ? ~before : -before;
        return ((now ^ want) & mask) == 0 ? NULL : "an inversion was lost";
    case CHECK_TOKENS:
        for (unsigned i = 0; i < cpus; i++) {
            now ^= mem->args[i].value & mask;
            want ^= value[i];
        }
        return ((now ^ want) & mask) == 0 ? NULL : "a token was lost or made";
    case CHECK_PAIR:
        for (unsigned i = 0; i < cpus; i++)
            want += repeats * value[i];
        if (size == 8)
            return (uint32_t)now == (uint32_t)want && (uint32_t)(now >> 32) == -(uint32_t)want ? NULL
                                                                                               : "the pair is wrong";
        return now == want && load(at + 8, 8) == -want ? NULL : "the pair is wrong";
    case CHECK_GUARD:
        want = 0;
        for (unsigned i = 0; i < cpus; i++)
            want += repeats * value[i];
        return *mem->guarded == want ? NULL : "two held the lock";
    default:
        return NULL;
    }
}

/* One operation at one site by so many processors, `rounds` times. */
static void run_operation(struct machine *m, struct memory *mem, const struct operation *op, unsigned size,
                          const struct site *site, unsigned cpus, double seconds, struct totals *totals)
{
    static char name[96];
    uint64_t entry[CPUS_MAX], arg[CPUS_MAX], value[CPUS_MAX];
    const char *wrong = NULL;
    unsigned failures = 0, round = 0, usual = site->boundary == PAGE ? REPEATS_PAGES : REPEATS;
    double end = now() + seconds;

    snprintf(name, sizeof(name), "%s of %u bytes, %s, %u processors", op->name, size, site->name, cpus);
    running = name;
    for (unsigned i = 0; i < cpus; i++)
        if (!(entry[i] = emit_processor(m, op, size, i, cpus))) {
            printf("FAIL %s: %s: no room for code\n", m->mode->name, name);
            totals->failed++;
            return;
        }
    for (; round < ROUNDS_LEAST || now() < end; round++) {
        /* the boundary is at the end of the first page of three; which part is on which side changes */
        uint8_t *at = site->code ? mem->code + 256 : site->boundary == PAGE ? mem->data + PAGE : mem->data + 1024;
        if (site->boundary)
            at -= size == 16 ? 8 : 1 + round % (size - 1);
        uint64_t before = op->check == CHECK_TOKENS || op->check == CHECK_PARITY ? litmus_random() | 1 : 0;
        memset(at - 1, 0, size + 2u);
        memcpy(at, &before, size > 8 ? 8 : size);
        *mem->meet = 0;
        *mem->guarded = 0;
        for (unsigned i = 0; i < cpus; i++) {
            value[i] = op->check == CHECK_SUM || op->check == CHECK_TOKENS ? litmus_random() : 3 + 2 * i;
            unsigned repeats = op->check == CHECK_PARITY && i == 0 ? usual + 1 : usual;
            mem->args[i] = (struct atomic_args){machine_va(m, at), machine_va(m, mem->meet),   repeats, 0,
                                                value[i],          machine_va(m, mem->guarded)};
            arg[i] = machine_va(m, &mem->args[i]);
        }
        if (machine_run(m, cpus, entry, arg)) {
            wrong = "the machine stopped";
            failures++;
            break;
        }
        const char *why = verify(op, mem, at, size, cpus, value, before, usual);
        if (why) {
            wrong = why;
            failures++;
        }
    }
    if (failures)
        printf("FAIL %s: lock %s: %s, in %u of %u rounds\n", m->mode->name, name, wrong, failures, round);
    totals->passed += !failures;
    totals->failed += failures != 0;
}

static int memory_init(struct machine *m, struct memory *mem)
{
    uint64_t entry, arg = 0;

    mem->data = machine_alloc(m, 3 * PAGE, PAGE);
    mem->code = machine_alloc(m, PAGE, PAGE);
    mem->args = machine_alloc(m, CPUS_MAX * sizeof(*mem->args), PAGE);
    mem->meet = machine_alloc(m, 64, 64);
    mem->guarded = machine_alloc(m, 64, 64);
    if (!mem->data || !mem->code || !mem->args || !mem->meet || !mem->guarded)
        return -1;
    mem->code[PAGE - 8] = 0xc3;
    entry = machine_va(m, mem->code + PAGE - 8);
    return machine_run(m, 1, &entry, &arg);
}

/* Kernels of Intel's processors slow split locks down, or forbid them. */
static bool host_minds_splits(void)
{
    char line[8192];
    bool minds = false;
    FILE *f = fopen("/proc/cpuinfo", "re");

    while (f && !minds && fgets(line, sizeof(line), f))
        minds = !strncmp(line, "flags", 5) && strstr(line, " split_lock_detect");
    if (f)
        fclose(f);
    return minds;
}

void atomic_tests(struct machine *m, double seconds, const char *filter, struct totals *totals)
{
    static const uint8_t processors[] = {2, 3, 4};
    struct memory mem;
    bool no_splits = host_minds_splits();

    if (memory_init(m, &mem)) {
        totals->failed++;
        return;
    }
    for (size_t o = 0; o < OPERATIONS; o++)
        for (unsigned s = 0; s < SITES; s++)
            for (unsigned log = 0; log < 5; log++) {
                const struct operation *op = &operations[o];
                unsigned size = 1u << log, cpus = processors[(o + s + log) % sizeof(processors)];
                bool splits = sites[s].boundary != 0;
                if (!(op->sizes >> log & 1) || (splits && (size == 1 || op->emit == emit_cmpxchg_pair) && size != 8) ||
                    (filter && !strstr(op->name, filter)))
                    continue;
                if (splits && no_splits) {
                    totals->skipped++;
                    continue;
                }
                if (op->check == CHECK_GUARD && cpus > 2)
                    cpus = 2; /* on few cores the holder would not run, for long */
                run_operation(m, &mem, op, size, &sites[s], cpus, seconds / TESTS_ABOUT, totals);
            }
}
