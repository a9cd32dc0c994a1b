/* SPDX-License-Identifier: MIT */
/*
 * The client's signals beside the engine's: what sigaction says, who gets which fault, kicks of KVM_RUN, masks and stacks.
 */
#include "client.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>

/* jmp . */
static const uint8_t spin[] = {0xeb, 0xfe};
/* Divides by zero, and has the handler at IVT[0] (0:0x40) say so: xor %cx,%cx; div %cx … out %al,$0x80 */
static const uint8_t divide[0x42] = {[0] = 0x40, [4] = 0x31, 0xc9, 0xf7, 0xf1, 0xf4, [0x40] = 0xe6, 0x80};

/* Nothing is mapped there; the compiler must not know. */
static uint8_t *volatile nowhere = (uint8_t *)16;

static volatile sig_atomic_t plain_calls, info_calls, late_calls, fault_calls;
static volatile uintptr_t fault_at, handler_stack;
static sigjmp_buf after_fault;

static void on_plain(int sig)
{
    char here;

    (void)sig;
    handler_stack = (uintptr_t)&here;
    plain_calls++;
}

static void on_info(int sig, siginfo_t *info, void *context)
{
    (void)context;
    info_calls += info->si_signo == sig;
}

static void on_late(int sig)
{
    (void)sig;
    late_calls++;
}

static void on_own_fault(int sig, siginfo_t *info, void *context)
{
    (void)sig;
    (void)context;
    fault_at = (uintptr_t)info->si_addr;
    fault_calls++;
    siglongjmp(after_fault, 1);
}

static struct sigaction action_of(int sig)
{
    struct sigaction action;

    CHECK(sigaction(sig, NULL, &action) == 0);
    return action;
}

static struct sigaction set_handler(int sig, void (*handler)(int), int flags)
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags}, old;

    sigemptyset(&action.sa_mask);
    sigaddset(&action.sa_mask, SIGUSR2);
    sigaddset(&action.sa_mask, SIGSEGV);
    CHECK(sigaction(sig, &action, &old) == 0);
    return old;
}

/* What was set is what is said, whether handlers are wrapped or not. */
static void check_actions(void)
{
    set_handler(SIGUSR1, on_plain, SA_RESTART);
    struct sigaction now = action_of(SIGUSR1);
    CHECK(now.sa_handler == on_plain && (now.sa_flags & ~0x04000000) == SA_RESTART);
    CHECK(sigismember(&now.sa_mask, SIGSEGV) == 1 && sigismember(&now.sa_mask, SIGUSR2) == 1 && sigismember(&now.sa_mask, SIGHUP) == 0);
    CHECK(set_handler(SIGUSR1, on_late, 0).sa_handler == on_plain);
    CHECK(signal(SIGUSR1, SIG_IGN) == on_late);
    CHECK(signal(SIGUSR1, SIG_DFL) == SIG_IGN);
    CHECK(signal(SIGUSR1, on_plain) == SIG_DFL);
    CHECK(action_of(SIGUSR1).sa_flags & SA_RESTART);

    struct sigaction action = {.sa_sigaction = on_info, .sa_flags = SA_SIGINFO};
    int before = info_calls;
    CHECK(sigaction(SIGUSR2, &action, NULL) == 0 && raise(SIGUSR2) == 0 && info_calls == before + 1);
    CHECK(action_of(SIGUSR2).sa_sigaction == on_info);

    int late = late_calls;
    set_handler(SIGUSR1, on_late, (int)SA_RESETHAND);
    CHECK(raise(SIGUSR1) == 0 && late_calls == late + 1 && action_of(SIGUSR1).sa_handler == SIG_DFL);
    CHECK_FAILS(sigaction(SIGKILL, &action, NULL), EINVAL);
    CHECK_FAILS(sigaction(1000, NULL, NULL), EINVAL);
}

/* A fault of the client's own goes to its handler. */
static void check_own_fault(void)
{
    struct sigaction action = {.sa_sigaction = on_own_fault, .sa_flags = SA_SIGINFO}, old;
    int before = fault_calls;

    CHECK(sigaction(SIGSEGV, &action, &old) == 0);
    if (sigsetjmp(after_fault, 1) == 0)
        *nowhere = 1;
    CHECK(fault_calls == before + 1 && fault_at == 16);
    CHECK(action_of(SIGSEGV).sa_sigaction == on_own_fault);
    CHECK(sigaction(SIGSEGV, &old, NULL) == 0);
    CHECK(action_of(SIGSEGV).sa_handler == old.sa_handler);
}

/* Without a handler it ends the process, whoever raised it. */
static void check_default(int sig, bool by_kill)
{
    pid_t child = fork();
    int status = 0;

    if (child == 0) {
        signal(sig, SIG_DFL);
        if (by_kill)
            kill(getpid(), sig);
        *nowhere = 1;
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == sig);
}

/* The guest's faults are the guest's. */
static void check_guest_fault(struct client *c)
{
    int before = fault_calls;
    struct sigaction action = {.sa_sigaction = on_own_fault, .sa_flags = SA_SIGINFO}, old;

    CHECK(sigaction(SIGFPE, &action, &old) == 0);
    client_load(c, divide, sizeof(divide), 0x5a);
    struct kvm_regs regs;
    CHECK(ioctl(c->vcpu, KVM_GET_REGS, &regs) == 0);
    regs.rip = 4;
    CHECK(ioctl(c->vcpu, KVM_SET_REGS, &regs) == 0);
    CHECK(client_count(c, c->vcpu) == 0x5a);
    CHECK(fault_calls == before);
    CHECK(sigaction(SIGFPE, &old, NULL) == 0);
}

struct kicker {
    pthread_t thread;
    int sig, delay_ms;
};

static void *kick(void *opaque)
{
    struct kicker *kicker = opaque;
    struct timespec delay = {.tv_nsec = kicker->delay_ms * 1000000L};

    nanosleep(&delay, NULL);
    pthread_kill(kicker->thread, kicker->sig);
    return NULL;
}

/* KVM_RUN of a guest that never ends: a signal ends it with EINTR, after its handler. */
static void check_kick(struct client *c, int sig, void (*handler)(int), volatile sig_atomic_t *calls)
{
    struct kicker kicker = {.thread = pthread_self(), .sig = sig, .delay_ms = 30};
    int before = *calls;
    pthread_t thread;

    set_handler(sig, handler, 0);
    client_load(c, spin, sizeof(spin), 0);
    CHECK(pthread_create(&thread, NULL, kick, &kicker) == 0);
    CHECK_FAILS(ioctl(c->vcpu, KVM_RUN, 0), EINTR);
    CHECK(c->run->exit_reason == KVM_EXIT_INTR && *calls == before + 1);
    pthread_join(thread, NULL);
}

static void check_mask(struct client *c)
{
    sigset_t all, old;

    sigfillset(&all);
    CHECK(pthread_sigmask(SIG_SETMASK, &all, &old) == 0);
    CHECK(sigprocmask(SIG_BLOCK, NULL, &all) == 0);
    CHECK(sigismember(&all, SIGSEGV) == 1 && sigismember(&all, SIGFPE) == 1 && sigismember(&all, SIGUSR1) == 1);
    check_guest_fault(c); /* with all signals blocked, as the client has it */
    CHECK(pthread_sigmask(SIG_SETMASK, &old, NULL) == 0);
    CHECK(sigprocmask(SIG_BLOCK, NULL, &all) == 0 && sigismember(&all, SIGSEGV) == 0 && sigismember(&all, SIGUSR1) == 0);
}

/* A client with an alternate stack of its own: its handlers run there outside KVM_RUN, whatever the engine needs inside. */
static void check_stack(struct client *c)
{
    size_t bytes = 64 << 10;
    uint8_t *memory = malloc(bytes);
    stack_t stack = {.ss_sp = memory, .ss_size = bytes}, old, off = {.ss_flags = SS_DISABLE};

    CHECK(sigaltstack(NULL, &old) == 0 && (old.ss_flags & SS_DISABLE));
    CHECK(sigaltstack(&stack, NULL) == 0 && sigaltstack(NULL, &old) == 0 && old.ss_sp == memory && old.ss_size == bytes);
    check_kick(c, SIGUSR1, on_plain, &plain_calls);
    set_handler(SIGUSR1, on_plain, SA_ONSTACK);
    handler_stack = 0;
    CHECK(raise(SIGUSR1) == 0 && handler_stack - (uintptr_t)memory < bytes);
    CHECK(sigaltstack(NULL, &old) == 0 && old.ss_sp == memory);
    CHECK(sigaltstack(&off, NULL) == 0 && sigaltstack(NULL, &old) == 0 && (old.ss_flags & SS_DISABLE));
    check_kick(c, SIGUSR1, on_plain, &plain_calls);
    check_guest_fault(c);
    free(memory);
}

int main(void)
{
    check_actions();
    check_own_fault();
    struct client c = client_new();
    check_own_fault();
    check_kick(&c, SIGUSR1, on_plain, &plain_calls);
    check_kick(&c, SIGHUP, on_late, &late_calls); /* set when the thread has been running a vCPU */
    check_actions();
    check_own_fault();
    check_guest_fault(&c);
    check_mask(&c);
    check_stack(&c);
    check_default(SIGSEGV, false);
    check_default(SIGSEGV, true);
    check_default(SIGTERM, true);
    return checks_summary();
}
