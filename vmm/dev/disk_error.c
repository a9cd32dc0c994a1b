/* SPDX-License-Identifier: MIT */
#include "dev/disk_error.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum disk_error_action disk_error_action(const struct disk_errors *errors, bool read, int result)
{
    enum disk_error_action action = read ? errors->rerror : errors->werror;
    if (action == DISK_ERROR_ENOSPC) {
        action = result == -ENOSPC ? DISK_ERROR_STOP : DISK_ERROR_REPORT;
    }
    return action == DISK_ERROR_STOP && errors->run == NULL ? DISK_ERROR_REPORT : action;
}

void disk_error_stop(const struct disk_errors *errors, const char *disk, int result)
{
    char text[160];
    snprintf(text, sizeof(text), "%.100s: %s", disk, strerror(-result));
    errors->run->stop(errors->run->opaque, RUN_STATE_IO_ERROR, text);
}
