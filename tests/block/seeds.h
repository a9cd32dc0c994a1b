/* SPDX-License-Identifier: MIT */
/* The options of tests that are made of numbered random runs: -s FIRST, -n COUNT, and -v where the test has more to say. */
#ifndef KAGE_TESTS_BLOCK_SEEDS_H
#define KAGE_TESTS_BLOCK_SEEDS_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* `count` has a default. `verbose` NULL: there is no -v. False: something else was there. */
static inline bool seeds_options(int argc, char **argv, unsigned *first, unsigned *count, bool *verbose)
{
    int option;
    setvbuf(stdout, NULL, _IOLBF, 0); /* what failed is seen though the rest be cut off */
    *first = 1;
    while ((option = getopt(argc, argv, verbose != NULL ? "s:n:v" : "s:n:")) != -1) {
        if (option == 's') {
            *first = (unsigned)strtoul(optarg, NULL, 0);
        } else if (option == 'n') {
            *count = (unsigned)strtoul(optarg, NULL, 0);
        } else if (option == 'v') {
            *verbose = true;
        } else {
            return false;
        }
    }
    return true;
}

#endif
