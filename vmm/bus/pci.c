/* SPDX-License-Identifier: MIT */
#include "bus/pci.h"

#include <stddef.h>
#include <string.h>

#define CONFIG_ADDRESS_ENABLE 0x80000000u
#define CONFIG_ADDRESS_BITS 0x80fffffcu
#define CONFIG_DATA_AT 4u
#define RESET_AT 1u /* port 0xCF9 */

void pci_bus_init(struct pci_bus *bus, const struct device_ops *reset_ops, void *reset)
{
    memset(bus, 0, sizeof(*bus));
    pthread_mutex_init(&bus->lock, NULL);
    bus->reset_ops = reset_ops;
    bus->reset = reset;
}

void pci_bus_fini(struct pci_bus *bus)
{
    pthread_mutex_destroy(&bus->lock);
}

void pci_function_add(struct pci_bus *bus, uint8_t devfn, struct pci_function *function)
{
    bus->functions[devfn] = function;
}

static struct pci_function *pci_addressed(const struct pci_bus *bus)
{
    bool here = (bus->address & CONFIG_ADDRESS_ENABLE) != 0 && (bus->address >> 16 & 0xff) == 0;
    return here ? bus->functions[bus->address >> 8 & 0xff] : NULL;
}

static uint64_t pci_data_read(const struct pci_bus *bus, unsigned at, unsigned size)
{
    const struct pci_function *function = pci_addressed(bus);
    uint64_t value = 0;

    if (function == NULL) {
        return UINT64_MAX; /* a master abort */
    }
    unsigned offset = (bus->address & 0xfc) + at;
    for (unsigned i = 0; i < size; i++) {
        value |= (uint64_t)function->config[offset + i] << (i * 8);
    }
    return value;
}

static void pci_data_write(struct pci_bus *bus, unsigned at, unsigned size, uint64_t value)
{
    struct pci_function *function = pci_addressed(bus);

    if (function == NULL) {
        return;
    }
    unsigned offset = (bus->address & 0xfc) + at;
    for (unsigned i = 0; i < size; i++) {
        uint8_t mask = function->writable[offset + i];
        uint8_t *byte = &function->config[offset + i];
        *byte = (uint8_t)((*byte & ~mask) | ((uint8_t)(value >> (i * 8)) & mask));
    }
    if (function->written != NULL) {
        function->written(function->self, offset, size);
    }
}

static uint64_t pci_ports_read(void *self, uint64_t offset, unsigned size)
{
    struct pci_bus *bus = self;

    if (offset == RESET_AT && size == 1) {
        return bus->reset_ops->read(bus->reset, 0, 1);
    }
    uint64_t value = UINT64_MAX;
    pthread_mutex_lock(&bus->lock);
    if (offset >= CONFIG_DATA_AT) {
        value = pci_data_read(bus, (unsigned)(offset - CONFIG_DATA_AT), size);
    } else if (offset == 0 && size == 4) {
        value = bus->address;
    }
    pthread_mutex_unlock(&bus->lock);
    return value;
}

static void pci_ports_write(void *self, uint64_t offset, unsigned size, uint64_t value)
{
    struct pci_bus *bus = self;

    if (offset == RESET_AT && size == 1) {
        bus->reset_ops->write(bus->reset, 0, 1, value);
        return;
    }
    pthread_mutex_lock(&bus->lock);
    if (offset >= CONFIG_DATA_AT) {
        pci_data_write(bus, (unsigned)(offset - CONFIG_DATA_AT), size, value);
    } else if (offset == 0 && size == 4) { /* the address takes double words only */
        bus->address = (uint32_t)value & CONFIG_ADDRESS_BITS;
    }
    pthread_mutex_unlock(&bus->lock);
}

const struct device_ops pci_ports_ops = {.name = "PCI host", .read = pci_ports_read, .write = pci_ports_write};
