/* SPDX-License-Identifier: MIT */
/*
 * Scalars that carry meaning, and the few compiler words used everywhere.
 * A guest address is not a number to add to a pointer: only mmu/ turns one into host bytes.
 */
#ifndef KAGE_ARCH_TYPES_H
#define KAGE_ARCH_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint64_t gva_t; /* guest-virtual (linear) address */
typedef uint64_t gpa_t; /* guest-physical address */
typedef uint64_t hva_t; /* host-virtual address, as a number */
typedef uint64_t ns_t;  /* nanoseconds */

#define KAGE_PAGE_SHIFT 12
#define KAGE_PAGE_SIZE 4096ull
#define KAGE_PAGE_MASK (~0xfffull)

#define KAGE_LIKELY(x) __builtin_expect(!!(x), 1)
#define KAGE_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define KAGE_MUST_CHECK __attribute__((warn_unused_result))
#define KAGE_ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

#endif
