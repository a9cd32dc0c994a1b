/* SPDX-License-Identifier: MIT */
/*
 * Signals, as kvm/ sees them: which thread runs a vCPU, and whether a signal must end its KVM_RUN.
 */
#ifndef KAGE_CPU_SIGNAL_H
#define KAGE_CPU_SIGNAL_H

#include <signal.h>

#include "cpu/cpu.h"

/* The calling thread is in KVM_RUN for this vCPU: it gets an alternate signal stack, and handlers that the client installed are wrapped. */
void cpu_signal_attach_thread(struct cpu *cpu);
/* Signals of the calling thread end this vCPU's KVM_RUN: a thread may run several in turns. */
bool cpu_signal_is_attached(const struct cpu *cpu);
/* The vCPU is going away, or the thread ends. */
void cpu_signal_detach_thread(struct cpu *cpu);
/* Around KVM_RUN on the attached thread: whose alternate signal stack is in place. */
void cpu_signal_begin_run(void);
void cpu_signal_end_run(void);
/* True, once, if a signal was handled on the vCPU's thread since the last call: KVM_RUN ends with EINTR. */
bool cpu_signal_pending(struct cpu *cpu);
/*
 * Around KVM_RUN with a mask of KVM_SET_SIGNAL_MASK. A signal that is blocked outside and not by the mask ends KVM_RUN and stays pending, its
 * handler not run, for sigtimedwait(2).
 */
void cpu_signal_enter_mask(const sigset_t *mask, sigset_t *outside);
void cpu_signal_leave_mask(const sigset_t *outside);

/* ---- What include/kage.h says of a client's signals: 0 or -errno ---- */

int cpu_signal_action(int sig, const struct sigaction *action, struct sigaction *old);
int cpu_signal_mask(int how, const sigset_t *set, sigset_t *old);
int cpu_signal_stack(const stack_t *stack, stack_t *old);
typedef bool cpu_fault_fn(int sig, siginfo_t *info, void *context);
int cpu_signal_set_fault_handler(cpu_fault_fn *fn);

#endif
