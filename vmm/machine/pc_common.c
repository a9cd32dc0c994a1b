/* SPDX-License-Identifier: MIT */
#include "machine/pc_common.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "machine/layout.h"
#include "util/log.h"

#define PC_LOW_BYTES 0xa0000u
#define PC_DEBUG_PORT 0x402u
#define PC_FW_CFG_PORT 0x510u

/* ---- Memory ---- */

static int pc_map_ram(const struct pc *pc)
{
    struct machine *machine = pc->machine;
    const struct ram *ram = &machine->ram;
    uint64_t high = ram_high_bytes(ram);
    int result = board_set_slot(machine, PC_SLOT_LOW, 0, 0, ram->base, PC_LOW_BYTES);
    if (result == 0) {
        result = board_set_slot(machine, PC_SLOT_RAM, 0, LAYOUT_KERNEL_GPA, ram->base + LAYOUT_KERNEL_GPA, ram->low_bytes - LAYOUT_KERNEL_GPA);
    }
    if (result == 0 && high != 0) {
        result = board_set_slot(machine, PC_SLOT_HIGH, 0, RAM_HIGH_GPA, ram->base + ram->low_bytes, high);
    }
    return result;
}

int pc_init_memory(struct pc *pc, const uint8_t *pam, struct error *error)
{
    int result = pc_map_ram(pc);
    result = result != 0 ? result : firmware_map(&pc->firmware, PC_SLOT_FIRMWARE);
    result = result != 0 ? result : rom_map_init(&pc->map, pc->machine, pam, firmware_end(&pc->firmware), PC_SLOT_MAP);
    errno = -result;
    return result == 0 ? 0 : board_fail(pc->machine, "KVM_SET_USER_MEMORY_REGION", error);
}

/* ---- The ACPI registers ---- */

void pc_pm_moved(void *self, uint16_t base)
{
    struct pc *pc = self;
    if (pc->pm_port != 0) {
        bus_remove(&pc->machine->pio, pc->pm_port);
    }
    pc->pm_port = base;
    if (base != 0 && bus_add(&pc->machine->pio, base, pc->kind->pm_bytes, &acpi_pm_ops, &pc->machine->acpi_pm) != 0) {
        pc->pm_port = 0;
        log_line(LOG_GUEST, "the ACPI registers cannot be at port 0x%x", base);
    }
}

/* ---- Interrupt pins ---- */

/* An interrupt is up where one of the PIRQs that go to it is. Lock held. */
static void pc_update_pirqs(struct pc *pc)
{
    uint16_t lines = 0;
    for (unsigned i = 0; i < PCI_PIRQS; i++) {
        lines |= pc->pirq_level[i] && pc->pirq_irq[i] >= 0 ? (uint16_t)(1u << pc->pirq_irq[i]) : 0;
    }
    for (unsigned irq = 0; irq < 16; irq++) {
        if (((lines ^ pc->pirq_lines) >> irq & 1) != 0) {
            struct irq line = board_irq(pc->machine, irq);
            irq_set(&line, (lines >> irq & 1) != 0);
        }
    }
    pc->pirq_lines = lines;
}

static void pc_set_pirq(void *opaque, uint32_t pirq, bool level)
{
    struct pc *pc = opaque;
    pthread_mutex_lock(&pc->pirq_lock);
    if (pc->kind->apic_base >= 0 && pc->pirq_level[pirq] != level) {
        struct irq line = board_irq(pc->machine, (uint32_t)pc->kind->apic_base + pirq);
        irq_set(&line, level);
    }
    pc->pirq_level[pirq] = level;
    pc_update_pirqs(pc);
    pthread_mutex_unlock(&pc->pirq_lock);
}

void pc_route_pirqs(struct pc *pc, const int *irqs)
{
    pthread_mutex_lock(&pc->pirq_lock);
    memcpy(pc->pirq_irq, irqs, pc->kind->pirqs * sizeof(irqs[0]));
    pc_update_pirqs(pc);
    pthread_mutex_unlock(&pc->pirq_lock);
}

int pc_init_pci(struct pc *pc, struct error *error)
{
    struct machine *machine = pc->machine;
    i8042_plug(&machine->i8042, machine->config->i8042 ? machine->config->input : NULL);
    const struct irq pirq = {.set = pc_set_pirq, .opaque = pc};
    pci_bus_init(&pc->pci, &machine->pio, &machine->mmio, &reset_ops, &machine->reset);
    pci_bus_connect(&pc->pci, pc->kind->pirq_of, &pirq);
    machine->pci = &pc->pci;
    pc->pci_present = true;
    return board_place(machine, PCI_PORT, PCI_PORTS, &pci_ports_ops, &pc->pci, error);
}

/* ---- What firmware is told ---- */

static void pc_fill_acpi(struct pc *pc, struct acpi_config *acpi)
{
    board_fill_acpi(pc->machine, acpi);
    acpi->rtc = true;
    acpi->pm_port = pc->kind->pm_port;
    acpi->pm_timer = true;
    acpi->pci = true;
    acpi->pci_gpa = RAM_HOLE_GPA;
    acpi->pirq_of = pc->kind->pirq_of;
    acpi->pirq_gsi = pc->kind->pirq_gsi;
    if (pc->kind->fill_acpi != NULL) {
        pc->kind->fill_acpi(pc, acpi);
    }
}

/* Tables say where firmware has put things: they are made again when it asks for them. fw_cfg's lock is held. */
static void pc_file_selected(void *opaque, const char *name)
{
    struct pc *pc = opaque;
    struct acpi_config acpi;
    pc_fill_acpi(pc, &acpi);
    fw_data_selected(&pc->fw_cfg, name, &acpi);
}

int pc_init_fw_cfg(struct pc *pc, struct error *error)
{
    struct machine *machine = pc->machine;
    struct acpi_config acpi;
    pc_fill_acpi(pc, &acpi);
    fw_cfg_init(&pc->fw_cfg, rom_map_memory_at, &pc->map);
    pc->fw_cfg_present = true;
    if (machine->config->acpi) {
        fw_cfg_on_select(&pc->fw_cfg, pc_file_selected, pc);
    }
    pc->data.bootorder = disks_bootorder(machine, machine->config->kernel != NULL ? "/rom@" FW_DATA_ROM : NULL);
    if (pc->data.bootorder == NULL) {
        return error_set(error, "no memory for the boot order");
    }
    return fw_data_fill(&pc->data, &pc->fw_cfg, machine->config, &machine->ram, &acpi, error) != 0 ||
                   board_place(machine, PC_FW_CFG_PORT, FW_CFG_PORTS, &fw_cfg_ops, &pc->fw_cfg, error) != 0
               ? -1
               : 0;
}

int pc_init_debug(struct pc *pc, struct error *error)
{
    struct machine *machine = pc->machine;
    if (machine->debugcon_present) {
        return 0; /* -debugcon has placed it */
    }
    debugcon_init(&machine->debugcon, NULL);
    machine->debugcon_present = true;
    return board_place(machine, PC_DEBUG_PORT, 1, &debugcon_ops, &machine->debugcon, error);
}

/* ---- Start ---- */

/* The reset state is the processor's own. Only a multiboot kernel starts elsewhere. */
int pc_init_start(struct pc *pc, struct error *error)
{
    const struct machine_config *config = pc->machine->config;
    if (!pc->data.direct) {
        return 0;
    }
    struct vcpu_start start;
    struct boot_request request = {.kernel = config->kernel, .initrd = config->initrd, .cmdline = config->cmdline};
    if (boot_load(&pc->machine->ram, &request, &start, error) != 0) {
        return -1;
    }
    return vcpu_set_start(config->backend, pc->machine->vcpus[0].fd, &start, error);
}

/* ---- Life ---- */

void pc_begin(struct pc *pc, struct machine *machine, const struct pc_kind *kind)
{
    pc->machine = machine;
    pc->kind = kind;
    machine->pc = pc;
    machine->dma = (struct dma){.at = rom_map_memory_at, .opaque = &pc->map};
    pthread_mutex_init(&pc->pirq_lock, NULL);
    for (unsigned i = 0; i < PCI_PIRQS; i++) {
        pc->pirq_irq[i] = -1;
    }
}

void pc_fini(struct machine *machine)
{
    struct pc *pc = machine->pc;
    if (pc == NULL) {
        return;
    }
    if (pc->fw_cfg_present) {
        fw_cfg_fini(&pc->fw_cfg);
    }
    if (pc->pci_present) {
        pci_bus_fini(&pc->pci);
    }
    machine->pci = NULL;
    if (pc->kind->fini != NULL) {
        pc->kind->fini(pc);
    }
    pthread_mutex_destroy(&pc->pirq_lock);
    rom_map_fini(&pc->map);
    fw_data_fini(&pc->data);
    firmware_fini(&pc->firmware);
    free(pc);
    machine->pc = NULL;
}
