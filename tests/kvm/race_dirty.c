/* SPDX-License-Identifier: MIT */
/*
 * Dirty logs under load, as a migration uses them: all of a machine's memory is copied, then what the log names, again and again,
 * while its vCPUs write in every way there is; in the end the copy is the memory. One page that was written without being
 * named is a byte that differs.
 */
#include <asm/kvm_para.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "race.h"

enum { VCPUS = 3, PAGES = RAM_BYTES / 4096, RING_BYTES = 4096, RING_ENTRIES = RING_BYTES / sizeof(struct kvm_dirty_gfn) };
enum { GPA_CLOCK = 0x12000, GPA_STEAL = 0x13000, GPA_EOI = 0x14800, GPA_WINDOW = 0x100000, WINDOW_BYTES = 0x80000 };

/*
 * A round writes to pages that its number in RBX picks of the 128 from RSI on: plain, locked across two pages, plain across two, a string
 * over two, a copy, FXSAVE across two, a push. Every 16th patches its own code, has the accessed and dirty bits of the page tables set
 * anew, and reads a string from a port. Then an interrupt may come.
 */
GUEST(writer, 64,
      "1: inc %rbx\n"
      "mov %ebx, %eax; and $127, %eax; shl $12, %eax; mov %rbx, (%rsi,%rax)\n"
      "imul $5, %ebx, %eax; and $63, %eax; shl $12, %eax; lock addq $1, 0xffc(%rsi,%rax)\n"
      "imul $3, %ebx, %eax; and $63, %eax; shl $12, %eax; mov %rbx, 0x1ffa(%rsi,%rax)\n"
      "imul $7, %ebx, %eax; and $63, %eax; shl $12, %eax; lea 0xc00(%rsi,%rax), %rdi; mov $3000, %ecx; mov %ebx, %eax; rep stosb\n"
      "mov %rsi, %rdx; imul $11, %ebx, %eax; and $63, %eax; shl $12, %eax; lea 0xe00(%rsi,%rax), %rdi; mov $200, %ecx; rep movsq; mov %rdx, %rsi\n"
      "imul $13, %ebx, %eax; and $63, %eax; shl $12, %eax; fxsave 0xf00(%rsi,%rax)\n"
      "imul $17, %ebx, %eax; and $63, %eax; shl $12, %eax; lea 0x804(%rsi,%rax), %rsp; push %rbx; push %rbx\n"
      "test $15, %bl; jnz 3f\n"
      "mov %bl, 2f+1(%rip); 2: mov $0, %al\n"
      "andb $0x9f, 0x3000; andb $0x9f, 0x3008; andb $0xdf, 0x2000; mov %cr3, %rax; mov %rax, %cr3\n"
      "imul $19, %ebx, %eax; and $63, %eax; shl $12, %eax; lea 0xff0(%rsi,%rax), %rdi; mov $40, %ecx; mov $0x71, %edx; rep insb\n"
      "3: out %al, $0x80; sti; nop; cli; jmp 1b");
/* The end of an interrupt by its paravirtual flag, or by the APIC. */
GUEST(handler, 64,
      "push %rax; push %rdi; lock incl 0x11104; lock btrl $0, 0x14800; jc 1f; mov $0xfee000b0, %edi; movl $0, (%rdi)\n"
      "1: pop %rdi; pop %rax; iretq");

enum { WITH_RING = 1, WITH_MANUAL = 2, WITH_ALL_SET = 4 };

struct migration {
    struct machine m;
    struct runner r[VCPUS];
    struct kvm_dirty_gfn *ring[VCPUS];
    uint32_t next[VCPUS];
    uint8_t *copy;
    uint64_t named[PAGES / 64];
    unsigned how;
};

static void prepare_vcpu(struct migration *g, unsigned vcpu)
{
    const uint32_t svr = 0x1ff;
    struct kvm_lapic_state lapic;
    struct machine *m = &g->m;

    CHECK_OK(ask(m->vcpu[vcpu], KVM_GET_LAPIC, &lapic));
    memcpy(lapic.regs + 0xf0, &svr, sizeof(svr));
    CHECK_OK(ask(m->vcpu[vcpu], KVM_SET_LAPIC, &lapic));
    machine_cpuid(m, vcpu);
    machine_long_mode(m, vcpu, GPA_CODE);
    CHECK_OK(ask(m->vcpu[vcpu], KVM_SET_MP_STATE, &(struct kvm_mp_state){ KVM_MP_STATE_RUNNABLE }));
    struct kvm_regs regs = machine_regs(m, vcpu);
    regs.rsi = GPA_WINDOW + vcpu * WINDOW_BYTES;
    CHECK_OK(ask(m->vcpu[vcpu], KVM_SET_REGS, &regs));
    CHECK_EQ(machine_set_msr(m, vcpu, MSR_KVM_SYSTEM_TIME_NEW, (GPA_CLOCK + 64 * vcpu) | 1), 1);
    CHECK_EQ(machine_set_msr(m, vcpu, MSR_KVM_STEAL_TIME, (GPA_STEAL + 64 * vcpu) | 1), 1);
    if (vcpu == 0)
        CHECK_EQ(machine_set_msr(m, vcpu, MSR_KVM_PV_EOI_EN, GPA_EOI | 1), 1);
    if (g->how & WITH_RING) {
        g->ring[vcpu] = kvm->mmap(NULL, RING_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, m->vcpu[vcpu], KVM_DIRTY_LOG_PAGE_OFFSET * 4096);
        CHECK(g->ring[vcpu] != MAP_FAILED);
    }
}

static struct migration *migration_new(unsigned how)
{
    static struct migration g;

    g.how = how;
    g.m = machine_new(WITH_IRQCHIP, 0);
    if (how & WITH_RING)
        CHECK_OK(machine_enable_cap(g.m.vm, KVM_CAP_DIRTY_LOG_RING, RING_BYTES));
    if (how & (WITH_MANUAL | WITH_ALL_SET))
        CHECK_OK(machine_enable_cap(g.m.vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
                                    KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | (how & WITH_ALL_SET ? KVM_DIRTY_LOG_INITIALLY_SET : 0)));
    machine_load(&g.m, GPA_CODE, GUEST_BYTES(writer));
    machine_load(&g.m, GPA_HANDLER, GUEST_BYTES(handler));
    for (unsigned vcpu = 0; vcpu < VCPUS; vcpu++)
        CHECK_OK(machine_add_vcpu(&g.m, vcpu));
    for (unsigned vcpu = 0; vcpu < VCPUS; vcpu++)
        prepare_vcpu(&g, vcpu);
    machine_gate(&g.m, IRQ_VECTOR, GPA_HANDLER);
    g.copy = machine_anonymous(RAM_BYTES);
    return &g;
}

static void harvest_bitmap(struct migration *g)
{
    struct kvm_dirty_log log = { .slot = RAM_SLOT, .dirty_bitmap = g->named };
    struct kvm_clear_dirty_log clear = { .slot = RAM_SLOT, .num_pages = PAGES, .dirty_bitmap = g->named };

    CHECK_OK(ask(g->m.vm, KVM_GET_DIRTY_LOG, &log));
    if (g->how & WITH_RING || !(g->how & (WITH_MANUAL | WITH_ALL_SET)))
        return;
    for (unsigned part = 0; part < 4; part++) { /* in pieces, as clients do */
        clear.first_page = part * (PAGES / 4);
        clear.num_pages = PAGES / 4;
        clear.dirty_bitmap = g->named + part * (PAGES / 4 / 64);
        CHECK_OK(ask(g->m.vm, KVM_CLEAR_DIRTY_LOG, &clear));
    }
}

static void harvest_rings(struct migration *g)
{
    int taken = 0;

    memset(g->named, 0, sizeof(g->named));
    for (unsigned vcpu = 0; vcpu < VCPUS; vcpu++)
        for (;; taken++, g->next[vcpu]++) {
            struct kvm_dirty_gfn *e = &g->ring[vcpu][g->next[vcpu] % RING_ENTRIES];
            if (!(__atomic_load_n(&e->flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_DIRTY))
                break;
            CHECK_EQ(e->slot, RAM_SLOT);
            CHECK(e->offset < PAGES);
            g->named[e->offset / 64] |= 1ull << (e->offset % 64);
            __atomic_store_n(&e->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
        }
    CHECK_EQ(ask(g->m.vm, KVM_RESET_DIRTY_RINGS, NULL), taken);
}

/* What is named now is copied now: it may be written meanwhile, and is named again then. */
static void harvest(struct migration *g)
{
    if (g->how & WITH_RING)
        harvest_rings(g);
    else
        harvest_bitmap(g);
    for (unsigned page = 0; page < PAGES; page++)
        if (g->named[page / 64] >> (page % 64) & 1)
            memcpy(g->copy + page * 4096u, g->m.ram + page * 4096u, 4096);
}

static void migrate(unsigned how)
{
    struct migration *g = migration_new(how);
    unsigned rounds = 0;
    uint64_t begin;

    for (unsigned vcpu = 0; vcpu < VCPUS; vcpu++)
        runner_start(&g->r[vcpu], &g->m, vcpu);
    runner_wait(&g->r[0], 20); /* large pages, mapped writable, before there is a log */
    CHECK_OK(machine_slot(&g->m, RAM_SLOT, KVM_MEM_LOG_DIRTY_PAGES, 0, RAM_BYTES, g->m.ram));
    if (!(how & WITH_ALL_SET))
        memcpy(g->copy, g->m.ram, RAM_BYTES);
    for (begin = now_ns(); race_in_time(begin) || rounds < 100; rounds++) {
        struct kvm_msi msi = { .address_lo = 0xfee00000u, .data = IRQ_VECTOR };
        struct kvm_clock_data clock = { .clock = 1000000 * rounds };
        harvest(g);
        CHECK_OK(ask(g->m.vm, KVM_SIGNAL_MSI, &msi));
        if (rounds % 8 == 0)
            CHECK_OK(ask(g->m.vm, KVM_SET_CLOCK, &clock));
        sched_yield();
    }
    for (unsigned vcpu = 0; vcpu < VCPUS; vcpu++)
        runner_stop(&g->r[vcpu]);
    for (unsigned vcpu = 0; vcpu < VCPUS; vcpu++)
        runner_finish(&g->m, vcpu);
    harvest(g);
    for (unsigned page = 0; page < PAGES; page++)
        if (memcmp(g->copy + page * 4096u, g->m.ram + page * 4096u, 4096) != 0)
            check_failed(__FILE__, __LINE__, "page 0x%x was written and not named, in %u rounds", page, rounds);
    CHECK(taken(&g->m, IRQ_VECTOR) > 0);
    /* And there was something to name: each vCPU has gone through its window. */
    for (unsigned vcpu = 0; vcpu < VCPUS; vcpu++)
        CHECK(machine_regs(&g->m, vcpu).rbx > 128);
}

static void by_bitmap(void) { migrate(0); }
static void by_bitmap_cleared_by_hand(void) { migrate(WITH_MANUAL); }
static void by_bitmap_initially_set(void) { migrate(WITH_MANUAL | WITH_ALL_SET); }
static void by_ring(void) { migrate(WITH_RING); }

static const struct row rows[] = {
    { "bitmap", by_bitmap }, { "bitmap cleared by hand", by_bitmap_cleared_by_hand },
    { "bitmap initially set", by_bitmap_initially_set }, { "ring", by_ring },
};
THEME(race_dirty, rows);
