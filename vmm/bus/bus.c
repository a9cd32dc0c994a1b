/* SPDX-License-Identifier: MIT */
/*
 * Dispatch by ranges, by binary search. An access that no single range holds goes to the floating bus,
 * which is a device too: all ones, and a line in the log.
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
    pthread_rwlock_init(&bus->lock, NULL);
}

void bus_fini(struct bus *bus)
{
    pthread_rwlock_destroy(&bus->lock);
}

/* Index of the first range that begins above `address`. Lock held. */
static unsigned bus_above(const struct bus *bus, uint64_t address)
{
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
    return low;
}

static int bus_insert(struct bus *bus, const struct bus_range *range)
{
    unsigned at = bus_above(bus, range->base);
    bool before = at > 0 && range->base - bus->ranges[at - 1].base < bus->ranges[at - 1].size;
    bool behind = at < bus->count && bus->ranges[at].base - range->base < range->size;
    if (before || behind) {
        return -EEXIST;
    }
    if (bus->count == BUS_RANGES_MAX) {
        return -ENOSPC;
    }
    memmove(&bus->ranges[at + 1], &bus->ranges[at], (bus->count - at) * sizeof(bus->ranges[0]));
    bus->ranges[at] = *range;
    bus->count++;
    return 0;
}

int bus_add(struct bus *bus, uint64_t base, uint64_t size, const struct device_ops *ops, void *device)
{
    if (size == 0 || base > bus->limit || size - 1 > bus->limit - base) {
        return -EINVAL;
    }
    struct bus_range range = {.base = base, .size = size, .ops = ops, .device = device};
    pthread_rwlock_wrlock(&bus->lock);
    int result = bus_insert(bus, &range);
    pthread_rwlock_unlock(&bus->lock);
    return result;
}

void bus_remove(struct bus *bus, uint64_t base)
{
    pthread_rwlock_wrlock(&bus->lock);
    unsigned above = bus_above(bus, base);
    if (above > 0 && bus->ranges[above - 1].base == base) {
        bus->count--;
        memmove(&bus->ranges[above - 1], &bus->ranges[above], (bus->count - (above - 1)) * sizeof(bus->ranges[0]));
    }
    pthread_rwlock_unlock(&bus->lock);
}

bool bus_find(struct bus *bus, uint64_t address, unsigned size, struct bus_range *found)
{
    pthread_rwlock_rdlock(&bus->lock);
    unsigned above = bus_above(bus, address);
    const struct bus_range *range = &bus->ranges[above > 0 ? above - 1 : 0];
    uint64_t offset = address - range->base;
    bool holds = above > 0 && offset < range->size && size <= range->size - offset;
    if (holds) {
        *found = *range;
    }
    pthread_rwlock_unlock(&bus->lock);
    return holds;
}

uint64_t bus_read(struct bus *bus, uint64_t address, unsigned size)
{
    struct bus_range range;
    bool found = bus_find(bus, address, size, &range);
    uint64_t value = found ? range.ops->read(range.device, address - range.base, size) : bus_float_ops.read(bus, address, size);
    return size >= 8 ? value : value & ((UINT64_C(1) << size * 8) - 1);
}

void bus_write(struct bus *bus, uint64_t address, unsigned size, uint64_t value)
{
    struct bus_range range;
    if (bus_find(bus, address, size, &range)) {
        range.ops->write(range.device, address - range.base, size, value);
    } else {
        bus_float_ops.write(bus, address, size, value);
    }
}
