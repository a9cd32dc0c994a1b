/* SPDX-License-Identifier: MIT */
/* I/O events, rings, filters, vCPUs that come and go, kicks, and the end of it all. */
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "race.h"

/* ---- I/O ---- */

GUEST(notify, 64, "1: inc %rbx; mov %ebx, (%rsi); out %al, $0x80; jmp 1b");

/* Each write is an event or an exit. */
static void ioeventfd_changes(void)
{
    struct machine m = race_machine(GUEST_BYTES(notify));
    struct runner r;
    int fd = race_eventfd();
    struct kvm_ioeventfd args = { .addr = SLOT_GPA, .len = 4, .fd = fd };
    uint64_t begin = now_ns(), count = 0, events = 0;

    runner_start(&r, &m, 0);
    while (race_in_time(begin)) {
        args.flags = 0;
        CHECK_OK(ask(m.vm, KVM_IOEVENTFD, &args));
        runner_wait(&r, 2);
        args.flags = KVM_IOEVENTFD_FLAG_DEASSIGN;
        CHECK_OK(ask(m.vm, KVM_IOEVENTFD, &args));
        runner_wait(&r, 1);
    }
    runner_stop(&r);
    runner_finish(&m, 0);
    if (read(fd, &count, sizeof(count)) == sizeof(count))
        events = count;
    CHECK_EQ(events + atomic_load(&r.mmio), machine_regs(&m, 0).rbx);
}

/* Two vCPUs into one coalescing zone, a reader of the ring: nothing is lost. */
static void coalesced_ring(void)
{
    struct machine m = race_machine(GUEST_BYTES(notify));
    struct kvm_coalesced_mmio_zone zone = { .addr = SLOT_GPA, .size = PAGE };
    int page = CHECK_OK(ask_number(m.system, KVM_CHECK_EXTENSION, KVM_CAP_COALESCED_MMIO));
    struct kvm_coalesced_mmio_ring *ring = (void *)((uint8_t *)m.run[0] + (size_t)page * PAGE);
    uint32_t entries = (PAGE - sizeof(*ring)) / sizeof(ring->coalesced_mmio[0]);
    struct runner r[2];
    uint64_t begin, drained = 0;

    machine_add_vcpu(&m, 1);
    machine_cpuid(&m, 1);
    machine_long_mode(&m, 1, GPA_CODE);
    CHECK_OK(ask(m.vcpu[1], KVM_SET_MP_STATE, &(struct kvm_mp_state){ KVM_MP_STATE_RUNNABLE }));
    struct kvm_regs regs = machine_regs(&m, 1);
    regs.rsi = SLOT_GPA + 8;
    CHECK_OK(ask(m.vcpu[1], KVM_SET_REGS, &regs));
    CHECK_OK(ask(m.vm, KVM_REGISTER_COALESCED_MMIO, &zone));
    runner_start(&r[0], &m, 0);
    runner_start(&r[1], &m, 1);
    for (begin = now_ns(); race_in_time(begin) || ring->first != __atomic_load_n(&ring->last, __ATOMIC_ACQUIRE);) {
        if (!race_in_time(begin)) { /* stop, then the rest */
            if (!atomic_load(&r[0].stop))
                runner_stop(&r[0]);
            if (!atomic_load(&r[1].stop))
                runner_stop(&r[1]);
        }
        for (uint32_t first = ring->first; first != __atomic_load_n(&ring->last, __ATOMIC_ACQUIRE);) {
            drained++;
            first = (first + 1) % entries;
            __atomic_store_n(&ring->first, first, __ATOMIC_RELEASE);
        }
    }
    for (unsigned i = 0; i < 2; i++) {
        if (!atomic_load(&r[i].stop))
            runner_stop(&r[i]);
        runner_finish(&m, i);
    }
    while (ring->first != ring->last) {
        drained++;
        ring->first = (ring->first + 1) % entries;
    }
    CHECK_EQ(drained + atomic_load(&r[0].mmio) + atomic_load(&r[1].mmio), machine_regs(&m, 0).rbx + machine_regs(&m, 1).rbx);
}

/* ---- the rest of a VM's changes ---- */

GUEST(rdmsr, 64, "mov $0x174, %ecx; 1: rdmsr; out %al, $0x80; jmp 1b");

static void msr_filter_changes(void)
{
    struct machine m = machine_boot(0, GUEST_BYTES(rdmsr));
    uint8_t bits = 0;
    struct kvm_msr_filter deny = { .ranges = { { .flags = KVM_MSR_FILTER_READ, .base = 0x174, .nmsrs = 1, .bitmap = &bits } } };
    struct kvm_msr_filter allow = { 0 };
    struct runner r;
    uint64_t begin = now_ns();

    CHECK_OK(machine_enable_cap(m.vm, KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER));
    runner_start(&r, &m, 0);
    while (race_in_time(begin)) {
        CHECK_OK(ask(m.vm, KVM_X86_SET_MSR_FILTER, &deny));
        uint64_t before = atomic_load(&r.other);
        runner_wait(&r, 3);
        CHECK(atomic_load(&r.other) > before);
        CHECK_OK(ask(m.vm, KVM_X86_SET_MSR_FILTER, &allow));
        runner_wait(&r, 1);
    }
    runner_stop(&r);
}

/* vCPUs are made, run a moment and closed, beside one that runs all the time. */
static void vcpus_come_and_go(void)
{
    struct machine m = irq_machine(WITH_IRQCHIP, 0);
    struct runner r;
    uint64_t begin = now_ns();

    runner_start(&r, &m, 0);
    for (unsigned id = 1; race_in_time(begin) && id < 60; id++) {
        struct machine other = m;
        other.vcpus = 1;
        machine_add_vcpu(&other, id);
        irq_vcpu(&other, 1, 0);
        RUN_TO_OUT(&other, 1, PORT_ROUND);
        CHECK_EQ(kvm->munmap(other.run[1], m.run_bytes) | kvm->close(other.vcpu[1]), 0);
        runner_wait(&r, 1);
    }
    runner_stop(&r);
}

/* State is read and written by other threads: each ioctl finds the vCPU between two KVM_RUNs. */
static void *read_state(void *opaque)
{
    struct noise *n = opaque;

    while (!atomic_load(&n->stop)) {
        struct kvm_regs regs;
        struct kvm_vcpu_events events;
        struct kvm_lapic_state lapic;
        struct kvm_clock_data clock;
        CHECK_OK(ask(n->m->vcpu[0], KVM_GET_REGS, &regs));
        CHECK(regs.rip >= GPA_CODE && regs.rip < GPA_CODE + 0x2000 + 0x1000 * 2);
        CHECK_OK(ask(n->m->vcpu[0], KVM_GET_VCPU_EVENTS, &events));
        CHECK_OK(ask(n->m->vcpu[0], KVM_GET_LAPIC, &lapic));
        CHECK_OK(ask(n->m->vm, KVM_GET_CLOCK, &clock));
        CHECK_OK(ask(n->m->vcpu[0], KVM_NMI, NULL));
    }
    return NULL;
}

GUEST(nmi, 64, "lock incl 0x10ff8; iretq");

static void state_read_under_load(void)
{
    struct machine m = irq_machine(WITH_IRQCHIP, 0);
    struct runner r;
    struct noise n;

    machine_load(&m, 0xb800, GUEST_BYTES(nmi));
    machine_gate(&m, 2, 0xb800);
    runner_start(&r, &m, 0);
    noise_start(&n, &m, read_state);
    race_send_and_count(&m, race_send_msi, -1);
    noise_stop(&n);
    runner_stop(&r);
    CHECK(*(const uint32_t *)(const void *)(m.ram + 0x10ff8) > 0);
}

/*
 * Kicks by immediate_exit and a signal, of vCPUs that never leave by themselves, while interrupts are sent to them: each kick ends
 * one KVM_RUN, and each interrupt is taken once.
 */
GUEST(spin, 64, "sti; 1: inc %rbx; pause; jmp 1b");

struct kicked {
    struct machine *m;
    unsigned vcpu;
    pthread_t thread;
    atomic_uint done; /* kicks that ended a KVM_RUN */
    atomic_bool stop;
};

static void on_kick(int sig)
{
    (void)sig;
}

static void *run_kicked(void *opaque)
{
    struct kicked *k = opaque;
    struct kvm_run *run = k->m->run[k->vcpu];

    while (!atomic_load(&k->stop)) {
        CHECK_EQ(machine_run(k->m, k->vcpu), -EINTR);
        if (__atomic_exchange_n(&run->immediate_exit, 0, __ATOMIC_SEQ_CST))
            atomic_fetch_add(&k->done, 1);
    }
    return NULL;
}

static void kick_once(struct kicked *k)
{
    unsigned done = atomic_load(&k->done);

    __atomic_store_n(&k->m->run[k->vcpu]->immediate_exit, 1, __ATOMIC_SEQ_CST);
    pthread_kill(k->thread, SIGUSR1);
    while (atomic_load(&k->done) == done)
        sched_yield();
}

static void *kick_on(void *opaque)
{
    struct kicked *k = opaque;

    while (!atomic_load(&k->stop))
        kick_once(k);
    return NULL;
}

static void kicks_under_interrupts(void)
{
#ifdef __SANITIZE_THREAD__
    row_skip("ThreadSanitizer holds signals back");
#endif
    struct machine m = irq_machine(WITH_IRQCHIP, 0);
    struct kicked kicked[2];
    pthread_t kickers[2];
    struct sigaction action = { .sa_handler = on_kick };

    CHECK_EQ(sigaction(SIGUSR1, &action, NULL), 0);
    machine_load(&m, 0xb900, GUEST_BYTES(spin));
    machine_add_vcpu(&m, 1);
    irq_vcpu(&m, 1, 0);
    for (unsigned i = 0; i < 2; i++) {
        struct kvm_regs regs = machine_regs(&m, i);
        regs.rip = 0xb900;
        CHECK_OK(ask(m.vcpu[i], KVM_SET_REGS, &regs));
        memset(&kicked[i], 0, sizeof(kicked[i]));
        kicked[i].m = &m;
        kicked[i].vcpu = i;
        CHECK_EQ(pthread_create(&kicked[i].thread, NULL, run_kicked, &kicked[i]), 0);
    }
    for (unsigned i = 0; i < 2; i++)
        CHECK_EQ(pthread_create(&kickers[i], NULL, kick_on, &kicked[i]), 0);
    race_send_and_count(&m, race_send_msi, -1);
    for (unsigned i = 0; i < 2; i++) {
        atomic_store(&kicked[i].stop, true);
        pthread_join(kickers[i], NULL); /* its last kick ends the last KVM_RUN, or another one does */
        m.run[i]->immediate_exit = 1;
        while (pthread_tryjoin_np(kicked[i].thread, NULL) != 0)
            pthread_kill(kicked[i].thread, SIGUSR1);
        CHECK(atomic_load(&kicked[i].done) > 10);
    }
}

/* Everything is closed while the threads of the chips and of irqfds are at work. */
static void closed_under_load(void)
{
    uint64_t begin = now_ns();

    while (race_in_time(begin)) {
        struct machine m = irq_machine(WITH_IRQCHIP | WITH_PIT, 0);
        struct runner r;
        int fd = race_eventfd();
        route_msi(&m, 24, IRQ_VECTOR);
        CHECK_OK(race_irqfd(&m, fd, 24, 0));
        runner_start(&r, &m, 0);
        for (unsigned i = 0; i < 20; i++)
            race_signal(fd);
        runner_wait(&r, 2);
        runner_stop(&r);
        race_signal(fd);
        CHECK_EQ(kvm->close(m.vm) | kvm->close(m.vcpu[0]) | kvm->close(m.system), 0);
        CHECK_EQ(kvm->munmap(m.run[0], m.run_bytes) | munmap(m.ram, RAM_BYTES) | close(fd), 0);
    }
}

static const struct row rows[] = {
    { "ioeventfd changes", ioeventfd_changes }, { "coalesced ring", coalesced_ring }, { "msr filter changes", msr_filter_changes },
    { "vcpus come and go", vcpus_come_and_go }, { "state read under load", state_read_under_load },
    { "kicks under interrupts", kicks_under_interrupts }, { "closed under load", closed_under_load },
};
THEME(race_vm, rows);
