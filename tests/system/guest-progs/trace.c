/* SPDX-License-Identifier: MIT */
/* ptrace: single steps through known code, a breakpoint instruction, a hardware breakpoint and a watchpoint. */
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "arch.h"
#include "check.h"

extern const char traced_start[], traced_loop[], traced_end[];
static volatile long watched;

__attribute__((noinline)) static void traced(void)
{
    __asm__ volatile(".globl traced_start, traced_loop, traced_end\n"
                     "traced_start: movl $10, %%ecx\n\t"
                     "xorl %%eax, %%eax\n"
                     "traced_loop: addl %%ecx, %%eax\n\t"
                     "decl %%ecx\n\t"
                     "jnz traced_loop\n"
                     "traced_end: nop\n\t"
                     :
                     :
                     : "eax", "ecx", "cc");
}

static pid_t start_child(void)
{
    pid_t child = fork();
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        traced();
        watched = 5;
        traced();
        _exit(33);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && WIFSTOPPED(status));
    return child;
}

static long debug_register(pid_t child, size_t n, unsigned long value)
{
    return ptrace(PTRACE_POKEUSER, child, (void *)(offsetof(struct user, u_debugreg) + n * sizeof(long)), (void *)value);
}

static void finish(pid_t child)
{
    int status = 0;
    ptrace(PTRACE_CONT, child, NULL, NULL);
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 33);
}

static uintptr_t resume(pid_t child, int request, struct user_regs_struct *regs)
{
    int status = 0;
    ptrace(request, child, NULL, NULL);
    waitpid(child, &status, 0);
    if (!WIFSTOPPED(status) || WSTOPSIG(status) != SIGTRAP)
        return 0;
    ptrace(PTRACE_GETREGS, child, NULL, regs);
    return (uintptr_t)regs->REGS_PC;
}

static void test_steps(void)
{
    pid_t child = start_child();
    struct user_regs_struct regs = {0};
    unsigned steps = 0, iterations = 0;
    uintptr_t rip;

    CHECK(debug_register(child, 0, (unsigned long)traced_start) == 0 && debug_register(child, 7, 1) == 0);
    CHECK(resume(child, PTRACE_CONT, &regs) == (uintptr_t)traced_start);
    debug_register(child, 7, 0);
    while ((rip = resume(child, PTRACE_SINGLESTEP, &regs)) != 0 && rip != (uintptr_t)traced_end && steps < 1000) {
        steps++;
        iterations += rip == (uintptr_t)traced_loop;
    }
    /* 2 instructions, then 10 rounds of 3; the last lands on traced_end and is not counted. */
    CHECK(steps == 31 && iterations == 10);
    CHECK((regs.REGS_A & 0xffffffff) == 55 && (regs.REGS_C & 0xffffffff) == 0);
    finish(child);
}

static void test_breakpoint(void)
{
    pid_t child = start_child();
    struct user_regs_struct regs = {0};
    long word = ptrace(PTRACE_PEEKTEXT, child, traced_end, NULL);

    CHECK(ptrace(PTRACE_POKETEXT, child, traced_end, (void *)((word & ~0xffl) | 0xcc)) == 0);
    for (int i = 0; i < 2; i++) {
        CHECK(resume(child, PTRACE_CONT, &regs) == (uintptr_t)traced_end + 1);
        CHECK((regs.REGS_A & 0xffffffff) == 55);
    }
    CHECK(ptrace(PTRACE_POKETEXT, child, traced_end, (void *)word) == 0);
    regs.REGS_PC = (long)traced_end;
    ptrace(PTRACE_SETREGS, child, NULL, &regs);
    finish(child);
}

static void test_watchpoint(void)
{
    pid_t child = start_child();
    struct user_regs_struct regs = {0};

    /* DR7: L0, R/W0 = write, LEN0 = 8 bytes (10b) or 4 (11b). */
    CHECK(debug_register(child, 0, (unsigned long)&watched) == 0);
    CHECK(debug_register(child, 7, 1ul | 1ul << 16 | (sizeof(long) == 8 ? 2ul : 3ul) << 18) == 0);
    CHECK(resume(child, PTRACE_CONT, &regs) != 0);
    CHECK(ptrace(PTRACE_PEEKDATA, child, (void *)&watched, NULL) == 5);
    debug_register(child, 7, 0);
    finish(child);
}

int main(void)
{
    test_steps();
    test_breakpoint();
    test_watchpoint();
    return check_done("trace");
}
