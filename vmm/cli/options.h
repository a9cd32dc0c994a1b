/* SPDX-License-Identifier: MIT */
/*
 * The options of `kage run`, in QEMU's grammar. One table drives parsing and help. Parsing only reads:
 * it opens no file, makes nothing, and prints nothing but the lists that `help` arguments ask for.
 */
#ifndef KAGE_CLI_OPTIONS_H
#define KAGE_CLI_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "machine/config.h"
#include "machine/ram.h"
#include "util/error.h"
#include "vcpu/cpuid.h"
#include "vcpu/topology.h"

#define OPTIONS_SERIALS_MAX 2u /* ports of the board */
#define OPTIONS_FLASHES_MAX 2u

enum options_action {
    OPTIONS_RUN,
    OPTIONS_HELP,
    OPTIONS_VERSION,
    OPTIONS_DONE, /* a list was asked for and printed */
};

#define OPTIONS_WORD_MAX 256u /* a part of a list, with its NUL */
#define OPTIONS_ARGUMENTS_MAX 32u

/* Of an option that is looked at once all are known. */
struct options_arguments {
    unsigned count;
    const char *text[OPTIONS_ARGUMENTS_MAX];
};

/* What firmware boots from. */
struct options_boot {
    char order[PROPERTY_TEXT_MAX], once[PROPERTY_TEXT_MAX];
    bool menu, strict;
    uint64_t menu_wait, fail_wait; /* milliseconds; 0xffffffff: not said */
};

/* Not to be copied: it may point into itself. */
struct options {
    enum options_action action;
    const char *accel; /* "soft", "kvm", "auto" */
    struct cpu_model cpu_model;
    struct cpu_topology smp;
    uint64_t ram_bytes;
    struct ram_backing ram_backing;
    const char *kernel; /* strings point into argv */
    const char *initrd;
    const char *append;
    const char *name;
    bool no_reboot;
    bool no_defaults;
    bool acpi;
    bool rtc;
    int64_t rtc_offset_seconds; /* -rtc base= */
    unsigned serial_count;
    char serial[OPTIONS_SERIALS_MAX][CHARDEV_ID_MAX]; /* ids of backends; "none" */
    const char *machine; /* name of a board */
    char image[PROPERTY_TEXT_MAX]; /* the image that stands without an option; "": none */
    bool image_format_said, machine_said;
    int mmu; /* KAGE_MMU_*, -1: the back end's own choice */
    const char *bios;    /* NULL: the board's own */
    bool hpet;
    bool i8042;
    char flash_names[OPTIONS_FLASHES_MAX][OPTIONS_WORD_MAX]; /* -machine pflash0=, pflash1=: a drive's id; "": not said */
    struct drive *flash[OPTIONS_FLASHES_MAX];                /* of these, and of -drive if=pflash; NULL: none */
    bool kernel_cmdline; /* -machine auto-kernel-cmdline= */
    struct options_boot boot;
    struct options_arguments device_arguments;
    struct config_lists lists; /* devices, drives, objects, character backends */
    const char *log_file;
    const char *log_items;
};

/* `count` words behind the verb. 0, or -1 with `error` filled. */
int options_parse(struct options *options, int count, char **words, struct error *error);
/* After options_parse(), on its failure too. */
void options_fini(struct options *options);

/* The options' part of the help. */
void options_help(void);

/* SIZE[b|K|M|G|T], without a suffix in `unit` bytes. Exposed for tests. */
int options_parse_size(const char *text, uint64_t unit, uint64_t *bytes);

#endif
