/* SPDX-License-Identifier: MIT */
/*
 * Image locks. Byte 100 + n is read-locked by who uses permission n, byte 200 + n by who does not let others use it; whoever
 * finds the other side of one of his bytes taken, gives up. Read locks only, so that any number may hold them; the test is for a write lock.
 */
#include "block/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>

#define LOCK_PERM_BASE 100
#define LOCK_SHARED_BASE 200

enum { PERM_CONSISTENT_READ, PERM_WRITE, PERM_WRITE_UNCHANGED, PERM_RESIZE, PERM_COUNT };

static const char *const lock_names[PERM_COUNT] = {"consistent read", "write", "write unchanged", "resize"};

static int lock_take(int fd, int64_t byte)
{
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    return fcntl(fd, F_OFD_SETLK, &lock) == 0 ? 0 : -errno;
}

/* Whether somebody else has it. */
static int lock_test(int fd, int64_t byte)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    if (fcntl(fd, F_OFD_GETLK, &lock) != 0) {
        return -errno;
    }
    return lock.l_type == F_UNLCK ? 0 : -EAGAIN;
}

static bool lock_unsupported(int result)
{
    return result == -EINVAL || result == -ENOLCK || result == -ENOSYS || result == -EOPNOTSUPP;
}

static int lock_refused(int result, const char *shared, const char *filename, int perm, struct error *error)
{
    error_set(error, "Failed to get %s\"%s\" lock: is another process using the image [%s]?", shared, lock_names[perm], filename);
    return result == -EAGAIN || result == -EACCES ? -EBUSY : result;
}

int lock_image(int fd, const char *filename, bool writable, struct error *error)
{
    uint32_t uses = 1u << PERM_CONSISTENT_READ | (writable ? 1u << PERM_WRITE | 1u << PERM_RESIZE : 0);
    uint32_t denies = 1u << PERM_WRITE | 1u << PERM_RESIZE;
    for (int perm = 0; perm < PERM_COUNT; perm++) {
        int result = uses >> perm & 1 ? lock_take(fd, LOCK_PERM_BASE + perm) : 0;
        if (result == 0 && (denies >> perm & 1)) {
            result = lock_take(fd, LOCK_SHARED_BASE + perm);
        }
        if (lock_unsupported(result)) {
            return 0;
        }
        if (result != 0) {
            return lock_refused(result, "", filename, perm, error);
        }
    }
    for (int perm = 0; perm < PERM_COUNT; perm++) {
        int result = uses >> perm & 1 ? lock_test(fd, LOCK_SHARED_BASE + perm) : 0;
        if (result != 0) {
            return lock_refused(result, "", filename, perm, error);
        }
        result = denies >> perm & 1 ? lock_test(fd, LOCK_PERM_BASE + perm) : 0;
        if (result != 0) {
            return lock_refused(result, "shared ", filename, perm, error);
        }
    }
    return 0;
}
