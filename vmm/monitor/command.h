/* SPDX-License-Identifier: MIT */
/*
 * The table of QMP's commands, which is all that says what there is: it checks arguments, answers query-commands and query-qmp-schema, and runs.
 *
 * To add a command: a row in one of the tables commands_*.c (or a new table, listed in command_tables[] of command.c), with types that have
 * names in the same file (a table listed in schema_tables[] of types.c). The work is a function of the part that owns it (machine/, net/,
 * display/, block/ …); here it is only put into JSON and out of it:
 *
 *     static json_t *run_set_link(struct command_call *call)
 *     {
 *         const char *name = command_string(call, "name");
 *         if (net_set_link(…, name, command_bool(call, "up", false)) != 0) {
 *             return command_fail_class(call, COMMAND_DEVICE_NOT_FOUND, "Device '%s' not found", name);
 *         }
 *         return command_done();
 *     }
 *     {"set_link", "name:str up:bool", NULL, run_set_link, 0},
 *
 * Commands run on the main loop's thread, one at a time. call->vm->machine is NULL while there is none (never in practice: the loop runs
 * only with one), and may be a new one at the next command: a reset makes a new machine.
 */
#ifndef KAGE_MONITOR_COMMAND_H
#define KAGE_MONITOR_COMMAND_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "monitor/monitor.h"
#include "util/error.h"

enum command_class { COMMAND_GENERIC_ERROR, COMMAND_NOT_FOUND, COMMAND_DEVICE_NOT_FOUND, COMMAND_DEVICE_NOT_ACTIVE, COMMAND_KVM_MISSING_CAP };

struct command_call {
    struct monitor *monitor;     /* who asks: for getfd */
    struct monitor_vm *vm;       /* what is asked about */
    const json_t *arguments;     /* an object, checked against the row's schema */
    enum command_class class;    /* of a failure */
    struct error error;
};

/* The reply, a new reference; NULL: it failed, and `error` is filled. */
typedef json_t *command_fn(struct command_call *call);

#define COMMAND_BEFORE_NEGOTIATION 1u /* qmp_capabilities */
#define COMMAND_HIDDEN 2u             /* works, and is not listed */

struct command {
    const char *name;      /* NULL ends a table */
    const char *arguments; /* members, in schema.h's language, or the name of an object type; NULL: none */
    const char *returns;   /* a type; NULL: nothing, which QMP writes as {} */
    command_fn *run;
    unsigned flags;
    const char *features; /* of query-qmp-schema, with spaces between; NULL: none */
};

extern const struct command *const command_tables[]; /* ends with NULL */
const struct command *command_find(const char *name);

/* An event that may come: of query-qmp-schema and query-events. Rows in events.c. */
struct event_type {
    const char *name; /* NULL ends the table */
    const char *data; /* members; NULL: none */
    unsigned rate_ms; /* one a time of this length, the last one wins, as in QEMU; 0: all */
    const char *rate_key; /* … for each value of this member; NULL: one for all */
};
extern const struct event_type event_types[];
const struct event_type *event_type_find(const char *name);

/* Finds, checks, runs. The whole reply: {"return": …} or {"error": …}, without an id. NULL: out of memory. */
json_t *command_execute(struct monitor *monitor, struct monitor_vm *vm, const char *name, const json_t *arguments);
/* The same for who has a C caller: the result, or NULL with `error` filled. */
json_t *command_call(struct monitor *monitor, struct monitor_vm *vm, const char *name, const json_t *arguments, struct error *error);

/* ---- For commands ---- */

static inline json_t *command_done(void)
{
    return json_object();
}
json_t *command_fail(struct command_call *call, const char *format, ...) __attribute__((format(printf, 2, 3)));
json_t *command_fail_class(struct command_call *call, enum command_class class, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Members of the arguments; NULL, or what is given, where there is none. */
const char *command_string(const struct command_call *call, const char *name);
bool command_bool(const struct command_call *call, const char *name, bool otherwise);
int64_t command_int(const struct command_call *call, const char *name, int64_t otherwise);

#endif
