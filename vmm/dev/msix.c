/* SPDX-License-Identifier: MIT */
#include "dev/msix.h"

#include <errno.h>
#include <string.h>

#include "util/log.h"

#define CAP_MSI 0x05u
#define CAP_MSIX 0x11u

/* MSI-X capability (6.8.2) */
#define MSIX_CONTROL 2u
#define MSIX_CONTROL_ENABLE 0x8000u
#define MSIX_CONTROL_MASK 0x4000u
#define MSIX_TABLE 4u
#define MSIX_PBA 8u
#define MSIX_CAP_BYTES 12u
#define ENTRY_DATA 8u
#define ENTRY_CONTROL 12u
#define ENTRY_MASKED 1u

/* MSI capability (6.8.1) with 64-bit addresses */
#define MSI_CONTROL 2u
#define MSI_CONTROL_ENABLE 0x0001u
#define MSI_CONTROL_64 0x0080u
#define MSI_ADDRESS 4u
#define MSI_DATA 12u
#define MSI_CAP_BYTES 14u

/* ---- MSI-X ---- */

static bool msix_vector_masked(const struct msix *msix, unsigned vector)
{
    return msix->masked || (msix->table[vector * MSIX_ENTRY_BYTES + ENTRY_CONTROL] & ENTRY_MASKED) != 0;
}

/* Gives the vector's route the message that stands in the table. False: there is no route to be had. */
static bool msix_route(struct msix *msix, unsigned vector)
{
    const uint8_t *entry = msix->table + vector * MSIX_ENTRY_BYTES;
    uint64_t address;
    uint32_t data;
    memcpy(&address, entry, sizeof(address));
    memcpy(&data, entry + ENTRY_DATA, sizeof(data));
    bool fresh = msix->vectors[vector].route < 0;
    if (fresh) {
        msix->vectors[vector].route = msix->msi->open(msix->msi->opaque);
    }
    if (msix->vectors[vector].route < 0) {
        log_line(LOG_GUEST, "%s: no route for vector %u: %s", msix->function->name, vector, strerror(-msix->vectors[vector].route));
        return false;
    }
    if (fresh || msix->vectors[vector].address != address || msix->vectors[vector].data != data) {
        msix->msi->set(msix->msi->opaque, msix->vectors[vector].route, address, data);
        msix->vectors[vector].address = address;
        msix->vectors[vector].data = data;
    }
    return true;
}

/* What became possible by a change of masks is sent now; a message is put into its route when it can first be sent. */
static void msix_update(struct msix *msix, unsigned vector)
{
    if (!msix->enabled || msix_vector_masked(msix, vector) || !msix_route(msix, vector)) {
        return;
    }
    uint64_t bit = UINT64_C(1) << vector % 64;
    if ((msix->pending[vector / 64] & bit) != 0) {
        msix->pending[vector / 64] &= ~bit;
        msix->msi->signal(msix->msi->opaque, msix->vectors[vector].route);
    }
}

static uint64_t msix_read(void *self, uint64_t offset, unsigned size)
{
    struct msix *msix = self;
    uint64_t value = 0;
    pthread_mutex_lock(&msix->lock);
    if (offset + size <= msix->count * MSIX_ENTRY_BYTES) {
        memcpy(&value, msix->table + offset, size);
    } else if (offset >= MSIX_PBA_AT && offset + size <= MSIX_PBA_AT + sizeof(msix->pending)) {
        memcpy(&value, (const uint8_t *)msix->pending + (offset - MSIX_PBA_AT), size);
    }
    pthread_mutex_unlock(&msix->lock);
    return value;
}

/* Double words and quad words only (6.8.2); pending bits are read-only. */
static void msix_write(void *self, uint64_t offset, unsigned size, uint64_t value)
{
    struct msix *msix = self;
    if (size < 4 || offset % size != 0 || offset + size > msix->count * MSIX_ENTRY_BYTES) {
        return;
    }
    pthread_mutex_lock(&msix->lock);
    memcpy(msix->table + offset, &value, size);
    msix_update(msix, (unsigned)(offset / MSIX_ENTRY_BYTES));
    pthread_mutex_unlock(&msix->lock);
}

const struct device_ops msix_ops = {.name = "MSI-X", .read = msix_read, .write = msix_write};

static void msix_clear(struct msix *msix)
{
    memset(msix->table, 0, sizeof(msix->table));
    memset(msix->pending, 0, sizeof(msix->pending));
    for (unsigned i = 0; i < msix->count; i++) {
        msix->table[i * MSIX_ENTRY_BYTES + ENTRY_CONTROL] = ENTRY_MASKED;
    }
    msix->enabled = msix->masked = false;
}

int msix_init(struct msix *msix, struct pci_function *function, unsigned bar, unsigned count, const struct msi *msi)
{
    memset(msix, 0, sizeof(*msix));
    int capability = pci_add_capability(function, CAP_MSIX, MSIX_CAP_BYTES);
    if (capability < 0) {
        return capability;
    }
    pthread_mutex_init(&msix->lock, NULL);
    msix->msi = msi;
    msix->function = function;
    msix->capability = (unsigned)capability;
    msix->count = count;
    for (unsigned i = 0; i < MSIX_VECTORS_MAX; i++) {
        msix->vectors[i].route = -1;
    }
    uint8_t *cap = function->config + capability;
    pci_set_word(cap, MSIX_CONTROL, (uint16_t)(count - 1));
    function->writable[capability + MSIX_CONTROL + 1] = (MSIX_CONTROL_ENABLE | MSIX_CONTROL_MASK) >> 8;
    pci_set_long(cap, MSIX_TABLE, bar);
    pci_set_long(cap, MSIX_PBA, MSIX_PBA_AT | bar);
    function->bars[bar] = (struct pci_bar){.bytes = MSIX_BAR_BYTES, .ops = &msix_ops, .device = msix};
    msix_clear(msix);
    return 0;
}

void msix_fini(struct msix *msix)
{
    for (unsigned i = 0; i < msix->count; i++) {
        if (msix->vectors[i].route >= 0) {
            msix->msi->close(msix->msi->opaque, msix->vectors[i].route);
        }
    }
    pthread_mutex_destroy(&msix->lock);
}

void msix_written(struct msix *msix)
{
    uint16_t control = pci_get_word(msix->function->config, msix->capability + MSIX_CONTROL);
    pthread_mutex_lock(&msix->lock);
    bool enabled = (control & MSIX_CONTROL_ENABLE) != 0, masked = (control & MSIX_CONTROL_MASK) != 0;
    if (enabled != msix->enabled || masked != msix->masked) {
        msix->enabled = enabled;
        msix->masked = masked;
        for (unsigned i = 0; i < msix->count; i++) {
            msix_update(msix, i);
        }
    }
    pthread_mutex_unlock(&msix->lock);
}

bool msix_enabled(struct msix *msix)
{
    pthread_mutex_lock(&msix->lock);
    bool enabled = msix->enabled;
    pthread_mutex_unlock(&msix->lock);
    return enabled;
}

void msix_signal(struct msix *msix, unsigned vector)
{
    pthread_mutex_lock(&msix->lock);
    if (vector < msix->count && msix->enabled) {
        if (msix_vector_masked(msix, vector)) {
            msix->pending[vector / 64] |= UINT64_C(1) << vector % 64;
        } else if (msix->vectors[vector].route >= 0) {
            msix->msi->signal(msix->msi->opaque, msix->vectors[vector].route);
        }
    }
    pthread_mutex_unlock(&msix->lock);
}

/* ---- MSI ---- */

int msi_init(struct msi_capability *cap, struct pci_function *function, const struct msi *msi)
{
    memset(cap, 0, sizeof(*cap));
    int capability = pci_add_capability(function, CAP_MSI, MSI_CAP_BYTES);
    if (capability < 0) {
        return capability;
    }
    pthread_mutex_init(&cap->lock, NULL);
    cap->msi = msi;
    cap->function = function;
    cap->capability = (unsigned)capability;
    cap->route = -1;
    uint8_t *writable = function->writable + capability;
    pci_set_word(function->config, cap->capability + MSI_CONTROL, MSI_CONTROL_64);
    writable[MSI_CONTROL] = MSI_CONTROL_ENABLE;
    memset(writable + MSI_ADDRESS, 0xff, 8);
    writable[MSI_ADDRESS] = 0xfc;
    memset(writable + MSI_DATA, 0xff, 2);
    return 0;
}

void msi_fini(struct msi_capability *cap)
{
    if (cap->route >= 0) {
        cap->msi->close(cap->msi->opaque, cap->route);
    }
    pthread_mutex_destroy(&cap->lock);
}

void msi_written(struct msi_capability *cap)
{
    const uint8_t *config = cap->function->config + cap->capability;
    pthread_mutex_lock(&cap->lock);
    uint64_t address = pci_get_long(config, MSI_ADDRESS) | (uint64_t)pci_get_long(config, MSI_ADDRESS + 4) << 32;
    uint32_t data = pci_get_word(config, MSI_DATA);
    cap->enabled = (pci_get_word(config, MSI_CONTROL) & MSI_CONTROL_ENABLE) != 0;
    if (cap->enabled && (cap->route < 0 || cap->address != address || cap->data != data)) {
        cap->route = cap->route < 0 ? cap->msi->open(cap->msi->opaque) : cap->route;
        if (cap->route >= 0) {
            cap->msi->set(cap->msi->opaque, cap->route, address, data);
            cap->address = address;
            cap->data = data;
        } else {
            log_line(LOG_GUEST, "%s: no route for its message: %s", cap->function->name, strerror(-cap->route));
        }
    }
    pthread_mutex_unlock(&cap->lock);
}

bool msi_signal(struct msi_capability *cap)
{
    pthread_mutex_lock(&cap->lock);
    bool enabled = cap->enabled;
    if (enabled && cap->route >= 0) {
        cap->msi->signal(cap->msi->opaque, cap->route);
    }
    pthread_mutex_unlock(&cap->lock);
    return enabled;
}
