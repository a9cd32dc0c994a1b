/* SPDX-License-Identifier: MIT */
/*
 * Memory that several processors share: TLB shootdown of data and of code, accessed and dirty bits, locked operations across lines
 * and pages, code that one processor changes while others run it, and code that each changes for itself beside the others'.
 */
#include "smp.h"

#define VEC_SHOOT 0x71u
#define CPUS ((unsigned)(guest_arg >> 16 & 0xff))
#define RW (PTE_P | PTE_W | PTE_A | PTE_D)
#define DATA_VA TEST_VA
#define CODE_VA (TEST_VA + 0x10000)
#define LOCK_VA (TEST_VA + 0x20000)

static volatile unsigned stop, floor_value, wrong[CPUS_MAX], rounds[CPUS_MAX];

static unsigned wrong_sum(void)
{
    unsigned sum = 0;
    for (unsigned i = 0; i < CPUS_MAX; i++)
        sum += wrong[i], wrong[i] = 0;
    return sum;
}

/* ---- shootdown ---- */

static volatile uint64_t shoot_va;
static volatile unsigned shoot_acks;

static void on_shoot(struct frame *f)
{
    (void)f;
    invlpg(shoot_va);
    __atomic_add_fetch(&shoot_acks, 1, __ATOMIC_SEQ_CST);
    apic_write(APIC_EOI, 0);
}

/* After it no processor uses what its TLB held of that page. */
static bool shoot(uint64_t va)
{
    invlpg(va);
    shoot_va = va;
    shoot_acks = 0;
    apic_icr(0, 0xc0000 | VEC_SHOOT);
    return wait_for(&shoot_acks, cpu_count - 1);
}

static void others_begin(cpu_fn *fn, uint64_t arg)
{
    stop = floor_value = 0;
    for (unsigned i = 1; i < cpu_count; i++) {
        rounds[i] = 0;
        cpu_begin(i, fn, arg);
    }
}

static bool others_end(void)
{
    bool ok = true;
    stop = 1;
    for (unsigned i = 1; i < cpu_count; i++)
        ok &= cpu_wait(i);
    return ok;
}

static bool all_have_run(unsigned count)
{
    bool ok = true;
    for (unsigned i = 1; i < cpu_count; i++)
        ok &= wait_for(&rounds[i], count);
    return ok;
}

static void read_mapped(unsigned cpu, uint64_t va)
{
    sti();
    while (!stop) {
        unsigned least = __atomic_load_n(&floor_value, __ATOMIC_ACQUIRE);
        if (*(volatile unsigned *)va < least)
            wrong[cpu]++;
        rounds[cpu]++;
        cpu_pause();
    }
    cli();
}

static unsigned call(uint64_t va)
{
    unsigned v;
    asm volatile("call *%1" : "=a"(v) : "r"(va) : "rcx", "memory", "cc");
    return v;
}

static void call_mapped(unsigned cpu, uint64_t va)
{
    sti();
    while (!stop) {
        unsigned least = __atomic_load_n(&floor_value, __ATOMIC_ACQUIRE);
        if (call(va) < least)
            wrong[cpu]++;
        rounds[cpu]++;
        cpu_pause();
    }
    cli();
}

/* mov $value, %eax; ret, with the value at an aligned address */
#define SLOT_BYTES 64u
static void put_code(uint8_t *slot, unsigned value)
{
    memset(slot, 0x90, 3);
    slot[3] = 0xb8;
    *(volatile uint32_t *)(slot + 4) = value;
    slot[8] = 0xc3;
}

/* Two frames in turn: the one that is not mapped gets the next value, is mapped, and the others are told. */
static bool alternate(uint64_t va, bool code, unsigned count)
{
    uint8_t *frames[2] = {(uint8_t *)table_alloc(), (uint8_t *)table_alloc()};
    bool ok = true;

    for (unsigned i = 0; i < 2; i++)
        put_code(frames[i], 0);
    map_page(va, (uint64_t)frames[0], RW);
    irq_handlers[VEC_SHOOT] = on_shoot;
    others_begin(code ? call_mapped : read_mapped, va);
    ok &= all_have_run(1);
    for (unsigned i = 1; i <= count && ok; i++) {
        uint8_t *frame = frames[i & 1];
        if (code)
            *(volatile uint32_t *)(frame + 4) = i;
        else
            *(volatile unsigned *)frame = i;
        *pte_of(root_table, va, 1) = (uint64_t)frame | RW;
        ok &= shoot(va);
        __atomic_store_n(&floor_value, i, __ATOMIC_RELEASE);
        if (i % 16 == 0)
            for (unsigned c = 1; c < cpu_count; c++)
                ok &= wait_for(&rounds[c], rounds[c] + 1);
    }
    return others_end() && ok;
}

static void test_shootdown(void)
{
    check_eq(smp_start(CPUS, true), CPUS, "all-start");
    put_code((uint8_t *)table_alloc(), 0);
    check(alternate(DATA_VA, false, 1000), "data-ends");
    check_eq(wrong_sum(), 0, "data-stale");
    check(alternate(CODE_VA, true, 1000), "code-ends");
    check_eq(wrong_sum(), 0, "code-stale");
}

/* ---- accessed and dirty bits ---- */

static void write_mapped(unsigned cpu, uint64_t va)
{
    volatile unsigned *word = (volatile unsigned *)va + cpu;
    sti();
    while (!stop) {
        *word = ++rounds[cpu];
        cpu_pause();
    }
    cli();
}

/* Everyone writes; D is taken away and the others are told. Who writes after that sets it again. */
static void test_dirty(void)
{
    volatile unsigned *frame = (volatile unsigned *)table_alloc();
    uint64_t *pte;
    unsigned lost = 0, taken = 0;
    bool ok = true;

    check_eq(smp_start(CPUS, true), CPUS, "all-start");
    irq_handlers[VEC_SHOOT] = on_shoot;
    map_page(DATA_VA, (uint64_t)frame, PTE_P | PTE_W);
    pte = pte_of(root_table, DATA_VA, 1);
    others_begin(write_mapped, DATA_VA);
    ok &= all_have_run(1);
    for (unsigned i = 0; i < 500 && ok; i++) {
        uint64_t before = __atomic_fetch_and(pte, ~(uint64_t)(PTE_D | PTE_A), __ATOMIC_SEQ_CST);
        taken += (before & PTE_D) != 0;
        ok &= shoot(DATA_VA);
        unsigned writer = 1 + i % (cpu_count - 1), value = frame[writer];
        ok &= wait_for(&frame[writer], value + 1);
        lost += (*(volatile uint64_t *)pte & (PTE_D | PTE_A)) != (PTE_D | PTE_A);
    }
    check(others_end() && ok, "dirty-ends");
    check_eq(lost, 0, "dirty-lost");
    check_eq(taken, 500, "dirty-taken");
}

/* ---- locked operations ---- */

static const struct {
    const char *name;
    uint64_t offset;
} places[] = {{"aligned", 0x100}, {"across-a-line", 0x13c}, {"across-a-page", 0xffc}};

static void lock_inc(unsigned cpu, uint64_t va)
{
    (void)cpu;
    for (unsigned i = 0; i < 2000; i++)
        asm volatile("lock incq %0" : "+m"(*(volatile uint64_t *)va)::"cc");
}

static void lock_xadd(unsigned cpu, uint64_t va)
{
    (void)cpu;
    for (unsigned i = 0; i < 1000; i++) {
        uint64_t two = 2;
        asm volatile("lock xaddq %0, %1" : "+r"(two), "+m"(*(volatile uint64_t *)va)::"cc");
    }
}

static void lock_cmpxchg(unsigned cpu, uint64_t va)
{
    (void)cpu;
    for (unsigned i = 0; i < 1000; i++) {
        uint64_t old = *(volatile uint64_t *)va;
        bool done;
        do
            asm volatile("lock cmpxchgq %3, %1" : "+a"(old), "+m"(*(volatile uint64_t *)va), "=@ccz"(done) : "r"(old + 3) : "cc");
        while (!done);
    }
}

static void lock_cmpxchg16b(unsigned cpu, uint64_t va)
{
    volatile uint64_t *pair = (volatile uint64_t *)va;
    (void)cpu;
    for (unsigned i = 0; i < 1000; i++) {
        uint64_t low = pair[0], high = pair[1];
        bool done;
        do
            asm volatile("lock cmpxchg16b %2"
                         : "+a"(low), "+d"(high), "+m"(*(volatile __int128 *)va), "=@ccz"(done)
                         : "b"(low + 1), "c"(high + 2)
                         : "cc");
        while (!done);
    }
}

/* Bits of one word, each processor its own: none may undo another's. */
static void lock_bits(unsigned cpu, uint64_t va)
{
    for (unsigned i = 0; i < 2000; i++) {
        bool was;
        asm volatile("lock btcl %2, %1" : "=@ccc"(was), "+m"(*(volatile uint32_t *)va) : "r"(cpu) : "cc");
        wrong[cpu] += was != (i & 1);
    }
}

static void test_locked(void)
{
    char name[64];

    check_eq(smp_start(CPUS, true), CPUS, "all-start");
    map_page(LOCK_VA, (uint64_t)table_alloc(), RW);
    table_alloc(); /* the frames are not neighbours */
    map_page(LOCK_VA + 0x1000, (uint64_t)table_alloc(), RW);
    for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
        volatile uint64_t *word = (volatile uint64_t *)(LOCK_VA + places[i].offset);
        size_t len = 0;
        while (places[i].name[len])
            len++;
        memcpy(name, "locked-", 7);
        memcpy(name + 7, places[i].name, len + 1);
        *word = 0;
        bool ok = cpus_run(lock_inc, (uint64_t)word) && cpus_run(lock_xadd, (uint64_t)word) && cpus_run(lock_cmpxchg, (uint64_t)word);
        check_eq(ok ? *word : 0, (2000 + 2000 + 3000) * (uint64_t)cpu_count, name);
        *word = 0;
        ok = cpus_run(lock_bits, (uint64_t)word);
        memcpy(name, "btc----", 7);
        check(ok && *word == 0 && wrong_sum() == 0, name);
    }
    volatile uint64_t *pair = (volatile uint64_t *)(LOCK_VA + 0x200);
    pair[0] = pair[1] = 0;
    bool ok = cpus_run(lock_cmpxchg16b, (uint64_t)pair);
    check(ok && pair[0] == 1000u * cpu_count && pair[1] == 2000u * cpu_count, "cmpxchg16b");
}

/* ---- code that one processor changes and others run ---- */

#define CROSS_PAGES 64u
#define CROSS_SLOTS (CROSS_PAGES * 4u)
#define CROSS_VALUES 8u

static uint8_t *cross_page[CROSS_PAGES];

/* A long block behind the value, so that its translation takes as long as some stores. */
static void put_long_code(uint8_t *slot, unsigned value)
{
    put_code(slot, value);
    for (unsigned i = 8; i < 8 + 40 * 3; i += 3)
        memcpy(slot + i, "\x48\xff\xc1", 3); /* inc %rcx */
    slot[8 + 40 * 3] = 0xc3;
}

static void wait_cycles(unsigned cycles)
{
    uint64_t end = rdtsc() + cycles;
    while (rdtsc() < end)
        ;
}

static uint8_t *cross_slot(unsigned slot)
{
    return cross_page[slot / 4] + 0x400 * (slot % 4);
}

/* What it calls holds at least the value that it was told of; it serializes between the two (SDM 3A 9.1.3). */
static void call_slots(unsigned cpu, uint64_t arg)
{
    (void)arg;
    while (!stop) {
        unsigned told = __atomic_load_n(&floor_value, __ATOMIC_ACQUIRE), slot = told / CROSS_VALUES;
        serialize();
        unsigned value = call((uint64_t)cross_slot(slot));
        if (value < told || value / CROSS_VALUES != slot)
            wrong[cpu]++;
        rounds[cpu]++;
        cpu_pause();
    }
}

static void test_cross(void)
{
    bool ok = true;
    uint32_t random = 1;

    check_eq(smp_start(CPUS, true), CPUS, "all-start");
    for (unsigned i = 0; i < CROSS_PAGES; i++)
        cross_page[i] = (uint8_t *)table_alloc();
    for (unsigned repeat = 0; repeat < 4; repeat++) {
        for (unsigned slot = 0; slot < CROSS_SLOTS; slot++)
            put_long_code(cross_slot(slot), slot * CROSS_VALUES);
        others_begin(call_slots, 0);
        for (unsigned v = 0; v < CROSS_SLOTS * CROSS_VALUES; v++) {
            *(volatile uint32_t *)(cross_slot(v / CROSS_VALUES) + 4) = v;
            __atomic_store_n(&floor_value, v, __ATOMIC_RELEASE);
            random = random * 1103515245 + 12345;
            wait_cycles(random >> 8 & 0xffff);
            if (v % CROSS_VALUES == repeat)
                ok &= wait_for(&rounds[1 + v % (cpu_count - 1)], rounds[1 + v % (cpu_count - 1)] + 1);
        }
        ok &= others_end();
    }
    check(ok, "ends");
    check_eq(wrong_sum(), 0, "stale");
}

/* A store of data beside code, through a translation that was there before anybody ran the page. */
static void store_beside(unsigned cpu, uint64_t arg)
{
    (void)arg;
    for (unsigned i = 0; i < CROSS_PAGES; i++) {
        volatile unsigned *data = (volatile unsigned *)(cross_page[i] + 0x800) + cpu;
        uint8_t *slot = cross_page[i] + SLOT_BYTES * cpu;
        for (unsigned n = 1; n <= 200; n++) {
            *data = n;
            if (n == 100)
                put_code(slot, 0);
            if (n > 100) {
                *(volatile uint32_t *)(slot + 4) = n;
                if (call((uint64_t)slot) != n) /* its own change: a branch is enough */
                    wrong[cpu]++;
            }
            if (*data != n)
                wrong[cpu]++;
        }
    }
}

/* Everyone changes and runs code of his own, in one page and in one line. */
static void change_own(unsigned cpu, uint64_t arg)
{
    uint8_t *slot = (uint8_t *)arg;

    put_code(slot + 16 * cpu, 0);
    for (unsigned i = 0; i < 3000; i++) {
        *(volatile uint32_t *)(slot + 16 * cpu + 4) = i;
        if (call((uint64_t)slot + 16 * cpu) != i)
            wrong[cpu]++;
    }
}

static void test_own(void)
{
    check_eq(smp_start(CPUS, true), CPUS, "all-start");
    for (unsigned i = 0; i < CROSS_PAGES; i++)
        cross_page[i] = (uint8_t *)table_alloc();
    check(cpus_run(store_beside, 0), "stores-beside-code-end");
    check_eq(wrong_sum(), 0, "stores-beside-code");
    check(cpus_run(change_own, (uint64_t)table_alloc()), "one-page-ends");
    check_eq(wrong_sum(), 0, "one-page");
}

/* ---- instructions that others patch without a word: a jump that becomes a NOP and back, as kernels do ---- */

static uint8_t *patched;

static void run_patched(unsigned cpu, uint64_t arg)
{
    (void)arg;
    while (!stop) {
        unsigned v = call((uint64_t)patched);
        if (v != 1 && v != 2)
            wrong[cpu]++;
        rounds[cpu]++;
        cpu_pause();
    }
}

static void test_patch(void)
{
    /*  0: jmp 8 (5 bytes) or a NOP of 5;  5: mov $2, %al; jmp 10;  .. */
    static const uint8_t nop[8] = {0x0f, 0x1f, 0x44, 0x00, 0x00, 0xeb, 0x09, 0x90};
    static const uint8_t jump[8] = {0xe9, 0x03, 0x00, 0x00, 0x00, 0xeb, 0x09, 0x90};
    static const uint8_t rest[] = {0xb8, 1, 0, 0, 0, 0xc3, 0x90, 0x90, 0xb8, 2, 0, 0, 0, 0xc3};
    bool ok = true;

    check_eq(smp_start(CPUS, true), CPUS, "all-start");
    patched = (uint8_t *)table_alloc();
    memcpy(patched + 8, rest, sizeof rest);
    memcpy(patched, nop, 8);
    others_begin(run_patched, 0);
    for (unsigned i = 0; i < 3000; i++) {
        uint64_t word;
        memcpy(&word, i & 1 ? nop : jump, 8);
        *(volatile uint64_t *)patched = word;
        if (i % 8 == 0)
            ok &= wait_for(&rounds[1], rounds[1] + 1);
        if (call((uint64_t)patched) != (i & 1 ? 2 : 1))
            wrong[0]++;
    }
    check(others_end() && ok, "ends");
    check_eq(wrong_sum(), 0, "torn");
}

void test_main(void)
{
    if (guest_arg & 1)
        test_shootdown();
    if (guest_arg & 2)
        test_dirty();
    if (guest_arg & 4)
        test_locked();
    if (guest_arg & 8)
        test_cross();
    if (guest_arg & 0x10)
        test_own();
    if (guest_arg & 0x20)
        test_patch();
}
