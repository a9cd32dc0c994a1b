/* SPDX-License-Identifier: MIT */
#include "machine/drive.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "block/nbd.h"

#define AT(field) offsetof(struct drive_values, field)
/* QEMU's older names of the limits. */
#define OLD_LIMIT(name, field)                                                                                                  \
    {name, PROPERTY_SIZE, AT(throttle.field.rate), NULL, "limit a second; 0: none", 0, UINT64_MAX, NULL},                       \
    {                                                                                                                           \
        name "_max", PROPERTY_SIZE, AT(throttle.field.burst), NULL, "the limit in a burst", 0, UINT64_MAX, NULL                  \
    }

#define NBD(prefix)                                                                                                                         \
    {prefix "server.type", PROPERTY_CHOICE, AT(nbd.type), NULL, "of driver nbd: where the server is", 0, 0, servers},                       \
        {prefix "server.path", PROPERTY_TEXT, AT(nbd.path), NULL, "unix: its socket", 0, 0, NULL},                                          \
        {prefix "server.host", PROPERTY_TEXT, AT(nbd.host), NULL, "inet: its name or address", 0, 0, NULL},                                 \
        {prefix "server.port", PROPERTY_TEXT, AT(nbd.port), NULL, "inet: its port", 0, 0, NULL},                                            \
        {prefix "export", PROPERTY_TEXT, AT(nbd.export), NULL, "the export's name", 0, 0, NULL},                                            \
        {prefix "reconnect-delay", PROPERTY_NUMBER, AT(nbd.reconnect_delay_s), NULL, "seconds that requests wait for a server that was lost", \
         0, 86400, NULL},                                                                                                                   \
    {                                                                                                                                       \
        prefix "open-timeout", PROPERTY_NUMBER, AT(nbd.open_timeout_s), NULL, "seconds to connect; 0: 30", 0, 86400, NULL                    \
    }

static const char *const servers[] = {"none", "inet", "unix", NULL};
static const char *const interfaces[] = {"default", "none", "virtio", "ide", "pflash", NULL};
static const char *const medias[] = {"disk", "cdrom", NULL};
static const char *const caches[] = {"writeback", "none", "writethrough", "directsync", "unsafe", NULL};
static const char *const aios[] = {"auto", "io_uring", "threads", NULL};
static const char *const discards[] = {"unmap", "ignore", "on", "off", NULL};
static const char *const zeroes[] = {"off", "on", "unmap", NULL};
static const char *const errors[] = {"auto", "report", "ignore", "stop", "enospc", NULL};
static const char *const lockings[] = {"auto", "on", "off", NULL};

const char drive_used_by_node[] = "another node";

/* Names as of QEMU. */
const struct property drive_properties[] = {
    {"file", PROPERTY_TEXT, AT(file), NULL, "the image", 0, 0, NULL},
    {"format", PROPERTY_TEXT, AT(format), NULL, "raw or qcow2; must be said of an image that is written", 0, 0, NULL},
    {"id", PROPERTY_TEXT, AT(id), NULL, "what a device's drive= names", 0, 0, NULL},
    {"if", PROPERTY_CHOICE, AT(interface), NULL, "the device that is made for it", 0, 0, interfaces},
    {"index", PROPERTY_NUMBER, AT(index), "0xffffffff", "of if=ide: the place, counted over all buses; 0xffffffff: the next", 0, DRIVE_PLACE_NEXT, NULL},
    {"bus", PROPERTY_NUMBER, AT(bus), "0xffffffff", "of if=ide: the bus", 0, DRIVE_PLACE_NEXT, NULL},
    {"unit", PROPERTY_NUMBER, AT(unit), "0xffffffff", "of if=ide: the place on the bus; of if=pflash: 0 ends at 4 GiB, 1 is below", 0, DRIVE_PLACE_NEXT, NULL},
    {"media", PROPERTY_CHOICE, AT(media), "disk", "what it is", 0, 0, medias},
    {"readonly", PROPERTY_BOOL, AT(read_only), NULL, "the guest cannot write", 0, 0, NULL},
    {"read-only", PROPERTY_BOOL, AT(read_only), NULL, "the same", 0, 0, NULL},
    {"cache", PROPERTY_CHOICE, AT(cache), "writeback", "the host's cache, and whether flushes reach the disk", 0, 0, caches},
    {"aio", PROPERTY_CHOICE, AT(aio), "auto", "how the host is asked", 0, 0, aios},
    {"discard", PROPERTY_CHOICE, AT(discard), "ignore", "whether discards free space", 0, 0, discards},
    {"detect-zeroes", PROPERTY_CHOICE, AT(detect_zeroes), "off", "whether writes of zeroes free space", 0, 0, zeroes},
    {"werror", PROPERTY_CHOICE, AT(werror), "auto", "what a write that fails does (auto: enospc)", 0, 0, errors},
    {"rerror", PROPERTY_CHOICE, AT(rerror), "auto", "what a read that fails does (auto: report)", 0, 0, errors},
    {"file.locking", PROPERTY_CHOICE, AT(locking), "auto", "whether the image is locked against others", 0, 0, lockings},
    {"file.driver", PROPERTY_TEXT, AT(protocol), NULL, "file or nbd", 0, 0, NULL},
    {"file.filename", PROPERTY_TEXT, AT(file), NULL, "the image", 0, 0, NULL},
    NBD("file."),
    DRIVE_LIMITS("throttling.", AT(throttle)),
    {"throttling.group", PROPERTY_TEXT, AT(throttle_group), NULL, "drives of one group share their limits", 0, 0, NULL},
    OLD_LIMIT("bps", bps_total),
    OLD_LIMIT("bps_rd", bps_read),
    OLD_LIMIT("bps_wr", bps_write),
    OLD_LIMIT("iops", iops_total),
    OLD_LIMIT("iops_rd", iops_read),
    OLD_LIMIT("iops_wr", iops_write),
    {"iops_size", PROPERTY_SIZE, AT(throttle.iops_size), NULL, "throttling.iops-size", 0, UINT64_MAX, NULL},
    {"group", PROPERTY_TEXT, AT(throttle_group), NULL, "throttling.group", 0, 0, NULL},
    {NULL, 0, 0, NULL, NULL, 0, 0, NULL},
};

const struct property blockdev_properties[] = {
    {"driver", PROPERTY_TEXT, AT(format), NULL, "raw or qcow2; throttle; file or nbd for a node that another one names", 0, 0, NULL},
    {"node-name", PROPERTY_TEXT, AT(id), NULL, "what a device's drive=, or another node's file=, names", 0, 0, NULL},
    {"filename", PROPERTY_TEXT, AT(file), NULL, "the image, of driver file", 0, 0, NULL},
    {"file", PROPERTY_TEXT, AT(reference), NULL, "the node that holds the image", 0, 0, NULL},
    {"file.driver", PROPERTY_TEXT, AT(protocol), NULL, "file or nbd", 0, 0, NULL},
    {"file.filename", PROPERTY_TEXT, AT(file), NULL, "the image", 0, 0, NULL},
    {"throttle-group", PROPERTY_TEXT, AT(throttle_group), NULL, "of driver throttle: the -object that has the limits", 0, 0, NULL},
    NBD(""),
    NBD("file."),
    {"read-only", PROPERTY_BOOL, AT(read_only), NULL, "the guest cannot write", 0, 0, NULL},
    {"auto-read-only", PROPERTY_BOOL, AT(auto_read_only), NULL, "nothing: an image that cannot be written is an error", 0, 0, NULL},
    {"cache.direct", PROPERTY_BOOL, AT(cache_direct), NULL, "O_DIRECT", 0, 0, NULL},
    {"cache.no-flush", PROPERTY_BOOL, AT(cache_no_flush), NULL, "flushes do nothing", 0, 0, NULL},
    {"file.cache.direct", PROPERTY_BOOL, AT(cache_direct), NULL, "O_DIRECT", 0, 0, NULL},
    {"file.cache.no-flush", PROPERTY_BOOL, AT(cache_no_flush), NULL, "flushes do nothing", 0, 0, NULL},
    {"discard", PROPERTY_CHOICE, AT(discard), "ignore", "whether discards free space", 0, 0, discards},
    {"detect-zeroes", PROPERTY_CHOICE, AT(detect_zeroes), "off", "whether writes of zeroes free space", 0, 0, zeroes},
    {"aio", PROPERTY_CHOICE, AT(aio), "auto", "how the host is asked", 0, 0, aios},
    {"file.aio", PROPERTY_CHOICE, AT(aio), "auto", "how the host is asked", 0, 0, aios},
    {"locking", PROPERTY_CHOICE, AT(locking), "auto", "whether the image is locked against others", 0, 0, lockings},
    {"file.locking", PROPERTY_CHOICE, AT(locking), "auto", "whether the image is locked against others", 0, 0, lockings},
    {NULL, 0, 0, NULL, NULL, 0, 0, NULL},
};

/* Images that are something else than raw bytes say so at these places. */
static const struct {
    const char *format;
    uint64_t offset;
    uint8_t bytes;
    char mark[9];
} drive_marks[] = {
    {"qcow2", 0, 4, "QFI\xfb"}, {"qed", 0, 4, "QED"},          {"vmdk", 0, 4, "KDMV"},      {"vmdk", 0, 4, "COWD"},
    {"vhdx", 0, 8, "vhdxfile"}, {"vdi", 0x40, 4, "\x7f\x10\xda\xbe"}, {"luks", 0, 6, "LUKS\xba\xbe"}, {"vpc", 0, 8, "conectix"},
};

/* A guest can write any of them into its raw disk: that must not make it another format, only an error. */
static int drive_check_raw(const struct drive *drive, struct error *error)
{
    const char *file = drive->values.file;
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    for (unsigned i = 0; fd >= 0 && i < sizeof(drive_marks) / sizeof(drive_marks[0]); i++) {
        char bytes[8];
        if (pread(fd, bytes, drive_marks[i].bytes, (off_t)drive_marks[i].offset) == drive_marks[i].bytes &&
            memcmp(bytes, drive_marks[i].mark, drive_marks[i].bytes) == 0) {
            close(fd);
            return error_set(error, "%s: it looks like a %s image; say its format: -drive file=%s,format=...,index=%u", file, drive_marks[i].format, file,
                             (unsigned)drive->values.index);
        }
    }
    if (fd >= 0) {
        close(fd);
    }
    return 0; /* what cannot be opened is told of where it is */
}

int drive_resolve(struct drive_values *values, struct error *error)
{
    bool parts = values->nbd.type != DRIVE_SERVER_NONE || values->nbd.path[0] != '\0' || values->nbd.host[0] != '\0' || values->nbd.port[0] != '\0';
    bool top = values->protocol[0] == '\0' && strcmp(values->format, "nbd") == 0; /* the node is the protocol's own */
    bool nbd = top || strcmp(values->protocol, "nbd") == 0;
    if (values->protocol[0] != '\0' && !nbd && strcmp(values->protocol, "file") != 0) {
        return error_set(error, "Unknown driver '%s'", values->protocol);
    }
    if (!nbd) {
        return parts || values->nbd.export[0] != '\0' ? error_set(error, "'server' and 'export' are of driver nbd") : 0;
    }
    if (values->file[0] != '\0' || values->reference[0] != '\0') {
        return error_set(error, "driver nbd has a server, and no file");
    }
    bool is_unix = values->nbd.type == DRIVE_SERVER_UNIX;
    if (values->nbd.type == DRIVE_SERVER_NONE) {
        return error_set(error, "Parameter 'server.type' is missing");
    }
    if (is_unix ? values->nbd.path[0] == '\0' : values->nbd.host[0] == '\0' || values->nbd.port[0] == '\0') {
        return error_set(error, "Parameter '%s' is missing", is_unix ? "server.path" : values->nbd.host[0] == '\0' ? "server.host" : "server.port");
    }
    char *uri = nbd_make_uri(is_unix ? values->nbd.path : NULL, values->nbd.host, values->nbd.port, values->nbd.export);
    bool fits = uri != NULL && strlen(uri) < sizeof(values->file);
    if (fits) {
        strcpy(values->file, uri);
    }
    free(uri);
    return fits ? 0 : error_set(error, "the export's name is too long");
}

void drive_config(const struct drive_values *values, struct block_config *config)
{
    *config = (struct block_config){
        .filename = values->file,
        .format = values->format[0] != '\0' ? values->format : NULL,
        .read_only = values->read_only || values->media == DRIVE_MEDIA_CDROM,
        .discard_ignore = values->discard == 1 || values->discard == 3,
        .detect_zeroes = values->detect_zeroes != DRIVE_ZEROES_OFF,
        .aio = (enum block_aio)values->aio,
        .throttle = values->throttle,
        .nbd_reconnect_delay_s = (unsigned)values->nbd.reconnect_delay_s,
        .nbd_open_timeout_s = (unsigned)values->nbd.open_timeout_s,
    };
    block_config_cache(config, caches[values->cache]);
    config->cache_direct = config->cache_direct || values->cache_direct;
    config->cache_no_flush = config->cache_no_flush || values->cache_no_flush;
    config->force_share = values->locking == 2 && config->read_only;
}

int drive_open(struct drive *drive, struct loop *loop, struct error *error)
{
    const struct drive_values *values = &drive->values;
    struct block_config config;
    drive_config(values, &config);
    config.throttle_with = drive->throttle_with != NULL ? drive->throttle_with->block : NULL;
    if (values->raw_unless_other) {
        if (drive_check_raw(drive, error) != 0) {
            return -1;
        }
        config.format = "raw";
    }
    drive->block = block_open(&config, error);
    if (drive->block == NULL) {
        return -1;
    }
    int result = loop != NULL ? block_attach(drive->block, loop) : 0;
    if (result != 0) {
        drive_close(drive);
        return error_set(error, "-drive file=%s: %s", values->file, strerror(-result));
    }
    return 0;
}

void drive_close(struct drive *drive)
{
    if (drive->block != NULL) {
        block_close(drive->block);
        drive->block = NULL;
    }
}
