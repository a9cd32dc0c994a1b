/* SPDX-License-Identifier: MIT */
/*
 * Addresses of more than 47 bits, which a kernel with 5-level paging gives to a process that asks for them by a hint: data, code, stacks of
 * threads and signals there, fork over them.
 */
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

#define HINT ((void *)(1ull << 52))
#define BYTES (16ul << 20)

static volatile int signals;

static void on_signal(int sig)
{
    (void)sig;
    int local;
    signals += (uintptr_t)&local >> 47 != 0;
}

static void *in_thread(void *arg)
{
    int local = 7;
    (void)arg;
    return (uintptr_t)&local >> 47 != 0 ? (void *)1 : NULL;
}

static uint8_t *map(size_t bytes, int prot)
{
    uint8_t *p = mmap(HINT, bytes, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED && (uintptr_t)p >> 47 != 0);
    return p;
}

int main(void)
{
    uint8_t *a = map(BYTES, PROT_READ | PROT_WRITE), *b = map(BYTES, PROT_READ | PROT_WRITE);

    for (size_t i = 0; i < BYTES; i += 8)
        *(uint64_t *)(void *)(a + i) = (uintptr_t)(a + i);
    memcpy(b, a, BYTES);
    size_t wrong = 0;
    for (size_t i = 0; i < BYTES; i += 8)
        wrong += *(uint64_t *)(void *)(b + i) != (uintptr_t)(a + i);
    CHECK(wrong == 0);
    CHECK(mprotect(a, 4096, PROT_READ) == 0);

    static const uint8_t code[] = {0x48, 0x8d, 0x05, 0, 0, 0, 0, 0xc3}; /* lea 0(%rip), %rax; ret */
    uint8_t *c = map(4096, PROT_READ | PROT_WRITE | PROT_EXEC);
    memcpy(c, code, sizeof code);
    for (int i = 0; i < 1000; i++)
        CHECK(((uintptr_t(*)(void))(uintptr_t)c)() == (uintptr_t)c + 7);

    stack_t stack = {.ss_sp = map(65536, PROT_READ | PROT_WRITE), .ss_size = 65536};
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK};
    CHECK(sigaltstack(&stack, NULL) == 0 && sigaction(SIGUSR1, &action, NULL) == 0);
    for (int i = 0; i < 10; i++)
        raise(SIGUSR1);
    CHECK(signals == 10);

    pthread_attr_t attr;
    pthread_t thread;
    void *result = NULL;
    pthread_attr_init(&attr);
    CHECK(pthread_attr_setstack(&attr, map(1 << 20, PROT_READ | PROT_WRITE), 1 << 20) == 0);
    CHECK(pthread_create(&thread, &attr, in_thread, NULL) == 0 && pthread_join(thread, &result) == 0);
    CHECK(result == (void *)1);

    for (int i = 0; i < 20; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            b[i * 4096] = 0xee; /* copy on write */
            _exit(*(uint64_t *)(void *)(b + i * 4096 + 8) == (uintptr_t)(a + i * 4096 + 8) ? 0 : 1);
        }
        int status = -1;
        CHECK(waitpid(pid, &status, 0) == pid && status == 0);
        CHECK(b[i * 4096] == (uint8_t)(uintptr_t)(a + i * 4096));
    }
    return check_done("wide");
}
