/* SPDX-License-Identifier: MIT */
/*
 * All calls of libnbd are made by the link's thread, so that its callbacks run there too, in nbd_aio_notify_read() and its like: they move a command
 * from `sent` to `ended`, and `done` is called when libnbd has been left.
 */
#include "block/nbd_link.h"

#include <errno.h>
#include <libnbd.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "util/thread.h"

#define LINK_SENT_MAX 64u            /* commands that the server has at a time */
#define LINK_BLOCK_MAX 65536u        /* a minimum block size beyond it is nonsense */
#define LINK_TRANSFER_MAX (4u << 20) /* of one read or write: slow servers answer each in time */
#define LINK_HURRY_NS 3000000000u
#define LINK_RETRY_MIN_NS 50000000u
#define LINK_RETRY_MAX_NS 5000000000u
#define LINK_CONTEXT "base:allocation"

struct link_list {
    struct nbd_command *first, **last;
};

enum link_state {
    LINK_CONNECTING, /* the first time: nbd_link_open() waits */
    LINK_UP,
    LINK_LOST,   /* between attempts */
    LINK_AGAIN,  /* an attempt to come back */
    LINK_BROKEN, /* for good */
};

struct nbd_link {
    struct nbd_link_config config;
    char *uri;
    struct nbd_handle *handle; /* NULL: none */
    enum link_state state;
    struct nbd_export export;
    struct link_list sent, ended; /* the thread's own */
    unsigned sent_count;
    uint64_t answered_ns; /* when the server last ended a command */
    bool losing;          /* a command was given back by a connection that ends */
    uint64_t lost_ns, attempt_ns, retry_ns, retry_at_ns;
    struct error why; /* the attempt failed, or the connection was lost */
    pthread_t thread;
    int wake_fd;
    pthread_mutex_t lock; /* what follows, and `state` for nbd_link_open() */
    pthread_cond_t settled;
    struct link_list queue;
    bool stop;
    bool hurry;
};

/* ---- Lists ---- */

static void list_init(struct link_list *list)
{
    list->first = NULL;
    list->last = &list->first;
}

static void list_put(struct link_list *list, struct nbd_command *command)
{
    command->next = NULL;
    command->previous = list->last;
    *list->last = command;
    list->last = &command->next;
}

static void list_remove(struct link_list *list, struct nbd_command *command)
{
    *command->previous = command->next;
    if (command->next != NULL) {
        command->next->previous = command->previous;
    } else {
        list->last = command->previous;
    }
}

/* All of `from` goes in front of what is in `to`. */
static void list_prepend(struct link_list *to, struct link_list *from)
{
    while (to->first != NULL) {
        struct nbd_command *command = to->first;
        list_remove(to, command);
        list_put(from, command);
    }
    while (from->first != NULL) {
        struct nbd_command *command = from->first;
        list_remove(from, command);
        list_put(to, command);
    }
}

static uint64_t link_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t link_seconds(unsigned seconds)
{
    return (uint64_t)seconds * 1000000000u;
}

static void link_wake(struct nbd_link *link)
{
    uint64_t one = 1;
    if (write(link->wake_fd, &one, sizeof(one)) < 0) {
        /* a full eventfd is a pending wake-up already */
    }
}

/* ---- Commands ---- */

static void link_end(struct nbd_command *command, int result)
{
    command->result = result;
    list_put(&command->link->ended, command);
}

/* libnbd's callback. 1: it may forget the command. */
static int link_completed(void *opaque, int *error)
{
    struct nbd_command *command = opaque;
    struct nbd_link *link = command->link;
    if (*error == ENOTCONN || *error == ESHUTDOWN) { /* the connection is gone, or about to: link_lost() decides what becomes of it */
        link->losing = true;
        return 1;
    }
    list_remove(&link->sent, command);
    link->sent_count--;
    link->answered_ns = link_now_ns();
    link_end(command, *error > 0 ? -*error : 0);
    return 1;
}

/* libnbd's callback: pairs of length and flags, the first of which begins at `offset`. The server may say anything. */
static int link_extents(void *opaque, const char *context, uint64_t offset, uint32_t *entries, size_t count, int *error)
{
    struct nbd_command *command = opaque;
    (void)error;
    if (strcmp(context, LINK_CONTEXT) != 0 || offset != command->offset || command->extent_bytes != 0) {
        return 0;
    }
    for (size_t i = 0; i + 1 < count && command->extent_bytes < command->bytes; i += 2) {
        bool hole = (entries[i + 1] & 1) != 0, zero = (entries[i + 1] & 2) != 0; /* NBD_STATE_HOLE, NBD_STATE_ZERO */
        if (command->extent_bytes != 0 && (hole != command->extent_hole || zero != command->extent_zero)) {
            break;
        }
        command->extent_hole = hole;
        command->extent_zero = zero;
        command->extent_bytes += entries[i];
    }
    command->extent_bytes = command->extent_bytes < command->bytes ? command->extent_bytes : command->bytes;
    return 0;
}

static bool link_dead(const struct nbd_link *link)
{
    return nbd_aio_is_dead(link->handle) != 0 || nbd_aio_is_closed(link->handle) != 0;
}

static int64_t link_issue(struct nbd_link *link, struct nbd_command *command)
{
    struct nbd_handle *handle = link->handle;
    nbd_completion_callback done = {.callback = link_completed, .user_data = command};
    nbd_extent_callback extents = {.callback = link_extents, .user_data = command};
    uint32_t fua = command->fua ? LIBNBD_CMD_FLAG_FUA : 0;
    switch (command->op) {
    case NBD_READ:
        return nbd_aio_pread(handle, command->buffer, command->bytes, command->offset, done, 0);
    case NBD_WRITE:
        return nbd_aio_pwrite(handle, command->buffer, command->bytes, command->offset, done, fua);
    case NBD_ZERO:
        return nbd_aio_zero(handle, command->bytes, command->offset, done, fua | (command->no_hole ? LIBNBD_CMD_FLAG_NO_HOLE : 0));
    case NBD_TRIM:
        return nbd_aio_trim(handle, command->bytes, command->offset, done, 0);
    case NBD_FLUSH:
        return nbd_aio_flush(handle, done, 0);
    case NBD_EXTENT:
        command->extent_bytes = 0;
        return nbd_aio_block_status(handle, command->bytes, command->offset, extents, done, LIBNBD_CMD_FLAG_REQ_ONE);
    }
    return -1;
}

/* Whether commands wait for the server to come back. With the lock held. */
static bool link_waits(const struct nbd_link *link)
{
    return (link->state == LINK_LOST || link->state == LINK_AGAIN) && !link->hurry && !link->stop &&
           link_now_ns() - link->lost_ns < link_seconds(link->config.reconnect_delay_s);
}

static void link_take(struct nbd_link *link)
{
    pthread_mutex_lock(&link->lock);
    while (link->queue.first != NULL && link->state == LINK_UP && link->sent_count < LINK_SENT_MAX) {
        struct nbd_command *command = link->queue.first;
        list_remove(&link->queue, command);
        command->sent_ns = link_now_ns();
        list_put(&link->sent, command);
        link->sent_count++;
        pthread_mutex_unlock(&link->lock);
        if (link_issue(link, command) < 0) { /* libnbd has not taken it */
            link->losing = link_dead(link);
            if (!link->losing) {
                int code = nbd_get_errno();
                list_remove(&link->sent, command);
                link->sent_count--;
                link_end(command, code > 0 ? -code : -EIO);
            }
        }
        pthread_mutex_lock(&link->lock);
        if (link_dead(link)) {
            break;
        }
    }
    while (link->queue.first != NULL && link->state != LINK_UP && link->state != LINK_CONNECTING && !link_waits(link)) {
        struct nbd_command *command = link->queue.first;
        list_remove(&link->queue, command);
        link_end(command, -EIO);
    }
    pthread_mutex_unlock(&link->lock);
}

static void link_tell(struct nbd_link *link)
{
    while (link->ended.first != NULL) {
        struct nbd_command *command = link->ended.first;
        list_remove(&link->ended, command);
        command->done(command, command->result);
    }
}

/* ---- The connection ---- */

static void link_set_state(struct nbd_link *link, enum link_state state)
{
    pthread_mutex_lock(&link->lock);
    link->state = state;
    pthread_cond_broadcast(&link->settled);
    pthread_mutex_unlock(&link->lock);
}

/* The connection, or the attempt to make one, has ended. What the server had is sent again when it comes back in time, else it fails. */
static void link_lost(struct nbd_link *link, bool for_good)
{
    nbd_close(link->handle);
    link->handle = NULL;
    uint64_t now = link_now_ns();
    if (link->state == LINK_UP) {
        fprintf(stderr, "kage: %s: the connection is lost: %s\n", link->uri, link->why.text);
        link->lost_ns = now;
        link->retry_ns = LINK_RETRY_MIN_NS;
    }
    link->retry_at_ns = now + link->retry_ns;
    link->retry_ns = 2 * link->retry_ns < LINK_RETRY_MAX_NS ? 2 * link->retry_ns : LINK_RETRY_MAX_NS;
    link_set_state(link, for_good || link->state == LINK_CONNECTING ? LINK_BROKEN : LINK_LOST);
    pthread_mutex_lock(&link->lock);
    list_prepend(&link->queue, &link->sent); /* link_take() fails them if they may not wait */
    pthread_mutex_unlock(&link->lock);
    link->sent_count = 0;
    link->losing = false;
}

static void link_why(struct nbd_link *link)
{
    const char *text = nbd_get_error();
    error_set(&link->why, "%s", text != NULL ? text : "the server has closed it");
}

static void link_connect(struct nbd_link *link)
{
    link->attempt_ns = link_now_ns();
    link->handle = nbd_create();
    if (link->handle == NULL || nbd_set_uri_allow_local_file(link->handle, false) != 0 || nbd_add_meta_context(link->handle, LINK_CONTEXT) != 0 ||
        nbd_aio_connect_uri(link->handle, link->uri) != 0) {
        link_why(link);
        link_lost(link, false);
    }
}

/* What the server said, or why it cannot be used. */
static int link_look(struct nbd_link *link, struct nbd_export *export)
{
    struct nbd_handle *handle = link->handle;
    int64_t bytes = nbd_get_size(handle), block = nbd_get_block_size(handle, LIBNBD_SIZE_MINIMUM), most = nbd_get_block_size(handle, LIBNBD_SIZE_MAXIMUM);
    block = block <= 0 ? 1 : block;
    if (bytes < 0 || block > LINK_BLOCK_MAX || (block & (block - 1)) != 0 || bytes % block != 0) {
        return error_set(&link->why, "the server gives the export a size that makes no sense");
    }
    *export = (struct nbd_export){
        .bytes = (uint64_t)bytes,
        .block_bytes = (uint32_t)block,
        .max_bytes = most > block && most < LINK_TRANSFER_MAX ? (uint32_t)(most / block * block) : LINK_TRANSFER_MAX,
        .can_flush = nbd_can_flush(handle) > 0,
        .can_fua = nbd_can_fua(handle) > 0,
        .can_trim = nbd_can_trim(handle) > 0,
        .can_zero = nbd_can_zero(handle) > 0,
        .can_extents = nbd_can_meta_context(handle, LINK_CONTEXT) > 0,
    };
    return !link->config.read_only && nbd_is_read_only(handle) != 0 ? error_set(&link->why, "the server's export is read-only") : 0;
}

static bool link_serves(const struct nbd_export *now, const struct nbd_export *before)
{
    return now->bytes == before->bytes && now->block_bytes <= before->block_bytes && now->max_bytes >= before->max_bytes && now->can_flush >= before->can_flush &&
           now->can_fua >= before->can_fua && now->can_trim >= before->can_trim && now->can_zero >= before->can_zero && now->can_extents >= before->can_extents;
}

static void link_connected(struct nbd_link *link)
{
    struct nbd_export export;
    bool again = link->state == LINK_AGAIN;
    if (link_look(link, &export) != 0) {
        link_lost(link, false);
    } else if (again && !link_serves(&export, &link->export)) {
        fprintf(stderr, "kage: %s: the server has come back with another export; it is not used any more\n", link->uri);
        link_lost(link, true);
    } else {
        if (again) {
            fprintf(stderr, "kage: %s: the connection is back\n", link->uri);
        } else {
            link->export = export;
        }
        link->answered_ns = link_now_ns();
        link_set_state(link, LINK_UP);
    }
}

/* ---- The thread ---- */

/* When something is due; UINT64_MAX: never. */
static uint64_t link_deadline(struct nbd_link *link)
{
    uint64_t due = UINT64_MAX, limit;
    pthread_mutex_lock(&link->lock);
    bool hurry = link->hurry || link->stop, queued = link->queue.first != NULL;
    pthread_mutex_unlock(&link->lock);
    switch (link->state) {
    case LINK_CONNECTING:
    case LINK_AGAIN:
        limit = link_seconds(link->config.open_timeout_s);
        due = link->attempt_ns + (hurry && limit > LINK_HURRY_NS ? LINK_HURRY_NS : limit);
        break;
    case LINK_UP:
        limit = link_seconds(link->config.request_timeout_s);
        if (link->sent.first != NULL) {
            uint64_t since = link->sent.first->sent_ns > link->answered_ns ? link->sent.first->sent_ns : link->answered_ns;
            due = since + (hurry && limit > LINK_HURRY_NS ? LINK_HURRY_NS : limit);
        }
        break;
    case LINK_LOST:
        due = link->retry_at_ns;
        break;
    case LINK_BROKEN:
        break;
    }
    if (queued && (link->state == LINK_LOST || link->state == LINK_AGAIN)) { /* commands that wait do so no longer */
        uint64_t end = link->lost_ns + link_seconds(link->config.reconnect_delay_s);
        due = end < due ? end : due;
    }
    return due;
}

/* Waits for the socket, a wake-up, or what is due. */
static void link_poll(struct nbd_link *link)
{
    struct pollfd fds[2] = {{.fd = link->wake_fd, .events = POLLIN}, {.fd = -1}};
    if (link->handle != NULL) {
        unsigned direction = nbd_aio_get_direction(link->handle);
        fds[1].fd = nbd_aio_get_fd(link->handle);
        fds[1].events = (short)((direction & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) | (direction & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0));
    }
    uint64_t due = link_deadline(link), now = link_now_ns();
    struct timespec wait = {0};
    if (link->handle != NULL && link_dead(link)) {
        return;
    }
    if (due > now && due != UINT64_MAX) {
        wait = (struct timespec){(time_t)((due - now) / 1000000000u), (long)((due - now) % 1000000000u)};
    }
    ppoll(fds, 2, due == UINT64_MAX ? NULL : &wait, NULL);
    uint64_t count;
    if (fds[0].revents != 0 && read(link->wake_fd, &count, sizeof(count)) < 0) {
        /* somebody has seen it */
    }
    if (link->handle != NULL && fds[1].revents != 0) {
        unsigned direction = nbd_aio_get_direction(link->handle);
        if ((fds[1].revents & (POLLIN | POLLHUP | POLLERR)) && (direction & LIBNBD_AIO_DIRECTION_READ)) {
            nbd_aio_notify_read(link->handle);
        } else if ((fds[1].revents & (POLLOUT | POLLHUP | POLLERR)) && (direction & LIBNBD_AIO_DIRECTION_WRITE)) {
            nbd_aio_notify_write(link->handle);
        }
    }
}

static void link_step(struct nbd_link *link)
{
    bool late = link_now_ns() >= link_deadline(link);
    switch (link->state) {
    case LINK_CONNECTING:
    case LINK_AGAIN:
        if (nbd_aio_is_ready(link->handle)) {
            link_connected(link);
        } else if (!nbd_aio_is_connecting(link->handle)) {
            link_why(link);
            link_lost(link, false);
        } else if (link_now_ns() - link->attempt_ns >= link_seconds(link->config.open_timeout_s) || (late && link->hurry)) {
            error_set(&link->why, "the server says nothing");
            link_lost(link, false);
        }
        break;
    case LINK_UP:
        if (link_dead(link)) {
            link_why(link);
            link_lost(link, false);
        } else if (link->losing) {
            error_set(&link->why, "the server shuts down");
            link_lost(link, false);
        } else if (late) {
            error_set(&link->why, "the server does not answer");
            link_lost(link, false);
        }
        break;
    case LINK_LOST:
        if (link_now_ns() >= link->retry_at_ns) {
            link_set_state(link, LINK_AGAIN);
            link_connect(link);
        }
        break;
    case LINK_BROKEN:
        break;
    }
}

/* Says good-bye, and waits for the server to hang up, but not for long. */
static void link_disconnect(struct nbd_link *link)
{
    uint64_t end = link_now_ns() + 1000000000u;
    if (link->state == LINK_UP && nbd_aio_disconnect(link->handle, 0) == 0) {
        while (!link_dead(link) && link_now_ns() < end && nbd_poll(link->handle, 100) >= 0) {
        }
    }
    nbd_close(link->handle);
    link->handle = NULL;
}

static void *link_thread(void *opaque)
{
    struct nbd_link *link = opaque;
    link_connect(link);
    for (;;) {
        link_step(link);
        link_take(link);
        link_tell(link);
        pthread_mutex_lock(&link->lock);
        bool stop = link->stop;
        pthread_mutex_unlock(&link->lock);
        if (stop) {
            break;
        }
        link_poll(link);
    }
    link_disconnect(link);
    return NULL;
}

/* ---- From other threads ---- */

void nbd_link_submit(struct nbd_link *link, struct nbd_command *command)
{
    command->link = link;
    pthread_mutex_lock(&link->lock);
    bool was_empty = link->queue.first == NULL;
    list_put(&link->queue, command);
    pthread_mutex_unlock(&link->lock);
    if (was_empty) {
        link_wake(link);
    }
}

void nbd_link_hurry(struct nbd_link *link)
{
    pthread_mutex_lock(&link->lock);
    link->hurry = true;
    pthread_mutex_unlock(&link->lock);
    link_wake(link);
}

const struct nbd_export *nbd_link_export(const struct nbd_link *link)
{
    return &link->export;
}

static void link_free(struct nbd_link *link)
{
    pthread_cond_destroy(&link->settled);
    pthread_mutex_destroy(&link->lock);
    close(link->wake_fd);
    free(link->uri);
    free(link);
}

struct nbd_link *nbd_link_open(const struct nbd_link_config *config, struct error *error)
{
    struct nbd_link *link = calloc(1, sizeof(*link));
    char *uri = strdup(config->uri);
    int wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (link == NULL || uri == NULL || wake_fd < 0) {
        error_set(error, "Failed to connect to '%s': %s", config->uri, strerror(wake_fd < 0 ? errno : ENOMEM));
        free(link);
        free(uri);
        if (wake_fd >= 0) {
            close(wake_fd);
        }
        return NULL;
    }
    *link = (struct nbd_link){.config = *config, .uri = uri, .wake_fd = wake_fd, .retry_ns = LINK_RETRY_MIN_NS};
    link->config.uri = uri;
    list_init(&link->sent);
    list_init(&link->ended);
    list_init(&link->queue);
    pthread_mutex_init(&link->lock, NULL);
    pthread_cond_init(&link->settled, NULL);
    int result = thread_start(&link->thread, link_thread, link);
    if (result != 0) {
        error_set(error, "Failed to connect to '%s': %s", config->uri, strerror(result));
        link_free(link);
        return NULL;
    }
    pthread_mutex_lock(&link->lock);
    while (link->state == LINK_CONNECTING) {
        pthread_cond_wait(&link->settled, &link->lock);
    }
    bool up = link->state != LINK_BROKEN;
    pthread_mutex_unlock(&link->lock);
    if (!up) {
        error_set(error, "Failed to connect to '%s': %s", config->uri, link->why.text);
        nbd_link_close(link);
        return NULL;
    }
    return link;
}

void nbd_link_close(struct nbd_link *link)
{
    pthread_mutex_lock(&link->lock);
    link->stop = true;
    pthread_mutex_unlock(&link->lock);
    link_wake(link);
    pthread_join(link->thread, NULL);
    link_free(link);
}
