/* SPDX-License-Identifier: MIT */
/*
 * Queues: 0 and 1 are port 0's, to the driver and from it; 2 and 3 carry control messages; then two for each port (5.3.2). Neither
 * direction blocks: bytes that a backend has no room for stay in their chain until it says that it has.
 */
#include "virtio/console.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CONSOLE_TYPE 3u
#define CONSOLE_QUEUE_SIZE 128u
#define CONSOLE_F_MULTIPORT VIRTIO_F(1)
#define CONSOLE_F_EMERG_WRITE VIRTIO_F(2)
#define CONTROL_IN 2u
#define CONTROL_OUT 3u
#define INPUT_MAX 256u
#define CONTROLS_MAX (VIRTIO_CONSOLE_PORTS_MAX * 6u) /* messages for the driver: what one port can have waiting */

struct console_config {
    uint16_t cols, rows;
    uint32_t max_nr_ports, emerg_wr;
};
#define CONFIG_EMERG_WR 8u
_Static_assert(sizeof(struct console_config) == 12, "virtio 1.2, 5.3.4");

struct console_control {
    uint32_t id;
    uint16_t event, value;
};
_Static_assert(sizeof(struct console_control) == 8, "virtio 1.2, 5.3.6.2");

enum { DEVICE_READY, DEVICE_ADD, DEVICE_REMOVE, PORT_READY, CONSOLE_PORT, RESIZE, PORT_OPEN, PORT_NAME };

struct console_port {
    struct virtio_console *console;
    unsigned number;
    bool present, is_console, open; /* open: by the guest */
    char name[VIRTIO_CONSOLE_NAME_MAX];
    struct chardev *chardev;
    uint8_t input[INPUT_MAX]; /* from the backend, for the driver */
    size_t input_at, input_end;
    /* A chain of the driver's that the backend has not taken yet; its buffers are `out`. */
    bool busy;
    struct virtio_chain chain;
    struct iovec *out;
    size_t out_at;
};

struct virtio_console {
    struct virtio_device device; /* first: the class's callbacks get it */
    unsigned max_ports;
    struct console_port ports[VIRTIO_CONSOLE_PORTS_MAX];
    /* Control messages for the driver, oldest first. */
    unsigned control_at, control_count;
    struct console_control controls[CONTROLS_MAX];
};

static struct virtqueue *console_queue(struct virtio_console *console, unsigned port, bool from_driver)
{
    unsigned base = port == 0 ? 0 : 2 + 2 * port;
    return &console->device.queues[base + (from_driver ? 1 : 0)];
}

/* ---- Control ---- */

static void console_send_controls(struct virtio_console *console)
{
    struct virtqueue *queue = &console->device.queues[CONTROL_IN];
    struct virtio_chain chain;
    while (console->control_count > 0 && virtqueue_pop(queue, &chain) > 0) {
        const struct console_control *control = &console->controls[console->control_at];
        uint8_t message[sizeof(*control) + VIRTIO_CONSOLE_NAME_MAX];
        size_t bytes = sizeof(*control);
        memcpy(message, control, bytes);
        if (control->event == PORT_NAME) {
            const char *name = console->ports[control->id].name;
            memcpy(message + bytes, name, strlen(name));
            bytes += strlen(name);
        }
        virtqueue_push(queue, &chain, (uint32_t)virtio_chain_write(&chain, 0, message, bytes));
        console->control_at = (console->control_at + 1) % CONTROLS_MAX;
        console->control_count--;
    }
    virtqueue_interrupt(queue);
}

/* One that finds no room is lost: a driver that asks faster than it reads has itself to blame. */
static void console_tell(struct virtio_console *console, unsigned port, uint16_t event, uint16_t value)
{
    if (console->control_count < CONTROLS_MAX) {
        unsigned at = (console->control_at + console->control_count++) % CONTROLS_MAX;
        console->controls[at] = (struct console_control){.id = port, .event = event, .value = value};
    }
}

static void console_port_ready(struct virtio_console *console, struct console_port *port)
{
    if (port->is_console) {
        console_tell(console, port->number, CONSOLE_PORT, 1);
    }
    if (port->name[0] != '\0') {
        console_tell(console, port->number, PORT_NAME, 1);
    }
    console_tell(console, port->number, PORT_OPEN, 1);
}

static void console_move_input(struct console_port *port);

static void console_control(struct virtio_console *console, const struct console_control *control)
{
    if (control->event == DEVICE_READY && control->value == 1) {
        for (unsigned i = 0; i < console->max_ports; i++) {
            if (console->ports[i].present) {
                console_tell(console, i, DEVICE_ADD, 1);
            }
        }
    }
    struct console_port *port = control->id < console->max_ports ? &console->ports[control->id] : NULL;
    if (port == NULL || !port->present) {
        return;
    }
    if (control->event == PORT_READY && control->value == 1) {
        console_port_ready(console, port);
    } else if (control->event == PORT_OPEN) {
        port->open = control->value != 0;
        console_move_input(port);
    }
}

static void console_take_controls(struct virtio_console *console, struct virtqueue *queue)
{
    struct virtio_chain chain;
    unsigned budget = queue->size;
    for (; budget > 0 && virtqueue_pop(queue, &chain) > 0; budget--) {
        struct console_control control;
        if (virtio_chain_read(&chain, 0, &control, sizeof(control)) == sizeof(control)) {
            console_control(console, &control);
        }
        virtqueue_push(queue, &chain, 0);
    }
    virtqueue_interrupt(queue);
    if (budget == 0) {
        virtio_kick_queue(&console->device, CONTROL_OUT);
    }
    console_send_controls(console);
}

/* ---- Data ---- */

static void console_move_input(struct console_port *port)
{
    struct virtqueue *queue = console_queue(port->console, port->number, false);
    struct virtio_chain chain;
    bool multiport = virtio_has(&port->console->device, CONSOLE_F_MULTIPORT);
    while (port->chardev != NULL && (port->open || !multiport) && virtio_live(&port->console->device)) {
        if (port->input_at == port->input_end) {
            port->input_at = 0;
            port->input_end = chardev_read(port->chardev, port->input, sizeof(port->input));
        }
        if (port->input_at == port->input_end || virtqueue_pop(queue, &chain) <= 0) {
            break;
        }
        size_t written = virtio_chain_write(&chain, 0, port->input + port->input_at, port->input_end - port->input_at);
        port->input_at += written;
        virtqueue_push(queue, &chain, (uint32_t)written);
    }
    virtqueue_interrupt(queue);
}

/* True: all of the chain is written. */
static bool console_write_out(struct console_port *port)
{
    size_t at = 0;
    for (unsigned i = 0; i < port->chain.out_count; at += port->out[i].iov_len, i++) {
        const uint8_t *bytes = port->out[i].iov_base;
        while (port->out_at < at + port->out[i].iov_len) {
            if (port->chardev != NULL && !chardev_write(port->chardev, bytes[port->out_at - at])) {
                return false;
            }
            port->out_at++;
        }
    }
    return true;
}

static void console_end_out(struct console_port *port)
{
    virtqueue_push(console_queue(port->console, port->number, true), &port->chain, 0);
    free(port->out);
    port->out = NULL;
    port->busy = false;
}

static void console_move_output(struct console_port *port)
{
    struct virtqueue *queue = console_queue(port->console, port->number, true);
    unsigned budget = queue->size;
    while (port->busy || budget > 0) {
        if (!port->busy) {
            if (virtqueue_pop(queue, &port->chain) <= 0) {
                break;
            }
            port->out = calloc(port->chain.out_count + 1, sizeof(port->out[0]));
            if (port->out == NULL) {
                virtio_fail(&port->console->device, "no memory for what is written");
                virtqueue_push(queue, &port->chain, 0);
                break;
            }
            memcpy(port->out, port->chain.iov, port->chain.out_count * sizeof(port->out[0]));
            port->busy = true;
            port->out_at = 0;
            budget--;
        }
        if (!console_write_out(port)) {
            break; /* the backend says when there is room */
        }
        console_end_out(port);
    }
    virtqueue_interrupt(queue);
    if (budget == 0 && !port->busy) {
        virtio_kick_queue(&port->console->device, queue->index);
    }
}

/* The backend has bytes, or room. */
static void console_backend(void *opaque)
{
    struct console_port *port = opaque;
    virtio_lock(&port->console->device);
    console_move_input(port);
    console_move_output(port);
    virtio_unlock(&port->console->device);
}

/* ---- The device ---- */

static void console_notified(struct virtio_device *device, struct virtqueue *queue)
{
    struct virtio_console *console = (struct virtio_console *)device;
    if (queue->index == CONTROL_IN) {
        console_send_controls(console);
    } else if (queue->index == CONTROL_OUT) {
        console_take_controls(console, queue);
    } else {
        struct console_port *port = &console->ports[queue->index < CONTROL_IN ? 0 : (queue->index - 2) / 2];
        if (queue->index % 2 == 0) {
            console_move_input(port);
        } else {
            console_move_output(port);
        }
    }
}

/* An emergency write (5.3.4): a byte for the first console, without a queue. */
static void console_config_written(struct virtio_device *device, unsigned offset, unsigned size)
{
    const struct virtio_console *console = (struct virtio_console *)device;
    if (offset == CONFIG_EMERG_WR && size > 0 && console->ports[0].chardev != NULL) {
        chardev_write(console->ports[0].chardev, device->config[CONFIG_EMERG_WR]);
    }
}

static void console_cancel(struct virtio_device *device, struct virtqueue *queue)
{
    struct virtio_console *console = (struct virtio_console *)device;
    for (unsigned i = 0; i < console->max_ports; i++) {
        struct console_port *port = &console->ports[i];
        if (port->busy && (queue == NULL || queue == console_queue(console, i, true))) {
            console_end_out(port);
        }
    }
}

static void console_reset(struct virtio_device *device)
{
    struct virtio_console *console = (struct virtio_console *)device;
    console->control_count = 0;
    for (unsigned i = 0; i < console->max_ports; i++) {
        console->ports[i].open = false;
    }
}

static const struct virtio_class console_class = {
    .name = "virtio-console",
    .type = CONSOLE_TYPE,
    .notified = console_notified,
    .config_written = console_config_written,
    .cancel = console_cancel,
    .reset = console_reset,
};

struct virtio_console *virtio_console_new(const struct virtio_options *options, unsigned max_ports, struct loop *loop, const struct dma *dma,
                                          struct error *error)
{
    uint16_t sizes[VIRTIO_QUEUES_MAX];
    struct virtio_console *console = calloc(1, sizeof(*console));
    if (console == NULL) {
        error_set(error, "virtio-console: no memory");
        return NULL;
    }
    for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++) {
        sizes[i] = CONSOLE_QUEUE_SIZE;
    }
    console->max_ports = max_ports;
    for (unsigned i = 0; i < max_ports; i++) {
        console->ports[i].console = console;
        console->ports[i].number = i;
    }
    uint64_t features = virtio_options_features(options) | CONSOLE_F_MULTIPORT | CONSOLE_F_EMERG_WRITE;
    int result = virtio_init(&console->device, &console_class, loop, dma, features, 2 + 2 * max_ports, sizes);
    if (result != 0) {
        error_set(error, "virtio-console: %s", strerror(-result));
        free(console);
        return NULL;
    }
    struct console_config config = {.max_nr_ports = max_ports};
    memcpy(console->device.config, &config, sizeof(config));
    console->device.config_bytes = sizeof(config);
    memset(console->device.writable + CONFIG_EMERG_WR, 0xff, sizeof(config.emerg_wr));
    return console;
}

void virtio_console_free(struct virtio_console *console)
{
    if (console == NULL) {
        return;
    }
    virtio_stop(&console->device);
    for (unsigned i = 0; i < console->max_ports; i++) {
        if (console->ports[i].chardev != NULL) {
            chardev_release(console->ports[i].chardev);
        }
    }
    virtio_lock(&console->device);
    console_cancel(&console->device, NULL);
    virtio_unlock(&console->device);
    virtio_fini(&console->device);
    free(console);
}

struct virtio_device *virtio_console_device(struct virtio_console *console)
{
    return &console->device;
}

int virtio_console_add_port(struct virtio_console *console, int number, bool is_console, const char *name, struct chardev *chardev)
{
    unsigned at = number >= 0 ? (unsigned)number : is_console ? 0 : 1;
    while (number < 0 && at < console->max_ports && console->ports[at].present) {
        at++;
    }
    if (at >= console->max_ports) {
        return -ENOSPC;
    }
    struct console_port *port = &console->ports[at];
    if (port->present) {
        return -EEXIST;
    }
    port->present = true;
    port->is_console = is_console;
    strncpy(port->name, name, sizeof(port->name) - 1);
    port->chardev = chardev;
    if (chardev != NULL) {
        chardev_attach(chardev, console_backend, port);
    }
    return 0;
}
