/* SPDX-License-Identifier: MIT */
/* `kage img bitmap`: persistent bitmaps made, changed and merged, in the order of the command line. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/img/img.h"

#define BITMAP_ACTIONS_MAX 64u
#define BITMAP_GRANULARITY_MIN 4096u
#define BITMAP_GRANULARITY_MAX 65536u

struct bitmap_step {
    const char *name; /* of the action */
    const char *source; /* NULL: not a merge */
    enum node_bitmap_action action;
};

struct bitmap_arguments {
    struct img_common common;
    struct bitmap_step steps[BITMAP_ACTIONS_MAX];
    unsigned count;
    bool add, merge;
    const char *file, *file_format;
    uint64_t granularity;
};

static int bitmap_parse(struct bitmap_arguments *a, int argc, char **argv)
{
    static const struct option longs[] = {{"add", no_argument, NULL, IMG_OPT_ADD}, {"remove", no_argument, NULL, IMG_OPT_REMOVE},
                                          {"clear", no_argument, NULL, IMG_OPT_CLEAR}, {"enable", no_argument, NULL, IMG_OPT_ENABLE},
                                          {"disable", no_argument, NULL, IMG_OPT_DISABLE}, {"merge", required_argument, NULL, IMG_OPT_MERGE},
                                          {"source-file", required_argument, NULL, 'b'}, {"source-format", required_argument, NULL, 'F'},
                                          {"granularity", required_argument, NULL, 'g'}, {0}};
    static const struct {
        int option;
        struct bitmap_step step;
    } actions[] = {
        {IMG_OPT_ADD, {"add", NULL, NODE_BITMAP_ADD}}, {IMG_OPT_REMOVE, {"remove", NULL, NODE_BITMAP_REMOVE}},
        {IMG_OPT_CLEAR, {"clear", NULL, NODE_BITMAP_CLEAR}}, {IMG_OPT_ENABLE, {"enable", NULL, NODE_BITMAP_ENABLE}},
        {IMG_OPT_DISABLE, {"disable", NULL, NODE_BITMAP_DISABLE}}, {IMG_OPT_MERGE, {"merge", "", NODE_BITMAP_ADD}},
    };
    int option;
    a->common = (struct img_common){.verb = "bitmap"};
    while ((option = img_option(&a->common, argc, argv, "b:F:g:", longs)) != -1) {
        switch (option) {
        case 'b':
            a->file = optarg;
            break;
        case 'F':
            a->file_format = optarg;
            break;
        case 'g':
            if (img_parse_size(optarg, &a->granularity) != 0 || a->granularity == 0) {
                return img_fail("Invalid granularity specified: '%s'", optarg);
            }
            break;
        case IMG_OPT_WRONG:
            return 1;
        default:
            if (a->count == BITMAP_ACTIONS_MAX) {
                return img_fail("more than %u actions", BITMAP_ACTIONS_MAX);
            }
            for (size_t i = 0; i < IMG_ARRAY_SIZE(actions); i++) {
                if (actions[i].option == option) {
                    a->steps[a->count] = actions[i].step;
                }
            }
            a->steps[a->count++].source = option == IMG_OPT_MERGE ? optarg : NULL;
            a->add = a->add || option == IMG_OPT_ADD;
            a->merge = a->merge || option == IMG_OPT_MERGE;
        }
    }
    if (optind != argc - 2) {
        return img_usage("bitmap", "Expecting filename and bitmap name");
    }
    if (a->count == 0) {
        return img_usage("bitmap", "Need at least one of --add, --remove, --clear, --enable, --disable, or --merge");
    }
    if (a->granularity != 0 && !a->add) {
        return img_fail("granularity only supported with --add");
    }
    if (a->file != NULL && !a->merge) {
        return img_fail("Merge bitmap source file only supported with --merge");
    }
    return a->file_format != NULL && a->file == NULL ? img_fail("-F only supported with -b") : 0;
}

static int bitmap_merge(struct block_node *node, struct block_node *from, const char *name, const char *source, struct error *error)
{
    struct node_bits bits;
    if (from->driver->bitmap_read == NULL) {
        return error_set(error, "the format '%s' has no bitmaps", from->driver->name);
    }
    if (from->bytes != node->bytes) {
        return error_set(error, "Bitmaps are of different sizes (destination size is %llu and source size is %llu) and can't be merged",
                         (unsigned long long)node->bytes, (unsigned long long)from->bytes);
    }
    int result = from->driver->bitmap_read(from, source, &bits, error);
    if (result == 0) {
        result = node->driver->bitmap_merge(node, name, &bits, error);
        free(bits.bits);
    }
    return result;
}

int img_bitmap(int argc, char **argv)
{
    struct bitmap_arguments a = {0};
    struct node_options options = {0}, from_options = {.read_only = true, .no_io = true};
    if (bitmap_parse(&a, argc, argv) != 0) {
        return 1;
    }
    const char *name = argv[optind + 1];
    struct block_node *node = img_open_image(&a.common, argv[optind], a.common.format, &options), *from = node;
    if (node == NULL) {
        return 1;
    }
    if (a.file != NULL) {
        from = img_open(a.file, a.file_format, &from_options);
        if (from == NULL) {
            return img_close(node, 1);
        }
    }
    struct node_info info = {0};
    node->driver->info(node, &info);
    if (a.granularity == 0) { /* the image's grain, within bounds */
        a.granularity = info.cluster_bytes < BITMAP_GRANULARITY_MIN   ? BITMAP_GRANULARITY_MIN
                        : info.cluster_bytes > BITMAP_GRANULARITY_MAX ? BITMAP_GRANULARITY_MAX
                                                                      : info.cluster_bytes;
    }
    int status = 0;
    for (unsigned i = 0; i < a.count && status == 0; i++) {
        const struct bitmap_step *step = &a.steps[i];
        struct error error = {""};
        int result = node->driver->bitmap_change == NULL ? error_set(&error, "the format '%s' has no bitmaps", node->driver->name)
                     : step->source != NULL              ? bitmap_merge(node, from, name, step->source, &error)
                     : a.granularity > UINT32_MAX        ? error_set(&error, "Granularity must be a power of two from 512 to 2 GiB")
                                                         : node->driver->bitmap_change(node, name, step->action, (uint32_t)a.granularity, &error);
        status = result != 0 ? img_fail("Operation %s on bitmap %s failed: %s", step->name, name, error.text) : 0;
    }
    if (from != node) {
        node_close(from);
    }
    return img_close(node, status);
}
