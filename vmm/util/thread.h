/* SPDX-License-Identifier: MIT */
/*
 * Threads that are nobody's business: signals to the process are the main thread's, whenever it gets to block them. One that is
 * unblocked in any other thread would be delivered there, by its default action.
 */
#ifndef KAGE_UTIL_THREAD_H
#define KAGE_UTIL_THREAD_H

#include <pthread.h>

/* pthread_create() of a thread with all signals blocked. 0 or an errno value, as that. */
int thread_start(pthread_t *thread, void *(*run)(void *opaque), void *opaque);

#endif
