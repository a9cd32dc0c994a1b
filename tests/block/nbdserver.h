/* SPDX-License-Identifier: MIT */
/*
 * An NBD server for tests, in a thread and over a Unix socket, with a disk in memory: it can lack what servers may lack, fail, fall silent, hang up
 * and come back, and lie. After the NBD protocol's doc/proto.md.
 */
#ifndef KAGE_TESTS_BLOCK_NBDSERVER_H
#define KAGE_TESTS_BLOCK_NBDSERVER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum nbdserver_fault {
    NBDSERVER_SOUND,
    NBDSERVER_MUTE,     /* accepts, and says nothing at all */
    NBDSERVER_SILENT,   /* answers `after` requests, then none */
    NBDSERVER_HANG_UP,  /* hangs up after each `after` requests */
    NBDSERVER_GO_AWAY,  /* the same with ESHUTDOWN */
    NBDSERVER_FAIL,     /* each `after`-th request fails with `error` (NBD_E*) */
    NBDSERVER_LIE,      /* what it sends is changed here and there, cut, repeated */
    NBDSERVER_NOISE,    /* sends random bytes after `after` requests */
    NBDSERVER_EXTENTS,  /* block status makes no sense */
};

struct nbdserver {
    /* Set before the start; `fault` and its numbers, and `bytes`, may change between connections. */
    uint64_t bytes, claimed_bytes; /* claimed: 0: the same */
    uint32_t block_bytes, max_bytes; /* 0: not said */
    bool no_structured, no_extents, no_fua, no_flush, no_trim, no_zeroes, read_only;
    atomic_uint fault, after, error;
    uint64_t random;

    char path[64];
    uint8_t *data;
    atomic_uint connections, requests, fuas, flushes, trims, zeroes;

    int listen_fd, fd;
    atomic_bool stop;
    pthread_t thread;
    bool structured, extents;
    unsigned count; /* requests of this connection */
};

void nbdserver_start(struct nbdserver *server);
void nbdserver_stop(struct nbdserver *server);

#endif
