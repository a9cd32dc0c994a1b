/* SPDX-License-Identifier: MIT */
/* Several processors: see smp.h. */
#include "smp.h"

#define WAIT_CYCLES 20000000000ull /* some seconds, on any host in question */
#define ICR_INIT 0x4500u
#define ICR_SIPI 0x4600u

extern const uint8_t ap_begin[], ap_end[];
extern uint32_t ap_cr3;

volatile unsigned cpu_count = 1;
volatile struct ap_report ap_report[CPUS_MAX];
volatile unsigned ap_starts[CPUS_MAX];

_Static_assert(sizeof(struct ap_report) == 20, "as in smp.S");

static struct box {
    cpu_fn *fn;
    uint64_t arg;
    volatile unsigned given, done;
} __attribute__((aligned(64))) boxes[CPUS_MAX];

void ap_main(unsigned cpu);

unsigned this_cpu(void)
{
    return cpuid(1, 0).b >> 24;
}

bool wait_for(const volatile unsigned *word, unsigned value)
{
    uint64_t end = rdtsc() + WAIT_CYCLES;
    while (*word < value) {
        if (rdtsc() > end)
            return false;
        cpu_pause();
    }
    return true;
}

void smp_place_trampoline(uint64_t gpa)
{
    ap_cr3 = (uint32_t)read_cr3();
    memcpy((void *)gpa, ap_begin, (size_t)(ap_end - ap_begin));
}

void smp_send_init(unsigned cpu)
{
    apic_icr(cpu, ICR_INIT);
}

void smp_send_sipi(unsigned cpu, uint64_t gpa)
{
    apic_icr(cpu, ICR_SIPI | (uint32_t)(gpa >> 12));
}

unsigned smp_start(unsigned wanted, bool x2)
{
    apic_enable(x2);
    smp_place_trampoline(AP_GPA);
    for (unsigned cpu = 1; cpu < wanted; cpu++) {
        unsigned before = ap_starts[cpu];
        smp_send_init(cpu);
        smp_send_sipi(cpu, AP_GPA);
        if (!wait_for(&ap_starts[cpu], before + 1))
            break;
        cpu_count = cpu + 1;
    }
    return cpu_count;
}

/* A processor's life: it waits for something to do, at first spinning, then halted. */
void ap_main(unsigned cpu)
{
    struct box *box = &boxes[cpu];
    const struct table_ptr p = {sizeof idt - 1, (uint64_t)idt};

    asm volatile("lidt %0" ::"m"(p));
    apic_enable(apic_x2);
    box->done = box->given;
    __atomic_add_fetch(&ap_starts[cpu], 1, __ATOMIC_SEQ_CST);
    for (;;) {
        unsigned given = __atomic_load_n(&box->given, __ATOMIC_ACQUIRE);
        if (given == box->done) {
            cpu_pause();
            continue;
        }
        box->fn(cpu, box->arg);
        __atomic_store_n(&box->done, given, __ATOMIC_RELEASE);
    }
}

void cpu_begin(unsigned cpu, cpu_fn *fn, uint64_t arg)
{
    struct box *box = &boxes[cpu];
    box->fn = fn;
    box->arg = arg;
    __atomic_store_n(&box->given, box->given + 1, __ATOMIC_RELEASE);
}

bool cpu_finished(unsigned cpu)
{
    return __atomic_load_n(&boxes[cpu].done, __ATOMIC_ACQUIRE) == boxes[cpu].given;
}

bool cpu_wait(unsigned cpu)
{
    return wait_for(&boxes[cpu].done, boxes[cpu].given);
}

bool cpus_run(cpu_fn *fn, uint64_t arg)
{
    bool ok = true;
    for (unsigned cpu = 1; cpu < cpu_count; cpu++)
        cpu_begin(cpu, fn, arg);
    fn(0, arg);
    for (unsigned cpu = 1; cpu < cpu_count; cpu++)
        ok &= cpu_wait(cpu);
    return ok;
}
