/* SPDX-License-Identifier: MIT */
/*
 * The 16550A against the data sheet (PC16550D) and against what Linux's 8250 driver probes for, with a
 * fake line and a fake backend.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdbool.h>
#include <string.h>
#include <cmocka.h>

#include "dev/uart16550.h"

enum { RBR = 0, THR = 0, IER = 1, IIR = 2, FCR = 2, LCR = 3, MCR = 4, LSR = 5, MSR = 6, SCR = 7 };

struct fake {
    struct uart16550 uart;
    bool irq;
    unsigned raised;
    bool full; /* the backend takes nothing */
    char out[64];
    size_t out_count;
    const char *in;
};

static void fake_irq(void *opaque, bool level)
{
    struct fake *fake = opaque;
    assert_true(level != fake->irq); /* told of changes only */
    fake->irq = level;
    fake->raised += level;
}

static bool fake_transmit(void *opaque, uint8_t byte)
{
    struct fake *fake = opaque;
    if (fake->full) {
        return false;
    }
    assert_true(fake->out_count < sizeof(fake->out));
    fake->out[fake->out_count++] = (char)byte;
    return true;
}

static size_t fake_receive(void *opaque, uint8_t *bytes, size_t room)
{
    struct fake *fake = opaque;
    size_t count = 0;
    while (count < room && fake->in != NULL && *fake->in != '\0') {
        bytes[count++] = (uint8_t)*fake->in++;
    }
    return count;
}

static const struct uart16550_backend fake_backend = {fake_irq, fake_transmit, fake_receive};

static int setup(void **state)
{
    static struct fake fake;
    memset(&fake, 0, sizeof(fake));
    uart16550_init(&fake.uart, &fake_backend, &fake);
    *state = &fake;
    return 0;
}

static void give(struct fake *fake, const char *text)
{
    fake->in = text;
    uart16550_pump(&fake->uart);
}

static void test_power_on(void **state)
{
    struct fake *fake = *state;
    assert_int_equal(uart16550_read(&fake->uart, IER), 0);
    assert_int_equal(uart16550_read(&fake->uart, IIR), 0x01);
    assert_int_equal(uart16550_read(&fake->uart, LSR), 0x60);
    assert_int_equal(uart16550_read(&fake->uart, MSR), 0xb0); /* CTS, DSR, DCD: a peer is there */
    assert_int_equal(uart16550_read(&fake->uart, RBR), 0);
    assert_false(fake->irq);
}

/* serial8250 autoconfig(): IER keeps four bits, FCR 1 shows both FIFO bits, SCR is storage. */
static void test_probe(void **state)
{
    struct fake *fake = *state;
    uart16550_write(&fake->uart, IER, 0xff);
    assert_int_equal(uart16550_read(&fake->uart, IER), 0x0f);
    uart16550_write(&fake->uart, IER, 0);
    uart16550_write(&fake->uart, FCR, 0x01);
    assert_int_equal(uart16550_read(&fake->uart, IIR) & 0xc0, 0xc0);
    uart16550_write(&fake->uart, FCR, 0x00);
    assert_int_equal(uart16550_read(&fake->uart, IIR) & 0xc0, 0);
    uart16550_write(&fake->uart, SCR, 0xa5);
    assert_int_equal(uart16550_read(&fake->uart, SCR), 0xa5);
    uart16550_write(&fake->uart, LCR, 0x80);
    uart16550_write(&fake->uart, 0, 0x34);
    uart16550_write(&fake->uart, 1, 0x12);
    assert_int_equal(uart16550_read(&fake->uart, 0), 0x34);
    assert_int_equal(uart16550_read(&fake->uart, 1), 0x12);
    uart16550_write(&fake->uart, LCR, 0x03);
    assert_int_equal(uart16550_read(&fake->uart, IER), 0); /* the divisor's place is not IER */
    assert_int_equal(fake->out_count, 0);
}

static void test_transmit(void **state)
{
    struct fake *fake = *state;
    uart16550_write(&fake->uart, THR, 'h');
    uart16550_write(&fake->uart, THR, 'i');
    assert_int_equal(fake->out_count, 2);
    assert_memory_equal(fake->out, "hi", 2);
    assert_int_equal(uart16550_read(&fake->uart, LSR), 0x60);
}

/* serial8250_do_startup(): enabling THRI with an empty THR interrupts each time; reading IIR clears it. */
static void test_thre_interrupt(void **state)
{
    struct fake *fake = *state;
    for (unsigned i = 0; i < 2; i++) {
        uart16550_write(&fake->uart, IER, 0x02);
        assert_true(fake->irq);
        assert_int_equal(uart16550_read(&fake->uart, IIR) & 0x0f, 0x02);
        assert_false(fake->irq);
        assert_int_equal(uart16550_read(&fake->uart, IIR) & 0x0f, 0x01);
        uart16550_write(&fake->uart, IER, 0x00);
    }
    uart16550_write(&fake->uart, IER, 0x02);
    uart16550_read(&fake->uart, IIR);
    unsigned raised = fake->raised;
    for (unsigned i = 0; i < 16; i++) {
        uart16550_write(&fake->uart, THR, 'x');
    }
    assert_int_equal(fake->raised, raised + 1); /* one edge for a whole burst */
    assert_true(fake->irq);
}

static void test_receive(void **state)
{
    struct fake *fake = *state;
    uart16550_write(&fake->uart, FCR, 0x81); /* FIFO, trigger level 8 */
    uart16550_write(&fake->uart, IER, 0x01);
    give(fake, "abc");
    assert_true(fake->irq);
    assert_int_equal(uart16550_read(&fake->uart, IIR), 0xcc); /* below the level: time-out */
    assert_int_equal(uart16550_read(&fake->uart, LSR), 0x61);
    assert_int_equal(uart16550_read(&fake->uart, RBR), 'a');
    assert_int_equal(uart16550_read(&fake->uart, RBR), 'b');
    assert_true(fake->irq);
    assert_int_equal(uart16550_read(&fake->uart, RBR), 'c');
    assert_false(fake->irq);
    assert_int_equal(uart16550_read(&fake->uart, LSR), 0x60);
    give(fake, "0123456789");
    assert_int_equal(uart16550_read(&fake->uart, IIR), 0xc4);
}

/* More than the FIFO holds waits in the backend; nothing is lost, with and without the FIFO. */
static void test_receive_all(void **state)
{
    static const char text[] = "the quick brown fox jumps over the lazy dog";
    for (unsigned fifo = 0; fifo < 2; fifo++) {
        struct fake *fake = *state;
        uart16550_write(&fake->uart, FCR, (uint8_t)fifo);
        give(fake, text);
        for (size_t i = 0; i + 1 < sizeof(text); i++) {
            assert_int_equal(uart16550_read(&fake->uart, LSR) & 0x03, 0x01); /* data, no overrun */
            assert_int_equal(uart16550_read(&fake->uart, RBR), text[i]);
        }
        assert_int_equal(uart16550_read(&fake->uart, LSR) & 0x01, 0);
    }
}

static void test_backpressure(void **state)
{
    struct fake *fake = *state;
    uart16550_write(&fake->uart, FCR, 0x01);
    fake->full = true;
    for (unsigned i = 0; i < 16; i++) {
        uart16550_write(&fake->uart, THR, (uint8_t)('a' + i));
    }
    assert_int_equal(uart16550_read(&fake->uart, LSR) & 0x60, 0);
    uart16550_write(&fake->uart, IER, 0x02);
    assert_false(fake->irq);
    fake->full = false;
    uart16550_pump(&fake->uart);
    assert_int_equal(fake->out_count, 16);
    assert_memory_equal(fake->out, "abcdefghijklmnop", 16);
    assert_int_equal(uart16550_read(&fake->uart, LSR) & 0x60, 0x60);
    assert_true(fake->irq);
}

static void test_loopback(void **state)
{
    struct fake *fake = *state;
    uart16550_write(&fake->uart, MCR, 0x10 | 0x0a); /* LOOP, RTS, OUT2: Linux's test of MSR */
    assert_int_equal(uart16550_read(&fake->uart, MSR) & 0xf0, 0x90);
    uart16550_write(&fake->uart, THR, 'L');
    assert_int_equal(fake->out_count, 0);
    assert_int_equal(uart16550_read(&fake->uart, RBR), 'L');
    uart16550_write(&fake->uart, THR, '1');
    uart16550_write(&fake->uart, THR, '2'); /* no FIFO: one byte of room */
    assert_int_equal(uart16550_read(&fake->uart, LSR) & 0x02, 0x02);
    assert_int_equal(uart16550_read(&fake->uart, LSR) & 0x02, 0); /* cleared by reading */
    uart16550_read(&fake->uart, MSR);
    uart16550_write(&fake->uart, IER, 0x08);
    uart16550_write(&fake->uart, MCR, 0x10 | 0x08);
    assert_int_equal(uart16550_read(&fake->uart, MSR) & 0x0f, 0x01); /* CTS has changed */
    assert_int_equal(uart16550_read(&fake->uart, MSR) & 0x0f, 0);
}

static void test_out2_gates(void **state)
{
    struct fake *fake = *state;
    uart16550_write(&fake->uart, MCR, 0x00);
    uart16550_write(&fake->uart, IER, 0x02);
    assert_false(fake->irq);
    uart16550_write(&fake->uart, MCR, 0x08);
    assert_true(fake->irq);
    uart16550_reset(&fake->uart);
    assert_false(fake->irq);
}

static void test_fifo_clear(void **state)
{
    struct fake *fake = *state;
    uart16550_write(&fake->uart, FCR, 0x01);
    give(fake, "abc");
    uart16550_write(&fake->uart, FCR, 0x03);
    assert_int_equal(uart16550_read(&fake->uart, LSR) & 0x01, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_power_on, setup),     cmocka_unit_test_setup(test_probe, setup),
        cmocka_unit_test_setup(test_transmit, setup),     cmocka_unit_test_setup(test_thre_interrupt, setup),
        cmocka_unit_test_setup(test_receive, setup),      cmocka_unit_test_setup(test_receive_all, setup),
        cmocka_unit_test_setup(test_backpressure, setup), cmocka_unit_test_setup(test_loopback, setup),
        cmocka_unit_test_setup(test_out2_gates, setup),   cmocka_unit_test_setup(test_fifo_clear, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
