/* SPDX-License-Identifier: MIT */
/* Memory that changes under vCPUs: what was written is where it should be. */
#include <sched.h>
#include <string.h>
#include <sys/mman.h>

#include "race.h"

/* Counts in RBX, and writes the count to RSI. */
GUEST(stores, 64, "1: inc %rbx; mov %rbx, (%rsi); out %al, $0x80; jmp 1b");
/* The same without an exit each time: 256 stores over as many pages, then the round. */
GUEST(pages, 64,
      "1: xor %ecx, %ecx; 2: inc %rbx; mov %ecx, %eax; shl $12, %eax; mov %rbx, (%rsi,%rax); inc %cl; jnz 2b\n"
      "out %al, $0x80; jmp 1b");


static uint64_t word(const volatile uint8_t *memory)
{
    return *(const volatile uint64_t *)(const volatile void *)memory;
}

/* Between two memories and none; behind a delete, nothing is written to what was deleted. */
static void slot_replaced(void)
{
    struct machine m = race_machine(GUEST_BYTES(stores));
    uint8_t *memory[2] = { machine_anonymous(PAGE), machine_anonymous(PAGE) };
    struct runner r;
    uint64_t begin = now_ns();

    runner_start(&r, &m, 0);
    for (unsigned i = 0; race_in_time(begin); i++) {
        CHECK_OK(machine_slot(&m, 1, 0, SLOT_GPA, PAGE, memory[i & 1]));
        runner_wait(&r, 3);
        CHECK_OK(machine_slot(&m, 1, 0, 0, 0, NULL));
        uint64_t before = word(memory[i & 1]);
        runner_wait(&r, 3);
        CHECK(before > 0);
        CHECK_EQ(word(memory[i & 1]), before);
    }
    runner_stop(&r);
    runner_finish(&m, 0);
    uint64_t count = machine_regs(&m, 0).rbx, last = atomic_load(&r.last);
    uint64_t most = word(memory[0]) > word(memory[1]) ? word(memory[0]) : word(memory[1]);
    CHECK_EQ(last > most ? last : most, count);
}

static void slot_moved(void)
{
    struct machine m = race_machine(GUEST_BYTES(stores));
    uint8_t *memory = machine_anonymous(PAGE);
    struct runner r;
    uint64_t begin = now_ns();

    CHECK_OK(machine_slot(&m, 1, 0, SLOT_GPA, PAGE, memory));
    runner_start(&r, &m, 0);
    while (race_in_time(begin)) {
        CHECK_OK(machine_slot(&m, 1, 0, SLOT_GPA + PAGE, PAGE, memory));
        uint64_t before = word(memory);
        runner_wait(&r, 3);
        CHECK_EQ(word(memory), before);
        CHECK_OK(machine_slot(&m, 1, 0, SLOT_GPA, PAGE, memory));
        runner_wait(&r, 3);
        CHECK(word(memory) > before);
    }
    runner_stop(&r);
}

/* Whatever is harvested, copied page by page, is in the end all that the guest wrote. */
static void harvest_log(struct machine *m, const uint8_t *memory, uint64_t *copy)
{
    uint64_t bitmap[4];
    struct kvm_dirty_log log = { .slot = 1, .dirty_bitmap = bitmap };

    CHECK_OK(ask(m->vm, KVM_GET_DIRTY_LOG, &log));
    for (unsigned page = 0; page < 256; page++)
        if (bitmap[page / 64] >> (page % 64) & 1)
            copy[page] = word(memory + (size_t)page * PAGE);
}

static void dirty_log(void)
{
    struct machine m = race_machine(GUEST_BYTES(pages));
    uint8_t *memory = machine_anonymous(256 * PAGE);
    static uint64_t copy[256];
    struct runner r;
    uint64_t begin = now_ns();

    CHECK_OK(machine_slot(&m, 1, KVM_MEM_LOG_DIRTY_PAGES, SLOT_GPA, 256 * PAGE, memory));
    runner_start(&r, &m, 0);
    while (race_in_time(begin))
        harvest_log(&m, memory, copy);
    runner_stop(&r);
    harvest_log(&m, memory, copy);
    for (unsigned page = 0; page < 256; page++)
        CHECK_EQ(copy[page], word(memory + (size_t)page * PAGE));
}

static void dirty_log_toggled(void)
{
    struct machine m = race_machine(GUEST_BYTES(pages));
    uint8_t *memory = machine_anonymous(256 * PAGE);
    struct runner r;
    uint64_t begin = now_ns();

    CHECK_OK(machine_slot(&m, 1, 0, SLOT_GPA, 256 * PAGE, memory));
    runner_start(&r, &m, 0);
    for (unsigned i = 0; race_in_time(begin); i++)
        CHECK_OK(machine_slot(&m, 1, i & 1 ? 0 : KVM_MEM_LOG_DIRTY_PAGES, SLOT_GPA, 256 * PAGE, memory));
    runner_stop(&r);
    runner_finish(&m, 0);
    CHECK_EQ(word(memory + 255 * (size_t)PAGE), machine_regs(&m, 0).rbx);
}

/* Memory goes away and comes back: EFAULT at worst, and the guest goes on. */
static void memory_lost(void)
{
    struct machine m = race_machine(GUEST_BYTES(stores));
    uint8_t *memory = machine_anonymous(PAGE);
    struct runner r;
    uint64_t begin = now_ns();

    CHECK_OK(machine_slot(&m, 1, 0, SLOT_GPA, PAGE, memory));
    runner_start(&r, &m, 0);
    while (race_in_time(begin)) {
        CHECK_EQ(mprotect(memory, PAGE, PROT_NONE), 0);
        sched_yield();
        CHECK_EQ(mprotect(memory, PAGE, PROT_READ | PROT_WRITE), 0);
        runner_wait(&r, 3);
        CHECK_EQ(madvise(memory, PAGE, MADV_DONTNEED), 0);
        runner_wait(&r, 3);
    }
    runner_stop(&r);
    runner_finish(&m, 0);
    CHECK_EQ(word(memory), machine_regs(&m, 0).rbx);
}

/* The client patches code that runs: what it wrote is what runs, soon, and nothing else ever. */
GUEST(patched, 64, "1: mov $0, %al; out %al, $0x80; jmp 1b");

static void code_patched(void)
{
    struct machine m = machine_boot(WITH_IRQCHIP, GUEST_BYTES(patched));
    struct runner r;
    uint64_t begin = now_ns();

    runner_start(&r, &m, 0);
    for (unsigned i = 1; race_in_time(begin); i++) {
        __atomic_store_n(&m.ram[GPA_CODE + 1], (uint8_t)i, __ATOMIC_SEQ_CST);
        runner_wait(&r, 3);
        while (__atomic_load_n(machine_io_data(&m, 0), __ATOMIC_SEQ_CST) != (uint8_t)i)
            sched_yield();
    }
    runner_stop(&r);
}

static const struct row rows[] = {
    { "slot replaced", slot_replaced }, { "slot moved", slot_moved }, { "dirty log", dirty_log },
    { "dirty log toggled", dirty_log_toggled }, { "memory lost", memory_lost }, { "code patched", code_patched },
};
THEME(race_memory, rows);
