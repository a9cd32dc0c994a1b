/* SPDX-License-Identifier: MIT */
/*
 * The host bridge of board q35 (Intel 316966, 82Q35 MCH), as far as firmware uses it.
 *
 *   60h..67h  PCIEXBAR   35..28 base (less of it masked) | 2..1 length: 256, 128, 64 MiB | 0 enable
 *   90h..96h  PAM0 to PAM6 (dev/pam.h)
 *   9Dh       SMRAM      kept, and no more: there is no system management mode
 */
#ifndef KAGE_DEV_MCH_H
#define KAGE_DEV_MCH_H

#include "dev/pam.h"
#include "dev/pci.h"

#define MCH_PAM0 0x90u

struct mch {
    struct pci_function function;
    void (*map_changed)(void *map);
    void *map;
    /* The configuration spaces of buses are in memory at [base, base + bytes) now; 0: nowhere. */
    void (*ecam_moved)(void *opaque, uint64_t base, uint64_t bytes);
    void *opaque;
};

void mch_init(struct mch *mch, void (*map_changed)(void *opaque), void *map, void (*ecam_moved)(void *opaque, uint64_t base, uint64_t bytes),
              void *opaque);

#endif
