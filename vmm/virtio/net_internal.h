/* SPDX-License-Identifier: MIT */
/*
 * What the two files of the network device share: net.c moves packets, net_control.c has the control queue and what it decides.
 */
#ifndef KAGE_VIRTIO_NET_INTERNAL_H
#define KAGE_VIRTIO_NET_INTERNAL_H

#include "virtio/net.h"

#define NET_STATUS_LINK_UP 1u
#define NET_STATUS_ANNOUNCE 2u
#define NET_MACS_MAX 64u
#define NET_VLANS 4096u

/* Configuration space (5.1.4). */
struct net_config {
    uint8_t mac[NET_MAC_BYTES];
    uint16_t status, max_virtqueue_pairs, mtu;
    uint32_t speed;
    uint8_t duplex;
} __attribute__((packed));
_Static_assert(sizeof(struct net_config) == 17, "virtio 1.2, 5.1.4");

/* Addresses of one kind that the driver wants (5.1.6.5.2). */
struct net_macs {
    unsigned count;
    bool overflow; /* more than there is room for: all of the kind are let through */
    uint8_t mac[NET_MACS_MAX][NET_MAC_BYTES];
};

/* What is let through to the guest. */
struct net_filter {
    bool promisc, allmulti, alluni, nomulti, nouni, nobcast;
    struct net_macs unicast, multicast;
    uint64_t vlans[NET_VLANS / 64];
};

/* A transmit queue's packet that the netdev has had no room for. */
struct net_waiting {
    bool busy;    /* there is one */
    bool sending; /* the loop's thread is giving a packet to the netdev, without the lock */
    struct virtio_chain chain;
    struct net_header header;
    struct iovec *iov; /* VIRTQUEUE_CHAIN_MAX */
    unsigned iov_count;
    size_t bytes;
};

struct virtio_net {
    struct virtio_device device; /* first: the class's callbacks get it */
    struct net_nic nic;          /* of the loop's thread */
    unsigned pairs_max, pairs;   /* queue pairs: there, in use */
    uint8_t mac_default[NET_MAC_BYTES];
    struct net_filter filter;
    bool path_stale;   /* the driver has changed: the path is to be told by the loop's thread */
    uint64_t offloads; /* VIRTIO_NET_F_GUEST_* in force */
    bool starved[VIRTIO_NET_PAIRS_MAX]; /* a packet has found no buffer */
    struct net_waiting waiting[VIRTIO_NET_PAIRS_MAX];
};

#define NET_GUEST_OFFLOADS                                                                                                             \
    (VIRTIO_NET_F_GUEST_CSUM | VIRTIO_NET_F_GUEST_TSO4 | VIRTIO_NET_F_GUEST_TSO6 | VIRTIO_NET_F_GUEST_ECN | VIRTIO_NET_F_GUEST_UFO)

/* ---- net.c ---- */

static inline struct net_config *net_config_of(struct virtio_net *net)
{
    return (struct net_config *)(void *)net->device.config;
}

/* ---- net_control.c ---- */

/* The filter of a device after power on: nothing but its own address, and all networks. */
void net_filter_reset(struct virtio_net *net);
/* Takes commands from the control queue. On the loop's thread, with the lock. */
void net_take_controls(struct virtio_net *net, struct virtqueue *queue);
/* Is a frame that begins with these bytes for the guest? `bytes`: at least an Ethernet header. */
bool net_wanted(struct virtio_net *net, const uint8_t *frame, size_t bytes);
json_t *net_rx_filter(void *self);

#endif
