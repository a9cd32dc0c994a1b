/* SPDX-License-Identifier: MIT */
/*
 * The block device (virtio 1.2, 5.2), in front of a disk of block/block.h.
 */
#ifndef KAGE_VIRTIO_BLK_H
#define KAGE_VIRTIO_BLK_H

#include "block/block.h"
#include "dev/disk_error.h"
#include "virtio/virtio.h"

#define VIRTIO_BLK_SERIAL_BYTES 20u

struct virtio_blk_config {
    struct virtio_options virtio;
    char serial[VIRTIO_BLK_SERIAL_BYTES + 1];
    uint16_t num_queues, queue_size;
    uint32_t logical_block_size, physical_block_size; /* powers of 2, at least 512 */
    uint32_t min_io_size, opt_io_size;                /* bytes; 0: not said */
    bool write_cache, config_wce, discard, write_zeroes, read_only;
    struct disk_errors errors;
};

struct virtio_blk;

/* The disk is attached to `loop`, and outlives the device. NULL with `error` filled. */
struct virtio_blk *virtio_blk_new(const struct virtio_blk_config *config, struct block *block, struct loop *loop, const struct dma *dma,
                                  struct error *error);
/* Waits for what is in flight. */
void virtio_blk_free(struct virtio_blk *blk);
struct virtio_device *virtio_blk_device(struct virtio_blk *blk);

#endif
