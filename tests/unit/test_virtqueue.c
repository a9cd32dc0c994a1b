/* SPDX-License-Identifier: MIT */
/*
 * Virtqueues of both layouts, with every set of ring features, against a driver that was written apart from them: chains of any shape go
 * round in random order, and neither side looks at the ring but when it was told to. Then everything that a driver can do wrong:
 * each ends in DEVICE_NEEDS_RESET at once, and a reset makes the device whole again.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <pthread.h>
#include <unistd.h>
#include <cmocka.h>

#include "virtio_driver.h"

#define QUEUE_SIZE 64u
#define HELD_MAX 64u

static struct loop loop;
static struct virtio_device device;
static uint64_t random_state;

static uint32_t random_below(uint32_t limit)
{
    random_state = random_state * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return (uint32_t)(random_state >> 33) % limit;
}

/* ---- A device that keeps chains and gives them back when the test says so ---- */

struct held {
    struct virtio_chain chain;
    struct iovec iov[VIRTQUEUE_CHAIN_MAX];
};
static struct held *held;
static unsigned held_count, class_resets;

static void hold_notified(struct virtio_device *self, struct virtqueue *queue)
{
    (void)self;
    while (held_count < HELD_MAX && virtqueue_pop(queue, &held[held_count].chain) > 0) {
        struct held *h = &held[held_count++];
        memcpy(h->iov, h->chain.iov, (h->chain.out_count + h->chain.in_count) * sizeof(h->iov[0]));
        h->chain.iov = h->iov;
    }
}

static void hold_reset(struct virtio_device *self)
{
    (void)self;
    class_resets++;
}

static const struct virtio_class hold_class = {.name = "test", .type = 99, .notified = hold_notified, .reset = hold_reset};

static void notify(struct virtqueue *queue)
{
    virtio_lock(&device);
    if (virtio_live(&device) && queue->enabled) {
        hold_notified(&device, queue);
    }
    virtio_unlock(&device);
}

/* What the device makes of a chain: the readable bytes, changed, as many as there is room for. */
static uint32_t answer(const struct virtio_chain *chain)
{
    uint8_t bytes[512];
    size_t count = virtio_chain_read(chain, 0, bytes, sizeof(bytes));
    for (size_t i = 0; i < count; i++) {
        bytes[i] ^= 0x5a;
    }
    return (uint32_t)virtio_chain_write(chain, 0, bytes, count);
}

static void give(struct virtqueue *queue, unsigned index)
{
    struct held *h = &held[index];
    virtio_lock(&device);
    virtqueue_push(queue, &h->chain, answer(&h->chain));
    virtqueue_interrupt(queue);
    virtio_unlock(&device);
    held_count--;
    if (index != held_count) {
        struct held *last = &held[held_count];
        *h = *last;
        h->chain.iov = h->iov;
    }
}

static int setup(void **state)
{
    const uint16_t sizes[2] = {QUEUE_SIZE, QUEUE_SIZE};
    (void)state;
    memory = calloc(1, MEMORY_BYTES);
    held = calloc(HELD_MAX, sizeof(held[0]));
    held_count = class_resets = config_interrupts = transport_resets = 0;
    memset(queue_interrupts, 0, sizeof(queue_interrupts));
    random_state = 1;
    int result = loop_init(&loop);
    result = result == 0 ? virtio_init(&device, &hold_class, &loop, &memory_dma,
                                       VIRTIO_F_VERSION_1 | VIRTIO_F_RING_PACKED | VIRTIO_F_IN_ORDER | VIRTIO_F_EVENT_IDX |
                                           VIRTIO_F_INDIRECT_DESC | VIRTIO_F_RING_RESET,
                                       2, sizes)
                         : result;
    device.transport = &test_transport;
    return result;
}

static int teardown(void **state)
{
    (void)state;
    virtio_fini(&device);
    loop_fini(&loop);
    free(held);
    free(memory);
    return 0;
}

/* ---- Traffic ---- */

struct sent {
    bool busy;
    uint32_t order;
    unsigned out_bytes, in_bytes;
    uint8_t pattern;
    uint64_t in_gpa;
};

/* A chain of random pieces in the id's own room: reads, then writes. */
static void send(struct driver *driver, struct sent *sent, uint32_t order)
{
    struct piece pieces[8];
    unsigned out = random_below(4), in = random_below(4);
    bool indirect = virtio_has(&device, VIRTIO_F_INDIRECT_DESC) && random_below(2) == 0;
    if (out + in == 0) {
        out = 1;
    }
    if (!indirect && out + in > driver_room(driver)) {
        out = 1;
        in = 0;
    }
    uint16_t next = driver->free[driver->free_count - 1];
    uint64_t at = BUFFERS_GPA + next * 4096u;
    struct sent *s = &sent[next];
    *s = (struct sent){.busy = true, .order = order, .pattern = (uint8_t)random_below(256)};
    for (unsigned i = 0; i < out + in; i++) {
        uint32_t bytes = 1 + random_below(60);
        pieces[i] = (struct piece){.gpa = at, .bytes = bytes, .write = i >= out};
        if (i < out) {
            memset(gpa(at), s->pattern, bytes);
            s->out_bytes += bytes;
        } else {
            s->in_gpa = i == out ? at : s->in_gpa;
            memset(gpa(at), 0xee, bytes);
            s->in_bytes += bytes;
        }
        at += bytes;
    }
    assert_int_equal(driver_add(driver, pieces, out + in, indirect), next);
}

static void check_answer(const struct sent *s, uint32_t written)
{
    unsigned expected = s->out_bytes < s->in_bytes ? s->out_bytes : s->in_bytes;
    assert_true(s->busy);
    assert_int_equal(written, expected);
    for (unsigned i = 0; i < s->in_bytes; i++) {
        assert_int_equal(*(uint8_t *)gpa(s->in_gpa + i), i < expected ? (uint8_t)(s->pattern ^ 0x5a) : 0xee);
    }
}

/* Each side acts only when the other has told it to; a lost notification or interrupt leaves chains behind. */
static void run_traffic(uint64_t features, unsigned size, unsigned chains)
{
    static struct sent sent[DRIVER_SIZE_MAX];
    struct driver driver;
    uint32_t added = 0, taken = 0, idle = 0;
    assert_true(driver_negotiate(&device, features));
    driver_init_queue(&driver, &device, 0, size);
    driver_ok(&device);
    memset(sent, 0, sizeof(sent));
    queue_interrupts[0] = 0;
    driver_want_interrupt(&driver, true);
    while (taken < chains) {
        unsigned burst = random_below(size + 1);
        while (added < chains && burst-- > 0 && driver_room(&driver) != 0) {
            send(&driver, sent, added++);
        }
        if (driver_must_notify(&driver)) {
            notify(driver.queue);
        }
        unsigned gifts = added == chains ? held_count : random_below(held_count + 1);
        while (gifts-- > 0) {
            give(driver.queue, random_below(held_count));
        }
        bool progress = queue_interrupts[0] != 0;
        while (queue_interrupts[0] != 0) {
            uint16_t id;
            uint32_t written;
            queue_interrupts[0] = 0;
            driver_want_interrupt(&driver, false);
            do {
                while (driver_take(&driver, &id, &written)) {
                    assert_true(id < size);
                    check_answer(&sent[id], written);
                    if (virtio_has(&device, VIRTIO_F_IN_ORDER)) {
                        assert_int_equal(sent[id].order, taken);
                    }
                    sent[id].busy = false;
                    taken++;
                }
                driver_want_interrupt(&driver, true);
            } while (driver_take(&driver, &id, &written) && (check_answer(&sent[id], written), sent[id].busy = false, taken++, true));
        }
        idle = progress ? 0 : idle + 1;
        assert_true(idle < 1000);
    }
    assert_int_equal(taken, chains);
    assert_int_equal(held_count, 0);
    assert_int_equal(driver.queue->in_flight, 0);
    assert_int_equal(virtio_status(&device) & VIRTIO_STATUS_DEVICE_NEEDS_RESET, 0);
}

static void test_traffic(void **state)
{
    static const uint64_t bits[] = {VIRTIO_F_RING_PACKED, VIRTIO_F_IN_ORDER, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC};
    static const unsigned sizes[] = {1, 2, 8, 64};
    (void)state;
    for (unsigned set = 0; set < 16; set++) {
        uint64_t features = VIRTIO_F_VERSION_1;
        for (unsigned i = 0; i < 4; i++) {
            features |= (set >> i & 1) != 0 ? bits[i] : 0;
        }
        for (unsigned i = 0; i < 4; i++) {
            run_traffic(features, sizes[i], 3000);
        }
    }
    run_traffic(VIRTIO_F_VERSION_1 | VIRTIO_F_RING_PACKED | VIRTIO_F_EVENT_IDX, 7, 3000); /* a packed ring may have any size */
    run_traffic(VIRTIO_F_VERSION_1 | VIRTIO_F_RING_PACKED | VIRTIO_F_IN_ORDER, 5, 3000);
    run_traffic(VIRTIO_F_VERSION_1 | VIRTIO_F_EVENT_IDX, 64, 200000); /* the index runs over several times */
}

/* ---- Negotiation ---- */

static void test_negotiation(void **state)
{
    (void)state;
    struct driver driver;
    assert_false(driver_negotiate(&device, VIRTIO_F_VERSION_1 | VIRTIO_F(5))); /* not offered */
    driver_ok(&device);
    assert_true(virtio_status(&device) & VIRTIO_STATUS_DEVICE_NEEDS_RESET);
    assert_false(driver_negotiate(&device, VIRTIO_F_EVENT_IDX)); /* a legacy driver, and no legacy interface */
    assert_true(driver_negotiate(&device, VIRTIO_F_VERSION_1));
    virtio_set_features_word(&device, 1, 0); /* too late */
    assert_int_equal(virtio_features_word(&device, 1), 1);
    assert_int_equal(virtio_features_word(&device, 2), 0);
    assert_int_equal(virtio_offered_word(&device, 7), 0);

    /* Sizes that are none, and what an enabled queue does not take. */
    driver_init_queue(&driver, &device, 0, 8);
    assert_int_equal(driver.queue->size, 8);
    virtio_set_queue_size(&device, driver.queue, 16);
    virtio_set_queue_address(&device, driver.queue, VIRTQUEUE_DESC, false, 0);
    assert_int_equal(driver.queue->size, 8);
    assert_true(driver.queue->gpa[VIRTQUEUE_DESC] == RING_GPA);
    struct virtqueue *other = virtio_queue(&device, 1);
    for (unsigned i = 0; i < 4; i++) {
        virtio_set_queue_size(&device, other, (const uint32_t[]){0, 7, QUEUE_SIZE * 2, 0x10008}[i]);
        assert_int_equal(other->size, QUEUE_SIZE);
    }
    assert_null(virtio_queue(&device, 2));
    virtio_kick_queue(&device, 2);
    assert_int_equal(virtio_status(&device) & VIRTIO_STATUS_DEVICE_NEEDS_RESET, 0);

    /* Rings where there is no memory, or not aligned. */
    static const uint64_t bad[][3] = {
        {RING_GPA + 8, RING_GPA + 0x10000, RING_GPA + 0x18000},
        {RING_GPA, RING_GPA + 0x10001, RING_GPA + 0x18000},
        {RING_GPA, RING_GPA + 0x10000, RING_GPA + 0x18002},
        {MEMORY_GPA + MEMORY_BYTES - 16, RING_GPA + 0x10000, RING_GPA + 0x18000},
        {0, RING_GPA + 0x10000, RING_GPA + 0x18000},
        {RING_GPA, UINT64_MAX - 1, RING_GPA + 0x18000},
        {RING_GPA, RING_GPA + 0x10000, UINT64_C(0xfffffffffffffffc)},
    };
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_true(driver_negotiate(&device, VIRTIO_F_VERSION_1));
        for (unsigned part = 0; part < 3; part++) {
            virtio_set_queue_address(&device, other, (enum virtqueue_part)part, false, (uint32_t)bad[i][part]);
            virtio_set_queue_address(&device, other, (enum virtqueue_part)part, true, (uint32_t)(bad[i][part] >> 32));
        }
        virtio_enable_queue(&device, other);
        assert_false(other->enabled);
        assert_true(virtio_status(&device) & VIRTIO_STATUS_DEVICE_NEEDS_RESET);
    }
    /* Before the features are there. */
    virtio_set_status(&device, 0);
    virtio_enable_queue(&device, other);
    assert_false(other->enabled);
    assert_true(virtio_status(&device) & VIRTIO_STATUS_DEVICE_NEEDS_RESET);
}

/* ---- Malformed chains ---- */

#define GOOD BUFFERS_GPA
#define NEXT 1u
#define WRITE 2u
#define INDIRECT 4u

struct bad {
    const char *name;
    uint64_t features; /* besides VERSION_1 */
    struct {
        uint64_t gpa;
        uint32_t bytes;
        uint16_t flags, next;
    } ring[4], table[4]; /* an indirect table at TABLES_GPA */
    unsigned head;       /* split */
    uint16_t ahead;      /* split: idx goes that far; 0: 1 */
};

static const struct bad bads[] = {
    {"a circle", 0, {{GOOD, 16, NEXT, 1}, {GOOD, 16, NEXT, 0}}, {{0}}, 0, 0},
    {"a circle of one", 0, {{GOOD, 16, NEXT, 0}, {GOOD, 16, NEXT, 1}, {GOOD, 16, NEXT, 2}, {GOOD, 16, NEXT, 3}}, {{0}}, 0, 0},
    {"a circle in a table", VIRTIO_F_INDIRECT_DESC, {{TABLES_GPA, 32, INDIRECT, 0}}, {{GOOD, 16, NEXT, 1}, {GOOD, 16, NEXT, 0}}, 0, 0},
    {"indirect in indirect", VIRTIO_F_INDIRECT_DESC, {{TABLES_GPA, 16, INDIRECT, 0}}, {{TABLES_GPA + 64, 16, INDIRECT, 0}}, 0, 0},
    {"indirect with next", VIRTIO_F_INDIRECT_DESC, {{TABLES_GPA, 16, INDIRECT | NEXT, 1}, {GOOD, 16, 0, 0}}, {{GOOD, 16, 0, 0}}, 0, 0},
    {"indirect, not negotiated", 0, {{TABLES_GPA, 16, INDIRECT, 0}}, {{GOOD, 16, 0, 0}}, 0, 0},
    {"an empty table", VIRTIO_F_INDIRECT_DESC, {{TABLES_GPA, 0, INDIRECT, 0}}, {{0}}, 0, 0},
    {"a table of an odd length", VIRTIO_F_INDIRECT_DESC, {{TABLES_GPA, 24, INDIRECT, 0}}, {{GOOD, 16, 0, 0}}, 0, 0},
    {"a table nowhere", VIRTIO_F_INDIRECT_DESC, {{UINT64_C(0xfebf0000), 16, INDIRECT, 0}}, {{0}}, 0, 0},
    {"a table over the end", VIRTIO_F_INDIRECT_DESC, {{MEMORY_GPA + MEMORY_BYTES - 16, 32, INDIRECT, 0}}, {{0}}, 0, 0},
    {"a table at the end of the address space", VIRTIO_F_INDIRECT_DESC, {{UINT64_C(0xfffffffffffffff0), 32, INDIRECT, 0}}, {{0}}, 0, 0},
    {"a table too long", VIRTIO_F_INDIRECT_DESC, {{BUFFERS_GPA + 0x100000, (VIRTQUEUE_CHAIN_MAX + 1) * 16, INDIRECT, 0}}, {{0}}, 0, 0},
    {"no bytes", 0, {{GOOD, 0, 0, 0}}, {{0}}, 0, 0},
    {"no bytes at the end", 0, {{GOOD, 16, NEXT, 1}, {GOOD, 0, WRITE, 0}}, {{0}}, 0, 0},
    {"a read behind a write", 0, {{GOOD, 16, NEXT | WRITE, 1}, {GOOD, 16, 0, 0}}, {{0}}, 0, 0},
    {"a read behind a write in a table", VIRTIO_F_INDIRECT_DESC, {{TABLES_GPA, 32, INDIRECT, 0}}, {{GOOD, 16, NEXT | WRITE, 1}, {GOOD, 16, 0, 0}}, 0, 0},
    {"no memory there", 0, {{UINT64_C(0x7000000000), 16, 0, 0}}, {{0}}, 0, 0},
    {"below memory", 0, {{MEMORY_GPA - 8, 16, 0, 0}}, {{0}}, 0, 0},
    {"over the end", 0, {{MEMORY_GPA + MEMORY_BYTES - 8, 16, WRITE, 0}}, {{0}}, 0, 0},
    {"address and length overflow", 0, {{UINT64_MAX - 7, 16, 0, 0}}, {{0}}, 0, 0},
    {"the device's own registers", 0, {{UINT64_C(0xfeb00050), 4, WRITE, 0}}, {{0}}, 0, 0},
    {"a length of all ones", 0, {{GOOD, UINT32_MAX, WRITE, 0}}, {{0}}, 0, 0},
};
/* What only a split ring can say. */
static const struct bad bads_split[] = {
    {"a head that is none", 0, {{GOOD, 16, 0, 0}}, {{0}}, 8, 0},
    {"a head far out", 0, {{GOOD, 16, 0, 0}}, {{0}}, 0xffff, 0},
    {"next that is none", 0, {{GOOD, 16, NEXT, 8}}, {{0}}, 0, 0},
    {"next outside of the table", VIRTIO_F_INDIRECT_DESC, {{TABLES_GPA, 32, INDIRECT, 0}}, {{GOOD, 16, NEXT, 2}, {GOOD, 16, 0, 0}}, 0, 0},
    {"more available than there are", 0, {{GOOD, 16, 0, 0}}, {{0}}, 0, 9},
    {"an index that ran backwards", 0, {{GOOD, 16, 0, 0}}, {{0}}, 0, 0xffff},
};

static void make_bad(struct driver *driver, const struct bad *bad)
{
    bool packed = driver->packed;
    for (unsigned i = 0; i < 4; i++) {
        put_desc(gpa(TABLES_GPA), i, bad->table[i].gpa, bad->table[i].bytes, packed ? 0 : bad->table[i].flags,
                 packed ? bad->table[i].flags : bad->table[i].next);
    }
    for (unsigned i = 0; i < driver->size; i++) {
        /* A packed ring's circle: all of its slots go on to the next. */
        unsigned from = i < 4 && (i == 0 || bad->ring[i].bytes != 0 || bad->ring[i - 1].flags & NEXT) ? i : 0;
        uint16_t flags = bad->ring[from].flags;
        if (packed) {
            put_desc(driver->ring, i, bad->ring[from].gpa, bad->ring[from].bytes, 0, driver_packed_flags(driver, true, flags));
        } else if (i < 4) {
            put_desc(driver->ring, i, bad->ring[i].gpa, bad->ring[i].bytes, flags, bad->ring[i].next);
        }
    }
    if (!packed) {
        for (unsigned i = 0; i < driver->size; i++) {
            put16(driver->driver_area + 4 + i * 2, (uint16_t)bad->head);
        }
        put16(driver->driver_area + 2, bad->ahead != 0 ? bad->ahead : 1);
    }
}

static void run_bad(const struct bad *bad, uint64_t layout)
{
    struct driver driver;
    struct virtio_chain chain;
    assert_true(driver_negotiate(&device, VIRTIO_F_VERSION_1 | bad->features | layout));
    driver_init_queue(&driver, &device, 0, 8);
    driver_ok(&device);
    config_interrupts = 0;
    make_bad(&driver, bad);
    notify(driver.queue);
    if (bad->ahead != 0) {
        assert_int_equal(held_count, 0); /* nothing of such a ring is looked at */
    }
    while (held_count > 0) { /* sound ones before the bad one go back */
        give(driver.queue, 0);
    }
    if ((virtio_status(&device) & VIRTIO_STATUS_DEVICE_NEEDS_RESET) == 0 || config_interrupts != 1) {
        print_error("%s, %s: status 0x%x, %u interrupts\n", bad->name, layout != 0 ? "packed" : "split", virtio_status(&device), config_interrupts);
        fail();
    }
    /* Nothing more comes of it. */
    virtio_lock(&device);
    assert_int_equal(virtqueue_pop(driver.queue, &chain), 0);
    virtio_unlock(&device);
    notify(driver.queue);
    assert_int_equal(held_count, 0);
    assert_int_equal(config_interrupts, 1);
    run_traffic(VIRTIO_F_VERSION_1 | layout, 8, 20);
}

static void test_malformed(void **state)
{
    (void)state;
    for (unsigned i = 0; i < sizeof(bads) / sizeof(bads[0]); i++) {
        run_bad(&bads[i], 0);
        /* In a packed table nothing points anywhere: its length ends it. */
        if (strstr(bads[i].name, "circle in a table") == NULL) {
            run_bad(&bads[i], VIRTIO_F_RING_PACKED);
        }
    }
    for (unsigned i = 0; i < sizeof(bads_split) / sizeof(bads_split[0]); i++) {
        run_bad(&bads_split[i], 0);
    }
}

/* 4 GiB in one chain, from buffers that are each sound. */
static void test_sum(void **state)
{
    (void)state;
    for (unsigned packed = 0; packed < 2; packed++) {
        struct driver driver;
        uint8_t *table = gpa(BUFFERS_GPA + 0x100000);
        assert_true(driver_negotiate(&device, VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC | (packed ? VIRTIO_F_RING_PACKED : 0)));
        driver_init_queue(&driver, &device, 0, 8);
        driver_ok(&device);
        for (unsigned i = 0; i < VIRTQUEUE_CHAIN_MAX; i++) {
            bool last = i + 1 == VIRTQUEUE_CHAIN_MAX;
            put_desc(table, i, MEMORY_GPA, (uint32_t)MEMORY_BYTES, packed ? 0 : (uint16_t)!last, packed ? 0 : (uint16_t)(i + 1));
        }
        put_desc(driver.ring, 0, BUFFERS_GPA + 0x100000, VIRTQUEUE_CHAIN_MAX * 16, packed ? 0 : INDIRECT,
                 packed ? driver_packed_flags(&driver, true, INDIRECT) : 0);
        put16(driver.driver_area + 2, packed ? 0 : 1);
        notify(driver.queue);
        assert_int_equal(held_count, 0); /* 1024 times 4 MiB is one byte too much */
        assert_true(virtio_status(&device) & VIRTIO_STATUS_DEVICE_NEEDS_RESET);
    }
}

/* The same head again and again, while the device has it: it never holds more chains than the ring has entries. */
static void test_same_head(void **state)
{
    (void)state;
    for (unsigned in_order = 0; in_order < 2; in_order++) {
        struct driver driver;
        assert_true(driver_negotiate(&device, VIRTIO_F_VERSION_1 | (in_order ? VIRTIO_F_IN_ORDER : 0)));
        driver_init_queue(&driver, &device, 0, 8);
        driver_ok(&device);
        put_desc(driver.ring, 0, GOOD, 16, 0, 0);
        put16(driver.driver_area + 2, 8);
        notify(driver.queue);
        assert_int_equal(held_count, 8);
        while (in_order && held_count > 1) {
            give(driver.queue, held_count - 1); /* all but the first: they wait for it, and are still the device's */
        }
        put16(driver.driver_area + 2, 9);
        notify(driver.queue);
        assert_int_equal(held_count, in_order ? 1 : 8);
        assert_true(virtio_status(&device) & VIRTIO_STATUS_DEVICE_NEEDS_RESET);
        while (held_count > 0) {
            give(driver.queue, 0);
        }
        assert_int_equal(driver.queue->in_flight, 0);
    }
}

/* ---- Resets ---- */

static void *reset_device(void *opaque)
{
    (void)opaque;
    virtio_set_status(&device, 0);
    return NULL;
}

static void *reset_queue(void *opaque)
{
    virtio_reset_queue(&device, opaque);
    return NULL;
}

/* A reset is over when what was in flight is, and none of it is seen in the used ring. */
static void test_reset_in_flight(void **state)
{
    (void)state;
    for (unsigned packed = 0; packed < 2; packed++) {
        for (unsigned whole = 0; whole < 2; whole++) {
            struct driver driver;
            pthread_t thread;
            uint16_t id;
            uint32_t written;
            struct piece piece = {.gpa = GOOD, .bytes = 16};
            assert_true(driver_negotiate(&device, VIRTIO_F_VERSION_1 | VIRTIO_F_RING_RESET | (packed ? VIRTIO_F_RING_PACKED : 0)));
            driver_init_queue(&driver, &device, 0, 8);
            driver_ok(&device);
            driver_add(&driver, &piece, 1, false);
            driver_add(&driver, &piece, 1, false);
            notify(driver.queue);
            assert_int_equal(held_count, 2);
            queue_interrupts[0] = 0;
            assert_int_equal(pthread_create(&thread, NULL, whole ? reset_device : reset_queue, driver.queue), 0);
            for (bool waits = false; !waits; usleep(100)) {
                virtio_lock(&device);
                waits = driver.queue->resetting;
                virtio_unlock(&device);
            }
            assert_int_not_equal(virtio_status(&device), 0);
            driver_add(&driver, &piece, 1, false); /* not taken any more */
            notify(driver.queue);
            give(driver.queue, 1);
            give(driver.queue, 0);
            pthread_join(thread, NULL);
            assert_int_equal(held_count, 0);
            assert_int_equal(queue_interrupts[0], 0);
            assert_false(driver_take(&driver, &id, &written));
            assert_false(driver.queue->enabled);
            assert_int_equal(virtio_status(&device) == 0, whole);
            if (!whole) { /* the queue alone comes back */
                driver_init_queue(&driver, &device, 0, 4);
                driver_want_interrupt(&driver, true);
                driver_add(&driver, &piece, 1, false);
                notify(driver.queue);
                give(driver.queue, 0);
                assert_true(driver_take(&driver, &id, &written));
                assert_int_equal(queue_interrupts[0], 1);
            }
        }
    }
    assert_true(class_resets > 0);
}

/* A machine that ends does not wait. */
static void test_stop(void **state)
{
    (void)state;
    struct driver driver;
    pthread_t thread;
    struct piece piece = {.gpa = GOOD, .bytes = 16};
    assert_true(driver_negotiate(&device, VIRTIO_F_VERSION_1));
    driver_init_queue(&driver, &device, 0, 8);
    driver_ok(&device);
    driver_add(&driver, &piece, 1, false);
    notify(driver.queue);
    assert_int_equal(pthread_create(&thread, NULL, reset_device, NULL), 0);
    virtio_stop(&device);
    pthread_join(thread, NULL);
    give(driver.queue, 0);
}

/* ---- Copies ---- */

static void test_copies(void **state)
{
    (void)state;
    uint8_t a[3] = {1, 2, 3}, b[4] = {4, 5, 6, 7}, c[2] = {0}, d[5] = {0}, bytes[8];
    struct iovec iov[4] = {{a, 3}, {b, 4}, {c, 2}, {d, 5}};
    struct virtio_chain chain = {.out_count = 2, .in_count = 2, .out_bytes = 7, .in_bytes = 7, .iov = iov};
    assert_int_equal(virtio_chain_read(&chain, 2, bytes, 3), 3);
    assert_memory_equal(bytes, ((uint8_t[]){3, 4, 5}), 3);
    assert_int_equal(virtio_chain_read(&chain, 5, bytes, 8), 2);
    assert_int_equal(virtio_chain_read(&chain, 7, bytes, 8), 0);
    assert_int_equal(virtio_chain_write(&chain, 1, "abcdefgh", 8), 6);
    assert_memory_equal(c, "\0a", 2);
    assert_memory_equal(d, "bcdef", 5);
    assert_int_equal(virtio_chain_write(&chain, 7, "x", 1), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_traffic, setup, teardown),
        cmocka_unit_test_setup_teardown(test_negotiation, setup, teardown),
        cmocka_unit_test_setup_teardown(test_malformed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sum, setup, teardown),
        cmocka_unit_test_setup_teardown(test_same_head, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reset_in_flight, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stop, setup, teardown),
        cmocka_unit_test(test_copies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
