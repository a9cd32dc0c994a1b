/* SPDX-License-Identifier: MIT */
/* Limits on the requests and bytes per second of a disk, or of several together: leaky buckets, two for each limit. */
#ifndef KAGE_BLOCK_THROTTLE_H
#define KAGE_BLOCK_THROTTLE_H

#include <stdbool.h>
#include <stdint.h>

#include "block/block.h"

struct throttle;

/* NULL: no memory. */
struct throttle *throttle_new(const struct block_throttle *limits, uint64_t now_ns);
struct throttle *throttle_share(struct throttle *throttle);
/* The last one that has it frees it. */
void throttle_put(struct throttle *throttle);
bool throttle_is_on(const struct throttle *throttle);
/* 0: the request may go, and is counted; else ns to wait before asking again. From any thread. */
uint64_t throttle_take(struct throttle *throttle, bool write, uint64_t bytes, uint64_t now_ns);

#endif
