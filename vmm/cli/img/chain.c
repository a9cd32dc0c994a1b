/* SPDX-License-Identifier: MIT */
/* `kage img commit`, `rebase` and `resize`: images that lie on others, and sizes. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/img/img.h"

#define CHAIN_BUFFER (1u << 20)

/* ---- commit ---- */

/* The image that -b names, in the chain of `top`; its parent too. */
static struct block_node *commit_find_base(struct block_node *top, const char *name, struct block_node **parent)
{
    for (*parent = top; (*parent)->backing != NULL; *parent = (*parent)->backing) {
        struct node_info info = {0};
        (*parent)->driver->info(*parent, &info);
        if (name == NULL || strcmp(name, info.backing_file) == 0 || strcmp(name, (*parent)->backing->filename) == 0) {
            return (*parent)->backing;
        }
    }
    return NULL;
}

static int commit_copy(struct block_node *top, struct block_node *base, bool progress)
{
    uint8_t *buffer = aligned_alloc(4096, CHAIN_BUFFER);
    struct error error = {""};
    int status = buffer == NULL ? img_fail("%s", strerror(ENOMEM)) : 0;
    if (status == 0 && top->bytes > base->bytes && node_resize(base, top->bytes, NODE_PREALLOC_OFF, &error) != 0) {
        status = img_fail("Could not resize the backing file: %s", error.text);
    }
    for (uint64_t at = 0; at < top->bytes && status == 0;) {
        struct block_extent extent;
        struct block_node *holder;
        unsigned depth;
        int result = node_map_chain(top, NULL, at, top->bytes - at, &extent, &holder, &depth);
        if (result == 0 && holder != NULL) {
            if (extent.flags & EXTENT_ZERO) {
                result = node_write_zeroes(base, at, extent.bytes, NODE_UNMAP);
            } else {
                extent.bytes = extent.bytes < CHAIN_BUFFER ? extent.bytes : CHAIN_BUFFER;
                result = node_read(top, at, buffer, extent.bytes);
                result = result == 0 ? node_write(base, at, buffer, extent.bytes) : result;
            }
        }
        if (result != 0) {
            status = img_fail("Could not commit at byte %llu: %s", (unsigned long long)at, strerror(-result));
        }
        at += extent.bytes;
        img_progress(progress, at, top->bytes, false);
    }
    free(buffer);
    int result = status == 0 ? node_flush(base) : 0;
    if (result != 0) {
        status = img_fail("Could not flush the backing file: %s", strerror(-result));
    }
    img_progress(progress && status == 0, 1, 1, true);
    return status;
}

int img_commit(int argc, char **argv)
{
    struct img_common common = {.verb = "commit", .takes = IMG_TAKES_PROGRESS};
    const char *base_name = NULL;
    struct node_options options = {0};
    bool keep = false;
    int option;
    while ((option = img_option(&common, argc, argv, "t:b:dr:", NULL)) != -1) {
        switch (option) {
        case 't':
            if (img_parse_cache(optarg, &options) != 0) {
                return 1;
            }
            break;
        case 'b':
            base_name = optarg;
            keep = true; /* what lies between still needs what is in the top */
            break;
        case 'd':
            keep = true;
            break;
        case 'r': /* a limit on the rate: not held */
            break;
        default:
            return 1;
        }
    }
    if (optind != argc - 1) {
        return img_usage("commit", "Expecting one image file name");
    }
    struct block_node *top = img_open_image(&common, argv[optind], common.format, &options), *parent;
    if (top == NULL) {
        return 1;
    }
    struct block_node *read_only = commit_find_base(top, base_name, &parent);
    if (read_only == NULL) {
        img_fail(base_name != NULL ? "Did not find '%s' in the backing chain of '%s'" : "Image does not have a backing file", base_name, argv[optind]);
        return img_close(top, 1);
    }
    /* The base is opened anew to be written to; nothing of it is read through the chain. */
    char *path = strdup(read_only->filename);
    const char *base_format = read_only->driver->name;
    parent->backing = NULL;
    node_close(read_only);
    struct block_node *base = path != NULL ? img_open(path, base_format, &options) : NULL;
    free(path);
    if (base == NULL) {
        return img_close(top, 1);
    }
    int status = img_close(base, commit_copy(top, base, common.progress && !common.quiet));
    if (status == 0 && !keep) {
        int result = top->driver->make_empty != NULL ? top->driver->make_empty(top) : 0;
        if (result != 0) {
            status = img_fail("Could not empty %s: %s", argv[optind], strerror(-result));
        }
    }
    status = img_close(top, status);
    if (status == 0 && !common.quiet) {
        puts("Image committed.");
    }
    return status;
}

/* ---- rebase ---- */

static int rebase_read(struct block_node *node, uint64_t offset, uint8_t *buffer, uint64_t bytes)
{
    uint64_t there = node == NULL || offset >= node->bytes ? 0 : node->bytes - offset < bytes ? node->bytes - offset : bytes;
    memset(buffer + there, 0, bytes - there);
    return there > 0 ? node_read(node, offset, buffer, there) : 0;
}

/* What the image shows of the old backing file and the new one shows otherwise goes into the image. */
static int rebase_copy(struct block_node *top, struct block_node *old, struct block_node *fresh, bool progress)
{
    uint8_t *was = aligned_alloc(4096, CHAIN_BUFFER), *is = aligned_alloc(4096, CHAIN_BUFFER);
    struct node_info info = {0};
    top->driver->info(top, &info);
    uint64_t grain = info.cluster_bytes != 0 ? info.cluster_bytes : 65536;
    int status = was == NULL || is == NULL ? img_fail("%s", strerror(ENOMEM)) : 0;
    for (uint64_t at = 0; at < top->bytes && status == 0;) {
        struct block_extent extent;
        int result = node_map(top, at, top->bytes - at, &extent);
        if (result == 0 && !(extent.flags & EXTENT_ALLOCATED)) {
            uint64_t room = CHAIN_BUFFER - (at & (grain - 1 < CHAIN_BUFFER - 1 ? grain - 1 : 0));
            extent.bytes = extent.bytes < room ? extent.bytes : room;
            result = rebase_read(old, at, was, extent.bytes);
            result = result == 0 ? rebase_read(fresh, at, is, extent.bytes) : result;
            for (uint64_t i = 0; i < extent.bytes && result == 0;) {
                uint64_t count = grain - ((at + i) & (grain - 1));
                count = count < extent.bytes - i ? count : extent.bytes - i;
                if (memcmp(was + i, is + i, count) != 0) {
                    result = img_is_zero(was + i, count) ? node_write_zeroes(top, at + i, count, 0) : node_write(top, at + i, was + i, count);
                }
                i += count;
            }
        }
        if (result != 0) {
            status = img_fail("error while rebasing at byte %llu: %s", (unsigned long long)at, strerror(-result));
        }
        at += extent.bytes;
        img_progress(progress, at, top->bytes, false);
    }
    free(was);
    free(is);
    img_progress(progress && status == 0, 1, 1, true);
    return status;
}

int img_rebase(int argc, char **argv)
{
    struct img_common common = {.verb = "rebase", .takes = IMG_TAKES_FORCE_SHARE | IMG_TAKES_PROGRESS};
    const char *file = NULL, *file_format = NULL;
    struct node_options options = {0}, from_options = {.read_only = true};
    bool unsafe = false;
    int option;
    while ((option = img_option(&common, argc, argv, "F:b:ut:T:", NULL)) != -1) {
        switch (option) {
        case 'F':
            file_format = optarg;
            break;
        case 'b':
            file = optarg;
            break;
        case 'u':
            unsafe = true;
            break;
        case 't':
            if (img_parse_cache(optarg, &options) != 0) {
                return 1;
            }
            break;
        case 'T':
            if (img_parse_cache(optarg, &from_options) != 0) {
                return 1;
            }
            break;
        default:
            return 1;
        }
    }
    if (optind != argc - 1) {
        return img_usage("rebase", "Expecting one image file name");
    }
    if (file == NULL) {
        return img_usage("rebase", "Use backing file (-b) option to rebase the image");
    }
    bool none = file[0] == '\0';
    if (!none && file_format == NULL) {
        return img_fail("Could not change the backing file to '%s': backing format must be specified", file);
    }
    if (!none && node_find_format(file_format) == NULL) {
        return img_fail("Invalid format name: '%s'", file_format);
    }
    options.no_backing = unsafe;
    from_options.force_share = common.force_share;
    struct block_node *top = img_open_image(&common, argv[optind], common.format, &options), *fresh = NULL;
    if (top == NULL) {
        return 1;
    }
    int status = 0;
    if (top->driver->change_backing == NULL) {
        status = img_fail("Could not change the backing file: the format '%s' has none", top->driver->name);
    }
    if (status == 0 && !unsafe) {
        if (!none) {
            char *path = node_resolve_path(top->filename, file);
            fresh = path != NULL ? img_open(path, file_format, &from_options) : NULL;
            free(path);
            status = fresh == NULL;
        }
        status = status == 0 ? rebase_copy(top, top->backing, fresh, common.progress && !common.quiet) : status;
    }
    struct error error = {""};
    if (status == 0 && top->driver->change_backing(top, none ? NULL : file, file_format, &error) != 0) {
        status = img_fail("%s", error.text);
    }
    if (fresh != NULL) {
        node_close(fresh);
    }
    return img_close(top, status);
}

/* ---- resize ---- */

int img_resize(int argc, char **argv)
{
    static const struct option longs[] = {{"shrink", no_argument, NULL, IMG_OPT_SHRINK}, {"preallocation", required_argument, NULL, IMG_OPT_PREALLOCATION}, {0}};
    struct img_common common = {.verb = "resize"};
    bool shrink = false;
    int prealloc = NODE_PREALLOC_OFF, option;
    if (argc < 3) {
        return img_usage("resize", "Not enough arguments");
    }
    /* The last word is the size, and may begin with a minus. */
    const char *text = argv[--argc];
    while ((option = img_option(&common, argc, argv, "", longs)) != -1) {
        switch (option) {
        case IMG_OPT_SHRINK:
            shrink = true;
            break;
        case IMG_OPT_PREALLOCATION:
            prealloc = img_parse_prealloc(optarg);
            if (prealloc < 0) {
                return 1;
            }
            break;
        default:
            return 1;
        }
    }
    if (optind != argc - 1) {
        return img_usage("resize", "Expecting image file name and size");
    }
    char sign = text[0] == '+' || text[0] == '-' ? text[0] : 0;
    uint64_t number, bytes;
    if (img_parse_size(text + (sign != 0), &number) != 0) {
        return img_fail("Parameter 'size' expects a non-negative number below 2^64: '%s'", text);
    }
    struct node_options options = {0};
    struct block_node *node = img_open_image(&common, argv[optind], common.format, &options);
    if (node == NULL) {
        return 1;
    }
    bytes = number;
    int status = 0;
    if (sign == '-' ? number > node->bytes : sign == '+' && number > INT64_MAX - node->bytes) {
        status = img_fail("New image size must be positive");
    } else if (sign != 0) {
        bytes = sign == '-' ? node->bytes - number : node->bytes + number;
    }
    bytes = (bytes + 511) & ~UINT64_C(511);
    if (status == 0 && bytes == 0) {
        status = img_fail("New image size must be positive");
    }
    if (status == 0 && bytes < node->bytes && !shrink) {
        status = img_fail("Use the --shrink option to perform a shrink operation.");
        fputs("kage img: warning: Shrinking an image will delete all data beyond the shrunken image's end. Before performing such an operation, "
              "make sure there is no important data there.\n", stderr);
    }
    if (status == 0 && bytes <= node->bytes && prealloc != NODE_PREALLOC_OFF) {
        status = img_fail("Preallocation can only be used for growing images");
    }
    struct error error = {""};
    if (status == 0 && node_resize(node, bytes, prealloc, &error) != 0) {
        status = img_fail("%s", error.text);
    }
    status = img_close(node, status);
    if (status == 0 && !common.quiet) {
        puts("Image resized.");
    }
    return status;
}
