/* SPDX-License-Identifier: MIT */
/* Processes: fork, exec of itself, exit codes, pipes with known contents, deep recursion, getrandom. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

static void test_exec(void)
{
    for (int i = 0; i < 60; i++) {
        pid_t child = fork();
        if (child == 0) {
            char number[12];
            snprintf(number, sizeof number, "%d", i);
            execl("/proc/self/exe", "process", "exit", number, (char *)NULL);
            _exit(255);
        }
        int status = 0;
        CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == i);
    }
}

static void test_pipe(void)
{
    int ends[2];
    CHECK(pipe(ends) == 0);
    pid_t child = fork();
    if (child == 0) {
        uint64_t seed = 42, buffer[333];
        close(ends[0]);
        for (int i = 0; i < 500; i++) {
            for (size_t k = 0; k < 333; k++)
                buffer[k] = next_random(&seed);
            if (write(ends[1], buffer, sizeof buffer) != (ssize_t)sizeof buffer)
                _exit(1);
        }
        _exit(0);
    }
    close(ends[1]);
    uint64_t seed = 42, word = 0;
    size_t filled = 0, wrong = 0, words = 0;
    unsigned char buffer[5000];
    ssize_t got;
    while ((got = read(ends[0], buffer, sizeof buffer)) > 0) {
        for (ssize_t i = 0; i < got; i++) {
            word |= (uint64_t)buffer[i] << (8 * filled++);
            if (filled == 8) {
                wrong += word != next_random(&seed);
                words++;
                filled = 0, word = 0;
            }
        }
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(wrong == 0 && words == 500 * 333);
}

static uint64_t recurse(uint64_t n)
{
    volatile uint64_t keep[16] = {n};
    return n == 0 ? 0 : recurse(n - 1) + keep[0];
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "exit"))
        return atoi(argv[2]);
    test_exec();
    test_pipe();
    CHECK(recurse(20000) == 20000ull * 20001 / 2);
    unsigned char a[64] = {0}, b[64] = {0};
    CHECK(getrandom(a, sizeof a, 0) == 64 && getrandom(b, sizeof b, 0) == 64);
    CHECK(memcmp(a, b, sizeof a) != 0);
    return check_done("process");
}
