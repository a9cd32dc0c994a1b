/* SPDX-License-Identifier: MIT */
/*
 * The diagnostic port 0x80: what firmware writes as it goes is in the log (-d firmware), and reads back. Kernels write to it to wait.
 */
#ifndef KAGE_DEV_POSTCODE_H
#define KAGE_DEV_POSTCODE_H

#include <stdatomic.h>
#include <stdint.h>

#include "dev/device.h"

struct postcode {
    _Atomic uint8_t value;
};

extern const struct device_ops postcode_ops; /* one port */

#endif
