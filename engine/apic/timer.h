/* SPDX-License-Identifier: MIT */
/*
 * The VM's timer thread: it sleeps until the earliest deadline of all sources and calls them.
 * Arming is a store, and a system call only when the new deadline is earlier than the one that the thread sleeps for;
 * disarming is a store. The thread wakes at most once for each such system call.
 */
#ifndef KAGE_APIC_TIMER_H
#define KAGE_APIC_TIMER_H

#include <pthread.h>
#include <stdatomic.h>

#include "arch/types.h"

struct apic_timer_source {
	_Atomic ns_t deadline_ns; /* CLOCK_MONOTONIC, 0: none */
	void (*expired)(void *opaque, ns_t now_ns);
	void *opaque;
};

struct apic_timer {
	int fd; /* timerfd */
	pthread_t thread;
	pthread_mutex_t lock; /* a leaf: armed_ns and the timerfd's setting */
	_Atomic ns_t armed_ns;
	_Atomic bool stop;
	struct apic_timer_source *sources;
	uint32_t capacity;
};

/* 0 or -errno */
int apic_timer_start(struct apic_timer *t, uint32_t capacity) KAGE_MUST_CHECK;
/* No callback runs after this. */
void apic_timer_stop(struct apic_timer *t);
void apic_timer_attach(struct apic_timer *t, uint32_t slot, void (*expired)(void *, ns_t), void *opaque);
/* 0 or UINT64_MAX: disarm. Any thread, also from a callback. */
void apic_timer_arm(struct apic_timer *t, uint32_t slot, ns_t deadline_ns);
/* A thread that leaves all signals to the others. 0 or -errno */
int apic_thread_start(pthread_t *thread, void *(*fn)(void *), void *arg) KAGE_MUST_CHECK;
ns_t apic_now_ns(void);

#endif
