/* SPDX-License-Identifier: MIT */
/*
 * `kage kvm`: looks at the program, finds libkage-preload.so beside this one, and becomes the program with the library
 * preloaded. What the dynamic linker would ignore it for (a static program, a privileged one) is said beforehand.
 */
#include "cli/kvm.h"

#include <cpuid.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "kage.h"

#define KVM_SCRIPT_DEPTH 4 /* scripts of scripts; Linux has the same limit */
#define KVM_HEADERS_MAX 256
#define KVM_HWCAP2_FSGSBASE (1u << 1)
#define KVM_LIBRARY "libkage-preload.so"

#ifndef KAGE_LIBDIR
#define KAGE_LIBDIR "lib"
#endif

struct kvm_command {
    bool check;
    bool show_vmx;
    const char *path;
    const char *mmu;
    char **words; /* the program and its arguments, NULL at the end */
};

static int kvm_parse(struct kvm_command *command, int count, char **words, struct error *error)
{
    int i = 0;

    for (; i < count && words[i][0] == '-'; i++) {
        const char *word = words[i];
        if (strcmp(word, "--") == 0) {
            i++;
            break;
        }
        if (strcmp(word, "--check") == 0) {
            command->check = true;
        } else if (strcmp(word, "--show-vmx") == 0) {
            command->show_vmx = true;
        } else if (strcmp(word, "--path") == 0) {
            if (i + 1 >= count || words[i + 1][0] != '/') {
                return error_set(error, "--path: the device's absolute path is missing");
            }
            command->path = words[++i];
        } else if (strcmp(word, "--mmu") == 0) {
            if (i + 1 >= count || kage_mmu_find(words[i + 1]) < 0) {
                return error_set(error, "--mmu: the MMU is missing; ept and shadow are there");
            }
            command->mmu = words[++i];
        } else {
            return error_set(error, "kvm: no such option '%s'; --check, --show-vmx, --path and --mmu are there", word);
        }
    }
    command->words = words + i;
    if (i == count && !command->check) {
        return error_set(error, "kvm: no program to run; try 'kage kvm -- qemu-system-x86_64 -accel kvm'");
    }
    return 0;
}

/* ---- The program ---- */

/* Where execvp(3) would find it. */
static int find_program(const char *name, char path[PATH_MAX], struct error *error)
{
    const char *dirs = getenv("PATH");
    struct stat st;

    if (strchr(name, '/') != NULL) {
        snprintf(path, PATH_MAX, "%s", name);
        if (stat(path, &st) != 0) {
            return error_set(error, "%s: %s", name, strerror(errno));
        }
        return 0;
    }
    for (dirs = dirs != NULL ? dirs : "/bin:/usr/bin"; *dirs != '\0';) {
        size_t length = strcspn(dirs, ":");
        int written = snprintf(path, PATH_MAX, "%.*s/%s", (int)length, length != 0 ? dirs : ".", name);
        if (written < PATH_MAX && stat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, X_OK) == 0) {
            return 0;
        }
        dirs += length;
        dirs += *dirs == ':';
    }
    return error_set(error, "%s: no such program in PATH", name);
}

static int check_privileges(int fd, const char *path, struct error *error)
{
    struct stat st;

    if (fstat(fd, &st) != 0) {
        return error_set(error, "%s: %s", path, strerror(errno));
    }
    if (!S_ISREG(st.st_mode) || access(path, X_OK) != 0) {
        return error_set(error, "%s: not a program", path);
    }
    if ((st.st_mode & S_ISUID) != 0 || (st.st_mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP)) {
        return error_set(error, "%s: it is set-user-ID or set-group-ID: a library cannot be preloaded into it", path);
    }
    if (fgetxattr(fd, "security.capability", NULL, 0) > 0) {
        return error_set(error, "%s: it has file capabilities: a library cannot be preloaded into it", path);
    }
    return 0;
}

static int check_elf(int fd, const char *path, const Elf64_Ehdr *header, struct error *error)
{
    Elf64_Phdr programs[KVM_HEADERS_MAX];
    size_t count = header->e_phnum < KVM_HEADERS_MAX ? header->e_phnum : KVM_HEADERS_MAX;

    if (header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_ident[EI_DATA] != ELFDATA2LSB || header->e_machine != EM_X86_64) {
        return error_set(error, "%s: not an x86-64 program", path);
    }
    if (header->e_phentsize != sizeof(programs[0]) ||
        pread(fd, programs, count * sizeof(programs[0]), (off_t)header->e_phoff) != (ssize_t)(count * sizeof(programs[0]))) {
        return error_set(error, "%s: a damaged program", path);
    }
    for (size_t i = 0; i < count; i++) {
        if (programs[i].p_type == PT_INTERP) {
            return 0;
        }
    }
    return error_set(error, "%s: statically linked: a library cannot be preloaded into it", path);
}

/* The interpreter of a script's first line, or false. */
static bool script_interpreter(const char *text, size_t bytes, char path[PATH_MAX])
{
    if (bytes < 3 || text[0] != '#' || text[1] != '!') {
        return false;
    }
    size_t start = 2, length = 0;
    while (start < bytes && (text[start] == ' ' || text[start] == '\t')) {
        start++;
    }
    while (start + length < bytes && strchr(" \t\n", text[start + length]) == NULL) {
        length++;
    }
    if (length == 0 || length >= PATH_MAX) {
        return false;
    }
    memcpy(path, text + start, length);
    path[length] = '\0';
    return true;
}

/* Can the library be preloaded into it? `path` becomes the interpreter's where it is a script. */
static int check_program(char path[PATH_MAX], struct error *error)
{
    for (unsigned depth = 0; depth <= KVM_SCRIPT_DEPTH; depth++) {
        union {
            Elf64_Ehdr header;
            char text[PATH_MAX];
        } head;
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0) {
            return error_set(error, "%s: %s", path, strerror(errno));
        }
        int status = check_privileges(fd, path, error);
        ssize_t bytes = status == 0 ? pread(fd, &head, sizeof(head), 0) : 0;
        bool elf = bytes >= (ssize_t)sizeof(head.header) && memcmp(head.header.e_ident, ELFMAG, SELFMAG) == 0;
        if (elf) {
            status = check_elf(fd, path, &head.header, error);
        }
        close(fd);
        if (status != 0 || elf) {
            return status;
        }
        if (bytes < 0 || !script_interpreter(head.text, (size_t)bytes, path)) {
            return error_set(error, "%s: neither a program nor a script", path);
        }
    }
    return error_set(error, "%s: a script of too many scripts", path);
}

/* ---- The library ---- */

static int find_library(char path[PATH_MAX], struct error *error)
{
    static const char *const places[] = {"preload", "../" KAGE_LIBDIR}; /* the build tree, and what `make install` made */
    char self[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);

    if (length <= 0) {
        return error_set(error, "/proc/self/exe: %s", strerror(errno));
    }
    self[length] = '\0';
    *strrchr(self, '/') = '\0';
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        char name[2 * PATH_MAX];
        snprintf(name, sizeof(name), "%s/%s/%s", self, places[i], KVM_LIBRARY);
        if (realpath(name, path) == NULL) {
            continue;
        }
        if (strpbrk(path, " :") != NULL) {
            return error_set(error, "%s: the dynamic linker takes no spaces and colons in the path of a library to preload", path);
        }
        return 0;
    }
    return error_set(error, "%s is not there: neither in %s/%s nor in %s/%s", KVM_LIBRARY, self, places[0], self, places[1]);
}

static int set_environment(const struct kvm_command *command, const char *library, struct error *error)
{
    const char *before = getenv("LD_PRELOAD");
    char *preload = NULL;

    if (asprintf(&preload, "%s%s%s", library, before != NULL && *before != '\0' ? ":" : "", before != NULL ? before : "") < 0) {
        return error_set(error, "no memory");
    }
    bool bad = setenv("LD_PRELOAD", preload, 1) != 0 || (command->path != NULL && setenv("KAGE_KVM_PATH", command->path, 1) != 0) ||
               (command->show_vmx && setenv("KAGE_SHOW_VMX", "1", 1) != 0) ||
               (command->mmu != NULL && setenv("KAGE_MMU", command->mmu, 1) != 0);
    free(preload);
    return bad ? error_set(error, "no memory") : 0;
}

/* ---- --check ---- */

static bool has_bmi2(void)
{
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_BMI2) != 0;
}

static bool has_xsave(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_OSXSAVE) != 0;
}

static bool has_fsgsbase(void)
{
    return (getauxval(AT_HWCAP2) & KVM_HWCAP2_FSGSBASE) != 0;
}

static const struct {
    const char *name;
    bool (*has)(void);
} check_features[] = {
    {"BMI2", has_bmi2},
    {"XSAVE, enabled by the kernel", has_xsave},
    {"FSGSBASE in user mode, enabled by the kernel", has_fsgsbase},
};

static int check_host(void)
{
    char reason[256];
    int status = 0;

    puts("libkage needs of the processor:");
    for (size_t i = 0; i < sizeof(check_features) / sizeof(check_features[0]); i++) {
        bool has = check_features[i].has();
        printf("  %-48s%s\n", check_features[i].name, has ? "yes" : "NO");
        status = has ? status : -1;
    }
    const struct kvm_backend *backends[] = {&kage_backend_kernel, &kage_backend_soft};
    for (size_t i = 0; i < sizeof(backends) / sizeof(backends[0]); i++) {
        bool good = kage_backend_probe(backends[i], reason, sizeof(reason));
        printf("-accel %-6s%s: %s\n", backends[i]->name, good ? "good" : "not good", reason);
    }
    const struct kvm_backend *chosen = kage_backend_auto(reason, sizeof(reason));
    printf("-accel auto  takes %s: %s\n", chosen->name, reason);
    return status;
}

static int check(const struct kvm_command *command, struct error *error)
{
    char path[PATH_MAX], library[PATH_MAX];

    if (check_host() != 0) {
        return error_set(error, "libkage does not run on this processor");
    }
    fflush(stdout);
    if (find_library(library, error) != 0) {
        return -1;
    }
    printf("library      %s\n", library);
    if (*command->words == NULL) {
        return 0;
    }
    if (find_program(command->words[0], path, error) != 0) {
        return -1;
    }
    char found[PATH_MAX];
    memcpy(found, path, sizeof(found));
    fflush(stdout);
    if (check_program(path, error) != 0) {
        return -1;
    }
    printf("program      %s", found);
    if (strcmp(found, path) != 0) {
        printf(", a script for %s", path);
    }
    puts(": dynamically linked, can be run");
    return 0;
}

int kvm_client(int count, char **words, struct error *error)
{
    struct kvm_command command = {0};
    char path[PATH_MAX], interpreter[PATH_MAX], library[PATH_MAX];

    if (kvm_parse(&command, count, words, error) != 0) {
        return -1;
    }
    if (command.check) {
        return check(&command, error);
    }
    if (find_program(command.words[0], path, error) != 0) {
        return -1;
    }
    memcpy(interpreter, path, sizeof(path));
    if (check_program(interpreter, error) != 0 || find_library(library, error) != 0 ||
        set_environment(&command, library, error) != 0) {
        return -1;
    }
    execv(path, command.words);
    return error_set(error, "%s: %s", path, strerror(errno));
}
