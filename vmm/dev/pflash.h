/* SPDX-License-Identifier: MIT */
/*
 * A NOR flash chip, 8 bits wide, of command set 0001 (Intel; JESD68.01, JEP137; Intel 290667, StrataFlash, 4 "Device commands"), as
 * firmware on a PC expects it: a pure state machine over bytes that its owner gives.
 *
 *   FF read array | 70 read status | 50 clear status | 90 identifiers | 98 CFI query
 *   10, 40 program: the next write is the data | E8 buffered program: bytes - 1, data, D0
 *   20 D0 erase the block | 60 D0, 60 01 unlock, lock: no effect
 *
 *   status: 7 ready | 5 erase failed | 4 program failed | both: a sequence that is none
 *
 * Programming turns ones into zeros on a real chip; here bytes become what is written, as the emulators that firmware was written for do it.
 */
#ifndef KAGE_DEV_PFLASH_H
#define KAGE_DEV_PFLASH_H

#include <stdbool.h>
#include <stdint.h>

#define PFLASH_BLOCK_BYTES 4096u
#define PFLASH_BUFFER_BYTES 256u
#define PFLASH_CFI_BYTES 0x40u

struct pflash_backend {
    /* Bytes [offset, offset + size) have changed. 0, or -errno: the operation failed. */
    int (*changed)(void *opaque, uint32_t offset, uint32_t size);
    /* Reads give bytes again, or not any more (`array`). */
    void (*mode)(void *opaque, bool array);
};

enum pflash_state {
    PFLASH_ARRAY,
    PFLASH_STATUS,
    PFLASH_IDENTIFIERS,
    PFLASH_CFI,
    PFLASH_PROGRAM,      /* waits for the data */
    PFLASH_BUFFER_COUNT, /* for how many bytes */
    PFLASH_BUFFER_DATA,
    PFLASH_BUFFER_CONFIRM,
    PFLASH_ERASE, /* for D0 */
    PFLASH_LOCK,  /* for D0 or 01 */
};

struct pflash {
    uint8_t *bytes;
    uint32_t size; /* a multiple of PFLASH_BLOCK_BYTES */
    bool read_only;
    const struct pflash_backend *backend;
    void *opaque;
    enum pflash_state state;
    uint8_t status;
    uint8_t cfi[PFLASH_CFI_BYTES];
    /* The buffered program: where its first byte goes, how many there are, how many have come. */
    uint32_t buffer_at, buffer_bytes, buffer_used;
    uint8_t buffer[PFLASH_BUFFER_BYTES];
    bool buffer_bad; /* data outside of the buffer's page */
};

void pflash_init(struct pflash *flash, uint8_t *bytes, uint32_t size, bool read_only, const struct pflash_backend *backend, void *opaque);
/* `offset + size` is inside of the chip; size 1, 2, 4 or 8. */
uint64_t pflash_read(const struct pflash *flash, uint32_t offset, unsigned size);
void pflash_write(struct pflash *flash, uint32_t offset, unsigned size, uint64_t value);

#endif
