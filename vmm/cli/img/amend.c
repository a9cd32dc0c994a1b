/* SPDX-License-Identifier: MIT */
/* `kage img amend`: options of the format, of an image that exists. */
#include <stdio.h>
#include <string.h>

#include "cli/img/img.h"

static int amend_image(struct block_node *node, const struct img_new *target)
{
    struct node_info info = {0};
    struct error error = {""};
    node->driver->info(node, &info);
    const char *file = target->backing_file, *format = target->backing_format;
    if ((file != NULL || format != NULL) && /* both, and as they are */
        (strcmp(file != NULL ? file : "", info.backing_file) != 0 || strcmp(format != NULL ? format : "", info.backing_format) != 0)) {
        return img_fail("Cannot amend the backing file: 'kage img rebase' changes it");
    }
    struct node_amend amend = {
        .version = target->has_compat ? target->version : 0,
        .refcount_bits = target->has_refcount_bits ? target->refcount_bits : 0,
        .has_lazy = target->has_lazy,
        .lazy = target->lazy_refcounts,
    };
    if (node->driver->amend(node, &amend, &error) != 0 ||
        (target->has_size && node_resize(node, (target->size + 511) & ~UINT64_C(511), NODE_PREALLOC_OFF, &error) != 0)) {
        return img_fail("%s", error.text);
    }
    return 0;
}

int img_amend(int argc, char **argv)
{
    static const struct option longs[] = {{"force", no_argument, NULL, IMG_OPT_FORCE}, {0}};
    struct img_common common = {.verb = "amend", .takes = IMG_TAKES_PROGRESS};
    struct node_options options = {0};
    struct img_new target;
    int option;
    img_new_init(&target);
    while ((option = img_option(&common, argc, argv, "o:t:", longs)) != -1) {
        switch (option) {
        case 'o':
            if (img_new_add(&target, optarg) != 0) {
                return 1;
            }
            break;
        case 't':
            if (img_parse_cache(optarg, &options) != 0) {
                return 1;
            }
            break;
        case IMG_OPT_FORCE: /* of key slots */
            break;
        default:
            return 1;
        }
    }
    if (target.list_count == 0) {
        return img_usage("amend", "Must specify options (-o)");
    }
    target.amend = true;
    target.format = common.format != NULL ? common.format : "qcow2"; /* no other has any */
    const struct block_driver *driver = node_find_format(target.format);
    if (driver == NULL || driver->amend == NULL) {
        return img_fail(driver == NULL ? "Unknown file format '%s'" : "Format driver '%s' does not support option amendment", target.format);
    }
    int parsed = img_new_parse(&target);
    if (parsed != 0) {
        return parsed == 1;
    }
    if (optind != argc - 1) {
        return img_usage("amend", "Expecting one image file name");
    }
    struct block_node *node = img_open_image(&common, argv[optind], common.format, &options);
    if (node == NULL) {
        return 1;
    }
    int status = node->driver->amend != NULL ? amend_image(node, &target)
                                             : img_fail("Format driver '%s' does not support option amendment", node->driver->name);
    img_progress(common.progress && !common.quiet && status == 0, 1, 1, true);
    return img_close(node, status);
}
