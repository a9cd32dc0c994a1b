/* SPDX-License-Identifier: MIT */
/*
 * One measurement: it does its work `rounds` times and returns a value that depends on all of it, so that
 * nothing is optimized away and so that native and guest runs can be compared. 0 means that it failed.
 */
#ifndef KAGE_BENCH_H
#define KAGE_BENCH_H

#include <stdint.h>

struct bench {
    const char *name;
    const char *unit; /* what one round is */
    uint64_t rounds;
    uint64_t (*run)(uint64_t rounds);
    _Bool (*prepare)(void); /* before it, not measured; NULL: nothing */
};

extern const struct bench bench_compute[];
extern const struct bench bench_system[];
extern const struct bench bench_parallel[]; /* run only if named */
extern const struct bench bench_memory[];   /* run only if named */

/* Of bench_compute, for use on several threads. */
uint64_t bench_qsort(uint64_t rounds);
uint64_t bench_interpreter(uint64_t rounds);
uint64_t bench_chase(uint64_t rounds);

/* Runs a program and waits for it; true if it ends with status 0. Output goes to /dev/null. */
_Bool bench_spawn(const char *const argv[]);

#endif
