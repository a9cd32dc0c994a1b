/* SPDX-License-Identifier: MIT */
/*
 * Runs a VMM and watches its output from outside: prints "boot_ms MILLISECONDS" from exec to the line
 * "kage: init", and "rss_kib KIB" at the line "kage: settled", resident memory without the mapping that is the
 * guest's RAM (the one of exactly that size, or up to 4 MiB more). Lines of the guest's own measurements ("bench …")
 * pass through. A guest that has not come to its init after 60 s is ended, with status 3: QEMU TCG's does that on
 * a busy host, where Linux fails to calibrate its TSC. With -u TEXT, that text is what it waits for, be its line over or
 * not, and what ends the VMM: it prints "NAME MILLISECONDS" (-n NAME). -t SECONDS instead of the 60.
 * Usage: kage-stamp [-u TEXT -n NAME] [-t SECONDS] RAM-MIB COMMAND [ARGUMENT...]
 */
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile pid_t child;
static volatile sig_atomic_t hung;

static void end_hung(int number)
{
    (void)number;
    hung = 1;
    kill(child, SIGKILL);
}

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static long rss_without_ram_kib(pid_t pid, unsigned long ram_bytes)
{
    char path[40], line[512];
    unsigned long from, to, size = 0;
    long total = 0, rss;

    snprintf(path, sizeof path, "/proc/%d/smaps", (int)pid);
    FILE *f = fopen(path, "r");
    if (!f)
        return -1;
    while (fgets(line, sizeof line, f)) {
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
            size = to - from;
        else if (sscanf(line, "Rss: %ld kB", &rss) == 1 && !(size >= ram_bytes && size <= ram_bytes + (4ul << 20)))
            total += rss;
    }
    fclose(f);
    return total;
}

static double start;
static unsigned long ram_bytes;

/* One line of output, or what there is of it yet. */
static void see(const char *line)
{
    if (strstr(line, "kage: init")) {
        alarm(0);
        printf("boot_ms %.1f\n", now_ms() - start);
    } else if (strstr(line, "kage: settled")) {
        printf("rss_kib %ld\n", rss_without_ram_kib(child, ram_bytes));
    } else if (!strncmp(line, "bench ", 6)) {
        puts(line);
    }
    fflush(stdout);
}

/* Watches until the output ends, or text has been seen: then true. */
static bool watch(int fd, const char *text, const char *name)
{
    char line[4096];
    size_t used = 0;
    ssize_t got;

    while ((got = read(fd, line + used, sizeof line - 1 - used)) > 0) {
        for (ssize_t i = 0; i < got; i++)
            if (line[used + (size_t)i] == 0)
                line[used + (size_t)i] = ' ';
        used += (size_t)got;
        line[used] = 0;
        if (text && strstr(line, text)) {
            printf("%s %.1f\n", name, now_ms() - start);
            return true;
        }
        for (char *end; (end = strchr(line, '\n')) != NULL;) {
            *end = 0;
            if (!text)
                see(line);
            used -= (size_t)(end + 1 - line);
            memmove(line, end + 1, used + 1);
        }
        if (used == sizeof line - 1) /* longer than any line that matters */
            used = 0;
    }
    return false;
}

int main(int argc, char **argv)
{
    int ends[2], status = -1;
    unsigned limit = 60;
    const char *text = NULL, *name = "text_ms";

    for (int option; (option = getopt(argc, argv, "+u:n:t:")) != -1;) {
        switch (option) {
        case 'u': text = optarg; break;
        case 'n': name = optarg; break;
        case 't': limit = (unsigned)strtoul(optarg, NULL, 10); break;
        default: return 2;
        }
    }
    if (argc - optind < 2 || pipe(ends) < 0)
        return 2;
    ram_bytes = strtoul(argv[optind], NULL, 10) << 20;
    start = now_ms();
    child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGTERM); /* the driver's timeout ends us both */
        dup2(ends[1], STDOUT_FILENO);
        close(ends[0]);
        close(ends[1]);
        execvp(argv[optind + 1], argv + optind + 1);
        _exit(127);
    }
    close(ends[1]);
    signal(SIGALRM, end_hung);
    alarm(limit);
    bool seen = watch(ends[0], text, name);
    if (seen)
        kill(child, SIGTERM);
    if (waitpid(child, &status, 0) != child)
        return 1;
    if (hung)
        return 3;
    if (text)
        return seen ? 0 : 1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
