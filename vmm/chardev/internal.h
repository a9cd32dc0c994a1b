/* SPDX-License-Identifier: MIT */
/*
 * Inside of the character backends: the state that chardev.c moves bytes with, and kinds.c and socket.c fill in.
 */
#ifndef KAGE_CHARDEV_INTERNAL_H
#define KAGE_CHARDEV_INTERNAL_H

#include <pthread.h>

#include "chardev/chardev.h"

#define CHARDEV_RING_BYTES 65536u /* a power of two */
#define CHARDEV_FRONTS_MAX 4u
#define CHARDEV_FILENAME_MAX (CHARDEV_PATH_MAX + 64u)

struct chardev_ring {
    uint32_t put; /* counts up for ever; put - get bytes wait */
    uint32_t get;
    uint8_t bytes[CHARDEV_RING_BYTES];
};

/* Which properties a kind takes (config.c). */
enum chardev_takes {
    TAKES_PATH = 1 << 0,   /* must be there */
    TAKES_INPUT = 1 << 1,  /* input-path, append */
    TAKES_SIGNAL = 1 << 2,
    TAKES_SOCKET = 1 << 3,
    TAKES_UDP = 1 << 4,
    TAKES_SIZE = 1 << 5,
};

struct chardev_kind {
    const char *name;  /* QEMU's */
    unsigned takes;
    int (*open)(struct chardev *chardev, struct error *error);
};

/* A telnet connection (RFC 854): commands of the other end are taken out of what it sends. */
enum telnet_state { TELNET_OFF, TELNET_DATA, TELNET_IAC, TELNET_OPTION, TELNET_SUB, TELNET_SUB_IAC };

struct chardev {
    struct chardev_config config;
    char filename[CHARDEV_FILENAME_MAX];
    struct loop *loop;
    struct loop_source in;     /* fd -1: nothing to read from */
    struct loop_source out;    /* a descriptor of its own, also where it is the same file as `in`; -1: nothing to write to */
    struct loop_source timer;  /* a timerfd: time to move bytes */
    struct loop_source listen; /* a listening socket, or -1 */
    struct loop_source retry;  /* a timerfd: time to connect again; -1: never */
    struct loop_source connecting; /* a socket that is; -1: none */
    char unlink_path[108];     /* of the listening socket, "" if none */
    bool in_regular;           /* `in` cannot be waited on: read when the ring is empty */
    bool out_waits;            /* `out` is in the loop, waiting for EPOLLOUT */
    bool is_pty;
    bool is_datagram; /* reads of nothing are no end */
    bool is_socket;   /* a unix socket: descriptors may come with the bytes */
    int received_fd;  /* the last one that did; -1: none */
    enum telnet_state telnet; /* of what comes; the loop's thread */
    int log_fd;               /* -1: none */

    chardev_filter_fn *filter;
    void *filter_opaque;
    chardev_notify_fn *notify;
    void *notify_opaque;
    chardev_open_fn *opened;
    void *opened_opaque;
    chardev_focus_fn *focused;
    void *focused_opaque;
    bool announced; /* that it is open */
    bool claimed;

    struct chardev *base; /* of a mux's front end: the mux; only `rx` and the callbacks are its own */
    struct chardev *fronts[CHARDEV_FRONTS_MAX];
    unsigned front_count, focus;

    pthread_mutex_t lock; /* of what follows; innermost, a front end's before its base's */
    bool connected;       /* else what is written is dropped */
    bool timer_armed;
    bool tx_blocked; /* a write found no room */
    bool rx_stopped; /* `in` is not watched: the ring is full */
    bool doubles_iac; /* telnet: a byte of 255 goes twice */
    struct chardev_ring tx;
    struct chardev_ring rx;
    uint8_t *ringbuf; /* config.size bytes; NULL: it is none. Written and read through put and get of `rx` */
    uint64_t ringbuf_put, ringbuf_get;
};

extern const struct chardev_kind chardev_kinds[];
extern const unsigned chardev_kind_count;

/* Starts to serve `in` and `out`, which the caller has set. 0 or -errno. */
int chardev_start(struct chardev *chardev);
/* Takes `in` and `out` out of service and closes them. */
void chardev_stop(struct chardev *chardev);
/* Says so once to the front ends. */
void chardev_tell_open(struct chardev *chardev, bool open);

/* socket.c */
int chardev_open_socket(struct chardev *chardev, struct error *error);
int chardev_open_udp(struct chardev *chardev, struct error *error);
/* The connection is over: listen, or connect again some time. */
void chardev_socket_gone(struct chardev *chardev);
void chardev_socket_fini(struct chardev *chardev);
/* Takes telnet's commands out; `count` of the bytes stay, in place. */
void chardev_telnet_filter(struct chardev *chardev, uint8_t *bytes, size_t *count);

/* The front end that gets what is typed, or the backend itself. */
struct chardev *chardev_reader(struct chardev *chardev);
/* Room for what is read, in all that may get it. */
size_t chardev_read_room(struct chardev *chardev);
void chardev_push(struct chardev *reader, uint8_t byte);

#endif
