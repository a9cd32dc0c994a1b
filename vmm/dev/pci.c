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
