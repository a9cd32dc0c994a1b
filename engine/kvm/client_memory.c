/* SPDX-License-Identifier: MIT */
/*
 * Guest memory is the client's: it writes it by its own stores, and has the kernel write it. What it tells of that comes in
 * here (include/kage.h); cpu/host_pages.c does the work.
 */
#include "cpu/host_pages.h"
#include "kage.h"

void kage_memory_begin_write(const void *addr, size_t bytes)
{
    host_write_begins((uintptr_t)addr, (uintptr_t)addr + bytes);
}

void kage_memory_end_write(const void *addr, size_t bytes)
{
    host_write_ends((uintptr_t)addr, (uintptr_t)addr + bytes);
}

void kage_memory_changed(const void *addr, size_t bytes)
{
    host_mapping_changed((uintptr_t)addr, (uintptr_t)addr + bytes);
}
