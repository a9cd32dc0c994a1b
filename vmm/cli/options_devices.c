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

struct drive *options_new_drive(struct options *options, const char *what, const struct property *properties, struct error *error)
{
    if (options->drive_count == DRIVES_MAX) {
        error_set(error, "%s: more than %u drives", what, DRIVES_MAX);
        return NULL;
    }
    struct drive *drive = &options->drives[options->drive_count++];
    memset(drive, 0, sizeof(*drive));
    property_defaults(PROPERTY_LISTS(properties), &drive->values);
    return drive;
}

static int options_set_all(const struct keyval_list *list, property_lists properties, void *values, const char *owner, struct error *error)
{
    for (unsigned i = 0; i < list->count; i++) {
        if (property_set(properties, values, owner, list->pairs[i].name, list->pairs[i].value, error) != 0) {
            return -1;
        }
    }
    return 0;
}

int options_check_id(const struct options *options, const struct drive *drive, const char *what, struct error *error)
{
    for (unsigned i = 0; i < options->drive_count; i++) {
        const struct drive *other = &options->drives[i];
        if (other != drive && strcmp(other->values.id, drive->values.id) == 0) {
            return error_set(error, "%s: Duplicate ID '%s'", what, drive->values.id);
        }
    }
    return 0;
}

static int options_add_drive(struct options *options, const char *argument, const struct keyval_list *list, struct error *error)
{
    struct drive *drive = options_new_drive(options, "-drive", drive_properties, error);
    if (drive == NULL || options_set_all(list, PROPERTY_LISTS(drive_properties), &drive->values, "-drive", error) != 0) {
        return -1;
    }
    char what[64];
    snprintf(what, sizeof(what), "-drive id=%.40s", drive->values.id);
    if (drive_resolve(&drive->values, what, error) != 0) {
        return -1;
    }
    if (drive->values.file[0] == '\0') {
        return error_set(error, "-drive %s: A block device must be specified for \"file\"", argument);
    }
    if (drive->values.id[0] == '\0') {
        snprintf(drive->values.id, sizeof(drive->values.id), "drive%u", options->drive_count - 1);
    }
    return options_check_id(options, drive, "-drive", error);
}

int options_apply_drive(struct options *options, const char *argument, struct error *error)
{
    struct keyval_list list;
    if (keyval_parse(&list, "-drive", NULL, argument, error) != 0) {
        return -1;
    }
    if (list.help) {
        puts("drive options:");
        property_help(PROPERTY_LISTS(drive_properties));
        options->action = OPTIONS_DONE;
        return 0;
    }
    return options_add_drive(options, argument, &list, error);
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
    if (options_add_drive(options, word, &list, error) != 0) {
        return -1;
    }
    strcpy(options->image, options->drives[options->drive_count - 1].values.file);
    return 0;
}

int options_apply_blockdev(struct options *options, const char *argument, struct error *error)
{
    struct keyval_list list;
    if (keyval_parse(&list, "-blockdev", "driver", argument, error) != 0) {
        return -1;
    }
    if (list.help) {
        puts("blockdev options:");
        property_help(PROPERTY_LISTS(blockdev_properties));
        options->action = OPTIONS_DONE;
        return 0;
    }
    struct drive *drive = options_new_drive(options, "-blockdev", blockdev_properties, error);
    if (drive == NULL || options_set_all(&list, PROPERTY_LISTS(blockdev_properties), &drive->values, "-blockdev", error) != 0) {
        return -1;
    }
    const struct drive_values *values = &drive->values;
    drive->node = true;
    drive->values.interface = DRIVE_IF_NONE;
    if (values->format[0] == '\0') {
        return error_set(error, "-blockdev %s: Parameter 'driver' is missing", argument);
    }
    if (values->id[0] == '\0') {
        return error_set(error, "-blockdev %s: 'node-name' must be specified for the root node", argument);
    }
    if (strcmp(values->format, "throttle") == 0 && (values->throttle_group[0] == '\0' || values->reference[0] == '\0')) {
        return error_set(error, "-blockdev %s: Parameter '%s' is missing", argument, values->throttle_group[0] == '\0' ? "throttle-group" : "file");
    }
    char what[64];
    snprintf(what, sizeof(what), "-blockdev node-name=%.40s", values->id);
    if (drive_resolve(&drive->values, what, error) != 0) {
        return -1;
    }
    if ((values->file[0] == '\0') == (values->reference[0] == '\0')) {
        return error_set(error, "-blockdev %s: Parameter 'file' is missing; name a node or file.filename", argument);
    }
    return options_check_id(options, drive, "-blockdev", error);
}

/* A node of these holds bytes, and another may lie on it. */
static bool options_is_protocol(const char *driver)
{
    return strcmp(driver, "file") == 0 || strcmp(driver, "nbd") == 0;
}

/* A node that names another takes over what that says of the file. */
static int options_resolve_node(struct options *options, struct drive *drive, struct error *error)
{
    struct drive_values *values = &drive->values;
    for (unsigned i = 0; i < options->drive_count; i++) {
        const struct drive *other = &options->drives[i];
        const struct drive_values *file = &other->values;
        if (!other->node || strcmp(file->id, values->reference) != 0) {
            continue;
        }
        bool filter = strcmp(values->format, "throttle") == 0;
        if (filter && other->used_by == NULL) { /* all that the other is, under limits */
            struct drive_values own = *values;
            *values = *file;
            strcpy(values->id, own.id);
            strcpy(values->throttle_group, own.throttle_group);
            options->drives[i].used_by = "another node";
            return 0;
        }
        if (!options_is_protocol(file->format) && !filter) {
            return error_set(error, "-blockdev node-name=%s: the node '%s' is not of driver file or nbd", values->id, file->id);
        }
        if (other->used_by != NULL) {
            return error_set(error, "-blockdev node-name=%s: the node '%s' is in use by %s", values->id, file->id, other->used_by);
        }
        strcpy(values->file, file->file);
        values->read_only = values->read_only || file->read_only;
        values->cache_direct = values->cache_direct || file->cache_direct;
        values->cache_no_flush = values->cache_no_flush || file->cache_no_flush;
        values->aio = file->aio;
        values->locking = file->locking;
        values->nbd = file->nbd;
        options->drives[i].used_by = "another node";
        return 0;
    }
    return error_set(error, "-blockdev node-name=%s: Cannot find device='' nor node-name='%s'", values->id, values->reference);
}

static int options_resolve_nodes(struct options *options, struct error *error)
{
    for (unsigned i = 0; i < options->drive_count; i++) {
        struct drive *drive = &options->drives[i];
        if (drive->values.reference[0] != '\0' && options_resolve_node(options, drive, error) != 0) {
            return -1;
        }
    }
    for (unsigned i = 0; i < options->drive_count; i++) {
        struct drive *drive = &options->drives[i];
        if (drive->node && options_is_protocol(drive->values.format)) {
            strcpy(drive->values.format, "raw"); /* its bytes are the disk's */
        }
    }
    return 0;
}

/* The limits of a group are those of its object, else of the first drive in it; the drives after the first share with that. */
static int options_find_groups(struct options *options, struct error *error)
{
    for (unsigned i = 0; i < options->drive_count; i++) {
        struct drive *drive = &options->drives[i];
        const char *group = drive->values.throttle_group;
        const struct object_spec *object = NULL;
        if (group[0] == '\0' || (drive->used_by != NULL && drive->node)) {
            continue;
        }
        for (unsigned j = 0; j < options->object_count; j++) {
            const struct object_spec *other = &options->objects[j];
            object = strcmp(other->model->name, OBJECT_THROTTLE_GROUP) == 0 && strcmp(other->values.id, group) == 0 ? other : object;
        }
        if (object == NULL && drive->node) {
            return error_set(error, "-blockdev node-name=%s: Throttle group '%s' does not exist", drive->values.id, group);
        }
        if (object != NULL) {
            drive->values.throttle = object->values.throttle;
        }
        for (unsigned j = 0; j < i && drive->throttle_with == NULL; j++) {
            struct drive *other = &options->drives[j];
            bool opened = other->used_by == NULL || !other->node;
            drive->throttle_with = opened && strcmp(other->values.throttle_group, group) == 0 ? other : NULL;
        }
    }
    return 0;
}

/* ---- -object ---- */

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
    const char *name = keyval_get(&list, "qom-type");
    const struct object_model *model = object_models;
    while (model->name != NULL && (name == NULL || strcmp(model->name, name) != 0)) {
        model++;
    }
    if (model->name == NULL) {
        return error_set(error, "-object %s: invalid object type: %s", argument, name != NULL ? name : "none");
    }
    if (list.help) {
        printf("%s options:\n", model->name);
        property_help(PROPERTY_LISTS(model->properties));
        options->action = OPTIONS_DONE;
        return 0;
    }
    if (options->object_count == OBJECTS_MAX) {
        return error_set(error, "-object %s: more than %u objects", argument, OBJECTS_MAX);
    }
    struct object_spec *spec = &options->objects[options->object_count++];
    *spec = (struct object_spec){.model = model};
    property_defaults(PROPERTY_LISTS(model->properties), &spec->values);
    for (unsigned i = 0; i < list.count; i++) {
        const struct keyval *pair = &list.pairs[i];
        if (strcmp(pair->name, "qom-type") != 0 &&
            property_set(PROPERTY_LISTS(model->properties), &spec->values, model->name, pair->name, pair->value, error) != 0) {
            return -1;
        }
    }
    if (spec->values.id[0] == '\0') {
        return error_set(error, "-object %s: Parameter 'id' is missing", argument);
    }
    for (struct object_spec *other = options->objects; other < spec; other++) {
        if (strcmp(other->values.id, spec->values.id) == 0) {
            return error_set(error, "-object %s: attempt to add duplicate property '%s' to object (type 'container')", argument, spec->values.id);
        }
    }
    return 0;
}

/* ---- -chardev ---- */

struct chardev_backend *options_find_chardev(struct options *options, const char *id)
{
    for (unsigned i = 0; i < options->chardev_count; i++) {
        if (strcmp(options->chardevs[i].id, id) == 0) {
            return &options->chardevs[i];
        }
    }
    return NULL;
}

/* QEMU's names, and the words of -serial that they stand for; `argument` is the property that follows the ':'. */
static const struct {
    const char *name, *argument, *spec;
} chardev_kinds[] = {
    {"null", NULL, "null"}, {"stdio", NULL, "stdio"}, {"file", "path", "file:"}, {"pty", NULL, "pty"}, {"socket", "path", "unix:"},
};

static const char *const chardev_ignored[] = {"backend", "id", "path", "mux", "signal", "server", "wait", "logfile"};

int options_apply_chardev(struct options *options, const char *argument, struct error *error)
{
    struct keyval_list list;
    if (keyval_parse(&list, "-chardev", "backend", argument, error) != 0) {
        return -1;
    }
    const char *name = keyval_get(&list, "backend"), *id = keyval_get(&list, "id"), *mux = keyval_get(&list, "mux");
    const char *server = keyval_get(&list, "server"), *wait = keyval_get(&list, "wait");
    unsigned kind = 0;
    while (kind < sizeof(chardev_kinds) / sizeof(chardev_kinds[0]) && (name == NULL || strcmp(chardev_kinds[kind].name, name) != 0)) {
        kind++;
    }
    if (kind == sizeof(chardev_kinds) / sizeof(chardev_kinds[0])) {
        return error_set(error, "-chardev %s: '%s' is not a valid char driver name; null, stdio, file, pty and socket are there", argument,
                         name != NULL ? name : "");
    }
    if (id == NULL) {
        return error_set(error, "-chardev %s: chardev: no id specified", argument);
    }
    for (unsigned i = 0; i < list.count; i++) {
        bool known = false;
        for (unsigned k = 0; k + 1 < sizeof(chardev_ignored) / sizeof(chardev_ignored[0]); k++) {
            known = known || strcmp(list.pairs[i].name, chardev_ignored[k]) == 0;
        }
        if (!known) {
            return error_set(error, "-chardev %s: Invalid parameter '%s'", argument, list.pairs[i].name);
        }
    }
    const char *value = chardev_kinds[kind].argument != NULL ? keyval_get(&list, chardev_kinds[kind].argument) : "";
    if (value == NULL) {
        return error_set(error, "-chardev %s: chardev: %s: no %s given", argument, name, chardev_kinds[kind].argument);
    }
    if (options_find_chardev(options, id) != NULL) {
        return error_set(error, "-chardev %s: Chardev with id '%s' already exists", argument, id);
    }
    if (options->chardev_count == CHARDEVS_MAX) {
        return error_set(error, "-chardev %s: more than %u of them", argument, CHARDEVS_MAX);
    }
    struct chardev_backend *backend = &options->chardevs[options->chardev_count++];
    int length = snprintf(backend->spec, sizeof(backend->spec), "%s%s%s%s%s%s%s", mux != NULL && strcmp(mux, "on") == 0 ? "mon:" : "",
                          chardev_kinds[kind].spec, value, server != NULL ? ",server=" : "", server != NULL ? server : "", wait != NULL ? ",wait=" : "",
                          wait != NULL ? wait : "");
    snprintf(backend->id, sizeof(backend->id), "%s", id);
    return length > 0 && (size_t)length < sizeof(backend->spec) && chardev_spec_valid(backend->spec)
               ? 0
               : error_set(error, "-chardev %s: no such backend", argument);
}

/* ---- -device ---- */

struct device_spec *options_new_device(struct options *options, const struct device_model *model, struct error *error)
{
    for (unsigned i = 0; i < options->device_count; i++) {
        if (model->single && options->devices[i].model == model) {
            error_set(error, "-device %s: there can be only one", model->name);
            return NULL;
        }
    }
    if (options->device_count == DEVICES_MAX) {
        error_set(error, "-device %s: more than %u devices", model->name, DEVICES_MAX);
        return NULL;
    }
    struct device_spec *spec = &options->devices[options->device_count++];
    device_spec_init(spec, model);
    return spec;
}

static int options_check_chardev(struct options *options, struct device_spec *spec, struct error *error)
{
    const char *chardev = spec->values.chardev;
    struct chardev_backend *backend = options_find_chardev(options, chardev);
    if (backend != NULL && backend->used) {
        return error_set(error, "-device %s: Property '%s.chardev' can't take value '%s', it's in use", spec->model->name, spec->model->name, chardev);
    }
    if (backend != NULL) {
        backend->used = true;
    }
    if (spec->model->bus == DEVICE_BUS_SERIAL) {
        return chardev[0] == '\0' || backend != NULL
                   ? 0
                   : error_set(error, "-device %s: Property '%s.chardev' can't find value '%s'", spec->model->name, spec->model->name, chardev);
    }
    if (backend != NULL) {
        strcpy(spec->values.chardev, backend->spec);
    }
    return chardev[0] == '\0' || strcmp(chardev, "none") == 0 || chardev_spec_valid(chardev)
               ? 0
               : error_set(error, "-device %s: %s: no such backend; stdio, null, none, file:PATH, pty and unix:PATH are there", spec->model->name, chardev);
}

int options_check_device(struct options *options, struct device_spec *spec, struct error *error)
{
    const struct device_values *values = &spec->values;
    if (values->port + values->bytes > 0x10000) {
        return error_set(error, "-device %s: its ports end beyond 0xffff", spec->model->name);
    }
    for (struct device_spec *other = options->devices; other < spec && values->id[0] != '\0'; other++) {
        if (strcmp(other->values.id, values->id) == 0) {
            return error_set(error, "-device %s: Duplicate ID '%s' for device", spec->model->name, values->id);
        }
    }
    if (values->drive[0] != '\0') {
        struct drive *drive = NULL;
        for (unsigned i = 0; i < options->drive_count; i++) {
            drive = strcmp(options->drives[i].values.id, values->drive) == 0 ? &options->drives[i] : drive;
        }
        if (drive == NULL) {
            return error_set(error, "-device %s: Property '%s.drive' can't find value '%s'", spec->model->name, spec->model->name, values->drive);
        }
        if (drive->used_by != NULL) {
            return error_set(error, "-device %s: Property '%s.drive' can't take value '%s', it's in use by %s", spec->model->name, spec->model->name,
                             values->drive, drive->used_by);
        }
        drive->used_by = spec->model->name;
    }
    return options_check_chardev(options, spec, error);
}

static int options_add_device(struct options *options, const char *argument, bool has_pci, struct error *error)
{
    struct keyval_list list;
    if (keyval_parse(&list, "-device", "driver", argument, error) != 0) {
        return -1;
    }
    const char *name = keyval_get(&list, "driver");
    if (name == NULL) {
        return error_set(error, "-device %s: Parameter 'driver' is missing", argument);
    }
    const struct device_model *model = device_find(name, has_pci);
    if (model == NULL) {
        return error_set(error, "-device %s: '%s' is not a valid device model name; '-device help' lists them", argument, name);
    }
    if (list.help) {
        device_model_help(model);
        options->action = OPTIONS_DONE;
        return 0;
    }
    struct device_spec *spec = options_new_device(options, model, error);
    if (spec == NULL) {
        return -1;
    }
    for (unsigned i = 0; i < list.count; i++) {
        const struct keyval *pair = &list.pairs[i];
        char owner[80];
        snprintf(owner, sizeof(owner), "-device %s", model->name);
        if (strcmp(pair->name, "driver") != 0 && property_set(model->lists, &spec->values, owner, pair->name, pair->value, error) != 0) {
            return -1;
        }
    }
    return options_check_device(options, spec, error);
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
    for (unsigned i = 0; i < options->drive_count; i++) {
        struct drive *drive = &options->drives[i];
        uint64_t interface = drive->values.interface;
        if (interface != DRIVE_IF_VIRTIO && (interface != DRIVE_IF_DEFAULT || machine_find_board(options->machine)->ide_units != 0)) {
            continue;
        }
        struct device_spec *spec = options_new_device(options, device_find("virtio-blk", has_pci), error);
        if (spec == NULL) {
            return -1;
        }
        strcpy(spec->values.drive, drive->values.id);
        if (options_check_device(options, spec, error) != 0) {
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
        struct drive *drive = NULL;
        for (unsigned i = 0; i < options->drive_count; i++) {
            drive = strcmp(options->drives[i].values.id, name) == 0 ? &options->drives[i] : drive;
        }
        if (name[0] != '\0' && drive == NULL) {
            return error_set(error, "-machine pflash%u=%s: Cannot find device='%s' nor node-name='%s'", unit, name, name, name);
        }
        if (name[0] != '\0' && options_take_flash(options, unit, drive, error) != 0) {
            return -1;
        }
    }
    unsigned next = 0;
    for (unsigned i = 0; i < options->drive_count; i++) {
        struct drive *drive = &options->drives[i];
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
    if (options_resolve_nodes(options, error) != 0 || options_find_groups(options, error) != 0 || options_find_flash(options, error) != 0 || options_add_ide_drives(options, error) != 0) {
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
