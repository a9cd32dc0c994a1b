/* SPDX-License-Identifier: MIT */
/*
 * How an interrupt finds its way: GSI -> route -> chip pin or MSI -> local APICs, and how its EOI finds the way back to the
 * PIT and to resamplefds. Lock order: see apic.h.
 */
#include <errno.h>
#include <string.h>

#include "apic/irqchip.h"

/* --- messages to local APICs ------------------------------------------------------------------------------------ */

static struct lapic *lapic_by_id(struct irqchip *chip, uint32_t id)
{
	return id < IRQCHIP_MAX_VCPUS ? atomic_load_explicit(&chip->by_id[id], memory_order_acquire) : NULL;
}

/* The one with the lowest processor priority; among equals they take turns. */
static int deliver_lowest(struct irqchip *chip, const struct apic_msg *msg)
{
	uint32_t limit = atomic_load(&chip->vcpu_limit);
	uint32_t start = atomic_fetch_add_explicit(&chip->rotation, 1, memory_order_relaxed);
	struct lapic *best = NULL;

	for (uint32_t i = 0; i < limit; i++) {
		struct lapic *l = lapic_by_id(chip, (start + i) % limit);

		if (!l || !lapic_match(l, msg) || !lapic_sw_enabled(l))
			continue;
		if (!best || lapic_ppr(l) >> 4 < lapic_ppr(best) >> 4)
			best = l;
	}
	return best ? lapic_accept(best, msg) : -1;
}

int irqchip_deliver(struct irqchip *chip, const struct lapic *from, const struct apic_msg *msg)
{
	uint32_t limit = atomic_load(&chip->vcpu_limit);
	struct lapic *l;
	int reached = -1;

	if (msg->shorthand == APIC_DEST_NONE) {
		if (msg->mode == APIC_DM_LOWEST)
			return deliver_lowest(chip, msg);
		/* the usual case: one processor by its ID */
		l = msg->logical ? NULL : lapic_by_id(chip, msg->dest);
		if (l && msg->dest != 0xff && lapic_match(l, msg))
			return lapic_accept(l, msg);
	}
	for (uint32_t id = 0; id < limit; id++) {
		int result;

		l = lapic_by_id(chip, id);
		if (!l)
			continue;
		if (msg->shorthand == APIC_DEST_NONE ? !lapic_match(l, msg) :
		    msg->shorthand == APIC_DEST_SELF ? l != from :
		    msg->shorthand == APIC_DEST_OTHERS ? l == from : false)
			continue;
		result = lapic_accept(l, msg);
		if (result >= 0)
			reached = (reached < 0 ? 0 : reached) + result;
	}
	return reached;
}

static struct apic_msg msi_message(struct irqchip *chip, uint64_t address, uint32_t data)
{
	uint64_t flags = atomic_load_explicit(&chip->x2apic_flags, memory_order_relaxed);
	struct apic_msg msg = routing_decode_msi(address, data, flags & KVM_X2APIC_API_USE_32BIT_IDS);

	msg.x2apic = (flags & KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK) != 0;
	return msg;
}

static int deliver_msi(struct irqchip *chip, uint64_t address, uint32_t data)
{
	struct apic_msg msg = msi_message(chip, address, data);

	return irqchip_deliver(chip, NULL, &msg);
}

static bool anyone_matches(struct irqchip *chip, const struct apic_msg *msg)
{
	uint32_t limit = atomic_load(&chip->vcpu_limit);

	for (uint32_t id = 0; id < limit; id++) {
		struct lapic *l = lapic_by_id(chip, id);

		if (l && lapic_match(l, msg))
			return true;
	}
	return false;
}

int irqchip_signal_msi(struct irqchip *chip, const struct kvm_msi *msi)
{
	struct apic_msg msg;
	int reached;

	bool x2apic_format = atomic_load(&chip->x2apic_flags) & KVM_X2APIC_API_USE_32BIT_IDS;

	if ((msi->flags & ~KVM_MSI_VALID_DEVID) || (x2apic_format && (msi->address_hi & 0xff)))
		return -EINVAL;
	if ((msi->address_hi & 0xff) && (atomic_load(&chip->x2apic_flags) & KVM_X2APIC_API_USE_32BIT_IDS))
		return -EINVAL; /* reserved in that format */
	msg = msi_message(chip, (uint64_t)msi->address_hi << 32 | msi->address_lo, msi->data);
	reached = irqchip_deliver(chip, NULL, &msg);
	if (reached < 0) /* 0 says that the guest blocks it; the kernel's answer for one that is nobody's is a plain -1 */
		return anyone_matches(chip, &msg) ? 0 : -EPERM;
	return reached > 0 ? reached : 1; /* one that is pending already is delivered */
}

/* --- GSIs ------------------------------------------------------------------------------------------------------- */

void irqchip_kick_pic(struct irqchip *chip)
{
	uint32_t limit = atomic_load(&chip->vcpu_limit);

	if (!atomic_load(&chip->pic.output))
		return;
	for (uint32_t id = 0; id < limit; id++) {
		struct lapic *l = lapic_by_id(chip, id);

		if (l && lapic_accepts_pic(l))
			chip->ops->kick(chip->opaque, l->index);
	}
}

static int set_entry(struct irqchip *chip, uint32_t source, const struct kvm_irq_routing_entry *e, bool level)
{
	int result;

	if (e->type == KVM_IRQ_ROUTING_MSI)
		return level ? deliver_msi(chip, (uint64_t)e->u.msi.address_hi << 32 | e->u.msi.address_lo, e->u.msi.data) : -1;
	pthread_mutex_lock(&chip->lock);
	if (e->u.irqchip.irqchip == KVM_IRQCHIP_IOAPIC) {
		result = ioapic_set_irq(&chip->ioapic, e->u.irqchip.pin, source, level);
	} else {
		result = pic_set_irq(&chip->pic, e->u.irqchip.irqchip * 8 + e->u.irqchip.pin, source, level);
		irqchip_kick_pic(chip);
	}
	pthread_mutex_unlock(&chip->lock);
	return result;
}

static int set_gsi(struct irqchip *chip, uint32_t source, uint32_t gsi, bool level)
{
	unsigned side = grace_enter(&chip->routing_grace);
	const struct routing *r = atomic_load(&chip->routing);
	int total = -1;

	for (uint32_t i = routing_first(r, gsi); i != ROUTING_END; i = r->entries[i].next) {
		int result = set_entry(chip, source, &r->entries[i].e, level);

		if (result >= 0)
			total = (total < 0 ? 0 : total) + result;
	}
	grace_leave(&chip->routing_grace, side);
	return total;
}

int irqchip_set_irq(struct irqchip *chip, enum irq_source source, uint32_t gsi, bool level)
{
	return set_gsi(chip, source, gsi, level);
}

static void irqfd_set(void *opaque, uint32_t gsi, bool resample, bool level)
{
	set_gsi(opaque, resample ? IRQ_SOURCE_RESAMPLE : SOURCE_IRQFD, gsi, level);
}

int irqchip_irqfd(struct irqchip *chip, const struct kvm_irqfd *args)
{
	int err;

	if (chip->split && (args->flags & KVM_IRQFD_FLAG_RESAMPLE))
		return -EINVAL; /* EOIs of its I/O APIC are the client's to see */
	err = irqfd_ioctl(&chip->irqfds, args);
	if (!err && (args->flags & KVM_IRQFD_FLAG_RESAMPLE))
		irqchip_listeners_changed(chip);
	return err;
}

int irqchip_set_routing(struct irqchip *chip, const struct kvm_irq_routing_entry *entries, uint32_t count)
{
	uint64_t flags = atomic_load(&chip->x2apic_flags);
	struct routing *fresh, *old;

	fresh = routing_new(entries, count, chip->split, flags & KVM_X2APIC_API_USE_32BIT_IDS);
	if (!fresh)
		return -errno;
	pthread_mutex_lock(&chip->routing_lock);
	old = atomic_exchange(&chip->routing, fresh);
	grace_wait(&chip->routing_grace);
	pthread_mutex_unlock(&chip->routing_lock);
	routing_free(old);
	irqchip_listeners_changed(chip);
	return 0;
}

/* --- the way back ----------------------------------------------------------------------------------------------- */

void irqchip_update_eoi_vectors(struct irqchip *chip)
{
	uint64_t vectors[4];

	ioapic_eoi_vectors(&chip->ioapic, vectors);
	for (int i = 0; i < 4; i++)
		atomic_store_explicit(&chip->eoi_vectors[i], vectors[i], memory_order_relaxed);
}

void irqchip_listeners_changed(struct irqchip *chip)
{
	uint32_t ack_pins = 0;
	uint64_t vectors[4];
	int32_t gsi_of_pin[ROUTING_PINS];
	unsigned side = grace_enter(&chip->routing_grace);
	const struct routing *r = atomic_load(&chip->routing);

	memcpy(gsi_of_pin, r->gsi_of_pin[KVM_IRQCHIP_IOAPIC], sizeof(gsi_of_pin));
	routing_eoi_vectors(r, atomic_load(&chip->split_pins), vectors);
	grace_leave(&chip->routing_grace, side);
	if (chip->split) {
		for (int i = 0; i < 4; i++)
			atomic_store_explicit(&chip->eoi_vectors[i], vectors[i], memory_order_relaxed);
		return;
	}
	for (uint32_t pin = 0; pin < ROUTING_PINS; pin++)
		if ((gsi_of_pin[pin] == PIT_GSI && atomic_load(&chip->has_pit)) ||
		    (gsi_of_pin[pin] >= 0 && irqfd_wants_ack(&chip->irqfds, (uint32_t)gsi_of_pin[pin])))
			ack_pins |= 1u << pin;
	pthread_mutex_lock(&chip->lock);
	chip->ioapic.ack_pins = ack_pins;
	irqchip_update_eoi_vectors(chip);
	pthread_mutex_unlock(&chip->lock);
}

/*
 * The timer thread pulses, and so does a vCPU that makes up for lost ticks, maybe before the other has lowered the line:
 * without an edge of its own the pulse would go nowhere, and the acknowledgement that the next waits for would never come.
 */
static void pulse_pit(struct irqchip *chip)
{
	int reached;

	(void)irqchip_set_irq(chip, IRQ_SOURCE_PIT, PIT_GSI, false);
	reached = irqchip_set_irq(chip, IRQ_SOURCE_PIT, PIT_GSI, true);

	(void)irqchip_set_irq(chip, IRQ_SOURCE_PIT, PIT_GSI, false);
	if (reached >= 0)
		return;
	/* masked everywhere: nobody will acknowledge it, nobody misses it */
	pthread_mutex_lock(&chip->lock);
	chip->pit_acked = true;
	chip->pit_pending = 0;
	pthread_mutex_unlock(&chip->lock);
}

static void ack_pit(struct irqchip *chip)
{
	bool again = false;

	pthread_mutex_lock(&chip->lock);
	if (chip->reinject && !chip->pit_acked) {
		if (chip->pit_pending)
			chip->pit_pending--;
		again = chip->pit_pending > 0;
		chip->pit_acked = !again;
	}
	pthread_mutex_unlock(&chip->lock);
	if (again)
		pulse_pit(chip);
}

static void notify_ack(struct irqchip *chip, uint32_t which, uint32_t pin)
{
	unsigned side = grace_enter(&chip->routing_grace);
	int32_t gsi = atomic_load(&chip->routing)->gsi_of_pin[which][pin];

	grace_leave(&chip->routing_grace, side);
	if (gsi < 0)
		return;
	if (gsi == PIT_GSI && atomic_load(&chip->has_pit))
		ack_pit(chip);
	irqfd_acked(&chip->irqfds, (uint32_t)gsi);
}

void irqchip_unlock(struct irqchip *chip)
{
	uint32_t acked = chip->pic.acked;

	chip->pic.acked = 0;
	pthread_mutex_unlock(&chip->lock);
	for (; acked; acked &= acked - 1) {
		uint32_t line = (uint32_t)__builtin_ctz(acked);

		notify_ack(chip, line >> 3, line & 7);
	}
}

void irqchip_eoi(struct irqchip *chip, struct lapic *l, uint8_t vector, bool level)
{
	uint32_t pins;

	if (chip->split) {
		uint64_t wanted = atomic_load_explicit(&chip->eoi_vectors[vector >> 6], memory_order_relaxed);

		if (level && (wanted >> (vector & 63) & 1) && chip->ops->ioapic_eoi)
			chip->ops->ioapic_eoi(chip->opaque, l->index, vector);
		return;
	}
	pthread_mutex_lock(&chip->lock);
	pins = ioapic_eoi_pins(&chip->ioapic, vector);
	pthread_mutex_unlock(&chip->lock);
	/* listeners first: a resampled line is down by the time that the pin is looked at again */
	for (uint32_t left = pins; left; left &= left - 1)
		notify_ack(chip, KVM_IRQCHIP_IOAPIC, (uint32_t)__builtin_ctz(left));
	if (!level)
		return;
	pthread_mutex_lock(&chip->lock);
	ioapic_eoi(&chip->ioapic, vector);
	pthread_mutex_unlock(&chip->lock);
}

/* --- the PIT's ticks -------------------------------------------------------------------------------------------- */

void irqchip_pit_arm(struct irqchip *chip, bool restart)
{
	if (restart) {
		chip->pit_acked = true;
		chip->pit_pending = 0;
	}
	apic_timer_arm(&chip->timer, PIT_TIMER_SLOT, pit_next_expiry(&chip->pit));
}

void irqchip_pit_tick(struct irqchip *chip, ns_t now_ns)
{
	bool inject;
	uint64_t due;

	pthread_mutex_lock(&chip->lock);
	due = pit_expired(&chip->pit, now_ns);
	inject = due > 0;
	if (chip->reinject) {
		chip->pit_pending += due;
		if (chip->pit_pending > PIT_MAX_PENDING)
			chip->pit_pending = PIT_MAX_PENDING;
		inject = inject && chip->pit_acked;
		if (inject)
			chip->pit_acked = false;
	}
	irqchip_pit_arm(chip, false);
	pthread_mutex_unlock(&chip->lock);
	if (inject)
		pulse_pit(chip);
}

void irqchip_inject_init(struct irqchip *chip)
{
	irqfd_init(&chip->irqfds, irqfd_set, chip);
}
