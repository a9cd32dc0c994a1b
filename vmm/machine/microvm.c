/* SPDX-License-Identifier: MIT */
/*
 * The microvm board: a PC without PCI, firmware or legacy that nobody asks for. One function builds it,
 * in physical order: memory, interrupt chips, buses, devices, kernel.
 *
 *   ports    0x60 0x64 i8042 | 0x70 RTC | 0x92 | 0x2f8 0x3f8 serial | 0x600 ACPI PM | 0xcf9 reset
 *   memory   RAM, hole from 3 GiB to 4 GiB with I/O APIC and local APIC (both in the back end)
 */
#include "machine/board.h"

#define MICROVM_ACPI_PM_PORT 0x600u

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

static int microvm_init_kernel(struct machine *machine, struct error *error)
{
    const struct machine_config *config = machine->config;
    struct vcpu_start start;
    struct boot_request request = {.kernel = config->kernel, .initrd = config->initrd, .cmdline = config->cmdline};
    if (config->acpi) {
        struct acpi_config acpi;
        board_fill_acpi(machine, &acpi);
        acpi.pm_port = MICROVM_ACPI_PM_PORT;
        request.rsdp_gpa = acpi_write(&machine->ram, &acpi);
        if (request.rsdp_gpa == 0) {
            return error_set(error, "the ACPI tables do not fit into their place");
        }
    }
    if (boot_load(&machine->ram, &request, &start, error) != 0) {
        return -1;
    }
    return vcpu_set_start(config->backend, machine->vcpus[0].fd, &start, error);
}

int microvm_init(struct machine *machine, struct error *error)
{
    if (board_init_ram(machine, error) != 0 || board_init_vm(machine, error) != 0 || microvm_init_memory(machine, error) != 0 ||
        board_init_irqchip(machine, error) != 0 || board_init_devices(machine, error) != 0 || microvm_init_power(machine, error) != 0 ||
        board_init_vcpus(machine, error) != 0 || microvm_init_kernel(machine, error) != 0) {
        return -1;
    }
    return 0;
}
