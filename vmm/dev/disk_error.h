/* SPDX-License-Identifier: MIT */
/*
 * What a disk does with a request that the host could not serve: werror= and rerror=, for all kinds of disks.
 */
#ifndef KAGE_DEV_DISK_ERROR_H
#define KAGE_DEV_DISK_ERROR_H

#include "dev/device.h"

enum disk_error_action {
    DISK_ERROR_REPORT, /* the guest sees the error */
    DISK_ERROR_IGNORE, /* the guest is told that all is well */
    DISK_ERROR_STOP,   /* the machine stops, and the request is done again when it goes on */
    DISK_ERROR_ENOSPC, /* that for a full host, else report */
};

struct disk_errors {
    enum disk_error_action werror, rerror; /* writes, flushes, discards; reads */
    const struct run_control *run;         /* NULL: nobody can stop the machine, and errors are reported */
};

/* REPORT, IGNORE or STOP for a request that ended with `result` (-errno). */
enum disk_error_action disk_error_action(const struct disk_errors *errors, bool read, int result);
/* For STOP, once the request is where the disk finds it again. From any thread. */
void disk_error_stop(const struct disk_errors *errors, const char *disk, int result);

#endif
