/* SPDX-License-Identifier: MIT */
/* The queue of events: a list under a lock, and an eventfd that says that it is not empty. */
#include "util/event.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

static atomic_bool event_heard;
static pthread_mutex_t event_lock = PTHREAD_MUTEX_INITIALIZER; /* of what follows; innermost */
static struct event *event_first, **event_last = &event_first;
static unsigned event_count;
static int event_fd = -1;

static void event_signal(int fd)
{
    uint64_t one = 1;
    ssize_t written = write(fd, &one, sizeof(one)); /* EAGAIN: it is readable already */
    (void)written;
}

void event_emit(const char *name, json_t *data)
{
    struct timespec now;
    struct event *event = atomic_load(&event_heard) ? malloc(sizeof(*event)) : NULL;
    if (event == NULL) {
        json_decref(data);
        return;
    }
    clock_gettime(CLOCK_REALTIME, &now);
    *event = (struct event){.name = name, .data = data, .time_us = (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000};
    pthread_mutex_lock(&event_lock);
    bool kept = event_fd >= 0 && event_count < EVENT_QUEUE_MAX;
    if (kept) {
        *event_last = event;
        event_last = &event->next;
        event_count++;
        event_signal(event_fd);
    }
    pthread_mutex_unlock(&event_lock);
    if (!kept) {
        event_free(event);
    }
}

void event_emitf(const char *name, const char *format, ...)
{
    if (!atomic_load(&event_heard)) {
        return;
    }
    json_t *data = NULL;
    if (format != NULL) {
        va_list arguments;
        va_start(arguments, format);
        data = json_vpack_ex(NULL, 0, format, arguments);
        va_end(arguments);
    }
    event_emit(name, data);
}

int event_listen(void)
{
    pthread_mutex_lock(&event_lock);
    if (event_fd < 0) {
        event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    }
    int result = event_fd < 0 ? -errno : event_fd;
    atomic_store(&event_heard, event_fd >= 0);
    pthread_mutex_unlock(&event_lock);
    return result;
}

void event_unlisten(void)
{
    atomic_store(&event_heard, false);
    struct event *event;
    while ((event = event_take()) != NULL) {
        event_free(event);
    }
    pthread_mutex_lock(&event_lock);
    if (event_fd >= 0) {
        close(event_fd);
        event_fd = -1;
    }
    pthread_mutex_unlock(&event_lock);
}

struct event *event_take(void)
{
    pthread_mutex_lock(&event_lock);
    struct event *event = event_first;
    if (event != NULL) {
        event_first = event->next;
        event_count--;
        if (event_first == NULL) {
            event_last = &event_first;
        }
    } else if (event_fd >= 0) {
        uint64_t count;
        ssize_t got = read(event_fd, &count, sizeof(count));
        (void)got;
    }
    pthread_mutex_unlock(&event_lock);
    return event;
}

void event_free(struct event *event)
{
    if (event != NULL) {
        json_decref(event->data);
        free(event);
    }
}
