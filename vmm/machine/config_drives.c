/* SPDX-License-Identifier: MIT */
/*
 * -drive and -blockdev: what they describe, which node lies on which other, and who shares limits.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "machine/config_internal.h"

#define NODES_DEEP 8u

struct drive *config_find_drive(const struct config_lists *lists, const char *id)
{
    for (unsigned i = 0; i < lists->drive_count && id[0] != '\0'; i++) {
        if (strcmp(lists->drives[i]->values.id, id) == 0) {
            return lists->drives[i];
        }
    }
    return NULL;
}

bool config_drive_taken(const struct drive *drive)
{
    return drive->used_by == drive_used_by_node;
}

/* ---- Adding ---- */

struct drive *config_new_drive(struct config_lists *lists, const struct property *properties, struct error *error)
{
    struct drive *drive = calloc(1, sizeof(*drive));
    if (drive == NULL) {
        error_set(error, "no memory");
        return NULL;
    }
    property_defaults(PROPERTY_LISTS(properties), &drive->values);
    if (!config_append(&lists->drives, &lists->drive_count, drive, error)) {
        free(drive);
        return NULL;
    }
    return drive;
}

static void config_free_drive(struct config_lists *lists, struct drive *drive)
{
    config_drop(lists->drives, &lists->drive_count, drive);
    free(drive);
}

int config_check_drive(struct config_lists *lists, struct drive *drive, struct error *error)
{
    for (unsigned i = 0; i < lists->drive_count; i++) {
        const struct drive *other = lists->drives[i];
        if (other != drive && strcmp(other->values.id, drive->values.id) == 0) {
            error_set(error, drive->node ? "Duplicate nodes with node-name='%s' or Duplicate ID '%s'" : "Duplicate ID '%s'", drive->values.id,
                      drive->values.id);
            config_free_drive(lists, drive);
            return -1;
        }
    }
    return 0;
}

/* `owner` is said in errors. */
static int config_set_drive(const struct keyval_list *list, const struct property *properties, struct drive *drive, const char *owner,
                            struct error *error)
{
    for (unsigned i = 0; i < list->count; i++) {
        if (property_set(PROPERTY_LISTS(properties), &drive->values, owner, list->pairs[i].name, list->pairs[i].value, error) != 0) {
            return -1;
        }
    }
    return drive_resolve(&drive->values, error);
}

/* An id for one that has none, as no other's. */
static void config_name_drive(const struct config_lists *lists, struct drive *drive)
{
    char id[32];
    for (unsigned i = lists->drive_count - 1; drive->values.id[0] == '\0'; i++) {
        snprintf(id, sizeof(id), "drive%u", i);
        if (config_find_drive(lists, id) == NULL) {
            strcpy(drive->values.id, id);
        }
    }
}

struct drive *config_add_drive(struct config_lists *lists, const struct keyval_list *list, struct error *error)
{
    struct drive *drive = config_new_drive(lists, drive_properties, error);
    if (drive == NULL) {
        return NULL;
    }
    int result = config_set_drive(list, drive_properties, drive, "-drive", error);
    if (result == 0 && drive->values.file[0] == '\0') {
        result = error_set(error, "A block device must be specified for \"file\"");
    }
    if (result != 0) {
        config_free_drive(lists, drive);
        return NULL;
    }
    config_name_drive(lists, drive);
    return config_check_drive(lists, drive, error) == 0 ? drive : NULL;
}

/* A node of these holds bytes, and another may lie on it. */
static bool config_is_protocol(const char *driver)
{
    return strcmp(driver, "file") == 0 || strcmp(driver, "nbd") == 0;
}

static int config_check_blockdev(const struct drive_values *values, struct error *error)
{
    const char *missing = values->format[0] == '\0' ? "driver" : NULL;
    if (strcmp(values->format, "throttle") == 0) {
        missing = values->throttle_group[0] == '\0' ? "throttle-group" : values->reference[0] == '\0' ? "file" : NULL;
    }
    if (missing != NULL) {
        return error_set(error, "Parameter '%s' is missing", missing);
    }
    if (values->id[0] == '\0') {
        return error_set(error, "'node-name' must be specified for the root node");
    }
    if ((values->file[0] == '\0') == (values->reference[0] == '\0')) {
        return error_set(error, "Parameter 'file' is missing; name a node or file.filename");
    }
    return 0;
}

struct drive *config_add_blockdev(struct config_lists *lists, const struct keyval_list *list, struct error *error)
{
    struct drive *drive = config_new_drive(lists, blockdev_properties, error);
    if (drive == NULL) {
        return NULL;
    }
    drive->node = true;
    drive->values.interface = DRIVE_IF_NONE;
    if (config_set_drive(list, blockdev_properties, drive, "-blockdev", error) != 0 || config_check_blockdev(&drive->values, error) != 0) {
        config_free_drive(lists, drive);
        return NULL;
    }
    drive->protocol = config_is_protocol(drive->values.format);
    return config_check_drive(lists, drive, error) == 0 ? drive : NULL;
}

/* ---- Nodes on nodes ---- */

/* A node that names another takes over what that says of the file. */
static int config_resolve_node(struct config_lists *lists, struct drive *drive, unsigned depth, struct error *error)
{
    struct drive_values *values = &drive->values;
    struct drive *below = config_find_drive(lists, values->reference);
    if (values->reference[0] == '\0') {
        return 0;
    }
    if (below == NULL || !below->node || depth == NODES_DEEP) {
        return error_set(error, "Cannot find device='' nor node-name='%s'", values->reference);
    }
    if (config_resolve_node(lists, below, depth + 1, error) != 0) {
        return -1;
    }
    const struct drive_values *file = &below->values;
    bool filter = strcmp(values->format, "throttle") == 0;
    if (!below->protocol && !filter) {
        return error_set(error, "the node '%s' is not of driver file or nbd", file->id);
    }
    if (below->used_by != NULL) {
        return error_set(error, "the node '%s' is in use by %s", file->id, below->used_by);
    }
    if (filter) { /* all that the other is, under limits */
        struct drive_values own = *values;
        *values = *file;
        strcpy(values->id, own.id);
        strcpy(values->throttle_group, own.throttle_group);
        drive->protocol = below->protocol;
    } else {
        strcpy(values->file, file->file);
        values->read_only = values->read_only || file->read_only;
        values->cache_direct = values->cache_direct || file->cache_direct;
        values->cache_no_flush = values->cache_no_flush || file->cache_no_flush;
        values->aio = file->aio;
        values->locking = file->locking;
        values->nbd = file->nbd;
    }
    values->reference[0] = '\0';
    below->used_by = drive_used_by_node;
    drive->below = below;
    return 0;
}

/* The limits of a group are those of its object, else of the first drive in it; the drives after the first share with that. */
static int config_find_group(const struct config_lists *lists, struct drive *drive, struct error *error)
{
    const char *group = drive->values.throttle_group;
    if (group[0] == '\0' || config_drive_taken(drive)) {
        return 0;
    }
    const struct object_spec *object = config_find_object(lists, group);
    object = object != NULL && strcmp(object->model->name, OBJECT_THROTTLE_GROUP) == 0 ? object : NULL;
    if (object == NULL && drive->node) {
        return error_set(error, "Throttle group '%s' does not exist", group);
    }
    if (object != NULL) {
        drive->values.throttle = object->values.throttle;
    }
    for (unsigned i = 0; i < lists->drive_count && lists->drives[i] != drive && drive->throttle_with == NULL; i++) {
        struct drive *other = lists->drives[i];
        drive->throttle_with = !config_drive_taken(other) && strcmp(other->values.throttle_group, group) == 0 ? other : NULL;
    }
    return 0;
}

/* What `drive` says of itself, once all others are known. */
static void config_name_format(struct drive *drive)
{
    if (drive->node && config_is_protocol(drive->values.format)) {
        strcpy(drive->values.format, "raw"); /* its bytes are the disk's */
    }
}

static int config_resolve_failed(const struct drive *drive, struct error *error)
{
    return error_prepend(error, "node-name=%s: ", drive->values.id);
}

int config_resolve_drives(struct config_lists *lists, struct error *error)
{
    for (unsigned i = 0; i < lists->drive_count; i++) {
        if (config_resolve_node(lists, lists->drives[i], 0, error) != 0) {
            return config_resolve_failed(lists->drives[i], error);
        }
    }
    for (unsigned i = 0; i < lists->drive_count; i++) {
        config_name_format(lists->drives[i]);
        if (config_find_group(lists, lists->drives[i], error) != 0) {
            return config_resolve_failed(lists->drives[i], error);
        }
    }
    return 0;
}

int config_resolve_drive(struct config_lists *lists, struct drive *drive, struct error *error)
{
    if (config_resolve_node(lists, drive, 0, error) != 0) {
        return -1;
    }
    config_name_format(drive);
    return config_find_group(lists, drive, error);
}

/* ---- Removing ---- */

int config_remove_drive(struct config_lists *lists, struct drive *drive, struct error *error)
{
    if (drive->used_by != NULL) {
        return error_set(error, config_drive_taken(drive) ? "Block device %s is in use" : "Node %s is in use", drive->values.id);
    }
    if (drive->below != NULL) {
        drive->below->used_by = NULL;
    }
    for (unsigned i = 0; i < lists->drive_count; i++) {
        if (lists->drives[i]->throttle_with == drive) {
            lists->drives[i]->throttle_with = NULL; /* they share the limits all the same */
        }
    }
    drive_close(drive);
    config_free_drive(lists, drive);
    return 0;
}
