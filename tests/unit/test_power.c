/* SPDX-License-Identifier: MIT */
/*
 * What switches a machine off or resets it: ACPI PM1, reset control, port 92, i8042, isa-debug-exit;
 * and that nothing else that a guest writes there does.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "dev/acpi_pm.h"
#include "dev/i8042.h"
#include "dev/powerctl.h"

static enum power_event event;
static int status;
static bool line;

static void take_power(void *opaque, enum power_event what, int code)
{
    (void)opaque;
    event = what;
    status = code;
}

static void take_irq(void *opaque, uint32_t number, bool level)
{
    (void)opaque;
    (void)number;
    line = level;
}

static const struct power power = {.request = take_power};
static const struct irq irq = {.set = take_irq};
static const struct irq irqs[I8042_PORTS] = {{.set = take_irq}, {.set = take_irq}};

static int setup(void **state)
{
    (void)state;
    event = POWER_NONE;
    status = -1;
    line = false;
    return 0;
}

static void test_acpi_pm(void **state)
{
    struct acpi_pm pm;
    (void)state;
    acpi_pm_init(&pm, &irq, &power);
    assert_int_equal(acpi_pm_ops.read(&pm, 4, 2), 1); /* SCI_EN */
    acpi_pm_ops.write(&pm, 2, 2, 0xffff);
    assert_int_equal(acpi_pm_ops.read(&pm, 2, 2), 0x8731);
    acpi_pm_ops.write(&pm, 0, 4, 0x0120ffff); /* status and enable in one access */
    assert_int_equal(acpi_pm_ops.read(&pm, 0, 4), 0x01200000);
    acpi_pm_ops.write(&pm, 4, 2, 0x1400); /* the type first, without SLP_EN */
    assert_int_equal(event, POWER_NONE);
    assert_int_equal(acpi_pm_ops.read(&pm, 4, 2), 0x1401);
    acpi_pm_ops.write(&pm, 4, 2, 0x2000 | 3 << 10); /* S3 is not there */
    assert_int_equal(event, POWER_NONE);
    acpi_pm_ops.write(&pm, 4, 2, 0x2000 | 5 << 10);
    assert_int_equal(event, POWER_OFF);
    event = POWER_NONE;
    acpi_pm_ops.write(&pm, 5, 1, 0x34); /* by its high byte alone */
    assert_int_equal(event, POWER_OFF);
    pm.pm1_sts = 0x0100;
    acpi_pm_ops.write(&pm, 2, 2, 0x0100);
    assert_true(line);
    acpi_pm_ops.write(&pm, 0, 2, 0x0100);
    assert_false(line);
    assert_true(acpi_pm_power_button(&pm));
    assert_true(line);
    assert_int_equal(acpi_pm_ops.read(&pm, 0, 2), 0x0100);
    acpi_pm_ops.write(&pm, 0, 2, 0x0100);
    assert_false(line);
    acpi_pm_ops.write(&pm, 2, 2, 0);
    assert_false(acpi_pm_power_button(&pm)); /* nobody listens */
    assert_false(line);
    acpi_pm_fini(&pm);
}

static void test_reset_registers(void **state)
{
    struct powerctl reset;
    struct powerctl port92;
    struct powerctl debug_exit;
    (void)state;
    powerctl_init(&reset, &power, 0);
    reset_ops.write(&reset, 0, 1, 0x02);
    assert_int_equal(event, POWER_NONE);
    assert_int_equal(reset_ops.read(&reset, 0, 1), 0x02);
    reset_ops.write(&reset, 0, 1, RESET_CONTROL_FULL);
    assert_int_equal(event, POWER_RESET);

    event = POWER_NONE;
    powerctl_init(&port92, &power, 2);
    port92_ops.write(&port92, 0, 1, 0xfe);
    assert_int_equal(event, POWER_NONE);
    assert_int_equal(port92_ops.read(&port92, 0, 1), 2);
    port92_ops.write(&port92, 0, 1, 0x03);
    assert_int_equal(event, POWER_RESET);

    powerctl_init(&debug_exit, &power, 0);
    debug_exit_ops.write(&debug_exit, 0, 4, 0x10);
    assert_int_equal(event, POWER_EXIT);
    assert_int_equal(status, 0x21);
    debug_exit_ops.write(&debug_exit, 1, 1, 0xff);
    assert_int_equal(status, 0xff);
}

static void command(struct i8042 *i8042, uint8_t value)
{
    i8042_command_ops.write(i8042, 0, 1, value);
}

static uint64_t answer(struct i8042 *i8042)
{
    assert_int_equal(i8042_command_ops.read(i8042, 0, 1) & 0x03, 0x01); /* something to read, ready for more */
    uint64_t data = i8042_data_ops.read(i8042, 0, 1);
    assert_int_equal(i8042_command_ops.read(i8042, 0, 1) & 0x01, 0);
    return data;
}

/* What Linux's i8042 driver asks: every command is answered at once, and nobody is plugged in. */
static void test_i8042(void **state)
{
    struct i8042 i8042;
    (void)state;
    i8042_init(&i8042, irqs, &power);
    assert_int_equal(i8042_command_ops.read(&i8042, 0, 1) & 0x03, 0);
    command(&i8042, 0xaa);
    assert_int_equal(answer(&i8042), 0x55);
    command(&i8042, 0xab);
    assert_int_equal(answer(&i8042), 0);
    command(&i8042, 0x60);
    i8042_data_ops.write(&i8042, 0, 1, 0x05);
    command(&i8042, 0x20);
    assert_true(line); /* the keyboard's interrupt is on */
    assert_int_equal(answer(&i8042), 0x05);
    assert_false(line);
    command(&i8042, 0xd3); /* a loop that does not say "from the second port": there is none */
    i8042_data_ops.write(&i8042, 0, 1, 0x5a);
    assert_int_equal(i8042_command_ops.read(&i8042, 0, 1) & 0x20, 0);
    answer(&i8042);
    i8042_data_ops.write(&i8042, 0, 1, 0xf2); /* to the keyboard: a time-out, at once */
    assert_int_equal(i8042_command_ops.read(&i8042, 0, 1) & 0x40, 0x40);
    assert_int_equal(answer(&i8042), 0xfe);
    command(&i8042, 0xff); /* pulses no line */
    assert_int_equal(event, POWER_NONE);
    command(&i8042, 0xfe);
    assert_int_equal(event, POWER_RESET);
    event = POWER_NONE;
    command(&i8042, 0xd1);
    i8042_data_ops.write(&i8042, 0, 1, 0x03);
    assert_int_equal(event, POWER_NONE);
    command(&i8042, 0xd1);
    i8042_data_ops.write(&i8042, 0, 1, 0x02);
    assert_int_equal(event, POWER_RESET);
    i8042_fini(&i8042);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_acpi_pm, setup),
        cmocka_unit_test_setup(test_reset_registers, setup),
        cmocka_unit_test_setup(test_i8042, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
