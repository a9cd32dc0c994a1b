/* SPDX-License-Identifier: MIT */
/*
 * memcpy, memmove, memset and memcmp for code that runs while guest vector state is live in the host's
 * vector registers. Force-included in every file of engine/: the names, and the calls that the compiler
 * makes by itself for structure copies, go to kage_mem* in arch/nolibc.c, which touches none of them.
 * Never include this from outside engine/.
 */
#ifndef KAGE_ARCH_NOLIBC_H
#define KAGE_ARCH_NOLIBC_H

#ifndef __ASSEMBLER__

#include <stddef.h>

/* An asm label on the declaration moves explicit calls, and with gcc the implicit ones. */
void *memcpy(void *restrict to, const void *restrict from, size_t bytes) __asm__("kage_memcpy");
void *memmove(void *to, const void *from, size_t bytes) __asm__("kage_memmove");
void *memset(void *to, int byte, size_t bytes) __asm__("kage_memset");
int memcmp(const void *a, const void *b, size_t bytes) __asm__("kage_memcmp");

#ifdef __clang__
/* clang's own calls ignore the labels: let the assembler rename them. */
__asm__(".set memcpy, kage_memcpy\n\t"
        ".set memmove, kage_memmove\n\t"
        ".set memset, kage_memset\n\t"
        ".set memcmp, kage_memcmp\n\t"
        ".set bcmp, kage_memcmp");
#endif

#endif
#endif
