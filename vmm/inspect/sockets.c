/* SPDX-License-Identifier: MIT */
/*
 * The directory of sockets, and making one (see sockets.h). The preload library has this file too; find.c looks through the directory.
 */
#include "inspect/sockets.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#define PATIENCE_SECONDS 10
#define BACKLOG 8

bool inspect_directory(unsigned n, uid_t uid, char path[INSPECT_PATH_MAX])
{
    const char *runtime = getenv("XDG_RUNTIME_DIR"), *chosen = getenv("KAGE_INSPECT");
    int length = 0;

    path[0] = '\0';
    if (chosen != NULL && chosen[0] == '/') {
        length = snprintf(path, INSPECT_PATH_MAX, "%s", chosen);
        if (n != 0) {
            return false;
        }
    } else if (n == 0 && runtime != NULL && runtime[0] == '/' && uid == geteuid()) {
        length = snprintf(path, INSPECT_PATH_MAX, "%s/kage", runtime);
    } else if (n == 1) {
        length = snprintf(path, INSPECT_PATH_MAX, "/run/user/%u/kage", (unsigned)uid);
    } else if (n == 2) {
        length = snprintf(path, INSPECT_PATH_MAX, "/tmp/kage-%u", (unsigned)uid);
    }
    if (length + sizeof("/4194304.sock") > INSPECT_PATH_MAX) {
        path[0] = '\0';
    }
    return n <= 2;
}

bool inspect_is_private(const char *path, uid_t uid)
{
    struct stat st;
    return lstat(path, &st) == 0 && S_ISDIR(st.st_mode) && st.st_uid == uid && (st.st_mode & 077) == 0;
}

static bool address_of(struct sockaddr_un *address, const char *path)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    size_t length = strlen(path);
    if (length >= sizeof(address->sun_path)) {
        errno = ENAMETOOLONG;
        return false;
    }
    memcpy(address->sun_path, path, length + 1);
    return true;
}

static int listen_at(const char *path)
{
    struct sockaddr_un address;
    if (!address_of(&address, path)) {
        return -1;
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return -1;
    }
    unlink(path);
    if (bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0 && chmod(path, 0600) == 0 && listen(fd, BACKLOG) == 0) {
        return fd;
    }
    int saved = errno;
    close(fd);
    unlink(path);
    errno = saved;
    return -1;
}

int inspect_listen(char path[INSPECT_PATH_MAX])
{
    uid_t uid = geteuid();
    char dir[INSPECT_PATH_MAX];

    errno = ENOENT;
    for (unsigned n = 0; inspect_directory(n, uid, dir); n++) {
        if (dir[0] == '\0' || (mkdir(dir, 0700) != 0 && errno != EEXIST) || !inspect_is_private(dir, uid)) {
            continue;
        }
        if (snprintf(path, INSPECT_PATH_MAX, "%s/%d.sock", dir, (int)getpid()) >= (int)INSPECT_PATH_MAX) {
            continue;
        }
        int fd = listen_at(path);
        if (fd >= 0) {
            return fd;
        }
    }
    return -1;
}

int inspect_connect(const char *path)
{
    const struct timeval patience = {.tv_sec = PATIENCE_SECONDS};
    struct sockaddr_un address;
    if (!address_of(&address, path)) {
        return -1;
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return -1;
    }
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0) {
        return fd;
    }
    int saved = errno;
    close(fd);
    errno = saved;
    return -1;
}
