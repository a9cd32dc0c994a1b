/* SPDX-License-Identifier: MIT */
/*
 * ELF kernels: what is in one, and getting its segments to their physical addresses.
 */
#ifndef KAGE_MACHINE_ELF_H
#define KAGE_MACHINE_ELF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "machine/ram.h"
#include "util/error.h"

#define ELF_SEGMENTS_MAX 64u

struct elf_segment {
    uint64_t offset; /* in the file */
    uint64_t file_bytes;
    uint64_t gpa;
    uint64_t memory_bytes;
};

struct elf_image {
    bool is_64;
    bool is_linux; /* its notes say so */
    uint64_t entry;
    uint64_t pvh_entry; /* 0: no PVH note */
    uint64_t end_gpa;
    unsigned count;
    struct elf_segment segments[ELF_SEGMENTS_MAX]; /* in the order of the program headers */
};

/* Reads the headers of an ELF file; every segment lies in the file. Copies: `bytes` may change afterwards. */
int elf_parse(struct elf_image *elf, const uint8_t *bytes, size_t size, struct error *error);

/*
 * Puts the segments into RAM that is otherwise fresh (zero). `bytes` may itself lie in guest RAM: a
 * kernel decompressed close to its place is then moved within it.
 */
int elf_place(const struct elf_image *elf, const struct ram *ram, uint8_t *bytes, size_t size, struct error *error);

#endif
