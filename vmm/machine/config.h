/* SPDX-License-Identifier: MIT */
/*
 * What a user configures in parts that may come and go while a machine runs: devices, drives, objects, character backends. Options and QMP
 * add and remove them by the same functions, which say what is wrong in QEMU's words (an option puts its own name before them).
 *
 * Entries are the heap's and never move: who uses one keeps its address. All of it belongs to the main loop's thread.
 */
#ifndef KAGE_MACHINE_CONFIG_H
#define KAGE_MACHINE_CONFIG_H

#include "machine/devices.h"
#include "util/keyval.h"

struct loop;

struct config_lists {
    unsigned device_count, drive_count, object_count, chardev_count;
    struct device_spec **devices;
    struct drive **drives;
    struct object_spec **objects;
    struct chardev_backend **chardevs;
};

/* Frees the entries; nobody uses one. Images and backends that are open are closed. */
void config_fini(struct config_lists *lists);

/*
 * Each config_add_…() takes the parts of one argument (keyval_parse(), keyval_from_json()), and gives the new entry, or NULL with `error`
 * filled and nothing changed. Each config_remove_…() gives 0, or -1: something uses it.
 */

/* -device, device_add. The model that "driver" names; `has_pci`: the board's buses, where it is an alias. NULL with `error` filled. */
const struct device_model *config_find_model(const struct keyval_list *list, bool has_pci, struct error *error);
struct device_spec *config_add_device(struct config_lists *lists, const struct keyval_list *list, bool has_pci, struct error *error);
/* In two steps, for devices of other options: defaults alone; once values are set, what they claim (drive=, chardev=), or the entry goes. */
struct device_spec *config_new_device(struct config_lists *lists, const struct device_model *model, struct error *error);
int config_claim_device(struct config_lists *lists, struct device_spec *spec, struct error *error);
/* What it has claimed is free again. No machine has it any more. */
void config_remove_device(struct config_lists *lists, struct device_spec *spec);
struct device_spec *config_find_device(const struct config_lists *lists, const char *id);

/* -drive and -blockdev: described, not opened; other nodes and groups are looked for by config_resolve_drives(), or _drive() of one. */
struct drive *config_add_drive(struct config_lists *lists, const struct keyval_list *list, struct error *error);
struct drive *config_add_blockdev(struct config_lists *lists, const struct keyval_list *list, struct error *error);
struct drive *config_new_drive(struct config_lists *lists, const struct property *properties, struct error *error);
/* Its id must be its own; else the entry goes. */
int config_check_drive(struct config_lists *lists, struct drive *drive, struct error *error);
int config_resolve_drives(struct config_lists *lists, struct error *error);
int config_resolve_drive(struct config_lists *lists, struct drive *drive, struct error *error);
int config_remove_drive(struct config_lists *lists, struct drive *drive, struct error *error);
/* NULL: there is none. */
struct drive *config_find_drive(const struct config_lists *lists, const char *id);
/* Another node lies on it, and has opened its image. */
bool config_drive_taken(const struct drive *drive);

/* -object, object-add */
struct object_spec *config_add_object(struct config_lists *lists, const struct keyval_list *list, struct error *error);
const struct object_model *config_find_object_model(const struct keyval_list *list, struct error *error);
int config_remove_object(struct config_lists *lists, struct object_spec *object, struct error *error);
struct object_spec *config_find_object(const struct config_lists *lists, const char *id);

/* -chardev, chardev-add: described, not opened. */
struct chardev_backend *config_add_chardev(struct config_lists *lists, const struct keyval_list *list, struct error *error);
int config_remove_chardev(struct config_lists *lists, struct chardev_backend *backend, struct error *error);
struct chardev_backend *config_find_chardev(const struct config_lists *lists, const char *id);

#endif
