/* SPDX-License-Identifier: MIT */
/*
 * Pieces of the source in order, each taken by a thread that is free. It reads the piece, finds zeroes and compresses beside the others. One
 * thread at a time writes, and what it writes lies in the target in the source's order (-W: as it comes); the others go on with pieces
 * behind those that wait, as far as the ring of pieces reaches.
 *
 *   TAKEN (take_lock)  ->  read, look for zeroes, pack  ->  READY  ->  written by whoever writes  ->  FREE, in order
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/img/convert.h"
#include "cli/img/img.h"
#include "util/thread.h"

/* A piece, at most: small enough for a processor's cache; and for all threads to have some to pack. */
#define COPY_BYTES (1u << 20)
#define COPY_BYTES_PACKED (1u << 18)
#define COPY_THREADS_USUAL 3u
#define COPY_THREADS_PACKING 8u

/* What the source is, from `at` on: as long as it is all alike. */
struct copy_run {
    uint64_t at, end;
    bool zero, skip;
};

enum copy_state { COPY_FREE, COPY_TAKEN, COPY_READY, COPY_WRITTEN };

struct copy_piece {
    enum copy_state state; /* with turn_lock */
    uint64_t offset, bytes;
    bool zero, skip;
    /* Of data: lengths of runs, by turns of none and of zeroes; or sizes of packed clusters. */
    uint8_t *buffer, *packed;
    size_t *sizes;
};

struct copy {
    struct convert *c;
    uint64_t from_bytes;
    size_t piece_bytes;        /* the largest; whole clusters, for -c */
    pthread_mutex_t take_lock; /* of what follows, and of maps of the source; before turn_lock */
    struct copy_run run;
    uint64_t taken;            /* pieces */
    pthread_mutex_t turn_lock; /* of what follows */
    pthread_cond_t turned;
    bool writing;              /* a thread has the target */
    uint64_t turn, done;       /* pieces before it are written; bytes */
    int result;
    unsigned ring_count;
    struct copy_piece ring[2 * CONVERT_THREADS_MAX]; /* piece n is at n % ring_count */
};

/* ---- Taking ---- */

static int copy_map(struct copy *copy)
{
    const struct convert *c = copy->c;
    struct block_extent extent;
    struct block_node *holder;
    unsigned depth;
    uint64_t offset = copy->run.end, limit = copy->from_bytes - offset;
    int result = node_map_chain(c->from, c->from_top_only ? c->from->backing : NULL, offset, limit, &extent, &holder, &depth);
    if (result != 0 && !c->salvage) {
        img_fail("error while reading block status at offset %llu: %s", (unsigned long long)offset, strerror(-result));
        return result;
    }
    copy->run = (struct copy_run){.at = offset, .end = offset + (limit < copy->piece_bytes ? limit : copy->piece_bytes)};
    if (result == 0) {
        copy->run.end = offset + extent.bytes;
        copy->run.skip = c->from_top_only && !(extent.flags & EXTENT_ALLOCATED);
        copy->run.zero = (extent.flags & EXTENT_ZERO) != 0 && (c->sparse != 0 || c->compress);
    }
    return 0;
}

/* With the lock. 0 with no bytes: it is all taken. */
static int copy_fill(struct copy *copy, struct copy_piece *piece)
{
    const struct convert *c = copy->c;
    struct copy_run *run = &copy->run;
    piece->bytes = 0;
    if (run->at == run->end) {
        int result = run->end < copy->from_bytes ? copy_map(copy) : 0;
        if (result != 0 || run->at == run->end) {
            return result;
        }
    }
    uint64_t bytes = run->end - run->at;
    piece->zero = run->zero;
    piece->skip = run->skip;
    /* Compressed clusters are written whole: what one of them holds is read together. */
    if (c->compress && run->end < copy->from_bytes && bytes % c->cluster != 0) {
        bytes -= bytes % c->cluster;
        if (bytes == 0) {
            piece->zero = piece->skip = false;
            bytes = c->cluster < copy->from_bytes - run->at ? c->cluster : copy->from_bytes - run->at;
            run->end = run->at + bytes > run->end ? run->at + bytes : run->end;
        }
    }
    if (!piece->zero && !piece->skip && bytes > copy->piece_bytes) {
        bytes = copy->piece_bytes;
    }
    piece->offset = run->at;
    piece->bytes = bytes;
    run->at += bytes;
    return 0;
}

/* NULL: there is nothing more, or something has failed. */
static struct copy_piece *copy_take(struct copy *copy, int *result)
{
    pthread_mutex_lock(&copy->take_lock);
    pthread_mutex_lock(&copy->turn_lock);
    while (copy->taken - copy->turn >= copy->ring_count && copy->result == 0) {
        pthread_cond_wait(&copy->turned, &copy->turn_lock);
    }
    bool over = copy->result != 0;
    pthread_mutex_unlock(&copy->turn_lock);
    struct copy_piece *piece = &copy->ring[copy->taken % copy->ring_count];
    *result = over ? 0 : copy_fill(copy, piece);
    over = over || *result != 0 || piece->bytes == 0;
    if (!over) {
        copy->taken++;
        piece->state = COPY_TAKEN; /* nobody looks at it who has not the lock, or waits for READY */
    }
    pthread_mutex_unlock(&copy->take_lock);
    return over ? NULL : piece;
}

/* ---- Reading ---- */

static int copy_read(const struct convert *c, struct copy_piece *piece)
{
    int result = node_read(c->from, piece->offset, piece->buffer, piece->bytes);
    for (uint64_t at = 0; result != 0 && c->salvage && at < piece->bytes; at += 512) {
        uint64_t count = piece->bytes - at < 512 ? piece->bytes - at : 512;
        if (node_read(c->from, piece->offset + at, piece->buffer + at, count) != 0) {
            memset(piece->buffer + at, 0, count);
            fprintf(stderr, "kage img: warning: error while reading offset %llu: zeroes are put there\n", (unsigned long long)(piece->offset + at));
        }
    }
    if (result != 0 && !c->salvage) {
        img_fail("error while reading at byte %llu: %s", (unsigned long long)piece->offset, strerror(-result));
    }
    return c->salvage ? 0 : result;
}

#define COPY_ZERO SIZE_MAX /* of a packed cluster: it is all zeroes */

static void copy_pack(const struct convert *c, struct copy_piece *piece)
{
    uint64_t whole = (piece->bytes + c->cluster - 1) / c->cluster * c->cluster;
    memset(piece->buffer + piece->bytes, 0, whole - piece->bytes); /* the disk may end inside a cluster */
    for (uint64_t at = 0; at < whole; at += c->cluster) {
        piece->sizes[at / c->cluster] =
            img_is_zero(piece->buffer + at, c->cluster) ? COPY_ZERO : c->to->driver->pack(c->to, piece->buffer + at, piece->packed + at);
    }
}

/* ---- Writing, with the turn ---- */

static int copy_put_zeroes(const struct convert *c, uint64_t offset, uint64_t bytes)
{
    return c->target_is_zero ? 0 : node_write_zeroes(c->to, offset, bytes, NODE_UNMAP);
}

static int copy_write_packed(const struct convert *c, const struct copy_piece *piece)
{
    int result = 0;
    for (uint64_t at = 0; at < piece->bytes && result == 0; at += c->cluster) {
        uint64_t count = piece->bytes - at < c->cluster ? piece->bytes - at : c->cluster, offset = piece->offset + at;
        size_t size = piece->sizes[at / c->cluster];
        result = size == COPY_ZERO ? copy_put_zeroes(c, offset, count)
                 : size != 0       ? c->to->driver->write_packed(c->to, offset, piece->packed + at, size)
                                   : node_write(c->to, offset, piece->buffer + at, count);
    }
    return result;
}

static int copy_write(const struct convert *c, const struct copy_piece *piece)
{
    int result = 0;
    if (piece->skip) {
        return 0;
    }
    if (piece->zero) {
        result = copy_put_zeroes(c, piece->offset, piece->bytes);
    } else if (c->compress) {
        result = copy_write_packed(c, piece);
    } else {
        /* sizes: the lengths of runs, by turns of none and of zeroes */
        bool zero = false;
        for (uint64_t at = 0, i = 0; at < piece->bytes && result == 0; at += piece->sizes[i++], zero = !zero) {
            uint64_t count = piece->sizes[i];
            if (count != 0) {
                result = zero ? copy_put_zeroes(c, piece->offset + at, count) : node_write(c->to, piece->offset + at, piece->buffer + at, count);
            }
        }
    }
    if (result != 0) {
        img_fail("error while writing at byte %llu: %s", (unsigned long long)piece->offset, strerror(-result));
    }
    return result;
}

static void copy_find_zeroes(const struct convert *c, struct copy_piece *piece)
{
    unsigned count = 0;
    bool wanted = false, zero;
    for (uint64_t at = 0; at < piece->bytes; wanted = !wanted) {
        size_t run = c->sparse != 0 ? img_zero_run(piece->buffer + at, piece->bytes - at, c->sparse, &zero) : piece->bytes;
        zero = c->sparse != 0 && zero;
        piece->sizes[count++] = zero == wanted ? run : 0;
        at += zero == wanted ? run : 0;
    }
}

/* ---- A thread ---- */

static void copy_fail(struct copy *copy, int result)
{
    pthread_mutex_lock(&copy->turn_lock);
    copy->result = copy->result != 0 ? copy->result : result;
    pthread_cond_broadcast(&copy->turned);
    pthread_mutex_unlock(&copy->turn_lock);
}

/* With turn_lock: what may be written now; NULL: nothing. */
static struct copy_piece *copy_next(struct copy *copy)
{
    unsigned reach = copy->c->any_order ? copy->ring_count : 1;
    for (unsigned i = 0; i < reach; i++) {
        struct copy_piece *piece = &copy->ring[(copy->turn + i) % copy->ring_count];
        if (piece->state == COPY_READY) {
            return piece;
        }
    }
    return NULL;
}

/* The piece is ready. Who finds nobody writing writes, until nothing is left that may be written. */
static int copy_write_ready(struct copy *copy, struct copy_piece *piece)
{
    const struct convert *c = copy->c;
    int result = 0;
    pthread_mutex_lock(&copy->turn_lock);
    piece->state = COPY_READY;
    while (!copy->writing && copy->result == 0 && result == 0 && (piece = copy_next(copy)) != NULL) {
        copy->writing = true;
        pthread_mutex_unlock(&copy->turn_lock);
        result = copy_write(c, piece);
        pthread_mutex_lock(&copy->turn_lock);
        copy->writing = false;
        piece->state = COPY_WRITTEN;
        copy->done += piece->bytes;
        img_progress(c->progress, copy->done, c->total, false);
        for (; copy->ring[copy->turn % copy->ring_count].state == COPY_WRITTEN; copy->turn++) {
            copy->ring[copy->turn % copy->ring_count].state = COPY_FREE;
        }
        pthread_cond_broadcast(&copy->turned);
    }
    pthread_mutex_unlock(&copy->turn_lock);
    return result;
}

static void *copy_thread(void *opaque)
{
    struct copy *copy = opaque;
    const struct convert *c = copy->c;
    struct copy_piece *piece;
    int result = 0;
    while (result == 0 && (piece = copy_take(copy, &result)) != NULL) {
        if (!piece->zero && !piece->skip) {
            result = copy_read(c, piece);
            if (result == 0) {
                (c->compress ? copy_pack : copy_find_zeroes)(c, piece);
            }
        }
        result = result == 0 ? copy_write_ready(copy, piece) : result;
    }
    if (result != 0) {
        copy_fail(copy, result);
    }
    return NULL;
}

static bool copy_make_ring(struct copy *copy)
{
    bool made = true;
    for (unsigned i = 0; i < copy->ring_count && made; i++) {
        struct copy_piece *piece = &copy->ring[i];
        piece->buffer = aligned_alloc(4096, copy->piece_bytes);
        piece->packed = copy->c->compress ? malloc(copy->piece_bytes) : NULL;
        piece->sizes = calloc(copy->piece_bytes / 512 + 2, sizeof(*piece->sizes));
        made = piece->buffer != NULL && piece->sizes != NULL && (piece->packed != NULL || !copy->c->compress);
    }
    return made;
}

static void copy_free_ring(struct copy *copy)
{
    for (unsigned i = 0; i < copy->ring_count; i++) {
        free(copy->ring[i].buffer);
        free(copy->ring[i].packed);
        free(copy->ring[i].sizes);
    }
}

/* Compression takes what processors there are; else one reads while another writes. */
static unsigned copy_threads(const struct convert *c)
{
    return c->threads != 0 ? c->threads : c->compress ? COPY_THREADS_PACKING : COPY_THREADS_USUAL;
}

static void copy_run(struct copy *copy, unsigned wanted)
{
    pthread_t threads[CONVERT_THREADS_MAX];
    unsigned started = 0;
    while (started + 1 < wanted && thread_start(&threads[started], copy_thread, copy) == 0) {
        started++;
    }
    copy_thread(copy);
    for (unsigned i = 0; i < started; i++) {
        pthread_join(threads[i], NULL);
    }
}

int convert_copy(struct convert *c)
{
    struct copy copy = {.c = c, .from_bytes = c->from->bytes < c->total ? c->from->bytes : c->total};
    unsigned threads = copy_threads(c);
    copy.piece_bytes = c->sparse > COPY_BYTES ? CONVERT_SPARSE_MAX : COPY_BYTES;
    if (c->compress) {
        copy.piece_bytes = c->cluster > COPY_BYTES_PACKED ? c->cluster : COPY_BYTES_PACKED;
    }
    copy.ring_count = c->compress ? 2 * threads : threads + 1;
    pthread_mutex_init(&copy.take_lock, NULL);
    pthread_mutex_init(&copy.turn_lock, NULL);
    pthread_cond_init(&copy.turned, NULL);
    if (copy_make_ring(&copy)) {
        copy_run(&copy, threads);
    } else {
        copy.result = -ENOMEM;
        img_fail("%s", strerror(ENOMEM));
    }
    copy_free_ring(&copy);
    pthread_cond_destroy(&copy.turned);
    pthread_mutex_destroy(&copy.turn_lock);
    pthread_mutex_destroy(&copy.take_lock);
    int result = copy.result;
    if (result == 0 && c->total > copy.from_bytes) {
        result = copy_put_zeroes(c, copy.from_bytes, c->total - copy.from_bytes);
    }
    if (result == 0) {
        result = node_flush(c->to);
        if (result != 0) {
            img_fail("error while flushing: %s", strerror(-result));
        }
    }
    img_progress(c->progress && result == 0, c->total, c->total, true);
    return result;
}
