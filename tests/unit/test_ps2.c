/* SPDX-License-Identifier: MIT */
/*
 * The keyboard and the mouse behind the keyboard controller, as a driver finds them at ports 0x60 and 0x64: commands and their answers, what a
 * user does in each set of scan codes and each kind of mouse, what is not fetched in time, and a driver that writes anything.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <linux/input-event-codes.h>
#include <string.h>

#include "dev/i8042.h"
#include "util/loop.h"

static struct i8042 i8042;
static struct loop loop;
static bool lines[I8042_PORTS];
static unsigned edges[I8042_PORTS], resets;
static bool stop_at_irq;

static void take_power(void *opaque, enum power_event what, int code)
{
    (void)opaque;
    (void)code;
    resets += what == POWER_RESET;
}

static void take_irq(void *opaque, uint32_t number, bool level)
{
    (void)opaque;
    assert_int_not_equal(lines[number], level);
    lines[number] = level;
    edges[number] += level;
    if (stop_at_irq && level) {
        loop_stop(&loop);
    }
}

static const struct power power = {.request = take_power};
static const struct irq irqs[I8042_PORTS] = {{.set = take_irq, .line = 0}, {.set = take_irq, .line = 1}};

static void command(uint8_t value)
{
    i8042_command_ops.write(&i8042, 0, 1, value);
}

static void data(uint8_t value)
{
    i8042_data_ops.write(&i8042, 0, 1, value);
}

static void set_ctr(uint8_t value)
{
    command(0x60);
    data(value);
}

static uint8_t status(void)
{
    return (uint8_t)i8042_command_ops.read(&i8042, 0, 1);
}

/* All that there is to be read, which is one device's. */
static unsigned fetch(uint8_t *bytes, unsigned room, bool mouse)
{
    unsigned count = 0;
    while ((status() & 0x01) != 0) {
        assert_int_equal(status() & 0x60, mouse ? 0x20 : 0);
        assert_true(count < room);
        bytes[count++] = (uint8_t)i8042_data_ops.read(&i8042, 0, 1);
    }
    return count;
}

static void expect_bytes(const uint8_t *expected, unsigned count, bool mouse)
{
    uint8_t got[256];
    assert_int_equal(fetch(got, sizeof(got), mouse), count);
    assert_memory_equal(got, expected, count);
}
#define EXPECT(mouse, ...) expect_bytes((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}), mouse)
#define NOTHING() assert_int_equal(status() & 0x01, 0)

static void to_mouse(uint8_t value)
{
    command(0xd4);
    data(value);
}

static void key(unsigned code, bool down)
{
    struct input_event event = {.kind = INPUT_KEY, .code = (uint16_t)code, .value = down};
    i8042.sinks[I8042_KEYBOARD].event(&i8042, &event);
}

static void pointer(enum input_kind kind, unsigned code, int value)
{
    struct input_event event = {.kind = kind, .code = (uint16_t)code, .value = value};
    i8042.sinks[I8042_MOUSE].event(&i8042, &event);
}

static void moved(void)
{
    i8042.sinks[I8042_MOUSE].sync(&i8042);
}

static int setup(void **state)
{
    (void)state;
    memset(lines, 0, sizeof(lines));
    memset(edges, 0, sizeof(edges));
    resets = 0;
    stop_at_irq = false;
    i8042_init(&i8042, irqs, &power);
    i8042_plug(&i8042, NULL);
    set_ctr(0x03); /* both interrupts, both ports, no translation */
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    i8042_fini(&i8042);
    return 0;
}

static void test_commands(void **state)
{
    static const struct {
        uint8_t sent[3], sent_bytes, answers[4], bytes;
    } rows[] = {
        {{0xff}, 1, {0xfa, 0xaa}, 2},
        {{0xed, 0x02}, 2, {0xfa, 0xfa}, 2},
        {{0xf0, 0x02}, 2, {0xfa, 0xfa}, 2},
        {{0xf4}, 1, {0xfa}, 1},
        {{0xf0, 0x00}, 2, {0xfa, 0xfa, 0x02}, 3},
        {{0xf2}, 1, {0xfa, 0xab, 0x83}, 3},
        {{0xee}, 1, {0xee}, 1},
        {{0xed, 0xed, 0x01}, 3, {0xfa, 0xfa, 0xfa}, 3}, /* a command where a parameter was due */
        {{0xf0, 0x04}, 2, {0xfa, 0xfe}, 2},             /* there is no such set */
        {{0xf3, 0x00}, 2, {0xfa, 0xfa}, 2},
        {{0x00}, 1, {0xfe}, 1},
        {{0xf5}, 1, {0xfa}, 1},
    };
    (void)state;
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        uint8_t got[8];
        unsigned count = 0;
        for (unsigned j = 0; j < rows[i].sent_bytes; j++) {
            data(rows[i].sent[j]);
            count += fetch(got + count, (unsigned)sizeof(got) - count, false);
        }
        assert_int_equal(count, rows[i].bytes);
        assert_memory_equal(got, rows[i].answers, count);
    }
    assert_int_equal(i8042.keyboard.leds, INPUT_LED_SCROLL);
    /* What was not fetched goes with the next command. */
    data(0xf2);
    data(0xee);
    EXPECT(false, 0xee);
    data(0xfe);
    EXPECT(false, 0xee);
    assert_int_equal(resets, 0);
}

static void test_sets(void **state)
{
    (void)state;
    key(KEY_A, true);
    key(KEY_A, true); /* who types repeats it */
    key(KEY_A, false);
    EXPECT(false, 0x1c, 0x1c, 0xf0, 0x1c);
    key(KEY_RIGHTCTRL, true);
    key(KEY_RIGHTCTRL, false);
    EXPECT(false, 0xe0, 0x14, 0xe0, 0xf0, 0x14);
    key(KEY_F7, true);
    key(KEY_F7, false);
    EXPECT(false, 0x83, 0xf0, 0x83);
    key(KEY_PAUSE, true);
    key(KEY_PAUSE, false);
    EXPECT(false, 0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77);
    key(KEY_SYSRQ, true);
    key(KEY_SYSRQ, false);
    EXPECT(false, 0xe0, 0x12, 0xe0, 0x7c, 0xe0, 0xf0, 0x7c, 0xe0, 0xf0, 0x12);
    key(KEY_A, false); /* is up already */
    key(KEY_MAX, true);
    NOTHING();

    data(0xf0);
    EXPECT(false, 0xfa);
    data(0x01);
    EXPECT(false, 0xfa);
    key(KEY_A, true);
    key(KEY_A, false);
    key(KEY_UP, true);
    key(KEY_UP, false);
    EXPECT(false, 0x1e, 0x9e, 0xe0, 0x48, 0xe0, 0xc8);

    data(0xf0);
    EXPECT(false, 0xfa);
    data(0x03);
    EXPECT(false, 0xfa);
    key(KEY_A, true);
    key(KEY_A, true);
    key(KEY_A, false); /* letters repeat, and are not broken */
    key(KEY_LEFTSHIFT, true);
    key(KEY_LEFTSHIFT, true);
    key(KEY_LEFTSHIFT, false);
    EXPECT(false, 0x1c, 0x1c, 0x12, 0xf0, 0x12);
    data(0xf8);
    EXPECT(false, 0xfa);
    key(KEY_A, true);
    key(KEY_A, true);
    key(KEY_A, false);
    EXPECT(false, 0x1c, 0xf0, 0x1c);
}

/* The codes that Linux, SeaBIOS and every DOS program know. */
static void test_translation(void **state)
{
    (void)state;
    set_ctr(0x43);
    key(KEY_A, true);
    key(KEY_A, false);
    key(KEY_KPENTER, true);
    key(KEY_KPENTER, false);
    key(KEY_F7, true);
    key(KEY_F7, false);
    EXPECT(false, 0x1e, 0x9e, 0xe0, 0x1c, 0xe0, 0x9c, 0x41, 0xc1);
    key(KEY_PAUSE, true);
    key(KEY_PAUSE, false);
    EXPECT(false, 0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5);
    for (unsigned code = 1; code <= KEY_KPDOT; code++) {
        if (code != KEY_SYSRQ && code != 84) {
            key(code, true);
            key(code, false);
            EXPECT(false, (uint8_t)code, (uint8_t)(code | 0x80));
        }
    }
    data(0xf2);
    EXPECT(false, 0xfa, 0xab, 0x41);
}

static void test_off(void **state)
{
    (void)state;
    data(0xf5);
    EXPECT(false, 0xfa);
    key(KEY_A, true);
    NOTHING();
    data(0xf4);
    EXPECT(false, 0xfa);
    key(KEY_A, false);
    EXPECT(false, 0xf0, 0x1c);
    command(0xad); /* the clock line is down: the keyboard keeps it */
    key(KEY_B, true);
    NOTHING();
    command(0xae);
    EXPECT(false, 0x32);
    set_ctr(0x02); /* without its interrupt */
    unsigned before = edges[I8042_KEYBOARD];
    key(KEY_B, false);
    assert_int_equal(edges[I8042_KEYBOARD], before);
    EXPECT(false, 0xf0, 0x32);
}

/* The buffer ends with a code that says so; what fits comes whole. */
static void test_overrun(void **state)
{
    uint8_t got[256];
    (void)state;
    for (unsigned i = 0; i < 1000; i++) {
        key(KEY_HOME, i % 2 == 0);
    }
    unsigned count = fetch(got, sizeof(got), false);
    assert_in_range(count, 32, PS2_BUFFER_BYTES + 1);
    assert_int_equal(got[count - 1], 0x00);
    assert_memory_equal(got, "\xe0\x6c\xe0\xf0\x6c", 5);
    key(KEY_A, true);
    EXPECT(false, 0x1c);
}

static void test_mouse(void **state)
{
    (void)state;
    to_mouse(0xff);
    EXPECT(true, 0xfa, 0xaa, 0x00);
    assert_true(edges[I8042_MOUSE] >= 3);
    pointer(INPUT_REL, INPUT_AXIS_X, 5);
    moved();
    NOTHING(); /* it has not been asked to report */
    to_mouse(0xf4);
    EXPECT(true, 0xfa);
    pointer(INPUT_REL, INPUT_AXIS_X, 5);
    pointer(INPUT_REL, INPUT_AXIS_Y, 3); /* down */
    moved();
    EXPECT(true, 0x28, 0x05, 0xfd);
    pointer(INPUT_REL, INPUT_AXIS_X, -300);
    moved();
    EXPECT(true, 0x18, 0x01, 0x00, 0x18, 0xd3, 0x00);
    pointer(INPUT_BUTTON, INPUT_RIGHT, 1);
    moved();
    EXPECT(true, 0x0a, 0x00, 0x00);
    to_mouse(0xe9);
    EXPECT(true, 0xfa, 0x21, 0x02, 0x64);
    pointer(INPUT_BUTTON, INPUT_RIGHT, 0);
    moved();
    EXPECT(true, 0x08, 0x00, 0x00);
    pointer(INPUT_BUTTON, INPUT_WHEEL_UP, 1); /* it has no wheel yet */
    moved();
    NOTHING();
    to_mouse(0xee);
    EXPECT(true, 0xfa);
    to_mouse(0x5a);
    EXPECT(true, 0x5a);
    to_mouse(0xec);
    EXPECT(true, 0xfa);
    to_mouse(0xf0);
    EXPECT(true, 0xfa);
    pointer(INPUT_REL, INPUT_AXIS_X, 1);
    moved();
    NOTHING();
    to_mouse(0xeb);
    EXPECT(true, 0xfa, 0x08, 0x01, 0x00);
}

static void set_rates(const uint8_t *rates, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        to_mouse(0xf3);
        EXPECT(true, 0xfa);
        to_mouse(rates[i]);
        EXPECT(true, 0xfa);
    }
}

static void test_wheel(void **state)
{
    (void)state;
    set_rates((const uint8_t[]){200, 100, 80}, 3);
    to_mouse(0xf2);
    EXPECT(true, 0xfa, 0x03);
    to_mouse(0xf4);
    EXPECT(true, 0xfa);
    pointer(INPUT_BUTTON, INPUT_WHEEL_UP, 1);
    pointer(INPUT_BUTTON, INPUT_WHEEL_UP, 0);
    moved();
    EXPECT(true, 0x08, 0x00, 0x00, 0xff);
    set_rates((const uint8_t[]){200, 200, 80}, 3);
    to_mouse(0xf2);
    EXPECT(true, 0xfa, 0x04);
    pointer(INPUT_BUTTON, INPUT_SIDE, 1);
    pointer(INPUT_BUTTON, INPUT_WHEEL_DOWN, 1);
    pointer(INPUT_BUTTON, INPUT_WHEEL_DOWN, 0);
    moved();
    EXPECT(true, 0x08, 0x00, 0x00, 0x11);
    to_mouse(0xff);
    EXPECT(true, 0xfa, 0xaa, 0x00);
    to_mouse(0xf2);
    EXPECT(true, 0xfa, 0x00);
    to_mouse(0xf3);
    EXPECT(true, 0xfa);
    to_mouse(0x00);
    EXPECT(true, 0xfc);
}

/* A controller's answer does not cost a device its byte. */
static void test_both(void **state)
{
    (void)state;
    to_mouse(0xf4);
    EXPECT(true, 0xfa);
    key(KEY_A, true);
    command(0x20);
    assert_int_equal(i8042_data_ops.read(&i8042, 0, 1), 0x03);
    EXPECT(false, 0x1c);
    pointer(INPUT_REL, INPUT_AXIS_X, 1);
    moved();
    key(KEY_A, false);
    assert_true(lines[I8042_MOUSE]);
    assert_false(lines[I8042_KEYBOARD]);
    assert_int_equal(i8042_data_ops.read(&i8042, 0, 1), 0x08);
    /* The keyboard goes first, then the rest of the report; the status says whose byte it is. */
    static const uint8_t rest[][2] = {{0xf0, 0x00}, {0x1c, 0x00}, {0x01, 0x20}, {0x00, 0x20}};
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(status() & 0x21, 0x01 | rest[i][1]);
        assert_int_equal(i8042_data_ops.read(&i8042, 0, 1), rest[i][0]);
    }
    NOTHING();
}

static void test_through_hub(void **state)
{
    struct error error;
    (void)state;
    i8042_fini(&i8042);
    assert_int_equal(loop_init(&loop), 0);
    struct input_hub *hub = input_hub_new(&loop, &error);
    assert_non_null(hub);
    i8042_init(&i8042, irqs, &power);
    i8042_plug(&i8042, hub);
    assert_true(input_takes(hub, INPUT_KEY));
    assert_false(input_is_absolute(hub));
    data(0xed);
    EXPECT(false, 0xfa);
    data(INPUT_LED_CAPS);
    EXPECT(false, 0xfa);
    assert_int_equal(input_leds(hub), INPUT_LED_CAPS);
    stop_at_irq = true;
    input_send(hub, INPUT_KEY, KEY_Q, 1);
    input_sync(hub);
    assert_int_equal(loop_run(&loop), 0);
    EXPECT(false, 0x10);
    i8042_fini(&i8042);
    assert_false(input_takes(hub, INPUT_KEY));
    input_hub_free(hub);
    loop_fini(&loop);
    i8042_init(&i8042, irqs, &power);
}

/* Any bytes to either port, with a user at work: it ends, lines and buffers hold together, and a reset makes it usable. */
static void test_anything(void **state)
{
    uint32_t seed = 1;
    (void)state;
    for (unsigned i = 0; i < 200000; i++) {
        seed = seed * 1664525 + 1013904223;
        uint8_t value = (uint8_t)(seed >> 24);
        switch (seed >> 16 & 7) {
        case 0:
            if (value < 0xf0) {
                command(value);
            }
            break;
        case 1:
        case 2:
            data(value);
            break;
        case 3:
            to_mouse(value);
            break;
        case 4:
            key(value, (seed >> 8 & 1) != 0);
            break;
        case 5:
            pointer(seed >> 8 & 1 ? INPUT_REL : INPUT_BUTTON, value % 9 % (seed >> 8 & 1 ? 2 : 9), (int)(seed >> 9 & 0xff) - 128);
            moved();
            break;
        default:
            i8042_data_ops.read(&i8042, 0, 1);
            break;
        }
        assert_true(i8042.keyboard.output.count <= PS2_BUFFER_BYTES && i8042.mouse.output.count <= PS2_BUFFER_BYTES);
        assert_true(i8042.keyboard.output.answer_count <= PS2_ANSWER_BYTES && i8042.mouse.output.answer_count <= PS2_ANSWER_BYTES);
        assert_false(lines[0] && lines[1]);
    }
    command(0xad); /* as a driver does it */
    command(0xa7);
    for (unsigned i = 0; i < 16 && (status() & 1) != 0; i++) {
        i8042_data_ops.read(&i8042, 0, 1);
    }
    set_ctr(0x23);
    data(0xff);
    EXPECT(false, 0xfa, 0xaa);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_commands, setup, teardown),   cmocka_unit_test_setup_teardown(test_sets, setup, teardown),
        cmocka_unit_test_setup_teardown(test_translation, setup, teardown), cmocka_unit_test_setup_teardown(test_off, setup, teardown),
        cmocka_unit_test_setup_teardown(test_overrun, setup, teardown),    cmocka_unit_test_setup_teardown(test_mouse, setup, teardown),
        cmocka_unit_test_setup_teardown(test_wheel, setup, teardown),      cmocka_unit_test_setup_teardown(test_both, setup, teardown),
        cmocka_unit_test_setup_teardown(test_through_hub, setup, teardown), cmocka_unit_test_setup_teardown(test_anything, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
