/* SPDX-License-Identifier: MIT */
/*
 * The HPET's attachment: lock, registers in memory, interrupt lines, and a timer of the main loop for each comparator.
 */
#ifndef KAGE_DEV_HPET_TIMER_H
#define KAGE_DEV_HPET_TIMER_H

#include <pthread.h>

#include "dev/device.h"
#include "dev/hpet.h"
#include "util/loop.h"

struct hpet_device;

struct hpet_source {
    struct hpet_device *device;
    unsigned timer;
    struct loop_source source;
};

struct hpet_device {
    pthread_mutex_t lock;
    struct hpet hpet;
    struct irq irq; /* its line is set by the routes */
    /* The 8254's and the RTC's interrupts are replaced, or not any more. */
    void (*legacy)(void *opaque, bool on);
    void *opaque;
    struct loop *loop;
    struct hpet_source sources[HPET_TIMERS];
};

extern const struct device_ops hpet_ops; /* HPET_BYTES */

/* 0 or -errno. */
int hpet_device_init(struct hpet_device *device, uint32_t routes, struct loop *loop, const struct irq *irq, void (*legacy)(void *opaque, bool on),
                     void *opaque);
void hpet_device_fini(struct hpet_device *device);

#endif
