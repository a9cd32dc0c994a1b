/* SPDX-License-Identifier: MIT */
/*
 * An input sink whose guest's driver, on a vCPU's thread, begins and ends to use it: the hub, which belongs to the loop's thread, hears of it there.
 */
#ifndef KAGE_DISPLAY_SEAT_H
#define KAGE_DISPLAY_SEAT_H

#include <stdatomic.h>

#include "display/input.h"

struct input_seat {
    struct input_sink sink; /* filled in by its owner before input_seat_init() */
    struct input_hub *hub;
    struct loop *loop;
    struct loop_source changed; /* an eventfd */
    atomic_bool wanted;
    bool first;
};

/* On the loop's thread. hub NULL: nobody types, and all of this is nothing. 0 or -errno. */
int input_seat_init(struct input_seat *seat, struct input_hub *hub, struct loop *loop) __attribute__((warn_unused_result));
void input_seat_fini(struct input_seat *seat);
/* A driver uses it: it goes before all others; or does not any more: behind them. From any thread, with any lock. */
void input_seat_use(struct input_seat *seat, bool used);

#endif
