/* SPDX-License-Identifier: MIT */
/*
 * What ata.c (commands) and ata_data.c (what a drive tells of itself) share.
 */
#ifndef KAGE_DISK_ATA_INTERNAL_H
#define KAGE_DISK_ATA_INTERNAL_H

#include "disk/ata.h"

/* A row of the table of commands. `execute` returns as ata_execute() does. */
struct ata_row {
    uint8_t opcode, flags;
    enum ata_protocol protocol;
    enum ata_direction direction;
    enum block_op op;
    bool (*execute)(struct ata_drive *drive, const struct ata_row *row, struct ata_registers *registers, struct ata_command *command);
};

/* SMART's subcommands, and what the LBA must hold (ACS-3, 7.45) */
#define SMART_KEY 0xc24fu
enum {
    SMART_READ_DATA = 0xd0,
    SMART_READ_THRESHOLDS = 0xd1,
    SMART_AUTOSAVE = 0xd2,
    SMART_READ_LOG = 0xd5,
    SMART_ENABLE = 0xd8,
    SMART_DISABLE = 0xd9,
    SMART_RETURN_STATUS = 0xda,
};

/* Each fills 512 bytes, zeroes until then. False: there is no such page or log. */
void ata_fill_identify(const struct ata_drive *drive, uint8_t *page);
bool ata_fill_log(struct ata_drive *drive, uint8_t address, uint8_t *page);
bool ata_fill_smart(uint8_t feature, uint8_t address, uint8_t *page);
void ata_put_signature(const struct ata_drive *drive, struct ata_registers *registers);

#endif
