/* SPDX-License-Identifier: MIT */
/*
 * The AHCI controller as a driver sees it: command lists, tables and PRDs in memory, received FISes, queued commands, errors and the way
 * out of them, resets with I/O under way, interrupts by pin and message; and what a hostile driver does.
 */
#include <setjmp.h>
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "disk/ahci.h"
#include "disk_fixture.h"

#define LIST_GPA 0x10000u
#define FIS_GPA 0x12000u
#define TABLE_GPA(slot) (0x20000u + (slot) * 0x1000u)
#define DATA_GPA 0x100000u
#define SLOT_DATA(slot) (DATA_GPA + (slot) * 0x4000u)
#define GHC 0x04u
#define IS 0x08u
enum { CLB = 0x00, FB = 0x08, PIS = 0x10, PIE = 0x14, CMD = 0x18, TFD = 0x20, SIG = 0x24, SSTS = 0x28, SCTL = 0x2c, SERR = 0x30, SACT = 0x34, CI = 0x38 };
#define CMD_ST 1u
#define CMD_FRE 0x10u
#define CMD_CR 0x8000u
#define TFES 0x40000000u

static struct ahci *ahci;
static unsigned port; /* that reads and writes reach */
static unsigned messages;

static int msi_open(void *opaque)
{
    (void)opaque;
    return 0;
}
static void msi_set(void *opaque, int route, uint64_t address, uint32_t data)
{
    (void)opaque;
    (void)route;
    (void)address;
    (void)data;
}
static void msi_send(void *opaque, int route)
{
    (void)opaque;
    (void)route;
    messages++;
}
static void msi_close(void *opaque, int route)
{
    (void)opaque;
    (void)route;
}
static const struct msi msi = {.open = msi_open, .set = msi_set, .signal = msi_send, .close = msi_close};

static void hba_write(unsigned offset, uint32_t value)
{
    ahci->function.bars[AHCI_BAR].ops->write(ahci, offset, 4, value);
}
static uint32_t hba_read(unsigned offset)
{
    return (uint32_t)ahci->function.bars[AHCI_BAR].ops->read(ahci, offset, 4);
}
static void set(unsigned offset, uint32_t value)
{
    hba_write(0x100 + port * 0x80 + offset, value);
}
static uint32_t get(unsigned offset)
{
    return hba_read(0x100 + port * 0x80 + offset);
}

static void start(unsigned which)
{
    port = which;
    set(CLB, LIST_GPA);
    set(FB, FIS_GPA);
    set(SERR, 0xffffffff);
    set(PIS, 0xffffffff);
    set(CMD, CMD_FRE);
    set(CMD, CMD_FRE | CMD_ST);
    set(PIE, 0x7dc000ff);
}

static void set_master(bool on)
{
    ahci->function.config[PCI_COMMAND] = on ? PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER : PCI_COMMAND_MEMORY;
    ahci->function.written(ahci, PCI_COMMAND, 2);
}

static int setup(void **state)
{
    struct error error;
    (void)state;
    fixture_open();
    ahci = ahci_new(&run, &memory_dma, &msi, &error);
    assert_non_null(ahci);
    ahci->function.intx = (struct irq){.set = line_set, .line = 0};
    const struct ata_config disk = {.block = block, .write_cache = true, .ncq = true, .serial = "serial-1"};
    const struct ata_config cd = {.block = block, .cdrom = true, .ncq = true, .serial = "serial-2"};
    assert_int_equal(ahci_add(ahci, 0, &disk), 0);
    assert_int_equal(ahci_add(ahci, 0, &disk), -EEXIST);
    assert_int_equal(ahci_add(ahci, 4, &cd), 0);
    hba_write(GHC, 0x80000002);
    messages = 0;
    start(0);
    set_master(true);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    ahci_free(ahci);
    fixture_close();
    return 0;
}

struct command {
    uint8_t code, device;
    uint16_t feature, count;
    uint64_t lba;
    uint32_t bytes; /* of one PRD at SLOT_DATA */
    const uint8_t *packet;
};

static void fill(unsigned slot, const struct command *c)
{
    uint8_t *header = memory + LIST_GPA + slot * 32, *table = memory + TABLE_GPA(slot);
    memset(header, 0, 32);
    memset(table, 0, 0x90);
    put_le(LIST_GPA + slot * 32, 5 | (c->packet != NULL ? 0x20u : 0) | (c->bytes != 0 ? 1u << 16 : 0), 4);
    put_le(LIST_GPA + slot * 32 + 8, TABLE_GPA(slot), 4);
    table[0] = 0x27;
    table[1] = 0x80;
    table[2] = c->code;
    table[3] = (uint8_t)c->feature;
    table[11] = (uint8_t)(c->feature >> 8);
    table[7] = c->device;
    for (unsigned i = 0; i < 3; i++) {
        table[4 + i] = (uint8_t)(c->lba >> i * 8);
        table[8 + i] = (uint8_t)(c->lba >> (24 + i * 8));
    }
    table[12] = (uint8_t)c->count;
    table[13] = (uint8_t)(c->count >> 8);
    if (c->packet != NULL) {
        memcpy(table + 0x40, c->packet, 12);
    }
    put_le(TABLE_GPA(slot) + 0x80, SLOT_DATA(slot), 8);
    put_le(TABLE_GPA(slot) + 0x8c, c->bytes - 1, 4);
}

#define FILL(slot, ...) fill(slot, &(struct command){__VA_ARGS__})

static void issue(uint32_t slots)
{
    set(CI, slots);
    block_drain(block);
}

static uint32_t prdbc(unsigned slot)
{
    uint32_t bytes;
    memcpy(&bytes, memory + LIST_GPA + slot * 32 + 4, 4);
    return bytes;
}

/* The way out of an error: stop, clear, start. */
static void recover(void)
{
    set(CMD, CMD_FRE);
    assert_int_equal(get(CMD) & CMD_CR, 0);
    assert_int_equal(get(CI) | get(SACT), 0);
    set(SERR, 0xffffffff);
    set(PIS, 0xffffffff);
    hba_write(IS, 0xffffffff);
    set(CMD, CMD_FRE | CMD_ST);
}

static void test_ports(void **state)
{
    (void)state;
    assert_int_equal(hba_read(0) & 0xc0001f1f, 0xc0001f05); /* 64 bits, NCQ, 32 slots, 6 ports */
    assert_int_equal(hba_read(0x0c), 0x3f);
    assert_int_equal(get(SIG), 0x101);
    assert_int_equal(get(SSTS), 0x133);
    assert_int_equal(get(TFD) & 0xff, 0x50);
    port = 4;
    assert_int_equal(get(SIG), 0xeb140101);
    port = 3;
    assert_int_equal(get(SSTS), 0);
    assert_int_equal(get(SIG), 0xffffffff);
    set(CMD, CMD_ST);
    set(CI, 1);
    assert_int_equal(get(CI), 1); /* nobody takes it */
    set(SCTL, 1);
    set(SCTL, 0);
    assert_int_equal(get(SSTS), 0);
    /* Registers are double words. */
    const struct device_ops *ops = ahci->function.bars[AHCI_BAR].ops;
    assert_int_equal(ops->read(ahci, 0x0c, 1), 0x3f);
    assert_int_equal(ops->read(ahci, 0x0e, 2), 0);
    ops->write(ahci, 0x100 + CLB, 2, 0);
    port = 0;
    assert_int_equal(get(CLB), LIST_GPA);
    ops->write(ahci, 0x100 + CLB, 8, UINT64_C(0x1234567800000fff));
    assert_int_equal(get(CLB + 4), 0x12345678);
    assert_int_equal(get(CLB), 0xc00);
    assert_int_equal(ops->read(ahci, 0x100 + CLB, 8), UINT64_C(0x1234567800000c00));
}

static void test_commands(void **state)
{
    (void)state;
    uint8_t *data = memory + SLOT_DATA(0);
    FILL(0, .code = 0xec, .bytes = 512);
    issue(1);
    assert_int_equal(get(CI), 0);
    assert_int_equal(get(PIS), 2); /* PIO setup */
    assert_int_equal(memory[FIS_GPA + 0x20], 0x5f);
    assert_int_equal(memory[FIS_GPA + 0x2f], 0x50);
    assert_int_equal(data[75 * 2], 31);
    assert_int_equal(data[76 * 2 + 1] & 1, 1);
    assert_int_equal(prdbc(0), 512);
    assert_true(lines[0].level);
    assert_int_equal(hba_read(IS), 1);
    set(PIS, 2);
    hba_write(IS, 1);
    assert_false(lines[0].level);
    FILL(0, .code = 0x25, .device = 0x40, .lba = 7, .count = 16, .bytes = 8192);
    issue(1);
    assert_int_equal(get(PIS), 1);
    assert_int_equal(memory[FIS_GPA + 0x40], 0x34);
    assert_memory_equal(data, shadow + 7 * 512, 8192);
    assert_int_equal(prdbc(0), 8192);
    memset(data, 0x66, 8192);
    FILL(0, .code = 0x35, .device = 0x40, .lba = 70, .count = 16, .bytes = 8192);
    issue(1);
    FILL(3, .code = 0xea);
    issue(8);
    assert_int_equal(get(CI), 0);
    static uint8_t back[8192];
    disk_read(70, back, sizeof(back));
    assert_memory_equal(back, data, sizeof(back));
    /* TRIM. */
    put_le(SLOT_DATA(0), 70 | UINT64_C(16) << 48, 8);
    memset(data + 8, 0, 504);
    FILL(0, .code = 0x06, .device = 0x40, .feature = 1, .count = 1, .bytes = 512);
    issue(1);
    assert_int_equal(get(CI), 0);
    assert_int_equal(get(TFD) & 1, 0);
    /* Without the right to master the bus nothing is read or written. */
    set_master(false);
    FILL(0, .code = 0xec, .bytes = 512);
    memset(data, 0, 512);
    issue(1);
    assert_int_equal(get(CI), 1);
    assert_int_equal(data[75 * 2], 0);
    set_master(true);
    assert_int_equal(get(CI), 0);
    assert_int_equal(data[75 * 2], 31);
    /* Several that are not queued: one after the other. */
    for (unsigned i = 0; i < 32; i++) {
        FILL(i, .code = 0x25, .device = 0x40, .lba = i * 8, .count = 8, .bytes = 4096);
    }
    set(CI, 0xffffffff);
    while (get(CI) != 0) {
        block_drain(block);
    }
    for (unsigned i = 0; i < 32; i++) {
        if (i < 8 || i > 10) {
            assert_memory_equal(memory + SLOT_DATA(i), shadow + i * 4096, 4096);
        }
    }
}

static void test_queued(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 32; i++) {
        FILL(i, .code = 0x60, .device = 0x40, .lba = 1000 + i * 8, .feature = 8, .count = (uint16_t)(i << 3), .bytes = 4096);
    }
    set(SACT, 0xffffffff);
    set(CI, 0xffffffff);
    assert_int_equal(get(CI), 0); /* the drive has them all */
    assert_int_equal(get(SACT), 0xffffffff);
    assert_int_equal(get(PIS), 0);
    block_drain(block);
    assert_int_equal(get(SACT), 0);
    assert_int_equal(get(PIS), 8);
    assert_int_equal(memory[FIS_GPA + 0x58], 0xa1);
    for (unsigned i = 0; i < 32; i++) {
        assert_memory_equal(memory + SLOT_DATA(i), shadow + (1000 + i * 8) * 512, 4096);
    }
    /* Writes, with one that is not queued behind them: it waits. */
    memset(memory + SLOT_DATA(1), 0x31, 4096);
    memset(memory + SLOT_DATA(2), 0x32, 4096);
    FILL(1, .code = 0x61, .device = 0xc0, .lba = 8, .feature = 8, .count = 1 << 3, .bytes = 4096);
    FILL(2, .code = 0x61, .device = 0x40, .lba = 16, .feature = 8, .count = 2 << 3, .bytes = 4096);
    FILL(3, .code = 0x25, .device = 0x40, .lba = 8, .count = 16, .bytes = 8192);
    set(SACT, 6);
    set(CI, 0xe);
    assert_int_equal(get(CI), 8);
    block_drain(block);
    block_drain(block);
    assert_int_equal(get(CI), 0);
    assert_int_equal(get(SACT), 0);
    assert_memory_equal(memory + SLOT_DATA(3), memory + SLOT_DATA(1), 4096);
    assert_memory_equal(memory + SLOT_DATA(3) + 4096, memory + SLOT_DATA(2), 4096);
}

static void read_log(unsigned tag, uint8_t error)
{
    FILL(31, .code = 0x2f, .device = 0x40, .lba = 0x10, .count = 1, .bytes = 512);
    issue(1u << 31);
    assert_int_equal(get(CI), 0);
    const uint8_t *log = memory + SLOT_DATA(31);
    assert_int_equal(log[0], tag);
    assert_int_equal(log[3], error);
    uint8_t sum = 0;
    for (unsigned i = 0; i < 512; i++) {
        sum = (uint8_t)(sum + log[i]);
    }
    assert_int_equal(sum, 0);
}

static void test_queued_errors(void **state)
{
    (void)state;
    /* Beyond the end: the one fails, the port stands, the log says which. */
    FILL(0, .code = 0x60, .device = 0x40, .lba = 0, .feature = 8, .count = 0, .bytes = 4096);
    FILL(5, .code = 0x60, .device = 0x40, .lba = DISK_SECTORS - 1, .feature = 2, .count = 5 << 3, .bytes = 4096);
    FILL(6, .code = 0x60, .device = 0x40, .lba = 0, .feature = 8, .count = 6 << 3, .bytes = 4096);
    set(SACT, 0x61);
    issue(0x61);
    assert_int_equal(get(PIS) & TFES, TFES);
    assert_int_equal(get(SACT) & 0x20, 0x20);
    assert_int_equal(get(TFD) & 1, 1);
    recover();
    FILL(1, .code = 0x25, .device = 0x40, .count = 1, .bytes = 512); /* nothing until the log is read */
    issue(2);
    assert_int_equal(get(PIS) & TFES, TFES);
    recover();
    read_log(5, ATA_IDNF);
    read_log(0x80, 0);
    issue(2);
    assert_int_equal(get(CI), 0);
    /* A tag that is none of its slot. */
    FILL(2, .code = 0x60, .device = 0x40, .feature = 8, .count = 9 << 3, .bytes = 4096);
    set(SACT, 4);
    issue(4);
    assert_int_equal(get(PIS) & TFES, TFES);
    recover();
    read_log(2, ATA_ABRT);
    /* A tag that is under way: the first goes on, unheard. */
    FILL(7, .code = 0x60, .device = 0x40, .lba = 40, .feature = 8, .count = 7 << 3, .bytes = 4096);
    set(SACT, 0x80);
    set(CI, 0x80);
    assert_int_equal(get(CI), 0);
    set(CI, 0x80);
    assert_int_equal(get(PIS) & TFES, TFES);
    set(CMD, CMD_FRE);
    assert_int_equal(get(CMD) & CMD_CR, CMD_CR); /* until the host has finished */
    set(CMD, CMD_FRE | CMD_ST);
    assert_int_equal(get(CMD) & CMD_ST, 0);
    block_drain(block);
    recover();
    read_log(7, ATA_ABRT);
}

static void test_bad_memory(void **state)
{
    (void)state;
    static const struct {
        uint64_t gpa;
        uint32_t bytes;
        uint32_t is;
    } prds[] = {
        {0xfebf0000, 512, 1u << 28},       /* a controller's own registers */
        {MEMORY_BYTES - 2, 512, 1u << 28}, /* runs out */
        {UINT64_C(0xfffffffffffffffe), 512, 1u << 28},
        {SLOT_DATA(0), 2, 1u << 24}, /* too short */
    };
    for (unsigned i = 0; i < sizeof(prds) / sizeof(prds[0]); i++) {
        FILL(0, .code = 0x25, .device = 0x40, .count = 1, .bytes = 512);
        put_le(TABLE_GPA(0) + 0x80, prds[i].gpa, 8);
        put_le(TABLE_GPA(0) + 0x8c, prds[i].bytes - 1, 4);
        issue(1);
        assert_int_equal(get(PIS) & prds[i].is, prds[i].is);
        assert_int_equal(get(CI), 1);
        recover();
    }
    /* No PRD at all; a thousand of two bytes; a table of them that runs out of memory. */
    FILL(0, .code = 0x25, .device = 0x40, .count = 1);
    issue(1);
    assert_int_equal(get(PIS) & (1u << 24), 1u << 24);
    recover();
    FILL(0, .code = 0x25, .device = 0x40, .count = 2, .bytes = 1024);
    put_le(LIST_GPA, 5 | 512u << 16, 4);
    for (unsigned i = 0; i < 512; i++) {
        put_le(TABLE_GPA(0) + 0x80 + i * 16, DATA_GPA + i * 4, 8);
        put_le(TABLE_GPA(0) + 0x8c + i * 16, 1, 4);
    }
    issue(1);
    assert_int_equal(get(CI), 0);
    assert_memory_equal(memory + DATA_GPA, shadow, 2);
    assert_memory_equal(memory + DATA_GPA + 4, shadow + 2, 2);
    assert_memory_equal(memory + DATA_GPA + 511 * 4, shadow + 1022, 2);
    memcpy(memory + MEMORY_BYTES - 0x80, memory + TABLE_GPA(0), 0x80);
    put_le(LIST_GPA + 8, MEMORY_BYTES - 0x80, 4);
    issue(1);
    assert_int_equal(get(PIS) & (1u << 28), 1u << 28);
    recover();
    /* Tables and lists that are nowhere. */
    put_le(LIST_GPA + 8, MEMORY_BYTES, 4);
    issue(1);
    assert_int_equal(get(PIS) & (1u << 29), 1u << 29);
    recover();
    set(CMD, CMD_FRE);
    set(CLB, 0xfebf0000);
    set(FB, 0xfebf0000);
    set(CMD, CMD_FRE | CMD_ST);
    issue(1);
    assert_int_equal(get(PIS) & (1u << 29), 1u << 29);
    set(CMD, 0);
    set(CLB, LIST_GPA);
    recover();
    FILL(0, .code = 0xec, .bytes = 512); /* done, though nobody can be told */
    issue(1);
    assert_int_equal(get(CI), 0);
    assert_int_equal(get(PIS) & (1u << 29), 1u << 29);
    set(FB, FIS_GPA);
    recover();
    /* No FIS of a command. */
    FILL(0, .code = 0xec, .bytes = 512);
    memory[TABLE_GPA(0)] = 0x46;
    issue(1);
    assert_int_equal(get(PIS) & (1u << 27), 1u << 27);
    recover();
}

static void test_resets(void **state)
{
    (void)state;
    /* COMRESET with I/O under way: BSY until the host has finished, then the signature, and no word of the command. */
    FILL(0, .code = 0x25, .device = 0x40, .count = 16, .bytes = 8192);
    set(CI, 1);
    assert_int_equal(get(TFD) & 0x80, 0x80);
    set(CMD, CMD_FRE);
    set(SCTL, 0x301);
    assert_int_equal(get(SSTS), 0);
    set(SCTL, 0x300);
    assert_int_equal(get(TFD) & 0x80, 0x80);
    assert_int_equal(get(SIG), 0xffffffff);
    block_drain(block);
    assert_int_equal(get(TFD) & 0xff, 0x50);
    assert_int_equal(get(SIG), 0x101);
    assert_int_equal(get(SSTS), 0x133);
    assert_int_equal(get(PIS), 0x40); /* PCS */
    assert_int_equal(get(CMD) & CMD_CR, 0);
    recover();
    /* SRST by FISes. */
    FILL(0, .code = 0x25, .device = 0x40, .count = 16, .bytes = 8192);
    FILL(1, .code = 0);
    memory[TABLE_GPA(1) + 1] = 0;
    memory[TABLE_GPA(1) + 15] = 4;
    FILL(2, .code = 0);
    memory[TABLE_GPA(2) + 1] = 0;
    issue(2);
    assert_int_equal(get(CI), 0);
    issue(4);
    assert_int_equal(get(CI), 0);
    assert_int_equal(get(TFD), 0x150);
    assert_int_equal(memory[FIS_GPA + 0x44], 1);
    /* The whole controller. */
    set(CI, 1);
    hba_write(GHC, 1);
    assert_int_equal(hba_read(GHC), 0x80000001);
    hba_write(GHC, 2);
    assert_int_equal(hba_read(GHC), 0x80000001);
    block_drain(block);
    assert_int_equal(hba_read(GHC), 0x80000000);
    assert_int_equal(get(CI) | (get(CMD) & CMD_ST), 0);
    assert_int_equal(get(TFD) & 0xff, 0x50);
    hba_write(GHC, 2);
    start(0);
    issue(1);
    assert_int_equal(get(CI), 0);
    assert_memory_equal(memory + SLOT_DATA(0), shadow, 8192);
}

static void *drain(void *opaque)
{
    (void)opaque;
    usleep(20000);
    block_drain(block);
    return NULL;
}

/* The right to master the bus goes: what the host has must be over, and what is asked for waits. */
static void test_master(void **state)
{
    pthread_t thread;
    (void)state;
    for (unsigned i = 0; i < 8; i++) {
        FILL(i, .code = 0x60, .device = 0x40, .lba = i * 8, .feature = 8, .count = (uint16_t)(i << 3), .bytes = 4096);
    }
    set(SACT, 0xff);
    set(CI, 0xff);
    assert_int_equal(pthread_create(&thread, NULL, drain, NULL), 0);
    set_master(false);
    for (unsigned i = 0; i < 8; i++) {
        assert_false(ahci->ports[0].slots[i].request.active);
        assert_memory_equal(memory + SLOT_DATA(i), shadow + i * 4096, 4096);
    }
    pthread_join(thread, NULL);
    set(SACT, 1);
    issue(1);
    assert_int_equal(get(CI), 1);
    set_master(true);
    assert_int_equal(get(CI), 0);
}

static void test_packets(void **state)
{
    const uint8_t ready[12] = {0}, ask[12] = {3, 0, 0, 0, 18}, read10[12] = {0x28, 0, 0, 0, 0, 2, 0, 0, 3};
    (void)state;
    start(4);
    FILL(0, .code = 0xa0, .packet = ready);
    issue(1);
    assert_int_equal(get(PIS) & TFES, TFES);
    assert_int_equal(get(TFD) >> 12, 6);
    recover();
    FILL(0, .code = 0xa0, .packet = ask, .bytes = 18);
    issue(1);
    assert_int_equal(get(CI), 0);
    assert_int_equal(memory[SLOT_DATA(0) + 12], 0x29);
    FILL(0, .code = 0xa0, .packet = read10, .feature = 1, .bytes = 3 * 2048);
    issue(1);
    assert_int_equal(get(CI), 0);
    assert_memory_equal(memory + SLOT_DATA(0), shadow + 2 * 2048, 3 * 2048);
    assert_int_equal(prdbc(0), 3 * 2048);
    FILL(0, .code = 0xa1, .bytes = 512);
    issue(1);
    assert_int_equal(memory[SLOT_DATA(0) + 1], 0x85);
}

static void test_messages(void **state)
{
    (void)state;
    unsigned at = ahci->msi.capability;
    ahci->function.config[at + 2] |= 1;
    ahci->function.written(ahci, at + 2, 1);
    FILL(0, .code = 0xec, .bytes = 512);
    issue(1);
    assert_int_equal(messages, 1);
    assert_false(lines[0].level);
    issue(1); /* the port has not been served: no second message */
    assert_int_equal(messages, 1);
    hba_write(IS, 1); /* served in part: what is left says so again */
    assert_int_equal(messages, 2);
    set(PIS, 0xffffffff);
    hba_write(IS, 1);
    issue(1);
    assert_int_equal(messages, 3);
    /* Back to the pin. */
    ahci->function.config[at + 2] &= 0xfe;
    ahci->function.written(ahci, at + 2, 1);
    assert_true(lines[0].level);
}

static void test_random(void **state)
{
    uint64_t random = 11;
    (void)state;
    for (unsigned round = 0; round < 60000; round++) {
        static const uint8_t likely[] = {0xec, 0xa1, 0xa0, 0x25, 0x35, 0x60, 0x61, 0x20, 0x30, 0xea, 0x06, 0x2f, 0xc8};
        static const uint8_t registers[] = {PIS, PIE, CMD, SCTL, SERR, SACT, CI, CI, CI};
        unsigned slot = random_next(&random) & 31, value = (unsigned)random_next(&random);
        port = random_next(&random) % 3 != 0 ? 0 : 4;
        switch (random_next(&random) % 10) {
        case 0:
        case 1:
            FILL(slot, .code = value % 16 != 0 ? likely[value % sizeof(likely)] : (uint8_t)value, .device = 0x40, .lba = random_next(&random) & 0xfff,
                 .count = (uint16_t)(value & 1 ? slot << 3 : value >> 8 & 15), .feature = value >> 12 & 15, .bytes = (value >> 16 & 0x3fff) + 1,
                 .packet = value & 0x100 ? memory + (value & 0xffff) : NULL);
            break;
        case 2: /* something in a header or table */
            memory[(value & 1 ? LIST_GPA + slot * 32 : TABLE_GPA(slot)) + (value >> 8 & (value & 1 ? 31 : 0x9f))] = (uint8_t)(value >> 16);
            break;
        case 3:
        case 4:
        case 5:
            set(registers[value % sizeof(registers)], (uint32_t)(1u << (value >> 8 & 31)) | (value & 0x10000 ? 1u << (value >> 18 & 31) : 0));
            break;
        case 6:
            if (value % 40 == 0) {
                hba_write(GHC, value & 0x100 ? 3 : 2);
            }
            break;
        case 7:
            block_drain(block);
            break;
        case 8:
            if (value % 20 == 0) {
                set(value & 0x100 ? CLB : FB, (uint32_t)random_next(&random) % (MEMORY_BYTES + 0x1000));
            }
            get(value >> 8 & 0x7c);
            break;
        default:
            start(port);
            break;
        }
    }
    block_drain(block);
    hba_write(GHC, 1);
    block_drain(block);
    assert_int_equal(hba_read(GHC), 0x80000000);
    hba_write(GHC, 2);
    start(0);
    FILL(0, .code = 0x25, .device = 0x40, .count = 1, .bytes = 512);
    issue(1);
    assert_int_equal(get(CI), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_ports, setup, teardown),
        cmocka_unit_test_setup_teardown(test_commands, setup, teardown),
        cmocka_unit_test_setup_teardown(test_queued, setup, teardown),
        cmocka_unit_test_setup_teardown(test_queued_errors, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bad_memory, setup, teardown),
        cmocka_unit_test_setup_teardown(test_resets, setup, teardown),
        cmocka_unit_test_setup_teardown(test_master, setup, teardown),
        cmocka_unit_test_setup_teardown(test_packets, setup, teardown),
        cmocka_unit_test_setup_teardown(test_messages, setup, teardown),
        cmocka_unit_test_setup_teardown(test_random, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
