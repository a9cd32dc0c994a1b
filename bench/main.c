/* SPDX-License-Identifier: MIT */
/*
 * Runs measurements and prints, for each, "bench NAME NANOSECONDS-PER-ROUND CHECK", by CLOCK_MONOTONIC of the
 * system that it runs in. With -w it says "bench-begin NAME ROUNDS" first, and waits a moment before and after what it measures, for
 * somebody outside to look at counters. Usage: kage-bench [-w] [NAME...]; kage-bench exit (what fork+exec starts).
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

enum { PAUSE_US = 400000 };

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static int wanted(const struct bench *group, const char *name, int count, char **names)
{
    for (int i = 0; i < count; i++)
        if (!strcmp(names[i], name))
            return 1;
    return count == 0 && group != bench_parallel && group != bench_memory;
}

int main(int argc, char **argv)
{
    const struct bench *const groups[] = {bench_compute, bench_system, bench_parallel, bench_memory};
    int failures = 0;
    _Bool waits = argc > 1 && !strcmp(argv[1], "-w");

    if (argc == 2 && !strcmp(argv[1], "exit"))
        return 0;
    argc -= waits;
    argv += waits;
    for (size_t g = 0; g < sizeof groups / sizeof groups[0]; g++) {
        for (const struct bench *b = groups[g]; b->name; b++) {
            if (!wanted(groups[g], b->name, argc - 1, argv + 1))
                continue;
            _Bool prepared = !b->prepare || b->prepare();
            if (waits) {
                printf("bench-begin %s %" PRIu64 "\n", b->name, b->rounds);
                fflush(stdout);
                usleep(PAUSE_US);
            }
            int64_t start = now_ns();
            uint64_t check = prepared ? b->run(b->rounds) : 0;
            double ns = (double)(now_ns() - start) / (double)b->rounds;
            if (check == 0) {
                printf("bench %s failed\n", b->name);
                failures = 1;
                continue;
            }
            printf("bench %s %.1f %016" PRIx64 "\n", b->name, ns, check);
            fflush(stdout);
            if (waits)
                usleep(PAUSE_US);
        }
    }
    return failures;
}
