/* SPDX-License-Identifier: MIT */
/*
 * The board pc: i440FX and PIIX3 with SeaBIOS, as far as firmware needs them. One function builds it, in
 * physical order: memory, interrupt chips, buses, devices, processors, firmware and what it is told.
 *
 *   memory   0 RAM | A0000 (VGA's) | C0000 ROMs, shadowed in RAM by the bridge's map | 100000 RAM | hole from
 *            3 GiB to 4 GiB with I/O APIC, local APIC, and the firmware at its end | RAM
 *   ports    0x60 0x64 i8042 | 0x70 RTC | 0x92 | 0x2f8 0x3f8 serial | 0x402 debug | 0x510 fw_cfg
 *            0xcf8 PCI, 0xcf9 reset in it | ACPI PM where the guest puts it
 *   PCI      00:00.0 i440FX | 00:01.0 PIIX3 ISA | 00:01.3 PIIX4 PM
 *
 * A multiboot kernel is loaded and entered as on microvm, without the firmware: its protocol wants nothing of it.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "bus/pci.h"
#include "dev/fw_cfg.h"
#include "dev/i440fx.h"
#include "dev/piix.h"
#include "machine/board.h"
#include "machine/fw_data.h"
#include "machine/layout.h"
#include "util/log.h"

#define PC_BIOS_DEFAULT "/usr/share/seabios/bios-256k.bin"
#define PC_BIOS_MAX (UINT64_C(16) << 20)
#define PC_BIOS_LOW_BYTES 0x20000u /* of the firmware's end, at E0000 too */
#define PC_LOW_BYTES 0xa0000u
#define PC_DEBUG_PORT 0x402u
#define PC_FW_CFG_PORT 0x510u
#define PC_PM_PORT 0x600u /* where SeaBIOS puts it */

enum { PC_SLOT_LOW, PC_SLOT_RAM, PC_SLOT_HIGH, PC_SLOT_BIOS, PC_SLOT_MAP };

/* What the processors see of [gpa, gpa + bytes): a slot, or nothing. */
struct pc_piece {
    uint32_t gpa, bytes;
    uint8_t *host; /* NULL: no slot */
    bool readonly;
};

struct pc {
    struct machine *machine;
    struct pci_bus pci;
    bool pci_present;
    struct i440fx bridge;
    struct piix_isa isa;
    struct piix_pm pm;
    /*
     * Where the four PIRQs go, as PIRQRC says, and which of them are up. The lock is inside of the bus's intx_lock and of its `lock`.
     */
    pthread_mutex_t pirq_lock;
    int pirq_irq[PIIX_PIRQS];
    bool pirq_level[PIIX_PIRQS];
    uint16_t pirq_lines; /* interrupts that are up for a PIRQ */
    /* The bridge's map as it is in force; its lock is inside of the bus's. */
    pthread_mutex_t map_lock;
    struct i440fx_segment map[I440FX_PAM_SEGMENTS];
    struct fw_cfg fw_cfg;
    bool fw_cfg_present;
    uint16_t pm_port; /* 0: not on the bus */
    uint8_t *bios;    /* a mapping of its own, page-aligned */
    uint64_t bios_bytes;
    unsigned piece_count; /* slots from PC_SLOT_MAP on */
    struct pc_piece pieces[I440FX_PAM_SEGMENTS];
    struct fw_data data; /* kernel, initrd and option ROM */
};

/* ---- the bridge's map ---- */

/* ROM at a place of the map: the firmware's end at E0000, nothing below. */
static uint8_t *pc_rom_at(const struct pc *pc, uint32_t gpa)
{
    uint32_t rom_gpa = I440FX_PAM_END_GPA - PC_BIOS_LOW_BYTES;
    return gpa >= rom_gpa ? pc->bios + pc->bios_bytes - PC_BIOS_LOW_BYTES + (gpa - rom_gpa) : NULL;
}

static struct pc_piece pc_piece_of(const struct pc *pc, const struct i440fx_segment *segment)
{
    struct pc_piece piece = {.gpa = segment->gpa, .bytes = segment->bytes};
    piece.host = segment->read_ram ? pc->machine->ram.base + segment->gpa : pc_rom_at(pc, segment->gpa);
    piece.readonly = !(segment->read_ram && segment->write_ram);
    return piece;
}

static bool pc_pieces_join(const struct pc_piece *a, const struct pc_piece *b)
{
    return a->gpa + a->bytes == b->gpa && a->readonly == b->readonly && (a->host == NULL) == (b->host == NULL) &&
           (a->host == NULL || a->host + a->bytes == b->host);
}

/* All pieces of the map, neighbours that are alike joined. */
static unsigned pc_list_pieces(const struct pc *pc, struct pc_piece *pieces)
{
    unsigned count = 0;
    for (unsigned i = 0; i < I440FX_PAM_SEGMENTS; i++) {
        struct pc_piece piece = pc_piece_of(pc, &pc->map[i]);
        if (count > 0 && pc_pieces_join(&pieces[count - 1], &piece)) {
            pieces[count - 1].bytes += piece.bytes;
        } else {
            pieces[count++] = piece;
        }
    }
    return count;
}

static bool pc_piece_equal(const struct pc_piece *a, const struct pc_piece *b)
{
    return a->gpa == b->gpa && a->bytes == b->bytes && a->host == b->host && a->readonly == b->readonly;
}

static int pc_set_piece(struct pc *pc, unsigned index, const struct pc_piece *piece)
{
    uint32_t flags = piece->readonly ? KVM_MEM_READONLY : 0;
    return piece->host == NULL ? 0 : board_set_slot(pc->machine, PC_SLOT_MAP + index, flags, piece->gpa, piece->host, piece->bytes);
}

/* Slots cannot overlap nor change their backing: those that differ go first, then their successors come. */
static int pc_update_map(struct pc *pc)
{
    struct pc_piece pieces[I440FX_PAM_SEGMENTS];
    for (unsigned i = 0; i < I440FX_PAM_SEGMENTS; i++) {
        pc->map[i] = i440fx_segment(&pc->bridge, i);
    }
    unsigned count = pc_list_pieces(pc, pieces);
    int result = 0;
    for (unsigned i = 0; i < pc->piece_count && result == 0; i++) {
        bool stays = i < count && pc_piece_equal(&pieces[i], &pc->pieces[i]);
        if (!stays && pc->pieces[i].host != NULL) {
            result = board_set_slot(pc->machine, PC_SLOT_MAP + i, 0, pc->pieces[i].gpa, pc->pieces[i].host, 0);
        }
    }
    for (unsigned i = 0; i < count && result == 0; i++) {
        bool stays = i < pc->piece_count && pc_piece_equal(&pieces[i], &pc->pieces[i]);
        if (!stays) {
            result = pc_set_piece(pc, i, &pieces[i]);
        }
    }
    memcpy(pc->pieces, pieces, sizeof(pieces));
    pc->piece_count = count;
    return result;
}

static void pc_map_changed(void *opaque)
{
    struct pc *pc = opaque;
    pthread_mutex_lock(&pc->map_lock);
    int result = pc_update_map(pc);
    pthread_mutex_unlock(&pc->map_lock);
    if (result != 0) {
        log_line(LOG_GUEST, "the memory map cannot change: %s", strerror(-result));
        machine_request(pc->machine, POWER_ERROR, 1);
    }
}

/*
 * What no slot serves: writes that go to RAM while reads come from ROM, all that goes nowhere, and what another processor
 * does while slots are being exchanged. The map's lock is held then: such an access waits, and is served by the new map.
 */
static uint64_t pc_map_read(void *self, uint64_t offset, unsigned size)
{
    struct pc *pc = self;
    uint64_t value = 0;
    pthread_mutex_lock(&pc->map_lock);
    for (unsigned i = 0; i < size; i++) {
        uint32_t gpa = I440FX_PAM_FIRST_GPA + (uint32_t)offset + i;
        struct pc_piece piece = pc_piece_of(pc, &pc->map[i440fx_segment_of(gpa)]);
        uint8_t byte = piece.host != NULL ? piece.host[gpa - piece.gpa] : 0xff;
        value |= (uint64_t)byte << (i * 8);
    }
    pthread_mutex_unlock(&pc->map_lock);
    return value;
}

static void pc_map_write(void *self, uint64_t offset, unsigned size, uint64_t value)
{
    struct pc *pc = self;
    pthread_mutex_lock(&pc->map_lock);
    for (unsigned i = 0; i < size; i++) {
        uint32_t gpa = I440FX_PAM_FIRST_GPA + (uint32_t)offset + i;
        if (pc->map[i440fx_segment_of(gpa)].write_ram) {
            pc->machine->ram.base[gpa] = (uint8_t)(value >> (i * 8));
        }
    }
    pthread_mutex_unlock(&pc->map_lock);
}

static const struct device_ops pc_map_ops = {.name = "ROM area", .read = pc_map_read, .write = pc_map_write};

/* ---- memory ---- */

static int pc_load_bios(struct pc *pc, struct error *error)
{
    const char *path = pc->machine->config->bios;
    struct boot_file file;
    if (boot_file_map(&file, "-bios", path != NULL ? path : PC_BIOS_DEFAULT, error) != 0) {
        return path != NULL ? -1 : error_set(error, "-bios: there is no %s; install the package seabios, or name a file", PC_BIOS_DEFAULT);
    }
    if (file.size < PC_BIOS_LOW_BYTES || file.size > PC_BIOS_MAX || file.size % 0x10000 != 0) {
        boot_file_unmap(&file);
        return error_set(error, "-bios %s: it must be 128 KiB to 16 MiB long, in pieces of 64 KiB", path != NULL ? path : PC_BIOS_DEFAULT);
    }
    pc->bios_bytes = file.size;
    void *bios = mmap(NULL, file.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (bios != MAP_FAILED) {
        pc->bios = memcpy(bios, file.bytes, file.size);
    }
    boot_file_unmap(&file);
    return bios != MAP_FAILED ? 0 : error_set(error, "-bios: %s", strerror(errno));
}

static int pc_init_memory(struct pc *pc, struct error *error)
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
    if (result == 0) {
        result = board_set_slot(machine, PC_SLOT_BIOS, KVM_MEM_READONLY, RAM_HIGH_GPA - pc->bios_bytes, pc->bios, pc->bios_bytes);
    }
    i440fx_init(&pc->bridge, pc_map_changed, pc);
    if (result == 0) {
        result = pc_update_map(pc);
    }
    if (result == 0) {
        result = bus_add(&machine->mmio, I440FX_PAM_FIRST_GPA, I440FX_PAM_END_GPA - I440FX_PAM_FIRST_GPA, &pc_map_ops, pc);
    }
    errno = -result;
    return result == 0 ? 0 : board_fail(machine, "KVM_SET_USER_MEMORY_REGION", error);
}

/* ---- devices ---- */

static void pc_pm_moved(void *opaque, uint16_t base)
{
    struct pc *pc = opaque;
    if (pc->pm_port != 0) {
        bus_remove(&pc->machine->pio, pc->pm_port);
    }
    pc->pm_port = base;
    if (base != 0 && bus_add(&pc->machine->pio, base, ACPI_PM_BYTES, &acpi_pm_ops, &pc->machine->acpi_pm) != 0) {
        pc->pm_port = 0;
        log_line(LOG_GUEST, "the ACPI registers cannot be at port 0x%x", base);
    }
}

/* ---- Interrupt pins ---- */

/* Where firmware routes PIRQ A to D, and ACPI says that they are. */
static const uint8_t pc_pirq_gsi[PIIX_PIRQS] = {10, 10, 11, 11};

/* Slots take turns, beginning with slot 1. */
static unsigned pc_pirq_of(unsigned device, unsigned pin)
{
    return (device + 3 + pin) % PIIX_PIRQS;
}

/* An interrupt is up where one of the PIRQs that go to it is. Lock held. */
static void pc_update_pirqs(struct pc *pc)
{
    uint16_t lines = 0;
    for (unsigned i = 0; i < PIIX_PIRQS; i++) {
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
    pc->pirq_level[pirq] = level;
    pc_update_pirqs(pc);
    pthread_mutex_unlock(&pc->pirq_lock);
}

static void pc_pirqs_routed(void *opaque)
{
    struct pc *pc = opaque;
    pthread_mutex_lock(&pc->pirq_lock);
    for (unsigned i = 0; i < PIIX_PIRQS; i++) {
        pc->pirq_irq[i] = piix_isa_irq(&pc->isa, i);
    }
    pc_update_pirqs(pc);
    pthread_mutex_unlock(&pc->pirq_lock);
}

static int pc_init_pci(struct pc *pc, struct error *error)
{
    struct machine *machine = pc->machine;
    const struct irq pirq = {.set = pc_set_pirq, .opaque = pc};
    pci_bus_init(&pc->pci, &machine->pio, &machine->mmio, &reset_ops, &machine->reset);
    pci_bus_connect(&pc->pci, pc_pirq_of, &pirq);
    machine->pci = &pc->pci;
    pc->pci_present = true;
    piix_isa_init(&pc->isa, pc_pirqs_routed, pc);
    pc_pirqs_routed(pc);
    piix_pm_init(&pc->pm, BOARD_SCI, pc_pm_moved, pc);
    pci_function_add(&pc->pci, PCI_DEVFN(0, 0), &pc->bridge.function);
    pci_function_add(&pc->pci, PCI_DEVFN(1, 0), &pc->isa.function);
    pci_function_add(&pc->pci, PCI_DEVFN(1, 3), &pc->pm.function);
    return board_place(machine, PCI_PORT, PCI_PORTS, &pci_ports_ops, &pc->pci, error);
}

/*
 * Guest memory for what masters the bus, to read and to write: RAM as the bridge decodes it for the processors. What lies over A0000
 * is the display's, and of the area above only what is mapped to RAM both ways can be meant.
 */
static uint8_t *pc_memory_at(void *opaque, uint64_t gpa, uint64_t bytes)
{
    struct pc *pc = opaque;
    uint8_t *host = ram_at(&pc->machine->ram, gpa, bytes);
    if (host == NULL || gpa + bytes <= PC_LOW_BYTES || gpa >= I440FX_PAM_END_GPA) {
        return host;
    }
    bool whole = gpa >= I440FX_PAM_FIRST_GPA;
    pthread_mutex_lock(&pc->map_lock);
    for (uint64_t at = gpa; whole && at < gpa + bytes && at < I440FX_PAM_END_GPA; at++) {
        const struct i440fx_segment *segment = &pc->map[i440fx_segment_of((uint32_t)at)];
        whole = segment->read_ram && segment->write_ram;
        at = segment->gpa + segment->bytes - 1;
    }
    pthread_mutex_unlock(&pc->map_lock);
    return whole ? host : NULL;
}

static int pc_init_fw_cfg(struct pc *pc, struct error *error)
{
    struct machine *machine = pc->machine;
    struct acpi_config acpi;
    board_fill_acpi(machine, &acpi);
    acpi.rtc = true;
    acpi.pm_port = PC_PM_PORT;
    acpi.pci = true;
    acpi.pirq_of = pc_pirq_of;
    acpi.pirq_gsi = pc_pirq_gsi;
    fw_cfg_init(&pc->fw_cfg, pc_memory_at, pc);
    pc->fw_cfg_present = true;
    pc->data.bootorder = disks_bootorder(machine, machine->config->kernel != NULL ? "/rom@" FW_DATA_ROM : NULL);
    if (pc->data.bootorder == NULL) {
        return error_set(error, "no memory for the boot order");
    }
    return fw_data_fill(&pc->data, &pc->fw_cfg, machine->config, &machine->ram, &acpi, error) != 0 ||
                   board_place(machine, PC_FW_CFG_PORT, FW_CFG_PORTS, &fw_cfg_ops, &pc->fw_cfg, error) != 0
               ? -1
               : 0;
}

static int pc_init_debug(struct pc *pc, struct error *error)
{
    struct machine *machine = pc->machine;
    if (machine->debugcon_present) {
        return 0; /* -debugcon has placed it */
    }
    debugcon_init(&machine->debugcon, NULL);
    machine->debugcon_present = true;
    return board_place(machine, PC_DEBUG_PORT, 1, &debugcon_ops, &machine->debugcon, error);
}

/* ---- start ---- */

/* The reset state is the processor's own. Only a multiboot kernel starts elsewhere. */
static int pc_init_start(struct pc *pc, struct error *error)
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

int pc_init(struct machine *machine, struct error *error)
{
    struct pc *pc = calloc(1, sizeof(*pc));
    if (pc == NULL) {
        return error_set(error, "no memory for a board");
    }
    machine->pc = pc;
    pc->machine = machine;
    pthread_mutex_init(&pc->pirq_lock, NULL);
    pthread_mutex_init(&pc->map_lock, NULL);
    machine->dma = (struct dma){.at = pc_memory_at, .opaque = pc};
    if (board_init_ram(machine, error) != 0 || pc_load_bios(pc, error) != 0 || board_init_vm(machine, error) != 0 ||
        pc_init_memory(pc, error) != 0 || board_init_irqchip(machine, error) != 0 || board_init_devices(machine, error) != 0 ||
        pc_init_pci(pc, error) != 0 || disks_add_ide(machine, PCI_DEVFN(1, 1), error) != 0 || devices_build(machine, error) != 0 || pc_init_debug(pc, error) != 0 || pc_init_fw_cfg(pc, error) != 0 ||
        board_init_vcpus(machine, error) != 0 || pc_init_start(pc, error) != 0) {
        return -1;
    }
    return 0;
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
    pthread_mutex_destroy(&pc->pirq_lock);
    pthread_mutex_destroy(&pc->map_lock);
    fw_data_fini(&pc->data);
    if (pc->bios != NULL) {
        munmap(pc->bios, pc->bios_bytes);
    }
    free(pc);
    machine->pc = NULL;
}
