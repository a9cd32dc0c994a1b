/* SPDX-License-Identifier: MIT */
/*
 * Names of NBD exports. QEMU has two kinds: nbd:unix:PATH[:exportname=NAME], nbd:HOST:PORT[:exportname=NAME]; and URIs, nbd://HOST[:PORT]/NAME,
 * nbd+unix:///NAME?socket=PATH (nbds, nbds+unix: with TLS). Inside, a name is a URI.
 */
#ifndef KAGE_BLOCK_NBD_H
#define KAGE_BLOCK_NBD_H

#include <stdbool.h>

#include "util/error.h"

/* Whether it names an export, and not a file. */
bool nbd_is_name(const char *name);
/* The name as a URI; to be freed. NULL with `error` filled. */
char *nbd_uri(const char *name, struct error *error);
/* Of its parts: a socket's path, or a host and a port (NULL: 10809). An export that is NULL or "" is the server's default. To be freed; NULL: no memory. */
char *nbd_make_uri(const char *path, const char *host, const char *port, const char *export);

#endif
