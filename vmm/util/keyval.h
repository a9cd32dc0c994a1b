/* SPDX-License-Identifier: MIT */
/*
 * Lists of NAME=VALUE as QEMU takes them in -device and its like: with commas between, a comma in a value doubled; or as a JSON object, whose
 * inner objects become names with dots.
 */
#ifndef KAGE_UTIL_KEYVAL_H
#define KAGE_UTIL_KEYVAL_H

#include <jansson.h>
#include <stdbool.h>

#include "util/error.h"

#define KEYVAL_NAME_MAX 128u
#define KEYVAL_VALUE_MAX 1024u
#define KEYVAL_MAX 64u

struct keyval {
    char name[KEYVAL_NAME_MAX];
    char value[KEYVAL_VALUE_MAX];
};

struct keyval_list {
    unsigned count;
    bool help; /* "help" or "?" stood among them */
    struct keyval pairs[KEYVAL_MAX];
};

/* `what` is said in errors; `first` names a first part that comes without its name. 0, or -1 with `error` filled. */
int keyval_parse(struct keyval_list *list, const char *what, const char *first, const char *text, struct error *error);
/* The same of a JSON object that is there already, which stays the caller's. */
int keyval_from_json(struct keyval_list *list, const char *what, json_t *object, struct error *error);
/* The value of the last pair of that name, or NULL. */
const char *keyval_get(const struct keyval_list *list, const char *name);

#endif
