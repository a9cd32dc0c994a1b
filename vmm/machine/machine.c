/* SPDX-License-Identifier: MIT */
/*
 * What all boards share: the power switch, the run of a machine, and its end.
 */
#include "machine/machine.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/log.h"

#define MACHINE_OUTCOME_STATUS_SHIFT 8u

void machine_request(struct machine *machine, enum power_event event, int status)
{
    unsigned none = POWER_NONE;
    unsigned outcome = (unsigned)event | (unsigned)status << MACHINE_OUTCOME_STATUS_SHIFT;
    if (atomic_compare_exchange_strong(&machine->outcome, &none, outcome)) {
        for (unsigned i = 0; i < machine->vcpu_count; i++) {
            vcpu_request_stop(&machine->vcpus[i]);
        }
        loop_stop(machine->config->loop);
    }
}

/* The statistics of an object of the soft back end into the log; nothing on the kernel's. */
static void machine_log_stats(const struct machine *machine, int fd, const char *what)
{
    enum { ROOM = 512 };
    struct kage_stats *stats = calloc(1, sizeof(*stats) + ROOM * sizeof(stats->entries[0]));
    if (stats == NULL) {
        return;
    }
    stats->count = ROOM;
    if (machine->config->backend->ioctl(fd, KAGE_GET_STATS, stats) >= 0) {
        for (uint32_t i = 0; i < stats->count && i < ROOM; i++) {
            log_line(LOG_STATS, "%s %-32.40s %" PRIu64, what, stats->entries[i].name, (uint64_t)stats->entries[i].value);
        }
    }
    free(stats);
}

/* All of them first: one that waits for another's answer would otherwise wait for ever. */
static void machine_stop_vcpus(struct machine *machine)
{
    for (unsigned i = 0; i < machine->vcpu_count; i++) {
        vcpu_request_stop(&machine->vcpus[i]);
    }
    for (unsigned i = 0; i < machine->vcpu_count; i++) {
        vcpu_stop(&machine->vcpus[i]);
    }
}

static void machine_log_end(const struct machine *machine)
{
    for (unsigned i = 0; i < machine->vcpu_count; i++) {
        vcpu_log_exits(&machine->vcpus[i]);
        if (log_on(LOG_STATS)) {
            char name[16];
            snprintf(name, sizeof(name), machine->vcpu_count == 1 ? "vcpu" : "vcpu%u", i);
            machine_log_stats(machine, machine->vcpus[i].fd, name);
        }
    }
    if (log_on(LOG_STATS)) {
        machine_log_stats(machine, machine->vm_fd, "vm");
    }
}

enum power_event machine_run(struct machine *machine, int *status, struct error *error)
{
    *status = 1;
    int result = iothreads_start(machine);
    if (result != 0) {
        iothreads_stop(machine);
        error_set(error, "-object iothread: %s", strerror(-result));
        return POWER_ERROR;
    }
    for (unsigned i = 0; i < machine->vcpu_count; i++) {
        if (vcpu_start(&machine->vcpus[i], error) != 0) {
            devices_stop(machine);
            machine_stop_vcpus(machine);
            iothreads_stop(machine);
            return POWER_ERROR;
        }
    }
    runstate_started(machine);
    result = loop_run(machine->config->loop);
    devices_stop(machine);
    machine_stop_vcpus(machine);
    iothreads_stop(machine);
    if (result != 0) {
        error_set(error, "the main loop failed: %s", strerror(-result));
        return POWER_ERROR;
    }
    machine_log_end(machine);
    unsigned outcome = atomic_load(&machine->outcome);
    *status = (int)(outcome >> MACHINE_OUTCOME_STATUS_SHIFT);
    for (unsigned i = machine->vcpu_count; i-- > 0;) {
        if (machine->vcpus[i].error.text[0] != '\0') {
            *error = machine->vcpus[i].error;
        }
    }
    return (enum power_event)(outcome & 0xff);
}

static void machine_power_request(void *opaque, enum power_event event, int status)
{
    machine_request(opaque, event, status);
}

const struct board machine_boards[] = {
    {"microvm", "a PC without PCI and firmware (default)", microvm_init},
    {"pc", "i440FX, PIIX3 and SeaBIOS (alias pc-i440fx)", pc_init, .pci_bus = "pci.0", .has_firmware = true, .ide_units = 2, .ide_places = 4},
    {"q35", "Q35, ICH9, PCI Express; SeaBIOS, or OVMF in flash memory (alias pc-q35)", q35_init, .pci_bus = "pcie.0", .has_firmware = true, .ide_units = 1,
     .ide_places = 6},
    {.name = NULL},
};

const struct board *machine_find_board(const char *name)
{
    static const char *const aliases[][2] = {{"pc-i440fx", "pc"}, {"pc-q35", "q35"}};
    for (unsigned i = 0; i < sizeof(aliases) / sizeof(aliases[0]); i++) {
        name = strcmp(name, aliases[i][0]) == 0 ? aliases[i][1] : name;
    }
    for (const struct board *board = machine_boards; board->name != NULL; board++) {
        if (strcmp(board->name, name) == 0) {
            return board;
        }
    }
    return NULL;
}

int machine_init(struct machine *machine, const struct machine_config *config, struct error *error)
{
    memset(machine, 0, sizeof(*machine));
    machine->config = config;
    machine->system_fd = machine->vm_fd = -1;
    machine->power = (struct power){.request = machine_power_request, .opaque = machine};
    bus_init(&machine->pio, "port", 0xffff);
    bus_init(&machine->mmio, "memory", UINT64_MAX);
    int result = runstate_init(machine);
    if (result != 0) {
        error_set(error, "the run state: %s", strerror(-result));
        machine_fini(machine);
        return -1;
    }
    if (config->run_watch != NULL) {
        machine->run.control.watch(machine, config->run_watch);
    }
    if (iothreads_init(machine, error) != 0 || config->board->init(machine, error) != 0) {
        machine_fini(machine);
        return -1;
    }
    return 0;
}

void machine_fini(struct machine *machine)
{
    const struct kvm_backend *backend = machine->config->backend;
    devices_stop(machine);
    machine_stop_vcpus(machine);
    devices_fini(machine);
    iothreads_fini(machine);
    for (unsigned i = 0; i < MACHINE_SERIALS_MAX; i++) {
        if (machine->serial_present[i]) {
            serial_fini(&machine->serial[i]);
        }
    }
    if (machine->rtc_present) {
        rtc_fini(&machine->rtc);
    }
    if (machine->i8042_present) {
        i8042_fini(&machine->i8042);
    }
    if (machine->acpi_pm_present) {
        acpi_pm_fini(&machine->acpi_pm);
    }
    for (unsigned i = 0; i < machine->vcpu_count; i++) {
        vcpu_fini(&machine->vcpus[i]);
    }
    if (machine->debugcon_present) {
        debugcon_fini(&machine->debugcon);
    }
    if (machine->testdev != NULL) {
        testdev_fini(machine->testdev);
        free(machine->testdev);
    }
    if (machine->hpet != NULL) {
        hpet_device_fini(machine->hpet);
        free(machine->hpet);
    }
    pc_fini(machine);
    events_fini(&machine->events);
    bus_fini(&machine->pio);
    bus_fini(&machine->mmio);
    runstate_fini(machine);
    free(machine->vcpus);
    machine->vcpus = NULL;
    machine->vcpu_count = 0;
    if (machine->vm_fd >= 0) {
        backend->close(machine->vm_fd);
    }
    if (machine->system_fd >= 0) {
        backend->close(machine->system_fd);
    }
    ram_fini(&machine->ram);
}
