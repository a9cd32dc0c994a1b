/* SPDX-License-Identifier: MIT */
/*
 * What is plugged into a PC's keyboard controller: a keyboard with 102 keys and the media keys (IBM 84F9735, PS/2 keyboard; Microsoft's
 * Keyboard Scan Code Specification), and a mouse (IBM 84F9735, PS/2 mouse) that turns into Microsoft's IntelliMouse or IntelliMouse Explorer.
 * Each is what comes in by its wire, what it has to say, and what a user does with it; it has no lock: the controller's is its own.
 *
 * A device says the answers of a command first, and then what its user has done; that waits in a buffer of bounded size, as in the chips. It
 * does not repeat a key that is held down: who types does, and the device lets through what its driver has asked for.
 */
#ifndef KAGE_DEV_PS2_H
#define KAGE_DEV_PS2_H

#include <stdbool.h>
#include <stdint.h>

#include "display/input.h"

#define PS2_ANSWER_BYTES 8u
#define PS2_BUFFER_BYTES 64u /* a power of 2 */
#define PS2_KEYS 256u        /* Linux' KEY_*; there are no others that have a code */

/* What a device has to say. */
struct ps2_output {
    uint8_t answer[PS2_ANSWER_BYTES];
    unsigned answer_first, answer_count;
    uint8_t buffer[PS2_BUFFER_BYTES];
    unsigned first, count;
    uint8_t last; /* what was said last */
};

struct ps2_keyboard {
    struct ps2_output output;
    uint8_t command; /* waits for its parameter; 0: none */
    uint8_t set;     /* of scan codes: 1 to 3 */
    uint8_t rate;    /* as it was set: typematic rate and delay */
    uint8_t leds;    /* INPUT_LED_* */
    bool scanning;   /* off: keys are not told of */
    bool overrun;    /* keys were lost since the buffer was full, and that was said */
    bool down[PS2_KEYS];
    uint8_t kind[PS2_KEYS]; /* of set 3, by its code: PS2_KIND_* */
};
enum { PS2_KIND_BREAK = 1, PS2_KIND_REPEAT = 2 };

struct ps2_mouse {
    struct ps2_output output;
    uint8_t command;    /* waits for its parameter; 0: none */
    uint8_t type;       /* 0, 3 IntelliMouse, 4 Explorer */
    uint8_t knock;      /* how much of the sequence of sample rates that changes the type has come */
    uint8_t resolution; /* counts/mm: 1 << resolution */
    uint8_t rate;
    bool scaling;       /* 2:1 */
    bool remote, wrap, reporting;
    uint8_t buttons, told_buttons; /* bits: left, right, middle, side, extra */
    int x, y, z;        /* moved since the last report */
};

/* ---- To the controller: the next byte, where there is one ---- */

bool ps2_take(struct ps2_output *output, uint8_t *byte);
void ps2_answer(struct ps2_output *output, const uint8_t *bytes, unsigned count);
void ps2_drop(struct ps2_output *output);
/* All of them, or (false) none: there is no room. */
bool ps2_say(struct ps2_output *output, const uint8_t *bytes, unsigned count);

void ps2_keyboard_init(struct ps2_keyboard *keyboard);
/* A byte from the controller. */
void ps2_keyboard_write(struct ps2_keyboard *keyboard, uint8_t value);
/* Of INPUT_KEY: a user presses or lets go. */
void ps2_keyboard_event(struct ps2_keyboard *keyboard, const struct input_event *event);

void ps2_mouse_init(struct ps2_mouse *mouse);
void ps2_mouse_write(struct ps2_mouse *mouse, uint8_t value);
/* Of INPUT_REL or INPUT_BUTTON. */
void ps2_mouse_event(struct ps2_mouse *mouse, const struct input_event *event);
/* Says what was not said yet, if it may and there is room. */
void ps2_mouse_report(struct ps2_mouse *mouse);

/* What the controller makes of a code of set 2 (IBM PS/2 Hardware Interface Technical Reference, keyboard controller): set 1. */
extern const uint8_t ps2_translation[128];

#endif
