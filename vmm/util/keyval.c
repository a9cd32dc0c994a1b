/* SPDX-License-Identifier: MIT */
#include "util/keyval.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int keyval_add(struct keyval_list *list, const char *what, const char *name, const char *value, struct error *error)
{
    if (list->count == KEYVAL_MAX) {
        return error_set(error, "%s: more than %u parts", what, KEYVAL_MAX);
    }
    if (strlen(name) >= KEYVAL_NAME_MAX || strlen(value) >= KEYVAL_VALUE_MAX) {
        return error_set(error, "%s: a part of it is longer than %u characters", what, KEYVAL_VALUE_MAX - 1);
    }
    struct keyval *pair = &list->pairs[list->count++];
    strcpy(pair->name, name);
    strcpy(pair->value, value);
    return 0;
}

/* ---- With commas ---- */

/* The next part, up to a comma that is not doubled. False: too long. */
static bool keyval_next(const char **text, char *part, size_t room)
{
    size_t used = 0;
    while (**text != '\0' && (**text != ',' || (*text)[1] == ',')) {
        *text += **text == ',';
        if (used + 1 == room) {
            return false;
        }
        part[used++] = *(*text)++;
    }
    part[used] = '\0';
    *text += **text == ',';
    return true;
}

static int keyval_parse_text(struct keyval_list *list, const char *what, const char *first, const char *text, struct error *error)
{
    char part[KEYVAL_NAME_MAX + KEYVAL_VALUE_MAX];
    for (bool is_first = true; *text != '\0'; is_first = false) {
        if (!keyval_next(&text, part, sizeof(part))) {
            return error_set(error, "%s: a part of it is longer than %u characters", what, KEYVAL_VALUE_MAX - 1);
        }
        char *equals = strchr(part, '=');
        if (equals == NULL && (strcmp(part, "help") == 0 || strcmp(part, "?") == 0)) {
            list->help = true;
            continue;
        }
        bool unnamed = equals == NULL && is_first && first != NULL;
        if (equals != NULL) {
            *equals = '\0';
        }
        if (keyval_add(list, what, unnamed ? first : part, equals != NULL ? equals + 1 : unnamed ? part : "on", error) != 0) {
            return -1;
        }
    }
    return 0;
}

/* ---- JSON ---- */

static int keyval_flatten(struct keyval_list *list, const char *what, const char *prefix, json_t *object, struct error *error)
{
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value)
    {
        char name[KEYVAL_NAME_MAX], text[32];
        int length = snprintf(name, sizeof(name), "%s%s%s", prefix, prefix[0] != '\0' ? "." : "", key);
        if (length < 0 || (size_t)length >= sizeof(name)) {
            return error_set(error, "%s: a name is longer than %u characters", what, KEYVAL_NAME_MAX - 1);
        }
        int result;
        switch (json_typeof(value)) {
        case JSON_OBJECT:
            result = keyval_flatten(list, what, name, value, error);
            break;
        case JSON_STRING:
            result = keyval_add(list, what, name, json_string_value(value), error);
            break;
        case JSON_INTEGER:
            snprintf(text, sizeof(text), "%lld", (long long)json_integer_value(value));
            result = keyval_add(list, what, name, text, error);
            break;
        case JSON_TRUE:
        case JSON_FALSE:
            result = keyval_add(list, what, name, json_is_true(value) ? "on" : "off", error);
            break;
        default:
            result = error_set(error, "%s: '%s' has a value of no use", what, name);
        }
        if (result != 0) {
            return -1;
        }
    }
    return 0;
}

int keyval_from_json(struct keyval_list *list, const char *what, json_t *object, struct error *error)
{
    list->count = 0;
    list->help = false;
    return json_is_object(object) ? keyval_flatten(list, what, "", object, error) : error_set(error, "%s: no JSON object", what);
}

static int keyval_parse_json(struct keyval_list *list, const char *what, const char *text, struct error *error)
{
    json_error_t why;
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, &why);
    if (root == NULL) {
        return error_set(error, "%s: no JSON: %s, at column %d", what, why.text, why.column);
    }
    int result = keyval_from_json(list, what, root, error);
    json_decref(root);
    return result;
}

int keyval_parse(struct keyval_list *list, const char *what, const char *first, const char *text, struct error *error)
{
    list->count = 0;
    list->help = false;
    return text[0] == '{' ? keyval_parse_json(list, what, text, error) : keyval_parse_text(list, what, first, text, error);
}

const char *keyval_get(const struct keyval_list *list, const char *name)
{
    const char *value = NULL;
    for (unsigned i = 0; i < list->count; i++) {
        value = strcmp(list->pairs[i].name, name) == 0 ? list->pairs[i].value : value;
    }
    return value;
}
