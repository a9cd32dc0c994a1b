/* SPDX-License-Identifier: MIT */
/*
 * The front end of disks on qcow2: many requests at once, plain ones and such that change the mapping, against a model; reads that go to the backing
 * file and into compressed clusters beside them; locks, and images that are refused.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "block/block.h"
#include "block/node.h"
#include "block/qcow2_create.h"

#define DISK_BYTES (2u << 20)
#define LANES 32u /* requests under way; each has 64 KiB of the disk, so that the outcome is certain */

static char directory[] = "/var/tmp/test-qcow2-XXXXXX", image[64], base[64];

static void create(const char *path, const struct qcow2_create_options *options)
{
    struct error error = {""};
    struct node_options open_options = {0};
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    close(fd);
    struct block_node *file = node_open_file(path, &open_options, &error);
    assert_non_null(file);
    assert_int_equal(qcow2_create(file, options, &error), 0);
    assert_int_equal(node_close(file), 0);
}

static int setup(void **state)
{
    (void)state;
    if (mkdtemp(directory) == NULL) {
        return -1;
    }
    strcat(strcpy(image, directory), "/image");
    strcat(strcpy(base, directory), "/base");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unlink(image);
    unlink(base);
    return rmdir(directory);
}

struct lane {
    struct block_request request;
    struct iovec iov[2];
    uint8_t buffer[65536], *model;
    unsigned left;
    uint64_t random;
    struct block *block;
    bool wrong;
};

static uint64_t lane_random(struct lane *lane)
{
    lane->random ^= lane->random << 13;
    lane->random ^= lane->random >> 7;
    lane->random ^= lane->random << 17;
    return lane->random;
}

static void lane_next(struct lane *lane);

static void lane_done(struct block_request *request, int result)
{
    struct lane *lane = request->opaque;
    unsigned at = (unsigned)(request->offset % 65536);
    lane->wrong |= result != 0;
    if (request->op == BLOCK_READ) {
        lane->wrong |= memcmp(lane->buffer, lane->model + at, request->bytes) != 0;
    }
    lane_next(lane);
}

static void lane_next(struct lane *lane)
{
    static const enum block_op ops[] = {BLOCK_READ, BLOCK_READ, BLOCK_READ, BLOCK_WRITE, BLOCK_WRITE, BLOCK_WRITE, BLOCK_WRITE_ZEROES, BLOCK_FLUSH};
    if (lane->left == 0) {
        return;
    }
    lane->left--;
    uint64_t first = lane->request.offset - lane->request.offset % 65536;
    unsigned at = (unsigned)(lane_random(lane) % 65536) & ~511u, bytes = 512 * (1 + (unsigned)(lane_random(lane) % 32));
    bytes = bytes < 65536 - at ? bytes : 65536 - at;
    enum block_op op = ops[lane_random(lane) % 8];
    unsigned split = (unsigned)(lane_random(lane) % (bytes + 1));
    lane->iov[0] = (struct iovec){lane->buffer, split};
    lane->iov[1] = (struct iovec){lane->buffer + split, bytes - split};
    if (op == BLOCK_WRITE) {
        memset(lane->buffer, (int)lane_random(lane), bytes);
        memcpy(lane->model + at, lane->buffer, bytes);
    } else if (op == BLOCK_WRITE_ZEROES) {
        memset(lane->model + at, 0, bytes);
    }
    lane->request = (struct block_request){.op = op, .offset = first + at, .bytes = bytes, .iov = lane->iov, .iov_count = 2, .done = lane_done, .opaque = lane};
    lane->request.flags = (lane_random(lane) % 8 == 0 ? BLOCK_FUA : 0) | (lane_random(lane) % 2 ? BLOCK_UNMAP : 0);
    block_submit(lane->block, &lane->request);
}

static void lanes(const struct qcow2_create_options *options, enum block_aio aio, bool direct)
{
    struct error error = {""};
    struct node_options open_options = {0};
    uint8_t *model = malloc(DISK_BYTES), *all = malloc(DISK_BYTES);
    /* Below: a base of which some clusters are compressed. */
    create(base, &(struct qcow2_create_options){.size = DISK_BYTES, .version = 3, .cluster_bits = 16, .refcount_bits = 16});
    struct block_node *node = node_open(base, "qcow2", &open_options, &error);
    assert_non_null(node);
    for (unsigned i = 0; i < DISK_BYTES; i++) {
        model[i] = (uint8_t)(i >> 12);
    }
    for (unsigned i = 0; i < DISK_BYTES; i += 131072) {
        assert_int_equal(node_write_compressed(node, i, model + i, 65536), 0);
        assert_int_equal(node_write(node, i + 65536, model + i + 65536, 65536), 0);
    }
    assert_int_equal(node_close(node), 0);
    create(image, options);
    struct block_config config = {.filename = image, .format = "qcow2", .aio = aio, .cache_direct = direct};
    struct block *block = block_open(&config, &error);
    assert_string_equal(error.text, "");
    struct lane *all_lanes = calloc(LANES, sizeof(*all_lanes));
    for (unsigned i = 0; i < LANES; i++) {
        all_lanes[i].model = model + i * 65536u;
        all_lanes[i].request.offset = i * UINT64_C(65536);
        all_lanes[i].left = 150;
        all_lanes[i].random = (i + 1) * UINT64_C(0x9e3779b97f4a7c15) + 7;
        all_lanes[i].block = block;
        lane_next(&all_lanes[i]);
    }
    block_drain(block);
    for (unsigned i = 0; i < LANES; i++) {
        assert_int_equal(all_lanes[i].left, 0);
        assert_false(all_lanes[i].wrong);
    }
    assert_int_equal(block_read(block, 0, all, DISK_BYTES), 0);
    assert_memory_equal(all, model, DISK_BYTES);
    block_close(block);
    /* And on the disk. */
    struct node_options read_only = {.read_only = true};
    node = node_open(image, "qcow2", &read_only, &error);
    assert_non_null(node);
    struct node_check check = {0};
    assert_int_equal(node->driver->check(node, 0, &check), 0);
    assert_int_equal(check.corruptions + check.leaks + check.check_errors, 0);
    assert_int_equal(node_read(node, 0, all, DISK_BYTES), 0);
    assert_memory_equal(all, model, DISK_BYTES);
    assert_int_equal(node_close(node), 0);
    free(all_lanes);
    free(model);
    free(all);
}

static void test_lanes(void **state)
{
    (void)state;
    struct qcow2_create_options options = {.size = DISK_BYTES, .version = 3, .cluster_bits = 16, .refcount_bits = 16, .backing_file = base, .backing_format = "qcow2"};
    lanes(&options, BLOCK_AIO_AUTO, false);
    lanes(&options, BLOCK_AIO_THREADS, true);
    options.extended_l2 = true;
    lanes(&options, BLOCK_AIO_AUTO, true);
    options.extended_l2 = false;
    options.cluster_bits = 9;
    lanes(&options, BLOCK_AIO_AUTO, true);
    options.cluster_bits = 12;
    options.lazy_refcounts = true;
    lanes(&options, BLOCK_AIO_THREADS, false);
}

static void patch(const char *path, uint64_t at, const void *data, size_t bytes)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, data, bytes, (off_t)at), bytes);
    close(fd);
}

static void expect_refused(const char *why)
{
    struct block_config config = {.filename = image, .format = "qcow2"};
    struct error error = {""};
    if (block_open(&config, &error) != NULL) {
        fail_msg("opened in spite of '%s'", why);
    }
    if (strstr(error.text, why) == NULL) {
        fail_msg("'%s' is not in '%s'", why, error.text);
    }
}

/* Header fields that make no sense, features that are not there. */
static void test_refused(void **state)
{
    (void)state;
    static const struct {
        unsigned at;
        uint8_t bytes[8];
        unsigned count;
        const char *why;
    } rows[] = {
        {0, {'Q', 'F', 'I', 0}, 4, "not in qcow2 format"},
        {4, {0, 0, 0, 4}, 4, "Unsupported qcow2 version 4"},
        {8, {0, 0, 0, 0, 0, 1, 0, 1}, 8, "Invalid backing file offset"},
        {20, {0, 0, 0, 8}, 4, "Unsupported cluster size"},
        {20, {0, 0, 0, 22}, 4, "Unsupported cluster size"},
        {24, {0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 8, "L1 table is too small"},
        {32, {0, 0, 0, 1}, 4, "encrypted"},
        {36, {0x10, 0, 0, 0}, 4, "Active L1 table"},
        {40, {0, 0, 0, 0, 0, 0, 0x10, 0}, 8, "Active L1 table"},
        {48, {0, 0, 0, 0, 0, 0, 0x10, 0}, 8, "Reference count table"},
        {56, {0, 0, 0, 0}, 4, "does not contain a reference count table"},
        {56, {0, 1, 0, 0}, 4, "Reference count table"},
        {60, {1, 0, 0, 0}, 4, "Could not read snapshots"},
        {72, {0, 0, 0, 0, 0, 0, 0, 2}, 8, "Image is corrupt"},
        {72, {0, 0, 0, 0, 0, 0, 0, 4}, 8, "external file"},
        {72, {0, 0, 0, 0, 0, 0, 0, 8}, 8, "unknown compression type"},
        {72, {0, 0, 0, 0, 0, 0, 0, 32}, 8, "Unsupported qcow2 feature"},
        {96, {0, 0, 0, 7}, 4, "Reference count entry width too large"},
        {100, {0, 0, 0, 8}, 4, "qcow2 header too short"},
        {100, {0, 2, 0, 0}, 4, "qcow2 header too large"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        create(image, &(struct qcow2_create_options){.size = DISK_BYTES, .version = 3, .cluster_bits = 16, .refcount_bits = 16});
        patch(image, rows[i].at, rows[i].bytes, rows[i].count);
        expect_refused(rows[i].why);
    }
    /* A backing file of which the image does not say the format, and a chain that bites its tail. */
    create(image, &(struct qcow2_create_options){.size = DISK_BYTES, .version = 3, .cluster_bits = 16, .refcount_bits = 16, .backing_file = base});
    expect_refused("does not say the format");
    create(image, &(struct qcow2_create_options){.size = DISK_BYTES, .version = 3, .cluster_bits = 16, .refcount_bits = 16, .backing_file = base, .backing_format = "qcow2"});
    create(base, &(struct qcow2_create_options){.size = DISK_BYTES, .version = 3, .cluster_bits = 16, .refcount_bits = 16, .backing_file = base, .backing_format = "qcow2"});
    expect_refused("Could not open backing file");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_lanes), cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
