/* SPDX-License-Identifier: MIT */
/*
 * The two caches of metadata, and the order in which they are written down (qcow2.h says why). A table is chosen for eviction by a clock's hand,
 * and only if it is clean.
 */
#include <errno.h>
#include <stdlib.h>

#include "block/qcow2.h"

#define CACHE_NONE UINT32_MAX

int qcow2_cache_init(struct qcow2_cache *cache, uint32_t capacity)
{
    uint32_t buckets = 16;
    while (buckets < capacity && buckets < 1u << 20) {
        buckets *= 2;
    }
    *cache = (struct qcow2_cache){.capacity = capacity, .bucket_mask = buckets - 1};
    cache->tables = calloc(capacity, sizeof(*cache->tables));
    cache->buckets = malloc(buckets * sizeof(*cache->buckets));
    if (cache->tables == NULL || cache->buckets == NULL) {
        qcow2_cache_fini(cache);
        return -ENOMEM;
    }
    memset(cache->buckets, 0xff, buckets * sizeof(*cache->buckets));
    return 0;
}

void qcow2_cache_fini(struct qcow2_cache *cache)
{
    for (uint32_t i = 0; i < cache->count; i++) {
        free(cache->tables[i].data);
    }
    free(cache->tables);
    free(cache->buckets);
    *cache = (struct qcow2_cache){0};
}

static uint32_t *cache_bucket(struct qcow2_cache *cache, uint64_t offset)
{
    return &cache->buckets[(offset >> 9) * UINT64_C(0x9e3779b97f4a7c15) >> 40 & cache->bucket_mask];
}

struct qcow2_table *qcow2_cache_find(struct qcow2_cache *cache, uint64_t offset)
{
    for (uint32_t i = *cache_bucket(cache, offset); i != CACHE_NONE; i = cache->tables[i].next) {
        if (cache->tables[i].offset == offset) {
            cache->tables[i].used = true;
            return &cache->tables[i];
        }
    }
    return NULL;
}

static void cache_unlink(struct qcow2_cache *cache, struct qcow2_table *table)
{
    uint32_t index = (uint32_t)(table - cache->tables);
    for (uint32_t *link = cache_bucket(cache, table->offset); *link != CACHE_NONE; link = &cache->tables[*link].next) {
        if (*link == index) {
            *link = table->next;
            break;
        }
    }
    cache->dirty -= table->dirty;
    table->offset = 0;
    table->dirty = table->fresh = table->used = false;
}

void qcow2_cache_drop(struct qcow2_cache *cache, uint64_t offset)
{
    struct qcow2_table *table = qcow2_cache_find(cache, offset);
    if (table != NULL) {
        cache_unlink(cache, table);
    }
}

void qcow2_cache_drop_all(struct qcow2_cache *cache)
{
    for (uint32_t i = 0; i < cache->count; i++) {
        if (cache->tables[i].offset != 0) {
            cache_unlink(cache, &cache->tables[i]);
        }
    }
}

void qcow2_cache_dirty(struct qcow2_cache *cache, struct qcow2_table *table)
{
    cache->dirty += !table->dirty;
    table->dirty = true;
}

/* A table that may be used anew; NULL: all are dirty, or there is no memory. */
static struct qcow2_table *cache_take(struct qcow2 *s, struct qcow2_cache *cache)
{
    if (cache->count < cache->capacity) {
        struct qcow2_table *table = &cache->tables[cache->count];
        uint64_t align = s->file->alignment > 64 ? s->file->alignment : 64;
        table->data = aligned_alloc(align, (s->cluster_bytes + align - 1) / align * align);
        if (table->data != NULL) {
            cache->count++;
            return table;
        }
    }
    for (uint32_t step = 0; step < 2 * cache->count; step++) {
        struct qcow2_table *table = &cache->tables[cache->hand];
        cache->hand = (cache->hand + 1) % cache->count;
        if (table->offset == 0) {
            return table;
        }
        if (!table->dirty && !table->used) {
            cache_unlink(cache, table);
            return table;
        }
        table->used = false;
    }
    return NULL;
}

int qcow2_cache_get(struct qcow2 *s, struct qcow2_cache *cache, uint64_t offset, bool fresh, struct qcow2_table **result)
{
    struct qcow2_table *table = qcow2_cache_find(cache, offset);
    if (table != NULL && !fresh) {
        *result = table;
        return 0;
    }
    if (table != NULL) {
        cache_unlink(cache, table); /* of a cluster that was something else */
    }
    table = cache_take(s, cache);
    if (table == NULL) {
        return cache->count == 0 ? -ENOMEM : -EAGAIN;
    }
    if (fresh) {
        memset(table->data, 0, s->cluster_bytes);
    } else {
        int status = s->file->driver->read(s->file, offset, table->data, s->cluster_bytes);
        if (status != 0) {
            return status;
        }
    }
    uint32_t *bucket = cache_bucket(cache, offset);
    *table = (struct qcow2_table){.offset = offset, .data = table->data, .dirty = fresh, .fresh = fresh, .used = true, .next = *bucket};
    *bucket = (uint32_t)(table - cache->tables);
    cache->dirty += fresh;
    *result = table;
    return 0;
}

int qcow2_l2_get(struct qcow2 *s, uint64_t offset, bool fresh, struct qcow2_table **table)
{
    int status = qcow2_cache_get(s, &s->l2, offset, fresh, table);
    if (status == -EAGAIN) {
        status = qcow2_commit(s, false);
        status = status == 0 ? qcow2_cache_get(s, &s->l2, offset, fresh, table) : status;
    }
    return status;
}

int qcow2_refblock_get(struct qcow2 *s, uint64_t offset, bool fresh, struct qcow2_table **table)
{
    int status = qcow2_cache_get(s, &s->refblocks, offset, fresh, table);
    if (status == -EAGAIN) {
        status = qcow2_write_refblocks(s); /* allowed at any time */
        status = status == 0 ? qcow2_cache_get(s, &s->refblocks, offset, fresh, table) : status;
    }
    return status;
}

/* ---- Writing down ---- */

static int cache_write(struct qcow2 *s, struct qcow2_cache *cache, bool only_fresh)
{
    for (uint32_t i = 0; cache->dirty > 0 && i < cache->count; i++) {
        struct qcow2_table *table = &cache->tables[i];
        if (table->offset == 0 || !table->dirty || (only_fresh && !table->fresh)) {
            continue;
        }
        int status = s->file->driver->write(s->file, table->offset, table->data, s->cluster_bytes);
        if (status != 0) {
            return status;
        }
        table->dirty = false;
        cache->dirty--;
    }
    return 0;
}

int qcow2_write_refblocks(struct qcow2 *s)
{
    return cache_write(s, &s->refblocks, false);
}

static void cache_all_known(struct qcow2_cache *cache)
{
    for (uint32_t i = 0; i < cache->count; i++) {
        cache->tables[i].fresh = false;
    }
}

int qcow2_flush_file(struct qcow2 *s)
{
    pthread_mutex_unlock(&s->lock);
    int status = node_flush(s->file);
    pthread_mutex_lock(&s->lock);
    return status;
}

void qcow2_l1_set(struct qcow2 *s, uint32_t index, uint64_t entry)
{
    s->l1[index] = entry;
    s->l1_dirty[index / 64] = 1;
    s->any_l1_dirty = true;
}

static int commit_l1(struct qcow2 *s)
{
    uint8_t block[512];
    for (uint32_t i = 0; s->any_l1_dirty && i < s->l1_size; i += 64) {
        if (!s->l1_dirty[i / 64]) {
            continue;
        }
        uint32_t count = s->l1_size - i < 64 ? s->l1_size - i : 64;
        for (uint32_t j = 0; j < count; j++) {
            qcow2_put64(block + 8 * j, s->l1[i + j]);
        }
        int status = s->file->driver->write(s->file, s->l1_offset + 8 * (uint64_t)i, block, 8 * (uint64_t)count);
        if (status != 0) {
            return status;
        }
        s->l1_dirty[i / 64] = 0;
    }
    s->any_l1_dirty = false;
    return 0;
}

static int commit_reftable(struct qcow2 *s)
{
    uint64_t bytes = 8 * (uint64_t)s->reftable_size;
    uint8_t *table = malloc(bytes);
    if (table == NULL) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < s->reftable_size; i++) {
        qcow2_put64(table + 8 * (uint64_t)i, s->reftable[i]);
    }
    int status = s->file->driver->write(s->file, s->reftable_offset, table, bytes);
    free(table);
    return status;
}

int qcow2_commit(struct qcow2 *s, bool final)
{
    if (s->broken) {
        return -EIO;
    }
    bool tables = s->l2.dirty > 0 || s->any_l1_dirty;
    bool lazy = s->lazy && (s->incompatible & QCOW2_INCOMPAT_DIRTY);
    int status = lazy ? 0 : qcow2_write_refblocks(s);
    if (status == 0 && tables) {
        status = cache_write(s, &s->l2, true);
    }
    if (status == 0 && (tables || s->reftable_dirty)) {
        status = qcow2_flush_file(s);
    }
    if (status == 0 && s->reftable_dirty && !lazy) {
        status = commit_reftable(s);
        if (status == 0 && tables) {
            status = qcow2_flush_file(s);
        }
        if (status == 0) {
            s->reftable_dirty = false;
            cache_all_known(&s->refblocks);
        }
    }
    if (status == 0 && tables) {
        status = cache_write(s, &s->l2, false);
        if (status == 0) {
            status = commit_l1(s);
        }
        if (status == 0) {
            cache_all_known(&s->l2);
        }
    }
    if (status == 0 && final) {
        status = qcow2_flush_file(s);
        if (status == 0) {
            status = qcow2_apply_freed(s);
        }
    }
    return status;
}
