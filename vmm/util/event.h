/* SPDX-License-Identifier: MIT */
/*
 * QMP's events on their way to the monitors: one queue of the process. Any thread may emit, with any lock held and from inside of a device:
 * this lock is innermost, and nothing blocks. Where no monitor listens nothing is kept; where monitors do not come to take events, the queue
 * is bounded and the newest are lost (counted).
 */
#ifndef KAGE_UTIL_EVENT_H
#define KAGE_UTIL_EVENT_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#define EVENT_QUEUE_MAX 4096u

struct event {
    struct event *next;
    const char *name; /* QMP's; a string that stays */
    json_t *data;     /* an object, or NULL */
    int64_t time_us;  /* since 1970, when it was emitted */
};

/* `name` stays for ever (a literal). `data` is taken over, also where nobody listens; NULL: the event has none. */
void event_emit(const char *name, json_t *data);
/* The same with data as json_pack() makes it; it is made only where somebody listens. NULL as `format`: none. */
void event_emitf(const char *name, const char *format, ...);

/* ---- For who listens: one at a time, on a loop's thread ---- */

/* From here on events are kept. The descriptor (an eventfd) is readable while some wait; the queue owns it. -errno on failure. */
int event_listen(void);
/* What waits is dropped. */
void event_unlisten(void);
/* The oldest event, the caller's to free; NULL: none waits, and the descriptor is not readable any more. */
struct event *event_take(void);
void event_free(struct event *event);

#endif
