/* SPDX-License-Identifier: MIT */
/*
 * Inside of the character backends: the state that chardev.c moves bytes with and kinds.c fills in.
 */
#ifndef KAGE_CHARDEV_INTERNAL_H
#define KAGE_CHARDEV_INTERNAL_H

#include <pthread.h>

#include "chardev/chardev.h"

#define CHARDEV_RING_BYTES 65536u /* a power of two */

struct chardev_ring {
    uint32_t put; /* counts up for ever; put - get bytes wait */
    uint32_t get;
    uint8_t bytes[CHARDEV_RING_BYTES];
};

struct chardev_kind {
    const char *spec; /* ends in ':' where an argument follows */
    const char *help;
    int (*open)(struct chardev *chardev, const char *argument, struct error *error);
    bool terminal; /* uses stdin and stdout */
};

struct chardev {
    const struct chardev_kind *kind;
    const char *option; /* that asked for it, for what people are told */
    struct loop *loop;
    struct loop_source in;     /* fd -1: nothing to read from */
    struct loop_source out;    /* a descriptor of its own, also where it is the same file as `in`; -1: nothing to write to */
    struct loop_source timer;  /* a timerfd: time to move bytes */
    struct loop_source listen; /* a listening unix socket, or -1 */
    char unlink_path[108];     /* of the listening socket, "" if none */
    bool in_regular;           /* `in` cannot be waited on: read when the ring is empty */
    bool out_waits;            /* `out` is in the loop, waiting for EPOLLOUT */
    bool is_pty;

    chardev_filter_fn *filter;
    void *filter_opaque;
    chardev_notify_fn *notify;
    void *notify_opaque;
    chardev_open_fn *opened;
    void *opened_opaque;
    bool announced;  /* that it is open */
    bool is_socket;  /* a unix socket: descriptors may come with the bytes */
    int received_fd; /* the last one that did; -1: none */

    pthread_mutex_t lock; /* of what follows; innermost */
    bool connected;       /* else what is written is dropped */
    bool timer_armed;
    bool tx_blocked; /* a write found no room */
    bool rx_stopped; /* `in` is not watched: the ring is full */
    struct chardev_ring tx;
    struct chardev_ring rx;
};

extern const struct chardev_kind chardev_kinds[];
extern const unsigned chardev_kind_count;

/* Starts to serve `in` and `out`, which the caller has set. 0 or -errno. */
int chardev_start(struct chardev *chardev);
/* Takes `in` and `out` out of service and closes them. */
void chardev_stop(struct chardev *chardev);

#endif
