/* SPDX-License-Identifier: MIT */
/*
 * Several processors: started by INIT and SIPI, then each calls what it is given. Processor 0 runs the test and alone reports.
 * A processor's number is its APIC ID; IDT, GDT and page tables are shared, the stack is its own.
 */
#ifndef GUEST_SMP_H
#define GUEST_SMP_H

#include "guest.h"

#define CPUS_MAX 16u
#define AP_GPA 0x9000ull /* where the others start: SIPI vector 9 */
#define AP_GPA_OTHER 0xa000ull

typedef void cpu_fn(unsigned cpu, uint64_t arg);

extern volatile unsigned cpu_count; /* that run, the first included */

struct ap_report {
    uint16_t cs, ds, ss;
    uint16_t unused;
    uint32_t cr0, edx, eflags;
};
extern volatile struct ap_report ap_report[CPUS_MAX]; /* what the processor found in real mode */
extern volatile unsigned ap_starts[CPUS_MAX];

unsigned this_cpu(void);
/* Enables the local APIC and starts all processors that CPUID or `wanted` say; how many run then. */
unsigned smp_start(unsigned wanted, bool x2);
void smp_send_init(unsigned cpu);
void smp_send_sipi(unsigned cpu, uint64_t gpa);
void smp_place_trampoline(uint64_t gpa);

void cpu_begin(unsigned cpu, cpu_fn *fn, uint64_t arg); /* another one: goes on at once */
bool cpu_finished(unsigned cpu);
bool cpu_wait(unsigned cpu);              /* false: not within some seconds */
bool cpus_run(cpu_fn *fn, uint64_t arg);  /* on all, this one included */

/* Spins until *word >= value; false after some seconds. */
bool wait_for(const volatile unsigned *word, unsigned value);
static inline void cpu_pause(void) { asm volatile("pause" ::: "memory"); }
static inline void serialize(void) { cpuid(0, 0); }

#endif
