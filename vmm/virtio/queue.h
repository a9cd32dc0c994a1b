/* SPDX-License-Identifier: MIT */
/*
 * A virtqueue (virtio 1.2, 2.6 to 2.8): buffers of the driver's, taken in the order in which they were made available, given back in any
 * order. Two layouts, split (split.c) and packed (packed.c), behind one set of calls; both read every field of guest memory once.
 *
 * All calls are made with the device's lock.
 */
#ifndef KAGE_VIRTIO_QUEUE_H
#define KAGE_VIRTIO_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "util/loop.h"

#define VIRTQUEUE_SIZE_MAX 1024u
#define VIRTQUEUE_CHAIN_MAX 1024u /* buffers in one chain, an indirect one too */

#define VIRTQ_DESC_F_NEXT 1u
#define VIRTQ_DESC_F_WRITE 2u
#define VIRTQ_DESC_F_INDIRECT 4u
#define VIRTQ_DESC_BYTES 16u

struct virtio_device;

/* A descriptor chain. `iov` is valid until the device's next pop, of any queue: buffers that the device reads, then those that it writes. */
struct virtio_chain {
    uint16_t id;    /* the driver's name for it */
    uint16_t slots; /* of a packed ring */
    uint32_t order; /* how many were popped before */
    unsigned out_count, in_count;
    uint32_t out_bytes, in_bytes; /* together at most UINT32_MAX */
    const struct iovec *iov;
};

/* A chain given back before its turn (VIRTIO_F_IN_ORDER). */
struct virtqueue_done {
    uint16_t id, slots;
    bool done;
    uint32_t written;
};

struct virtqueue {
    struct virtio_device *device;
    uint16_t index;
    uint16_t size_max, size;
    uint16_t vector; /* of its transport */
    bool enabled;
    bool resetting;      /* a vCPU waits for in_flight to become 0 */
    uint64_t gpa[3];     /* by enum virtqueue_part */
    uint8_t *desc;       /* split: descriptor table; packed: descriptor ring */
    uint8_t *driver;     /* split: available ring; packed: driver event suppression */
    uint8_t *device_area; /* split: used ring; packed: device event suppression */
    unsigned in_flight;  /* popped and not pushed */
    bool quiet;          /* the driver was asked not to notify */

    uint16_t next_avail, next_used; /* split: free-running; packed: slots */
    bool avail_wrap, used_wrap;     /* packed */
    uint32_t unsignalled;           /* used since the last interrupt: split entries, packed slots */

    /* virtqueue_hold(): what is pushed is not to be seen yet. */
    bool held;
    uint16_t held_count;
    uint16_t held_slot, held_flags; /* packed: of the first */

    uint32_t popped, given; /* in order: chains popped, and given back; a ring of `size_max` between them */
    struct virtqueue_done *done;
    struct loop_source kick; /* its eventfd is where notifications arrive */
};

/* The next chain: 1. 0: there is none; the driver will notify when there is. -1: it is malformed; the device has failed. */
int virtqueue_pop(struct virtqueue *queue, struct virtio_chain *chain) __attribute__((warn_unused_result));
/* Back to the driver; `written`: bytes at the front of its writable buffers that hold something. Not with a failed device: nothing happens then. */
void virtqueue_push(struct virtqueue *queue, const struct virtio_chain *chain, uint32_t written);
/* The chain popped last, and not pushed, is available again: chains go back in the reverse of the order in which they came. */
void virtqueue_unpop(struct virtqueue *queue, const struct virtio_chain *chain);
/* What is pushed between the two is seen by the driver at once (5.1.6.4: a packet in several buffers). */
void virtqueue_hold(struct virtqueue *queue);
void virtqueue_release(struct virtqueue *queue);
/* After a run of pushes: interrupts the driver if it wants to be. */
void virtqueue_interrupt(struct virtqueue *queue);
/* The same for all queues of a device. */
void virtqueue_interrupt_all(struct virtio_device *device);

/* Copies from the chain's readable, or to its writable buffers, from byte `offset` of them on. How many bytes there were. */
size_t virtio_chain_read(const struct virtio_chain *chain, size_t offset, void *bytes, size_t count);
size_t virtio_chain_write(const struct virtio_chain *chain, size_t offset, const void *bytes, size_t count);

/* ---- The two layouts, for queue.c ---- */

/* A descriptor as a driver writes it; copied from guest memory in one go. */
struct virtq_desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags;
    uint16_t next; /* split */
    uint16_t id;   /* packed */
};

struct virtqueue_layout {
    /* Alignment and bytes of the three parts (2.7, 2.8). */
    uint32_t align[3];
    uint64_t (*bytes)(const struct virtqueue *queue, unsigned part);
    /* As virtqueue_pop(), without arming: 0 is "nothing now". */
    int (*pop)(struct virtqueue *queue, struct virtio_chain *chain);
    void (*push)(struct virtqueue *queue, uint16_t id, uint16_t slots, uint32_t written);
    /* Shows what was pushed while the queue was held: held_count of them. */
    void (*show)(struct virtqueue *queue);
    /* pop()'s position goes back by one chain. */
    void (*unpop)(struct virtqueue *queue, const struct virtio_chain *chain);
    /* Asks the driver to notify, or not to. */
    void (*arm)(struct virtqueue *queue);
    void (*disarm)(struct virtqueue *queue);
    /* Does the driver want an interrupt for what was pushed since the last one? */
    bool (*wanted)(struct virtqueue *queue);
};
extern const struct virtqueue_layout virtqueue_split, virtqueue_packed;

/* Adds a buffer. 0, or -1: the device has failed. */
int virtio_chain_add(struct virtqueue *queue, struct virtio_chain *chain, const struct virtq_desc *desc);
/* The table of an indirect descriptor: host bytes and entries, checked. 0, or -1: the device has failed. */
int virtio_chain_indirect(struct virtqueue *queue, const struct virtq_desc *desc, const uint8_t **table, uint32_t *entries);

/* An index moved from `before` to `now`: has it passed `event` (2.7.10)? */
static inline bool virtqueue_passed(uint16_t event, uint16_t now, uint16_t before)
{
    return (uint16_t)(now - event - 1) < (uint16_t)(now - before);
}

/* A descriptor, read once: an indirect table may stand at any address. */
static inline void ring_copy(uint64_t words[2], const uint8_t *at)
{
    __builtin_memcpy(words, at, VIRTQ_DESC_BYTES);
    __asm__ volatile("" : "+m"(*(uint64_t(*)[2])words));
}

static inline uint16_t ring_load(const uint8_t *at)
{
    return __atomic_load_n((const uint16_t *)(const void *)at, __ATOMIC_ACQUIRE);
}

static inline void ring_store(uint8_t *at, uint16_t value)
{
    __atomic_store_n((uint16_t *)(void *)at, value, __ATOMIC_RELEASE);
}

static inline void ring_store_long(uint8_t *at, uint32_t value)
{
    __atomic_store_n((uint32_t *)(void *)at, value, __ATOMIC_RELAXED);
}

#endif
