/* SPDX-License-Identifier: MIT */
/*
 * What is sent to a keyboard or a mouse that is not there comes back as the controller's own answer
 * for a device that does not react: 0xfe with the time-out bit.
 */
#include "dev/i8042.h"

#include <string.h>

#define STR_OBF 0x01u
#define STR_SYS 0x04u
#define STR_CMD 0x08u
#define STR_AUX_OBF 0x20u
#define STR_TIMEOUT 0x40u
#define STR_NOT_LOCKED 0x10u

#define CTR_KBD_INT 0x01u
#define CTR_AUX_INT 0x02u
#define CTR_KBD_DISABLE 0x10u
#define CTR_AUX_DISABLE 0x20u
#define CTR_TRANSLATE 0x40u

#define OUTPUT_NOT_RESET 0x01u
#define OUTPUT_A20 0x02u

#define NOBODY 0xfeu

enum i8042_command {
    CMD_READ_CTR = 0x20,
    CMD_WRITE_CTR = 0x60,
    CMD_AUX_DISABLE = 0xa7,
    CMD_AUX_ENABLE = 0xa8,
    CMD_AUX_TEST = 0xa9,
    CMD_SELF_TEST = 0xaa,
    CMD_KBD_TEST = 0xab,
    CMD_KBD_DISABLE = 0xad,
    CMD_KBD_ENABLE = 0xae,
    CMD_READ_OUTPUT = 0xd0,
    CMD_WRITE_OUTPUT = 0xd1,
    CMD_KBD_LOOP = 0xd2,
    CMD_AUX_LOOP = 0xd3,
    CMD_AUX_SEND = 0xd4,
    CMD_PULSE = 0xf0, /* to 0xff: the low bits are the lines that go low */
};

static void i8042_update_irq(struct i8042 *i8042)
{
    static const uint8_t enabled[I8042_PORTS] = {CTR_KBD_INT, CTR_AUX_INT};
    bool full = (i8042->status & STR_OBF) != 0, aux = (i8042->status & STR_AUX_OBF) != 0;
    for (unsigned port = 0; port < I8042_PORTS; port++) {
        bool level = full && aux == (port == I8042_MOUSE) && (i8042->ctr & enabled[port]) != 0;
        if (level != i8042->irq_level[port]) {
            i8042->irq_level[port] = level;
            irq_set(&i8042->irqs[port], level);
        }
    }
}

/* The controller's own; what a device had in the buffer waits. */
static void i8042_answer(struct i8042 *i8042, uint8_t data, uint8_t status)
{
    for (unsigned port = 0; port < I8042_PORTS; port++) {
        if (i8042->from_device[port] && (i8042->status & STR_OBF) != 0) {
            i8042->held[port] = true;
            i8042->held_data[port] = i8042->data;
        }
        i8042->from_device[port] = false;
    }
    i8042->data = data;
    i8042->status = (uint8_t)(STR_OBF | status);
}

/* ---- Devices ---- */

/* Of the keyboard's byte what the processor gets; false: nothing yet. */
static bool i8042_translate(struct i8042 *i8042, uint8_t *byte)
{
    if ((i8042->ctr & CTR_TRANSLATE) == 0) {
        return true;
    }
    if (*byte == 0xf0) {
        i8042->break_prefix = true;
        return false;
    }
    uint8_t code = *byte < sizeof(ps2_translation) ? ps2_translation[*byte] : *byte == 0x83 ? 0x41 : *byte == 0x84 ? 0x54 : *byte;
    *byte = (uint8_t)(code | (i8042->break_prefix ? 0x80 : 0));
    i8042->break_prefix = false;
    return true;
}

static bool i8042_take(struct i8042 *i8042, unsigned port, uint8_t *byte)
{
    if (i8042->held[port]) {
        i8042->held[port] = false;
        *byte = i8042->held_data[port];
        return true;
    }
    if (port == I8042_MOUSE) {
        ps2_mouse_report(&i8042->mouse);
        return ps2_take(&i8042->mouse.output, byte);
    }
    while (ps2_take(&i8042->keyboard.output, byte)) {
        if (i8042_translate(i8042, byte)) {
            return true;
        }
    }
    return false;
}

/* The next byte of a device into the output buffer, if that is free. A device whose clock line is held down waits. */
static void i8042_fetch(struct i8042 *i8042)
{
    static const uint8_t disabled[I8042_PORTS] = {CTR_KBD_DISABLE, CTR_AUX_DISABLE}, status[I8042_PORTS] = {STR_OBF, STR_OBF | STR_AUX_OBF};
    for (unsigned port = 0; port < I8042_PORTS && i8042->devices && (i8042->status & STR_OBF) == 0; port++) {
        uint8_t byte;
        if ((i8042->ctr & disabled[port]) == 0 && i8042_take(i8042, port, &byte)) {
            i8042->data = byte;
            i8042->status = status[port];
            i8042->from_device[port] = true;
        }
    }
}

static void i8042_changed(struct i8042 *i8042)
{
    i8042_fetch(i8042);
    i8042_update_irq(i8042);
}

/* A device drops what was not fetched of its last answer. */
static void i8042_send(struct i8042 *i8042, unsigned port, uint8_t value)
{
    if (!i8042->devices) {
        i8042_answer(i8042, NOBODY, STR_TIMEOUT);
        return;
    }
    i8042->ctr &= (uint8_t)~(port == I8042_MOUSE ? CTR_AUX_DISABLE : CTR_KBD_DISABLE);
    i8042->held[port] = false;
    if (i8042->from_device[port]) {
        i8042->from_device[port] = false;
        i8042->status = 0;
        i8042_update_irq(i8042);
    }
    if (port == I8042_MOUSE) {
        ps2_mouse_write(&i8042->mouse, value);
        return;
    }
    uint8_t leds = i8042->keyboard.leds;
    i8042->break_prefix = false;
    ps2_keyboard_write(&i8042->keyboard, value);
    if (leds != i8042->keyboard.leds && i8042->hub != NULL) {
        input_set_leds(i8042->hub, i8042->keyboard.leds);
    }
}

/* ---- Users ---- */

static void i8042_key(void *opaque, const struct input_event *event)
{
    struct i8042 *i8042 = opaque;
    pthread_mutex_lock(&i8042->lock);
    ps2_keyboard_event(&i8042->keyboard, event);
    i8042_changed(i8042);
    pthread_mutex_unlock(&i8042->lock);
}

static void i8042_moved(void *opaque, const struct input_event *event)
{
    struct i8042 *i8042 = opaque;
    pthread_mutex_lock(&i8042->lock);
    ps2_mouse_event(&i8042->mouse, event);
    pthread_mutex_unlock(&i8042->lock);
}

static void i8042_moved_all(void *opaque)
{
    struct i8042 *i8042 = opaque;
    pthread_mutex_lock(&i8042->lock);
    ps2_mouse_report(&i8042->mouse);
    i8042_changed(i8042);
    pthread_mutex_unlock(&i8042->lock);
}

void i8042_plug(struct i8042 *i8042, struct input_hub *hub)
{
    i8042->devices = true;
    i8042->hub = hub;
    i8042->sinks[I8042_KEYBOARD] = (struct input_sink){.name = "PS/2 keyboard", .takes = INPUT_TAKES_KEYS, .event = i8042_key, .opaque = i8042};
    i8042->sinks[I8042_MOUSE] =
        (struct input_sink){.name = "PS/2 mouse", .takes = INPUT_TAKES_REL, .event = i8042_moved, .sync = i8042_moved_all, .opaque = i8042};
    for (unsigned port = 0; hub != NULL && port < I8042_PORTS; port++) {
        input_add(hub, &i8042->sinks[port]);
    }
}

/* ---- The controller ---- */

static void i8042_set_output(struct i8042 *i8042, uint8_t value)
{
    i8042->output_port = value;
    if ((value & OUTPUT_NOT_RESET) == 0) {
        power_request(&i8042->power, POWER_RESET, 0);
    }
}

static void i8042_do_command(struct i8042 *i8042, uint8_t command)
{
    i8042->command = 0;
    i8042->last_was_command = true;
    if (command >= CMD_PULSE) {
        if ((command & OUTPUT_NOT_RESET) == 0) {
            power_request(&i8042->power, POWER_RESET, 0);
        }
        return;
    }
    switch (command) {
    case CMD_READ_CTR:
        i8042_answer(i8042, i8042->ctr, 0);
        break;
    case CMD_AUX_DISABLE:
        i8042->ctr |= CTR_AUX_DISABLE;
        break;
    case CMD_AUX_ENABLE:
        i8042->ctr &= (uint8_t)~CTR_AUX_DISABLE;
        break;
    case CMD_AUX_TEST:
        i8042_answer(i8042, i8042->devices ? 0x00 : 0x02, 0); /* clock line stuck high: nothing there */
        break;
    case CMD_SELF_TEST:
        i8042_answer(i8042, 0x55, 0);
        break;
    case CMD_KBD_TEST:
        i8042_answer(i8042, 0x00, 0);
        break;
    case CMD_KBD_DISABLE:
        i8042->ctr |= CTR_KBD_DISABLE;
        break;
    case CMD_KBD_ENABLE:
        i8042->ctr &= (uint8_t)~CTR_KBD_DISABLE;
        break;
    case CMD_READ_OUTPUT:
        i8042_answer(i8042, i8042->output_port, 0);
        break;
    case CMD_WRITE_CTR:
    case CMD_WRITE_OUTPUT:
    case CMD_KBD_LOOP:
    case CMD_AUX_LOOP:
    case CMD_AUX_SEND:
        i8042->command = command;
        break;
    default: /* the controller ignores what it does not know */
        break;
    }
}

static void i8042_do_data(struct i8042 *i8042, uint8_t value)
{
    uint8_t command = i8042->command;
    i8042->command = 0;
    i8042->last_was_command = false;
    switch (command) {
    case CMD_WRITE_CTR:
        i8042->ctr = value;
        break;
    case CMD_WRITE_OUTPUT:
        i8042_set_output(i8042, value);
        break;
    case CMD_KBD_LOOP:
    case CMD_AUX_LOOP: /* without AUX_OBF where nothing is plugged in: that controller has no second port */
        i8042_answer(i8042, value, command == CMD_AUX_LOOP && i8042->devices ? STR_AUX_OBF : 0);
        break;
    default:
        i8042_send(i8042, command == CMD_AUX_SEND ? I8042_MOUSE : I8042_KEYBOARD, value);
        break;
    }
}

static uint64_t i8042_read_data(void *self, uint64_t offset, unsigned size)
{
    struct i8042 *i8042 = self;
    (void)offset;
    (void)size;
    pthread_mutex_lock(&i8042->lock);
    uint8_t data = i8042->data;
    i8042->status = 0;
    i8042->from_device[I8042_KEYBOARD] = i8042->from_device[I8042_MOUSE] = false;
    i8042_update_irq(i8042); /* a byte that follows is another edge */
    i8042_changed(i8042);
    pthread_mutex_unlock(&i8042->lock);
    return data;
}

static void i8042_write_data(void *self, uint64_t offset, unsigned size, uint64_t value)
{
    struct i8042 *i8042 = self;
    (void)offset;
    (void)size;
    pthread_mutex_lock(&i8042->lock);
    i8042_do_data(i8042, (uint8_t)value);
    i8042_changed(i8042);
    pthread_mutex_unlock(&i8042->lock);
}

static uint64_t i8042_read_status(void *self, uint64_t offset, unsigned size)
{
    struct i8042 *i8042 = self;
    (void)offset;
    (void)size;
    pthread_mutex_lock(&i8042->lock);
    uint8_t status = (uint8_t)(i8042->status | STR_NOT_LOCKED | (i8042->ctr & STR_SYS) |
                               (i8042->last_was_command ? STR_CMD : 0u));
    pthread_mutex_unlock(&i8042->lock);
    return status;
}

static void i8042_write_command(void *self, uint64_t offset, unsigned size, uint64_t value)
{
    struct i8042 *i8042 = self;
    (void)offset;
    (void)size;
    pthread_mutex_lock(&i8042->lock);
    i8042_do_command(i8042, (uint8_t)value);
    i8042_changed(i8042);
    pthread_mutex_unlock(&i8042->lock);
}

const struct device_ops i8042_data_ops = {.name = "i8042 data", .read = i8042_read_data, .write = i8042_write_data};
const struct device_ops i8042_command_ops = {.name = "i8042 command", .read = i8042_read_status, .write = i8042_write_command};

void i8042_reset(struct i8042 *i8042)
{
    i8042->status = 0;
    i8042->data = 0;
    i8042->ctr = CTR_KBD_INT | CTR_AUX_DISABLE | CTR_TRANSLATE | STR_SYS;
    i8042->output_port = OUTPUT_NOT_RESET | OUTPUT_A20;
    i8042->command = 0;
    i8042->last_was_command = false;
    i8042->break_prefix = false;
    for (unsigned port = 0; port < I8042_PORTS; port++) {
        i8042->from_device[port] = i8042->held[port] = false;
    }
    ps2_keyboard_init(&i8042->keyboard);
    ps2_mouse_init(&i8042->mouse);
    i8042_update_irq(i8042);
}

void i8042_init(struct i8042 *i8042, const struct irq *irqs, const struct power *power)
{
    *i8042 = (struct i8042){.irqs = {irqs[I8042_KEYBOARD], irqs[I8042_MOUSE]}, .power = *power};
    pthread_mutex_init(&i8042->lock, NULL);
    i8042_reset(i8042);
}

void i8042_fini(struct i8042 *i8042)
{
    for (unsigned port = 0; i8042->hub != NULL && port < I8042_PORTS; port++) {
        input_remove(i8042->hub, &i8042->sinks[port]);
    }
    pthread_mutex_destroy(&i8042->lock);
}
