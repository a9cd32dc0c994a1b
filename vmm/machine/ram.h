/* SPDX-License-Identifier: MIT */
/*
 * Guest RAM: one mapping. Below 4 GiB there is a hole for devices, and RAM that does not fit
 * below it goes on at 4 GiB:
 *
 *   guest-physical  0 ........ RAM_HOLE_GPA | hole | RAM_HIGH_GPA ........
 *   mapping         0 ........ low_bytes           | low_bytes ........ bytes
 *
 * It is private anonymous memory, aligned to 2 MiB: hosts give that huge pages, and a memfd none by
 * default. Loading a kernel takes half the time so, and the guest's every access spares TLB misses.
 */
#ifndef KAGE_MACHINE_RAM_H
#define KAGE_MACHINE_RAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/error.h"

#define RAM_HOLE_GPA UINT64_C(0xc0000000)
#define RAM_HIGH_GPA UINT64_C(0x100000000)

struct ram {
    uint8_t *base;
    uint64_t bytes;
    uint64_t low_bytes;
    uint64_t mapped_bytes; /* up to whole pages of the backing's */
};

/* What a board's processors can reach: 40 bits of address, less the hole below 4 GiB. */
#define RAM_BYTES_MAX ((UINT64_C(1) << 40) - (RAM_HIGH_GPA - RAM_HOLE_GPA))

/* Where the memory comes from, as -mem-path and -mem-prealloc say. All zeros: anonymous memory, allocated as it is touched. */
struct ram_backing {
    const char *path; /* a directory (hugetlbfs, mostly), for a file without a name in it; or a file; NULL: anonymous */
    bool prealloc;    /* all of it is allocated now, or it is an error */
};

/*
 * `bytes`: a multiple of the page size, not 0. More than the host has is a warning: a guest that never touches it is fine. Aligned so that
 * the pages of 2 MiB and 1 GiB of guest memory are such pages of host memory.
 */
int ram_init(struct ram *ram, uint64_t bytes, const struct ram_backing *backing, struct error *error);
void ram_fini(struct ram *ram);
/* At most `low_max` bytes of it are below the hole: before anything is put there. */
void ram_split(struct ram *ram, uint64_t low_max);

static inline uint64_t ram_high_bytes(const struct ram *ram)
{
    return ram->bytes - ram->low_bytes;
}

/* Host bytes of guest-physical [gpa, gpa + length), or NULL where that is not all RAM of one piece. */
uint8_t *ram_at(const struct ram *ram, uint64_t gpa, uint64_t length);

/* Makes the host allocate the pages of a range that is about to be filled, in one go. Only a hint. */
void ram_populate(const struct ram *ram, uint64_t gpa, uint64_t length);

#endif
