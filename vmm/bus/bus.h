/* SPDX-License-Identifier: MIT */
/*
 * A bus: which device answers at an address. One for ports, one for memory. Ranges are added while the
 * machine is built and never change while it runs, so that dispatch takes no lock.
 */
#ifndef KAGE_BUS_BUS_H
#define KAGE_BUS_BUS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "dev/device.h"

#define BUS_RANGES_MAX 64u

struct bus_range {
    uint64_t base;
    uint64_t size; /* bytes, not 0 */
    const struct device_ops *ops;
    void *device;
};

struct bus {
    const char *name;
    uint64_t limit; /* the highest address */
    unsigned count;
    struct bus_range ranges[BUS_RANGES_MAX]; /* sorted by base, disjoint */
    _Atomic(const struct bus_range *) last; /* the range hit last */
};

void bus_init(struct bus *bus, const char *name, uint64_t limit);

/* 0; -EEXIST: overlaps a range; -EINVAL: empty or beyond the bus; -ENOSPC. */
int bus_add(struct bus *bus, uint64_t base, uint64_t size, const struct device_ops *ops, void *device)
    __attribute__((warn_unused_result));

/* The range that holds [address, address + size), or NULL. */
const struct bus_range *bus_find(struct bus *bus, uint64_t address, unsigned size);

/* `size` is 1, 2, 4 or 8. Where nobody is home a read gives all ones and a write is lost. */
uint64_t bus_read(struct bus *bus, uint64_t address, unsigned size);
void bus_write(struct bus *bus, uint64_t address, unsigned size, uint64_t value);

#endif
