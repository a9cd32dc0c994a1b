/* SPDX-License-Identifier: MIT */
/*
 * Reads and writes of plain bytes of a host's file, many at a time: by io_uring, or, where that is forbidden (containers often do), by
 * threads; or by a protocol of its own (NBD). What has ended is taken by aio_reap(); an eventfd says that there is something.
 */
#ifndef KAGE_BLOCK_AIO_H
#define KAGE_BLOCK_AIO_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

struct aio;

enum aio_op { AIO_READ, AIO_WRITE };

struct aio_io {
    enum aio_op op;
    bool dsync; /* a write that is durable when it is done */
    int fd;
    uint64_t offset;
    const struct iovec *iov;
    unsigned iov_count;                         /* at most 1024 */
    void (*done)(struct aio_io *io, int result); /* bytes moved, or -errno; a read at the end of the file, and any write, may be short */
    struct aio *aio; /* for aio_end() */
    struct aio_io *next;
    int result;
};

/* `event_fd` is written to when there is something to reap. 0 or -errno: io_uring is forbidden. */
int aio_new(struct aio **aio, bool use_io_uring, int event_fd);
/* Nothing may be under way. */
void aio_free(struct aio *aio);
bool aio_is_io_uring(const struct aio *aio);

/* From any thread. The kernel may see it only at the next aio_kick(). */
void aio_submit(struct aio *aio, struct aio_io *io);
void aio_kick(struct aio *aio);
/* For a protocol that does the I/O itself: it has ended. From any thread; `done` is called by the next aio_reap(). */
void aio_end(struct aio_io *io, int result);
/* Calls `done` of all that has ended. One thread at a time. */
void aio_reap(struct aio *aio);

#endif
