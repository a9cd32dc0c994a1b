/* SPDX-License-Identifier: MIT */
/*
 * KVM_IRQFD as api.rst states it: an event pulses the GSI; with a resamplefd it raises the GSI, which falls at the guest's EOI,
 * when the resamplefd is signalled. Descriptors are duplicated: the client may close its own.
 */
#include "apic/irqfd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "apic/timer.h"

#define STOP_ID 0

struct irqfd {
	struct irqfd *next;
	uint64_t id; /* in epoll events: an event may come after its irqfd is gone */
	int64_t identity;
	int fd, resample_fd; /* resample_fd: -1 none */
	uint32_t gsi;
};

int64_t eventfd_identity(int fd)
{
	char path[64], text[512];
	const char *field;
	ssize_t n;
	int info;

	if (fcntl(fd, F_GETFD) < 0)
		return -EBADF;
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	info = open(path, O_RDONLY | O_CLOEXEC);
	if (info < 0)
		return (int64_t)fd << 32; /* no /proc: the descriptor itself must do */
	n = read(info, text, sizeof(text) - 1);
	close(info);
	text[n > 0 ? n : 0] = '\0';
	if (!strstr(text, "eventfd-count:"))
		return -EINVAL;
	field = strstr(text, "eventfd-id:");
	return field ? strtol(field + strlen("eventfd-id:"), NULL, 10) : (int64_t)fd << 32;
}

void eventfd_signal(int fd)
{
	const uint64_t one = 1;
	ssize_t n;

	do
		n = write(fd, &one, sizeof(one));
	while (n < 0 && errno == EINTR);
}

static void serve(struct irqfd_set *set, uint64_t id)
{
	struct irqfd *f;
	struct pollfd p;
	uint64_t count;

	pthread_mutex_lock(&set->lock);
	for (f = set->list; f && f->id != id; f = f->next)
		;
	if (f) {
		p = (struct pollfd){ .fd = f->fd, .events = POLLIN };
		if (poll(&p, 1, 0) == 1 && read(f->fd, &count, sizeof(count)) == sizeof(count)) {
			set->set_irq(set->opaque, f->gsi, f->resample_fd >= 0, true);
			if (f->resample_fd < 0)
				set->set_irq(set->opaque, f->gsi, false, false);
		}
	}
	pthread_mutex_unlock(&set->lock);
}

static void *poller(void *arg)
{
	struct irqfd_set *set = arg;
	struct epoll_event events[16];

	for (;;) {
		int n = epoll_wait(set->epoll_fd, events, KAGE_ARRAY_SIZE(events), -1);

		if (n < 0 && errno != EINTR)
			return NULL;
		for (int i = 0; i < n; i++) {
			if (events[i].data.u64 == STOP_ID)
				return NULL;
			serve(set, events[i].data.u64);
		}
	}
}

/* lock held */
static int start(struct irqfd_set *set)
{
	struct epoll_event stop = { .events = EPOLLIN, .data.u64 = STOP_ID };
	int err;

	if (set->running)
		return 0;
	set->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (set->epoll_fd < 0)
		return -errno;
	set->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (set->stop_fd < 0 || epoll_ctl(set->epoll_fd, EPOLL_CTL_ADD, set->stop_fd, &stop) < 0) {
		err = -errno;
		goto out_close;
	}
	err = apic_thread_start(&set->thread, poller, set);
	if (err)
		goto out_close;
	set->running = true;
	return 0;

out_close:
	if (set->stop_fd >= 0)
		close(set->stop_fd);
	close(set->epoll_fd);
	return err;
}

static void release(struct irqfd *f)
{
	close(f->fd);
	if (f->resample_fd >= 0)
		close(f->resample_fd);
	free(f);
}

static int duplicate(uint32_t fd)
{
	int copy = fcntl((int)fd, F_DUPFD_CLOEXEC, 0);

	return copy < 0 ? -errno : copy;
}

/* lock held; consumes f when it succeeds */
static int insert(struct irqfd_set *set, struct irqfd *f)
{
	struct epoll_event ev = { .events = EPOLLIN };
	int err = start(set);

	if (err)
		return err;
	for (struct irqfd *other = set->list; other; other = other->next)
		if (other->identity == f->identity)
			return -EBUSY;
	f->id = ++set->next_id;
	ev.data.u64 = f->id;
	if (epoll_ctl(set->epoll_fd, EPOLL_CTL_ADD, f->fd, &ev) < 0)
		return -errno;
	f->next = set->list;
	set->list = f;
	if (f->resample_fd >= 0)
		atomic_fetch_add(&set->resamplers, 1);
	return 0;
}

static int assign(struct irqfd_set *set, const struct kvm_irqfd *args)
{
	bool resample = args->flags & KVM_IRQFD_FLAG_RESAMPLE;
	int64_t identity = eventfd_identity((int)args->fd);
	struct irqfd *f;
	int err;

	if (identity < 0)
		return (int)identity;
	if (resample && eventfd_identity((int)args->resamplefd) < 0)
		return (int)eventfd_identity((int)args->resamplefd);
	f = calloc(1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	f->gsi = args->gsi;
	f->identity = identity;
	f->resample_fd = -1;
	f->fd = duplicate(args->fd);
	if (f->fd < 0) {
		err = f->fd;
		free(f);
		return err;
	}
	if (resample) {
		f->resample_fd = duplicate(args->resamplefd);
		if (f->resample_fd < 0) {
			err = f->resample_fd;
			goto out_release;
		}
	}
	pthread_mutex_lock(&set->lock);
	err = insert(set, f);
	pthread_mutex_unlock(&set->lock);
	if (!err)
		return 0;
out_release:
	release(f);
	return err;
}

/* lock held */
static void unlink_and_release(struct irqfd_set *set, struct irqfd **link)
{
	struct irqfd *f = *link;

	*link = f->next;
	epoll_ctl(set->epoll_fd, EPOLL_CTL_DEL, f->fd, NULL);
	if (f->resample_fd >= 0) {
		bool last = true;

		atomic_fetch_sub(&set->resamplers, 1);
		for (struct irqfd *other = set->list; other; other = other->next)
			if (other->resample_fd >= 0 && other->gsi == f->gsi)
				last = false;
		if (last)
			set->set_irq(set->opaque, f->gsi, true, false);
	}
	release(f);
}

static int deassign(struct irqfd_set *set, const struct kvm_irqfd *args)
{
	int64_t identity = eventfd_identity((int)args->fd);
	struct irqfd **link;

	if (identity < 0)
		return (int)identity;
	pthread_mutex_lock(&set->lock);
	for (link = &set->list; *link;) {
		if ((*link)->identity == identity && (*link)->gsi == args->gsi)
			unlink_and_release(set, link);
		else
			link = &(*link)->next;
	}
	pthread_mutex_unlock(&set->lock);
	return 0; /* as KVM: also when there was none */
}

int irqfd_ioctl(struct irqfd_set *set, const struct kvm_irqfd *args)
{
	if (args->flags & ~(uint32_t)(KVM_IRQFD_FLAG_DEASSIGN | KVM_IRQFD_FLAG_RESAMPLE))
		return -EINVAL;
	return args->flags & KVM_IRQFD_FLAG_DEASSIGN ? deassign(set, args) : assign(set, args);
}

void irqfd_acked(struct irqfd_set *set, uint32_t gsi)
{
	bool lowered = false;

	if (!atomic_load(&set->resamplers))
		return;
	pthread_mutex_lock(&set->lock);
	for (struct irqfd *f = set->list; f; f = f->next) {
		if (f->resample_fd < 0 || f->gsi != gsi)
			continue;
		if (!lowered)
			set->set_irq(set->opaque, gsi, true, false);
		lowered = true;
		eventfd_signal(f->resample_fd);
	}
	pthread_mutex_unlock(&set->lock);
}

bool irqfd_wants_ack(struct irqfd_set *set, uint32_t gsi)
{
	bool wants = false;

	if (!atomic_load(&set->resamplers))
		return false;
	pthread_mutex_lock(&set->lock);
	for (struct irqfd *f = set->list; f; f = f->next)
		wants |= f->resample_fd >= 0 && f->gsi == gsi;
	pthread_mutex_unlock(&set->lock);
	return wants;
}

void irqfd_init(struct irqfd_set *set, void (*set_irq)(void *, uint32_t, bool, bool), void *opaque)
{
	memset(set, 0, sizeof(*set));
	pthread_mutex_init(&set->lock, NULL);
	set->set_irq = set_irq;
	set->opaque = opaque;
}

void irqfd_fini(struct irqfd_set *set)
{
	if (set->running) {
		eventfd_signal(set->stop_fd);
		pthread_join(set->thread, NULL);
		while (set->list) {
			struct irqfd *f = set->list;

			set->list = f->next;
			release(f);
		}
		close(set->stop_fd);
		close(set->epoll_fd);
	}
	pthread_mutex_destroy(&set->lock);
}
