/* SPDX-License-Identifier: MIT */
/* Plain requests: every byte lies in the file as it is, in a few pieces, and the kernel is asked for each of them. */
#include <stdlib.h>
#include <string.h>

#include "block/front.h"

#define BLOCK_IOV_MAX 1024u

/* A plain request in the kernel: it may lie in several pieces. */
struct block_parts {
    struct block_request *request;
    unsigned count, left;
    int result;
    struct block_part {
        struct aio_io io;
        struct block_parts *parts;
        uint64_t offset, bytes; /* on the disk */
        bool zero;              /* of a read: nothing is asked for */
    } part[BLOCK_PARTS_MAX];
    struct iovec iov[];
};

static void block_parts_end(struct block_parts *parts, int result)
{
    struct block_request *request = parts->request;
    struct block *block = request->block;
    if (result != 0 && parts->result == 0) {
        parts->result = result;
    }
    pthread_mutex_lock(&block->lock);
    bool last = --parts->left == 0;
    pthread_mutex_unlock(&block->lock);
    if (last) {
        block_end(block, request, parts->result, false);
        free(parts);
    }
}

/* On the reaping thread. What the kernel moved only in part is done once more, in full, by calls that wait (they know of the file's end). */
static int block_redo(struct block_part *part)
{
    struct block_request *request = part->parts->request;
    struct block_node *node = request->block->root;
    struct block_node *file = node->file;
    uint64_t offset = part->io.offset;
    int result = 0;
    for (unsigned i = 0; i < part->io.iov_count && result == 0; i++) {
        const struct iovec *iov = &part->io.iov[i];
        result = part->io.op == AIO_READ ? file->driver->read(file, offset, iov->iov_base, iov->iov_len)
                                         : file->driver->write(file, offset, iov->iov_base, iov->iov_len);
        offset += iov->iov_len;
    }
    return result == 0 && part->io.dsync ? node_flush(file) : result;
}

static void block_part_done(struct aio_io *io, int result)
{
    struct block_part *part = (struct block_part *)io; /* its first member */
    if (result >= 0) {
        result = (uint64_t)result == part->bytes ? 0 : block_redo(part);
    }
    block_parts_end(part->parts, result);
}

/* Copies the part of the request's iovec that [skip, skip + bytes) of it is. */
static unsigned block_slice(const struct block_request *request, uint64_t skip, uint64_t bytes, struct iovec *to)
{
    unsigned count = 0;
    for (unsigned i = 0; i < request->iov_count && bytes > 0; i++) {
        uint64_t length = request->iov[i].iov_len;
        if (skip >= length) {
            skip -= length;
            continue;
        }
        length -= skip;
        length = length < bytes ? length : bytes;
        if (length > 0) {
            to[count++] = (struct iovec){(uint8_t *)request->iov[i].iov_base + skip, length};
        }
        skip = 0;
        bytes -= length;
    }
    return count;
}

/* The kernel wants its buffers aligned as well; a protocol with its own I/O moves the bytes itself. */
static bool block_iov_aligned(const struct block *block, const struct iovec *iov, unsigned count, uint64_t offset, uint64_t bytes)
{
    uint64_t mask = offset | bytes;
    for (unsigned i = 0; i < count && block->root->file->driver->submit == NULL; i++) {
        mask |= (uintptr_t)iov[i].iov_base | iov[i].iov_len;
    }
    return (mask & (block->root->alignment - 1)) == 0;
}

struct block_parts *block_make_plain(struct block *block, struct block_request *request)
{
    struct block_extent extents[BLOCK_PARTS_MAX];
    unsigned count = 0;
    struct block_node *root = block->root;
    const struct block_driver *protocol = root->file->driver;
    int fd = protocol->fd != NULL ? protocol->fd(root->file) : -1;
    /* Where clusters are smaller than O_DIRECT's grain, a write reads and writes its neighbours too: one at a time. */
    if ((fd < 0 && protocol->submit == NULL) || root->driver->map_cached == NULL || request->iov_count > BLOCK_IOV_MAX || block->range_bytes < root->alignment) {
        return NULL;
    }
    for (uint64_t done = 0; done < request->bytes;) {
        struct block_extent *extent = &extents[count];
        if (count == BLOCK_PARTS_MAX || root->driver->map_cached(root, request->offset + done, request->bytes - done, extent) != 0) {
            return NULL;
        }
        bool data = (extent->flags & (EXTENT_DATA | EXTENT_OFFSET | EXTENT_COMPRESSED)) == (EXTENT_DATA | EXTENT_OFFSET);
        bool zero = (extent->flags & EXTENT_ZERO) != 0;
        if (request->op == BLOCK_READ ? !data && !zero : !data || !(extent->flags & EXTENT_WRITABLE)) {
            return NULL;
        }
        done += extent->bytes;
        count++;
    }
    struct block_parts *parts = malloc(sizeof(*parts) + (request->iov_count + 2 * (size_t)count) * sizeof(struct iovec));
    if (parts == NULL) {
        return NULL;
    }
    parts->request = request;
    parts->result = 0;
    parts->count = count;
    parts->left = 1; /* ours, until all are sent */
    struct iovec *iov = parts->iov;
    uint64_t done = 0;
    for (unsigned i = 0; i < count; i++) {
        struct block_part *part = &parts->part[i];
        unsigned iov_count = block_slice(request, done, extents[i].bytes, iov);
        if (!(extents[i].flags & EXTENT_ZERO) && !block_iov_aligned(block, iov, iov_count, extents[i].host_offset, extents[i].bytes)) {
            free(parts);
            return NULL;
        }
        part->parts = parts;
        part->offset = request->offset + done;
        part->bytes = extents[i].bytes;
        part->zero = (extents[i].flags & EXTENT_ZERO) != 0;
        part->io = (struct aio_io){
            .op = request->op == BLOCK_READ ? AIO_READ : AIO_WRITE,
            .dsync = request->op == BLOCK_WRITE && block_durable(block, request),
            .fd = fd,
            .offset = extents[i].host_offset,
            .iov = iov,
            .iov_count = iov_count,
            .done = block_part_done,
            .aio = block->aio,
        };
        iov += iov_count;
        done += extents[i].bytes;
    }
    return parts;
}

void block_send_plain(struct block *block, struct block_parts *parts)
{
    struct block_node *file = block->root->file;
    unsigned count = parts->count;
    bool zero[BLOCK_PARTS_MAX];
    for (unsigned i = 0; i < count; i++) {
        struct block_part *part = &parts->part[i];
        zero[i] = part->zero;
        for (unsigned j = 0; j < part->io.iov_count && zero[i]; j++) {
            memset(part->io.iov[j].iov_base, 0, part->io.iov[j].iov_len);
        }
        parts->left += !zero[i];
    }
    bool zeroes_only = --parts->left == 0;
    if (zeroes_only) {
        block_end(block, parts->request, 0, true);
        free(parts);
        return;
    }
    for (unsigned i = 0; i < count; i++) { /* behind the last submission `parts` may be gone */
        if (!zero[i] && file->driver->submit != NULL) {
            file->driver->submit(file, &parts->part[i].io, aio_end);
        } else if (!zero[i]) {
            aio_submit(block->aio, &parts->part[i].io);
        }
    }
}
