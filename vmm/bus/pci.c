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
    bus->root = bus;
    bus->last = &bus->first;
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

void pci_bus_init_secondary(struct pci_bus *bus, struct pci_function *bridge)
{
    memset(bus, 0, sizeof(*bus));
    bus->root = bridge->bus->root;
    bus->bridge = bridge;
    bridge->secondary = bus;
}

/* ---- Interrupt pins: each PIRQ is the OR of those that are connected to it ---- */

void pci_bus_connect(struct pci_bus *bus, unsigned (*pirq_of)(unsigned device, unsigned pin), const struct irq *pirq)
{
    bus->pirq_of = pirq_of;
    bus->pirq = *pirq;
}

/* A bridge's pin is one of the four of its own slot, turned by the device's number (PCI-to-PCI Bridge 1.2, 9.1). */
static unsigned pci_pirq_of(const struct pci_function *function, unsigned pin)
{
    while (function->bus->bridge != NULL) {
        pin = (pin + (function->devfn >> 3)) % 4;
        function = function->bus->bridge;
    }
    return function->bus->pirq_of(function->devfn >> 3, pin);
}

static bool pci_pin_drives(const struct pci_function *function)
{
    return function->intx_asserted && !function->intx_disabled;
}

/* One of the pin's two inputs becomes `value`. */
static void pci_pin_change(struct pci_function *function, bool *input, bool value)
{
    struct pci_bus *root = function->bus->root;
    pthread_mutex_lock(&root->intx_lock);
    bool before = pci_pin_drives(function);
    *input = value;
    bool now = pci_pin_drives(function);
    unsigned pin = function->config[PCI_INTERRUPT_PIN];
    if (before != now && pin != 0 && root->pirq_of != NULL) {
        unsigned pirq = pci_pirq_of(function, pin - 1);
        root->pirq_count[pirq] += now ? 1u : -1u;
        if (root->pirq_count[pirq] == (now ? 1u : 0u)) {
            root->pirq.set(root->pirq.opaque, pirq, now);
        }
    }
    pthread_mutex_unlock(&root->intx_lock);
}

static void pci_set_pin(void *opaque, uint32_t line, bool level)
{
    struct pci_function *function = opaque;
    (void)line;
    pci_pin_change(function, &function->intx_asserted, level);
}

/* ---- Base address registers (PCI 3.0, 6.2.5.1) ---- */

static struct bus *pci_bar_bus(struct pci_bus *bus, const struct pci_bar *bar)
{
    return bar->port ? bus->ports : bus->memory;
}

/* ---- What a bridge forwards downstream (PCI-to-PCI Bridge 1.2, 3.2.5.6 to 3.2.5.10) ---- */

struct pci_window {
    uint64_t first, last; /* none, where the last one is the smaller */
};

static bool pci_window_holds(struct pci_window window, uint64_t base, uint64_t bytes)
{
    return window.first <= base && base <= window.last && bytes - 1 <= window.last - base;
}

/* Of a pair of registers with bits 31..20. */
static struct pci_window pci_window(const uint8_t *config, unsigned base, unsigned limit)
{
    return (struct pci_window){.first = (uint64_t)(pci_get_word(config, base) & 0xfff0u) << 16,
                               .last = (uint64_t)(pci_get_word(config, limit) & 0xfff0u) << 16 | 0xfffff};
}

static struct pci_window pci_prefetchable(const uint8_t *config)
{
    struct pci_window window = pci_window(config, PCI_PREF_MEMORY_BASE, PCI_PREF_MEMORY_LIMIT);
    window.first |= (uint64_t)pci_get_long(config, PCI_PREF_BASE_UPPER32) << 32;
    window.last |= (uint64_t)pci_get_long(config, PCI_PREF_LIMIT_UPPER32) << 32;
    return window;
}

static bool pci_bridge_forwards(const uint8_t *config, bool port, uint64_t base, uint64_t bytes)
{
    uint16_t command = pci_get_word(config, PCI_COMMAND);
    if (port) {
        struct pci_window window = {.first = (uint64_t)(config[PCI_IO_BASE] & 0xf0u) << 8, .last = (uint64_t)(config[PCI_IO_LIMIT] & 0xf0u) << 8 | 0xfff};
        return (command & PCI_COMMAND_IO) != 0 && pci_window_holds(window, base, bytes);
    }
    return (command & PCI_COMMAND_MEMORY) != 0 && (pci_window_holds(pci_window(config, PCI_MEMORY_BASE, PCI_MEMORY_LIMIT), base, bytes) ||
                                                   pci_window_holds(pci_prefetchable(config), base, bytes));
}

static bool pci_forwarded(const struct pci_function *function, bool port, uint64_t base, uint64_t bytes)
{
    const struct pci_function *bridge = function->bus->bridge;
    while (bridge != NULL && pci_bridge_forwards(bridge->config, port, base, bytes)) {
        bridge = bridge->bus->bridge;
    }
    return bridge == NULL;
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
    return decoded && place && pci_forwarded(function, bar->port, base, bar->bytes) ? base : UINT64_MAX;
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

/*
 * What has left its place first; then everything that has none: a place may have become free for another function's. A bridge takes what is
 * behind it with it.
 */
static void pci_update_bars(struct pci_bus *root)
{
    for (struct pci_function *function = root->first; function != NULL; function = function->next) {
        for (unsigned i = 0; i < PCI_BARS; i++) {
            const struct pci_bar *bar = &function->bars[i];
            if (bar->mapped && pci_bar_wanted(function, i) != bar->base) {
                pci_bar_unmap(root, function, i);
            }
        }
    }
    for (struct pci_function *function = root->first; function != NULL; function = function->next) {
        for (unsigned i = 0; i < PCI_BARS; i++) {
            uint64_t wanted = function->bars[i].bytes != 0 && !function->bars[i].mapped ? pci_bar_wanted(function, i) : UINT64_MAX;
            if (wanted != UINT64_MAX) {
                pci_bar_map(root, function, i, wanted);
            }
        }
    }
}

uint64_t pci_bus_last(struct pci_bus *root)
{
    uint64_t last = 0;
    pthread_mutex_lock(&root->lock);
    for (const struct pci_function *function = root->first; function != NULL; function = function->next) {
        for (unsigned i = 0; i < PCI_BARS; i++) {
            const struct pci_bar *bar = &function->bars[i];
            unsigned at = PCI_BASE_ADDRESS_0 + i * 4;
            uint64_t base = bar->bytes != 0 && !bar->port ? pci_get_long(function->config, at) & ~UINT64_C(15) : 0;
            base |= bar->bytes != 0 && bar->wide ? (uint64_t)pci_get_long(function->config, at + 4) << 32 : 0;
            last = base != 0 && base + bar->bytes - 1 > last ? base + bar->bytes - 1 : last;
        }
        if (function->secondary != NULL) {
            struct pci_window window = pci_prefetchable(function->config);
            last = window.first < window.last && window.last > last ? window.last : last;
        }
    }
    pthread_mutex_unlock(&root->lock);
    return last;
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
    function->bus = bus;
    function->devfn = devfn;
    function->intx = (struct irq){.set = pci_set_pin, .opaque = function};
    function->next = NULL;
    *bus->root->last = function;
    bus->root->last = &function->next;
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
    struct pci_bus *root = bus->root;
    if (function->bus != bus) {
        return; /* it never was on it */
    }
    pthread_mutex_lock(&root->lock);
    for (unsigned i = 0; i < PCI_BARS; i++) {
        if (function->bars[i].mapped) {
            pci_bar_unmap(root, function, i);
        }
    }
    irq_set(&function->intx, false);
    bus->functions[function->devfn] = NULL;
    struct pci_function **link = &root->first;
    while (*link != function) {
        link = &(*link)->next;
    }
    *link = function->next;
    root->last = function->next == NULL ? link : root->last;
    function->bus = NULL;
    pthread_mutex_unlock(&root->lock);
}

/* ---- Configuration space ---- */

/* The bus of a number, as bridges were told: a guest may give one number twice, or none. NULL: there is none. */
static struct pci_bus *pci_find_bus(struct pci_bus *root, unsigned number)
{
    struct pci_bus *bus = root, *next = number == 0 ? NULL : root;
    while (next != NULL) {
        bus = next;
        next = NULL;
        for (struct pci_function *function = root->first; function != NULL && next == NULL; function = function->next) {
            bool forwards = function->secondary != NULL && function->bus == bus && function->config[PCI_SECONDARY_BUS] <= number &&
                            number <= function->config[PCI_SUBORDINATE_BUS] && function->config[PCI_SECONDARY_BUS] != 0;
            if (forwards && function->config[PCI_SECONDARY_BUS] == number) {
                return function->secondary;
            }
            next = forwards ? function->secondary : NULL;
        }
        bus = NULL;
    }
    return bus;
}

/* NULL: nobody is there. */
static struct pci_function *pci_find_function(struct pci_bus *root, unsigned number, unsigned devfn)
{
    const struct pci_bus *bus = pci_find_bus(root, number);
    return bus != NULL ? bus->functions[devfn] : NULL;
}

static uint64_t pci_config_read(struct pci_function *function, unsigned offset, unsigned size)
{
    uint64_t value = 0;
    if (function == NULL) {
        return UINT64_MAX; /* a master abort */
    }
    pthread_mutex_t *lock = &function->bus->root->intx_lock;
    for (unsigned i = 0; i < size; i++) {
        uint8_t byte = function->config[offset + i];
        if (offset + i == PCI_STATUS) {
            pthread_mutex_lock(lock);
            byte |= function->intx_asserted ? PCI_STATUS_INTERRUPT : 0;
            pthread_mutex_unlock(lock);
        }
        value |= (uint64_t)byte << (i * 8);
    }
    return function->read != NULL ? function->read(function->self, offset, size, value) : value;
}

static bool pci_overlaps(unsigned offset, unsigned size, unsigned first, unsigned end)
{
    return offset < end && offset + size > first;
}

static void pci_config_write(struct pci_function *function, unsigned offset, unsigned size, uint64_t value)
{
    if (function == NULL) {
        return;
    }
    for (unsigned i = 0; i < size; i++) {
        uint8_t mask = function->writable[offset + i];
        uint8_t *byte = &function->config[offset + i];
        *byte = (uint8_t)((*byte & ~mask) | ((uint8_t)(value >> (i * 8)) & mask));
    }
    bool command = pci_overlaps(offset, size, PCI_COMMAND, PCI_STATUS);
    if (command) {
        pci_pin_change(function, &function->intx_disabled, (pci_get_word(function->config, PCI_COMMAND) & PCI_COMMAND_INTX_DISABLE) != 0);
    }
    if (command || pci_overlaps(offset, size, PCI_BASE_ADDRESS_0, PCI_BASE_ADDRESS_0 + PCI_BARS * 4) ||
        (function->secondary != NULL && pci_overlaps(offset, size, PCI_PREF_BASE_UPPER32, PCI_IO_BASE_UPPER16))) {
        pci_update_bars(function->bus->root);
    }
    if (function->written != NULL) {
        function->written(function->self, offset, size);
    }
}
_Static_assert(PCI_BASE_ADDRESS_0 + PCI_BARS * 4 == PCI_PREF_BASE_UPPER32, "a bridge's windows follow each other");

/* The function that CONFIG_ADDRESS names; *here: it names one, there or not. */
static struct pci_function *pci_addressed(struct pci_bus *bus, bool *here)
{
    *here = (bus->address & CONFIG_ADDRESS_ENABLE) != 0;
    return *here ? pci_find_function(bus, bus->address >> 16 & 0xff, bus->address >> 8 & 0xff) : NULL;
}

static uint64_t pci_ports_read(void *self, uint64_t offset, unsigned size)
{
    struct pci_bus *bus = self;

    if (offset == RESET_AT && size == 1) {
        return bus->reset_ops->read(bus->reset, 0, 1);
    }
    uint64_t value = UINT64_MAX;
    pthread_mutex_lock(&bus->lock);
    bool here;
    struct pci_function *function = pci_addressed(bus, &here);
    if (offset >= CONFIG_DATA_AT && here) {
        value = pci_config_read(function, (bus->address & 0xfc) + (unsigned)(offset - CONFIG_DATA_AT), size);
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
    bool here;
    struct pci_function *function = pci_addressed(bus, &here);
    if (offset >= CONFIG_DATA_AT && here) {
        pci_config_write(function, (bus->address & 0xfc) + (unsigned)(offset - CONFIG_DATA_AT), size, value);
    } else if (offset == 0 && size == 4) { /* the address takes double words only */
        bus->address = (uint32_t)value & CONFIG_ADDRESS_BITS;
    }
    pthread_mutex_unlock(&bus->lock);
}

const struct device_ops pci_ports_ops = {.name = "PCI host", .read = pci_ports_read, .write = pci_ports_write};

/* Up to four bytes inside of a double word. */
static bool pci_ecam_valid(uint64_t offset, unsigned size)
{
    return size <= 4 && (offset & 3) + size <= 4;
}

static struct pci_function *pci_ecam_function(struct pci_bus *bus, uint64_t offset)
{
    return pci_find_function(bus, (unsigned)(offset >> 20 & 0xff), (unsigned)(offset >> 12 & 0xff));
}

/* Behind the first 256 bytes: nobody, or of an Express function no extended capability. */
static uint64_t pci_ecam_read(void *self, uint64_t offset, unsigned size)
{
    struct pci_bus *bus = self;
    unsigned at = (unsigned)(offset & 0xfff);
    uint64_t value = UINT64_MAX;
    pthread_mutex_lock(&bus->lock);
    struct pci_function *function = pci_ecam_function(bus, offset);
    if (pci_ecam_valid(offset, size) && function != NULL) {
        value = at < PCI_CONFIG_BYTES ? pci_config_read(function, at, size) : function->express ? 0 : UINT64_MAX;
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
        pci_config_write(pci_ecam_function(bus, offset), at, size, value);
    }
    pthread_mutex_unlock(&bus->lock);
}

const struct device_ops pci_ecam_ops = {.name = "PCI ECAM", .read = pci_ecam_read, .write = pci_ecam_write};
