/* SPDX-License-Identifier: MIT */
/*
 * The keyboard. Of each key the code of set 1 stands in a table (Linux' numbers of the keys of the PC/AT are these codes); what set 2 calls it
 * follows from the controller's translation; set 3 has a table of its own. A code is its byte, with BEHIND_E0 where the prefix 0xE0 goes before it.
 */
#include <string.h>

#include <linux/input-event-codes.h>

#include "dev/ps2.h"

#define BEHIND_E0 0x100u
#define ACK 0xfau
#define RESEND 0xfeu
#define TEST_PASSED 0xaau
#define CODES_MAX 8u

enum keyboard_command {
    SET_LEDS = 0xed,
    ECHO = 0xee,
    SCAN_CODE_SET = 0xf0,
    IDENTIFY = 0xf2,
    SET_RATE = 0xf3,
    ENABLE = 0xf4,
    DISABLE = 0xf5, /* and the defaults */
    DEFAULTS = 0xf6,
    ALL_REPEAT = 0xf7,
    ALL_MAKE_BREAK = 0xf8,
    ALL_MAKE = 0xf9,
    ALL_REPEAT_BREAK = 0xfa,
    KEY_REPEAT = 0xfb,
    KEY_MAKE_BREAK = 0xfc,
    KEY_MAKE = 0xfd,
    SAY_AGAIN = 0xfe,
    RESET = 0xff,
};

#define RATE_DEFAULT 0x2bu /* 10.9 a second, after half a second */

/* Beyond KEY_KPDOT, where Linux' numbers are not set 1's codes any more. */
static const uint16_t keyboard_set1[PS2_KEYS] = {
    [KEY_102ND] = 0x56,
    [KEY_F11] = 0x57,
    [KEY_F12] = 0x58,
    [KEY_RO] = 0x73,
    [KEY_KATAKANAHIRAGANA] = 0x70,
    [KEY_HENKAN] = 0x79,
    [KEY_MUHENKAN] = 0x7b,
    [KEY_YEN] = 0x7d,
    [KEY_KPCOMMA] = 0x7e,
    [KEY_KPEQUAL] = 0x59,
    [KEY_KPENTER] = BEHIND_E0 | 0x1c,
    [KEY_RIGHTCTRL] = BEHIND_E0 | 0x1d,
    [KEY_KPSLASH] = BEHIND_E0 | 0x35,
    [KEY_RIGHTALT] = BEHIND_E0 | 0x38,
    [KEY_HOME] = BEHIND_E0 | 0x47,
    [KEY_UP] = BEHIND_E0 | 0x48,
    [KEY_PAGEUP] = BEHIND_E0 | 0x49,
    [KEY_LEFT] = BEHIND_E0 | 0x4b,
    [KEY_RIGHT] = BEHIND_E0 | 0x4d,
    [KEY_END] = BEHIND_E0 | 0x4f,
    [KEY_DOWN] = BEHIND_E0 | 0x50,
    [KEY_PAGEDOWN] = BEHIND_E0 | 0x51,
    [KEY_INSERT] = BEHIND_E0 | 0x52,
    [KEY_DELETE] = BEHIND_E0 | 0x53,
    [KEY_LEFTMETA] = BEHIND_E0 | 0x5b,
    [KEY_RIGHTMETA] = BEHIND_E0 | 0x5c,
    [KEY_COMPOSE] = BEHIND_E0 | 0x5d,
    [KEY_POWER] = BEHIND_E0 | 0x5e,
    [KEY_SLEEP] = BEHIND_E0 | 0x5f,
    [KEY_WAKEUP] = BEHIND_E0 | 0x63,
    [KEY_MUTE] = BEHIND_E0 | 0x20,
    [KEY_CALC] = BEHIND_E0 | 0x21,
    [KEY_PLAYPAUSE] = BEHIND_E0 | 0x22,
    [KEY_STOPCD] = BEHIND_E0 | 0x24,
    [KEY_VOLUMEDOWN] = BEHIND_E0 | 0x2e,
    [KEY_VOLUMEUP] = BEHIND_E0 | 0x30,
    [KEY_HOMEPAGE] = BEHIND_E0 | 0x32,
    [KEY_PREVIOUSSONG] = BEHIND_E0 | 0x10,
    [KEY_NEXTSONG] = BEHIND_E0 | 0x19,
    [KEY_SEARCH] = BEHIND_E0 | 0x65,
    [KEY_BOOKMARKS] = BEHIND_E0 | 0x66,
    [KEY_REFRESH] = BEHIND_E0 | 0x67,
    [KEY_STOP] = BEHIND_E0 | 0x68,
    [KEY_FORWARD] = BEHIND_E0 | 0x69,
    [KEY_BACK] = BEHIND_E0 | 0x6a,
    [KEY_COMPUTER] = BEHIND_E0 | 0x6b,
    [KEY_MAIL] = BEHIND_E0 | 0x6c,
    [KEY_MEDIA] = BEHIND_E0 | 0x6d,
};

static const uint8_t keyboard_set3[PS2_KEYS] = {
    [KEY_ESC] = 0x08, [KEY_1] = 0x16, [KEY_2] = 0x1e, [KEY_3] = 0x26, [KEY_4] = 0x25, [KEY_5] = 0x2e, [KEY_6] = 0x36, [KEY_7] = 0x3d,
    [KEY_8] = 0x3e, [KEY_9] = 0x46, [KEY_0] = 0x45, [KEY_MINUS] = 0x4e, [KEY_EQUAL] = 0x55, [KEY_BACKSPACE] = 0x66, [KEY_TAB] = 0x0d,
    [KEY_Q] = 0x15, [KEY_W] = 0x1d, [KEY_E] = 0x24, [KEY_R] = 0x2d, [KEY_T] = 0x2c, [KEY_Y] = 0x35, [KEY_U] = 0x3c, [KEY_I] = 0x43,
    [KEY_O] = 0x44, [KEY_P] = 0x4d, [KEY_LEFTBRACE] = 0x54, [KEY_RIGHTBRACE] = 0x5b, [KEY_ENTER] = 0x5a, [KEY_LEFTCTRL] = 0x11,
    [KEY_A] = 0x1c, [KEY_S] = 0x1b, [KEY_D] = 0x23, [KEY_F] = 0x2b, [KEY_G] = 0x34, [KEY_H] = 0x33, [KEY_J] = 0x3b, [KEY_K] = 0x42,
    [KEY_L] = 0x4b, [KEY_SEMICOLON] = 0x4c, [KEY_APOSTROPHE] = 0x52, [KEY_GRAVE] = 0x0e, [KEY_LEFTSHIFT] = 0x12, [KEY_BACKSLASH] = 0x5c,
    [KEY_Z] = 0x1a, [KEY_X] = 0x22, [KEY_C] = 0x21, [KEY_V] = 0x2a, [KEY_B] = 0x32, [KEY_N] = 0x31, [KEY_M] = 0x3a, [KEY_COMMA] = 0x41,
    [KEY_DOT] = 0x49, [KEY_SLASH] = 0x4a, [KEY_RIGHTSHIFT] = 0x59, [KEY_KPASTERISK] = 0x7e, [KEY_LEFTALT] = 0x19, [KEY_SPACE] = 0x29,
    [KEY_CAPSLOCK] = 0x14, [KEY_F1] = 0x07, [KEY_F2] = 0x0f, [KEY_F3] = 0x17, [KEY_F4] = 0x1f, [KEY_F5] = 0x27, [KEY_F6] = 0x2f,
    [KEY_F7] = 0x37, [KEY_F8] = 0x3f, [KEY_F9] = 0x47, [KEY_F10] = 0x4f, [KEY_F11] = 0x56, [KEY_F12] = 0x5e, [KEY_NUMLOCK] = 0x76,
    [KEY_SCROLLLOCK] = 0x5f, [KEY_KP7] = 0x6c, [KEY_KP8] = 0x75, [KEY_KP9] = 0x7d, [KEY_KPMINUS] = 0x84, [KEY_KP4] = 0x6b,
    [KEY_KP5] = 0x73, [KEY_KP6] = 0x74, [KEY_KPPLUS] = 0x7c, [KEY_KP1] = 0x69, [KEY_KP2] = 0x72, [KEY_KP3] = 0x7a, [KEY_KP0] = 0x70,
    [KEY_KPDOT] = 0x71, [KEY_102ND] = 0x13, [KEY_KPENTER] = 0x79, [KEY_RIGHTCTRL] = 0x58, [KEY_KPSLASH] = 0x77, [KEY_RIGHTALT] = 0x39,
    [KEY_HOME] = 0x6e, [KEY_UP] = 0x63, [KEY_PAGEUP] = 0x6f, [KEY_LEFT] = 0x61, [KEY_RIGHT] = 0x6a, [KEY_END] = 0x65, [KEY_DOWN] = 0x60,
    [KEY_PAGEDOWN] = 0x6d, [KEY_INSERT] = 0x67, [KEY_DELETE] = 0x64, [KEY_LEFTMETA] = 0x8b, [KEY_RIGHTMETA] = 0x8c, [KEY_COMPOSE] = 0x8d,
    [KEY_SYSRQ] = 0x57, [KEY_PAUSE] = 0x62,
};

/* ---- Codes ---- */

static unsigned keyboard_set1_code(unsigned key)
{
    return key <= KEY_KPDOT ? key : keyboard_set1[key];
}

/* The code of set 2 that is translated to it. F7 and Alt-SysRq have theirs beyond the table. */
static uint8_t keyboard_set2_code(uint8_t set1)
{
    for (unsigned code = 0; code < sizeof(ps2_translation) && set1 != 0x41 && set1 != 0x54; code++) {
        if (ps2_translation[code] == set1) {
            return (uint8_t)code;
        }
    }
    return set1 == 0x41 ? 0x83 : set1 == 0x54 ? 0x84 : 0;
}

/* Appends the code of set 1 in the keyboard's set, 1 or 2, made or broken. */
static unsigned keyboard_put(const struct ps2_keyboard *keyboard, uint8_t *bytes, unsigned count, unsigned code, bool down)
{
    if ((code & BEHIND_E0) != 0) {
        bytes[count++] = 0xe0;
    }
    if (keyboard->set == 1) {
        bytes[count++] = (uint8_t)((code & 0x7f) | (down ? 0 : 0x80));
        return count;
    }
    if (!down) {
        bytes[count++] = 0xf0;
    }
    bytes[count++] = keyboard_set2_code((uint8_t)(code & 0x7f));
    return count;
}

static bool keyboard_either(const struct ps2_keyboard *keyboard, unsigned left, unsigned right)
{
    return keyboard->down[left] || keyboard->down[right];
}

/* Print Screen says Shift, too, unless that or Ctrl is down; with Alt it is a key of its own, which the 84-key keyboard had. */
static unsigned keyboard_put_print(const struct ps2_keyboard *keyboard, uint8_t *bytes, bool down)
{
    const unsigned shift = BEHIND_E0 | 0x2a, print = BEHIND_E0 | 0x37;
    if (keyboard_either(keyboard, KEY_LEFTALT, KEY_RIGHTALT)) {
        return keyboard_put(keyboard, bytes, 0, 0x54, down);
    }
    if (keyboard_either(keyboard, KEY_LEFTSHIFT, KEY_RIGHTSHIFT) || keyboard_either(keyboard, KEY_LEFTCTRL, KEY_RIGHTCTRL)) {
        return keyboard_put(keyboard, bytes, 0, print, down);
    }
    unsigned count = keyboard_put(keyboard, bytes, 0, down ? shift : print, down);
    return keyboard_put(keyboard, bytes, count, down ? print : shift, down);
}

/* Pause is made and broken at once; with Ctrl it is Break. */
static unsigned keyboard_put_pause(const struct ps2_keyboard *keyboard, uint8_t *bytes, bool down)
{
    static const uint8_t pause[2][8] = {{0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5}, {0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77}};
    if (!down) {
        return 0;
    }
    if (keyboard_either(keyboard, KEY_LEFTCTRL, KEY_RIGHTCTRL)) {
        unsigned count = keyboard_put(keyboard, bytes, 0, BEHIND_E0 | 0x46, true);
        return keyboard_put(keyboard, bytes, count, BEHIND_E0 | 0x46, false);
    }
    memcpy(bytes, pause[keyboard->set == 1 ? 0 : 1], 8);
    return keyboard->set == 1 ? 6 : 8;
}

/* What a key says in its set; nothing: it has no code there, or its driver does not want to know. */
static unsigned keyboard_codes(const struct ps2_keyboard *keyboard, unsigned key, bool down, bool repeat, uint8_t *bytes)
{
    if (keyboard->set == 3) {
        uint8_t code = keyboard_set3[key], kind = keyboard->kind[code];
        unsigned count = 0;
        if (code == 0 || (!down && (kind & PS2_KIND_BREAK) == 0) || (repeat && (kind & PS2_KIND_REPEAT) == 0)) {
            return 0;
        }
        if (!down) {
            bytes[count++] = 0xf0;
        }
        bytes[count++] = code;
        return count;
    }
    if (key == KEY_SYSRQ) {
        return keyboard_put_print(keyboard, bytes, down);
    }
    if (key == KEY_PAUSE) {
        return keyboard_put_pause(keyboard, bytes, down && !repeat);
    }
    unsigned code = keyboard_set1_code(key);
    return code != 0 ? keyboard_put(keyboard, bytes, 0, code, down) : 0;
}

void ps2_keyboard_event(struct ps2_keyboard *keyboard, const struct input_event *event)
{
    uint8_t bytes[CODES_MAX];
    unsigned key = event->code;
    bool down = event->value != 0;
    if (key == 0 || key >= PS2_KEYS || (!down && !keyboard->down[key])) {
        return;
    }
    bool repeat = down && keyboard->down[key];
    keyboard->down[key] = down;
    unsigned count = keyboard->scanning ? keyboard_codes(keyboard, key, down, repeat, bytes) : 0;
    if (count == 0) {
        return;
    }
    if (ps2_say(&keyboard->output, bytes, count)) {
        keyboard->overrun = false;
    } else if (!keyboard->overrun) {
        /* The last place is always the overrun's: the code that does not fit takes the place of the one before it. */
        const uint8_t overrun = keyboard->set == 1 ? 0xff : 0x00;
        keyboard->output.buffer[(keyboard->output.first + keyboard->output.count - 1) % PS2_BUFFER_BYTES] = overrun;
        keyboard->overrun = true;
    }
}

/* ---- Commands ---- */

static void keyboard_set_kinds(struct ps2_keyboard *keyboard, uint8_t kind)
{
    memset(keyboard->kind, kind, sizeof(keyboard->kind));
}

/* After a reset (84F9735, "scan code set 3"): letters repeat, Shift, Ctrl and Alt are made and broken, the rest is only made. */
static void keyboard_default_kinds(struct ps2_keyboard *keyboard)
{
    static const uint8_t both[] = {0x11, 0x12, 0x14, 0x19, 0x59};
    static const uint8_t made[] = {0x08, 0x07, 0x0f, 0x17, 0x1f, 0x27, 0x2f, 0x37, 0x3f, 0x47, 0x4f, 0x56, 0x5e, 0x57, 0x5f, 0x62, 0x58,
                                   0x39, 0x6e, 0x6f, 0x65, 0x6d, 0x67, 0x76, 0x6c, 0x75, 0x7d, 0x6b, 0x73, 0x74, 0x69, 0x72, 0x7a, 0x70,
                                   0x71, 0x77, 0x7e, 0x84, 0x79};
    keyboard_set_kinds(keyboard, PS2_KIND_REPEAT);
    for (unsigned i = 0; i < sizeof(both); i++) {
        keyboard->kind[both[i]] = PS2_KIND_BREAK;
    }
    for (unsigned i = 0; i < sizeof(made); i++) {
        keyboard->kind[made[i]] = 0;
    }
}

static void keyboard_defaults(struct ps2_keyboard *keyboard)
{
    keyboard->set = 2;
    keyboard->rate = RATE_DEFAULT;
    keyboard_default_kinds(keyboard);
    ps2_drop(&keyboard->output);
}

static void keyboard_answer(struct ps2_keyboard *keyboard, uint8_t byte)
{
    ps2_answer(&keyboard->output, &byte, 1);
}

static const struct {
    uint8_t command, kind;
} keyboard_kinds[] = {
    {ALL_REPEAT, PS2_KIND_REPEAT}, {ALL_MAKE_BREAK, PS2_KIND_BREAK}, {ALL_MAKE, 0}, {ALL_REPEAT_BREAK, PS2_KIND_REPEAT | PS2_KIND_BREAK},
    {KEY_REPEAT, PS2_KIND_REPEAT}, {KEY_MAKE_BREAK, PS2_KIND_BREAK}, {KEY_MAKE, 0},
};

static uint8_t keyboard_kind_of(uint8_t command)
{
    uint8_t kind = 0;
    for (unsigned i = 0; i < sizeof(keyboard_kinds) / sizeof(keyboard_kinds[0]); i++) {
        kind = keyboard_kinds[i].command == command ? keyboard_kinds[i].kind : kind;
    }
    return kind;
}

/* A command's parameter. False: it is none, but another command. */
static bool keyboard_parameter(struct ps2_keyboard *keyboard, uint8_t command, uint8_t value)
{
    bool of_keys = command == KEY_REPEAT || command == KEY_MAKE_BREAK || command == KEY_MAKE;
    if (value >= SET_LEDS) {
        return false;
    }
    keyboard_answer(keyboard, ACK);
    if (of_keys) {
        keyboard->kind[value] = keyboard_kind_of(command);
        keyboard->command = command; /* more of them may follow */
    } else if (command == SET_LEDS) {
        keyboard->leds = value & (INPUT_LED_SCROLL | INPUT_LED_NUM | INPUT_LED_CAPS);
    } else if (command == SET_RATE) {
        keyboard->rate = value & 0x7f;
    } else if (value == 0) {
        const uint8_t answer[] = {ACK, keyboard->set};
        ps2_answer(&keyboard->output, answer, sizeof(answer));
    } else if (value <= 3) {
        keyboard->set = value;
        ps2_drop(&keyboard->output);
    } else {
        keyboard_answer(keyboard, RESEND);
    }
    return true;
}

void ps2_keyboard_write(struct ps2_keyboard *keyboard, uint8_t value)
{
    static const uint8_t identity[] = {ACK, 0xab, 0x83}, passed[] = {ACK, TEST_PASSED};
    uint8_t waiting = keyboard->command;
    keyboard->command = 0;
    if (waiting != 0 && keyboard_parameter(keyboard, waiting, value)) {
        return;
    }
    if (value == SAY_AGAIN) {
        keyboard_answer(keyboard, keyboard->output.last);
        return;
    }
    keyboard_answer(keyboard, ACK);
    switch (value) {
    case SET_LEDS:
    case SCAN_CODE_SET:
    case SET_RATE:
    case KEY_REPEAT:
    case KEY_MAKE_BREAK:
    case KEY_MAKE:
        keyboard->command = value;
        break;
    case ECHO:
        keyboard_answer(keyboard, ECHO);
        break;
    case IDENTIFY:
        ps2_answer(&keyboard->output, identity, sizeof(identity));
        break;
    case ENABLE:
        keyboard->scanning = true;
        ps2_drop(&keyboard->output);
        break;
    case DISABLE:
    case DEFAULTS:
        keyboard_defaults(keyboard);
        keyboard->scanning = value == DEFAULTS;
        break;
    case ALL_REPEAT:
    case ALL_MAKE_BREAK:
    case ALL_MAKE:
    case ALL_REPEAT_BREAK:
        keyboard_set_kinds(keyboard, keyboard_kind_of(value));
        break;
    case RESET:
        keyboard_defaults(keyboard);
        keyboard->leds = 0;
        keyboard->scanning = true;
        ps2_answer(&keyboard->output, passed, sizeof(passed));
        break;
    default:
        keyboard_answer(keyboard, RESEND);
        break;
    }
}

void ps2_keyboard_init(struct ps2_keyboard *keyboard)
{
    memset(keyboard, 0, sizeof(*keyboard));
    keyboard_defaults(keyboard);
    keyboard->scanning = true;
}
