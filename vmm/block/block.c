/* SPDX-License-Identifier: MIT */
/*
 * The front end of a disk: takes requests, keeps those apart that must not meet, and finds for each the way that it goes.
 *
 *   plain     every byte of it is plain data in one file, and stays where it is: to the kernel (block/aio.h) at once
 *   reader    a read that needs the format's work (a backing file, a compressed cluster): a pool of threads
 *   worker    everything that may change the image's metadata: one thread, in order of arrival
 *
 * A worker's request is exclusive on the clusters that it touches: it starts when nothing is under way there, and what comes later waits for its
 * end. So no mapping changes under a plain request, and a freed cluster is not written to. Plain requests may meet each other; that is
 * the guest's own race.
 *
 * Locks: `lock` guards the lists. The node is the worker's, but for reads (block/node.h says what may run beside what).
 */
#include "block/block.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "block/aio.h"
#include "block/node.h"
#include "block/throttle.h"

#define BLOCK_PARTS_MAX 16u
#define BLOCK_READERS 3u
#define BLOCK_IOV_MAX 1024u
#define BLOCK_BOUNCE_MAX (UINT64_C(1) << 26)

struct block_queue {
    struct block_request *first, **last;
};

struct block {
    struct block_node *root;
    struct block_config config;
    uint64_t range_bytes; /* grain of what is kept apart */
    struct loop *loop;
    struct loop_source event, timer;
    struct aio *aio;
    pthread_mutex_t lock;
    pthread_cond_t work[2]; /* worker, readers */
    struct block_queue queue[2];
    struct block_queue waiting, throttled, done;
    struct block_request *active;
    unsigned under_way; /* submitted, `done` not called */
    unsigned plugged;
    bool stop;
    pthread_t threads[1 + BLOCK_READERS];
    unsigned thread_count;
    struct throttle throttle;
    void (*resized)(void *opaque);
    void *resized_opaque;
};

enum { BLOCK_WORKER, BLOCK_READER };

/* A plain request in the kernel: it may lie in several pieces. */
struct block_parts {
    struct block_request *request;
    unsigned left;
    int result;
    struct block_part {
        struct aio_io io;
        struct block_parts *parts;
        uint64_t offset, bytes; /* on the disk */
    } part[BLOCK_PARTS_MAX];
    struct iovec iov[];
};

static void block_start(struct block *block, struct block_request *request);

/* ---- Lists ---- */

static void queue_init(struct block_queue *queue)
{
    queue->first = NULL;
    queue->last = &queue->first;
}

static void queue_put(struct block_queue *queue, struct block_request *request)
{
    request->next = NULL;
    *queue->last = request;
    queue->last = &request->next;
}

static struct block_request *queue_take(struct block_queue *queue)
{
    struct block_request *request = queue->first;
    if (request != NULL) {
        queue->first = request->next;
        if (queue->first == NULL) {
            queue->last = &queue->first;
        }
    }
    return request;
}

static uint64_t block_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void block_wake(struct block *block)
{
    uint64_t one = 1;
    if (write(block->event.fd, &one, sizeof(one)) < 0) {
        /* a full eventfd is a pending wake-up already */
    }
}

/* ---- Keeping requests apart (with the lock held) ---- */

static bool block_overlaps(const struct block_request *a, const struct block_request *b)
{
    return a->range_first < b->range_end && b->range_first < a->range_end;
}

static bool block_conflicts(const struct block *block, const struct block_request *request)
{
    for (const struct block_request *other = block->active; other != NULL; other = other->active_next) {
        if ((other->exclusive || request->exclusive) && block_overlaps(other, request)) {
            return true;
        }
    }
    return false;
}

static void block_activate(struct block *block, struct block_request *request)
{
    request->active_next = block->active;
    request->active_link = &block->active;
    if (block->active != NULL) {
        block->active->active_link = &request->active_next;
    }
    block->active = request;
}

static void block_deactivate(struct block_request *request)
{
    *request->active_link = request->active_next;
    if (request->active_next != NULL) {
        request->active_next->active_link = request->active_link;
    }
}

/* What waited may go, in its order, if it meets neither what is active nor what waits before it. */
static void block_start_waiting(struct block *block)
{
    struct block_request *list = block->waiting.first;
    queue_init(&block->waiting);
    while (list != NULL) {
        struct block_request *request = list;
        list = list->next;
        block_start(block, request);
    }
}

/* From any thread. `locked`: from the start of a request, so that nothing can have come to wait for it. */
static void block_end(struct block *block, struct block_request *request, int result, bool locked)
{
    if (!locked) {
        pthread_mutex_lock(&block->lock);
    }
    if (request->active_link != NULL) {
        block_deactivate(request);
        request->active_link = NULL;
    }
    request->result = result;
    bool was_empty = block->done.first == NULL;
    queue_put(&block->done, request);
    if (!locked && block->waiting.first != NULL) {
        block_start_waiting(block);
    }
    if (was_empty) {
        block_wake(block);
    }
    if (!locked) {
        pthread_mutex_unlock(&block->lock);
        aio_kick(block->aio);
    }
}

/* ---- Worker and readers ---- */

/* Reads and writes by the node go through one buffer; scattered ones through one of ours. */
static int block_perform_data(struct block *block, struct block_request *request)
{
    bool write = request->op == BLOCK_WRITE;
    if (request->iov_count == 1) {
        void *base = request->iov[0].iov_base;
        return write ? node_write(block->root, request->offset, base, request->bytes)
                     : node_read(block->root, request->offset, base, request->bytes);
    }
    uint64_t piece = request->bytes < BLOCK_BOUNCE_MAX ? request->bytes : BLOCK_BOUNCE_MAX;
    uint64_t align = block->root->alignment > 64 ? block->root->alignment : 64;
    uint8_t *bounce = aligned_alloc(align, (piece + align - 1) / align * align);
    if (bounce == NULL) {
        return -ENOMEM;
    }
    int result = 0;
    unsigned at = 0;
    size_t inside = 0;
    for (uint64_t done = 0; done < request->bytes && result == 0;) {
        uint64_t count = request->bytes - done < piece ? request->bytes - done : piece;
        if (!write) {
            result = node_read(block->root, request->offset + done, bounce, count);
        }
        for (uint64_t moved = 0; moved < count && result == 0;) {
            size_t length = request->iov[at].iov_len - inside;
            length = length < count - moved ? length : (size_t)(count - moved);
            uint8_t *user = (uint8_t *)request->iov[at].iov_base + inside;
            memcpy(write ? bounce + moved : user, write ? user : bounce + moved, length);
            moved += length;
            inside += length;
            if (inside == request->iov[at].iov_len) {
                at++;
                inside = 0;
            }
        }
        if (write && result == 0) {
            result = node_write(block->root, request->offset + done, bounce, count);
        }
        done += count;
    }
    free(bounce);
    return result;
}

static int block_perform(struct block *block, struct block_request *request)
{
    int result = 0;
    switch (request->op) {
    case BLOCK_READ:
        return request->bytes != 0 ? block_perform_data(block, request) : 0;
    case BLOCK_WRITE:
        result = request->bytes != 0 ? block_perform_data(block, request) : 0;
        break;
    case BLOCK_WRITE_ZEROES:
        result = node_write_zeroes(block->root, request->offset, request->bytes,
                                   request->flags & BLOCK_UNMAP && !block->config.discard_ignore ? NODE_UNMAP : 0);
        break;
    case BLOCK_DISCARD:
        return block->config.discard_ignore ? 0 : node_discard(block->root, request->offset, request->bytes);
    case BLOCK_FLUSH:
        return node_flush(block->root);
    }
    bool durable = (request->flags & BLOCK_FUA) != 0 || block->config.cache_writethrough;
    return result == 0 && durable ? node_flush(block->root) : result;
}

struct block_thread_start {
    struct block *block;
    int which;
};

static void *block_thread(void *opaque)
{
    struct block_thread_start start = *(struct block_thread_start *)opaque;
    struct block *block = start.block;
    free(opaque);
    pthread_mutex_lock(&block->lock);
    for (;;) {
        struct block_request *request = queue_take(&block->queue[start.which]);
        if (request != NULL) {
            pthread_mutex_unlock(&block->lock);
            block_end(block, request, block_perform(block, request), false);
            pthread_mutex_lock(&block->lock);
        } else if (block->stop) {
            break;
        } else {
            pthread_cond_wait(&block->work[start.which], &block->lock);
        }
    }
    pthread_mutex_unlock(&block->lock);
    return NULL;
}

static int block_start_thread(struct block *block, int which)
{
    struct block_thread_start *start = malloc(sizeof(*start));
    if (start == NULL) {
        return -ENOMEM;
    }
    *start = (struct block_thread_start){block, which};
    int result = pthread_create(&block->threads[block->thread_count], NULL, block_thread, start);
    if (result != 0) {
        free(start);
        return -result;
    }
    block->thread_count++;
    return 0;
}

static void block_enqueue(struct block *block, struct block_request *request, int which)
{
    queue_put(&block->queue[which], request);
    pthread_cond_signal(&block->work[which]);
}

/* ---- Plain requests ---- */

static void block_parts_end(struct block_parts *parts, int result)
{
    struct block_request *request = parts->request;
    struct block *block = request->block;
    if (result != 0 && parts->result == 0) {
        parts->result = result;
    }
    pthread_mutex_lock(&block->lock);
    bool last = --parts->left == 0;
    pthread_mutex_unlock(&block->lock);
    if (last) {
        block_end(block, request, parts->result, false);
        free(parts);
    }
}

/* On the reaping thread. What the kernel moved only in part is done once more, in full, by calls that wait (they know of the file's end). */
static int block_redo(struct block_part *part)
{
    struct block_request *request = part->parts->request;
    struct block_node *node = request->block->root;
    struct block_node *file = node->file;
    uint64_t offset = part->io.offset;
    int result = 0;
    for (unsigned i = 0; i < part->io.iov_count && result == 0; i++) {
        const struct iovec *iov = &part->io.iov[i];
        result = part->io.op == AIO_READ ? file->driver->read(file, offset, iov->iov_base, iov->iov_len)
                                         : file->driver->write(file, offset, iov->iov_base, iov->iov_len);
        offset += iov->iov_len;
    }
    return result == 0 && part->io.dsync ? node_flush(file) : result;
}

static void block_part_done(struct aio_io *io, int result)
{
    struct block_part *part = (struct block_part *)io; /* its first member */
    if (result >= 0) {
        result = (uint64_t)result == part->bytes ? 0 : block_redo(part);
    }
    block_parts_end(part->parts, result);
}

/* Copies the part of the request's iovec that [skip, skip + bytes) of it is. */
static unsigned block_slice(const struct block_request *request, uint64_t skip, uint64_t bytes, struct iovec *to)
{
    unsigned count = 0;
    for (unsigned i = 0; i < request->iov_count && bytes > 0; i++) {
        uint64_t length = request->iov[i].iov_len;
        if (skip >= length) {
            skip -= length;
            continue;
        }
        length -= skip;
        length = length < bytes ? length : bytes;
        if (length > 0) {
            to[count++] = (struct iovec){(uint8_t *)request->iov[i].iov_base + skip, length};
        }
        skip = 0;
        bytes -= length;
    }
    return count;
}

static bool block_iov_aligned(const struct block *block, const struct iovec *iov, unsigned count, uint64_t offset)
{
    uint64_t mask = offset;
    for (unsigned i = 0; i < count; i++) {
        mask |= (uintptr_t)iov[i].iov_base | iov[i].iov_len;
    }
    return (mask & (block->root->alignment - 1)) == 0;
}

/*
 * Maps the whole request to plain pieces. NULL: it is not plain. Called with the lock held, which is short: what is asked is in memory.
 * A read's zeroes are filled in when it is sent.
 */
static struct block_parts *block_make_plain(struct block *block, struct block_request *request, struct block_extent *extents, unsigned *count)
{
    struct block_node *root = block->root;
    int fd = root->file->driver->fd != NULL ? root->file->driver->fd(root->file) : -1;
    /* Where clusters are smaller than O_DIRECT's grain, a write reads and writes its neighbours too: one at a time. */
    if (fd < 0 || root->driver->map_cached == NULL || request->iov_count > BLOCK_IOV_MAX || block->range_bytes < root->alignment) {
        return NULL;
    }
    *count = 0;
    for (uint64_t done = 0; done < request->bytes;) {
        struct block_extent *extent = &extents[*count];
        if (*count == BLOCK_PARTS_MAX || root->driver->map_cached(root, request->offset + done, request->bytes - done, extent) != 0) {
            return NULL;
        }
        bool data = (extent->flags & (EXTENT_DATA | EXTENT_OFFSET | EXTENT_COMPRESSED)) == (EXTENT_DATA | EXTENT_OFFSET);
        bool zero = (extent->flags & EXTENT_ZERO) != 0;
        if (request->op == BLOCK_READ ? !data && !zero : !data || !(extent->flags & EXTENT_WRITABLE)) {
            return NULL;
        }
        done += extent->bytes;
        (*count)++;
    }
    struct block_parts *parts = malloc(sizeof(*parts) + (request->iov_count + 2 * (size_t)*count) * sizeof(struct iovec));
    if (parts == NULL) {
        return NULL;
    }
    parts->request = request;
    parts->result = 0;
    parts->left = 1; /* ours, until all are sent */
    struct iovec *iov = parts->iov;
    uint64_t done = 0;
    for (unsigned i = 0; i < *count; i++) {
        struct block_part *part = &parts->part[i];
        unsigned iov_count = block_slice(request, done, extents[i].bytes, iov);
        if (!(extents[i].flags & EXTENT_ZERO) && !block_iov_aligned(block, iov, iov_count, extents[i].host_offset)) {
            free(parts);
            return NULL;
        }
        part->parts = parts;
        part->offset = request->offset + done;
        part->bytes = extents[i].bytes;
        part->io = (struct aio_io){
            .op = request->op == BLOCK_READ ? AIO_READ : AIO_WRITE,
            .fd = fd,
            .offset = extents[i].host_offset,
            .iov = iov,
            .iov_count = iov_count,
            .done = block_part_done,
        };
        iov += iov_count;
        done += extents[i].bytes;
    }
    return parts;
}

static void block_send_plain(struct block *block, struct block_parts *parts, const struct block_extent *extents, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        if (extents[i].flags & EXTENT_ZERO) {
            for (unsigned j = 0; j < parts->part[i].io.iov_count; j++) {
                memset(parts->part[i].io.iov[j].iov_base, 0, parts->part[i].io.iov[j].iov_len);
            }
        } else {
            parts->left++;
        }
    }
    bool zeroes_only = --parts->left == 0;
    if (zeroes_only) {
        block_end(block, parts->request, 0, true);
        free(parts);
        return;
    }
    for (unsigned i = 0; i < count; i++) {
        if (!(extents[i].flags & EXTENT_ZERO)) {
            aio_submit(block->aio, &parts->part[i].io);
        }
    }
}

/* ---- Dispatch ---- */

static bool block_durable(const struct block *block, const struct block_request *request)
{
    return !block->config.cache_no_flush && (block->config.cache_writethrough || (request->flags & BLOCK_FUA));
}

static bool block_meets_waiting(const struct block *block, const struct block_request *request)
{
    for (const struct block_request *other = block->waiting.first; other != NULL; other = other->next) {
        if (block_overlaps(other, request)) {
            return true;
        }
    }
    return false;
}

/* With the lock held. */
static void block_start(struct block *block, struct block_request *request)
{
    struct block_extent extents[BLOCK_PARTS_MAX];
    struct block_parts *parts = NULL;
    unsigned count = 0;
    bool raw = block->root->driver == &raw_driver;
    if (request->op == BLOCK_FLUSH) {
        block_enqueue(block, request, BLOCK_WORKER);
        return;
    }
    if (block_meets_waiting(block, request)) {
        queue_put(&block->waiting, request);
        return;
    }
    bool data = request->op == BLOCK_READ || request->op == BLOCK_WRITE;
    /* A durable write to an image with metadata needs that to be down as well: the worker knows. */
    bool may_be_plain = data && (raw || request->op == BLOCK_READ || !block_durable(block, request));
    request->exclusive = request->op != BLOCK_READ;
    if (may_be_plain) {
        /* Whether it is plain may be asked only where nobody changes the mapping. */
        request->exclusive = false;
        if (block_conflicts(block, request)) {
            queue_put(&block->waiting, request);
            return;
        }
        parts = block_make_plain(block, request, extents, &count);
        request->exclusive = parts == NULL && request->op != BLOCK_READ;
    }
    if (parts == NULL && block_conflicts(block, request)) {
        queue_put(&block->waiting, request);
        return;
    }
    block_activate(block, request);
    if (parts != NULL) {
        for (unsigned i = 0; i < count; i++) {
            parts->part[i].io.dsync = request->op == BLOCK_WRITE && block_durable(block, request);
        }
        block_send_plain(block, parts, extents, count);
    } else {
        block_enqueue(block, request, request->op == BLOCK_READ ? BLOCK_READER : BLOCK_WORKER);
    }
}

static int block_check_request(struct block *block, struct block_request *request)
{
    if (request->op == BLOCK_FLUSH) {
        return 0;
    }
    if (request->op != BLOCK_READ && block->config.read_only) {
        return -EROFS;
    }
    uint64_t bytes = block->root->bytes;
    if (request->offset > bytes || request->bytes > bytes - request->offset) {
        return -EINVAL;
    }
    if (request->op == BLOCK_READ || request->op == BLOCK_WRITE) {
        uint64_t sum = 0;
        for (unsigned i = 0; i < request->iov_count; i++) {
            if (__builtin_add_overflow(sum, request->iov[i].iov_len, &sum)) {
                return -EINVAL;
            }
        }
        return sum == request->bytes && sum <= INT_MAX ? 0 : -EINVAL;
    }
    return 0;
}

static bool block_all_zeroes(const struct block_request *request)
{
    for (unsigned i = 0; i < request->iov_count; i++) {
        const uint8_t *base = request->iov[i].iov_base;
        size_t length = request->iov[i].iov_len;
        if (length > 0 && (base[0] != 0 || memcmp(base, base + 1, length - 1) != 0)) {
            return false;
        }
    }
    return true;
}

/* With the lock held. True: it waits for the timer. */
static bool block_throttled(struct block *block, struct block_request *request)
{
    uint64_t wait = throttle_take(&block->throttle, request->op != BLOCK_READ, request->bytes, block_now_ns());
    if (wait == 0) {
        return false;
    }
    struct itimerspec when = {.it_value = {(time_t)(wait / 1000000000u), (long)(wait % 1000000000u)}};
    timerfd_settime(block->timer.fd, 0, &when, NULL);
    return true;
}

static void block_timer_ready(void *opaque, uint32_t events)
{
    struct block *block = opaque;
    uint64_t expirations;
    (void)events;
    if (read(block->timer.fd, &expirations, sizeof(expirations)) < 0) {
        return;
    }
    pthread_mutex_lock(&block->lock);
    while (block->throttled.first != NULL && !block_throttled(block, block->throttled.first)) {
        block_start(block, queue_take(&block->throttled));
    }
    pthread_mutex_unlock(&block->lock);
    aio_kick(block->aio);
}

void block_submit(struct block *block, struct block_request *request)
{
    request->block = block;
    request->active_link = NULL;
    request->exclusive = false;
    int result = block_check_request(block, request);
    if (result == 0 && request->op == BLOCK_WRITE && block->config.detect_zeroes && block_all_zeroes(request)) {
        request->op = BLOCK_WRITE_ZEROES;
        request->flags |= BLOCK_UNMAP;
    }
    uint64_t grain = block->range_bytes;
    request->range_first = request->offset / grain * grain;
    request->range_end = (request->offset + request->bytes + grain - 1) / grain * grain;
    pthread_mutex_lock(&block->lock);
    block->under_way++;
    bool nothing = request->op == BLOCK_FLUSH ? block->config.read_only || block->config.cache_no_flush : request->bytes == 0;
    if (result != 0 || nothing) {
        block_end(block, request, result, true);
    } else if (block->throttle.on && request->op != BLOCK_FLUSH && (block->throttled.first != NULL || block_throttled(block, request))) {
        queue_put(&block->throttled, request);
    } else {
        block_start(block, request);
    }
    bool kick = block->plugged == 0;
    pthread_mutex_unlock(&block->lock);
    if (kick) {
        aio_kick(block->aio);
    }
}

void block_plug(struct block *block)
{
    pthread_mutex_lock(&block->lock);
    block->plugged++;
    pthread_mutex_unlock(&block->lock);
}

void block_unplug(struct block *block)
{
    pthread_mutex_lock(&block->lock);
    block->plugged--;
    pthread_mutex_unlock(&block->lock);
    aio_kick(block->aio);
}

/* ---- Completion ---- */

static unsigned block_run_done(struct block *block)
{
    unsigned ran = 0;
    aio_reap(block->aio);
    pthread_mutex_lock(&block->lock);
    struct block_request *list = block->done.first;
    queue_init(&block->done);
    for (struct block_request *request = list; request != NULL; request = request->next) {
        ran++;
    }
    block->under_way -= ran;
    block->plugged++; /* what the callbacks submit goes to the kernel together */
    pthread_mutex_unlock(&block->lock);
    while (list != NULL) {
        struct block_request *request = list;
        list = list->next;
        request->done(request, request->result);
    }
    block_unplug(block);
    return ran;
}

static void block_event_ready(void *opaque, uint32_t events)
{
    struct block *block = opaque;
    uint64_t count;
    (void)events;
    if (read(block->event.fd, &count, sizeof(count)) < 0) {
        /* somebody has seen the wake-up already */
    }
    block_run_done(block);
}

unsigned block_poll(struct block *block, bool wait)
{
    unsigned ran = block_run_done(block);
    while (wait && ran == 0) {
        pthread_mutex_lock(&block->lock);
        bool idle = block->under_way == 0;
        pthread_mutex_unlock(&block->lock);
        if (idle) {
            break;
        }
        struct pollfd fds[2] = {{.fd = block->event.fd, .events = POLLIN}, {.fd = block->timer.fd, .events = POLLIN}};
        poll(fds, 2, -1);
        if (fds[1].revents & POLLIN) {
            block_timer_ready(block, 0);
        }
        uint64_t count;
        if (fds[0].revents & POLLIN && read(block->event.fd, &count, sizeof(count)) < 0) {
            /* as above */
        }
        ran = block_run_done(block);
    }
    return ran;
}

void block_drain(struct block *block)
{
    while (block_poll(block, true) > 0) {
    }
}

static void block_sync_done(struct block_request *request, int result)
{
    *(int *)request->opaque = result;
}

static int block_sync(struct block *block, struct block_request *request)
{
    int result = 1;
    request->done = block_sync_done;
    request->opaque = &result;
    block_submit(block, request);
    while (result > 0) {
        block_poll(block, true);
    }
    return result;
}

int block_read(struct block *block, uint64_t offset, void *buffer, size_t bytes)
{
    struct iovec iov = {buffer, bytes};
    struct block_request request = {.op = BLOCK_READ, .offset = offset, .bytes = bytes, .iov = &iov, .iov_count = 1};
    return block_sync(block, &request);
}

int block_write(struct block *block, uint64_t offset, const void *buffer, size_t bytes, unsigned flags)
{
    struct iovec iov = {(void *)(uintptr_t)buffer, bytes};
    struct block_request request = {.op = BLOCK_WRITE, .flags = flags, .offset = offset, .bytes = bytes, .iov = &iov, .iov_count = 1};
    return block_sync(block, &request);
}

int block_flush(struct block *block)
{
    struct block_request request = {.op = BLOCK_FLUSH};
    return block_sync(block, &request);
}

/* ---- Opening and closing ---- */

int block_config_cache(struct block_config *config, const char *name)
{
    static const struct {
        const char *name;
        bool direct, writethrough, no_flush;
    } modes[] = {
        {"none", true, false, false},      {"off", true, false, false},          {"writeback", false, false, false},
        {"writethrough", false, true, false}, {"directsync", true, true, false}, {"unsafe", false, false, true},
    };
    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
        if (strcmp(modes[i].name, name) == 0) {
            config->cache_direct = modes[i].direct;
            config->cache_writethrough = modes[i].writethrough;
            config->cache_no_flush = modes[i].no_flush;
            return 0;
        }
    }
    return -1;
}

static int block_init_aio(struct block *block, struct error *error)
{
    block->event = (struct loop_source){.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .ready = block_event_ready, .opaque = block};
    block->timer = (struct loop_source){.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK), .ready = block_timer_ready, .opaque = block};
    int result = block->event.fd < 0 || block->timer.fd < 0 ? -errno : -ENOSYS;
    if (result == -ENOSYS && block->config.aio != BLOCK_AIO_THREADS) {
        result = aio_new(&block->aio, true, block->event.fd);
        if (result != 0 && block->config.aio == BLOCK_AIO_IO_URING) {
            return error_set(error, "aio=io_uring: %s", strerror(-result));
        }
    }
    if (block->aio == NULL && block->event.fd >= 0 && block->timer.fd >= 0) {
        result = aio_new(&block->aio, false, block->event.fd);
    }
    for (int i = 0; i < 1 + (int)BLOCK_READERS && result == 0; i++) {
        result = block_start_thread(block, i == 0 ? BLOCK_WORKER : BLOCK_READER);
    }
    return result == 0 ? 0 : error_set(error, "Could not start the threads of a disk: %s", strerror(-result));
}

static void block_fini_aio(struct block *block)
{
    pthread_mutex_lock(&block->lock);
    block->stop = true;
    pthread_cond_broadcast(&block->work[BLOCK_WORKER]);
    pthread_cond_broadcast(&block->work[BLOCK_READER]);
    pthread_mutex_unlock(&block->lock);
    for (unsigned i = 0; i < block->thread_count; i++) {
        pthread_join(block->threads[i], NULL);
    }
    if (block->aio != NULL) {
        aio_free(block->aio);
    }
    if (block->event.fd >= 0) {
        close(block->event.fd);
    }
    if (block->timer.fd >= 0) {
        close(block->timer.fd);
    }
    pthread_cond_destroy(&block->work[BLOCK_WORKER]);
    pthread_cond_destroy(&block->work[BLOCK_READER]);
    pthread_mutex_destroy(&block->lock);
}

struct block *block_open(const struct block_config *config, struct error *error)
{
    struct block *block = calloc(1, sizeof(*block));
    if (block == NULL) {
        error_set(error, "Could not open '%s': %s", config->filename, strerror(ENOMEM));
        return NULL;
    }
    struct node_options options = {
        .read_only = config->read_only,
        .direct = config->cache_direct,
        .no_flush = config->cache_no_flush,
        .force_share = config->force_share && config->read_only,
        .no_backing = config->no_backing,
    };
    block->config = *config;
    block->root = node_open(config->filename, config->format, &options, error);
    if (block->root == NULL) {
        free(block);
        return NULL;
    }
    block->config.filename = block->root->filename;
    block->config.format = block->root->driver->name;
    struct node_info info = {0};
    if (block->root->driver->info != NULL) {
        block->root->driver->info(block->root, &info);
    }
    block->range_bytes = info.cluster_bytes != 0 ? info.cluster_bytes : block->root->alignment > 512 ? block->root->alignment : 512;
    pthread_mutex_init(&block->lock, NULL);
    pthread_cond_init(&block->work[BLOCK_WORKER], NULL);
    pthread_cond_init(&block->work[BLOCK_READER], NULL);
    queue_init(&block->queue[BLOCK_WORKER]);
    queue_init(&block->queue[BLOCK_READER]);
    queue_init(&block->waiting);
    queue_init(&block->throttled);
    queue_init(&block->done);
    throttle_init(&block->throttle, &config->throttle, block_now_ns());
    if (block_init_aio(block, error) != 0) {
        block_fini_aio(block);
        node_close(block->root);
        free(block);
        return NULL;
    }
    return block;
}

void block_close(struct block *block)
{
    block_drain(block);
    block_attach(block, NULL);
    block_fini_aio(block);
    node_close(block->root);
    free(block);
}

int block_attach(struct block *block, struct loop *loop)
{
    if (block->loop != NULL) {
        loop_remove(block->loop, &block->event);
        loop_remove(block->loop, &block->timer);
        block->loop = NULL;
    }
    if (loop == NULL) {
        return 0;
    }
    int result = loop_add(loop, &block->event, EPOLLIN);
    if (result == 0) {
        result = loop_add(loop, &block->timer, EPOLLIN);
        if (result != 0) {
            loop_remove(loop, &block->event);
        }
    }
    block->loop = result == 0 ? loop : NULL;
    return result;
}

/* ---- What it is ---- */

uint64_t block_bytes(const struct block *block)
{
    return block->root->bytes;
}

bool block_read_only(const struct block *block)
{
    return block->config.read_only;
}

uint32_t block_alignment(const struct block *block)
{
    return block->root->alignment;
}

uint32_t block_discard_bytes(const struct block *block)
{
    return (uint32_t)block->range_bytes;
}

const char *block_filename(const struct block *block)
{
    return block->root->filename;
}

const char *block_format(const struct block *block)
{
    return block->root->driver->name;
}

const char *block_aio_name(const struct block *block)
{
    return aio_is_io_uring(block->aio) ? "io_uring" : "threads";
}

struct block_node *block_root(struct block *block)
{
    return block->root;
}

void block_on_resize(struct block *block, void (*resized)(void *opaque), void *opaque)
{
    block->resized = resized;
    block->resized_opaque = opaque;
}

int block_resize(struct block *block, uint64_t bytes, struct error *error)
{
    if (bytes % 512 != 0) {
        error_set(error, "The new size must be a multiple of 512");
        return -EINVAL;
    }
    block_drain(block);
    int result = node_resize(block->root, bytes, NODE_PREALLOC_OFF, error);
    if (result == 0 && block->resized != NULL) {
        block->resized(block->resized_opaque);
    }
    return result;
}
