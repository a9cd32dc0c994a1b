/* SPDX-License-Identifier: MIT */
/*
 * What firmware is told through fw_cfg: memory, processors, ACPI tables with the script that places them,
 * and the kernel that an option ROM of ours starts.
 */
#ifndef KAGE_MACHINE_FW_DATA_H
#define KAGE_MACHINE_FW_DATA_H

#include "dev/fw_cfg.h"
#include "machine/machine.h"

#define FW_DATA_ROM "genroms/kage-linux.bin" /* the option ROM that starts a kernel */

struct fw_data {
    struct boot_file kernel, initrd; /* mapped while the machine is there */
    uint8_t *setup;                  /* the kernel's real-mode part, filled in */
    char *bootorder;                 /* set before; NULL: nothing is said. fw_data_fini() frees it */
    bool direct;                     /* the kernel is none for firmware: it is loaded and entered by ourselves */
};

/* 0, or -1 with `error` filled; fw_data_fini() in either case. */
int fw_data_fill(struct fw_data *data, struct fw_cfg *fw, const struct machine_config *config, const struct ram *ram,
                 const struct acpi_config *acpi, struct error *error);
/* `name` is about to be read: the tables say what `acpi` does now, which is as long as it was. */
void fw_data_selected(struct fw_cfg *fw, const char *name, const struct acpi_config *acpi);
void fw_data_fini(struct fw_data *data);

#endif
