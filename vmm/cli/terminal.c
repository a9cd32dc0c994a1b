/* SPDX-License-Identifier: MIT */
/*
 * Terminal settings are restored by atexit(3) and by handlers of the signals that kill; tcsetattr(3) is
 * safe in a handler. SIGKILL alone leaves a terminal raw.
 */
#include "cli/terminal.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "chardev/chardev.h"

#define KEY_ESCAPE 0x01u /* Ctrl-a */

static struct termios terminal_saved;
static struct termios terminal_raw;
static volatile sig_atomic_t terminal_taken;

void terminal_restore(void)
{
    if (terminal_taken != 0) {
        tcsetattr(STDIN_FILENO, TCSANOW, &terminal_saved);
    }
}

void terminal_resume(void)
{
    if (terminal_taken != 0) {
        tcsetattr(STDIN_FILENO, TCSANOW, &terminal_raw);
    }
}

/* SA_RESETHAND has put the default action back: returning into a fault, or raising, ends the process. */
static void terminal_crash(int number)
{
    terminal_restore();
    raise(number);
}

static void terminal_catch_crashes(void)
{
    static const int numbers[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS, SIGQUIT, SIGXCPU, SIGXFSZ};
    struct sigaction action = {.sa_handler = terminal_crash, .sa_flags = (int)(SA_RESETHAND | SA_ONSTACK | SA_NODEFER)};
    sigemptyset(&action.sa_mask);
    for (unsigned i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        sigaction(numbers[i], &action, NULL);
    }
}

void terminal_take(bool signals)
{
    if (terminal_taken != 0 || !isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, &terminal_saved) != 0) {
        return;
    }
    terminal_raw = terminal_saved;
    terminal_raw.c_iflag &= (tcflag_t) ~(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
    terminal_raw.c_lflag &= (tcflag_t) ~(ECHO | ECHONL | ICANON | IEXTEN | (signals ? 0 : ISIG));
    terminal_raw.c_cflag = (terminal_raw.c_cflag & (tcflag_t) ~(CSIZE | PARENB)) | CS8;
    terminal_raw.c_cc[VMIN] = 1;
    terminal_raw.c_cc[VTIME] = 0;
    terminal_taken = 1;
    atexit(terminal_restore);
    terminal_catch_crashes();
    tcsetattr(STDIN_FILENO, TCSANOW, &terminal_raw);
}

static void terminal_key_help(struct terminal_keys *keys)
{
    (void)keys;
    fputs("\r\n"
          "Ctrl-a h       this help\r\n"
          "Ctrl-a c       from the console to the monitor, and back\r\n"
          "Ctrl-a o       press the power button: the guest shuts down, if it listens\r\n"
          "Ctrl-a p       pause the VM, or let it go on\r\n"
          "Ctrl-a x       leave: end the VM at once\r\n"
          "Ctrl-a Ctrl-a  send Ctrl-a to the guest\r\n",
          stderr);
}

static void terminal_key_monitor(struct terminal_keys *keys)
{
    chardev_focus_next(keys->backend);
}

static void terminal_key_pause(struct terminal_keys *keys)
{
    keys->pause(keys->opaque);
}

static void terminal_key_power_button(struct terminal_keys *keys)
{
    keys->power_button(keys->opaque);
}

static void terminal_key_quit(struct terminal_keys *keys)
{
    fputs("\r\nkage: ended by Ctrl-a x\r\n", stderr);
    keys->quit(keys->opaque);
}

static const struct {
    uint8_t key;
    void (*act)(struct terminal_keys *keys);
} terminal_actions[] = {
    {'h', terminal_key_help},         {'?', terminal_key_help}, {'x', terminal_key_quit},    {'p', terminal_key_pause},
    {'o', terminal_key_power_button}, {'c', terminal_key_monitor},
};

bool terminal_filter(void *opaque, uint8_t byte)
{
    struct terminal_keys *keys = opaque;
    if (!keys->escaped) {
        keys->escaped = byte == KEY_ESCAPE;
        return !keys->escaped;
    }
    keys->escaped = false;
    for (size_t action = 0; action < sizeof(terminal_actions) / sizeof(terminal_actions[0]); action++) {
        if (terminal_actions[action].key == byte) {
            terminal_actions[action].act(keys);
        }
    }
    return byte == KEY_ESCAPE;
}
