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

/* Bytes anywhere in memory. */
static inline void fuzz_poke(struct input *input)
{
    uint64_t at = take(input, 2) * 2;
    for (unsigned i = (unsigned)take(input, 1) & 0x3f; i > 0; i--, at++) {
        memory[at % MEMORY_BYTES] = (uint8_t)take(input, 1);
    }
}

#endif
