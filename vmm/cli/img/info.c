/* SPDX-License-Identifier: MIT */
/* `kage img info`, `snapshot` and `check`: what an image is, in QEMU's words. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/img/img.h"

/* ---- Snapshots ---- */

static void info_print_snapshots(struct block_node *node)
{
    struct node_snapshot snapshot;
    puts("ID        TAG               VM SIZE                DATE     VM CLOCK     ICOUNT");
    for (unsigned i = 0; node->driver->snapshot_get != NULL && node->driver->snapshot_get(node, i, &snapshot) == 0; i++) {
        char size[32], date[64], clock[64], icount[32] = "";
        time_t when = (time_t)snapshot.date_sec;
        struct tm local;
        img_size_text(snapshot.vm_state_bytes, size);
        localtime_r(&when, &local);
        strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &local);
        uint64_t seconds = snapshot.vm_clock_ns / 1000000000u;
        snprintf(clock, sizeof(clock), "%02d:%02d:%02d.%03d", (int)(seconds / 3600), (int)(seconds / 60 % 60), (int)(seconds % 60),
                 (int)(snapshot.vm_clock_ns / 1000000 % 1000));
        if (snapshot.icount != UINT64_MAX) {
            snprintf(icount, sizeof(icount), "%" PRIu64, snapshot.icount);
        }
        printf("%-9s %-16s %8s %19s %12s %10s\n", snapshot.id, snapshot.name, size, date, clock, icount);
    }
}

int img_snapshot(int argc, char **argv)
{
    struct img_common common = {.verb = "snapshot", .takes = IMG_TAKES_FORCE_SHARE};
    const char *name = NULL;
    int option, action = 'l';
    struct node_options options = {.read_only = true, .no_backing = true};
    bool chosen = false;
    while ((option = img_option(&common, argc, argv, "la:c:d:", NULL)) != -1) {
        switch (option) {
        case 'l':
        case 'a':
        case 'c':
        case 'd':
            if (chosen) {
                return img_usage("snapshot", "Cannot mix '-l', '-a', '-c', '-d'");
            }
            chosen = true;
            action = option;
            name = optarg;
            break;
        default:
            return 1;
        }
    }
    if (optind != argc - 1) {
        return img_usage("snapshot", "Expecting one image file name");
    }
    options.read_only = action == 'l';
    if (common.force_share && !options.read_only) {
        return img_fail("-U can only be used with -l");
    }
    struct block_node *node = img_open_image(&common, argv[optind], common.format, &options);
    if (node == NULL) {
        return 1;
    }
    if (action == 'l') {
        struct node_snapshot first;
        if (node->driver->snapshot_get != NULL && node->driver->snapshot_get(node, 0, &first) == 0) {
            puts("Snapshot list:");
            info_print_snapshots(node);
        }
        return img_close(node, 0);
    }
    struct error error = {""};
    int (*run)(struct block_node *, const char *, struct error *) =
        action == 'a' ? node->driver->snapshot_apply : action == 'c' ? node->driver->snapshot_create : node->driver->snapshot_delete;
    const char *verb = action == 'a' ? "apply" : action == 'c' ? "create" : "delete";
    int status = 0;
    if (run == NULL) {
        status = img_fail("Could not %s snapshot '%s': the format '%s' has no snapshots", verb, name, node->driver->name);
    } else if (run(node, name, &error) != 0) {
        status = img_fail("Could not %s snapshot '%s': %s", verb, name, error.text);
    }
    return img_close(node, status);
}

/* ---- Info ---- */

static void info_human_qcow2(struct block_node *node, const struct node_info *info)
{
    struct node_bitmap bitmap;
    printf("Format specific information:\n    compat: %s\n    compression type: %s\n", info->compat, info->compression_type);
    if (strcmp(info->compat, "0.10") == 0) { /* the rest came with version 3 */
        printf("    refcount bits: %u\n", info->refcount_bits);
        return;
    }
    printf("    lazy refcounts: %s\n", info->lazy_refcounts ? "true" : "false");
    for (unsigned i = 0; node->driver->bitmap_get(node, i, &bitmap) == 0; i++) {
        if (i == 0) {
            puts("    bitmaps:");
        }
        printf("        [%u]:\n            flags:\n", i);
        unsigned flags = 0;
        if (bitmap.in_use) {
            printf("                [%u]: in-use\n", flags++);
        }
        if (bitmap.automatic) {
            printf("                [%u]: auto\n", flags);
        }
        printf("            name: %s\n            granularity: %" PRIu32 "\n", bitmap.name, bitmap.granularity);
    }
    printf("    refcount bits: %u\n    corrupt: %s\n", info->refcount_bits, info->corrupt ? "true" : "false");
    if (info->data_file[0] != '\0') {
        printf("    data file: %s\n    data file raw: %s\n", info->data_file, info->data_file_raw ? "true" : "false");
    }
    printf("    extended l2: %s\n", info->extended_l2 ? "true" : "false");
}

/* Bytes on the host's disk; negative: nobody knows. */
static int64_t info_allocated(struct block_node *node)
{
    const struct block_driver *driver = node->driver->allocated != NULL ? node->driver : node->file->driver;
    return driver->allocated != NULL ? driver->allocated(driver == node->driver ? node : node->file) : -1;
}

static void info_human(struct block_node *node, const struct node_info *info)
{
    char size[32];
    img_size_text(node->bytes, size);
    printf("image: %s\nfile format: %s\nvirtual size: %s (%" PRIu64 " bytes)\n", node->filename, node->driver->name, size, node->bytes);
    int64_t allocated = info_allocated(node);
    img_size_text(allocated < 0 ? 0 : (uint64_t)allocated, size);
    printf("disk size: %s\n", allocated < 0 ? "unavailable" : size);
    if (info->cluster_bytes != 0) {
        printf("cluster_size: %" PRIu32 "\n", info->cluster_bytes);
    }
    if (info->dirty) {
        puts("cleanly shut down: no");
    }
    if (info->has_backing) {
        char *path = node_resolve_path(node->filename, info->backing_file);
        printf("backing file: %s", info->backing_file);
        if (path != NULL && strcmp(path, info->backing_file) != 0) {
            printf(" (actual path: %s)", path);
        }
        putchar('\n');
        free(path);
        if (info->backing_format[0] != '\0') {
            printf("backing file format: %s\n", info->backing_format);
        }
    }
    struct node_snapshot first;
    if (node->driver->snapshot_get != NULL && node->driver->snapshot_get(node, 0, &first) == 0) {
        puts("Snapshot list:");
        info_print_snapshots(node);
    }
    if (info->qcow2) {
        info_human_qcow2(node, info);
    }
}

static void info_json_snapshots(struct block_node *node, const char *indent)
{
    struct node_snapshot snapshot;
    for (unsigned i = 0; node->driver->snapshot_get != NULL && node->driver->snapshot_get(node, i, &snapshot) == 0; i++) {
        printf(i == 0 ? "%s    \"snapshots\": [\n" : ",\n", indent);
        printf("%s        {\n", indent);
        if (snapshot.icount != UINT64_MAX) {
            printf("%s            \"icount\": %" PRIu64 ",\n", indent, snapshot.icount);
        }
        printf("%s            \"vm-clock-nsec\": %" PRIu64 ",\n%s            \"name\": ", indent, snapshot.vm_clock_ns % 1000000000u, indent);
        img_json_string(snapshot.name);
        printf(",\n%s            \"date-sec\": %" PRIu32 ",\n%s            \"date-nsec\": %" PRIu32 ",\n%s            \"vm-clock-sec\": %" PRIu64
               ",\n%s            \"id\": ", indent, snapshot.date_sec, indent, snapshot.date_nsec, indent, snapshot.vm_clock_ns / 1000000000u, indent);
        img_json_string(snapshot.id);
        printf(",\n%s            \"vm-state-size\": %" PRIu64 "\n%s        }", indent, snapshot.vm_state_bytes, indent);
    }
    struct node_snapshot first;
    if (node->driver->snapshot_get != NULL && node->driver->snapshot_get(node, 0, &first) == 0) {
        printf("\n%s    ],\n", indent);
    }
}

static void info_json_qcow2(struct block_node *node, const struct node_info *info, const char *indent)
{
    struct node_bitmap bitmap;
    printf("%s    \"format-specific\": {\n%s        \"type\": \"qcow2\",\n%s        \"data\": {\n", indent, indent, indent);
    printf("%s            \"compat\": \"%s\",\n%s            \"compression-type\": \"%s\",\n", indent, info->compat, indent, info->compression_type);
    if (strcmp(info->compat, "0.10") == 0) { /* the rest came with version 3 */
        printf("%s            \"refcount-bits\": %u\n%s        }\n%s    },\n", indent, info->refcount_bits, indent, indent);
        return;
    }
    printf("%s            \"lazy-refcounts\": %s,\n", indent, info->lazy_refcounts ? "true" : "false");
    unsigned count = 0;
    for (; node->driver->bitmap_get(node, count, &bitmap) == 0; count++) {
        printf(count == 0 ? "%s            \"bitmaps\": [\n" : ",\n", indent);
        printf("%s                {\n%s                    \"flags\": [\n", indent, indent);
        if (bitmap.in_use) {
            printf("%s                        \"in-use\"%s\n", indent, bitmap.automatic ? "," : "");
        }
        if (bitmap.automatic) {
            printf("%s                        \"auto\"\n", indent);
        }
        printf("%s                    ],\n%s                    \"name\": ", indent, indent);
        img_json_string(bitmap.name);
        printf(",\n%s                    \"granularity\": %" PRIu32 "\n%s                }", indent, bitmap.granularity, indent);
    }
    if (count > 0) {
        printf("\n%s            ],\n", indent);
    }
    printf("%s            \"refcount-bits\": %u,\n%s            \"corrupt\": %s,\n", indent, info->refcount_bits, indent, info->corrupt ? "true" : "false");
    if (info->data_file[0] != '\0') {
        printf("%s            \"data-file\": ", indent);
        img_json_string(info->data_file);
        printf(",\n%s            \"data-file-raw\": %s,\n", indent, info->data_file_raw ? "true" : "false");
    }
    printf("%s            \"extended-l2\": %s\n%s        }\n%s    },\n", indent, info->extended_l2 ? "true" : "false", indent, indent);
}

static void info_json(struct block_node *node, const struct node_info *info, const char *indent)
{
    printf("%s{\n", indent);
    if (info->has_backing && info->backing_format[0] != '\0') {
        printf("%s    \"backing-filename-format\": ", indent);
        img_json_string(info->backing_format);
        puts(",");
    }
    info_json_snapshots(node, indent);
    printf("%s    \"virtual-size\": %" PRIu64 ",\n%s    \"filename\": ", indent, node->bytes, indent);
    img_json_string(node->filename);
    puts(",");
    if (info->cluster_bytes != 0) {
        printf("%s    \"cluster-size\": %" PRIu32 ",\n", indent, info->cluster_bytes);
    }
    int64_t allocated = info_allocated(node);
    if (!info->qcow2 && allocated < 0) { /* of raw bytes of which the protocol can tell nothing, no more is said */
        printf("%s    \"format\": \"%s\"\n%s}", indent, node->driver->name, indent);
        return;
    }
    printf("%s    \"format\": \"%s\",\n", indent, node->driver->name);
    if (allocated >= 0) {
        printf("%s    \"actual-size\": %" PRId64 ",\n", indent, allocated);
    }
    if (info->qcow2) {
        info_json_qcow2(node, info, indent);
    }
    if (info->has_backing) {
        char *path = node_resolve_path(node->filename, info->backing_file);
        printf("%s    \"full-backing-filename\": ", indent);
        img_json_string(path != NULL ? path : info->backing_file);
        printf(",\n%s    \"backing-filename\": ", indent);
        img_json_string(info->backing_file);
        puts(",");
        free(path);
    }
    printf("%s    \"dirty-flag\": %s\n%s}", indent, info->dirty ? "true" : "false", indent);
}

int img_info(int argc, char **argv)
{
    static const struct option longs[] = {{"backing-chain", no_argument, NULL, IMG_OPT_BACKING_CHAIN}, {0}};
    struct img_common common = {.verb = "info", .takes = IMG_TAKES_FORCE_SHARE | IMG_TAKES_OUTPUT};
    bool chain = false;
    struct node_options options = {.read_only = true, .no_io = true};
    int option;
    while ((option = img_option(&common, argc, argv, "", longs)) != -1) {
        if (option != IMG_OPT_BACKING_CHAIN) {
            return 1;
        }
        chain = true;
    }
    if (optind != argc - 1) {
        return img_usage("info", "Expecting one image file name");
    }
    int status = 0;
    if (common.json && chain) {
        puts("[");
    }
    struct block_node *node = img_open_image(&common, argv[optind], common.format, &options);
    common.image_opts = false; /* what the header names is a file's name */
    for (unsigned depth = 0; node != NULL; depth++) {
        struct node_info info = {0};
        node->driver->info(node, &info);
        if (common.json) {
            printf("%s", depth > 0 ? ",\n" : "");
            info_json(node, &info, chain ? "    " : "");
        } else {
            printf("%s", depth > 0 ? "\n" : "");
            info_human(node, &info);
        }
        char *next = chain && info.has_backing ? node_resolve_path(node->filename, info.backing_file) : NULL;
        status = img_close(node, status);
        if (depth > 200) {
            free(next);
            status = img_fail("Backing file chain is longer than 200 images");
            break;
        }
        if (next == NULL) {
            break;
        }
        node = img_open_image(&common, next, info.backing_format[0] != '\0' ? info.backing_format : NULL, &options);
        free(next);
    }
    if (common.json) {
        puts(chain ? "\n]" : "");
    }
    return node == NULL ? 1 : status;
}

/* ---- Check ---- */

static void check_human(const struct node_check *check)
{
    if (check->corruptions == 0 && check->leaks == 0 && check->check_errors == 0) {
        puts("No errors were found on the image.");
    }
    if (check->corruptions != 0) {
        printf("\n%" PRIu64 " errors were found on the image.\nData may be corrupted, or further writes to the image may corrupt it.\n", check->corruptions);
    }
    if (check->leaks != 0) {
        printf("\n%" PRIu64 " leaked clusters were found on the image.\nThis means waste of disk space, but no harm to data.\n", check->leaks);
    }
    if (check->check_errors != 0) {
        printf("\n%" PRIu64 " internal errors have occurred during the check.\n", check->check_errors);
    }
    if (check->total_clusters != 0 && check->allocated_clusters != 0) {
        printf("%" PRIu64 "/%" PRIu64 " = %0.2f%% allocated, %0.2f%% fragmented, %0.2f%% compressed clusters\n", check->allocated_clusters,
               check->total_clusters, (double)check->allocated_clusters * 100.0 / (double)check->total_clusters,
               (double)check->fragmented_clusters * 100.0 / (double)check->allocated_clusters,
               (double)check->compressed_clusters * 100.0 / (double)check->allocated_clusters);
    }
    if (check->image_end_offset > 0) {
        printf("Image end offset: %" PRIu64 "\n", check->image_end_offset);
    }
}

static void check_json(const struct node_check *check, const char *filename, const char *format)
{
    const struct {
        const char *name;
        uint64_t value;
    } rows[] = {
        {"image-end-offset", check->image_end_offset}, {"corruptions", check->corruptions},
        {"corruptions-fixed", check->corruptions_fixed}, {"leaks", check->leaks}, {"leaks-fixed", check->leaks_fixed},
        {"compressed-clusters", check->compressed_clusters}, {"total-clusters", check->total_clusters},
        {"allocated-clusters", check->allocated_clusters}, {"fragmented-clusters", check->fragmented_clusters},
    };
    puts("{");
    for (size_t i = 0; i < IMG_ARRAY_SIZE(rows); i++) {
        if (rows[i].value != 0) {
            printf("    \"%s\": %" PRIu64 ",\n", rows[i].name, rows[i].value);
        }
    }
    printf("    \"check-errors\": %" PRIu64 ",\n    \"filename\": ", check->check_errors);
    img_json_string(filename);
    printf(",\n    \"format\": \"%s\"\n}\n", format);
}

/* The exit status says what was found: 1 the check failed, 2 corruptions, 3 leaks, 63 the format has no check. */
int img_check(int argc, char **argv)
{
    static const struct option longs[] = {{"repair", required_argument, NULL, 'r'}, {0}};
    struct img_common common = {.verb = "check", .takes = IMG_TAKES_FORCE_SHARE | IMG_TAKES_OUTPUT};
    unsigned fix = 0;
    struct node_options options = {.check = true, .no_backing = true};
    int option;
    while ((option = img_option(&common, argc, argv, "r:T:", longs)) != -1) {
        switch (option) {
        case 'r':
            fix = strcmp(optarg, "leaks") == 0 ? CHECK_FIX_LEAKS : strcmp(optarg, "all") == 0 ? CHECK_FIX_LEAKS | CHECK_FIX_ERRORS : 0;
            if (fix == 0) {
                return img_fail("--repair expects 'leaks' or 'all' not '%s'", optarg);
            }
            break;
        case 'T':
            if (img_parse_cache(optarg, &options) != 0) {
                return 1;
            }
            break;
        default:
            return 1;
        }
    }
    if (optind != argc - 1) {
        return img_usage("check", "Expecting one image file name");
    }
    options.read_only = fix == 0;
    if (common.force_share && fix != 0) {
        return img_fail("-U can only be used without -r");
    }
    struct block_node *node = img_open_image(&common, argv[optind], common.format, &options);
    if (node == NULL) {
        return 1;
    }
    if (node->driver->check == NULL) {
        img_close(node, 0);
        img_fail("This image format does not support checks");
        return 63;
    }
    struct node_check check = {.messages = common.quiet ? NULL : stderr};
    int result = node->driver->check(node, fix, &check);
    if (result == 0 && (check.corruptions_fixed != 0 || check.leaks_fixed != 0)) {
        uint64_t leaks_fixed = check.leaks_fixed, corruptions_fixed = check.corruptions_fixed;
        if (!common.quiet && !common.json) {
            printf("The following inconsistencies were found and repaired:\n\n    %" PRIu64 " leaked clusters\n    %" PRIu64
                   " corruptions\n\nDouble checking the fixed image now...\n", leaks_fixed, corruptions_fixed);
        }
        check = (struct node_check){.messages = check.messages};
        result = node->driver->check(node, 0, &check);
        check.leaks_fixed = leaks_fixed;
        check.corruptions_fixed = corruptions_fixed;
    }
    if (result != 0) {
        return img_close(node, img_fail("Check failed: %s", strerror(-result)));
    }
    if (common.json && !common.quiet) {
        check_json(&check, node->filename, node->driver->name);
    } else if (!common.quiet) {
        check_human(&check);
    }
    int status = check.check_errors != 0 ? 1 : check.corruptions != 0 ? 2 : check.leaks != 0 ? 3 : 0;
    return img_close(node, status);
}
