/* SPDX-License-Identifier: MIT */
/*
 * Self-modifying code: on the same page and another, the very next instruction, through an alias,
 * loops that patch themselves, data beside code, string stores over code; and instructions and
 * branches that cross pages whose mapping changes.
 */
#include "guest.h"

static uint8_t *page; /* identity-mapped, writable, executable */

static unsigned call(const void *f)
{
    unsigned v;
    asm volatile("call *%1" : "=a"(v) : "r"(f) : "rcx", "rdx", "rsi", "rdi", "memory", "cc");
    return v;
}

static void put_mov_ret(uint8_t *p, uint32_t value) /* mov $value, %eax; ret */
{
    p[0] = 0xb8;
    memcpy(p + 1, &value, 4);
    p[5] = 0xc3;
}

/* Code in this image that patches itself; the immediates are at known labels. */
unsigned patch_next(unsigned), patch_loop(unsigned), patch_jump(void), patch_rep(unsigned), calm_then_patch(unsigned);
extern uint8_t rep_target[];
asm("patch_next: mov %edi, patch_next_insn+1(%rip)\n"
    "patch_next_insn: mov $0x11111111, %eax; ret\n"
    "patch_jump: mov $0x33333333, %eax; mov %eax, 1f+1(%rip); jmp 1f; nop; nop\n"
    "1: mov $0x22222222, %eax; ret\n"
    /* sums its own immediate, which it increments: 1 + 2 + ... + edi */
    "patch_loop: xor %eax, %eax; movl $1, 1f+2(%rip)\n"
    "2:\n1: .byte 0x81, 0xc0; .long 1\n incl 1b+2(%rip); dec %edi; jnz 2b; ret\n"
    /* stores edi times beside itself, then over the instruction that follows */
    "calm_then_patch: movl $0x55555555, 1f+1(%rip); mov %edi, %ecx; lea 3f(%rip), %rdi; inc %ecx\n"
    "2: mov %ecx, (%rdi); dec %ecx; jnz 2b; movl $0x44444444, 1f+1(%rip)\n"
    "1: mov $0x55555555, %eax; ret; .balign 64; 3: .skip 64\n"
    /* stores NOPs over INCs with REP STOS just before running them */
    "patch_rep: mov %edi, %ecx; lea rep_target(%rip), %rdi; mov $0x90, %al; rep stosb; xor %eax, %eax\n"
    "rep_target: .rept 8\n .byte 0xff, 0xc0\n .endr\n ret\n");

void test_main(void)
{
    bool ok;
    page = (uint8_t *)table_alloc();
    uint8_t *const next = (uint8_t *)table_alloc();

    put_mov_ret(page, 1);
    check_eq(call(page), 1, "first-run");
    put_mov_ret(page, 2);
    check_eq(call(page), 2, "other-page");
    ok = true;
    for (unsigned i = 0; i < 300; i++) {
        *(volatile uint32_t *)(page + 1) = i;
        ok &= call(page) == i;
    }
    check(ok, "other-page-300-times");
    ok = true;
    for (unsigned i = 0; i < 100; i++)
        ok &= patch_next(i * 3) == i * 3;
    check(ok, "next-instruction");
    check_eq(patch_jump(), 0x33333333, "after-a-jump");
    check_eq(patch_loop(1), 1, "loop-1");
    check_eq(patch_loop(100), 5050, "loop-100");
    check_eq(patch_rep(0), 8, "rep-stos-none");
    check_eq(patch_rep(6), 5, "rep-stos-over-code");
    check_eq(patch_rep(16), 0, "rep-stos-over-all");

    /* A page that is mostly written may lose its standing as code, and must get it back. */
    ok = true;
    for (unsigned i = 0; i < 100; i++) {
        for (unsigned k = 0; k < i * 24; k++)
            ((volatile uint32_t *)page)[512 + k % 512] = k;
        put_mov_ret(page, i);
        ok &= call(page) == i;
        *(volatile uint32_t *)(page + 1) = ~i;
        ok &= call(page) == ~i;
    }
    check(ok, "code-beside-much-written-data");
    ok = true;
    for (unsigned i = 0; i < 300; i++)
        ok &= calm_then_patch(i * 7 % 700) == 0x44444444;
    check(ok, "code-that-writes-its-page-long-before-itself");

    /* byte by byte: each one matters at once */
    put_mov_ret(page, 0x01020304);
    ok = true;
    for (unsigned i = 0; i < 4; i++) {
        page[1 + i] = (uint8_t)(0xa0 + i);
        uint32_t want;
        memcpy(&want, page + 1, 4);
        ok &= call(page) == want;
    }
    check(ok, "byte-stores");
    put_mov_ret(page, 5);
    call(page);
    asm volatile("lock incl 1(%0)" ::"r"(page) : "memory", "cc");
    check_eq(call(page), 6, "lock-inc");
    uint32_t seven = 7;
    asm volatile("xchg %0, 1(%1)" : "+r"(seven) : "r"(page) : "memory");
    check_eq(call(page), 7, "xchg");
    asm volatile("push %1; mov %%rsp, %%rdx; lea 9(%0), %%rsp; push %1; mov %%rdx, %%rsp; pop %1" ::"r"(page), "r"(0xc300000008ull) : "rdx", "memory");
    check_eq(call(page) & 0xff, 8, "push");
    put_mov_ret(page, 9);
    call(page);
    uint8_t buf[6];
    put_mov_ret(buf, 10);
    memcpy(page, buf, 6);
    check_eq(call(page), 10, "rep-movs");

    /* data on the page of the code that writes it: mov $n, %ecx; 1: incl data(%rip); dec %ecx; jnz 1b; mov data(%rip), %eax; ret */
    static const uint8_t counter[] = {0xb9, 100, 0, 0, 0, 0xff, 0x05, 0xf5, 7, 0, 0, 0xff, 0xc9, 0x75, 0xf6, 0x8b, 0x05, 0xeb, 7, 0, 0, 0xc3};
    memcpy(page, counter, sizeof counter);
    *(volatile uint32_t *)(page + 0x800) = 0;
    check_eq(call(page), 100, "data-on-code-page");
    check_eq(call(page), 200, "data-on-code-page-again");

    /* through an alias mapping */
    map_page(TEST_VA, (uint64_t)page, PTE_P | PTE_W);
    put_mov_ret(page, 20);
    check_eq(call((void *)TEST_VA), 20, "alias-run");
    check_eq(call(page), 20, "identity-run");
    *(volatile uint32_t *)(TEST_VA + 1) = 21;
    check_eq(call(page), 21, "written-through-alias");
    *(volatile uint32_t *)(page + 1) = 22;
    check_eq(call((void *)TEST_VA), 22, "alias-sees-write");

    /* an instruction over two pages, the second of which is remapped or rewritten */
    uint8_t *const second = (uint8_t *)table_alloc(), *const third = (uint8_t *)table_alloc();
    map_page(TEST_VA + 0x1000, (uint64_t)second, PTE_P | PTE_W);
    uint8_t *const cross = (uint8_t *)TEST_VA + 0xffe; /* b8 lo | ... */
    put_mov_ret(cross, 0x44332211);
    check_eq(call(cross), 0x44332211, "cross-page");
    second[1] = 0x99;
    check_eq(call(cross), 0x44992211 & 0xff99ffff, "cross-page-second-page-written");
    memcpy(third, second, 16);
    third[0] = 0x77;
    map_page(TEST_VA + 0x1000, (uint64_t)third, PTE_P | PTE_W);
    check_eq(call(cross), 0x44997711, "cross-page-remapped");
    cross[1] = 0x12;
    check_eq(call(cross), 0x44997712, "cross-page-first-page-written");
    map_page(TEST_VA + 0x1000, 0, 0);
    idt_set_ist(PF, 2);
    check_eq(run_asm(cross, 0), PF, "cross-page-fault");
    check_eq(fault.rip, (uint64_t)cross, "cross-page-fault-rip");
    check_eq(fault.cr2, TEST_VA + 0x1000, "cross-page-fault-cr2");
    check_eq(fault.error, PF_I, "cross-page-fault-error");

    /* a branch to a page that changes under it: jmp to next page */
    put_mov_ret(second, 31);
    put_mov_ret(third, 32);
    uint8_t *const jump = (uint8_t *)TEST_VA + 0x100;
    const uint32_t rel = 0x1000 - 0x105;
    jump[0] = 0xe9;
    memcpy(jump + 1, &rel, 4);
    ok = true;
    for (unsigned i = 0; i < 50; i++) {
        map_page(TEST_VA + 0x1000, (uint64_t)(i & 1 ? third : second), PTE_P | PTE_W);
        ok &= call(jump) == 31 + (i & 1);
    }
    check(ok, "branch-to-remapped-page");
    map_page(TEST_VA + 0x1000, (uint64_t)second, PTE_P | PTE_W | PTE_NX);
    check_eq(run_asm(jump, 0), PF, "branch-to-nx");
    check_eq(fault.error, PF_P | PF_I, "branch-to-nx-error");
    check_eq(fault.rip, TEST_VA + 0x1000, "branch-to-nx-rip");
    map_page(TEST_VA + 0x1000, (uint64_t)second, PTE_P | PTE_W);
    check_eq(call(jump), 31, "branch-after-nx");
    /* fall-through over a page end */
    memset((uint8_t *)TEST_VA + 0xff0, 0x90, 16);
    put_mov_ret(second, 33);
    check_eq(call((void *)(TEST_VA + 0xff0)), 33, "fall-through");
    map_page(TEST_VA + 0x1000, (uint64_t)third, PTE_P | PTE_W);
    check_eq(call((void *)(TEST_VA + 0xff0)), 32, "fall-through-remapped");
    /* many small functions on one page, rewritten in turn */
    ok = true;
    for (unsigned round = 0; round < 5; round++) {
        for (unsigned i = 0; i < 100; i++)
            put_mov_ret(next + 8 * i, i + round);
        for (unsigned i = 0; i < 100; i++)
            ok &= call(next + 8 * i) == i + round;
    }
    check(ok, "many-on-one-page");
}
