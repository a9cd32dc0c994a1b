/* SPDX-License-Identifier: MIT */
/*
 * GSI routing: checks that KVM makes, lookup by GSI and by chip pin, the MSI format.
 *   MSI address  63:40 ID 31:8 (x2APIC format only) | 31:20 0xfee | 19:12 ID 7:0 | 3 redirection hint | 2 logical
 *   MSI data     15 level | 14 assert | 10:8 delivery mode | 7:0 vector
 */
#include "apic/routing.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MAX_ROUTES 4096 /* KVM_MAX_IRQ_ROUTES */

static bool entry_valid(const struct kvm_irq_routing_entry *e, bool no_chips, bool x2apic_format)
{
	static const uint32_t pins[3] = { 8, 8, KVM_IOAPIC_NUM_PINS };

	/* A device ID is other architectures', but the kernel lets it pass. */
	if (e->gsi >= MAX_ROUTES || (e->flags & ~(e->type == KVM_IRQ_ROUTING_MSI ? KVM_MSI_VALID_DEVID : 0u)))
		return false;
	switch (e->type) {
	case KVM_IRQ_ROUTING_IRQCHIP:
		return !no_chips && e->u.irqchip.irqchip < 3 && e->u.irqchip.pin < pins[e->u.irqchip.irqchip];
	case KVM_IRQ_ROUTING_MSI:
		return !x2apic_format || !(e->u.msi.address_hi & 0xff);
	default:
		return false;
	}
}

/* One chip has a GSI once; an MSI has its GSI for itself. */
static bool conflicts(const struct routing *r, const struct kvm_irq_routing_entry *e)
{
	for (uint32_t i = r->first[e->gsi]; i != ROUTING_END; i = r->entries[i].next) {
		const struct kvm_irq_routing_entry *other = &r->entries[i].e;

		if (e->type != KVM_IRQ_ROUTING_IRQCHIP || other->type != KVM_IRQ_ROUTING_IRQCHIP ||
		    e->u.irqchip.irqchip == other->u.irqchip.irqchip)
			return true;
	}
	return false;
}

struct routing *routing_new(const struct kvm_irq_routing_entry *entries, uint32_t count, bool no_chips, bool x2apic_format)
{
	uint32_t gsi_count = 0;
	struct routing *r;

	if (count > MAX_ROUTES)
		goto out_invalid;
	for (uint32_t i = 0; i < count; i++) {
		if (!entry_valid(&entries[i], no_chips, x2apic_format))
			goto out_invalid;
		if (entries[i].gsi >= gsi_count)
			gsi_count = entries[i].gsi + 1;
	}
	r = calloc(1, sizeof(*r) + count * sizeof(r->entries[0]));
	if (!r)
		return NULL;
	r->first = malloc((gsi_count + 1) * sizeof(r->first[0]));
	if (!r->first) {
		free(r);
		return NULL;
	}
	r->gsi_count = gsi_count;
	for (uint32_t gsi = 0; gsi < gsi_count; gsi++)
		r->first[gsi] = ROUTING_END;
	for (uint32_t chip = 0; chip < 3; chip++)
		for (uint32_t pin = 0; pin < ROUTING_PINS; pin++)
			r->gsi_of_pin[chip][pin] = -1;
	for (; r->count < count; r->count++) {
		const struct kvm_irq_routing_entry *e = &entries[r->count];

		if (conflicts(r, e)) {
			routing_free(r);
			goto out_invalid;
		}
		r->entries[r->count] = (struct routing_entry){ .e = *e, .next = r->first[e->gsi] };
		r->first[e->gsi] = r->count;
		if (e->type == KVM_IRQ_ROUTING_IRQCHIP)
			r->gsi_of_pin[e->u.irqchip.irqchip][e->u.irqchip.pin] = (int32_t)e->gsi;
	}
	return r;

out_invalid:
	errno = EINVAL;
	return NULL;
}

struct routing *routing_default(void)
{
	struct kvm_irq_routing_entry entries[16 + KVM_IOAPIC_NUM_PINS];
	uint32_t n = 0;

	memset(entries, 0, sizeof(entries));
	for (uint32_t gsi = 0; gsi < KVM_IOAPIC_NUM_PINS; gsi++) {
		entries[n].gsi = gsi;
		entries[n].type = KVM_IRQ_ROUTING_IRQCHIP;
		entries[n].u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
		entries[n++].u.irqchip.pin = gsi;
		if (gsi >= 16)
			continue;
		entries[n].gsi = gsi;
		entries[n].type = KVM_IRQ_ROUTING_IRQCHIP;
		entries[n].u.irqchip.irqchip = gsi < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE;
		entries[n++].u.irqchip.pin = gsi & 7;
	}
	return routing_new(entries, n, false, false);
}

void routing_free(struct routing *r)
{
	if (!r)
		return;
	free(r->first);
	free(r);
}

struct apic_msg routing_decode_msi(uint64_t address, uint32_t data, bool x2apic_format)
{
	struct apic_msg msg = {
		.dest = (uint32_t)(address >> 12) & 0xff,
		.vector = (uint8_t)data,
		.mode = data >> 8 & 7,
		.logical = (address & 1u << 2) != 0,
		.level = (data & 1u << 15) != 0,
		.assert = true,
	};

	if (x2apic_format)
		msg.dest |= (uint32_t)(address >> 32) & 0xffffff00u;
	if ((address & 1u << 3) && msg.logical && msg.mode == APIC_DM_FIXED)
		msg.mode = APIC_DM_LOWEST; /* the redirection hint asks for one of them */
	return msg;
}

void routing_eoi_vectors(const struct routing *r, uint32_t pins, uint64_t vectors[4])
{
	memset(vectors, 0, 4 * sizeof(vectors[0]));
	for (uint32_t i = 0; i < r->count; i++) {
		const struct kvm_irq_routing_entry *e = &r->entries[i].e;

		if (e->type == KVM_IRQ_ROUTING_MSI && e->gsi < pins && (e->u.msi.data & 1u << 15))
			vectors[(e->u.msi.data & 0xff) >> 6] |= 1ull << (e->u.msi.data & 63);
	}
}
