/* SPDX-License-Identifier: MIT */
/*
 * The guest's data: reading, writing (in place, into clusters of its own, or into copies), zeroes and discards. Data is written before the L2 entry
 * that leads to it changes in memory, so that the next commit's first flush covers it.
 */
#include <errno.h>
#include <stdlib.h>

#include "block/qcow2.h"

#define DATA_FREED_MAX 1024u               /* so many wait before a commit is forced */
#define DATA_RUN_MAX (UINT64_C(16) << 20)  /* bytes allocated at once */

/* ---- Before the first change ---- */

int qcow2_before_change(struct qcow2 *s)
{
    int status = 0;
    if (s->lazy && !(s->incompatible & QCOW2_INCOMPAT_DIRTY)) {
        status = qcow2_set_incompatible(s, QCOW2_INCOMPAT_DIRTY, 0);
    }
    return status;
}

int qcow2_write_begin(struct qcow2 *s)
{
    pthread_mutex_lock(&s->lock);
    int status = s->broken ? -EIO : 0;
    if (status == 0 && !s->bitmaps_marked) {
        status = qcow2_bitmaps_mark(s);
    }
    if (status == 0 && s->freed_count > DATA_FREED_MAX) {
        status = qcow2_commit(s, true);
    }
    pthread_mutex_unlock(&s->lock);
    return status;
}

/* ---- Reading ---- */

static int data_read_compressed(struct qcow2 *s, const struct qcow2_extent *extent, uint64_t inside, void *buffer, uint64_t bytes)
{
    uint8_t *cluster = malloc(s->cluster_bytes);
    if (cluster == NULL) {
        return -ENOMEM;
    }
    int status = qcow2_read_compressed(s, extent->host, extent->host_bytes, cluster);
    if (status == 0) {
        memcpy(buffer, cluster + inside, bytes);
    }
    free(cluster);
    return status;
}

static int data_read_backing(struct qcow2 *s, uint64_t offset, uint8_t *buffer, uint64_t bytes)
{
    struct block_node *backing = s->node->backing;
    uint64_t there = backing == NULL || offset >= backing->bytes ? 0 : backing->bytes - offset < bytes ? backing->bytes - offset : bytes;
    memset(buffer + there, 0, bytes - there);
    return there > 0 ? node_read(backing, offset, buffer, there) : 0;
}

int qcow2_read(struct block_node *node, uint64_t offset, void *buffer, uint64_t bytes)
{
    struct qcow2 *s = node->state;
    uint8_t *to = buffer;
    while (bytes > 0) {
        struct qcow2_extent extent;
        pthread_mutex_lock(&s->lock);
        int status = qcow2_find(s, offset, bytes, false, &extent);
        pthread_mutex_unlock(&s->lock);
        if (status != 0) {
            return status;
        }
        switch (extent.type) {
        case QCOW2_UNALLOCATED:
            status = data_read_backing(s, offset, to, extent.bytes);
            break;
        case QCOW2_ZERO_PLAIN:
            memset(to, 0, extent.bytes);
            break;
        case QCOW2_NORMAL:
            status = s->file->driver->read(s->file, extent.host, to, extent.bytes);
            break;
        case QCOW2_IS_COMPRESSED:
            status = data_read_compressed(s, &extent, offset & (s->cluster_bytes - 1), to, extent.bytes);
            break;
        default:
            status = -EIO;
        }
        if (status != 0) {
            return status;
        }
        offset += extent.bytes;
        to += extent.bytes;
        bytes -= extent.bytes;
    }
    return 0;
}

/* ---- Writing ---- */

/* What is to be written, and around it what must be kept or made zero: `first` to `end` of the disk, at `host`. */
struct data_span {
    uint64_t first, end, host;
    bool clean; /* the file reads as zeroes there */
};

/* Whether the disk reads as zeroes there by its metadata alone. */
static bool data_is_zero(struct qcow2 *s, uint64_t offset, uint64_t end)
{
    while (offset < end) {
        struct qcow2_extent extent;
        pthread_mutex_lock(&s->lock);
        int status = qcow2_find(s, offset, end - offset, false, &extent);
        pthread_mutex_unlock(&s->lock);
        bool bare = extent.type == QCOW2_UNALLOCATED && (s->node->backing == NULL || offset >= s->node->backing->bytes);
        if (status != 0 || (extent.type != QCOW2_ZERO_PLAIN && !bare)) {
            return false;
        }
        offset += extent.bytes;
    }
    return true;
}

/* The span with the guest's bytes in it. The surroundings come from the disk as it is now. */
static int data_write_span(struct qcow2 *s, const struct data_span *span, uint64_t offset, const uint8_t *data, uint64_t bytes)
{
    struct block_node *node = s->node;
    uint64_t first = span->first, end = span->end < node->bytes ? span->end : qcow2_align(s, node->bytes);
    end = end < span->end ? end : span->end;
    if (span->clean && first < offset && data_is_zero(s, first, offset)) {
        first = offset;
    }
    if (span->clean && end > offset + bytes && data_is_zero(s, offset + bytes, end < node->bytes ? end : node->bytes)) {
        end = offset + bytes;
    }
    uint64_t host = span->host + (first - span->first);
    if (first == offset && end == offset + bytes) {
        return s->file->driver->write(s->file, host, data, bytes);
    }
    uint64_t align = s->file->alignment > 64 ? s->file->alignment : 64;
    uint8_t *whole = aligned_alloc(align, (end - first + align - 1) / align * align);
    if (whole == NULL) {
        return -ENOMEM;
    }
    uint64_t tail = offset + bytes, tail_there = tail >= node->bytes ? tail : end < node->bytes ? end : node->bytes;
    int status = first < offset ? qcow2_read(node, first, whole, offset - first) : 0;
    memcpy(whole + (offset - first), data, bytes);
    if (status == 0 && tail < tail_there) {
        status = qcow2_read(node, tail, whole + (tail - first), tail_there - tail);
    }
    if (tail_there < end) {
        memset(whole + (tail_there - first), 0, end - tail_there);
    }
    if (status == 0) {
        status = s->file->driver->write(s->file, host, whole, end - first);
    }
    free(whole);
    return status;
}

static uint64_t data_subcluster_bits(const struct qcow2 *s, uint64_t first, uint64_t end)
{
    uint64_t cluster = first & ~(s->cluster_bytes - 1);
    uint64_t from = (first - cluster) / s->subcluster_bytes, to = (end - cluster + s->subcluster_bytes - 1) / s->subcluster_bytes;
    return ((UINT64_C(1) << to) - 1) & ~((UINT64_C(1) << from) - 1);
}

/* A cluster that has its own place in the file, some of it not in use: the subclusters touched, or (without subclusters: zeroes) all of it. */
static int data_write_reuse(struct qcow2 *s, const struct qcow2_entry *old, uint64_t offset, const uint8_t *data, uint64_t bytes)
{
    uint64_t cluster = offset & ~(s->cluster_bytes - 1), host = old->entry & QCOW2_OFFSET_MASK;
    struct data_span span = {
        .first = offset & ~(s->subcluster_bytes - 1),
        .end = (offset + bytes + s->subcluster_bytes - 1) & ~(s->subcluster_bytes - 1),
    };
    span.host = host + (span.first - cluster);
    int status = data_write_span(s, &span, offset, data, bytes);
    if (status != 0) {
        return status;
    }
    struct qcow2_entry entry = {host | QCOW2_COPIED, old->bitmap};
    if (s->extended) {
        uint64_t bits = data_subcluster_bits(s, span.first, span.end);
        entry.bitmap = (entry.bitmap | bits) & ~(bits << 32);
    }
    pthread_mutex_lock(&s->lock);
    status = qcow2_update_entry(s, cluster, &entry);
    pthread_mutex_unlock(&s->lock);
    return status;
}

/* Clusters from `offset` on, up to `bytes`, that get new places. Returns in *done how many bytes of the guest's were written. */
static int data_write_new(struct qcow2 *s, uint64_t offset, const uint8_t *data, uint64_t bytes, const struct qcow2_entry *old, uint64_t *done)
{
    uint64_t cluster = offset & ~(s->cluster_bytes - 1);
    uint64_t want = (offset + bytes + s->cluster_bytes - 1 - cluster) >> s->cluster_bits, got, host;
    bool clean;
    pthread_mutex_lock(&s->lock);
    int status = qcow2_alloc(s, want, false, &host, &got, &clean);
    pthread_mutex_unlock(&s->lock);
    if (status != 0) {
        return status;
    }
    uint64_t end = cluster + (got << s->cluster_bits);
    uint64_t count = offset + bytes < end ? bytes : end - offset;
    struct data_span span = {.first = cluster, .end = end, .host = host, .clean = clean};
    bool alone = s->extended && got == 1 && !(old->entry & (QCOW2_OFFSET_MASK | QCOW2_COMPRESSED));
    if (alone) { /* nothing but the subclusters touched needs to come along */
        span.first = offset & ~(s->subcluster_bytes - 1);
        span.end = (offset + count + s->subcluster_bytes - 1) & ~(s->subcluster_bytes - 1);
        span.host = host + (span.first - cluster);
    }
    status = data_write_span(s, &span, offset, data, count);
    pthread_mutex_lock(&s->lock);
    uint64_t linked = 0;
    for (; linked < got && status == 0; linked++) {
        struct qcow2_entry before, entry = {(host + (linked << s->cluster_bits)) | QCOW2_COPIED, s->extended ? 0xffffffffu : 0};
        if (alone) {
            uint64_t bits = data_subcluster_bits(s, span.first, span.end);
            entry.bitmap = (old->bitmap & ~(bits << 32)) | bits;
        }
        status = qcow2_lookup(s, cluster + (linked << s->cluster_bits), &before);
        if (status == 0) {
            status = qcow2_update_entry(s, cluster + (linked << s->cluster_bits), &entry);
        }
        if (status == 0) {
            status = qcow2_free_entry(s, &before, false);
            if (status != 0) {
                linked++;
            }
        }
        if (status != 0) {
            break;
        }
    }
    if (linked < got) {
        qcow2_free(s, host + (linked << s->cluster_bits), (got - linked) << s->cluster_bits, false);
    }
    pthread_mutex_unlock(&s->lock);
    *done = count;
    return status;
}

/* Whether the cluster must move to a new place when it is written to. */
static bool data_must_move(const struct qcow2_entry *entry)
{
    return (entry->entry & QCOW2_COMPRESSED) || !(entry->entry & QCOW2_OFFSET_MASK) || !(entry->entry & QCOW2_COPIED);
}

/* How many bytes from `offset` on lie in clusters that must move; in extended images a cluster that is written to in part goes alone. */
static int data_moving_run(struct qcow2 *s, uint64_t offset, uint64_t bytes, uint64_t *run)
{
    uint64_t end = offset + (bytes < DATA_RUN_MAX ? bytes : DATA_RUN_MAX);
    uint64_t at = (offset & ~(s->cluster_bytes - 1)) + s->cluster_bytes;
    bool partial = s->extended && (!qcow2_aligned(s, offset) || at > end);
    while (at < end && !partial) {
        struct qcow2_entry entry;
        int status = qcow2_lookup(s, at, &entry);
        if (status != 0) {
            return status;
        }
        if (!data_must_move(&entry) || (s->extended && at + s->cluster_bytes > end)) {
            break;
        }
        at += s->cluster_bytes;
    }
    *run = (at < end ? at : end) - offset;
    return 0;
}

static int data_write_some(struct qcow2 *s, uint64_t offset, const uint8_t *data, uint64_t bytes, uint64_t *done)
{
    struct qcow2_extent extent;
    struct qcow2_entry entry;
    uint64_t inside = offset & (s->cluster_bytes - 1), run = 0;
    pthread_mutex_lock(&s->lock);
    int status = qcow2_find(s, offset, bytes, false, &extent);
    if (status == 0) {
        status = qcow2_lookup(s, offset, &entry);
    }
    bool in_place = status == 0 && extent.type == QCOW2_NORMAL && extent.copied;
    bool moves = status == 0 && !in_place && data_must_move(&entry);
    if (moves) {
        status = data_moving_run(s, offset, bytes, &run);
    }
    if (status == 0 && in_place && qcow2_overlaps_metadata(s, extent.host & ~(s->cluster_bytes - 1), s->cluster_bytes)) {
        status = qcow2_corrupt(s, "data cluster lies on metadata", extent.host);
    }
    pthread_mutex_unlock(&s->lock);
    if (status != 0) {
        return status;
    }
    if (in_place) {
        *done = extent.bytes;
        return s->file->driver->write(s->file, extent.host, data, extent.bytes);
    }
    if (moves) {
        return data_write_new(s, offset, data, run, &entry, done);
    }
    *done = bytes < s->cluster_bytes - inside ? bytes : s->cluster_bytes - inside;
    return data_write_reuse(s, &entry, offset, data, *done);
}

int qcow2_write(struct block_node *node, uint64_t offset, const void *buffer, uint64_t bytes)
{
    struct qcow2 *s = node->state;
    const uint8_t *from = buffer;
    int status = qcow2_write_begin(s);
    while (bytes > 0 && status == 0) {
        uint64_t done = 0;
        status = data_write_some(s, offset, from, bytes, &done);
        offset += done;
        from += done;
        bytes -= done;
    }
    return status;
}

/* ---- Zeroes and discards ---- */

/* What the entry of a cluster becomes when all of it reads as zeroes. */
static int data_zero_cluster(struct qcow2 *s, uint64_t offset, bool unmap, bool discard)
{
    struct qcow2_entry old, entry = {0, 0};
    int status = qcow2_lookup(s, offset, &old);
    if (status != 0) {
        return status;
    }
    bool own = !data_must_move(&old), keep = own && !unmap;
    bool bare = s->node->backing == NULL || offset >= s->node->backing->bytes;
    if (keep) {
        entry.entry = (old.entry & QCOW2_OFFSET_MASK) | QCOW2_COPIED;
    }
    if (s->extended) {
        entry.bitmap = keep || !bare ? UINT64_C(0xffffffff) << 32 : 0;
    } else if (keep || !bare) {
        entry.entry |= QCOW2_ZERO;
    }
    if (entry.entry == old.entry && entry.bitmap == old.bitmap) {
        return 0;
    }
    status = qcow2_update_entry(s, offset, &entry);
    return status == 0 && !keep ? qcow2_free_entry(s, &old, discard) : status;
}

/* Part of a cluster: subclusters where there are any; by writing where not. */
static int data_zero_part(struct qcow2 *s, uint64_t offset, uint64_t bytes)
{
    if (data_is_zero(s, offset, offset + bytes)) {
        return 0;
    }
    struct qcow2_entry entry;
    if (s->extended && ((offset | bytes) & (s->subcluster_bytes - 1)) == 0) {
        pthread_mutex_lock(&s->lock);
        int status = qcow2_lookup(s, offset, &entry);
        bool fits = status == 0 && !(entry.entry & QCOW2_COMPRESSED);
        if (fits) {
            uint64_t bits = data_subcluster_bits(s, offset, offset + bytes);
            entry.bitmap = (entry.bitmap & ~bits) | bits << 32;
            status = qcow2_update_entry(s, offset & ~(s->cluster_bytes - 1), &entry);
        }
        pthread_mutex_unlock(&s->lock);
        if (fits || status != 0) {
            return status;
        }
    }
    uint8_t *zeroes = calloc(1, bytes);
    if (zeroes == NULL) {
        return -ENOMEM;
    }
    int status = qcow2_write(s->node, offset, zeroes, bytes);
    free(zeroes);
    return status;
}

/* How much from `offset` on reads as zeroes without any entry, in whole clusters; a terabyte of nothing costs no time. */
static uint64_t data_bare(struct qcow2 *s, uint64_t offset, uint64_t bytes)
{
    struct qcow2_extent extent;
    pthread_mutex_lock(&s->lock);
    int status = qcow2_find(s, offset, bytes, false, &extent);
    pthread_mutex_unlock(&s->lock);
    if (status != 0 || extent.type != QCOW2_UNALLOCATED || extent.has_offset || s->node->backing != NULL) {
        return 0;
    }
    return extent.bytes == bytes ? bytes : extent.bytes & ~(s->cluster_bytes - 1);
}

/* The next piece of a range: a part of one cluster, or whole clusters. The disk's end makes a last cluster whole. */
static uint64_t data_piece(const struct qcow2 *s, uint64_t offset, uint64_t bytes, bool *whole)
{
    uint64_t left = s->cluster_bytes - (offset & (s->cluster_bytes - 1));
    uint64_t count = bytes < left ? bytes : left;
    *whole = qcow2_aligned(s, offset) && (count == s->cluster_bytes || offset + count == s->node->bytes);
    return count;
}

int qcow2_write_zeroes(struct block_node *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    struct qcow2 *s = node->state;
    int status = qcow2_write_begin(s);
    while (bytes > 0 && status == 0) {
        bool whole;
        uint64_t count = data_bare(s, offset, bytes);
        if (count > 0) {
            offset += count;
            bytes -= count;
            continue;
        }
        count = data_piece(s, offset, bytes, &whole);
        /* Version 2 has no zeroes: without a backing file a cluster may go, with one it must be written. */
        bool entry_can = s->version >= 3 || ((flags & NODE_UNMAP) && (node->backing == NULL || offset >= node->backing->bytes));
        if (whole && entry_can) {
            pthread_mutex_lock(&s->lock);
            status = data_zero_cluster(s, offset, (flags & NODE_UNMAP) != 0, true);
            if (status == 0 && s->freed_count > DATA_FREED_MAX) {
                status = qcow2_commit(s, true);
            }
            pthread_mutex_unlock(&s->lock);
        } else {
            status = data_zero_part(s, offset, count);
        }
        offset += count;
        bytes -= count;
    }
    return status;
}

int qcow2_discard(struct block_node *node, uint64_t offset, uint64_t bytes)
{
    struct qcow2 *s = node->state;
    int status = qcow2_write_begin(s);
    while (bytes > 0 && status == 0) {
        bool whole;
        uint64_t count = data_bare(s, offset, bytes);
        if (count > 0) {
            offset += count;
            bytes -= count;
            continue;
        }
        count = data_piece(s, offset, bytes, &whole);
        /* Parts stay as they are. Version 2 cannot say "zero" in front of a backing file, which must not show through. */
        if (whole && (s->version >= 3 || node->backing == NULL || offset >= node->backing->bytes)) {
            pthread_mutex_lock(&s->lock);
            status = data_zero_cluster(s, offset, true, true);
            if (status == 0 && s->freed_count > DATA_FREED_MAX) {
                status = qcow2_commit(s, true);
            }
            pthread_mutex_unlock(&s->lock);
        }
        offset += count;
        bytes -= count;
    }
    return status;
}

/* All clusters go, and what lies behind shows again. */
int qcow2_make_empty(struct block_node *node)
{
    struct qcow2 *s = node->state;
    int status = qcow2_write_begin(s);
    pthread_mutex_lock(&s->lock);
    for (uint32_t i = 0; i < s->l1_size && status == 0; i++) {
        uint64_t base = (uint64_t)i << (s->cluster_bits + s->l2_bits);
        uint64_t l2_offset = s->l1[i] & QCOW2_OFFSET_MASK;
        if (l2_offset == 0) {
            continue;
        }
        for (unsigned j = 0; j < 1u << s->l2_bits && status == 0; j++) {
            struct qcow2_entry entry;
            status = qcow2_lookup(s, base + ((uint64_t)j << s->cluster_bits), &entry);
            if (status == 0) {
                status = qcow2_free_entry(s, &entry, true);
            }
        }
        if (status == 0) {
            qcow2_l1_set(s, i, 0);
            status = qcow2_free(s, l2_offset, s->cluster_bytes, true);
        }
        if (status == 0 && s->freed_count > DATA_FREED_MAX) {
            status = qcow2_commit(s, true);
        }
    }
    if (status == 0) {
        status = qcow2_commit(s, true);
    }
    pthread_mutex_unlock(&s->lock);
    return status;
}

int qcow2_preallocate(struct qcow2 *s, uint64_t offset, uint64_t bytes)
{
    uint64_t end = qcow2_align(s, offset + bytes);
    int status = 0;
    pthread_mutex_lock(&s->lock);
    for (uint64_t at = offset & ~(s->cluster_bytes - 1); at < end && status == 0;) {
        struct qcow2_entry entry;
        status = qcow2_lookup(s, at, &entry);
        if (status != 0 || entry.entry != 0 || entry.bitmap != 0) {
            at += s->cluster_bytes;
            continue;
        }
        uint64_t host, got, want = (end - at) >> s->cluster_bits;
        bool clean;
        status = qcow2_alloc(s, want < 256 ? want : 256, false, &host, &got, &clean);
        for (uint64_t i = 0; i < got && status == 0; i++, at += s->cluster_bytes) {
            struct qcow2_entry old, fresh = {(host + (i << s->cluster_bits)) | QCOW2_COPIED, 0};
            status = qcow2_lookup(s, at, &old);
            bool taken = old.entry != 0 || old.bitmap != 0;
            /* A place that is not known to read as zeroes is only kept ready. */
            if (s->extended) {
                fresh.bitmap = clean ? 0xffffffffu : UINT64_C(0xffffffff) << 32;
            } else if (!clean && s->version >= 3) {
                fresh.entry |= QCOW2_ZERO;
            }
            if (status == 0 && !clean && s->version < 3) {
                status = node_write_zeroes(s->file, host + (i << s->cluster_bits), s->cluster_bytes, 0);
            }
            if (status == 0) {
                status = taken ? qcow2_free(s, host + (i << s->cluster_bits), s->cluster_bytes, false) : qcow2_update_entry(s, at, &fresh);
            }
        }
    }
    pthread_mutex_unlock(&s->lock);
    return status;
}
