/* SPDX-License-Identifier: MIT */
/*
 * Payload formats, one function and one row each. The input is hostile: every library is told the room
 * that there is, and anything but a whole stream is an error.
 */
#include "machine/decompress.h"

#include <lz4.h>
#include <lzma.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define DECOMPRESS_ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* Why a stream failed. */
enum decompress_result { DECOMPRESS_OK, DECOMPRESS_TRUNCATED, DECOMPRESS_DAMAGED, DECOMPRESS_NO_ROOM, DECOMPRESS_NO_MEMORY };

static const char *const decompress_texts[] = {
    [DECOMPRESS_TRUNCATED] = "is truncated",
    [DECOMPRESS_DAMAGED] = "is damaged",
    [DECOMPRESS_NO_ROOM] = "does not fit into guest memory; give the guest more with -m",
    [DECOMPRESS_NO_MEMORY] = "needs more memory than this host gives",
};

static uint32_t decompress_le32(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

/* The size that Linux appends to every payload (gzip: is a part of it); where it is not there or a lie, only time is lost. */
static size_t decompress_size_hint(const uint8_t *in, size_t in_bytes, size_t room)
{
    size_t hint = in_bytes >= 4 ? decompress_le32(in + in_bytes - 4) : 0;
    return hint < room ? hint : 0;
}

/* Lets the host allocate the output's whole pages in one go instead of by a fault each. Only a hint. */
static void decompress_populate(uint8_t *out, size_t bytes)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t first = ((uintptr_t)out + page - 1) & ~(page - 1);
    uintptr_t end = ((uintptr_t)out + bytes) & ~(page - 1);
    if (first < end) {
        madvise((void *)first, end - first, MADV_POPULATE_WRITE);
    }
}

static enum decompress_result decompress_gzip(const uint8_t *in, size_t in_bytes, uint8_t *out, size_t room, size_t *out_bytes)
{
    decompress_populate(out, decompress_size_hint(in, in_bytes, room));
    z_stream stream;
    memset(&stream, 0, sizeof(stream));
    if (inflateInit2(&stream, 16 + MAX_WBITS) != Z_OK) {
        return DECOMPRESS_NO_MEMORY;
    }
    const size_t step = 1u << 30; /* avail_in and avail_out have 32 bits */
    int result = Z_OK;
    stream.next_in = (z_const Bytef *)in;
    stream.next_out = out;
    while (result == Z_OK) {
        size_t in_left = in_bytes - (size_t)(stream.next_in - in);
        size_t out_left = room - (size_t)(stream.next_out - out);
        stream.avail_in = (uInt)(in_left < step ? in_left : step);
        stream.avail_out = (uInt)(out_left < step ? out_left : step);
        result = inflate(&stream, Z_NO_FLUSH);
    }
    *out_bytes = (size_t)(stream.next_out - out);
    bool full = *out_bytes == room;
    inflateEnd(&stream);
    if (result == Z_BUF_ERROR) {
        return full ? DECOMPRESS_NO_ROOM : DECOMPRESS_TRUNCATED;
    }
    return result == Z_STREAM_END ? DECOMPRESS_OK : result == Z_MEM_ERROR ? DECOMPRESS_NO_MEMORY : DECOMPRESS_DAMAGED;
}

static enum decompress_result decompress_xz(const uint8_t *in, size_t in_bytes, uint8_t *out, size_t room, size_t *out_bytes)
{
    decompress_populate(out, decompress_size_hint(in, in_bytes, room));
    uint64_t memory_limit = UINT64_C(1) << 30;
    size_t in_at = 0;
    size_t out_at = 0;
    /* The stream names its own filters, the x86 branch converter included. */
    lzma_ret result = lzma_stream_buffer_decode(&memory_limit, 0, NULL, in, &in_at, in_bytes, out, &out_at, room);
    *out_bytes = out_at;
    switch (result) {
    case LZMA_OK:
        return DECOMPRESS_OK;
    case LZMA_BUF_ERROR:
        return DECOMPRESS_NO_ROOM;
    case LZMA_MEM_ERROR:
    case LZMA_MEMLIMIT_ERROR:
        return DECOMPRESS_NO_MEMORY;
    default:
        /* A stream cut short counts as damaged data here: liblzma meets Linux's size word, or nothing. */
        return DECOMPRESS_DAMAGED;
    }
}

static enum decompress_result decompress_zstd(const uint8_t *in, size_t in_bytes, uint8_t *out, size_t room, size_t *out_bytes)
{
    decompress_populate(out, decompress_size_hint(in, in_bytes, room));
    size_t frame_bytes = ZSTD_findFrameCompressedSize(in, in_bytes); /* without Linux's size word */
    if (ZSTD_isError(frame_bytes)) {
        return DECOMPRESS_TRUNCATED;
    }
    ZSTD_DCtx *context = ZSTD_createDCtx();
    if (context == NULL) {
        return DECOMPRESS_NO_MEMORY;
    }
    size_t result = ZSTD_decompressDCtx(context, out, room, in, frame_bytes);
    ZSTD_freeDCtx(context);
    if (ZSTD_isError(result)) {
        bool full = ZSTD_getFrameContentSize(in, in_bytes) > room;
        return full ? DECOMPRESS_NO_ROOM : DECOMPRESS_DAMAGED;
    }
    *out_bytes = result;
    return DECOMPRESS_OK;
}

/*
 * The legacy frame of lz4, which Linux packs kernels with:
 *
 *   u32 magic 0x184c2102 | { u32 bytes | block } ...  | Linux: u32 size of the output
 *
 * Every block but the last holds 8 MiB and knows nothing of the others, so threads can share them.
 */
#define LZ4_BLOCK_BYTES ((size_t)8 << 20)
#define LZ4_BLOCKS_MAX 256u
#define LZ4_THREADS_MAX 4u

struct lz4_job {
    const uint8_t *in[LZ4_BLOCKS_MAX];
    int in_bytes[LZ4_BLOCKS_MAX];
    int got[LZ4_BLOCKS_MAX];
    unsigned count;
    uint8_t *out;
    size_t room;
    size_t size_hint; /* what Linux says that all the output takes */
    atomic_uint next;
};

static void *lz4_work(void *opaque)
{
    struct lz4_job *job = opaque;
    for (;;) {
        unsigned i = atomic_fetch_add(&job->next, 1);
        if (i >= job->count) {
            return NULL;
        }
        size_t at = i * LZ4_BLOCK_BYTES;
        size_t left = at < job->room ? job->room - at : 0;
        int room = (int)(left < LZ4_BLOCK_BYTES ? left : LZ4_BLOCK_BYTES);
        size_t expected = job->size_hint > at ? job->size_hint - at : 0;
        decompress_populate(job->out + at, expected < (size_t)room ? expected : (size_t)room);
        job->got[i] = LZ4_decompress_safe((const char *)job->in[i], (char *)job->out + at, job->in_bytes[i], room);
    }
}

static enum decompress_result lz4_index(struct lz4_job *job, const uint8_t *in, size_t in_bytes)
{
    size_t at = 4;
    while (in_bytes - at > 4) { /* a last lone word is the size that Linux appends */
        uint32_t block = decompress_le32(in + at);
        at += 4;
        if (block == 0 || block > (uint32_t)LZ4_compressBound((int)LZ4_BLOCK_BYTES) || job->count == LZ4_BLOCKS_MAX) {
            return DECOMPRESS_DAMAGED;
        }
        if (block > in_bytes - at) {
            return DECOMPRESS_TRUNCATED;
        }
        job->in[job->count] = in + at;
        job->in_bytes[job->count] = (int)block;
        job->count++;
        at += block;
    }
    return job->count != 0 ? DECOMPRESS_OK : DECOMPRESS_TRUNCATED;
}

static enum decompress_result decompress_lz4(const uint8_t *in, size_t in_bytes, uint8_t *out, size_t room, size_t *out_bytes)
{
    struct lz4_job job = {.out = out, .room = room, .size_hint = decompress_size_hint(in, in_bytes, room)};
    enum decompress_result result = lz4_index(&job, in, in_bytes);
    if (result != DECOMPRESS_OK) {
        return result;
    }
    if ((job.count - 1) * LZ4_BLOCK_BYTES > room) {
        return DECOMPRESS_NO_ROOM;
    }
    pthread_t threads[LZ4_THREADS_MAX];
    unsigned started = 0;
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    while (started + 1 < LZ4_THREADS_MAX && started + 1 < job.count && (long)started + 1 < processors &&
           pthread_create(&threads[started], NULL, lz4_work, &job) == 0) {
        started++;
    }
    lz4_work(&job);
    while (started > 0) {
        pthread_join(threads[--started], NULL);
    }
    for (unsigned i = 0; i < job.count; i++) {
        bool last = i + 1 == job.count;
        if (job.got[i] < 0 || (!last && (size_t)job.got[i] != LZ4_BLOCK_BYTES)) {
            return last && room - i * LZ4_BLOCK_BYTES < LZ4_BLOCK_BYTES ? DECOMPRESS_NO_ROOM : DECOMPRESS_DAMAGED;
        }
    }
    *out_bytes = (job.count - 1) * LZ4_BLOCK_BYTES + (size_t)job.got[job.count - 1];
    return DECOMPRESS_OK;
}

static enum decompress_result decompress_none(const uint8_t *in, size_t in_bytes, uint8_t *out, size_t room, size_t *out_bytes)
{
    if (in_bytes > room) {
        return DECOMPRESS_NO_ROOM;
    }
    memcpy(out, in, in_bytes);
    *out_bytes = in_bytes;
    return DECOMPRESS_OK;
}

static const struct {
    const char *name;
    const char *magic;
    size_t magic_bytes;
    enum decompress_result (*run)(const uint8_t *in, size_t in_bytes, uint8_t *out, size_t room, size_t *out_bytes);
} decompress_formats[] = {
    {"gzip", "\x1f\x8b", 2, decompress_gzip},
    {"xz", "\xfd" "7zXZ\0", 6, decompress_xz},
    {"lz4", "\x02\x21\x4c\x18", 4, decompress_lz4},
    {"zstd", "\x28\xb5\x2f\xfd", 4, decompress_zstd},
    {"uncompressed", "\x7f" "ELF", 4, decompress_none},
};

static int decompress_find(const uint8_t *in, size_t in_bytes)
{
    for (unsigned i = 0; i < DECOMPRESS_ARRAY_SIZE(decompress_formats); i++) {
        size_t magic_bytes = decompress_formats[i].magic_bytes;
        if (in_bytes >= magic_bytes && memcmp(in, decompress_formats[i].magic, magic_bytes) == 0) {
            return (int)i;
        }
    }
    return -1;
}

const char *decompress_format(const uint8_t *in, size_t in_bytes)
{
    int format = decompress_find(in, in_bytes);
    return format < 0 ? NULL : decompress_formats[format].name;
}

int decompress(const uint8_t *in, size_t in_bytes, uint8_t *out, size_t room, size_t *out_bytes, struct error *error)
{
    int format = decompress_find(in, in_bytes);
    if (format < 0) {
        return error_set(error, "its payload is none of gzip, xz, lz4, zstd");
    }
    *out_bytes = 0;
    enum decompress_result result = decompress_formats[format].run(in, in_bytes, out, room, out_bytes);
    if (result != DECOMPRESS_OK) {
        return error_set(error, "its %s payload %s", decompress_formats[format].name, decompress_texts[result]);
    }
    return 0;
}
