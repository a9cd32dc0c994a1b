/* SPDX-License-Identifier: MIT */
/* The kernel's ways in and out: system calls, context switches, new processes, page faults. */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

_Bool bench_spawn(const char *const argv[])
{
    int status = -1;
    pid_t child = fork();

    if (child == 0) {
        int null = open("/dev/null", O_WRONLY);
        if (null >= 0)
            dup2(null, STDOUT_FILENO);
        execvp(argv[0], (char *const *)argv);
        _exit(127);
    }
    return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

static uint64_t run_getppid(uint64_t rounds)
{
    uint64_t same = 0;
    long parent = syscall(SYS_getppid);
    for (uint64_t i = 0; i < rounds; i++)
        same += syscall(SYS_getppid) == parent;
    return same;
}

static uint64_t run_pipe(uint64_t rounds)
{
    int there[2], back[2], status = -1;
    char byte = 1;
    uint64_t sum = 0;

    if (pipe(there) < 0 || pipe(back) < 0)
        return 0;
    pid_t child = fork();
    if (child == 0) {
        close(there[1]);
        while (read(there[0], &byte, 1) == 1 && write(back[1], &byte, 1) == 1)
            ;
        _exit(0);
    }
    close(there[0]);
    for (uint64_t i = 0; i < rounds; i++)
        if (write(there[1], &byte, 1) == 1 && read(back[0], &byte, 1) == 1)
            sum += (uint64_t)byte;
    close(there[1]);
    close(back[0]);
    close(back[1]);
    waitpid(child, &status, 0);
    return sum == rounds ? sum : 0;
}

static uint64_t run_exec(uint64_t rounds)
{
    const char *const argv[] = {"/proc/self/exe", "exit", NULL};
    for (uint64_t i = 0; i < rounds; i++)
        if (!bench_spawn(argv))
            return 0;
    return rounds;
}

static uint64_t run_touch(uint64_t rounds)
{
    const uint64_t pages = 256;
    uint64_t sum = 0;

    for (uint64_t done = 0; done < rounds; done += pages) {
        volatile char *map = mmap(NULL, pages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (map == MAP_FAILED)
            return 0;
        madvise((void *)map, pages * 4096, MADV_NOHUGEPAGE);
        for (uint64_t p = 0; p < pages; p++) {
            map[p * 4096] = 1;
            sum += (uint64_t)map[p * 4096];
        }
        munmap((void *)map, pages * 4096);
    }
    return sum;
}

const struct bench bench_system[] = {
    {"getppid", "call", 300000, run_getppid},
    {"pipe-ping-pong", "round trip", 20000, run_pipe},
    {"fork-exec", "process", 300, run_exec},
    {"mmap-touch", "page", 51200, run_touch},
    {0},
};
