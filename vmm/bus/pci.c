/* SPDX-License-Identifier: MIT */
#include "bus/pci.h"

#include <inttypes.h>
#include <stddef.h>
#include <string.h>

#include "util/log.h"

#define CONFIG_ADDRESS_ENABLE 0x80000000u
#define CONFIG_ADDRESS_BITS 0x80fffffcu
#define CONFIG_DATA_AT 4u
#define RESET_AT 1u /* port 0xCF9 */

#define BAR_PORT 0x1u
#define BAR_WIDE 0x4u
#define BAR_PREFETCHABLE 0x8u
#define BAR_PORT_LIMIT UINT64_C(0xffff)
#define BAR_MEMORY_LIMIT UINT64_C(0xffffffff)

void pci_bus_init(struct pci_bus *bus, struct bus *ports, struct bus *memory, const struct device_ops *reset_ops, void *reset)
{
    memset(bus, 0, sizeof(*bus));
    pthread_mutex_init(&bus->lock, NULL);
    pthread_mutex_init(&bus->intx_lock, NULL);
    bus->ports = ports;
    bus->memory = memory;
    bus->reset_ops = reset_ops;
    bus->reset = reset;
}

void pci_bus_fini(struct pci_bus *bus)
{
    pthread_mutex_destroy(&bus->intx_lock);
    pthread_mutex_destroy(&bus->lock);
}

/* ---- Interrupt pins: each PIRQ is the OR of those that are connected to it ---- */

void pci_bus_connect(struct pci_bus *bus, unsigned (*pirq_of)(unsigned device, unsigned pin), const struct irq *pirq)
{
    bus->pirq_of = pirq_of;
    bus->pirq = *pirq;
}

static bool pci_pin_drives(const struct pci_bus *bus, unsigned devfn)
{
    return bus->asserted[devfn] && !bus->disabled[devfn];
}

/* One of the pin's two inputs becomes `value`. */
static void pci_pin_change(struct pci_bus *bus, unsigned devfn, bool *input, bool value)
{
    pthread_mutex_lock(&bus->intx_lock);
    bool before = pci_pin_drives(bus, devfn);
    *input = value;
    bool now = pci_pin_drives(bus, devfn);
    unsigned pin = bus->functions[devfn] != NULL ? bus->functions[devfn]->config[PCI_INTERRUPT_PIN] : 0;
    if (before != now && pin != 0 && bus->pirq_of != NULL) {
        unsigned pirq = bus->pirq_of(devfn >> 3, pin - 1);
        bus->pirq_count[pirq] += now ? 1u : -1u;
        if (bus->pirq_count[pirq] == (now ? 1u : 0u)) {
            bus->pirq.set(bus->pirq.opaque, pirq, now);
        }
    }
    pthread_mutex_unlock(&bus->intx_lock);
}

static void pci_set_pin(void *opaque, uint32_t devfn, bool level)
{
    struct pci_bus *bus = opaque;
    pci_pin_change(bus, devfn, &bus->asserted[devfn], level);
}

/* ---- Base address registers (PCI 3.0, 6.2.5.1) ---- */

static struct bus *pci_bar_bus(struct pci_bus *bus, const struct pci_bar *bar)
{
    return bar->port ? bus->ports : bus->memory;
}

/* Where the guest wants it; UINT64_MAX: nowhere. All ones are what it writes to learn the size; 0 is where it was never put. */
static uint64_t pci_bar_wanted(const struct pci_function *function, unsigned index)
{
    const struct pci_bar *bar = &function->bars[index];
    unsigned at = PCI_BASE_ADDRESS_0 + index * 4;
    uint16_t command = pci_get_word(function->config, PCI_COMMAND);
    uint64_t base = pci_get_long(function->config, at) & (bar->port ? ~UINT64_C(3) : ~UINT64_C(15));
    uint64_t limit = bar->port ? BAR_PORT_LIMIT : BAR_MEMORY_LIMIT;
    if (bar->wide) {
        base |= (uint64_t)pci_get_long(function->config, at + 4) << 32;
        limit = UINT64_MAX;
    }
    bool decoded = (command & (bar->port ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY)) != 0;
    bool place = base != 0 && base < limit && bar->bytes - 1 < limit - base;
    return decoded && place ? base : UINT64_MAX;
}

static void pci_bar_unmap(struct pci_bus *bus, struct pci_function *function, unsigned index)
{
    struct pci_bar *bar = &function->bars[index];
    bus_remove(pci_bar_bus(bus, bar), bar->base);
    bar->mapped = false;
    if (function->moved != NULL) {
        function->moved(function->self, index);
    }
}

static void pci_bar_map(struct pci_bus *bus, struct pci_function *function, unsigned index, uint64_t base)
{
    struct pci_bar *bar = &function->bars[index];
    if (bus_add(pci_bar_bus(bus, bar), base, bar->bytes, bar->ops, bar->device) != 0) {
        log_line(LOG_GUEST, "%s: BAR %u cannot be at 0x%" PRIx64 ", something else is", function->name, index, base);
        return;
    }
    bar->base = base;
    bar->mapped = true;
    if (function->moved != NULL) {
        function->moved(function->self, index);
    }
}

/* What has left its place first; then everything that has none: a place may have become free for another function's. */
static void pci_update_bars(struct pci_bus *bus, struct pci_function *changed)
{
    for (unsigned i = 0; i < PCI_BARS; i++) {
        struct pci_bar *bar = &changed->bars[i];
        if (bar->bytes != 0 && bar->mapped && pci_bar_wanted(changed, i) != bar->base) {
            pci_bar_unmap(bus, changed, i);
        }
    }
    for (unsigned devfn = 0; devfn < PCI_FUNCTIONS; devfn++) {
        struct pci_function *function = bus->functions[devfn];
        for (unsigned i = 0; function != NULL && i < PCI_BARS; i++) {
            uint64_t wanted = function->bars[i].bytes != 0 && !function->bars[i].mapped ? pci_bar_wanted(function, i) : UINT64_MAX;
            if (wanted != UINT64_MAX) {
                pci_bar_map(bus, function, i, wanted);
            }
        }
    }
}

static void pci_init_bar(struct pci_function *function, unsigned index)
{
    const struct pci_bar *bar = &function->bars[index];
    unsigned at = PCI_BASE_ADDRESS_0 + index * 4;
    uint64_t bits = ~(bar->bytes - 1);
    pci_set_long(function->config, at, bar->port ? BAR_PORT : (bar->wide ? BAR_WIDE : 0) | (bar->prefetchable ? BAR_PREFETCHABLE : 0));
    pci_set_long(function->writable, at, (uint32_t)bits & (bar->port ? ~3u : ~15u));
    if (bar->wide) {
        pci_set_long(function->writable, at + 4, (uint32_t)(bits >> 32));
    }
}

void pci_function_add(struct pci_bus *bus, uint8_t devfn, struct pci_function *function)
{
    for (unsigned i = 0; i < PCI_BARS; i++) {
        if (function->bars[i].bytes != 0) {
            pci_init_bar(function, i);
        }
    }
    function->intx = (struct irq){.set = pci_set_pin, .opaque = bus, .line = devfn};
    bus->functions[devfn] = function;
    struct pci_function *first = bus->functions[devfn & ~7u];
    for (unsigned i = 1; i < 8 && first != NULL; i++) {
        if (bus->functions[(devfn & ~7u) + i] != NULL) {
            first->config[PCI_HEADER_TYPE] |= PCI_HEADER_MULTI_FUNCTION; /* else nobody looks for it */
        }
    }
}

void pci_function_remove(struct pci_bus *bus, struct pci_function *function)
{
    pthread_mutex_lock(&bus->lock);
    for (unsigned i = 0; i < PCI_BARS; i++) {
        if (function->bars[i].mapped) {
            pci_bar_unmap(bus, function, i);
        }
    }
    for (unsigned devfn = 0; devfn < PCI_FUNCTIONS; devfn++) {
        if (bus->functions[devfn] == function) {
            irq_set(&function->intx, false);
            bus->functions[devfn] = NULL;
        }
    }
    pthread_mutex_unlock(&bus->lock);
}

/* ---- Configuration space ---- */

static uint64_t pci_config_read(struct pci_bus *bus, unsigned devfn, unsigned offset, unsigned size)
{
    const struct pci_function *function = bus->functions[devfn];
    uint64_t value = 0;
    if (function == NULL) {
        return UINT64_MAX; /* a master abort */
    }
    for (unsigned i = 0; i < size; i++) {
        uint8_t byte = function->config[offset + i];
        if (offset + i == PCI_STATUS) {
            pthread_mutex_lock(&bus->intx_lock);
            byte |= bus->asserted[devfn] ? PCI_STATUS_INTERRUPT : 0;
            pthread_mutex_unlock(&bus->intx_lock);
        }
        value |= (uint64_t)byte << (i * 8);
    }
    return function->read != NULL ? function->read(function->self, offset, size, value) : value;
}

static void pci_config_write(struct pci_bus *bus, unsigned devfn, unsigned offset, unsigned size, uint64_t value)
{
    struct pci_function *function = bus->functions[devfn];
    if (function == NULL) {
        return;
    }
    for (unsigned i = 0; i < size; i++) {
        uint8_t mask = function->writable[offset + i];
        uint8_t *byte = &function->config[offset + i];
        *byte = (uint8_t)((*byte & ~mask) | ((uint8_t)(value >> (i * 8)) & mask));
    }
    if (offset < PCI_STATUS && offset + size > PCI_COMMAND) {
        bool disabled = (pci_get_word(function->config, PCI_COMMAND) & PCI_COMMAND_INTX_DISABLE) != 0;
        pci_pin_change(bus, devfn, &bus->disabled[devfn], disabled);
    }
    if ((offset < PCI_STATUS && offset + size > PCI_COMMAND) ||
        (offset < PCI_BASE_ADDRESS_0 + PCI_BARS * 4 && offset + size > PCI_BASE_ADDRESS_0)) {
        pci_update_bars(bus, function);
    }
    if (function->written != NULL) {
        function->written(function->self, offset, size);
    }
}

/* devfn that CONFIG_ADDRESS names, or -1. */
static int pci_addressed(const struct pci_bus *bus)
{
    bool here = (bus->address & CONFIG_ADDRESS_ENABLE) != 0 && (bus->address >> 16 & 0xff) == 0;
    return here ? (int)(bus->address >> 8 & 0xff) : -1;
}

static uint64_t pci_ports_read(void *self, uint64_t offset, unsigned size)
{
    struct pci_bus *bus = self;

    if (offset == RESET_AT && size == 1) {
        return bus->reset_ops->read(bus->reset, 0, 1);
    }
    uint64_t value = UINT64_MAX;
    pthread_mutex_lock(&bus->lock);
    int devfn = pci_addressed(bus);
    if (offset >= CONFIG_DATA_AT && devfn >= 0) {
        value = pci_config_read(bus, (unsigned)devfn, (bus->address & 0xfc) + (unsigned)(offset - CONFIG_DATA_AT), size);
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
    int devfn = pci_addressed(bus);
    if (offset >= CONFIG_DATA_AT && devfn >= 0) {
        pci_config_write(bus, (unsigned)devfn, (bus->address & 0xfc) + (unsigned)(offset - CONFIG_DATA_AT), size, value);
    } else if (offset == 0 && size == 4) { /* the address takes double words only */
        bus->address = (uint32_t)value & CONFIG_ADDRESS_BITS;
    }
    pthread_mutex_unlock(&bus->lock);
}

const struct device_ops pci_ports_ops = {.name = "PCI host", .read = pci_ports_read, .write = pci_ports_write};

/* Up to four bytes inside of a double word; no function has an extended capability. */
static bool pci_ecam_valid(uint64_t offset, unsigned size)
{
    return size <= 4 && (offset & 3) + size <= 4;
}

static uint64_t pci_ecam_read(void *self, uint64_t offset, unsigned size)
{
    struct pci_bus *bus = self;
    unsigned devfn = (unsigned)(offset >> 12 & 0xff), at = (unsigned)(offset & 0xfff);
    uint64_t value = UINT64_MAX;
    pthread_mutex_lock(&bus->lock);
    if (pci_ecam_valid(offset, size) && bus->functions[devfn] != NULL) {
        value = at < PCI_CONFIG_BYTES ? pci_config_read(bus, devfn, at, size) : 0;
    }
    pthread_mutex_unlock(&bus->lock);
    return value;
}

static void pci_ecam_write(void *self, uint64_t offset, unsigned size, uint64_t value)
{
    struct pci_bus *bus = self;
    unsigned at = (unsigned)(offset & 0xfff);
    pthread_mutex_lock(&bus->lock);
    if (pci_ecam_valid(offset, size) && at < PCI_CONFIG_BYTES) {
        pci_config_write(bus, (unsigned)(offset >> 12 & 0xff), at, size, value);
    }
    pthread_mutex_unlock(&bus->lock);
}

const struct device_ops pci_ecam_ops = {.name = "PCI ECAM", .read = pci_ecam_read, .write = pci_ecam_write};
