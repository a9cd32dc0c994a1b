/* SPDX-License-Identifier: MIT */
/*
 * Character backends: where a serial port's, a monitor's or a debugger's bytes go to and come from. Writing and reading never
 * block: bytes wait in two rings, and the main loop moves them to and from the host. Written bytes are
 * gathered for a millisecond, so that a console line costs one system call and not one a byte.
 *
 * A backend serves one front end, which claims it. A mux serves several: all write to it, the one that has the focus reads. Each has a
 * struct chardev of its own to do so.
 *
 * A backend outlives machines: the front end of a device claims it when the device is built, and releases it when it is freed.
 */
#ifndef KAGE_CHARDEV_CHARDEV_H
#define KAGE_CHARDEV_CHARDEV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "chardev/config.h"
#include "util/error.h"
#include "util/loop.h"

struct chardev;

/* Bytes have come, or there is room again. Called on the loop's thread, without the backend's lock. */
typedef void chardev_notify_fn(void *opaque);

/* Looks at a byte from the host before a front end does: for escape keys. False: it goes no further. May move the focus. */
typedef bool chardev_filter_fn(void *opaque, uint8_t byte);

/* ---- Life, on the loop's thread ---- */

/*
 * NULL with `error` filled, in QEMU's words. A server that waits for its client does so here. `config` is copied.
 */
struct chardev *chardev_open(const struct chardev_config *config, struct loop *loop, struct error *error);
/* Writes out what waits, for at most a second, then closes; a mux's front ends go too. */
void chardev_free(struct chardev *chardev);

/* From a short form, with the option's name in errors, and claimed. `option` is the id too, without its dash. */
struct chardev *chardev_new(const char *option, const char *spec, struct loop *loop, struct error *error);
/* Is `spec` a short form? For checking a command line before anything starts. */
bool chardev_spec_valid(const char *spec);
/* Does `spec` use the terminal? */
bool chardev_spec_is_stdio(const char *spec);

/* For one more front end: the backend itself, or of a mux the front's own. NULL with `error` filled: in use. */
struct chardev *chardev_claim(struct chardev *backend, struct error *error);
/* Of what chardev_claim() gave. Its callbacks are forgotten; a mux keeps the place, and its focus, for the next that claims. */
void chardev_release(struct chardev *front);
bool chardev_is_claimed(const struct chardev *backend);

/* ---- What is told, on the loop's thread, without the backend's lock ---- */

/* The other end has come (`open`), or gone. */
typedef void chardev_open_fn(void *opaque, bool open);
/* The front end gets what is typed from now on, or no longer. */
typedef void chardev_focus_fn(void *opaque, bool focus);

void chardev_attach(struct chardev *chardev, chardev_notify_fn *notify, void *opaque);
/* Of what happens from here on; what is already so, chardev_is_open() says (on the loop's thread). NULL: nobody is told. */
void chardev_on_open(struct chardev *chardev, chardev_open_fn *opened, void *opaque);
bool chardev_is_open(const struct chardev *chardev);
/* A front end that is not of a mux always has the focus and hears nothing. */
void chardev_on_focus(struct chardev *chardev, chardev_focus_fn *focused, void *opaque);
bool chardev_has_focus(const struct chardev *chardev);
/* The next front end of a mux has the focus, round and round. `backend`, or any front end of it. */
void chardev_focus_next(struct chardev *backend);
/* Of the backend: before any front end. */
void chardev_set_filter(struct chardev *backend, chardev_filter_fn *filter, void *opaque);

/* ---- Bytes, from any thread ---- */

/* False: no room; the notification tells when there is. */
bool chardev_write(struct chardev *chardev, uint8_t byte);
/* How many of the bytes it took, all of them where nobody is at the other end; if not all, the notification tells when there is room. */
size_t chardev_write_bytes(struct chardev *chardev, const uint8_t *bytes, size_t count);
/* Returns how many bytes it gave. */
size_t chardev_read(struct chardev *chardev, uint8_t *bytes, size_t room);
/* The descriptor that came last with bytes of a unix socket (SCM_RIGHTS), the caller's from now on; -1: none. On the loop's thread. */
int chardev_take_fd(struct chardev *chardev);

/* ---- What else QMP asks ---- */

const char *chardev_id(const struct chardev *chardev);
/* query-chardev's filename: "pty:/dev/pts/3", "unix:/path,server=on", …. */
const char *chardev_filename(const struct chardev *chardev);
bool chardev_is_mux(const struct chardev *chardev);
/* Hangs up on the other end, as if it had left. */
void chardev_hang_up(struct chardev *chardev);
/* ringbuf-read and ringbuf-write: -1 where it is no ringbuf; else how many bytes moved. Writing overwrites the oldest. */
int64_t chardev_ringbuf_read(struct chardev *chardev, uint8_t *bytes, size_t room);
int64_t chardev_ringbuf_write(struct chardev *chardev, const uint8_t *bytes, size_t count);

#endif
