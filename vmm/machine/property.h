/* SPDX-License-Identifier: MIT */
/*
 * Properties: what a user can say of a device, a drive or an object, as const tables. One table drives parsing, checking, defaults and
 * help. Values land in a struct of the table's owner.
 */
#ifndef KAGE_MACHINE_PROPERTY_H
#define KAGE_MACHINE_PROPERTY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/error.h"

#define PROPERTY_TEXT_MAX 1024u /* with its NUL */

enum property_type {
    PROPERTY_BOOL,   /* bool: on, off (yes, no, true, false) */
    PROPERTY_NUMBER, /* uint64_t, min to max */
    PROPERTY_SIZE,   /* uint64_t, with a suffix b, K, M, G, T */
    PROPERTY_TEXT,   /* char[PROPERTY_TEXT_MAX] */
    PROPERTY_CHOICE, /* uint64_t: the index in `choices` */
};

struct property {
    const char *name; /* NULL ends a list */
    enum property_type type;
    size_t offset;
    const char *value; /* what stands where nothing is said; NULL: zeroes */
    const char *help;
    uint64_t min, max;
    const char *const *choices; /* ends with NULL */
};

/* Several lists, the last one NULL. */
typedef const struct property *const *property_lists;

#define PROPERTY_LISTS(...) (const struct property *const[]){__VA_ARGS__, NULL}

const struct property *property_find(property_lists lists, const char *name);
void property_defaults(property_lists lists, void *values);
/* 0, or -1 with `error` filled, in which `owner` is named. */
int property_set(property_lists lists, void *values, const char *owner, const char *name, const char *value, struct error *error);
/* One line for each. */
void property_help(property_lists lists);

/* A number with a unit's suffix, without one in `unit` bytes. 0 or -1. */
int property_parse_size(const char *text, uint64_t unit, uint64_t *bytes);
int property_parse_number(const char *text, uint64_t max, uint64_t *number);

#endif
