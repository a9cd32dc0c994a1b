/* SPDX-License-Identifier: MIT */
/*
 * Copies to and from addresses that a client named: they may lead nowhere. The fault handler (signal.c) knows the one
 * instruction that may fault here and ends the copy, so a good address costs no more than a plain copy.
 */
#ifndef KAGE_CPU_GUARDED_COPY_H
#define KAGE_CPU_GUARDED_COPY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* How many bytes were not copied: 0 is success. cpu_signal_init() must have been called in the process. */
size_t cpu_guarded_copy(void *to, const void *from, size_t bytes);

/* For the fault handler: if pc is the copy's instruction, where to go on. */
bool cpu_guarded_copy_resume(uintptr_t pc, uintptr_t *resume);

#endif
