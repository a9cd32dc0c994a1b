/* SPDX-License-Identifier: MIT */
/*
 * Kernel loaders. Kernels are made here: an ELF file with code, data and bss, bare or packed into a
 * bzImage with each compression. Good ones land where they must; cut, lying and damaged ones are refused
 * with a line, and touch nothing beyond guest memory (the sanitizer builds prove that).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <asm/bootparam.h>
#include <cmocka.h>
#include <elf.h>
#include <lz4.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#include "machine/acpi.h"
#include "machine/boot.h"
#include "machine/decompress.h"
#include "machine/elf.h"
#include "machine/layout.h"

#define RAM_BYTES (UINT64_C(48) << 20)
#define ELF_BYTES 0x202000u
#define TEXT_GPA UINT64_C(0x1000000)
#define DATA_GPA UINT64_C(0x1100000)
#define FILE_MAX (4u << 20)
#define PAYLOAD_AT 0x200u
#define SETUP_SECTORS 3u
#define CODE_AT ((SETUP_SECTORS + 1) * 512u)

static struct ram ram;
static struct error error;
static struct vcpu_start start;
static uint8_t file[FILE_MAX];
static size_t file_bytes;
static char path[] = "/tmp/kage-loader-XXXXXX";
static char initrd_path[] = "/tmp/kage-initrd-XXXXXX";

static int group_setup(void **state)
{
    (void)state;
    int fd = mkstemp(path);
    int initrd = mkstemp(initrd_path);
    if (fd < 0 || initrd < 0) {
        return -1;
    }
    close(fd);
    close(initrd);
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    unlink(path);
    unlink(initrd_path);
    return 0;
}

static int setup(void **state)
{
    (void)state;
    memset(&error, 0, sizeof(error));
    memset(&start, 0, sizeof(start));
    return ram_init(&ram, RAM_BYTES, &(struct ram_backing){0}, &error);
}

static int teardown(void **state)
{
    (void)state;
    ram_fini(&ram);
    return 0;
}

static void fresh_ram(void)
{
    ram_fini(&ram);
    assert_int_equal(ram_init(&ram, RAM_BYTES, &(struct ram_backing){0}, &error), 0);
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
    struct boot_request request = {.kernel = path, .initrd = initrd, .cmdline = cmdline, .rsdp_gpa = LAYOUT_ACPI_GPA};
    memset(&error, 0, sizeof(error));
    write_file(path, file, file_bytes);
    return boot_load(&ram, &request, &start, &error);
}

static int load(void)
{
    return load_with(NULL, "console=ttyS0");
}

/* ---- Kernels ---- */

static Elf64_Ehdr *elf_header(void)
{
    return (Elf64_Ehdr *)(void *)file;
}

static Elf64_Phdr *elf_phdrs(void)
{
    return (Elf64_Phdr *)(void *)(file + sizeof(Elf64_Ehdr));
}

/* As Linux has it: first segment at 2 MiB in the file, the second closer to it than in memory, with bss. */
static void make_elf(void)
{
    memset(file, 0, ELF_BYTES);
    file_bytes = ELF_BYTES;
    Elf64_Ehdr *header = elf_header();
    memcpy(header->e_ident, ELFMAG, SELFMAG);
    header->e_ident[EI_CLASS] = ELFCLASS64;
    header->e_ident[EI_DATA] = ELFDATA2LSB;
    header->e_machine = EM_X86_64;
    header->e_type = ET_EXEC;
    header->e_entry = TEXT_GPA + 0x10;
    header->e_phoff = sizeof(*header);
    header->e_phentsize = sizeof(Elf64_Phdr);
    header->e_phnum = 2;
    elf_phdrs()[0] = (Elf64_Phdr){.p_type = PT_LOAD, .p_offset = 0x200000, .p_paddr = TEXT_GPA, .p_filesz = 0x1000, .p_memsz = 0x1000};
    elf_phdrs()[1] = (Elf64_Phdr){.p_type = PT_LOAD, .p_offset = 0x201000, .p_paddr = DATA_GPA, .p_filesz = 0x800, .p_memsz = 0x4000};
    for (unsigned i = 0; i < 0x2000; i++) {
        file[0x200000 + i] = (uint8_t)(i * 7 + (i >> 8) + 1);
    }
}

static void check_elf_loaded(void)
{
    for (unsigned i = 0; i < 0x1800; i++) {
        uint8_t expected = (uint8_t)(i * 7 + (i >> 8) + 1);
        const uint8_t *at = i < 0x1000 ? ram_at(&ram, TEXT_GPA + i, 1) : ram_at(&ram, DATA_GPA + i - 0x1000, 1);
        if (*at != expected) {
            fail_msg("byte %u of the kernel is 0x%x, not 0x%x", i, *at, expected);
        }
    }
    for (unsigned i = 0x800; i < 0x4000; i++) {
        assert_int_equal(*ram_at(&ram, DATA_GPA + i, 1), 0);
    }
    assert_int_equal(start.mode, VCPU_MODE_LONG);
    assert_true(start.rip == TEXT_GPA + 0x10);
    assert_int_equal(start.rsi, LAYOUT_ZERO_PAGE_GPA);
}

static size_t pack_gzip(const uint8_t *in, size_t in_bytes, uint8_t *out, size_t room)
{
    z_stream stream;
    memset(&stream, 0, sizeof(stream));
    assert_int_equal(deflateInit2(&stream, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
    stream.next_in = (z_const Bytef *)in;
    stream.avail_in = (uInt)in_bytes;
    stream.next_out = out;
    stream.avail_out = (uInt)room;
    assert_int_equal(deflate(&stream, Z_FINISH), Z_STREAM_END);
    size_t bytes = stream.total_out;
    deflateEnd(&stream);
    return bytes;
}

/* With the branch converter, as Linux packs it. */
static size_t pack_xz(const uint8_t *in, size_t in_bytes, uint8_t *out, size_t room)
{
    lzma_options_lzma options;
    assert_false(lzma_lzma_preset(&options, 1));
    lzma_filter filters[] = {{LZMA_FILTER_X86, NULL}, {LZMA_FILTER_LZMA2, &options}, {LZMA_VLI_UNKNOWN, NULL}};
    size_t at = 0;
    assert_int_equal(lzma_stream_buffer_encode(filters, LZMA_CHECK_CRC32, NULL, in, in_bytes, out, &at, room), LZMA_OK);
    return at;
}

static size_t pack_lz4(const uint8_t *in, size_t in_bytes, uint8_t *out, size_t room)
{
    memcpy(out, "\x02\x21\x4c\x18", 4);
    int bytes = LZ4_compress_default((const char *)in, (char *)out + 8, (int)in_bytes, (int)room - 8);
    assert_true(bytes > 0);
    uint32_t block = (uint32_t)bytes;
    memcpy(out + 4, &block, 4);
    return 8 + block;
}

static size_t pack_zstd(const uint8_t *in, size_t in_bytes, uint8_t *out, size_t room)
{
    size_t bytes = ZSTD_compress(out, room, in, in_bytes, 3);
    assert_false(ZSTD_isError(bytes));
    return bytes;
}

static size_t pack_none(const uint8_t *in, size_t in_bytes, uint8_t *out, size_t room)
{
    assert_true(in_bytes <= room);
    memcpy(out, in, in_bytes);
    return in_bytes;
}

static const struct {
    const char *name;
    size_t (*pack)(const uint8_t *in, size_t in_bytes, uint8_t *out, size_t room);
} packings[] = {{"gzip", pack_gzip}, {"xz", pack_xz}, {"lz4", pack_lz4}, {"zstd", pack_zstd}, {"uncompressed", pack_none}};
#define PACKINGS (sizeof(packings) / sizeof(packings[0]))

static struct setup_header *bzimage_header(void)
{
    return (struct setup_header *)(void *)(file + 0x1f1);
}

/* Packs what make_elf() left in `file` into a bzImage in `file`. */
static void make_bzimage(unsigned packing)
{
    static uint8_t payload[FILE_MAX];
    make_elf();
    size_t bytes = packings[packing].pack(file, file_bytes, payload, sizeof(payload) - 4);
    uint32_t size_word = (uint32_t)file_bytes;
    if (packings[packing].pack != pack_gzip) { /* gzip ends in the size itself */
        memcpy(payload + bytes, &size_word, sizeof(size_word));
        bytes += sizeof(size_word);
    }
    memset(file, 0, sizeof(file));
    struct setup_header *header = bzimage_header();
    header->setup_sects = SETUP_SECTORS;
    header->boot_flag = 0xaa55;
    header->jump = 0x66eb; /* the header ends at 0x268 */
    header->header = 0x53726448;
    header->version = 0x20f;
    header->loadflags = LOADED_HIGH;
    header->xloadflags = XLF_KERNEL_64;
    header->initrd_addr_max = 0x7fffffff;
    header->cmdline_size = 2047;
    header->pref_address = TEXT_GPA;
    header->init_size = 0x300000;
    header->payload_offset = PAYLOAD_AT;
    header->payload_length = (uint32_t)bytes;
    memcpy(file + CODE_AT + PAYLOAD_AT, payload, bytes);
    file_bytes = CODE_AT + PAYLOAD_AT + bytes;
}

static const struct boot_params *zero_page(void)
{
    return (const struct boot_params *)(const void *)ram_at(&ram, LAYOUT_ZERO_PAGE_GPA, sizeof(struct boot_params));
}

/* ---- Tests ---- */

static void test_vmlinux(void **state)
{
    (void)state;
    make_elf();
    assert_int_equal(load(), 0);
    check_elf_loaded();
    const struct boot_params *params = zero_page();
    assert_int_equal(params->hdr.header, 0x53726448);
    assert_int_equal(params->acpi_rsdp_addr, LAYOUT_ACPI_GPA);
    assert_string_equal((const char *)ram_at(&ram, params->hdr.cmd_line_ptr, 64), "console=ttyS0");
    assert_int_equal(params->e820_entries, 3);
    uint64_t end = params->e820_table[2].addr + params->e820_table[2].size;
    assert_true(end == RAM_BYTES);
    /* The page tables map the kernel to itself. */
    const uint64_t *tables = (const uint64_t *)(const void *)ram_at(&ram, start.cr3, 6 * 4096);
    assert_int_equal(tables[0] & ~0xfffull, start.cr3 + 4096);
    assert_int_equal(tables[512] & ~0xfffull, start.cr3 + 2 * 4096);
    assert_int_equal(tables[1024 + 8], TEXT_GPA | 0x83);
    assert_int_equal(tables[1024 + 2047] >> 21, 2047);
}

static void test_packings(void **state)
{
    (void)state;
    for (unsigned i = 0; i < PACKINGS; i++) {
        fresh_ram();
        make_bzimage(i);
        if (load() != 0) {
            fail_msg("%s: %s", packings[i].name, error.text);
        }
        check_elf_loaded();
        assert_int_equal(zero_page()->hdr.version, 0x20f);
        assert_int_equal(zero_page()->hdr.type_of_loader, 0xff);
    }
}

/* Two blocks and a bit: threads share them. */
static void test_lz4_blocks(void **state)
{
    const size_t block = (size_t)8 << 20;
    const size_t bytes = 2 * block + 12345;
    uint8_t *plain = malloc(bytes);
    uint8_t *packed = malloc(bytes + (1 << 20));
    uint8_t *out = malloc(bytes);
    size_t at = 4;
    size_t got;
    (void)state;
    assert_true(plain != NULL && packed != NULL && out != NULL);
    for (size_t i = 0; i < bytes; i++) {
        plain[i] = (uint8_t)(i / 1000 + i / 77777);
    }
    memcpy(packed, "\x02\x21\x4c\x18", 4);
    for (size_t from = 0; from < bytes; from += block) {
        int length = (int)(bytes - from < block ? bytes - from : block);
        int size = LZ4_compress_default((const char *)plain + from, (char *)packed + at + 4, length, (int)block);
        assert_true(size > 0);
        memcpy(packed + at, &size, 4);
        at += 4 + (size_t)size;
    }
    assert_int_equal(decompress(packed, at, out, bytes, &got, &error), 0);
    assert_int_equal(got, bytes);
    assert_memory_equal(out, plain, bytes);
    assert_int_equal(decompress(packed, at, out, bytes - 1, &got, &error), -1);
    assert_int_equal(decompress(packed, at, out, block - 1, &got, &error), -1);
    assert_int_equal(decompress(packed, at - 100, out, bytes, &got, &error), -1);
    free(plain);
    free(packed);
    free(out);
}

static void test_initrd(void **state)
{
    uint8_t bytes[5000];
    (void)state;
    memset(bytes, 0x5a, sizeof(bytes));
    write_file(initrd_path, bytes, sizeof(bytes));
    make_bzimage(0);
    assert_int_equal(load_with(initrd_path, ""), 0);
    uint32_t gpa = zero_page()->hdr.ramdisk_image;
    assert_int_equal(zero_page()->hdr.ramdisk_size, sizeof(bytes));
    assert_int_equal(gpa % 4096, 0);
    assert_true(gpa >= TEXT_GPA + 0x300000 && gpa + sizeof(bytes) <= RAM_BYTES);
    assert_memory_equal(ram_at(&ram, gpa, sizeof(bytes)), bytes, sizeof(bytes));

    bzimage_header()->initrd_addr_max = (uint32_t)TEXT_GPA + 0x2fffff; /* only where the kernel is */
    assert_int_equal(load_with(initrd_path, ""), -1);
    assert_non_null(strstr(error.text, "-initrd"));
    write_file(initrd_path, bytes, 0);
    bzimage_header()->initrd_addr_max = 0x7fffffff;
    assert_int_equal(load_with(initrd_path, ""), -1);
    assert_non_null(strstr(error.text, "empty"));
    assert_int_equal(load_with("/no/such/initrd", ""), -1);
    assert_non_null(strstr(error.text, "/no/such/initrd"));
}

static void test_cmdline(void **state)
{
    char text[3000];
    (void)state;
    memset(text, 'a', sizeof(text));
    text[2047] = '\0';
    make_bzimage(2);
    assert_int_equal(load_with(NULL, text), 0);
    text[2047] = 'a';
    text[2048] = '\0';
    assert_int_equal(load_with(NULL, text), -1);
    assert_non_null(strstr(error.text, "-append"));
}

/* Not one cut of a kernel may load, nor crash. */
static void test_truncated(void **state)
{
    (void)state;
    for (unsigned packing = 0; packing < PACKINGS; packing++) {
        make_bzimage(packing);
        size_t whole = file_bytes;
        for (size_t cut = 1; cut < whole; cut = cut < 0x300 ? cut + 13 : cut + whole / 37) {
            file_bytes = cut;
            assert_int_equal(load(), -1);
            assert_true(strncmp(error.text, "-kernel ", 8) == 0);
        }
    }
    make_elf();
    for (size_t cut = 1; cut < 0x201800; cut = cut < 0x300 ? cut + 13 : cut + 99991) {
        file_bytes = cut;
        assert_int_equal(load(), -1);
    }
    file_bytes = 0;
    assert_int_equal(load(), -1);
    assert_non_null(strstr(error.text, "empty"));
}

/* The payload cut short, where the header still agrees with the file. */
static void test_short_payload(void **state)
{
    (void)state;
    for (unsigned packing = 0; packing < PACKINGS; packing++) {
        make_bzimage(packing);
        uint32_t whole = bzimage_header()->payload_length;
        for (uint32_t length = 8; length < whole - 16; length += whole / 23 + 1) {
            bzimage_header()->payload_length = length;
            assert_int_equal(load(), -1);
        }
    }
}

static void test_damaged(void **state)
{
    (void)state;
    for (unsigned packing = 0; packing < PACKINGS; packing++) {
        unsigned seed = 1;
        for (unsigned round = 0; round < 40; round++) {
            make_bzimage(packing);
            size_t payload = file_bytes - CODE_AT - PAYLOAD_AT;
            for (unsigned i = 0; i < 4; i++) {
                seed = seed * 1103515245u + 12345u;
                file[CODE_AT + PAYLOAD_AT + 8 + seed % (payload - 8)] ^= (uint8_t)(seed >> 16 | 1);
            }
            int result = load(); /* some damage cannot be seen; none may do harm */
            assert_true(result == 0 || error.text[0] != '\0');
        }
    }
}

/* The headers of a bzImage, with every 4 bytes replaced by hostile values. */
static void test_hostile_header(void **state)
{
    static const uint32_t values[] = {0, 1, 0x7fffffff, 0x80000000, 0xffffffff, 0xfffff000};
    (void)state;
    for (unsigned at = 0x1f1; at + 4 <= 0x268; at++) {
        make_bzimage(2);
        uint8_t saved[4];
        memcpy(saved, file + at, 4);
        for (unsigned i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
            memcpy(file + at, &values[i], 4);
            int result = load();
            assert_true(result == 0 || strncmp(error.text, "-", 1) == 0);
        }
        memcpy(file + at, saved, 4);
    }
}

static void refuse_elf(const char *says)
{
    if (load() != -1 || strstr(error.text, says) == NULL) {
        fail_msg("\"%s\" does not say \"%s\"", error.text, says);
    }
}

static void test_hostile_elf(void **state)
{
    (void)state;
    make_elf();
    elf_header()->e_machine = EM_AARCH64;
    refuse_elf("another processor");
    make_elf();
    elf_header()->e_phoff = UINT64_MAX - 8;
    refuse_elf("program headers");
    make_elf();
    elf_header()->e_phnum = 0xffff;
    elf_header()->e_phoff = ELF_BYTES - 56;
    refuse_elf("program headers");
    make_elf();
    elf_header()->e_phentsize = 1;
    refuse_elf("program headers");
    make_elf();
    elf_header()->e_phnum = 0;
    refuse_elf("nothing to load");
    make_elf();
    elf_phdrs()[1].p_offset = UINT64_MAX - 0x100;
    refuse_elf("truncated");
    make_elf();
    elf_phdrs()[1].p_filesz = UINT64_MAX;
    refuse_elf("truncated");
    make_elf();
    elf_phdrs()[1].p_memsz = 0x100;
    refuse_elf("more bytes in the file");
    make_elf();
    elf_phdrs()[1].p_memsz = UINT64_MAX;
    refuse_elf("wraps");
    make_elf();
    elf_phdrs()[1].p_paddr = RAM_BYTES - 0x1000;
    refuse_elf("-m");
    make_elf();
    elf_phdrs()[1].p_paddr = 0x7000; /* where the zero page is */
    refuse_elf("below 1 MiB");
    make_elf();
    elf_header()->e_entry = RAM_BYTES;
    refuse_elf("entry");
    make_elf();
    elf_header()->e_ident[EI_DATA] = ELFDATA2MSB;
    refuse_elf("little-endian");
}

/* A packed kernel whose segments must cross each other while they move. */
static void test_crossing_segments(void **state)
{
    (void)state;
    struct elf_image elf;
    make_elf();
    uint64_t at = TEXT_GPA - 0x200000;
    elf_phdrs()[0].p_paddr = at + 0x201000; /* onto the second's source */
    elf_phdrs()[1].p_paddr = at + 0x200000; /* onto the first's */
    elf_phdrs()[1].p_memsz = 0x900;
    uint8_t *bytes = ram_at(&ram, at, ELF_BYTES);
    memcpy(bytes, file, ELF_BYTES);
    assert_int_equal(elf_parse(&elf, bytes, ELF_BYTES, &error), 0);
    assert_int_equal(elf_place(&elf, &ram, bytes, ELF_BYTES, &error), 0);
    assert_memory_equal(ram_at(&ram, at + 0x201000, 0x1000), file + 0x200000, 0x1000);
    assert_memory_equal(ram_at(&ram, at + 0x200000, 0x800), file + 0x201000, 0x800);
    for (unsigned i = 0x800; i < 0x900; i++) {
        assert_int_equal(*ram_at(&ram, at + 0x200000 + i, 1), 0);
    }
}

/* A PVH note makes a 32-bit start, unless the notes say Linux. */
static void test_pvh(void **state)
{
    struct {
        Elf64_Nhdr head;
        char name[4];
        uint32_t entry;
        Elf64_Nhdr os_head;
        char os_name[4];
        char os[8];
    } note = {{4, 4, 18}, "Xen", (uint32_t)TEXT_GPA + 0x40, {4, 6, 6}, "Xen", "linux"};
    (void)state;
    for (unsigned is_linux = 0; is_linux < 2; is_linux++) {
        make_elf();
        elf_header()->e_phnum = 3;
        size_t bytes = is_linux != 0 ? sizeof(note) : offsetof(__typeof__(note), os_head);
        elf_phdrs()[2] = (Elf64_Phdr){.p_type = PT_NOTE, .p_offset = 0x1000, .p_filesz = bytes};
        memcpy(file + 0x1000, &note, bytes);
        assert_int_equal(load(), 0);
        assert_int_equal(start.mode, is_linux != 0 ? VCPU_MODE_LONG : VCPU_MODE_PROTECTED);
        assert_true(start.rip == TEXT_GPA + (is_linux != 0 ? 0x10 : 0x40));
    }
    elf_header()->e_phnum = 3;
    elf_phdrs()[2].p_filesz = 0x20;
    note.head.n_descsz = 0xfffffff0; /* a note that ends beyond its segment is none */
    memcpy(file + 0x1000, &note, sizeof(note));
    assert_int_equal(load(), 0);
    assert_int_equal(start.mode, VCPU_MODE_LONG);
}

static void test_start_info(void **state)
{
    (void)state;
    struct boot_request request = {.kernel = path, .cmdline = "x", .rsdp_gpa = LAYOUT_ACPI_GPA};
    assert_int_equal(pvh_prepare(&ram, &request, TEXT_GPA, TEXT_GPA, &start, &error), 0);
    const uint32_t *info = (const uint32_t *)(const void *)ram_at(&ram, start.rbx, 56);
    assert_int_equal(info[0], 0x336ec578);
    assert_int_equal(info[1], 1);
    assert_int_equal(info[12], 3); /* memory map entries */
    assert_int_equal(pvh_prepare(&ram, &request, RAM_BYTES, 0, &start, &error), -1);
}

static void test_acpi(void **state)
{
    (void)state;
    struct acpi_config config = {.topology = &(struct cpu_topology){.cpus = 1, .max_cpus = 1, .sockets = 1, .dies = 1, .cores = 1, .threads = 1}, .pm_port = 0x600, .sci = 9, .reset_port = 0xcf9, .reset_value = 6, .serial_count = 1, .serial = {{0x3f8, 4}}};
    uint64_t gpa = acpi_write(&ram, &config);
    assert_int_equal(gpa, LAYOUT_ACPI_GPA);
    const uint8_t *rsdp = ram_at(&ram, gpa, 36);
    assert_memory_equal(rsdp, "RSD PTR ", 8);
    uint8_t sum = 0;
    for (unsigned i = 0; i < 36; i++) {
        sum = (uint8_t)(sum + rsdp[i]);
    }
    assert_int_equal(sum, 0);
    uint64_t tables[3];
    memcpy(&tables[0], rsdp + 24, 8);
    memcpy(&tables[1], ram_at(&ram, tables[0] + 36, 16), 16);
    static const char signatures[][5] = {"XSDT", "FACP", "APIC"};
    for (unsigned i = 0; i < 3; i++) {
        uint32_t length;
        const uint8_t *table = ram_at(&ram, tables[i], 36);
        assert_memory_equal(table, signatures[i], 4);
        memcpy(&length, table + 4, 4);
        sum = 0;
        for (uint32_t at = 0; at < length; at++) {
            sum = (uint8_t)(sum + table[at]);
        }
        assert_int_equal(sum, 0);
    }
    const uint8_t *fadt = ram_at(&ram, tables[1], 276);
    assert_int_equal(fadt[46] | fadt[47] << 8, 9);       /* SCI_INT */
    assert_int_equal(fadt[56] | fadt[57] << 8, 0x600);   /* PM1a_EVT_BLK */
    assert_int_equal(fadt[64] | fadt[65] << 8, 0x604);   /* PM1a_CNT_BLK */
    assert_int_equal(fadt[120] | fadt[121] << 8, 0xcf9); /* RESET_REG */
    assert_int_equal(fadt[128], 6);
    uint32_t facs;
    memcpy(&facs, fadt + 36, 4);
    assert_int_equal(facs % 64, 0);
    assert_memory_equal(ram_at(&ram, facs, 4), "FACS", 4);
}

static void test_ram(void **state)
{
    (void)state;
    assert_non_null(ram_at(&ram, 0, RAM_BYTES));
    assert_null(ram_at(&ram, 0, RAM_BYTES + 1));
    assert_null(ram_at(&ram, 1, UINT64_MAX));
    assert_null(ram_at(&ram, UINT64_MAX, 2));
    assert_null(ram_at(&ram, RAM_HIGH_GPA, 1));
    struct ram big;
    assert_int_equal(ram_init(&big, UINT64_C(4) << 30, &(struct ram_backing){0}, &error), 0); /* reserved, not touched */
    assert_ptr_equal(ram_at(&big, RAM_HIGH_GPA, UINT64_C(1) << 30), big.base + RAM_HOLE_GPA);
    for (uint64_t gpa = 0; gpa <= RAM_HIGH_GPA; gpa += RAM_HIGH_GPA) /* a GiB of the guest's is one of the host's */
        assert_int_equal(((uintptr_t)ram_at(&big, gpa, 1) - gpa) & ((UINT64_C(1) << 30) - 1), 0);
    assert_null(ram_at(&big, RAM_HOLE_GPA - 1, 2));
    assert_null(ram_at(&big, RAM_HIGH_GPA, (UINT64_C(1) << 30) + 1));
    ram_fini(&big);
    assert_int_equal(ram_init(&big, UINT64_C(1) << 50, &(struct ram_backing){0}, &error), -1);
    assert_non_null(strstr(error.text, "more than"));
}

static void test_ram_backing(void **state)
{
    char dir[] = "/tmp/kage-ram-XXXXXX", name[64];
    struct ram_backing backing = {.path = dir, .prealloc = true};
    struct ram other;
    struct stat status;

    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(name, sizeof(name), "%s/ram", dir);
    assert_int_equal(ram_init(&other, RAM_BYTES, &backing, &error), 0); /* a file that nobody can find */
    other.base[RAM_BYTES - 1] = 1;
    ram_fini(&other);
    assert_int_equal(rmdir(dir), 0);
    assert_int_equal(mkdir(dir, 0700), 0);
    backing = (struct ram_backing){.path = name};
    assert_int_equal(ram_init(&other, RAM_BYTES, &backing, &error), 0); /* made, and as large as it must be */
    assert_int_equal(stat(name, &status), 0);
    assert_int_equal(status.st_size, RAM_BYTES);
    other.base[0] = 1; /* private: the file keeps what it has */
    ram_fini(&other);
    assert_int_equal(ram_init(&other, RAM_BYTES, &backing, &error), 0);
    assert_int_equal(other.base[0], 0);
    ram_fini(&other);
    assert_int_equal(unlink(name), 0);
    assert_int_equal(rmdir(dir), 0);
    assert_int_equal(ram_init(&other, RAM_BYTES, &backing, &error), -1);
    assert_non_null(strstr(error.text, name));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ram_backing),
        cmocka_unit_test_setup_teardown(test_vmlinux, setup, teardown),
        cmocka_unit_test_setup_teardown(test_packings, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lz4_blocks, setup, teardown),
        cmocka_unit_test_setup_teardown(test_initrd, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cmdline, setup, teardown),
        cmocka_unit_test_setup_teardown(test_truncated, setup, teardown),
        cmocka_unit_test_setup_teardown(test_short_payload, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damaged, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hostile_header, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hostile_elf, setup, teardown),
        cmocka_unit_test_setup_teardown(test_crossing_segments, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pvh, setup, teardown),
        cmocka_unit_test_setup_teardown(test_start_info, setup, teardown),
        cmocka_unit_test_setup_teardown(test_acpi, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ram, setup, teardown),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
