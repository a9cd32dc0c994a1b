/* SPDX-License-Identifier: MIT */
/*
 * The memory functions that engine code gets in place of libc's (see nolibc.h): general registers and
 * the string instructions only. Assumes the direction flag clear, as the ABI has it in C code.
 */
#include "arch/nolibc.h"

#include <stdint.h>

void *memcpy(void *restrict to, const void *restrict from, size_t bytes)
{
    void *result = to;

    /* Short copies are most of them, and `rep movsb` takes some thirty cycles to start. */
    if (bytes <= 64) {
        uint8_t *d = to;
        const uint8_t *s = from;

        for (; bytes >= 8; bytes -= 8, d += 8, s += 8) {
            uint64_t word;

            __asm__ volatile("movq %1, %0" : "=r"(word) : "m"(*(const uint64_t(*)[1])s));
            __asm__ volatile("movq %1, %0" : "=m"(*(uint64_t(*)[1])d) : "r"(word));
        }
        for (; bytes > 0; bytes--) {
            *d++ = *s++;
            __asm__ volatile("" ::: "memory");
        }
        return result;
    }
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory");
    return result;
}

void *memmove(void *to, const void *from, size_t bytes)
{
    uint8_t *d = to;
    const uint8_t *s = from;

    if ((uintptr_t)d - (uintptr_t)s >= bytes)
        return memcpy(to, from, bytes); /* a forward copy reads every byte before it is overwritten */
    while (bytes > 0) {
        bytes--;
        d[bytes] = s[bytes];
        __asm__ volatile("" ::: "memory");
    }
    return to;
}

void *memset(void *to, int byte, size_t bytes)
{
    void *result = to;

    __asm__ volatile("rep stosb" : "+D"(to), "+c"(bytes) : "a"(byte) : "memory");
    return result;
}

int memcmp(const void *a, const void *b, size_t bytes)
{
    const uint8_t *x = a;
    const uint8_t *y = b;

    for (; bytes > 0; bytes--, x++, y++) {
        if (*x != *y)
            return *x - *y;
        __asm__ volatile("" ::: "memory");
    }
    return 0;
}
