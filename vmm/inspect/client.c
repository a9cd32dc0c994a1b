/* SPDX-License-Identifier: MIT */
#include "inspect/client.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "inspect/protocol.h"
#include "inspect/sockets.h"

static int transfer(int fd, char *data, size_t bytes, bool out)
{
    while (bytes > 0) {
        ssize_t n = out ? send(fd, data, bytes, MSG_NOSIGNAL) : recv(fd, data, bytes, 0);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return n < 0 ? -errno : -ECONNREFUSED; /* it ended meanwhile */
        }
        data += n;
        bytes -= (size_t)n;
    }
    return 0;
}

int inspect_client_ask(void *opaque, struct kage_inspect *ask, void *data)
{
    struct inspect_request request = {.magic = INSPECT_MAGIC, .version = INSPECT_VERSION, .ask = *ask};
    struct inspect_reply reply;
    int fd = inspect_connect(opaque);

    if (fd < 0) {
        return -errno;
    }
    int err = transfer(fd, (char *)&request, sizeof(request), true);
    if (err == 0) {
        err = transfer(fd, (char *)&reply, sizeof(reply), false);
    }
    if (err == 0 && (reply.magic != INSPECT_MAGIC || reply.version != INSPECT_VERSION || reply.error < 0 || reply.ask.bytes > ask->bytes)) {
        err = -EPROTO;
    }
    if (err == 0) {
        err = -reply.error;
    }
    if (err == 0) {
        err = transfer(fd, data, reply.ask.bytes, false);
        *ask = reply.ask;
    }
    close(fd);
    return err;
}
