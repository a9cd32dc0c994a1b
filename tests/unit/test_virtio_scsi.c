/* SPDX-License-Identifier: MIT */
/*
 * SCSI commands on a disk and a CD-ROM drive, and the virtio host that carries them: what a driver reads, what is refused with which sense,
 * what is no request at all. No command touches more than the disk or the buffers.
 */
#include <setjmp.h>
#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <cmocka.h>

#include "virtio/scsi.h"
#include "virtio_driver.h"

#define DISK_BYTES 0x100000u
#define DISK_BLOCKS (DISK_BYTES / 512)
#define HEADER_GPA (BUFFERS_GPA + 0x1e0000)
#define RESPONSE_GPA (BUFFERS_GPA + 0x1f0000)
#define DATA_GPA BUFFERS_GPA

static struct loop loop;
static struct block *block;
static struct virtio_scsi *scsi;
static struct virtio_device *device;
static struct driver driver;
static struct scsi_disk disk;
static char path[64];
static uint8_t shadow[DISK_BYTES];

static int setup(void **state)
{
    struct error error;
    const struct virtio_options options = virtio_options_default;
    (void)state;
    memory = calloc(1, MEMORY_BYTES);
    strcpy(path, "/tmp/kage-test-scsi-XXXXXX");
    int fd = mkstemp(path);
    for (unsigned i = 0; i < DISK_BYTES; i++) {
        shadow[i] = (uint8_t)(i * 7 + i / 512);
    }
    assert_int_equal(write(fd, shadow, DISK_BYTES), DISK_BYTES);
    close(fd);
    assert_int_equal(loop_init(&loop), 0);
    const struct block_config config = {.filename = path, .format = "raw"};
    block = block_open(&config, &error);
    assert_non_null(block);
    assert_int_equal(block_attach(block, &loop), 0);
    scsi = virtio_scsi_new(&options, 1, 64, &loop, &memory_dma, &error);
    assert_non_null(scsi);
    device = virtio_scsi_device(scsi);
    device->transport = &test_transport;
    disk = (struct scsi_disk){.block = block, .block_bytes = 512, .serial = "serial-1"};
    assert_int_equal(virtio_scsi_add(scsi, 3, &disk, NULL), 0);
    assert_int_equal(virtio_scsi_add(scsi, 3, &disk, NULL), -EEXIST);
    assert_int_equal(virtio_scsi_add(scsi, 256, &disk, NULL), -ENOSPC);
    assert_true(driver_negotiate(device, device->offered));
    driver_init_queue(&driver, device, 2, 64);
    driver_ok(device);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    virtio_scsi_free(scsi);
    block_close(block);
    loop_fini(&loop);
    unlink(path);
    free(memory);
    return 0;
}

static void serve(void)
{
    for (unsigned i = 0; i < device->queue_count; i++) {
        uint64_t count;
        if (eventfd_read(device->queues[i].kick.fd, &count) == 0) {
            device->queues[i].kick.ready(device->queues[i].kick.opaque, 0);
        }
    }
    block_drain(block);
}

static void *reset_device(void *opaque)
{
    virtio_set_status(opaque, 0);
    return NULL;
}

struct answer {
    unsigned response, status, key, code;
    uint32_t residual, written;
};

/* A command to target 3 (`lun` else), with data one way or the other. */
static struct answer command_to(unsigned target, const uint8_t *cdb, size_t cdb_bytes, uint32_t out, uint32_t in)
{
    struct piece pieces[4];
    unsigned count = 0;
    uint16_t id;
    struct answer answer = {0};
    uint8_t *header = gpa(HEADER_GPA), *response = gpa(RESPONSE_GPA);
    memset(header, 0, 51);
    memset(response, 0xee, 108);
    header[0] = 1;
    header[1] = (uint8_t)target;
    header[2] = 0x40;
    memcpy(header + 19, cdb, cdb_bytes);
    pieces[count++] = (struct piece){HEADER_GPA, 51, false};
    if (out != 0) {
        pieces[count++] = (struct piece){DATA_GPA, out, false};
    }
    pieces[count++] = (struct piece){RESPONSE_GPA, 108, true};
    if (in != 0) {
        pieces[count++] = (struct piece){DATA_GPA, in, true};
    }
    driver_add(&driver, pieces, count, false);
    virtio_kick_queue(device, 2);
    serve();
    assert_true(driver_take(&driver, &id, &answer.written));
    memcpy(&answer.residual, response + 4, 4);
    answer.status = response[10];
    answer.response = response[11];
    answer.key = response[12 + 2];
    answer.code = (unsigned)response[12 + 12] << 8 | response[12 + 13];
    return answer;
}

#define COMMAND(out, in, ...) command_to(3, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}), out, in)

static void expect_sense(struct answer answer, unsigned key, unsigned code)
{
    assert_int_equal(answer.response, 0);
    assert_int_equal(answer.status, 2);
    assert_int_equal(answer.key, key);
    assert_int_equal(answer.code, code);
    assert_int_equal(answer.written, 108);
}

static void test_tells(void **state)
{
    const uint8_t *data = gpa(DATA_GPA);
    struct answer a = COMMAND(0, 96, 0x12, 0, 0, 0, 96, 0);
    (void)state;
    assert_int_equal(a.status, 0);
    assert_int_equal(a.residual, 96 - 36);
    assert_int_equal(a.written, 108 + 36);
    assert_memory_equal(data + 8, "KAGE    KAGE HARDDISK   0.1 ", 28);
    a = COMMAND(0, 96, 0x12, 0, 0, 0, 5, 0); /* no more than is allowed */
    assert_int_equal(a.written, 108 + 5);
    COMMAND(0, 96, 0x12, 1, 0x80, 0, 96, 0);
    assert_memory_equal(data, "\0\x80\0\x08serial-1", 12);
    assert_int_equal(COMMAND(0, 96, 0x12, 1, 0xb0, 0, 96, 0).status, 0);
    expect_sense(COMMAND(0, 96, 0x12, 1, 0x99, 0, 96, 0), 5, 0x2400);
    expect_sense(COMMAND(0, 96, 0x12, 0, 0x80, 0, 96, 0), 5, 0x2400);
    expect_sense(COMMAND(0, 0, 0xff), 5, 0x2000);
    expect_sense(COMMAND(0, 16, 0x43, 0, 0, 0, 0, 0, 0, 0, 16), 5, 0x2000); /* a CD-ROM's */
    a = COMMAND(0, 8, 0x25);
    assert_memory_equal(data, "\0\0\x07\xff\0\0\x02\0", 8);
    a = COMMAND(0, 32, 0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32);
    assert_int_equal(data[6], 7);
    assert_int_equal(data[14], 0x80);
    expect_sense(COMMAND(0, 32, 0x9e, 0x11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32), 5, 0x2400);
    a = COMMAND(0, 64, 0x1a, 0, 8, 0, 64, 0);
    assert_true(a.status == 0 && data[4] == 8 && (data[6] & 4) != 0);
    assert_int_equal(COMMAND(0, 64, 0x5a, 0, 0x3f, 0, 0, 0, 0, 0, 64).status, 0);
    expect_sense(COMMAND(0, 64, 0x1a, 0, 0xc8, 0, 64, 0), 5, 0x3900);
    expect_sense(COMMAND(0, 64, 0x1a, 0, 0x2a, 0, 64, 0), 5, 0x2400);
    assert_int_equal(COMMAND(0, 16, 0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16).status, 0);
    assert_int_equal(COMMAND(0, 0, 0x00).status, 0);
    assert_int_equal(command_to(4, (const uint8_t[]){0}, 1, 0, 0).response, 3);
}

static void test_data(void **state)
{
    (void)state;
    struct answer a = COMMAND(0, 4096, 0x28, 0, 0, 0, 0, 5, 0, 0, 8, 0);
    assert_int_equal(a.written, 108 + 4096);
    assert_int_equal(a.residual, 0);
    assert_memory_equal(gpa(DATA_GPA), shadow + 5 * 512, 4096);
    a = COMMAND(0, 512, 0x08, 0, 0, 9, 1, 0);
    assert_memory_equal(gpa(DATA_GPA), shadow + 9 * 512, 512);
    COMMAND(0, 131072, 0x08, 0, 0, 0, 0, 0); /* 0 means 256 */
    assert_memory_equal(gpa(DATA_GPA), shadow, 131072);
    a = COMMAND(0, 8192, 0x88, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 8, 0, 0); /* more room than data */
    assert_int_equal(a.residual, 4096);
    assert_memory_equal(gpa(DATA_GPA), shadow + 1024, 4096);
    assert_int_equal(COMMAND(0, 512, 0x28, 0, 0, 0, 0, 5, 0, 0, 8, 0).response, 1); /* less room than data */
    memset(gpa(DATA_GPA), 0x5a, 4096);
    assert_int_equal(COMMAND(4096, 0, 0x2a, 8, 0, 0, 0, 16, 0, 0, 8, 0).status, 0); /* with FUA */
    assert_int_equal(COMMAND(512, 0, 0x2a, 0, 0, 0, 0, 16, 0, 0, 8, 0).response, 1);
    assert_int_equal(COMMAND(0, 0, 0x35).status, 0);
    COMMAND(0, 4096, 0xa8, 0, 0, 0, 0, 16, 0, 0, 0, 8, 0, 0);
    for (unsigned i = 0; i < 4096; i++) {
        assert_int_equal(*(uint8_t *)gpa(DATA_GPA + i), 0x5a);
    }
    expect_sense(COMMAND(0, 512, 0x28, 0, 0, 0, 0x08, 0, 0, 0, 1, 0), 5, 0x2100); /* the block behind the last */
    expect_sense(COMMAND(0, 512, 0x28, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 1, 0), 5, 0x2100);
    expect_sense(COMMAND(0, 512, 0x88, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 0, 0), 5, 0x2100);
    expect_sense(COMMAND(0, 512, 0x88, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0, 0), 5, 0x2100);
    assert_int_equal(COMMAND(0, 0, 0x2f, 0, 0, 0, 0, 0, 0, 0, 8, 0).status, 0);
    expect_sense(COMMAND(512, 0, 0x2f, 2, 0, 0, 0, 0, 0, 0, 1, 0), 5, 0x2400);
    /* Both ways at once. */
    assert_int_equal(COMMAND(512, 512, 0x00).response, 9);
}

static void put_list(uint16_t bytes, uint64_t lba, uint32_t blocks)
{
    uint8_t list[24] = {0, 22, (uint8_t)(bytes >> 8), (uint8_t)bytes};
    for (unsigned i = 0; i < 8; i++) {
        list[8 + i] = (uint8_t)(lba >> (56 - 8 * i));
    }
    for (unsigned i = 0; i < 4; i++) {
        list[16 + i] = (uint8_t)(blocks >> (24 - 8 * i));
    }
    memcpy(gpa(DATA_GPA), list, sizeof(list));
}

static void test_unmap(void **state)
{
    (void)state;
    put_list(16, 64, 64);
    assert_int_equal(COMMAND(24, 0, 0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0).status, 0);
    assert_int_equal(COMMAND(0, 0, 0x42).status, 0); /* an empty list */
    put_list(16, DISK_BLOCKS - 1, 2);
    expect_sense(COMMAND(24, 0, 0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0), 5, 0x2100);
    put_list(16, UINT64_MAX, 2);
    expect_sense(COMMAND(24, 0, 0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0), 5, 0x2100);
    put_list(16, 0, UINT32_MAX);
    expect_sense(COMMAND(24, 0, 0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0), 5, 0x2600);
    put_list(0xffff, 0, 1);
    expect_sense(COMMAND(24, 0, 0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0), 5, 0x1a00);
    expect_sense(COMMAND(24, 0, 0x42, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0), 5, 0x1a00);
    put_list(16, 0, 1);
    expect_sense(COMMAND(7, 0, 0x42, 0, 0, 0, 0, 0, 0, 0, 7, 0), 5, 0x1a00);
}

static void test_cdrom(void **state)
{
    struct scsi_command command;
    struct scsi_disk cd = {.block = block, .block_bytes = 2048, .cdrom = true, .read_only = true};
    uint8_t cdb[SCSI_CDB_BYTES] = {0x43, 2, 0, 0, 0, 0, 0, 0, 20};
    (void)state;
    scsi_disk_execute(&cd, cdb, NULL, 0, &command);
    assert_int_equal(command.reply_bytes, 20);
    assert_memory_equal(command.reply, "\0\x12\x01\x01\0\x14\x01\0\0\0\x02\0\0\x14\xaa\0\0\0\x08\x3e", 20); /* 512 blocks: 0:8:62 */
    cdb[8] = 3;
    scsi_disk_execute(&cd, cdb, NULL, 0, &command);
    assert_int_equal(command.reply_bytes, 3);
    memset(cdb, 0, sizeof(cdb));
    cdb[0] = 0x2a;
    scsi_disk_execute(&cd, cdb, NULL, 0, &command);
    assert_true(command.status == 2 && !command.io);
    /* Anything: nothing is asked of the disk that it does not have. */
    uint64_t random = 1;
    for (unsigned round = 0; round < 200000; round++) {
        uint8_t list[64];
        for (unsigned i = 0; i < sizeof(cdb); i++) {
            random = random * UINT64_C(6364136223846793005) + 1442695040888963407u;
            cdb[i] = round % 2 == 0 || random >> 63 ? (uint8_t)(random >> 40) : 0;
            list[i] = list[i + 32] = (uint8_t)(random >> 50 & 3);
        }
        struct scsi_disk *one = round % 3 == 0 ? &cd : &disk;
        scsi_disk_execute(one, cdb, list, round % 65, &command);
        assert_true(command.reply_bytes <= SCSI_REPLY_MAX);
        if (command.io) {
            assert_true(command.offset <= DISK_BYTES && command.bytes <= DISK_BYTES - command.offset);
            assert_true(!one->cdrom || command.op == BLOCK_READ || command.op == BLOCK_FLUSH);
        }
    }
}

static void test_control(void **state)
{
    struct driver control;
    const uint32_t reset[6] = {0, 5, 0x00400301, 0, 0, 0}; /* logical unit reset of target 3 */
    struct piece pieces[2] = {{HEADER_GPA, 24, false}, {RESPONSE_GPA, 1, true}};
    uint16_t id;
    uint32_t written;
    (void)state;
    assert_true(driver_negotiate(device, device->offered));
    driver_init_queue(&control, device, 0, 8);
    driver_init_queue(&driver, device, 2, 64);
    driver_ok(device);
    memcpy(gpa(HEADER_GPA), reset, sizeof(reset));
    driver_add(&control, pieces, 2, false);
    virtio_kick_queue(device, 0);
    serve();
    assert_true(driver_take(&control, &id, &written));
    assert_int_equal(written, 1);
    assert_int_equal(*(uint8_t *)gpa(RESPONSE_GPA), 0);
    *(uint8_t *)gpa(HEADER_GPA + 9) = 77;
    driver_add(&control, pieces, 2, false);
    virtio_kick_queue(device, 0);
    serve();
    assert_true(driver_take(&control, &id, &written));
    assert_int_equal(*(uint8_t *)gpa(RESPONSE_GPA), 12);
    /* No such function. */
    *(uint8_t *)gpa(HEADER_GPA) = 9;
    driver_add(&control, pieces, 2, false);
    virtio_kick_queue(device, 0);
    serve();
    assert_true(virtio_status(device) & VIRTIO_STATUS_DEVICE_NEEDS_RESET);
    assert_int_equal(control.queue->in_flight, 0);
}

/* A task management function to a unit's tasks; `tag`: of the one. */
static void manage(struct driver *control, uint8_t target, uint32_t subtype, uint64_t tag)
{
    struct {
        uint32_t type, subtype;
        uint8_t lun[8];
        uint64_t tag;
    } function = {0, subtype, {1, target, 0x40, 0}, tag};
    const struct piece pieces[2] = {{DATA_GPA + 0x10000, 24, false}, {DATA_GPA + 0x10100, 1, true}};
    memcpy(gpa(DATA_GPA + 0x10000), &function, sizeof(function));
    *(uint8_t *)gpa(DATA_GPA + 0x10100) = 0xee;
    driver_add(control, pieces, 2, false);
    virtio_kick_queue(device, 0);
    device->queues[0].kick.ready(device->queues[0].kick.opaque, 0);
}

/* Reads of block 1 with tags 1 to `count`, which the disk has, and which are not done before it is drained. */
static void begin_reads(unsigned count)
{
    memset(gpa(HEADER_GPA), 0, 64 * count);
    for (unsigned i = 0; i < count; i++) {
        uint8_t *header = gpa(HEADER_GPA + 64 * i);
        const struct piece pieces[3] = {{HEADER_GPA + 64 * i, 51, false}, {RESPONSE_GPA + 128 * i, 108, true}, {DATA_GPA + 512 * i, 512, true}};
        header[0] = 1;
        header[1] = 3;
        header[2] = 0x40;
        header[8] = (uint8_t)(i + 1);
        memcpy(header + 19, (const uint8_t[]){0x28, 0, 0, 0, 0, 1, 0, 0, 1, 0}, 10);
        driver_add(&driver, pieces, 3, false);
    }
    virtio_kick_queue(device, 2);
    device->queues[2].kick.ready(device->queues[2].kick.opaque, 0);
}

static uint8_t response_of(unsigned task)
{
    return *(uint8_t *)gpa(RESPONSE_GPA + 128 * task + 11);
}

static void test_task_management(void **state)
{
    enum { ABORT_TASK = 0, ABORT_TASK_SET = 1, LOGICAL_UNIT_RESET = 5, QUERY_TASK = 6, QUERY_TASK_SET = 7 };
    const uint8_t *answer = gpa(DATA_GPA + 0x10100);
    struct driver control;
    uint16_t id;
    uint32_t written;
    (void)state;
    assert_true(driver_negotiate(device, device->offered));
    driver_init_queue(&control, device, 0, 8);
    driver_init_queue(&driver, device, 2, 64);
    driver_ok(device);

    begin_reads(4);
    manage(&control, 3, QUERY_TASK, 2);
    assert_true(driver_take(&control, &id, &written));
    assert_int_equal(*answer, 10);
    manage(&control, 3, QUERY_TASK, 9);
    assert_true(driver_take(&control, &id, &written));
    assert_int_equal(*answer, 0);
    manage(&control, 3, 77, 2);
    assert_true(driver_take(&control, &id, &written));
    assert_int_equal(*answer, 11);
    /* One is called back: the function waits for it, the others end as ever. */
    manage(&control, 3, ABORT_TASK, 2);
    assert_false(driver_take(&control, &id, &written));
    block_drain(block);
    assert_true(driver_take(&control, &id, &written));
    assert_int_equal(*answer, 0);
    for (unsigned i = 0; i < 4; i++) {
        assert_true(driver_take(&driver, &id, &written));
        assert_int_equal(response_of(i), i == 1 ? 2 : 0);
    }
    /* Nothing to call back. */
    manage(&control, 3, ABORT_TASK_SET, 0);
    assert_true(driver_take(&control, &id, &written));
    assert_int_equal(*answer, 0);
    /* All of the unit: they say so, and the next command finds that it was reset. */
    begin_reads(3);
    manage(&control, 3, LOGICAL_UNIT_RESET, 0);
    manage(&control, 3, QUERY_TASK_SET, 0);
    block_drain(block);
    assert_true(driver_take(&control, &id, &written));
    assert_true(driver_take(&control, &id, &written));
    for (unsigned i = 0; i < 3; i++) {
        assert_true(driver_take(&driver, &id, &written));
        assert_int_equal(response_of(i), 4);
    }
    expect_sense(COMMAND(0, 0, 0x00, 0, 0, 0, 0, 0), 6, 0x2900);
    assert_int_equal(COMMAND(0, 0, 0x00, 0, 0, 0, 0, 0).status, 0);
    /* A reset of the device with a function under way. */
    begin_reads(2);
    manage(&control, 3, ABORT_TASK_SET, 0);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, reset_device, device), 0);
    block_drain(block);
    pthread_join(thread, NULL);
    assert_int_equal(virtio_status(device), 0);
}

static void test_resize(void **state)
{
    struct driver events;
    struct error error;
    uint16_t id;
    uint32_t written;
    const struct piece piece = {DATA_GPA, 16, true};
    const struct {
        uint32_t event;
        uint8_t lun[8];
        uint32_t reason;
    } *event = gpa(DATA_GPA);
    (void)state;
    assert_true(driver_negotiate(device, device->offered));
    driver_init_queue(&events, device, 1, 8);
    driver_init_queue(&driver, device, 2, 64);
    driver_ok(device);
    driver_add(&events, &piece, 1, false);
    virtio_kick_queue(device, 1);
    serve();
    assert_int_equal(block_resize(block, DISK_BYTES * 2, &error), 0);
    assert_true(driver_take(&events, &id, &written));
    assert_int_equal(written, 16);
    assert_int_equal(event->event, 3);
    assert_int_equal(event->reason, 0x092a);
    assert_memory_equal(event->lun, ((const uint8_t[]){1, 3, 0x40, 0, 0, 0, 0, 0}), 8);
    COMMAND(0, 8, 0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    assert_memory_equal(gpa(DATA_GPA), ((const uint8_t[]){0, 0, 0x0f, 0xff, 0, 0, 2, 0}), 8);
    /* Without a buffer: the next one says that something was missed. */
    assert_int_equal(block_resize(block, DISK_BYTES * 3, &error), 0);
    driver_add(&events, &piece, 1, false);
    assert_int_equal(block_resize(block, DISK_BYTES, &error), 0);
    assert_true(driver_take(&events, &id, &written));
    assert_int_equal(event->event, 0x80000003u);
}

static void test_no_request(void **state)
{
    (void)state;
    static const struct {
        struct piece pieces[2];
        unsigned count;
    } bad[] = {
        {{{HEADER_GPA, 51, false}}, 1},
        {{{HEADER_GPA, 50, false}, {RESPONSE_GPA, 108, true}}, 2},
        {{{HEADER_GPA, 51, false}, {RESPONSE_GPA, 107, true}}, 2},
        {{{RESPONSE_GPA, 108, true}}, 1},
    };
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_true(driver_negotiate(device, device->offered));
        driver_init_queue(&driver, device, 2, 64);
        driver_ok(device);
        driver_add(&driver, bad[i].pieces, bad[i].count, false);
        virtio_kick_queue(device, 2);
        serve();
        assert_true(virtio_status(device) & VIRTIO_STATUS_DEVICE_NEEDS_RESET);
        assert_int_equal(driver.queue->in_flight, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_tells, setup, teardown),   cmocka_unit_test_setup_teardown(test_data, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unmap, setup, teardown),   cmocka_unit_test_setup_teardown(test_cdrom, setup, teardown),
        cmocka_unit_test_setup_teardown(test_task_management, setup, teardown), cmocka_unit_test_setup_teardown(test_resize, setup, teardown),
        cmocka_unit_test_setup_teardown(test_control, setup, teardown), cmocka_unit_test_setup_teardown(test_no_request, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
