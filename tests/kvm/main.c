/* SPDX-License-Identifier: MIT */
/*
 * The main function of kvm-conform (themes.c) and kvm-races (races.c):
 *
 *   PROGRAM [--backend soft|kvm|device] [--theme NAME]... [--row NAME] [--list] [--verbose]
 *
 * soft: libkage, linked. kvm: the kernel's. device: whatever /dev/kvm is to open(2), ioctl(2) and mmap(2), which is libkage
 * under its preload library. Exit status: 0 all passed, 1 a row failed, 2 wrong use, 77 the back end does not open here.
 */
#include <fcntl.h>
#include <fnmatch.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "machine.h"

enum { ROW_SECONDS = 20, EXIT_ROW_SKIPPED = 77, MESSAGE_BYTES = 512, THEMES_MAX = 32 };

const struct kvm_backend *kvm;
unsigned implementation;

static char *message;       /* shared with the row's process */
static char row_key[160];   /* "THEME/ROW" */
static unsigned passed, failed, skipped;
static bool verbose;

/* ---- back end "device": the C library's calls, which a preload library may serve ---- */

static int device_open(void)
{
    return open("/dev/kvm", O_RDWR | O_CLOEXEC);
}

static int device_ioctl(int handle, unsigned long request, void *arg)
{
    return ioctl(handle, request, arg);
}

static const struct kvm_backend device_backend = {
    .name = "device", .open = device_open, .ioctl = device_ioctl, .mmap = mmap, .munmap = munmap, .close = close,
};

/* ---- checks ---- */

_Noreturn void check_failed(const char *file, int line, const char *format, ...)
{
    va_list args;
    const char *slash = strrchr(file, '/');
    int used = snprintf(message, MESSAGE_BYTES, "%s:%d: ", slash ? slash + 1 : file, line);

    va_start(args, format);
    vsnprintf(message + used, (size_t)(MESSAGE_BYTES - used), format, args);
    va_end(args);
    _exit(1);
}

_Noreturn void row_skip(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(message, MESSAGE_BYTES, format, args);
    va_end(args);
    _exit(EXIT_ROW_SKIPPED);
}

static const struct difference *difference_of(const char *key)
{
    for (size_t i = 0; i < difference_count; i++)
        if ((differences[i].where & implementation) && fnmatch(differences[i].key, key, 0) == 0)
            return &differences[i];
    return NULL;
}

void check_expected(const char *file, int line, const char *what, long got, long want)
{
    char key[256];

    snprintf(key, sizeof(key), "%s%s%s", row_key, what[0] ? ":" : "", what);
    const struct difference *difference = difference_of(key);
    if (got == want || (difference && difference->kind == DIFFERS_VALUE && got == difference->value))
        return;
    if (difference)
        check_failed(file, line, "%s is %ld (0x%lx), neither %ld nor, as expected here, %ld", what[0] ? what : "the answer", got,
                     (unsigned long)got, want, difference->value);
    check_failed(file, line, "%s is %ld (0x%lx), not %ld (0x%lx)", what[0] ? what : "the answer", got, (unsigned long)got, want,
                 (unsigned long)want);
}

int ask(int handle, unsigned long request, void *arg)
{
    int result = kvm->ioctl(handle, request, arg);
    return result < 0 ? -errno : result;
}

uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void sleep_ms(unsigned ms)
{
    struct timespec time = { .tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000 };

    while (nanosleep(&time, &time) < 0 && errno == EINTR)
        ;
}

/* ---- running rows ---- */

/* The wait status, or -1 if it did not end in time (then it is killed). */
static int wait_for_row(pid_t pid)
{
    int status = 0, fd = (int)syscall(SYS_pidfd_open, pid, 0);
    struct pollfd end = { .fd = fd, .events = POLLIN };
    bool late = fd >= 0 && poll(&end, 1, ROW_SECONDS * 1000) == 0;

    if (late)
        kill(pid, SIGKILL);
    if (fd >= 0)
        close(fd);
    waitpid(pid, &status, 0);
    return late ? -1 : status;
}

static void judge(int status)
{
    if (status >= 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        passed++;
        if (verbose)
            printf("pass %s\n", row_key);
        return;
    }
    if (status >= 0 && WIFEXITED(status) && WEXITSTATUS(status) == EXIT_ROW_SKIPPED) {
        skipped++;
        printf("skip %s (%s)\n", row_key, message);
        return;
    }
    failed++;
    if (status < 0)
        printf("FAIL %s: no end within %d s\n", row_key, ROW_SECONDS);
    else if (WIFSIGNALED(status))
        printf("FAIL %s: killed by signal %d (%s)\n", row_key, WTERMSIG(status), strsignal(WTERMSIG(status)));
    else
        printf("FAIL %s: %s\n", row_key, message[0] ? message : "ended without a word");
}

static void run_row(const struct theme *theme, size_t row)
{
    const struct difference *difference = difference_of(row_key);

    if (difference && difference->kind == DIFFERS_SKIP) {
        skipped++;
        printf("skip %s (%s)\n", row_key, difference->why);
        return;
    }
    message[0] = '\0';
    fflush(stdout);
    uint64_t start = now_ns();
    pid_t pid = fork();
    if (pid == 0) {
        theme->run(row);
        _exit(0);
    }
    if (pid < 0) {
        perror("kvm tests: fork");
        exit(2);
    }
    judge(wait_for_row(pid));
    if (verbose && now_ns() - start > 500000000)
        printf("time %s %llu ms\n", row_key, (unsigned long long)(now_ns() - start) / 1000000);
}

/* In a process of its own, so that this one never holds a handle. */
static unsigned which_implementation(void)
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        int system = kvm->open();
        if (system < 0) {
            snprintf(message, MESSAGE_BYTES, "%s", strerror(errno));
            _exit(0);
        }
        bool kage = kvm->ioctl(system, KVM_CHECK_EXTENSION, (void *)(uintptr_t)KAGE_CAP_EXTENSIONS) > 0;
        _exit(!kage ? IMPL_KERNEL : kvm == &device_backend ? IMPL_PRELOADED : IMPL_LINKED);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? (unsigned)WEXITSTATUS(status) : 0;
}

static bool cpuinfo_has_virtualization(void)
{
    FILE *file = fopen("/proc/cpuinfo", "re");
    char *line = NULL;
    size_t room = 0;
    bool found = false;

    while (file && getline(&line, &room, file) > 0)
        if (strncmp(line, "flags", 5) == 0)
            found = found || strstr(line, " vmx") || strstr(line, " svm");
    free(line);
    if (file)
        fclose(file);
    return found;
}

static int usage(void)
{
    fputs("usage: PROGRAM [--backend soft|kvm|device] [--mmu ept|shadow] [--theme NAME]... [--row NAME] [--list] [--verbose]\n", stderr);
    return 2;
}

int main(int argc, char **argv)
{
    const char *only[THEMES_MAX], *backend = "soft", *only_row = NULL;
    size_t only_count = 0;
    bool list = false;

    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(argv[i], "--list") == 0)
            list = true;
        else if (strcmp(argv[i], "--verbose") == 0)
            verbose = true;
        else if (!value)
            return usage();
        else if (strcmp(argv[i], "--backend") == 0)
            backend = argv[++i];
        else if (strcmp(argv[i], "--mmu") == 0 && kage_mmu_find(value) >= 0)
            machine_mmu = kage_mmu_find(argv[++i]);
        else if (strcmp(argv[i], "--row") == 0)
            only_row = argv[++i];
        else if (strcmp(argv[i], "--theme") == 0 && only_count < COUNT_OF(only))
            only[only_count++] = argv[++i];
        else
            return usage();
    }
    kvm = strcmp(backend, "device") == 0 ? &device_backend : kage_backend_find(backend);
    message = mmap(NULL, MESSAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (!kvm || message == MAP_FAILED)
        return usage();
    implementation = list ? 0 : which_implementation();
    if (!list && !implementation) {
        printf("skip all: the %s back end does not open: %s\n", backend, message);
        return EXIT_ROW_SKIPPED;
    }
    if ((implementation & IMPL_KERNEL) && !cpuinfo_has_virtualization())
        implementation |= IMPL_EMULATING;

    for (size_t t = 0; t < theme_count; t++) {
        bool wanted = !only_count;
        for (size_t i = 0; i < only_count; i++)
            wanted = wanted || strcmp(only[i], themes[t]->name) == 0;
        for (size_t row = 0; wanted && row < themes[t]->count; row++) {
            if (only_row && strcmp(themes[t]->row_name(row), only_row) != 0)
                continue;
            snprintf(row_key, sizeof(row_key), "%s/%s", themes[t]->name, themes[t]->row_name(row));
            if (list)
                printf("%s\n", row_key);
            else
                run_row(themes[t], row);
        }
    }
    if (!list)
        printf("%u passed, %u failed, %u skipped\n", passed, failed, skipped);
    return failed ? 1 : 0;
}
