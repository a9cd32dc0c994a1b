/* SPDX-License-Identifier: MIT */
/*
 * -object iothread: a thread with a loop of its own, for the queues and the images of devices that name it. It runs only while the machine
 * does: what belongs to its loop is added and removed by the main thread, before it starts and after it has ended.
 */
#ifndef KAGE_MACHINE_IOTHREAD_H
#define KAGE_MACHINE_IOTHREAD_H

#include <pthread.h>
#include <stdbool.h>

#include "util/error.h"
#include "util/loop.h"

struct block;
struct device_spec;
struct machine;

struct iothread {
    const char *id;
    struct loop loop;
    pthread_t thread;
    bool running;
};

/* Those of the configuration's objects. 0, or -1 with `error` filled; iothreads_fini() undoes it. */
int iothreads_init(struct machine *machine, struct error *error);
/* With the devices gone. */
void iothreads_fini(struct machine *machine);
/* Around the run of the vCPUs. 0 or -errno. */
int iothreads_start(struct machine *machine);
void iothreads_stop(struct machine *machine);

/* The loop for a device: of the iothread that it names, else the main one. NULL with `error` filled. */
struct loop *iothread_loop(const struct machine *machine, const struct device_spec *spec, struct error *error);
/* The image's callbacks go to that loop while the device is there. 0, or -1 with `error` filled. */
int iothread_attach(struct machine *machine, struct block *block, struct loop *loop, const struct device_spec *spec, struct error *error);

#endif
