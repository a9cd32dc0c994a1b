/* SPDX-License-Identifier: MIT */
/*
 * Leaky buckets: a request may go while no bucket that it counts in is over its depth, and then fills them; so one request is never too big.
 * A limit with a burst has two: one that leaks at the limit's rate and holds a whole burst, one that leaks at the burst's rate.
 */
#include "block/throttle.h"

#include <pthread.h>
#include <stdlib.h>

#define THROTTLE_NS 1e9
#define THROTTLE_BUCKETS 12u /* two for each of six limits */

struct throttle {
    pthread_mutex_t lock;
    unsigned users;
    bool on;
    double iops_size;
    uint64_t leaked_ns; /* when the buckets were last looked at */
    struct {
        double rate; /* per second; 0: no limit */
        double depth;
        double level;
        bool read, write, bytes; /* what it counts */
    } bucket[THROTTLE_BUCKETS];
};

struct throttle *throttle_new(const struct block_throttle *limits, uint64_t now_ns)
{
    const struct {
        const struct block_limit *limit;
        bool read, write, bytes;
    } rows[THROTTLE_BUCKETS / 2] = {
        {&limits->bps_total, true, true, true},   {&limits->bps_read, true, false, true},   {&limits->bps_write, false, true, true},
        {&limits->iops_total, true, true, false}, {&limits->iops_read, true, false, false}, {&limits->iops_write, false, true, false},
    };
    struct throttle *throttle = calloc(1, sizeof(*throttle));
    if (throttle == NULL) {
        return NULL;
    }
    pthread_mutex_init(&throttle->lock, NULL);
    throttle->users = 1;
    throttle->leaked_ns = now_ns;
    throttle->iops_size = (double)limits->iops_size;
    for (unsigned i = 0; i < THROTTLE_BUCKETS; i++) {
        const struct block_limit *limit = rows[i / 2].limit;
        bool burst = i % 2 != 0;
        double length = limit->burst_s != 0 ? (double)limit->burst_s : 1;
        throttle->bucket[i].read = rows[i / 2].read;
        throttle->bucket[i].write = rows[i / 2].write;
        throttle->bucket[i].bytes = rows[i / 2].bytes;
        if (!burst) {
            throttle->bucket[i].rate = (double)limit->rate;
            throttle->bucket[i].depth = limit->burst != 0 ? (double)limit->burst * length : (double)limit->rate / 10;
        } else if (limit->rate != 0 && limit->burst_s > 1) { /* else the depth alone holds it */
            throttle->bucket[i].rate = (double)limit->burst;
            throttle->bucket[i].depth = (double)limit->burst / 10;
        }
        throttle->on |= limit->rate != 0;
    }
    return throttle;
}

struct throttle *throttle_share(struct throttle *throttle)
{
    pthread_mutex_lock(&throttle->lock);
    throttle->users++;
    pthread_mutex_unlock(&throttle->lock);
    return throttle;
}

void throttle_put(struct throttle *throttle)
{
    pthread_mutex_lock(&throttle->lock);
    bool last = --throttle->users == 0;
    pthread_mutex_unlock(&throttle->lock);
    if (last) {
        pthread_mutex_destroy(&throttle->lock);
        free(throttle);
    }
}

bool throttle_is_on(const struct throttle *throttle)
{
    return throttle->on;
}

uint64_t throttle_take(struct throttle *throttle, bool write, uint64_t bytes, uint64_t now_ns)
{
    double wait = 0, operations = 1;
    pthread_mutex_lock(&throttle->lock);
    double elapsed = now_ns > throttle->leaked_ns ? (double)(now_ns - throttle->leaked_ns) / THROTTLE_NS : 0;
    throttle->leaked_ns = now_ns > throttle->leaked_ns ? now_ns : throttle->leaked_ns;
    if (throttle->iops_size > 0 && (double)bytes > throttle->iops_size) {
        operations = (double)bytes / throttle->iops_size;
    }
    for (unsigned i = 0; i < THROTTLE_BUCKETS; i++) {
        double level = throttle->bucket[i].level - elapsed * throttle->bucket[i].rate;
        throttle->bucket[i].level = level > 0 ? level : 0;
        double over = throttle->bucket[i].level - throttle->bucket[i].depth;
        bool counts = write ? throttle->bucket[i].write : throttle->bucket[i].read;
        if (counts && throttle->bucket[i].rate > 0 && over > 0 && over / throttle->bucket[i].rate > wait) {
            wait = over / throttle->bucket[i].rate;
        }
    }
    for (unsigned i = 0; i < THROTTLE_BUCKETS && wait <= 0; i++) {
        if (write ? throttle->bucket[i].write : throttle->bucket[i].read) {
            throttle->bucket[i].level += throttle->bucket[i].bytes ? (double)bytes : operations;
        }
    }
    pthread_mutex_unlock(&throttle->lock);
    return wait > 0 ? (uint64_t)(wait * THROTTLE_NS) + 1 : 0;
}
