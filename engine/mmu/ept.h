/* SPDX-License-Identifier: MIT */
/*
 * Extended page tables in Intel's format (SDM 3C 29.3): guest-physical to host address. "Host
 * physical" is the client's virtual address: that is the memory this processor is plugged into.
 *
 *   63        52 51                                12 11 10 9 8 7  6   5..3  2 1 0
 *   | ignored(*)|  host address bits 51..12          |  *  |D|A|PS|IPAT|MT  |X|W|R|
 */
#ifndef KAGE_MMU_EPT_H
#define KAGE_MMU_EPT_H

#include "arch/types.h"

#define EPT_R (1ull << 0)
#define EPT_W (1ull << 1)
#define EPT_X (1ull << 2)
#define EPT_MEMTYPE_WB (6ull << 3)
#define EPT_PS (1ull << 7)
#define EPT_A (1ull << 8)
#define EPT_D (1ull << 9)
#define EPT_ADDR 0x000ffffffffff000ull

struct ept;

KAGE_MUST_CHECK int ept_new(struct ept **out);
void ept_free(struct ept *ept);
uint64_t ept_pointer(const struct ept *ept); /* the EPTP for the VMCS */

/* Maps one page of 1 << (12 + 9 * level) bytes, level 0..2; gpa and hva aligned to it. prot: EPT_R|W|X. Splits or replaces what was there. 0, -ENOMEM, or -EINVAL beyond 48 bits. */
KAGE_MUST_CHECK int ept_map(struct ept *ept, gpa_t gpa, hva_t hva, unsigned level, uint64_t prot);
/* Removes every mapping of [gpa, gpa+bytes). Large pages at the edges are split or dropped whole (they are filled again on demand). */
void ept_unmap(struct ept *ept, gpa_t gpa, uint64_t bytes);
/* Takes W away in the range, splitting large pages to 4 KiB, for dirty logging. */
KAGE_MUST_CHECK int ept_write_protect(struct ept *ept, gpa_t gpa, uint64_t bytes);

/* One walk: the leaf entry (0 if none) and its level. Concurrent with ept_map on other pages. */
uint64_t ept_walk(const struct ept *ept, gpa_t gpa, unsigned *level);
/* Sets A (and D) in the leaf, atomically. */
void ept_set_accessed(struct ept *ept, gpa_t gpa, bool dirty);

struct ept_stats { uint64_t table_pages, pages_4k, pages_2m, pages_1g; };
void ept_get_stats(const struct ept *ept, struct ept_stats *out);

#endif
