/* SPDX-License-Identifier: MIT */
/*
 * The thread that answers (see server.h). What comes in is hostile: it is one structure of fixed size, read within a second, and
 * everything in it is judged by kage_inspect(). Who asks must be this user or root.
 */
#include "inspect/server.h"

#include <errno.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "inspect/protocol.h"

#define SERVER_STACK (256u << 10)
#define SERVER_LOOK_MS 5000 /* at `stopping`, if the connection that wakes it could not be made */

static bool peer_is_welcome(int fd)
{
    struct ucred peer;
    socklen_t bytes = sizeof(peer);
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) == 0 && (peer.uid == geteuid() || peer.uid == 0);
}

static bool receive(int fd, void *to, size_t bytes)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t n = recv(fd, (char *)to + done, bytes - done, 0);
        if (n <= 0) {
            return false;
        }
        done += (size_t)n;
    }
    return true;
}

static bool transmit(int fd, const void *from, size_t bytes)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t n = send(fd, (const char *)from + done, bytes - done, MSG_NOSIGNAL);
        if (n <= 0) {
            return false;
        }
        done += (size_t)n;
    }
    return true;
}

static void answer(int fd)
{
    const struct timeval patience = {.tv_sec = 1};
    struct inspect_request request;

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    if (!receive(fd, &request, sizeof(request)) || request.magic != INSPECT_MAGIC) {
        return;
    }
    struct inspect_reply reply = {.magic = INSPECT_MAGIC, .version = INSPECT_VERSION, .ask = request.ask, .error = EPROTO};
    void *data = MAP_FAILED;
    if (request.version == INSPECT_VERSION) {
        reply.ask.bytes = reply.ask.bytes < KAGE_INSPECT_MAX_BYTES ? reply.ask.bytes : KAGE_INSPECT_MAX_BYTES;
        data = mmap(NULL, KAGE_INSPECT_MAX_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        reply.ask.data = (uintptr_t)data;
        reply.error = data == MAP_FAILED ? ENOMEM : kage_inspect(&reply.ask) == 0 ? 0 : errno;
    }
    if (reply.error != 0) {
        reply.ask.bytes = reply.ask.count = 0;
    }
    reply.ask.data = 0;
    if (transmit(fd, &reply, sizeof(reply)) && reply.ask.bytes != 0) {
        transmit(fd, data, reply.ask.bytes);
    }
    if (data != MAP_FAILED) {
        munmap(data, KAGE_INSPECT_MAX_BYTES);
    }
}

static void serve(struct inspect_server *server, int fd)
{
    while (!atomic_load(&server->stopping)) {
        struct pollfd wait = {.fd = fd, .events = POLLIN};
        if (poll(&wait, 1, SERVER_LOOK_MS) < 0 && errno != EINTR) {
            return;
        }
        int peer = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
        if (peer < 0) {
            const struct timespec pause = {.tv_nsec = 50000000};
            if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
                nanosleep(&pause, NULL); /* out of memory, say */
            }
            continue;
        }
        if (!atomic_load(&server->stopping) && peer_is_welcome(peer)) {
            answer(peer);
        }
        close(peer);
    }
}

static void *server_thread(void *arg)
{
    struct inspect_server *server = arg;

    prctl(PR_SET_NAME, "kage-inspect");
    /* From here on descriptors are this thread's own, and it has none. */
    if (syscall(SYS_close_range, 0u, ~0u, CLOSE_RANGE_UNSHARE) != 0) {
        return NULL;
    }
    int fd = inspect_listen(server->path);
    if (fd < 0) {
        return NULL;
    }
    atomic_store(&server->listening, true);
    serve(server, fd);
    close(fd);
    return NULL;
}

void inspect_server_start(struct inspect_server *server)
{
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    sigset_t blocked, before;
    pthread_attr_t attr;

    const char *wanted = getenv("KAGE_INSPECT");

    memset(server, 0, sizeof(*server));
    if (wanted != NULL && strcmp(wanted, "0") == 0) {
        return;
    }
    server->pid = getpid();
    sigfillset(&blocked);
    for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++) {
        sigdelset(&blocked, faults[i]);
    }
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, SERVER_STACK);
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    server->started = pthread_create(&server->thread, &attr, server_thread, server) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
}

void inspect_server_stop(struct inspect_server *server)
{
    if (!server->started) {
        return;
    }
    atomic_store(&server->stopping, true);
    /* Its wait ends with a connection, if it has come to waiting. */
    int fd = atomic_load(&server->listening) ? inspect_connect(server->path) : -1;
    if (fd >= 0) {
        close(fd);
    }
    pthread_join(server->thread, NULL);
    inspect_server_remove(server);
    server->started = false;
}

void inspect_server_remove(struct inspect_server *server)
{
    if (server->started && server->pid == getpid() && atomic_exchange(&server->listening, false)) {
        unlink(server->path);
    }
}
