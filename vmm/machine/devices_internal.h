/* SPDX-License-Identifier: MIT */
/*
 * What the builders of devices share (devices.c, disks.c).
 */
#ifndef KAGE_MACHINE_DEVICES_INTERNAL_H
#define KAGE_MACHINE_DEVICES_INTERNAL_H

#include "disk/ata.h"
#include "machine/machine.h"

/* "-device NAME: what" */
int place_fail(const struct device_spec *spec, const char *what, struct error *error);
/* Puts a function where bus= and addr= say, or into the first free slot. 0, or -1 with `error` filled. */
int place_function(struct machine *machine, const struct device_spec *spec, struct pci_function *function, struct error *error);
/* What the device says goes before what its -drive says. */
struct disk_errors errors_of(struct machine *machine, const struct device_values *values, const struct drive *drive);
struct drive *find_drive(const struct machine_config *config, const char *id);

#endif
