/* SPDX-License-Identifier: MIT */
/*
 * The `kage` program: verbs, and the only place that turns an error into a line and an exit status.
 * Called as kage-system-x86_64, or with an option where the verb would be, it is `kage run`.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/image/image.h"
#include "cli/img/img.h"
#include "cli/inspect.h"
#include "cli/kvm.h"
#include "cli/options.h"
#include "cli/run.h"

#ifndef KAGE_VERSION
#define KAGE_VERSION "0"
#endif

static int main_help(int count, char **words)
{
    if (count > 0 && strcmp(words[0], "inspect") == 0) {
        inspect_help();
        return EXIT_SUCCESS;
    }
    if (count > 0 && strcmp(words[0], "image") == 0) {
        image_help();
        return EXIT_SUCCESS;
    }
    puts("kage " KAGE_VERSION ": a KVM stack in user space\n"
         "\n"
         "  kage image debian OUT.qcow2\n"
         "                     make a disk with Debian on it ('kage help image')\n"
         "  kage run IMAGE.qcow2 [OPTIONS]\n"
         "                     run it: 2 processors, 1 GiB, board pc, its console here\n"
         "  kage run OPTIONS   run a virtual machine\n"
         "  kage kvm [--mmu ept|shadow] [--show-vmx] [--path DEVICE] -- PROGRAM ARGUMENTS...\n"
         "                     run another KVM client (QEMU -accel kvm) on libkage, without /dev/kvm\n"
         "  kage kvm --check [PROGRAM]\n"
         "                     say what this host offers, and whether PROGRAM can be run so\n"
         "  kage img VERB ...  make, look at, check and change disk images ('kage img help')\n"
         "  kage inspect [PID] [TOPIC]\n"
         "                     look into a running virtual machine: VMCS, page tables, TLBs, exits ('kage help inspect')\n"
         "  kage version       say the version\n"
         "  kage help          this help\n"
         "\n"
         "Called as kage-system-x86_64, it takes the options of `kage run`.\n");
    options_help();
    return EXIT_SUCCESS;
}

static int main_version(int count, char **words)
{
    (void)count;
    (void)words;
    puts("kage version " KAGE_VERSION);
    return EXIT_SUCCESS;
}

static int main_run(int count, char **words)
{
    struct options options;
    struct error error = {""};
    int status = options_parse(&options, count, words, &error);
    if (status == 0 && options.action == OPTIONS_HELP) {
        status = main_help(0, NULL);
    } else if (status == 0 && options.action == OPTIONS_VERSION) {
        status = main_version(0, NULL);
    } else if (status == 0 && options.action == OPTIONS_RUN) {
        status = run_machine(&options, &error);
    }
    options_fini(&options);
    if (status < 0) {
        fprintf(stderr, "kage: %s\n", error.text);
        return EXIT_FAILURE;
    }
    return status;
}

static int main_kvm(int count, char **words)
{
    struct error error = {""};

    signal(SIGPIPE, SIG_DFL); /* as the program would have found it */
    if (kvm_client(count, words, &error) == 0) {
        return EXIT_SUCCESS;
    }
    fprintf(stderr, "kage: %s\n", error.text);
    return EXIT_FAILURE;
}

static int main_inspect(int count, char **words)
{
    struct error error = {""};

    if (count > 0 && (strcmp(words[0], "help") == 0 || strcmp(words[0], "--help") == 0 || strcmp(words[0], "-h") == 0)) {
        inspect_help();
        return EXIT_SUCCESS;
    }
    if (inspect_main(count, words, &error) == 0) {
        return EXIT_SUCCESS;
    }
    fprintf(stderr, "kage: %s\n", error.text);
    return EXIT_FAILURE;
}

static int main_image(int count, char **words)
{
    struct error error = {""};

    signal(SIGPIPE, SIG_DFL); /* as programs of the script expect it */
    if (image_main(count, words, &error) == 0) {
        return EXIT_SUCCESS;
    }
    fprintf(stderr, "kage: %s\n", error.text);
    return EXIT_FAILURE;
}

static const struct {
    const char *name;
    int (*run)(int count, char **words);
} main_verbs[] = {
    {"run", main_run},
    {"kvm", main_kvm},
    {"image", main_image},
    {"img", img_main},
    {"inspect", main_inspect},
    {"version", main_version},
    {"help", main_help},
};

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    const char *slash = argc > 0 ? strrchr(argv[0], '/') : NULL;
    const char *self = slash != NULL ? slash + 1 : argc > 0 ? argv[0] : "kage";
    if (strstr(self, "-system-x86_64") != NULL) {
        return main_run(argc - 1, argv + 1);
    }
    if (argc < 2) {
        fputs("kage: nothing to do; try 'kage run IMAGE.qcow2' or 'kage help'\n", stderr);
        return EXIT_FAILURE;
    }
    for (size_t i = 0; i < sizeof(main_verbs) / sizeof(main_verbs[0]); i++) {
        if (strcmp(argv[1], main_verbs[i].name) == 0) {
            return main_verbs[i].run(argc - 2, argv + 2);
        }
    }
    if (argv[1][0] == '-') {
        return main_run(argc - 1, argv + 1);
    }
    fprintf(stderr, "kage: no such verb '%s'; run, image, img, kvm, inspect, version and help are there\n", argv[1]);
    return EXIT_FAILURE;
}
