/* SPDX-License-Identifier: MIT */
/*
 * Every device that a user can name in -device: one table says what it is called, what can be said of it, which bus it is for, and
 * builds it. -object and -drive feed it.
 */
#ifndef KAGE_MACHINE_DEVICES_H
#define KAGE_MACHINE_DEVICES_H

#include "machine/drive.h"
#include "machine/property.h"
#include "util/error.h"

struct machine;
struct machine_config;
struct chardev;

enum device_bus { DEVICE_BUS_ISA, DEVICE_BUS_PCI, DEVICE_BUS_VIRTIO, DEVICE_BUS_SERIAL, DEVICE_BUS_SCSI, DEVICE_BUS_IDE };

/* What can be said of devices; of each, only what its table names. */
struct device_values {
    char id[PROPERTY_TEXT_MAX], addr[PROPERTY_TEXT_MAX], bus[PROPERTY_TEXT_MAX];
    char iothread[PROPERTY_TEXT_MAX];
    char drive[PROPERTY_TEXT_MAX], serial[PROPERTY_TEXT_MAX], rng[PROPERTY_TEXT_MAX], chardev[PROPERTY_TEXT_MAX];
    char name[PROPERTY_TEXT_MAX], model[PROPERTY_TEXT_MAX];
    /* ISA */
    uint64_t port, bytes;
    /* virtio */
    bool packed, in_order, event_idx, indirect_desc, queue_reset, disable_legacy, disable_modern;
    uint64_t disable_legacy_choice, vectors; /* vectors: UINT64_MAX: one a queue, and one */
    /* disks */
    uint64_t num_queues, queue_size, logical_block_size, physical_block_size, min_io_size, opt_io_size, werror, rerror;
    bool write_cache, config_wce, discard, write_zeroes, share_rw;
    uint64_t bootindex;
    /* rng */
    uint64_t max_bytes, period;
    /* serial */
    uint64_t max_ports, number;
    /* SCSI */
    uint64_t scsi_id, lun, channel;
    /* PCI */
    bool multifunction;
    uint64_t port_number, chassis, slot;
    /* IDE */
    uint64_t unit;
};

struct device_spec;

struct device_model {
    const char *name, *alias; /* alias: of all models that have it, the one that the board has a bus for */
    enum device_bus bus;
    const char *category, *help;
    const struct property *lists[6]; /* ends with NULL */
    bool single;                     /* there can be only one */
    bool transitional, modern;       /* PCI: only one of the interfaces */
    /* Before the board is built: a device that the board makes itself. NULL: none. */
    void (*configure)(struct machine_config *config, const struct device_spec *spec);
    /* Once the board's buses are there. NULL: nothing. */
    int (*build)(struct machine *machine, const struct device_spec *spec, struct error *error);
};

struct device_spec {
    const struct device_model *model;
    struct device_values values;
};

extern const struct device_model device_models[]; /* ends with a name of NULL */

/* `has_pci`: which buses the board has, where an alias must be resolved. */
const struct device_model *device_find(const char *name, bool has_pci);
void device_help(void);
void device_model_help(const struct device_model *model);
void device_spec_init(struct device_spec *spec, const struct device_model *model);

/* ---- -object ---- */

struct object_values {
    char id[PROPERTY_TEXT_MAX], filename[PROPERTY_TEXT_MAX];
    struct block_throttle throttle;
};

struct object_model {
    const char *name, *help;
    const struct property *properties;
};
#define OBJECT_THROTTLE_GROUP "throttle-group"
extern const struct object_model object_models[]; /* ends with a name of NULL */

struct object_spec {
    const struct object_model *model;
    struct object_values values;
};

/* ---- -chardev ---- */

struct chardev_backend {
    char id[PROPERTY_TEXT_MAX], spec[PROPERTY_TEXT_MAX]; /* spec: as chardev_new() takes it */
    struct chardev *chardev;                             /* once opened */
    bool used;
};

/* ---- The user's devices of a machine ---- */

/* In order; on failure devices_fini() undoes what was done. */
int devices_build(struct machine *machine, struct error *error);
/* vCPUs that wait for a device go on: before they are stopped. */
void devices_stop(struct machine *machine);
/* With the vCPUs gone, on the loop's thread. */
void devices_fini(struct machine *machine);

#endif
