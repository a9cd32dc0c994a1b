/* SPDX-License-Identifier: MIT */
/*
 * The HPET under a clock that the test turns: the counter, one-shot and periodic timers, 32 bits, edges and levels, legacy routes, parts of
 * registers; and that nothing a guest writes makes it ask for a timer too soon.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "dev/hpet.h"

#define TN(n, offset) (0x100u + 0x20u * (n) + (offset))
#define ROUTES 0xff0104u

static struct hpet hpet;
static uint64_t now_ns;
static int64_t armed[HPET_TIMERS];
static bool lines[32], legacy;
static unsigned edges[32];

static uint64_t take_now(void *opaque)
{
    (void)opaque;
    return now_ns;
}

static void take_irq(void *opaque, unsigned line, bool level)
{
    (void)opaque;
    assert_true(line < 32);
    edges[line] += level && !lines[line];
    lines[line] = level;
}

static void take_arm(void *opaque, unsigned timer, int64_t ns)
{
    (void)opaque;
    assert_true(timer < HPET_TIMERS && (ns == -1 || ns >= 20000));
    armed[timer] = ns < 0 ? -1 : (int64_t)now_ns + ns;
}

static void take_legacy(void *opaque, bool on)
{
    (void)opaque;
    assert_true(on != legacy);
    legacy = on;
}

static const struct hpet_backend backend = {.now_ns = take_now, .set_irq = take_irq, .arm = take_arm, .legacy = take_legacy};

static int setup(void **state)
{
    (void)state;
    memset(lines, 0, sizeof(lines));
    memset(edges, 0, sizeof(edges));
    memset(armed, 0xff, sizeof(armed));
    legacy = false;
    now_ns = 1000000000;
    hpet_init(&hpet, ROUTES, &backend, NULL);
    return 0;
}

static void put(unsigned offset, uint64_t value)
{
    hpet_write(&hpet, offset, 8, value);
}

static uint64_t get(unsigned offset)
{
    return hpet_read(&hpet, offset, 8);
}

/* Time goes on; timers that are due expire in order. */
static void go(uint64_t ns)
{
    uint64_t end = now_ns + ns;
    for (;;) {
        int next = -1;
        for (unsigned i = 0; i < HPET_TIMERS; i++) {
            if (armed[i] >= 0 && (uint64_t)armed[i] <= end && (next < 0 || armed[i] < armed[next])) {
                next = (int)i;
            }
        }
        if (next < 0) {
            break;
        }
        now_ns = (uint64_t)armed[next] > now_ns ? (uint64_t)armed[next] : now_ns;
        armed[next] = -1;
        hpet_expired(&hpet, (unsigned)next);
    }
    now_ns = end;
}

static void test_counter(void **state)
{
    (void)state;
    assert_true(get(0x000) == UINT64_C(0x009896808086a201)); /* 10 ns, 64 bits, legacy routes, 3 timers */
    go(5000);
    assert_int_equal(get(0x0f0), 0);
    put(0x0f0, 1000);
    put(0x010, 1);
    go(5000);
    assert_int_equal(get(0x0f0), 1500);
    put(0x0f0, 0); /* not while it goes */
    assert_int_equal(get(0x0f0), 1500);
    put(0x010, 0);
    go(5000);
    assert_int_equal(get(0x0f0), 1500);
    hpet_write(&hpet, 0x0f4, 4, 2); /* its upper half alone */
    assert_true(get(0x0f0) == UINT64_C(0x2000005dc));
    assert_int_equal(hpet_read(&hpet, 0x0f4, 4), 2);
    assert_int_equal(hpet_read(&hpet, 0x0f1, 1), 0x05);
    put(0x000, 0);
    assert_int_equal(get(0x000) & 0xff, 1);
    assert_int_equal(get(0x3f8), 0);
}

static void test_one_shot(void **state)
{
    (void)state;
    put(0x010, 1);
    put(TN(0, 0), 18u << 9 | 0x4);
    assert_true(get(TN(0, 0)) == ((uint64_t)ROUTES << 32 | 18u << 9 | 0x34));
    put(TN(0, 8), 100000); /* 1 ms */
    go(999000);
    assert_int_equal(edges[18], 0);
    go(1000);
    assert_int_equal(edges[18], 1);
    assert_false(lines[18]); /* an edge */
    assert_int_equal(get(0x020), 0);
    go(100000000);
    assert_int_equal(edges[18], 1);
    put(TN(0, 8), get(0x0f0) + 5000);
    put(TN(0, 0), 18u << 9); /* switched off before */
    go(1000000);
    assert_int_equal(edges[18], 1);
}

static void test_periodic(void **state)
{
    (void)state;
    put(0x010, 1);
    put(TN(1, 0), 8u << 9 | 0x4c); /* periodic, VAL_SET */
    put(TN(1, 8), 200000);         /* 2 ms: the first */
    assert_int_equal(get(TN(1, 0)) & 0x40, 0);
    put(TN(1, 8), 100000); /* then each 1 ms */
    assert_int_equal(get(TN(1, 8)), 200000);
    go(1990000);
    assert_int_equal(edges[8], 0);
    go(10000);
    assert_int_equal(edges[8], 1);
    assert_int_equal(get(TN(1, 8)), 300000);
    go(10000000);
    assert_int_equal(edges[8], 11);
    /* Who was away for long gets one, and then the next in step. */
    now_ns += 5500000;
    go(0);
    assert_int_equal(edges[8], 12);
    go(500000);
    assert_int_equal(edges[8], 13);
    put(0x010, 0);
    go(10000000);
    assert_int_equal(edges[8], 13);
}

static void test_32_bits(void **state)
{
    (void)state;
    put(0x0f0, UINT64_C(0x1fffffff0));
    put(TN(2, 0), 20u << 9 | 0x104);
    put(TN(2, 8), UINT64_C(0xffffffff00000010)); /* its low half counts */
    assert_int_equal(get(TN(2, 8)), 0x10);
    put(0x010, 1);
    go(100);
    assert_int_equal(edges[20], 0);
    go(100000);
    assert_int_equal(edges[20], 1); /* beyond the turn */
}

static void test_level(void **state)
{
    (void)state;
    put(0x010, 1);
    put(TN(0, 0), 16u << 9 | 0x6);
    put(TN(0, 8), 10000);
    go(200000);
    assert_true(lines[16]);
    assert_int_equal(get(0x020), 1);
    hpet_write(&hpet, 0x020, 4, 0x6); /* others' */
    assert_true(lines[16]);
    put(TN(0, 0), 17u << 9 | 0x6); /* it moves with its line */
    assert_false(lines[16]);
    assert_true(lines[17]);
    hpet_write(&hpet, 0x020, 1, 0x1);
    assert_false(lines[17]);
    assert_int_equal(get(0x020), 0);
}

static void test_legacy(void **state)
{
    (void)state;
    put(TN(0, 0), 21u << 9 | 0x4);
    put(TN(1, 0), 22u << 9 | 0x4);
    put(TN(2, 0), 23u << 9 | 0x4);
    put(0x010, 3);
    assert_true(legacy);
    for (unsigned i = 0; i < HPET_TIMERS; i++) {
        put(TN(i, 8), 10000);
    }
    go(1000000);
    assert_int_equal(edges[0], 1);
    assert_int_equal(edges[8], 1);
    assert_int_equal(edges[23], 1); /* the third keeps its route */
    assert_int_equal(edges[21] + edges[22], 0);
    put(0x010, 1);
    assert_false(legacy);
}

/* Whatever is written: armed sanely (take_arm), and each expiry leaves a periodic timer in the future. */
static void test_random(void **state)
{
    (void)state;
    srand(1);
    for (unsigned i = 0; i < 200000; i++) {
        unsigned size = 1u << rand() % 4;
        unsigned offset = (unsigned)rand() % 0x180 & ~(size - 1);
        uint64_t value = rand() % 2 != 0 ? (uint64_t)rand() % 64 : (uint64_t)rand() << 33 ^ (uint64_t)rand();
        if (rand() % 2 != 0) {
            hpet_write(&hpet, offset, size, value);
        } else {
            hpet_read(&hpet, offset, size);
        }
        for (unsigned n = 0; n < HPET_TIMERS; n++) {
            if (armed[n] >= 0 && rand() % 4 == 0 && armed[n] < INT64_MAX / 4) {
                now_ns = (uint64_t)armed[n] > now_ns ? (uint64_t)armed[n] : now_ns;
                armed[n] = -1;
                hpet_expired(&hpet, n);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_counter, setup), cmocka_unit_test_setup(test_one_shot, setup), cmocka_unit_test_setup(test_periodic, setup),
        cmocka_unit_test_setup(test_32_bits, setup), cmocka_unit_test_setup(test_level, setup),    cmocka_unit_test_setup(test_legacy, setup),
        cmocka_unit_test_setup(test_random, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
