/* SPDX-License-Identifier: MIT */
/*
 * What a character backend is to be: read from the short forms of -serial and its like, from -chardev's list, or from QMP's chardev-add.
 * Reading opens nothing.
 *
 * Short forms, as QEMU's: null, stdio, pty, file:PATH, pipe:PATH, /dev/NAME, unix:PATH[,OPTION...], tcp:[HOST]:PORT[,OPTION...],
 * telnet:[HOST]:PORT[,OPTION...], udp:[HOST]:PORT[@[HOST]:PORT]; and mon: before any of them, for a mux.
 */
#ifndef KAGE_CHARDEV_CONFIG_H
#define KAGE_CHARDEV_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "util/error.h"
#include "util/keyval.h"

#define CHARDEV_ID_MAX 128u
#define CHARDEV_PATH_MAX 1024u
#define CHARDEV_NAME_MAX 256u
#define CHARDEV_PORT_MAX 32u

struct chardev_kind;

struct chardev_config {
    char id[CHARDEV_ID_MAX]; /* "": a short form has none yet */
    const struct chardev_kind *kind;
    char path[CHARDEV_PATH_MAX], input_path[CHARDEV_PATH_MAX];
    char host[CHARDEV_NAME_MAX], port[CHARDEV_PORT_MAX]; /* port "": a unix socket */
    char local_host[CHARDEV_NAME_MAX], local_port[CHARDEV_PORT_MAX];
    char logfile[CHARDEV_PATH_MAX];
    int fd; /* a descriptor that the process has inherited; -1: none */
    bool server, wait, telnet, nodelay, abstract, tight;
    bool ipv4, ipv6; /* both or none: any */
    bool append, logappend, mux, signal;
    unsigned reconnect; /* seconds; 0: never */
    uint64_t size;      /* of a ringbuf */
};

/* All plain QEMU text in errors, without the option's name. 0, or -1. */
int chardev_config_parse(struct chardev_config *config, const char *spec, struct error *error);
/* -chardev: "backend", "id" and the rest. */
int chardev_config_read(struct chardev_config *config, const struct keyval_list *list, struct error *error);
/* chardev-add, flattened: "id", "backend.type", "backend.data.…". */
int chardev_config_read_qmp(struct chardev_config *config, const struct keyval_list *list, struct error *error);

/* Does it use the terminal? */
bool chardev_config_is_stdio(const struct chardev_config *config);
/* QEMU's name: "socket", "pty", …. */
const char *chardev_config_kind(const struct chardev_config *config);
/* The name of one more kind each time, NULL at the end: for help and query-chardev-backends. */
const char *chardev_kind_name(unsigned index);

#endif
