/* SPDX-License-Identifier: MIT */
#include "machine/disks.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "disk/ahci.h"
#include "disk/ide.h"
#include "machine/board.h"
#include "machine/devices_internal.h"

#define IDE_PORTS(channel) ((channel) == 0 ? 0x1f0u : 0x170u)
#define IDE_CONTROL_PORT(channel) ((channel) == 0 ? 0x3f6u : 0x376u)
#define IDE_IRQ 14u
#define UNIT_ANY 0xffffffffu

/* ---- Drives ---- */

static enum disk_error_action error_action(uint64_t of_device, uint64_t of_drive, enum disk_error_action otherwise)
{
    static const enum disk_error_action actions[] = {
        [DRIVE_ERROR_REPORT] = DISK_ERROR_REPORT,
        [DRIVE_ERROR_IGNORE] = DISK_ERROR_IGNORE,
        [DRIVE_ERROR_STOP] = DISK_ERROR_STOP,
        [DRIVE_ERROR_ENOSPC] = DISK_ERROR_ENOSPC,
    };
    uint64_t said = of_device != DRIVE_ERROR_AUTO ? of_device : of_drive;
    return said != DRIVE_ERROR_AUTO ? actions[said] : otherwise;
}

struct disk_errors errors_of(struct machine *machine, const struct device_values *values, const struct drive *drive)
{
    return (struct disk_errors){
        .werror = error_action(values->werror, drive->values.werror, DISK_ERROR_ENOSPC),
        .rerror = error_action(values->rerror, drive->values.rerror, DISK_ERROR_REPORT),
        .run = &machine->run.control,
    };
}

/* ---- Controllers ---- */

static void release_ide(void *self)
{
    ide_free(self);
}
static void stop_ide(void *self)
{
    ide_stop(self);
}
static void release_ahci(void *self)
{
    ahci_free(self);
}
static void stop_ahci(void *self)
{
    ahci_stop(self);
}

/* A kind of controller: what its buses are called, how many there are, and drives on each. */
static const struct disk_controller {
    void (*release)(void *self), (*stop)(void *self);
    unsigned buses, units;
} disk_controllers[] = {
    {release_ide, stop_ide, IDE_CHANNELS, IDE_UNITS},
    {release_ahci, stop_ahci, AHCI_PORTS, 1},
};

static const struct disk_controller *disks_kind(const struct machine_device *device)
{
    for (unsigned i = 0; i < sizeof(disk_controllers) / sizeof(disk_controllers[0]); i++) {
        if (disk_controllers[i].release == device->release) {
            return &disk_controllers[i];
        }
    }
    return NULL;
}

/* Where the user says (`spec`), or the board. Takes over `self`, on failure too. */
static int disks_place(struct machine *machine, const struct device_spec *spec, unsigned kind, void *self, struct pci_function *function, uint8_t devfn,
                       struct error *error)
{
    struct machine_device *device = device_new(machine, spec, self, disk_controllers[kind].release, error);
    if (device == NULL) {
        return -1;
    }
    device->stop = disk_controllers[kind].stop;
    if (spec != NULL && place_function(machine, spec, function, error) != 0) {
        return -1;
    }
    if (spec == NULL) {
        pci_function_add(machine->pci, devfn, function);
    }
    device->function = function;
    return 0;
}

int disks_add_ide(struct machine *machine, uint8_t devfn, struct error *error)
{
    const struct irq irqs[IDE_CHANNELS] = {board_irq(machine, IDE_IRQ), board_irq(machine, IDE_IRQ + 1)};
    struct ide *ide = ide_new(&machine->run.control, &machine->dma, irqs, error);
    if (ide == NULL) {
        return -1;
    }
    if (disks_place(machine, NULL, 0, ide, &ide->function, devfn, error) != 0) {
        return -1;
    }
    for (unsigned i = 0; i < IDE_CHANNELS; i++) {
        if (board_place(machine, (uint16_t)IDE_PORTS(i), IDE_COMMAND_PORTS, &ide_command_ops, &ide->channels[i], error) != 0 ||
            board_place(machine, (uint16_t)IDE_CONTROL_PORT(i), 1, &ide_control_ops, &ide->channels[i], error) != 0) {
            return -1;
        }
    }
    return 0;
}

static int disks_new_ahci(struct machine *machine, const struct device_spec *spec, uint8_t devfn, struct error *error)
{
    struct ahci *ahci = ahci_new(&machine->run.control, &machine->dma, &machine->events.msi, error);
    return ahci != NULL ? disks_place(machine, spec, 1, ahci, &ahci->function, devfn, error) : -1;
}

int disks_add_ahci(struct machine *machine, uint8_t devfn, struct error *error)
{
    return disks_new_ahci(machine, NULL, devfn, error);
}

int build_ahci(struct machine *machine, const struct device_spec *spec, struct error *error)
{
    return disks_new_ahci(machine, spec, 0, error);
}

/* ---- Drives ---- */

static bool disks_taken(const struct machine_device *device, unsigned bus, unsigned unit)
{
    if (device->release == release_ide) {
        const struct ide *ide = device->self;
        return ide->channels[bus].units[unit].present;
    }
    const struct ahci *ahci = device->self;
    return ahci->ports[bus].present;
}

/* "ID.N"; of a board's own controller "ide.N". The number, or -1: it is another's. */
static int disks_bus_number(const struct machine_device *device, const char *bus)
{
    const char *id = device->spec != NULL ? device->spec->values.id : "ide";
    size_t length = strlen(id);
    char *end;
    if (length == 0 || strncmp(bus, id, length) != 0 || bus[length] != '.') {
        return -1;
    }
    unsigned long number = strtoul(bus + length + 1, &end, 10);
    return end != bus + length + 1 && *end == '\0' && number < disks_kind(device)->buses ? (int)number : -1;
}

struct disk_place {
    const struct machine_device *device;
    unsigned bus, unit;
};

/* The first free place of those that `spec` allows. */
static int disks_find_place(const struct machine *machine, const struct device_spec *spec, struct disk_place *place, struct error *error)
{
    const char *name = spec->values.bus;
    const char *model = spec->model->name;
    uint64_t wanted = spec->values.unit;
    bool any = false, named = false;
    for (unsigned i = 0; i < machine->device_count; i++) {
        const struct machine_device *device = machine->devices[i];
        const struct disk_controller *kind = disks_kind(device);
        for (unsigned slot = 0; kind != NULL && slot < kind->buses * kind->units; slot++) {
            unsigned bus = slot / kind->units, unit = slot % kind->units;
            any = true;
            if (name[0] != '\0' && disks_bus_number(device, name) != (int)bus) {
                continue;
            }
            named = true;
            if (wanted != UNIT_ANY && wanted >= kind->units && name[0] != '\0') {
                return error_set(error, "Can't create IDE unit %" PRIu64 ", bus supports only %u units", wanted, kind->units);
            }
            if ((wanted == UNIT_ANY || wanted == unit) && !disks_taken(device, bus, unit)) {
                *place = (struct disk_place){device, bus, unit};
                return 0;
            }
        }
    }
    if (!any) {
        return error_set(error, "No 'IDE' bus found for device '%s'", model);
    }
    if (!named) {
        return error_set(error, "Bus '%s' not found", name);
    }
    return wanted != UNIT_ANY ? error_set(error, "IDE unit %" PRIu64 " is in use", wanted)
                              : error_set(error, "Bus '%s' is full", name[0] != '\0' ? name : "ide.0");
}

static int disks_add_to(const struct disk_place *place, const struct ata_config *config)
{
    return place->device->release == release_ide ? ide_add(place->device->self, place->bus, place->unit, config)
                                                 : ahci_add(place->device->self, place->bus, config);
}

int build_ide_drive(struct machine *machine, const struct device_spec *spec, struct error *error)
{
    const struct device_values *values = &spec->values;
    const struct drive *drive = config_find_drive(machine->config->lists, values->drive);
    struct ata_config config = {.cdrom = strcmp(spec->model->name, "ide-cd") == 0, .write_cache = true};
    struct disk_place place = {0};
    char rest[48];
    if (disks_find_place(machine, spec, &place, error) != 0) {
        return -1;
    }
    if (values->drive[0] == '\0' && !config.cdrom) {
        return error_set(error, "drive property not set");
    }
    if (strlen(values->serial) > ATA_SERIAL_BYTES || strlen(values->model) > ATA_MODEL_BYTES) {
        return error_set(error, "a serial of more than 20 characters, or a model of more than 40");
    }
    if (drive != NULL) {
        config.block = drive->block;
        config.write_cache = values->write_cache && drive->values.cache != DRIVE_CACHE_WRITETHROUGH && drive->values.cache != DRIVE_CACHE_DIRECTSYNC;
        config.errors = errors_of(machine, values, drive);
    }
    config.ncq = place.device->release == release_ahci;
    strcpy(config.model, values->model);
    strcpy(config.serial, values->serial);
    if (config.serial[0] == '\0') {
        snprintf(config.serial, sizeof(config.serial), "KG%05u", place.bus * disks_kind(place.device)->units + place.unit + 1);
    }
    if (disks_add_to(&place, &config) != 0) {
        return error_set(error, "%s", config.cdrom ? "the image is smaller than a sector of 2048 bytes" : "the image is smaller than a sector");
    }
    snprintf(rest, sizeof(rest), "/drive@%u/disk@%u", place.bus, place.unit);
    return disks_set_bootindex(machine, spec, place.device->function, config.ncq ? "pci8086,2922" : "ide", rest, error);
}

/* ---- bootindex ---- */

static void disks_format_place(char text[8], uint8_t devfn)
{
    snprintf(text, 8, (devfn & 7) != 0 ? "%x,%x" : "%x", (unsigned)devfn >> 3, devfn & 7u);
}

int disks_set_bootindex(struct machine *machine, const struct device_spec *spec, const struct pci_function *function, const char *kind,
                        const char *rest, struct error *error)
{
    uint64_t index = spec->values.bootindex;
    if (index == DISKS_NO_BOOTINDEX || function == NULL) {
        return 0; /* a board without PCI has no firmware that would ask */
    }
    for (unsigned i = 0; i < machine->boot_entry_count; i++) {
        if (machine->boot_entries[i].index == index) {
            return error_set(error, "The bootindex %" PRIu64 " has already been used", index);
        }
    }
    struct boot_entry *grown = reallocarray(machine->boot_entries, machine->boot_entry_count + 1, sizeof(grown[0]));
    if (grown == NULL) {
        return error_set(error, "no memory");
    }
    machine->boot_entries = grown;
    struct boot_entry *entry = &machine->boot_entries[machine->boot_entry_count++];
    char place[8], bridge_place[8] = "";
    const struct pci_function *bridge = function->bus->bridge;
    disks_format_place(place, function->devfn);
    if (bridge != NULL) {
        disks_format_place(bridge_place, bridge->devfn);
    }
    snprintf(entry->path, sizeof(entry->path), "/pci@i0cf8%s%s/%s@%s%s", bridge != NULL ? "/pci-bridge@" : "", bridge_place, kind, place, rest);
    entry->index = index;
    return 0;
}

static int disks_compare(const void *a, const void *b)
{
    const struct boot_entry *x = a, *y = b;
    return x->index < y->index ? -1 : x->index > y->index;
}

char *disks_bootorder(const struct machine *machine, const char *first)
{
    unsigned count = machine->boot_entry_count;
    size_t room = (count + 2) * DISKS_BOOT_PATH_MAX, used = 0;
    char *text = calloc(1, room);
    struct boot_entry *entries = calloc(count + 1, sizeof(entries[0]));
    if (text == NULL || entries == NULL) {
        free(text);
        free(entries);
        return NULL;
    }
    for (unsigned i = 0; i < count; i++) {
        entries[i] = machine->boot_entries[i];
    }
    qsort(entries, count, sizeof(entries[0]), disks_compare);
    for (unsigned i = 0; i <= count + 1; i++) {
        const char *line = i == 0 ? first : i <= count ? entries[i - 1].path : machine->config->boot_strict ? "HALT" : NULL;
        if (line != NULL) {
            used += (size_t)snprintf(text + used, room - used, "%s%s", used != 0 ? "\n" : "", line);
        }
    }
    free(entries);
    return text;
}
