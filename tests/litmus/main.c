/* SPDX-License-Identifier: MIT */
/*
 * litmus: memory order and atomicity on the bare host and on several vCPUs.
 *   litmus [--seed N] [--time SECONDS] [--filter TEXT] [--mode NAME] [--verbose]
 * Ends with "N passed, N failed, N skipped".
 */
#include "litmus.h"

#include <getopt.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kage.h"

#define DEFAULT_SECONDS 15.0
#define PATIENCE_S      120 /* for one machine, beside the time it was given */

static const struct machine_mode modes[] = {
    {.name = "host"},
    {.name = "soft", .guest = true},
    {.name = "soft-nochain", .guest = true, .flags = KAGE_TEST_NO_CHAIN},
    {.name = "soft-tinytlb", .guest = true, .flags = KAGE_TEST_TINY_TLB},
};
#define MODES      (sizeof(modes) / sizeof(modes[0]))
#define SHARE_SOFT 3 /* parts of the time: plain is what guests run */
#define SHARES     (MODES - 1 + SHARE_SOFT)

bool verbose;
const char *running = "start";
static uint64_t random_state;

/* splitmix64 */
uint64_t litmus_random(void)
{
    uint64_t z = (random_state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static void hung(int sig)
{
    static const char text[] = "FAIL: no progress in ";

    (void)sig;
    if (write(STDOUT_FILENO, text, sizeof(text) - 1) < 0 || write(STDOUT_FILENO, running, strlen(running)) < 0 ||
        write(STDOUT_FILENO, "\n0 passed, 1 failed, 0 skipped\n", 31) < 0)
        _exit(2);
    _exit(1);
}

static bool wanted(const char *filter, const char *name)
{
    return !filter || strstr(name, filter);
}

int main(int argc, char **argv)
{
    static const struct option longs[] = {
        {"seed", required_argument, NULL, 's'},   {"time", required_argument, NULL, 't'},
        {"filter", required_argument, NULL, 'f'}, {"mode", required_argument, NULL, 'm'},
        {"verbose", no_argument, NULL, 'v'},      {"mmu", required_argument, NULL, 'u'},
        {NULL, 0, NULL, 0},
    };
    const char *filter = NULL, *only = NULL;
    double seconds = DEFAULT_SECONDS;
    uint64_t seed = 1;
    struct totals totals = {0};
    size_t tests = 0;

    for (int opt; (opt = getopt_long(argc, argv, "", longs, NULL)) >= 0;)
        switch (opt) {
        case 's':
            seed = strtoull(optarg, NULL, 0);
            break;
        case 't':
            seconds = strtod(optarg, NULL);
            break;
        case 'f':
            filter = optarg;
            break;
        case 'm':
            only = optarg;
            break;
        case 'v':
            verbose = true;
            break;
        case 'u':
            if ((machine_mmu = kage_mmu_find(optarg)) >= 0)
                break;
            /* fall through */
        default:
            fprintf(stderr, "usage: litmus [--mmu ept|shadow] [--seed N] [--time SECONDS] [--filter TEXT] [--mode NAME] [--verbose]\n");
            return 2;
        }
    setvbuf(stdout, NULL, _IOLBF, 4096);
    signal(SIGALRM, hung);
    for (size_t i = 0; i < litmus_count; i++) {
        if (!litmus_parse(&litmus_table[i]) || !model_outcomes(&litmus_table[i]))
            return 1;
        tests += wanted(filter, litmus_table[i].name);
    }
    for (size_t i = 0; i < MODES; i++) {
        struct machine machine;
        unsigned shares = i == 1 ? SHARE_SOFT : 1;
        if (only && strcmp(only, modes[i].name))
            continue;
        random_state = seed;
        alarm((unsigned)seconds + PATIENCE_S);
        if (machine_init(&machine, &modes[i])) {
            totals.failed++;
            continue;
        }
        for (size_t k = 0; k < litmus_count; k++)
            if (wanted(filter, litmus_table[k].name))
                order_test(&machine, &litmus_table[k], seconds / 2 * shares / SHARES / (double)tests, &totals);
        atomic_tests(&machine, seconds / 2 * shares / SHARES, filter, &totals);
        machine_fini(&machine);
    }
    printf("%lu passed, %lu failed, %lu skipped\n", totals.passed, totals.failed, totals.skipped);
    return totals.failed ? 1 : 0;
}
