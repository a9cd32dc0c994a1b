/* SPDX-License-Identifier: MIT */
/*
 * 5-level paging (SDM 3A 4.5): CR4.LA57 and when it may change, 57-bit addresses for data, code, stacks, gates and system calls, which
 * checks go by the paging mode and which by what the processor could do, and the rights and bits of PML5 entries.
 */
#include "guest.h"

#define CR4_LA57 (1u << 12)
#define HAS_LA57 has_feature(7, 2, 16)
#define MSR_STAR 0xc0000081u
#define MSR_LSTAR 0xc0000082u
#define MSR_FMASK 0xc0000084u
#define MSR_FS_BASE 0xc0000100u
#define MSR_KERNEL_GS_BASE 0xc0000102u
#define MSR_SYSENTER_EIP 0x176u

#define LOW57 0x0012345678000000ull  /* in the lower half, of 57 bits alone */
#define HIGH57 0xff3456789a400000ull /* in the upper half */
#define EDGE_LOW 0x00fffffffffff000ull
#define EDGE_HIGH 0xff00000000000000ull
#define HOLE57 0x0100000000000000ull /* canonical in no mode */
#define HOLE48 0x0000800000000000ull /* canonical with five levels */

static uint64_t root5[512] __attribute__((aligned(4096)));
static uint64_t page[4];

/* void switch_paging(cr3, cr4): paging off and on again, by way of 32-bit code. */
void switch_paging(uint64_t cr3, uint64_t cr4);
asm("switch_paging: push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15; pushq $0x40; pushq $1f; lretq\n"
    ".code32\n"
    "1: mov $0x10, %eax; mov %eax, %ss; mov %cr0, %eax; and $0x7fffffff, %eax; mov %eax, %cr0\n"
    "mov %esi, %cr4; mov %edi, %cr3; or $0x80000000, %eax; mov %eax, %cr0; ljmp $8, $2f\n"
    ".code64\n"
    "2: pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx; ret");

static volatile uint64_t *pte5(uint64_t va, unsigned level)
{
    uint64_t *e = &root5[va >> 48 & 511];
    if (level == 5)
        return e;
    if (!(*e & PTE_P))
        *e = (uint64_t)table_alloc() | PTE_P | PTE_W | PTE_U;
    return pte_of((uint64_t *)(*e & PTE_ADDR), va, level);
}

static void map57(uint64_t va, uint64_t pa, uint64_t flags)
{
    *pte5(va, 1) = pa | flags | PTE_P;
    invlpg(va);
}

static unsigned try_load(uint64_t va)
{
    return TRY("mov (%0), %%rax", ::"r"(va) : "rax", "memory");
}

static void stack_load(uint64_t va) /* RBP's segment is SS */
{
    asm volatile("push %%rbp; mov %0, %%rbp; mov (%%rbp), %%rax; pop %%rbp" ::"r"(va) : "rax", "memory");
}

static void call_at(uint64_t va) { ((void (*)(void))va)(); }
static void store(uint64_t va) { *(volatile uint64_t *)va = 0x77; }
static void load(uint64_t va) { (void)*(volatile uint64_t *)va; }

/* ---- four levels on a processor that could do five ---- */

static void check_bases(const char *mode)
{
    struct table_ptr table = {0xfff, LOW57};
    struct { uint64_t pcid, va; } descriptor = {0, LOW57};
    check_eq(try_wrmsr(MSR_FS_BASE, HIGH57), VEC_NONE, mode);
    check_eq(rdmsr(MSR_FS_BASE), HIGH57, "fs-base-57");
    check_eq(try_wrmsr(MSR_FS_BASE, HOLE57), GP, "fs-base-58");
    wrmsr(MSR_FS_BASE, 0);
    check_eq(try_wrmsr(MSR_KERNEL_GS_BASE, LOW57), VEC_NONE, "kernel-gs-base-57");
    check_eq(try_wrmsr(MSR_LSTAR, LOW57), VEC_NONE, "lstar-57");
    check_eq(try_wrmsr(MSR_LSTAR, HOLE57), GP, "lstar-58");
    check_eq(try_wrmsr(MSR_SYSENTER_EIP, LOW57), VEC_NONE, "sysenter-eip-57");
    struct table_ptr old;
    asm volatile("sidt %0; lidt %1; sidt %1; lidt %0" : "=m"(old), "+m"(table)); /* nothing interrupts meanwhile */
    check_eq(table.base, LOW57, "lidt-57");
    table.base = HOLE57;
    check_eq(TRY("lidt %0", ::"m"(table)), GP, "lidt-58");
    check_eq(TRY("invlpg (%0)", ::"r"(HOLE57)), VEC_NONE, "invlpg-58-does-nothing");
    if (HAS_INVPCID) {
        check_eq(TRY("invpcid %0, %1", ::"m"(descriptor), "r"(0ull)), VEC_NONE, "invpcid-57");
        descriptor.va = HOLE57;
        check_eq(TRY("invpcid %0, %1", ::"m"(descriptor), "r"(0ull)), GP, "invpcid-58");
    }
    if (HAS_FSGSBASE) {
        write_cr4(read_cr4() | CR4_FSGSBASE);
        check_eq(TRY("wrfsbase %0", ::"r"(LOW57)), VEC_NONE, "wrfsbase-57");
        check_eq(TRY("wrfsbase %0", ::"r"(HOLE57)), GP, "wrfsbase-58");
        wrmsr(MSR_FS_BASE, 0);
        write_cr4(read_cr4() & ~(uint64_t)CR4_FSGSBASE);
    }
}

static void four_levels(void)
{
    check_eq(try_write_cr4(read_cr4() | CR4_LA57), GP, "la57-not-in-long-mode");
    check_eq(try_load(LOW57), GP, "load-57-in-4-levels");
    check_eq(try_load(HOLE48), GP, "load-48-in-4-levels");
    check_eq(run_catch(call_at, HOLE48), GP, "call-48-in-4-levels");
    check_bases("fs-base-57-in-4-levels");
    wrmsr(MSR_FS_BASE, LOW57);
    check_eq(TRY("mov %%fs:0, %%rax", ::: "rax", "memory"), GP, "load-by-fs-57-in-4-levels");
    wrmsr(MSR_FS_BASE, 0);
}

/* ---- five levels: data ---- */

static void data57(void)
{
    static const uint64_t addresses[] = {LOW57, HIGH57, EDGE_LOW, EDGE_HIGH, HOLE48, 0x0001000000000000ull, 0xff80000000000000ull};
    for (unsigned i = 0; i < ARRAY_SIZE(addresses); i++) {
        *(volatile uint64_t *)page[0] = 0;
        map57(addresses[i], page[0], PTE_W);
        *(volatile uint64_t *)(addresses[i] + 8) = i + 1;
        check_eq(*(volatile uint64_t *)(page[0] + 8), i + 1, "store-57");
        *(volatile uint64_t *)page[0] = i + 100;
        check_eq(*(volatile uint64_t *)addresses[i], i + 100, "load-57");
        map57(addresses[i], 0, 0);
        *pte5(addresses[i], 1) = 0;
        invlpg(addresses[i]);
        check_eq(try_load(addresses[i] + 0x123), PF, "load-57-not-present");
        check_eq(fault.cr2, addresses[i] + 0x123, "cr2-57");
        check_eq(fault.error, 0, "error-57");
    }

    /* Addresses that differ above bit 47 alone are different pages in every cache. */
    for (unsigned i = 0; i < 4; i++) {
        map57(LOW57 + (uint64_t)i * (1ull << 48), page[i], PTE_W);
        *(uint64_t *)page[i] = i + 1;
    }
    bool all = true;
    for (unsigned n = 0; n < 200; n++)
        all &= *(volatile uint64_t *)(LOW57 + (n * 7 & 3) * (1ull << 48)) == (n * 7 & 3) + 1;
    check(all, "bits-48-to-56-tell-pages-apart");
    map57(LOW57, page[3], PTE_W);
    check_eq(*(volatile uint64_t *)LOW57, 4, "invlpg-57");

    /* The whole of what is not canonical, also by an operand that ends there. */
    check_eq(try_load(HOLE57), GP, "load-58");
    check_eq(try_load(0xfeffffffffffffffull), GP, "load-58-upper");
    check_eq(try_load(0x8000000000000000ull), GP, "load-bit-63");
    check_eq(run_catch(stack_load, HOLE57), SS, "stack-load-58");
    map57(EDGE_LOW, page[0], PTE_W);
    check_eq(try_load(EDGE_LOW + 0xff8), VEC_NONE, "load-below-the-edge");
    check_eq(try_load(EDGE_LOW + 0xffc), GP, "load-across-the-edge");

    /* A string, across pages whose addresses are beyond 48 bits. */
    map57(HIGH57, page[1], PTE_W);
    map57(HIGH57 + 4096, page[2], PTE_W);
    for (unsigned i = 0; i < 4096; i++)
        ((uint8_t *)page[0])[i] = (uint8_t)(i * 3 + 1);
    uint64_t to = HIGH57 + 2048, from = EDGE_LOW, n = 4096;
    asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n)::"memory");
    check_eq(to, HIGH57 + 2048 + 4096, "movs-57-rdi");
    check(!memcmp((void *)(page[1] + 2048), (void *)page[0], 2048) && !memcmp((void *)page[2], (void *)(page[0] + 2048), 2048), "movs-57");
    wrmsr(MSR_FS_BASE, HIGH57);
    *(uint64_t *)page[1] = 0x5151;
    uint64_t value;
    asm volatile("mov %%fs:0, %0" : "=r"(value)::"memory");
    check_eq(value, 0x5151, "load-by-fs-57");
    wrmsr(MSR_FS_BASE, 0);
}

/* ---- rights and bits of entries, large pages ---- */

static void entries57(void)
{
    map57(LOW57, page[0], PTE_W | PTE_U);
    for (unsigned level = 1; level <= 5; level++)
        *pte5(LOW57, level) &= ~(PTE_A | PTE_D);
    write_cr3(read_cr3());
    load(LOW57);
    bool all = true;
    for (unsigned level = 1; level <= 5; level++)
        all &= (*pte5(LOW57, level) & (PTE_A | PTE_D)) == PTE_A;
    check(all, "read-sets-a-at-5-levels");
    store(LOW57);
    check_eq(*pte5(LOW57, 1) & (PTE_A | PTE_D), PTE_A | PTE_D, "write-sets-d");
    check_eq(*pte5(LOW57, 5) & PTE_D, 0, "write-sets-no-d-in-pml5e");

    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NX);
    const uint64_t entry = *pte5(LOW57, 5);
    *pte5(LOW57, 5) = entry & ~PTE_P;
    write_cr3(read_cr3());
    check_eq(run_catch(load, LOW57), PF, "pml5e-not-present");
    check_eq(fault.error, 0, "pml5e-not-present-error");
    *pte5(LOW57, 5) = entry | PTE_PS;
    write_cr3(read_cr3());
    check_eq(run_catch(load, LOW57), PF, "pml5e-ps-reserved");
    check_eq(fault.error, PF_P | PF_RSVD, "pml5e-ps-reserved-error");
    *pte5(LOW57, 5) = entry & ~PTE_W;
    write_cr0(read_cr0() | CR0_WP);
    write_cr3(read_cr3());
    check_eq(run_catch(store, LOW57), PF, "pml5e-read-only");
    check_eq(fault.error, PF_P | PF_W, "pml5e-read-only-error");
    *pte5(LOW57, 5) = entry & ~PTE_U;
    write_cr3(read_cr3());
    check_eq(run_user((test_fn *)(uintptr_t)LOW57, 0), PF, "pml5e-supervisor");
    check_eq(fault.error, PF_P | PF_U | PF_I, "pml5e-supervisor-error");
    *pte5(LOW57, 5) = entry | PTE_NX;
    write_cr3(read_cr3());
    *(uint8_t *)page[0] = 0xc3;
    check_eq(run_catch(call_at, LOW57), PF, "pml5e-nx");
    check_eq(fault.error, PF_P | PF_I, "pml5e-nx-error");
    *pte5(LOW57, 5) = entry;
    write_cr3(read_cr3());

    const uint64_t large = 0x0055000000000000ull;
    *pte5(large, 2) = (page[1] & ~0x1fffffull) | PTE_P | PTE_W | PTE_PS;
    check_eq(*(volatile uint64_t *)(large + (page[1] & 0x1fffff)), *(uint64_t *)page[1], "2m-page-57");
    if (HAS_1G) {
        *pte5(large + (1ull << 39), 3) = PTE_P | PTE_W | PTE_PS;
        check_eq(*(volatile uint64_t *)(large + (1ull << 39) + page[1]), *(uint64_t *)page[1], "1g-page-57");
    }
}

/* ---- code, stacks, gates, system calls ---- */

extern const uint8_t code57[], code57_end[], user57[], user57_end[];
asm(".pushsection .text; code57: lea 0(%rip), %rax; ret; ud2; code57_end: user57: lea 0(%rip), %rax; mov %rsp, %rsi; syscall; ud2; user57_end: .popsection");
void syscall57(void);
asm(".pushsection .text; syscall57: mov %rcx, sysret_rip; jmp *syscall57_out; .popsection");
uint64_t sysret_rip, syscall57_out;
extern void catch_longjmp(void);

static void code_and_stacks57(void)
{
    map57(HIGH57, page[1], PTE_W | PTE_U);
    memcpy((void *)page[1], code57, (size_t)(code57_end - code57));
    uint64_t rip;
    for (unsigned i = 0; i < 3; i++) {
        asm volatile("call *%1" : "=a"(rip) : "r"(HIGH57) : "memory");
        check_eq(rip, HIGH57 + 7, "rip-57");
    }
    check_eq(run_catch(call_at, HIGH57 + 8), UD, "fault-57");
    check_eq(fault.rip, HIGH57 + 8, "fault-rip-57");
    check_eq(run_catch(call_at, HOLE57), GP, "call-58");
    check_eq(run_catch(call_at, 0xfe00000000000000ull), GP, "call-58-upper");

    /* Code that crosses the last page of the lower half, and a stack beyond 48 bits. */
    map57(LOW57, page[2], PTE_W | PTE_U);
    uint64_t got;
    asm volatile("mov %%rsp, %%rbx; mov %1, %%rsp; pushq $0x1357; call *%2; pop %0; mov %%rbx, %%rsp"
                 : "=&r"(got) : "r"(LOW57 + 4096), "r"(HIGH57) : "rax", "rbx", "memory");
    check_eq(got, 0x1357, "stack-57");
    check_eq(*(uint64_t *)(page[2] + 4088), 0x1357, "stack-57-memory");

    /* An exception of ring 3, whose RSP0 and IST lie there, through a gate that leads there. */
    tss.rsp[0] = LOW57 + 2048;
    user_rflags = 2;
    check_eq(run_user((test_fn *)(uintptr_t)(HIGH57 + 8), 0), UD, "user-fault-57");
    check_eq(fault.rip, HIGH57 + 8, "user-fault-rip-57");
    check_eq(fault.handler_rsp, LOW57 + 2048 - sizeof(struct frame), "rsp0-57");
    tss.rsp[0] = HOLE57;
    tss.ist[0] = (uint64_t)(ist_stack[0] + 4096);
    idt_set_ist(DF, 1);
    idt_set_ist(SS, 1);
    check_eq(run_user((test_fn *)(uintptr_t)(HIGH57 + 8), 0), SS, "rsp0-58");
    idt_set_ist(DF, 0);
    idt_set_ist(SS, 0);
    tss.rsp[0] = (uint64_t)(rsp0_stack + sizeof rsp0_stack);

    /* SYSCALL from and to there; SYSRET's address is what was noted. */
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
    memcpy((void *)(page[1] + 0x100), user57, (size_t)(user57_end - user57));
    memcpy((void *)(page[1] + 0x200), (void *)syscall57, 32); /* absolute addresses only */
    wrmsr(MSR_STAR, (uint64_t)SEL_KCS << 32);
    wrmsr(MSR_FMASK, FL_IF);
    wrmsr(MSR_LSTAR, HIGH57 + 0x200);
    syscall57_out = (uint64_t)catch_longjmp;
    sysret_rip = 0;
    run_user((test_fn *)(uintptr_t)(HIGH57 + 0x100), 0);
    check_eq(sysret_rip, HIGH57 + 0x100 + (uint64_t)(user57_end - user57) - 2, "syscall-57");
    if (!is_amd()) { /* AMD's fault at the target, in ring 3 */
        register uint64_t flags asm("r11") = 2;
        check_eq(TRY("sysretq", ::"c"(HOLE57), "r"(flags) : "memory"), GP, "sysret-58");
    }
}

void test_main(void)
{
    if (!HAS_LA57) {
        check_eq(try_write_cr4(read_cr4() | CR4_LA57), GP, "la57-reserved-without-cpuid");
        check_eq(try_wrmsr(MSR_FS_BASE, LOW57), GP, "fs-base-57-without-cpuid");
        return;
    }
    check_eq(cpuid(0x80000008u, 0).a >> 8 & 0xff, 57, "linear-address-bits");
    for (unsigned i = 0; i < ARRAY_SIZE(page); i++)
        page[i] = (uint64_t)table_alloc();
    gdt[SEL_FREE / 8] = 0x00cf9b000000ffff; /* 32-bit code, for switch_paging() */
    four_levels();

    root5[0] = (uint64_t)root_table | PTE_P | PTE_W | PTE_U;
    switch_paging((uint64_t)root5, read_cr4() | CR4_LA57);
    check(read_cr4() & CR4_LA57, "la57-on");
    check_eq(try_write_cr4(read_cr4() & ~(uint64_t)CR4_LA57), GP, "la57-stays-in-long-mode");
    check_bases("fs-base-57-in-5-levels");
    data57();
    entries57();
    code_and_stacks57();

    switch_paging((uint64_t)root_table, read_cr4() & ~(uint64_t)CR4_LA57);
    check(!(read_cr4() & CR4_LA57), "la57-off");
    check_eq(try_load(LOW57), GP, "load-57-in-4-levels-again");
    check_eq(try_load(HOLE48), GP, "load-48-in-4-levels-again");
}
