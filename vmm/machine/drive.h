/* SPDX-License-Identifier: MIT */
/*
 * Drives: what -drive and -blockdev describe. Opened once, for all machines of a run; a device takes one by its id.
 */
#ifndef KAGE_MACHINE_DRIVE_H
#define KAGE_MACHINE_DRIVE_H

#include "block/block.h"
#include "machine/property.h"

enum drive_interface { DRIVE_IF_DEFAULT, DRIVE_IF_NONE, DRIVE_IF_VIRTIO, DRIVE_IF_IDE, DRIVE_IF_PFLASH };
enum drive_media { DRIVE_MEDIA_DISK, DRIVE_MEDIA_CDROM };
#define DRIVE_PLACE_NEXT UINT64_C(0xffffffff)
enum drive_format { DRIVE_FORMAT_GUESS, DRIVE_FORMAT_RAW, DRIVE_FORMAT_QCOW2 };
enum drive_cache { DRIVE_CACHE_WRITEBACK, DRIVE_CACHE_NONE, DRIVE_CACHE_WRITETHROUGH, DRIVE_CACHE_DIRECTSYNC, DRIVE_CACHE_UNSAFE };
enum drive_error { DRIVE_ERROR_AUTO, DRIVE_ERROR_REPORT, DRIVE_ERROR_IGNORE, DRIVE_ERROR_STOP, DRIVE_ERROR_ENOSPC };
enum drive_zeroes { DRIVE_ZEROES_OFF, DRIVE_ZEROES_ON, DRIVE_ZEROES_UNMAP };

/* What the tables below fill. */
struct drive_values {
    char id[PROPERTY_TEXT_MAX]; /* or node-name */
    char file[PROPERTY_TEXT_MAX];
    char format[PROPERTY_TEXT_MAX]; /* "": not said */
    char protocol[PROPERTY_TEXT_MAX], reference[PROPERTY_TEXT_MAX]; /* of -blockdev */
    struct {                                                         /* of driver nbd */
        uint64_t type;
        char path[PROPERTY_TEXT_MAX], host[PROPERTY_TEXT_MAX], port[PROPERTY_TEXT_MAX], export[PROPERTY_TEXT_MAX];
        uint64_t reconnect_delay_s, open_timeout_s;
    } nbd;
    uint64_t interface, index, bus, unit, media, cache, aio, discard, detect_zeroes, werror, rerror;
    bool read_only, auto_read_only, cache_direct, cache_no_flush;
    uint64_t locking;
    bool raw_unless_other; /* -hda: no format was said; what has another one's mark is refused */
    struct block_throttle throttle;
    char throttle_group[PROPERTY_TEXT_MAX];
};

/* Rows of limits, for a struct block_throttle at `base`. */
#define DRIVE_LIMIT(name, at)                                                                                                               \
    {name, PROPERTY_SIZE, (at) + offsetof(struct block_limit, rate), NULL, "limit a second; 0: none", 0, UINT64_MAX, NULL},                 \
        {name "-max", PROPERTY_SIZE, (at) + offsetof(struct block_limit, burst), NULL, "the limit in a burst", 0, UINT64_MAX, NULL},        \
    {                                                                                                                                       \
        name "-max-length", PROPERTY_NUMBER, (at) + offsetof(struct block_limit, burst_s), NULL, "seconds of a burst (1)", 0, 1u << 20, NULL \
    }
#define DRIVE_LIMITS(prefix, base)                                                      \
    DRIVE_LIMIT(prefix "bps-total", (base) + offsetof(struct block_throttle, bps_total)),   \
        DRIVE_LIMIT(prefix "bps-read", (base) + offsetof(struct block_throttle, bps_read)), \
        DRIVE_LIMIT(prefix "bps-write", (base) + offsetof(struct block_throttle, bps_write)), \
        DRIVE_LIMIT(prefix "iops-total", (base) + offsetof(struct block_throttle, iops_total)), \
        DRIVE_LIMIT(prefix "iops-read", (base) + offsetof(struct block_throttle, iops_read)), \
        DRIVE_LIMIT(prefix "iops-write", (base) + offsetof(struct block_throttle, iops_write)), \
    {                                                                                   \
        prefix "iops-size", PROPERTY_SIZE, (base) + offsetof(struct block_throttle, iops_size), NULL, "a request of more bytes counts as several", 0, UINT64_MAX, NULL \
    }

extern const struct property drive_properties[];    /* of -drive */
extern const struct property blockdev_properties[]; /* of -blockdev, in dotted names */

struct drive {
    struct drive_values values;
    struct block *block;  /* once opened */
    bool attached_elsewhere; /* to an iothread's loop */
    struct drive *throttle_with; /* an earlier one, with which it shares limits; NULL: none */
    const char *used_by;  /* a device's model, or drive_used_by_node; NULL: free */
    bool node;            /* of -blockdev */
    bool protocol;        /* a node of driver file or nbd: another may lie on it */
    struct drive *below;  /* the node whose image it has taken over; NULL: none */
};
extern const char drive_used_by_node[];

enum drive_server { DRIVE_SERVER_NONE, DRIVE_SERVER_INET, DRIVE_SERVER_UNIX };

/* What has a protocol's parts becomes a file name. 0, or -1 with `error` filled. */
int drive_resolve(struct drive_values *values, struct error *error);
/* `config` points into `values`. */
void drive_config(const struct drive_values *values, struct block_config *config);
/* Opens the image; `loop` NULL: for one that waits for its requests. 0, or -1 with `error` filled. */
int drive_open(struct drive *drive, struct loop *loop, struct error *error);
void drive_close(struct drive *drive);

#endif
