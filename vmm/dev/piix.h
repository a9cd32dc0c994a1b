/* SPDX-License-Identifier: MIT */
/*
 * The south bridge of board pc: PIIX3's ISA bridge (Intel 290550: interrupt routing registers) and
 * PIIX4's power management function (Intel 290562: where the ACPI registers are).
 */
#ifndef KAGE_DEV_PIIX_H
#define KAGE_DEV_PIIX_H

#include "dev/pci.h"

struct piix_isa {
    struct pci_function function;
};

void piix_isa_init(struct piix_isa *isa);

struct piix_pm {
    struct pci_function function;
    /* The ACPI registers are at port `base` now; 0: nowhere. */
    void (*moved)(void *opaque, uint16_t base);
    void *opaque;
    uint16_t base;
};

/* sci: the interrupt that the function reports. */
void piix_pm_init(struct piix_pm *pm, uint8_t sci, void (*moved)(void *opaque, uint16_t base), void *opaque);

#endif
