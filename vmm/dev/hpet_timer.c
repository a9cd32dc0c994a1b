/* SPDX-License-Identifier: MIT */
#include "dev/hpet_timer.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_SECOND INT64_C(1000000000)
#define IOAPIC_TIMER_PIN 2u /* of interrupt 0, as ACPI says */

static uint64_t hpet_now_ns(void *opaque)
{
    struct timespec now;
    (void)opaque;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * (uint64_t)NS_PER_SECOND + (uint64_t)now.tv_nsec;
}

static void hpet_set_irq(void *opaque, unsigned line, bool level)
{
    struct hpet_device *device = opaque;
    struct irq irq = device->irq;
    irq.line = line == IOAPIC_TIMER_PIN ? 0 : line;
    irq_set(&irq, level);
}

static void hpet_arm(void *opaque, unsigned timer, int64_t ns)
{
    struct hpet_device *device = opaque;
    struct itimerspec when = {0};
    if (ns >= 0) {
        ns += ns == 0;
        when.it_value.tv_sec = ns / NS_PER_SECOND;
        when.it_value.tv_nsec = ns % NS_PER_SECOND;
    }
    timerfd_settime(device->sources[timer].source.fd, 0, &when, NULL);
}

static void hpet_legacy(void *opaque, bool on)
{
    struct hpet_device *device = opaque;
    device->legacy(device->opaque, on);
}

static const struct hpet_backend hpet_backend = {.now_ns = hpet_now_ns, .set_irq = hpet_set_irq, .arm = hpet_arm, .legacy = hpet_legacy};

static void hpet_ready(void *opaque, uint32_t events)
{
    struct hpet_source *source = opaque;
    struct hpet_device *device = source->device;
    uint64_t expirations;
    (void)events;
    if (read(source->source.fd, &expirations, sizeof(expirations)) != sizeof(expirations)) {
        return;
    }
    pthread_mutex_lock(&device->lock);
    hpet_expired(&device->hpet, source->timer);
    pthread_mutex_unlock(&device->lock);
}

/* Accesses across two registers are nobody's. */
static bool hpet_valid(uint64_t offset, unsigned size)
{
    return (offset & 7) + size <= 8;
}

static uint64_t hpet_device_read(void *self, uint64_t offset, unsigned size)
{
    struct hpet_device *device = self;
    pthread_mutex_lock(&device->lock);
    uint64_t value = hpet_valid(offset, size) ? hpet_read(&device->hpet, (unsigned)offset, size) : UINT64_MAX;
    pthread_mutex_unlock(&device->lock);
    return value;
}

static void hpet_device_write(void *self, uint64_t offset, unsigned size, uint64_t value)
{
    struct hpet_device *device = self;
    pthread_mutex_lock(&device->lock);
    if (hpet_valid(offset, size)) {
        hpet_write(&device->hpet, (unsigned)offset, size, value);
    }
    pthread_mutex_unlock(&device->lock);
}

const struct device_ops hpet_ops = {.name = "hpet", .read = hpet_device_read, .write = hpet_device_write};

int hpet_device_init(struct hpet_device *device, uint32_t routes, struct loop *loop, const struct irq *irq, void (*legacy)(void *opaque, bool on),
                     void *opaque)
{
    *device = (struct hpet_device){.irq = *irq, .legacy = legacy, .opaque = opaque, .loop = loop};
    pthread_mutex_init(&device->lock, NULL);
    hpet_init(&device->hpet, routes, &hpet_backend, device);
    for (unsigned i = 0; i < HPET_TIMERS; i++) {
        device->sources[i].source.fd = -1;
    }
    for (unsigned i = 0; i < HPET_TIMERS; i++) {
        struct hpet_source *source = &device->sources[i];
        *source = (struct hpet_source){.device = device, .timer = i};
        source->source = (struct loop_source){.fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC), .ready = hpet_ready, .opaque = source};
        int result = source->source.fd < 0 ? -errno : loop_add(loop, &source->source, EPOLLIN);
        if (result != 0) {
            hpet_device_fini(device);
            return result;
        }
    }
    return 0;
}

void hpet_device_fini(struct hpet_device *device)
{
    for (unsigned i = 0; i < HPET_TIMERS; i++) {
        if (device->sources[i].source.fd >= 0) {
            loop_remove(device->loop, &device->sources[i].source);
            close(device->sources[i].source.fd);
        }
    }
    pthread_mutex_destroy(&device->lock);
}
