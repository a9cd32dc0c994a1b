/* SPDX-License-Identifier: MIT */
/*
 * The i440FX host bridge (Intel 290549, 82441FX), as far as firmware uses it: the programmable attribute
 * map, which says for each piece of the area from 768 KiB to 1 MiB whether reads and writes go to RAM or
 * to the ROMs behind the bridge.
 *
 *   59h  7..4 F0000-FFFFF
 *   5Ah  3..0 C0000  7..4 C4000      5Bh C8000 CC000   5Ch D0000 D4000
 *   5Dh  D8000 DC000                 5Eh E0000 E4000   5Fh E8000 EC000    (16 KiB each)
 *   each nibble: 1 WE, writes to RAM | 0 RE, reads from RAM
 *   72h  SMRAM: kept, and no more: there is no system management mode
 */
#ifndef KAGE_DEV_I440FX_H
#define KAGE_DEV_I440FX_H

#include <stdint.h>

#include "dev/pci.h"

#define I440FX_PAM_SEGMENTS 13u
#define I440FX_PAM_FIRST_GPA 0xc0000u
#define I440FX_PAM_END_GPA 0x100000u

struct i440fx_segment {
    uint32_t gpa;
    uint32_t bytes;
    bool read_ram;
    bool write_ram;
};

struct i440fx {
    struct pci_function function;
    /* The map has changed: look at i440fx_segment() again. */
    void (*map_changed)(void *opaque);
    void *opaque;
};

void i440fx_init(struct i440fx *bridge, void (*map_changed)(void *opaque), void *opaque);

/* Index of the segment that holds an address of the area. */
static inline unsigned i440fx_segment_of(uint32_t gpa)
{
    unsigned index = (gpa - I440FX_PAM_FIRST_GPA) / 0x4000;
    return index < I440FX_PAM_SEGMENTS - 1 ? index : I440FX_PAM_SEGMENTS - 1;
}

/* Segment `index`, in the order of addresses. */
struct i440fx_segment i440fx_segment(const struct i440fx *bridge, unsigned index);

#endif
