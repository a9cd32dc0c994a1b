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
/* Where addr= says, or the first free slot; -1 with `error` filled. */
int place_find_devfn(const struct machine *machine, const struct device_spec *spec, struct error *error);
struct drive *find_drive(const struct machine_config *config, const char *id);

#endif
