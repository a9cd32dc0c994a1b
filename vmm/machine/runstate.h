/* SPDX-License-Identifier: MIT */
/*
 * Whether a machine runs, and why it does not. A stop is asked for from anywhere and takes effect when the last vCPU has left the guest; that
 * is announced on the main loop's thread. Nobody waits for it: a vCPU may be inside of a device's reset, which needs the loop.
 *
 *   RUNNING --stop(why)--> each vCPU parks --the last one--> loop: clock kept, state = why, watchers
 *   why     --cont-------> loop: clock set, state = RUNNING, watchers (disks submit what waits), vCPUs go on
 */
#ifndef KAGE_MACHINE_RUNSTATE_H
#define KAGE_MACHINE_RUNSTATE_H

#include <pthread.h>
#include <stdbool.h>

#include <linux/kvm.h>

#include "dev/device.h"
#include "util/loop.h"
#include "vcpu/vcpu.h"

#define RUNSTATE_TEXT_MAX 200u

struct machine;

struct runstate {
    struct run_control control; /* what devices get */
    struct vcpu_gate gate;      /* where vCPUs park; its lock guards what follows */
    enum run_state state;       /* changes on the loop's thread only */
    enum run_state wanted;
    bool cont_wanted;           /* asked for before the stop had taken effect */
    char text[RUNSTATE_TEXT_MAX];
    struct loop_source parked; /* an eventfd */
    struct run_watch *watchers;
    struct kvm_clock_data clock; /* of the stopped guest */
    bool clock_kept;
};

/* "running", "paused", "io-error", …: QMP's words. */
const char *run_state_name(enum run_state state);

/* On the loop's thread. 0 or -errno. */
int runstate_init(struct machine *machine);
void runstate_fini(struct machine *machine);
/* The vCPUs have started. */
void runstate_started(struct machine *machine);

/* QMP's stop and cont. stop: from any thread; cont: on the loop's. The second is nothing where the machine runs, and a stop that has not
   taken effect yet is let happen, and be over. */
void machine_stop(struct machine *machine, enum run_state state, const char *text);
void machine_cont(struct machine *machine);
/* What holds now, on the loop's thread. `text`, if not NULL: why, until the next change. */
enum run_state machine_run_state(const struct machine *machine, const char **text);

#endif
