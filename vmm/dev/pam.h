/* SPDX-License-Identifier: MIT */
/*
 * The programmable attribute map of Intel's host bridges, seven registers in configuration space that say for each piece of the area
 * from 768 KiB to 1 MiB whether reads and writes go to RAM or to the ROMs behind the bridge (Intel 290549, 82441FX, 3.2.19; 316966,
 * 3 and 4 Series, PAM0 to PAM6).
 *
 *   PAM0  7..4 F0000-FFFFF
 *   PAM1  3..0 C0000  7..4 C4000      PAM2 C8000 CC000   PAM3 D0000 D4000
 *   PAM4  D8000 DC000                 PAM5 E0000 E4000   PAM6 E8000 EC000    (16 KiB each)
 *   each nibble: 1 WE, writes to RAM | 0 RE, reads from RAM
 */
#ifndef KAGE_DEV_PAM_H
#define KAGE_DEV_PAM_H

#include <stdbool.h>
#include <stdint.h>

#define PAM_REGISTERS 7u
#define PAM_WRITABLE 0x33u
#define PAM_SEGMENTS 13u
#define PAM_FIRST_GPA 0xc0000u
#define PAM_END_GPA 0x100000u

struct pam_segment {
    uint32_t gpa;
    uint32_t bytes;
    bool read_ram;
    bool write_ram;
};

/* Index of the segment that holds an address of the area. */
static inline unsigned pam_segment_of(uint32_t gpa)
{
    unsigned index = (gpa - PAM_FIRST_GPA) / 0x4000;
    return index < PAM_SEGMENTS - 1 ? index : PAM_SEGMENTS - 1;
}

/* Segment `index`, in the order of addresses, of the registers from PAM0 on. */
static inline struct pam_segment pam_segment(const uint8_t *pam, unsigned index)
{
    bool top = index == PAM_SEGMENTS - 1; /* F0000 */
    unsigned bits = top ? pam[0] >> 4 : pam[1 + index / 2] >> (index % 2 * 4);

    return (struct pam_segment){
        .gpa = PAM_FIRST_GPA + index * 0x4000u,
        .bytes = top ? 0x10000u : 0x4000u,
        .read_ram = (bits & 1) != 0,
        .write_ram = (bits & 2) != 0,
    };
}

#endif
