/* SPDX-License-Identifier: MIT */
/*
 * Monitors: QMP and the human one (HMP), each on a character backend. They live as long as the process, while machines come and go with
 * resets under them. On the main loop's thread.
 */
#ifndef KAGE_MONITOR_MONITOR_H
#define KAGE_MONITOR_MONITOR_H

#include <stdbool.h>

#include "chardev/chardev.h"
#include "machine/machine.h"
#include "util/error.h"
#include "util/loop.h"

struct monitor;

enum monitor_mode { MONITOR_CONTROL, MONITOR_READLINE };

/* What monitors look into and act on: one for the process, cli's. */
struct monitor_vm {
    struct loop *loop;
    struct machine_config *config;
    struct machine *machine; /* NULL: there is none at the moment */
    const char *name;        /* -name; NULL: none */
    const char *uuid;        /* -uuid, canonical; NULL: none */
    void (*quit)(void *opaque);
    void *opaque;
};

/* The list of all monitors, and the events to them. `vm` outlives it. 0, or -1 with `error` filled. */
int monitors_init(struct monitor_vm *vm, struct error *error);
/* Sends the events that wait, and frees all. Before their character backends go. */
void monitors_fini(void);

/* A monitor on `chardev`, which outlives it. NULL with `error` filled. */
struct monitor *monitor_new(struct monitor_vm *vm, struct chardev *chardev, enum monitor_mode mode, bool pretty, struct error *error);
void monitor_free(struct monitor *monitor);

#endif
