/* SPDX-License-Identifier: MIT */
/*
 * Bus mastering (Intel 290550, 2.3.4 and 2.7), and the PCI function.
 */
#include "disk/ide_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/log.h"

#define BM_PORTS 16u
#define BM_CHANNEL 8u
#define BMIC_START 0x01u
#define BMIC_TO_MEMORY 0x08u
#define BMIS_KEPT 0x60u /* what software knows of the drives */
enum { BMIC = 0, BMIS = 2, BMIDTP = 4 };

#define PRD_BYTES 8u
#define PRDS_MAX 8192u /* a table has at most 64 KiB */
#define PRD_LAST 0x80000000u

#define IDETIM 0x40u
#define IDETIM_ENABLE 0x80u /* of the upper byte */
#define SIDETIM 0x44u

/* ---- Where the data is ---- */

enum ide_gathered { GATHER_WHOLE, GATHER_MORE, GATHER_SHORT, GATHER_FAULT }; /* more: the table goes on behind the data */

/* `bytes` of the guest's, as the table has them, into channel->iov. Each entry is read once. */
static enum ide_gathered ide_gather(struct ide_channel *channel, uint64_t bytes, uint64_t *got)
{
    const struct dma *dma = &channel->ide->dma;
    unsigned room = 0;
    *got = 0;
    channel->iov_count = 0;
    for (unsigned i = 0; i < PRDS_MAX; i++) {
        uint32_t prd[2];
        const uint8_t *entry = dma_at(dma, (uint64_t)channel->bmidtp + i * PRD_BYTES, PRD_BYTES);
        if (entry == NULL) {
            return GATHER_FAULT;
        }
        memcpy(prd, entry, sizeof(prd));
        uint32_t length = (prd[1] & 0xfffe) != 0 ? prd[1] & 0xfffe : 0x10000;
        uint64_t part = length < bytes - *got ? length : bytes - *got;
        uint8_t *host = dma_at(dma, prd[0] & ~1u, part);
        if (host == NULL) {
            return GATHER_FAULT;
        }
        if (channel->iov_count == room) {
            room = room == 0 ? 64 : room * 2;
            struct iovec *grown = realloc(channel->iov, room * sizeof(*grown));
            if (grown == NULL) {
                return GATHER_FAULT;
            }
            channel->iov = grown;
        }
        channel->iov[channel->iov_count++] = (struct iovec){host, part};
        *got += part;
        if (*got == bytes) {
            return part == length && (prd[1] & PRD_LAST) != 0 ? GATHER_WHOLE : GATHER_MORE;
        }
        if ((prd[1] & PRD_LAST) != 0) {
            return GATHER_SHORT;
        }
    }
    return GATHER_SHORT;
}

/* ---- A command's data ---- */

static void ide_dma_finish(struct ide_channel *channel)
{
    ide_finish(channel, true);
}

static void ide_dma_abort(struct ide_channel *channel, const char *why)
{
    struct ide_unit *unit = &channel->units[channel->selected];
    log_line(LOG_GUEST, "IDE channel %u: %s", channel->index, why);
    channel->bmis = (uint8_t)((channel->bmis & ~BMIS_ACTIVE) | BMIS_ERROR);
    ata_abort(&unit->drive, &channel->command, &unit->registers);
    ide_dma_finish(channel);
}

static void ide_dma_copy(struct ide_channel *channel, uint64_t got)
{
    uint8_t *ours = channel->command.direction == ATA_IN ? channel->command.reply : channel->buffer;
    uint64_t at = 0;
    for (unsigned i = 0; i < channel->iov_count && at < got; i++) {
        if (channel->command.direction == ATA_IN) {
            memcpy(channel->iov[i].iov_base, ours + at, channel->iov[i].iov_len);
        } else {
            memcpy(ours + at, channel->iov[i].iov_base, channel->iov[i].iov_len);
        }
        at += channel->iov[i].iov_len;
    }
}

/* The ranges of a list, one request after the other. */
static void ide_dma_trim(struct ide_channel *channel)
{
    struct ide_unit *unit = &channel->units[channel->selected];
    uint64_t offset, bytes;
    if (!ata_trim_next(&unit->drive, &channel->command, channel->buffer, &offset, &bytes, &unit->registers)) {
        ide_dma_finish(channel);
        return;
    }
    channel->request.io = (struct block_request){.op = BLOCK_DISCARD, .offset = offset, .bytes = bytes};
    ide_submit(channel, false);
}

void ide_dma_go(struct ide_channel *channel)
{
    struct ide_unit *unit = &channel->units[channel->selected];
    struct ata_command *command = &channel->command;
    uint64_t got;
    if ((channel->bmic & BMIC_START) == 0 || (channel->bmis & BMIS_ACTIVE) == 0 || !channel->ide->master) {
        return; /* the drive waits */
    }
    if (((channel->bmic & BMIC_TO_MEMORY) != 0) != (command->direction == ATA_IN)) {
        ide_dma_abort(channel, "bus mastering in the other direction");
        return;
    }
    enum ide_gathered gathered = ide_gather(channel, command->bytes, &got);
    if (gathered == GATHER_FAULT) {
        ide_dma_abort(channel, "a PRD outside of memory");
        return;
    }
    if (gathered != GATHER_MORE) {
        channel->bmis &= (uint8_t)~BMIS_ACTIVE; /* 2.7.3: all that was described is used up */
    }
    if (gathered == GATHER_SHORT && (command->io || command->trim)) {
        log_line(LOG_GUEST, "IDE channel %u: PRDs of %llu bytes for %llu", channel->index, (unsigned long long)got, (unsigned long long)command->bytes);
        return; /* the drive waits for the rest, until it is reset */
    }
    if (command->io) {
        channel->request.io = (struct block_request){
            .op = command->op,
            .flags = command->flags,
            .offset = command->offset,
            .bytes = command->bytes,
            .iov = channel->iov,
            .iov_count = channel->iov_count,
        };
        ide_submit(channel, command->direction == ATA_IN);
        return;
    }
    ide_dma_copy(channel, got);
    if (command->trim) {
        ide_dma_trim(channel);
    } else {
        ata_done(&unit->drive, command, 0, 0, &unit->registers);
        ide_dma_finish(channel);
    }
}

void ide_dma_done(struct ide_channel *channel, int result)
{
    struct ide_unit *unit = &channel->units[channel->selected];
    if (result == 0 && channel->command.trim) {
        ide_dma_trim(channel);
        return;
    }
    ata_done(&unit->drive, &channel->command, result, 0, &unit->registers);
    if (result != 0) {
        channel->bmis &= (uint8_t)~BMIS_ACTIVE;
    }
    ide_dma_finish(channel);
}

/* ---- Registers ---- */

/* Stopped under way: what the host still does to the guest's memory must be over before the guest goes on. */
static void ide_dma_wait(struct ide_channel *channel)
{
    if (channel->request.active && channel->command.protocol == ATA_DMA) {
        disk_cancel(&channel->ide->requests, channel);
        disk_wait(&channel->ide->requests, &channel->request);
    }
}

static void ide_bm_stop(struct ide_channel *channel)
{
    ide_dma_wait(channel);
    channel->bmis &= (uint8_t)~BMIS_ACTIVE;
}

static void ide_bm_write_byte(struct ide_channel *channel, unsigned offset, uint8_t value)
{
    unsigned shift = (offset - BMIDTP) * 8;
    switch (offset) {
    case BMIC: {
        bool start = (value & BMIC_START) != 0, started = (channel->bmic & BMIC_START) != 0;
        channel->bmic = (uint8_t)(value & (BMIC_START | BMIC_TO_MEMORY));
        if (start && !started) {
            channel->bmis |= BMIS_ACTIVE;
            if (channel->state == IDE_DMA) {
                ide_dma_go(channel);
            }
        } else if (!start && started) {
            ide_bm_stop(channel);
        }
        break;
    }
    case BMIS:
        channel->bmis = (uint8_t)((channel->bmis & (BMIS_ACTIVE | (~value & (BMIS_ERROR | BMIS_INTERRUPT)))) | (value & BMIS_KEPT));
        break;
    case BMIDTP:
        value &= 0xfc;
        /* fall through */
    case BMIDTP + 1:
    case BMIDTP + 2:
    case BMIDTP + 3:
        channel->bmidtp = (channel->bmidtp & ~(0xffu << shift)) | (uint32_t)value << shift;
        break;
    default:
        break;
    }
}

static uint8_t ide_bm_read_byte(const struct ide_channel *channel, unsigned offset)
{
    if (offset >= BMIDTP) {
        return (uint8_t)(channel->bmidtp >> (offset - BMIDTP) * 8);
    }
    return offset == BMIC ? channel->bmic : offset == BMIS ? channel->bmis : (uint8_t)0;
}

static uint64_t ide_bm_read(void *self, uint64_t offset, unsigned size)
{
    struct ide *ide = self;
    uint64_t value = 0;
    pthread_mutex_lock(&ide->requests.lock);
    for (unsigned i = 0; i < size; i++) {
        unsigned at = (unsigned)offset + i;
        value |= (uint64_t)ide_bm_read_byte(&ide->channels[at / BM_CHANNEL], at % BM_CHANNEL) << i * 8;
    }
    pthread_mutex_unlock(&ide->requests.lock);
    return value;
}

static void ide_bm_write(void *self, uint64_t offset, unsigned size, uint64_t value)
{
    struct ide *ide = self;
    pthread_mutex_lock(&ide->requests.lock);
    for (unsigned i = 0; i < size; i++) {
        unsigned at = (unsigned)offset + i;
        ide_bm_write_byte(&ide->channels[at / BM_CHANNEL], at % BM_CHANNEL, (uint8_t)(value >> i * 8));
    }
    pthread_mutex_unlock(&ide->requests.lock);
}

static const struct device_ops ide_bm_ops = {.name = "IDE bus master", .read = ide_bm_read, .write = ide_bm_write};

/* IDETIM says which channels are decoded; firmware sets that. A transfer that waited for the right to master the bus goes on. */
static void ide_config_written(void *self, unsigned offset, unsigned size)
{
    struct ide *ide = self;
    const uint8_t *config = ide->function.config;
    (void)offset;
    (void)size;
    pthread_mutex_lock(&ide->requests.lock);
    bool master = (config[PCI_COMMAND] & PCI_COMMAND_MASTER) != 0, came = master && !ide->master;
    ide->master = master;
    for (unsigned i = 0; i < IDE_CHANNELS; i++) {
        if (came && ide->channels[i].state == IDE_DMA) {
            ide_dma_go(&ide->channels[i]);
        } else if (!master) {
            ide_dma_wait(&ide->channels[i]);
        }
        ide->channels[i].enabled = (config[IDETIM + i * 2 + 1] & IDETIM_ENABLE) != 0 && (config[PCI_COMMAND] & PCI_COMMAND_IO) != 0;
    }
    pthread_mutex_unlock(&ide->requests.lock);
}

/* ---- Life ---- */

static void ide_init_function(struct ide *ide)
{
    struct pci_function *function = &ide->function;
    pci_function_init(function, "PIIX3 IDE", 0x8086, 0x7010, 0x0101, 0x00);
    function->config[PCI_CLASS_PROG] = 0x80; /* a bus master, at the ports of old */
    pci_set_word(function->config, PCI_STATUS, 0x0280);
    for (unsigned i = 0; i < 4; i++) {
        function->writable[IDETIM + i] = 0xff;
    }
    function->writable[SIDETIM] = 0xff;
    function->bars[4] = (struct pci_bar){.bytes = BM_PORTS, .port = true, .ops = &ide_bm_ops, .device = ide};
    function->written = ide_config_written;
    function->self = ide;
}

struct ide *ide_new(const struct run_control *run, const struct dma *dma, const struct irq irqs[IDE_CHANNELS], struct error *error)
{
    struct ide *ide = calloc(1, sizeof(*ide));
    if (ide == NULL) {
        error_set(error, "IDE: no memory");
        return NULL;
    }
    disk_requests_init(&ide->requests, run);
    ide->dma = *dma;
    ide_init_function(ide);
    for (unsigned i = 0; i < IDE_CHANNELS; i++) {
        ide->channels[i] = (struct ide_channel){.ide = ide, .index = i, .irq = irqs[i]};
        ide->channels[i].buffer = malloc(IDE_BUFFER_BYTES);
    }
    if (ide->channels[0].buffer == NULL || ide->channels[1].buffer == NULL) {
        error_set(error, "IDE: no memory");
        ide_free(ide);
        return NULL;
    }
    return ide;
}

void ide_stop(struct ide *ide)
{
    disk_requests_stop(&ide->requests);
}

void ide_free(struct ide *ide)
{
    if (ide == NULL) {
        return;
    }
    ide_stop(ide);
    for (unsigned i = 0; i < IDE_CHANNELS; i++) {
        struct ide_channel *channel = &ide->channels[i];
        pthread_mutex_lock(&ide->requests.lock);
        channel->resetting = true; /* what is done now interrupts nobody, and starts nothing */
        channel->control = 0x04;
        disk_cancel(&ide->requests, channel);
        pthread_mutex_unlock(&ide->requests.lock);
        for (unsigned u = 0; u < IDE_UNITS; u++) {
            if (channel->units[u].present && channel->units[u].drive.config.block != NULL) {
                block_drain(channel->units[u].drive.config.block);
            }
        }
        free(channel->iov);
        free(channel->buffer);
    }
    disk_requests_fini(&ide->requests);
    free(ide);
}

int ide_add(struct ide *ide, unsigned channel, unsigned unit, const struct ata_config *config)
{
    struct ide_unit *at = &ide->channels[channel].units[unit];
    if (at->present) {
        return -EEXIST;
    }
    int result = ata_init(&at->drive, config);
    if (result == 0) {
        ata_reset(&at->drive, false, &at->registers);
        at->registers.device = unit != 0 ? ATA_DEVICE_1 : 0;
        at->present = true;
    }
    return result;
}
