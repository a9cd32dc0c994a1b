/* SPDX-License-Identifier: MIT */
/*
 * libFuzzer harness of what a hostile guest does to board q35's own parts: configuration spaces by ports and by ECAM, wherever it moves that,
 * bridges behind a root port with their windows and numbers, BARs behind them, pins; the south bridge's registers; flash memory; the HPET. What must
 * hold: a BAR answers where it is said to be mapped and nowhere else, the flash chip tells of all that it changes, no timer is armed too
 * soon, and with everything gone no interrupt is up. tests/fuzz-smoke.sh builds and runs this.
 *
 *   records: a byte op, then what it needs, see fuzz_step()
 */
#include <stdlib.h>
#include <string.h>

#include "bus/pci_bridge.h"
#include "dev/hpet.h"
#include "dev/ich9.h"
#include "dev/mch.h"
#include "dev/pflash.h"
#include "fuzz_input.h"

#define FLASH_GPA UINT64_C(0xffffc000)
#define FLASH_BYTES (4 * PFLASH_BLOCK_BYTES)
#define HPET_TEST_GPA UINT64_C(0xfed00000)
#define DEVICES 3u

static struct bus ports, memory;
static struct pci_bus pci;
static struct mch mch;
static struct ich9_lpc lpc;
static struct ich9_smbus smbus;
static struct pci_root_port port, inner;
static struct pci_function devices[DEVICES];
static struct pflash flash;
static struct hpet hpet;
static uint8_t flash_bytes[FLASH_BYTES], image[FLASH_BYTES];
static uint64_t now_ns, ecam_gpa, ecam_bytes, last_ecam;
static uint32_t rcrb_gpa;
static uint16_t pm_port;
static bool pirqs[PCI_PIRQS];

#define REQUIRE(condition) \
    do {                   \
        if (!(condition)) { \
            abort();       \
        }                  \
    } while (0)

/* ---- What the parts call ---- */

static uint64_t bar_read(void *self, uint64_t offset, unsigned size)
{
    (void)size;
    REQUIRE(offset < 0x1000);
    return (uintptr_t)self ^ offset;
}

static void bar_write(void *self, uint64_t offset, unsigned size, uint64_t value)
{
    (void)self;
    (void)size;
    (void)value;
    REQUIRE(offset < 0x1000);
}
static const struct device_ops bar_ops = {.name = "bar", .read = bar_read, .write = bar_write};

static void set_pirq(void *opaque, uint32_t line, bool level)
{
    (void)opaque;
    REQUIRE(line < PCI_PIRQS && pirqs[line] != level);
    pirqs[line] = level;
}

static void nothing(void *opaque)
{
    (void)opaque;
}

static void ecam_moved(void *opaque, uint64_t base, uint64_t bytes)
{
    (void)opaque;
    if (ecam_bytes != 0) {
        bus_remove(&memory, ecam_gpa);
    }
    ecam_gpa = base;
    ecam_bytes = bytes != 0 && bus_add(&memory, base, bytes, &pci_ecam_ops, &pci) == 0 ? bytes : 0;
    last_ecam = base;
}

static void pm_moved(void *opaque, uint16_t base)
{
    (void)opaque;
    if (pm_port != 0) {
        bus_remove(&ports, pm_port);
    }
    pm_port = base != 0 && bus_add(&ports, base, 128, &bar_ops, &pm_port) == 0 ? base : 0;
}

static void rcrb_moved(void *opaque, uint32_t base)
{
    (void)opaque;
    if (rcrb_gpa != 0) {
        bus_remove(&memory, rcrb_gpa);
    }
    rcrb_gpa = base != 0 && bus_add(&memory, base, ICH9_RCRB_BYTES, &ich9_rcrb_ops, &lpc) == 0 ? base : 0;
}

static int flash_changed(void *opaque, uint32_t offset, uint32_t size)
{
    (void)opaque;
    REQUIRE(offset <= FLASH_BYTES && size <= FLASH_BYTES - offset);
    memcpy(image + offset, flash_bytes + offset, size);
    return 0;
}

static void flash_mode(void *opaque, bool array)
{
    (void)opaque;
    REQUIRE(array == (flash.state == PFLASH_ARRAY));
}
static const struct pflash_backend flash_backend = {.changed = flash_changed, .mode = flash_mode};

static uint64_t hpet_now(void *opaque)
{
    (void)opaque;
    return now_ns;
}

static void hpet_irq(void *opaque, unsigned line, bool level)
{
    (void)opaque;
    (void)level;
    REQUIRE(line < 32);
}

static void hpet_arm(void *opaque, unsigned timer, int64_t ns)
{
    (void)opaque;
    REQUIRE(timer < HPET_TIMERS && (ns == -1 || ns >= 20000));
}

static void hpet_legacy(void *opaque, bool on)
{
    (void)opaque;
    (void)on;
}
static const struct hpet_backend hpet_backend = {.now_ns = hpet_now, .set_irq = hpet_irq, .arm = hpet_arm, .legacy = hpet_legacy};

/* ---- The input ---- */

/* Where somebody is, or was put, more often than anywhere. */
static uint64_t take_address(struct input *input)
{
    const uint64_t bases[] = {0xb0000000, 0xc0000000, UINT64_C(0x200000000), 0xfed1c000, last_ecam, rcrb_gpa, 0};
    uint8_t which = (uint8_t)take(input, 1);
    uint64_t offset = take(input, 3);
    return which % 8 == 7 ? take(input, 8) : bases[which % 8 % 7] + offset;
}

static void check_bars(void)
{
    for (unsigned i = 0; i < DEVICES; i++) {
        for (unsigned bar = 0; bar < PCI_BARS; bar++) {
            const struct pci_bar *b = &devices[i].bars[bar];
            struct bus_range range;
            REQUIRE(!b->mapped || (bus_find(b->port ? &ports : &memory, b->base, 1, &range) && range.device == b->device && range.base == b->base));
        }
    }
    REQUIRE(ports.count <= 16 && memory.count <= 16);
}

enum { OP_CONFIG, OP_CONFIG_READ, OP_MEMORY, OP_MEMORY_READ, OP_PORT, OP_PORT_READ, OP_PIN, OP_FLASH, OP_HPET, OP_TIME, OPS };

static void fuzz_step(struct input *input)
{
    static const uint8_t places[][2] = {{0, 0}, {0, 0xf8}, {0, 0xfb}, {0, 0x10}, {1, 0}, {2, 0}, {2, 0x08}, {0, 0x20}};
    uint8_t op = (uint8_t)take(input, 1), kind = (uint8_t)take(input, 1);
    unsigned size = 1u << (kind & 3);
    unsigned small = size < 4 ? size : 4;
    switch (op % OPS) {
    case OP_CONFIG:
    case OP_CONFIG_READ: {
        const uint8_t *place = places[kind >> 2 & 7];
        unsigned at = (unsigned)take(input, 1) & ~(small - 1);
        bus_write(&ports, 0xcf8, 4, 0x80000000u | (uint32_t)place[0] << 16 | (uint32_t)place[1] << 8 | (at & 0xfc));
        if (op % OPS == OP_CONFIG) {
            bus_write(&ports, 0xcfc + (at & 3), small, take(input, small));
        } else {
            bus_read(&ports, 0xcfc + (at & 3), small);
        }
        break;
    }
    case OP_MEMORY: {
        uint64_t address = take_address(input);
        bus_write(&memory, address, size, take(input, size));
        break;
    }
    case OP_MEMORY_READ:
        bus_read(&memory, take_address(input), size);
        break;
    case OP_PORT: {
        uint64_t address = take(input, 2);
        bus_write(&ports, address, small, take(input, small));
        break;
    }
    case OP_PORT_READ:
        bus_read(&ports, take(input, 2), small);
        break;
    case OP_PIN:
        irq_set(&devices[kind % DEVICES].intx, (kind & 0x80) != 0);
        break;
    case OP_FLASH: {
        uint32_t offset = (uint32_t)(take(input, 2) % (FLASH_BYTES - size + 1));
        pflash_write(&flash, offset, size, take(input, 1));
        pflash_read(&flash, offset, size);
        REQUIRE(memcmp(image, flash_bytes, sizeof(image)) == 0);
        break;
    }
    case OP_HPET: {
        unsigned offset = (unsigned)take(input, 2) % HPET_BYTES & ~(size - 1);
        hpet_write(&hpet, offset, size, take(input, size));
        hpet_read(&hpet, offset, size);
        break;
    }
    default:
        now_ns += take(input, 4) << (kind & 0x1f);
        hpet_expired(&hpet, kind % HPET_TIMERS);
        break;
    }
    check_bars();
}

/* ---- The board ---- */

static void fuzz_build(void)
{
    const struct ich9_lpc_events events = {.routed = nothing, .pm_moved = pm_moved, .rcrb_moved = rcrb_moved};
    const struct irq pirq = {.set = set_pirq};
    now_ns = 1000000;
    ecam_gpa = ecam_bytes = last_ecam = rcrb_gpa = pm_port = 0;
    memset(pirqs, 0, sizeof(pirqs));
    memset(flash_bytes, 0x5a, sizeof(flash_bytes));
    memcpy(image, flash_bytes, sizeof(image));
    bus_init(&ports, "port", 0xffff);
    bus_init(&memory, "memory", UINT64_MAX);
    pci_bus_init(&pci, &ports, &memory, &bar_ops, NULL);
    pci_bus_connect(&pci, ich9_pirq_of, &pirq);
    mch_init(&mch, nothing, NULL, ecam_moved, NULL);
    ich9_lpc_init(&lpc, &events);
    ich9_smbus_init(&smbus);
    pflash_init(&flash, flash_bytes, FLASH_BYTES, false, &flash_backend, NULL);
    hpet_init(&hpet, 0xff0104, &hpet_backend, NULL);
    pci_function_add(&pci, PCI_DEVFN(0, 0), &mch.function);
    pci_function_add(&pci, PCI_DEVFN(0x1f, 0), &lpc.function);
    pci_function_add(&pci, PCI_DEVFN(0x1f, 3), &smbus.function);
    pci_root_port_init(&port, "port", 1, 1);
    pci_function_add(&pci, PCI_DEVFN(2, 0), &port.function);
    pci_bus_init_secondary(&port.secondary, &port.function);
    pci_root_port_init(&inner, "inner", 2, 2);
    pci_function_add(&port.secondary, PCI_DEVFN(0, 0), &inner.function);
    pci_bus_init_secondary(&inner.secondary, &inner.function);
    for (unsigned i = 0; i < DEVICES; i++) {
        pci_function_init(&devices[i], "device", 0x1af4, 0x1042, 0x0100, 1);
        devices[i].config[PCI_INTERRUPT_PIN] = (uint8_t)(1 + i);
        devices[i].bars[0] = (struct pci_bar){.bytes = 0x1000, .wide = true, .prefetchable = true, .ops = &bar_ops, .device = &devices[i].bars[0]};
        devices[i].bars[2] = (struct pci_bar){.bytes = 0x20, .port = true, .ops = &bar_ops, .device = &devices[i].bars[2]};
        devices[i].bars[3] = (struct pci_bar){.bytes = 0x1000, .ops = &bar_ops, .device = &devices[i].bars[3]};
        pci_function_add(i == 0 ? &pci : &inner.secondary, i == 0 ? PCI_DEVFN(4, 0) : PCI_DEVFN(i - 1, 0), &devices[i]);
    }
    REQUIRE(bus_add(&ports, PCI_PORT, PCI_PORTS, &pci_ports_ops, &pci) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct input input = {data, bytes};
    fuzz_build();
    /* Numbers and windows that work, so that not each input has to find them. */
    static const uint32_t start[][3] = {{0x00001000, 0x18, 0x00020100}, {0x00001000, 0x1c, 0x0000f0c0}, {0x00001000, 0x20, 0xc010c000}, {0x00001000, 0x04, 7},
                                        {0x00010000, 0x18, 0x00020201}, {0x00010000, 0x1c, 0x0000f0c0}, {0x00010000, 0x20, 0xc010c000}, {0x00010000, 0x04, 7},
                                        {0x00020000, 0x1c, 0xc0000000}, {0x00020000, 0x04, 7},          {0x00000000, 0x60, 0xb0000001}};
    for (unsigned i = 0; i < sizeof(start) / sizeof(start[0]); i++) {
        bus_write(&ports, 0xcf8, 4, 0x80000000u | start[i][0] | start[i][1]);
        bus_write(&ports, 0xcfc, 4, start[i][2]);
    }
    while (input.left > 0) {
        fuzz_step(&input);
    }
    pci_bus_last(&pci);
    for (unsigned i = DEVICES; i-- > 0;) {
        pci_function_remove(devices[i].bus, &devices[i]);
    }
    pci_function_remove(&port.secondary, &inner.function);
    pci_function_remove(&pci, &port.function);
    for (unsigned i = 0; i < PCI_PIRQS; i++) {
        REQUIRE(!pirqs[i] && pci.pirq_count[i] == 0);
    }
    ich9_smbus_fini(&smbus);
    ich9_lpc_fini(&lpc);
    pci_bus_fini(&pci);
    bus_fini(&memory);
    bus_fini(&ports);
    return 0;
}
