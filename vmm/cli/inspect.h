/* SPDX-License-Identifier: MIT */
#ifndef KAGE_CLI_INSPECT_H
#define KAGE_CLI_INSPECT_H

#include "util/error.h"

/* `kage inspect`: 0, or -1 with the error. */
int inspect_main(int count, char **words, struct error *error);
void inspect_help(void);

#endif
