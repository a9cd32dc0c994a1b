/* SPDX-License-Identifier: MIT */
/*
 * The kinds of character backends but sockets: how each gets its descriptors. Everything else is common and in
 * chardev.c. A descriptor set here is non-blocking, or one that cannot block for long (a regular file).
 */
#include "chardev/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <pty.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include "util/fdset.h"

static int kind_start(struct chardev *chardev, struct error *error)
{
    int result = chardev_start(chardev);
    return result == 0 ? 0 : error_set(error, "chardev: %s: %s", chardev->config.kind->name, strerror(-result));
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

static int kind_open_stdio(struct chardev *chardev, struct error *error)
{
    chardev->in.fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3); /* -1, no input, where stdin is closed */
    chardev->out.fd = kind_dup_output(STDOUT_FILENO);
    return kind_start(chardev, error);
}

static int kind_open_path(const char *path, int flags, struct error *error)
{
    int fd = fdset_open(path, flags | O_CLOEXEC | O_NOCTTY, 0666);
    if (fd < 0) {
        error_set(error, "Failed to open '%s': %s", path, strerror(errno));
    }
    return fd;
}

static int kind_open_file(struct chardev *chardev, struct error *error)
{
    const struct chardev_config *config = &chardev->config;
    chardev->out.fd = kind_open_path(config->path, O_WRONLY | O_CREAT | (config->append ? O_APPEND : O_TRUNC), error);
    if (chardev->out.fd < 0) {
        return -1;
    }
    if (config->input_path[0] != '\0') {
        chardev->in.fd = kind_open_path(config->input_path, O_RDONLY | O_NONBLOCK, error);
        if (chardev->in.fd < 0) {
            return -1;
        }
    }
    return kind_start(chardev, error);
}

/* PATH.in and PATH.out, or one file for both: opened for reading and writing, so that neither needs somebody at its other end. */
static int kind_open_pipe(struct chardev *chardev, struct error *error)
{
    char name[CHARDEV_PATH_MAX + 8];
    snprintf(name, sizeof(name), "%s.in", chardev->config.path);
    chardev->in.fd = open(name, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    snprintf(name, sizeof(name), "%s.out", chardev->config.path);
    chardev->out.fd = open(name, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    if (chardev->in.fd < 0 || chardev->out.fd < 0) {
        if (chardev->in.fd >= 0) {
            close(chardev->in.fd);
        }
        if (chardev->out.fd >= 0) {
            close(chardev->out.fd);
        }
        chardev->out.fd = -1;
        chardev->in.fd = kind_open_path(chardev->config.path, O_RDWR | O_NONBLOCK, error);
        if (chardev->in.fd < 0) {
            return -1;
        }
        chardev->out.fd = fcntl(chardev->in.fd, F_DUPFD_CLOEXEC, 3);
    }
    return kind_start(chardev, error);
}

/* A terminal of the host, as /dev/ttyS0, in raw mode. */
static int kind_open_serial(struct chardev *chardev, struct error *error)
{
    struct termios raw;
    chardev->in.fd = kind_open_path(chardev->config.path, O_RDWR | O_NONBLOCK, error);
    if (chardev->in.fd < 0) {
        return -1;
    }
    if (tcgetattr(chardev->in.fd, &raw) == 0) {
        cfmakeraw(&raw);
        raw.c_cflag |= CREAD | CLOCAL;
        tcsetattr(chardev->in.fd, TCSANOW, &raw);
    }
    chardev->out.fd = fcntl(chardev->in.fd, F_DUPFD_CLOEXEC, 3);
    return kind_start(chardev, error);
}

static int kind_open_pty(struct chardev *chardev, struct error *error)
{
    int slave;
    char name[64];
    struct termios raw;
    memset(&raw, 0, sizeof(raw));
    cfmakeraw(&raw);
    raw.c_cflag |= CREAD;
    if (openpty(&chardev->in.fd, &slave, NULL, &raw, NULL) != 0) {
        chardev->in.fd = -1;
        return error_set(error, "Failed to create PTY: %s", strerror(errno));
    }
    int named = ttyname_r(slave, name, sizeof(name));
    close(slave);
    if (named != 0) {
        return error_set(error, "Failed to create PTY: %s", strerror(named));
    }
    fcntl(chardev->in.fd, F_SETFD, FD_CLOEXEC);
    fcntl(chardev->in.fd, F_SETFL, O_RDWR | O_NONBLOCK);
    chardev->out.fd = fcntl(chardev->in.fd, F_DUPFD_CLOEXEC, 3);
    chardev->is_pty = true;
    snprintf(chardev->filename, sizeof(chardev->filename), "pty:%s", name);
    fprintf(stderr, "kage: char device redirected to %s (label %s)\n", name, chardev->config.id);
    return kind_start(chardev, error);
}

static int kind_open_ringbuf(struct chardev *chardev, struct error *error)
{
    chardev->ringbuf = malloc(chardev->config.size);
    return chardev->ringbuf != NULL ? 0 : error_set(error, "out of memory");
}

const struct chardev_kind chardev_kinds[] = {
    {"null", 0, kind_start},
    {"stdio", TAKES_SIGNAL, kind_open_stdio},
    {"file", TAKES_PATH | TAKES_INPUT, kind_open_file},
    {"pty", 0, kind_open_pty},
    {"pipe", TAKES_PATH, kind_open_pipe},
    {"serial", TAKES_PATH, kind_open_serial},
    {"socket", TAKES_SOCKET, chardev_open_socket},
    {"udp", TAKES_UDP, chardev_open_udp},
    {"ringbuf", TAKES_SIZE, kind_open_ringbuf},
};
const unsigned chardev_kind_count = sizeof(chardev_kinds) / sizeof(chardev_kinds[0]);
