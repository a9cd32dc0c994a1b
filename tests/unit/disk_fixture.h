/* SPDX-License-Identifier: MIT */
/*
 * What tests of disk controllers share: guest memory, a raw disk with known content, interrupt lines that are counted. The host's requests
 * are done in block_drain(), by whoever calls it: until then they are under way.
 */
#ifndef KAGE_TESTS_DISK_FIXTURE_H
#define KAGE_TESTS_DISK_FIXTURE_H

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "disk/ata.h"
#include "dev/device.h"
#include "util/loop.h"

#define MEMORY_BYTES 0x400000u
#define DISK_SECTORS 4096u
#define DISK_BYTES (DISK_SECTORS * 512u)

static uint8_t *memory; /* from address 0 on */
static struct loop loop;
static struct block *block;
static char disk_path[64];
static uint8_t shadow[DISK_BYTES];

/* One interrupt line. */
struct line {
    bool level;
    unsigned edges;
};
static struct line lines[2];

static inline void line_set(void *opaque, uint32_t number, bool level)
{
    (void)opaque;
    lines[number].edges += level && !lines[number].level;
    lines[number].level = level;
}

static inline uint8_t *memory_at(void *opaque, uint64_t gpa, uint64_t bytes)
{
    (void)opaque;
    return gpa <= MEMORY_BYTES && bytes <= MEMORY_BYTES - gpa ? memory + gpa : NULL;
}
static const struct dma memory_dma = {.at = memory_at};

static inline void put_le(uint64_t gpa, uint64_t value, unsigned bytes)
{
    memcpy(memory + gpa, &value, bytes);
}

/* A machine that stops, and goes on. */
static struct run_watch *run_watching;
static unsigned run_stops;
static inline void run_stop(void *opaque, enum run_state state, const char *text)
{
    (void)opaque;
    (void)state;
    (void)text;
    run_stops++;
}
static inline void run_watch_add(void *opaque, struct run_watch *watch)
{
    (void)opaque;
    run_watching = watch;
}
static inline void run_watch_remove(void *opaque, struct run_watch *watch)
{
    (void)opaque;
    run_watching = watch == run_watching ? NULL : run_watching;
}
static const struct run_control run = {.stop = run_stop, .watch = run_watch_add, .unwatch = run_watch_remove};

static inline void fixture_open(void)
{
    struct error error;
    memory = calloc(1, MEMORY_BYTES);
    memset(lines, 0, sizeof(lines));
    run_stops = 0;
    strcpy(disk_path, "/tmp/kage-test-disk-XXXXXX");
    int fd = mkstemp(disk_path);
    for (unsigned i = 0; i < DISK_BYTES; i++) {
        shadow[i] = (uint8_t)(i * 7 + i / 512 * 13);
    }
    assert_int_equal(write(fd, shadow, DISK_BYTES), DISK_BYTES);
    close(fd);
    assert_int_equal(loop_init(&loop), 0);
    const struct block_config config = {.filename = disk_path, .format = "raw"};
    block = block_open(&config, &error);
    assert_non_null(block);
    assert_int_equal(block_attach(block, &loop), 0);
}

static inline void fixture_close(void)
{
    block_close(block);
    loop_fini(&loop);
    unlink(disk_path);
    free(memory);
}

/* What the file holds now. */
static inline void disk_read(uint64_t sector, void *bytes, size_t count)
{
    block_drain(block);
    FILE *file = fopen(disk_path, "r");
    assert_non_null(file);
    assert_int_equal(fseek(file, (long)(sector * 512), SEEK_SET), 0);
    assert_int_equal(fread(bytes, 1, count, file), count);
    fclose(file);
}

static inline uint64_t random_next(uint64_t *random)
{
    *random = *random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *random >> 33;
}

#endif
