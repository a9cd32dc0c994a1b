/* SPDX-License-Identifier: MIT */
/*
 * One line of text about a failure. Control characters (a file name may hold anything) become '?', so
 * that an error is one line on any terminal.
 */
#include "util/error.h"

#include <stdarg.h>
#include <stdio.h>

int error_set(struct error *error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(error->text, sizeof(error->text), format, args);
    va_end(args);
    for (char *c = error->text; *c != '\0'; c++) {
        if ((unsigned char)*c < 0x20 || *c == 0x7f) {
            *c = '?';
        }
    }
    return -1;
}
