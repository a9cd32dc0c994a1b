/* SPDX-License-Identifier: MIT */
/*
 * `kage inspect` of a client: the same thread as in `kage run` (vmm/inspect/server.h), from the first VM of the process on. It has none of
 * the client's signals and descriptors. A forked child that makes a VM of its own starts its own.
 */
#include "real.h"

#include <errno.h>

#include "inspect/server.h"

static struct inspect_server server;
static _Atomic pid_t served; /* the process that it was started in */

void preload_inspect_start(void)
{
    pid_t before = atomic_load(&served), self = getpid();
    int saved = errno;

    if (before != self && atomic_compare_exchange_strong(&served, &before, self))
        inspect_server_start(&server);
    errno = saved;
}

/* Others may still run: the thread goes with the process. */
__attribute__((destructor)) static void preload_inspect_end(void)
{
    inspect_server_remove(&server);
}
