/* SPDX-License-Identifier: MIT */
/*
 * The board q35 on the soft back end, without running a guest: RAM around the hole, configuration space where PCIEXBAR puts it with MCFG
 * saying so, what else firmware moves, interrupt routing, and flash memory whose slots follow the chip's mode and whose writes reach the images.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "machine/machine.h"
#include "machine/pc_common.h"

#define CODE_BYTES 0x40000u
#define VARS_BYTES 0x10000u
#define SLOTS_MAX 32u
#define MIB (UINT64_C(1) << 20)

static struct {
    uint64_t gpa, bytes, flags;
} slots[SLOTS_MAX];
static unsigned raised[24];
static bool level[24];

static int spy_ioctl(int handle, unsigned long request, void *arg)
{
    if ((uint32_t)request == (uint32_t)KVM_SET_USER_MEMORY_REGION) {
        const struct kvm_userspace_memory_region *region = arg;
        assert_true(region->slot < SLOTS_MAX);
        slots[region->slot].gpa = region->guest_phys_addr;
        slots[region->slot].bytes = region->memory_size;
        slots[region->slot].flags = region->flags;
    }
    if ((uint32_t)request == (uint32_t)KVM_IRQ_LINE) {
        const struct kvm_irq_level *line = arg;
        assert_true(line->irq < 24);
        raised[line->irq] += line->level && !level[line->irq];
        level[line->irq] = line->level != 0;
    }
    return kage_backend_soft.ioctl(handle, request, arg);
}

static struct kvm_backend spy;
static struct loop loop;
static struct machine machine;
static struct config_lists lists;
static struct machine_config config;
static struct error error;
static struct drive drives[2];
static char paths[2][32] = {"/tmp/kage-code-XXXXXX", "/tmp/kage-vars-XXXXXX"};
static uint8_t contents[2][CODE_BYTES];

static int group_setup(void **state)
{
    const size_t sizes[2] = {CODE_BYTES, VARS_BYTES};
    (void)state;
    spy = kage_backend_soft;
    spy.ioctl = spy_ioctl;
    for (unsigned i = 0; i < 2; i++) {
        int fd = mkstemp(paths[i]);
        for (unsigned j = 0; j < sizes[i]; j++) {
            contents[i][j] = (uint8_t)(j * 5 + (j >> 8) + i * 100);
        }
        if (fd < 0 || write(fd, contents[i], sizes[i]) != (ssize_t)sizes[i]) {
            return -1;
        }
        close(fd);
    }
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    unlink(paths[0]);
    unlink(paths[1]);
    return 0;
}

static int setup(void **state)
{
    (void)state;
    memset(slots, 0, sizeof(slots));
    memset(raised, 0, sizeof(raised));
    memset(level, 0, sizeof(level));
    memset(drives, 0, sizeof(drives));
    config = (struct machine_config){
        .lists = &lists,
        .board = machine_find_board("q35"),
        .backend = &spy,
        .loop = &loop,
        .ram_bytes = 16 * MIB,
        .smp = {.cpus = 1, .max_cpus = 1, .sockets = 1, .dies = 1, .cores = 1, .threads = 1},
        .cmdline = "",
        .acpi = true,
        .hpet = true,
        .i8042 = true,
        .bios = paths[0],
    };
    return loop_init(&loop);
}

static int teardown(void **state)
{
    (void)state;
    loop_fini(&loop);
    return 0;
}

static void power_on(void)
{
    if (machine_init(&machine, &config, &error) != 0) {
        fail_msg("%s", error.text);
    }
}

static uint64_t config_read(unsigned devfn, unsigned offset, unsigned size)
{
    bus_write(&machine.pio, 0xcf8, 4, 0x80000000u | devfn << 8 | (offset & 0xfc));
    return bus_read(&machine.pio, 0xcfc + (offset & 3), size);
}

static void config_write(unsigned devfn, unsigned offset, unsigned size, uint32_t value)
{
    bus_write(&machine.pio, 0xcf8, 4, 0x80000000u | devfn << 8 | (offset & 0xfc));
    bus_write(&machine.pio, 0xcfc + (offset & 3), size, value);
}

#define LPC PCI_DEVFN(0x1f, 0)

/* ---- ACPI ---- */

static uint8_t tables[0x8000];

/* The file as firmware reads it now. Returns its size. */
static uint32_t read_tables(void)
{
    const struct fw_cfg *fw = &machine.pc->fw_cfg;
    for (unsigned i = 0; i < fw->count; i++) {
        const struct fw_cfg_item *item = &fw->items[i];
        if (strcmp(item->name, "etc/acpi/tables") == 0) {
            assert_true(item->size <= sizeof(tables));
            bus_write(&machine.pio, 0x510, 2, item->key);
            for (uint32_t j = 0; j < item->size; j++) {
                tables[j] = (uint8_t)bus_read(&machine.pio, 0x511, 1);
            }
            return item->size;
        }
    }
    fail_msg("no tables");
    return 0;
}

static const uint8_t *find_table(const char *signature, uint32_t size)
{
    for (uint32_t at = 0; at + 36 < size; at += 16) {
        if (memcmp(tables + at, signature, 4) == 0) {
            return tables + at;
        }
    }
    fail_msg("no %s", signature);
    return NULL;
}

static void check_mcfg(uint64_t base, unsigned buses)
{
    const uint8_t *mcfg = find_table("MCFG", read_tables());
    uint64_t gpa;
    memcpy(&gpa, mcfg + 44, sizeof(gpa));
    assert_true(gpa == base);
    assert_int_equal(mcfg[54], 0);
    assert_int_equal(mcfg[55], buses - 1);
}

/* ---- Tests ---- */

static void test_ram(void **state)
{
    static const struct {
        uint64_t mib, low_mib;
    } rows[] = {{16, 16}, {2815, 2815}, {2816, 2048}, {4096, 2048}};
    (void)state;
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        config.ram_bytes = rows[i].mib * MIB;
        power_on();
        uint64_t high = (rows[i].mib - rows[i].low_mib) * MIB;
        assert_true(machine.ram.low_bytes == rows[i].low_mib * MIB);
        assert_true(slots[PC_SLOT_RAM].gpa + slots[PC_SLOT_RAM].bytes == machine.ram.low_bytes);
        assert_true(slots[PC_SLOT_HIGH].bytes == high && (high == 0 || slots[PC_SLOT_HIGH].gpa == RAM_HIGH_GPA));
        machine_fini(&machine);
        memset(slots, 0, sizeof(slots));
    }
}

static void test_functions(void **state)
{
    static const struct {
        unsigned devfn;
        uint32_t id, class;
    } rows[] = {{PCI_DEVFN(0, 0), 0x29c08086, 0x0600}, {LPC, 0x29188086, 0x0601}, {PCI_DEVFN(0x1f, 2), 0x29228086, 0x0106},
                {PCI_DEVFN(0x1f, 3), 0x29308086, 0x0c05}};
    unsigned found = 0;
    (void)state;
    power_on();
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        assert_int_equal(config_read(rows[i].devfn, 0, 4), rows[i].id);
        assert_int_equal(config_read(rows[i].devfn, 0x0a, 2), rows[i].class);
    }
    for (unsigned devfn = 0; devfn < 256; devfn++) {
        found += config_read(devfn, 0, 4) != 0xffffffff;
    }
    assert_int_equal(found, sizeof(rows) / sizeof(rows[0]));
    assert_int_equal(config_read(LPC, 0x0e, 1), 0x80);
    /* A transfer on the SMBus finds nobody. */
    config_write(PCI_DEVFN(0x1f, 3), 0x20, 4, 0x700);
    config_write(PCI_DEVFN(0x1f, 3), 0x04, 2, 1);
    bus_write(&machine.pio, 0x702, 1, 0x48);
    assert_int_equal(bus_read(&machine.pio, 0x700, 1), 0x04);
    assert_int_equal(bus_read(&machine.pio, 0x702, 1), 0x08);
    bus_write(&machine.pio, 0x700, 1, 0x04);
    assert_int_equal(bus_read(&machine.pio, 0x700, 1), 0);
    machine_fini(&machine);
}

static void test_ecam(void **state)
{
    static const struct {
        uint32_t low, high;
        uint64_t base;
        unsigned buses;
    } rows[] = {
        {0xb0000001, 0, 0xb0000000, 256}, {0xe0000001, 0, 0xe0000000, 256}, {0xc8000003, 0, 0xc8000000, 128}, {0xcc000005, 0, 0xcc000000, 64},
        {0x00000001, 2, UINT64_C(0x200000000), 256}, {0x0c000001, 2, UINT64_C(0x200000000), 256} /* bits that 256 MiB do not have */,
    };
    (void)state;
    power_on();
    uint32_t size = read_tables();
    check_mcfg(0xb0000000, 256);
    assert_int_equal(bus_read(&machine.mmio, 0xb0000000, 4), 0xffffffff); /* off after a reset */
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        config_write(0, 0x60, 4, 0);
        config_write(0, 0x64, 4, rows[i].high);
        config_write(0, 0x60, 4, rows[i].low);
        assert_int_equal(bus_read(&machine.mmio, rows[i].base, 4), 0x29c08086);
        assert_int_equal(bus_read(&machine.mmio, rows[i].base + (LPC << 12), 4), 0x29188086);
        assert_int_equal(bus_read(&machine.mmio, rows[i].base + rows[i].buses * PCI_ECAM_BYTES, 4), 0xffffffff);
        assert_int_equal(bus_read(&machine.mmio, rows[i].base + (rows[i].buses - 1) * PCI_ECAM_BYTES, 4), 0xffffffff);
        check_mcfg(rows[i].base, rows[i].buses);
        assert_int_equal(read_tables(), size);
    }
    config_write(0, 0x60, 4, 0);
    assert_int_equal(bus_read(&machine.mmio, UINT64_C(0x200000000), 4), 0xffffffff);
    config_write(0, 0x64, 4, 0);
    config_write(0, 0x60, 4, 0xc0000007); /* a length that is reserved */
    assert_int_equal(bus_read(&machine.mmio, 0xc0000000, 4), 0xffffffff);
    config_write(0, 0x60, 4, 0xf0000001); /* over everything else: not taken, and nothing else goes */
    assert_int_equal(bus_read(&machine.mmio, 0xf0000000, 4), 0xffffffff);
    assert_int_equal(bus_read(&machine.mmio, 0xfed00000, 4), 0x8086a201);
    config_write(0, 0x60, 4, 0xb0000001);
    assert_int_equal(bus_read(&machine.mmio, 0xb0000000, 4), 0x29c08086);
    machine_fini(&machine);
}

/* The 64-bit window of the tables goes up to where firmware has put something. */
static void test_high_window(void **state)
{
    static const uint8_t qword_window[] = {0x8a, 43, 0, 0};
    uint64_t ends[2] = {0};
    (void)state;
    const struct pci_bar bar = {.bytes = 0x1000, .wide = true, .ops = &postcode_ops, .device = &machine.postcode};
    struct pci_function function;
    power_on();
    pci_function_init(&function, "device", 1, 2, 3, 4);
    function.bars[0] = bar;
    pci_function_add(machine.pci, PCI_DEVFN(5, 0), &function);
    for (unsigned i = 0; i < 2; i++) {
        config_write(PCI_DEVFN(5, 0), 0x14, 4, i == 0 ? 0 : 0xe0);
        uint32_t size = read_tables();
        const uint8_t *at = memmem(tables, size, qword_window, sizeof(qword_window));
        assert_non_null(at);
        memcpy(&ends[i], at + 22, sizeof(ends[i]));
    }
    assert_true(ends[0] == RAM_HIGH_GPA + (UINT64_C(32) << 30) - 1);
    assert_true(ends[1] >= UINT64_C(0xe000000fff));
    pci_function_remove(machine.pci, &function);
    machine_fini(&machine);
}

static void test_moves(void **state)
{
    (void)state;
    power_on();
    config_write(LPC, 0x40, 4, 0x601);
    assert_int_equal(bus_read(&machine.pio, 0x604, 2), 0xffff); /* not before ACPI_EN */
    config_write(LPC, 0x44, 1, 0x80);
    assert_int_equal(bus_read(&machine.pio, 0x604, 2), 1);
    assert_int_equal(bus_read(&machine.pio, 0x630, 4), 0x20);
    uint64_t before = bus_read(&machine.pio, 0x608, 4);
    usleep(2000);
    uint64_t ticks = (bus_read(&machine.pio, 0x608, 4) - before) & 0xffffff;
    assert_true(ticks >= 7159 - 1); /* 2 ms at 3.579545 MHz */
    config_write(LPC, 0x40, 4, 0xb001);
    assert_int_equal(bus_read(&machine.pio, 0x604, 2), 0xffff);
    assert_int_equal(bus_read(&machine.pio, 0xb004, 2), 1);

    config_write(LPC, 0xf0, 4, 0xfed1c001);
    assert_int_equal(bus_read(&machine.mmio, 0xfed1c000 + 0x3140, 2), 0x3210);
    bus_write(&machine.mmio, 0xfed1c000 + 0x3140, 2, 0);
    assert_int_equal(bus_read(&machine.mmio, 0xfed1c000 + 0x3140, 2), 0x3210); /* pins are wired */
    bus_write(&machine.mmio, 0xfed1c000 + 0x3410, 4, 0x12345678);
    assert_int_equal(bus_read(&machine.mmio, 0xfed1c000 + 0x3410, 4), 0x12345678);
    config_write(LPC, 0xf0, 4, 0xfed1c000);
    assert_int_equal(bus_read(&machine.mmio, 0xfed1c000 + 0x3410, 4), 0xffffffff);
    machine_fini(&machine);
}

/* INTA of slot 4 is PIRQ E: the I/O APIC's pin 20, and an ISA interrupt where PIRQE_ROUT says. */
static void test_pirqs(void **state)
{
    struct pci_function function;
    (void)state;
    power_on();
    pci_function_init(&function, "device", 1, 2, 3, 4);
    function.config[PCI_INTERRUPT_PIN] = 1;
    pci_function_add(machine.pci, PCI_DEVFN(4, 0), &function);
    irq_set(&function.intx, true);
    assert_true(level[20]);
    assert_int_equal(raised[10], 0);
    config_write(LPC, 0x68, 1, 10);
    assert_true(level[20] && level[10]);
    config_write(LPC, 0x68, 1, 11);
    assert_true(level[20] && !level[10] && level[11]);
    irq_set(&function.intx, false);
    assert_true(!level[20] && !level[11]);
    pci_function_remove(machine.pci, &function);
    machine_fini(&machine);
}

/* ---- Flash memory ---- */

static void open_drives(void)
{
    for (unsigned i = 0; i < 2; i++) {
        strcpy(drives[i].values.file, paths[i]);
        strcpy(drives[i].values.format, "raw");
        drives[i].values.read_only = i == 0;
        if (drive_open(&drives[i], NULL, &error) != 0) {
            fail_msg("%s", error.text);
        }
        config.flash[i] = &drives[i];
    }
    config.bios = NULL;
}

static uint8_t file_byte(const char *path, off_t offset)
{
    uint8_t byte = 0;
    int fd = open(path, O_RDONLY);
    assert_int_equal(pread(fd, &byte, 1, offset), 1);
    close(fd);
    return byte;
}

static void test_flash(void **state)
{
    const uint64_t code = RAM_HIGH_GPA - CODE_BYTES, vars = code - VARS_BYTES;
    (void)state;
    open_drives();
    power_on();
    for (unsigned i = 0; i < 2; i++) {
        assert_true(slots[PC_SLOT_FIRMWARE + i].gpa == (i == 0 ? code : vars));
        assert_int_equal(slots[PC_SLOT_FIRMWARE + i].bytes, i == 0 ? CODE_BYTES : VARS_BYTES);
        assert_int_equal(slots[PC_SLOT_FIRMWARE + i].flags, KVM_MEM_READONLY);
    }
    assert_memory_equal(machine.pc->map.rom, contents[0] + CODE_BYTES - ROM_MAP_ROM_BYTES, ROM_MAP_ROM_BYTES); /* at E0000 */
    /* A program: the slot goes, the other stays, the image has it at once. */
    uint8_t value = (uint8_t)~contents[1][0x123];
    bus_write(&machine.mmio, vars + 0x123, 1, 0x40);
    assert_int_equal(slots[PC_SLOT_FIRMWARE + 1].bytes, 0);
    assert_int_equal(slots[PC_SLOT_FIRMWARE].bytes, CODE_BYTES);
    bus_write(&machine.mmio, vars + 0x123, 1, value);
    assert_int_equal(bus_read(&machine.mmio, vars, 1), 0x80);
    assert_int_equal(file_byte(paths[1], 0x123), value);
    bus_write(&machine.mmio, vars, 1, 0xff);
    assert_int_equal(slots[PC_SLOT_FIRMWARE + 1].bytes, VARS_BYTES);
    assert_int_equal(bus_read(&machine.mmio, vars + 0x123, 1), value);
    /* The code's image is read-only. */
    bus_write(&machine.mmio, code + 8, 1, 0x40);
    bus_write(&machine.mmio, code + 8, 1, 0x12);
    assert_int_equal(bus_read(&machine.mmio, code, 1), 0x90);
    bus_write(&machine.mmio, code, 1, 0xff);
    assert_int_equal(bus_read(&machine.mmio, code + 8, 1), contents[0][8]);
    assert_int_equal(file_byte(paths[0], 8), contents[0][8]);
    machine_fini(&machine);
    /* A machine anew finds what was written. */
    power_on();
    assert_int_equal(bus_read(&machine.mmio, vars + 0x123, 1), value);
    machine_fini(&machine);
    drive_close(&drives[0]);
    drive_close(&drives[1]);
}

static void test_refused(void **state)
{
    (void)state;
    open_drives();
    config.bios = paths[0];
    assert_int_equal(machine_init(&machine, &config, &error), -1);
    config.bios = NULL;
    config.flash[0] = NULL;
    assert_int_equal(machine_init(&machine, &config, &error), -1);
    assert_non_null(strstr(error.text, "pflash1 requires pflash0"));
    config.flash[0] = &drives[1]; /* smaller than what is shadowed */
    config.flash[1] = NULL;
    assert_int_equal(machine_init(&machine, &config, &error), -1);
    drive_close(&drives[0]);
    drive_close(&drives[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_ram, setup, teardown),         cmocka_unit_test_setup_teardown(test_functions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ecam, setup, teardown),        cmocka_unit_test_setup_teardown(test_high_window, setup, teardown),
        cmocka_unit_test_setup_teardown(test_moves, setup, teardown),       cmocka_unit_test_setup_teardown(test_pirqs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_flash, setup, teardown),       cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
