/* SPDX-License-Identifier: MIT */
/*
 * A PCI Express root port: a bridge from the root bus (header type 1, PCI-to-PCI Bridge 1.2, 3.2) with one slot behind it (PCI Express 4.0,
 * 7.5.3). What is forwarded is bus/pci.c's, from the registers here.
 */
#ifndef KAGE_BUS_PCI_BRIDGE_H
#define KAGE_BUS_PCI_BRIDGE_H

#include "bus/pci.h"

struct pci_root_port {
    struct pci_function function;
    struct pci_bus secondary;
};

/*
 * A port for a slot that the guest calls `slot`. Once its function is on a bus, pci_bus_init_secondary() makes the one behind it.
 */
void pci_root_port_init(struct pci_root_port *port, const char *name, uint16_t slot, uint8_t number);
/* Something has been plugged into the slot of a root port, or has gone. */
void pci_root_port_update_presence(struct pci_function *port);

#endif
