/* SPDX-License-Identifier: MIT */
/*
 * The device by its path: opening it, and what access(2) and stat(2) say of it. The path need not exist.
 */
#include "real.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

#define DEVICE_DEFAULT "/dev/kvm"
#define DEVICE_NUMBER makedev(10, 232) /* Documentation/admin-guide/devices.txt */

static const char *device_path = DEVICE_DEFAULT;

/*
 * Through these the kernel itself writes guest memory, which the engine cannot see: they are not there, and clients have
 * their own code for that case.
 */
static const char device_hidden[] = "/dev/vhost-";

void preload_device_init(void)
{
    const char *path = getenv("KAGE_KVM_PATH");

    if (path && *path)
        device_path = strdup(path);
}

bool preload_is_device(const char *path)
{
    return path && strcmp(path, device_path) == 0;
}

static bool is_hidden(const char *path)
{
    return path && strncmp(path, device_hidden, sizeof(device_hidden) - 1) == 0;
}

/* The device opened as `flags` say. */
static int open_device(int flags)
{
    if (flags & O_DIRECTORY) {
        errno = ENOTDIR;
        return -1;
    }
    if ((flags & O_CREAT) && (flags & O_EXCL)) {
        errno = EEXIST;
        return -1;
    }
    int fd = kage_backend_soft.open();
    if (fd >= 0 && !(flags & O_CLOEXEC))
        REAL(fcntl)(fd, F_SETFD, 0);
    return fd;
}

/* 0: not ours; else `*fd` is the answer. */
static bool open_ours(const char *path, int flags, int *fd)
{
    if (preload_is_device(path)) {
        *fd = open_device(flags);
        return true;
    }
    if (is_hidden(path)) {
        errno = ENOENT;
        *fd = -1;
        return true;
    }
    return false;
}

static bool has_mode(int flags)
{
    return (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE;
}

#define MODE_OF(flags, mode) \
    mode_t mode = 0; \
    if (has_mode(flags)) { \
        va_list args; \
        va_start(args, flags); \
        mode = va_arg(args, mode_t); \
        va_end(args); \
    }

int preload_open(int dir, const char *path, int flags, mode_t mode)
{
    int fd;

    return open_ours(path, flags, &fd) ? fd : REAL(openat)(dir, path, flags, mode);
}

PRELOAD_EXPORT int open(const char *path, int flags, ...)
{
    int fd;

    MODE_OF(flags, mode)
    return open_ours(path, flags, &fd) ? fd : REAL(open)(path, flags, mode);
}

PRELOAD_EXPORT int open64(const char *path, int flags, ...)
{
    int fd;

    MODE_OF(flags, mode)
    return open_ours(path, flags, &fd) ? fd : REAL(open64)(path, flags, mode);
}

PRELOAD_EXPORT int openat(int dir, const char *path, int flags, ...)
{
    int fd;

    MODE_OF(flags, mode)
    return open_ours(path, flags, &fd) ? fd : REAL(openat)(dir, path, flags, mode);
}

PRELOAD_EXPORT int openat64(int dir, const char *path, int flags, ...)
{
    int fd;

    MODE_OF(flags, mode)
    return open_ours(path, flags, &fd) ? fd : REAL(openat64)(dir, path, flags, mode);
}

PRELOAD_EXPORT int __open_2(const char *path, int flags)
{
    int fd;

    return open_ours(path, flags, &fd) ? fd : REAL(__open_2)(path, flags);
}

PRELOAD_EXPORT int __open64_2(const char *path, int flags)
{
    int fd;

    return open_ours(path, flags, &fd) ? fd : REAL(__open64_2)(path, flags);
}

PRELOAD_EXPORT int __openat_2(int dir, const char *path, int flags)
{
    int fd;

    return open_ours(path, flags, &fd) ? fd : REAL(__openat_2)(dir, path, flags);
}

PRELOAD_EXPORT int __openat64_2(int dir, const char *path, int flags)
{
    int fd;

    return open_ours(path, flags, &fd) ? fd : REAL(__openat64_2)(dir, path, flags);
}

/* ---- access ---- */

static int access_device(int mode)
{
    if (!(mode & X_OK))
        return 0;
    errno = EACCES;
    return -1;
}

PRELOAD_EXPORT int access(const char *path, int mode)
{
    return preload_is_device(path) ? access_device(mode) : REAL(access)(path, mode);
}

PRELOAD_EXPORT int euidaccess(const char *path, int mode)
{
    return preload_is_device(path) ? access_device(mode) : REAL(euidaccess)(path, mode);
}

PRELOAD_EXPORT int eaccess(const char *path, int mode)
{
    return preload_is_device(path) ? access_device(mode) : REAL(eaccess)(path, mode);
}

PRELOAD_EXPORT int faccessat(int dir, const char *path, int mode, int flags)
{
    return preload_is_device(path) ? access_device(mode) : REAL(faccessat)(dir, path, mode, flags);
}

/* ---- stat ---- */

void preload_device_stat(struct stat *st)
{
    memset(st, 0, sizeof(*st));
    st->st_mode = S_IFCHR | 0666;
    st->st_nlink = 1;
    st->st_rdev = DEVICE_NUMBER;
    st->st_blksize = 4096;
}

_Static_assert(sizeof(struct stat) == sizeof(struct stat64), "stat64 is stat on x86-64");

static int stat_device(void *st)
{
    preload_device_stat(st);
    return 0;
}

static bool is_device_fd(int fd)
{
    return kage_handle_kind(fd) == KAGE_HANDLE_SYSTEM;
}

static bool is_device_at(int dir, const char *path, int flags)
{
    return preload_is_device(path) || ((flags & AT_EMPTY_PATH) && path && !*path && is_device_fd(dir));
}

#define STAT_PATH(name, type) \
    PRELOAD_EXPORT int name(const char *path, struct type *st) \
    { \
        return preload_is_device(path) ? stat_device(st) : REAL(name)(path, st); \
    } \
    PRELOAD_EXPORT int __x##name(int version, const char *path, struct type *st) \
    { \
        return preload_is_device(path) ? stat_device(st) : REAL(__x##name)(version, path, st); \
    }
STAT_PATH(stat, stat)
STAT_PATH(stat64, stat64)

#define STAT_LINK(name, old_name, type) \
    PRELOAD_EXPORT int name(const char *path, struct type *st) \
    { \
        return preload_is_device(path) ? stat_device(st) : REAL(name)(path, st); \
    } \
    PRELOAD_EXPORT int old_name(int version, const char *path, struct type *st) \
    { \
        return preload_is_device(path) ? stat_device(st) : REAL(old_name)(version, path, st); \
    }
STAT_LINK(lstat, __lxstat, stat)
STAT_LINK(lstat64, __lxstat64, stat64)

#define STAT_FD(name, old_name, type) \
    PRELOAD_EXPORT int name(int fd, struct type *st) \
    { \
        return is_device_fd(fd) ? stat_device(st) : REAL(name)(fd, st); \
    } \
    PRELOAD_EXPORT int old_name(int version, int fd, struct type *st) \
    { \
        return is_device_fd(fd) ? stat_device(st) : REAL(old_name)(version, fd, st); \
    }
STAT_FD(fstat, __fxstat, stat)
STAT_FD(fstat64, __fxstat64, stat64)

#define STAT_AT(name, old_name, type) \
    PRELOAD_EXPORT int name(int dir, const char *path, struct type *st, int flags) \
    { \
        return is_device_at(dir, path, flags) ? stat_device(st) : REAL(name)(dir, path, st, flags); \
    } \
    PRELOAD_EXPORT int old_name(int version, int dir, const char *path, struct type *st, int flags) \
    { \
        return is_device_at(dir, path, flags) ? stat_device(st) : REAL(old_name)(version, dir, path, st, flags); \
    }
STAT_AT(fstatat, __fxstatat, stat)
STAT_AT(fstatat64, __fxstatat64, stat64)

PRELOAD_EXPORT int statx(int dir, const char *path, int flags, unsigned mask, struct statx *stx)
{
    if (!is_device_at(dir, path, flags))
        return REAL(statx)(dir, path, flags, mask, stx);
    memset(stx, 0, sizeof(*stx));
    stx->stx_mask = STATX_TYPE | STATX_MODE | STATX_NLINK;
    stx->stx_mode = S_IFCHR | 0666;
    stx->stx_nlink = 1;
    stx->stx_blksize = 4096;
    stx->stx_rdev_major = major(DEVICE_NUMBER);
    stx->stx_rdev_minor = minor(DEVICE_NUMBER);
    return 0;
}
