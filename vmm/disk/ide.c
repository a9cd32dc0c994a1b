/* SPDX-License-Identifier: MIT */
/*
 * Registers and PIO. A command is one state machine of the channel; ide_dma.c has the bus master.
 */
#include "disk/ide_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/log.h"

enum { REG_DATA, REG_ERROR, REG_COUNT, REG_LBA_LOW, REG_LBA_MID, REG_LBA_HIGH, REG_DEVICE, REG_STATUS };
#define CONTROL_NIEN 0x02u
#define CONTROL_SRST 0x04u
#define CONTROL_HOB 0x80u
#define DEVICE_ONES 0xa0u
#define COMMAND_DEVICE_RESET 0x08u
#define COMMAND_DIAGNOSTIC 0x90u

static struct ide_unit *ide_unit(struct ide_channel *channel)
{
    return &channel->units[channel->selected];
}

/* ---- Interrupts ---- */

static void ide_update_irq(struct ide_channel *channel)
{
    irq_set(&channel->irq, channel->interrupt && (channel->control & CONTROL_NIEN) == 0);
}

void ide_set_interrupt(struct ide_channel *channel, bool level)
{
    channel->interrupt = level;
    channel->bmis |= level ? BMIS_INTERRUPT : 0;
    ide_update_irq(channel);
}

/* ---- The end of a command ---- */

void ide_finish(struct ide_channel *channel, bool interrupt)
{
    channel->state = IDE_IDLE;
    free(channel->iov);
    channel->iov = NULL;
    if (interrupt) {
        ide_set_interrupt(channel, true);
    }
}

/* Units show their signature; nothing is under way. */
static void ide_end_reset(struct ide_channel *channel, bool all)
{
    channel->resetting = false;
    for (unsigned i = 0; i < IDE_UNITS; i++) {
        struct ide_unit *unit = &channel->units[i];
        if (unit->present && (all || i == channel->selected)) {
            ata_reset(&unit->drive, true, &unit->registers);
        }
        unit->registers.device = all ? 0 : unit->registers.device;
    }
    channel->selected = all ? 0 : channel->selected;
    ide_finish(channel, false);
}

/* While the host has not finished, and while SRST is set, BSY stays. */
static void ide_reset(struct ide_channel *channel, bool all)
{
    channel->resetting = true;
    channel->reset_all = all;
    channel->interrupt = false;
    ide_update_irq(channel);
    channel->request.given_up = true;
    disk_cancel(&channel->ide->requests, channel);
    if (!channel->request.active) {
        ide_finish(channel, false);
    }
}

static void ide_go_on_resetting(struct ide_channel *channel)
{
    if (channel->resetting && !channel->request.active && (channel->control & CONTROL_SRST) == 0) {
        ide_end_reset(channel, channel->reset_all);
    }
}

/* ---- PIO ---- */

static void ide_read_chunk(struct ide_channel *channel);

static void ide_block_in(struct ide_channel *channel)
{
    struct ata_registers *registers = &ide_unit(channel)->registers;
    uint32_t left = channel->buffer_bytes - channel->buffer_at;
    uint32_t block = left < channel->command.block_bytes ? left : channel->command.block_bytes;
    channel->state = IDE_PIO_IN;
    channel->block_end = channel->buffer_at + block;
    registers->status = ATA_DRDY | ATA_DSC | ATA_DRQ;
    registers->error = 0;
    if (channel->command.packet) {
        registers->count = ATA_REASON_IN;
        registers->lba = (registers->lba & ~UINT64_C(0xffff00)) | (uint64_t)block << 8;
    }
    ide_set_interrupt(channel, true);
}

static void ide_block_out(struct ide_channel *channel, bool interrupt)
{
    struct ata_registers *registers = &ide_unit(channel)->registers;
    uint32_t left = channel->buffer_bytes - channel->buffer_at;
    channel->state = IDE_PIO_OUT;
    channel->block_end = channel->buffer_at + (left < channel->command.block_bytes ? left : channel->command.block_bytes);
    registers->status = ATA_DRDY | ATA_DSC | ATA_DRQ;
    registers->error = 0;
    if (interrupt) {
        ide_set_interrupt(channel, true);
    }
}

/* The buffer's next part: whole blocks of the command, as many as there is room for. */
static void ide_next_chunk(struct ide_channel *channel)
{
    uint64_t left = channel->command.bytes - channel->done_bytes;
    uint32_t room = channel->command.packet ? IDE_BUFFER_BYTES : IDE_BUFFER_BYTES / channel->command.block_bytes * channel->command.block_bytes;
    channel->buffer_bytes = left < room ? (uint32_t)left : room;
    channel->buffer_at = 0;
}

static void ide_submit_buffer(struct ide_channel *channel, enum block_op op)
{
    channel->one = (struct iovec){channel->buffer, channel->buffer_bytes};
    channel->request.io = (struct block_request){
        .op = op,
        .flags = channel->command.flags,
        .offset = channel->command.offset + channel->done_bytes,
        .bytes = channel->buffer_bytes,
        .iov = &channel->one,
        .iov_count = 1,
    };
    ide_submit(channel, false);
}

static void ide_read_chunk(struct ide_channel *channel)
{
    ide_next_chunk(channel);
    ide_submit_buffer(channel, BLOCK_READ);
}

void ide_submit(struct ide_channel *channel, bool to_guest)
{
    struct ide_unit *unit = ide_unit(channel);
    unit->registers.status = ATA_BSY;
    channel->state = IDE_BUSY;
    channel->request.drive = &unit->drive;
    channel->request.port = channel;
    channel->request.to_guest = to_guest;
    channel->request.done = ide_done;
    disk_submit(&channel->ide->requests, &channel->request);
}

/* The guest has read, or written, all of a block. */
static void ide_block_over(struct ide_channel *channel)
{
    struct ide_unit *unit = ide_unit(channel);
    struct ata_command *command = &channel->command;
    if (channel->state == IDE_PACKET) {
        ide_packet(channel);
    } else if (channel->buffer_at < channel->buffer_bytes) {
        if (channel->state == IDE_PIO_IN) {
            ide_block_in(channel);
        } else {
            ide_block_out(channel, true);
        }
    } else if (channel->state == IDE_PIO_OUT) {
        ide_submit_buffer(channel, BLOCK_WRITE);
    } else {
        channel->done_bytes += channel->buffer_bytes;
        if (channel->done_bytes < command->bytes) {
            ide_read_chunk(channel);
        } else {
            ata_done(&unit->drive, command, 0, 0, &unit->registers);
            ide_finish(channel, command->packet); /* after the last block of a disk there is no interrupt */
        }
    }
}

/* A request is done. */
void ide_done(struct disk_request *request, int result)
{
    struct ide_channel *channel = request->port;
    struct ide_unit *unit = ide_unit(channel);
    struct ata_command *command = &channel->command;
    if (channel->resetting) {
        ide_finish(channel, false);
        ide_go_on_resetting(channel);
        return;
    }
    if (command->protocol == ATA_DMA) {
        ide_dma_done(channel, result);
        return;
    }
    if (result != 0 || command->protocol == ATA_NO_DATA) {
        ata_done(&unit->drive, command, result, channel->done_bytes, &unit->registers);
        ide_finish(channel, true);
    } else if (command->direction == ATA_IN) {
        ide_block_in(channel);
    } else {
        channel->done_bytes += channel->buffer_bytes;
        if (channel->done_bytes < command->bytes) {
            ide_next_chunk(channel);
            ide_block_out(channel, true);
        } else {
            ata_done(&unit->drive, command, 0, 0, &unit->registers);
            ide_finish(channel, true);
        }
    }
}

/* ---- The beginning of a command ---- */

static void ide_begin(struct ide_channel *channel)
{
    struct ide_unit *unit = ide_unit(channel);
    struct ata_command *command = &channel->command;
    channel->done_bytes = 0;
    switch (command->protocol) {
    case ATA_PACKET:
        channel->buffer_at = 0;
        channel->buffer_bytes = channel->block_end = ATA_PACKET_BYTES;
        channel->state = IDE_PACKET;
        unit->registers.count = ATA_REASON_PACKET;
        unit->registers.status = ATA_DRDY | ATA_DRQ;
        break;
    case ATA_DMA:
        unit->registers.status = ATA_BSY;
        channel->state = IDE_DMA;
        if (command->packet) {
            unit->registers.count = ATA_REASON_IN;
        }
        ide_dma_go(channel);
        break;
    case ATA_PIO:
        if (command->direction == ATA_OUT) {
            ide_next_chunk(channel);
            ide_block_out(channel, false);
        } else if (command->io) {
            ide_read_chunk(channel);
        } else {
            ide_next_chunk(channel);
            memcpy(channel->buffer, command->reply, channel->buffer_bytes);
            ide_block_in(channel);
        }
        break;
    default:
        channel->request.io = (struct block_request){.op = command->op};
        ide_submit(channel, false);
        break;
    }
}

void ide_packet(struct ide_channel *channel)
{
    struct ide_unit *unit = ide_unit(channel);
    uint8_t packet[ATA_PACKET_BYTES];
    bool dma = (unit->registers.feature & 1) != 0;
    memcpy(packet, channel->buffer, sizeof(packet));
    unit->registers.status = ATA_BSY;
    if (ata_packet(&unit->drive, packet, dma, &unit->registers, &channel->command)) {
        ide_begin(channel);
    } else {
        ide_finish(channel, true);
    }
}

static void ide_command(struct ide_channel *channel, uint8_t code)
{
    struct ide_unit *unit = ide_unit(channel);
    bool busy = (unit->registers.status & (ATA_BSY | ATA_DRQ)) != 0;
    if (code == COMMAND_DEVICE_RESET && unit->present && unit->drive.config.cdrom) { /* at any time (ACS-3, 7.7) */
        ide_reset(channel, channel->resetting && channel->reset_all);
        ide_go_on_resetting(channel);
        return;
    }
    if (busy || !unit->present || channel->resetting) {
        return;
    }
    ide_set_interrupt(channel, false);
    if (code == COMMAND_DIAGNOSTIC) { /* of both */
        ide_end_reset(channel, true);
        ide_set_interrupt(channel, true);
        return;
    }
    unit->registers.command = code;
    channel->request.given_up = false;
    if (ata_execute(&unit->drive, &unit->registers, &channel->command)) {
        ide_begin(channel);
    } else {
        ide_finish(channel, true);
    }
}

/* ---- Registers ---- */

/* Both drives take what is written; each register has what was in it before below it, for 48-bit commands. */
static void ide_write_register(struct ide_channel *channel, unsigned offset, uint8_t value)
{
    for (unsigned i = 0; i < IDE_UNITS; i++) {
        struct ata_registers *registers = &channel->units[i].registers;
        unsigned byte = offset - REG_LBA_LOW;
        switch (offset) {
        case REG_ERROR:
            registers->feature = (uint16_t)(registers->feature << 8 | value);
            break;
        case REG_COUNT:
            registers->count = (uint16_t)(registers->count << 8 | value);
            break;
        case REG_DEVICE:
            registers->device = value;
            break;
        default: {
            uint64_t old = registers->lba >> byte * 8 & 0xff;
            registers->lba &= ~(UINT64_C(0xff0000ff) << byte * 8);
            registers->lba |= (uint64_t)value << byte * 8 | old << (byte * 8 + 24);
            break;
        }
        }
    }
}

static uint8_t ide_status(const struct ide_channel *channel)
{
    const struct ide_unit *unit = &channel->units[channel->selected];
    bool any = channel->units[0].present || channel->units[1].present;
    if (any && channel->resetting) {
        return ATA_BSY;
    }
    return unit->present ? unit->registers.status : 0;
}

static uint8_t ide_read_register(struct ide_channel *channel, unsigned offset)
{
    const struct ide_unit *unit = ide_unit(channel);
    const struct ata_registers *registers = &unit->registers;
    bool high = (channel->control & CONTROL_HOB) != 0;
    if (!unit->present) {
        return offset == REG_DEVICE ? (uint8_t)(registers->device | DEVICE_ONES) : 0;
    }
    switch (offset) {
    case REG_ERROR:
        return registers->error;
    case REG_COUNT:
        return (uint8_t)(high ? registers->count >> 8 : registers->count);
    case REG_DEVICE:
        return registers->device | DEVICE_ONES;
    case REG_STATUS:
        ide_set_interrupt(channel, false);
        return ide_status(channel);
    default:
        return (uint8_t)(registers->lba >> ((offset - REG_LBA_LOW) * 8 + (high ? 24 : 0)));
    }
}

static void ide_write_command_block(struct ide_channel *channel, unsigned offset, uint8_t value)
{
    channel->control &= (uint8_t)~CONTROL_HOB;
    if (offset == REG_STATUS) {
        ide_command(channel, value);
        return;
    }
    if ((ide_status(channel) & (ATA_BSY | ATA_DRQ)) != 0) {
        return; /* a command is under way: its registers are the drive's */
    }
    ide_write_register(channel, offset, value);
    if (offset == REG_DEVICE) {
        channel->selected = (value & ATA_DEVICE_1) != 0;
    }
}

static uint64_t ide_read_data(struct ide_channel *channel, unsigned size)
{
    uint64_t value = 0;
    uint32_t left = channel->state == IDE_PIO_IN ? channel->block_end - channel->buffer_at : 0;
    uint32_t bytes = left < size ? left : size;
    memcpy(&value, channel->buffer + channel->buffer_at, bytes);
    channel->buffer_at += bytes;
    if (bytes != 0 && channel->buffer_at == channel->block_end) {
        ide_block_over(channel);
    }
    return value;
}

static void ide_write_data(struct ide_channel *channel, unsigned size, uint64_t value)
{
    bool out = channel->state == IDE_PIO_OUT || channel->state == IDE_PACKET;
    uint32_t left = out ? channel->block_end - channel->buffer_at : 0;
    uint32_t bytes = left < size ? left : size;
    memcpy(channel->buffer + channel->buffer_at, &value, bytes);
    channel->buffer_at += bytes;
    if (bytes != 0 && channel->buffer_at == channel->block_end) {
        ide_block_over(channel);
    }
}

static uint64_t ide_command_read(void *self, uint64_t offset, unsigned size)
{
    struct ide_channel *channel = self;
    uint64_t value = 0;
    pthread_mutex_lock(&channel->ide->requests.lock);
    if (!channel->enabled) {
        value = UINT64_MAX;
    } else if (offset == REG_DATA) {
        value = ide_read_data(channel, size);
    } else {
        for (unsigned i = 0; i < size; i++) {
            value |= (uint64_t)ide_read_register(channel, (unsigned)offset + i) << i * 8;
        }
    }
    pthread_mutex_unlock(&channel->ide->requests.lock);
    return value;
}

static void ide_command_write(void *self, uint64_t offset, unsigned size, uint64_t value)
{
    struct ide_channel *channel = self;
    pthread_mutex_lock(&channel->ide->requests.lock);
    if (channel->enabled && offset == REG_DATA) {
        ide_write_data(channel, size, value);
    } else if (channel->enabled) {
        for (unsigned i = 0; i < size; i++) {
            ide_write_command_block(channel, (unsigned)offset + i, (uint8_t)(value >> i * 8));
        }
    }
    pthread_mutex_unlock(&channel->ide->requests.lock);
}

static uint64_t ide_control_read(void *self, uint64_t offset, unsigned size)
{
    struct ide_channel *channel = self;
    (void)offset;
    (void)size;
    pthread_mutex_lock(&channel->ide->requests.lock);
    uint64_t value = channel->enabled ? ide_status(channel) : UINT64_MAX;
    pthread_mutex_unlock(&channel->ide->requests.lock);
    return value;
}

static void ide_control_write(void *self, uint64_t offset, unsigned size, uint64_t value)
{
    struct ide_channel *channel = self;
    (void)offset;
    (void)size;
    pthread_mutex_lock(&channel->ide->requests.lock);
    if (channel->enabled) {
        bool reset = (value & CONTROL_SRST) != 0 && (channel->control & CONTROL_SRST) == 0;
        channel->control = (uint8_t)value;
        ide_update_irq(channel);
        if (reset) {
            ide_reset(channel, true);
        }
        ide_go_on_resetting(channel);
    }
    pthread_mutex_unlock(&channel->ide->requests.lock);
}

const struct device_ops ide_command_ops = {.name = "IDE", .read = ide_command_read, .write = ide_command_write};
const struct device_ops ide_control_ops = {.name = "IDE control", .read = ide_control_read, .write = ide_control_write};
