/* SPDX-License-Identifier: MIT */
/* What the harnesses of disk controllers share beside fuzz_memory.h: interrupts that must be plausible, commands that drives have. */
#ifndef KAGE_TESTS_FUZZ_DISK_H
#define KAGE_TESTS_FUZZ_DISK_H

#define MEMORY_BYTES 0x20000u
#define DISK_BYTES 0x40000u

#include "fuzz_memory.h"

static void line_set(void *opaque, uint32_t number, bool level)
{
    (void)opaque;
    (void)level;
    if (number >= 2) {
        abort();
    }
}

static inline void put_le(uint64_t gpa, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++) {
        memory[(gpa + i) % MEMORY_BYTES] = (uint8_t)(value >> i * 8);
    }
}

/* A command's code: one that drives have, mostly. */
static inline uint8_t take_code(struct input *input)
{
    static const uint8_t codes[] = {0xec, 0xa1, 0xa0, 0x20, 0x24, 0x25, 0x29, 0x2f, 0x30, 0x34, 0x35, 0x39, 0x3d, 0x40, 0x42, 0x47, 0x60,
                                    0x61, 0x06, 0x90, 0x91, 0xb0, 0xc4, 0xc5, 0xc6, 0xc8, 0xca, 0xce, 0xe0, 0xe5, 0xe7, 0xea, 0xef, 0x08};
    uint8_t byte = (uint8_t)take(input, 1);
    return byte < 0xf0 ? codes[byte % sizeof(codes)] : (uint8_t)take(input, 1);
}

/* A packet of 12 bytes, its first mostly a command that CD-ROM drives have. */
static inline void take_packet(struct input *input, uint8_t packet[12])
{
    static const uint8_t codes[] = {0x00, 0x03, 0x12, 0x1a, 0x1b, 0x1e, 0x25, 0x28, 0x2b, 0x35, 0x43, 0x46, 0x4a, 0x51, 0x52, 0x5a, 0xa8, 0xad, 0xbb, 0xbd, 0xbe};
    uint8_t byte = (uint8_t)take(input, 1);
    packet[0] = byte < 0xf0 ? codes[byte % sizeof(codes)] : (uint8_t)take(input, 1);
    for (unsigned i = 1; i < 12; i++) {
        packet[i] = (uint8_t)take(input, 1);
    }
}

/* Bytes anywhere in memory. */
static inline void fuzz_poke(struct input *input)
{
    uint64_t at = take(input, 2) * 2;
    for (unsigned i = (unsigned)take(input, 1) & 0x3f; i > 0; i--, at++) {
        memory[at % MEMORY_BYTES] = (uint8_t)take(input, 1);
    }
}

#endif
