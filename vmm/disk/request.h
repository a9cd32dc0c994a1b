/* SPDX-License-Identifier: MIT */
/*
 * Requests of a disk controller to its disks: each ends in exactly one call of `done`, with the controller's lock held. One that has failed
 * may wait until the machine, which it stops, goes on (werror=, rerror=); those can be cancelled, others have to be waited for.
 */
#ifndef KAGE_DISK_REQUEST_H
#define KAGE_DISK_REQUEST_H

#include <pthread.h>

#include "dev/device.h"
#include "disk/ata.h"

struct disk_request;

/* Of a controller. All but init and fini with the lock. */
struct disk_requests {
    pthread_mutex_t lock; /* the controller's */
    pthread_cond_t ended; /* a request has, or `stopping` is set */
    const struct run_control *run; /* NULL: nobody can stop the machine */
    struct run_watch watch;
    struct disk_request *waiting, **waiting_last; /* failed, and made again when the machine goes on */
    bool stopping; /* the machine ends: nobody waits for anything */
};

struct disk_request {
    struct block_request io; /* first: its callback gets it */
    struct disk_requests *owner;
    struct ata_drive *drive;
    void *port;    /* of the controller; disk_cancel() has it */
    bool to_guest; /* it reads into guest memory, not into a buffer */
    bool active;   /* not yet done */
    bool given_up; /* a failure is its end: a reset, or a vCPU, waits for it */
    void (*done)(struct disk_request *request, int result);
    struct disk_request *next;
};

/* On the main loop's thread. */
void disk_requests_init(struct disk_requests *requests, const struct run_control *run);
/* Nothing is active any more. */
void disk_requests_fini(struct disk_requests *requests);
/* Who waits goes on. From any thread, without the lock. */
void disk_requests_stop(struct disk_requests *requests);

/* What stands in request->io but its callback is the caller's; its storage stays until `done`. */
void disk_submit(struct disk_requests *requests, struct disk_request *request);
/* Those of a port that wait for the machine to go on end now. */
void disk_cancel(struct disk_requests *requests, const void *port);
/* Until the request is done, or the machine ends. It does not wait for the machine to go on meanwhile: that may wait for this vCPU. */
void disk_wait(struct disk_requests *requests, struct disk_request *request);

#endif
