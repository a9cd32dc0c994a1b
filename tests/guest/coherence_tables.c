/* SPDX-License-Identifier: MIT */
/* The tables of the coherence test: address spaces, and in each the cells and slots of all page sizes. */
#include "coherence.h"

struct cell cells[CELLS_MAX];
struct slot slots[SLOTS_MAX];
unsigned slot_count, group_count;
struct slot *groups[SLOTS_MAX][SPACES];
uint64_t *roots[SPACES];
static unsigned cell_count;

static void frame_init(uint64_t frame)
{
    uint8_t *code = (uint8_t *)frame + CODE_OFFSET; /* mov $number, %eax; ret */
    *(uint64_t *)frame = frame >> 12;
    code[0] = 0xb8;
    memcpy(code + 1, &(uint32_t){(uint32_t)(frame >> 12)}, 4);
    code[CODE_SECOND] = 0xc3;
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

void tables_make(void)
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
