/* SPDX-License-Identifier: MIT */
/*
 * The console device (virtio 1.2, 5.3) with several ports: consoles (hvc0 in Linux) and plain channels with a name, each in front of a
 * character backend.
 */
#ifndef KAGE_VIRTIO_CONSOLE_H
#define KAGE_VIRTIO_CONSOLE_H

#include "chardev/chardev.h"
#include "virtio/virtio.h"

#define VIRTIO_CONSOLE_PORTS_MAX 31u
#define VIRTIO_CONSOLE_NAME_MAX 64u

struct virtio_console;

/* `max_ports`: 1 to VIRTIO_CONSOLE_PORTS_MAX. NULL with `error` filled. */
struct virtio_console *virtio_console_new(const struct virtio_options *options, unsigned max_ports, struct loop *loop, const struct dma *dma,
                                          struct error *error);
void virtio_console_free(struct virtio_console *console);
struct virtio_device *virtio_console_device(struct virtio_console *console);

/*
 * Before the guest runs. `number`: of the port, -1: the first that is free (port 0 is for a console). `name`: "" for none. `chardev`: claimed, and released with the port; NULL: what
 * is written is lost. 0; -EEXIST; -ENOSPC.
 */
int virtio_console_add_port(struct virtio_console *console, int number, bool is_console, const char *name, struct chardev *chardev);

#endif
