/* SPDX-License-Identifier: MIT */
/*
 * Dispatch by ranges: the range hit last, else a binary search. An access that no single range holds
 * goes to the floating bus, which is a device too: all ones, and a line in the log.
 */
#include "bus/bus.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "util/log.h"

static uint64_t bus_float_read(void *self, uint64_t offset, unsigned size)
{
    const struct bus *bus = self;
    log_line(LOG_UNASSIGNED, "%s read of %u bytes at 0x%" PRIx64, bus->name, size, offset);
    return UINT64_MAX;
}

static void bus_float_write(void *self, uint64_t offset, unsigned size, uint64_t value)
{
    const struct bus *bus = self;
    log_line(LOG_UNASSIGNED, "%s write of %u bytes at 0x%" PRIx64 ": 0x%" PRIx64, bus->name, size, offset, value);
}

static const struct device_ops bus_float_ops = {.name = "float", .read = bus_float_read, .write = bus_float_write};

void bus_init(struct bus *bus, const char *name, uint64_t limit)
{
    memset(bus, 0, sizeof(*bus));
    bus->name = name;
    bus->limit = limit;
    atomic_init(&bus->last, NULL);
}

int bus_add(struct bus *bus, uint64_t base, uint64_t size, const struct device_ops *ops, void *device)
{
    if (size == 0 || base > bus->limit || size - 1 > bus->limit - base) {
        return -EINVAL;
    }
    if (bus->count == BUS_RANGES_MAX) {
        return -ENOSPC;
    }
    unsigned at = 0;
    while (at < bus->count && bus->ranges[at].base < base) {
        at++;
    }
    bool before = at > 0 && base - bus->ranges[at - 1].base < bus->ranges[at - 1].size;
    bool behind = at < bus->count && bus->ranges[at].base - base < size;
    if (before || behind) {
        return -EEXIST;
    }
    memmove(&bus->ranges[at + 1], &bus->ranges[at], (bus->count - at) * sizeof(bus->ranges[0]));
    bus->ranges[at] = (struct bus_range){.base = base, .size = size, .ops = ops, .device = device};
    bus->count++;
    atomic_store_explicit(&bus->last, NULL, memory_order_relaxed);
    return 0;
}

static bool bus_range_holds(const struct bus_range *range, uint64_t address, unsigned size)
{
    uint64_t offset = address - range->base;
    return address >= range->base && offset < range->size && size <= range->size - offset;
}

const struct bus_range *bus_find(struct bus *bus, uint64_t address, unsigned size)
{
    const struct bus_range *range = atomic_load_explicit(&bus->last, memory_order_relaxed);
    if (range != NULL && bus_range_holds(range, address, size)) {
        return range;
    }
    unsigned low = 0;
    unsigned high = bus->count;
    while (low < high) {
        unsigned middle = low + (high - low) / 2;
        if (bus->ranges[middle].base <= address) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if (low == 0 || !bus_range_holds(&bus->ranges[low - 1], address, size)) {
        return NULL;
    }
    range = &bus->ranges[low - 1];
    atomic_store_explicit(&bus->last, range, memory_order_relaxed);
    return range;
}

uint64_t bus_read(struct bus *bus, uint64_t address, unsigned size)
{
    const struct bus_range *range = bus_find(bus, address, size);
    uint64_t value = range != NULL ? range->ops->read(range->device, address - range->base, size)
                                   : bus_float_ops.read(bus, address, size);
    return size >= 8 ? value : value & ((UINT64_C(1) << size * 8) - 1);
}

void bus_write(struct bus *bus, uint64_t address, unsigned size, uint64_t value)
{
    const struct bus_range *range = bus_find(bus, address, size);
    if (range != NULL) {
        range->ops->write(range->device, address - range->base, size, value);
    } else {
        bus_float_ops.write(bus, address, size, value);
    }
}
