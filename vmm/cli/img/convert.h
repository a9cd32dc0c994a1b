/* SPDX-License-Identifier: MIT */
/* The content of one image into another, by several threads. */
#ifndef KAGE_CLI_IMG_CONVERT_H
#define KAGE_CLI_IMG_CONVERT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "block/node.h"

#define CONVERT_SPARSE_MAX (2u << 20)
#define CONVERT_THREADS_MAX 16u

struct convert {
    struct block_node *from, *to;
    bool from_top_only;  /* -B: what the top does not hold, the target's backing file has */
    bool target_is_zero; /* nothing needs to be written for zeroes */
    bool compress, salvage, progress;
    bool any_order;      /* -W: pieces are written as they come */
    unsigned threads;    /* -m; 0: a good number */
    size_t sparse;       /* -S: so many zero bytes in a row are left out; 0: everything is written */
    uint64_t total;      /* of the target */
    uint64_t cluster;    /* of the target, for -c */
};

/* 0, or -errno and it has been said. */
int convert_copy(struct convert *convert);

#endif
