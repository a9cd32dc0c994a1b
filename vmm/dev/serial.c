/* SPDX-License-Identifier: MIT */
/*
 * The attachment of a 16550A: its lock, its ports, its line, its character backend. vCPU threads come
 * through the ports, the main loop through the backend's notification.
 */
#include "dev/serial.h"

#include "dev/isa.h"

static void serial_set_irq(void *opaque, bool level)
{
    struct serial *serial = opaque;
    irq_set(&serial->irq, level);
}

static bool serial_transmit(void *opaque, uint8_t byte)
{
    struct serial *serial = opaque;
    return chardev_write(serial->chardev, byte);
}

static size_t serial_receive(void *opaque, uint8_t *bytes, size_t room)
{
    struct serial *serial = opaque;
    return chardev_read(serial->chardev, bytes, room);
}

static const struct uart16550_backend serial_backend = {
    .set_irq = serial_set_irq,
    .transmit = serial_transmit,
    .receive = serial_receive,
};

static void serial_notify(void *opaque)
{
    struct serial *serial = opaque;
    pthread_mutex_lock(&serial->lock);
    uart16550_pump(&serial->uart);
    pthread_mutex_unlock(&serial->lock);
}

static uint8_t serial_read_byte(void *self, unsigned offset)
{
    struct serial *serial = self;
    return uart16550_read(&serial->uart, offset);
}

static void serial_write_byte(void *self, unsigned offset, uint8_t value)
{
    struct serial *serial = self;
    uart16550_write(&serial->uart, offset, value);
}

static uint64_t serial_read(void *self, uint64_t offset, unsigned size)
{
    struct serial *serial = self;
    pthread_mutex_lock(&serial->lock);
    uint64_t value = isa_read_bytes(serial_read_byte, self, offset, size);
    pthread_mutex_unlock(&serial->lock);
    return value;
}

static void serial_write(void *self, uint64_t offset, unsigned size, uint64_t value)
{
    struct serial *serial = self;
    pthread_mutex_lock(&serial->lock);
    isa_write_bytes(serial_write_byte, self, offset, size, value);
    pthread_mutex_unlock(&serial->lock);
}

const struct device_ops serial_ops = {.name = "serial", .read = serial_read, .write = serial_write};

void serial_init(struct serial *serial, struct chardev *chardev, const struct irq *irq)
{
    pthread_mutex_init(&serial->lock, NULL);
    serial->chardev = chardev;
    serial->irq = *irq;
    uart16550_init(&serial->uart, &serial_backend, serial);
    chardev_attach(chardev, serial_notify, serial);
}

void serial_fini(struct serial *serial)
{
    chardev_attach(serial->chardev, NULL, NULL);
    pthread_mutex_destroy(&serial->lock);
}
