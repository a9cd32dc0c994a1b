/* SPDX-License-Identifier: MIT */
/*
 * Guest RAM. The only place where the loaders' guest-physical addresses become host pointers.
 */
#include "machine/ram.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <linux/magic.h>

#define HUGE_2M (UINT64_C(2) << 20)
#define HUGE_1G (UINT64_C(1) << 30)

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

static uint64_t ram_host_bytes(void)
{
    return (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
}

static uint64_t round_up(uint64_t value, uint64_t to)
{
    return (value + to - 1) / to * to;
}

/* Address space of this size and alignment, with nothing in it yet. NULL: none. */
static uint8_t *reserve(uint64_t bytes, uint64_t alignment)
{
    uint8_t *space = mmap(NULL, bytes + alignment, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (space == MAP_FAILED) {
        return NULL;
    }
    uint64_t before = -(uintptr_t)space & (alignment - 1);
    if (before != 0) {
        munmap(space, before);
    }
    munmap(space + before + bytes, alignment - before);
    return space + before;
}

/* -mem-path: the file, of at least `bytes`; *page: the size of its pages. */
static int open_backing(const char *path, uint64_t bytes, uint64_t *page, struct error *error)
{
    struct stat status;
    struct statfs fs;
    char name[PATH_MAX];
    int fd;

    if (stat(path, &status) == 0 && S_ISDIR(status.st_mode)) {
        if ((size_t)snprintf(name, sizeof(name), "%s/kage-ram-XXXXXX", path) >= sizeof(name)) {
            return error_set(error, "-mem-path %s: the name is too long", path);
        }
        fd = mkostemp(name, O_CLOEXEC);
        if (fd >= 0) {
            unlink(name);
        }
    } else {
        fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    }
    if (fd < 0 || fstatfs(fd, &fs) != 0 || fstat(fd, &status) != 0) {
        error_set(error, "-mem-path %s: %s", path, strerror(errno));
        goto out_close;
    }
    *page = fs.f_type == HUGETLBFS_MAGIC ? (uint64_t)fs.f_bsize : (uint64_t)sysconf(_SC_PAGESIZE);
    bytes = round_up(bytes, *page);
    if ((uint64_t)status.st_size < bytes && ftruncate(fd, (off_t)bytes) != 0) {
        error_set(error, "-mem-path %s: cannot make it %" PRIu64 " MiB: %s", path, bytes >> 20, strerror(errno));
        goto out_close;
    }
    return fd;

out_close:
    if (fd >= 0) {
        close(fd);
    }
    return -1;
}

/* -mem-prealloc. */
static int allocate_all(const struct ram *ram, struct error *error)
{
    if (madvise(ram->base, ram->mapped_bytes, MADV_POPULATE_WRITE) != 0) {
        return error_set(error, "-mem-prealloc: the host does not give %" PRIu64 " MiB: %s", ram->bytes >> 20, strerror(errno));
    }
    return 0;
}

int ram_init(struct ram *ram, uint64_t bytes, const struct ram_backing *backing, struct error *error)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), host_bytes = ram_host_bytes();
    int fd = -1;

    *ram = (struct ram){.bytes = bytes, .low_bytes = bytes < RAM_HOLE_GPA ? bytes : RAM_HOLE_GPA};
    if (bytes > RAM_BYTES_MAX) {
        return error_set(error, "-m: %" PRIu64 " MiB of guest memory is more than the %" PRIu64 " MiB that a guest can have", bytes >> 20,
                         RAM_BYTES_MAX >> 20);
    }
    if (backing->path != NULL && (fd = open_backing(backing->path, bytes, &page, error)) < 0) {
        return -1;
    }
    if (bytes > host_bytes) {
        fprintf(stderr, "kage: warning: -m: %" PRIu64 " MiB of guest memory is more than the %" PRIu64 " MiB that this host has\n", bytes >> 20,
                host_bytes >> 20);
    }
    ram->mapped_bytes = round_up(bytes, page);
    uint64_t alignment = bytes >= HUGE_1G ? HUGE_1G : HUGE_2M;
    ram->base = reserve(ram->mapped_bytes, alignment > page ? alignment : page);
    if (ram->base == NULL ||
        mmap(ram->base, ram->mapped_bytes, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE | MAP_NORESERVE | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0) ==
            MAP_FAILED) {
        error_set(error, "-m: cannot map %" PRIu64 " MiB of guest memory: %s", bytes >> 20, strerror(errno));
        goto out_undo;
    }
    if (fd >= 0) {
        close(fd);
        fd = -1;
    }
    madvise(ram->base, ram->mapped_bytes, MADV_HUGEPAGE); /* a hint: hosts may have it off, and hugetlbfs has no need of it */
    if (backing->prealloc && allocate_all(ram, error) != 0) {
        goto out_undo;
    }
    return 0;

out_undo:
    if (fd >= 0) {
        close(fd);
    }
    ram_fini(ram);
    return -1;
}

void ram_fini(struct ram *ram)
{
    if (ram->base != NULL) {
        munmap(ram->base, ram->mapped_bytes);
        ram->base = NULL;
    }
}

void ram_split(struct ram *ram, uint64_t low_max)
{
    ram->low_bytes = ram->low_bytes < low_max ? ram->low_bytes : low_max;
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
