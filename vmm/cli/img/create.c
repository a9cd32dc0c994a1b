/* SPDX-License-Identifier: MIT */
/* `kage img create`, and new images for `convert` and `dd`. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/img/img.h"

void img_new_init(struct img_new *options)
{
    *options = (struct img_new){.format = "raw", .cluster_bits = 16, .refcount_bits = 16, .version = 3};
}

/* ---- Options of a format, one table ---- */

static int create_set_bool(const char *name, const char *value, bool *to)
{
    *to = strcmp(value, "on") == 0 || strcmp(value, "yes") == 0 || strcmp(value, "true") == 0;
    if (!*to && strcmp(value, "off") != 0 && strcmp(value, "no") != 0 && strcmp(value, "false") != 0) {
        return img_fail("Parameter '%s' expects 'on' or 'off'", name);
    }
    return 0;
}

static int create_set_backing_file(struct img_new *options, const char *value)
{
    options->backing_file = value;
    return 0;
}

static int create_set_backing_format(struct img_new *options, const char *value)
{
    options->backing_format = value;
    return 0;
}

static int create_set_cluster_size(struct img_new *options, const char *value)
{
    uint64_t bytes;
    if (img_parse_size(value, &bytes) != 0 || bytes < 512 || bytes > 2u << 20 || (bytes & (bytes - 1)) != 0) {
        return img_fail("Cluster size must be a power of two between 512 and 2048k");
    }
    options->cluster_bits = (unsigned)__builtin_ctzll(bytes);
    return 0;
}

static int create_set_compat(struct img_new *options, const char *value)
{
    options->has_compat = true;
    options->version = strcmp(value, "0.10") == 0 || strcmp(value, "v2") == 0 ? 2 : strcmp(value, "1.1") == 0 || strcmp(value, "v3") == 0 ? 3 : 0;
    return options->version != 0 ? 0 : img_fail("Invalid parameter '%s'", value);
}

static int create_set_compression(struct img_new *options, const char *value)
{
    options->zstd = strcmp(value, "zstd") == 0;
    return options->zstd || strcmp(value, "zlib") == 0 ? 0 : img_fail("Invalid parameter '%s'", value);
}

static int create_set_extended(struct img_new *options, const char *value)
{
    return create_set_bool("extended_l2", value, &options->extended_l2);
}

static int create_set_lazy(struct img_new *options, const char *value)
{
    options->has_lazy = true;
    return create_set_bool("lazy_refcounts", value, &options->lazy_refcounts);
}

int img_parse_prealloc(const char *text)
{
    static const char *const names[] = {"off", "metadata", "falloc", "full"};
    for (int i = 0; i < (int)IMG_ARRAY_SIZE(names); i++) {
        if (strcmp(text, names[i]) == 0) {
            return i;
        }
    }
    img_fail("Invalid parameter '%s'", text);
    return -1;
}

static int create_set_prealloc(struct img_new *options, const char *value)
{
    options->prealloc = img_parse_prealloc(value);
    options->prealloc_name = value;
    return options->prealloc < 0;
}

static int create_set_refcount_bits(struct img_new *options, const char *value)
{
    char *end;
    unsigned long bits = strtoul(value, &end, 10);
    if (*end != '\0' || value[0] < '0' || value[0] > '9' || bits == 0 || bits > 64 || (bits & (bits - 1)) != 0) {
        return img_fail("Refcount width must be a power of two and may not exceed 64 bits");
    }
    options->refcount_bits = (unsigned)bits;
    options->has_refcount_bits = true;
    return 0;
}

static int create_set_size(struct img_new *options, const char *value)
{
    options->has_size = true;
    return img_parse_size(value, &options->size) == 0 ? 0 : img_fail("Parameter 'size' expects a non-negative number below 2^64");
}

static const struct {
    const char *name;
    int (*set)(struct img_new *options, const char *value);
    bool raw; /* raw has it too */
    bool amend; /* an image that exists can change it, or must not */
    const char *kind, *text;
} create_rows[] = {
    {"backing_file", create_set_backing_file, false, true, "<str>", "File name of a base image"},
    {"backing_fmt", create_set_backing_format, false, true, "<str>", "Image format of the base image"},
    {"cluster_size", create_set_cluster_size, false, false, "<size>", "qcow2 cluster size"},
    {"compat", create_set_compat, false, true, "<str>", "Compatibility level (v2 [0.10] or v3 [1.1])"},
    {"compression_type", create_set_compression, false, false, "<str>", "Compression method used for image cluster compression"},
    {"extended_l2", create_set_extended, false, false, "<bool (on/off)>", "Extended L2 tables"},
    {"lazy_refcounts", create_set_lazy, false, true, "<bool (on/off)>", "Postpone refcount updates"},
    {"preallocation", create_set_prealloc, true, false, "<str>", "Preallocation mode (allowed values: off, metadata, falloc, full)"},
    {"refcount_bits", create_set_refcount_bits, false, true, "<num>", "Width of a reference count entry in bits"},
    {"size", create_set_size, true, true, "<size>", "Virtual disk size"},
};

/* The value, up to a comma that is not doubled, into our own text. NULL: too long. */
static char *create_next(struct img_new *options, const char **list)
{
    char *start = options->text + options->text_used;
    size_t room = sizeof(options->text) - options->text_used, used = 0;
    while (**list != '\0' && (**list != ',' || (*list)[1] == ',')) {
        *list += **list == ',';
        if (used + 1 >= room) {
            return NULL;
        }
        start[used++] = *(*list)++;
    }
    if (used >= room) {
        return NULL;
    }
    start[used] = '\0';
    options->text_used += used + 1;
    *list += **list == ',';
    return start;
}

static int create_parse(struct img_new *options, const char *list)
{
    while (*list != '\0') {
        char *part = create_next(options, &list);
        if (part == NULL) {
            return img_fail("-o: the options are too long");
        }
        bool raw = strcmp(options->format, "raw") == 0;
        if (strcmp(part, "help") == 0 || strcmp(part, "?") == 0) {
            if (options->amend) {
                printf("Amend options for '%s':\n", options->format);
            } else {
                puts("Supported options:");
            }
            for (size_t i = 0; i < IMG_ARRAY_SIZE(create_rows); i++) {
                if (options->amend ? create_rows[i].amend : !raw || create_rows[i].raw) {
                    char name[64];
                    snprintf(name, sizeof(name), "%s=%s", create_rows[i].name, create_rows[i].kind);
                    printf("  %-22s - %s\n", name, create_rows[i].text);
                }
            }
            return 2;
        }
        char *equals = strchr(part, '=');
        const char *value = equals != NULL ? equals + 1 : "on";
        if (equals != NULL) {
            *equals = '\0';
        }
        size_t row = 0;
        while (row < IMG_ARRAY_SIZE(create_rows) && (strcmp(create_rows[row].name, part) != 0 || (raw && !create_rows[row].raw))) {
            row++;
        }
        if (row == IMG_ARRAY_SIZE(create_rows)) {
            return img_fail("Invalid parameter '%s': the format '%s' has no such option (-o help lists them)", part, options->format);
        }
        if (options->amend && !create_rows[row].amend) {
            return img_fail("Invalid parameter '%s': This option is only supported for image creation", part);
        }
        if (create_rows[row].set(options, value) != 0) {
            return 1;
        }
    }
    return 0;
}

int img_new_add(struct img_new *options, const char *list)
{
    if (options->list_count == IMG_ARRAY_SIZE(options->lists)) {
        return img_fail("too many -o");
    }
    options->lists[options->list_count++] = list;
    return 0;
}

int img_new_parse(struct img_new *options)
{
    int status = 0;
    for (unsigned i = 0; i < options->list_count && status == 0; i++) {
        status = create_parse(options, options->lists[i]);
    }
    return status;
}

/* ---- Making ---- */

static void create_say(const char *filename, const struct img_new *options)
{
    printf("Formatting '%s', fmt=%s", filename, options->format);
    if (strcmp(options->format, "raw") == 0) {
        printf(" size=%llu", (unsigned long long)options->size);
        printf(options->prealloc_name != NULL ? " preallocation=%s\n" : "\n", options->prealloc_name);
        return;
    }
    printf(" cluster_size=%u extended_l2=%s", 1u << options->cluster_bits, options->extended_l2 ? "on" : "off");
    if (options->prealloc_name != NULL) {
        printf(" preallocation=%s", options->prealloc_name);
    }
    printf(" compression_type=%s size=%llu", options->zstd ? "zstd" : "zlib", (unsigned long long)options->size);
    if (options->has_compat) {
        printf(" compat=%s", options->version == 2 ? "0.10" : "1.1");
    }
    if (options->backing_file != NULL) {
        printf(" backing_file=%s backing_fmt=%s", options->backing_file, options->backing_format);
    }
    printf(" lazy_refcounts=%s refcount_bits=%u\n", options->lazy_refcounts ? "on" : "off", options->refcount_bits);
}

/* The size comes from the backing file where none is given; unless -u, that must open in any case. */
static int create_look_at_backing(const char *filename, struct img_new *options)
{
    if (options->backing_file == NULL) {
        return options->has_size ? 0 : img_fail("%s: Image creation needs a size parameter", filename);
    }
    if (strcmp(options->format, "raw") == 0) {
        return img_fail("%s: Backing file not supported for file format 'raw'", filename);
    }
    if (options->backing_format == NULL) {
        return img_fail("%s: Backing file specified without backing format", filename);
    }
    if (node_find_format(options->backing_format) == NULL) {
        return img_fail("%s: Unknown backing file format '%s'", filename, options->backing_format);
    }
    if (options->unsafe) {
        return options->has_size ? 0 : img_fail("%s: Image creation needs a size parameter", filename);
    }
    char *path = node_resolve_path(filename, options->backing_file);
    struct node_options open = {.read_only = true};
    struct error error = {""};
    struct block_node *node = path != NULL ? node_open(path, options->backing_format, &open, &error) : NULL;
    free(path);
    if (node == NULL) {
        return img_fail("%s: Could not open backing file: %s", filename, error.text);
    }
    if (!options->has_size) {
        options->size = node->bytes;
        options->has_size = true;
    }
    node_close(node);
    return 0;
}

static int create_fill_qcow2(const char *filename, const struct img_new *options)
{
    if (options->prealloc == NODE_PREALLOC_OFF) {
        return 0;
    }
    struct node_options open = {.no_backing = true};
    struct error error = {""};
    struct block_node *node = img_open(filename, "qcow2", &open);
    if (node == NULL) {
        return 1;
    }
    int result = node_resize(node, options->size, options->prealloc, &error);
    return img_close(node, result != 0 ? img_fail("%s: %s", filename, error.text) : 0);
}

int img_new_create(const char *filename, struct img_new *options, bool quiet)
{
    bool raw = strcmp(options->format, "raw") == 0;
    if (create_look_at_backing(filename, options) != 0) {
        return 1;
    }
    options->size = (options->size + 511) & ~UINT64_C(511);
    if (options->backing_file != NULL && options->prealloc != NODE_PREALLOC_OFF) {
        return img_fail("%s: Backing file and preallocation can only be used at the same time if extended_l2 is enabled, which is not supported here", filename);
    }
    if (raw && options->prealloc == NODE_PREALLOC_METADATA) {
        return img_fail("%s: Unsupported preallocation mode 'metadata'", filename);
    }
    if (!quiet) {
        create_say(filename, options);
    }
    if (!node_has_protocol(filename)) { /* an export is there already */
        int fd = open(filename, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
        if (fd < 0) {
            return img_fail("%s: Could not create '%s': %s", filename, filename, strerror(errno));
        }
        close(fd);
    }
    struct node_options open_options = {.no_lock = false};
    struct error error = {""};
    struct block_node *file = node_open_file(filename, &open_options, &error);
    if (file == NULL) {
        return img_fail("%s: %s", filename, error.text);
    }
    int result;
    if (raw) {
        result = node_resize(file, 0, NODE_PREALLOC_OFF, &error);
        result = result == 0 ? node_resize(file, options->size, options->prealloc, &error) : result;
    } else {
        bool fill = options->prealloc != NODE_PREALLOC_OFF;
        struct qcow2_create_options create = {
            .size = fill ? 0 : options->size,
            .version = options->version,
            .cluster_bits = options->cluster_bits,
            .refcount_bits = options->refcount_bits,
            .lazy_refcounts = options->lazy_refcounts,
            .extended_l2 = options->extended_l2,
            .zstd = options->zstd,
            .backing_file = options->backing_file,
            .backing_format = options->backing_format,
        };
        result = qcow2_create(file, &create, &error);
    }
    int status = img_close(file, result != 0 ? img_fail("%s: %s", filename, error.text) : 0);
    return status == 0 && !raw ? create_fill_qcow2(filename, options) : status;
}

int img_create(int argc, char **argv)
{
    struct img_new options;
    struct img_common common = {.verb = "create"};
    int option;
    img_new_init(&options);
    while ((option = img_option(&common, argc, argv, "F:b:o:u", NULL)) != -1) {
        switch (option) {
        case 'F':
            options.backing_format = optarg;
            break;
        case 'b':
            options.backing_file = optarg;
            break;
        case 'o':
            if (img_new_add(&options, optarg) != 0) {
                return 1;
            }
            break;
        case 'u':
            options.unsafe = true;
            break;
        default:
            return 1;
        }
    }
    options.format = common.format != NULL ? common.format : options.format;
    const struct block_driver *driver = node_find_format(options.format);
    if (driver == NULL) {
        return img_fail("Unknown file format '%s'", options.format);
    }
    options.format = driver->name;
    int parsed = img_new_parse(&options);
    if (parsed != 0) {
        return parsed == 1;
    }
    if (optind >= argc) {
        return img_usage("create", "Expecting image file name");
    }
    const char *filename = argv[optind++];
    if (optind < argc) {
        if (img_parse_size(argv[optind], &options.size) != 0) {
            return img_fail("Invalid image size specified: '%s'. You may use k, M, G, T, P or E suffixes for kilobytes, megabytes, "
                            "gigabytes, terabytes, petabytes and exabytes.", argv[optind]);
        }
        options.has_size = true;
        optind++;
    }
    if (optind < argc) {
        return img_usage("create", "Unexpected argument: only a file name and a size are expected");
    }
    return img_new_create(filename, &options, common.quiet);
}
