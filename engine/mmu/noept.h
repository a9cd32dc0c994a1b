/* SPDX-License-Identifier: MIT */
/*
 * The tables that the processor walks with EPT off: one level, linear to host address. They are the hypervisor's, in the
 * 64-bit format of SDM 3A 4.5 whatever mode the guest is in, four levels, or five while CR4.LA57 is set; vmcs.guest_cr3
 * is the host address of the root (0: nothing is mapped), with the PCID in its low bits while CR4.PCIDE is set.
 *
 *    63  62..53   52    51  50                            12 11..9 8 7  6 5  4   3  2 1 0
 *   | NX | ign. | ROM | 0 |  host address bits 50..12       | ign.|G|PS|D|A|PCD|PWT|U|W|P|   a page, or (no ROM, G, D) a table
 *   | NX | ign. |  0  | 1 |  guest-physical address, 50..12 | ign.|0| 0|0|0| 0 | 0 |U|W|1|   no memory is there: MMIO
 *
 * Two departures from a processor that KVM runs on, which has no place for a guest-physical address: an entry with bit 51,
 * reserved there, is a page of a device's (an EPT_MISCONFIG exit with cpu->mmio, as with EPT) rather than a page fault; and
 * a page with ROM set is written as one, if W allows it, while it is read as memory. Every other reserved bit faults.
 */
#ifndef KAGE_MMU_NOEPT_H
#define KAGE_MMU_NOEPT_H

#include "mmu/walk.h"

#define NOEPT_ADDR 0x0007fffffffff000ull
#define NOEPT_MMIO (1ull << 51) /* in a page table only */
#define NOEPT_ROM (1ull << 52)

struct noept_walk {
    hva_t page;            /* host address of the 4 KiB page */
    const uint64_t *entry; /* the leaf */
    gpa_t gpa;             /* of the access, if MMU_MMIO */
    uint32_t flags;        /* MAP_* */
    unsigned page_shift;   /* 12, 21 or 30 */
    uint32_t error;        /* page-fault error code, if refused */
};

/* MMU_OK, MMU_MMIO, or MMU_FAULT (w->error; nothing is recorded). Sets accessed and dirty bits. Inside cpu_run() only: the hypervisor frees no table then. */
enum mmu_result noept_walk(struct cpu *cpu, gva_t va, enum mmu_access access, enum mmu_idx idx, struct noept_walk *w);

#endif
