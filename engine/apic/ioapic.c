/* SPDX-License-Identifier: MIT */
/*
 * The I/O APIC (82093AA datasheet; Intel 82093AA 3.2). Redirection entry:
 *   63    56 55           17  16   15    14     13    12    11   10  8 7      0
 *   | dest  | reserved      |mask|trig|rem.IRR|polar|status|dmode|mode |vector |
 */
#include "apic/ioapic.h"

#include <string.h>

#define IOAPIC_REG_SELECT 0x00
#define IOAPIC_REG_WINDOW 0x10
#define IOAPIC_ID 0
#define IOAPIC_VER 1
#define IOAPIC_ARB 2
#define IOAPIC_REDIR 0x10
#define IOAPIC_VERSION 0x11u

#define REDIR_STATUS (1ull << 12)
#define REDIR_REMOTE_IRR (1ull << 14)
#define REDIR_LEVEL (1ull << 15)
#define REDIR_MASKED (1ull << 16)
#define REDIR_READ_ONLY (REDIR_STATUS | REDIR_REMOTE_IRR)
#define REDIR_VALID 0xff0000000001ffffull

_Static_assert(sizeof(((struct kvm_ioapic_state *)0)->redirtbl[0]) == 8, "entries are 64 bits");

static uint64_t *redir(struct ioapic *io, uint32_t pin)
{
	return (uint64_t *)&io->s.redirtbl[pin].bits;
}

void ioapic_reset(struct ioapic *io)
{
	memset(&io->s, 0, sizeof(io->s));
	memset(io->sources, 0, sizeof(io->sources));
	io->s.base_address = IOAPIC_DEFAULT_BASE;
	io->irr_delivered = 0;
	for (uint32_t pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++)
		*redir(io, pin) = REDIR_MASKED;
}

static int service(struct ioapic *io, uint32_t pin)
{
	uint64_t entry = *redir(io, pin);
	struct apic_msg msg = {
		.dest = (uint32_t)(entry >> 56),
		.vector = (uint8_t)entry,
		.mode = entry >> 8 & 7,
		.logical = (entry & 1u << 11) != 0,
		.level = (entry & REDIR_LEVEL) != 0,
		.assert = true,
	};
	int reached;

	if ((entry & REDIR_MASKED) || (msg.level && (entry & REDIR_REMOTE_IRR)))
		return -1;
	reached = io->deliver(io->opaque, &msg);
	if (!msg.level)
		io->irr_delivered |= 1u << pin;
	else if (reached >= 0) /* coalesced too: it is in an IRR, an EOI will come */
		*redir(io, pin) |= REDIR_REMOTE_IRR;
	return reached;
}

int ioapic_set_irq(struct ioapic *io, uint32_t pin, uint32_t source, bool level)
{
	uint32_t bit;
	bool edge, was_up;

	if (pin >= KVM_IOAPIC_NUM_PINS || source >= 8)
		return -1;
	bit = 1u << pin;
	if (level)
		io->sources[pin] |= (uint8_t)(1u << source);
	else
		io->sources[pin] &= (uint8_t)~(1u << source);
	if (!io->sources[pin]) {
		io->s.irr &= ~bit;
		return 1;
	}
	edge = !(*redir(io, pin) & REDIR_LEVEL);
	was_up = (io->s.irr & bit) != 0;
	io->s.irr |= bit;
	if (edge) {
		if (was_up)
			return 0;
		io->irr_delivered &= ~bit;
	}
	return service(io, pin);
}

uint32_t ioapic_eoi_pins(const struct ioapic *io, uint8_t vector)
{
	uint32_t pins = 0;

	for (uint32_t pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++)
		if (io->s.redirtbl[pin].fields.vector == vector)
			pins |= 1u << pin;
	return pins;
}

void ioapic_eoi(struct ioapic *io, uint8_t vector)
{
	for (uint32_t pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++) {
		uint64_t *entry = redir(io, pin);

		if ((uint8_t)*entry != vector || !(*entry & REDIR_LEVEL))
			continue;
		*entry &= ~REDIR_REMOTE_IRR;
		if (io->s.irr & 1u << pin)
			(void)service(io, pin);
	}
}

void ioapic_eoi_vectors(const struct ioapic *io, uint64_t vectors[4])
{
	memset(vectors, 0, 4 * sizeof(vectors[0]));
	for (uint32_t pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++) {
		uint64_t entry = io->s.redirtbl[pin].bits;

		if ((entry & REDIR_LEVEL) || (io->ack_pins & 1u << pin))
			vectors[(uint8_t)entry >> 6] |= 1ull << (entry & 63);
	}
}

static uint32_t read_window(struct ioapic *io)
{
	uint32_t sel = io->s.ioregsel;
	uint32_t pin = (sel - IOAPIC_REDIR) >> 1;

	if (sel == IOAPIC_ID || sel == IOAPIC_ARB)
		return (io->s.id & 0xf) << 24;
	if (sel == IOAPIC_VER)
		return (KVM_IOAPIC_NUM_PINS - 1) << 16 | IOAPIC_VERSION;
	if (sel < IOAPIC_REDIR || pin >= KVM_IOAPIC_NUM_PINS)
		return 0xffffffffu;
	return (uint32_t)(*redir(io, pin) >> ((sel & 1) * 32));
}

static bool write_window(struct ioapic *io, uint32_t value)
{
	uint32_t sel = io->s.ioregsel;
	uint32_t pin = (sel - IOAPIC_REDIR) >> 1;
	uint64_t entry, mask;

	if (sel == IOAPIC_ID)
		io->s.id = value >> 24 & 0xf;
	if (sel < IOAPIC_REDIR || pin >= KVM_IOAPIC_NUM_PINS)
		return false;
	mask = (sel & 1 ? 0xffffffff00000000ull : 0xffffffffull) & REDIR_VALID & ~REDIR_READ_ONLY;
	entry = (*redir(io, pin) & ~mask) | ((uint64_t)value << ((sel & 1) * 32) & mask);
	if (!(entry & REDIR_LEVEL)) /* Linux and Xen turn a stuck pin to edge to clear it */
		entry &= ~REDIR_REMOTE_IRR;
	*redir(io, pin) = entry;
	/* a level line that rose while masked; an edge seen masked is lost, as in the chip */
	if ((entry & REDIR_LEVEL) && (io->s.irr & 1u << pin))
		(void)service(io, pin);
	return true;
}

uint32_t ioapic_read(struct ioapic *io, uint32_t offset)
{
	switch (offset) {
	case IOAPIC_REG_SELECT:
		return io->s.ioregsel;
	case IOAPIC_REG_WINDOW:
		return read_window(io);
	default:
		return 0;
	}
}

bool ioapic_write(struct ioapic *io, uint32_t offset, uint32_t value)
{
	if (offset == IOAPIC_REG_SELECT)
		io->s.ioregsel = value & 0xff;
	return offset == IOAPIC_REG_WINDOW && write_window(io, value);
}

void ioapic_get_state(const struct ioapic *io, struct kvm_ioapic_state *out)
{
	*out = io->s;
	out->irr &= ~io->irr_delivered;
}

void ioapic_set_state(struct ioapic *io, const struct kvm_ioapic_state *in)
{
	uint32_t pending = in->irr;

	io->s = *in;
	io->s.ioregsel &= 0xff;
	io->s.pad = 0;
	io->s.irr = 0;
	io->irr_delivered = 0;
	for (uint32_t pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++) {
		*redir(io, pin) &= REDIR_VALID;
		if (!(pending & 1u << pin))
			continue;
		io->s.irr |= 1u << pin;
		(void)service(io, pin);
	}
}
