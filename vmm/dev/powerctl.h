/* SPDX-License-Identifier: MIT */
/*
 * The registers that end or restart a machine, each a few bits with no state to lock: the reset control
 * register (port 0xcf9), system control port A (port 0x92), and the isa-debug-exit test device.
 */
#ifndef KAGE_DEV_POWERCTL_H
#define KAGE_DEV_POWERCTL_H

#include <stdatomic.h>
#include <stdint.h>

#include "dev/device.h"

/* What to write to the reset control register for a full reset. */
#define RESET_CONTROL_FULL 0x06u

struct powerctl {
    struct power power;
    _Atomic uint8_t value; /* what the guest reads back, where it can */
};

extern const struct device_ops reset_ops;       /* 0xcf9 */
extern const struct device_ops port92_ops;      /* 0x92 */
extern const struct device_ops debug_exit_ops;  /* isa-debug-exit: exit status (value << 1) | 1 */

void powerctl_init(struct powerctl *powerctl, const struct power *power, uint8_t value);

#endif
