/* SPDX-License-Identifier: MIT */
/*
 * The hand-picked cases of seqs_table.S, each from several random states.
 */
#include "diff.h"

#include <string.h>

#define VARIANTS 6

struct diff_seq {
    const char *name;
    const uint8_t *code, *end;
};
extern const struct diff_seq diff_seq_table[], diff_seq_table_end[];

static const struct {
    uint8_t gpr;
    uint64_t value;
} pointers[] = {
    {3, DIFF_DATA + 0x400},  {5, DIFF_DATA + 0x1ffc},  {6, DIFF_DATA + 0x800},   {7, DIFF_DATA + 0x1800},
    {12, DIFF_DATA + 0x3000}, {13, DIFF_DATA + 0x2ffc}, {14, DIFF_DATA + 0x4000}, {15, DIFF_WINDOW + 0x1c0},
};

size_t diff_seq_count(void)
{
    return (size_t)(diff_seq_table_end - diff_seq_table) * VARIANTS;
}

bool diff_seq_case(struct diff_case *c, size_t index)
{
    const struct diff_seq *seq = &diff_seq_table[index / VARIANTS];
    size_t len = (size_t)(seq->end - seq->code), variant = index % VARIANTS;

    c->form = UINT32_MAX;
    c->name = seq->name;
    if (len > DIFF_CODE_MAX)
        return false;
    diff_gen_state(c);
    for (size_t i = 0; i < sizeof(pointers) / sizeof(pointers[0]); i++)
        c->in.gpr[pointers[i].gpr] = pointers[i].value;
    c->in.gpr[4] = DIFF_DATA + 0x1600;
    c->in.rflags &= ~0x400ull;
    c->in.fs_base = DIFF_DATA + 0x100;
    c->in.gs_base = DIFF_DATA + 0x200;
    /* in the first page, and lying across the boundary at different places */
    c->code_off = (uint16_t)(variant < 2 ? 0x20 : 0x100 - len * (variant - 1) / VARIANTS);
    c->in.rip = DIFF_WINDOW + c->code_off;
    memcpy(c->code, seq->code, len);
    c->code_len = (uint16_t)len;
    return diff_case_analyse(c);
}
