/* SPDX-License-Identifier: MIT */
/*
 * What the rows of kvm-races share: vCPUs that run in threads of their own, a thread that changes something all the time, and
 * interrupts that are sent one by one.
 *
 * Guests leave by an OUT to PORT_ROUND in every round, so that vCPU threads see that they are to stop without a signal: ThreadSanitizer
 * holds signals back. A row's time limit is the watchdog.
 */
#ifndef KVM_RACE_H
#define KVM_RACE_H

#include <pthread.h>
#include <stdatomic.h>

#include "irq_guest.h"

#define PAGE 4096u
#define SLOT_GPA 0x10000000ul
#define PORT_ROUND 0x80

struct runner {
    struct machine *m;
    unsigned vcpu;
    pthread_t thread;
    atomic_bool stop;
    atomic_ullong rounds;  /* OUTs to PORT_ROUND */
    atomic_ullong mmio;    /* MMIO writes that came to the client */
    atomic_ullong last;    /* the last of them */
    atomic_ullong other;   /* OUTs to other ports */
    atomic_ullong faults;  /* KVM_RUN failed with EFAULT */
};

void runner_start(struct runner *r, struct machine *m, unsigned vcpu);
void runner_stop(struct runner *r);
/* Enters the vCPU, whose runner is stopped, once and for nothing: the instruction of its last exit is over then. */
void runner_finish(struct machine *m, unsigned vcpu);
/* Until it has gone round so often. */
void runner_wait(struct runner *r, uint64_t more);

struct noise {
    struct machine *m;
    atomic_bool stop;
    pthread_t thread;
};

void noise_start(struct noise *n, struct machine *m, void *(*run)(void *));
void noise_stop(struct noise *n);

/* False when the row has been under load long enough. */
bool race_in_time(uint64_t begin);
/* With an interrupt chip; RSI is SLOT_GPA. */
struct machine race_machine(const uint8_t *code, size_t bytes);
int race_eventfd(void);
void race_signal(int fd);
int race_irqfd(struct machine *m, int fd, uint32_t gsi, uint32_t flags);

void race_wait_taken(const struct machine *m, unsigned vector, uint32_t count);
/* Sends one after the other, each when the one before was taken, as long as there is time: IRQ_VECTOR is taken once for each. */
void race_send_and_count(struct machine *m, void (*send)(struct machine *m, int fd), int fd);
/* Senders: an edge of GSI 24, the eventfd, an MSI. */
void race_send_line(struct machine *m, int fd);
void race_send_event(struct machine *m, int fd);
void race_send_msi(struct machine *m, int fd);

#endif
