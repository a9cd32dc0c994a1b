/* SPDX-License-Identifier: MIT */
/*
 * EPT tables: mapping at each level, splitting, unmapping, write protection, accessed and dirty
 * bits, misconfigured entries, tables that come and go, and a comparison with a flat array over a
 * random history. Host addresses are only numbers here.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "mmu/ept.h"

#define PAGE KAGE_PAGE_SIZE
#define MIB2 (PAGE << 9)
#define GIB1 (PAGE << 18)
#define RWX (EPT_R | EPT_W | EPT_X)
#define HVA 0x7f0000000000ull

static struct ept *fresh(void)
{
    struct ept *ept = NULL;

    assert_int_equal(ept_new(&ept), 0);
    return ept;
}

/* The host address that a walk arrives at; 0 if there is none. */
static uint64_t translate(const struct ept *ept, gpa_t gpa, uint64_t *rights)
{
    unsigned level = 9;
    uint64_t leaf = ept_walk(ept, gpa, &level);

    *rights = leaf & RWX;
    if (leaf == 0)
        return 0;
    assert_true(level <= 2);
    assert_int_equal((leaf & EPT_PS) != 0, level > 0);
    assert_int_equal(leaf & (7ull << 3), EPT_MEMTYPE_WB);
    uint64_t inside = (PAGE << (9 * level)) - 1;
    assert_int_equal(leaf & EPT_ADDR & inside, 0);
    return (leaf & EPT_ADDR) + (gpa & inside);
}

/* As the processor does. */
static bool mark(struct ept *ept, gpa_t gpa, bool dirty)
{
    unsigned level;
    uint64_t leaf = ept_walk(ept, gpa, &level);

    return ept_set_accessed(ept, gpa, leaf, dirty);
}

static void assert_maps(const struct ept *ept, gpa_t gpa, uint64_t hva, uint64_t rights)
{
    uint64_t got;

    assert_int_equal(translate(ept, gpa, &got), hva);
    assert_int_equal(got, rights);
}

static void test_levels(void **state)
{
    struct ept *ept = fresh();
    struct ept_stats stats;

    (void)state;
    assert_maps(ept, 0, 0, 0);
    assert_int_equal(ept_map(ept, 0x5000, HVA + 0x3000, 0, RWX), 0);
    assert_int_equal(ept_map(ept, 4 * MIB2, HVA + MIB2, 1, EPT_R | EPT_X), 0);
    assert_int_equal(ept_map(ept, 3 * GIB1, HVA + GIB1, 2, RWX), 0);
    assert_maps(ept, 0x5123, HVA + 0x3123, RWX);
    assert_maps(ept, 0x4fff, 0, 0);
    assert_maps(ept, 0x6000, 0, 0);
    assert_maps(ept, 4 * MIB2 + 0x123456, HVA + MIB2 + 0x123456, EPT_R | EPT_X);
    assert_maps(ept, 5 * MIB2, 0, 0);
    assert_maps(ept, 3 * GIB1 + 0x3fffffff, HVA + GIB1 + 0x3fffffff, RWX);
    ept_get_stats(ept, &stats);
    assert_int_equal(stats.pages_4k, 1);
    assert_int_equal(stats.pages_2m, 1);
    assert_int_equal(stats.pages_1g, 1);
    assert_true(stats.table_pages >= 4);
    ept_free(ept);
}

static void test_beyond_48_bits(void **state)
{
    struct ept *ept = fresh();

    (void)state;
    assert_int_not_equal(ept_map(ept, 1ull << 48, HVA, 0, RWX), 0);
    assert_maps(ept, 1ull << 48, 0, 0);
    assert_maps(ept, 0, 0, 0); /* not by wrapping around either */
    assert_int_equal(ept_map(ept, (1ull << 48) - PAGE, HVA, 0, RWX), 0);
    assert_maps(ept, (1ull << 48) - 1, HVA + 0xfff, RWX);
    ept_free(ept);
}

static void test_pointer(void **state)
{
    struct ept *ept = fresh();
    uint64_t p = ept_pointer(ept);

    (void)state;
    assert_int_equal(p & 7, 6);        /* write-back */
    assert_int_equal(p >> 3 & 7, 3);   /* walk length - 1 */
    assert_int_equal(p & 0xf80, 0);
    assert_int_not_equal(p & EPT_ADDR, 0);
    ept_free(ept);
}

static void test_split_keeps_the_rest(void **state)
{
    struct ept *ept = fresh();

    (void)state;
    assert_int_equal(ept_map(ept, 0, HVA, 2, RWX), 0);
    assert_true(mark(ept, 0, true));
    assert_int_equal(ept_map(ept, MIB2 + 0x7000, HVA + 0x10000000000, 0, EPT_R), 0);
    assert_maps(ept, MIB2 + 0x7abc, HVA + 0x10000000abc, EPT_R);
    assert_maps(ept, MIB2 + 0x6fff, HVA + MIB2 + 0x6fff, RWX);
    assert_maps(ept, MIB2 + 0x8000, HVA + MIB2 + 0x8000, RWX);
    assert_maps(ept, 0, HVA, RWX);
    assert_maps(ept, GIB1 - 1, HVA + GIB1 - 1, RWX);
    unsigned level;
    assert_true((ept_walk(ept, 0, &level) & EPT_D) != 0);
    assert_int_equal(level, 1);
    ept_free(ept);
}

static void test_large_replaces_small(void **state)
{
    struct ept *ept = fresh();

    (void)state;
    assert_int_equal(ept_map(ept, MIB2 + 0x3000, HVA + GIB1, 0, EPT_R), 0);
    assert_int_equal(ept_map(ept, MIB2, HVA + MIB2, 1, RWX), 0);
    for (gpa_t gpa = MIB2; gpa < 2 * MIB2; gpa += PAGE)
        assert_maps(ept, gpa, HVA + gpa, RWX);
    assert_maps(ept, 2 * MIB2, 0, 0);
    ept_free(ept);
}

static uint64_t marks(const struct ept *ept, gpa_t gpa)
{
    unsigned level;
    return ept_walk(ept, gpa, &level) & (EPT_A | EPT_D);
}

/* The entry at `level` on the way to gpa, read as a processor would from the EPTP. */
static uint64_t entry_at(const struct ept *ept, gpa_t gpa, unsigned level)
{
    uint64_t e = ept_pointer(ept);

    for (unsigned l = EPT_LEVELS; l-- > level;)
        e = ((const uint64_t *)(uintptr_t)(e & EPT_ADDR))[gpa >> (12 + 9 * l) & 511];
    return e;
}

static void test_accessed_dirty(void **state)
{
    struct ept *ept = fresh();

    (void)state;
    assert_int_equal(ept_map(ept, 0x1000, HVA, 0, RWX), 0);
    assert_int_equal(marks(ept, 0x1000), 0);
    assert_true(mark(ept, 0x1fff, false));
    assert_int_equal(marks(ept, 0x1000), EPT_A);
    assert_true(mark(ept, 0x1000, true));
    assert_int_equal(marks(ept, 0x1000), EPT_A | EPT_D);
    for (unsigned level = 1; level < EPT_LEVELS; level++) /* A at every level, D only in the leaf (SDM 3C 29.3.5) */
        assert_int_equal(entry_at(ept, 0x1000, level) & (EPT_A | EPT_D), EPT_A);
    assert_false(mark(ept, 0x2000, true)); /* nothing there: nothing appears */
    assert_maps(ept, 0x2000, 0, 0);

    /* The rights of the same page change: what was noted of it stays. Another page: it starts anew. */
    assert_int_equal(ept_map(ept, 0x1000, HVA, 0, RWX), 0);
    assert_int_equal(marks(ept, 0x1000), EPT_A | EPT_D);
    assert_int_equal(ept_map(ept, 0x1000, HVA + PAGE, 0, RWX), 0);
    assert_int_equal(marks(ept, 0x1000), 0);

    /* A leaf that has become another, or may not be written, is not marked. */
    unsigned level;
    uint64_t old = ept_walk(ept, 0x1000, &level);
    assert_int_equal(ept_map(ept, 0x1000, HVA + 2 * PAGE, 0, EPT_R), 0);
    assert_false(ept_set_accessed(ept, 0x1000, old, false));
    assert_false(mark(ept, 0x1000, true));
    assert_int_equal(marks(ept, 0x1000), 0);
    ept_free(ept);
}

static void test_write_protect(void **state)
{
    struct ept *ept = fresh();
    struct ept_stats stats;

    (void)state;
    for (gpa_t gpa = 0; gpa < 8 * PAGE; gpa += PAGE) {
        assert_int_equal(ept_map(ept, gpa, HVA + gpa, 0, RWX), 0);
        assert_true(mark(ept, gpa, true));
    }
    assert_int_equal(ept_map(ept, MIB2, HVA + MIB2, 1, RWX), 0);
    ept_write_protect(ept, 0x3000, 2 * PAGE);
    assert_maps(ept, 0x2000, HVA + 0x2000, RWX);
    assert_maps(ept, 0x3000, HVA + 0x3000, EPT_R | EPT_X);
    assert_maps(ept, 0x4000, HVA + 0x4000, EPT_R | EPT_X);
    assert_maps(ept, 0x5000, HVA + 0x5000, RWX);
    assert_int_equal(marks(ept, 0x3000), EPT_A); /* it is not dirty any more */
    assert_int_equal(marks(ept, 0x5000), EPT_A | EPT_D);
    assert_maps(ept, MIB2, HVA + MIB2, RWX);
    ept_write_protect(ept, 0, 4 * GIB1); /* a large page goes: its parts are filled on demand */
    assert_maps(ept, 0, HVA, EPT_R | EPT_X);
    assert_maps(ept, MIB2, 0, 0);
    ept_get_stats(ept, &stats);
    assert_int_equal(stats.pages_4k, 8);
    assert_int_equal(stats.pages_2m, 0);
    ept_free(ept);
}

/* By mask, from a page that is no multiple of 64 on, across the end of a table. */
static void test_write_protect_pages(void **state)
{
    struct ept *ept = fresh();
    const gpa_t from = MIB2 - 20 * PAGE;
    const uint64_t mask = 0x8000000000300005ull | 1ull << 19 | 1ull << 20;

    (void)state;
    for (gpa_t gpa = MIB2 - 64 * PAGE; gpa < MIB2 + 64 * PAGE; gpa += PAGE)
        assert_int_equal(ept_map(ept, gpa, HVA + gpa, 0, RWX), 0);
    ept_write_protect_pages(ept, from, mask);
    for (gpa_t gpa = MIB2 - 64 * PAGE; gpa < MIB2 + 64 * PAGE; gpa += PAGE) {
        bool hit = gpa >= from && gpa < from + 64 * PAGE && (mask >> ((gpa - from) / PAGE) & 1);
        assert_maps(ept, gpa, HVA + gpa, hit ? EPT_R | EPT_X : RWX);
    }
    ept_write_protect_pages(ept, 5 * GIB1, UINT64_MAX); /* nothing there */
    ept_write_protect_pages(ept, (1ull << 48) - PAGE, UINT64_MAX);
    ept_write_protect_pages(ept, UINT64_MAX & ~(PAGE - 1), UINT64_MAX);
    assert_maps(ept, 5 * GIB1, 0, 0);
    ept_free(ept);
}

static void test_mmio(void **state)
{
    struct ept *ept = fresh();
    struct ept_stats stats;
    unsigned level;

    (void)state;
    assert_int_equal(ept_map(ept, 0, HVA, 1, RWX), 0);
    assert_int_equal(ept_map_mmio(ept, MIB2, 2), -EEXIST); /* a table stands there */
    assert_int_equal(ept_map_mmio(ept, 0, 1), -EEXIST);    /* a page */
    assert_int_equal(ept_map_mmio(ept, 3 * GIB1 + 5, 2), 0);
    assert_int_equal(ept_map_mmio(ept, 3 * GIB1, 2), 0);
    assert_int_equal(ept_map_mmio(ept, 1ull << 48, 0), -EINVAL);
    assert_int_equal(ept_map_mmio(ept, 512 * GIB1, 3), 0);
    for (gpa_t gpa = 3 * GIB1; gpa < 4 * GIB1; gpa += MIB2 - PAGE) {
        uint64_t e = ept_walk(ept, gpa, &level);
        assert_true(ept_is_misconfigured(e, level));
        assert_int_equal(level, 2);
    }
    assert_true(ept_is_misconfigured(ept_walk(ept, 1024 * GIB1 - 1, &level), level));
    assert_int_equal(level, 3);
    assert_false(ept_is_misconfigured(ept_walk(ept, 2 * GIB1, &level), level));
    assert_false(mark(ept, 3 * GIB1, true));
    ept_write_protect(ept, 0, 1ull << 48); /* leaves them */
    ept_write_protect_pages(ept, 3 * GIB1, UINT64_MAX);
    ept_get_stats(ept, &stats);
    assert_int_equal(stats.mmio, 2);

    /* A page in the middle: the rest stays as it was. */
    assert_int_equal(ept_map(ept, 3 * GIB1 + MIB2 + PAGE, HVA, 0, RWX), 0);
    assert_maps(ept, 3 * GIB1 + MIB2 + PAGE, HVA, RWX);
    assert_true(ept_is_misconfigured(ept_walk(ept, 3 * GIB1 + MIB2, &level), level));
    assert_int_equal(level, 0);
    assert_true(ept_is_misconfigured(ept_walk(ept, 3 * GIB1, &level), level));
    assert_int_equal(level, 1);
    ept_get_stats(ept, &stats);
    assert_int_equal(stats.mmio, 1 + 511 + 511);
    ept_unmap(ept, 0, 1ull << 48);
    ept_get_stats(ept, &stats);
    assert_int_equal(stats.mmio, 0);
    assert_int_equal(stats.table_pages, 1);
    ept_free(ept);
}

/* SDM 3C 29.3.3.1 */
static void test_misconfigured(void **state)
{
    (void)state;
    assert_false(ept_is_misconfigured(0, 0));
    assert_false(ept_is_misconfigured(0, 3));
    for (uint64_t rights = 1; rights < 8; rights++)
        for (uint64_t type = 0; type < 8; type++) {
            bool bad = (rights & 3) == EPT_W || type == 2 || type == 3 || type == 7; /* execute-only is supported */
            assert_int_equal(ept_is_misconfigured(HVA | rights | type << EPT_MEMTYPE_SHIFT, 0), bad);
            assert_int_equal(ept_is_misconfigured(HVA | EPT_PS | rights | type << EPT_MEMTYPE_SHIFT, 2), bad);
        }
    assert_true(ept_is_misconfigured((HVA + PAGE) | EPT_PS | RWX | EPT_MEMTYPE_WB, 1));
    assert_false(ept_is_misconfigured((HVA + MIB2) | EPT_PS | RWX | EPT_MEMTYPE_WB, 1));
    assert_true(ept_is_misconfigured((HVA + MIB2) | EPT_PS | RWX | EPT_MEMTYPE_WB, 2));
    assert_true(ept_is_misconfigured(HVA | EPT_PS | RWX | EPT_MEMTYPE_WB, 3)); /* no pages of 512 GiB */
}

/* Tables go with their last entry, and large pages come back. */
static void test_tables_come_and_go(void **state)
{
    struct ept *ept = fresh();
    struct ept_stats stats;

    (void)state;
    for (unsigned round = 0; round < 3; round++) {
        for (gpa_t gpa = 0; gpa < 2 * MIB2; gpa += PAGE)
            assert_int_equal(ept_map(ept, 5 * GIB1 + gpa, HVA + gpa, 0, RWX), 0);
        ept_get_stats(ept, &stats);
        assert_int_equal(stats.table_pages, 5);
        ept_unmap(ept, 5 * GIB1, MIB2 - PAGE);
        ept_get_stats(ept, &stats);
        assert_int_equal(stats.table_pages, 5); /* one page is left in it */
        assert_int_equal(stats.pages_4k, 513);
        ept_unmap(ept, 5 * GIB1 + MIB2 - PAGE, 2 * PAGE);
        ept_get_stats(ept, &stats);
        assert_int_equal(stats.table_pages, 4);
        ept_unmap(ept, 5 * GIB1, GIB1);
        ept_get_stats(ept, &stats);
        assert_int_equal(stats.table_pages, 1);
        assert_int_equal(stats.pages_4k, 0);
        assert_int_equal(ept_map(ept, 5 * GIB1, HVA, 2, RWX), 0);
        ept_get_stats(ept, &stats);
        assert_int_equal(stats.pages_1g, 1);
        assert_int_equal(stats.table_pages, 2);
        ept_unmap(ept, 5 * GIB1, PAGE); /* at an edge: as a whole */
        ept_get_stats(ept, &stats);
        assert_int_equal(stats.pages_1g, 0);
    }
    ept_unmap(ept, 1ull << 50, PAGE); /* outside: nothing */
    ept_unmap(ept, 0, 0);
    ept_unmap(ept, 0, UINT64_MAX);
    ept_free(ept);
}

/* A history of small and large mappings over 8 MiB against one array element for each page. */
#define MODEL_PAGES 2048u
#define MODEL_BASE (512 * GIB1 - 2 * MIB2) /* straddles an entry of the top level */

struct model_page {
    uint64_t hva, rights;
};

static struct {
    struct model_page page[MODEL_PAGES];
    enum { NOTHING, LARGE, TABLE } part[MODEL_PAGES / 512];
} model;

static uint32_t random_next(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

static void model_drop(unsigned first, unsigned count)
{
    memset(&model.page[first], 0, count * sizeof(model.page[0]));
}

/* Pages [first, first+count) lose all rights, or W; large pages at the edges go as a whole. */
static void model_take(unsigned first, unsigned count, bool unmap)
{
    for (unsigned part = first / 512; part <= (first + count - 1) / 512; part++) {
        unsigned from = first > part * 512 ? first : part * 512;
        unsigned to = first + count < part * 512 + 512 ? first + count : part * 512 + 512;
        if (model.part[part] == LARGE) {
            model_drop(part * 512, 512);
            model.part[part] = NOTHING;
        }
        if (unmap)
            model_drop(from, to - from);
        for (unsigned i = from; i < to; i++)
            model.page[i].rights &= ~EPT_W;
        bool empty = true;
        for (unsigned i = part * 512; i < part * 512 + 512; i++)
            empty = empty && model.page[i].hva == 0;
        if (unmap && empty)
            model.part[part] = NOTHING;
    }
}

static void model_check(struct ept *ept)
{
    struct ept_stats stats;
    uint64_t small = 0, large = 0, tables = 1;
    bool half[2] = {false, false};

    for (unsigned i = 0; i < MODEL_PAGES; i++) {
        assert_maps(ept, MODEL_BASE + i * PAGE, model.page[i].hva, model.page[i].rights);
        small += model.part[i / 512] == TABLE && model.page[i].hva != 0;
    }
    for (unsigned part = 0; part < MODEL_PAGES / 512; part++) {
        large += model.part[part] == LARGE;
        tables += model.part[part] == TABLE;
        half[part / 2] |= model.part[part] != NOTHING;
    }
    ept_get_stats(ept, &stats);
    assert_int_equal(stats.pages_4k, small);
    assert_int_equal(stats.pages_2m, large);
    /* On protecting, a table may be left with nothing in it above where a large page was. */
    assert_true(stats.table_pages >= tables + 2 * half[0] + 2 * half[1] && stats.table_pages <= tables + 4);
}

static void test_random_history(void **state)
{
    struct ept *ept = fresh();
    uint32_t seed = 12345;

    (void)state;
    for (unsigned round = 0; round < 6000; round++) {
        unsigned level = random_next(&seed) % 4 == 0;
        unsigned count = level == 1 ? 512 : 1;
        unsigned first = random_next(&seed) % MODEL_PAGES / count * count;
        uint64_t rights = random_next(&seed) % 2 ? RWX : EPT_R;
        uint64_t hva = HVA + (random_next(&seed) % 1024) * MIB2;
        gpa_t gpa = MODEL_BASE + first * PAGE;
        unsigned what = random_next(&seed) % 8;

        if (what < 3) {
            count = 1 + random_next(&seed) % (MODEL_PAGES - first);
            if (what == 0)
                ept_unmap(ept, gpa, count * PAGE);
            else
                ept_write_protect(ept, gpa, count * PAGE);
            model_take(first, count, what == 0);
        } else {
            assert_int_equal(ept_map(ept, gpa, hva, level, rights), 0);
            for (unsigned i = 0; i < count; i++)
                model.page[first + i] = (struct model_page){hva + i * PAGE, rights};
            if (level == 0 || model.part[first / 512] != TABLE)
                model.part[first / 512] = level == 0 ? TABLE : LARGE;
        }
        if (round % 16 == 0)
            model_check(ept);
    }
    ept_unmap(ept, 0, 1ull << 48);
    struct ept_stats stats;
    ept_get_stats(ept, &stats);
    assert_int_equal(stats.pages_4k + stats.pages_2m + stats.pages_1g, 0);
    assert_int_equal(stats.table_pages, 1);
    ept_free(ept);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_levels),
        cmocka_unit_test(test_beyond_48_bits),
        cmocka_unit_test(test_pointer),
        cmocka_unit_test(test_split_keeps_the_rest),
        cmocka_unit_test(test_large_replaces_small),
        cmocka_unit_test(test_accessed_dirty),
        cmocka_unit_test(test_write_protect),
        cmocka_unit_test(test_write_protect_pages),
        cmocka_unit_test(test_mmio),
        cmocka_unit_test(test_misconfigured),
        cmocka_unit_test(test_tables_come_and_go),
        cmocka_unit_test(test_random_history),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
