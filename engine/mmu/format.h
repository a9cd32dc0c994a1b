/* SPDX-License-Identifier: MIT */
/*
 * The shape of a guest's page tables, and what their entries say: for the walk, and for looking at one.
 */
#ifndef KAGE_MMU_FORMAT_H
#define KAGE_MMU_FORMAT_H

#include "mmu/walk.h"

#define PTE_ADDR 0x000ffffffffff000ull

/* The shape of the tables in a paging mode. */
struct format {
    unsigned levels;
    unsigned index_bits; /* 9, or 10 for 32-bit paging */
    unsigned entry_bytes;
    bool pae;            /* the root is one of four registers, and entries have no ignored bits above the address */
    bool nx;
};

static inline struct format paging_format(const struct paging_regime *r)
{
    uint64_t cr4 = r->cr4;
    bool nx = (r->efer & X86_EFER_NX) != 0;

    if ((r->efer & X86_EFER_LMA) != 0) {
        return (struct format){.levels = (cr4 & X86_CR4_LA57) != 0 ? 5 : 4, .index_bits = 9, .entry_bytes = 8, .nx = nx};
    }
    if (cr4 & X86_CR4_PAE) {
        return (struct format){.levels = 2, .index_bits = 9, .entry_bytes = 8, .pae = true, .nx = nx};
    }
    return (struct format){.levels = 2, .index_bits = 10, .entry_bytes = 4};
}

/* Address bits 39..32 of a 4 MiB page. */
static inline uint64_t pse36_address(uint64_t e)
{
    return (e >> 13 & 0xff) << 32;
}

/* Reserved bits of an entry at `level` (1: page table); SDM 3A 4.4.2 and 4.5. */
static inline bool reserved_set(const struct cpu *cpu, const struct format *f, uint64_t e, unsigned level, bool leaf)
{
    if (f->entry_bytes == 4) {
        /* PSE-36: bits 20..13 are address bits 39..32, as far as there are such, bit 21 must be zero (SDM 3A table 4-4). */
        return leaf && level == 2 && ((e & (1u << 21)) != 0 || (pse36_address(e) & cpu->maxphyaddr_mask) != 0);
    }
    if (e & cpu->maxphyaddr_mask) {
        return true;
    }
    if (!f->nx && (e & X86_PTE_NX) != 0) {
        return true;
    }
    if (f->pae && (e & 0x7ff0000000000000ull) != 0) {
        return true;
    }
    if (leaf && level == 2) {
        return (e & 0x1fe000ull) != 0;
    }
    if (leaf && level == 3) {
        return (e & 0x3fffe000ull) != 0 || !cpu->has_1g_pages;
    }
    /* Bit 8 of them: AMD APM 2, 5.3.3 (MBZ). */
    return level >= 4 && ((e & X86_PTE_PS) != 0 || (cpu->no_pml4e_bit8 && (e & X86_PTE_G) != 0));
}

static inline bool is_leaf(const struct paging_regime *r, const struct format *f, uint64_t e, unsigned level)
{
    if (level == 1) {
        return true;
    }
    if ((e & X86_PTE_PS) == 0) {
        return false;
    }
    if (f->entry_bytes == 4) {
        return level == 2 && (r->cr4 & X86_CR4_PSE) != 0;
    }
    return level == 2 || level == 3;
}

static inline gpa_t leaf_address(const struct format *f, uint64_t e, unsigned level)
{
    if (f->entry_bytes == 4) {
        return level == 1 ? e & 0xfffff000ull : (e & 0xffc00000ull) | pse36_address(e);
    }
    return e & PTE_ADDR & ~((KAGE_PAGE_SIZE << (9 * (level - 1))) - 1);
}

/* Where an entry that is no leaf leads. */
static inline gpa_t table_address(const struct format *f, uint64_t e)
{
    return f->entry_bytes == 4 ? e & 0xfffff000ull : e & PTE_ADDR;
}

#endif
