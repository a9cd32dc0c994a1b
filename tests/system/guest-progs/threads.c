/* SPDX-License-Identifier: MIT */
/* Threads: counts under mutexes and atomics, condition variables (futexes), thread-local storage, cmpxchg16b (or 8b). */
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>

#include "arch.h"
#include "check.h"

enum { THREADS = 8, ROUNDS = 20000 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turn_changed = PTHREAD_COND_INITIALIZER;
static uint64_t locked_count, atomic_count;
static struct { unsigned long low, high; } __attribute__((aligned(2 * sizeof(long)))) pair;
static int turn;
static _Thread_local uint64_t mine;

static void add_to_pair(void)
{
    unsigned long low = pair.low, high = pair.high;
    bool done = false;

    while (!done) {
        unsigned long new_low = low + 1, new_high = high + 2;
        __asm__ volatile(LOCK_CMPXCHG_PAIR " %1"
                         : "=@ccz"(done), "+m"(pair), "+a"(low), "+d"(high)
                         : "b"(new_low), "c"(new_high)
                         : "memory");
    }
}

static void *work(void *argument)
{
    uint64_t id = (uintptr_t)argument;

    for (uint64_t i = 0; i < ROUNDS; i++) {
        pthread_mutex_lock(&lock);
        locked_count += id;
        pthread_mutex_unlock(&lock);
        __atomic_fetch_add(&atomic_count, 1, __ATOMIC_SEQ_CST);
        add_to_pair();
        mine += id;
        if (i % 1000 == 0)
            sched_yield();
    }
    for (int i = 0; i < 200; i++) {
        pthread_mutex_lock(&lock);
        while ((uint64_t)turn != id)
            pthread_cond_wait(&turn_changed, &lock);
        turn = (turn + 1) % THREADS;
        pthread_cond_broadcast(&turn_changed);
        pthread_mutex_unlock(&lock);
    }
    return (void *)(uintptr_t)mine;
}

int main(void)
{
    pthread_t threads[THREADS];

    for (uintptr_t i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, work, (void *)i) == 0);
    for (uintptr_t i = 0; i < THREADS; i++) {
        void *result;
        CHECK(pthread_join(threads[i], &result) == 0);
        CHECK((uintptr_t)result == i * ROUNDS);
    }
    CHECK(locked_count == 28ull * ROUNDS);
    CHECK(atomic_count == (uint64_t)THREADS * ROUNDS);
    CHECK(pair.low == (unsigned long)THREADS * ROUNDS && pair.high == 2ul * THREADS * ROUNDS);
    CHECK(mine == 0);
    return check_done("threads");
}
