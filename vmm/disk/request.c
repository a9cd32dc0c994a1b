/* SPDX-License-Identifier: MIT */
#include "disk/request.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <kage.h>

/* On the soft back end the pages that a disk's bytes go to may hold code that was translated. */
static void disk_memory(const struct disk_request *request, void (*tell)(const void *addr, size_t bytes))
{
    for (unsigned i = 0; request->to_guest && request->io.op == BLOCK_READ && i < request->io.iov_count; i++) {
        tell(request->io.iov[i].iov_base, request->io.iov[i].iov_len);
    }
}

static void disk_end(struct disk_request *request, int result)
{
    struct disk_requests *requests = request->owner;
    request->active = false;
    request->done(request, result);
    pthread_cond_broadcast(&requests->ended);
}

static void disk_park(struct disk_requests *requests, struct disk_request *request, int result)
{
    struct itimerspec second = {.it_value.tv_sec = 1};
    if (requests->waiting == NULL) {
        fprintf(stderr, "kage: %s: %s; the guest waits while it is tried again\n", block_filename(request->drive->config.block), strerror(-result));
        timerfd_settime(requests->retry.fd, 0, &second, NULL);
    }
    request->next = requests->waiting;
    requests->waiting = request;
}

static void disk_done(struct block_request *io, int result)
{
    struct disk_request *request = (struct disk_request *)io;
    struct disk_requests *requests = request->owner;
    disk_memory(request, kage_memory_end_write);
    pthread_mutex_lock(&requests->lock);
    if (result != 0 && ata_waits(request->drive, io->op, result) && !requests->stopping) {
        disk_park(requests, request, result);
    } else {
        disk_end(request, result != 0 && ata_ignores(request->drive, io->op) ? 0 : result);
    }
    pthread_mutex_unlock(&requests->lock);
}

void disk_submit(struct disk_requests *requests, struct disk_request *request)
{
    request->owner = requests;
    request->active = true;
    request->io.done = disk_done;
    disk_memory(request, kage_memory_begin_write);
    block_submit(request->drive->config.block, &request->io);
}

static void disk_retry(void *opaque, uint32_t events)
{
    struct disk_requests *requests = opaque;
    uint64_t count;
    (void)events;
    ssize_t got = read(requests->retry.fd, &count, sizeof(count));
    (void)got;
    pthread_mutex_lock(&requests->lock);
    struct disk_request *request = requests->waiting;
    requests->waiting = NULL;
    while (request != NULL) {
        struct disk_request *next = request->next;
        disk_submit(requests, request);
        request = next;
    }
    pthread_mutex_unlock(&requests->lock);
}

void disk_cancel(struct disk_requests *requests, const void *port)
{
    struct disk_request *request = requests->waiting, *left = NULL;
    requests->waiting = NULL;
    while (request != NULL) {
        struct disk_request *next = request->next;
        if (request->port == port) {
            disk_end(request, -ECANCELED);
        } else {
            request->next = left;
            left = request;
        }
        request = next;
    }
    requests->waiting = left;
}

void disk_wait(struct disk_requests *requests, const struct disk_request *request)
{
    while (request->active && !requests->stopping) {
        pthread_cond_wait(&requests->ended, &requests->lock);
    }
}

int disk_requests_init(struct disk_requests *requests, struct loop *loop)
{
    *requests = (struct disk_requests){.loop = loop};
    requests->retry = (struct loop_source){.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK), .ready = disk_retry, .opaque = requests};
    int result = requests->retry.fd < 0 ? -errno : loop_add(loop, &requests->retry, EPOLLIN);
    if (result != 0) {
        if (requests->retry.fd >= 0) {
            close(requests->retry.fd);
        }
        return result;
    }
    pthread_mutex_init(&requests->lock, NULL);
    pthread_cond_init(&requests->ended, NULL);
    return 0;
}

void disk_requests_stop(struct disk_requests *requests)
{
    pthread_mutex_lock(&requests->lock);
    requests->stopping = true;
    pthread_cond_broadcast(&requests->ended);
    pthread_mutex_unlock(&requests->lock);
}

void disk_requests_fini(struct disk_requests *requests)
{
    loop_remove(requests->loop, &requests->retry);
    close(requests->retry.fd);
    pthread_cond_destroy(&requests->ended);
    pthread_mutex_destroy(&requests->lock);
}
