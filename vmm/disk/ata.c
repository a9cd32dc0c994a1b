/* SPDX-License-Identifier: MIT */
/*
 * Commands as a table; what each one checks, and what it asks of the disk. Names are those of ACS-3, and of ATA-3 for what that dropped.
 */
#include "disk/ata_internal.h"

#include <errno.h>
#include <string.h>

#define SECTORS_48 UINT64_C(0xffffffffffff)

/* ---- Ends ---- */

static void ata_end(struct ata_registers *registers)
{
    registers->status = ATA_DRDY | ATA_DSC;
    registers->error = 0;
}

static void ata_fail(struct ata_registers *registers, uint8_t error)
{
    registers->status = ATA_DRDY | ATA_DSC | ATA_ERR;
    registers->error = error;
}

static bool ata_refuse(struct ata_registers *registers, uint8_t error)
{
    ata_fail(registers, error);
    return false;
}

static bool ata_over(struct ata_registers *registers)
{
    ata_end(registers);
    return false;
}

static uint64_t ata_sectors(const struct ata_drive *drive)
{
    return drive->config.cdrom ? 0 : block_bytes(drive->config.block) / ATA_SECTOR;
}

/* ---- Where ---- */

static void ata_set_lba(struct ata_registers *registers, uint64_t lba, bool extended)
{
    registers->lba = extended ? lba & SECTORS_48 : lba & 0xffffff;
    if (!extended) {
        registers->device = (uint8_t)((registers->device & 0xf0) | (lba >> 24 & 0xf));
    }
}

/* An address by cylinder, head and sector; UINT64_MAX: it is none. */
static uint64_t ata_chs(const struct ata_drive *drive, const struct ata_registers *registers)
{
    uint64_t cylinder = registers->lba >> 8 & 0xffff, head = registers->device & 0xf, sector = registers->lba & 0xff;
    if (sector == 0 || sector > drive->sectors || head >= drive->heads) {
        return UINT64_MAX;
    }
    return (cylinder * drive->heads + head) * drive->sectors + sector - 1;
}

static uint64_t ata_lba(const struct ata_drive *drive, const struct ata_registers *registers, bool extended)
{
    if (extended) {
        return registers->lba & SECTORS_48;
    }
    if ((registers->device & ATA_DEVICE_LBA) == 0) {
        return ata_chs(drive, registers);
    }
    return (registers->lba & 0xffffff) | (uint64_t)(registers->device & 0xf) << 24;
}

static bool ata_place(const struct ata_drive *drive, uint64_t lba, uint64_t count, struct ata_command *command, struct ata_registers *registers)
{
    uint64_t all = ata_sectors(drive);
    if (lba > all || count > all - lba) {
        return ata_refuse(registers, ATA_IDNF);
    }
    command->first_lba = lba;
    command->offset = lba * ATA_SECTOR;
    command->bytes = count * ATA_SECTOR;
    return true;
}

/* ---- Reads and writes ---- */

enum {
    EXT = 1,      /* 48-bit */
    MULTIPLE = 2, /* blocks as SET MULTIPLE MODE says */
    FUA = 4,
    PACKET_TOO = 8, /* an ATAPI drive has it */
    PACKET_ONLY = 16,
};

static bool ata_data(struct ata_drive *drive, const struct ata_row *row, struct ata_registers *registers, struct ata_command *command)
{
    bool extended = (row->flags & EXT) != 0;
    uint32_t count = extended ? registers->count : registers->count & 0xff;
    uint32_t sectors = count != 0 ? count : extended ? 0x10000 : 0x100;
    if ((row->flags & MULTIPLE) != 0 && drive->multiple == 0) {
        return ata_refuse(registers, ATA_ABRT);
    }
    if (extended && (registers->device & ATA_DEVICE_LBA) == 0) {
        return ata_refuse(registers, ATA_ABRT);
    }
    if (!ata_place(drive, ata_lba(drive, registers, extended), sectors, command, registers)) {
        return false;
    }
    if (row->op == BLOCK_WRITE && drive->read_only) {
        return ata_refuse(registers, ATA_ABRT);
    }
    command->io = true;
    command->op = row->op;
    command->flags = row->op == BLOCK_WRITE && ((row->flags & FUA) != 0 || !drive->write_cache) ? BLOCK_FUA : 0;
    command->block_bytes = ATA_SECTOR * ((row->flags & MULTIPLE) != 0 ? drive->multiple : 1);
    return true;
}

/* READ and WRITE FPDMA QUEUED: the count is the feature's place, the tag the count's (ACS-3, 7.22). */
static bool ata_queued(struct ata_drive *drive, const struct ata_row *row, struct ata_registers *registers, struct ata_command *command)
{
    command->tag = (uint8_t)(registers->count >> 3 & 0x1f);
    if (!drive->config.ncq || (registers->device & ATA_DEVICE_LBA) == 0) {
        return ata_refuse(registers, ATA_ABRT);
    }
    uint32_t sectors = registers->feature != 0 ? registers->feature : 0x10000;
    if (!ata_place(drive, registers->lba & SECTORS_48, sectors, command, registers)) {
        return false;
    }
    if (row->op == BLOCK_WRITE && drive->read_only) {
        return ata_refuse(registers, ATA_ABRT);
    }
    command->io = true;
    command->op = row->op;
    command->flags = row->op == BLOCK_WRITE && ((registers->device & ATA_DEVICE_FUA) != 0 || !drive->write_cache) ? BLOCK_FUA : 0;
    return true;
}

/* The medium is not read: an image has no sectors that fail before they are. */
static bool ata_verify(struct ata_drive *drive, const struct ata_row *row, struct ata_registers *registers, struct ata_command *command)
{
    bool extended = (row->flags & EXT) != 0;
    uint32_t count = extended ? registers->count : registers->count & 0xff;
    uint32_t sectors = count != 0 ? count : extended ? 0x10000 : 0x100;
    return ata_place(drive, ata_lba(drive, registers, extended), sectors, command, registers) && ata_over(registers);
}

static bool ata_flush(struct ata_drive *drive, const struct ata_row *row, struct ata_registers *registers, struct ata_command *command)
{
    (void)drive;
    (void)row;
    (void)registers;
    command->io = true;
    command->op = BLOCK_FLUSH;
    return true;
}

/* DATA SET MANAGEMENT, TRIM alone: a list of ranges comes. */
static bool ata_data_set(struct ata_drive *drive, const struct ata_row *row, struct ata_registers *registers, struct ata_command *command)
{
    (void)row;
    if ((registers->feature & 0xff) != 1 || registers->count == 0 || registers->count > ATA_TRIM_BLOCKS_MAX || drive->read_only) {
        return ata_refuse(registers, ATA_ABRT);
    }
    command->trim = true;
    command->op = BLOCK_DISCARD;
    command->bytes = registers->count * ATA_SECTOR;
    return true;
}

/* ---- What a drive tells of itself ---- */

static bool ata_reply(struct ata_command *command)
{
    command->bytes = ATA_SECTOR;
    command->block_bytes = ATA_SECTOR;
    return true;
}

static bool ata_identify(struct ata_drive *drive, const struct ata_row *row, struct ata_registers *registers, struct ata_command *command)
{
    (void)row;
    (void)registers;
    ata_fill_identify(drive, command->reply);
    return ata_reply(command);
}

/* An ATAPI drive refuses a disk's commands of old by saying what it is (ACS-3, 7.12.6). */
static bool ata_not_a_disk(struct ata_drive *drive, const struct ata_row *row, struct ata_registers *registers, struct ata_command *command)
{
    (void)row;
    (void)command;
    ata_put_signature(drive, registers);
    return ata_refuse(registers, ATA_ABRT);
}

static bool ata_read_log(struct ata_drive *drive, const struct ata_row *row, struct ata_registers *registers, struct ata_command *command)
{
    (void)row;
    uint8_t address = (uint8_t)registers->lba;
    uint16_t page = (uint16_t)((registers->lba >> 8 & 0xff) | (registers->lba >> 24 & 0xff00));
    if (registers->count != 1 || page != 0 || !ata_fill_log(drive, address, command->reply)) {
        return ata_refuse(registers, ATA_ABRT);
    }
    return ata_reply(command);
}

static bool ata_smart(struct ata_drive *drive, const struct ata_row *row, struct ata_registers *registers, struct ata_command *command)
{
    (void)row;
    uint8_t feature = (uint8_t)registers->feature;
    if ((registers->lba >> 8 & 0xffff) != SMART_KEY || (!drive->smart && feature != SMART_ENABLE)) {
        return ata_refuse(registers, ATA_ABRT);
    }
    switch (feature) {
    case SMART_ENABLE:
    case SMART_DISABLE:
        drive->smart = feature == SMART_ENABLE;
        return ata_over(registers);
    case SMART_AUTOSAVE:
    case SMART_RETURN_STATUS: /* no threshold is exceeded: the key stays as it is */
        return ata_over(registers);
    case SMART_READ_DATA:
    case SMART_READ_THRESHOLDS:
    case SMART_READ_LOG:
        if (ata_fill_smart(feature, (uint8_t)registers->lba, command->reply)) {
            command->protocol = ATA_PIO;
            command->direction = ATA_IN;
            return ata_reply(command);
        }
        return ata_refuse(registers, ATA_ABRT);
    default:
        return ata_refuse(registers, ATA_ABRT);
    }
}

/* ---- Settings ---- */

static bool ata_set_transfer_mode(struct ata_drive *drive, uint8_t mode)
{
    static const struct {
        uint8_t kind, modes;
    } kinds[] = {{0x00, 2}, {0x08, 5}, {0x20, 3}, {0x40, 6}}; /* PIO, PIO with flow control, multiword DMA, Ultra DMA */
    for (unsigned i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if ((mode & 0xf8) == kinds[i].kind && (mode & 7) < kinds[i].modes) {
            drive->transfer_mode = mode;
            return true;
        }
    }
    return false;
}

static bool ata_set_features(struct ata_drive *drive, const struct ata_row *row, struct ata_registers *registers, struct ata_command *command)
{
    (void)row;
    switch (registers->feature & 0xff) {
    case 0x02: /* write cache on */
        drive->write_cache = true;
        return ata_over(registers);
    case 0x82: /* off: what it has goes out */
        drive->write_cache = false;
        command->io = !drive->config.cdrom;
        command->op = BLOCK_FLUSH;
        return command->io || ata_over(registers);
    case 0x03:
        return ata_set_transfer_mode(drive, (uint8_t)registers->count) ? ata_over(registers) : ata_refuse(registers, ATA_ABRT);
    case 0x55:
    case 0xaa:
        drive->look_ahead = (registers->feature & 0xff) == 0xaa;
        return ata_over(registers);
    case 0x66: /* settings stay over a soft reset, or do not: they do */
    case 0xcc:
        return ata_over(registers);
    default:
        return ata_refuse(registers, ATA_ABRT);
    }
}

static bool ata_set_multiple(struct ata_drive *drive, const struct ata_row *row, struct ata_registers *registers, struct ata_command *command)
{
    uint32_t count = registers->count & 0xff;
    (void)row;
    (void)command;
    if (count > ATA_MULTIPLE_MAX || (count & (count - 1)) != 0) {
        return ata_refuse(registers, ATA_ABRT);
    }
    drive->multiple = (uint8_t)count;
    return ata_over(registers);
}

/* INITIALIZE DEVICE PARAMETERS: how CHS addresses are read from now on (ATA-3, 7.9). */
static bool ata_set_geometry(struct ata_drive *drive, const struct ata_row *row, struct ata_registers *registers, struct ata_command *command)
{
    uint16_t heads = (uint16_t)((registers->device & 0xf) + 1), sectors = registers->count & 0xff;
    (void)row;
    (void)command;
    if (sectors == 0) {
        return ata_refuse(registers, ATA_ABRT);
    }
    uint64_t cylinders = ata_sectors(drive) / ((uint64_t)heads * sectors);
    drive->heads = heads;
    drive->sectors = sectors;
    drive->cylinders = (uint16_t)(cylinders < 65535 ? cylinders : 65535);
    return ata_over(registers);
}

static bool ata_check_power(struct ata_drive *drive, const struct ata_row *row, struct ata_registers *registers, struct ata_command *command)
{
    (void)row;
    (void)command;
    registers->count = drive->standby ? 0x00 : 0xff;
    return ata_over(registers);
}

static bool ata_set_power(struct ata_drive *drive, const struct ata_row *row, struct ata_registers *registers, struct ata_command *command)
{
    (void)row;
    (void)registers;
    drive->standby = command->code != 0xe1 && command->code != 0xe3;
    command->io = !drive->config.cdrom && drive->standby; /* who goes to sleep writes its cache out first */
    command->op = BLOCK_FLUSH;
    return command->io || ata_over(registers);
}

static bool ata_nothing(struct ata_drive *drive, const struct ata_row *row, struct ata_registers *registers, struct ata_command *command)
{
    (void)drive;
    (void)row;
    (void)command;
    return ata_over(registers);
}

static bool ata_nop(struct ata_drive *drive, const struct ata_row *row, struct ata_registers *registers, struct ata_command *command)
{
    (void)drive;
    (void)row;
    (void)command;
    return ata_refuse(registers, ATA_ABRT); /* always (ACS-3, 7.16) */
}

static bool ata_diagnostic(struct ata_drive *drive, const struct ata_row *row, struct ata_registers *registers, struct ata_command *command)
{
    (void)row;
    (void)command;
    ata_reset(drive, true, registers);
    return false;
}

/* ---- PACKET ---- */

static bool ata_take_packet(struct ata_drive *drive, const struct ata_row *row, struct ata_registers *registers, struct ata_command *command)
{
    (void)drive;
    (void)row;
    if ((registers->feature & 2) != 0) { /* overlapped */
        return ata_refuse(registers, ATA_ABRT);
    }
    command->bytes = ATA_PACKET_BYTES;
    command->block_bytes = ATA_PACKET_BYTES;
    return true;
}

static void ata_end_packet(struct ata_registers *registers)
{
    registers->count = (uint16_t)((registers->count & 0xf8) | ATA_REASON_END);
}

static void ata_fail_packet(struct ata_drive *drive, const struct scsi_command *answer, struct ata_registers *registers)
{
    unsigned key = answer->sense[2] & 0xfu;
    memcpy(drive->scsi.sense, answer->sense, SCSI_SENSE_BYTES);
    registers->status = ATA_DRDY | ATA_ERR; /* CHK */
    registers->error = (uint8_t)(key << 4 | (key == 0x05 ? ATA_ABRT : 0));
    ata_end_packet(registers);
}

/* Bytes of a block of PIO: what the guest allows, even unless it is all there is (ACS-3, 7.18.4). */
static uint32_t ata_packet_block(const struct ata_registers *registers)
{
    uint32_t limit = registers->lba >> 8 & 0xffff;
    return limit == 0 || limit == 0xffff ? 0xfffe : limit == 1 ? 2 : limit & ~1u;
}

bool ata_packet(struct ata_drive *drive, const uint8_t packet[ATA_PACKET_BYTES], bool dma, struct ata_registers *registers, struct ata_command *command)
{
    uint8_t cdb[SCSI_CDB_BYTES] = {0};
    struct scsi_command answer;
    memcpy(cdb, packet, ATA_PACKET_BYTES);
    if (cdb[0] != 0x03) {
        memset(drive->scsi.sense, 0, sizeof(drive->scsi.sense)); /* only the command right before is told of */
    }
    scsi_disk_execute(&drive->scsi, cdb, NULL, 0, &answer);
    *command = (struct ata_command){.code = 0xa0, .packet = true, .block_bytes = ata_packet_block(registers)};
    if (answer.status != SCSI_GOOD) {
        ata_fail_packet(drive, &answer, registers);
        return false;
    }
    command->io = answer.io;
    command->op = answer.op;
    command->offset = answer.offset;
    command->bytes = answer.io ? answer.bytes : answer.reply_bytes;
    if (answer.io && answer.op == BLOCK_READ && answer.bytes == 0) {
        command->io = false;
    }
    if (!command->io && command->bytes == 0) {
        ata_end_packet(registers);
        return ata_over(registers);
    }
    memcpy(command->reply, answer.reply, answer.reply_bytes);
    command->protocol = command->bytes == 0 ? ATA_NO_DATA : dma ? ATA_DMA : ATA_PIO;
    command->direction = command->bytes == 0 ? ATA_NOWHERE : ATA_IN;
    return true;
}

/* ---- The table ---- */

#define DATA(opcode, protocol, direction, op, flags) {opcode, flags, protocol, direction, op, ata_data}
#define PLAIN(opcode, flags, execute) {opcode, flags, ATA_NO_DATA, ATA_NOWHERE, BLOCK_READ, execute}

static const struct ata_row ata_rows[] = {
    PLAIN(0x00, PACKET_TOO, ata_nop),
    {0x06, EXT, ATA_DMA, ATA_OUT, BLOCK_DISCARD, ata_data_set},
    PLAIN(0x08, PACKET_ONLY, ata_diagnostic), /* DEVICE RESET */
    PLAIN(0x10, 0, ata_nothing),              /* RECALIBRATE */
    DATA(0x20, ATA_PIO, ATA_IN, BLOCK_READ, 0),
    DATA(0x21, ATA_PIO, ATA_IN, BLOCK_READ, 0),
    DATA(0x24, ATA_PIO, ATA_IN, BLOCK_READ, EXT),
    DATA(0x25, ATA_DMA, ATA_IN, BLOCK_READ, EXT),
    DATA(0x29, ATA_PIO, ATA_IN, BLOCK_READ, EXT | MULTIPLE),
    {0x2f, EXT, ATA_PIO, ATA_IN, BLOCK_READ, ata_read_log},
    DATA(0x30, ATA_PIO, ATA_OUT, BLOCK_WRITE, 0),
    DATA(0x31, ATA_PIO, ATA_OUT, BLOCK_WRITE, 0),
    DATA(0x34, ATA_PIO, ATA_OUT, BLOCK_WRITE, EXT),
    DATA(0x35, ATA_DMA, ATA_OUT, BLOCK_WRITE, EXT),
    DATA(0x39, ATA_PIO, ATA_OUT, BLOCK_WRITE, EXT | MULTIPLE),
    DATA(0x3c, ATA_PIO, ATA_OUT, BLOCK_WRITE, FUA), /* WRITE VERIFY */
    DATA(0x3d, ATA_DMA, ATA_OUT, BLOCK_WRITE, EXT | FUA),
    PLAIN(0x40, 0, ata_verify),
    PLAIN(0x41, 0, ata_verify),
    PLAIN(0x42, EXT, ata_verify),
    {0x47, EXT, ATA_DMA, ATA_IN, BLOCK_READ, ata_read_log},
    {0x60, EXT, ATA_QUEUED, ATA_IN, BLOCK_READ, ata_queued},
    {0x61, EXT, ATA_QUEUED, ATA_OUT, BLOCK_WRITE, ata_queued},
    PLAIN(0x70, 0, ata_nothing), /* SEEK */
    PLAIN(0x90, PACKET_TOO, ata_diagnostic),
    PLAIN(0x91, 0, ata_set_geometry),
    {0xa0, PACKET_ONLY, ATA_PACKET, ATA_OUT, BLOCK_READ, ata_take_packet},
    {0xa1, PACKET_ONLY, ATA_PIO, ATA_IN, BLOCK_READ, ata_identify},
    PLAIN(0xb0, 0, ata_smart),
    DATA(0xc4, ATA_PIO, ATA_IN, BLOCK_READ, MULTIPLE),
    DATA(0xc5, ATA_PIO, ATA_OUT, BLOCK_WRITE, MULTIPLE),
    PLAIN(0xc6, 0, ata_set_multiple),
    DATA(0xc8, ATA_DMA, ATA_IN, BLOCK_READ, 0),
    DATA(0xc9, ATA_DMA, ATA_IN, BLOCK_READ, 0),
    DATA(0xca, ATA_DMA, ATA_OUT, BLOCK_WRITE, 0),
    DATA(0xcb, ATA_DMA, ATA_OUT, BLOCK_WRITE, 0),
    DATA(0xce, ATA_PIO, ATA_OUT, BLOCK_WRITE, EXT | MULTIPLE | FUA),
    PLAIN(0xe0, PACKET_TOO, ata_set_power), /* STANDBY IMMEDIATE */
    PLAIN(0xe1, PACKET_TOO, ata_set_power), /* IDLE IMMEDIATE */
    PLAIN(0xe2, PACKET_TOO, ata_set_power), /* STANDBY */
    PLAIN(0xe3, PACKET_TOO, ata_set_power), /* IDLE */
    PLAIN(0xe5, PACKET_TOO, ata_check_power),
    PLAIN(0xe6, PACKET_TOO, ata_set_power), /* SLEEP */
    PLAIN(0xe7, 0, ata_flush),
    PLAIN(0xea, EXT, ata_flush),
    {0xec, 0, ATA_PIO, ATA_IN, BLOCK_READ, ata_identify},
    PLAIN(0xef, PACKET_TOO, ata_set_features),
};

static const struct ata_row *ata_find_row(const struct ata_drive *drive, uint8_t opcode)
{
    static const struct ata_row not_a_disk = PLAIN(0, PACKET_TOO, ata_not_a_disk);
    for (unsigned i = 0; i < sizeof(ata_rows) / sizeof(ata_rows[0]); i++) {
        if (ata_rows[i].opcode != opcode) {
            continue;
        }
        if (drive->config.cdrom ? (ata_rows[i].flags & (PACKET_TOO | PACKET_ONLY)) != 0 : (ata_rows[i].flags & PACKET_ONLY) == 0) {
            return &ata_rows[i];
        }
        return opcode == 0x20 || opcode == 0xec ? &not_a_disk : NULL;
    }
    return NULL;
}

bool ata_execute(struct ata_drive *drive, struct ata_registers *registers, struct ata_command *command)
{
    const struct ata_row *row = ata_find_row(drive, registers->command);
    *command = (struct ata_command){.code = registers->command};
    bool reads_log = registers->command == 0x2f || registers->command == 0x47;
    if (row == NULL || (drive->ncq.failed && !reads_log)) {
        return ata_refuse(registers, ATA_ABRT);
    }
    command->protocol = row->protocol;
    command->direction = row->direction;
    return row->execute(drive, row, registers, command);
}

/* ---- Going on, and ending ---- */

bool ata_trim_next(struct ata_drive *drive, struct ata_command *command, const uint8_t *list, uint64_t *offset, uint64_t *bytes,
                   struct ata_registers *registers)
{
    uint64_t first = 0, count = 0, all = ata_sectors(drive);
    for (; command->trim_at < command->bytes / 8; command->trim_at++) {
        uint64_t entry = 0;
        for (unsigned i = 0; i < 8; i++) {
            entry |= (uint64_t)list[command->trim_at * 8 + i] << i * 8;
        }
        uint64_t lba = entry & SECTORS_48, sectors = entry >> 48;
        if (sectors == 0) {
            continue;
        }
        if (lba > all || sectors > all - lba) {
            command->trim_at = (uint32_t)(command->bytes / 8);
            ata_fail(registers, ATA_IDNF);
            return false;
        }
        if (count != 0 && lba != first + count) {
            break; /* those that follow one another are one */
        }
        first = count == 0 ? lba : first;
        count += sectors;
    }
    *offset = first * ATA_SECTOR;
    *bytes = count * ATA_SECTOR;
    if (count == 0) {
        ata_end(registers);
    }
    return count != 0;
}

void ata_done(struct ata_drive *drive, struct ata_command *command, int result, uint64_t done_bytes, struct ata_registers *registers)
{
    struct scsi_command answer = {0};
    if (command->packet) {
        if (result < 0) {
            scsi_disk_failed(&answer, result);
            ata_fail_packet(drive, &answer, registers);
        } else {
            ata_end(registers);
            ata_end_packet(registers);
        }
        return;
    }
    if (result == 0) {
        ata_end(registers);
        return;
    }
    ata_fail(registers, command->op == BLOCK_READ ? ATA_UNC : ATA_ABRT);
    if (command->op == BLOCK_READ || command->op == BLOCK_WRITE) {
        const struct ata_row *row = ata_find_row(drive, command->code);
        ata_set_lba(registers, command->first_lba + done_bytes / ATA_SECTOR, row != NULL && (row->flags & EXT) != 0);
    }
}

void ata_abort(struct ata_drive *drive, struct ata_command *command, struct ata_registers *registers)
{
    struct scsi_command answer = {0};
    if (command->packet) {
        scsi_disk_aborted(&answer);
        ata_fail_packet(drive, &answer, registers);
    } else {
        ata_fail(registers, ATA_ABRT);
    }
}
