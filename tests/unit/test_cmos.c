/* SPDX-License-Identifier: MIT */
/*
 * The real-time clock under a clock that the test turns: calendar, formats, SET, UIP, flags, alarms.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdbool.h>
#include <string.h>
#include <cmocka.h>

#include "dev/cmos.h"

#define SECOND INT64_C(1000000000)
/* 2026-11-23 21:58:59 UTC, a Monday. */
#define START INT64_C(1795471139)

struct fake {
    struct cmos cmos;
    int64_t now_ns;
    bool irq;
};

static int64_t fake_now(void *opaque)
{
    const struct fake *fake = opaque;
    return fake->now_ns;
}

static void fake_irq(void *opaque, bool level)
{
    struct fake *fake = opaque;
    assert_true(level != fake->irq);
    fake->irq = level;
}

static const struct cmos_backend fake_backend = {fake_now, fake_irq};

static int setup(void **state)
{
    static struct fake fake;
    memset(&fake, 0, sizeof(fake));
    fake.now_ns = START * SECOND;
    cmos_init(&fake.cmos, &fake_backend, &fake);
    *state = &fake;
    return 0;
}

static uint8_t get(struct fake *fake, uint8_t index)
{
    cmos_write(&fake->cmos, 0, index);
    return cmos_read(&fake->cmos, 1);
}

static void put(struct fake *fake, uint8_t index, uint8_t value)
{
    cmos_write(&fake->cmos, 0, index);
    cmos_write(&fake->cmos, 1, value);
}

static void test_calendar(void **state)
{
    struct fake *fake = *state;
    static const uint8_t bcd[][2] = {{0, 0x59}, {2, 0x58}, {4, 0x21}, {6, 2}, {7, 0x23}, {8, 0x11}, {9, 0x26}, {0x32, 0x20}};
    for (unsigned i = 0; i < sizeof(bcd) / sizeof(bcd[0]); i++) {
        assert_int_equal(get(fake, bcd[i][0]), bcd[i][1]);
    }
    put(fake, 0x0b, 0x06); /* binary, 24 hours */
    assert_int_equal(get(fake, 0), 59);
    assert_int_equal(get(fake, 4), 21);
    assert_int_equal(get(fake, 9), 26);
    put(fake, 0x0b, 0x00); /* BCD, 12 hours */
    assert_int_equal(get(fake, 4), 0x89);
    fake->now_ns += 3 * 3600 * SECOND; /* past midnight */
    assert_int_equal(get(fake, 4), 0x12);
    assert_int_equal(get(fake, 7), 0x24);
    assert_int_equal(get(fake, 0x0d), 0x80);
    assert_int_equal(get(fake, 0x80 | 0x0d), 0x80); /* the NMI mask is not part of the index */
}

static void test_set_time(void **state)
{
    struct fake *fake = *state;
    put(fake, 0x0b, 0x82); /* SET: the registers stand */
    static const uint8_t time[][2] = {{0, 0x58}, {2, 0x59}, {4, 0x23}, {7, 0x31}, {8, 0x12}, {9, 0x99}, {0x32, 0x20}};
    for (unsigned i = 0; i < sizeof(time) / sizeof(time[0]); i++) {
        put(fake, time[i][0], time[i][1]);
    }
    fake->now_ns += 100 * SECOND;
    assert_int_equal(get(fake, 0), 0x58);
    put(fake, 0x0b, 0x02);
    assert_int_equal(get(fake, 0), 0x58);
    fake->now_ns += 3 * SECOND;
    assert_int_equal(get(fake, 0), 0x01);
    assert_int_equal(get(fake, 4), 0x00);
    assert_int_equal(get(fake, 7), 0x01);
    assert_int_equal(get(fake, 9), 0x00);
    assert_int_equal(get(fake, 0x32), 0x21);
}

/* Any byte in any register: time may be nonsense, but it goes on, and reads stay in the format. */
static void test_hostile_time(void **state)
{
    struct fake *fake = *state;
    for (unsigned value = 0; value < 256; value++) {
        put(fake, 0x0b, (uint8_t)(value & 0x07));
        for (uint8_t index = 0; index <= 9; index++) {
            put(fake, index, (uint8_t)value);
        }
        put(fake, 0x32, (uint8_t)value);
        fake->now_ns += SECOND;
        put(fake, 0x0b, 0x06);
        assert_true(get(fake, 0) < 60);
        assert_true(get(fake, 2) < 60);
        assert_true(get(fake, 4) < 24);
    }
}

static void test_update_in_progress(void **state)
{
    struct fake *fake = *state;
    assert_int_equal(get(fake, 0x0a), 0x26);
    fake->now_ns += SECOND - 200000;
    assert_int_equal(get(fake, 0x0a), 0xa6);
    fake->now_ns += 200000;
    assert_int_equal(get(fake, 0x0a), 0x26);
}

static void test_update_flag(void **state)
{
    struct fake *fake = *state;
    put(fake, 0x0a, 0x20); /* no periodic rate */
    get(fake, 0x0c);
    assert_int_equal(get(fake, 0x0c), 0);
    fake->now_ns += SECOND;
    assert_int_equal(get(fake, 0x0c) & 0x10, 0x10);
    assert_int_equal(get(fake, 0x0c), 0);
    assert_int_equal(cmos_next_ns(&fake->cmos), -1);
    put(fake, 0x0b, 0x12); /* UIE */
    fake->now_ns += SECOND / 4;
    assert_int_equal(cmos_next_ns(&fake->cmos), SECOND * 3 / 4);
    fake->now_ns += SECOND * 3 / 4;
    cmos_update(&fake->cmos);
    assert_true(fake->irq);
    assert_int_equal(get(fake, 0x0c) & 0x90, 0x90);
    assert_false(fake->irq);
}

static void test_periodic(void **state)
{
    struct fake *fake = *state;
    put(fake, 0x0a, 0x26); /* 1024 Hz */
    put(fake, 0x0b, 0x42);
    get(fake, 0x0c);
    int64_t next_ns = cmos_next_ns(&fake->cmos);
    assert_true(next_ns > 0 && next_ns <= SECOND / 1024 + 1);
    fake->now_ns += next_ns;
    cmos_update(&fake->cmos);
    assert_true(fake->irq);
    assert_int_equal(get(fake, 0x0c) & 0xc0, 0xc0);
    cmos_reset(&fake->cmos);
    fake->now_ns += SECOND;
    cmos_update(&fake->cmos);
    assert_false(fake->irq);
}

static void test_alarm(void **state)
{
    struct fake *fake = *state;
    put(fake, 0x0a, 0x20);
    put(fake, 1, 0x05);
    put(fake, 3, 0x59);
    put(fake, 5, 0x21); /* 21:59:05, in six seconds */
    put(fake, 0x0b, 0x22);
    get(fake, 0x0c);
    assert_int_equal(cmos_next_ns(&fake->cmos), 6 * SECOND);
    fake->now_ns += 5 * SECOND;
    cmos_update(&fake->cmos);
    assert_false(fake->irq);
    fake->now_ns += 3 * SECOND; /* looked at too late: it counts all the same */
    cmos_update(&fake->cmos);
    assert_true(fake->irq);
    assert_int_equal(get(fake, 0x0c) & 0xa0, 0xa0);
    put(fake, 3, 0xff); /* any minute, any hour */
    put(fake, 5, 0xc0);
    assert_int_equal(cmos_next_ns(&fake->cmos), 58 * SECOND);
    put(fake, 1, 0x77); /* never */
    assert_int_equal(cmos_next_ns(&fake->cmos), -1);
}

static void test_memory_size(void **state)
{
    struct fake *fake = *state;
    cmos_set_memory(&fake->cmos, UINT64_C(0xc0000000), UINT64_C(5) << 30);
    assert_int_equal(get(fake, 0x15) | get(fake, 0x16) << 8, 640);
    assert_int_equal(get(fake, 0x17) | get(fake, 0x18) << 8, 0xffff);
    assert_int_equal(get(fake, 0x34) | get(fake, 0x35) << 8, (0xc0000000 - 0x1000000) >> 16);
    assert_int_equal(get(fake, 0x5b) | get(fake, 0x5c) << 8 | get(fake, 0x5d) << 16, (UINT64_C(5) << 30) >> 16);
}

/* Below 16 MiB, and what firmware reads besides of memory's size. */
static void test_firmware_bytes(void **state)
{
    struct fake *fake = *state;
    cmos_set_memory(&fake->cmos, UINT64_C(8) << 20, 0);
    assert_int_equal(get(fake, 0x17) | get(fake, 0x18) << 8, 7 << 10);
    assert_int_equal(get(fake, 0x30) | get(fake, 0x31) << 8, 7 << 10);
    assert_int_equal(get(fake, 0x34) | get(fake, 0x35) << 8, 0);
    assert_int_equal(get(fake, 0x5b) | get(fake, 0x5c) | get(fake, 0x5d), 0);
    cmos_set_boot(&fake->cmos, 64, "nxd");
    assert_int_equal(get(fake, 0x3d), 0x34);
    assert_int_equal(get(fake, 0x38), 0);
    cmos_set_boot(&fake->cmos, 64, "cdna");
    assert_int_equal(get(fake, 0x5f), 63);
    assert_int_equal(get(fake, 0x3d), 0x32);
    assert_int_equal(get(fake, 0x38), 0x40);
    cmos_reset(&fake->cmos);
    assert_int_equal(get(fake, 0x5f), 63); /* a battery keeps them */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_calendar, setup),
        cmocka_unit_test_setup(test_set_time, setup),
        cmocka_unit_test_setup(test_hostile_time, setup),
        cmocka_unit_test_setup(test_update_in_progress, setup),
        cmocka_unit_test_setup(test_update_flag, setup),
        cmocka_unit_test_setup(test_periodic, setup),
        cmocka_unit_test_setup(test_alarm, setup),
        cmocka_unit_test_setup(test_memory_size, setup),
        cmocka_unit_test_setup(test_firmware_bytes, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
