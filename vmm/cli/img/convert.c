/* SPDX-License-Identifier: MIT */
/* `kage img convert` and `dd`: the content of one image into another. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/img/convert.h"
#include "cli/img/img.h"

struct convert_arguments {
    struct img_common common, to_common; /* the latter has --target-image-opts */
    const char *to_format, *snapshot;
    struct node_options from_options, to_options;
    bool no_create, target_is_zero;
    struct img_new target;
    struct convert c;
};

static int convert_parse(struct convert_arguments *a, int argc, char **argv)
{
    static const struct option longs[] = {{"target-is-zero", no_argument, NULL, IMG_OPT_TARGET_ZERO}, {"salvage", no_argument, NULL, IMG_OPT_SALVAGE},
                                          {"target-image-opts", no_argument, NULL, IMG_OPT_TARGET_IMAGE_OPTS}, {0}};
    uint64_t number;
    int option;
    a->common = (struct img_common){.verb = "convert", .takes = IMG_TAKES_FORCE_SHARE | IMG_TAKES_PROGRESS};
    a->from_options.read_only = true;
    a->to_options.no_flush = true; /* as qemu-img: cache=unsafe is the default of this verb */
    a->c.sparse = 4096;
    while ((option = img_option(&a->common, argc, argv, "O:B:F:co:l:S:t:T:nm:Wr:C", longs)) != -1) {
        switch (option) {
        case 'O':
            a->to_format = optarg;
            break;
        case 'B':
            a->target.backing_file = optarg;
            break;
        case 'F':
            a->target.backing_format = optarg;
            break;
        case 'c':
            a->c.compress = true;
            break;
        case 'o':
            if (img_new_add(&a->target, optarg) != 0) {
                return 1;
            }
            break;
        case 'l':
            a->snapshot = img_snapshot_name(optarg);
            break;
        case 'S':
            if (img_parse_size(optarg, &number) != 0 || number % 512 != 0 || number > CONVERT_SPARSE_MAX) {
                return img_fail("Invalid buffer size for sparse output specified. Valid sizes are multiples of 512 up to %u.", CONVERT_SPARSE_MAX);
            }
            a->c.sparse = number;
            break;
        case 't':
            a->to_options.no_flush = false;
            if (img_parse_cache(optarg, &a->to_options) != 0) {
                return 1;
            }
            break;
        case 'T':
            if (img_parse_cache(optarg, &a->from_options) != 0) {
                return 1;
            }
            break;
        case 'n':
            a->no_create = true;
            break;
        case 'm':
            if (img_parse_size(optarg, &number) != 0 || number < 1 || number > CONVERT_THREADS_MAX) {
                return img_fail("Invalid number of coroutines. Allowed number of coroutines is between 1 and %u", CONVERT_THREADS_MAX);
            }
            a->c.threads = (unsigned)number;
            break;
        case 'W':
            a->c.any_order = true;
            break;
        case 'r': /* a limit on the rate: not held */
        case 'C': /* the host may copy by itself: allowed, not demanded */
            break;
        case IMG_OPT_TARGET_IMAGE_OPTS:
            a->to_common.image_opts = true;
            break;
        case IMG_OPT_TARGET_ZERO:
            a->target_is_zero = true;
            break;
        case IMG_OPT_SALVAGE:
            a->c.salvage = true;
            break;
        default:
            return 1;
        }
    }
    if (optind != argc - 2) {
        return img_usage("convert", optind > argc - 2 ? "Must specify image file name" : "Only one source image is supported");
    }
    a->c.progress = a->common.progress && !a->common.quiet;
    if (a->to_common.image_opts && (!a->no_create || a->to_format != NULL)) {
        return img_fail(a->no_create ? "-O and --target-image-opts are mutually exclusive" : "--target-image-opts requires use of -n flag");
    }
    const struct block_driver *driver = node_find_format(a->to_format != NULL ? a->to_format : "raw");
    if (driver == NULL) {
        return img_fail("Unknown file format '%s'", a->to_format);
    }
    a->to_format = a->target.format = driver->name;
    if (a->target_is_zero && !a->no_create) {
        return img_fail("--target-is-zero requires use of -n flag");
    }
    if (a->no_create && a->target.list_count > 0) {
        fprintf(stderr, "kage img: warning: -o has no effect when combined with -n\n");
    }
    if (a->c.compress && driver->write_compressed == NULL && !a->to_common.image_opts) {
        return img_fail("Compression not supported for this file format");
    }
    if (a->c.compress && a->c.sparse == 0) {
        return img_fail("Cannot use -S 0 with -c");
    }
    return img_new_parse(&a->target);
}

static int convert_with(struct convert_arguments *a, const char *from, const char *to)
{
    struct convert *c = &a->c;
    struct stat status;
    c->from = img_open_image(&a->common, from, a->common.format, &a->from_options);
    if (c->from == NULL) {
        return 1;
    }
    if (a->snapshot != NULL && img_load_snapshot(c->from, a->snapshot) != 0) {
        return img_close(c->from, 1);
    }
    bool has_backing = a->target.backing_file != NULL;
    if (!a->no_create) {
        bool device = node_has_protocol(to) || (stat(to, &status) == 0 && S_ISBLK(status.st_mode));
        if (!a->target.has_size) {
            a->target.size = c->from->bytes;
            a->target.has_size = true;
        }
        if (img_new_create(to, &a->target, true) != 0) {
            return img_close(c->from, 1);
        }
        c->target_is_zero = !has_backing && !(device && strcmp(a->to_format, "raw") == 0);
    } else {
        c->target_is_zero = a->target_is_zero;
    }
    a->to_options.no_backing = !has_backing && !a->no_create;
    c->to = img_open_image(&a->to_common, to, a->to_format, &a->to_options);
    int result = 1;
    if (c->to != NULL) {
        struct node_info info = {0};
        c->to->driver->info(c->to, &info);
        c->cluster = info.cluster_bytes;
        c->total = c->to->bytes;
        if (c->compress && c->to->driver->write_compressed == NULL) {
            img_fail("Compression not supported for this file format");
        } else if (c->from->bytes > c->total) {
            img_fail("cannot convert: the output file is smaller than the input file");
        } else {
            /* Without a backing file all that the source lacks is zero, and the target's must not show there. */
            c->from_top_only = has_backing && c->from->backing != NULL;
            result = convert_copy(c) != 0;
        }
    }
    if (c->to != NULL) {
        result = img_close(c->to, result);
    }
    return img_close(c->from, result);
}

int img_convert(int argc, char **argv)
{
    struct convert_arguments *a = calloc(1, sizeof(*a));
    if (a == NULL) {
        return img_fail("%s", strerror(ENOMEM));
    }
    img_new_init(&a->target);
    int status = convert_parse(a, argc, argv);
    if (status == 0) {
        status = convert_with(a, argv[argc - 2], argv[argc - 1]);
    } else if (status == 2) {
        status = 0; /* -o help */
    }
    free(a);
    return status;
}

/* ---- dd ---- */

int img_dd(int argc, char **argv)
{
    struct img_common common = {.verb = "dd", .takes = IMG_TAKES_FORCE_SHARE};
    const char *to_format = "raw", *from = NULL, *to = NULL;
    struct node_options from_options = {.read_only = true}, to_options = {.no_backing = true};
    uint64_t block = 512, count = UINT64_MAX, skip = 0;
    int option;
    while ((option = img_option(&common, argc, argv, "O:", NULL)) != -1) {
        if (option != 'O') {
            return 1;
        }
        to_format = optarg;
    }
    for (int i = optind; i < argc; i++) {
        const char *equals = strchr(argv[i], '=');
        uint64_t *number = strncmp(argv[i], "bs=", 3) == 0 ? &block : strncmp(argv[i], "count=", 6) == 0 ? &count : strncmp(argv[i], "skip=", 5) == 0 ? &skip : NULL;
        if (strncmp(argv[i], "if=", 3) == 0) {
            from = argv[i] + 3;
        } else if (strncmp(argv[i], "of=", 3) == 0) {
            to = argv[i] + 3;
        } else if (number == NULL || img_parse_size(equals + 1, number) != 0) {
            return img_fail(number == NULL ? "unrecognized operand %s" : "invalid number: '%s'", argv[i]);
        }
    }
    if (from == NULL || to == NULL) {
        return img_fail("Must specify both input and output file names");
    }
    if (block == 0 || block > INT32_MAX) {
        return img_fail("invalid block size");
    }
    struct img_new target;
    img_new_init(&target);
    const struct block_driver *driver = node_find_format(to_format);
    if (driver == NULL) {
        return img_fail("Unknown file format '%s'", to_format);
    }
    target.format = driver->name;
    struct block_node *source = img_open_image(&common, from, common.format, &from_options);
    if (source == NULL) {
        return 1;
    }
    uint64_t start = 0, bytes = source->bytes;
    if (count != UINT64_MAX && count <= bytes / block) {
        bytes = count * block;
    }
    if (skip != 0 && (skip > source->bytes / block || skip * block >= source->bytes)) {
        fprintf(stderr, "kage img: cannot skip to specified offset\n");
        bytes = 0;
    } else {
        start = skip * block;
        bytes = bytes < source->bytes - start ? bytes : source->bytes - start;
    }
    target.size = bytes;
    target.has_size = true;
    struct block_node *sink = img_new_create(to, &target, true) == 0 ? img_open(to, driver->name, &to_options) : NULL;
    uint8_t *buffer = malloc(block);
    int status = sink == NULL || buffer == NULL;
    for (uint64_t at = 0; at < bytes && status == 0;) {
        uint64_t length = bytes - at < block ? bytes - at : block;
        int result = node_read(source, start + at, buffer, length);
        if (result != 0) {
            status = img_fail("error while reading from input image file: %s", strerror(-result));
        } else if ((result = node_write(sink, at, buffer, length)) != 0) {
            status = img_fail("error while writing to output image file: %s", strerror(-result));
        }
        at += length;
    }
    free(buffer);
    if (sink != NULL) {
        status = img_close(sink, status);
    }
    return img_close(source, status);
}
