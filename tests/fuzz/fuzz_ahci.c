/* SPDX-License-Identifier: MIT */
/*
 * libFuzzer harness of the AHCI controller with a disk and a CD-ROM drive: an input is a list of what a hostile driver does to registers and
 * to what is in memory. Each input must end, a reset of the controller must bring it back, and all must be given back. tests/fuzz-smoke.sh
 * builds and runs this.
 *
 *   records of a byte op (bit 7: the port) and what it needs: see fuzz_step()
 */
#include "disk/ahci.h"
#include "fuzz_disk.h"

#define LIST(port) (0x400u + (port) * 0x400u)
#define FISES(port) (0x1000u + (port) * 0x100u)
#define TABLE(port, slot) (0x2000u + (port) * 0x2000u + (slot) * 0x100u)
#define PORT(port) (0x100u + (port) * 0x80u)

static struct ahci *ahci;

static int msi_open(void *opaque)
{
    (void)opaque;
    return 0;
}
static void msi_set(void *opaque, int route, uint64_t address, uint32_t data)
{
    (void)opaque;
    (void)address;
    (void)data;
    if (route != 0) {
        abort();
    }
}
static void msi_send(void *opaque, int route)
{
    msi_set(opaque, route, 0, 0);
}
static const struct msi msi = {.open = msi_open, .set = msi_set, .signal = msi_send, .close = msi_send};

static void hba_write(unsigned offset, uint64_t value, unsigned size)
{
    ahci->function.bars[AHCI_BAR].ops->write(ahci, offset, size, value);
}

static void fuzz_start(unsigned port)
{
    hba_write(PORT(port), LIST(port), 4);
    hba_write(PORT(port) + 0x08, FISES(port), 4);
    hba_write(PORT(port) + 0x10, 0xffffffff, 4);
    hba_write(PORT(port) + 0x18, 0x10, 4);
    hba_write(PORT(port) + 0x18, 0x11, 4);
    hba_write(PORT(port) + 0x14, 0xffffffff, 4);
}

/* A whole command in a slot: header, table, PRDs; and its start, with others perhaps. */
static void fuzz_command(unsigned port, struct input *input)
{
    uint8_t shape = (uint8_t)take(input, 1), code = take_code(input);
    unsigned slot = shape & 0x1f, count = (unsigned)take(input, 1), prds = 1 + (shape >> 6);
    uint16_t lba = (uint16_t)take(input, 2);
    uint32_t table = TABLE(port, slot), header = LIST(port) + slot * 32;
    put_le(header, 5 | (code == 0xa0 ? 0x20u : 0) | prds << 16, 8);
    put_le(header + 8, table, 8);
    put_le(table, 0x27 | 0x80 << 8 | (uint64_t)code << 16 | (uint64_t)(code >= 0x60 && code <= 0x61 ? count : 1) << 24, 4);
    put_le(table + 4, lba | 0x40000000u, 4);
    put_le(table + 8, 0, 4);
    put_le(table + 12, code >= 0x60 && code <= 0x61 ? slot << 3 : count, 4);
    if (code == 0xa0) {
        take_packet(input, memory + table + 0x40);
    }
    if (code == 0xb0 || code == 0xef || code == 0x06) {
        put_le(table + 3, take(input, 1), 1); /* feature */
    }
    if (code == 0xb0) {
        put_le(table + 5, 0xc24f, 2);
    }
    for (unsigned i = 0; i < prds; i++) {
        put_le(table + 0x80 + i * 16, take(input, 2) * 2, 8);
        put_le(table + 0x8c + i * 16, take(input, 2), 4);
    }
    if (code >= 0x60 && code <= 0x61) {
        hba_write(PORT(port) + 0x34, 1u << slot, 4);
    }
    if ((shape & 0x20) != 0) {
        hba_write(PORT(port) + 0x38, 1u << slot | (uint32_t)take(input, 2), 4);
    }
}

static void fuzz_step(struct input *input)
{
    uint8_t op = (uint8_t)take(input, 1);
    unsigned port = op >> 7, size = 4u << (op >> 6 & 1);
    uint64_t at;
    switch (op & 0x0f) {
    case 0:
        at = take(input, 1) & 0x7c;
        hba_write(PORT(port) + (unsigned)at, take(input, size), size);
        break;
    case 1:
        at = take(input, 2) & (AHCI_BAR_BYTES - 8);
        ahci->function.bars[AHCI_BAR].ops->read(ahci, at | (op >> 4 & 3), op & 0x20 ? 1 : 4);
        break;
    case 2:
        at = take(input, 1) & 0x3c;
        hba_write((unsigned)at, take(input, size), size);
        break;
    case 3:
        fuzz_poke(input);
        break;
    case 4:
        block_drain(block);
        break;
    case 5:
        hba_write(PORT(port) + 0x38, take(input, 4), 4);
        break;
    case 6: /* the link */
        hba_write(PORT(port) + 0x2c, op >> 4 & 1, 4);
        break;
    case 7:
        at = ahci->msi.capability + (take(input, 1) & 15);
        ahci->function.config[at] = (uint8_t)take(input, 1) & ahci->function.writable[at];
        ahci->function.written(ahci, (unsigned)at, 1);
        break;
    case 8:
        fuzz_start(port);
        break;
    default:
        fuzz_command(port, input);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct input input = {data, bytes};
    struct error error;
    if (memory == NULL) {
        fuzz_init();
    }
    memset(memory, 0, MEMORY_BYTES);
    ahci = ahci_new(NULL, &dma, &msi, &error);
    if (ahci == NULL) {
        abort();
    }
    ahci->function.intx = (struct irq){.set = line_set};
    for (unsigned i = 0; i < 2; i++) {
        const struct ata_config config = {.block = block, .cdrom = i != 0, .write_cache = true, .ncq = true, .serial = "fuzz"};
        if (ahci_add(ahci, i, &config) != 0) {
            abort();
        }
        ahci->ports[i].drive.scsi.attention = bytes & 2 ? SCSI_ATTENTION_RESET : 0;
        fuzz_start(i);
    }
    ahci->function.config[PCI_COMMAND] = PCI_COMMAND_MASTER;
    ahci->function.written(ahci, PCI_COMMAND, 1);
    hba_write(0x04, 2, 4);
    while (input.left > 0) {
        fuzz_step(&input);
    }
    if (bytes % 2 == 0) { /* else what is under way is cut off */
        hba_write(0x04, 1, 4);
        block_drain(block);
        for (unsigned i = 0; i < AHCI_PORTS; i++) {
            if (ahci->ports[i].taken != 0 || (ahci->ghc & 1) != 0) {
                abort(); /* a command was lost */
            }
        }
    }
    ahci_free(ahci);
    return 0;
}
