/* SPDX-License-Identifier: MIT */
/* The format that is none: the disk is the file. A last partial sector of the file is filled up with zeroes. */
#include <errno.h>

#include "block/node.h"

static int raw_open(struct block_node *node, struct error *error)
{
    (void)error;
    node->bytes = (node->file->bytes + 511) & ~UINT64_C(511);
    return 0;
}

static int raw_read(struct block_node *node, uint64_t offset, void *buffer, uint64_t bytes)
{
    return node->file->driver->read(node->file, offset, buffer, bytes);
}

static int raw_write(struct block_node *node, uint64_t offset, const void *buffer, uint64_t bytes)
{
    return node->file->driver->write(node->file, offset, buffer, bytes);
}

static int raw_write_zeroes(struct block_node *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    return node_write_zeroes(node->file, offset, bytes, flags);
}

static int raw_discard(struct block_node *node, uint64_t offset, uint64_t bytes)
{
    return node->file->driver->discard != NULL ? node->file->driver->discard(node->file, offset, bytes) : 0;
}

static int raw_map(struct block_node *node, uint64_t offset, uint64_t bytes, struct block_extent *extent)
{
    return node->file->driver->map(node->file, offset, bytes, extent);
}

static int raw_map_cached(struct block_node *node, uint64_t offset, uint64_t bytes, struct block_extent *extent)
{
    (void)node;
    *extent = (struct block_extent){.flags = EXTENT_DATA | EXTENT_OFFSET | EXTENT_WRITABLE | EXTENT_ALLOCATED, .bytes = bytes, .host_offset = offset};
    return 0;
}

static int raw_resize(struct block_node *node, uint64_t bytes, int prealloc, struct error *error)
{
    int result = node_resize(node->file, bytes, prealloc, error);
    if (result == 0) {
        node->bytes = bytes;
    }
    return result;
}

static int raw_info(struct block_node *node, struct node_info *info)
{
    (void)node;
    (void)info;
    return 0;
}

const struct block_driver raw_driver = {
    .name = "raw",
    .open = raw_open,
    .read = raw_read,
    .write = raw_write,
    .write_zeroes = raw_write_zeroes,
    .discard = raw_discard,
    .map = raw_map,
    .map_cached = raw_map_cached,
    .resize = raw_resize,
    .info = raw_info,
};
