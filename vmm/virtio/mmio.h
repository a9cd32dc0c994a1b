/* SPDX-License-Identifier: MIT */
/*
 * The transport of boards without PCI (virtio 1.2, 4.2): a page-less window of registers and a level-triggered line. Version 2 of
 * the registers only; there is no legacy interface.
 */
#ifndef KAGE_VIRTIO_MMIO_H
#define KAGE_VIRTIO_MMIO_H

#include <stdatomic.h>

#include "virtio/virtio.h"

#define VIRTIO_MMIO_BYTES 512u

struct virtio_mmio {
    struct virtio_device *device;
    struct irq irq;
    const struct doorbells *doorbells;
    uint64_t base;
    _Atomic uint32_t features_select, driver_features_select, queue_select;
    uint32_t isr; /* with the device's lock */
    unsigned doorbell_count;
};

extern const struct device_ops virtio_mmio_ops; /* VIRTIO_MMIO_BYTES */

/* `base`: where its registers are, for doorbells. The device outlives it. */
void virtio_mmio_init(struct virtio_mmio *mmio, struct virtio_device *device, const struct irq *irq, const struct doorbells *doorbells,
                      uint64_t base);
void virtio_mmio_fini(struct virtio_mmio *mmio);

#endif
