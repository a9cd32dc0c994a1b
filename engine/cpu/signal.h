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
/* The vCPU is going away, or the thread ends. */
void cpu_signal_detach_thread(struct cpu *cpu);
/* True, once, if a signal was handled on the vCPU's thread since the last call: KVM_RUN ends with EINTR. */
bool cpu_signal_pending(struct cpu *cpu);
/* Sets the calling thread's signal mask (KVM_SET_SIGNAL_MASK, while in KVM_RUN). */
void cpu_signal_set_mask(struct cpu *cpu, const sigset_t *mask);

#endif
