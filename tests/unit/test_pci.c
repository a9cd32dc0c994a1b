/* SPDX-License-Identifier: MIT */
/*
 * PCI configuration by mechanism #1, and the chips of board pc that live there: the i440FX's attribute map,
 * PIIX3's routing registers, PIIX4's place of the ACPI registers. Whatever a guest writes, what is read-only stays.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "bus/bus.h"
#include "bus/pci.h"
#include "dev/i440fx.h"
#include "dev/piix.h"

#define ADDRESS 0xcf8u
#define DATA 0xcfcu
#define ENABLE 0x80000000u

static struct bus ports, memory;
static struct pci_bus pci;
static struct i440fx bridge;
static struct piix_isa isa;
static struct piix_pm pm;
static unsigned map_changes, moves, resets, routes;
static uint16_t moved_to;

static uint64_t take_reset_read(void *self, uint64_t offset, unsigned size)
{
    (void)self;
    (void)offset;
    (void)size;
    return 0x5a;
}

static void take_reset_write(void *self, uint64_t offset, unsigned size, uint64_t value)
{
    (void)self;
    (void)offset;
    (void)size;
    assert_int_equal(value, 0x06);
    resets++;
}

static const struct device_ops take_reset = {.name = "reset", .read = take_reset_read, .write = take_reset_write};

static void take_map(void *opaque)
{
    (void)opaque;
    map_changes++;
}

static void take_route(void *opaque)
{
    (void)opaque;
    routes++;
}

static void take_move(void *opaque, uint16_t base)
{
    (void)opaque;
    moved_to = base;
    moves++;
}

static int setup(void **state)
{
    (void)state;
    bus_init(&ports, "port", 0xffff);
    bus_init(&memory, "memory", UINT64_MAX);
    pci_bus_init(&pci, &ports, &memory, &take_reset, NULL);
    i440fx_init(&bridge, take_map, NULL);
    piix_isa_init(&isa, take_route, NULL);
    piix_pm_init(&pm, 9, take_move, NULL);
    pci_function_add(&pci, PCI_DEVFN(0, 0), &bridge.function);
    pci_function_add(&pci, PCI_DEVFN(1, 0), &isa.function);
    pci_function_add(&pci, PCI_DEVFN(1, 3), &pm.function);
    map_changes = moves = resets = routes = 0;
    moved_to = 0xffff;
    return bus_add(&ports, PCI_PORT, PCI_PORTS, &pci_ports_ops, &pci);
}

static int teardown(void **state)
{
    (void)state;
    pci_bus_fini(&pci);
    bus_fini(&memory);
    bus_fini(&ports);
    return 0;
}

static void address(unsigned bus, uint8_t devfn, unsigned offset)
{
    bus_write(&ports, ADDRESS, 4, ENABLE | bus << 16 | (uint32_t)devfn << 8 | (offset & 0xfc));
}

static uint64_t get(uint8_t devfn, unsigned offset, unsigned size)
{
    address(0, devfn, offset);
    return bus_read(&ports, DATA + (offset & 3), size);
}

static void put(uint8_t devfn, unsigned offset, unsigned size, uint64_t value)
{
    address(0, devfn, offset);
    bus_write(&ports, DATA + (offset & 3), size, value);
}

static void test_mechanism(void **state)
{
    (void)state;
    assert_int_equal(get(PCI_DEVFN(0, 0), 0, 4), 0x12378086);
    assert_int_equal(get(PCI_DEVFN(1, 0), 0, 4), 0x70008086);
    assert_int_equal(get(PCI_DEVFN(1, 3), 0, 4), 0x71138086);
    assert_int_equal(get(PCI_DEVFN(1, 3), 2, 2), 0x7113); /* by its parts */
    assert_int_equal(get(PCI_DEVFN(1, 3), 1, 1), 0x80);
    assert_int_equal(get(PCI_DEVFN(1, 3), 1, 2), 0x1380); /* two bytes that straddle nothing but a word */
    assert_int_equal(get(PCI_DEVFN(0, 0), 0x0a, 2), 0x0600); /* classes: host bridge, ISA bridge, bridge of another kind */
    assert_int_equal(get(PCI_DEVFN(1, 0), 0x0a, 2), 0x0601);
    assert_int_equal(get(PCI_DEVFN(1, 3), 0x0a, 2), 0x0680);
    assert_int_equal(get(PCI_DEVFN(1, 0), 0x0e, 1), 0x80); /* else nobody looks for function 3 */

    /* The address register reads back what it has of bits, and only double words write it. */
    bus_write(&ports, ADDRESS, 4, 0xffffffff);
    assert_int_equal(bus_read(&ports, ADDRESS, 4), 0x80fffffc);
    bus_write(&ports, ADDRESS, 2, 0);
    bus_write(&ports, ADDRESS, 1, 0);
    bus_write(&ports, ADDRESS + 3, 1, 0);
    assert_int_equal(bus_read(&ports, ADDRESS, 4), 0x80fffffc);
    assert_int_equal(bus_read(&ports, ADDRESS, 2), 0xffff);

    /* The last register's last byte is inside; what the data port's end cuts is nobody's. */
    put(PCI_DEVFN(0, 0), 0xff, 1, 0x12);
    assert_int_equal(get(PCI_DEVFN(0, 0), 0xff, 1), 0);
    assert_int_equal(get(PCI_DEVFN(0, 0), 0xff, 2), 0xffff);
    assert_int_equal(get(PCI_DEVFN(0, 0), 0xfd, 4), 0xffffffff);
}

static void test_nobody(void **state)
{
    (void)state;
    for (unsigned devfn = 0; devfn < 256; devfn++) {
        bool here = devfn == PCI_DEVFN(0, 0) || devfn == PCI_DEVFN(1, 0) || devfn == PCI_DEVFN(1, 3);
        assert_int_equal(get((uint8_t)devfn, 0, 4) != 0xffffffff, here);
        if (!here) {
            put((uint8_t)devfn, 0x04, 4, 0xffffffff);
        }
    }
    for (unsigned bus = 1; bus < 256; bus++) {
        address(bus, PCI_DEVFN(0, 0), 0);
        assert_int_equal(bus_read(&ports, DATA, 4), 0xffffffff);
        bus_write(&ports, DATA, 4, 0);
    }
    bus_write(&ports, ADDRESS, 4, 0); /* not enabled */
    assert_int_equal(bus_read(&ports, DATA, 4), 0xffffffff);
    bus_write(&ports, ADDRESS, 4, 0x58);
    bus_write(&ports, DATA + 1, 1, 0x33);
    assert_int_equal(map_changes, 0);
}

static void test_reset_port(void **state)
{
    (void)state;
    address(0, PCI_DEVFN(1, 3), 0);
    bus_write(&ports, 0xcf9, 1, 0x06);
    assert_int_equal(resets, 1);
    assert_int_equal(bus_read(&ports, 0xcf9, 1), 0x5a);
    assert_int_equal(bus_read(&ports, DATA, 4), 0x71138086); /* the address stays */
    bus_write(&ports, 0xcf9, 2, 0x0606); /* not the register's width */
    bus_write(&ports, ADDRESS, 4, 0x0606);
    assert_int_equal(resets, 1);
}

/* Every byte of every function written with anything keeps the bits that a guest cannot write. */
static void test_read_only(void **state)
{
    static struct pci_function *const functions[] = {&bridge.function, &isa.function, &pm.function};
    static const uint8_t devfns[] = {PCI_DEVFN(0, 0), PCI_DEVFN(1, 0), PCI_DEVFN(1, 3)};
    (void)state;
    srand(1);
    for (unsigned f = 0; f < 3; f++) {
        struct pci_function before = *functions[f];
        for (unsigned n = 0; n < 20000; n++) {
            static const unsigned sizes[] = {1, 2, 4};
            unsigned size = sizes[rand() % 3];
            unsigned offset = (unsigned)rand() % 256 & ~(size - 1);
            put(devfns[f], offset, size, (uint64_t)rand() << 16 ^ (uint64_t)rand());
        }
        for (unsigned i = 0; i < PCI_CONFIG_BYTES; i++) {
            uint8_t fixed = (uint8_t)~before.writable[i];
            if ((functions[f]->config[i] & fixed) != (before.config[i] & fixed)) {
                fail_msg("function %u, byte 0x%x: 0x%x became 0x%x", f, i, before.config[i], functions[f]->config[i]);
            }
        }
        assert_memory_equal(before.writable, functions[f]->writable, sizeof(before.writable));
        assert_int_equal(get(devfns[f], 0, 2), 0x8086);
    }
}

static void test_pam(void **state)
{
    /* Register and nibble of each segment: Intel 290549, 3.2.16. */
    static const struct {
        unsigned offset, shift;
        uint32_t gpa, bytes;
    } rows[PAM_SEGMENTS] = {
        {0x5a, 0, 0xc0000, 0x4000}, {0x5a, 4, 0xc4000, 0x4000}, {0x5b, 0, 0xc8000, 0x4000}, {0x5b, 4, 0xcc000, 0x4000},
        {0x5c, 0, 0xd0000, 0x4000}, {0x5c, 4, 0xd4000, 0x4000}, {0x5d, 0, 0xd8000, 0x4000}, {0x5d, 4, 0xdc000, 0x4000},
        {0x5e, 0, 0xe0000, 0x4000}, {0x5e, 4, 0xe4000, 0x4000}, {0x5f, 0, 0xe8000, 0x4000}, {0x5f, 4, 0xec000, 0x4000},
        {0x59, 4, 0xf0000, 0x10000},
    };
    (void)state;
    for (unsigned i = 0; i < PAM_SEGMENTS; i++) {
        for (unsigned bits = 0; bits < 16; bits++) {
            put(0, rows[i].offset, 1, (uint64_t)bits << rows[i].shift);
            for (unsigned j = 0; j < PAM_SEGMENTS; j++) {
                struct pam_segment segment = pam_segment(bridge.function.config + I440FX_PAM0, j);
                assert_int_equal(segment.gpa, rows[j].gpa);
                assert_int_equal(segment.bytes, rows[j].bytes);
                assert_int_equal(segment.read_ram, i == j && (bits & 1) != 0);
                assert_int_equal(segment.write_ram, i == j && (bits & 2) != 0);
                assert_int_equal(pam_segment_of(rows[j].gpa), j);
                assert_int_equal(pam_segment_of(rows[j].gpa + rows[j].bytes - 1), j);
            }
        }
        put(0, rows[i].offset, 1, 0);
    }
    map_changes = 0;
    put(0, 0x58, 4, 0); /* a double word that holds the first of them */
    assert_int_equal(map_changes, 1);
    put(0, 0x5c, 4, 0x33333333);
    assert_int_equal(map_changes, 2);
    assert_int_equal(get(0, 0x5c, 4), 0x33333333);
    put(0, 0x50, 4, 0xffffffff);
    put(0, 0x60, 4, 0xffffffff); /* neighbours change nothing */
    put(0, 0x58, 1, 0xff);
    assert_int_equal(map_changes, 2);
    assert_int_equal(get(0, 0x72, 1), 0x02);
    put(0, 0x72, 1, 0xff);
    assert_int_equal(get(0, 0x72, 1), 0x7a); /* SMRAM: its place stays A0000 */
}

static void test_piix_isa(void **state)
{
    uint8_t devfn = PCI_DEVFN(1, 0);
    (void)state;
    assert_int_equal(get(devfn, 0x60, 4), 0x80808080); /* routed nowhere */
    put(devfn, 0x60, 4, 0x0b0a0bff);
    assert_int_equal(get(devfn, 0x60, 4), 0x0b0a0b8f);
    assert_int_equal(get(devfn, 0x04, 2), 0x0007); /* a bridge that cannot be switched off */
    put(devfn, 0x04, 2, 0);
    assert_int_equal(get(devfn, 0x04, 2), 0x0007);
}

static void test_piix_pm(void **state)
{
    uint8_t devfn = PCI_DEVFN(1, 3);
    (void)state;
    assert_int_equal(get(devfn, 0x3c, 2), 0x0109);
    assert_int_equal(get(devfn, 0x40, 4), 0x00000001);
    put(devfn, 0x40, 4, 0xffffffff); /* not enabled: it goes nowhere yet */
    assert_int_equal(get(devfn, 0x40, 4), 0x0000ffc1); /* 64 ports, on their boundary */
    assert_int_equal(moves, 0);
    put(devfn, 0x40, 4, 0x0601);
    put(devfn, 0x80, 1, 0xff);
    assert_int_equal(get(devfn, 0x80, 1), 0x01);
    assert_int_equal(moves, 1);
    assert_int_equal(moved_to, 0x600);
    put(devfn, 0x80, 1, 0x01); /* as it was */
    put(devfn, 0x3c, 1, 5);
    assert_int_equal(moves, 1);
    put(devfn, 0x41, 1, 0xb0); /* the high byte alone */
    assert_int_equal(moves, 2);
    assert_int_equal(moved_to, 0xb000);
    put(devfn, 0x40, 4, 0);
    assert_int_equal(moved_to, 0); /* port 0 is no place */
    put(devfn, 0x40, 4, 0xb000);
    assert_int_equal(moved_to, 0xb000);
    put(devfn, 0x80, 1, 0);
    assert_int_equal(moved_to, 0);
    assert_int_equal(moves, 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_mechanism, setup, teardown), cmocka_unit_test_setup_teardown(test_nobody, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reset_port, setup, teardown), cmocka_unit_test_setup_teardown(test_read_only, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pam, setup, teardown),       cmocka_unit_test_setup_teardown(test_piix_isa, setup, teardown),
        cmocka_unit_test_setup_teardown(test_piix_pm, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
