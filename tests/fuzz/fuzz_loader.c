/* SPDX-License-Identifier: MIT */
/*
 * libFuzzer harness of the kernel loaders. The input's first byte says how deep the rest goes in: as
 * the file itself, as an ELF file, as the payload of a sound bzImage (one of the decompressors), as what
 * is packed in it, or as a multiboot kernel: a header whose magic and checksum hold, over code or over an ELF file. Guest memory stands between two inaccessible pages. tests/fuzz-smoke.sh builds
 * and runs this; a crash leaves its input behind.
 */
#include <asm/bootparam.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

#include "machine/boot.h"

#define RAM_BYTES (UINT64_C(16) << 20)
#define GUARD_BYTES UINT64_C(4096)
#define INPUT_MAX 65536u
#define SETUP_SECTORS 3u
#define CODE_AT ((SETUP_SECTORS + 1) * 512u)
#define PAYLOAD_AT 0x200u
#define FILE_MAX (CODE_AT + PAYLOAD_AT + INPUT_MAX + 1024u)

#define MULTIBOOT_MAGIC 0x1badb002u
#define MULTIBOOT_ADDRESSES 0x10000u
#define MULTIBOOT_AT 0x400u /* behind any ELF headers */

enum fuzz_kind { FUZZ_FILE, FUZZ_ELF, FUZZ_PAYLOAD, FUZZ_PACKED, FUZZ_MULTIBOOT, FUZZ_MULTIBOOT_ELF, FUZZ_KINDS };

static struct ram ram;
static uint8_t file[FILE_MAX];
static char path[32];
static int fd = -1;

static void fuzz_init(void)
{
    uint8_t *space = mmap(NULL, RAM_BYTES + 2 * GUARD_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    fd = memfd_create("kernel", MFD_CLOEXEC);
    if (space == MAP_FAILED || fd < 0 || mprotect(space + GUARD_BYTES, RAM_BYTES, PROT_READ | PROT_WRITE) != 0) {
        abort();
    }
    ram = (struct ram){.base = space + GUARD_BYTES, .bytes = RAM_BYTES, .low_bytes = RAM_BYTES};
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
}

static size_t fuzz_gzip(const uint8_t *in, size_t in_bytes, uint8_t *out, size_t room)
{
    z_stream stream;
    memset(&stream, 0, sizeof(stream));
    if (deflateInit2(&stream, Z_NO_COMPRESSION, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY) != Z_OK) {
        abort();
    }
    stream.next_in = (z_const Bytef *)in;
    stream.avail_in = (uInt)in_bytes;
    stream.next_out = out;
    stream.avail_out = (uInt)room;
    if (deflate(&stream, Z_FINISH) != Z_STREAM_END) {
        abort();
    }
    deflateEnd(&stream);
    return stream.total_out;
}

static size_t fuzz_bzimage(const uint8_t *in, size_t in_bytes, bool pack)
{
    uint8_t *payload = file + CODE_AT + PAYLOAD_AT;
    size_t room = sizeof(file) - CODE_AT - PAYLOAD_AT, bytes = in_bytes;

    memset(file, 0, CODE_AT + PAYLOAD_AT);
    if (pack) {
        bytes = fuzz_gzip(in, in_bytes, payload, room);
    } else {
        memcpy(payload, in, in_bytes);
    }
    struct setup_header header = {
        .setup_sects = SETUP_SECTORS,
        .boot_flag = 0xaa55,
        .jump = 0x66eb,
        .header = 0x53726448,
        .version = 0x20f,
        .loadflags = LOADED_HIGH,
        .xloadflags = XLF_KERNEL_64,
        .initrd_addr_max = 0x7fffffff,
        .cmdline_size = 2047,
        .pref_address = 0x400000,
        .init_size = 0x10000,
        .payload_offset = PAYLOAD_AT,
        .payload_length = (uint32_t)bytes,
    };
    memcpy(file + 0x1f1, &header, sizeof(header));
    return CODE_AT + PAYLOAD_AT + bytes;
}

/* Flags and, from the input's first bytes, the five addresses; the rest of the input is the file. */
static size_t fuzz_multiboot(const uint8_t *in, size_t in_bytes, bool is_elf)
{
    uint32_t words[8] = {MULTIBOOT_MAGIC, is_elf ? 0 : MULTIBOOT_ADDRESSES};
    size_t header_bytes = in_bytes < 5 * sizeof(words[0]) ? in_bytes : 5 * sizeof(words[0]);

    words[2] = 0u - words[0] - words[1];
    memcpy(words + 3, in, header_bytes);
    memset(file, 0, MULTIBOOT_AT + sizeof(words));
    memcpy(file, in + header_bytes, in_bytes - header_bytes);
    if (is_elf) {
        memcpy(file, "\x7f" "ELF\1\1\1", 7);
    }
    memcpy(file + MULTIBOOT_AT, words, sizeof(words));
    size_t least = MULTIBOOT_AT + sizeof(words);
    return in_bytes - header_bytes > least ? in_bytes - header_bytes : least;
}

/* Makes the kernel file of an input. */
static size_t fuzz_file(enum fuzz_kind kind, const uint8_t *in, size_t in_bytes)
{
    if (kind == FUZZ_PAYLOAD || kind == FUZZ_PACKED) {
        return fuzz_bzimage(in, in_bytes, kind == FUZZ_PACKED);
    }
    if (kind == FUZZ_MULTIBOOT || kind == FUZZ_MULTIBOOT_ELF) {
        return fuzz_multiboot(in, in_bytes, kind == FUZZ_MULTIBOOT_ELF);
    }
    memcpy(file, in, in_bytes);
    if (kind == FUZZ_ELF && in_bytes >= 4) {
        memcpy(file, "\x7f" "ELF", 4);
    }
    return in_bytes;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct boot_request request = {.kernel = path, .cmdline = "console=ttyS0"};
    struct vcpu_start start;
    struct error error = {""};

    if (size < 2 || size > INPUT_MAX) {
        return -1;
    }
    if (fd < 0) {
        fuzz_init();
    }
    size_t bytes = fuzz_file((enum fuzz_kind)(data[0] % FUZZ_KINDS), data + 1, size - 1);
    if (ftruncate(fd, 0) != 0 || pwrite(fd, file, bytes, 0) != (ssize_t)bytes) {
        abort();
    }
    memset(&start, 0, sizeof(start));
    if (boot_load(&ram, &request, &start, &error) != 0 && error.text[0] == '\0') {
        abort(); /* every refusal says why */
    }
    madvise(ram.base, RAM_BYTES, MADV_DONTNEED);
    return 0;
}
