/* SPDX-License-Identifier: MIT */
/*
 * A guest that counts the interrupts it takes, by vector, at GPA_COUNTS: 32-bit counters. Its main loop writes its rounds to port 80h,
 * where the client looks at the counters; with IRQ_HALTS it sleeps instead, and writes a byte to port 80h behind each sleep.
 */
#ifndef KVM_IRQ_GUEST_H
#define KVM_IRQ_GUEST_H

#include "machine.h"

#define IRQ_VECTOR 0x41u
#define PIC_VECTOR 0x50u
#define GPA_COUNTS 0x11000u

/* irq_machine: I/O APIC pins that lead to IRQ_VECTOR of APIC 0; edge triggered, or all level triggered; the 8259s open. */
#define IRQ_PINS(pin) (1u << (pin))
#define IRQ_LEVEL (1u << 24)
#define IRQ_PIC (1u << 25)
#define IRQ_HALTS (1u << 26)

struct machine irq_machine(unsigned with, uint32_t what);
/* The same guest for one more vCPU of the machine. */
void irq_vcpu(struct machine *m, unsigned vcpu, uint32_t what);

uint32_t taken(const struct machine *m, unsigned vector);
/* Runs until the guest's loop goes round. */
void wait_ready(struct machine *m);
/* Runs until one more than before the last call is taken, and some rounds more; the count. */
uint32_t wait_taken(struct machine *m, unsigned vector);
uint32_t wait_for_more(struct machine *m, unsigned vector, uint32_t least);
/* Runs some rounds: what was on its way has come; the count. */
uint32_t settle(struct machine *m, unsigned vector);

void set_line(struct machine *m, uint32_t gsi, uint32_t level);
/* One route: the GSI to the vector of APIC 0. */
void route_msi(struct machine *m, uint32_t gsi, uint32_t vector);

#endif
