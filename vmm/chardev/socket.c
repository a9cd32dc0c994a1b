/* SPDX-License-Identifier: MIT */
/*
 * Sockets: unix and TCP, as the one that waits for a client or as a client that may come again; and UDP. How a connection begins and
 * ends; its bytes are chardev.c's. A server has one client at a time, the next waits in the listen queue.
 */
#include "chardev/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

struct socket_address {
    union {
        struct sockaddr any;
        struct sockaddr_un local;
        struct sockaddr_in6 in6;
        struct sockaddr_in in;
        struct sockaddr_storage storage;
    };
    socklen_t bytes;
};

/* ---- Addresses ---- */

/* "tight": an abstract address ends with its name, else with the field. */
static void socket_local_address(const struct chardev_config *config, struct socket_address *address)
{
    size_t length = strlen(config->path);
    *address = (struct socket_address){.local.sun_family = AF_UNIX, .bytes = sizeof(address->local)};
    memcpy(address->local.sun_path + config->abstract, config->path, length);
    if (config->abstract && config->tight) {
        address->bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + length);
    }
}

static int socket_inet_address(const struct chardev_config *config, const char *host, const char *port, int type, bool passive,
                               struct socket_address *address, struct error *error)
{
    struct addrinfo *found;
    struct addrinfo hints = {
        .ai_family = config->ipv4 == config->ipv6 ? AF_UNSPEC : config->ipv6 ? AF_INET6 : AF_INET,
        .ai_socktype = type,
        .ai_flags = passive ? AI_PASSIVE : 0,
    };
    int result = getaddrinfo(host[0] != '\0' ? host : NULL, port[0] != '\0' ? port : "0", &hints, &found);
    if (result != 0) {
        return error_set(error, "address resolution failed for %s:%s: %s", host, port, gai_strerror(result));
    }
    *address = (struct socket_address){.bytes = found->ai_addrlen};
    memcpy(&address->storage, found->ai_addr, found->ai_addrlen < sizeof(address->storage) ? found->ai_addrlen : sizeof(address->storage));
    freeaddrinfo(found);
    return 0;
}

static int socket_address(const struct chardev *chardev, struct socket_address *address, struct error *error)
{
    const struct chardev_config *config = &chardev->config;
    if (config->path[0] != '\0') {
        socket_local_address(config, address);
        return 0;
    }
    return socket_inet_address(config, config->host, config->port, SOCK_STREAM, config->server, address, error);
}

/* What people and QMP are told: with the port that a 0 became. */
static void socket_name(struct chardev *chardev, int fd)
{
    const struct chardev_config *config = &chardev->config;
    struct socket_address address = {.bytes = sizeof(address.storage)};
    char host[CHARDEV_NAME_MAX] = "", port[CHARDEV_PORT_MAX] = "";
    const char *server = config->server ? ",server=on" : "";
    if (config->path[0] != '\0' || getsockname(fd, &address.any, &address.bytes) != 0) {
        snprintf(chardev->filename, sizeof(chardev->filename), "unix:%s%s", config->path, server);
    } else if (address.any.sa_family == AF_UNIX) {
        snprintf(chardev->filename, sizeof(chardev->filename), "unix:%.*s%s", (int)sizeof(address.local.sun_path), address.local.sun_path, server);
    } else if ((config->server ? getnameinfo(&address.any, address.bytes, host, sizeof(host), port, sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV)
                               : -1) == 0) {
        const char *open = address.any.sa_family == AF_INET6 ? "[" : "", *close = open[0] != '\0' ? "]" : "";
        snprintf(chardev->filename, sizeof(chardev->filename), "%s:%s%s%s:%s%s", config->telnet ? "telnet" : "tcp", open, host, close, port, server);
    } else {
        snprintf(chardev->filename, sizeof(chardev->filename), "%s:%s:%s", config->telnet ? "telnet" : "tcp", config->host, config->port);
    }
}

/* ---- Telnet (RFC 854, 856, 857, 858): the other end sends single characters of eight bits, and shows what we send ---- */

#define TELNET_IAC_BYTE 255u
#define TELNET_DO 253u
#define TELNET_WILL 251u
#define TELNET_SB 250u
#define TELNET_SE 240u
#define TELNET_BINARY 0u
#define TELNET_ECHO 1u
#define TELNET_SUPPRESS_GO_AHEAD 3u

static void socket_telnet_start(struct chardev *chardev)
{
    static const uint8_t offer[] = {TELNET_IAC_BYTE, TELNET_WILL, TELNET_ECHO,   TELNET_IAC_BYTE, TELNET_WILL, TELNET_SUPPRESS_GO_AHEAD,
                                    TELNET_IAC_BYTE, TELNET_WILL, TELNET_BINARY, TELNET_IAC_BYTE, TELNET_DO,   TELNET_BINARY};
    chardev_write_bytes(chardev, offer, sizeof(offer));
    pthread_mutex_lock(&chardev->lock);
    chardev->doubles_iac = true;
    pthread_mutex_unlock(&chardev->lock);
    chardev->telnet = TELNET_DATA;
}

void chardev_telnet_filter(struct chardev *chardev, uint8_t *bytes, size_t *count)
{
    size_t kept = 0;
    for (size_t i = 0; i < *count; i++) {
        uint8_t byte = bytes[i];
        switch (chardev->telnet) {
        case TELNET_IAC:
            if (byte == TELNET_IAC_BYTE) {
                bytes[kept++] = byte;
            }
            chardev->telnet = byte == TELNET_SB ? TELNET_SUB : byte >= TELNET_WILL && byte < TELNET_IAC_BYTE ? TELNET_OPTION : TELNET_DATA;
            break;
        case TELNET_OPTION: /* agreed or not: we do the same */
            chardev->telnet = TELNET_DATA;
            break;
        case TELNET_SUB:
            chardev->telnet = byte == TELNET_IAC_BYTE ? TELNET_SUB_IAC : TELNET_SUB;
            break;
        case TELNET_SUB_IAC:
            chardev->telnet = byte == TELNET_SE ? TELNET_DATA : TELNET_SUB;
            break;
        case TELNET_DATA:
        case TELNET_OFF:
            if (byte == TELNET_IAC_BYTE) {
                chardev->telnet = TELNET_IAC;
            } else {
                bytes[kept++] = byte;
            }
            break;
        }
    }
    *count = kept;
}

/* ---- Connections ---- */

/* A connected socket becomes the backend's two descriptors. 0 or -errno. */
static int socket_connected(struct chardev *chardev, int fd)
{
    int on = 1;
    fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK);
    chardev->is_socket = chardev->config.port[0] == '\0';
    if (!chardev->is_socket && chardev->config.nodelay) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    }
    chardev->in.fd = fd;
    chardev->out.fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    int result = chardev->out.fd < 0 ? -errno : chardev_start(chardev);
    if (result != 0) {
        chardev_stop(chardev);
    } else if (chardev->config.telnet) {
        socket_telnet_start(chardev);
    }
    return result;
}

static void socket_accept(void *opaque, uint32_t events)
{
    struct chardev *chardev = opaque;
    (void)events;
    int fd = accept4(chardev->listen.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0) {
        loop_remove(chardev->loop, &chardev->listen); /* one client at a time */
        if (socket_connected(chardev, fd) != 0) {
            loop_add(chardev->loop, &chardev->listen, EPOLLIN);
        }
    }
}

static int socket_serve(struct chardev *chardev, int fd, struct error *error)
{
    chardev->listen = (struct loop_source){.fd = fd, .ready = socket_accept, .opaque = chardev};
    socket_name(chardev, fd);
    if (!chardev->config.wait) {
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
        int result = loop_add(chardev->loop, &chardev->listen, EPOLLIN);
        return result == 0 ? 0 : error_set(error, "Failed to listen: %s", strerror(-result));
    }
    fprintf(stderr, "kage: waiting for a connection on %s\n", chardev->filename);
    int client = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    int result = client < 0 ? -errno : socket_connected(chardev, client);
    return result == 0 ? 0 : error_set(error, "Failed to accept: %s", strerror(-result));
}

static int socket_listen(struct chardev *chardev, const struct socket_address *address, struct error *error)
{
    struct stat status;
    int on = 1;
    const char *path = chardev->config.path;
    int fd = socket(address->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return error_set(error, "Failed to create a socket: %s", strerror(errno));
    }
    bool local = address->any.sa_family == AF_UNIX;
    bool named = local && !chardev->config.abstract;
    if (named && stat(path, &status) == 0 && S_ISSOCK(status.st_mode)) {
        unlink(path); /* of a VMM that is gone, as QEMU does */
    }
    if (!local) {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    }
    if (bind(fd, &address->any, address->bytes) != 0 || listen(fd, 1) != 0) {
        error_set(error, "Failed to bind socket to %s%s%s: %s", local ? path : chardev->config.host, local ? "" : ":", chardev->config.port,
                  strerror(errno));
        close(fd);
        return -1;
    }
    if (named) {
        memcpy(chardev->unlink_path, address->local.sun_path, sizeof(address->local.sun_path));
        chardev->unlink_path[sizeof(chardev->unlink_path) - 1] = '\0';
    }
    return socket_serve(chardev, fd, error);
}

/* ---- A client that comes again ---- */

static void socket_retry_later(struct chardev *chardev)
{
    struct itimerspec when = {.it_value.tv_sec = chardev->config.reconnect};
    timerfd_settime(chardev->retry.fd, 0, &when, NULL);
}

static void socket_connect_done(void *opaque, uint32_t events)
{
    struct chardev *chardev = opaque;
    int fd = chardev->connecting.fd, why = 0;
    socklen_t bytes = sizeof(why);
    (void)events;
    loop_remove(chardev->loop, &chardev->connecting);
    chardev->connecting.fd = -1;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &why, &bytes) != 0 || why != 0) {
        close(fd);
        socket_retry_later(chardev);
    } else if (socket_connected(chardev, fd) != 0) {
        socket_retry_later(chardev);
    }
}

static void socket_try(struct chardev *chardev)
{
    struct socket_address address;
    struct error error;
    int fd = socket_address(chardev, &address, &error) == 0 ? socket(address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0) : -1;
    if (fd < 0) {
        socket_retry_later(chardev);
    } else if (connect(fd, &address.any, address.bytes) == 0) {
        if (socket_connected(chardev, fd) != 0) {
            socket_retry_later(chardev);
        }
    } else {
        bool soon = errno == EINPROGRESS;
        chardev->connecting = (struct loop_source){.fd = fd, .ready = socket_connect_done, .opaque = chardev};
        if (!soon || loop_add(chardev->loop, &chardev->connecting, EPOLLOUT) != 0) {
            close(fd);
            chardev->connecting.fd = -1;
            socket_retry_later(chardev);
        }
    }
}

static void socket_retry_ready(void *opaque, uint32_t events)
{
    struct chardev *chardev = opaque;
    uint64_t expirations;
    (void)events;
    if (read(chardev->retry.fd, &expirations, sizeof(expirations)) == sizeof(expirations)) {
        socket_try(chardev);
    }
}

static int socket_connect_again(struct chardev *chardev, struct error *error)
{
    chardev->retry = (struct loop_source){
        .fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC), .ready = socket_retry_ready, .opaque = chardev};
    int result = chardev->retry.fd < 0 ? -errno : loop_add(chardev->loop, &chardev->retry, EPOLLIN);
    if (result != 0) {
        return error_set(error, "Failed to connect: %s", strerror(-result));
    }
    socket_try(chardev);
    return 0;
}

void chardev_socket_gone(struct chardev *chardev)
{
    chardev->telnet = TELNET_OFF;
    if (chardev->listen.fd >= 0) {
        loop_add(chardev->loop, &chardev->listen, EPOLLIN);
    } else if (chardev->retry.fd >= 0) {
        socket_retry_later(chardev);
    }
}

void chardev_socket_fini(struct chardev *chardev)
{
    struct loop_source *sources[] = {&chardev->listen, &chardev->retry, &chardev->connecting};
    for (unsigned i = 0; i < sizeof(sources) / sizeof(sources[0]); i++) {
        if (sources[i]->fd >= 0) {
            loop_remove(chardev->loop, sources[i]);
            close(sources[i]->fd);
            sources[i]->fd = -1;
        }
    }
    if (chardev->unlink_path[0] != '\0') {
        unlink(chardev->unlink_path);
    }
}

/* ---- Opening ---- */

/* An inherited socket: of a server it listens already, of a client it is connected. */
static int socket_open_fd(struct chardev *chardev, struct error *error)
{
    int fd = chardev->config.fd, listens = 0;
    socklen_t bytes = sizeof(listens);
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &bytes) != 0) {
        return error_set(error, "File descriptor '%d' is not a socket: %s", fd, strerror(errno));
    }
    if ((listens != 0) != chardev->config.server) {
        return error_set(error, "File descriptor '%d' %s", fd, listens != 0 ? "listens; server=on must be said" : "does not listen, as a server's must");
    }
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    if (chardev->config.server) {
        return socket_serve(chardev, fd, error);
    }
    socket_name(chardev, fd);
    int result = socket_connected(chardev, fd);
    return result == 0 ? 0 : error_set(error, "File descriptor '%d': %s", fd, strerror(-result));
}

int chardev_open_socket(struct chardev *chardev, struct error *error)
{
    const struct chardev_config *config = &chardev->config;
    struct socket_address address;
    if (config->fd >= 0) {
        return socket_open_fd(chardev, error);
    }
    socket_name(chardev, -1);
    if (config->reconnect != 0) {
        return socket_connect_again(chardev, error);
    }
    if (socket_address(chardev, &address, error) != 0) {
        return -1;
    }
    if (config->server) {
        return socket_listen(chardev, &address, error);
    }
    int fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, &address.any, address.bytes) != 0) {
        bool local = config->path[0] != '\0';
        error_set(error, "Failed to connect to '%s%s%s': %s", local ? config->path : config->host, local ? "" : ":", config->port, strerror(errno));
        if (fd >= 0) {
            close(fd);
        }
        return -1;
    }
    int result = socket_connected(chardev, fd);
    return result == 0 ? 0 : error_set(error, "chardev: socket: %s", strerror(-result));
}

int chardev_open_udp(struct chardev *chardev, struct error *error)
{
    const struct chardev_config *config = &chardev->config;
    struct socket_address remote, local;
    if (socket_inet_address(config, config->host[0] != '\0' ? config->host : "localhost", config->port, SOCK_DGRAM, false, &remote, error) != 0) {
        return -1;
    }
    int fd = socket(remote.any.sa_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return error_set(error, "Failed to create a socket: %s", strerror(errno));
    }
    chardev->in.fd = fd; /* closed with the backend */
    if (config->local_port[0] != '\0' || config->local_host[0] != '\0') {
        if (socket_inet_address(config, config->local_host, config->local_port, SOCK_DGRAM, true, &local, error) != 0) {
            return -1;
        }
        if (bind(fd, &local.any, local.bytes) != 0) {
            return error_set(error, "Failed to bind socket to %s:%s: %s", config->local_host, config->local_port, strerror(errno));
        }
    }
    if (connect(fd, &remote.any, remote.bytes) != 0) {
        return error_set(error, "Failed to connect to '%s:%s': %s", config->host, config->port, strerror(errno));
    }
    chardev->out.fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    chardev->is_datagram = true;
    snprintf(chardev->filename, sizeof(chardev->filename), "udp:%s:%s", config->host, config->port);
    int result = chardev_start(chardev);
    return result == 0 ? 0 : error_set(error, "chardev: udp: %s", strerror(-result));
}
