/* SPDX-License-Identifier: MIT */
/*
 * The bus: which range answers, what an access becomes that none holds, and what cannot be added.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "bus/bus.h"

struct probe {
    uint64_t offset;
    unsigned size;
    uint64_t value;
    unsigned reads;
    unsigned writes;
};

static uint64_t probe_read(void *self, uint64_t offset, unsigned size)
{
    struct probe *probe = self;
    probe->offset = offset;
    probe->size = size;
    probe->reads++;
    return probe->value;
}

static void probe_write(void *self, uint64_t offset, unsigned size, uint64_t value)
{
    struct probe *probe = self;
    probe->offset = offset;
    probe->size = size;
    probe->value = value;
    probe->writes++;
}

static const struct device_ops probe_ops = {.name = "probe", .read = probe_read, .write = probe_write};

static void test_dispatch(void **state)
{
    static struct bus bus;
    struct probe a = {0};
    struct probe b = {0};
    struct probe c = {0};
    (void)state;
    bus_init(&bus, "port", 0xffff);
    /* Not in the order of their addresses. */
    assert_int_equal(bus_add(&bus, 0x3f8, 8, &probe_ops, &b), 0);
    assert_int_equal(bus_add(&bus, 0x60, 1, &probe_ops, &a), 0);
    assert_int_equal(bus_add(&bus, 0xfff0, 16, &probe_ops, &c), 0);

    bus_write(&bus, 0x3fd, 1, 0x55);
    assert_int_equal(b.writes, 1);
    assert_int_equal(b.offset, 5);
    assert_int_equal(b.value, 0x55);
    bus_write(&bus, 0x60, 1, 1);
    assert_int_equal(a.writes, 1);
    assert_int_equal(a.offset, 0);
    bus_write(&bus, 0xffff, 1, 2); /* the last port of all */
    assert_int_equal(c.writes, 1);
    assert_int_equal(c.offset, 15);

    a.value = UINT64_MAX;
    assert_int_equal(bus_read(&bus, 0x60, 1), 0xff); /* cut to the access */
    b.value = 0x12345678;
    assert_int_equal(bus_read(&bus, 0x3f8, 2), 0x5678);
    assert_int_equal(b.size, 2);
}

static void test_float(void **state)
{
    static struct bus bus;
    struct probe a = {.value = 7};
    (void)state;
    bus_init(&bus, "port", 0xffff);
    assert_int_equal(bus_read(&bus, 0x80, 1), 0xff);
    assert_int_equal(bus_add(&bus, 0x100, 4, &probe_ops, &a), 0);
    assert_int_equal(bus_read(&bus, 0xff, 1), 0xff);
    assert_int_equal(bus_read(&bus, 0x104, 4), 0xffffffff);
    assert_int_equal(bus_read(&bus, 0x102, 4), 0xffffffff); /* half in the range: nobody's */
    assert_int_equal(bus_read(&bus, 0xfe, 4), 0xffffffff);
    bus_write(&bus, 0x103, 2, 0);
    assert_int_equal(a.reads + a.writes, 0);
    assert_int_equal(bus_read(&bus, 0x100, 4), 7);
    assert_int_equal(bus_read(&bus, 0x102, 2), 7); /* found by the range hit last */
    assert_true(bus_read(&bus, 0x200, 8) == UINT64_MAX);
}

static void test_refused(void **state)
{
    static struct bus bus;
    struct probe a = {0};
    (void)state;
    bus_init(&bus, "port", 0xffff);
    assert_int_equal(bus_add(&bus, 0x100, 0x10, &probe_ops, &a), 0);
    assert_int_equal(bus_add(&bus, 0x10f, 1, &probe_ops, &a), -EEXIST);
    assert_int_equal(bus_add(&bus, 0xff, 2, &probe_ops, &a), -EEXIST);
    assert_int_equal(bus_add(&bus, 0x0, 0x1000, &probe_ops, &a), -EEXIST);
    assert_int_equal(bus_add(&bus, 0x108, 2, &probe_ops, &a), -EEXIST);
    assert_int_equal(bus_add(&bus, 0x200, 0, &probe_ops, &a), -EINVAL);
    assert_int_equal(bus_add(&bus, 0xffff, 2, &probe_ops, &a), -EINVAL);
    assert_int_equal(bus_add(&bus, 0x10000, 1, &probe_ops, &a), -EINVAL);
    assert_int_equal(bus_add(&bus, 0x110, 1, &probe_ops, &a), 0);
    assert_int_equal(bus.count, 2);
    for (unsigned i = 2; i < BUS_RANGES_MAX; i++) {
        assert_int_equal(bus_add(&bus, 0x1000 + i, 1, &probe_ops, &a), 0);
    }
    assert_int_equal(bus_add(&bus, 0x5000, 1, &probe_ops, &a), -ENOSPC);
}

static void test_memory_edges(void **state)
{
    static struct bus bus;
    struct probe a = {.value = 9};
    (void)state;
    bus_init(&bus, "memory", UINT64_MAX);
    assert_int_equal(bus_add(&bus, UINT64_MAX - 7, 8, &probe_ops, &a), 0);
    assert_int_equal(bus_read(&bus, UINT64_MAX - 7, 8), 9);
    assert_true(bus_read(&bus, UINT64_MAX - 3, 8) == UINT64_MAX); /* wraps */
    assert_true(bus_read(&bus, 0, 8) == UINT64_MAX);
    assert_int_equal(a.reads, 1);
}

/* A range goes and comes elsewhere while others stay; what is not the start of one goes not. */
static void test_move(void **state)
{
    static struct bus bus;
    struct probe a = {.value = 1}, b = {.value = 2}, c = {.value = 3};
    (void)state;
    bus_init(&bus, "port", 0xffff);
    assert_int_equal(bus_add(&bus, 0x100, 4, &probe_ops, &a), 0);
    assert_int_equal(bus_add(&bus, 0x200, 4, &probe_ops, &b), 0);
    assert_int_equal(bus_add(&bus, 0x300, 4, &probe_ops, &c), 0);
    bus_remove(&bus, 0x202);
    bus_remove(&bus, 0x1ff);
    bus_remove(&bus, 0);
    bus_remove(&bus, 0xffff);
    assert_int_equal(bus.count, 3);
    bus_remove(&bus, 0x200);
    assert_int_equal(bus.count, 2);
    assert_int_equal(bus_read(&bus, 0x200, 1), 0xff);
    assert_int_equal(bus_read(&bus, 0x100, 1), 1);
    assert_int_equal(bus_read(&bus, 0x300, 1), 3);
    assert_int_equal(bus_add(&bus, 0x80, 4, &probe_ops, &b), 0);
    assert_int_equal(bus_read(&bus, 0x80, 1), 2);
    bus_remove(&bus, 0x300); /* the last */
    bus_remove(&bus, 0x80);  /* the first */
    bus_remove(&bus, 0x100);
    bus_remove(&bus, 0x100);
    assert_int_equal(bus.count, 0);
    assert_int_equal(bus_read(&bus, 0x100, 1), 0xff);
    for (unsigned n = 0; n < 3 * BUS_RANGES_MAX; n++) { /* places are free again */
        assert_int_equal(bus_add(&bus, n, 1, &probe_ops, &a), 0);
        bus_remove(&bus, n);
    }
    bus_fini(&bus);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dispatch),
        cmocka_unit_test(test_float),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_memory_edges),
        cmocka_unit_test(test_move),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
