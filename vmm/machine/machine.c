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
        vcpu_request_stop(&machine->vcpu);
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

enum power_event machine_run(struct machine *machine, int *status, struct error *error)
{
    *status = 1;
    if (vcpu_start(&machine->vcpu, error) != 0) {
        return POWER_ERROR;
    }
    int result = loop_run(machine->config->loop);
    vcpu_stop(&machine->vcpu);
    if (result != 0) {
        error_set(error, "the main loop failed: %s", strerror(-result));
        return POWER_ERROR;
    }
    vcpu_log_exits(&machine->vcpu);
    if (log_on(LOG_STATS)) {
        machine_log_stats(machine, machine->vcpu.fd, "vcpu");
        machine_log_stats(machine, machine->vm_fd, "vm");
    }
    unsigned outcome = atomic_load(&machine->outcome);
    *status = (int)(outcome >> MACHINE_OUTCOME_STATUS_SHIFT);
    *error = machine->vcpu.error;
    return (enum power_event)(outcome & 0xff);
}

void machine_fini(struct machine *machine)
{
    const struct kvm_backend *backend = machine->config->backend;
    vcpu_stop(&machine->vcpu);
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
    if (machine->vcpu.backend != NULL) {
        vcpu_fini(&machine->vcpu);
    }
    if (machine->vm_fd >= 0) {
        backend->close(machine->vm_fd);
    }
    if (machine->system_fd >= 0) {
        backend->close(machine->system_fd);
    }
    ram_fini(&machine->ram);
}
