/* SPDX-License-Identifier: MIT */
/* Time: clocks that never go back and agree with each other, sleeps that last, timers that fire, a TSC that moves on. */
#include <poll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "check.h"

static int64_t now_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static uint64_t rdtsc(void)
{
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

int main(void)
{
    const clockid_t clocks[] = {CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_BOOTTIME, CLOCK_MONOTONIC_RAW, CLOCK_PROCESS_CPUTIME_ID};

    for (size_t c = 0; c < sizeof clocks / sizeof clocks[0]; c++) {
        int64_t last = now_ns(clocks[c]);
        unsigned back = 0;
        for (int i = 0; i < 20000; i++) {
            int64_t now = now_ns(clocks[c]);
            back += now < last;
            last = now;
        }
        CHECK(back == 0);
    }
    uint64_t last = rdtsc();
    unsigned back = 0;
    for (int i = 0; i < 100000; i++) {
        uint64_t now = rdtsc();
        back += now <= last;
        last = now;
    }
    CHECK(back == 0);

    /* A sleep lasts at least as long as asked, by every clock; how much longer is the host's business. */
    int64_t mono = now_ns(CLOCK_MONOTONIC), raw = now_ns(CLOCK_MONOTONIC_RAW);
    for (int i = 0; i < 20; i++)
        nanosleep(&(struct timespec){0, 5000000}, NULL);
    mono = now_ns(CLOCK_MONOTONIC) - mono;
    raw = now_ns(CLOCK_MONOTONIC_RAW) - raw;
    CHECK(mono >= 100000000);
    CHECK(raw > mono / 2 && raw < mono * 2);

    int fd = timerfd_create(CLOCK_MONOTONIC, 0);
    struct itimerspec every = {{0, 10000000}, {0, 10000000}};
    int64_t start = now_ns(CLOCK_MONOTONIC); /* before the timer, whose time may have run when we next look */
    CHECK(fd >= 0 && timerfd_settime(fd, 0, &every, NULL) == 0);
    uint64_t fired = 0;
    while (fired < 20) {
        uint64_t n = 0;
        if (read(fd, &n, sizeof n) != sizeof n)
            break;
        fired += n;
    }
    CHECK(fired >= 20 && now_ns(CLOCK_MONOTONIC) - start >= 200000000);
    struct pollfd nothing = {.fd = -1};
    start = now_ns(CLOCK_MONOTONIC);
    CHECK(poll(&nothing, 1, 30) == 0 && now_ns(CLOCK_MONOTONIC) - start >= 30000000);
    CHECK(time(NULL) > 1600000000);
    return check_done("clocks");
}
