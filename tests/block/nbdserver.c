/* SPDX-License-Identifier: MIT */
#include "nbdserver.h"

#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define REQUEST_MAX (64u << 20)

enum { OPT_EXPORT_NAME = 1, OPT_ABORT = 2, OPT_GO = 7, OPT_STRUCTURED_REPLY = 8, OPT_SET_META_CONTEXT = 10 };
enum { REP_ACK = 1, REP_INFO = 3, REP_META_CONTEXT = 4 };
#define REP_ERR_UNSUP 0x80000001u
enum { FLAG_HAS_FLAGS = 1, FLAG_READ_ONLY = 2, FLAG_SEND_FLUSH = 4, FLAG_SEND_FUA = 8, FLAG_SEND_TRIM = 32, FLAG_SEND_WRITE_ZEROES = 64 };
enum { CMD_READ, CMD_WRITE, CMD_DISC, CMD_FLUSH, CMD_TRIM, CMD_CACHE, CMD_WRITE_ZEROES, CMD_BLOCK_STATUS };
enum { CHUNK_NONE, CHUNK_DATA, CHUNK_HOLE, CHUNK_BLOCK_STATUS = 5, CHUNK_ERROR = 32769 };
#define NBD_EINVAL 22u
#define NBD_ESHUTDOWN 108u

struct request {
    uint32_t magic;
    uint16_t flags, type;
    uint64_t cookie, offset;
    uint32_t bytes;
} __attribute__((packed));

static uint64_t server_random(struct nbdserver *s)
{
    s->random ^= s->random << 13;
    s->random ^= s->random >> 7;
    s->random ^= s->random << 17;
    return s->random;
}

static int server_move(struct nbdserver *s, void *data, size_t bytes, short event)
{
    uint8_t *at = data;
    while (bytes > 0) {
        struct pollfd fd = {.fd = s->fd, .events = event};
        if (poll(&fd, 1, 20) < 0 || atomic_load(&s->stop)) {
            return -1;
        }
        if (fd.revents == 0) {
            continue;
        }
        ssize_t moved = event == POLLIN ? recv(s->fd, at, bytes, 0) : send(s->fd, at, bytes, MSG_NOSIGNAL);
        if (moved <= 0) {
            return -1;
        }
        at += moved;
        bytes -= (size_t)moved;
    }
    return 0;
}

static int server_get(struct nbdserver *s, void *data, size_t bytes)
{
    return server_move(s, data, bytes, POLLIN);
}

/* A liar changes a byte, leaves some out, says them twice, or hangs up. */
static int server_put(struct nbdserver *s, const void *data, size_t bytes)
{
    if (bytes == 0) {
        return 0;
    }
    uint8_t *copy = malloc(bytes);
    memcpy(copy, data, bytes);
    int result = 0;
    if (atomic_load(&s->fault) == NBDSERVER_LIE && server_random(s) % 6 == 0) {
        size_t at = server_random(s) % bytes;
        switch (server_random(s) % 6) {
        case 0:
        case 1:
            copy[at] ^= (uint8_t)(1u << server_random(s) % 8);
            break;
        case 2:
            copy[at] = (uint8_t)(server_random(s) % 2 ? 0xff : server_random(s));
            break;
        case 3:
            bytes = at;
            break;
        case 4:
            result = server_move(s, copy, bytes, POLLOUT);
            break;
        default:
            result = -1;
        }
    }
    result = result == 0 ? server_move(s, copy, bytes, POLLOUT) : result;
    free(copy);
    return result;
}

/* ---- Handshake ---- */

static int server_reply_option(struct nbdserver *s, uint32_t option, uint32_t type, const void *data, uint32_t bytes)
{
    struct {
        uint64_t magic;
        uint32_t option, type, bytes;
    } __attribute__((packed)) reply = {htobe64(0x3e889045565a9), htobe32(option), htobe32(type), htobe32(bytes)};
    return server_put(s, &reply, sizeof(reply)) != 0 || server_put(s, data, bytes) != 0 ? -1 : 0;
}

static uint16_t server_flags(const struct nbdserver *s)
{
    return (uint16_t)(FLAG_HAS_FLAGS | (s->read_only ? FLAG_READ_ONLY : 0) | (s->no_flush ? 0 : FLAG_SEND_FLUSH) | (s->no_fua ? 0 : FLAG_SEND_FUA) |
                      (s->no_trim ? 0 : FLAG_SEND_TRIM) | (s->no_zeroes ? 0 : FLAG_SEND_WRITE_ZEROES));
}

static uint64_t server_claim(const struct nbdserver *s)
{
    return htobe64(s->claimed_bytes != 0 ? s->claimed_bytes : s->bytes);
}

static int server_go(struct nbdserver *s, uint32_t option)
{
    struct {
        uint16_t type;
        uint64_t bytes;
        uint16_t flags;
    } __attribute__((packed)) export = {0, server_claim(s), htobe16(server_flags(s))};
    struct {
        uint16_t type;
        uint32_t min, preferred, max;
    } __attribute__((packed)) sizes = {htobe16(3), htobe32(s->block_bytes), htobe32(4096 > s->block_bytes ? 4096 : s->block_bytes), htobe32(s->max_bytes)};
    if (server_reply_option(s, option, REP_INFO, &export, sizeof(export)) != 0 ||
        (s->block_bytes != 0 && server_reply_option(s, option, REP_INFO, &sizes, sizeof(sizes)) != 0)) {
        return -1;
    }
    return server_reply_option(s, option, REP_ACK, NULL, 0);
}

static int server_meta_context(struct nbdserver *s, uint32_t option)
{
    static const char context[] = {0, 0, 0, 7, 'b', 'a', 's', 'e', ':', 'a', 'l', 'l', 'o', 'c', 'a', 't', 'i', 'o', 'n'};
    s->extents = !s->no_extents;
    return (s->extents && server_reply_option(s, option, REP_META_CONTEXT, context, sizeof(context)) != 0) ? -1 : server_reply_option(s, option, REP_ACK, NULL, 0);
}

static int server_handshake(struct nbdserver *s)
{
    uint32_t client;
    uint8_t greeting[18] = "NBDMAGICIHAVEOPT\0\3";
    if (server_put(s, greeting, sizeof(greeting)) != 0 || server_get(s, &client, sizeof(client)) != 0) {
        return -1;
    }
    for (;;) {
        struct {
            uint64_t magic;
            uint32_t option, bytes;
        } __attribute__((packed)) header;
        static uint8_t body[65536];
        if (server_get(s, &header, sizeof(header)) != 0) {
            return -1;
        }
        uint32_t option = be32toh(header.option), bytes = be32toh(header.bytes);
        int result = bytes > sizeof(body) ? -1 : server_get(s, body, bytes);
        if (result != 0) {
            return result;
        }
        switch (option) {
        case OPT_EXPORT_NAME: {
            uint64_t size = server_claim(s);
            uint16_t flags = htobe16(server_flags(s));
            return server_put(s, &size, sizeof(size)) != 0 || server_put(s, &flags, sizeof(flags)) != 0 ? -1 : 0;
        }
        case OPT_ABORT:
            return -1;
        case OPT_GO:
            return server_go(s, option);
        case OPT_STRUCTURED_REPLY:
            s->structured = !s->no_structured;
            result = server_reply_option(s, option, s->structured ? REP_ACK : REP_ERR_UNSUP, NULL, 0);
            break;
        case OPT_SET_META_CONTEXT:
            result = server_meta_context(s, option);
            break;
        default:
            result = server_reply_option(s, option, REP_ERR_UNSUP, NULL, 0);
        }
        if (result != 0) {
            return result;
        }
    }
}

/* ---- Requests ---- */

static int server_chunk(struct nbdserver *s, const struct request *request, uint16_t type, bool done, const void *head, uint32_t head_bytes, const void *data,
                        uint32_t bytes)
{
    struct {
        uint32_t magic;
        uint16_t flags, type;
        uint64_t cookie;
        uint32_t bytes;
    } __attribute__((packed)) chunk = {htobe32(0x668e33ef), htobe16(done), htobe16(type), request->cookie, htobe32(head_bytes + bytes)};
    return server_put(s, &chunk, sizeof(chunk)) != 0 || server_put(s, head, head_bytes) != 0 || server_put(s, data, bytes) != 0 ? -1 : 0;
}

static int server_simple(struct nbdserver *s, const struct request *request, uint32_t error, const void *data, uint32_t bytes)
{
    struct {
        uint32_t magic, error;
        uint64_t cookie;
    } __attribute__((packed)) reply = {htobe32(0x67446698), htobe32(error), request->cookie};
    return server_put(s, &reply, sizeof(reply)) != 0 || server_put(s, data, error == 0 ? bytes : 0) != 0 ? -1 : 0;
}

static int server_error(struct nbdserver *s, const struct request *request, uint32_t code)
{
    struct {
        uint32_t error;
        uint16_t bytes;
    } __attribute__((packed)) error = {htobe32(code), 0};
    return s->structured && be16toh(request->type) == CMD_READ ? server_chunk(s, request, CHUNK_ERROR, true, &error, sizeof(error), NULL, 0)
                                                               : server_simple(s, request, code, NULL, 0);
}

static bool server_zero(const uint8_t *data, uint32_t bytes)
{
    return bytes == 0 || (data[0] == 0 && memcmp(data, data + 1, bytes - 1) == 0);
}

static int server_read(struct nbdserver *s, const struct request *request, uint64_t offset, uint32_t bytes)
{
    if (!s->structured) {
        return server_simple(s, request, 0, s->data + offset, bytes);
    }
    uint32_t half = bytes / 2; /* two chunks, the later one first */
    uint64_t at[2] = {htobe64(offset + half), htobe64(offset)};
    struct {
        uint64_t offset;
        uint32_t bytes;
    } __attribute__((packed)) hole = {at[0], htobe32(bytes - half)};
    int result = server_zero(s->data + offset + half, bytes - half) ? server_chunk(s, request, CHUNK_HOLE, half == 0, &hole, sizeof(hole), NULL, 0)
                 : server_chunk(s, request, CHUNK_DATA, half == 0, &at[0], 8, s->data + offset + half, bytes - half);
    return result != 0 || half == 0 ? result : server_chunk(s, request, CHUNK_DATA, true, &at[1], 8, s->data + offset, half);
}

/* In pages of 4096. */
static int server_status(struct nbdserver *s, const struct request *request, uint64_t offset, uint32_t bytes)
{
    uint32_t id = htobe32(7), words[2 * 64];
    unsigned count = 0;
    for (uint64_t at = offset; at < offset + bytes && count < 64;) {
        bool zero = server_zero(s->data + at, 1);
        uint64_t end = at;
        while (end < offset + bytes) {
            uint64_t next = (end + 4096) & ~UINT64_C(4095);
            next = next < offset + bytes ? next : offset + bytes;
            if (server_zero(s->data + end, (uint32_t)(next - end)) != zero && end != at) {
                break;
            }
            if (end == at) {
                zero = server_zero(s->data + end, (uint32_t)(next - end));
            }
            end = next;
        }
        words[2 * count] = htobe32((uint32_t)(end - at));
        words[2 * count++ + 1] = htobe32(zero ? 3 : 0);
        at = end;
        if (be16toh(request->flags) & 8) { /* NBD_CMD_FLAG_REQ_ONE */
            break;
        }
    }
    if (atomic_load(&s->fault) == NBDSERVER_EXTENTS) {
        for (unsigned i = 0; i < count; i++) {
            words[2 * i] = server_random(s) % 3 == 0 ? 0 : (uint32_t)server_random(s);
            words[2 * i + 1] = (uint32_t)server_random(s);
        }
        count = server_random(s) % 8 == 0 ? 0 : count;
    }
    return server_chunk(s, request, CHUNK_BLOCK_STATUS, true, &id, sizeof(id), words, 8 * count);
}

static int server_faults(struct nbdserver *s, const struct request *request, bool *answered)
{
    unsigned fault = atomic_load(&s->fault), after = atomic_load(&s->after);
    bool due = after != 0 && s->count > after;
    *answered = true;
    if (fault == NBDSERVER_SILENT && due) {
        return 0;
    }
    if (fault == NBDSERVER_HANG_UP && due) {
        return -1;
    }
    if (fault == NBDSERVER_GO_AWAY && due) {
        return server_error(s, request, NBD_ESHUTDOWN);
    }
    if (fault == NBDSERVER_FAIL && after != 0 && s->count % after == 0) {
        return server_error(s, request, atomic_load(&s->error));
    }
    if (fault == NBDSERVER_NOISE && due) {
        uint64_t noise[512];
        for (unsigned i = 0; i < 512; i++) {
            noise[i] = server_random(s);
        }
        if (server_random(s) % 2) {
            memcpy(noise, (uint32_t[]){htobe32(server_random(s) % 2 ? 0x668e33ef : 0x67446698)}, 4);
        }
        return server_put(s, noise, sizeof(noise));
    }
    *answered = false;
    return 0;
}

static int server_request(struct nbdserver *s)
{
    static uint8_t body[REQUEST_MAX];
    struct request request;
    if (server_get(s, &request, sizeof(request)) != 0 || be32toh(request.magic) != 0x25609513) {
        return -1;
    }
    uint16_t type = be16toh(request.type);
    uint64_t offset = be64toh(request.offset);
    uint32_t bytes = be32toh(request.bytes);
    bool answered;
    if (type == CMD_DISC || bytes > REQUEST_MAX || (type == CMD_WRITE && server_get(s, body, bytes) != 0)) {
        return -1;
    }
    s->count++;
    atomic_fetch_add(&s->requests, 1);
    int result = server_faults(s, &request, &answered);
    if (answered) {
        return result;
    }
    uint32_t mask = s->block_bytes > 1 ? s->block_bytes - 1 : 0;
    if (type != CMD_FLUSH && (offset > s->bytes || bytes > s->bytes - offset || bytes == 0 || ((offset | bytes) & mask) != 0 ||
                              (s->max_bytes != 0 && (type == CMD_READ || type == CMD_WRITE) && bytes > s->max_bytes))) {
        return server_error(s, &request, NBD_EINVAL);
    }
    if (be16toh(request.flags) & 1) { /* NBD_CMD_FLAG_FUA */
        atomic_fetch_add(&s->fuas, 1);
    }
    switch (type) {
    case CMD_READ:
        return server_read(s, &request, offset, bytes);
    case CMD_WRITE:
        memcpy(s->data + offset, body, bytes);
        return server_simple(s, &request, 0, NULL, 0);
    case CMD_FLUSH:
        atomic_fetch_add(&s->flushes, 1);
        return server_simple(s, &request, 0, NULL, 0);
    case CMD_TRIM:
    case CMD_WRITE_ZEROES:
        atomic_fetch_add(type == CMD_TRIM ? &s->trims : &s->zeroes, 1);
        memset(s->data + offset, 0, bytes);
        return server_simple(s, &request, 0, NULL, 0);
    case CMD_BLOCK_STATUS:
        return s->extents ? server_status(s, &request, offset, bytes) : server_error(s, &request, NBD_EINVAL);
    default:
        return server_error(s, &request, NBD_EINVAL);
    }
}

static void *server_thread(void *opaque)
{
    struct nbdserver *s = opaque;
    while (!atomic_load(&s->stop)) {
        struct pollfd fd = {.fd = s->listen_fd, .events = POLLIN};
        if (poll(&fd, 1, 20) <= 0) {
            continue;
        }
        s->fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC);
        if (s->fd < 0) {
            continue;
        }
        atomic_fetch_add(&s->connections, 1);
        s->structured = s->extents = false;
        s->count = 0;
        while (atomic_load(&s->fault) == NBDSERVER_MUTE && !atomic_load(&s->stop)) {
            usleep(10000);
        }
        if (server_handshake(s) == 0) {
            while (server_request(s) == 0) {
            }
        }
        close(s->fd);
    }
    return NULL;
}

void nbdserver_start(struct nbdserver *s)
{
    static atomic_uint number;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(s->path, sizeof(s->path), "/tmp/kage-nbd-%d-%u", (int)getpid(), atomic_fetch_add(&number, 1));
    strcpy(address.sun_path, s->path);
    s->data = s->data != NULL ? s->data : calloc(1, s->bytes);
    s->random = s->random != 0 ? s->random : 1;
    atomic_store(&s->stop, false);
    s->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    unlink(s->path);
    if (s->data == NULL || s->listen_fd < 0 || bind(s->listen_fd, (struct sockaddr *)&address, sizeof(address)) != 0 || listen(s->listen_fd, 4) != 0 ||
        pthread_create(&s->thread, NULL, server_thread, s) != 0) {
        perror(s->path);
        abort();
    }
}

void nbdserver_stop(struct nbdserver *s)
{
    atomic_store(&s->stop, true);
    pthread_join(s->thread, NULL);
    close(s->listen_fd);
    unlink(s->path);
    free(s->data);
    s->data = NULL;
}
