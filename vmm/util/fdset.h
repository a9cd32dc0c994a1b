/* SPDX-License-Identifier: MIT */
/*
 * Descriptors that the process has been given (-add-fd, QMP's add-fd), in numbered sets. A path /dev/fdset/N opens the one of set N
 * whose access fits. On the main loop's thread.
 */
#ifndef KAGE_UTIL_FDSET_H
#define KAGE_UTIL_FDSET_H

#include <sys/types.h>

#include "util/error.h"

/* `fd` is the set's from now on. 0, or -1 with `error` filled. */
int fdset_add(unsigned set, int fd, struct error *error);
/* open(2), but of /dev/fdset/N a duplicate of the set's. */
int fdset_open(const char *path, int flags, mode_t mode);

#endif
