/* SPDX-License-Identifier: MIT */
#include "race.h"

#include <sched.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define RACE_NS 700000000u /* a row's time under load */

/* ---- vCPU threads ---- */

static void *runner_run(void *opaque)
{
    struct runner *r = opaque;
    struct kvm_run *run = r->m->run[r->vcpu];

    while (!atomic_load(&r->stop)) {
        int result = machine_run(r->m, r->vcpu);
        if (result == -EINTR || result == -EAGAIN)
            continue;
        if (result == -EFAULT) {
            atomic_fetch_add(&r->faults, 1);
            continue;
        }
        CHECK_EQ(result, 0);
        if (run->exit_reason == KVM_EXIT_DIRTY_RING_FULL) {
            sched_yield(); /* whoever harvests makes room */
        } else if (run->exit_reason == KVM_EXIT_IO && run->io.port == PORT_ROUND) {
            atomic_fetch_add(&r->rounds, 1);
        } else if (run->exit_reason == KVM_EXIT_IO) {
            atomic_fetch_add(&r->other, 1);
        } else if (run->exit_reason == KVM_EXIT_MMIO) {
            uint64_t value = 0;
            memcpy(&value, run->mmio.data, run->mmio.len);
            if (run->mmio.is_write) {
                atomic_store(&r->last, value);
                atomic_fetch_add(&r->mmio, 1);
            } else {
                memset(run->mmio.data, 0, sizeof(run->mmio.data));
            }
        } else if (run->exit_reason == KVM_EXIT_X86_RDMSR) {
            run->msr.data = 0x77;
            atomic_fetch_add(&r->other, 1);
        } else {
            check_failed(__FILE__, __LINE__, "vCPU %u: exit %u", r->vcpu, run->exit_reason);
        }
    }
    return NULL;
}

void runner_start(struct runner *r, struct machine *m, unsigned vcpu)
{
    memset(r, 0, sizeof(*r));
    r->m = m;
    r->vcpu = vcpu;
    CHECK_EQ(pthread_create(&r->thread, NULL, runner_run, r), 0);
}

void runner_stop(struct runner *r)
{
    atomic_store(&r->stop, true);
    pthread_join(r->thread, NULL);
}

/* The instruction of the last exit is over. */
void runner_finish(struct machine *m, unsigned vcpu)
{
    m->run[vcpu]->immediate_exit = 1;
    CHECK_EQ(machine_run(m, vcpu), -EINTR);
    m->run[vcpu]->immediate_exit = 0;
}

void runner_wait(struct runner *r, uint64_t more)
{
    uint64_t until = atomic_load(&r->rounds) + more;

    while (atomic_load(&r->rounds) < until)
        sched_yield();
}

bool race_in_time(uint64_t begin)
{
    return now_ns() - begin < RACE_NS;
}

struct machine race_machine(const uint8_t *code, size_t bytes)
{
    struct machine m = machine_boot(WITH_IRQCHIP, code, bytes);
    struct kvm_regs regs = machine_regs(&m, 0);

    regs.rsi = SLOT_GPA;
    CHECK_OK(ask(m.vcpu[0], KVM_SET_REGS, &regs));
    return m;
}

/* ---- interrupts ---- */

/* Waits until a vector was taken so often; the row's time limit is the watchdog. */
void race_wait_taken(const struct machine *m, unsigned vector, uint32_t count)
{
    while (__atomic_load_n((const uint32_t *)(const void *)(m->ram + GPA_COUNTS + 4 * vector), __ATOMIC_SEQ_CST) < count)
        sched_yield();
}

int race_eventfd(void)
{
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

    CHECK(fd >= 0);
    return fd;
}

void race_signal(int fd)
{
    const uint64_t one = 1;

    CHECK_EQ(write(fd, &one, sizeof(one)), sizeof(one));
}

int race_irqfd(struct machine *m, int fd, uint32_t gsi, uint32_t flags)
{
    struct kvm_irqfd args = { .fd = (uint32_t)fd, .gsi = gsi, .flags = flags };

    return ask(m->vm, KVM_IRQFD, &args);
}

void noise_start(struct noise *n, struct machine *m, void *(*run)(void *))
{
    n->m = m;
    atomic_store(&n->stop, false);
    CHECK_EQ(pthread_create(&n->thread, NULL, run, n), 0);
}

void noise_stop(struct noise *n)
{
    atomic_store(&n->stop, true);
    pthread_join(n->thread, NULL);
}

void race_send_and_count(struct machine *m, void (*send)(struct machine *m, int fd), int fd)
{
    uint64_t begin = now_ns();
    uint32_t sent = 0;

    while (race_in_time(begin)) {
        send(m, fd);
        race_wait_taken(m, IRQ_VECTOR, ++sent);
        CHECK_EQ(taken(m, IRQ_VECTOR), sent);
    }
    CHECK(sent > 0);
}

void race_send_line(struct machine *m, int fd)
{
    (void)fd;
    set_line(m, 24, 1);
    set_line(m, 24, 0);
}

void race_send_event(struct machine *m, int fd)
{
    (void)m;
    race_signal(fd);
}

void race_send_msi(struct machine *m, int fd)
{
    struct kvm_msi msi = { .address_lo = 0xfee00000u, .data = IRQ_VECTOR };

    (void)fd;
    CHECK_EQ(ask(m->vm, KVM_SIGNAL_MSI, &msi), 1);
}
