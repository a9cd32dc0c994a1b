/* SPDX-License-Identifier: MIT */
/*
 * Devices for small test kernels and for firmware's messages:
 *   debugcon     a byte written goes to a character backend and, line by line, to the log; reads give 0xE9
 *   pvpanic      (QEMU, docs/specs/pvpanic) a guest says that it has panicked
 *   pc-testdev   ports that keep what was written, one that raises interrupt lines, and memory
 */
#ifndef KAGE_DEV_TESTDEV_H
#define KAGE_DEV_TESTDEV_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "chardev/chardev.h"
#include "dev/device.h"

#define DEBUGCON_LINE_MAX 160u

struct debugcon {
    pthread_mutex_t lock;
    struct chardev *chardev; /* NULL: the log only */
    unsigned length;
    char line[DEBUGCON_LINE_MAX];
};

extern const struct device_ops debugcon_ops; /* one port */
void debugcon_init(struct debugcon *debugcon, struct chardev *chardev);
void debugcon_fini(struct debugcon *debugcon);

struct pvpanic {
    struct power power;
    atomic_uint said; /* events that came before */
};

extern const struct device_ops pvpanic_ops; /* one port */

#define TESTDEV_IO_PORT 0xe0u  /* four bytes, in words of any size */
#define TESTDEV_FLUSH_PORT 0xe4u
#define TESTDEV_BYTE_PORT 0xe8u /* the same four bytes, byte by byte */
#define TESTDEV_IRQ_PORT 0x2000u
#define TESTDEV_IRQS 24u
#define TESTDEV_MEM_GPA 0xff000000u
#define TESTDEV_MEM_BYTES 0x10000u

struct testdev {
    pthread_mutex_t lock;
    struct irq irq; /* `line` is added to it */
    uint8_t io[4];
    uint8_t memory[TESTDEV_MEM_BYTES];
};

extern const struct device_ops testdev_io_ops, testdev_flush_ops, testdev_irq_ops, testdev_mem_ops;
void testdev_init(struct testdev *testdev, const struct irq *irq);
void testdev_fini(struct testdev *testdev);

#endif
