/* SPDX-License-Identifier: MIT */
/* Compressed clusters: raw deflate with a window of 4 KiB, or one zstd frame (the image says which). */
#include <errno.h>
#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>

#include "block/qcow2.h"

#define COMPRESS_WINDOW (-12)

static int compress_inflate(const uint8_t *from, size_t from_bytes, uint8_t *to, size_t to_bytes)
{
    z_stream stream = {.next_in = (uint8_t *)(uintptr_t)from, .avail_in = (uInt)from_bytes, .next_out = to, .avail_out = (uInt)to_bytes};
    if (inflateInit2(&stream, COMPRESS_WINDOW) != Z_OK) {
        return -ENOMEM;
    }
    int result = inflate(&stream, Z_FINISH);
    inflateEnd(&stream);
    /* The last sector's rest may hold anything, so that inflate() can end with either. */
    return (result == Z_STREAM_END || result == Z_BUF_ERROR) && stream.avail_out == 0 ? 0 : -EIO;
}

static int compress_unzstd(const uint8_t *from, size_t from_bytes, uint8_t *to, size_t to_bytes)
{
    ZSTD_DCtx *context = ZSTD_createDCtx();
    if (context == NULL) {
        return -ENOMEM;
    }
    ZSTD_inBuffer in = {from, from_bytes, 0};
    ZSTD_outBuffer out = {to, to_bytes, 0};
    int result = 0;
    while (result == 0 && out.pos < out.size) {
        size_t before_in = in.pos, before_out = out.pos;
        size_t status = ZSTD_decompressStream(context, &out, &in);
        if (ZSTD_isError(status) || (in.pos == before_in && out.pos == before_out)) {
            result = -EIO;
        }
    }
    ZSTD_freeDCtx(context);
    return result;
}

int qcow2_read_compressed(struct qcow2 *s, uint64_t host, uint64_t host_bytes, uint8_t *cluster)
{
    if (host_bytes > 2 * s->cluster_bytes) {
        return -EIO;
    }
    uint8_t *data = malloc(host_bytes);
    if (data == NULL) {
        return -ENOMEM;
    }
    int status = s->file->driver->read(s->file, host, data, host_bytes);
    if (status == 0) {
        status = s->compression == 1 ? compress_unzstd(data, host_bytes, cluster, s->cluster_bytes)
                                     : compress_inflate(data, host_bytes, cluster, s->cluster_bytes);
    }
    free(data);
    return status;
}

size_t qcow2_pack(const struct block_node *node, const void *cluster, void *packed)
{
    const struct qcow2 *s = node->state;
    uint8_t *to = packed;
    const uint8_t *from = cluster;
    size_t room = s->cluster_bytes - 1;
    if (s->compression == 1) {
        size_t bytes = ZSTD_compress(to, room, from, s->cluster_bytes, ZSTD_CLEVEL_DEFAULT);
        return ZSTD_isError(bytes) ? 0 : bytes;
    }
    z_stream stream = {.next_in = (uint8_t *)(uintptr_t)from, .avail_in = (uInt)s->cluster_bytes, .next_out = to, .avail_out = (uInt)room};
    if (deflateInit2(&stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, COMPRESS_WINDOW, 9, Z_DEFAULT_STRATEGY) != Z_OK) {
        return 0;
    }
    int result = deflate(&stream, Z_FINISH);
    deflateEnd(&stream);
    return result == Z_STREAM_END ? room - stream.avail_out : 0;
}

int qcow2_write_packed(struct block_node *node, uint64_t offset, const void *data, size_t bytes)
{
    struct qcow2 *s = node->state;
    struct qcow2_entry old, entry = {0, 0};
    uint64_t host;
    unsigned shift = 62 - (s->cluster_bits - 8);
    int status = qcow2_aligned(s, offset) ? qcow2_write_begin(s) : -EINVAL;
    if (status != 0) {
        return status;
    }
    pthread_mutex_lock(&s->lock);
    status = qcow2_alloc_compressed(s, bytes, &host);
    if (status == 0 && host + bytes > UINT64_C(1) << shift) {
        status = -EFBIG;
    }
    pthread_mutex_unlock(&s->lock);
    if (status != 0) {
        return status;
    }
    status = s->file->driver->write(s->file, host, data, bytes);
    pthread_mutex_lock(&s->lock);
    uint64_t sectors = (host + bytes - 1) / 512 - host / 512;
    entry.entry = QCOW2_COMPRESSED | sectors << shift | host;
    if (status == 0) {
        status = qcow2_lookup(s, offset, &old);
    }
    if (status == 0) {
        status = qcow2_update_entry(s, offset, &entry);
    }
    if (status == 0) {
        status = qcow2_free_entry(s, &old, false);
    } else {
        qcow2_free_entry(s, &entry, false);
    }
    pthread_mutex_unlock(&s->lock);
    return status;
}

int qcow2_write_compressed(struct block_node *node, uint64_t offset, const void *buffer, uint64_t bytes)
{
    struct qcow2 *s = node->state;
    const uint8_t *from = buffer;
    if (!qcow2_aligned(s, offset) || (!qcow2_aligned(s, bytes) && offset + bytes != node->bytes)) {
        return -EINVAL;
    }
    uint8_t *packed = malloc(s->cluster_bytes), *last = NULL;
    int status = packed == NULL ? -ENOMEM : 0;
    while (bytes > 0 && status == 0) {
        uint64_t count = bytes < s->cluster_bytes ? bytes : s->cluster_bytes;
        if (count < s->cluster_bytes) { /* the disk ends inside a cluster */
            last = calloc(1, s->cluster_bytes);
            if (last == NULL) {
                status = -ENOMEM;
                break;
            }
            memcpy(last, from, count);
        }
        size_t size = qcow2_pack(node, last != NULL ? last : from, packed);
        status = size > 0 ? qcow2_write_packed(node, offset, packed, size) : qcow2_write(node, offset, from, count);
        offset += count;
        from += count;
        bytes -= count;
    }
    free(last);
    free(packed);
    return status;
}
