/* SPDX-License-Identifier: MIT */
/* Requests that the format must work for: the worker, which alone changes an image's metadata, and the readers beside it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/front.h"
#include "util/thread.h"

#define BLOCK_BOUNCE_MAX (UINT64_C(1) << 26)

/* Reads and writes by the node go through one buffer; scattered ones through one of ours. */
static int block_perform_data(struct block *block, struct block_request *request)
{
    bool write = request->op == BLOCK_WRITE;
    if (request->iov_count == 1) {
        void *base = request->iov[0].iov_base;
        return write ? node_write(block->root, request->offset, base, request->bytes)
                     : node_read(block->root, request->offset, base, request->bytes);
    }
    uint64_t piece = request->bytes < BLOCK_BOUNCE_MAX ? request->bytes : BLOCK_BOUNCE_MAX;
    uint64_t align = block->root->alignment > 64 ? block->root->alignment : 64;
    uint8_t *bounce = aligned_alloc(align, (piece + align - 1) / align * align);
    if (bounce == NULL) {
        return -ENOMEM;
    }
    int result = 0;
    unsigned at = 0;
    size_t inside = 0;
    for (uint64_t done = 0; done < request->bytes && result == 0;) {
        uint64_t count = request->bytes - done < piece ? request->bytes - done : piece;
        if (!write) {
            result = node_read(block->root, request->offset + done, bounce, count);
        }
        for (uint64_t moved = 0; moved < count && result == 0;) {
            size_t length = request->iov[at].iov_len - inside;
            length = length < count - moved ? length : (size_t)(count - moved);
            uint8_t *user = (uint8_t *)request->iov[at].iov_base + inside;
            memcpy(write ? bounce + moved : user, write ? user : bounce + moved, length);
            moved += length;
            inside += length;
            if (inside == request->iov[at].iov_len) {
                at++;
                inside = 0;
            }
        }
        if (write && result == 0) {
            result = node_write(block->root, request->offset + done, bounce, count);
        }
        done += count;
    }
    free(bounce);
    return result;
}

static int block_perform(struct block *block, struct block_request *request)
{
    int result = 0;
    switch (request->op) {
    case BLOCK_READ:
        return request->bytes != 0 ? block_perform_data(block, request) : 0;
    case BLOCK_WRITE:
        result = request->bytes != 0 ? block_perform_data(block, request) : 0;
        break;
    case BLOCK_WRITE_ZEROES:
        result = node_write_zeroes(block->root, request->offset, request->bytes,
                                   request->flags & BLOCK_UNMAP && !block->config.discard_ignore ? NODE_UNMAP : 0);
        break;
    case BLOCK_DISCARD:
        return block->config.discard_ignore ? 0 : node_discard(block->root, request->offset, request->bytes);
    case BLOCK_FLUSH:
        return node_flush(block->root);
    }
    bool durable = (request->flags & BLOCK_FUA) != 0 || block->config.cache_writethrough;
    return result == 0 && durable ? node_flush(block->root) : result;
}

struct block_thread_start {
    struct block *block;
    int which;
};

static void *block_thread(void *opaque)
{
    struct block_thread_start start = *(struct block_thread_start *)opaque;
    struct block *block = start.block;
    free(opaque);
    pthread_mutex_lock(&block->lock);
    for (;;) {
        struct block_request *request = queue_take(&block->queue[start.which]);
        if (request != NULL) {
            pthread_mutex_unlock(&block->lock);
            block_end(block, request, block_perform(block, request), false);
            pthread_mutex_lock(&block->lock);
        } else if (block->stop) {
            break;
        } else {
            pthread_cond_wait(&block->work[start.which], &block->lock);
        }
    }
    pthread_mutex_unlock(&block->lock);
    return NULL;
}

int block_start_thread(struct block *block, int which)
{
    struct block_thread_start *start = malloc(sizeof(*start));
    if (start == NULL) {
        return -ENOMEM;
    }
    *start = (struct block_thread_start){block, which};
    int result = thread_start(&block->threads[block->thread_count], block_thread, start);
    if (result != 0) {
        free(start);
        return -result;
    }
    block->thread_count++;
    return 0;
}

void block_enqueue(struct block *block, struct block_request *request, int which)
{
    queue_put(&block->queue[which], request);
    pthread_cond_signal(&block->work[which]);
}
