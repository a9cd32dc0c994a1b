/* SPDX-License-Identifier: MIT */
/*
 * Attachment of the MC146818A. The host's clock is read with clock_gettime(2); the timer wakes the main
 * loop when an interrupt is due.
 */
#include "dev/rtc.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "dev/isa.h"

static int64_t rtc_now_ns(void *opaque)
{
    struct timespec now;
    (void)opaque;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static void rtc_set_irq(void *opaque, bool level)
{
    struct rtc *rtc = opaque;
    irq_set(&rtc->irq, level);
}

static const struct cmos_backend rtc_backend = {.now_ns = rtc_now_ns, .set_irq = rtc_set_irq};

/* Under the lock, after anything that may change what comes next. */
static void rtc_arm(struct rtc *rtc)
{
    int64_t next_ns = cmos_next_ns(&rtc->cmos);
    struct itimerspec when = {0};
    if (next_ns >= 0) {
        next_ns += next_ns == 0;
        when.it_value.tv_sec = next_ns / INT64_C(1000000000);
        when.it_value.tv_nsec = next_ns % INT64_C(1000000000);
    }
    timerfd_settime(rtc->timer.fd, 0, &when, NULL);
}

static void rtc_timer_ready(void *opaque, uint32_t events)
{
    struct rtc *rtc = opaque;
    uint64_t expirations;
    (void)events;
    if (read(rtc->timer.fd, &expirations, sizeof(expirations)) != sizeof(expirations)) {
        return;
    }
    pthread_mutex_lock(&rtc->lock);
    cmos_update(&rtc->cmos);
    rtc_arm(rtc);
    pthread_mutex_unlock(&rtc->lock);
}

static uint8_t rtc_read_byte(void *self, unsigned offset)
{
    struct rtc *rtc = self;
    return cmos_read(&rtc->cmos, offset);
}

static void rtc_write_byte(void *self, unsigned offset, uint8_t value)
{
    struct rtc *rtc = self;
    cmos_write(&rtc->cmos, offset, value);
}

static uint64_t rtc_read(void *self, uint64_t offset, unsigned size)
{
    struct rtc *rtc = self;
    pthread_mutex_lock(&rtc->lock);
    bool stood = rtc->cmos.irq_level;
    uint64_t value = isa_read_bytes(rtc_read_byte, self, offset, size);
    if (stood) {
        rtc_arm(rtc); /* reading register C lets the next interrupt come */
    }
    pthread_mutex_unlock(&rtc->lock);
    return value;
}

static void rtc_write(void *self, uint64_t offset, unsigned size, uint64_t value)
{
    struct rtc *rtc = self;
    pthread_mutex_lock(&rtc->lock);
    isa_write_bytes(rtc_write_byte, self, offset, size, value);
    if (offset + size > 1) {
        rtc_arm(rtc);
    }
    pthread_mutex_unlock(&rtc->lock);
}

const struct device_ops rtc_ops = {.name = "rtc", .read = rtc_read, .write = rtc_write};

int rtc_init(struct rtc *rtc, struct loop *loop, const struct irq *irq)
{
    rtc->loop = loop;
    rtc->irq = *irq;
    rtc->timer = (struct loop_source){
        .fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC), .ready = rtc_timer_ready, .opaque = rtc};
    if (rtc->timer.fd < 0) {
        return -errno;
    }
    int result = loop_add(loop, &rtc->timer, EPOLLIN);
    if (result != 0) {
        close(rtc->timer.fd);
        return result;
    }
    pthread_mutex_init(&rtc->lock, NULL);
    cmos_init(&rtc->cmos, &rtc_backend, rtc);
    return 0;
}

void rtc_fini(struct rtc *rtc)
{
    loop_remove(rtc->loop, &rtc->timer);
    close(rtc->timer.fd);
    pthread_mutex_destroy(&rtc->lock);
}
