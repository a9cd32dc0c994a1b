/* SPDX-License-Identifier: MIT */
/* Routes and irqfds that change, and interrupts for several vCPUs at once: each that is sent is received once. */
#include <string.h>
#include <unistd.h>

#include "race.h"

/* Two tables that send GSI 24 to vector 41h; the rest of them changes. */
static void *change_routes(void *opaque)
{
    struct noise *n = opaque;
    static struct {
        struct routing_head head;
        struct kvm_irq_routing_entry entries[32];
    } table;

    for (unsigned i = 0; !atomic_load(&n->stop); i++) {
        table.head.nr = 1 + i % 31;
        for (uint32_t e = 0; e < table.head.nr; e++)
            table.entries[e] = (struct kvm_irq_routing_entry){
                .gsi = 24 + e, .type = KVM_IRQ_ROUTING_MSI,
                .u.msi = { .address_lo = 0xfee00000u, .data = e ? 0x90 + i % 8 : IRQ_VECTOR }
            };
        CHECK_OK(ask(n->m->vm, KVM_SET_GSI_ROUTING, &table));
    }
    return NULL;
}

static void race_routes(unsigned with, void (*send)(struct machine *, int), bool by_fd)
{
    struct machine m = irq_machine(with, 0);
    struct runner r;
    struct noise n;
    int fd = race_eventfd();

    route_msi(&m, 24, IRQ_VECTOR);
    if (by_fd)
        CHECK_OK(race_irqfd(&m, fd, 24, 0));
    runner_start(&r, &m, 0);
    noise_start(&n, &m, change_routes);
    race_send_and_count(&m, send, fd);
    noise_stop(&n);
    runner_stop(&r);
}

static void routes_under_lines(void)
{
    race_routes(WITH_IRQCHIP, race_send_line, false);
}

static void routes_under_irqfds(void)
{
    race_routes(WITH_IRQCHIP, race_send_event, true);
}

static void routes_under_irqfds_split(void)
{
    race_routes(WITH_SPLIT, race_send_event, true);
}

static void routes_under_msis(void)
{
    race_routes(WITH_IRQCHIP, race_send_msi, false);
}

/* Other irqfds come and go. */
static void *change_irqfds(void *opaque)
{
    struct noise *n = opaque;
    int fds[4];

    for (unsigned i = 0; i < 4; i++)
        fds[i] = race_eventfd();
    for (unsigned i = 0; !atomic_load(&n->stop); i++) {
        int fd = fds[i % 4];
        CHECK_OK(race_irqfd(n->m, fd, 40 + i % 8, 0));
        race_signal(fd);
        CHECK_OK(race_irqfd(n->m, fd, 40 + i % 8, KVM_IRQFD_FLAG_DEASSIGN));
    }
    return NULL;
}

static void irqfds_under_load(void)
{
    struct machine m = irq_machine(WITH_IRQCHIP, 0);
    struct runner r;
    struct noise n;
    int fd = race_eventfd();

    route_msi(&m, 24, IRQ_VECTOR);
    CHECK_OK(race_irqfd(&m, fd, 24, 0));
    runner_start(&r, &m, 0);
    noise_start(&n, &m, change_irqfds);
    race_send_and_count(&m, race_send_event, fd);
    noise_stop(&n);
    runner_stop(&r);
}

/* One that is itself taken away and given back between its signals: what it was signalled comes, once, by the interrupt or to the client. */
static void irqfd_reassigned(void)
{
    struct machine m = irq_machine(WITH_IRQCHIP, 0);
    struct runner r;
    int fd = race_eventfd();
    uint64_t begin = now_ns(), kept = 0;
    uint32_t sent = 0;

    route_msi(&m, 24, IRQ_VECTOR);
    runner_start(&r, &m, 0);
    while (race_in_time(begin)) {
        uint64_t count = 0;
        CHECK_OK(race_irqfd(&m, fd, 24, 0));
        race_signal(fd);
        if (sent % 3 == 0)
            race_wait_taken(&m, IRQ_VECTOR, sent + 1 - (uint32_t)kept);
        sent++;
        CHECK_OK(race_irqfd(&m, fd, 24, KVM_IRQFD_FLAG_DEASSIGN));
        if (read(fd, &count, sizeof(count)) == sizeof(count))
            kept += count;
        race_wait_taken(&m, IRQ_VECTOR, sent - (uint32_t)kept);
        CHECK_EQ(taken(&m, IRQ_VECTOR), sent - kept);
    }
    runner_stop(&r);
}

/* Four threads, a vector each, at two vCPUs that run. */
struct sender {
    struct machine *m;
    pthread_t thread;
    unsigned vector, apic;
};

static void *send_msis(void *opaque)
{
    struct sender *s = opaque;
    struct kvm_msi msi = { .address_lo = 0xfee00000u | s->apic << 12, .data = s->vector };
    uint64_t begin = now_ns();

    for (uint32_t sent = 0; race_in_time(begin);) {
        CHECK_EQ(ask(s->m->vm, KVM_SIGNAL_MSI, &msi), 1);
        race_wait_taken(s->m, s->vector, ++sent);
        CHECK_EQ(taken(s->m, s->vector), sent);
    }
    return NULL;
}

static void msis_to_two_vcpus(void)
{
    struct machine m = irq_machine(WITH_IRQCHIP, 0);
    struct runner r[2];
    struct sender senders[4];

    machine_add_vcpu(&m, 1);
    irq_vcpu(&m, 1, 0);
    runner_start(&r[0], &m, 0);
    runner_start(&r[1], &m, 1);
    runner_wait(&r[0], 3);
    runner_wait(&r[1], 3); /* their APICs are on */
    for (unsigned i = 0; i < 4; i++) {
        senders[i] = (struct sender){ .m = &m, .vector = 0x60 + 0x11 * i, .apic = i & 1 };
        CHECK_EQ(pthread_create(&senders[i].thread, NULL, send_msis, &senders[i]), 0);
    }
    for (unsigned i = 0; i < 4; i++)
        pthread_join(senders[i].thread, NULL);
    runner_stop(&r[0]);
    runner_stop(&r[1]);
}

/* vCPUs that sleep are woken by what is sent, every time. */
static void msis_wake_from_halt(void)
{
    struct machine m = irq_machine(WITH_IRQCHIP, IRQ_HALTS);
    struct runner r;
    struct kvm_msi msi = { .address_lo = 0xfee00000u, .data = IRQ_VECTOR };

    runner_start(&r, &m, 0);
    race_send_and_count(&m, race_send_msi, -1);
    atomic_store(&r.stop, true);
    while (atomic_load(&r.stop) && pthread_tryjoin_np(r.thread, NULL) != 0) /* asleep: out of KVM_RUN by one more */
        CHECK_EQ(ask(m.vm, KVM_SIGNAL_MSI, &msi), 1);
}

static const struct row rows[] = {
    { "routes under lines", routes_under_lines }, { "routes under irqfds", routes_under_irqfds },
    { "routes under irqfds, split", routes_under_irqfds_split }, { "routes under msis", routes_under_msis },
    { "irqfds under load", irqfds_under_load }, { "irqfd reassigned", irqfd_reassigned }, { "msis to two vcpus", msis_to_two_vcpus },
    { "msis wake from halt", msis_wake_from_halt },
};
THEME(race_irq, rows);
