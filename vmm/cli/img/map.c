/* SPDX-License-Identifier: MIT */
/* `kage img map` and `compare`: what lies where, and whether two images hold the same. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/img/img.h"

#define COMPARE_BUFFER (1u << 20)

/* ---- map ---- */

struct map_entry {
    uint64_t start, bytes, offset;
    bool present, zero, data, has_offset, ends; /* ends: the file is shorter, so that nothing is there */
    unsigned depth;
    struct block_node *holder;
};

static int map_next(struct block_node *node, uint64_t offset, uint64_t bytes, struct map_entry *entry)
{
    struct block_extent extent;
    struct block_node *holder;
    unsigned depth;
    int result = node_map_chain(node, NULL, offset, bytes, &extent, &holder, &depth);
    if (result != 0) {
        return result;
    }
    *entry = (struct map_entry){
        .start = offset,
        .bytes = extent.bytes,
        .present = holder != NULL && offset < holder->bytes,
        .zero = (extent.flags & EXTENT_ZERO) != 0,
        .data = (extent.flags & EXTENT_DATA) != 0,
        .has_offset = (extent.flags & EXTENT_OFFSET) != 0,
        .offset = extent.host_offset,
        .depth = depth,
        .holder = holder,
    };
    /* Nobody holds it: said of the last image of the chain, or of the one that is longer than what it lies on. */
    if (holder == NULL || (offset >= holder->bytes && depth > 0)) {
        entry->depth = depth - 1;
        entry->holder = NULL;
    }
    /* Data in the file that is a hole there reads as zeroes, whatever the format thinks. */
    if (entry->data && entry->has_offset && holder->driver != &raw_driver && holder->file->driver->map != NULL) {
        struct block_extent host;
        if (holder->file->driver->map(holder->file, extent.host_offset, extent.bytes, &host) == 0) {
            entry->zero = (host.flags & EXTENT_ZERO) != 0;
            entry->bytes = host.bytes;
        }
    }
    return 0;
}

static bool map_alike(const struct map_entry *a, const struct map_entry *b)
{
    return a->present == b->present && a->zero == b->zero && a->data == b->data && a->has_offset == b->has_offset && a->depth == b->depth &&
           a->holder == b->holder && (!a->has_offset || a->offset + a->bytes == b->offset);
}

static int map_print(const struct map_entry *entry, bool json, bool first)
{
    if (json) {
        printf("%s{ \"start\": %" PRIu64 ", \"length\": %" PRIu64 ", \"depth\": %u, \"present\": %s, \"zero\": %s, \"data\": %s", first ? "[" : ",\n",
               entry->start, entry->bytes, entry->depth, entry->present ? "true" : "false", entry->zero ? "true" : "false", entry->data ? "true" : "false");
        printf(entry->has_offset ? ", \"offset\": %" PRIu64 "}" : "}", entry->offset);
        return 0;
    }
    if (entry->data && !entry->has_offset) {
        return img_fail("File contains external, encrypted or compressed clusters.");
    }
    if (entry->data && !entry->zero) {
        printf("%#-16" PRIx64 "%#-16" PRIx64 "%#-16" PRIx64 "%s\n", entry->start, entry->bytes, entry->offset, entry->holder->filename);
    }
    return 0;
}

int img_map(int argc, char **argv)
{
    static const struct option longs[] = {{"start-offset", required_argument, NULL, IMG_OPT_START},
                                          {"max-length", required_argument, NULL, IMG_OPT_MAX_LENGTH}, {0}};
    struct img_common common = {.verb = "map", .takes = IMG_TAKES_FORCE_SHARE | IMG_TAKES_OUTPUT};
    uint64_t start = 0, max = UINT64_MAX;
    struct node_options options = {.read_only = true};
    int option;
    while ((option = img_option(&common, argc, argv, "s:l:", longs)) != -1) {
        switch (option) {
        case 's':
        case IMG_OPT_START:
            if (img_parse_size(optarg, &start) != 0) {
                return img_fail("Invalid start offset specified: '%s'", optarg);
            }
            break;
        case 'l':
        case IMG_OPT_MAX_LENGTH:
            if (img_parse_size(optarg, &max) != 0) {
                return img_fail("Invalid max length specified: '%s'", optarg);
            }
            break;
        default:
            return 1;
        }
    }
    if (optind != argc - 1) {
        return img_usage("map", "Expecting one image file name");
    }
    struct block_node *node = img_open_image(&common, argv[optind], common.format, &options);
    if (node == NULL) {
        return 1;
    }
    if (!common.json) {
        printf("%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File");
    }
    uint64_t end = max < node->bytes && start < node->bytes - max ? start + max : node->bytes;
    struct map_entry entry, next;
    bool have = false, first = true;
    int status = 0;
    for (uint64_t at = start; at < end && status == 0; at += next.bytes) {
        int result = map_next(node, at, end - at, &next);
        if (result != 0) {
            status = img_fail("Failed to read image metadata: %s", strerror(-result));
            break;
        }
        if (have && map_alike(&entry, &next)) {
            entry.bytes += next.bytes;
            continue;
        }
        if (have) {
            status = map_print(&entry, common.json, first);
            first = false;
        }
        entry = next;
        have = true;
    }
    if (have && status == 0) {
        status = map_print(&entry, common.json, first);
        first = false;
    }
    if (common.json) {
        puts(first ? "[]" : "]");
    }
    return img_close(node, status);
}

/* ---- compare ---- */

struct compare {
    struct block_node *node[2];
    uint8_t *buffer[2];
    bool strict, quiet, progress;
};

static int compare_say(const struct compare *c, const char *what, uint64_t offset)
{
    if (!c->quiet) {
        printf("%s mismatch at offset %" PRIu64 "!\n", what, offset);
    }
    return 1;
}

/* Bytes that only the longer one has must be zero. */
static int compare_rest(struct compare *c, unsigned longer, uint64_t from)
{
    struct block_node *node = c->node[longer];
    for (uint64_t at = from; at < node->bytes;) {
        struct block_extent extent;
        struct block_node *holder;
        unsigned depth;
        int result = node_map_chain(node, NULL, at, node->bytes - at, &extent, &holder, &depth);
        if (result == 0 && !(extent.flags & EXTENT_ZERO)) {
            extent.bytes = extent.bytes < COMPARE_BUFFER ? extent.bytes : COMPARE_BUFFER;
            result = node_read(node, at, c->buffer[0], extent.bytes);
            for (uint64_t i = 0; i < extent.bytes && result == 0; i++) {
                if (c->buffer[0][i] != 0) {
                    return compare_say(c, "Content", at + i);
                }
            }
        }
        if (result != 0) {
            img_fail("Error while reading offset %" PRIu64 " of %s: %s", at, node->filename, strerror(-result));
            return 4;
        }
        at += extent.bytes;
    }
    return 0;
}

static int compare_run(struct compare *c)
{
    uint64_t bytes = c->node[0]->bytes < c->node[1]->bytes ? c->node[0]->bytes : c->node[1]->bytes;
    uint64_t all = c->node[0]->bytes + c->node[1]->bytes - bytes;
    if (c->strict && bytes != all) {
        if (!c->quiet) {
            puts("Strict mode: Image size mismatch!");
        }
        return 1;
    }
    for (uint64_t at = 0; at < bytes;) {
        struct block_extent extent[2];
        uint64_t count = bytes - at;
        for (unsigned i = 0; i < 2; i++) {
            struct block_node *holder;
            unsigned depth;
            int result = node_map_chain(c->node[i], NULL, at, count, &extent[i], &holder, &depth);
            if (result != 0) {
                img_fail("Sector allocation test failed for %s: %s", c->node[i]->filename, strerror(-result));
                return 3;
            }
            count = extent[i].bytes;
        }
        if (c->strict && (extent[0].flags & (EXTENT_ZERO | EXTENT_DATA)) != (extent[1].flags & (EXTENT_ZERO | EXTENT_DATA))) {
            if (!c->quiet) {
                printf("Strict mode: Offset %" PRIu64 " block status mismatch!\n", at);
            }
            return 1;
        }
        if (!(extent[0].flags & EXTENT_ZERO) || !(extent[1].flags & EXTENT_ZERO)) {
            count = count < COMPARE_BUFFER ? count : COMPARE_BUFFER;
            for (unsigned i = 0; i < 2; i++) {
                int result = node_read(c->node[i], at, c->buffer[i], count);
                if (result != 0) {
                    img_fail("Error while reading offset %" PRIu64 " of %s: %s", at, c->node[i]->filename, strerror(-result));
                    return 4;
                }
            }
            if (memcmp(c->buffer[0], c->buffer[1], count) != 0) {
                uint64_t i = 0;
                while (c->buffer[0][i] == c->buffer[1][i]) {
                    i++;
                }
                return compare_say(c, "Content", (at + i) & ~UINT64_C(511));
            }
        }
        at += count;
        img_progress(c->progress, at, all, false);
    }
    if (bytes != all) {
        if (!c->quiet) {
            puts("Warning: Image size mismatch!");
        }
        int status = compare_rest(c, c->node[1]->bytes > c->node[0]->bytes, bytes);
        if (status != 0) {
            return status;
        }
    }
    img_progress(c->progress, all, all, true);
    if (!c->quiet) {
        puts("Images are identical.");
    }
    return 0;
}

/* The exit status: 0 the same, 1 different, above: an error. */
int img_compare(int argc, char **argv)
{
    struct img_common common = {.verb = "compare", .takes = IMG_TAKES_FORCE_SHARE | IMG_TAKES_PROGRESS};
    const char *second_format = NULL;
    struct node_options options = {.read_only = true};
    struct compare c = {0};
    int option;
    while ((option = img_option(&common, argc, argv, "F:T:s", NULL)) != -1) {
        switch (option) {
        case 'F':
            second_format = optarg;
            break;
        case 'T':
            if (img_parse_cache(optarg, &options) != 0) {
                return 2;
            }
            break;
        case 's':
            c.strict = true;
            break;
        default:
            return 2;
        }
    }
    if (optind != argc - 2) {
        img_usage("compare", "Expecting two image file names");
        return 2;
    }
    c.quiet = common.quiet;
    c.progress = common.progress && !c.quiet;
    int status = 2;
    for (unsigned i = 0; i < 2; i++) {
        c.node[i] = img_open_image(&common, argv[optind + (int)i], i == 0 ? common.format : second_format, &options);
        if (c.node[i] == NULL) {
            if (i == 1) {
                node_close(c.node[0]);
            }
            return 2;
        }
        c.buffer[i] = aligned_alloc(4096, COMPARE_BUFFER);
    }
    if (c.buffer[0] != NULL && c.buffer[1] != NULL) {
        status = compare_run(&c);
    }
    free(c.buffer[0]);
    free(c.buffer[1]);
    node_close(c.node[0]);
    node_close(c.node[1]);
    return status;
}
