/* SPDX-License-Identifier: MIT */
/*
 * Where the sockets of running VMs are: DIR/PID.sock, DIR being the first of $XDG_RUNTIME_DIR/kage, /run/user/UID/kage and
 * /tmp/kage-UID that can be had, or the one that the environment's KAGE_INSPECT names. A directory counts only if it is the
 * user's own and nobody else may enter it.
 */
#ifndef KAGE_INSPECT_SOCKETS_H
#define KAGE_INSPECT_SOCKETS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <sys/un.h>

#define INSPECT_PATH_MAX sizeof(((struct sockaddr_un *)0)->sun_path)

/* The directory number n that sockets of the user may be in; false: there are no more. "": not one in this process. */
bool inspect_directory(unsigned n, uid_t uid, char path[INSPECT_PATH_MAX]);
/* A directory of the user's that nobody else may enter. */
bool inspect_is_private(const char *path, uid_t uid);

/* Makes this process' socket, listening, in place of one that an earlier process of that number left. A descriptor, or -1 and errno. */
int inspect_listen(char path[INSPECT_PATH_MAX]);
/* Connected, with ten seconds' patience in each direction, or -1 and errno. */
int inspect_connect(const char *path);

/* ---- find.c ---- */

/* Calls fn for every VM of the user that answers, ascending by directory only; dead sockets are removed. */
void inspect_each(uid_t uid, void (*fn)(void *opaque, pid_t pid, const char *path), void *opaque);
/* The path of a process' socket, of whichever user; false: it has none. */
bool inspect_find(pid_t pid, char path[INSPECT_PATH_MAX]);

#endif
