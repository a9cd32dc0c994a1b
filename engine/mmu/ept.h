/* SPDX-License-Identifier: MIT */
/*
 * Extended page tables in Intel's format (SDM 3C 29.3): guest-physical to host address. "Host
 * physical" is the client's virtual address: that is the memory this processor is plugged into.
 *
 *   63        52 51                                12 11 10 9 8 7  6   5..3  2 1 0
 *   | ignored(*)|  host address bits 51..12          |  *  |D|A|PS|IPAT|MT  |X|W|R|
 *
 * A range that no memory slot backs may have a misconfigured entry, of any level: W and X without R (SDM 3C 29.3.3.1).
 * The walk ends there, and the access is the hypervisor's to carry out (MMIO).
 */
#ifndef KAGE_MMU_EPT_H
#define KAGE_MMU_EPT_H

#include "arch/types.h"

#define EPT_R (1ull << 0)
#define EPT_W (1ull << 1)
#define EPT_X (1ull << 2)
#define EPT_MEMTYPE_SHIFT 3
#define EPT_MEMTYPE_WB (6ull << EPT_MEMTYPE_SHIFT)
#define EPT_PS (1ull << 7)
#define EPT_A (1ull << 8)
#define EPT_D (1ull << 9)
#define EPT_ADDR 0x000ffffffffff000ull
#define EPT_MMIO (EPT_W | EPT_X)
#define EPT_LEVELS 4
#define EPT_GPA_BITS (12 + 9 * EPT_LEVELS) /* what a walk reaches */

struct ept;

KAGE_MUST_CHECK int ept_new(struct ept **out);
void ept_free(struct ept *ept);
uint64_t ept_pointer(const struct ept *ept); /* the EPTP for the VMCS */

/*
 * Maps one page of 1 << (12 + 9 * level) bytes, level 0..2; gpa and hva aligned to it. prot: EPT_R|W|X. Splits or replaces what was there;
 * a large page where small ones stand is mapped by parts. A and D start clear. 0, -ENOMEM, or -EINVAL beyond 48 bits.
 */
KAGE_MUST_CHECK int ept_map(struct ept *ept, gpa_t gpa, hva_t hva, unsigned level, uint64_t prot);
/*
 * Removes every mapping of [gpa, gpa+bytes), and the tables that are empty then: no processor may walk meanwhile. Large pages at the edges go
 * as a whole (they are filled again on demand).
 */
void ept_unmap(struct ept *ept, gpa_t gpa, uint64_t bytes);
/* A misconfigured entry for the aligned range of the level (0..3) that gpa is in, if nothing else stands there. 0, -ENOMEM, -EINVAL, or -EEXIST. */
KAGE_MUST_CHECK int ept_map_mmio(struct ept *ept, gpa_t gpa, unsigned level);
/*
 * Takes W and D away, for dirty logging: of 64 pages from gpa on, those whose bit is set; of all pages of a range. Large pages that are met go as a
 * whole, and are filled again on demand: nothing can fail. The processors stand still, and flush their TLBs before they go on.
 */
void ept_write_protect_pages(struct ept *ept, gpa_t gpa, uint64_t pages);
void ept_write_protect(struct ept *ept, gpa_t gpa, uint64_t bytes);

/* One walk: the leaf entry (0 if none) with the rights that all levels give (SDM 3C 29.3.2), and its level. Concurrent with ept_map. */
uint64_t ept_walk(const struct ept *ept, gpa_t gpa, unsigned *level);
/* What a processor does with a leaf that it uses: sets A, at every level, and D in the leaf for a write. False: the leaf is another by now. */
KAGE_MUST_CHECK bool ept_set_accessed(struct ept *ept, gpa_t gpa, uint64_t leaf, bool dirty);
/* Is a leaf of this level one that the processor takes for misconfigured? */
static inline bool ept_is_misconfigured(uint64_t e, unsigned level)
{
    uint64_t type = e >> EPT_MEMTYPE_SHIFT & 7;
    uint64_t inside = (KAGE_PAGE_SIZE << (9 * level)) - KAGE_PAGE_SIZE;

    return (e & (EPT_R | EPT_W)) == EPT_W ||
           ((e & (EPT_R | EPT_W | EPT_X)) != 0 && (level > 2 || type == 2 || type == 3 || type == 7 || (e & EPT_ADDR & inside) != 0));
}

struct ept_stats { uint64_t table_pages, pages_4k, pages_2m, pages_1g, mmio; };
void ept_get_stats(const struct ept *ept, struct ept_stats *out); /* what is counted as it changes */

#endif
