/* SPDX-License-Identifier: MIT */
/*
 * Linux's 64-bit and 32-bit boot protocols (Documentation/arch/x86/boot.rst): boot_params ("zero page")
 * in RSI, flat segments 0x10 and 0x18; long mode with the first 4 GiB mapped one to one, or protected mode
 * without paging.
 *
 *   PML4[0] -> PDPT[0..3] -> four page directories of 512 2 MiB pages; PML5[0] -> PML4
 *
 * A kernel's own decompressor turns 5-level paging on where the processor has it. One that was unpacked here finds it on.
 */
#include <asm/bootparam.h>
#include <stddef.h>
#include <string.h>

#include "machine/boot.h"
#include "machine/layout.h"

#define PTE_P UINT64_C(0x01)
#define PTE_RW UINT64_C(0x02)
#define PTE_PS UINT64_C(0x80)
#define PAGE_2M UINT64_C(0x200000)
#define PAGE_TABLE_BYTES UINT64_C(0x1000)
#define PAGE_TABLE_ENTRIES 512u

#define LOADER_UNDEFINED 0xffu /* type_of_loader without an assigned id */

_Static_assert(sizeof(struct boot_params) == 4096, "the zero page is a page");
_Static_assert(offsetof(struct boot_params, hdr) == 0x1f1, "boot.rst: the setup header's place");

static void linux_write_page_tables(const struct ram *ram)
{
    uint64_t *pml4 = (uint64_t *)(void *)ram_at(ram, LAYOUT_PAGE_TABLES_GPA, 7 * PAGE_TABLE_BYTES);
    uint64_t *pdpt = pml4 + PAGE_TABLE_ENTRIES;
    uint64_t *directories = pdpt + PAGE_TABLE_ENTRIES;
    uint64_t *pml5 = pml4 + 6 * PAGE_TABLE_ENTRIES;
    pml5[0] = LAYOUT_PAGE_TABLES_GPA | PTE_P | PTE_RW;
    pml4[0] = (LAYOUT_PAGE_TABLES_GPA + PAGE_TABLE_BYTES) | PTE_P | PTE_RW;
    for (uint64_t i = 0; i < 4; i++) {
        pdpt[i] = (LAYOUT_PAGE_TABLES_GPA + (2 + i) * PAGE_TABLE_BYTES) | PTE_P | PTE_RW;
    }
    for (uint64_t i = 0; i < 4 * PAGE_TABLE_ENTRIES; i++) {
        directories[i] = i * PAGE_2M | PTE_P | PTE_RW | PTE_PS;
    }
}

static void linux_fill_e820(struct boot_params *params, const struct ram *ram)
{
    struct boot_memory map[BOOT_MEMORY_MAX];
    unsigned count = boot_memory_map(ram, map);
    for (unsigned i = 0; i < count; i++) {
        params->e820_table[i] = (struct boot_e820_entry){.addr = map[i].gpa, .size = map[i].bytes, .type = (uint32_t)map[i].type};
    }
    params->e820_entries = (uint8_t)count;
}

static void linux_fill_header(struct boot_params *params, const struct linux_kernel *kernel)
{
    if (kernel->setup_header != NULL) {
        memcpy(&params->hdr, kernel->setup_header, kernel->setup_header_bytes);
    } else {
        params->hdr.boot_flag = 0xaa55;
        params->hdr.header = 0x53726448; /* "HdrS" */
        params->hdr.version = 0x20c;
        params->hdr.kernel_alignment = 0x1000000;
    }
    params->hdr.type_of_loader = LOADER_UNDEFINED;
    params->hdr.loadflags = (uint8_t)((params->hdr.loadflags | LOADED_HIGH) & ~(CAN_USE_HEAP | KASLR_FLAG));
    params->hdr.cmd_line_ptr = LAYOUT_CMDLINE_GPA;
}

static bool has_word(const char *text, const char *word)
{
    size_t length = strlen(word);

    for (const char *at = text; (at = strstr(at, word)) != NULL; at += length) {
        if ((at == text || at[-1] == ' ') && (at[length] == '\0' || at[length] == ' ')) {
            return true;
        }
    }
    return false;
}

int linux_prepare(const struct ram *ram, const struct boot_request *request, const struct linux_kernel *kernel, struct vcpu_start *start,
                  struct error *error)
{
    struct boot_params params;
    memset(&params, 0, sizeof(params));
    if (ram_at(ram, kernel->entry_gpa, 1) == NULL) {
        return error_set(error, "its entry 0x%llx is no guest memory", (unsigned long long)kernel->entry_gpa);
    }
    if (boot_place_cmdline(ram, request->cmdline, kernel->cmdline_max, error) != 0) {
        return -1;
    }
    linux_fill_header(&params, kernel);
    linux_fill_e820(&params, ram);
    if (request->initrd != NULL) {
        uint64_t gpa;
        uint64_t bytes;
        if (boot_place_initrd(ram, request->initrd, kernel->end_gpa, kernel->initrd_max_gpa, &gpa, &bytes, error) != 0) {
            return -1;
        }
        params.hdr.ramdisk_image = (uint32_t)gpa; /* below RAM_HOLE_GPA */
        params.hdr.ramdisk_size = (uint32_t)bytes;
    }
    params.acpi_rsdp_addr = request->rsdp_gpa;
    memcpy(ram_at(ram, LAYOUT_ZERO_PAGE_GPA, sizeof(params)), &params, sizeof(params));
    if (!kernel->is_32) {
        linux_write_page_tables(ram);
    }

    *start = boot_start(ram, kernel->is_32 ? VCPU_MODE_PROTECTED : VCPU_MODE_LONG, kernel->entry_gpa);
    start->rsi = LAYOUT_ZERO_PAGE_GPA;
    start->cr3 = LAYOUT_PAGE_TABLES_GPA;
    start->cr3_la57 = kernel->takes_la57 && !has_word(request->cmdline, "no5lvl") ? LAYOUT_PAGE_TABLES_GPA + 6 * PAGE_TABLE_BYTES : 0;
    return 0;
}
