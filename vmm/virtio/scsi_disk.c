/* SPDX-License-Identifier: MIT */
#include "virtio/scsi_disk.h"

#include <errno.h>
#include <string.h>

#define SENSE_MEDIUM_ERROR 0x03u
#define SENSE_ILLEGAL_REQUEST 0x05u
#define SENSE_DATA_PROTECT 0x07u

/* Additional sense codes (SPC-4, table D.1), ASC and ASCQ */
#define ASC_INVALID_OPCODE 0x2000u
#define ASC_LBA_OUT_OF_RANGE 0x2100u
#define ASC_INVALID_FIELD_IN_CDB 0x2400u
#define ASC_INVALID_FIELD_IN_LIST 0x2600u
#define ASC_WRITE_PROTECTED 0x2700u
#define ASC_SPACE_ALLOCATION_FAILED 0x2707u
#define ASC_IO_ERROR 0x1100u
#define ASC_LIST_LENGTH 0x1a00u
#define ASC_SAVING_PARAMETERS 0x3900u

#define FUA 0x08u
#define UNMAP_MAX_BLOCKS 0x400000u
#define UNMAP_LIST_HEADER 8u
#define UNMAP_DESCRIPTOR 16u

static void put16(uint8_t *at, uint32_t value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}
static void put32(uint8_t *at, uint32_t value)
{
    put16(at, value >> 16);
    put16(at + 2, value & 0xffff);
}
static void put64(uint8_t *at, uint64_t value)
{
    put32(at, (uint32_t)(value >> 32));
    put32(at + 4, (uint32_t)value);
}
static uint32_t get16(const uint8_t *at)
{
    return (uint32_t)at[0] << 8 | at[1];
}
static uint32_t get32(const uint8_t *at)
{
    return get16(at) << 16 | get16(at + 2);
}
static uint64_t get64(const uint8_t *at)
{
    return (uint64_t)get32(at) << 32 | get32(at + 4);
}

static void scsi_fail(struct scsi_command *command, uint8_t key, uint32_t code)
{
    command->status = SCSI_CHECK_CONDITION;
    command->io = false;
    command->reply_bytes = 0;
    memset(command->sense, 0, sizeof(command->sense));
    command->sense[0] = 0x70; /* current, fixed format */
    command->sense[2] = key;
    command->sense[7] = SCSI_SENSE_BYTES - 8;
    command->sense[12] = (uint8_t)(code >> 8);
    command->sense[13] = (uint8_t)code;
}

/* The reply that stands in command->reply, cut to the allocation length. */
static void scsi_reply(struct scsi_command *command, uint32_t bytes, uint32_t allowed)
{
    command->reply_bytes = bytes < allowed ? bytes : allowed;
}

static uint64_t scsi_blocks(const struct scsi_disk *disk)
{
    return block_bytes(disk->block) / disk->block_bytes;
}

/* ---- INQUIRY and its pages (SPC-4, 6.6 and 7.8) ---- */

static void put_text(uint8_t *at, size_t room, const char *text)
{
    memset(at, ' ', room);
    for (size_t i = 0; i < room && text[i] != '\0'; i++) {
        at[i] = (uint8_t)text[i];
    }
}

static uint32_t scsi_page_supported(const struct scsi_disk *disk, uint8_t *page)
{
    static const uint8_t all[] = {0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2};
    uint32_t count = disk->cdrom ? 3 : sizeof(all);
    memcpy(page, all, count);
    return count;
}

static uint32_t scsi_page_serial(const struct scsi_disk *disk, uint8_t *page)
{
    memcpy(page, disk->serial, strlen(disk->serial));
    return (uint32_t)strlen(disk->serial);
}

static uint32_t scsi_page_identification(const struct scsi_disk *disk, uint8_t *page)
{
    uint32_t length = (uint32_t)strlen(disk->serial);
    page[0] = 2; /* ASCII */
    page[1] = 0; /* vendor-specific, of the logical unit */
    page[3] = (uint8_t)(length != 0 ? length : 4);
    memcpy(page + 4, length != 0 ? disk->serial : "kage", page[3]);
    return 4u + page[3];
}

static uint32_t scsi_page_limits(const struct scsi_disk *disk, uint8_t *page)
{
    memset(page, 0, 60);
    put32(page + 16, disk->read_only ? 0 : UNMAP_MAX_BLOCKS);
    put32(page + 20, 1); /* descriptors */
    put32(page + 24, block_discard_bytes(disk->block) / disk->block_bytes);
    return 60;
}

static uint32_t scsi_page_characteristics(const struct scsi_disk *disk, uint8_t *page)
{
    (void)disk;
    memset(page, 0, 60);
    put16(page, 1); /* does not rotate */
    return 60;
}

static uint32_t scsi_page_provisioning(const struct scsi_disk *disk, uint8_t *page)
{
    memset(page, 0, 4);
    page[1] = disk->read_only ? 0 : 0x80; /* LBPU: UNMAP */
    page[2] = 2;                          /* thin */
    return 4;
}

static const struct {
    uint8_t code;
    bool disks_only;
    uint32_t (*fill)(const struct scsi_disk *disk, uint8_t *page);
} scsi_pages[] = {
    {0x00, false, scsi_page_supported},
    {0x80, false, scsi_page_serial},
    {0x83, false, scsi_page_identification},
    {0xb0, true, scsi_page_limits},
    {0xb1, true, scsi_page_characteristics},
    {0xb2, true, scsi_page_provisioning},
};

static void scsi_inquiry(const struct scsi_disk *disk, const uint8_t *cdb, struct scsi_command *command)
{
    uint8_t *reply = command->reply, type = disk->cdrom ? 0x05 : 0x00;
    uint32_t allowed = get16(cdb + 3);
    if ((cdb[1] & 1) != 0) {
        for (unsigned i = 0; i < sizeof(scsi_pages) / sizeof(scsi_pages[0]); i++) {
            if (scsi_pages[i].code == cdb[2] && !(scsi_pages[i].disks_only && disk->cdrom)) {
                uint32_t bytes = scsi_pages[i].fill(disk, reply + 4);
                reply[0] = type;
                reply[1] = cdb[2];
                put16(reply + 2, bytes);
                scsi_reply(command, bytes + 4, allowed);
                return;
            }
        }
        scsi_fail(command, SENSE_ILLEGAL_REQUEST, ASC_INVALID_FIELD_IN_CDB);
        return;
    }
    if (cdb[2] != 0) {
        scsi_fail(command, SENSE_ILLEGAL_REQUEST, ASC_INVALID_FIELD_IN_CDB);
        return;
    }
    reply[0] = type;
    reply[1] = disk->cdrom ? 0x80 : 0; /* the medium can be removed */
    reply[2] = 5;                      /* SPC-3 */
    reply[3] = 2;
    reply[4] = 36 - 5;
    reply[7] = 2; /* command queuing */
    put_text(reply + 8, 8, "KAGE");
    put_text(reply + 16, 16, disk->cdrom ? "KAGE CD-ROM" : "KAGE HARDDISK");
    put_text(reply + 32, 4, "0.1");
    scsi_reply(command, 36, allowed);
}

/* ---- What a disk tells of itself ---- */

static void scsi_nothing(const struct scsi_disk *disk, const uint8_t *cdb, struct scsi_command *command)
{
    (void)disk;
    (void)cdb;
    (void)command;
}

static void scsi_request_sense(const struct scsi_disk *disk, const uint8_t *cdb, struct scsi_command *command)
{
    (void)disk;
    command->reply[0] = 0x70; /* there is none that waits: each came with its command */
    command->reply[7] = SCSI_SENSE_BYTES - 8;
    scsi_reply(command, SCSI_SENSE_BYTES, cdb[4]);
}

static void scsi_read_capacity_10(const struct scsi_disk *disk, const uint8_t *cdb, struct scsi_command *command)
{
    uint64_t last = scsi_blocks(disk) - 1;
    (void)cdb;
    put32(command->reply, last > UINT32_MAX ? UINT32_MAX : (uint32_t)last);
    put32(command->reply + 4, disk->block_bytes);
    scsi_reply(command, 8, 8);
}

static void scsi_read_capacity_16(const struct scsi_disk *disk, const uint8_t *cdb, struct scsi_command *command)
{
    if ((cdb[1] & 0x1f) != 0x10) {
        scsi_fail(command, SENSE_ILLEGAL_REQUEST, ASC_INVALID_FIELD_IN_CDB);
        return;
    }
    put64(command->reply, scsi_blocks(disk) - 1);
    put32(command->reply + 8, disk->block_bytes);
    command->reply[14] = disk->read_only ? 0 : 0x80; /* LBPME */
    scsi_reply(command, 32, get32(cdb + 10));
}

static void scsi_report_luns(const struct scsi_disk *disk, const uint8_t *cdb, struct scsi_command *command)
{
    (void)disk;
    put32(command->reply, 8); /* LUN 0 alone */
    scsi_reply(command, 16, get32(cdb + 6));
}

/* Mode pages: caching, control, and of a CD-ROM its capabilities. `changeable`: nothing is. */
static uint32_t scsi_mode_pages(const struct scsi_disk *disk, uint8_t page, bool changeable, uint8_t *at)
{
    static const struct {
        uint8_t code, bytes;
        bool cdrom, disk;
    } pages[] = {{0x08, 18, false, true}, {0x0a, 10, true, true}, {0x2a, 20, true, false}};
    uint32_t used = 0;
    for (unsigned i = 0; i < sizeof(pages) / sizeof(pages[0]); i++) {
        if ((page != 0x3f && page != pages[i].code) || !(disk->cdrom ? pages[i].cdrom : pages[i].disk)) {
            continue;
        }
        at[used] = pages[i].code;
        at[used + 1] = pages[i].bytes;
        if (!changeable && pages[i].code == 0x08) {
            at[used + 2] = 0x04; /* WCE */
        }
        if (!changeable && pages[i].code == 0x2a) {
            at[used + 2] = 0x3b; /* reads CD-R, CD-RW, DVD */
            at[used + 6] = 0x2d; /* tray, can eject and lock */
        }
        used += 2u + pages[i].bytes;
    }
    return used;
}

static void scsi_mode_sense(const struct scsi_disk *disk, const uint8_t *cdb, struct scsi_command *command)
{
    bool ten = cdb[0] == 0x5a;
    uint8_t control = cdb[2] >> 6, *reply = command->reply;
    uint32_t head = ten ? 8 : 4;
    if (control == 3) {
        scsi_fail(command, SENSE_ILLEGAL_REQUEST, ASC_SAVING_PARAMETERS);
        return;
    }
    uint32_t pages = scsi_mode_pages(disk, cdb[2] & 0x3f, control == 1, reply + head);
    if (pages == 0 || cdb[3] != 0) {
        scsi_fail(command, SENSE_ILLEGAL_REQUEST, ASC_INVALID_FIELD_IN_CDB);
        return;
    }
    uint8_t specific = disk->cdrom ? 0 : (uint8_t)((disk->read_only ? 0x80 : 0) | 0x10 /* DPOFUA */);
    if (ten) {
        put16(reply, head + pages - 2);
        reply[3] = specific;
    } else {
        reply[0] = (uint8_t)(head + pages - 1);
        reply[2] = specific;
    }
    scsi_reply(command, head + pages, ten ? get16(cdb + 7) : cdb[4]);
}

/* ---- CD-ROM (MMC-6) ---- */

static void put_msf(uint8_t *at, bool msf, uint32_t lba)
{
    if (msf) {
        lba += 150;
        at[1] = (uint8_t)(lba / 75 / 60);
        at[2] = (uint8_t)(lba / 75 % 60);
        at[3] = (uint8_t)(lba % 75);
    } else {
        put32(at, lba);
    }
}

/* One track of data, and the lead-out behind it. */
static void scsi_read_toc(const struct scsi_disk *disk, const uint8_t *cdb, struct scsi_command *command)
{
    bool msf = (cdb[1] & 2) != 0;
    uint8_t format = cdb[2] & 0xf, *reply = command->reply;
    uint64_t blocks = scsi_blocks(disk);
    if (format > 1 || (format == 0 && cdb[6] > 1 && cdb[6] != 0xaa)) {
        scsi_fail(command, SENSE_ILLEGAL_REQUEST, ASC_INVALID_FIELD_IN_CDB);
        return;
    }
    uint32_t bytes = 4;
    reply[2] = reply[3] = 1; /* first and last track, or session */
    if (format == 1 || cdb[6] <= 1) {
        reply[bytes + 1] = 0x14; /* data */
        reply[bytes + 2] = 1;
        put_msf(reply + bytes + 4, msf, 0);
        bytes += 8;
    }
    if (format == 0) {
        reply[bytes + 1] = 0x14;
        reply[bytes + 2] = 0xaa;
        put_msf(reply + bytes + 4, msf, blocks < UINT32_MAX ? (uint32_t)blocks : UINT32_MAX);
        bytes += 8;
    }
    put16(reply, bytes - 2);
    scsi_reply(command, bytes, get16(cdb + 7));
}

static void scsi_get_configuration(const struct scsi_disk *disk, const uint8_t *cdb, struct scsi_command *command)
{
    bool dvd = block_bytes(disk->block) > UINT64_C(900) << 20;
    put32(command->reply, 4);
    put16(command->reply + 6, dvd ? 0x0010 : 0x0008); /* profile */
    scsi_reply(command, 8, get16(cdb + 7));
}

static void scsi_get_event_status(const struct scsi_disk *disk, const uint8_t *cdb, struct scsi_command *command)
{
    (void)disk;
    if ((cdb[1] & 1) == 0) { /* asynchronous: not here */
        scsi_fail(command, SENSE_ILLEGAL_REQUEST, ASC_INVALID_FIELD_IN_CDB);
        return;
    }
    bool media = (cdb[4] & 0x10) != 0;
    put16(command->reply, media ? 6 : 2);
    command->reply[2] = media ? 4 : 0x80; /* the class; none that was asked for */
    command->reply[3] = 0x10;             /* supported: media */
    command->reply[5] = 2;                /* a medium is there, nothing has changed */
    scsi_reply(command, media ? 8 : 4, get16(cdb + 7));
}

/* ---- Data ---- */

/* LBA and length, where commands of 6, 10, 12 and 16 bytes have them (SPC-4, 4.3). */
static void scsi_range(const uint8_t *cdb, uint64_t *lba, uint64_t *blocks)
{
    switch (cdb[0] >> 5) {
    case 0:
        *lba = get32(cdb) & 0x1fffff;
        *blocks = cdb[4] != 0 ? cdb[4] : 256;
        break;
    case 5:
        *lba = get32(cdb + 2);
        *blocks = get32(cdb + 6);
        break;
    case 4:
        *lba = get64(cdb + 2);
        *blocks = get32(cdb + 10);
        break;
    default:
        *lba = get32(cdb + 2);
        *blocks = get16(cdb + 7);
        break;
    }
}

/* False: it does not lie on the disk. */
static bool scsi_place(const struct scsi_disk *disk, uint64_t lba, uint64_t blocks, struct scsi_command *command)
{
    uint64_t all = scsi_blocks(disk);
    if (lba > all || blocks > all - lba) {
        scsi_fail(command, SENSE_ILLEGAL_REQUEST, ASC_LBA_OUT_OF_RANGE);
        return false;
    }
    command->offset = lba * disk->block_bytes;
    command->bytes = blocks * disk->block_bytes;
    return true;
}

static void scsi_read(const struct scsi_disk *disk, const uint8_t *cdb, struct scsi_command *command)
{
    uint64_t lba, blocks;
    scsi_range(cdb, &lba, &blocks);
    if (scsi_place(disk, lba, blocks, command)) {
        command->io = true;
        command->op = BLOCK_READ;
    }
}

static void scsi_write(const struct scsi_disk *disk, const uint8_t *cdb, struct scsi_command *command)
{
    uint64_t lba, blocks;
    scsi_range(cdb, &lba, &blocks);
    if (disk->read_only) {
        scsi_fail(command, SENSE_DATA_PROTECT, ASC_WRITE_PROTECTED);
    } else if (scsi_place(disk, lba, blocks, command)) {
        command->io = true;
        command->op = BLOCK_WRITE;
        command->flags = cdb[0] != 0x0a && (cdb[1] & FUA) != 0 ? BLOCK_FUA : 0;
    }
}

/* Without a comparison of bytes: the medium is not checked. */
static void scsi_verify(const struct scsi_disk *disk, const uint8_t *cdb, struct scsi_command *command)
{
    uint64_t lba, blocks;
    scsi_range(cdb, &lba, &blocks);
    if ((cdb[1] & 6) != 0) {
        scsi_fail(command, SENSE_ILLEGAL_REQUEST, ASC_INVALID_FIELD_IN_CDB);
    } else {
        scsi_place(disk, lba, blocks, command);
    }
}

static void scsi_flush(const struct scsi_disk *disk, const uint8_t *cdb, struct scsi_command *command)
{
    (void)disk;
    (void)cdb;
    command->io = true; /* all of it, whatever range is named */
    command->op = BLOCK_FLUSH;
}

static void scsi_unmap(const struct scsi_disk *disk, const uint8_t *cdb, const uint8_t *list, size_t list_bytes, struct scsi_command *command)
{
    uint32_t bytes = get16(cdb + 7);
    if (disk->read_only) {
        scsi_fail(command, SENSE_DATA_PROTECT, ASC_WRITE_PROTECTED);
    } else if (bytes == 0) {
        return;
    } else if (bytes > list_bytes || bytes < UNMAP_LIST_HEADER || get16(list + 2) > bytes - UNMAP_LIST_HEADER) {
        scsi_fail(command, SENSE_ILLEGAL_REQUEST, ASC_LIST_LENGTH);
    } else if (get16(list + 2) / UNMAP_DESCRIPTOR > 1) {
        scsi_fail(command, SENSE_ILLEGAL_REQUEST, ASC_INVALID_FIELD_IN_LIST);
    } else if (get16(list + 2) >= UNMAP_DESCRIPTOR) {
        uint32_t blocks = get32(list + UNMAP_LIST_HEADER + 8);
        if (blocks > UNMAP_MAX_BLOCKS) {
            scsi_fail(command, SENSE_ILLEGAL_REQUEST, ASC_INVALID_FIELD_IN_LIST);
        } else if (scsi_place(disk, get64(list + UNMAP_LIST_HEADER), blocks, command)) {
            command->io = true;
            command->op = BLOCK_DISCARD;
        }
    }
}

/* ---- The table ---- */

enum scsi_kind { SCSI_ANY, SCSI_DISKS, SCSI_CDROMS };

static const struct {
    uint8_t opcode;
    uint8_t kind;
    void (*execute)(const struct scsi_disk *disk, const uint8_t *cdb, struct scsi_command *command);
} scsi_commands[] = {
    {0x00, SCSI_ANY, scsi_nothing}, /* TEST UNIT READY */
    {0x03, SCSI_ANY, scsi_request_sense},
    {0x08, SCSI_DISKS, scsi_read},  /* READ(6) */
    {0x0a, SCSI_DISKS, scsi_write}, /* WRITE(6) */
    {0x12, SCSI_ANY, scsi_inquiry},
    {0x1a, SCSI_ANY, scsi_mode_sense},
    {0x1b, SCSI_ANY, scsi_nothing}, /* START STOP UNIT: the medium stays where it is */
    {0x1e, SCSI_ANY, scsi_nothing}, /* PREVENT ALLOW MEDIUM REMOVAL */
    {0x25, SCSI_ANY, scsi_read_capacity_10},
    {0x28, SCSI_ANY, scsi_read},
    {0x2a, SCSI_DISKS, scsi_write},
    {0x2f, SCSI_DISKS, scsi_verify},
    {0x35, SCSI_ANY, scsi_flush},
    {0x43, SCSI_CDROMS, scsi_read_toc},
    {0x46, SCSI_CDROMS, scsi_get_configuration},
    {0x4a, SCSI_CDROMS, scsi_get_event_status},
    {0x5a, SCSI_ANY, scsi_mode_sense},
    {0x88, SCSI_DISKS, scsi_read},
    {0x8a, SCSI_DISKS, scsi_write},
    {0x8f, SCSI_DISKS, scsi_verify},
    {0x91, SCSI_ANY, scsi_flush},
    {0x9e, SCSI_DISKS, scsi_read_capacity_16}, /* SERVICE ACTION IN(16) */
    {0xa0, SCSI_ANY, scsi_report_luns},
    {0xa8, SCSI_ANY, scsi_read},
    {0xaa, SCSI_DISKS, scsi_write},
};
#define UNMAP 0x42u

void scsi_disk_execute(const struct scsi_disk *disk, const uint8_t cdb[SCSI_CDB_BYTES], const uint8_t *out, size_t out_bytes,
                       struct scsi_command *command)
{
    memset(command, 0, sizeof(*command));
    if (cdb[0] == UNMAP && !disk->cdrom) {
        scsi_unmap(disk, cdb, out, out_bytes, command);
        return;
    }
    for (unsigned i = 0; i < sizeof(scsi_commands) / sizeof(scsi_commands[0]); i++) {
        bool ours = scsi_commands[i].kind == SCSI_ANY || (scsi_commands[i].kind == SCSI_CDROMS) == disk->cdrom;
        if (scsi_commands[i].opcode == cdb[0] && ours) {
            scsi_commands[i].execute(disk, cdb, command);
            return;
        }
    }
    scsi_fail(command, SENSE_ILLEGAL_REQUEST, ASC_INVALID_OPCODE);
}

void scsi_disk_failed(struct scsi_command *command, int result)
{
    if (result == -ENOSPC) {
        scsi_fail(command, SENSE_DATA_PROTECT, ASC_SPACE_ALLOCATION_FAILED);
    } else {
        scsi_fail(command, SENSE_MEDIUM_ERROR, ASC_IO_ERROR);
    }
}
