/* SPDX-License-Identifier: MIT */
/*
 * For drivers of protocols (bounce.c).
 */
#ifndef KAGE_BLOCK_BOUNCE_H
#define KAGE_BLOCK_BOUNCE_H

#include <pthread.h>

#include "block/node.h"

/* Blocks of node->alignment, in memory that is aligned so too. 0 or -errno. */
struct node_whole {
    int (*read)(struct block_node *node, uint64_t offset, void *buffer, uint64_t bytes);
    int (*write)(struct block_node *node, uint64_t offset, const void *buffer, uint64_t bytes);
};
/* Piece by piece through an aligned buffer; `from` NULL: a read. A write reads, changes and writes, with `lock` held. */
int node_bounce(struct block_node *node, const struct node_whole *whole, pthread_mutex_t *lock, uint64_t offset, uint8_t *to, const uint8_t *from,
                uint64_t bytes);
/* Zeroes by the driver's write. */
int node_write_as_data(struct block_node *node, uint64_t offset, uint64_t bytes);

#endif
