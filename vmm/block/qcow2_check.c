/* SPDX-License-Identifier: MIT */
/*
 * Check and repair: counts who uses which cluster, compares that with the refcounts and the COPIED flags, and makes them right. Where
 * refcount blocks themselves are not where they should be, all refcounts are made anew.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "block/qcow2.h"

#define CHECK_CLUSTERS_MAX (UINT64_C(1) << 31)

struct checker {
    struct qcow2 *s;
    struct node_check *result;
    unsigned fix;
    uint32_t *counts; /* for each cluster of the file */
    uint64_t clusters;
    bool rebuild; /* the refcount structures are not sound */
    bool with_refblocks;
    uint64_t next_host; /* for fragmentation */
};

#define CHECK_SAY(c, ...)                               \
    do {                                                \
        if ((c)->result->messages != NULL) {            \
            fprintf((c)->result->messages, __VA_ARGS__); \
        }                                               \
    } while (0)

/* ---- Counting ---- */

static int check_reserve(struct checker *c, uint64_t clusters)
{
    if (clusters > CHECK_CLUSTERS_MAX) {
        return -EFBIG;
    }
    if (clusters > c->clusters) {
        uint64_t room = clusters + clusters / 8;
        uint32_t *counts = realloc(c->counts, room * sizeof(*counts));
        if (counts == NULL) {
            return -ENOMEM;
        }
        memset(counts + c->clusters, 0, (room - c->clusters) * sizeof(*counts));
        c->counts = counts;
        c->clusters = room;
    }
    return 0;
}

static int check_count(struct checker *c, uint64_t offset, uint64_t bytes)
{
    if (bytes == 0) {
        return 0;
    }
    /* The last cluster may be there only in part. */
    if (offset > QCOW2_OFFSET_MASK || bytes > QCOW2_OFFSET_MASK || (offset + bytes > c->s->file->bytes && offset + bytes - c->s->file->bytes >= c->s->cluster_bytes)) {
        CHECK_SAY(c, "ERROR: counting reference for region exceeding the end of the file by one cluster or more: offset 0x%" PRIx64 " size 0x%" PRIx64 "\n",
                  offset, bytes);
        c->result->corruptions++;
        return 0;
    }
    uint64_t first = offset >> c->s->cluster_bits, last = (offset + bytes - 1) >> c->s->cluster_bits;
    int status = check_reserve(c, last + 1);
    for (uint64_t i = first; i <= last && status == 0; i++) {
        if (c->counts[i] == UINT32_MAX) {
            return -EFBIG;
        }
        c->counts[i]++;
    }
    return status;
}

static int check_l2(struct checker *c, uint64_t l2_offset, bool active, uint8_t *data, uint64_t base)
{
    struct qcow2 *s = c->s;
    int status = s->file->driver->read(s->file, l2_offset, data, s->cluster_bytes);
    if (status != 0) {
        c->result->check_errors++;
        return 0;
    }
    for (unsigned i = 0; i < 1u << s->l2_bits && status == 0; i++) {
        struct qcow2_entry entry;
        qcow2_table_read(s, data, i, &entry);
        for (unsigned sub = 0; sub < s->subclusters; sub++) {
            if (qcow2_entry_type(s, &entry, sub) == QCOW2_INVALID) {
                CHECK_SAY(c, "ERROR table entry makes no sense (guest offset 0x%" PRIx64 ")\n", base + ((uint64_t)i << s->cluster_bits));
                c->result->corruptions++;
                break;
            }
        }
        if (entry.entry & QCOW2_COMPRESSED) {
            uint64_t bytes, offset = qcow2_compressed_range(s, entry.entry, &bytes);
            if (entry.entry & QCOW2_COPIED) {
                CHECK_SAY(c, "ERROR: coffset=0x%" PRIx64 ": copied flag must never be set for compressed clusters\n", offset);
                c->result->corruptions++;
            }
            status = check_count(c, offset, bytes);
            if (active) {
                c->result->allocated_clusters++;
                c->result->compressed_clusters++;
                c->result->fragmented_clusters++;
            }
            continue;
        }
        uint64_t offset = entry.entry & QCOW2_OFFSET_MASK;
        if (offset == 0) {
            continue;
        }
        if (!qcow2_aligned(s, offset)) {
            CHECK_SAY(c, "ERROR offset=%" PRIx64 ": Data cluster is not properly aligned; L2 entry corrupted.\n", offset);
            c->result->corruptions++;
            continue;
        }
        if (active) {
            c->result->allocated_clusters++;
            c->result->fragmented_clusters += c->next_host != 0 && offset != c->next_host;
            c->next_host = offset + s->cluster_bytes;
        }
        status = check_count(c, offset, s->cluster_bytes);
    }
    return status;
}

static int check_l1(struct checker *c, const uint64_t *l1, uint32_t size, uint64_t offset, bool active)
{
    struct qcow2 *s = c->s;
    int status = check_count(c, offset, 8 * (uint64_t)size);
    uint8_t *data = malloc(s->cluster_bytes);
    if (data == NULL) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < size && status == 0; i++) {
        uint64_t l2_offset = l1[i] & QCOW2_OFFSET_MASK;
        if (l2_offset == 0) {
            continue;
        }
        if (!qcow2_aligned(s, l2_offset)) {
            CHECK_SAY(c, "ERROR l2_offset=%" PRIx64 ": Table is not cluster aligned; L1 entry corrupted\n", l2_offset);
            c->result->corruptions++;
            continue;
        }
        status = check_count(c, l2_offset, s->cluster_bytes);
        if (status == 0) {
            status = check_l2(c, l2_offset, active, data, (uint64_t)i << (s->cluster_bits + s->l2_bits));
        }
    }
    free(data);
    return status;
}

static int check_bitmap(void *opaque, const struct qcow2_bitmap_entry *bitmap)
{
    struct checker *c = opaque;
    struct qcow2 *s = c->s;
    if (!qcow2_aligned(s, bitmap->table_offset) || bitmap->table_offset > QCOW2_OFFSET_MASK || bitmap->table_size > 0x8000000u) {
        CHECK_SAY(c, "ERROR: bitmap '%s' has no sound table\n", bitmap->name);
        c->result->corruptions++;
        return 0;
    }
    uint64_t *table;
    int status = check_count(c, bitmap->table_offset, 8 * (uint64_t)bitmap->table_size);
    if (status == 0) {
        status = qcow2_load_l1(s, bitmap->table_offset, bitmap->table_size, &table);
    }
    if (status != 0) {
        return status;
    }
    for (uint32_t i = 0; i < bitmap->table_size && status == 0; i++) {
        uint64_t offset = table[i] & QCOW2_OFFSET_MASK;
        if (offset != 0 && qcow2_aligned(s, offset)) {
            status = check_count(c, offset, s->cluster_bytes);
        }
    }
    free(table);
    return status;
}

static int check_refblocks(struct checker *c)
{
    struct qcow2 *s = c->s;
    int status = check_count(c, s->reftable_offset, (uint64_t)s->reftable_clusters << s->cluster_bits);
    uint64_t end = qcow2_align(s, s->file->bytes);
    for (uint32_t i = 0; i < s->reftable_size && status == 0; i++) {
        uint64_t offset = s->reftable[i] & QCOW2_OFFSET_MASK;
        if (offset == 0) {
            continue;
        }
        if (!qcow2_aligned(s, offset) || offset >= end) {
            CHECK_SAY(c, "ERROR refcount block %" PRIu32 " is %s\n", i, offset >= end ? "outside image" : "not cluster aligned; refcount table entry corrupted");
            c->result->corruptions++;
            c->rebuild = true;
            continue;
        }
        status = check_count(c, offset, s->cluster_bytes);
        if (status == 0 && offset >> s->cluster_bits < c->clusters && c->counts[offset >> s->cluster_bits] != 1) {
            CHECK_SAY(c, "ERROR refcount block %" PRIu32 " refcount=%" PRIu32 "\n", i, c->counts[offset >> s->cluster_bits]);
            c->result->corruptions++;
            c->rebuild = true;
        }
    }
    return status;
}

/* Everything but the refcount structures, and these if with_refblocks. */
static int check_count_all(struct checker *c)
{
    struct qcow2 *s = c->s;
    uint64_t directory, directory_bytes;
    int status = check_reserve(c, qcow2_align(s, s->file->bytes) >> s->cluster_bits);
    status = status == 0 ? check_count(c, 0, s->cluster_bytes) : status;
    status = status == 0 ? check_l1(c, s->l1, s->l1_size, s->l1_offset, true) : status;
    for (uint32_t i = 0; i < s->snapshot_count && status == 0; i++) {
        uint64_t *l1;
        status = qcow2_load_l1(s, s->snapshots[i].l1_offset, s->snapshots[i].l1_size, &l1);
        if (status == 0) {
            /* An empty table may still own a cluster. */
            status = check_l1(c, l1, s->snapshots[i].l1_size, s->snapshots[i].l1_offset, false);
            free(l1);
        }
    }
    status = status == 0 ? check_count(c, s->snapshots_offset, s->snapshots_offset != 0 ? s->snapshots_bytes : 0) : status;
    for (unsigned i = 0; i < s->extension_count && status == 0; i++) {
        if (s->extensions[i].type == QCOW2_EXT_CRYPTO && s->extensions[i].bytes >= 16) {
            status = check_count(c, qcow2_get64(s->extensions[i].data), qcow2_get64(s->extensions[i].data + 8));
        }
    }
    if (status == 0 && qcow2_bitmaps_directory(s, &directory, &directory_bytes)) {
        status = check_count(c, directory, directory_bytes);
        if (status == 0 && qcow2_bitmaps_each(s, check_bitmap, c) != 0) {
            CHECK_SAY(c, "ERROR: the bitmap directory makes no sense\n");
            c->result->corruptions++;
        }
    }
    return status == 0 && c->with_refblocks ? check_refblocks(c) : status;
}

/* ---- Comparing ---- */

static int check_compare(struct checker *c)
{
    struct qcow2 *s = c->s;
    uint64_t end = qcow2_align(s, s->file->bytes) >> s->cluster_bits, highest = 0;
    for (uint64_t i = 0; i < c->clusters; i++) {
        uint64_t value;
        int status = qcow2_refcount_get(s, i, &value);
        if (status != 0) {
            c->result->check_errors++;
            continue;
        }
        uint32_t counted = c->counts[i];
        highest = value > 0 || counted > 0 ? i : highest;
        if (value == counted || (i >= end && value == 0)) {
            continue;
        }
        bool leak = value > counted;
        bool fix = (c->fix & (leak ? CHECK_FIX_LEAKS : CHECK_FIX_ERRORS)) != 0 && !c->rebuild;
        CHECK_SAY(c, "%s cluster %" PRIu64 " refcount=%" PRIu64 " reference=%" PRIu32 "\n", fix ? "Repairing" : leak ? "Leaked" : "ERROR", i, value, counted);
        if (fix && (s->reftable_size <= i >> s->refblock_bits || (s->reftable[i >> s->refblock_bits] & QCOW2_OFFSET_MASK) == 0)) {
            c->rebuild = true; /* there is no block to write it into */
            fix = false;
        }
        if (fix) {
            status = qcow2_refcount_set(s, i, counted);
            if (status == 0) {
                *(leak ? &c->result->leaks_fixed : &c->result->corruptions_fixed) += 1;
                s->free_hint = 0;
                continue;
            }
            c->result->check_errors++;
        }
        *(leak ? &c->result->leaks : &c->result->corruptions) += 1;
    }
    c->result->image_end_offset = (highest + 1) << s->cluster_bits;
    return 0;
}

static uint64_t check_refcount_max(unsigned order)
{
    return order == 6 ? INT64_MAX : (UINT64_C(1) << (1u << order)) - 1;
}

/* Blocks and a table for what was counted, perhaps of another width, behind the file's end; then the header leads there. */
static int check_rebuild(struct checker *c, unsigned order)
{
    struct qcow2 *s = c->s;
    unsigned refblock_bits = s->cluster_bits + 3 - order;
    uint64_t end = qcow2_align(s, s->file->bytes) >> s->cluster_bits, per = UINT64_C(1) << refblock_bits;
    for (uint64_t i = end; i < c->clusters; i++) {
        end = c->counts[i] != 0 ? i + 1 : end;
    }
    uint64_t blocks = 1, table_clusters = 1;
    for (;;) {
        uint64_t all = end + blocks + table_clusters;
        if (all > blocks * per) {
            blocks = (all + per - 1) / per;
        } else if (8 * blocks > table_clusters << s->cluster_bits) {
            table_clusters = qcow2_align(s, 8 * blocks) >> s->cluster_bits;
        } else {
            break;
        }
    }
    uint64_t table_bytes = table_clusters << s->cluster_bits;
    if (table_bytes > QCOW2_MAX_REFTABLE_BYTES) {
        return -EFBIG;
    }
    uint8_t *table = calloc(1, table_bytes), *block = malloc(s->cluster_bytes);
    uint64_t *reftable = calloc(table_bytes / 8, 8);
    int status = table == NULL || block == NULL || reftable == NULL ? -ENOMEM : check_reserve(c, end + blocks + table_clusters);
    for (uint64_t i = 0; i < blocks + table_clusters && status == 0; i++) {
        c->counts[end + i] = 1;
    }
    for (uint64_t i = 0; i < blocks && status == 0; i++) {
        memset(block, 0, s->cluster_bytes);
        for (uint64_t j = 0; j < per && i * per + j < c->clusters; j++) {
            uint64_t count = c->counts[i * per + j];
            if (count > check_refcount_max(order)) {
                status = -ERANGE;
            } else {
                qcow2_refblock_write(block, order, j, count);
            }
        }
        reftable[i] = (end + i) << s->cluster_bits;
        qcow2_put64(table + 8 * i, reftable[i]);
        status = status == 0 ? s->file->driver->write(s->file, reftable[i], block, s->cluster_bytes) : status;
    }
    uint64_t offset = (end + blocks) << s->cluster_bits;
    uint8_t patch[12];
    qcow2_put64(patch, offset);
    qcow2_put32(patch + 8, (uint32_t)table_clusters);
    status = status == 0 ? s->file->driver->write(s->file, offset, table, table_bytes) : status;
    if (status == 0 && order == s->refcount_order) {
        status = qcow2_patch_header(s, offsetof(struct qcow2_header, refcount_table_offset), patch, sizeof(patch));
    } else if (status == 0) { /* the width and the table's place, in one write */
        struct qcow2 old = *s;
        s->reftable_offset = offset;
        s->reftable_clusters = (uint32_t)table_clusters;
        s->refcount_order = order;
        status = qcow2_write_header(s);
        s->reftable_offset = old.reftable_offset;
        s->reftable_clusters = old.reftable_clusters;
        s->refcount_order = old.refcount_order;
    }
    free(table);
    free(block);
    if (status != 0) {
        free(reftable);
        return status;
    }
    free(s->reftable);
    s->reftable = reftable;
    s->reftable_size = (uint32_t)(table_bytes / 8);
    s->reftable_clusters = (uint32_t)table_clusters;
    s->reftable_offset = offset;
    s->refcount_order = order;
    s->refblock_bits = refblock_bits;
    s->refcount_max = check_refcount_max(order);
    s->reftable_dirty = false;
    s->free_hint = 0;
    s->virgin = s->virgin > end + blocks + table_clusters ? s->virgin : end + blocks + table_clusters;
    qcow2_cache_drop_all(&s->refblocks);
    return 0;
}

/* ---- COPIED ---- */

static int check_copied_entry(struct checker *c, uint64_t *entry, const char *what, unsigned index, bool *change)
{
    struct qcow2 *s = c->s;
    uint64_t value, offset = *entry & QCOW2_OFFSET_MASK;
    *change = false;
    if (offset == 0 || !qcow2_aligned(s, offset)) {
        return 0;
    }
    int status = qcow2_refcount_get(s, offset >> s->cluster_bits, &value);
    if (status != 0 || (value == 1) == ((*entry & QCOW2_COPIED) != 0)) {
        return status;
    }
    *change = (c->fix & CHECK_FIX_ERRORS) != 0;
    CHECK_SAY(c, "%s OFLAG_COPIED %s: %s_entry=%" PRIx64 " refcount=%" PRIu64 " (entry %u)\n", *change ? "Repairing" : "ERROR",
              what[1] == '1' ? "L2 cluster" : "data cluster", what, *entry, value, index);
    *(*change ? &c->result->corruptions_fixed : &c->result->corruptions) += 1;
    *entry = value == 1 ? *entry | QCOW2_COPIED : *entry & ~QCOW2_COPIED;
    return 0;
}

static int check_copied(struct checker *c)
{
    struct qcow2 *s = c->s;
    for (uint32_t i = 0; i < s->l1_size; i++) {
        uint64_t entry = s->l1[i], l2_offset = s->l1[i] & QCOW2_OFFSET_MASK;
        bool change;
        int status = check_copied_entry(c, &entry, "l1", i, &change);
        if (status != 0 || l2_offset == 0 || !qcow2_aligned(s, l2_offset)) {
            c->result->check_errors += status != 0;
            continue;
        }
        if (change) {
            qcow2_l1_set(s, i, entry);
        }
        for (unsigned j = 0; j < 1u << s->l2_bits; j++) {
            struct qcow2_table *table;
            struct qcow2_entry l2;
            /* Asked for each time: a refcount that is looked up may write down, and that may move tables. */
            status = qcow2_l2_get(s, l2_offset, false, &table);
            if (status != 0) {
                c->result->check_errors++;
                break;
            }
            qcow2_table_read(s, table->data, j, &l2);
            if (l2.entry & QCOW2_COMPRESSED) {
                continue;
            }
            status = check_copied_entry(c, &l2.entry, "l2", j, &change);
            if (status == 0 && change) {
                qcow2_table_write(s, table->data, j, &l2);
                qcow2_cache_dirty(&s->l2, table);
            }
            c->result->check_errors += status != 0;
        }
    }
    return 0;
}

int qcow2_mark_copied(struct qcow2 *s)
{
    struct node_check result = {0};
    struct checker c = {.s = s, .result = &result, .fix = CHECK_FIX_ERRORS};
    int status = check_copied(&c);
    return status != 0 ? status : result.check_errors != 0 ? -EIO : 0;
}

/* ---- All of it ---- */

static int check_run(struct checker *c)
{
    struct qcow2 *s = c->s;
    c->with_refblocks = true;
    int status = check_count_all(c);
    if (status == 0) {
        status = check_compare(c);
    }
    if (status == 0 && c->rebuild && (c->fix & CHECK_FIX_ERRORS)) {
        CHECK_SAY(c, "Rebuilding refcount structure\n");
        /* Counted anew without the old ones, whose clusters are free by that. */
        struct node_check ignored = {0}, *result = c->result;
        uint64_t errors = result->corruptions, leaks = result->leaks;
        memset(c->counts, 0, c->clusters * sizeof(*c->counts));
        c->with_refblocks = false;
        c->result = &ignored;
        status = check_count_all(c);
        status = status == 0 ? check_rebuild(c, s->refcount_order) : status;
        c->result = result;
        if (status == 0) {
            result->corruptions = ignored.corruptions;
            result->corruptions_fixed += errors > ignored.corruptions ? errors - ignored.corruptions : 0;
            result->leaks = 0;
            result->leaks_fixed += leaks;
            c->rebuild = false;
        }
    }
    if (status == 0) {
        status = check_copied(c);
    }
    if (status == 0 && c->fix != 0) {
        bool lazy = s->lazy;
        s->lazy = false;
        status = qcow2_commit(s, true);
        s->lazy = lazy;
        if (status == 0 && c->result->corruptions == 0 && c->result->check_errors == 0 && (c->fix & CHECK_FIX_ERRORS)) {
            status = qcow2_set_incompatible(s, 0, QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT);
        }
    }
    return status;
}

int qcow2_set_refcount_order(struct qcow2 *s, unsigned order)
{
    struct node_check result = {0};
    struct checker c = {.s = s, .result = &result};
    bool lazy = s->lazy;
    s->lazy = false;
    int status = qcow2_commit(s, true);
    status = status == 0 && s->refblocks.dirty > 0 ? qcow2_commit(s, true) : status;
    s->lazy = lazy;
    status = status == 0 ? check_run(&c) : status;
    if (status == 0 && (result.corruptions != 0 || result.check_errors != 0)) {
        status = -EIO;
    }
    if (status == 0) { /* without the old ones, whose clusters are free by that */
        memset(c.counts, 0, c.clusters * sizeof(*c.counts));
        c.with_refblocks = false;
        status = check_count_all(&c);
        status = status == 0 ? check_rebuild(&c, order) : status;
    }
    free(c.counts);
    return status;
}

int qcow2_check_repair(struct qcow2 *s)
{
    struct node_check result = {0};
    struct checker c = {.s = s, .result = &result, .fix = CHECK_FIX_LEAKS | CHECK_FIX_ERRORS};
    int status = qcow2_commit(s, true);
    status = status == 0 ? check_run(&c) : status;
    free(c.counts);
    s->must_repair = status != 0 || result.corruptions != 0 || result.check_errors != 0;
    return s->must_repair ? -EIO : 0;
}

int qcow2_check(struct block_node *node, unsigned fix, struct node_check *check)
{
    struct qcow2 *s = node->state;
    struct checker c = {.s = s, .result = check, .fix = node->options.read_only ? 0 : fix};
    check->total_clusters = qcow2_align(s, node->bytes) >> s->cluster_bits;
    pthread_mutex_lock(&s->lock);
    int status = node->options.read_only ? 0 : qcow2_commit(s, true);
    status = status == 0 && s->refblocks.dirty > 0 && !node->options.read_only ? qcow2_commit(s, true) : status;
    status = status == 0 ? check_run(&c) : status;
    pthread_mutex_unlock(&s->lock);
    free(c.counts);
    return status;
}
