/* SPDX-License-Identifier: MIT */
/*
 * What the KVM API does for devices without a vCPU's thread: doorbells (KVM_IOEVENTFD) and message-signalled interrupts, a route of
 * KVM_SET_GSI_ROUTING each with an eventfd of KVM_IRQFD. The same calls on both back ends.
 *
 *   GSI 0..23   the chips' pins: 0 to 15 of the 8259s and the I/O APIC, the rest of the I/O APIC; IRQ 0 is at pin 2, as ACPI says
 *   GSI 24..    messages
 */
#ifndef KAGE_MACHINE_EVENTS_H
#define KAGE_MACHINE_EVENTS_H

#include <pthread.h>

#include <kage.h>

#include "dev/device.h"

#define EVENTS_GSI_BASE 24u
#define EVENTS_MESSAGES_MAX 1024u

struct events {
    const struct kvm_backend *backend;
    int vm_fd;
    struct msi msi;
    struct doorbells doorbells;
    pthread_mutex_t lock; /* of what follows */
    unsigned count;       /* messages ever opened; those closed are used again */
    struct {
        int fd; /* -1: closed */
        bool set;
        uint64_t address;
        uint32_t data;
    } messages[EVENTS_MESSAGES_MAX];
    struct kvm_irq_routing *routing; /* room for all */
};

/* Once the interrupt chips are there. 0 or -errno. */
int events_init(struct events *events, const struct kvm_backend *backend, int vm_fd);
void events_fini(struct events *events);

#endif
