/* SPDX-License-Identifier: MIT */
/*
 * The GSI routing table (KVM_SET_GSI_ROUTING): an immutable object. Replacing it is the owner's affair (grace.h).
 */
#ifndef KAGE_APIC_ROUTING_H
#define KAGE_APIC_ROUTING_H

#include <linux/kvm.h>

#include "apic/lapic.h"

#define ROUTING_END UINT32_MAX
#define ROUTING_PINS 24

struct routing_entry {
	struct kvm_irq_routing_entry e;
	uint32_t next; /* of the same GSI, or ROUTING_END */
};

struct routing {
	uint32_t gsi_count;
	uint32_t count;
	uint32_t *first;                    /* by GSI: index in entries, or ROUTING_END */
	int32_t gsi_of_pin[3][ROUTING_PINS]; /* by KVM_IRQCHIP_*: -1 none */
	struct routing_entry entries[];
};

/* NULL with errno: EINVAL (what KVM refuses), ENOMEM. no_chips: split, only MSI entries are valid. */
struct routing *routing_new(const struct kvm_irq_routing_entry *entries, uint32_t count, bool no_chips, bool x2apic_format)
	KAGE_MUST_CHECK;
/* As KVM after KVM_CREATE_IRQCHIP: GSI 0-15 to PIC and I/O APIC, 16-23 to the I/O APIC, pin = GSI. */
struct routing *routing_default(void) KAGE_MUST_CHECK;
void routing_free(struct routing *r);
static inline uint32_t routing_first(const struct routing *r, uint32_t gsi)
{
	return gsi < r->gsi_count ? r->first[gsi] : ROUTING_END;
}
/* An MSI's address and data (SDM 3A 11.11). x2apic_format: bits 31:8 of the ID in address_hi. */
struct apic_msg routing_decode_msi(uint64_t address, uint32_t data, bool x2apic_format);
/* Vectors of level-triggered MSI entries of GSIs below pins: the client's I/O APIC waits for their EOI. */
void routing_eoi_vectors(const struct routing *r, uint32_t pins, uint64_t vectors[4]);

#endif
