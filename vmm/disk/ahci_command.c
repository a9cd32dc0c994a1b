/* SPDX-License-Identifier: MIT */
/*
 * Commands of a port: from the list and its tables to requests, and back by FISes (AHCI 1.3.1, 4, 5.3 and 6). Guest memory is read once.
 */
#include "disk/ahci_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/log.h"

#define HEADER_BYTES 32u
#define HEADER_ATAPI 0x20u
#define HEADER_CLEAR_BUSY 0x400u
#define TABLE_ACMD 0x40u
#define TABLE_PRDT 0x80u
#define PRD_BYTES 16u

/* FISes (Serial ATA 3.x, 10.5) */
enum { FIS_H2D = 0x27, FIS_D2H = 0x34, FIS_PIO_SETUP = 0x5f, FIS_SET_DEVICE_BITS = 0xa1 };
#define FIS_COMMAND 0x80u
#define FIS_INTERRUPT 0x40u
#define FIS_PIO_IN 0x20u
#define FIS_SRST 0x04u
enum { RECEIVED_PIO_SETUP = 0x20, RECEIVED_D2H = 0x40, RECEIVED_SET_DEVICE_BITS = 0x58 };

/* ---- FISes to the guest ---- */

static void ahci_post(struct ahci_port *port, unsigned at, const uint8_t *fis, unsigned bytes)
{
    bool receives = (port->cmd & PORT_CMD_FRE) != 0 && port->ahci->master;
    uint8_t *room = receives ? dma_at(&port->ahci->dma, port->fb + at, bytes) : NULL;
    if (room != NULL) {
        memcpy(room, fis, bytes);
    } else if (receives) {
        log_line(LOG_GUEST, "AHCI port %u: no memory at PxFB", port->index);
        port->is |= PORT_IS_HBFS;
    }
}

/* The fields that a D2H register and a PIO setup FIS have in common. */
static void ahci_fill_fis(uint8_t *fis, uint8_t type, uint8_t flags, const struct ata_registers *registers)
{
    fis[0] = type;
    fis[1] = flags;
    fis[2] = registers->status;
    fis[3] = registers->error;
    for (unsigned i = 0; i < 3; i++) {
        fis[4 + i] = (uint8_t)(registers->lba >> i * 8);
        fis[8 + i] = (uint8_t)(registers->lba >> (24 + i * 8));
    }
    fis[7] = registers->device;
    fis[12] = (uint8_t)registers->count;
    fis[13] = (uint8_t)(registers->count >> 8);
}

static void ahci_send_d2h(struct ahci_port *port, const struct ata_registers *registers, bool interrupt)
{
    uint8_t fis[20] = {0};
    ahci_fill_fis(fis, FIS_D2H, interrupt ? FIS_INTERRUPT : 0, registers);
    ahci_post(port, RECEIVED_D2H, fis, sizeof(fis));
    port->tfd = (uint32_t)registers->error << 8 | registers->status;
    if (interrupt) {
        ahci_raise(port, PORT_IS_DHRS | ((registers->status & ATA_ERR) != 0 ? PORT_IS_TFES : 0));
    }
}

void ahci_send_signature(struct ahci_port *port, const struct ata_registers *registers)
{
    ahci_send_d2h(port, registers, false);
}

static void ahci_send_pio_setup(struct ahci_port *port, const struct ahci_slot *slot)
{
    uint8_t fis[20] = {0};
    ahci_fill_fis(fis, FIS_PIO_SETUP, FIS_PIO_IN | FIS_INTERRUPT, &slot->registers);
    fis[15] = slot->registers.status; /* E_STATUS */
    fis[16] = (uint8_t)slot->command.bytes;
    fis[17] = (uint8_t)(slot->command.bytes >> 8);
    ahci_post(port, RECEIVED_PIO_SETUP, fis, sizeof(fis));
    port->tfd = slot->registers.status;
    ahci_raise(port, PORT_IS_PSS);
}

static void ahci_send_device_bits(struct ahci_port *port, const struct ata_registers *registers, uint32_t done)
{
    uint8_t fis[8] = {FIS_SET_DEVICE_BITS, FIS_INTERRUPT, registers->status & 0x77u, registers->error};
    for (unsigned i = 0; i < 4; i++) {
        fis[4 + i] = (uint8_t)(done >> i * 8);
    }
    ahci_post(port, RECEIVED_SET_DEVICE_BITS, fis, sizeof(fis));
    port->tfd = (port->tfd & 0x88) | (uint32_t)registers->error << 8 | (registers->status & 0x77u);
    port->sact &= ~done;
    ahci_raise(port, PORT_IS_SDBS | ((registers->status & ATA_ERR) != 0 ? PORT_IS_TFES : 0));
}

/* ---- Slots ---- */

void ahci_free_slot(struct ahci_slot *slot)
{
    free(slot->iov);
    free(slot->list);
    slot->iov = NULL;
    slot->list = NULL;
    slot->busy = slot->dropped = false;
    slot->port->taken &= ~(1u << slot->index);
}

void ahci_drop(struct ahci_port *port)
{
    for (unsigned i = 0; i < AHCI_SLOTS; i++) {
        port->slots[i].dropped = port->slots[i].busy;
        port->slots[i].request.given_up = true;
    }
    disk_cancel(&port->ahci->requests, port);
}

static void ahci_halt(struct ahci_port *port, uint32_t bits, const char *why)
{
    log_line(LOG_GUEST, "AHCI port %u: %s", port->index, why);
    port->halted = true;
    ahci_raise(port, bits);
}

/* ---- The end of a command ---- */

static void ahci_put_bytes(struct ahci_port *port, const struct ahci_slot *slot, uint64_t bytes)
{
    uint8_t *header = port->ahci->master ? dma_at(&port->ahci->dma, slot->header_gpa, HEADER_BYTES) : NULL;
    uint32_t count = (uint32_t)bytes;
    if (header != NULL) {
        memcpy(header + 4, &count, sizeof(count)); /* PRDBC */
    }
}

/* slot->registers say how it ended. */
static void ahci_finish(struct ahci_slot *slot)
{
    struct ahci_port *port = slot->port;
    bool failed = (slot->registers.status & ATA_ERR) != 0;
    bool pio_in = slot->command.protocol == ATA_PIO && slot->command.direction == ATA_IN && !slot->command.packet;
    if (slot->queued) {
        if (failed) {
            port->drive.ncq.failed = true;
            port->drive.ncq.tag = slot->index;
            port->drive.ncq.registers = slot->registers;
        }
        port->halted = port->halted || failed;
        ahci_send_device_bits(port, &slot->registers, failed ? 0 : 1u << slot->index);
        ahci_free_slot(slot);
        return;
    }
    port->halted = port->halted || failed;
    if (!failed) {
        port->ci &= ~(1u << slot->index);
        ahci_put_bytes(port, slot, slot->command.direction != ATA_NOWHERE ? slot->command.bytes : 0);
    }
    if (pio_in && !failed) {
        ahci_send_pio_setup(port, slot);
    } else {
        ahci_send_d2h(port, &slot->registers, true);
    }
    ahci_free_slot(slot);
}

/* The ranges of a list, one request after the other. */
static void ahci_trim(struct ahci_slot *slot)
{
    uint64_t offset, bytes;
    if (!ata_trim_next(&slot->port->drive, &slot->command, slot->list, &offset, &bytes, &slot->registers)) {
        ahci_finish(slot);
        return;
    }
    slot->request.io = (struct block_request){.op = BLOCK_DISCARD, .offset = offset, .bytes = bytes};
    disk_submit(&slot->port->ahci->requests, &slot->request);
}

static void ahci_done(struct disk_request *request, int result)
{
    struct ahci_slot *slot = (struct ahci_slot *)request;
    struct ahci_port *port = slot->port;
    if (slot->dropped || port->halted) {
        ahci_free_slot(slot);
    } else if (result == 0 && slot->command.trim) {
        ahci_trim(slot);
    } else {
        ata_done(&port->drive, &slot->command, result, 0, &slot->registers);
        ahci_finish(slot);
    }
    ahci_drained(port);
    ahci_run(port);
}

/* ---- The beginning of a command ---- */

enum ahci_gathered { GATHER_WHOLE, GATHER_SHORT, GATHER_FAULT };

/* `bytes` of the guest's, as the table has them, into slot->iov. */
static enum ahci_gathered ahci_gather(struct ahci_slot *slot, uint64_t prdt_gpa, unsigned entries, uint64_t bytes, uint64_t *got)
{
    const struct dma *dma = &slot->port->ahci->dma;
    *got = 0;
    unsigned room = 0;
    for (unsigned i = 0; i < entries && *got < bytes; i++) {
        struct {
            uint64_t address;
            uint32_t reserved, bytes;
        } prd;
        _Static_assert(sizeof(prd) == PRD_BYTES, "AHCI 1.3.1, 4.2.3.3");
        const uint8_t *entry = dma_at(dma, prdt_gpa + (uint64_t)i * PRD_BYTES, PRD_BYTES);
        if (entry == NULL) {
            return GATHER_FAULT;
        }
        memcpy(&prd, entry, sizeof(prd));
        uint64_t length = ((prd.bytes & 0x3fffff) | 1) + 1;
        uint64_t part = length < bytes - *got ? length : bytes - *got;
        uint8_t *host = dma_at(dma, prd.address & ~UINT64_C(1), part);
        if (host == NULL) {
            return GATHER_FAULT;
        }
        if (slot->iov_count == room) {
            room = room == 0 ? 32 : room * 2;
            struct iovec *grown = realloc(slot->iov, room * sizeof(*grown));
            if (grown == NULL) {
                return GATHER_FAULT;
            }
            slot->iov = grown;
        }
        slot->iov[slot->iov_count++] = (struct iovec){host, part};
        *got += part;
    }
    return *got == bytes ? GATHER_WHOLE : GATHER_SHORT;
}

static void ahci_copy(struct ahci_slot *slot)
{
    bool in = slot->command.direction == ATA_IN;
    uint64_t at = 0;
    for (unsigned i = 0; i < slot->iov_count; i++) {
        if (in) {
            memcpy(slot->iov[i].iov_base, slot->command.reply + at, slot->iov[i].iov_len);
        } else {
            memcpy(slot->list + at, slot->iov[i].iov_base, slot->iov[i].iov_len);
        }
        at += slot->iov[i].iov_len;
    }
}

static void ahci_abort(struct ahci_slot *slot, uint32_t bits, const char *why)
{
    struct ahci_port *port = slot->port;
    log_line(LOG_GUEST, "AHCI port %u, slot %u: %s", port->index, slot->index, why);
    ata_abort(&port->drive, &slot->command, &slot->registers);
    port->is |= bits;
    ahci_finish(slot);
}

/* Moves what is to be moved, or asks the disk to. */
static void ahci_transfer(struct ahci_slot *slot, uint64_t prdt_gpa, unsigned entries)
{
    struct ahci_port *port = slot->port;
    struct ata_command *command = &slot->command;
    uint64_t got = 0;
    enum ahci_gathered gathered =
        command->direction != ATA_NOWHERE ? ahci_gather(slot, prdt_gpa, entries, command->bytes, &got) : GATHER_WHOLE;
    if (gathered == GATHER_FAULT) {
        ahci_free_slot(slot);
        ahci_halt(port, PORT_IS_HBDS, "a PRD outside of memory");
        return;
    }
    if (gathered == GATHER_SHORT && (command->io || command->trim)) {
        ahci_abort(slot, PORT_IS_OFS, "the PRDs are too short");
        return;
    }
    if (command->io) {
        slot->request.io = (struct block_request){
            .op = command->op,
            .flags = command->flags,
            .offset = command->offset,
            .bytes = command->direction != ATA_NOWHERE ? command->bytes : 0,
            .iov = slot->iov,
            .iov_count = slot->iov_count,
        };
        slot->request.to_guest = command->direction == ATA_IN;
        disk_submit(&port->ahci->requests, &slot->request);
        return;
    }
    if (command->trim) {
        slot->list = malloc(command->bytes);
        if (slot->list == NULL) {
            ahci_abort(slot, 0, "no memory");
            return;
        }
        ahci_copy(slot);
        slot->request.to_guest = false;
        ahci_trim(slot);
        return;
    }
    ahci_copy(slot);
    ata_done(&port->drive, command, 0, 0, &slot->registers);
    command->bytes = got;
    ahci_finish(slot);
}

static void ahci_read_fis(const uint8_t *fis, struct ata_registers *registers)
{
    *registers = (struct ata_registers){
        .command = fis[2],
        .device = fis[7],
        .feature = (uint16_t)(fis[3] | fis[11] << 8),
        .count = (uint16_t)(fis[12] | fis[13] << 8),
    };
    for (unsigned i = 0; i < 3; i++) {
        registers->lba |= (uint64_t)fis[4 + i] << i * 8 | (uint64_t)fis[8 + i] << (24 + i * 8);
    }
}

/* A register FIS without the command bit: SRST is set, then cleared (AHCI, 10.4.1). */
static void ahci_control(struct ahci_port *port, unsigned index, const uint8_t *fis)
{
    bool reset = (fis[15] & FIS_SRST) != 0;
    port->ci &= ~(1u << index);
    if (port->soft_reset && !reset) {
        ahci_drop(port);
        port->resetting = true;
        port->tfd = ATA_BSY;
        ahci_drained(port);
    }
    port->soft_reset = reset;
}

static void ahci_start_packet(struct ahci_slot *slot, const uint8_t *table, uint64_t prdt_gpa, unsigned entries)
{
    struct ahci_port *port = slot->port;
    uint8_t packet[ATA_PACKET_BYTES];
    memcpy(packet, table + TABLE_ACMD, sizeof(packet));
    if (ata_packet(&port->drive, packet, (slot->registers.feature & 1) != 0, &slot->registers, &slot->command)) {
        ahci_transfer(slot, prdt_gpa, entries);
    } else {
        ahci_finish(slot);
    }
}

static bool ahci_is_queued(const uint8_t *fis)
{
    return (fis[1] & FIS_COMMAND) != 0 && (fis[2] == 0x60 || fis[2] == 0x61);
}

/* A queued command is off the list as soon as the drive has it. */
static void ahci_accept_queued(struct ahci_slot *slot)
{
    struct ahci_port *port = slot->port;
    const struct ata_registers accepted = {.status = ATA_DRDY, .device = slot->registers.device};
    port->ci &= ~(1u << slot->index);
    ahci_send_d2h(port, &accepted, false);
}

/* False: it must wait for others. */
static bool ahci_start(struct ahci_port *port, unsigned index)
{
    const struct dma *dma = &port->ahci->dma;
    struct ahci_slot *slot = &port->slots[index];
    uint32_t header[4];
    uint8_t table[TABLE_PRDT];
    uint64_t header_gpa = port->clb + index * HEADER_BYTES;
    const uint8_t *at = dma_at(dma, header_gpa, HEADER_BYTES);
    if (at == NULL) {
        ahci_halt(port, PORT_IS_HBFS, "no memory at PxCLB");
        return false;
    }
    memcpy(header, at, sizeof(header));
    uint64_t table_gpa = (header[2] & ~0x7fu) | (uint64_t)header[3] << 32;
    at = dma_at(dma, table_gpa, sizeof(table));
    if (at == NULL) {
        ahci_halt(port, PORT_IS_HBFS, "a command table outside of memory");
        return false;
    }
    memcpy(table, at, sizeof(table));
    bool queued = ahci_is_queued(table);
    if (port->taken != 0 && !queued) {
        return false; /* goes on when those that are queued have ended */
    }
    if (table[0] != FIS_H2D || (header[0] & 0x1f) < 5) {
        ahci_halt(port, PORT_IS_IFS, "no register FIS");
        return false;
    }
    if ((table[1] & FIS_COMMAND) == 0) {
        ahci_control(port, index, table);
        return true;
    }
    port->cmd = (port->cmd & ~(0x1fu << PORT_CMD_CCS_SHIFT)) | index << PORT_CMD_CCS_SHIFT;
    bool reused = slot->busy;
    struct ahci_slot refused = {.port = port, .index = (uint8_t)index};
    if (reused) {
        slot = &refused; /* the one that has the tag goes on, unheard */
    }
    *slot = (struct ahci_slot){.port = port, .index = (uint8_t)index, .busy = true, .queued = queued, .header_gpa = header_gpa};
    slot->request.drive = &port->drive;
    slot->request.port = port;
    slot->request.done = ahci_done;
    ahci_read_fis(table, &slot->registers);
    if (!reused) {
        port->taken |= 1u << index;
    }
    if (!queued) {
        port->tfd = ATA_BSY;
    }
    bool goes_on = ata_execute(&port->drive, &slot->registers, &slot->command);
    if (queued && (reused || (goes_on && slot->command.tag != index))) {
        ata_abort(&port->drive, &slot->command, &slot->registers);
        goes_on = false;
    }
    if (queued && goes_on) {
        ahci_accept_queued(slot);
    }
    unsigned entries = header[0] >> 16;
    if (!goes_on && reused) {
        uint32_t taken = port->taken;
        ahci_finish(slot);
        port->taken = taken;
    } else if (!goes_on) {
        ahci_finish(slot);
    } else if (slot->command.protocol == ATA_PACKET) {
        ahci_start_packet(slot, table, table_gpa + TABLE_PRDT, entries);
    } else {
        ahci_transfer(slot, table_gpa + TABLE_PRDT, entries);
    }
    return true;
}

/* One that is not queued is alone. */
static bool ahci_is_alone(const struct ahci_port *port)
{
    for (unsigned i = 0; i < AHCI_SLOTS && port->taken != 0; i++) {
        if (port->slots[i].busy && !port->slots[i].queued) {
            return true;
        }
    }
    return false;
}

void ahci_run(struct ahci_port *port)
{
    struct block *block = port->present ? port->drive.config.block : NULL;
    if (block != NULL) {
        block_plug(block);
    }
    for (unsigned turn = 0; turn < AHCI_SLOTS && port->ahci->master; turn++) {
        unsigned index = port->next_slot;
        bool runs = (port->cmd & (PORT_CMD_ST | PORT_CMD_CR)) == (PORT_CMD_ST | PORT_CMD_CR) && !port->halted && !port->resetting && port->present;
        if (!runs || ahci_is_alone(port)) {
            break;
        }
        if ((port->ci >> index & 1) != 0 && !ahci_start(port, index)) {
            break;
        }
        port->next_slot = (index + 1) % AHCI_SLOTS;
    }
    if (block != NULL) {
        block_unplug(block);
    }
}
