/* SPDX-License-Identifier: MIT */
#include "machine/devices.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "machine/config_internal.h"
#include "machine/devices_internal.h"
#include "machine/disks.h"
#include "virtio/console.h"
#include "virtio/mmio.h"
#include "virtio/pci.h"

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

static const char *const on_off_auto[] = {"auto", "on", "off", NULL};
static const char *const error_actions[] = {"auto", "report", "ignore", "stop", "enospc", NULL};

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

struct machine_device *device_new(struct machine *machine, const struct device_spec *spec, void *self, void (*release)(void *self),
                                  struct error *error)
{
    struct machine_device *device = calloc(1, sizeof(*device));
    if (device == NULL) {
        error_set(error, "no memory");
    } else if (!config_append(&machine->devices, &machine->device_count, device, error)) {
        free(device);
        device = NULL;
    }
    if (device == NULL) {
        release(self);
        return NULL;
    }
    *device = (struct machine_device){.spec = spec, .self = self, .release = release};
    return device;
}

int devices_build(struct machine *machine, struct error *error)
{
    const struct machine_config *config = machine->config;
    for (unsigned i = 0; i < config->lists->device_count; i++) {
        const struct device_spec *spec = config->lists->devices[i];
        if (spec->model->build != NULL && spec->model->build(machine, spec, error) != 0) {
            return error_prepend(error, "-device %s: ", spec->model->name);
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
        device_stop(machine->devices[i]);
    }
}

static void device_free(struct machine_device *device)
{
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
    free(device);
}

void devices_fini(struct machine *machine)
{
    while (machine->device_count > 0) {
        device_free(machine->devices[--machine->device_count]);
    }
    free(machine->devices);
    free(machine->boot_entries);
    machine->devices = NULL;
    machine->boot_entries = NULL;
    machine->boot_entry_count = 0;
}
