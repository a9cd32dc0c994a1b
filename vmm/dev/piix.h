/* SPDX-License-Identifier: MIT */
/*
 * The south bridge of board pc: PIIX3's ISA bridge (Intel 290550: interrupt routing registers) and
 * PIIX4's power management function (Intel 290562: where the ACPI registers are).
 */
#ifndef KAGE_DEV_PIIX_H
#define KAGE_DEV_PIIX_H

#include "dev/pci.h"

#define PIIX_PIRQS 4u

struct piix_isa {
    struct pci_function function;
    /* A PIRQ may go to another interrupt now: look at piix_isa_irq() again. */
    void (*routed)(void *opaque);
    void *opaque;
};

void piix_isa_init(struct piix_isa *isa, void (*routed)(void *opaque), void *opaque);
/* The ISA interrupt that PIRQ 0 (A) to 3 goes to; -1: to none. */
int piix_isa_irq(const struct piix_isa *isa, unsigned pirq);

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
