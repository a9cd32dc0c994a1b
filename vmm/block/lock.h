/* SPDX-License-Identifier: MIT */
/*
 * Locks that keep two programs from one image: OFD locks on single bytes of the file, the ones QEMU takes (block/file-posix.c there says
 * which), so that QEMU and Kage keep each other out.
 */
#ifndef KAGE_BLOCK_LOCK_H
#define KAGE_BLOCK_LOCK_H

#include <stdbool.h>

#include "util/error.h"

/* The locks go with the file description. A file system that has no locks is none of our business: 0. 0, or -errno with `error` filled. */
int lock_image(int fd, const char *filename, bool writable, struct error *error);

#endif
