/* SPDX-License-Identifier: MIT */
/*
 * Flash memory's command machine: every command from every state, what is programmed and erased where, what a read-only chip and a failing
 * image answer, and the way by which EDK II tells a chip from RAM and ROM. At random: bytes change only by a program or an erase.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "dev/pflash.h"

#define SIZE (4 * PFLASH_BLOCK_BYTES)

static struct pflash flash;
static uint8_t bytes[SIZE], image[SIZE];
static bool array;
static unsigned modes;
static int failure;

static int take_changed(void *opaque, uint32_t offset, uint32_t size)
{
    (void)opaque;
    assert_true(offset < SIZE && size <= SIZE - offset && size != 0);
    if (failure == 0) {
        memcpy(image + offset, bytes + offset, size);
    }
    return failure;
}

static void take_mode(void *opaque, bool now)
{
    (void)opaque;
    assert_true(now != array); /* only when it changes */
    array = now;
    modes++;
}

static const struct pflash_backend backend = {.changed = take_changed, .mode = take_mode};

static void start(bool read_only)
{
    for (unsigned i = 0; i < SIZE; i++) {
        bytes[i] = image[i] = (uint8_t)(i * 7 + (i >> 8));
    }
    array = true;
    modes = 0;
    failure = 0;
    pflash_init(&flash, bytes, SIZE, read_only, &backend, NULL);
}

static int setup(void **state)
{
    (void)state;
    start(false);
    return 0;
}

static void put(uint32_t offset, uint8_t value)
{
    pflash_write(&flash, offset, 1, value);
}

static uint8_t get(uint32_t offset)
{
    return (uint8_t)pflash_read(&flash, offset, 1);
}

static void test_array(void **state)
{
    (void)state;
    assert_int_equal(pflash_read(&flash, 0x1000, 4), (uint32_t)bytes[0x1000] | (uint32_t)bytes[0x1001] << 8 | (uint32_t)bytes[0x1002] << 16 | (uint32_t)bytes[0x1003] << 24);
    put(0, 0xff);
    put(0, 0xf0);
    assert_int_equal(modes, 0);
    assert_memory_equal(bytes, image, SIZE);
}

/* EDK II, OvmfPkg/QemuFlashFvbServicesRuntimeDxe, QemuFlashDetected() */
static void test_detection(void **state)
{
    (void)state;
    uint32_t at = 0;
    while (bytes[at] == 0x50 || bytes[at] == 0x70 || bytes[at] == 0x00) {
        at++;
    }
    uint8_t original = get(at);
    put(at, 0x50);
    assert_int_not_equal(get(at), 0x50); /* not RAM */
    put(at, 0x70);
    assert_int_equal(get(at), 0x00); /* neither ROM nor RAM */
    put(at, original);
    put(at, 0xff);
    assert_int_equal(get(at), original);
    assert_true(array);
    assert_memory_equal(bytes, image, SIZE);
}

static void test_program(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        put(0x123, i == 0 ? 0x40 : 0x10);
        assert_int_equal(get(0x123), 0x80); /* a status, while it waits for the data */
        put(0x200 + i, 0x5a);
        assert_int_equal(get(0x0), 0x80);
        assert_int_equal(bytes[0x200 + i], 0x5a);
        assert_int_equal(image[0x200 + i], 0x5a); /* is down before the write is done */
    }
    put(0x300, 0x40);
    pflash_write(&flash, 0x300, 4, 0x44332211);
    assert_memory_equal(image + 0x300, "\x11\x22\x33\x44", 4);
    put(0, 0xff);
    assert_int_equal(get(0x200), 0x5a);
    assert_int_equal(modes, 2); /* away once, back once */
}

static void test_erase(void **state)
{
    (void)state;
    put(0x1abc, 0x20);
    put(0x1abc, 0xd0);
    assert_int_equal(get(0), 0x80);
    for (unsigned i = 0; i < SIZE; i++) {
        bool inside = i >= 0x1000 && i < 0x2000;
        assert_int_equal(bytes[i], inside ? 0xff : (uint8_t)(i * 7 + (i >> 8)));
        assert_int_equal(image[i], bytes[i]);
    }
    put(0x2000, 0x20);
    put(0x2000, 0x55); /* no confirmation */
    assert_int_equal(get(0), 0xb0);
    put(0, 0x50);
    put(0, 0x70);
    assert_int_equal(get(0), 0);
    assert_int_not_equal(bytes[0x2001], 0xff);
}

static void buffered(uint32_t at, unsigned count, uint8_t first)
{
    put(at, 0xe8);
    assert_int_equal(get(at) & 0x80, 0x80); /* a buffer is free */
    put(at, (uint8_t)(count - 1));
    for (unsigned i = 0; i < count; i++) {
        put(at + i, (uint8_t)(first + i));
    }
}

static void test_buffer(void **state)
{
    (void)state;
    buffered(0x1010, 16, 0x33);
    assert_memory_equal(bytes, image, SIZE);
    assert_int_not_equal(bytes[0x1010], 0x33); /* not before it is confirmed */
    put(0x1010, 0xd0);
    assert_int_equal(get(0), 0x80);
    for (unsigned i = 0; i < 16; i++) {
        assert_int_equal(image[0x1010 + i], 0x33 + i);
    }
    assert_int_equal(bytes[0x100f], (uint8_t)(0x100f * 7 + 0x10));
    buffered(0x2000, 256, 0);
    put(0x2000, 0xd0);
    assert_int_equal(image[0x20ff], 0xff);
    /* Without confirmation, and beyond the buffer's page, nothing is programmed. */
    memcpy(image, bytes, SIZE);
    buffered(0x3000, 4, 1);
    put(0x3000, 0xff);
    assert_int_equal(get(0), 0xb0);
    put(0, 0x50);
    buffered(0x30fe, 4, 1);
    put(0x30fe, 0xd0);
    assert_int_equal(get(0) & 0x30, 0x30);
    assert_memory_equal(bytes, image, SIZE);
}

static void test_read_only(void **state)
{
    (void)state;
    start(true);
    put(0x10, 0x40);
    put(0x10, 0x12);
    assert_int_equal(get(0), 0x90); /* program failed */
    put(0, 0x50);
    put(0x10, 0x20);
    put(0x10, 0xd0);
    assert_int_equal(get(0), 0xa0); /* erase failed */
    put(0, 0x50);
    buffered(0, 4, 1);
    put(0, 0xd0);
    assert_int_equal(get(0), 0x90);
    assert_memory_equal(bytes, image, SIZE);
}

static void test_failure(void **state)
{
    (void)state;
    failure = -EIO;
    put(0x10, 0x40);
    put(0x10, 0x12);
    assert_int_equal(get(0), 0x90);
    put(0x10, 0x20);
    put(0x10, 0xd0);
    assert_int_equal(get(0), 0xb0);
}

static void test_query(void **state)
{
    (void)state;
    put(0x55, 0x98);
    assert_int_equal(get(0x10), 'Q');
    assert_int_equal(get(0x11), 'R');
    assert_int_equal(get(0x12), 'Y');
    assert_int_equal(get(0x13), 1);
    assert_int_equal(get(0x27), 14); /* 16 KiB */
    assert_int_equal(get(0x2a), 8);
    assert_int_equal(get(0x2d) | get(0x2e) << 8, 3); /* four blocks */
    assert_int_equal(get(0x2f) | get(0x30) << 8, 16);
    assert_int_equal(get(get(0x15)), 'P');
    assert_int_equal(get(SIZE - 1), 0);
    put(0, 0x90);
    assert_int_equal(get(1), 0);
    put(0, 0x60);
    put(0, 0xd0);
    assert_int_equal(get(0), 0x80);
    put(0, 0x60);
    put(0, 0x33);
    assert_int_equal(get(0), 0xb0);
}

static void test_random(void **state)
{
    static const uint8_t commands[] = {0xff, 0x70, 0x50, 0x90, 0x98, 0x40, 0x10, 0xe8, 0x20, 0xd0, 0x60, 0x01, 0x03};
    (void)state;
    srand(1);
    for (unsigned i = 0; i < 300000; i++) {
        unsigned size = 1u << rand() % 4;
        uint32_t offset = (uint32_t)rand() % (SIZE - size + 1);
        uint64_t value = rand() % 4 != 0 ? commands[(unsigned)rand() % sizeof(commands)] : (uint64_t)rand();
        enum pflash_state before = flash.state;
        pflash_write(&flash, offset, size, value);
        bool may_change = before == PFLASH_PROGRAM || before == PFLASH_ERASE || before == PFLASH_BUFFER_CONFIRM;
        if (may_change || i % 64 == 0) {
            assert_memory_equal(bytes, image, SIZE); /* the backend has been told of all */
        }
        assert_int_equal(array, flash.state == PFLASH_ARRAY);
        pflash_read(&flash, offset, size);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_array, setup),     cmocka_unit_test_setup(test_detection, setup), cmocka_unit_test_setup(test_program, setup),
        cmocka_unit_test_setup(test_erase, setup),     cmocka_unit_test_setup(test_buffer, setup),    cmocka_unit_test_setup(test_read_only, setup),
        cmocka_unit_test_setup(test_failure, setup),   cmocka_unit_test_setup(test_query, setup),     cmocka_unit_test_setup(test_random, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
