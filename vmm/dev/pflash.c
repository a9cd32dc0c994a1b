/* SPDX-License-Identifier: MIT */
#include "dev/pflash.h"

#include <string.h>

#define READ_ARRAY 0xffu
#define PROGRAM 0x40u
#define PROGRAM_OLD 0x10u
#define BLOCK_ERASE 0x20u
#define CLEAR_STATUS 0x50u
#define LOCK_SETUP 0x60u
#define READ_STATUS 0x70u
#define READ_IDENTIFIERS 0x90u
#define CFI_QUERY 0x98u
#define BUFFER_PROGRAM 0xe8u
#define CONFIRM 0xd0u
#define LOCK 0x01u

#define STATUS_READY 0x80u
#define STATUS_ERASE_ERROR 0x20u
#define STATUS_PROGRAM_ERROR 0x10u
#define STATUS_SEQUENCE_ERROR (STATUS_ERASE_ERROR | STATUS_PROGRAM_ERROR)

static void pflash_enter(struct pflash *flash, enum pflash_state state)
{
    bool array = flash->state == PFLASH_ARRAY;
    flash->state = state;
    if (array != (state == PFLASH_ARRAY)) {
        flash->backend->mode(flash->opaque, !array);
    }
}

/* ---- Reading ---- */

static uint8_t pflash_read_byte(const struct pflash *flash, uint32_t offset)
{
    switch (flash->state) {
    case PFLASH_ARRAY:
        return flash->bytes[offset];
    case PFLASH_IDENTIFIERS:
        return 0; /* manufacturer, device, lock bits: none is claimed, nothing is locked */
    case PFLASH_CFI:
        return offset % PFLASH_BLOCK_BYTES < PFLASH_CFI_BYTES ? flash->cfi[offset % PFLASH_BLOCK_BYTES] : 0;
    default:
        return flash->status;
    }
}

uint64_t pflash_read(const struct pflash *flash, uint32_t offset, unsigned size)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++) {
        value |= (uint64_t)pflash_read_byte(flash, offset + i) << (i * 8);
    }
    return value;
}

/* ---- Writing ---- */

/* The end of an operation on bytes: `error` where it did not work. */
static void pflash_finish(struct pflash *flash, uint32_t offset, uint32_t size, uint8_t error)
{
    bool failed = flash->read_only || flash->backend->changed(flash->opaque, offset, size) != 0;
    flash->status |= (uint8_t)(STATUS_READY | (failed ? error : 0u));
    pflash_enter(flash, PFLASH_STATUS);
}

static void pflash_fail_sequence(struct pflash *flash)
{
    flash->status |= STATUS_READY | STATUS_SEQUENCE_ERROR;
    pflash_enter(flash, PFLASH_STATUS);
}

static void pflash_program(struct pflash *flash, uint32_t offset, unsigned size, uint64_t value)
{
    for (unsigned i = 0; i < size && !flash->read_only; i++) {
        flash->bytes[offset + i] = (uint8_t)(value >> (i * 8));
    }
    pflash_finish(flash, offset, size, STATUS_PROGRAM_ERROR);
}

static void pflash_erase(struct pflash *flash, uint32_t offset, uint8_t command)
{
    uint32_t block = offset - offset % PFLASH_BLOCK_BYTES;
    if (command != CONFIRM) {
        pflash_fail_sequence(flash);
        return;
    }
    if (!flash->read_only) {
        memset(flash->bytes + block, 0xff, PFLASH_BLOCK_BYTES);
    }
    pflash_finish(flash, block, PFLASH_BLOCK_BYTES, STATUS_ERASE_ERROR);
}

/* Bytes come in any order, all of them into one page of the buffer's size; the first one's address is where they begin. */
static void pflash_buffer_data(struct pflash *flash, uint32_t offset, unsigned size, uint64_t value)
{
    uint32_t page = offset - offset % PFLASH_BUFFER_BYTES;
    if (flash->buffer_used == 0) {
        flash->buffer_at = page;
        memcpy(flash->buffer, flash->bytes + page, PFLASH_BUFFER_BYTES);
    }
    for (unsigned i = 0; i < size; i++) {
        uint32_t at = offset + i - flash->buffer_at;
        if (offset + i < flash->buffer_at || at >= PFLASH_BUFFER_BYTES) {
            flash->buffer_bad = true;
        } else {
            flash->buffer[at] = (uint8_t)(value >> (i * 8));
        }
    }
    flash->buffer_used += size;
    if (flash->buffer_used >= flash->buffer_bytes) {
        pflash_enter(flash, PFLASH_BUFFER_CONFIRM);
    }
}

static void pflash_buffer_confirm(struct pflash *flash, uint8_t command)
{
    if (command != CONFIRM || flash->buffer_bad || flash->buffer_used != flash->buffer_bytes) {
        pflash_fail_sequence(flash);
        return;
    }
    if (!flash->read_only) {
        memcpy(flash->bytes + flash->buffer_at, flash->buffer, PFLASH_BUFFER_BYTES);
    }
    pflash_finish(flash, flash->buffer_at, PFLASH_BUFFER_BYTES, STATUS_PROGRAM_ERROR);
}

static void pflash_buffer_count(struct pflash *flash, uint8_t count)
{
    flash->buffer_bytes = count + 1u;
    flash->buffer_used = 0;
    flash->buffer_bad = false;
    pflash_enter(flash, PFLASH_BUFFER_DATA);
}
_Static_assert(PFLASH_BUFFER_BYTES == 256, "a byte says how many there are");

/*
 * Clearing the status clears "ready" too, and brings no read mode of the status: firmware tells this chip from RAM and from ROM by a
 * status of 0 (EDK II, QemuFlashDetected()), which no real chip has.
 */
static void pflash_command(struct pflash *flash, uint8_t command)
{
    static const struct {
        uint8_t command;
        enum pflash_state state;
    } rows[] = {
        {READ_STATUS, PFLASH_STATUS},       {READ_IDENTIFIERS, PFLASH_IDENTIFIERS}, {CFI_QUERY, PFLASH_CFI},
        {PROGRAM, PFLASH_PROGRAM},          {PROGRAM_OLD, PFLASH_PROGRAM},          {BUFFER_PROGRAM, PFLASH_BUFFER_COUNT},
        {BLOCK_ERASE, PFLASH_ERASE},        {LOCK_SETUP, PFLASH_LOCK},
    };
    enum pflash_state state = PFLASH_ARRAY; /* what is none brings the array back */
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        state = rows[i].command == command ? rows[i].state : state;
    }
    flash->status = command == CLEAR_STATUS ? 0 : (uint8_t)(flash->status | (state >= PFLASH_PROGRAM ? STATUS_READY : 0u));
    pflash_enter(flash, state);
}

void pflash_write(struct pflash *flash, uint32_t offset, unsigned size, uint64_t value)
{
    uint8_t command = (uint8_t)value;
    switch (flash->state) {
    case PFLASH_PROGRAM:
        pflash_program(flash, offset, size, value);
        break;
    case PFLASH_ERASE:
        pflash_erase(flash, offset, command);
        break;
    case PFLASH_LOCK:
        if (command == CONFIRM || command == LOCK) {
            flash->status |= STATUS_READY;
            pflash_enter(flash, PFLASH_STATUS);
        } else {
            pflash_fail_sequence(flash);
        }
        break;
    case PFLASH_BUFFER_COUNT:
        pflash_buffer_count(flash, command);
        break;
    case PFLASH_BUFFER_DATA:
        pflash_buffer_data(flash, offset, size, value);
        break;
    case PFLASH_BUFFER_CONFIRM:
        pflash_buffer_confirm(flash, command);
        break;
    default:
        pflash_command(flash, command);
        break;
    }
}

/* ---- Life ---- */

static uint8_t pflash_log2(uint32_t value)
{
    uint8_t log = 0;
    while ((UINT64_C(2) << log) <= value) {
        log++;
    }
    return log;
}

/* JESD68.01, 2: identification, system interface, geometry; JEP137 and Intel 290667: the table of command set 0001. */
static void pflash_fill_cfi(struct pflash *flash)
{
    const uint32_t blocks = flash->size / PFLASH_BLOCK_BYTES;
    const uint8_t table[] = {
        'Q', 'R', 'Y', 0x01, 0x00, 0x31, 0x00, 0, 0, 0, 0,        /* 10: command set 0001, its table at 31, no other */
        0x45, 0x55, 0x00, 0x00,                                   /* 1B: 4.5 V to 5.5 V, no programming voltage */
        0x07, 0x07, 0x0a, 0x00, 0x04, 0x04, 0x04, 0x00,           /* 1F: time-outs, as powers of 2: us, us, ms; the most */
        pflash_log2(flash->size), 0x00, 0x00,                     /* 27: size; 8 bits wide */
        pflash_log2(PFLASH_BUFFER_BYTES), 0x00, 0x01,             /* 2A: buffer; one kind of blocks */
        (uint8_t)(blocks - 1), (uint8_t)((blocks - 1) >> 8),      /* 2D */
        (uint8_t)(PFLASH_BLOCK_BYTES >> 8), (uint8_t)(PFLASH_BLOCK_BYTES >> 16),
        'P', 'R', 'I', '1', '0', 0, 0, 0, 0, 0, 0, 0,             /* 31: version 1.0, nothing optional */
    };
    memcpy(flash->cfi + 0x10, table, sizeof(table));
    _Static_assert(sizeof(table) <= PFLASH_CFI_BYTES - 0x10, "JESD68.01, 2");
}

void pflash_init(struct pflash *flash, uint8_t *bytes, uint32_t size, bool read_only, const struct pflash_backend *backend, void *opaque)
{
    *flash = (struct pflash){.bytes = bytes, .size = size, .read_only = read_only, .backend = backend, .opaque = opaque, .status = STATUS_READY};
    pflash_fill_cfi(flash);
}
