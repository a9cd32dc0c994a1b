/* SPDX-License-Identifier: MIT */
/*
 * The front end of disks, on raw files: requests of all kinds by io_uring and by threads, in loops and without, with and without O_DIRECT; limits,
 * locks, and what is refused.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "block/block.h"

#define DISK_BYTES (1u << 20)

static char path[] = "/var/tmp/test-block-XXXXXX"; /* not a tmpfs: O_DIRECT */

static int setup(void **state)
{
    (void)state;
    int fd = mkstemp(path);
    return fd < 0 || ftruncate(fd, DISK_BYTES) != 0 || close(fd) != 0;
}

static int teardown(void **state)
{
    (void)state;
    return unlink(path);
}

static struct block *open_disk(enum block_aio aio, bool direct)
{
    struct block_config config = {.filename = path, .format = "raw", .aio = aio, .cache_direct = direct};
    struct error error = {""};
    struct block *block = block_open(&config, &error);
    assert_string_equal(error.text, "");
    assert_non_null(block);
    return block;
}

struct work {
    struct block_request request;
    struct iovec iov[3];
    uint8_t buffer[3 * 8192];
    struct loop *loop;
    unsigned *left;
    int result;
};

static void work_done(struct block_request *request, int result)
{
    struct work *work = request->opaque;
    work->result = result;
    if (--*work->left == 0 && work->loop != NULL) {
        loop_stop(work->loop);
    }
}

/* 32 scattered requests at once, of lengths and offsets that are aligned to nothing; then what they left is compared with a copy in memory. */
static void many(enum block_aio aio, bool direct, bool with_loop)
{
    struct block *block = open_disk(aio, direct);
    struct loop loop;
    uint8_t *copy = malloc(DISK_BYTES), *all = malloc(DISK_BYTES);
    struct work *works = calloc(32, sizeof(*works));
    assert_int_equal(loop_init(&loop), 0);
    if (with_loop) {
        assert_int_equal(block_attach(block, &loop), 0);
    }
    assert_int_equal(block_read(block, 0, copy, DISK_BYTES), 0);
    srand(7);
    for (unsigned round = 0; round < 20; round++) {
        unsigned left = 32;
        block_plug(block);
        for (unsigned i = 0; i < 32; i++) {
            struct work *work = &works[i];
            /* Each in its own 32 KiB, so that the outcome is certain. */
            uint64_t offset = i * 32768u + (unsigned)rand() % 8192, bytes = 0;
            for (unsigned j = 0; j < 3; j++) {
                work->iov[j] = (struct iovec){work->buffer + j * 8192, (unsigned)rand() % 8192};
                bytes += work->iov[j].iov_len;
            }
            if (round % 4 == 0) {
                offset &= ~UINT64_C(4095);
                work->iov[0] = (struct iovec){work->buffer, 4096};
                bytes = 4096;
            }
            static const enum block_op ops[] = {BLOCK_WRITE, BLOCK_READ, BLOCK_WRITE_ZEROES, BLOCK_FLUSH, BLOCK_WRITE};
            work->request = (struct block_request){.op = ops[rand() % 5], .offset = offset, .bytes = bytes, .iov = work->iov,
                                                   .iov_count = round % 4 == 0 ? 1 : 3, .done = work_done, .opaque = work};
            work->request.flags = rand() % 2 ? BLOCK_FUA : 0;
            work->left = &left;
            work->loop = with_loop ? &loop : NULL;
            memset(work->buffer, rand(), sizeof(work->buffer));
            uint8_t *to = copy + offset;
            for (unsigned j = 0; j < work->request.iov_count; j++) {
                if (work->request.op == BLOCK_WRITE) {
                    memcpy(to, work->iov[j].iov_base, work->iov[j].iov_len);
                } else if (work->request.op == BLOCK_WRITE_ZEROES) {
                    memset(to, 0, work->iov[j].iov_len);
                }
                to += work->iov[j].iov_len;
            }
            block_submit(block, &work->request);
        }
        block_unplug(block);
        if (with_loop) {
            loop_run(&loop);
        } else {
            block_drain(block);
        }
        assert_int_equal(left, 0);
        for (unsigned i = 0; i < 32; i++) {
            struct work *work = &works[i];
            assert_int_equal(work->result, 0);
            uint8_t *from = copy + work->request.offset;
            for (unsigned j = 0; work->request.op == BLOCK_READ && j < work->request.iov_count; j++) {
                assert_memory_equal(from, work->iov[j].iov_base, work->iov[j].iov_len);
                from += work->iov[j].iov_len;
            }
        }
    }
    if (with_loop) {
        assert_int_equal(block_attach(block, NULL), 0);
    }
    assert_int_equal(block_read(block, 0, all, DISK_BYTES), 0);
    assert_memory_equal(all, copy, DISK_BYTES);
    block_close(block);
    loop_fini(&loop);
    free(works);
    free(copy);
    free(all);
}

static void test_many(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 8; i++) {
        many(i & 1 ? BLOCK_AIO_THREADS : BLOCK_AIO_AUTO, i & 2, i & 4);
    }
}

/* What overlaps and changes is done in the order of submission. */
static void test_order(void **state)
{
    (void)state;
    struct block *block = open_disk(BLOCK_AIO_AUTO, false);
    struct work *works = calloc(64, sizeof(*works));
    unsigned left = 64;
    for (unsigned i = 0; i < 64; i++) {
        struct work *work = &works[i];
        memset(work->buffer, (int)i + 1, 4096);
        work->left = &left;
        work->iov[0] = (struct iovec){work->buffer, 4096};
        work->request = (struct block_request){.op = i % 2 ? BLOCK_READ : i % 4 ? BLOCK_WRITE_ZEROES : BLOCK_WRITE, .offset = 0, .bytes = 4096,
                                               .iov = work->iov, .iov_count = 1, .done = work_done, .opaque = work};
        block_submit(block, &work->request);
        if (i % 4 < 2) {
            block_drain(block); /* plain requests may pass each other, and are not ordered */
        }
    }
    block_drain(block);
    for (unsigned i = 1; i < 64; i += 2) {
        assert_int_equal(works[i].result, 0);
        assert_int_equal(works[i].buffer[4095], i % 4 == 1 ? i : 0);
    }
    block_close(block);
    free(works);
}

static void test_refused(void **state)
{
    (void)state;
    struct block *block = open_disk(BLOCK_AIO_AUTO, false);
    uint8_t sector[512];
    assert_int_equal(block_read(block, DISK_BYTES, sector, 512), -EINVAL);
    assert_int_equal(block_read(block, UINT64_MAX - 10, sector, 512), -EINVAL);
    assert_int_equal(block_write(block, DISK_BYTES - 511, sector, 512, 0), -EINVAL);

    /* Two writers, or a writer and a reader, have not one image; -U looks on. */
    struct block_config config = {.filename = path, .format = "raw"};
    struct error error = {""};
    assert_null(block_open(&config, &error));
    assert_non_null(strstr(error.text, "\"write\" lock"));
    config.read_only = true;
    assert_null(block_open(&config, &error));
    config.force_share = true;
    struct block *looker = block_open(&config, &error);
    assert_non_null(looker);
    assert_int_equal(block_write(looker, 0, sector, 512, 0), -EROFS);
    block_close(looker);
    block_close(block);

    config = (struct block_config){.filename = path};
    assert_null(block_open(&config, &error));
    assert_non_null(strstr(error.text, "never guessed"));
    config.format = "vmdk";
    assert_null(block_open(&config, &error));
    assert_non_null(strstr(error.text, "Unknown driver 'vmdk'"));
    config = (struct block_config){.filename = "/var/tmp", .format = "raw", .read_only = true};
    assert_null(block_open(&config, &error));
}

static void test_resize(void **state)
{
    (void)state;
    struct block *block = open_disk(BLOCK_AIO_AUTO, false);
    struct error error = {""};
    uint8_t sector[512];
    memset(sector, 1, sizeof(sector));
    assert_int_equal(block_resize(block, DISK_BYTES + 1, &error), -EINVAL);
    assert_int_equal(block_resize(block, DISK_BYTES + 512, &error), 0);
    assert_int_equal(block_read(block, DISK_BYTES, sector, 512), 0);
    assert_int_equal(sector[0], 0);
    assert_int_equal(block_resize(block, DISK_BYTES, &error), 0);
    assert_int_equal(block_bytes(block), DISK_BYTES);
    block_close(block);
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void test_throttle(void **state)
{
    (void)state;
    struct block_config config = {.filename = path, .format = "raw", .throttle = {.iops_total = {.rate = 100}, .bps_write = {.rate = 1 << 20}}};
    struct error error = {""};
    struct block *block = block_open(&config, &error);
    uint8_t buffer[65536] = {0};
    double start = seconds();
    for (unsigned i = 0; i < 40; i++) {
        assert_int_equal(block_read(block, 0, buffer, 512), 0);
    }
    double took = seconds() - start; /* 40 at 100 a second, less a burst of a tenth */
    assert_true(took > 0.25 && took < 5);
    start = seconds();
    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(block_write(block, 0, buffer, sizeof(buffer), 0), 0);
    }
    took = seconds() - start; /* half a MiB at one MiB a second, less the burst and the last one */
    assert_true(took > 0.3 && took < 5);
    block_close(block);
}

/* How long `count` reads of 4096 bytes take, from one disk and another in turn. */
static double timed_reads(struct block *block, struct block *other, unsigned count)
{
    uint8_t buffer[4096];
    double start = seconds();
    for (unsigned i = 0; i < count; i++) {
        assert_int_equal(block_read(i % 2 ? other : block, 0, buffer, sizeof(buffer)), 0);
    }
    return seconds() - start;
}

static void test_throttle_group(void **state)
{
    (void)state;
    struct block_config config = {.filename = path, .format = "raw", .read_only = true, .throttle = {.iops_total = {.rate = 100}}};
    struct error error = {""};
    struct block *block = block_open(&config, &error);
    config.throttle_with = block;
    config.throttle = (struct block_throttle){0};
    struct block *other = block_open(&config, &error);
    assert_true(block != NULL && other != NULL);
    double took = timed_reads(block, other, 50); /* 100 a second for both together, less a burst of ten */
    assert_true(took > 0.35 && took < 5);
    block_close(block); /* the group outlives it */
    took = timed_reads(other, other, 40);
    assert_true(took > 0.35 && took < 5);
    block_close(other);
}

static void test_throttle_burst(void **state)
{
    (void)state;
    /* 200 at once, then 50 a second; of requests that count double. */
    struct block_config config = {.filename = path, .format = "raw", .read_only = true,
                                  .throttle = {.iops_total = {.rate = 50, .burst = 200}, .iops_size = 2048}};
    struct error error = {""};
    struct block *block = block_open(&config, &error);
    assert_non_null(block);
    assert_true(timed_reads(block, block, 90) < 0.3);
    double took = timed_reads(block, block, 30);
    assert_true(took > 0.5 && took < 5);
    block_close(block);
    /* 400 a second for two seconds, then 10 a second. */
    config.throttle = (struct block_throttle){.iops_total = {.rate = 10, .burst = 400, .burst_s = 2}};
    block = block_open(&config, &error);
    assert_non_null(block);
    took = timed_reads(block, block, 200); /* less a tenth of a second's worth */
    assert_true(took > 0.3 && took < 1.5);
    block_close(block);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_many),    cmocka_unit_test(test_order),    cmocka_unit_test(test_refused),
        cmocka_unit_test(test_resize),  cmocka_unit_test(test_throttle),
        cmocka_unit_test(test_throttle_group), cmocka_unit_test(test_throttle_burst),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
