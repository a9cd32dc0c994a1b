/* SPDX-License-Identifier: MIT */
#include "machine/devices.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bus/pci_bridge.h"
#include "machine/board.h"
#include "machine/devices_internal.h"
#include "virtio/blk.h"
#include "virtio/console.h"
#include "virtio/mmio.h"
#include "virtio/pci.h"
#include "virtio/rng.h"
#include "virtio/scsi.h"

#define AT(field) offsetof(struct device_values, field)
#define BOOL(name, field, value, help) \
    {                                  \
        name, PROPERTY_BOOL, AT(field), value, help, 0, 0, NULL \
    }
#define NUMBER(name, field, value, help, min, max) \
    {                                              \
        name, PROPERTY_NUMBER, AT(field), value, help, min, max, NULL \
    }
#define SIZE(name, field, value, help, min, max) \
    {                                            \
        name, PROPERTY_SIZE, AT(field), value, help, min, max, NULL \
    }
#define TEXT(name, field, help) \
    {                           \
        name, PROPERTY_TEXT, AT(field), NULL, help, 0, 0, NULL \
    }
#define CHOICE(name, field, value, help, choices) \
    {                                             \
        name, PROPERTY_CHOICE, AT(field), value, help, 0, 0, choices \
    }
#define BOOTINDEX NUMBER("bootindex", bootindex, "0xffffffff", "firmware boots from the lowest first; 0xffffffff: not said", 0, NUMBER_MAX)
#define END                                  \
    {                                        \
        NULL, 0, 0, NULL, NULL, 0, 0, NULL   \
    }

enum { ON_OFF_AUTO_AUTO, ON_OFF_AUTO_ON, ON_OFF_AUTO_OFF };
static const char *const on_off_auto[] = {"auto", "on", "off", NULL};
static const char *const error_actions[] = {"auto", "report", "ignore", "stop", "enospc", NULL};

#define AUTO_VECTORS 0xffffffffu
#define NUMBER_MAX 0xffffffffu

/* ---- Properties ---- */

static const struct property any_properties[] = {
    TEXT("id", id, "its name"),
    TEXT("bus", bus, "the bus that it goes on: pci.0 of pc, pcie.0 of q35, the id of a root port, ID.0 of another device"),
    END,
};

static const struct property pci_properties[] = {
    TEXT("addr", addr, "slot and optional function number, as 06.0 or 06 (default: the first free slot)"),
    BOOL("multifunction", multifunction, "off", "its slot has more functions"),
    END,
};

static const struct property root_port_properties[] = {
    NUMBER("port", port_number, "0", "its number", 0, 0xff),
    NUMBER("chassis", chassis, "0", "of several slots of one number (it is not looked at)", 0, 0xff),
    NUMBER("slot", slot, "0", "the number of the slot behind it", 0, 0x1fff),
    END,
};

static const struct property virtio_properties[] = {
    BOOL("packed", packed, "off", "offer the packed ring layout"),
    BOOL("in_order", in_order, "off", "give buffers back in order, and say so"),
    BOOL("event_idx", event_idx, "on", "offer notification by index"),
    BOOL("indirect_desc", indirect_desc, "on", "offer indirect descriptors"),
    BOOL("queue_reset", queue_reset, "on", "offer the reset of single queues"),
    END,
};

static const struct property virtio_pci_properties[] = {
    NUMBER("vectors", vectors, "0xffffffff", "MSI-X vectors; 0: none, 0xffffffff: one a queue and one more", 0, NUMBER_MAX),
    CHOICE("disable-legacy", disable_legacy_choice, "auto", "no legacy interface", on_off_auto),
    BOOL("disable-modern", disable_modern, "off", "the legacy interface alone"),
    END,
};

static const struct property blk_properties[] = {
    TEXT("drive", drive, "id of a -drive, or node-name of a -blockdev"),
    TEXT("serial", serial, "up to 20 characters"),
    BOOTINDEX,
    TEXT("iothread", iothread, "id of an -object iothread, whose thread serves it (default: the main thread)"),
    NUMBER("num-queues", num_queues, "0xffff", "queues; 0xffff: one a processor on PCI, else one", 1, 0xffff),
    NUMBER("queue-size", queue_size, "256", "descriptors of a queue, a power of 2", 2, VIRTQUEUE_SIZE_MAX),
    SIZE("logical_block_size", logical_block_size, "512", "a power of 2", 512, 32768),
    SIZE("physical_block_size", physical_block_size, "512", "a power of 2", 512, 32768),
    SIZE("min_io_size", min_io_size, "0", "what is best read and written at least", 0, NUMBER_MAX),
    SIZE("opt_io_size", opt_io_size, "0", "what is best read and written", 0, NUMBER_MAX),
    BOOL("write-cache", write_cache, "on", "the guest finds a volatile write cache, and flushes it"),
    BOOL("config-wce", config_wce, "on", "the guest can turn that off and on"),
    BOOL("discard", discard, "on", "offer discards"),
    BOOL("write-zeroes", write_zeroes, "on", "offer writes of zeroes"),
    CHOICE("werror", werror, "auto", "what a write that fails does", error_actions),
    CHOICE("rerror", rerror, "auto", "what a read that fails does", error_actions),
    END,
};

static const struct property rng_properties[] = {
    TEXT("rng", rng, "id of an -object rng-random or rng-builtin (default: rng-builtin)"),
    SIZE("max-bytes", max_bytes, "0x7fffffffffffffff", "how much in a period", 1, INT64_MAX),
    NUMBER("period", period, "65536", "milliseconds", 1, NUMBER_MAX),
    END,
};

static const struct property scsi_properties[] = {
    TEXT("iothread", iothread, "id of an -object iothread, whose thread serves it and its disks (default: the main thread)"),
    NUMBER("num_queues", num_queues, "0xffff", "request queues; 0xffff: one a processor on PCI, else one", 1, 0xffff),
    NUMBER("virtqueue_size", queue_size, "256", "descriptors of a queue, a power of 2", 2, VIRTQUEUE_SIZE_MAX),
    END,
};

static const struct property scsi_disk_properties[] = {
    TEXT("drive", drive, "id of a -drive, or node-name of a -blockdev"),
    TEXT("serial", serial, "up to 36 characters"),
    BOOTINDEX,
    NUMBER("scsi-id", scsi_id, "0xffff", "the target; 0xffff: the first that is free", 0, 0xffff),
    NUMBER("lun", lun, "0", "0: a target has one unit", 0, 0),
    NUMBER("channel", channel, "0", "0: there is one", 0, 0),
    SIZE("logical_block_size", logical_block_size, "512", "a power of 2; of a CD-ROM it is 2048", 512, 32768),
    CHOICE("werror", werror, "auto", "what a write that fails does", error_actions),
    CHOICE("rerror", rerror, "auto", "what a read that fails does", error_actions),
    END,
};

static const struct property ide_drive_properties[] = {
    TEXT("drive", drive, "id of a -drive, or node-name of a -blockdev; a CD-ROM drive without one is empty"),
    NUMBER("unit", unit, "0xffffffff", "0 or 1 on an IDE bus, 0 on an AHCI one; 0xffffffff: what is free", 0, NUMBER_MAX),
    TEXT("serial", serial, "up to 20 characters"),
    TEXT("model", model, "up to 40 characters"),
    BOOTINDEX,
    BOOL("write-cache", write_cache, "on", "the drive has a volatile write cache, which the guest flushes"),
    CHOICE("werror", werror, "auto", "what a write that fails does", error_actions),
    CHOICE("rerror", rerror, "auto", "what a read that fails does", error_actions),
    END,
};

static const struct property serial_properties[] = {
    NUMBER("max_ports", max_ports, "31", "ports that it can have", 1, VIRTIO_CONSOLE_PORTS_MAX),
    END,
};

static const struct property port_properties[] = {
    TEXT("chardev", chardev, "id of a -chardev"),
    TEXT("name", name, "what the guest finds in /dev/virtio-ports"),
    NUMBER("nr", number, "0xff", "the port's number; 0xff: the first that is free", 0, 0xff),
    END,
};

static const struct property debug_exit_properties[] = {
    NUMBER("iobase", port, "0x501", "port", 1, 0xffff),
    NUMBER("iosize", bytes, "2", "ports", 1, 8),
    END,
};

static const struct property debugcon_properties[] = {
    NUMBER("iobase", port, "0x402", "port", 1, 0xffff),
    TEXT("chardev", chardev, "a backend as of -serial, or the id of a -chardev (default: none)"),
    END,
};

static const struct property pvpanic_properties[] = {
    NUMBER("ioport", port, "0x505", "port", 1, 0xffff),
    END,
};

/* ---- Devices that the board makes ---- */

static void configure_debug_exit(struct machine_config *config, const struct device_spec *spec)
{
    config->debug_exit = true;
    config->debug_exit_port = (uint16_t)spec->values.port;
    config->debug_exit_bytes = (uint16_t)spec->values.bytes;
}

static void configure_debugcon(struct machine_config *config, const struct device_spec *spec)
{
    config->debugcon_port = (uint16_t)spec->values.port;
}

static void configure_pvpanic(struct machine_config *config, const struct device_spec *spec)
{
    config->pvpanic_port = (uint16_t)spec->values.port;
}

static void configure_testdev(struct machine_config *config, const struct device_spec *spec)
{
    (void)spec;
    config->testdev = true;
}

/* ---- Places ---- */

int place_fail(const struct device_spec *spec, const char *what, struct error *error)
{
    return error_set(error, "-device %s: %s", spec->model->name, what);
}

/* "06", "6.1", "0x6"; -1: none of them. */
static int parse_devfn(const char *text)
{
    char *end;
    unsigned long slot = strtoul(text, &end, 16), function = 0;
    if (end != text && *end == '.') {
        const char *rest = end + 1;
        function = strtoul(rest, &end, 16);
        end = end == rest ? (char *)(uintptr_t)"?" : end;
    }
    return end != text && *end == '\0' && slot < 32 && function < 8 ? PCI_DEVFN(slot, function) : -1;
}

/* The bus that is named: the root bus, or what is behind a root port. NULL: error. */
static struct pci_bus *place_find_bus(struct machine *machine, const struct device_spec *spec, struct error *error)
{
    const char *name = spec->values.bus;
    const char *root = machine->config->board->pci_bus;
    if (machine->pci == NULL) {
        error_set(error, "-device %s: No 'PCI' bus found for device '%s'", spec->model->name, spec->model->name);
        return NULL;
    }
    if (name[0] == '\0' || (root != NULL && strcmp(name, root) == 0)) {
        return machine->pci;
    }
    for (unsigned i = 0; i < machine->device_count; i++) {
        const struct machine_device *device = &machine->devices[i];
        if (device->root_port != NULL && strcmp(device->spec->values.id, name) == 0) {
            return &device->root_port->secondary;
        }
    }
    error_set(error, "-device %s: Bus '%s' not found", spec->model->name, name);
    return NULL;
}

static int place_find_devfn(const struct pci_bus *bus, const struct device_spec *spec, struct error *error)
{
    bool slot_0_only = bus->bridge != NULL; /* a link leads to one device */
    if (spec->values.addr[0] == '\0') {
        for (unsigned slot = slot_0_only ? 0 : 2; slot < (slot_0_only ? 1 : 32); slot++) {
            if (bus->functions[PCI_DEVFN(slot, 0)] == NULL) {
                return PCI_DEVFN(slot, 0);
            }
        }
        return place_fail(spec, "PCI: no slot/function available, all in use or reserved", error);
    }
    int devfn = parse_devfn(spec->values.addr);
    if (devfn < 0) {
        return error_set(error, "-device %s: addr=%s: must be a slot, 0 to 1f, and perhaps a function, as 06.0", spec->model->name, spec->values.addr);
    }
    if (slot_0_only && devfn >> 3 != 0) {
        return error_set(error, "-device %s: PCI: slot %d is not valid for %s, parent device only allows plugging into slot 0.", spec->model->name,
                         devfn >> 3, spec->model->name);
    }
    if (bus->functions[devfn] != NULL) {
        return error_set(error, "-device %s: PCI: slot %d function %d not available for %s, in use by %s", spec->model->name, devfn >> 3, devfn & 7,
                         spec->model->name, bus->functions[devfn]->name);
    }
    return devfn;
}

int place_function(struct machine *machine, const struct device_spec *spec, struct pci_function *function, struct error *error)
{
    struct pci_bus *bus = place_find_bus(machine, spec, error);
    int devfn = bus != NULL ? place_find_devfn(bus, spec, error) : -1;
    if (devfn < 0) {
        return -1;
    }
    function->name = spec->model->name;
    function->config[PCI_HEADER_TYPE] |= spec->values.multifunction ? PCI_HEADER_MULTI_FUNCTION : 0;
    pci_function_add(bus, (uint8_t)devfn, function);
    if (bus->bridge != NULL) {
        pci_root_port_update_presence(bus->bridge);
    }
    return 0;
}

static int place_pci(struct machine *machine, struct machine_device *device, const struct device_spec *spec, struct error *error)
{
    const struct device_values *values = &spec->values;
    struct pci_bus *bus = place_find_bus(machine, spec, error);
    if (bus == NULL) {
        return -1;
    }
    /* A device in an Express slot has no ports but at a driver's wish. */
    bool express = bus->bridge != NULL;
    bool no_legacy = values->disable_legacy_choice == ON_OFF_AUTO_ON || spec->model->modern ||
                     (express && values->disable_legacy_choice == ON_OFF_AUTO_AUTO && !spec->model->transitional);
    struct virtio_pci_options options = {.legacy = !no_legacy, .modern = !values->disable_modern, .express = express, .vectors = (unsigned)values->vectors};
    if (!options.legacy && !options.modern) {
        return place_fail(spec, "device cannot work as neither modern nor legacy mode is enabled", error);
    }
    if (values->vectors == AUTO_VECTORS) {
        options.vectors = device->virtio->queue_count + 1;
    }
    device->pci = calloc(1, sizeof(*device->pci));
    if (device->pci == NULL) {
        return place_fail(spec, "no memory", error);
    }
    int result = virtio_pci_init(device->pci, device->virtio, &options, &machine->events.msi, &machine->events.doorbells);
    if (result != 0) {
        return place_fail(spec, strerror(-result), error);
    }
    if (place_function(machine, spec, &device->pci->function, error) != 0) {
        return -1;
    }
    device->function = &device->pci->function;
    return 0;
}

static int place_mmio(struct machine *machine, struct machine_device *device, const struct device_spec *spec, struct error *error)
{
    const struct virtio_slots *slots = &machine->virtio_slots;
    if (slots->count == 0) {
        return error_set(error, "-device %s: No 'virtio-bus' bus found for device '%s'", spec->model->name, spec->model->name);
    }
    if (machine->virtio_slots_used == slots->count) {
        return error_set(error, "-device %s: all %u places of the machine are taken", spec->model->name, slots->count);
    }
    unsigned slot = machine->virtio_slots_used;
    uint64_t base = slots->base + slot * VIRTIO_MMIO_BYTES;
    struct irq irq = board_irq(machine, slots->irqs[slot]);
    device->mmio = calloc(1, sizeof(*device->mmio));
    if (device->mmio == NULL) {
        return place_fail(spec, "no memory", error);
    }
    virtio_mmio_init(device->mmio, device->virtio, &irq, &machine->events.doorbells, base);
    int result = bus_add(&machine->mmio, base, VIRTIO_MMIO_BYTES, &virtio_mmio_ops, device->mmio);
    if (result != 0) {
        return place_fail(spec, strerror(-result), error);
    }
    machine->virtio_slots_used++;
    return 0;
}

/* Takes over `self`, on failure too. */
static int place_virtio(struct machine *machine, const struct device_spec *spec, struct virtio_device *virtio, void *self, void (*release)(void *self),
                        struct error *error)
{
    struct machine_device *device = &machine->devices[machine->device_count++];
    *device = (struct machine_device){.spec = spec, .virtio = virtio, .self = self, .release = release};
    return (spec->model->bus == DEVICE_BUS_PCI ? place_pci : place_mmio)(machine, device, spec, error);
}

static struct virtio_options virtio_options_of(const struct device_values *values)
{
    return (struct virtio_options){.packed = values->packed,
                                   .in_order = values->in_order,
                                   .event_idx = values->event_idx,
                                   .indirect_desc = values->indirect_desc,
                                   .queue_reset = values->queue_reset};
}

/* ---- PCI Express root ports ---- */

static int build_root_port(struct machine *machine, const struct device_spec *spec, struct error *error)
{
    const struct device_values *values = &spec->values;
    struct pci_bus *bus = place_find_bus(machine, spec, error);
    if (bus == NULL) {
        return -1;
    }
    if (bus != machine->pci || strcmp(machine->config->board->pci_bus, "pcie.0") != 0) {
        return place_fail(spec, "a root port can only be on the root bus of PCI Express, pcie.0", error);
    }
    struct pci_root_port *port = calloc(1, sizeof(*port));
    if (port == NULL) {
        return place_fail(spec, "no memory", error);
    }
    struct machine_device *device = &machine->devices[machine->device_count++];
    *device = (struct machine_device){.spec = spec, .self = port, .release = free, .root_port = port};
    pci_root_port_init(port, spec->model->name, (uint16_t)values->slot, (uint8_t)values->port_number);
    if (place_function(machine, spec, &port->function, error) != 0) {
        return -1;
    }
    device->function = &port->function;
    pci_bus_init_secondary(&port->secondary, &port->function);
    return 0;
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
        return place_fail(spec, "queue-size must be a power of 2", error);
    }
    if (!power_of_2(values->logical_block_size) || !power_of_2(values->physical_block_size)) {
        return place_fail(spec, "block sizes must be powers of 2", error);
    }
    if (values->logical_block_size > values->physical_block_size) {
        return place_fail(spec, "logical_block_size must not be larger than physical_block_size", error);
    }
    if (values->min_io_size % values->logical_block_size != 0 || values->opt_io_size % values->logical_block_size != 0) {
        return place_fail(spec, "min_io_size and opt_io_size must be multiples of logical_block_size", error);
    }
    if (strlen(values->serial) > VIRTIO_BLK_SERIAL_BYTES) {
        return place_fail(spec, "a serial of more than 20 characters", error);
    }
    if (values->num_queues != 0xffff && values->num_queues > VIRTIO_QUEUES_MAX) {
        return error_set(error, "-device %s: num-queues: at most %u", spec->model->name, VIRTIO_QUEUES_MAX);
    }
    return 0;
}

struct drive *find_drive(const struct machine_config *config, const char *id)
{
    for (unsigned i = 0; i < config->drive_count; i++) {
        if (strcmp(config->drives[i].values.id, id) == 0) {
            return &config->drives[i];
        }
    }
    return NULL;
}

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

/* What the device says goes before what its -drive says. */
struct disk_errors errors_of(struct machine *machine, const struct device_values *values, const struct drive *drive)
{
    return (struct disk_errors){
        .werror = error_action(values->werror, drive->values.werror, DISK_ERROR_ENOSPC),
        .rerror = error_action(values->rerror, drive->values.rerror, DISK_ERROR_REPORT),
        .run = &machine->run.control,
    };
}

static int build_blk(struct machine *machine, const struct device_spec *spec, struct error *error)
{
    const struct machine_config *config = machine->config;
    const struct device_values *values = &spec->values;
    if (values->drive[0] == '\0') {
        return place_fail(spec, "drive property not set", error);
    }
    const struct drive *drive = find_drive(config, values->drive);
    if (drive == NULL || drive->block == NULL) {
        return error_set(error, "-device %s: Property '%s.drive' can't find value '%s'", spec->model->name, spec->model->name, values->drive);
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
    const struct virtio_pci *pci = machine->devices[machine->device_count - 1].pci;
    return disks_set_bootindex(machine, spec, pci != NULL ? &pci->function : NULL, "scsi", "/disk@0,0", error);
}

/* ---- virtio-rng ---- */

static void release_rng(void *self)
{
    virtio_rng_free(self);
}

static int build_rng(struct machine *machine, const struct device_spec *spec, struct error *error)
{
    const struct machine_config *config = machine->config;
    const struct device_values *values = &spec->values;
    struct virtio_rng_config rng = {
        .virtio = virtio_options_of(values),
        .max_bytes = values->max_bytes < INT64_MAX ? values->max_bytes : UINT64_MAX,
        .period_ms = (uint32_t)values->period,
    };
    bool found = values->rng[0] == '\0';
    for (unsigned i = 0; i < config->object_count; i++) {
        const struct object_spec *object = &config->objects[i];
        if (strncmp(object->model->name, "rng-", 4) == 0 && strcmp(object->values.id, values->rng) == 0) {
            rng.filename = object->values.filename[0] != '\0' ? object->values.filename : NULL;
            found = true;
        }
    }
    if (!found) {
        return error_set(error, "-device %s: Property '%s.rng' can't find value '%s'", spec->model->name, spec->model->name, values->rng);
    }
    struct virtio_rng *self = virtio_rng_new(&rng, config->loop, &machine->dma, error);
    return self != NULL ? place_virtio(machine, spec, virtio_rng_device(self), self, release_rng, error) : -1;
}

/* ---- virtio-scsi and its disks ---- */

static void release_scsi(void *self)
{
    virtio_scsi_free(self);
}

static int build_scsi(struct machine *machine, const struct device_spec *spec, struct error *error)
{
    const struct device_values *values = &spec->values;
    const struct virtio_options options = virtio_options_of(values);
    uint64_t most = VIRTIO_QUEUES_MAX - 2, automatic = spec->model->bus == DEVICE_BUS_PCI ? machine->config->smp.cpus : 1;
    uint64_t queues = values->num_queues != 0xffff ? values->num_queues : automatic < most ? automatic : most;
    if (!power_of_2(values->queue_size) || queues > most) {
        return place_fail(spec, "virtqueue_size must be a power of 2, num_queues at most 62", error);
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
        const struct machine_device *device = &machine->devices[i];
        const char *id = device->spec != NULL ? device->spec->values.id : "";
        bool named = bus[0] == '\0' || (strncmp(bus, id, strlen(id)) == 0 && strcmp(bus + strlen(id), ".0") == 0);
        if (device->release == release && named) {
            return device;
        }
    }
    return NULL;
}

static int build_scsi_disk(struct machine *machine, const struct device_spec *spec, struct error *error)
{
    const struct device_values *values = &spec->values;
    const struct machine_device *host = find_host(machine, values->bus, release_scsi);
    const struct drive *drive = find_drive(machine->config, values->drive);
    struct scsi_disk disk = {.cdrom = strcmp(spec->model->name, "scsi-cd") == 0, .block_bytes = (uint32_t)values->logical_block_size};
    if (host == NULL) {
        return error_set(error, "-device %s: No 'SCSI' bus found for device '%s'", spec->model->name, spec->model->name);
    }
    if (drive == NULL || drive->block == NULL) {
        return place_fail(spec, "drive property not set", error);
    }
    disk.block = drive->block;
    disk.block_bytes = disk.cdrom ? 2048 : disk.block_bytes;
    disk.errors = errors_of(machine, values, drive);
    disk.read_only = disk.cdrom || block_read_only(drive->block);
    if (!power_of_2(disk.block_bytes) || block_bytes(disk.block) < disk.block_bytes) {
        return place_fail(spec, "logical_block_size must be a power of 2, and the image not smaller", error);
    }
    if (strlen(values->serial) > SCSI_SERIAL_MAX) {
        return place_fail(spec, "a serial of more than 36 characters", error);
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
           : result == -EEXIST ? error_set(error, "-device %s: lun already used by another device, at scsi-id %d", spec->model->name, target)
                               : place_fail(spec, "bad scsi device id: 0 to 255 are there", error);
}

/* ---- virtio-serial and its ports ---- */

static void release_console(void *self)
{
    virtio_console_free(self);
}

static int build_console(struct machine *machine, const struct device_spec *spec, struct error *error)
{
    const struct virtio_options options = virtio_options_of(&spec->values);
    struct virtio_console *self = virtio_console_new(&options, (unsigned)spec->values.max_ports, machine->config->loop, &machine->dma, error);
    return self != NULL ? place_virtio(machine, spec, virtio_console_device(self), self, release_console, error) : -1;
}

static int build_port(struct machine *machine, const struct device_spec *spec, struct error *error)
{
    const struct machine_config *config = machine->config;
    const struct device_values *values = &spec->values;
    const struct machine_device *host = find_host(machine, values->bus, release_console);
    struct chardev *chardev = NULL;
    if (host == NULL) {
        return error_set(error, "-device %s: No 'virtio-serial-bus' bus found for device '%s'", spec->model->name, spec->model->name);
    }
    for (unsigned i = 0; i < config->chardev_count; i++) {
        chardev = strcmp(config->chardevs[i].id, values->chardev) == 0 ? config->chardevs[i].chardev : chardev;
    }
    if (strlen(values->name) >= VIRTIO_CONSOLE_NAME_MAX) {
        return place_fail(spec, "its name is too long", error);
    }
    int number = values->number != 0xff ? (int)values->number : -1;
    bool is_console = strcmp(spec->model->name, "virtconsole") == 0;
    int result = virtio_console_add_port(host->self, number, is_console, values->name, chardev);
    return result == 0         ? 0
           : result == -EEXIST ? error_set(error, "-device %s: virtio-serial-bus: A port already exists at id %d", spec->model->name, number)
                               : place_fail(spec, "virtio-serial-bus: Maximum port limit for this device reached", error);
}

/* ---- The table ---- */

#define BRIDGE "Controller/Bridge/Hub"
#define STORAGE "Storage"
#define MISC "Misc"
#define INPUT "Input"

/* A virtio device on each bus that it can be on, as QEMU names them. */
#define VIRTIO_MODELS(kind, category, help, properties, build)                                                                                 \
    {kind "-device", kind, DEVICE_BUS_VIRTIO, category, help, {any_properties, properties, virtio_properties, NULL}, false, false, false, NULL, \
     build},                                                                                                                                   \
        {kind "-pci", kind, DEVICE_BUS_PCI, category, help " (transitional)",                                                                   \
         {any_properties, pci_properties, properties, virtio_properties_and_pci, NULL}, false, false, false, NULL, build},                           \
        {kind "-pci-non-transitional", NULL, DEVICE_BUS_PCI, category, help " (virtio 1.x only)",                                              \
         {any_properties, pci_properties, properties, virtio_properties_and_pci, NULL}, false, false, true, NULL, build},                            \
        {kind "-pci-transitional", NULL, DEVICE_BUS_PCI, category, help " (transitional)",                                                     \
         {any_properties, pci_properties, properties, virtio_properties_and_pci, NULL}, false, true, false, NULL, build}
#define virtio_properties_and_pci virtio_properties, virtio_pci_properties

const struct device_model device_models[] = {
    {"pcie-root-port", NULL, DEVICE_BUS_PCI, BRIDGE, "a PCI Express root port, whose id is the bus behind it",
     {any_properties, pci_properties, root_port_properties, NULL}, false, false, false, NULL, build_root_port},
    VIRTIO_MODELS("virtio-blk", STORAGE, "a disk", blk_properties, build_blk),
    VIRTIO_MODELS("virtio-scsi", STORAGE, "a SCSI host", scsi_properties, build_scsi),
    {"scsi-hd", NULL, DEVICE_BUS_SCSI, STORAGE, "a disk on a SCSI host", {any_properties, scsi_disk_properties, NULL}, false, false, false, NULL,
     build_scsi_disk},
    {"scsi-cd", NULL, DEVICE_BUS_SCSI, STORAGE, "a CD-ROM drive on a SCSI host", {any_properties, scsi_disk_properties, NULL}, false, false, false, NULL,
     build_scsi_disk},
    {"ich9-ahci", "ahci", DEVICE_BUS_PCI, STORAGE, "a SATA controller with six ports", {any_properties, pci_properties, NULL}, false, false, false, NULL,
     build_ahci},
    {"ide-hd", NULL, DEVICE_BUS_IDE, STORAGE, "a disk on an IDE or SATA bus", {any_properties, ide_drive_properties, NULL}, false, false, false, NULL,
     build_ide_drive},
    {"ide-cd", NULL, DEVICE_BUS_IDE, STORAGE, "a CD-ROM drive on an IDE or SATA bus", {any_properties, ide_drive_properties, NULL}, false, false, false,
     NULL, build_ide_drive},
    VIRTIO_MODELS("virtio-serial", INPUT, "consoles and channels", serial_properties, build_console),
    {"virtconsole", NULL, DEVICE_BUS_SERIAL, INPUT, "a console on a virtio-serial device", {any_properties, port_properties, NULL}, false, false, false,
     NULL, build_port},
    {"virtserialport", NULL, DEVICE_BUS_SERIAL, INPUT, "a channel on a virtio-serial device", {any_properties, port_properties, NULL}, false, false,
     false, NULL, build_port},
    VIRTIO_MODELS("virtio-rng", MISC, "random numbers of the host's", rng_properties, build_rng),
    {"isa-debug-exit", NULL, DEVICE_BUS_ISA, MISC, "a port that ends kage: a write of V gives status (V << 1) | 1",
     {any_properties, debug_exit_properties, NULL}, true, false, false, configure_debug_exit, NULL},
    {"isa-debugcon", NULL, DEVICE_BUS_ISA, MISC, "a port whose bytes go to a character backend and to the log (-d firmware)",
     {any_properties, debugcon_properties, NULL}, true, false, false, configure_debugcon, NULL},
    {"pvpanic", NULL, DEVICE_BUS_ISA, MISC, "a port by which a guest says that it has panicked", {any_properties, pvpanic_properties, NULL}, true,
     false, false, configure_pvpanic, NULL},
    {"pc-testdev", NULL, DEVICE_BUS_ISA, MISC, "ports 0xe0 to 0xeb and 0x2000 to 0x2017, and 64 KiB at 0xff000000, for test kernels",
     {any_properties, NULL}, true, false, false, configure_testdev, NULL},
    {.name = NULL},
};

static const char *const bus_names[] = {"ISA", "PCI", "virtio-bus", "virtio-serial-bus", "SCSI", "IDE"};

const struct device_model *device_find(const char *name, bool has_pci)
{
    for (const struct device_model *model = device_models; model->name != NULL; model++) {
        bool by_alias = model->alias != NULL && strcmp(model->alias, name) == 0 && (model->bus == DEVICE_BUS_PCI) == has_pci;
        if (strcmp(model->name, name) == 0 || by_alias) {
            return model;
        }
    }
    return NULL;
}

void device_help(void)
{
    const char *category = NULL;
    for (const struct device_model *model = device_models; model->name != NULL; model++) {
        if (category != model->category) {
            printf("%s%s devices:\n", category != NULL ? "\n" : "", model->category);
            category = model->category;
        }
        printf("name \"%s\", bus %s%s%s%s, desc \"%s\"\n", model->name, bus_names[model->bus], model->alias != NULL ? ", alias \"" : "",
               model->alias != NULL ? model->alias : "", model->alias != NULL ? "\"" : "", model->help);
    }
}

void device_model_help(const struct device_model *model)
{
    printf("%s options:\n", model->name);
    property_help(model->lists);
}

void device_spec_init(struct device_spec *spec, const struct device_model *model)
{
    memset(spec, 0, sizeof(*spec));
    spec->model = model;
    property_defaults(model->lists, &spec->values);
}

/* ---- Objects ---- */

static const struct property object_id[] = {
    {"id", PROPERTY_TEXT, offsetof(struct object_values, id), NULL, "its name", 0, 0, NULL},
    END,
};
static const struct property object_random[] = {
    {"id", PROPERTY_TEXT, offsetof(struct object_values, id), NULL, "its name", 0, 0, NULL},
    {"filename", PROPERTY_TEXT, offsetof(struct object_values, filename), "/dev/urandom", "what is read", 0, 0, NULL},
    END,
};

/* The names that QEMU's own object has, and those of its JSON form. */
static const struct property object_throttle[] = {
    {"id", PROPERTY_TEXT, offsetof(struct object_values, id), NULL, "its name", 0, 0, NULL},
    DRIVE_LIMITS("limits.", offsetof(struct object_values, throttle)),
    DRIVE_LIMITS("x-", offsetof(struct object_values, throttle)),
    END,
};

const struct object_model object_models[] = {
    {"iothread", "a thread for devices that name it", object_id},
    {"rng-builtin", "random numbers by getrandom(2)", object_id},
    {"rng-random", "random numbers of a device of the host's", object_random},
    {OBJECT_THROTTLE_GROUP, "limits that disks share", object_throttle},
    {NULL, NULL, NULL},
};

/* ---- Life ---- */

int devices_build(struct machine *machine, struct error *error)
{
    const struct machine_config *config = machine->config;
    for (unsigned i = 0; i < config->device_count; i++) {
        const struct device_spec *spec = &config->devices[i];
        if (spec->model->build != NULL && spec->model->build(machine, spec, error) != 0) {
            return -1;
        }
    }
    return 0;
}

static void device_stop(const struct machine_device *device)
{
    if (device->virtio != NULL) {
        virtio_stop(device->virtio);
    } else if (device->stop != NULL) {
        device->stop(device->self);
    }
}

void devices_stop(struct machine *machine)
{
    for (unsigned i = 0; i < machine->device_count; i++) {
        device_stop(&machine->devices[i]);
    }
}

void devices_fini(struct machine *machine)
{
    while (machine->device_count > 0) {
        struct machine_device *device = &machine->devices[--machine->device_count];
        device_stop(device);
        if (device->function != NULL) {
            pci_function_remove(device->function->bus, device->function);
        }
        if (device->mmio != NULL) {
            virtio_mmio_fini(device->mmio);
        }
        device->release(device->self); /* may still interrupt through its transport */
        if (device->pci != NULL) {
            virtio_pci_fini(device->pci);
        }
        free(device->pci);
        free(device->mmio);
    }
}
