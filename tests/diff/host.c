/* SPDX-License-Identifier: MIT */
/*
 * The host side: cases on the bare processor.
 *
 * A process of its own maps the cases' address space, puts itself under seccomp, and becomes a signal
 * handler: each case is entered by returning from the handler into the state that the case starts
 * from, and ends in an exception, whose signal frame is its outcome. FS and GS base are the case's in
 * the handler, so nothing in it may touch thread-local storage: no libc, no stack protector.
 * System calls are allowed from this program's own text only, and only the three that it needs.
 */
#include "diff.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/ucontext.h>
#include <unistd.h>

#define TICK_US 8000
#define TICKS_PER_CASE 2 /* a case that user time ticked twice in does not end */
#define XSAVE_SW_RESERVED 464
#define XSAVE_MAGIC1 0x46505853u
#define XSAVE_XFEATURES (XSAVE_SW_RESERVED + 8)
#define ALT_STACK_BYTES (1u << 17)
#define FLAGS_SANE 0x202
#define UC_SIGCONTEXT_SS 2u /* asm/ucontext.h */
#define UC_STRICT_RESTORE_SS 4u

/* ucontext's order of the registers, by encoding order. */
static const uint8_t greg_of[16] = {
    REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
    REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15,
};

static struct {
    struct diff_batch *batch;
    uint32_t index;
    bool running;
    unsigned ticks;
    bool fsgsbase;
} host;

void diff_host_signal(int sig, siginfo_t *info, ucontext_t *uc);
void diff_host_entry(int sig, siginfo_t *info, void *uc);
void diff_host_restorer(void);

/* Flags first: a case may leave AC, NT and ID set, and C code must not run with those. */
__asm__(".text\n"
        "diff_host_entry:\n"
        "  push $0x202\n"
        "  popfq\n"
        "  jmp diff_host_signal\n");

static long raw_syscall(long nr, long a, long b, long c, long d)
{
    long ret;
    register long r10 __asm__("r10") = d;
    __asm__ volatile("syscall" : "=a"(ret) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
    return ret;
}

static _Noreturn void leave(int status)
{
    for (;;)
        raw_syscall(SYS_exit_group, status, 0, 0, 0);
}

#define ARCH_SET_GS 0x1001
#define ARCH_SET_FS 0x1002
#define ARCH_GET_FS 0x1003
#define ARCH_GET_GS 0x1004

static void bases_set(uint64_t fs, uint64_t gs)
{
    if (host.fsgsbase) {
        __asm__ volatile("wrfsbase %0; wrgsbase %1" : : "r"(fs), "r"(gs));
        return;
    }
    raw_syscall(SYS_arch_prctl, ARCH_SET_FS, (long)fs, 0, 0);
    raw_syscall(SYS_arch_prctl, ARCH_SET_GS, (long)gs, 0, 0);
}

static void bases_get(uint64_t *fs, uint64_t *gs)
{
    if (host.fsgsbase) {
        __asm__ volatile("rdfsbase %0; rdgsbase %1" : "=r"(*fs), "=r"(*gs));
        return;
    }
    raw_syscall(SYS_arch_prctl, ARCH_GET_FS, (long)fs, 0, 0);
    raw_syscall(SYS_arch_prctl, ARCH_GET_GS, (long)gs, 0, 0);
}

static uint64_t segments_get(void)
{
    uint16_t ds, es, fs, gs;
    __asm__ volatile("mov %%ds, %0; mov %%es, %1; mov %%fs, %2; mov %%gs, %3" : "=r"(ds), "=r"(es), "=r"(fs), "=r"(gs));
    return ds | (uint64_t)es << 16 | (uint64_t)fs << 32 | (uint64_t)gs << 48;
}

static void outcome_take(struct diff_outcome *o, int sig, const ucontext_t *uc)
{
    const greg_t *g = uc->uc_mcontext.gregs;

    for (size_t i = 0; i < 16; i++)
        o->out.gpr[i] = (uint64_t)g[greg_of[i]];
    o->out.rip = (uint64_t)g[REG_RIP];
    o->out.rflags = (uint64_t)g[REG_EFL];
    o->out.seg = segments_get();
    o->out.cs = (uint16_t)g[REG_CSGSFS];
    o->out.ss = (uint16_t)(g[REG_CSGSFS] >> 48);
    bases_get(&o->out.fs_base, &o->out.gs_base);
    o->vector = (uint32_t)g[REG_TRAPNO];
    o->error = (uint32_t)g[REG_ERR];
    o->cr2 = o->vector == 14 ? (uint64_t)g[REG_CR2] : 0;
    diff_vector_from_xsave(&o->vec, (const uint8_t *)uc->uc_mcontext.fpregs);
    diff_copy(o->mem, (const void *)DIFF_DATA, DIFF_DATA_BYTES);
    o->status = sig == SIGVTALRM ? DIFF_HANG : sig == SIGSYS ? DIFF_SYSCALL : DIFF_DONE;
}

static void case_load(const struct diff_case *c, ucontext_t *uc)
{
    greg_t *g = uc->uc_mcontext.gregs;
    uint8_t *xsave = (uint8_t *)uc->uc_mcontext.fpregs;
    uint32_t magic;

    diff_case_memory(c, (uint8_t *)DIFF_DATA);
    diff_case_window(c, (uint8_t *)DIFF_WINDOW);
    for (size_t i = 0; i < 16; i++)
        g[greg_of[i]] = (greg_t)c->in.gpr[i];
    g[REG_RIP] = (greg_t)c->in.rip;
    g[REG_EFL] = (greg_t)c->in.rflags;
    uint64_t cs = diff_arch->bits == 64 ? DIFF_SEL_USER_CS : c->sel[DIFF_CS], ss = diff_arch->bits == 64 ? DIFF_SEL_USER_DS : c->sel[DIFF_SS];
    g[REG_CSGSFS] = (greg_t)(cs | ss << 48);
    uc->uc_flags |= UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS;

    diff_copy(&magic, xsave + XSAVE_SW_RESERVED, 4);
    if (magic == XSAVE_MAGIC1)
        diff_vector_to_xsave(&c->vec, xsave);
    else
        diff_copy(xsave, c->vec.fx, 416);
    __asm__ volatile("mov %0, %%ds; mov %1, %%es; mov %2, %%fs; mov %3, %%gs"
                     :
                     : "r"((uint32_t)c->sel[DIFF_DS]), "r"((uint32_t)c->sel[DIFF_ES]), "r"((uint32_t)c->sel[DIFF_FS]), "r"((uint32_t)c->sel[DIFF_GS]));
    if (diff_arch->bits == 64) /* else they are the segments' */
        bases_set(c->in.fs_base, c->in.gs_base);
}

void diff_host_signal(int sig, siginfo_t *info, ucontext_t *uc)
{
    struct diff_batch *batch = host.batch;

    (void)info;
    if (sig == SIGVTALRM && (!host.running || ++host.ticks < TICKS_PER_CASE))
        return;
    if (host.running) {
        outcome_take(&batch->outcomes[host.index], sig, uc);
        host.index++;
    }
    host.running = true;
    host.ticks = 0;
    atomic_store_explicit(&batch->current, host.index, memory_order_release);
    if (host.index == batch->count)
        leave(0);
    case_load(&batch->cases[host.index], uc);
}

static int map_fixed(uint64_t address, size_t len, int prot)
{
    void *p = mmap((void *)address, len, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    return p == (void *)address ? 0 : -1;
}

/* The data of 16-bit cases lie there several times. */
static int map_data(void)
{
    unsigned copies = diff_arch->bits == 16 ? DIFF_DATA_COPIES : 1;
    int fd = memfd_create("difftest", MFD_CLOEXEC);
    int err = fd < 0 || ftruncate(fd, DIFF_DATA_BYTES);

    for (unsigned i = 0; i < copies && !err; i++) {
        void *at = (void *)(DIFF_DATA + i * DIFF_DATA_BYTES);
        err = mmap(at, DIFF_DATA_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0) != at;
    }
    if (fd >= 0)
        close(fd);
    return err ? -1 : 0;
}

static int handlers_set(void)
{
    static const int signals[] = {SIGTRAP, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGSYS, SIGVTALRM};
    struct sigaction sa = {.sa_sigaction = diff_host_entry, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    stack_t alt = {.ss_size = ALT_STACK_BYTES};

    alt.ss_sp = mmap(NULL, ALT_STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (alt.ss_sp == MAP_FAILED || sigaltstack(&alt, NULL))
        return -1;
    sigfillset(&sa.sa_mask);
    /* a fault inside the handler is a crash, not a loop */
    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
        if (sigaction(signals[i], &sa, NULL))
            return -1;
    return 0;
}

/* System calls: three, and none from the cases' code. Anything else is SIGSYS, an outcome like others. */
static int seccomp_set(void)
{
#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define JUMP_IF(op, value, yes, no) BPF_JUMP(BPF_JMP | (op) | BPF_K, (value), (yes), (no))
    struct sock_filter code[] = {
        LOAD(arch),
        JUMP_IF(BPF_JEQ, AUDIT_ARCH_X86_64, 0, 7),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer) + 4),
        JUMP_IF(BPF_JEQ, 0, 5, 0), /* the cases are below 4 GiB, this program is not */
        LOAD(nr),
        JUMP_IF(BPF_JEQ, SYS_rt_sigreturn, 2, 0),
        JUMP_IF(BPF_JEQ, SYS_exit_group, 1, 0),
        JUMP_IF(BPF_JEQ, SYS_arch_prctl, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
    };
    struct sock_fprog prog = {.len = sizeof(code) / sizeof(code[0]), .filter = code};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        return -1;
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog, 0, 0);
}

/* AT_HWCAP2 bit 1: the kernel lets user code use RDFSBASE and friends. */
static bool has_fsgsbase(void)
{
    extern unsigned long getauxval(unsigned long);
    return (getauxval(26) >> 1) & 1;
}

_Noreturn void diff_host_run(struct diff_batch *batch, uint32_t first)
{
    struct rlimit no_core = {0, 0}, cpu = {120, 120};
    struct itimerval tick = {{0, TICK_US}, {0, TICK_US}};
    cpu_set_t first_cpu;

    /* Linux' GDT has the processor's number as a limit (LSL of 0x7b): the guest's has 0 */
    CPU_ZERO(&first_cpu);
    CPU_SET(0, &first_cpu);
    (void)sched_setaffinity(0, sizeof(first_cpu), &first_cpu);
    host.batch = batch;
    host.index = first;
    host.fsgsbase = has_fsgsbase();
    atomic_store(&batch->current, first);
    setrlimit(RLIMIT_CORE, &no_core);
    setrlimit(RLIMIT_CPU, &cpu);
    if ((uintptr_t)diff_host_run < 1ull << 32) {
        fprintf(stderr, "difftest: built without -fPIE: the sandbox cannot tell cases from itself\n");
        leave(3);
    }
    if (map_fixed(DIFF_CODE, DIFF_CODE_BYTES, PROT_READ | PROT_WRITE | PROT_EXEC) ||
        map_data()) {
        fprintf(stderr, "difftest: cannot map the cases' memory: %s\n", strerror(errno));
        leave(3);
    }
    memset((void *)DIFF_CODE, 0xcc, DIFF_CODE_BYTES);
    memcpy((void *)DIFF_DATA, diff_templates[0], DIFF_DATA_BYTES);
    if ((DIFF_DATA_RW_BYTES < DIFF_DATA_BYTES &&
         mprotect((void *)(DIFF_DATA + DIFF_DATA_RW_BYTES), DIFF_DATA_BYTES - DIFF_DATA_RW_BYTES, PROT_READ)) ||
        (diff_arch->bits != 64 && diff_seg_host_init()) || handlers_set() ||
        setitimer(ITIMER_VIRTUAL, &tick, NULL) || seccomp_set()) {
        fprintf(stderr, "difftest: cannot set up the sandbox: %s\n", strerror(errno));
        leave(3);
    }
    __asm__ volatile("int3"); /* into the handler, and from there into the first case */
    leave(4);
}
