/* SPDX-License-Identifier: MIT */
/*
 * The mouse. A report:
 *
 *   0   7 Y overflow | 6 X overflow | 5 Y's sign | 4 X's sign | 3 1 | 2 middle | 1 right | 0 left
 *   1   X, to the right    2   Y, up
 *   3   IntelliMouse: the wheel, towards the user; Explorer: 5 extra | 4 side | 3..0 the wheel
 */
#include <string.h>

#include "dev/ps2.h"

#define ACK 0xfau
#define NACK 0xfcu
#define RESEND 0xfeu
#define TEST_PASSED 0xaau
#define MOUSE_STEP_MAX 255
#define MOUSE_WAITING_MAX 0x7fff /* of what was moved while nobody looked */

enum mouse_command {
    SCALING_1 = 0xe6,
    SCALING_2 = 0xe7,
    RESOLUTION = 0xe8,
    STATUS = 0xe9,
    STREAM = 0xea,
    READ_DATA = 0xeb,
    WRAP_OFF = 0xec,
    WRAP_ON = 0xee,
    REMOTE = 0xf0,
    IDENTIFY = 0xf2,
    SAMPLE_RATE = 0xf3,
    ENABLE = 0xf4,
    DISABLE = 0xf5,
    DEFAULTS = 0xf6,
    SAY_AGAIN = 0xfe,
    RESET = 0xff,
};

static int clamp(int value, int most)
{
    return value > most ? most : value < -most ? -most : value;
}

/* Takes from `*rest` what fits into one report. */
static int mouse_step(int *rest, int most)
{
    int step = clamp(*rest, most);
    *rest -= step;
    return step;
}

/* 2:1 (84F9735, "scaling") */
static int mouse_scale(int step)
{
    static const int small[] = {0, 1, 1, 3, 6, 9};
    int size = step < 0 ? -step : step;
    size = size < 6 ? small[size] : clamp(2 * size, MOUSE_STEP_MAX);
    return step < 0 ? -size : size;
}

/* What has happened, as a report; it has not happened any more. */
static unsigned mouse_make_report(struct ps2_mouse *mouse, uint8_t *bytes, bool scaled)
{
    int x = mouse_step(&mouse->x, MOUSE_STEP_MAX), y = mouse_step(&mouse->y, MOUSE_STEP_MAX);
    int z = mouse->type != 0 ? mouse_step(&mouse->z, mouse->type == 4 ? 7 : 127) : 0;
    x = scaled ? mouse_scale(x) : x;
    y = scaled ? mouse_scale(y) : y;
    mouse->z = mouse->type != 0 ? mouse->z : 0;
    mouse->told_buttons = mouse->buttons;
    bytes[0] = (uint8_t)(0x08 | (mouse->buttons & 7) | (x < 0 ? 0x10 : 0) | (y < 0 ? 0x20 : 0));
    bytes[1] = (uint8_t)x;
    bytes[2] = (uint8_t)y;
    bytes[3] = mouse->type == 4 ? (uint8_t)((z & 0x0f) | (mouse->buttons & 0x18) << 1) : (uint8_t)z;
    return mouse->type != 0 ? 4 : 3;
}

static unsigned mouse_report_bytes(const struct ps2_mouse *mouse)
{
    return mouse->type != 0 ? 4 : 3;
}

void ps2_mouse_report(struct ps2_mouse *mouse)
{
    uint8_t bytes[4];
    uint8_t seen = mouse->type == 4 ? 0x1f : 0x07;
    while (mouse->reporting && !mouse->remote && !mouse->wrap &&
           (mouse->x != 0 || mouse->y != 0 || (mouse->z != 0 && mouse->type != 0) || ((mouse->buttons ^ mouse->told_buttons) & seen) != 0) &&
           mouse->output.count + mouse_report_bytes(mouse) <= PS2_BUFFER_BYTES) {
        unsigned count = mouse_make_report(mouse, bytes, mouse->scaling);
        ps2_say(&mouse->output, bytes, count);
    }
}

void ps2_mouse_event(struct ps2_mouse *mouse, const struct input_event *event)
{
    static const uint8_t bits[INPUT_BUTTONS] = {[INPUT_LEFT] = 0x01, [INPUT_RIGHT] = 0x02, [INPUT_MIDDLE] = 0x04, [INPUT_SIDE] = 0x08,
                                                [INPUT_EXTRA] = 0x10};
    if (event->kind == INPUT_REL && event->code == INPUT_AXIS_X) {
        mouse->x = clamp(mouse->x + event->value, MOUSE_WAITING_MAX);
    } else if (event->kind == INPUT_REL) {
        mouse->y = clamp(mouse->y - event->value, MOUSE_WAITING_MAX);
    } else if (event->kind == INPUT_BUTTON && event->code < INPUT_BUTTONS) {
        bool up = event->code == INPUT_WHEEL_UP, wheel = up || event->code == INPUT_WHEEL_DOWN;
        mouse->z = wheel && event->value != 0 ? clamp(mouse->z + (up ? -1 : 1), MOUSE_WAITING_MAX) : mouse->z;
        mouse->buttons = (uint8_t)(event->value != 0 ? mouse->buttons | bits[event->code] : mouse->buttons & ~bits[event->code]);
    }
}

/* ---- Commands ---- */

static void mouse_forget(struct ps2_mouse *mouse)
{
    mouse->x = mouse->y = mouse->z = 0;
    ps2_drop(&mouse->output);
}

static void mouse_defaults(struct ps2_mouse *mouse)
{
    mouse->rate = 100;
    mouse->resolution = 2;
    mouse->scaling = mouse->remote = mouse->wrap = mouse->reporting = false;
    mouse_forget(mouse);
}

static void mouse_answer(struct ps2_mouse *mouse, uint8_t byte)
{
    ps2_answer(&mouse->output, &byte, 1);
}

/* Microsoft's knocks: 200, 100, 80 and 200, 200, 80 samples a second. */
static void mouse_knock(struct ps2_mouse *mouse, uint8_t rate)
{
    enum { NONE, AT_200, AT_200_100, AT_200_200 };
    uint8_t before = mouse->knock;
    if (rate == 80 && before == AT_200_100 && mouse->type == 0) {
        mouse->type = 3;
    } else if (rate == 80 && before == AT_200_200) {
        mouse->type = 4;
    }
    mouse->knock = rate == 200 ? (before == AT_200 || before == AT_200_200 ? AT_200_200 : AT_200) : rate == 100 && before == AT_200 ? AT_200_100 : NONE;
}

static void mouse_parameter(struct ps2_mouse *mouse, uint8_t command, uint8_t value)
{
    bool good = command == RESOLUTION ? value <= 3 : value != 0 && value <= 200;
    mouse_answer(mouse, good ? ACK : NACK);
    if (good && command == RESOLUTION) {
        mouse->resolution = value;
    } else if (good) {
        mouse->rate = value;
        mouse_knock(mouse, value);
    }
}

static void mouse_answer_status(struct ps2_mouse *mouse)
{
    uint8_t buttons = (uint8_t)((mouse->buttons & 1) << 2 | (mouse->buttons & 4) >> 1 | (mouse->buttons & 2) >> 1);
    const uint8_t answer[] = {
        ACK, (uint8_t)((mouse->remote ? 0x40 : 0) | (mouse->reporting ? 0x20 : 0) | (mouse->scaling ? 0x10 : 0) | buttons), mouse->resolution, mouse->rate};
    ps2_answer(&mouse->output, answer, sizeof(answer));
}

static void mouse_answer_data(struct ps2_mouse *mouse)
{
    uint8_t answer[5] = {ACK};
    unsigned count = mouse_make_report(mouse, answer + 1, false);
    ps2_answer(&mouse->output, answer, 1 + count);
}

void ps2_mouse_write(struct ps2_mouse *mouse, uint8_t value)
{
    const uint8_t passed[] = {ACK, TEST_PASSED, 0x00}, identity[] = {ACK, mouse->type};
    uint8_t waiting = mouse->command;
    mouse->command = 0;
    if (waiting != 0 && value < SCALING_1) {
        mouse_parameter(mouse, waiting, value);
        return;
    }
    if (mouse->wrap && value != WRAP_OFF && value != RESET) {
        mouse_answer(mouse, value);
        return;
    }
    if (value == SAY_AGAIN) {
        mouse_answer(mouse, mouse->output.last);
        return;
    }
    mouse_answer(mouse, ACK);
    ps2_drop(&mouse->output); /* whatever a command finds unsent it drops */
    switch (value) {
    case SCALING_1:
    case SCALING_2:
        mouse->scaling = value == SCALING_2;
        break;
    case RESOLUTION:
    case SAMPLE_RATE:
        mouse->command = value;
        break;
    case STATUS:
        mouse_answer_status(mouse);
        break;
    case STREAM:
    case REMOTE:
        mouse->remote = value == REMOTE;
        mouse_forget(mouse);
        break;
    case READ_DATA:
        mouse_answer_data(mouse);
        break;
    case WRAP_OFF:
    case WRAP_ON:
        mouse->wrap = value == WRAP_ON;
        mouse_forget(mouse);
        break;
    case IDENTIFY:
        ps2_answer(&mouse->output, identity, sizeof(identity));
        break;
    case ENABLE:
    case DISABLE:
        mouse->reporting = value == ENABLE;
        mouse_forget(mouse);
        break;
    case DEFAULTS:
        mouse_defaults(mouse);
        break;
    case RESET:
        mouse_defaults(mouse);
        mouse->type = 0;
        mouse->knock = 0;
        ps2_answer(&mouse->output, passed, sizeof(passed));
        break;
    default:
        mouse_answer(mouse, RESEND);
        break;
    }
}

void ps2_mouse_init(struct ps2_mouse *mouse)
{
    memset(mouse, 0, sizeof(*mouse));
    mouse_defaults(mouse);
}
