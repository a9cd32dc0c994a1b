/* SPDX-License-Identifier: MIT */
/*
 * The header and its extensions: read and checked, changed field by field (each change in one sector), and written anew where a name changes.
 */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include "block/qcow2.h"

#define HEADER_EXTENSIONS_MAX 64u

/* The first features table row of a kind and bit: what an image calls a feature that we do not know. */
static void header_feature_name(const struct qcow2 *s, unsigned kind, unsigned bit, char name[47])
{
    snprintf(name, 47, "unknown feature %u", bit);
    for (unsigned i = 0; i < s->extension_count; i++) {
        const struct qcow2_extension *extension = &s->extensions[i];
        for (uint32_t at = 0; extension->type == QCOW2_EXT_FEATURE_TABLE && at + 48 <= extension->bytes; at += 48) {
            if (extension->data[at] == kind && extension->data[at + 1] == bit) {
                memcpy(name, extension->data + at + 2, 46);
                name[46] = '\0';
            }
        }
    }
}

static int header_load_extensions(struct qcow2 *s, const uint8_t *first, uint32_t end, struct error *error)
{
    uint32_t at = s->header_bytes;
    while (end - at >= 8) {
        uint32_t type = qcow2_get32(first + at), bytes = qcow2_get32(first + at + 4);
        at += 8;
        if (type == QCOW2_EXT_END) {
            break;
        }
        if (bytes > end - at || s->extension_count == HEADER_EXTENSIONS_MAX) {
            error_set(error, "Header extension too large");
            return -EINVAL;
        }
        if (type == QCOW2_EXT_BACKING_FORMAT) {
            if (bytes >= sizeof(s->backing_format)) {
                error_set(error, "ERROR: ext_backing_format: len=%u too large (>=%zu)", bytes, sizeof(s->backing_format));
                return -EINVAL;
            }
            memcpy(s->backing_format, first + at, bytes);
            s->backing_format[bytes] = '\0';
        } else {
            struct qcow2_extension *extensions = realloc(s->extensions, (s->extension_count + 1) * sizeof(*extensions));
            uint8_t *data = malloc(bytes != 0 ? bytes : 1);
            if (extensions != NULL) {
                s->extensions = extensions;
            }
            if (extensions == NULL || data == NULL) {
                free(data);
                error_set(error, "%s", strerror(ENOMEM));
                return -ENOMEM;
            }
            memcpy(data, first + at, bytes);
            s->extensions[s->extension_count++] = (struct qcow2_extension){type, bytes, data};
        }
        uint32_t padded = (bytes + 7) & ~7u;
        at = padded > end - at ? end : at + padded;
    }
    return 0;
}

static int header_check_features(struct qcow2 *s, struct error *error)
{
    uint64_t unknown = s->incompatible & ~(uint64_t)QCOW2_INCOMPAT_KNOWN;
    if (unknown != 0) {
        char name[47];
        header_feature_name(s, 0, (unsigned)__builtin_ctzll(unknown), name);
        error_set(error, "Unsupported qcow2 feature(s): %s", name);
        return -ENOTSUP;
    }
    if ((s->incompatible & QCOW2_INCOMPAT_DATA_FILE) && !s->node->options.no_io) {
        error_set(error, "'%s' keeps its data in an external file, which is not supported; 'qemu-img convert' brings it into one image",
                  s->node->filename);
        return -ENOTSUP;
    }
    if ((s->incompatible & QCOW2_INCOMPAT_CORRUPT) && !s->node->options.read_only && !s->node->options.check) {
        error_set(error, "qcow2: Image is corrupt; cannot be opened read/write");
        return -EACCES;
    }
    if (s->extended && s->cluster_bits < 14) {
        error_set(error, "Extended L2 entries need clusters of at least 16 KiB");
        return -EINVAL;
    }
    if (s->compression > 1 || (s->compression != 0) != ((s->incompatible & QCOW2_INCOMPAT_COMPRESSION) != 0)) {
        error_set(error, "qcow2: unknown compression type: %u", s->compression);
        return -ENOTSUP;
    }
    if (s->crypt_method != 0 && !s->node->options.no_io) {
        error_set(error, "'%s' is encrypted, which is not supported", s->node->filename);
        return -ENOTSUP;
    }
    return 0;
}

int qcow2_load_header(struct qcow2 *s, struct error *error)
{
    struct qcow2_header header = {0};
    int status = s->file->driver->read(s->file, 0, &header, sizeof(header));
    if (status != 0) {
        error_set(error, "Could not read qcow2 header: %s", strerror(-status));
        return status;
    }
    s->version = be32toh(header.version);
    s->cluster_bits = be32toh(header.cluster_bits);
    if (be32toh(header.magic) != QCOW2_MAGIC) {
        error_set(error, "Image is not in qcow2 format");
        return -EINVAL;
    }
    if (s->version != 2 && s->version != 3) {
        error_set(error, "Unsupported qcow2 version %u", s->version);
        return -ENOTSUP;
    }
    if (s->cluster_bits < QCOW2_MIN_CLUSTER_BITS || s->cluster_bits > QCOW2_MAX_CLUSTER_BITS) {
        error_set(error, "Unsupported cluster size: 2^%u", s->cluster_bits);
        return -EINVAL;
    }
    s->cluster_bytes = UINT64_C(1) << s->cluster_bits;
    s->header_bytes = QCOW2_V2_HEADER_LENGTH;
    s->refcount_order = 4;
    if (s->version >= 3) {
        s->header_bytes = be32toh(header.header_length);
        s->incompatible = be64toh(header.incompatible_features);
        s->compatible = be64toh(header.compatible_features);
        s->autoclear = be64toh(header.autoclear_features);
        s->refcount_order = be32toh(header.refcount_order);
        if (s->header_bytes < QCOW2_V3_HEADER_LENGTH_MIN || s->header_bytes > s->cluster_bytes) {
            error_set(error, "qcow2 header too %s", s->header_bytes < QCOW2_V3_HEADER_LENGTH_MIN ? "short" : "large");
            return -EINVAL;
        }
        s->compression = s->header_bytes > QCOW2_V3_HEADER_LENGTH_MIN ? header.compression_type : 0;
    }
    if (s->refcount_order > 6) {
        error_set(error, "Reference count entry width too large; may not exceed 64 bits");
        return -EINVAL;
    }
    s->refcount_max = s->refcount_order == 6 ? INT64_MAX : (UINT64_C(1) << (1u << s->refcount_order)) - 1;
    s->refblock_bits = s->cluster_bits + 3 - s->refcount_order;
    s->extended = (s->incompatible & QCOW2_INCOMPAT_EXTL2) != 0;
    s->l2_entry_bytes = s->extended ? 16 : 8;
    s->l2_bits = s->cluster_bits - (s->extended ? 4 : 3);
    s->subclusters = s->extended ? 32 : 1;
    s->subcluster_bytes = s->cluster_bytes / s->subclusters;
    s->crypt_method = be32toh(header.crypt_method);
    s->lazy = (s->compatible & QCOW2_COMPAT_LAZY_REFCOUNTS) != 0;

    uint64_t backing_offset = be64toh(header.backing_file_offset);
    uint32_t backing_bytes = be32toh(header.backing_file_size);
    if (backing_offset != 0 && (backing_bytes > 1023 || backing_offset > s->cluster_bytes || backing_bytes > s->cluster_bytes - backing_offset)) {
        error_set(error, "Invalid backing file offset");
        return -EINVAL;
    }
    uint8_t *first = malloc(s->cluster_bytes);
    status = first == NULL ? -ENOMEM : s->file->driver->read(s->file, 0, first, s->cluster_bytes);
    if (status != 0) {
        error_set(error, "Could not read qcow2 header: %s", strerror(-status));
        free(first);
        return status;
    }
    if (backing_offset != 0) {
        memcpy(s->backing_file, first + backing_offset, backing_bytes);
    }
    uint32_t end = backing_offset > s->header_bytes ? (uint32_t)backing_offset : (uint32_t)s->cluster_bytes;
    status = header_load_extensions(s, first, end, error);
    if (status == 0 && s->header_bytes > QCOW2_V3_HEADER_LENGTH) {
        s->header_rest = malloc(s->header_bytes - QCOW2_V3_HEADER_LENGTH);
        status = s->header_rest == NULL ? -ENOMEM : 0;
        if (status == 0) {
            memcpy(s->header_rest, first + QCOW2_V3_HEADER_LENGTH, s->header_bytes - QCOW2_V3_HEADER_LENGTH);
        }
    }
    free(first);
    if (status == 0) {
        status = header_check_features(s, error);
    }
    if (status != 0) {
        return status;
    }

    s->node->bytes = be64toh(header.size);
    s->l1_size = be32toh(header.l1_size);
    s->l1_offset = be64toh(header.l1_table_offset);
    s->reftable_offset = be64toh(header.refcount_table_offset);
    s->reftable_clusters = be32toh(header.refcount_table_clusters);
    s->snapshots_offset = be64toh(header.snapshots_offset);
    uint64_t reftable_bytes = (uint64_t)s->reftable_clusters << s->cluster_bits;
    if (s->node->bytes > INT64_MAX - s->cluster_bytes || qcow2_l1_needed(s, s->node->bytes) > s->l1_size) {
        error_set(error, "L1 table is too small");
        return -EINVAL;
    }
    if (8 * (uint64_t)s->l1_size > QCOW2_MAX_L1_BYTES || !qcow2_aligned(s, s->l1_offset) || s->l1_offset > QCOW2_OFFSET_MASK ||
        (s->l1_size > 0 && s->l1_offset == 0)) {
        error_set(error, "Active L1 table offset invalid, or table too large");
        return -EINVAL;
    }
    if (reftable_bytes > QCOW2_MAX_REFTABLE_BYTES || !qcow2_aligned(s, s->reftable_offset) || s->reftable_offset > QCOW2_OFFSET_MASK ||
        (reftable_bytes == 0 && !s->node->options.check)) {
        error_set(error, reftable_bytes == 0 ? "Image does not contain a reference count table" : "Reference count table offset invalid, or too large");
        return -EINVAL;
    }
    s->reftable_size = (uint32_t)(reftable_bytes / 8);
    s->snapshot_count = be32toh(header.nb_snapshots);
    return 0;
}

void qcow2_free_header(struct qcow2 *s)
{
    for (unsigned i = 0; i < s->extension_count; i++) {
        free(s->extensions[i].data);
    }
    free(s->extensions);
    free(s->header_rest);
}

/* ---- Changing ---- */

int qcow2_patch_header(struct qcow2 *s, uint64_t at, const void *data, size_t bytes)
{
    int status = qcow2_flush_file(s);
    if (status == 0) {
        status = s->file->driver->write(s->file, at, data, bytes);
    }
    return status == 0 ? qcow2_flush_file(s) : status;
}

int qcow2_set_incompatible(struct qcow2 *s, uint64_t set, uint64_t clear)
{
    uint64_t features = (s->incompatible | set) & ~clear;
    if (features == s->incompatible || s->version < 3) {
        return 0;
    }
    uint8_t raw[8];
    qcow2_put64(raw, features);
    int status = qcow2_patch_header(s, offsetof(struct qcow2_header, incompatible_features), raw, sizeof(raw));
    if (status == 0) {
        s->incompatible = features;
    }
    return status;
}

int qcow2_corrupt(struct qcow2 *s, const char *what, uint64_t offset)
{
    if (!s->node->options.check && !s->broken) {
        fprintf(stderr, "kage: qcow2: '%s': %s (offset %#llx)%s\n", s->node->filename, what, (unsigned long long)offset,
                s->node->options.read_only ? "" : "; no more is written to it");
        if (!s->node->options.read_only) {
            s->broken = true;
            if (s->version >= 3) {
                uint8_t raw[8];
                s->incompatible |= QCOW2_INCOMPAT_CORRUPT;
                qcow2_put64(raw, s->incompatible);
                s->file->driver->write(s->file, offsetof(struct qcow2_header, incompatible_features), raw, sizeof(raw));
            }
        }
    }
    return -EIO;
}

int qcow2_switch_l1(struct qcow2 *s, uint64_t size, uint32_t l1_size, uint64_t l1_offset)
{
    uint8_t raw[24];
    qcow2_put64(raw, size);
    qcow2_put32(raw + 8, s->crypt_method);
    qcow2_put32(raw + 12, l1_size);
    qcow2_put64(raw + 16, l1_offset);
    return qcow2_patch_header(s, offsetof(struct qcow2_header, size), raw, sizeof(raw));
}

static uint32_t header_put_extension(uint8_t *first, uint32_t at, uint32_t type, const void *data, uint32_t bytes)
{
    qcow2_put32(first + at, type);
    qcow2_put32(first + at + 4, bytes);
    memcpy(first + at + 8, data, bytes);
    return at + 8 + ((bytes + 7) & ~7u);
}

int qcow2_write_header(struct qcow2 *s)
{
    uint32_t known = s->version == 2 ? QCOW2_V2_HEADER_LENGTH : s->header_bytes < QCOW2_V3_HEADER_LENGTH ? s->header_bytes : QCOW2_V3_HEADER_LENGTH;
    uint64_t need = s->header_bytes + 16 + strlen(s->backing_format) + 7 + strlen(s->backing_file);
    for (unsigned i = 0; i < s->extension_count; i++) {
        need += 8 + ((s->extensions[i].bytes + 7) & ~7u);
    }
    if (need > s->cluster_bytes) {
        return -ENOSPC;
    }
    uint8_t *first = calloc(1, s->cluster_bytes);
    if (first == NULL) {
        return -ENOMEM;
    }
    struct qcow2_header header = {
        .magic = htobe32(QCOW2_MAGIC),
        .version = htobe32(s->version),
        .cluster_bits = htobe32(s->cluster_bits),
        .size = htobe64(s->node->bytes),
        .crypt_method = htobe32(s->crypt_method),
        .l1_size = htobe32(s->l1_size),
        .l1_table_offset = htobe64(s->l1_offset),
        .refcount_table_offset = htobe64(s->reftable_offset),
        .refcount_table_clusters = htobe32(s->reftable_clusters),
        .nb_snapshots = htobe32(s->snapshot_count),
        .snapshots_offset = htobe64(s->snapshots_offset),
        .incompatible_features = htobe64(s->incompatible),
        .compatible_features = htobe64(s->compatible),
        .autoclear_features = htobe64(s->autoclear),
        .refcount_order = htobe32(s->refcount_order),
        .header_length = htobe32(s->header_bytes),
        .compression_type = s->compression,
    };
    uint32_t at = s->header_bytes;
    if (s->header_rest != NULL) {
        memcpy(first + QCOW2_V3_HEADER_LENGTH, s->header_rest, s->header_bytes - QCOW2_V3_HEADER_LENGTH);
    }
    if (s->backing_file[0] != '\0' && s->backing_format[0] != '\0') {
        at = header_put_extension(first, at, QCOW2_EXT_BACKING_FORMAT, s->backing_format, (uint32_t)strlen(s->backing_format));
    }
    for (unsigned i = 0; i < s->extension_count; i++) {
        at = header_put_extension(first, at, s->extensions[i].type, s->extensions[i].data, s->extensions[i].bytes);
    }
    at += 8; /* the end */
    if (s->backing_file[0] != '\0') {
        header.backing_file_offset = htobe64(at);
        header.backing_file_size = htobe32((uint32_t)strlen(s->backing_file));
        memcpy(first + at, s->backing_file, strlen(s->backing_file));
    }
    memcpy(first, &header, known);
    int status = qcow2_patch_header(s, 0, first, s->cluster_bytes);
    free(first);
    return status;
}
