/* SPDX-License-Identifier: MIT */
#include "cli/options_devices.h"

#include <stdio.h>
#include <string.h>

#include "chardev/chardev.h"
#include "util/keyval.h"
#include "cli/options_disks.h"
#include "machine/machine.h"

/* ---- Keeping arguments ---- */

static int options_keep(struct options_arguments *arguments, const char *option, const char *argument, struct error *error)
{
    if (arguments->count == OPTIONS_ARGUMENTS_MAX) {
        return error_set(error, "-%s %s: more than %u of them", option, argument, OPTIONS_ARGUMENTS_MAX);
    }
    arguments->text[arguments->count++] = argument;
    return 0;
}

int options_apply_device(struct options *options, const char *argument, struct error *error)
{
    if (strcmp(argument, "help") == 0 || strcmp(argument, "?") == 0) {
        device_help();
        options->action = OPTIONS_DONE;
        return 0;
    }
    return options_keep(&options->device_arguments, "device", argument, error);
}

/* ---- -drive, -blockdev ---- */

/* Parses an argument. 1: help was asked for, and printed. */
static int options_parse_parts(struct options *options, struct keyval_list *list, const char *what, const char *first, const char *argument,
                               const char *kind, const struct property *properties, struct error *error)
{
    if (keyval_parse(list, what, first, argument, error) != 0) {
        return -1;
    }
    if (list->help) {
        printf("%s options:\n", kind);
        property_help(PROPERTY_LISTS(properties));
        options->action = OPTIONS_DONE;
    }
    return list->help ? 1 : 0;
}

int options_apply_drive(struct options *options, const char *argument, struct error *error)
{
    struct keyval_list list;
    int help = options_parse_parts(options, &list, "-drive", NULL, argument, "drive", drive_properties, error);
    if (help != 0) {
        return help < 0 ? -1 : 0;
    }
    return config_add_drive(&options->lists, &list, error) != NULL ? 0 : error_prepend(error, "-drive %.80s: ", argument);
}

/* FILE[,PROP=VALUE...]: the same as -drive file=FILE,format=qcow2,if=virtio,discard=unmap, in which each can be said otherwise. That an image is
   raw must be said: a guest could write the head of a qcow2 image into it, that names a file of the host's as its backing file. */
int options_apply_image(struct options *options, const char *word, struct error *error)
{
    static const struct keyval defaults[] = {{"format", "qcow2"}, {"if", "virtio"}, {"discard", "unmap"}};
    struct keyval_list list;
    char text[KEYVAL_VALUE_MAX + 8];
    if (word[0] == '\0' || word[0] == ',') {
        return error_set(error, "'%s': expected an image or an option", word);
    }
    if (options->image[0] != '\0') {
        return error_set(error, "'%s': there is an image already, %s; others are named by -drive", word, options->image);
    }
    if ((size_t)snprintf(text, sizeof(text), "file=%s", word) >= sizeof(text)) {
        return error_set(error, "'%s': longer than %u characters", word, KEYVAL_VALUE_MAX);
    }
    if (keyval_parse(&list, word, NULL, text, error) != 0) {
        return -1;
    }
    options->image_format_said = keyval_get(&list, "format") != NULL;
    for (unsigned i = 0; i < sizeof(defaults) / sizeof(defaults[0]); i++) {
        if (keyval_get(&list, defaults[i].name) == NULL && list.count < KEYVAL_MAX) {
            list.pairs[list.count++] = defaults[i];
        }
    }
    const struct drive *drive = config_add_drive(&options->lists, &list, error);
    if (drive == NULL) {
        return error_prepend(error, "%.80s: ", word);
    }
    strcpy(options->image, drive->values.file);
    return 0;
}

int options_apply_blockdev(struct options *options, const char *argument, struct error *error)
{
    struct keyval_list list;
    int help = options_parse_parts(options, &list, "-blockdev", "driver", argument, "blockdev", blockdev_properties, error);
    if (help != 0) {
        return help < 0 ? -1 : 0;
    }
    return config_add_blockdev(&options->lists, &list, error) != NULL ? 0 : error_prepend(error, "-blockdev %.80s: ", argument);
}

/* ---- -object, -chardev ---- */

int options_apply_object(struct options *options, const char *argument, struct error *error)
{
    struct keyval_list list;
    if (strcmp(argument, "help") == 0) {
        puts("List of user creatable objects:");
        for (const struct object_model *model = object_models; model->name != NULL; model++) {
            printf("  %-14s %s\n", model->name, model->help);
        }
        options->action = OPTIONS_DONE;
        return 0;
    }
    if (keyval_parse(&list, "-object", "qom-type", argument, error) != 0) {
        return -1;
    }
    const struct object_model *model = config_find_object_model(&list, error);
    if (model != NULL && list.help) {
        printf("%s options:\n", model->name);
        property_help(PROPERTY_LISTS(model->properties));
        options->action = OPTIONS_DONE;
        return 0;
    }
    return config_add_object(&options->lists, &list, error) != NULL ? 0 : error_prepend(error, "-object %.80s: ", argument);
}

int options_apply_chardev(struct options *options, const char *argument, struct error *error)
{
    struct keyval_list list;
    if (keyval_parse(&list, "-chardev", "backend", argument, error) != 0) {
        return -1;
    }
    return config_add_chardev(&options->lists, &list, error) != NULL ? 0 : error_prepend(error, "-chardev %.80s: ", argument);
}

/* ---- -device ---- */

struct device_spec *options_new_device(struct options *options, const struct device_model *model, struct error *error)
{
    struct device_spec *spec = config_new_device(&options->lists, model, error);
    if (spec == NULL) {
        error_prepend(error, "-device %s: ", model->name);
    }
    return spec;
}

int options_claim_device(struct options *options, struct device_spec *spec, struct error *error)
{
    const char *model = spec->model->name;
    return config_claim_device(&options->lists, spec, error) == 0 ? 0 : error_prepend(error, "-device %s: ", model);
}

static int options_add_device(struct options *options, const char *argument, bool has_pci, struct error *error)
{
    struct keyval_list list;
    if (keyval_parse(&list, "-device", "driver", argument, error) != 0) {
        return -1;
    }
    const struct device_model *model = config_find_model(&list, has_pci, error);
    if (model == NULL) {
        return error_prepend(error, "-device %.80s: ", argument);
    }
    if (list.help) {
        device_model_help(model);
        options->action = OPTIONS_DONE;
        return 0;
    }
    return config_add_device(&options->lists, &list, has_pci, error) != NULL ? 0 : error_prepend(error, "-device %s: ", model->name);
}

/* -debugcon BACKEND is an isa-debugcon. */
int options_apply_debugcon(struct options *options, const char *argument, struct error *error)
{
    const struct device_model *model = device_find("isa-debugcon", false);
    if (!chardev_spec_valid(argument) && strcmp(argument, "none") != 0) {
        return error_set(error, "-debugcon %s: no such backend; stdio, null, none, file:PATH, pty and unix:PATH are there", argument);
    }
    struct device_spec *spec = options_new_device(options, model, error);
    return spec == NULL ? -1 : property_set(model->lists, &spec->values, "-debugcon", "chardev", argument, error);
}

/* The devices that -drive if=virtio asks for. */
static int options_add_drive_devices(struct options *options, bool has_pci, struct error *error)
{
    for (unsigned i = 0; i < options->lists.drive_count; i++) {
        struct drive *drive = options->lists.drives[i];
        uint64_t interface = drive->values.interface;
        if (interface != DRIVE_IF_VIRTIO && (interface != DRIVE_IF_DEFAULT || machine_find_board(options->machine)->ide_units != 0)) {
            continue;
        }
        struct device_spec *spec = options_new_device(options, device_find("virtio-blk", has_pci), error);
        if (spec == NULL) {
            return -1;
        }
        strcpy(spec->values.drive, drive->values.id);
        if (options_claim_device(options, spec, error) != 0) {
            return -1;
        }
    }
    return 0;
}

/* ---- Flash memory ---- */

static int options_take_flash(struct options *options, unsigned unit, struct drive *drive, struct error *error)
{
    if (unit >= OPTIONS_FLASHES_MAX) {
        return error_set(error, "-drive file=%s: if=pflash has units 0 and 1", drive->values.file);
    }
    if (options->flash[unit] != NULL || drive->used_by != NULL) {
        return error_set(error, "pflash%u: there are two drives for it, or its drive is in use: %s", unit, drive->values.file);
    }
    options->flash[unit] = drive;
    drive->used_by = "pflash";
    return 0;
}

static int options_find_flash(struct options *options, struct error *error)
{
    for (unsigned unit = 0; unit < OPTIONS_FLASHES_MAX; unit++) {
        const char *name = options->flash_names[unit];
        struct drive *drive = config_find_drive(&options->lists, name);
        if (name[0] != '\0' && drive == NULL) {
            return error_set(error, "-machine pflash%u=%s: Cannot find device='%s' nor node-name='%s'", unit, name, name, name);
        }
        if (name[0] != '\0' && options_take_flash(options, unit, drive, error) != 0) {
            return -1;
        }
    }
    unsigned next = 0;
    for (unsigned i = 0; i < options->lists.drive_count; i++) {
        struct drive *drive = options->lists.drives[i];
        if (drive->values.interface == DRIVE_IF_PFLASH && !drive->node) {
            unsigned unit = drive->values.unit != DRIVE_PLACE_NEXT ? (unsigned)drive->values.unit : next;
            if (options_take_flash(options, unit, drive, error) != 0) {
                return -1;
            }
            next = unit + 1;
        }
    }
    if ((options->flash[0] != NULL || options->flash[1] != NULL) && !machine_find_board(options->machine)->has_firmware) {
        return error_set(error, "if=pflash: the machine %s has no firmware; pc and q35 have", options->machine);
    }
    return 0;
}

int options_complete_devices(struct options *options, struct error *error)
{
    bool has_pci = machine_find_board(options->machine)->pci_bus != NULL;
    if (config_resolve_drives(&options->lists, error) != 0) {
        return error_prepend(error, "-blockdev ");
    }
    if (options_find_flash(options, error) != 0 || options_add_ide_drives(options, error) != 0) {
        return -1;
    }
    for (unsigned i = 0; i < options->device_arguments.count && options->action == OPTIONS_RUN; i++) {
        if (options_add_device(options, options->device_arguments.text[i], has_pci, error) != 0) {
            return -1;
        }
    }
    if (options->action != OPTIONS_RUN || options_add_drive_devices(options, has_pci, error) != 0) {
        return options->action != OPTIONS_RUN ? 0 : -1;
    }
    /* An installed system waits for random numbers when it first makes its keys. */
    return options->image[0] == '\0' || options->no_defaults || options_new_device(options, device_find("virtio-rng", has_pci), error) != NULL ? 0 : -1;
}
