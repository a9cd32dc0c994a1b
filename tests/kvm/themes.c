/* SPDX-License-Identifier: MIT */
/*
 * kvm-conform: does an implementation of the KVM API do what the kernel's Documentation/virt/kvm/api.rst says?
 */
#include "conform.h"

extern const struct theme theme_system, theme_requests, theme_errors, theme_cpuid, theme_msr, theme_state, theme_translate, theme_restore, theme_handles,
    theme_memory, theme_gone, theme_dirty, theme_run, theme_signals, theme_io, theme_irqchip, theme_irqfd, theme_split, theme_events,
    theme_debug, theme_clock, theme_stats, theme_extras;

const struct theme *const themes[] = {
    &theme_system, &theme_requests, &theme_errors, &theme_cpuid, &theme_msr, &theme_state, &theme_translate, &theme_restore, &theme_handles,
    &theme_memory, &theme_gone, &theme_dirty, &theme_run, &theme_signals, &theme_io, &theme_irqchip, &theme_irqfd, &theme_split,
    &theme_events, &theme_debug, &theme_clock, &theme_stats, &theme_extras,
};
const size_t theme_count = COUNT_OF(themes);
