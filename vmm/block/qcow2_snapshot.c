/* SPDX-License-Identifier: MIT */
/*
 * Internal snapshots. A snapshot has an L1 table of its own; L2 tables and clusters are shared, which their refcounts say. While refcounts and
 * COPIED flags are on their way, an image of version 3 is marked dirty: a crash in between is repaired when it is opened.
 */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <time.h>

#include "block/qcow2.h"

/* ---- The table ---- */

static void snapshot_fini(struct qcow2_snapshot *snapshot)
{
    free(snapshot->id);
    free(snapshot->name);
    free(snapshot->extra);
}

void qcow2_free_snapshots(struct qcow2 *s)
{
    for (uint32_t i = 0; i < s->snapshot_count; i++) {
        snapshot_fini(&s->snapshots[i]);
    }
    free(s->snapshots);
    s->snapshots = NULL;
    s->snapshot_count = 0;
}

static int snapshot_bad(struct error *error, const char *what, int status)
{
    error_set(error, "Could not read snapshots: %s", what);
    return status;
}

static int snapshot_parse(struct qcow2 *s, uint64_t *at, struct qcow2_snapshot *snapshot)
{
    struct qcow2_snapshot_header header;
    int status = s->file->driver->read(s->file, *at, &header, sizeof(header));
    if (status != 0) {
        return status;
    }
    uint32_t id_bytes = be16toh(header.id_str_size), name_bytes = be16toh(header.name_size);
    *snapshot = (struct qcow2_snapshot){
        .l1_offset = be64toh(header.l1_table_offset),
        .l1_size = be32toh(header.l1_size),
        .date_sec = be32toh(header.date_sec),
        .date_nsec = be32toh(header.date_nsec),
        .vm_clock_nsec = be64toh(header.vm_clock_nsec),
        .vm_state_bytes = be32toh(header.vm_state_size),
        .extra_bytes = be32toh(header.extra_data_size),
        .disk_bytes = s->node->bytes,
        .icount = UINT64_MAX,
    };
    if (snapshot->extra_bytes > QCOW2_MAX_SNAPSHOT_EXTRA || !qcow2_aligned(s, snapshot->l1_offset) || snapshot->l1_offset > QCOW2_OFFSET_MASK ||
        8 * (uint64_t)snapshot->l1_size > QCOW2_MAX_L1_BYTES) {
        return -EINVAL;
    }
    *at += sizeof(header);
    snapshot->extra = malloc(snapshot->extra_bytes + 1);
    snapshot->id = calloc(1, id_bytes + 1);
    snapshot->name = calloc(1, name_bytes + 1);
    if (snapshot->extra == NULL || snapshot->id == NULL || snapshot->name == NULL) {
        return -ENOMEM;
    }
    status = s->file->driver->read(s->file, *at, snapshot->extra, snapshot->extra_bytes);
    *at += snapshot->extra_bytes;
    if (status == 0) {
        status = s->file->driver->read(s->file, *at, snapshot->id, id_bytes);
    }
    *at += id_bytes;
    if (status == 0) {
        status = s->file->driver->read(s->file, *at, snapshot->name, name_bytes);
    }
    *at += name_bytes;
    *at = (*at + 7) & ~UINT64_C(7);
    if (snapshot->extra_bytes >= 8) {
        snapshot->vm_state_bytes = qcow2_get64(snapshot->extra);
    }
    if (snapshot->extra_bytes >= 16) {
        snapshot->disk_bytes = qcow2_get64(snapshot->extra + 8);
    }
    if (snapshot->extra_bytes >= 24) {
        snapshot->icount = qcow2_get64(snapshot->extra + 16);
    }
    return status;
}

int qcow2_load_snapshots(struct qcow2 *s, uint32_t count, struct error *error)
{
    if (count == 0) {
        s->snapshots_offset = 0;
        return 0;
    }
    if (count > QCOW2_MAX_SNAPSHOTS || !qcow2_aligned(s, s->snapshots_offset) || s->snapshots_offset > QCOW2_OFFSET_MASK) {
        return snapshot_bad(error, "Snapshot table offset invalid, or too many snapshots", -EINVAL);
    }
    s->snapshots = calloc(count, sizeof(*s->snapshots));
    if (s->snapshots == NULL) {
        return snapshot_bad(error, strerror(ENOMEM), -ENOMEM);
    }
    uint64_t at = s->snapshots_offset;
    for (uint32_t i = 0; i < count; i++) {
        int status = snapshot_parse(s, &at, &s->snapshots[i]);
        s->snapshot_count++; /* freed with the rest */
        if (status == 0 && at - s->snapshots_offset > QCOW2_MAX_SNAPSHOT_TABLE_BYTES) {
            status = -EFBIG;
        }
        if (status != 0) {
            return snapshot_bad(error, strerror(-status), status);
        }
    }
    s->snapshots_bytes = at - s->snapshots_offset;
    return 0;
}

/* Whole, in a new place; then the header says so, and the old place is free. On failure the table on the disk is the old one. */
static int snapshot_write_table(struct qcow2 *s, const struct qcow2_snapshot *snapshots, uint32_t count)
{
    uint64_t bytes = 0, offset = 0, got;
    bool clean;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t extra = snapshots[i].extra_bytes > 24 ? snapshots[i].extra_bytes : 24;
        bytes = (bytes + sizeof(struct qcow2_snapshot_header) + extra + strlen(snapshots[i].id) + strlen(snapshots[i].name) + 7) & ~UINT64_C(7);
    }
    if (bytes > QCOW2_MAX_SNAPSHOT_TABLE_BYTES) {
        return -EFBIG;
    }
    int status = 0;
    if (count > 0) {
        status = qcow2_alloc(s, qcow2_align(s, bytes) >> s->cluster_bits, true, &offset, &got, &clean);
    }
    uint8_t *table = calloc(1, bytes + 1);
    if (status != 0 || table == NULL) {
        free(table);
        return status != 0 ? status : -ENOMEM;
    }
    uint8_t *at = table;
    for (uint32_t i = 0; i < count; i++) {
        const struct qcow2_snapshot *snapshot = &snapshots[i];
        uint32_t extra = snapshot->extra_bytes > 24 ? snapshot->extra_bytes : 24;
        struct qcow2_snapshot_header header = {
            .l1_table_offset = htobe64(snapshot->l1_offset),
            .l1_size = htobe32(snapshot->l1_size),
            .id_str_size = htobe16((uint16_t)strlen(snapshot->id)),
            .name_size = htobe16((uint16_t)strlen(snapshot->name)),
            .date_sec = htobe32(snapshot->date_sec),
            .date_nsec = htobe32(snapshot->date_nsec),
            .vm_clock_nsec = htobe64(snapshot->vm_clock_nsec),
            .vm_state_size = htobe32(snapshot->vm_state_bytes > UINT32_MAX ? 0 : (uint32_t)snapshot->vm_state_bytes),
            .extra_data_size = htobe32(extra),
        };
        memcpy(at, &header, sizeof(header));
        at += sizeof(header);
        memcpy(at, snapshot->extra, snapshot->extra_bytes);
        qcow2_put64(at, snapshot->vm_state_bytes);
        qcow2_put64(at + 8, snapshot->disk_bytes);
        qcow2_put64(at + 16, snapshot->icount);
        at += extra;
        memcpy(at, snapshot->id, strlen(snapshot->id));
        at += strlen(snapshot->id);
        memcpy(at, snapshot->name, strlen(snapshot->name));
        at += strlen(snapshot->name);
        at = table + (((uint64_t)(at - table) + 7) & ~UINT64_C(7));
    }
    if (count > 0) {
        status = s->file->driver->write(s->file, offset, table, bytes);
    }
    free(table);
    if (status == 0) {
        status = qcow2_commit(s, true);
    }
    uint8_t patch[12];
    qcow2_put32(patch, count);
    qcow2_put64(patch + 4, offset);
    if (status == 0) {
        status = qcow2_patch_header(s, offsetof(struct qcow2_header, nb_snapshots), patch, sizeof(patch));
    }
    if (status != 0) {
        if (offset != 0) {
            qcow2_free(s, offset, qcow2_align(s, bytes), false);
        }
        return status;
    }
    if (s->snapshots_offset != 0) {
        status = qcow2_free(s, s->snapshots_offset, qcow2_align(s, s->snapshots_bytes), false);
    }
    s->snapshots_offset = offset;
    s->snapshots_bytes = bytes;
    return status;
}

int qcow2_rewrite_snapshots(struct qcow2 *s)
{
    return snapshot_write_table(s, s->snapshots, s->snapshot_count);
}

/* ---- Refcounts of everything an L1 table leads to ---- */

/* Up at once; down by way of the list of what is freed. Stops after `limit` tables (to undo what was done before a failure). */
static int snapshot_add(struct qcow2 *s, const uint64_t *l1, uint32_t size, int addend, uint32_t limit, uint32_t *done)
{
    int status = 0;
    uint32_t i;
    for (i = 0; i < size && i < limit && status == 0; i++) {
        uint64_t l2_offset = l1[i] & QCOW2_OFFSET_MASK;
        if (l2_offset == 0) {
            continue;
        }
        if (!qcow2_aligned(s, l2_offset)) {
            return qcow2_corrupt(s, "L2 table's offset is not aligned", l2_offset);
        }
        for (unsigned j = 0; j < 1u << s->l2_bits && status == 0; j++) {
            struct qcow2_table *table;
            struct qcow2_entry entry;
            status = qcow2_l2_get(s, l2_offset, false, &table);
            if (status != 0) {
                break;
            }
            qcow2_table_read(s, table->data, j, &entry);
            uint64_t bytes = s->cluster_bytes, offset = entry.entry & QCOW2_OFFSET_MASK;
            if (entry.entry & QCOW2_COMPRESSED) {
                offset = qcow2_compressed_range(s, entry.entry, &bytes);
            }
            if (offset != 0) {
                status = addend < 0 ? qcow2_free_entry(s, &entry, false) : qcow2_refcount_add(s, offset, bytes, addend);
            }
        }
        if (status == 0) {
            status = addend < 0 ? qcow2_free(s, l2_offset, s->cluster_bytes, false) : qcow2_refcount_add(s, l2_offset, s->cluster_bytes, addend);
        }
    }
    *done = i;
    return status;
}

/* Clears COPIED in the active tables: what is written to from now on gets a new place. */
static int snapshot_clear_copied(struct qcow2 *s)
{
    for (uint32_t i = 0; i < s->l1_size; i++) {
        uint64_t l2_offset = s->l1[i] & QCOW2_OFFSET_MASK;
        if (l2_offset == 0) {
            continue;
        }
        struct qcow2_table *table;
        int status = qcow2_l2_get(s, l2_offset, false, &table);
        if (status != 0) {
            return status;
        }
        for (unsigned j = 0; j < 1u << s->l2_bits; j++) {
            struct qcow2_entry entry;
            qcow2_table_read(s, table->data, j, &entry);
            if (entry.entry & QCOW2_COPIED) {
                entry.entry &= ~QCOW2_COPIED;
                qcow2_table_write(s, table->data, j, &entry);
                qcow2_cache_dirty(&s->l2, table);
            }
        }
        if (s->l1[i] & QCOW2_COPIED) {
            qcow2_l1_set(s, i, s->l1[i] & ~QCOW2_COPIED);
        }
    }
    return 0;
}

/* A copy of an L1 table in clusters of its own. */
static int snapshot_copy_l1(struct qcow2 *s, const uint64_t *l1, uint32_t size, uint64_t *offset)
{
    uint64_t bytes = 8 * (uint64_t)size, got;
    bool clean;
    *offset = 0;
    int status = qcow2_alloc(s, bytes != 0 ? qcow2_align(s, bytes) >> s->cluster_bits : 1, true, offset, &got, &clean);
    uint8_t *raw = malloc(bytes + 1);
    if (status != 0 || raw == NULL) {
        free(raw);
        return status != 0 ? status : -ENOMEM;
    }
    for (uint32_t i = 0; i < size; i++) {
        qcow2_put64(raw + 8 * (uint64_t)i, l1[i] & ~QCOW2_COPIED);
    }
    status = s->file->driver->write(s->file, *offset, raw, bytes);
    free(raw);
    return status;
}

/* ---- Begin and end of each operation ---- */

static struct qcow2_snapshot *snapshot_find(struct qcow2 *s, const char *name)
{
    for (uint32_t i = 0; i < s->snapshot_count; i++) {
        if (strcmp(s->snapshots[i].name, name) == 0) {
            return &s->snapshots[i];
        }
    }
    for (uint32_t i = 0; i < s->snapshot_count; i++) {
        if (strcmp(s->snapshots[i].id, name) == 0) {
            return &s->snapshots[i];
        }
    }
    return NULL;
}

static int snapshot_begin(struct block_node *node, struct error *error)
{
    struct qcow2 *s = node->state;
    if (node->options.read_only || s->broken) {
        error_set(error, "Image is %s", s->broken ? "corrupt" : "read-only");
        return -EROFS;
    }
    pthread_mutex_lock(&s->lock);
    int status = qcow2_commit(s, true);
    status = status == 0 ? qcow2_set_incompatible(s, QCOW2_INCOMPAT_DIRTY, 0) : status;
    if (status != 0) {
        pthread_mutex_unlock(&s->lock);
        error_set(error, "Could not write to the image: %s", strerror(-status));
    }
    return status;
}

static int snapshot_end(struct block_node *node, int status, const char *what, struct error *error)
{
    struct qcow2 *s = node->state;
    if (status == 0) {
        status = qcow2_commit(s, true); /* what was freed */
        status = status == 0 ? qcow2_mark_copied(s) : status;
        status = status == 0 ? qcow2_commit(s, true) : status;
    }
    if (status == 0 && !s->lazy) {
        status = qcow2_set_incompatible(s, 0, QCOW2_INCOMPAT_DIRTY);
    }
    if (status != 0) {
        error_set(error, "Could not %s snapshot: %s", what, strerror(-status));
        /* Some refcounts were changed and some not: made right by counting. If that fails too, the image stays marked. */
        qcow2_check_repair(s);
    }
    pthread_mutex_unlock(&s->lock);
    return status;
}

int qcow2_snapshot_get(struct block_node *node, unsigned index, struct node_snapshot *to)
{
    struct qcow2 *s = node->state;
    if (index >= s->snapshot_count) {
        return -ENOENT;
    }
    const struct qcow2_snapshot *from = &s->snapshots[index];
    *to = (struct node_snapshot){
        .vm_state_bytes = from->vm_state_bytes,
        .date_sec = from->date_sec,
        .date_nsec = from->date_nsec,
        .vm_clock_ns = from->vm_clock_nsec,
        .icount = from->icount,
        .disk_bytes = from->disk_bytes,
    };
    snprintf(to->id, sizeof(to->id), "%s", from->id);
    snprintf(to->name, sizeof(to->name), "%s", from->name);
    return 0;
}

int qcow2_snapshot_create(struct block_node *node, const char *name, struct error *error)
{
    struct qcow2 *s = node->state;
    if (s->snapshot_count >= QCOW2_MAX_SNAPSHOTS || strlen(name) > 255) {
        error_set(error, "Could not create snapshot: too many of them, or the name is too long");
        return -EINVAL;
    }
    int status = snapshot_begin(node, error);
    if (status != 0) {
        return status;
    }
    unsigned long id = 0;
    for (uint32_t i = 0; i < s->snapshot_count; i++) {
        unsigned long other = strtoul(s->snapshots[i].id, NULL, 10);
        id = other > id ? other : id;
    }
    char id_text[24];
    snprintf(id_text, sizeof(id_text), "%lu", id + 1);
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    struct qcow2_snapshot *snapshots = calloc(s->snapshot_count + 1, sizeof(*snapshots));
    struct qcow2_snapshot fresh = {
        .l1_size = s->l1_size,
        .id = strdup(id_text),
        .name = strdup(name),
        .date_sec = (uint32_t)now.tv_sec,
        .date_nsec = (uint32_t)now.tv_nsec,
        .disk_bytes = node->bytes,
        .icount = UINT64_MAX,
        .extra = malloc(1),
    };
    uint32_t counted = 0, undone;
    status = snapshots == NULL || fresh.id == NULL || fresh.name == NULL || fresh.extra == NULL ? -ENOMEM : 0;
    /* COPIED goes first: an overwritten cluster is worse than a copy too many. */
    status = status == 0 ? snapshot_clear_copied(s) : status;
    status = status == 0 ? qcow2_commit(s, true) : status;
    if (status == 0) {
        status = snapshot_add(s, s->l1, s->l1_size, 1, UINT32_MAX, &counted);
        if (status == 0) {
            status = snapshot_copy_l1(s, s->l1, s->l1_size, &fresh.l1_offset);
        } else if (counted > 0) {
            snapshot_add(s, s->l1, s->l1_size, -1, counted - 1, &undone); /* the last one leaks */
        }
    }
    if (status == 0) {
        if (s->snapshot_count > 0) {
            memcpy(snapshots, s->snapshots, s->snapshot_count * sizeof(*snapshots));
        }
        snapshots[s->snapshot_count] = fresh;
        status = snapshot_write_table(s, snapshots, s->snapshot_count + 1);
    }
    if (status == 0) {
        free(s->snapshots);
        s->snapshots = snapshots;
        s->snapshot_count++;
    } else {
        free(snapshots);
        snapshot_fini(&fresh);
    }
    return snapshot_end(node, status, "create", error);
}

int qcow2_snapshot_delete(struct block_node *node, const char *name, struct error *error)
{
    struct qcow2 *s = node->state;
    struct qcow2_snapshot *snapshot = snapshot_find(s, name);
    if (snapshot == NULL) {
        error_set(error, "snapshot not found");
        return -ENOENT;
    }
    int status = snapshot_begin(node, error);
    if (status != 0) {
        return status;
    }
    struct qcow2_snapshot gone = *snapshot;
    uint32_t index = (uint32_t)(snapshot - s->snapshots), done;
    uint64_t *l1 = NULL;
    struct qcow2_snapshot *rest = calloc(s->snapshot_count, sizeof(*rest));
    status = rest == NULL ? -ENOMEM : qcow2_load_l1(s, gone.l1_offset, gone.l1_size, &l1);
    if (status == 0) {
        memcpy(rest, s->snapshots, index * sizeof(*rest));
        memcpy(rest + index, s->snapshots + index + 1, (s->snapshot_count - index - 1) * sizeof(*rest));
        status = snapshot_write_table(s, rest, s->snapshot_count - 1);
    }
    if (status == 0) {
        free(s->snapshots);
        s->snapshots = rest;
        s->snapshot_count--;
        status = snapshot_add(s, l1, gone.l1_size, -1, UINT32_MAX, &done);
        if (status == 0 && gone.l1_offset != 0) {
            status = qcow2_free(s, gone.l1_offset, gone.l1_size != 0 ? qcow2_align(s, 8 * (uint64_t)gone.l1_size) : s->cluster_bytes, false);
        }
        snapshot_fini(&gone);
    } else {
        free(rest);
    }
    free(l1);
    return snapshot_end(node, status, "delete", error);
}

int qcow2_snapshot_apply(struct block_node *node, const char *name, struct error *error)
{
    struct qcow2 *s = node->state;
    const struct qcow2_snapshot *snapshot = snapshot_find(s, name);
    if (snapshot == NULL) {
        error_set(error, "snapshot not found");
        return -ENOENT;
    }
    uint64_t needed = qcow2_l1_needed(s, snapshot->disk_bytes);
    if (snapshot->disk_bytes > INT64_MAX - s->cluster_bytes || needed > snapshot->l1_size) {
        error_set(error, "Could not apply snapshot: its L1 table is too small for its size");
        return -EINVAL;
    }
    int status = snapshot_begin(node, error);
    if (status != 0) {
        return status;
    }
    uint64_t *l1 = NULL, offset = 0;
    uint32_t size = snapshot->l1_size, done;
    status = qcow2_load_l1(s, snapshot->l1_offset, size, &l1);
    uint8_t *dirty = calloc(size / 64 + 1, 1);
    status = status == 0 && dirty == NULL ? -ENOMEM : status;
    status = status == 0 && !s->bitmaps_marked ? qcow2_bitmaps_mark(s) : status;
    status = status == 0 ? snapshot_add(s, l1, size, 1, UINT32_MAX, &done) : status;
    status = status == 0 ? snapshot_copy_l1(s, l1, size, &offset) : status;
    status = status == 0 ? qcow2_commit(s, true) : status;
    status = status == 0 ? qcow2_switch_l1(s, snapshot->disk_bytes, size, offset) : status;
    if (status == 0) {
        uint64_t *old = s->l1, old_offset = s->l1_offset;
        uint32_t old_size = s->l1_size;
        for (uint32_t i = 0; i < size; i++) {
            l1[i] &= ~QCOW2_COPIED;
        }
        free(s->l1_dirty);
        s->l1 = l1;
        s->l1_dirty = dirty;
        s->l1_size = size;
        s->l1_offset = offset;
        node->bytes = snapshot->disk_bytes;
        status = snapshot_add(s, old, old_size, -1, UINT32_MAX, &done);
        if (status == 0) {
            status = qcow2_free(s, old_offset, qcow2_align(s, 8 * (uint64_t)old_size), false);
        }
        free(old);
    } else {
        free(l1);
        free(dirty);
    }
    return snapshot_end(node, status, "apply", error);
}

int qcow2_snapshot_load(struct block_node *node, const char *name, struct error *error)
{
    struct qcow2 *s = node->state;
    const struct qcow2_snapshot *snapshot = snapshot_find(s, name);
    uint64_t *l1;
    if (snapshot == NULL || !node->options.read_only) {
        error_set(error, snapshot == NULL ? "Can't find snapshot" : "Device is not readonly");
        return -EINVAL;
    }
    if (snapshot->disk_bytes > INT64_MAX - s->cluster_bytes || qcow2_l1_needed(s, snapshot->disk_bytes) > snapshot->l1_size) {
        error_set(error, "its L1 table is too small for its size");
        return -EINVAL;
    }
    int status = qcow2_load_l1(s, snapshot->l1_offset, snapshot->l1_size, &l1);
    if (status != 0) {
        error_set(error, "Could not read L1 table of the snapshot: %s", strerror(-status));
        return status;
    }
    pthread_mutex_lock(&s->lock);
    free(s->l1);
    s->l1 = l1;
    s->l1_size = snapshot->l1_size;
    node->bytes = snapshot->disk_bytes;
    pthread_mutex_unlock(&s->lock);
    return 0;
}
