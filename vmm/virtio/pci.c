/* SPDX-License-Identifier: MIT */
#include "virtio/pci.h"

#include <string.h>

#define VENDOR 0x1af4u
#define MODERN_ID 0x1040u /* plus the device type */
#define MODERN_SUBSYSTEM 0x1100u
#define REVISION_MODERN 1u
#define BAR_LEGACY 0u
#define BAR_MSIX 1u
#define BAR_MODERN 4u
#define MODERN_BYTES 0x4000u
#define ISR_AT 0x1000u
#define DEVICE_AT 0x2000u
#define NOTIFY_AT 0x3000u
#define NOTIFY_STEP 4u
#define PAGE 0x1000u

/* What PCI calls device types (4.1.2): the transitional device ID, the class. */
static const struct {
    uint16_t type, legacy_id, class;
} pci_types[] = {
    {1, 0x1000, 0x0200}, /* network */
    {2, 0x1001, 0x0100}, /* block */
    {3, 0x1003, 0x0780}, /* console */
    {4, 0x1005, 0x00ff}, /* entropy */
    {5, 0x1002, 0x00ff}, /* balloon */
    {8, 0x1004, 0x0100}, /* SCSI host */
};

/* ---- Fields that both interfaces have ---- */

static struct virtqueue *pci_selected(struct virtio_pci *pci)
{
    return virtio_queue(pci->device, atomic_load(&pci->queue_select));
}

/* A vector that there is not reads back as none (4.1.5.1.2). */
static uint16_t pci_vector(const struct virtio_pci *pci, uint64_t value)
{
    return pci->has_msix && value < pci->msix.count ? (uint16_t)value : VIRTIO_NO_VECTOR;
}

static uint32_t pci_read_config_vector(struct virtio_pci *pci)
{
    virtio_lock(pci->device);
    uint32_t vector = pci->config_vector;
    virtio_unlock(pci->device);
    return vector;
}

static void pci_write_config_vector(struct virtio_pci *pci, uint32_t value)
{
    virtio_lock(pci->device);
    pci->config_vector = pci_vector(pci, value);
    virtio_unlock(pci->device);
}

static uint32_t pci_read_queue_vector(struct virtio_pci *pci)
{
    const struct virtqueue *queue = pci_selected(pci);
    virtio_lock(pci->device);
    uint32_t vector = queue != NULL ? queue->vector : VIRTIO_NO_VECTOR;
    virtio_unlock(pci->device);
    return vector;
}

static void pci_write_queue_vector(struct virtio_pci *pci, uint32_t value)
{
    struct virtqueue *queue = pci_selected(pci);
    virtio_lock(pci->device);
    if (queue != NULL) {
        queue->vector = pci_vector(pci, value);
    }
    virtio_unlock(pci->device);
}

static uint32_t pci_read_status(struct virtio_pci *pci)
{
    return virtio_status(pci->device);
}

static void pci_write_status(struct virtio_pci *pci, uint32_t value)
{
    virtio_set_status(pci->device, (uint8_t)value);
}

static uint32_t pci_read_queue_select(struct virtio_pci *pci)
{
    return atomic_load(&pci->queue_select);
}

static void pci_write_queue_select(struct virtio_pci *pci, uint32_t value)
{
    atomic_store(&pci->queue_select, value);
}

static uint32_t pci_read_queue_size(struct virtio_pci *pci)
{
    const struct virtqueue *queue = pci_selected(pci);
    virtio_lock(pci->device);
    uint32_t size = queue != NULL ? queue->size : 0;
    virtio_unlock(pci->device);
    return size;
}

/* Reading clears it, and takes the pin down. */
static uint32_t pci_read_isr(struct virtio_pci *pci)
{
    virtio_lock(pci->device);
    uint32_t isr = pci->isr;
    pci->isr = 0;
    irq_set(&pci->function.intx, false);
    virtio_unlock(pci->device);
    return isr;
}

/* ---- The modern interface's common configuration (4.1.4.3) ---- */

static uint32_t pci_read_features_select(struct virtio_pci *pci)
{
    return atomic_load(&pci->features_select);
}

static void pci_write_features_select(struct virtio_pci *pci, uint32_t value)
{
    atomic_store(&pci->features_select, value);
}

static uint32_t pci_read_offered(struct virtio_pci *pci)
{
    return virtio_offered_word(pci->device, atomic_load(&pci->features_select));
}

static uint32_t pci_read_driver_features_select(struct virtio_pci *pci)
{
    return atomic_load(&pci->driver_features_select);
}

static void pci_write_driver_features_select(struct virtio_pci *pci, uint32_t value)
{
    atomic_store(&pci->driver_features_select, value);
}

static uint32_t pci_read_features(struct virtio_pci *pci)
{
    return virtio_features_word(pci->device, atomic_load(&pci->driver_features_select));
}

static void pci_write_features(struct virtio_pci *pci, uint32_t value)
{
    virtio_set_features_word(pci->device, atomic_load(&pci->driver_features_select), value);
}

static uint32_t pci_read_queue_count(struct virtio_pci *pci)
{
    return pci->device->queue_count;
}

static uint32_t pci_read_generation(struct virtio_pci *pci)
{
    virtio_lock(pci->device);
    uint32_t generation = pci->device->config_generation;
    virtio_unlock(pci->device);
    return generation;
}

static void pci_write_queue_size(struct virtio_pci *pci, uint32_t value)
{
    struct virtqueue *queue = pci_selected(pci);
    if (queue != NULL) {
        virtio_set_queue_size(pci->device, queue, value);
    }
}

static uint32_t pci_read_queue_enable(struct virtio_pci *pci)
{
    const struct virtqueue *queue = pci_selected(pci);
    virtio_lock(pci->device);
    bool enabled = queue != NULL && queue->enabled;
    virtio_unlock(pci->device);
    return enabled;
}

/* Writing 0 does nothing: only a reset disables a queue. */
static void pci_write_queue_enable(struct virtio_pci *pci, uint32_t value)
{
    struct virtqueue *queue = pci_selected(pci);
    if (queue != NULL && value == 1) {
        virtio_enable_queue(pci->device, queue);
    }
}

static uint32_t pci_read_queue_notify_off(struct virtio_pci *pci)
{
    const struct virtqueue *queue = pci_selected(pci);
    return queue != NULL ? queue->index : 0;
}

static uint32_t pci_read_queue_reset(struct virtio_pci *pci)
{
    const struct virtqueue *queue = pci_selected(pci);
    virtio_lock(pci->device);
    bool resetting = queue != NULL && queue->resetting;
    virtio_unlock(pci->device);
    return resetting;
}

static void pci_write_queue_reset(struct virtio_pci *pci, uint32_t value)
{
    struct virtqueue *queue = pci_selected(pci);
    bool agreed = (virtio_features_word(pci->device, 1) & VIRTIO_F_RING_RESET >> 32) != 0;
    if (queue != NULL && value == 1 && agreed && (virtio_status(pci->device) & VIRTIO_STATUS_FEATURES_OK) != 0) {
        virtio_reset_queue(pci->device, queue);
    }
}

/* ---- The legacy interface (4.1.4.10) ---- */

static uint32_t legacy_read_offered(struct virtio_pci *pci)
{
    return virtio_offered_word(pci->device, 0);
}

static uint32_t legacy_read_features(struct virtio_pci *pci)
{
    return virtio_features_word(pci->device, 0);
}

static void legacy_write_features(struct virtio_pci *pci, uint32_t value)
{
    virtio_set_features_word(pci->device, 0, value & virtio_offered_word(pci->device, 0));
}

static uint32_t legacy_read_pfn(struct virtio_pci *pci)
{
    const struct virtqueue *queue = pci_selected(pci);
    virtio_lock(pci->device);
    uint32_t pfn = queue != NULL && queue->enabled ? (uint32_t)(queue->gpa[VIRTQUEUE_DESC] / PAGE) : 0;
    virtio_unlock(pci->device);
    return pfn;
}

static void legacy_write_pfn(struct virtio_pci *pci, uint32_t value)
{
    struct virtqueue *queue = pci_selected(pci);
    if (queue != NULL) {
        virtio_set_queue_pfn(pci->device, queue, value);
    }
}

static void legacy_notify(struct virtio_pci *pci, uint32_t value)
{
    virtio_kick_queue(pci->device, value);
}

/* ---- Registers ---- */

struct pci_register {
    uint8_t offset, bytes;
    uint32_t (*read)(struct virtio_pci *pci);
    void (*write)(struct virtio_pci *pci, uint32_t value);
};

static const struct pci_register common_registers[] = {
    {0x00, 4, pci_read_features_select, pci_write_features_select},
    {0x04, 4, pci_read_offered, NULL},
    {0x08, 4, pci_read_driver_features_select, pci_write_driver_features_select},
    {0x0c, 4, pci_read_features, pci_write_features},
    {0x10, 2, pci_read_config_vector, pci_write_config_vector},
    {0x12, 2, pci_read_queue_count, NULL},
    {0x14, 1, pci_read_status, pci_write_status},
    {0x15, 1, pci_read_generation, NULL},
    {0x16, 2, pci_read_queue_select, pci_write_queue_select},
    {0x18, 2, pci_read_queue_size, pci_write_queue_size},
    {0x1a, 2, pci_read_queue_vector, pci_write_queue_vector},
    {0x1c, 2, pci_read_queue_enable, pci_write_queue_enable},
    {0x1e, 2, pci_read_queue_notify_off, NULL},
    {0x3a, 2, pci_read_queue_reset, pci_write_queue_reset},
};
#define ADDRESSES_AT 0x20u /* three of 64 bits, by enum virtqueue_part */
#define ADDRESSES_END 0x38u
#define COMMON_BYTES 0x3cu

static const struct pci_register legacy_registers[] = {
    {0x00, 4, legacy_read_offered, NULL},
    {0x04, 4, legacy_read_features, legacy_write_features},
    {0x08, 4, legacy_read_pfn, legacy_write_pfn},
    {0x0c, 2, pci_read_queue_size, NULL},
    {0x0e, 2, pci_read_queue_select, pci_write_queue_select},
    {0x10, 2, NULL, legacy_notify},
    {0x12, 1, pci_read_status, pci_write_status},
    {0x13, 1, pci_read_isr, NULL},
    {0x14, 2, pci_read_config_vector, pci_write_config_vector}, /* these two with MSI-X on only */
    {0x16, 2, pci_read_queue_vector, pci_write_queue_vector},
};
#define LEGACY_NOTIFY 0x10u
#define LEGACY_CONFIG 0x14u
#define LEGACY_CONFIG_MSIX 0x18u

#define FIND(table, offset, size) pci_find(table, sizeof(table) / sizeof(table[0]), offset, size)

/* By the field's own width only (4.1.3.1). */
static const struct pci_register *pci_find(const struct pci_register *table, size_t count, uint64_t offset, unsigned size)
{
    for (size_t i = 0; i < count; i++) {
        if (table[i].offset == offset && table[i].bytes == size) {
            return &table[i];
        }
    }
    return NULL;
}

static uint64_t pci_read_common(struct virtio_pci *pci, uint64_t offset, unsigned size)
{
    if (offset >= ADDRESSES_AT && offset < ADDRESSES_END && offset % size == 0 && size >= 4) {
        const struct virtqueue *queue = pci_selected(pci);
        virtio_lock(pci->device);
        uint64_t address = queue != NULL ? queue->gpa[(offset - ADDRESSES_AT) / 8] : 0;
        virtio_unlock(pci->device);
        return address >> offset % 8 * 8;
    }
    const struct pci_register *found = FIND(common_registers, offset, size);
    return found != NULL && found->read != NULL ? found->read(pci) : 0;
}

static void pci_write_common(struct virtio_pci *pci, uint64_t offset, unsigned size, uint64_t value)
{
    if (offset >= ADDRESSES_AT && offset < ADDRESSES_END && offset % size == 0 && size >= 4) {
        struct virtqueue *queue = pci_selected(pci);
        enum virtqueue_part part = (enum virtqueue_part)((offset - ADDRESSES_AT) / 8);
        if (queue != NULL) {
            virtio_set_queue_address(pci->device, queue, part, offset % 8 != 0, (uint32_t)value);
        }
        if (queue != NULL && size == 8) {
            virtio_set_queue_address(pci->device, queue, part, true, (uint32_t)(value >> 32));
        }
        return;
    }
    const struct pci_register *found = FIND(common_registers, offset, size);
    if (found != NULL && found->write != NULL) {
        found->write(pci, (uint32_t)value);
    }
}

static uint64_t pci_read(void *self, uint64_t offset, unsigned size)
{
    struct virtio_pci *pci = self;
    if (offset < ISR_AT) {
        return pci_read_common(pci, offset, size);
    }
    if (offset >= DEVICE_AT && offset < NOTIFY_AT) {
        return virtio_config_read(pci->device, offset - DEVICE_AT, size);
    }
    return offset == ISR_AT ? pci_read_isr(pci) : 0;
}

static void pci_write(void *self, uint64_t offset, unsigned size, uint64_t value)
{
    struct virtio_pci *pci = self;
    if (offset < ISR_AT) {
        pci_write_common(pci, offset, size, value);
    } else if (offset >= NOTIFY_AT) {
        virtio_kick_queue(pci->device, (uint32_t)(offset - NOTIFY_AT) / NOTIFY_STEP);
    } else if (offset >= DEVICE_AT) {
        virtio_config_write(pci->device, offset - DEVICE_AT, size, value);
    }
}

static const struct device_ops pci_modern_ops = {.name = "virtio-pci", .read = pci_read, .write = pci_write};

static unsigned legacy_config_at(struct virtio_pci *pci)
{
    return pci->has_msix && msix_enabled(&pci->msix) ? LEGACY_CONFIG_MSIX : LEGACY_CONFIG;
}

static uint64_t legacy_read(void *self, uint64_t offset, unsigned size)
{
    struct virtio_pci *pci = self;
    unsigned config = legacy_config_at(pci);
    if (offset >= config) {
        return virtio_config_read(pci->device, offset - config, size);
    }
    const struct pci_register *found = FIND(legacy_registers, offset, size);
    return found != NULL && found->read != NULL ? found->read(pci) : 0;
}

static void legacy_write(void *self, uint64_t offset, unsigned size, uint64_t value)
{
    struct virtio_pci *pci = self;
    unsigned config = legacy_config_at(pci);
    if (offset >= config) {
        virtio_config_write(pci->device, offset - config, size, value);
        return;
    }
    const struct pci_register *found = FIND(legacy_registers, offset, size);
    if (found != NULL && found->write != NULL) {
        found->write(pci, (uint32_t)value);
    }
}

static const struct device_ops pci_legacy_ops = {.name = "virtio-pci, legacy", .read = legacy_read, .write = legacy_write};

/* ---- Interrupts ---- */

static void pci_interrupt(struct virtio_pci *pci, uint8_t cause, uint16_t vector)
{
    if (pci->has_msix && msix_enabled(&pci->msix)) {
        if (!pci->device->halted) { /* a message is a write to memory, too */
            msix_signal(&pci->msix, vector);
        }
    } else {
        pci->isr |= cause;
        irq_set(&pci->function.intx, true);
    }
}

static void pci_interrupt_queue(void *self, const struct virtqueue *queue)
{
    pci_interrupt(self, VIRTIO_ISR_QUEUE, queue->vector);
}

static void pci_interrupt_config(void *self)
{
    struct virtio_pci *pci = self;
    pci_interrupt(pci, VIRTIO_ISR_CONFIG, pci->config_vector);
}

static void pci_reset(void *self)
{
    struct virtio_pci *pci = self;
    pci->isr = 0;
    pci->config_vector = VIRTIO_NO_VECTOR;
    atomic_store(&pci->features_select, 0);
    atomic_store(&pci->driver_features_select, 0);
    atomic_store(&pci->queue_select, 0);
    irq_set(&pci->function.intx, false);
}

static const struct virtio_transport pci_transport = {
    .interrupt_queue = pci_interrupt_queue,
    .interrupt_config = pci_interrupt_config,
    .reset = pci_reset,
};

/* ---- Doorbells follow the BARs ---- */

static struct doorbell pci_doorbell(const struct virtio_pci *pci, bool legacy, unsigned index)
{
    const struct pci_bar *bar = &pci->function.bars[legacy ? BAR_LEGACY : BAR_MODERN];
    return (struct doorbell){
        .port = legacy,
        .match = legacy,
        .address = bar->base + (legacy ? LEGACY_NOTIFY : NOTIFY_AT + index * NOTIFY_STEP),
        .bytes = 2,
        .value = index,
        .fd = pci->device->queues[index].kick.fd,
    };
}

static void pci_place_doorbells(struct virtio_pci *pci, bool legacy, bool place)
{
    const struct doorbells *doorbells = pci->doorbells;
    unsigned *placed = legacy ? &pci->legacy_bells : &pci->modern_bells;
    while (place && *placed < pci->device->queue_count) {
        struct doorbell doorbell = pci_doorbell(pci, legacy, *placed);
        if (doorbells->add(doorbells->opaque, &doorbell) != 0) {
            break; /* what has none comes through the registers */
        }
        ++*placed;
    }
    while (!place && *placed > 0) {
        struct doorbell doorbell = pci_doorbell(pci, legacy, --*placed);
        doorbells->remove(doorbells->opaque, &doorbell);
    }
}

static void pci_moved(void *self, unsigned bar)
{
    struct virtio_pci *pci = self;
    if (pci->doorbells != NULL && (bar == BAR_LEGACY || bar == BAR_MODERN)) {
        pci_place_doorbells(pci, bar == BAR_LEGACY, pci->function.bars[bar].mapped);
    }
}

/* ---- Capabilities (4.1.4) ---- */

#define CAP_VENDOR 0x09u
enum { CAP_COMMON = 1, CAP_NOTIFY = 2, CAP_ISR = 3, CAP_DEVICE = 4, CAP_ACCESS = 5 };
#define CAP_LENGTH 2u
#define CAP_TYPE 3u
#define CAP_BAR 4u
#define CAP_OFFSET 8u
#define CAP_BYTES_AT 12u
#define CAP_EXTRA 16u /* the notification multiplier; the data of an access */
#define CAP_SIZE 16u
#define CAP_SIZE_EXTRA 20u

static int pci_add_cap(struct virtio_pci *pci, uint8_t type, unsigned offset, unsigned bytes)
{
    unsigned size = type == CAP_NOTIFY || type == CAP_ACCESS ? CAP_SIZE_EXTRA : CAP_SIZE;
    int at = pci_add_capability(&pci->function, CAP_VENDOR, size);
    if (at >= 0) {
        uint8_t *cap = pci->function.config + at;
        cap[CAP_LENGTH] = (uint8_t)size;
        cap[CAP_TYPE] = type;
        cap[CAP_BAR] = type == CAP_ACCESS ? 0 : BAR_MODERN;
        pci_set_long(cap, CAP_OFFSET, offset);
        pci_set_long(cap, CAP_BYTES_AT, bytes);
        if (type == CAP_NOTIFY) {
            pci_set_long(cap, CAP_EXTRA, NOTIFY_STEP);
        }
    }
    return at;
}

static int pci_add_caps(struct virtio_pci *pci)
{
    const struct {
        uint8_t type;
        unsigned offset, bytes;
    } caps[] = {
        {CAP_COMMON, 0, COMMON_BYTES},
        {CAP_ISR, ISR_AT, 1},
        {CAP_DEVICE, DEVICE_AT, pci->device->config_bytes},
        {CAP_NOTIFY, NOTIFY_AT, pci->device->queue_count * NOTIFY_STEP},
        {CAP_ACCESS, 0, 0},
    };
    for (unsigned i = 0; i < sizeof(caps) / sizeof(caps[0]); i++) {
        int at = caps[i].type != CAP_DEVICE || caps[i].bytes != 0 ? pci_add_cap(pci, caps[i].type, caps[i].offset, caps[i].bytes) : 0;
        if (at < 0) {
            return at;
        }
        if (caps[i].type == CAP_ACCESS) {
            pci->cfg_access = (unsigned)at;
            pci->function.writable[at + CAP_BAR] = 0xff;
            memset(pci->function.writable + at + CAP_OFFSET, 0xff, CAP_SIZE_EXTRA - CAP_OFFSET);
        }
    }
    return 0;
}

/* What the access capability names in BAR 4 (4.1.4.9); false: nothing that can be accessed. */
static bool pci_access(const struct virtio_pci *pci, uint32_t *offset, uint32_t *bytes)
{
    const uint8_t *cap = pci->function.config + pci->cfg_access;
    *offset = pci_get_long(cap, CAP_OFFSET);
    *bytes = pci_get_long(cap, CAP_BYTES_AT);
    return cap[CAP_BAR] == BAR_MODERN && (*bytes == 1 || *bytes == 2 || *bytes == 4) && *offset % *bytes == 0 && *offset < MODERN_BYTES;
}

static bool pci_touches_access(const struct virtio_pci *pci, unsigned offset, unsigned size)
{
    unsigned data = pci->cfg_access + CAP_EXTRA;
    return pci->cfg_access != 0 && offset < data + 4 && offset + size > data;
}

static uint64_t pci_config_read(void *self, unsigned offset, unsigned size, uint64_t value)
{
    struct virtio_pci *pci = self;
    uint32_t at, bytes;
    if (pci->cfg_access == 0 || offset != pci->cfg_access + CAP_EXTRA || !pci_access(pci, &at, &bytes) || size < bytes) {
        return value;
    }
    return pci_read(pci, at, bytes);
}

static void pci_config_written(void *self, unsigned offset, unsigned size)
{
    struct virtio_pci *pci = self;
    uint32_t at, bytes;
    if (pci->has_msix) {
        msix_written(&pci->msix);
    }
    if (offset <= PCI_COMMAND && offset + size > PCI_COMMAND) {
        virtio_set_master(pci->device, (pci_get_word(pci->function.config, PCI_COMMAND) & PCI_COMMAND_MASTER) != 0);
    }
    if (pci_touches_access(pci, offset, size) && pci_access(pci, &at, &bytes)) {
        pci_write(pci, at, bytes, pci_get_long(pci->function.config, pci->cfg_access + CAP_EXTRA));
    }
}

/* ---- Life ---- */

static void pci_identify(struct virtio_pci *pci, bool legacy)
{
    uint16_t type = pci->device->class->type, class = 0x00ff, id = (uint16_t)(MODERN_ID + type);
    for (unsigned i = 0; i < sizeof(pci_types) / sizeof(pci_types[0]); i++) {
        if (pci_types[i].type == type) {
            class = pci_types[i].class;
            id = legacy ? pci_types[i].legacy_id : id;
        }
    }
    pci_function_init(&pci->function, pci->device->class->name, VENDOR, id, class, (uint8_t)(legacy ? 0 : REVISION_MODERN));
    pci_set_word(pci->function.config, PCI_SUBSYSTEM_VENDOR_ID, VENDOR);
    pci_set_word(pci->function.config, PCI_SUBSYSTEM_ID, legacy ? type : MODERN_SUBSYSTEM);
    pci->function.config[PCI_INTERRUPT_PIN] = 1;
}

static void pci_no_irq(void *opaque, uint32_t line, bool level)
{
    (void)opaque;
    (void)line;
    (void)level;
}

int virtio_pci_init(struct virtio_pci *pci, struct virtio_device *device, const struct virtio_pci_options *options, const struct msi *msi,
                    const struct doorbells *doorbells)
{
    memset(pci, 0, sizeof(*pci));
    pci->device = device;
    pci->doorbells = doorbells;
    pci->config_vector = VIRTIO_NO_VECTOR;
    pci_identify(pci, options->legacy);
    pci->function.intx.set = pci_no_irq;
    pci->function.self = pci;
    pci->function.read = pci_config_read;
    pci->function.written = pci_config_written;
    pci->function.moved = pci_moved;
    if (options->modern) {
        pci->function.bars[BAR_MODERN] = (struct pci_bar){.bytes = MODERN_BYTES, .wide = true, .prefetchable = true, .ops = &pci_modern_ops, .device = pci};
    } else {
        device->offered &= UINT32_MAX; /* nothing that a legacy driver cannot see */
    }
    if (options->legacy) {
        uint64_t bytes = 64;
        while (bytes < LEGACY_CONFIG_MSIX + device->config_bytes) {
            bytes *= 2;
        }
        pci->function.bars[BAR_LEGACY] = (struct pci_bar){.bytes = bytes, .port = true, .ops = &pci_legacy_ops, .device = pci};
    }
    int result = options->modern ? pci_add_caps(pci) : 0;
    if (result == 0 && options->vectors != 0 && msi != NULL) {
        unsigned vectors = options->vectors < MSIX_VECTORS_MAX ? options->vectors : MSIX_VECTORS_MAX;
        result = msix_init(&pci->msix, &pci->function, BAR_MSIX, vectors, msi);
        pci->has_msix = result == 0;
    }
    if (result == 0 && options->express) {
        int at = pci_add_express(&pci->function, PCI_EXPRESS_ENDPOINT, 0);
        result = at < 0 ? at : 0;
    }
    device->transitional = options->legacy;
    device->halted = true; /* until Bus Master Enable */
    device->transport = &pci_transport;
    device->transport_self = pci;
    return result;
}

void virtio_pci_fini(struct virtio_pci *pci)
{
    if (pci->has_msix) {
        msix_fini(&pci->msix);
    }
}
