/* SPDX-License-Identifier: MIT */
/*
 * The local APIC alone, with fake surroundings and a fake clock: registers, priorities, messages, modes, timer, state.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "apic/lapic.h"

static struct {
	ns_t now, armed;
	int kicks, nmis, inits, sipis, ipis, eois;
	uint8_t sipi_vector, eoi_vector;
	bool eoi_level;
	struct apic_msg ipi;
} env;

static void fake_kick(void *o, struct lapic *l) { env.kicks++; (void)o; (void)l; }
static void fake_nmi(void *o, struct lapic *l) { env.nmis++; (void)o; (void)l; }
static void fake_init(void *o, struct lapic *l) { env.inits++; (void)o; (void)l; }
static void fake_sipi(void *o, struct lapic *l, uint8_t v) { env.sipis++; env.sipi_vector = v; (void)o; (void)l; }
static void fake_ipi(void *o, struct lapic *l, const struct apic_msg *m) { env.ipis++; env.ipi = *m; (void)o; (void)l; }
static void fake_eoi(void *o, struct lapic *l, uint8_t v, bool level)
{
	(void)o;
	(void)l;
	env.eois++;
	env.eoi_vector = v;
	env.eoi_level = level;
}
static bool fake_wanted(void *o, uint8_t v) { (void)o; return v == 0x77; }
static void fake_arm(void *o, struct lapic *l, ns_t at) { (void)o; (void)l; env.armed = at; }
static ns_t fake_now(void *o) { (void)o; return env.now; }
static ns_t fake_tsc(void *o, struct lapic *l, uint64_t tsc) { (void)o; (void)l; return tsc / 2; /* 2 GHz */ }

static const struct lapic_ops ops = {
	.kick = fake_kick, .nmi = fake_nmi, .init = fake_init, .sipi = fake_sipi, .ipi = fake_ipi, .eoi = fake_eoi,
	.eoi_wanted = fake_wanted, .arm = fake_arm, .now_ns = fake_now, .guest_tsc_to_ns = fake_tsc,
};
static struct lapic apic;

static void wr(uint32_t reg, uint32_t value) { lapic_mmio_write(&apic, reg, &value, 4); }
static uint32_t rd(uint32_t reg)
{
	uint32_t value;

	lapic_mmio_read(&apic, reg, &value, 4);
	return value;
}

static int setup(void **state)
{
	(void)state;
	memset(&env, 0, sizeof(env));
	env.now = 1000000;
	lapic_init(&apic, 0, 3, &ops, NULL);
	lapic_reset(&apic, false, false);
	wr(APIC_SPIV, 0x1ff);
	return 0;
}

static void reset_values(void **state)
{
	(void)state;
	lapic_reset(&apic, false, true);
	assert_int_equal(rd(APIC_ID), 3u << 24);
	assert_int_equal(rd(APIC_LVR), 0x50014);
	assert_int_equal(rd(APIC_SPIV), 0xff);
	assert_int_equal(rd(APIC_DFR), 0xffffffffu);
	assert_int_equal(rd(APIC_LVTT), 0x10000);
	assert_int_equal(rd(APIC_LVT0), 0x700);
	assert_true(lapic_accepts_pic(&apic));
	assert_int_equal(lapic_base(&apic), APIC_DEFAULT_BASE | APIC_BASE_BSP | APIC_BASE_ENABLE);
	assert_int_equal(lapic_set_irq(&apic, 0x40, false), -1);
}

static void priorities(void **state)
{
	(void)state;
	assert_int_equal(lapic_has_interrupt(&apic), -1);
	assert_int_equal(lapic_set_irq(&apic, 0x41, false), 1);
	assert_int_equal(lapic_set_irq(&apic, 0x41, false), 0);
	assert_int_equal(lapic_set_irq(&apic, 0x52, true), 1);
	assert_int_equal(env.kicks, 2);
	assert_int_equal(lapic_has_interrupt(&apic), 0x52);
	lapic_ack(&apic, 0x52);
	assert_int_equal(lapic_ppr(&apic), 0x50);
	assert_int_equal(lapic_has_interrupt(&apic), -1);
	assert_int_equal(lapic_set_irq(&apic, 0x5f, false), 1); /* same class: waits */
	assert_int_equal(lapic_has_interrupt(&apic), -1);
	assert_int_equal(rd(APIC_ISR + 0x20), 1u << 0x12);
	wr(APIC_EOI, 0);
	assert_int_equal(env.eois, 1);
	assert_int_equal(env.eoi_vector, 0x52);
	assert_true(env.eoi_level);
	assert_int_equal(lapic_has_interrupt(&apic), 0x5f);
	lapic_set_cr8(&apic, 5);
	assert_int_equal(rd(APIC_TASKPRI), 0x50);
	assert_int_equal(lapic_has_interrupt(&apic), -1);
	lapic_set_cr8(&apic, 4);
	assert_int_equal(lapic_has_interrupt(&apic), 0x5f);
	lapic_ack(&apic, 0x5f);
	wr(APIC_EOI, 0);
	assert_int_equal(env.eois, 1); /* edge: no broadcast */
	lapic_set_cr8(&apic, 0);
	lapic_ack(&apic, lapic_has_interrupt(&apic));
	assert_int_equal(lapic_has_interrupt(&apic), -1);
	assert_false(apic.irr_pending);
}

static void pv_eoi(void **state)
{
	(void)state;
	assert_false(lapic_pv_eoi_allowed(&apic));
	lapic_set_irq(&apic, 0x41, false);
	lapic_ack(&apic, 0x41);
	assert_true(lapic_pv_eoi_allowed(&apic));
	lapic_set_irq(&apic, 0x77, false);
	assert_false(lapic_pv_eoi_allowed(&apic));
	lapic_ack(&apic, 0x77);
	assert_false(lapic_pv_eoi_allowed(&apic));
	lapic_eoi(&apic); /* 0x77, an edge that somebody listens to */
	assert_int_equal(env.eoi_vector, 0x77);
	assert_true(lapic_pv_eoi_allowed(&apic));
}

static void icr(void **state)
{
	uint64_t value;

	(void)state;
	wr(APIC_ICR2, 5u << 24);
	wr(APIC_ICR, 0x4000 | 0x08fd);
	assert_int_equal(env.ipis, 1);
	assert_int_equal(env.ipi.dest, 5);
	assert_int_equal(env.ipi.vector, 0xfd);
	assert_true(env.ipi.logical);
	wr(APIC_ICR, 0x000c4500);
	assert_int_equal(env.ipi.mode, APIC_DM_INIT);
	assert_int_equal(env.ipi.shorthand, APIC_DEST_OTHERS);
	wr(APIC_ICR, 0x4003); /* illegal vector */
	assert_int_equal(env.ipis, 2);
	wr(APIC_ESR, 0);
	assert_int_equal(rd(APIC_ESR), 1u << 5);
	assert_int_equal(lapic_set_base(&apic, APIC_DEFAULT_BASE | APIC_BASE_ENABLE | APIC_BASE_EXTD, false), 0);
	assert_int_equal(lapic_x2apic_write(&apic, 0x830, 0x12345678000000f0ull), 0);
	assert_int_equal(env.ipi.dest, 0x12345678);
	assert_int_equal(lapic_x2apic_read(&apic, 0x830, &value), 0);
	assert_true(value == 0x12345678000000f0ull);
	assert_int_equal(lapic_x2apic_write(&apic, 0x83f, 0x44), 0);
	assert_int_equal(env.ipi.shorthand, APIC_DEST_SELF);
	assert_int_equal(lapic_x2apic_write(&apic, 0x83f, 0x144), -1);
}

static void accept_modes(void **state)
{
	struct apic_msg m = { .mode = APIC_DM_NMI, .assert = true };

	(void)state;
	assert_int_equal(lapic_accept(&apic, &m), 1);
	m.mode = APIC_DM_INIT;
	lapic_accept(&apic, &m);
	m.level = true;
	m.assert = false;
	lapic_accept(&apic, &m);
	m.mode = APIC_DM_SIPI;
	m.vector = 0x9a;
	lapic_accept(&apic, &m);
	assert_int_equal(env.nmis, 1);
	assert_int_equal(env.inits, 1);
	assert_int_equal(env.sipi_vector, 0x9a);
	m.mode = APIC_DM_EXTINT;
	assert_int_equal(lapic_accept(&apic, &m), 0);
	assert_int_equal(lapic_set_irq(&apic, 9, false), -1);
	wr(APIC_ESR, 0);
	assert_int_equal(rd(APIC_ESR), 1u << 6);
}

static void destinations(void **state)
{
	struct apic_msg m = { .dest = 3 };

	(void)state;
	assert_true(lapic_match(&apic, &m));
	m.dest = 4;
	assert_false(lapic_match(&apic, &m));
	m.dest = 0xff;
	assert_true(lapic_match(&apic, &m));
	m.logical = true;
	wr(APIC_LDR, 0x24u << 24);
	m.dest = 0x04;
	assert_true(lapic_match(&apic, &m));
	m.dest = 0x08;
	assert_false(lapic_match(&apic, &m));
	wr(APIC_DFR, 0x0fffffff); /* cluster 2, member 4 */
	m.dest = 0x26;
	assert_true(lapic_match(&apic, &m));
	m.dest = 0x16;
	assert_false(lapic_match(&apic, &m));
	assert_int_equal(lapic_set_base(&apic, APIC_DEFAULT_BASE | APIC_BASE_ENABLE | APIC_BASE_EXTD, false), 0);
	assert_int_equal(lapic_reg(&apic, APIC_LDR), 8);
	m.dest = 0x0a;
	assert_true(lapic_match(&apic, &m));
	m.dest = 0x1000a;
	assert_false(lapic_match(&apic, &m));
	m = (struct apic_msg){ .dest = 0xff, .x2apic = true };
	assert_false(lapic_match(&apic, &m));
	m.dest = 0xffffffffu;
	assert_true(lapic_match(&apic, &m));
}

static void base_transitions(void **state)
{
	uint64_t x = APIC_DEFAULT_BASE | APIC_BASE_ENABLE, x2 = x | APIC_BASE_EXTD, v;

	(void)state;
	assert_int_equal(lapic_set_base(&apic, APIC_DEFAULT_BASE | APIC_BASE_EXTD, false), -1);
	assert_int_equal(lapic_set_base(&apic, x | 1, false), -1);
	assert_int_equal(lapic_set_base(&apic, x | 1ull << 60, true), -1);
	assert_int_equal(lapic_x2apic_read(&apic, 0x802, &v), -1);
	assert_int_equal(lapic_set_base(&apic, x2, false), 0);
	assert_int_equal(lapic_x2apic_read(&apic, 0x802, &v), 0);
	assert_int_equal(v, 3);
	assert_int_equal(lapic_x2apic_read(&apic, 0x80b, &v), -1); /* EOI is write-only */
	assert_int_equal(lapic_x2apic_write(&apic, 0x80b, 1), -1);
	assert_int_equal(lapic_x2apic_write(&apic, 0x80b, 0), 0);
	assert_int_equal(lapic_x2apic_write(&apic, 0x80d, 0), -1); /* LDR is read-only */
	assert_int_equal(lapic_x2apic_read(&apic, 0x80e, &v), -1); /* no DFR */
	assert_int_equal(lapic_x2apic_read(&apic, 0x8ff, &v), -1);
	assert_int_equal(lapic_set_base(&apic, x, false), -1);
	assert_int_equal(lapic_set_base(&apic, APIC_DEFAULT_BASE, false), 0);
	assert_int_equal(lapic_set_base(&apic, x2, false), -1);
	assert_int_equal(lapic_set_base(&apic, x2, true), 0);
}

static void timer_count(void **state)
{
	(void)state;
	wr(APIC_TDCR, 0xb); /* by 1 */
	wr(APIC_LVTT, 0x30);
	wr(APIC_TMICT, 5000);
	assert_int_equal(env.armed, env.now + 5000);
	env.now += 2000;
	assert_int_equal(rd(APIC_TMCCT), 3000);
	assert_false(lapic_timer_expired(&apic, env.now));
	env.now += 3000;
	assert_true(lapic_timer_expired(&apic, env.now));
	assert_int_equal(lapic_has_interrupt(&apic), 0x30);
	assert_true(lapic_next_expiry(&apic) == UINT64_MAX);
	assert_int_equal(rd(APIC_TMCCT), 0);
	lapic_ack(&apic, 0x30);
	wr(APIC_EOI, 0);
	/* periodic, by 16: 1 ms; two and a half periods late keeps the phase */
	wr(APIC_TDCR, 0x3);
	wr(APIC_LVTT, 0x20031);
	wr(APIC_TMICT, 62500);
	assert_int_equal(lapic_next_expiry(&apic), env.now + 1000000);
	assert_true(lapic_timer_expired(&apic, env.now + 2500000));
	assert_int_equal(lapic_next_expiry(&apic), env.now + 3000000);
	/* masked: counts, raises nothing */
	lapic_ack(&apic, lapic_has_interrupt(&apic));
	wr(APIC_EOI, 0);
	wr(APIC_LVTT, 0x30031);
	assert_true(lapic_timer_expired(&apic, env.now + 3000000));
	assert_int_equal(lapic_has_interrupt(&apic), -1);
	wr(APIC_TMICT, 0);
	assert_int_equal(env.armed, 0);
}

static void timer_deadline(void **state)
{
	(void)state;
	lapic_set_tsc_deadline(&apic, 4000000); /* another mode: ignored */
	assert_int_equal(lapic_tsc_deadline(&apic), 0);
	wr(APIC_LVTT, 0x400ec);
	lapic_set_tsc_deadline(&apic, 4000000);
	assert_int_equal(lapic_next_expiry(&apic), 2000000);
	assert_int_equal(lapic_tsc_deadline(&apic), 4000000);
	wr(APIC_TMICT, 77);
	assert_int_equal(rd(APIC_TMICT), 0);
	assert_true(lapic_timer_expired(&apic, 2000000));
	assert_int_equal(lapic_tsc_deadline(&apic), 0);
	assert_int_equal(lapic_has_interrupt(&apic), 0xec);
	lapic_ack(&apic, 0xec);
	wr(APIC_EOI, 0);
	lapic_set_tsc_deadline(&apic, 5); /* passed */
	assert_int_equal(lapic_has_interrupt(&apic), 0xec);
	lapic_set_tsc_deadline(&apic, 8000000);
	wr(APIC_LVTT, 0x20031);
	assert_true(lapic_next_expiry(&apic) == UINT64_MAX);
	assert_int_equal(env.armed, 0);
}

static void software_disable(void **state)
{
	(void)state;
	wr(APIC_LVTPC, 0x400);
	assert_int_equal(lapic_local(&apic, APIC_LVTPC), 1);
	assert_int_equal(env.nmis, 1);
	assert_int_equal(rd(APIC_LVTPC), 0x10400);
	wr(APIC_LVT1, 0x400);
	assert_true(lapic_accepts_nmi_pin(&apic));
	wr(APIC_SPIV, 0xff);
	assert_int_equal(rd(APIC_LVT1), 0x10400);
	wr(APIC_LVT1, 0x400);
	assert_false(lapic_accepts_nmi_pin(&apic));
	assert_int_equal(lapic_set_irq(&apic, 0x50, false), -1);
}

static void odd_accesses(void **state)
{
	uint8_t bytes[8];
	uint32_t v = 0x10;

	(void)state;
	lapic_mmio_read(&apic, APIC_ID + 3, bytes, 1);
	assert_int_equal(bytes[0], 3);
	lapic_mmio_read(&apic, APIC_ID + 4, bytes, 4);
	lapic_mmio_read(&apic, APIC_ID, bytes, 8);
	lapic_mmio_read(&apic, 0xffc, bytes, 4);
	lapic_mmio_read(&apic, 0xff0, bytes, 4);
	lapic_mmio_write(&apic, 0xff0, &v, 4);
	lapic_mmio_write(&apic, APIC_TASKPRI, &v, 2);
	lapic_mmio_write(&apic, APIC_TASKPRI + 4, &v, 4);
	assert_int_equal(rd(APIC_TASKPRI), 0);
	wr(APIC_ESR, 0);
	assert_int_equal(rd(APIC_ESR), 1u << 7);
}

static void state_round_trip(void **state)
{
	static struct kvm_lapic_state s;
	uint32_t id;

	(void)state;
	wr(APIC_TDCR, 0xb);
	wr(APIC_LVTT, 0x30);
	wr(APIC_TMICT, 1000000);
	lapic_set_irq(&apic, 0x61, true);
	env.now += 400000;
	lapic_get_state(&apic, &s, false);
	lapic_reset(&apic, false, false);
	assert_int_equal(env.armed, 0);
	assert_int_equal(lapic_set_state(&apic, &s, false), 0);
	assert_int_equal(lapic_has_interrupt(&apic), 0x61);
	assert_int_equal(lapic_next_expiry(&apic), env.now + 600000);
	assert_int_equal(lapic_set_base(&apic, APIC_DEFAULT_BASE | APIC_BASE_ENABLE | APIC_BASE_EXTD, true), 0);
	lapic_get_state(&apic, &s, false);
	memcpy(&id, s.regs + APIC_ID, 4);
	assert_int_equal(id, 3u << 24);
	assert_int_equal(lapic_set_state(&apic, &s, true), -22);
	lapic_get_state(&apic, &s, true);
	memcpy(&id, s.regs + APIC_ID, 4);
	assert_int_equal(id, 3);
	assert_int_equal(lapic_set_state(&apic, &s, true), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(reset_values, setup), cmocka_unit_test_setup(priorities, setup),
		cmocka_unit_test_setup(pv_eoi, setup), cmocka_unit_test_setup(icr, setup),
		cmocka_unit_test_setup(accept_modes, setup), cmocka_unit_test_setup(destinations, setup),
		cmocka_unit_test_setup(base_transitions, setup), cmocka_unit_test_setup(timer_count, setup),
		cmocka_unit_test_setup(timer_deadline, setup), cmocka_unit_test_setup(software_disable, setup),
		cmocka_unit_test_setup(odd_accesses, setup), cmocka_unit_test_setup(state_round_trip, setup),
	};

	return cmocka_run_group_tests_name("lapic", tests, NULL, NULL);
}
