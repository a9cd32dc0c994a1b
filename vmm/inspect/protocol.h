/* SPDX-License-Identifier: MIT */
/*
 * What `kage inspect` and the process of a VM say to each other, over a Unix stream socket: one request and one reply for each
 * connection. Both are structures of fixed size of one machine, so there is nothing to parse; ask.bytes bytes of the answer
 * follow the reply. A side that sees another magic or version closes.
 */
#ifndef KAGE_INSPECT_PROTOCOL_H
#define KAGE_INSPECT_PROTOCOL_H

#include <kage_inspect.h>

#define INSPECT_MAGIC 0x1e6b6167u
#define INSPECT_VERSION 1u

struct inspect_request {
    uint32_t magic, version;
    struct kage_inspect ask; /* data: not used */
};

struct inspect_reply {
    uint32_t magic, version;
    int32_t error; /* errno of kage_inspect(), or 0 */
    uint32_t pad;
    struct kage_inspect ask; /* as kage_inspect() left it; data: 0 */
};

#endif
