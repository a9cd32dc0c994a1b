/* SPDX-License-Identifier: MIT */
/* Limits on a disk's requests and bytes per second: leaky buckets, one for each limit. */
#ifndef KAGE_BLOCK_THROTTLE_H
#define KAGE_BLOCK_THROTTLE_H

#include <stdbool.h>
#include <stdint.h>

#include "block/block.h"

enum { THROTTLE_BPS_TOTAL, THROTTLE_BPS_READ, THROTTLE_BPS_WRITE, THROTTLE_IOPS_TOTAL, THROTTLE_IOPS_READ, THROTTLE_IOPS_WRITE, THROTTLE_BUCKETS };

struct throttle {
    bool on;
    uint64_t leaked_ns; /* when the buckets were last looked at */
    struct {
        double rate; /* per second; 0: no limit */
        double depth;
        double level;
    } bucket[THROTTLE_BUCKETS];
};

void throttle_init(struct throttle *throttle, const struct block_throttle *limits, uint64_t now_ns);
/* 0: the request may go, and is counted; else ns to wait before asking again. */
uint64_t throttle_take(struct throttle *throttle, bool write, uint64_t bytes, uint64_t now_ns);

#endif
