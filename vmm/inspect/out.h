/* SPDX-License-Identifier: MIT */
/*
 * Text for a terminal: styles, headings, tables with aligned columns. Colour and box lines are there or not as struct out says, which
 * out_init() finds out: colour on a terminal unless NO_COLOR is set, lines and signs of Unicode where the locale is UTF-8.
 */
#ifndef KAGE_INSPECT_OUT_H
#define KAGE_INSPECT_OUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum out_style { OUT_PLAIN, OUT_TITLE, OUT_DIM, OUT_NAME, OUT_GOOD, OUT_BAD, OUT_STYLES };

struct out {
    FILE *file;
    bool colour, utf8;
    unsigned width; /* columns to fill, 80 to 120 */
};

void out_init(struct out *out, FILE *file);

/* Text in a style, without a newline. */
void out_text(const struct out *out, enum out_style style, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* Indented, and broken at spaces where the line would be too long. */
void out_paragraph(const struct out *out, enum out_style style, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* "── Title ─────" */
void out_heading(const struct out *out, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A terminal of 80 columns or little more: tables leave out what can be spared. */
static inline bool out_is_narrow(const struct out *out)
{
    return out->width < 100;
}
/* One of two signs, by what the terminal can show. */
static inline const char *out_sign(const struct out *out, const char *unicode, const char *ascii)
{
    return out->utf8 ? unicode : ascii;
}

/* ---- Tables ---- */

#define OUT_COLUMNS 12

/* Cells are kept until table_end() knows how wide the columns are. A column named with '>' in front is right-aligned, with '|' one that wraps. */
struct table {
    const struct out *out;
    unsigned columns, rows, room;
    bool right[OUT_COLUMNS], wraps[OUT_COLUMNS];
    const char *names[OUT_COLUMNS];
    struct table_cell { char *text; enum out_style style; } *cells;
    unsigned at; /* next cell of the row */
};

void table_begin(struct table *table, const struct out *out, const char *const *names); /* NULL at the end */
/* The next cell; rows fill up from left to right. */
void table_cell(struct table *table, enum out_style style, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* Prints it all, and frees it. */
void table_end(struct table *table);

/* ---- Numbers ---- */

#define OUT_NUMBER 32
/* "512 MiB", "1.5 GiB", "12 KiB". */
const char *out_bytes(char text[OUT_NUMBER], uint64_t bytes);
/* 1234567 as "1,234,567". */
const char *out_count(char text[OUT_NUMBER], uint64_t count);
/* Columns that UTF-8 text takes. */
unsigned out_width(const char *text);

#endif
