/* SPDX-License-Identifier: MIT */
/*
 * Asynchronous I/O in two ways behind one face. The submission queue of the ring has a lock, since any thread may submit; what finds the ring
 * full waits in a list for the next reaping. The threads start with the first work.
 */
#include "block/aio.h"

#include <errno.h>
#include <liburing.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util/thread.h"

#define AIO_RING_ENTRIES 256u
#define AIO_THREADS 4u

struct aio {
    bool uring;
    int event_fd;
    pthread_mutex_t lock; /* the ring's submission side, or the lists */
    struct io_uring ring;
    unsigned ring_used;                  /* submitted, not reaped */
    unsigned unsubmitted;
    struct aio_io *first, **last;        /* waits for the ring, or for a thread */
    struct aio_io *ended, **ended_last;  /* threads, and aio_end(): to be reaped */
    pthread_cond_t work;
    pthread_t threads[AIO_THREADS];
    unsigned thread_count, thread_idle;
    bool stop;
};

static void aio_append(struct aio_io ***last, struct aio_io *io)
{
    io->next = NULL;
    **last = io;
    *last = &io->next;
}

static struct aio_io *aio_take(struct aio_io **first, struct aio_io ***last)
{
    struct aio_io *io = *first;
    *first = io->next;
    if (*first == NULL) {
        *last = first;
    }
    return io;
}

/* With the lock held. */
static void aio_put_ended(struct aio *aio, struct aio_io *io)
{
    uint64_t one = 1;
    bool was_empty = aio->ended == NULL;
    aio_append(&aio->ended_last, io);
    if (was_empty && write(aio->event_fd, &one, sizeof(one)) < 0) {
        /* a full eventfd is a pending wake-up already */
    }
}

void aio_end(struct aio_io *io, int result)
{
    struct aio *aio = io->aio;
    pthread_mutex_lock(&aio->lock);
    io->result = result;
    aio_put_ended(aio, io);
    pthread_mutex_unlock(&aio->lock);
}

static void aio_reap_ended(struct aio *aio)
{
    pthread_mutex_lock(&aio->lock);
    struct aio_io *list = aio->ended;
    aio->ended = NULL;
    aio->ended_last = &aio->ended;
    pthread_mutex_unlock(&aio->lock);
    while (list != NULL) {
        struct aio_io *io = list;
        list = io->next;
        io->done(io, io->result);
    }
}

/* ---- Threads ---- */

static int aio_perform(struct aio_io *io)
{
    ssize_t moved;
    do {
        moved = io->op == AIO_READ
                    ? preadv2(io->fd, io->iov, (int)io->iov_count, (off_t)io->offset, 0)
                    : pwritev2(io->fd, io->iov, (int)io->iov_count, (off_t)io->offset, io->dsync ? RWF_DSYNC : 0);
    } while (moved < 0 && errno == EINTR);
    return moved < 0 ? -errno : (int)moved;
}

static void *aio_thread(void *opaque)
{
    struct aio *aio = opaque;
    pthread_mutex_lock(&aio->lock);
    for (;;) {
        while (aio->first == NULL && !aio->stop) {
            aio->thread_idle++;
            pthread_cond_wait(&aio->work, &aio->lock);
            aio->thread_idle--;
        }
        if (aio->first == NULL) {
            break;
        }
        struct aio_io *io = aio_take(&aio->first, &aio->last);
        pthread_mutex_unlock(&aio->lock);
        io->result = aio_perform(io);
        pthread_mutex_lock(&aio->lock);
        aio_put_ended(aio, io);
    }
    pthread_mutex_unlock(&aio->lock);
    return NULL;
}

static void aio_submit_thread(struct aio *aio, struct aio_io *io)
{
    pthread_mutex_lock(&aio->lock);
    aio_append(&aio->last, io);
    if (aio->thread_idle == 0 && aio->thread_count < AIO_THREADS &&
        thread_start(&aio->threads[aio->thread_count], aio_thread, aio) == 0) {
        aio->thread_count++;
    }
    bool served = aio->thread_count > 0;
    if (!served) { /* no thread can be had: here and now */
        aio_take(&aio->first, &aio->last);
    }
    pthread_cond_signal(&aio->work);
    pthread_mutex_unlock(&aio->lock);
    if (!served) {
        io->aio = aio;
        aio_end(io, aio_perform(io));
    }
}

/* ---- io_uring ---- */

/* With the lock held. False: the ring is full. */
static bool aio_queue(struct aio *aio, struct aio_io *io)
{
    if (aio->ring_used >= AIO_RING_ENTRIES) {
        return false;
    }
    struct io_uring_sqe *sqe = io_uring_get_sqe(&aio->ring);
    if (sqe == NULL) {
        return false;
    }
    if (io->op == AIO_READ) {
        io_uring_prep_readv(sqe, io->fd, io->iov, io->iov_count, io->offset);
    } else {
        io_uring_prep_writev2(sqe, io->fd, io->iov, io->iov_count, io->offset, io->dsync ? RWF_DSYNC : 0);
    }
    io_uring_sqe_set_data(sqe, io);
    aio->ring_used++;
    aio->unsubmitted++;
    return true;
}

static void aio_submit_ring(struct aio *aio, struct aio_io *io)
{
    pthread_mutex_lock(&aio->lock);
    if (aio->first != NULL || !aio_queue(aio, io)) {
        aio_append(&aio->last, io);
    }
    pthread_mutex_unlock(&aio->lock);
}

static void aio_kick_ring(struct aio *aio)
{
    pthread_mutex_lock(&aio->lock);
    while (aio->unsubmitted > 0) {
        int count = io_uring_submit(&aio->ring);
        if (count > 0) {
            aio->unsubmitted -= (unsigned)count < aio->unsubmitted ? (unsigned)count : aio->unsubmitted;
        } else if (count != -EINTR && count != -EAGAIN && count != -EBUSY) {
            break; /* the next kick tries again */
        }
    }
    pthread_mutex_unlock(&aio->lock);
}

static void aio_reap_ring(struct aio *aio)
{
    struct io_uring_cqe *cqe;
    unsigned reaped = 0;
    while (io_uring_peek_cqe(&aio->ring, &cqe) == 0) {
        struct aio_io *io = io_uring_cqe_get_data(cqe);
        int result = cqe->res;
        io_uring_cqe_seen(&aio->ring, cqe);
        pthread_mutex_lock(&aio->lock);
        aio->ring_used--;
        while (aio->first != NULL && aio_queue(aio, aio->first)) {
            aio_take(&aio->first, &aio->last);
        }
        /* The kernel gives up where it may not wait: once more, from the start. */
        bool again = result == -EAGAIN || result == -EINTR;
        if (again && !aio_queue(aio, io)) {
            aio_append(&aio->last, io);
        }
        pthread_mutex_unlock(&aio->lock);
        if (!again) {
            io->done(io, result);
        }
        reaped++;
    }
    if (reaped > 0) {
        aio_kick_ring(aio);
    }
}

/* ---- Both ---- */

int aio_new(struct aio **result, bool use_io_uring, int event_fd)
{
    struct aio *aio = calloc(1, sizeof(*aio));
    if (aio == NULL) {
        return -ENOMEM;
    }
    aio->uring = use_io_uring;
    aio->event_fd = event_fd;
    aio->last = &aio->first;
    aio->ended_last = &aio->ended;
    if (use_io_uring) {
        int status = io_uring_queue_init(AIO_RING_ENTRIES, &aio->ring, 0);
        if (status == 0) {
            status = io_uring_register_eventfd(&aio->ring, event_fd);
            if (status != 0) {
                io_uring_queue_exit(&aio->ring);
            }
        }
        if (status != 0) {
            free(aio);
            return status;
        }
    }
    pthread_mutex_init(&aio->lock, NULL);
    pthread_cond_init(&aio->work, NULL);
    *result = aio;
    return 0;
}

void aio_free(struct aio *aio)
{
    pthread_mutex_lock(&aio->lock);
    aio->stop = true;
    pthread_cond_broadcast(&aio->work);
    pthread_mutex_unlock(&aio->lock);
    for (unsigned i = 0; i < aio->thread_count; i++) {
        pthread_join(aio->threads[i], NULL);
    }
    if (aio->uring) {
        io_uring_queue_exit(&aio->ring);
    }
    pthread_cond_destroy(&aio->work);
    pthread_mutex_destroy(&aio->lock);
    free(aio);
}

bool aio_is_io_uring(const struct aio *aio)
{
    return aio->uring;
}

void aio_submit(struct aio *aio, struct aio_io *io)
{
    if (aio->uring) {
        aio_submit_ring(aio, io);
    } else {
        aio_submit_thread(aio, io);
    }
}

void aio_kick(struct aio *aio)
{
    if (aio->uring) {
        aio_kick_ring(aio);
    }
}

void aio_reap(struct aio *aio)
{
    if (aio->uring) {
        aio_reap_ring(aio);
    }
    aio_reap_ended(aio);
}
