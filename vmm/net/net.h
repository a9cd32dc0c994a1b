/* SPDX-License-Identifier: MIT */
/*
 * The packet path between a NIC and a network back end (a netdev). Either end gives the other packets as iovecs, with a struct net_header
 * beside them that says what is left to be done: a partial checksum, segments. An end says which of that it takes.
 * Not there yet: back ends, and the part that finishes what the other end does not take; until then a back end has to take all.
 *
 *   guest -> NIC -> net_nic_send() -> netdev_ops.send()
 *   guest <- NIC <- net_nic_ops.receive() <- netdev_deliver() <- back end
 *
 * Everything here runs on the thread of the netdev's loop, but for what says otherwise. An end without room gives false; the sender keeps the
 * packet, stops, and gives it again when it is told that there is room. A packet that cannot be sent at all is taken and dropped.
 *
 * Laws: send() may call the NIC's receive() before it returns (a back end that answers at once), so a NIC calls net_nic_send() without the lock
 * that its receive() takes. receive() does not call net_nic_send(). room() callbacks may call send and deliver. Bytes of a packet are valid until the
 * call returns, and may be changed by the guest meanwhile: what is decided by them is copied first.
 */
#ifndef KAGE_NET_NET_H
#define KAGE_NET_NET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include <jansson.h>

#include "util/error.h"
#include "util/loop.h"

#define NET_QUEUES_MAX 16u /* queue pairs of a netdev */
#define NET_MAC_BYTES 6u
#define NET_NAME_MAX 256u
#define NET_PACKET_MAX (65536u + 64u) /* a frame with all its headers, without a struct net_header */

/* What an end takes from the other (bits). */
#define NET_OFFLOAD_CSUM 0x01u /* NET_HEADER_NEEDS_CSUM, NET_HEADER_DATA_VALID */
#define NET_OFFLOAD_TSO4 0x02u
#define NET_OFFLOAD_TSO6 0x04u
#define NET_OFFLOAD_ECN 0x08u
#define NET_OFFLOAD_UFO 0x10u

/* What is left to be done with a packet: struct virtio_net_hdr of virtio 1.2, 5.1.6, which <linux/virtio_net.h> has for tap and packet sockets too. */
struct net_header {
    uint8_t flags;    /* NET_HEADER_* */
    uint8_t gso_type; /* NET_GSO_* */
    uint16_t hdr_len, gso_size, csum_start, csum_offset;
};
_Static_assert(sizeof(struct net_header) == 10, "virtio 1.2, 5.1.6");
#define NET_HEADER_NEEDS_CSUM 1u
#define NET_HEADER_DATA_VALID 2u
enum { NET_GSO_NONE = 0, NET_GSO_TCPV4 = 1, NET_GSO_UDP = 3, NET_GSO_TCPV6 = 4, NET_GSO_ECN = 0x80 };

/* An Ethernet frame without FCS. */
struct net_packet {
    struct net_header header;
    const struct iovec *iov;
    unsigned iov_count;
    size_t bytes;
};

struct net_nic;
struct netdev;

/* ---- For NICs ---- */

struct net_nic_ops {
    /* A packet for the guest. False: no room (the NIC calls net_nic_room() when there is). True: taken, or dropped. */
    bool (*receive)(void *self, unsigned queue, const struct net_packet *packet);
    /* Would receive() of a full-sized packet find room now? */
    bool (*can_receive)(void *self, unsigned queue);
    /* The netdev takes packets of this queue again, after net_nic_send() gave false. */
    void (*room)(void *self, unsigned queue);
    /* net_nic_link() has changed. */
    void (*link_changed)(void *self, bool up);
    /* announce-self: has the guest been asked to? NULL: it cannot be. */
    bool (*announce)(void *self);
    /* query-rx-filter: a new object, without "name". NULL: it has none. */
    json_t *(*rx_filter)(void *self);
};

/* In its owner's storage. */
struct net_nic {
    const struct net_nic_ops *ops;
    void *self;
    char name[NET_NAME_MAX]; /* the device's id, or MODEL.N */
    char model[32];
    uint8_t mac[NET_MAC_BYTES]; /* as the guest set it */
    unsigned offloads;    /* NET_OFFLOAD_*: that the guest takes now; 0 to begin with */
    /* The path's. */
    struct netdev *netdev; /* NULL: none, what is sent is lost */
    bool link_down;        /* set_link by its own name */
    struct net_nic *next;
};

/*
 * `nic`: ops, self, name, model and mac are filled in. `netdev` may be NULL. It gets packets from now on. 0, or -1 with `error` filled: it has a
 * NIC already.
 */
int net_nic_attach(struct net_nic *nic, struct netdev *netdev, struct error *error) __attribute__((warn_unused_result));
/* No callback after that; the netdev drops what comes, until another NIC is attached. */
void net_nic_detach(struct net_nic *nic);
/* Packet of the guest's. False: no room; ops->room() will be called. True: taken, or dropped. */
bool net_nic_send(struct net_nic *nic, unsigned queue, const struct net_packet *packet);
/* The guest has given buffers after receive() gave false. */
void net_nic_room(struct net_nic *nic, unsigned queue);
/* What the guest takes from now on. */
void net_nic_set_offloads(struct net_nic *nic, unsigned offloads);
/* Queue pairs that the guest uses, from 0 on; 1 to begin with. */
void net_nic_set_queues(struct net_nic *nic, unsigned queues);
/* Is there a link: both names' set_link, and a netdev. */
bool net_nic_link(const struct net_nic *nic);
/* Queue pairs of a netdev; 1 of NULL. */
unsigned netdev_queues(const struct netdev *netdev);
/* 52:54:00:12:34:56 and up: the next default address. It is unique among those given and those noted. */
void net_mac_default(uint8_t mac[NET_MAC_BYTES]);
/* The text, with its NUL, of an address. */
void net_mac_format(const uint8_t mac[NET_MAC_BYTES], char text[18]);
/* "52:54:00:12:34:56" (or with '-'). 0 or -1. */
int net_mac_parse(const char *text, uint8_t mac[NET_MAC_BYTES]);

/* ---- For back ends ---- */

struct netdev_ops {
    const char *type; /* as -netdev names it */
    /* A packet for the network; it asks for no more than `offloads`. False: no room; netdev_room() will say when there is. True: taken, or dropped. */
    bool (*send)(struct netdev *netdev, unsigned queue, const struct net_packet *packet);
    /* The NIC takes packets of this queue again, after netdev_deliver() gave false; or a NIC has been attached. NULL: it never waits. */
    void (*room)(struct netdev *netdev, unsigned queue);
    /* NET_OFFLOAD_*: what the NIC takes has changed. NULL: nothing to do. */
    void (*set_offloads)(struct netdev *netdev, unsigned offloads);
    /* Queue pairs that are in use. NULL: nothing to do. */
    void (*set_queues)(struct netdev *netdev, unsigned queues);
    void (*free)(struct netdev *netdev); /* without a NIC; frees `netdev` */
};

/* First in a back end's own struct; all zeroes but for what is said. */
struct netdev {
    const struct netdev_ops *ops;
    char id[NET_NAME_MAX];
    unsigned queues;   /* 1 to NET_QUEUES_MAX */
    unsigned offloads; /* NET_OFFLOAD_*: that send() takes */
    /* The path's. */
    struct net_nic *nic;
    bool link_down;
    struct netdev *next;
};

/* Known by its id from now on. */
void netdev_register(struct netdev *netdev);
/* ops->free(), after its NIC is left without a cable. NULL: nothing. */
void netdev_free(struct netdev *netdev);
struct netdev *netdev_find(const char *id);
/* A packet of the network's for the NIC. False: no room; ops->room() will be called. True: taken, or dropped (there is none, its link is down). */
bool netdev_deliver(struct netdev *netdev, unsigned queue, const struct net_packet *packet);
/* send() takes packets of this queue again. */
void netdev_room(struct netdev *netdev, unsigned queue);

/* ---- For monitors ---- */

/* Of the NIC or the netdev of that name. 0, or -1: there is none. */
int net_set_link(const char *name, bool up);
/* All NICs, by `next`. */
struct net_nic *net_nics(void);

#endif
