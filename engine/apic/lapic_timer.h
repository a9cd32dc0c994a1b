/* SPDX-License-Identifier: MIT */
/*
 * Between lapic.c (registers, messages) and lapic_timer.c (the timer): nobody else includes this.
 */
#ifndef KAGE_APIC_LAPIC_TIMER_H
#define KAGE_APIC_LAPIC_TIMER_H

#include "apic/lapic.h"

#define APIC_LVT_MASKED (1u << 16)

static inline void lapic_set_reg(struct lapic *l, uint32_t offset, uint32_t value)
{
	__atomic_store_n((uint32_t *)(void *)(l->regs + offset), value, __ATOMIC_RELAXED);
}

/* Writes to the timer's registers, and the read of the current count. */
void lapic_timer_write_lvtt(struct lapic *l, uint32_t value);
void lapic_timer_write_tmict(struct lapic *l, uint32_t value);
void lapic_timer_write_tdcr(struct lapic *l, uint32_t value);
uint32_t lapic_timer_tmcct(struct lapic *l);
/* Stop, forget the deadline. */
void lapic_timer_stop(struct lapic *l);
/* Go on from TMICT and TMCCT as they stand in the page (KVM_SET_LAPIC). */
void lapic_timer_resume(struct lapic *l);

#endif
