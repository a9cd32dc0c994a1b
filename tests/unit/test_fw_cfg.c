/* SPDX-License-Identifier: MIT */
/*
 * fw_cfg: selector, data port, DMA with descriptors of every kind, the directory. Guest memory stands between two
 * inaccessible pages, and what a descriptor names beyond it must be refused. Then what board pc's firmware is told:
 * the table loader's script is run here as firmware runs it, and its result is checked as a guest checks it.
 */
#include <endian.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <asm/bootparam.h>
#include <cmocka.h>

#include "bus/bus.h"
#include "dev/fw_cfg.h"
#include "machine/fw_data.h"

#define PORT 0x510u
#define PAGE 4096u
#define MEMORY_BYTES (16u * PAGE)
#define MEMORY_GPA 0x10000u

enum { ERROR = 1, READ = 2, SKIP = 4, SELECT = 8, WRITE = 16 };

static struct bus ports;
static struct fw_cfg fw;
static uint8_t *memory; /* guest-physical MEMORY_GPA */

static uint8_t *memory_at(void *opaque, uint64_t gpa, uint64_t bytes)
{
    assert_ptr_equal(opaque, &fw);
    bool inside = gpa >= MEMORY_GPA && gpa - MEMORY_GPA <= MEMORY_BYTES && bytes <= MEMORY_BYTES - (gpa - MEMORY_GPA);
    return inside ? memory + (gpa - MEMORY_GPA) : NULL;
}

static int setup(void **state)
{
    (void)state;
    uint8_t *space = mmap(NULL, MEMORY_BYTES + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (space == MAP_FAILED || mprotect(space + PAGE, MEMORY_BYTES, PROT_READ | PROT_WRITE) != 0) {
        return -1;
    }
    memory = space + PAGE;
    memset(memory, 0xee, MEMORY_BYTES);
    bus_init(&ports, "port", 0xffff);
    fw_cfg_init(&fw, memory_at, &fw);
    return bus_add(&ports, PORT, FW_CFG_PORTS, &fw_cfg_ops, &fw);
}

static int teardown(void **state)
{
    (void)state;
    fw_cfg_fini(&fw);
    bus_fini(&ports);
    munmap(memory - PAGE, MEMORY_BYTES + 2 * PAGE);
    return 0;
}

static void choose(uint16_t key)
{
    bus_write(&ports, PORT, 2, key);
}

static uint8_t next(void)
{
    return (uint8_t)bus_read(&ports, PORT + 1, 1);
}

static uint64_t next_number(unsigned bytes)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes; i++) {
        value |= (uint64_t)next() << (i * 8);
    }
    return value;
}

static void start_dma(uint64_t gpa)
{
    bus_write(&ports, PORT + 4, 4, htobe32((uint32_t)(gpa >> 32)));
    bus_write(&ports, PORT + 8, 4, htobe32((uint32_t)gpa));
}

/* One transfer by a descriptor at MEMORY_GPA; its control word afterwards. */
static uint32_t dma(uint16_t key, uint32_t control, uint32_t length, uint64_t address)
{
    uint32_t words[4] = {htobe32((uint32_t)key << 16 | control), htobe32(length), htobe32((uint32_t)(address >> 32)), htobe32((uint32_t)address)};
    memcpy(memory, words, sizeof(words));
    start_dma(MEMORY_GPA);
    memcpy(words, memory, sizeof(words));
    assert_int_equal(be32toh(words[1]), length); /* only the control word is written */
    return be32toh(words[0]);
}

static void test_ports(void **state)
{
    static const uint8_t bytes[] = {1, 2, 3, 4, 5};
    (void)state;
    assert_int_equal(fw_cfg_add(&fw, 0x30, bytes, sizeof(bytes)), 0);
    assert_int_equal(fw_cfg_add_number(&fw, FW_CFG_RAM_SIZE, 0x123456789a, 8), 0);
    choose(FW_CFG_SIGNATURE);
    assert_int_equal(next_number(4), 0x554d4551); /* "QEMU" */
    assert_int_equal(next(), 0);
    choose(FW_CFG_ID);
    assert_int_equal(next_number(4), 3); /* ports and DMA */
    choose(FW_CFG_RAM_SIZE);
    assert_true(next_number(8) == 0x123456789a);
    choose(0x30);
    assert_int_equal(next_number(5), 0x0504030201);
    for (unsigned i = 0; i < 10; i++) {
        assert_int_equal(next(), 0); /* behind the end */
    }
    choose(0x30); /* from its start again */
    assert_int_equal(next(), 1);
    choose(0x77); /* nothing of that number */
    assert_int_equal(next_number(4), 0);
    bus_write(&ports, PORT, 1, 0x30); /* not the selector's width */
    bus_write(&ports, PORT, 4, 0x30);
    assert_int_equal(next(), 0);
    choose(0x4030); /* the old write channel: the same item, which nothing changes */
    bus_write(&ports, PORT + 1, 1, 0xff);
    assert_int_equal(next(), 1);
    assert_int_equal(bus_read(&ports, PORT + 4, 4), 0x554d4551);
    assert_int_equal(bus_read(&ports, PORT + 8, 4), 0x47464320); /* " CFG" */
    assert_true(bus_read(&ports, PORT + 4, 8) == 0x47464320554d4551);
    assert_int_equal(bus_read(&ports, PORT + 11, 1), 'G');
    assert_int_equal(bus_read(&ports, PORT + 11, 2), 0xffff);
    assert_int_equal(bus_read(&ports, PORT, 2), 0);
}

static void test_directory(void **state)
{
    char name[80];
    (void)state;
    memset(name, 'n', sizeof(name));
    name[79] = '\0';
    assert_int_equal(fw_cfg_add_file(&fw, "etc/one", "1", 1), 0);
    assert_int_equal(fw_cfg_add_number(&fw, FW_CFG_NB_CPUS, 4, 2), 0); /* no file */
    assert_int_equal(fw_cfg_add_file(&fw, "etc/empty", NULL, 0), 0);
    assert_int_equal(fw_cfg_add_file(&fw, name, "333", 3), 0); /* cut, with its NUL */
    choose(FW_CFG_FILE_DIR);
    assert_int_equal(be32toh((uint32_t)next_number(4)), 3);
    for (unsigned i = 0; i < 3; i++) {
        static const char *const names[] = {"etc/one", "etc/empty", NULL};
        static const uint32_t sizes[] = {1, 0, 3};
        char got[FW_CFG_NAME_BYTES];
        assert_int_equal(be32toh((uint32_t)next_number(4)), sizes[i]);
        assert_int_equal(be16toh((uint16_t)next_number(2)), FW_CFG_FILE_FIRST + i);
        assert_int_equal(next_number(2), 0);
        for (unsigned at = 0; at < sizeof(got); at++) {
            got[at] = (char)next();
        }
        assert_int_equal(got[FW_CFG_NAME_BYTES - 1], 0);
        assert_string_equal(got, names[i] != NULL ? names[i] : name + 79 - (FW_CFG_NAME_BYTES - 1));
    }
    assert_int_equal(next_number(8), 0);

    /* By DMA in one go, more than there is. */
    uint32_t bytes = 4 + 3 * 64;
    assert_int_equal(dma(FW_CFG_FILE_DIR, SELECT | READ, bytes + 100, MEMORY_GPA + 0x100), 0);
    choose(FW_CFG_FILE_DIR);
    for (unsigned i = 0; i < bytes + 100; i++) {
        assert_int_equal(memory[0x100 + i], next());
    }
    assert_int_equal(memory[0x100 + bytes + 100], 0xee);
}

static void test_full(void **state)
{
    unsigned count = 0;
    (void)state;
    while (fw_cfg_add_file(&fw, "x", &count, sizeof(count)) == 0) {
        count++;
    }
    assert_int_equal(count, FW_CFG_ITEMS_MAX);
    assert_int_equal(fw_cfg_add_file(&fw, "x", "", 1), -ENOSPC);
    choose((uint16_t)(FW_CFG_FILE_FIRST + FW_CFG_ITEMS_MAX - 1));
    assert_int_equal(next(), FW_CFG_ITEMS_MAX - 1);
    choose((uint16_t)(FW_CFG_FILE_FIRST + FW_CFG_ITEMS_MAX));
    assert_int_equal(next(), 0);
}

static void test_dma(void **state)
{
    uint8_t bytes[256];
    (void)state;
    for (unsigned i = 0; i < sizeof(bytes); i++) {
        bytes[i] = (uint8_t)(i + 1);
    }
    assert_int_equal(fw_cfg_add_static(&fw, 0x30, bytes, sizeof(bytes)), 0);
    assert_int_equal(dma(0x30, SELECT | READ, 100, MEMORY_GPA + PAGE), 0);
    assert_memory_equal(memory + PAGE, bytes, 100);
    assert_int_equal(memory[PAGE + 100], 0xee);
    assert_int_equal(dma(0, READ, 50, MEMORY_GPA + PAGE), 0); /* goes on where it was */
    assert_memory_equal(memory + PAGE, bytes + 100, 50);
    assert_int_equal(dma(0, SKIP, 6, 0), 0); /* no address is looked at */
    assert_int_equal(next(), 157); /* one place for both ways */
    assert_int_equal(dma(0, READ, 200, MEMORY_GPA + PAGE), 0);
    assert_memory_equal(memory + PAGE, bytes + 157, 99);
    for (unsigned i = 99; i < 200; i++) {
        assert_int_equal(memory[PAGE + i], 0); /* behind the end */
    }
    assert_int_equal(dma(0x30, SELECT | SKIP, 255, 0), 0);
    assert_int_equal(next(), 0); /* bytes[255] wrapped to 0 */
    assert_int_equal(dma(0x30, SELECT, 77, MEMORY_GPA), 0); /* selects, and moves nothing */
    assert_int_equal(next(), 1);
    assert_int_equal(dma(0x31, SELECT | READ, 10, MEMORY_GPA + PAGE), 0); /* no such item: zeros */
    assert_int_equal(memory[PAGE], 0);
    assert_int_equal(dma(0x30, SELECT | READ, 0, UINT64_MAX), 0); /* nothing to move: no address */
    assert_int_equal(dma(0, 0, 10, MEMORY_GPA + PAGE), 0);
    assert_int_equal(next(), 1);

    /* Skipping over the end for ever does not come round. */
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(dma(0, SKIP, UINT32_MAX, 0), 0);
    }
    assert_int_equal(next(), 0);
    assert_int_equal(dma(0, READ, 4, MEMORY_GPA + PAGE), 0);
    assert_int_equal(memory[PAGE], 0);
}

static void test_dma_refused(void **state)
{
    static const struct {
        uint32_t control, length;
        uint64_t address;
    } rows[] = {
        {READ, 1, 0},
        {READ, 1, MEMORY_GPA - 1},
        {READ, 1, MEMORY_GPA + MEMORY_BYTES},
        {READ, 2, MEMORY_GPA + MEMORY_BYTES - 1},
        {READ, MEMORY_BYTES + 1, MEMORY_GPA},
        {READ, UINT32_MAX, MEMORY_GPA},
        {READ, 0x10, UINT64_MAX - 7}, /* wraps */
        {READ, 1, MEMORY_GPA | UINT64_C(1) << 32}, /* the address has 64 bits */
        {READ, 1, UINT64_C(1) << 63 | MEMORY_GPA},
        {WRITE, 1, MEMORY_GPA + PAGE}, /* no item can be written */
        {WRITE | SELECT, 4, 0},
    };
    (void)state;
    assert_int_equal(fw_cfg_add(&fw, 0x30, "secret", 6), 0);
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        choose(0x30);
        assert_int_equal(dma(0x30, rows[i].control, rows[i].length, rows[i].address), ERROR);
        assert_int_equal(next(), 's'); /* and nothing has moved on */
    }
    for (unsigned i = 16; i < MEMORY_BYTES; i++) {
        assert_int_equal(memory[i], 0xee);
    }
    /* The last byte of memory is inside; so is a transfer over the descriptor itself, whose control word comes last. */
    choose(0x30);
    assert_int_equal(dma(0x30, READ, 1, MEMORY_GPA + MEMORY_BYTES - 1), 0);
    assert_int_equal(memory[MEMORY_BYTES - 1], 's');
    choose(0x30);
    uint32_t words[4] = {htobe32(READ), htobe32(16), 0, htobe32(MEMORY_GPA)};
    memcpy(memory, words, sizeof(words));
    start_dma(MEMORY_GPA);
    assert_memory_equal(memory, "\0\0\0\0et\0\0", 8);
}

/* Descriptors that are not all in memory are not read at all. */
static void test_dma_descriptor(void **state)
{
    static const uint64_t places[] = {0, MEMORY_GPA - 1, MEMORY_GPA - 16, MEMORY_GPA + MEMORY_BYTES - 15, MEMORY_GPA + MEMORY_BYTES, UINT64_MAX,
                                      UINT64_MAX - 15, UINT64_C(1) << 32 | MEMORY_GPA};
    (void)state;
    assert_int_equal(fw_cfg_add(&fw, 0x30, "secret", 6), 0);
    choose(0x30);
    for (unsigned i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        start_dma(places[i]);
    }
    bus_write(&ports, PORT + 4, 4, htobe32(1)); /* the high half alone starts nothing, and counts once */
    bus_write(&ports, PORT + 8, 4, htobe32(MEMORY_GPA));
    for (unsigned i = 0; i < MEMORY_BYTES; i++) {
        assert_int_equal(memory[i], 0xee);
    }
    uint32_t words[4] = {htobe32(READ), htobe32(6), 0, htobe32(MEMORY_GPA + PAGE)};
    memcpy(memory + MEMORY_BYTES - 16, words, sizeof(words));
    bus_write(&ports, PORT + 8, 4, htobe32(MEMORY_GPA + MEMORY_BYTES - 16)); /* no high half: it is 0 */
    assert_memory_equal(memory + PAGE, "secret", 6);
    bus_write(&ports, PORT + 8, 2, htobe16(0)); /* not the register's width */
    bus_write(&ports, PORT + 6, 4, 0);
    choose(0x30);
    assert_int_equal(next(), 's');
}

/* ---- what the firmware of board pc is told ---- */

static const uint8_t *item_bytes(uint16_t key, uint32_t *size)
{
    for (unsigned i = 0; i < fw.count; i++) {
        if (fw.items[i].key == key) {
            *size = fw.items[i].size;
            return fw.items[i].bytes;
        }
    }
    fail_msg("there is no item 0x%x", key);
    return NULL;
}

static const uint8_t *file_bytes(const char *name, uint32_t *size)
{
    for (unsigned i = 0; i < fw.count; i++) {
        if (strcmp(fw.items[i].name, name) == 0) {
            *size = fw.items[i].size;
            return fw.items[i].bytes;
        }
    }
    fail_msg("there is no file %s", name);
    return NULL;
}

static uint64_t item_number(uint16_t key, unsigned bytes)
{
    uint32_t size;
    uint64_t value = 0;
    const uint8_t *at = item_bytes(key, &size);
    assert_int_equal(size, bytes);
    memcpy(&value, at, bytes);
    return le64toh(value);
}

static struct ram ram;
static struct fw_data data;
static struct config_lists lists;
static struct machine_config config;
static struct error error;

static int fill(void)
{
    const struct acpi_config acpi = {.topology = &config.smp, .rtc = true, .pm_port = 0x600, .sci = 9, .reset_port = 0xcf9, .reset_value = 6,
                                     .pvpanic_port = 0x505, .pci = true, .serial_count = 1, .serial = {{0x3f8, 4}}};
    memset(&data, 0, sizeof(data));
    memset(&error, 0, sizeof(error));
    data.bootorder = config.kernel != NULL ? strdup("/rom@" FW_DATA_ROM) : NULL;
    return fw_data_fill(&data, &fw, &config, &ram, &acpi, &error);
}

static int setup_data(void **state)
{
    config = (struct machine_config){.lists = &lists, .board = machine_find_board("pc"), .acpi = true, .cmdline = "", .smp = {.cpus = 3, .max_cpus = 12, .sockets = 2, .dies = 1, .cores = 3, .threads = 2}};
    ram = (struct ram){.bytes = UINT64_C(0x140000000), .low_bytes = RAM_HOLE_GPA}; /* nothing reads it */
    return setup(state);
}

static int teardown_data(void **state)
{
    fw_data_fini(&data);
    return teardown(state);
}

static void test_numbers(void **state)
{
    uint32_t size;
    uint64_t entry[5]; /* two entries of 20 bytes */
    (void)state;
    assert_int_equal(fill(), 0);
    assert_true(item_number(FW_CFG_RAM_SIZE, 8) == UINT64_C(0x140000000));
    assert_int_equal(item_number(FW_CFG_NB_CPUS, 2), 3);
    assert_int_equal(item_number(FW_CFG_MAX_CPUS, 2), 3); /* the last APIC id and 1 */
    assert_int_equal(item_number(FW_CFG_NOGRAPHIC, 2), 0); /* no serial port here */
    assert_int_equal(item_number(FW_CFG_IRQ0_OVERRIDE, 1), 1);
    const uint8_t *map = file_bytes("etc/e820", &size);
    assert_int_equal(size, 40);
    memcpy(entry, map, size);
    assert_true(entry[0] == 0 && entry[1] == RAM_HOLE_GPA && (uint32_t)entry[2] == 1);
    memcpy(entry, map + 20, 20);
    assert_true(entry[0] == RAM_HIGH_GPA && entry[1] == UINT64_C(0x80000000) && (uint32_t)entry[2] == 1);
}

/* The files as firmware places them, at addresses of its choice. */
struct placed {
    char name[FW_CFG_NAME_BYTES];
    uint8_t bytes[0x8000];
    uint32_t size, gpa;
};
static struct placed placed[2];
static unsigned placed_count;

static struct placed *find_placed(const char *name)
{
    for (unsigned i = 0; i < placed_count; i++) {
        if (strncmp(placed[i].name, name, FW_CFG_NAME_BYTES) == 0) {
            return &placed[i];
        }
    }
    fail_msg("%s is used before it is placed", name);
    return NULL;
}

static uint8_t sum(const uint8_t *bytes, uint32_t count)
{
    uint8_t total = 0;
    while (count-- > 0) {
        total = (uint8_t)(total + *bytes++);
    }
    return total;
}

/* QEMU's hw/acpi/bios-linker-loader.c has the format: 128 bytes a command. */
static void run_loader(void)
{
    uint32_t size;
    const uint8_t *script = file_bytes("etc/table-loader", &size);
    assert_int_equal(size % 128, 0);
    placed_count = 0;
    for (uint32_t at = 0; at < size; at += 128) {
        const uint8_t *c = script + at;
        uint32_t command, words[3];
        const char *name = (const char *)c + 4;
        memcpy(&command, c, 4);
        if (command == 1) {
            struct placed *p = &placed[placed_count];
            assert_true(placed_count < 2);
            strncpy(p->name, name, sizeof(p->name) - 1);
            memcpy(words, c + 60, 4);
            assert_true(words[0] != 0 && (words[0] & (words[0] - 1)) == 0);
            assert_true(c[64] == 1 || c[64] == 2); /* zone: high memory, or the F segment */
            p->gpa = c[64] == 2 ? 0xf5a00 : 0x0ffe0000;
            const uint8_t *bytes = file_bytes(p->name, &p->size);
            assert_true(p->size <= sizeof(p->bytes));
            memcpy(p->bytes, bytes, p->size);
            placed_count++;
        } else if (command == 2) {
            struct placed *p = find_placed(name);
            const struct placed *to = find_placed((const char *)c + 60);
            uint64_t value = 0;
            memcpy(words, c + 116, 4);
            uint8_t bytes = c[120];
            assert_true((bytes == 4 || bytes == 8) && words[0] <= p->size && bytes <= p->size - words[0]);
            memcpy(&value, p->bytes + words[0], bytes);
            assert_true(value < to->size);
            value += to->gpa;
            memcpy(p->bytes + words[0], &value, bytes);
        } else if (command == 3) {
            struct placed *p = find_placed(name);
            memcpy(words, c + 60, 12);
            assert_true(words[0] < p->size && words[1] <= p->size && words[2] <= p->size - words[1]);
            p->bytes[words[0]] = (uint8_t)(p->bytes[words[0]] - sum(p->bytes + words[1], words[2]));
        } else {
            fail_msg("command %u", command);
        }
    }
    assert_int_equal(placed_count, 2);
}

static const uint8_t *table_at(uint64_t gpa, const char *signature)
{
    const struct placed *tables = find_placed("etc/acpi/tables");
    assert_true(gpa >= tables->gpa && gpa - tables->gpa + 36 <= tables->size);
    const uint8_t *table = tables->bytes + (gpa - tables->gpa);
    uint32_t length;
    memcpy(&length, table + 4, 4);
    assert_memory_equal(table, signature, 4);
    assert_true(gpa - tables->gpa + length <= tables->size);
    if (memcmp(signature, "FACS", 4) != 0) {
        assert_int_equal(sum(table, length), 0);
    } else {
        assert_int_equal(gpa % 64, 0);
    }
    return table;
}

static uint64_t pointer(const uint8_t *at, unsigned bytes)
{
    uint64_t value = 0;
    memcpy(&value, at, bytes);
    return value;
}

static void test_acpi(void **state)
{
    (void)state;
    assert_int_equal(fill(), 0);
    run_loader();
    const uint8_t *rsdp = find_placed("etc/acpi/rsdp")->bytes;
    assert_memory_equal(rsdp, "RSD PTR ", 8);
    assert_int_equal(sum(rsdp, 20), 0);
    assert_int_equal(sum(rsdp, 36), 0);
    const uint8_t *xsdt = table_at(pointer(rsdp + 24, 8), "XSDT");
    assert_int_equal(pointer(xsdt + 4, 4), 36 + 2 * 8);
    const uint8_t *fadt = table_at(pointer(xsdt + 36, 8), "FACP");
    const uint8_t *madt = table_at(pointer(xsdt + 44, 8), "APIC");
    table_at(pointer(fadt + 36, 4), "FACS");
    table_at(pointer(fadt + 40, 4), "DSDT");
    assert_int_equal(pointer(fadt + 40, 4), pointer(fadt + 140, 8));
    assert_int_equal(pointer(fadt + 56, 4), 0x600);
    unsigned processors = 0;
    for (uint64_t at = 44; at < pointer(madt + 4, 4); at += madt[at + 1]) {
        assert_true(madt[at + 1] >= 2);
        processors += madt[at] == 0;
    }
    assert_int_equal(processors, 3);
    fw_cfg_fini(&fw);
    fw_cfg_init(&fw, memory_at, &fw);
    config.acpi = false;
    assert_int_equal(fill(), 0);
    for (unsigned i = 0; i < fw.count; i++) {
        assert_null(strstr(fw.items[i].name, "acpi"));
    }
}

/* ---- a kernel for the option ROM ---- */

static uint8_t kernel[0x10000];
static char kernel_path[] = "/tmp/kage-fw-kernel-XXXXXX";
static char initrd_path[] = "/tmp/kage-fw-initrd-XXXXXX";

static struct setup_header *kernel_header(void)
{
    return (struct setup_header *)(void *)(kernel + 0x1f1);
}

static void write_file(const char *path, const void *bytes, size_t count)
{
    FILE *stream = fopen(path, "w");
    assert_non_null(stream);
    assert_int_equal(fwrite(bytes, 1, count, stream), count);
    assert_int_equal(fclose(stream), 0);
}

static void make_kernel(void)
{
    for (unsigned i = 0; i < sizeof(kernel); i++) {
        kernel[i] = (uint8_t)(i * 5 + (i >> 8));
    }
    memset(kernel + 0x1f1, 0, 0x400 - 0x1f1);
    struct setup_header *header = kernel_header();
    header->setup_sects = 3;
    header->boot_flag = 0xaa55;
    header->jump = 0x66eb;
    header->header = 0x53726448;
    header->version = 0x20f;
    header->loadflags = LOADED_HIGH;
    header->initrd_addr_max = 0x7fffffff;
    header->cmdline_size = 100;
    header->pref_address = 0x1000000;
    header->init_size = 0x400000;
}

static int fill_kernel(size_t bytes)
{
    fw_data_fini(&data);
    fw_cfg_fini(&fw);
    fw_cfg_init(&fw, memory_at, &fw);
    write_file(kernel_path, kernel, bytes);
    config.kernel = kernel_path;
    return fill();
}

static void test_kernel(void **state)
{
    uint32_t size, setup_bytes;
    (void)state;
    make_kernel();
    ram = (struct ram){.bytes = 64u << 20, .low_bytes = 64u << 20};
    config.cmdline = "console=ttyS0";
    config.initrd = initrd_path;
    write_file(initrd_path, kernel, 5000);
    if (fill_kernel(sizeof(kernel)) != 0) {
        fail_msg("%s", error.text);
    }
    assert_false(data.direct);
    const uint8_t *setup_code = item_bytes(FW_CFG_SETUP_DATA, &setup_bytes);
    assert_int_equal(setup_bytes, 4 * 512);
    assert_int_equal(item_number(FW_CFG_SETUP_SIZE, 4), setup_bytes);
    assert_int_equal(item_number(FW_CFG_SETUP_ADDR, 4), 0x10000);
    assert_memory_equal(setup_code, kernel, 0x1f1);
    assert_memory_equal(setup_code + 0x268, kernel + 0x268, setup_bytes - 0x268);
    struct setup_header header;
    memcpy(&header, setup_code + 0x1f1, sizeof(header));
    assert_int_equal(header.type_of_loader, 0xff);
    assert_int_equal(header.loadflags, LOADED_HIGH | CAN_USE_HEAP);
    assert_int_equal(header.cmd_line_ptr, item_number(FW_CFG_CMDLINE_ADDR, 4));
    assert_true(header.heap_end_ptr + 0x200u <= 0x10000);
    assert_int_equal(item_number(FW_CFG_KERNEL_SIZE, 4), sizeof(kernel) - setup_bytes);
    assert_memory_equal(item_bytes(FW_CFG_KERNEL_DATA, &size), kernel + setup_bytes, sizeof(kernel) - setup_bytes);
    assert_string_equal((const char *)item_bytes(FW_CFG_CMDLINE_DATA, &size), "console=ttyS0");
    assert_int_equal(size, strlen("console=ttyS0") + 1);
    assert_int_equal(header.ramdisk_size, 5000);
    assert_int_equal(header.ramdisk_image, item_number(FW_CFG_INITRD_ADDR, 4));
    assert_true(header.ramdisk_image % PAGE == 0 && header.ramdisk_image >= 0x1400000 && header.ramdisk_image + 5000u <= ram.low_bytes - 0x100000);
    assert_memory_equal(item_bytes(FW_CFG_INITRD_DATA, &size), kernel, 5000);

    const uint8_t *rom = file_bytes("genroms/kage-linux.bin", &size);
    assert_int_equal(size % 512, 0);
    assert_int_equal(rom[0] | rom[1] << 8, 0xaa55);
    assert_int_equal(rom[2] * 512u, size);
    assert_int_equal(sum(rom, size), 0);
    assert_memory_equal(rom + (rom[0x1a] | rom[0x1b] << 8), "$PnP", 4);
    assert_string_equal((const char *)file_bytes("bootorder", &size), "/rom@genroms/kage-linux.bin");
    assert_int_equal(size, sizeof("/rom@genroms/kage-linux.bin")); /* with its NUL, as SeaBIOS wants it */
}

static void test_kernel_refused(void **state)
{
    (void)state;
    make_kernel();
    ram = (struct ram){.bytes = 64u << 20, .low_bytes = 64u << 20};
    /* Cut anywhere: refused, or it is only the kernel's own code that is short. */
    for (size_t bytes = 1; bytes < 4 * 512 + 1; bytes += bytes < 0x300 ? 7 : 101) {
        assert_int_equal(fill_kernel(bytes), -1);
        assert_non_null(strstr(error.text, kernel_path));
    }
    const struct {
        void *field;
        uint64_t value;
        unsigned bytes;
        const char *says;
    } rows[] = {
        {&kernel_header()->boot_flag, 0, 2, "bzImage"},
        {&kernel_header()->header, 0, 4, "bzImage"},
        {&kernel_header()->version, 0x202, 2, "2.03"},
        {&kernel_header()->loadflags, 0, 1, "bzImage"},
        {&kernel_header()->setup_sects, 255, 1, "truncated"},
        {&kernel_header()->setup_sects, 100, 1, "too long"},
        {&kernel_header()->pref_address, UINT64_MAX, 8, "MiB of memory"},
        {&kernel_header()->pref_address, 63u << 20, 8, "MiB of memory"},
        {&kernel_header()->init_size, UINT32_MAX, 4, "MiB of memory"},
        {&kernel_header()->initrd_addr_max, 0x1400000, 4, "-initrd"},
        {&kernel_header()->cmdline_size, 3, 4, "-append"},
    };
    config.cmdline = "quiet";
    config.initrd = initrd_path;
    write_file(initrd_path, kernel, 5000);
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        uint64_t saved;
        memcpy(&saved, rows[i].field, 8);
        memcpy(rows[i].field, &rows[i].value, rows[i].bytes);
        if (fill_kernel(sizeof(kernel)) == 0 || strstr(error.text, rows[i].says) == NULL) {
            fail_msg("row %u: \"%s\" does not say \"%s\"", i, error.text, rows[i].says);
        }
        memcpy(rows[i].field, &saved, 8);
    }
    config.initrd = "/no/such/initrd";
    assert_int_equal(fill_kernel(sizeof(kernel)), -1);
    assert_non_null(strstr(error.text, "/no/such/initrd"));
    config.initrd = initrd_path;
    assert_int_equal(fill_kernel(sizeof(kernel)), 0);
}

static int group_setup(void **state)
{
    (void)state;
    int fd = mkstemp(kernel_path);
    int initrd = mkstemp(initrd_path);
    close(fd);
    close(initrd);
    return fd < 0 || initrd < 0 ? -1 : 0;
}

static int group_teardown(void **state)
{
    (void)state;
    unlink(kernel_path);
    unlink(initrd_path);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_ports, setup, teardown),
        cmocka_unit_test_setup_teardown(test_directory, setup, teardown),
        cmocka_unit_test_setup_teardown(test_full, setup, teardown),
        cmocka_unit_test_setup_teardown(test_dma, setup, teardown),
        cmocka_unit_test_setup_teardown(test_dma_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_dma_descriptor, setup, teardown),
        cmocka_unit_test_setup_teardown(test_numbers, setup_data, teardown_data),
        cmocka_unit_test_setup_teardown(test_acpi, setup_data, teardown_data),
        cmocka_unit_test_setup_teardown(test_kernel, setup_data, teardown_data),
        cmocka_unit_test_setup_teardown(test_kernel_refused, setup_data, teardown_data),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
