/* SPDX-License-Identifier: MIT */
/*
 * The PVH boot ABI (Xen, docs/misc/pvh.pandoc; public/arch-x86/hvm/start_info.h, version 1): 32-bit
 * protected mode, paging off, EBX points to the start info.
 *
 *   LAYOUT_START_INFO_GPA: start info | one module | memory map
 */
#include <string.h>

#include "machine/boot.h"
#include "machine/layout.h"

#define PVH_MAGIC 0x336ec578u

struct pvh_start_info {
    uint32_t magic;
    uint32_t version;
    uint32_t flags;
    uint32_t nr_modules;
    uint64_t modlist_paddr;
    uint64_t cmdline_paddr;
    uint64_t rsdp_paddr;
    uint64_t memmap_paddr;
    uint32_t memmap_entries;
    uint32_t reserved;
};

struct pvh_module {
    uint64_t paddr;
    uint64_t size;
    uint64_t cmdline_paddr;
    uint64_t reserved;
};

struct pvh_memory {
    uint64_t addr;
    uint64_t size;
    uint32_t type;
    uint32_t reserved;
};

struct pvh_block {
    struct pvh_start_info info;
    struct pvh_module module;
    struct pvh_memory memory[BOOT_MEMORY_MAX];
};

_Static_assert(sizeof(struct pvh_start_info) == 56, "start_info.h");
_Static_assert(sizeof(struct pvh_module) == 32, "start_info.h");
_Static_assert(sizeof(struct pvh_memory) == 24, "start_info.h");

int pvh_prepare(const struct ram *ram, const struct boot_request *request, uint64_t entry_gpa, uint64_t end_gpa, struct vcpu_start *start,
                struct error *error)
{
    struct pvh_block block;
    memset(&block, 0, sizeof(block));
    if (entry_gpa > UINT32_MAX || ram_at(ram, entry_gpa, 1) == NULL) {
        return error_set(error, "its PVH entry 0x%llx is no guest memory below 4 GiB", (unsigned long long)entry_gpa);
    }
    if (boot_place_cmdline(ram, request->cmdline, LAYOUT_CMDLINE_BYTES - 1, error) != 0) {
        return -1;
    }
    block.info.magic = PVH_MAGIC;
    block.info.version = 1;
    block.info.cmdline_paddr = LAYOUT_CMDLINE_GPA;
    block.info.rsdp_paddr = request->rsdp_gpa;
    if (request->initrd != NULL) {
        if (boot_place_initrd(ram, request->initrd, end_gpa, RAM_HOLE_GPA - 1, &block.module.paddr, &block.module.size, error) != 0) {
            return -1;
        }
        block.info.nr_modules = 1;
        block.info.modlist_paddr = LAYOUT_START_INFO_GPA + offsetof(struct pvh_block, module);
    }
    struct boot_memory map[BOOT_MEMORY_MAX];
    block.info.memmap_entries = boot_memory_map(ram, map);
    block.info.memmap_paddr = LAYOUT_START_INFO_GPA + offsetof(struct pvh_block, memory);
    for (unsigned i = 0; i < block.info.memmap_entries; i++) {
        block.memory[i] = (struct pvh_memory){.addr = map[i].gpa, .size = map[i].bytes, .type = (uint32_t)map[i].type};
    }
    memcpy(ram_at(ram, LAYOUT_START_INFO_GPA, sizeof(block)), &block, sizeof(block));

    *start = boot_start(ram, VCPU_MODE_PROTECTED, entry_gpa);
    start->rbx = LAYOUT_START_INFO_GPA;
    return 0;
}
