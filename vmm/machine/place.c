/* SPDX-License-Identifier: MIT */
/*
 * Where a device goes: bus= and addr=, the first slot that is free, a place for virtio-mmio; and root ports, which make buses.
 */
#include <stdlib.h>
#include <string.h>

#include "bus/pci_bridge.h"
#include "machine/board.h"
#include "machine/devices_internal.h"
#include "virtio/mmio.h"
#include "virtio/pci.h"

#define AUTO_VECTORS 0xffffffffu

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
        error_set(error, "No 'PCI' bus found for device '%s'", spec->model->name);
        return NULL;
    }
    if (name[0] == '\0' || (root != NULL && strcmp(name, root) == 0)) {
        return machine->pci;
    }
    for (unsigned i = 0; i < machine->device_count; i++) {
        const struct machine_device *device = machine->devices[i];
        if (device->root_port != NULL && strcmp(device->spec->values.id, name) == 0) {
            return &device->root_port->secondary;
        }
    }
    error_set(error, "Bus '%s' not found", name);
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
        return error_set(error, "PCI: no slot/function available, all in use or reserved");
    }
    int devfn = parse_devfn(spec->values.addr);
    if (devfn < 0) {
        return error_set(error, "addr=%s: must be a slot, 0 to 1f, and perhaps a function, as 06.0", spec->values.addr);
    }
    if (slot_0_only && devfn >> 3 != 0) {
        return error_set(error, "PCI: slot %d is not valid for %s, parent device only allows plugging into slot 0.",
                         devfn >> 3, spec->model->name);
    }
    if (bus->functions[devfn] != NULL) {
        return error_set(error, "PCI: slot %d function %d not available for %s, in use by %s", devfn >> 3, devfn & 7,
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
        return error_set(error, "device cannot work as neither modern nor legacy mode is enabled");
    }
    if (values->vectors == AUTO_VECTORS) {
        options.vectors = device->virtio->queue_count + 1;
    }
    device->pci = calloc(1, sizeof(*device->pci));
    if (device->pci == NULL) {
        return error_set(error, "no memory");
    }
    int result = virtio_pci_init(device->pci, device->virtio, &options, &machine->events.msi, &machine->events.doorbells);
    if (result != 0) {
        return error_set(error, "%s", strerror(-result));
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
        return error_set(error, "No 'virtio-bus' bus found for device '%s'", spec->model->name);
    }
    if (machine->virtio_slots_used == slots->count) {
        return error_set(error, "all %u places of the machine are taken", slots->count);
    }
    unsigned slot = machine->virtio_slots_used;
    uint64_t base = slots->base + slot * VIRTIO_MMIO_BYTES;
    struct irq irq = board_irq(machine, slots->irqs[slot]);
    device->mmio = calloc(1, sizeof(*device->mmio));
    if (device->mmio == NULL) {
        return error_set(error, "no memory");
    }
    virtio_mmio_init(device->mmio, device->virtio, &irq, &machine->events.doorbells, base);
    int result = bus_add(&machine->mmio, base, VIRTIO_MMIO_BYTES, &virtio_mmio_ops, device->mmio);
    if (result != 0) {
        return error_set(error, "%s", strerror(-result));
    }
    machine->virtio_slots_used++;
    return 0;
}

/* Takes over `self`, on failure too. */
int place_virtio(struct machine *machine, const struct device_spec *spec, struct virtio_device *virtio, void *self, void (*release)(void *self),
                        struct error *error)
{
    struct machine_device *device = device_new(machine, spec, self, release, error);
    if (device == NULL) {
        return -1;
    }
    device->virtio = virtio;
    return (spec->model->bus == DEVICE_BUS_PCI ? place_pci : place_mmio)(machine, device, spec, error);
}

/* ---- PCI Express root ports ---- */

int build_root_port(struct machine *machine, const struct device_spec *spec, struct error *error)
{
    const struct device_values *values = &spec->values;
    struct pci_bus *bus = place_find_bus(machine, spec, error);
    if (bus == NULL) {
        return -1;
    }
    if (bus != machine->pci || strcmp(machine->config->board->pci_bus, "pcie.0") != 0) {
        return error_set(error, "a root port can only be on the root bus of PCI Express, pcie.0");
    }
    struct pci_root_port *port = calloc(1, sizeof(*port));
    if (port == NULL) {
        return error_set(error, "no memory");
    }
    struct machine_device *device = device_new(machine, spec, port, free, error);
    if (device == NULL) {
        return -1;
    }
    device->root_port = port;
    pci_root_port_init(port, spec->model->name, (uint16_t)values->slot, (uint8_t)values->port_number);
    if (place_function(machine, spec, &port->function, error) != 0) {
        return -1;
    }
    device->function = &port->function;
    pci_bus_init_secondary(&port->secondary, &port->function);
    return 0;
}
