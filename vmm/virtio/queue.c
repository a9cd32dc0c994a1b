/* SPDX-License-Identifier: MIT */
/*
 * What both layouts share: chains, with the checks of what a driver says in them; the order of VIRTIO_F_IN_ORDER; when to interrupt.
 */
#include "virtio/queue.h"

#include <inttypes.h>
#include <string.h>

#include "virtio/virtio.h"

static const struct virtqueue_layout *virtqueue_layout(const struct virtqueue *queue)
{
    return virtio_has(queue->device, VIRTIO_F_RING_PACKED) ? &virtqueue_packed : &virtqueue_split;
}

/* ---- Chains ---- */

int virtio_chain_add(struct virtqueue *queue, struct virtio_chain *chain, const struct virtq_desc *desc)
{
    struct virtio_device *device = queue->device;
    bool write = (desc->flags & VIRTQ_DESC_F_WRITE) != 0;
    unsigned count = chain->out_count + chain->in_count;
    uint32_t *bytes = write ? &chain->in_bytes : &chain->out_bytes;
    if (count == VIRTQUEUE_CHAIN_MAX) {
        virtio_fail(device, "queue %u: a chain of more than %u buffers", queue->index, VIRTQUEUE_CHAIN_MAX);
        return -1;
    }
    if (desc->len == 0) {
        virtio_fail(device, "queue %u: a buffer of no bytes", queue->index);
        return -1;
    }
    if (!write && chain->in_count != 0) {
        virtio_fail(device, "queue %u: a buffer to read behind one to write", queue->index);
        return -1;
    }
    if (desc->len > UINT32_MAX - chain->in_bytes - chain->out_bytes) {
        virtio_fail(device, "queue %u: a chain of 4 GiB and more", queue->index);
        return -1;
    }
    uint8_t *host = dma_at(&device->dma, desc->addr, desc->len);
    if (host == NULL) {
        virtio_fail(device, "queue %u: no guest memory at 0x%" PRIx64 ", %u bytes", queue->index, desc->addr, desc->len);
        return -1;
    }
    device->iov[count] = (struct iovec){.iov_base = host, .iov_len = desc->len};
    *bytes += desc->len;
    chain->in_count += write;
    chain->out_count += !write;
    return 0;
}

int virtio_chain_indirect(struct virtqueue *queue, const struct virtq_desc *desc, const uint8_t **table, uint32_t *entries)
{
    struct virtio_device *device = queue->device;
    *entries = desc->len / VIRTQ_DESC_BYTES;
    *table = NULL;
    if (!virtio_has(device, VIRTIO_F_INDIRECT_DESC)) {
        virtio_fail(device, "queue %u: an indirect descriptor, which was not negotiated", queue->index);
    } else if ((desc->flags & VIRTQ_DESC_F_NEXT) != 0) {
        virtio_fail(device, "queue %u: a descriptor behind an indirect one", queue->index);
    } else if (desc->len == 0 || desc->len % VIRTQ_DESC_BYTES != 0) {
        virtio_fail(device, "queue %u: an indirect table of %u bytes", queue->index, desc->len);
    } else {
        *table = dma_at(&device->dma, desc->addr, desc->len);
        if (*table == NULL) {
            virtio_fail(device, "queue %u: no guest memory for an indirect table at 0x%" PRIx64, queue->index, desc->addr);
        }
    }
    return *table != NULL ? 0 : -1;
}

/* One direction's part of a chain as iovec and count. */
static size_t chain_copy(const struct iovec *iov, unsigned count, size_t offset, uint8_t *bytes, size_t room, bool to_guest)
{
    size_t done = 0;
    for (unsigned i = 0; i < count && done < room; i++) {
        if (offset >= iov[i].iov_len) {
            offset -= iov[i].iov_len;
            continue;
        }
        size_t part = iov[i].iov_len - offset < room - done ? iov[i].iov_len - offset : room - done;
        uint8_t *host = (uint8_t *)iov[i].iov_base + offset;
        memcpy(to_guest ? host : bytes + done, to_guest ? bytes + done : host, part);
        done += part;
        offset = 0;
    }
    return done;
}

size_t virtio_chain_read(const struct virtio_chain *chain, size_t offset, void *bytes, size_t count)
{
    return chain_copy(chain->iov, chain->out_count, offset, bytes, count, false);
}

size_t virtio_chain_write(const struct virtio_chain *chain, size_t offset, const void *bytes, size_t count)
{
    return chain_copy(chain->iov + chain->out_count, chain->in_count, offset, (uint8_t *)(uintptr_t)bytes, count, true);
}

/* ---- Taking and giving back ---- */

int virtqueue_pop(struct virtqueue *queue, struct virtio_chain *chain)
{
    struct virtio_device *device = queue->device;
    const struct virtqueue_layout *layout = virtqueue_layout(queue);
    if (!queue->enabled || queue->resetting || device->halted || !virtio_live(device)) {
        return 0;
    }
    memset(chain, 0, sizeof(*chain));
    chain->iov = device->iov;
    int got = layout->pop(queue, chain);
    if (got == 0) {
        /* The driver may have added one before it saw that notifications are wanted: look again after having said so. */
        layout->arm(queue);
        queue->quiet = false;
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        got = layout->pop(queue, chain);
    }
    if (got <= 0) {
        return got;
    }
    if (!queue->quiet) {
        layout->disarm(queue);
        queue->quiet = true;
    }
    /* In order, those that wait for their turn are the device's too. */
    uint32_t held = virtio_has(device, VIRTIO_F_IN_ORDER) ? queue->popped - queue->given : queue->in_flight;
    if (held >= queue->size) {
        virtio_fail(device, "queue %u: more chains than it has descriptors", queue->index);
        return -1;
    }
    queue->in_flight++;
    chain->order = queue->popped++;
    return 1;
}

static void virtqueue_give(struct virtqueue *queue, uint16_t id, uint16_t slots, uint32_t written)
{
    if (virtio_live(queue->device) && !queue->resetting) {
        virtqueue_layout(queue)->push(queue, id, slots, written);
    }
}

void virtqueue_push(struct virtqueue *queue, const struct virtio_chain *chain, uint32_t written)
{
    queue->in_flight--;
    if (queue->in_flight == 0) {
        pthread_cond_broadcast(&queue->device->drained);
    }
    if (!virtio_has(queue->device, VIRTIO_F_IN_ORDER)) {
        virtqueue_give(queue, chain->id, chain->slots, written);
        return;
    }
    /* At most size_max are between the two counters: one that waits for its turn is still the queue's. */
    struct virtqueue_done *done = &queue->done[chain->order % queue->size_max];
    *done = (struct virtqueue_done){.id = chain->id, .slots = chain->slots, .done = true, .written = written};
    for (done = &queue->done[queue->given % queue->size_max]; queue->given != queue->popped && done->done;
         done = &queue->done[queue->given % queue->size_max]) {
        done->done = false;
        queue->given++;
        virtqueue_give(queue, done->id, done->slots, done->written);
    }
}

void virtqueue_unpop(struct virtqueue *queue, const struct virtio_chain *chain)
{
    queue->in_flight--;
    if (queue->in_flight == 0) {
        pthread_cond_broadcast(&queue->device->drained);
    }
    if (queue->enabled) {
        queue->popped--;
        virtqueue_layout(queue)->unpop(queue, chain);
    }
}

void virtqueue_hold(struct virtqueue *queue)
{
    queue->held = true;
    queue->held_count = 0;
}

void virtqueue_release(struct virtqueue *queue)
{
    queue->held = false;
    if (queue->held_count != 0 && virtio_live(queue->device) && !queue->resetting) {
        virtqueue_layout(queue)->show(queue);
    }
    queue->held_count = 0;
}

void virtqueue_interrupt(struct virtqueue *queue)
{
    struct virtio_device *device = queue->device;
    if (queue->unsignalled == 0 || !virtio_live(device) || queue->resetting) {
        return;
    }
    /* The used entries before the driver's wish: it looks at them in the other order. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    bool wanted = virtqueue_layout(queue)->wanted(queue);
    queue->unsignalled = 0;
    if (wanted) {
        device->transport->interrupt_queue(device->transport_self, queue);
    }
}

void virtqueue_interrupt_all(struct virtio_device *device)
{
    for (unsigned i = 0; i < device->queue_count; i++) {
        virtqueue_interrupt(&device->queues[i]);
    }
}
