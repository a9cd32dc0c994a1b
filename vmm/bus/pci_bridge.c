/* SPDX-License-Identifier: MIT */
#include "bus/pci_bridge.h"

#include <string.h>

#define CAPABILITY_EXPRESS 0x10u
#define EXPRESS_BYTES 0x3cu
#define EXPRESS_VERSION 2u
enum { EXPRESS_ENDPOINT = 0x0, EXPRESS_ROOT_PORT = 0x4 };
#define EXPRESS_SLOT 0x0100u /* there is one behind it */

/* Offsets in the capability */
enum {
    EXPRESS_FLAGS = 0x02,
    DEVICE_CAPABILITIES = 0x04,
    DEVICE_CONTROL = 0x08,
    LINK_CAPABILITIES = 0x0c,
    LINK_CONTROL = 0x10,
    LINK_STATUS = 0x12,
    SLOT_CAPABILITIES = 0x14,
    SLOT_STATUS = 0x1a,
    ROOT_CONTROL = 0x1c,
    LINK_CAPABILITIES_2 = 0x2c,
    LINK_CONTROL_2 = 0x30,
};
#define DEVICE_ROLE_BASED_ERRORS 0x8000u
#define DEVICE_CONTROL_BITS 0x781fu /* error reports, relaxed order, no snoop, read request size */
#define LINK_SPEED_2_5 0x1u
#define LINK_WIDTH_1 (1u << 4)
#define LINK_CONTROL_BITS 0x00c0u /* common clock, extended synch */
#define LINK_PORT_SHIFT 24u
#define LINK_SPEEDS_2_5 0x2u
#define SLOT_NUMBER_SHIFT 19u
#define SLOT_PRESENT 0x0040u

#define ROOT_PORT_VENDOR 0x1b36u
#define ROOT_PORT_DEVICE 0x000cu
#define CLASS_BRIDGE_PCI 0x0604u
#define PREF_64_BIT 0x1u
#define BRIDGE_CONTROL_BITS 0x0003u /* parity, SERR */

static int pci_add_express(struct pci_function *function, uint16_t flags)
{
    int at = pci_add_capability(function, CAPABILITY_EXPRESS, EXPRESS_BYTES);
    if (at < 0) {
        return at;
    }
    uint8_t *cap = function->config + at, *writable = function->writable + at;
    pci_set_word(cap, EXPRESS_FLAGS, (uint16_t)(EXPRESS_VERSION | flags));
    pci_set_long(cap, DEVICE_CAPABILITIES, DEVICE_ROLE_BASED_ERRORS);
    pci_set_word(writable, DEVICE_CONTROL, DEVICE_CONTROL_BITS);
    pci_set_long(cap, LINK_CAPABILITIES, LINK_SPEED_2_5 | LINK_WIDTH_1);
    pci_set_word(writable, LINK_CONTROL, LINK_CONTROL_BITS);
    pci_set_word(cap, LINK_STATUS, LINK_SPEED_2_5 | LINK_WIDTH_1);
    pci_set_long(cap, LINK_CAPABILITIES_2, LINK_SPEEDS_2_5);
    pci_set_word(cap, LINK_CONTROL_2, LINK_SPEED_2_5);
    function->express = true;
    return at;
}

int pci_add_endpoint(struct pci_function *function)
{
    int at = pci_add_express(function, EXPRESS_ENDPOINT << 4);
    return at < 0 ? at : 0;
}

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
    int at = pci_add_express(function, EXPRESS_ROOT_PORT << 4 | EXPRESS_SLOT); /* the first one: there is room */
    uint8_t *cap = function->config + at;
    pci_set_long(cap, LINK_CAPABILITIES, pci_get_long(cap, LINK_CAPABILITIES) | (uint32_t)number << LINK_PORT_SHIFT);
    pci_set_long(cap, SLOT_CAPABILITIES, (uint32_t)slot << SLOT_NUMBER_SHIFT);
    function->writable[at + ROOT_CONTROL] = 0x07; /* system errors */
}

void pci_root_port_add(struct pci_bus *bus, uint8_t devfn, struct pci_root_port *port)
{
    pci_function_add(bus, devfn, &port->function);
    pci_bus_init_secondary(&port->secondary, &port->function);
}

void pci_root_port_update_presence(struct pci_root_port *port)
{
    uint8_t *cap = port->function.config + port->function.config[PCI_CAPABILITIES_POINTER];
    pci_set_word(cap, SLOT_STATUS, port->secondary.functions[0] != NULL ? SLOT_PRESENT : 0);
}
