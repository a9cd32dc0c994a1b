/* SPDX-License-Identifier: MIT */
/*
 * libFuzzer harness of virtqueues and of PCI configuration space: an input is a list of what a hostile driver does to virtio-blk and
 * virtio-rng on a PCI bus: configuration space, BARs wherever they are, memory (rings, descriptors, tables, headers), notifications. Memory
 * stands between two inaccessible pages. Each input must end, with everything given back. tests/fuzz-smoke.sh builds and runs this.
 *
 *   first byte   features that are refused, and what the devices offer
 *   then records of a byte op and what it needs: see fuzz_step()
 */
#define MEMORY_BYTES 0x10000u
#define DISK_BYTES 65536u

#include <errno.h>
#include <sys/eventfd.h>

#include "bus/pci.h"
#include "disk/scsi.h"
#include "fuzz_memory.h"
#include "virtio/blk.h"
#include "virtio/pci.h"
#include "virtio/rng.h"

#define QUEUE_SIZE 16u
#define MODERN_GPA UINT64_C(0xfe000000)
#define DEVICES 2u

static struct bus ports, mmio;
static struct pci_bus pci;
static struct virtio_device *devices[DEVICES];
static struct virtio_pci transports[DEVICES];

static bool route_open[64];
static int msi_open(void *opaque)
{
    (void)opaque;
    for (int i = 0; i < 64; i++) {
        if (!route_open[i]) {
            route_open[i] = true;
            return i;
        }
    }
    return -ENOSPC;
}
static void msi_set(void *opaque, int route, uint64_t address, uint32_t data)
{
    (void)opaque;
    (void)address;
    (void)data;
    if (!route_open[route]) {
        abort();
    }
}
static void msi_send(void *opaque, int route)
{
    msi_set(opaque, route, 0, 0);
}
static void msi_close(void *opaque, int route)
{
    msi_set(opaque, route, 0, 0);
    route_open[route] = false;
}
static const struct msi msi = {.open = msi_open, .set = msi_set, .signal = msi_send, .close = msi_close};

static unsigned pirq_of(unsigned device, unsigned pin)
{
    return (device + pin) % 4;
}
static void pirq_set(void *opaque, uint32_t pirq, bool level)
{
    static bool levels[4];
    (void)opaque;
    if (pirq >= 4 || levels[pirq] == level) {
        abort();
    }
    levels[pirq] = level;
}

static uint64_t reset_read(void *self, uint64_t offset, unsigned size)
{
    (void)self;
    (void)offset;
    (void)size;
    return 0;
}
static void reset_write(void *self, uint64_t offset, unsigned size, uint64_t value)
{
    (void)self;
    (void)offset;
    (void)size;
    (void)value;
}
static const struct device_ops reset_ops = {.name = "reset", .read = reset_read, .write = reset_write};

static void serve(void)
{
    for (unsigned d = 0; d < DEVICES; d++) {
        for (unsigned i = 0; i < devices[d]->queue_count; i++) {
            struct virtqueue *queue = &devices[d]->queues[i];
            uint64_t count;
            if (eventfd_read(queue->kick.fd, &count) == 0) {
                queue->kick.ready(queue->kick.opaque, 0);
            }
        }
    }
}

static void bar_write(unsigned device, uint64_t offset, unsigned size, uint64_t value)
{
    block_drain(block); /* nobody else is here to end what a reset waits for */
    bus_write(&mmio, MODERN_GPA + device * 0x10000 + offset, size, value);
}

/* What every driver does first, so that not each input has to find it. */
static void fuzz_start(unsigned device, uint8_t refuse)
{
    uint64_t features = devices[device]->offered;
    features &= ~((refuse & 1 ? VIRTIO_F_RING_PACKED : 0) | (refuse & 2 ? VIRTIO_F_EVENT_IDX : 0) | (refuse & 4 ? VIRTIO_F_INDIRECT_DESC : 0) |
                  (refuse & 8 ? VIRTIO_F_IN_ORDER : 0));
    bar_write(device, 0x14, 1, 0);
    bar_write(device, 0x14, 1, 3);
    for (unsigned i = 0; i < 2; i++) {
        bar_write(device, 0x08, 4, i);
        bar_write(device, 0x0c, 4, (uint32_t)(features >> i * 32));
    }
    bar_write(device, 0x14, 1, 11);
    for (unsigned i = 0; i < devices[device]->queue_count; i++) {
        uint64_t base = 0x1000 + (device * 2 + i) * 0x800;
        bar_write(device, 0x16, 2, i);
        bar_write(device, 0x20, 8, base);
        bar_write(device, 0x28, 8, base + 0x200);
        bar_write(device, 0x30, 8, base + 0x400);
        bar_write(device, 0x1c, 2, 1);
    }
    bar_write(device, 0x14, 1, 15);
}

static void put_desc(uint64_t ring, unsigned slot, uint64_t addr, uint32_t len, uint16_t third, uint16_t fourth)
{
    memcpy(memory + ring + slot * 16, &addr, 8);
    memcpy(memory + ring + slot * 16 + 8, &len, 4);
    memcpy(memory + ring + slot * 16 + 12, &third, 2);
    memcpy(memory + ring + slot * 16 + 14, &fourth, 2);
}

/* A whole request where the device looks next, in the layout that was negotiated, direct or by a table; then perhaps one byte of it changed. */
static void fuzz_request(unsigned device, struct input *input)
{
    struct virtqueue *queue = &devices[device]->queues[0];
    uint64_t ring = 0x1000 + (uint64_t)device * 0x1000, table = 0x8000 + (take(input, 1) & 0xf) * 0x100;
    uint8_t type = (uint8_t)take(input, 1), sector = (uint8_t)take(input, 1), shape = (uint8_t)take(input, 1);
    uint32_t bytes = (shape & 7) * 512 + (shape >> 3 & 1);
    bool write = type == 1 || type == 11 || type == 13, packed = virtio_has(devices[device], VIRTIO_F_RING_PACKED), indirect = (shape & 0x10) != 0;
    uint64_t header = 0x9000 + table % 0x1000, data = 0xa000 + sector * 16;
    if (type == 11 || type == 13) {
        bytes = 16;
        memset(memory + data, 0, 16);
        memory[data] = sector;
        memory[data + 8] = shape;
    }
    memset(memory + header, 0, 16);
    memory[header] = type;
    memory[header + 8] = sector;
    const struct {
        uint64_t at;
        uint32_t bytes;
        uint16_t write;
    } pieces[3] = {{header, 16, 0}, {data, bytes, write ? 0 : 2}, {header + 32, 1, 2}};
    unsigned first = bytes != 0 ? 1 : 2, slot = packed ? queue->next_avail : 0, count = 0;
    for (unsigned i = 0; i < 3; i = i == 0 ? first : i + 1) {
        uint16_t flags = (uint16_t)(pieces[i].write | (i < 2 ? 1 : 0)), wrap = queue->avail_wrap != (slot < queue->next_avail) ? 0x80 : 0x8000;
        if (indirect) {
            put_desc(table, count, pieces[i].at, pieces[i].bytes, packed ? 0 : flags, packed ? flags : (uint16_t)(count + 1));
        } else if (packed) {
            put_desc(ring, slot, pieces[i].at, pieces[i].bytes, (uint16_t)slot, flags | wrap);
            slot = (slot + 1) % QUEUE_SIZE;
        } else {
            put_desc(ring, count, pieces[i].at, pieces[i].bytes, flags, (uint16_t)(count + 1));
        }
        count++;
    }
    if (indirect) {
        put_desc(ring, slot, table, count * 16, packed ? 0 : 4, packed ? (uint16_t)(4 | (queue->avail_wrap ? 0x80 : 0x8000)) : 0);
    }
    if ((shape & 0x20) != 0) {
        uint16_t place = (uint16_t)take(input, 2);
        memory[(indirect ? table : ring) + place % 48] ^= (uint8_t)(place >> 8);
    }
    if (!packed) {
        uint16_t index = queue->next_avail, head = 0;
        memcpy(memory + ring + 0x204 + index % QUEUE_SIZE * 2u, &head, 2);
        index++;
        memcpy(memory + ring + 0x202, &index, 2);
    }
    virtio_kick_queue(devices[device], 0);
    if ((shape & 0x40) != 0) {
        serve();
    }
}

static void fuzz_step(struct input *input)
{
    uint8_t op = (uint8_t)take(input, 1);
    unsigned device = op >> 7, size = 1u << (op >> 5 & 3);
    uint64_t at;
    switch (op & 0x1f) {
    case 0: /* configuration space */
        at = take(input, 1);
        block_drain(block);
        bus_write(&ports, 0xcf8, 4, 0x80000000u | (device + 2) << 11 | (at & 0xfc));
        bus_write(&ports, 0xcfc + (at & 3), size & 7 & (4 - (at & 3)) ? size & 7 : 1, take(input, size));
        break;
    case 1:
        at = take(input, 1);
        bus_write(&ports, 0xcf8, 4, 0x80000000u | (device + 2) << 11 | (at & 0xfc));
        bus_read(&ports, 0xcfc + (at & 3), 1);
        bus_read(&ports, 0xcfc, 4);
        break;
    case 2: /* the modern BAR */
        at = take(input, 2);
        bar_write(device, at & 0x3fff & ~(uint64_t)(size - 1), size, take(input, size));
        break;
    case 3:
        at = take(input, 2);
        bus_read(&mmio, MODERN_GPA + device * 0x10000 + (at & 0x3fff & ~(uint64_t)(size - 1)), size);
        break;
    case 4: /* MSI-X */
        at = take(input, 2);
        bus_write(&mmio, MODERN_GPA + 0x8000 + device * 0x10000 + (at & 0xfff & ~(uint64_t)(size - 1)), size, take(input, size));
        break;
    case 5: /* the legacy BAR */
        at = take(input, 1) & 0x3f;
        block_drain(block);
        bus_write(&ports, 0xc000 + device * 0x100 + (at & ~(uint64_t)(size - 1)), size > 4 ? 4 : size, take(input, size));
        break;
    case 6:
        at = take(input, 1) & 0x3f;
        bus_read(&ports, 0xc000 + device * 0x100 + (at & ~(uint64_t)(size - 1)), size > 4 ? 4 : size);
        break;
    case 7: /* memory, anywhere */
        at = take(input, 2);
        for (unsigned i = (unsigned)take(input, 1) & 0x3f; i > 0; i--, at++) {
            memory[at % MEMORY_BYTES] = (uint8_t)take(input, 1);
        }
        break;
    case 8: { /* a descriptor of a queue */
        uint64_t ring = 0x1000 + (uint64_t)(device * 2 + (size & 1)) * 0x800, slot = take(input, 1) % QUEUE_SIZE;
        uint64_t addr = take(input, 2);
        uint32_t len = (uint32_t)take(input, 2), last = (uint32_t)take(input, 4);
        memcpy(memory + ring + slot * 16, &addr, 8);
        memcpy(memory + ring + slot * 16 + 8, &len, 4);
        memcpy(memory + ring + slot * 16 + 12, &last, 4);
        break;
    }
    case 9: { /* entries in an available ring */
        uint64_t ring = 0x1200 + (uint64_t)(device * 2 + (size & 1)) * 0x800;
        uint16_t index, head = (uint16_t)(take(input, 1) % (QUEUE_SIZE + 1));
        memcpy(&index, memory + ring + 2, 2);
        memcpy(memory + ring + 4 + index % QUEUE_SIZE * 2u, &head, 2);
        index++;
        memcpy(memory + ring + 2, &index, 2);
        break;
    }
    case 10: /* a request's header */
        at = take(input, 2) % (MEMORY_BYTES - 16);
        memset(memory + at, 0, 16);
        memory[at] = (uint8_t)take(input, 1);
        memory[at + 8] = (uint8_t)take(input, 1);
        break;
    case 11:
        virtio_kick_queue(devices[device], size & 1);
        break;
    case 12:
        serve();
        break;
    case 13:
        block_drain(block);
        break;
    case 14:
        fuzz_start(device, (uint8_t)take(input, 1));
        break;
    case 15:
    case 16:
    case 17:
    case 18:
        fuzz_request(device, input);
        break;
    case 20: { /* a SCSI command */
        struct scsi_disk disk = {.block = block, .block_bytes = device ? 512 : 2048, .cdrom = !device, .read_only = !device, .serial = "fuzz"};
        struct scsi_command command;
        uint8_t cdb[SCSI_CDB_BYTES] = {0};
        for (unsigned i = 0; i < 16; i++) {
            cdb[i] = (uint8_t)take(input, 1);
        }
        uint64_t where = take(input, 2) % (MEMORY_BYTES - 64);
        scsi_disk_execute(&disk, cdb, memory + where, size * 8, &command);
        if (command.reply_bytes > SCSI_REPLY_MAX || (command.io && (command.offset > DISK_BYTES || command.bytes > DISK_BYTES - command.offset))) {
            abort();
        }
        break;
    }
    case 19: /* two vectors with a message each, and MSI-X on */
        for (unsigned i = 0; i < 2; i++) {
            bus_write(&mmio, MODERN_GPA + 0x8000 + device * 0x10000 + i * 16, 8, 0xfee00000);
            bus_write(&mmio, MODERN_GPA + 0x8000 + device * 0x10000 + i * 16 + 8, 8, i);
        }
        bar_write(device, 0x16, 2, 0);
        bar_write(device, 0x1a, 2, 1);
        bar_write(device, 0x10, 2, 0);
        bus_write(&ports, 0xcf8, 4, 0x80000000u | (device + 2) << 11 | transports[device].msix.capability);
        bus_write(&ports, 0xcfe, 2, 0x8000);
        break;
    default:
        virtio_kick_queue(devices[device], 0);
        serve();
        break;
    }
}

static void place(unsigned device)
{
    const uint32_t values[][2] = {{0x10, 0xc000 + device * 0x100}, {0x14, (uint32_t)MODERN_GPA + 0x8000 + device * 0x10000},
                                  {0x20, (uint32_t)MODERN_GPA + device * 0x10000}, {0x04, 7}};
    for (unsigned i = 0; i < 4; i++) {
        bus_write(&ports, 0xcf8, 4, 0x80000000u | (device + 2) << 11 | values[i][0]);
        bus_write(&ports, 0xcfc, values[i][0] == 4 ? 2 : 4, values[i][1]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct input input = {data, bytes};
    struct error error;
    if (memory == NULL) {
        fuzz_init();
    }
    uint8_t first = (uint8_t)take(&input, 1);
    const struct virtio_options virtio = {.packed = true, .in_order = true, .event_idx = true, .indirect_desc = true, .queue_reset = true};
    const struct virtio_blk_config blk_config = {.virtio = virtio, .num_queues = 2, .queue_size = QUEUE_SIZE, .logical_block_size = 512,
                                                 .physical_block_size = 512, .write_cache = true, .config_wce = true, .discard = true,
                                                 .write_zeroes = true, .serial = "fuzz"};
    const struct virtio_rng_config rng_config = {.virtio = virtio, .max_bytes = UINT64_MAX};
    const struct virtio_pci_options options = {.legacy = true, .modern = true, .vectors = 3};
    const struct irq pirq = {.set = pirq_set};
    memset(memory, 0, MEMORY_BYTES);
    bus_init(&ports, "port", 0xffff);
    bus_init(&mmio, "memory", UINT64_MAX);
    pci_bus_init(&pci, &ports, &mmio, &reset_ops, NULL);
    pci_bus_connect(&pci, pirq_of, &pirq);
    struct virtio_blk *blk = virtio_blk_new(&blk_config, block, &loop, &dma, &error);
    struct virtio_rng *rng = virtio_rng_new(&rng_config, &loop, &dma, &error);
    if (blk == NULL || rng == NULL || bus_add(&ports, PCI_PORT, PCI_PORTS, &pci_ports_ops, &pci) != 0) {
        abort();
    }
    devices[0] = virtio_blk_device(blk);
    devices[1] = virtio_rng_device(rng);
    for (unsigned i = 0; i < DEVICES; i++) {
        if (virtio_pci_init(&transports[i], devices[i], &options, &msi, NULL) != 0) {
            abort();
        }
        pci_function_add(&pci, PCI_DEVFN(i + 2, 0), &transports[i].function);
        place(i);
        fuzz_start(i, first);
    }
    while (input.left > 0) {
        fuzz_step(&input);
    }
    serve();
    block_drain(block);
    for (unsigned i = 0; i < DEVICES; i++) {
        for (unsigned q = 0; q < devices[i]->queue_count; q++) {
            if (devices[i]->queues[q].in_flight != 0) {
                abort(); /* a chain was lost */
            }
        }
        pci_function_remove(&pci, &transports[i].function);
    }
    virtio_blk_free(blk);
    virtio_rng_free(rng);
    for (unsigned i = 0; i < DEVICES; i++) {
        virtio_pci_fini(&transports[i]);
    }
    pci_bus_fini(&pci);
    bus_fini(&mmio);
    bus_fini(&ports);
    return 0;
}
