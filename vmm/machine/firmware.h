/* SPDX-License-Identifier: MIT */
/*
 * What ends at 4 GiB, where processors start: a firmware image (-bios), read-only, or flash chips (-drive if=pflash), the first of them
 * with the reset vector and each further one below.
 */
#ifndef KAGE_MACHINE_FIRMWARE_H
#define KAGE_MACHINE_FIRMWARE_H

#include "dev/pflash.h"
#include "machine/machine.h"

struct firmware_flash {
    struct machine *machine;
    struct drive *drive;
    pthread_mutex_t lock;
    struct pflash chip;
    uint32_t slot;
    uint64_t gpa;
    uint8_t *bytes; /* a mapping of its own */
    uint32_t size;
};

struct firmware {
    struct machine *machine;
    uint8_t *bytes; /* of an image; NULL: flash chips */
    uint64_t size;
    unsigned flash_count;
    struct firmware_flash flash[MACHINE_FLASHES_MAX];
};

/* Reads the image or the chips' contents; `path`: the board's own image. 0, or -1 with `error` filled; firmware_fini() in either case. */
int firmware_load(struct firmware *firmware, struct machine *machine, const char *path, struct error *error);
/* Memory slots from `slot` on, one for each chip or image. 0 or -errno. */
int firmware_map(struct firmware *firmware, uint32_t slot);
void firmware_fini(struct firmware *firmware);
/* The last ROM_MAP_ROM_BYTES of it. */
uint8_t *firmware_end(const struct firmware *firmware);

#endif
