/* SPDX-License-Identifier: MIT */
/* The kernel's clock against the TSC, whose frequency in kHz is the argument: over two seconds they go equally fast, within 1 in 500. */
#include <stdlib.h>
#include <time.h>

#include "check.h"

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC_RAW, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static uint64_t rdtsc(void)
{
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

/* Both at one moment: of several tries the one in which they were read most closely together. */
static void read_both(uint64_t *tsc, int64_t *ns)
{
    uint64_t best = UINT64_MAX;
    for (int i = 0; i < 20; i++) {
        uint64_t before = rdtsc();
        int64_t now = now_ns();
        uint64_t after = rdtsc();
        if (after - before < best) {
            best = after - before;
            *tsc = before + (after - before) / 2;
            *ns = now;
        }
    }
}

int main(int argc, char **argv)
{
    long long khz = argc > 1 ? atoll(argv[1]) : 0;
    uint64_t tsc0 = 0, tsc1 = 0;
    int64_t ns0 = 0, ns1 = 0;
    read_both(&tsc0, &ns0);
    nanosleep(&(struct timespec){2, 0}, NULL);
    read_both(&tsc1, &ns1);
    long long clock_us = (ns1 - ns0) / 1000, tsc_us = khz > 0 ? (long long)((tsc1 - tsc0) / (uint64_t)khz) * 1000 : 0;
    printf("clock %lld us, TSC %lld us\n", clock_us, tsc_us);
    CHECK(clock_us >= 2000000);
    CHECK(llabs(clock_us - tsc_us) * 500 < clock_us);
    return check_done("clocksource");
}
