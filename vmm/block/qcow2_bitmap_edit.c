/* SPDX-License-Identifier: MIT */
/*
 * Persistent bitmaps made, changed and read. Always the whole directory goes to a new place, with the tables and bits of what has changed; then the
 * header says so, and the old places are free. With the lock held for all of it.
 */
#include <errno.h>
#include <stdlib.h>

#include "block/qcow2.h"

#define EDIT_BITS_MAX (UINT64_C(1) << 28) /* bytes of one bitmap */
#define EDIT_ENTRY_BYTES 24u
#define EDIT_COUNT_MAX 65535u
#define EDIT_TABLE_ONES 1u /* of a table's entry without an offset: all bits are set */
#define EDIT_TYPE_DIRTY 1u

struct edit_bitmap {
    struct qcow2_bitmap_entry entry;
    uint8_t *extra;
    uint32_t extra_bytes;
    uint8_t *bits;       /* in memory, once asked for */
    bool changed, gone;  /* the bits; the whole of it */
    uint64_t old_offset; /* of the table that it had */
    uint32_t old_size;
};

struct edit {
    struct qcow2 *s;
    struct edit_bitmap *list;
    unsigned count;
    struct { /* clusters that the old ones, or in a failure the new ones, give back */
        uint64_t *offsets;
        size_t count, capacity;
    } old, fresh;
};

/* ---- Loading ---- */

static uint64_t edit_bit_count(const struct edit *e, const struct edit_bitmap *bitmap)
{
    uint64_t granularity = UINT64_C(1) << bitmap->entry.granularity_bits;
    return (e->s->node->bytes + granularity - 1) >> bitmap->entry.granularity_bits;
}

static uint64_t edit_bytes(const struct edit *e, const struct edit_bitmap *bitmap)
{
    return (edit_bit_count(e, bitmap) + 7) / 8;
}

static uint64_t edit_table_size(const struct edit *e, const struct edit_bitmap *bitmap)
{
    return qcow2_align(e->s, edit_bytes(e, bitmap)) >> e->s->cluster_bits;
}

static int edit_one(void *opaque, const struct qcow2_bitmap_entry *entry)
{
    struct edit *e = opaque;
    if (e->count == EDIT_COUNT_MAX) {
        return -EFBIG;
    }
    struct edit_bitmap *list = realloc(e->list, (e->count + 1) * sizeof(*list));
    if (list == NULL) {
        return -ENOMEM;
    }
    e->list = list;
    struct edit_bitmap *bitmap = &list[e->count++];
    *bitmap = (struct edit_bitmap){.entry = *entry, .extra_bytes = entry->extra_bytes, .old_offset = entry->table_offset, .old_size = entry->table_size};
    bitmap->entry.extra = NULL;
    if (entry->extra_bytes > 0) {
        bitmap->extra = malloc(entry->extra_bytes);
        if (bitmap->extra == NULL) {
            return -ENOMEM;
        }
        memcpy(bitmap->extra, entry->extra, entry->extra_bytes);
    }
    return 0;
}

static void edit_free(struct edit *e)
{
    for (unsigned i = 0; i < e->count; i++) {
        free(e->list[i].extra);
        free(e->list[i].bits);
    }
    free(e->list);
    free(e->old.offsets);
    free(e->fresh.offsets);
}

static struct edit_bitmap *edit_find(struct edit *e, const char *name)
{
    for (unsigned i = 0; i < e->count; i++) {
        if (strcmp(e->list[i].entry.name, name) == 0) {
            return &e->list[i];
        }
    }
    return NULL;
}

/* The table that the bitmap has on the disk, in the CPU's order; to be freed. */
static int edit_load_table(struct edit *e, const struct edit_bitmap *bitmap, uint64_t **table)
{
    struct qcow2 *s = e->s;
    uint64_t bytes = 8 * (uint64_t)bitmap->old_size;
    *table = NULL;
    if (bytes > EDIT_BITS_MAX || !qcow2_aligned(s, bitmap->old_offset) || bitmap->old_offset > QCOW2_OFFSET_MASK) {
        return -EINVAL;
    }
    uint64_t *words = malloc(bytes + 1);
    int status = words == NULL ? -ENOMEM : bytes > 0 ? s->file->driver->read(s->file, bitmap->old_offset, words, bytes) : 0;
    for (uint32_t i = 0; i < bitmap->old_size && status == 0; i++) {
        words[i] = be64toh(words[i]);
        uint64_t offset = words[i] & QCOW2_OFFSET_MASK;
        status = (words[i] & ~(QCOW2_OFFSET_MASK | EDIT_TABLE_ONES)) != 0 || !qcow2_aligned(s, offset) || (offset != 0 && (words[i] & EDIT_TABLE_ONES)) ? -EINVAL : 0;
    }
    if (status != 0) {
        free(words);
        return status;
    }
    *table = words;
    return 0;
}

static int edit_load_bits(struct edit *e, struct edit_bitmap *bitmap)
{
    struct qcow2 *s = e->s;
    uint64_t bytes = edit_bytes(e, bitmap), *table;
    if (bitmap->bits != NULL) {
        return 0;
    }
    if (bytes > EDIT_BITS_MAX) {
        return -EFBIG;
    }
    if (bitmap->old_size != edit_table_size(e, bitmap)) {
        return -EINVAL;
    }
    bitmap->bits = calloc(1, qcow2_align(s, bytes) + 1);
    int status = bitmap->bits == NULL ? -ENOMEM : edit_load_table(e, bitmap, &table);
    if (status != 0) {
        free(bitmap->bits);
        bitmap->bits = NULL;
        return status;
    }
    for (uint32_t i = 0; i < bitmap->old_size && status == 0; i++) {
        uint8_t *at = bitmap->bits + ((uint64_t)i << s->cluster_bits);
        uint64_t offset = table[i] & QCOW2_OFFSET_MASK;
        if (offset != 0) {
            status = s->file->driver->read(s->file, offset, at, s->cluster_bytes);
        } else if (table[i] & EDIT_TABLE_ONES) {
            memset(at, 0xff, s->cluster_bytes);
        }
    }
    free(table);
    return status;
}

/* ---- Storing ---- */

static int edit_note(struct edit *e, bool fresh, uint64_t offset, uint64_t clusters)
{
    size_t *count = fresh ? &e->fresh.count : &e->old.count, *capacity = fresh ? &e->fresh.capacity : &e->old.capacity;
    uint64_t **offsets = fresh ? &e->fresh.offsets : &e->old.offsets;
    for (uint64_t i = 0; i < clusters; i++) {
        if (*count == *capacity) {
            size_t more = 2 * *capacity + 64;
            uint64_t *grown = realloc(*offsets, more * sizeof(*grown));
            if (grown == NULL) {
                return -ENOMEM;
            }
            *offsets = grown;
            *capacity = more;
        }
        (*offsets)[(*count)++] = offset + (i << e->s->cluster_bits);
    }
    return 0;
}

static int edit_alloc(struct edit *e, uint64_t clusters, uint64_t *offset)
{
    uint64_t got;
    bool clean;
    int status = qcow2_alloc(e->s, clusters, true, offset, &got, &clean);
    return status == 0 ? edit_note(e, true, *offset, clusters) : status;
}

static int edit_note_old(struct edit *e, const struct edit_bitmap *bitmap)
{
    uint64_t *table;
    if (bitmap->old_size == 0) {
        return 0;
    }
    int status = edit_load_table(e, bitmap, &table);
    for (uint32_t i = 0; status == 0 && i < bitmap->old_size; i++) {
        uint64_t offset = table[i] & QCOW2_OFFSET_MASK;
        status = offset != 0 ? edit_note(e, false, offset, 1) : 0;
    }
    free(table);
    return status == 0 ? edit_note(e, false, bitmap->old_offset, qcow2_align(e->s, 8 * (uint64_t)bitmap->old_size) >> e->s->cluster_bits) : status;
}

static bool edit_all_zeroes(const uint8_t *data, uint64_t bytes)
{
    return data[0] == 0 && memcmp(data, data + 1, bytes - 1) == 0;
}

static int edit_store_bits(struct edit *e, struct edit_bitmap *bitmap)
{
    struct qcow2 *s = e->s;
    uint64_t size = edit_table_size(e, bitmap), table_offset = 0;
    if (size > UINT32_MAX || size > EDIT_BITS_MAX / 8) {
        return -EFBIG;
    }
    uint64_t *table = calloc(size + 1, sizeof(*table));
    int status = table == NULL ? -ENOMEM : 0;
    for (uint64_t i = 0; i < size && status == 0; i++) {
        const uint8_t *at = bitmap->bits + (i << s->cluster_bits);
        uint64_t offset;
        if (edit_all_zeroes(at, s->cluster_bytes)) {
            continue;
        }
        status = edit_alloc(e, 1, &offset);
        if (status == 0) {
            table[i] = htobe64(offset);
            status = s->file->driver->write(s->file, offset, at, s->cluster_bytes);
        }
    }
    if (status == 0 && size > 0) {
        status = edit_alloc(e, qcow2_align(s, 8 * size) >> s->cluster_bits, &table_offset);
        status = status == 0 ? s->file->driver->write(s->file, table_offset, table, 8 * size) : status;
    }
    free(table);
    bitmap->entry.table_offset = table_offset;
    bitmap->entry.table_size = (uint32_t)size;
    return status;
}

static uint64_t edit_entry_bytes(const struct edit_bitmap *bitmap)
{
    return (EDIT_ENTRY_BYTES + bitmap->extra_bytes + strlen(bitmap->entry.name) + 7) & ~UINT64_C(7);
}

static int edit_store_directory(struct edit *e, uint64_t *offset, uint64_t *bytes)
{
    struct qcow2 *s = e->s;
    *bytes = *offset = 0;
    for (unsigned i = 0; i < e->count; i++) {
        *bytes += e->list[i].gone ? 0 : edit_entry_bytes(&e->list[i]);
    }
    if (*bytes == 0) {
        return 0;
    }
    uint8_t *directory = *bytes > QCOW2_MAX_BITMAP_DIRECTORY_BYTES ? NULL : calloc(1, *bytes), *at = directory;
    if (directory == NULL) {
        return *bytes > QCOW2_MAX_BITMAP_DIRECTORY_BYTES ? -EFBIG : -ENOMEM;
    }
    for (unsigned i = 0; i < e->count; i++) {
        const struct edit_bitmap *bitmap = &e->list[i];
        size_t name = strlen(bitmap->entry.name);
        if (bitmap->gone) {
            continue;
        }
        qcow2_put64(at, bitmap->entry.table_offset);
        qcow2_put32(at + 8, bitmap->entry.table_size);
        qcow2_put32(at + 12, bitmap->entry.flags);
        at[16] = bitmap->entry.type;
        at[17] = bitmap->entry.granularity_bits;
        at[18] = (uint8_t)(name >> 8);
        at[19] = (uint8_t)name;
        qcow2_put32(at + 20, bitmap->extra_bytes);
        if (bitmap->extra_bytes > 0) {
            memcpy(at + EDIT_ENTRY_BYTES, bitmap->extra, bitmap->extra_bytes);
        }
        memcpy(at + EDIT_ENTRY_BYTES + bitmap->extra_bytes, bitmap->entry.name, name);
        at += edit_entry_bytes(bitmap);
    }
    int status = edit_alloc(e, qcow2_align(s, *bytes) >> s->cluster_bits, offset);
    status = status == 0 ? s->file->driver->write(s->file, *offset, directory, *bytes) : status;
    free(directory);
    return status;
}

/* The header's extension, and the bit that says it is to be believed. */
static int edit_switch(struct edit *e, uint32_t count, uint64_t offset, uint64_t bytes)
{
    struct qcow2 *s = e->s;
    unsigned at = 0;
    while (at < s->extension_count && s->extensions[at].type != QCOW2_EXT_BITMAPS) {
        at++;
    }
    if (at == s->extension_count) {
        struct qcow2_extension *list = realloc(s->extensions, (s->extension_count + 1) * sizeof(*list));
        uint8_t *data = calloc(1, EDIT_ENTRY_BYTES);
        s->extensions = list != NULL ? list : s->extensions;
        if (list == NULL || data == NULL) {
            free(data);
            return -ENOMEM;
        }
        list[s->extension_count++] = (struct qcow2_extension){QCOW2_EXT_BITMAPS, EDIT_ENTRY_BYTES, data};
    }
    struct qcow2_extension *extension = &s->extensions[at], saved = *extension;
    uint64_t autoclear = s->autoclear;
    uint8_t old[EDIT_ENTRY_BYTES];
    memcpy(old, extension->data, sizeof(old));
    qcow2_put32(extension->data, count);
    qcow2_put64(extension->data + 8, bytes);
    qcow2_put64(extension->data + 16, offset);
    s->autoclear |= QCOW2_AUTOCLEAR_BITMAPS;
    if (count == 0) {
        s->autoclear &= ~QCOW2_AUTOCLEAR_BITMAPS;
        s->extensions[at] = s->extensions[--s->extension_count];
    }
    int status = qcow2_write_header(s);
    if (status != 0) {
        if (count == 0) {
            s->extensions[s->extension_count++] = s->extensions[at];
            s->extensions[at] = saved;
        }
        memcpy(s->extensions[at].data, old, sizeof(old));
        s->autoclear = autoclear;
        return status;
    }
    if (count == 0) {
        free(saved.data);
    }
    return 0;
}

static int edit_store(struct edit *e)
{
    struct qcow2 *s = e->s;
    uint64_t old_offset = 0, old_bytes = 0, offset, bytes;
    uint32_t left = 0;
    bool had = qcow2_bitmaps_directory(s, &old_offset, &old_bytes);
    int status = had ? edit_note(e, false, old_offset, qcow2_align(s, old_bytes) >> s->cluster_bits) : 0;
    for (unsigned i = 0; i < e->count && status == 0; i++) {
        struct edit_bitmap *bitmap = &e->list[i];
        left += !bitmap->gone;
        status = bitmap->gone || bitmap->changed ? edit_note_old(e, bitmap) : 0;
        status = status == 0 && bitmap->changed && !bitmap->gone ? edit_store_bits(e, bitmap) : status;
    }
    status = status == 0 ? edit_store_directory(e, &offset, &bytes) : status;
    status = status == 0 ? qcow2_commit(s, true) : status;
    status = status == 0 ? edit_switch(e, left, offset, bytes) : status;
    /* What is not led to: the old places, or, where it did not work out, the new ones. */
    const uint64_t *offsets = status == 0 ? e->old.offsets : e->fresh.offsets;
    size_t count = status == 0 ? e->old.count : e->fresh.count;
    for (size_t i = 0; i < count; i++) {
        int freed = qcow2_free(s, offsets[i], s->cluster_bytes, false);
        status = status != 0 ? status : freed;
    }
    s->bitmaps_marked = false; /* the next write marks what follows changes now */
    return status == 0 ? qcow2_commit(s, true) : status;
}

/* The same after a change of one bitmap, which the error names. */
static int edit_save(struct edit *e, const char *name, struct error *error)
{
    int status = edit_store(e);
    if (status != 0) {
        error_set(error, "Could not write bitmap '%s': %s", name, strerror(-status));
    }
    return status;
}

/* ---- The calls ---- */

static int edit_begin(struct edit *e, struct qcow2 *s, bool writing, struct error *error)
{
    *e = (struct edit){.s = s};
    if (writing && s->node->options.read_only) {
        error_set(error, "Image is read-only");
        return -EROFS;
    }
    if (writing && s->broken) {
        error_set(error, "The image is not written to any more: %s", strerror(EIO));
        return -EIO;
    }
    if (s->version < 3) {
        error_set(error, "Cannot store dirty bitmaps in qcow2 v2 files");
        return -ENOTSUP;
    }
    int status = qcow2_bitmaps_each(s, edit_one, e);
    if (status != 0) {
        error_set(error, "Could not load the bitmap directory: %s", strerror(-status));
    }
    return status;
}

static int edit_add(struct edit *e, const char *name, uint32_t granularity, struct error *error)
{
    size_t length = strlen(name);
    if (edit_find(e, name) != NULL) {
        error_set(error, "Bitmap already exists: %s", name);
        return -EEXIST;
    }
    if (length == 0 || length > 1023) {
        error_set(error, length == 0 ? "Bitmap name cannot be empty" : "Bitmap name too long");
        return -EINVAL;
    }
    if (granularity < 512 || granularity > 1u << 31 || (granularity & (granularity - 1)) != 0) {
        error_set(error, "Granularity must be a power of two from 512 to 2 GiB");
        return -EINVAL;
    }
    struct qcow2_bitmap_entry entry = {.flags = QCOW2_BITMAP_AUTO, .type = EDIT_TYPE_DIRTY, .granularity_bits = (uint8_t)__builtin_ctz(granularity)};
    memcpy(entry.name, name, length);
    int status = edit_one(e, &entry);
    if (status == 0) {
        struct edit_bitmap *bitmap = &e->list[e->count - 1];
        uint64_t bytes = edit_bytes(e, bitmap);
        bitmap->bits = bytes <= EDIT_BITS_MAX ? calloc(1, qcow2_align(e->s, bytes) + 1) : NULL;
        bitmap->changed = true;
        status = bitmap->bits != NULL ? 0 : bytes <= EDIT_BITS_MAX ? -ENOMEM : -EFBIG;
    }
    if (status != 0) {
        error_set(error, "Could not add bitmap '%s': %s", name, strerror(-status));
    }
    return status;
}

/* The bitmap, and where they are needed its bits. NULL with `error` filled. */
static struct edit_bitmap *edit_get(struct edit *e, const char *name, bool bits, struct error *error)
{
    struct edit_bitmap *bitmap = edit_find(e, name);
    if (bitmap == NULL) {
        error_set(error, "Dirty bitmap '%s' not found", name);
        return NULL;
    }
    if (bitmap->entry.flags & QCOW2_BITMAP_IN_USE) {
        error_set(error, "Bitmap '%s' is inconsistent and cannot be used; it can be removed", name);
        return NULL;
    }
    if (bitmap->entry.type != EDIT_TYPE_DIRTY) {
        error_set(error, "Bitmap '%s' is of a type that is not known", name);
        return NULL;
    }
    int status = bits ? edit_load_bits(e, bitmap) : 0;
    if (status != 0) {
        error_set(error, "Could not load bitmap '%s': %s", name, strerror(-status));
        return NULL;
    }
    return bitmap;
}

int qcow2_bitmap_change(struct block_node *node, const char *name, enum node_bitmap_action action, uint32_t granularity, struct error *error)
{
    struct qcow2 *s = node->state;
    struct edit e;
    struct edit_bitmap *bitmap;
    pthread_mutex_lock(&s->lock);
    int status = edit_begin(&e, s, true, error);
    bool begun = status == 0;
    if (begun && action == NODE_BITMAP_ADD) {
        status = edit_add(&e, name, granularity, error);
    } else if (begun && action == NODE_BITMAP_REMOVE) { /* of any state */
        bitmap = edit_find(&e, name);
        status = bitmap == NULL ? -ENOENT : 0;
        if (bitmap == NULL) {
            error_set(error, "Dirty bitmap '%s' not found", name);
        } else {
            bitmap->gone = true;
        }
    } else if (begun) {
        bitmap = edit_get(&e, name, action == NODE_BITMAP_CLEAR, error);
        status = bitmap == NULL ? -EINVAL : 0;
        if (bitmap != NULL && action == NODE_BITMAP_CLEAR) {
            memset(bitmap->bits, 0, qcow2_align(s, edit_bytes(&e, bitmap)));
            bitmap->changed = true;
        } else if (bitmap != NULL) {
            bitmap->entry.flags &= ~QCOW2_BITMAP_AUTO;
            bitmap->entry.flags |= action == NODE_BITMAP_ENABLE ? QCOW2_BITMAP_AUTO : 0;
        }
    }
    if (status == 0) {
        status = edit_save(&e, name, error);
    }
    pthread_mutex_unlock(&s->lock);
    edit_free(&e);
    return status;
}

int qcow2_bitmap_read(struct block_node *node, const char *name, struct node_bits *bits, struct error *error)
{
    struct qcow2 *s = node->state;
    struct edit e;
    pthread_mutex_lock(&s->lock);
    int status = edit_begin(&e, s, false, error);
    struct edit_bitmap *bitmap = status == 0 ? edit_get(&e, name, true, error) : NULL;
    if (bitmap != NULL) {
        *bits = (struct node_bits){.bits = bitmap->bits, .count = edit_bit_count(&e, bitmap), .granularity = 1u << bitmap->entry.granularity_bits};
        bitmap->bits = NULL; /* the caller's */
    }
    pthread_mutex_unlock(&s->lock);
    edit_free(&e);
    return status != 0 ? status : bitmap == NULL ? -EINVAL : 0;
}

int qcow2_bitmap_merge(struct block_node *node, const char *name, const struct node_bits *from, struct error *error)
{
    struct qcow2 *s = node->state;
    struct edit e;
    pthread_mutex_lock(&s->lock);
    int status = edit_begin(&e, s, true, error);
    struct edit_bitmap *bitmap = status == 0 ? edit_get(&e, name, true, error) : NULL;
    status = status != 0 ? status : bitmap == NULL ? -EINVAL : 0;
    for (uint64_t i = 0; i < from->count && status == 0; i++) {
        if (i % 8 == 0 && from->bits[i / 8] == 0) {
            i += 7;
            continue;
        }
        if (from->bits[i / 8] & 1u << i % 8) {
            uint64_t first = i * from->granularity, end = first + from->granularity, disk = s->node->bytes;
            end = end < disk ? end : disk;
            for (uint64_t at = first >> bitmap->entry.granularity_bits; first < end && at <= (end - 1) >> bitmap->entry.granularity_bits; at++) {
                bitmap->bits[at / 8] |= (uint8_t)(1u << at % 8);
            }
        }
    }
    if (status == 0) {
        bitmap->changed = true;
        status = edit_save(&e, name, error);
    }
    pthread_mutex_unlock(&s->lock);
    edit_free(&e);
    return status;
}
