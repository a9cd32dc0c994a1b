/* SPDX-License-Identifier: MIT */
/*
 * PIIX3's IDE function with ATA and ATAPI drives, as a driver sees them: registers, PIO, bus mastering, resets with I/O under way, and
 * what a hostile driver does. Nothing but the PRDs' memory is written, and nothing after a reset has ended.
 */
#include <setjmp.h>
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "disk/ide.h"
#include "disk_fixture.h"

enum { DATA, ERROR, COUNT, LBA_LOW, LBA_MID, LBA_HIGH, DEVICE, STATUS };
#define PRD_GPA 0x1000u
#define DATA_GPA 0x100000u
#define READY (ATA_DRDY | ATA_DSC)

static struct ide *ide;
static struct ide_channel *channel; /* that out() and in() reach */

static void config_write(unsigned offset, uint8_t value)
{
    ide->function.config[offset] = value;
    ide->function.written(ide->function.self, offset, 1);
}

static int setup(void **state)
{
    struct error error;
    const struct irq irqs[2] = {{.set = line_set, .line = 0}, {.set = line_set, .line = 1}};
    (void)state;
    fixture_open();
    ide = ide_new(&run, &memory_dma, irqs, &error);
    assert_non_null(ide);
    const struct ata_config disk = {.block = block, .write_cache = true, .serial = "serial-1", .model = "A DISK"};
    const struct ata_config cd = {.block = block, .cdrom = true, .serial = "serial-2"};
    assert_int_equal(ide_add(ide, 0, 0, &disk), 0);
    assert_int_equal(ide_add(ide, 0, 0, &disk), -EEXIST);
    assert_int_equal(ide_add(ide, 1, 0, &cd), 0);
    channel = &ide->channels[0];
    config_write(PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MASTER);
    config_write(0x41, 0x80);
    config_write(0x43, 0x80);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    ide_free(ide);
    fixture_close();
    return 0;
}

static void out(unsigned offset, uint8_t value)
{
    ide_command_ops.write(channel, offset, 1, value);
}
static uint8_t in(unsigned offset)
{
    return (uint8_t)ide_command_ops.read(channel, offset, 1);
}
static uint8_t alternate(void)
{
    return (uint8_t)ide_control_ops.read(channel, 0, 1);
}
static void control(uint8_t value)
{
    ide_control_ops.write(channel, 0, 1, value);
}
static const struct device_ops *bm(void)
{
    return ide->function.bars[4].ops;
}
static void bm_write(unsigned offset, unsigned size, uint32_t value)
{
    bm()->write(ide, offset + channel->index * 8, size, value);
}
static uint8_t bm_status(void)
{
    return (uint8_t)bm()->read(ide, 2 + channel->index * 8, 1);
}

/* A 28-bit command. */
static void command(uint8_t code, uint32_t lba, uint8_t count)
{
    out(DEVICE, (uint8_t)(0xe0 | lba >> 24));
    out(COUNT, count);
    out(LBA_LOW, (uint8_t)lba);
    out(LBA_MID, (uint8_t)(lba >> 8));
    out(LBA_HIGH, (uint8_t)(lba >> 16));
    out(STATUS, code);
}
/* A 48-bit one. */
static void command_ext(uint8_t code, uint64_t lba, uint16_t count)
{
    out(DEVICE, 0x40);
    out(COUNT, (uint8_t)(count >> 8));
    out(LBA_LOW, (uint8_t)(lba >> 24));
    out(LBA_MID, (uint8_t)(lba >> 32));
    out(LBA_HIGH, (uint8_t)(lba >> 40));
    out(COUNT, (uint8_t)count);
    out(LBA_LOW, (uint8_t)lba);
    out(LBA_MID, (uint8_t)(lba >> 8));
    out(LBA_HIGH, (uint8_t)(lba >> 16));
    out(STATUS, code);
}

static uint8_t finish(void)
{
    block_drain(block);
    return in(STATUS);
}

/* All of a PIO command's blocks; how many bytes came. */
static size_t pio_in(uint8_t *bytes, size_t room, unsigned *interrupts)
{
    size_t got = 0;
    *interrupts = 0;
    for (;;) {
        block_drain(block);
        *interrupts += lines[channel->index].level;
        if ((in(STATUS) & (ATA_DRQ | ATA_BSY)) != ATA_DRQ) {
            return got;
        }
        for (unsigned i = 0; i < 256 && (alternate() & ATA_DRQ) != 0 && !lines[channel->index].level; i++) {
            uint16_t word = (uint16_t)ide_command_ops.read(channel, DATA, 2);
            assert_true(got + 2 <= room);
            memcpy(bytes + got, &word, 2);
            got += 2;
        }
    }
}

static void pio_out(const uint8_t *bytes, size_t count)
{
    for (size_t at = 0; at < count; at += 4) {
        uint32_t value;
        if ((alternate() & ATA_DRQ) == 0) {
            block_drain(block);
        }
        assert_int_equal(alternate() & (ATA_DRQ | ATA_BSY), ATA_DRQ);
        memcpy(&value, bytes + at, 4);
        ide_command_ops.write(channel, DATA, 4, value);
    }
}

static void prd(unsigned index, uint32_t address, uint32_t bytes, bool last)
{
    put_le(PRD_GPA + index * 8, address, 4);
    put_le(PRD_GPA + index * 8 + 4, (bytes & 0xffff) | (last ? 0x80000000u : 0), 4);
}

static void bm_start(bool to_memory)
{
    bm_write(4, 4, PRD_GPA);
    bm_write(2, 1, 0x66);
    bm_write(0, 1, to_memory ? 9 : 1);
}

static uint8_t buffer[DISK_BYTES];

static void test_identify(void **state)
{
    unsigned interrupts;
    (void)state;
    command(0xec, 0, 0);
    assert_true(lines[0].level);
    assert_int_equal(bm_status() & 4, 4);
    assert_int_equal(pio_in(buffer, 512, &interrupts), 512);
    assert_int_equal(interrupts, 1);
    assert_int_equal(in(STATUS), READY);
    assert_memory_equal(buffer + 54, " AIDKS", 6);
    assert_memory_equal(buffer + 20, "esirla1-", 8);
    uint32_t sectors;
    memcpy(&sectors, buffer + 120, 4);
    assert_int_equal(sectors, DISK_SECTORS);
    uint8_t sum = 0;
    for (unsigned i = 0; i < 512; i++) {
        sum = (uint8_t)(sum + buffer[i]);
    }
    assert_int_equal(sum, 0);
    /* Unit 1 is not there; its registers say 0. Unit 0 goes on. */
    out(DEVICE, 0xb0);
    assert_int_equal(in(STATUS), 0);
    out(COUNT, 0x55);
    assert_int_equal(in(COUNT), 0);
    out(STATUS, 0xec);
    assert_int_equal(in(STATUS), 0);
    out(DEVICE, 0xa0);
    assert_int_equal(in(COUNT), 0x55);
    /* Not decoded: the bus floats. */
    config_write(0x41, 0);
    assert_int_equal(in(STATUS), 0xff);
    assert_int_equal(alternate(), 0xff);
    config_write(0x41, 0x80);
    assert_int_equal(in(STATUS), READY);
    /* No such command. */
    command(0xff, 0, 0);
    assert_int_equal(finish(), READY | ATA_ERR);
    assert_int_equal(in(ERROR), ATA_ABRT);
}

static void test_pio(void **state)
{
    unsigned interrupts;
    (void)state;
    command(0x20, 5, 200); /* more than one buffer */
    assert_int_equal(in(STATUS), ATA_BSY);
    assert_int_equal(pio_in(buffer, sizeof(buffer), &interrupts), 200 * 512);
    assert_int_equal(interrupts, 200);
    assert_memory_equal(buffer, shadow + 5 * 512, 200 * 512);
    command(0x20, 0, 0); /* 0 is 256 */
    assert_int_equal(pio_in(buffer, sizeof(buffer), &interrupts), 256 * 512);
    command(0xc4, 0, 8); /* READ MULTIPLE before SET MULTIPLE */
    assert_int_equal(finish(), READY | ATA_ERR);
    command(0xc6, 0, 17);
    assert_int_equal(finish(), READY | ATA_ERR);
    command(0xc6, 0, 8);
    assert_int_equal(finish(), READY);
    command(0xc4, 1, 20);
    assert_int_equal(pio_in(buffer, sizeof(buffer), &interrupts), 20 * 512);
    assert_int_equal(interrupts, 3);
    assert_memory_equal(buffer, shadow + 512, 20 * 512);
    command_ext(0x24, DISK_SECTORS - 300, 300);
    assert_int_equal(pio_in(buffer, sizeof(buffer), &interrupts), 300 * 512);
    assert_memory_equal(buffer, shadow + (DISK_SECTORS - 300) * 512, 300 * 512);

    /* Writes: the first block without an interrupt. */
    for (unsigned i = 0; i < 300 * 512; i++) {
        buffer[i] = (uint8_t)(i * 3 + 1);
    }
    lines[0].edges = 0;
    command(0x30, 10, 3);
    assert_int_equal(lines[0].edges, 0);
    for (unsigned i = 0; i < 3; i++) {
        pio_out(buffer + i * 512, 512);
        assert_int_equal(lines[0].edges, i + (i < 2));
        in(STATUS);
    }
    assert_int_equal(finish(), READY);
    assert_int_equal(lines[0].edges, 3);
    command_ext(0x39, 100, 300);
    pio_out(buffer, 300 * 512);
    assert_int_equal(finish(), READY);
    static uint8_t back[300 * 512];
    disk_read(100, back, sizeof(back));
    assert_memory_equal(back, buffer, sizeof(back));
    disk_read(10, back, 3 * 512);
    assert_memory_equal(back, buffer, 3 * 512);

    /* By cylinder, head and sector: 0/1/1 is sector 63. */
    out(DEVICE, 0xa1);
    out(COUNT, 1);
    out(LBA_LOW, 1);
    out(LBA_MID, 0);
    out(LBA_HIGH, 0);
    out(STATUS, 0x20);
    pio_in(buffer, 512, &interrupts);
    assert_memory_equal(buffer, shadow + 63 * 512, 512);
    out(LBA_LOW, 0); /* there is no sector 0 */
    out(STATUS, 0x20);
    assert_int_equal(finish(), READY | ATA_ERR);
    assert_int_equal(in(ERROR), ATA_IDNF);

    /* Beyond the end, by one and by all bits. */
    command(0x20, DISK_SECTORS - 1, 2);
    assert_int_equal(finish(), READY | ATA_ERR);
    assert_int_equal(in(ERROR), ATA_IDNF);
    command(0x30, 0xfffffff, 0);
    assert_int_equal(finish(), READY | ATA_ERR);
    command_ext(0x24, UINT64_C(0xffffffffffff), 0);
    assert_int_equal(finish(), READY | ATA_ERR);
    command(0x40, DISK_SECTORS - 1, 1);
    assert_int_equal(finish(), READY);
    /* A flush, and no interrupt where nIEN is set. */
    control(2);
    lines[0].edges = 0;
    command(0xe7, 0, 0);
    block_drain(block);
    assert_int_equal(lines[0].edges, 0);
    control(0);
    assert_int_equal(lines[0].edges, 1);
    assert_int_equal(finish(), READY);
    assert_false(lines[0].level);
}

static void test_registers(void **state)
{
    (void)state;
    command_ext(0x42, UINT64_C(0x665544332211), 1);
    assert_int_equal(finish(), READY | ATA_ERR);
    assert_int_equal(in(LBA_LOW), 0x11);
    control(0x80); /* HOB */
    assert_int_equal(in(LBA_LOW), 0x44);
    assert_int_equal(in(LBA_MID), 0x55);
    assert_int_equal(in(LBA_HIGH), 0x66);
    out(COUNT, 1);
    assert_int_equal(in(LBA_HIGH), 0x33);
    /* Settings. */
    out(ERROR, 0x82);
    command(0xef, 0, 0);
    assert_int_equal(finish(), READY);
    unsigned interrupts;
    command(0xec, 0, 0);
    pio_in(buffer, 512, &interrupts);
    assert_int_equal(buffer[85 * 2] & 0x20, 0);
    out(ERROR, 0x03);
    command(0xef, 0, 0x22);
    assert_int_equal(finish(), READY);
    command(0xef, 0, 0x47);
    assert_int_equal(finish(), READY | ATA_ERR);
    command(0xec, 0, 0);
    pio_in(buffer, 512, &interrupts);
    assert_int_equal(buffer[63 * 2 + 1], 4);
    /* SMART. */
    out(ERROR, 0xda);
    command(0xb0, 0xc24f00, 0);
    assert_int_equal(finish(), READY);
    assert_int_equal(in(LBA_MID), 0x4f);
    out(ERROR, 0xd0);
    command(0xb0, 0xc24f00, 1);
    assert_int_equal(pio_in(buffer, 512, &interrupts), 512);
    command(0xb0, 0, 1);
    assert_int_equal(finish(), READY | ATA_ERR);
    command(0xe5, 0, 0);
    assert_int_equal(finish(), READY);
    assert_int_equal(in(COUNT), 0xff);
    command(0x90, 0, 0);
    assert_int_equal(finish(), READY);
    assert_int_equal(in(ERROR), 1);
}

static void test_dma(void **state)
{
    (void)state;
    prd(0, DATA_GPA, 0x1000, false);
    prd(1, DATA_GPA + 0x8000, 0x3000, true);
    command(0xc8, 3, 32);
    assert_int_equal(in(STATUS), ATA_BSY);
    bm_start(true);
    assert_int_equal(bm_status() & 7, 0); /* all that is described is used, nothing is done */
    assert_int_equal(finish(), READY);
    assert_int_equal(bm_status() & 7, 4);
    assert_memory_equal(memory + DATA_GPA, shadow + 3 * 512, 0x1000);
    assert_memory_equal(memory + DATA_GPA + 0x8000, shadow + 11 * 512, 0x3000);
    bm_write(0, 1, 0);
    /* The bus master may be started first; 0 is 64 KiB; more than is needed leaves it active. */
    prd(0, DATA_GPA, 0, true);
    bm_start(true);
    assert_int_equal(bm_status() & 7, 1);
    command_ext(0x25, 0, 16);
    assert_int_equal(finish(), READY);
    assert_int_equal(bm_status() & 7, 5);
    bm_write(0, 1, 0);
    assert_int_equal(bm_status() & 7, 4);
    /* Not before it may master the bus. */
    memset(memory + DATA_GPA, 0, 512);
    config_write(PCI_COMMAND, PCI_COMMAND_IO);
    command(0xc8, 1, 1);
    bm_start(true);
    assert_int_equal(finish(), ATA_BSY);
    config_write(PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MASTER);
    assert_int_equal(finish(), READY);
    assert_memory_equal(memory + DATA_GPA, shadow + 512, 512);
    bm_write(0, 1, 0);
    /* To the disk. */
    memset(memory + DATA_GPA, 0x5a, 0x2000);
    prd(0, DATA_GPA, 0x2000, true);
    command(0xca, 64, 16);
    bm_start(false);
    assert_int_equal(finish(), READY);
    bm_write(0, 1, 0);
    disk_read(64, buffer, 0x2000);
    assert_memory_equal(buffer, memory + DATA_GPA, 0x2000);
    /* TRIM: two ranges that follow one another, nothing, one alone; then one beyond the end. */
    const uint64_t ranges[] = {64 | UINT64_C(8) << 48, 72 | UINT64_C(8) << 48, 5, 200 | UINT64_C(1) << 48};
    memset(memory + DATA_GPA, 0, 512);
    memcpy(memory + DATA_GPA, ranges, sizeof(ranges));
    prd(0, DATA_GPA, 512, true);
    out(ERROR, 1);
    command_ext(0x06, 0, 1);
    bm_start(false);
    assert_int_equal(finish(), READY);
    bm_write(0, 1, 0);
    put_le(DATA_GPA + 8, DISK_SECTORS | UINT64_C(1) << 48, 8);
    command_ext(0x06, 0, 1);
    bm_start(false);
    assert_int_equal(finish(), READY | ATA_ERR);
    bm_write(0, 1, 0);
    out(ERROR, 0);
    command_ext(0x06, 0, 1); /* nothing else than TRIM */
    assert_int_equal(finish(), READY | ATA_ERR);
}

static void expect_fault(bool to_memory)
{
    bm_start(to_memory);
    assert_int_equal(finish(), READY | ATA_ERR);
    assert_int_equal(in(ERROR), ATA_ABRT);
    assert_int_equal(bm_status() & 3, 2);
    bm_write(0, 1, 0);
}

static void test_bad_prds(void **state)
{
    (void)state;
    memset(memory + DATA_GPA, 0xee, 0x4000);
    prd(0, DATA_GPA, 0x1000, false);
    prd(1, 0xfeb00000, 0x1000, true); /* a controller's own registers */
    command(0xc8, 0, 16);
    expect_fault(true);
    prd(1, MEMORY_BYTES - 0x800, 0x1000, true); /* out of memory at its end */
    command(0xc8, 0, 16);
    expect_fault(true);
    prd(1, 0xfffffffe, 0, true);
    command(0xca, 0, 16);
    expect_fault(false);
    for (unsigned i = 0; i < 0x1000; i++) {
        assert_int_equal(memory[DATA_GPA + i], 0xee);
    }
    /* The other direction. */
    prd(0, DATA_GPA, 0x2000, true);
    command(0xc8, 0, 16);
    expect_fault(false);
    /* The table itself is nowhere, or runs out of memory without an end. */
    command(0xc8, 0, 16);
    bm_write(4, 4, 0xfffffff0);
    bm_write(2, 1, 6);
    bm_write(0, 1, 9);
    assert_int_equal(finish(), READY | ATA_ERR);
    bm_write(0, 1, 0);
    for (uint32_t at = MEMORY_BYTES - 0x10000; at < MEMORY_BYTES; at += 8) {
        put_le(at, DATA_GPA, 4);
        put_le(at + 4, 2, 4);
    }
    command_ext(0x25, 0, 1024);
    bm_write(4, 4, MEMORY_BYTES - 0x1000);
    bm_write(2, 1, 6);
    bm_write(0, 1, 9);
    assert_int_equal(finish(), READY | ATA_ERR);
    bm_write(0, 1, 0);
    /* Shorter than the data: the drive waits for more, until it is reset. */
    prd(0, DATA_GPA, 512, true);
    command(0xc8, 0, 16);
    bm_start(true);
    assert_int_equal(finish(), ATA_BSY);
    assert_int_equal(bm_status() & 7, 0);
    out(DEVICE, 0xf0);
    out(STATUS, 0xec);
    assert_int_equal(in(STATUS), ATA_BSY);
    bm_write(0, 1, 0);
    control(4);
    control(0);
    assert_int_equal(in(STATUS), READY);
    assert_int_equal(in(COUNT), 1);
    assert_int_equal(in(LBA_LOW), 1);
    command(0xc8, 0, 1);
    bm_start(true);
    assert_int_equal(finish(), READY);
}

/* The host has a request: BSY stays until it is done, and then nothing more is written. */
static void test_reset_under_way(void **state)
{
    (void)state;
    prd(0, DATA_GPA, 0, true);
    command(0xc8, 0, 128);
    bm_start(true);
    control(4);
    assert_int_equal(alternate(), ATA_BSY);
    control(0);
    assert_int_equal(alternate(), ATA_BSY);
    out(STATUS, 0xec);
    assert_int_equal(alternate(), ATA_BSY);
    block_drain(block);
    assert_int_equal(alternate(), READY);
    assert_false(lines[0].level);
    assert_int_equal(in(ERROR), 1);
    /* A reset that ends after the host does. */
    command(0x30, 0, 1);
    pio_out(buffer, 512);
    control(4);
    block_drain(block);
    assert_int_equal(alternate(), ATA_BSY);
    control(0);
    assert_int_equal(alternate(), READY);
    /* In the middle of a block. */
    command(0x20, 0, 2);
    block_drain(block);
    ide_command_ops.read(channel, DATA, 4);
    control(4);
    control(0);
    assert_int_equal(alternate(), READY);
    assert_int_equal(ide_command_ops.read(channel, DATA, 4), 0);
}

static void *drain(void *opaque)
{
    (void)opaque;
    usleep(20000);
    block_drain(block);
    return NULL;
}

static void test_stop_under_way(void **state)
{
    pthread_t thread;
    (void)state;
    prd(0, DATA_GPA, 0, true);
    command(0xc8, 0, 128);
    bm_start(true);
    assert_int_equal(pthread_create(&thread, NULL, drain, NULL), 0);
    bm_write(0, 1, 0); /* waits for the host */
    assert_false(channel->request.active);
    assert_int_equal(bm_status() & 1, 0);
    assert_memory_equal(memory + DATA_GPA, shadow, 0x10000);
    pthread_join(thread, NULL);
    assert_int_equal(finish(), READY);
    /* The right to master the bus goes: the same. */
    memset(memory + DATA_GPA, 0, 0x10000);
    command(0xc8, 0, 128);
    bm_start(true);
    assert_int_equal(pthread_create(&thread, NULL, drain, NULL), 0);
    config_write(PCI_COMMAND, PCI_COMMAND_IO);
    assert_false(channel->request.active);
    assert_memory_equal(memory + DATA_GPA, shadow, 0x10000);
    pthread_join(thread, NULL);
}

/* ---- ATAPI ---- */

/* A packet by PIO; the data too, in blocks of `limit`. Status at its end. */
static uint8_t packet(const uint8_t *cdb, size_t bytes, uint16_t limit, uint8_t *data, size_t *got)
{
    uint8_t all[12] = {0};
    unsigned interrupts;
    memcpy(all, cdb, bytes);
    out(DEVICE, 0xa0);
    out(ERROR, 0);
    out(LBA_MID, (uint8_t)limit);
    out(LBA_HIGH, (uint8_t)(limit >> 8));
    out(STATUS, 0xa0);
    assert_int_equal(in(STATUS), ATA_DRDY | ATA_DRQ);
    assert_int_equal(in(COUNT), ATA_REASON_PACKET);
    for (unsigned i = 0; i < 12; i += 2) {
        ide_command_ops.write(channel, DATA, 2, (uint64_t)(all[i] | all[i + 1] << 8));
    }
    *got = pio_in(data, DISK_BYTES, &interrupts);
    assert_int_equal(in(COUNT) & 7, ATA_REASON_END);
    return in(STATUS);
}
#define PACKET(limit, got, ...) packet((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}), limit, buffer, got)

static unsigned sense(void)
{
    size_t got;
    assert_int_equal(PACKET(0xfffe, &got, 3, 0, 0, 0, 18) & ATA_ERR, 0);
    assert_int_equal(got, 18);
    return (unsigned)(buffer[2] & 0xf) << 16 | (unsigned)buffer[12] << 8 | buffer[13];
}

static void test_packets(void **state)
{
    size_t got;
    unsigned interrupts;
    (void)state;
    channel = &ide->channels[1];
    assert_int_equal(in(LBA_MID) | in(LBA_HIGH) << 8, 0xeb14);
    command(0xec, 0, 0); /* it is no disk, and says so */
    assert_int_equal(finish() & ATA_ERR, ATA_ERR);
    assert_int_equal(in(LBA_MID) | in(LBA_HIGH) << 8, 0xeb14);
    command(0xa1, 0, 0);
    assert_int_equal(pio_in(buffer, 512, &interrupts), 512);
    assert_int_equal(buffer[1], 0x85);
    /* The first command finds that there was a reset. */
    assert_int_equal(PACKET(0, &got, 0) & ATA_ERR, ATA_ERR);
    assert_int_equal(in(ERROR) >> 4, 6);
    assert_int_equal(sense(), 0x62900);
    assert_int_equal(sense(), 0); /* once */
    assert_int_equal(PACKET(0, &got, 0) & ATA_ERR, 0);
    assert_int_equal(PACKET(0xfffe, &got, 0x25) & ATA_ERR, 0);
    assert_int_equal(got, 8);
    assert_memory_equal(buffer, "\0\0\x03\xff\0\0\x08\0", 8);
    assert_int_equal(PACKET(2048, &got, 0x28, 0, 0, 0, 0, 3, 0, 0, 40) & ATA_ERR, 0);
    assert_int_equal(got, 40 * 2048);
    assert_memory_equal(buffer, shadow + 3 * 2048, 40 * 2048);
    assert_int_equal(PACKET(1000, &got, 0xa8, 0, 0, 0, 0, 1, 0, 0, 0, 2) & ATA_ERR, 0);
    assert_int_equal(got, 4096);
    assert_memory_equal(buffer, shadow + 2048, 4096);
    assert_int_equal(PACKET(0xffff, &got, 0xbe, 0, 0, 0, 0, 7, 0, 0, 1, 0x10) & ATA_ERR, 0);
    assert_memory_equal(buffer, shadow + 7 * 2048, 2048);
    assert_int_equal(PACKET(0xffff, &got, 0xbe, 0, 0, 0, 0, 7, 0, 0, 1, 0xf8) & ATA_ERR, ATA_ERR);
    assert_int_equal(sense(), 0x52400);
    assert_int_equal(PACKET(0, &got, 0x28, 0, 0, 0, 4, 0, 0, 0, 1) & ATA_ERR, ATA_ERR);
    assert_int_equal(sense(), 0x52100);
    assert_int_equal(PACKET(0, &got, 0x2a, 0, 0, 0, 0, 0, 0, 0, 1) & ATA_ERR, ATA_ERR); /* nobody writes */
    assert_int_equal(sense(), 0x52000);
    assert_int_equal(PACKET(0xfffe, &got, 0x46, 0, 0, 0, 0, 0, 0, 0, 255) & ATA_ERR, 0);
    assert_int_equal(buffer[7], 8);
    assert_int_equal(PACKET(0xfffe, &got, 0x43, 0, 0, 0, 0, 0, 0, 0, 255) & ATA_ERR, 0);
    assert_int_equal(got, 20);
    /* DMA. */
    prd(0, DATA_GPA, 0x2000, true);
    out(ERROR, 1);
    out(STATUS, 0xa0);
    const uint8_t read10[12] = {0x28, 0, 0, 0, 0, 9, 0, 0, 4};
    for (unsigned i = 0; i < 12; i += 2) {
        ide_command_ops.write(channel, DATA, 2, (uint64_t)(read10[i] | read10[i + 1] << 8));
    }
    bm_start(true);
    assert_int_equal(finish() & (ATA_ERR | ATA_BSY | ATA_DRQ), 0);
    assert_memory_equal(memory + DATA_GPA, shadow + 9 * 2048, 0x2000);
    bm_write(0, 1, 0);
}

static void test_tray(void **state)
{
    size_t got;
    (void)state;
    channel = &ide->channels[1];
    PACKET(0, &got, 0);
    assert_int_equal(PACKET(0, &got, 0x1e, 0, 0, 0, 1) & ATA_ERR, 0); /* locked */
    assert_int_equal(PACKET(0, &got, 0x1b, 0, 0, 0, 2) & ATA_ERR, ATA_ERR);
    assert_int_equal(sense(), 0x55302);
    PACKET(0, &got, 0x1e, 0, 0, 0, 0);
    assert_int_equal(PACKET(0, &got, 0x1b, 0, 0, 0, 2) & ATA_ERR, 0);
    assert_int_equal(PACKET(0, &got, 0) & ATA_ERR, ATA_ERR);
    assert_int_equal(sense(), 0x23a02);
    assert_int_equal(PACKET(0, &got, 0x28, 0, 0, 0, 0, 0, 0, 0, 1) & ATA_ERR, ATA_ERR);
    assert_int_equal(sense(), 0x23a02);
    PACKET(0xfffe, &got, 0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8);
    assert_memory_equal(buffer, "\0\x06\x04\x10\x03\x01\0\0", 8); /* removed, open */
    assert_int_equal(PACKET(0, &got, 0x1b, 0, 0, 0, 3) & ATA_ERR, 0);
    PACKET(0xfffe, &got, 0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8);
    assert_memory_equal(buffer, "\0\x06\x04\x10\x02\x02\0\0", 8); /* new, there */
    assert_int_equal(PACKET(0, &got, 0) & ATA_ERR, ATA_ERR);
    assert_int_equal(sense(), 0x62800);
    assert_int_equal(PACKET(0, &got, 0) & ATA_ERR, 0);
    /* DEVICE RESET at any time. */
    out(STATUS, 0xa0);
    assert_int_equal(in(STATUS) & ATA_DRQ, ATA_DRQ);
    out(STATUS, 0x08);
    assert_int_equal(in(STATUS), 0);
    assert_int_equal(in(LBA_MID) | in(LBA_HIGH) << 8, 0xeb14);
    /* A drive without a disc. */
    const struct ata_config empty = {.cdrom = true};
    assert_int_equal(ide_add(ide, 1, 1, &empty), 0);
    out(DEVICE, 0xb0);
    command(0xef, 0, 0);
    (void)finish();
}

/* ---- Errors ---- */

/* The host cannot: the machine stops, and goes on with the same request; or a reset takes it away. */
static void test_stop(void **state)
{
    struct error error;
    (void)state;
    channel->units[0].drive.config.errors = (struct disk_errors){.werror = DISK_ERROR_STOP, .rerror = DISK_ERROR_REPORT, .run = &run};
    /* The same file, opened read-only, under a drive that does not know. */
    const struct block_config config = {.filename = disk_path, .format = "raw", .read_only = true, .force_share = true};
    struct block *other = block_open(&config, &error);
    assert_non_null(other);
    assert_int_equal(block_attach(other, &loop), 0);
    struct block *sound = channel->units[0].drive.config.block;
    channel->units[0].drive.config.block = other;
    prd(0, DATA_GPA, 512, true);
    memset(memory + DATA_GPA, 0x77, 512);
    command(0xca, 20, 1);
    bm_start(false);
    block_drain(other);
    assert_int_equal(run_stops, 1);
    assert_int_equal(alternate(), ATA_BSY);
    channel->units[0].drive.config.block = sound;
    run_watching->changed(run_watching->opaque, true);
    assert_int_equal(finish(), READY);
    disk_read(20, buffer, 512);
    assert_int_equal(buffer[0], 0x77);
    bm_write(0, 1, 0);
    /* Again, and a reset. */
    channel->units[0].drive.config.block = other;
    command(0xca, 20, 1);
    bm_start(false);
    block_drain(other);
    assert_int_equal(run_stops, 2);
    control(4);
    control(0);
    assert_int_equal(alternate(), READY);
    run_watching->changed(run_watching->opaque, true);
    bm_write(0, 1, 0);
    /* And reported. */
    channel->units[0].drive.config.errors.werror = DISK_ERROR_REPORT;
    command(0xca, 20, 1);
    bm_start(false);
    block_drain(other);
    assert_int_equal(in(STATUS), READY | ATA_ERR);
    bm_write(0, 1, 0);
    channel->units[0].drive.config.errors.werror = DISK_ERROR_IGNORE;
    command(0xca, 20, 1);
    bm_start(false);
    block_drain(other);
    assert_int_equal(in(STATUS), READY);
    bm_write(0, 1, 0);
    channel->units[0].drive.config.block = sound;
    block_close(other);
}

/* Anything, in any order: everything ends, and SRST gives both drives back. */
static void test_random(void **state)
{
    uint64_t random = 7;
    (void)state;
    for (unsigned round = 0; round < 60000; round++) {
        channel = &ide->channels[random_next(&random) & 1];
        uint8_t value = (uint8_t)random_next(&random);
        static const uint8_t likely[] = {0xa0, 0x20, 0x30, 0xc8, 0xca, 0xec, 0xa1, 0x25, 0x35, 0xc4, 0xc5, 0xe7, 0x06, 0x90, 0x08};
        switch (random_next(&random) % 12) {
        case 0:
            out(STATUS, random_next(&random) % 8 != 0 ? likely[value % sizeof(likely)] : value);
            break;
        case 1:
        case 2:
            out(1 + value % 6, (uint8_t)(random_next(&random) % 3 == 0 ? random_next(&random) : 0));
            break;
        case 3:
            in(value % 8);
            break;
        case 4:
            for (unsigned i = 0; i < 600; i++) {
                ide_command_ops.read(channel, DATA, 4);
            }
            break;
        case 5:
            for (unsigned i = 0; i < 6 + (value & 1) * 300u; i++) {
                ide_command_ops.write(channel, DATA, 2, random_next(&random) & 0xff28);
            }
            break;
        case 6:
            control(value % 5 == 0 ? 4 : 0);
            break;
        case 7:
            if (value % 3 == 0) {
                block_drain(block); /* a stop would wait for it */
                bm_write(0, 1, 0);
            } else {
                bm_write(0, 1, value & 1 ? 9 : 1);
            }
            break;
        case 8:
            prd(value % 4, (uint32_t)(random_next(&random) % (MEMORY_BYTES + 0x1000)) & (random_next(&random) % 9 == 0 ? 0xffffffffu : 0x3fffeu),
                (uint32_t)random_next(&random), value & 1);
            bm_write(4, 4, PRD_GPA + (value >> 6) * 8u);
            break;
        case 9:
            bm_write(value % 8, 1, (uint32_t)random_next(&random) & 0xfe);
            block_drain(block);
            break;
        case 10:
            block_drain(block);
            break;
        default:
            out(DEVICE, value & 0x50);
            break;
        }
    }
    for (unsigned i = 0; i < 2; i++) {
        channel = &ide->channels[i];
        control(4);
        control(0);
        block_drain(block);
        assert_int_equal(alternate() & (ATA_BSY | ATA_DRQ), 0);
        assert_int_equal(in(LBA_MID), i == 0 ? 0 : 0x14);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_identify, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pio, setup, teardown),
        cmocka_unit_test_setup_teardown(test_registers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_dma, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bad_prds, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reset_under_way, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stop_under_way, setup, teardown),
        cmocka_unit_test_setup_teardown(test_packets, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tray, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stop, setup, teardown),
        cmocka_unit_test_setup_teardown(test_random, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
