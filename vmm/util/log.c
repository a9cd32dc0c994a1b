/* SPDX-License-Identifier: MIT */
/*
 * The log: one table of items, one stream, one lock (stdio's own). A budget of lines bounds what a
 * guest can write through LOG_UNASSIGNED and LOG_GUEST.
 */
#include "util/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define LOG_LINES_MAX 100000u

uint32_t log_mask;

static FILE *log_stream;
static atomic_uint log_lines;

static const struct {
    const char *name;
    const char *text;
} log_items[] = {
#define LOG_ROW(id, name, text) {name, text},
    LOG_ITEMS(LOG_ROW)
#undef LOG_ROW
};

int log_enable(const char *items, struct error *error)
{
    while (*items != '\0') {
        size_t length = strcspn(items, ",");
        uint32_t bits = 0;
        for (unsigned i = 0; i < LOG_ITEM_COUNT; i++) {
            bool all = length == 3 && memcmp(items, "all", 3) == 0;
            if (all || (strlen(log_items[i].name) == length && memcmp(log_items[i].name, items, length) == 0)) {
                bits |= 1u << i;
            }
        }
        if (bits == 0) {
            return error_set(error, "-d %.*s: no such log item; '-d help' lists them", (int)length, items);
        }
        log_mask |= bits;
        items += length;
        items += *items == ',';
    }
    return 0;
}

int log_open(const char *path, struct error *error)
{
    FILE *stream = fopen(path, "we");
    if (stream == NULL) {
        return error_set(error, "-D %s: %s", path, strerror(errno));
    }
    log_close();
    log_stream = stream;
    setvbuf(log_stream, NULL, _IOLBF, 0);
    return 0;
}

void log_close(void)
{
    if (log_stream != NULL) {
        fclose(log_stream);
        log_stream = NULL;
    }
}

void log_line(enum log_item item, const char *format, ...)
{
    if (!log_on(item)) {
        return;
    }
    unsigned lines = atomic_fetch_add_explicit(&log_lines, 1, memory_order_relaxed);
    if (lines >= LOG_LINES_MAX) {
        atomic_store_explicit(&log_lines, LOG_LINES_MAX, memory_order_relaxed);
        return;
    }
    char line[512];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    FILE *stream = log_stream != NULL ? log_stream : stderr;
    fprintf(stream, "%s: %s\n", log_items[item].name, line);
    if (lines == LOG_LINES_MAX - 1) {
        fprintf(stream, "log: %u lines written, no more follow\n", LOG_LINES_MAX);
    }
}

void log_help(void)
{
    puts("Items for -d (comma-separated, or 'all'):");
    for (unsigned i = 0; i < LOG_ITEM_COUNT; i++) {
        printf("  %-14s %s\n", log_items[i].name, log_items[i].text);
    }
}
