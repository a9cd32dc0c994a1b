/* SPDX-License-Identifier: MIT */
/* Builds virtio's devices of what the user has said of them. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "machine/devices_internal.h"
#include "virtio/blk.h"
#include "virtio/console.h"
#include "virtio/pci.h"
#include "virtio/rng.h"
#include "virtio/scsi.h"

static struct virtio_options virtio_options_of(const struct device_values *values)
{
    return (struct virtio_options){.packed = values->packed,
                                   .in_order = values->in_order,
                                   .event_idx = values->event_idx,
                                   .indirect_desc = values->indirect_desc,
                                   .queue_reset = values->queue_reset};
}

/* ---- virtio-blk ---- */

static void release_blk(void *self)
{
    virtio_blk_free(self);
}

static bool power_of_2(uint64_t value)
{
    return (value & (value - 1)) == 0;
}

static int check_blk(const struct device_spec *spec, struct error *error)
{
    const struct device_values *values = &spec->values;
    if (!power_of_2(values->queue_size)) {
        return error_set(error, "queue-size must be a power of 2");
    }
    if (!power_of_2(values->logical_block_size) || !power_of_2(values->physical_block_size)) {
        return error_set(error, "block sizes must be powers of 2");
    }
    if (values->logical_block_size > values->physical_block_size) {
        return error_set(error, "logical_block_size must not be larger than physical_block_size");
    }
    if (values->min_io_size % values->logical_block_size != 0 || values->opt_io_size % values->logical_block_size != 0) {
        return error_set(error, "min_io_size and opt_io_size must be multiples of logical_block_size");
    }
    if (strlen(values->serial) > VIRTIO_BLK_SERIAL_BYTES) {
        return error_set(error, "a serial of more than 20 characters");
    }
    if (values->num_queues != 0xffff && values->num_queues > VIRTIO_QUEUES_MAX) {
        return error_set(error, "num-queues: at most %u", VIRTIO_QUEUES_MAX);
    }
    return 0;
}

int build_blk(struct machine *machine, const struct device_spec *spec, struct error *error)
{
    const struct machine_config *config = machine->config;
    const struct device_values *values = &spec->values;
    if (values->drive[0] == '\0') {
        return error_set(error, "drive property not set");
    }
    const struct drive *drive = config_find_drive(config->lists, values->drive);
    if (drive == NULL || drive->block == NULL) {
        return error_set(error, "Property '%s.drive' can't find value '%s'", spec->model->name, values->drive);
    }
    if (check_blk(spec, error) != 0) {
        return -1;
    }
    unsigned automatic = spec->model->bus == DEVICE_BUS_PCI ? config->smp.cpus : 1;
    struct virtio_blk_config blk = {
        .virtio = virtio_options_of(values),
        .num_queues = (uint16_t)(values->num_queues != 0xffff ? values->num_queues : automatic < VIRTIO_QUEUES_MAX ? automatic : VIRTIO_QUEUES_MAX),
        .queue_size = (uint16_t)values->queue_size,
        .logical_block_size = (uint32_t)values->logical_block_size,
        .physical_block_size = (uint32_t)values->physical_block_size,
        .min_io_size = (uint32_t)values->min_io_size,
        .opt_io_size = (uint32_t)values->opt_io_size,
        .write_cache = values->write_cache && drive->values.cache != DRIVE_CACHE_WRITETHROUGH && drive->values.cache != DRIVE_CACHE_DIRECTSYNC,
        .config_wce = values->config_wce,
        .discard = values->discard,
        .write_zeroes = values->write_zeroes,
        .errors = errors_of(machine, values, drive),
    };
    memcpy(blk.serial, values->serial, strlen(values->serial));
    struct loop *loop = iothread_loop(machine, spec, error);
    if (loop == NULL || iothread_attach(machine, drive->block, loop, spec, error) != 0) {
        return -1;
    }
    struct virtio_blk *self = virtio_blk_new(&blk, drive->block, loop, &machine->dma, error);
    if (self == NULL || place_virtio(machine, spec, virtio_blk_device(self), self, release_blk, error) != 0) {
        return -1;
    }
    const struct virtio_pci *pci = machine->devices[machine->device_count - 1]->pci;
    return disks_set_bootindex(machine, spec, pci != NULL ? &pci->function : NULL, "scsi", "/disk@0,0", error);
}

/* ---- virtio-rng ---- */

static void release_rng(void *self)
{
    virtio_rng_free(self);
}

int build_rng(struct machine *machine, const struct device_spec *spec, struct error *error)
{
    const struct machine_config *config = machine->config;
    const struct device_values *values = &spec->values;
    struct virtio_rng_config rng = {
        .virtio = virtio_options_of(values),
        .max_bytes = values->max_bytes < INT64_MAX ? values->max_bytes : UINT64_MAX,
        .period_ms = (uint32_t)values->period,
    };
    const struct object_spec *object = config_find_object(config->lists, values->rng);
    bool found = values->rng[0] == '\0' || (object != NULL && strncmp(object->model->name, "rng-", 4) == 0);
    if (found && object != NULL && object->values.filename[0] != '\0') {
        rng.filename = object->values.filename;
    }
    if (!found) {
        return error_set(error, "Property '%s.rng' can't find value '%s'", spec->model->name, values->rng);
    }
    struct virtio_rng *self = virtio_rng_new(&rng, config->loop, &machine->dma, error);
    return self != NULL ? place_virtio(machine, spec, virtio_rng_device(self), self, release_rng, error) : -1;
}

/* ---- virtio-scsi and its disks ---- */

static void release_scsi(void *self)
{
    virtio_scsi_free(self);
}

int build_scsi(struct machine *machine, const struct device_spec *spec, struct error *error)
{
    const struct device_values *values = &spec->values;
    const struct virtio_options options = virtio_options_of(values);
    uint64_t most = VIRTIO_QUEUES_MAX - 2, automatic = spec->model->bus == DEVICE_BUS_PCI ? machine->config->smp.cpus : 1;
    uint64_t queues = values->num_queues != 0xffff ? values->num_queues : automatic < most ? automatic : most;
    if (!power_of_2(values->queue_size) || queues > most) {
        return error_set(error, "virtqueue_size must be a power of 2, num_queues at most 62");
    }
    struct loop *loop = iothread_loop(machine, spec, error);
    if (loop == NULL) {
        return -1;
    }
    struct virtio_scsi *self = virtio_scsi_new(&options, (uint16_t)queues, (uint16_t)values->queue_size, loop, &machine->dma, error);
    return self != NULL ? place_virtio(machine, spec, virtio_scsi_device(self), self, release_scsi, error) : -1;
}

/* What was made by `release`'s builder and has the bus that is named, ID.0, or was made last. */
static const struct machine_device *find_host(const struct machine *machine, const char *bus, void (*release)(void *self))
{
    for (unsigned i = machine->device_count; i-- > 0;) {
        const struct machine_device *device = machine->devices[i];
        const char *id = device->spec != NULL ? device->spec->values.id : "";
        bool named = bus[0] == '\0' || (strncmp(bus, id, strlen(id)) == 0 && strcmp(bus + strlen(id), ".0") == 0);
        if (device->release == release && named) {
            return device;
        }
    }
    return NULL;
}

int build_scsi_disk(struct machine *machine, const struct device_spec *spec, struct error *error)
{
    const struct device_values *values = &spec->values;
    const struct machine_device *host = find_host(machine, values->bus, release_scsi);
    const struct drive *drive = config_find_drive(machine->config->lists, values->drive);
    struct scsi_disk disk = {.cdrom = strcmp(spec->model->name, "scsi-cd") == 0, .block_bytes = (uint32_t)values->logical_block_size};
    if (host == NULL) {
        return error_set(error, "No 'SCSI' bus found for device '%s'", spec->model->name);
    }
    if (drive == NULL || drive->block == NULL) {
        return error_set(error, "drive property not set");
    }
    disk.block = drive->block;
    disk.block_bytes = disk.cdrom ? 2048 : disk.block_bytes;
    disk.errors = errors_of(machine, values, drive);
    disk.read_only = disk.cdrom || block_read_only(drive->block);
    if (!power_of_2(disk.block_bytes) || block_bytes(disk.block) < disk.block_bytes) {
        return error_set(error, "logical_block_size must be a power of 2, and the image not smaller");
    }
    if (strlen(values->serial) > SCSI_SERIAL_MAX) {
        return error_set(error, "a serial of more than 36 characters");
    }
    memcpy(disk.serial, values->serial, strlen(values->serial));
    if (iothread_attach(machine, disk.block, virtio_scsi_device(host->self)->loop, spec, error) != 0) {
        return -1;
    }
    int target = values->scsi_id != 0xffff ? (int)values->scsi_id : -1;
    int result = virtio_scsi_add(host->self, target, &disk, &target);
    char rest[48];
    snprintf(rest, sizeof(rest), "/channel@0/disk@%x,0", (unsigned)target);
    return result == 0         ? disks_set_bootindex(machine, spec, host->pci != NULL ? &host->pci->function : NULL, "scsi", rest, error)
           : result == -EEXIST ? error_set(error, "lun already used by another device, at scsi-id %d", target)
                               : error_set(error, "bad scsi device id: 0 to 255 are there");
}

/* ---- virtio-serial and its ports ---- */

static void release_console(void *self)
{
    virtio_console_free(self);
}

int build_console(struct machine *machine, const struct device_spec *spec, struct error *error)
{
    const struct virtio_options options = virtio_options_of(&spec->values);
    struct virtio_console *self = virtio_console_new(&options, (unsigned)spec->values.max_ports, machine->config->loop, &machine->dma, error);
    return self != NULL ? place_virtio(machine, spec, virtio_console_device(self), self, release_console, error) : -1;
}

int build_port(struct machine *machine, const struct device_spec *spec, struct error *error)
{
    const struct machine_config *config = machine->config;
    const struct device_values *values = &spec->values;
    const struct machine_device *host = find_host(machine, values->bus, release_console);
    const struct chardev_backend *backend = config_find_chardev(config->lists, values->chardev);
    struct chardev *chardev = backend != NULL ? backend->chardev : NULL;
    if (host == NULL) {
        return error_set(error, "No 'virtio-serial-bus' bus found for device '%s'", spec->model->name);
    }
    if (strlen(values->name) >= VIRTIO_CONSOLE_NAME_MAX) {
        return error_set(error, "its name is too long");
    }
    int number = values->number != 0xff ? (int)values->number : -1;
    bool is_console = strcmp(spec->model->name, "virtconsole") == 0;
    int result = virtio_console_add_port(host->self, number, is_console, values->name, chardev);
    return result == 0         ? 0
           : result == -EEXIST ? error_set(error, "virtio-serial-bus: A port already exists at id %d", number)
                               : error_set(error, "virtio-serial-bus: Maximum port limit for this device reached");
}
