/* SPDX-License-Identifier: MIT */
/*
 * The SMBIOS structures (DMTF DSP0134 3.0) that firmware puts before the guest: what machine it is, its processors and memory. The firmware
 * adds what it is itself (type 0).
 */
#ifndef KAGE_MACHINE_SMBIOS_H
#define KAGE_MACHINE_SMBIOS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "machine/ram.h"
#include "vcpu/topology.h"

#define SMBIOS_ROOM 0x8000u
#define SMBIOS_ANCHOR_BYTES 31u

struct smbios {
    uint8_t *tables; /* in: SMBIOS_ROOM bytes for them */
    size_t bytes, largest;
    unsigned count;
    bool overflow;
    uint8_t anchor[SMBIOS_ANCHOR_BYTES]; /* the 2.1 entry point; where the tables are is the firmware's to fill in */
};

/* False: there is no room. */
bool smbios_write(struct smbios *smbios, const char *board, const struct cpu_topology *topology, const struct ram *ram);

#endif
