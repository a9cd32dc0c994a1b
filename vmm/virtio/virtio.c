/* SPDX-License-Identifier: MIT */
/*
 * The states of a device and what a driver can do to them (virtio 1.2, 2.1, 2.2, 3.1).
 */
#include "virtio/virtio.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "util/log.h"

#define LEGACY_PAGE 4096u

const struct virtio_options virtio_options_default = {.event_idx = true, .indirect_desc = true, .queue_reset = true};

uint64_t virtio_options_features(const struct virtio_options *options)
{
    return VIRTIO_F_VERSION_1 | (options->packed ? VIRTIO_F_RING_PACKED : 0) | (options->in_order ? VIRTIO_F_IN_ORDER : 0) |
           (options->event_idx ? VIRTIO_F_EVENT_IDX : 0) | (options->indirect_desc ? VIRTIO_F_INDIRECT_DESC : 0) |
           (options->queue_reset ? VIRTIO_F_RING_RESET : 0);
}

/* ---- Life ---- */

static void virtio_kick_ready(void *opaque, uint32_t events)
{
    struct virtqueue *queue = opaque;
    struct virtio_device *device = queue->device;
    uint64_t count;
    (void)events;
    ssize_t got = read(queue->kick.fd, &count, sizeof(count));
    (void)got; /* an empty eventfd: somebody else has looked */
    pthread_mutex_lock(&device->lock);
    if (virtio_live(device) && queue->enabled && !queue->resetting && !device->halted) {
        device->class->notified(device, queue);
    }
    pthread_mutex_unlock(&device->lock);
}

static void virtio_clear_queue(struct virtqueue *queue)
{
    queue->size = queue->size_max;
    queue->vector = VIRTIO_NO_VECTOR;
    queue->enabled = queue->resetting = queue->quiet = queue->held = false;
    memset(queue->gpa, 0, sizeof(queue->gpa));
    queue->desc = queue->driver = queue->device_area = NULL;
    queue->next_avail = queue->next_used = 0;
    queue->avail_wrap = queue->used_wrap = true;
    queue->unsignalled = 0;
    queue->popped = queue->given = 0;
    memset(queue->done, 0, queue->size_max * sizeof(queue->done[0]));
}

static int virtio_init_queue(struct virtio_device *device, unsigned index, uint16_t size_max)
{
    struct virtqueue *queue = &device->queues[index];
    *queue = (struct virtqueue){.device = device, .index = (uint16_t)index, .size_max = size_max};
    queue->kick = (struct loop_source){.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .ready = virtio_kick_ready, .opaque = queue};
    if (queue->kick.fd < 0) {
        return -errno;
    }
    queue->done = calloc(size_max, sizeof(queue->done[0]));
    if (queue->done == NULL) {
        return -ENOMEM;
    }
    virtio_clear_queue(queue);
    return loop_add(device->loop, &queue->kick, EPOLLIN);
}

int virtio_init(struct virtio_device *device, const struct virtio_class *class, struct loop *loop, const struct dma *dma, uint64_t offered,
                unsigned queue_count, const uint16_t *queue_sizes)
{
    int result = 0;
    memset(device, 0, sizeof(*device));
    device->class = class;
    device->loop = loop;
    device->dma = *dma;
    device->offered = offered;
    pthread_mutex_init(&device->lock, NULL);
    pthread_cond_init(&device->drained, NULL);
    device->queues = calloc(queue_count, sizeof(device->queues[0]));
    device->iov = calloc(VIRTQUEUE_CHAIN_MAX, sizeof(device->iov[0]));
    if (device->queues == NULL || device->iov == NULL) {
        result = -ENOMEM;
    }
    while (result == 0 && device->queue_count < queue_count) {
        result = virtio_init_queue(device, device->queue_count, queue_sizes[device->queue_count]);
        device->queue_count++;
    }
    if (result != 0) {
        virtio_fini(device);
    }
    return result;
}

void virtio_fini(struct virtio_device *device)
{
    for (unsigned i = 0; i < device->queue_count; i++) {
        struct virtqueue *queue = &device->queues[i];
        if (queue->kick.fd >= 0) {
            loop_remove(device->loop, &queue->kick);
            close(queue->kick.fd);
        }
        free(queue->done);
    }
    free(device->iov);
    free(device->queues);
    device->queues = NULL;
    device->queue_count = 0;
    pthread_cond_destroy(&device->drained);
    pthread_mutex_destroy(&device->lock);
}

void virtio_stop(struct virtio_device *device)
{
    pthread_mutex_lock(&device->lock);
    device->stopping = true;
    pthread_cond_broadcast(&device->drained);
    pthread_mutex_unlock(&device->lock);
}

void virtio_lock(struct virtio_device *device)
{
    pthread_mutex_lock(&device->lock);
}

void virtio_unlock(struct virtio_device *device)
{
    pthread_mutex_unlock(&device->lock);
}

/* ---- Failure and change ---- */

void virtio_fail(struct virtio_device *device, const char *format, ...)
{
    char text[160];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    log_line(LOG_GUEST, "%s: %s: the device needs a reset", device->class->name, text);
    bool first = (device->status & VIRTIO_STATUS_DEVICE_NEEDS_RESET) == 0;
    device->status |= VIRTIO_STATUS_DEVICE_NEEDS_RESET;
    if (first && (device->status & VIRTIO_STATUS_DRIVER_OK) != 0) {
        device->transport->interrupt_config(device->transport_self);
    }
}

void virtio_config_changed(struct virtio_device *device)
{
    device->config_generation++;
    if (virtio_live(device)) {
        device->transport->interrupt_config(device->transport_self);
    }
}

/* ---- Status ---- */

/* Does what the driver has accepted hold: by FEATURES_OK, or as a legacy driver, which knows neither that nor VERSION_1. */
static bool virtio_negotiated(const struct virtio_device *device)
{
    bool legacy = device->transitional && (device->features & ~device->offered) == 0 && !virtio_has(device, VIRTIO_F_VERSION_1);
    return legacy || (device->status & VIRTIO_STATUS_FEATURES_OK) != 0;
}

static bool virtio_in_flight(const struct virtio_device *device)
{
    bool some = false;
    for (unsigned i = 0; i < device->queue_count; i++) {
        some = some || device->queues[i].in_flight != 0;
    }
    return some;
}

/* Requests write into memory that the driver takes back with the reset: none may be left. */
static void virtio_reset(struct virtio_device *device)
{
    for (unsigned i = 0; i < device->queue_count; i++) {
        device->queues[i].resetting = true;
    }
    if (device->class->cancel != NULL) {
        device->class->cancel(device, NULL);
    }
    while (virtio_in_flight(device) && !device->stopping) {
        pthread_cond_wait(&device->drained, &device->lock);
    }
    device->status = 0;
    device->features = 0;
    for (unsigned i = 0; i < device->queue_count; i++) {
        virtio_clear_queue(&device->queues[i]);
    }
    if (device->class->reset != NULL) {
        device->class->reset(device);
    }
    device->transport->reset(device->transport_self);
}

/* What was made available before is looked at too. */
static void virtio_kick_all(struct virtio_device *device)
{
    for (unsigned i = 0; i < device->queue_count; i++) {
        if (device->queues[i].enabled) {
            eventfd_write(device->queues[i].kick.fd, 1);
        }
    }
}

static void virtio_start(struct virtio_device *device)
{
    if (device->class->started != NULL) {
        device->class->started(device);
    }
    virtio_kick_all(device);
}

void virtio_set_master(struct virtio_device *device, bool on)
{
    pthread_mutex_lock(&device->lock);
    bool before = !device->halted;
    device->halted = !on;
    if (before && !on) {
        if (device->class->cancel != NULL) {
            device->class->cancel(device, NULL);
        }
        while (virtio_in_flight(device) && !device->stopping) {
            pthread_cond_wait(&device->drained, &device->lock);
        }
    } else if (!before && on && virtio_live(device)) {
        virtio_kick_all(device);
    }
    pthread_mutex_unlock(&device->lock);
}

uint8_t virtio_status(struct virtio_device *device)
{
    pthread_mutex_lock(&device->lock);
    uint8_t status = device->status;
    pthread_mutex_unlock(&device->lock);
    return status;
}

void virtio_set_status(struct virtio_device *device, uint8_t status)
{
    pthread_mutex_lock(&device->lock);
    if (status == 0) {
        virtio_reset(device);
        pthread_mutex_unlock(&device->lock);
        return;
    }
    uint8_t added = (uint8_t)(status & ~device->status & ~VIRTIO_STATUS_DEVICE_NEEDS_RESET); /* bits go by a reset only */
    bool acceptable = (device->features & ~device->offered) == 0 && virtio_has(device, VIRTIO_F_VERSION_1);
    if ((added & VIRTIO_STATUS_FEATURES_OK) != 0 && !acceptable) {
        added &= (uint8_t)~VIRTIO_STATUS_FEATURES_OK; /* the driver reads it back (3.1.1) */
    }
    device->status |= added;
    if ((added & VIRTIO_STATUS_DRIVER_OK) != 0) {
        if (virtio_negotiated(device)) {
            virtio_start(device);
        } else {
            virtio_fail(device, "DRIVER_OK without FEATURES_OK");
        }
    }
    pthread_mutex_unlock(&device->lock);
}

/* ---- Features ---- */

static uint32_t virtio_word(uint64_t features, uint32_t select)
{
    return select < 2 ? (uint32_t)(features >> select * 32) : 0;
}

uint32_t virtio_offered_word(const struct virtio_device *device, uint32_t select)
{
    return virtio_word(device->offered, select);
}

uint32_t virtio_features_word(struct virtio_device *device, uint32_t select)
{
    pthread_mutex_lock(&device->lock);
    uint32_t word = virtio_word(device->features, select);
    pthread_mutex_unlock(&device->lock);
    return word;
}

void virtio_set_features_word(struct virtio_device *device, uint32_t select, uint32_t word)
{
    pthread_mutex_lock(&device->lock);
    if (select < 2 && (device->status & (VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_DRIVER_OK)) == 0) {
        uint64_t mask = UINT64_C(0xffffffff) << select * 32;
        device->features = (device->features & ~mask) | (uint64_t)word << select * 32;
    }
    pthread_mutex_unlock(&device->lock);
}

/* ---- Configuration space ---- */

uint64_t virtio_config_read(struct virtio_device *device, uint64_t offset, unsigned size)
{
    uint64_t value = UINT64_MAX;
    if (offset <= device->config_bytes && size <= device->config_bytes - offset) {
        value = 0;
        pthread_mutex_lock(&device->lock);
        memcpy(&value, device->config + offset, size);
        pthread_mutex_unlock(&device->lock);
    }
    return value;
}

void virtio_config_write(struct virtio_device *device, uint64_t offset, unsigned size, uint64_t value)
{
    if (offset > device->config_bytes || size > device->config_bytes - offset || device->class->config_written == NULL) {
        return;
    }
    pthread_mutex_lock(&device->lock);
    for (unsigned i = 0; i < size; i++) {
        uint8_t mask = device->writable[offset + i];
        device->config[offset + i] = (uint8_t)((device->config[offset + i] & ~mask) | ((uint8_t)(value >> i * 8) & mask));
    }
    device->class->config_written(device, (unsigned)offset, size);
    pthread_mutex_unlock(&device->lock);
}

/* ---- Queues ---- */

struct virtqueue *virtio_queue(struct virtio_device *device, uint32_t index)
{
    return index < device->queue_count ? &device->queues[index] : NULL;
}

void virtio_set_queue_size(struct virtio_device *device, struct virtqueue *queue, uint32_t size)
{
    pthread_mutex_lock(&device->lock);
    bool power = (size & (size - 1)) == 0;
    if (!queue->enabled && size != 0 && size <= queue->size_max && (power || virtio_has(device, VIRTIO_F_RING_PACKED))) {
        queue->size = (uint16_t)size;
    }
    pthread_mutex_unlock(&device->lock);
}

void virtio_set_queue_address(struct virtio_device *device, struct virtqueue *queue, enum virtqueue_part part, bool high, uint32_t word)
{
    pthread_mutex_lock(&device->lock);
    if (!queue->enabled) {
        uint64_t old = queue->gpa[part];
        queue->gpa[part] = high ? (uint32_t)old | (uint64_t)word << 32 : (old & ~UINT64_C(0xffffffff)) | word;
    }
    pthread_mutex_unlock(&device->lock);
}

/* All checks, then all changes. */
static void virtio_enable(struct virtio_device *device, struct virtqueue *queue)
{
    const struct virtqueue_layout *layout = virtio_has(device, VIRTIO_F_RING_PACKED) ? &virtqueue_packed : &virtqueue_split;
    uint8_t *parts[3];
    if (queue->enabled || queue->resetting) {
        return;
    }
    if (!virtio_negotiated(device)) {
        virtio_fail(device, "queue %u is enabled before the features are negotiated", queue->index);
        return;
    }
    for (unsigned i = 0; i < 3; i++) {
        parts[i] = queue->gpa[i] % layout->align[i] == 0 ? dma_at(&device->dma, queue->gpa[i], layout->bytes(queue, i)) : NULL;
        if (parts[i] == NULL) {
            virtio_fail(device, "queue %u cannot be at 0x%llx", queue->index, (unsigned long long)queue->gpa[i]);
            return;
        }
    }
    queue->desc = parts[VIRTQUEUE_DESC];
    queue->driver = parts[VIRTQUEUE_DRIVER];
    queue->device_area = parts[VIRTQUEUE_DEVICE];
    queue->enabled = true;
    if (virtio_live(device)) {
        eventfd_write(queue->kick.fd, 1); /* enabled again after its reset */
    }
}

void virtio_enable_queue(struct virtio_device *device, struct virtqueue *queue)
{
    pthread_mutex_lock(&device->lock);
    virtio_enable(device, queue);
    pthread_mutex_unlock(&device->lock);
}

void virtio_reset_queue(struct virtio_device *device, struct virtqueue *queue)
{
    pthread_mutex_lock(&device->lock);
    if (!queue->resetting) {
        queue->resetting = true;
        if (device->class->cancel != NULL) {
            device->class->cancel(device, queue);
        }
        while (queue->in_flight != 0 && !device->stopping) {
            pthread_cond_wait(&device->drained, &device->lock);
        }
        virtio_clear_queue(queue);
    }
    pthread_mutex_unlock(&device->lock);
}

/* 2.7.2: one after the other, the used ring on the next page. */
void virtio_set_queue_pfn(struct virtio_device *device, struct virtqueue *queue, uint32_t pfn)
{
    pthread_mutex_lock(&device->lock);
    if (pfn == 0) {
        virtio_reset(device);
    } else if (!queue->enabled) {
        uint64_t driver = (uint64_t)pfn * LEGACY_PAGE + virtqueue_split.bytes(queue, VIRTQUEUE_DESC);
        uint64_t end = driver + virtqueue_split.bytes(queue, VIRTQUEUE_DRIVER);
        queue->gpa[VIRTQUEUE_DESC] = (uint64_t)pfn * LEGACY_PAGE;
        queue->gpa[VIRTQUEUE_DRIVER] = driver;
        queue->gpa[VIRTQUEUE_DEVICE] = (end + LEGACY_PAGE - 1) & ~(uint64_t)(LEGACY_PAGE - 1);
        virtio_enable(device, queue);
    }
    pthread_mutex_unlock(&device->lock);
}

void virtio_kick_queue(struct virtio_device *device, uint32_t index)
{
    struct virtqueue *queue = virtio_queue(device, index);
    if (queue != NULL) {
        eventfd_write(queue->kick.fd, 1);
    }
}
