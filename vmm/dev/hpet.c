/* SPDX-License-Identifier: MIT */
#include "dev/hpet.h"

#include <string.h>

enum { GCAP_ID = 0x000, GEN_CONF = 0x010, GINTR_STA = 0x020, MAIN_CNT = 0x0f0, TIMERS = 0x100, TIMER_STEP = 0x20 };
enum { TN_CONF = 0x00, TN_CMP = 0x08 };

#define GCAP ((uint64_t)HPET_TICK_NS * 1000000 << 32 | HPET_ID)
#define ENABLE_CNF 0x1u
#define LEG_RT_CNF 0x2u

#define INT_TYPE_LEVEL 0x002u
#define INT_ENB 0x004u
#define TYPE_PERIODIC 0x008u
#define PER_INT_CAP 0x010u
#define SIZE_CAP 0x020u
#define VAL_SET 0x040u
#define MODE_32 0x100u
#define INT_ROUTE_SHIFT 9u
#define INT_ROUTE_MASK 0x1fu
#define TN_CONF_BITS 0x3f4eu

#define ARM_MIN_NS 20000 /* a guest that asks for more keeps nobody else waiting: what comes in between is one interrupt */

static bool hpet_on(const struct hpet *hpet)
{
    return (hpet->config & ENABLE_CNF) != 0;
}

static uint64_t hpet_counter(const struct hpet *hpet)
{
    uint64_t gone_ns = hpet_on(hpet) ? hpet->backend->now_ns(hpet->opaque) - hpet->start_ns : 0;
    return hpet->counter + gone_ns / HPET_TICK_NS;
}

/* ---- Interrupts ---- */

static unsigned hpet_line(const struct hpet *hpet, unsigned index)
{
    static const uint8_t legacy[] = {0, 8};
    bool replaced = (hpet->config & LEG_RT_CNF) != 0 && index < sizeof(legacy);
    return replaced ? legacy[index] : (unsigned)(hpet->timers[index].config >> INT_ROUTE_SHIFT & INT_ROUTE_MASK);
}

/* The line of a level-triggered timer is up while its status stands and it is enabled; after anything that may change that. */
static void hpet_update_level(struct hpet *hpet, unsigned index)
{
    struct hpet_timer *timer = &hpet->timers[index];
    bool level = (timer->config & INT_ENB) != 0 && (timer->config & INT_TYPE_LEVEL) != 0 && (hpet->status >> index & 1) != 0 && hpet_on(hpet);
    int line = level ? (int)hpet_line(hpet, index) : -1;
    if (line == timer->line) {
        return;
    }
    if (timer->line >= 0) {
        hpet->backend->set_irq(hpet->opaque, (unsigned)timer->line, false);
    }
    timer->line = line;
    if (line >= 0) {
        hpet->backend->set_irq(hpet->opaque, (unsigned)line, true);
    }
}

static void hpet_interrupt(struct hpet *hpet, unsigned index)
{
    struct hpet_timer *timer = &hpet->timers[index];
    if ((timer->config & INT_TYPE_LEVEL) != 0) {
        hpet->status |= UINT64_C(1) << index;
        hpet_update_level(hpet, index);
    } else if ((timer->config & INT_ENB) != 0) {
        hpet->backend->set_irq(hpet->opaque, hpet_line(hpet, index), true);
        hpet->backend->set_irq(hpet->opaque, hpet_line(hpet, index), false);
    }
}

/* ---- Time ---- */

static uint64_t hpet_mask(const struct hpet_timer *timer)
{
    return (timer->config & MODE_32) != 0 ? UINT32_MAX : UINT64_MAX;
}

/* Ticks until the comparator matches; what has just gone by, half a turn of the counter back, matches at once. */
static uint64_t hpet_distance(const struct hpet_timer *timer, uint64_t counter)
{
    uint64_t mask = hpet_mask(timer), distance = (timer->comparator - counter) & mask;
    return distance > mask / 2 ? 0 : distance;
}

static void hpet_arm(struct hpet *hpet, unsigned index)
{
    const struct hpet_timer *timer = &hpet->timers[index];
    uint64_t ticks = hpet_distance(timer, hpet_counter(hpet));
    int64_t ns = ticks < INT64_MAX / HPET_TICK_NS ? (int64_t)(ticks * HPET_TICK_NS) : INT64_MAX;
    bool wanted = hpet_on(hpet) && (timer->config & (INT_ENB | INT_TYPE_LEVEL)) != 0;
    hpet->backend->arm(hpet->opaque, index, !wanted ? -1 : ns > ARM_MIN_NS ? ns : ARM_MIN_NS);
}

static void hpet_arm_all(struct hpet *hpet)
{
    for (unsigned i = 0; i < HPET_TIMERS; i++) {
        hpet_arm(hpet, i);
        hpet_update_level(hpet, i);
    }
}

void hpet_expired(struct hpet *hpet, unsigned index)
{
    struct hpet_timer *timer = &hpet->timers[index];
    uint64_t counter = hpet_counter(hpet), mask = hpet_mask(timer);
    if (!hpet_on(hpet)) {
        return; /* it was on its way */
    }
    if (hpet_distance(timer, counter) != 0) {
        hpet_arm(hpet, index); /* somebody has moved it meanwhile */
        return;
    }
    if ((timer->config & TYPE_PERIODIC) != 0 && (timer->period & mask) != 0) {
        uint64_t period = timer->period & mask, late = (counter - timer->comparator) & mask;
        timer->comparator = (timer->comparator + (late / period + 1) * period) & mask;
        hpet_arm(hpet, index);
    }
    hpet_interrupt(hpet, index);
}

/* ---- Registers ---- */

static void hpet_write_config(struct hpet *hpet, uint64_t value)
{
    uint64_t counter = hpet_counter(hpet), before = hpet->config;
    hpet->config = value & (ENABLE_CNF | LEG_RT_CNF);
    hpet->counter = counter;
    hpet->start_ns = hpet->backend->now_ns(hpet->opaque);
    if (((before ^ hpet->config) & LEG_RT_CNF) != 0) {
        hpet->backend->legacy(hpet->opaque, (hpet->config & LEG_RT_CNF) != 0);
    }
    hpet_arm_all(hpet);
}

static void hpet_write_timer_config(struct hpet *hpet, unsigned index, uint64_t value)
{
    struct hpet_timer *timer = &hpet->timers[index];
    timer->config = (timer->config & ~(uint64_t)TN_CONF_BITS) | (value & TN_CONF_BITS);
    timer->comparator &= hpet_mask(timer);
    if ((timer->config & INT_TYPE_LEVEL) == 0) {
        hpet->status &= ~(UINT64_C(1) << index);
    }
    hpet_update_level(hpet, index);
    hpet_arm(hpet, index);
}

/* 2.3.9.2.2: a periodic timer takes a write as its period, and while VAL_SET is on as the next match too. */
static void hpet_write_comparator(struct hpet *hpet, unsigned index, uint64_t value)
{
    struct hpet_timer *timer = &hpet->timers[index];
    bool periodic = (timer->config & TYPE_PERIODIC) != 0;
    value &= hpet_mask(timer);
    if (!periodic || (timer->config & VAL_SET) != 0) {
        timer->comparator = value;
    }
    timer->period = periodic ? value : 0;
    timer->config &= ~(uint64_t)VAL_SET;
    hpet_arm(hpet, index);
}

static void hpet_write_register(struct hpet *hpet, unsigned at, uint64_t value)
{
    if (at == GEN_CONF) {
        hpet_write_config(hpet, value);
    } else if (at == GINTR_STA) {
        hpet->status &= ~value;
        for (unsigned i = 0; i < HPET_TIMERS; i++) {
            hpet_update_level(hpet, i);
        }
    } else if (at == MAIN_CNT && !hpet_on(hpet)) { /* it can be written while it stands only */
        hpet->counter = value;
    } else if (at >= TIMERS && (at - TIMERS) / TIMER_STEP < HPET_TIMERS) {
        unsigned index = (at - TIMERS) / TIMER_STEP;
        if ((at - TIMERS) % TIMER_STEP == TN_CONF) {
            hpet_write_timer_config(hpet, index, value);
        } else if ((at - TIMERS) % TIMER_STEP == TN_CMP) {
            hpet_write_comparator(hpet, index, value);
        }
    }
}

static uint64_t hpet_read_register(const struct hpet *hpet, unsigned at)
{
    switch (at) {
    case GCAP_ID:
        return GCAP;
    case GEN_CONF:
        return hpet->config;
    case GINTR_STA:
        return hpet->status;
    case MAIN_CNT:
        return hpet_counter(hpet);
    default:
        break;
    }
    if (at < TIMERS || (at - TIMERS) / TIMER_STEP >= HPET_TIMERS) {
        return 0;
    }
    const struct hpet_timer *timer = &hpet->timers[(at - TIMERS) / TIMER_STEP];
    unsigned offset = (at - TIMERS) % TIMER_STEP;
    return offset == TN_CONF ? timer->config : offset == TN_CMP ? timer->comparator : 0;
}

static uint64_t hpet_size_mask(unsigned size)
{
    return size >= 8 ? UINT64_MAX : (UINT64_C(1) << size * 8) - 1;
}

uint64_t hpet_read(struct hpet *hpet, unsigned offset, unsigned size)
{
    return hpet_read_register(hpet, offset & ~7u) >> (offset & 7) * 8 & hpet_size_mask(size);
}

/* The rest of a register that is written in parts stays; of what a write of 1 clears it is not written. */
void hpet_write(struct hpet *hpet, unsigned offset, unsigned size, uint64_t value)
{
    unsigned at = offset & ~7u, shift = (offset & 7) * 8;
    uint64_t mask = hpet_size_mask(size) << shift;
    bool periodic_comparator = at >= TIMERS && (at - TIMERS) / TIMER_STEP < HPET_TIMERS && (at - TIMERS) % TIMER_STEP == TN_CMP &&
                               (hpet->timers[(at - TIMERS) / TIMER_STEP].config & TYPE_PERIODIC) != 0;
    uint64_t rest = at == GINTR_STA ? 0 : periodic_comparator ? hpet->timers[(at - TIMERS) / TIMER_STEP].period : hpet_read_register(hpet, at);
    hpet_write_register(hpet, at, (rest & ~mask) | (value << shift & mask));
}

void hpet_init(struct hpet *hpet, uint32_t routes, const struct hpet_backend *backend, void *opaque)
{
    memset(hpet, 0, sizeof(*hpet));
    hpet->backend = backend;
    hpet->opaque = opaque;
    for (unsigned i = 0; i < HPET_TIMERS; i++) {
        hpet->timers[i] = (struct hpet_timer){
            .config = (uint64_t)routes << 32 | PER_INT_CAP | SIZE_CAP, .comparator = UINT64_MAX, .line = -1};
    }
}
