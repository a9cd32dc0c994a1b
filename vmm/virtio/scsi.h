/* SPDX-License-Identifier: MIT */
/*
 * The SCSI host device (virtio 1.2, 5.6): up to 256 targets of one logical unit each, disks and CD-ROM drives (disk/scsi.h).
 */
#ifndef KAGE_VIRTIO_SCSI_H
#define KAGE_VIRTIO_SCSI_H

#include "disk/scsi.h"
#include "virtio/virtio.h"

#define VIRTIO_SCSI_TARGETS 256u

struct virtio_scsi;

/* NULL with `error` filled. */
struct virtio_scsi *virtio_scsi_new(const struct virtio_options *options, uint16_t num_queues, uint16_t queue_size, struct loop *loop,
                                    const struct dma *dma, struct error *error);
/* Waits for what is in flight. */
void virtio_scsi_free(struct virtio_scsi *scsi);
struct virtio_device *virtio_scsi_device(struct virtio_scsi *scsi);

/*
 * Before the guest runs. `target`: -1: the first that is free; `at_target`, unless NULL: which it became. The disk is attached to the device's loop
 * and outlives it. 0; -EEXIST; -ENOSPC.
 */
int virtio_scsi_add(struct virtio_scsi *scsi, int target, const struct scsi_disk *disk, int *at_target);

#endif
