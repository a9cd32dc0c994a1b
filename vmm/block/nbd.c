/* SPDX-License-Identifier: MIT */
/*
 * The protocol of network block devices: an export of a server is the file. Synchronous calls are commands that are waited for, one piece at a
 * time; plain requests of the front end go to the connection's thread at once, all their pieces together. The export keeps its size: what
 * lies behind its end reads as zeroes, and a write there is -ENOSPC.
 *
 * With a block size of the server's, what is not aligned goes through a buffer that is (a write reads first what it does not replace).
 */
#include "block/nbd.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>

#include "block/aio.h"
#include "block/bounce.h"
#include "block/nbd_link.h"
#include "block/node.h"

#define NBD_OPEN_TIMEOUT_S 30u
#define NBD_REQUEST_TIMEOUT_S 60u
#define NBD_LONG_MAX (256u << 20) /* of a command without data: slow servers answer each in time */

struct nbd_state {
    struct nbd_link *link;
    const struct nbd_export *export;
    pthread_mutex_t bounce_lock; /* unaligned writes read, change and write */
};

static int nbd_node_open(struct block_node *node, struct error *error)
{
    const struct node_options *options = &node->options;
    struct nbd_state *state = calloc(1, sizeof(*state));
    struct error inner = {""};
    char *uri = state != NULL ? nbd_uri(node->filename, &inner) : NULL;
    if (uri == NULL) {
        error_set(error, "Could not open '%s': %s", node->filename, state == NULL ? strerror(ENOMEM) : inner.text);
        free(state);
        return -EINVAL;
    }
    struct nbd_link_config config = {
        .uri = uri,
        .read_only = options->read_only,
        .reconnect_delay_s = options->nbd.reconnect_delay_s,
        .open_timeout_s = options->nbd.open_timeout_s != 0 ? options->nbd.open_timeout_s : NBD_OPEN_TIMEOUT_S,
        .request_timeout_s = options->nbd.request_timeout_s != 0 ? options->nbd.request_timeout_s : NBD_REQUEST_TIMEOUT_S,
    };
    state->link = nbd_link_open(&config, &inner);
    if (state->link == NULL) {
        error_set(error, "Could not open '%s': %s", node->filename, inner.text);
        free(uri);
        free(state);
        return -EIO;
    }
    state->export = nbd_link_export(state->link);
    pthread_mutex_init(&state->bounce_lock, NULL);
    free(node->filename);
    node->filename = uri;
    node->bytes = state->export->bytes;
    node->alignment = state->export->block_bytes;
    node->state = state;
    return 0;
}

static int nbd_node_close(struct block_node *node)
{
    struct nbd_state *state = node->state;
    nbd_link_close(state->link);
    pthread_mutex_destroy(&state->bounce_lock);
    free(state);
    return 0;
}

/* ---- Waiting for commands ---- */

static void nbd_waited(struct nbd_command *command, int result)
{
    (void)result; /* it is in the command */
    sem_post(command->opaque);
}

static int nbd_do(struct nbd_state *state, struct nbd_command *command)
{
    sem_t done;
    sem_init(&done, 0, 0);
    command->done = nbd_waited;
    command->opaque = &done;
    nbd_link_submit(state->link, command);
    while (sem_wait(&done) != 0) {
        /* EINTR */
    }
    sem_destroy(&done);
    return command->result;
}

/* In pieces; all aligned, and inside the export. */
static int nbd_do_all(struct nbd_state *state, const struct nbd_command *like, uint64_t most)
{
    int result = 0;
    for (uint64_t done = 0; done < like->bytes && result == 0;) {
        struct nbd_command command = *like;
        command.offset = like->offset + done;
        command.bytes = like->bytes - done < most ? like->bytes - done : most;
        command.buffer = like->buffer != NULL ? (uint8_t *)like->buffer + done : NULL;
        result = nbd_do(state, &command);
        done += command.bytes;
    }
    return result;
}

static int nbd_data(struct nbd_state *state, enum nbd_op op, uint64_t offset, void *buffer, uint64_t bytes)
{
    struct nbd_command command = {.op = op, .offset = offset, .bytes = bytes, .buffer = buffer};
    return nbd_do_all(state, &command, state->export->max_bytes);
}

static int nbd_read_whole(struct block_node *node, uint64_t offset, void *buffer, uint64_t bytes)
{
    return nbd_data(node->state, NBD_READ, offset, buffer, bytes);
}

static int nbd_write_whole(struct block_node *node, uint64_t offset, const void *buffer, uint64_t bytes)
{
    return nbd_data(node->state, NBD_WRITE, offset, (void *)(uintptr_t)buffer, bytes);
}
static const struct node_whole nbd_whole = {.read = nbd_read_whole, .write = nbd_write_whole};

static bool nbd_aligned(const struct block_node *node, uint64_t offset, uint64_t bytes)
{
    return ((offset | bytes) & (node->alignment - 1)) == 0;
}

/* How much of it is there. */
static uint64_t nbd_inside(const struct block_node *node, uint64_t offset, uint64_t bytes)
{
    uint64_t there = offset < node->bytes ? node->bytes - offset : 0;
    return there < bytes ? there : bytes;
}

static int nbd_node_read(struct block_node *node, uint64_t offset, void *buffer, uint64_t bytes)
{
    struct nbd_state *state = node->state;
    uint64_t there = nbd_inside(node, offset, bytes);
    memset((uint8_t *)buffer + there, 0, bytes - there);
    return nbd_aligned(node, offset, there) ? nbd_read_whole(node, offset, buffer, there)
                                            : node_bounce(node, &nbd_whole, &state->bounce_lock, offset, buffer, NULL, there);
}

static int nbd_node_write(struct block_node *node, uint64_t offset, const void *buffer, uint64_t bytes)
{
    if (nbd_inside(node, offset, bytes) < bytes) {
        return -ENOSPC;
    }
    struct nbd_state *state = node->state;
    return nbd_aligned(node, offset, bytes) ? nbd_write_whole(node, offset, buffer, bytes)
                                            : node_bounce(node, &nbd_whole, &state->bounce_lock, offset, NULL, buffer, bytes);
}

/* The whole blocks in the middle. */
static void nbd_middle(const struct block_node *node, uint64_t offset, uint64_t bytes, uint64_t *first, uint64_t *middle)
{
    uint64_t mask = node->alignment - 1, end = (offset + bytes) & ~mask;
    *first = (offset + mask) & ~mask;
    *middle = *first < end ? end - *first : 0;
}

static int nbd_node_write_zeroes(struct block_node *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    struct nbd_state *state = node->state;
    uint64_t first, middle;
    if (nbd_inside(node, offset, bytes) < bytes) {
        return -ENOSPC;
    }
    nbd_middle(node, offset, bytes, &first, &middle);
    if (!state->export->can_zero || middle == 0) {
        return node_write_as_data(node, offset, bytes);
    }
    struct nbd_command command = {.op = NBD_ZERO, .no_hole = !(flags & NODE_UNMAP), .offset = first, .bytes = middle};
    int result = node_write_as_data(node, offset, first - offset);
    result = result == 0 ? nbd_do_all(state, &command, NBD_LONG_MAX) : result;
    return result == 0 ? node_write_as_data(node, first + middle, offset + bytes - first - middle) : result;
}

static int nbd_node_discard(struct block_node *node, uint64_t offset, uint64_t bytes)
{
    struct nbd_state *state = node->state;
    struct nbd_command command = {.op = NBD_TRIM};
    nbd_middle(node, offset, nbd_inside(node, offset, bytes), &command.offset, &command.bytes);
    if (!state->export->can_trim || command.bytes == 0) {
        return 0; /* it is advice */
    }
    int result = nbd_do_all(state, &command, NBD_LONG_MAX);
    return result == -EINVAL || result == -ENOTSUP ? 0 : result;
}

static int nbd_node_flush(struct block_node *node)
{
    struct nbd_state *state = node->state;
    struct nbd_command command = {.op = NBD_FLUSH};
    return state->export->can_flush ? nbd_do(state, &command) : 0;
}

static int nbd_node_map(struct block_node *node, uint64_t offset, uint64_t bytes, struct block_extent *extent)
{
    struct nbd_state *state = node->state;
    uint64_t there = nbd_inside(node, offset, bytes);
    *extent = (struct block_extent){.flags = EXTENT_DATA | EXTENT_OFFSET | EXTENT_WRITABLE | EXTENT_ALLOCATED, .bytes = bytes, .host_offset = offset};
    if (there == 0) {
        extent->flags = EXTENT_ZERO | EXTENT_OFFSET | EXTENT_ALLOCATED;
        return 0;
    }
    extent->bytes = there;
    uint64_t first = offset & ~(uint64_t)(node->alignment - 1), skip = offset - first;
    struct nbd_command command = {.op = NBD_EXTENT, .offset = first, .bytes = (skip + there + node->alignment - 1) & ~(uint64_t)(node->alignment - 1)};
    command.bytes = command.bytes < NBD_LONG_MAX ? command.bytes : NBD_LONG_MAX;
    if (!state->export->can_extents) {
        return 0;
    }
    int result = nbd_do(state, &command);
    if (result == -EINVAL || result == -ENOTSUP || (result == 0 && command.extent_bytes <= skip)) {
        return 0; /* it cannot tell: all is data */
    }
    if (result == 0) {
        extent->flags = (command.extent_hole ? 0 : EXTENT_DATA | EXTENT_WRITABLE) | (command.extent_zero ? EXTENT_ZERO : 0) | EXTENT_OFFSET | EXTENT_ALLOCATED;
        extent->bytes = command.extent_bytes - skip < there ? command.extent_bytes - skip : there;
    }
    return result;
}

static int nbd_node_resize(struct block_node *node, uint64_t bytes, int prealloc, struct error *error)
{
    (void)prealloc;
    if (bytes > node->bytes) {
        error_set(error, "Cannot grow NBD exports");
        return -ENOTSUP;
    }
    return 0; /* it stays what it is, as a device does */
}

/* ---- Asynchronously ---- */

struct nbd_transfer {
    struct nbd_state *state;
    struct aio_io *io;
    void (*end)(struct aio_io *io, int result);
    uint64_t bytes;
    unsigned left;
    int result;
    bool flush; /* to follow, for a server without FUA */
    uint8_t *bounce; /* of a scattered request; NULL: none */
    struct nbd_command flushing;
    struct nbd_command pieces[];
};

static void nbd_copy_iov(const struct aio_io *io, uint8_t *bounce, bool to_iov)
{
    for (unsigned i = 0; i < io->iov_count; i++) {
        memcpy(to_iov ? io->iov[i].iov_base : bounce, to_iov ? bounce : io->iov[i].iov_base, io->iov[i].iov_len);
        bounce += io->iov[i].iov_len;
    }
}

static void nbd_transfer_end(struct nbd_transfer *transfer, int result)
{
    struct aio_io *io = transfer->io;
    void (*end)(struct aio_io *ended, int code) = transfer->end;
    if (result == 0 && transfer->bounce != NULL && io->op == AIO_READ) {
        nbd_copy_iov(io, transfer->bounce, true);
    }
    result = result == 0 ? (int)transfer->bytes : result;
    free(transfer->bounce);
    free(transfer);
    end(io, result);
}

static void nbd_transfer_flushed(struct nbd_command *command, int result)
{
    nbd_transfer_end(command->opaque, result);
}

/* On the link's thread, as all of them. */
static void nbd_piece_done(struct nbd_command *command, int result)
{
    struct nbd_transfer *transfer = command->opaque;
    transfer->result = result != 0 && transfer->result == 0 ? result : transfer->result;
    if (--transfer->left > 0) {
        return;
    }
    if (transfer->result == 0 && transfer->flush) {
        transfer->flushing = (struct nbd_command){.op = NBD_FLUSH, .done = nbd_transfer_flushed, .opaque = transfer};
        nbd_link_submit(transfer->state->link, &transfer->flushing);
    } else {
        nbd_transfer_end(transfer, transfer->result);
    }
}

/* `io` is aligned. */
static void nbd_node_submit(struct block_node *node, struct aio_io *io, void (*end)(struct aio_io *io, int result))
{
    struct nbd_state *state = node->state;
    uint64_t bytes = 0, most = state->export->max_bytes;
    for (unsigned i = 0; i < io->iov_count; i++) {
        bytes += io->iov[i].iov_len;
    }
    uint64_t there = nbd_inside(node, io->offset, bytes);
    unsigned count = (unsigned)((there + most - 1) / most);
    if (there == 0 && io->op == AIO_READ) {
        for (unsigned i = 0; i < io->iov_count; i++) {
            memset(io->iov[i].iov_base, 0, io->iov[i].iov_len);
        }
        end(io, (int)bytes);
        return;
    }
    struct nbd_transfer *transfer = count > 0 && (there == bytes || io->op == AIO_READ) ? malloc(sizeof(*transfer) + count * sizeof(transfer->pieces[0])) : NULL;
    uint8_t *bounce = transfer != NULL && (io->iov_count > 1 || there < bytes) ? calloc(1, bytes) : NULL;
    if (transfer == NULL || (bounce == NULL && (io->iov_count > 1 || there < bytes))) {
        free(transfer);
        end(io, there < bytes ? -ENOSPC : -ENOMEM);
        return;
    }
    if (bounce != NULL && io->op == AIO_WRITE) {
        nbd_copy_iov(io, bounce, false);
    }
    *transfer = (struct nbd_transfer){.state = state, .io = io, .end = end, .bytes = bytes, .left = count, .bounce = bounce};
    transfer->flush = io->op == AIO_WRITE && io->dsync && !state->export->can_fua && state->export->can_flush;
    uint8_t *data = bounce != NULL ? bounce : io->iov[0].iov_base;
    for (unsigned i = 0; i < count; i++) {
        transfer->pieces[i] = (struct nbd_command){
            .op = io->op == AIO_READ ? NBD_READ : NBD_WRITE,
            .fua = io->op == AIO_WRITE && io->dsync && state->export->can_fua,
            .offset = io->offset + i * most,
            .bytes = there - i * most < most ? there - i * most : most,
            .buffer = data + i * most,
            .done = nbd_piece_done,
            .opaque = transfer,
        };
    }
    for (unsigned i = 0; i < count; i++) { /* behind the last submission it may be gone */
        nbd_link_submit(state->link, &transfer->pieces[i]);
    }
}

static void nbd_node_hurry(struct block_node *node)
{
    struct nbd_state *state = node->state;
    nbd_link_hurry(state->link);
}

const struct block_driver nbd_driver = {
    .name = "nbd",
    .open = nbd_node_open,
    .close = nbd_node_close,
    .read = nbd_node_read,
    .write = nbd_node_write,
    .write_zeroes = nbd_node_write_zeroes,
    .discard = nbd_node_discard,
    .flush = nbd_node_flush,
    .map = nbd_node_map,
    .resize = nbd_node_resize,
    .submit = nbd_node_submit,
    .hurry = nbd_node_hurry,
};
