/* SPDX-License-Identifier: MIT */
/*
 * The real-time clock's attachment: lock, ports, interrupt line, and a timer on the main loop that is
 * armed only while a guest has enabled an interrupt of the clock.
 */
#ifndef KAGE_DEV_RTC_H
#define KAGE_DEV_RTC_H

#include <pthread.h>

#include "dev/cmos.h"
#include "dev/device.h"
#include "util/loop.h"

struct rtc {
    pthread_mutex_t lock;
    struct cmos cmos;
    struct irq irq;
    struct loop *loop;
    struct loop_source timer;
};

extern const struct device_ops rtc_ops; /* two ports */

/* 0 or -errno. */
int rtc_init(struct rtc *rtc, struct loop *loop, const struct irq *irq);
void rtc_fini(struct rtc *rtc);

#endif
