/* SPDX-License-Identifier: MIT */
/*
 * The kinds of character backends: how each gets its descriptors. Everything else is common and in
 * chardev.c. A descriptor set here is non-blocking, or one that cannot block for long (a regular file).
 */
#include "chardev/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <pty.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#define KIND_ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

static int kind_start(struct chardev *chardev, const char *what, struct error *error)
{
    int result = chardev_start(chardev);
    return result == 0 ? 0 : error_set(error, "%s %s: %s", chardev->option, what, strerror(-result));
}

static int kind_open_null(struct chardev *chardev, const char *argument, struct error *error)
{
    (void)argument;
    return kind_start(chardev, "null", error);
}

/*
 * The terminal belongs to the shell as well, so O_NONBLOCK must not be set on its open file. A pipe or a
 * terminal can be opened anew; a regular file cannot (it would lose its position), and need not.
 */
static int kind_dup_output(int fd)
{
    struct stat status;
    if (fstat(fd, &status) == 0 && (S_ISFIFO(status.st_mode) || (S_ISCHR(status.st_mode) && isatty(fd)))) {
        char path[32];
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        int again = open(path, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        if (again >= 0) {
            return again;
        }
    }
    return fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

static int kind_open_stdio(struct chardev *chardev, const char *argument, struct error *error)
{
    (void)argument;
    chardev->in.fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3); /* -1, no input, where stdin is closed */
    chardev->out.fd = kind_dup_output(STDOUT_FILENO);
    return kind_start(chardev, "stdio", error);
}

static int kind_open_file(struct chardev *chardev, const char *argument, struct error *error)
{
    chardev->out.fd = open(argument, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (chardev->out.fd < 0) {
        return error_set(error, "%s file:%s: %s", chardev->option, argument, strerror(errno));
    }
    return kind_start(chardev, argument, error);
}

static int kind_open_pty(struct chardev *chardev, const char *argument, struct error *error)
{
    (void)argument;
    int slave;
    char name[64];
    struct termios raw;
    memset(&raw, 0, sizeof(raw));
    cfmakeraw(&raw);
    raw.c_cflag |= CREAD;
    if (openpty(&chardev->in.fd, &slave, NULL, &raw, NULL) != 0) {
        chardev->in.fd = -1;
        return error_set(error, "%s pty: %s", chardev->option, strerror(errno));
    }
    int named = ttyname_r(slave, name, sizeof(name));
    close(slave);
    if (named != 0) {
        return error_set(error, "%s pty: %s", chardev->option, strerror(named));
    }
    fcntl(chardev->in.fd, F_SETFD, FD_CLOEXEC);
    fcntl(chardev->in.fd, F_SETFL, O_RDWR | O_NONBLOCK);
    chardev->out.fd = fcntl(chardev->in.fd, F_DUPFD_CLOEXEC, 3);
    chardev->is_pty = true;
    fprintf(stderr, "kage: %s pty: redirected to %s\n", chardev->option, name);
    return kind_start(chardev, "pty", error);
}

struct kind_unix_options {
    struct sockaddr_un address;
    bool server;
    bool wait;
};

static int kind_parse_unix(const struct chardev *chardev, const char *argument, struct kind_unix_options *options, struct error *error)
{
    static const struct {
        const char *text;
        int server; /* -1: unchanged */
        int wait;
    } words[] = {
        {"server", 1, -1},    {"server=on", 1, -1}, {"server=off", 0, -1}, {"wait", -1, 1},
        {"wait=on", -1, 1},   {"wait=off", -1, 0},  {"nowait", -1, 0},
    };
    *options = (struct kind_unix_options){.address.sun_family = AF_UNIX, .wait = true};
    size_t length = strcspn(argument, ",");
    if (length == 0 || length >= sizeof(options->address.sun_path)) {
        return error_set(error, "%s unix:%s: the path must have 1 to %zu bytes", chardev->option, argument,
                         sizeof(options->address.sun_path) - 1);
    }
    memcpy(options->address.sun_path, argument, length);
    for (const char *word = argument + length; *word == ',';) {
        word++;
        size_t size = strcspn(word, ",");
        bool known = false;
        for (size_t i = 0; i < KIND_ARRAY_SIZE(words); i++) {
            if (strlen(words[i].text) == size && memcmp(words[i].text, word, size) == 0) {
                options->server = words[i].server < 0 ? options->server : words[i].server == 1;
                options->wait = words[i].wait < 0 ? options->wait : words[i].wait == 1;
                known = true;
            }
        }
        if (!known) {
            return error_set(error, "%s unix:…,%.*s: no such option; try server=on|off, wait=on|off", chardev->option, (int)size, word);
        }
        word += size;
    }
    return 0;
}

/* A connected socket becomes the backend's two descriptors. */
static int kind_connected(struct chardev *chardev, int fd, struct error *error)
{
    chardev->in.fd = fd;
    chardev->out.fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    chardev->is_socket = true;
    return kind_start(chardev, "unix", error);
}

static void kind_accept(void *opaque, uint32_t events)
{
    struct chardev *chardev = opaque;
    struct error error;
    (void)events;
    int fd = accept4(chardev->listen.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0) {
        loop_remove(chardev->loop, &chardev->listen); /* one client at a time */
        if (kind_connected(chardev, fd, &error) != 0) {
            chardev_stop(chardev);
        }
    }
}

static int kind_listen(struct chardev *chardev, int fd, const struct kind_unix_options *options, struct error *error)
{
    const char *path = options->address.sun_path;
    struct stat status;
    if (stat(path, &status) == 0 && S_ISSOCK(status.st_mode)) {
        unlink(path); /* of a VMM that is gone, as QEMU does */
    }
    if (bind(fd, (const struct sockaddr *)&options->address, sizeof(options->address)) != 0 || listen(fd, 1) != 0) {
        error_set(error, "%s unix:%s: %s", chardev->option, path, strerror(errno));
        close(fd);
        return -1;
    }
    chardev->listen = (struct loop_source){.fd = fd, .ready = kind_accept, .opaque = chardev};
    memcpy(chardev->unlink_path, path, sizeof(chardev->unlink_path));
    if (options->wait) {
        fprintf(stderr, "kage: waiting for a connection on unix:%s\n", path);
        int client = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (client < 0) {
            return error_set(error, "%s unix:%s: %s", chardev->option, path, strerror(errno));
        }
        return kind_connected(chardev, client, error);
    }
    int result = loop_add(chardev->loop, &chardev->listen, EPOLLIN);
    return result == 0 ? 0 : error_set(error, "%s unix:%s: %s", chardev->option, path, strerror(-result));
}

static int kind_open_unix(struct chardev *chardev, const char *argument, struct error *error)
{
    struct kind_unix_options options;
    if (kind_parse_unix(chardev, argument, &options, error) != 0) {
        return -1;
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return error_set(error, "%s unix:%s: %s", chardev->option, argument, strerror(errno));
    }
    if (options.server) {
        return kind_listen(chardev, fd, &options, error);
    }
    if (connect(fd, (const struct sockaddr *)&options.address, sizeof(options.address)) != 0) {
        error_set(error, "%s unix:%s: %s", chardev->option, options.address.sun_path, strerror(errno));
        close(fd);
        return -1;
    }
    fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK);
    return kind_connected(chardev, fd, error);
}

const struct chardev_kind chardev_kinds[] = {
    {"null", "nowhere", kind_open_null, false},
    {"stdio", "this terminal; Ctrl-c ends the VMM", kind_open_stdio, true},
    {"mon:stdio", "this terminal; Ctrl-a x ends the VMM", kind_open_stdio, true},
    {"file:", "a file, output only", kind_open_file, false},
    {"pty", "a new pseudo terminal", kind_open_pty, false},
    {"unix:", "a unix socket", kind_open_unix, false},
};
const unsigned chardev_kind_count = KIND_ARRAY_SIZE(chardev_kinds);
