/* SPDX-License-Identifier: MIT */
/* Disks: opening and closing, and what they are. block/front.h says how they work. */
#include "block/block.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "block/front.h"

/* ---- Opening and closing ---- */

int block_config_cache(struct block_config *config, const char *name)
{
    static const struct {
        const char *name;
        bool direct, writethrough, no_flush;
    } modes[] = {
        {"none", true, false, false},      {"off", true, false, false},          {"writeback", false, false, false},
        {"writethrough", false, true, false}, {"directsync", true, true, false}, {"unsafe", false, false, true},
    };
    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
        if (strcmp(modes[i].name, name) == 0) {
            config->cache_direct = modes[i].direct;
            config->cache_writethrough = modes[i].writethrough;
            config->cache_no_flush = modes[i].no_flush;
            return 0;
        }
    }
    return -1;
}

static int block_init_aio(struct block *block, struct error *error)
{
    block->event = (struct loop_source){.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .ready = block_event_ready, .opaque = block};
    block->timer = (struct loop_source){.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK), .ready = block_timer_ready, .opaque = block};
    int result = block->event.fd < 0 || block->timer.fd < 0 ? -errno : -ENOSYS;
    if (result == -ENOSYS && block->config.aio != BLOCK_AIO_THREADS) {
        result = aio_new(&block->aio, true, block->event.fd);
        if (result != 0 && block->config.aio == BLOCK_AIO_IO_URING) {
            return error_set(error, "aio=io_uring: %s", strerror(-result));
        }
    }
    if (block->aio == NULL && block->event.fd >= 0 && block->timer.fd >= 0) {
        result = aio_new(&block->aio, false, block->event.fd);
    }
    for (int i = 0; i < 1 + (int)BLOCK_READERS && result == 0; i++) {
        result = block_start_thread(block, i == 0 ? BLOCK_WORKER : BLOCK_READER);
    }
    return result == 0 ? 0 : error_set(error, "Could not start the threads of a disk: %s", strerror(-result));
}

static void block_fini_aio(struct block *block)
{
    pthread_mutex_lock(&block->lock);
    block->stop = true;
    pthread_cond_broadcast(&block->work[BLOCK_WORKER]);
    pthread_cond_broadcast(&block->work[BLOCK_READER]);
    pthread_mutex_unlock(&block->lock);
    for (unsigned i = 0; i < block->thread_count; i++) {
        pthread_join(block->threads[i], NULL);
    }
    if (block->aio != NULL) {
        aio_free(block->aio);
    }
    if (block->event.fd >= 0) {
        close(block->event.fd);
    }
    if (block->timer.fd >= 0) {
        close(block->timer.fd);
    }
    if (block->throttle != NULL) {
        throttle_put(block->throttle);
    }
    pthread_cond_destroy(&block->work[BLOCK_WORKER]);
    pthread_cond_destroy(&block->work[BLOCK_READER]);
    pthread_mutex_destroy(&block->lock);
}

struct block *block_open(const struct block_config *config, struct error *error)
{
    struct block *block = calloc(1, sizeof(*block));
    if (block == NULL) {
        error_set(error, "Could not open '%s': %s", config->filename, strerror(ENOMEM));
        return NULL;
    }
    struct node_options options = {
        .read_only = config->read_only,
        .direct = config->cache_direct,
        .no_flush = config->cache_no_flush,
        .force_share = config->force_share && config->read_only,
        .no_backing = config->no_backing,
        .nbd = {.reconnect_delay_s = config->nbd_reconnect_delay_s,
                .open_timeout_s = config->nbd_open_timeout_s,
                .request_timeout_s = config->nbd_request_timeout_s},
    };
    block->config = *config;
    block->root = node_open(config->filename, config->format, &options, error);
    if (block->root == NULL) {
        free(block);
        return NULL;
    }
    block->config.filename = block->root->filename;
    block->config.format = block->root->driver->name;
    struct node_info info = {0};
    if (block->root->driver->info != NULL) {
        block->root->driver->info(block->root, &info);
    }
    block->range_bytes = info.cluster_bytes != 0 ? info.cluster_bytes : block->root->alignment > 512 ? block->root->alignment : 512;
    pthread_mutex_init(&block->lock, NULL);
    pthread_cond_init(&block->work[BLOCK_WORKER], NULL);
    pthread_cond_init(&block->work[BLOCK_READER], NULL);
    queue_init(&block->queue[BLOCK_WORKER]);
    queue_init(&block->queue[BLOCK_READER]);
    queue_init(&block->waiting);
    queue_init(&block->throttled);
    queue_init(&block->done);
    block->throttle = config->throttle_with != NULL ? throttle_share(config->throttle_with->throttle) : throttle_new(&config->throttle, block_now_ns());
    if (block->throttle == NULL) {
        error_set(error, "Could not open '%s': %s", config->filename, strerror(ENOMEM));
    }
    if (block->throttle == NULL || block_init_aio(block, error) != 0) {
        block_fini_aio(block);
        node_close(block->root);
        free(block);
        return NULL;
    }
    return block;
}

void block_close(struct block *block)
{
    struct block_node *file = block->root->file;
    if (file->driver->hurry != NULL) {
        file->driver->hurry(file);
    }
    block_drain(block);
    block_attach(block, NULL);
    block_fini_aio(block);
    node_close(block->root);
    free(block);
}

int block_attach(struct block *block, struct loop *loop)
{
    if (block->loop != NULL) {
        loop_remove(block->loop, &block->event);
        loop_remove(block->loop, &block->timer);
        block->loop = NULL;
    }
    if (loop == NULL) {
        return 0;
    }
    int result = loop_add(loop, &block->event, EPOLLIN);
    if (result == 0) {
        result = loop_add(loop, &block->timer, EPOLLIN);
        if (result != 0) {
            loop_remove(loop, &block->event);
        }
    }
    block->loop = result == 0 ? loop : NULL;
    return result;
}

/* ---- What it is ---- */

uint64_t block_bytes(const struct block *block)
{
    return block->root->bytes;
}

bool block_read_only(const struct block *block)
{
    return block->config.read_only;
}

uint32_t block_alignment(const struct block *block)
{
    return block->root->alignment;
}

uint32_t block_discard_bytes(const struct block *block)
{
    return (uint32_t)block->range_bytes;
}

const char *block_filename(const struct block *block)
{
    return block->root->filename;
}

const char *block_format(const struct block *block)
{
    return block->root->driver->name;
}

const char *block_aio_name(const struct block *block)
{
    return aio_is_io_uring(block->aio) ? "io_uring" : "threads";
}

struct block_node *block_root(struct block *block)
{
    return block->root;
}

void block_on_completed(struct block *block, void (*completed)(void *opaque), void *opaque)
{
    block->completed = completed;
    block->completed_opaque = opaque;
}

void block_on_resize(struct block *block, void (*resized)(void *opaque), void *opaque)
{
    block->resized = resized;
    block->resized_opaque = opaque;
}

int block_resize(struct block *block, uint64_t bytes, struct error *error)
{
    if (bytes % 512 != 0) {
        error_set(error, "The new size must be a multiple of 512");
        return -EINVAL;
    }
    block_drain(block);
    int result = node_resize(block->root, bytes, NODE_PREALLOC_OFF, error);
    if (result == 0 && block->resized != NULL) {
        block->resized(block->resized_opaque);
    }
    return result;
}
