/* SPDX-License-Identifier: MIT */
/*
 * What the boards pc and q35 share: memory with firmware at its ends, PCI with interrupts by PIRQs, fw_cfg, the place of the ACPI
 * registers. A board has one of these at the head of its own struct, and calls the functions below in its physical order.
 */
#ifndef KAGE_MACHINE_PC_COMMON_H
#define KAGE_MACHINE_PC_COMMON_H

#include "bus/pci.h"
#include "dev/fw_cfg.h"
#include "machine/board.h"
#include "machine/firmware.h"
#include "machine/fw_data.h"
#include "machine/rom_map.h"

#define PC_BIOS_DEFAULT "/usr/share/seabios/bios-256k.bin"

/* Memory slots */
enum { PC_SLOT_LOW, PC_SLOT_RAM, PC_SLOT_HIGH, PC_SLOT_FIRMWARE, PC_SLOT_MAP = PC_SLOT_FIRMWARE + MACHINE_FLASHES_MAX };

/* What a board says of itself. */
struct pc_kind {
    uint16_t pm_port, pm_bytes; /* where firmware puts the ACPI registers, and how many there are */
    unsigned (*pirq_of)(unsigned device, unsigned pin);
    unsigned pirqs;
    const uint8_t *pirq_gsi; /* what ACPI says that they are */
    int apic_base;           /* the I/O APIC's pin of PIRQ 0; -1: it has none of its own */
    /* What only this board has of the tables; the rest is filled in. NULL: nothing. */
    void (*fill_acpi)(struct pc *pc, struct acpi_config *acpi);
    /* Before `pc` is freed. NULL: nothing. */
    void (*fini)(struct pc *pc);
};

struct pc {
    struct machine *machine;
    const struct pc_kind *kind;
    struct pci_bus pci;
    bool pci_present;
    /*
     * Where the PIRQs go, as the south bridge's registers say, and which of them are up. The lock is inside of the bus's intx_lock and of
     * its `lock`.
     */
    pthread_mutex_t pirq_lock;
    int pirq_irq[PCI_PIRQS]; /* an ISA interrupt; -1: none */
    bool pirq_level[PCI_PIRQS];
    uint16_t pirq_lines; /* ISA interrupts that are up for a PIRQ */
    struct firmware firmware;
    struct rom_map map;
    struct fw_cfg fw_cfg;
    bool fw_cfg_present;
    uint16_t pm_port; /* 0: not on the bus */
    struct fw_data data; /* kernel, initrd and option ROM */
};

/* `pc` is the head of the board's zeroed struct of the heap, which pc_fini() frees. */
void pc_begin(struct pc *pc, struct machine *machine, const struct pc_kind *kind);
/* RAM, firmware and the area below 1 MiB, by the bridge's registers from `pam` on. 0, or -1 with `error` filled; so all that follow. */
int pc_init_memory(struct pc *pc, const uint8_t *pam, struct error *error);
int pc_init_pci(struct pc *pc, struct error *error);
/* The debug port, unless the user has placed it. */
int pc_init_debug(struct pc *pc, struct error *error);
int pc_init_fw_cfg(struct pc *pc, struct error *error);
int pc_init_start(struct pc *pc, struct error *error);

/* `self` is a struct pc: what chips call back. */
void pc_pm_moved(void *self, uint16_t base);
/* The ISA interrupt of each PIRQ, -1: none. */
void pc_route_pirqs(struct pc *pc, const int *irqs);

#endif
