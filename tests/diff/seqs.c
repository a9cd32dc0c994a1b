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
extern const struct diff_seq diff_seq_table[], diff_seq_table_end[], diff_seq32_table[], diff_seq32_table_end[], diff_seq16_table[], diff_seq16_table_end[];

/* Offsets into DATA. */
static const struct {
    uint8_t gpr;
    uint16_t offset;
} pointers[] = {
    {3, 0x400}, {5, 0x1ffc}, {6, 0x800}, {7, 0x1800}, {12, 0x3000}, {13, 0x2ffc}, {14, 0x4000},
};

static const struct diff_seq *table(size_t *count)
{
    switch (diff_arch->bits) {
    case 16:
        *count = (size_t)(diff_seq16_table_end - diff_seq16_table);
        return diff_seq16_table;
    case 32:
        *count = (size_t)(diff_seq32_table_end - diff_seq32_table);
        return diff_seq32_table;
    default:
        *count = (size_t)(diff_seq_table_end - diff_seq_table);
        return diff_seq_table;
    }
}

size_t diff_seq_count(void)
{
    size_t count;
    table(&count);
    return count * VARIANTS;
}

bool diff_seq_case(struct diff_case *c, size_t index)
{
    size_t count;
    const struct diff_seq *seq = &table(&count)[index / VARIANTS];
    size_t len = (size_t)(seq->end - seq->code), variant = index % VARIANTS;

    c->form = UINT32_MAX;
    c->name = seq->name;
    if (len > DIFF_CODE_MAX)
        return false;
    diff_gen_state(c);
    if (diff_arch->bits != 64) /* the usual segments */
        diff_seg_usual(c);
    for (size_t i = 0; i < sizeof(pointers) / sizeof(pointers[0]); i++)
        if (pointers[i].gpr < diff_arch->gprs)
            c->in.gpr[pointers[i].gpr] = DIFF_DATA - diff_seg_base(c, pointers[i].gpr == 5 ? DIFF_SS : DIFF_DS) + pointers[i].offset;
    c->in.gpr[4] = DIFF_DATA - diff_seg_base(c, DIFF_SS) + 0x1600;
    c->in.rflags &= ~(0x400ull | DIFF_FLAGS_AC);
    if (diff_arch->bits == 64) {
        c->in.gpr[15] = DIFF_WINDOW + 0x1c0;
        c->in.fs_base = DIFF_DATA + 0x100;
        c->in.gs_base = DIFF_DATA + 0x200;
    }
    /* in the first page, and lying across the boundary at different places */
    c->code_off = (uint16_t)(variant < 2 ? 0x20 : 0x100 - len * (variant - 1) / VARIANTS);
    c->in.rip = DIFF_WINDOW + c->code_off - diff_seg_base(c, DIFF_CS);
    memcpy(c->code, seq->code, len);
    c->code_len = (uint16_t)len;
    return diff_case_analyse(c);
}
