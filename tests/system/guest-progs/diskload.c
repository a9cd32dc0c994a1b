/* SPDX-License-Identifier: MIT */
/*
 * A disk under a host that may vanish at any time: generations of writes and zeroes by several threads, each generation flushed before it is
 * announced ("diskload: flushed N"). The sequence follows from the seed, so that the host can tell from the image what a
 * generation that was announced must have left there: each sector says where and when it was written, and is checked as a whole.
 *
 *   guest-diskload write DEVICE SEED      until it is ended
 *   guest-diskload verify IMAGE SEED N    status 1, and what is wrong, if something of generations 1 to N is not there
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define THREADS 4u
#define OPERATIONS 12u /* of a thread in a generation */
#define BLOCK 4096u
#define SECTOR 512u
#define BLOCKS_MAX 16u /* of an operation */
#define LATER 200u     /* generations that may have been under way, or done and not announced */

/* Threads own stripes of 64 blocks: their operations do not meet. */
#define STRIPE 64u

struct operation {
    uint64_t block;
    unsigned blocks;
    bool zero;
};

static uint64_t mix(uint64_t x)
{
    x += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

static struct operation operation_of(uint64_t seed, uint64_t generation, unsigned thread, unsigned number, uint64_t disk_blocks)
{
    uint64_t random = mix(seed ^ mix(generation * THREADS * OPERATIONS + thread * OPERATIONS + number));
    uint64_t stripes = disk_blocks / STRIPE / THREADS;
    unsigned blocks = 1 + (unsigned)(random >> 8) % BLOCKS_MAX;
    return (struct operation){
        .block = ((random >> 20) % stripes * THREADS + thread) * STRIPE + (random >> 60) % (STRIPE / BLOCKS_MAX) * BLOCKS_MAX,
        .blocks = blocks,
        .zero = random % 8 == 0,
    };
}

static void fill_sector(uint64_t words[SECTOR / 8], uint64_t seed, uint64_t sector, uint64_t generation)
{
    words[0] = sector ^ mix(seed);
    words[1] = generation;
    for (unsigned i = 2; i < SECTOR / 8; i++) {
        words[i] = mix(words[0] * 64 + words[1] * 1000003 + i);
    }
}

/* ---- Writing ---- */

static pthread_barrier_t barrier;
static int disk;
static uint64_t seed, disk_blocks, generation = 1;

static _Noreturn void die(const char *what)
{
    printf("diskload: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void perform(const struct operation *operation, uint8_t *buffer)
{
    uint64_t range[2] = {operation->block * BLOCK, (uint64_t)operation->blocks * BLOCK};
    if (operation->zero) {
        if (ioctl(disk, BLKZEROOUT, range) != 0) {
            die("BLKZEROOUT");
        }
        return;
    }
    for (uint64_t i = 0; i < range[1] / SECTOR; i++) {
        fill_sector((uint64_t *)(void *)(buffer + i * SECTOR), seed, range[0] / SECTOR + i, generation);
    }
    if (pwrite(disk, buffer, range[1], (off_t)range[0]) != (ssize_t)range[1]) {
        die("write");
    }
}

static void *writer(void *opaque)
{
    unsigned thread = (unsigned)(uintptr_t)opaque;
    uint8_t *buffer = aligned_alloc(BLOCK, BLOCKS_MAX * BLOCK);
    for (;;) {
        for (unsigned i = 0; i < OPERATIONS; i++) {
            struct operation operation = operation_of(seed, generation, thread, i, disk_blocks);
            perform(&operation, buffer);
        }
        if (pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD) {
            if (fsync(disk) != 0) {
                die("fsync");
            }
            printf("diskload: flushed %llu\n", (unsigned long long)generation);
            fflush(stdout);
            generation++;
        }
        pthread_barrier_wait(&barrier);
    }
    return NULL;
}

static int run_write(const char *path)
{
    uint64_t bytes;
    pthread_t threads[THREADS];
    disk = open(path, O_RDWR | O_DIRECT);
    if (disk < 0 || ioctl(disk, BLKGETSIZE64, &bytes) != 0) {
        die(path);
    }
    disk_blocks = bytes / BLOCK;
    pthread_barrier_init(&barrier, NULL, THREADS);
    for (unsigned i = 0; i < THREADS; i++) {
        if (pthread_create(&threads[i], NULL, writer, (void *)(uintptr_t)i) != 0) {
            die("thread");
        }
    }
    pthread_join(threads[0], NULL);
    return 1;
}

/* ---- Verifying ---- */

struct expectation {
    uint32_t generation; /* 0: nothing is known of it */
    bool zero;           /* in that generation, at last */
    bool zero_later;     /* may have become so since */
};

static bool expect(struct expectation *blocks, uint64_t last)
{
    for (uint64_t g = 1; g <= last + LATER; g++) {
        for (unsigned t = 0; t < THREADS; t++) {
            for (unsigned i = 0; i < OPERATIONS; i++) {
                struct operation operation = operation_of(seed, g, t, i, disk_blocks);
                for (unsigned b = 0; b < operation.blocks; b++) {
                    struct expectation *block = &blocks[operation.block + b];
                    if (g <= last) {
                        block->generation = (uint32_t)g;
                        block->zero = operation.zero;
                    } else {
                        block->zero_later = block->zero_later || operation.zero;
                    }
                }
            }
        }
    }
    return true;
}

static bool sector_good(const struct expectation *block, const uint64_t words[SECTOR / 8], uint64_t sector)
{
    uint64_t whole[SECTOR / 8], any = 0;
    for (unsigned i = 0; i < SECTOR / 8; i++) {
        any |= words[i];
    }
    if (any == 0) {
        return block->zero || block->zero_later;
    }
    fill_sector(whole, seed, sector, words[1]);
    /* Within a generation a block may be written and zeroed: the order is one thread's, and the last counts. */
    bool recent = block->zero ? words[1] > block->generation : words[1] >= block->generation;
    return memcmp(whole, words, SECTOR) == 0 && recent;
}

static int run_verify(const char *path, uint64_t last)
{
    struct stat status;
    uint64_t words[BLOCK / 8], wrong = 0, known = 0;
    int fd = open(path, O_RDONLY);
    if (fd < 0 || fstat(fd, &status) != 0) {
        die(path);
    }
    disk_blocks = (uint64_t)status.st_size / BLOCK;
    struct expectation *blocks = calloc(disk_blocks, sizeof(*blocks));
    if (blocks == NULL) {
        die("memory");
    }
    expect(blocks, last);
    for (uint64_t b = 0; b < disk_blocks; b++) {
        if (blocks[b].generation == 0) {
            continue;
        }
        known++;
        if (pread(fd, words, BLOCK, (off_t)(b * BLOCK)) != (ssize_t)BLOCK) {
            die("read");
        }
        for (unsigned s = 0; s < BLOCK / SECTOR; s++) {
            const uint64_t *at = words + s * (SECTOR / 8);
            if (!sector_good(&blocks[b], at, b * (BLOCK / SECTOR) + s) && wrong++ < 10) {
                printf("diskload: sector %llu is %s of generation %u, and begins with %016llx %016llx\n",
                       (unsigned long long)(b * (BLOCK / SECTOR) + s), blocks[b].zero ? "zeroes" : "data", blocks[b].generation,
                       (unsigned long long)at[0], (unsigned long long)at[1]);
            }
        }
    }
    printf("diskload: %llu blocks of %llu generations, %llu sectors wrong\n", (unsigned long long)known, (unsigned long long)last,
           (unsigned long long)wrong);
    return wrong != 0;
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        return 2;
    }
    seed = strtoull(argv[3], NULL, 0);
    return strcmp(argv[1], "write") == 0 ? run_write(argv[2]) : run_verify(argv[2], argc > 4 ? strtoull(argv[4], NULL, 0) : 0);
}
