/* SPDX-License-Identifier: MIT */
/*
 * libFuzzer harness of qcow2: the input is a small program of operations (open, read, write, zero, discard, compress, snapshots, bitmaps, resize, amend, check, repair)
 * and an image that they are done to. A hostile image may be refused or fail; a signal, a sanitizer's report or a hang is a bug. And an
 * image that our own check finds sound must still be sound after writes. FUZZ_QCOW2_SEEDS=DIR writes seeds there and ends.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../block/testnode.h"
#include "block/qcow2.h"

#define PROGRAM_BYTES 64u
#define IO_MAX (256u << 10)

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t bytes);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static uint8_t buffer[IO_MAX];

/* Sizes of tables are the image's to say, and large ones take long to walk: that is no bug. */
static bool too_large(const uint8_t *image, size_t bytes)
{
    return bytes < 72 || qcow2_get32(image + 36) > 2048 || qcow2_get64(image + 24) > UINT64_C(1) << 34 || qcow2_get32(image + 56) > 64 ||
           qcow2_get32(image + 60) > 64;
}

static uint64_t number(const uint8_t *at, uint64_t limit)
{
    uint32_t value;
    memcpy(&value, at, 4);
    return limit != 0 ? ((uint64_t)value << 9) % limit : 0;
}

static void operate(struct block_node *node, const uint8_t *op)
{
    struct error error;
    uint64_t offset = number(op + 1, node->bytes), count = ((uint64_t)op[5] << 8 | op[6]) * 8 % IO_MAX;
    count = count < node->bytes - offset ? count : node->bytes - offset;
    char name[2] = {(char)('a' + op[7] % 4), 0};
    struct node_info info;
    struct node_bits bits;
    struct node_amend amend;
    switch (op[0] % 16) {
    case 0:
        node_read(node, offset, buffer, count);
        break;
    case 1:
    case 2:
        memset(buffer, op[7], count);
        node_write(node, offset, buffer, count);
        break;
    case 3:
        node_write_zeroes(node, offset, count, op[7] & 1);
        break;
    case 4:
        node_discard(node, offset, count);
        break;
    case 5:
        node->driver->info(node, &info);
        offset -= offset % info.cluster_bytes;
        count = info.cluster_bytes < IO_MAX ? info.cluster_bytes : IO_MAX;
        if (count <= node->bytes - offset) {
            memset(buffer, op[7], count);
            node_write_compressed(node, offset, buffer, count);
        }
        break;
    case 6:
        node->driver->snapshot_create(node, name, &error);
        break;
    case 7:
        node->driver->snapshot_apply(node, name, &error);
        break;
    case 8:
        node->driver->snapshot_delete(node, name, &error);
        break;
    case 9:
        node_resize(node, number(op + 1, UINT64_C(1) << 26), op[7] % 2, &error);
        break;
    case 10:
        node_flush(node);
        break;
    case 11:
        node->driver->bitmap_change(node, name, (enum node_bitmap_action)(op[6] % 5), 512u << op[5] % 16, &error);
        break;
    case 12:
        if (node->driver->bitmap_read(node, name, &bits, &error) == 0) {
            name[0] = (char)('a' + op[6] % 4);
            node->driver->bitmap_merge(node, name, &bits, &error);
            free(bits.bits);
        }
        break;
    case 13:
        amend = (struct node_amend){.version = op[5] % 4 == 0 ? 2 : 3, .refcount_bits = op[6] % 2 ? 1u << op[6] / 2 % 7 : 0, .has_lazy = op[7] & 1, .lazy = op[7] >> 1 & 1};
        node->driver->amend(node, &amend, &error);
        break;
    default:
        node->driver->check(node, op[7] & 3, &(struct node_check){0});
    }
}

static bool sound(struct testnode *disk)
{
    struct node_options options = {.no_lock = true, .check = true, .read_only = true, .no_backing = true};
    struct error error;
    struct block_node *node = node_open_format(&qcow2_driver, testnode_open(disk), &options, &error);
    struct node_check check = {0};
    if (node == NULL) {
        return false;
    }
    int result = node->driver->check(node, 0, &check);
    struct node_info info;
    node->driver->info(node, &info);
    node_close(node);
    return result == 0 && check.corruptions == 0 && check.check_errors == 0 && !info.corrupt;
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t bytes)
{
    if (bytes < PROGRAM_BYTES || too_large(input + PROGRAM_BYTES, bytes - PROGRAM_BYTES)) {
        return 0;
    }
    struct testnode disk = {0};
    testnode_set(&disk, input + PROGRAM_BYTES, bytes - PROGRAM_BYTES);
    bool good = sound(&disk);
    struct node_options options = {.no_lock = true, .no_backing = true, .check = !good && (input[0] & 0x80)};
    struct error error = {""};
    struct block_node *node = node_open_format(&qcow2_driver, testnode_open(&disk), &options, &error);
    if (node != NULL) {
        struct node_snapshot snapshot;
        struct node_bitmap bitmap;
        struct block_extent extent;
        node->driver->snapshot_get(node, 0, &snapshot);
        node->driver->bitmap_get(node, 0, &bitmap);
        if (node->bytes > 0) {
            node_map(node, 0, node->bytes, &extent);
        }
        for (unsigned i = 0; i < PROGRAM_BYTES; i += 8) {
            operate(node, input + i);
        }
        node_close(node);
        if (good && !sound(&disk)) {
            fputs("a sound image is not sound any more\n", stderr);
            abort();
        }
    }
    testnode_free(&disk);
    return 0;
}

static void seed(const char *directory, unsigned index, const struct qcow2_create_options *options)
{
    struct testnode disk = {0};
    struct error error;
    struct node_options open = {.no_lock = true, .no_backing = true};
    struct block_node *file = testnode_open(&disk);
    if (qcow2_create(file, options, &error) != 0) {
        abort();
    }
    struct block_node *node = node_open_format(&qcow2_driver, file, &open, &error);
    if (node == NULL) {
        abort();
    }
    memset(buffer, 0x5a, 40000);
    node_write(node, 512, buffer, 3000);
    node_write_compressed(node, 0, buffer, UINT64_C(1) << options->cluster_bits);
    node_write_zeroes(node, 65536, 32768, 0);
    if (options->refcount_bits > 1) {
        node->driver->snapshot_create(node, "a", &error);
    }
    node_write(node, 70000, buffer, 3000);
    if (options->version >= 3) {
        node->driver->bitmap_change(node, "b", NODE_BITMAP_ADD, 4096, &error);
    }
    node_close(node);
    char path[400];
    snprintf(path, sizeof(path), "%s/seed-%u", directory, index);
    FILE *file_out = fopen(path, "we");
    uint8_t program[PROGRAM_BYTES];
    for (unsigned i = 0; i < PROGRAM_BYTES; i++) {
        program[i] = (uint8_t)(i * 7 + index);
    }
    if (file_out == NULL || fwrite(program, 1, sizeof(program), file_out) != sizeof(program) || fwrite(disk.data, 1, disk.bytes, file_out) != disk.bytes ||
        fclose(file_out) != 0) {
        abort();
    }
    testnode_free(&disk);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    const char *seeds = getenv("FUZZ_QCOW2_SEEDS");
    if (seeds != NULL) {
        unsigned index = 0;
        for (unsigned bits = 9; bits <= 14; bits += bits == 9 ? 3 : 2) {
            for (unsigned kind = 0; kind < 4; kind++) {
                seed(seeds, index++, &(struct qcow2_create_options){
                    .size = 1u << 18, .version = kind == 0 ? 2 : 3, .cluster_bits = bits, .refcount_bits = kind == 2 ? 1 : kind == 3 ? 64 : 16,
                    .lazy_refcounts = kind == 3, .zstd = kind == 1, .extended_l2 = kind == 1 && bits >= 14});
            }
        }
        exit(0);
    }
    /* Messages about corrupt images are many. */
    if (freopen("/dev/null", "w", stdout) == NULL) {
        abort();
    }
    return 0;
}
