/* SPDX-License-Identifier: MIT */
/*
 * The chips tied together: routes, MSI, destinations, EOI paths, PIT reinjection, the timer thread, irqfd, ioeventfd.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "apic/apic.h"
#include "apic/routing.h"
#include "apic/timer.h"

static struct {
	_Atomic uint32_t kicked, nmis, inits, eoi_vector;
	_Atomic uint32_t sipi;
} env;

static void fake_kick(void *o, uint32_t i) { (void)o; atomic_fetch_or(&env.kicked, 1u << i); }
static void fake_nmi(void *o, uint32_t i) { (void)o; atomic_fetch_or(&env.nmis, 1u << i); }
static void fake_init(void *o, uint32_t i) { (void)o; atomic_fetch_or(&env.inits, 1u << i); }
static void fake_sipi(void *o, uint32_t i, uint8_t v) { (void)o; env.sipi = i << 8 | v; }
static ns_t fake_tsc(void *o, uint32_t i, uint64_t tsc) { (void)o; (void)i; return tsc; }
static void fake_ioapic_eoi(void *o, uint32_t i, uint8_t v) { (void)o; (void)i; env.eoi_vector = v; }

static const struct irqchip_ops ops = {
	.kick = fake_kick, .nmi = fake_nmi, .init = fake_init, .sipi = fake_sipi,
	.guest_tsc_to_ns = fake_tsc, .ioapic_eoi = fake_ioapic_eoi,
};
static struct irqchip *chip;
static struct lapic *cpu[3];

static void wr(struct lapic *l, gpa_t gpa, uint32_t v) { assert_true(irqchip_mmio_write(chip, l, gpa, &v, 4)); }
static void lapic_wr(struct lapic *l, uint32_t reg, uint32_t v) { wr(l, APIC_DEFAULT_BASE + reg, v); }
static void redir(uint32_t pin, uint64_t v)
{
	for (uint32_t half = 0; half < 2; half++) {
		wr(cpu[0], 0xfec00000, 0x10 + 2 * pin + (1 - half));
		wr(cpu[0], 0xfec00010, (uint32_t)(v >> (32 * (1 - half))));
	}
}
static void out(uint16_t port, uint8_t v) { assert_true(irqchip_pio_write(chip, port, &v, 1)); }
static int serve(struct lapic *l) { return irqchip_vcpu_get_interrupt(chip, l); }
static bool wait_irq(struct lapic *l)
{
	for (int ms = 0; ms < 2000; ms++) {
		if (irqchip_vcpu_has_interrupt(chip, l))
			return true;
		usleep(1000);
	}
	return false;
}
static bool signalled(int fd, int ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	uint64_t n;

	return poll(&p, 1, ms) == 1 && read(fd, &n, sizeof(n)) == sizeof(n);
}

static int make(bool split)
{
	memset(&env, 0, sizeof(env));
	chip = irqchip_new(split, &ops, NULL);
	assert_non_null(chip);
	for (uint32_t i = 0; i < 3; i++) {
		cpu[i] = irqchip_add_vcpu(chip, i, i, i == 0);
		assert_non_null(cpu[i]);
		lapic_wr(cpu[i], APIC_SPIV, 0x1ff);
	}
	return 0;
}
static int setup(void **state) { (void)state; return make(false); }
static int setup_split(void **state) { (void)state; return make(true); }
static int teardown(void **state) { (void)state; irqchip_free(chip); return 0; }

static void default_routes(void **state)
{
	(void)state;
	assert_null(irqchip_add_vcpu(chip, 9, 1, false));
	assert_int_equal(errno, EEXIST);
	assert_int_equal(irqchip_set_irq(chip, IRQ_SOURCE_USER, 23, true), -1);  /* masked */
	assert_int_equal(irqchip_set_irq(chip, IRQ_SOURCE_USER, 100, true), -1); /* no route */
	redir(5, 0x0100000000000045ull);
	assert_true(irqchip_set_irq(chip, IRQ_SOURCE_USER, 5, true) > 0);
	assert_int_equal(env.kicked & 2, 2);
	assert_int_equal(serve(cpu[1]), 0x45);
	assert_int_equal(serve(cpu[1]), -1);
	/* the 8259 had it too: LINT0 of the boot processor */
	assert_int_equal(serve(cpu[0]), 5);
}

static void pic_path(void **state)
{
	(void)state;
	out(0x20, 0x11);
	out(0x21, 0x30);
	out(0x21, 4);
	out(0x21, 1);
	assert_false(irqchip_vcpu_has_interrupt(chip, cpu[0]));
	env.kicked = 0;
	assert_int_equal(irqchip_set_irq(chip, IRQ_SOURCE_USER, 4, true), 1);
	assert_int_equal(env.kicked, 1);
	assert_false(irqchip_vcpu_has_interrupt(chip, cpu[1]));
	assert_int_equal(serve(cpu[0]), 0x34);
	assert_false(irqchip_pio_write(chip, 0x3f8, "", 1));
	assert_false(irqchip_pio_write(chip, 0x40, "", 1)); /* no PIT yet */
}

static void level_eoi(void **state)
{
	(void)state;
	redir(9, 0x8051);
	assert_int_equal(irqchip_set_irq(chip, IRQ_SOURCE_USER, 9, true) > 0, 1);
	out(0x21, 0xff);
	assert_int_equal(serve(cpu[0]), 0x51);
	assert_false(lapic_pv_eoi_allowed(cpu[0]));
	lapic_wr(cpu[0], APIC_EOI, 0);
	assert_int_equal(serve(cpu[0]), 0x51); /* still up */
	irqchip_set_irq(chip, IRQ_SOURCE_USER, 9, false);
	lapic_wr(cpu[0], APIC_EOI, 0);
	assert_int_equal(serve(cpu[0]), -1);
}

static void ipis(void **state)
{
	struct apic_msg m = { .dest = 0x07, .mode = APIC_DM_LOWEST, .vector = 0x60, .logical = true, .assert = true };
	uint32_t hit = 0;

	(void)state;
	lapic_wr(cpu[0], APIC_ICR, 0x000c4500); /* INIT, all others */
	assert_int_equal(env.inits, 6);
	lapic_wr(cpu[0], APIC_ICR2, 2u << 24);
	lapic_wr(cpu[0], APIC_ICR, 0x4699);
	assert_int_equal(env.sipi, 2 << 8 | 0x99);
	lapic_wr(cpu[1], APIC_ICR, 0x00084400); /* NMI, all */
	assert_int_equal(env.nmis, 7);
	lapic_wr(cpu[1], APIC_ICR, 0x00044042); /* self */
	assert_int_equal(serve(cpu[1]), 0x42);
	lapic_eoi(cpu[1]);
	for (uint32_t i = 0; i < 3; i++)
		lapic_wr(cpu[i], APIC_LDR, 1u << (24 + i));
	for (int i = 0; i < 3; i++)
		assert_int_equal(irqchip_deliver(chip, NULL, &m), 1); /* each gets one */
	for (uint32_t i = 0; i < 3; i++)
		hit |= (serve(cpu[i]) == 0x60) << i;
	assert_int_equal(hit, 7);
	lapic_set_cr8(cpu[0], 8);
	lapic_set_cr8(cpu[1], 8);
	m.vector = 0xa0;
	irqchip_deliver(chip, NULL, &m);
	assert_int_equal(serve(cpu[2]), 0xa0); /* the lowest priority */
}

static void msi(void **state)
{
	struct kvm_msi m = { .address_lo = 0xfee01000, .data = 0x4071 };
	struct apic_msg d = routing_decode_msi(0x0000120000000000ull | 0xfee34000, 0x8123, true);

	(void)state;
	assert_int_equal(d.dest, 0x1234);
	assert_true(d.level);
	assert_int_equal(d.mode, APIC_DM_LOWEST);
	assert_int_equal(routing_decode_msi(0x0000120000000000ull | 0xfee34000, 0, false).dest, 0x34);
	assert_int_equal(irqchip_signal_msi(chip, &m), 1);
	assert_int_equal(irqchip_signal_msi(chip, &m), 1);
	assert_int_equal(serve(cpu[1]), 0x71);
	m.address_lo = 0xfee99000;
	assert_int_equal(irqchip_signal_msi(chip, &m), -EPERM);
	m.flags = 2;
	assert_int_equal(irqchip_signal_msi(chip, &m), -EINVAL);
}

static void set_routing(void **state)
{
	struct kvm_irq_routing_entry e[2];

	(void)state;
	memset(e, 0, sizeof(e));
	e[0].gsi = 30;
	e[0].type = KVM_IRQ_ROUTING_MSI;
	e[0].u.msi.address_lo = 0xfee02000;
	e[0].u.msi.data = 0x55;
	assert_int_equal(irqchip_set_routing(chip, e, 1), 0);
	assert_int_equal(irqchip_set_irq(chip, IRQ_SOURCE_USER, 30, true), 1);
	assert_int_equal(irqchip_set_irq(chip, IRQ_SOURCE_USER, 30, true), 0); /* coalesced */
	assert_int_equal(irqchip_set_irq(chip, IRQ_SOURCE_USER, 30, false), -1);
	assert_int_equal(serve(cpu[2]), 0x55);
	e[1] = e[0];
	assert_int_equal(irqchip_set_routing(chip, e, 2), -EINVAL);
	e[1].gsi = 4096;
	assert_int_equal(irqchip_set_routing(chip, e, 2), -EINVAL);
	e[1].gsi = 3;
	e[1].type = KVM_IRQ_ROUTING_IRQCHIP;
	e[1].u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
	e[1].u.irqchip.pin = 24;
	assert_int_equal(irqchip_set_routing(chip, e, 2), -EINVAL);
	e[1].u.irqchip.pin = 23;
	assert_int_equal(irqchip_set_routing(chip, e, 2), 0);
	assert_int_equal(irqchip_set_routing(chip, NULL, 0), 0);
	assert_int_equal(irqchip_set_irq(chip, IRQ_SOURCE_USER, 30, true), -1);
}

static void split_eoi(void **state)
{
	struct kvm_irq_routing_entry e;
	struct kvm_irqchip s = { .chip_id = 2 };

	(void)state;
	memset(&e, 0, sizeof(e));
	e.gsi = 4;
	e.type = KVM_IRQ_ROUTING_MSI;
	e.u.msi.address_lo = 0xfee00000;
	e.u.msi.data = 0x8061;
	irqchip_set_split_pins(chip, 24);
	assert_int_equal(irqchip_set_routing(chip, &e, 1), 0);
	assert_int_equal(irqchip_set_irq(chip, IRQ_SOURCE_USER, 4, true), 1);
	assert_int_equal(serve(cpu[0]), 0x61);
	lapic_wr(cpu[0], APIC_EOI, 0);
	assert_int_equal(env.eoi_vector, 0x61);
	assert_int_equal(irqchip_get_state(chip, &s), -EINVAL);
	assert_int_equal(irqchip_create_pit(chip, 0), -ENOENT);
	assert_false(irqchip_mmio_write(chip, cpu[0], 0xfec00000, &s, 4));
}

static void timer_thread(void **state)
{
	ns_t start = apic_now_ns();

	(void)state;
	lapic_wr(cpu[1], APIC_LVTT, 0x400ec);
	lapic_set_tsc_deadline(cpu[1], start + 3600000000000ull);
	lapic_set_tsc_deadline(cpu[1], start + 5000000);
	lapic_wr(cpu[2], APIC_TDCR, 0xb);
	lapic_wr(cpu[2], APIC_LVTT, 0x200ed);
	lapic_wr(cpu[2], APIC_TMICT, 2000000);
	assert_true(wait_irq(cpu[1]));
	assert_true(apic_now_ns() - start >= 5000000);
	assert_int_equal(serve(cpu[1]), 0xec);
	for (int i = 0; i < 3; i++) {
		assert_true(wait_irq(cpu[2]));
		assert_int_equal(serve(cpu[2]), 0xed);
		lapic_wr(cpu[2], APIC_EOI, 0);
	}
	assert_true(apic_now_ns() - start >= 6000000);
	assert_int_equal(env.kicked & 6, 6);
}

static void pit_reinjection(void **state)
{
	struct kvm_pit_state2 s;

	(void)state;
	assert_int_equal(irqchip_get_pit(chip, &s), -ENXIO);
	assert_int_equal(irqchip_create_pit(chip, KVM_PIT_SPEAKER_DUMMY), 0);
	assert_int_equal(irqchip_create_pit(chip, 0), -EEXIST);
	out(0x21, 0xff);
	redir(0, 0x30);
	out(0x43, 0x34);
	out(0x40, 1193 & 0xff); /* 1 kHz */
	out(0x40, 1193 >> 8);
	assert_true(wait_irq(cpu[0]));
	assert_int_equal(serve(cpu[0]), 0x30);
	assert_false(lapic_pv_eoi_allowed(cpu[0])); /* somebody waits for it */
	usleep(20000);
	assert_int_equal(serve(cpu[0]), -1);
	out(0x43, 0x30); /* stop it; what is due stays due only while it runs */
	lapic_wr(cpu[0], APIC_EOI, 0);
	assert_int_equal(serve(cpu[0]), -1);
	out(0x43, 0x34);
	out(0x40, 1193 & 0xff);
	out(0x40, 1193 >> 8);
	assert_true(wait_irq(cpu[0]));
	assert_int_equal(serve(cpu[0]), 0x30);
	usleep(100000);
	for (int i = 0; i < 10; i++) { /* the missed ones, a hundred if the host was not busy, follow at once */
		lapic_wr(cpu[0], APIC_EOI, 0);
		assert_int_equal(serve(cpu[0]), 0x30);
	}
}

static void irqfds(void **state)
{
	int fd = eventfd(0, EFD_NONBLOCK), re = eventfd(0, EFD_NONBLOCK), level = eventfd(0, 0);
	struct kvm_irqfd a = { .fd = (uint32_t)fd, .gsi = 20 };
	struct kvm_irqfd r = { .fd = (uint32_t)level, .gsi = 21, .flags = KVM_IRQFD_FLAG_RESAMPLE, .resamplefd = (uint32_t)re };

	(void)state;
	redir(20, 0x71);
	redir(21, 0x8072);
	assert_int_equal(irqchip_irqfd(chip, &a), 0);
	assert_int_equal(irqchip_irqfd(chip, &a), -EBUSY);
	assert_int_equal(irqchip_irqfd(chip, &r), 0);
	eventfd_write(fd, 1);
	assert_true(wait_irq(cpu[0]));
	assert_int_equal(serve(cpu[0]), 0x71);
	lapic_wr(cpu[0], APIC_EOI, 0);
	eventfd_write(level, 1);
	assert_true(wait_irq(cpu[0]));
	assert_int_equal(serve(cpu[0]), 0x72);
	assert_false(signalled(re, 0));
	lapic_wr(cpu[0], APIC_EOI, 0);
	assert_true(signalled(re, 0));
	assert_int_equal(serve(cpu[0]), -1); /* the EOI lowered it */
	a.flags = KVM_IRQFD_FLAG_DEASSIGN;
	assert_int_equal(irqchip_irqfd(chip, &a), 0);
	eventfd_write(fd, 1);
	usleep(10000);
	assert_int_equal(serve(cpu[0]), -1);
	a.fd = 1000000;
	assert_int_equal(irqchip_irqfd(chip, &a), -EBADF);
	a.flags = 0x80;
	assert_int_equal(irqchip_irqfd(chip, &a), -EINVAL);
	close(fd);
	close(re);
	close(level);
}

static void ioeventfds(void **state)
{
	struct ioeventfd_table *t = ioeventfd_new();
	int one = eventfd(0, EFD_NONBLOCK), two = eventfd(0, EFD_NONBLOCK);
	struct kvm_ioeventfd a = { .addr = 0x1000, .len = 2, .fd = one, .datamatch = 7,
				   .flags = KVM_IOEVENTFD_FLAG_PIO | KVM_IOEVENTFD_FLAG_DATAMATCH };
	struct kvm_ioeventfd b = { .addr = 0xfe000000, .len = 0, .fd = two };

	(void)state;
	assert_false(ioeventfd_write(t, true, 0x1000, 2, 7));
	assert_int_equal(ioeventfd_ioctl(t, &a), 0);
	assert_int_equal(ioeventfd_ioctl(t, &a), -EEXIST);
	assert_int_equal(ioeventfd_ioctl(t, &b), 0);
	a.datamatch = 8;
	a.fd = two;
	assert_int_equal(ioeventfd_ioctl(t, &a), 0);
	assert_true(ioeventfd_write(t, true, 0x1000, 2, 0x10007)); /* the access is 2 bytes */
	assert_true(signalled(one, 0));
	assert_true(ioeventfd_write(t, true, 0x1000, 2, 8));
	assert_true(signalled(two, 0));
	assert_false(ioeventfd_write(t, true, 0x1000, 2, 9));
	assert_false(ioeventfd_write(t, true, 0x1000, 4, 7));
	assert_false(ioeventfd_write(t, false, 0x1000, 2, 7));
	assert_true(ioeventfd_write(t, false, 0xfe000000, 8, ~0ull));
	assert_true(signalled(two, 0));
	a.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
	assert_int_equal(ioeventfd_ioctl(t, &a), 0);
	assert_int_equal(ioeventfd_ioctl(t, &a), -ENOENT);
	assert_false(ioeventfd_write(t, true, 0x1000, 2, 8));
	b.addr = ~0ull;
	b.len = 8;
	assert_int_equal(ioeventfd_ioctl(t, &b), -EINVAL);
	b.len = 3;
	assert_int_equal(ioeventfd_ioctl(t, &b), -EINVAL);
	b = (struct kvm_ioeventfd){ .flags = KVM_IOEVENTFD_FLAG_DATAMATCH, .fd = one };
	assert_int_equal(ioeventfd_ioctl(t, &b), -EINVAL);
	b = (struct kvm_ioeventfd){ .len = 4, .fd = STDIN_FILENO + 100000 };
	assert_int_equal(ioeventfd_ioctl(t, &b), -EBADF);
	ioeventfd_free(t);
	close(one);
	close(two);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(default_routes, setup, teardown),
		cmocka_unit_test_setup_teardown(pic_path, setup, teardown),
		cmocka_unit_test_setup_teardown(level_eoi, setup, teardown),
		cmocka_unit_test_setup_teardown(ipis, setup, teardown),
		cmocka_unit_test_setup_teardown(msi, setup, teardown),
		cmocka_unit_test_setup_teardown(set_routing, setup, teardown),
		cmocka_unit_test_setup_teardown(split_eoi, setup_split, teardown),
		cmocka_unit_test_setup_teardown(timer_thread, setup, teardown),
		cmocka_unit_test_setup_teardown(pit_reinjection, setup, teardown),
		cmocka_unit_test_setup_teardown(irqfds, setup, teardown),
		cmocka_unit_test(ioeventfds),
	};

	return cmocka_run_group_tests_name("routing", tests, NULL, NULL);
}
