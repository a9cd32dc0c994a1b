/* SPDX-License-Identifier: MIT */
/* The front end's gate: what a request must wait for, and which way it goes. block/front.h has the whole. */
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "block/front.h"

static void block_start(struct block *block, struct block_request *request);

uint64_t block_now_ns(void)
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

void block_end(struct block *block, struct block_request *request, int result, bool locked)
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
    if (was_empty && !block->reaping) {
        block_wake(block);
    }
    if (!locked) {
        pthread_mutex_unlock(&block->lock);
        aio_kick(block->aio);
    }
}

/* ---- Dispatch ---- */

bool block_durable(const struct block *block, const struct block_request *request)
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
    struct block_parts *parts = NULL;
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
        parts = block_make_plain(block, request);
        request->exclusive = parts == NULL && request->op != BLOCK_READ;
    }
    if (parts == NULL && block_conflicts(block, request)) {
        queue_put(&block->waiting, request);
        return;
    }
    block_activate(block, request);
    if (parts != NULL) {
        block_send_plain(block, parts);
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
    uint64_t wait = throttle_take(block->throttle, request->op != BLOCK_READ, request->bytes, block_now_ns());
    if (wait == 0) {
        return false;
    }
    struct itimerspec when = {.it_value = {(time_t)(wait / 1000000000u), (long)(wait % 1000000000u)}};
    timerfd_settime(block->timer.fd, 0, &when, NULL);
    return true;
}

void block_timer_ready(void *opaque, uint32_t events)
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
    } else if (throttle_is_on(block->throttle) && request->op != BLOCK_FLUSH && (block->throttled.first != NULL || block_throttled(block, request))) {
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
