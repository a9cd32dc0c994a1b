/* SPDX-License-Identifier: MIT */
/*
 * Host signals. A fault in translated code is the guest's: the registers are taken from the signal
 * frame, the host address is turned into the guest's RIP, and the thread leaves translated code as
 * if a helper had raised the exception. Any other fault is not ours and goes to the handler that
 * was there before.
 *
 * Signals that a client uses to kick its vCPU threads: their handlers are wrapped, so that they run
 * on the thread's alternate stack (RSP may be the guest's) and so that KVM_RUN ends with EINTR.
 */
#include "cpu/signal.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "cpu/guarded_copy.h"
#include "cpu/run.h"
#include "cpu/translate.h"

#define ALT_STACK_BYTES (256u << 10)
#define SIGNAL_COUNT 65

static struct sigaction previous[SIGNAL_COUNT];
static pthread_mutex_t wrap_lock = PTHREAD_MUTEX_INITIALIZER;
static __thread struct cpu *running;  /* in cpu_run() on this thread */
static __thread struct cpu *attached; /* runs KVM_RUN on this thread */
static __thread void *alt_stack;

static const int fault_signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};

static bool is_fault_signal(int sig)
{
    return sig == SIGSEGV || sig == SIGBUS || sig == SIGFPE || sig == SIGILL || sig == SIGTRAP;
}

static const int greg_of[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

/* What the host's signal means for the guest; recorded as an event or an exit. */
static void take_fault(struct cpu *cpu, int sig, const siginfo_t *info, greg_t trap)
{
    switch (sig) {
    case SIGFPE:
        if (info->si_code == FPE_INTDIV || info->si_code == FPE_INTOVF) {
            cpu_raise(cpu, X86_EXC_DE);
        } else if (trap == X86_EXC_MF) { /* of x87 and MMX instructions */
            cpu_raise(cpu, X86_EXC_MF);
        } else {
            cpu_raise(cpu, (cpu->vmcs.guest_cr4 & X86_CR4_OSXMMEXCPT) != 0 ? X86_EXC_XM : X86_EXC_UD);
        }
        break;
    case SIGILL:
        cpu_raise(cpu, X86_EXC_UD);
        break;
    case SIGSEGV:
        if (info->si_code == SI_KERNEL) {
            cpu_raise_error(cpu, X86_EXC_GP, 0); /* alignment of a vector operand, non-canonical address */
            break;
        }
        /* fall through */
    default:
        /* The client's memory behind a slot is gone: KVM answers EFAULT. */
        cpu_vmexit(cpu, VMX_EXIT_EPT_VIOLATION, 0, 0);
        break;
    }
}

static bool recover(struct cpu *cpu, int sig, const siginfo_t *info, ucontext_t *uc)
{
    greg_t *g = uc->uc_mcontext.gregs;
    const uint8_t *pc = (const uint8_t *)(uintptr_t)g[REG_RIP];
    const struct block *b = code_find_by_host(cpu->vm, pc);
    int spilled;

    if (b == NULL) {
        return false;
    }
    cpu->rip = code_guest_rip(cpu->vm, b, pc, &spilled);
    for (int i = 0; i < 16; i++) {
        bool of_string = spilled == SPILLED_STRING && (i == X86_RCX || i == X86_RSI || i == X86_RDI);
        if (i != X86_R10 && i != X86_R11 && i != spilled && !of_string) {
            cpu->gpr[i] = (uint64_t)g[greg_of[i]];
        }
    }
    cpu->rflags = (cpu->rflags & ~X86_FLAGS_ARITH) | ((uint32_t)g[REG_EFL] & X86_FLAGS_ARITH);
    cpu->stats[CPU_STAT_HOST_FAULTS]++;
    take_fault(cpu, sig, info, g[REG_TRAPNO]);
    g[REG_RSP] = (greg_t)cpu->host_rsp;
    g[REG_RIP] = (greg_t)(uintptr_t)cpu_leave_after_fault;
    return true;
}

static void pass_on(int sig, siginfo_t *info, void *context)
{
    const struct sigaction *old = &previous[sig];

    if (old->sa_flags & SA_SIGINFO) {
        old->sa_sigaction(sig, info, context);
    } else if (old->sa_handler == SIG_DFL || old->sa_handler == SIG_IGN) {
        signal(sig, SIG_DFL); /* taken again, this time for good */
    } else {
        old->sa_handler(sig);
    }
}

/* A copy for a client met an address that leads nowhere: it ends there. */
static bool end_guarded_copy(ucontext_t *uc)
{
    uintptr_t resume;

    if (!cpu_guarded_copy_resume((uintptr_t)uc->uc_mcontext.gregs[REG_RIP], &resume)) {
        return false;
    }
    uc->uc_mcontext.gregs[REG_RIP] = (greg_t)resume;
    return true;
}

static void on_fault(int sig, siginfo_t *info, void *context)
{
    if (info->si_code > 0 && end_guarded_copy(context)) {
        return;
    }
    if (running == NULL || info->si_code <= 0 || !recover(running, sig, info, context)) {
        pass_on(sig, info, context);
    }
}

static void on_signal(int sig, siginfo_t *info, void *context)
{
    struct cpu *cpu = attached;

    if (cpu != NULL) {
        atomic_store(&cpu->signal_seen, 1);
        cpu_request(cpu, CPU_REQ_KICK);
    }
    const struct sigaction *old = &previous[sig];
    if (old->sa_flags & SA_SIGINFO) {
        old->sa_sigaction(sig, info, context);
    } else if (old->sa_handler != SIG_DFL && old->sa_handler != SIG_IGN) {
        old->sa_handler(sig);
    }
}

static int install(int sig, void (*handler)(int, siginfo_t *, void *), const struct sigaction *like)
{
    struct sigaction sa;

    memset(&sa, 0, sizeof(sa));
    if (like != NULL) {
        sa.sa_mask = like->sa_mask;
        sa.sa_flags = like->sa_flags & (SA_RESTART | SA_NODEFER | SA_NOCLDSTOP | SA_NOCLDWAIT);
    } else {
        sigemptyset(&sa.sa_mask);
    }
    sa.sa_sigaction = handler;
    sa.sa_flags |= SA_SIGINFO | SA_ONSTACK;
    return sigaction(sig, &sa, NULL) == 0 ? 0 : -errno;
}

int cpu_signal_init(void)
{
    int err = 0;

    pthread_mutex_lock(&wrap_lock);
    for (size_t i = 0; i < KAGE_ARRAY_SIZE(fault_signals) && err == 0; i++) {
        int sig = fault_signals[i];
        struct sigaction now;
        if (sigaction(sig, NULL, &now) != 0) {
            err = -errno;
            break;
        }
        if ((now.sa_flags & SA_SIGINFO) != 0 && now.sa_sigaction == on_fault) {
            continue; /* nobody has put another in its place */
        }
        previous[sig] = now;
        err = install(sig, on_fault, NULL);
    }
    pthread_mutex_unlock(&wrap_lock);
    return err;
}

/* Wraps every handler that the client has installed since the last look. */
static void wrap_handlers(void)
{
    pthread_mutex_lock(&wrap_lock);
    for (int sig = 1; sig < SIGNAL_COUNT; sig++) {
        struct sigaction sa;
        if (is_fault_signal(sig) || sig == SIGKILL || sig == SIGSTOP || sigaction(sig, NULL, &sa) != 0) {
            continue;
        }
        bool plain = (sa.sa_flags & SA_SIGINFO) == 0;
        if ((plain && (sa.sa_handler == SIG_DFL || sa.sa_handler == SIG_IGN)) ||
            (!plain && sa.sa_sigaction == on_signal)) {
            continue;
        }
        previous[sig] = sa;
        install(sig, on_signal, &sa);
    }
    pthread_mutex_unlock(&wrap_lock);
}

void cpu_signal_attach_thread(struct cpu *cpu)
{
    if (attached != cpu) {
        int err = cpu_signal_init(); /* a client that replaces them and fails here is on its own */
        (void)err;
        wrap_handlers();
    }
    attached = cpu;
    if (alt_stack == NULL) {
        void *p = mmap(NULL, ALT_STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        stack_t ss = {.ss_sp = p, .ss_size = ALT_STACK_BYTES};
        if (p != MAP_FAILED && sigaltstack(&ss, NULL) == 0) {
            alt_stack = p;
        }
    }
}

void cpu_signal_detach_thread(struct cpu *cpu)
{
    if (attached == cpu) {
        attached = NULL;
    }
}

bool cpu_signal_pending(struct cpu *cpu)
{
    return atomic_exchange(&cpu->signal_seen, 0) != 0;
}

void cpu_signal_set_mask(struct cpu *cpu, const sigset_t *mask)
{
    (void)cpu;
    pthread_sigmask(SIG_SETMASK, mask, NULL);
}

void cpu_signal_enter(struct cpu *cpu)
{
    running = cpu;
}

void cpu_signal_leave(struct cpu *cpu)
{
    (void)cpu;
    running = NULL;
}
