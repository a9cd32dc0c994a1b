/* SPDX-License-Identifier: MIT */
/*
 * 8254 (datasheet 231164-005): three counters, modes 0-5, counter latch, read-back, BCD, gates.
 * Nothing counts: a counter's value and output are computed from the time since it was loaded.
 * Control word: D7:6 counter (3: read-back), D5:4 access (0: latch, 1 low, 2 high, 3 low then high), D3:1 mode, D0 BCD.
 */
#include "apic/pit.h"

#include <errno.h>
#include <string.h>

#define NS_PER_S 1000000000ull
#define MIN_PERIOD_NS 200000ull /* as for the local APIC's timer */
#define MODE_NONE 0xff /* never programmed, as KVM says it: what a client saves and restores does not start */
#define PORT_SPEAKER 0x61
#define PORT_CONTROL 0x43
#define REFRESH_HALF_NS 15085ull /* the DRAM refresh bit toggles every 15.085 us */

/* read_state, write_state: which byte of the counter comes next; count_latched holds one of these, or 0 */
enum { RW_LOW = 1, RW_HIGH = 2, RW_WORD0 = 3, RW_WORD1 = 4 };

static uint64_t mul_div(uint64_t a, uint64_t b, uint64_t c)
{
	/* a * b / c without 128-bit division's libgcc call; b and c are below 2^30, the quotient fits */
	uint64_t whole = a / c, rest = a % c;

	return whole * b + rest * b / c;
}

static uint64_t ns_to_ticks(ns_t ns)
{
	return mul_div(ns, PIT_FREQUENCY_HZ, NS_PER_S);
}

static ns_t ticks_to_ns(uint64_t ticks)
{
	return mul_div(ticks, NS_PER_S, PIT_FREQUENCY_HZ);
}

static uint32_t full_scale(const struct kvm_pit_channel_state *c)
{
	return c->bcd ? 10000 : 0x10000;
}

static uint32_t from_bcd(uint32_t v)
{
	return (v & 15) + (v >> 4 & 15) * 10 + (v >> 8 & 15) * 100 + (v >> 12 & 15) * 1000;
}

static uint32_t to_bcd(uint32_t v)
{
	return v % 10 | v / 10 % 10 << 4 | v / 100 % 10 << 8 | v / 1000 % 10 << 12;
}

static bool is_periodic(const struct kvm_pit_channel_state *c)
{
	return c->mode == 2 || c->mode == 3;
}

/* clocks counted since the load, the trigger, or the gate's rise */
static uint64_t elapsed(const struct pit *pit, uint32_t channel, ns_t now_ns)
{
	const struct kvm_pit_channel_state *c = &pit->s.channels[channel];
	int64_t ns = (int64_t)now_ns - c->count_load_time;

	if (!c->gate && c->mode != 1 && c->mode != 5)
		return pit->frozen_ticks[channel];
	return ns > 0 ? ns_to_ticks((ns_t)ns) : 0;
}

static uint32_t current_count(const struct pit *pit, uint32_t channel, ns_t now_ns)
{
	const struct kvm_pit_channel_state *c = &pit->s.channels[channel];
	uint64_t d = elapsed(pit, channel, now_ns);
	uint64_t scale = full_scale(c), value;

	if (c->mode == 3) /* counts by two, twice through */
		value = c->count - 2 * d % c->count;
	else if (c->mode == 2)
		value = c->count - d % c->count;
	else /* goes on below zero */
		value = c->count + scale - d % scale;
	value %= scale;
	return c->bcd ? to_bcd((uint32_t)value) : (uint32_t)value;
}

bool pit_output(const struct pit *pit, uint32_t channel, ns_t now_ns)
{
	const struct kvm_pit_channel_state *c = &pit->s.channels[channel];
	uint64_t d = elapsed(pit, channel, now_ns);

	switch (c->mode) {
	case 0:
	case 1:
		return d >= c->count;
	case 2: /* low for the last clock */
		return !c->gate || d % c->count != c->count - 1;
	case 3:
		return !c->gate || d % c->count < (c->count + 1) / 2;
	default: /* 4, 5: low for one clock when it reaches zero */
		return d != c->count;
	}
}

/* channel 0's k-th interrupt, in clocks after the load */
static uint64_t period_ticks(const struct kvm_pit_channel_state *c)
{
	uint64_t floor = ns_to_ticks(MIN_PERIOD_NS);

	return is_periodic(c) && c->count < floor ? floor : c->count;
}

static void start_irq(struct pit *pit)
{
	pit->ticks_done = 0;
	pit->running = pit->s.channels[0].mode < 5; /* 5 waits for a gate that is tied high */
}

static void load(struct pit *pit, uint32_t channel, uint32_t value, ns_t now_ns)
{
	struct kvm_pit_channel_state *c = &pit->s.channels[channel];

	if (c->bcd)
		value = from_bcd(value);
	c->count = value ? value : full_scale(c);
	if (c->count == 1 && is_periodic(c)) /* "a count of 1 is illegal" */
		c->count = 2;
	c->count_load_time = (int64_t)now_ns;
	pit->frozen_ticks[channel] = 0;
	if (channel == 0)
		start_irq(pit);
}

void pit_set_gate(struct pit *pit, uint32_t channel, bool gate, ns_t now_ns)
{
	struct kvm_pit_channel_state *c = &pit->s.channels[channel];

	if (gate == (c->gate != 0))
		return;
	if (!gate) {
		pit->frozen_ticks[channel] = elapsed(pit, channel, now_ns);
	} else if (c->mode == 0 || c->mode == 4) { /* goes on where it stood */
		c->count_load_time = (int64_t)(now_ns - ticks_to_ns(pit->frozen_ticks[channel]));
	} else { /* triggered, or restarted */
		c->count_load_time = (int64_t)now_ns;
	}
	c->gate = gate;
}

static void latch_count(struct pit *pit, uint32_t channel, ns_t now_ns)
{
	struct kvm_pit_channel_state *c = &pit->s.channels[channel];

	if (c->count_latched)
		return;
	c->latched_count = (uint16_t)current_count(pit, channel, now_ns);
	c->count_latched = c->rw_mode ? c->rw_mode : RW_WORD0;
}

static void latch_status(struct pit *pit, uint32_t channel, ns_t now_ns)
{
	struct kvm_pit_channel_state *c = &pit->s.channels[channel];

	if (c->status_latched)
		return;
	c->status = (uint8_t)(pit_output(pit, channel, now_ns) << 7 | c->rw_mode << 4 | (c->mode & 7) << 1 | c->bcd);
	c->status_latched = 1;
}

static void write_control(struct pit *pit, uint8_t value, ns_t now_ns)
{
	uint32_t channel = value >> 6, access = value >> 4 & 3;
	struct kvm_pit_channel_state *c;

	if (channel == 3) { /* read-back: D5 and D4 are active low */
		for (channel = 0; channel < 3; channel++) {
			if (!(value & 2u << channel))
				continue;
			if (!(value & 0x20))
				latch_count(pit, channel, now_ns);
			if (!(value & 0x10))
				latch_status(pit, channel, now_ns);
		}
		return;
	}
	if (!access) {
		latch_count(pit, channel, now_ns);
		return;
	}
	c = &pit->s.channels[channel];
	c->rw_mode = (uint8_t)access;
	c->read_state = (uint8_t)access;
	c->write_state = (uint8_t)access;
	c->mode = value >> 1 & 7;
	if (c->mode > 5) /* D3 does not count for modes 2 and 3 */
		c->mode -= 4;
	c->bcd = value & 1;
	c->count_latched = 0;
	c->status_latched = 0;
	if (channel == 0) /* silent until the count is written */
		pit->running = false;
}

static void write_counter(struct pit *pit, uint32_t channel, uint8_t value, ns_t now_ns)
{
	struct kvm_pit_channel_state *c = &pit->s.channels[channel];

	switch (c->write_state) {
	case RW_HIGH:
		load(pit, channel, (uint32_t)value << 8, now_ns);
		break;
	case RW_WORD0:
		c->write_latch = value;
		c->write_state = RW_WORD1;
		break;
	case RW_WORD1:
		load(pit, channel, c->write_latch | (uint32_t)value << 8, now_ns);
		c->write_state = RW_WORD0;
		break;
	default:
		load(pit, channel, value, now_ns);
		break;
	}
}

static uint8_t read_counter(struct pit *pit, uint32_t channel, ns_t now_ns)
{
	struct kvm_pit_channel_state *c = &pit->s.channels[channel];
	uint8_t step;
	uint32_t count;

	if (c->status_latched) {
		c->status_latched = 0;
		return c->status;
	}
	if (c->count_latched) {
		count = c->latched_count;
		step = c->count_latched;
		c->count_latched = step == RW_WORD0 ? RW_WORD1 : 0;
	} else {
		count = current_count(pit, channel, now_ns);
		step = c->read_state;
		if (step == RW_WORD0 || step == RW_WORD1)
			c->read_state = step == RW_WORD0 ? RW_WORD1 : RW_WORD0;
	}
	return (uint8_t)(step == RW_HIGH || step == RW_WORD1 ? count >> 8 : count);
}

static uint8_t read_speaker(const struct pit *pit, ns_t now_ns)
{
	uint32_t refresh = now_ns / REFRESH_HALF_NS & 1;

	return (uint8_t)(((pit->s.flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON) ? 2u : 0) | pit->s.channels[2].gate |
			 (uint32_t)pit_output(pit, 2, now_ns) << 5 | refresh << 4);
}

uint8_t pit_read(struct pit *pit, uint16_t port, ns_t now_ns)
{
	if (port == PORT_SPEAKER)
		return read_speaker(pit, now_ns);
	return port == PORT_CONTROL ? 0 : read_counter(pit, port & 3, now_ns);
}

void pit_write(struct pit *pit, uint16_t port, uint8_t value, ns_t now_ns)
{
	if (port == PORT_SPEAKER) {
		pit->s.flags &= ~(uint32_t)KVM_PIT_FLAGS_SPEAKER_DATA_ON;
		if (value & 2)
			pit->s.flags |= KVM_PIT_FLAGS_SPEAKER_DATA_ON;
		pit_set_gate(pit, 2, value & 1, now_ns);
	} else if (port == PORT_CONTROL) {
		write_control(pit, value, now_ns);
	} else {
		write_counter(pit, port & 3, value, now_ns);
	}
}

ns_t pit_next_expiry(const struct pit *pit)
{
	const struct kvm_pit_channel_state *c = &pit->s.channels[0];

	if (!pit->running || (pit->s.flags & KVM_PIT_FLAGS_HPET_LEGACY))
		return UINT64_MAX;
	/* one ns more: ns_to_ticks() of that moment must not fall short by rounding */
	return (ns_t)c->count_load_time + ticks_to_ns((pit->ticks_done + 1) * period_ticks(c)) + 1;
}

uint64_t pit_expired(struct pit *pit, ns_t now_ns)
{
	const struct kvm_pit_channel_state *c = &pit->s.channels[0];
	uint64_t due;

	if (pit_next_expiry(pit) > now_ns)
		return 0;
	if (!is_periodic(c)) {
		pit->running = false;
		return 1;
	}
	due = ns_to_ticks(now_ns - (ns_t)c->count_load_time) / period_ticks(c) - pit->ticks_done;
	pit->ticks_done += due;
	return due;
}

void pit_reset(struct pit *pit, uint32_t flags, ns_t now_ns)
{
	memset(pit, 0, sizeof(*pit));
	pit->s.flags = flags;
	for (uint32_t i = 0; i < 3; i++) {
		struct kvm_pit_channel_state *c = &pit->s.channels[i];

		c->mode = MODE_NONE;
		c->gate = i != 2;
		c->count = 0x10000;
		c->rw_mode = c->read_state = c->write_state = RW_WORD0;
		c->count_load_time = (int64_t)now_ns;
	}
}

void pit_get_state(const struct pit *pit, struct kvm_pit_state2 *out)
{
	*out = pit->s;
}

int pit_set_state(struct pit *pit, const struct kvm_pit_state2 *in, ns_t now_ns)
{
	for (uint32_t i = 0; i < 3; i++)
		if (in->channels[i].count > 0x10000)
			return -EINVAL;
	pit->s = *in;
	pit->running = false;
	for (uint32_t i = 0; i < 3; i++) {
		struct kvm_pit_channel_state *c = &pit->s.channels[i];
		uint32_t count = c->count;

		c->gate = c->gate != 0;
		c->bcd = c->bcd != 0;
		c->rw_mode &= 3;
		/* as KVM: a loaded counter starts anew; its time base is this host's */
		pit->frozen_ticks[i] = 0;
		c->count = count ? count : full_scale(c);
		if (c->count == 1 && is_periodic(c))
			c->count = 2;
		c->count_load_time = (int64_t)now_ns;
	}
	if (in->channels[0].count)
		start_irq(pit);
	return 0;
}
