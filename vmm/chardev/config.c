/* SPDX-License-Identifier: MIT */
/*
 * Reads descriptions of character backends. All three forms end in the same list of names and values, and that in one table of
 * properties; each kind says which of them it takes.
 */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chardev/internal.h"

#define CONFIG_ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define CONFIG_RINGBUF_BYTES 65536u /* QEMU's default */
#define CONFIG_RINGBUF_MAX (UINT64_C(1) << 24)
#define CONFIG_RECONNECT_MAX 86400u

/* ---- Properties ---- */

enum config_type { CONFIG_TEXT, CONFIG_BOOL, CONFIG_SECONDS, CONFIG_SIZE, CONFIG_FD, CONFIG_NOTHING };

#define TAKES_ALL (~0u)
#define CONFIG_ROW(name, type, field, takes) {name, type, offsetof(struct chardev_config, field), sizeof(((struct chardev_config *)0)->field), takes}

static const struct config_property {
    const char *name;
    enum config_type type;
    size_t offset, bytes;
    unsigned takes;
} config_properties[] = {
    CONFIG_ROW("id", CONFIG_TEXT, id, TAKES_ALL),
    CONFIG_ROW("path", CONFIG_TEXT, path, TAKES_PATH | TAKES_SOCKET),
    CONFIG_ROW("input-path", CONFIG_TEXT, input_path, TAKES_INPUT),
    CONFIG_ROW("append", CONFIG_BOOL, append, TAKES_INPUT),
    CONFIG_ROW("signal", CONFIG_BOOL, signal, TAKES_SIGNAL),
    CONFIG_ROW("host", CONFIG_TEXT, host, TAKES_SOCKET | TAKES_UDP),
    CONFIG_ROW("port", CONFIG_TEXT, port, TAKES_SOCKET | TAKES_UDP),
    CONFIG_ROW("localaddr", CONFIG_TEXT, local_host, TAKES_UDP),
    CONFIG_ROW("localport", CONFIG_TEXT, local_port, TAKES_UDP),
    CONFIG_ROW("ipv4", CONFIG_BOOL, ipv4, TAKES_SOCKET | TAKES_UDP),
    CONFIG_ROW("ipv6", CONFIG_BOOL, ipv6, TAKES_SOCKET | TAKES_UDP),
    CONFIG_ROW("fd", CONFIG_FD, fd, TAKES_SOCKET),
    CONFIG_ROW("server", CONFIG_BOOL, server, TAKES_SOCKET),
    CONFIG_ROW("wait", CONFIG_BOOL, wait, TAKES_SOCKET),
    CONFIG_ROW("telnet", CONFIG_BOOL, telnet, TAKES_SOCKET),
    CONFIG_ROW("nodelay", CONFIG_BOOL, nodelay, TAKES_SOCKET),
    CONFIG_ROW("reconnect", CONFIG_SECONDS, reconnect, TAKES_SOCKET),
    CONFIG_ROW("abstract", CONFIG_BOOL, abstract, TAKES_SOCKET),
    CONFIG_ROW("tight", CONFIG_BOOL, tight, TAKES_SOCKET),
    CONFIG_ROW("size", CONFIG_SIZE, size, TAKES_SIZE),
    CONFIG_ROW("mux", CONFIG_BOOL, mux, TAKES_ALL),
    CONFIG_ROW("logfile", CONFIG_TEXT, logfile, TAKES_ALL),
    CONFIG_ROW("logappend", CONFIG_BOOL, logappend, TAKES_ALL),
    {"backend", CONFIG_NOTHING, 0, 0, TAKES_ALL},
};

static int config_set_number(const char *name, const char *value, uint64_t max, uint64_t *number, struct error *error)
{
    char *end;
    errno = 0;
    unsigned long long parsed = strtoull(value, &end, 10);
    unsigned shift = *end == 'K' || *end == 'k' ? 10 : *end == 'M' ? 20 : 0;
    end += shift != 0;
    if (errno != 0 || end == value || *end != '\0' || value[0] == '-' || parsed > max >> shift) {
        return error_set(error, "Parameter '%s' expects a number, at most %llu", name, (unsigned long long)max);
    }
    *number = parsed << shift;
    return 0;
}

static int config_set(struct chardev_config *config, const struct config_property *property, const char *value, struct error *error)
{
    char *field = (char *)config + property->offset;
    uint64_t number;
    switch (property->type) {
    case CONFIG_TEXT:
        if (strlen(value) >= property->bytes) {
            return error_set(error, "Parameter '%s' is longer than %zu characters", property->name, property->bytes - 1);
        }
        strcpy(field, value);
        return 0;
    case CONFIG_BOOL: {
        bool on = strcmp(value, "on") == 0 || strcmp(value, "yes") == 0 || strcmp(value, "true") == 0;
        if (!on && strcmp(value, "off") != 0 && strcmp(value, "no") != 0 && strcmp(value, "false") != 0) {
            return error_set(error, "Parameter '%s' expects 'on' or 'off'", property->name);
        }
        memcpy(field, &on, sizeof(on));
        return 0;
    }
    case CONFIG_SECONDS:
        if (config_set_number(property->name, value, CONFIG_RECONNECT_MAX, &number, error) != 0) {
            return -1;
        }
        config->reconnect = (unsigned)number;
        return 0;
    case CONFIG_SIZE:
        if (config_set_number(property->name, value, CONFIG_RINGBUF_MAX, &config->size, error) != 0) {
            return -1;
        }
        return config->size != 0 && (config->size & (config->size - 1)) == 0 ? 0 : error_set(error, "size of ringbuf chardev must be power of two");
    case CONFIG_FD:
        if (config_set_number(property->name, value, 1u << 20, &number, error) != 0) {
            return -1;
        }
        config->fd = (int)number;
        return 0;
    case CONFIG_NOTHING:
        break;
    }
    return 0;
}

/* ---- Kinds ---- */

/* Other names; and QEMU's kinds that are not there, with why. */
static const struct {
    const char *name, *real, *why;
} config_names[] = {
    {"memory", "ringbuf", NULL},
    {"tty", "serial", NULL},
    {"vc", NULL, "there is no window to show a console in; use pty, or socket"},
    {"parallel", NULL, "there are no host parallel ports"},
    {"parport", NULL, "there are no host parallel ports"},
    {"spicevmc", NULL, "there is no SPICE server"},
    {"spiceport", NULL, "there is no SPICE server"},
    {"qemu-vdagent", NULL, "there is no clipboard agent"},
    {"dbus", NULL, "there is no D-Bus display"},
    {"braille", NULL, "there is no Braille device"},
    {"msmouse", NULL, "there is no serial mouse"},
    {"wctablet", NULL, "there is no serial tablet"},
    {"testdev", NULL, "there is no test device"},
};

static const struct chardev_kind *config_find_kind(const char *name, struct error *error)
{
    for (unsigned i = 0; i < CONFIG_ARRAY_SIZE(config_names); i++) {
        if (strcmp(name, config_names[i].name) == 0) {
            if (config_names[i].why != NULL) {
                error_set(error, "chardev: %s: not there: %s", name, config_names[i].why);
                return NULL;
            }
            name = config_names[i].real;
        }
    }
    for (unsigned i = 0; i < chardev_kind_count; i++) {
        if (strcmp(chardev_kinds[i].name, name) == 0) {
            return &chardev_kinds[i];
        }
    }
    error_set(error, "'%s' is not a valid char driver name; null, stdio, file, pty, pipe, serial, socket, udp and ringbuf are there", name);
    return NULL;
}

const char *chardev_config_kind(const struct chardev_config *config)
{
    return config->kind->name;
}

const char *chardev_kind_name(unsigned index)
{
    return index < chardev_kind_count ? chardev_kinds[index].name : NULL;
}

bool chardev_config_is_stdio(const struct chardev_config *config)
{
    return (config->kind->takes & TAKES_SIGNAL) != 0;
}

/* ---- What holds for the parts together ---- */

static int config_check_socket(const struct chardev_config *config, const struct keyval_list *list, struct error *error)
{
    bool local = config->path[0] != '\0', inet = config->port[0] != '\0' || config->host[0] != '\0';
    if (local + inet + (config->fd >= 0) != 1) {
        return error_set(error, local || inet || config->fd >= 0 ? "None or one of 'path', 'fd' or 'host' option must be specified"
                                                                 : "chardev: socket: no path, host and port, or fd given");
    }
    if (inet && config->port[0] == '\0') {
        return error_set(error, "chardev: socket: no port given");
    }
    if (local && strlen(config->path) > 107) {
        return error_set(error, "UNIX socket path '%.60s…' is too long: Path must be less than 108 bytes", config->path);
    }
    if (config->server && config->reconnect != 0) {
        return error_set(error, "'reconnect' option is incompatible with socket in server listen mode");
    }
    if (!config->server && keyval_get(list, "wait") != NULL && config->wait) {
        return error_set(error, "'wait' option is incompatible with socket in client connect mode");
    }
    return 0;
}

static int config_check(struct chardev_config *config, const struct keyval_list *list, struct error *error)
{
    const struct chardev_kind *kind = config->kind;
    if ((kind->takes & TAKES_PATH) != 0 && config->path[0] == '\0') {
        return error_set(error, "chardev: %s: no %s given", kind->name, strcmp(kind->name, "file") == 0 ? "filename" : "device path");
    }
    if ((kind->takes & TAKES_SOCKET) != 0 && config_check_socket(config, list, error) != 0) {
        return -1;
    }
    if ((kind->takes & TAKES_UDP) != 0 && config->port[0] == '\0') {
        return error_set(error, "chardev: udp: remote port not specified");
    }
    return 0;
}

/* An id may be written in a command line, and stand in QMP. */
static bool config_id_valid(const char *id)
{
    return (id[0] >= 'a' ? id[0] <= 'z' : id[0] >= 'A' && id[0] <= 'Z') &&
           id[strspn(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._")] == '\0';
}

static int config_fill(struct chardev_config *config, const struct keyval_list *list, struct error *error)
{
    const char *mux = keyval_get(list, "mux"), *name = keyval_get(list, "backend");
    const struct chardev_kind *kind = config_find_kind(name != NULL ? name : "", error);
    if (kind == NULL) {
        return -1;
    }
    *config = (struct chardev_config){
        .kind = kind,
        .fd = -1,
        .wait = true,
        .tight = true,
        .signal = mux == NULL || strcmp(mux, "on") != 0,
        .size = CONFIG_RINGBUF_BYTES,
    };
    for (unsigned i = 0; i < list->count; i++) {
        const struct config_property *property = NULL;
        for (unsigned p = 0; p < CONFIG_ARRAY_SIZE(config_properties); p++) {
            bool named = strcmp(list->pairs[i].name, config_properties[p].name) == 0;
            bool takes = config_properties[p].takes == TAKES_ALL || (config_properties[p].takes & kind->takes) != 0;
            property = named && takes ? &config_properties[p] : property;
        }
        if (property == NULL) {
            return error_set(error, "chardev: %s: Invalid parameter '%s'", kind->name, list->pairs[i].name);
        }
        if (config_set(config, property, list->pairs[i].value, error) != 0) {
            return -1;
        }
    }
    return config_check(config, list, error);
}

int chardev_config_read(struct chardev_config *config, const struct keyval_list *list, struct error *error)
{
    const char *id = keyval_get(list, "id");
    if (keyval_get(list, "backend") == NULL) {
        return error_set(error, "chardev: \"backend\" missing");
    }
    if (id == NULL || id[0] == '\0') {
        return error_set(error, "chardev: no id specified");
    }
    if (!config_id_valid(id)) {
        return error_set(error, "Parameter 'id' expects an identifier: letters, digits, '-', '.', '_', beginning with a letter");
    }
    return config_fill(config, list, error);
}

/* ---- chardev-add ---- */

/* Where a name of the command line stands in QMP's ChardevBackend, for the kinds where it is another. */
static const struct {
    const char *kind, *qmp, *name; /* kind NULL: any */
} config_qmp_names[] = {
    {"file", "out", "path"},          {"file", "in", "input-path"},      {"serial", "device", "path"}, {"pipe", "device", "path"},
    {"udp", "remote.data.host", "host"}, {"udp", "remote.data.port", "port"}, {"udp", "local.data.host", "localaddr"},
    {"udp", "local.data.port", "localport"}, {"socket", "addr.data.path", "path"}, {"socket", "addr.data.host", "host"},
    {"socket", "addr.data.port", "port"}, {"socket", "addr.data.str", "fd"}, {"socket", "addr.data.ipv4", "ipv4"},
    {"socket", "addr.data.ipv6", "ipv6"}, {"socket", "addr.data.abstract", "abstract"}, {"socket", "addr.data.tight", "tight"},
};

static int config_add_pair(struct keyval_list *list, const char *name, const char *value, struct error *error)
{
    struct keyval *pair = &list->pairs[list->count];
    if (list->count == KEYVAL_MAX || strlen(value) >= sizeof(pair->value) || strlen(name) >= sizeof(pair->name)) {
        return error_set(error, "Parameter '%.60s' is too long", name);
    }
    strcpy(pair->name, name);
    strcpy(pair->value, value);
    list->count++;
    return 0;
}

/* 1: a name to use; 0: one that says only how a union is made; -1: of no use. */
static int config_qmp_name(const char *kind, const char *qmp, const char **name)
{
    static const char data[] = "backend.data.";
    *name = qmp;
    if (strcmp(qmp, "id") == 0) {
        return 1;
    }
    if (strncmp(qmp, data, sizeof(data) - 1) != 0) {
        return strcmp(qmp, "backend.type") == 0 ? 0 : -1;
    }
    *name = qmp + sizeof(data) - 1;
    if (strcmp(*name, "addr.type") == 0 || strcmp(*name, "remote.type") == 0 || strcmp(*name, "local.type") == 0) {
        return 0;
    }
    for (unsigned i = 0; i < CONFIG_ARRAY_SIZE(config_qmp_names); i++) {
        if (strcmp(config_qmp_names[i].kind, kind) == 0 && strcmp(config_qmp_names[i].qmp, *name) == 0) {
            *name = config_qmp_names[i].name;
            return 1;
        }
    }
    return 1;
}

int chardev_config_read_qmp(struct chardev_config *config, const struct keyval_list *list, struct error *error)
{
    const char *kind = keyval_get(list, "backend.type");
    if (kind == NULL) {
        return error_set(error, "Parameter 'backend.type' is missing");
    }
    struct keyval_list *plain = calloc(1, sizeof(*plain));
    if (plain == NULL) {
        return error_set(error, "out of memory");
    }
    int result = config_add_pair(plain, "backend", kind, error);
    /* A socket of QMP's is a server unless it says otherwise. */
    if (result == 0 && strcmp(kind, "socket") == 0 && keyval_get(list, "backend.data.server") == NULL) {
        result = config_add_pair(plain, "server", "on", error);
    }
    for (unsigned i = 0; i < list->count && result == 0; i++) {
        const char *name;
        int use = config_qmp_name(kind, list->pairs[i].name, &name);
        if (use < 0) {
            result = error_set(error, "Parameter '%.100s' is unexpected", list->pairs[i].name);
        } else if (use > 0) {
            result = config_add_pair(plain, name, list->pairs[i].value, error);
        }
    }
    if (result == 0) {
        result = chardev_config_read(config, plain, error);
    }
    free(plain);
    return result;
}

/* ---- Short forms ---- */

/* HOST:PORT of `text`, of which `end` is the end; a host in [] may have colons. */
static int config_add_address(struct keyval_list *list, const char *host_name, const char *port_name, const char *text, size_t length,
                              struct error *error)
{
    char host[CHARDEV_NAME_MAX], port[CHARDEV_PORT_MAX];
    const char *colon = memrchr(text, ':', length);
    size_t host_length = colon != NULL ? (size_t)(colon - text) : 0;
    size_t port_length = colon != NULL ? length - host_length - 1 : 0;
    bool bracket = host_length >= 2 && text[0] == '[' && text[host_length - 1] == ']';
    host_length -= bracket ? 2 : 0;
    if (colon == NULL || host_length >= sizeof(host) || port_length == 0 || port_length >= sizeof(port)) {
        return error_set(error, "'%.*s' is no address; it must be HOST:PORT", (int)(length < 100 ? length : 100), text);
    }
    memcpy(host, text + bracket, host_length);
    host[host_length] = '\0';
    memcpy(port, colon + 1, port_length);
    port[port_length] = '\0';
    if (host[0] != '\0' && config_add_pair(list, host_name, host, error) != 0) {
        return -1;
    }
    return config_add_pair(list, port_name, port, error);
}

static int config_short_inet(struct keyval_list *list, const char *text, struct error *error)
{
    return config_add_address(list, "host", "port", text, strlen(text), error);
}

static int config_short_telnet(struct keyval_list *list, const char *text, struct error *error)
{
    return config_short_inet(list, text, error) == 0 ? config_add_pair(list, "telnet", "on", error) : -1;
}

static int config_short_udp(struct keyval_list *list, const char *text, struct error *error)
{
    const char *at = strchr(text, '@');
    if (at != NULL && config_add_address(list, "localaddr", "localport", at + 1, strlen(at + 1), error) != 0) {
        return -1;
    }
    return config_add_address(list, "host", "port", text, at != NULL ? (size_t)(at - text) : strlen(text), error);
}

static int config_short_path(struct keyval_list *list, const char *text, struct error *error)
{
    return config_add_pair(list, "path", text, error);
}

static const struct {
    const char *word, *kind;
    int (*argument)(struct keyval_list *list, const char *text, struct error *error); /* NULL: none follows */
    bool options; /* ",NAME=VALUE" may follow */
} config_shorts[] = {
    {"null", "null", NULL, true},
    {"stdio", "stdio", NULL, true},
    {"pty", "pty", NULL, true},
    {"vc", "vc", NULL, true},
    {"msmouse", "msmouse", NULL, true},
    {"braille", "braille", NULL, true},
    {"file:", "file", config_short_path, false},
    {"pipe:", "pipe", config_short_path, false},
    {"unix:", "socket", config_short_path, true},
    {"tcp:", "socket", config_short_inet, true},
    {"telnet:", "socket", config_short_telnet, true},
    {"udp:", "udp", config_short_udp, true},
};

/* Old words without '=' that stand behind an address. */
static int config_add_options(struct keyval_list *list, const char *text, struct error *error)
{
    struct keyval_list *options = calloc(1, sizeof(*options));
    if (options == NULL) {
        return error_set(error, "out of memory");
    }
    int result = keyval_parse(options, "chardev", NULL, text, error);
    for (unsigned i = 0; i < options->count && result == 0; i++) {
        const struct keyval *pair = &options->pairs[i];
        bool no = strncmp(pair->name, "no", 2) == 0 && strcmp(pair->name, "nodelay") != 0;
        result = config_add_pair(list, no ? pair->name + 2 : pair->name, no ? "off" : pair->value, error);
    }
    free(options);
    return result;
}

static int config_parse_short(struct keyval_list *list, const char *spec, struct error *error)
{
    char argument[CHARDEV_PATH_MAX];
    bool mux = strncmp(spec, "mon:", 4) == 0;
    const char *rest = mux ? spec + 4 : spec;
    if (mux && config_add_pair(list, "mux", "on", error) != 0) {
        return -1;
    }
    if (strncmp(rest, "/dev/", 5) == 0) {
        return config_add_pair(list, "backend", "serial", error) != 0 ? -1 : config_add_pair(list, "path", rest, error);
    }
    for (unsigned i = 0; i < CONFIG_ARRAY_SIZE(config_shorts); i++) {
        size_t length = strlen(config_shorts[i].word);
        if (strncmp(rest, config_shorts[i].word, length) != 0) {
            continue;
        }
        const char *text = rest + length;
        size_t end = config_shorts[i].options ? strcspn(text, ",") : strlen(text);
        if (config_shorts[i].argument == NULL ? end != 0 : end == 0 || end >= sizeof(argument)) {
            continue;
        }
        memcpy(argument, text, end);
        argument[end] = '\0';
        if (config_add_pair(list, "backend", config_shorts[i].kind, error) != 0 ||
            (config_shorts[i].argument != NULL && config_shorts[i].argument(list, argument, error) != 0)) {
            return -1;
        }
        return text[end] == ',' ? config_add_options(list, text + end + 1, error) : 0;
    }
    return error_set(error, "'%.100s': no such backend; stdio, mon:stdio, null, none, pty, file:PATH, pipe:PATH, unix:PATH, tcp:HOST:PORT, telnet:, udp: "
                     "and chardev:ID are there", spec);
}

int chardev_config_parse(struct chardev_config *config, const char *spec, struct error *error)
{
    struct keyval_list *list = calloc(1, sizeof(*list));
    if (list == NULL) {
        return error_set(error, "out of memory");
    }
    int result = config_parse_short(list, spec, error);
    if (result == 0) {
        result = config_fill(config, list, error);
    }
    free(list);
    return result;
}
