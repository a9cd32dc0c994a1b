/* SPDX-License-Identifier: MIT */
/*
 * Several processors: start by INIT and SIPI, interprocessor interrupts of all kinds, halts and wake-ups, locks in loops of PAUSE,
 * the TSC on all of them, and what a guest of KVM asks for by hypercalls and steal time.
 */
#include "smp.h"

#define VEC_PING 0x61u
#define VEC_WAKE 0x62u
#define VEC_BROADCAST 0x63u
#define CPUS ((unsigned)(guest_arg >> 16 & 0xff)) /* of the index: how many there are */

static volatile unsigned seen[CPUS_MAX]; /* interrupts, by processor */
static volatile unsigned spins[CPUS_MAX];
static volatile unsigned stop;

static void count_here(struct frame *f)
{
    (void)f;
    seen[this_cpu()]++;
    apic_write(APIC_EOI, 0);
}

static void clear_seen(void)
{
    for (unsigned i = 0; i < CPUS_MAX; i++)
        seen[i] = 0;
}

static unsigned seen_sum(void)
{
    unsigned sum = 0;
    for (unsigned i = 0; i < CPUS_MAX; i++)
        sum += seen[i];
    return sum;
}

/* ---- start ---- */

static void spin(unsigned cpu, uint64_t arg)
{
    (void)arg;
    while (!stop)
        spins[cpu]++;
}

static volatile uint32_t id_seen[CPUS_MAX], x2_seen[CPUS_MAX];
static volatile uint64_t base_seen[CPUS_MAX];

static void look_at_ids(unsigned cpu, uint64_t arg)
{
    (void)arg;
    id_seen[cpu] = apic_read(APIC_ID) >> 24;
    x2_seen[cpu] = cpuid(0xb, 0).d;
    base_seen[cpu] = rdmsr(MSR_APIC_BASE);
}

static void test_start(void)
{
    bool ok_id = true, ok_x2 = true, ok_bsp = true, ok_state = true;

    check_eq(smp_start(CPUS, false), CPUS, "all-start");
    check(cpus_run(look_at_ids, 0), "all-answer");
    for (unsigned i = 0; i < cpu_count; i++) {
        ok_id &= id_seen[i] == i;
        ok_x2 &= x2_seen[i] == i;
        ok_bsp &= ((base_seen[i] & 0x100) != 0) == (i == 0);
    }
    check(ok_id, "apic-id-register");
    check(ok_x2, "cpuid-x2apic-id");
    check(ok_bsp, "bsp-flag");
    for (unsigned i = 1; i < cpu_count; i++) /* SDM 3A table 9-1 */
        ok_state &= ap_report[i].cs == AP_GPA >> 4 && ap_report[i].ds == 0 && ap_report[i].ss == 0 &&
                    (ap_report[i].cr0 & 0x80000011) == 0x10 && ap_report[i].eflags == 2;
    check(ok_state, "state-after-sipi");

    /* A SIPI to one that runs does nothing. */
    unsigned starts = ap_starts[1];
    stop = 0;
    cpu_begin(1, spin, 0);
    wait_for(&spins[1], 1);
    smp_send_sipi(1, AP_GPA);
    wait_for(&spins[1], spins[1] + 1000);
    check_eq(ap_starts[1], starts, "sipi-while-running");

    /* INIT stops it until SIPI comes, which may name another page. */
    smp_send_init(1);
    uint64_t end = rdtsc() + 20000000;
    unsigned last;
    do {
        last = spins[1];
        for (unsigned i = 0; i < 100000; i++)
            cpu_pause();
    } while (spins[1] != last && rdtsc() < end + 10000000000ull);
    check_eq(spins[1], last, "init-stops");
    smp_place_trampoline(AP_GPA_OTHER);
    smp_send_sipi(1, AP_GPA_OTHER);
    check(wait_for(&ap_starts[1], starts + 1), "starts-again");
    check_eq(ap_report[1].cs, AP_GPA_OTHER >> 4, "other-vector");
    check(cpus_run(look_at_ids, 0), "all-answer-again");

    /* INIT once and SIPI twice, as the SDM's protocol has it (3A 9.4.4.1): one start. */
    starts = ap_starts[1];
    smp_send_init(1);
    smp_send_sipi(1, AP_GPA);
    smp_send_sipi(1, AP_GPA);
    check(wait_for(&ap_starts[1], starts + 1), "two-sipis");
    check(cpus_run(look_at_ids, 0), "two-sipis-answer");
    check_eq(ap_starts[1], starts + 1, "two-sipis-one-start");

    /* All but this one at once. */
    unsigned before[CPUS_MAX];
    bool ok = true;
    for (unsigned i = 1; i < cpu_count; i++)
        before[i] = ap_starts[i];
    apic_icr(0, 0xc4500);
    apic_icr(0, 0xc4600 | AP_GPA >> 12);
    for (unsigned i = 1; i < cpu_count; i++)
        ok &= wait_for(&ap_starts[i], before[i] + 1);
    check(ok, "broadcast-init-sipi");

    check(cpus_run(look_at_ids, 0), "after-broadcast");
}

/* ---- interrupts ---- */

static void open_interrupts(unsigned cpu, uint64_t arg)
{
    (void)cpu, (void)arg;
    sti();
    while (!stop)
        cpu_pause();
    cli();
}

static void others_open(void)
{
    stop = 0;
    clear_seen();
    for (unsigned i = 1; i < cpu_count; i++)
        cpu_begin(i, open_interrupts, 0);
}

static bool others_close(void)
{
    bool ok = true;
    stop = 1;
    for (unsigned i = 1; i < cpu_count; i++)
        ok &= cpu_wait(i);
    return ok;
}

static volatile unsigned nmis[CPUS_MAX];

static void count_nmi(struct frame *f)
{
    (void)f;
    nmis[this_cpu()]++;
}

/* Waits for `count` interrupts on the processors of mask; true if those and no others came. */
static bool got(unsigned mask, unsigned count)
{
    bool ok = true;
    sti();
    for (unsigned i = 0; i < cpu_count; i++)
        if (mask >> i & 1)
            ok &= wait_for(&seen[i], count);
    cli();
    for (unsigned i = 0; i < cpu_count; i++)
        ok &= seen[i] == (mask >> i & 1 ? count : 0);
    clear_seen();
    return ok;
}

static void set_logical(unsigned cpu, uint64_t arg)
{
    (void)arg;
    apic_write(APIC_DFR, 0xffffffff); /* flat */
    apic_write(APIC_LDR, 1u << (24 + cpu % 8));
}

static void test_ipis(bool x2)
{
    const unsigned all = (1u << CPUS) - 1;
    bool ok = true;

    irq_handlers[VEC_PING] = irq_handlers[VEC_WAKE] = irq_handlers[VEC_BROADCAST] = count_here;
    irq_handlers[NMI] = count_nmi;
    check_eq(smp_start(CPUS, x2), CPUS, "all-start");
    others_open();
    for (unsigned i = 1; i < cpu_count; i++) {
        apic_icr(i, VEC_PING);
        ok &= got(1u << i, 1);
    }
    check(ok, "fixed-physical");
    apic_icr(0, 0x40000 | VEC_PING);
    check(got(1, 1), "self");
    apic_icr(0, 0x80000 | VEC_BROADCAST);
    check(got(all, 1), "all-including-self");
    apic_icr(0, 0xc0000 | VEC_BROADCAST);
    check(got(all & ~1u, 1), "all-excluding-self");
    apic_icr(x2 ? 0xffffffff : 0xff, VEC_BROADCAST);
    check(got(all, 1), "physical-broadcast");
    apic_icr(CPUS + 3, VEC_PING);
    check(got(0, 0), "nobody");
    check(others_close(), "closed");

    if (!x2) {
        check(cpus_run(set_logical, 0), "set-logical");
        others_open();
        apic_icr(0x06 & all, 0x800 | VEC_PING);
        check(got(0x06 & all, 1), "logical-flat");
        apic_icr(0x06 & all, 0x900 | VEC_PING);
        sti();
        uint64_t end = rdtsc() + 20000000000ull;
        while (seen_sum() == 0 && rdtsc() < end)
            cpu_pause();
        cli();
        check(seen_sum() == 1 && seen[0] == 0, "lowest-priority");
    } else { /* SDM 3A 10.12.10.2: cluster in 31:16, one bit of sixteen */
        others_open();
        apic_icr(0x06 & all, 0x800 | VEC_PING);
        check(got(0x06 & all, 1), "logical-cluster");
        apic_icr(0x00010002, 0x800 | VEC_PING);
        check(got(0, 0), "logical-other-cluster");
        wrmsr(0x83f, VEC_PING);
        check(got(1, 1), "self-ipi-msr");
    }
    for (unsigned i = 1; i < cpu_count; i++)
        apic_icr(i, 0x400);
    ok = true;
    for (unsigned i = 1; i < cpu_count; i++)
        ok &= wait_for(&nmis[i], 1);
    check(ok, "nmi");
    check(others_close(), "closed-again");
}

/* ---- wake-ups from HLT ---- */

static volatile unsigned rounds_done[CPUS_MAX];

/* Halts for each of `arg` interrupts; STI's shadow closes the gap before HLT. */
static void halt_for(unsigned cpu, uint64_t arg)
{
    cli();
    while (seen[cpu] < arg) {
        rounds_done[cpu] = seen[cpu];
        sti_hlt();
        cli();
    }
    rounds_done[cpu] = seen[cpu];
}

static void test_halt(void)
{
    const unsigned rounds = 2000;
    bool ok = true;

    irq_handlers[VEC_WAKE] = count_here;
    check_eq(smp_start(CPUS, true), CPUS, "all-start");
    clear_seen();
    for (unsigned i = 1; i < cpu_count; i++)
        cpu_begin(i, halt_for, rounds);
    for (unsigned r = 1; r <= rounds && ok; r++) {
        apic_icr(0, 0xc0000 | VEC_WAKE);
        for (unsigned i = 1; i < cpu_count; i++)
            ok &= wait_for(&seen[i], r);
    }
    check(ok, "every-wake-up-arrives");
    for (unsigned i = 1; i < cpu_count; i++)
        ok &= cpu_wait(i) && seen[i] == rounds;
    check(ok, "as-many-as-sent");

    /* A ring: each wakes the next; nobody spins. */
    clear_seen();
    uint64_t start = rdtsc();
    for (unsigned i = 1; i < cpu_count; i++)
        cpu_begin(i, halt_for, rounds / 4);
    for (unsigned r = 1; r <= rounds / 4 && ok; r++)
        for (unsigned i = 1; i < cpu_count; i++) {
            apic_icr(i, VEC_WAKE);
            ok &= wait_for(&seen[i], r);
        }
    check(ok, "one-after-the-other");
    print("a wake-up takes %u cycles\n", (unsigned)((rdtsc() - start) / (rounds / 4 * (cpu_count - 1))));
    for (unsigned i = 1; i < cpu_count; i++)
        ok &= cpu_wait(i);
    check(ok, "all-done");

}

static void timer_rounds(unsigned cpu, uint64_t arg)
{
    apic_write(APIC_TDCR, 0xb);
    apic_write(APIC_LVTT, VEC_WAKE);
    cli();
    for (unsigned r = 0; r < arg; r++) {
        unsigned want = seen[cpu] + 1;
        apic_write(APIC_TMICT, 20000 + 1000 * cpu);
        while (seen[cpu] < want) {
            sti_hlt();
            cli();
        }
    }
    apic_write(APIC_LVTT, 0x10000);
}

static void test_timers(void)
{
    bool ok = true;

    irq_handlers[VEC_WAKE] = count_here;
    check_eq(smp_start(CPUS, true), CPUS, "all-start");
    clear_seen();
    check(cpus_run(timer_rounds, 300), "every-timer-wakes-its-own");
    for (unsigned i = 0; i < cpu_count; i++)
        ok &= seen[i] == 300;
    check(ok, "as-many-as-armed");
}

/* ---- locks ---- */

static struct {
    volatile unsigned next __attribute__((aligned(64)));
    volatile unsigned owner __attribute__((aligned(64)));
    volatile unsigned value __attribute__((aligned(64)));
} ticket;

/* Everyone in turn: with more processors than the host has, the one whose turn it is often does not run. */
static void take_turns(unsigned cpu, uint64_t arg)
{
    (void)cpu;
    for (unsigned i = 0; i < arg; i++) {
        unsigned mine = __atomic_fetch_add(&ticket.next, 1, __ATOMIC_SEQ_CST);
        while (ticket.owner != mine)
            cpu_pause();
        ticket.value++;
        ticket.owner = mine + 1;
    }
}

static volatile unsigned barrier_count, barrier_phase;

static void meet(unsigned cpu, uint64_t arg)
{
    (void)cpu;
    for (unsigned i = 0; i < arg; i++) {
        unsigned phase = barrier_phase;
        if (__atomic_add_fetch(&barrier_count, 1, __ATOMIC_SEQ_CST) == cpu_count) {
            barrier_count = 0;
            __atomic_store_n(&barrier_phase, phase + 1, __ATOMIC_SEQ_CST);
        } else {
            while (barrier_phase == phase)
                cpu_pause();
        }
    }
}

static void test_locks(void)
{
    const unsigned turns = 500;

    check_eq(smp_start(CPUS, true), CPUS, "all-start");
    uint64_t start = rdtsc();
    check(cpus_run(take_turns, turns), "ticket-lock-ends");
    check_eq(ticket.value, turns * cpu_count, "ticket-lock-counts");
    print("a turn takes %u cycles\n", (unsigned)((rdtsc() - start) / (turns * cpu_count)));
    start = rdtsc();
    check(cpus_run(meet, turns), "barrier-ends");
    print("a barrier takes %u cycles\n", (unsigned)((rdtsc() - start) / turns));
}

/* ---- the TSC ---- */

static volatile uint64_t last_tsc __attribute__((aligned(64)));
static volatile unsigned tsc_backwards, tsc_aux_wrong;

static void pass_tsc(unsigned cpu, uint64_t arg)
{
    if (HAS_RDTSCP)
        wrmsr(0xc0000103, 0x100 + cpu);
    for (unsigned i = 0; i < arg; i++) {
        uint64_t before = __atomic_load_n(&last_tsc, __ATOMIC_SEQ_CST), now;
        uint32_t low, high, aux = 0x100 + cpu;
        asm volatile("lfence");
        if (HAS_RDTSCP && (i & 1))
            asm volatile("rdtscp" : "=a"(low), "=d"(high), "=c"(aux)::"memory");
        else
            asm volatile("rdtsc" : "=a"(low), "=d"(high)::"memory");
        now = low | (uint64_t)high << 32;
        if (now < before)
            __atomic_add_fetch(&tsc_backwards, 1, __ATOMIC_SEQ_CST);
        if (aux != 0x100 + cpu)
            __atomic_add_fetch(&tsc_aux_wrong, 1, __ATOMIC_SEQ_CST);
        __atomic_compare_exchange_n(&last_tsc, &before, now, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
}

static void test_tsc(void)
{
    check_eq(smp_start(CPUS, true), CPUS, "all-start");
    check(cpus_run(pass_tsc, 20000), "tsc-passed-on");
    check_eq(tsc_backwards, 0, "tsc-never-backwards");
    check_eq(tsc_aux_wrong, 0, "tsc-aux-of-each");
}

/* ---- what a guest of KVM may ask for ---- */

#define KVM_FEATURES 0x40000001u
#define FEATURE_STEAL_TIME 5
#define FEATURE_PV_UNHALT 7
#define FEATURE_PV_TLB_FLUSH 9
#define FEATURE_PV_SEND_IPI 11
#define FEATURE_SCHED_YIELD 13
#define HC_KICK_CPU 5
#define HC_SEND_IPI 10
#define HC_SCHED_YIELD 11
#define MSR_STEAL_TIME 0x4b564d03u

static uint64_t hypercall(uint64_t nr, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3)
{
    uint64_t r;
    asm volatile("vmcall" : "=a"(r) : "a"(nr), "b"(a0), "c"(a1), "d"(a2), "S"(a3) : "memory");
    return r;
}

static struct steal_time {
    volatile uint64_t steal;
    volatile uint32_t version, flags;
    volatile uint8_t preempted, pad8[3];
    uint32_t pad[11];
} steal_time[CPUS_MAX] __attribute__((aligned(64)));
_Static_assert(sizeof(struct steal_time) == 64, "msr.rst");

static void enable_steal_time(unsigned cpu, uint64_t arg)
{
    (void)arg;
    wrmsr(MSR_STEAL_TIME, (uint64_t)&steal_time[cpu] | 1);
}

static volatile unsigned awake[CPUS_MAX], value_read[CPUS_MAX];

/* Halts with interrupts off: only a kick ends it. */
static void halt_until_kicked(unsigned cpu, uint64_t arg)
{
    (void)arg;
    cli();
    awake[cpu] = 1;
    asm volatile("hlt" ::: "memory");
    awake[cpu] = 2;
}

/* Halts while another changes the mapping of TEST_VA; reads it when it wakes. */
static void halt_and_read(unsigned cpu, uint64_t arg)
{
    (void)arg;
    cli();
    value_read[cpu] = *(volatile unsigned *)TEST_VA;
    awake[cpu] = 1;
    sti_hlt();
    value_read[cpu] = *(volatile unsigned *)TEST_VA;
    awake[cpu] = 2;
}

static bool becomes_preempted(unsigned cpu)
{
    uint64_t end = rdtsc() + 20000000000ull;
    while (!(steal_time[cpu].preempted & 1) && rdtsc() < end)
        cpu_pause();
    return steal_time[cpu].preempted & 1;
}

static void flush_test_va(unsigned cpu, uint64_t arg)
{
    (void)cpu, (void)arg;
    invlpg(TEST_VA);
}

static void test_pv_flush(void)
{
    volatile unsigned *frames[2] = {(void *)table_alloc(), (void *)table_alloc()};
    bool ok = true;

    *frames[0] = 1;
    *frames[1] = 2;
    for (unsigned round = 0; round < 50 && ok; round++) {
        map_page(TEST_VA, (uint64_t)frames[0], PTE_P | PTE_W | PTE_A | PTE_D);
        for (unsigned i = 1; i < cpu_count; i++) {
            awake[i] = 0;
            cpu_begin(i, halt_and_read, 0);
        }
        for (unsigned i = 1; i < cpu_count; i++)
            ok &= wait_for(&awake[i], 1) && becomes_preempted(i) && value_read[i] == 1;
        map_page(TEST_VA, (uint64_t)frames[1], PTE_P | PTE_W | PTE_A | PTE_D);
        for (unsigned i = 1; i < cpu_count; i++) {
            /* Its host may look after it in between: then it is preempted again soon. */
            uint8_t was = 1;
            while (ok && !__atomic_compare_exchange_n(&steal_time[i].preempted, &was, 3, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
                ok = becomes_preempted(i);
                was = 1;
            }
        }
        apic_icr(0, 0xc0000 | VEC_WAKE);
        for (unsigned i = 1; i < cpu_count; i++)
            ok &= cpu_wait(i) && value_read[i] == 2 && !(steal_time[i].preempted & 2);
        /* The next round's first mapping needs a flush as well: they all ran since. */
        for (unsigned i = 1; i < cpu_count; i++)
            cpu_begin(i, flush_test_va, 0), ok &= cpu_wait(i);
    }
    check(ok, "flush-on-return");
}

static void test_pv(void)
{
    const uint32_t need = 1u << FEATURE_STEAL_TIME | 1u << FEATURE_PV_UNHALT | 1u << FEATURE_PV_TLB_FLUSH |
                          1u << FEATURE_PV_SEND_IPI | 1u << FEATURE_SCHED_YIELD;
    const unsigned all = (1u << CPUS) - 1;
    bool ok = true;

    check_eq(cpuid(KVM_FEATURES, 0).a & need, need, "features");
    irq_handlers[VEC_PING] = irq_handlers[VEC_WAKE] = count_here;
    check_eq(smp_start(CPUS, true), CPUS, "all-start");
    check_eq(hypercall(99, 0, 0, 0, 0), (uint64_t)-1000, "no-such-hypercall");

    others_open();
    check_eq(hypercall(HC_SEND_IPI, all & ~1u, 0, 0, VEC_PING), cpu_count - 1, "send-ipi-count");
    check(got(all & ~1u, 1), "send-ipi");
    check_eq(hypercall(HC_SEND_IPI, all >> 1, 0, 1, VEC_PING), cpu_count - 1, "send-ipi-from-1");
    check(got(all & ~1u, 1), "send-ipi-from-1-arrives");
    check_eq(hypercall(HC_SEND_IPI, 0, all, 0, VEC_PING), 0, "send-ipi-high-nobody");
    check(got(0, 0), "send-ipi-nobody-gets-it");
    check(others_close(), "closed");
    check_eq(hypercall(HC_SCHED_YIELD, 1, 0, 0, 0), 0, "sched-yield");

    for (unsigned i = 1; i < cpu_count; i++) {
        awake[i] = 0;
        cpu_begin(i, halt_until_kicked, 0);
        ok &= wait_for(&awake[i], 1);
        hypercall(HC_KICK_CPU, 0, i, 0, 0);
        ok &= cpu_wait(i);
    }
    check(ok, "kick-ends-halt-with-if-0");

    check_eq(try_wrmsr(MSR_STEAL_TIME, (uint64_t)&steal_time[0] | 3), GP, "steal-time-reserved");
    check(cpus_run(enable_steal_time, 0), "steal-time-on");
    check_eq(rdmsr(MSR_STEAL_TIME), (uint64_t)&steal_time[0] | 1, "steal-time-msr");
    check_eq(steal_time[0].preempted, 0, "runs-is-not-preempted");
    test_pv_flush();
    check(cpus_run(flush_test_va, 0), "after");
    for (unsigned i = 0; i < cpu_count; i++)
        ok &= !(steal_time[i].version & 1);
    check(ok, "steal-time-version-even");
}

void test_main(void)
{
    if (guest_arg & 1)
        test_start();
    if (guest_arg & 2)
        test_ipis(false);
    if (guest_arg & 4)
        test_ipis(true);
    if (guest_arg & 8)
        test_halt();
    if (guest_arg & 0x10)
        test_timers();
    if (guest_arg & 0x20)
        test_locks();
    if (guest_arg & 0x40)
        test_tsc();
    if (guest_arg & 0x80)
        test_pv();
}
