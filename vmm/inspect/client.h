/* SPDX-License-Identifier: MIT */
/* The side of `kage inspect`: one request to the process of a VM. */
#ifndef KAGE_INSPECT_CLIENT_H
#define KAGE_INSPECT_CLIENT_H

#include <kage_inspect.h>

/* inspect_view.ask over a socket; opaque: its path. What comes back is checked: it is somebody else's process. */
int inspect_client_ask(void *opaque, struct kage_inspect *ask, void *data);

#endif
