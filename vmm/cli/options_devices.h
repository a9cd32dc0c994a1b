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

/* The -chardev of that id; NULL: there is none. */
struct chardev_backend *options_find_chardev(struct options *options, const char *id);

/* Once the board is known. */
int options_complete_devices(struct options *options, struct error *error);

#endif
