/* SPDX-License-Identifier: MIT */
/*
 * `kage img`: images, with qemu-img's verbs, options and output. One function for each verb; what they share is here. A verb prints what went wrong
 * itself, and returns the exit status.
 */
#ifndef KAGE_CLI_IMG_IMG_H
#define KAGE_CLI_IMG_IMG_H

#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>

#include "block/node.h"
#include "block/qcow2_create.h"

/* `count` words behind `img`. The exit status. */
int img_main(int count, char **words);

int img_amend(int argc, char **argv);
int img_bitmap(int argc, char **argv);
int img_measure(int argc, char **argv);
int img_create(int argc, char **argv);
int img_info(int argc, char **argv);
int img_snapshot(int argc, char **argv);
int img_check(int argc, char **argv);
int img_convert(int argc, char **argv);
int img_dd(int argc, char **argv);
int img_map(int argc, char **argv);
int img_compare(int argc, char **argv);
int img_commit(int argc, char **argv);
int img_rebase(int argc, char **argv);
int img_resize(int argc, char **argv);
int img_bench(int argc, char **argv);

/* ---- Shared ---- */

#define IMG_ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* Options without a letter of their own. */
enum {
    IMG_OPT_OUTPUT = 256, IMG_OPT_BACKING_CHAIN, IMG_OPT_SHRINK, IMG_OPT_PREALLOCATION, IMG_OPT_START, IMG_OPT_MAX_LENGTH, IMG_OPT_TARGET_ZERO,
    IMG_OPT_SALVAGE, IMG_OPT_PATTERN, IMG_OPT_FLUSH_INTERVAL, IMG_OPT_NO_DRAIN, IMG_OPT_IMAGE_OPTS, IMG_OPT_TARGET_IMAGE_OPTS, IMG_OPT_OBJECT,
    IMG_OPT_SIZE, IMG_OPT_FORCE, IMG_OPT_ADD, IMG_OPT_REMOVE, IMG_OPT_CLEAR, IMG_OPT_ENABLE, IMG_OPT_DISABLE, IMG_OPT_MERGE, IMG_OPT_BITMAPS,
    IMG_OPT_WRONG, /* what was wrong has been said */
};

/* Options that verbs share: -f and -q, --image-opts and --object of all of them, and those that a verb says it takes. */
#define IMG_TAKES_FORCE_SHARE 1u
#define IMG_TAKES_OUTPUT 2u
#define IMG_TAKES_PROGRESS 4u

struct img_common {
    const char *verb;
    unsigned takes;
    const char *format;
    bool json, quiet, progress, force_share, image_opts;
};

/* The verb's next own option, as getopt_long() gives it; -1: no more. IMG_OPT_WRONG: the verb returns 1. */
int img_option(struct img_common *common, int argc, char **argv, const char *letters, const struct option *own);
/* The image that a word of the command line names: a file's name, or what --image-opts makes of it. Says so if it fails; NULL then. */
struct block_node *img_open_image(const struct img_common *common, const char *name, const char *format, const struct node_options *options);
/* The name in -l: alone, or behind snapshot.name= or snapshot.id=. */
const char *img_snapshot_name(const char *text);
/* A snapshot to read from, in place of the disk. Says so if it fails; 1 then. */
int img_load_snapshot(struct block_node *node, const char *name);
struct drive_values;
/* Of --image-opts. 0, 1: wrong (said so), 2: help was asked for and given. */
int img_parse_image_opts(const char *text, struct drive_values *values);

/* "kage img: ...", to stderr; 1. */
int img_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* What getopt_long() found wrong (it has said so itself), or too few or too many words. 1. */
int img_usage(const char *verb, const char *what);
/* With a suffix b, k, M, G, T, P, E, and perhaps a fraction; -1: not one, or negative. */
int img_parse_size(const char *text, uint64_t *bytes);
/* "1.5 GiB" */
void img_size_text(uint64_t bytes, char text[32]);
void img_json_string(const char *text);
/* A cache mode into what a node knows of it. 0, or 1. */
int img_parse_cache(const char *text, struct node_options *options);
/* Says so if it fails; NULL then. */
struct block_node *img_open(const char *filename, const char *format, const struct node_options *options);
/* Says so if something could not be written; 1 then. */
int img_close(struct block_node *node, int status);
/* -p: "    (12.34/100%)\r" on a terminal line of its own; `end`: a newline. */
void img_progress(bool on, uint64_t done, uint64_t total, bool end);

/* Options of a new image: -o, and others that mean the same. */
struct img_new {
    const char *format; /* "raw", "qcow2" */
    const char *backing_file, *backing_format;
    uint64_t size;
    bool has_size, unsafe;
    const char *lists[16];  /* of -o, as they came: their meaning depends on the format */
    unsigned list_count;
    char text[4096];        /* of all of them, which strings point into */
    size_t text_used;
    unsigned cluster_bits, refcount_bits, version;
    bool has_compat, has_lazy, has_refcount_bits, lazy_refcounts, extended_l2, zstd;
    bool amend; /* only what an image that exists can change */
    int prealloc;
    const char *prealloc_name;
};

void img_new_init(struct img_new *options);
/* One -o, NAME=VALUE,…, for later. 0, or 1: they are too many (said so). */
int img_new_add(struct img_new *options, const char *list);
/* All of them, once the format is known; 0, 1: wrong (said so), 2: help was asked for and given. */
int img_new_parse(struct img_new *options);
/* Makes it, and says "Formatting …" unless `quiet`. 0 or 1. */
int img_new_create(const char *filename, struct img_new *options, bool quiet);
int img_parse_prealloc(const char *text);

/* Whether a buffer is all zeroes. */
bool img_is_zero(const uint8_t *buffer, size_t bytes);
/* How many bytes from the start are alike in being zero or not, in pieces of `grain`. */
size_t img_zero_run(const uint8_t *buffer, size_t bytes, size_t grain, bool *zero);

#endif
