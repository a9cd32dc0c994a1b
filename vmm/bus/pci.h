/* SPDX-License-Identifier: MIT */
/*
 * PCI: configuration space by mechanism #1 (PCI 3.0, 3.2.2.3.2) and by ECAM (PCI Express 4.0, 7.2.2), base address registers that
 * put devices on the port and the memory bus, interrupt pins, and buses behind bridges (bus/pci_bridge.h). The root bus, number 0, has what
 * the whole hierarchy shares.
 *
 *   CONFIG_ADDRESS (0xCF8, 32 bits):  31 enable | 23..16 bus | 15..11 device | 10..8 function | 7..2 register
 *   CONFIG_DATA    (0xCFC)            the register's bytes
 *   ECAM           offset             27..20 bus | 19..15 device | 14..12 function | 11..0 register
 *
 * Port 0xCF9, a byte inside of CONFIG_ADDRESS, is the reset control register of the south bridge.
 *
 * Locks: `lock` is the configuration's, and is held in a function's callbacks; `intx_lock` is inside of any device's lock.
 */
#ifndef KAGE_BUS_PCI_H
#define KAGE_BUS_PCI_H

#include <pthread.h>
#include <stdint.h>

#include "bus/bus.h"
#include "dev/device.h"
#include "dev/pci.h"

#define PCI_DEVFN(device, function) ((uint8_t)((device) << 3 | (function)))
#define PCI_PORT 0xcf8u
#define PCI_PORTS 8u
#define PCI_FUNCTIONS 256u
#define PCI_PIRQS 8u
#define PCI_ECAM_BYTES (UINT64_C(1) << 20) /* one bus */
#define PCI_BUSES_MAX 256u

struct pci_bus {
    struct pci_bus *root;            /* itself, of the root bus */
    struct pci_function *bridge;     /* that it is behind; NULL: the root bus */
    struct pci_function *functions[PCI_FUNCTIONS]; /* by devfn */

    /* The rest is the root bus's. */
    pthread_mutex_t lock;
    uint32_t address;
    struct pci_function *first, **last; /* all functions, on any bus */
    struct bus *ports, *memory;
    const struct device_ops *reset_ops; /* of port 0xCF9 */
    void *reset;

    pthread_mutex_t intx_lock;
    unsigned pirq_count[PCI_PIRQS];                     /* pins that drive it */
    unsigned (*pirq_of)(unsigned device, unsigned pin); /* pin: 0 is INTA */
    struct irq pirq;                                    /* its line is the number of the PIRQ */
};

extern const struct device_ops pci_ports_ops; /* PCI_PORTS ports from PCI_PORT */
extern const struct device_ops pci_ecam_ops;  /* PCI_ECAM_BYTES for each bus from 0 on */

/* The root bus. `reset`: what port 0xCF9 reaches. */
void pci_bus_init(struct pci_bus *bus, struct bus *ports, struct bus *memory, const struct device_ops *reset_ops, void *reset);
void pci_bus_fini(struct pci_bus *bus);
/* The bus behind a bridge that is on a bus already. */
void pci_bus_init_secondary(struct pci_bus *bus, struct pci_function *bridge);
/* Where interrupt pins go. Called with intx_lock held. */
void pci_bus_connect(struct pci_bus *bus, unsigned (*pirq_of)(unsigned device, unsigned pin), const struct irq *pirq);

/* The last byte of memory that any BAR or bridge claims, decoded or not: where firmware has put things. 0: none does. */
uint64_t pci_bus_last(struct pci_bus *root);

/* Before a guest runs. The place must be free. */
void pci_function_add(struct pci_bus *bus, uint8_t devfn, struct pci_function *function);
/* Its BARs leave the buses. */
void pci_function_remove(struct pci_bus *bus, struct pci_function *function);

#endif
