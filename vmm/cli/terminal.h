/* SPDX-License-Identifier: MIT */
/*
 * The user's terminal: raw while a guest has it, as it was on every way out. And the escape keys of
 * a mux, as mon:stdio is.
 */
#ifndef KAGE_CLI_TERMINAL_H
#define KAGE_CLI_TERMINAL_H

#include <stdbool.h>
#include <stdint.h>

struct chardev;

/* Raw mode, if stdin is a terminal. `signals`: Ctrl-c and its like still end the VMM. Once in a process. */
void terminal_take(bool signals);
/* As it was; nothing if it was not taken. May be called at any time, from signal handlers too. */
void terminal_restore(void);
/* Raw again, after the process was stopped and continued. */
void terminal_resume(void);

/* Ctrl-a and the key behind it. Fits chardev_set_filter(); `opaque` is a struct terminal_keys. */
struct terminal_keys {
    bool escaped; /* Ctrl-a has come */
    struct chardev *backend; /* whose front ends Ctrl-a c goes round */
    void (*quit)(void *opaque);
    void (*pause)(void *opaque); /* stops the machine, or lets it go on */
    void (*power_button)(void *opaque);
    void *opaque;
};
bool terminal_filter(void *opaque, uint8_t byte);

#endif
