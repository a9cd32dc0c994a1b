/* SPDX-License-Identifier: MIT */
/*
 * An ATA disk or ATAPI CD-ROM drive in front of a disk of block/block.h (ATA8-ACS, ACS-3): what a command means is known here and nowhere
 * else. Who carries commands (ide.c by registers and PRDs, ahci.c by FISes) moves the data, and makes the requests that come back as part
 * of a command. Nothing here waits, or sees guest memory.
 *
 *   ata_execute(registers) -> command -> transfer -> requests to the disk, ata_continue() between them -> ata_done() -> registers
 *   of PACKET, first       -> packet  -> ata_packet() -> command …
 */
#ifndef KAGE_DISK_ATA_H
#define KAGE_DISK_ATA_H

#include <stdbool.h>
#include <stdint.h>

#include "block/block.h"
#include "dev/disk_error.h"
#include "disk/scsi.h"

#define ATA_SECTOR 512u
#define ATA_PACKET_BYTES 12u
#define ATA_MULTIPLE_MAX 16u
#define ATA_TRIM_BLOCKS_MAX 8u /* of a list of ranges */
#define ATA_SERIAL_BYTES 20u
#define ATA_MODEL_BYTES 40u
#define ATA_REPLY_MAX SCSI_REPLY_MAX
#define ATA_NCQ_DEPTH 32u

/* Status and error (ACS-3, 6.2 and 6.3) */
#define ATA_BSY 0x80u
#define ATA_DRDY 0x40u
#define ATA_DF 0x20u
#define ATA_DSC 0x10u /* of old; drivers of old look at it */
#define ATA_DRQ 0x08u
#define ATA_ERR 0x01u
#define ATA_UNC 0x40u
#define ATA_IDNF 0x10u
#define ATA_ABRT 0x04u

/* Device register */
#define ATA_DEVICE_LBA 0x40u
#define ATA_DEVICE_1 0x10u
#define ATA_DEVICE_FUA 0x80u /* of NCQ */

/* Interrupt reason, in the count of PACKET */
#define ATA_REASON_PACKET 0x01u
#define ATA_REASON_IN 0x02u
#define ATA_REASON_END 0x03u

/* Of the command block: 48-bit commands use all bits, others the low half, and bits 27:24 of the LBA in `device`. */
struct ata_registers {
    uint8_t command, device, status, error;
    uint16_t feature, count;
    uint64_t lba;
};

struct ata_config {
    struct block *block; /* NULL: a CD-ROM drive without a medium */
    bool cdrom;
    bool write_cache;
    bool ncq; /* the carrier can queue */
    char serial[ATA_SERIAL_BYTES + 1];
    char model[ATA_MODEL_BYTES + 1]; /* "": our own */
    struct disk_errors errors;
};

struct ata_drive {
    struct ata_config config;
    bool read_only;
    struct scsi_disk scsi; /* a CD-ROM's command set */
    /* What commands change. */
    uint16_t cylinders, heads, sectors; /* as CHS addresses are read */
    uint8_t multiple;                   /* sectors of a block; 0: not set */
    uint8_t transfer_mode;              /* of SET FEATURES 03h: 0x4n: Ultra DMA n, 0x2n: multiword DMA n */
    bool write_cache, look_ahead, smart, standby;
    /* The error of a queued command, for the log (ACS-3, 9.10); `failed`: all others are refused until it is read. */
    struct {
        bool failed;
        uint8_t tag;
        struct ata_registers registers;
    } ncq;
};

enum ata_protocol { ATA_NO_DATA, ATA_PIO, ATA_DMA, ATA_PACKET, ATA_QUEUED };
enum ata_direction { ATA_NOWHERE, ATA_IN, ATA_OUT }; /* in: to the guest */

/* Of a command that is under way. */
struct ata_command {
    enum ata_protocol protocol;
    enum ata_direction direction;
    uint8_t code;
    bool packet;          /* it came as one */
    uint64_t bytes;       /* of data */
    uint32_t block_bytes; /* PIO: of a block, between two interrupts */
    bool io;              /* `bytes` of the disk; or, without a direction, a flush */
    enum block_op op;
    unsigned flags;
    uint64_t offset;
    uint64_t first_lba;
    /* Or the drive's own data, which comes first and alone: in, `reply`; out, a list (`trim`). */
    bool trim;
    uint32_t trim_at; /* the next entry */
    uint8_t reply[ATA_REPLY_MAX];
    uint8_t tag; /* of a queued command */
};

/* 0, or -EINVAL: the image is empty or too large. */
int ata_init(struct ata_drive *drive, const struct ata_config *config) __attribute__((warn_unused_result));
/* After power on and hardware reset, or (`soft`) SRST; registers become the signature (ACS-3, 9.12 of AHCI's SATA 3: table). */
void ata_reset(struct ata_drive *drive, bool soft, struct ata_registers *registers);
uint32_t ata_signature(const struct ata_drive *drive); /* as PxSIG has it */

/*
 * What stands in `registers` is looked at. True: `command` says what is to be done. False: the command is over, without data, and
 * `registers` say how.
 */
bool ata_execute(struct ata_drive *drive, struct ata_registers *registers, struct ata_command *command);
/* A packet has come. As ata_execute(); `dma`: its data goes by DMA. */
bool ata_packet(struct ata_drive *drive, const uint8_t packet[ATA_PACKET_BYTES], bool dma, struct ata_registers *registers, struct ata_command *command);
/*
 * The next request of a command whose data (`list`, of command->bytes) has come out. True: op, offset and `bytes` of it. False: there is none.
 * Entries beyond the disk end the command: `registers` say so.
 */
bool ata_trim_next(struct ata_drive *drive, struct ata_command *command, const uint8_t *list, uint64_t *offset, uint64_t *bytes,
                   struct ata_registers *registers);
/* All is done, or (`result` < 0, an errno) a request at `done_bytes` of the command's data has failed. Fills `registers`. */
void ata_done(struct ata_drive *drive, struct ata_command *command, int result, uint64_t done_bytes, struct ata_registers *registers);
/* The carrier has found the command's data nowhere: aborted. */
void ata_abort(struct ata_drive *drive, struct ata_command *command, struct ata_registers *registers);

#endif
