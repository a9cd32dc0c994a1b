/* SPDX-License-Identifier: MIT */
/*
 * Where things go:
 *   LAYOUT_START_INFO_GPA  information | module list | memory map
 *   LAYOUT_CMDLINE_GPA     strings: command line, those of the modules, the loader's name
 *   behind the kernel      modules, each on pages of its own
 */
#include "machine/multiboot.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "machine/elf.h"
#include "machine/layout.h"

#define HEADER_MAGIC 0x1badb002u
#define HEADER_SEARCH 8192u
#define HEADER_PAGE_ALIGN 0x0001u
#define HEADER_MEMORY 0x0002u
#define HEADER_REQUIRED 0xffffu
#define HEADER_ADDRESSES 0x10000u
#define LOADER_MAGIC 0x2badb002u
#define MODULES_MAX 16u
#define PAGE 4096u

struct multiboot_header {
    uint32_t magic, flags, checksum;
    uint32_t header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr;
};

enum { INFO_MEMORY = 1 << 0, INFO_CMDLINE = 1 << 2, INFO_MODS = 1 << 3, INFO_MMAP = 1 << 6, INFO_LOADER_NAME = 1 << 9 };

struct multiboot_info {
    uint32_t flags;
    uint32_t mem_lower, mem_upper; /* KiB */
    uint32_t boot_device;
    uint32_t cmdline;
    uint32_t mods_count, mods_addr;
    uint32_t syms[4];
    uint32_t mmap_length, mmap_addr;
    uint32_t drives_length, drives_addr;
    uint32_t config_table;
    uint32_t boot_loader_name;
    uint32_t apm_table;
    uint32_t vbe[4];
};
_Static_assert(sizeof(struct multiboot_info) == 88, "Multiboot 0.6.96, 3.3");

struct multiboot_module {
    uint32_t start, end, string, reserved;
};

struct multiboot_memory {
    uint32_t size; /* of what follows */
    uint64_t base;
    uint64_t length;
    uint32_t type;
} __attribute__((packed));
_Static_assert(sizeof(struct multiboot_memory) == 24, "Multiboot 0.6.96, 3.3");

struct multiboot_block {
    struct multiboot_info info;
    struct multiboot_module modules[MODULES_MAX];
    struct multiboot_memory memory[BOOT_MEMORY_MAX];
};

struct multiboot_loader {
    const struct ram *ram;
    struct multiboot_block block;
    uint32_t strings_used;
    uint64_t end_gpa; /* of what is loaded */
};

/* The header and its offset; false: there is none. Fields behind the file's end read as 0. */
static bool multiboot_find(const struct boot_file *file, struct multiboot_header *header, uint32_t *at)
{
    uint64_t end = file->size < HEADER_SEARCH ? file->size : HEADER_SEARCH;
    for (uint32_t offset = 0; offset + 12 <= end; offset += 4) {
        uint64_t have = end - offset < sizeof(*header) ? end - offset : sizeof(*header);
        memset(header, 0, sizeof(*header));
        memcpy(header, file->bytes + offset, have);
        if (header->magic == HEADER_MAGIC && header->magic + header->flags + header->checksum == 0) {
            *at = offset;
            return (header->flags & HEADER_ADDRESSES) == 0 || have == sizeof(*header);
        }
    }
    return false;
}

bool multiboot_is(const struct boot_file *file)
{
    struct multiboot_header header;
    uint32_t at;
    return multiboot_find(file, &header, &at);
}

/* The header says where its file's bytes go ("a.out kludge"). */
static int multiboot_place_raw(struct multiboot_loader *loader, const struct boot_file *file, const struct multiboot_header *header,
                               uint32_t at, struct error *error)
{
    if (header->header_addr < header->load_addr || at < header->header_addr - header->load_addr) {
        return error_set(error, "its multiboot header lies before the code that it describes");
    }
    uint32_t from = at - (header->header_addr - header->load_addr);
    uint64_t bytes = header->load_end_addr != 0 ? (uint64_t)header->load_end_addr - header->load_addr : file->size - from;
    uint64_t end = header->bss_end_addr > header->load_addr + bytes ? header->bss_end_addr : header->load_addr + bytes;
    if ((header->load_end_addr != 0 && header->load_end_addr < header->load_addr) || bytes > file->size - from) {
        return error_set(error, "its multiboot header names more bytes than the file has");
    }
    uint8_t *target = ram_at(loader->ram, header->load_addr, end - header->load_addr);
    if (header->load_addr < LAYOUT_KERNEL_GPA || target == NULL) {
        return error_set(error, "it loads at 0x%x-0x%" PRIx64 ", where the guest has no memory for it", header->load_addr, end);
    }
    memcpy(target, file->bytes + from, bytes);
    memset(target + bytes, 0, end - header->load_addr - bytes);
    loader->end_gpa = end;
    return 0;
}

static uint32_t multiboot_add_string(struct multiboot_loader *loader, const char *text, size_t length)
{
    if (length + 1 > LAYOUT_CMDLINE_BYTES - loader->strings_used) {
        return 0;
    }
    uint32_t gpa = LAYOUT_CMDLINE_GPA + loader->strings_used;
    uint8_t *to = ram_at(loader->ram, gpa, length + 1);
    memcpy(to, text, length);
    to[length] = '\0';
    loader->strings_used += (uint32_t)length + 1;
    return gpa;
}

/* As QEMU and GRUB 0 have it, the kernel's name comes first: small kernels take it for their argv[0]. */
static uint32_t multiboot_add_cmdline(struct multiboot_loader *loader, const struct boot_request *request)
{
    size_t room = strlen(request->kernel) + strlen(request->cmdline) + 2;
    char *text = malloc(room);
    if (text == NULL) {
        return 0;
    }
    int length = snprintf(text, room, "%s %s", request->kernel, request->cmdline);
    uint32_t gpa = multiboot_add_string(loader, text, (size_t)length);
    free(text);
    return gpa;
}

/* One "FILE [STRING]". */
static int multiboot_add_module(struct multiboot_loader *loader, const char *text, size_t length, struct error *error)
{
    struct multiboot_info *info = &loader->block.info;
    if (info->mods_count == MODULES_MAX) {
        return error_set(error, "-initrd: more than %u modules", MODULES_MAX);
    }
    char *path = strndup(text, length);
    if (path == NULL) {
        return error_set(error, "-initrd: no memory");
    }
    path[strcspn(path, " ")] = '\0';
    struct boot_file file;
    int result = boot_file_map(&file, "-initrd", path, error);
    if (result == 0) {
        uint64_t gpa = (loader->end_gpa + PAGE - 1) & ~(uint64_t)(PAGE - 1);
        uint8_t *target = ram_at(loader->ram, gpa, file.size);
        uint32_t string = multiboot_add_string(loader, text, length);
        if (target == NULL || gpa + file.size > loader->ram->low_bytes || string == 0) {
            result = error_set(error, "-initrd %s: it does not fit into the guest's memory; give it more with -m", path);
        } else {
            memcpy(target, file.bytes, file.size);
            loader->block.modules[info->mods_count++] =
                (struct multiboot_module){.start = (uint32_t)gpa, .end = (uint32_t)(gpa + file.size), .string = string};
            loader->end_gpa = gpa + file.size;
        }
        boot_file_unmap(&file);
    }
    free(path);
    return result;
}

static void multiboot_fill_info(struct multiboot_loader *loader)
{
    struct multiboot_info *info = &loader->block.info;
    struct boot_memory map[BOOT_MEMORY_MAX];
    unsigned count = boot_memory_map(loader->ram, map);
    for (unsigned i = 0; i < count; i++) {
        loader->block.memory[i] = (struct multiboot_memory){
            .size = sizeof(struct multiboot_memory) - sizeof(uint32_t), .base = map[i].gpa, .length = map[i].bytes, .type = (uint32_t)map[i].type};
    }
    info->flags = INFO_MEMORY | INFO_CMDLINE | INFO_MODS | INFO_MMAP | INFO_LOADER_NAME;
    info->mem_lower = LAYOUT_LOW_END_GPA >> 10;
    info->mem_upper = (uint32_t)((loader->ram->low_bytes - LAYOUT_KERNEL_GPA) >> 10);
    info->mods_addr = LAYOUT_START_INFO_GPA + offsetof(struct multiboot_block, modules);
    info->mmap_addr = LAYOUT_START_INFO_GPA + offsetof(struct multiboot_block, memory);
    info->mmap_length = count * (uint32_t)sizeof(struct multiboot_memory);
}

int multiboot_load(const struct ram *ram, const struct boot_file *file, const struct boot_request *request, struct vcpu_start *start,
                   struct error *error)
{
    static const char name[] = "kage";
    struct multiboot_loader loader = {.ram = ram};
    struct multiboot_header header;
    struct elf_image elf;
    uint32_t at, entry;

    if (!multiboot_find(file, &header, &at)) {
        return error_set(error, "it has no multiboot header");
    }
    if ((header.flags & HEADER_REQUIRED & ~(HEADER_PAGE_ALIGN | HEADER_MEMORY)) != 0) {
        return error_set(error, "its multiboot header asks for features 0x%x, of which only memory information is there",
                         header.flags & HEADER_REQUIRED);
    }
    if ((header.flags & HEADER_ADDRESSES) != 0) {
        if (multiboot_place_raw(&loader, file, &header, at, error) != 0) {
            return -1;
        }
        entry = header.entry_addr;
    } else {
        if (elf_parse(&elf, file->bytes, file->size, error) != 0) {
            return -1;
        }
        if (elf.is_64) {
            return error_set(error, "it is a 64-bit ELF file; multiboot starts 32-bit ones");
        }
        if (elf_place(&elf, ram, (uint8_t *)(uintptr_t)file->bytes, file->size, error) != 0) {
            return -1;
        }
        entry = (uint32_t)elf.entry;
        loader.end_gpa = elf.end_gpa;
    }
    loader.block.info.cmdline = multiboot_add_cmdline(&loader, request);
    loader.block.info.boot_loader_name = multiboot_add_string(&loader, name, strlen(name));
    if (loader.block.info.cmdline == 0 || loader.block.info.boot_loader_name == 0) {
        return error_set(error, "-append: the command line is too long");
    }
    for (const char *text = request->initrd; text != NULL && *text != '\0';) {
        size_t length = strcspn(text, ",");
        if (multiboot_add_module(&loader, text, length, error) != 0) {
            return -1;
        }
        text += length + (text[length] == ',');
    }
    multiboot_fill_info(&loader);
    memcpy(ram_at(ram, LAYOUT_START_INFO_GPA, sizeof(loader.block)), &loader.block, sizeof(loader.block));

    *start = boot_start(ram, VCPU_MODE_PROTECTED, entry);
    start->rax = LOADER_MAGIC;
    start->rbx = LAYOUT_START_INFO_GPA;
    return 0;
}
