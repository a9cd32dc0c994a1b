/* SPDX-License-Identifier: MIT */
/*
 * Puts together what a run needs (log, loop, back end, character backends, signals, terminal), then
 * builds machines of the same configuration until one does not end in a reset.
 */
#include "cli/run.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "cli/run_image.h"
#include "cli/terminal.h"
#include "display/input.h"
#include "inspect/server.h"
#include "machine/machine.h"
#include "util/log.h"

struct run {
    struct options *options;
    struct loop loop;
    struct loop_source signals;
    struct terminal_keys *keys; /* one for each mux */
    struct inspect_server inspect; /* `kage inspect` */
    struct machine_config config;
    struct machine machine;
    struct run_watch watch; /* says that the machine has stopped, or goes on */
    bool machine_up;
    bool quit; /* somebody outside has asked for the end */
    char reason[200];
};

static void run_quit(void *opaque)
{
    struct run *run = opaque;
    run->quit = true;
    if (run->machine_up) {
        machine_request(&run->machine, POWER_QUIT, 0);
    }
}

/* ---- Stopping and going on ---- */

static void run_changed(void *opaque, bool running)
{
    struct run *run = opaque;
    const char *text;
    enum run_state state = machine_run_state(&run->machine, &text);
    if (running) {
        fputs("kage: the machine goes on\r\n", stderr);
    } else if (state == RUN_STATE_IO_ERROR) {
        fprintf(stderr, "kage: the machine has stopped (%s): %s; Ctrl-a p or SIGCONT to process %d tries again\r\n", run_state_name(state), text,
                (int)getpid());
    } else {
        fprintf(stderr, "kage: the machine has stopped (%s); Ctrl-a p lets it go on\r\n", run_state_name(state));
    }
}

static void run_pause(void *opaque)
{
    struct run *run = opaque;
    if (!run->machine_up) {
        return;
    }
    if (machine_run_state(&run->machine, NULL) == RUN_STATE_RUNNING) {
        machine_stop(&run->machine, RUN_STATE_PAUSED, "by a key");
    } else {
        machine_cont(&run->machine);
    }
}

static void run_power_button(void *opaque)
{
    struct run *run = opaque;
    if (!run->machine_up) {
        return;
    }
    bool heard = run->machine.acpi_pm_present && acpi_pm_power_button(&run->machine.acpi_pm);
    fprintf(stderr, "\r\nkage: the power button is pressed%s\r\n", heard ? "" : ", but the guest does not listen to it; Ctrl-a x ends the VM at once");
}

/* ---- Signals ---- */

static void run_suspend(void)
{
    terminal_restore();
    raise(SIGSTOP); /* goes on here when somebody continues the process */
    terminal_resume();
}

static void run_signal_ready(void *opaque, uint32_t events)
{
    struct run *run = opaque;
    struct signalfd_siginfo info;
    (void)events;
    if (read(run->signals.fd, &info, sizeof(info)) != sizeof(info)) {
        return;
    }
    if (info.ssi_signo == SIGTSTP) {
        run_suspend();
    } else if (info.ssi_signo == SIGCONT) {
        terminal_resume();
        if (run->machine_up && machine_run_state(&run->machine, NULL) == RUN_STATE_IO_ERROR) {
            machine_cont(&run->machine);
        }
    } else {
        fprintf(stderr, "kage: ended by signal %u\n", info.ssi_signo);
        run_quit(run);
    }
}

/* Blocked from here on, and served by the loop; threads that start later inherit that. */
static int run_init_signals(struct run *run, struct error *error)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGTSTP);
    sigaddset(&set, SIGCONT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    run->signals = (struct loop_source){.fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK), .ready = run_signal_ready, .opaque = run};
    int result = run->signals.fd < 0 ? -errno : loop_add(&run->loop, &run->signals, EPOLLIN);
    return result == 0 ? 0 : error_set(error, "cannot take signals: %s", strerror(-result));
}

/* ---- Parts ---- */

static void run_engine_log(void *opaque, enum kage_log_level level, const char *message)
{
    (void)opaque;
    (void)level;
    log_line(LOG_ENGINE, "%s", message);
}

static int run_init_log(const struct options *options, struct error *error)
{
    if (options->log_items != NULL && log_enable(options->log_items, error) != 0) {
        return -1;
    }
    if (options->log_file != NULL && log_open(options->log_file, error) != 0) {
        return -1;
    }
    if (log_on(LOG_ENGINE)) {
        kage_set_log(run_engine_log, NULL, KAGE_LOG_DEBUG);
    }
    return 0;
}

static int run_choose_backend(struct run *run, struct error *error)
{
    const char *accel = run->options->accel;
    if (strcmp(accel, "auto") == 0) {
        run->config.backend = kage_backend_auto(run->reason, sizeof(run->reason));
        return 0;
    }
    snprintf(run->reason, sizeof(run->reason), "asked for by -accel");
    run->config.backend = kage_backend_find(accel);
    return run->config.backend != NULL ? 0 : error_set(error, "-accel %s: not there in this build", accel);
}

/* A mux has escape keys of its own. */
static int run_watch_keys(struct run *run, struct chardev *backend, struct error *error)
{
    if (!chardev_is_mux(backend)) {
        return 0;
    }
    struct terminal_keys *keys = calloc(1, sizeof(*keys));
    if (keys == NULL) {
        return error_set(error, "out of memory");
    }
    *keys = (struct terminal_keys){
        .backend = backend, .quit = run_quit, .pause = run_pause, .power_button = run_power_button, .opaque = run, .next = run->keys};
    run->keys = keys;
    chardev_set_filter(backend, terminal_filter, keys);
    return 0;
}

static int run_open_chardevs(struct run *run, struct error *error)
{
    for (unsigned i = 0; i < run->options->lists.chardev_count; i++) {
        struct chardev_backend *backend = run->options->lists.chardevs[i];
        backend->chardev = chardev_open(&backend->config, &run->loop, error);
        if (backend->chardev == NULL) {
            return error_prepend(error, "%.100s: ", backend->config.id);
        }
        if (run_watch_keys(run, backend->chardev, error) != 0) {
            return -1;
        }
    }
    return 0;
}

/* The front end of the backend of that id; NULL where it is "" or "none", or with `error` filled. */
static struct chardev *run_claim(struct run *run, const char *id, struct error *error)
{
    struct chardev_backend *backend = config_find_chardev(run->config.lists, id);
    return backend != NULL ? chardev_claim(backend->chardev, error) : NULL;
}

static int run_init_serials(struct run *run, struct error *error)
{
    const struct options *options = run->options;
    run->config.serial_count = options->serial_count;
    for (unsigned i = 0; i < options->serial_count; i++) {
        run->config.serial[i] = run_claim(run, options->serial[i], error);
        if (run->config.serial[i] == NULL && strcmp(options->serial[i], "none") != 0) {
            return -1;
        }
    }
    return 0;
}

static int run_init_debugcon(struct run *run, struct error *error)
{
    const char *id = "";
    for (unsigned i = 0; i < run->options->lists.device_count; i++) {
        const struct device_spec *device = run->options->lists.devices[i];
        id = device->model->configure != NULL && device->values.chardev[0] != '\0' ? device->values.chardev : id;
    }
    run->config.debugcon = run_claim(run, id, error);
    return run->config.debugcon != NULL || id[0] == '\0' || strcmp(id, "none") == 0 ? 0 : -1;
}

/* Images, each opened once; what a node took over from another is opened as that node's. */
static int run_open_drives(struct run *run, struct error *error)
{
    for (unsigned i = 0; i < run->config.lists->drive_count; i++) {
        struct drive *drive = run->config.lists->drives[i];
        bool flash = false;
        for (unsigned unit = 0; unit < MACHINE_FLASHES_MAX; unit++) {
            flash = flash || run->config.flash[unit] == drive;
        }
        if (!config_drive_taken(drive) && drive_open(drive, flash ? NULL : &run->loop, error) != 0) {
            return -1;
        }
    }
    return 0;
}

static void run_configure_devices(struct run *run)
{
    for (unsigned i = 0; i < run->config.lists->device_count; i++) {
        const struct device_spec *spec = run->config.lists->devices[i];
        if (spec->model->configure != NULL) {
            spec->model->configure(&run->config, spec);
        }
    }
}

static void run_take_terminal(const struct options *options)
{
    for (unsigned i = 0; i < options->lists.chardev_count; i++) {
        const struct chardev_config *config = &options->lists.chardevs[i]->config;
        if (chardev_config_is_stdio(config)) {
            terminal_take(config->signal);
        }
    }
}

static void run_fini(struct run *run)
{
    config_fini(run->config.lists);
    while (run->keys != NULL) {
        struct terminal_keys *next = run->keys->next;
        free(run->keys);
        run->keys = next;
    }
    input_hub_free(run->config.input);
    if (run->signals.fd >= 0) {
        loop_remove(&run->loop, &run->signals);
        close(run->signals.fd);
    }
    loop_fini(&run->loop);
    log_close();
}

/* ---- Machines ---- */


/* One machine, from power on to whatever ends it. */
static enum power_event run_once(struct run *run, bool first, int *status, struct error *error)
{
    if (machine_init(&run->machine, &run->config, error) != 0) {
        return POWER_ERROR;
    }
    if (first) {
        run_take_terminal(run->options);
        fprintf(stderr, "kage: accelerator %s: %s\n", run->config.backend->name, run->reason);
        run_image_greet(run->options);
    }
    run->machine_up = true;
    enum power_event event = machine_run(&run->machine, status, error);
    run->machine_up = false;
    machine_fini(&run->machine);
    return event;
}

static int run_until_end(struct run *run, struct error *error)
{
    int status = 0;
    enum power_event event = run_once(run, true, &status, error);
    run->config.boot_order = run->options->boot.order;
    while (event == POWER_RESET && !run->options->no_reboot && !run->quit) {
        event = run_once(run, false, &status, error);
    }
    return event == POWER_ERROR ? -1 : event == POWER_EXIT ? status : 0;
}

int run_machine(struct options *options, struct error *error)
{
    if (run_image_choose(options, error) != 0) {
        return -1;
    }
    struct run run = {
        .options = options,
        .signals.fd = -1,
        .config =
            {
                .ram_bytes = options->ram_bytes,
                .ram_backing = options->ram_backing,
                .cpu_model = options->cpu_model,
                .smp = options->smp,
                .kernel = options->kernel,
                .initrd = options->initrd,
                .cmdline = options->append,
                .acpi = options->acpi,
                .rtc = options->rtc,
                .rtc_offset_seconds = options->rtc_offset_seconds,
                .board = machine_find_board(options->machine),
                .boot_order = options->boot.once[0] != '\0' ? options->boot.once : options->boot.order,
                .boot_menu = options->boot.menu,
                .boot_strict = options->boot.strict,
                .boot_menu_wait = (int)options->boot.menu_wait,
                .boot_fail_wait = (int)options->boot.fail_wait,
                .mmu = options->mmu,
                .bios = options->bios,
                .flash = {options->flash[0], options->flash[1]},
                .hpet = options->hpet,
                .i8042 = options->i8042,
                .kernel_cmdline = options->kernel_cmdline,
                .lists = &options->lists,
            },
    };
    run.config.loop = &run.loop;
    run_configure_devices(&run);
    run.watch = (struct run_watch){.changed = run_changed, .opaque = &run};
    run.config.run_watch = &run.watch;
    if (run_init_log(options, error) != 0) {
        return -1;
    }
    int result = loop_init(&run.loop);
    if (result != 0) {
        log_close();
        return error_set(error, "cannot make the main loop: %s", strerror(-result));
    }
    run.config.input = input_hub_new(&run.loop, error);
    if (run.config.input == NULL) {
        loop_fini(&run.loop);
        log_close();
        return -1;
    }
    /* Signals last: until then they end the process, which may be waiting for a socket's client. */
    result = run_choose_backend(&run, error);
    if (result == 0) {
        result = run_open_chardevs(&run, error);
    }
    if (result == 0) {
        result = run_init_serials(&run, error);
    }
    if (result == 0) {
        result = run_init_debugcon(&run, error);
    }
    if (result == 0) {
        result = run_open_drives(&run, error);
    }
    if (result == 0) {
        result = run_init_signals(&run, error);
    }
    if (result == 0) {
        inspect_server_start(&run.inspect);
        result = run_until_end(&run, error);
        inspect_server_stop(&run.inspect);
    }
    run_fini(&run);
    terminal_restore();
    return result;
}
