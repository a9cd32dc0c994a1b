/* SPDX-License-Identifier: MIT */
#include "machine/events.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "util/log.h"

#define ISA_IRQS 16u
#define PIC_PINS 8u
#define TIMER_PIN 2u
#define CHIP_ROUTES (EVENTS_GSI_BASE + ISA_IRQS)

/* ---- Doorbells ---- */

static int events_doorbell(struct events *events, const struct doorbell *doorbell, uint32_t flags)
{
    struct kvm_ioeventfd event = {
        .datamatch = doorbell->match ? doorbell->value : 0,
        .addr = doorbell->address,
        .len = doorbell->bytes,
        .fd = doorbell->fd,
        .flags = flags | (doorbell->match ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0) | (doorbell->port ? KVM_IOEVENTFD_FLAG_PIO : 0),
    };
    return events->backend->ioctl(events->vm_fd, KVM_IOEVENTFD, &event) == 0 ? 0 : -errno;
}

static int events_add_doorbell(void *opaque, const struct doorbell *doorbell)
{
    return events_doorbell(opaque, doorbell, 0);
}

static void events_remove_doorbell(void *opaque, const struct doorbell *doorbell)
{
    events_doorbell(opaque, doorbell, KVM_IOEVENTFD_FLAG_DEASSIGN);
}

/* ---- Routes ---- */

static void events_add_pin(struct kvm_irq_routing *routing, uint32_t gsi, uint32_t chip, uint32_t pin)
{
    struct kvm_irq_routing_entry *entry = &routing->entries[routing->nr++];
    *entry = (struct kvm_irq_routing_entry){.gsi = gsi, .type = KVM_IRQ_ROUTING_IRQCHIP};
    entry->u.irqchip.irqchip = chip;
    entry->u.irqchip.pin = pin;
}

static void events_add_chips(struct kvm_irq_routing *routing)
{
    for (uint32_t irq = 0; irq < ISA_IRQS; irq++) {
        events_add_pin(routing, irq, irq < PIC_PINS ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE, irq % PIC_PINS);
    }
    for (uint32_t pin = 0; pin < EVENTS_GSI_BASE; pin++) {
        if (pin != TIMER_PIN) {
            events_add_pin(routing, pin, KVM_IRQCHIP_IOAPIC, pin == 0 ? TIMER_PIN : pin);
        }
    }
}

/* The whole table goes to the back end each time: there is no other call. */
static int events_update(struct events *events)
{
    struct kvm_irq_routing *routing = events->routing;
    routing->nr = 0;
    routing->flags = 0;
    events_add_chips(routing);
    for (unsigned i = 0; i < events->count; i++) {
        if (events->messages[i].set) {
            struct kvm_irq_routing_entry *entry = &routing->entries[routing->nr++];
            *entry = (struct kvm_irq_routing_entry){.gsi = EVENTS_GSI_BASE + i, .type = KVM_IRQ_ROUTING_MSI};
            entry->u.msi.address_lo = (uint32_t)events->messages[i].address;
            entry->u.msi.address_hi = (uint32_t)(events->messages[i].address >> 32);
            entry->u.msi.data = events->messages[i].data;
        }
    }
    return events->backend->ioctl(events->vm_fd, KVM_SET_GSI_ROUTING, routing) == 0 ? 0 : -errno;
}

static int events_irqfd(struct events *events, unsigned route, uint32_t flags)
{
    struct kvm_irqfd irqfd = {.fd = (uint32_t)events->messages[route].fd, .gsi = EVENTS_GSI_BASE + route, .flags = flags};
    return events->backend->ioctl(events->vm_fd, KVM_IRQFD, &irqfd) == 0 ? 0 : -errno;
}

/* ---- Messages ---- */

static int events_open_locked(struct events *events)
{
    unsigned route = 0;
    while (route < events->count && events->messages[route].fd >= 0) {
        route++;
    }
    if (route == EVENTS_MESSAGES_MAX) {
        return -ENOSPC;
    }
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0) {
        return -errno;
    }
    events->messages[route].fd = fd;
    events->messages[route].set = false;
    int result = events_irqfd(events, route, 0);
    if (result != 0) {
        close(fd);
        events->messages[route].fd = -1;
        return result;
    }
    events->count = route >= events->count ? route + 1 : events->count;
    return (int)route;
}

static int events_open(void *opaque)
{
    struct events *events = opaque;
    pthread_mutex_lock(&events->lock);
    int route = events_open_locked(events);
    pthread_mutex_unlock(&events->lock);
    return route;
}

static void events_set(void *opaque, int route, uint64_t address, uint32_t data)
{
    struct events *events = opaque;
    pthread_mutex_lock(&events->lock);
    events->messages[route].set = true;
    events->messages[route].address = address;
    events->messages[route].data = data;
    int result = events_update(events);
    if (result != 0) {
        log_line(LOG_GUEST, "no route for the message 0x%x at 0x%llx: %s", data, (unsigned long long)address, strerror(-result));
        events->messages[route].set = false; /* not to spoil the others' next time */
    }
    pthread_mutex_unlock(&events->lock);
}

static void events_signal(void *opaque, int route)
{
    const struct events *events = opaque;
    eventfd_write(events->messages[route].fd, 1);
}

static void events_close(void *opaque, int route)
{
    struct events *events = opaque;
    pthread_mutex_lock(&events->lock);
    events_irqfd(events, (unsigned)route, KVM_IRQFD_FLAG_DEASSIGN);
    close(events->messages[route].fd);
    events->messages[route].fd = -1;
    events->messages[route].set = false; /* its route goes with the next change */
    pthread_mutex_unlock(&events->lock);
}

/* ---- Life ---- */

int events_init(struct events *events, const struct kvm_backend *backend, int vm_fd)
{
    events->backend = backend;
    events->vm_fd = vm_fd;
    events->count = 0;
    events->routing = calloc(1, sizeof(*events->routing) + (CHIP_ROUTES + EVENTS_MESSAGES_MAX) * sizeof(events->routing->entries[0]));
    if (events->routing == NULL) {
        return -ENOMEM;
    }
    pthread_mutex_init(&events->lock, NULL);
    events->msi = (struct msi){.open = events_open, .set = events_set, .signal = events_signal, .close = events_close, .opaque = events};
    events->doorbells = (struct doorbells){.add = events_add_doorbell, .remove = events_remove_doorbell, .opaque = events};
    return events_update(events);
}

void events_fini(struct events *events)
{
    if (events->routing != NULL) {
        for (unsigned i = 0; i < events->count; i++) {
            if (events->messages[i].fd >= 0) {
                events_close(events, (int)i);
            }
        }
        free(events->routing);
        events->routing = NULL;
        pthread_mutex_destroy(&events->lock);
    }
}
