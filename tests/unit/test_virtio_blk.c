/* SPDX-License-Identifier: MIT */
/*
 * The block and the entropy device in front of a driver: requests cut into buffers anyhow, compared with a shadow of the disk; what is
 * refused with a status; what is no request and ends in DEVICE_NEEDS_RESET; resize; reset with requests under way.
 */
#include <setjmp.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "virtio/blk.h"
#include "virtio/rng.h"
#include "virtio_driver.h"

#define DISK_SECTORS 2048u
#define DISK_BYTES (DISK_SECTORS * 512u)
#define STATUS_GPA (BUFFERS_GPA + 0x1f0000)
#define HEADER_GPA (BUFFERS_GPA + 0x1e0000)
#define DATA_GPA BUFFERS_GPA

enum { IN = 0, OUT = 1, FLUSH = 4, GET_ID = 8, DISCARD = 11, WRITE_ZEROES = 13 };

static struct loop loop;
static struct block *block;
static struct virtio_blk *blk;
static struct virtio_device *device;
static struct driver driver;
static uint8_t shadow[DISK_BYTES];
static char path[64];
static uint64_t random_state = 1;

static uint32_t random_below(uint32_t limit)
{
    random_state = random_state * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return (uint32_t)(random_state >> 33) % limit;
}

static void serve(void)
{
    for (unsigned i = 0; i < device->queue_count; i++) {
        uint64_t count;
        if (eventfd_read(device->queues[i].kick.fd, &count) == 0) {
            device->queues[i].kick.ready(device->queues[i].kick.opaque, 0);
        }
    }
}

static void open_disk(bool read_only)
{
    struct error error;
    const struct block_config config = {.filename = path, .format = "raw", .read_only = read_only};
    block = block_open(&config, &error);
    if (block == NULL) {
        fail_msg("%s", error.text);
    }
    assert_int_equal(block_attach(block, &loop), 0);
}

static void new_device(const struct virtio_blk_config *config)
{
    struct error error;
    blk = virtio_blk_new(config, block, &loop, &memory_dma, &error);
    assert_non_null(blk);
    device = virtio_blk_device(blk);
    device->transport = &test_transport;
}

static struct virtio_blk_config config_default(void)
{
    return (struct virtio_blk_config){.virtio = virtio_options_default,
                                      .serial = "0123456789abcdefghij",
                                      .num_queues = 2,
                                      .queue_size = 64,
                                      .logical_block_size = 512,
                                      .physical_block_size = 4096,
                                      .write_cache = true,
                                      .config_wce = true,
                                      .discard = true,
                                      .write_zeroes = true};
}

static void start(uint64_t refuse)
{
    assert_true(driver_negotiate(device, device->offered & ~refuse));
    driver_init_queue(&driver, device, 0, 64);
    driver_ok(device);
    driver_want_interrupt(&driver, true);
}

static int setup(void **state)
{
    (void)state;
    memory = calloc(1, MEMORY_BYTES);
    strcpy(path, "/tmp/kage-test-blk-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    for (unsigned i = 0; i < DISK_BYTES; i++) {
        shadow[i] = (uint8_t)random_below(256);
    }
    assert_int_equal(write(fd, shadow, DISK_BYTES), DISK_BYTES);
    close(fd);
    config_interrupts = 0;
    assert_int_equal(loop_init(&loop), 0);
    open_disk(false);
    struct virtio_blk_config config = config_default();
    new_device(&config);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    virtio_blk_free(blk);
    block_close(block);
    loop_fini(&loop);
    unlink(path);
    free(memory);
    return 0;
}

static void put_header(uint32_t type, uint64_t sector)
{
    const uint32_t words[2] = {type, 0};
    memcpy(gpa(HEADER_GPA), words, 8);
    memcpy(gpa(HEADER_GPA + 8), &sector, 8);
    memset(gpa(STATUS_GPA), 0xff, 16);
}

/* One request of whole buffers, waited for: its status; `written` is what the used ring says. */
static unsigned request(uint32_t type, uint64_t sector, uint64_t data, uint32_t bytes, bool write, uint32_t *written)
{
    struct piece pieces[3] = {{HEADER_GPA, 16, false}, {data, bytes, write}, {STATUS_GPA, 1, true}};
    uint16_t id;
    uint32_t ignored;
    put_header(type, sector);
    if (bytes == 0) {
        pieces[1] = pieces[2];
    }
    driver_add(&driver, pieces, bytes != 0 ? 3 : 2, false);
    virtio_kick_queue(device, 0);
    serve();
    block_drain(block);
    assert_true(driver_take(&driver, &id, written != NULL ? written : &ignored));
    return *(uint8_t *)gpa(STATUS_GPA);
}

/* Header, data and status one behind the other in guest memory for each direction, cut anywhere. */
static void random_request(void)
{
    struct piece pieces[24];
    unsigned count = 0;
    bool write = random_below(2) == 0;
    uint32_t sectors = random_below(9), sector = random_below(DISK_SECTORS - 8), bytes = sectors * 512;
    uint32_t out = 16 + (write ? bytes : 0), in = 1 + (write ? 0 : bytes), written;
    uint64_t out_gpa = DATA_GPA + random_below(4096), in_gpa = DATA_GPA + 0x10000 + random_below(4096);
    uint16_t id;
    put_header(write ? OUT : IN, sector);
    memcpy(gpa(out_gpa), gpa(HEADER_GPA), 16);
    for (uint32_t i = 0; write && i < bytes; i++) {
        shadow[sector * 512 + i] = *(uint8_t *)gpa(out_gpa + 16 + i) = (uint8_t)random_below(256);
    }
    memset(gpa(in_gpa), 0xee, in + 8);
    for (uint32_t at = 0; at < out;) {
        uint32_t part = count < 8 ? 1 + random_below(random_below(2) == 0 ? 20 : out) : out;
        part = part < out - at ? part : out - at;
        pieces[count++] = (struct piece){out_gpa + at, part, false};
        at += part;
    }
    unsigned before = count;
    for (uint32_t at = 0; at < in;) {
        uint32_t part = count - before < 8 ? 1 + random_below(random_below(2) == 0 ? 20 : in) : in;
        part = part < in - at ? part : in - at;
        pieces[count++] = (struct piece){in_gpa + at, part, true};
        at += part;
    }
    driver_add(&driver, pieces, count, random_below(2) == 0);
    virtio_kick_queue(device, 0);
    serve();
    block_drain(block);
    assert_true(driver_take(&driver, &id, &written));
    assert_int_equal(*(uint8_t *)gpa(in_gpa + in - 1), 0);
    assert_int_equal(*(uint8_t *)gpa(in_gpa + in), 0xee);
    assert_int_equal(written, in);
    if (!write) {
        assert_memory_equal(gpa(in_gpa), shadow + sector * 512, bytes);
    }
}

static void test_data(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 2; round++) {
        start(round == 0 ? VIRTIO_F_RING_PACKED : 0);
        for (unsigned i = 0; i < 800; i++) {
            random_request();
        }
    }
    assert_int_equal(request(FLUSH, 0, 0, 0, false, NULL), 0);
    static uint8_t file[DISK_BYTES];
    FILE *stream = fopen(path, "rb");
    assert_int_equal(fread(file, 1, sizeof(file), stream), sizeof(file));
    fclose(stream);
    assert_memory_equal(file, shadow, DISK_BYTES);
}

struct segment {
    uint64_t sector;
    uint32_t sectors, flags;
};

static unsigned segment_request(uint32_t type, uint64_t sector, uint32_t sectors, uint32_t flags, uint32_t bytes)
{
    struct segment segment = {sector, sectors, flags};
    memcpy(gpa(DATA_GPA), &segment, sizeof(segment));
    memcpy(gpa(DATA_GPA + 16), &segment, sizeof(segment));
    return request(type, 0, DATA_GPA, bytes, false, NULL);
}

static void test_statuses(void **state)
{
    uint32_t written;
    (void)state;
    start(0);
    assert_int_equal(request(GET_ID, 0, DATA_GPA, 20, true, &written), 0);
    assert_int_equal(written, 21);
    assert_memory_equal(gpa(DATA_GPA), "0123456789abcdefghij", 20);
    assert_int_equal(request(GET_ID, 0, DATA_GPA, 5, true, &written), 0);
    assert_int_equal(written, 6);
    assert_int_equal(request(99, 0, DATA_GPA, 20, true, &written), 2);
    assert_int_equal(written, 1);
    assert_int_equal(request(IN, DISK_SECTORS - 1, DATA_GPA, 512, true, NULL), 0);
    assert_int_equal(request(IN, DISK_SECTORS, DATA_GPA, 512, true, NULL), 1);
    assert_int_equal(request(IN, DISK_SECTORS - 1, DATA_GPA, 1024, true, NULL), 1);
    assert_int_equal(request(IN, UINT64_MAX, DATA_GPA, 512, true, NULL), 1);
    assert_int_equal(request(IN, UINT64_MAX / 512 + 1, DATA_GPA, 512, true, NULL), 1);
    assert_int_equal(request(IN, 0, DATA_GPA, 511, true, NULL), 1);
    assert_int_equal(request(OUT, 0, DATA_GPA, 513, false, NULL), 1);
    assert_int_equal(request(OUT, DISK_SECTORS, DATA_GPA, 512, false, NULL), 1);
    assert_int_equal(request(OUT, UINT64_MAX - 1, DATA_GPA, 1024, false, NULL), 1);
    assert_int_equal(request(IN, 0, 0, 0, false, NULL), 0); /* no data: nothing to do */

    assert_int_equal(segment_request(WRITE_ZEROES, 8, 8, 0, 16), 0);
    assert_int_equal(request(IN, 8, DATA_GPA, 4096, true, NULL), 0);
    for (unsigned i = 0; i < 4096; i++) {
        assert_int_equal(*(uint8_t *)gpa(DATA_GPA + i), 0);
    }
    assert_int_equal(segment_request(WRITE_ZEROES, 16, 8, 1, 16), 0); /* unmap */
    assert_int_equal(segment_request(DISCARD, 32, 64, 0, 16), 0);
    assert_int_equal(segment_request(DISCARD, 32, 64, 1, 16), 2);      /* unmap means nothing there */
    assert_int_equal(segment_request(WRITE_ZEROES, 32, 64, 2, 16), 2); /* a flag that is none */
    assert_int_equal(segment_request(DISCARD, 32, 64, 0, 32), 2);      /* two segments */
    assert_int_equal(segment_request(DISCARD, 32, 64, 0, 15), 2);
    assert_int_equal(segment_request(DISCARD, DISK_SECTORS - 8, 9, 0, 16), 1);
    assert_int_equal(segment_request(DISCARD, UINT64_MAX, 1, 0, 16), 1);
    assert_int_equal(segment_request(WRITE_ZEROES, 0, UINT32_MAX, 0, 16), 1);

    start(VIRTIO_F(13) | VIRTIO_F(14)); /* not negotiated */
    assert_int_equal(segment_request(DISCARD, 32, 64, 0, 16), 2);
    assert_int_equal(segment_request(WRITE_ZEROES, 32, 64, 0, 16), 2);
    assert_int_equal(virtio_status(device) & VIRTIO_STATUS_DEVICE_NEEDS_RESET, 0);
}

static void test_read_only(void **state)
{
    (void)state;
    struct virtio_blk_config config = config_default();
    virtio_blk_free(blk);
    block_close(block);
    open_disk(true);
    config.logical_block_size = 4096;
    new_device(&config);
    assert_true((device->offered & VIRTIO_F(5)) != 0);
    assert_int_equal(device->offered & (VIRTIO_F(13) | VIRTIO_F(14)), 0);
    start(0);
    assert_int_equal(request(IN, 8, DATA_GPA, 4096, true, NULL), 0);
    assert_memory_equal(gpa(DATA_GPA), shadow + 4096, 4096);
    assert_int_equal(request(IN, 1, DATA_GPA, 4096, true, NULL), 1); /* inside of a logical block */
    assert_int_equal(request(IN, 8, DATA_GPA, 512, true, NULL), 1);
    assert_int_equal(request(OUT, 8, DATA_GPA, 4096, false, NULL), 1);
    assert_int_equal(request(FLUSH, 0, 0, 0, false, NULL), 0);
}

/* What is no request: no header, half of one, no room for a status. */
static void test_no_request(void **state)
{
    (void)state;
    static const struct {
        struct piece pieces[2];
        unsigned count;
    } bad[] = {
        {{{HEADER_GPA, 16, false}}, 1},
        {{{STATUS_GPA, 1, true}}, 1},
        {{{HEADER_GPA, 15, false}, {STATUS_GPA, 1, true}}, 2},
        {{{DATA_GPA, 4096, true}, {STATUS_GPA, 1, true}}, 2},
    };
    for (unsigned packed = 0; packed < 2; packed++) {
        for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
            start(packed ? 0 : VIRTIO_F_RING_PACKED);
            put_header(IN, 0);
            config_interrupts = 0;
            driver_add(&driver, bad[i].pieces, bad[i].count, false);
            virtio_kick_queue(device, 0);
            serve();
            assert_true(virtio_status(device) & VIRTIO_STATUS_DEVICE_NEEDS_RESET);
            assert_int_equal(config_interrupts, 1);
            assert_int_equal(driver.queue->in_flight, 0);
        }
    }
    start(0);
    random_request();
}

static void test_config(void **state)
{
    struct error error;
    (void)state;
    start(0);
    assert_int_equal(virtio_config_read(device, 0, 8), DISK_SECTORS);
    assert_int_equal(virtio_config_read(device, 12, 4), 62);
    assert_int_equal(virtio_config_read(device, 20, 4), 512);
    assert_int_equal(virtio_config_read(device, 24, 1), 3); /* 8 logical blocks in a physical one */
    assert_int_equal(virtio_config_read(device, 34, 2), 2);
    assert_int_equal(virtio_config_read(device, 32, 1), 1);
    virtio_config_write(device, 32, 1, 0xfe);
    assert_int_equal(virtio_config_read(device, 32, 1), 0); /* write through */
    virtio_config_write(device, 0, 8, 1);
    assert_int_equal(virtio_config_read(device, 0, 8), DISK_SECTORS);
    unsigned generation = device->config_generation;
    config_interrupts = 0;
    assert_int_equal(block_resize(block, DISK_BYTES * 2, &error), 0);
    block_drain(block);
    assert_int_equal(virtio_config_read(device, 0, 8), DISK_SECTORS * 2);
    assert_int_equal(config_interrupts, 1);
    assert_int_not_equal(device->config_generation, generation);
    assert_int_equal(virtio_config_read(device, 32, 1), 0);
    assert_int_equal(request(IN, DISK_SECTORS, DATA_GPA, 512, true, NULL), 0);
    virtio_set_status(device, 0);
    assert_int_equal(virtio_config_read(device, 32, 1), 1);
}

static void *reset(void *opaque)
{
    virtio_set_status(opaque, 0);
    return NULL;
}

static void *reset_first(void *opaque)
{
    virtio_reset_queue(opaque, virtio_queue(opaque, 0));
    return NULL;
}

/* The vCPU waits until the disk has finished: nothing is written into guest memory afterwards. */
static void test_reset(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 50; round++) {
        pthread_t thread;
        start(round % 2 != 0 ? VIRTIO_F_RING_PACKED : 0);
        put_header(IN, 0);
        for (unsigned i = 0; i < 16; i++) {
            struct piece pieces[3] = {{HEADER_GPA, 16, false}, {DATA_GPA + i * 8192, 8192, true}, {STATUS_GPA + i, 1, true}};
            driver_add(&driver, pieces, 3, i % 2 == 0);
        }
        virtio_kick_queue(device, 0);
        serve();
        assert_int_equal(pthread_create(&thread, NULL, reset, device), 0);
        block_drain(block);
        pthread_join(thread, NULL);
        assert_int_equal(virtio_status(device), 0);
        memset(gpa(DATA_GPA), 0x77, 16 * 8192);
        block_drain(block);
        for (unsigned i = 0; i < 16 * 8192; i++) {
            assert_int_equal(*(uint8_t *)gpa(DATA_GPA + i), 0x77);
        }
    }
    /* And the end of the machine with requests under way. */
    start(0);
    put_header(IN, 0);
    struct piece pieces[3] = {{HEADER_GPA, 16, false}, {DATA_GPA, 65536, true}, {STATUS_GPA, 1, true}};
    driver_add(&driver, pieces, 3, false);
    virtio_kick_queue(device, 0);
    serve();
}

/* ---- werror, rerror ---- */

static struct run_watch *watched;
static unsigned stops;

static void run_stop(void *opaque, enum run_state state, const char *text)
{
    (void)opaque;
    assert_int_equal(state, RUN_STATE_IO_ERROR);
    assert_non_null(strstr(text, path));
    stops++;
}

static void run_watch(void *opaque, struct run_watch *watch)
{
    (void)opaque;
    watched = watch;
}

static void run_unwatch(void *opaque, struct run_watch *watch)
{
    (void)opaque;
    assert_ptr_equal(watched, watch);
    watched = NULL;
}

static const struct run_control run_control = {.stop = run_stop, .watch = run_watch, .unwatch = run_unwatch};

/* Writes behind half of the disk fail from now on (EFBIG), or do not. */
static void limit_file(bool on)
{
    struct rlimit limit;
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &limit);
    limit.rlim_cur = on ? DISK_BYTES / 2 : limit.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void renew(struct disk_errors errors, bool packed)
{
    struct virtio_blk_config config = config_default();
    config.errors = errors;
    virtio_blk_free(blk);
    new_device(&config);
    start(packed ? 0 : VIRTIO_F_RING_PACKED);
}

/* Writes of one sector each, from `sector` on. */
static void write_some(uint64_t sector, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        struct piece pieces[3] = {{HEADER_GPA + 16 * i, 16, false}, {DATA_GPA + 512 * i, 512, false}, {STATUS_GPA + i, 1, true}};
        const uint64_t header[2] = {OUT, sector + i};
        memcpy(gpa(HEADER_GPA + 16 * i), header, 16);
        memset(gpa(DATA_GPA + 512 * i), (int)(sector + i), 512);
        driver_add(&driver, pieces, 3, false);
    }
    memset(gpa(STATUS_GPA), 0xff, count);
    virtio_kick_queue(device, 0);
    serve();
    block_drain(block);
}

static unsigned take_all(unsigned status)
{
    uint16_t id;
    uint32_t written;
    unsigned taken = 0;
    for (; driver_take(&driver, &id, &written); taken++) {
        assert_int_equal(*(uint8_t *)gpa(STATUS_GPA + taken), status);
    }
    return taken;
}

/* A request that has failed waits until the machine goes on, and is made again; a reset gives it up. */
static void test_stop(void **state)
{
    const uint64_t far = DISK_SECTORS / 2 + 100;
    uint8_t sector[512];
    (void)state;
    for (unsigned packed = 0; packed < 2; packed++) {
        renew((struct disk_errors){DISK_ERROR_STOP, DISK_ERROR_REPORT, &run_control}, packed);
        limit_file(true);
        stops = 0;
        write_some(far, 8);
        assert_int_equal(take_all(0), 0);
        assert_int_equal(stops, 8);
        assert_int_equal(driver.queue->in_flight, 8);
        watched->changed(watched->opaque, false);
        block_drain(block);
        assert_int_equal(stops, 8);
        watched->changed(watched->opaque, true); /* too early: it stops again */
        block_drain(block);
        assert_int_equal(stops, 16);
        assert_int_equal(take_all(0), 0);
        limit_file(false);
        watched->changed(watched->opaque, true);
        block_drain(block);
        assert_int_equal(take_all(0), 8);
        for (unsigned i = 0; i < 8; i++) {
            block_read(block, (far + i) * 512, sector, 512);
            assert_int_equal(sector[511], (uint8_t)(far + i));
        }
        /* Bus mastering is taken away, and a reset: nobody waits any more. */
        limit_file(true);
        write_some(far, 3);
        virtio_set_master(device, false);
        assert_int_equal(take_all(1), 3);
        virtio_set_master(device, true);
        write_some(far, 3);
        assert_int_equal(driver.queue->in_flight, 3);
        virtio_set_status(device, 0);
        assert_int_equal(device->queues[0].in_flight, 0);
        watched->changed(watched->opaque, true);
        block_drain(block);
        limit_file(false);
    }
    assert_int_equal(virtio_status(device), 0);
}

static void test_error_actions(void **state)
{
    const uint64_t far = DISK_SECTORS / 2 + 100;
    const struct disk_errors full = {DISK_ERROR_ENOSPC, DISK_ERROR_STOP, &run_control}, nobody = {DISK_ERROR_STOP, DISK_ERROR_IGNORE, NULL};
    (void)state;
    assert_int_equal(disk_error_action(&full, false, -ENOSPC), DISK_ERROR_STOP);
    assert_int_equal(disk_error_action(&full, false, -EIO), DISK_ERROR_REPORT);
    assert_int_equal(disk_error_action(&full, true, -EIO), DISK_ERROR_STOP);
    assert_int_equal(disk_error_action(&nobody, false, -EIO), DISK_ERROR_REPORT);
    assert_int_equal(disk_error_action(&nobody, true, -EIO), DISK_ERROR_IGNORE);
    static const enum disk_error_action actions[] = {DISK_ERROR_REPORT, DISK_ERROR_IGNORE, DISK_ERROR_ENOSPC};
    for (unsigned i = 0; i < 3; i++) {
        renew((struct disk_errors){actions[i], DISK_ERROR_REPORT, &run_control}, i % 2 != 0);
        limit_file(true);
        stops = 0;
        write_some(far, 4);
        limit_file(false);
        assert_int_equal(stops, 0);
        assert_int_equal(take_all(actions[i] == DISK_ERROR_IGNORE ? 0 : 1), 4);
    }
}

/* Several queues at once, each with its requests, and a reset of one of them while the others work. */
static void test_queues(void **state)
{
    struct driver drivers[2];
    uint16_t id;
    uint32_t written;
    (void)state;
    assert_true(driver_negotiate(device, device->offered));
    for (unsigned q = 0; q < 2; q++) {
        driver_init_queue(&drivers[q], device, q, 64);
    }
    driver_ok(device);
    put_header(IN, 8);
    for (unsigned round = 0; round < 20; round++) {
        for (unsigned q = 0; q < 2; q++) {
            for (unsigned i = 0; i < 8; i++) {
                struct piece pieces[3] = {{HEADER_GPA, 16, false}, {DATA_GPA + (q * 8 + i) * 4096, 4096, true}, {STATUS_GPA + q * 8 + i, 1, true}};
                driver_add(&drivers[q], pieces, 3, i % 2 == 0);
            }
            virtio_kick_queue(device, q);
        }
        serve();
        assert_int_equal(device->queues[0].in_flight, 8);
        assert_int_equal(device->queues[1].in_flight, 8);
        block_drain(block);
        for (unsigned q = 0; q < 2; q++) {
            for (unsigned i = 0; i < 8; i++) {
                assert_true(driver_take(&drivers[q], &id, &written));
                assert_memory_equal(gpa(DATA_GPA + (q * 8 + i) * 4096), shadow + 4096, 4096);
            }
        }
        memset(gpa(DATA_GPA), 0, 16 * 4096);
    }
    /* Nothing comes back to a queue that was reset. */
    pthread_t thread;
    for (unsigned q = 0; q < 2; q++) {
        struct piece pieces[3] = {{HEADER_GPA, 16, false}, {DATA_GPA + q * 4096, 4096, true}, {STATUS_GPA + q, 1, true}};
        driver_add(&drivers[q], pieces, 3, false);
        virtio_kick_queue(device, q);
    }
    serve();
    assert_int_equal(pthread_create(&thread, NULL, reset_first, device), 0);
    for (bool resetting = false; !resetting; sched_yield()) {
        virtio_lock(device);
        resetting = device->queues[0].resetting || !device->queues[0].enabled;
        virtio_unlock(device);
    }
    block_drain(block);
    pthread_join(thread, NULL);
    assert_false(device->queues[0].enabled);
    assert_true(driver_take(&drivers[1], &id, &written));
}

/* ---- rng ---- */

static void test_rng(void **state)
{
    struct error error;
    struct virtio_rng_config config = {.virtio = virtio_options_default, .max_bytes = UINT64_MAX};
    struct virtio_rng *rng = virtio_rng_new(&config, &loop, &memory_dma, &error);
    struct virtio_device *blk_device = device;
    struct piece pieces[2] = {{DATA_GPA, 100, true}, {DATA_GPA + 4096, 60000, true}};
    uint16_t id;
    uint32_t written;
    (void)state;
    device = virtio_rng_device(rng);
    device->transport = &test_transport;
    assert_true(driver_negotiate(device, device->offered));
    driver_init_queue(&driver, device, 0, 8);
    driver_ok(device);
    memset(gpa(DATA_GPA), 0, 0x20000);
    driver_add(&driver, pieces, 2, false);
    virtio_kick_queue(device, 0);
    serve();
    assert_true(driver_take(&driver, &id, &written));
    assert_int_equal(written, 60100);
    unsigned zeroes = 0;
    for (unsigned i = 0; i < 60000; i++) {
        zeroes += *(uint8_t *)gpa(DATA_GPA + 4096 + i) == 0;
    }
    assert_in_range(zeroes, 100, 500); /* 234 are expected */
    assert_int_equal(*(uint8_t *)gpa(DATA_GPA + 100), 0);
    /* A buffer that cannot be written comes back with nothing. */
    pieces[0].write = false;
    driver_add(&driver, pieces, 1, false);
    virtio_kick_queue(device, 0);
    serve();
    assert_true(driver_take(&driver, &id, &written));
    assert_int_equal(written, 0);
    virtio_rng_free(rng);

    /* A limit: what is over it waits for the next period. */
    config.max_bytes = 50;
    config.period_ms = 20;
    rng = virtio_rng_new(&config, &loop, &memory_dma, &error);
    device = virtio_rng_device(rng);
    device->transport = &test_transport;
    assert_true(driver_negotiate(device, device->offered));
    driver_init_queue(&driver, device, 0, 8);
    driver_ok(device);
    for (unsigned i = 0; i < 2; i++) {
        pieces[0] = (struct piece){DATA_GPA, 100, true};
        driver_add(&driver, pieces, 1, false);
    }
    virtio_kick_queue(device, 0);
    serve();
    assert_true(driver_take(&driver, &id, &written));
    assert_int_equal(written, 50);
    assert_false(driver_take(&driver, &id, &written));
    virtio_rng_free(rng);
    device = blk_device;

    config = (struct virtio_rng_config){.filename = "/nowhere/random", .max_bytes = UINT64_MAX};
    assert_null(virtio_rng_new(&config, &loop, &memory_dma, &error));
    assert_non_null(strstr(error.text, "/nowhere/random"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_data, setup, teardown),      cmocka_unit_test_setup_teardown(test_statuses, setup, teardown),
        cmocka_unit_test_setup_teardown(test_read_only, setup, teardown), cmocka_unit_test_setup_teardown(test_no_request, setup, teardown),
        cmocka_unit_test_setup_teardown(test_config, setup, teardown),    cmocka_unit_test_setup_teardown(test_reset, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stop, setup, teardown),      cmocka_unit_test_setup_teardown(test_error_actions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_queues, setup, teardown),    cmocka_unit_test_setup_teardown(test_rng, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
