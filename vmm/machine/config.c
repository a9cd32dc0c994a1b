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
    struct device_spec **grown = reallocarray(lists->devices, lists->device_count + 1, sizeof(grown[0]));
    struct device_spec *spec = grown != NULL ? malloc(sizeof(*spec)) : NULL;
    lists->devices = grown != NULL ? grown : lists->devices;
    if (spec == NULL) {
        error_set(error, "no memory");
        return NULL;
    }
    device_spec_init(spec, model);
    lists->devices[lists->device_count++] = spec;
    return spec;
}

static void config_free_device(struct config_lists *lists, struct device_spec *spec)
{
    config_drop(lists->devices, &lists->device_count, spec);
    free(spec);
}

static int config_claim_chardev(struct config_lists *lists, struct device_spec *spec, struct error *error)
{
    const char *model = spec->model->name, *chardev = spec->values.chardev;
    struct chardev_backend *backend = config_find_chardev(lists, chardev);
    if (backend != NULL && backend->used) {
        return error_set(error, "Property '%s.chardev' can't take value '%s', it's in use", model, chardev);
    }
    if (spec->model->bus == DEVICE_BUS_SERIAL && chardev[0] != '\0' && backend == NULL) {
        return error_set(error, "Property '%s.chardev' can't find value '%s'", model, chardev);
    }
    if (backend != NULL) {
        backend->used = true;
    }
    if (spec->model->bus == DEVICE_BUS_SERIAL) {
        return 0;
    }
    if (backend != NULL) {
        strcpy(spec->values.chardev, backend->spec); /* it is opened as the device's */
    }
    return chardev[0] == '\0' || strcmp(chardev, "none") == 0 || chardev_spec_valid(chardev)
               ? 0
               : error_set(error, "%s: no such backend; stdio, null, none, file:PATH, pty and unix:PATH are there", chardev);
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
    if (config_claim_chardev(lists, spec, error) != 0) {
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
    struct object_spec **grown = reallocarray(lists->objects, lists->object_count + 1, sizeof(grown[0]));
    struct object_spec *spec = grown != NULL ? calloc(1, sizeof(*spec)) : NULL;
    lists->objects = grown != NULL ? grown : lists->objects;
    if (spec == NULL) {
        error_set(error, "no memory");
        return NULL;
    }
    spec->model = model;
    if (config_fill_object(lists, list, spec, error) != 0) {
        free(spec);
        return NULL;
    }
    lists->objects[lists->object_count++] = spec;
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
        if (strcmp(lists->chardevs[i]->id, id) == 0) {
            return lists->chardevs[i];
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

static const char *const chardev_known[] = {"backend", "id", "path", "mux", "signal", "server", "wait"};

static int config_fill_chardev(const struct config_lists *lists, const struct keyval_list *list, struct chardev_backend *backend, struct error *error)
{
    const char *name = keyval_get(list, "backend"), *id = keyval_get(list, "id"), *mux = keyval_get(list, "mux");
    const char *server = keyval_get(list, "server"), *wait = keyval_get(list, "wait");
    unsigned kind = 0;
    while (kind < sizeof(chardev_kinds) / sizeof(chardev_kinds[0]) && (name == NULL || strcmp(chardev_kinds[kind].name, name) != 0)) {
        kind++;
    }
    if (kind == sizeof(chardev_kinds) / sizeof(chardev_kinds[0])) {
        return error_set(error, "'%s' is not a valid char driver name; null, stdio, file, pty and socket are there", name != NULL ? name : "");
    }
    if (id == NULL) {
        return error_set(error, "chardev: no id specified");
    }
    for (unsigned i = 0; i < list->count; i++) {
        bool known = false;
        for (unsigned k = 0; k < sizeof(chardev_known) / sizeof(chardev_known[0]); k++) {
            known = known || strcmp(list->pairs[i].name, chardev_known[k]) == 0;
        }
        if (!known) {
            return error_set(error, "Invalid parameter '%s'", list->pairs[i].name);
        }
    }
    const char *value = chardev_kinds[kind].argument != NULL ? keyval_get(list, chardev_kinds[kind].argument) : "";
    if (value == NULL) {
        return error_set(error, "chardev: %s: no %s given", name, chardev_kinds[kind].argument);
    }
    if (config_find_chardev(lists, id) != NULL) {
        return error_set(error, "Chardev with id '%s' already exists", id);
    }
    int length = snprintf(backend->spec, sizeof(backend->spec), "%s%s%s%s%s%s%s", mux != NULL && strcmp(mux, "on") == 0 ? "mon:" : "",
                          chardev_kinds[kind].spec, value, server != NULL ? ",server=" : "", server != NULL ? server : "", wait != NULL ? ",wait=" : "",
                          wait != NULL ? wait : "");
    snprintf(backend->id, sizeof(backend->id), "%s", id);
    return length > 0 && (size_t)length < sizeof(backend->spec) && chardev_spec_valid(backend->spec) ? 0 : error_set(error, "no such backend");
}

struct chardev_backend *config_add_chardev(struct config_lists *lists, const struct keyval_list *list, struct error *error)
{
    struct chardev_backend **grown = reallocarray(lists->chardevs, lists->chardev_count + 1, sizeof(grown[0]));
    struct chardev_backend *backend = grown != NULL ? calloc(1, sizeof(*backend)) : NULL;
    lists->chardevs = grown != NULL ? grown : lists->chardevs;
    if (backend == NULL) {
        error_set(error, "no memory");
        return NULL;
    }
    if (config_fill_chardev(lists, list, backend, error) != 0) {
        free(backend);
        return NULL;
    }
    lists->chardevs[lists->chardev_count++] = backend;
    return backend;
}

int config_remove_chardev(struct config_lists *lists, struct chardev_backend *backend, struct error *error)
{
    if (backend->used) {
        return error_set(error, "Chardev '%s' is busy", backend->id);
    }
    config_drop(lists->chardevs, &lists->chardev_count, backend);
    chardev_free(backend->chardev);
    free(backend);
    return 0;
}
