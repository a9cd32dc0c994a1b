/* SPDX-License-Identifier: MIT */
/*
 * The microvm board: a PC without PCI, firmware or legacy that nobody asks for. One function builds it,
 * in physical order: memory, interrupt chips, buses, devices, kernel.
 *
 *   ports    0x60 0x64 i8042 | 0x70 RTC | 0x92 | 0x2f8 0x3f8 serial | 0x600 ACPI PM | 0xcf9 reset
 *   memory   RAM, hole from 3 GiB to 4 GiB with I/O APIC and local APIC (both in the back end)
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "machine/acpi.h"
#include "machine/layout.h"
#include "machine/machine.h"

#define MICROVM_RAM_MIN (UINT64_C(2) << 20)

#define MICROVM_ACPI_PM_PORT 0x600u
#define MICROVM_ACPI_SCI 9u
#define MICROVM_RESET_PORT 0xcf9u

static const struct acpi_serial microvm_serials[MACHINE_SERIALS_MAX] = {{0x3f8, 4}, {0x2f8, 3}};

static void microvm_set_irq(void *opaque, uint32_t line, bool level)
{
    const struct machine *machine = opaque;
    struct kvm_irq_level irq = {.irq = line, .level = level};
    machine->config->backend->ioctl(machine->vm_fd, KVM_IRQ_LINE, &irq);
}

static void microvm_power_request(void *opaque, enum power_event event, int status)
{
    machine_request(opaque, event, status);
}

static struct irq microvm_irq(struct machine *machine, uint32_t line)
{
    return (struct irq){.set = microvm_set_irq, .opaque = machine, .line = line};
}

static int microvm_fail(const struct machine *machine, const char *what, struct error *error)
{
    return error_set(error, "-accel %s: %s: %s", machine->config->backend->name, what, strerror(errno));
}

static int microvm_add_ram(struct machine *machine, uint32_t slot, uint64_t gpa, uint8_t *host, uint64_t bytes, struct error *error)
{
    struct kvm_userspace_memory_region region = {
        .slot = slot, .guest_phys_addr = gpa, .memory_size = bytes, .userspace_addr = (uint64_t)(uintptr_t)host};
    if (machine->config->backend->ioctl(machine->vm_fd, KVM_SET_USER_MEMORY_REGION, &region) != 0) {
        return microvm_fail(machine, "KVM_SET_USER_MEMORY_REGION", error);
    }
    return 0;
}

/* Memory before anything else: it is what most often cannot be had. */
static int microvm_init_ram(struct machine *machine, struct error *error)
{
    uint64_t bytes = machine->config->ram_bytes;
    if (bytes < MICROVM_RAM_MIN) {
        return error_set(error, "-m: %" PRIu64 " bytes of memory; a guest needs at least %" PRIu64 " MiB", bytes, MICROVM_RAM_MIN >> 20);
    }
    return ram_init(&machine->ram, bytes, error);
}

static int microvm_init_vm(struct machine *machine, struct error *error)
{
    const struct kvm_backend *backend = machine->config->backend;
    machine->system_fd = backend->open();
    if (machine->system_fd < 0) {
        return microvm_fail(machine, "cannot open it", error);
    }
    if (backend->ioctl(machine->system_fd, KVM_GET_API_VERSION, NULL) != KVM_API_VERSION) {
        return error_set(error, "-accel %s: it speaks another version of the KVM API", backend->name);
    }
    machine->vm_fd = backend->ioctl(machine->system_fd, KVM_CREATE_VM, NULL);
    if (machine->vm_fd < 0) {
        return microvm_fail(machine, "KVM_CREATE_VM", error);
    }
    const struct ram *ram = &machine->ram;
    if (microvm_add_ram(machine, 0, 0, ram->base, ram->low_bytes, error) != 0) {
        return -1;
    }
    return ram_high_bytes(ram) == 0 ? 0 : microvm_add_ram(machine, 1, RAM_HIGH_GPA, ram->base + ram->low_bytes, ram_high_bytes(ram), error);
}

static int microvm_init_irqchip(struct machine *machine, struct error *error)
{
    const struct kvm_backend *backend = machine->config->backend;
    uint64_t identity_map_gpa = LAYOUT_IDENTITY_MAP_GPA;
    if (backend->ioctl(machine->system_fd, KVM_CHECK_EXTENSION, (void *)(uintptr_t)KVM_CAP_SET_IDENTITY_MAP_ADDR) > 0 &&
        backend->ioctl(machine->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map_gpa) != 0) {
        return microvm_fail(machine, "KVM_SET_IDENTITY_MAP_ADDR", error);
    }
    if (backend->ioctl(machine->vm_fd, KVM_SET_TSS_ADDR, (void *)(uintptr_t)LAYOUT_TSS_ADDR_GPA) != 0) {
        return microvm_fail(machine, "KVM_SET_TSS_ADDR", error);
    }
    if (backend->ioctl(machine->vm_fd, KVM_CREATE_IRQCHIP, NULL) != 0) {
        return microvm_fail(machine, "KVM_CREATE_IRQCHIP", error);
    }
    struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
    if (backend->ioctl(machine->vm_fd, KVM_CREATE_PIT2, &pit) != 0) {
        return microvm_fail(machine, "KVM_CREATE_PIT2", error);
    }
    return 0;
}

static int microvm_place(struct machine *machine, uint16_t port, uint16_t bytes, const struct device_ops *ops, void *device,
                         struct error *error)
{
    int result = bus_add(&machine->pio, port, bytes, ops, device);
    if (result == -EEXIST) {
        return error_set(error, "-device %s: ports 0x%x-0x%x are taken by another device", ops->name, port, port + bytes - 1);
    }
    return result == 0 ? 0 : error_set(error, "-device %s: ports 0x%x-0x%x: %s", ops->name, port, port + bytes - 1, strerror(-result));
}

static int microvm_init_devices(struct machine *machine, struct error *error)
{
    const struct machine_config *config = machine->config;
    for (unsigned i = 0; i < MACHINE_SERIALS_MAX; i++) {
        if (i >= config->serial_count || config->serial[i] == NULL) {
            continue;
        }
        struct irq irq = microvm_irq(machine, microvm_serials[i].irq);
        serial_init(&machine->serial[i], config->serial[i], &irq);
        machine->serial_present[i] = true;
        if (microvm_place(machine, microvm_serials[i].port, UART_REGISTERS, &serial_ops, &machine->serial[i], error) != 0) {
            return -1;
        }
    }

    struct irq rtc_irq = microvm_irq(machine, 8);
    int result = rtc_init(&machine->rtc, config->loop, &rtc_irq);
    if (result != 0) {
        return error_set(error, "the real-time clock's timer: %s", strerror(-result));
    }
    machine->rtc_present = true;
    cmos_set_memory(&machine->rtc.cmos, machine->ram.low_bytes, ram_high_bytes(&machine->ram));

    struct irq keyboard_irq = microvm_irq(machine, 1);
    i8042_init(&machine->i8042, &keyboard_irq, &machine->power);
    machine->i8042_present = true;

    struct irq sci = microvm_irq(machine, MICROVM_ACPI_SCI);
    acpi_pm_init(&machine->acpi_pm, &sci, &machine->power);
    machine->acpi_pm_present = true;

    powerctl_init(&machine->reset, &machine->power, 0);
    powerctl_init(&machine->port92, &machine->power, 0x02);
    powerctl_init(&machine->debug_exit, &machine->power, 0);

    const struct {
        uint16_t port;
        uint16_t bytes;
        const struct device_ops *ops;
        void *device;
    } fixed[] = {
        {0x60, 1, &i8042_data_ops, &machine->i8042},
        {0x64, 1, &i8042_command_ops, &machine->i8042},
        {0x70, 2, &rtc_ops, &machine->rtc},
        {0x92, 1, &port92_ops, &machine->port92},
        {MICROVM_ACPI_PM_PORT, ACPI_PM_BYTES, &acpi_pm_ops, &machine->acpi_pm},
        {MICROVM_RESET_PORT, 1, &reset_ops, &machine->reset},
    };
    for (unsigned i = 0; i < sizeof(fixed) / sizeof(fixed[0]); i++) {
        if (microvm_place(machine, fixed[i].port, fixed[i].bytes, fixed[i].ops, fixed[i].device, error) != 0) {
            return -1;
        }
    }
    if (config->debug_exit) {
        return microvm_place(machine, config->debug_exit_port, config->debug_exit_bytes, &debug_exit_ops, &machine->debug_exit, error);
    }
    return 0;
}

static uint64_t microvm_write_acpi(const struct machine *machine)
{
    const struct machine_config *config = machine->config;
    struct acpi_config acpi = {
        .topology = &config->smp,
        .rtc = config->rtc,
        .pm_port = MICROVM_ACPI_PM_PORT,
        .sci = MICROVM_ACPI_SCI,
        .reset_port = MICROVM_RESET_PORT,
        .reset_value = RESET_CONTROL_FULL,
    };
    for (unsigned i = 0; i < MACHINE_SERIALS_MAX; i++) {
        if (machine->serial_present[i]) {
            acpi.serial[acpi.serial_count++] = microvm_serials[i];
        }
    }
    return acpi_write(&machine->ram, &acpi);
}

static int microvm_init_kernel(struct machine *machine, struct error *error)
{
    const struct machine_config *config = machine->config;
    struct vcpu_start start;
    struct boot_request request = {.kernel = config->kernel, .initrd = config->initrd, .cmdline = config->cmdline};
    if (config->acpi) {
        request.rsdp_gpa = microvm_write_acpi(machine);
        if (request.rsdp_gpa == 0) {
            return error_set(error, "the ACPI tables do not fit into their place");
        }
    }
    if (boot_load(&machine->ram, &request, &start, error) != 0) {
        return -1;
    }
    return vcpu_set_start(config->backend, machine->vcpus[0].fd, &start, error);
}

/* All but the first wait for INIT and SIPI. */
static int microvm_init_vcpus(struct machine *machine, struct error *error)
{
    const struct machine_config *config = machine->config;
    machine->vcpus = calloc(config->smp.cpus, sizeof(machine->vcpus[0]));
    if (machine->vcpus == NULL) {
        return error_set(error, "no memory for %u processors", config->smp.cpus);
    }
    for (unsigned i = 0; i < config->smp.cpus; i++) {
        struct vcpu_config vcpu = {
            .backend = config->backend,
            .system_fd = machine->system_fd,
            .vm_fd = machine->vm_fd,
            .index = i,
            .model = &config->cpu_model,
            .topology = &config->smp,
            .pio = &machine->pio,
            .mmio = &machine->mmio,
            .power = machine->power,
        };
        if (vcpu_init(&machine->vcpus[i], &vcpu, error) != 0) {
            return -1;
        }
        machine->vcpu_count = i + 1;
    }
    return 0;
}

int microvm_init(struct machine *machine, const struct machine_config *config, struct error *error)
{
    memset(machine, 0, sizeof(*machine));
    machine->config = config;
    machine->system_fd = machine->vm_fd = -1;
    machine->power = (struct power){.request = microvm_power_request, .opaque = machine};
    bus_init(&machine->pio, "port", 0xffff);
    bus_init(&machine->mmio, "memory", UINT64_MAX);

    if (microvm_init_ram(machine, error) != 0 || microvm_init_vm(machine, error) != 0 || microvm_init_irqchip(machine, error) != 0 ||
        microvm_init_devices(machine, error) != 0 || microvm_init_vcpus(machine, error) != 0 || microvm_init_kernel(machine, error) != 0) {
        machine_fini(machine);
        return -1;
    }
    return 0;
}
