/* SPDX-License-Identifier: MIT */
/*
 * irqfd: eventfds that raise GSIs, served by one poller thread for the VM.
 */
#ifndef KAGE_APIC_IRQFD_H
#define KAGE_APIC_IRQFD_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>

#include "arch/types.h"

struct irqfd;

struct irqfd_set {
	pthread_mutex_t lock; /* the list; taken before irqchip.lock */
	struct irqfd *list;
	uint64_t next_id;
	_Atomic uint32_t resamplers; /* how many of them wait for an EOI */
	bool running;
	int epoll_fd, stop_fd;
	pthread_t thread;
	void (*set_irq)(void *opaque, uint32_t gsi, bool resample, bool level);
	void *opaque;
};

void irqfd_init(struct irqfd_set *set, void (*set_irq)(void *, uint32_t, bool, bool), void *opaque);
void irqfd_fini(struct irqfd_set *set);
/* KVM_IRQFD: 0 or -errno */
int irqfd_ioctl(struct irqfd_set *set, const struct kvm_irqfd *args) KAGE_MUST_CHECK;
/* The guest has ended service of this GSI: lower it, tell the resamplefds. */
void irqfd_acked(struct irqfd_set *set, uint32_t gsi);
/* Does somebody wait for this GSI's EOI? */
bool irqfd_wants_ack(struct irqfd_set *set, uint32_t gsi);

/* The kernel's number of the eventfd behind fd (two descriptors of one eventfd agree), or -EBADF, -EINVAL if it is none. */
int64_t eventfd_identity(int fd);
void eventfd_signal(int fd);

#endif
