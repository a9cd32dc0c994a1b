/* SPDX-License-Identifier: MIT */
/*
 * The i440FX host bridge (Intel 290549, 82441FX), as far as firmware uses it: the attribute map of dev/pam.h.
 *
 *   59h..5Fh  PAM0 to PAM6
 *   72h       SMRAM: kept, and no more: there is no system management mode
 */
#ifndef KAGE_DEV_I440FX_H
#define KAGE_DEV_I440FX_H

#include <stdint.h>

#include "dev/pam.h"
#include "dev/pci.h"

#define I440FX_PAM0 0x59u

struct i440fx {
    struct pci_function function;
    /* The map has changed. */
    void (*map_changed)(void *opaque);
    void *opaque;
};

void i440fx_init(struct i440fx *bridge, void (*map_changed)(void *opaque), void *opaque);

#endif
