/* SPDX-License-Identifier: MIT */
/* What config.c and config_drives.c share: arrays of pointers to entries. */
#ifndef KAGE_MACHINE_CONFIG_INTERNAL_H
#define KAGE_MACHINE_CONFIG_INTERNAL_H

#include "machine/config.h"

/* `entries` is an array of `count` pointers. The index of one; count: it is none of them. */
unsigned config_index(const void *entries, unsigned count, const void *entry);
/* Puts one behind the others; `array` is where the array's address stands. False: no memory, `error` filled and nothing changed. */
bool config_append(void *array, unsigned *count, const void *entry, struct error *error);
/* Takes one out; the order of the others stays. */
void config_drop(void *entries, unsigned *count, const void *entry);

#endif
