/* SPDX-License-Identifier: MIT */
/*
 * The NBD client against a server of our own (nbdserver.c): all that a server may lack, servers that go away, come back, fall silent, fail, and lie.
 * Usage: block-nbd [-s FIRST-SEED] [-n HOSTILE-SERVERS]
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "block/block.h"
#include "block/nbd.h"
#include "block/node.h"
#include "block/qcow2_create.h"
#include "nbdserver.h"
#include "seeds.h"

#define DISK_BYTES (1u << 20)

static unsigned passed, failed;
static uint64_t seed_random;

#define CHECK(condition)                                                              \
    do {                                                                              \
        if (!(condition)) {                                                           \
            printf("FAIL: %s:%d: %s (%s)\n", __func__, __LINE__, #condition, what);    \
            failed++;                                                                 \
        } else {                                                                      \
            passed++;                                                                 \
        }                                                                             \
    } while (0)

static uint64_t test_random(void)
{
    seed_random ^= seed_random << 13;
    seed_random ^= seed_random >> 7;
    seed_random ^= seed_random << 17;
    return seed_random;
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static struct block *open_export(struct nbdserver *server, const char *format, struct block_config config, struct error *error)
{
    char name[100];
    snprintf(name, sizeof(name), "nbd:unix:%s", server->path);
    config.filename = name;
    config.format = format;
    config.nbd_open_timeout_s = config.nbd_open_timeout_s != 0 ? config.nbd_open_timeout_s : 10;
    config.nbd_request_timeout_s = config.nbd_request_timeout_s != 0 ? config.nbd_request_timeout_s : 10;
    error->text[0] = '\0';
    return block_open(&config, error);
}

/* ---- Names ---- */

static void test_names(void)
{
    static const struct {
        const char *name, *uri; /* NULL: refused */
    } rows[] = {
        {"nbd:unix:/tmp/s", "nbd+unix://?socket=/tmp/s"},
        {"nbd:unix:/tmp/s:exportname=a b", "nbd+unix:///a%20b?socket=/tmp/s"},
        {"nbd:localhost:10809", "nbd://localhost:10809"},
        {"nbd:10.0.0.1:1:exportname=disk", "nbd://10.0.0.1:1/disk"},
        {"nbd:[::1]:10810:exportname=x", "nbd://[::1]:10810/x"},
        {"nbd://host/x", "nbd://host:10809/x"},
        {"nbd://host:1/", "nbd://host:1"},
        {"nbd://[::1]/x", "nbd://[::1]:10809/x"},
        {"nbd+unix:///?socket=/s", "nbd+unix://?socket=/s"},
        {"nbd+unix:///x?socket=/s", "nbd+unix:///x?socket=/s"},
        {"nbd:", NULL},
        {"nbd:unix:", NULL},
        {"nbd:host", NULL},
        {"nbd:host:", NULL},
        {"nbd:host:port", NULL},
        {"nbd:host:1000000", NULL},
        {"nbd::1", NULL},
        {"nbd:[::1]", NULL},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct error error = {""};
        const char *what = rows[i].name;
        char *uri = nbd_uri(what, &error);
        CHECK(nbd_is_name(what));
        CHECK(rows[i].uri == NULL ? uri == NULL && error.text[0] != '\0' : uri != NULL && strcmp(uri, rows[i].uri) == 0);
        if (uri != NULL && rows[i].uri != NULL && strcmp(uri, rows[i].uri) != 0) {
            printf("  %s\n", uri);
        }
        free(uri);
    }
    const char *what = "files";
    CHECK(!nbd_is_name("nbd"));
    CHECK(!nbd_is_name("./nbd:x"));
    CHECK(!nbd_is_name("/tmp/nbd://x"));
}

/* ---- Sound servers ---- */

struct slot {
    struct block_request request;
    struct iovec iov[3];
    uint8_t buffer[24576];
    int result;
    bool done;
};

static void slot_done(struct block_request *request, int result)
{
    struct slot *slot = request->opaque;
    slot->result = result;
    slot->done = true;
}

/* Random requests, some together (on parts of the disk of their own), and a copy in memory. */
static void exercise(struct block *block, uint8_t *copy, unsigned rounds, const char *what)
{
    enum { SLOTS = 8, PART = DISK_BYTES / SLOTS };
    static struct slot slots[SLOTS];
    unsigned wrong = 0, errors = 0;
    for (unsigned round = 0; round < rounds; round++) {
        block_plug(block);
        for (unsigned i = 0; i < SLOTS; i++) {
            struct slot *slot = &slots[i];
            size_t lengths[3] = {1 + test_random() % 8192, 1 + test_random() % 8192, 1 + test_random() % 8192}, at = 0;
            unsigned op = (unsigned)(test_random() % 5), count = 1 + (unsigned)(test_random() % 3);
            bool aligned = test_random() % 2;
            for (unsigned j = 0; j < count; j++) {
                lengths[j] = aligned ? (lengths[j] + 4095) & ~(size_t)4095 : lengths[j];
                slot->iov[j] = (struct iovec){slot->buffer + at, lengths[j]};
                at += lengths[j];
            }
            uint64_t offset = i * PART + test_random() % (PART - at + 1);
            offset = aligned ? offset & ~UINT64_C(4095) : offset;
            slot->request = (struct block_request){.op = op < 2 ? BLOCK_WRITE : op == 2 ? BLOCK_READ : op == 3 ? BLOCK_WRITE_ZEROES : BLOCK_DISCARD,
                .flags = test_random() % 4 == 0 && op < 2 ? BLOCK_FUA : test_random() % 2 && op == 3 ? BLOCK_UNMAP : 0, .offset = offset, .bytes = at, .iov = slot->iov,
                .iov_count = count, .done = slot_done, .opaque = slot};
            slot->done = false;
            if (op < 2) {
                memset(slot->buffer, (int)(1 + test_random() % 255), at);
                memcpy(copy + offset, slot->buffer, at);
            } else if (op == 3) {
                memset(copy + offset, 0, at);
            }
            block_submit(block, &slot->request);
        }
        block_unplug(block);
        block_drain(block);
        for (unsigned i = 0; i < SLOTS; i++) {
            struct slot *slot = &slots[i];
            errors += !slot->done || slot->result != 0;
            if (slot->request.op == BLOCK_READ && memcmp(slot->buffer, copy + slot->request.offset, slot->request.bytes) != 0) {
                wrong++;
            } else if (slot->request.op == BLOCK_DISCARD && block_read(block, slot->request.offset, copy + slot->request.offset, slot->request.bytes) != 0) {
                errors++; /* what a discard leaves is up to the server */
            }
        }
        errors += test_random() % 4 == 0 && block_flush(block) != 0;
    }
    static uint8_t all[DISK_BYTES];
    CHECK(block_read(block, 0, all, sizeof(all)) == 0);
    CHECK(errors == 0);
    CHECK(wrong == 0);
    CHECK(memcmp(all, copy, sizeof(all)) == 0);
}

static void test_sound(void)
{
    static const struct {
        const char *what;
        struct nbdserver server;
    } rows[] = {
        {"everything", {.bytes = DISK_BYTES}},
        {"simple replies", {.bytes = DISK_BYTES, .no_structured = true}},
        {"no FUA", {.bytes = DISK_BYTES, .no_fua = true}},
        {"no flush, FUA", {.bytes = DISK_BYTES, .no_fua = true, .no_flush = true}},
        {"no trim, zeroes, extents", {.bytes = DISK_BYTES, .no_trim = true, .no_zeroes = true, .no_extents = true}},
        {"blocks of 512", {.bytes = DISK_BYTES, .block_bytes = 512, .max_bytes = 4096}},
        {"blocks of 4096", {.bytes = DISK_BYTES, .block_bytes = 4096, .max_bytes = 1u << 25}},
    };
    static uint8_t copy[DISK_BYTES];
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        for (enum block_aio aio = BLOCK_AIO_AUTO; aio <= BLOCK_AIO_THREADS; aio += BLOCK_AIO_THREADS) {
            static struct nbdserver server;
            const char *what = rows[i].what;
            struct error error;
            memcpy((void *)&server, &rows[i].server, sizeof(server));
            memset(copy, 0, sizeof(copy));
            nbdserver_start(&server);
            struct block *block = open_export(&server, "raw", (struct block_config){.aio = aio}, &error);
            CHECK(block != NULL);
            if (block != NULL) {
                CHECK(block_bytes(block) == DISK_BYTES);
                CHECK(block_alignment(block) == (server.block_bytes != 0 ? server.block_bytes : 1));
                exercise(block, copy, 30, what);
                /* A durable write has FUA, or a flush behind it. */
                uint8_t sector[4096] = {1};
                unsigned fuas = atomic_load(&server.fuas), flushes = atomic_load(&server.flushes);
                CHECK(block_write(block, 4096, sector, sizeof(sector), BLOCK_FUA) == 0);
                CHECK((atomic_load(&server.fuas) > fuas) == !server.no_fua);
                CHECK((atomic_load(&server.flushes) > flushes) == (server.no_fua && !server.no_flush));
                CHECK((atomic_load(&server.trims) > 0) == !server.no_trim);
                CHECK((atomic_load(&server.zeroes) > 0) == !server.no_zeroes);
                block_close(block);
            }
            nbdserver_stop(&server);
        }
    }
}

static void test_qcow2(void)
{
    const char *what = "qcow2";
    static uint8_t copy[DISK_BYTES];
    struct nbdserver server = {.bytes = 4 * DISK_BYTES};
    struct qcow2_create_options create = {.size = DISK_BYTES, .version = 3, .cluster_bits = 12, .refcount_bits = 16};
    struct node_options options = {0};
    struct error error;
    char name[100];
    nbdserver_start(&server);
    memset(server.data, 0xa5, server.bytes); /* what was there before must not be taken for tables */
    snprintf(name, sizeof(name), "nbd:unix:%s", server.path);
    struct block_node *file = node_open_file(name, &options, &error);
    CHECK(file != NULL && qcow2_create(file, &create, &error) == 0);
    if (file != NULL) {
        CHECK(node_close(file) == 0);
    }
    struct block *block = open_export(&server, "qcow2", (struct block_config){0}, &error);
    CHECK(block != NULL);
    if (block != NULL) {
        memset(copy, 0, sizeof(copy));
        exercise(block, copy, 40, what);
        block_close(block);
    }
    struct block_node *node = node_open(name, "qcow2", &(struct node_options){.read_only = true}, &error);
    CHECK(node != NULL);
    if (node != NULL) {
        struct node_check check = {.messages = stdout};
        static uint8_t all[DISK_BYTES];
        CHECK(node->driver->check(node, 0, &check) == 0 && check.corruptions == 0 && check.leaks == 0 && check.check_errors == 0);
        CHECK(node_read(node, 0, all, sizeof(all)) == 0 && memcmp(all, copy, sizeof(all)) == 0);
        node_close(node);
    }
    nbdserver_stop(&server);
    /* An export that is too small fills up. */
    struct nbdserver small = {.bytes = DISK_BYTES / 2};
    what = "full";
    nbdserver_start(&small);
    snprintf(name, sizeof(name), "nbd:unix:%s", small.path);
    file = node_open_file(name, &options, &error);
    CHECK(file != NULL && qcow2_create(file, &create, &error) == 0 && node_close(file) == 0);
    block = open_export(&small, "qcow2", (struct block_config){0}, &error);
    CHECK(block != NULL);
    if (block != NULL) {
        memset(copy, 0x5a, sizeof(copy));
        CHECK(block_write(block, 0, copy, DISK_BYTES, 0) == -ENOSPC);
        CHECK(block_flush(block) == 0); /* what the failed write gave back can be used from here */
        CHECK(block_write(block, 0, copy, 65536, 0) == 0);
        CHECK(block_flush(block) == 0);
        block_close(block);
    }
    nbdserver_stop(&small);
}

static void test_extents(void)
{
    const char *what = "extents";
    struct nbdserver server = {.bytes = DISK_BYTES};
    struct error error;
    struct block_extent extent;
    char name[100];
    nbdserver_start(&server);
    memset(server.data + 65536, 1, 8192);
    snprintf(name, sizeof(name), "nbd:unix:%s", server.path);
    struct block_node *node = node_open(name, "raw", &(struct node_options){.read_only = true}, &error);
    CHECK(node != NULL);
    if (node != NULL) {
        CHECK(node_map(node, 0, DISK_BYTES, &extent) == 0 && (extent.flags & EXTENT_ZERO) && !(extent.flags & EXTENT_DATA) && extent.bytes == 65536);
        CHECK(node_map(node, 65536, DISK_BYTES - 65536, &extent) == 0 && (extent.flags & EXTENT_DATA) && !(extent.flags & EXTENT_ZERO) && extent.bytes == 8192);
        CHECK(node_map(node, 70000, 100, &extent) == 0 && (extent.flags & EXTENT_DATA) && extent.bytes == 100);
        atomic_store(&server.fault, NBDSERVER_EXTENTS);
        for (unsigned i = 0; i < 200; i++) {
            uint64_t offset = test_random() % DISK_BYTES, bytes = 1 + test_random() % (DISK_BYTES - offset);
            extent.bytes = 0;
            int result = node_map(node, offset, bytes, &extent);
            if (result != 0) { /* libnbd finds it out */
                break;
            }
            CHECK(extent.bytes > 0 && extent.bytes <= bytes);
        }
        node_close(node);
    }
    nbdserver_stop(&server);
}

/* ---- Servers that go away ---- */

static void test_reconnect(void)
{
    static const enum nbdserver_fault faults[] = {NBDSERVER_HANG_UP, NBDSERVER_GO_AWAY};
    static uint8_t copy[DISK_BYTES];
    for (unsigned i = 0; i < 2; i++) {
        const char *what = i == 0 ? "hangs up" : "shuts down";
        struct nbdserver server = {.bytes = DISK_BYTES, .fault = faults[i], .after = 60};
        struct error error;
        nbdserver_start(&server);
        struct block *block = open_export(&server, "raw", (struct block_config){.nbd_reconnect_delay_s = 20}, &error);
        CHECK(block != NULL);
        memset(copy, 0, sizeof(copy));
        if (block != NULL) { /* nobody sees that it was away */
            exercise(block, copy, 40, what);
            CHECK(atomic_load(&server.connections) > 3);
            block_close(block);
        }
        nbdserver_stop(&server);
    }
}

static void test_lost(void)
{
    const char *what = "no reconnect";
    struct nbdserver server = {.bytes = DISK_BYTES, .fault = NBDSERVER_HANG_UP, .after = 10};
    struct error error;
    uint8_t sector[512];
    nbdserver_start(&server);
    struct block *block = open_export(&server, "raw", (struct block_config){0}, &error);
    CHECK(block != NULL);
    if (block != NULL) {
        unsigned errors = 0;
        for (unsigned i = 0; i < 12; i++) {
            int result = block_read(block, 0, sector, sizeof(sector));
            CHECK(result == 0 || result == -EIO);
            errors += result != 0;
        }
        CHECK(errors > 0);
        /* It comes back by itself. */
        int result = -EIO;
        for (double end = seconds() + 10; result != 0 && seconds() < end; usleep(20000)) {
            result = block_read(block, 0, sector, sizeof(sector));
        }
        CHECK(result == 0);
        block_close(block);
    }
    nbdserver_stop(&server);

    what = "other size";
    struct nbdserver other = {.bytes = DISK_BYTES, .fault = NBDSERVER_HANG_UP, .after = 3};
    nbdserver_start(&other);
    block = open_export(&other, "raw", (struct block_config){.nbd_reconnect_delay_s = 20}, &error);
    CHECK(block != NULL);
    if (block != NULL) {
        other.claimed_bytes = DISK_BYTES / 2; /* said from the next connection on */
        int result = 0;
        double start = seconds();
        for (unsigned i = 0; i < 8; i++) {
            result = block_read(block, DISK_BYTES - 512, sector, sizeof(sector));
        }
        CHECK(result == -EIO);
        CHECK(seconds() - start < 10);
        block_close(block);
    }
    nbdserver_stop(&other);
}

static void test_silent(void)
{
    const char *what = "silent";
    struct nbdserver server = {.bytes = DISK_BYTES, .fault = NBDSERVER_SILENT, .after = 5};
    struct error error;
    uint8_t sector[512];
    nbdserver_start(&server);
    struct block *block = open_export(&server, "raw", (struct block_config){.nbd_request_timeout_s = 1}, &error);
    CHECK(block != NULL);
    if (block != NULL) {
        int result = 0;
        double start = seconds();
        for (unsigned i = 0; i < 6; i++) {
            result = block_read(block, 0, sector, sizeof(sector));
        }
        CHECK(result == -EIO);
        CHECK(seconds() - start > 0.9 && seconds() - start < 5);
        block_close(block);
    }
    nbdserver_stop(&server);

    /* Closing waits for what is under way, but not long. */
    what = "silent at the end";
    static struct slot slot;
    nbdserver_start(&server);
    block = open_export(&server, "raw", (struct block_config){.nbd_request_timeout_s = 1000, .nbd_reconnect_delay_s = 1000}, &error);
    CHECK(block != NULL);
    if (block != NULL) {
        for (unsigned i = 0; i < 5; i++) {
            CHECK(block_read(block, 0, sector, sizeof(sector)) == 0);
        }
        slot.iov[0] = (struct iovec){slot.buffer, 512};
        slot.request = (struct block_request){.op = BLOCK_WRITE, .bytes = 512, .iov = slot.iov, .iov_count = 1, .done = slot_done, .opaque = &slot};
        double start = seconds();
        block_submit(block, &slot.request);
        block_close(block);
        CHECK(slot.done && slot.result == -EIO);
        CHECK(seconds() - start < 8);
    }
    nbdserver_stop(&server);

    what = "mute";
    struct nbdserver mute = {.bytes = DISK_BYTES, .fault = NBDSERVER_MUTE};
    nbdserver_start(&mute);
    double start = seconds();
    block = open_export(&mute, "raw", (struct block_config){.nbd_open_timeout_s = 1}, &error);
    CHECK(block == NULL && strstr(error.text, "says nothing") != NULL);
    CHECK(seconds() - start < 5);
    if (block != NULL) {
        block_close(block);
    }
    nbdserver_stop(&mute);
}

static void test_errors(void)
{
    static const struct {
        unsigned nbd;
        int host;
    } rows[] = {{1, -EPERM}, {5, -EIO}, {12, -ENOMEM}, {22, -EINVAL}, {28, -ENOSPC}, {95, -EOPNOTSUPP}, {12345, -EINVAL}};
    struct nbdserver server = {.bytes = DISK_BYTES, .fault = NBDSERVER_FAIL};
    struct error error;
    const char *what = "errors";
    uint8_t sector[512] = {0};
    nbdserver_start(&server);
    struct block *block = open_export(&server, "raw", (struct block_config){0}, &error);
    CHECK(block != NULL);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]) && block != NULL; i++) {
        atomic_store(&server.error, rows[i].nbd);
        atomic_store(&server.after, 1);
        CHECK(block_read(block, 0, sector, sizeof(sector)) == rows[i].host);
        CHECK(block_write(block, 0, sector, sizeof(sector), 0) == rows[i].host);
        CHECK(block_flush(block) == rows[i].host);
        atomic_store(&server.after, 0);
        CHECK(block_write(block, 0, sector, sizeof(sector), BLOCK_FUA) == 0);
    }
    if (block != NULL) {
        block_close(block);
    }
    nbdserver_stop(&server);
}

static void test_refused(void)
{
    static const struct {
        const char *what, *word;
        struct nbdserver server;
    } rows[] = {
        {"read-only", "read-only", {.bytes = DISK_BYTES, .read_only = true}},
        {"negative size", "no sense", {.bytes = DISK_BYTES, .claimed_bytes = UINT64_MAX - 511}},
        {"size not of blocks", "", {.bytes = DISK_BYTES, .claimed_bytes = DISK_BYTES + 512, .block_bytes = 4096}},
        {"blocks of 3000", "", {.bytes = DISK_BYTES, .block_bytes = 3000}},
        {"blocks of 128 KiB", "", {.bytes = DISK_BYTES, .block_bytes = 131072}},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        static struct nbdserver server;
        const char *what = rows[i].what;
        struct error error;
        memcpy((void *)&server, &rows[i].server, sizeof(server));
        nbdserver_start(&server);
        struct block *block = open_export(&server, "raw", (struct block_config){0}, &error);
        CHECK(rows[i].word[0] == '\0' || (block == NULL && strstr(error.text, rows[i].word) != NULL));
        if (block != NULL) {
            CHECK(block_alignment(block) <= 65536 && (block_alignment(block) & (block_alignment(block) - 1)) == 0);
            block_close(block);
        } else {
            CHECK(error.text[0] != '\0');
        }
        nbdserver_stop(&server);
    }
    struct error error;
    const char *what = "nobody";
    struct block *block = block_open(&(struct block_config){.filename = "nbd:unix:/nonexistent/socket", .format = "raw"}, &error);
    CHECK(block == NULL && strstr(error.text, "/nonexistent/socket") != NULL);
}

/* ---- Liars ---- */

static void hostile(unsigned seed)
{
    static const enum nbdserver_fault faults[] = {NBDSERVER_LIE, NBDSERVER_LIE, NBDSERVER_LIE, NBDSERVER_NOISE, NBDSERVER_EXTENTS};
    char what[32];
    snprintf(what, sizeof(what), "seed %u", seed);
    seed_random = (seed + 1) * UINT64_C(0x9e3779b97f4a7c15) | 1;
    for (unsigned i = 0; i < 8; i++) {
        test_random();
    }
    struct nbdserver server = {
        .bytes = DISK_BYTES,
        .fault = faults[test_random() % 5],
        .after = (unsigned)(1 + test_random() % 20),
        .random = test_random() | 1,
        .block_bytes = test_random() % 2 ? 512 : 0,
        .max_bytes = 65536,
        .no_structured = test_random() % 4 == 0,
    };
    double start = seconds();
    nbdserver_start(&server);
    bool qcow2 = test_random() % 4 == 0;
    struct block_config config = {.nbd_open_timeout_s = 1, .nbd_request_timeout_s = 1, .nbd_reconnect_delay_s = (unsigned)(test_random() % 2), .read_only = qcow2};
    struct error error;
    struct block *block = NULL;
    for (unsigned i = 0; i < 6 && block == NULL; i++) { /* a handshake without a lie, sooner or later */
        block = open_export(&server, qcow2 ? NULL : "raw", config, &error);
    }
    if (block != NULL) {
        static struct slot slots[4];
        for (unsigned i = 0; i < 4; i++) {
            uint64_t bytes = block_bytes(block), offset = bytes > 65536 ? test_random() % (bytes - 65536) & ~UINT64_C(511) : 0;
            slots[i].iov[0] = (struct iovec){slots[i].buffer, 4096};
            slots[i].iov[1] = (struct iovec){slots[i].buffer + 4096, 8192};
            slots[i].request = (struct block_request){.op = (enum block_op)(test_random() % 5), .offset = offset, .bytes = 12288, .iov = slots[i].iov, .iov_count = 2,
                .done = slot_done, .opaque = &slots[i]};
            slots[i].done = false;
            block_submit(block, &slots[i].request);
        }
        block_drain(block);
        struct block_extent extent;
        struct block_node *root = block_root(block);
        for (uint64_t at = 0, i = 0; at < root->bytes && i < 20 && node_map(root, at, root->bytes - at, &extent) == 0; at += extent.bytes, i++) {
            CHECK(extent.bytes > 0 && extent.bytes <= root->bytes - at);
        }
        for (unsigned i = 0; i < 4; i++) {
            CHECK(slots[i].done);
        }
        block_close(block);
    }
    CHECK(seconds() - start < 60);
    nbdserver_stop(&server);
}

int main(int argc, char **argv)
{
    unsigned first, count = 60;
    if (!seeds_options(argc, argv, &first, &count, NULL)) {
        return 2;
    }
    seed_random = first * UINT64_C(0x9e3779b97f4a7c15) | 1;
    test_names();
    test_sound();
    test_qcow2();
    test_extents();
    test_reconnect();
    test_lost();
    test_silent();
    test_errors();
    test_refused();
    if (freopen("/dev/null", "w", stderr) == NULL) { /* what a liar's client says */
        return 2;
    }
    for (unsigned i = 0; i < count; i++) {
        hostile(first + i);
    }
    printf("%u passed, %u failed, 0 skipped\n", passed, failed);
    return failed != 0;
}
