/* SPDX-License-Identifier: MIT */
/*
 * The area from C0000 to FFFFF as the host bridge's attribute map (dev/pam.h) has it: RAM, or the last 128 KiB of the firmware at E0000
 * and nobody below. Each run of equal pieces is a memory slot.
 */
#ifndef KAGE_MACHINE_ROM_MAP_H
#define KAGE_MACHINE_ROM_MAP_H

#include <pthread.h>

#include "dev/pam.h"
#include "machine/machine.h"

#define ROM_MAP_ROM_BYTES 0x20000u /* of the firmware's end, at E0000 */

/* What the processors see of [gpa, gpa + bytes): a slot, or nothing. */
struct rom_map_piece {
    uint32_t gpa, bytes;
    uint8_t *host; /* NULL: no slot */
    bool readonly;
};

struct rom_map {
    struct machine *machine;
    const uint8_t *pam; /* the bridge's registers */
    uint8_t *rom;
    uint32_t first_slot; /* of PAM_SEGMENTS */
    /* Inside of the PCI bus's lock; of what is in force. */
    pthread_mutex_t lock;
    struct pam_segment segments[PAM_SEGMENTS];
    unsigned piece_count;
    struct rom_map_piece pieces[PAM_SEGMENTS];
};

/* `rom`: ROM_MAP_ROM_BYTES of firmware. 0 or -errno; rom_map_fini() in either case. */
int rom_map_init(struct rom_map *map, struct machine *machine, const uint8_t *pam, uint8_t *rom, uint32_t first_slot);
void rom_map_fini(struct rom_map *map);
/* The registers have changed. `self` is a struct rom_map. */
void rom_map_changed(void *self);
/*
 * Guest memory for what masters the bus, to read and to write: RAM as the bridge decodes it for the processors. What lies over A0000
 * is the display's, and of the area above only what is mapped to RAM both ways can be meant.
 */
uint8_t *rom_map_memory_at(void *self, uint64_t gpa, uint64_t bytes);

#endif
