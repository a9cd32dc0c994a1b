/* SPDX-License-Identifier: MIT */
#include "virtio/mmio.h"

#include <string.h>

#define MAGIC 0x74726976u /* "virt" */
#define VERSION 2u
#define VENDOR_ID 0x6567614bu /* "Kage" */
#define QUEUE_NOTIFY 0x050u
#define CONFIG 0x100u

/* ---- Registers (4.2.2, table 4.1) ---- */

/* An index that no queue has gives a queue that is not there: its registers are 0, and writes are lost. */
static struct virtqueue *mmio_selected(struct virtio_mmio *mmio)
{
    return virtio_queue(mmio->device, atomic_load(&mmio->queue_select));
}

static uint32_t mmio_read_features(struct virtio_mmio *mmio, uint32_t argument)
{
    (void)argument;
    return virtio_offered_word(mmio->device, atomic_load(&mmio->features_select));
}

static void mmio_select_features(struct virtio_mmio *mmio, uint32_t argument, uint32_t value)
{
    (void)argument;
    atomic_store(&mmio->features_select, value);
}

static void mmio_write_features(struct virtio_mmio *mmio, uint32_t argument, uint32_t value)
{
    (void)argument;
    virtio_set_features_word(mmio->device, atomic_load(&mmio->driver_features_select), value);
}

static void mmio_select_driver_features(struct virtio_mmio *mmio, uint32_t argument, uint32_t value)
{
    (void)argument;
    atomic_store(&mmio->driver_features_select, value);
}

static void mmio_select_queue(struct virtio_mmio *mmio, uint32_t argument, uint32_t value)
{
    (void)argument;
    atomic_store(&mmio->queue_select, value);
}

static uint32_t mmio_read_queue_size_max(struct virtio_mmio *mmio, uint32_t argument)
{
    const struct virtqueue *queue = mmio_selected(mmio);
    (void)argument;
    return queue != NULL ? queue->size_max : 0;
}

static void mmio_write_queue_size(struct virtio_mmio *mmio, uint32_t argument, uint32_t value)
{
    struct virtqueue *queue = mmio_selected(mmio);
    (void)argument;
    if (queue != NULL) {
        virtio_set_queue_size(mmio->device, queue, value);
    }
}

static uint32_t mmio_read_queue_ready(struct virtio_mmio *mmio, uint32_t argument)
{
    const struct virtqueue *queue = mmio_selected(mmio);
    (void)argument;
    virtio_lock(mmio->device);
    bool ready = queue != NULL && queue->enabled;
    virtio_unlock(mmio->device);
    return ready;
}

static void mmio_write_queue_ready(struct virtio_mmio *mmio, uint32_t argument, uint32_t value)
{
    struct virtqueue *queue = mmio_selected(mmio);
    (void)argument;
    if (queue != NULL && (value & 1) != 0) {
        virtio_enable_queue(mmio->device, queue);
    } else if (queue != NULL) {
        virtio_reset_queue(mmio->device, queue);
    }
}

static void mmio_notify(struct virtio_mmio *mmio, uint32_t argument, uint32_t value)
{
    (void)argument;
    virtio_kick_queue(mmio->device, value);
}

static uint32_t mmio_read_isr(struct virtio_mmio *mmio, uint32_t argument)
{
    (void)argument;
    virtio_lock(mmio->device);
    uint32_t isr = mmio->isr;
    virtio_unlock(mmio->device);
    return isr;
}

static void mmio_acknowledge(struct virtio_mmio *mmio, uint32_t argument, uint32_t value)
{
    (void)argument;
    virtio_lock(mmio->device);
    mmio->isr &= ~value;
    irq_set(&mmio->irq, mmio->isr != 0);
    virtio_unlock(mmio->device);
}

static uint32_t mmio_read_status(struct virtio_mmio *mmio, uint32_t argument)
{
    (void)argument;
    return virtio_status(mmio->device);
}

static void mmio_write_status(struct virtio_mmio *mmio, uint32_t argument, uint32_t value)
{
    (void)argument;
    virtio_set_status(mmio->device, (uint8_t)value);
}

/* argument: enum virtqueue_part, 4: the high half */
#define HIGH 4u
static void mmio_write_address(struct virtio_mmio *mmio, uint32_t argument, uint32_t value)
{
    struct virtqueue *queue = mmio_selected(mmio);
    if (queue != NULL) {
        virtio_set_queue_address(mmio->device, queue, (enum virtqueue_part)(argument & 3), (argument & HIGH) != 0, value);
    }
}

static void mmio_reset_queue(struct virtio_mmio *mmio, uint32_t argument, uint32_t value)
{
    struct virtqueue *queue = mmio_selected(mmio);
    (void)argument;
    if (queue != NULL && (value & 1) != 0 && (virtio_features_word(mmio->device, 1) & VIRTIO_F_RING_RESET >> 32) != 0) {
        virtio_reset_queue(mmio->device, queue);
    }
}

static uint32_t mmio_read_generation(struct virtio_mmio *mmio, uint32_t argument)
{
    (void)argument;
    virtio_lock(mmio->device);
    uint32_t generation = mmio->device->config_generation;
    virtio_unlock(mmio->device);
    return generation;
}

static uint32_t mmio_read_constant(struct virtio_mmio *mmio, uint32_t argument)
{
    (void)mmio;
    return argument;
}

static uint32_t mmio_read_type(struct virtio_mmio *mmio, uint32_t argument)
{
    (void)argument;
    return mmio->device->class->type;
}

static const struct mmio_register {
    uint16_t offset;
    uint32_t (*read)(struct virtio_mmio *mmio, uint32_t argument);
    void (*write)(struct virtio_mmio *mmio, uint32_t argument, uint32_t value);
    uint32_t argument;
} mmio_registers[] = {
    {0x000, mmio_read_constant, NULL, MAGIC},
    {0x004, mmio_read_constant, NULL, VERSION},
    {0x008, mmio_read_type, NULL, 0},
    {0x00c, mmio_read_constant, NULL, VENDOR_ID},
    {0x010, mmio_read_features, NULL, 0},
    {0x014, NULL, mmio_select_features, 0},
    {0x020, NULL, mmio_write_features, 0},
    {0x024, NULL, mmio_select_driver_features, 0},
    {0x030, NULL, mmio_select_queue, 0},
    {0x034, mmio_read_queue_size_max, NULL, 0},
    {0x038, NULL, mmio_write_queue_size, 0},
    {0x044, mmio_read_queue_ready, mmio_write_queue_ready, 0},
    {QUEUE_NOTIFY, NULL, mmio_notify, 0},
    {0x060, mmio_read_isr, NULL, 0},
    {0x064, NULL, mmio_acknowledge, 0},
    {0x070, mmio_read_status, mmio_write_status, 0},
    {0x080, NULL, mmio_write_address, VIRTQUEUE_DESC},
    {0x084, NULL, mmio_write_address, VIRTQUEUE_DESC | HIGH},
    {0x090, NULL, mmio_write_address, VIRTQUEUE_DRIVER},
    {0x094, NULL, mmio_write_address, VIRTQUEUE_DRIVER | HIGH},
    {0x0a0, NULL, mmio_write_address, VIRTQUEUE_DEVICE},
    {0x0a4, NULL, mmio_write_address, VIRTQUEUE_DEVICE | HIGH},
    {0x0b0, mmio_read_constant, NULL, UINT32_MAX}, /* shared memory: a region of all ones is none */
    {0x0b4, mmio_read_constant, NULL, UINT32_MAX},
    {0x0b8, mmio_read_constant, NULL, UINT32_MAX},
    {0x0bc, mmio_read_constant, NULL, UINT32_MAX},
    {0x0c0, NULL, mmio_reset_queue, 0},
    {0x0fc, mmio_read_generation, NULL, 0},
};

static const struct mmio_register *mmio_find(uint64_t offset)
{
    for (unsigned i = 0; i < sizeof(mmio_registers) / sizeof(mmio_registers[0]); i++) {
        if (mmio_registers[i].offset == offset) {
            return &mmio_registers[i];
        }
    }
    return NULL;
}

static uint64_t mmio_read(void *self, uint64_t offset, unsigned size)
{
    struct virtio_mmio *mmio = self;
    if (offset >= CONFIG) {
        return virtio_config_read(mmio->device, offset - CONFIG, size);
    }
    const struct mmio_register *found = size == 4 ? mmio_find(offset) : NULL; /* double words only (4.2.2.2) */
    return found != NULL && found->read != NULL ? found->read(mmio, found->argument) : 0;
}

static void mmio_write(void *self, uint64_t offset, unsigned size, uint64_t value)
{
    struct virtio_mmio *mmio = self;
    if (offset >= CONFIG) {
        virtio_config_write(mmio->device, offset - CONFIG, size, value);
        return;
    }
    const struct mmio_register *found = size == 4 ? mmio_find(offset) : NULL;
    if (found != NULL && found->write != NULL) {
        found->write(mmio, found->argument, (uint32_t)value);
    }
}

const struct device_ops virtio_mmio_ops = {.name = "virtio-mmio", .read = mmio_read, .write = mmio_write};

/* ---- The device's side ---- */

static void mmio_interrupt(struct virtio_mmio *mmio, uint32_t cause)
{
    mmio->isr |= cause;
    irq_set(&mmio->irq, true);
}

static void mmio_interrupt_queue(void *self, const struct virtqueue *queue)
{
    (void)queue;
    mmio_interrupt(self, VIRTIO_ISR_QUEUE);
}

static void mmio_interrupt_config(void *self)
{
    mmio_interrupt(self, VIRTIO_ISR_CONFIG);
}

static void mmio_reset(void *self)
{
    struct virtio_mmio *mmio = self;
    mmio->isr = 0;
    atomic_store(&mmio->features_select, 0);
    atomic_store(&mmio->driver_features_select, 0);
    atomic_store(&mmio->queue_select, 0);
    irq_set(&mmio->irq, false);
}

static const struct virtio_transport mmio_transport = {
    .interrupt_queue = mmio_interrupt_queue,
    .interrupt_config = mmio_interrupt_config,
    .reset = mmio_reset,
};

static struct doorbell mmio_doorbell(const struct virtio_mmio *mmio, unsigned index)
{
    return (struct doorbell){.match = true, .address = mmio->base + QUEUE_NOTIFY, .bytes = 4, .value = index, .fd = mmio->device->queues[index].kick.fd};
}

void virtio_mmio_init(struct virtio_mmio *mmio, struct virtio_device *device, const struct irq *irq, const struct doorbells *doorbells,
                      uint64_t base)
{
    memset(mmio, 0, sizeof(*mmio));
    mmio->device = device;
    mmio->irq = *irq;
    mmio->doorbells = doorbells;
    mmio->base = base;
    device->transport = &mmio_transport;
    device->transport_self = mmio;
    for (unsigned i = 0; doorbells != NULL && i < device->queue_count; i++) {
        struct doorbell doorbell = mmio_doorbell(mmio, i);
        if (doorbells->add(doorbells->opaque, &doorbell) != 0) {
            break; /* the rest comes by mmio_notify() */
        }
        mmio->doorbell_count++;
    }
}

void virtio_mmio_fini(struct virtio_mmio *mmio)
{
    for (unsigned i = 0; i < mmio->doorbell_count; i++) {
        struct doorbell doorbell = mmio_doorbell(mmio, i);
        mmio->doorbells->remove(mmio->doorbells->opaque, &doorbell);
    }
}
