/* SPDX-License-Identifier: MIT */
#include "display/seat.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

static void seat_changed(void *opaque, uint32_t events)
{
    struct input_seat *seat = opaque;
    uint64_t count;
    (void)events;
    if (read(seat->changed.fd, &count, sizeof(count)) != sizeof(count)) {
        return;
    }
    bool wanted = atomic_load(&seat->wanted);
    if (wanted != seat->first) {
        seat->first = wanted;
        input_activate(seat->hub, &seat->sink, wanted);
    }
}

int input_seat_init(struct input_seat *seat, struct input_hub *hub, struct loop *loop)
{
    seat->hub = hub;
    seat->loop = loop;
    seat->first = false;
    atomic_init(&seat->wanted, false);
    seat->changed = (struct loop_source){.fd = -1, .ready = seat_changed, .opaque = seat};
    if (hub == NULL) {
        return 0;
    }
    seat->changed.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int result = seat->changed.fd < 0 ? -errno : loop_add(loop, &seat->changed, EPOLLIN);
    if (result != 0) {
        if (seat->changed.fd >= 0) {
            close(seat->changed.fd);
        }
        seat->changed.fd = -1;
        seat->hub = NULL;
        return result;
    }
    input_add(hub, &seat->sink);
    return 0;
}

void input_seat_fini(struct input_seat *seat)
{
    if (seat->hub != NULL) {
        input_remove(seat->hub, &seat->sink);
        loop_remove(seat->loop, &seat->changed);
        close(seat->changed.fd);
        seat->hub = NULL;
    }
}

void input_seat_use(struct input_seat *seat, bool used)
{
    if (seat->hub != NULL && atomic_exchange(&seat->wanted, used) != used) {
        uint64_t one = 1;
        ssize_t put = write(seat->changed.fd, &one, sizeof(one));
        (void)put; /* fails only where it is readable already */
    }
}
