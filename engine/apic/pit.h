/* SPDX-License-Identifier: MIT */
/*
 * The 8254 timer and the speaker port. A pure state machine on a clock that the caller gives (host monotonic ns); the owner
 * holds its lock around all calls. Channel 0's interrupt: ask pit_next_expiry(), then pit_expired() says how many ticks are due.
 */
#ifndef KAGE_APIC_PIT_H
#define KAGE_APIC_PIT_H

#include <linux/kvm.h>

#include "arch/types.h"

#define PIT_FREQUENCY_HZ 1193182u

struct pit {
	struct kvm_pit_state2 s;  /* count is binary here and in KVM's struct, 1..0x10000; count_load_time is host ns */
	uint64_t frozen_ticks[3]; /* of a channel whose gate is down */
	bool running;             /* channel 0 has an expiry ahead */
	uint64_t ticks_done;      /* channel 0's expiries since it was loaded */
};

void pit_reset(struct pit *pit, uint32_t flags, ns_t now_ns);
/* 0x40..0x43 and 0x61 */
uint8_t pit_read(struct pit *pit, uint16_t port, ns_t now_ns);
void pit_write(struct pit *pit, uint16_t port, uint8_t value, ns_t now_ns);
/* Channel 0's next interrupt, UINT64_MAX when none. */
ns_t pit_next_expiry(const struct pit *pit);
/* How many of channel 0's interrupts came due since the last call. */
uint64_t pit_expired(struct pit *pit, ns_t now_ns);
bool pit_output(const struct pit *pit, uint32_t channel, ns_t now_ns);
void pit_set_gate(struct pit *pit, uint32_t channel, bool gate, ns_t now_ns);
void pit_get_state(const struct pit *pit, struct kvm_pit_state2 *out);
/* 0 or -EINVAL */
int pit_set_state(struct pit *pit, const struct kvm_pit_state2 *in, ns_t now_ns) KAGE_MUST_CHECK;

#endif
