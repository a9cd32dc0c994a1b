/* SPDX-License-Identifier: MIT */
/*
 * The two 8259s alone: initialization, priorities, cascade, EOI forms, rotation, special mask, poll, ELCR, spurious.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "apic/pic.h"

static struct pic pic;

static void program(uint8_t icw4)
{
	static const uint16_t base[2] = { 0x20, 0xa0 };

	for (int i = 0; i < 2; i++) {
		pic_write(&pic, base[i], 0x11);
		pic_write(&pic, base[i] + 1, i ? 0x28 : 0x20);
		pic_write(&pic, base[i] + 1, i ? 2 : 4);
		pic_write(&pic, base[i] + 1, icw4);
	}
	pic.acked = 0;
}

static int setup(void **state)
{
	(void)state;
	pic_reset(&pic);
	program(1);
	return 0;
}

static void pulse(uint32_t line)
{
	pic_set_irq(&pic, line, 0, true);
	pic_set_irq(&pic, line, 0, false);
}

static void priorities(void **state)
{
	(void)state;
	assert_false(pic.output);
	pulse(3);
	assert_true(pic.output);
	assert_int_equal(pic_ack(&pic), 0x23);
	assert_false(pic.output);
	pulse(4);
	assert_false(pic.output); /* lower: waits */
	pulse(1);
	assert_true(pic.output);
	assert_int_equal(pic_ack(&pic), 0x21);
	pic_write(&pic, 0x20, 0x0b);
	assert_int_equal(pic_read(&pic, 0x20), 0x0a);
	pic_write(&pic, 0x20, 0x0a);
	assert_int_equal(pic_read(&pic, 0x20), 0x10);
	pic_write(&pic, 0x20, 0x20); /* ends 1 */
	assert_int_equal(pic.acked, 1u << 1);
	assert_false(pic.output);
	pic_write(&pic, 0x20, 0x63); /* specific: ends 3 */
	assert_true(pic.output);
	assert_int_equal(pic_ack(&pic), 0x24);
}

static void mask_and_coalesce(void **state)
{
	(void)state;
	pic_write(&pic, 0x21, 0x08);
	assert_int_equal(pic_read(&pic, 0x21), 0x08);
	assert_int_equal(pic_set_irq(&pic, 3, 0, true), -1);
	assert_false(pic.output);
	pic_set_irq(&pic, 3, 0, false);
	assert_int_equal(pic_set_irq(&pic, 5, 0, true), 1);
	(void)pic_set_irq(&pic, 5, 1, true);
	pic_set_irq(&pic, 5, 0, false);
	assert_int_equal(pic.chip[0].last_irr & 0x20, 0x20); /* source 1 still holds it */
	pic_set_irq(&pic, 5, 1, false);
	assert_int_equal(pic_set_irq(&pic, 5, 0, true), 0); /* an edge while one is pending */
	pic_write(&pic, 0x21, 0);
	assert_int_equal(pic_ack(&pic), 0x23);
	assert_int_equal(pic_set_irq(&pic, 16, 0, true), -1);
}

static void cascade(void **state)
{
	(void)state;
	pulse(8 + 4);
	assert_true(pic.output);
	assert_int_equal(pic_ack(&pic), 0x2c);
	assert_int_equal(pic.chip[0].isr, 4);
	assert_int_equal(pic.chip[1].isr, 0x10);
	pulse(8 + 6);
	assert_false(pic.output);
	pic_write(&pic, 0xa0, 0x20);
	pic_write(&pic, 0x20, 0x20);
	assert_int_equal(pic.acked, 1u << 12 | 1u << 2);
	assert_true(pic.output);
	assert_int_equal(pic_ack(&pic), 0x2e);
}

static void special_fully_nested(void **state)
{
	(void)state;
	program(0x11);
	pulse(8 + 4);
	assert_int_equal(pic_ack(&pic), 0x2c);
	pulse(8 + 1); /* a higher one of the slave gets through */
	assert_true(pic.output);
	assert_int_equal(pic_ack(&pic), 0x29);
}

static void auto_eoi_and_rotation(void **state)
{
	(void)state;
	program(3);
	pulse(2 + 1);
	assert_int_equal(pic_ack(&pic), 0x23);
	assert_int_equal(pic.chip[0].isr, 0);
	assert_int_equal(pic.acked, 1u << 3);
	pic_write(&pic, 0x20, 0x80); /* rotate on automatic EOI */
	pulse(3);
	assert_int_equal(pic_ack(&pic), 0x23);
	pulse(3);
	pulse(4); /* 4 is the highest now */
	assert_int_equal(pic_ack(&pic), 0x24);
	program(1);
	pic_write(&pic, 0x20, 0xc5); /* set priority: 5 lowest, 6 highest */
	pulse(0);
	pulse(6);
	assert_int_equal(pic_ack(&pic), 0x26);
	pic_write(&pic, 0x20, 0xa0); /* rotate on non-specific EOI: 6 lowest */
	assert_int_equal(pic.chip[0].priority_add, 7);
	assert_int_equal(pic_ack(&pic), 0x20);
	pic_write(&pic, 0x20, 0xe0); /* rotate on specific EOI of 0 */
	assert_int_equal(pic.chip[0].priority_add, 1);
	assert_int_equal(pic.chip[0].isr, 0);
}

static void special_mask(void **state)
{
	(void)state;
	pulse(1);
	assert_int_equal(pic_ack(&pic), 0x21);
	pulse(5);
	assert_false(pic.output);
	pic_write(&pic, 0x21, 0x02);
	pic_write(&pic, 0x20, 0x68);
	assert_true(pic.output); /* 1 is masked: it blocks nothing */
	assert_int_equal(pic_ack(&pic), 0x25);
	pic_write(&pic, 0x20, 0x20);
	assert_int_equal(pic.chip[0].isr, 0x02); /* the masked one is left */
	pic_write(&pic, 0x20, 0x48);
	assert_int_equal(pic.chip[0].special_mask, 0);
}

static void poll_and_spurious(void **state)
{
	(void)state;
	pulse(6);
	pic_write(&pic, 0x20, 0x0c);
	assert_int_equal(pic_read(&pic, 0x20), 0x86);
	assert_int_equal(pic.chip[0].isr, 0x40);
	pic_write(&pic, 0x20, 0x0c);
	assert_int_equal(pic_read(&pic, 0x20), 0);
	pic_write(&pic, 0x20, 0x20);
	assert_int_equal(pic_ack(&pic), 0x27); /* nothing there */
	assert_int_equal(pic.chip[0].isr, 0);
}

static void elcr(void **state)
{
	(void)state;
	pic_write(&pic, 0x4d0, 0xff);
	pic_write(&pic, 0x4d1, 0xff);
	assert_int_equal(pic_read(&pic, 0x4d0), 0xf8);
	assert_int_equal(pic_read(&pic, 0x4d1), 0xde);
	pic_set_irq(&pic, 5, 0, true);
	assert_int_equal(pic_ack(&pic), 0x25);
	pic_write(&pic, 0x20, 0x20);
	assert_true(pic.output); /* the line is still up */
	pic_set_irq(&pic, 5, 0, false);
	assert_false(pic.output);
	pic_set_irq(&pic, 5, 0, true);
	pic_write(&pic, 0x20, 0x11); /* ICW1 forgets edges, not levels */
	assert_int_equal(pic.chip[0].irr, 0x20);
}

static void hostile_state(void **state)
{
	struct kvm_pic_state s;

	(void)state;
	memset(&s, 0xff, sizeof(s));
	pic_set_state(&pic, 0, &s);
	pic_set_state(&pic, 1, &s);
	assert_int_equal(pic.chip[0].elcr, 0xf8);
	assert_int_equal(pic.chip[0].priority_add, 7);
	(void)pic_ack(&pic);
	pic_write(&pic, 0x21, 0x12);
	program(1);
	pulse(8 + 7);
	assert_int_equal(pic.chip[1].imr, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(priorities, setup), cmocka_unit_test_setup(mask_and_coalesce, setup),
		cmocka_unit_test_setup(cascade, setup), cmocka_unit_test_setup(special_fully_nested, setup),
		cmocka_unit_test_setup(auto_eoi_and_rotation, setup), cmocka_unit_test_setup(special_mask, setup),
		cmocka_unit_test_setup(poll_and_spurious, setup), cmocka_unit_test_setup(elcr, setup),
		cmocka_unit_test_setup(hostile_state, setup),
	};

	return cmocka_run_group_tests_name("pic", tests, NULL, NULL);
}
