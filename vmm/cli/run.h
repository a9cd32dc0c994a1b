/* SPDX-License-Identifier: MIT */
/*
 * `kage run`: a machine from its options to its end.
 */
#ifndef KAGE_CLI_RUN_H
#define KAGE_CLI_RUN_H

#include "cli/options.h"
#include "util/error.h"

/* The exit status, or -1 with `error` filled. */
int run_machine(struct options *options, struct error *error);

#endif
