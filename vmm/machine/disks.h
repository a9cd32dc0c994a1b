/* SPDX-License-Identifier: MIT */
/*
 * IDE and AHCI: the controllers that a board has, those of -device, drives on them; and what firmware boots from (bootindex=).
 */
#ifndef KAGE_MACHINE_DISKS_H
#define KAGE_MACHINE_DISKS_H

#include "machine/devices.h"

struct pci_function;

/* A board's own: buses ide.0 and ide.1, IRQ 14 and 15; buses ide.0 to ide.5. After its PCI bus, before devices_build(). 0 or -1. */
int disks_add_ide(struct machine *machine, uint8_t devfn, struct error *error);
int disks_add_ahci(struct machine *machine, uint8_t devfn, struct error *error);

/* Rows of the table of -device. */
int build_ahci(struct machine *machine, const struct device_spec *spec, struct error *error);
int build_ide_drive(struct machine *machine, const struct device_spec *spec, struct error *error);

#define DISKS_IDE_PLACES_MAX 6u
#define DISKS_NO_BOOTINDEX 0xffffffffu
#define DISKS_BOOT_PATH_MAX 128u

/* What firmware may boot from: an OpenFirmware path, as QEMU spells it. */
struct boot_entry {
    uint64_t index;
    char path[DISKS_BOOT_PATH_MAX];
};

/* `rest`: what stands behind the PCI function's own part. 0, or -1: the index is taken. */
int disks_set_bootindex(struct machine *machine, const struct device_spec *spec, const struct pci_function *function, const char *kind,
                        const char *rest, struct error *error);
/* fw_cfg's "bootorder": lines by index; "HALT" at its end where -boot strict=on. To be freed; NULL: no memory. "" : there is nothing to say. */
char *disks_bootorder(const struct machine *machine, const char *first);

#endif
