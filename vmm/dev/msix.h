/* SPDX-License-Identifier: MIT */
/*
 * Message-signalled interrupts of a PCI function (PCI 3.0, 6.8): the MSI-X capability with its table and pending bits in a BAR, and the
 * simpler MSI capability with one message.
 *
 *   table entry   16 bytes: address 64 | data 32 | vector control 32, bit 0: masked
 */
#ifndef KAGE_DEV_MSIX_H
#define KAGE_DEV_MSIX_H

#include <pthread.h>
#include <stdint.h>

#include "dev/device.h"
#include "dev/pci.h"

#define MSIX_VECTORS_MAX 128u
#define MSIX_ENTRY_BYTES 16u
#define MSIX_PBA_AT 0x800u /* in the BAR, behind the table */
#define MSIX_BAR_BYTES 0x1000u

struct msix {
    pthread_mutex_t lock;
    const struct msi *msi;
    struct pci_function *function;
    unsigned capability; /* its offset in configuration space */
    unsigned count;
    bool enabled, masked; /* as the capability says */
    uint8_t table[MSIX_VECTORS_MAX * MSIX_ENTRY_BYTES];
    uint64_t pending[MSIX_VECTORS_MAX / 64];
    struct {
        int route; /* -1: none yet */
        uint64_t address;
        uint32_t data;
    } vectors[MSIX_VECTORS_MAX];
};

extern const struct device_ops msix_ops; /* MSIX_BAR_BYTES, of struct msix */

/* Adds the capability and a BAR. `count`: 1 to MSIX_VECTORS_MAX. 0 or -errno. */
int msix_init(struct msix *msix, struct pci_function *function, unsigned bar, unsigned count, const struct msi *msi)
    __attribute__((warn_unused_result));
void msix_fini(struct msix *msix);
void msix_reset(struct msix *msix);
/* Configuration space was written. */
void msix_written(struct msix *msix);
bool msix_enabled(struct msix *msix);
/* A vector that there is not is nothing. From any thread. */
void msix_signal(struct msix *msix, unsigned vector);

/* The MSI capability: a 64-bit address, one message, no mask. */
struct msi_capability {
    pthread_mutex_t lock;
    const struct msi *msi;
    struct pci_function *function;
    unsigned capability;
    int route;
    bool enabled;
    uint64_t address;
    uint32_t data;
};

int msi_init(struct msi_capability *cap, struct pci_function *function, const struct msi *msi) __attribute__((warn_unused_result));
void msi_fini(struct msi_capability *cap);
void msi_written(struct msi_capability *cap);
/* False: MSI is off, and the pin is to be used. */
bool msi_signal(struct msi_capability *cap);

#endif
