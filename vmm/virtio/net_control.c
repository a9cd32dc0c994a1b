/* SPDX-License-Identifier: MIT */
/*
 * The control queue (5.1.6.5): what is let through to the guest, its address, how many queue pairs are in use, offloads. A command is a class
 * and a number with data behind, and a byte for the answer; a command that is none, or not of a feature that was negotiated, is refused.
 */
#include <string.h>

#include "virtio/net_internal.h"

#define CONTROL_OK 0u
#define CONTROL_ERROR 1u

enum { CLASS_RX, CLASS_MAC, CLASS_VLAN, CLASS_ANNOUNCE, CLASS_MQ, CLASS_OFFLOADS };

/* A command's data: what is behind class and number. */
struct control {
    struct virtio_net *net;
    const struct virtio_chain *chain;
    uint8_t class, number;
    size_t at; /* what was read */
};

static bool control_take(struct control *control, void *bytes, size_t count)
{
    size_t got = virtio_chain_read(control->chain, control->at, bytes, count);
    control->at += got;
    return got == count;
}

/* ---- Commands ---- */

/* By number: PROMISC, ALLMULTI, ALLUNI, NOMULTI, NOUNI, NOBCAST. */
static bool control_rx(struct control *control)
{
    struct net_filter *filter = &control->net->filter;
    bool *const flags[] = {&filter->promisc, &filter->allmulti, &filter->alluni, &filter->nomulti, &filter->nouni, &filter->nobcast};
    uint8_t on;
    bool extra = control->number >= 2;
    if (control->number >= sizeof(flags) / sizeof(flags[0]) || !virtio_has(&control->net->device, extra ? VIRTIO_NET_F_CTRL_RX_EXTRA : VIRTIO_NET_F_CTRL_RX) ||
        !control_take(control, &on, 1)) {
        return false;
    }
    *flags[control->number] = on != 0;
    return true;
}

static bool control_take_macs(struct control *control, struct net_macs *macs)
{
    uint32_t entries;
    macs->count = 0;
    macs->overflow = false;
    if (!control_take(control, &entries, sizeof(entries)) || entries > (control->chain->out_bytes - control->at) / NET_MAC_BYTES) {
        return false;
    }
    if (entries > NET_MACS_MAX) {
        macs->overflow = true;
        control->at += (size_t)entries * NET_MAC_BYTES;
        return true;
    }
    macs->count = entries;
    return control_take(control, macs->mac, (size_t)entries * NET_MAC_BYTES);
}

static bool control_set_table(struct control *control)
{
    struct net_macs unicast, multicast;
    if (!virtio_has(&control->net->device, VIRTIO_NET_F_CTRL_RX) || !control_take_macs(control, &unicast) || !control_take_macs(control, &multicast) ||
        control->at != control->chain->out_bytes) {
        return false;
    }
    control->net->filter.unicast = unicast;
    control->net->filter.multicast = multicast;
    return true;
}

static bool control_set_address(struct control *control)
{
    uint8_t mac[NET_MAC_BYTES];
    if (!virtio_has(&control->net->device, VIRTIO_NET_F_CTRL_MAC_ADDR) || !control_take(control, mac, sizeof(mac))) {
        return false;
    }
    memcpy(net_config_of(control->net)->mac, mac, sizeof(mac));
    control->net->path_stale = true;
    return true;
}

/* By number: TABLE_SET, ADDR_SET. */
static bool control_mac(struct control *control)
{
    return control->number == 0 ? control_set_table(control) : control->number == 1 && control_set_address(control);
}

/* By number: ADD, DEL. */
static bool control_vlan(struct control *control)
{
    uint16_t vlan;
    if (!virtio_has(&control->net->device, VIRTIO_NET_F_CTRL_VLAN) || control->number > 1 || !control_take(control, &vlan, sizeof(vlan)) ||
        vlan >= NET_VLANS) {
        return false;
    }
    uint64_t bit = UINT64_C(1) << vlan % 64, *word = &control->net->filter.vlans[vlan / 64];
    *word = control->number == 0 ? *word | bit : *word & ~bit;
    return true;
}

static bool control_announce(struct control *control)
{
    struct net_config *config = net_config_of(control->net);
    if (control->number != 0 || (config->status & NET_STATUS_ANNOUNCE) == 0) {
        return false;
    }
    config->status &= (uint16_t)~NET_STATUS_ANNOUNCE;
    return true;
}

static bool control_mq(struct control *control)
{
    uint16_t pairs;
    if (!virtio_has(&control->net->device, VIRTIO_NET_F_MQ) || control->number != 0 || !control_take(control, &pairs, sizeof(pairs)) || pairs == 0 ||
        pairs > control->net->pairs_max) {
        return false;
    }
    control->net->pairs = pairs;
    control->net->path_stale = true;
    for (unsigned i = 0; i < 2u * pairs; i++) {
        virtio_kick_queue(&control->net->device, i); /* what was made available before */
    }
    return true;
}

static bool control_offloads(struct control *control)
{
    uint64_t offloads, agreed = control->net->device.features & NET_GUEST_OFFLOADS;
    if (!virtio_has(&control->net->device, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) || control->number != 0 ||
        !control_take(control, &offloads, sizeof(offloads)) || (offloads & ~agreed) != 0) {
        return false;
    }
    control->net->offloads = offloads;
    control->net->path_stale = true;
    return true;
}

static bool (*const control_classes[])(struct control *control) = {
    [CLASS_RX] = control_rx,   [CLASS_MAC] = control_mac,           [CLASS_VLAN] = control_vlan, [CLASS_ANNOUNCE] = control_announce,
    [CLASS_MQ] = control_mq,   [CLASS_OFFLOADS] = control_offloads,
};

void net_take_controls(struct virtio_net *net, struct virtqueue *queue)
{
    struct virtio_chain chain;
    unsigned budget = queue->size;
    for (; budget > 0 && virtqueue_pop(queue, &chain) > 0; budget--) {
        struct control control = {.net = net, .chain = &chain};
        uint8_t answer = CONTROL_ERROR;
        if (!control_take(&control, &control.class, 1) || !control_take(&control, &control.number, 1) || chain.in_bytes == 0) {
            virtio_fail(&net->device, "queue %u: a command of %u bytes, with %u for the answer", queue->index, chain.out_bytes, chain.in_bytes);
            virtqueue_push(queue, &chain, 0);
            return;
        }
        if (control.class < sizeof(control_classes) / sizeof(control_classes[0]) && control_classes[control.class](&control)) {
            answer = CONTROL_OK;
        }
        virtqueue_push(queue, &chain, (uint32_t)virtio_chain_write(&chain, 0, &answer, 1));
    }
    virtqueue_interrupt(queue);
    if (budget == 0) {
        virtio_kick_queue(&net->device, queue->index);
    }
}

/* ---- The filter ---- */

void net_filter_reset(struct virtio_net *net)
{
    net->filter = (struct net_filter){.promisc = true}; /* until a driver has said something else, as it always has been */
    memset(net->filter.vlans, 0xff, sizeof(net->filter.vlans));
}

static bool net_is_among(const struct net_macs *macs, const uint8_t *mac)
{
    for (unsigned i = 0; i < macs->count; i++) {
        if (memcmp(macs->mac[i], mac, NET_MAC_BYTES) == 0) {
            return true;
        }
    }
    return macs->overflow;
}

bool net_wanted(struct virtio_net *net, const uint8_t *frame, size_t bytes)
{
    static const uint8_t broadcast[NET_MAC_BYTES] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    const struct net_filter *filter = &net->filter;
    if (filter->promisc) {
        return true;
    }
    if (bytes >= 16 && frame[12] == 0x81 && frame[13] == 0x00) {
        unsigned vlan = (unsigned)(frame[14] & 0xf) << 8 | frame[15];
        if ((filter->vlans[vlan / 64] >> vlan % 64 & 1) == 0) {
            return false;
        }
    }
    if (memcmp(frame, broadcast, NET_MAC_BYTES) == 0) {
        return !filter->nobcast;
    }
    if ((frame[0] & 1) != 0) {
        return !filter->nomulti && (filter->allmulti || net_is_among(&filter->multicast, frame));
    }
    bool own = memcmp(frame, net_config_of(net)->mac, NET_MAC_BYTES) == 0;
    return !filter->nouni && (filter->alluni || own || net_is_among(&filter->unicast, frame));
}

/* ---- query-rx-filter ---- */

static json_t *net_macs_json(const struct net_macs *macs)
{
    json_t *list = json_array();
    for (unsigned i = 0; i < macs->count; i++) {
        char text[18];
        net_mac_format(macs->mac[i], text);
        json_array_append_new(list, json_string(text));
    }
    return list;
}

static const char *net_filter_state(bool none, bool all)
{
    return none ? "none" : all ? "all" : "normal";
}

json_t *net_rx_filter(void *self)
{
    struct virtio_net *net = self;
    char mac[18];
    virtio_lock(&net->device);
    const struct net_filter *filter = &net->filter;
    json_t *vlans = json_array();
    bool vlan_filter = virtio_has(&net->device, VIRTIO_NET_F_CTRL_VLAN);
    for (unsigned i = 0; vlan_filter && i < NET_VLANS; i++) {
        if ((filter->vlans[i / 64] >> i % 64 & 1) != 0) {
            json_array_append_new(vlans, json_integer(i));
        }
    }
    net_mac_format(net_config_of(net)->mac, mac);
    json_t *result = json_pack("{s:b, s:s, s:s, s:s, s:b, s:b, s:b, s:s, s:o, s:o, s:o}", "promiscuous", filter->promisc, "multicast",
                               net_filter_state(filter->nomulti, filter->allmulti), "unicast", net_filter_state(filter->nouni, filter->alluni), "vlan",
                               net_filter_state(false, !vlan_filter), "broadcast-allowed", !filter->nobcast, "multicast-overflow",
                               filter->multicast.overflow, "unicast-overflow", filter->unicast.overflow, "main-mac", mac, "vlan-table", vlans,
                               "unicast-table", net_macs_json(&filter->unicast), "multicast-table", net_macs_json(&filter->multicast));
    virtio_unlock(&net->device);
    return result;
}
