/* SPDX-License-Identifier: MIT */
#include "machine/board.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "machine/layout.h"

#define BOARD_RTC_IRQ 8u
#define BOARD_RAM_MIN (UINT64_C(2) << 20)

static const struct acpi_serial board_serials[MACHINE_SERIALS_MAX] = {{0x3f8, 4}, {0x2f8, 3}};

static void board_set_irq(void *opaque, uint32_t line, bool level)
{
    const struct machine *machine = opaque;
    struct kvm_irq_level irq = {.irq = line, .level = level};
    machine->config->backend->ioctl(machine->vm_fd, KVM_IRQ_LINE, &irq);
}

static void board_set_rtc_irq(void *opaque, uint32_t line, bool level)
{
    struct machine *machine = opaque;
    if (!atomic_load(&machine->hpet_legacy)) {
        board_set_irq(machine, line, level);
    }
}

struct irq board_irq(struct machine *machine, uint32_t line)
{
    return (struct irq){.set = board_set_irq, .opaque = machine, .line = line};
}

int board_fail(const struct machine *machine, const char *what, struct error *error)
{
    return error_set(error, "-accel %s: %s: %s", machine->config->backend->name, what, strerror(errno));
}

int board_set_slot(struct machine *machine, uint32_t slot, uint32_t flags, uint64_t gpa, uint8_t *host, uint64_t bytes)
{
    struct kvm_userspace_memory_region region = {
        .slot = slot, .flags = flags, .guest_phys_addr = gpa, .memory_size = bytes, .userspace_addr = (uint64_t)(uintptr_t)host};
    return machine->config->backend->ioctl(machine->vm_fd, KVM_SET_USER_MEMORY_REGION, &region) == 0 ? 0 : -errno;
}

/* Memory before anything else: it is what most often cannot be had. */
int board_init_ram(struct machine *machine, struct error *error)
{
    uint64_t bytes = machine->config->ram_bytes;
    if (bytes < BOARD_RAM_MIN) {
        return error_set(error, "-m: %" PRIu64 " bytes of memory; a guest needs at least %" PRIu64 " MiB", bytes, BOARD_RAM_MIN >> 20);
    }
    return ram_init(&machine->ram, bytes, &machine->config->ram_backing, error);
}

int board_init_vm(struct machine *machine, struct error *error)
{
    const struct kvm_backend *backend = machine->config->backend;
    machine->system_fd = backend->open();
    if (machine->system_fd < 0) {
        return board_fail(machine, "cannot open it", error);
    }
    if (backend->ioctl(machine->system_fd, KVM_GET_API_VERSION, NULL) != KVM_API_VERSION) {
        return error_set(error, "-accel %s: it speaks another version of the KVM API", backend->name);
    }
    machine->vm_fd = backend->ioctl(machine->system_fd, KVM_CREATE_VM, NULL);
    if (machine->vm_fd < 0) {
        return board_fail(machine, "KVM_CREATE_VM", error);
    }
    int mmu = machine->config->mmu;
    if (mmu >= 0 && kage_vm_set_mmu(backend, machine->vm_fd, mmu) != 0) {
        return error_set(error, "-machine mmu=%s: -accel %s %s", kage_mmu_name(mmu), backend->name,
                         errno == EOPNOTSUPP ? "does not offer it" : strerror(errno));
    }
    return 0;
}

int board_init_irqchip(struct machine *machine, struct error *error)
{
    const struct kvm_backend *backend = machine->config->backend;
    uint64_t identity_map_gpa = LAYOUT_IDENTITY_MAP_GPA;
    if (backend->ioctl(machine->system_fd, KVM_CHECK_EXTENSION, (void *)(uintptr_t)KVM_CAP_SET_IDENTITY_MAP_ADDR) > 0 &&
        backend->ioctl(machine->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map_gpa) != 0) {
        return board_fail(machine, "KVM_SET_IDENTITY_MAP_ADDR", error);
    }
    if (backend->ioctl(machine->vm_fd, KVM_SET_TSS_ADDR, (void *)(uintptr_t)LAYOUT_TSS_ADDR_GPA) != 0) {
        return board_fail(machine, "KVM_SET_TSS_ADDR", error);
    }
    if (backend->ioctl(machine->vm_fd, KVM_CREATE_IRQCHIP, NULL) != 0) {
        return board_fail(machine, "KVM_CREATE_IRQCHIP", error);
    }
    struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
    if (backend->ioctl(machine->vm_fd, KVM_CREATE_PIT2, &pit) != 0) {
        return board_fail(machine, "KVM_CREATE_PIT2", error);
    }
    int result = events_init(&machine->events, backend, machine->vm_fd);
    errno = -result;
    return result == 0 ? 0 : board_fail(machine, "KVM_SET_GSI_ROUTING", error);
}

int board_place(struct machine *machine, uint16_t port, uint16_t bytes, const struct device_ops *ops, void *device,
                         struct error *error)
{
    int result = bus_add(&machine->pio, port, bytes, ops, device);
    struct bus_range taken = {.ops = ops};
    if (result == -EEXIST) {
        for (unsigned i = 0; i < bytes && !bus_find(&machine->pio, port + i, 1, &taken); i++) {
        }
        return error_set(error, "%s: ports 0x%x-0x%x are taken by %s", ops->name, port, port + bytes - 1, taken.ops->name);
    }
    return result == 0 ? 0 : error_set(error, "%s: ports 0x%x-0x%x: %s", ops->name, port, port + bytes - 1, strerror(-result));
}

static int board_add_testdev(struct machine *machine, struct error *error)
{
    machine->testdev = calloc(1, sizeof(*machine->testdev));
    if (machine->testdev == NULL) {
        return error_set(error, "-device pc-testdev: no memory");
    }
    struct irq irq = board_irq(machine, 0);
    testdev_init(machine->testdev, &irq);
    const struct {
        uint16_t port;
        uint16_t bytes;
        const struct device_ops *ops;
    } ports[] = {
        {TESTDEV_IO_PORT, 4, &testdev_io_ops},
        {TESTDEV_FLUSH_PORT, 4, &testdev_flush_ops},
        {TESTDEV_BYTE_PORT, 4, &testdev_io_ops},
        {TESTDEV_IRQ_PORT, TESTDEV_IRQS, &testdev_irq_ops},
    };
    for (unsigned i = 0; i < sizeof(ports) / sizeof(ports[0]); i++) {
        if (board_place(machine, ports[i].port, ports[i].bytes, ports[i].ops, machine->testdev, error) != 0) {
            return -1;
        }
    }
    int result = bus_add(&machine->mmio, TESTDEV_MEM_GPA, TESTDEV_MEM_BYTES, &testdev_mem_ops, machine->testdev);
    return result == 0 ? 0 : error_set(error, "-device pc-testdev: its memory: %s", strerror(-result));
}

/* What -device and -debugcon name. */
static int board_add_test_devices(struct machine *machine, struct error *error)
{
    const struct machine_config *config = machine->config;
    if (config->debug_exit &&
        board_place(machine, config->debug_exit_port, config->debug_exit_bytes, &debug_exit_ops, &machine->debug_exit, error) != 0) {
        return -1;
    }
    if (config->debugcon_port != 0) {
        debugcon_init(&machine->debugcon, config->debugcon);
        machine->debugcon_present = true;
        if (board_place(machine, config->debugcon_port, 1, &debugcon_ops, &machine->debugcon, error) != 0) {
            return -1;
        }
    }
    machine->pvpanic.power = machine->power;
    if (config->pvpanic_port != 0 && board_place(machine, config->pvpanic_port, 1, &pvpanic_ops, &machine->pvpanic, error) != 0) {
        return -1;
    }
    return config->testdev ? board_add_testdev(machine, error) : 0;
}

int board_init_devices(struct machine *machine, struct error *error)
{
    const struct machine_config *config = machine->config;
    for (unsigned i = 0; i < MACHINE_SERIALS_MAX; i++) {
        if (i >= config->serial_count || config->serial[i] == NULL) {
            continue;
        }
        struct irq irq = board_irq(machine, board_serials[i].irq);
        serial_init(&machine->serial[i], config->serial[i], &irq);
        machine->serial_present[i] = true;
        if (board_place(machine, board_serials[i].port, UART_REGISTERS, &serial_ops, &machine->serial[i], error) != 0) {
            return -1;
        }
    }

    struct irq rtc_irq = {.set = board_set_rtc_irq, .opaque = machine, .line = BOARD_RTC_IRQ};
    int result = rtc_init(&machine->rtc, config->loop, &rtc_irq);
    if (result != 0) {
        return error_set(error, "the real-time clock's timer: %s", strerror(-result));
    }
    machine->rtc_present = true;
    cmos_set_offset(&machine->rtc.cmos, config->rtc_offset_seconds);
    cmos_set_memory(&machine->rtc.cmos, machine->ram.low_bytes, ram_high_bytes(&machine->ram));
    cmos_set_boot(&machine->rtc.cmos, config->smp.cpus, config->boot_order != NULL ? config->boot_order : "cdn");

    const struct irq i8042_irqs[I8042_PORTS] = {board_irq(machine, 1), board_irq(machine, 12)};
    i8042_init(&machine->i8042, i8042_irqs, &machine->power);
    machine->i8042_present = true;

    struct irq sci = board_irq(machine, BOARD_SCI);
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
        bool absent;
    } fixed[] = {
        {0x60, 1, &i8042_data_ops, &machine->i8042, !config->i8042},
        {0x64, 1, &i8042_command_ops, &machine->i8042, !config->i8042},
        {0x70, 2, &rtc_ops, &machine->rtc, false},
        {0x80, 1, &postcode_ops, &machine->postcode, false},
        {0x92, 1, &port92_ops, &machine->port92, false},
    };
    for (unsigned i = 0; i < sizeof(fixed) / sizeof(fixed[0]); i++) {
        if (!fixed[i].absent && board_place(machine, fixed[i].port, fixed[i].bytes, fixed[i].ops, fixed[i].device, error) != 0) {
            return -1;
        }
    }
    return board_add_test_devices(machine, error);
}

/*
 * IA-PC HPET 1.0a, 2.3.1.2: with legacy routes the 8254 drives interrupt 0 no more (KVM_PIT_FLAGS_HPET_LEGACY keeps its channel 0 still), nor
 * the RTC interrupt 8.
 */
static void board_hpet_legacy(void *opaque, bool on)
{
    struct machine *machine = opaque;
    const struct kvm_backend *backend = machine->config->backend;
    struct kvm_pit_state2 pit;
    atomic_store(&machine->hpet_legacy, on);
    if (on) {
        board_set_irq(machine, BOARD_RTC_IRQ, false);
    }
    if (backend->ioctl(machine->vm_fd, KVM_GET_PIT2, &pit) == 0) {
        pit.flags = on ? pit.flags | KVM_PIT_FLAGS_HPET_LEGACY : pit.flags & ~(uint32_t)KVM_PIT_FLAGS_HPET_LEGACY;
        backend->ioctl(machine->vm_fd, KVM_SET_PIT2, &pit);
    }
}

int board_init_hpet(struct machine *machine, uint32_t routes, struct error *error)
{
    if (!machine->config->hpet) {
        return 0;
    }
    struct hpet_device *hpet = calloc(1, sizeof(*hpet));
    struct irq irq = board_irq(machine, 0);
    int result = hpet != NULL ? hpet_device_init(hpet, routes, machine->config->loop, &irq, board_hpet_legacy, machine) : -ENOMEM;
    if (result != 0) {
        free(hpet);
        return error_set(error, "the HPET's timers: %s", strerror(-result));
    }
    machine->hpet = hpet;
    result = bus_add(&machine->mmio, HPET_GPA, HPET_BYTES, &hpet_ops, hpet);
    return result == 0 ? 0 : error_set(error, "the HPET's registers: %s", strerror(-result));
}

/* All but the first wait for INIT and SIPI. */
int board_init_vcpus(struct machine *machine, struct error *error)
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
            .gate = &machine->run.gate,
        };
        if (vcpu_init(&machine->vcpus[i], &vcpu, error) != 0) {
            return -1;
        }
        machine->vcpu_count = i + 1;
    }
    return 0;
}

void board_fill_acpi(const struct machine *machine, struct acpi_config *acpi)
{
    const struct machine_config *config = machine->config;
    *acpi = (struct acpi_config){
        .topology = &config->smp,
        .rtc = config->rtc,
        .sci = BOARD_SCI,
        .reset_port = BOARD_RESET_PORT,
        .reset_value = RESET_CONTROL_FULL,
        .pvpanic_port = config->pvpanic_port,
        .hpet = machine->hpet != NULL,
        .i8042 = config->i8042 && machine->i8042.devices,
    };
    for (unsigned i = 0; i < MACHINE_SERIALS_MAX; i++) {
        if (machine->serial_present[i]) {
            acpi->serial[acpi->serial_count++] = board_serials[i];
        }
    }
}
