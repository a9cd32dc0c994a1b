/* SPDX-License-Identifier: MIT */
/* Leaky buckets: a request may go while no bucket that it counts in is over its depth, and then fills them; so one request is never too big. */
#include "block/throttle.h"

#define THROTTLE_NS 1e9

void throttle_init(struct throttle *throttle, const struct block_throttle *limits, uint64_t now_ns)
{
    const uint64_t rate[THROTTLE_BUCKETS] = {limits->bps_total, limits->bps_read, limits->bps_write,
                                             limits->iops_total, limits->iops_read, limits->iops_write};
    const uint64_t depth[THROTTLE_BUCKETS] = {limits->bps_total_max, limits->bps_read_max, limits->bps_write_max,
                                              limits->iops_total_max, limits->iops_read_max, limits->iops_write_max};
    *throttle = (struct throttle){.leaked_ns = now_ns};
    for (unsigned i = 0; i < THROTTLE_BUCKETS; i++) {
        throttle->bucket[i].rate = (double)rate[i];
        throttle->bucket[i].depth = depth[i] != 0 ? (double)depth[i] : (double)rate[i] / 10;
        throttle->on |= rate[i] != 0;
    }
}

uint64_t throttle_take(struct throttle *throttle, bool write, uint64_t bytes, uint64_t now_ns)
{
    const bool counts[THROTTLE_BUCKETS] = {true, !write, write, true, !write, write};
    double elapsed = (double)(now_ns - throttle->leaked_ns) / THROTTLE_NS, wait = 0;
    throttle->leaked_ns = now_ns;
    for (unsigned i = 0; i < THROTTLE_BUCKETS; i++) {
        double level = throttle->bucket[i].level - elapsed * throttle->bucket[i].rate;
        throttle->bucket[i].level = level > 0 ? level : 0;
        double over = throttle->bucket[i].level - throttle->bucket[i].depth;
        if (counts[i] && throttle->bucket[i].rate > 0 && over > 0 && over / throttle->bucket[i].rate > wait) {
            wait = over / throttle->bucket[i].rate;
        }
    }
    if (wait > 0) {
        return (uint64_t)(wait * THROTTLE_NS) + 1;
    }
    for (unsigned i = 0; i < THROTTLE_BUCKETS; i++) {
        if (counts[i]) {
            throttle->bucket[i].level += i < THROTTLE_IOPS_TOTAL ? (double)bytes : 1;
        }
    }
    return 0;
}
