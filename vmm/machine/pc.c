/* SPDX-License-Identifier: MIT */
/*
 * The board pc: i440FX and PIIX3 with SeaBIOS, as far as firmware needs them. One function builds it, in
 * physical order: memory, interrupt chips, buses, devices, processors, firmware and what it is told.
 *
 *   memory   0 RAM | A0000 (VGA's) | C0000 ROMs, shadowed in RAM by the bridge's map | 100000 RAM | hole from
 *            3 GiB to 4 GiB with I/O APIC, HPET, local APIC, and the firmware at its end | RAM
 *   ports    0x60 0x64 i8042 | 0x70 RTC | 0x92 | 0x2f8 0x3f8 serial | 0x402 debug | 0x510 fw_cfg
 *            0xcf8 PCI, 0xcf9 reset in it | ACPI PM where the guest puts it
 *   PCI      00:00.0 i440FX | 00:01.0 PIIX3 ISA | 00:01.1 PIIX3 IDE | 00:01.3 PIIX4 PM
 *
 * A multiboot kernel is loaded and entered as on microvm, without the firmware: its protocol wants nothing of it.
 */
#include <stdlib.h>

#include "dev/i440fx.h"
#include "dev/piix.h"
#include "machine/pc_common.h"

#define PC_HPET_ROUTES 0x4u /* interrupt 0's pin alone */

struct pc_board {
    struct pc pc;
    struct i440fx bridge;
    struct piix_isa isa;
    struct piix_pm pm;
};

/* Slots take turns, beginning with slot 1. */
static unsigned pc_pirq_of(unsigned device, unsigned pin)
{
    return (device + 3 + pin) % PIIX_PIRQS;
}

/* Where firmware routes PIRQ A to D, and ACPI says that they are. */
static const uint8_t pc_pirq_gsi[PIIX_PIRQS] = {10, 10, 11, 11};

static const struct pc_kind pc_kind = {
    .pm_port = 0x600, /* where SeaBIOS puts them */
    .pm_bytes = ACPI_PM_PIIX_BYTES,
    .pirq_of = pc_pirq_of,
    .pirqs = PIIX_PIRQS,
    .pirq_gsi = pc_pirq_gsi,
    .apic_base = -1,
};

static void pc_pirqs_routed(void *opaque)
{
    struct pc_board *board = opaque;
    int irqs[PIIX_PIRQS];
    for (unsigned i = 0; i < PIIX_PIRQS; i++) {
        irqs[i] = piix_isa_irq(&board->isa, i);
    }
    pc_route_pirqs(&board->pc, irqs);
}

static void pc_init_functions(struct pc_board *board)
{
    struct pc *pc = &board->pc;
    piix_isa_init(&board->isa, pc_pirqs_routed, board);
    piix_pm_init(&board->pm, BOARD_SCI, pc_pm_moved, pc);
    pci_function_add(&pc->pci, PCI_DEVFN(0, 0), &board->bridge.function);
    pci_function_add(&pc->pci, PCI_DEVFN(1, 0), &board->isa.function);
    pci_function_add(&pc->pci, PCI_DEVFN(1, 3), &board->pm.function);
}

int pc_init(struct machine *machine, struct error *error)
{
    struct pc_board *board = calloc(1, sizeof(*board));
    if (board == NULL) {
        return error_set(error, "no memory for a board");
    }
    struct pc *pc = &board->pc;
    pc_begin(pc, machine, &pc_kind);
    i440fx_init(&board->bridge, rom_map_changed, &pc->map);
    if (board_init_ram(machine, error) != 0 || firmware_load(&pc->firmware, machine, PC_BIOS_DEFAULT, error) != 0 ||
        board_init_vm(machine, error) != 0 || pc_init_memory(pc, board->bridge.function.config + I440FX_PAM0, error) != 0 ||
        board_init_irqchip(machine, error) != 0 || board_init_devices(machine, error) != 0 ||
        board_init_hpet(machine, PC_HPET_ROUTES, error) != 0 || pc_init_pci(pc, error) != 0) {
        return -1;
    }
    pc_init_functions(board);
    if (disks_add_ide(machine, PCI_DEVFN(1, 1), error) != 0 || devices_build(machine, error) != 0 || pc_init_debug(pc, error) != 0 ||
        pc_init_fw_cfg(pc, error) != 0 || board_init_vcpus(machine, error) != 0 || pc_init_start(pc, error) != 0) {
        return -1;
    }
    return 0;
}
