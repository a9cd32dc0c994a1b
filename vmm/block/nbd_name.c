/* SPDX-License-Identifier: MIT */
#include "block/nbd.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NBD_PORT "10809"

static const char *const nbd_schemes[] = {"nbd", "nbd+unix", "nbds", "nbds+unix"};

/* How long the scheme is, if the name is a URI of NBD; else 0. */
static size_t nbd_scheme_length(const char *name)
{
    size_t length = strcspn(name, ":");
    for (size_t i = 0; i < sizeof(nbd_schemes) / sizeof(nbd_schemes[0]); i++) {
        if (strlen(nbd_schemes[i]) == length && memcmp(name, nbd_schemes[i], length) == 0 && strncmp(name + length, "://", 3) == 0) {
            return length;
        }
    }
    return 0;
}

bool nbd_is_name(const char *name)
{
    return strncmp(name, "nbd:", 4) == 0 || nbd_scheme_length(name) != 0;
}

/* RFC 3986 section 2: what may not stand in a path or query as it is. */
static void nbd_put_encoded(FILE *to, const char *text)
{
    for (const unsigned char *c = (const unsigned char *)text; *c != '\0'; c++) {
        bool plain = (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') || (*c >= '0' && *c <= '9') || strchr("-._~/:@", *c) != NULL;
        fprintf(to, plain ? "%c" : "%%%02X", *c);
    }
}

char *nbd_make_uri(const char *path, const char *host, const char *port, const char *export)
{
    char *uri = NULL;
    size_t length;
    FILE *to = open_memstream(&uri, &length);
    if (to == NULL) {
        return NULL;
    }
    bool named = export != NULL && export[0] != '\0';
    if (path != NULL) {
        fputs(named ? "nbd+unix:///" : "nbd+unix://", to);
        nbd_put_encoded(to, named ? export : "");
        fputs("?socket=", to);
        nbd_put_encoded(to, path);
    } else {
        bool six = strchr(host, ':') != NULL;
        fprintf(to, six ? "nbd://[%s]:%s" : "nbd://%s:%s", host, port != NULL && port[0] != '\0' ? port : NBD_PORT);
        if (named) {
            fputc('/', to);
            nbd_put_encoded(to, export);
        }
    }
    if (fclose(to) != 0) {
        free(uri);
        return NULL;
    }
    return uri;
}

/* HOST:PORT, with an IPv6 address in brackets; in place. -1: not that. */
static int nbd_split_host(char *text, char **host, char **port)
{
    bool six = text[0] == '[';
    char *end = six ? strchr(text, ']') : strchr(text, ':');
    if (end == NULL || (six && end[1] != ':')) {
        return -1;
    }
    *host = text + six;
    *port = end + 1 + six;
    *end = '\0';
    size_t digits = strspn(*port, "0123456789");
    return (*host)[0] != '\0' && digits > 0 && digits < 6 && (*port)[digits] == '\0' ? 0 : -1;
}

/* With the port that is meant, and without a slash behind which nothing is; as QEMU has them. */
static char *nbd_plain_uri(const char *name)
{
    char *uri = NULL;
    size_t scheme = nbd_scheme_length(name);
    const char *authority = name + scheme + 3, *path = authority + strcspn(authority, "/?"), *port;
    const char *bracket = memchr(authority, ']', (size_t)(path - authority));
    port = memchr(bracket != NULL ? bracket : authority, ':', (size_t)(path - (bracket != NULL ? bracket : authority)));
    bool inet = scheme == 3 || scheme == 4; /* nbd, nbds */
    bool empty = path[0] == '/' && (path[1] == '\0' || path[1] == '?');
    if (asprintf(&uri, "%.*s%s%s", (int)(path - name), name, inet && port == NULL ? ":" NBD_PORT : "", path + empty) < 0) {
        return NULL;
    }
    return uri;
}

char *nbd_uri(const char *name, struct error *error)
{
    static const char mark[] = ":exportname=";
    if (nbd_scheme_length(name) != 0) {
        char *uri = nbd_plain_uri(name);
        if (uri == NULL) {
            error_set(error, "%s", strerror(ENOMEM));
        }
        return uri;
    }
    char *text = strdup(name + strlen("nbd:")), *uri = NULL, *host = NULL, *port = NULL;
    if (text == NULL) {
        error_set(error, "%s", strerror(ENOMEM));
        return NULL;
    }
    char *export = strstr(text, mark);
    if (export != NULL) {
        *export = '\0';
        export += strlen(mark);
    }
    bool is_unix = strncmp(text, "unix:", 5) == 0;
    if (is_unix ? text[5] == '\0' : nbd_split_host(text, &host, &port) != 0) {
        error_set(error, "'%s': not nbd:HOST:PORT or nbd:unix:PATH", name);
    } else {
        uri = nbd_make_uri(is_unix ? text + 5 : NULL, host, port, export);
        if (uri == NULL) {
            error_set(error, "%s", strerror(ENOMEM));
        }
    }
    free(text);
    return uri;
}
