/* SPDX-License-Identifier: MIT */
#include "machine/iothread.h"

#include <stdlib.h>
#include <string.h>

#include "block/block.h"
#include "machine/machine.h"
#include "util/thread.h"

static void *iothread_run(void *opaque)
{
    struct iothread *iothread = opaque;
    loop_run(&iothread->loop);
    return NULL;
}

int iothreads_init(struct machine *machine, struct error *error)
{
    const struct machine_config *config = machine->config;
    machine->iothreads = calloc(config->lists->object_count + 1, sizeof(machine->iothreads[0]));
    if (machine->iothreads == NULL) {
        return error_set(error, "-object iothread: no memory");
    }
    for (unsigned i = 0; i < config->lists->object_count; i++) {
        if (strcmp(config->lists->objects[i]->model->name, "iothread") != 0) {
            continue;
        }
        struct iothread *iothread = &machine->iothreads[machine->iothread_count];
        int result = loop_init(&iothread->loop);
        if (result != 0) {
            return error_set(error, "-object iothread: %s", strerror(-result));
        }
        iothread->id = config->lists->objects[i]->values.id;
        machine->iothread_count++;
    }
    return 0;
}

void iothreads_fini(struct machine *machine)
{
    const struct machine_config *config = machine->config;
    for (unsigned i = 0; i < config->lists->drive_count && machine->iothread_count != 0; i++) {
        struct drive *drive = config->lists->drives[i];
        if (drive->block != NULL && drive->attached_elsewhere) {
            block_attach(drive->block, config->loop);
            drive->attached_elsewhere = false;
        }
    }
    for (unsigned i = 0; i < machine->iothread_count; i++) {
        loop_fini(&machine->iothreads[i].loop);
    }
    machine->iothread_count = 0;
    free(machine->iothreads);
    machine->iothreads = NULL;
}

int iothreads_start(struct machine *machine)
{
    for (unsigned i = 0; i < machine->iothread_count; i++) {
        struct iothread *iothread = &machine->iothreads[i];
        int result = thread_start(&iothread->thread, iothread_run, iothread);
        if (result != 0) {
            return -result;
        }
        iothread->running = true;
    }
    return 0;
}

void iothreads_stop(struct machine *machine)
{
    for (unsigned i = 0; i < machine->iothread_count; i++) {
        struct iothread *iothread = &machine->iothreads[i];
        if (iothread->running) {
            loop_stop(&iothread->loop);
            pthread_join(iothread->thread, NULL);
            iothread->running = false;
        }
    }
}

struct loop *iothread_loop(const struct machine *machine, const struct device_spec *spec, struct error *error)
{
    const char *id = spec->values.iothread;
    for (unsigned i = 0; i < machine->iothread_count; i++) {
        if (strcmp(machine->iothreads[i].id, id) == 0) {
            return &machine->iothreads[i].loop;
        }
    }
    if (id[0] != '\0') {
        error_set(error, "iothread=%s: Device '%s' not found", id, id);
        return NULL;
    }
    return machine->config->loop;
}

int iothread_attach(struct machine *machine, struct block *block, struct loop *loop, const struct device_spec *spec, struct error *error)
{
    if (loop == machine->config->loop) {
        return 0;
    }
    int result = block_attach(block, loop);
    if (result != 0) {
        return error_set(error, "its image cannot go to an iothread: %s", strerror(-result));
    }
    for (unsigned i = 0; i < machine->config->lists->drive_count; i++) {
        struct drive *drive = machine->config->lists->drives[i];
        drive->attached_elsewhere = drive->attached_elsewhere || drive->block == block;
    }
    return 0;
}
