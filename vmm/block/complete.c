/* SPDX-License-Identifier: MIT */
/* What has ended: callbacks on the loop's thread, and the calls that wait. */
#include <poll.h>
#include <unistd.h>

#include "block/front.h"

static unsigned block_run_done(struct block *block)
{
    unsigned ran = 0;
    pthread_mutex_lock(&block->lock);
    block->reaping = true;
    pthread_mutex_unlock(&block->lock);
    aio_reap(block->aio);
    pthread_mutex_lock(&block->lock);
    block->reaping = false;
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
    if (ran != 0 && block->completed != NULL) {
        block->completed(block->completed_opaque);
    }
    block_unplug(block);
    return ran;
}

void block_event_ready(void *opaque, uint32_t events)
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
