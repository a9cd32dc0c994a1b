/* SPDX-License-Identifier: MIT */
/*
 * The graph: opening, closing, and what all calls have in common (bounds, read-only, operations that are not there). What a driver does is
 * its own file's.
 */
#include "block/node.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/bounce.h"
#include "block/nbd.h"

#define NODE_CHAIN_MAX 200u /* backing files under one image */
#define NODE_PROBE_BYTES 512u

const struct block_driver *node_find_format(const char *name)
{
    static const struct block_driver *const formats[] = {&raw_driver, &qcow2_driver};
    for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
        if (strcmp(formats[i]->name, name) == 0) {
            return formats[i];
        }
    }
    return strcmp(name, "file") == 0 ? &raw_driver : NULL;
}

/* ---- Opening and closing ---- */

static struct block_node *node_new(const struct block_driver *driver, const char *filename, const struct node_options *options)
{
    struct block_node *node = calloc(1, sizeof(*node));
    char *name = strdup(filename);
    if (node == NULL || name == NULL) {
        free(node);
        free(name);
        return NULL;
    }
    *node = (struct block_node){.driver = driver, .filename = name, .options = *options, .alignment = 1};
    return node;
}

static void node_free(struct block_node *node)
{
    free(node->filename);
    free(node);
}

bool node_has_protocol(const char *name)
{
    return nbd_is_name(name);
}

struct block_node *node_open_file(const char *filename, const struct node_options *options, struct error *error)
{
    const struct block_driver *driver = node_has_protocol(filename) ? &nbd_driver : &file_driver;
    if (strncmp(filename, "file:", 5) == 0) {
        filename += 5;
    }
    struct block_node *node = node_new(driver, filename, options);
    if (node == NULL) {
        error_set(error, "Could not open '%s': %s", filename, strerror(ENOMEM));
        return NULL;
    }
    if (node->driver->open(node, error) != 0) {
        node_free(node);
        return NULL;
    }
    return node;
}

struct block_node *node_open_format(const struct block_driver *driver, struct block_node *file, const struct node_options *options,
                                    struct error *error)
{
    struct block_node *node = node_new(driver, file->filename, options);
    if (node == NULL) {
        error_set(error, "Could not open '%s': %s", file->filename, strerror(ENOMEM));
        node_close(file);
        return NULL;
    }
    node->file = file;
    node->alignment = file->alignment;
    if (driver->open(node, error) != 0) {
        if (node->backing != NULL) {
            node_close(node->backing);
        }
        node_close(file);
        node_free(node);
        return NULL;
    }
    return node;
}

struct block_node *node_open(const char *filename, const char *format, const struct node_options *options, struct error *error)
{
    const struct block_driver *driver = format != NULL ? node_find_format(format) : NULL;
    if (format != NULL && driver == NULL) {
        error_set(error, "Could not open '%s': Unknown driver '%s'", filename, format);
        return NULL;
    }
    if (format == NULL && !options->read_only) {
        error_set(error, "Could not open '%s': its format must be given, since the format of an image that is written to is never guessed",
                  filename);
        return NULL;
    }
    struct block_node *file = node_open_file(filename, options, error);
    if (file == NULL) {
        return NULL;
    }
    if (driver == NULL) {
        uint8_t head[NODE_PROBE_BYTES];
        int result = file->driver->read(file, 0, head, sizeof(head));
        if (result != 0) {
            error_set(error, "Could not read '%s': %s", filename, strerror(-result));
            node_close(file);
            return NULL;
        }
        driver = memcmp(head, "QFI\xfb", 4) == 0 ? &qcow2_driver : &raw_driver;
    }
    return node_open_format(driver, file, options, error);
}

char *node_resolve_path(const char *image, const char *file)
{
    const char *slash = strrchr(image, '/');
    if (file[0] == '/' || slash == NULL || strncmp(file, "file:/", 6) == 0 || node_has_protocol(file)) {
        return strdup(file);
    }
    if (strncmp(file, "file:", 5) == 0) {
        file += 5;
    }
    size_t directory = (size_t)(slash - image) + 1;
    char *path = malloc(directory + strlen(file) + 1);
    if (path != NULL) {
        memcpy(path, image, directory);
        strcpy(path + directory, file);
    }
    return path;
}

int node_open_backing(struct block_node *node, const char *file, const char *format, struct error *error)
{
    static _Thread_local unsigned depth; /* a chain that leads back to itself ends here */
    if (format == NULL || format[0] == '\0') {
        error_set(error, "Could not open backing file of '%s': the image does not say the format of '%s'; "
                  "'kage img rebase -u -b FILE -F FORMAT' writes it down", node->filename, file);
        return -EINVAL;
    }
    if (node_has_protocol(node->filename) && file[0] != '/' && !node_has_protocol(file)) {
        error_set(error, "Could not open backing file: '%s' is relative, and there is no directory where '%s' is", file, node->filename);
        return -EINVAL;
    }
    if (depth >= NODE_CHAIN_MAX) {
        error_set(error, "Could not open backing file: the chain of '%s' is longer than %u images", node->filename, NODE_CHAIN_MAX);
        return -ELOOP;
    }
    char *path = node_resolve_path(node->filename, file);
    if (path == NULL) {
        error_set(error, "Could not open backing file: %s", strerror(ENOMEM));
        return -ENOMEM;
    }
    struct node_options options = {
        .read_only = true,
        .direct = node->options.direct,
        .force_share = node->options.force_share,
        .no_lock = node->options.no_lock,
        .nbd = node->options.nbd,
    };
    struct error inner = {""};
    depth++;
    node->backing = node_open(path, format, &options, &inner);
    depth--;
    if (node->backing == NULL) {
        error_set(error, "Could not open backing file: %s", inner.text);
    }
    free(path);
    return node->backing != NULL ? 0 : -EINVAL;
}

int node_close(struct block_node *node)
{
    int result = node->driver->close != NULL ? node->driver->close(node) : 0;
    if (node->backing != NULL) {
        node_close(node->backing);
    }
    if (node->file != NULL) {
        int file_result = node_close(node->file);
        result = result != 0 ? result : file_result;
    }
    node_free(node);
    return result;
}

/* ---- Calls ---- */

static int node_in_bounds(const struct block_node *node, uint64_t offset, uint64_t bytes)
{
    return offset > node->bytes || bytes > node->bytes - offset ? -EINVAL : 0;
}

static int node_may_write(const struct block_node *node, uint64_t offset, uint64_t bytes)
{
    return node->options.read_only ? -EROFS : node->file == NULL ? 0 : node_in_bounds(node, offset, bytes);
}

int node_read(struct block_node *node, uint64_t offset, void *buffer, uint64_t bytes)
{
    int result = node->file == NULL ? 0 : node_in_bounds(node, offset, bytes);
    return result != 0 || bytes == 0 ? result : node->driver->read(node, offset, buffer, bytes);
}

int node_write(struct block_node *node, uint64_t offset, const void *buffer, uint64_t bytes)
{
    int result = node_may_write(node, offset, bytes);
    return result != 0 || bytes == 0 ? result : node->driver->write(node, offset, buffer, bytes);
}

int node_write_zeroes(struct block_node *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    int result = node_may_write(node, offset, bytes);
    if (result != 0 || bytes == 0) {
        return result;
    }
    return node->driver->write_zeroes != NULL ? node->driver->write_zeroes(node, offset, bytes, flags) : node_write_as_data(node, offset, bytes);
}

int node_write_compressed(struct block_node *node, uint64_t offset, const void *buffer, uint64_t bytes)
{
    int result = node_may_write(node, offset, bytes);
    if (result != 0 || bytes == 0) {
        return result;
    }
    return node->driver->write_compressed != NULL ? node->driver->write_compressed(node, offset, buffer, bytes) : -ENOTSUP;
}

int node_discard(struct block_node *node, uint64_t offset, uint64_t bytes)
{
    int result = node_may_write(node, offset, bytes);
    return result != 0 || bytes == 0 || node->driver->discard == NULL ? result : node->driver->discard(node, offset, bytes);
}

int node_flush(struct block_node *node)
{
    if (node->options.read_only || (node->file == NULL && node->options.no_flush)) {
        return 0;
    }
    return node->driver->flush != NULL ? node->driver->flush(node) : node->file != NULL ? node_flush(node->file) : 0;
}

int node_map(struct block_node *node, uint64_t offset, uint64_t bytes, struct block_extent *extent)
{
    int result = node_in_bounds(node, offset, bytes);
    return result != 0 || bytes == 0 ? -EINVAL : node->driver->map(node, offset, bytes, extent);
}

int node_resize(struct block_node *node, uint64_t bytes, int prealloc, struct error *error)
{
    if (node->options.read_only) {
        error_set(error, "Image is read-only");
        return -EROFS;
    }
    if (node->driver->resize == NULL) {
        error_set(error, "Image format driver does not support resize");
        return -ENOTSUP;
    }
    return node->driver->resize(node, bytes, prealloc, error);
}

int node_map_chain(struct block_node *node, struct block_node *base, uint64_t offset, uint64_t bytes, struct block_extent *extent,
                   struct block_node **holder, unsigned *depth)
{
    unsigned level = 0, offset_flag = 0;
    for (struct block_node *at = node; at != NULL && at != base; at = at->backing, level++) {
        if (offset >= at->bytes) { /* shorter than what lies on it: zeroes from here on */
            *extent = (struct block_extent){.flags = EXTENT_ZERO | EXTENT_ALLOCATED, .bytes = bytes};
            *holder = at;
            *depth = level;
            return 0;
        }
        bytes = bytes < at->bytes - offset ? bytes : at->bytes - offset;
        int result = node_map(at, offset, bytes, extent);
        if (result != 0) {
            return result;
        }
        bytes = extent->bytes;
        offset_flag = at->backing == NULL ? extent->flags & EXTENT_OFFSET : 0;
        if (extent->flags & EXTENT_ALLOCATED) {
            *holder = at;
            *depth = level;
            return 0;
        }
    }
    *extent = (struct block_extent){.flags = base != NULL ? 0 : EXTENT_ZERO | offset_flag, .bytes = bytes, .host_offset = offset_flag != 0 ? extent->host_offset : 0};
    *holder = NULL;
    *depth = level;
    return 0;
}
