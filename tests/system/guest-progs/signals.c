/* SPDX-License-Identifier: MIT */
/* Signals: alternate stacks, nested handlers, faults with the right codes and registers, setjmp, interval timers. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "check.h"

static char alternate[65536] __attribute__((aligned(16)));
static volatile int last_signal, last_code, on_alternate, ticks;
static volatile uint64_t seen_rip;
static sigjmp_buf back;

static void handle(int number, siginfo_t *info, void *context)
{
    char here;
    ucontext_t *u = context;

    last_signal = number;
    last_code = info->si_code;
    on_alternate = &here >= alternate && &here < alternate + sizeof alternate;
    seen_rip = (uint64_t)u->uc_mcontext.gregs[REG_RIP];
    siglongjmp(back, 1);
}

/* Skips the two-byte instruction that faulted, and changes registers that the program then sees. */
static void skip_two(int number, siginfo_t *info, void *context)
{
    ucontext_t *u = context;
    (void)info;
    last_signal = number;
    u->uc_mcontext.gregs[REG_RIP] += 2;
    u->uc_mcontext.gregs[REG_RAX] = 0x1234567890;
    u->uc_mcontext.gregs[REG_R10] = 0x1010;
    u->uc_mcontext.gregs[REG_R11] = 0x1111;
}

static void tick(int number)
{
    (void)number;
    ticks++;
}

static void install(int number, void (*handler)(int, siginfo_t *, void *))
{
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigaction(number, &action, NULL);
}

int main(void)
{
    stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate};
    CHECK(sigaltstack(&stack, NULL) == 0);
    int faults[] = {SIGSEGV, SIGILL, SIGFPE, SIGBUS, SIGTRAP};
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++)
        install(faults[i], handle);

    for (int round = 0; round < 300; round++) {
        if (!sigsetjmp(back, 1)) {
            int zero = 0, one = 1;
            __asm__ volatile("cltd; idivl %1" : "+a"(one) : "r"(zero) : "edx");
            FAIL("a division by zero went through");
        }
        CHECK(last_signal == SIGFPE && last_code == FPE_INTDIV && on_alternate);
        if (!sigsetjmp(back, 1)) {
            __asm__ volatile("ud2");
            FAIL("ud2 went through");
        }
        CHECK(last_signal == SIGILL && on_alternate);
        if (!sigsetjmp(back, 1)) {
            __asm__ volatile("hlt");
            FAIL("hlt went through in user mode");
        }
        CHECK(last_signal == SIGSEGV);
        if (!sigsetjmp(back, 1)) {
            __asm__ volatile("int3");
            FAIL("int3 went through");
        }
        CHECK(last_signal == SIGTRAP);
        if (!sigsetjmp(back, 1)) {
            /* Not canonical: #GP, with no address. */
            (void)*(volatile char *)0x8000000000000000ull;
            FAIL("a read of a non-canonical address went through");
        }
        CHECK(last_signal == SIGSEGV && last_code == SI_KERNEL);
    }

    install(SIGILL, skip_two);
    uint64_t rax = 1, r10 = 0, r11 = 0, rbx = 0x55;
    __asm__ volatile("movq $1, %%rax; movq $2, %%r10; movq $3, %%r11; ud2; movq %%rax, %0; movq %%r10, %1; movq %%r11, %2"
                     : "=&r"(rax), "=&r"(r10), "=&r"(r11), "+b"(rbx)
                     :
                     : "rax", "r10", "r11");
    CHECK(rax == 0x1234567890 && r10 == 0x1010 && r11 == 0x1111 && rbx == 0x55);

    /* A timer that interrupts arithmetic at any instruction must not change it. */
    signal(SIGALRM, tick);
    struct itimerval every = {{0, 2000}, {0, 2000}};
    setitimer(ITIMER_REAL, &every, NULL);
    uint64_t seed = 7, sum = 0;
    for (int i = 0; ticks < 50 && i < 2000; i++) {
        seed = 7, sum = 0;
        for (int k = 0; k < 100000; k++)
            sum += next_random(&seed) >> 11;
        if (i == 0)
            rbx = sum;
        CHECK(sum == rbx);
    }
    memset(&every, 0, sizeof every);
    setitimer(ITIMER_REAL, &every, NULL);
    CHECK(ticks >= 50);
    return check_done("signals");
}
