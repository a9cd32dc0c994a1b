/* SPDX-License-Identifier: MIT */
/*
 * A SCSI disk or CD-ROM drive in front of a disk of block/block.h (SPC-4, SBC-3, MMC-6): commands are looked at here and nowhere else; who
 * carries them (virtio-scsi, ATAPI) moves the data. Commands that touch the disk's data come back as a block request to be made.
 */
#ifndef KAGE_DISK_SCSI_H
#define KAGE_DISK_SCSI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "block/block.h"
#include "dev/disk_error.h"

#define SCSI_CDB_BYTES 32u
#define SCSI_SENSE_BYTES 18u
#define SCSI_REPLY_MAX 512u
#define SCSI_SERIAL_MAX 36u
#define SCSI_MODEL_BYTES 16u
#define SCSI_ATTENTION_RESET 0x2900u /* power on, reset or bus device reset */

enum { SCSI_GOOD = 0x00, SCSI_CHECK_CONDITION = 0x02 };

struct scsi_disk {
    struct block *block; /* NULL: a CD-ROM drive without a medium */
    bool cdrom, read_only;
    uint32_t block_bytes; /* 2048 of a CD-ROM */
    char serial[SCSI_SERIAL_MAX + 1];
    struct disk_errors errors;
    char model[SCSI_MODEL_BYTES + 1]; /* "": its own */
    /* What changes, by commands alone. */
    bool tray_open, locked;
    uint8_t event;      /* of the medium, not yet reported (MMC-6, table 381) */
    uint32_t attention; /* ASC and ASCQ of a unit attention that waits; 0: none */
    uint8_t sense[SCSI_SENSE_BYTES]; /* for REQUEST SENSE; a carrier that has sent it along leaves it empty */
};

/* There is a medium, and the tray is closed. */
static inline bool scsi_ready(const struct scsi_disk *disk)
{
    return disk->block != NULL && !disk->tray_open;
}

/* What a command is. */
struct scsi_command {
    uint8_t status;
    uint8_t sense[SCSI_SENSE_BYTES]; /* with SCSI_CHECK_CONDITION */
    /* A reply, for the initiator: cut to what it allows. */
    uint32_t reply_bytes;
    uint8_t reply[SCSI_REPLY_MAX];
    /* Or a request to the disk, whose data is `bytes` of the initiator's buffers (none: flush, unmap). */
    bool io;
    enum block_op op;
    unsigned flags;
    uint64_t offset, bytes;
};

/* `out`: the first bytes that the initiator sends, for commands with a parameter list. Fills `command`. */
void scsi_disk_execute(struct scsi_disk *disk, const uint8_t cdb[SCSI_CDB_BYTES], const uint8_t *out, size_t out_bytes,
                       struct scsi_command *command);
/* The status of a request that has failed with -errno. */
void scsi_disk_failed(struct scsi_command *command, int result);
/* The status of a command whose data went nowhere. */
void scsi_disk_aborted(struct scsi_command *command);

#endif
