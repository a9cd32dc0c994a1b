/* SPDX-License-Identifier: MIT */
#include "machine/config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chardev/chardev.h"
#include "machine/config_internal.h"

/* ---- Lists ---- */

void config_fini(struct config_lists *lists)
{
    for (unsigned i = 0; i < lists->device_count; i++) {
        free(lists->devices[i]);
    }
    for (unsigned i = 0; i < lists->drive_count; i++) {
        drive_close(lists->drives[i]);
        free(lists->drives[i]);
    }
    for (unsigned i = 0; i < lists->object_count; i++) {
        free(lists->objects[i]);
    }
    for (unsigned i = 0; i < lists->chardev_count; i++) {
        chardev_free(lists->chardevs[i]->chardev);
        free(lists->chardevs[i]);
    }
    free(lists->devices);
    free(lists->drives);
    free(lists->objects);
    free(lists->chardevs);
    *lists = (struct config_lists){0};
}

unsigned config_index(const void *entries, unsigned count, const void *entry)
{
    const char *at = entries; /* an array of pointers, whatever they point at */
    for (unsigned i = 0; i < count; i++) {
        if (memcmp(at + i * sizeof(void *), &entry, sizeof(void *)) == 0) {
            return i;
        }
    }
    return count;
}

bool config_append(void *array, unsigned *count, const void *entry, struct error *error)
{
    void *entries;
    memcpy(&entries, array, sizeof(entries));
    char *grown = reallocarray(entries, *count + 1, sizeof(void *));
    if (grown == NULL) {
        error_set(error, "no memory");
        return false;
    }
    memcpy(grown + *count * sizeof(void *), &entry, sizeof(entry));
    memcpy(array, &grown, sizeof(grown));
    (*count)++;
    return true;
}

void config_drop(void *entries, unsigned *count, const void *entry)
{
    char *at = entries;
    unsigned i = config_index(entries, *count, entry);
    if (i < *count) {
        (*count)--;
        memmove(at + i * sizeof(void *), at + (i + 1) * sizeof(void *), (*count - i) * sizeof(void *));
    }
}

/* ---- -device ---- */

struct device_spec *config_find_device(const struct config_lists *lists, const char *id)
{
    for (unsigned i = 0; i < lists->device_count && id[0] != '\0'; i++) {
        if (strcmp(lists->devices[i]->values.id, id) == 0) {
            return lists->devices[i];
        }
    }
    return NULL;
}

const struct device_model *config_find_model(const struct keyval_list *list, bool has_pci, struct error *error)
{
    const char *name = keyval_get(list, "driver");
    if (name == NULL) {
        error_set(error, "Parameter 'driver' is missing");
        return NULL;
    }
    const struct device_model *model = device_find(name, has_pci);
    if (model == NULL) {
        error_set(error, "'%s' is not a valid device model name", name);
    }
    return model;
}

struct device_spec *config_new_device(struct config_lists *lists, const struct device_model *model, struct error *error)
{
    for (unsigned i = 0; i < lists->device_count; i++) {
        if (model->single && lists->devices[i]->model == model) {
            error_set(error, "there can be only one");
            return NULL;
        }
    }
    struct device_spec *spec = malloc(sizeof(*spec));
    if (spec == NULL) {
        error_set(error, "no memory");
        return NULL;
    }
    device_spec_init(spec, model);
    if (!config_append(&lists->devices, &lists->device_count, spec, error)) {
        free(spec);
        return NULL;
    }
    return spec;
}

static void config_free_device(struct config_lists *lists, struct device_spec *spec)
{
    config_drop(lists->devices, &lists->device_count, spec);
    free(spec);
}

/* A port's backend is a -chardev; a debug port may name one in -serial's words. */
static int config_claim_device_chardev(struct config_lists *lists, struct device_spec *spec, struct error *error)
{
    const char *model = spec->model->name, *chardev = spec->values.chardev;
    struct chardev_backend *backend = config_find_chardev(lists, chardev);
    if (chardev[0] == '\0' || strcmp(chardev, "none") == 0) {
        return 0;
    }
    if (backend != NULL && backend->used && !backend->config.mux) {
        return error_set(error, "Property '%s.chardev' can't take value '%s', it's in use", model, chardev);
    }
    if (backend == NULL && spec->model->bus == DEVICE_BUS_SERIAL) {
        return error_set(error, "Property '%s.chardev' can't find value '%s'", model, chardev);
    }
    if (backend == NULL) {
        backend = config_add_short_chardev(lists, model, chardev, error);
        if (backend == NULL) {
            return -1;
        }
        strcpy(spec->values.chardev, backend->config.id);
    }
    backend->used = true;
    return 0;
}

static int config_claim_drive(struct config_lists *lists, struct device_spec *spec, struct error *error)
{
    const char *model = spec->model->name, *id = spec->values.drive;
    struct drive *drive = config_find_drive(lists, id);
    if (id[0] == '\0') {
        return 0;
    }
    if (drive == NULL) {
        return error_set(error, "Property '%s.drive' can't find value '%s'", model, id);
    }
    if (drive->used_by != NULL) {
        return error_set(error, "Property '%s.drive' can't take value '%s', it's in use by %s", model, id, drive->used_by);
    }
    drive->used_by = model;
    return 0;
}

static int config_check_device(const struct config_lists *lists, const struct device_spec *spec, struct error *error)
{
    const struct device_values *values = &spec->values;
    if (values->port + values->bytes > 0x10000) {
        return error_set(error, "its ports end beyond 0xffff");
    }
    for (unsigned i = 0; i < lists->device_count && values->id[0] != '\0'; i++) {
        if (lists->devices[i] != spec && strcmp(lists->devices[i]->values.id, values->id) == 0) {
            return error_set(error, "Duplicate ID '%s' for device", values->id);
        }
    }
    return 0;
}

int config_claim_device(struct config_lists *lists, struct device_spec *spec, struct error *error)
{
    if (config_check_device(lists, spec, error) != 0 || config_claim_drive(lists, spec, error) != 0) {
        config_free_device(lists, spec);
        return -1;
    }
    if (config_claim_device_chardev(lists, spec, error) != 0) {
        struct drive *drive = config_find_drive(lists, spec->values.drive);
        if (drive != NULL) {
            drive->used_by = NULL;
        }
        config_free_device(lists, spec);
        return -1;
    }
    return 0;
}

struct device_spec *config_add_device(struct config_lists *lists, const struct keyval_list *list, bool has_pci, struct error *error)
{
    const struct device_model *model = config_find_model(list, has_pci, error);
    struct device_spec *spec = model != NULL ? config_new_device(lists, model, error) : NULL;
    if (spec == NULL) {
        return NULL;
    }
    for (unsigned i = 0; i < list->count; i++) {
        const struct keyval *pair = &list->pairs[i];
        if (strcmp(pair->name, "driver") != 0 && property_set(model->lists, &spec->values, model->name, pair->name, pair->value, error) != 0) {
            config_free_device(lists, spec);
            return NULL;
        }
    }
    return config_claim_device(lists, spec, error) == 0 ? spec : NULL;
}

void config_remove_device(struct config_lists *lists, struct device_spec *spec)
{
    struct drive *drive = config_find_drive(lists, spec->values.drive);
    struct chardev_backend *backend = config_find_chardev(lists, spec->values.chardev);
    if (drive != NULL) {
        drive->used_by = NULL;
    }
    if (backend != NULL) {
        backend->used = false;
    }
    config_free_device(lists, spec);
}

/* ---- -object ---- */

struct object_spec *config_find_object(const struct config_lists *lists, const char *id)
{
    for (unsigned i = 0; i < lists->object_count; i++) {
        if (strcmp(lists->objects[i]->values.id, id) == 0) {
            return lists->objects[i];
        }
    }
    return NULL;
}

const struct object_model *config_find_object_model(const struct keyval_list *list, struct error *error)
{
    const char *name = keyval_get(list, "qom-type");
    for (const struct object_model *model = object_models; model->name != NULL; model++) {
        if (name != NULL && strcmp(model->name, name) == 0) {
            return model;
        }
    }
    if (name == NULL) {
        error_set(error, "Parameter 'qom-type' is missing");
    } else {
        error_set(error, "invalid object type: %s", name);
    }
    return NULL;
}

static int config_fill_object(const struct config_lists *lists, const struct keyval_list *list, struct object_spec *spec, struct error *error)
{
    const struct object_model *model = spec->model;
    property_defaults(PROPERTY_LISTS(model->properties), &spec->values);
    for (unsigned i = 0; i < list->count; i++) {
        const struct keyval *pair = &list->pairs[i];
        if (strcmp(pair->name, "qom-type") != 0 &&
            property_set(PROPERTY_LISTS(model->properties), &spec->values, model->name, pair->name, pair->value, error) != 0) {
            return -1;
        }
    }
    const char *id = spec->values.id;
    if (id[0] == '\0') {
        return error_set(error, "Parameter 'id' is missing");
    }
    return config_find_object(lists, id) == NULL ? 0
                                                 : error_set(error, "attempt to add duplicate property '%s' to object (type 'container')", id);
}

struct object_spec *config_add_object(struct config_lists *lists, const struct keyval_list *list, struct error *error)
{
    const struct object_model *model = config_find_object_model(list, error);
    if (model == NULL) {
        return NULL;
    }
    struct object_spec *spec = calloc(1, sizeof(*spec));
    if (spec == NULL) {
        error_set(error, "no memory");
        return NULL;
    }
    spec->model = model;
    if (config_fill_object(lists, list, spec, error) != 0 || !config_append(&lists->objects, &lists->object_count, spec, error)) {
        free(spec);
        return NULL;
    }
    return spec;
}

static bool config_object_used(const struct config_lists *lists, const char *id)
{
    for (unsigned i = 0; i < lists->device_count; i++) {
        const struct device_values *values = &lists->devices[i]->values;
        if (strcmp(values->rng, id) == 0 || strcmp(values->iothread, id) == 0) {
            return true;
        }
    }
    for (unsigned i = 0; i < lists->drive_count; i++) {
        if (strcmp(lists->drives[i]->values.throttle_group, id) == 0) {
            return true;
        }
    }
    return false;
}

int config_remove_object(struct config_lists *lists, struct object_spec *object, struct error *error)
{
    if (config_object_used(lists, object->values.id)) {
        return error_set(error, "object '%s' is in use, can not be deleted", object->values.id);
    }
    config_drop(lists->objects, &lists->object_count, object);
    free(object);
    return 0;
}

/* ---- -chardev ---- */

struct chardev_backend *config_find_chardev(const struct config_lists *lists, const char *id)
{
    for (unsigned i = 0; i < lists->chardev_count; i++) {
        if (strcmp(lists->chardevs[i]->config.id, id) == 0) {
            return lists->chardevs[i];
        }
    }
    return NULL;
}

/* Takes the entry over, or frees it. */
static struct chardev_backend *config_keep_chardev(struct config_lists *lists, struct chardev_backend *backend, struct error *error)
{
    bool keep = config_find_chardev(lists, backend->config.id) == NULL;
    if (!keep) {
        error_set(error, "Chardev with id '%s' already exists", backend->config.id);
    }
    for (unsigned i = 0; i < lists->chardev_count && keep; i++) {
        if (chardev_config_is_stdio(&backend->config) && chardev_config_is_stdio(&lists->chardevs[i]->config)) {
            keep = false;
            error_set(error, "cannot use stdio by multiple character devices: '%s' has it", lists->chardevs[i]->config.id);
        }
    }
    if (!keep || !config_append(&lists->chardevs, &lists->chardev_count, backend, error)) {
        free(backend);
        return NULL;
    }
    return backend;
}

static struct chardev_backend *config_alloc_chardev(struct error *error)
{
    struct chardev_backend *backend = calloc(1, sizeof(*backend));
    if (backend == NULL) {
        error_set(error, "no memory");
    }
    return backend;
}

struct chardev_backend *config_add_chardev(struct config_lists *lists, const struct keyval_list *list, struct error *error)
{
    bool qmp = keyval_get(list, "backend.type") != NULL;
    struct chardev_backend *backend = config_alloc_chardev(error);
    if (backend == NULL) {
        return NULL;
    }
    if ((qmp ? chardev_config_read_qmp : chardev_config_read)(&backend->config, list, error) != 0) {
        free(backend);
        return NULL;
    }
    return config_keep_chardev(lists, backend, error);
}

struct chardev_backend *config_add_short_chardev(struct config_lists *lists, const char *id, const char *spec, struct error *error)
{
    struct chardev_backend *backend = config_alloc_chardev(error);
    if (backend == NULL) {
        return NULL;
    }
    if (chardev_config_parse(&backend->config, spec, error) != 0) {
        free(backend);
        return NULL;
    }
    strcpy(backend->config.id, id); /* ours: short */
    return config_keep_chardev(lists, backend, error);
}

int config_claim_chardev(struct chardev_backend *backend, struct error *error)
{
    if (backend->used && !backend->config.mux) {
        return error_set(error, "Device '%s' is in use", backend->config.id);
    }
    backend->used = true;
    return 0;
}

int config_remove_chardev(struct config_lists *lists, struct chardev_backend *backend, struct error *error)
{
    if (backend->chardev != NULL ? chardev_is_claimed(backend->chardev) : backend->used) {
        return error_set(error, "Chardev '%s' is busy", backend->config.id);
    }
    config_drop(lists->chardevs, &lists->chardev_count, backend);
    chardev_free(backend->chardev);
    free(backend);
    return 0;
}
