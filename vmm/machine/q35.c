/* SPDX-License-Identifier: MIT */
/*
 * The board q35: MCH and ICH9, PCI Express; SeaBIOS, or other firmware in flash memory. In physical order:
 *
 *   memory   0 RAM | A0000 (VGA's) | C0000 ROMs, shadowed in RAM by the bridge's map | 100000 RAM | hole from 2.75 GiB (2 GiB, if there
 *            is more RAM) to 4 GiB with configuration spaces where firmware puts them, I/O APIC, HPET, root complex registers, local APIC,
 *            and the firmware at its end | RAM
 *   ports    as pc's
 *   PCI      00:00.0 MCH | 00:1f.0 ICH9 LPC | 00:1f.2 AHCI | 00:1f.3 SMBus
 */
#include <stdlib.h>

#include "dev/ich9.h"
#include "dev/mch.h"
#include "machine/pc_common.h"
#include "util/log.h"

#define Q35_LOW_MAX UINT64_C(0xb0000000) /* RAM ends before it, or leaves it free for configuration space, and ends at 2 GiB */
#define Q35_LOW_OF_MORE UINT64_C(0x80000000)
#define Q35_HIGH_ALIGN (UINT64_C(1) << 30)
#define Q35_HIGH_BYTES (UINT64_C(32) << 30) /* at least, behind all RAM: more, where firmware has put things above */
#define Q35_APIC_BASE 16
#define Q35_HPET_ROUTES 0xff0104u /* the pins of interrupts 0 and 8, and of PIRQs */

struct q35_board {
    struct pc pc;
    struct mch mch;
    struct ich9_lpc lpc;
    struct ich9_smbus smbus;
    bool functions;
    /* The place of configuration space and of the root complex registers that is in force; with the PCI bus's lock. */
    uint64_t ecam_gpa, ecam_bytes;
    uint32_t rcrb_gpa;
};

static void q35_fill_acpi(struct pc *pc, struct acpi_config *acpi);
static void q35_fini(struct pc *pc);

static const uint8_t q35_pirq_gsi[ICH9_PIRQS] = {16, 17, 18, 19, 20, 21, 22, 23};

static const struct pc_kind q35_kind = {
    .pm_port = 0x600, /* where SeaBIOS and OVMF put them */
    .pm_bytes = ACPI_PM_ICH9_BYTES,
    .pirq_of = ich9_pirq_of,
    .pirqs = ICH9_PIRQS,
    .pirq_gsi = q35_pirq_gsi,
    .apic_base = Q35_APIC_BASE,
    .fill_acpi = q35_fill_acpi,
    .fini = q35_fini,
};

/* ---- What firmware moves ---- */

static void q35_pirqs_routed(void *opaque)
{
    struct q35_board *board = opaque;
    int irqs[ICH9_PIRQS];
    for (unsigned i = 0; i < ICH9_PIRQS; i++) {
        irqs[i] = ich9_lpc_irq(&board->lpc, i);
    }
    pc_route_pirqs(&board->pc, irqs);
}

static void q35_ecam_moved(void *opaque, uint64_t base, uint64_t bytes)
{
    struct q35_board *board = opaque;
    struct bus *memory = &board->pc.machine->mmio;
    if (base == board->ecam_gpa && bytes == board->ecam_bytes) {
        return;
    }
    if (board->ecam_bytes != 0) {
        bus_remove(memory, board->ecam_gpa);
    }
    board->ecam_gpa = base;
    board->ecam_bytes = bytes;
    if (bytes != 0 && bus_add(memory, base, bytes, &pci_ecam_ops, &board->pc.pci) != 0) {
        log_line(LOG_GUEST, "configuration space cannot be at 0x%llx, something else is", (unsigned long long)base);
        board->ecam_bytes = 0;
    }
}

static void q35_rcrb_moved(void *opaque, uint32_t base)
{
    struct q35_board *board = opaque;
    struct bus *memory = &board->pc.machine->mmio;
    if (board->rcrb_gpa != 0) {
        bus_remove(memory, board->rcrb_gpa);
    }
    board->rcrb_gpa = base;
    if (base != 0 && bus_add(memory, base, ICH9_RCRB_BYTES, &ich9_rcrb_ops, &board->lpc) != 0) {
        log_line(LOG_GUEST, "the root complex registers cannot be at 0x%x, something else is", base);
        board->rcrb_gpa = 0;
    }
}

static void q35_pm_moved(void *opaque, uint16_t base)
{
    struct q35_board *board = opaque;
    pc_pm_moved(&board->pc, base);
}

/* Until firmware has put it elsewhere, configuration space is where SeaBIOS will. */
static void q35_fill_acpi(struct pc *pc, struct acpi_config *acpi)
{
    const struct q35_board *board = (const struct q35_board *)pc;
    acpi->pci_gpa = pc->machine->ram.low_bytes;
    acpi->pci_high_gpa = (RAM_HIGH_GPA + ram_high_bytes(&pc->machine->ram) + Q35_HIGH_ALIGN - 1) & ~(Q35_HIGH_ALIGN - 1);
    uint64_t last = pci_bus_last(&pc->pci), least = acpi->pci_high_gpa + Q35_HIGH_BYTES - 1;
    acpi->pci_high_last = last > least ? last | (Q35_HIGH_ALIGN - 1) : least;
    acpi->ecam_gpa = board->ecam_bytes != 0 ? board->ecam_gpa : Q35_LOW_MAX;
    acpi->ecam_bytes = board->ecam_bytes != 0 ? board->ecam_bytes : PCI_BUSES_MAX * PCI_ECAM_BYTES;
}

/* ---- Life ---- */

static void q35_init_functions(struct q35_board *board)
{
    struct pc *pc = &board->pc;
    const struct ich9_lpc_events events = {.routed = q35_pirqs_routed, .pm_moved = q35_pm_moved, .rcrb_moved = q35_rcrb_moved, .opaque = board};
    ich9_lpc_init(&board->lpc, &events);
    ich9_smbus_init(&board->smbus);
    board->functions = true;
    pci_function_add(&pc->pci, PCI_DEVFN(0, 0), &board->mch.function);
    pci_function_add(&pc->pci, PCI_DEVFN(0x1f, 0), &board->lpc.function);
    pci_function_add(&pc->pci, PCI_DEVFN(0x1f, 3), &board->smbus.function);
    pc->machine->acpi_pm.smi_en = ACPI_PM_SMI_EN_APMC;
}

static void q35_fini(struct pc *pc)
{
    struct q35_board *board = (struct q35_board *)pc;
    if (board->functions) {
        ich9_lpc_fini(&board->lpc);
        ich9_smbus_fini(&board->smbus);
    }
}

int q35_init(struct machine *machine, struct error *error)
{
    struct q35_board *board = calloc(1, sizeof(*board));
    if (board == NULL) {
        return error_set(error, "no memory for a board");
    }
    struct pc *pc = &board->pc;
    pc_begin(pc, machine, &q35_kind);
    mch_init(&board->mch, rom_map_changed, &pc->map, q35_ecam_moved, board);
    if (board_init_ram(machine, error) != 0) {
        return -1;
    }
    ram_split(&machine->ram, machine->ram.bytes < Q35_LOW_MAX ? Q35_LOW_MAX : Q35_LOW_OF_MORE);
    if (firmware_load(&pc->firmware, machine, PC_BIOS_DEFAULT, error) != 0 || board_init_vm(machine, error) != 0 ||
        pc_init_memory(pc, board->mch.function.config + MCH_PAM0, error) != 0 || board_init_irqchip(machine, error) != 0 ||
        board_init_devices(machine, error) != 0 || board_init_hpet(machine, Q35_HPET_ROUTES, error) != 0 || pc_init_pci(pc, error) != 0) {
        return -1;
    }
    q35_init_functions(board);
    if (disks_add_ahci(machine, PCI_DEVFN(0x1f, 2), error) != 0 || devices_build(machine, error) != 0 || pc_init_debug(pc, error) != 0 ||
        pc_init_fw_cfg(pc, error) != 0 || board_init_vcpus(machine, error) != 0 || pc_init_start(pc, error) != 0) {
        return -1;
    }
    return 0;
}
