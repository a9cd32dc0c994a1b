/* SPDX-License-Identifier: MIT */
/*
 * What the harnesses of devices with disks share: memory between two inaccessible pages, and a small disk in memory. Who includes it has said
 * how many MEMORY_BYTES and DISK_BYTES.
 */
#ifndef KAGE_TESTS_FUZZ_MEMORY_H
#define KAGE_TESTS_FUZZ_MEMORY_H

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <kage.h>

#include "block/block.h"
#include "dev/device.h"
#include "fuzz_input.h"

#define GUARD 4096u

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

static inline void fuzz_init(void)
{
    struct error error = {""};
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
        fprintf(stderr, "%s\n", error.text);
        abort();
    }
}

#endif
