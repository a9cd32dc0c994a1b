/* SPDX-License-Identifier: MIT */
#include "util/fdset.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FDSET_MAX 64u

static struct {
    unsigned set;
    int fd;
} fdsets[FDSET_MAX];
static unsigned fdset_count;

int fdset_add(unsigned set, int fd, struct error *error)
{
    if (fcntl(fd, F_GETFD) < 0) {
        return error_set(error, "fd %d: %s", fd, strerror(errno));
    }
    if (fdset_count == FDSET_MAX) {
        return error_set(error, "more than %u descriptors in sets", FDSET_MAX);
    }
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    fdsets[fdset_count].set = set;
    fdsets[fdset_count++].fd = fd;
    return 0;
}

int fdset_open(const char *path, int flags, mode_t mode)
{
    static const char prefix[] = "/dev/fdset/";
    if (strncmp(path, prefix, sizeof(prefix) - 1) != 0) {
        return open(path, flags, mode);
    }
    char *end;
    unsigned long set = strtoul(path + sizeof(prefix) - 1, &end, 10);
    for (unsigned i = 0; i < fdset_count && *end == '\0'; i++) {
        int has = fcntl(fdsets[i].fd, F_GETFL);
        if (fdsets[i].set == set && has >= 0 && ((has & O_ACCMODE) == O_RDWR || (has & O_ACCMODE) == (flags & O_ACCMODE))) {
            int fd = fcntl(fdsets[i].fd, F_DUPFD_CLOEXEC, 3);
            if (fd >= 0 && (flags & O_NONBLOCK) != 0) {
                fcntl(fd, F_SETFL, has | O_NONBLOCK);
            }
            return fd;
        }
    }
    errno = EACCES; /* QEMU's answer to a set without a fitting descriptor */
    return -1;
}
