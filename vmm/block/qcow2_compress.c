/* SPDX-License-Identifier: MIT */
/* Compressed clusters: raw deflate with a window of 4 KiB, or one zstd frame (the image says which). */
#include <errno.h>
#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>

#include "block/qcow2.h"

#define COMPRESS_WINDOW (-12)
#define COMPRESS_THREADS 4u
#define COMPRESS_BYTES (UINT64_C(2) << 20) /* at once; at least one cluster */

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

/* 0: it would not be smaller. */
static size_t compress_cluster(const struct qcow2 *s, const uint8_t *from, uint8_t *to)
{
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

static int compress_put(struct qcow2 *s, uint64_t offset, const uint8_t *data, size_t bytes)
{
    struct qcow2_entry old, entry = {0, 0};
    uint64_t host;
    unsigned shift = 62 - (s->cluster_bits - 8);
    pthread_mutex_lock(&s->lock);
    int status = qcow2_alloc_compressed(s, bytes, &host);
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

/* ---- Several clusters at once ---- */

struct compress_job {
    const struct qcow2 *s;
    const uint8_t *from;
    uint8_t *packed; /* a cluster's room for each */
    size_t *sizes;
    unsigned first, step, count;
};

static void *compress_thread(void *opaque)
{
    struct compress_job *job = opaque;
    for (unsigned i = job->first; i < job->count; i += job->step) {
        job->sizes[i] = compress_cluster(job->s, job->from + (size_t)i * job->s->cluster_bytes, job->packed + (size_t)i * job->s->cluster_bytes);
    }
    return NULL;
}

static void compress_all(const struct compress_job *all)
{
    struct compress_job jobs[COMPRESS_THREADS];
    pthread_t threads[COMPRESS_THREADS];
    unsigned step = all->count < COMPRESS_THREADS ? all->count : COMPRESS_THREADS, started = 0;
    for (unsigned i = 0; i < step; i++) {
        jobs[i] = *all;
        jobs[i].first = i;
        jobs[i].step = step;
    }
    while (started + 1 < step && pthread_create(&threads[started], NULL, compress_thread, &jobs[started]) == 0) {
        started++;
    }
    for (unsigned i = started; i < step; i++) {
        compress_thread(&jobs[i]);
    }
    for (unsigned i = 0; i < started; i++) {
        pthread_join(threads[i], NULL);
    }
}

/* `clusters` whole ones at `from`, of which the last may reach over the disk's end (`bytes` are the disk's). */
static int compress_write(struct block_node *node, uint64_t offset, const uint8_t *from, uint64_t bytes, unsigned clusters)
{
    struct qcow2 *s = node->state;
    uint8_t *packed = malloc(clusters * s->cluster_bytes);
    size_t *sizes = calloc(clusters, sizeof(*sizes));
    int status = packed == NULL || sizes == NULL ? -ENOMEM : 0;
    if (status == 0) {
        compress_all(&(struct compress_job){.s = s, .from = from, .packed = packed, .sizes = sizes, .count = clusters});
    }
    for (unsigned i = 0; i < clusters && status == 0; i++) {
        uint64_t at = i * s->cluster_bytes, count = bytes - at < s->cluster_bytes ? bytes - at : s->cluster_bytes;
        status = sizes[i] > 0 ? compress_put(s, offset + at, packed + at, sizes[i]) : qcow2_write(node, offset + at, from + at, count);
    }
    free(sizes);
    free(packed);
    return status;
}

int qcow2_write_compressed(struct block_node *node, uint64_t offset, const void *buffer, uint64_t bytes)
{
    struct qcow2 *s = node->state;
    const uint8_t *from = buffer;
    if (!qcow2_aligned(s, offset) || (!qcow2_aligned(s, bytes) && offset + bytes != node->bytes)) {
        return -EINVAL;
    }
    int status = qcow2_write_begin(s);
    while (bytes >= s->cluster_bytes && status == 0) {
        uint64_t clusters = bytes >> s->cluster_bits, most = COMPRESS_BYTES >> s->cluster_bits;
        clusters = clusters < most ? clusters : most;
        status = compress_write(node, offset, from, clusters << s->cluster_bits, (unsigned)clusters);
        offset += clusters << s->cluster_bits;
        from += clusters << s->cluster_bits;
        bytes -= clusters << s->cluster_bits;
    }
    if (bytes > 0 && status == 0) { /* the disk ends inside a cluster */
        uint8_t *last = calloc(1, s->cluster_bytes);
        if (last == NULL) {
            return -ENOMEM;
        }
        memcpy(last, from, bytes);
        status = compress_write(node, offset, last, bytes, 1);
        free(last);
    }
    return status;
}
