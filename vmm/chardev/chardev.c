/* SPDX-License-Identifier: MIT */
/*
 * Moves bytes between rings and descriptors. The rings are the frontend's side (any thread, under the
 * lock); the descriptors are the loop's side (its thread only, never under the lock). The
 * two meet in the timer: a writer that finds the ring empty arms it, and its expiry empties the ring.
 */
#include "chardev/internal.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define CHARDEV_GATHER_NS 1000000l      /* how long written bytes wait for company */
#define CHARDEV_PTY_POLL_NS 200000000l  /* how often to look for somebody at a pty's other end */
#define CHARDEV_DRAIN_MS 1000           /* how long the last bytes may take */
#define CHARDEV_FDS_MAX 16u             /* descriptors in one message */

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

bool chardev_write(struct chardev *chardev, uint8_t byte)
{
    bool room = true;
    pthread_mutex_lock(&chardev->lock);
    if (chardev->connected) {
        struct chardev_ring *ring = &chardev->tx;
        room = chardev_ring_count(ring) < CHARDEV_RING_BYTES;
        if (room) {
            ring->bytes[ring->put++ % CHARDEV_RING_BYTES] = byte;
        } else {
            chardev->tx_blocked = true;
        }
        if (!chardev->timer_armed) {
            chardev_arm(chardev, CHARDEV_GATHER_NS);
        }
    }
    pthread_mutex_unlock(&chardev->lock);
    return room;
}

size_t chardev_write_bytes(struct chardev *chardev, const uint8_t *bytes, size_t count)
{
    size_t taken = count;
    pthread_mutex_lock(&chardev->lock);
    if (chardev->connected) {
        struct chardev_ring *ring = &chardev->tx;
        for (taken = 0; taken < count && chardev_ring_count(ring) < CHARDEV_RING_BYTES; taken++) {
            ring->bytes[ring->put++ % CHARDEV_RING_BYTES] = bytes[taken];
        }
        chardev->tx_blocked = chardev->tx_blocked || taken < count;
        if (!chardev->timer_armed) {
            chardev_arm(chardev, CHARDEV_GATHER_NS);
        }
    }
    pthread_mutex_unlock(&chardev->lock);
    return taken;
}

size_t chardev_read(struct chardev *chardev, uint8_t *bytes, size_t room)
{
    size_t count = 0;
    pthread_mutex_lock(&chardev->lock);
    struct chardev_ring *ring = &chardev->rx;
    while (count < room && chardev_ring_count(ring) != 0) {
        bytes[count++] = ring->bytes[ring->get++ % CHARDEV_RING_BYTES];
    }
    if (count != 0 && chardev->rx_stopped && !chardev->timer_armed) {
        chardev_arm(chardev, 1);
    }
    pthread_mutex_unlock(&chardev->lock);
    return count;
}

/* The other end has gone, or was never there: nothing to write to until somebody connects. */
static void chardev_disconnect(struct chardev *chardev)
{
    pthread_mutex_lock(&chardev->lock);
    chardev->connected = false;
    chardev->tx.get = chardev->tx.put;
    if (chardev->is_pty && !chardev->timer_armed) {
        chardev_arm(chardev, CHARDEV_PTY_POLL_NS);
    }
    pthread_mutex_unlock(&chardev->lock);
}

/* Writes what waits. False: the descriptor takes no more now. */
static bool chardev_drain(struct chardev *chardev)
{
    for (;;) {
        const uint8_t *bytes;
        pthread_mutex_lock(&chardev->lock);
        uint32_t count = chardev_ring_peek(&chardev->tx, &bytes);
        pthread_mutex_unlock(&chardev->lock);
        if (count == 0) {
            return true;
        }
        /* Writers only append, so these bytes stay put without the lock. */
        ssize_t written = write(chardev->out.fd, bytes, count);
        if (written < 0 && errno == EINTR) {
            continue;
        }
        if (written < 0 && errno == EAGAIN) {
            return false;
        }
        if (written < 0) {
            chardev_disconnect(chardev);
            return true;
        }
        pthread_mutex_lock(&chardev->lock);
        chardev->tx.get += (uint32_t)written;
        pthread_mutex_unlock(&chardev->lock);
    }
}

static void chardev_tell_open(struct chardev *chardev, bool open)
{
    bool news = chardev->announced != open;
    chardev->announced = open;
    if (news && chardev->opened != NULL) {
        chardev->opened(chardev->opened_opaque, open);
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
    } else if (chardev->listen.fd >= 0) {
        chardev_stop(chardev);
        loop_add(chardev->loop, &chardev->listen, EPOLLIN);
    } else if (chardev->in.fd >= 0) {
        loop_remove(chardev->loop, &chardev->in);
        close(chardev->in.fd);
        chardev->in.fd = -1;
    }
}

static void chardev_hang_up(struct chardev *chardev)
{
    chardev_keep_fd(chardev, -1);
    chardev_drop_end(chardev);
    chardev_tell_open(chardev, false);
}

/* Reads once. The filter (escape keys) sees the bytes even where the guest takes none. */
static void chardev_fill(struct chardev *chardev)
{
    uint8_t bytes[4096];
    pthread_mutex_lock(&chardev->lock);
    size_t room = CHARDEV_RING_BYTES - chardev_ring_count(&chardev->rx);
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
    if (got <= 0) {
        chardev_hang_up(chardev);
        return;
    }
    size_t count = (size_t)got;
    if (chardev->filter != NULL) {
        chardev->filter(chardev->filter_opaque, bytes, &count);
    }
    pthread_mutex_lock(&chardev->lock);
    struct chardev_ring *ring = &chardev->rx;
    for (size_t i = 0; i < count; i++) {
        ring->bytes[ring->put++ % CHARDEV_RING_BYTES] = bytes[i];
    }
    pthread_mutex_unlock(&chardev->lock);
    chardev_tell(chardev);
}

static void chardev_in_ready(void *opaque, uint32_t events)
{
    struct chardev *chardev = opaque;
    if ((events & EPOLLIN) != 0) {
        chardev_fill(chardev);
    } else if ((events & (EPOLLHUP | EPOLLERR)) != 0) {
        chardev_hang_up(chardev);
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
    bool rx_empty = chardev_ring_count(&chardev->rx) == 0;
    pthread_mutex_unlock(&chardev->lock);

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
        chardev_tell(chardev);
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
    chardev->tx.get = chardev->tx.put;
    pthread_mutex_unlock(&chardev->lock);
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

/* The kind that `spec` names, and the argument behind it. */
static const struct chardev_kind *chardev_kind_find(const char *spec, const char **argument)
{
    for (unsigned i = 0; i < chardev_kind_count; i++) {
        const struct chardev_kind *kind = &chardev_kinds[i];
        size_t length = strlen(kind->spec);
        bool takes = kind->spec[length - 1] == ':' && strcmp(kind->spec, "mon:stdio") != 0;
        if (strncmp(spec, kind->spec, length) == 0 && (takes ? spec[length] != '\0' : spec[length] == '\0')) {
            *argument = spec + length;
            return kind;
        }
    }
    return NULL;
}

bool chardev_spec_valid(const char *spec)
{
    const char *argument;
    return chardev_kind_find(spec, &argument) != NULL;
}

bool chardev_spec_is_stdio(const char *spec)
{
    const char *argument;
    const struct chardev_kind *kind = chardev_kind_find(spec, &argument);
    return kind != NULL && kind->terminal;
}

struct chardev *chardev_new(const char *option, const char *spec, struct loop *loop, struct error *error)
{
    const char *argument;
    const struct chardev_kind *kind = chardev_kind_find(spec, &argument);
    if (kind == NULL) {
        error_set(error, "%s %s: no such backend; try stdio, mon:stdio, null, none, file:PATH, pty or unix:PATH", option, spec);
        return NULL;
    }
    struct chardev *chardev = calloc(1, sizeof(*chardev));
    if (chardev == NULL) {
        error_set(error, "%s %s: out of memory", option, spec);
        return NULL;
    }
    pthread_mutex_init(&chardev->lock, NULL);
    chardev->kind = kind;
    chardev->option = option;
    chardev->loop = loop;
    chardev->in.fd = chardev->out.fd = chardev->listen.fd = chardev->received_fd = -1;
    chardev->timer = (struct loop_source){
        .fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC), .ready = chardev_timer_ready, .opaque = chardev};
    int result = chardev->timer.fd < 0 ? -errno : loop_add(loop, &chardev->timer, EPOLLIN);
    if (result != 0) {
        error_set(error, "%s %s: %s", option, spec, strerror(-result));
        chardev_free(chardev);
        return NULL;
    }
    if (kind->open(chardev, argument, error) != 0) {
        chardev_free(chardev);
        return NULL;
    }
    return chardev;
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
    chardev_drain_last(chardev);
    chardev_stop(chardev);
    chardev_keep_fd(chardev, -1);
    if (chardev->listen.fd >= 0) {
        loop_remove(chardev->loop, &chardev->listen);
        close(chardev->listen.fd);
        unlink(chardev->unlink_path);
    }
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

void chardev_set_filter(struct chardev *chardev, chardev_filter_fn *filter, void *opaque)
{
    chardev->filter = filter;
    chardev->filter_opaque = opaque;
}
