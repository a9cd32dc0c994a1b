/* SPDX-License-Identifier: MIT */
/*
 * Refcounts, and who gets which cluster. A region is what one refcount block counts. Clusters are taken only from regions that have a block; when
 * they are full, a new region begins with its block (or blocks), so that no block is needed to count another.
 */
#include <errno.h>
#include <stdlib.h>

#include "block/qcow2.h"

#define OVERLAP_L1_MAX 16384u /* L2 tables that are looked at for each allocation */

/* Widths below a byte start at its lowest bit. */
uint64_t qcow2_refblock_read(const uint8_t *block, unsigned order, uint64_t index)
{
    uint16_t half;
    switch (order) {
    case 0:
    case 1:
    case 2: {
        unsigned bits = 1u << order, each = 8 / bits;
        return block[index / each] >> (index % each * bits) & ((1u << bits) - 1);
    }
    case 3:
        return block[index];
    case 4:
        memcpy(&half, block + 2 * index, 2);
        return be16toh(half);
    case 5:
        return qcow2_get32(block + 4 * index);
    default:
        return qcow2_get64(block + 8 * index);
    }
}

void qcow2_refblock_write(uint8_t *block, unsigned order, uint64_t index, uint64_t value)
{
    uint16_t half = htobe16((uint16_t)value);
    switch (order) {
    case 0:
    case 1:
    case 2: {
        unsigned bits = 1u << order, each = 8 / bits, shift = (unsigned)(index % each) * bits, mask = ((1u << bits) - 1) << shift;
        block[index / each] = (uint8_t)((block[index / each] & ~mask) | ((unsigned)value << shift & mask));
        break;
    }
    case 3:
        block[index] = (uint8_t)value;
        break;
    case 4:
        memcpy(block + 2 * index, &half, 2);
        break;
    case 5:
        qcow2_put32(block + 4 * index, (uint32_t)value);
        break;
    default:
        qcow2_put64(block + 8 * index, value);
    }
}

/* The block of a region; *table NULL: it has none, all is 0. */
static int refcount_block(struct qcow2 *s, uint64_t region, struct qcow2_table **table)
{
    *table = NULL;
    uint64_t offset = region < s->reftable_size ? s->reftable[region] & QCOW2_OFFSET_MASK : 0;
    if (offset == 0) {
        return 0;
    }
    if (!qcow2_aligned(s, offset)) {
        return qcow2_corrupt(s, "refcount block's offset is not aligned", offset);
    }
    return qcow2_refblock_get(s, offset, false, table);
}

int qcow2_refcount_get(struct qcow2 *s, uint64_t cluster, uint64_t *value)
{
    struct qcow2_table *table;
    int status = refcount_block(s, cluster >> s->refblock_bits, &table);
    if (status == 0) {
        uint64_t index = cluster & ((UINT64_C(1) << s->refblock_bits) - 1);
        *value = table != NULL ? qcow2_refblock_read(table->data, s->refcount_order, index) : 0;
    }
    return status;
}

int qcow2_refcount_set(struct qcow2 *s, uint64_t cluster, uint64_t value)
{
    struct qcow2_table *table;
    int status = refcount_block(s, cluster >> s->refblock_bits, &table);
    if (status != 0) {
        return status;
    }
    if (table == NULL) {
        return qcow2_corrupt(s, "cluster is in use, but has no refcount block", cluster << s->cluster_bits);
    }
    qcow2_refblock_write(table->data, s->refcount_order, cluster & ((UINT64_C(1) << s->refblock_bits) - 1), value);
    qcow2_cache_dirty(&s->refblocks, table);
    return 0;
}

int qcow2_refcount_add(struct qcow2 *s, uint64_t offset, uint64_t bytes, int addend)
{
    uint64_t first = offset >> s->cluster_bits, last = (offset + bytes - 1) >> s->cluster_bits;
    for (uint64_t cluster = first; cluster <= last; cluster++) {
        uint64_t value;
        int status = qcow2_refcount_get(s, cluster, &value);
        if (status != 0) {
            return status;
        }
        if (addend < 0 && value < (uint64_t)-addend) {
            return qcow2_corrupt(s, "cluster is freed, but its refcount says that nobody uses it", cluster << s->cluster_bits);
        }
        if (addend > 0 && s->refcount_max - value < (uint64_t)addend) {
            return -ERANGE;
        }
        value = addend < 0 ? value - (uint64_t)-addend : value + (uint64_t)addend;
        status = qcow2_refcount_set(s, cluster, value);
        if (status != 0) {
            return status;
        }
        if (value == 0) {
            s->free_hint = cluster < s->free_hint ? cluster : s->free_hint;
            qcow2_cache_drop(&s->l2, cluster << s->cluster_bits);
            if (s->compressed_at != 0 && (s->compressed_at - 1) >> s->cluster_bits == cluster) {
                s->compressed_at = 0;
            }
        }
    }
    return 0;
}

/* ---- New regions ---- */

/* The refcount table moves into `clusters` at `offset`, whose refcounts are set. */
static int refcount_move_table(struct qcow2 *s, uint64_t offset, uint32_t clusters, uint64_t *table, uint32_t size)
{
    uint64_t bytes = (uint64_t)clusters << s->cluster_bits;
    uint8_t *raw = calloc(1, bytes);
    if (raw == NULL) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < size; i++) {
        qcow2_put64(raw + 8 * (uint64_t)i, table[i]);
    }
    int status = qcow2_write_refblocks(s);
    if (status == 0) {
        status = s->file->driver->write(s->file, offset, raw, bytes);
    }
    free(raw);
    uint8_t patch[12];
    qcow2_put64(patch, offset);
    qcow2_put32(patch + 8, clusters);
    if (status == 0) {
        status = qcow2_patch_header(s, offsetof(struct qcow2_header, refcount_table_offset), patch, sizeof(patch));
    }
    return status;
}

/* A new region behind all others, or several; `extra` clusters in a row behind its blocks are the caller's. */
static int refcount_grow(struct qcow2 *s, uint64_t extra, uint64_t *extra_offset)
{
    uint64_t region = s->reftable_size, per = UINT64_C(1) << s->refblock_bits;
    while (region > 0 && (s->reftable[region - 1] & QCOW2_OFFSET_MASK) == 0) {
        region--;
    }
    uint64_t blocks = 1, table_clusters = 0, table_size = s->reftable_size;
    for (;;) {
        uint64_t need = blocks + extra + table_clusters;
        if (need > blocks * per) {
            blocks = (need + per - 1) / per;
            continue;
        }
        if (region + blocks > table_size) {
            /* Half as much again, so that tables move seldom. */
            uint64_t want = (region + blocks) * 3 / 2 + 1;
            table_clusters = qcow2_align(s, 8 * want) >> s->cluster_bits;
            table_size = table_clusters << s->cluster_bits >> 3;
            continue;
        }
        break;
    }
    if (table_size * 8 > QCOW2_MAX_REFTABLE_BYTES || (region + blocks) << s->refblock_bits > (QCOW2_OFFSET_MASK >> s->cluster_bits)) {
        return -EFBIG;
    }
    uint64_t first = region << s->refblock_bits;
    if (qcow2_overlaps_metadata(s, first << s->cluster_bits, (blocks + extra + table_clusters) << s->cluster_bits)) {
        return qcow2_corrupt(s, "metadata lies where no cluster is counted", first << s->cluster_bits);
    }
    uint64_t *table = s->reftable;
    if (table_clusters > 0) {
        table = calloc(table_size, sizeof(*table));
        if (table == NULL) {
            return -ENOMEM;
        }
        memcpy(table, s->reftable, 8 * (size_t)s->reftable_size);
    }
    int status = 0;
    uint64_t used = blocks + extra + table_clusters;
    for (uint64_t i = 0; i < blocks && status == 0; i++) {
        struct qcow2_table *block;
        status = qcow2_refblock_get(s, (first + i) << s->cluster_bits, true, &block);
        for (uint64_t j = 0; j < per && i * per + j < used && status == 0; j++) {
            qcow2_refblock_write(block->data, s->refcount_order, j, 1);
        }
        if (status == 0) {
            table[region + i] = (first + i) << s->cluster_bits;
        }
    }
    if (status == 0 && table_clusters > 0) {
        status = refcount_move_table(s, (first + blocks + extra) << s->cluster_bits, (uint32_t)table_clusters, table, (uint32_t)table_size);
    }
    if (status != 0) {
        for (uint64_t i = 0; i < blocks; i++) {
            qcow2_cache_drop(&s->refblocks, (first + i) << s->cluster_bits);
            if (table_clusters == 0) {
                table[region + i] = 0;
            }
        }
        if (table_clusters > 0) {
            free(table);
        }
        return status;
    }
    s->virgin = first + used > s->virgin ? first + used : s->virgin;
    *extra_offset = (first + blocks) << s->cluster_bits;
    if (table_clusters == 0) {
        s->reftable_dirty = true;
        return 0;
    }
    uint64_t old_offset = s->reftable_offset, old_clusters = s->reftable_clusters;
    free(s->reftable);
    s->reftable = table;
    s->reftable_size = (uint32_t)table_size;
    s->reftable_clusters = (uint32_t)table_clusters;
    s->reftable_offset = (first + blocks + extra) << s->cluster_bits;
    s->reftable_dirty = false;
    return old_clusters > 0 ? qcow2_refcount_add(s, old_offset, old_clusters << s->cluster_bits, -1) : 0;
}

/* ---- Allocation ---- */

static bool refcount_overlap(uint64_t a, uint64_t a_bytes, uint64_t b, uint64_t b_bytes)
{
    return b != 0 && a < b + b_bytes && b < a + a_bytes;
}

bool qcow2_overlaps_metadata(const struct qcow2 *s, uint64_t offset, uint64_t bytes)
{
    bool overlap = offset < s->cluster_bytes || refcount_overlap(offset, bytes, s->l1_offset, 8 * (uint64_t)s->l1_size) ||
                   refcount_overlap(offset, bytes, s->reftable_offset, 8 * (uint64_t)s->reftable_size) ||
                   refcount_overlap(offset, bytes, s->snapshots_offset, s->snapshots_bytes);
    for (uint32_t i = 0; i < s->snapshot_count && !overlap; i++) {
        overlap = refcount_overlap(offset, bytes, s->snapshots[i].l1_offset, 8 * (uint64_t)s->snapshots[i].l1_size);
    }
    for (uint32_t i = 0; i < s->reftable_size && !overlap; i++) {
        overlap = refcount_overlap(offset, bytes, s->reftable[i] & QCOW2_OFFSET_MASK, s->cluster_bytes);
    }
    for (uint32_t i = 0; i < s->l1_size && s->l1_size <= OVERLAP_L1_MAX && !overlap; i++) {
        overlap = refcount_overlap(offset, bytes, s->l1[i] & QCOW2_OFFSET_MASK, s->cluster_bytes);
    }
    return overlap;
}

static int refcount_take(struct qcow2 *s, uint64_t first, uint64_t clusters, uint64_t *offset, uint64_t *got, bool *clean)
{
    *offset = first << s->cluster_bits;
    *got = clusters;
    *clean = first >= s->virgin;
    s->virgin = first + clusters > s->virgin ? first + clusters : s->virgin;
    if (qcow2_overlaps_metadata(s, *offset, clusters << s->cluster_bits)) {
        return qcow2_corrupt(s, "metadata lies in a cluster that is free by its refcount", *offset);
    }
    for (uint64_t i = 0; i < clusters; i++) {
        int status = qcow2_refcount_set(s, first + i, 1);
        if (status != 0) {
            return status;
        }
    }
    return 0;
}

int qcow2_alloc(struct qcow2 *s, uint64_t clusters, bool exact, uint64_t *offset, uint64_t *got, bool *clean)
{
    int status = qcow2_before_change(s);
    if (status != 0) {
        return status;
    }
    uint64_t per_mask = (UINT64_C(1) << s->refblock_bits) - 1, run = 0, hint = UINT64_MAX;
    for (uint64_t at = s->free_hint;; at++) {
        uint64_t region = at >> s->refblock_bits;
        if (region >= s->reftable_size || (s->reftable[region] & QCOW2_OFFSET_MASK) == 0) {
            if (run > 0 && !exact) {
                s->free_hint = at;
                return refcount_take(s, at - run, run, offset, got, clean);
            }
            run = 0;
            bool more = false; /* regions behind this hole? */
            for (uint64_t i = region; i < s->reftable_size && !more; i++) {
                more = (s->reftable[i] & QCOW2_OFFSET_MASK) != 0;
            }
            if (more) {
                at |= per_mask;
                continue;
            }
            /* The hint moves to the new region only if nothing before it is free. */
            uint64_t virgin = s->virgin;
            status = refcount_grow(s, exact ? clusters : 0, offset);
            if (status != 0) {
                return status;
            }
            s->free_hint = hint < s->free_hint ? hint : s->free_hint;
            if (exact) {
                *got = clusters;
                *clean = *offset >> s->cluster_bits >= virgin;
                return 0;
            }
            at = (*offset >> s->cluster_bits) - 1;
            continue;
        }
        uint64_t value;
        status = qcow2_refcount_get(s, at, &value);
        if (status != 0) {
            return status;
        }
        if (value == 0) {
            hint = hint == UINT64_MAX ? at : hint;
            if (++run == clusters) {
                s->free_hint = hint == at + 1 - run ? at + 1 : hint;
                return refcount_take(s, at + 1 - run, run, offset, got, clean);
            }
        } else if (run > 0) {
            if (!exact) {
                s->free_hint = at;
                return refcount_take(s, at - run, run, offset, got, clean);
            }
            run = 0;
        }
    }
}

/* Bytes for a compressed cluster: behind the last one where there is room, else from a new cluster. */
int qcow2_alloc_compressed(struct qcow2 *s, uint64_t bytes, uint64_t *offset)
{
    int status = qcow2_before_change(s);
    if (status != 0) {
        return status;
    }
    uint64_t got, room = s->compressed_at != 0 ? qcow2_align(s, s->compressed_at) - s->compressed_at : 0;
    bool clean;
    if (room > 0) {
        uint64_t cluster = s->compressed_at >> s->cluster_bits, count, next = 1;
        status = qcow2_refcount_get(s, cluster, &count);
        if (status == 0 && room < bytes) {
            uint64_t region = (cluster + 1) >> s->refblock_bits;
            if (region < s->reftable_size && (s->reftable[region] & QCOW2_OFFSET_MASK) != 0) {
                status = qcow2_refcount_get(s, cluster + 1, &next);
            }
        }
        if (status != 0) {
            return status;
        }
        if (count > 0 && count < s->refcount_max && (room >= bytes || next == 0)) {
            *offset = s->compressed_at;
            if (room < bytes) {
                uint64_t second;
                status = refcount_take(s, cluster + 1, 1, &second, &got, &clean);
                status = status == 0 ? qcow2_refcount_set(s, cluster, count + 1) : status;
            } else {
                status = qcow2_refcount_set(s, cluster, count + 1);
            }
            s->compressed_at = status == 0 ? *offset + bytes : 0;
            return status;
        }
    }
    status = qcow2_alloc(s, 1, true, offset, &got, &clean);
    if (status == 0) {
        s->compressed_at = *offset + bytes;
    }
    return status;
}

/* ---- Giving up ---- */

int qcow2_free(struct qcow2 *s, uint64_t offset, uint64_t bytes, bool discard)
{
    if (s->freed_count > 0) {
        struct qcow2_freed *last = &s->freed[s->freed_count - 1];
        if (last->offset + last->bytes == offset && last->discard == discard && qcow2_aligned(s, offset) && qcow2_aligned(s, bytes)) {
            last->bytes += bytes;
            return 0;
        }
    }
    if (s->freed_count == s->freed_capacity) {
        size_t capacity = s->freed_capacity != 0 ? 2 * s->freed_capacity : 64;
        struct qcow2_freed *freed = realloc(s->freed, capacity * sizeof(*freed));
        if (freed == NULL) {
            return -ENOMEM;
        }
        s->freed = freed;
        s->freed_capacity = capacity;
    }
    s->freed[s->freed_count++] = (struct qcow2_freed){offset, bytes, discard};
    return 0;
}

int qcow2_apply_freed(struct qcow2 *s)
{
    int status = 0;
    for (size_t i = 0; i < s->freed_count; i++) {
        const struct qcow2_freed *freed = &s->freed[i];
        int one = qcow2_refcount_add(s, freed->offset, freed->bytes, -1);
        if (one != 0) {
            status = one; /* the rest leaks no more than it must */
            continue;
        }
        /* Compressed ones begin anywhere; what goes is whole clusters that nobody uses any more. */
        for (uint64_t at = freed->offset & ~(s->cluster_bytes - 1); freed->discard && at < freed->offset + freed->bytes;) {
            uint64_t value, end = at;
            while (end < freed->offset + freed->bytes && qcow2_refcount_get(s, end >> s->cluster_bits, &value) == 0 && value == 0) {
                end += s->cluster_bytes;
            }
            if (end > at && s->file->driver->discard != NULL) {
                s->file->driver->discard(s->file, at, end - at);
            }
            at = end > at ? end : at + s->cluster_bytes;
        }
    }
    s->freed_count = 0;
    return status;
}
