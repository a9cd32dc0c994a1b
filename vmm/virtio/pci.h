/* SPDX-License-Identifier: MIT */
/*
 * The PCI transport (virtio 1.2, 4.1): the modern interface in BAR 4, the legacy one in BAR 0 where the device is transitional,
 * MSI-X in BAR 1.
 *
 *   BAR 4   0000 common configuration | 1000 ISR | 2000 device configuration | 3000 notifications, 4 bytes a queue
 *   BAR 0   00 features, queue, status, ISR | 14 vectors, with MSI-X on | then the device's configuration
 */
#ifndef KAGE_VIRTIO_PCI_H
#define KAGE_VIRTIO_PCI_H

#include <stdatomic.h>

#include "dev/msix.h"
#include "dev/pci.h"
#include "virtio/virtio.h"

struct virtio_pci_options {
    bool legacy, modern; /* both: a transitional device */
    bool express; /* in a slot of PCI Express */
    unsigned vectors; /* 0: no MSI-X */
};

struct virtio_pci {
    struct virtio_device *device;
    struct pci_function function;
    struct msix msix;
    bool has_msix;
    const struct doorbells *doorbells;
    _Atomic uint32_t features_select, driver_features_select, queue_select;
    /* With the device's lock. */
    uint8_t isr;
    uint16_t config_vector;
    unsigned cfg_access; /* offset of the capability that accesses a BAR */
    unsigned modern_bells, legacy_bells; /* doorbells that are placed */
};

/* 0 or -errno; then the function may go on a bus. `msi`, `doorbells` may be NULL. The device outlives it. */
int virtio_pci_init(struct virtio_pci *pci, struct virtio_device *device, const struct virtio_pci_options *options, const struct msi *msi,
                    const struct doorbells *doorbells) __attribute__((warn_unused_result));
/* After pci_function_remove(). */
void virtio_pci_fini(struct virtio_pci *pci);

#endif
