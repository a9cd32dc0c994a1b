/* SPDX-License-Identifier: MIT */
/*
 * Options of the machine's own disks and of what it boots from. Each returns 0, or -1 with `error` filled.
 */
#ifndef KAGE_CLI_OPTIONS_DISKS_H
#define KAGE_CLI_OPTIONS_DISKS_H

#include "cli/options.h"

int options_apply_hda(struct options *options, const char *argument, struct error *error);
int options_apply_hdb(struct options *options, const char *argument, struct error *error);
int options_apply_hdc(struct options *options, const char *argument, struct error *error);
int options_apply_hdd(struct options *options, const char *argument, struct error *error);
int options_apply_cdrom(struct options *options, const char *argument, struct error *error);
int options_apply_boot(struct options *options, const char *argument, struct error *error);
void options_default_boot(struct options *options);
/* Devices for the drives of the board's own controller; before those of -device, which take what is left. */
int options_add_ide_drives(struct options *options, struct error *error);

#endif
