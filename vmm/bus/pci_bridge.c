/* SPDX-License-Identifier: MIT */
#include "bus/pci_bridge.h"

#include <string.h>

#define EXPRESS_SLOT 0x0100u /* there is one behind it */
#define LINK_PORT_SHIFT 24u
#define SLOT_NUMBER_SHIFT 19u
#define SLOT_PRESENT 0x0040u

#define ROOT_PORT_VENDOR 0x1b36u
#define ROOT_PORT_DEVICE 0x000cu
#define CLASS_BRIDGE_PCI 0x0604u
#define PREF_64_BIT 0x1u
#define BRIDGE_CONTROL_BITS 0x0003u /* parity, SERR */

void pci_root_port_init(struct pci_root_port *port, const char *name, uint16_t slot, uint8_t number)
{
    struct pci_function *function = &port->function;
    pci_function_init(function, name, ROOT_PORT_VENDOR, ROOT_PORT_DEVICE, CLASS_BRIDGE_PCI, 0);
    function->config[PCI_HEADER_TYPE] = PCI_HEADER_BRIDGE;
    function->config[PCI_INTERRUPT_PIN] = 1;
    memset(function->writable + PCI_PRIMARY_BUS, 0xff, 3);
    function->writable[PCI_IO_BASE] = function->writable[PCI_IO_LIMIT] = 0xf0; /* 16-bit ports */
    for (unsigned at = PCI_MEMORY_BASE; at <= PCI_PREF_MEMORY_LIMIT; at += 2) {
        pci_set_word(function->writable, at, 0xfff0);
    }
    function->config[PCI_PREF_MEMORY_BASE] = function->config[PCI_PREF_MEMORY_LIMIT] = PREF_64_BIT;
    pci_set_long(function->writable, PCI_PREF_BASE_UPPER32, 0xffffffff);
    pci_set_long(function->writable, PCI_PREF_LIMIT_UPPER32, 0xffffffff);
    function->writable[PCI_BRIDGE_CONTROL] = BRIDGE_CONTROL_BITS;
    int at = pci_add_express(function, PCI_EXPRESS_ROOT_PORT, EXPRESS_SLOT); /* the first one: there is room */
    uint8_t *cap = function->config + at;
    pci_set_long(cap, PCI_EXPRESS_LINK_CAPABILITIES, pci_get_long(cap, PCI_EXPRESS_LINK_CAPABILITIES) | (uint32_t)number << LINK_PORT_SHIFT);
    pci_set_long(cap, PCI_EXPRESS_SLOT_CAPABILITIES, (uint32_t)slot << SLOT_NUMBER_SHIFT);
    function->writable[at + PCI_EXPRESS_ROOT_CONTROL] = 0x0f; /* system errors, PME interrupts */
}

void pci_root_port_update_presence(struct pci_function *port)
{
    uint8_t *cap = port->config + port->config[PCI_CAPABILITIES_POINTER];
    pci_set_word(cap, PCI_EXPRESS_SLOT_STATUS, port->secondary->functions[0] != NULL ? SLOT_PRESENT : 0);
}
