/* SPDX-License-Identifier: MIT */
/*
 * The network device (virtio 1.2, 5.1), in front of a netdev of net/net.h.
 */
#ifndef KAGE_VIRTIO_NET_H
#define KAGE_VIRTIO_NET_H

#include "net/net.h"
#include "virtio/virtio.h"

#define VIRTIO_NET_PAIRS_MAX NET_QUEUES_MAX

/* Feature bits (5.1.3) */
#define VIRTIO_NET_F_CSUM VIRTIO_F(0)
#define VIRTIO_NET_F_GUEST_CSUM VIRTIO_F(1)
#define VIRTIO_NET_F_CTRL_GUEST_OFFLOADS VIRTIO_F(2)
#define VIRTIO_NET_F_MTU VIRTIO_F(3)
#define VIRTIO_NET_F_MAC VIRTIO_F(5)
#define VIRTIO_NET_F_GSO VIRTIO_F(6) /* legacy */
#define VIRTIO_NET_F_GUEST_TSO4 VIRTIO_F(7)
#define VIRTIO_NET_F_GUEST_TSO6 VIRTIO_F(8)
#define VIRTIO_NET_F_GUEST_ECN VIRTIO_F(9)
#define VIRTIO_NET_F_GUEST_UFO VIRTIO_F(10)
#define VIRTIO_NET_F_HOST_TSO4 VIRTIO_F(11)
#define VIRTIO_NET_F_HOST_TSO6 VIRTIO_F(12)
#define VIRTIO_NET_F_HOST_ECN VIRTIO_F(13)
#define VIRTIO_NET_F_HOST_UFO VIRTIO_F(14)
#define VIRTIO_NET_F_MRG_RXBUF VIRTIO_F(15)
#define VIRTIO_NET_F_STATUS VIRTIO_F(16)
#define VIRTIO_NET_F_CTRL_VQ VIRTIO_F(17)
#define VIRTIO_NET_F_CTRL_RX VIRTIO_F(18)
#define VIRTIO_NET_F_CTRL_VLAN VIRTIO_F(19)
#define VIRTIO_NET_F_CTRL_RX_EXTRA VIRTIO_F(20)
#define VIRTIO_NET_F_GUEST_ANNOUNCE VIRTIO_F(21)
#define VIRTIO_NET_F_MQ VIRTIO_F(22)
#define VIRTIO_NET_F_CTRL_MAC_ADDR VIRTIO_F(23)
#define VIRTIO_NET_F_SPEED_DUPLEX VIRTIO_F(63)

struct virtio_net_config_options {
    struct virtio_options virtio;
    uint64_t features; /* VIRTIO_NET_F_* that a user leaves on; MTU, MAC, SPEED_DUPLEX and MQ follow from the rest */
    char name[NET_NAME_MAX];
    uint8_t mac[NET_MAC_BYTES];
    struct netdev *netdev; /* NULL: no cable */
    bool mq;               /* as many queue pairs as the netdev has */
    uint16_t rx_queue_size, tx_queue_size;
    uint16_t mtu;   /* 0: not said */
    uint32_t speed; /* Mbit/s; UINT32_MAX: not said */
    uint8_t duplex; /* 0 half, 1 full, 0xff not said */
};

struct virtio_net;

/* On the thread of the netdev's loop, which outlives the device. NULL with `error` filled. */
struct virtio_net *virtio_net_new(const struct virtio_net_config_options *config, struct loop *loop, const struct dma *dma, struct error *error);
void virtio_net_free(struct virtio_net *net);
struct virtio_device *virtio_net_device(struct virtio_net *net);

#endif
