/* SPDX-License-Identifier: MIT */
/*
 * No page that was written is missing from a dirty log. Three vCPUs write to a slot by all kinds of stores, the processor writes accessed
 * and dirty flags to their page tables, which lie in it, and KVM its clock and other pages; the log is read meanwhile, and each page
 * that it names copied, as a migration does. A round ends with the vCPUs stopped and the rest of the log: then the copy is the slot.
 */
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "race.h"

#define VCPUS 3u
#define PAGES 512u
#define BYTES ((size_t)PAGES * PAGE)
#define WINDOW 0x40000000ul /* the slot's pages again, by 4 KiB entries of the tables in the slot */
#define ROUNDS 100u
#define ROUND_NS 1500000u
#define ROW_NS 14000000000u
#define ROW_NS_EMULATING 4000000000u
#define RING_ENTRIES 1024u
#define INTERRUPT 0x50u

/* Pages of the slot. */
enum { TABLES = 0, TABLES_EACH = 6, CLOCK = 24, STEAL = 28, STACK = 32, WALL = 36, DATA = 64, DATA_PAGES = 256 };
enum { PML4, PDPT, PD_LOW, PD_WINDOW, PT };

/* R13 the window, RBP the own table of its entries, R9 the clock's MSR value, R8 the wall clock's, R15 a random number, RBX counts. */
#define NEXT "imul $1103515245, %r15d, %r15d; add $12345, %r15d; inc %rbx; mov %r15d, %r14d; shr $16, %r14d; movzbl %r14b, %r14d\n" \
             "add $64, %r14d; shl $12, %r14d; add %r13, %r14\n"
#define STORES                                                                                                                    \
    NEXT "mov %bl, 5(%r14)\n" NEXT "mov %bx, 0x11(%r14)\n" NEXT "mov %ebx, 0x20(%r14)\n" NEXT "mov %rbx, 0x101(%r14)\n"           \
    NEXT "movl $1, (%r14)\n" NEXT "incb 7(%r14)\n" NEXT "add %rbx, 0x200(%r14)\n" NEXT "lock xadd %rbx, 0x208(%r14)\n"            \
    NEXT "mov %rbx, %rax; xchg %rax, 0x210(%r14)\n" NEXT "mov 0x218(%r14), %rax; lock cmpxchg %rbx, 0x218(%r14)\n"                \
    NEXT "lock btsq $5, 0x220(%r14)\n" NEXT "mov %rbx, 0xffc(%r14)\n" NEXT "not %ebx; lock orl %ebx, 0x228(%r14)\n"
/* Own entry of a page: A and D away, then read, or written. R14 is the page. */
#define FLAGS                                                                                                                     \
    NEXT "mov %r14, %rax; sub %r13, %rax; shr $9, %rax; lock andb $0x9f, (%rbp,%rax); invlpg (%r14); testb $4, %bl; jnz 3f\n"       \
         "mov %bl, 0x31(%r14); 3: mov 0x31(%r14), %al\n"
#define CLOCKS                                                                                                                    \
    "mov $0x4b564d01, %ecx; mov %r9d, %eax; xor %edx, %edx; wrmsr; test $0x3f, %bl; jnz 4f; mov $0x4b564d00, %ecx; mov %r8d, %eax; wrmsr; 4:\n"

GUEST(plain, 64, "1: " STORES FLAGS CLOCKS "out %al, $0x80; jmp 1b");
GUEST(all, 64,
      "1: " STORES FLAGS CLOCKS
      /* vectors, past the cache, the x87's and the processor's own images */
      "movd %ebx, %xmm0\n" NEXT "movups %xmm0, 0x301(%r14)\n" NEXT "movdqa %xmm0, 0x320(%r14)\n" NEXT "movq %xmm0, 0x330(%r14)\n"
      NEXT "movss %xmm0, 0x338(%r14)\n" NEXT "movhps %xmm0, 0x340(%r14)\n" NEXT "movnti %rbx, 0x348(%r14)\n" NEXT "movntdq %xmm0, 0x350(%r14)\n"
      NEXT "lea 0x360(%r14), %rdi; pcmpeqd %xmm1, %xmm1; maskmovdqu %xmm1, %xmm0\n" NEXT "fxsave 0x400(%r14)\n" NEXT "stmxcsr 0x378(%r14)\n"
      NEXT "fildq 0x101(%r14); fistpq 0x380(%r14)\n" NEXT "fnstcw 0x388(%r14)\n" NEXT "sgdt 0x38a(%r14)\n" NEXT "str 0x398(%r14)\n"
      NEXT "setc 0x39a(%r14)\n" NEXT "movups %xmm0, 0xff8(%r14)\n"
      /* strings, over a page's end too */
      NEXT "lea 0xf00(%r14), %rdi; mov $300, %ecx; mov %ebx, %eax; rep stosb\n" NEXT "lea 0x600(%r14), %rdi; mov %r13, %rsi; mov $9, %ecx; rep movsq\n"
      NEXT "lea 0x3a0(%r14), %rdi; mov $0x99, %edx; insb\n"
      /* the stack: push, call, an interrupt's frame */
      "mov %rsp, %r12\n" NEXT "lea 0x800(%r14), %rsp; push %rbx; call 5f; jmp 6f; 5: ret; 6:\n" NEXT "lea 0x900(%r14), %rsp; int $0x50\n"
      NEXT "lea 0x980(%r14), %rsp; pushfq; enter $16, $0; mov %r12, %rsp; xor %ebp, %ebp; mov %r11, %rbp\n"
      /* code that is written, then run, in a page that others write */
      NEXT "movb $0xc3, 0xa00(%r14); lea 0xa00(%r14), %rax; call *%rax\n"
      /* compare and exchange that stores what was there */
      NEXT "mov %rbx, %rax; lock cmpxchg %rbx, 0x3b0(%r14)\n" NEXT "mov %rbx, %rdi; mov 0x3c0(%r14), %rax; mov 0x3c8(%r14), %rdx; mov %rdi, %rbx;\n"
      "mov %rdi, %rcx; lock cmpxchg16b 0x3c0(%r14); mov %rdi, %rbx\n"
      "out %al, $0x80; jmp 1b");
GUEST(iret, 64, "iretq");

static void put(uint8_t *memory, unsigned page, unsigned index, uint64_t value)
{
    memcpy(memory + (size_t)page * PAGE + 8 * index, &value, sizeof(value));
}

static uint64_t gpa_of(unsigned page)
{
    return SLOT_GPA + (uint64_t)page * PAGE;
}

/* The vCPU's tables: the first GiB one to one by 2 MiB pages, and the window. */
static void make_tables(uint8_t *memory, unsigned vcpu)
{
    const unsigned first = TABLES + TABLES_EACH * vcpu;

    put(memory, first + PML4, 0, gpa_of(first + PDPT) | 3);
    put(memory, first + PDPT, 0, gpa_of(first + PD_LOW) | 3);
    put(memory, first + PDPT, 1, gpa_of(first + PD_WINDOW) | 3);
    for (unsigned i = 0; i < 512; i++)
        put(memory, first + PD_LOW, i, (uint64_t)i << 21 | 0x83);
    put(memory, first + PD_WINDOW, 0, gpa_of(first + PT) | 3);
    for (unsigned i = 0; i < PAGES; i++)
        put(memory, first + PT, i, gpa_of(i) | 3);
}

struct migration {
    struct machine m;
    uint8_t *memory, *copy;
    struct runner runners[VCPUS];
    bool manual;
    struct kvm_dirty_gfn *rings[VCPUS];
    uint32_t next[VCPUS]; /* entries taken of each ring */
    unsigned dirty;
};

static void start_vcpu(struct migration *g, unsigned vcpu)
{
    struct machine *m = &g->m;
    struct kvm_sregs sregs;

    machine_cpuid(m, vcpu);
    machine_long_mode(m, vcpu, GPA_CODE);
    CHECK_OK(ask(m->vcpu[vcpu], KVM_GET_SREGS, &sregs));
    sregs.cr3 = gpa_of(TABLES + TABLES_EACH * vcpu);
    CHECK_OK(ask(m->vcpu[vcpu], KVM_SET_SREGS, &sregs));
    struct kvm_regs regs = machine_regs(m, vcpu);
    regs.r13 = WINDOW;
    regs.r11 = regs.rbp = gpa_of(TABLES + TABLES_EACH * vcpu + PT);
    regs.r9 = (gpa_of(CLOCK + vcpu) + 64 * vcpu) | 1;
    regs.r8 = gpa_of(WALL) + 64 * vcpu;
    regs.r15 = 12345 + 7777 * vcpu;
    regs.rsp = gpa_of(STACK + vcpu) + 0xff0;
    CHECK_OK(ask(m->vcpu[vcpu], KVM_SET_REGS, &regs));
    (void)machine_set_msr(m, vcpu, 0x4b564d03, gpa_of(STEAL + vcpu) | 1); /* where there is steal time */
}

static struct migration *migration_new(uint64_t manual, uint32_t ring_bytes)
{
    static struct migration migration;
    struct migration *g = &migration;
    struct machine *m = &g->m;
    uint8_t *room = machine_anonymous(2 * BYTES);

    g->memory = room + (BYTES - ((uintptr_t)room & (BYTES - 1))) % BYTES; /* 2 MiB, aligned: a large page */
    (void)madvise(g->memory, BYTES, MADV_HUGEPAGE);
    g->copy = machine_anonymous(BYTES);
    *m = machine_new(0, 0);
    if (manual)
        CHECK_OK(machine_enable_cap(m->vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, manual));
    if (ring_bytes) {
        if (ask_number(m->vm, KVM_CHECK_EXTENSION, KVM_CAP_DIRTY_LOG_RING) < (int)ring_bytes)
            row_skip("no rings of that size");
        CHECK_OK(machine_enable_cap(m->vm, KVM_CAP_DIRTY_LOG_RING, ring_bytes));
    }
    g->manual = manual;
    if (implementation & IMPL_EMULATING)
        machine_load(m, GPA_CODE, GUEST_BYTES(plain));
    else
        machine_load(m, GPA_CODE, GUEST_BYTES(all));
    machine_load(m, GPA_HANDLER, GUEST_BYTES(iret));
    machine_gate(m, INTERRUPT, GPA_HANDLER);
    for (unsigned i = 0; i < VCPUS; i++)
        make_tables(g->memory, i);
    for (unsigned i = 0; i < VCPUS; i++)
        machine_add_vcpu(m, i);
    for (unsigned i = 0; ring_bytes && i < VCPUS; i++) {
        g->rings[i] = kvm->mmap(NULL, ring_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, m->vcpu[i], KVM_DIRTY_LOG_PAGE_OFFSET * PAGE);
        CHECK(g->rings[i] != MAP_FAILED);
    }
    return g;
}

static void copy_page(struct migration *g, uint64_t page)
{
    CHECK(page < PAGES);
    memcpy(g->copy + page * PAGE, g->memory + page * PAGE, PAGE);
    g->dirty++;
}

/* What the bitmap has; with a manual clear only what was copied is cleared, in pieces, before it is copied. */
static void harvest_bitmap(struct migration *g)
{
    uint64_t bitmap[PAGES / 64];
    struct kvm_dirty_log log = { .slot = 1, .dirty_bitmap = bitmap };

    CHECK_OK(ask(g->m.vm, KVM_GET_DIRTY_LOG, &log));
    for (unsigned first = 0; g->manual && first < PAGES; first += 128) {
        struct kvm_clear_dirty_log clear = { .slot = 1, .first_page = first, .num_pages = 128, .dirty_bitmap = bitmap + first / 64 };
        CHECK_OK(ask(g->m.vm, KVM_CLEAR_DIRTY_LOG, &clear));
    }
    for (unsigned page = 0; page < PAGES; page++)
        if (bitmap[page / 64] >> (page % 64) & 1)
            copy_page(g, page);
}

static void harvest_rings(struct migration *g)
{
    static bool named[PAGES];
    unsigned count = 0;

    memset(named, 0, sizeof(named));
    for (unsigned i = 0; i < VCPUS; i++)
        for (struct kvm_dirty_gfn *gfn; __atomic_load_n(&(gfn = &g->rings[i][g->next[i] % RING_ENTRIES])->flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_DIRTY;
             g->next[i]++, count++) {
            CHECK_EQ(gfn->slot, 1);
            CHECK(gfn->offset < PAGES);
            named[gfn->offset] = true;
            __atomic_store_n(&gfn->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
        }
    CHECK_EQ(ask(g->m.vm, KVM_RESET_DIRTY_RINGS, NULL), count);
    for (unsigned page = 0; page < PAGES; page++)
        if (named[page])
            copy_page(g, page);
}

static void harvest(struct migration *g)
{
    if (g->rings[0])
        harvest_rings(g);
    else
        harvest_bitmap(g);
}

static void log_on(struct migration *g, uint32_t flags)
{
    CHECK_OK(machine_slot(&g->m, 1, flags, SLOT_GPA, BYTES, g->memory));
}

static void compare(struct migration *g, unsigned round)
{
    for (unsigned page = 0; page < PAGES; page++)
        for (unsigned at = 0; at < PAGE; at += 8) {
            uint64_t a, b;
            memcpy(&a, g->memory + (size_t)page * PAGE + at, 8);
            memcpy(&b, g->copy + (size_t)page * PAGE + at, 8);
            if (a != b)
                check_failed(__FILE__, __LINE__, "round %u: page %u was missed: at 0x%x there is 0x%llx, the copy has 0x%llx", round, page, at,
                             (unsigned long long)a, (unsigned long long)b);
        }
}

static void migrate(uint64_t manual, uint32_t ring_bytes, bool toggled)
{
    struct migration *g = migration_new(manual, ring_bytes);
    const uint64_t begin = now_ns(), limit = implementation & IMPL_EMULATING ? ROW_NS_EMULATING : ROW_NS;
    const unsigned rounds = toggled ? ROUNDS / 4 : ROUNDS;
    unsigned round;

    log_on(g, toggled ? 0 : KVM_MEM_LOG_DIRTY_PAGES);
    for (unsigned i = 0; i < VCPUS; i++)
        start_vcpu(g, i);
    memcpy(g->copy, g->memory, BYTES);
    for (round = 0; round < rounds && now_ns() - begin < limit; round++) {
        for (unsigned i = 0; i < VCPUS; i++)
            runner_start(&g->runners[i], &g->m, i);
        runner_wait(&g->runners[round % VCPUS], 1);
        if (toggled) { /* switched on while they run: all of it is copied once, then what is dirty */
            log_on(g, KVM_MEM_LOG_DIRTY_PAGES);
            memcpy(g->copy, g->memory, BYTES);
        }
        for (uint64_t from = now_ns(); now_ns() - from < ROUND_NS;) {
            harvest(g);
            sched_yield();
        }
        for (unsigned i = 0; i < VCPUS; i++)
            atomic_store(&g->runners[i].stop, true);
        for (unsigned i = 0; i < VCPUS; i++)
            runner_stop(&g->runners[i]);
        harvest(g);
        compare(g, round);
        if (toggled)
            log_on(g, 0);
    }
    CHECK(g->dirty > round * 16);
    CHECK(round >= (implementation & IMPL_EMULATING ? 3 : rounds));
}

static void bitmap(void) { migrate(0, 0, false); }
static void manual_clear(void) { migrate(KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE, 0, false); }
static void initially_set(void) { migrate(KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET, 0, false); }
static void ring(void) { migrate(0, RING_ENTRIES * sizeof(struct kvm_dirty_gfn), false); }
static void switched_on(void) { migrate(0, 0, true); }
static void ring_switched_on(void) { migrate(0, RING_ENTRIES * sizeof(struct kvm_dirty_gfn), true); }

static const struct row rows[] = {
    { "bitmap", bitmap }, { "manual clear", manual_clear }, { "initially set", initially_set }, { "ring", ring },
    { "bitmap switched on", switched_on }, { "ring switched on", ring_switched_on },
};
THEME(race_stores, rows);
