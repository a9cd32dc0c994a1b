/* SPDX-License-Identifier: MIT */
/*
 * Requests of a disk controller to its disks: each ends in exactly one call of `done`, with the controller's lock held. One that has failed
 * may wait and be made again each second (werror=, rerror=); those can be cancelled, others have to be waited for.
 */
#ifndef KAGE_DISK_REQUEST_H
#define KAGE_DISK_REQUEST_H

#include <pthread.h>

#include "disk/ata.h"
#include "util/loop.h"

struct disk_request;

/* Of a controller. All but init and fini with the lock. */
struct disk_requests {
    pthread_mutex_t lock; /* the controller's */
    pthread_cond_t ended; /* a request has, or `stopping` is set */
    struct loop *loop;
    struct loop_source retry;
    struct disk_request *waiting;
    bool stopping; /* the machine ends: nobody waits for anything */
};

struct disk_request {
    struct block_request io; /* first: its callback gets it */
    struct disk_requests *owner;
    struct ata_drive *drive;
    void *port;    /* of the controller; disk_cancel() has it */
    bool to_guest; /* it reads into guest memory, not into a buffer */
    bool active;   /* not yet done */
    void (*done)(struct disk_request *request, int result);
    struct disk_request *next;
};

/* 0 or -errno, and nothing is left to undo. On the loop's thread. */
int disk_requests_init(struct disk_requests *requests, struct loop *loop) __attribute__((warn_unused_result));
/* Nothing is active any more. */
void disk_requests_fini(struct disk_requests *requests);
/* Who waits goes on. From any thread, without the lock. */
void disk_requests_stop(struct disk_requests *requests);

/* What stands in request->io but its callback is the caller's; its storage stays until `done`. */
void disk_submit(struct disk_requests *requests, struct disk_request *request);
/* Those of a port that wait to be made again end now. */
void disk_cancel(struct disk_requests *requests, const void *port);
/* Until the request is done, or the machine ends. */
void disk_wait(struct disk_requests *requests, const struct disk_request *request);

#endif
