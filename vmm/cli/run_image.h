/* SPDX-License-Identifier: MIT */
/*
 * `kage run IMAGE`: what is chosen by looking into the image, and what is said to somebody who does not know us yet.
 */
#ifndef KAGE_CLI_RUN_IMAGE_H
#define KAGE_CLI_RUN_IMAGE_H

#include "cli/options.h"

/* The board, if nothing says which. 0; -1 with `error` filled: the image cannot be what it was taken for. Without an image: 0. */
int run_image_choose(struct options *options, struct error *error);
void run_image_greet(const struct options *options);

#endif
