/* SPDX-License-Identifier: MIT */
/*
 * The C library's functions as pointers: for the files that define functions of those names.
 */
#ifndef KAGE_PRELOAD_REAL_H
#define KAGE_PRELOAD_REAL_H

#include <grp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <unistd.h>

#include "preload.h"

struct preload_reals {
#define PRELOAD_MEMBER(name) __typeof__(&name) name##_;
    PRELOAD_REALS(PRELOAD_MEMBER)
#undef PRELOAD_MEMBER
};

#define REAL(name) (preload_real()->name##_)

#endif
