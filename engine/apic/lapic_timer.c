/* SPDX-License-Identifier: MIT */
/*
 * The local APIC's timer (SDM 3A 11.5.4): one-shot, periodic and TSC-deadline.
 * The APIC bus runs at 1 GHz as KVM's does, so a count at divide-by-1 is a nanosecond. Nothing counts: TMCCT is computed
 * from the deadline. Everything here holds timer_lock; lapic_set_irq() under it takes no lock.
 */
#include "apic/lapic_timer.h"

#define LVTT_MODE_SHIFT 17
#define LVTT_VALID (0xffu | APIC_LVT_MASKED | 3u << LVTT_MODE_SHIFT)
#define MIN_PERIOD_NS 200000ull /* KVM's min_timer_period_us: a guest must not keep a host thread busy */

enum lvtt_mode { LVTT_ONESHOT = 0, LVTT_PERIODIC = 1, LVTT_TSC_DEADLINE = 2 };

static uint32_t timer_mode(const struct lapic *l)
{
	return lapic_reg(l, APIC_LVTT) >> LVTT_MODE_SHIFT & 3;
}

/* TDCR bits 3,1,0: 000 is divide by 2, 110 by 128, 111 by 1. */
static uint32_t divide_shift(const struct lapic *l)
{
	uint32_t tdcr = lapic_reg(l, APIC_TDCR);

	return (((tdcr & 3) | (tdcr & 8) >> 1) + 1) & 7;
}

static ns_t timer_period(const struct lapic *l)
{
	ns_t period = (ns_t)lapic_reg(l, APIC_TMICT) << divide_shift(l);

	if (period && timer_mode(l) == LVTT_PERIODIC && period < MIN_PERIOD_NS)
		period = MIN_PERIOD_NS;
	return period;
}

static void set_deadline(struct lapic *l, ns_t deadline_ns)
{
	if (atomic_load_explicit(&l->deadline_ns, memory_order_relaxed) == deadline_ns)
		return;
	atomic_store(&l->deadline_ns, deadline_ns);
	l->ops->arm(l->opaque, l, deadline_ns);
}

static bool fire_if_due(struct lapic *l, ns_t now_ns)
{
	ns_t deadline = atomic_load_explicit(&l->deadline_ns, memory_order_relaxed);

	if (!deadline || deadline > now_ns)
		return false;
	if (timer_mode(l) == LVTT_PERIODIC && l->period_ns) {
		/* ticks that were missed are coalesced, the phase is kept */
		set_deadline(l, deadline + ((now_ns - deadline) / l->period_ns + 1) * l->period_ns);
	} else {
		l->tsc_deadline = 0;
		set_deadline(l, 0);
	}
	(void)lapic_local(l, APIC_LVTT);
	return true;
}

/* Turn the guest's deadline into host time; one that has passed fires at once. */
static void arm_tsc_deadline(struct lapic *l)
{
	ns_t at, now;

	if (!l->tsc_deadline) {
		set_deadline(l, 0);
		return;
	}
	at = l->ops->guest_tsc_to_ns(l->opaque, l, l->tsc_deadline);
	now = l->ops->now_ns(l->opaque);
	if (at > now) {
		set_deadline(l, at);
		return;
	}
	l->tsc_deadline = 0;
	set_deadline(l, 0);
	(void)lapic_local(l, APIC_LVTT);
}

void lapic_timer_stop(struct lapic *l)
{
	pthread_mutex_lock(&l->timer_lock);
	l->tsc_deadline = 0;
	l->period_ns = 0;
	set_deadline(l, 0);
	pthread_mutex_unlock(&l->timer_lock);
}

void lapic_timer_write_lvtt(struct lapic *l, uint32_t value)
{
	uint32_t old_mode, new_mode;

	pthread_mutex_lock(&l->timer_lock);
	value &= LVTT_VALID;
	if (!lapic_sw_enabled(l))
		value |= APIC_LVT_MASKED;
	old_mode = timer_mode(l);
	lapic_set_reg(l, APIC_LVTT, value);
	new_mode = timer_mode(l);
	/* SDM 11.5.4.1: a change to or from TSC-deadline mode disarms the timer */
	if (old_mode != new_mode && (old_mode == LVTT_TSC_DEADLINE || new_mode == LVTT_TSC_DEADLINE)) {
		l->tsc_deadline = 0;
		l->period_ns = 0;
		lapic_set_reg(l, APIC_TMICT, 0);
		set_deadline(l, 0);
	} else if (new_mode == LVTT_PERIODIC) {
		l->period_ns = timer_period(l);
	}
	pthread_mutex_unlock(&l->timer_lock);
}

void lapic_timer_write_tmict(struct lapic *l, uint32_t value)
{
	pthread_mutex_lock(&l->timer_lock);
	if (timer_mode(l) != LVTT_TSC_DEADLINE) { /* "writes to the initial-count register are ignored" */
		lapic_set_reg(l, APIC_TMICT, value);
		l->period_ns = timer_period(l);
		set_deadline(l, l->period_ns ? l->ops->now_ns(l->opaque) + l->period_ns : 0);
	}
	pthread_mutex_unlock(&l->timer_lock);
}

void lapic_timer_write_tdcr(struct lapic *l, uint32_t value)
{
	uint32_t old_shift;
	ns_t deadline;

	pthread_mutex_lock(&l->timer_lock);
	old_shift = divide_shift(l);
	lapic_set_reg(l, APIC_TDCR, value & 0xb);
	deadline = atomic_load_explicit(&l->deadline_ns, memory_order_relaxed);
	if (timer_mode(l) != LVTT_TSC_DEADLINE && deadline) {
		ns_t now = l->ops->now_ns(l->opaque);
		ns_t left = deadline > now ? deadline - now : 0;

		l->period_ns = timer_period(l);
		set_deadline(l, now + (left >> old_shift << divide_shift(l)));
	}
	pthread_mutex_unlock(&l->timer_lock);
}

uint32_t lapic_timer_tmcct(struct lapic *l)
{
	uint32_t count = 0;
	ns_t deadline, now;

	pthread_mutex_lock(&l->timer_lock);
	deadline = atomic_load_explicit(&l->deadline_ns, memory_order_relaxed);
	if (deadline && timer_mode(l) != LVTT_TSC_DEADLINE) {
		now = l->ops->now_ns(l->opaque);
		(void)fire_if_due(l, now);
		deadline = atomic_load_explicit(&l->deadline_ns, memory_order_relaxed);
		if (deadline > now)
			count = (uint32_t)((deadline - now + ((ns_t)1 << divide_shift(l)) - 1) >> divide_shift(l)); /* 0 is: it has expired */
	}
	pthread_mutex_unlock(&l->timer_lock);
	return count;
}

void lapic_timer_resume(struct lapic *l)
{
	uint32_t mode = timer_mode(l);
	ns_t left;

	pthread_mutex_lock(&l->timer_lock);
	l->period_ns = timer_period(l);
	if (mode == LVTT_TSC_DEADLINE) {
		arm_tsc_deadline(l);
	} else {
		l->tsc_deadline = 0;
		left = (ns_t)lapic_reg(l, APIC_TMCCT) << divide_shift(l);
		if (left > l->period_ns || (!left && mode == LVTT_PERIODIC))
			left = l->period_ns;
		set_deadline(l, left ? l->ops->now_ns(l->opaque) + left : 0);
	}
	pthread_mutex_unlock(&l->timer_lock);
}

uint64_t lapic_tsc_deadline(struct lapic *l)
{
	uint64_t value;

	pthread_mutex_lock(&l->timer_lock);
	value = timer_mode(l) == LVTT_TSC_DEADLINE ? l->tsc_deadline : 0;
	pthread_mutex_unlock(&l->timer_lock);
	return value;
}

void lapic_set_tsc_deadline(struct lapic *l, uint64_t guest_tsc)
{
	pthread_mutex_lock(&l->timer_lock);
	if (lapic_hw_enabled(l) && timer_mode(l) == LVTT_TSC_DEADLINE) {
		l->tsc_deadline = guest_tsc;
		arm_tsc_deadline(l);
	}
	pthread_mutex_unlock(&l->timer_lock);
}

ns_t lapic_next_expiry(const struct lapic *l)
{
	ns_t deadline = atomic_load_explicit(&l->deadline_ns, memory_order_relaxed);

	return deadline ? deadline : UINT64_MAX;
}

bool lapic_timer_expired(struct lapic *l, ns_t now_ns)
{
	bool fired;

	if (lapic_next_expiry(l) > now_ns)
		return false;
	pthread_mutex_lock(&l->timer_lock);
	fired = fire_if_due(l, now_ns);
	pthread_mutex_unlock(&l->timer_lock);
	return fired;
}

void lapic_timer_restart(struct lapic *l)
{
	pthread_mutex_lock(&l->timer_lock);
	if (timer_mode(l) == LVTT_TSC_DEADLINE && l->tsc_deadline)
		arm_tsc_deadline(l);
	pthread_mutex_unlock(&l->timer_lock);
}
