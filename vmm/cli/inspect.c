/* SPDX-License-Identifier: MIT */
/*
 * `kage inspect`: which VM, which topic, once or at intervals, as text or as JSON. What is shown is vmm/inspect/'s.
 */
#include "cli/inspect.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "inspect/client.h"
#include "inspect/sockets.h"
#include "inspect/view.h"

#define VMS_LISTED 64u
#define WIDTH_LIST 108 /* of a command line, with its end */
#define JSON_VERSION 1

static const struct {
    const char *name;
    view_topic *show;
    const char *help;
} topics[] = {
    {"vmcs", view_vmcs, "a processor's registers in words, and its VMCS field by field"},
    {"ept", view_ept, "the EPT: its tables by level, and what they map"},
    {"shadow", view_shadow, "the shadow page tables (of a VM with mmu=shadow)"},
    {"tlb", view_tlb, "the TLBs: how full, whose entries, what they spare; the entries"},
    {"slots", view_slots, "the memory slots: flags, host addresses, how much is mapped"},
    {"exits", view_exits, "VM exits by reason; a second, with --interval"},
};

void inspect_help(void)
{
    puts("usage: kage inspect [PID|SOCKET] [TOPIC] [OPTIONS]\n"
         "\n"
         "Looks into a running virtual machine of `kage run`, or of a KVM client under `kage kvm`, on the soft back end. Nothing that\n"
         "the guest can see changes. Without PID it takes the only one that runs; if there are more, it lists them.\n"
         "\n"
         "Topics (without one: an overview)");
    for (size_t i = 0; i < sizeof(topics) / sizeof(topics[0]); i++) {
        printf("  %-17s %s\n", topics[i].name, topics[i].help);
    }
    puts("\n"
         "Options\n"
         "  --gva ADDRESS     a guest-virtual address on its way to memory: the guest's own tables level by level, then the EPT or\n"
         "                    the shadow tables; with topic tlb: only that page's entries\n"
         "  --gpa ADDRESS     the same from a guest-physical address on\n"
         "  --cpu N           of that processor (vmcs, tlb, --gva: of processor 0; exits: of all together)\n"
         "  --all             everything: fields that are 0, every range and entry\n"
         "  --json            one JSON object: docs/memory.md says what is in it\n"
         "  --interval SECS   again and again, until Ctrl-c; exits are then also given a second\n"
         "  --count N         with --interval: N times\n"
         "  --vm N            of a process that has several virtual machines\n"
         "  --list            the virtual machines that there are\n"
         "\n"
         "A VM's process listens on DIR/PID.sock, where DIR is $XDG_RUNTIME_DIR/kage, /run/user/UID/kage or /tmp/kage-UID, and answers its\n"
         "own user and root. In the environment, of both sides, KAGE_INSPECT=/DIR chooses another directory; KAGE_INSPECT=0 leaves it out.\n"
         "Colour: on a terminal, unless NO_COLOR is set. Lines of Unicode: where the locale is UTF-8.");
}

struct command {
    const char *target; /* PID or path, NULL: the only one */
    view_topic *show;
    const char *topic;
    bool json, list, has_interval;
    double interval;
    uint64_t count;
    struct inspect_view view;
};

/* ---- Options ---- */

static bool parse_number(const char *text, uint64_t *value)
{
    char *end;

    errno = 0;
    *value = strtoull(text, &end, 0);
    return text[0] >= '0' && text[0] <= '9' && *end == '\0' && errno == 0;
}

/* As kallsyms and pagemap write them: hexadecimal, with or without 0x. */
static bool parse_address(const char *text, uint64_t *value)
{
    char *end;

    errno = 0;
    *value = strtoull(text, &end, 16);
    return text[0] != '\0' && text[0] != '-' && text[0] != '+' && text[0] != ' ' && *end == '\0' && errno == 0;
}

static int parse_value(struct command *command, const char *name, const char *text, struct error *error)
{
    struct inspect_view *view = &command->view;
    uint64_t number = 0;
    char *end;

    if (text == NULL) {
        return error_set(error, "inspect: %s: its value is missing", name);
    }
    if (strcmp(name, "--gva") == 0 || strcmp(name, "--gpa") == 0) {
        bool gva = strcmp(name, "--gva") == 0;
        *(gva ? &view->has_gva : &view->has_gpa) = true;
        return parse_address(text, gva ? &view->gva : &view->gpa) ? 0 : error_set(error, "inspect: %s %s: not a hexadecimal address", name, text);
    }
    if (strcmp(name, "--interval") == 0) {
        command->has_interval = true;
        command->interval = strtod(text, &end);
        bool good = end != text && *end == '\0' && isfinite(command->interval) && command->interval >= 0.01 && command->interval <= 86400;
        return good ? 0 : error_set(error, "inspect: --interval %s: seconds, from 0.01 to 86400", text);
    }
    bool good = parse_number(text, &number);
    if (strcmp(name, "--count") == 0) {
        command->count = number;
        return good && number != 0 ? 0 : error_set(error, "inspect: --count %s: a number from 1 on", text);
    }
    if (strcmp(name, "--cpu") == 0) {
        view->cpu = (int)number;
        return good && number < 4096 ? 0 : error_set(error, "inspect: --cpu %s: a processor's number", text);
    }
    view->vm = (uint32_t)number;
    return good && number < UINT32_MAX ? 0 : error_set(error, "inspect: --vm %s: a virtual machine's number", text);
}

static bool is_topic(struct command *command, const char *word)
{
    for (size_t i = 0; i < sizeof(topics) / sizeof(topics[0]); i++) {
        if (strcmp(word, topics[i].name) == 0) {
            command->show = topics[i].show;
            command->topic = topics[i].name;
            return true;
        }
    }
    return false;
}

static int parse(struct command *command, int count, char **words, struct error *error)
{
    static const char *const with_value[] = {"--gva", "--gpa", "--cpu", "--vm", "--interval", "--count"};
    struct inspect_view *view = &command->view;

    for (int i = 0; i < count; i++) {
        const char *word = words[i];
        bool taken = false;
        for (size_t n = 0; n < sizeof(with_value) / sizeof(with_value[0]) && !taken; n++) {
            if (strcmp(word, with_value[n]) == 0) {
                taken = true;
                i++;
                if (parse_value(command, word, i < count ? words[i] : NULL, error) != 0) {
                    return -1;
                }
            }
        }
        if (taken) {
            continue;
        }
        if (strcmp(word, "--json") == 0) {
            command->json = true;
        } else if (strcmp(word, "--all") == 0) {
            view->all = true;
        } else if (strcmp(word, "--list") == 0) {
            command->list = true;
        } else if (word[0] == '-') {
            return error_set(error, "inspect: no such option '%s'; try 'kage help inspect'", word);
        } else if (is_topic(command, word)) {
            continue;
        } else if (command->target == NULL && ((word[0] >= '1' && word[0] <= '9') || strchr(word, '/') != NULL)) {
            command->target = word;
        } else {
            return error_set(error, "inspect: no such topic '%s'; vmcs, ept, shadow, tlb, slots and exits are there", word);
        }
    }
    if (view->has_gva && view->has_gpa) {
        return error_set(error, "inspect: --gva and --gpa: one of them");
    }
    if (command->show == NULL) {
        command->show = view->has_gva || view->has_gpa ? view_walk : view_overview;
        command->topic = view->has_gva || view->has_gpa ? "walk" : "overview";
    } else if ((view->has_gva || view->has_gpa) && command->show != view_tlb) {
        if (command->show != view_ept && command->show != view_shadow) {
            return error_set(error, "inspect: %s takes no address", command->topic);
        }
        command->topic = "walk";
    }
    return 0;
}

/* ---- Which VM ---- */

struct found {
    pid_t pids[VMS_LISTED];
    char paths[VMS_LISTED][INSPECT_PATH_MAX];
    unsigned count;
};

static void note_found(void *opaque, pid_t pid, const char *path)
{
    struct found *found = opaque;

    if (found->count < VMS_LISTED) {
        found->pids[found->count] = pid;
        snprintf(found->paths[found->count], INSPECT_PATH_MAX, "%s", path);
        found->count++;
    }
}

/* "PID  what it runs", for each; a JSON array with --json. */
static void print_list(const struct found *found, bool json, FILE *file)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < found->count; i++) {
        char path[40], command[WIDTH_LIST] = "";
        snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)found->pids[i]);
        FILE *in = fopen(path, "re");
        size_t length = in != NULL ? fread(command, 1, sizeof(command) - 1, in) : 0;
        if (in != NULL) {
            fclose(in);
        }
        for (size_t c = 0; c < length; c++) {
            command[c] = command[c] == '\0' ? ' ' : (unsigned char)command[c] < ' ' || (unsigned char)command[c] >= 0x7f ? '?' : command[c];
        }
        if (json) {
            json_array_append_new(list, json_pack("{s:i, s:s}", "pid", (int)found->pids[i], "socket", found->paths[i]));
        } else {
            fprintf(file, "  %8d  %s\n", (int)found->pids[i], command);
        }
    }
    if (json) {
        json_dumpf(list, file, JSON_INDENT(2));
        fputc('\n', file);
    }
    json_decref(list);
}

static int choose(struct command *command, char path[INSPECT_PATH_MAX], struct error *error)
{
    uint64_t pid;

    if (command->target != NULL && strchr(command->target, '/') != NULL) {
        const char *slash = strrchr(command->target, '/');
        command->view.pid = (pid_t)strtol(slash + 1, NULL, 10);
        return snprintf(path, INSPECT_PATH_MAX, "%s", command->target) < (int)INSPECT_PATH_MAX
                   ? 0
                   : error_set(error, "inspect: %s: too long for a socket", command->target);
    }
    if (command->target != NULL) {
        if (!parse_number(command->target, &pid) || pid > INT32_MAX) {
            return error_set(error, "inspect: %s: neither a process ID nor a socket", command->target);
        }
        command->view.pid = (pid_t)pid;
        return inspect_find((pid_t)pid, path) ? 0 : error_set(error, "process %d: no virtual machine of kage's there", (int)pid);
    }
    struct found *found = calloc(1, sizeof(*found));
    if (found == NULL) {
        return error_set(error, "no memory");
    }
    inspect_each(geteuid(), note_found, found);
    int result = 0;
    if (found->count == 0) {
        result = error_set(error, "inspect: no virtual machine of yours runs");
    } else if (found->count > 1) {
        print_list(found, false, stderr);
        result = error_set(error, "inspect: %u virtual machines run: say which, for example 'kage inspect %d'", found->count, (int)found->pids[0]);
    } else {
        command->view.pid = found->pids[0];
        memcpy(path, found->paths[0], INSPECT_PATH_MAX);
    }
    free(found);
    return result;
}

static int list_all(bool json)
{
    struct found *found = calloc(1, sizeof(*found));

    if (found != NULL) {
        inspect_each(geteuid(), note_found, found);
        print_list(found, json, stdout);
    }
    free(found);
    return 0;
}

/* ---- Showing ---- */

static double now_seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static int show_once(struct command *command, struct error *error)
{
    struct inspect_view *view = &command->view;

    if (!command->json) {
        return command->show(view, error);
    }
    view->json = json_pack("{s:i, s:i, s:i, s:s}", "kage_inspect", JSON_VERSION, "pid", (int)view->pid, "vm", (int)view->vm, "topic", command->topic);
    int result = view->json != NULL ? command->show(view, error) : error_set(error, "no memory");
    if (result == 0) {
        json_dumpf(view->json, stdout, command->has_interval ? JSON_COMPACT : JSON_INDENT(2));
        putchar('\n');
    }
    json_decref(view->json);
    view->json = NULL;
    return result;
}

/* From the top of the screen each time, on a terminal. */
static int show_repeatedly(struct command *command, struct error *error)
{
    bool screen = !command->json && isatty(STDOUT_FILENO) == 1;
    double last = now_seconds();
    int result = 0;

    for (uint64_t round = 0; result == 0 && (command->count == 0 || round < command->count); round++) {
        if (round != 0) {
            const struct timespec pause = {.tv_sec = (time_t)command->interval,
                                           .tv_nsec = (long)((command->interval - (double)(time_t)command->interval) * 1e9)};
            nanosleep(&pause, NULL);
        }
        double now = now_seconds();
        command->view.interval = round != 0 ? now - last : 0;
        last = now;
        if (screen) {
            fputs("\033[H\033[2J", stdout);
        }
        result = show_once(command, error);
        if (!screen && !command->json) {
            putchar('\n');
        }
        if (fflush(stdout) != 0) {
            return 0; /* whoever read has had enough */
        }
    }
    return result;
}

int inspect_main(int count, char **words, struct error *error)
{
    struct command command = {.view = {.ask = inspect_client_ask, .cpu = -1}};
    char path[INSPECT_PATH_MAX];

    if (parse(&command, count, words, error) != 0) {
        return -1;
    }
    if (command.list) {
        return list_all(command.json);
    }
    if (choose(&command, path, error) != 0) {
        return -1;
    }
    command.view.opaque = path;
    out_init(&command.view.out, stdout);
    int result = command.has_interval ? show_repeatedly(&command, error) : show_once(&command, error);
    free(command.view.before);
    return result;
}
