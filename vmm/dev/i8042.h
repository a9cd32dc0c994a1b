/* SPDX-License-Identifier: MIT */
/*
 * The keyboard controller (Intel 8042, as in the PC/AT; IBM PS/2 Hardware Interface Technical Reference) with a keyboard and a mouse (dev/ps2.h),
 * or with nothing plugged in: then it is there for its output port, which resets the processor, and a driver that probes it is answered at once, so
 * that it need not wait for a time-out. Registers: offset 0 data (port 0x60), offset 4 status and command (port 0x64).
 *
 *   user -> hub -> sink -> ps2 ... its bytes, translated -> output buffer -> IRQ 1 or 12
 */
#ifndef KAGE_DEV_I8042_H
#define KAGE_DEV_I8042_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "dev/device.h"
#include "dev/ps2.h"

enum { I8042_KEYBOARD, I8042_MOUSE, I8042_PORTS };

struct i8042 {
    pthread_mutex_t lock; /* of the devices too */
    struct irq irqs[I8042_PORTS];
    struct power power;
    uint8_t status;      /* without SYS and CMD/DATA */
    uint8_t data;        /* the output buffer */
    uint8_t ctr;         /* command byte, byte 0 of the controller's RAM */
    uint8_t output_port;
    uint8_t command;     /* waits for its parameter on the data port; 0: none */
    bool last_was_command;
    bool irq_level[I8042_PORTS];
    bool break_prefix; /* the keyboard has said that what comes is a break code; translation */
    bool devices;      /* something is plugged in: firmware that finds nothing looks for it for seconds */
    bool from_device[I8042_PORTS]; /* the output buffer holds a byte of it */
    bool held[I8042_PORTS];        /* a byte that an answer of the controller's own took the buffer from */
    uint8_t held_data[I8042_PORTS];
    struct ps2_keyboard keyboard;
    struct ps2_mouse mouse;
    struct input_hub *hub; /* NULL: nobody types */
    struct input_sink sinks[I8042_PORTS];
};

extern const struct device_ops i8042_data_ops;
extern const struct device_ops i8042_command_ops;

/* `irqs`: I8042_PORTS. Nothing is plugged in. */
void i8042_init(struct i8042 *i8042, const struct irq *irqs, const struct power *power);
/* A keyboard and a mouse; `hub` NULL: that nobody touches. Before a guest runs, on the loop's thread. */
void i8042_plug(struct i8042 *i8042, struct input_hub *hub);
void i8042_reset(struct i8042 *i8042);
/* On the loop's thread. */
void i8042_fini(struct i8042 *i8042);

#endif
