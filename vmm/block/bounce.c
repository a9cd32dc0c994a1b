/* SPDX-License-Identifier: MIT */
/*
 * What protocols do for requests that their medium does not take as they are: unaligned ones go through an aligned buffer, zeroes as data.
 */
#include "block/bounce.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BOUNCE_BYTES (1u << 20)

int node_bounce(struct block_node *node, const struct node_whole *whole, pthread_mutex_t *lock, uint64_t offset, uint8_t *to, const uint8_t *from,
                uint64_t bytes)
{
    uint64_t align = node->alignment;
    uint8_t *bounce = aligned_alloc(align, BOUNCE_BYTES);
    int result = bounce == NULL ? -ENOMEM : 0;
    while (bytes > 0 && result == 0) {
        uint64_t first = offset & ~(align - 1), head = offset - first;
        uint64_t count = BOUNCE_BYTES - head < bytes ? BOUNCE_BYTES - head : bytes;
        uint64_t blocks = (head + count + align - 1) & ~(align - 1);
        if (from == NULL) {
            result = whole->read(node, first, bounce, blocks);
            if (result == 0) {
                memcpy(to, bounce + head, count);
            }
            to += count;
        } else {
            pthread_mutex_lock(lock);
            result = head != 0 || blocks != count ? whole->read(node, first, bounce, blocks) : 0;
            if (result == 0) {
                memcpy(bounce + head, from, count);
                result = whole->write(node, first, bounce, blocks);
            }
            pthread_mutex_unlock(lock);
            from += count;
        }
        offset += count;
        bytes -= count;
    }
    free(bounce);
    return result;
}

int node_write_as_data(struct block_node *node, uint64_t offset, uint64_t bytes)
{
    static const uint8_t zeroes[65536];
    int result = 0;
    while (bytes > 0 && result == 0) {
        uint64_t count = bytes < sizeof(zeroes) ? bytes : sizeof(zeroes);
        result = node->driver->write(node, offset, zeroes, count);
        offset += count;
        bytes -= count;
    }
    return result;
}
