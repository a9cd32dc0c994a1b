/* SPDX-License-Identifier: MIT */
/* Making a qcow2 image. */
#ifndef KAGE_BLOCK_QCOW2_CREATE_H
#define KAGE_BLOCK_QCOW2_CREATE_H

#include <stdbool.h>
#include <stdint.h>

#include "util/error.h"

struct block_node;

struct qcow2_create_options {
    uint64_t size;
    unsigned version;       /* 2 or 3 */
    unsigned cluster_bits;  /* 9 to 21 */
    unsigned refcount_bits; /* 1, 2, 4, … 64 */
    bool lazy_refcounts, extended_l2, zstd;
    const char *backing_file, *backing_format; /* NULL: none */
};

/* On a protocol node, whose content is lost; it stays the caller's. 0, or -errno with `error` filled. */
int qcow2_create(struct block_node *file, const struct qcow2_create_options *options, struct error *error);

#endif
