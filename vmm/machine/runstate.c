/* SPDX-License-Identifier: MIT */
#include "machine/runstate.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "machine/machine.h"

const char *run_state_name(enum run_state state)
{
    static const char *const names[RUN_STATES] = {
        [RUN_STATE_PRELAUNCH] = "prelaunch",
        [RUN_STATE_RUNNING] = "running",
        [RUN_STATE_PAUSED] = "paused",
        [RUN_STATE_IO_ERROR] = "io-error",
    };
    return state < RUN_STATES ? names[state] : "internal-error";
}

/* ---- The guest's clock stands while its vCPUs do (kvm-clock: api.rst 4.30, 4.31) ---- */

static void runstate_keep_clock(struct machine *machine)
{
    struct runstate *run = &machine->run;
    memset(&run->clock, 0, sizeof(run->clock));
    run->clock_kept = machine->config->backend->ioctl(machine->vm_fd, KVM_GET_CLOCK, &run->clock) == 0;
}

static void runstate_set_clock(struct machine *machine)
{
    struct runstate *run = &machine->run;
    const struct kvm_backend *backend = machine->config->backend;
    if (run->clock_kept) {
        struct kvm_clock_data clock = {.clock = run->clock.clock};
        backend->ioctl(machine->vm_fd, KVM_SET_CLOCK, &clock);
    }
    for (unsigned i = 0; i < machine->vcpu_count; i++) { /* no lockup is to be reported; a guest without kvm-clock has none to tell */
        backend->ioctl(machine->vcpus[i].fd, KVM_KVMCLOCK_CTRL, NULL);
    }
}

/* ---- Changes ---- */

static void runstate_tell(struct runstate *run, bool running)
{
    for (struct run_watch *watch = run->watchers, *next; watch != NULL; watch = next) {
        next = watch->next;
        watch->changed(watch->opaque, running);
    }
}

/* The last vCPU has parked. */
static void runstate_parked(void *opaque, uint32_t events)
{
    struct machine *machine = opaque;
    struct runstate *run = &machine->run;
    uint64_t count;
    (void)events;
    ssize_t got = read(run->parked.fd, &count, sizeof(count));
    (void)got; /* an empty eventfd: it has been seen already */
    pthread_mutex_lock(&run->gate.lock);
    bool stopped = run->wanted != RUN_STATE_RUNNING && run->state == RUN_STATE_RUNNING && run->gate.parked == machine->vcpu_count;
    if (stopped) {
        run->state = run->wanted;
    }
    bool go_on = stopped && run->cont_wanted;
    run->cont_wanted = false;
    pthread_mutex_unlock(&run->gate.lock);
    if (stopped) {
        runstate_keep_clock(machine);
        runstate_tell(run, false);
    }
    if (go_on) {
        machine_cont(machine);
    }
}

/* With the lock. Those that have not left the gate since the last stop do not come in again. */
static void runstate_park(struct machine *machine)
{
    for (unsigned i = 0; i < machine->vcpu_count; i++) {
        vcpu_request_park(&machine->vcpus[i]);
    }
    if (machine->run.gate.parked == machine->vcpu_count) {
        eventfd_write(machine->run.parked.fd, 1);
    }
}

void machine_stop(struct machine *machine, enum run_state state, const char *text)
{
    struct runstate *run = &machine->run;
    pthread_mutex_lock(&run->gate.lock);
    if (run->wanted == run->state && run->state <= RUN_STATE_RUNNING) {
        run->wanted = state;
        snprintf(run->text, sizeof(run->text), "%s", text);
        if (run->state == RUN_STATE_RUNNING) {
            runstate_park(machine);
        }
    }
    pthread_mutex_unlock(&run->gate.lock);
}

void machine_cont(struct machine *machine)
{
    struct runstate *run = &machine->run;
    pthread_mutex_lock(&run->gate.lock);
    bool stopped = run->state != RUN_STATE_RUNNING && run->state != RUN_STATE_PRELAUNCH;
    run->cont_wanted = !stopped && run->wanted != RUN_STATE_RUNNING;
    if (stopped) {
        runstate_set_clock(machine);
        run->state = run->wanted = RUN_STATE_RUNNING;
        vcpu_gate_open(&run->gate, machine->vcpus, machine->vcpu_count);
    }
    pthread_mutex_unlock(&run->gate.lock);
    if (stopped) {
        runstate_tell(run, true);
    }
}

enum run_state machine_run_state(const struct machine *machine, const char **text)
{
    if (text != NULL) {
        *text = machine->run.text;
    }
    return machine->run.state;
}

/* ---- What devices see ---- */

static void runstate_stop(void *opaque, enum run_state state, const char *text)
{
    machine_stop(opaque, state, text);
}

static void runstate_watch(void *opaque, struct run_watch *watch)
{
    struct machine *machine = opaque;
    watch->next = machine->run.watchers;
    machine->run.watchers = watch;
}

static void runstate_unwatch(void *opaque, struct run_watch *watch)
{
    struct machine *machine = opaque;
    struct run_watch **link = &machine->run.watchers;
    while (*link != NULL && *link != watch) {
        link = &(*link)->next;
    }
    if (*link != NULL) {
        *link = watch->next;
    }
}

/* ---- Life ---- */

int runstate_init(struct machine *machine)
{
    struct runstate *run = &machine->run;
    run->control = (struct run_control){.stop = runstate_stop, .watch = runstate_watch, .unwatch = runstate_unwatch, .opaque = machine};
    run->parked = (struct loop_source){.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .ready = runstate_parked, .opaque = machine};
    vcpu_gate_init(&run->gate, run->parked.fd);
    if (run->parked.fd < 0) {
        return -errno;
    }
    return loop_add(machine->config->loop, &run->parked, EPOLLIN);
}

void runstate_fini(struct machine *machine)
{
    struct runstate *run = &machine->run;
    if (run->parked.fd >= 0) {
        loop_remove(machine->config->loop, &run->parked);
        close(run->parked.fd);
        run->parked.fd = -1;
    }
    vcpu_gate_fini(&run->gate);
}

void runstate_started(struct machine *machine)
{
    struct runstate *run = &machine->run;
    pthread_mutex_lock(&run->gate.lock);
    bool stop = run->wanted != RUN_STATE_PRELAUNCH; /* a vCPU that had started has met an error already */
    run->state = RUN_STATE_RUNNING;
    if (stop) {
        runstate_park(machine);
    } else {
        run->wanted = RUN_STATE_RUNNING;
    }
    pthread_mutex_unlock(&run->gate.lock);
}
