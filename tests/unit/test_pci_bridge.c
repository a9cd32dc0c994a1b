/* SPDX-License-Identifier: MIT */
/*
 * PCI behind root ports: which bus a number means, windows and what they let through, moving both, pins on their way up; configuration space
 * by CF8 and by ECAM says the same. At random: a BAR answers exactly where its own register, its command register and every bridge above
 * allow it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "bus/pci_bridge.h"

#define ECAM UINT64_C(0xb0000000)
#define PORT_SLOT 3u
#define BAR_BYTES 0x1000u

static struct bus ports, memory;
static struct pci_bus pci;
static struct pci_root_port port, inner;
static struct pci_function device;
static bool pirqs[8];

static uint64_t bar_read(void *self, uint64_t offset, unsigned size)
{
    (void)self;
    (void)size;
    return 0xabc000 + offset;
}

static void bar_write(void *self, uint64_t offset, unsigned size, uint64_t value)
{
    (void)self;
    (void)offset;
    (void)size;
    (void)value;
}

static const struct device_ops bar_ops = {.name = "bar", .read = bar_read, .write = bar_write};

static unsigned pirq_of(unsigned slot, unsigned pin)
{
    return (slot + pin) % 8;
}

static void set_pirq(void *opaque, uint32_t line, bool level)
{
    (void)opaque;
    pirqs[line] = level;
}

static int setup(void **state)
{
    const struct irq pirq = {.set = set_pirq};
    (void)state;
    memset(pirqs, 0, sizeof(pirqs));
    bus_init(&ports, "port", 0xffff);
    bus_init(&memory, "memory", UINT64_MAX);
    pci_bus_init(&pci, &ports, &memory, &bar_ops, NULL);
    pci_bus_connect(&pci, pirq_of, &pirq);
    pci_root_port_init(&port, "port", 5, 1);
    pci_function_add(&pci, PCI_DEVFN(PORT_SLOT, 0), &port.function);
    pci_bus_init_secondary(&port.secondary, &port.function);
    pci_root_port_init(&inner, "inner", 6, 2); /* a bridge behind it: not what a user can plug, but what the bus must get right */
    pci_function_add(&port.secondary, PCI_DEVFN(0, 0), &inner.function);
    pci_bus_init_secondary(&inner.secondary, &inner.function);
    pci_function_init(&device, "device", 0x1af4, 0x1042, 0x0100, 1);
    device.config[PCI_INTERRUPT_PIN] = 2;
    device.bars[0] = (struct pci_bar){.bytes = BAR_BYTES, .wide = true, .prefetchable = true, .ops = &bar_ops};
    device.bars[2] = (struct pci_bar){.bytes = 0x20, .port = true, .ops = &bar_ops};
    device.bars[3] = (struct pci_bar){.bytes = BAR_BYTES, .ops = &bar_ops};
    pci_function_add(&inner.secondary, PCI_DEVFN(1, 0), &device);
    if (pci_add_express(&device, PCI_EXPRESS_ENDPOINT, 0) < 0 || bus_add(&ports, PCI_PORT, PCI_PORTS, &pci_ports_ops, &pci) != 0) {
        return -1;
    }
    return bus_add(&memory, ECAM, PCI_BUSES_MAX * PCI_ECAM_BYTES, &pci_ecam_ops, &pci);
}

static int teardown(void **state)
{
    (void)state;
    pci_function_remove(&inner.secondary, &device);
    pci_function_remove(&port.secondary, &inner.function);
    pci_function_remove(&pci, &port.function);
    pci_bus_fini(&pci);
    bus_fini(&memory);
    bus_fini(&ports);
    return 0;
}

static uint64_t get(unsigned bus, unsigned devfn, unsigned at, unsigned size)
{
    uint64_t by_ecam = bus_read(&memory, ECAM + ((uint64_t)bus << 20 | devfn << 12 | at), size);
    bus_write(&ports, 0xcf8, 4, 0x80000000u | bus << 16 | devfn << 8 | (at & 0xfc));
    uint64_t by_port = bus_read(&ports, 0xcfc + (at & 3), size);
    assert_true(by_ecam == by_port);
    return by_port;
}

static void put(unsigned bus, unsigned devfn, unsigned at, unsigned size, uint64_t value)
{
    if (at % 8 == 0) {
        bus_write(&memory, ECAM + ((uint64_t)bus << 20 | devfn << 12 | at), size, value);
    } else {
        bus_write(&ports, 0xcf8, 4, 0x80000000u | bus << 16 | devfn << 8 | (at & 0xfc));
        bus_write(&ports, 0xcfc + (at & 3), size, value);
    }
}

#define PORT PCI_DEVFN(PORT_SLOT, 0)
#define DEVICE PCI_DEVFN(1, 0)

/* Buses 1 and 2; everything is forwarded in a megabyte at C0000000 and one at 8 GiB. */
static void configure(void)
{
    put(0, PORT, PCI_PRIMARY_BUS, 4, 0x020100);
    put(1, 0, PCI_PRIMARY_BUS, 4, 0x020201);
    for (unsigned bus = 0; bus < 2; bus++) {
        unsigned devfn = bus == 0 ? PORT : 0;
        put(bus, devfn, PCI_IO_BASE, 2, 0xc0c0);
        put(bus, devfn, PCI_MEMORY_BASE, 4, 0xc000c000);
        put(bus, devfn, PCI_PREF_MEMORY_BASE, 4, 0);
        put(bus, devfn, PCI_PREF_BASE_UPPER32, 4, 2);
        put(bus, devfn, PCI_PREF_LIMIT_UPPER32, 4, 2);
        put(bus, devfn, PCI_COMMAND, 2, 7);
    }
    put(2, DEVICE, PCI_BASE_ADDRESS_0, 4, 0x1000);
    put(2, DEVICE, PCI_BASE_ADDRESS_0 + 4, 4, 2);
    put(2, DEVICE, PCI_BASE_ADDRESS_0 + 8, 4, 0xc100);
    put(2, DEVICE, PCI_BASE_ADDRESS_0 + 12, 4, 0xc0002000);
    put(2, DEVICE, PCI_COMMAND, 2, 7);
}

static bool answers(struct bus *bus, uint64_t address)
{
    struct bus_range range;
    return bus_find(bus, address, 1, &range) && range.ops == &bar_ops;
}

static void test_numbers(void **state)
{
    (void)state;
    assert_int_equal(get(0, PORT, 0, 4), 0x000c1b36);
    assert_int_equal(get(0, PORT, 0x0e, 1), 1);
    assert_int_equal(get(1, 0, 0, 4), 0xffffffff); /* no numbers yet */
    put(0, PORT, PCI_PRIMARY_BUS, 4, 0x020100);
    assert_int_equal(get(1, 0, 0, 4), 0x000c1b36);
    assert_int_equal(get(2, DEVICE, 0, 4), 0xffffffff);
    put(1, 0, PCI_PRIMARY_BUS, 4, 0x020201);
    assert_int_equal(get(2, DEVICE, 0, 4), 0x10421af4);
    assert_int_equal(get(2, DEVICE, 0x34, 1), 0x40);
    put(0, PORT, PCI_SUBORDINATE_BUS, 1, 1); /* the way to 2 ends at the first bridge */
    assert_int_equal(get(2, DEVICE, 0, 4), 0xffffffff);
    assert_int_equal(get(1, 0, 0, 4), 0x000c1b36);
    put(0, PORT, PCI_PRIMARY_BUS, 4, 0xff0700);
    put(7, 0, PCI_PRIMARY_BUS, 4, 0xff4007);
    assert_int_equal(get(0x40, DEVICE, 0, 4), 0x10421af4);
    put(7, 0, PCI_PRIMARY_BUS, 4, 0xff0707); /* one number twice: the upper one has it */
    assert_int_equal(get(7, 0, 0, 4), 0x000c1b36);
    put(7, 0, PCI_PRIMARY_BUS, 4, 0xff0007); /* 0 is the root's */
    assert_int_equal(get(0, DEVICE, 0, 4), 0xffffffff);
    /* Extended configuration space: empty of what is Express. */
    assert_int_equal(bus_read(&memory, ECAM + ((uint64_t)PORT << 12) + 0x100, 4), 0);
    assert_int_equal(get(0, PORT, 0x40, 1), 0x10); /* the capability: a root port with a slot */
    assert_int_equal(get(0, PORT, 0x42, 2), 0x0142);
    assert_int_equal(get(0, PORT, 0x54, 4) >> 19, 5);
}

static void test_windows(void **state)
{
    (void)state;
    configure();
    assert_true(answers(&memory, UINT64_C(0x200001000)));
    assert_true(answers(&memory, 0xc0002000));
    assert_true(answers(&ports, 0xc100));
    assert_int_equal(bus_read(&memory, 0xc0002008, 4), 0xabc008);
    /* Each bridge can shut each of them. */
    for (unsigned bus = 0; bus < 2; bus++) {
        unsigned devfn = bus == 0 ? PORT : 0;
        put(bus, devfn, PCI_COMMAND, 2, 5);
        assert_true(answers(&ports, 0xc100) && !answers(&memory, 0xc0002000) && !answers(&memory, UINT64_C(0x200001000)));
        put(bus, devfn, PCI_COMMAND, 2, 6);
        assert_true(!answers(&ports, 0xc100) && answers(&memory, 0xc0002000));
        put(bus, devfn, PCI_COMMAND, 2, 7);
        put(bus, devfn, PCI_IO_LIMIT, 1, 0xb0);
        assert_false(answers(&ports, 0xc100));
        put(bus, devfn, PCI_IO_LIMIT, 1, 0xf0);
        assert_true(answers(&ports, 0xc100));
        put(bus, devfn, PCI_MEMORY_LIMIT, 2, 0xbff0);
        assert_true(!answers(&memory, 0xc0002000) && answers(&memory, UINT64_C(0x200001000)));
        put(bus, devfn, PCI_MEMORY_LIMIT, 2, 0xc000);
        put(bus, devfn, PCI_PREF_LIMIT_UPPER32, 4, 1);
        assert_true(answers(&memory, 0xc0002000) && !answers(&memory, UINT64_C(0x200001000)));
        put(bus, devfn, PCI_PREF_LIMIT_UPPER32, 4, 2);
        assert_true(answers(&memory, UINT64_C(0x200001000)));
    }
    /* A BAR that ends behind a window is not let through. */
    put(2, DEVICE, PCI_BASE_ADDRESS_0 + 12, 4, 0xc00ff000);
    assert_true(answers(&memory, 0xc00fffff));
    put(2, DEVICE, PCI_BASE_ADDRESS_0 + 12, 4, 0xc0100000);
    assert_false(answers(&memory, 0xc0100000));
    assert_true(pci_bus_last(&pci) == UINT64_C(0x2000fffff));
    pci_function_remove(&inner.secondary, &device);
    assert_false(answers(&ports, 0xc100));
}

static void test_pins(void **state)
{
    (void)state;
    configure();
    /* INTB of slot 1: C of the inner bridge, in slot 0: C of the port, in slot 3. */
    irq_set(&device.intx, true);
    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(pirqs[i], i == (PORT_SLOT + 2) % 8);
    }
    assert_int_equal(get(2, DEVICE, PCI_STATUS, 1) & 0x08, 0x08);
    irq_set(&port.function.intx, true);
    assert_true(pirqs[PORT_SLOT]);
    put(2, DEVICE, PCI_COMMAND, 2, 0x407);
    assert_false(pirqs[5]);
    put(2, DEVICE, PCI_COMMAND, 2, 7);
    assert_true(pirqs[5]);
    pci_function_remove(&inner.secondary, &device);
    assert_false(pirqs[5]);
}

static bool window_holds(const uint8_t *config, unsigned at, bool wide, uint64_t base)
{
    uint64_t first = (uint64_t)(pci_get_word(config, at) >> 4) << 20, last = (uint64_t)(pci_get_word(config, at + 2) >> 4) << 20 | 0xfffff;
    if (wide) {
        first |= (uint64_t)pci_get_long(config, PCI_PREF_BASE_UPPER32) << 32;
        last |= (uint64_t)pci_get_long(config, PCI_PREF_LIMIT_UPPER32) << 32;
    }
    return base >= first && base + BAR_BYTES - 1 <= last;
}

static void test_random(void **state)
{
    static const unsigned registers[] = {PCI_COMMAND, PCI_IO_BASE, PCI_MEMORY_BASE, PCI_PREF_MEMORY_BASE, PCI_PREF_BASE_UPPER32, PCI_PREF_LIMIT_UPPER32};
    (void)state;
    configure();
    srand(1);
    for (unsigned i = 0; i < 100000; i++) {
        unsigned bus = (unsigned)rand() % 3, devfn = bus == 0 ? PORT : bus == 1 ? 0 : DEVICE;
        unsigned at = bus == 2 ? (rand() % 3 == 0 ? (unsigned)PCI_COMMAND : PCI_BASE_ADDRESS_0 + (unsigned)rand() % 4 * 4)
                               : registers[(unsigned)rand() % (sizeof(registers) / sizeof(registers[0]))];
        uint32_t value = at == PCI_COMMAND ? (rand() % 8 != 0 ? 7 : (uint32_t)rand() % 8)
                         : at == PCI_PREF_BASE_UPPER32 || at == PCI_PREF_LIMIT_UPPER32 || at == PCI_BASE_ADDRESS_0 + 4
                             ? (uint32_t)rand() % 3
                             : (rand() % 2 != 0 ? 0xc000c000 : 0) + (uint32_t)rand() % 4 * 0x00100010 + (bus == 2 ? (uint32_t)rand() % 4 * 0x1000 : 0);
        put(bus, devfn, at, 4, value);
        const uint8_t *config = device.config, *bridges[] = {port.function.config, inner.function.config};
        uint64_t base = pci_get_long(config, PCI_BASE_ADDRESS_0 + 12) & ~UINT64_C(0xfff);
        bool expected = (config[PCI_COMMAND] & 2) != 0 && base != 0;
        for (unsigned b = 0; b < 2; b++) {
            expected = expected && (bridges[b][PCI_COMMAND] & 2) != 0 &&
                       (window_holds(bridges[b], PCI_MEMORY_BASE, false, base) || window_holds(bridges[b], PCI_PREF_MEMORY_BASE, true, base));
        }
        bool two_at_once = device.bars[0].mapped && device.bars[0].base == base;
        if (!two_at_once) {
            assert_int_equal(device.bars[3].mapped, expected);
            assert_true(!expected || (device.bars[3].base == base && answers(&memory, base)));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_numbers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_windows, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pins, setup, teardown),
        cmocka_unit_test_setup_teardown(test_random, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
