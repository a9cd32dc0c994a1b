/* SPDX-License-Identifier: MIT */
/* From the guest's offsets to the file's: L1, L2, and what an entry says. */
#include <errno.h>
#include <stdlib.h>

#include "block/qcow2.h"

#define FIND_MAX (UINT64_C(1) << 40)

void qcow2_table_read(const struct qcow2 *s, const uint8_t *table, unsigned index, struct qcow2_entry *entry)
{
    const uint8_t *at = table + (size_t)index * s->l2_entry_bytes;
    entry->entry = qcow2_get64(at);
    entry->bitmap = s->extended ? qcow2_get64(at + 8) : 0;
}

void qcow2_table_write(const struct qcow2 *s, uint8_t *table, unsigned index, const struct qcow2_entry *entry)
{
    uint8_t *at = table + (size_t)index * s->l2_entry_bytes;
    qcow2_put64(at, entry->entry);
    if (s->extended) {
        qcow2_put64(at + 8, entry->bitmap);
    }
}

uint64_t qcow2_compressed_range(const struct qcow2 *s, uint64_t entry, uint64_t *bytes)
{
    unsigned shift = 62 - (s->cluster_bits - 8);
    uint64_t offset = entry & ((UINT64_C(1) << shift) - 1);
    uint64_t sectors = (entry >> shift & ((UINT64_C(1) << (62 - shift)) - 1)) + 1;
    *bytes = sectors * 512 - (offset & 511);
    return offset;
}

enum qcow2_type qcow2_entry_type(const struct qcow2 *s, const struct qcow2_entry *entry, unsigned subcluster)
{
    if (entry->entry & QCOW2_COMPRESSED) {
        return entry->bitmap != 0 ? QCOW2_INVALID : QCOW2_IS_COMPRESSED;
    }
    bool has_offset = (entry->entry & QCOW2_OFFSET_MASK) != 0;
    if (s->extended) {
        bool allocated = entry->bitmap >> subcluster & 1, zero = entry->bitmap >> (32 + subcluster) & 1;
        if ((entry->entry & QCOW2_ZERO) || (allocated && (zero || !has_offset))) {
            return QCOW2_INVALID;
        }
        return zero ? QCOW2_ZERO_PLAIN : allocated ? QCOW2_NORMAL : QCOW2_UNALLOCATED;
    }
    if (entry->entry & QCOW2_ZERO) {
        return s->version >= 3 ? QCOW2_ZERO_PLAIN : QCOW2_INVALID;
    }
    return has_offset ? QCOW2_NORMAL : QCOW2_UNALLOCATED;
}

static int cluster_l2_offset(struct qcow2 *s, uint64_t guest, uint64_t *offset)
{
    uint64_t index = guest >> (s->cluster_bits + s->l2_bits);
    *offset = index < s->l1_size ? s->l1[index] & QCOW2_OFFSET_MASK : 0;
    return qcow2_aligned(s, *offset) ? 0 : qcow2_corrupt(s, "L2 table's offset is not aligned", *offset);
}

/*
 * One entry of a table that is to be looked at only. Where the cache is full of what is dirty, the entry is read past it: who only looks up
 * never writes down.
 */
static int cluster_peek(struct qcow2 *s, uint64_t l2_offset, unsigned index, bool cached, struct qcow2_entry *entry)
{
    struct qcow2_table *table = qcow2_cache_find(&s->l2, l2_offset);
    if (table == NULL && cached) {
        return -EAGAIN;
    }
    int status = table != NULL ? 0 : qcow2_cache_get(s, &s->l2, l2_offset, false, &table);
    if (status == 0) {
        qcow2_table_read(s, table->data, index, entry);
    } else if (status == -EAGAIN) {
        uint8_t raw[16];
        status = s->file->driver->read(s->file, l2_offset + (uint64_t)index * s->l2_entry_bytes, raw, s->l2_entry_bytes);
        qcow2_table_read(s, raw, 0, entry);
    }
    return status;
}

int qcow2_lookup(struct qcow2 *s, uint64_t offset, struct qcow2_entry *entry)
{
    uint64_t l2_offset;
    int status = cluster_l2_offset(s, offset, &l2_offset);
    *entry = (struct qcow2_entry){0, 0};
    unsigned index = (unsigned)(offset >> s->cluster_bits & ((UINT64_C(1) << s->l2_bits) - 1));
    return status != 0 || l2_offset == 0 ? status : cluster_peek(s, l2_offset, index, false, entry);
}

int qcow2_find(struct qcow2 *s, uint64_t offset, uint64_t bytes, bool cached, struct qcow2_extent *extent)
{
    uint64_t end = offset + (bytes < FIND_MAX ? bytes : FIND_MAX), at = offset;
    uint64_t l2_span = UINT64_C(1) << (s->cluster_bits + s->l2_bits);
    *extent = (struct qcow2_extent){0};
    while (at < end) {
        uint64_t l2_offset;
        int status = cluster_l2_offset(s, at, &l2_offset);
        if (status != 0) {
            return status;
        }
        if (l2_offset == 0) {
            if (at != offset && (extent->type != QCOW2_UNALLOCATED || extent->has_offset)) {
                break;
            }
            at = (at | (l2_span - 1)) + 1;
            continue;
        }
        struct qcow2_entry entry;
        status = cluster_peek(s, l2_offset, (unsigned)(at >> s->cluster_bits & ((UINT64_C(1) << s->l2_bits) - 1)), cached, &entry);
        if (status == -EAGAIN && at != offset) {
            break;
        }
        if (status != 0) {
            return status;
        }
        uint64_t inside = at & (s->cluster_bytes - 1);
        bool stop = false;
        for (unsigned sub = (unsigned)(inside / s->subcluster_bytes); sub < s->subclusters && at < end && !stop; sub++) {
            enum qcow2_type type = qcow2_entry_type(s, &entry, sub);
            bool copied = (entry.entry & QCOW2_COPIED) != 0, has_offset = (entry.entry & QCOW2_OFFSET_MASK) != 0 && type != QCOW2_IS_COMPRESSED;
            uint64_t host = (entry.entry & QCOW2_OFFSET_MASK) + (at & (s->cluster_bytes - 1));
            if (at == offset) {
                *extent = (struct qcow2_extent){.type = type, .copied = copied, .has_offset = has_offset, .host = host};
                if (type == QCOW2_INVALID || (has_offset && !qcow2_aligned(s, entry.entry & QCOW2_OFFSET_MASK))) {
                    return qcow2_corrupt(s, "L2 entry makes no sense", offset);
                }
                if (type == QCOW2_IS_COMPRESSED) {
                    extent->host = qcow2_compressed_range(s, entry.entry, &extent->host_bytes);
                }
            } else {
                stop = type != extent->type || type == QCOW2_IS_COMPRESSED || type == QCOW2_INVALID ||
                       (type == QCOW2_NORMAL && copied != extent->copied) || has_offset != extent->has_offset ||
                       (has_offset && host != extent->host + (at - offset));
            }
            if (!stop) {
                at = (at | (s->subcluster_bytes - 1)) + 1;
                if (type == QCOW2_IS_COMPRESSED) {
                    at = (at - 1) | (s->cluster_bytes - 1);
                    at++;
                    stop = true;
                }
            }
        }
        if (stop) {
            break;
        }
    }
    extent->bytes = (at < end ? at : end) - offset;
    return 0;
}

int qcow2_l2_for_write(struct qcow2 *s, uint64_t offset, struct qcow2_table **table)
{
    uint32_t index = (uint32_t)(offset >> (s->cluster_bits + s->l2_bits));
    uint64_t old, got, fresh;
    bool clean;
    if (index >= s->l1_size) {
        return -EIO;
    }
    int status = cluster_l2_offset(s, offset, &old);
    if (status != 0) {
        return status;
    }
    if (old != 0 && (s->l1[index] & QCOW2_COPIED)) {
        return qcow2_l2_get(s, old, false, table);
    }
    /* A table of its own: empty, or a copy of the one that a snapshot has too. The old one is read before anything changes. */
    uint8_t *copy = NULL;
    if (old != 0) {
        copy = malloc(s->cluster_bytes);
        status = copy == NULL ? -ENOMEM : qcow2_l2_get(s, old, false, table);
        if (status == 0) {
            memcpy(copy, (*table)->data, s->cluster_bytes);
        }
    }
    if (status == 0) {
        status = qcow2_alloc(s, 1, true, &fresh, &got, &clean);
    }
    if (status == 0) {
        status = qcow2_l2_get(s, fresh, true, table);
        if (status != 0) {
            qcow2_free(s, fresh, s->cluster_bytes, false);
        }
    }
    if (status == 0) {
        if (copy != NULL) {
            memcpy((*table)->data, copy, s->cluster_bytes);
        }
        qcow2_l1_set(s, index, fresh | QCOW2_COPIED);
        if (old != 0) {
            status = qcow2_free(s, old, s->cluster_bytes, false);
        }
    }
    free(copy);
    return status;
}

int qcow2_free_entry(struct qcow2 *s, const struct qcow2_entry *entry, bool discard)
{
    uint64_t bytes, offset;
    if (entry->entry & QCOW2_COMPRESSED) {
        offset = qcow2_compressed_range(s, entry->entry, &bytes);
        return qcow2_free(s, offset, bytes, discard);
    }
    offset = entry->entry & QCOW2_OFFSET_MASK;
    if (offset == 0) {
        return 0;
    }
    return qcow2_aligned(s, offset) ? qcow2_free(s, offset, s->cluster_bytes, discard)
                                    : qcow2_corrupt(s, "cluster's offset is not aligned", offset);
}

int qcow2_update_entry(struct qcow2 *s, uint64_t offset, const struct qcow2_entry *entry)
{
    struct qcow2_table *table;
    int status = qcow2_l2_for_write(s, offset, &table);
    if (status == 0) {
        qcow2_table_write(s, table->data, (unsigned)(offset >> s->cluster_bits & ((UINT64_C(1) << s->l2_bits) - 1)), entry);
        qcow2_cache_dirty(&s->l2, table);
    }
    return status;
}
