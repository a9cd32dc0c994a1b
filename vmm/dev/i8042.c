/* SPDX-License-Identifier: MIT */
/*
 * What is sent to a keyboard or a mouse that is not there comes back as the controller's own answer
 * for a device that does not react: 0xfe with the time-out bit. The keyboard (IBM 84F9735, PS/2 keyboard, commands) acknowledges
 * everything, and has nothing to say.
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
    bool level = (i8042->status & (STR_OBF | STR_AUX_OBF)) == STR_OBF && (i8042->ctr & CTR_KBD_INT) != 0;
    if (level != i8042->irq_level) {
        i8042->irq_level = level;
        irq_set(&i8042->irq, level);
    }
}

static void i8042_answer(struct i8042 *i8042, uint8_t data, uint8_t status)
{
    i8042->data = data;
    i8042->status = (uint8_t)(STR_OBF | status);
}

/* ---- The keyboard ---- */

enum { KBD_SET_LEDS = 0xed, KBD_ECHO = 0xee, KBD_SCAN_CODES = 0xf0, KBD_IDENTIFY = 0xf2, KBD_SET_RATE = 0xf3, KBD_RESET = 0xff };
#define KBD_ACK 0xfau
#define KBD_TEST_PASSED 0xaau
#define KBD_CODE_SET 0x02u

/* The next byte into the output buffer, if that is free. */
static void i8042_take_queue(struct i8042 *i8042)
{
    if (i8042->queued != 0 && (i8042->status & STR_OBF) == 0) {
        i8042_answer(i8042, i8042->queue[0], 0);
        i8042->queued--;
        memmove(i8042->queue, i8042->queue + 1, i8042->queued);
    }
}

/* A command drops what was not fetched of the last one's answer. */
static void i8042_to_keyboard(struct i8042 *i8042, uint8_t value)
{
    static const struct {
        uint8_t command, parameter, bytes, answer[3];
    } rows[] = {
        {KBD_SET_LEDS, 1, 1, {KBD_ACK}},
        {KBD_SET_RATE, 1, 1, {KBD_ACK}},
        {KBD_SCAN_CODES, 1, 1, {KBD_ACK}},
        {KBD_ECHO, 0, 1, {KBD_ECHO}},
        {KBD_IDENTIFY, 0, 3, {KBD_ACK, 0xab, 0x83}},
        {KBD_RESET, 0, 2, {KBD_ACK, KBD_TEST_PASSED}},
    };
    uint8_t waiting = i8042->keyboard_command;
    i8042->keyboard_command = 0;
    i8042->queue[0] = KBD_ACK;
    i8042->queued = 1;
    if (waiting == KBD_SCAN_CODES && value == 0) {
        i8042->queue[i8042->queued++] = KBD_CODE_SET;
    }
    for (unsigned i = 0; waiting == 0 && i < sizeof(rows) / sizeof(rows[0]); i++) {
        if (rows[i].command == value) {
            memcpy(i8042->queue, rows[i].answer, rows[i].bytes);
            i8042->queued = rows[i].bytes;
            i8042->keyboard_command = rows[i].parameter != 0 ? value : 0;
        }
    }
    i8042->status &= (uint8_t)~STR_OBF;
    i8042_take_queue(i8042);
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
        i8042_answer(i8042, 0x02, 0); /* clock line stuck high: nothing there */
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
    case CMD_AUX_LOOP: /* without AUX_OBF: this controller has no second port */
        i8042_answer(i8042, value, 0);
        break;
    default: /* for the keyboard or the mouse */
        if (i8042->keyboard && command != CMD_AUX_SEND) {
            i8042->ctr &= (uint8_t)~CTR_KBD_DISABLE;
            i8042_to_keyboard(i8042, value);
        } else {
            i8042_answer(i8042, NOBODY, STR_TIMEOUT);
        }
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
    i8042_update_irq(i8042); /* a byte that follows is another edge */
    i8042_take_queue(i8042);
    i8042_update_irq(i8042);
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
    i8042_update_irq(i8042);
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
    i8042_update_irq(i8042);
    pthread_mutex_unlock(&i8042->lock);
}

const struct device_ops i8042_data_ops = {.name = "i8042 data", .read = i8042_read_data, .write = i8042_write_data};
const struct device_ops i8042_command_ops = {.name = "i8042 command", .read = i8042_read_status, .write = i8042_write_command};

void i8042_reset(struct i8042 *i8042)
{
    i8042->status = 0;
    i8042->data = 0;
    i8042->ctr = CTR_KBD_INT | CTR_AUX_DISABLE | STR_SYS;
    i8042->output_port = OUTPUT_NOT_RESET | OUTPUT_A20;
    i8042->command = 0;
    i8042->last_was_command = false;
    i8042->keyboard_command = 0;
    i8042->queued = 0;
    i8042_update_irq(i8042);
}

void i8042_init(struct i8042 *i8042, const struct irq *irq, const struct power *power)
{
    *i8042 = (struct i8042){.irq = *irq, .power = *power};
    pthread_mutex_init(&i8042->lock, NULL);
    i8042_reset(i8042);
}

void i8042_fini(struct i8042 *i8042)
{
    pthread_mutex_destroy(&i8042->lock);
}
