/* SPDX-License-Identifier: MIT */
/*
 * The keyboard controller (Intel 8042, as in the PC/AT) with nothing plugged in, or with a keyboard that nobody types on: there for
 * its output port, which resets the processor. A driver that probes it is answered at once, so that it need not wait for a time-out. Registers: offset 0 data (port 0x60), offset 4 status and command (port 0x64).
 */
#ifndef KAGE_DEV_I8042_H
#define KAGE_DEV_I8042_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "dev/device.h"

#define I8042_QUEUE 4u

struct i8042 {
    pthread_mutex_t lock;
    struct irq irq;
    struct power power;
    uint8_t status;      /* without SYS and CMD/DATA */
    uint8_t data;        /* the output buffer */
    uint8_t ctr;         /* command byte, byte 0 of the controller's RAM */
    uint8_t output_port;
    uint8_t command;     /* waits for its parameter on the data port; 0: none */
    bool last_was_command;
    bool irq_level;
    bool keyboard; /* there is one: firmware that finds none looks for it for seconds */
    uint8_t keyboard_command; /* waits for its parameter; 0: none */
    uint8_t queue[I8042_QUEUE], queued; /* what the keyboard says when the output buffer is free */
};

extern const struct device_ops i8042_data_ops;
extern const struct device_ops i8042_command_ops;

void i8042_init(struct i8042 *i8042, const struct irq *irq, const struct power *power);
void i8042_reset(struct i8042 *i8042);
void i8042_fini(struct i8042 *i8042);

#endif
