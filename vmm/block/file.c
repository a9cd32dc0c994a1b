/* SPDX-License-Identifier: MIT */
/*
 * The protocol of files and block devices: bytes at offsets. Reads behind the end are zeroes, writes make the file longer. With O_DIRECT,
 * what is not aligned goes through a buffer that is (a write reads first what it does not replace).
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/bounce.h"
#include "block/lock.h"
#include "block/node.h"

#define FILE_DIRECT_ALIGNMENT 4096u
#define FILE_ZEROES_BYTES (1u << 20)
#define FILE_IO_MAX (1u << 30) /* read(2) moves at most 0x7ffff000 bytes */

struct file_state {
    int fd;
    bool device;
    bool no_punch, no_zero_range; /* the file system said so */
    pthread_mutex_t bounce_lock;  /* unaligned O_DIRECT writes read, change and write */
};

static int file_open(struct block_node *node, struct error *error)
{
    const struct node_options *options = &node->options;
    struct file_state *state = calloc(1, sizeof(*state));
    if (state == NULL) {
        error_set(error, "Could not open '%s': %s", node->filename, strerror(ENOMEM));
        return -ENOMEM;
    }
    int flags = O_CLOEXEC | O_NONBLOCK | (options->read_only ? O_RDONLY : O_RDWR) | (options->direct ? O_DIRECT : 0);
    struct stat status;
    int result;
    state->fd = open(node->filename, flags);
    if (state->fd < 0 || fstat(state->fd, &status) != 0) {
        result = -errno;
        error_set(error, "Could not open '%s': %s", node->filename, strerror(-result));
        goto out_close;
    }
    if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode)) {
        result = S_ISDIR(status.st_mode) ? -EISDIR : -EINVAL;
        error_set(error, "Could not open '%s': neither a file nor a block device", node->filename);
        goto out_close;
    }
    fcntl(state->fd, F_SETFL, flags & O_DIRECT); /* O_NONBLOCK was for FIFOs */
    state->device = S_ISBLK(status.st_mode);
    node->bytes = (uint64_t)status.st_size;
    if (state->device && ioctl(state->fd, BLKGETSIZE64, &node->bytes) != 0) {
        result = -errno;
        error_set(error, "Could not get size of '%s': %s", node->filename, strerror(-result));
        goto out_close;
    }
    if (!options->force_share && !options->no_lock) {
        result = lock_image(state->fd, node->filename, !options->read_only, error);
        if (result != 0) {
            goto out_close;
        }
    }
    node->alignment = options->direct ? FILE_DIRECT_ALIGNMENT : 1;
    pthread_mutex_init(&state->bounce_lock, NULL);
    node->state = state;
    return 0;

out_close:
    if (state->fd >= 0) {
        close(state->fd);
    }
    free(state);
    return result;
}

static int file_close(struct block_node *node)
{
    struct file_state *state = node->state;
    int result = close(state->fd) == 0 ? 0 : -errno;
    pthread_mutex_destroy(&state->bounce_lock);
    free(state);
    return result;
}

static int file_read_plain(int fd, uint64_t offset, void *buffer, uint64_t bytes)
{
    uint8_t *to = buffer;
    while (bytes > 0) {
        ssize_t got = pread(fd, to, bytes < FILE_IO_MAX ? bytes : FILE_IO_MAX, (off_t)offset);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return -errno;
        }
        if (got == 0) {
            memset(to, 0, bytes);
            return 0;
        }
        to += got;
        offset += (uint64_t)got;
        bytes -= (uint64_t)got;
    }
    return 0;
}

static int file_write_plain(int fd, uint64_t offset, const void *buffer, uint64_t bytes)
{
    const uint8_t *from = buffer;
    while (bytes > 0) {
        ssize_t put = pwrite(fd, from, bytes < FILE_IO_MAX ? bytes : FILE_IO_MAX, (off_t)offset);
        if (put < 0 && errno == EINTR) {
            continue;
        }
        if (put <= 0) {
            return put < 0 ? -errno : -ENOSPC;
        }
        from += put;
        offset += (uint64_t)put;
        bytes -= (uint64_t)put;
    }
    return 0;
}

static bool file_aligned(const struct block_node *node, uint64_t offset, const void *buffer, uint64_t bytes)
{
    return ((offset | bytes | (uintptr_t)buffer) & (node->alignment - 1)) == 0;
}

static int file_read_whole(struct block_node *node, uint64_t offset, void *buffer, uint64_t bytes)
{
    return file_read_plain(((struct file_state *)node->state)->fd, offset, buffer, bytes);
}

static int file_write_whole(struct block_node *node, uint64_t offset, const void *buffer, uint64_t bytes)
{
    return file_write_plain(((struct file_state *)node->state)->fd, offset, buffer, bytes);
}
static const struct node_whole file_whole = {.read = file_read_whole, .write = file_write_whole};

static int file_read(struct block_node *node, uint64_t offset, void *buffer, uint64_t bytes)
{
    struct file_state *state = node->state;
    return file_aligned(node, offset, buffer, bytes) ? file_read_plain(state->fd, offset, buffer, bytes)
                                                     : node_bounce(node, &file_whole, &state->bounce_lock, offset, buffer, NULL, bytes);
}

static int file_write(struct block_node *node, uint64_t offset, const void *buffer, uint64_t bytes)
{
    struct file_state *state = node->state;
    int result = file_aligned(node, offset, buffer, bytes) ? file_write_plain(state->fd, offset, buffer, bytes)
                                                           : node_bounce(node, &file_whole, &state->bounce_lock, offset, NULL, buffer, bytes);
    if (result == 0 && offset + bytes > node->bytes) {
        node->bytes = offset + bytes;
    }
    return result;
}

static int file_fallocate(int fd, int mode, uint64_t offset, uint64_t bytes)
{
    int result;
    do {
        result = fallocate(fd, mode, (off_t)offset, (off_t)bytes);
    } while (result != 0 && errno == EINTR);
    return result == 0 ? 0 : -errno;
}

static bool file_lacks(int result)
{
    return result == -EOPNOTSUPP || result == -ENOSYS || result == -ENODEV || result == -EINVAL;
}

static int file_write_zeroes(struct block_node *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    static const uint8_t zeroes[65536];
    struct file_state *state = node->state;
    int result = -EOPNOTSUPP;
    bool aligned = ((offset | bytes) & (node->alignment - 1)) == 0 && (!state->device || ((offset | bytes) & 511) == 0);
    if (aligned && (flags & NODE_UNMAP) && !state->no_punch && !state->device) {
        result = file_fallocate(state->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, bytes);
        state->no_punch = file_lacks(result);
        if (result == 0 && offset + bytes > node->bytes) {
            result = ftruncate(state->fd, (off_t)(offset + bytes)) == 0 ? 0 : -errno;
        }
    }
    if (aligned && file_lacks(result) && !state->no_zero_range) {
        result = file_fallocate(state->fd, FALLOC_FL_ZERO_RANGE, offset, bytes);
        state->no_zero_range = file_lacks(result);
    }
    if (!file_lacks(result)) {
        if (result == 0 && offset + bytes > node->bytes) {
            node->bytes = offset + bytes;
        }
        return result;
    }
    for (result = 0; bytes > 0 && result == 0;) {
        uint64_t count = bytes < sizeof(zeroes) ? bytes : sizeof(zeroes);
        result = file_write(node, offset, zeroes, count);
        offset += count;
        bytes -= count;
    }
    return result;
}

static int file_discard(struct block_node *node, uint64_t offset, uint64_t bytes)
{
    struct file_state *state = node->state;
    int result = -EOPNOTSUPP;
    if (state->device) {
        uint64_t range[2] = {offset, bytes};
        result = ioctl(state->fd, BLKDISCARD, range) == 0 ? 0 : -errno;
    } else if (!state->no_punch) {
        result = file_fallocate(state->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, bytes);
        state->no_punch = file_lacks(result);
    }
    return file_lacks(result) || result == -ENOTTY ? 0 : result; /* it is advice */
}

static int file_flush(struct block_node *node)
{
    struct file_state *state = node->state;
    return fdatasync(state->fd) == 0 ? 0 : -errno;
}

static int file_map(struct block_node *node, uint64_t offset, uint64_t bytes, struct block_extent *extent)
{
    struct file_state *state = node->state;
    *extent = (struct block_extent){.flags = EXTENT_DATA | EXTENT_OFFSET | EXTENT_WRITABLE | EXTENT_ALLOCATED, .bytes = bytes, .host_offset = offset};
    off_t data = lseek(state->fd, (off_t)offset, SEEK_DATA);
    if (data < 0 && errno != ENXIO) {
        return 0; /* it cannot tell: all is data */
    }
    if (data < 0 || (uint64_t)data > offset) {
        extent->flags = EXTENT_ZERO | EXTENT_OFFSET | EXTENT_ALLOCATED;
        extent->bytes = data < 0 || (uint64_t)data - offset > bytes ? bytes : (uint64_t)data - offset;
        return 0;
    }
    off_t hole = lseek(state->fd, (off_t)offset, SEEK_HOLE);
    if (hole > 0 && (uint64_t)hole - offset < bytes) {
        extent->bytes = (uint64_t)hole - offset;
    }
    return 0;
}

static int file_preallocate(struct block_node *node, uint64_t from, uint64_t to, int prealloc)
{
    struct file_state *state = node->state;
    if (prealloc == NODE_PREALLOC_FALLOC) {
        int result = posix_fallocate(state->fd, (off_t)from, (off_t)(to - from));
        return -result;
    }
    if (prealloc == NODE_PREALLOC_FULL) {
        uint8_t *zeroes = aligned_alloc(FILE_DIRECT_ALIGNMENT, FILE_ZEROES_BYTES);
        int result = zeroes == NULL ? -ENOMEM : 0;
        if (zeroes != NULL) {
            memset(zeroes, 0, FILE_ZEROES_BYTES);
        }
        while (from < to && result == 0) {
            uint64_t count = to - from < FILE_ZEROES_BYTES ? to - from : FILE_ZEROES_BYTES;
            result = file_write(node, from, zeroes, count);
            from += count;
        }
        free(zeroes);
        return result != 0 ? result : file_flush(node);
    }
    return 0;
}

static int file_resize(struct block_node *node, uint64_t bytes, int prealloc, struct error *error)
{
    struct file_state *state = node->state;
    uint64_t old = node->bytes;
    if (state->device) {
        if (bytes > node->bytes) {
            error_set(error, "Cannot grow device files");
            return -EINVAL;
        }
        return 0;
    }
    int result = ftruncate(state->fd, (off_t)bytes) == 0 ? 0 : -errno;
    if (result == 0 && bytes > old) {
        result = file_preallocate(node, old, bytes, prealloc);
        if (result != 0 && ftruncate(state->fd, (off_t)old) != 0) {
            old = bytes; /* it stays as long as it got */
        }
    }
    if (result != 0) {
        error_set(error, "Failed to resize the file: %s", strerror(-result));
        node->bytes = old;
        return result;
    }
    node->bytes = bytes;
    return 0;
}

static int64_t file_allocated(struct block_node *node)
{
    struct file_state *state = node->state;
    struct stat status;
    return fstat(state->fd, &status) == 0 ? (int64_t)status.st_blocks * 512 : -errno;
}

static int file_fd(struct block_node *node)
{
    return ((struct file_state *)node->state)->fd;
}

const struct block_driver file_driver = {
    .name = "file",
    .open = file_open,
    .close = file_close,
    .read = file_read,
    .write = file_write,
    .write_zeroes = file_write_zeroes,
    .discard = file_discard,
    .flush = file_flush,
    .map = file_map,
    .resize = file_resize,
    .allocated = file_allocated,
    .fd = file_fd,
};
