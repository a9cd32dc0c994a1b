/* SPDX-License-Identifier: MIT */
/*
 * A disk, as whoever uses one sees it: a device, or `kage img bench`. Requests are asynchronous: block_submit() takes them from any
 * thread, and each one ends in exactly one call of its `done`, on the thread of the loop that the disk is attached to. Completions come in
 * any order. Nothing below this header knows of a device, and nothing above it of an image format.
 *
 * Format code works on nodes (block/node.h), synchronously; this front end keeps requests that touch the same bytes apart,
 * hands plain data to the kernel by io_uring, and everything else to a worker thread.
 */
#ifndef KAGE_BLOCK_BLOCK_H
#define KAGE_BLOCK_BLOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "util/error.h"
#include "util/loop.h"

struct block;

/* ---- Opening ---- */

enum block_aio {
    BLOCK_AIO_AUTO, /* io_uring where the kernel lets us, else threads */
    BLOCK_AIO_IO_URING,
    BLOCK_AIO_THREADS,
};

struct block_limit {
    uint64_t rate;    /* per second; 0: none */
    uint64_t burst;   /* the rate in a burst; 0: one of a tenth of a second's worth, at once */
    uint64_t burst_s; /* how long the burst's rate may be held, when nothing was before; 0: 1 s */
};

struct block_throttle {
    struct block_limit bps_total, bps_read, bps_write, iops_total, iops_read, iops_write;
    uint64_t iops_size; /* a longer request counts as several; 0: as one */
};

/* All zeros but `filename` and `format` is a sound default: writable, cache=writeback, locked. Strings are not kept. */
struct block_config {
    const char *filename;
    const char *format; /* "raw", "qcow2"; NULL: guessed, and only of an image that is opened read-only */
    bool read_only;
    bool cache_direct;       /* O_DIRECT */
    bool cache_writethrough; /* each write is flushed before it is done */
    bool cache_no_flush;     /* flushes do nothing (cache=unsafe) */
    bool force_share;        /* no lock (-U); only with read_only */
    bool no_backing;         /* the top image alone */
    bool discard_ignore;     /* discard=ignore: a discard succeeds and does nothing */
    bool detect_zeroes;      /* detect-zeroes=unmap: a write of zeroes becomes BLOCK_WRITE_ZEROES */
    unsigned nbd_reconnect_delay_s; /* how long requests wait for a server that was lost */
    unsigned nbd_open_timeout_s, nbd_request_timeout_s; /* 0: 30 s, 60 s */
    enum block_aio aio;
    struct block_throttle throttle;
    struct block *throttle_with; /* limits, and what is used of them, are shared with this disk; `throttle` is its. NULL: a group of one */
};

/* cache=NAME of -drive and of qemu-img's -t: none, writeback, writethrough, directsync, unsafe. 0, or -1: no such mode. */
int block_config_cache(struct block_config *config, const char *name);

/* NULL with `error` filled. */
struct block *block_open(const struct block_config *config, struct error *error);
/* Waits for requests under way, writes metadata down. Their callbacks run before it returns. To be called on the loop's thread. */
void block_close(struct block *block);

/* Completions go to this loop from now on; NULL: to nobody, block_poll() is called instead. Not with requests under way. 0 or -errno. */
int block_attach(struct block *block, struct loop *loop);

/* ---- What it is ---- */

uint64_t block_bytes(const struct block *block); /* of the disk as the guest sees it; may change by block_resize() */
bool block_read_only(const struct block *block);
/* Buffers, offsets and lengths that are multiples of this are served without a copy (1 unless O_DIRECT). Others work too. */
uint32_t block_alignment(const struct block *block);
/* The grain in which discards free space: the cluster of an image. */
uint32_t block_discard_bytes(const struct block *block);
const char *block_filename(const struct block *block);
const char *block_format(const struct block *block);
const char *block_aio_name(const struct block *block); /* "io_uring" or "threads": which is in use */

/* Called on the loop's thread when the size has changed. */
void block_on_resize(struct block *block, void (*resized)(void *opaque), void *opaque);
/* Called on the loop's thread behind each run of `done` callbacks: what is told to a guest for all of them at once. */
void block_on_completed(struct block *block, void (*completed)(void *opaque), void *opaque);

/* Sizes are multiples of 512. 0 or -errno, with `error` filled. Waits for requests under way. */
int block_resize(struct block *block, uint64_t bytes, struct error *error);

/* ---- Requests ---- */

enum block_op {
    BLOCK_READ,
    BLOCK_WRITE,
    BLOCK_WRITE_ZEROES,
    BLOCK_DISCARD, /* reads as anything afterwards; here, as zeroes or as before */
    BLOCK_FLUSH,   /* all that was done before the submission is durable when it is done */
};

#define BLOCK_FUA 1u   /* write, write zeroes: durable when it is done */
#define BLOCK_UNMAP 2u /* write zeroes: may give the space back */

/* In the caller's storage until `done`. The iovec array and its buffers too. */
struct block_request {
    enum block_op op;
    unsigned flags;
    uint64_t offset; /* any; multiples of 512 are fast */
    uint64_t bytes;  /* read, write: the sum of the iovec's lengths */
    const struct iovec *iov;
    unsigned iov_count; /* any number */
    /* 0 or -errno: -EINVAL outside the disk, -EROFS, -ENOSPC, -EIO, … The storage may be reused from here. */
    void (*done)(struct block_request *request, int result);
    void *opaque;

    /* Ours. */
    struct block_request *next;
    struct block_request *active_next, **active_link;
    struct block *block;
    uint64_t range_first, range_end;
    int result;
    unsigned parts;
    bool exclusive;
};

void block_submit(struct block *block, struct block_request *request);
/* Around a run of submissions by one thread: the kernel is told of them once, at the end. May be nested. */
void block_plug(struct block *block);
void block_unplug(struct block *block);

/* Waits until nothing is under way; runs callbacks. On the loop's thread. */
void block_drain(struct block *block);

/* Without a loop: runs callbacks of what is done; `wait`: waits for at least one if any is under way. Returns how many ran. */
unsigned block_poll(struct block *block, bool wait);

/* One request, waited for; for users that have nothing else to do. Not with a loop that others run. */
int block_read(struct block *block, uint64_t offset, void *buffer, size_t bytes);
int block_write(struct block *block, uint64_t offset, const void *buffer, size_t bytes, unsigned flags);
int block_flush(struct block *block);

/* ---- Snapshots inside the image, and others that see the node: block/node.h ---- */

struct block_node;
/* The top node. Nodes are synchronous: only with nothing under way (block_drain). */
struct block_node *block_root(struct block *block);

#endif
