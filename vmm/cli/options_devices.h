/* SPDX-License-Identifier: MIT */
/*
 * -device, -drive, -blockdev, -object: parsed by the tables of machine/devices.h and machine/drive.h. Their arguments wait until all
 * options are read: what they mean depends on the board.
 */
#ifndef KAGE_CLI_OPTIONS_DEVICES_H
#define KAGE_CLI_OPTIONS_DEVICES_H

#include "cli/options.h"

int options_apply_device(struct options *options, const char *argument, struct error *error);
int options_apply_drive(struct options *options, const char *argument, struct error *error);
/* An image without an option: the machine's disk. */
int options_apply_image(struct options *options, const char *word, struct error *error);
int options_apply_blockdev(struct options *options, const char *argument, struct error *error);
int options_apply_object(struct options *options, const char *argument, struct error *error);
int options_apply_chardev(struct options *options, const char *argument, struct error *error);
int options_apply_debugcon(struct options *options, const char *argument, struct error *error);

/* Once the board is known. */
int options_complete_devices(struct options *options, struct error *error);

/* For those that make devices of other options: with defaults, NULL with `error` filled; and what is said of it, 0 or -1 with the entry gone. */
struct device_spec *options_new_device(struct options *options, const struct device_model *model, struct error *error);
int options_claim_device(struct options *options, struct device_spec *spec, struct error *error);

#endif
