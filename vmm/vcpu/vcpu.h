/* SPDX-License-Identifier: MIT */
/*
 * A virtual processor: a vCPU of the KVM API and the host thread that runs it. The thread leaves KVM_RUN
 * with an exit, serves it from the buses, and goes on, until somebody asks it to stop.
 */
#ifndef KAGE_VCPU_VCPU_H
#define KAGE_VCPU_VCPU_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <kage.h>

#include "bus/bus.h"
#include "util/error.h"
#include "vcpu/cpuid.h"
#include "vcpu/state.h"

#define VCPU_EXIT_REASONS 40u

/* Where vCPUs stand while the machine is stopped. Each that comes in adds 1 to `event_fd`. */
struct vcpu_gate {
    pthread_mutex_t lock;
    pthread_cond_t opened;
    unsigned parked;
    int event_fd;
};

struct vcpu {
    const struct kvm_backend *backend;
    int fd;
    struct kvm_run *run;
    size_t run_bytes;
    struct bus *pio;
    struct bus *mmio;
    struct power power;
    pthread_t thread;
    bool started;
    atomic_bool stopping;
    atomic_bool parking; /* changes with the gate's lock */
    struct vcpu_gate *gate;
    struct error error; /* why it gave up; read it after vcpu_stop() */
    uint64_t exits[VCPU_EXIT_REASONS];
};

struct vcpu_config {
    const struct kvm_backend *backend;
    int system_fd;
    int vm_fd;
    unsigned index;
    const struct cpu_model *model;
    const struct cpu_topology *topology;
    struct bus *pio;
    struct bus *mmio;
    struct power power;
    struct vcpu_gate *gate;
};

int vcpu_init(struct vcpu *vcpu, const struct vcpu_config *config, struct error *error);
void vcpu_fini(struct vcpu *vcpu);

/* Starts the thread; 0 or -1. vcpu_stop() waits for its end. */
int vcpu_start(struct vcpu *vcpu, struct error *error);
void vcpu_stop(struct vcpu *vcpu);
/* Asks the thread to end, without waiting. From any thread, its own too. */
void vcpu_request_stop(struct vcpu *vcpu);

void vcpu_gate_init(struct vcpu_gate *gate, int event_fd);
void vcpu_gate_fini(struct vcpu_gate *gate);
/* With the gate's lock, from any thread: asks the vCPU to leave the guest and stand at the gate; lets all go on. */
void vcpu_request_park(struct vcpu *vcpu);
void vcpu_gate_open(struct vcpu_gate *gate, struct vcpu *vcpus, unsigned count);

/* Registers into the log (LOG_RESET). Not while the thread runs. */
void vcpu_log_registers(const struct vcpu *vcpu);
/* Counts of exits into the log (LOG_EXITS), after the thread has stopped. */
void vcpu_log_exits(const struct vcpu *vcpu);

/* ---- Exits (exits.c) ---- */

enum vcpu_next { VCPU_GO_ON, VCPU_STOP };

/* Serves the exit that `vcpu->run` describes. */
enum vcpu_next vcpu_handle_exit(struct vcpu *vcpu);
const char *vcpu_exit_name(unsigned reason);

#endif
