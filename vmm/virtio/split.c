/* SPDX-License-Identifier: MIT */
/*
 * The split layout (virtio 1.2, 2.7).
 *
 *   descriptor table   16 bytes each: addr 64 | len 32 | flags 16 | next 16
 *   available ring     flags 16 | idx 16 | ring[size] 16 | used_event 16
 *   used ring          flags 16 | idx 16 | ring[size] of id 32, len 32 | avail_event 16
 */
#include "virtio/virtio.h"

#define AVAIL_F_NO_INTERRUPT 1u
#define USED_F_NO_NOTIFY 1u
#define RING_IDX 2u
#define RING_ENTRIES 4u
#define AVAIL_ENTRY 2u
#define USED_ENTRY 8u

static uint64_t split_bytes(const struct virtqueue *queue, unsigned part)
{
    switch (part) {
    case VIRTQUEUE_DESC:
        return (uint64_t)queue->size * VIRTQ_DESC_BYTES;
    case VIRTQUEUE_DRIVER:
        return RING_ENTRIES + (uint64_t)queue->size * AVAIL_ENTRY + 2;
    default:
        return RING_ENTRIES + (uint64_t)queue->size * USED_ENTRY + 2;
    }
}

static struct virtq_desc split_load(const uint8_t *table, uint32_t index)
{
    uint64_t words[2];
    ring_copy(words, table + (size_t)index * VIRTQ_DESC_BYTES);
    return (struct virtq_desc){
        .addr = words[0], .len = (uint32_t)words[1], .flags = (uint16_t)(words[1] >> 32), .next = (uint16_t)(words[1] >> 48)};
}

/* Follows a chain from entry `head` of a table; a longer one than the table has gone round in a circle. */
static int split_walk(struct virtqueue *queue, struct virtio_chain *chain, const uint8_t *table, uint32_t entries, uint32_t head, bool indirect)
{
    struct virtio_device *device = queue->device;
    uint32_t at = head;
    for (uint32_t steps = 0;; steps++) {
        if (at >= entries || steps == entries) {
            virtio_fail(device, at >= entries ? "queue %u: descriptor %u of %u" : "queue %u: a chain without end, at %u of %u", queue->index, at,
                        entries);
            return -1;
        }
        struct virtq_desc desc = split_load(table, at);
        if ((desc.flags & VIRTQ_DESC_F_INDIRECT) != 0) {
            const uint8_t *inner;
            uint32_t count;
            if (indirect) {
                virtio_fail(device, "queue %u: an indirect table in an indirect table", queue->index);
                return -1;
            }
            return virtio_chain_indirect(queue, &desc, &inner, &count) != 0 ? -1 : split_walk(queue, chain, inner, count, 0, true);
        }
        if (virtio_chain_add(queue, chain, &desc) != 0) {
            return -1;
        }
        if ((desc.flags & VIRTQ_DESC_F_NEXT) == 0) {
            return 1;
        }
        at = desc.next;
    }
}

static int split_pop(struct virtqueue *queue, struct virtio_chain *chain)
{
    uint16_t waiting = (uint16_t)(ring_load(queue->driver + RING_IDX) - queue->next_avail);
    if (waiting == 0) {
        return 0;
    }
    if (waiting > queue->size) {
        virtio_fail(queue->device, "queue %u: %u chains available, of %u descriptors", queue->index, waiting, queue->size);
        return -1;
    }
    chain->id = ring_load(queue->driver + RING_ENTRIES + (size_t)(queue->next_avail % queue->size) * AVAIL_ENTRY);
    queue->next_avail++;
    return split_walk(queue, chain, queue->desc, queue->size, chain->id, false);
}

static void split_push(struct virtqueue *queue, uint16_t id, uint16_t slots, uint32_t written)
{
    uint8_t *entry = queue->device_area + RING_ENTRIES + (size_t)(queue->next_used % queue->size) * USED_ENTRY;
    (void)slots;
    ring_store_long(entry, id);
    ring_store_long(entry + 4, written);
    queue->next_used++;
    queue->unsignalled++;
    if (queue->held) {
        queue->held_count++;
    } else {
        ring_store(queue->device_area + RING_IDX, queue->next_used);
    }
}

static void split_show(struct virtqueue *queue)
{
    ring_store(queue->device_area + RING_IDX, queue->next_used);
}

static void split_unpop(struct virtqueue *queue, const struct virtio_chain *chain)
{
    (void)chain;
    queue->next_avail--;
}

static void split_arm(struct virtqueue *queue)
{
    if (virtio_has(queue->device, VIRTIO_F_EVENT_IDX)) {
        ring_store(queue->device_area + RING_ENTRIES + (size_t)queue->size * USED_ENTRY, queue->next_avail);
    } else {
        ring_store(queue->device_area, 0);
    }
}

/* With an event index there is nothing to say: the driver notifies once, when it passes the index. */
static void split_disarm(struct virtqueue *queue)
{
    if (!virtio_has(queue->device, VIRTIO_F_EVENT_IDX)) {
        ring_store(queue->device_area, USED_F_NO_NOTIFY);
    }
}

static bool split_wanted(struct virtqueue *queue)
{
    if (!virtio_has(queue->device, VIRTIO_F_EVENT_IDX)) {
        return (ring_load(queue->driver) & AVAIL_F_NO_INTERRUPT) == 0;
    }
    uint16_t event = ring_load(queue->driver + RING_ENTRIES + (size_t)queue->size * AVAIL_ENTRY);
    uint16_t before = (uint16_t)(queue->next_used - queue->unsignalled);
    return queue->unsignalled > UINT16_MAX || virtqueue_passed(event, queue->next_used, before);
}

const struct virtqueue_layout virtqueue_split = {
    .align = {16, 2, 4},
    .bytes = split_bytes,
    .pop = split_pop,
    .push = split_push,
    .show = split_show,
    .unpop = split_unpop,
    .arm = split_arm,
    .disarm = split_disarm,
    .wanted = split_wanted,
};
