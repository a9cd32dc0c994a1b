/* SPDX-License-Identifier: MIT */
/* `kage img measure`: how large a file a new image needs, for no data, for what an image holds, and when it is full. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/img/img.h"

struct measure {
    uint64_t required, full, bitmaps;
    bool has_bitmaps;
};

static uint64_t measure_up(uint64_t value, uint64_t grain)
{
    return (value + grain - 1) / grain * grain;
}

/* Refcount blocks and their table count themselves too. */
static uint64_t measure_refcounts(uint64_t clusters, uint64_t cluster, unsigned bits)
{
    uint64_t blocks = 0, table = 0, last, all = 0;
    do {
        last = all;
        blocks = measure_up(clusters + table + blocks, cluster * 8 / bits) / (cluster * 8 / bits);
        table = measure_up(blocks, cluster / 8) / (cluster / 8);
        all = clusters + blocks + table;
    } while (all != last);
    return (blocks + table) * cluster;
}

/* Header, L1 and L2 tables (whole clusters of them), refcounts, and every cluster of the disk. */
static uint64_t measure_full(const struct img_new *target, uint64_t disk)
{
    uint64_t cluster = UINT64_C(1) << target->cluster_bits, entry = target->extended_l2 ? 16 : 8;
    uint64_t l2 = measure_up(disk / cluster, cluster / entry) * entry, l1 = measure_up(l2 / cluster, cluster / 8) * 8;
    uint64_t tables = cluster + l2 + l1;
    return tables + disk + measure_refcounts((tables + disk) / cluster, cluster, target->refcount_bits);
}

/* Bytes of the target's clusters that get data. */
static int measure_data(struct block_node *node, uint64_t cluster, uint64_t *data)
{
    for (uint64_t at = 0; at < node->bytes;) {
        struct block_extent extent;
        struct block_node *holder;
        unsigned depth;
        int result = node_map_chain(node, NULL, at, node->bytes - at, &extent, &holder, &depth);
        if (result != 0) {
            return result;
        }
        uint64_t next = at + extent.bytes;
        if (!(extent.flags & EXTENT_ZERO) && (extent.flags & EXTENT_DATA)) {
            next = measure_up(next, cluster);
            *data += next - at / cluster * cluster;
        }
        at = next;
    }
    return 0;
}

static uint64_t measure_bitmaps(struct block_node *node, uint64_t cluster)
{
    struct node_bitmap bitmap;
    uint64_t bytes = 0, directory = 0;
    for (unsigned i = 0; node->driver->bitmap_get(node, i, &bitmap) == 0; i++) {
        if (!bitmap.in_use) {
            uint64_t bits = measure_up(node->bytes, bitmap.granularity) / bitmap.granularity, clusters = measure_up((bits + 7) / 8, cluster) / cluster;
            bytes += clusters * cluster + measure_up(8 * clusters, cluster);
            directory += measure_up(24 + strlen(bitmap.name), 8);
        }
    }
    return bytes + measure_up(directory, cluster);
}

static int measure_qcow2(struct block_node *node, const struct img_new *target, struct measure *measure)
{
    uint64_t cluster = UINT64_C(1) << target->cluster_bits, disk = measure_up(node != NULL ? node->bytes : target->size, cluster), data = 0;
    if (disk > (UINT64_C(1) << 56)) {
        return -EFBIG;
    }
    if (target->prealloc == NODE_PREALLOC_FULL || target->prealloc == NODE_PREALLOC_FALLOC || (node != NULL && target->backing_file != NULL)) {
        data = disk; /* what the backing file has in common with the image nobody knows */
    } else if (node != NULL) {
        int result = measure_data(node, cluster, &data);
        if (result != 0) {
            return result;
        }
    }
    measure->full = measure_full(target, disk);
    measure->required = measure->full - disk + data;
    struct node_info info = {0};
    if (node != NULL) {
        node->driver->info(node, &info);
    }
    measure->has_bitmaps = target->version >= 3 && info.qcow2 && strcmp(info.compat, "0.10") != 0;
    measure->bitmaps = measure->has_bitmaps ? measure_bitmaps(node, cluster) : 0;
    return 0;
}

static void measure_print(const struct measure *measure, bool json)
{
    if (json) {
        printf("{\n");
        if (measure->has_bitmaps) {
            printf("    \"bitmaps\": %" PRIu64 ",\n", measure->bitmaps);
        }
        printf("    \"required\": %" PRIu64 ",\n    \"fully-allocated\": %" PRIu64 "\n}\n", measure->required, measure->full);
        return;
    }
    printf("required size: %" PRIu64 "\nfully allocated size: %" PRIu64 "\n", measure->required, measure->full);
    if (measure->has_bitmaps) {
        printf("bitmaps size: %" PRIu64 "\n", measure->bitmaps);
    }
}

int img_measure(int argc, char **argv)
{
    static const struct option longs[] = {{"size", required_argument, NULL, IMG_OPT_SIZE}, {0}};
    struct img_common common = {.verb = "measure", .takes = IMG_TAKES_FORCE_SHARE | IMG_TAKES_OUTPUT};
    struct img_new target;
    const char *snapshot = NULL;
    int option;
    img_new_init(&target);
    while ((option = img_option(&common, argc, argv, "O:o:l:", longs)) != -1) {
        switch (option) {
        case 'O':
            target.format = optarg;
            break;
        case 'o':
            if (img_new_add(&target, optarg) != 0) {
                return 1;
            }
            break;
        case 'l':
            snapshot = img_snapshot_name(optarg);
            break;
        case IMG_OPT_SIZE:
            if (img_parse_size(optarg, &target.size) != 0) {
                return img_fail("Invalid image size specified: '%s'", optarg);
            }
            target.has_size = true;
            break;
        default:
            return 1;
        }
    }
    const struct block_driver *driver = node_find_format(target.format);
    if (driver == NULL) {
        return img_fail("Unknown file format '%s'", target.format);
    }
    target.format = driver->name;
    bool has_size = target.has_size;
    int parsed = img_new_parse(&target);
    if (parsed != 0) {
        return parsed == 1;
    }
    if (optind < argc - 1) {
        return img_usage("measure", "At most one filename argument is allowed.");
    }
    if (optind == argc && (snapshot != NULL || common.format != NULL || common.image_opts)) {
        return img_fail("--image-opts, -f, and -l can only be used with a filename argument.");
    }
    if (optind == argc && !target.has_size) {
        return img_usage("measure", "Either --size N or one filename must be specified.");
    }
    if (optind < argc && has_size) {
        return img_fail("--size N cannot be used together with a filename.");
    }
    struct block_node *node = NULL;
    if (optind < argc) {
        struct node_options options = {.read_only = true};
        node = img_open_image(&common, argv[optind], common.format, &options);
        if (node == NULL || (snapshot != NULL && img_load_snapshot(node, snapshot) != 0)) {
            return node == NULL ? 1 : img_close(node, 1);
        }
    }
    struct measure measure = {0};
    target.size = measure_up(target.size, 512);
    if (driver == &raw_driver) {
        measure.required = measure.full = node != NULL ? node->bytes : target.size;
    } else {
        int result = measure_qcow2(node, &target, &measure);
        if (result != 0) {
            img_fail("Could not measure the image: %s", strerror(-result));
            return node != NULL ? img_close(node, 1) : 1;
        }
    }
    measure_print(&measure, common.json);
    return node != NULL ? img_close(node, 0) : 0;
}
