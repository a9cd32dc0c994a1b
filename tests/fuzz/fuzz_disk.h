/* SPDX-License-Identifier: MIT */
/*
 * What the harnesses of disk controllers share: an input that is taken piece by piece, memory between two inaccessible pages, a small disk
 * in memory, interrupts that must be plausible.
 */
#ifndef KAGE_TESTS_FUZZ_DISK_H
#define KAGE_TESTS_FUZZ_DISK_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <kage.h>

#include "block/block.h"
#include "dev/device.h"

#define MEMORY_BYTES 0x20000u
#define GUARD 4096u
#define DISK_BYTES 0x40000u

static uint8_t *memory;
static struct loop loop;
static struct block *block;

/* Nothing is translated here. */
void kage_memory_begin_write(const void *addr, size_t bytes)
{
    (void)addr;
    (void)bytes;
}
void kage_memory_end_write(const void *addr, size_t bytes)
{
    (void)addr;
    (void)bytes;
}

static uint8_t *memory_at(void *opaque, uint64_t gpa, uint64_t bytes)
{
    (void)opaque;
    return gpa <= MEMORY_BYTES && bytes <= MEMORY_BYTES - gpa ? memory + gpa : NULL;
}
static const struct dma dma = {.at = memory_at};

static void line_set(void *opaque, uint32_t number, bool level)
{
    (void)opaque;
    (void)level;
    if (number >= 2) {
        abort();
    }
}

static inline void fuzz_init(void)
{
    struct error error;
    uint8_t *space = mmap(NULL, MEMORY_BYTES + 2 * GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int fd = memfd_create("disk", MFD_CLOEXEC);
    char path[32];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    if (space == MAP_FAILED || fd < 0 || ftruncate(fd, DISK_BYTES) != 0 || mprotect(space + GUARD, MEMORY_BYTES, PROT_READ | PROT_WRITE) != 0) {
        abort();
    }
    memory = space + GUARD;
    const struct block_config config = {.filename = path, .format = "raw"};
    block = loop_init(&loop) == 0 ? block_open(&config, &error) : NULL;
    if (block == NULL || block_attach(block, &loop) != 0) {
        abort();
    }
}

struct input {
    const uint8_t *data;
    size_t left;
};

/* Little-endian; zeroes behind the end. */
static inline uint64_t take(struct input *input, unsigned bytes)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes && input->left > 0; i++, input->left--) {
        value |= (uint64_t)*input->data++ << i * 8;
    }
    return value;
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
