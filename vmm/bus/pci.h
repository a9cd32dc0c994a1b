/* SPDX-License-Identifier: MIT */
/*
 * PCI bus 0 by configuration mechanism #1 (PCI 3.0, 3.2.2.3.2).
 *
 *   CONFIG_ADDRESS (0xCF8, 32 bits):  31 enable | 23..16 bus | 15..11 device | 10..8 function | 7..2 register
 *   CONFIG_DATA    (0xCFC)            the register's bytes
 *
 * Port 0xCF9, a byte inside of CONFIG_ADDRESS, is the reset control register of the south bridge.
 */
#ifndef KAGE_BUS_PCI_H
#define KAGE_BUS_PCI_H

#include <pthread.h>
#include <stdint.h>

#include "dev/device.h"
#include "dev/pci.h"

#define PCI_DEVFN(device, function) ((uint8_t)((device) << 3 | (function)))
#define PCI_PORT 0xcf8u
#define PCI_PORTS 8u

struct pci_bus {
    pthread_mutex_t lock;
    uint32_t address;
    struct pci_function *functions[256]; /* by devfn */
    const struct device_ops *reset_ops;  /* of port 0xCF9 */
    void *reset;
};

extern const struct device_ops pci_ports_ops; /* PCI_PORTS ports from PCI_PORT */

void pci_bus_init(struct pci_bus *bus, const struct device_ops *reset_ops, void *reset);
void pci_bus_fini(struct pci_bus *bus);

void pci_function_add(struct pci_bus *bus, uint8_t devfn, struct pci_function *function);

#endif
