/* SPDX-License-Identifier: MIT */
/*
 * The engine's messages (see log.h). The callback is swapped under a lock that it is also called
 * under, so that kage_set_log(NULL, …) returns only when no call is under way.
 */
#include "kvm/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "kvm/object.h"

static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static kage_log_fn *log_fn;
static void *log_opaque;
static enum kage_log_level log_max;

void kage_set_log(kage_log_fn *fn, void *opaque, enum kage_log_level max)
{
    pthread_mutex_lock(&log_lock);
    log_fn = fn;
    log_opaque = opaque;
    log_max = max;
    pthread_mutex_unlock(&log_lock);
}

static void log_text(enum kage_log_level level, const char *text)
{
    pthread_mutex_lock(&log_lock);
    if (log_fn && level <= log_max)
        log_fn(log_opaque, level, text);
    pthread_mutex_unlock(&log_lock);
}

void kvm_log(enum kage_log_level level, const char *format, ...)
{
    char text[256];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    log_text(level, text);
}

void kvm_error_set(struct kvm_last_error *error, const char *format, ...)
{
    char text[sizeof(error->text)];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    pthread_mutex_lock(&error->lock);
    memcpy(error->text, text, sizeof(text));
    pthread_mutex_unlock(&error->lock);
    log_text(KAGE_LOG_ERROR, text);
}

int kvm_error_get(struct kvm_last_error *error, struct kage_text *client)
{
    char text[sizeof(error->text)];
    uint32_t room;

    if (kvm_copy_in(&room, &client->bytes, sizeof(room)))
        return -EFAULT;
    pthread_mutex_lock(&error->lock);
    memcpy(text, error->text, sizeof(text));
    pthread_mutex_unlock(&error->lock);
    text[sizeof(text) - 1] = '\0';
    size_t length = strlen(text);
    if (room) {
        size_t keep = length < room ? length : room - 1u;
        text[keep] = '\0';
        if (kvm_copy_out(client->text, text, keep + 1))
            return -EFAULT;
    }
    return (int)length;
}
