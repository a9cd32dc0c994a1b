/* SPDX-License-Identifier: MIT */
/*
 * What a CD-ROM drive has beside a disk's commands (MMC-6): table of contents, configuration, events, tray. One session with one track of
 * data: the image is what lies in it.
 */
#include "disk/scsi_internal.h"

#include <string.h>

#define CD_LEADIN 150u /* sectors before LBA 0 */
#define CD_SECONDS 75u /* sectors of one */
#define DVD_BYTES (UINT64_C(900) << 20) /* what is larger is on no CD */
#define PROFILE_CD_ROM 0x0008u
#define PROFILE_DVD_ROM 0x0010u
#define CONTROL_DATA 0x14u /* ADR 1, a track of data */
#define LEAD_OUT 0xaau

enum { EVENT_NONE = 0, EVENT_EJECT_REQUEST = 1, EVENT_NEW_MEDIA = 2, EVENT_MEDIA_REMOVAL = 3 };

static void put_msf(uint8_t *at, bool msf, uint32_t lba)
{
    if (msf) {
        lba += CD_LEADIN;
        at[1] = (uint8_t)(lba / CD_SECONDS / 60);
        at[2] = (uint8_t)(lba / CD_SECONDS % 60);
        at[3] = (uint8_t)(lba % CD_SECONDS);
    } else {
        put32(at, lba);
    }
}

static uint32_t mmc_lead_out(const struct scsi_disk *disk)
{
    uint64_t blocks = scsi_blocks(disk);
    return blocks < UINT32_MAX ? (uint32_t)blocks : UINT32_MAX;
}

static bool mmc_is_dvd(const struct scsi_disk *disk)
{
    return scsi_ready(disk) && block_bytes(disk->block) > DVD_BYTES;
}

/* ---- The disc ---- */

/* Formats 0 and 1: one track of data, and the lead-out behind it. Format 2 is the lead-in's own table. */
static void mmc_read_toc(struct scsi_disk *disk, const uint8_t *cdb, struct scsi_command *command)
{
    bool msf = (cdb[1] & 2) != 0;
    uint8_t format = cdb[2] & 0xf, track = cdb[6], *reply = command->reply;
    if (format == 0 && cdb[9] >> 6 != 0) {
        format = cdb[9] >> 6; /* where drives of old have it */
    }
    if (format > 2 || (format == 0 && track > 1 && track != LEAD_OUT)) {
        scsi_fail(command, SENSE_ILLEGAL_REQUEST, ASC_INVALID_FIELD_IN_CDB);
        return;
    }
    uint32_t bytes = 4;
    reply[2] = reply[3] = 1; /* first and last track, or session */
    if (format == 2) {
        static const uint8_t points[] = {0xa0, 0xa1, 0xa2, 1};
        for (unsigned i = 0; i < sizeof(points); i++, bytes += 11) {
            reply[bytes] = 1;
            reply[bytes + 1] = CONTROL_DATA;
            reply[bytes + 3] = points[i];
            if (points[i] == 0xa2) {
                put_msf(reply + bytes + 7, true, mmc_lead_out(disk));
            } else if (points[i] == 1) {
                put_msf(reply + bytes + 7, true, 0);
            } else {
                reply[bytes + 8] = 1; /* first, last track */
            }
        }
    }
    if (format == 1 || (format == 0 && track <= 1)) {
        reply[bytes + 1] = CONTROL_DATA;
        reply[bytes + 2] = 1;
        put_msf(reply + bytes + 4, msf, 0);
        bytes += 8;
    }
    if (format == 0) {
        reply[bytes + 1] = CONTROL_DATA;
        reply[bytes + 2] = LEAD_OUT;
        put_msf(reply + bytes + 4, msf, mmc_lead_out(disk));
        bytes += 8;
    }
    put16(reply, bytes - 2);
    scsi_reply(command, bytes, get16(cdb + 7));
}

static void mmc_read_disc_information(struct scsi_disk *disk, const uint8_t *cdb, struct scsi_command *command)
{
    (void)disk;
    if ((cdb[1] & 7) != 0) { /* of the disc, not its resources */
        scsi_fail(command, SENSE_ILLEGAL_REQUEST, ASC_INVALID_FIELD_IN_CDB);
        return;
    }
    put16(command->reply, 32);
    command->reply[2] = 0x0e;                                               /* complete, its last session too */
    command->reply[3] = command->reply[4] = command->reply[5] = command->reply[6] = 1; /* first track, sessions, first and last of the last */
    command->reply[7] = 0x20;                                               /* URU */
    scsi_reply(command, 34, get16(cdb + 7));
}

static void mmc_read_track_information(struct scsi_disk *disk, const uint8_t *cdb, struct scsi_command *command)
{
    uint8_t *reply = command->reply;
    put16(reply, 34);
    reply[2] = reply[3] = 1; /* track, session */
    reply[5] = 4;            /* uninterrupted data */
    reply[6] = 1;            /* mode 1 */
    put32(reply + 24, mmc_lead_out(disk));
    scsi_reply(command, 36, get16(cdb + 7));
}

/* Format 0 of a DVD: what is on its one layer. */
static void mmc_read_disc_structure(struct scsi_disk *disk, const uint8_t *cdb, struct scsi_command *command)
{
    uint8_t *reply = command->reply;
    if (!mmc_is_dvd(disk) || cdb[7] != 0 || cdb[6] != 0 || (cdb[1] & 0xf) != 0) {
        scsi_fail(command, SENSE_ILLEGAL_REQUEST, ASC_INVALID_FIELD_IN_CDB);
        return;
    }
    put16(reply, 2048 + 2);
    reply[4] = 0x01; /* DVD-ROM, part version 1 */
    reply[5] = 0x0f; /* 120 mm, any rate */
    reply[6] = 0x01; /* one layer, read-only */
    put32(reply + 8, 0x30000);
    put32(reply + 12, 0x30000 + mmc_lead_out(disk) - 1);
    scsi_reply(command, 20, get16(cdb + 8));
}

/* ---- The drive ---- */

static const struct {
    uint16_t code;
    uint8_t flags; /* version, persistent, current */
    uint8_t bytes;
    uint8_t data[8];
    bool cd, dvd; /* current with such a disc */
} mmc_features[] = {
    {0x0000, 0x03, 8, {0x00, 0x10, 0x00, 0x00, 0x00, 0x08, 0x00, 0x00}, true, true}, /* profiles */
    {0x0001, 0x0b, 8, {0x00, 0x00, 0x00, 0x02, 0x01, 0x00, 0x00, 0x00}, true, true}, /* core: ATAPI */
    {0x0003, 0x07, 4, {0x39, 0x00, 0x00, 0x00}, true, true},                         /* removable: tray, eject, lock */
    {0x0010, 0x00, 8, {0x00, 0x00, 0x08, 0x00, 0x00, 0x01, 0x00, 0x00}, true, true}, /* random readable, 2048 bytes */
    {0x001e, 0x08, 4, {0x00, 0x00, 0x00, 0x00}, true, false},                        /* CD read */
    {0x001f, 0x00, 0, {0}, false, true},                                             /* DVD read */
};

/* RT: 0 all features, 1 those that are current, 2 one. */
static void mmc_get_configuration(struct scsi_disk *disk, const uint8_t *cdb, struct scsi_command *command)
{
    uint8_t rt = cdb[1] & 3, *reply = command->reply;
    uint32_t first = get16(cdb + 2), bytes = 8;
    bool dvd = mmc_is_dvd(disk), cd = scsi_ready(disk) && !dvd;
    if (rt == 3) {
        scsi_fail(command, SENSE_ILLEGAL_REQUEST, ASC_INVALID_FIELD_IN_CDB);
        return;
    }
    for (unsigned i = 0; i < sizeof(mmc_features) / sizeof(mmc_features[0]); i++) {
        bool current = (mmc_features[i].flags & 1) != 0 || (mmc_features[i].cd && cd) || (mmc_features[i].dvd && dvd);
        bool wanted = rt == 2 ? mmc_features[i].code == first : mmc_features[i].code >= first && (rt == 0 || current);
        if (!wanted) {
            continue;
        }
        put16(reply + bytes, mmc_features[i].code);
        reply[bytes + 2] = (uint8_t)(mmc_features[i].flags | (current ? 1 : 0));
        reply[bytes + 3] = mmc_features[i].bytes;
        memcpy(reply + bytes + 4, mmc_features[i].data, mmc_features[i].bytes);
        if (mmc_features[i].code == 0) { /* which of the profiles is current */
            reply[bytes + 6] = dvd;
            reply[bytes + 10] = cd;
        }
        bytes += 4u + mmc_features[i].bytes;
    }
    put32(reply, bytes - 4);
    put16(reply + 6, dvd ? PROFILE_DVD_ROM : cd ? PROFILE_CD_ROM : 0);
    scsi_reply(command, bytes, get16(cdb + 7));
}

static void mmc_get_event_status(struct scsi_disk *disk, const uint8_t *cdb, struct scsi_command *command)
{
    if ((cdb[1] & 1) == 0) { /* asynchronous: not here */
        scsi_fail(command, SENSE_ILLEGAL_REQUEST, ASC_INVALID_FIELD_IN_CDB);
        return;
    }
    bool media = (cdb[4] & 0x10) != 0;
    put16(command->reply, media ? 6 : 2);
    command->reply[2] = media ? 4 : 0x80; /* the class; none that was asked for */
    command->reply[3] = 0x10;             /* supported: media */
    if (media) {
        command->reply[4] = disk->event;
        command->reply[5] = (uint8_t)((scsi_ready(disk) ? 2 : 0) | (disk->tray_open ? 1 : 0));
        disk->event = EVENT_NONE;
    }
    scsi_reply(command, media ? 8 : 4, get16(cdb + 7));
}

static void mmc_mechanism_status(struct scsi_disk *disk, const uint8_t *cdb, struct scsi_command *command)
{
    command->reply[1] = disk->tray_open ? 0x10 : 0; /* door open */
    command->reply[5] = 1;                          /* a changer of one slot */
    scsi_reply(command, 8, get16(cdb + 8));
}

/* A tray that was opened and is closed again has the same disc in it; who looks must look anew. */
static void mmc_start_stop(struct scsi_disk *disk, const uint8_t *cdb, struct scsi_command *command)
{
    bool start = (cdb[4] & 1) != 0, load_eject = (cdb[4] & 2) != 0;
    if (!load_eject || start == !disk->tray_open) {
        return; /* power conditions and spinning: nothing to do */
    }
    if (!start && disk->locked) {
        scsi_fail(command, SENSE_ILLEGAL_REQUEST, ASC_MEDIUM_REMOVAL_PREVENTED);
        return;
    }
    disk->tray_open = !start;
    disk->event = disk->block == NULL ? EVENT_NONE : start ? EVENT_NEW_MEDIA : EVENT_MEDIA_REMOVAL;
    if (start && disk->block != NULL) {
        disk->attention = ASC_MEDIUM_MAY_HAVE_CHANGED;
    }
}

static void mmc_prevent_allow(struct scsi_disk *disk, const uint8_t *cdb, struct scsi_command *command)
{
    (void)command;
    disk->locked = (cdb[4] & 1) != 0;
}

static void mmc_set_speed(struct scsi_disk *disk, const uint8_t *cdb, struct scsi_command *command)
{
    (void)disk; /* it is as fast as it is */
    (void)cdb;
    (void)command;
}

uint32_t mmc_mode_pages(const struct scsi_disk *disk, uint8_t page, bool changeable, uint8_t *at)
{
    const uint8_t lock = disk->locked ? 0x2b : 0x29; /* LOCK STATE */
    const struct scsi_mode_page pages[] = {
        {0x01, 6, {0x00, 0x05}},                                                                         /* retries */
        {0x0a, 10, {0}},                                                                                 /* control */
        {0x2a, 20, {0x3b, 0x00, 0x00, 0x00, lock, 0x00, 0x02, 0xc2, 0x00, 0x02, 0x02, 0x00, 0x02, 0xc2}}, /* reads CD-R, CD-RW, DVD; tray; 4x */
    };
    return scsi_mode_put(pages, sizeof(pages) / sizeof(pages[0]), page, changeable, at);
}

/* ---- Data ---- */

/* READ CD: whole sectors as they are read from a disc are not there, only what the user put in. */
static void mmc_read_cd(struct scsi_disk *disk, const uint8_t *cdb, struct scsi_command *command)
{
    uint32_t blocks = (uint32_t)cdb[6] << 16 | get16(cdb + 7);
    uint8_t type = cdb[1] >> 2 & 7, parts = cdb[9];
    if ((type > 2 && type != 4) || (parts != 0x10 && parts != 0) || (cdb[10] & 7) != 0) {
        scsi_fail(command, SENSE_ILLEGAL_REQUEST, ASC_INVALID_FIELD_IN_CDB);
        return;
    }
    if (scsi_place(disk, get32(cdb + 2), parts == 0 ? 0 : blocks, command) && parts != 0) {
        command->io = true;
        command->op = BLOCK_READ;
    }
}

static void mmc_seek(struct scsi_disk *disk, const uint8_t *cdb, struct scsi_command *command)
{
    scsi_place(disk, get32(cdb + 2), 1, command);
}

const struct scsi_row mmc_rows[] = {
    {0x1b, SCSI_CDROMS, false, mmc_start_stop},
    {0x1e, SCSI_CDROMS, false, mmc_prevent_allow},
    {0x2b, SCSI_CDROMS, true, mmc_seek}, /* SEEK(10) */
    {0x43, SCSI_CDROMS, true, mmc_read_toc},
    {0x46, SCSI_CDROMS, false, mmc_get_configuration},
    {0x4a, SCSI_CDROMS, false, mmc_get_event_status},
    {0x51, SCSI_CDROMS, true, mmc_read_disc_information},
    {0x52, SCSI_CDROMS, true, mmc_read_track_information},
    {0xad, SCSI_CDROMS, true, mmc_read_disc_structure},
    {0xbb, SCSI_CDROMS, false, mmc_set_speed}, /* SET CD SPEED */
    {0xbd, SCSI_CDROMS, false, mmc_mechanism_status},
    {0xbe, SCSI_CDROMS, true, mmc_read_cd},
};
const unsigned mmc_row_count = sizeof(mmc_rows) / sizeof(mmc_rows[0]);
