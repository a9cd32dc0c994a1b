/* SPDX-License-Identifier: MIT */
/*
 * Option grammar: -NAME or --NAME, then perhaps one argument. Arguments with parts are lists of
 * NAME=VALUE with commas between; each kind of list is a const table too. What we do not have is an
 * error, never ignored, except where leaving it out is exactly what is asked for (-display none).
 */
#include "cli/options.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "chardev/chardev.h"
#include "cli/options_devices.h"
#include "cli/options_disks.h"
#include "machine/machine.h"
#include "util/log.h"

#define OPTIONS_ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define OPTIONS_RAM_DEFAULT (UINT64_C(128) << 20)
/* What runs an installed system, if nothing else is said: `kage run IMAGE`. */
#define OPTIONS_IMAGE_RAM (UINT64_C(1) << 30)
#define OPTIONS_IMAGE_CPUS 2u
#define OPTIONS_IMAGE_MACHINE "pc"
#define OPTIONS_PAGE UINT64_C(4096)

/* ---- Lists of NAME=VALUE ---- */

/* One part of a list; both are copies. */
struct options_part {
    char name[OPTIONS_WORD_MAX];
    char value[OPTIONS_WORD_MAX]; /* "" where there is no '=' */
    bool has_value;
};

/* Takes the next part off `*list`. 1; 0 at the end; -1: too long. */
static int options_next_part(const char **list, struct options_part *part)
{
    if (**list == '\0') {
        return 0;
    }
    size_t length = strcspn(*list, ",");
    const char *equals = memchr(*list, '=', length);
    size_t name_length = equals != NULL ? (size_t)(equals - *list) : length;
    size_t value_length = equals != NULL ? length - name_length - 1 : 0;
    if (name_length >= OPTIONS_WORD_MAX || value_length >= OPTIONS_WORD_MAX) {
        return -1;
    }
    memcpy(part->name, *list, name_length);
    part->name[name_length] = '\0';
    part->has_value = equals != NULL;
    memcpy(part->value, equals != NULL ? equals + 1 : "", value_length);
    part->value[value_length] = '\0';
    *list += length;
    *list += **list == ',';
    return 1;
}

struct options_row {
    const char *name;
    /* NULL: only the value in `only` is there, and it changes nothing. */
    int (*apply)(struct options *options, const char *value, struct error *error);
    const char *only;
};

/* Applies a list, of which `what` is said in errors; `first` names a part that comes without its name. */
static int options_apply_list(struct options *options, const char *what, const char *first, const char *list,
                              const struct options_row *rows, size_t count, struct error *error)
{
    struct options_part part;
    int more;
    for (bool is_first = true; (more = options_next_part(&list, &part)) > 0; is_first = false) {
        const char *name = part.name;
        const char *value = part.value;
        if (!part.has_value) {
            value = is_first && first != NULL ? part.name : "on";
            name = is_first && first != NULL ? first : part.name;
        }
        const struct options_row *row = NULL;
        for (size_t i = 0; i < count; i++) {
            if (strcmp(rows[i].name, name) == 0) {
                row = &rows[i];
            }
        }
        if (row == NULL) {
            return error_set(error, "%s: no such property '%s'", what, name);
        }
        if (row->apply != NULL && row->apply(options, value, error) != 0) {
            return -1;
        }
        if (row->apply == NULL && strcmp(value, row->only) != 0) {
            return error_set(error, "%s: %s=%s is not there; only %s=%s is", what, name, value, name, row->only);
        }
    }
    return more == 0 ? 0 : error_set(error, "%s: a part of it is longer than %u characters", what, OPTIONS_WORD_MAX - 1);
}

static int options_parse_bool(const char *what, const char *value, bool *result, struct error *error)
{
    bool on = strcmp(value, "on") == 0;
    if (!on && strcmp(value, "off") != 0) {
        return error_set(error, "%s=%s: must be on or off", what, value);
    }
    *result = on;
    return 0;
}

int options_parse_size(const char *text, uint64_t unit, uint64_t *bytes)
{
    return property_parse_size(text, unit, bytes);
}

/* ---- -accel, -machine, -cpu, -m, -smp ---- */

static int options_set_accel(struct options *options, const char *value, struct error *error)
{
    static const struct {
        const char *name;
        const char *text;
    } accels[] = {
        {"soft", "our own processor with VT-x, in user space"},
        {"kvm", "the host's /dev/kvm"},
        {"auto", "kvm where it is good, else soft"},
    };
    if (strcmp(value, "help") == 0) {
        puts("Accelerators:");
        for (unsigned i = 0; i < OPTIONS_ARRAY_SIZE(accels); i++) {
            printf("  %-6s %s\n", accels[i].name, accels[i].text);
        }
        options->action = OPTIONS_DONE;
        return 0;
    }
    for (unsigned i = 0; i < OPTIONS_ARRAY_SIZE(accels); i++) {
        if (strcmp(value, accels[i].name) == 0) {
            options->accel = accels[i].name;
            return 0;
        }
    }
    return error_set(error, "-accel %s: no such accelerator; soft, kvm and auto are there", value);
}

static int options_enable_kvm(struct options *options, const char *value, struct error *error)
{
    (void)value;
    return options_set_accel(options, "kvm", error);
}

static int options_set_board(struct options *options, const char *value, struct error *error)
{
    if (strcmp(value, "help") == 0) {
        puts("Machines:");
        for (const struct board *board = machine_boards; board->name != NULL; board++) {
            printf("  %-8s %s\n", board->name, board->help);
        }
        puts("Properties of pc and q35:\n"
             "  hpet=on|off            the HPET (on)\n"
             "  i8042=on|off           the keyboard controller (on); pc and q35 have a keyboard and a mouse on it\n"
             "  pflash0=, pflash1=ID   flash memory with firmware and its variables: a -blockdev, or -drive if=none\n"
             "Properties, with -accel soft:\n"
             "  mmu=ept     a guest's addresses through its own page tables and EPT (default)\n"
             "  mmu=shadow  through shadow page tables, made of the guest's");
        options->action = OPTIONS_DONE;
        return 0;
    }
    const struct board *board = machine_find_board(value);
    if (board == NULL) {
        return error_set(error, "-machine %s: no such machine; '-machine help' lists them", value);
    }
    options->machine = board->name;
    return 0;
}

static int options_set_acpi(struct options *options, const char *value, struct error *error)
{
    return options_parse_bool("-machine: acpi", value, &options->acpi, error);
}

static int options_set_kernel_cmdline(struct options *options, const char *value, struct error *error)
{
    return options_parse_bool("-machine: auto-kernel-cmdline", value, &options->kernel_cmdline, error);
}

/* auto: not announced, since the KVM clock gives a guest the time without the clock's slow registers. */
static int options_set_rtc(struct options *options, const char *value, struct error *error)
{
    if (strcmp(value, "auto") == 0) {
        options->rtc = false;
        return 0;
    }
    return options_parse_bool("-machine: rtc", value, &options->rtc, error);
}

static int options_set_hpet(struct options *options, const char *value, struct error *error)
{
    return options_parse_bool("-machine: hpet", value, &options->hpet, error);
}

static int options_set_i8042(struct options *options, const char *value, struct error *error)
{
    return options_parse_bool("-machine: i8042", value, &options->i8042, error);
}

static int options_set_flash0(struct options *options, const char *value, struct error *error)
{
    (void)error;
    strcpy(options->flash_names[0], value); /* as long as a part of a list can be */
    return 0;
}

static int options_set_flash1(struct options *options, const char *value, struct error *error)
{
    (void)error;
    strcpy(options->flash_names[1], value);
    return 0;
}

#define RTC_YEAR_MAX 2199 /* what dev/cmos.c can count to */

/* utc, localtime, or a date as 2006-06-17T16:01:21 or 2006-06-17, from which on the clock goes. */
static int options_set_rtc_base(struct options *options, const char *value, struct error *error)
{
    static const char *const formats[] = {"%Y-%m-%dT%H:%M:%S", "%Y-%m-%d"};
    time_t now = time(NULL);
    struct tm tm;
    if (strcmp(value, "utc") == 0) {
        options->rtc_offset_seconds = 0;
        return 0;
    }
    if (strcmp(value, "localtime") == 0) {
        if (localtime_r(&now, &tm) == NULL) {
            return error_set(error, "-rtc base=localtime: %s", strerror(errno));
        }
        options->rtc_offset_seconds = tm.tm_gmtoff;
        return 0;
    }
    for (unsigned i = 0; i < OPTIONS_ARRAY_SIZE(formats); i++) {
        memset(&tm, 0, sizeof(tm));
        const char *end = strptime(value, formats[i], &tm);
        if (end != NULL && *end == '\0' && tm.tm_year >= 70 && tm.tm_year + 1900 <= RTC_YEAR_MAX) {
            options->rtc_offset_seconds = timegm(&tm) - now;
            return 0;
        }
    }
    return error_set(error, "-rtc base=%s: invalid datetime format; valid formats are utc, localtime, 2006-06-17T16:01:21 and 2006-06-17", value);
}

static int options_apply_rtc(struct options *options, const char *argument, struct error *error)
{
    static const struct options_row rows[] = {{"base", options_set_rtc_base, NULL}, {"clock", NULL, "host"}, {"driftfix", NULL, "none"}};
    return options_apply_list(options, "-rtc", NULL, argument, rows, OPTIONS_ARRAY_SIZE(rows), error);
}

static int options_set_mmu(struct options *options, const char *value, struct error *error)
{
    options->mmu = kage_mmu_find(value);
    return options->mmu >= 0 ? 0 : error_set(error, "-machine: mmu=%s: no such MMU; ept and shadow are there", value);
}

static int options_apply_machine(struct options *options, const char *argument, struct error *error)
{
    static const struct options_row rows[] = {
        {"type", options_set_board, NULL},
        {"accel", options_set_accel, NULL},
        {"acpi", options_set_acpi, NULL},
        {"rtc", options_set_rtc, NULL},
        {"mmu", options_set_mmu, NULL},
        {"hpet", options_set_hpet, NULL},
        {"i8042", options_set_i8042, NULL},
        {"pflash0", options_set_flash0, NULL},
        {"pflash1", options_set_flash1, NULL},
        {"pit", NULL, "on"},
        {"pic", NULL, "on"},
        {"isa-serial", NULL, "on"},
        {"graphics", NULL, "off"},
        {"usb", NULL, "off"},
        {"mem-merge", NULL, "off"},
        {"kernel-irqchip", NULL, "on"},
        {"auto-kernel-cmdline", options_set_kernel_cmdline, NULL},
    };
    return options_apply_list(options, "-machine", "type", argument, rows, OPTIONS_ARRAY_SIZE(rows), error);
}

static int options_apply_cpu(struct options *options, const char *argument, struct error *error)
{
    if (strcmp(argument, "help") == 0) {
        cpu_model_help();
        options->action = OPTIONS_DONE;
        return 0;
    }
    return cpu_model_parse(&options->cpu_model, argument, error);
}

static int options_set_size(struct options *options, const char *value, struct error *error)
{
    uint64_t bytes;
    if (options_parse_size(value, UINT64_C(1) << 20, &bytes) != 0 || bytes > UINT64_MAX - OPTIONS_PAGE) {
        return error_set(error, "-m %s: must be a size, as 512M or 2G", value);
    }
    if (bytes == 0) {
        return error_set(error, "-m %s: a guest needs memory", value);
    }
    options->ram_bytes = (bytes + OPTIONS_PAGE - 1) & ~(OPTIONS_PAGE - 1);
    return 0;
}

static int options_apply_memory(struct options *options, const char *argument, struct error *error)
{
    static const struct options_row rows[] = {{"size", options_set_size, NULL}};
    return options_apply_list(options, "-m", "size", argument, rows, OPTIONS_ARRAY_SIZE(rows), error);
}

static int options_apply_mem_path(struct options *options, const char *argument, struct error *error)
{
    (void)error;
    options->ram_backing.path = argument;
    return 0;
}

static int options_apply_mem_prealloc(struct options *options, const char *argument, struct error *error)
{
    (void)argument;
    (void)error;
    options->ram_backing.prealloc = true;
    return 0;
}

static int options_set_count(const char *name, const char *value, unsigned *count, struct error *error)
{
    uint64_t number;
    if (property_parse_number(value, 65535, &number) != 0 || number == 0) {
        return error_set(error, "-smp %s%s%s: must be a number of processors, 1 to %u", name, name[0] != '\0' ? "=" : "", value,
                         TOPOLOGY_CPUS_MAX);
    }
    *count = (unsigned)number;
    return 0;
}

static int options_set_cpus(struct options *options, const char *value, struct error *error)
{
    return options_set_count("", value, &options->smp.cpus, error);
}

static int options_set_maxcpus(struct options *options, const char *value, struct error *error)
{
    return options_set_count("maxcpus", value, &options->smp.max_cpus, error);
}

static int options_set_sockets(struct options *options, const char *value, struct error *error)
{
    return options_set_count("sockets", value, &options->smp.sockets, error);
}

static int options_set_dies(struct options *options, const char *value, struct error *error)
{
    return options_set_count("dies", value, &options->smp.dies, error);
}

static int options_set_cores(struct options *options, const char *value, struct error *error)
{
    return options_set_count("cores", value, &options->smp.cores, error);
}

static int options_set_threads(struct options *options, const char *value, struct error *error)
{
    return options_set_count("threads", value, &options->smp.threads, error);
}

static int options_apply_smp(struct options *options, const char *argument, struct error *error)
{
    static const struct options_row rows[] = {
        {"cpus", options_set_cpus, NULL}, {"maxcpus", options_set_maxcpus, NULL}, {"sockets", options_set_sockets, NULL},
        {"dies", options_set_dies, NULL}, {"cores", options_set_cores, NULL},     {"threads", options_set_threads, NULL},
    };
    options->smp = (struct cpu_topology){0};
    return options_apply_list(options, "-smp", "cpus", argument, rows, OPTIONS_ARRAY_SIZE(rows), error);
}

static int options_apply_bios(struct options *options, const char *argument, struct error *error)
{
    (void)error;
    options->bios = argument;
    return 0;
}

/* ---- The rest ---- */

static int options_apply_kernel(struct options *options, const char *argument, struct error *error)
{
    (void)error;
    options->kernel = argument;
    return 0;
}

static int options_apply_initrd(struct options *options, const char *argument, struct error *error)
{
    (void)error;
    options->initrd = argument;
    return 0;
}

static int options_apply_append(struct options *options, const char *argument, struct error *error)
{
    (void)error;
    options->append = argument;
    return 0;
}

static int options_apply_name(struct options *options, const char *argument, struct error *error)
{
    (void)error;
    options->name = argument;
    return 0;
}

/* The id of a backend that an option names: of its own, as `id`, or with chardev:ID one of -chardev's. */
static int options_name_chardev(struct options *options, const char *option, const char *argument, const char *id, char name[CHARDEV_ID_MAX],
                                struct error *error)
{
    bool other = strncmp(argument, "chardev:", 8) == 0;
    if (!other && config_add_short_chardev(&options->lists, id, argument, error) == NULL) {
        return error_prepend(error, "-%s %.100s: ", option, argument);
    }
    snprintf(name, CHARDEV_ID_MAX, "%s", other ? argument + 8 : id);
    return 0;
}

/* Once all options are known. "none" stays. */
static int options_claim_chardev(struct options *options, const char *option, const char *name, struct error *error)
{
    struct chardev_backend *backend = config_find_chardev(&options->lists, name);
    if (name[0] == '\0' || strcmp(name, "none") == 0) {
        return 0;
    }
    if (backend == NULL) {
        return error_set(error, "-%s chardev:%.100s: there is no such -chardev", option, name);
    }
    return config_claim_chardev(backend, error) == 0 ? 0 : error_prepend(error, "-%s %.100s: ", option, name);
}

static int options_apply_serial(struct options *options, const char *argument, struct error *error)
{
    char id[CHARDEV_ID_MAX];
    if (options->serial_count == OPTIONS_SERIALS_MAX) {
        return error_set(error, "-serial %s: the machine has %u serial ports", argument, OPTIONS_SERIALS_MAX);
    }
    snprintf(id, sizeof(id), "serial%u", options->serial_count);
    char *name = options->serial[options->serial_count++];
    if (strcmp(argument, "none") == 0) {
        strcpy(name, argument);
        return 0;
    }
    return options_name_chardev(options, "serial", argument, id, name, error);
}

static int options_apply_nographic(struct options *options, const char *argument, struct error *error)
{
    (void)options;
    (void)argument;
    (void)error;
    return 0; /* there is no display: the first serial port is on the terminal anyway */
}

static int options_apply_nodefaults(struct options *options, const char *argument, struct error *error)
{
    (void)argument;
    (void)error;
    options->no_defaults = true;
    return 0;
}

static int options_apply_no_reboot(struct options *options, const char *argument, struct error *error)
{
    (void)argument;
    (void)error;
    options->no_reboot = true;
    return 0;
}

static int options_expect_none(struct options *options, const char *argument, struct error *error)
{
    (void)options;
    return strcmp(argument, "none") == 0 ? 0 : error_set(error, "'%s' is not there; only 'none' is", argument);
}

static int options_apply_log_file(struct options *options, const char *argument, struct error *error)
{
    (void)error;
    options->log_file = argument;
    return 0;
}

static int options_apply_log_items(struct options *options, const char *argument, struct error *error)
{
    if (strcmp(argument, "help") == 0) {
        log_help();
        options->action = OPTIONS_DONE;
        return 0;
    }
    (void)error;
    options->log_items = argument;
    return 0;
}

static int options_apply_version(struct options *options, const char *argument, struct error *error)
{
    (void)argument;
    (void)error;
    options->action = OPTIONS_VERSION;
    return 0;
}

static int options_apply_help(struct options *options, const char *argument, struct error *error)
{
    (void)argument;
    (void)error;
    options->action = OPTIONS_HELP;
    return 0;
}

static const struct options_option {
    const char *name;
    const char *argument; /* what to call it in the help; NULL: takes none */
    const char *help;     /* NULL: another name of the row before */
    int (*apply)(struct options *options, const char *argument, struct error *error);
} options_table[] = {
    {"machine", "microvm|pc|q35[,PROP=VALUE...]", "the board (microvm); acpi=on|off, rtc=on|off|auto, hpet=on|off, i8042=on|off, mmu=ept|shadow, accel=NAME, pflash0=, pflash1=", options_apply_machine},
    {"M", "", NULL, options_apply_machine},
    {"accel", "soft|kvm|auto", "what runs the guest's processor (auto)", options_set_accel},
    {"enable-kvm", NULL, "the same as -accel kvm", options_enable_kvm},
    {"cpu", "MODEL[,+FEATURE|-FEATURE...]", "the processor (host); '-cpu help' lists models and features", options_apply_cpu},
    {"m", "SIZE[K|M|G]", "guest memory, in MiB without a suffix (128M)", options_apply_memory},
    {"mem-path", "PATH", "guest memory from a file, or from one without a name in a directory (hugetlbfs)", options_apply_mem_path},
    {"mem-prealloc", NULL, "allocate all guest memory at the start", options_apply_mem_prealloc},
    {"bios", "FILE", "firmware of machines pc and q35 (SeaBIOS, of Debian's package)", options_apply_bios},
    {"debugcon", "BACKEND", "where a debug port, 0x402, goes: the same as -device isa-debugcon,chardev=BACKEND", options_apply_debugcon},
    {"smp", "N[,maxcpus=,sockets=,dies=,cores=,threads=]", "processors (1), up to 64", options_apply_smp},
    {"rtc", "base=utc|localtime|DATE", "what the real-time clock says at the start (utc); DATE as 2006-06-17T16:01:21", options_apply_rtc},
    {"kernel", "FILE", "the kernel: bzImage, vmlinux, another ELF file with a PVH entry, or multiboot", options_apply_kernel},
    {"initrd", "FILE", "the initial RAM disk; of a multiboot kernel, its modules: \"FILE ARGS,FILE\"", options_apply_initrd},
    {"append", "TEXT", "the kernel's command line", options_apply_append},
    {"nographic", NULL, "no display; the serial port is on the terminal", options_apply_nographic},
    {"display", "none", "no display", options_expect_none},
    {"vga", "none", "no display", options_expect_none},
    {"net", "none", "no network", options_expect_none},
    {"nic", "none", "no network", options_expect_none},
    {"monitor", "none", "no monitor", options_expect_none},
    {"parallel", "none", "no parallel port", options_expect_none},
    {"serial", "stdio|mon:stdio|null|none|pty|file:PATH|pipe:PATH|unix:PATH|tcp:HOST:PORT|telnet:HOST:PORT|udp:HOST:PORT|chardev:ID",
     "where a serial port goes (mon:stdio); sockets take ,server=on,wait=off,nodelay=on,reconnect=SECONDS", options_apply_serial},
    {"device", "NAME[,PROP=VALUE...]|JSON", "adds a device; '-device help' lists them", options_apply_device},
    {"hda", "FILE", "a disk of the machine's own controller; raw, other formats by -drive. -hdb, -hdc, -hdd: the others", options_apply_hda},
    {"hdb", "", NULL, options_apply_hdb},
    {"hdc", "", NULL, options_apply_hdc},
    {"hdd", "", NULL, options_apply_hdd},
    {"cdrom", "FILE", "a CD-ROM in the third place of them", options_apply_cdrom},
    {"boot", "[order=]LETTERS[,once=LETTERS][,menu=on][,strict=on]", "what firmware boots from: c disk, d CD-ROM, n network; '-boot help'",
     options_apply_boot},
    {"drive", "file=FILE,format=FORMAT[,PROP=VALUE...]", "a disk image; '-drive help' lists properties", options_apply_drive},
    {"blockdev", "DRIVER,node-name=NAME[,PROP=VALUE...]", "a disk image for a -device's drive=", options_apply_blockdev},
    {"chardev", "null|stdio|file|pty|pipe|serial|socket|udp|ringbuf,id=NAME[,PROP=VALUE...]",
     "a backend for a device, or for -serial chardev:NAME; mux=on: for several; '-chardev help' lists kinds", options_apply_chardev},
    {"object", "TYPE,id=NAME[,PROP=VALUE...]", "what devices use; '-object help' lists types", options_apply_object},
    {"no-reboot", NULL, "leave when the guest resets itself", options_apply_no_reboot},
    {"nodefaults", NULL, "no serial port unless -serial asks for one", options_apply_nodefaults},
    {"no-user-config", NULL, "nothing: there are no configuration files", options_apply_nographic},
    {"name", "TEXT", "the guest's name", options_apply_name},
    {"D", "FILE", "write the log to a file", options_apply_log_file},
    {"d", "ITEM[,ITEM...]", "what to log; '-d help' lists items", options_apply_log_items},
    {"version", NULL, "the version", options_apply_version},
    {"help", NULL, "this help", options_apply_help},
    {"h", NULL, NULL, options_apply_help},
};

void options_help(void)
{
    puts("An image without an option, FILE[,PROP=VALUE...], is the machine's disk: -drive file=FILE,format=qcow2,if=virtio,discard=unmap. With one,\n"
         "what is not said is -machine " OPTIONS_IMAGE_MACHINE " -smp 2 -m 1G -device virtio-rng; or q35 with OVMF, if it has code for UEFI only. A raw\n"
         "image must say so: FILE,format=raw.\n"
         "\n"
         "Options:");
    for (unsigned i = 0; i < OPTIONS_ARRAY_SIZE(options_table); i++) {
        const struct options_option *option = &options_table[i];
        if (option->help != NULL) {
            printf("  -%s%s%s\n        %s\n", option->name, option->argument != NULL ? " " : "",
                   option->argument != NULL ? option->argument : "", option->help);
        }
    }
}

static const struct options_option *options_find(const char *name)
{
    for (unsigned i = 0; i < OPTIONS_ARRAY_SIZE(options_table); i++) {
        if (strcmp(options_table[i].name, name) == 0) {
            return &options_table[i];
        }
    }
    return NULL;
}

static void options_complete_defaults(struct options *options)
{
    static const struct cpu_topology none;
    bool image = options->image[0] != '\0';
    options->machine_said = options->machine != NULL;
    if (options->machine == NULL) {
        options->machine = image ? OPTIONS_IMAGE_MACHINE : "microvm";
    }
    if (options->ram_bytes == 0) {
        options->ram_bytes = image ? OPTIONS_IMAGE_RAM : OPTIONS_RAM_DEFAULT;
    }
    if (image && memcmp(&options->smp, &none, sizeof(none)) == 0) {
        options->smp.cpus = OPTIONS_IMAGE_CPUS;
    }
}

/* The terminal, if nothing else has it; else nowhere. */
static const char *options_default_serial(const struct options *options)
{
    for (unsigned i = 0; i < options->lists.chardev_count; i++) {
        if (chardev_config_is_stdio(&options->lists.chardevs[i]->config)) {
            return "null";
        }
    }
    return "mon:stdio";
}

/* What holds for the options together, and what stands where none was given. */
static int options_complete(struct options *options, struct error *error)
{
    options_complete_defaults(options);
    bool has_firmware = machine_find_board(options->machine)->has_firmware;
    if (options_complete_devices(options, error) != 0 || options->action != OPTIONS_RUN) {
        return options->action != OPTIONS_RUN ? 0 : -1;
    }
    if (options->kernel == NULL && !has_firmware) {
        return error_set(error, "no kernel to boot; name one with -kernel FILE");
    }
    if (options->bios != NULL && !has_firmware) {
        return error_set(error, "-bios: the machine %s has no firmware; pc and q35 have", options->machine);
    }
    if (topology_complete(&options->smp, error) != 0) {
        return -1;
    }
    if (options->serial_count == 0 && !options->no_defaults && options_apply_serial(options, options_default_serial(options), error) != 0) {
        return -1;
    }
    for (unsigned i = 0; i < options->serial_count; i++) {
        if (options_claim_chardev(options, "serial", options->serial[i], error) != 0) {
            return -1;
        }
    }
    return 0;
}

int options_parse(struct options *options, int count, char **words, struct error *error)
{
    memset(options, 0, sizeof(*options));
    *options = (struct options){
        .accel = "auto",
        .append = "",
        .mmu = -1,
        .acpi = true,
        .kernel_cmdline = true,
        .hpet = true,
        .i8042 = true,
    };
    options_default_boot(options);
    for (int i = 0; i < count && options->action == OPTIONS_RUN; i++) {
        const char *word = words[i];
        if (word[0] != '-') {
            if (options_apply_image(options, word, error) != 0) {
                return -1;
            }
            continue;
        }
        const struct options_option *option = options_find(word + (word[1] == '-' ? 2 : 1));
        if (option == NULL) {
            return error_set(error, "%s: no such option; 'kage help' lists them", word);
        }
        const char *argument = NULL;
        if (option->argument != NULL) {
            if (i + 1 == count) {
                return error_set(error, "%s: needs an argument", word);
            }
            argument = words[++i];
        }
        if (option->apply(options, argument, error) != 0) {
            return -1;
        }
    }
    return options->action == OPTIONS_RUN ? options_complete(options, error) : 0;
}

void options_fini(struct options *options)
{
    config_fini(&options->lists);
}
