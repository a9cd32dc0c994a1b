/* SPDX-License-Identifier: MIT */
#include "dev/testdev.h"

#include <stdio.h>
#include <string.h>

#include "util/log.h"

/* ---- debugcon ---- */

#define DEBUGCON_MAGIC 0xe9u

void debugcon_init(struct debugcon *debugcon, struct chardev *chardev)
{
    *debugcon = (struct debugcon){.chardev = chardev};
    pthread_mutex_init(&debugcon->lock, NULL);
}

void debugcon_fini(struct debugcon *debugcon)
{
    pthread_mutex_destroy(&debugcon->lock);
}

static uint64_t debugcon_read(void *self, uint64_t offset, unsigned size)
{
    (void)self;
    (void)offset;
    (void)size;
    return DEBUGCON_MAGIC;
}

static void debugcon_write(void *self, uint64_t offset, unsigned size, uint64_t value)
{
    struct debugcon *debugcon = self;
    uint8_t byte = (uint8_t)value;

    (void)offset;
    (void)size;
    pthread_mutex_lock(&debugcon->lock);
    if (debugcon->chardev != NULL) {
        chardev_write(debugcon->chardev, byte);
    }
    if (byte == '\n' || debugcon->length == DEBUGCON_LINE_MAX) {
        log_line(LOG_FIRMWARE, "%.*s", (int)debugcon->length, debugcon->line);
        debugcon->length = 0;
    }
    if (byte >= 0x20 && byte < 0x7f) {
        debugcon->line[debugcon->length++] = (char)byte;
    }
    pthread_mutex_unlock(&debugcon->lock);
}

const struct device_ops debugcon_ops = {.name = "isa-debugcon", .read = debugcon_read, .write = debugcon_write};

/* ---- pvpanic ---- */

#define PVPANIC_PANICKED 0x01u
#define PVPANIC_CRASHLOADED 0x02u

static uint64_t pvpanic_read(void *self, uint64_t offset, unsigned size)
{
    (void)self;
    (void)offset;
    (void)size;
    return PVPANIC_PANICKED | PVPANIC_CRASHLOADED;
}

static void pvpanic_write(void *self, uint64_t offset, unsigned size, uint64_t value)
{
    struct pvpanic *pvpanic = self;
    unsigned known = (unsigned)value & (PVPANIC_PANICKED | PVPANIC_CRASHLOADED);
    unsigned fresh = known & ~atomic_fetch_or(&pvpanic->said, known); /* a guest cannot fill the terminal */

    (void)offset;
    (void)size;
    if ((fresh & PVPANIC_PANICKED) != 0) {
        fprintf(stderr, "kage: the guest has panicked\n");
        power_request(&pvpanic->power, POWER_OFF, 0);
    } else if ((fresh & PVPANIC_CRASHLOADED) != 0) {
        fprintf(stderr, "kage: the guest has panicked, and goes on in its crash kernel\n");
    }
}

const struct device_ops pvpanic_ops = {.name = "pvpanic", .read = pvpanic_read, .write = pvpanic_write};

/* ---- pc-testdev ---- */

void testdev_init(struct testdev *testdev, const struct irq *irq)
{
    memset(testdev, 0, sizeof(*testdev));
    pthread_mutex_init(&testdev->lock, NULL);
    testdev->irq = *irq;
}

void testdev_fini(struct testdev *testdev)
{
    pthread_mutex_destroy(&testdev->lock);
}

static uint64_t testdev_copy_out(struct testdev *testdev, const uint8_t *bytes, unsigned size)
{
    uint64_t value = 0;

    pthread_mutex_lock(&testdev->lock);
    memcpy(&value, bytes, size);
    pthread_mutex_unlock(&testdev->lock);
    return value;
}

static void testdev_copy_in(struct testdev *testdev, uint8_t *bytes, unsigned size, uint64_t value)
{
    pthread_mutex_lock(&testdev->lock);
    memcpy(bytes, &value, size);
    pthread_mutex_unlock(&testdev->lock);
}

static uint64_t testdev_io_read(void *self, uint64_t offset, unsigned size)
{
    struct testdev *testdev = self;
    return testdev_copy_out(testdev, testdev->io + offset, size);
}

static void testdev_io_write(void *self, uint64_t offset, unsigned size, uint64_t value)
{
    struct testdev *testdev = self;
    testdev_copy_in(testdev, testdev->io + offset, size, value);
}

static uint64_t testdev_zero_read(void *self, uint64_t offset, unsigned size)
{
    (void)self;
    (void)offset;
    (void)size;
    return 0;
}

/* The page at the address written loses what is cached of it: every access looks at the tables and at RAM anyway. */
static void testdev_flush_write(void *self, uint64_t offset, unsigned size, uint64_t value)
{
    (void)self;
    (void)offset;
    (void)size;
    (void)value;
}

static void testdev_irq_write(void *self, uint64_t offset, unsigned size, uint64_t value)
{
    const struct testdev *testdev = self;
    struct irq irq = testdev->irq;

    (void)size;
    irq.line += (uint32_t)offset;
    irq_set(&irq, value != 0);
}

static uint64_t testdev_mem_read(void *self, uint64_t offset, unsigned size)
{
    struct testdev *testdev = self;
    return testdev_copy_out(testdev, testdev->memory + offset, size);
}

static void testdev_mem_write(void *self, uint64_t offset, unsigned size, uint64_t value)
{
    struct testdev *testdev = self;
    testdev_copy_in(testdev, testdev->memory + offset, size, value);
}

const struct device_ops testdev_io_ops = {.name = "pc-testdev", .read = testdev_io_read, .write = testdev_io_write};
const struct device_ops testdev_flush_ops = {.name = "pc-testdev", .read = testdev_zero_read, .write = testdev_flush_write};
const struct device_ops testdev_irq_ops = {.name = "pc-testdev", .read = testdev_zero_read, .write = testdev_irq_write};
const struct device_ops testdev_mem_ops = {.name = "pc-testdev", .read = testdev_mem_read, .write = testdev_mem_write};
