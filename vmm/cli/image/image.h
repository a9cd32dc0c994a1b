/* SPDX-License-Identifier: MIT */
/*
 * `kage image`: disks with an operating system on them, for people.
 */
#ifndef KAGE_CLI_IMAGE_IMAGE_H
#define KAGE_CLI_IMAGE_IMAGE_H

#include <stddef.h>

#include "util/error.h"

/* What was asked for, as the script (debian.sh) finds it in its environment: KAGE_IMAGE_ and a row's name. NULL: not set. */
#define IMAGE_OPTIONS_MAX 24u
struct image_request {
    const char *value[IMAGE_OPTIONS_MAX]; /* one for each row of the table */
    char text[512];                       /* what was made up, or computed */
    size_t text_used;
    int help;
};

/* `count` words behind `image`. Becomes the script and does not return; or 0 after help; or -1 with `error` filled. */
int image_main(int count, char **words, struct error *error);
void image_help(void);

/* Only reads, and looks whether files that are named are there. Exposed for tests. */
int image_parse(struct image_request *request, int count, char **words, struct error *error);
/* By the name that the script knows it by; NULL: not set. */
const char *image_value(const struct image_request *request, const char *name);

#endif
