/* SPDX-License-Identifier: MIT */
/*
 * The input hub: keys and pointers between who types (a VNC server, QMP's send-key) and the devices that a guest reads. The process has one,
 * which outlives its machines.
 *
 * Producers call from any thread; what they send waits in a queue of INPUT_QUEUE events (more are dropped, but never the release of
 * what was pressed). Sinks (the devices' ends) are called on the loop's thread, where they come and go too. Of several sinks that take a kind
 * of events, only the first in the hub's order gets it: input_activate() makes one the first, a new one is the last.
 */
#ifndef KAGE_DISPLAY_INPUT_H
#define KAGE_DISPLAY_INPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/error.h"
#include "util/loop.h"

#define INPUT_QUEUE 1024u
#define INPUT_ABS_MAX 0x7fff
#define INPUT_HOLD_MAX_MS 60000u

enum input_kind { INPUT_KEY, INPUT_BUTTON, INPUT_REL, INPUT_ABS, INPUT_KINDS };

/* In the order of QMP's InputButton. The wheel's are pressed and released for each step. */
enum input_button {
    INPUT_LEFT,
    INPUT_MIDDLE,
    INPUT_RIGHT,
    INPUT_WHEEL_UP,
    INPUT_WHEEL_DOWN,
    INPUT_SIDE,
    INPUT_EXTRA,
    INPUT_WHEEL_LEFT,
    INPUT_WHEEL_RIGHT,
    INPUT_BUTTONS
};

enum { INPUT_AXIS_X, INPUT_AXIS_Y };

struct input_event {
    enum input_kind kind;
    uint16_t code; /* INPUT_KEY: Linux' KEY_*; INPUT_BUTTON: enum input_button; else INPUT_AXIS_* */
    int32_t value; /* INPUT_KEY, INPUT_BUTTON: 1 down (a key's repetition too), 0 up; INPUT_REL: steps; INPUT_ABS: 0 to INPUT_ABS_MAX */
};

#define INPUT_TAKES(kind) (1u << (kind))
#define INPUT_TAKES_KEYS INPUT_TAKES(INPUT_KEY)
#define INPUT_TAKES_REL (INPUT_TAKES(INPUT_REL) | INPUT_TAKES(INPUT_BUTTON))
#define INPUT_TAKES_ABS (INPUT_TAKES(INPUT_ABS) | INPUT_TAKES(INPUT_BUTTON))

/* A device's end. In its owner's storage. */
struct input_sink {
    const char *name;
    unsigned takes; /* INPUT_TAKES(…) of each kind; not changed while it is in the hub */
    void (*event)(void *opaque, const struct input_event *event);
    /* What belongs together is through: send it on. NULL: nothing to do. Called only of sinks that got events. */
    void (*sync)(void *opaque);
    void *opaque;
    /* The hub's. */
    bool pending;
    struct input_sink *next;
};

struct input_hub;

/* NULL, with `error` filled. */
struct input_hub *input_hub_new(struct loop *loop, struct error *error);
void input_hub_free(struct input_hub *hub); /* NULL: nothing to do */

/* ---- For devices, on the loop's thread ---- */

void input_add(struct input_hub *hub, struct input_sink *sink);
void input_remove(struct input_hub *hub, struct input_sink *sink);
/* It goes before all others: as when a guest's driver has begun to use it; or behind all others (`first` false). */
void input_activate(struct input_hub *hub, struct input_sink *sink, bool first);
/* The keyboard's lights, as the guest sets them. From any thread. */
enum { INPUT_LED_SCROLL = 1, INPUT_LED_NUM = 2, INPUT_LED_CAPS = 4 };
void input_set_leds(struct input_hub *hub, unsigned leds);

/* ---- For producers, from any thread ---- */

unsigned input_leds(struct input_hub *hub);
/* The machine runs; what comes while it does not is dropped, as are releases that a sink has no press of. At first it does. */
void input_set_running(struct input_hub *hub, bool running);
/* Pointers go by INPUT_ABS: false: by INPUT_REL. */
bool input_is_absolute(struct input_hub *hub);
/* Somebody takes this kind. */
bool input_takes(struct input_hub *hub, enum input_kind kind);
void input_send(struct input_hub *hub, enum input_kind kind, unsigned code, int value);
/* Ends what belongs together. */
void input_sync(struct input_hub *hub);
/* The keys go down in turn, and `hold_ms` (at most INPUT_HOLD_MAX_MS) later up in the opposite order; what is sent meanwhile comes after that. */
void input_press(struct input_hub *hub, const uint16_t *keys, size_t count, unsigned hold_ms);

/* ---- Keys by their names: keys.c ---- */

/* A key of QMP's QKeyCode ("ret", "a", "ctrl_r") as Linux' KEY_*; -1: there is none. */
int input_key_by_name(const char *qcode);
/* NULL: it has none. */
const char *input_key_name(unsigned key);
/* Of the numbers that QMP's KeyValue has, PC scan codes of set 1, 0x80 set for those behind 0xE0; -1: there is none. */
int input_key_by_number(unsigned number);
/* QMP's InputButton ("left", "wheel-up"); -1: there is none. */
int input_button_by_name(const char *name);

/* What types an X11 keysym: a key, and what has to be held with it. */
struct input_stroke {
    uint16_t key; /* 0: nothing types it */
    bool shift, altgr;
};
/* `layout`: as in -k ("en-us"), NULL: that one. */
struct input_stroke input_key_by_keysym(const char *layout, uint32_t keysym);
/* Is there such a layout? */
bool input_has_layout(const char *layout);

#endif
