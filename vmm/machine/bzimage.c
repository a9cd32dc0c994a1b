/* SPDX-License-Identifier: MIT */
/*
 * Linux bzImage (Documentation/arch/x86/boot.rst). The compressed kernel inside is unpacked here, on
 * the host, and entered at its 64-bit entry. The guest runs its own decompressor, or whatever the file
 * has there, only if the packing is one that we do not know or the kernel is a 32-bit one, which is entered
 * by the 32-bit boot protocol. Unpacking goes to where most of the kernel already lies right:
 *
 *   file:  | setup sectors | decompressor .. payload .. |      payload: a packed vmlinux
 *   RAM:   | .. [ELF headers][segment 0 = pref_address][segment 1] .. |
 */
#include <asm/bootparam.h>
#include <inttypes.h>
#include <stddef.h>
#include <string.h>

#include "machine/boot.h"
#include "machine/decompress.h"
#include "machine/elf.h"
#include "machine/layout.h"
#include "util/log.h"

#define BZIMAGE_HEADER_AT 0x1f1u
#define BZIMAGE_MAGIC 0x53726448u /* "HdrS" */
#define BZIMAGE_SECTOR 512u
#define BZIMAGE_ENTRY64 0x200u           /* from the start of the protected-mode code */
#define BZIMAGE_ELF_OFFSET UINT64_C(0x200000) /* where an x86-64 vmlinux has its first segment: the linker's page size */

static int bzimage_read_header(struct setup_header *header, const struct boot_file *file, struct error *error)
{
    memset(header, 0, sizeof(*header));
    if (file->size < BZIMAGE_HEADER_AT + sizeof(*header)) {
        return error_set(error, "it is neither a Linux kernel nor an ELF file, or it is truncated");
    }
    memcpy(header, file->bytes + BZIMAGE_HEADER_AT, sizeof(*header));
    if (header->boot_flag != 0xaa55 || header->header != BZIMAGE_MAGIC) {
        return error_set(error, "it is neither a Linux kernel (bzImage) nor an ELF file");
    }
    if (header->version < 0x206) {
        return error_set(error, "its boot protocol %u.%02u is older than 2.06", header->version >> 8, header->version & 0xff);
    }
    if ((header->loadflags & LOADED_HIGH) == 0) {
        return error_set(error, "it is a zImage, to be loaded low; only bzImage boots");
    }
    if (header->version < 0x208) {
        return error_set(error, "its boot protocol %u.%02u does not say where the kernel in it is; 2.08 does", header->version >> 8,
                         header->version & 0xff);
    }
    return 0;
}

/* What of the header the kernel gets: up to where it ends by its own word (the jump at 0x200 spans it). */
static size_t bzimage_header_bytes(const struct boot_file *file)
{
    size_t end = 0x202u + file->bytes[0x201];
    return end - BZIMAGE_HEADER_AT < sizeof(struct setup_header) ? end - BZIMAGE_HEADER_AT : sizeof(struct setup_header);
}

static int bzimage_unpack(const struct ram *ram, const uint8_t *payload, size_t payload_bytes, uint64_t load_gpa, struct elf_image *elf,
                          struct error *error)
{
    uint64_t at = load_gpa >= LAYOUT_KERNEL_GPA + BZIMAGE_ELF_OFFSET ? load_gpa - BZIMAGE_ELF_OFFSET : LAYOUT_KERNEL_GPA;
    if (at >= ram->low_bytes) {
        return error_set(error, "it loads at 0x%" PRIx64 ", beyond the guest's memory; give it more with -m", load_gpa);
    }
    uint8_t *out = ram_at(ram, at, ram->low_bytes - at);
    size_t size = 0;
    if (decompress(payload, payload_bytes, out, ram->low_bytes - at, &size, error) != 0) {
        return -1;
    }
    log_line(LOG_LOADER, "%s payload: %zu bytes, unpacked %zu at 0x%" PRIx64, decompress_format(payload, payload_bytes), payload_bytes, size, at);
    if (elf_parse(elf, out, size, error) != 0) {
        return -1;
    }
    return elf->is_64 ? elf_place(elf, ram, out, size, error) : 0;
}

static bool bzimage_has_entry64(const struct setup_header *header)
{
    return header->version >= 0x20c && (header->xloadflags & XLF_KERNEL_64) != 0;
}

/* The protected-mode part as it is in the file, entered at its start (32 bits) or at BZIMAGE_ENTRY64. */
static int bzimage_place_whole(const struct ram *ram, const struct setup_header *header, const uint8_t *code, size_t code_bytes,
                               uint64_t load_gpa, struct linux_kernel *kernel, struct error *error)
{
    uint8_t *target = ram_at(ram, load_gpa, code_bytes > header->init_size ? code_bytes : header->init_size);
    if (target == NULL) {
        return error_set(error, "it does not fit into the guest's %" PRIu64 " MiB of memory; give it more with -m", ram->bytes >> 20);
    }
    memcpy(target, code, code_bytes);
    kernel->is_32 = !bzimage_has_entry64(header);
    kernel->entry_gpa = load_gpa + (kernel->is_32 ? 0 : BZIMAGE_ENTRY64);
    kernel->end_gpa = load_gpa + code_bytes;
    return 0;
}

int bzimage_load(const struct ram *ram, const struct boot_file *file, const struct boot_request *request, struct vcpu_start *start,
                 struct error *error)
{
    struct setup_header header;
    if (bzimage_read_header(&header, file, error) != 0) {
        return -1;
    }
    uint64_t code_at = (uint64_t)((header.setup_sects == 0 ? 4u : header.setup_sects) + 1u) * BZIMAGE_SECTOR;
    if (code_at >= file->size) {
        return error_set(error, "it is truncated: its setup code alone is longer than the file");
    }
    const uint8_t *code = file->bytes + code_at;
    size_t code_bytes = file->size - code_at;
    if (header.payload_offset > code_bytes || header.payload_length > code_bytes - header.payload_offset) {
        return error_set(error, "it is truncated: its payload of %u bytes ends beyond the file's end", header.payload_length);
    }
    uint64_t load_gpa = header.version >= 0x20a && header.pref_address != 0 ? header.pref_address : LAYOUT_KERNEL_GPA;
    uint64_t init_bytes = header.version >= 0x20a ? header.init_size : 0;
    if (load_gpa < LAYOUT_KERNEL_GPA || ram_at(ram, load_gpa, init_bytes) == NULL) {
        return error_set(error, "it needs memory 0x%" PRIx64 "-0x%" PRIx64 " and the guest has %" PRIu64 " MiB; give it more with -m", load_gpa,
                         load_gpa + init_bytes, ram->bytes >> 20);
    }
    struct linux_kernel kernel = {
        .setup_header = file->bytes + BZIMAGE_HEADER_AT,
        .setup_header_bytes = bzimage_header_bytes(file),
        .initrd_max_gpa = header.initrd_addr_max,
        .cmdline_max = header.cmdline_size,
    };
    const uint8_t *payload = code + header.payload_offset;
    struct elf_image elf = {.is_64 = false};
    bool packed = header.payload_length >= 8 && decompress_format(payload, header.payload_length) != NULL;
    if (packed && (header.version < 0x20c || bzimage_has_entry64(&header)) &&
        bzimage_unpack(ram, payload, header.payload_length, load_gpa, &elf, error) != 0) {
        return -1;
    }
    if (elf.is_64) {
        kernel.entry_gpa = elf.entry;
        kernel.end_gpa = elf.end_gpa;
        kernel.takes_la57 = header.version >= 0x20c && (header.xloadflags & XLF_5LEVEL_ENABLED) != 0;
    } else if (bzimage_place_whole(ram, &header, code, code_bytes, load_gpa, &kernel, error) != 0) {
        return -1;
    }
    if (kernel.end_gpa < load_gpa + init_bytes) {
        kernel.end_gpa = load_gpa + init_bytes;
    }
    return linux_prepare(ram, request, &kernel, start, error);
}
