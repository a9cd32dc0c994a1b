/* SPDX-License-Identifier: MIT */
/*
 * The log that -d chooses and -D redirects. An item that is off costs one load and a branch. Lines
 * that a guest can cause are limited in number, so that it cannot fill the host's disk.
 */
#ifndef KAGE_UTIL_LOG_H
#define KAGE_UTIL_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "util/error.h"

/* X(NAME, name on the command line, what it shows) */
#define LOG_ITEMS(X)                                                             \
    X(EXITS, "exits", "count of every kind of exit to the VMM, when the VM ends") \
    X(UNASSIGNED, "unimp", "accesses to ports and addresses where nobody is home") \
    X(GUEST, "guest_errors", "what a guest does that no device allows")            \
    X(LOADER, "loader", "where the kernel, its data and the tables are put")       \
    X(FIRMWARE, "firmware", "what firmware and test kernels say on the debug port")  \
    X(RESET, "cpu_reset", "registers when a processor resets or gives up")        \
    X(ENGINE, "engine", "messages of the soft back end")                          \
    X(STATS, "stats", "statistics of the soft back end, when the VM ends")

enum log_item {
#define LOG_ENUM(id, name, text) LOG_##id,
    LOG_ITEMS(LOG_ENUM)
#undef LOG_ENUM
        LOG_ITEM_COUNT
};

extern uint32_t log_mask; /* bit n: enum log_item n */

static inline bool log_on(enum log_item item)
{
    return (log_mask >> item & 1) != 0;
}

/* Adds the items of a comma-separated list ("all" for each of them). */
int log_enable(const char *items, struct error *error);
/* Sends the log to a file (truncated) instead of stderr. */
int log_open(const char *path, struct error *error);
void log_close(void);

/* One line, newline added. From any thread. */
void log_line(enum log_item item, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The list of items, for `-d help`. */
void log_help(void);

#endif
