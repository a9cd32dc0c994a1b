/* SPDX-License-Identifier: MIT */
/*
 * Finding the sockets of running VMs (see sockets.h).
 */
#include "inspect/sockets.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* "PID.sock", as inspect_listen() writes it: the PID, or 0. */
static pid_t pid_of(const char *name)
{
    char *end;
    long pid = name[0] >= '1' && name[0] <= '9' ? strtol(name, &end, 10) : 0;
    return pid > 0 && pid <= 4194304 && strcmp(end, ".sock") == 0 ? (pid_t)pid : 0;
}

/* Somebody listens. One that nobody listens on any more is removed. */
static bool answers(const char *path)
{
    int fd = inspect_connect(path);
    if (fd >= 0) {
        close(fd);
        return true;
    }
    if (errno == ECONNREFUSED) {
        unlink(path);
    }
    return false;
}

void inspect_each(uid_t uid, void (*fn)(void *opaque, pid_t pid, const char *path), void *opaque)
{
    char dir[INSPECT_PATH_MAX], path[INSPECT_PATH_MAX], seen[INSPECT_PATH_MAX] = "";

    for (unsigned n = 0; inspect_directory(n, uid, dir); n++) {
        DIR *entries = dir[0] != '\0' && strcmp(dir, seen) != 0 && inspect_is_private(dir, uid) ? opendir(dir) : NULL;
        if (entries == NULL) {
            continue;
        }
        if (n == 0) {
            memcpy(seen, dir, sizeof(seen)); /* $XDG_RUNTIME_DIR is mostly the second one */
        }
        for (struct dirent *entry; (entry = readdir(entries)) != NULL;) {
            pid_t pid = pid_of(entry->d_name);
            if (pid != 0 && snprintf(path, sizeof(path), "%s/%d.sock", dir, (int)pid) < (int)sizeof(path) && answers(path)) {
                fn(opaque, pid, path);
            }
        }
        closedir(entries);
    }
}

bool inspect_find(pid_t pid, char path[INSPECT_PATH_MAX])
{
    char proc[40], dir[INSPECT_PATH_MAX];
    struct stat st;

    snprintf(proc, sizeof(proc), "/proc/%d", (int)pid);
    uid_t uid = stat(proc, &st) == 0 ? st.st_uid : geteuid();
    for (unsigned n = 0; inspect_directory(n, uid, dir); n++) {
        if (dir[0] != '\0' && inspect_is_private(dir, uid) &&
            snprintf(path, INSPECT_PATH_MAX, "%s/%d.sock", dir, (int)pid) < (int)INSPECT_PATH_MAX && access(path, F_OK) == 0) {
            return true;
        }
    }
    return false;
}
