/* SPDX-License-Identifier: MIT */
/*
 * Paging of 32-bit code: two levels, PSE, PSE-36, PAE with and without NX (SDM 3A 4.3, 4.4). Tables
 * map the first 32 MiB one to one, as supervisor pages, and TEST_VA on as each check wants it.
 */
#include "guest32.h"

#define TEST_VA 0xc0000000u /* where kernels live */
#define USER_VA 0x40000000u
#define RAM_PAGES (32u << 8)

static uint32_t *dir, *table; /* of the two-level format; table maps TEST_VA */
static uint64_t *pdpt, *pd[4], *pae_table;
static uint8_t *page_a, *page_b;

static void pages_init(void)
{
    page_a = page_alloc();
    page_b = page_alloc();
    memset(page_a, 0xaa, 4096);
    memset(page_b, 0xbb, 4096);
}

/* What was written by another address must be in memory before the read. */
static inline uint8_t peek(uint32_t va) { uint8_t v; asm volatile("movb (%1), %0" : "=q"(v) : "r"(va) : "memory"); return v; }
static inline uint32_t peek32(uint32_t va) { uint32_t v; asm volatile("movl (%1), %0" : "=r"(v) : "r"(va) : "memory"); return v; }
static unsigned try_read(uint32_t va) { uint8_t v; return TRY("movb (%1), %0", : "=q"(v) : "r"(va) : "memory"); }
static unsigned try_write(uint32_t va) { return TRY("movb $1, (%0)", ::"r"(va) : "memory"); }
static void read_at(uint32_t va) { (void)peek(va); }
static void jump_to(uint32_t va) { ((void (*)(void))va)(); }
USER_TEXT static void user_read(uint32_t va) { (void)*(volatile uint8_t *)va; }
USER_TEXT static void user_write(uint32_t va) { *(volatile uint8_t *)va = 1; }
USER_TEXT static void user_jump(uint32_t va) { ((void (*)(void))va)(); }

/* vector and error code of the last fault in one number, and CR2 as it should be */
static void check_pf(unsigned vector, uint32_t error, uint32_t va, const char *name)
{
    check_eq(vector << 16 | fault.error, PF << 16 | error, name);
    if (vector == PF)
        check_eq(fault.cr2, va, "  cr2");
}

/* ---- two levels ---- */

extern uint8_t user_start[], user_end[]; /* of the pages that have USER_TEXT and USER_DATA */

static void two_level_on(uint32_t cr4)
{
    dir = page_alloc();
    table = page_alloc();
    for (unsigned i = 0; i < RAM_PAGES / 1024; i++) {
        uint32_t *t = page_alloc();
        for (uint32_t n = 0; n < 1024; n++) {
            uint32_t pa = (i << 22) + (n << 12);
            bool user = pa >= (uint32_t)user_start && pa < (uint32_t)user_end;
            t[n] = pa | PTE_P | PTE_W | (user ? PTE_U : 0);
        }
        dir[i] = (uint32_t)t | PTE_P | PTE_W | PTE_U;
    }
    dir[TEST_VA >> 22] = (uint32_t)table | PTE_P | PTE_W | PTE_U;
    dir[USER_VA >> 22] = (uint32_t)table | PTE_P | PTE_W | PTE_U;
    write_cr3((uint32_t)dir);
    write_cr4(cr4);
    write_cr0(read_cr0() | CR0_PG);
}

static void paging_off(void)
{
    write_cr0(read_cr0() & ~CR0_PG);
    write_cr4(0);
}

static void test_two_level(void)
{
    two_level_on(0);
    check_eq(read_cr3(), (uint32_t)dir, "cr3");
    check_pf(try_read(TEST_VA), 0, TEST_VA, "not-present-read");
    check_pf(try_write(TEST_VA + 5), PF_W, TEST_VA + 5, "not-present-write");
    table[0] = (uint32_t)page_a | PTE_P | PTE_W;
    check_eq(peek(TEST_VA), 0xaa, "read");
    check_eq(table[0] & (PTE_A | PTE_D), PTE_A, "accessed");
    check_eq(dir[TEST_VA >> 22] & PTE_A, PTE_A, "accessed-directory");
    check_eq(try_write(TEST_VA), VEC_NONE, "write");
    check_eq(table[0] & (PTE_A | PTE_D), PTE_A | PTE_D, "dirty");
    check_pf(call_user(user_read, TEST_VA), PF_P | PF_U, TEST_VA, "supervisor-page-from-user");
    check_pf(call_user(user_write, TEST_VA + 0xfff), PF_P | PF_U | PF_W, TEST_VA + 0xfff, "supervisor-page-user-write");

    table[0] = (uint32_t)page_a | PTE_P | PTE_U;
    invlpg(TEST_VA);
    check_eq(call_user(user_read, TEST_VA), VEC_NONE, "user-read");
    check_pf(call_user(user_write, TEST_VA), PF_P | PF_U | PF_W, TEST_VA, "user-write-read-only");
    check_pf(try_write(TEST_VA), PF_P | PF_W, TEST_VA, "wp");
    write_cr0(read_cr0() & ~CR0_WP);
    check_eq(try_write(TEST_VA), VEC_NONE, "no-wp");
    write_cr0(read_cr0() | CR0_WP);
    check_pf(try_write(TEST_VA), PF_P | PF_W, TEST_VA, "wp-again");

    /* The directory's rights count too. */
    dir[TEST_VA >> 22] = (uint32_t)table | PTE_P | PTE_W;
    write_cr3((uint32_t)dir);
    check_pf(call_user(user_read, TEST_VA), PF_P | PF_U, TEST_VA, "directory-supervisor");
    dir[TEST_VA >> 22] = (uint32_t)table | PTE_P | PTE_U;
    table[0] |= PTE_W;
    write_cr3((uint32_t)dir);
    check_pf(try_write(TEST_VA), PF_P | PF_W, TEST_VA, "directory-read-only");
    dir[TEST_VA >> 22] = (uint32_t)table | PTE_P | PTE_W | PTE_U;

    /* Code runs there, and no bit of an entry can forbid it. */
    *page_b = 0xc3;
    table[1] = (uint32_t)page_b | PTE_P | PTE_U;
    write_cr3((uint32_t)dir);
    check_eq(run_catch((void *)jump_to, TEST_VA + 0x1000), VEC_NONE, "fetch");
    check_eq(call_user(user_jump, TEST_VA + 0x1000), VEC_NONE, "fetch-user");
    check_pf(run_catch((void *)jump_to, TEST_VA + 0x2000), 0, TEST_VA + 0x2000, "fetch-not-present"); /* no I without NX */

    /* A stale translation is kept until INVLPG or MOV to CR3. */
    table[2] = (uint32_t)page_a | PTE_P | PTE_W;
    check_eq(peek(TEST_VA + 0x2000) == 1, true, "remap-first");
    table[2] = (uint32_t)page_b | PTE_P | PTE_W;
    invlpg(TEST_VA + 0x2abc);
    check_eq(peek(TEST_VA + 0x2000), 0xc3, "invlpg");
    table[2] = (uint32_t)page_a | PTE_P | PTE_W;
    write_cr3((uint32_t)dir);
    check_eq(peek(TEST_VA + 0x2001), 0xaa, "cr3-flushes");

    /* An access across two pages that are apart, and one across a fault that changes nothing. */
    table[3] = (uint32_t)page_b | PTE_P | PTE_W;
    asm volatile("movl $0x44332211, (%0)" ::"r"(TEST_VA + 0x2ffe) : "memory");
    check_eq(page_a[0xfff] << 16 | page_b[0] << 8 | page_b[1], 0x223344, "crossing-write");
    check_pf(TRY("movl $0, (%0)", ::"r"(TEST_VA + 0x3ffd) : "memory"), PF_W, TEST_VA + 0x4000, "crossing-fault");
    check_eq(page_b[0xffd], 0xbb, "crossing-fault-wrote-nothing");
    paging_off();
    check_eq(peek((uint32_t)page_a + 0x123), 0xaa, "off-again");
}

/* Bit 7 of a directory entry with CR4.PSE: 4 MiB pages. */
static void test_pse(void)
{
    two_level_on(CR4_PSE);
    uint32_t *big = (uint32_t *)0x1800000; /* 24 MiB */
    big[0] = 0x11111111;
    big[0x3ff000 / 4] = 0x22222222;
    dir[TEST_VA >> 22] = 0x1800000 | PTE_P | PTE_W | PTE_U | PTE_PS;
    write_cr3((uint32_t)dir);
    check_eq(peek32(TEST_VA), 0x11111111, "first");
    check_eq(peek32(TEST_VA + 0x3ff000), 0x22222222, "last");
    check_eq(dir[TEST_VA >> 22] & (PTE_A | PTE_D), PTE_A, "accessed");
    check_eq(try_write(TEST_VA + 0x200000), VEC_NONE, "write");
    check_eq(dir[TEST_VA >> 22] & PTE_D, PTE_D, "dirty");
    check_eq(*(uint8_t *)0x1a00000, 1, "written-there");
    /* INVLPG of any address in it drops all of it. */
    dir[TEST_VA >> 22] = 0x1c00000 | PTE_P | PTE_W | PTE_U | PTE_PS;
    *(uint32_t *)0x1c00000 = 0x33333333;
    invlpg(TEST_VA + 0x3ff123);
    check_eq(peek32(TEST_VA), 0x33333333, "invlpg-4m");
    dir[TEST_VA >> 22] |= 1u << 21;
    write_cr3((uint32_t)dir);
    check_pf(try_read(TEST_VA), PF_P | PF_RSVD, TEST_VA, "reserved-bit-21");
    /* PSE-36: above 4 GiB there is no memory here. */
    dir[TEST_VA >> 22] = 0x1c00000 | 1u << 13 | PTE_P | PTE_W | PTE_U | PTE_PS;
    write_cr3((uint32_t)dir);
    check_eq(peek32(TEST_VA), 0xffffffff, "pse36");
    /* Clearing CR4.PSE makes bit 7 nothing: the entry is a table's. */
    table[0] = (uint32_t)page_a | PTE_P | PTE_W;
    page_a[0] = 0xaa;
    dir[TEST_VA >> 22] = (uint32_t)table | PTE_P | PTE_W | PTE_U | PTE_PS;
    write_cr4(0);
    check_eq(peek(TEST_VA), 0xaa, "no-pse");
    paging_off();
}

static void test_global(void)
{
    two_level_on(CR4_PGE);
    table[0] = (uint32_t)page_a | PTE_P | PTE_W | PTE_G;
    table[1] = (uint32_t)page_a | PTE_P | PTE_W;
    page_a[0] = 0xa0;
    page_b[0] = 0xb0;
    check_eq(peek(TEST_VA), 0xa0, "global-first");
    check_eq(peek(TEST_VA + 0x1000), 0xa0, "local-first");
    table[0] = (uint32_t)page_b | PTE_P | PTE_W | PTE_G;
    table[1] = (uint32_t)page_b | PTE_P | PTE_W;
    write_cr3((uint32_t)dir);
    check_eq(peek(TEST_VA + 0x1000), 0xb0, "local-flushed");
    invlpg(TEST_VA);
    check_eq(peek(TEST_VA), 0xb0, "invlpg-global");
    table[0] = (uint32_t)page_a | PTE_P | PTE_W | PTE_G;
    write_cr4(0);
    check_eq(peek(TEST_VA), 0xa0, "pge-off-flushes");
    paging_off();
}

/* ---- PAE ---- */

static void pae_tables(void)
{
    pdpt = (uint64_t *)((uint8_t *)page_alloc() + 0xfe0); /* 32-byte aligned is enough */
    pae_table = page_alloc();
    for (unsigned i = 0; i < 4; i++) {
        pd[i] = page_alloc();
        pdpt[i] = (uint32_t)pd[i] | PTE_P;
    }
    for (uint32_t i = 0; i < 16; i++)
        pd[0][i] = i << 21 | PTE_P | PTE_W | PTE_PS;
    uint64_t *low = page_alloc();
    for (uint32_t n = 0; n < 512; n++) {
        bool user = n << 12 >= (uint32_t)user_start && n << 12 < (uint32_t)user_end;
        low[n] = n << 12 | PTE_P | PTE_W | (user ? PTE_U : 0);
    }
    pd[0][0] = (uint32_t)low | PTE_P | PTE_W | PTE_U;
    pd[3][0] = (uint32_t)pae_table | PTE_P | PTE_W | PTE_U;
}

static void pae_on(uint32_t cr4, uint32_t efer)
{
    pae_tables();
    if (efer)
        wrmsr(MSR_EFER, rdmsr(MSR_EFER) | efer);
    write_cr3((uint32_t)pdpt);
    write_cr4(CR4_PAE | cr4);
    write_cr0(read_cr0() | CR0_PG);
}

static void pae_off(void)
{
    paging_off();
    wrmsr(MSR_EFER, 0);
}

static void test_pae(void)
{
    pae_on(0, 0);
    page_a[0] = 0xa0;
    page_b[0] = 0xb0;
    check_eq(read_cr3(), (uint32_t)pdpt, "cr3");
    check_pf(try_read(TEST_VA), 0, TEST_VA, "not-present");
    pae_table[0] = (uint32_t)page_a | PTE_P | PTE_W;
    check_eq(peek(TEST_VA), 0xa0, "read");
    check_eq(try_write(TEST_VA + 1), VEC_NONE, "write");
    check_eq((uint32_t)pae_table[0] & (PTE_A | PTE_D), PTE_A | PTE_D, "dirty");
    check_eq((uint32_t)pd[3][0] & PTE_A, PTE_A, "accessed-directory");
    check_eq((uint32_t)pdpt[3], (uint32_t)pd[3] | PTE_P, "pdpte-untouched");
    check_pf(call_user(user_read, TEST_VA), PF_P | PF_U, TEST_VA, "user");
    pd[3][1] = 0x1800000 | PTE_P | PTE_W | PTE_U | PTE_PS;
    *(uint32_t *)0x19ff000 = 0x12345678;
    check_eq(peek32(TEST_VA + 0x3ff000), 0x12345678, "2m");
    /* Reserved: address bits beyond the width, NX without EFER.NXE, the low bits of a 2 MiB address. */
    static const struct { unsigned level; uint64_t bits; const char *name; } bad[] = {
        {0, 1ull << 62, "reserved-62"}, {0, 1ull << 52, "reserved-52"}, {0, PTE_NX, "reserved-nx"}, {1, 1ull << 51, "reserved-51"},
        {2, 1u << 13, "reserved-2m-13"}, {2, 1u << 20, "reserved-2m-20"},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        uint64_t *e = bad[i].level == 0 ? &pae_table[0] : bad[i].level == 1 ? &pd[3][0] : &pd[3][1], old = *e;
        uint32_t va = TEST_VA + (bad[i].level == 2 ? 0x200000 : 0);
        *e |= bad[i].bits;
        write_cr3((uint32_t)pdpt);
        check_pf(try_read(va), PF_P | PF_RSVD, va, bad[i].name);
        *e = old;
    }
    write_cr3((uint32_t)pdpt);
    check_eq(peek(TEST_VA), 0xa0, "good-again");
    pae_off();
}

/* The four entries of the root are registers, loaded by MOV to CR3 and by some changes of CR0 and CR4 (SDM 3A 4.4.1). */
static void test_pdptes(void)
{
    static const uint64_t bad[] = {2, 4, 0x20, 0x40, 0x80, 0x100, 1ull << 51, 1ull << 52, PTE_NX};
    pae_on(CR4_PGE, 0);
    page_a[0] = 0xa0;
    pae_table[0] = (uint32_t)page_a | PTE_P | PTE_W;
    check_eq(peek(TEST_VA), 0xa0, "read");
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        uint64_t old = pdpt[3];
        pdpt[3] |= bad[i];
        check_eq(try_write_cr3((uint32_t)pdpt), GP, "cr3-reserved");
        pdpt[3] = bad[i] & ~1ull; /* not present: nothing is reserved */
        check_eq(try_write_cr3((uint32_t)pdpt), VEC_NONE, "cr3-not-present");
        pdpt[3] = old;
        write_cr3((uint32_t)pdpt);
    }
    check_eq(fault.error, 0, "cr3-error");
    pdpt[3] = 0;
    write_cr3((uint32_t)pdpt);
    check_pf(try_read(TEST_VA), 0, TEST_VA, "absent");
    pdpt[3] = (uint32_t)pd[3] | PTE_P;
    write_cr4(CR4_PAE); /* PGE changes: loads them */
    check_eq(peek(TEST_VA), 0xa0, "cr4-loads");
    pdpt[3] = (uint32_t)pd[3] | PTE_P | 0x100;
    check_eq(try_write_cr4(CR4_PAE | CR4_PGE), GP, "cr4-reserved");
    check_eq(read_cr4(), CR4_PAE, "cr4-unchanged");
    check_eq(try_write_cr0(read_cr0() | CR0_CD), GP, "cr0-cd-reserved");
    check_eq(read_cr0() & CR0_CD, 0, "cr0-unchanged");
    check_eq(peek(TEST_VA), 0xa0, "registers-unchanged");
    check_eq(try_write_cr4(CR4_PAE | CR4_DE), VEC_NONE, "cr4-de-loads-nothing");
    pdpt[3] = (uint32_t)pd[3] | PTE_P;
    pae_off();
    /* CR0.PG loads them too. */
    pae_tables();
    pdpt[1] = 0x20 | PTE_P;
    write_cr3((uint32_t)pdpt); /* without paging nothing is loaded */
    write_cr4(CR4_PAE);
    check_eq(try_write_cr0(read_cr0() | CR0_PG), GP, "cr0-pg-reserved");
    check_eq(read_cr0() & CR0_PG, 0, "cr0-pg-off");
    pdpt[1] = 0;
    check_eq(try_write_cr0(read_cr0() | CR0_PG), VEC_NONE, "cr0-pg");
    pae_off();
}

static void test_nx(void)
{
    if (!HAS_NX) {
        skip("nx", "the processor has none");
        return;
    }
    pae_on(0, EFER_NX);
    *page_b = 0xc3;
    pae_table[0] = (uint32_t)page_b | PTE_P | PTE_W | PTE_U;
    check_eq(run_catch((void *)jump_to, TEST_VA), VEC_NONE, "fetch");
    pae_table[0] |= PTE_NX;
    invlpg(TEST_VA);
    check_pf(run_catch((void *)jump_to, TEST_VA), PF_P | PF_I, TEST_VA, "nx");
    check_pf(call_user(user_jump, TEST_VA), PF_P | PF_I | PF_U, TEST_VA, "nx-user");
    check_eq(peek(TEST_VA), 0xc3, "nx-read");
    pae_table[0] &= ~PTE_NX;
    pd[3][0] |= PTE_NX;
    write_cr3((uint32_t)pdpt);
    check_pf(run_catch((void *)jump_to, TEST_VA), PF_P | PF_I, TEST_VA, "nx-directory");
    wrmsr(MSR_EFER, 0);
    check_pf(try_read(TEST_VA), PF_P | PF_RSVD, TEST_VA, "nxe-off");
    pae_off();
}

static void test_smep_smap(void)
{
    if (!HAS_SMEP || !HAS_SMAP) {
        skip("smep-smap", "the processor has none");
        return;
    }
    two_level_on(CR4_SMEP | CR4_SMAP);
    *page_b = 0xc3;
    table[0] = (uint32_t)page_b | PTE_P | PTE_W | PTE_U;
    check_pf(run_catch((void *)jump_to, TEST_VA), PF_P | PF_I, TEST_VA, "smep");
    check_pf(run_catch((void *)read_at, TEST_VA), PF_P, TEST_VA, "smap");
    asm volatile("stac");
    uint8_t v = peek(TEST_VA);
    asm volatile("clac");
    check_eq(v, 0xc3, "stac");
    paging_off();
}

/* Linear addresses end at 4 GiB: an access through a segment with a base goes on at 0. */
static void test_wrap(void)
{
    two_level_on(0);
    uint32_t *top = page_alloc();
    dir[1023] = (uint32_t)top | PTE_P | PTE_W;
    top[1023] = (uint32_t)page_a | PTE_P | PTE_W;
    page_a[0xffe] = 0x11;
    page_a[0xfff] = 0x22;
    uint8_t *zero = (uint8_t *)0, old[2];
    asm volatile("movb (%2), %0; movb 1(%2), %1" : "=&q"(old[0]), "=&q"(old[1]) : "r"(zero));
    asm volatile("movb $0x33, (%0); movb $0x44, 1(%0)" ::"r"(zero) : "memory");
    gdt[SEL_FREE / 8] = descriptor(0xfffff000, 0xfffff, 0x93, 12);
    asm volatile("mov %0, %%fs" ::"r"(SEL_FREE));
    uint32_t v, w;
    asm volatile("movl %%fs:0xffe, %0; movl %%fs:0x1000, %1" : "=&r"(v), "=r"(w));
    check_eq(v, 0x44332211, "read");
    check_eq((uint16_t)w, 0x4433, "beyond");
    asm volatile("movl $0x88776655, %%fs:0xffe" ::: "memory");
    check_eq(page_a[0xffe] | page_a[0xfff] << 8, 0x6655, "write-top");
    asm volatile("movw (%1), %w0" : "=r"(v) : "r"(zero));
    check_eq((uint16_t)v, 0x8877, "write-bottom");
    asm volatile("movb %0, (%2); movb %1, 1(%2)" ::"q"(old[0]), "q"(old[1]), "r"(zero) : "memory");
    paging_off();
}

/* Code that runs by one translation and then by another. */
static void test_code(void)
{
    two_level_on(0);
    static const uint8_t one[] = {0xb8, 1, 0, 0, 0, 0xc3}, two[] = {0xb8, 2, 0, 0, 0, 0xc3}; /* mov eax, n; ret */
    memcpy(page_a, one, sizeof one);
    memcpy(page_b, two, sizeof two);
    uint32_t (*fn)(void) = (uint32_t (*)(void))TEST_VA;
    for (unsigned i = 0; i < 4; i++) {
        table[0] = (uint32_t)(i & 1 ? page_b : page_a) | PTE_P | PTE_W;
        i & 2 ? invlpg(TEST_VA) : write_cr3((uint32_t)dir);
        check_eq(fn(), 1 + (i & 1), "remapped-code");
    }
    asm volatile("movb $9, (%0)" ::"r"(TEST_VA + 1) : "memory");
    check_eq(fn(), 9, "self-modified");
    paging_off();
}

void test_main(void)
{
    static void (*const parts[])(void) = {test_two_level, test_pse, test_global, test_pae, test_pdptes, test_nx,
                                          test_smep_smap, test_wrap, test_code};
    pages_init();
    write_cr0(read_cr0() | CR0_WP);
    for (unsigned i = 0; i < ARRAY_SIZE(parts); i++)
        if (guest_arg >> i & 1)
            parts[i]();
}
