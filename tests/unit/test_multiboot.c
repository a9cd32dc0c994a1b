/* SPDX-License-Identifier: MIT */
/*
 * Multiboot kernels: by the addresses in their header and as ELF files, with modules; the boot information as a kernel
 * reads it; and headers that lie, each refused with a line. Names of fields are the specification's.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include <elf.h>

#include "machine/boot.h"
#include "machine/layout.h"
#include "machine/multiboot.h"

#define RAM_BYTES (UINT64_C(16) << 20)
#define LOAD_GPA 0x200000u
#define FILE_BYTES 0x5000u
#define HEADER_AT 0x40u

enum { MAGIC = 0x1badb002, PAGE_ALIGN = 1, MEMORY_INFO = 2, VIDEO = 4, ADDRESSES = 0x10000 };

static struct ram ram;
static struct vcpu_start start;
static struct error error;
static uint8_t file[0x10000];
static size_t file_bytes;
static char path[] = "/tmp/kage-multiboot-XXXXXX";
static char module_path[2][32] = {"/tmp/kage-module0-XXXXXX", "/tmp/kage-module1-XXXXXX"};

static int group_setup(void **state)
{
    (void)state;
    char *names[] = {path, module_path[0], module_path[1]};
    for (unsigned i = 0; i < 3; i++) {
        int fd = mkstemp(names[i]);
        if (fd < 0) {
            return -1;
        }
        close(fd);
    }
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    unlink(path);
    unlink(module_path[0]);
    unlink(module_path[1]);
    return 0;
}

static int setup(void **state)
{
    (void)state;
    memset(&start, 0, sizeof(start));
    for (unsigned i = 0; i < sizeof(file); i++) {
        file[i] = (uint8_t)(i * 7 + (i >> 8) + 1);
    }
    file_bytes = FILE_BYTES;
    return ram_init(&ram, RAM_BYTES, &(struct ram_backing){0}, &error);
}

static int teardown(void **state)
{
    (void)state;
    ram_fini(&ram);
    return 0;
}

static void write_file(const char *name, const void *bytes, size_t count)
{
    FILE *stream = fopen(name, "w");
    assert_non_null(stream);
    assert_int_equal(fwrite(bytes, 1, count, stream), count);
    assert_int_equal(fclose(stream), 0);
}

static int load_with(const char *initrd, const char *cmdline)
{
    struct boot_request request = {.kernel = path, .initrd = initrd, .cmdline = cmdline};
    memset(&error, 0, sizeof(error));
    write_file(path, file, file_bytes);
    return boot_load(&ram, &request, &start, &error);
}

static int load(void)
{
    return load_with(NULL, "one two");
}

static void put_header(uint32_t at, uint32_t flags, const uint32_t addresses[5])
{
    uint32_t words[8] = {MAGIC, flags, 0u - MAGIC - flags};
    if (addresses != NULL) {
        memcpy(words + 3, addresses, 5 * sizeof(uint32_t));
    }
    memcpy(file + at, words, (flags & ADDRESSES) != 0 ? 32 : 12);
}

/* header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr: all of the file from LOAD_GPA on */
static void sound_addresses(uint32_t addresses[5])
{
    const uint32_t words[5] = {LOAD_GPA + HEADER_AT, LOAD_GPA, LOAD_GPA + 0x4000, LOAD_GPA + 0x8000, LOAD_GPA + 0x123};
    memcpy(addresses, words, sizeof(words));
}

static uint32_t word(uint64_t gpa)
{
    uint32_t value;
    const uint8_t *at = ram_at(&ram, gpa, 4);
    assert_non_null(at);
    memcpy(&value, at, 4);
    return value;
}

static const char *string(uint32_t gpa)
{
    const char *text = (const char *)ram_at(&ram, gpa, 1);
    assert_non_null(text);
    return text;
}

static void check_start(uint32_t entry)
{
    assert_int_equal(start.mode, VCPU_MODE_PROTECTED);
    assert_int_equal(start.rip, entry);
    assert_int_equal(start.rax, 0x2badb002);
    uint32_t info = (uint32_t)start.rbx;
    uint32_t flags = word(info);
    assert_int_equal(flags & 0x4d, 0x4d); /* memory, command line, modules, memory map */
    assert_int_equal(flags & ~0x24du, 0); /* and only the loader's name besides */
    assert_int_equal(word(info + 4), 0x9fc00 >> 10);
    assert_int_equal(word(info + 8), (RAM_BYTES - 0x100000) >> 10);
    assert_string_equal(string(word(info + 64)), "kage");
}

/* The kernel's name, then what -append says. */
static void check_cmdline(const char *append)
{
    char cmdline[100];
    snprintf(cmdline, sizeof(cmdline), "%s %s", path, append);
    assert_string_equal(string(word((uint32_t)start.rbx + 16)), cmdline);
}

static void test_addresses(void **state)
{
    uint32_t addresses[5];
    (void)state;
    sound_addresses(addresses);
    put_header(HEADER_AT, ADDRESSES | PAGE_ALIGN | MEMORY_INFO, addresses);
    memset(ram_at(&ram, LOAD_GPA, 0x10000), 0xcc, 0x10000);
    if (load() != 0) {
        fail_msg("%s", error.text);
    }
    check_start(LOAD_GPA + 0x123);
    assert_memory_equal(ram_at(&ram, LOAD_GPA, 0x4000), file, 0x4000);
    for (unsigned i = 0x4000; i < 0x8000; i++) {
        assert_int_equal(*ram_at(&ram, LOAD_GPA + i, 1), 0); /* bss */
    }
    assert_int_equal(*ram_at(&ram, LOAD_GPA + 0x8000, 1), 0xcc);
    check_cmdline("one two");
    assert_int_equal(word(start.rbx + 20), 0); /* no modules */

    /* No end: to the end of the file. No bss. And code that does not begin at the file's start. */
    addresses[2] = addresses[3] = 0;
    addresses[1] = LOAD_GPA + 0x20;
    put_header(HEADER_AT, ADDRESSES, addresses);
    assert_int_equal(load(), 0);
    assert_memory_equal(ram_at(&ram, LOAD_GPA + 0x20, FILE_BYTES - 0x20), file + 0x20, FILE_BYTES - 0x20);
}

/* The memory map: entries that a kernel walks by their sizes, ascending and disjoint; RAM is all there. */
static void test_memory_map(void **state)
{
    uint32_t addresses[5];
    (void)state;
    sound_addresses(addresses);
    put_header(HEADER_AT, ADDRESSES, addresses);
    assert_int_equal(load(), 0);
    uint64_t at = word(start.rbx + 48), map_end = at + word(start.rbx + 44), end = 0, usable = 0;
    assert_true(map_end > at);
    while (at < map_end) {
        uint32_t bytes = word(at);
        uint64_t base = word(at + 4) | (uint64_t)word(at + 8) << 32, length = word(at + 12) | (uint64_t)word(at + 16) << 32;
        assert_true(bytes >= 20 && base >= end && length != 0);
        end = base + length;
        usable += word(at + 20) == 1 ? length : 0;
        at += bytes + 4;
    }
    assert_int_equal(at, map_end);
    assert_int_equal(end, RAM_BYTES);
    assert_int_equal(usable, RAM_BYTES - 0x100000 + 0x9fc00);
}

static void test_where_header(void **state)
{
    struct boot_file kernel = {.bytes = file, .size = sizeof(file)};
    (void)state;
    assert_false(multiboot_is(&kernel));
    static const struct {
        uint32_t at;
        bool found;
    } rows[] = {{0, true}, {4, true}, {2, false}, {8192 - 12, true}, {8192 - 8, false}, {8192, false}};
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        uint8_t saved[32];
        memcpy(saved, file + rows[i].at, 32);
        put_header(rows[i].at, 0, NULL);
        assert_int_equal(multiboot_is(&kernel), rows[i].found);
        file[rows[i].at + 8] ^= 1; /* a checksum that is wrong */
        assert_false(multiboot_is(&kernel));
        memcpy(file + rows[i].at, saved, 32);
    }
    put_header(0, ADDRESSES, (const uint32_t[5]){0});
    for (kernel.size = 0; kernel.size < 32; kernel.size++) {
        assert_false(multiboot_is(&kernel)); /* it says that it has more fields than the file */
    }
    put_header(0, 0, NULL);
    kernel.size = 12;
    assert_true(multiboot_is(&kernel));
    kernel.size = 11;
    assert_false(multiboot_is(&kernel));
}

static void test_refused(void **state)
{
    static const struct {
        uint32_t flags;
        uint32_t addresses[5]; /* added to the sound ones */
        const char *says;
    } rows[] = {
        {ADDRESSES | VIDEO, {0}, "0x4"},
        {ADDRESSES | 0x8000, {0}, "0x8000"},
        {ADDRESSES, {0u - LOAD_GPA, 0, 0, 0, 0}, "before the code"},           /* header_addr below load_addr */
        {ADDRESSES, {4, 0, 0, 0, 0}, "before the code"},                       /* it lies farther in memory than in the file */
        {ADDRESSES, {0, 0u - LOAD_GPA, 0, 0, 0}, "before the code"},           /* load_addr 0 */
        {ADDRESSES, {HEADER_AT + 0x10u - LOAD_GPA, 0u - LOAD_GPA + 0x50, 0, 0, 0}, "names more bytes"}, /* load_end_addr far behind */
        {ADDRESSES, {0, 0, 0x1001, 0, 0}, "names more bytes"},                 /* a byte more than the file */
        {ADDRESSES, {0, 0, 0xf0000000u - LOAD_GPA, 0, 0}, "names more bytes"},
        {ADDRESSES, {0, 0, 0u - 0x4001, 0, 0}, "names more bytes"},            /* load_end_addr below load_addr */
        {ADDRESSES, {0, 0, 0, (uint32_t)RAM_BYTES, 0}, "no memory"},           /* bss beyond RAM */
        {ADDRESSES, {0, 0, 0, 0xffffffffu - LOAD_GPA - 0x8000, 0}, "no memory"},
        {ADDRESSES, {0x10000000, 0x10000000, 0x10000000, 0x10000000, 0}, "no memory"},
        {ADDRESSES, {0u - 0x180000, 0u - 0x180000, 0u - 0x180000, 0u - 0x180000, 0}, "no memory"}, /* below 1 MiB */
        {ADDRESSES, {0xfffff000u - LOAD_GPA, 0xfffff000u - LOAD_GPA, 0u - LOAD_GPA, 0u - LOAD_GPA, 0}, "names more bytes"}, /* over 4 GiB */
        {0, {0}, "ELF"}, /* no addresses: it should be an ELF file */
    };
    (void)state;
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        uint32_t addresses[5];
        sound_addresses(addresses);
        for (unsigned j = 0; j < 5; j++) {
            addresses[j] += rows[i].addresses[j];
        }
        put_header(HEADER_AT, rows[i].flags, addresses);
        if (load() == 0 || strstr(error.text, rows[i].says) == NULL || strstr(error.text, path) == NULL) {
            fail_msg("row %u: \"%s\" does not say \"%s\"", i, error.text, rows[i].says);
        }
    }
}

/* ---- ELF ---- */

static void make_elf(unsigned char class)
{
    Elf32_Ehdr header = {.e_type = ET_EXEC, .e_machine = EM_386, .e_version = 1, .e_entry = LOAD_GPA + 0x10, .e_phoff = sizeof(header),
                         .e_ehsize = sizeof(header), .e_phentsize = sizeof(Elf32_Phdr), .e_phnum = 2};
    Elf32_Phdr segments[2] = {
        {.p_type = PT_LOAD, .p_offset = 0x1000, .p_vaddr = 0xc0000000, .p_paddr = LOAD_GPA, .p_filesz = 0x1000, .p_memsz = 0x1000},
        {.p_type = PT_LOAD, .p_offset = 0x2000, .p_vaddr = 0xc0100000, .p_paddr = LOAD_GPA + 0x100000, .p_filesz = 0x800, .p_memsz = 0x3000}};
    memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = class;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    memcpy(file, &header, sizeof(header));
    memcpy(file + sizeof(header), segments, sizeof(segments));
    put_header(0x1004, PAGE_ALIGN | MEMORY_INFO, NULL);
}

static void test_elf(void **state)
{
    (void)state;
    make_elf(ELFCLASS32);
    if (load() != 0) {
        fail_msg("%s", error.text);
    }
    check_start(LOAD_GPA + 0x10);
    assert_memory_equal(ram_at(&ram, LOAD_GPA, 0x1000), file + 0x1000, 0x1000);
    assert_memory_equal(ram_at(&ram, LOAD_GPA + 0x100000, 0x800), file + 0x2000, 0x800);
    assert_int_equal(*ram_at(&ram, LOAD_GPA + 0x100800, 1), 0);

    Elf64_Ehdr wide = {.e_machine = EM_X86_64, .e_phentsize = sizeof(Elf64_Phdr), .e_phoff = sizeof(wide), .e_phnum = 1};
    Elf64_Phdr segment = {.p_type = PT_LOAD, .p_offset = 0x1000, .p_paddr = LOAD_GPA, .p_filesz = 0x1000, .p_memsz = 0x1000};
    memcpy(wide.e_ident, ELFMAG, SELFMAG);
    wide.e_ident[EI_CLASS] = ELFCLASS64;
    wide.e_ident[EI_DATA] = ELFDATA2LSB;
    memcpy(file, &wide, sizeof(wide));
    memcpy(file + sizeof(wide), &segment, sizeof(segment));
    assert_int_equal(load(), -1);
    assert_non_null(strstr(error.text, "64-bit"));
}

/* Any word of the ELF and program headers replaced: refused with a line, or loaded into memory. */
static void test_elf_hostile(void **state)
{
    static const uint32_t values[] = {0, 1, 0x7fffffff, 0x80000000, 0xfffffff0, 0xffffffff, 0xfffff, 0x100000, (uint32_t)RAM_BYTES - 1};
    (void)state;
    for (unsigned at = 0x10; at < sizeof(Elf32_Ehdr) + 2 * sizeof(Elf32_Phdr); at += 2) {
        for (unsigned i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
            make_elf(ELFCLASS32);
            memcpy(file + at, &values[i], 4);
            if (load() != 0) {
                assert_non_null(strstr(error.text, path));
            } else {
                assert_int_equal(start.mode, VCPU_MODE_PROTECTED);
            }
        }
    }
}

/* ---- modules ---- */

static void test_modules(void **state)
{
    uint32_t addresses[5];
    char initrd[200];
    (void)state;
    sound_addresses(addresses);
    put_header(HEADER_AT, ADDRESSES, addresses);
    write_file(module_path[0], file + 100, 5000);
    write_file(module_path[1], file + 200, 4096);
    snprintf(initrd, sizeof(initrd), "%s arg=1 -x,%s", module_path[0], module_path[1]);
    if (load_with(initrd, "") != 0) {
        fail_msg("%s", error.text);
    }
    check_start(LOAD_GPA + 0x123);
    assert_int_equal(word(start.rbx + 20), 2);
    uint32_t list = word(start.rbx + 24), end = LOAD_GPA + 0x8000;
    for (unsigned i = 0; i < 2; i++) {
        uint32_t first = word(list + i * 16), last = word(list + i * 16 + 4);
        assert_true(first >= end && first % 4096 == 0);
        assert_int_equal(last - first, i == 0 ? 5000 : 4096);
        assert_memory_equal(ram_at(&ram, first, last - first), file + (i + 1) * 100, last - first);
        assert_int_equal(word(list + i * 16 + 12), 0);
        end = last;
    }
    snprintf(initrd, sizeof(initrd), "%s arg=1 -x", module_path[0]);
    assert_string_equal(string(word(list + 8)), initrd);
    assert_string_equal(string(word(list + 24)), module_path[1]);
    check_cmdline("");
}

static void test_modules_refused(void **state)
{
    uint32_t addresses[5];
    char *text = malloc(0x20000);
    (void)state;
    assert_non_null(text);
    sound_addresses(addresses);
    put_header(HEADER_AT, ADDRESSES, addresses);
    write_file(module_path[0], file, 1);
    text[0] = '\0';
    for (unsigned i = 0; i < 17; i++) {
        sprintf(text + strlen(text), "%s%s", i == 0 ? "" : ",", module_path[0]);
        assert_int_equal(load_with(text, ""), i < 16 ? 0 : -1);
    }
    assert_non_null(strstr(error.text, "16 modules"));
    assert_int_equal(load_with("/no/such/module arg", ""), -1);
    assert_non_null(strstr(error.text, "-initrd /no/such/module:"));
    assert_int_equal(load_with(",", ""), -1);
    assert_int_equal(truncate(module_path[0], RAM_BYTES), 0);
    assert_int_equal(load_with(module_path[0], ""), -1);
    assert_non_null(strstr(error.text, "does not fit"));
    assert_int_equal(truncate(module_path[0], RAM_BYTES - LOAD_GPA - 0x8000), 0); /* to the last byte of memory */
    assert_int_equal(load_with(module_path[0], ""), 0);
    assert_int_equal(truncate(module_path[0], RAM_BYTES - LOAD_GPA - 0x8000 + 1), 0);
    assert_int_equal(load_with(module_path[0], ""), -1);

    /* Strings: as much as their place holds. */
    assert_int_equal(truncate(module_path[0], 1), 0);
    memset(text, 'a', 0x20000);
    text[0x20000 - 1] = '\0';
    assert_int_equal(load_with(NULL, text), -1);
    assert_non_null(strstr(error.text, "-append"));
    for (size_t length = LAYOUT_CMDLINE_BYTES - sizeof(path) - 8; length <= LAYOUT_CMDLINE_BYTES - sizeof(path); length++) {
        text[length] = '\0';
        bool fits = sizeof(path) + length + 1 + sizeof("kage") <= LAYOUT_CMDLINE_BYTES;
        assert_int_equal(load_with(NULL, text), fits ? 0 : -1);
        assert_int_equal(load_with(module_path[0], text), -1);
        text[length] = 'a';
    }
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_addresses, setup, teardown),    cmocka_unit_test_setup_teardown(test_memory_map, setup, teardown),
        cmocka_unit_test_setup_teardown(test_where_header, setup, teardown), cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_elf, setup, teardown),          cmocka_unit_test_setup_teardown(test_elf_hostile, setup, teardown),
        cmocka_unit_test_setup_teardown(test_modules, setup, teardown),      cmocka_unit_test_setup_teardown(test_modules_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
