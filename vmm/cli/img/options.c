/* SPDX-License-Identifier: MIT */
/* `kage img`: the options that verbs share, and the image that they name. */
#include <stdio.h>
#include <string.h>

#include "cli/img/img.h"
#include "util/keyval.h"
#include "machine/drive.h"

#define OPTIONS_LONGS_MAX 24u

/* ---- Shared options ---- */

static const struct {
    struct option option;
    unsigned takes; /* the verb must have said that it does; 0: all do */
} options_shared[] = {
    {{"force-share", no_argument, NULL, 'U'}, IMG_TAKES_FORCE_SHARE},
    {{"output", required_argument, NULL, IMG_OPT_OUTPUT}, IMG_TAKES_OUTPUT},
    {{"image-opts", no_argument, NULL, IMG_OPT_IMAGE_OPTS}, 0},
    {{"object", required_argument, NULL, IMG_OPT_OBJECT}, 0},
};

static int options_output(const char *text, bool *json)
{
    *json = strcmp(text, "json") == 0;
    return *json || strcmp(text, "human") == 0 ? 0 : img_fail("--output must be used with human or json as argument.");
}

/* Objects are secrets for encrypted images, and throttle groups: neither has a use here. */
static int options_object(const char *text)
{
    struct keyval_list list;
    struct error error = {""};
    if (keyval_parse(&list, "--object", "qom-type", text, &error) != 0) {
        return img_fail("%s", error.text);
    }
    const char *type = keyval_get(&list, "qom-type");
    if (type != NULL && strcmp(type, "secret") == 0) {
        return img_fail("--object secret: encrypted images and secrets are not supported");
    }
    return img_fail("--object %s: invalid object type: %s", text, type != NULL ? type : "none");
}

static int options_take(struct img_common *common, int option)
{
    switch (option) {
    case 'f':
        common->format = optarg;
        return 0;
    case 'U':
        common->force_share = true;
        return 0;
    case 'q':
        common->quiet = true;
        return 0;
    case 'p':
        common->progress = true;
        return 0;
    case IMG_OPT_OUTPUT:
        return options_output(optarg, &common->json);
    case IMG_OPT_IMAGE_OPTS:
        common->image_opts = true;
        return 0;
    case IMG_OPT_OBJECT:
        return options_object(optarg);
    default:
        return -1; /* the verb's own */
    }
}

int img_option(struct img_common *common, int argc, char **argv, const char *letters, const struct option *own)
{
    struct option longs[OPTIONS_LONGS_MAX] = {{0}};
    char all[64];
    unsigned count = 0;
    for (size_t i = 0; i < IMG_ARRAY_SIZE(options_shared); i++) {
        if (options_shared[i].takes == 0 || (common->takes & options_shared[i].takes)) {
            longs[count++] = options_shared[i].option;
        }
    }
    for (; own != NULL && own->name != NULL && count + 1 < OPTIONS_LONGS_MAX; own++) {
        longs[count++] = *own;
    }
    snprintf(all, sizeof(all), "%sf:q%s%s", letters, common->takes & IMG_TAKES_PROGRESS ? "p" : "", common->takes & IMG_TAKES_FORCE_SHARE ? "U" : "");
    for (;;) {
        int option = getopt_long(argc, argv, all, longs, NULL);
        if (option == '?') {
            return img_usage(common->verb, NULL), IMG_OPT_WRONG;
        }
        int status = options_take(common, option);
        if (status != -1) {
            if (status != 0) {
                return IMG_OPT_WRONG;
            }
            continue;
        }
        if (option == -1 && common->image_opts && common->format != NULL) {
            return img_fail("--image-opts and --format are mutually exclusive"), IMG_OPT_WRONG;
        }
        return option;
    }
}

/* ---- The image ---- */

int img_parse_image_opts(const char *text, struct drive_values *values)
{
    struct keyval_list list;
    struct error error = {""};
    memset(values, 0, sizeof(*values));
    property_defaults(PROPERTY_LISTS(blockdev_properties), values);
    if (keyval_parse(&list, "--image-opts", NULL, text, &error) != 0) {
        return img_fail("%s", error.text);
    }
    if (list.help) {
        puts("Image options:");
        property_help(PROPERTY_LISTS(blockdev_properties));
        return 2;
    }
    for (unsigned i = 0; i < list.count; i++) {
        if (property_set(PROPERTY_LISTS(blockdev_properties), values, "--image-opts", list.pairs[i].name, list.pairs[i].value, &error) != 0) {
            return img_fail("Could not open '%s': %s", text, error.text);
        }
    }
    if (values->reference[0] != '\0') {
        return img_fail("Could not open '%s': Cannot find device='' nor node-name='%s'", text, values->reference);
    }
    if (drive_resolve(values, &error) != 0) {
        return img_fail("--image-opts: %s", error.text);
    }
    if (values->file[0] == '\0') {
        return img_fail("Could not open '%s': A block device must be specified for \"file\"", text);
    }
    if (strcmp(values->format, "file") == 0 || strcmp(values->format, "nbd") == 0) {
        strcpy(values->format, "raw"); /* its bytes are the disk's */
    }
    return 0;
}

struct block_node *img_open_image(const struct img_common *common, const char *name, const char *format, const struct node_options *options)
{
    struct node_options open = *options;
    open.force_share = open.force_share || (common->force_share && open.read_only);
    if (!common->image_opts) {
        return img_open(name, format, &open);
    }
    struct drive_values values;
    struct block_config config;
    if (img_parse_image_opts(name, &values) != 0) {
        return NULL;
    }
    drive_config(&values, &config);
    if (config.read_only && !open.read_only) {
        img_fail("Could not open '%s': read-only=on, and the image is to be written", name);
        return NULL;
    }
    open.direct = open.direct || config.cache_direct;
    open.no_flush = open.no_flush || config.cache_no_flush;
    open.force_share = open.force_share || (values.locking == 2 && open.read_only);
    open.nbd.reconnect_delay_s = config.nbd_reconnect_delay_s;
    open.nbd.open_timeout_s = config.nbd_open_timeout_s;
    return img_open(config.filename, config.format, &open);
}

const char *img_snapshot_name(const char *text)
{
    static const char *const marks[] = {"snapshot.name=", "snapshot.id="};
    for (size_t i = 0; i < IMG_ARRAY_SIZE(marks); i++) {
        if (strncmp(text, marks[i], strlen(marks[i])) == 0) {
            return text + strlen(marks[i]);
        }
    }
    return text;
}

int img_load_snapshot(struct block_node *node, const char *name)
{
    struct error error = {"the format has no snapshots"};
    if (node->driver->snapshot_load == NULL || node->driver->snapshot_load(node, name, &error) != 0) {
        return img_fail("Failed to load snapshot: %s", error.text);
    }
    return 0;
}
