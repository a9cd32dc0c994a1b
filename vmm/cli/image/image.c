/* SPDX-License-Identifier: MIT */
/*
 * `kage image debian`: options, each checked before anything is done, then the script (debian.sh, compiled in). The script is what
 * somebody would type who made such a disk by hand, and is best read as that; here is what a shell is bad at: refusing nonsense.
 */
#include "cli/image/image.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "machine/property.h"

#define IMAGE_BYTES_MIN (UINT64_C(1) << 30) /* less holds no Debian */
#define IMAGE_BYTES_MAX (UINT64_C(16) << 40)
#define IMAGE_PASSWORD_LENGTH 12u

extern const char image_debian_script[];

/* ---- What a value may be ---- */

static const char lower[] = "abcdefghijklmnopqrstuvwxyz", digits[] = "0123456789";

/* Whether `text` is made of the characters of three sets alone; not empty, not longer than `max`. */
static bool made_of(const char *text, size_t max, const char *first, const char *second, const char *third)
{
    size_t length = strlen(text);
    for (size_t i = 0; i < length; i++) {
        if (strchr(first, text[i]) == NULL && strchr(second, text[i]) == NULL && strchr(third, text[i]) == NULL) {
            return false;
        }
    }
    return length > 0 && length <= max;
}

static bool is_printable(const char *text)
{
    for (; *text != '\0'; text++) {
        if ((unsigned char)*text < 0x20 || *text == 0x7f) {
            return false;
        }
    }
    return true;
}

static int check_size(struct image_request *request, const char *option, const char **value, struct error *error)
{
    uint64_t bytes;
    if (property_parse_size(*value, 1, &bytes) != 0 || bytes < IMAGE_BYTES_MIN || bytes > IMAGE_BYTES_MAX) {
        return error_set(error, "%s %s: must be a size from 1G to 16T", option, *value);
    }
    /* Whole sectors, and whole blocks of the file system. */
    char *text = request->text + request->text_used;
    request->text_used += 1 + (size_t)snprintf(text, 24, "%llu", (unsigned long long)(bytes & ~UINT64_C(0xfff)));
    *value = text;
    return 0;
}

/* RFC 1123: labels of letters, digits and hyphens. Linux has 64 characters. */
static int check_hostname(struct image_request *request, const char *option, const char **value, struct error *error)
{
    static const char upper[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.";
    const char *text = *value;
    size_t length = strlen(text);
    bool good = made_of(text, 64, lower, upper, "") && strstr(text, "..") == NULL && strstr(text, ".-") == NULL && strstr(text, "-.") == NULL;
    (void)request;
    good = good && strchr("-.", text[0]) == NULL && strchr("-.", text[length - 1]) == NULL;
    return good ? 0 : error_set(error, "%s %s: must be a host's name: letters, digits, hyphens, with dots between", option, text);
}

/* What Debian's useradd takes without complaint. root is there already. */
static int check_user(struct image_request *request, const char *option, const char **value, struct error *error)
{
    (void)request;
    if (strcmp(*value, "root") == 0) {
        return error_set(error, "%s root: it is there anyway; --root-password lets it in", option);
    }
    return made_of(*value, 32, lower, digits, "_-") && strchr(lower, (*value)[0]) != NULL
               ? 0
               : error_set(error, "%s %s: must be a user's name: small letters, digits, _ and -", option, *value);
}

static int check_file(struct image_request *request, const char *option, const char **value, struct error *error)
{
    char line[16] = "";
    FILE *file = fopen(*value, "re");
    (void)request;
    if (file == NULL) {
        return error_set(error, "%s %s: %s", option, *value, strerror(errno));
    }
    size_t length = fread(line, 1, sizeof(line) - 1, file);
    bool reading_failed = ferror(file) != 0;
    fclose(file);
    line[length] = '\0';
    if (reading_failed) {
        return error_set(error, "%s %s: it cannot be read", option, *value);
    }
    bool good = strncmp(line, "ssh-", 4) == 0 || strncmp(line, "ecdsa-", 6) == 0 || strncmp(line, "sk-", 3) == 0;
    return good ? 0 : error_set(error, "%s %s: no public key of ssh's (the file ends in .pub)", option, *value);
}

static int check_packages(struct image_request *request, const char *option, const char **value, struct error *error)
{
    (void)request;
    return made_of(*value, 4000, lower, digits, "+-.,:=~") && strchr(lower, (*value)[0]) != NULL
               ? 0
               : error_set(error, "%s %s: must be names of packages with commas between", option, *value);
}

static int check_choice(const char *option, const char *value, const char *const *choices, struct error *error)
{
    char all[80] = "";
    for (unsigned i = 0; choices[i] != NULL; i++) {
        if (strcmp(value, choices[i]) == 0) {
            return 0;
        }
        snprintf(all + strlen(all), sizeof(all) - strlen(all), "%s%s", i > 0 ? ", " : "", choices[i]);
    }
    return error_set(error, "%s %s: must be one of %s", option, value, all);
}

static int check_firmware(struct image_request *request, const char *option, const char **value, struct error *error)
{
    (void)request;
    return check_choice(option, *value, (const char *const[]){"bios", "uefi", "both", NULL}, error);
}

static int check_kernel(struct image_request *request, const char *option, const char **value, struct error *error)
{
    (void)request;
    return check_choice(option, *value, (const char *const[]){"cloud", "generic", NULL}, error);
}

static int check_format(struct image_request *request, const char *option, const char **value, struct error *error)
{
    (void)request;
    return check_choice(option, *value, (const char *const[]){"qcow2", "raw", NULL}, error);
}

/* It becomes a part of a line in sources.list. */
static int check_mirror(struct image_request *request, const char *option, const char **value, struct error *error)
{
    bool known = strncmp(*value, "http://", 7) == 0 || strncmp(*value, "https://", 8) == 0 || strncmp(*value, "file:/", 6) == 0;
    (void)request;
    return known && is_printable(*value) && strpbrk(*value, " []") == NULL
               ? 0
               : error_set(error, "%s %s: must be a URL of http, https or file", option, *value);
}

static int check_suite(struct image_request *request, const char *option, const char **value, struct error *error)
{
    (void)request;
    return made_of(*value, 40, lower, digits, "-") && (*value)[0] != '-'
               ? 0
               : error_set(error, "%s %s: must be the name of a release, as bookworm", option, *value);
}

/* Lines of chpasswd(8) are USER:PASSWORD. */
static int check_password(struct image_request *request, const char *option, const char **value, struct error *error)
{
    (void)request;
    return is_printable(*value) ? 0 : error_set(error, "%s: control characters cannot be typed at a login", option);
}

static int check_seed(struct image_request *request, const char *option, const char **value, struct error *error)
{
    static const char *const names[] = {"user-data", "meta-data"};
    (void)request;
    for (unsigned i = 0; i < 2; i++) {
        char path[PATH_MAX];
        if ((size_t)snprintf(path, sizeof(path), "%s/%s", *value, names[i]) >= sizeof(path) || access(path, R_OK) != 0) {
            return error_set(error, "%s %s: no %s there that can be read; cloud-init's NoCloud wants user-data and meta-data", option, *value, names[i]);
        }
    }
    return 0;
}

static int check_cache(struct image_request *request, const char *option, const char **value, struct error *error)
{
    (void)request;
    *value = strcmp(*value, "none") == 0 ? "" : *value;
    return is_printable(*value) ? 0 : error_set(error, "%s: no such directory", option);
}

static const struct image_option {
    const char *option;   /* NULL: the positional one */
    const char *name;     /* of the variable, behind KAGE_IMAGE_ */
    const char *argument; /* NULL: takes none, and is "1" */
    const char *initial;  /* NULL: not set */
    const char *help;
    int (*check)(struct image_request *request, const char *option, const char **value, struct error *error);
} image_options[] = {
    {NULL, "OUT", "OUT", NULL, NULL, NULL},
    {"--size", "SIZE", "SIZE", "4G", "of the disk", check_size},
    {"--hostname", "HOSTNAME", "NAME", "debian", "of the guest", check_hostname},
    {"--user", "USER", "NAME", "debian", "who logs in, and may use sudo", check_user},
    {"--password", "PASSWORD", "TEXT", NULL, "the user's; '' lets in without one (without this option: one is made up, and printed)", check_password},
    {"--root-password", "ROOT_PASSWORD", "TEXT", NULL, "root's (without this option root does not log in)", check_password},
    {"--ssh-key", "SSH_KEY", "FILE", "", "a public key of the user's; installs openssh-server", check_file},
    {"--packages", "PACKAGES", "NAME,...", "", "what else to install", check_packages},
    {"--firmware", "FIRMWARE", "bios|uefi|both", "both", "what starts it", check_firmware},
    {"--kernel", "KERNEL", "cloud|generic", "cloud", "Debian's kernel for virtual machines, or the one with all drivers", check_kernel},
    {"--suite", "SUITE", "NAME", "bookworm", "of Debian", check_suite},
    {"--mirror", "MIRROR", "URL", "", "of Debian, in place of deb.debian.org and security.debian.org", check_mirror},
    {"--cloud-init", "CLOUD_INIT", "DIRECTORY", "", "installs cloud-init, with this NoCloud seed: user-data, meta-data, perhaps network-config", check_seed},
    {"--format", "FORMAT", "qcow2|raw", "qcow2", "of the image", check_format},
    {"--cache", "CACHE", "DIRECTORY|none", NULL, "where downloaded packages are kept (~/.cache/kage/debs)", check_cache},
    {"--force", "FORCE", NULL, "", "replace OUT if it is there", NULL},
    {"--verbose", "VERBOSE", NULL, "", "show all that the programs print", NULL},
};
#define IMAGE_OPTION_COUNT (sizeof(image_options) / sizeof(image_options[0]))
_Static_assert(IMAGE_OPTION_COUNT <= IMAGE_OPTIONS_MAX, "a value for each option");

void image_help(void)
{
    puts("usage: kage image debian OUT.qcow2 [OPTIONS]\n"
         "\n"
         "Makes a disk with Debian 12 on it that boots by BIOS and UEFI, with its console on the serial line; 'kage run OUT.qcow2' runs it.\n"
         "As root, in a container too; or as an ordinary user who has user namespaces. Needs the packages mmdebstrap, e2fsprogs, fdisk, mtools.\n"
         "\n"
         "Options");
    for (size_t i = 1; i < IMAGE_OPTION_COUNT; i++) {
        const struct image_option *row = &image_options[i];
        char left[48];
        bool standing = row->initial != NULL && row->initial[0] != '\0';
        snprintf(left, sizeof(left), "%s%s%s", row->option, row->argument != NULL ? " " : "", row->argument != NULL ? row->argument : "");
        printf("  %-28s %s%s%s%s\n", left, row->help, standing ? " (" : "", standing ? row->initial : "", standing ? ")" : "");
    }
}

const char *image_value(const struct image_request *request, const char *name)
{
    for (size_t i = 0; i < IMAGE_OPTION_COUNT; i++) {
        if (strcmp(image_options[i].name, name) == 0) {
            return request->value[i];
        }
    }
    return NULL;
}

static const char **value_of(struct image_request *request, const char *name)
{
    size_t i = 0;
    while (strcmp(image_options[i].name, name) != 0) {
        i++;
    }
    return &request->value[i];
}

/* Letters and digits that nobody confuses: five bits each of what the kernel gives. */
static int make_password(struct image_request *request, struct error *error)
{
    static const char letters[] = "abcdefghijkmnpqrstuvwxyz23456789";
    uint8_t random[IMAGE_PASSWORD_LENGTH];
    if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random)) {
        return error_set(error, "no random numbers: %s", strerror(errno));
    }
    char *text = request->text + request->text_used;
    for (unsigned i = 0; i < IMAGE_PASSWORD_LENGTH; i++) {
        text[i] = letters[random[i] & 31];
    }
    text[IMAGE_PASSWORD_LENGTH] = '\0';
    request->text_used += IMAGE_PASSWORD_LENGTH + 1;
    *value_of(request, "PASSWORD") = text;
    return 0;
}

/* Kept packages are beside the rest that kage keeps. */
static void choose_cache(struct image_request *request)
{
    const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char *text = request->text + request->text_used;
    size_t left = sizeof(request->text) - request->text_used;
    const char *base = xdg != NULL && xdg[0] == '/' ? xdg : home;
    int length = base == NULL || base[0] != '/' ? 0 : snprintf(text, left, "%s%s/kage/debs", base, base == home ? "/.cache" : "");
    *value_of(request, "CACHE") = length > 0 && (size_t)length < left ? text : "";
    request->text_used += length > 0 && (size_t)length < left ? (size_t)length + 1 : 0;
}

static int parse_option(struct image_request *request, int count, char **words, int *at, struct error *error)
{
    const char *word = words[*at];
    size_t length = strcspn(word, "=");
    for (size_t i = 1; i < IMAGE_OPTION_COUNT; i++) {
        const struct image_option *row = &image_options[i];
        if (strlen(row->option) != length || strncmp(row->option, word, length) != 0) {
            continue;
        }
        const char *value = word[length] == '=' ? word + length + 1 : NULL;
        if (row->argument == NULL) {
            request->value[i] = "1";
            return value == NULL ? 0 : error_set(error, "image: %s takes no argument", row->option);
        }
        if (value == NULL && *at + 1 == count) {
            return error_set(error, "image: %s: %s is missing", row->option, row->argument);
        }
        request->value[i] = value != NULL ? value : words[++*at];
        return 0;
    }
    return error_set(error, "image: no such option '%s'; 'kage help image' lists them", word);
}

int image_parse(struct image_request *request, int count, char **words, struct error *error)
{
    memset(request, 0, sizeof(*request));
    for (size_t i = 0; i < IMAGE_OPTION_COUNT; i++) {
        request->value[i] = image_options[i].initial;
    }
    if (count == 0 || strcmp(words[0], "help") == 0 || strcmp(words[0], "--help") == 0 || strcmp(words[0], "-h") == 0) {
        request->help = 1;
        return count > 0 ? 0 : error_set(error, "image: nothing to make; try 'kage image debian OUT.qcow2' or 'kage help image'");
    }
    if (strcmp(words[0], "debian") != 0) {
        return error_set(error, "image: no such system '%s'; debian is there", words[0]);
    }
    for (int i = 1; i < count; i++) {
        if (strcmp(words[i], "--help") == 0 || strcmp(words[i], "-h") == 0) {
            request->help = 1;
            return 0;
        }
        if (words[i][0] == '-') {
            if (parse_option(request, count, words, &i, error) != 0) {
                return -1;
            }
        } else if (request->value[0] != NULL) {
            return error_set(error, "image: two names for one image: %s and %s", request->value[0], words[i]);
        } else {
            request->value[0] = words[i];
        }
    }
    if (request->value[0] == NULL || request->value[0][0] == '\0') {
        return error_set(error, "image: the name of the image to make is missing");
    }
    for (size_t i = 0; i < IMAGE_OPTION_COUNT; i++) {
        const struct image_option *row = &image_options[i];
        char option[40];
        snprintf(option, sizeof(option), "image: %s", row->option != NULL ? row->option : "");
        bool to_check = row->check != NULL && request->value[i] != NULL &&
                        (request->value[i] != row->initial || row->check == check_size); /* what nobody gave is right */
        if (to_check && row->check(request, option, &request->value[i], error) != 0) {
            return -1;
        }
    }
    if (image_value(request, "PASSWORD") == NULL && make_password(request, error) != 0) {
        return -1;
    }
    if (image_value(request, "CACHE") == NULL) {
        choose_cache(request);
    }
    return 0;
}

/* The name of the image: not there yet, or a file that may be replaced. */
static int check_out(const struct image_request *request, struct error *error)
{
    const char *out = image_value(request, "OUT");
    struct stat st;
    if (stat(out, &st) != 0) {
        return errno == ENOENT ? 0 : error_set(error, "image: %s: %s", out, strerror(errno));
    }
    if (!S_ISREG(st.st_mode)) {
        return error_set(error, "image: %s: it is there, and no file", out);
    }
    return image_value(request, "FORCE")[0] != '\0' ? 0 : error_set(error, "image: %s: it is there; --force replaces it", out);
}

int image_main(int count, char **words, struct error *error)
{
    struct image_request request;
    char self[PATH_MAX];
    if (image_parse(&request, count, words, error) != 0) {
        return -1;
    }
    if (request.help) {
        image_help();
        return 0;
    }
    ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);
    if (length <= 0) {
        return error_set(error, "/proc/self/exe: %s", strerror(errno));
    }
    self[length] = '\0';
    if (check_out(&request, error) != 0) {
        return -1;
    }
    bool bad = setenv("KAGE_IMAGE_SCRIPT", image_debian_script, 1) != 0 || setenv("KAGE_IMAGE_KAGE", self, 1) != 0;
    for (size_t i = 0; i < IMAGE_OPTION_COUNT; i++) {
        char name[64];
        snprintf(name, sizeof(name), "KAGE_IMAGE_%s", image_options[i].name);
        bad = bad || (request.value[i] != NULL ? setenv(name, request.value[i], 1) : unsetenv(name)) != 0;
    }
    if (bad) {
        return error_set(error, "no memory");
    }
    execl("/bin/sh", "kage-image", "-c", image_debian_script, "kage-image", (char *)NULL);
    return error_set(error, "/bin/sh: %s", strerror(errno));
}
