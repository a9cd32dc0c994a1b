/* SPDX-License-Identifier: MIT */
/* kvm-races: what one thread changes while vCPUs run in others. */
#include "conform.h"

extern const struct theme theme_race_memory, theme_race_dirty, theme_race_stores, theme_race_irq, theme_race_vm;

const struct theme *const themes[] = { &theme_race_memory, &theme_race_dirty, &theme_race_stores, &theme_race_irq, &theme_race_vm };
const size_t theme_count = COUNT_OF(themes);
