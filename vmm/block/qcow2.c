/* SPDX-License-Identifier: MIT */
/* The qcow2 driver: opening, closing, and the small operations. The large ones have files of their own (qcow2.h lists them). */
#include "block/qcow2.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

#define L2_CACHE_BYTES (UINT64_C(32) << 20)
#define L2_CACHE_TABLES_MIN 16u
#define REFBLOCK_CACHE_BYTES (UINT64_C(4) << 20)
#define REFBLOCK_CACHE_TABLES_MIN 16u

static uint32_t open_cache_tables(const struct qcow2 *s, uint64_t bytes, uint32_t min)
{
    uint64_t tables = bytes >> s->cluster_bits;
    return tables < min ? min : (uint32_t)tables;
}

int qcow2_load_l1(struct qcow2 *s, uint64_t offset, uint32_t size, uint64_t **result)
{
    uint64_t *l1 = calloc(size != 0 ? size : 1, 8);
    int status = l1 == NULL ? -ENOMEM : size != 0 ? s->file->driver->read(s->file, offset, l1, 8 * (uint64_t)size) : 0;
    if (status != 0) {
        free(l1);
        return status;
    }
    for (uint32_t i = 0; i < size; i++) {
        l1[i] = be64toh(l1[i]);
    }
    *result = l1;
    return 0;
}

static int open_tables(struct qcow2 *s, struct error *error)
{
    int status = qcow2_load_l1(s, s->l1_offset, s->l1_size, &s->l1);
    s->l1_dirty = calloc(s->l1_size / 64 + 1, 1);
    if (status == 0) {
        status = s->l1_dirty == NULL ? -ENOMEM : qcow2_load_l1(s, s->reftable_offset, s->reftable_size, &s->reftable);
    }
    if (status == 0) {
        /* No more than the disk has tables, or will have when it is twice as large. */
        uint32_t tables = open_cache_tables(s, L2_CACHE_BYTES, L2_CACHE_TABLES_MIN), most = 2 * s->l1_size + L2_CACHE_TABLES_MIN;
        status = qcow2_cache_init(&s->l2, tables < most ? tables : most);
    }
    if (status == 0) {
        status = qcow2_cache_init(&s->refblocks, open_cache_tables(s, REFBLOCK_CACHE_BYTES, REFBLOCK_CACHE_TABLES_MIN));
    }
    if (status != 0) {
        error_set(error, "Could not read the tables of '%s': %s", s->node->filename, strerror(-status));
    }
    return status;
}

/* An image that was not closed: its refcounts cannot be trusted, so they are made anew. */
static int open_repair(struct qcow2 *s, struct error *error)
{
    struct node_check check = {0};
    s->node->options.check = true; /* what is found is repaired, not complained about */
    int status = qcow2_check(s->node, CHECK_FIX_LEAKS | CHECK_FIX_ERRORS, &check);
    s->node->options.check = false;
    if (status != 0 || check.corruptions != 0 || check.check_errors != 0) {
        error_set(error, "Could not repair dirty image '%s'", s->node->filename);
        return status != 0 ? status : -EIO;
    }
    return 0;
}

/* Features that a writer must clear if he does not know them. */
static int open_autoclear(struct qcow2 *s)
{
    uint64_t kept = s->autoclear & QCOW2_AUTOCLEAR_BITMAPS;
    if (kept == s->autoclear || s->version < 3) {
        return 0;
    }
    uint8_t raw[8];
    qcow2_put64(raw, kept);
    int status = qcow2_patch_header(s, offsetof(struct qcow2_header, autoclear_features), raw, sizeof(raw));
    s->autoclear = status == 0 ? kept : s->autoclear;
    return status;
}

static void open_free(struct qcow2 *s)
{
    qcow2_cache_fini(&s->l2);
    qcow2_cache_fini(&s->refblocks);
    qcow2_free_snapshots(s);
    qcow2_free_header(s);
    free(s->l1);
    free(s->l1_dirty);
    free(s->reftable);
    free(s->freed);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

static int qcow2_open(struct block_node *node, struct error *error)
{
    struct qcow2 *s = calloc(1, sizeof(*s));
    if (s == NULL) {
        error_set(error, "Could not open '%s': %s", node->filename, strerror(ENOMEM));
        return -ENOMEM;
    }
    s->node = node;
    s->file = node->file;
    node->state = s;
    pthread_mutex_init(&s->lock, NULL);
    struct error inner = {""};
    bool writable = !node->options.read_only;
    int status = qcow2_load_header(s, &inner);
    uint32_t snapshots = s->snapshot_count;
    s->snapshot_count = 0;
    if (status != 0) {
        error_set(error, "Could not open '%s': %s", node->filename, inner.text);
        goto out_free;
    }
    status = open_tables(s, error);
    if (status == 0) {
        status = qcow2_load_snapshots(s, snapshots, error);
    }
    if (status != 0) {
        goto out_free;
    }
    s->virgin = qcow2_align(s, s->file->bytes) >> s->cluster_bits;
    pthread_mutex_lock(&s->lock);
    if (writable && !node->options.check) {
        status = open_autoclear(s);
    }
    pthread_mutex_unlock(&s->lock);
    if (status != 0) {
        error_set(error, "Could not write to '%s': %s", node->filename, strerror(-status));
        goto out_free;
    }
    if ((s->incompatible & QCOW2_INCOMPAT_DIRTY) && writable && !node->options.check) {
        status = open_repair(s, error);
        if (status != 0) {
            goto out_free;
        }
    }
    if (s->backing_file[0] != '\0' && !node->options.no_backing && !node->options.no_io) {
        status = node_open_backing(node, s->backing_file, s->backing_format, error);
        if (status != 0) {
            goto out_free;
        }
    }
    return 0;

out_free:
    open_free(s);
    node->state = NULL;
    return status;
}

static int qcow2_close(struct block_node *node)
{
    struct qcow2 *s = node->state;
    int status = 0;
    if (!node->options.read_only && !s->broken) {
        pthread_mutex_lock(&s->lock);
        s->lazy = false; /* refcounts too, now */
        status = qcow2_commit(s, true);
        /* What was freed by that waits in memory: once more. */
        if (status == 0 && s->refblocks.dirty > 0) {
            status = qcow2_commit(s, true);
        }
        if (status == 0 && !node->options.check && !s->must_repair) {
            status = qcow2_set_incompatible(s, 0, QCOW2_INCOMPAT_DIRTY);
        }
        pthread_mutex_unlock(&s->lock);
    }
    open_free(s);
    return status;
}

static int qcow2_node_flush(struct block_node *node)
{
    struct qcow2 *s = node->state;
    pthread_mutex_lock(&s->lock);
    int status = qcow2_commit(s, true);
    pthread_mutex_unlock(&s->lock);
    return status;
}

static int qcow2_map_some(struct qcow2 *s, uint64_t offset, uint64_t bytes, bool cached, struct block_extent *extent)
{
    struct qcow2_extent found;
    int status = qcow2_find(s, offset, bytes, cached, &found);
    if (status != 0) {
        return status;
    }
    static const unsigned flags[] = {
        [QCOW2_UNALLOCATED] = 0,
        [QCOW2_ZERO_PLAIN] = EXTENT_ZERO | EXTENT_ALLOCATED,
        [QCOW2_NORMAL] = EXTENT_DATA | EXTENT_OFFSET | EXTENT_ALLOCATED,
        [QCOW2_IS_COMPRESSED] = EXTENT_DATA | EXTENT_COMPRESSED | EXTENT_ALLOCATED,
        [QCOW2_INVALID] = 0,
    };
    *extent = (struct block_extent){.flags = flags[found.type], .bytes = found.bytes, .host_offset = found.host};
    if (found.type == QCOW2_NORMAL && found.copied) {
        extent->flags |= EXTENT_WRITABLE;
    }
    if ((found.type == QCOW2_ZERO_PLAIN || found.type == QCOW2_UNALLOCATED) && found.has_offset) {
        extent->flags |= EXTENT_OFFSET; /* the cluster is there, its data is not of this range */
    }
    return 0;
}

static int qcow2_map(struct block_node *node, uint64_t offset, uint64_t bytes, struct block_extent *extent)
{
    struct qcow2 *s = node->state;
    pthread_mutex_lock(&s->lock);
    int status = qcow2_map_some(s, offset, bytes, false, extent);
    pthread_mutex_unlock(&s->lock);
    return status;
}

/* For requests on their way to the kernel: never waits. What is unallocated without a backing file reads as zeroes here. */
static int qcow2_map_cached(struct block_node *node, uint64_t offset, uint64_t bytes, struct block_extent *extent)
{
    struct qcow2 *s = node->state;
    if (pthread_mutex_trylock(&s->lock) != 0) {
        return -EAGAIN;
    }
    /* Bitmaps are marked by the first write, which is therefore not plain. */
    int status = !node->options.read_only && (s->broken || !s->bitmaps_marked) ? -EAGAIN : qcow2_map_some(s, offset, bytes, true, extent);
    pthread_mutex_unlock(&s->lock);
    if (status == 0 && !(extent->flags & EXTENT_ALLOCATED) && node->backing == NULL) {
        extent->flags |= EXTENT_ZERO;
    }
    return status;
}

static int64_t qcow2_allocated(struct block_node *node)
{
    return node->file->driver->allocated != NULL ? node->file->driver->allocated(node->file) : -ENOTSUP;
}

static int qcow2_info(struct block_node *node, struct node_info *info)
{
    struct qcow2 *s = node->state;
    *info = (struct node_info){
        .cluster_bytes = (uint32_t)s->cluster_bytes,
        .dirty = (s->incompatible & QCOW2_INCOMPAT_DIRTY) != 0,
        .corrupt = (s->incompatible & QCOW2_INCOMPAT_CORRUPT) != 0,
        .has_backing = s->backing_file[0] != '\0',
        .qcow2 = true,
        .compat = s->version == 2 ? "0.10" : "1.1",
        .compression_type = s->compression == 1 ? "zstd" : "zlib",
        .lazy_refcounts = (s->compatible & QCOW2_COMPAT_LAZY_REFCOUNTS) != 0,
        .refcount_bits = 1u << s->refcount_order,
        .extended_l2 = s->extended,
        .data_file_raw = (s->autoclear & QCOW2_AUTOCLEAR_DATA_FILE_RAW) != 0,
    };
    memcpy(info->backing_file, s->backing_file, sizeof(info->backing_file));
    snprintf(info->backing_format, sizeof(info->backing_format), "%.15s", s->backing_format);
    for (unsigned i = 0; i < s->extension_count; i++) {
        if (s->extensions[i].type == QCOW2_EXT_DATA_FILE && s->extensions[i].bytes < sizeof(info->data_file)) {
            memcpy(info->data_file, s->extensions[i].data, s->extensions[i].bytes);
        }
    }
    return 0;
}

static int qcow2_change_backing(struct block_node *node, const char *file, const char *format, struct error *error)
{
    struct qcow2 *s = node->state;
    if (node->options.read_only) {
        error_set(error, "Image is read-only");
        return -EROFS;
    }
    if (file != NULL && (strlen(file) > 1023 || strlen(format) >= sizeof(s->backing_format))) {
        error_set(error, "The name of the backing file is too long");
        return -EINVAL;
    }
    char old_file[sizeof(s->backing_file)], old_format[sizeof(s->backing_format)];
    memcpy(old_file, s->backing_file, sizeof(old_file));
    memcpy(old_format, s->backing_format, sizeof(old_format));
    memset(s->backing_file, 0, sizeof(s->backing_file));
    memset(s->backing_format, 0, sizeof(s->backing_format));
    if (file != NULL) {
        strcpy(s->backing_file, file);
        strcpy(s->backing_format, format);
    }
    pthread_mutex_lock(&s->lock);
    int status = qcow2_commit(s, true);
    status = status == 0 ? qcow2_write_header(s) : status;
    pthread_mutex_unlock(&s->lock);
    if (status != 0) {
        memcpy(s->backing_file, old_file, sizeof(old_file));
        memcpy(s->backing_format, old_format, sizeof(old_format));
        error_set(error, "Could not change the backing file to '%s': %s", file != NULL ? file : "", strerror(-status));
    }
    return status;
}

const struct block_driver qcow2_driver = {
    .name = "qcow2",
    .open = qcow2_open,
    .close = qcow2_close,
    .read = qcow2_read,
    .write = qcow2_write,
    .write_zeroes = qcow2_write_zeroes,
    .discard = qcow2_discard,
    .write_compressed = qcow2_write_compressed,
    .pack = qcow2_pack,
    .write_packed = qcow2_write_packed,
    .flush = qcow2_node_flush,
    .map = qcow2_map,
    .map_cached = qcow2_map_cached,
    .resize = qcow2_resize,
    .allocated = qcow2_allocated,
    .info = qcow2_info,
    .check = qcow2_check,
    .change_backing = qcow2_change_backing,
    .snapshot_get = qcow2_snapshot_get,
    .snapshot_create = qcow2_snapshot_create,
    .snapshot_apply = qcow2_snapshot_apply,
    .snapshot_delete = qcow2_snapshot_delete,
    .snapshot_load = qcow2_snapshot_load,
    .bitmap_get = qcow2_bitmap_get,
    .bitmap_change = qcow2_bitmap_change,
    .bitmap_read = qcow2_bitmap_read,
    .bitmap_merge = qcow2_bitmap_merge,
    .amend = qcow2_amend,
    .make_empty = qcow2_make_empty,
};
