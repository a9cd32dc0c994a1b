/* SPDX-License-Identifier: MIT */
/*
 * What a loader hands to the boot processor: the state of the registers that a boot protocol fixes.
 */
#ifndef KAGE_MACHINE_BOOT_H
#define KAGE_MACHINE_BOOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "machine/ram.h"
#include "util/error.h"
#include "vcpu/state.h"

/* What the user asks to boot. */
struct boot_request {
    const char *kernel;  /* a path, NULL: nothing */
    const char *initrd;  /* a path, NULL: none */
    const char *cmdline; /* never NULL */
    uint64_t rsdp_gpa;   /* 0: no ACPI */
};

/* Loads the kernel, whatever its kind, and all that its boot protocol wants in memory. */
int boot_load(const struct ram *ram, const struct boot_request *request, struct vcpu_start *start, struct error *error);

/* ---- Parts ---- */

/* A whole file, mapped read-only. */
struct boot_file {
    const uint8_t *bytes;
    size_t size;
};

int boot_file_map(struct boot_file *file, const char *option, const char *path, struct error *error);
void boot_file_unmap(struct boot_file *file);

/* Linux: boot_params at LAYOUT_ZERO_PAGE_GPA, the command line, the initrd, what the entry wants. */
struct linux_kernel {
    const uint8_t *setup_header; /* copied to boot_params from offset 0x1f1; NULL: an ELF kernel has none */
    size_t setup_header_bytes;
    uint64_t entry_gpa;
    uint64_t end_gpa;        /* first byte that the kernel does not need */
    uint64_t initrd_max_gpa; /* highest address of the initrd's last byte */
    bool is_32;              /* entered by the 32-bit boot protocol */
    bool takes_la57;         /* goes on with 5-level paging where it is entered with it */
    uint64_t cmdline_max;    /* longest command line, in bytes without NUL */
};

int linux_prepare(const struct ram *ram, const struct boot_request *request, const struct linux_kernel *kernel, struct vcpu_start *start,
                  struct error *error);

/* PVH: start info and 32-bit entry. */
int pvh_prepare(const struct ram *ram, const struct boot_request *request, uint64_t entry_gpa, uint64_t end_gpa, struct vcpu_start *start,
                struct error *error);

/* Common to both: the command line at LAYOUT_CMDLINE_GPA, the initrd below `max_gpa` and above `min_gpa`. */
int boot_place_cmdline(const struct ram *ram, const char *cmdline, uint64_t max_bytes, struct error *error);
int boot_place_initrd(const struct ram *ram, const char *path, uint64_t min_gpa, uint64_t max_gpa, uint64_t *gpa, uint64_t *bytes,
                      struct error *error);

/* What every start state has: flat segments of a GDT in guest memory, a TSS, a stack. */
struct vcpu_start boot_start(const struct ram *ram, enum vcpu_mode mode, uint64_t entry_gpa);

/* The memory map that any protocol states. */
enum boot_memory_type { BOOT_MEMORY_RAM = 1, BOOT_MEMORY_RESERVED = 2 };
struct boot_memory {
    uint64_t gpa;
    uint64_t bytes;
    enum boot_memory_type type;
};
#define BOOT_MEMORY_MAX 4u
unsigned boot_memory_map(const struct ram *ram, struct boot_memory map[BOOT_MEMORY_MAX]);

int bzimage_load(const struct ram *ram, const struct boot_file *file, const struct boot_request *request, struct vcpu_start *start,
                 struct error *error);

#endif
