/* SPDX-License-Identifier: MIT */
/*
 * EPT tables: mapping at each level, splitting, unmapping, write protection, accessed and dirty
 * bits, and a comparison with a flat array over a random history. Host addresses are only numbers here.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

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
    ept_set_accessed(ept, 0, true);
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

static void test_accessed_dirty(void **state)
{
    struct ept *ept = fresh();
    unsigned level;

    (void)state;
    assert_int_equal(ept_map(ept, 0x1000, HVA, 0, RWX), 0);
    assert_int_equal(ept_walk(ept, 0x1000, &level) & (EPT_A | EPT_D), 0);
    ept_set_accessed(ept, 0x1fff, false);
    assert_int_equal(ept_walk(ept, 0x1000, &level) & (EPT_A | EPT_D), EPT_A);
    ept_set_accessed(ept, 0x1000, true);
    assert_int_equal(ept_walk(ept, 0x1000, &level) & (EPT_A | EPT_D), EPT_A | EPT_D);
    ept_set_accessed(ept, 0x2000, true); /* nothing there: nothing appears */
    assert_int_equal(ept_walk(ept, 0x2000, &level), 0);
    assert_int_equal(ept_map(ept, 0x2000, HVA, 0, RWX), 0);
    ept_free(ept);
}

static void test_write_protect(void **state)
{
    struct ept *ept = fresh();
    struct ept_stats stats;

    (void)state;
    assert_int_equal(ept_map(ept, 0, HVA, 1, RWX), 0);
    assert_int_equal(ept_map(ept, MIB2, HVA + MIB2, 0, RWX), 0);
    assert_int_equal(ept_write_protect(ept, 0x3000, 2 * PAGE), 0);
    assert_maps(ept, 0x2000, HVA + 0x2000, RWX);
    assert_maps(ept, 0x3000, HVA + 0x3000, EPT_R | EPT_X);
    assert_maps(ept, 0x4000, HVA + 0x4000, EPT_R | EPT_X);
    assert_maps(ept, 0x5000, HVA + 0x5000, RWX);
    assert_maps(ept, MIB2, HVA + MIB2, RWX);
    assert_int_equal(ept_write_protect(ept, 0, 4 * GIB1), 0);
    assert_maps(ept, 0, HVA, EPT_R | EPT_X);
    assert_maps(ept, MIB2, HVA + MIB2, EPT_R | EPT_X);
    ept_get_stats(ept, &stats);
    assert_int_equal(stats.pages_4k, 513);
    assert_int_equal(stats.pages_2m, 0);
    ept_free(ept);
}

/* A history of small and large mappings over 8 MiB against one array element for each page. */
#define MODEL_PAGES 2048u
#define MODEL_BASE (512 * GIB1 - 2 * MIB2) /* straddles an entry of the top level */

struct model_page {
    uint64_t hva, rights;
};

static uint32_t random_next(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

static void test_random_history(void **state)
{
    static struct model_page model[MODEL_PAGES];
    struct ept *ept = fresh();
    uint32_t seed = 12345;

    (void)state;
    for (unsigned round = 0; round < 3000; round++) {
        unsigned level = random_next(&seed) % 4 == 0;
        unsigned count = level == 1 ? 512 : 1;
        unsigned first = random_next(&seed) % MODEL_PAGES / count * count;
        uint64_t rights = random_next(&seed) % 2 ? RWX : EPT_R;
        uint64_t hva = HVA + (random_next(&seed) % 1024) * MIB2;
        gpa_t gpa = MODEL_BASE + first * PAGE;

        switch (random_next(&seed) % 4) {
        case 0: /* whole large pages at the edges may go too: take whole ones */
            first = first / 512 * 512;
            ept_unmap(ept, MODEL_BASE + first * PAGE, MIB2);
            for (unsigned i = first; i < first + 512; i++)
                model[i] = (struct model_page){0, 0};
            break;
        case 1:
            count = 1 + random_next(&seed) % (MODEL_PAGES - first);
            assert_int_equal(ept_write_protect(ept, gpa, count * PAGE), 0);
            for (unsigned i = first; i < first + count; i++)
                model[i].rights &= ~EPT_W;
            break;
        default:
            assert_int_equal(ept_map(ept, gpa, hva, level, rights), 0);
            for (unsigned i = 0; i < count; i++)
                model[first + i] = (struct model_page){hva + i * PAGE, rights};
            break;
        }
        if (round % 16 != 0)
            continue;
        for (unsigned i = 0; i < MODEL_PAGES; i++)
            assert_maps(ept, MODEL_BASE + i * PAGE, model[i].hva, model[i].rights);
    }
    ept_unmap(ept, 0, 1ull << 48);
    struct ept_stats stats;
    ept_get_stats(ept, &stats);
    assert_int_equal(stats.pages_4k + stats.pages_2m + stats.pages_1g, 0);
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
        cmocka_unit_test(test_random_history),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
