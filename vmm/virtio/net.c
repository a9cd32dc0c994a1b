/* SPDX-License-Identifier: MIT */
/*
 * Queues: 0 and 1 are pair 0's, to the driver and from it, and so on; then the control queue, behind all pairs that there are if MQ was
 * negotiated, behind the first if not (5.1.2).
 *
 * Packets go between the queues and the netdev on the loop's thread. A packet of the driver's is given to the netdev without the device's lock
 * (net/net.h, Laws); its chain is in flight until then, so a reset waits for it. A packet for the driver is copied into as many buffers as it
 * needs and shown at once, or into none.
 */
#include "virtio/net.h"

#include <stdlib.h>
#include <string.h>

#include "virtio/net_internal.h"

#define NET_TYPE 1u
#define CONTROL_QUEUE_SIZE 64u
#define ETHERNET_BYTES 14u
#define FILTER_BYTES 18u /* as far as net_wanted() looks: a VLAN tag */
#define SPREAD_MAX 64u   /* buffers that one packet may take: 1 KiB ones hold the largest */

/* What stands before a packet in a queue (5.1.6); with neither VERSION_1 nor MRG_RXBUF without the last field. */
struct net_queue_header {
    struct net_header common;
    uint16_t num_buffers;
};
_Static_assert(sizeof(struct net_queue_header) == 12, "virtio 1.2, 5.1.6");

static size_t net_header_bytes(const struct virtio_net *net)
{
    return virtio_has(&net->device, VIRTIO_F_VERSION_1 | VIRTIO_NET_F_MRG_RXBUF) ? sizeof(struct net_queue_header) : sizeof(struct net_header);
}

static unsigned net_control_index(const struct virtio_net *net)
{
    return virtio_has(&net->device, VIRTIO_NET_F_MQ) ? 2 * net->pairs_max : 2;
}

/* ---- What the path must know ---- */

static unsigned net_path_offloads(uint64_t offloads)
{
    static const struct {
        uint64_t feature;
        unsigned offload;
    } table[] = {
        {VIRTIO_NET_F_GUEST_CSUM, NET_OFFLOAD_CSUM}, {VIRTIO_NET_F_GUEST_TSO4, NET_OFFLOAD_TSO4}, {VIRTIO_NET_F_GUEST_TSO6, NET_OFFLOAD_TSO6},
        {VIRTIO_NET_F_GUEST_ECN, NET_OFFLOAD_ECN},   {VIRTIO_NET_F_GUEST_UFO, NET_OFFLOAD_UFO},
    };
    unsigned result = 0;
    for (unsigned i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        result |= (offloads & table[i].feature) != 0 ? table[i].offload : 0;
    }
    return result;
}

/* Started, reset, or changed by the control queue. On the loop's thread, with the lock, which it gives up meanwhile. */
static void net_tell_path(struct virtio_net *net)
{
    if (!net->path_stale) {
        return;
    }
    net->path_stale = false;
    unsigned offloads = net_path_offloads(net->offloads), pairs = net->pairs;
    memcpy(net->nic.mac, net_config_of(net)->mac, NET_MAC_BYTES);
    virtio_unlock(&net->device);
    net_nic_set_offloads(&net->nic, offloads);
    net_nic_set_queues(&net->nic, pairs);
    virtio_lock(&net->device);
}

/* ---- To the driver ---- */

/* Bytes of a packet, one piece after the other. */
struct net_cursor {
    const struct iovec *iov;
    unsigned count;
    size_t at; /* in the first */
};

static void net_copy_from(struct net_cursor *from, uint8_t *to, size_t bytes)
{
    while (bytes > 0 && from->count > 0) {
        size_t left = from->iov->iov_len - from->at, part = left < bytes ? left : bytes;
        memcpy(to, (const uint8_t *)from->iov->iov_base + from->at, part);
        to += part;
        bytes -= part;
        from->at += part;
        if (part == left) {
            from->iov++;
            from->count--;
            from->at = 0;
        }
    }
}

/* A chain's part of the packet, behind `skip` bytes. */
static size_t net_fill(const struct virtio_chain *chain, size_t skip, struct net_cursor *from, size_t bytes)
{
    size_t done = 0;
    for (unsigned i = 0; i < chain->in_count && done < bytes; i++) {
        const struct iovec *room = &chain->iov[chain->out_count + i];
        if (skip >= room->iov_len) {
            skip -= room->iov_len;
            continue;
        }
        size_t part = room->iov_len - skip < bytes - done ? room->iov_len - skip : bytes - done;
        net_copy_from(from, (uint8_t *)room->iov_base + skip, part);
        done += part;
        skip = 0;
    }
    return done;
}

/* Where byte `at` of a chain's writable buffers is. */
static uint8_t *net_byte_of(const struct virtio_chain *chain, size_t at)
{
    for (unsigned i = 0; i < chain->in_count; i++) {
        const struct iovec *room = &chain->iov[chain->out_count + i];
        if (at < room->iov_len) {
            return (uint8_t *)room->iov_base + at;
        }
        at -= room->iov_len;
    }
    return NULL;
}

enum net_placed { PLACED, PLACED_NO_ROOM, PLACED_NEVER };

static enum net_placed net_place(struct virtio_net *net, struct virtqueue *queue, const struct net_packet *packet)
{
    struct virtio_chain chains[SPREAD_MAX];
    uint32_t written[SPREAD_MAX];
    struct net_cursor from = {packet->iov, packet->iov_count, 0};
    size_t header_bytes = net_header_bytes(net), left = packet->bytes;
    bool mergeable = virtio_has(&net->device, VIRTIO_NET_F_MRG_RXBUF);
    uint8_t *num_buffers[2] = {NULL, NULL};
    enum net_placed result = PLACED;
    unsigned count = 0;
    while (left > 0 || count == 0) {
        struct virtio_chain *chain = &chains[count];
        if (count == SPREAD_MAX || (count == 1 && !mergeable)) {
            result = PLACED_NEVER; /* larger than what the driver has said it takes */
            break;
        }
        if (virtqueue_pop(queue, chain) <= 0) {
            result = virtio_live(&net->device) ? PLACED_NO_ROOM : PLACED_NEVER;
            break;
        }
        size_t skip = 0;
        if (count++ == 0) {
            struct net_queue_header header = {.common = packet->header, .num_buffers = 1};
            skip = header_bytes;
            if (virtio_chain_write(chain, 0, &header, header_bytes) != header_bytes) {
                virtio_fail(&net->device, "queue %u: a buffer of %u bytes for a packet", queue->index, chain->in_bytes);
                result = PLACED_NEVER;
                break;
            }
            for (unsigned i = 0; i < 2; i++) {
                num_buffers[i] = net_byte_of(chain, offsetof(struct net_queue_header, num_buffers) + i);
            }
        }
        size_t done = net_fill(chain, skip, &from, left);
        left -= done;
        written[count - 1] = (uint32_t)(skip + done);
    }
    if (result != PLACED) {
        while (count > 0) {
            virtqueue_unpop(queue, &chains[--count]);
        }
        return result;
    }
    if (header_bytes == sizeof(struct net_queue_header)) {
        *num_buffers[0] = (uint8_t)count;
        *num_buffers[1] = (uint8_t)(count >> 8);
    }
    virtqueue_hold(queue);
    for (unsigned i = 0; i < count; i++) {
        virtqueue_push(queue, &chains[i], written[i]);
    }
    virtqueue_release(queue);
    virtqueue_interrupt(queue);
    return PLACED;
}

/* The path finishes what the driver does not take; what comes while it learns of a change is lost. */
static bool net_takes(const struct virtio_net *net, const struct net_header *header)
{
    unsigned taken = net_path_offloads(net->offloads), needed = header->flags & NET_HEADER_NEEDS_CSUM ? NET_OFFLOAD_CSUM : 0;
    switch (header->gso_type & ~NET_GSO_ECN) {
    case NET_GSO_NONE:
        break;
    case NET_GSO_TCPV4:
        needed |= NET_OFFLOAD_TSO4;
        break;
    case NET_GSO_TCPV6:
        needed |= NET_OFFLOAD_TSO6;
        break;
    case NET_GSO_UDP:
        needed |= NET_OFFLOAD_UFO;
        break;
    default:
        return false;
    }
    needed |= header->gso_type & NET_GSO_ECN ? NET_OFFLOAD_ECN : 0;
    return (needed & ~taken) == 0;
}

static bool net_receive(void *self, unsigned index, const struct net_packet *packet)
{
    struct virtio_net *net = self;
    uint8_t frame[FILTER_BYTES];
    struct net_cursor cursor = {packet->iov, packet->iov_count, 0};
    size_t head = packet->bytes < sizeof(frame) ? packet->bytes : sizeof(frame);
    bool taken = true;
    net_copy_from(&cursor, frame, head);
    virtio_lock(&net->device);
    unsigned pair = index % net->pairs;
    struct virtqueue *queue = &net->device.queues[2 * pair];
    if (head >= ETHERNET_BYTES && packet->bytes <= NET_PACKET_MAX && virtio_live(&net->device) && net_takes(net, &packet->header) &&
        net_wanted(net, frame, head)) {
        taken = net_place(net, queue, packet) != PLACED_NO_ROOM;
        net->starved[pair] = net->starved[pair] || !taken;
    }
    virtio_unlock(&net->device);
    return taken;
}

static bool net_can_receive(void *self, unsigned index)
{
    struct virtio_net *net = self;
    virtio_lock(&net->device);
    bool can = !net->starved[index % net->pairs];
    virtio_unlock(&net->device);
    return can;
}

/* ---- From the driver ---- */

/* The packet of a chain, without its header. False: the device has failed, or it is not worth sending; the chain is to be pushed. */
static bool net_parse(struct virtio_net *net, struct virtqueue *queue, struct net_waiting *waiting)
{
    size_t skip = net_header_bytes(net);
    const struct virtio_chain *chain = &waiting->chain;
    struct net_queue_header header = {0};
    if (virtio_chain_read(chain, 0, &header, skip) != skip) {
        virtio_fail(&net->device, "queue %u: a packet of %u bytes, with its header", queue->index, chain->out_bytes);
        return false;
    }
    waiting->header = header.common;
    waiting->iov_count = 0;
    waiting->bytes = chain->out_bytes - skip;
    for (unsigned i = 0; i < chain->out_count; i++) {
        const struct iovec *piece = &chain->iov[i];
        if (skip >= piece->iov_len) {
            skip -= piece->iov_len;
            continue;
        }
        waiting->iov[waiting->iov_count++] = (struct iovec){(uint8_t *)piece->iov_base + skip, piece->iov_len - skip};
        skip = 0;
    }
    if (!virtio_has(&net->device, VIRTIO_NET_F_CSUM)) {
        waiting->header = (struct net_header){0}; /* 5.1.6.2: then no driver asks for anything */
    }
    return waiting->bytes >= ETHERNET_BYTES && waiting->bytes <= NET_PACKET_MAX;
}

static void net_end_sent(struct virtqueue *queue, struct net_waiting *waiting)
{
    waiting->busy = false;
    virtqueue_push(queue, &waiting->chain, 0);
}

/* With the lock, which it gives up meanwhile. False: the netdev has no room. */
static bool net_give(struct virtio_net *net, struct virtqueue *queue, struct net_waiting *waiting)
{
    const struct net_packet packet = {.header = waiting->header, .iov = waiting->iov, .iov_count = waiting->iov_count, .bytes = waiting->bytes};
    waiting->sending = true;
    virtio_unlock(&net->device);
    bool taken = net_nic_send(&net->nic, queue->index / 2, &packet);
    virtio_lock(&net->device);
    waiting->sending = false;
    return taken || queue->resetting || net->device.halted || net->device.stopping;
}

static void net_send(struct virtio_net *net, struct virtqueue *queue)
{
    struct net_waiting *waiting = &net->waiting[queue->index / 2];
    if (waiting->sending) {
        return; /* the netdev says that it has room while it is being given a packet: what is there is found by who gives it */
    }
    unsigned budget = queue->size;
    while (waiting->busy || budget > 0) {
        if (!waiting->busy) {
            if (virtqueue_pop(queue, &waiting->chain) <= 0) {
                break;
            }
            budget--;
            waiting->busy = true;
            if (!net_parse(net, queue, waiting)) {
                net_end_sent(queue, waiting);
                continue;
            }
        }
        if (!net_give(net, queue, waiting)) {
            break; /* the netdev says when there is room */
        }
        net_end_sent(queue, waiting);
    }
    virtqueue_interrupt(queue);
    if (budget == 0 && !waiting->busy) {
        virtio_kick_queue(&net->device, queue->index);
    }
}

static void net_room(void *self, unsigned index)
{
    struct virtio_net *net = self;
    virtio_lock(&net->device);
    if (index < net->pairs_max && net->waiting[index].busy) {
        net_send(net, &net->device.queues[2 * index + 1]);
    }
    virtio_unlock(&net->device);
}

/* ---- The link ---- */

static void net_link_changed(void *self, bool up)
{
    struct virtio_net *net = self;
    virtio_lock(&net->device);
    uint16_t status = (uint16_t)(net_config_of(net)->status & ~NET_STATUS_LINK_UP);
    status |= up ? NET_STATUS_LINK_UP : 0;
    if (status != net_config_of(net)->status) {
        net_config_of(net)->status = status;
        if (virtio_has(&net->device, VIRTIO_NET_F_STATUS)) {
            virtio_config_changed(&net->device);
        }
    }
    virtio_unlock(&net->device);
}

/* 5.1.6.5.4: the driver sends packets that tell switches where the guest is, and says so. */
static bool net_announce(void *self)
{
    struct virtio_net *net = self;
    virtio_lock(&net->device);
    uint64_t needed = VIRTIO_NET_F_GUEST_ANNOUNCE | VIRTIO_NET_F_CTRL_VQ;
    bool can = virtio_live(&net->device) && (net->device.features & needed) == needed;
    if (can && (net_config_of(net)->status & NET_STATUS_ANNOUNCE) == 0) {
        net_config_of(net)->status |= NET_STATUS_ANNOUNCE;
        virtio_config_changed(&net->device);
    }
    virtio_unlock(&net->device);
    return can;
}

/* ---- The device ---- */

static void net_notified(struct virtio_device *device, struct virtqueue *queue)
{
    struct virtio_net *net = (struct virtio_net *)device;
    net_tell_path(net);
    if (virtio_has(device, VIRTIO_NET_F_CTRL_VQ) && queue->index == net_control_index(net)) {
        net_take_controls(net, queue);
        net_tell_path(net);
    } else if (queue->index >= 2 * net->pairs) {
        return; /* of a pair that is not in use (5.1.6.5.5.1) */
    } else if (queue->index % 2 != 0) {
        net_send(net, queue);
    } else {
        net->starved[queue->index / 2] = false;
        virtio_unlock(device);
        net_nic_room(&net->nic, queue->index / 2);
        virtio_lock(device);
    }
}

/* A legacy driver writes the address there; a modern one does it by the control queue (5.1.4.1). */
static void net_config_written(struct virtio_device *device, unsigned offset, unsigned size)
{
    struct virtio_net *net = (struct virtio_net *)device;
    (void)offset;
    (void)size;
    if (virtio_has(device, VIRTIO_F_VERSION_1 | VIRTIO_NET_F_CTRL_MAC_ADDR)) {
        memcpy(net_config_of(net)->mac, net->nic.mac, NET_MAC_BYTES);
    } else {
        net->path_stale = true;
    }
}

static void net_started(struct virtio_device *device)
{
    struct virtio_net *net = (struct virtio_net *)device;
    net->offloads = device->features & NET_GUEST_OFFLOADS;
    net->pairs = 1;
    memset(net->filter.vlans, virtio_has(device, VIRTIO_NET_F_CTRL_VLAN) ? 0 : 0xff, sizeof(net->filter.vlans));
    net->path_stale = true;
}

static void net_cancel(struct virtio_device *device, struct virtqueue *queue)
{
    struct virtio_net *net = (struct virtio_net *)device;
    for (unsigned i = 0; i < net->pairs_max; i++) {
        struct net_waiting *waiting = &net->waiting[i];
        if (waiting->busy && !waiting->sending && (queue == NULL || queue->index == 2 * i + 1)) {
            net_end_sent(&device->queues[2 * i + 1], waiting);
        }
    }
}

static void net_reset(struct virtio_device *device)
{
    struct virtio_net *net = (struct virtio_net *)device;
    net->offloads = 0;
    net->pairs = 1;
    net->path_stale = true;
    memset(net->starved, 0, sizeof(net->starved));
    memcpy(net_config_of(net)->mac, net->mac_default, NET_MAC_BYTES);
    net_config_of(net)->status &= (uint16_t)~NET_STATUS_ANNOUNCE;
    net_filter_reset(net);
}

static const struct virtio_class net_class = {
    .name = "virtio-net",
    .type = NET_TYPE,
    .notified = net_notified,
    .config_written = net_config_written,
    .started = net_started,
    .cancel = net_cancel,
    .reset = net_reset,
};

static const struct net_nic_ops net_nic_ops = {
    .receive = net_receive,
    .can_receive = net_can_receive,
    .room = net_room,
    .link_changed = net_link_changed,
    .announce = net_announce,
    .rx_filter = net_rx_filter,
};

/* What depends on what (5.1.3.1): a device does not offer the one without the other. */
static uint64_t net_features(const struct virtio_net_config_options *config, unsigned pairs)
{
    static const struct {
        uint64_t feature, needs;
    } table[] = {
        {VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_CSUM},
        {VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_CSUM},
        {VIRTIO_NET_F_GUEST_UFO, VIRTIO_NET_F_GUEST_CSUM},
        {VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4 | VIRTIO_NET_F_GUEST_TSO6},
        {VIRTIO_NET_F_GSO, VIRTIO_NET_F_CSUM},
        {VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_CSUM},
        {VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_CSUM},
        {VIRTIO_NET_F_HOST_UFO, VIRTIO_NET_F_CSUM},
        {VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4 | VIRTIO_NET_F_HOST_TSO6},
        {VIRTIO_NET_F_CTRL_RX, VIRTIO_NET_F_CTRL_VQ},
        {VIRTIO_NET_F_CTRL_VLAN, VIRTIO_NET_F_CTRL_VQ},
        {VIRTIO_NET_F_CTRL_RX_EXTRA, VIRTIO_NET_F_CTRL_RX},
        {VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_F_CTRL_VQ},
        {VIRTIO_NET_F_MQ, VIRTIO_NET_F_CTRL_VQ},
        {VIRTIO_NET_F_CTRL_MAC_ADDR, VIRTIO_NET_F_CTRL_VQ},
        {VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, VIRTIO_NET_F_CTRL_VQ},
    };
    uint64_t features = config->features | VIRTIO_NET_F_MAC | (pairs > 1 ? VIRTIO_NET_F_MQ : 0) | (config->mtu != 0 ? VIRTIO_NET_F_MTU : 0) |
                        (config->speed != UINT32_MAX || config->duplex != 0xff ? VIRTIO_NET_F_SPEED_DUPLEX : 0);
    for (unsigned i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        features &= (features & table[i].needs) == 0 ? ~table[i].feature : UINT64_MAX;
    }
    return features | virtio_options_features(&config->virtio);
}

static bool net_alloc_waiting(struct virtio_net *net)
{
    for (unsigned i = 0; i < net->pairs_max; i++) {
        net->waiting[i].iov = calloc(VIRTQUEUE_CHAIN_MAX, sizeof(struct iovec));
        if (net->waiting[i].iov == NULL) {
            return false;
        }
    }
    return true;
}

static void net_free_memory(struct virtio_net *net)
{
    for (unsigned i = 0; i < net->pairs_max; i++) {
        free(net->waiting[i].iov);
    }
    free(net);
}

struct virtio_net *virtio_net_new(const struct virtio_net_config_options *config, struct loop *loop, const struct dma *dma, struct error *error)
{
    uint16_t sizes[2 * VIRTIO_NET_PAIRS_MAX + 1];
    struct virtio_net *net = calloc(1, sizeof(*net));
    if (net == NULL) {
        error_set(error, "virtio-net: no memory");
        return NULL;
    }
    net->nic = (struct net_nic){.ops = &net_nic_ops, .self = net};
    memcpy(net->nic.name, config->name, sizeof(net->nic.name));
    strcpy(net->nic.model, "virtio-net-pci");
    memcpy(net->nic.mac, config->mac, NET_MAC_BYTES);
    memcpy(net->mac_default, config->mac, NET_MAC_BYTES);
    unsigned pairs = config->mq ? netdev_queues(config->netdev) : 1;
    net->pairs_max = pairs < VIRTIO_NET_PAIRS_MAX ? pairs : VIRTIO_NET_PAIRS_MAX;
    net->pairs = 1;
    for (unsigned i = 0; i < net->pairs_max; i++) {
        sizes[2 * i] = config->rx_queue_size;
        sizes[2 * i + 1] = config->tx_queue_size;
    }
    sizes[2 * net->pairs_max] = CONTROL_QUEUE_SIZE;
    if (!net_alloc_waiting(net)) {
        error_set(error, "virtio-net: no memory");
        net_free_memory(net);
        return NULL;
    }
    int result = virtio_init(&net->device, &net_class, loop, dma, net_features(config, net->pairs_max), 2 * net->pairs_max + 1, sizes);
    if (result != 0) {
        error_set(error, "virtio-net: %s", strerror(-result));
        net_free_memory(net);
        return NULL;
    }
    struct net_config *space = net_config_of(net);
    *space = (struct net_config){.max_virtqueue_pairs = (uint16_t)net->pairs_max, .mtu = config->mtu, .speed = config->speed, .duplex = config->duplex};
    memcpy(space->mac, config->mac, NET_MAC_BYTES);
    net->device.config_bytes = sizeof(*space);
    memset(net->device.writable, 0xff, NET_MAC_BYTES);
    net_filter_reset(net);
    if (net_nic_attach(&net->nic, config->netdev, error) != 0) {
        virtio_fini(&net->device);
        net_free_memory(net);
        return NULL;
    }
    net_link_changed(net, net_nic_link(&net->nic));
    return net;
}

void virtio_net_free(struct virtio_net *net)
{
    if (net == NULL) {
        return;
    }
    virtio_stop(&net->device);
    net_nic_detach(&net->nic);
    virtio_lock(&net->device);
    net_cancel(&net->device, NULL);
    virtio_unlock(&net->device);
    virtio_fini(&net->device);
    net_free_memory(net);
}

struct virtio_device *virtio_net_device(struct virtio_net *net)
{
    return &net->device;
}
