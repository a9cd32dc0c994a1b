/* SPDX-License-Identifier: MIT */
#include "dev/pci.h"

#include <errno.h>
#include <string.h>

#define CAPABILITIES_AT 0x40u

void pci_set_word(uint8_t *config, unsigned offset, uint16_t value)
{
    config[offset] = (uint8_t)value;
    config[offset + 1] = (uint8_t)(value >> 8);
}

uint32_t pci_get_long(const uint8_t *config, unsigned offset)
{
    return config[offset] | (uint32_t)config[offset + 1] << 8 | (uint32_t)config[offset + 2] << 16 | (uint32_t)config[offset + 3] << 24;
}

void pci_set_long(uint8_t *config, unsigned offset, uint32_t value)
{
    pci_set_word(config, offset, (uint16_t)value);
    pci_set_word(config, offset + 2, (uint16_t)(value >> 16));
}

uint16_t pci_get_word(const uint8_t *config, unsigned offset)
{
    return (uint16_t)(config[offset] | config[offset + 1] << 8);
}

int pci_add_capability(struct pci_function *function, uint8_t id, unsigned bytes)
{
    uint8_t *config = function->config;
    unsigned at = function->capabilities_end != 0 ? function->capabilities_end : CAPABILITIES_AT;
    if (at + bytes > PCI_CONFIG_BYTES) {
        return -ENOSPC;
    }
    config[at] = id;
    config[at + 1] = config[PCI_CAPABILITIES_POINTER];
    config[PCI_CAPABILITIES_POINTER] = (uint8_t)at;
    config[PCI_STATUS] |= PCI_STATUS_CAPABILITIES;
    function->capabilities_end = (at + bytes + 3) & ~3u;
    return (int)at;
}

void pci_function_init(struct pci_function *function, const char *name, uint16_t vendor, uint16_t device, uint16_t class, uint8_t revision)
{
    memset(function, 0, sizeof(*function));
    function->name = name;
    pci_set_word(function->config, PCI_VENDOR_ID, vendor);
    pci_set_word(function->config, PCI_DEVICE_ID, device);
    pci_set_word(function->config, PCI_CLASS_DEVICE, class);
    function->config[PCI_REVISION_ID] = revision;
    function->writable[PCI_INTERRUPT_LINE] = 0xff;
    function->writable[PCI_COMMAND] = 0x47; /* I/O, memory, bus master, parity */
    function->writable[PCI_COMMAND + 1] = 0x05; /* SERR, INTx disable */
}

/* ---- PCI Express ---- */

#define CAPABILITY_EXPRESS 0x10u
#define EXPRESS_BYTES 0x3cu
#define EXPRESS_VERSION 2u
#define EXPRESS_KIND_SHIFT 4u

/* Offsets in the capability */
enum {
    EXPRESS_FLAGS = 0x02,
    DEVICE_CAPABILITIES = 0x04,
    DEVICE_CONTROL = 0x08,
    LINK_CONTROL = 0x10,
    LINK_STATUS = 0x12,
    LINK_CAPABILITIES_2 = 0x2c,
    LINK_CONTROL_2 = 0x30,
};
#define DEVICE_ROLE_BASED_ERRORS 0x8000u
#define DEVICE_CONTROL_BITS 0x781fu /* error reports, relaxed order, no snoop, read request size */
#define LINK_SPEED_2_5 0x1u
#define LINK_WIDTH_1 (1u << 4)
#define LINK_CONTROL_BITS 0x00c0u /* common clock, extended synch */
#define LINK_SPEEDS_2_5 0x2u

int pci_add_express(struct pci_function *function, unsigned kind, uint16_t flags)
{
    int at = pci_add_capability(function, CAPABILITY_EXPRESS, EXPRESS_BYTES);
    if (at < 0) {
        return at;
    }
    uint8_t *cap = function->config + at, *writable = function->writable + at;
    pci_set_word(cap, EXPRESS_FLAGS, (uint16_t)(EXPRESS_VERSION | kind << EXPRESS_KIND_SHIFT | flags));
    pci_set_long(cap, DEVICE_CAPABILITIES, DEVICE_ROLE_BASED_ERRORS);
    pci_set_word(writable, DEVICE_CONTROL, DEVICE_CONTROL_BITS);
    pci_set_long(cap, PCI_EXPRESS_LINK_CAPABILITIES, LINK_SPEED_2_5 | LINK_WIDTH_1);
    pci_set_word(writable, LINK_CONTROL, LINK_CONTROL_BITS);
    pci_set_word(cap, LINK_STATUS, LINK_SPEED_2_5 | LINK_WIDTH_1);
    pci_set_long(cap, LINK_CAPABILITIES_2, LINK_SPEEDS_2_5);
    pci_set_word(cap, LINK_CONTROL_2, LINK_SPEED_2_5);
    function->express = true;
    return at;
}
