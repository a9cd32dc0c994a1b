/* SPDX-License-Identifier: MIT */
/*
 * A protocol node in memory, for tests of image formats: it can log every write and flush, and fail the way that disks do.
 */
#ifndef KAGE_TESTS_BLOCK_TESTNODE_H
#define KAGE_TESTS_BLOCK_TESTNODE_H

#include "block/node.h"

enum testnode_kind { TESTNODE_WRITE, TESTNODE_FLUSH, TESTNODE_RESIZE };

struct testnode_entry {
    enum testnode_kind kind;
    uint64_t offset, bytes;
    uint8_t *data;
};

struct testnode {
    uint8_t *data;
    uint64_t bytes, capacity;
    /* The log. */
    bool logging;
    struct testnode_entry *log;
    size_t log_count, log_capacity;
    /* Failures: the nth call from now on fails with `error`; 0: none. Then every call for as long as `sticky`. */
    uint64_t fail_write, fail_read, fail_flush;
    int error;
    bool sticky;
    bool torn; /* a write that fails has written some of its sectors, a read has filled some of the buffer with anything */
    uint64_t limit; /* writes behind it are -ENOSPC; 0: none */
};

/* A node over the content, which stays the caller's when the node is closed. */
struct block_node *testnode_open(struct testnode *content);
void testnode_free(struct testnode *content);
void testnode_set(struct testnode *content, const void *data, uint64_t bytes);
void testnode_clear_log(struct testnode *content);

#endif
