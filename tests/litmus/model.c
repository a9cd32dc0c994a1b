/* SPDX-License-Identifier: MIT */
/*
 * x86-TSO as an abstract machine: each processor has a queue of stores that others do not see yet; a load
 * takes its own newest queued store, or memory; a store leaves the queue whenever it likes, oldest first; MFENCE and
 * locked instructions wait until the queue is empty. Every order of steps is tried.
 */
#include "litmus.h"

#include <stdlib.h>
#include <string.h>

/* ---- reading a test ---- */

static bool parse_op(const char **at, struct op *op)
{
    static const struct {
        const char *name;
        enum op_kind kind;
    } words[] = {{"mf", OP_MFENCE}, {"lk", OP_LOCKED}, {"sf", OP_SFENCE}, {"lf", OP_LFENCE}};
    const char *p = *at;

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        if (!strncmp(p, words[i].name, 2)) {
            *op = (struct op){.kind = words[i].kind};
            *at = p + 2;
            return true;
        }
    if (p[0] < 'x' || p[0] > 'z')
        return false;
    op->loc = (uint8_t)(p[0] - 'x');
    char how = p[1];
    op->kind = how == '=' ? OP_STORE : how == '>' ? OP_LOAD : how == ':' ? OP_XCHG : OP_XADD;
    p += 2;
    if (op->kind != OP_LOAD) {
        if (*p < '0' || *p > '9')
            return false;
        op->value = (uint8_t)(*p++ - '0');
        if (op->kind != OP_STORE && *p++ != '>')
            return false;
    }
    if (op->kind != OP_STORE) {
        if (*p < 'a' || *p > 'd')
            return false;
        op->reg = (uint8_t)(*p++ - 'a');
    }
    *at = p;
    return true;
}

static bool parse_condition(struct litmus *t)
{
    for (const char *p = t->condition; *p;) {
        unsigned shift = 0xff, cpu = (unsigned)(p[0] - '0');
        if (*p == ' ') {
            p++;
            continue;
        }
        if (p[0] >= 'x' && p[0] <= 'z') {
            shift = t->loc_shift[p[0] - 'x'];
            p += 1;
        } else if (cpu < t->cpus && p[1] == ':' && p[2] >= 'a' && p[2] <= 'd') {
            shift = t->reg_shift[cpu][p[2] - 'a'];
            p += 3;
        }
        if (shift == 0xff || p[0] != '=' || p[1] < '0' || p[1] > '9')
            return false;
        t->cond_mask |= 15ull << shift;
        t->cond_value |= (outcome_t)(p[1] - '0') << shift;
        p += 2;
    }
    return t->cond_mask != 0;
}

bool litmus_parse(struct litmus *t)
{
    bool loaded[CPUS_MAX][REGS] = {0};
    unsigned shift = 0;

    memset(t->ops, 0, sizeof(t->ops));
    t->locations = 0;
    t->cond_mask = t->cond_value = 0;
    t->cpus = 1;
    for (const char *p = t->code; *p;) {
        struct op op;
        unsigned cpu = t->cpus - 1;
        if (*p == ' ') {
            p++;
        } else if (*p == '|') {
            t->cpus++;
            p++;
        } else if (cpu >= CPUS_MAX || t->ops[cpu] == OPS_MAX || !parse_op(&p, &op)) {
            goto bad;
        } else {
            if (op.kind <= OP_XADD && op.loc >= t->locations)
                t->locations = op.loc + 1u;
            loaded[cpu][op.reg] |= op.kind == OP_LOAD || op.kind == OP_XCHG || op.kind == OP_XADD;
            t->op[cpu][t->ops[cpu]++] = op;
        }
    }
    for (unsigned i = 0; i < t->cpus; i++)
        for (unsigned r = 0; r < REGS; r++) {
            t->reg_shift[i][r] = loaded[i][r] ? (uint8_t)shift : 0xff;
            shift += loaded[i][r] ? 4 : 0;
        }
    for (unsigned l = 0; l < LOCATIONS; l++) {
        t->loc_shift[l] = l < t->locations ? (uint8_t)shift : 0xff;
        shift += l < t->locations ? 4 : 0;
    }
    if (shift <= 64 && parse_condition(t))
        return true;
bad:
    fprintf(stderr, "litmus: %s is not written right\n", t->name);
    return false;
}

/* ---- the machine ---- */

struct queued {
    uint8_t loc, value;
};
struct state {
    uint8_t memory[LOCATIONS];
    uint8_t reg[CPUS_MAX][REGS];
    uint8_t pc[CPUS_MAX];
    uint8_t queue_len[CPUS_MAX];
    struct queued queue[CPUS_MAX][OPS_MAX];
};

#define SEEN_ROOM (1u << 17) /* a power of two, several times what the largest test has */
static struct state *seen;
static bool *seen_used;
static unsigned seen_count;

/* True if the state is new. */
static bool note_state(const struct state *s)
{
    const uint8_t *bytes = (const uint8_t *)s;
    uint64_t hash = 0xcbf29ce484222325ull;

    for (size_t i = 0; i < sizeof(*s); i++)
        hash = (hash ^ bytes[i]) * 0x100000001b3ull;
    for (size_t i = (hash ^ hash >> 32) & (SEEN_ROOM - 1);; i = (i + 1) & (SEEN_ROOM - 1)) {
        if (!seen_used[i]) {
            seen_used[i] = true;
            seen[i] = *s;
            seen_count++;
            return true;
        }
        if (!memcmp(&seen[i], s, sizeof(*s)))
            return false;
    }
}

static uint8_t value_seen(const struct state *s, unsigned cpu, unsigned loc)
{
    for (unsigned i = s->queue_len[cpu]; i-- > 0;)
        if (s->queue[cpu][i].loc == loc)
            return s->queue[cpu][i].value;
    return s->memory[loc];
}

static void note_outcome(struct litmus *t, const struct state *s)
{
    outcome_t o = 0;

    for (unsigned i = 0; i < t->cpus; i++)
        for (unsigned r = 0; r < REGS; r++)
            if (t->reg_shift[i][r] != 0xff)
                o |= (outcome_t)s->reg[i][r] << t->reg_shift[i][r];
    for (unsigned l = 0; l < t->locations; l++)
        o |= (outcome_t)s->memory[l] << t->loc_shift[l];
    for (unsigned i = 0; i < t->outcomes; i++)
        if (t->outcome[i] == o)
            return;
    if (t->outcomes < OUTCOMES_MAX)
        t->outcome[t->outcomes++] = o;
}

static void explore(struct litmus *t, const struct state *s)
{
    bool over = true;

    if (seen_count > SEEN_ROOM / 2 || !note_state(s))
        return;
    for (unsigned i = 0; i < t->cpus; i++) {
        struct state next = *s;
        if (s->queue_len[i]) { /* the oldest store becomes visible */
            over = false;
            next.memory[s->queue[i][0].loc] = s->queue[i][0].value;
            next.queue_len[i]--;
            memmove(&next.queue[i][0], &next.queue[i][1], next.queue_len[i] * sizeof(struct queued));
            memset(&next.queue[i][next.queue_len[i]], 0, sizeof(struct queued));
            explore(t, &next);
        }
        if (s->pc[i] == t->ops[i])
            continue;
        over = false;
        const struct op *op = &t->op[i][s->pc[i]];
        next = *s;
        next.pc[i]++;
        switch (op->kind) {
        case OP_STORE:
            next.queue[i][next.queue_len[i]++] = (struct queued){op->loc, op->value};
            break;
        case OP_LOAD:
            next.reg[i][op->reg] = value_seen(s, i, op->loc);
            break;
        case OP_XCHG:
        case OP_XADD:
            if (s->queue_len[i])
                continue;
            next.reg[i][op->reg] = s->memory[op->loc];
            next.memory[op->loc] = (uint8_t)(op->kind == OP_XADD ? (s->memory[op->loc] + op->value) & 15 : op->value);
            break;
        case OP_MFENCE:
        case OP_LOCKED:
            if (s->queue_len[i])
                continue;
            break;
        case OP_SFENCE: /* orders nothing that TSO has not ordered */
        case OP_LFENCE:
            break;
        }
        explore(t, &next);
    }
    if (over)
        note_outcome(t, s);
}

bool model_outcomes(struct litmus *t)
{
    struct state start = {0};
    bool holds = false, whole;

    seen = calloc(SEEN_ROOM, sizeof(*seen));
    seen_used = calloc(SEEN_ROOM, sizeof(*seen_used));
    if (!seen || !seen_used)
        return false;
    seen_count = 0;
    t->outcomes = 0;
    explore(t, &start);
    whole = seen_count <= SEEN_ROOM / 2 && t->outcomes < OUTCOMES_MAX;
    free(seen);
    free(seen_used);
    for (unsigned i = 0; i < t->outcomes; i++)
        holds |= litmus_condition(t, t->outcome[i]);
    if (whole && holds == t->allowed)
        return true;
    fprintf(stderr, "litmus: %s: %s\n", t->name,
            whole ? "the model and the table do not agree" : "too large for the model");
    return false;
}
