/* SPDX-License-Identifier: MIT */
/*
 * Disks that fail: a random workload on an image whose file returns EIO, ENOSPC or short-of-space errors on writes, reads and flushes, once or for a while,
 * and perhaps when half of a write was done.
 * An operation may fail with that error and no other; what it would have written may be there or not, sector by sector. Everything else must
 * stay what it was, and when the disk is well again the image must be whole: nothing worse than leaks, now and after it was reopened.
 * Usage: block-errors [-s FIRST-SEED] [-n WORKLOADS]
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "block/node.h"
#include "block/qcow2_create.h"
#include "seeds.h"
#include "testnode.h"

#define SECTORS 2048u
#define OPS 80u
#define CHOICES 6u

struct errors {
    unsigned seed;
    uint64_t random, number;
    struct qcow2_create_options create;
    struct testnode disk;
    struct {
        unsigned count; /* above CHOICES: anything */
        uint64_t number[CHOICES];
    } may[SECTORS];
    char what[8192];
};

static uint64_t data[SECTORS * 64];

static uint64_t errors_random(struct errors *e)
{
    e->random ^= e->random << 13;
    e->random ^= e->random >> 7;
    e->random ^= e->random << 17;
    return e->random;
}

static int fail(struct errors *e, const char *what, long long detail)
{
    printf("FAIL: seed %u: %s (%lld); version %u cluster_bits %u extended %d refcount_bits %u lazy %d\n%s", e->seed, what, detail, e->create.version,
           e->create.cluster_bits, e->create.extended_l2, e->create.refcount_bits, e->create.lazy_refcounts, e->what);
    return 1;
}

static void inject(struct errors *e)
{
    static const int kinds[] = {-EIO, -ENOSPC, -ENOMEM};
    struct testnode *disk = &e->disk;
    disk->error = kinds[errors_random(e) % 3];
    disk->sticky = errors_random(e) % 2;
    disk->torn = errors_random(e) % 2;
    disk->limit = 0;
    unsigned which = (unsigned)(errors_random(e) % 5);
    uint64_t when = 1 + errors_random(e) % 6;
    disk->fail_write = which == 0 || which == 3 ? when : 0;
    disk->fail_read = which == 1 ? when : 0;
    disk->fail_flush = which == 2 ? 1 + errors_random(e) % 3 : 0;
    if (which == 4) {
        disk->error = -ENOSPC;
        disk->limit = disk->bytes + errors_random(e) % 3 * 4096;
    }
}

static void heal(struct errors *e)
{
    e->disk.fail_write = e->disk.fail_read = e->disk.fail_flush = 0;
    e->disk.limit = 0;
    e->disk.sticky = e->disk.torn = false;
}

/* An operation that wrote `number`s (0: zeroes), or tried. */
static void now(struct errors *e, uint32_t first, uint32_t count, uint64_t number, bool step, int result)
{
    for (uint32_t i = 0; i < count; i++) {
        uint64_t value = step ? number + i : number;
        if (result == 0) {
            e->may[first + i].count = 1;
            e->may[first + i].number[0] = value;
        } else if (e->may[first + i].count >= CHOICES) {
            e->may[first + i].count = CHOICES + 1;
        } else {
            e->may[first + i].number[e->may[first + i].count++] = value;
        }
    }
}

static int verify(struct errors *e, struct block_node *node, const char *when)
{
    int result = node_read(node, 0, data, sizeof(data));
    if (result != 0) {
        return fail(e, when, result);
    }
    for (unsigned i = 0; i < SECTORS; i++) {
        bool good = e->may[i].count > CHOICES;
        for (unsigned j = 0; j < e->may[i].count && !good; j++) {
            good = e->may[i].number[j] == data[i * 64];
        }
        for (unsigned k = 1; k < 64; k++) {
            good = good && data[i * 64 + k] == data[i * 64];
        }
        if (!good) {
            printf("%s: sector %u holds %llu, not %llu\n", when, i, (unsigned long long)data[i * 64], (unsigned long long)e->may[i].number[0]);
            return fail(e, "data", i);
        }
        e->may[i].count = 1; /* from now on it is what it is */
        e->may[i].number[0] = data[i * 64];
    }
    return 0;
}

static int operation(struct errors *e, struct block_node *node)
{
    uint32_t cluster = (1u << e->create.cluster_bits) / 512, first = (uint32_t)(errors_random(e) % SECTORS);
    uint32_t count = 1 + (uint32_t)(errors_random(e) % 200);
    unsigned kind = (unsigned)(errors_random(e) % 7);
    if (errors_random(e) % 2 || kind == 3) {
        first -= first % cluster;
        count = kind == 3 ? cluster : (count + cluster - 1) / cluster * cluster;
    }
    count = count < SECTORS - first ? count : SECTORS - first;
    uint64_t number = e->number + 1;
    int result;
    char line[100];
    if (kind < 4) {
        e->number += count;
        for (uint32_t i = 0; i < count * 64; i++) {
            data[i] = number + i / 64;
        }
        result = kind == 3 ? node_write_compressed(node, (uint64_t)first * 512, data, (uint64_t)count * 512)
                           : node_write(node, (uint64_t)first * 512, data, (uint64_t)count * 512);
        now(e, first, count, number, true, result);
    } else if (kind == 4) {
        result = node_write_zeroes(node, (uint64_t)first * 512, (uint64_t)count * 512, errors_random(e) % 2 ? NODE_UNMAP : 0);
        now(e, first, count, 0, false, result);
    } else if (kind == 5) {
        result = node_discard(node, (uint64_t)first * 512, (uint64_t)count * 512);
        now(e, first, count, 0, false, 1); /* zero, or as before */
    } else {
        result = node_flush(node);
    }
    snprintf(line, sizeof(line), "  kind %u %u %u: %d\n", kind, first, count, result);
    if (strlen(e->what) + strlen(line) < sizeof(e->what)) {
        strcat(e->what, line);
    }
    return result;
}

static int errors(unsigned seed)
{
    static struct errors storage;
    struct errors *e = &storage;
    memset(e, 0, sizeof(*e));
    e->seed = seed;
    e->random = (seed + 1) * UINT64_C(0x9e3779b97f4a7c15) | 1;
    for (unsigned i = 0; i < 8; i++) {
        errors_random(e);
    }
    unsigned bits = 9 + (unsigned)(errors_random(e) % 8);
    bool v3 = errors_random(e) % 4 != 0;
    e->create = (struct qcow2_create_options){
        .size = SECTORS * 512,
        .version = v3 ? 3 : 2,
        .cluster_bits = bits,
        .refcount_bits = v3 ? 1u << (errors_random(e) % 7) : 16,
        .extended_l2 = v3 && bits >= 14 && errors_random(e) % 2,
        .lazy_refcounts = v3 && errors_random(e) % 4 == 0,
    };
    for (unsigned i = 0; i < SECTORS; i++) {
        e->may[i].count = 1;
    }
    struct node_options options = {.no_lock = true};
    struct error error = {""};
    struct block_node *file = testnode_open(&e->disk), *node = NULL;
    if (qcow2_create(file, &e->create, &error) == 0) {
        node = node_open_format(&qcow2_driver, file, &options, &error);
    }
    if (node == NULL) {
        return fail(e, error.text, 0);
    }
    int failed = 0;
    for (unsigned i = 0; i < OPS && !failed; i++) {
        if (errors_random(e) % 4 == 0) {
            inject(e);
        }
        int result = operation(e, node);
        bool injected = e->disk.error != 0;
        if (result != 0 && (!injected || result != e->disk.error)) {
            failed = fail(e, "an operation failed with another error", result);
        }
        if (errors_random(e) % 3 == 0) {
            heal(e);
        }
        if (!failed && errors_random(e) % 10 == 0) {
            heal(e);
            int flushed = node_flush(node);
            failed = flushed != 0 ? fail(e, "flush of a disk that is well again", flushed) : verify(e, node, "later");
            struct node_check check = {0};
            if (!failed && (node->driver->check(node, 0, &check) != 0 || (!e->create.lazy_refcounts && check.corruptions != 0))) {
                failed = fail(e, "corruptions", (long long)check.corruptions);
            }
        }
    }
    heal(e);
    failed = failed || verify(e, node, "at the end");
    int closed = node_close(node);
    failed = failed || (closed != 0 && fail(e, "close", closed));
    if (!failed) {
        node = node_open_format(&qcow2_driver, testnode_open(&e->disk), &options, &error);
        failed = node == NULL ? fail(e, error.text, 0) : verify(e, node, "opened again");
        struct node_check check = {0};
        if (node != NULL) {
            if (!failed && (node->driver->check(node, CHECK_FIX_LEAKS, &check) != 0 || check.corruptions != 0 || check.leaks != 0)) {
                failed = fail(e, "corruptions after reopening", (long long)check.corruptions);
            }
            node_close(node);
        }
    }
    testnode_free(&e->disk);
    return failed;
}

int main(int argc, char **argv)
{
    unsigned first, count = 200, passed = 0, failed = 0;
    if (!seeds_options(argc, argv, &first, &count, NULL)) {
        return 2;
    }
    for (unsigned seed = first; seed < first + count; seed++) {
        if (errors(seed) != 0) {
            failed++;
        } else {
            passed++;
        }
    }
    printf("%u passed, %u failed, 0 skipped\n", passed, failed);
    return failed != 0;
}
