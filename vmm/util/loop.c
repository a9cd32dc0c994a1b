/* SPDX-License-Identifier: MIT */
/*
 * The main loop over epoll(7). One event is served per wait, so that a callback may remove any source
 * without leaving a stale event behind.
 */
#include "util/loop.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

static void loop_wake_ready(void *opaque, uint32_t events)
{
    struct loop *loop = opaque;
    uint64_t count;
    (void)events;
    ssize_t got = read(loop->wake.fd, &count, sizeof(count));
    (void)got; /* an empty eventfd only says that somebody else has seen the wake-up */
}

int loop_init(struct loop *loop)
{
    atomic_init(&loop->stopped, false);
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (loop->epoll_fd < 0) {
        return -errno;
    }
    loop->wake = (struct loop_source){.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .ready = loop_wake_ready, .opaque = loop};
    int result = loop->wake.fd < 0 ? -errno : loop_add(loop, &loop->wake, EPOLLIN);
    if (result != 0) {
        loop_fini(loop);
    }
    return result;
}

void loop_fini(struct loop *loop)
{
    if (loop->wake.fd >= 0) {
        close(loop->wake.fd);
        loop->wake.fd = -1;
    }
    close(loop->epoll_fd);
    loop->epoll_fd = -1;
}

int loop_add(struct loop *loop, struct loop_source *source, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = source};
    return epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, source->fd, &event) == 0 ? 0 : -errno;
}

void loop_watch(struct loop *loop, struct loop_source *source, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = source};
    epoll_ctl(loop->epoll_fd, EPOLL_CTL_MOD, source->fd, &event);
}

void loop_remove(struct loop *loop, struct loop_source *source)
{
    epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, source->fd, NULL);
}

int loop_run(struct loop *loop)
{
    while (!atomic_exchange(&loop->stopped, false)) {
        struct epoll_event event;
        int count = epoll_wait(loop->epoll_fd, &event, 1, -1);
        if (count < 0 && errno != EINTR) {
            return -errno;
        }
        if (count == 1) {
            struct loop_source *source = event.data.ptr;
            source->ready(source->opaque, event.events);
        }
    }
    return 0;
}

void loop_stop(struct loop *loop)
{
    uint64_t one = 1;
    atomic_store(&loop->stopped, true);
    ssize_t put = write(loop->wake.fd, &one, sizeof(one));
    (void)put; /* a full eventfd is a pending wake-up already */
}
