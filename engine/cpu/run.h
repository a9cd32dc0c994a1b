/* SPDX-License-Identifier: MIT */
/*
 * Between run.c, the thunks and the signal handler: what translated code calls, and the way out
 * after a host fault. Not for other parts of the engine.
 */
#ifndef KAGE_CPU_RUN_H
#define KAGE_CPU_RUN_H

#include "cpu/cpu.h"

/* The bits of an address that index the jump cache. */
#define JUMP_MASK ((uint64_t)(JUMP_CACHE_SIZE - 1) << 1)

struct slow_desc;
struct helper_site;
struct jump_site;

/* Each returns the host code to go on at, or NULL to leave for the run loop. */
const void *cpu_slow_access(struct cpu *cpu, const struct slow_desc *d);
const void *cpu_slow_commit(struct cpu *cpu, const struct slow_desc *d);
const void *cpu_call_helper(struct cpu *cpu, const struct helper_site *s);
const void *cpu_jump_miss(struct cpu *cpu, const struct jump_site *s);

void cpu_leave_after_fault(void);

/* Does what CPU_REQ_TLB_FLUSH asks for, by the vCPU's own thread. */
void cpu_flush_if_asked(struct cpu *cpu);

/* breakpoints.c: true if an instruction breakpoint stops the instruction at RIP; #DB is recorded */
bool cpu_stopped_by_breakpoint(struct cpu *cpu);

/* fpu.c */
uint64_t cpu_host_xcr0(void);
KAGE_MUST_CHECK int cpu_fpu_init(struct cpu *cpu);
void cpu_fpu_fini(struct cpu *cpu);
void cpu_fpu_reset(struct cpu *cpu);

/* signal.c */
KAGE_MUST_CHECK int cpu_signal_init(void); /* idempotent; puts the handlers of faults (back) in place */
void cpu_signal_enter(struct cpu *cpu);    /* this thread runs cpu's translated code from here */
void cpu_signal_leave(struct cpu *cpu);

#endif
