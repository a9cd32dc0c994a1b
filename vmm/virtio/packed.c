/* SPDX-License-Identifier: MIT */
/*
 * The packed layout (virtio 1.2, 2.8): one ring of descriptors that driver and device both write, and a word of each that says which
 * events it wants.
 *
 *   descriptor         16 bytes: addr 64 | len 32 | id 16 | flags 16
 *   flags              15 USED | 7 AVAIL | 2 INDIRECT | 1 WRITE | 0 NEXT; available: AVAIL is the wrap counter and USED is not
 *   event suppression  15 wrap, 14..0 slot | flags 16: 0 enable, 1 disable, 2 at that slot
 */
#include "virtio/virtio.h"

#define PACKED_F_AVAIL (1u << 7)
#define PACKED_F_USED (1u << 15)
#define FLAGS_AT 14u
#define EVENT_WRAP (1u << 15)
#define EVENT_BYTES 4u
#define EVENT_FLAGS 2u
enum { EVENT_ENABLE = 0, EVENT_DISABLE = 1, EVENT_DESC = 2 };

static uint64_t packed_bytes(const struct virtqueue *queue, unsigned part)
{
    return part == VIRTQUEUE_DESC ? (uint64_t)queue->size * VIRTQ_DESC_BYTES : EVENT_BYTES;
}

static struct virtq_desc packed_load(const uint8_t *table, uint32_t index)
{
    uint64_t words[2];
    ring_copy(words, table + (size_t)index * VIRTQ_DESC_BYTES);
    return (struct virtq_desc){
        .addr = words[0], .len = (uint32_t)words[1], .id = (uint16_t)(words[1] >> 32), .flags = (uint16_t)(words[1] >> 48)};
}

static bool packed_available(const struct virtqueue *queue)
{
    uint16_t flags = ring_load(queue->desc + (size_t)queue->next_avail * VIRTQ_DESC_BYTES + FLAGS_AT);
    return ((flags & PACKED_F_AVAIL) != 0) == queue->avail_wrap && ((flags & PACKED_F_USED) != 0) != queue->avail_wrap;
}

static void packed_advance(const struct virtqueue *queue, uint16_t *slot, bool *wrap, unsigned slots)
{
    unsigned next = *slot + slots;
    if (next >= queue->size) {
        next -= queue->size;
        *wrap = !*wrap;
    }
    *slot = (uint16_t)next;
}

/* In an indirect table one stands behind the other, and only WRITE counts (2.8.7). */
static int packed_walk_indirect(struct virtqueue *queue, struct virtio_chain *chain, const struct virtq_desc *desc)
{
    const uint8_t *table;
    uint32_t entries;
    if (virtio_chain_indirect(queue, desc, &table, &entries) != 0) {
        return -1;
    }
    for (uint32_t i = 0; i < entries; i++) {
        struct virtq_desc inner = packed_load(table, i);
        if ((inner.flags & VIRTQ_DESC_F_INDIRECT) != 0) {
            virtio_fail(queue->device, "queue %u: an indirect table in an indirect table", queue->index);
            return -1;
        }
        if (virtio_chain_add(queue, chain, &inner) != 0) {
            return -1;
        }
    }
    return 0;
}

static int packed_pop(struct virtqueue *queue, struct virtio_chain *chain)
{
    if (!packed_available(queue)) {
        return 0;
    }
    uint16_t at = queue->next_avail;
    bool wrap = queue->avail_wrap, more = true;
    unsigned slots = 0;
    while (more) {
        if (slots == queue->size) {
            virtio_fail(queue->device, "queue %u: a chain without end", queue->index);
            return -1;
        }
        struct virtq_desc desc = packed_load(queue->desc, at);
        bool indirect = (desc.flags & VIRTQ_DESC_F_INDIRECT) != 0;
        if (indirect && slots != 0) {
            virtio_fail(queue->device, "queue %u: an indirect table inside a chain", queue->index);
            return -1;
        }
        if ((indirect ? packed_walk_indirect(queue, chain, &desc) : virtio_chain_add(queue, chain, &desc)) != 0) {
            return -1;
        }
        more = (desc.flags & VIRTQ_DESC_F_NEXT) != 0;
        chain->id = desc.id; /* that of the last one counts (2.8.6) */
        slots++;
        packed_advance(queue, &at, &wrap, 1);
    }
    chain->slots = (uint16_t)slots;
    queue->next_avail = at;
    queue->avail_wrap = wrap;
    return 1;
}

static void packed_push(struct virtqueue *queue, uint16_t id, uint16_t slots, uint32_t written)
{
    uint8_t *desc = queue->desc + (size_t)queue->next_used * VIRTQ_DESC_BYTES;
    uint16_t flags = (uint16_t)((queue->used_wrap ? PACKED_F_AVAIL | PACKED_F_USED : 0) | (written != 0 ? VIRTQ_DESC_F_WRITE : 0));
    ring_store_long(desc + 8, written);
    ring_store(desc + 12, id);
    if (queue->held && queue->held_count++ == 0) {
        queue->held_slot = queue->next_used; /* a driver goes no further than the first */
        queue->held_flags = flags;
    } else {
        ring_store(desc + FLAGS_AT, flags);
    }
    packed_advance(queue, &queue->next_used, &queue->used_wrap, slots);
    queue->unsignalled += slots;
}

static void packed_show(struct virtqueue *queue)
{
    ring_store(queue->desc + (size_t)queue->held_slot * VIRTQ_DESC_BYTES + FLAGS_AT, queue->held_flags);
}

static void packed_unpop(struct virtqueue *queue, const struct virtio_chain *chain)
{
    if (queue->next_avail < chain->slots) {
        queue->next_avail = (uint16_t)(queue->next_avail + queue->size);
        queue->avail_wrap = !queue->avail_wrap;
    }
    queue->next_avail = (uint16_t)(queue->next_avail - chain->slots);
}

static void packed_arm(struct virtqueue *queue)
{
    bool index = virtio_has(queue->device, VIRTIO_F_EVENT_IDX);
    if (index) {
        ring_store(queue->device_area, (uint16_t)(queue->next_avail | (queue->avail_wrap ? EVENT_WRAP : 0)));
    }
    ring_store(queue->device_area + EVENT_FLAGS, index ? EVENT_DESC : EVENT_ENABLE);
}

static void packed_disarm(struct virtqueue *queue)
{
    ring_store(queue->device_area + EVENT_FLAGS, EVENT_DISABLE);
}

static bool packed_wanted(struct virtqueue *queue)
{
    uint16_t flags = ring_load(queue->driver + EVENT_FLAGS);
    if (flags != EVENT_DESC || !virtio_has(queue->device, VIRTIO_F_EVENT_IDX)) {
        return flags != EVENT_DISABLE;
    }
    uint16_t event = ring_load(queue->driver);
    int slot = event & ~EVENT_WRAP;
    if (((event & EVENT_WRAP) != 0) != queue->used_wrap) {
        slot -= queue->size; /* of the round before */
    }
    /* Slots used since the last interrupt: [next_used - unsignalled, next_used). */
    return queue->unsignalled >= queue->size || (slot < queue->next_used && slot >= queue->next_used - (int)queue->unsignalled);
}

const struct virtqueue_layout virtqueue_packed = {
    .align = {16, 4, 4},
    .bytes = packed_bytes,
    .pop = packed_pop,
    .push = packed_push,
    .show = packed_show,
    .unpop = packed_unpop,
    .arm = packed_arm,
    .disarm = packed_disarm,
    .wanted = packed_wanted,
};
