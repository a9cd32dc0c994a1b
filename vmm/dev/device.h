/* SPDX-License-Identifier: MIT */
/*
 * What a device is to the rest of the machine, and the rest of the machine to a device: registers at
 * offsets, an interrupt line, and the machine's power. A device never sees an absolute address, a
 * vCPU, an exit record or another device.
 */
#ifndef KAGE_DEV_DEVICE_H
#define KAGE_DEV_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Accesses to a device's registers. `offset` is from the start of the range, `size` 1, 2, 4 or 8, and
 * offset + size never passes the range's end. Called from any vCPU thread, at the same time as from
 * others: a device locks by itself.
 */
struct device_ops {
    const char *name;
    uint64_t (*read)(void *self, uint64_t offset, unsigned size);
    void (*write)(void *self, uint64_t offset, unsigned size, uint64_t value);
};

/* An interrupt line. `set` may be called from any thread. */
struct irq {
    void (*set)(void *opaque, uint32_t line, bool level);
    void *opaque;
    uint32_t line;
};

static inline void irq_set(const struct irq *irq, bool level)
{
    irq->set(irq->opaque, irq->line, level);
}

enum power_event {
    POWER_NONE,
    POWER_OFF,   /* the guest has switched itself off */
    POWER_RESET, /* the guest asks for a reset */
    POWER_EXIT,  /* a test device ends the VMM with `status` */
    POWER_ERROR, /* a vCPU cannot go on */
    POWER_QUIT,  /* somebody outside asks the VMM to end */
};

/* The machine's power switch. The first request counts. From any thread. */
struct power {
    void (*request)(void *opaque, enum power_event event, int status);
    void *opaque;
};

static inline void power_request(const struct power *power, enum power_event event, int status)
{
    power->request(power->opaque, event, status);
}

#endif
