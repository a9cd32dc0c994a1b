/* SPDX-License-Identifier: MIT */
/*
 * The entropy device (virtio 1.2, 5.4): buffers of the driver's are filled with random bytes of the host's.
 */
#ifndef KAGE_VIRTIO_RNG_H
#define KAGE_VIRTIO_RNG_H

#include "virtio/virtio.h"

struct virtio_rng_config {
    struct virtio_options virtio;
    const char *filename; /* of a device that gives random bytes at once; NULL: getrandom(2) */
    uint64_t max_bytes;   /* in `period_ms`; UINT64_MAX: no limit */
    uint32_t period_ms;
};

struct virtio_rng;

/* NULL with `error` filled. */
struct virtio_rng *virtio_rng_new(const struct virtio_rng_config *config, struct loop *loop, const struct dma *dma, struct error *error);
void virtio_rng_free(struct virtio_rng *rng);
struct virtio_device *virtio_rng_device(struct virtio_rng *rng);

#endif
