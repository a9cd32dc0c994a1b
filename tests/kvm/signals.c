/* SPDX-License-Identifier: MIT */
/*
 * Leaving KVM_RUN from outside: immediate_exit, signals, KVM_SET_SIGNAL_MASK (api.rst 4.10, 4.21), while the guest computes, halts, or
 * waits for INIT; and that no kick is lost.
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "machine.h"

GUEST(spin, 64, "1: inc %rbx; jmp 1b");
GUEST(halt, 64, "sti; 1: hlt; jmp 1b");
GUEST(ports, 64, "1: in $0x10, %al; incq 0x10000; jmp 1b");

static atomic_int handled;
static struct kvm_run *volatile handler_run; /* what the handler sets immediate_exit of */

static void on_signal(int sig)
{
    (void)sig;
    atomic_fetch_add(&handled, 1);
    if (handler_run)
        handler_run->immediate_exit = 1;
}

static void install(int sig)
{
    struct sigaction action = { .sa_handler = on_signal };

    CHECK_EQ(sigaction(sig, &action, NULL), 0);
}

struct kicker {
    pthread_t target;
    unsigned after_ms, times;
    int sig;
    atomic_bool stop;
};

static void *kick(void *opaque)
{
    struct kicker *kicker = opaque;

    for (unsigned i = 0; i < kicker->times && !atomic_load(&kicker->stop); i++) {
        sleep_ms(kicker->after_ms);
        pthread_kill(kicker->target, kicker->sig);
    }
    return NULL;
}

static pthread_t start_kicker(struct kicker *kicker)
{
    pthread_t thread;

    kicker->target = pthread_self();
    CHECK_EQ(pthread_create(&thread, NULL, kick, kicker), 0);
    return thread;
}

static void check_interrupted(struct machine *m)
{
    CHECK_EQ(machine_run(m, 0), -EINTR);
    CHECK_EQ(m->run[0]->exit_reason, KVM_EXIT_INTR);
}

/* A signal gets it out of code that never exits by itself, again and again; the guest goes on where it was. */
static void out_of_a_loop(void)
{
    struct machine m = machine_boot(WITH_IRQCHIP, GUEST_BYTES(spin));
    struct kicker kicker = { .after_ms = 10, .times = 10000, .sig = SIGUSR1 };
    uint64_t before = 0;

    install(SIGUSR1);
    pthread_t thread = start_kicker(&kicker);
    for (unsigned i = 0; i < 5; i++) {
        check_interrupted(&m);
        uint64_t now = machine_regs(&m, 0).rbx;
        CHECK(now > before);
        before = now;
    }
    atomic_store(&kicker.stop, true);
    pthread_join(thread, NULL);
    CHECK(atomic_load(&handled) >= 5);
}

static void out_of_halt(void)
{
    struct machine m = machine_boot(WITH_IRQCHIP, GUEST_BYTES(halt));
    struct kicker kicker = { .after_ms = 20, .times = 1, .sig = SIGUSR1 };
    struct kvm_mp_state state;

    install(SIGUSR1);
    pthread_t thread = start_kicker(&kicker);
    check_interrupted(&m);
    pthread_join(thread, NULL);
    CHECK_OK(ask(m.vcpu[0], KVM_GET_MP_STATE, &state));
    CHECK_EQ(state.mp_state, KVM_MP_STATE_HALTED);
}

/* A vCPU that waits for INIT blocks in KVM_RUN; the kernel leaves it with EAGAIN then and when. */
static void out_of_wait_for_init(void)
{
    struct machine m = machine_new(WITH_IRQCHIP, 2);
    struct kicker kicker = { .after_ms = 20, .times = 1, .sig = SIGUSR1 };

    install(SIGUSR1);
    pthread_t thread = start_kicker(&kicker);
    int result = machine_run(&m, 1);
    CHECK(result == -EINTR || result == -EAGAIN);
    pthread_join(thread, NULL);
}

/* The signal came before KVM_RUN: it is no reason to leave, the handler has run. immediate_exit, set by it, is. */
static void handler_sets_immediate_exit(void)
{
    struct machine m = machine_boot(WITH_IRQCHIP, GUEST_BYTES(spin));

    handler_run = m.run[0];
    install(SIGUSR1);
    raise(SIGUSR1);
    CHECK_EQ(machine_run(&m, 0), -EINTR);
    CHECK_EQ(m.run[0]->immediate_exit, 1); /* the client's to clear */
}

/* A signal that is blocked does not end KVM_RUN: only the second one does. */
static void blocked_signal_does_not(void)
{
    struct machine m = machine_boot(WITH_IRQCHIP, GUEST_BYTES(spin));
    struct kicker wrong = { .after_ms = 5, .times = 4, .sig = SIGUSR2 }, right = { .after_ms = 60, .times = 1, .sig = SIGUSR1 };
    sigset_t set;
    uint64_t start = now_ns();

    install(SIGUSR1);
    install(SIGUSR2);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    pthread_t a = start_kicker(&wrong), b = start_kicker(&right);
    check_interrupted(&m);
    CHECK(now_ns() - start > 50000000);
    CHECK_EQ(atomic_load(&handled), 1);
    pthread_join(a, NULL);
    pthread_join(b, NULL);
}

static void ignored_signal_does_not(void)
{
    struct machine m = machine_boot(WITH_IRQCHIP, GUEST_BYTES(spin));
    struct kicker wrong = { .after_ms = 5, .times = 4, .sig = SIGUSR2 }, right = { .after_ms = 60, .times = 1, .sig = SIGUSR1 };
    uint64_t start = now_ns();

    install(SIGUSR1);
    signal(SIGUSR2, SIG_IGN);
    pthread_t a = start_kicker(&wrong), b = start_kicker(&right);
    check_interrupted(&m);
    CHECK(now_ns() - start > 50000000);
    pthread_join(a, NULL);
    pthread_join(b, NULL);
}

static void set_mask(struct machine *m, const sigset_t *set)
{
    struct {
        struct signal_mask_head head;
        uint8_t bits[8];
    } mask = { .head.len = 8 };

    memcpy(mask.bits, set, 8);
    CHECK_OK(ask(m->vcpu[0], KVM_SET_SIGNAL_MASK, set ? &mask : NULL));
}

/*
 * The classic way: SIG_IPI blocked everywhere but in KVM_RUN. A signal that is pending when KVM_RUN begins ends it at once, its handler
 * does not run, and it stays pending for sigtimedwait(2).
 */
static void mask_unblocks_in_run(void)
{
    struct machine m = machine_boot(WITH_IRQCHIP, GUEST_BYTES(spin));
    sigset_t blocked, in_run;
    struct timespec no_time = { 0 };

    install(SIGUSR1);
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &blocked, NULL);
    sigemptyset(&in_run);
    set_mask(&m, &in_run);
    raise(SIGUSR1);
    check_interrupted(&m);
    sigset_t now;
    pthread_sigmask(SIG_SETMASK, NULL, &now);
    CHECK_EQ(sigismember(&now, SIGUSR1), 1); /* the mask outside is as it was */
    CHECK_EQ(sigtimedwait(&blocked, NULL, &no_time), SIGUSR1);
    CHECK_EQ(atomic_load(&handled), 0);
    struct kicker kicker = { .after_ms = 20, .times = 1, .sig = SIGUSR1 };
    pthread_t thread = start_kicker(&kicker);
    check_interrupted(&m);
    pthread_join(thread, NULL);
}

/* The same without a handler: the default action, death, is not taken. */
static void mask_unblocks_the_default(void)
{
    struct machine m = machine_boot(WITH_IRQCHIP, GUEST_BYTES(spin));
    struct kicker kicker = { .after_ms = 20, .times = 1, .sig = SIGUSR2 };
    sigset_t blocked, in_run;
    struct timespec no_time = { 0 };

    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR2);
    pthread_sigmask(SIG_BLOCK, &blocked, NULL);
    sigemptyset(&in_run);
    set_mask(&m, &in_run);
    pthread_t thread = start_kicker(&kicker);
    check_interrupted(&m);
    pthread_join(thread, NULL);
    check_interrupted(&m); /* it is pending still */
    CHECK_EQ(sigtimedwait(&blocked, NULL, &no_time), SIGUSR2);
    CHECK_EQ(sigtimedwait(&blocked, NULL, &no_time), -1);
}

/* Everything blocked in KVM_RUN: the guest's faults are its own all the same. */
GUEST(divide, 64, "xor %ecx, %ecx; div %ecx; hlt");
GUEST(divided, 64, "out %al, $0x80; hlt");

static void mask_blocks_faults(void)
{
    struct machine m = machine_boot(WITH_IRQCHIP, GUEST_BYTES(divide));
    sigset_t all;

    machine_load(&m, GPA_HANDLER, GUEST_BYTES(divided));
    machine_gate(&m, 0, GPA_HANDLER);
    sigfillset(&all);
    set_mask(&m, &all);
    RUN_TO_OUT(&m, 0, 0x80);
}

/* The mask may block in KVM_RUN what is not blocked outside. */
static void mask_blocks_in_run(void)
{
    struct machine m = machine_boot(WITH_IRQCHIP, GUEST_BYTES(spin));
    struct kicker wrong = { .after_ms = 5, .times = 4, .sig = SIGUSR2 }, right = { .after_ms = 60, .times = 1, .sig = SIGUSR1 };
    sigset_t in_run;
    uint64_t start = now_ns();

    install(SIGUSR1);
    install(SIGUSR2);
    sigemptyset(&in_run);
    sigaddset(&in_run, SIGUSR2);
    set_mask(&m, &in_run);
    pthread_t a = start_kicker(&wrong), b = start_kicker(&right);
    check_interrupted(&m);
    CHECK(now_ns() - start > 50000000);
    pthread_join(a, NULL);
    pthread_join(b, NULL);
    CHECK(atomic_load(&handled) >= 2); /* the blocked ones were delivered behind KVM_RUN */
    CHECK_OK(ask(m.vcpu[0], KVM_SET_SIGNAL_MASK, NULL));
    struct kicker again = { .after_ms = 20, .times = 1, .sig = SIGUSR2 };
    a = start_kicker(&again);
    check_interrupted(&m);
    pthread_join(a, NULL);
}

/* An exit that is due anyway is not lost to a signal: each IN is answered once, whatever comes between. */
static void kicks_lose_no_exit(void)
{
    struct machine m = machine_boot(WITH_IRQCHIP, GUEST_BYTES(ports));
    struct kicker kicker = { .after_ms = 1, .times = 100000, .sig = SIGUSR1 };
    uint64_t answered = 0, interrupted = 0, count;

    handler_run = m.run[0];
    install(SIGUSR1);
    pthread_t thread = start_kicker(&kicker);
    for (uint64_t end = now_ns() + 300000000; now_ns() < end || interrupted < 3;) {
        int result = machine_run(&m, 0);
        if (result == -EINTR) {
            m.run[0]->immediate_exit = 0;
            interrupted++;
            continue;
        }
        CHECK_EQ(result, 0);
        CHECK_EQ(m.run[0]->exit_reason, KVM_EXIT_IO);
        answered++;
    }
    atomic_store(&kicker.stop, true);
    pthread_join(thread, NULL);
    m.run[0]->immediate_exit = 1; /* completes the last */
    CHECK_EQ(machine_run(&m, 0), -EINTR);
    memcpy(&count, m.ram + GPA_DATA, 8);
    CHECK(answered == count || answered == count + 1); /* the increment behind the last IN may not have run */
}

/* A thread that runs two vCPUs in turns: the signal ends the KVM_RUN that it meets. */
static void two_vcpus_of_one_thread(void)
{
    struct machine m = machine_new(WITH_IRQCHIP, 2);
    struct kicker kicker = { .after_ms = 10, .times = 10000, .sig = SIGUSR1 };

    install(SIGUSR1);
    machine_load(&m, GPA_CODE, GUEST_BYTES(spin));
    machine_cpuid(&m, 0);
    machine_long_mode(&m, 0, GPA_CODE);
    pthread_t thread = start_kicker(&kicker);
    for (unsigned i = 0; i < 6; i++) { /* the second waits for INIT */
        int result = machine_run(&m, i & 1);
        CHECK(result == -EINTR || ((i & 1) && result == -EAGAIN));
    }
    atomic_store(&kicker.stop, true);
    pthread_join(thread, NULL);
}

/* immediate_exit set by another thread, then the signal: however they fall, KVM_RUN ends. */
struct racer {
    struct machine *m;
    pthread_t target;
    atomic_uint rounds;
};

static void *race(void *opaque)
{
    struct racer *racer = opaque;

    for (unsigned seen = 0; seen < 300;) {
        if (atomic_load(&racer->rounds) == seen)
            continue;
        seen++;
        __atomic_store_n(&racer->m->run[0]->immediate_exit, 1, __ATOMIC_SEQ_CST);
        pthread_kill(racer->target, SIGUSR1);
    }
    return NULL;
}

static void no_kick_is_lost(void)
{
    struct machine m = machine_boot(WITH_IRQCHIP, GUEST_BYTES(spin));
    struct racer racer = { .m = &m, .target = pthread_self() };
    pthread_t thread;

    install(SIGUSR1);
    CHECK_EQ(pthread_create(&thread, NULL, race, &racer), 0);
    for (unsigned i = 0; i < 300; i++) {
        __atomic_store_n(&m.run[0]->immediate_exit, 0, __ATOMIC_SEQ_CST);
        atomic_fetch_add(&racer.rounds, 1);
        CHECK_EQ(machine_run(&m, 0), -EINTR);
        while (!__atomic_load_n(&m.run[0]->immediate_exit, __ATOMIC_SEQ_CST))
            ; /* the signal of the round before ended this one */
    }
    pthread_join(thread, NULL);
}

/* ioctls of a vCPU wait for KVM_RUN to return. */
static void *get_regs(void *opaque)
{
    struct machine *m = opaque;
    struct kvm_regs regs;

    CHECK_OK(ask(m->vcpu[0], KVM_GET_REGS, &regs));
    return (void *)(uintptr_t)now_ns();
}

static void ioctls_wait_for_run(void)
{
    struct machine m = machine_boot(WITH_IRQCHIP, GUEST_BYTES(spin));
    struct kicker kicker = { .after_ms = 60, .times = 1, .sig = SIGUSR1 };
    pthread_t other;
    void *done;
    uint64_t start = now_ns();

    install(SIGUSR1);
    pthread_t thread = start_kicker(&kicker);
    sigset_t set;
    sigemptyset(&set);
    CHECK_EQ(pthread_create(&other, NULL, get_regs, &m), 0);
    check_interrupted(&m);
    pthread_join(thread, NULL);
    pthread_join(other, &done);
    CHECK((uint64_t)(uintptr_t)done - start < 10000000000u);
}

static const struct row rows[] = {
    { "out of a loop", out_of_a_loop }, { "out of halt", out_of_halt }, { "out of wait for init", out_of_wait_for_init },
    { "handler sets immediate exit", handler_sets_immediate_exit }, { "blocked signal does not", blocked_signal_does_not },
    { "ignored signal does not", ignored_signal_does_not }, { "mask unblocks in run", mask_unblocks_in_run },
    { "mask unblocks the default", mask_unblocks_the_default }, { "mask blocks faults", mask_blocks_faults },
    { "mask blocks in run", mask_blocks_in_run }, { "kicks lose no exit", kicks_lose_no_exit }, { "no kick is lost", no_kick_is_lost },
    { "ioctls wait for run", ioctls_wait_for_run }, { "two vcpus of one thread", two_vcpus_of_one_thread },
};
THEME(signals, rows);
