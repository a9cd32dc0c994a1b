/* SPDX-License-Identifier: MIT */
/*
 * What a drive tells of itself: IDENTIFY, logs, SMART, its signature. And its life.
 */
#include "disk/ata_internal.h"

#include <errno.h>
#include <string.h>

#define SECTORS_28 UINT64_C(0x0fffffff)
#define CHS_CYLINDERS_MAX 16383u
#define CHS_HEADS 16u
#define CHS_SECTORS 63u
#define SIGNATURE_DISK 0x00000101u /* LBA 23:0 and count, as PxSIG has them */
#define SIGNATURE_PACKET 0xeb140101u
#define DIAGNOSTIC_PASSED 1u
#define LOG_NCQ_ERROR 0x10u
#define INTEGRITY 0xa5u

static void put_word(uint8_t *page, unsigned word, uint64_t value)
{
    page[word * 2] = (uint8_t)value;
    page[word * 2 + 1] = (uint8_t)(value >> 8);
}

/* Text stands with the bytes of each word swapped (ACS-3, 3.4.9). */
static void put_string(uint8_t *page, unsigned word, unsigned bytes, const char *text)
{
    size_t length = strlen(text);
    for (unsigned i = 0; i < bytes; i++) {
        page[word * 2 + (i ^ 1)] = i < length ? (uint8_t)text[i] : ' ';
    }
}

/* The byte that makes them all add up to 0. */
static void put_checksum(uint8_t *page)
{
    uint8_t sum = 0;
    for (unsigned i = 0; i < 511; i++) {
        sum = (uint8_t)(sum + page[i]);
    }
    page[511] = (uint8_t)-sum;
}

/* Modes of a kind that the drive has, and the one that is selected. */
static uint16_t ata_modes(const struct ata_drive *drive, uint8_t kind, uint8_t modes)
{
    bool selected = (drive->transfer_mode & 0xf8) == kind;
    return (uint16_t)(modes | (selected ? 1u << (8 + (drive->transfer_mode & 7)) : 0));
}

/* What all drives have (ACS-3, 7.12.7 and 7.13.6). */
static void ata_fill_common(const struct ata_drive *drive, uint8_t *page)
{
    const struct ata_config *config = &drive->config;
    put_string(page, 10, ATA_SERIAL_BYTES, config->serial);
    put_string(page, 23, 8, "0.1");
    put_string(page, 27, ATA_MODEL_BYTES, config->model[0] != '\0' ? config->model : config->cdrom ? "KAGE CD-ROM" : "KAGE HARDDISK");
    put_word(page, 49, 0x0b00); /* IORDY, LBA, DMA */
    put_word(page, 53, 0x0007); /* words 54-58, 64-70 and 88 hold */
    put_word(page, 63, ata_modes(drive, 0x20, 0x07));
    put_word(page, 64, 0x0003); /* PIO 3 and 4 */
    for (unsigned word = 65; word <= 68; word++) {
        put_word(page, word, 120); /* ns of a cycle */
    }
    put_word(page, 80, 0x03f0); /* ATA-4 to ACS-2 */
    put_word(page, 88, ata_modes(drive, 0x40, 0x3f));
    if (config->ncq) {
        put_word(page, 76, (uint64_t)(config->cdrom ? 0 : 1u << 8) | 0x000e); /* NCQ, all three speeds */
        put_word(page, 222, 0x101f);                                          /* serial */
    } else {
        put_word(page, 93, 0x6001); /* 80 wires */
    }
}

static void ata_fill_packet_device(const struct ata_drive *drive, uint8_t *page)
{
    put_word(page, 0, 0x85c0); /* ATAPI, CD-ROM, removable, DRQ within 50 us, packets of 12 bytes */
    put_word(page, 82, 0x4218); /* NOP, DEVICE RESET, PACKET, power management */
    put_word(page, 83, 0x4000);
    put_word(page, 84, 0x4000);
    put_word(page, 85, 0x4218);
    put_word(page, 87, 0x4000);
    ata_fill_common(drive, page);
}

static void ata_fill_disk(const struct ata_drive *drive, uint8_t *page)
{
    uint64_t sectors = block_bytes(drive->config.block) / ATA_SECTOR;
    uint64_t old = sectors < SECTORS_28 ? sectors : SECTORS_28, chs = (uint64_t)drive->cylinders * drive->heads * drive->sectors;
    uint64_t cylinders = sectors / (CHS_HEADS * CHS_SECTORS);
    put_word(page, 0, 0x0040); /* fixed */
    put_word(page, 1, cylinders < CHS_CYLINDERS_MAX ? cylinders : CHS_CYLINDERS_MAX);
    put_word(page, 3, CHS_HEADS);
    put_word(page, 6, CHS_SECTORS);
    put_word(page, 47, 0x8000 | ATA_MULTIPLE_MAX);
    put_word(page, 50, 0x4000);
    put_word(page, 54, drive->cylinders);
    put_word(page, 55, drive->heads);
    put_word(page, 56, drive->sectors);
    put_word(page, 57, chs);
    put_word(page, 58, chs >> 16);
    put_word(page, 59, drive->multiple != 0 ? 0x0100u | drive->multiple : 0);
    put_word(page, 60, old);
    put_word(page, 61, old >> 16);
    if (drive->config.ncq) {
        put_word(page, 75, ATA_NCQ_DEPTH - 1);
    }
    put_word(page, 82, 0x4069); /* NOP, look-ahead, write cache, power management, SMART */
    put_word(page, 83, 0x7400); /* FLUSH CACHE, EXT, 48-bit */
    put_word(page, 84, 0x4060); /* FUA, general purpose logging */
    put_word(page, 85, 0x4008u | (drive->look_ahead ? 0x40u : 0) | (drive->write_cache ? 0x20u : 0) | (drive->smart ? 1u : 0));
    put_word(page, 86, 0x3400);
    put_word(page, 87, 0x4060);
    for (unsigned i = 0; i < 4; i++) {
        put_word(page, 100 + i, sectors >> i * 16);
    }
    put_word(page, 105, drive->read_only ? 0 : ATA_TRIM_BLOCKS_MAX);
    put_word(page, 106, 0x4000); /* sectors are not parts of larger ones */
    put_word(page, 169, drive->read_only ? 0 : 1);
    put_word(page, 217, 1); /* does not rotate */
    ata_fill_common(drive, page);
}

void ata_fill_identify(const struct ata_drive *drive, uint8_t *page)
{
    if (drive->config.cdrom) {
        ata_fill_packet_device(drive, page);
    } else {
        ata_fill_disk(drive, page);
    }
    page[510] = INTEGRITY;
    put_checksum(page);
}

/* ---- Logs (ACS-3, 9) ---- */

bool ata_fill_log(struct ata_drive *drive, uint8_t address, uint8_t *page)
{
    const struct ata_registers *registers = &drive->ncq.registers;
    if (address == 0) { /* the directory: a word for each log, its pages */
        put_word(page, 0, 1);
        put_word(page, LOG_NCQ_ERROR, drive->config.ncq ? 1 : 0);
        return true;
    }
    if (address != LOG_NCQ_ERROR || !drive->config.ncq) {
        return false;
    }
    page[0] = drive->ncq.failed ? drive->ncq.tag : 0x80; /* NQ: it was none that is queued */
    if (drive->ncq.failed) {
        page[2] = registers->status;
        page[3] = registers->error;
        for (unsigned i = 0; i < 3; i++) {
            page[4 + i] = (uint8_t)(registers->lba >> i * 8);
            page[8 + i] = (uint8_t)(registers->lba >> (24 + i * 8));
        }
        page[7] = registers->device;
        page[12] = (uint8_t)registers->count;
        page[13] = (uint8_t)(registers->count >> 8);
    }
    put_checksum(page);
    drive->ncq.failed = false;
    return true;
}

/* Attributes by number, with what is normal and what would be too low. */
static const struct {
    uint8_t id;
    uint16_t flags;
    uint8_t value, threshold;
} smart_attributes[] = {{5, 0x0003, 100, 10}, {9, 0x0002, 100, 0}, {12, 0x0002, 100, 0}, {197, 0x0002, 100, 0}};

bool ata_fill_smart(uint8_t feature, uint8_t address, uint8_t *page)
{
    bool log = feature == SMART_READ_LOG;
    if (log && address != 0 && address != 1 && address != 6) {
        return false; /* directory, errors, self-tests */
    }
    if (log && address == 0) {
        put_word(page, 0, 1);
        page[2] = 1;
        page[12] = 1;
        return true;
    }
    put_word(page, 0, log ? 1 : 0x10); /* revision */
    for (unsigned i = 0; i < sizeof(smart_attributes) / sizeof(smart_attributes[0]) && !log; i++) {
        uint8_t *entry = page + 2 + i * 12;
        entry[0] = smart_attributes[i].id;
        if (feature == SMART_READ_THRESHOLDS) {
            entry[1] = smart_attributes[i].threshold;
        } else {
            put_word(entry + 1, 0, smart_attributes[i].flags);
            entry[3] = entry[4] = smart_attributes[i].value;
        }
    }
    put_checksum(page);
    return true;
}

/* ---- Life ---- */

uint32_t ata_signature(const struct ata_drive *drive)
{
    return drive->config.cdrom ? SIGNATURE_PACKET : SIGNATURE_DISK;
}

void ata_put_signature(const struct ata_drive *drive, struct ata_registers *registers)
{
    uint32_t signature = ata_signature(drive);
    registers->count = signature & 0xff;
    registers->lba = signature >> 8;
}

void ata_reset(struct ata_drive *drive, bool soft, struct ata_registers *registers)
{
    drive->ncq.failed = false;
    drive->standby = false;
    if (!soft) {
        uint64_t cylinders = drive->config.cdrom ? 0 : block_bytes(drive->config.block) / ATA_SECTOR / (CHS_HEADS * CHS_SECTORS);
        drive->cylinders = (uint16_t)(cylinders < CHS_CYLINDERS_MAX ? cylinders : CHS_CYLINDERS_MAX);
        drive->heads = CHS_HEADS;
        drive->sectors = CHS_SECTORS;
        drive->multiple = 0;
        drive->transfer_mode = 0x45; /* Ultra DMA 5 */
        drive->write_cache = drive->config.write_cache;
        drive->look_ahead = true;
        drive->smart = true;
        drive->scsi.locked = false;
        drive->scsi.attention = SCSI_ATTENTION_RESET;
        memset(drive->scsi.sense, 0, sizeof(drive->scsi.sense));
    }
    registers->device &= ATA_DEVICE_1;
    registers->error = DIAGNOSTIC_PASSED;
    registers->status = drive->config.cdrom ? 0 : ATA_DRDY | ATA_DSC; /* ATAPI drives are ready once a packet has come */
    ata_put_signature(drive, registers);
}

int ata_init(struct ata_drive *drive, const struct ata_config *config)
{
    uint64_t bytes = config->block != NULL ? block_bytes(config->block) : 0;
    if (config->cdrom ? config->block != NULL && bytes < 2048 : bytes < ATA_SECTOR || bytes / ATA_SECTOR > UINT64_C(1) << 48) {
        return -EINVAL;
    }
    *drive = (struct ata_drive){.config = *config, .read_only = config->cdrom || block_read_only(config->block)};
    if (config->cdrom) {
        drive->scsi = (struct scsi_disk){.block = config->block, .cdrom = true, .read_only = true, .block_bytes = 2048};
        memcpy(drive->scsi.serial, config->serial, strlen(config->serial));
        memcpy(drive->scsi.model, config->model, strnlen(config->model, SCSI_MODEL_BYTES));
    }
    struct ata_registers registers = {0};
    ata_reset(drive, false, &registers);
    return 0;
}
