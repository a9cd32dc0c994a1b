/* SPDX-License-Identifier: MIT */
/*
 * A bus: which device answers at an address. One for ports, one for memory. Ranges may come and go while
 * the machine runs (a guest moves a device); a device is called without the bus's lock.
 */
#ifndef KAGE_BUS_BUS_H
#define KAGE_BUS_BUS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "dev/device.h"

#define BUS_RANGES_MAX 256u

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
    pthread_rwlock_t lock; /* of count and ranges */
};

void bus_init(struct bus *bus, const char *name, uint64_t limit);
void bus_fini(struct bus *bus);

/* 0; -EEXIST: overlaps a range; -EINVAL: empty or beyond the bus; -ENOSPC. */
int bus_add(struct bus *bus, uint64_t base, uint64_t size, const struct device_ops *ops, void *device)
    __attribute__((warn_unused_result));

/* The range that begins at `base` goes; nothing happens if there is none. */
void bus_remove(struct bus *bus, uint64_t base);

/* The range that holds [address, address + size); false: none does. */
bool bus_find(struct bus *bus, uint64_t address, unsigned size, struct bus_range *found);

/* `size` is 1, 2, 4 or 8. Where nobody is home a read gives all ones and a write is lost. */
uint64_t bus_read(struct bus *bus, uint64_t address, unsigned size);
void bus_write(struct bus *bus, uint64_t address, unsigned size, uint64_t value);

#endif
