/* SPDX-License-Identifier: MIT */
/*
 * Guest RAM. The only place where the loaders' guest-physical addresses become host pointers.
 */
#include "machine/ram.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define RAM_ALIGNMENT (UINT64_C(2) << 20)

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

static uint64_t ram_host_bytes(void)
{
    return (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
}

int ram_init(struct ram *ram, uint64_t bytes, struct error *error)
{
    *ram = (struct ram){.bytes = bytes, .low_bytes = bytes < RAM_HOLE_GPA ? bytes : RAM_HOLE_GPA};
    uint64_t host_bytes = ram_host_bytes();
    if (bytes > host_bytes) {
        return error_set(error, "-m: %" PRIu64 " MiB of guest memory is more than the %" PRIu64 " MiB that this host has", bytes >> 20,
                         host_bytes >> 20);
    }
    /* Address space for one huge page more, of which what is before and behind goes back. */
    uint8_t *space = mmap(NULL, bytes + RAM_ALIGNMENT, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (space == MAP_FAILED) {
        return error_set(error, "-m: cannot map %" PRIu64 " MiB of guest memory: %s", bytes >> 20, strerror(errno));
    }
    uint64_t before = -(uintptr_t)space & (RAM_ALIGNMENT - 1);
    if (before != 0) {
        munmap(space, before);
    }
    munmap(space + before + bytes, RAM_ALIGNMENT - before);
    ram->base = space + before;
    madvise(ram->base, bytes, MADV_HUGEPAGE); /* a hint: hosts may have it off */
    return 0;
}

void ram_fini(struct ram *ram)
{
    if (ram->base != NULL) {
        munmap(ram->base, ram->bytes);
        ram->base = NULL;
    }
}

uint8_t *ram_at(const struct ram *ram, uint64_t gpa, uint64_t length)
{
    if (gpa <= ram->low_bytes && length <= ram->low_bytes - gpa) {
        return ram->base + gpa;
    }
    uint64_t high_bytes = ram_high_bytes(ram);
    if (gpa >= RAM_HIGH_GPA && gpa - RAM_HIGH_GPA <= high_bytes && length <= high_bytes - (gpa - RAM_HIGH_GPA)) {
        return ram->base + ram->low_bytes + (gpa - RAM_HIGH_GPA);
    }
    return NULL;
}

void ram_populate(const struct ram *ram, uint64_t gpa, uint64_t length)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t first = gpa & ~(page - 1);
    uint8_t *bytes = ram_at(ram, first, (gpa - first + length + page - 1) & ~(page - 1));
    if (bytes != NULL) {
        madvise(bytes, (gpa - first + length + page - 1) & ~(page - 1), MADV_POPULATE_WRITE);
    }
}
