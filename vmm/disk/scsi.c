/* SPDX-License-Identifier: MIT */
#include "disk/scsi_internal.h"

#include <errno.h>
#include <string.h>

#define FUA 0x08u
#define UNMAP_MAX_BLOCKS 0x400000u
#define UNMAP_LIST_HEADER 8u
#define UNMAP_DESCRIPTOR 16u

void scsi_fail(struct scsi_command *command, uint8_t key, uint32_t code)
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

void scsi_reply(struct scsi_command *command, uint32_t bytes, uint32_t allowed)
{
    command->reply_bytes = bytes < allowed ? bytes : allowed;
}

uint64_t scsi_blocks(const struct scsi_disk *disk)
{
    return scsi_ready(disk) ? block_bytes(disk->block) / disk->block_bytes : 0;
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

static void scsi_inquiry(struct scsi_disk *disk, const uint8_t *cdb, struct scsi_command *command)
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
    put_text(reply + 16, 16, disk->model[0] != '\0' ? disk->model : disk->cdrom ? "KAGE CD-ROM" : "KAGE HARDDISK");
    put_text(reply + 32, 4, "0.1");
    scsi_reply(command, 36, allowed);
}

/* ---- What a disk tells of itself ---- */

static void scsi_nothing(struct scsi_disk *disk, const uint8_t *cdb, struct scsi_command *command)
{
    (void)disk;
    (void)cdb;
    (void)command;
}

/* What a command left that came without its sense (ATAPI has none that goes with it), a unit attention, or nothing. */
static void scsi_request_sense(struct scsi_disk *disk, const uint8_t *cdb, struct scsi_command *command)
{
    struct scsi_command pending = {0};
    if (disk->sense[0] != 0) {
        memcpy(command->reply, disk->sense, SCSI_SENSE_BYTES);
        memset(disk->sense, 0, sizeof(disk->sense));
    } else if (disk->attention != 0) {
        scsi_fail(&pending, SENSE_UNIT_ATTENTION, disk->attention);
        memcpy(command->reply, pending.sense, SCSI_SENSE_BYTES);
        disk->attention = 0;
    } else {
        command->reply[0] = 0x70;
        command->reply[7] = SCSI_SENSE_BYTES - 8;
    }
    scsi_reply(command, SCSI_SENSE_BYTES, cdb[4]);
}

static void scsi_read_capacity_10(struct scsi_disk *disk, const uint8_t *cdb, struct scsi_command *command)
{
    uint64_t last = scsi_blocks(disk) - 1;
    (void)cdb;
    put32(command->reply, last > UINT32_MAX ? UINT32_MAX : (uint32_t)last);
    put32(command->reply + 4, disk->block_bytes);
    scsi_reply(command, 8, 8);
}

static void scsi_read_capacity_16(struct scsi_disk *disk, const uint8_t *cdb, struct scsi_command *command)
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

static void scsi_report_luns(struct scsi_disk *disk, const uint8_t *cdb, struct scsi_command *command)
{
    (void)disk;
    put32(command->reply, 8); /* LUN 0 alone */
    scsi_reply(command, 16, get32(cdb + 6));
}

uint32_t scsi_mode_put(const struct scsi_mode_page *pages, unsigned count, uint8_t page, bool changeable, uint8_t *at)
{
    uint32_t used = 0;
    for (unsigned i = 0; i < count; i++) {
        if (page != 0x3f && page != pages[i].code) {
            continue;
        }
        at[used] = pages[i].code;
        at[used + 1] = pages[i].bytes;
        if (!changeable) {
            memcpy(at + used + 2, pages[i].data, pages[i].bytes);
        }
        used += 2u + pages[i].bytes;
    }
    return used;
}

/* Mode pages of a disk: caching and control (SBC-3, 6.5; SPC-4, 7.5). */
static uint32_t scsi_mode_pages(uint8_t page, bool changeable, uint8_t *at)
{
    static const struct scsi_mode_page pages[] = {{0x08, 18, {0x04 /* WCE */}}, {0x0a, 10, {0}}};
    return scsi_mode_put(pages, sizeof(pages) / sizeof(pages[0]), page, changeable, at);
}

static void scsi_mode_sense(struct scsi_disk *disk, const uint8_t *cdb, struct scsi_command *command)
{
    bool ten = cdb[0] == 0x5a;
    uint8_t control = cdb[2] >> 6, *reply = command->reply;
    uint32_t head = ten ? 8 : 4;
    if (control == 3) {
        scsi_fail(command, SENSE_ILLEGAL_REQUEST, ASC_SAVING_PARAMETERS);
        return;
    }
    uint32_t pages = (disk->cdrom ? mmc_mode_pages(disk, cdb[2] & 0x3f, control == 1, reply + head)
                                  : scsi_mode_pages(cdb[2] & 0x3f, control == 1, reply + head));
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

bool scsi_place(const struct scsi_disk *disk, uint64_t lba, uint64_t blocks, struct scsi_command *command)
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

static void scsi_read(struct scsi_disk *disk, const uint8_t *cdb, struct scsi_command *command)
{
    uint64_t lba, blocks;
    scsi_range(cdb, &lba, &blocks);
    if (scsi_place(disk, lba, blocks, command)) {
        command->io = true;
        command->op = BLOCK_READ;
    }
}

static void scsi_write(struct scsi_disk *disk, const uint8_t *cdb, struct scsi_command *command)
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
static void scsi_verify(struct scsi_disk *disk, const uint8_t *cdb, struct scsi_command *command)
{
    uint64_t lba, blocks;
    scsi_range(cdb, &lba, &blocks);
    if ((cdb[1] & 6) != 0) {
        scsi_fail(command, SENSE_ILLEGAL_REQUEST, ASC_INVALID_FIELD_IN_CDB);
    } else {
        scsi_place(disk, lba, blocks, command);
    }
}

static void scsi_flush(struct scsi_disk *disk, const uint8_t *cdb, struct scsi_command *command)
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

static const struct scsi_row scsi_rows[] = {
    {0x00, SCSI_ANY, true, scsi_nothing}, /* TEST UNIT READY */
    {0x03, SCSI_ANY, false, scsi_request_sense},
    {0x08, SCSI_DISKS, true, scsi_read},  /* READ(6) */
    {0x0a, SCSI_DISKS, true, scsi_write}, /* WRITE(6) */
    {0x12, SCSI_ANY, false, scsi_inquiry},
    {0x1a, SCSI_ANY, false, scsi_mode_sense},
    {0x1b, SCSI_DISKS, false, scsi_nothing}, /* START STOP UNIT: a disk has nothing to stop */
    {0x1e, SCSI_DISKS, false, scsi_nothing}, /* PREVENT ALLOW MEDIUM REMOVAL */
    {0x25, SCSI_ANY, true, scsi_read_capacity_10},
    {0x28, SCSI_ANY, true, scsi_read},
    {0x2a, SCSI_DISKS, true, scsi_write},
    {0x2f, SCSI_DISKS, true, scsi_verify},
    {0x35, SCSI_ANY, true, scsi_flush},
    {0x5a, SCSI_ANY, false, scsi_mode_sense},
    {0x88, SCSI_DISKS, true, scsi_read},
    {0x8a, SCSI_DISKS, true, scsi_write},
    {0x8f, SCSI_DISKS, true, scsi_verify},
    {0x91, SCSI_ANY, true, scsi_flush},
    {0x9e, SCSI_DISKS, true, scsi_read_capacity_16}, /* SERVICE ACTION IN(16) */
    {0xa0, SCSI_ANY, false, scsi_report_luns},
    {0xa8, SCSI_ANY, true, scsi_read},
    {0xaa, SCSI_DISKS, true, scsi_write},
};
#define UNMAP 0x42u

static const struct scsi_row *scsi_find_row(const struct scsi_disk *disk, uint8_t opcode)
{
    for (unsigned i = 0; i < sizeof(scsi_rows) / sizeof(scsi_rows[0]); i++) {
        if (scsi_rows[i].opcode == opcode && !(scsi_rows[i].kind == SCSI_DISKS && disk->cdrom)) {
            return &scsi_rows[i];
        }
    }
    for (unsigned i = 0; i < mmc_row_count && disk->cdrom; i++) {
        if (mmc_rows[i].opcode == opcode) {
            return &mmc_rows[i];
        }
    }
    return NULL;
}

/* Commands that report a unit attention by themselves, or leave it to others (SPC-4, 5.14; MMC-6, 4.1.6). */
static bool scsi_passes_attention(uint8_t opcode)
{
    return opcode == 0x03 || opcode == 0x12 || opcode == 0xa0 || opcode == 0x46 || opcode == 0x4a;
}

void scsi_disk_execute(struct scsi_disk *disk, const uint8_t cdb[SCSI_CDB_BYTES], const uint8_t *out, size_t out_bytes,
                       struct scsi_command *command)
{
    memset(command, 0, sizeof(*command));
    if (disk->attention != 0 && !scsi_passes_attention(cdb[0])) {
        scsi_fail(command, SENSE_UNIT_ATTENTION, disk->attention);
        disk->attention = 0;
        return;
    }
    if (cdb[0] == UNMAP && !disk->cdrom) {
        scsi_unmap(disk, cdb, out, out_bytes, command);
        return;
    }
    const struct scsi_row *row = scsi_find_row(disk, cdb[0]);
    if (row == NULL) {
        scsi_fail(command, SENSE_ILLEGAL_REQUEST, ASC_INVALID_OPCODE);
    } else if (row->medium && !scsi_ready(disk)) {
        scsi_fail(command, SENSE_NOT_READY, disk->tray_open ? ASC_MEDIUM_NOT_PRESENT_TRAY_OPEN : ASC_MEDIUM_NOT_PRESENT);
    } else {
        row->execute(disk, cdb, command);
    }
}

void scsi_disk_failed(struct scsi_command *command, int result)
{
    if (result == -ENOSPC) {
        scsi_fail(command, SENSE_DATA_PROTECT, ASC_SPACE_ALLOCATION_FAILED);
    } else {
        scsi_fail(command, SENSE_MEDIUM_ERROR, ASC_IO_ERROR);
    }
}

void scsi_disk_aborted(struct scsi_command *command)
{
    scsi_fail(command, SENSE_ABORTED_COMMAND, ASC_DATA_PHASE_ERROR);
}
