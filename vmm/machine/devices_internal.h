/* SPDX-License-Identifier: MIT */
/*
 * Builders of devices say what is wrong in QEMU's words; who calls them puts "-device NAME: " before it where an option is meant.
 *
 * What those who build devices share (devices.c, devices_virtio.c, disks.c, place.c).
 */
#ifndef KAGE_MACHINE_DEVICES_INTERNAL_H
#define KAGE_MACHINE_DEVICES_INTERNAL_H

#include "disk/ata.h"
#include "machine/machine.h"

enum { ON_OFF_AUTO_AUTO, ON_OFF_AUTO_ON, ON_OFF_AUTO_OFF };

/* ---- devices.c ---- */

/* Another device of the machine; it takes over `self`, on failure (NULL, with `error` filled) too. spec NULL: the board's. */
struct machine_device *device_new(struct machine *machine, const struct device_spec *spec, void *self, void (*release)(void *self),
                                  struct error *error);

/* ---- place.c ---- */

/* Puts a function where bus= and addr= say, or into the first free slot. 0, or -1 with `error` filled. */
int place_function(struct machine *machine, const struct device_spec *spec, struct pci_function *function, struct error *error);
/* A virtio device on the bus of its model; it is the machine's from here on, on failure too. */
int place_virtio(struct machine *machine, const struct device_spec *spec, struct virtio_device *virtio, void *self, void (*release)(void *self),
                 struct error *error);
int build_root_port(struct machine *machine, const struct device_spec *spec, struct error *error);

/* ---- devices_virtio.c ---- */

int build_blk(struct machine *machine, const struct device_spec *spec, struct error *error);
int build_rng(struct machine *machine, const struct device_spec *spec, struct error *error);
int build_scsi(struct machine *machine, const struct device_spec *spec, struct error *error);
int build_scsi_disk(struct machine *machine, const struct device_spec *spec, struct error *error);
int build_console(struct machine *machine, const struct device_spec *spec, struct error *error);
int build_port(struct machine *machine, const struct device_spec *spec, struct error *error);

/* ---- disks.c ---- */

/* What the device says goes before what its -drive says. */
struct disk_errors errors_of(struct machine *machine, const struct device_values *values, const struct drive *drive);

#endif
