/* SPDX-License-Identifier: MIT */
/*
 * Threads that are nobody's business: signals to the process are the main thread's, whenever it gets to block them. One that is
 * unblocked in any other thread would be delivered there, by its default action. A thread's own faults stay its own: a store to guest
 * memory from which the soft back end has translated code is one that it serves.
 */
#ifndef KAGE_UTIL_THREAD_H
#define KAGE_UTIL_THREAD_H

#include <pthread.h>

/* pthread_create() of a thread with all signals blocked but those of its faults. 0 or an errno value, as that. */
int thread_start(pthread_t *thread, void *(*run)(void *opaque), void *opaque);

#endif
