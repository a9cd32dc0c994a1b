/* SPDX-License-Identifier: MIT */
/*
 * Character backends: where a serial port's bytes go to and come from. Writing and reading never
 * block: bytes wait in two rings, and the main loop moves them to and from the host. Written bytes are
 * gathered for a millisecond, so that a console line costs one system call and not one a byte.
 *
 * Specifications, as in QEMU's -serial: null, none, stdio, mon:stdio, file:PATH, pty,
 * unix:PATH[,server=on|off][,wait=on|off] (also the short forms server, nowait).
 */
#ifndef KAGE_CHARDEV_CHARDEV_H
#define KAGE_CHARDEV_CHARDEV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/error.h"
#include "util/loop.h"

struct chardev;

/* Bytes have come, or there is room again. Called on the loop's thread, without the backend's lock. */
typedef void chardev_notify_fn(void *opaque);

/* Looks at bytes from the host before the guest does; keeps `*count` of them in place. For the escape keys of mon:stdio. */
typedef void chardev_filter_fn(void *opaque, uint8_t *bytes, size_t *count);

/* Is `spec` one that chardev_new() knows? For checking a command line before anything starts. */
bool chardev_spec_valid(const char *spec);
/* Does `spec` use the terminal? */
bool chardev_spec_is_stdio(const char *spec);

/* NULL with `error` filled. `option` is what asked for it, as errors name it. Both it and `loop` outlive the backend. A unix socket that waits for its client does so here. */
struct chardev *chardev_new(const char *option, const char *spec, struct loop *loop, struct error *error);
/* Writes out what waits, for at most a second, then closes. */
void chardev_free(struct chardev *chardev);

/* The other end has come (`open`), or gone. On the loop's thread, without the backend's lock. */
typedef void chardev_open_fn(void *opaque, bool open);

void chardev_attach(struct chardev *chardev, chardev_notify_fn *notify, void *opaque);
/* Of what happens from here on; what is already so, chardev_is_open() says (on the loop's thread). NULL: nobody is told. */
void chardev_on_open(struct chardev *chardev, chardev_open_fn *opened, void *opaque);
bool chardev_is_open(const struct chardev *chardev);
void chardev_set_filter(struct chardev *chardev, chardev_filter_fn *filter, void *opaque);

/* From any thread. False: no room; the notification tells when there is. */
bool chardev_write(struct chardev *chardev, uint8_t byte);
/* From any thread. How many of the bytes it took, all of them where nobody is at the other end; if not all, the notification tells when there is room. */
size_t chardev_write_bytes(struct chardev *chardev, const uint8_t *bytes, size_t count);
/* From any thread. Returns how many bytes it gave. */
size_t chardev_read(struct chardev *chardev, uint8_t *bytes, size_t room);
/* The descriptor that came last with bytes of a unix socket (SCM_RIGHTS), the caller's from now on; -1: none. On the loop's thread. */
int chardev_take_fd(struct chardev *chardev);

#endif
