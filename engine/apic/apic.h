/* SPDX-License-Identifier: MIT */
/*
 * The interrupt chips that KVM keeps in the kernel, tied together: one struct irqchip for a VM.
 *   full   (KVM_CREATE_IRQCHIP)      8259 pair, I/O APIC, local APICs, 8254 after irqchip_create_pit()
 *   split  (KVM_CAP_SPLIT_IRQCHIP)   local APICs only; the client has the rest and hears of EOIs
 *
 * Every function may be called from any thread, but those that take a struct lapic (and irqchip_vcpu_*) belong to the
 * thread that owns the vCPU unless lapic.h says otherwise.
 *
 * Lock order: routing/irqfd/ioeventfd writer locks -> irqchip.lock -> lapic.timer_lock -> timer queue.
 * The ops are called with any of the latter three held or not: they must not call back into the irqchip, nor block.
 */
#ifndef KAGE_APIC_APIC_H
#define KAGE_APIC_APIC_H

#include "apic/lapic.h"

#define IRQCHIP_MAX_VCPUS 1024
#define IRQCHIP_MAX_GSI 4096 /* KVM_MAX_IRQ_ROUTES */

struct irqchip;

/* How the chips reach vCPUs. index is what irqchip_add_vcpu() was given. */
struct irqchip_ops {
	void (*kick)(void *opaque, uint32_t index); /* look for interrupts: leave guest code, wake from HLT */
	void (*nmi)(void *opaque, uint32_t index);  /* these three: note it, and kick */
	void (*init)(void *opaque, uint32_t index);
	void (*sipi)(void *opaque, uint32_t index, uint8_t vector);
	/* host CLOCK_MONOTONIC at which this vCPU's TSC reads guest_tsc (a past value: any time not after now) */
	ns_t (*guest_tsc_to_ns)(void *opaque, uint32_t index, uint64_t guest_tsc);
	ns_t (*now_ns)(void *opaque); /* CLOCK_MONOTONIC; NULL: clock_gettime */
	/* split only: this vCPU must leave with KVM_EXIT_IOAPIC_EOI; called in its own thread */
	void (*ioapic_eoi)(void *opaque, uint32_t index, uint8_t vector);
};

enum irq_source { IRQ_SOURCE_USER = 0, IRQ_SOURCE_RESAMPLE = 1, IRQ_SOURCE_PIT = 2 };

/* life: NULL on failure with errno set. Starts the VM's timer thread. free() needs all vCPUs stopped. */
struct irqchip *irqchip_new(bool split, const struct irqchip_ops *ops, void *opaque) KAGE_MUST_CHECK;
void irqchip_free(struct irqchip *chip);
bool irqchip_is_split(const struct irqchip *chip);
/* KVM_CAP_SPLIT_IRQCHIP's argument: how many GSIs from 0 are pins of the client's I/O APIC (EOIs reported). */
void irqchip_set_split_pins(struct irqchip *chip, uint32_t count);
/* KVM_CAP_X2APIC_API's flags (KVM_X2APIC_API_*). */
void irqchip_set_x2apic_api(struct irqchip *chip, uint64_t flags);
/* KVM_X86_QUIRK_LAPIC_MMIO_HOLE: what becomes of accesses to the page of an APIC that is off or in x2APIC mode. On at first. */
void irqchip_set_mmio_hole(struct irqchip *chip, bool on);
/* KVM_CREATE_PIT2. flags: KVM_PIT_SPEAKER_DUMMY. 0, -EEXIST, -ENOENT (split). */
int irqchip_create_pit(struct irqchip *chip, uint32_t flags) KAGE_MUST_CHECK;
bool irqchip_has_pit(const struct irqchip *chip);
/* A vCPU's local APIC, reset; owned by the chip. NULL: errno is EEXIST, EINVAL or ENOMEM. */
struct lapic *irqchip_add_vcpu(struct irqchip *chip, uint32_t index, uint32_t vcpu_id, bool bsp) KAGE_MUST_CHECK;

/* the run loop */
/* Is there something to inject (local APIC, or the 8259 by LINT0)? Two or three loads when there is not. */
bool irqchip_vcpu_has_interrupt(struct irqchip *chip, struct lapic *l);
/* Acknowledge it: the vector, or -1. */
int irqchip_vcpu_get_interrupt(struct irqchip *chip, struct lapic *l);

/* Accesses. True if a chip answers there. MMIO: the vCPU's APIC page, the I/O APIC. PIO: 8259, ELCR, 8254, 0x61. */
bool irqchip_mmio_read(struct irqchip *chip, struct lapic *l, gpa_t gpa, void *data, uint32_t len);
bool irqchip_mmio_write(struct irqchip *chip, struct lapic *l, gpa_t gpa, const void *data, uint32_t len);
bool irqchip_pio_read(struct irqchip *chip, uint16_t port, void *data, uint32_t len);
bool irqchip_pio_write(struct irqchip *chip, uint16_t port, const void *data, uint32_t len);

/* injection */
/* KVM_IRQ_LINE(_STATUS): -1 ignored, 0 coalesced, >0 vCPUs reached. */
int irqchip_set_irq(struct irqchip *chip, enum irq_source source, uint32_t gsi, bool level);
/* KVM_SIGNAL_MSI: >0 delivered, 0 blocked by the guest, -EPERM: no such vCPU, -EINVAL for flags that we do not know. */
int irqchip_signal_msi(struct irqchip *chip, const struct kvm_msi *msi);
/* Deliver a message (PV IPIs use it too). Number of vCPUs reached, -1 none. from: for shorthands, or NULL. */
int irqchip_deliver(struct irqchip *chip, const struct lapic *from, const struct apic_msg *msg);
/* KVM_SET_GSI_ROUTING. 0, -EINVAL, -ENOMEM. */
int irqchip_set_routing(struct irqchip *chip, const struct kvm_irq_routing_entry *entries, uint32_t count) KAGE_MUST_CHECK;

/* KVM_GET/SET_IRQCHIP (0, -EINVAL), KVM_GET/SET_PIT2 (0, -ENXIO without a PIT, -EINVAL) */
int irqchip_get_state(struct irqchip *chip, struct kvm_irqchip *state) KAGE_MUST_CHECK;
int irqchip_set_state(struct irqchip *chip, const struct kvm_irqchip *state) KAGE_MUST_CHECK;
int irqchip_get_pit(struct irqchip *chip, struct kvm_pit_state2 *state) KAGE_MUST_CHECK;
int irqchip_set_pit(struct irqchip *chip, const struct kvm_pit_state2 *state) KAGE_MUST_CHECK;
/* KVM_REINJECT_CONTROL: 0, -ENXIO */
int irqchip_set_pit_reinject(struct irqchip *chip, bool reinject) KAGE_MUST_CHECK;
/* KVM_GET/SET_LAPIC: by the chip, which knows the ID format. 0 or -EINVAL. */
void irqchip_get_lapic(struct irqchip *chip, struct lapic *l, struct kvm_lapic_state *state);
int irqchip_set_lapic(struct irqchip *chip, struct lapic *l, const struct kvm_lapic_state *state) KAGE_MUST_CHECK;

/* KVM_IRQFD, with resamplefd. 0, -EINVAL, -EBADF, -EBUSY, -ENOMEM, … Starts the VM's poller thread at first use. */
int irqchip_irqfd(struct irqchip *chip, const struct kvm_irqfd *args) KAGE_MUST_CHECK;

/* ioeventfds need no irqchip: a VM has one table from the start. */
struct ioeventfd_table;
struct ioeventfd_table *ioeventfd_new(void) KAGE_MUST_CHECK;
void ioeventfd_free(struct ioeventfd_table *t);
/* KVM_IOEVENTFD: 0, -EINVAL, -EEXIST, -ENOENT, -EBADF, -ENOMEM. The eventfd is duplicated. */
int ioeventfd_ioctl(struct ioeventfd_table *t, const struct kvm_ioeventfd *args) KAGE_MUST_CHECK;
/* A guest write: true if an eventfd took it. Any thread; one load when the table is empty. */
bool ioeventfd_write(struct ioeventfd_table *t, bool pio, uint64_t addr, uint32_t len, uint64_t data);

#endif
