/* SPDX-License-Identifier: MIT */
/*
 * The I/O APIC alone: registers, edge and level pins, Remote IRR and EOI, sources, state.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "apic/ioapic.h"

static struct {
	int count, result;
	struct apic_msg last;
} sent;

static int fake_deliver(void *opaque, const struct apic_msg *msg)
{
	(void)opaque;
	sent.count++;
	sent.last = *msg;
	return sent.result;
}

static struct ioapic io;

static bool wr(uint32_t reg, uint32_t value)
{
	(void)ioapic_write(&io, 0, reg);
	return ioapic_write(&io, 0x10, value);
}
static uint32_t rd(uint32_t reg)
{
	(void)ioapic_write(&io, 0, reg);
	return ioapic_read(&io, 0x10);
}

static int setup(void **state)
{
	(void)state;
	memset(&sent, 0, sizeof(sent));
	sent.result = 1;
	memset(&io, 0, sizeof(io));
	io.deliver = fake_deliver;
	ioapic_reset(&io);
	return 0;
}

static void registers(void **state)
{
	(void)state;
	assert_int_equal(rd(1), 0x170011);
	assert_false(wr(0, 0xff000000u));
	assert_int_equal(rd(0), 0x0f000000);
	assert_int_equal(rd(2), 0x0f000000);
	assert_int_equal(rd(0x10 + 46), 0x10000);
	assert_true(wr(0x10 + 47, 0xabcdef12u));
	assert_int_equal(rd(0x10 + 47), 0xab000000u);
	assert_true(wr(0x10 + 46, 0xffffffffu));
	assert_int_equal(rd(0x10 + 46), 0x1afff); /* status and Remote IRR are read-only */
	assert_false(wr(0x40, 0));
	assert_int_equal(rd(0x40), 0xffffffffu);
	assert_int_equal(rd(0xff), 0xffffffffu);
	assert_int_equal(ioapic_read(&io, 0x40), 0);
}

static void edge(void **state)
{
	(void)state;
	assert_int_equal(ioapic_set_irq(&io, 4, 0, true), -1); /* masked */
	ioapic_set_irq(&io, 4, 0, false);
	wr(0x10 + 9, 0x05000000);
	wr(0x10 + 8, 0x0931); /* lowest priority, logical */
	assert_int_equal(sent.count, 0);
	assert_int_equal(ioapic_set_irq(&io, 4, 0, true), 1);
	assert_int_equal(sent.last.dest, 5);
	assert_int_equal(sent.last.vector, 0x31);
	assert_int_equal(sent.last.mode, APIC_DM_LOWEST);
	assert_true(sent.last.logical);
	assert_false(sent.last.level);
	assert_int_equal(ioapic_set_irq(&io, 4, 0, true), 0); /* no second edge */
	ioapic_set_irq(&io, 4, 0, false);
	sent.result = 0;
	assert_int_equal(ioapic_set_irq(&io, 4, 0, true), 0); /* coalesced in the IRR */
	assert_int_equal(sent.count, 2);
	assert_int_equal(ioapic_set_irq(&io, 24, 0, true), -1);
}

static void level(void **state)
{
	uint64_t vectors[4];

	(void)state;
	wr(0x10 + 18, 0x18051);
	assert_int_equal(ioapic_set_irq(&io, 9, 0, true), -1);
	wr(0x10 + 18, 0x08051); /* still up when unmasked */
	assert_int_equal(sent.count, 1);
	assert_int_equal(rd(0x10 + 18) & 0x4000, 0x4000);
	assert_int_equal(ioapic_set_irq(&io, 9, 1, true), -1); /* Remote IRR holds it back */
	ioapic_eoi_vectors(&io, vectors);
	assert_true(vectors[1] == 1ull << 0x11);
	assert_int_equal(ioapic_eoi_pins(&io, 0x51), 1u << 9);
	ioapic_eoi(&io, 0x52);
	assert_int_equal(sent.count, 1);
	ioapic_eoi(&io, 0x51);
	assert_int_equal(sent.count, 2); /* still up: again */
	ioapic_set_irq(&io, 9, 0, false);
	ioapic_eoi(&io, 0x51);
	assert_int_equal(sent.count, 3); /* source 1 still holds it */
	ioapic_set_irq(&io, 9, 1, false);
	ioapic_eoi(&io, 0x51);
	assert_int_equal(sent.count, 3);
	assert_int_equal(rd(0x10 + 18) & 0x4000, 0);
	ioapic_set_irq(&io, 9, 0, true);
	wr(0x10 + 18, 0x10051); /* to edge: Remote IRR goes */
	assert_int_equal(rd(0x10 + 18), 0x10051);
}

static void unreached(void **state)
{
	(void)state;
	wr(0x10 + 18, 0x08051);
	sent.result = -1;
	assert_int_equal(ioapic_set_irq(&io, 9, 0, true), -1);
	assert_int_equal(rd(0x10 + 18) & 0x4000, 0); /* nobody will send an EOI */
}

static void state_round_trip(void **state)
{
	struct kvm_ioapic_state s;

	(void)state;
	wr(0x10 + 8, 0x31);
	wr(0x10 + 18, 0x18051);
	ioapic_set_irq(&io, 4, 0, true);
	ioapic_set_irq(&io, 9, 0, true);
	ioapic_get_state(&io, &s);
	assert_int_equal(s.irr, 1u << 9); /* the edge has gone out */
	assert_true(s.base_address == IOAPIC_DEFAULT_BASE);
	s.redirtbl[9].fields.mask = 0;
	s.ioregsel = 0xffffffffu;
	sent.count = 0;
	ioapic_set_state(&io, &s);
	assert_int_equal(sent.count, 1);
	assert_int_equal(sent.last.vector, 0x51);
	assert_int_equal(ioapic_read(&io, 0), 0xff);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(registers, setup), cmocka_unit_test_setup(edge, setup),
		cmocka_unit_test_setup(level, setup), cmocka_unit_test_setup(unreached, setup),
		cmocka_unit_test_setup(state_round_trip, setup),
	};

	return cmocka_run_group_tests_name("ioapic", tests, NULL, NULL);
}
