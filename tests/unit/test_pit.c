/* SPDX-License-Identifier: MIT */
/*
 * The 8254 alone on a fake clock: modes, access forms, latches, BCD, gate and speaker, interrupts, state.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "apic/pit.h"

#define T0 5000000000ull

static struct pit pit;

static ns_t at(uint64_t ticks) { return T0 + ticks * 1000000000ull / PIT_FREQUENCY_HZ + 1; }
static uint32_t word(uint16_t port, ns_t now)
{
	uint32_t low = pit_read(&pit, port, now);

	return low | (uint32_t)pit_read(&pit, port, now) << 8;
}
static void load(uint32_t channel, uint8_t control, uint32_t count, ns_t now)
{
	pit_write(&pit, 0x43, (uint8_t)(channel << 6 | 0x30 | control), now);
	pit_write(&pit, (uint16_t)(0x40 + channel), (uint8_t)count, now);
	pit_write(&pit, (uint16_t)(0x40 + channel), (uint8_t)(count >> 8), now);
}
static int setup(void **state)
{
	(void)state;
	pit_reset(&pit, 0, T0);
	return 0;
}

static void periodic(void **state)
{
	(void)state;
	assert_true(pit_next_expiry(&pit) == UINT64_MAX);
	load(0, 2 << 1, 11932, T0); /* 100 Hz */
	assert_int_equal(pit_next_expiry(&pit), at(11932));
	assert_int_equal(pit_expired(&pit, at(11932) - 10), 0);
	assert_int_equal(pit_expired(&pit, at(11932)), 1);
	assert_int_equal(pit_expired(&pit, at(11932)), 0);
	assert_int_equal(pit_next_expiry(&pit), at(2 * 11932));
	assert_int_equal(pit_expired(&pit, at(11932ull * 1000)), 999); /* no drift */
	assert_int_equal(word(0x40, at(11932ull * 1000 + 32)), 11900);
	pit_write(&pit, 0x43, 0x34, at(1)); /* a control word silences it until the count */
	assert_true(pit_next_expiry(&pit) == UINT64_MAX);
	load(0, 3 << 1, 2, T0); /* too fast for a host */
	assert_in_range(pit_next_expiry(&pit) - T0, 199000, 201000);
}

static void one_shot(void **state)
{
	(void)state;
	load(0, 0, 1000, T0);
	assert_false(pit_output(&pit, 0, at(999)));
	assert_true(pit_output(&pit, 0, at(1000)));
	assert_int_equal(pit_expired(&pit, at(5000)), 1);
	assert_true(pit_next_expiry(&pit) == UINT64_MAX);
	assert_int_equal(word(0x40, at(1001)), 0xffff); /* goes on */
	load(0, 5 << 1, 1000, T0); /* hardware strobe: no gate, no interrupt */
	assert_true(pit_next_expiry(&pit) == UINT64_MAX);
}

static void square_wave_and_strobe(void **state)
{
	(void)state;
	load(1, 3 << 1, 100, T0);
	assert_true(pit_output(&pit, 1, at(49)));
	assert_false(pit_output(&pit, 1, at(51)));
	assert_int_equal(word(0x41, at(10)), 80);
	load(1, 7 << 1, 100, T0); /* mode 3 again */
	assert_int_equal(pit.s.channels[1].mode, 3);
	load(1, 2 << 1, 100, T0);
	assert_true(pit_output(&pit, 1, at(98)));
	assert_false(pit_output(&pit, 1, at(99)));
	load(1, 4 << 1, 100, T0);
	assert_true(pit_output(&pit, 1, at(99)));
	assert_false(pit_output(&pit, 1, at(100)));
	assert_true(pit_output(&pit, 1, at(101)));
}

static void access_and_latch(void **state)
{
	(void)state;
	pit_write(&pit, 0x43, 0x54, T0); /* channel 1, low byte, mode 2 */
	pit_write(&pit, 0x41, 0x80, T0);
	assert_int_equal(pit.s.channels[1].count, 0x80);
	assert_int_equal(pit_read(&pit, 0x41, at(1)), 0x7f);
	pit_write(&pit, 0x43, 0x64, T0); /* high byte */
	pit_write(&pit, 0x41, 0x80, T0);
	assert_int_equal(pit.s.channels[1].count, 0x8000);
	assert_int_equal(pit_read(&pit, 0x41, at(0x1000)), 0x70);
	load(1, 2 << 1, 0, T0);
	assert_int_equal(pit.s.channels[1].count, 0x10000);
	pit_write(&pit, 0x43, 0x40, at(0x10)); /* latch */
	pit_write(&pit, 0x43, 0x40, at(0x20)); /* a second is ignored */
	assert_int_equal(word(0x41, at(0x1000)), 0xfff0);
	assert_int_equal(word(0x41, at(0x1000)), 0xf000);
	pit_write(&pit, 0x43, 0xc4, at(0x30)); /* read-back: count and status */
	assert_int_equal(pit_read(&pit, 0x41, at(0x40)), 0xb4);
	assert_int_equal(word(0x41, at(0x40)), 0xffd0);
	assert_int_equal(pit_read(&pit, 0x43, T0), 0);
}

static void bcd(void **state)
{
	(void)state;
	load(1, 2 << 1 | 1, 0x1000, T0);
	assert_int_equal(pit.s.channels[1].count, 1000);
	assert_int_equal(word(0x41, at(1)), 0x0999);
	load(1, 2 << 1 | 1, 0, T0);
	assert_int_equal(pit.s.channels[1].count, 10000);
	assert_int_equal(word(0x41, at(1)), 0x9999);
}

static void gate_and_speaker(void **state)
{
	(void)state;
	load(2, 0, 1000, T0);
	assert_int_equal(pit_read(&pit, 0x61, at(2000)) & 0x23, 0); /* gate down: it stands */
	pit_write(&pit, 0x61, 0x03, at(2000));
	assert_int_equal(pit_read(&pit, 0x61, at(2999)) & 0x23, 0x03);
	assert_int_equal(pit_read(&pit, 0x61, at(3001)) & 0x23, 0x23);
	load(2, 0, 1000, at(4000));
	pit_write(&pit, 0x61, 0, at(4400));
	assert_in_range(word(0x42, at(9000)), 599, 601);
	pit_write(&pit, 0x61, 1, at(9000));
	assert_in_range(word(0x42, at(9100)), 498, 502); /* each stop and go rounds */
	pit_write(&pit, 0x61, 0, at(9100));
	load(2, 1 << 1, 50, at(10000)); /* one-shot, triggered by the gate */
	pit_write(&pit, 0x61, 1, at(11000));
	assert_false(pit_output(&pit, 2, at(11040)));
	assert_true(pit_output(&pit, 2, at(11051)));
	assert_int_not_equal(pit_read(&pit, 0x61, 0) & 0x10, pit_read(&pit, 0x61, 15085) & 0x10);
}

static void state_round_trip(void **state)
{
	struct kvm_pit_state2 s;

	(void)state;
	load(0, 2 << 1, 11932, T0);
	pit_get_state(&pit, &s);
	assert_int_equal(s.channels[0].count, 11932);
	assert_int_equal(s.channels[0].mode, 2);
	pit_reset(&pit, 0, T0);
	assert_int_equal(pit_set_state(&pit, &s, T0), 0);
	assert_int_equal(pit_next_expiry(&pit), at(11932));
	s.flags = KVM_PIT_FLAGS_HPET_LEGACY;
	assert_int_equal(pit_set_state(&pit, &s, T0), 0);
	assert_true(pit_next_expiry(&pit) == UINT64_MAX);
	s.channels[1].count = 0x10001;
	assert_int_equal(pit_set_state(&pit, &s, T0), -22);
	memset(&s, 0xff, sizeof(s)); /* as a hostile or unprogrammed one */
	s.channels[0].count = s.channels[1].count = s.channels[2].count = 0;
	assert_int_equal(pit_set_state(&pit, &s, T0), 0);
	for (uint16_t port = 0x40; port < 0x44; port++)
		(void)pit_read(&pit, port, at(7));
	assert_true(pit_next_expiry(&pit) == UINT64_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(periodic, setup), cmocka_unit_test_setup(one_shot, setup),
		cmocka_unit_test_setup(square_wave_and_strobe, setup), cmocka_unit_test_setup(access_and_latch, setup),
		cmocka_unit_test_setup(bcd, setup), cmocka_unit_test_setup(gate_and_speaker, setup),
		cmocka_unit_test_setup(state_round_trip, setup),
	};

	return cmocka_run_group_tests_name("pit", tests, NULL, NULL);
}
