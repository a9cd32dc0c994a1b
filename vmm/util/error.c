/* SPDX-License-Identifier: MIT */
/*
 * One line of text about a failure. Control characters (a file name may hold anything) become '?', so
 * that an error is one line on any terminal.
 */
#include "util/error.h"

#include <stdarg.h>
#include <stdio.h>

static void error_clean(struct error *error)
{
    for (char *c = error->text; *c != '\0'; c++) {
        if ((unsigned char)*c < 0x20 || *c == 0x7f) {
            *c = '?';
        }
    }
}

int error_set(struct error *error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(error->text, sizeof(error->text), format, args);
    va_end(args);
    error_clean(error);
    return -1;
}

int error_prepend(struct error *error, const char *format, ...)
{
    struct error old = *error;
    va_list args;
    va_start(args, format);
    int length = vsnprintf(error->text, sizeof(error->text), format, args);
    va_end(args);
    if (length >= 0 && (size_t)length < sizeof(error->text)) {
        snprintf(error->text + length, sizeof(error->text) - (size_t)length, "%s", old.text);
    }
    error_clean(error);
    return -1;
}
