/* SPDX-License-Identifier: MIT */
/*
 * See timer.h. A timerfd, since the kernel adds no slack to it. The thread takes armed_ns down before it looks at the
 * sources: who arms after that look sees no earlier setting, and sets the timerfd itself.
 */
#include "apic/timer.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define NEVER UINT64_MAX
#define NS_PER_S 1000000000ull

ns_t apic_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (ns_t)ts.tv_sec * NS_PER_S + (ns_t)ts.tv_nsec;
}

static void sleep_until(struct apic_timer *t, ns_t deadline_ns)
{
	struct itimerspec spec = {
		.it_value = { .tv_sec = (time_t)(deadline_ns / NS_PER_S), .tv_nsec = (long)(deadline_ns % NS_PER_S) },
	};

	if (deadline_ns >= atomic_load(&t->armed_ns))
		return;
	pthread_mutex_lock(&t->lock);
	if (deadline_ns < atomic_load(&t->armed_ns)) {
		atomic_store(&t->armed_ns, deadline_ns);
		timerfd_settime(t->fd, TFD_TIMER_ABSTIME, &spec, NULL);
	}
	pthread_mutex_unlock(&t->lock);
}

static void run_due(struct apic_timer *t)
{
	ns_t now = apic_now_ns(), next = NEVER;

	for (uint32_t i = 0; i < t->capacity; i++) {
		struct apic_timer_source *s = &t->sources[i];
		ns_t deadline = atomic_load(&s->deadline_ns);

		/* not if it was armed anew in between */
		if (deadline && deadline <= now && atomic_compare_exchange_strong(&s->deadline_ns, &deadline, 0))
			s->expired(s->opaque, now);
	}
	for (uint32_t i = 0; i < t->capacity; i++) {
		ns_t deadline = atomic_load(&t->sources[i].deadline_ns);

		if (deadline && deadline < next)
			next = deadline;
	}
	if (next != NEVER)
		sleep_until(t, next);
}

static void *timer_thread(void *arg)
{
	struct apic_timer *t = arg;
	uint64_t expirations;

	for (;;) {
		ssize_t n = read(t->fd, &expirations, sizeof(expirations));

		if (n < 0 && errno != EINTR && errno != EAGAIN)
			return NULL;
		pthread_mutex_lock(&t->lock);
		atomic_store(&t->armed_ns, NEVER);
		pthread_mutex_unlock(&t->lock);
		if (atomic_load(&t->stop)) /* after taking armed_ns down: see apic_timer_stop() */
			return NULL;
		run_due(t);
	}
}

int apic_thread_start(pthread_t *thread, void *(*fn)(void *), void *arg)
{
	sigset_t all, old;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = pthread_create(thread, NULL, fn, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -err;
}

int apic_timer_start(struct apic_timer *t, uint32_t capacity)
{
	int err;

	t->capacity = capacity;
	atomic_store(&t->armed_ns, NEVER);
	atomic_store(&t->stop, false);
	t->sources = calloc(capacity, sizeof(*t->sources));
	if (!t->sources)
		return -ENOMEM;
	t->fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
	if (t->fd < 0) {
		err = -errno;
		goto out_free;
	}
	pthread_mutex_init(&t->lock, NULL);
	err = apic_thread_start(&t->thread, timer_thread, t);
	if (err)
		goto out_close;
	return 0;

out_close:
	pthread_mutex_destroy(&t->lock);
	close(t->fd);
out_free:
	free(t->sources);
	return err;
}

void apic_timer_stop(struct apic_timer *t)
{
	atomic_store(&t->stop, true);
	/* either the thread takes armed_ns down after this, and then sees stop; or no later deadline can replace this one */
	sleep_until(t, 1);
	pthread_join(t->thread, NULL);
	pthread_mutex_destroy(&t->lock);
	close(t->fd);
	free(t->sources);
}

void apic_timer_attach(struct apic_timer *t, uint32_t slot, void (*expired)(void *, ns_t), void *opaque)
{
	t->sources[slot].expired = expired;
	t->sources[slot].opaque = opaque;
}

void apic_timer_arm(struct apic_timer *t, uint32_t slot, ns_t deadline_ns)
{
	if (!deadline_ns || deadline_ns == NEVER) {
		atomic_store(&t->sources[slot].deadline_ns, 0);
		return;
	}
	atomic_store(&t->sources[slot].deadline_ns, deadline_ns);
	sleep_until(t, deadline_ns);
}
