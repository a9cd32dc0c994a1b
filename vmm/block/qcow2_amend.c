/* SPDX-License-Identifier: MIT */
/*
 * Another version of the format, lazy refcounts or not, another width of refcounts: for an image that exists. In each step the tables are made so that
 * both the old header and the new one are true of them, then the header changes, in its first sector.
 */
#include <errno.h>
#include <stdlib.h>

#include "block/qcow2.h"

/* ---- To version 2: it has no zero clusters ---- */

static bool amend_has_zeroes(const struct qcow2 *s, const uint8_t *table)
{
    for (unsigned i = 0; i < 1u << s->l2_bits; i++) {
        struct qcow2_entry entry;
        qcow2_table_read(s, table, i, &entry);
        if (!(entry.entry & QCOW2_COMPRESSED) && (entry.entry & QCOW2_ZERO)) {
            return true;
        }
    }
    return false;
}

/* Snapshots must have the disk's size, which version 2 does not say for each, and no zero clusters. With the lock held. */
static int amend_check_snapshots(struct qcow2 *s, struct error *error)
{
    for (uint32_t i = 0; i < s->snapshot_count; i++) {
        const struct qcow2_snapshot *snapshot = &s->snapshots[i];
        bool bad = snapshot->vm_state_bytes > UINT32_MAX || snapshot->disk_bytes != s->node->bytes;
        uint64_t *l1 = NULL;
        int status = bad ? 0 : qcow2_load_l1(s, snapshot->l1_offset, snapshot->l1_size, &l1);
        for (uint32_t j = 0; l1 != NULL && j < snapshot->l1_size && status == 0 && !bad; j++) {
            struct qcow2_table *table;
            uint64_t offset = l1[j] & QCOW2_OFFSET_MASK;
            if (offset != 0) {
                status = qcow2_aligned(s, offset) ? qcow2_l2_get(s, offset, false, &table) : -EIO;
                bad = status == 0 && amend_has_zeroes(s, table->data);
            }
        }
        free(l1);
        if (bad || status != 0) {
            error_set(error, "Internal snapshots prevent downgrade of image: '%s' %s", snapshot->name,
                      bad ? "has zero clusters, or another size" : strerror(-status));
            return bad ? -ENOTSUP : status;
        }
    }
    return 0;
}

/* Zero clusters become nothing, or, where a backing file would show, data. */
static int amend_expand_zeroes(struct block_node *node)
{
    struct qcow2 *s = node->state;
    uint8_t *zeroes = calloc(1, s->cluster_bytes);
    int status = zeroes == NULL ? -ENOMEM : 0;
    for (uint64_t at = 0; at < node->bytes && status == 0;) {
        struct qcow2_extent extent;
        struct qcow2_entry entry, none = {0, 0};
        pthread_mutex_lock(&s->lock);
        status = qcow2_find(s, at, node->bytes - at, false, &extent);
        bool zero = status == 0 && extent.type == QCOW2_ZERO_PLAIN, nothing = zero && s->backing_file[0] == '\0';
        if (nothing) {
            status = qcow2_lookup(s, at, &entry);
            status = status == 0 ? qcow2_update_entry(s, at, &none) : status;
            status = status == 0 ? qcow2_free_entry(s, &entry, false) : status;
        }
        pthread_mutex_unlock(&s->lock);
        uint64_t rest = node->bytes - at, one = s->cluster_bytes < rest ? s->cluster_bytes : rest;
        if (status == 0 && zero && !nothing) {
            status = qcow2_write(node, at, zeroes, one);
        }
        at += zero ? s->cluster_bytes : extent.bytes;
    }
    free(zeroes);
    return status;
}

static void amend_drop_extension(struct qcow2 *s, uint32_t type)
{
    for (unsigned i = 0; i < s->extension_count;) {
        if (s->extensions[i].type == type) {
            free(s->extensions[i].data);
            s->extensions[i] = s->extensions[--s->extension_count];
        } else {
            i++;
        }
    }
}

static int amend_downgrade(struct block_node *node, struct error *error)
{
    struct qcow2 *s = node->state;
    uint64_t offset, bytes;
    if (s->refcount_order != 4) {
        error_set(error, "compat=0.10 requires refcount_bits=16");
        return -ENOTSUP;
    }
    if (s->incompatible & ~QCOW2_INCOMPAT_DIRTY) {
        error_set(error, "Cannot downgrade an image with incompatible features set");
        return -ENOTSUP;
    }
    if (qcow2_bitmaps_directory(s, &offset, &bytes)) {
        error_set(error, "Cannot store dirty bitmaps in qcow2 v2 files; 'kage img bitmap --remove' removes them");
        return -ENOTSUP;
    }
    pthread_mutex_lock(&s->lock);
    int status = amend_check_snapshots(s, error);
    pthread_mutex_unlock(&s->lock);
    if (status != 0) {
        return status;
    }
    status = amend_expand_zeroes(node);
    pthread_mutex_lock(&s->lock);
    bool lazy = s->lazy;
    s->lazy = false; /* there is no dirty bit any more */
    status = status == 0 ? qcow2_commit(s, true) : status;
    status = status == 0 && s->refblocks.dirty > 0 ? qcow2_commit(s, true) : status;
    status = status == 0 ? qcow2_set_incompatible(s, 0, QCOW2_INCOMPAT_DIRTY) : status;
    if (status == 0) {
        amend_drop_extension(s, QCOW2_EXT_FEATURE_TABLE);
        amend_drop_extension(s, QCOW2_EXT_BITMAPS);
        uint32_t header_bytes = s->header_bytes;
        s->version = 2;
        s->header_bytes = QCOW2_V2_HEADER_LENGTH;
        status = qcow2_write_header(s);
        if (status == 0) {
            s->compatible = s->autoclear = 0;
            free(s->header_rest);
            s->header_rest = NULL;
        } else {
            s->version = 3;
            s->header_bytes = header_bytes;
        }
    }
    s->lazy = status == 0 ? false : lazy;
    pthread_mutex_unlock(&s->lock);
    if (status != 0) {
        error_set(error, "Could not downgrade the image: %s", strerror(-status));
    }
    return status;
}

/* ---- To version 3 ---- */

static int amend_upgrade(struct qcow2 *s, struct error *error)
{
    /* Its snapshots say how large their disks are. */
    int status = s->snapshot_count > 0 ? qcow2_rewrite_snapshots(s) : 0;
    status = status == 0 ? qcow2_commit(s, true) : status;
    if (status == 0) {
        s->version = 3;
        s->header_bytes = QCOW2_V3_HEADER_LENGTH;
        status = qcow2_write_header(s);
        if (status != 0) {
            s->version = 2;
            s->header_bytes = QCOW2_V2_HEADER_LENGTH;
        }
    }
    if (status != 0) {
        error_set(error, "Could not upgrade the image: %s", strerror(-status));
    }
    return status;
}

static int amend_lazy(struct qcow2 *s, bool lazy, struct error *error)
{
    bool was = s->lazy;
    uint64_t compatible = s->compatible;
    s->lazy = false;
    int status = qcow2_commit(s, true);
    status = status == 0 && s->refblocks.dirty > 0 ? qcow2_commit(s, true) : status;
    status = status == 0 ? qcow2_set_incompatible(s, 0, QCOW2_INCOMPAT_DIRTY) : status;
    s->compatible = lazy ? s->compatible | QCOW2_COMPAT_LAZY_REFCOUNTS : s->compatible & ~QCOW2_COMPAT_LAZY_REFCOUNTS;
    status = status == 0 ? qcow2_write_header(s) : status;
    s->lazy = status == 0 ? lazy : was;
    if (status != 0) {
        s->compatible = compatible;
        error_set(error, "Could not change lazy_refcounts: %s", strerror(-status));
    }
    return status;
}

static int amend_refcounts(struct qcow2 *s, unsigned bits, struct error *error)
{
    int status = qcow2_set_refcount_order(s, (unsigned)__builtin_ctz(bits));
    if (status != 0) {
        error_set(error, status == -ERANGE ? "Cannot decrease refcount entry width to %u bits: a cluster has a larger refcount%s"
                                           : "Cannot change the refcount entry width to %u bits: %s",
                  bits, status == -ERANGE ? "" : strerror(-status));
    }
    return status;
}

int qcow2_amend(struct block_node *node, const struct node_amend *amend, struct error *error)
{
    struct qcow2 *s = node->state;
    unsigned version = amend->version != 0 ? amend->version : s->version;
    unsigned bits = amend->refcount_bits != 0 ? amend->refcount_bits : 1u << s->refcount_order;
    bool lazy = amend->has_lazy ? amend->lazy : s->lazy && version >= 3;
    if (node->options.read_only || s->broken) {
        error_set(error, "Image is read-only");
        return -EROFS;
    }
    if (version < 3 && lazy) {
        error_set(error, "Lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 or greater)");
        return -EINVAL;
    }
    if (version < 3 && bits != 16) {
        error_set(error, "Refcount widths other than 16 bits require compatibility level 1.1 or above (use compat=1.1 or greater)");
        return -EINVAL;
    }
    int status = 0;
    pthread_mutex_lock(&s->lock);
    if (s->version < version) {
        status = amend_upgrade(s, error);
    }
    if (status == 0 && bits != 1u << s->refcount_order) {
        status = amend_refcounts(s, bits, error);
    }
    if (status == 0 && version >= 3 && lazy != s->lazy) {
        status = amend_lazy(s, lazy, error);
    }
    pthread_mutex_unlock(&s->lock);
    return status == 0 && s->version > version ? amend_downgrade(node, error) : status;
}
