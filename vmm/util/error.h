/* SPDX-License-Identifier: MIT */
/*
 * What went wrong, in one line for people. Made where the facts are known, printed once at the edge
 * (cli/), never in between. A function that takes a struct error fills it on every failure.
 */
#ifndef KAGE_UTIL_ERROR_H
#define KAGE_UTIL_ERROR_H

struct error {
    char text[400];
};

/* Stores the line (cut to fit, no newline) and returns -1, so that `return error_set(…)` reads well. */
int error_set(struct error *error, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Puts words before the line, as what option it is about. -1. */
int error_prepend(struct error *error, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
