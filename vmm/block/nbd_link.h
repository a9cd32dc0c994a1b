/* SPDX-License-Identifier: MIT */
/*
 * A connection to an NBD server, by libnbd's asynchronous calls. One thread owns it: it polls the socket, sends what is submitted, and brings the
 * connection back when it is lost. Commands are submitted from any thread, and each ends in exactly one call of its `done`, on that thread.
 *
 * The server is hostile: whatever it says or does not say, a command ends within a bounded time.
 */
#ifndef KAGE_BLOCK_NBD_LINK_H
#define KAGE_BLOCK_NBD_LINK_H

#include <stdbool.h>
#include <stdint.h>

#include "util/error.h"

struct nbd_link;

struct nbd_link_config {
    const char *uri; /* not kept */
    bool read_only;
    /* After a loss, so long commands wait for the server to come back; then, until it does, they fail at once. 0: they fail at once. */
    unsigned reconnect_delay_s;
    unsigned open_timeout_s;    /* for the connection and the handshake */
    unsigned request_timeout_s; /* a server that answers nothing for so long is lost */
};

/* What the server said of the export. Does not change while the link lives: a server that comes back with less is refused. */
struct nbd_export {
    uint64_t bytes;
    uint32_t block_bytes; /* a power of two: what offsets and lengths must be multiples of */
    uint32_t max_bytes;   /* of one read or write */
    bool can_flush, can_fua, can_trim, can_zero, can_extents;
};

enum nbd_op { NBD_READ, NBD_WRITE, NBD_ZERO, NBD_TRIM, NBD_FLUSH, NBD_EXTENT };

/* In the caller's storage until `done`. */
struct nbd_command {
    enum nbd_op op;
    bool fua;     /* write, zero: durable when it is done; only where the export can */
    bool no_hole; /* zero: no space is given back */
    uint64_t offset, bytes;
    void *buffer;
    /* NBD_EXTENT: how the bytes from `offset` are. */
    uint64_t extent_bytes;
    bool extent_hole, extent_zero;
    void (*done)(struct nbd_command *command, int result); /* 0 or -errno */
    void *opaque;

    /* Ours. */
    struct nbd_link *link;
    struct nbd_command *next, **previous;
    uint64_t sent_ns;
    int result;
};

/* Connects. NULL with `error` filled. */
struct nbd_link *nbd_link_open(const struct nbd_link_config *config, struct error *error);
const struct nbd_export *nbd_link_export(const struct nbd_link *link);
void nbd_link_submit(struct nbd_link *link, struct nbd_command *command);
/* The end is near: what the server does not answer soon is given up, and no lost connection is waited for. */
void nbd_link_hurry(struct nbd_link *link);
/* Nothing may be under way. */
void nbd_link_close(struct nbd_link *link);

#endif
