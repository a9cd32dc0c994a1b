/* SPDX-License-Identifier: MIT */
/*
 * ELF kernels (System V ABI, gABI chapter 5). Everything in the file is hostile until it is checked:
 * elf_parse() takes numbers out of it, elf_place() trusts only those.
 */
#include "machine/elf.h"

#include <elf.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "machine/layout.h"

#define XEN_ELFNOTE_PHYS32_ENTRY 18u /* Xen's public/elfnote.h */
#define XEN_ELFNOTE_GUEST_OS 6u

static bool elf_in_file(uint64_t offset, uint64_t bytes, size_t size)
{
    return offset <= size && bytes <= size - offset;
}

static uint64_t elf_align4(uint64_t value)
{
    return (value + 3) & ~UINT64_C(3);
}

/* Looks through a note segment. Notes are for us only a hint: what is malformed ends the search. */
static void elf_read_notes(struct elf_image *elf, const uint8_t *bytes, uint64_t size)
{
    uint64_t at = 0;
    while (size - at >= sizeof(Elf64_Nhdr)) {
        Elf64_Nhdr note;
        memcpy(&note, bytes + at, sizeof(note));
        uint64_t name_at = at + sizeof(note);
        uint64_t data_at = name_at + elf_align4(note.n_namesz);
        uint64_t next_at = data_at + elf_align4(note.n_descsz);
        if (next_at > size) {
            return;
        }
        const uint8_t *data = bytes + data_at;
        bool xen = note.n_namesz == 4 && memcmp(bytes + name_at, "Xen", 4) == 0;
        bool linux_owned = note.n_namesz == 6 && memcmp(bytes + name_at, "Linux", 6) == 0;
        if (xen && note.n_type == XEN_ELFNOTE_PHYS32_ENTRY && (note.n_descsz == 4 || note.n_descsz == 8)) {
            memcpy(&elf->pvh_entry, data, note.n_descsz);
        }
        bool says_linux = xen && note.n_type == XEN_ELFNOTE_GUEST_OS && note.n_descsz >= 5 && memcmp(data, "linux", 5) == 0;
        elf->is_linux = elf->is_linux || linux_owned || says_linux;
        at = next_at;
    }
}

static Elf64_Phdr elf_widen(const Elf32_Phdr *phdr)
{
    return (Elf64_Phdr){
        .p_type = phdr->p_type,
        .p_offset = phdr->p_offset,
        .p_paddr = phdr->p_paddr,
        .p_filesz = phdr->p_filesz,
        .p_memsz = phdr->p_memsz,
    };
}

static int elf_add_segment(struct elf_image *elf, const Elf64_Phdr *phdr, struct error *error)
{
    if (phdr->p_memsz == 0) {
        return 0;
    }
    if (phdr->p_filesz > phdr->p_memsz) {
        return error_set(error, "it is damaged: a segment has more bytes in the file than in memory");
    }
    if (phdr->p_memsz > UINT64_MAX - phdr->p_paddr) {
        return error_set(error, "it is damaged: a segment at 0x%" PRIx64 " wraps around", (uint64_t)phdr->p_paddr);
    }
    if (elf->count == ELF_SEGMENTS_MAX) {
        return error_set(error, "it has more than %u segments", ELF_SEGMENTS_MAX);
    }
    elf->segments[elf->count++] = (struct elf_segment){
        .offset = phdr->p_offset, .file_bytes = phdr->p_filesz, .gpa = phdr->p_paddr, .memory_bytes = phdr->p_memsz};
    uint64_t end = phdr->p_paddr + phdr->p_memsz;
    elf->end_gpa = end > elf->end_gpa ? end : elf->end_gpa;
    return 0;
}

static int elf_check_ident(const uint8_t *bytes, size_t size, struct error *error)
{
    if (size < EI_NIDENT || memcmp(bytes, ELFMAG, SELFMAG) != 0) {
        return error_set(error, "it is not an ELF file");
    }
    if (bytes[EI_DATA] != ELFDATA2LSB || (bytes[EI_CLASS] != ELFCLASS64 && bytes[EI_CLASS] != ELFCLASS32)) {
        return error_set(error, "it is not a little-endian 32- or 64-bit ELF file");
    }
    size_t header = bytes[EI_CLASS] == ELFCLASS64 ? sizeof(Elf64_Ehdr) : sizeof(Elf32_Ehdr);
    return size < header ? error_set(error, "it is truncated: no whole ELF header") : 0;
}

int elf_parse(struct elf_image *elf, const uint8_t *bytes, size_t size, struct error *error)
{
    memset(elf, 0, sizeof(*elf));
    if (elf_check_ident(bytes, size, error) != 0) {
        return -1;
    }
    Elf64_Ehdr header;
    elf->is_64 = bytes[EI_CLASS] == ELFCLASS64;
    if (elf->is_64) {
        memcpy(&header, bytes, sizeof(header));
    } else {
        Elf32_Ehdr narrow;
        memcpy(&narrow, bytes, sizeof(narrow));
        header = (Elf64_Ehdr){.e_machine = narrow.e_machine, .e_entry = narrow.e_entry, .e_phoff = narrow.e_phoff,
                              .e_phentsize = narrow.e_phentsize, .e_phnum = narrow.e_phnum};
    }
    if (header.e_machine != (elf->is_64 ? EM_X86_64 : EM_386)) {
        return error_set(error, "it is an ELF file of another processor (machine %u)", header.e_machine);
    }
    size_t phdr_bytes = elf->is_64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);
    if (header.e_phentsize != phdr_bytes || !elf_in_file(header.e_phoff, (uint64_t)header.e_phnum * phdr_bytes, size)) {
        return error_set(error, "it is truncated or damaged: its program headers are not in the file");
    }
    elf->entry = header.e_entry;
    for (unsigned i = 0; i < header.e_phnum; i++) {
        const uint8_t *at = bytes + header.e_phoff + i * phdr_bytes;
        Elf64_Phdr phdr;
        if (elf->is_64) {
            memcpy(&phdr, at, sizeof(phdr));
        } else {
            Elf32_Phdr narrow;
            memcpy(&narrow, at, sizeof(narrow));
            phdr = elf_widen(&narrow);
        }
        if (phdr.p_type != PT_LOAD && phdr.p_type != PT_NOTE) {
            continue;
        }
        if (!elf_in_file(phdr.p_offset, phdr.p_filesz, size)) {
            return error_set(error, "it is truncated: segment %u ends beyond the file's end", i);
        }
        if (phdr.p_type == PT_NOTE) {
            elf_read_notes(elf, bytes + phdr.p_offset, phdr.p_filesz);
        } else if (elf_add_segment(elf, &phdr, error) != 0) {
            return -1;
        }
    }
    return elf->count != 0 ? 0 : error_set(error, "it has nothing to load");
}

static bool elf_overlap(const uint8_t *a, uint64_t a_bytes, const uint8_t *b, uint64_t b_bytes)
{
    return a < b + b_bytes && b < a + a_bytes;
}

/* Would moving a segment overwrite one that is still to be moved? Linux's layout does not; a hostile one may. */
static bool elf_moves_collide(const struct elf_image *elf, const struct ram *ram, const uint8_t *bytes)
{
    for (unsigned i = 0; i < elf->count; i++) {
        const struct elf_segment *to = &elf->segments[i];
        const uint8_t *target = ram_at(ram, to->gpa, to->memory_bytes);
        for (unsigned j = i + 1; j < elf->count; j++) {
            const struct elf_segment *from = &elf->segments[j];
            if (elf_overlap(target, to->memory_bytes, bytes + from->offset, from->file_bytes)) {
                return true;
            }
        }
    }
    return false;
}

int elf_place(const struct elf_image *elf, const struct ram *ram, uint8_t *bytes, size_t size, struct error *error)
{
    for (unsigned i = 0; i < elf->count; i++) {
        const struct elf_segment *segment = &elf->segments[i];
        if (segment->gpa < LAYOUT_KERNEL_GPA) {
            return error_set(error, "its segment at 0x%" PRIx64 " lies below 1 MiB", segment->gpa);
        }
        if (ram_at(ram, segment->gpa, segment->memory_bytes) == NULL) {
            return error_set(error, "its segment 0x%" PRIx64 "-0x%" PRIx64 " lies outside of the guest's %" PRIu64 " MiB of memory; give it more with -m",
                             segment->gpa, segment->gpa + segment->memory_bytes, ram->bytes >> 20);
        }
        if (!elf_in_file(segment->offset, segment->file_bytes, size)) {
            return error_set(error, "it is truncated");
        }
    }
    uint8_t *copy = NULL;
    uint8_t *from = bytes;
    bool in_ram = elf_overlap(bytes, size, ram->base, ram->bytes);
    if (in_ram && elf_moves_collide(elf, ram, bytes)) {
        copy = malloc(size);
        if (copy == NULL) {
            return error_set(error, "out of memory");
        }
        memcpy(copy, bytes, size);
        from = copy;
    }
    for (unsigned i = 0; i < elf->count; i++) {
        const struct elf_segment *segment = &elf->segments[i];
        uint8_t *target = ram_at(ram, segment->gpa, segment->memory_bytes);
        if (!in_ram) {
            ram_populate(ram, segment->gpa, segment->file_bytes);
        }
        if (target != from + segment->offset) {
            memmove(target, from + segment->offset, segment->file_bytes);
        }
    }
    /* What a segment has beyond its file bytes is zero; only where the file itself was is it not so already. */
    for (unsigned i = 0; in_ram && i < elf->count; i++) {
        const struct elf_segment *segment = &elf->segments[i];
        uint8_t *target = ram_at(ram, segment->gpa, segment->memory_bytes);
        uint8_t *first = target + segment->file_bytes;
        uint8_t *end = target + segment->memory_bytes;
        first = first < bytes ? bytes : first;
        end = end > bytes + size ? bytes + size : end;
        if (first < end) {
            memset(first, 0, (size_t)(end - first));
        }
    }
    free(copy);
    return 0;
}
