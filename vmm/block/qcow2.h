/* SPDX-License-Identifier: MIT */
/*
 * qcow2, inside. Names and numbers are those of the format's specification (QEMU docs/interop/qcow2.txt).
 *
 *   guest offset = | L1 index | L2 index | offset in the cluster |
 *   L1 entry     = | 63 COPIED | 62-56 reserved | 55-9 L2 table's offset | 8-0 reserved |
 *   L2 entry     = | 63 COPIED | 62 COMPRESSED | 61-56 reserved | 55-9 cluster's offset | 8-1 reserved | 0 ZERO |
 *   compressed   = | 62 COMPRESSED | 61-x sectors, less one | x-1..0 byte offset |    x = 62 - (cluster_bits - 8)
 *   extended L2: a second word follows, bits 31-0 "subcluster is allocated", 63-32 "reads as zeroes"
 *
 * What keeps an image whole when the power fails at any moment, and any writes since the last flush are lost: metadata waits in two
 * caches, and qcow2_commit() writes it down in steps with a flush between.
 *
 *   1. refcount blocks (they only ever count what is in use, or more), and L2 tables that nothing on the disk leads to yet
 *   2. the refcount table, where it has new blocks
 *   3. L2 tables and the L1 table: now the new clusters, whose data was flushed with step 1, are the guest's
 *   4. only now are clusters that the guest has given up counted down, and may be used again
 *
 * So refcounts on the disk are never too low. At worst, clusters leak.
 *
 * Locking: `lock` guards the caches, L1, and what is in memory. It is held for metadata I/O, never for data or a flush. One thread at a
 * time changes anything (block.c's worker); others only look up.
 */
#ifndef KAGE_BLOCK_QCOW2_H
#define KAGE_BLOCK_QCOW2_H

#include <endian.h>
#include <pthread.h>
#include <string.h>

#include "block/node.h"
#include "block/qcow2_create.h"

#define QCOW2_MAGIC 0x514649fbu
#define QCOW2_V2_HEADER_LENGTH 72u
#define QCOW2_V3_HEADER_LENGTH_MIN 104u
#define QCOW2_V3_HEADER_LENGTH 112u
#define QCOW2_MIN_CLUSTER_BITS 9u
#define QCOW2_MAX_CLUSTER_BITS 21u
#define QCOW2_MAX_L1_BYTES (32u << 20)
#define QCOW2_MAX_REFTABLE_BYTES (8u << 20)
#define QCOW2_MAX_SNAPSHOTS 65536u
#define QCOW2_MAX_SNAPSHOT_TABLE_BYTES (64u << 20)
#define QCOW2_MAX_SNAPSHOT_EXTRA 1024u
#define QCOW2_MAX_BITMAPS 65535u
#define QCOW2_MAX_BITMAP_DIRECTORY_BYTES (64u << 20)

#define QCOW2_INCOMPAT_DIRTY 1u
#define QCOW2_INCOMPAT_CORRUPT 2u
#define QCOW2_INCOMPAT_DATA_FILE 4u
#define QCOW2_INCOMPAT_COMPRESSION 8u
#define QCOW2_INCOMPAT_EXTL2 16u
#define QCOW2_INCOMPAT_KNOWN 31u
#define QCOW2_COMPAT_LAZY_REFCOUNTS 1u
#define QCOW2_AUTOCLEAR_BITMAPS 1u
#define QCOW2_AUTOCLEAR_DATA_FILE_RAW 2u

#define QCOW2_EXT_END 0u
#define QCOW2_EXT_BACKING_FORMAT 0xe2792acau
#define QCOW2_EXT_FEATURE_TABLE 0x6803f857u
#define QCOW2_EXT_BITMAPS 0x23852875u
#define QCOW2_EXT_CRYPTO 0x0537be77u
#define QCOW2_EXT_DATA_FILE 0x44415441u

#define QCOW2_COPIED (UINT64_C(1) << 63)
#define QCOW2_COMPRESSED (UINT64_C(1) << 62)
#define QCOW2_ZERO UINT64_C(1)
#define QCOW2_OFFSET_MASK UINT64_C(0x00fffffffffffe00)

/* All fields are big-endian. */
struct qcow2_header {
    uint32_t magic, version;
    uint64_t backing_file_offset;
    uint32_t backing_file_size, cluster_bits;
    uint64_t size;
    uint32_t crypt_method, l1_size;
    uint64_t l1_table_offset, refcount_table_offset;
    uint32_t refcount_table_clusters, nb_snapshots;
    uint64_t snapshots_offset;
    /* version 3 */
    uint64_t incompatible_features, compatible_features, autoclear_features;
    uint32_t refcount_order, header_length;
    uint8_t compression_type, padding[7];
} __attribute__((packed));
_Static_assert(sizeof(struct qcow2_header) == QCOW2_V3_HEADER_LENGTH, "as the specification draws it");

struct qcow2_snapshot_header {
    uint64_t l1_table_offset;
    uint32_t l1_size;
    uint16_t id_str_size, name_size;
    uint32_t date_sec, date_nsec;
    uint64_t vm_clock_nsec;
    uint32_t vm_state_size, extra_data_size;
} __attribute__((packed));
_Static_assert(sizeof(struct qcow2_snapshot_header) == 40, "as the specification draws it");

/* ---- In memory ---- */

struct qcow2_table { /* an L2 table or a refcount block, as it is on the disk */
    uint64_t offset;  /* 0: unused */
    uint8_t *data;
    bool dirty;
    bool fresh;       /* nothing on the disk leads to it */
    bool used;        /* since the clock's hand was here */
    uint32_t next;    /* in its bucket; UINT32_MAX: last */
};

struct qcow2_cache {
    struct qcow2_table *tables;
    uint32_t count, capacity, hand, bucket_mask, dirty;
    uint32_t *buckets;
};

struct qcow2_freed { /* clusters that the guest has given up; counted down once nothing on the disk leads to them */
    uint64_t offset, bytes;
    bool discard; /* and the space in the file goes */
};

struct qcow2_snapshot {
    uint64_t l1_offset;
    uint32_t l1_size;
    char *id, *name;
    uint32_t date_sec, date_nsec;
    uint64_t vm_clock_nsec, vm_state_bytes, disk_bytes, icount;
    uint8_t *extra; /* as it is on the disk, for what we do not know in it */
    uint32_t extra_bytes;
};

struct qcow2_extension {
    uint32_t type, bytes;
    uint8_t *data;
};

struct qcow2 {
    struct block_node *node, *file;
    pthread_mutex_t lock;
    uint32_t version, cluster_bits, header_bytes;
    uint64_t cluster_bytes;
    uint64_t incompatible, compatible, autoclear;
    uint8_t compression;
    uint32_t crypt_method;
    uint8_t *header_rest; /* of a header that is longer than what we know */
    struct qcow2_extension *extensions; /* all but backing format */
    unsigned extension_count;
    char backing_file[1024], backing_format[64];

    bool extended;
    unsigned l2_entry_bytes, l2_bits; /* entries in an L2 table: 1 << l2_bits */
    unsigned subclusters;             /* 1 or 32 */
    uint64_t subcluster_bytes;

    uint64_t *l1; /* CPU's order */
    uint32_t l1_size;
    uint64_t l1_offset;
    uint8_t *l1_dirty; /* a flag for each 64 entries */
    bool any_l1_dirty;

    unsigned refcount_order, refblock_bits; /* refcounts in a block: 1 << refblock_bits */
    uint64_t refcount_max;
    uint64_t *reftable;
    uint64_t reftable_offset;
    uint32_t reftable_clusters, reftable_size;
    bool reftable_dirty;

    struct qcow2_cache l2, refblocks;
    struct qcow2_freed *freed;
    size_t freed_count, freed_capacity;

    uint64_t free_hint;     /* no cluster below it is free */
    uint64_t virgin;        /* clusters from here on were never written: they read as zeroes */
    uint64_t compressed_at; /* byte behind the last compressed cluster; 0: none */

    struct qcow2_snapshot *snapshots;
    uint32_t snapshot_count;
    uint64_t snapshots_offset, snapshots_bytes;
    bool bitmaps_marked;
    bool must_repair; /* refcounts are known to be wrong: the image stays marked dirty */
    bool lazy, broken; /* broken: a write of metadata failed half-way in a way that memory cannot follow */
};

static inline uint64_t qcow2_align(const struct qcow2 *s, uint64_t bytes)
{
    return (bytes + s->cluster_bytes - 1) & ~(s->cluster_bytes - 1);
}

static inline bool qcow2_aligned(const struct qcow2 *s, uint64_t offset)
{
    return (offset & (s->cluster_bytes - 1)) == 0;
}

static inline uint64_t qcow2_get64(const void *data)
{
    uint64_t value;
    memcpy(&value, data, sizeof(value));
    return be64toh(value);
}

static inline void qcow2_put64(void *data, uint64_t value)
{
    value = htobe64(value);
    memcpy(data, &value, sizeof(value));
}

static inline uint32_t qcow2_get32(const void *data)
{
    uint32_t value;
    memcpy(&value, data, sizeof(value));
    return be32toh(value);
}

static inline void qcow2_put32(void *data, uint32_t value)
{
    value = htobe32(value);
    memcpy(data, &value, sizeof(value));
}

/* ---- qcow2_header.c ---- */

int qcow2_load_header(struct qcow2 *s, struct error *error);
void qcow2_free_header(struct qcow2 *s);
/* The whole first cluster anew: after a change of the backing file or of extensions. */
int qcow2_write_header(struct qcow2 *s);
/* `bytes` of the header at `at` (inside one sector, so that it is there or not), between flushes. */
int qcow2_patch_header(struct qcow2 *s, uint64_t at, const void *data, size_t bytes);
int qcow2_set_incompatible(struct qcow2 *s, uint64_t set, uint64_t clear);
/* Says once what is wrong, and marks the image. Returns -EIO. */
int qcow2_corrupt(struct qcow2 *s, const char *what, uint64_t offset);
/* Size of the disk, and the L1 table, in one write. */
int qcow2_switch_l1(struct qcow2 *s, uint64_t size, uint32_t l1_size, uint64_t l1_offset);

/* ---- qcow2_cache.c ---- */

int qcow2_cache_init(struct qcow2_cache *cache, uint32_t capacity);
void qcow2_cache_fini(struct qcow2_cache *cache);
struct qcow2_table *qcow2_cache_find(struct qcow2_cache *cache, uint64_t offset);
void qcow2_cache_drop(struct qcow2_cache *cache, uint64_t offset);
void qcow2_cache_drop_all(struct qcow2_cache *cache);
void qcow2_cache_dirty(struct qcow2_cache *cache, struct qcow2_table *table);
/* From the file, or (fresh) all zeroes and dirty. -EAGAIN: every table is dirty. The table stays until the next call for this cache. */
int qcow2_cache_get(struct qcow2 *s, struct qcow2_cache *cache, uint64_t offset, bool fresh, struct qcow2_table **table);
/* The same, and makes room by writing down. Changes go this way. */
int qcow2_l2_get(struct qcow2 *s, uint64_t offset, bool fresh, struct qcow2_table **table);
int qcow2_refblock_get(struct qcow2 *s, uint64_t offset, bool fresh, struct qcow2_table **table);
int qcow2_write_refblocks(struct qcow2 *s);
/* With the lock held, which is let go for flushes. `final`: durable when it returns, and what was freed is free. */
int qcow2_commit(struct qcow2 *s, bool final);
int qcow2_flush_file(struct qcow2 *s); /* the same about the lock */
void qcow2_l1_set(struct qcow2 *s, uint32_t index, uint64_t entry);

/* ---- qcow2_refcount.c: with the lock held ---- */

uint64_t qcow2_refblock_read(const uint8_t *block, unsigned order, uint64_t index);
void qcow2_refblock_write(uint8_t *block, unsigned order, uint64_t index, uint64_t value);
int qcow2_refcount_get(struct qcow2 *s, uint64_t cluster, uint64_t *value);
int qcow2_refcount_set(struct qcow2 *s, uint64_t cluster, uint64_t value);
/* For every cluster that the bytes touch. */
int qcow2_refcount_add(struct qcow2 *s, uint64_t offset, uint64_t bytes, int addend);
/* `exact`: that many in a row; else up to that many, at least one. *clean: they read as zeroes. */
int qcow2_alloc(struct qcow2 *s, uint64_t clusters, bool exact, uint64_t *offset, uint64_t *got, bool *clean);
int qcow2_alloc_compressed(struct qcow2 *s, uint64_t bytes, uint64_t *offset);
/* At the next commit. */
int qcow2_free(struct qcow2 *s, uint64_t offset, uint64_t bytes, bool discard);
int qcow2_apply_freed(struct qcow2 *s);
bool qcow2_overlaps_metadata(const struct qcow2 *s, uint64_t offset, uint64_t bytes);

/* ---- qcow2_cluster.c: with the lock held ---- */

struct qcow2_entry {
    uint64_t entry, bitmap; /* bitmap: extended L2 only */
};

enum qcow2_type {
    QCOW2_UNALLOCATED,
    QCOW2_ZERO_PLAIN,
    QCOW2_NORMAL,
    QCOW2_IS_COMPRESSED,
    QCOW2_INVALID,
};

struct qcow2_extent {
    enum qcow2_type type;
    bool copied;
    uint64_t bytes;
    uint64_t host; /* normal; compressed: of the first byte */
    uint64_t host_bytes; /* compressed */
    bool has_offset; /* the cluster has one, whatever its type */
};

enum qcow2_type qcow2_entry_type(const struct qcow2 *s, const struct qcow2_entry *entry, unsigned subcluster);
uint64_t qcow2_compressed_range(const struct qcow2 *s, uint64_t entry, uint64_t *bytes);
void qcow2_table_read(const struct qcow2 *s, const uint8_t *table, unsigned index, struct qcow2_entry *entry);
void qcow2_table_write(const struct qcow2 *s, uint8_t *table, unsigned index, const struct qcow2_entry *entry);
/* The entry of the cluster at `offset`; all zeroes where there is no L2 table. */
int qcow2_lookup(struct qcow2 *s, uint64_t offset, struct qcow2_entry *entry);
/* `cached`: -EAGAIN instead of reading. */
int qcow2_find(struct qcow2 *s, uint64_t offset, uint64_t bytes, bool cached, struct qcow2_extent *extent);
/* The L2 table that may be changed, made if there is none. */
int qcow2_l2_for_write(struct qcow2 *s, uint64_t offset, struct qcow2_table **table);
/* Gives up what an entry held. */
int qcow2_free_entry(struct qcow2 *s, const struct qcow2_entry *entry, bool discard);
int qcow2_update_entry(struct qcow2 *s, uint64_t offset, const struct qcow2_entry *entry);

/* ---- qcow2_data.c ---- */

int qcow2_read(struct block_node *node, uint64_t offset, void *buffer, uint64_t bytes);
int qcow2_write(struct block_node *node, uint64_t offset, const void *buffer, uint64_t bytes);
int qcow2_write_zeroes(struct block_node *node, uint64_t offset, uint64_t bytes, unsigned flags);
int qcow2_discard(struct block_node *node, uint64_t offset, uint64_t bytes);
int qcow2_make_empty(struct block_node *node);
int qcow2_write_begin(struct qcow2 *s); /* before any change of the guest's data */
/* Clusters for the whole range, without data in them. */
int qcow2_preallocate(struct qcow2 *s, uint64_t offset, uint64_t bytes);
int qcow2_before_change(struct qcow2 *s); /* with the lock held, before the guest's data or any refcount changes */

/* ---- qcow2_compress.c ---- */

int qcow2_read_compressed(struct qcow2 *s, uint64_t host, uint64_t host_bytes, uint8_t *cluster);
int qcow2_write_compressed(struct block_node *node, uint64_t offset, const void *buffer, uint64_t bytes);
size_t qcow2_pack(const struct block_node *node, const void *cluster, void *packed);
int qcow2_write_packed(struct block_node *node, uint64_t offset, const void *packed, size_t bytes);

/* ---- qcow2_snapshot.c ---- */

int qcow2_load_snapshots(struct qcow2 *s, uint32_t count, struct error *error);
void qcow2_free_snapshots(struct qcow2 *s);
int qcow2_snapshot_get(struct block_node *node, unsigned index, struct node_snapshot *snapshot);
int qcow2_snapshot_create(struct block_node *node, const char *name, struct error *error);
int qcow2_snapshot_apply(struct block_node *node, const char *name, struct error *error);
int qcow2_snapshot_delete(struct block_node *node, const char *name, struct error *error);
int qcow2_snapshot_load(struct block_node *node, const char *name, struct error *error);
int qcow2_rewrite_snapshots(struct qcow2 *s); /* with all that the version has */
/* An L1 table from the file, in the CPU's order; to be freed. */
int qcow2_load_l1(struct qcow2 *s, uint64_t offset, uint32_t size, uint64_t **l1);

/* ---- qcow2_bitmap.c ---- */

#define QCOW2_BITMAP_IN_USE 1u
#define QCOW2_BITMAP_AUTO 2u

struct qcow2_bitmap_entry {
    uint64_t table_offset;
    uint32_t table_size, flags;
    uint8_t type, granularity_bits;
    const uint8_t *extra; /* while qcow2_bitmaps_each() calls */
    uint32_t extra_bytes;
    char name[1024];
};

/* The directory's entries one by one; calls `each` until it returns other than 0. */
int qcow2_bitmaps_each(struct qcow2 *s, int (*each)(void *opaque, const struct qcow2_bitmap_entry *bitmap), void *opaque);
bool qcow2_bitmaps_directory(const struct qcow2 *s, uint64_t *offset, uint64_t *bytes);
/* Before the first change of data: bitmaps that follow changes are marked as not to be trusted, since we do not keep them. */
int qcow2_bitmaps_mark(struct qcow2 *s);
int qcow2_bitmap_get(struct block_node *node, unsigned index, struct node_bitmap *bitmap);

/* ---- qcow2_bitmap_edit.c ---- */

int qcow2_bitmap_change(struct block_node *node, const char *name, enum node_bitmap_action action, uint32_t granularity, struct error *error);
int qcow2_bitmap_read(struct block_node *node, const char *name, struct node_bits *bits, struct error *error);
int qcow2_bitmap_merge(struct block_node *node, const char *name, const struct node_bits *from, struct error *error);

/* ---- qcow2_amend.c ---- */

int qcow2_amend(struct block_node *node, const struct node_amend *amend, struct error *error);

/* ---- qcow2_check.c ---- */

/* With the lock held: refcounts of another width, all of them counted anew. -ERANGE: one of them does not fit; -EIO: they are not right as it is. */
int qcow2_set_refcount_order(struct qcow2 *s, unsigned order);

int qcow2_check(struct block_node *node, unsigned fix, struct node_check *check);
int qcow2_check_repair(struct qcow2 *s); /* with the lock held: everything, silently; s->must_repair if it could not */
int qcow2_mark_copied(struct qcow2 *s); /* COPIED in the active tables, as the refcounts say */

/* ---- qcow2_resize.c ---- */

int qcow2_resize(struct block_node *node, uint64_t bytes, int prealloc, struct error *error);
int qcow2_set_l1_size(struct qcow2 *s, uint64_t disk_bytes, uint32_t l1_size);
uint64_t qcow2_l1_needed(const struct qcow2 *s, uint64_t bytes);

#endif
