/* SPDX-License-Identifier: MIT */
/*
 * The graph of an image: nodes, each with a driver. A protocol node (file, nbd) holds raw bytes; a format node (raw, qcow2) has a file child, and
 * perhaps a backing child for what it does not hold itself. All calls are synchronous and return 0 or -errno. A node is used by one thread at
 * a time, except node_read() and node_map_cached(), which may run beside one other call as long as they touch other bytes of the disk.
 *
 * All fields of an image are hostile: a driver checks them where they are read.
 */
#ifndef KAGE_BLOCK_NODE_H
#define KAGE_BLOCK_NODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "util/error.h"

struct block_node;
struct aio_io;

/* ---- What lies where ---- */

#define EXTENT_DATA 1u        /* holds data, or may */
#define EXTENT_ZERO 2u        /* reads as zeroes */
#define EXTENT_OFFSET 4u      /* host_offset is where it lies in the file child, as it is */
#define EXTENT_COMPRESSED 8u
#define EXTENT_WRITABLE 16u   /* with EXTENT_OFFSET and EXTENT_DATA: may be overwritten there */
#define EXTENT_ALLOCATED 32u  /* this node answers for it, not its backing */

struct block_extent {
    unsigned flags;
    uint64_t bytes; /* from the offset asked for */
    uint64_t host_offset;
};

/* ---- Opening ---- */

struct node_options {
    bool read_only;
    bool direct;
    bool no_flush;
    bool force_share;
    bool no_lock;      /* tests */
    bool no_backing;
    bool check;        /* `kage img check`: a dirty or corrupt image opens as it is, nothing is repaired */
    struct { /* seconds; 0: the default (block/nbd.c), and no reconnect */
        unsigned reconnect_delay_s, open_timeout_s, request_timeout_s;
    } nbd;
    bool no_io;        /* only metadata is wanted (info): a backing file is not opened, features needed for data only are let be */
};

/* ---- What a format can tell of an image ---- */

struct node_info {
    uint32_t cluster_bytes;     /* 0: none */
    bool dirty, corrupt, compressed;
    bool has_backing;
    char backing_file[1024];    /* as it stands in the image */
    char backing_format[16];    /* "" where it is not said */
    /* qcow2 */
    bool qcow2;
    const char *compat; /* "0.10", "1.1" */
    const char *compression_type;
    bool lazy_refcounts;
    unsigned refcount_bits;
    bool extended_l2;
    char data_file[1024]; /* external; "" where there is none */
    bool data_file_raw;
};

struct node_snapshot {
    char id[128];
    char name[256];
    uint64_t vm_state_bytes;
    uint32_t date_sec, date_nsec;
    uint64_t vm_clock_ns;
    uint64_t icount; /* UINT64_MAX: not said */
    uint64_t disk_bytes;
};

struct node_bitmap {
    char name[1024];
    uint32_t granularity;
    bool in_use, automatic;
};

enum node_bitmap_action { NODE_BITMAP_ADD, NODE_BITMAP_REMOVE, NODE_BITMAP_CLEAR, NODE_BITMAP_ENABLE, NODE_BITMAP_DISABLE };

struct node_bits { /* bit n, of byte n / 8 the bit n % 8: whether any of the bytes from n * granularity has changed */
    uint8_t *bits; /* to be freed */
    uint64_t count;
    uint32_t granularity;
};

struct node_amend { /* zeroes: as it is */
    unsigned version, refcount_bits;
    bool has_lazy, lazy;
};

#define CHECK_FIX_LEAKS 1u
#define CHECK_FIX_ERRORS 2u

struct node_check {
    uint64_t corruptions, leaks, check_errors;
    uint64_t corruptions_fixed, leaks_fixed;
    uint64_t total_clusters, allocated_clusters, fragmented_clusters, compressed_clusters;
    uint64_t image_end_offset;
    FILE *messages; /* NULL: none are printed */
};

/* ---- Drivers ---- */

#define NODE_UNMAP 1u /* write_zeroes: may give space back */
#define NODE_PREALLOC_OFF 0
#define NODE_PREALLOC_METADATA 1
#define NODE_PREALLOC_FALLOC 2
#define NODE_PREALLOC_FULL 3

struct block_driver {
    const char *name;
    /* `file` (NULL for protocols), `filename` and `options` are set. Fills bytes, and backing by node_open_backing(). */
    int (*open)(struct block_node *node, struct error *error);
    int (*close)(struct block_node *node); /* -errno: something could not be written */
    int (*read)(struct block_node *node, uint64_t offset, void *buffer, uint64_t bytes);
    int (*write)(struct block_node *node, uint64_t offset, const void *buffer, uint64_t bytes);
    int (*write_zeroes)(struct block_node *node, uint64_t offset, uint64_t bytes, unsigned flags);
    int (*discard)(struct block_node *node, uint64_t offset, uint64_t bytes);
    int (*write_compressed)(struct block_node *node, uint64_t offset, const void *buffer, uint64_t bytes);
    /* The two halves of that. pack: from any thread, at any time; a cluster (info) of data into a cluster's room; how many bytes, 0: it does
       not get smaller. */
    size_t (*pack)(const struct block_node *node, const void *cluster, void *packed);
    int (*write_packed)(struct block_node *node, uint64_t offset, const void *packed, size_t bytes);
    int (*flush)(struct block_node *node);
    /* The longest run from `offset` that is alike, at most `bytes` of it. */
    int (*map)(struct block_node *node, uint64_t offset, uint64_t bytes, struct block_extent *extent);
    /* The same from what is in memory, at once, from any thread; -EAGAIN where it is not. */
    int (*map_cached)(struct block_node *node, uint64_t offset, uint64_t bytes, struct block_extent *extent);
    int (*resize)(struct block_node *node, uint64_t bytes, int prealloc, struct error *error);
    int64_t (*allocated)(struct block_node *node); /* bytes on the host's disk */
    int (*fd)(struct block_node *node);            /* of a protocol: for io_uring; else -1 */
    /* Of a protocol that does its own asynchronous I/O: calls `end` once, from any thread, with the bytes moved or -errno. `io` is aligned. */
    void (*submit)(struct block_node *node, struct aio_io *io, void (*end)(struct aio_io *io, int result));
    void (*hurry)(struct block_node *node); /* of a protocol: it will be closed; what is under way may not take long any more */
    int (*info)(struct block_node *node, struct node_info *info);
    int (*check)(struct block_node *node, unsigned fix, struct node_check *check);
    int (*change_backing)(struct block_node *node, const char *file, const char *format, struct error *error); /* NULL file: none */
    /* One by one from 0; -ENOENT behind the last. */
    int (*snapshot_get)(struct block_node *node, unsigned index, struct node_snapshot *snapshot);
    int (*snapshot_create)(struct block_node *node, const char *name, struct error *error);
    int (*snapshot_apply)(struct block_node *node, const char *name, struct error *error);
    int (*snapshot_delete)(struct block_node *node, const char *name, struct error *error);
    int (*snapshot_load)(struct block_node *node, const char *name, struct error *error); /* to read from; only of a read-only node */
    int (*bitmap_get)(struct block_node *node, unsigned index, struct node_bitmap *bitmap);
    int (*bitmap_change)(struct block_node *node, const char *name, enum node_bitmap_action action, uint32_t granularity, struct error *error);
    int (*bitmap_read)(struct block_node *node, const char *name, struct node_bits *bits, struct error *error);
    int (*bitmap_merge)(struct block_node *node, const char *name, const struct node_bits *from, struct error *error);
    int (*amend)(struct block_node *node, const struct node_amend *amend, struct error *error);
    int (*make_empty)(struct block_node *node); /* forget all data (after a commit) */
};

struct block_node {
    const struct block_driver *driver;
    struct block_node *file;    /* owned; NULL for a protocol */
    struct block_node *backing; /* owned; NULL: what is not there reads as zeroes */
    char *filename;
    struct node_options options;
    uint64_t bytes;
    uint32_t alignment; /* of offsets, lengths and buffers that need no copy */
    void *state;
};

extern const struct block_driver file_driver, nbd_driver, raw_driver, qcow2_driver;

/* "raw", "qcow2" (and "file"); NULL where there is none. */
const struct block_driver *node_find_format(const char *name);

/* ---- The graph ---- */

/* Opens a file (or what else a protocol's name says) with a format on it. `format` NULL: guessed from the first bytes, only read-only. NULL with `error` filled. */
struct block_node *node_open(const char *filename, const char *format, const struct node_options *options, struct error *error);
/* A format on a protocol node that is open; takes it over, on failure too. */
struct block_node *node_open_format(const struct block_driver *driver, struct block_node *file, const struct node_options *options,
                                    struct error *error);
struct block_node *node_open_file(const char *filename, const struct node_options *options, struct error *error);
/* For drivers: opens what the header names; `format` "" or NULL is an error. Sets node->backing. */
int node_open_backing(struct block_node *node, const char *file, const char *format, struct error *error);
/* Whether the name is not of a file, but of what a protocol has (nbd:…). */
bool node_has_protocol(const char *name);
/* `file` as it is named in the image at `image`: a relative path is relative to the image's directory. To be freed; NULL: no memory. */
char *node_resolve_path(const char *image, const char *file);
int node_close(struct block_node *node); /* 0, or the first -errno of writing down what was not yet */

/* Bytes outside the node are -EINVAL, writes to a read-only node -EROFS, operations that the driver has not -ENOTSUP. */
int node_read(struct block_node *node, uint64_t offset, void *buffer, uint64_t bytes);
int node_write(struct block_node *node, uint64_t offset, const void *buffer, uint64_t bytes);
int node_write_zeroes(struct block_node *node, uint64_t offset, uint64_t bytes, unsigned flags);
int node_write_compressed(struct block_node *node, uint64_t offset, const void *buffer, uint64_t bytes);
int node_discard(struct block_node *node, uint64_t offset, uint64_t bytes);
int node_flush(struct block_node *node);
int node_map(struct block_node *node, uint64_t offset, uint64_t bytes, struct block_extent *extent);
int node_resize(struct block_node *node, uint64_t bytes, int prealloc, struct error *error);

/* Through the chain: what `offset` reads as, and from which node (depth 0 is `node`). EXTENT_ZERO without a node where nothing is allocated.
   Stops in front of `base` (NULL: none). */
int node_map_chain(struct block_node *node, struct block_node *base, uint64_t offset, uint64_t bytes, struct block_extent *extent,
                   struct block_node **holder, unsigned *depth);

#endif
