/* SPDX-License-Identifier: MIT */
/*
 * The main loop: one epoll set that the main thread waits on. Sources live in their owner's storage.
 * Sources are added and removed, and callbacks run, on the loop's thread only; loop_stop() and
 * loop_watch() may be called from any thread.
 */
#ifndef KAGE_UTIL_LOOP_H
#define KAGE_UTIL_LOOP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct loop_source {
    int fd;                                        /* -1: not in a loop */
    void (*ready)(void *opaque, uint32_t events); /* EPOLL* bits; errors and hang-ups come unasked */
    void *opaque;
};

struct loop {
    int epoll_fd;
    struct loop_source wake; /* an eventfd */
    atomic_bool stopped;
};

int loop_init(struct loop *loop);  /* 0 or -errno */
void loop_fini(struct loop *loop);

/* 0 or -errno; -EPERM: the file is always ready (a regular file) and cannot be waited on. */
int loop_add(struct loop *loop, struct loop_source *source, uint32_t events);
void loop_watch(struct loop *loop, struct loop_source *source, uint32_t events);
void loop_remove(struct loop *loop, struct loop_source *source);

/* Serves sources until loop_stop(); a stop that came before counts. 0 or -errno. */
int loop_run(struct loop *loop);
void loop_stop(struct loop *loop);

#endif
