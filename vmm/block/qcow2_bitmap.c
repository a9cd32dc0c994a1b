/* SPDX-License-Identifier: MIT */
/*
 * Persistent bitmaps: kept, listed and counted, but not updated by writes. So before the first change of data those that follow changes (flag
 * "auto") are marked in_use, which is how the format says "not to be trusted"; frozen ones stay good.
 */
#include <errno.h>
#include <stdlib.h>

#include "block/qcow2.h"

#define BITMAP_HEADER_BYTES 24u

static const uint8_t *bitmap_extension(const struct qcow2 *s)
{
    for (unsigned i = 0; i < s->extension_count; i++) {
        if (s->extensions[i].type == QCOW2_EXT_BITMAPS && s->extensions[i].bytes >= 24) {
            return s->extensions[i].data;
        }
    }
    return NULL;
}

bool qcow2_bitmaps_directory(const struct qcow2 *s, uint64_t *offset, uint64_t *bytes)
{
    const uint8_t *extension = bitmap_extension(s);
    if (extension == NULL || !(s->autoclear & QCOW2_AUTOCLEAR_BITMAPS)) {
        return false;
    }
    *bytes = qcow2_get64(extension + 8);
    *offset = qcow2_get64(extension + 16);
    return qcow2_get32(extension) > 0 && *bytes > 0;
}

static int bitmap_load(struct qcow2 *s, uint8_t **directory, uint64_t *offset, uint64_t *bytes)
{
    *directory = NULL;
    if (!qcow2_bitmaps_directory(s, offset, bytes)) {
        return 0;
    }
    if (*bytes > QCOW2_MAX_BITMAP_DIRECTORY_BYTES || !qcow2_aligned(s, *offset) || *offset > QCOW2_OFFSET_MASK) {
        return -EINVAL;
    }
    *directory = malloc(*bytes);
    int status = *directory == NULL ? -ENOMEM : s->file->driver->read(s->file, *offset, *directory, *bytes);
    if (status != 0) {
        free(*directory);
        *directory = NULL;
    }
    return status;
}

/* The entry at `at`; *next is where the one behind it begins. */
static int bitmap_parse(const uint8_t *directory, uint64_t bytes, uint64_t at, struct qcow2_bitmap_entry *entry, uint64_t *next)
{
    if (bytes - at < BITMAP_HEADER_BYTES) {
        return -EINVAL;
    }
    const uint8_t *raw = directory + at;
    uint32_t name = (uint32_t)raw[18] << 8 | raw[19], extra = qcow2_get32(raw + 20);
    uint64_t length = BITMAP_HEADER_BYTES + (uint64_t)extra + name;
    length = (length + 7) & ~UINT64_C(7);
    if (length > bytes - at || name >= sizeof(entry->name)) {
        return -EINVAL;
    }
    *entry = (struct qcow2_bitmap_entry){
        .table_offset = qcow2_get64(raw), .table_size = qcow2_get32(raw + 8), .flags = qcow2_get32(raw + 12), .type = raw[16], .granularity_bits = raw[17],
        .extra = raw + BITMAP_HEADER_BYTES, .extra_bytes = extra};
    memcpy(entry->name, raw + BITMAP_HEADER_BYTES + extra, name);
    *next = at + length;
    return entry->granularity_bits > 31 ? -EINVAL : 0;
}

int qcow2_bitmaps_each(struct qcow2 *s, int (*each)(void *opaque, const struct qcow2_bitmap_entry *bitmap), void *opaque)
{
    uint8_t *directory;
    uint64_t offset, bytes;
    int status = bitmap_load(s, &directory, &offset, &bytes);
    if (directory == NULL) {
        return status;
    }
    for (uint64_t at = 0; at < bytes && status == 0;) {
        struct qcow2_bitmap_entry entry;
        status = bitmap_parse(directory, bytes, at, &entry, &at);
        if (status == 0) {
            status = each(opaque, &entry);
        }
    }
    free(directory);
    return status;
}

int qcow2_bitmaps_mark(struct qcow2 *s)
{
    uint8_t *directory;
    uint64_t offset, bytes;
    bool changed = false;
    int status = bitmap_load(s, &directory, &offset, &bytes);
    for (uint64_t at = 0; directory != NULL && at < bytes && status == 0;) {
        struct qcow2_bitmap_entry entry;
        uint64_t here = at;
        status = bitmap_parse(directory, bytes, at, &entry, &at);
        if (status == 0 && (entry.flags & QCOW2_BITMAP_AUTO) && !(entry.flags & QCOW2_BITMAP_IN_USE)) {
            qcow2_put32(directory + here + 12, entry.flags | QCOW2_BITMAP_IN_USE);
            changed = true;
        }
    }
    if (status == 0 && changed) {
        status = s->file->driver->write(s->file, offset, directory, bytes);
        status = status == 0 ? qcow2_flush_file(s) : status;
    }
    free(directory);
    if (status == -EINVAL) {
        status = qcow2_corrupt(s, "bitmap directory makes no sense", offset);
    }
    s->bitmaps_marked = status == 0;
    return status;
}

struct bitmap_search {
    unsigned left;
    struct node_bitmap *to;
};

static int bitmap_pick(void *opaque, const struct qcow2_bitmap_entry *entry)
{
    struct bitmap_search *search = opaque;
    if (search->left-- > 0) {
        return 0;
    }
    *search->to = (struct node_bitmap){
        .granularity = 1u << entry->granularity_bits,
        .in_use = (entry->flags & QCOW2_BITMAP_IN_USE) != 0,
        .automatic = (entry->flags & QCOW2_BITMAP_AUTO) != 0,
    };
    memcpy(search->to->name, entry->name, sizeof(entry->name));
    return 1;
}

int qcow2_bitmap_get(struct block_node *node, unsigned index, struct node_bitmap *bitmap)
{
    struct bitmap_search search = {index, bitmap};
    int status = qcow2_bitmaps_each(node->state, bitmap_pick, &search);
    return status == 1 ? 0 : status == 0 ? -ENOENT : status;
}
