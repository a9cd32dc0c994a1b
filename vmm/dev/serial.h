/* SPDX-License-Identifier: MIT */
/*
 * A serial port: the 16550A between a bus, an interrupt line and a character backend.
 */
#ifndef KAGE_DEV_SERIAL_H
#define KAGE_DEV_SERIAL_H

#include <pthread.h>

#include "chardev/chardev.h"
#include "dev/device.h"
#include "dev/uart16550.h"

struct serial {
    pthread_mutex_t lock; /* taken before the character backend's */
    struct uart16550 uart;
    struct chardev *chardev;
    struct irq irq;
};

extern const struct device_ops serial_ops;

/* `chardev` stays the caller's and outlives the port. */
void serial_init(struct serial *serial, struct chardev *chardev, const struct irq *irq);
void serial_fini(struct serial *serial);

#endif
