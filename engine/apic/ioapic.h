/* SPDX-License-Identifier: MIT */
/*
 * The 82093AA I/O APIC: 24 pins. A pure state machine: messages leave by deliver(); the owner holds its lock around all calls.
 * State is KVM's struct; beside it stand the lines' sources and the pins whose EOI somebody wants to hear.
 */
#ifndef KAGE_APIC_IOAPIC_H
#define KAGE_APIC_IOAPIC_H

#include "apic/lapic.h"

#define IOAPIC_DEFAULT_BASE 0xfec00000ull
#define IOAPIC_SIZE 0x100u

struct ioapic {
	struct kvm_ioapic_state s;
	uint32_t irr_delivered;                  /* edge pins whose IRR bit has been sent */
	uint8_t sources[KVM_IOAPIC_NUM_PINS];    /* level of each source, OR'ed onto the pin */
	uint32_t ack_pins;                       /* edge pins with an EOI listener */
	/* result as irqchip_deliver() */
	int (*deliver)(void *opaque, const struct apic_msg *msg);
	void *opaque;
};

void ioapic_reset(struct ioapic *io);
uint32_t ioapic_read(struct ioapic *io, uint32_t offset);
/* true: a redirection entry changed */
bool ioapic_write(struct ioapic *io, uint32_t offset, uint32_t value);
/* -1 masked or nobody reached, 0 coalesced, >0 delivered */
int ioapic_set_irq(struct ioapic *io, uint32_t pin, uint32_t source, bool level);
/* Pins with this vector that an EOI concerns. */
uint32_t ioapic_eoi_pins(const struct ioapic *io, uint8_t vector);
/* A level-triggered vector ends: Remote IRR goes down, pins still asserted are sent again. */
void ioapic_eoi(struct ioapic *io, uint8_t vector);
/* The vectors whose EOI must come here, as 4 words of 64. */
void ioapic_eoi_vectors(const struct ioapic *io, uint64_t vectors[4]);
void ioapic_get_state(const struct ioapic *io, struct kvm_ioapic_state *out);
void ioapic_set_state(struct ioapic *io, const struct kvm_ioapic_state *in);

#endif
