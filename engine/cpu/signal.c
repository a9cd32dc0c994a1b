/* SPDX-License-Identifier: MIT */
/*
 * Host signals. A fault in translated code is the guest's: the registers are taken from the signal
 * frame, the host address is turned into the guest's RIP, and the thread leaves translated code as
 * if a helper had raised the exception. Any other fault is not ours and goes to the handler that
 * was there before.
 *
 * Signals that a client uses to kick its vCPU threads: their handlers are wrapped, so that they run
 * on the thread's alternate stack (RSP may be the guest's) and so that KVM_RUN ends with EINTR.
 *
 * cpu_signal_action and its kin are for a preload library: what a client does to its signals later
 * neither displaces these handlers nor shows them. A client's own call of sigaction(2) may be in a
 * signal handler or in a child of vfork(2), which shares the memory here but not the handlers.
 */
#include "cpu/signal.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "cpu/guarded_copy.h"
#include "cpu/host_pages.h"
#include "cpu/run.h"
#include "cpu/translate.h"

#define ALT_STACK_BYTES (256u << 10)
#define SIGNAL_COUNT 65
#define SA_RESTORER_FLAG 0x04000000 /* SA_RESTORER of the kernel's asm/signal.h */

static struct sigaction previous[SIGNAL_COUNT]; /* the client's, as it set them */
static bool wrapped[SIGNAL_COUNT];              /* ours is installed for it */
static bool wrapping;                           /* a thread runs a vCPU: handlers installed from now on are wrapped at once */
static pid_t signal_pid;                        /* whose handlers these are */
static cpu_fault_fn *fault_fn;                 /* looks at faults before the client does */
static pthread_mutex_t wrap_lock = PTHREAD_MUTEX_INITIALIZER; /* taken with all signals blocked */
static __thread struct cpu *running;  /* in cpu_run() on this thread */
static __thread struct cpu *attached; /* runs KVM_RUN on this thread */
static __thread void *alt_stack;
static __thread stack_t client_stack;   /* the client's alternate stack of this thread, while alt_stack is in its place */
static __thread bool client_has_stack;  /* outside KVM_RUN the client's is in place */
static __thread sigset_t held;          /* blocked outside KVM_RUN and not inside: they end it, and stay pending */
static __thread unsigned client_blocks; /* which of fault_signals the client thinks to have blocked; a bit each */

static const int fault_signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};

static bool is_fault_signal(int sig)
{
    return sig == SIGSEGV || sig == SIGBUS || sig == SIGFPE || sig == SIGILL || sig == SIGTRAP;
}

static const int greg_of[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

/* What the host's signal means for the guest; recorded as an event or an exit. */
/* The client's memory behind a slot is gone: an EPT violation, at a guest address that kvm/ knows (KVM answers EFAULT). */
static void note_gone(struct cpu *cpu, const siginfo_t *info, const greg_t *g)
{
    cpu->gone = info->si_addr;
    cpu->gone_write = (g[REG_ERR] & X86_PF_W) != 0;
}

static void take_fault(struct cpu *cpu, int sig, const siginfo_t *info, const greg_t *g)
{
    greg_t trap = g[REG_TRAPNO];

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
        note_gone(cpu, info, g);
        cpu_vmexit(cpu, VMX_EXIT_EPT_VIOLATION, cpu->gone_write ? VMX_EPT_QUAL_WRITE : VMX_EPT_QUAL_READ, 0);
        break;
    }
}

static bool recover(struct cpu *cpu, int sig, const siginfo_t *info, ucontext_t *uc)
{
    greg_t *g = uc->uc_mcontext.gregs;
    const uint8_t *pc = (const uint8_t *)(uintptr_t)g[REG_RIP];
    const struct block *b = code_find_by_host(cpu->vm, pc);
    int spilled;
    bool parked;

    if (b == NULL) {
        return false;
    }
    cpu->rip = code_guest_rip(cpu->vm, b, pc, &spilled, &parked);
    for (int i = 0; i < 16; i++) {
        bool of_string = spilled == SPILLED_STRING && (i == X86_RCX || i == X86_RSI || i == X86_RDI);
        if (i != X86_R10 && i != X86_R11 && i != spilled && !of_string) {
            cpu->gpr[i] = (uint64_t)g[greg_of[i]];
        }
    }
    uint32_t flags = parked ? cpu_parked_flags(cpu) : (uint32_t)g[REG_EFL];
    cpu->rflags = (cpu->rflags & ~X86_FLAGS_ARITH) | (flags & X86_FLAGS_ARITH);
    cpu->stats[CPU_STAT_HOST_FAULTS]++;
    cpu->again = sig == SIGSEGV && info->si_code == SEGV_ACCERR && host_page_written(info->si_addr);
    if (!cpu->again) {
        take_fault(cpu, sig, info, g);
    }
    g[REG_RSP] = (greg_t)cpu->host_rsp;
    g[REG_RIP] = (greg_t)(uintptr_t)cpu_leave_after_fault;
    return true;
}

static void reset_if_once(int sig, struct sigaction *action)
{
    if (action->sa_flags & SA_RESETHAND) {
        previous[sig].sa_handler = SIG_DFL;
        previous[sig].sa_flags = 0;
    }
}

static void pass_on(int sig, siginfo_t *info, void *context)
{
    struct sigaction old = previous[sig];

    if (fault_fn != NULL && fault_fn(sig, info, context)) {
        return;
    }
    reset_if_once(sig, &old);
    if (old.sa_flags & SA_SIGINFO) {
        old.sa_sigaction(sig, info, context);
    } else if (old.sa_handler != SIG_DFL && old.sa_handler != SIG_IGN) {
        old.sa_handler(sig);
    } else if (info->si_code > 0 || old.sa_handler == SIG_DFL) {
        signal(sig, SIG_DFL); /* taken again, this time for good */
        if (info->si_code <= 0) {
            raise(sig); /* it was sent: nothing would raise it again */
        }
    }
}

static void go_to_escape(void)
{
    __builtin_longjmp(running->escape, 1);
}

/* C code of ours has met guest memory that the client took away. */
static bool escape(int sig, const siginfo_t *info, ucontext_t *uc)
{
    greg_t *g = uc->uc_mcontext.gregs;

    if (running == NULL || (sig != SIGSEGV && sig != SIGBUS) || info->si_code == SI_KERNEL ||
        !host_range_has(info->si_addr)) {
        return false;
    }
    note_gone(running, info, g);
    g[REG_RSP] = (greg_t)((((uint64_t)g[REG_RSP] - 128) & ~15ull) - 8); /* below the red zone, as after a call */
    g[REG_RIP] = (greg_t)(uintptr_t)go_to_escape;
    return true;
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
    if (info->si_code > 0 && running != NULL && recover(running, sig, info, context)) {
        return;
    }
    if (info->si_code > 0 && sig == SIGSEGV && info->si_code == SEGV_ACCERR && host_page_written(info->si_addr)) {
        return; /* a store to a page with code, of any thread: it runs anew */
    }
    if (info->si_code > 0 && (end_guarded_copy(context) || escape(sig, info, context))) {
        return;
    }
    pass_on(sig, info, context);
}

/* As with the kernel, whose mask is the outer one again before it delivers: the signal is pending as if it had not been taken. */
static void put_back(int sig, siginfo_t *info, ucontext_t *uc)
{
    sigset_t one;

    sigemptyset(&one);
    sigaddset(&one, sig);
    pthread_sigmask(SIG_BLOCK, &one, NULL); /* SA_NODEFER would have it come at once */
    sigaddset(&uc->uc_sigmask, sig);
    syscall(SYS_rt_tgsigqueueinfo, getpid(), gettid(), sig, info);
}

static void on_signal(int sig, siginfo_t *info, void *context)
{
    struct cpu *cpu = attached;

    if (cpu != NULL) {
        atomic_store(&cpu->signal_seen, 1);
        cpu_request(cpu, CPU_REQ_KICK);
        if (sigismember(&held, sig) == 1) {
            put_back(sig, info, context);
            return;
        }
    }
    struct sigaction old = previous[sig];
    reset_if_once(sig, &old);
    if (old.sa_flags & SA_SIGINFO) {
        old.sa_sigaction(sig, info, context);
    } else if (old.sa_handler != SIG_DFL && old.sa_handler != SIG_IGN) {
        old.sa_handler(sig);
    } else if (old.sa_handler == SIG_DFL) {
        signal(sig, SIG_DFL); /* its one time was over when this one was already on its way */
        raise(sig);
    }
}

/* Faults of translated code, and of the client's stores to guest memory, come at any time. */
static void unblock_faults(sigset_t *set)
{
    for (size_t i = 0; i < KAGE_ARRAY_SIZE(fault_signals); i++) {
        sigdelset(set, fault_signals[i]);
    }
}

static int install(int sig, void (*handler)(int, siginfo_t *, void *), const struct sigaction *like)
{
    struct sigaction sa;

    memset(&sa, 0, sizeof(sa));
    if (like != NULL) {
        sa.sa_mask = like->sa_mask;
        sa.sa_flags = like->sa_flags & (SA_RESTART | SA_NODEFER | SA_NOCLDSTOP | SA_NOCLDWAIT);
        unblock_faults(&sa.sa_mask);
    } else {
        sigemptyset(&sa.sa_mask);
    }
    sa.sa_sigaction = handler;
    sa.sa_flags |= SA_SIGINFO | SA_ONSTACK;
    return sigaction(sig, &sa, NULL) == 0 ? 0 : -errno;
}

static void lock_actions(sigset_t *saved)
{
    sigset_t all;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, saved);
    pthread_mutex_lock(&wrap_lock);
}

static void unlock_actions(const sigset_t *saved)
{
    pthread_mutex_unlock(&wrap_lock);
    pthread_sigmask(SIG_SETMASK, saved, NULL);
}

static void in_forked_child(void)
{
    pthread_mutex_init(&wrap_lock, NULL);
    signal_pid = getpid();
}

static void init_process(void)
{
    signal_pid = getpid();
    pthread_atfork(NULL, NULL, in_forked_child);
}

static void init_once(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, init_process);
}

static bool is_ours(const struct sigaction *action)
{
    return (action->sa_flags & SA_SIGINFO) != 0 && (action->sa_sigaction == on_signal || action->sa_sigaction == on_fault);
}

/* True: previous[sig] is what the client has set, and the kernel has ours, or it with a smaller mask. */
static bool is_clients(int sig, const struct sigaction *action)
{
    /* The C library shows a flag of its own. */
    return is_ours(action) || (action->sa_handler == previous[sig].sa_handler &&
                               ((action->sa_flags ^ previous[sig].sa_flags) & ~SA_RESTORER_FLAG) == 0);
}

static int wrap_fault(int sig)
{
    struct sigaction now;

    if (sigaction(sig, NULL, &now) != 0) {
        return -errno;
    }
    if ((now.sa_flags & SA_SIGINFO) != 0 && now.sa_sigaction == on_fault) {
        return 0;
    }
    if (!is_clients(sig, &now)) {
        previous[sig] = now;
    }
    int err = install(sig, on_fault, NULL);
    wrapped[sig] = err == 0;
    return err;
}

int cpu_signal_init(void)
{
    sigset_t saved;
    int err = 0;

    init_once();
    lock_actions(&saved);
    for (size_t i = 0; i < KAGE_ARRAY_SIZE(fault_signals) && err == 0; i++) {
        err = wrap_fault(fault_signals[i]);
    }
    unlock_actions(&saved);
    return err;
}

/*
 * The C library's own handler for setuid(2) and its kin, which no sigaction(2) of its shows, comes to vCPU threads too:
 * it must not be run on the guest's stack.
 */
static void move_internal_handler(int sig)
{
    struct {
        void *handler;
        unsigned long flags;
        void *restorer;
        uint64_t mask;
    } action;

    if (syscall(SYS_rt_sigaction, sig, NULL, &action, sizeof(action.mask)) == 0 && action.handler != NULL &&
        (action.flags & SA_ONSTACK) == 0) {
        action.flags |= SA_ONSTACK;
        syscall(SYS_rt_sigaction, sig, &action, NULL, sizeof(action.mask));
    }
}

/* Wraps every handler that the client has installed since the last look. */
static void wrap_handlers(void)
{
    sigset_t saved;

    lock_actions(&saved);
    wrapping = true;
    for (size_t i = 0; i < KAGE_ARRAY_SIZE(fault_signals); i++) { /* a client that is linked may have displaced them */
        if (wrap_fault(fault_signals[i]) != 0) {
            break; /* the kernel refuses what it took before: nothing to be done about it */
        }
    }
    for (int sig = 1; sig < SIGNAL_COUNT; sig++) {
        struct sigaction now;
        if (is_fault_signal(sig) || sig == SIGKILL || sig == SIGSTOP) {
            continue;
        }
        if (sigaction(sig, NULL, &now) != 0) {
            move_internal_handler(sig);
            continue;
        }
        bool plain = (now.sa_flags & SA_SIGINFO) == 0;
        if (is_ours(&now) || (plain && (now.sa_handler == SIG_DFL || now.sa_handler == SIG_IGN))) {
            continue;
        }
        if (!is_clients(sig, &now)) {
            previous[sig] = now;
        }
        wrapped[sig] = install(sig, on_signal, &now) == 0;
    }
    unlock_actions(&saved);
}

/* True: the signal's delivery in KVM_RUN comes here. What ignores it is left alone: it would interrupt other threads' calls. */
static bool wrap_held(int sig)
{
    struct sigaction now;
    sigset_t saved;

    lock_actions(&saved);
    bool taken = sigaction(sig, NULL, &now) == 0 && (is_ours(&now) || now.sa_handler != SIG_IGN);
    if (taken && !is_ours(&now)) {
        if (!is_clients(sig, &now)) {
            previous[sig] = now;
        }
        taken = wrapped[sig] = install(sig, on_signal, &now) == 0;
    }
    unlock_actions(&saved);
    return taken;
}

void cpu_signal_enter_mask(const sigset_t *mask, sigset_t *outside)
{
    sigset_t inside = *mask;

    sigemptyset(&held);
    pthread_sigmask(SIG_SETMASK, NULL, outside);
    for (int sig = 1; sig < SIGNAL_COUNT; sig++) {
        if (is_fault_signal(sig) || sig == SIGKILL || sig == SIGSTOP || sigismember(outside, sig) != 1 || sigismember(mask, sig) != 0) {
            continue;
        }
        if (wrap_held(sig)) {
            sigaddset(&held, sig);
        } else {
            sigaddset(&inside, sig);
        }
    }
    unblock_faults(&inside);
    pthread_sigmask(SIG_SETMASK, &inside, NULL);
}

void cpu_signal_leave_mask(const sigset_t *outside)
{
    pthread_sigmask(SIG_SETMASK, outside, NULL);
    sigemptyset(&held);
}

/* Actions locked: has the kernel do for the client's action what it needs. */
static int set_action(int sig, const struct sigaction *action)
{
    bool plain = (action->sa_flags & SA_SIGINFO) == 0;
    bool handled = !plain || (action->sa_handler != SIG_DFL && action->sa_handler != SIG_IGN);

    if (is_fault_signal(sig) && sig != SIGTRAP && wrapped[sig]) {
        return install(sig, on_fault, handled ? action : NULL);
    }
    if (sig != SIGTRAP && wrapping && handled) {
        return install(sig, on_signal, action);
    }
    struct sigaction smaller = *action;
    unblock_faults(&smaller.sa_mask);
    return sigaction(sig, &smaller, NULL) == 0 ? 0 : -errno;
}

int cpu_signal_action(int sig, const struct sigaction *action, struct sigaction *old)
{
    struct sigaction now, wanted = {0};
    sigset_t saved;
    int err = 0;

    if (action != NULL) {
        wanted = *action;
    }
    init_once();
    if (sigaction(sig, NULL, &now) != 0) {
        return -errno;
    }
    bool here = getpid() == signal_pid;
    if (here) {
        lock_actions(&saved);
        (void)sigaction(sig, NULL, &now);
    }
    if (is_clients(sig, &now)) {
        now = previous[sig];
    }
    if (action != NULL && !here) {
        err = sigaction(sig, &wanted, NULL) == 0 ? 0 : -errno;
    } else if (action != NULL) {
        struct sigaction before = previous[sig];
        previous[sig] = wanted; /* before the kernel's, whose handler may come at once */
        err = set_action(sig, &wanted);
        if (err != 0) {
            previous[sig] = before;
        }
    }
    if (here) {
        unlock_actions(&saved);
    }
    if (err != 0) {
        return err;
    }
    if (old != NULL) {
        *old = now;
    }
    return 0;
}

int cpu_signal_set_fault_handler(cpu_fault_fn *fn)
{
    fault_fn = fn;
    return cpu_signal_init();
}

static unsigned faults_of(const sigset_t *set)
{
    unsigned bits = 0;

    for (unsigned i = 0; i < KAGE_ARRAY_SIZE(fault_signals); i++) {
        bits |= sigismember(set, fault_signals[i]) == 1 ? 1u << i : 0;
    }
    return bits;
}

int cpu_signal_mask(int how, const sigset_t *set, sigset_t *old)
{
    sigset_t wanted, before;
    unsigned bits = 0;

    if (set != NULL) {
        wanted = *set;
        bits = faults_of(set);
        if (how != SIG_UNBLOCK) {
            unblock_faults(&wanted);
        }
    }
    int err = pthread_sigmask(how, set != NULL ? &wanted : NULL, &before);
    if (err != 0) {
        return -err;
    }
    if (old != NULL) {
        for (unsigned i = 0; i < KAGE_ARRAY_SIZE(fault_signals); i++) {
            if (client_blocks >> i & 1) {
                sigaddset(&before, fault_signals[i]);
            }
        }
        *old = before;
    }
    if (set != NULL) {
        client_blocks = how == SIG_BLOCK ? client_blocks | bits : how == SIG_UNBLOCK ? client_blocks & ~bits : bits;
    }
    return 0;
}

int cpu_signal_stack(const stack_t *stack, stack_t *old)
{
    stack_t now, wanted = {0};

    if (alt_stack == NULL) {
        return sigaltstack(stack, old) == 0 ? 0 : -errno;
    }
    if (stack != NULL) {
        wanted = *stack;
    }
    if (sigaltstack(NULL, &now) != 0) {
        return -errno;
    }
    bool in_place = now.ss_sp != alt_stack;
    bool busy = (now.ss_flags & SS_ONSTACK) != 0;
    stack_t shown = in_place ? now : client_stack;
    if (stack != NULL && (wanted.ss_flags & SS_DISABLE) != 0) {
        stack_t ours = {.ss_sp = alt_stack, .ss_size = ALT_STACK_BYTES};
        if (in_place && sigaltstack(&ours, NULL) != 0) {
            return -errno;
        }
        client_stack = (stack_t){.ss_flags = SS_DISABLE};
        client_has_stack = false;
    } else if (stack != NULL) {
        /* In a handler on our own stack: the client's is put in place after KVM_RUN. */
        if ((in_place || !busy) && sigaltstack(&wanted, NULL) != 0) {
            return -errno;
        }
        client_stack = wanted;
        client_has_stack = true;
    }
    if (old != NULL) {
        *old = shown;
    }
    return 0;
}

/* A thread's first KVM_RUN. */
static void take_alt_stack(void)
{
    void *p = mmap(NULL, ALT_STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    stack_t ss = {.ss_sp = p, .ss_size = ALT_STACK_BYTES};

    if (p != MAP_FAILED && sigaltstack(&ss, &client_stack) == 0) {
        alt_stack = p;
        client_has_stack = (client_stack.ss_flags & SS_DISABLE) == 0;
    }
}

bool cpu_signal_is_attached(const struct cpu *cpu)
{
    return attached == cpu;
}

void cpu_signal_attach_thread(struct cpu *cpu)
{
    sigset_t faults;

    if (attached != cpu) {
        wrap_handlers();
    }
    attached = cpu;
    sigemptyset(&faults);
    for (size_t i = 0; i < KAGE_ARRAY_SIZE(fault_signals); i++) {
        sigaddset(&faults, fault_signals[i]);
    }
    sigset_t before;
    pthread_sigmask(SIG_UNBLOCK, &faults, &before);
    client_blocks |= faults_of(&before);
    if (alt_stack == NULL) {
        take_alt_stack();
    }
}

void cpu_signal_begin_run(void)
{
    if (client_has_stack) {
        stack_t ours = {.ss_sp = alt_stack, .ss_size = ALT_STACK_BYTES};
        sigaltstack(&ours, NULL);
    }
}

void cpu_signal_end_run(void)
{
    if (client_has_stack) {
        sigaltstack(&client_stack, NULL);
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

bool cpu_guarded_call(struct cpu *cpu, void (*fn)(void *), void *arg)
{
    if (running != NULL) {
        fn(arg);
        return true;
    }
    running = cpu;
    if (__builtin_setjmp(cpu->escape) != 0) {
        running = NULL;
        return false;
    }
    fn(arg);
    running = NULL;
    return true;
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
