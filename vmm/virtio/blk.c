/* SPDX-License-Identifier: MIT */
/*
 * A request is a chain: a header of 16 bytes to read, data either way, a status byte at the very end of what is written. Where buffers
 * begin and end says nothing (2.7.4). Its data goes between guest memory and the disk without a copy.
 */
#include "virtio/blk.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <kage.h>

#define BLK_TYPE 2u
#define SECTOR 512u

#define BLK_F_SEG_MAX VIRTIO_F(2)
#define BLK_F_GEOMETRY VIRTIO_F(4)
#define BLK_F_RO VIRTIO_F(5)
#define BLK_F_BLK_SIZE VIRTIO_F(6)
#define BLK_F_FLUSH VIRTIO_F(9)
#define BLK_F_TOPOLOGY VIRTIO_F(10)
#define BLK_F_CONFIG_WCE VIRTIO_F(11)
#define BLK_F_MQ VIRTIO_F(12)
#define BLK_F_DISCARD VIRTIO_F(13)
#define BLK_F_WRITE_ZEROES VIRTIO_F(14)

enum { BLK_T_IN = 0, BLK_T_OUT = 1, BLK_T_FLUSH = 4, BLK_T_GET_ID = 8, BLK_T_DISCARD = 11, BLK_T_WRITE_ZEROES = 13 };
enum { BLK_S_OK = 0, BLK_S_IOERR = 1, BLK_S_UNSUPP = 2 };

struct blk_config {
    uint64_t capacity; /* sectors */
    uint32_t size_max, seg_max;
    uint16_t cylinders;
    uint8_t heads, sectors;
    uint32_t blk_size;
    uint8_t physical_block_exp, alignment_offset;
    uint16_t min_io_size;
    uint32_t opt_io_size;
    uint8_t writeback, unused0;
    uint16_t num_queues;
    uint32_t max_discard_sectors, max_discard_seg, discard_sector_alignment;
    uint32_t max_write_zeroes_sectors, max_write_zeroes_seg;
    uint8_t write_zeroes_may_unmap, unused1[3];
};
_Static_assert(sizeof(struct blk_config) == 64 && offsetof(struct blk_config, writeback) == 32, "virtio 1.2, 5.2.4");
_Static_assert(offsetof(struct blk_config, write_zeroes_may_unmap) == 56, "virtio 1.2, 5.2.4");
#define BLK_CONFIG_BYTES 60u
#define BLK_SEGMENTS_MAX 1u            /* of a discard */
#define BLK_DISCARD_SECTORS_MAX 0x3fffffu /* 2 GiB less a sector */

struct blk_header {
    uint32_t type, reserved;
    uint64_t sector;
};
struct blk_segment {
    uint64_t sector;
    uint32_t num_sectors, flags;
};
#define SEGMENT_UNMAP 1u

struct blk_request {
    struct block_request io; /* first: its callback gets it */
    struct virtio_blk *blk;
    struct virtqueue *queue;
    struct virtio_chain chain; /* without its iov */
    struct blk_request *next;  /* of those that wait for the machine to go on */
    uint8_t *status;           /* in guest memory */
    uint32_t written;          /* bytes that the driver finds, the status included */
    unsigned iov_count;
    struct iovec iov[];
};

struct virtio_blk {
    struct virtio_device device; /* first: the class's callbacks get it */
    struct virtio_blk_config config;
    struct block *block;
    bool writethrough;           /* what this driver gets */
    struct blk_request *waiting, **waiting_last; /* failed, and done again when the machine goes on */
    struct run_watch watch;
};

/* ---- The end of a request ---- */

/* Without an interrupt: it comes behind all that ends together. */
static void blk_finish(struct blk_request *request, uint8_t status)
{
    *request->status = status;
    virtqueue_push(request->queue, &request->chain, status == BLK_S_OK ? request->written : 1);
    free(request);
}

static void blk_completed(void *opaque)
{
    struct virtio_blk *blk = opaque;
    virtio_lock(&blk->device);
    virtqueue_interrupt_all(&blk->device);
    virtio_unlock(&blk->device);
}

/* On the soft back end the pages that a disk's bytes go to may hold code that was translated. */
static void blk_memory(const struct blk_request *request, void (*tell)(const void *addr, size_t bytes))
{
    for (unsigned i = 0; request->io.op == BLOCK_READ && i < request->iov_count; i++) {
        tell(request->iov[i].iov_base, request->iov[i].iov_len);
    }
}

static void blk_submit(struct blk_request *request)
{
    blk_memory(request, kage_memory_begin_write);
    block_submit(request->blk->block, &request->io);
}

static void blk_done(struct block_request *io, int result)
{
    struct blk_request *request = (struct blk_request *)io;
    struct virtio_blk *blk = request->blk;
    const struct disk_errors *errors = &blk->config.errors;
    blk_memory(request, kage_memory_end_write);
    virtio_lock(&blk->device);
    enum disk_error_action action = result != 0 ? disk_error_action(errors, io->op == BLOCK_READ, result) : DISK_ERROR_IGNORE;
    /* While a queue is reset, the device leaves the bus, or the machine ends, nobody is there to wait. */
    if (action == DISK_ERROR_STOP && virtio_live(&blk->device) && !request->queue->resetting && !blk->device.halted) {
        request->next = NULL;
        *blk->waiting_last = request;
        blk->waiting_last = &request->next;
        disk_error_stop(errors, block_filename(blk->block), result);
    } else {
        blk_finish(request, action == DISK_ERROR_IGNORE ? BLK_S_OK : BLK_S_IOERR);
    }
    virtio_unlock(&blk->device);
}

static struct blk_request *blk_take_waiting(struct virtio_blk *blk)
{
    struct blk_request *list = blk->waiting;
    blk->waiting = NULL;
    blk->waiting_last = &blk->waiting;
    return list;
}

static void blk_run_changed(void *opaque, bool running)
{
    struct virtio_blk *blk = opaque;
    if (!running) {
        return;
    }
    virtio_lock(&blk->device);
    block_plug(blk->block);
    for (struct blk_request *request = blk_take_waiting(blk), *next; request != NULL; request = next) {
        next = request->next;
        blk_submit(request);
    }
    block_unplug(blk->block);
    virtio_unlock(&blk->device);
}

/* Those that wait are given up. `queue` NULL: of all queues. */
static void blk_cancel(struct virtio_device *device, struct virtqueue *queue)
{
    struct virtio_blk *blk = (struct virtio_blk *)device;
    for (struct blk_request *request = blk_take_waiting(blk), *next; request != NULL; request = next) {
        next = request->next;
        if (queue == NULL || request->queue == queue) {
            blk_finish(request, BLK_S_IOERR);
        } else {
            request->next = NULL;
            *blk->waiting_last = request;
            blk->waiting_last = &request->next;
        }
    }
    virtqueue_interrupt_all(device);
}

/* ---- The beginning ---- */

/* Does [sector, sector + bytes) lie on the disk, in whole logical blocks? */
static bool blk_range(const struct virtio_blk *blk, uint64_t sector, uint64_t bytes)
{
    uint64_t capacity = block_bytes(blk->block) / SECTOR;
    uint64_t grain = blk->config.logical_block_size;
    return sector <= capacity && bytes / SECTOR <= capacity - sector && bytes % grain == 0 && sector * SECTOR % grain == 0;
}

static uint8_t blk_start_data(struct virtio_blk *blk, struct blk_request *request, uint64_t sector, bool write)
{
    uint32_t bytes = write ? request->chain.out_bytes - (uint32_t)sizeof(struct blk_header) : request->chain.in_bytes - 1;
    if (!blk_range(blk, sector, bytes) || (write && blk->config.read_only)) {
        return BLK_S_IOERR;
    }
    request->io.op = write ? BLOCK_WRITE : BLOCK_READ;
    request->io.flags = write && blk->writethrough ? BLOCK_FUA : 0;
    request->io.offset = sector * SECTOR;
    request->io.bytes = bytes;
    request->io.iov = request->iov;
    request->io.iov_count = request->iov_count;
    request->written = write ? 1 : bytes + 1;
    return BLK_S_OK;
}

static uint8_t blk_start_segment(struct virtio_blk *blk, struct blk_request *request, const struct virtio_chain *chain, bool zeroes)
{
    struct blk_segment segment;
    uint32_t bytes = chain->out_bytes - (uint32_t)sizeof(struct blk_header);
    if (!virtio_has(&blk->device, zeroes ? BLK_F_WRITE_ZEROES : BLK_F_DISCARD) || bytes != sizeof(segment) * BLK_SEGMENTS_MAX) {
        return BLK_S_UNSUPP;
    }
    virtio_chain_read(chain, sizeof(struct blk_header), &segment, sizeof(segment));
    if ((segment.flags & ~(zeroes ? SEGMENT_UNMAP : 0)) != 0) {
        return BLK_S_UNSUPP; /* 5.2.6.2 */
    }
    if (segment.num_sectors > BLK_DISCARD_SECTORS_MAX || !blk_range(blk, segment.sector, (uint64_t)segment.num_sectors * SECTOR) ||
        blk->config.read_only) {
        return BLK_S_IOERR;
    }
    request->io.op = zeroes ? BLOCK_WRITE_ZEROES : BLOCK_DISCARD;
    request->io.flags = (zeroes && blk->writethrough ? BLOCK_FUA : 0) | ((segment.flags & SEGMENT_UNMAP) != 0 ? BLOCK_UNMAP : 0);
    request->io.offset = segment.sector * SECTOR;
    request->io.bytes = (uint64_t)segment.num_sectors * SECTOR;
    return BLK_S_OK;
}

/* Fills request->io. BLK_S_OK: to be submitted; a status; or -1: it is done already. */
static int blk_start(struct virtio_blk *blk, struct blk_request *request, const struct virtio_chain *chain)
{
    struct blk_header header;
    char id[VIRTIO_BLK_SERIAL_BYTES] = "";
    virtio_chain_read(chain, 0, &header, sizeof(header));
    switch (header.type) {
    case BLK_T_IN:
    case BLK_T_OUT:
        return blk_start_data(blk, request, header.sector, header.type == BLK_T_OUT);
    case BLK_T_FLUSH:
        request->io.op = BLOCK_FLUSH;
        return BLK_S_OK;
    case BLK_T_GET_ID:
        memcpy(id, blk->config.serial, strnlen(blk->config.serial, sizeof(id)));
        request->written = (uint32_t)virtio_chain_write(chain, 0, id, sizeof(id) < chain->in_bytes - 1 ? sizeof(id) : chain->in_bytes - 1) + 1;
        return -1;
    case BLK_T_DISCARD:
    case BLK_T_WRITE_ZEROES:
        return blk_start_segment(blk, request, chain, header.type == BLK_T_WRITE_ZEROES);
    default:
        return BLK_S_UNSUPP;
    }
}

/* The chain's data as an iovec of the request's own: without the header, or without the status. */
static void blk_take_data(struct blk_request *request, const struct virtio_chain *chain)
{
    bool write = chain->out_bytes > sizeof(struct blk_header);
    const struct iovec *iov = write ? chain->iov : chain->iov + chain->out_count;
    unsigned count = write ? chain->out_count : chain->in_count;
    size_t skip = write ? sizeof(struct blk_header) : 0, left = write ? chain->out_bytes - skip : chain->in_bytes - 1;
    for (unsigned i = 0; i < count && left != 0; i++) {
        size_t from = skip < iov[i].iov_len ? skip : iov[i].iov_len;
        size_t bytes = iov[i].iov_len - from < left ? iov[i].iov_len - from : left;
        skip -= from;
        left -= bytes;
        if (bytes != 0) {
            request->iov[request->iov_count++] = (struct iovec){(uint8_t *)iov[i].iov_base + from, bytes};
        }
    }
}

/* False: the chain is none of a request. */
static bool blk_take(struct virtio_blk *blk, struct virtqueue *queue, const struct virtio_chain *chain)
{
    unsigned buffers = chain->out_count + chain->in_count;
    if (chain->out_bytes < sizeof(struct blk_header) || chain->in_bytes < 1) {
        virtio_fail(&blk->device, "queue %u: a request of %u bytes, with room for %u", queue->index, chain->out_bytes, chain->in_bytes);
        return false;
    }
    struct blk_request *request = calloc(1, sizeof(*request) + buffers * sizeof(request->iov[0]));
    if (request == NULL) {
        virtio_fail(&blk->device, "no memory for a request");
        return false;
    }
    const struct iovec *last = &chain->iov[buffers - 1];
    *request = (struct blk_request){.blk = blk, .queue = queue, .chain = *chain, .written = 1};
    request->chain.iov = NULL;
    request->status = (uint8_t *)last->iov_base + last->iov_len - 1;
    request->io.done = blk_done;
    blk_take_data(request, chain);
    int status = blk_start(blk, request, chain);
    if (status == BLK_S_OK) {
        blk_submit(request);
    } else {
        blk_finish(request, status < 0 ? BLK_S_OK : (uint8_t)status);
    }
    return true;
}

static void blk_notified(struct virtio_device *device, struct virtqueue *queue)
{
    struct virtio_blk *blk = (struct virtio_blk *)device;
    struct virtio_chain chain;
    unsigned budget = queue->size; /* then others have their turn */
    block_plug(blk->block);
    while (budget > 0 && virtqueue_pop(queue, &chain) > 0) {
        if (!blk_take(blk, queue, &chain)) {
            virtqueue_push(queue, &chain, 0); /* the device has failed: it is only counted off */
            break;
        }
        budget--;
    }
    block_unplug(blk->block);
    virtqueue_interrupt(queue);
    if (budget == 0) {
        virtio_kick_queue(device, queue->index);
    }
}

/* ---- Configuration ---- */

static void blk_set_writethrough(struct virtio_blk *blk)
{
    const struct virtio_device *device = &blk->device;
    bool cached = virtio_has(device, BLK_F_CONFIG_WCE) ? device->config[offsetof(struct blk_config, writeback)] != 0
                                                       : virtio_has(device, BLK_F_FLUSH); /* 5.2.6.2 */
    blk->writethrough = !cached;
}

static void blk_config_written(struct virtio_device *device, unsigned offset, unsigned size)
{
    (void)offset;
    (void)size;
    blk_set_writethrough((struct virtio_blk *)device);
}

static void blk_started(struct virtio_device *device)
{
    blk_set_writethrough((struct virtio_blk *)device);
}

static void blk_reset(struct virtio_device *device)
{
    const struct virtio_blk *blk = (struct virtio_blk *)device;
    device->config[offsetof(struct blk_config, writeback)] = blk->config.write_cache;
}

static const struct virtio_class blk_class = {
    .name = "virtio-blk",
    .type = BLK_TYPE,
    .notified = blk_notified,
    .config_written = blk_config_written,
    .started = blk_started,
    .cancel = blk_cancel,
    .reset = blk_reset,
};

static void blk_fill_config(struct virtio_blk *blk)
{
    const struct virtio_blk_config *config = &blk->config;
    uint64_t capacity = block_bytes(blk->block) / SECTOR, cylinders = capacity / (16 * 63);
    struct blk_config space = {
        .capacity = capacity,
        .seg_max = config->queue_size > 2 ? config->queue_size - 2u : 1, /* header and status beside them */
        .cylinders = (uint16_t)(cylinders < 2 ? 2 : cylinders > 16383 ? 16383 : cylinders),
        .heads = 16,
        .sectors = 63,
        .blk_size = config->logical_block_size,
        .physical_block_exp = (uint8_t)__builtin_ctz(config->physical_block_size / config->logical_block_size),
        .min_io_size = (uint16_t)(config->min_io_size / config->logical_block_size),
        .opt_io_size = config->opt_io_size / config->logical_block_size,
        .writeback = blk->device.config[offsetof(struct blk_config, writeback)],
        .num_queues = config->num_queues,
        .max_discard_sectors = config->discard ? BLK_DISCARD_SECTORS_MAX : 0,
        .max_discard_seg = config->discard ? BLK_SEGMENTS_MAX : 0,
        .discard_sector_alignment = config->discard ? block_discard_bytes(blk->block) / SECTOR : 0,
        .max_write_zeroes_sectors = config->write_zeroes ? BLK_DISCARD_SECTORS_MAX : 0,
        .max_write_zeroes_seg = config->write_zeroes ? BLK_SEGMENTS_MAX : 0,
        .write_zeroes_may_unmap = config->write_zeroes && config->discard,
    };
    if (config->discard && space.discard_sector_alignment < config->logical_block_size / SECTOR) {
        space.discard_sector_alignment = config->logical_block_size / SECTOR;
    }
    memcpy(blk->device.config, &space, BLK_CONFIG_BYTES);
}

static void blk_resized(void *opaque)
{
    struct virtio_blk *blk = opaque;
    virtio_lock(&blk->device);
    blk_fill_config(blk);
    virtio_config_changed(&blk->device);
    virtio_unlock(&blk->device);
}

static uint64_t blk_features(const struct virtio_blk_config *config)
{
    return virtio_options_features(&config->virtio) | BLK_F_SEG_MAX | BLK_F_GEOMETRY | BLK_F_BLK_SIZE | BLK_F_TOPOLOGY |
           (config->write_cache || config->config_wce ? BLK_F_FLUSH : 0) | (config->config_wce ? BLK_F_CONFIG_WCE : 0) |
           (config->num_queues > 1 ? BLK_F_MQ : 0) | (config->read_only ? BLK_F_RO : 0) |
           (config->discard && !config->read_only ? BLK_F_DISCARD : 0) | (config->write_zeroes && !config->read_only ? BLK_F_WRITE_ZEROES : 0);
}

/* ---- Life ---- */

struct virtio_blk *virtio_blk_new(const struct virtio_blk_config *config, struct block *block, struct loop *loop, const struct dma *dma,
                                  struct error *error)
{
    uint16_t sizes[VIRTIO_QUEUES_MAX];
    struct virtio_blk *blk = calloc(1, sizeof(*blk));
    if (blk == NULL) {
        error_set(error, "virtio-blk: no memory");
        return NULL;
    }
    blk->config = *config;
    blk->config.read_only = config->read_only || block_read_only(block);
    blk->block = block;
    blk->waiting_last = &blk->waiting;
    blk->watch = (struct run_watch){.changed = blk_run_changed, .opaque = blk};
    for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++) {
        sizes[i] = config->queue_size;
    }
    int result = virtio_init(&blk->device, &blk_class, loop, dma, blk_features(&blk->config), config->num_queues, sizes);
    if (result != 0) {
        error_set(error, "virtio-blk: %s", strerror(-result));
        free(blk);
        return NULL;
    }
    blk->device.config_bytes = BLK_CONFIG_BYTES;
    blk->device.config[offsetof(struct blk_config, writeback)] = config->write_cache;
    blk->device.writable[offsetof(struct blk_config, writeback)] = config->config_wce ? 1 : 0;
    blk_fill_config(blk);
    block_on_resize(block, blk_resized, blk);
    block_on_completed(block, blk_completed, blk);
    if (config->errors.run != NULL) {
        config->errors.run->watch(config->errors.run->opaque, &blk->watch);
    }
    return blk;
}

void virtio_blk_free(struct virtio_blk *blk)
{
    if (blk == NULL) {
        return;
    }
    virtio_stop(&blk->device);
    virtio_lock(&blk->device);
    blk_cancel(&blk->device, NULL);
    virtio_unlock(&blk->device);
    block_drain(blk->block);
    block_on_resize(blk->block, NULL, NULL);
    block_on_completed(blk->block, NULL, NULL);
    if (blk->config.errors.run != NULL) {
        blk->config.errors.run->unwatch(blk->config.errors.run->opaque, &blk->watch);
    }
    virtio_fini(&blk->device);
    free(blk);
}

struct virtio_device *virtio_blk_device(struct virtio_blk *blk)
{
    return &blk->device;
}
