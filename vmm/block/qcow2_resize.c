/* SPDX-License-Identifier: MIT */
/* Another size of the disk, and with it of the L1 table. */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

#include "block/qcow2.h"

uint64_t qcow2_l1_needed(const struct qcow2 *s, uint64_t bytes)
{
    unsigned shift = s->cluster_bits + s->l2_bits;
    return (bytes >> shift) + ((bytes & ((UINT64_C(1) << shift) - 1)) != 0);
}

/* The header's size and L1 table change together; the L1 table goes to a new place. With the lock held, and everything committed. */
int qcow2_set_l1_size(struct qcow2 *s, uint64_t disk_bytes, uint32_t l1_size)
{
    uint64_t bytes = 8 * (uint64_t)l1_size, offset, got;
    bool clean;
    if (bytes > QCOW2_MAX_L1_BYTES) {
        return -EFBIG;
    }
    int status = qcow2_alloc(s, qcow2_align(s, bytes) >> s->cluster_bits, true, &offset, &got, &clean);
    if (status != 0) {
        return status;
    }
    uint64_t *l1 = calloc(l1_size, 8);
    uint8_t *raw = calloc(l1_size, 8), *dirty = calloc(l1_size / 64 + 1, 1);
    status = l1 == NULL || raw == NULL || dirty == NULL ? -ENOMEM : 0;
    if (status == 0) {
        memcpy(l1, s->l1, 8 * (size_t)(s->l1_size < l1_size ? s->l1_size : l1_size));
        for (uint32_t i = 0; i < l1_size; i++) {
            qcow2_put64(raw + 8 * (uint64_t)i, l1[i]);
        }
        status = s->file->driver->write(s->file, offset, raw, bytes);
    }
    status = status == 0 ? qcow2_commit(s, true) : status;
    status = status == 0 ? qcow2_switch_l1(s, disk_bytes, l1_size, offset) : status;
    free(raw);
    if (status != 0) {
        free(l1);
        free(dirty);
        qcow2_free(s, offset, qcow2_align(s, bytes), false);
        return status;
    }
    uint64_t old_offset = s->l1_offset, old_bytes = qcow2_align(s, 8 * (uint64_t)s->l1_size);
    free(s->l1);
    free(s->l1_dirty);
    s->l1 = l1;
    s->l1_dirty = dirty;
    s->l1_size = l1_size;
    s->l1_offset = offset;
    return old_bytes > 0 ? qcow2_free(s, old_offset, old_bytes, false) : 0;
}

static int resize_set_size(struct qcow2 *s, uint64_t bytes)
{
    uint8_t raw[8];
    qcow2_put64(raw, bytes);
    int status = qcow2_patch_header(s, offsetof(struct qcow2_header, size), raw, sizeof(raw));
    if (status == 0) {
        s->node->bytes = bytes;
    }
    return status;
}

/* First the size, then the clusters behind it: a crash leaves clusters that nobody reads. */
static int resize_shrink(struct block_node *node, uint64_t bytes)
{
    struct qcow2 *s = node->state;
    uint64_t from = qcow2_align(s, bytes), end = qcow2_align(s, node->bytes);
    uint64_t span = UINT64_C(1) << (s->cluster_bits + s->l2_bits);
    /* The rest of the last cluster must not come back when the disk grows. */
    int status = from > bytes ? qcow2_write_zeroes(node, bytes, (from < node->bytes ? from : node->bytes) - bytes, 0) : 0;
    pthread_mutex_lock(&s->lock);
    status = status == 0 ? qcow2_commit(s, true) : status;
    status = status == 0 ? resize_set_size(s, bytes) : status;
    for (uint64_t at = from; at < end && status == 0;) {
        struct qcow2_entry entry, none = {0, 0};
        uint32_t index = (uint32_t)(at >> (s->cluster_bits + s->l2_bits));
        uint64_t l2_offset = s->l1[index] & QCOW2_OFFSET_MASK;
        if (l2_offset == 0) {
            at = (at | (span - 1)) + 1;
            continue;
        }
        status = qcow2_lookup(s, at, &entry);
        if (status == 0 && (entry.entry != 0 || entry.bitmap != 0)) {
            status = qcow2_update_entry(s, at, &none);
            status = status == 0 ? qcow2_free_entry(s, &entry, true) : status;
        }
        at += s->cluster_bytes;
        bool table_done = (at & (span - 1)) == 0 || at >= end;
        if (status == 0 && table_done && (uint64_t)index * span >= from) {
            l2_offset = s->l1[index] & QCOW2_OFFSET_MASK; /* it may have moved */
            qcow2_l1_set(s, index, 0);
            status = qcow2_free(s, l2_offset, s->cluster_bytes, true);
        }
        if (status == 0 && table_done) {
            status = qcow2_commit(s, true);
        }
    }
    status = status == 0 ? qcow2_commit(s, true) : status;
    pthread_mutex_unlock(&s->lock);
    return status;
}

static int resize_grow(struct block_node *node, uint64_t bytes, int prealloc)
{
    struct qcow2 *s = node->state;
    uint64_t old = node->bytes, needed = qcow2_l1_needed(s, bytes);
    if (needed > QCOW2_MAX_L1_BYTES / 8) {
        return -EFBIG;
    }
    uint64_t behind = node->backing != NULL && node->backing->bytes > old ? node->backing->bytes : old;
    pthread_mutex_lock(&s->lock);
    int status = qcow2_commit(s, true);
    if (status == 0 && needed > s->l1_size) {
        uint32_t more = (uint32_t)needed;
        status = qcow2_set_l1_size(s, old, more);
        status = status == 0 ? qcow2_commit(s, true) : status;
    }
    pthread_mutex_unlock(&s->lock);
    /* Who made the disk shorter may have left something in the rest of its last cluster. */
    uint64_t rest = qcow2_align(s, old) < bytes ? qcow2_align(s, old) : bytes;
    if (status == 0 && rest > old) {
        node->bytes = bytes;
        status = qcow2_write_zeroes(node, old, rest - old, 0);
        node->bytes = old;
    }
    /* Nothing of a longer backing file may show in what is new; that is made sure of before the new size is on the disk. */
    if (status == 0 && behind > old) {
        node->bytes = bytes;
        status = qcow2_write_zeroes(node, old, (behind < bytes ? behind : bytes) - old, 0);
        node->bytes = status == 0 ? bytes : old;
    }
    if (status == 0 && prealloc != NODE_PREALLOC_OFF) {
        node->bytes = bytes;
        status = qcow2_preallocate(s, old, bytes - old);
        node->bytes = status == 0 ? bytes : old;
    }
    pthread_mutex_lock(&s->lock);
    status = status == 0 ? qcow2_commit(s, true) : status;
    status = status == 0 ? resize_set_size(s, bytes) : status;
    pthread_mutex_unlock(&s->lock);
    return status;
}

int qcow2_resize(struct block_node *node, uint64_t bytes, int prealloc, struct error *error)
{
    struct qcow2 *s = node->state;
    uint64_t directory, directory_bytes;
    if (bytes % 512 != 0) {
        error_set(error, "The new size must be a multiple of 512");
        return -EINVAL;
    }
    if (s->snapshot_count > 0 && s->version < 3) { /* it does not say how large a disk its snapshots have */
        error_set(error, "Can't resize an image which has snapshots");
        return -ENOTSUP;
    }
    if (qcow2_bitmaps_directory(s, &directory, &directory_bytes)) {
        error_set(error, "Can't resize an image which has bitmaps");
        return -ENOTSUP;
    }
    if (bytes > INT64_MAX - s->cluster_bytes) {
        error_set(error, "The image size is too large");
        return -EFBIG;
    }
    int status = bytes < node->bytes ? resize_shrink(node, bytes) : bytes > node->bytes ? resize_grow(node, bytes, prealloc) : 0;
    /* The clusters have their places; the file must reach over them, and perhaps have the space. */
    if (status == 0 && bytes > 0 && prealloc != NODE_PREALLOC_OFF && s->virgin << s->cluster_bits > s->file->bytes) {
        struct error inner = {""};
        status = node_resize(s->file, s->virgin << s->cluster_bits, prealloc > NODE_PREALLOC_METADATA ? prealloc : NODE_PREALLOC_OFF, &inner);
    }
    if (status != 0) {
        error_set(error, "Could not resize the image: %s", strerror(-status));
    }
    return status;
}
