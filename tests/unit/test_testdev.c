/* SPDX-License-Identifier: MIT */
/*
 * Devices of small test kernels: debug port, pvpanic, pc-testdev; on a bus, as a guest reaches them.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "bus/bus.h"
#include "dev/testdev.h"
#include "util/log.h"

#define PORT 0x402u

static struct bus ports;
static struct loop loop;
static char path[] = "/tmp/kage-testdev-XXXXXX";
static char text[4096];

static int setup(void **state)
{
    (void)state;
    int fd = mkstemp(strcpy(path, "/tmp/kage-testdev-XXXXXX"));
    if (fd < 0 || loop_init(&loop) != 0) {
        return -1;
    }
    close(fd);
    bus_init(&ports, "port", 0xffff);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    loop_fini(&loop);
    bus_fini(&ports);
    unlink(path);
    return 0;
}

static const char *slurp(void)
{
    FILE *stream = fopen(path, "r");
    assert_non_null(stream);
    size_t bytes = fread(text, 1, sizeof(text) - 1, stream);
    text[bytes] = '\0';
    fclose(stream);
    return text;
}

static void say(const char *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        bus_write(&ports, PORT, 1, (uint8_t)bytes[i]);
    }
}

static void test_debugcon_backend(void **state)
{
    struct debugcon debugcon;
    struct error error = {""};
    char spec[64];
    (void)state;
    snprintf(spec, sizeof(spec), "file:%s", path);
    struct chardev *chardev = chardev_new("-debugcon", spec, &loop, &error);
    assert_non_null(chardev);
    debugcon_init(&debugcon, chardev);
    assert_int_equal(bus_add(&ports, PORT, 1, &debugcon_ops, &debugcon), 0);
    assert_int_equal(bus_read(&ports, PORT, 1), 0xe9);
    say("one\r\n\001\xfftwo", 10); /* every byte as it is */
    chardev_free(chardev);
    assert_memory_equal(slurp(), "one\r\n\001\xfftwo", 10);
    assert_int_equal(strlen(text), 10);
    debugcon_fini(&debugcon);
}

/* Lines into the log: only what can be printed, and a line without end is cut. */
static void test_debugcon_log(void **state)
{
    struct debugcon debugcon;
    struct error error = {""};
    char longest[DEBUGCON_LINE_MAX + 1];
    (void)state;
    assert_int_equal(log_enable("firmware", &error), 0);
    assert_int_equal(log_open(path, &error), 0);
    debugcon_init(&debugcon, NULL);
    assert_int_equal(bus_add(&ports, PORT, 1, &debugcon_ops, &debugcon), 0);
    say("hello\033[2J\tworld\r\nhalf", 22);
    for (unsigned i = 0; i < 3 * DEBUGCON_LINE_MAX; i++) {
        say("x", 1);
        assert_true(debugcon.length <= DEBUGCON_LINE_MAX);
    }
    say("\n", 1);
    log_close();
    slurp();
    memset(longest, 'x', DEBUGCON_LINE_MAX);
    longest[DEBUGCON_LINE_MAX] = '\0';
    assert_non_null(strstr(text, "hello[2Jworld\n"));
    assert_non_null(strstr(text, "halfxxx"));
    assert_non_null(strstr(text, longest));
    assert_null(strchr(text, '\033'));
    debugcon_fini(&debugcon);
    log_mask = 0;
}

static enum power_event event;
static unsigned events;

static void take_power(void *opaque, enum power_event what, int status)
{
    (void)opaque;
    assert_int_equal(status, 0);
    event = what;
    events++;
}

static void test_pvpanic(void **state)
{
    struct pvpanic pvpanic = {.power = {.request = take_power}};
    (void)state;
    assert_int_equal(bus_add(&ports, 0x505, 1, &pvpanic_ops, &pvpanic), 0);
    assert_int_equal(bus_read(&ports, 0x505, 1), 0x03); /* the events that it knows */
    bus_write(&ports, 0x505, 1, 0xfc); /* none that is known */
    bus_write(&ports, 0x505, 1, 0);
    assert_int_equal(events, 0);
    bus_write(&ports, 0x505, 1, 0x02); /* a crash kernel runs: the machine goes on */
    assert_int_equal(events, 0);
    bus_write(&ports, 0x505, 1, 0x01);
    assert_int_equal(events, 1);
    assert_int_equal(event, POWER_OFF);
    bus_write(&ports, 0x505, 1, 0x03); /* once is enough */
    assert_int_equal(events, 1);
}

static uint32_t lines;

static void take_irq(void *opaque, uint32_t line, bool level)
{
    (void)opaque;
    lines = level ? lines | 1u << line : lines & ~(1u << line);
}

static void test_testdev(void **state)
{
    static struct testdev testdev;
    static struct bus memory;
    const struct irq irq = {.set = take_irq};
    (void)state;
    bus_init(&memory, "memory", UINT64_MAX);
    testdev_init(&testdev, &irq);
    assert_int_equal(bus_add(&ports, TESTDEV_IO_PORT, 4, &testdev_io_ops, &testdev), 0);
    assert_int_equal(bus_add(&ports, TESTDEV_FLUSH_PORT, 4, &testdev_flush_ops, &testdev), 0);
    assert_int_equal(bus_add(&ports, TESTDEV_BYTE_PORT, 4, &testdev_io_ops, &testdev), 0);
    assert_int_equal(bus_add(&ports, TESTDEV_IRQ_PORT, TESTDEV_IRQS, &testdev_irq_ops, &testdev), 0);
    assert_int_equal(bus_add(&memory, TESTDEV_MEM_GPA, TESTDEV_MEM_BYTES, &testdev_mem_ops, &testdev), 0);

    bus_write(&ports, 0xe0, 4, 0x12345678);
    assert_int_equal(bus_read(&ports, 0xe0, 4), 0x12345678);
    assert_int_equal(bus_read(&ports, 0xe1, 2), 0x3456);
    assert_int_equal(bus_read(&ports, 0xe3, 1), 0x12);
    bus_write(&ports, 0xe2, 1, 0xab);
    assert_int_equal(bus_read(&ports, 0xe8, 4), 0x12ab5678); /* the same four bytes */
    bus_write(&ports, 0xe8, 2, 0x55aa);
    assert_int_equal(bus_read(&ports, 0xe0, 4), 0x12ab55aa);
    bus_write(&ports, 0xe3, 2, 0); /* over the end: nobody's */
    assert_int_equal(bus_read(&ports, 0xe3, 1), 0x12);
    bus_write(&ports, 0xe4, 4, 0xfffff000);
    assert_int_equal(bus_read(&ports, 0xe4, 4), 0);

    for (unsigned i = 0; i < TESTDEV_IRQS; i++) {
        bus_write(&ports, TESTDEV_IRQ_PORT + i, 1, 1);
        assert_int_equal(lines, 1u << i);
        bus_write(&ports, TESTDEV_IRQ_PORT + i, 4, 0);
        if (i + 4 <= TESTDEV_IRQS) {
            assert_int_equal(lines, 0);
        }
        bus_write(&ports, TESTDEV_IRQ_PORT + i, 1, 0);
        assert_int_equal(lines, 0);
    }
    bus_write(&ports, TESTDEV_IRQ_PORT + TESTDEV_IRQS, 1, 1);
    assert_int_equal(lines, 0);

    bus_write(&memory, TESTDEV_MEM_GPA + TESTDEV_MEM_BYTES - 8, 8, 0x1122334455667788);
    assert_true(bus_read(&memory, TESTDEV_MEM_GPA + TESTDEV_MEM_BYTES - 8, 8) == 0x1122334455667788);
    assert_int_equal(bus_read(&memory, TESTDEV_MEM_GPA + TESTDEV_MEM_BYTES - 7, 1), 0x77);
    bus_write(&memory, TESTDEV_MEM_GPA + TESTDEV_MEM_BYTES - 4, 8, 0);
    assert_int_equal(bus_read(&memory, TESTDEV_MEM_GPA + TESTDEV_MEM_BYTES - 4, 4), 0x11223344);
    assert_int_equal(bus_read(&memory, TESTDEV_MEM_GPA, 4), 0);
    testdev_fini(&testdev);
    bus_fini(&memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_debugcon_backend, setup, teardown),
        cmocka_unit_test_setup_teardown(test_debugcon_log, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pvpanic, setup, teardown),
        cmocka_unit_test_setup_teardown(test_testdev, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
