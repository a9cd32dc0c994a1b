/* SPDX-License-Identifier: MIT */
/*
 * Power failures. A random workload runs on an image whose every write and flush is logged; then the log is cut, at each flush and at random points,
 * and of the sectors written since the last flush any may be on the disk and any not. What is left must open, hold everything that
 * was flushed, and have nothing worse than leaks by our own check; every so often qemu-img is asked too.
 *
 * Each sector that the guest writes holds a number of its own, so that it is known what it may hold after a cut: what it held at the last flush
 * that ended before, or anything written to it since.
 * Usage: block-crash [-s FIRST-SEED] [-n WORKLOADS]
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "block/node.h"
#include "block/qcow2_create.h"
#include "seeds.h"
#include "testnode.h"

#define SECTORS 4096u /* of the disk */
#define OPS 60u
#define CUTS 60u
#define EVENTS_MAX 400000u

struct event { /* a sector of the guest's gets a number; 0: zeroes */
    size_t log_at; /* how long the log was when the operation began */
    uint32_t sector;
    uint64_t number;
};

struct crash {
    unsigned seed;
    uint64_t random;
    struct qcow2_create_options create;
    struct testnode disk;
    uint8_t *initial; /* when the log began */
    uint64_t initial_bytes;
    struct event *events;
    size_t event_count;
    struct {
        size_t log_at;      /* how long the log was when the flush had ended */
        size_t event_count; /* what it covers */
    } flushes[OPS + 2];
    unsigned flush_count;
    uint64_t number;
    bool snapshots; /* the workload makes and deletes them */
};

static char image[64];
static unsigned long long cuts_made, cuts_at_flushes, cuts_by_qemu; /* of all workloads */

static uint64_t crash_random(struct crash *c)
{
    c->random ^= c->random << 13;
    c->random ^= c->random >> 7;
    c->random ^= c->random << 17;
    return c->random;
}

static int fail(struct crash *c, size_t cut, const char *what, long long detail)
{
    printf("FAIL: seed %u, cut at %zu of %zu: %s (%lld); version %u cluster_bits %u extended %d refcount_bits %u lazy %d snapshots %d\n", c->seed, cut,
           c->disk.log_count, what, detail, c->create.version, c->create.cluster_bits, c->create.extended_l2, c->create.refcount_bits,
           c->create.lazy_refcounts, c->snapshots);
    return 1;
}

static void record(struct crash *c, size_t log_at, uint32_t sector, uint64_t number)
{
    if (c->event_count < EVENTS_MAX) {
        c->events[c->event_count++] = (struct event){log_at, sector, number};
    }
}

static int work(struct crash *c)
{
    static uint64_t data[SECTORS * 64];
    struct node_options options = {.no_lock = true};
    struct error error = {""};
    struct block_node *file = testnode_open(&c->disk);
    if (qcow2_create(file, &c->create, &error) != 0) {
        printf("create: %s\n", error.text);
        return 1;
    }
    c->initial_bytes = c->disk.bytes;
    c->initial = malloc(c->disk.bytes);
    memcpy(c->initial, c->disk.data, c->disk.bytes);
    c->disk.logging = true;
    struct block_node *node = node_open_format(&qcow2_driver, file, &options, &error);
    if (node == NULL) {
        printf("open: %s\n", error.text);
        return 1;
    }
    /* The empty image is where it begins. */
    c->flushes[c->flush_count].log_at = 0;
    c->flushes[c->flush_count++].event_count = 0;
    char names[3][8];
    unsigned name_count = 0, made = 0;
    int result = 0;
    for (unsigned i = 0; i < OPS && result == 0; i++) {
        uint32_t first = (uint32_t)(crash_random(c) % SECTORS), count = 1 + (uint32_t)(crash_random(c) % (crash_random(c) % 4 ? 16 : 400));
        count = count < SECTORS - first ? count : SECTORS - first;
        uint32_t cluster = (1u << c->create.cluster_bits) / 512;
        size_t log_at = c->disk.log_count;
        unsigned kind = (unsigned)(crash_random(c) % 10);
        if (kind >= 5 && kind <= 7 && crash_random(c) % 2) { /* whole clusters */
            first -= first % cluster;
            count = count > cluster ? count - count % cluster : cluster;
            count = count < SECTORS - first ? count : SECTORS - first;
        }
        if (kind < 5 || kind == 7) {
            if (kind == 7) { /* compressed: one cluster */
                first -= first % cluster;
                count = cluster < SECTORS - first ? cluster : SECTORS - first;
            }
            for (uint32_t j = 0; j < count; j++) {
                uint64_t number = ++c->number;
                for (unsigned k = 0; k < 64; k++) {
                    data[j * 64 + k] = number;
                }
                record(c, log_at, first + j, number);
            }
            result = kind == 7 ? node_write_compressed(node, (uint64_t)first * 512, data, (uint64_t)count * 512)
                               : node_write(node, (uint64_t)first * 512, data, (uint64_t)count * 512);
        } else if (kind == 5 || kind == 6) {
            result = kind == 5 ? node_write_zeroes(node, (uint64_t)first * 512, (uint64_t)count * 512, crash_random(c) % 2 ? NODE_UNMAP : 0)
                               : node_discard(node, (uint64_t)first * 512, (uint64_t)count * 512);
            /* A discard may leave what there was: what it did is asked. */
            if (result == 0 && kind == 6) {
                result = node_read(node, (uint64_t)first * 512, data, (uint64_t)count * 512);
            }
            for (uint32_t j = 0; j < count; j++) {
                record(c, log_at, first + j, kind == 5 ? 0 : data[j * 64]);
            }
        } else if (kind == 8 || !c->snapshots) {
            size_t covered = c->event_count;
            result = node_flush(node);
            c->flushes[c->flush_count].log_at = c->disk.log_count;
            c->flushes[c->flush_count++].event_count = covered;
        } else if (name_count < 3 && crash_random(c) % 2) {
            snprintf(names[name_count], sizeof(names[0]), "s%u", made++);
            result = node->driver->snapshot_create(node, names[name_count++], &error);
        } else if (name_count > 0) {
            result = node->driver->snapshot_delete(node, names[--name_count], &error);
        }
    }
    size_t covered = c->event_count;
    c->disk.logging = result == 0; /* closing is logged as well */
    int closed = node_close(node);
    c->flushes[c->flush_count].log_at = c->disk.log_count;
    c->flushes[c->flush_count++].event_count = covered;
    c->disk.logging = false;
    if (result != 0 || closed != 0) {
        return fail(c, 0, "the workload itself", result);
    }
    return 0;
}

/* The disk after a cut: all that was flushed, and of the rest a random choice of sectors. */
static void cut_disk(struct crash *c, size_t cut, struct testnode *to)
{
    size_t flushed = 0;
    unsigned keep = (unsigned)(crash_random(c) % 5); /* of four; 4: all, that is a killed process */
    for (size_t i = 0; i < cut; i++) {
        flushed = c->disk.log[i].kind == TESTNODE_FLUSH ? i + 1 : flushed;
    }
    testnode_set(to, c->initial, c->initial_bytes);
    struct block_node *file = testnode_open(to);
    struct error error;
    for (size_t i = 0; i < cut; i++) {
        const struct testnode_entry *entry = &c->disk.log[i];
        if (entry->kind == TESTNODE_RESIZE) {
            file->driver->resize(file, entry->bytes, 0, &error);
        }
        for (uint64_t at = 0; entry->kind == TESTNODE_WRITE && at < entry->bytes;) {
            uint64_t count = 512 - ((entry->offset + at) & 511);
            count = count < entry->bytes - at ? count : entry->bytes - at;
            if (i < flushed || crash_random(c) % 4 < keep) {
                file->driver->write(file, entry->offset + at, entry->data + at, count);
            }
            at += count;
        }
    }
    node_close(file);
}

static int verify_numbers(struct crash *c, size_t cut, struct block_node *node)
{
    static uint64_t data[SECTORS * 64], allowed[SECTORS];
    static uint8_t found[SECTORS];
    unsigned flush = 0;
    while (flush + 1 < c->flush_count && c->flushes[flush + 1].log_at <= cut) {
        flush++;
    }
    int result = node_read(node, 0, data, sizeof(data));
    if (result != 0) {
        return fail(c, cut, "the disk cannot be read", result);
    }
    memset(allowed, 0, sizeof(allowed));
    for (size_t i = 0; i < c->flushes[flush].event_count; i++) {
        allowed[c->events[i].sector] = c->events[i].number;
    }
    for (unsigned i = 0; i < SECTORS; i++) {
        for (unsigned k = 1; k < 64; k++) {
            if (data[i * 64 + k] != data[i * 64]) {
                return fail(c, cut, "a sector is torn", i);
            }
        }
        found[i] = data[i * 64] == allowed[i];
    }
    for (size_t i = c->flushes[flush].event_count; i < c->event_count && c->events[i].log_at <= cut; i++) {
        const struct event *event = &c->events[i];
        found[event->sector] |= data[event->sector * 64] == event->number;
    }
    for (unsigned i = 0; i < SECTORS; i++) {
        if (!found[i]) {
            printf("sector %u holds %llu, flushed was %llu\n", i, (unsigned long long)data[i * 64], (unsigned long long)allowed[i]);
            return fail(c, cut, "flushed data is lost", i);
        }
    }
    return 0;
}

static int ask_qemu(struct crash *c, size_t cut, const struct testnode *disk, bool dirty)
{
    char command[200];
    FILE *file = fopen(image, "we");
    if (file == NULL || fwrite(disk->data, 1, disk->bytes, file) != disk->bytes || fclose(file) != 0) {
        return fail(c, cut, "cannot write the image", errno);
    }
    /* An image that says it is dirty is made whole by whoever opens it. */
    snprintf(command, sizeof(command), "qemu-img check -q %s -f qcow2 %s >%s.out 2>&1", dirty ? "-r all" : "", image, image);
    int status = system(command);
    status = WIFEXITED(status) ? WEXITSTATUS(status) : 128;
    if (status != 0 && status != 3) {
        snprintf(command, sizeof(command), "head -5 %s.out", image);
        if (system(command) != 0) {
            return 1;
        }
        return fail(c, cut, "qemu-img check", status);
    }
    return 0;
}

static int one_cut(struct crash *c, size_t cut, struct testnode *disk, bool with_qemu)
{
    struct node_options options = {.no_lock = true, .check = true};
    struct error error = {""};
    cut_disk(c, cut, disk);
    struct node_info info;
    struct block_node *node = node_open_format(&qcow2_driver, testnode_open(disk), &options, &error);
    if (node == NULL) {
        puts(error.text);
        return fail(c, cut, "the image does not open", 0);
    }
    node->driver->info(node, &info);
    struct node_check check = {0};
    node->options.read_only = true;
    int status = node->driver->check(node, 0, &check);
    node_close(node);
    if (status != 0 || (!info.dirty && (check.corruptions != 0 || check.check_errors != 0))) {
        return fail(c, cut, "check finds corruptions", (long long)check.corruptions);
    }
    /* Version 2 has no dirty bit: while a snapshot is made or goes, flags may not agree with refcounts, on the careful side. */
    if (with_qemu && ask_qemu(c, cut, disk, info.dirty) != 0) {
        return 1;
    }
    /* Opened as a guest's disk: repaired if it says dirty. */
    options.check = false;
    node = node_open_format(&qcow2_driver, testnode_open(disk), &options, &error);
    if (node == NULL) {
        puts(error.text);
        return fail(c, cut, "the image does not open to write", 0);
    }
    int failed = verify_numbers(c, cut, node);
    check = (struct node_check){0};
    status = failed ? 0 : node->driver->check(node, CHECK_FIX_LEAKS, &check);
    if (!failed && (status != 0 || check.corruptions != 0 || check.leaks != 0)) {
        failed = fail(c, cut, "leaks are not repaired", (long long)check.leaks);
    }
    /* And it works on. */
    static uint64_t sector[64] = {1};
    if (!failed && (node_write(node, 0, sector, 512) != 0 || node_flush(node) != 0)) {
        failed = fail(c, cut, "the image cannot be written to", 0);
    }
    node_close(node);
    return failed;
}

static int crash(unsigned seed, bool have_qemu)
{
    struct crash c = {.seed = seed, .random = (seed + 1) * UINT64_C(0x9e3779b97f4a7c15) | 1};
    struct testnode disk = {0};
    for (unsigned i = 0; i < 8; i++) {
        crash_random(&c);
    }
    unsigned bits = 9 + (unsigned)(crash_random(&c) % 8);
    bool v3 = crash_random(&c) % 4 != 0;
    c.create = (struct qcow2_create_options){
        .size = SECTORS * 512,
        .version = v3 ? 3 : 2,
        .cluster_bits = bits,
        .refcount_bits = v3 ? 1u << (crash_random(&c) % 7) : 16,
        .extended_l2 = v3 && bits >= 14 && crash_random(&c) % 2,
        .lazy_refcounts = v3 && crash_random(&c) % 4 == 0,
    };
    c.snapshots = v3 && c.create.refcount_bits >= 16 && crash_random(&c) % 2;
    c.events = malloc(EVENTS_MAX * sizeof(*c.events));
    int failed = work(&c);
    unsigned cuts = 0;
    for (size_t i = 0; i <= c.disk.log_count && !failed; i++) {
        bool at_flush = i < c.disk.log_count && c.disk.log[i].kind == TESTNODE_FLUSH;
        if (at_flush || i == c.disk.log_count || crash_random(&c) % (c.disk.log_count / CUTS + 1) == 0) {
            bool with_qemu = have_qemu && cuts++ % 25 == 24;
            failed = one_cut(&c, i, &disk, with_qemu);
            cuts_made++;
            cuts_at_flushes += at_flush;
            cuts_by_qemu += with_qemu;
        }
    }
    testnode_free(&c.disk);
    testnode_free(&disk);
    free(c.events);
    free(c.initial);
    return failed;
}

int main(int argc, char **argv)
{
    unsigned first, count = 40, passed = 0, failed = 0;
    if (!seeds_options(argc, argv, &first, &count, NULL)) {
        return 2;
    }
    bool have_qemu = system("command -v qemu-img >/dev/null") == 0;
    snprintf(image, sizeof(image), "%s/kage-crash-%d", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp", (int)getpid());
    for (unsigned seed = first; seed < first + count; seed++) {
        if (crash(seed, have_qemu) != 0) {
            failed++;
        } else {
            passed++;
        }
    }
    unlink(image);
    strcat(image, ".out");
    unlink(image);
    printf("%llu cuts, %llu of them at flushes, %llu looked at by qemu-img\n", cuts_made, cuts_at_flushes, cuts_by_qemu);
    printf("%u passed, %u failed, %d skipped\n", passed, failed, have_qemu ? 0 : 1);
    return failed != 0;
}
