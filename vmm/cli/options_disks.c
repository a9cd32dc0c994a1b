/* SPDX-License-Identifier: MIT */
/*
 * The machine's own disks (-drive if=ide, -hda to -hdd, -cdrom), and -boot.
 */
#include "cli/options_disks.h"

#include <stdio.h>
#include <string.h>

#include "util/keyval.h"
#include "cli/options_devices.h"
#include "machine/machine.h"

/* ---- -hda, -cdrom ---- */

static int options_add_image(struct options *options, const char *what, const char *file, unsigned index, bool cdrom, struct error *error)
{
    if (strlen(file) >= PROPERTY_TEXT_MAX) {
        return error_set(error, "%s %s: the name is too long", what, file);
    }
    struct drive *drive = config_new_drive(&options->lists, drive_properties, error);
    if (drive == NULL) {
        return error_prepend(error, "%s: ", what);
    }
    strcpy(drive->values.file, file);
    snprintf(drive->values.id, sizeof(drive->values.id), "%s%u", cdrom ? "cdrom" : "hd", index);
    drive->values.index = index;
    drive->values.media = cdrom ? DRIVE_MEDIA_CDROM : DRIVE_MEDIA_DISK;
    drive->values.raw_unless_other = !cdrom;
    return config_check_drive(&options->lists, drive, error) == 0 ? 0 : error_prepend(error, "%s: ", what);
}

int options_apply_hda(struct options *options, const char *argument, struct error *error)
{
    return options_add_image(options, "-hda", argument, 0, false, error);
}
int options_apply_hdb(struct options *options, const char *argument, struct error *error)
{
    return options_add_image(options, "-hdb", argument, 1, false, error);
}
int options_apply_hdc(struct options *options, const char *argument, struct error *error)
{
    return options_add_image(options, "-hdc", argument, 2, false, error);
}
int options_apply_hdd(struct options *options, const char *argument, struct error *error)
{
    return options_add_image(options, "-hdd", argument, 3, false, error);
}
int options_apply_cdrom(struct options *options, const char *argument, struct error *error)
{
    return options_add_image(options, "-cdrom", argument, 2, true, error);
}

/* ---- -drive if=ide ---- */

static bool options_is_ide(const struct drive *drive, const struct board *board)
{
    uint64_t interface = drive->values.interface;
    return !drive->node && (interface == DRIVE_IF_IDE || (interface == DRIVE_IF_DEFAULT && board->ide_units != 0));
}

/* The place that a drive names, as a number over all buses; DRIVE_PLACE_NEXT: none. */
static uint64_t options_ide_place(const struct drive *drive, unsigned units)
{
    const struct drive_values *values = &drive->values;
    if (values->index != DRIVE_PLACE_NEXT) {
        return values->index;
    }
    bool said = values->bus != DRIVE_PLACE_NEXT || values->unit != DRIVE_PLACE_NEXT;
    return said ? (values->bus != DRIVE_PLACE_NEXT ? values->bus : 0) * units + (values->unit != DRIVE_PLACE_NEXT ? values->unit : 0) : DRIVE_PLACE_NEXT;
}

static int options_add_ide(struct options *options, struct drive *drive, uint64_t place, unsigned units, struct error *error)
{
    bool cdrom = drive->values.media == DRIVE_MEDIA_CDROM;
    struct device_spec *spec = options_new_device(options, device_find(cdrom ? "ide-cd" : "ide-hd", true), error);
    if (spec == NULL) {
        return -1;
    }
    strcpy(spec->values.drive, drive->values.id);
    snprintf(spec->values.bus, sizeof(spec->values.bus), "ide.%u", (unsigned)(place / units));
    spec->values.unit = place % units;
    return options_claim_device(options, spec, error);
}

int options_add_ide_drives(struct options *options, struct error *error)
{
    const struct board *board = machine_find_board(options->machine);
    bool taken[DISKS_IDE_PLACES_MAX] = {false};
    for (unsigned pass = 0; pass < 2; pass++) { /* those that name a place first */
        for (unsigned i = 0; i < options->lists.drive_count; i++) {
            struct drive *drive = options->lists.drives[i];
            if (!options_is_ide(drive, board)) {
                continue;
            }
            if (board->ide_units == 0) {
                return error_set(error, "-drive file=%s: machine type does not support if=ide,bus=0,unit=0", drive->values.file);
            }
            uint64_t place = options_ide_place(drive, board->ide_units);
            if ((place == DRIVE_PLACE_NEXT) != (pass == 1)) {
                continue;
            }
            for (unsigned next = 0; place == DRIVE_PLACE_NEXT && next < board->ide_places; next++) {
                place = taken[next] ? place : next;
            }
            if (place >= board->ide_places) {
                return error_set(error, "-drive file=%s: the machine has %u places for disks of its own", drive->values.file, board->ide_places);
            }
            if (taken[place]) {
                return error_set(error, "-drive file=%s: drive with bus=%u, unit=%u (index=%u) exists", drive->values.file,
                                 (unsigned)(place / board->ide_units), (unsigned)(place % board->ide_units), (unsigned)place);
            }
            taken[place] = true;
            if (options_add_ide(options, drive, place, board->ide_units, error) != 0) {
                return -1;
            }
        }
    }
    return 0;
}

/* ---- -boot ---- */

#define AT(field) offsetof(struct options_boot, field)

static const struct property boot_properties[] = {
    {"order", PROPERTY_TEXT, AT(order), "cdn", "what firmware boots from, in turn: a floppy, c disk, d CD-ROM, n network", 0, 0, NULL},
    {"once", PROPERTY_TEXT, AT(once), NULL, "the same, until the first reset", 0, 0, NULL},
    {"menu", PROPERTY_BOOL, AT(menu), "off", "firmware asks", 0, 0, NULL},
    {"strict", PROPERTY_BOOL, AT(strict), "off", "only from what has a bootindex", 0, 0, NULL},
    {"splash-time", PROPERTY_NUMBER, AT(menu_wait), "0xffffffff", "milliseconds that the menu waits for a key", 0, 0xffffffff, NULL},
    {"reboot-timeout", PROPERTY_NUMBER, AT(fail_wait), "0xffffffff", "milliseconds until a reset, where nothing boots", 0, 0xffffffff, NULL},
    {NULL, 0, 0, NULL, NULL, 0, 0, NULL},
};

void options_default_boot(struct options *options)
{
    property_defaults(PROPERTY_LISTS(boot_properties), &options->boot);
}

static int options_check_order(const char *order, const char *what, struct error *error)
{
    for (const char *letter = order; *letter != '\0'; letter++) {
        if (*letter < 'a' || *letter > 'p') {
            return error_set(error, "-boot %s=%s: Invalid boot device '%c'", what, order, *letter);
        }
        if (strchr(order, *letter) != letter) {
            return error_set(error, "-boot %s=%s: Boot device '%c' was given twice", what, order, *letter);
        }
    }
    return 0;
}

int options_apply_boot(struct options *options, const char *argument, struct error *error)
{
    struct keyval_list list;
    if (keyval_parse(&list, "-boot", "order", argument, error) != 0) {
        return -1;
    }
    if (list.help) {
        puts("boot options:");
        property_help(PROPERTY_LISTS(boot_properties));
        options->action = OPTIONS_DONE;
        return 0;
    }
    for (unsigned i = 0; i < list.count; i++) {
        if (property_set(PROPERTY_LISTS(boot_properties), &options->boot, "-boot", list.pairs[i].name, list.pairs[i].value, error) != 0) {
            return -1;
        }
    }
    return options_check_order(options->boot.order, "order", error) != 0 ? -1 : options_check_order(options->boot.once, "once", error);
}
