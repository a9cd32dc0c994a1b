/* SPDX-License-Identifier: MIT */
/*
 * The front end of a disk: takes requests, keeps those apart that must not meet, and finds for each the way that it goes.
 *
 *   plain     every byte of it is plain data in one file, and stays where it is: to the kernel (block/aio.h) at once       plain.c
 *   reader    a read that needs the format's work (a backing file, a compressed cluster): a pool of threads                worker.c
 *   worker    everything that may change the image's metadata: one thread, in order of arrival                             worker.c
 *
 * A worker's request is exclusive on the clusters that it touches: it starts when nothing is under way there, and what comes later waits for its
 * end (submit.c). So no mapping changes under a plain request, and a freed cluster is not written to. Plain requests may meet each other; that is
 * the guest's own race. What has ended is told on the loop's thread (complete.c). block.c opens and closes.
 *
 * Locks: `lock` guards the lists. The node is the worker's, but for reads (block/node.h says what may run beside what).
 */
#ifndef KAGE_BLOCK_FRONT_H
#define KAGE_BLOCK_FRONT_H

#include <pthread.h>

#include "block/aio.h"
#include "block/block.h"
#include "block/node.h"
#include "block/throttle.h"

#define BLOCK_PARTS_MAX 16u /* pieces of a plain request */
#define BLOCK_READERS 3u

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
    bool reaping; /* the loop's thread takes from `done` in a moment: nobody needs to wake it */
    bool stop;
    pthread_t threads[1 + BLOCK_READERS];
    unsigned thread_count;
    struct throttle *throttle;
    void (*resized)(void *opaque);
    void *resized_opaque;
    void (*completed)(void *opaque);
    void *completed_opaque;
};

enum { BLOCK_WORKER, BLOCK_READER };


/* ---- Lists ---- */

static inline void queue_init(struct block_queue *queue)
{
    queue->first = NULL;
    queue->last = &queue->first;
}

static inline void queue_put(struct block_queue *queue, struct block_request *request)
{
    request->next = NULL;
    *queue->last = request;
    queue->last = &request->next;
}

static inline struct block_request *queue_take(struct block_queue *queue)
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

/* ---- submit.c ---- */

uint64_t block_now_ns(void);
/* Whether a write must be on the disk when it is done. */
bool block_durable(const struct block *block, const struct block_request *request);
/* From any thread. `locked`: from the start of a request, so that nothing can have come to wait for it. */
void block_end(struct block *block, struct block_request *request, int result, bool locked);
void block_timer_ready(void *opaque, uint32_t events);

/* ---- plain.c ---- */

struct block_parts;

/*
 * Maps the whole request to plain pieces. NULL: it is not plain. Called with the lock held, which is short: what is asked is in memory.
 * A read's zeroes are filled in when it is sent.
 */
struct block_parts *block_make_plain(struct block *block, struct block_request *request);
void block_send_plain(struct block *block, struct block_parts *parts);

/* ---- worker.c ---- */

int block_start_thread(struct block *block, int which);
void block_enqueue(struct block *block, struct block_request *request, int which);

/* ---- complete.c ---- */

void block_event_ready(void *opaque, uint32_t events);

#endif
