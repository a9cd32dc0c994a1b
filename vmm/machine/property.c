/* SPDX-License-Identifier: MIT */
#include "machine/property.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int property_parse_number(const char *text, uint64_t max, uint64_t *number)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 0);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || value > max) {
        return -1;
    }
    *number = value;
    return 0;
}

int property_parse_size(const char *text, uint64_t unit, uint64_t *bytes)
{
    static const struct {
        char suffix;
        unsigned shift;
    } suffixes[] = {{'b', 0}, {'k', 10}, {'m', 20}, {'g', 30}, {'t', 40}};
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 0);
    if (text[0] < '0' || text[0] > '9' || errno != 0) {
        return -1;
    }
    if (*end != '\0') {
        unit = 0;
        for (unsigned i = 0; i < sizeof(suffixes) / sizeof(suffixes[0]); i++) {
            if ((*end | 0x20) == suffixes[i].suffix && end[1] == '\0') {
                unit = UINT64_C(1) << suffixes[i].shift;
            }
        }
    }
    return unit == 0 || __builtin_mul_overflow((uint64_t)value, unit, bytes) ? -1 : 0;
}

const struct property *property_find(property_lists lists, const char *name)
{
    for (; *lists != NULL; lists++) {
        for (const struct property *property = *lists; property->name != NULL; property++) {
            if (strcmp(property->name, name) == 0) {
                return property;
            }
        }
    }
    return NULL;
}

static int property_parse_bool(const char *value, bool *result)
{
    static const char *const on[] = {"on", "yes", "true", "y"}, *const off[] = {"off", "no", "false", "n"};
    for (unsigned i = 0; i < sizeof(on) / sizeof(on[0]); i++) {
        if (strcmp(value, on[i]) == 0 || strcmp(value, off[i]) == 0) {
            *result = strcmp(value, on[i]) == 0;
            return 0;
        }
    }
    return -1;
}

static int property_set_choice(const struct property *property, uint64_t *number, const char *value, struct error *error)
{
    char list[200] = "";
    size_t used = 0;
    for (unsigned i = 0; property->choices[i] != NULL; i++) {
        if (strcmp(property->choices[i], value) == 0) {
            *number = i;
            return 0;
        }
        int more = snprintf(list + used, sizeof(list) - used, "%s'%s'", i != 0 ? ", " : "", property->choices[i]);
        used += more > 0 && (size_t)more < sizeof(list) - used ? (size_t)more : 0;
    }
    return error_set(error, "Parameter '%s' does not accept value '%s'; it takes %s", property->name, value, list);
}

static int property_store(const struct property *property, void *values, const char *value, struct error *error)
{
    void *at = (char *)values + property->offset;
    switch (property->type) {
    case PROPERTY_BOOL:
        return property_parse_bool(value, at) == 0 ? 0 : error_set(error, "Parameter '%s' expects 'on' or 'off'", property->name);
    case PROPERTY_NUMBER:
        if (property_parse_number(value, property->max, at) != 0 || *(uint64_t *)at < property->min) {
            return error_set(error, "Parameter '%s' expects a number from %" PRIu64 " to %" PRIu64 ", not '%s'", property->name, property->min,
                             property->max, value);
        }
        return 0;
    case PROPERTY_SIZE:
        if (property_parse_size(value, 1, at) != 0 || *(uint64_t *)at < property->min || *(uint64_t *)at > property->max) {
            return error_set(error, "Parameter '%s' expects a size from %" PRIu64 " to %" PRIu64 ", not '%s'", property->name, property->min,
                             property->max, value);
        }
        return 0;
    case PROPERTY_TEXT:
        if (strlen(value) >= PROPERTY_TEXT_MAX) {
            return error_set(error, "Parameter '%s' is longer than %u characters", property->name, PROPERTY_TEXT_MAX - 1);
        }
        strcpy(at, value);
        return 0;
    default:
        return property_set_choice(property, at, value, error);
    }
}

void property_defaults(property_lists lists, void *values)
{
    struct error error;
    for (; *lists != NULL; lists++) {
        for (const struct property *property = *lists; property->name != NULL; property++) {
            if (property->value != NULL) {
                property_store(property, values, property->value, &error);
            }
        }
    }
}

int property_set(property_lists lists, void *values, const char *owner, const char *name, const char *value, struct error *error)
{
    const struct property *property = property_find(lists, name);
    struct error why;
    if (property == NULL) {
        return error_set(error, "Property '%s.%s' not found", owner, name);
    }
    return property_store(property, values, value, &why) == 0 ? 0 : error_set(error, "%s: %s", owner, why.text);
}

void property_help(property_lists lists)
{
    static const char *const types[] = {"bool", "number", "size", "str", "enum"};
    for (; *lists != NULL; lists++) {
        for (const struct property *property = *lists; property->name != NULL; property++) {
            char left[64];
            snprintf(left, sizeof(left), "%s=<%s>", property->name, types[property->type]);
            printf("  %-30s - %s", left, property->help);
            for (unsigned i = 0; property->type == PROPERTY_CHOICE && property->choices[i] != NULL; i++) {
                printf("%s%s", i != 0 ? "/" : ": ", property->choices[i]);
            }
            printf(property->value != NULL && property->value[0] != '\0' ? " (default: %s)\n" : "\n", property->value);
        }
    }
}
