/* SPDX-License-Identifier: MIT */
/*
 * Guest memory is the client's: it writes it by its own stores, and has the kernel write it. What a preload library
 * knows of that comes in here (include/kage.h).
 */
#include "kage.h"

void kage_memory_begin_write(const void *addr, size_t bytes)
{
    (void)addr;
    (void)bytes;
}

void kage_memory_end_write(const void *addr, size_t bytes)
{
    (void)addr;
    (void)bytes;
}

void kage_memory_changed(const void *addr, size_t bytes)
{
    (void)addr;
    (void)bytes;
}
