/* SPDX-License-Identifier: MIT */
/*
 * What commands take and give, in a small language, and the tables of types that have names. One text checks arguments with QEMU's error
 * texts and prints query-qmp-schema.
 *
 *   type      a builtin (str bool int number null any size, int8 … uint64), the name of a row below, or [type], an array
 *   members   "name:type ?name:type", ? for one that may be left out; the trailing member "..." takes any other
 *   values    "one two three"
 *   variants  "value:type value:type" of the member that `tag` names; a value without one adds nothing
 */
#ifndef KAGE_MONITOR_SCHEMA_H
#define KAGE_MONITOR_SCHEMA_H

#include <jansson.h>

#include "util/error.h"

enum schema_kind { SCHEMA_OBJECT, SCHEMA_ENUM, SCHEMA_ALTERNATE /* `text`: its types, by the JSON type that comes */ };

struct schema_type {
    const char *name; /* NULL ends a table */
    enum schema_kind kind;
    const char *text; /* members, values or types */
    const char *tag, *variants; /* objects; NULL: none */
};

/* Every table of types; the array ends with NULL. In types.c: a part of the command table adds its own there. */
extern const struct schema_type *const schema_tables[];

const struct schema_type *schema_find(const char *name, size_t length);

/* Are `arguments` (an object) what `members` says? -1 with QEMU's text in `error`. */
int schema_check_members(const char *members, const json_t *arguments, struct error *error);
/* The same for a value; `what` names it in errors. */
int schema_check(const char *type, const json_t *value, const char *what, struct error *error);

/* SchemaInfoList: every command and event of the tables, and every type that they reach. NULL: out of memory. */
json_t *schema_describe(void);

#endif
