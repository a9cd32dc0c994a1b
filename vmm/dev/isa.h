/* SPDX-License-Identifier: MIT */
/*
 * Byte-wide devices on a port bus: a wider access is that many accesses to following ports, as the ISA
 * bus makes of it.
 */
#ifndef KAGE_DEV_ISA_H
#define KAGE_DEV_ISA_H

#include <stdint.h>

static inline uint64_t isa_read_bytes(uint8_t (*read)(void *self, unsigned offset), void *self, uint64_t offset, unsigned size)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++) {
        value |= (uint64_t)read(self, (unsigned)offset + i) << (i * 8);
    }
    return value;
}

static inline void isa_write_bytes(void (*write)(void *self, unsigned offset, uint8_t value), void *self, uint64_t offset,
                                   unsigned size, uint64_t value)
{
    for (unsigned i = 0; i < size; i++) {
        write(self, (unsigned)offset + i, (uint8_t)(value >> (i * 8)));
    }
}

#endif
