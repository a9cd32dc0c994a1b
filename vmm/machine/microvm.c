/* SPDX-License-Identifier: MIT */
/*
 * The microvm board: a PC without PCI, firmware or legacy that nobody asks for. One function builds it,
 * in physical order: memory, interrupt chips, buses, devices, kernel.
 *
 *   ports    0x60 0x64 i8042 | 0x70 RTC | 0x92 | 0x2f8 0x3f8 serial | 0x600 ACPI PM | 0xcf9 reset
 *   memory   RAM, hole from 3 GiB to 4 GiB with I/O APIC and local APIC (both in the back end)
 *            0xfeb00000 virtio devices, 512 bytes each, in the order in which the user names them
 */
#include "machine/board.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/mmio.h"

#define MICROVM_ACPI_PM_PORT 0x600u

#define MICROVM_VIRTIO_GPA UINT64_C(0xfeb00000)
#define MICROVM_VIRTIO_SLOTS 8u

/* With ACPI the I/O APIC's own pins; without it a kernel knows of ISA's alone, of which these are free. */
static const uint8_t microvm_gsis[MICROVM_VIRTIO_SLOTS] = {16, 17, 18, 19, 20, 21, 22, 23};
static const uint8_t microvm_irqs[MICROVM_VIRTIO_SLOTS] = {5, 6, 7, 10, 11, 12, 14, 15};

static uint8_t *microvm_memory_at(void *opaque, uint64_t gpa, uint64_t bytes)
{
    const struct machine *machine = opaque;
    return ram_at(&machine->ram, gpa, bytes);
}

static int microvm_init_memory(struct machine *machine, struct error *error)
{
    const struct ram *ram = &machine->ram;
    if (board_set_slot(machine, 0, 0, 0, ram->base, ram->low_bytes) != 0 ||
        (ram_high_bytes(ram) != 0 && board_set_slot(machine, 1, 0, RAM_HIGH_GPA, ram->base + ram->low_bytes, ram_high_bytes(ram)) != 0)) {
        return board_fail(machine, "KVM_SET_USER_MEMORY_REGION", error);
    }
    return 0;
}

static int microvm_init_power(struct machine *machine, struct error *error)
{
    return board_place(machine, MICROVM_ACPI_PM_PORT, ACPI_PM_BYTES, &acpi_pm_ops, &machine->acpi_pm, error) != 0 ||
                   board_place(machine, BOARD_RESET_PORT, 1, &reset_ops, &machine->reset, error) != 0
               ? -1
               : 0;
}

static int microvm_init_virtio(struct machine *machine, struct error *error)
{
    machine->dma = (struct dma){.at = microvm_memory_at, .opaque = machine};
    machine->virtio_slots = (struct virtio_slots){
        .base = MICROVM_VIRTIO_GPA,
        .count = MICROVM_VIRTIO_SLOTS,
        .irqs = machine->config->acpi ? microvm_gsis : microvm_irqs,
    };
    return devices_build(machine, error);
}

/*
 * The command line; without ACPI, and with it in Linux' own words, where the virtio devices are (drivers/virtio/virtio_mmio.c). To be
 * freed; NULL: no memory.
 */
static char *microvm_cmdline(const struct machine *machine)
{
    const struct machine_config *config = machine->config;
    bool tell = !config->acpi && config->kernel_cmdline;
    size_t room = strlen(config->cmdline) + 1 + MICROVM_VIRTIO_SLOTS * 64u;
    char *line = malloc(room);
    if (line == NULL) {
        return NULL;
    }
    int used = snprintf(line, room, "%s", config->cmdline);
    for (unsigned i = 0; tell && i < machine->virtio_slots_used; i++) {
        used += snprintf(line + used, room - (size_t)used, " virtio_mmio.device=%u@0x%" PRIx64 ":%u", VIRTIO_MMIO_BYTES,
                         MICROVM_VIRTIO_GPA + i * VIRTIO_MMIO_BYTES, microvm_irqs[i]);
    }
    return line;
}

static int microvm_load(struct machine *machine, const struct boot_request *request, struct error *error)
{
    struct vcpu_start start;
    if (boot_load(&machine->ram, request, &start, error) != 0) {
        return -1;
    }
    return vcpu_set_start(machine->config->backend, machine->vcpus[0].fd, &start, error);
}

static int microvm_init_kernel(struct machine *machine, struct error *error)
{
    const struct machine_config *config = machine->config;
    struct boot_request request = {.kernel = config->kernel, .initrd = config->initrd};
    if (config->acpi) {
        struct acpi_config acpi;
        board_fill_acpi(machine, &acpi);
        acpi.pm_port = MICROVM_ACPI_PM_PORT;
        acpi.virtio_count = machine->virtio_slots_used;
        acpi.virtio_gpa = MICROVM_VIRTIO_GPA;
        acpi.virtio_gsi = microvm_gsis;
        request.rsdp_gpa = acpi_write(&machine->ram, &acpi);
        if (request.rsdp_gpa == 0) {
            return error_set(error, "the ACPI tables do not fit into their place");
        }
    }
    char *cmdline = microvm_cmdline(machine);
    if (cmdline == NULL) {
        return error_set(error, "no memory for a command line");
    }
    request.cmdline = cmdline;
    int result = microvm_load(machine, &request, error);
    free(cmdline);
    return result;
}

int microvm_init(struct machine *machine, struct error *error)
{
    if (board_init_ram(machine, error) != 0 || board_init_vm(machine, error) != 0 || microvm_init_memory(machine, error) != 0 ||
        board_init_irqchip(machine, error) != 0 || board_init_devices(machine, error) != 0 || microvm_init_virtio(machine, error) != 0 || microvm_init_power(machine, error) != 0 ||
        board_init_vcpus(machine, error) != 0 || microvm_init_kernel(machine, error) != 0) {
        return -1;
    }
    return 0;
}
