/* SPDX-License-Identifier: MIT */
/*
 * What scsi.c and mmc.c share: big-endian fields, sense codes, and the shape of a table of commands.
 */
#ifndef KAGE_DISK_SCSI_INTERNAL_H
#define KAGE_DISK_SCSI_INTERNAL_H

#include "disk/scsi.h"

#define SENSE_NOT_READY 0x02u
#define SENSE_MEDIUM_ERROR 0x03u
#define SENSE_ILLEGAL_REQUEST 0x05u
#define SENSE_UNIT_ATTENTION 0x06u
#define SENSE_DATA_PROTECT 0x07u
#define SENSE_ABORTED_COMMAND 0x0bu

/* Additional sense codes (SPC-4, table D.1), ASC and ASCQ */
#define ASC_IO_ERROR 0x1100u
#define ASC_LIST_LENGTH 0x1a00u
#define ASC_INVALID_OPCODE 0x2000u
#define ASC_LBA_OUT_OF_RANGE 0x2100u
#define ASC_INVALID_FIELD_IN_CDB 0x2400u
#define ASC_INVALID_FIELD_IN_LIST 0x2600u
#define ASC_WRITE_PROTECTED 0x2700u
#define ASC_SPACE_ALLOCATION_FAILED 0x2707u
#define ASC_MEDIUM_MAY_HAVE_CHANGED 0x2800u
#define ASC_SAVING_PARAMETERS 0x3900u
#define ASC_MEDIUM_NOT_PRESENT 0x3a00u
#define ASC_MEDIUM_NOT_PRESENT_TRAY_OPEN 0x3a02u
#define ASC_DATA_PHASE_ERROR 0x4b00u
#define ASC_MEDIUM_REMOVAL_PREVENTED 0x5302u

static inline void put16(uint8_t *at, uint32_t value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}
static inline void put32(uint8_t *at, uint32_t value)
{
    put16(at, value >> 16);
    put16(at + 2, value & 0xffff);
}
static inline void put64(uint8_t *at, uint64_t value)
{
    put32(at, (uint32_t)(value >> 32));
    put32(at + 4, (uint32_t)value);
}
static inline uint32_t get16(const uint8_t *at)
{
    return (uint32_t)at[0] << 8 | at[1];
}
static inline uint32_t get32(const uint8_t *at)
{
    return get16(at) << 16 | get16(at + 2);
}
static inline uint64_t get64(const uint8_t *at)
{
    return (uint64_t)get32(at) << 32 | get32(at + 4);
}

/* A row: which units have the command, whether it needs a medium (a drive without one answers NOT READY), what does it. */
struct scsi_row {
    uint8_t opcode;
    enum { SCSI_ANY, SCSI_DISKS, SCSI_CDROMS } kind;
    bool medium;
    void (*execute)(struct scsi_disk *disk, const uint8_t *cdb, struct scsi_command *command);
};

void scsi_fail(struct scsi_command *command, uint8_t key, uint32_t code);
/* The reply that stands in command->reply, cut to the allocation length. */
void scsi_reply(struct scsi_command *command, uint32_t bytes, uint32_t allowed);
/* Of the medium; 0: there is none. */
uint64_t scsi_blocks(const struct scsi_disk *disk);
/* The place of the command's data. False: it does not lie on the disk, and the command has failed. */
bool scsi_place(const struct scsi_disk *disk, uint64_t lba, uint64_t blocks, struct scsi_command *command);

/* ---- mmc.c ---- */

extern const struct scsi_row mmc_rows[];
extern const unsigned mmc_row_count;
/* A mode page, and the bytes behind its length. */
struct scsi_mode_page {
    uint8_t code, bytes;
    uint8_t data[20];
};
/* Those of `pages` that are asked for (0x3f: all), into a reply; `changeable`: nothing is. How many bytes. */
uint32_t scsi_mode_put(const struct scsi_mode_page *pages, unsigned count, uint8_t page, bool changeable, uint8_t *at);
/* Mode pages of a CD-ROM drive: MMC-6, 7. As scsi_mode_pages() has them. */
uint32_t mmc_mode_pages(const struct scsi_disk *disk, uint8_t page, bool changeable, uint8_t *at);

#endif
