/* SPDX-License-Identifier: MIT */
/*
 * Runs the guest tests of index.txt on one back end: one process a test, its output judged line by
 * line. A test passes if every check it prints passes and its end is the one the index names.
 *
 *   runner [--backend soft|kvm] [--index FILE] [--images DIR] [--test NAME]... [--list] [--verbose]
 *          [--no-chain] [--single-insn] [--tiny-tlb] [--mmu ept|shadow] [--arg VALUE] [--time SECONDS]
 *
 * --arg and --time stand in for those of the index: a longer run of the tests that are named.
 * Exit status: 0 all passed, 1 a check failed, 2 wrong use, 77 the back end does not open here.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "runner.h"

#ifndef KAGE_TEST_NO_CHAIN
#define KAGE_TEST_NO_CHAIN (1u << 0)
#define KAGE_TEST_SINGLE_INSN (1u << 1)
#define KAGE_TEST_TINY_TLB (1u << 2)
#endif

enum { TESTS_MAX = 128, SKIPS_MAX = 512, EXIT_NO_BACKEND = 77 };

/* A line "kvm-skip TEST CHECK reason": that check is not judged on the kernel's back end. */
struct skip {
    char test[40], check[80], reason[160];
};

static struct guest_test tests[TESTS_MAX];
static struct skip skips[SKIPS_MAX];
static unsigned test_count, skip_count;
static unsigned passed, failed, skipped;
static bool verbose;

static bool parse_test(char *line, struct guest_test *t)
{
    char *save = NULL, *word = strtok_r(line, " \t\n", &save);
    *t = (struct guest_test){.time_s = 10, .on_soft = true, .on_kvm = true, .cpus = 1, .ram_mib = 32};
    for (unsigned i = 0; (word = strtok_r(NULL, " \t\n", &save)); i++) {
        if (i == 0)
            snprintf(t->name, sizeof t->name, "%s", word);
        else if (i == 1)
            snprintf(t->image, sizeof t->image, "%s", word);
        else if (!strncmp(word, "arg=", 4))
            t->arg = strtoull(word + 4, NULL, 0);
        else if (!strncmp(word, "time=", 5))
            t->time_s = (unsigned)strtoul(word + 5, NULL, 0);
        else if (!strncmp(word, "cpus=", 5))
            t->cpus = (unsigned)strtoul(word + 5, NULL, 0);
        else if (!strncmp(word, "ram=", 4))
            t->ram_mib = (unsigned)strtoul(word + 4, NULL, 0);
        else if (!strcmp(word, "backends=soft"))
            t->on_kvm = false;
        else if (!strcmp(word, "backends=kvm"))
            t->on_soft = false;
        else if (!strcmp(word, "backends=soft,kvm"))
            t->on_kvm = t->on_soft = true;
        else if (!strcmp(word, "expect=shutdown"))
            t->expect_shutdown = true;
        else if (!strcmp(word, "no-irqchip"))
            t->no_irqchip = true;
        else if (!strcmp(word, "la57"))
            t->la57 = true;
        else
            return false;
    }
    return t->image[0] != 0 && t->cpus >= 1 && t->cpus <= GUEST_CPUS_MAX && t->ram_mib >= 32 && t->ram_mib <= 3072;
}

static int read_index(const char *path)
{
    FILE *f = fopen(path, "re");
    char line[512];
    if (!f) {
        fprintf(stderr, "runner: %s: %s\n", path, strerror(errno));
        return -1;
    }
    for (unsigned number = 1; fgets(line, sizeof line, f); number++) {
        bool ok = true;
        if (!strncmp(line, "test ", 5))
            ok = test_count < TESTS_MAX && parse_test(line, &tests[test_count++]);
        else if (!strncmp(line, "kvm-skip ", 9))
            ok = skip_count < SKIPS_MAX &&
                 sscanf(line, "kvm-skip %39s %79s %159[^\n]", skips[skip_count].test, skips[skip_count].check,
                        skips[skip_count].reason) == 3 &&
                 ++skip_count;
        else
            ok = line[0] == '#' || line[0] == '\n';
        if (!ok) {
            fprintf(stderr, "runner: %s:%u: cannot read this line\n", path, number);
            fclose(f);
            return -1;
        }
    }
    fclose(f);
    return 0;
}

static const char *skip_reason(bool on_kvm, const char *test, const char *check, size_t len)
{
    for (unsigned i = 0; on_kvm && i < skip_count; i++)
        if (!strcmp(skips[i].test, test) &&
            (!strcmp(skips[i].check, "*") || (strlen(skips[i].check) == len && !strncmp(skips[i].check, check, len))))
            return skips[i].reason;
    return NULL;
}

/* One line of a test's output. Returns true if it is the end line. */
static bool judge_line(const char *line, const struct guest_test *t, bool on_kvm)
{
    const bool pass = !strncmp(line, "PASS ", 5), fail = !strncmp(line, "FAIL ", 5), skip = !strncmp(line, "SKIP ", 5);
    if (!pass && !fail && !skip) {
        printf("  %s: %s\n", t->name, line);
        return false;
    }
    const char *check = line + 5;
    const size_t len = strcspn(check, ": ");
    const char *reason = skip_reason(on_kvm, t->name, check, len);
    if (fail && reason) {
        skipped++;
        printf("skip %s %s (%s)\n", t->name, check, reason);
    } else if (fail) {
        failed++;
        printf("FAIL %s %s\n", t->name, check);
    } else if (skip) {
        skipped++;
        printf("skip %s %s\n", t->name, check);
    } else {
        passed++;
        if (verbose)
            printf("pass %s %s%s\n", t->name, check, reason ? " (listed as kvm-skip, but it passes)" : "");
    }
    return len == 3 && !strncmp(check, "end", 3);
}

static int64_t now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* Reads lines from fd until its end or the deadline. Returns true if an end line came. */
static bool judge_output(int fd, const struct guest_test *t, bool on_kvm, int64_t deadline)
{
    char buf[4096];
    size_t used = 0;
    bool ended = false;
    for (;;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        const int64_t left = deadline - now_ms();
        if (left <= 0 || poll(&p, 1, (int)left) <= 0)
            return ended;
        ssize_t n = read(fd, buf + used, sizeof buf - 1 - used);
        if (n <= 0)
            return ended;
        used += (size_t)n;
        buf[used] = 0;
        char *start = buf;
        for (char *nl; (nl = memchr(start, '\n', used - (size_t)(start - buf))); start = nl + 1) {
            *nl = 0;
            ended |= judge_line(start, t, on_kvm);
        }
        used -= (size_t)(start - buf);
        memmove(buf, start, used);
        if (used == sizeof buf - 1)
            used = 0; /* no line is that long */
    }
}

static void run_test(const struct guest_test *t, const struct vm_options *options)
{
    const bool on_kvm = !strcmp(options->backend->name, "kvm");
    const char *reason = skip_reason(on_kvm, t->name, "*", 1);
    int fds[2], status = 0;
    if (reason || (on_kvm ? !t->on_kvm : !t->on_soft)) {
        skipped++;
        printf("skip %s (%s)\n", t->name, reason ? reason : "not for this back end");
        return;
    }
    fflush(stdout);
    if (pipe2(fds, O_CLOEXEC) < 0) {
        perror("runner: pipe");
        exit(2);
    }
    const int64_t start = now_ms();
    pid_t pid = fork();
    if (pid == 0) {
        dup2(fds[1], STDOUT_FILENO);
        setvbuf(stdout, NULL, _IOLBF, 4096);
        int err = vm_run_test(options, t);
        fflush(stdout);
        _exit(err ? 1 : 0);
    }
    close(fds[1]);
    if (pid < 0) {
        perror("runner: fork");
        exit(2);
    }
    const bool ended = judge_output(fds[0], t, on_kvm, start + (int64_t)t->time_s * 1000);
    const bool late = now_ms() - start >= (int64_t)t->time_s * 1000;
    if (!ended || late)
        kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    close(fds[0]);
    char line[128];
    if (!ended) {
        if (late)
            snprintf(line, sizeof line, "FAIL end: no end within %u s", t->time_s);
        else
            snprintf(line, sizeof line, "FAIL end: the process died, wait status 0x%x", (unsigned)status);
        judge_line(line, t, on_kvm);
    }
    if (verbose)
        printf("time %s %lld ms\n", t->name, (long long)(now_ms() - start));
}

static int usage(void)
{
    fputs("usage: runner [--backend soft|kvm] [--index FILE] [--images DIR] [--test NAME]... [--list] [--verbose]\n"
          "              [--no-chain] [--single-insn] [--tiny-tlb] [--mmu ept|shadow] [--arg VALUE] [--time SECONDS]\n",
          stderr);
    return 2;
}

int main(int argc, char **argv)
{
    const char *backend_name = "soft", *index = "index.txt", *only[TESTS_MAX];
    struct vm_options options = {.image_dir = "."};
    unsigned only_count = 0, ran = 0;
    const char *arg = NULL, *time_s = NULL;
    bool list = false;
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (!strcmp(a, "--list"))
            list = true;
        else if (!strcmp(a, "--verbose"))
            verbose = true;
        else if (!strcmp(a, "--no-chain"))
            options.test_flags |= KAGE_TEST_NO_CHAIN;
        else if (!strcmp(a, "--single-insn"))
            options.test_flags |= KAGE_TEST_SINGLE_INSN;
        else if (!strcmp(a, "--tiny-tlb"))
            options.test_flags |= KAGE_TEST_TINY_TLB;
        else if (!value)
            return usage();
        else if (!strcmp(a, "--backend"))
            backend_name = argv[++i];
        else if (!strcmp(a, "--mmu") && kage_mmu_find(value) >= 0)
            options.mmu = kage_mmu_find(argv[++i]);
        else if (!strcmp(a, "--arg"))
            arg = argv[++i];
        else if (!strcmp(a, "--time"))
            time_s = argv[++i];
        else if (!strcmp(a, "--index"))
            index = argv[++i];
        else if (!strcmp(a, "--images"))
            options.image_dir = argv[++i];
        else if (!strcmp(a, "--test") && only_count < TESTS_MAX)
            only[only_count++] = argv[++i];
        else
            return usage();
    }
    if (!(options.backend = kage_backend_find(backend_name)))
        return usage();
    if (read_index(index) < 0)
        return 2;
    if (!list) {
        int fd = options.backend->open();
        if (fd < 0) {
            printf("skip all: the %s back end does not open: %s\n", backend_name, strerror(errno));
            return EXIT_NO_BACKEND;
        }
        options.backend->close(fd);
    }
    for (unsigned i = 0; i < test_count; i++) {
        bool wanted = !only_count;
        for (unsigned j = 0; j < only_count; j++)
            wanted |= !strcmp(only[j], tests[i].name);
        if (!wanted)
            continue;
        ran++;
        if (arg)
            tests[i].arg = strtoull(arg, NULL, 0);
        if (time_s)
            tests[i].time_s = (unsigned)strtoul(time_s, NULL, 0);
        if (list)
            printf("%s %s arg=%llu time=%u%s%s\n", tests[i].name, tests[i].image, (unsigned long long)tests[i].arg,
                   tests[i].time_s, tests[i].on_soft ? " soft" : "", tests[i].on_kvm ? " kvm" : "");
        else
            run_test(&tests[i], &options);
    }
    if (!ran) {
        fputs("runner: no such test in the index\n", stderr);
        return 2;
    }
    if (!list)
        printf("%u passed, %u failed, %u skipped\n", passed, failed, skipped);
    return failed ? 1 : 0;
}
