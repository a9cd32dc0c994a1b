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

/* A port for a slot that the guest calls `slot`; then it goes on a bus by pci_root_port_add(). */
void pci_root_port_init(struct pci_root_port *port, const char *name, uint16_t slot, uint8_t number);
void pci_root_port_add(struct pci_bus *bus, uint8_t devfn, struct pci_root_port *port);
/* Once everything is plugged: whether the slot has something in it. */
void pci_root_port_update_presence(struct pci_root_port *port);

/* A capability of PCI Express on a function in a slot, or -ENOSPC. */
int pci_add_endpoint(struct pci_function *function) __attribute__((warn_unused_result));

#endif
