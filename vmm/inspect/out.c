/* SPDX-License-Identifier: MIT */
#include "inspect/out.h"

#include <langinfo.h>
#include <locale.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define WIDTH_MIN 80u
#define WIDTH_MAX 120u
#define WIDTH_FILE 100u
#define GAP 2u
#define INDENT 2u
#define CELL_MAX 1024
#define WRAP_MIN 12u /* of a column that wraps */

static const char *const escapes[OUT_STYLES] = {
    [OUT_PLAIN] = "", [OUT_TITLE] = "\033[1m", [OUT_DIM] = "\033[2m", [OUT_NAME] = "\033[36m", [OUT_GOOD] = "\033[32m", [OUT_BAD] = "\033[31m",
};

void out_init(struct out *out, FILE *file)
{
    const char *no_colour = getenv("NO_COLOR"), *term = getenv("TERM");
    bool tty = isatty(fileno(file)) == 1;
    struct winsize size;

    *out = (struct out){.file = file, .width = WIDTH_FILE};
    out->colour = tty && (no_colour == NULL || no_colour[0] == '\0') && term != NULL && strcmp(term, "dumb") != 0;
    if (setlocale(LC_CTYPE, "") != NULL) {
        out->utf8 = strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
    }
    if (tty && ioctl(fileno(file), TIOCGWINSZ, &size) == 0 && size.ws_col != 0) {
        out->width = size.ws_col < WIDTH_MIN ? WIDTH_MIN : size.ws_col > WIDTH_MAX ? WIDTH_MAX : size.ws_col;
    }
}

unsigned out_width(const char *text)
{
    unsigned width = 0;
    for (; *text != '\0'; text++) {
        width += ((unsigned char)*text & 0xc0) != 0x80; /* the first byte of each character */
    }
    return width;
}

static void put(const struct out *out, enum out_style style, const char *text, size_t bytes)
{
    bool styled = out->colour && style != OUT_PLAIN && bytes != 0;
    fprintf(out->file, "%s%.*s%s", styled ? escapes[style] : "", (int)bytes, text, styled ? "\033[0m" : "");
}

static void fill(const struct out *out, const char *sign, unsigned count)
{
    while (count-- > 0) {
        fputs(sign, out->file);
    }
}

void out_text(const struct out *out, enum out_style style, const char *format, ...)
{
    char text[CELL_MAX];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    put(out, style, text, strlen(text));
}

/* As much of the text as fits, up to a space or behind a hyphen; a word that is too long for a line is cut. */
static size_t piece(const char *text, unsigned room)
{
    size_t end = 0;
    unsigned width = 0;

    for (size_t i = 0;; i++) {
        if (text[i] == '\0' || text[i] == ' ') {
            end = i;
        } else if (i != 0 && text[i - 1] == '-' && text[i] >= 'a') {
            end = i;
        }
        if (text[i] == '\0') {
            return i;
        }
        if (((unsigned char)text[i] & 0xc0) != 0x80 && ++width > room && room != 0) {
            return text[i] == ' ' || end == 0 ? i : end;
        }
    }
}

void out_paragraph(const struct out *out, enum out_style style, const char *format, ...)
{
    char text[CELL_MAX];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    for (const char *rest = text; *rest != '\0';) {
        size_t bytes = piece(rest, out->width - INDENT);
        fill(out, " ", INDENT);
        put(out, style, rest, bytes);
        fputc('\n', out->file);
        rest += bytes + (rest[bytes] == ' ');
    }
}

void out_heading(const struct out *out, const char *format, ...)
{
    const char *line = out_sign(out, "─", "-");
    char text[CELL_MAX];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    unsigned used = out_width(text) + 4;
    fprintf(out->file, "%s%s%s ", out->colour ? escapes[OUT_DIM] : "", line, line);
    fputs(out->colour ? "\033[0m" : "", out->file);
    put(out, OUT_TITLE, text, strlen(text));
    fprintf(out->file, " %s", out->colour ? escapes[OUT_DIM] : "");
    fill(out, line, out->width > used ? out->width - used : 0);
    fputs(out->colour ? "\033[0m\n" : "\n", out->file);
}

/* ---- Tables ---- */

void table_begin(struct table *table, const struct out *out, const char *const *names)
{
    *table = (struct table){.out = out};
    for (; names[table->columns] != NULL && table->columns < OUT_COLUMNS; table->columns++) {
        const char *name = names[table->columns];
        table->right[table->columns] = name[0] == '>';
        table->wraps[table->columns] = name[0] == '|';
        table->names[table->columns] = name + (name[0] == '>' || name[0] == '|');
    }
}

void table_cell(struct table *table, enum out_style style, const char *format, ...)
{
    char text[CELL_MAX];
    va_list args;

    if (table->rows * table->columns + table->at >= table->room) {
        unsigned room = table->room != 0 ? table->room * 2 : 16 * table->columns;
        struct table_cell *cells = realloc(table->cells, room * sizeof(*cells));
        if (cells == NULL) {
            return;
        }
        table->cells = cells;
        table->room = room;
    }
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    table->cells[table->rows * table->columns + table->at] = (struct table_cell){.text = strdup(text), .style = style};
    if (++table->at == table->columns) {
        table->at = 0;
        table->rows++;
    }
}

static const char *text_of(const struct table *table, unsigned row, unsigned column)
{
    const char *text = table->cells[row * table->columns + column].text;
    return text != NULL ? text : "";
}

static void print_row(const struct table *table, unsigned row, const unsigned *widths)
{
    const char *rest[OUT_COLUMNS];
    bool more = true;

    for (unsigned c = 0; c < table->columns; c++) {
        rest[c] = text_of(table, row, c);
    }
    while (more) {
        unsigned owed = INDENT; /* spaces before the next text: none at a line's end */
        more = false;
        for (unsigned c = 0; c < table->columns; c++) {
            size_t bytes = table->wraps[c] ? piece(rest[c], widths[c]) : strlen(rest[c]);
            char part[CELL_MAX];
            snprintf(part, sizeof(part), "%.*s", (int)bytes, rest[c]);
            unsigned width = out_width(part), pad = widths[c] > width ? widths[c] - width : 0;
            if (bytes != 0) {
                fill(table->out, " ", owed + (table->right[c] ? pad : 0));
                put(table->out, table->cells[row * table->columns + c].style, part, bytes);
                owed = table->right[c] ? 0 : pad;
            } else {
                owed += widths[c];
            }
            owed += GAP;
            rest[c] += bytes + (rest[c][bytes] == ' ');
            more = more || rest[c][0] != '\0';
        }
        fputc('\n', table->out->file);
    }
}

void table_end(struct table *table)
{
    const struct out *out = table->out;
    unsigned widths[OUT_COLUMNS] = {0}, total = INDENT;

    for (unsigned c = 0; c < table->columns; c++) {
        widths[c] = out_width(table->names[c]);
        for (unsigned row = 0; row < table->rows; row++) {
            unsigned width = out_width(text_of(table, row, c));
            widths[c] = width > widths[c] ? width : widths[c];
        }
        total += widths[c] + (c != 0 ? GAP : 0);
    }
    for (unsigned c = 0; c < table->columns && total > out->width; c++) {
        unsigned over = total - out->width;
        if (table->wraps[c] && widths[c] > WRAP_MIN) {
            unsigned cut = over < widths[c] - WRAP_MIN ? over : widths[c] - WRAP_MIN;
            widths[c] -= cut;
            total -= cut;
        }
    }
    unsigned owed = INDENT;
    for (unsigned c = 0; c < table->columns; c++) {
        unsigned width = out_width(table->names[c]), pad = widths[c] - width;
        if (width == 0) {
            owed += widths[c] + GAP;
            continue;
        }
        fill(out, " ", owed + (table->right[c] ? pad : 0));
        put(out, OUT_DIM, table->names[c], strlen(table->names[c]));
        owed = (table->right[c] ? 0 : pad) + GAP;
    }
    fputc('\n', out->file);
    for (unsigned row = 0; row < table->rows; row++) {
        print_row(table, row, widths);
    }
    for (unsigned i = 0; i < table->rows * table->columns + table->at; i++) {
        free(table->cells[i].text);
    }
    free(table->cells);
    *table = (struct table){.out = out};
}

/* ---- Numbers ---- */

const char *out_bytes(char text[OUT_NUMBER], uint64_t bytes)
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB"};
    unsigned unit = 0;
    uint64_t tenths = bytes * 10;

    if (bytes >> 58 != 0) {
        tenths = bytes / 1024 * 10;
        unit = 1;
    }
    for (; tenths >= 10240 && unit + 1 < sizeof(units) / sizeof(units[0]); unit++) {
        tenths = (tenths + 512) / 1024;
    }
    if (tenths % 10 == 0 || tenths >= 1000) {
        snprintf(text, OUT_NUMBER, "%llu %s", (unsigned long long)((tenths + 5) / 10), units[unit]);
    } else {
        snprintf(text, OUT_NUMBER, "%llu.%llu %s", (unsigned long long)(tenths / 10), (unsigned long long)(tenths % 10), units[unit]);
    }
    return text;
}

const char *out_count(char text[OUT_NUMBER], uint64_t count)
{
    char digits[24];
    int length = snprintf(digits, sizeof(digits), "%llu", (unsigned long long)count), to = 0;

    for (int i = 0; i < length; i++) {
        if (i != 0 && (length - i) % 3 == 0) {
            text[to++] = ',';
        }
        text[to++] = digits[i];
    }
    text[to] = '\0';
    return text;
}
