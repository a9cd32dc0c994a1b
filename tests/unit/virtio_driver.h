/* SPDX-License-Identifier: MIT */
/*
 * A guest's driver in a test: memory, a queue of either layout, chains made available and taken back as a driver does it, by the
 * words of virtio 1.2, 2.7 and 2.8, and a device whose transport counts interrupts. It shares no code with vmm/virtio.
 */
#ifndef KAGE_TESTS_VIRTIO_DRIVER_H
#define KAGE_TESTS_VIRTIO_DRIVER_H

#include <stdlib.h>
#include <string.h>

#include "virtio/virtio.h"

#define MEMORY_GPA UINT64_C(0x100000)
#define MEMORY_BYTES (UINT64_C(4) << 20)
#define DRIVER_SIZE_MAX 256u
#define RING_GPA MEMORY_GPA
#define RING_AREA UINT64_C(0x20000) /* of a queue: descriptors at 0, driver's part at 0x10000, device's at 0x18000 */
#define TABLES_GPA (MEMORY_GPA + 0x100000) /* indirect tables, one for each id */
#define TABLE_BYTES 1024u
#define BUFFERS_GPA (MEMORY_GPA + 0x200000)

static uint8_t *memory;

static inline uint8_t *memory_at(void *opaque, uint64_t gpa, uint64_t bytes)
{
    (void)opaque;
    return gpa >= MEMORY_GPA && gpa - MEMORY_GPA <= MEMORY_BYTES && bytes <= MEMORY_BYTES - (gpa - MEMORY_GPA) ? memory + (gpa - MEMORY_GPA) : NULL;
}

static const struct dma memory_dma = {.at = memory_at};

static inline void *gpa(uint64_t address)
{
    return memory + (address - MEMORY_GPA);
}

/* ---- A transport ---- */

static unsigned queue_interrupts[VIRTIO_QUEUES_MAX], config_interrupts, transport_resets;

static inline void take_queue_interrupt(void *self, const struct virtqueue *queue)
{
    (void)self;
    queue_interrupts[queue->index]++;
}

static inline void take_config_interrupt(void *self)
{
    (void)self;
    config_interrupts++;
}

static inline void take_reset(void *self)
{
    (void)self;
    transport_resets++;
}

static const struct virtio_transport test_transport = {
    .interrupt_queue = take_queue_interrupt, .interrupt_config = take_config_interrupt, .reset = take_reset};

/* ---- A driver ---- */

struct piece {
    uint64_t gpa;
    uint32_t bytes;
    bool write;
};

struct driver {
    struct virtio_device *device;
    struct virtqueue *queue;
    unsigned size;
    bool packed, event_idx;
    uint8_t *ring, *driver_area, *device_area;
    uint16_t free[DRIVER_SIZE_MAX]; /* split: descriptors; packed: ids */
    unsigned free_count, slots_free;
    unsigned used_slots[DRIVER_SIZE_MAX]; /* by id */
    uint16_t chain_next[DRIVER_SIZE_MAX];
    uint16_t avail, used;                 /* split: free-running; packed: slots */
    bool avail_wrap, used_wrap;
    uint16_t added; /* since the last look at whether to notify */
};

static inline void put16(uint8_t *at, uint16_t value)
{
    memcpy(at, &value, 2);
}
static inline uint16_t get16(const uint8_t *at)
{
    uint16_t value;
    memcpy(&value, at, 2);
    return value;
}
static inline void put_desc(uint8_t *table, unsigned index, uint64_t address, uint32_t bytes, uint16_t third, uint16_t fourth)
{
    uint8_t *at = table + (size_t)index * 16;
    memcpy(at, &address, 8);
    memcpy(at + 8, &bytes, 4);
    put16(at + 12, third);
    put16(at + 14, fourth);
}

/* From reset to DRIVER_OK. False: the device does not take the features. */
static inline bool driver_negotiate(struct virtio_device *device, uint64_t features)
{
    virtio_set_status(device, 0);
    virtio_set_status(device, VIRTIO_STATUS_ACKNOWLEDGE);
    virtio_set_status(device, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
    virtio_set_features_word(device, 0, (uint32_t)features);
    virtio_set_features_word(device, 1, (uint32_t)(features >> 32));
    virtio_set_status(device, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_FEATURES_OK);
    return (virtio_status(device) & VIRTIO_STATUS_FEATURES_OK) != 0;
}

static inline void driver_init_queue(struct driver *driver, struct virtio_device *device, unsigned index, unsigned size)
{
    uint64_t base = RING_GPA + index * RING_AREA;
    memset(driver, 0, sizeof(*driver));
    driver->device = device;
    driver->queue = virtio_queue(device, index);
    driver->size = size;
    driver->packed = virtio_has(device, VIRTIO_F_RING_PACKED);
    driver->event_idx = virtio_has(device, VIRTIO_F_EVENT_IDX);
    driver->avail_wrap = driver->used_wrap = true;
    driver->ring = gpa(base);
    driver->driver_area = gpa(base + 0x10000);
    driver->device_area = gpa(base + 0x18000);
    memset(driver->ring, 0, RING_AREA);
    driver->free_count = driver->slots_free = size;
    for (unsigned i = 0; i < size; i++) {
        driver->free[i] = (uint16_t)(size - 1 - i);
    }
    virtio_set_queue_size(device, driver->queue, size);
    const uint64_t parts[3] = {base, base + 0x10000, base + 0x18000};
    for (unsigned i = 0; i < 3; i++) {
        virtio_set_queue_address(device, driver->queue, (enum virtqueue_part)i, false, (uint32_t)parts[i]);
        virtio_set_queue_address(device, driver->queue, (enum virtqueue_part)i, true, (uint32_t)(parts[i] >> 32));
    }
    virtio_enable_queue(device, driver->queue);
}

static inline void driver_ok(struct virtio_device *device)
{
    virtio_set_status(device, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_DRIVER_OK);
}

static inline unsigned driver_room(const struct driver *driver)
{
    return driver->packed ? (driver->free_count != 0 ? driver->slots_free : 0) : driver->free_count;
}

static inline uint16_t driver_packed_flags(const struct driver *driver, bool wrap, uint16_t flags)
{
    (void)driver;
    return (uint16_t)(flags | (wrap ? 1u << 7 : 1u << 15));
}

/* Makes a chain available. Its id, which driver_take() gives back. */
static inline uint16_t driver_add(struct driver *driver, const struct piece *pieces, unsigned count, bool indirect)
{
    uint16_t id = driver->free[--driver->free_count];
    uint64_t table_gpa = TABLES_GPA + (uint64_t)id * TABLE_BYTES + (uint64_t)driver->queue->index * DRIVER_SIZE_MAX * TABLE_BYTES / 4;
    unsigned slots = indirect ? 1 : count;
    if (indirect) {
        for (unsigned i = 0; i < count; i++) {
            uint16_t write = pieces[i].write ? 2 : 0;
            if (driver->packed) {
                put_desc(gpa(table_gpa), i, pieces[i].gpa, pieces[i].bytes, 0, write);
            } else {
                put_desc(gpa(table_gpa), i, pieces[i].gpa, pieces[i].bytes, (uint16_t)(write | (i + 1 < count)), (uint16_t)(i + 1));
            }
        }
    }
    if (!driver->packed) {
        uint16_t at = id;
        for (unsigned i = 0; i < slots; i++) {
            bool more = i + 1 < slots;
            uint16_t next = more ? driver->free[--driver->free_count] : 0;
            uint16_t flags = (uint16_t)((indirect ? 4 : pieces[i].write ? 2 : 0) | more);
            put_desc(driver->ring, at, indirect ? table_gpa : pieces[i].gpa, indirect ? count * 16 : pieces[i].bytes, flags, next);
            driver->chain_next[at] = more ? next : 0xffff;
            at = next;
        }
        put16(driver->driver_area + 4 + driver->avail % driver->size * 2u, id);
        driver->avail++;
        __atomic_store_n((uint16_t *)(void *)(driver->driver_area + 2), driver->avail, __ATOMIC_RELEASE);
        driver->added++;
        return id;
    }
    uint16_t first = driver->avail, first_flags = 0;
    bool first_wrap = driver->avail_wrap;
    for (unsigned i = 0; i < slots; i++) {
        uint16_t flags = driver_packed_flags(driver, driver->avail_wrap, (uint16_t)((indirect ? 4 : pieces[i].write ? 2 : 0) | (i + 1 < slots)));
        uint8_t *at = driver->ring + driver->avail * 16u;
        if (i == 0) {
            first_flags = flags;
            flags = get16(at + 14); /* the first becomes available last */
        }
        put_desc(driver->ring, driver->avail, indirect ? table_gpa : pieces[i].gpa, indirect ? count * 16 : pieces[i].bytes, id, flags);
        if (++driver->avail == driver->size) {
            driver->avail = 0;
            driver->avail_wrap = !driver->avail_wrap;
        }
    }
    (void)first_wrap;
    __atomic_store_n((uint16_t *)(void *)(driver->ring + first * 16u + 14), first_flags, __ATOMIC_RELEASE);
    driver->used_slots[id] = slots;
    driver->slots_free -= slots;
    driver->added = (uint16_t)(driver->added + slots);
    return id;
}

/* Must the device be notified of what was added since the last call? */
static inline bool driver_must_notify(struct driver *driver)
{
    uint16_t added = driver->added;
    driver->added = 0;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (added == 0) {
        return false;
    }
    if (!driver->packed) {
        if (!driver->event_idx) {
            return (get16(driver->device_area) & 1) == 0;
        }
        uint16_t event = get16(driver->device_area + 4 + driver->size * 8);
        return (uint16_t)(driver->avail - event - 1) < added;
    }
    uint16_t flags = get16(driver->device_area + 2);
    if (flags != 2) {
        return flags == 0;
    }
    uint16_t event = get16(driver->device_area);
    int at = event & 0x7fff, now = driver->avail;
    if ((event >> 15) != driver->avail_wrap) {
        at -= (int)driver->size;
    }
    return at < now && at >= now - added;
}

/* A chain that the device has given back; false: there is none. */
static inline bool driver_take(struct driver *driver, uint16_t *id, uint32_t *written)
{
    if (!driver->packed) {
        if (__atomic_load_n((uint16_t *)(void *)(driver->device_area + 2), __ATOMIC_ACQUIRE) == driver->used) {
            return false;
        }
        uint32_t entry[2];
        memcpy(entry, driver->device_area + 4 + driver->used % driver->size * 8u, 8);
        driver->used++;
        *id = (uint16_t)entry[0];
        *written = entry[1];
        for (uint16_t at = *id; at != 0xffff; at = driver->chain_next[at]) {
            driver->free[driver->free_count++] = at;
        }
        return true;
    }
    uint8_t *at = driver->ring + driver->used * 16u;
    uint16_t flags = __atomic_load_n((uint16_t *)(void *)(at + 14), __ATOMIC_ACQUIRE);
    if (((flags >> 7 & 1) != 0) != driver->used_wrap || ((flags >> 15 & 1) != 0) != driver->used_wrap) {
        return false;
    }
    memcpy(written, at + 8, 4);
    *id = get16(at + 12);
    driver->used = (uint16_t)(driver->used + driver->used_slots[*id]);
    if (driver->used >= driver->size) {
        driver->used = (uint16_t)(driver->used - driver->size);
        driver->used_wrap = !driver->used_wrap;
    }
    driver->slots_free += driver->used_slots[*id];
    driver->free[driver->free_count++] = *id;
    return true;
}

/* Interrupts: off, or at the next chain given back. */
static inline void driver_want_interrupt(struct driver *driver, bool want)
{
    if (!driver->packed) {
        if (driver->event_idx) {
            put16(driver->driver_area + 4 + driver->size * 2, want ? driver->used : (uint16_t)(driver->used - 1));
        } else {
            put16(driver->driver_area, want ? 0 : 1);
        }
    } else if (!want) {
        put16(driver->driver_area + 2, 1);
    } else {
        put16(driver->driver_area, (uint16_t)(driver->used | (driver->used_wrap ? 0x8000 : 0)));
        put16(driver->driver_area + 2, driver->event_idx ? 2 : 0);
    }
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

#endif
