/* SPDX-License-Identifier: MIT */
/*
 * PCI as a guest's firmware and kernel use it: BARs that are sized, placed, moved and exchanged; interrupt pins; MSI and MSI-X with their
 * masks; and a virtio device behind all that, by the modern and by the legacy interface and through the access capability.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <cmocka.h>

#include "bus/pci.h"
#include "dev/msix.h"
#include "virtio/pci.h"
#include "virtio_driver.h"

#define SLOT PCI_DEVFN(5, 0)
#define OTHER PCI_DEVFN(6, 0)

static struct loop loop;
static struct bus ports, mmio;
static struct pci_bus pci;
static struct virtio_device device;
static struct virtio_pci transport;
static bool pirq_level[4];
static unsigned bells_placed;
static uint64_t bell_address;
static struct {
    bool open, set;
    uint64_t address;
    uint32_t data;
    unsigned signals;
} routes[8];

static int route_open(void *opaque)
{
    (void)opaque;
    for (int i = 0; i < 8; i++) {
        if (!routes[i].open) {
            memset(&routes[i], 0, sizeof(routes[i]));
            routes[i].open = true;
            return i;
        }
    }
    return -28;
}
static void route_set(void *opaque, int route, uint64_t address, uint32_t data)
{
    (void)opaque;
    assert_true(routes[route].open);
    routes[route].set = true;
    routes[route].address = address;
    routes[route].data = data;
}
static void route_signal(void *opaque, int route)
{
    (void)opaque;
    assert_true(routes[route].set);
    routes[route].signals++;
}
static void route_close(void *opaque, int route)
{
    (void)opaque;
    assert_true(routes[route].open);
    routes[route].open = false;
}
static const struct msi messages = {.open = route_open, .set = route_set, .signal = route_signal, .close = route_close};

static int bell_add(void *opaque, const struct doorbell *doorbell)
{
    (void)opaque;
    bells_placed++;
    bell_address = doorbell->address;
    return 0;
}
static void bell_remove(void *opaque, const struct doorbell *doorbell)
{
    (void)opaque;
    (void)doorbell;
    bells_placed--;
}
static const struct doorbells bells = {.add = bell_add, .remove = bell_remove};

static void pirq_set(void *opaque, uint32_t pirq, bool level)
{
    (void)opaque;
    assert_int_not_equal(pirq_level[pirq], level); /* only changes are told */
    pirq_level[pirq] = level;
}
static unsigned pirq_of(unsigned slot, unsigned pin)
{
    return (slot + pin) % 4;
}

static unsigned notified;
static void note_notified(struct virtio_device *self, struct virtqueue *queue)
{
    struct virtio_chain chain;
    (void)self;
    notified++;
    while (virtqueue_pop(queue, &chain) > 0) {
        virtqueue_push(queue, &chain, (uint32_t)virtio_chain_write(&chain, 0, "answer", 6));
    }
    virtqueue_interrupt(queue);
}
static unsigned config_writes;
static void note_config(struct virtio_device *self, unsigned offset, unsigned size)
{
    (void)self;
    (void)offset;
    (void)size;
    config_writes++;
}
static const struct virtio_class class = {.name = "test", .type = 2, .notified = note_notified, .config_written = note_config};

static uint64_t get(uint8_t devfn, unsigned offset, unsigned size)
{
    bus_write(&ports, 0xcf8, 4, 0x80000000u | (uint32_t)devfn << 8 | (offset & 0xfc));
    return bus_read(&ports, 0xcfc + (offset & 3), size);
}
static void put(uint8_t devfn, unsigned offset, unsigned size, uint64_t value)
{
    bus_write(&ports, 0xcf8, 4, 0x80000000u | (uint32_t)devfn << 8 | (offset & 0xfc));
    bus_write(&ports, 0xcfc + (offset & 3), size, value);
}

static uint64_t no_read(void *self, uint64_t offset, unsigned size)
{
    (void)self;
    (void)offset;
    (void)size;
    return 0;
}
static void no_write(void *self, uint64_t offset, unsigned size, uint64_t value)
{
    (void)self;
    (void)offset;
    (void)size;
    (void)value;
}
static const struct device_ops nothing = {.name = "nothing", .read = no_read, .write = no_write};

static int setup(void **state)
{
    const uint16_t sizes[2] = {16, 16};
    const struct irq pirq = {.set = pirq_set};
    const struct virtio_pci_options options = {.legacy = true, .modern = true, .vectors = 3};
    (void)state;
    memory = calloc(1, MEMORY_BYTES);
    memset(routes, 0, sizeof(routes));
    memset(pirq_level, 0, sizeof(pirq_level));
    notified = bells_placed = config_writes = 0;
    bus_init(&ports, "port", 0xffff);
    bus_init(&mmio, "memory", UINT64_MAX);
    pci_bus_init(&pci, &ports, &mmio, &nothing, NULL);
    pci_bus_connect(&pci, pirq_of, &pirq);
    assert_int_equal(loop_init(&loop), 0);
    assert_int_equal(bus_add(&ports, PCI_PORT, PCI_PORTS, &pci_ports_ops, &pci), 0);
    assert_int_equal(bus_add(&mmio, UINT64_C(0xb0000000), PCI_ECAM_BYTES, &pci_ecam_ops, &pci), 0);
    assert_int_equal(virtio_init(&device, &class, &loop, &memory_dma, virtio_options_features(&virtio_options_default), 2, sizes), 0);
    device.config_bytes = 8;
    memcpy(device.config, "config!", 8);
    device.writable[4] = 0xff;
    assert_int_equal(virtio_pci_init(&transport, &device, &options, &messages, &bells), 0);
    pci_function_add(&pci, SLOT, &transport.function);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    pci_function_remove(&pci, &transport.function);
    assert_int_equal(bells_placed, 0);
    virtio_pci_fini(&transport);
    for (unsigned i = 0; i < 8; i++) {
        assert_false(routes[i].open);
    }
    virtio_fini(&device);
    loop_fini(&loop);
    pci_bus_fini(&pci);
    bus_fini(&mmio);
    bus_fini(&ports);
    free(memory);
    return 0;
}

#define BAR(n) (0x10u + 4 * (n))
#define LEGACY_PORT 0xc000u
#define MSIX_GPA UINT64_C(0xfe001000)
#define MODERN_GPA UINT64_C(0xfe004000)

static void place_all(void)
{
    put(SLOT, BAR(0), 4, LEGACY_PORT);
    put(SLOT, BAR(1), 4, MSIX_GPA);
    put(SLOT, BAR(4), 4, (uint32_t)MODERN_GPA);
    put(SLOT, BAR(5), 4, MODERN_GPA >> 32);
    put(SLOT, 4, 2, 7);
}

static void test_bars(void **state)
{
    struct bus_range range;
    (void)state;
    /* Sizes, by writing all ones; the kinds stay. */
    static const uint32_t kinds[6] = {1, 0, 0, 0, 0xc, 0}, sizes[6] = {0xffffffc1, 0xfffff000, 0, 0, 0xffffc00c, 0xffffffff};
    for (unsigned i = 0; i < 6; i++) {
        assert_int_equal(get(SLOT, BAR(i), 4), kinds[i]);
        put(SLOT, BAR(i), 4, 0xffffffff);
        assert_int_equal(get(SLOT, BAR(i), 4), sizes[i]);
    }
    put(SLOT, 4, 2, 7); /* decoding all ones is decoding nowhere */
    assert_int_equal(ports.count, 1);
    assert_int_equal(mmio.count, 1);
    put(SLOT, 4, 2, 0);
    place_all();
    assert_true(bus_find(&ports, LEGACY_PORT + 4, 4, &range) && range.base == LEGACY_PORT && range.size == 64);
    assert_true(bus_find(&mmio, MODERN_GPA + 0x3fff, 1, &range) && range.base == MODERN_GPA);
    assert_true(bus_find(&mmio, MSIX_GPA, 4, &range));
    assert_int_equal(bells_placed, 4); /* two queues, two interfaces */
    /* Each kind by its own bit. */
    put(SLOT, 4, 2, 1);
    assert_false(bus_find(&mmio, MODERN_GPA, 4, &range));
    assert_true(bus_find(&ports, LEGACY_PORT, 4, &range));
    assert_int_equal(bells_placed, 2);
    put(SLOT, 4, 2, 2);
    assert_true(bus_find(&mmio, MODERN_GPA, 4, &range));
    assert_false(bus_find(&ports, LEGACY_PORT, 4, &range));
    /* A move, beyond 4 GiB; doorbells go with it. */
    put(SLOT, BAR(5), 4, 0x12);
    assert_false(bus_find(&mmio, MODERN_GPA, 4, &range));
    assert_true(bus_find(&mmio, MODERN_GPA | UINT64_C(0x12) << 32, 4, &range));
    assert_true(bell_address == (MODERN_GPA | UINT64_C(0x12) << 32) + 0x3004);
    /* At the end of the address space nothing wraps. */
    put(SLOT, BAR(5), 4, 0xffffffff);
    put(SLOT, BAR(4), 4, 0xffffc000);
    assert_int_equal(mmio.count, 2);
    put(SLOT, BAR(5), 4, 0);
    put(SLOT, BAR(4), 4, 0);
    assert_int_equal(mmio.count, 2); /* 0 is where it was never put */
    put(SLOT, BAR(0), 4, 0xfffc);
    put(SLOT, 4, 2, 1);
    assert_int_equal(ports.count, 1); /* a part of it would lie beyond the ports */
}

/* Two functions change places: each is refused while the other is there, and comes when it has gone. */
static void test_exchange(void **state)
{
    struct pci_function other;
    struct bus_range range;
    (void)state;
    pci_function_init(&other, "other", 0x1234, 0x5678, 0x0880, 0);
    other.bars[0] = (struct pci_bar){.bytes = 0x4000, .ops = &nothing};
    pci_function_add(&pci, OTHER, &other);
    place_all();
    put(OTHER, BAR(0), 4, 0xfe010000);
    put(OTHER, 4, 2, 2);
    put(SLOT, BAR(4), 4, 0xfe010000); /* taken */
    assert_true(bus_find(&mmio, 0xfe010000, 4, &range) && range.ops == &nothing);
    assert_false(bus_find(&mmio, MODERN_GPA, 4, &range));
    put(OTHER, BAR(0), 4, (uint32_t)MODERN_GPA);
    assert_true(bus_find(&mmio, 0xfe010000, 4, &range) && range.ops != &nothing);
    assert_true(bus_find(&mmio, MODERN_GPA, 4, &range) && range.ops == &nothing);
    /* What is no function's stays out of reach: the ECAM window. */
    put(OTHER, BAR(0), 4, 0xb0000000);
    assert_true(bus_find(&mmio, 0xb0000000, 4, &range) && range.ops == &pci_ecam_ops);
    pci_function_remove(&pci, &other);
    assert_int_equal(get(OTHER, 0, 4), 0xffffffff);
}

static void test_ecam(void **state)
{
    uint64_t base = UINT64_C(0xb0000000) + ((uint64_t)SLOT << 12);
    (void)state;
    assert_int_equal(bus_read(&mmio, base, 4), 0x10011af4);
    assert_int_equal(bus_read(&mmio, base + 2, 2), 0x1001);
    assert_int_equal(bus_read(&mmio, base + 0x100, 4), 0xffffffff); /* none has it that is not of PCI Express */
    assert_int_equal(bus_read(&mmio, base + 0xffc, 4), 0xffffffff);
    assert_int_equal(bus_read(&mmio, UINT64_C(0xb0000000), 4), 0xffffffff);
    assert_true(bus_read(&mmio, base, 8) == UINT64_MAX);
    assert_int_equal(bus_read(&mmio, base + 3, 2), 0xffff);
    bus_write(&mmio, base + 4, 2, 2);
    assert_int_equal(get(SLOT, 4, 2), 2);
    bus_write(&mmio, base + 0x104, 4, 0xffffffff);
    bus_write(&mmio, UINT64_C(0xb0000004), 4, 0xffffffff);
}

/* ---- A driver's way to a device ---- */

#define COMMON(offset) (MODERN_GPA + (offset))

static void negotiate(void)
{
    bus_write(&mmio, COMMON(0x14), 1, 0);
    bus_write(&mmio, COMMON(0x14), 1, 3);
    for (unsigned i = 0; i < 2; i++) {
        bus_write(&mmio, COMMON(0x00), 4, i);
        uint64_t word = bus_read(&mmio, COMMON(0x04), 4);
        bus_write(&mmio, COMMON(0x08), 4, i);
        bus_write(&mmio, COMMON(0x0c), 4, word);
        assert_int_equal(bus_read(&mmio, COMMON(0x0c), 4), word);
    }
    bus_write(&mmio, COMMON(0x14), 1, 11);
    assert_int_equal(bus_read(&mmio, COMMON(0x14), 1), 11);
}

/* The rings where virtio_driver.h's driver has them. */
static void enable_queue(unsigned index, unsigned size)
{
    uint64_t base = RING_GPA + index * RING_AREA;
    bus_write(&mmio, COMMON(0x16), 2, index);
    bus_write(&mmio, COMMON(0x18), 2, size);
    bus_write(&mmio, COMMON(0x20), 4, (uint32_t)base);
    bus_write(&mmio, COMMON(0x24), 4, base >> 32);
    bus_write(&mmio, COMMON(0x28), 8, base + 0x10000);
    bus_write(&mmio, COMMON(0x30), 8, base + 0x18000);
    bus_write(&mmio, COMMON(0x1c), 2, 1);
    assert_int_equal(bus_read(&mmio, COMMON(0x1c), 2), 1);
}

static void serve(void)
{
    for (unsigned i = 0; i < device.queue_count; i++) {
        uint64_t count;
        if (eventfd_read(device.queues[i].kick.fd, &count) == 0) {
            device.queues[i].kick.ready(device.queues[i].kick.opaque, 0);
        }
    }
}

static void test_modern(void **state)
{
    struct driver driver;
    struct piece piece = {.gpa = BUFFERS_GPA, .bytes = 16, .write = true};
    uint16_t id;
    uint32_t written = 0;
    (void)state;
    place_all();
    assert_int_equal(bus_read(&mmio, COMMON(0x12), 2), 2);
    assert_int_equal(bus_read(&mmio, MODERN_GPA + 0x2000, 4), 0x666e6f63);
    assert_int_equal(bus_read(&mmio, MODERN_GPA + 0x2008, 4), 0xffffffff);
    bus_write(&mmio, MODERN_GPA + 0x2004, 4, 0x11223344);
    assert_int_equal(bus_read(&mmio, MODERN_GPA + 0x2004, 1), 0x44); /* the one byte that can be written */
    assert_int_equal(bus_read(&mmio, MODERN_GPA + 0x2005, 1), 'g');
    assert_int_equal(config_writes, 1);
    negotiate();
    bus_write(&mmio, COMMON(0x16), 2, 7); /* no such queue */
    assert_int_equal(bus_read(&mmio, COMMON(0x18), 2), 0);
    bus_write(&mmio, COMMON(0x1c), 2, 1);
    bus_write(&mmio, COMMON(0x3a), 2, 1);
    enable_queue(1, 8);
    assert_int_equal(bus_read(&mmio, COMMON(0x1e), 2), 1);
    bus_write(&mmio, COMMON(0x14), 1, 15);
    driver_init_queue(&driver, &device, 1, 8); /* as it is already: nothing of it changes */
    driver.event_idx = true;
    driver_want_interrupt(&driver, true);

    /* By the pin: ISR says why, and reading it takes the pin down. */
    driver_add(&driver, &piece, 1, false);
    bus_write(&mmio, MODERN_GPA + 0x3004, 2, 1);
    serve();
    assert_true(notified > 0 && driver_take(&driver, &id, &written));
    assert_int_equal(written, 6);
    assert_memory_equal(gpa(BUFFERS_GPA), "answer", 6);
    assert_true(pirq_level[pirq_of(5, 0)]);
    assert_int_equal(get(SLOT, 6, 2) & 8, 8);
    put(SLOT, 4, 2, 0x407); /* INTx off, and on again */
    assert_false(pirq_level[pirq_of(5, 0)]);
    put(SLOT, 4, 2, 7);
    assert_true(pirq_level[pirq_of(5, 0)]);
    assert_int_equal(bus_read(&mmio, MODERN_GPA + 0x1000, 1), VIRTIO_ISR_QUEUE);
    assert_false(pirq_level[pirq_of(5, 0)]);
    assert_int_equal(bus_read(&mmio, MODERN_GPA + 0x1000, 1), 0);

    /* Without Bus Master Enable nothing is read or written; what was made available meanwhile is taken afterwards. */
    put(SLOT, 4, 2, 3);
    driver_add(&driver, &piece, 1, false);
    bus_write(&mmio, MODERN_GPA + 0x3004, 2, 1);
    notified = 0;
    serve();
    assert_int_equal(notified, 0);
    assert_false(driver_take(&driver, &id, &written));
    assert_int_equal(virtio_status(&device) & VIRTIO_STATUS_DEVICE_NEEDS_RESET, 0);
    put(SLOT, 4, 2, 7);
    serve();
    assert_true(driver_take(&driver, &id, &written));

    /* The queue alone is reset, and is another one then. */
    bus_write(&mmio, COMMON(0x3a), 2, 1);
    assert_int_equal(bus_read(&mmio, COMMON(0x3a), 2), 0);
    assert_int_equal(bus_read(&mmio, COMMON(0x1c), 2), 0);
    enable_queue(1, 4);
    bus_write(&mmio, COMMON(0x14), 1, 0);
    assert_int_equal(bus_read(&mmio, COMMON(0x14), 1), 0);
    assert_int_equal(bus_read(&mmio, COMMON(0x16), 2), 0);
}

static unsigned find_capability(uint8_t id, uint8_t type)
{
    unsigned at = (unsigned)get(SLOT, 0x34, 1);
    for (unsigned steps = 0; at != 0; steps++, at = (unsigned)get(SLOT, at + 1, 1)) {
        assert_true(steps < 48);
        if (get(SLOT, at, 1) == id && (id != 9 || get(SLOT, at + 3, 1) == type)) {
            return at;
        }
    }
    return 0;
}

static void test_msix(void **state)
{
    unsigned cap = find_capability(0x11, 0);
    (void)state;
    place_all();
    assert_int_not_equal(cap, 0);
    assert_int_equal(get(SLOT, cap + 2, 2), 2); /* three vectors */
    assert_int_equal(get(SLOT, cap + 4, 4), 1); /* BAR 1, from its start */
    negotiate();
    enable_queue(0, 8);
    bus_write(&mmio, COMMON(0x1a), 2, 3); /* there are 0, 1, 2 */
    assert_int_equal(bus_read(&mmio, COMMON(0x1a), 2), 0xffff);
    bus_write(&mmio, COMMON(0x1a), 2, 1);
    assert_int_equal(bus_read(&mmio, COMMON(0x1a), 2), 1);
    bus_write(&mmio, COMMON(0x10), 2, 0);
    bus_write(&mmio, COMMON(0x14), 1, 15);
    assert_int_equal(bus_read(&mmio, MSIX_GPA + 12, 4), 1); /* masked after power on */
    for (unsigned i = 0; i < 2; i++) {
        bus_write(&mmio, MSIX_GPA + i * 16, 8, UINT64_C(0xfee01000));
        bus_write(&mmio, MSIX_GPA + i * 16 + 8, 4, 0x30 + i);
    }
    put(SLOT, cap + 2, 2, 0x8000);
    virtio_lock(&device);
    transport.device->transport->interrupt_config(&transport);
    virtio_unlock(&device);
    assert_int_equal(bus_read(&mmio, MSIX_GPA + 0x800, 8), 1); /* it waits */
    bus_write(&mmio, MSIX_GPA + 0x800, 8, 0);
    assert_int_equal(bus_read(&mmio, MSIX_GPA + 0x800, 8), 1); /* read-only */
    assert_false(pirq_level[1]);
    put(SLOT, cap + 2, 2, 0xc000); /* the function's own mask */
    bus_write(&mmio, MSIX_GPA + 12, 4, 0);
    assert_int_equal(bus_read(&mmio, MSIX_GPA + 0x800, 8), 1);
    put(SLOT, cap + 2, 2, 0x8000);
    assert_int_equal(bus_read(&mmio, MSIX_GPA + 0x800, 8), 0);
    assert_int_equal(routes[0].signals, 1);
    assert_true(routes[0].address == 0xfee01000 && routes[0].data == 0x30);
    bus_write(&mmio, MSIX_GPA + 28, 4, 0);
    virtio_lock(&device);
    transport.device->transport->interrupt_queue(&transport, &device.queues[0]);
    virtio_unlock(&device);
    assert_int_equal(routes[1].signals, 1);
    /* Another message for a vector in use. */
    bus_write(&mmio, MSIX_GPA + 16 + 8, 4, 0x77);
    assert_int_equal(routes[1].data, 0x77);
    /* Nothing behind the table; nothing by bytes. */
    bus_write(&mmio, MSIX_GPA + 0x30, 4, 0x1234);
    assert_int_equal(bus_read(&mmio, MSIX_GPA + 0x30, 4), 0);
    bus_write(&mmio, MSIX_GPA + 8, 1, 0xff);
    assert_int_equal(bus_read(&mmio, MSIX_GPA + 8, 4), 0x30);
    assert_int_equal(bus_read(&mmio, MSIX_GPA + 0x2c, 8), UINT32_MAX & 0); /* over the end of the table */
    /* Off: the pin again. */
    put(SLOT, cap + 2, 2, 0);
    virtio_lock(&device);
    transport.device->transport->interrupt_queue(&transport, &device.queues[0]);
    virtio_unlock(&device);
    assert_true(pirq_level[pirq_of(5, 0)]);
    bus_write(&mmio, COMMON(0x14), 1, 0); /* a reset takes it down */
    assert_false(pirq_level[pirq_of(5, 0)]);
}

static void test_msi(void **state)
{
    struct pci_function function;
    struct msi_capability cap;
    (void)state;
    pci_function_init(&function, "msi", 0x1234, 0x5678, 0x0880, 0);
    assert_int_equal(msi_init(&cap, &function, &messages), 0);
    pci_function_add(&pci, OTHER, &function);
    unsigned at = (unsigned)get(OTHER, 0x34, 1);
    assert_int_equal(get(OTHER, at, 1), 5);
    assert_int_equal(get(OTHER, at + 2, 2), 0x80);
    assert_false(msi_signal(&cap));
    put(OTHER, at + 4, 4, 0xfee02003);
    put(OTHER, at + 8, 4, 1);
    put(OTHER, at + 12, 2, 0x41);
    put(OTHER, at + 2, 2, 0xffff);
    assert_int_equal(get(OTHER, at + 2, 2), 0x81);
    msi_written(&cap);
    assert_true(msi_signal(&cap));
    assert_true(routes[0].address == UINT64_C(0x1fee02000) && routes[0].data == 0x41);
    assert_int_equal(routes[0].signals, 1);
    msi_fini(&cap);
    pci_function_remove(&pci, &function);
}

static void test_legacy(void **state)
{
    struct driver driver;
    struct piece piece = {.gpa = BUFFERS_GPA, .bytes = 16, .write = true};
    uint16_t id;
    uint32_t written;
    unsigned cap = find_capability(0x11, 0);
    (void)state;
    place_all();
    assert_int_equal(bus_read(&ports, LEGACY_PORT, 4), VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT_DESC);
    bus_write(&ports, LEGACY_PORT + 0x12, 1, 3);
    bus_write(&ports, LEGACY_PORT + 4, 4, 0xffffffff); /* what is not offered does not stick */
    assert_int_equal(bus_read(&ports, LEGACY_PORT + 4, 4), VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT_DESC);
    bus_write(&ports, LEGACY_PORT + 0xe, 2, 1);
    assert_int_equal(bus_read(&ports, LEGACY_PORT + 0xc, 2), 16);
    bus_write(&ports, LEGACY_PORT + 8, 4, MEMORY_GPA / 4096);
    assert_int_equal(bus_read(&ports, LEGACY_PORT + 8, 4), MEMORY_GPA / 4096);
    bus_write(&ports, LEGACY_PORT + 0x12, 1, 7);
    memset(&driver, 0, sizeof(driver));
    driver = (struct driver){.device = &device, .queue = virtio_queue(&device, 1), .size = 16, .event_idx = true, .avail_wrap = true, .used_wrap = true,
                             .ring = gpa(MEMORY_GPA), .driver_area = gpa(MEMORY_GPA + 256), .device_area = gpa(MEMORY_GPA + 4096), .free = {0, 1, 2}, .free_count = 3};
    driver_want_interrupt(&driver, true);
    driver_add(&driver, &piece, 1, false);
    bus_write(&ports, LEGACY_PORT + 0x10, 2, 1);
    serve();
    assert_true(driver_take(&driver, &id, &written));
    assert_int_equal(bus_read(&ports, LEGACY_PORT + 0x13, 1), 1);
    /* The device's own part moves when MSI-X comes on. */
    assert_int_equal(bus_read(&ports, LEGACY_PORT + 0x14, 4), 0x666e6f63);
    put(SLOT, cap + 2, 2, 0x8000);
    assert_int_equal(bus_read(&ports, LEGACY_PORT + 0x18, 4), 0x666e6f63);
    bus_write(&ports, LEGACY_PORT + 0x16, 2, 2);
    assert_int_equal(bus_read(&ports, LEGACY_PORT + 0x16, 2), 2);
    bus_write(&ports, LEGACY_PORT + 8, 4, 0); /* page 0 resets */
    assert_int_equal(bus_read(&ports, LEGACY_PORT + 0x12, 1), 0);
    assert_int_equal(bus_read(&ports, LEGACY_PORT + 8, 4), 0);
}

/* Through configuration space, as firmware that cannot map a BAR does it. */
static void test_access(void **state)
{
    unsigned cap = find_capability(9, 5);
    (void)state;
    assert_int_not_equal(cap, 0);
    put(SLOT, cap + 4, 1, 4);
    put(SLOT, cap + 8, 4, 0x14);
    put(SLOT, cap + 12, 4, 1);
    put(SLOT, cap + 16, 4, 3);
    assert_int_equal(virtio_status(&device), 3);
    assert_int_equal(get(SLOT, cap + 16, 4) & 0xff, 3);
    /* Other BARs, places beyond the end, odd sizes: nothing. */
    static const uint32_t bad[][3] = {{1, 0, 4}, {4, 0x4000, 1}, {4, 0x3fff, 4}, {4, 0x14, 3}, {4, 0x14, 0}, {4, 0xffffffff, 1}, {4, 0x14, 0xffffffff}, {9, 0x14, 1}};
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        put(SLOT, cap + 4, 1, bad[i][0]);
        put(SLOT, cap + 8, 4, bad[i][1]);
        put(SLOT, cap + 12, 4, bad[i][2]);
        put(SLOT, cap + 16, 4, 0);
        get(SLOT, cap + 16, 4);
        assert_int_equal(virtio_status(&device), 3);
    }
    put(SLOT, cap + 4, 1, 4);
    put(SLOT, cap + 8, 4, 0x14);
    put(SLOT, cap + 12, 4, 1);
    put(SLOT, cap + 16, 1, 0);
    assert_int_equal(virtio_status(&device), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_bars, setup, teardown),
        cmocka_unit_test_setup_teardown(test_exchange, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ecam, setup, teardown),
        cmocka_unit_test_setup_teardown(test_modern, setup, teardown),
        cmocka_unit_test_setup_teardown(test_msix, setup, teardown),
        cmocka_unit_test_setup_teardown(test_msi, setup, teardown),
        cmocka_unit_test_setup_teardown(test_legacy, setup, teardown),
        cmocka_unit_test_setup_teardown(test_access, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
