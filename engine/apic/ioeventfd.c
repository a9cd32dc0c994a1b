/* SPDX-License-Identifier: MIT */
/*
 * KVM_IOEVENTFD: guest writes that become eventfd signals instead of exits. The table is an immutable sorted array; a change
 * makes a new one and waits out the readers (grace.h), so a guest write costs a binary search and no lock.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "apic/apic.h"
#include "apic/grace.h"
#include "apic/irqfd.h"

#define IOEVENTFD_FLAGS (KVM_IOEVENTFD_FLAG_DATAMATCH | KVM_IOEVENTFD_FLAG_PIO | KVM_IOEVENTFD_FLAG_DEASSIGN)
#define IOEVENTFD_MAX 4096 /* ours, like KVM's limit of 1000 devices on a bus */

struct match {
	uint64_t addr, datamatch;
	int64_t identity;
	uint32_t len; /* 0: any */
	int fd;
	bool pio, any_data;
};

struct matches {
	uint32_t count;
	struct match m[]; /* by pio, then addr */
};

struct ioeventfd_table {
	pthread_mutex_t lock; /* writers */
	struct grace grace;
	_Atomic(struct matches *) matches; /* NULL: empty */
};

struct ioeventfd_table *ioeventfd_new(void)
{
	struct ioeventfd_table *t = calloc(1, sizeof(*t));

	if (t)
		pthread_mutex_init(&t->lock, NULL);
	return t;
}

void ioeventfd_free(struct ioeventfd_table *t)
{
	struct matches *all;

	if (!t)
		return;
	all = atomic_load(&t->matches);
	for (uint32_t i = 0; all && i < all->count; i++)
		close(all->m[i].fd);
	free(all);
	pthread_mutex_destroy(&t->lock);
	free(t);
}

/* The first entry not before (pio, addr). */
static uint32_t lower_bound(const struct matches *all, bool pio, uint64_t addr)
{
	uint32_t low = 0, high = all ? all->count : 0;

	while (low < high) {
		uint32_t mid = low + (high - low) / 2;
		const struct match *m = &all->m[mid];

		if (m->pio < pio || (m->pio == pio && m->addr < addr))
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

bool ioeventfd_write(struct ioeventfd_table *t, bool pio, uint64_t addr, uint32_t len, uint64_t data)
{
	const struct matches *all;
	bool taken = false;
	unsigned side;

	if (!atomic_load_explicit(&t->matches, memory_order_relaxed))
		return false;
	if (len < 8)
		data &= (1ull << (len * 8)) - 1;
	side = grace_enter(&t->grace);
	all = atomic_load(&t->matches);
	for (uint32_t i = lower_bound(all, pio, addr); all && i < all->count && !taken; i++) {
		const struct match *m = &all->m[i];

		if (m->pio != pio || m->addr != addr)
			break;
		if ((m->len && m->len != len) || (!m->any_data && m->datamatch != data))
			continue;
		eventfd_signal(m->fd);
		taken = true;
	}
	grace_leave(&t->grace, side);
	return taken;
}

static bool collides(const struct match *a, const struct match *b)
{
	return a->pio == b->pio && a->addr == b->addr &&
	       (!a->len || !b->len ||
		(a->len == b->len && (a->any_data || b->any_data || a->datamatch == b->datamatch)));
}

/* lock held */
static void replace(struct ioeventfd_table *t, struct matches *fresh)
{
	struct matches *old = atomic_exchange(&t->matches, fresh);

	grace_wait(&t->grace);
	free(old);
}

/* lock held */
static int insert(struct ioeventfd_table *t, const struct match *m)
{
	const struct matches *all = atomic_load(&t->matches);
	uint32_t count = all ? all->count : 0, at = lower_bound(all, m->pio, m->addr);
	struct matches *fresh;

	if (count >= IOEVENTFD_MAX)
		return -ENOSPC;
	for (uint32_t i = at; i < count; i++)
		if (collides(&all->m[i], m))
			return -EEXIST;
	fresh = malloc(sizeof(*fresh) + (count + 1) * sizeof(fresh->m[0]));
	if (!fresh)
		return -ENOMEM;
	fresh->count = count + 1;
	if (all) {
		memcpy(fresh->m, all->m, at * sizeof(*m));
		memcpy(fresh->m + at + 1, all->m + at, (count - at) * sizeof(*m));
	}
	fresh->m[at] = *m;
	replace(t, fresh);
	return 0;
}

/* lock held */
static int withdraw(struct ioeventfd_table *t, const struct match *m)
{
	const struct matches *all = atomic_load(&t->matches);
	uint32_t at = lower_bound(all, m->pio, m->addr);
	struct matches *fresh = NULL;
	int fd;

	for (; all && at < all->count; at++) {
		const struct match *o = &all->m[at];

		if (o->pio == m->pio && o->addr == m->addr && o->len == m->len && o->identity == m->identity &&
		    o->any_data == m->any_data && (m->any_data || o->datamatch == m->datamatch))
			break;
	}
	if (!all || at == all->count)
		return -ENOENT;
	fd = all->m[at].fd;
	if (all->count > 1) {
		fresh = malloc(sizeof(*fresh) + (all->count - 1) * sizeof(fresh->m[0]));
		if (!fresh)
			return -ENOMEM;
		fresh->count = all->count - 1;
		memcpy(fresh->m, all->m, at * sizeof(*m));
		memcpy(fresh->m + at, all->m + at + 1, (all->count - at - 1) * sizeof(*m));
	}
	replace(t, fresh);
	close(fd);
	return 0;
}

static bool arguments_valid(const struct kvm_ioeventfd *args)
{
	if (args->len > 8 || (args->len & (args->len - 1)))
		return false;
	if (args->addr + args->len < args->addr || (args->flags & ~(uint32_t)IOEVENTFD_FLAGS))
		return false;
	return args->len || !(args->flags & KVM_IOEVENTFD_FLAG_DATAMATCH);
}

int ioeventfd_ioctl(struct ioeventfd_table *t, const struct kvm_ioeventfd *args)
{
	struct match m = {
		.addr = args->addr,
		.len = args->len,
		.datamatch = args->datamatch,
		.pio = (args->flags & KVM_IOEVENTFD_FLAG_PIO) != 0,
		.any_data = !(args->flags & KVM_IOEVENTFD_FLAG_DATAMATCH),
	};
	int err;

	if (!arguments_valid(args))
		return -EINVAL;
	m.identity = eventfd_identity(args->fd);
	if (m.identity < 0)
		return (int)m.identity;
	if (args->flags & KVM_IOEVENTFD_FLAG_DEASSIGN) {
		pthread_mutex_lock(&t->lock);
		err = withdraw(t, &m);
		pthread_mutex_unlock(&t->lock);
		return err;
	}
	m.fd = fcntl(args->fd, F_DUPFD_CLOEXEC, 0);
	if (m.fd < 0)
		return -errno;
	pthread_mutex_lock(&t->lock);
	err = insert(t, &m);
	pthread_mutex_unlock(&t->lock);
	if (err)
		close(m.fd);
	return err;
}
