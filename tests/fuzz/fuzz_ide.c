/* SPDX-License-Identifier: MIT */
/*
 * libFuzzer harness of the IDE function with a disk and a CD-ROM drive on each channel: an input is a list of what a hostile driver does.
 * Each input must end, SRST must bring every drive back, and all must be given back. tests/fuzz-smoke.sh builds and runs this.
 *
 *   records of a byte op (bit 7: the channel) and what it needs: see fuzz_step()
 */
#include "disk/ide.h"
#include "fuzz_disk.h"

static struct ide *ide;

static void command_write(unsigned channel, unsigned offset, uint64_t value, unsigned size)
{
    ide_command_ops.write(&ide->channels[channel], offset, size, value);
}

/* Stopping bus mastering waits for the host, which is only served here. */
static void bm_write(unsigned offset, unsigned size, uint64_t value)
{
    block_drain(block);
    ide->function.bars[4].ops->write(ide, offset, size, value);
}

/* A whole command: registers, packet or PRDs, and what moves its data. */
static void fuzz_command(unsigned channel, struct input *input)
{
    uint8_t shape = (uint8_t)take(input, 1), code = take_code(input);
    uint16_t lba = (uint16_t)take(input, 2), count = (uint16_t)take(input, 1);
    unsigned base = channel * 8;
    command_write(channel, 6, 0x40 | (shape & 0x10), 1);
    if ((shape & 0x60) == 0x60) {
        command_write(channel, 1, take(input, 1), 1);
    } else {
        command_write(channel, 1, shape >> 5 & 3, 1);
    }
    if ((shape & 1) != 0) { /* the upper halves */
        command_write(channel, 2, 0, 1);
        command_write(channel, 3, 0, 1);
    }
    command_write(channel, 2, count, 1);
    command_write(channel, 3, lba & 0xff, 1);
    command_write(channel, 4, lba >> 8, 1);
    command_write(channel, 5, shape >> 7, 1);
    if ((shape & 2) != 0) {
        put_le(0x100, take(input, 2), 4);
        put_le(0x104, take(input, 2) | (uint64_t)take(input, 1) << 24, 4);
        put_le(0x10c, 0x80000000, 4);
        bm_write(base + 4, 4, 0x100);
        bm_write(base, 1, shape & 4 ? 9 : 1);
    }
    command_write(channel, 7, code, 1);
    if (code == 0xa0) {
        uint8_t packet[12];
        take_packet(input, packet);
        for (unsigned i = 0; i < 12; i += 2) {
            command_write(channel, 0, (uint64_t)(packet[i] | packet[i + 1] << 8), 2);
        }
    }
    if ((shape & 8) != 0) {
        for (unsigned i = 0; i < 700; i++) {
            if (i % 128 == 0) {
                block_drain(block);
            }
            if ((shape & 4) != 0) {
                ide_command_ops.read(&ide->channels[channel], 0, 4);
            } else {
                command_write(channel, 0, i * 0x01000193u, 4);
            }
        }
    }
}

static void fuzz_step(struct input *input)
{
    uint8_t op = (uint8_t)take(input, 1);
    unsigned channel = op >> 7, size = 1u << (op >> 5 & 3) % 3;
    uint64_t at;
    switch (op & 0x0f) {
    case 0:
        at = take(input, 1) & 7 & ~(uint64_t)(size - 1);
        command_write(channel, (unsigned)at, take(input, size), size);
        break;
    case 1:
        at = take(input, 1) & 7 & ~(uint64_t)(size - 1);
        ide_command_ops.read(&ide->channels[channel], at, size);
        break;
    case 2:
        ide_control_ops.write(&ide->channels[channel], 0, 1, take(input, 1));
        break;
    case 3:
        at = take(input, 1) & 15 & ~(uint64_t)(size - 1);
        bm_write((unsigned)at, size, take(input, size));
        break;
    case 4:
        ide->function.bars[4].ops->read(ide, take(input, 1) & 15 & ~(uint64_t)(size - 1), size);
        break;
    case 5:
        fuzz_poke(input);
        break;
    case 6:
        block_drain(block);
        break;
    case 7: /* decoding */
        at = 0x40 + (take(input, 1) & 3);
        ide->function.config[at] = (uint8_t)take(input, 1);
        ide->function.written(ide, (unsigned)at, 1);
        break;
    case 8:
        for (unsigned i = (unsigned)take(input, 1) * 4; i > 0; i--) {
            ide_command_ops.read(&ide->channels[channel], 0, size > 1 ? size : 2);
        }
        break;
    default:
        fuzz_command(channel, input);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    const struct irq irqs[IDE_CHANNELS] = {{.set = line_set, .line = 0}, {.set = line_set, .line = 1}};
    struct input input = {data, bytes};
    struct error error;
    if (memory == NULL) {
        fuzz_init();
    }
    memset(memory, 0, MEMORY_BYTES);
    ide = ide_new(NULL, &dma, irqs, &error);
    if (ide == NULL) {
        abort();
    }
    for (unsigned i = 0; i < IDE_CHANNELS * IDE_UNITS; i++) {
        const struct ata_config config = {.block = block, .cdrom = i % 2 != 0, .write_cache = true, .serial = "fuzz"};
        if (ide_add(ide, i / IDE_UNITS, i % IDE_UNITS, &config) != 0) {
            abort();
        }
        ide->channels[i / IDE_UNITS].units[i % IDE_UNITS].drive.scsi.attention = bytes & 2 ? SCSI_ATTENTION_RESET : 0;
    }
    ide->function.config[PCI_COMMAND] = PCI_COMMAND_IO | PCI_COMMAND_MASTER;
    ide->function.config[0x41] = ide->function.config[0x43] = 0x80;
    ide->function.written(ide, 0x40, 4);
    while (input.left > 0) {
        fuzz_step(&input);
    }
    ide->function.config[0x41] = ide->function.config[0x43] = 0x80;
    ide->function.written(ide, 0x40, 4);
    for (unsigned i = 0; i < IDE_CHANNELS && bytes % 2 == 0; i++) { /* else what is under way is cut off */
        ide_control_ops.write(&ide->channels[i], 0, 1, 4);
        ide_control_ops.write(&ide->channels[i], 0, 1, 0);
        block_drain(block);
        if ((ide_control_ops.read(&ide->channels[i], 0, 1) & (ATA_BSY | ATA_DRQ)) != 0 || ide->channels[i].request.active) {
            abort(); /* a command was lost */
        }
    }
    ide_free(ide);
    return 0;
}
