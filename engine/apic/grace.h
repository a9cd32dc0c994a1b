/* SPDX-License-Identifier: MIT */
/*
 * Read-copy-update for tables that are read often and replaced seldom: readers enter and leave by two atomic adds and never
 * wait; the writer, which has swapped the pointer, waits until nobody can hold the old one, then frees it.
 * A reader must load the pointer after grace_enter(). A writer must not hold a lock that a reader takes inside.
 */
#ifndef KAGE_APIC_GRACE_H
#define KAGE_APIC_GRACE_H

#include <sched.h>
#include <stdatomic.h>

struct grace {
	_Atomic unsigned epoch;
	_Atomic long readers[2];
};

static inline unsigned grace_enter(struct grace *g)
{
	unsigned side = atomic_load(&g->epoch) & 1;

	atomic_fetch_add(&g->readers[side], 1);
	return side;
}

static inline void grace_leave(struct grace *g, unsigned side)
{
	atomic_fetch_sub(&g->readers[side], 1);
}

/* One writer at a time. Twice: a reader may have read the epoch before, and counted itself after, the first turn. */
static inline void grace_wait(struct grace *g)
{
	for (int turn = 0; turn < 2; turn++) {
		unsigned side = atomic_fetch_xor(&g->epoch, 1) & 1;

		while (atomic_load(&g->readers[side]))
			sched_yield();
	}
}

#endif
