/* SPDX-License-Identifier: MIT */
/*
 * Inside of struct irqchip: shared by irqchip.c (object, accesses, state) and inject.c (routes, messages, EOIs, ticks).
 */
#ifndef KAGE_APIC_IRQCHIP_H
#define KAGE_APIC_IRQCHIP_H

#include "apic/apic.h"
#include "apic/grace.h"
#include "apic/ioapic.h"
#include "apic/irqfd.h"
#include "apic/pic.h"
#include "apic/pit.h"
#include "apic/routing.h"
#include "apic/timer.h"

#define SOURCE_IRQFD 3u     /* beside enum irq_source */
#define PIT_GSI 0u
#define PIT_TIMER_SLOT 0u   /* of the timer thread; vCPUs follow */
#define PIT_MAX_PENDING 1000 /* lost ticks that are made up for: 10 s at 100 Hz, 1 s at 1000 Hz */

struct irqchip {
	const struct irqchip_ops *ops;
	void *opaque;
	bool split;
	_Atomic uint64_t x2apic_flags;
	_Atomic bool mmio_hole; /* the page of an APIC that does not decode it reads as ones, and is not the client's */
	_Atomic uint32_t split_pins;
	struct apic_timer timer;

	_Atomic uint32_t vcpu_limit; /* one above the highest ID in use */
	_Atomic(struct lapic *) by_id[IRQCHIP_MAX_VCPUS];
	_Atomic uint32_t rotation;          /* lowest-priority arbitration among equals */
	_Atomic uint64_t eoi_vectors[4];    /* vectors whose EOI is wanted */

	pthread_mutex_t lock; /* ioapic, pic, pit and what follows them */
	struct ioapic ioapic;
	struct pic pic;
	struct pit pit;
	_Atomic bool has_pit;
	bool speaker, reinject;
	bool pit_acked;       /* the last tick has been served: the next may go */
	uint64_t pit_pending; /* ticks due that the guest has not served, that in flight included */

	pthread_mutex_t routing_lock; /* writers; the outermost lock */
	struct grace routing_grace;
	_Atomic(struct routing *) routing;
	struct irqfd_set irqfds;
};

/* After a change of redirection entries, routes or listeners. Takes irqchip.lock (and the irqfd lock before it). */
void irqchip_listeners_changed(struct irqchip *chip);
/* The same when only redirection entries changed; irqchip.lock held. */
void irqchip_update_eoi_vectors(struct irqchip *chip);
/* Let go of irqchip.lock, and tell the listeners which 8259 lines ended service meanwhile. */
void irqchip_unlock(struct irqchip *chip);
/* Wake the vCPUs that take the 8259's output; irqchip.lock held. */
void irqchip_kick_pic(struct irqchip *chip);
/* An EOI for an I/O APIC vector (struct lapic_ops). */
void irqchip_eoi(struct irqchip *chip, struct lapic *l, uint8_t vector, bool level);
/* Channel 0 is due; arms its next. No lock held. */
void irqchip_pit_tick(struct irqchip *chip, ns_t now_ns);
/* irqchip.lock held: arm the timer thread for channel 0; nothing of the past is pending any more if restart. */
void irqchip_pit_arm(struct irqchip *chip, bool restart);
/* Start with no irqfds. */
void irqchip_inject_init(struct irqchip *chip);
ns_t irqchip_now(struct irqchip *chip);

#endif
