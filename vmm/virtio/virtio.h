/* SPDX-License-Identifier: MIT */
/*
 * A virtio device (OASIS virtio 1.2), as far as all of them are the same: status, features, queues, configuration space, reset, and the
 * answer to a driver that breaks the rules: DEVICE_NEEDS_RESET. What a device is stands in a const struct virtio_class; how a driver
 * reaches it is a transport's business (mmio.c, pci.c).
 *
 *   vCPU thread   transport's registers -> virtio_set_...()                           each takes the device's lock
 *   vCPU thread   notification -> the queue's eventfd (a doorbell of the back end, or virtio_kick_queue())
 *   loop thread   eventfd -> class->notified() -> virtqueue_pop() ... virtqueue_push()  with the lock
 *
 * Whatever stands in guest memory is read once and checked then. Everything here takes bounded time, but for a reset, which waits
 * for the requests that the host has not finished.
 */
#ifndef KAGE_VIRTIO_VIRTIO_H
#define KAGE_VIRTIO_VIRTIO_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "dev/device.h"
#include "util/error.h"
#include "util/loop.h"
#include "virtio/queue.h"

#define VIRTIO_QUEUES_MAX 64u
#define VIRTIO_CONFIG_MAX 256u

/* Device status (2.1) */
#define VIRTIO_STATUS_ACKNOWLEDGE 0x01u
#define VIRTIO_STATUS_DRIVER 0x02u
#define VIRTIO_STATUS_DRIVER_OK 0x04u
#define VIRTIO_STATUS_FEATURES_OK 0x08u
#define VIRTIO_STATUS_DEVICE_NEEDS_RESET 0x40u
#define VIRTIO_STATUS_FAILED 0x80u

/* Feature bits that are not of one device type (6) */
#define VIRTIO_F(bit) (UINT64_C(1) << (bit))
#define VIRTIO_F_ANY_LAYOUT VIRTIO_F(27) /* legacy */
#define VIRTIO_F_INDIRECT_DESC VIRTIO_F(28)
#define VIRTIO_F_EVENT_IDX VIRTIO_F(29)
#define VIRTIO_F_VERSION_1 VIRTIO_F(32)
#define VIRTIO_F_RING_PACKED VIRTIO_F(34)
#define VIRTIO_F_IN_ORDER VIRTIO_F(35)
#define VIRTIO_F_RING_RESET VIRTIO_F(40)

#define VIRTIO_NO_VECTOR 0xffffu

/* Interrupt causes (4.1.4.5, 4.2.2) */
#define VIRTIO_ISR_QUEUE 1u
#define VIRTIO_ISR_CONFIG 2u

struct virtio_device;

/* A kind of device. Callbacks run with the device's lock. */
struct virtio_class {
    const char *name;
    uint16_t type; /* device ID (5) */
    /* The driver has made buffers available in a queue; the device is live. */
    void (*notified)(struct virtio_device *device, struct virtqueue *queue);
    /* The driver has written its configuration space. NULL: nothing is writable. */
    void (*config_written)(struct virtio_device *device, unsigned offset, unsigned size);
    /* DRIVER_OK was set; `device->features` is what holds. NULL: nothing to do. */
    void (*started)(struct virtio_device *device);
    /* A queue, or (NULL) all of them, are being reset: chains that wait for something else than the host's I/O are to be pushed. NULL: none do. */
    void (*cancel)(struct virtio_device *device, struct virtqueue *queue);
    /* Back to the state after power on; nothing is in flight. NULL: there is no state. */
    void (*reset)(struct virtio_device *device);
};

/* How a device reaches its driver. With the device's lock. */
struct virtio_transport {
    void (*interrupt_queue)(void *self, const struct virtqueue *queue);
    void (*interrupt_config)(void *self);
    void (*reset)(void *self); /* the device has been */
};

struct virtio_device {
    const struct virtio_class *class;
    pthread_mutex_t lock;
    pthread_cond_t drained; /* in_flight of some queue has become 0, or `stopping` true */
    struct loop *loop;
    struct dma dma;
    const struct virtio_transport *transport;
    void *transport_self;

    uint64_t offered;  /* features; fixed once the transport is there */
    uint64_t features; /* what the driver has accepted */
    uint8_t status;
    uint8_t config_generation;
    bool transitional; /* its transport has a legacy interface too */
    bool stopping;     /* the machine ends: nobody waits for anything */
    bool halted;       /* it may not master the bus: nothing is taken from queues, and nothing is in flight */
    unsigned queue_count;
    struct virtqueue *queues;
    struct iovec *iov; /* VIRTQUEUE_CHAIN_MAX; of the chain popped last */
    unsigned config_bytes;
    uint8_t config[VIRTIO_CONFIG_MAX];
    uint8_t writable[VIRTIO_CONFIG_MAX]; /* bits that a driver can change */
};

/* What a user can say of any virtio device. */
struct virtio_options {
    bool packed, in_order, event_idx, indirect_desc, queue_reset;
};
extern const struct virtio_options virtio_options_default;
uint64_t virtio_options_features(const struct virtio_options *options);

/*
 * `queue_sizes`: the largest size of each queue, a power of 2 up to VIRTQUEUE_SIZE_MAX. On the loop's thread. 0 or -errno, and
 * nothing is left to undo.
 */
int virtio_init(struct virtio_device *device, const struct virtio_class *class, struct loop *loop, const struct dma *dma, uint64_t offered,
                unsigned queue_count, const uint16_t *queue_sizes) __attribute__((warn_unused_result));
/* On the loop's thread, with nothing in flight and the vCPUs gone. */
void virtio_fini(struct virtio_device *device);
/* A vCPU that waits for a reset goes on. From any thread. */
void virtio_stop(struct virtio_device *device);

void virtio_lock(struct virtio_device *device);
void virtio_unlock(struct virtio_device *device);

/* ---- For transports; each takes the lock ---- */

uint8_t virtio_status(struct virtio_device *device);
/* 0 resets, and waits for what is in flight. */
void virtio_set_status(struct virtio_device *device, uint8_t status);
/* 32 feature bits from bit `select` * 32 on; 0 where there are none. */
uint32_t virtio_offered_word(const struct virtio_device *device, uint32_t select);
uint32_t virtio_features_word(struct virtio_device *device, uint32_t select);
void virtio_set_features_word(struct virtio_device *device, uint32_t select, uint32_t word);
uint64_t virtio_config_read(struct virtio_device *device, uint64_t offset, unsigned size);
void virtio_config_write(struct virtio_device *device, uint64_t offset, unsigned size, uint64_t value);

/* Queue `index`, or NULL. */
struct virtqueue *virtio_queue(struct virtio_device *device, uint32_t index);
/* Does nothing where the size is none for the ring, or the queue is enabled. */
void virtio_set_queue_size(struct virtio_device *device, struct virtqueue *queue, uint32_t size);
enum virtqueue_part { VIRTQUEUE_DESC, VIRTQUEUE_DRIVER, VIRTQUEUE_DEVICE };
/* The low or (`high`) the high half of an address. */
void virtio_set_queue_address(struct virtio_device *device, struct virtqueue *queue, enum virtqueue_part part, bool high, uint32_t word);
void virtio_enable_queue(struct virtio_device *device, struct virtqueue *queue);
/* Back to its state after a reset of the device; waits for what is in flight. */
void virtio_reset_queue(struct virtio_device *device, struct virtqueue *queue);
/* The legacy interface's way: a page number gives all three addresses; 0 resets the device. */
void virtio_set_queue_pfn(struct virtio_device *device, struct virtqueue *queue, uint32_t pfn);
/* Whether it may reach guest memory; off waits for what is in flight. For transports that have a say in it. */
void virtio_set_master(struct virtio_device *device, bool on);
/* A notification that no doorbell took. */
void virtio_kick_queue(struct virtio_device *device, uint32_t index);

/* ---- For devices, and for queue.c; with the lock ---- */

static inline bool virtio_has(const struct virtio_device *device, uint64_t feature)
{
    return (device->features & feature) != 0;
}

/* The driver may use the queues. */
static inline bool virtio_live(const struct virtio_device *device)
{
    return (device->status & (VIRTIO_STATUS_DRIVER_OK | VIRTIO_STATUS_DEVICE_NEEDS_RESET)) == VIRTIO_STATUS_DRIVER_OK && !device->stopping;
}

/* The driver has broken the rules: nothing goes on until it resets the device. */
void virtio_fail(struct virtio_device *device, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The device has changed device->config. */
void virtio_config_changed(struct virtio_device *device);

#endif
