/* SPDX-License-Identifier: MIT */
/*
 * Moves bytes between rings and descriptors. The rings are the frontend's side (any thread, under the
 * lock); the descriptors are the loop's side (its thread only, never under the lock). The
 * two meet in the timer: a writer that finds the ring empty arms it, and its expiry empties the ring.
 */
#include "chardev/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "util/fdset.h"

#define CHARDEV_GATHER_NS 1000000l      /* how long written bytes wait for company */
#define CHARDEV_PTY_POLL_NS 200000000l  /* how often to look for somebody at a pty's other end */
#define CHARDEV_DRAIN_MS 1000           /* how long the last bytes may take */
#define CHARDEV_FDS_MAX 16u             /* descriptors in one message */
#define CHARDEV_DATAGRAM_MAX 1024u

static void chardev_service(struct chardev *chardev);

/* What moves a front end's bytes: of a mux's, the mux; else itself. */
static struct chardev *chardev_base(struct chardev *chardev)
{
    return chardev->base != NULL ? chardev->base : chardev;
}

static uint32_t chardev_ring_count(const struct chardev_ring *ring)
{
    return ring->put - ring->get;
}

/* The bytes that wait, as far as they lie together. */
static uint32_t chardev_ring_peek(const struct chardev_ring *ring, const uint8_t **bytes)
{
    uint32_t at = ring->get % CHARDEV_RING_BYTES;
    uint32_t count = chardev_ring_count(ring);
    *bytes = &ring->bytes[at];
    return count < CHARDEV_RING_BYTES - at ? count : CHARDEV_RING_BYTES - at;
}

static void chardev_arm(struct chardev *chardev, long delay_ns)
{
    struct itimerspec when = {.it_value.tv_nsec = delay_ns};
    chardev->timer_armed = true;
    timerfd_settime(chardev->timer.fd, 0, &when, NULL);
}

static void chardev_tell(struct chardev *chardev)
{
    if (chardev->notify != NULL) {
        chardev->notify(chardev->notify_opaque);
    }
}

/* There is room to write again: of a mux, for all. */
static void chardev_tell_room(struct chardev *chardev)
{
    chardev_tell(chardev);
    for (unsigned i = 0; i < chardev->front_count; i++) {
        chardev_tell(chardev->fronts[i]);
    }
}

/* With the lock. How many of the bytes the ring takes; telnet's 255 goes twice. */
static size_t chardev_put(struct chardev *chardev, const uint8_t *bytes, size_t count)
{
    struct chardev_ring *ring = &chardev->tx;
    size_t taken = 0;
    while (taken < count && CHARDEV_RING_BYTES - chardev_ring_count(ring) >= (chardev->doubles_iac ? 2u : 1u)) {
        ring->bytes[ring->put++ % CHARDEV_RING_BYTES] = bytes[taken];
        if (chardev->doubles_iac && bytes[taken] == 255) {
            ring->bytes[ring->put++ % CHARDEV_RING_BYTES] = bytes[taken];
        }
        taken++;
    }
    return taken;
}

/* With the lock. The oldest bytes go where the new ones need their place. */
static void chardev_put_ringbuf(struct chardev *chardev, const uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        chardev->ringbuf[chardev->ringbuf_put++ & (chardev->config.size - 1)] = bytes[i];
    }
    if (chardev->ringbuf_put - chardev->ringbuf_get > chardev->config.size) {
        chardev->ringbuf_get = chardev->ringbuf_put - chardev->config.size;
    }
}

bool chardev_write(struct chardev *chardev, uint8_t byte)
{
    return chardev_write_bytes(chardev, &byte, 1) == 1;
}

size_t chardev_write_bytes(struct chardev *chardev, const uint8_t *bytes, size_t count)
{
    size_t taken = count;
    chardev = chardev_base(chardev);
    pthread_mutex_lock(&chardev->lock);
    if (chardev->ringbuf != NULL) {
        chardev_put_ringbuf(chardev, bytes, count);
    } else if (chardev->connected || chardev->log_fd >= 0) {
        taken = chardev_put(chardev, bytes, count);
        chardev->tx_blocked = chardev->tx_blocked || taken < count;
        if (!chardev->timer_armed) {
            chardev_arm(chardev, CHARDEV_GATHER_NS);
        }
    }
    pthread_mutex_unlock(&chardev->lock);
    return taken;
}

/* The reader has made room: the backend may read again. */
static void chardev_read_on(struct chardev *chardev)
{
    pthread_mutex_lock(&chardev->lock);
    if (chardev->rx_stopped && !chardev->timer_armed) {
        chardev_arm(chardev, 1);
    }
    pthread_mutex_unlock(&chardev->lock);
}

size_t chardev_read(struct chardev *chardev, uint8_t *bytes, size_t room)
{
    size_t count = 0;
    pthread_mutex_lock(&chardev->lock);
    struct chardev_ring *ring = &chardev->rx;
    while (count < room && chardev_ring_count(ring) != 0) {
        bytes[count++] = ring->bytes[ring->get++ % CHARDEV_RING_BYTES];
    }
    pthread_mutex_unlock(&chardev->lock);
    if (count != 0) {
        chardev_read_on(chardev_base(chardev));
    }
    return count;
}

void chardev_push(struct chardev *reader, uint8_t byte)
{
    struct chardev_ring *ring = &reader->rx;
    pthread_mutex_lock(&reader->lock);
    if (chardev_ring_count(ring) < CHARDEV_RING_BYTES) {
        ring->bytes[ring->put++ % CHARDEV_RING_BYTES] = byte;
    }
    pthread_mutex_unlock(&reader->lock);
}

static size_t chardev_room(struct chardev *reader)
{
    pthread_mutex_lock(&reader->lock);
    size_t room = CHARDEV_RING_BYTES - chardev_ring_count(&reader->rx);
    pthread_mutex_unlock(&reader->lock);
    return room;
}

/* Of a mux, in any front end: an escape key may move the focus between two bytes. */
size_t chardev_read_room(struct chardev *chardev)
{
    size_t least = chardev->front_count == 0 ? chardev_room(chardev) : CHARDEV_RING_BYTES;
    for (unsigned i = 0; i < chardev->front_count; i++) {
        size_t room = chardev_room(chardev->fronts[i]);
        least = room < least ? room : least;
    }
    return least;
}

int64_t chardev_ringbuf_write(struct chardev *chardev, const uint8_t *bytes, size_t count)
{
    if (chardev->ringbuf == NULL) {
        return -1;
    }
    pthread_mutex_lock(&chardev->lock);
    chardev_put_ringbuf(chardev, bytes, count);
    pthread_mutex_unlock(&chardev->lock);
    return (int64_t)count;
}

int64_t chardev_ringbuf_read(struct chardev *chardev, uint8_t *bytes, size_t room)
{
    size_t count = 0;
    if (chardev->ringbuf == NULL) {
        return -1;
    }
    pthread_mutex_lock(&chardev->lock);
    while (count < room && chardev->ringbuf_get != chardev->ringbuf_put) {
        bytes[count++] = chardev->ringbuf[chardev->ringbuf_get++ & (chardev->config.size - 1)];
    }
    pthread_mutex_unlock(&chardev->lock);
    return (int64_t)count;
}

/* ---- The log ---- */

/* What leaves the ring, or is dropped where nobody is at the other end. */
static void chardev_log(struct chardev *chardev, const uint8_t *bytes, size_t count)
{
    while (chardev->log_fd >= 0 && count != 0) {
        ssize_t written = write(chardev->log_fd, bytes, count);
        if (written < 0 && errno == EINTR) {
            continue;
        }
        if (written <= 0) {
            return; /* a full disk: the port goes on */
        }
        bytes += written;
        count -= (size_t)written;
    }
}

/* The bytes that wait, as chardev_ring_peek(). Writers only append, so they stay put without the lock. */
static uint32_t chardev_waiting(struct chardev *chardev, const uint8_t **bytes)
{
    pthread_mutex_lock(&chardev->lock);
    uint32_t count = chardev_ring_peek(&chardev->tx, bytes);
    pthread_mutex_unlock(&chardev->lock);
    return count;
}

/* So many of them have gone, or are lost. */
static void chardev_done(struct chardev *chardev, const uint8_t *bytes, uint32_t count)
{
    chardev_log(chardev, bytes, count);
    pthread_mutex_lock(&chardev->lock);
    chardev->tx.get += count;
    pthread_mutex_unlock(&chardev->lock);
}

/* Nobody is there to take what waits. */
static void chardev_drop(struct chardev *chardev)
{
    const uint8_t *bytes;
    for (;;) {
        uint32_t count = chardev_waiting(chardev, &bytes);
        if (count == 0) {
            return;
        }
        chardev_done(chardev, bytes, count);
    }
}

/* The other end has gone, or was never there: nothing to write to until somebody connects. */
static void chardev_disconnect(struct chardev *chardev)
{
    pthread_mutex_lock(&chardev->lock);
    chardev->connected = false;
    if (chardev->is_pty && !chardev->timer_armed) {
        chardev_arm(chardev, CHARDEV_PTY_POLL_NS);
    }
    pthread_mutex_unlock(&chardev->lock);
    chardev_drop(chardev);
}

/* Writes what waits. False: the descriptor takes no more now. */
static bool chardev_drain(struct chardev *chardev)
{
    for (;;) {
        const uint8_t *bytes;
        uint32_t count = chardev_waiting(chardev, &bytes);
        if (count == 0) {
            return true;
        }
        count = chardev->is_datagram && count > CHARDEV_DATAGRAM_MAX ? CHARDEV_DATAGRAM_MAX : count;
        ssize_t written = write(chardev->out.fd, bytes, count);
        if (written < 0 && errno == EINTR) {
            continue;
        }
        if (written < 0 && errno == EAGAIN) {
            return false;
        }
        if (written < 0 && chardev->is_datagram) {
            written = (ssize_t)count; /* nobody listens there now */
        }
        if (written < 0) {
            chardev_disconnect(chardev);
            return true;
        }
        chardev_done(chardev, bytes, (uint32_t)written);
    }
}

void chardev_tell_open(struct chardev *chardev, bool open)
{
    bool news = chardev->announced != open;
    chardev->announced = open;
    if (news && chardev->opened != NULL) {
        chardev->opened(chardev->opened_opaque, open);
    }
    for (unsigned i = 0; i < chardev->front_count; i++) {
        chardev_tell_open(chardev->fronts[i], open);
    }
}

/* ---- Descriptors that come with bytes ---- */

static void chardev_keep_fd(struct chardev *chardev, int fd)
{
    if (chardev->received_fd >= 0) {
        close(chardev->received_fd);
    }
    chardev->received_fd = fd;
}

int chardev_take_fd(struct chardev *chardev)
{
    chardev = chardev_base(chardev);
    int fd = chardev->received_fd;
    chardev->received_fd = -1;
    return fd;
}

static ssize_t chardev_receive(struct chardev *chardev, uint8_t *bytes, size_t room)
{
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(CHARDEV_FDS_MAX * sizeof(int))];
    struct iovec iov = {.iov_base = bytes, .iov_len = room};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
    ssize_t got = recvmsg(chardev->in.fd, &message, MSG_CMSG_CLOEXEC);
    for (struct cmsghdr *header = got >= 0 ? CMSG_FIRSTHDR(&message) : NULL; header != NULL; header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
            for (size_t at = CMSG_LEN(0); at + sizeof(int) <= header->cmsg_len; at += sizeof(int)) {
                int fd;
                memcpy(&fd, (const char *)header + at, sizeof(fd));
                chardev_keep_fd(chardev, fd);
            }
        }
    }
    return got;
}

static void chardev_drop_end(struct chardev *chardev)
{
    if (chardev->is_pty) {
        loop_remove(chardev->loop, &chardev->in);
        pthread_mutex_lock(&chardev->lock);
        chardev->rx_stopped = true;
        pthread_mutex_unlock(&chardev->lock);
        chardev_disconnect(chardev);
    } else if (chardev->config.kind->takes & TAKES_SOCKET) {
        chardev_stop(chardev);
        chardev_socket_gone(chardev);
    } else if (chardev->in.fd >= 0) {
        loop_remove(chardev->loop, &chardev->in);
        close(chardev->in.fd);
        chardev->in.fd = -1;
    }
}

static void chardev_ended(struct chardev *chardev)
{
    chardev_keep_fd(chardev, -1);
    chardev_drop_end(chardev);
    chardev_tell_open(chardev, false);
}

void chardev_hang_up(struct chardev *chardev)
{
    chardev = chardev_base(chardev);
    if (chardev->announced && chardev->in.fd >= 0) {
        chardev_service(chardev); /* what waits may still go */
        chardev_ended(chardev);
    }
}

/* Reads once. The filter (escape keys) sees the bytes even where the guest takes none. */
static void chardev_fill(struct chardev *chardev)
{
    uint8_t bytes[4096];
    size_t room = chardev_read_room(chardev);
    pthread_mutex_lock(&chardev->lock);
    chardev->rx_stopped = room == 0 || chardev->in_regular;
    pthread_mutex_unlock(&chardev->lock);
    if (room == 0) {
        if (!chardev->in_regular) {
            loop_watch(chardev->loop, &chardev->in, 0);
        }
        return;
    }
    room = room < sizeof(bytes) ? room : sizeof(bytes);
    ssize_t got = chardev->is_socket ? chardev_receive(chardev, bytes, room) : read(chardev->in.fd, bytes, room);
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) {
        return;
    }
    if (got <= 0 && !chardev->is_datagram) {
        chardev_ended(chardev);
        return;
    }
    size_t count = got > 0 ? (size_t)got : 0;
    if (chardev->telnet != TELNET_OFF) {
        chardev_telnet_filter(chardev, bytes, &count);
    }
    struct chardev *reader = NULL;
    for (size_t i = 0; i < count; i++) {
        if (chardev->filter != NULL && !chardev->filter(chardev->filter_opaque, bytes[i])) {
            continue;
        }
        if (reader != NULL && reader != chardev_reader(chardev)) {
            chardev_tell(reader);
        }
        reader = chardev_reader(chardev);
        chardev_push(reader, bytes[i]);
    }
    if (reader != NULL) {
        chardev_tell(reader);
    }
}

static void chardev_in_ready(void *opaque, uint32_t events)
{
    struct chardev *chardev = opaque;
    if ((events & EPOLLIN) != 0) {
        chardev_fill(chardev);
    } else if ((events & (EPOLLHUP | EPOLLERR)) != 0) {
        chardev_ended(chardev);
    }
}

/* Somebody at the pty? The kernel says so only when asked. */
static void chardev_pty_check(struct chardev *chardev)
{
    struct pollfd poll_fd = {.fd = chardev->in.fd, .events = POLLIN};
    if (poll(&poll_fd, 1, 0) < 0 || (poll_fd.revents & POLLHUP) != 0) {
        chardev_disconnect(chardev); /* arms the next look */
        return;
    }
    pthread_mutex_lock(&chardev->lock);
    chardev->connected = true;
    chardev->rx_stopped = false;
    pthread_mutex_unlock(&chardev->lock);
    loop_add(chardev->loop, &chardev->in, EPOLLIN);
    chardev_tell_open(chardev, true);
}

/* Time to move bytes: everything that any side may be waiting for. */
static void chardev_service(struct chardev *chardev)
{
    pthread_mutex_lock(&chardev->lock);
    chardev->timer_armed = false;
    bool connected = chardev->connected;
    bool restart = chardev->rx_stopped;
    pthread_mutex_unlock(&chardev->lock);
    bool rx_empty = chardev_read_room(chardev) == CHARDEV_RING_BYTES;

    if (!connected) {
        chardev_drop(chardev);
    }

    if (chardev->is_pty && !connected) {
        chardev_pty_check(chardev);
        return;
    }
    if (restart && chardev->in.fd >= 0) {
        if (!chardev->in_regular) {
            loop_watch(chardev->loop, &chardev->in, EPOLLIN);
            pthread_mutex_lock(&chardev->lock);
            chardev->rx_stopped = false;
            pthread_mutex_unlock(&chardev->lock);
        } else if (rx_empty) {
            chardev_fill(chardev);
        }
    }
    if (connected && !chardev->out_waits && !chardev_drain(chardev)) {
        chardev->out_waits = loop_add(chardev->loop, &chardev->out, EPOLLOUT) == 0;
    }
    pthread_mutex_lock(&chardev->lock);
    bool unblocked = chardev->tx_blocked && chardev_ring_count(&chardev->tx) < CHARDEV_RING_BYTES;
    chardev->tx_blocked = chardev->tx_blocked && !unblocked;
    pthread_mutex_unlock(&chardev->lock);
    if (unblocked) {
        chardev_tell_room(chardev);
    }
}

static void chardev_timer_ready(void *opaque, uint32_t events)
{
    struct chardev *chardev = opaque;
    uint64_t expirations;
    (void)events;
    if (read(chardev->timer.fd, &expirations, sizeof(expirations)) == sizeof(expirations)) {
        chardev_service(chardev);
    }
}

static void chardev_out_ready(void *opaque, uint32_t events)
{
    struct chardev *chardev = opaque;
    (void)events;
    loop_remove(chardev->loop, &chardev->out);
    chardev->out_waits = false;
    chardev_service(chardev);
}

int chardev_start(struct chardev *chardev)
{
    chardev->in.ready = chardev_in_ready;
    chardev->in.opaque = chardev;
    chardev->out.ready = chardev_out_ready;
    chardev->out.opaque = chardev;
    pthread_mutex_lock(&chardev->lock);
    chardev->connected = chardev->out.fd >= 0;
    chardev->rx_stopped = false;
    pthread_mutex_unlock(&chardev->lock);
    if (chardev->in.fd < 0) {
        chardev_tell_open(chardev, true);
        return 0;
    }
    int result = loop_add(chardev->loop, &chardev->in, EPOLLIN);
    if (result == 0) {
        chardev_tell_open(chardev, true);
    }
    if (result != -EPERM) {
        return result;
    }
    pthread_mutex_lock(&chardev->lock);
    chardev->in_regular = true;
    chardev->rx_stopped = true;
    chardev_arm(chardev, CHARDEV_GATHER_NS);
    pthread_mutex_unlock(&chardev->lock);
    return 0;
}

void chardev_stop(struct chardev *chardev)
{
    pthread_mutex_lock(&chardev->lock);
    chardev->connected = false;
    chardev->doubles_iac = false;
    pthread_mutex_unlock(&chardev->lock);
    chardev_drop(chardev);
    if (chardev->in.fd >= 0) {
        loop_remove(chardev->loop, &chardev->in);
        close(chardev->in.fd);
        chardev->in.fd = -1;
    }
    if (chardev->out.fd >= 0) {
        if (chardev->out_waits) {
            loop_remove(chardev->loop, &chardev->out);
            chardev->out_waits = false;
        }
        close(chardev->out.fd);
        chardev->out.fd = -1;
    }
}

/* ---- Life ---- */

bool chardev_spec_valid(const char *spec)
{
    struct chardev_config config;
    struct error error;
    return chardev_config_parse(&config, spec, &error) == 0;
}

bool chardev_spec_is_stdio(const char *spec)
{
    struct chardev_config config;
    struct error error;
    return chardev_config_parse(&config, spec, &error) == 0 && chardev_config_is_stdio(&config);
}

static int chardev_open_log(struct chardev *chardev, struct error *error)
{
    const struct chardev_config *config = &chardev->config;
    if (config->logfile[0] != '\0') {
        chardev->log_fd = fdset_open(config->logfile, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY | (config->logappend ? O_APPEND : O_TRUNC), 0666);
        if (chardev->log_fd < 0) {
            return error_set(error, "Unable to open logfile %s: %s", config->logfile, strerror(errno));
        }
    }
    return 0;
}

static struct chardev *chardev_alloc(const struct chardev_config *config, struct loop *loop)
{
    struct chardev *chardev = calloc(1, sizeof(*chardev));
    if (chardev != NULL) {
        chardev->config = *config;
        chardev->loop = loop;
        pthread_mutex_init(&chardev->lock, NULL);
        chardev->in.fd = chardev->out.fd = chardev->listen.fd = chardev->received_fd = chardev->log_fd = -1;
        chardev->timer.fd = chardev->retry.fd = chardev->connecting.fd = -1;
        snprintf(chardev->filename, sizeof(chardev->filename), "%s", config->kind->name);
    }
    return chardev;
}

struct chardev *chardev_open(const struct chardev_config *config, struct loop *loop, struct error *error)
{
    struct chardev *chardev = chardev_alloc(config, loop);
    if (chardev == NULL) {
        error_set(error, "out of memory");
        return NULL;
    }
    chardev->timer = (struct loop_source){
        .fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC), .ready = chardev_timer_ready, .opaque = chardev};
    int result = chardev->timer.fd < 0 ? -errno : loop_add(loop, &chardev->timer, EPOLLIN);
    if (result != 0) {
        error_set(error, "chardev: %s: %s", config->id, strerror(-result));
    } else if (chardev_open_log(chardev, error) == 0 && config->kind->open(chardev, error) == 0) {
        return chardev;
    }
    chardev_free(chardev);
    return NULL;
}

struct chardev *chardev_new(const char *option, const char *spec, struct loop *loop, struct error *error)
{
    struct chardev_config config;
    struct chardev *chardev = NULL;
    if (chardev_config_parse(&config, spec, error) == 0) {
        snprintf(config.id, sizeof(config.id), "%s", option + (option[0] == '-'));
        chardev = chardev_open(&config, loop, error);
    }
    if (chardev == NULL) {
        error_prepend(error, "%s: ", option);
    } else {
        chardev->claimed = true;
    }
    return chardev;
}

/* A mux's front end. Its lock, callbacks and `rx` are used, and nothing else. */
static struct chardev *chardev_add_front(struct chardev *base)
{
    struct chardev *front = chardev_alloc(&base->config, base->loop);
    if (front != NULL) {
        front->base = base;
        front->announced = base->announced;
        front->claimed = true;
        base->fronts[base->front_count++] = front;
    }
    return front;
}

struct chardev *chardev_claim(struct chardev *backend, struct error *error)
{
    if (!backend->config.mux) {
        if (backend->claimed) {
            error_set(error, "Device '%s' is in use", backend->config.id);
            return NULL;
        }
        backend->claimed = true;
        return backend;
    }
    for (unsigned i = 0; i < backend->front_count; i++) {
        if (!backend->fronts[i]->claimed) {
            backend->fronts[i]->claimed = true;
            return backend->fronts[i];
        }
    }
    struct chardev *front = backend->front_count < CHARDEV_FRONTS_MAX ? chardev_add_front(backend) : NULL;
    if (front == NULL) {
        error_set(error, "too many uses of multiplexed chardev '%s' (maximum is %u)", backend->config.id, CHARDEV_FRONTS_MAX);
    }
    return front;
}

void chardev_release(struct chardev *front)
{
    if (front != NULL) {
        front->claimed = false;
        chardev_attach(front, NULL, NULL);
        chardev_on_open(front, NULL, NULL);
        chardev_on_focus(front, NULL, NULL);
    }
}

bool chardev_is_claimed(const struct chardev *backend)
{
    bool claimed = backend->claimed;
    for (unsigned i = 0; i < backend->front_count; i++) {
        claimed = claimed || backend->fronts[i]->claimed;
    }
    return claimed;
}

static void chardev_drain_last(struct chardev *chardev)
{
    struct pollfd poll_fd = {.fd = chardev->out.fd, .events = POLLOUT};
    while (chardev->out.fd >= 0 && chardev->connected && !chardev_drain(chardev)) {
        if (poll(&poll_fd, 1, CHARDEV_DRAIN_MS) <= 0) {
            return;
        }
    }
}

void chardev_free(struct chardev *chardev)
{
    if (chardev == NULL) {
        return;
    }
    for (unsigned i = 0; i < chardev->front_count; i++) {
        pthread_mutex_destroy(&chardev->fronts[i]->lock);
        free(chardev->fronts[i]);
    }
    chardev->front_count = 0;
    chardev_drain_last(chardev);
    chardev_stop(chardev);
    chardev_keep_fd(chardev, -1);
    chardev_socket_fini(chardev);
    if (chardev->log_fd >= 0) {
        close(chardev->log_fd);
    }
    free(chardev->ringbuf);
    if (chardev->timer.fd >= 0) {
        loop_remove(chardev->loop, &chardev->timer);
        close(chardev->timer.fd);
    }
    pthread_mutex_destroy(&chardev->lock);
    free(chardev);
}

void chardev_attach(struct chardev *chardev, chardev_notify_fn *notify, void *opaque)
{
    chardev->notify = notify;
    chardev->notify_opaque = opaque;
}

void chardev_on_open(struct chardev *chardev, chardev_open_fn *opened, void *opaque)
{
    chardev->opened = opened;
    chardev->opened_opaque = opaque;
}

bool chardev_is_open(const struct chardev *chardev)
{
    return chardev->announced;
}

void chardev_set_filter(struct chardev *backend, chardev_filter_fn *filter, void *opaque)
{
    backend->filter = filter;
    backend->filter_opaque = opaque;
}

const char *chardev_id(const struct chardev *chardev)
{
    return chardev->config.id;
}

const char *chardev_filename(const struct chardev *chardev)
{
    return chardev->base != NULL ? chardev->base->filename : chardev->filename;
}

bool chardev_is_mux(const struct chardev *chardev)
{
    return chardev->config.mux;
}

/* ---- The focus of a mux ---- */

struct chardev *chardev_reader(struct chardev *chardev)
{
    return chardev->front_count == 0 ? chardev : chardev->fronts[chardev->focus];
}

bool chardev_has_focus(const struct chardev *chardev)
{
    return chardev->base == NULL || chardev->base->fronts[chardev->base->focus] == chardev;
}

void chardev_on_focus(struct chardev *chardev, chardev_focus_fn *focused, void *opaque)
{
    chardev->focused = focused;
    chardev->focused_opaque = opaque;
}

static void chardev_tell_focus(struct chardev *front, bool focus)
{
    if (front->focused != NULL) {
        front->focused(front->focused_opaque, focus);
    }
}

bool chardev_focus_next(struct chardev *backend)
{
    struct chardev *base = chardev_base(backend);
    unsigned before = base->focus;
    for (unsigned step = 1; step < base->front_count; step++) {
        unsigned next = (before + step) % base->front_count;
        if (base->fronts[next]->claimed) {
            chardev_tell_focus(base->fronts[before], false);
            base->focus = next;
            chardev_tell_focus(base->fronts[next], true);
            return true;
        }
    }
    return false;
}
