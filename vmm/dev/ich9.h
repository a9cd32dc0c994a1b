/* SPDX-License-Identifier: MIT */
/*
 * The south bridge of board q35 (Intel 316972, ICH9): the LPC interface at 1f.0, and the SMBus at 1f.3 with nothing on it.
 *
 *   LPC  40h PMBASE  15..7 base | 44h ACPI_CNTL  7 enable | 60h..63h PIRQ[A-D]_ROUT, 68h..6Bh PIRQ[E-H]_ROUT  7 off | 3..0 interrupt
 *        F0h RCBA   31..14 base | 0 enable
 *
 *   RCBA's 16 KiB (chapter 10): chip configuration, kept as it is written; D25IR to D31IR route the pins of slots 25 to 31.
 */
#ifndef KAGE_DEV_ICH9_H
#define KAGE_DEV_ICH9_H

#include <pthread.h>

#include "dev/pci.h"

#define ICH9_PIRQS 8u
#define ICH9_RCRB_BYTES 0x4000u

struct ich9_lpc {
    struct pci_function function;
    /* A PIRQ may go to another interrupt now: look at ich9_lpc_irq() again. */
    void (*routed)(void *opaque);
    /* The ACPI registers are at port `base` now; 0: nowhere. */
    void (*pm_moved)(void *opaque, uint16_t base);
    /* RCBA's registers are at `base`; 0: nowhere. */
    void (*rcrb_moved)(void *opaque, uint32_t base);
    void *opaque;
    uint16_t pm_base;
    uint32_t rcrb_base;
    pthread_mutex_t lock; /* of what follows */
    uint8_t rcrb[ICH9_RCRB_BYTES];
};

struct ich9_lpc_events {
    void (*routed)(void *opaque);
    void (*pm_moved)(void *opaque, uint16_t base);
    void (*rcrb_moved)(void *opaque, uint32_t base);
    void *opaque;
};

extern const struct device_ops ich9_rcrb_ops; /* ICH9_RCRB_BYTES */

void ich9_lpc_init(struct ich9_lpc *lpc, const struct ich9_lpc_events *events);
void ich9_lpc_fini(struct ich9_lpc *lpc);
/* The ISA interrupt that PIRQ 0 (A) to 7 goes to; -1: to none. */
int ich9_lpc_irq(const struct ich9_lpc *lpc, unsigned pirq);

/* Where a pin of a slot of the root bus is wired: 0 (PIRQ A) to 7. */
unsigned ich9_pirq_of(unsigned device, unsigned pin);

struct ich9_smbus {
    struct pci_function function;
    pthread_mutex_t lock;
    uint8_t registers[32];
};

void ich9_smbus_init(struct ich9_smbus *smbus);
void ich9_smbus_fini(struct ich9_smbus *smbus);

#endif
