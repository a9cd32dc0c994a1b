/* SPDX-License-Identifier: MIT */
/*
 * The same amount of work whatever number of processors there is: two threads do a half each, so that on two
 * processors it takes half as long at best. The threads share their code and touch memory of their own.
 */
#include <pthread.h>
#include <stdlib.h>

#include "bench.h"

struct half {
    pthread_t thread;
    uint64_t (*run)(uint64_t rounds);
    uint64_t rounds, check;
};

static void *run_half(void *argument)
{
    struct half *half = argument;
    half->check = half->run(half->rounds);
    return NULL;
}

static uint64_t run_two(uint64_t (*run)(uint64_t rounds), uint64_t rounds)
{
    struct half halves[2] = {{.run = run, .rounds = rounds / 2}, {.run = run, .rounds = rounds / 2}};

    for (int i = 0; i < 2; i++)
        if (pthread_create(&halves[i].thread, NULL, run_half, &halves[i]) != 0)
            return 0;
    for (int i = 0; i < 2; i++)
        pthread_join(halves[i].thread, NULL);
    return halves[0].check == halves[1].check ? halves[0].check : 0;
}

static uint64_t run_two_qsort(uint64_t rounds) { return run_two(bench_qsort, rounds); }
static uint64_t run_two_interpreter(uint64_t rounds) { return run_two(bench_interpreter, rounds); }
static uint64_t run_two_chase(uint64_t rounds) { return run_two(bench_chase, rounds); }

const struct bench bench_parallel[] = {
    {"two-qsort", "300000 words", 40, run_two_qsort},
    {"two-interpreter", "12 indirect calls", 16000000, run_two_interpreter},
    {"two-pointer-chase", "load", 40000000, run_two_chase},
    {0},
};
