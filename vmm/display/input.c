/* SPDX-License-Identifier: MIT */
/*
 * A ring of events between producers of any thread and the loop's, which hands them out. A pause (of input_press()) stops the handing out, so
 * that what was sent later comes later. Room is kept for the releases of all that is down.
 */
#include "display/input.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define KEYS_MAX 0x300u /* Linux' KEY_CNT */
#define PAUSES_MAX 64u  /* more in the ring at one time are not kept */

/* In the ring only. */
enum { ENTRY_SYNC = INPUT_KINDS, ENTRY_PAUSE };

struct input_entry {
    uint16_t kind, code;
    int32_t value; /* ENTRY_PAUSE: milliseconds */
};

struct input_hub {
    struct loop *loop;
    struct loop_source timer; /* due at once where the ring has something, at its end during a pause */
    struct input_sink *sinks; /* the loop's thread alone; the first one that takes a kind of events gets them */

    pthread_mutex_t lock; /* of all that follows; inside of any producer's lock, not held in sinks' callbacks */
    unsigned first, count, pauses;
    struct input_entry ring[INPUT_QUEUE];
    unsigned down_count; /* keys and buttons that are down at the ring's end */
    bool down[KEYS_MAX], buttons[INPUT_BUTTONS];
    bool pausing, running;
    unsigned takes[INPUT_KINDS]; /* sinks that take each kind */
    bool absolute;
    unsigned leds;

    /* The loop's thread alone: what the sinks have been told is down, and which sink was. */
    struct input_sink *key_owner[KEYS_MAX], *button_owner[INPUT_BUTTONS];
};

/* ---- The ring; lock held ---- */

static void input_wake(struct input_hub *hub, unsigned ms)
{
    struct itimerspec when = {.it_value = {.tv_sec = ms / 1000, .tv_nsec = ms != 0 ? (long)(ms % 1000) * 1000000 : 1}};
    timerfd_settime(hub->timer.fd, 0, &when, NULL);
}

/* `reserve`: entries that must stay free behind it. False: dropped. */
static bool input_put(struct input_hub *hub, unsigned kind, unsigned code, int value, unsigned reserve)
{
    if (hub->count + reserve >= INPUT_QUEUE) {
        return false;
    }
    hub->ring[(hub->first + hub->count++) % INPUT_QUEUE] = (struct input_entry){.kind = (uint16_t)kind, .code = (uint16_t)code, .value = value};
    if (!hub->pausing) {
        input_wake(hub, 0);
    }
    return true;
}

/* Each key or button that is down has two entries kept for it: its release, and a sync. */
static bool input_put_state(struct input_hub *hub, unsigned kind, unsigned code, bool down)
{
    bool *state = kind == INPUT_KEY ? &hub->down[code] : &hub->buttons[code];
    bool held = *state;
    if (!down && !held) {
        return false;
    }
    unsigned reserve = 2 * (hub->down_count + (down && !held ? 1 : 0) - (down ? 0 : 1)) + 1;
    if (!input_put(hub, kind, code, down ? 1 : 0, reserve)) {
        return false;
    }
    hub->down_count = hub->down_count + (down && !held) - (!down && held);
    *state = down;
    return true;
}

static void input_put_any(struct input_hub *hub, enum input_kind kind, unsigned code, int value)
{
    unsigned reserve = 2 * hub->down_count + 1;
    if (kind == INPUT_KEY || kind == INPUT_BUTTON) {
        if (code < (kind == INPUT_KEY ? KEYS_MAX : INPUT_BUTTONS)) {
            input_put_state(hub, kind, code, value != 0);
        }
    } else if (code <= INPUT_AXIS_Y) {
        int value_max = INPUT_ABS_MAX, value_min = kind == INPUT_ABS ? 0 : -INPUT_ABS_MAX;
        input_put(hub, kind, code, value > value_max ? value_max : value < value_min ? value_min : value, reserve);
    }
}

/* ---- Handing out, on the loop's thread ---- */

static struct input_sink *input_find(const struct input_hub *hub, enum input_kind kind)
{
    struct input_sink *sink = hub->sinks;
    while (sink != NULL && (sink->takes & INPUT_TAKES(kind)) == 0) {
        sink = sink->next;
    }
    return sink;
}

/* A pointer's buttons go where its movements go; a release to who knows of the press. */
static struct input_sink *input_target(struct input_hub *hub, const struct input_event *event)
{
    bool state = event->kind == INPUT_KEY || event->kind == INPUT_BUTTON;
    if (!state) {
        return input_find(hub, event->kind);
    }
    struct input_sink **owner = event->kind == INPUT_KEY ? &hub->key_owner[event->code] : &hub->button_owner[event->code];
    struct input_sink *sink = *owner != NULL ? *owner : event->value != 0 ? input_find(hub, event->kind) : NULL;
    *owner = event->value != 0 ? sink : NULL;
    return sink;
}

static void input_sync_sinks(struct input_hub *hub)
{
    for (struct input_sink *sink = hub->sinks, *next; sink != NULL; sink = next) {
        next = sink->next;
        if (sink->pending) {
            sink->pending = false;
            if (sink->sync != NULL) {
                sink->sync(sink->opaque);
            }
        }
    }
}

static void input_hand_out(struct input_hub *hub, const struct input_entry *entry, bool running)
{
    if (entry->kind == ENTRY_SYNC) {
        input_sync_sinks(hub);
        return;
    }
    struct input_event event = {.kind = (enum input_kind)entry->kind, .code = entry->code, .value = entry->value};
    bool release = (event.kind == INPUT_KEY || event.kind == INPUT_BUTTON) && event.value == 0;
    struct input_sink *sink = running || release ? input_target(hub, &event) : NULL;
    if (sink != NULL) {
        sink->pending = true;
        sink->event(sink->opaque, &event);
    }
}

static void input_timer_ready(void *opaque, uint32_t events)
{
    struct input_hub *hub = opaque;
    uint64_t count;
    (void)events;
    if (read(hub->timer.fd, &count, sizeof(count)) != sizeof(count)) {
        return;
    }
    pthread_mutex_lock(&hub->lock);
    hub->pausing = false;
    /* What sinks do meanwhile may send more; that is for the next turn. */
    for (unsigned budget = hub->count; budget > 0 && hub->count > 0 && !hub->pausing; budget--) {
        struct input_entry entry = hub->ring[hub->first];
        bool running = hub->running;
        hub->first = (hub->first + 1) % INPUT_QUEUE;
        hub->count--;
        if (entry.kind == ENTRY_PAUSE) {
            hub->pauses--;
            hub->pausing = true;
            input_wake(hub, (unsigned)entry.value);
            break;
        }
        pthread_mutex_unlock(&hub->lock);
        input_hand_out(hub, &entry, running);
        pthread_mutex_lock(&hub->lock);
    }
    if (hub->count > 0 && !hub->pausing) {
        input_wake(hub, 0);
    }
    pthread_mutex_unlock(&hub->lock);
}

/* ---- Life ---- */

struct input_hub *input_hub_new(struct loop *loop, struct error *error)
{
    struct input_hub *hub = calloc(1, sizeof(*hub));
    if (hub == NULL) {
        error_set(error, "no memory for the input hub");
        return NULL;
    }
    hub->loop = loop;
    hub->running = true;
    hub->timer =
        (struct loop_source){.fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC), .ready = input_timer_ready, .opaque = hub};
    int result = hub->timer.fd < 0 ? -errno : loop_add(loop, &hub->timer, EPOLLIN);
    if (result != 0) {
        error_set(error, "the input hub's timer: %s", strerror(-result));
        if (hub->timer.fd >= 0) {
            close(hub->timer.fd);
        }
        free(hub);
        return NULL;
    }
    pthread_mutex_init(&hub->lock, NULL);
    return hub;
}

void input_hub_free(struct input_hub *hub)
{
    if (hub == NULL) {
        return;
    }
    loop_remove(hub->loop, &hub->timer);
    close(hub->timer.fd);
    pthread_mutex_destroy(&hub->lock);
    free(hub);
}

/* ---- Devices ---- */

/* What producers may ask of the sinks. */
static void input_count(struct input_hub *hub)
{
    unsigned takes[INPUT_KINDS] = {0};
    bool absolute = false, decided = false;
    for (const struct input_sink *sink = hub->sinks; sink != NULL; sink = sink->next) {
        for (unsigned kind = 0; kind < INPUT_KINDS; kind++) {
            takes[kind] += (sink->takes & INPUT_TAKES(kind)) != 0;
        }
        if (!decided && (sink->takes & (INPUT_TAKES(INPUT_ABS) | INPUT_TAKES(INPUT_REL))) != 0) {
            decided = true;
            absolute = (sink->takes & INPUT_TAKES(INPUT_ABS)) != 0;
        }
    }
    pthread_mutex_lock(&hub->lock);
    memcpy(hub->takes, takes, sizeof(takes));
    hub->absolute = absolute;
    pthread_mutex_unlock(&hub->lock);
}

static void input_unlink(struct input_hub *hub, struct input_sink *sink)
{
    for (struct input_sink **at = &hub->sinks; *at != NULL; at = &(*at)->next) {
        if (*at == sink) {
            *at = sink->next;
            break;
        }
    }
}

static void input_link(struct input_hub *hub, struct input_sink *sink, bool first)
{
    struct input_sink **at = &hub->sinks;
    while (!first && *at != NULL) {
        at = &(*at)->next;
    }
    sink->next = *at;
    *at = sink;
}

void input_add(struct input_hub *hub, struct input_sink *sink)
{
    sink->pending = false;
    input_link(hub, sink, false);
    input_count(hub);
}

void input_remove(struct input_hub *hub, struct input_sink *sink)
{
    input_unlink(hub, sink);
    for (unsigned i = 0; i < KEYS_MAX; i++) {
        hub->key_owner[i] = hub->key_owner[i] == sink ? NULL : hub->key_owner[i];
    }
    for (unsigned i = 0; i < INPUT_BUTTONS; i++) {
        hub->button_owner[i] = hub->button_owner[i] == sink ? NULL : hub->button_owner[i];
    }
    input_count(hub);
}

void input_activate(struct input_hub *hub, struct input_sink *sink, bool first)
{
    input_unlink(hub, sink);
    input_link(hub, sink, first);
    input_count(hub);
}

void input_set_leds(struct input_hub *hub, unsigned leds)
{
    pthread_mutex_lock(&hub->lock);
    hub->leds = leds;
    pthread_mutex_unlock(&hub->lock);
}

/* ---- Producers ---- */

unsigned input_leds(struct input_hub *hub)
{
    pthread_mutex_lock(&hub->lock);
    unsigned leds = hub->leds;
    pthread_mutex_unlock(&hub->lock);
    return leds;
}

void input_set_running(struct input_hub *hub, bool running)
{
    pthread_mutex_lock(&hub->lock);
    hub->running = running;
    pthread_mutex_unlock(&hub->lock);
}

bool input_is_absolute(struct input_hub *hub)
{
    pthread_mutex_lock(&hub->lock);
    bool absolute = hub->absolute;
    pthread_mutex_unlock(&hub->lock);
    return absolute;
}

bool input_takes(struct input_hub *hub, enum input_kind kind)
{
    pthread_mutex_lock(&hub->lock);
    bool takes = hub->takes[kind] != 0;
    pthread_mutex_unlock(&hub->lock);
    return takes;
}

void input_send(struct input_hub *hub, enum input_kind kind, unsigned code, int value)
{
    pthread_mutex_lock(&hub->lock);
    input_put_any(hub, kind, code, value);
    pthread_mutex_unlock(&hub->lock);
}

static void input_put_sync(struct input_hub *hub)
{
    input_put(hub, ENTRY_SYNC, 0, 0, 2 * hub->down_count);
}

void input_sync(struct input_hub *hub)
{
    pthread_mutex_lock(&hub->lock);
    input_put_sync(hub);
    pthread_mutex_unlock(&hub->lock);
}

static void input_put_pause(struct input_hub *hub, unsigned ms)
{
    if (hub->pauses < PAUSES_MAX && ms != 0 && input_put(hub, ENTRY_PAUSE, 0, (int)ms, 2 * hub->down_count + 1)) {
        hub->pauses++;
    }
}

void input_press(struct input_hub *hub, const uint16_t *keys, size_t count, unsigned hold_ms)
{
    pthread_mutex_lock(&hub->lock);
    for (size_t i = 0; i < count; i++) {
        input_put_any(hub, INPUT_KEY, keys[i], 1);
        input_put_sync(hub);
    }
    input_put_pause(hub, hold_ms < INPUT_HOLD_MAX_MS ? hold_ms : INPUT_HOLD_MAX_MS);
    for (size_t i = count; i > 0; i--) {
        input_put_any(hub, INPUT_KEY, keys[i - 1], 0);
        input_put_sync(hub);
    }
    pthread_mutex_unlock(&hub->lock);
}
