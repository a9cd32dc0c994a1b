/* SPDX-License-Identifier: MIT */
/*
 * A new image: header, refcount table, refcount block, L1 table, one behind the other. The header is written last.
 */
#include "block/qcow2_create.h"

#include <errno.h>
#include <stdlib.h>

#include "block/qcow2.h"

/* What QEMU's images say too: kind, bit, name. Programs that do not know a feature can name it. */
static const struct {
    uint8_t kind, bit;
    char name[46];
} create_features[] = {
    {0, 0, "dirty bit"},      {0, 1, "corrupt bit"},         {0, 2, "external data file"}, {0, 3, "compression type"},
    {0, 4, "extended L2 entries"}, {1, 0, "lazy refcounts"}, {2, 0, "bitmaps"},            {2, 1, "raw external data"},
};
_Static_assert(sizeof(create_features) % 48 == 0, "rows as the specification draws them");

static int create_check(const struct qcow2_create_options *options, struct error *error)
{
    bool v3 = options->version >= 3;
    if (options->cluster_bits < QCOW2_MIN_CLUSTER_BITS || options->cluster_bits > QCOW2_MAX_CLUSTER_BITS) {
        return error_set(error, "Cluster size must be a power of two between 512 and 2048k");
    }
    if (options->refcount_bits == 0 || options->refcount_bits > 64 || (options->refcount_bits & (options->refcount_bits - 1)) != 0) {
        return error_set(error, "Refcount width must be a power of two and may not exceed 64 bits");
    }
    if (!v3 && options->refcount_bits != 16) {
        return error_set(error, "Different refcount widths than 16 bits require compatibility level 1.1 or above (use version=v3 or greater)");
    }
    if (!v3 && options->lazy_refcounts) {
        return error_set(error, "Lazy refcounts only supported with compatibility level 1.1 and above (use version=v3 or greater)");
    }
    if (!v3 && options->zstd) {
        return error_set(error, "Non-zlib compression type is only supported with compatibility level 1.1 and above (use version=v3 or greater)");
    }
    if (!v3 && options->extended_l2) {
        return error_set(error, "Extended L2 entries are only supported with compatibility level 1.1 and above (use version=v3 or greater)");
    }
    if (options->extended_l2 && options->cluster_bits < 14) {
        return error_set(error, "Extended L2 entries are only supported with cluster sizes of at least 16384 bytes");
    }
    if (options->size % 512 != 0) {
        return error_set(error, "Image size must be a multiple of 512 bytes");
    }
    if (options->backing_file != NULL && strlen(options->backing_file) > 1023) {
        return error_set(error, "Backing file name is too long");
    }
    return 0;
}

int qcow2_create(struct block_node *file, const struct qcow2_create_options *options, struct error *error)
{
    if (create_check(options, error) != 0) {
        return -EINVAL;
    }
    struct block_node node = {.filename = file->filename, .bytes = options->size, .options = file->options};
    struct qcow2 s = {
        .node = &node,
        .file = file,
        .version = options->version,
        .cluster_bits = options->cluster_bits,
        .cluster_bytes = UINT64_C(1) << options->cluster_bits,
        .header_bytes = options->version == 2 ? QCOW2_V2_HEADER_LENGTH : QCOW2_V3_HEADER_LENGTH,
        .incompatible = (options->extended_l2 ? QCOW2_INCOMPAT_EXTL2 : 0) | (options->zstd ? QCOW2_INCOMPAT_COMPRESSION : 0),
        .compatible = options->lazy_refcounts ? QCOW2_COMPAT_LAZY_REFCOUNTS : 0,
        .compression = options->zstd,
        .l2_bits = options->cluster_bits - (options->extended_l2 ? 4 : 3),
        .refcount_order = (unsigned)__builtin_ctz(options->refcount_bits),
    };
    /* A table that is there, even for a disk of no size. */
    uint64_t l1_size = options->size != 0 ? qcow2_l1_needed(&s, options->size) : 1, per = s.cluster_bytes * 8 / options->refcount_bits;
    if (options->size > INT64_MAX - s.cluster_bytes || l1_size * 8 > QCOW2_MAX_L1_BYTES) {
        error_set(error, "The image size is too large for file format 'qcow2' (try using a larger cluster size)");
        return -EFBIG;
    }
    uint64_t l1_clusters = qcow2_align(&s, 8 * l1_size) >> s.cluster_bits, blocks = 1, table_clusters = 1;
    for (;;) {
        uint64_t clusters = 1 + table_clusters + blocks + l1_clusters;
        if (clusters > blocks * per) {
            blocks = (clusters + per - 1) / per;
        } else if (blocks * 8 > table_clusters << s.cluster_bits) {
            table_clusters = qcow2_align(&s, blocks * 8) >> s.cluster_bits;
        } else {
            break;
        }
    }
    uint64_t clusters = 1 + table_clusters + blocks + l1_clusters;
    s.reftable_offset = s.cluster_bytes;
    s.reftable_clusters = (uint32_t)table_clusters;
    s.l1_size = (uint32_t)l1_size;
    s.l1_offset = (1 + table_clusters + blocks) << s.cluster_bits;
    uint8_t *table = calloc(table_clusters, s.cluster_bytes), *block = calloc(1, s.cluster_bytes);
    int status = table == NULL || block == NULL ? -ENOMEM : 0;
    pthread_mutex_init(&s.lock, NULL);
    pthread_mutex_lock(&s.lock);
    status = status == 0 ? file->driver->resize(file, 0, NODE_PREALLOC_OFF, error) : status;
    if (file->bytes != 0 && status == 0) { /* a device keeps its size: nothing old may be taken for tables */
        status = node_write_zeroes(file, 0, clusters << s.cluster_bits, 0);
    }
    for (uint64_t i = 0; i < blocks && status == 0; i++) {
        memset(block, 0, s.cluster_bytes);
        for (uint64_t j = 0; j < per && i * per + j < clusters; j++) {
            qcow2_refblock_write(block, s.refcount_order, j, 1);
        }
        qcow2_put64(table + 8 * i, (1 + table_clusters + i) << s.cluster_bits);
        status = file->driver->write(file, (1 + table_clusters + i) << s.cluster_bits, block, s.cluster_bytes);
    }
    if (status == 0) {
        status = file->driver->write(file, s.reftable_offset, table, table_clusters << s.cluster_bits);
    }
    if (status == 0 && file->bytes < clusters << s.cluster_bits) {
        status = file->driver->resize(file, clusters << s.cluster_bits, NODE_PREALLOC_OFF, error);
    }
    struct qcow2_extension features = {QCOW2_EXT_FEATURE_TABLE, sizeof(create_features), (uint8_t *)(uintptr_t)create_features};
    if (options->version >= 3) {
        s.extensions = &features;
        s.extension_count = 1;
    }
    if (options->backing_file != NULL) {
        snprintf(s.backing_file, sizeof(s.backing_file), "%s", options->backing_file);
        snprintf(s.backing_format, sizeof(s.backing_format), "%s", options->backing_format != NULL ? options->backing_format : "");
    }
    if (status == 0) {
        status = qcow2_write_header(&s);
        if (status == -ENOSPC && s.extension_count > 0) { /* small clusters and a long name */
            s.extension_count = 0;
            status = qcow2_write_header(&s);
        }
    }
    if (status != 0) {
        error_set(error, "Could not write the new image: %s", strerror(-status));
    }
    pthread_mutex_unlock(&s.lock);
    pthread_mutex_destroy(&s.lock);
    free(table);
    free(block);
    return status;
}
