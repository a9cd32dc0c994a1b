/* SPDX-License-Identifier: MIT */
/*
 * The side of a VM's process: a thread that answers `kage inspect` for the VMs of the soft back end in this process. It has all signals
 * blocked but those of its own faults, and a descriptor table of its own: the process' descriptors are not its, nor its the
 * process'. A child of fork(2) has neither.
 */
#ifndef KAGE_INSPECT_SERVER_H
#define KAGE_INSPECT_SERVER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "inspect/sockets.h"

struct inspect_server {
    pthread_t thread;
    atomic_bool stopping, listening; /* listening: `path` is there */
    bool started;
    pid_t pid;
    char path[INSPECT_PATH_MAX];
};

/*
 * The storage is the thread's until the stop. A host that refuses, or KAGE_INSPECT=0 in the environment (a path is the sockets' directory),
 * leaves the VM without.
 */
void inspect_server_start(struct inspect_server *server);
void inspect_server_stop(struct inspect_server *server);
/* At the process' end, the thread running: removes the socket. */
void inspect_server_remove(struct inspect_server *server);

#endif
