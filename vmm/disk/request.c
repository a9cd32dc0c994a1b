/* SPDX-License-Identifier: MIT */
#include "disk/request.h"

#include <errno.h>

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

static void disk_park(struct disk_requests *requests, struct disk_request *request)
{
    request->next = NULL;
    *requests->waiting_last = request;
    requests->waiting_last = &request->next;
}

static void disk_done(struct block_request *io, int result)
{
    struct disk_request *request = (struct disk_request *)io;
    struct disk_requests *requests = request->owner;
    disk_memory(request, kage_memory_end_write);
    pthread_mutex_lock(&requests->lock);
    const struct disk_errors *errors = &request->drive->config.errors;
    enum disk_error_action action = result != 0 ? disk_error_action(errors, io->op == BLOCK_READ, result) : DISK_ERROR_REPORT;
    if (action == DISK_ERROR_STOP && !requests->stopping && !request->given_up) {
        disk_park(requests, request);
        disk_error_stop(errors, block_filename(request->drive->config.block), result);
    } else {
        disk_end(request, action == DISK_ERROR_IGNORE ? 0 : result);
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

static struct disk_request *disk_take_waiting(struct disk_requests *requests)
{
    struct disk_request *list = requests->waiting;
    requests->waiting = NULL;
    requests->waiting_last = &requests->waiting;
    return list;
}

static void disk_run_changed(void *opaque, bool running)
{
    struct disk_requests *requests = opaque;
    pthread_mutex_lock(&requests->lock);
    struct disk_request *request = running ? disk_take_waiting(requests) : NULL;
    while (request != NULL) {
        struct disk_request *next = request->next;
        disk_submit(requests, request);
        request = next;
    }
    pthread_mutex_unlock(&requests->lock);
}

void disk_cancel(struct disk_requests *requests, const void *port)
{
    struct disk_request *request = disk_take_waiting(requests);
    while (request != NULL) {
        struct disk_request *next = request->next;
        if (request->port == port) {
            disk_end(request, -ECANCELED);
        } else {
            disk_park(requests, request);
        }
        request = next;
    }
}

void disk_wait(struct disk_requests *requests, struct disk_request *request)
{
    request->given_up = true;
    while (request->active && !requests->stopping) {
        pthread_cond_wait(&requests->ended, &requests->lock);
    }
}

void disk_requests_init(struct disk_requests *requests, const struct run_control *run)
{
    *requests = (struct disk_requests){.run = run, .waiting_last = &requests->waiting};
    requests->watch = (struct run_watch){.changed = disk_run_changed, .opaque = requests};
    pthread_mutex_init(&requests->lock, NULL);
    pthread_cond_init(&requests->ended, NULL);
    if (run != NULL) {
        run->watch(run->opaque, &requests->watch);
    }
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
    if (requests->run != NULL) {
        requests->run->unwatch(requests->run->opaque, &requests->watch);
    }
    pthread_cond_destroy(&requests->ended);
    pthread_mutex_destroy(&requests->lock);
}
