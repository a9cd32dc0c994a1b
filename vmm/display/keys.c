/* SPDX-License-Identifier: MIT */
/*
 * Keys by their names: one table of what a key is called by Linux, by QMP (QKeyCode) and by the PC (scan codes of set 1), and what it types on
 * a keyboard of the United States; and for each other layout, the keys that type something else there.
 */
#include <linux/input-event-codes.h>
#include <string.h>

#include "display/input.h"

#define E0 0x80u /* of a scan code: it has the prefix 0xE0 */

struct key {
    uint16_t key;
    const char *name;
    uint8_t number;        /* 0: none */
    uint32_t plain, shift; /* X11 keysyms; of Latin 1, the characters themselves */
};

static const struct key keys[] = {
    {KEY_ESC, "esc", 0x01, 0xff1b, 0},
    {KEY_1, "1", 0x02, '1', '!'},
    {KEY_2, "2", 0x03, '2', '@'},
    {KEY_3, "3", 0x04, '3', '#'},
    {KEY_4, "4", 0x05, '4', '$'},
    {KEY_5, "5", 0x06, '5', '%'},
    {KEY_6, "6", 0x07, '6', '^'},
    {KEY_7, "7", 0x08, '7', '&'},
    {KEY_8, "8", 0x09, '8', '*'},
    {KEY_9, "9", 0x0a, '9', '('},
    {KEY_0, "0", 0x0b, '0', ')'},
    {KEY_MINUS, "minus", 0x0c, '-', '_'},
    {KEY_EQUAL, "equal", 0x0d, '=', '+'},
    {KEY_BACKSPACE, "backspace", 0x0e, 0xff08, 0},
    {KEY_TAB, "tab", 0x0f, 0xff09, 0xfe20},
    {KEY_Q, "q", 0x10, 'q', 'Q'},
    {KEY_W, "w", 0x11, 'w', 'W'},
    {KEY_E, "e", 0x12, 'e', 'E'},
    {KEY_R, "r", 0x13, 'r', 'R'},
    {KEY_T, "t", 0x14, 't', 'T'},
    {KEY_Y, "y", 0x15, 'y', 'Y'},
    {KEY_U, "u", 0x16, 'u', 'U'},
    {KEY_I, "i", 0x17, 'i', 'I'},
    {KEY_O, "o", 0x18, 'o', 'O'},
    {KEY_P, "p", 0x19, 'p', 'P'},
    {KEY_LEFTBRACE, "bracket_left", 0x1a, '[', '{'},
    {KEY_RIGHTBRACE, "bracket_right", 0x1b, ']', '}'},
    {KEY_ENTER, "ret", 0x1c, 0xff0d, 0},
    {KEY_LEFTCTRL, "ctrl", 0x1d, 0xffe3, 0},
    {KEY_A, "a", 0x1e, 'a', 'A'},
    {KEY_S, "s", 0x1f, 's', 'S'},
    {KEY_D, "d", 0x20, 'd', 'D'},
    {KEY_F, "f", 0x21, 'f', 'F'},
    {KEY_G, "g", 0x22, 'g', 'G'},
    {KEY_H, "h", 0x23, 'h', 'H'},
    {KEY_J, "j", 0x24, 'j', 'J'},
    {KEY_K, "k", 0x25, 'k', 'K'},
    {KEY_L, "l", 0x26, 'l', 'L'},
    {KEY_SEMICOLON, "semicolon", 0x27, ';', ':'},
    {KEY_APOSTROPHE, "apostrophe", 0x28, '\'', '"'},
    {KEY_GRAVE, "grave_accent", 0x29, '`', '~'},
    {KEY_LEFTSHIFT, "shift", 0x2a, 0xffe1, 0},
    {KEY_BACKSLASH, "backslash", 0x2b, '\\', '|'},
    {KEY_Z, "z", 0x2c, 'z', 'Z'},
    {KEY_X, "x", 0x2d, 'x', 'X'},
    {KEY_C, "c", 0x2e, 'c', 'C'},
    {KEY_V, "v", 0x2f, 'v', 'V'},
    {KEY_B, "b", 0x30, 'b', 'B'},
    {KEY_N, "n", 0x31, 'n', 'N'},
    {KEY_M, "m", 0x32, 'm', 'M'},
    {KEY_COMMA, "comma", 0x33, ',', '<'},
    {KEY_DOT, "dot", 0x34, '.', '>'},
    {KEY_SLASH, "slash", 0x35, '/', '?'},
    {KEY_RIGHTSHIFT, "shift_r", 0x36, 0xffe2, 0},
    {KEY_KPASTERISK, "kp_multiply", 0x37, 0xffaa, 0},
    {KEY_LEFTALT, "alt", 0x38, 0xffe9, 0xffe7},
    {KEY_SPACE, "spc", 0x39, ' ', 0},
    {KEY_CAPSLOCK, "caps_lock", 0x3a, 0xffe5, 0},
    {KEY_F1, "f1", 0x3b, 0xffbe, 0},
    {KEY_F2, "f2", 0x3c, 0xffbf, 0},
    {KEY_F3, "f3", 0x3d, 0xffc0, 0},
    {KEY_F4, "f4", 0x3e, 0xffc1, 0},
    {KEY_F5, "f5", 0x3f, 0xffc2, 0},
    {KEY_F6, "f6", 0x40, 0xffc3, 0},
    {KEY_F7, "f7", 0x41, 0xffc4, 0},
    {KEY_F8, "f8", 0x42, 0xffc5, 0},
    {KEY_F9, "f9", 0x43, 0xffc6, 0},
    {KEY_F10, "f10", 0x44, 0xffc7, 0},
    {KEY_NUMLOCK, "num_lock", 0x45, 0xff7f, 0},
    {KEY_SCROLLLOCK, "scroll_lock", 0x46, 0xff14, 0},
    {KEY_KP7, "kp_7", 0x47, 0xff95, 0xffb7},
    {KEY_KP8, "kp_8", 0x48, 0xff97, 0xffb8},
    {KEY_KP9, "kp_9", 0x49, 0xff9a, 0xffb9},
    {KEY_KPMINUS, "kp_subtract", 0x4a, 0xffad, 0},
    {KEY_KP4, "kp_4", 0x4b, 0xff96, 0xffb4},
    {KEY_KP5, "kp_5", 0x4c, 0xff9d, 0xffb5},
    {KEY_KP6, "kp_6", 0x4d, 0xff98, 0xffb6},
    {KEY_KPPLUS, "kp_add", 0x4e, 0xffab, 0},
    {KEY_KP1, "kp_1", 0x4f, 0xff9c, 0xffb1},
    {KEY_KP2, "kp_2", 0x50, 0xff99, 0xffb2},
    {KEY_KP3, "kp_3", 0x51, 0xff9b, 0xffb3},
    {KEY_KP0, "kp_0", 0x52, 0xff9e, 0xffb0},
    {KEY_KPDOT, "kp_decimal", 0x53, 0xff9f, 0xffae},
    {KEY_102ND, "less", 0x56, 0, 0},
    {KEY_F11, "f11", 0x57, 0xffc8, 0},
    {KEY_F12, "f12", 0x58, 0xffc9, 0},
    {KEY_RO, "ro", 0x73, 0, 0},
    {KEY_KATAKANAHIRAGANA, "katakanahiragana", 0x70, 0xff27, 0},
    {KEY_HIRAGANA, "hiragana", 0x77, 0xff25, 0},
    {KEY_HENKAN, "henkan", 0x79, 0xff23, 0},
    {KEY_MUHENKAN, "muhenkan", 0x7b, 0xff22, 0},
    {KEY_YEN, "yen", 0x7d, 0xa5, 0},
    {KEY_KPCOMMA, "kp_comma", 0x7e, 0xffac, 0},
    {KEY_KPEQUAL, "kp_equals", 0x59, 0xffbd, 0},
    {KEY_SYSRQ, "sysrq", 0x54, 0xff15, 0},
    {KEY_SYSRQ, "print", E0 | 0x37, 0xff61, 0},
    {KEY_KPENTER, "kp_enter", E0 | 0x1c, 0xff8d, 0},
    {KEY_RIGHTCTRL, "ctrl_r", E0 | 0x1d, 0xffe4, 0},
    {KEY_KPSLASH, "kp_divide", E0 | 0x35, 0xffaf, 0},
    {KEY_RIGHTALT, "alt_r", E0 | 0x38, 0xffea, 0xffe8},
    {KEY_HOME, "home", E0 | 0x47, 0xff50, 0},
    {KEY_UP, "up", E0 | 0x48, 0xff52, 0},
    {KEY_PAGEUP, "pgup", E0 | 0x49, 0xff55, 0},
    {KEY_LEFT, "left", E0 | 0x4b, 0xff51, 0},
    {KEY_RIGHT, "right", E0 | 0x4d, 0xff53, 0},
    {KEY_END, "end", E0 | 0x4f, 0xff57, 0},
    {KEY_DOWN, "down", E0 | 0x50, 0xff54, 0},
    {KEY_PAGEDOWN, "pgdn", E0 | 0x51, 0xff56, 0},
    {KEY_INSERT, "insert", E0 | 0x52, 0xff63, 0},
    {KEY_DELETE, "delete", E0 | 0x53, 0xffff, 0},
    {KEY_PAUSE, "pause", E0 | 0x46, 0xff13, 0xff6b},
    {KEY_LEFTMETA, "meta_l", E0 | 0x5b, 0xffeb, 0},
    {KEY_RIGHTMETA, "meta_r", E0 | 0x5c, 0xffec, 0},
    {KEY_COMPOSE, "compose", E0 | 0x5d, 0xff20, 0},
    {KEY_MENU, "menu", E0 | 0x1e, 0xff67, 0},
    {KEY_POWER, "power", E0 | 0x5e, 0, 0},
    {KEY_SLEEP, "sleep", E0 | 0x5f, 0, 0},
    {KEY_WAKEUP, "wake", E0 | 0x63, 0, 0},
    {KEY_MUTE, "audiomute", E0 | 0x20, 0x1008ff12, 0},
    {KEY_VOLUMEDOWN, "volumedown", E0 | 0x2e, 0x1008ff11, 0},
    {KEY_VOLUMEUP, "volumeup", E0 | 0x30, 0x1008ff13, 0},
    {KEY_NEXTSONG, "audionext", E0 | 0x19, 0x1008ff17, 0},
    {KEY_PREVIOUSSONG, "audioprev", E0 | 0x10, 0x1008ff16, 0},
    {KEY_STOPCD, "audiostop", E0 | 0x24, 0x1008ff15, 0},
    {KEY_PLAYPAUSE, "audioplay", E0 | 0x22, 0x1008ff14, 0},
    {KEY_MEDIA, "mediaselect", E0 | 0x6d, 0, 0},
    {KEY_MAIL, "mail", E0 | 0x6c, 0x1008ff19, 0},
    {KEY_CALC, "calculator", E0 | 0x21, 0x1008ff1d, 0},
    {KEY_COMPUTER, "computer", E0 | 0x6b, 0, 0},
    {KEY_HOMEPAGE, "ac_home", E0 | 0x32, 0x1008ff18, 0},
    {KEY_BACK, "ac_back", E0 | 0x6a, 0x1008ff26, 0},
    {KEY_FORWARD, "ac_forward", E0 | 0x69, 0x1008ff27, 0},
    {KEY_REFRESH, "ac_refresh", E0 | 0x67, 0x1008ff29, 0},
    {KEY_BOOKMARKS, "ac_bookmarks", E0 | 0x66, 0x1008ff30, 0},
    {KEY_STOP, "stop", E0 | 0x68, 0, 0},
    {KEY_AGAIN, "again", 0, 0xff66, 0},
    {KEY_PROPS, "props", 0, 0, 0},
    {KEY_UNDO, "undo", 0, 0xff65, 0},
    {KEY_FRONT, "front", 0, 0, 0},
    {KEY_COPY, "copy", 0, 0, 0},
    {KEY_OPEN, "open", 0, 0, 0},
    {KEY_PASTE, "paste", 0, 0, 0},
    {KEY_FIND, "find", 0, 0xff68, 0},
    {KEY_CUT, "cut", 0, 0, 0},
    {KEY_LINEFEED, "lf", 0x5b, 0xff0a, 0},
    {KEY_HELP, "help", E0 | 0x75, 0xff6a, 0},
    {KEY_HANGEUL, "lang1", 0x72, 0, 0},
    {KEY_HANJA, "lang2", 0x71, 0, 0},
    {KEY_F13, "f13", 0x5d, 0xffca, 0},
    {KEY_F14, "f14", 0x5e, 0xffcb, 0},
    {KEY_F15, "f15", 0x5f, 0xffcc, 0},
    {KEY_F16, "f16", 0x55, 0xffcd, 0},
    {KEY_F17, "f17", 0x03 | E0, 0xffce, 0},
    {KEY_F18, "f18", 0x77 | E0, 0xffcf, 0},
    {KEY_F19, "f19", 0x04 | E0, 0xffd0, 0},
    {KEY_F20, "f20", 0x5a, 0xffd1, 0},
    {KEY_F21, "f21", 0x74, 0xffd2, 0},
    {KEY_F22, "f22", 0x79 | E0, 0xffd3, 0},
    {KEY_F23, "f23", 0x6d, 0xffd4, 0},
    {KEY_F24, "f24", 0x6f, 0xffd5, 0},
    {KEY_KPASTERISK, "asterisk", 0, 0, 0}, /* a second name */
};

#define KEYS (sizeof(keys) / sizeof(keys[0]))

int input_key_by_name(const char *qcode)
{
    for (unsigned i = 0; i < KEYS; i++) {
        if (strcmp(keys[i].name, qcode) == 0) {
            return keys[i].key;
        }
    }
    return -1;
}

const char *input_key_name(unsigned key)
{
    for (unsigned i = 0; i < KEYS; i++) {
        if (keys[i].key == key) {
            return keys[i].name;
        }
    }
    return NULL;
}

int input_key_by_number(unsigned number)
{
    for (unsigned i = 0; i < KEYS; i++) {
        if (number != 0 && keys[i].number == number) {
            return keys[i].key;
        }
    }
    return -1;
}

int input_button_by_name(const char *name)
{
    static const char *const names[INPUT_BUTTONS] = {
        [INPUT_LEFT] = "left",   [INPUT_MIDDLE] = "middle", [INPUT_RIGHT] = "right",           [INPUT_WHEEL_UP] = "wheel-up",
        [INPUT_WHEEL_DOWN] = "wheel-down", [INPUT_SIDE] = "side",     [INPUT_EXTRA] = "extra", [INPUT_WHEEL_LEFT] = "wheel-left",
        [INPUT_WHEEL_RIGHT] = "wheel-right",
    };
    for (int i = 0; i < INPUT_BUTTONS; i++) {
        if (strcmp(names[i], name) == 0) {
            return i;
        }
    }
    return -1;
}

/* ---- Layouts: what differs from the table above ---- */

struct key_types {
    uint16_t key;
    uint32_t plain, shift, altgr;
};

static const struct key_types layout_en_gb[] = {
    {KEY_2, '2', '"', 0},           {KEY_3, '3', 0xa3, 0},        {KEY_4, '4', '$', 0x20ac}, {KEY_APOSTROPHE, '\'', '@', 0},
    {KEY_BACKSLASH, '#', '~', 0},   {KEY_102ND, '\\', '|', 0},    {KEY_GRAVE, '`', 0xac, 0xa6}, {0, 0, 0, 0},
};

static const struct key_types layout_de[] = {
    {KEY_2, '2', '"', 0xb2},         {KEY_3, '3', 0xa7, 0xb3},        {KEY_6, '6', '&', 0},           {KEY_7, '7', '/', '{'},
    {KEY_8, '8', '(', '['},          {KEY_9, '9', ')', ']'},          {KEY_0, '0', '=', '}'},         {KEY_MINUS, 0xdf, '?', '\\'},
    {KEY_EQUAL, 0xb4, '`', 0},       {KEY_Q, 'q', 'Q', '@'},          {KEY_E, 'e', 'E', 0x20ac},      {KEY_Y, 'z', 'Z', 0},
    {KEY_LEFTBRACE, 0xfc, 0xdc, 0},  {KEY_RIGHTBRACE, '+', '*', '~'}, {KEY_SEMICOLON, 0xf6, 0xd6, 0}, {KEY_APOSTROPHE, 0xe4, 0xc4, 0},
    {KEY_GRAVE, '^', 0xb0, 0},       {KEY_BACKSLASH, '#', '\'', 0},   {KEY_102ND, '<', '>', '|'},     {KEY_Z, 'y', 'Y', 0},
    {KEY_M, 'm', 'M', 0xb5},         {KEY_COMMA, ',', ';', 0},        {KEY_DOT, '.', ':', 0},         {KEY_SLASH, '-', '_', 0},
    {0, 0, 0, 0},
};

static const struct key_types layout_fr[] = {
    {KEY_1, '&', '1', 0},        {KEY_2, 0xe9, '2', '~'},       {KEY_3, '"', '3', '#'},            {KEY_4, '\'', '4', '{'},
    {KEY_5, '(', '5', '['},      {KEY_6, '-', '6', '|'},        {KEY_7, 0xe8, '7', '`'},           {KEY_8, '_', '8', '\\'},
    {KEY_9, 0xe7, '9', '^'},     {KEY_0, 0xe0, '0', '@'},       {KEY_MINUS, ')', 0xb0, ']'},       {KEY_EQUAL, '=', '+', '}'},
    {KEY_Q, 'a', 'A', 0},        {KEY_W, 'z', 'Z', 0},          {KEY_E, 'e', 'E', 0x20ac},         {KEY_LEFTBRACE, 0xfe52, 0xfe57, 0},
    {KEY_RIGHTBRACE, '$', 0xa3, 0xa4}, {KEY_A, 'q', 'Q', 0},    {KEY_SEMICOLON, 'm', 'M', 0},      {KEY_APOSTROPHE, 0xf9, '%', 0},
    {KEY_GRAVE, 0xb2, 0, 0},     {KEY_BACKSLASH, '*', 0xb5, 0}, {KEY_102ND, '<', '>', 0},          {KEY_Z, 'w', 'W', 0},
    {KEY_M, ',', '?', 0},        {KEY_COMMA, ';', '.', 0},      {KEY_DOT, ':', '/', 0},            {KEY_SLASH, '!', 0xa7, 0},
    {0, 0, 0, 0},
};

static const struct layout {
    const char *name;
    const struct key_types *keys; /* NULL: none */
} layouts[] = {{"en-us", NULL}, {"en-gb", layout_en_gb}, {"de", layout_de}, {"fr", layout_fr}};

static const struct layout *layout_find(const char *name)
{
    for (unsigned i = 0; i < sizeof(layouts) / sizeof(layouts[0]); i++) {
        if (name != NULL && strcmp(layouts[i].name, name) == 0) {
            return &layouts[i];
        }
    }
    return NULL;
}

bool input_has_layout(const char *layout)
{
    return layout_find(layout) != NULL;
}

static const struct key_types *layout_key(const struct key_types *types, unsigned key)
{
    for (; types != NULL && types->key != 0; types++) {
        if (types->key == key) {
            return types;
        }
    }
    return NULL;
}

struct input_stroke input_key_by_keysym(const char *layout, uint32_t keysym)
{
    const struct layout *found = layout_find(layout);
    const struct key_types *types = found != NULL ? found->keys : NULL;
    keysym = keysym == 0xfe03 ? 0xffea : keysym; /* ISO_Level3_Shift is AltGr */
    for (const struct key_types *key = types; key != NULL && key->key != 0 && keysym != 0; key++) {
        if (key->plain == keysym || key->shift == keysym || key->altgr == keysym) {
            return (struct input_stroke){.key = key->key, .shift = key->plain != keysym && key->shift == keysym,
                                         .altgr = key->plain != keysym && key->shift != keysym};
        }
    }
    for (unsigned i = 0; i < KEYS && keysym != 0; i++) {
        if ((keys[i].plain == keysym || keys[i].shift == keysym) && layout_key(types, keys[i].key) == NULL) {
            return (struct input_stroke){.key = keys[i].key, .shift = keys[i].plain != keysym && keysym < 0x100};
        }
    }
    return (struct input_stroke){0};
}
