/* SPDX-License-Identifier: MIT */
/* What the TLBs and page walks cost: more memory than any TLB reaches, by pages of 4 KiB. */
#include <stddef.h>
#include <sys/mman.h>

#include "bench.h"

#define CHASE_BYTES (1ull << 30)
#define NODE_BYTES 256u
#define NODES (CHASE_BYTES / NODE_BYTES)
#define MISS_PAGES 131072u /* 512 MiB */

static char *memory;

static _Bool map_small_pages(void)
{
    if (memory)
        return 1;
    char *map = mmap(NULL, CHASE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED)
        return 0;
    madvise(map, CHASE_BYTES, MADV_NOHUGEPAGE);
    memory = map;
    return 1;
}

static uint32_t *node(uint64_t i)
{
    return (uint32_t *)(void *)(memory + i * NODE_BYTES);
}

/* One cycle through all nodes: a full-period generator modulo a power of two, with its bits turned around so that neighbours are far apart. */
static uint64_t place(uint64_t i)
{
    uint64_t turned = 0;
    for (uint64_t bit = 1; bit < NODES; bit <<= 1) {
        turned = turned << 1 | (i & 1);
        i >>= 1;
    }
    return turned;
}

static _Bool prepare_chase(void)
{
    uint64_t at = 1;

    if (!map_small_pages())
        return 0;
    for (uint64_t i = 0; i < NODES; i++) {
        uint64_t next = (at * 1664525 + 1013904223) % NODES;
        *node(place(at)) = (uint32_t)place(next);
        at = next;
    }
    return 1;
}

static uint64_t run_chase(uint64_t rounds)
{
    uint64_t at = place(1);
    for (uint64_t i = 0; i < rounds; i++)
        at = *(volatile uint32_t *)node(at);
    return at + 1;
}

static _Bool prepare_misses(void)
{
    if (!map_small_pages())
        return 0;
    for (uint64_t page = 0; page < MISS_PAGES; page++)
        *(volatile uint32_t *)(void *)(memory + page * 4096) = (uint32_t)page + 1;
    return 1;
}

/* Independent reads, one of a page, in an order that no prefetcher follows: a miss of every TLB each. */
static uint64_t run_misses(uint64_t rounds)
{
    uint64_t sum = 0;
    uint32_t page = 1;
    for (uint64_t i = 0; i < rounds; i++) {
        page = (page * 1664525u + 1013904223u) % MISS_PAGES;
        sum += *(volatile uint32_t *)(void *)(memory + (uint64_t)page * 4096);
    }
    return sum;
}

const struct bench bench_memory[] = {
    {"chase-1g", "load", 5000000, run_chase, prepare_chase},
    {"tlb-misses", "load", 5000000, run_misses, prepare_misses},
    {0},
};
