/* SPDX-License-Identifier: MIT */
/*
 * The segments that 16- and 32-bit cases run in: a local descriptor table, the same on both sides. On the host it
 * is made with modify_ldt(2), which knows user segments only; flat 32-bit ones are those of Linux' own GDT.
 */
#include "diff.h"

#include <asm/ldt.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CODE32 0x10000000u
#define DATA32 0x10010000u
#define CODE16 0x50000u
#define DATA16 0x60000u

const struct diff_arch diff_archs[3] = {
    {"64", 64, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64, CODE32, DATA32, 0x3000, 16},
    {"32", 32, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32, CODE32, DATA32, 0x3000, 8},
    {"16", 16, ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16, CODE16, DATA16, 0x4000, 8},
};
const struct diff_arch *diff_arch = &diff_archs[0];

static const struct diff_seg flat_code = {0, 0xfffff, .code = true, .big = true, .pages = true};
static const struct diff_seg flat_data = {0, 0xfffff, .big = true, .pages = true};

static const struct diff_seg table32[DIFF_LDT_ENTRIES] = {
    [1] = {CODE32, 0x1fff, .code = true, .big = true},
    [2] = {0x1000, 0xfffff, .code = true, .big = true, .pages = true},
    [3] = {DATA32, 0x3fff, .big = true},
    [4] = {DATA32 + 0x1000, 0xfff, .big = true},
    [5] = {DATA32, 0x7ff, .down = true, .big = true},
    [6] = {DATA32, 0x3ff, .down = true},
    [7] = {DATA32, 0x2fff, .big = true, .no_write = true},
    [8] = {DATA32, 0x2fff, .big = true},
    [9] = {DATA32 + 0x100, 0xfffff, .big = true},
    [10] = {DATA32 - 0x80000000u, 0xfffff, .big = true, .pages = true}, /* offsets from 2 GiB on; wraps */
    [11] = {CODE32, 0xffff, .code = true},                              /* 16-bit */
    [12] = {DATA32, 0xffff},                                            /* as a stack: 16-bit */
    [13] = {CODE32, 0x1fff, .code = true, .big = true, .no_write = true},
    [14] = {DATA32, 0x3fff, .big = true, .absent = true},
    [15] = {DATA32 + 0x200, 2, .pages = true, .big = true}, /* 12 KiB from 0x200 on */
};
static const struct diff_seg table16[DIFF_LDT_ENTRIES] = {
    [1] = {CODE16, 0xffff, .code = true},
    [2] = {CODE16 + 0x100, 0x1eff, .code = true},
    [3] = {DATA16, 0xffff},
    [4] = {DATA16 + 0x100, 0xffff},
    [5] = {DATA16 + 0x1000, 0x1fff},
    [6] = {DATA16, 0x3ff, .down = true},
    [7] = {DATA16, 0x3ff, .down = true, .big = true},
    [8] = {DATA16, 0x2fff, .no_write = true},
    [9] = {DATA16 + 0x3f0, 0xffff},
    [10] = {DATA16, 0x3fff, .big = true}, /* as a stack: 32-bit */
    [11] = {0, 0xfffff, .big = true, .pages = true},
    [12] = {CODE16, 0xffff, .code = true, .no_write = true},
    [13] = {DATA16, 0x3fff, .absent = true},
    [14] = {CODE16, 0x1fff, .code = true, .big = true}, /* 32-bit */
    [15] = {DATA16 + 1, 0xfff},
};

/* Entries that serve as each segment register, the usual ones first; 0: flat. */
static const struct {
    uint8_t usual[2], others[5], other_count;
} choices[2][DIFF_SREGS] = {
    {
        [DIFF_ES] = {{0, 3}, {5, 9, 4, 10, 7}, 5},
        [DIFF_CS] = {{0, 1}, {2, 13, 1}, 3},
        [DIFF_SS] = {{0, 8}, {5, 10, 12, 8}, 4},
        [DIFF_DS] = {{0, 3}, {5, 9, 4, 10, 7}, 5},
        [DIFF_FS] = {{9, 9}, {6, 15, 3, 4, 10}, 5},
        [DIFF_GS] = {{15, 9}, {6, 11, 2, 7, 10}, 5},
    },
    {
        [DIFF_ES] = {{3, 4}, {5, 6, 7, 11, 15}, 5},
        [DIFF_CS] = {{1, 1}, {2, 12}, 2},
        [DIFF_SS] = {{3, 3}, {10, 6, 7, 11, 5}, 5},
        [DIFF_DS] = {{3, 4}, {5, 6, 7, 8, 15}, 5},
        [DIFF_FS] = {{4, 9}, {5, 11, 8, 6, 1}, 5},
        [DIFF_GS] = {{9, 11}, {15, 5, 1, 7, 2}, 5},
    },
};

static bool is_none(const struct diff_seg *seg)
{
    return !seg->base && !seg->limit;
}

const struct diff_seg *diff_seg_table(void)
{
    return diff_arch->bits == 16 ? table16 : table32;
}

const struct diff_seg *diff_seg_find(uint16_t selector)
{
    const struct diff_seg *seg = &diff_seg_table()[(selector >> 3) % DIFF_LDT_ENTRIES];

    if ((selector & ~3) == (DIFF_SEL_USER_CS32 & ~3))
        return &flat_code;
    if ((selector & ~3) == (DIFF_SEL_USER_DS & ~3))
        return &flat_data;
    return (selector & 4) && selector >> 3 < DIFF_LDT_ENTRIES && !is_none(seg) ? seg : NULL;
}

uint64_t diff_seg_descriptor(const struct diff_seg *seg, unsigned dpl)
{
    uint64_t type =
        1u | (seg->no_write ? 0 : 2u) | (seg->down ? 4u : 0) | (seg->code ? 8u : 0); /* accessed, as Linux makes them */

    if (is_none(seg))
        return 0;
    return (seg->limit & 0xffff) | (uint64_t)(seg->base & 0xffffff) << 16 |
           (type | 0x10 | dpl << 5 | (seg->absent ? 0 : 0x80u)) << 40 | (uint64_t)(seg->limit >> 16) << 48 |
           (uint64_t)seg->big << 54 | (uint64_t)seg->pages << 55 | (uint64_t)(seg->base >> 24) << 56;
}

uint32_t diff_seg_base(const struct diff_case *c, unsigned sreg)
{
    const struct diff_seg *seg = diff_seg_find(c->sel[sreg]);
    return seg ? seg->base : 0;
}

bool diff_seg_real(uint16_t selector)
{
    const struct diff_seg *seg = diff_seg_find(selector);
    return seg && !seg->code && !seg->down && !seg->no_write && (selector & 4);
}

bool diff_seg_v86(uint16_t selector)
{
    const struct diff_seg *seg = diff_seg_find(selector);
    return seg && seg->limit == 0xffff && !seg->pages && !seg->big && !seg->down && !seg->no_write &&
           (seg->base & 15) == 0 && seg->base < 0x100000;
}

int diff_seg_host_init(void)
{
    const struct diff_seg *table = diff_seg_table();

    for (unsigned i = 0; i < DIFF_LDT_ENTRIES; i++) {
        const struct diff_seg *seg = &table[i];
        struct user_desc d = {
            .entry_number = i,
            .base_addr = seg->base,
            .limit = seg->limit,
            .seg_32bit = seg->big,
            .contents = seg->code   ? 2
                        : seg->down ? 1
                                    : 0,
            .read_exec_only = seg->no_write,
            .limit_in_pages = seg->pages,
            .seg_not_present = seg->absent,
        };
        if (!is_none(seg) && syscall(SYS_modify_ldt, 1, &d, sizeof(d)))
            return -1;
    }
    return 0;
}

static uint16_t selector_of(unsigned sreg, unsigned entry)
{
    if (entry == 0)
        return sreg == DIFF_CS ? DIFF_SEL_USER_CS32 : DIFF_SEL_USER_DS;
    return (uint16_t)(entry << 3 | 7);
}

void diff_seg_pick(struct diff_case *c)
{
    memset(c->sel, 0, sizeof(c->sel));
    if (diff_arch->bits == 64)
        return;
    uint64_t r = diff_random();
    bool plain = r % 100 < 60;
    for (unsigned s = 0; s < DIFF_SREGS; s++) {
        uint64_t k = diff_random();
        unsigned which = diff_arch->bits == 16;
        if (plain || k % 100 < 40)
            c->sel[s] = selector_of(s, choices[which][s].usual[plain && s != DIFF_FS ? 0 : k >> 8 & 1]);
        else
            c->sel[s] = selector_of(s, choices[which][s].others[(k >> 8) % choices[which][s].other_count]);
        if (!plain && k >> 59 == 0 && s != DIFF_CS && s != DIFF_SS)
            c->sel[s] = 0; /* not 1 to 3: the host's IRET makes them 0 */
    }
}

void diff_seg_usual(struct diff_case *c)
{
    for (unsigned s = 0; s < DIFF_SREGS; s++)
        c->sel[s] = selector_of(s, choices[diff_arch->bits == 16][s].usual[0]);
}

uint16_t diff_seg_random(void)
{
    uint64_t r = diff_random();

    switch (r % 8) {
    case 0:
        return 0; /* not 1 to 3: the host's IRET from an interrupt makes them 0 */
    case 1:
        return (uint16_t)(r >> 16 | 4);
    case 2:
        return r & 256 ? DIFF_SEL_USER_DS : DIFF_SEL_USER_CS32;
    default:
        return (uint16_t)((r >> 8) % DIFF_LDT_ENTRIES << 3 | 4 | ((r & 0xc0) ? 3 : (r >> 20 & 3)));
    }
}
