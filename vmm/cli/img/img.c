/* SPDX-License-Identifier: MIT */
/* `kage img`: the table of verbs, and what they share. */
#include "cli/img/img.h"

#include <errno.h>
#include <malloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "block/block.h"

#define IMG_MALLOC_KEEP (32 << 20)

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *usage;
} img_verbs[] = {
    {"amend", img_amend, "[-p] [-q] [-t cache] [--force] -f fmt -o options filename"},
    {"bench", img_bench, "[-c count] [-d depth] [-f fmt] [--flush-interval=n] [-i aio] [-n] [--no-drain] [-o offset] [--pattern=n] [-q] [-s bytes] [-S step] [-t cache] [-w] [-U] filename"},
    {"bitmap", img_bitmap, "(--merge source | --add | --remove | --clear | --enable | --disable)... [-b source_file [-F source_fmt]] [-g granularity] -f fmt filename bitmap"},
    {"check", img_check, "[-q] [-f fmt] [--output=ofmt] [-r [leaks | all]] [-T src_cache] [-U] filename"},
    {"commit", img_commit, "[-q] -f fmt [-t cache] [-b base] [-d] [-p] filename"},
    {"compare", img_compare, "[-f fmt] [-F fmt] [-T src_cache] [-p] [-q] [-s] [-U] filename1 filename2"},
    {"convert", img_convert, "[--target-image-opts] [--target-is-zero] [-U] [-c] [-p] [-q] [-n] [-f fmt] [-t cache] [-T src_cache] [-O fmt] [-B backing_file [-F fmt]] [-o options] [-l snapshot] [-S bytes] [-m n] [-W] [--salvage] filename output_filename"},
    {"create", img_create, "[-q] [-f fmt] [-b backing_file -F fmt] [-u] [-o options] filename [size]"},
    {"dd", img_dd, "[-U] [-f fmt] [-O fmt] [bs=n] [count=n] [skip=n] if=input of=output"},
    {"info", img_info, "[-f fmt] [--output=ofmt] [--backing-chain] [-U] filename"},
    {"map", img_map, "[-f fmt] [--start-offset=n] [--max-length=n] [--output=ofmt] [-U] filename"},
    {"measure", img_measure, "[--output=ofmt] [-O fmt] [-o options] [--size n | [-f fmt] [-l snapshot] [-U] filename]"},
    {"rebase", img_rebase, "[-U] [-q] -f fmt [-t cache] [-T src_cache] [-p] [-u] -b backing_file [-F fmt] filename"},
    {"resize", img_resize, "-f fmt [--preallocation=mode] [-q] [--shrink] filename [+ | -]size"},
    {"snapshot", img_snapshot, "[-U] [-q] -f fmt [-l | -a name | -c name | -d name] filename"},
};

static void img_help(void)
{
    puts("kage img: disk images, with qemu-img's options\n");
    for (size_t i = 0; i < IMG_ARRAY_SIZE(img_verbs); i++) {
        printf("  kage img %s %s\n", img_verbs[i].name, img_verbs[i].usage);
    }
    puts("\nFormats: raw, qcow2. With --image-opts, which all verbs have but create, the image is given by options: driver=qcow2,file.filename=disk.qcow2.\n"
         "Sizes have suffixes k, M, G, T, P, E. What changes an image needs -f: the format of an image that is written to\n"
         "is never guessed. 'kage img create -f qcow2 -o help' lists the options of a format.");
}

int img_main(int count, char **words)
{
    if (count == 0) {
        return img_fail("Not enough arguments; try 'kage img help'");
    }
    if (strcmp(words[0], "help") == 0 || strcmp(words[0], "-h") == 0 || strcmp(words[0], "--help") == 0) {
        img_help();
        return 0;
    }
    for (size_t i = 0; i < IMG_ARRAY_SIZE(img_verbs); i++) {
        if (strcmp(words[0], img_verbs[i].name) == 0) {
            for (int word = 1; word < count; word++) {
                if (strcmp(words[word], "-h") == 0 || strcmp(words[word], "--help") == 0) {
                    printf("kage img %s %s\n", img_verbs[i].name, img_verbs[i].usage);
                    return 0;
                }
            }
            /* Buffers of a few hundred KiB come and go for each cluster: their pages stay with the process. */
            mallopt(M_MMAP_THRESHOLD, IMG_MALLOC_KEEP);
            mallopt(M_TRIM_THRESHOLD, IMG_MALLOC_KEEP);
            optind = 0; /* getopt's way of starting anew */
            opterr = 1;
            words[0] = (char[]){"kage img"};
            return img_verbs[i].run(count, words);
        }
    }
    return img_fail("Command not found: %s; try 'kage img help'", words[0]);
}

int img_fail(const char *format, ...)
{
    va_list args;
    fflush(stdout);
    va_start(args, format);
    fputs("kage img: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    return 1;
}

int img_usage(const char *verb, const char *what)
{
    if (what != NULL) {
        img_fail("%s", what);
    }
    fprintf(stderr, "Try 'kage img %s --help' for more information\n", verb);
    return 1;
}

int img_parse_size(const char *text, uint64_t *bytes)
{
    static const char suffixes[] = "bkmgtpe";
    char *end;
    errno = 0;
    if (text[0] < '0' || text[0] > '9') {
        return -1;
    }
    unsigned long long value = strtoull(text, &end, text[0] == '0' && (text[1] | 0x20) == 'x' ? 16 : 10);
    double fraction = 0;
    if (*end == '.') {
        fraction = strtod(end, &end);
    }
    unsigned shift = 0;
    bool suffix = *end != '\0';
    if (suffix) {
        const char *found = strchr(suffixes, *end | 0x20);
        if (found == NULL || end[1] != '\0') {
            return -1;
        }
        shift = (unsigned)(found - suffixes) * 10;
    }
    if (errno != 0 || (fraction != 0 && shift == 0) || value > (uint64_t)INT64_MAX >> shift) {
        return -1;
    }
    *bytes = (value << shift) + (uint64_t)(fraction * (double)(UINT64_C(1) << shift));
    return 0;
}

/* As QEMU's size_to_str(): three digits, in the unit where they are less than 1000. */
void img_size_text(uint64_t bytes, char text[32])
{
    static const char *const units[] = {"", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"};
    unsigned unit = 0;
    while (unit < 6 && (double)bytes / (double)(UINT64_C(1) << (10 * unit)) >= 1000) {
        unit++;
    }
    snprintf(text, 32, "%0.3g %sB", (double)bytes / (double)(UINT64_C(1) << (10 * unit)), units[unit]);
}

void img_json_string(const char *text)
{
    putchar('"');
    for (const unsigned char *c = (const unsigned char *)text; *c != '\0'; c++) {
        if (*c == '"' || *c == '\\') {
            printf("\\%c", *c);
        } else if (*c < 0x20 || *c >= 0x7f) {
            printf("\\u%04x", *c);
        } else {
            putchar(*c);
        }
    }
    putchar('"');
}

int img_parse_cache(const char *text, struct node_options *options)
{
    struct block_config config = {0};
    if (block_config_cache(&config, text) != 0) {
        return img_fail("Invalid cache option: %s", text);
    }
    options->direct = config.cache_direct;
    options->no_flush = config.cache_no_flush;
    return 0;
}

struct block_node *img_open(const char *filename, const char *format, const struct node_options *options)
{
    struct error error = {""};
    struct block_node *node = node_open(filename, format, options, &error);
    if (node == NULL) {
        img_fail("%s", error.text);
    }
    return node;
}

int img_close(struct block_node *node, int status)
{
    int result = node_close(node);
    return result != 0 ? img_fail("Could not write the image: %s", strerror(-result)) : status;
}

void img_progress(bool on, uint64_t done, uint64_t total, bool end)
{
    static int last = -1;
    if (!on) {
        return;
    }
    int percent = total == 0 || end ? 10000 : (int)((double)done * 10000 / (double)total);
    if (percent != last || end) {
        printf("    (%3.2f/100%%)\r", percent / 100.0);
        last = percent;
    }
    if (end) {
        putchar('\n');
        last = -1;
    }
    fflush(stdout);
}

bool img_is_zero(const uint8_t *buffer, size_t bytes)
{
    return bytes == 0 || (buffer[0] == 0 && memcmp(buffer, buffer + 1, bytes - 1) == 0);
}

size_t img_zero_run(const uint8_t *buffer, size_t bytes, size_t grain, bool *zero)
{
    size_t at = grain < bytes ? grain : bytes;
    *zero = img_is_zero(buffer, at);
    while (at < bytes) {
        size_t count = bytes - at < grain ? bytes - at : grain;
        if (img_is_zero(buffer + at, count) != *zero) {
            break;
        }
        at += count;
    }
    return at;
}
