/* SPDX-License-Identifier: MIT */
/*
 * struct irqchip: life, the vCPUs' side (pending? acknowledge), MMIO and port accesses, KVM's state ioctls.
 * The way of an interrupt is inject.c; each chip is a file of its own.
 */
#include "apic/irqchip.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define APIC_PAGE_SIZE 0x1000u

ns_t irqchip_now(struct irqchip *chip)
{
	return chip->ops->now_ns ? chip->ops->now_ns(chip->opaque) : apic_now_ns();
}

/* --- what the local APICs ask for ------------------------------------------------------------------------------- */

static void on_kick(void *opaque, struct lapic *l)
{
	struct irqchip *chip = opaque;

	chip->ops->kick(chip->opaque, l->index);
}

static void on_nmi(void *opaque, struct lapic *l)
{
	struct irqchip *chip = opaque;

	chip->ops->nmi(chip->opaque, l->index);
}

static void on_init(void *opaque, struct lapic *l)
{
	struct irqchip *chip = opaque;

	chip->ops->init(chip->opaque, l->index);
}

static void on_sipi(void *opaque, struct lapic *l, uint8_t vector)
{
	struct irqchip *chip = opaque;

	chip->ops->sipi(chip->opaque, l->index, vector);
}

static void on_ipi(void *opaque, struct lapic *from, const struct apic_msg *msg)
{
	(void)irqchip_deliver(opaque, from, msg);
}

static void on_eoi(void *opaque, struct lapic *l, uint8_t vector, bool level)
{
	irqchip_eoi(opaque, l, vector, level);
}

static bool on_eoi_wanted(void *opaque, uint8_t vector)
{
	struct irqchip *chip = opaque;

	return atomic_load_explicit(&chip->eoi_vectors[vector >> 6], memory_order_relaxed) >> (vector & 63) & 1;
}

static void on_arm(void *opaque, struct lapic *l, ns_t deadline_ns)
{
	struct irqchip *chip = opaque;

	apic_timer_arm(&chip->timer, PIT_TIMER_SLOT + 1 + l->vcpu_id, deadline_ns);
}

static ns_t on_now(void *opaque)
{
	return irqchip_now(opaque);
}

static ns_t on_guest_tsc(void *opaque, struct lapic *l, uint64_t guest_tsc)
{
	struct irqchip *chip = opaque;

	return chip->ops->guest_tsc_to_ns(chip->opaque, l->index, guest_tsc);
}

static const struct lapic_ops lapic_side = {
	.kick = on_kick,
	.nmi = on_nmi,
	.init = on_init,
	.sipi = on_sipi,
	.ipi = on_ipi,
	.eoi = on_eoi,
	.eoi_wanted = on_eoi_wanted,
	.arm = on_arm,
	.now_ns = on_now,
	.guest_tsc_to_ns = on_guest_tsc,
};

static int deliver_pin(void *opaque, const struct apic_msg *msg)
{
	return irqchip_deliver(opaque, NULL, msg);
}

static void lapic_due(void *opaque, ns_t now_ns)
{
	(void)lapic_timer_expired(opaque, now_ns);
}

static void pit_due(void *opaque, ns_t now_ns)
{
	irqchip_pit_tick(opaque, now_ns);
}

/* --- life ------------------------------------------------------------------------------------------------------- */

struct irqchip *irqchip_new(bool split, const struct irqchip_ops *ops, void *opaque)
{
	struct irqchip *chip = calloc(1, sizeof(*chip));
	int err;

	if (!chip)
		return NULL;
	chip->ops = ops;
	chip->opaque = opaque;
	chip->split = split;
	chip->reinject = true;
	atomic_store(&chip->mmio_hole, true);
	atomic_store(&chip->routing, split ? routing_new(NULL, 0, true, false) : routing_default());
	if (!atomic_load(&chip->routing)) {
		err = -ENOMEM;
		goto out_free;
	}
	err = apic_timer_start(&chip->timer, IRQCHIP_MAX_VCPUS + 1);
	if (err)
		goto out_routing;
	apic_timer_attach(&chip->timer, PIT_TIMER_SLOT, pit_due, chip);
	pthread_mutex_init(&chip->lock, NULL);
	pthread_mutex_init(&chip->routing_lock, NULL);
	irqchip_inject_init(chip);
	chip->ioapic.deliver = deliver_pin;
	chip->ioapic.opaque = chip;
	ioapic_reset(&chip->ioapic);
	pic_reset(&chip->pic);
	return chip;

out_routing:
	routing_free(atomic_load(&chip->routing));
out_free:
	free(chip);
	errno = -err;
	return NULL;
}

void irqchip_free(struct irqchip *chip)
{
	if (!chip)
		return;
	irqfd_fini(&chip->irqfds);
	apic_timer_stop(&chip->timer);
	for (uint32_t id = 0; id < IRQCHIP_MAX_VCPUS; id++) {
		struct lapic *l = atomic_load(&chip->by_id[id]);

		if (l)
			lapic_fini(l);
		free(l);
	}
	routing_free(atomic_load(&chip->routing));
	pthread_mutex_destroy(&chip->lock);
	pthread_mutex_destroy(&chip->routing_lock);
	free(chip);
}

bool irqchip_is_split(const struct irqchip *chip)
{
	return chip->split;
}

void irqchip_set_split_pins(struct irqchip *chip, uint32_t count)
{
	atomic_store(&chip->split_pins, count);
	irqchip_listeners_changed(chip);
}

void irqchip_set_x2apic_api(struct irqchip *chip, uint64_t flags)
{
	atomic_fetch_or(&chip->x2apic_flags, flags);
}

void irqchip_set_mmio_hole(struct irqchip *chip, bool on)
{
	atomic_store(&chip->mmio_hole, on);
}

int irqchip_create_pit(struct irqchip *chip, uint32_t flags)
{
	if (chip->split)
		return -ENOENT;
	pthread_mutex_lock(&chip->lock);
	if (atomic_load(&chip->has_pit)) {
		pthread_mutex_unlock(&chip->lock);
		return -EEXIST;
	}
	pit_reset(&chip->pit, 0, irqchip_now(chip));
	chip->speaker = flags & KVM_PIT_SPEAKER_DUMMY;
	irqchip_pit_arm(chip, true);
	atomic_store(&chip->has_pit, true);
	pthread_mutex_unlock(&chip->lock);
	irqchip_listeners_changed(chip);
	return 0;
}

bool irqchip_has_pit(const struct irqchip *chip)
{
	return atomic_load(&chip->has_pit);
}

struct lapic *irqchip_add_vcpu(struct irqchip *chip, uint32_t index, uint32_t vcpu_id, bool bsp)
{
	struct lapic *l, *nobody = NULL;
	uint32_t limit;

	if (vcpu_id >= IRQCHIP_MAX_VCPUS) {
		errno = EINVAL;
		return NULL;
	}
	l = aligned_alloc(_Alignof(struct lapic), sizeof(*l));
	if (!l)
		return NULL;
	lapic_init(l, index, vcpu_id, &lapic_side, chip);
	l->directed_eoi = chip->split; /* as KVM: only where the I/O APIC has an EOI register */
	lapic_reset(l, false, bsp);
	if (!atomic_compare_exchange_strong(&chip->by_id[vcpu_id], &nobody, l)) {
		lapic_fini(l);
		free(l);
		errno = EEXIST;
		return NULL;
	}
	apic_timer_attach(&chip->timer, PIT_TIMER_SLOT + 1 + vcpu_id, lapic_due, l); /* nothing is armed yet */
	limit = atomic_load(&chip->vcpu_limit);
	while (limit <= vcpu_id && !atomic_compare_exchange_weak(&chip->vcpu_limit, &limit, vcpu_id + 1))
		;
	return l;
}

/* --- the run loop ----------------------------------------------------------------------------------------------- */

bool irqchip_vcpu_has_interrupt(struct irqchip *chip, struct lapic *l)
{
	if (atomic_load_explicit(&chip->pic.output, memory_order_acquire) && lapic_accepts_pic(l))
		return true;
	return lapic_has_interrupt(l) >= 0;
}

int irqchip_vcpu_get_interrupt(struct irqchip *chip, struct lapic *l)
{
	int vector = -1;

	if (atomic_load(&chip->pic.output) && lapic_accepts_pic(l)) {
		pthread_mutex_lock(&chip->lock);
		if (atomic_load(&chip->pic.output)) /* another vCPU may have been faster */
			vector = pic_ack(&chip->pic);
		irqchip_unlock(chip);
		if (vector >= 0)
			return vector;
	}
	vector = lapic_has_interrupt(l);
	if (vector >= 0)
		lapic_ack(l, vector);
	return vector;
}

/* --- accesses --------------------------------------------------------------------------------------------------- */

static bool in_apic_page(const struct lapic *l, gpa_t gpa)
{
	return gpa - (lapic_base(l) & ~0xfffull) < APIC_PAGE_SIZE;
}

/* The tick in flight may never be acknowledged by the new entry. irqchip.lock held. */
static void reset_pit_reinjection(struct irqchip *chip)
{
	chip->pit_acked = true;
	chip->pit_pending = 0;
}

static bool in_ioapic(const struct irqchip *chip, gpa_t gpa)
{
	return !chip->split && gpa - chip->ioapic.s.base_address < IOAPIC_SIZE;
}

bool irqchip_mmio_read(struct irqchip *chip, struct lapic *l, gpa_t gpa, void *data, uint32_t len)
{
	uint32_t value;

	if (in_apic_page(l, gpa)) {
		bool decodes = lapic_hw_enabled(l) && !lapic_x2apic(l);

		if (decodes)
			lapic_mmio_read(l, (uint32_t)(gpa & 0xfff), data, len);
		else
			memset(data, 0xff, len);
		return decodes || atomic_load(&chip->mmio_hole);
	}
	if (!in_ioapic(chip, gpa))
		return false;
	pthread_mutex_lock(&chip->lock);
	value = ioapic_read(&chip->ioapic, (uint32_t)(gpa - chip->ioapic.s.base_address));
	pthread_mutex_unlock(&chip->lock);
	memset(data, 0, len);
	memcpy(data, &value, len < sizeof(value) ? len : sizeof(value));
	return true;
}

bool irqchip_mmio_write(struct irqchip *chip, struct lapic *l, gpa_t gpa, const void *data, uint32_t len)
{
	uint32_t value = 0;

	if (in_apic_page(l, gpa)) {
		bool decodes = lapic_hw_enabled(l) && !lapic_x2apic(l);

		if (decodes)
			lapic_mmio_write(l, (uint32_t)(gpa & 0xfff), data, len);
		return decodes || atomic_load(&chip->mmio_hole);
	}
	if (!in_ioapic(chip, gpa))
		return false;
	memcpy(&value, data, len < sizeof(value) ? len : sizeof(value));
	pthread_mutex_lock(&chip->lock);
	if (ioapic_write(&chip->ioapic, (uint32_t)(gpa - chip->ioapic.s.base_address), value)) {
		irqchip_update_eoi_vectors(chip);
		if (chip->ioapic.ack_pins >> ((chip->ioapic.s.ioregsel - 0x10) / 2) & 1)
			reset_pit_reinjection(chip);
	}
	pthread_mutex_unlock(&chip->lock);
	return true;
}

static bool is_pic_port(const struct irqchip *chip, uint16_t port)
{
	return !chip->split && ((port & ~0x81u) == 0x20 || (port & ~1u) == 0x4d0);
}

static bool is_pit_port(const struct irqchip *chip, uint16_t port)
{
	return atomic_load(&chip->has_pit) && ((port & ~3u) == 0x40 || (port == 0x61 && chip->speaker));
}

bool irqchip_pio_read(struct irqchip *chip, uint16_t port, void *data, uint32_t len)
{
	bool pic = is_pic_port(chip, port);
	uint8_t value;

	if (!pic && !is_pit_port(chip, port))
		return false;
	pthread_mutex_lock(&chip->lock);
	value = pic ? pic_read(&chip->pic, port) : pit_read(&chip->pit, port, irqchip_now(chip));
	irqchip_unlock(chip);
	/* these are byte registers */
	memset(data, 0, len);
	memcpy(data, &value, len ? 1 : 0);
	return true;
}

bool irqchip_pio_write(struct irqchip *chip, uint16_t port, const void *data, uint32_t len)
{
	bool pic = is_pic_port(chip, port);
	uint64_t loads;

	if (!pic && !is_pit_port(chip, port))
		return false;
	if (!len)
		return true;
	pthread_mutex_lock(&chip->lock);
	if (pic) {
		pic_write(&chip->pic, port, *(const uint8_t *)data);
		irqchip_kick_pic(chip);
	} else {
		loads = pit_next_expiry(&chip->pit);
		pit_write(&chip->pit, port, *(const uint8_t *)data, irqchip_now(chip));
		if (loads != pit_next_expiry(&chip->pit))
			irqchip_pit_arm(chip, true);
	}
	irqchip_unlock(chip);
	return true;
}

/* --- state ------------------------------------------------------------------------------------------------------ */

int irqchip_get_state(struct irqchip *chip, struct kvm_irqchip *state)
{
	if (chip->split || state->chip_id > KVM_IRQCHIP_IOAPIC)
		return -EINVAL;
	pthread_mutex_lock(&chip->lock);
	if (state->chip_id == KVM_IRQCHIP_IOAPIC)
		ioapic_get_state(&chip->ioapic, &state->chip.ioapic);
	else
		state->chip.pic = chip->pic.chip[state->chip_id];
	pthread_mutex_unlock(&chip->lock);
	return 0;
}

int irqchip_set_state(struct irqchip *chip, const struct kvm_irqchip *state)
{
	if (chip->split || state->chip_id > KVM_IRQCHIP_IOAPIC)
		return -EINVAL;
	pthread_mutex_lock(&chip->lock);
	if (state->chip_id == KVM_IRQCHIP_IOAPIC) {
		ioapic_set_state(&chip->ioapic, &state->chip.ioapic);
		irqchip_update_eoi_vectors(chip);
		reset_pit_reinjection(chip);
	} else {
		pic_set_state(&chip->pic, state->chip_id, &state->chip.pic);
		irqchip_kick_pic(chip);
	}
	irqchip_unlock(chip);
	return 0;
}

int irqchip_get_pit(struct irqchip *chip, struct kvm_pit_state2 *state)
{
	if (!irqchip_has_pit(chip))
		return -ENXIO;
	pthread_mutex_lock(&chip->lock);
	pit_get_state(&chip->pit, state);
	pthread_mutex_unlock(&chip->lock);
	return 0;
}

int irqchip_set_pit(struct irqchip *chip, const struct kvm_pit_state2 *state)
{
	int err;

	if (!irqchip_has_pit(chip))
		return -ENXIO;
	pthread_mutex_lock(&chip->lock);
	err = pit_set_state(&chip->pit, state, irqchip_now(chip));
	if (!err)
		irqchip_pit_arm(chip, true);
	pthread_mutex_unlock(&chip->lock);
	return err;
}

int irqchip_set_pit_reinject(struct irqchip *chip, bool reinject)
{
	if (!irqchip_has_pit(chip))
		return -ENXIO;
	pthread_mutex_lock(&chip->lock);
	chip->reinject = reinject;
	reset_pit_reinjection(chip);
	pthread_mutex_unlock(&chip->lock);
	return 0;
}

void irqchip_get_lapic(struct irqchip *chip, struct lapic *l, struct kvm_lapic_state *state)
{
	lapic_get_state(l, state, atomic_load(&chip->x2apic_flags) & KVM_X2APIC_API_USE_32BIT_IDS);
}

int irqchip_set_lapic(struct irqchip *chip, struct lapic *l, const struct kvm_lapic_state *state)
{
	return lapic_set_state(l, state, atomic_load(&chip->x2apic_flags) & KVM_X2APIC_API_USE_32BIT_IDS);
}
