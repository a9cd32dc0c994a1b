/* SPDX-License-Identifier: MIT */
/* The protocol node of the tests: a buffer that grows. */
#include "testnode.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int testnode_fails(struct testnode *t, uint64_t *counter)
{
    if (*counter == 0 || --*counter > 0) {
        return 0;
    }
    *counter = t->sticky ? 1 : 0;
    return t->error;
}

static void testnode_grow(struct testnode *t, uint64_t bytes)
{
    if (bytes > t->capacity) {
        uint64_t capacity = bytes + bytes / 2 + 65536;
        t->data = realloc(t->data, capacity);
        if (t->data == NULL) {
            abort();
        }
        memset(t->data + t->capacity, 0, capacity - t->capacity);
        t->capacity = capacity;
    }
    t->bytes = bytes > t->bytes ? bytes : t->bytes;
}

static void testnode_log(struct testnode *t, enum testnode_kind kind, uint64_t offset, uint64_t bytes, const void *data)
{
    if (!t->logging) {
        return;
    }
    if (t->log_count == t->log_capacity) {
        t->log_capacity = 2 * t->log_capacity + 256;
        t->log = realloc(t->log, t->log_capacity * sizeof(*t->log));
    }
    struct testnode_entry entry = {kind, offset, bytes, NULL};
    if (data != NULL) {
        entry.data = malloc(bytes);
        memcpy(entry.data, data, bytes);
    }
    t->log[t->log_count++] = entry;
}

static int testnode_read(struct block_node *node, uint64_t offset, void *buffer, uint64_t bytes)
{
    struct testnode *t = node->state;
    int status = testnode_fails(t, &t->fail_read);
    if (status != 0) {
        memset(buffer, 0xee, t->torn ? bytes / 2 : 0);
        return status;
    }
    uint64_t there = offset >= t->bytes ? 0 : t->bytes - offset < bytes ? t->bytes - offset : bytes;
    if (there > 0) {
        memcpy(buffer, t->data + offset, there);
    }
    memset((uint8_t *)buffer + there, 0, bytes - there);
    return 0;
}

static int testnode_write(struct block_node *node, uint64_t offset, const void *buffer, uint64_t bytes)
{
    struct testnode *t = node->state;
    int status = testnode_fails(t, &t->fail_write);
    if (status == 0 && t->limit != 0 && offset + bytes > t->limit) {
        status = -ENOSPC;
    }
    if (status == 0 && offset + bytes > (UINT64_C(1) << 28)) {
        status = -EFBIG; /* an image that wants this much is hostile */
    }
    if (status != 0) {
        uint64_t end = (offset + bytes / 2) & ~UINT64_C(511);
        if (t->torn && status != -EFBIG && end > offset && (t->limit == 0 || end <= t->limit)) {
            testnode_grow(t, end);
            memcpy(t->data + offset, buffer, end - offset);
            node->bytes = t->bytes;
            testnode_log(t, TESTNODE_WRITE, offset, end - offset, buffer);
        }
        return status;
    }
    testnode_grow(t, offset + bytes);
    memcpy(t->data + offset, buffer, bytes);
    node->bytes = t->bytes;
    testnode_log(t, TESTNODE_WRITE, offset, bytes, buffer);
    return 0;
}

/* What is given back reads as zeroes; in the log it is a write of them. */
static int testnode_discard(struct block_node *node, uint64_t offset, uint64_t bytes)
{
    struct testnode *t = node->state;
    uint64_t there = offset >= t->bytes ? 0 : t->bytes - offset < bytes ? t->bytes - offset : bytes;
    if (there > 0) {
        memset(t->data + offset, 0, there);
        testnode_log(t, TESTNODE_WRITE, offset, there, t->data + offset);
    }
    return 0;
}

static int testnode_flush(struct block_node *node)
{
    struct testnode *t = node->state;
    int status = testnode_fails(t, &t->fail_flush);
    if (status == 0) {
        testnode_log(t, TESTNODE_FLUSH, 0, 0, NULL);
    }
    return status;
}

static int testnode_map(struct block_node *node, uint64_t offset, uint64_t bytes, struct block_extent *extent)
{
    (void)node;
    *extent = (struct block_extent){.flags = EXTENT_DATA | EXTENT_OFFSET | EXTENT_ALLOCATED, .bytes = bytes, .host_offset = offset};
    return 0;
}

static int testnode_resize(struct block_node *node, uint64_t bytes, int prealloc, struct error *error)
{
    struct testnode *t = node->state;
    (void)prealloc;
    if (bytes > (UINT64_C(1) << 28)) {
        error_set(error, "too large for a test");
        return -EFBIG;
    }
    if (bytes < t->bytes) {
        memset(t->data + bytes, 0, t->bytes - bytes);
        t->bytes = bytes;
    }
    testnode_grow(t, bytes);
    node->bytes = t->bytes;
    testnode_log(t, TESTNODE_RESIZE, 0, bytes, NULL);
    return 0;
}

static int testnode_driver_open(struct block_node *node, struct error *error)
{
    (void)node;
    (void)error;
    return 0;
}

static const struct block_driver testnode_driver = {
    .name = "test",
    .open = testnode_driver_open,
    .read = testnode_read,
    .write = testnode_write,
    .discard = testnode_discard,
    .flush = testnode_flush,
    .map = testnode_map,
    .resize = testnode_resize,
};

struct block_node *testnode_open(struct testnode *t)
{
    struct block_node *node = calloc(1, sizeof(*node));
    *node = (struct block_node){.driver = &testnode_driver, .filename = strdup("/nowhere/test"), .bytes = t->bytes, .alignment = 1, .state = t};
    return node;
}

void testnode_set(struct testnode *t, const void *data, uint64_t bytes)
{
    if (t->data != NULL) {
        memset(t->data, 0, t->bytes);
    }
    t->bytes = 0;
    testnode_grow(t, bytes);
    if (bytes > 0) {
        memcpy(t->data, data, bytes);
    }
}

void testnode_clear_log(struct testnode *t)
{
    for (size_t i = 0; i < t->log_count; i++) {
        free(t->log[i].data);
    }
    t->log_count = 0;
}

void testnode_free(struct testnode *t)
{
    testnode_clear_log(t);
    free(t->log);
    free(t->data);
    *t = (struct testnode){0};
}
