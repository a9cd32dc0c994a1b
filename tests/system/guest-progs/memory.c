/* SPDX-License-Identifier: MIT */
/* Memory in the guest: patterns over anonymous maps, mprotect and its faults, mremap, copy-on-write, shared maps. */
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

enum { PAGE = 4096 };

static sigjmp_buf on_fault;
static volatile uintptr_t fault_address;
static volatile int fault_code;

static void handle_fault(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    (void)context;
    fault_address = (uintptr_t)info->si_addr;
    fault_code = info->si_code;
    siglongjmp(on_fault, 1);
}

static void test_pattern(void)
{
    const size_t words = 4u << 20;
    uint64_t *map = mmap(NULL, words * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint64_t seed = 88172645463325252ull, sum = 0, again = 0;

    CHECK(map != MAP_FAILED);
    for (size_t i = 0; i < words; i += 512)
        CHECK(map[i] == 0);
    for (size_t i = 0; i < words; i++)
        sum += map[i] = next_random(&seed);
    for (size_t i = words; i-- > 0;)
        again += map[i];
    CHECK(sum == again);
    seed = 88172645463325252ull;
    size_t wrong = 0;
    for (size_t i = 0; i < words; i++)
        wrong += map[i] != next_random(&seed);
    CHECK(wrong == 0);
    /* Overlapping: the words arrive three bytes further on. */
    memmove((char *)map + 3, map, 1000000);
    seed = 88172645463325252ull, wrong = 0;
    for (size_t i = 0; i < 125000; i++) {
        uint64_t word;
        memcpy(&word, (char *)map + 3 + i * 8, 8);
        wrong += word != next_random(&seed);
    }
    CHECK(wrong == 0);
    CHECK(madvise(map, words * 8, MADV_DONTNEED) == 0 && map[12345] == 0);
    munmap(map, words * 8);
}

static void test_protection(void)
{
    volatile char *map = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    for (volatile int i = 0; i < 200; i++) {
        volatile char *at = map + (i % 4) * PAGE + i;
        *at = (char)i;
        CHECK(mprotect((void *)map, 4 * PAGE, PROT_READ) == 0);
        CHECK(*at == (char)i);
        if (!sigsetjmp(on_fault, 1)) {
            *at = 1;
            FAIL("a write to a read-only page went through");
        }
        CHECK(fault_address == (uintptr_t)at && fault_code == SEGV_ACCERR);
        CHECK(mprotect((void *)map, 4 * PAGE, PROT_NONE) == 0);
        if (!sigsetjmp(on_fault, 1)) {
            (void)*at;
            FAIL("a read of an inaccessible page went through");
        }
        CHECK(fault_address == (uintptr_t)at);
        mprotect((void *)map, 4 * PAGE, PROT_READ | PROT_WRITE);
        CHECK(*at == (char)i);
    }
    munmap((void *)map, 4 * PAGE);
    if (!sigsetjmp(on_fault, 1)) {
        (void)*map;
        FAIL("a read of an unmapped page went through");
    }
    CHECK(fault_code == SEGV_MAPERR);
    /* An access across the end of the last page: the fault is at the first byte that is not there. */
    char *edge = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(edge + PAGE, PAGE);
    if (!sigsetjmp(on_fault, 1)) {
        __asm__ volatile("mov %1, %0" : "=m"(*(long(*)[1])(edge + PAGE - sizeof(long) / 2)) : "r"(-1l));
        FAIL("a write across the end went through");
    }
    CHECK(fault_address == (uintptr_t)edge + PAGE);
    CHECK(edge[PAGE - 1] == 0);
}

static void test_sharing(void)
{
    const size_t bytes = 1u << 20;
    char *private_map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *shared = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    memset(private_map, 7, bytes);
    for (int round = 0; round < 8; round++) {
        pid_t child = fork();
        if (child == 0) {
            for (size_t i = 0; i < bytes; i += 64) {
                if (private_map[i] != 7)
                    _exit(1);
                private_map[i] = (char)round;
                shared[i] = (char)(round + 1);
            }
            _exit(0);
        }
        int status = -1;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
        size_t wrong = 0;
        for (size_t i = 0; i < bytes; i += 64)
            wrong += private_map[i] != 7 || shared[i] != (char)(round + 1);
        CHECK(wrong == 0);
    }
    char *moved = mremap(private_map, bytes, 2 * bytes, MREMAP_MAYMOVE);
    CHECK(moved != MAP_FAILED && moved[bytes - 1] == 7 && moved[bytes] == 0);
}

int main(void)
{
    struct sigaction action = {.sa_sigaction = handle_fault, .sa_flags = SA_SIGINFO};

    sigaction(SIGSEGV, &action, NULL);
    test_pattern();
    test_protection();
    test_sharing();
    return check_done("memory");
}
