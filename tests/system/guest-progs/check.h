/* SPDX-License-Identifier: MIT */
/* CHECK and FAIL count and name what is wrong; check_done() ends main() with the summary and the exit status. */
#ifndef GUEST_CHECK_H
#define GUEST_CHECK_H

#include <stdint.h>
#include <stdio.h>

static unsigned check_passed, check_failed;

#define FAIL(text)                                                                    \
    do {                                                                              \
        __atomic_fetch_add(&check_failed, 1, __ATOMIC_RELAXED);                       \
        printf("FAIL: %s:%d: %s\n", __FILE__, __LINE__, text);                        \
    } while (0)
#define CHECK(condition)                                                              \
    do {                                                                              \
        if (condition) {                                                              \
            __atomic_fetch_add(&check_passed, 1, __ATOMIC_RELAXED);                   \
        } else {                                                                      \
            FAIL(#condition);                                                         \
        }                                                                             \
    } while (0)

static inline int check_done(const char *name)
{
    printf("%s: %u checks passed, %u failed\n", name, check_passed, check_failed);
    return check_failed != 0 || check_passed == 0;
}

/* A small generator with a known sequence (xorshift64*). */
static inline uint64_t next_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545f4914f6cdd1dull;
}

#endif
