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

#include "arch.h"
#include "check.h"

static char alternate[65536] __attribute__((aligned(16)));
static volatile int last_signal, last_code, on_alternate, ticks;
static sigjmp_buf back;

static void handle(int number, siginfo_t *info, void *context)
{
    char here;
    (void)context;
    last_signal = number;
    last_code = info->si_code;
    on_alternate = &here >= alternate && &here < alternate + sizeof alternate;
    siglongjmp(back, 1);
}

/* Skips the two-byte instruction that faulted, and changes registers that the program then sees. */
static void skip_two(int number, siginfo_t *info, void *context)
{
    ucontext_t *u = context;
    (void)info;
    last_signal = number;
    u->uc_mcontext.gregs[REG_PC] += 2;
    u->uc_mcontext.gregs[REG_A] = (long)0x1234567890;
    u->uc_mcontext.gregs[REG_X] = 0x1010;
    u->uc_mcontext.gregs[REG_Y] = 0x1111;
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
            GP_WITHOUT_ADDRESS;
            FAIL("an access that is #GP went through");
        }
        CHECK(last_signal == SIGSEGV && last_code == SI_KERNEL);
    }

    install(SIGILL, skip_two);
    unsigned long a = 1, x = 2, y = 3, b = 0x55;
    __asm__ volatile("mov %4, %%" NAME_X "; mov %5, %%" NAME_Y "; ud2; mov %%" NAME_X ", %1; mov %%" NAME_Y ", %2"
                     : "+a"(a), "=&r"(x), "=&r"(y), "+b"(b)
                     : "i"(2), "i"(3)
                     : NAME_X, NAME_Y);
    CHECK(a == (unsigned long)0x1234567890 && x == 0x1010 && y == 0x1111 && b == 0x55);

    /* A timer that interrupts arithmetic at any instruction must not change it. */
    signal(SIGALRM, tick);
    struct itimerval every = {{0, 2000}, {0, 2000}};
    setitimer(ITIMER_REAL, &every, NULL);
    uint64_t seed = 7, sum = 0, first = 0;
    for (int i = 0; ticks < 50 && i < 2000; i++) {
        seed = 7, sum = 0;
        for (int k = 0; k < 100000; k++)
            sum += next_random(&seed) >> 11;
        if (i == 0)
            first = sum;
        CHECK(sum == first);
    }
    memset(&every, 0, sizeof every);
    setitimer(ITIMER_REAL, &every, NULL);
    CHECK(ticks >= 50);
    return check_done("signals");
}
