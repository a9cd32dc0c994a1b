/* SPDX-License-Identifier: MIT */
/*
 * Accessed and dirty bits, and the translation caches: what INVLPG, CR3, PCID, INVPCID and global
 * pages must flush. A stale entry may be used or not before a flush; after it, never.
 */
#include "guest.h"

static uint64_t pages[4]; /* page i holds i + 1 in its first word */
static const uint64_t va = TEST_VA;

static uint64_t load(uint64_t a) { return *(volatile uint64_t *)a; }
static void kernel_store(uint64_t a) { *(volatile uint64_t *)a = 77; }
static void kernel_load(uint64_t a) { (void)*(volatile uint64_t *)a; }
USER_TEXT static void user_store(uint64_t a) { asm volatile("movq $77, (%0)" ::"r"(a) : "memory"); }

static volatile uint64_t *pte(uint64_t a) { return pte_of(root_table, a, 1); }
static uint64_t ad(uint64_t e) { return e & (PTE_A | PTE_D); }

static void accessed_dirty(void)
{
    volatile uint64_t *const p = pte(va);
    volatile uint64_t *const upper[] = {pte_of(root_table, va, 2), pte_of(root_table, va, 3), pte_of(root_table, va, 4)};
    const uint64_t base = pages[0] | PTE_P | PTE_W;
    for (unsigned i = 0; i < 3; i++)
        *upper[i] &= ~(PTE_A | PTE_D);
    *p = base;
    write_cr3(read_cr3());
    load(va);
    check_eq(ad(*p), PTE_A, "read-sets-a");
    bool all = true;
    for (unsigned i = 0; i < 3; i++)
        all &= ad(*upper[i]) == PTE_A;
    check(all, "read-sets-a-upper-no-d");
    kernel_store(va);
    check_eq(ad(*p), PTE_A | PTE_D, "write-after-read-sets-d");
    *p = base;
    invlpg(va);
    kernel_store(va);
    check_eq(ad(*p), PTE_A | PTE_D, "write-sets-a-d");
    *p = base | PTE_A;
    invlpg(va);
    load(va);
    check_eq(ad(*p), PTE_A, "read-sets-no-d");
    *p = (base & ~PTE_W) | PTE_A;
    invlpg(va);
    check_eq(run_catch(kernel_store, va), PF, "write-protected");
    check_eq(ad(*p), PTE_A, "faulted-write-no-d");
    *p = base | PTE_A;
    invlpg(va);
    check_eq(run_user(user_store, va), PF, "user-write-supervisor-page");
    check_eq(ad(*p), PTE_A, "faulted-user-write-no-d");
    *p = base;
    invlpg(va);
    asm volatile("lock xaddq %0, (%1)" ::"r"(0ull), "r"(va) : "memory");
    check_eq(ad(*p), PTE_A | PTE_D, "rmw-sets-d");
    *p = base;
    invlpg(va);
    uint64_t expected = 0xdead;
    asm volatile("lock cmpxchgq %2, (%1)" : "+a"(expected) : "r"(va), "r"(1ull) : "memory", "cc");
    check_eq(ad(*p), PTE_A | PTE_D, "failed-cmpxchg-sets-d");
    /* page-crossing write: both pages, or neither if the second faults */
    *p = base;
    *pte(va + 4096) = pages[1] | PTE_P | PTE_W;
    invlpg(va);
    invlpg(va + 4096);
    kernel_store(va + 4092);
    check_eq(ad(*p) << 8 | ad(*pte(va + 4096)), (PTE_A | PTE_D) << 8 | PTE_A | PTE_D, "crossing-write-sets-both-d");
    *pte(va + 4096) = 0;
    invlpg(va + 4096);
    *(uint64_t *)(pages[0] + 4088) = 0x1122334455667788ull;
    check_eq(run_catch(kernel_store, va + 4092), PF, "crossing-write-faults");
    check_eq(fault.cr2, va + 4096, "crossing-write-cr2");
    check_eq(*(uint64_t *)(pages[0] + 4088), 0x1122334455667788ull, "crossing-write-writes-nothing");
    /* instruction fetch sets A */
    *(uint8_t *)pages[3] = 0xc3;
    *pte(va + 0x3000) = pages[3] | PTE_P;
    invlpg(va + 0x3000);
    asm volatile("call *%0" ::"r"(va + 0x3000) : "memory");
    check_eq(ad(*pte(va + 0x3000)), PTE_A, "fetch-sets-a");
    *(uint64_t *)pages[3] = 4;
    *(uint64_t *)pages[0] = 1;
    *(uint64_t *)pages[1] = 2;
    /* large page */
    volatile uint64_t *const large = pte_of(root_table, va + 0x40000000ull, 2);
    *large = 0x200000 | PTE_P | PTE_W | PTE_PS;
    write_cr3(read_cr3());
    load(va + 0x40000000ull);
    check_eq(ad(*large), PTE_A, "2m-read-sets-a");
    asm volatile("lock orq $0, (%0)" ::"r"(va + 0x40000000ull + 0x1ff000) : "memory");
    check_eq(ad(*large), PTE_A | PTE_D, "2m-write-sets-d");
}

static void flushes(void)
{
    volatile uint64_t *const p = pte(va);
    *p = pages[0] | PTE_P | PTE_W;
    invlpg(va);
    check_eq(load(va), 1, "map");
    *p = pages[1] | PTE_P | PTE_W;
    uint64_t stale = load(va);
    check(stale == 1 || stale == 2, "stale-is-old-or-new");
    invlpg(va);
    check_eq(load(va), 2, "invlpg");
    *p = pages[2] | PTE_P | PTE_W;
    invlpg(va + 0xfff);
    check_eq(load(va), 3, "invlpg-any-byte");
    *p = pages[0] | PTE_P | PTE_W;
    write_cr3(read_cr3());
    check_eq(load(va), 1, "cr3-write");
    *p = 0;
    invlpg(va);
    check_eq(run_catch(kernel_load, va), PF, "unmap");
    *p = pages[1] | PTE_P | PTE_W;
    check_eq(load(va), 2, "absent-to-present-needs-no-flush");
    *p = pages[1] | PTE_P;
    invlpg(va);
    load(va);
    check_eq(run_catch(kernel_store, va + 8), PF, "read-only");
    *p = pages[1] | PTE_P | PTE_W;
    check_eq(run_catch(kernel_store, va + 8), VEC_NONE, "upgrade-after-fault-needs-no-flush");
    /* a page of the upper levels */
    volatile uint64_t *const pde = pte_of(root_table, va, 2);
    const uint64_t old = *pde;
    uint64_t *other = table_alloc();
    other[0] = pages[3] | PTE_P | PTE_W;
    load(va);
    *pde = (uint64_t)other | 7;
    invlpg(va);
    check_eq(load(va), 4, "invlpg-drops-paging-structure-caches");
    *pde = old;
    write_cr3(read_cr3());
    check_eq(load(va), 2, "pde-back");
    /* INVLPG of one 4 KiB part of a large page drops all of it */
    const uint64_t big = va + 0x80000000ull;
    volatile uint64_t *const large = pte_of(root_table, big, 2);
    *large = 0x600000 | PTE_P | PTE_W | PTE_PS;
    *(uint64_t *)0x600000 = 0x600000;
    *(uint64_t *)0x800000 = 0x800000;
    *(uint64_t *)0x605000 = 0x605000;
    *(uint64_t *)0x805000 = 0x805000;
    load(big);
    load(big + 0x5000);
    *large = 0x800000 | PTE_P | PTE_W | PTE_PS;
    invlpg(big + 0x123000);
    check_eq(load(big), 0x800000, "invlpg-2m");
    check_eq(load(big + 0x5000), 0x805000, "invlpg-2m-other-part");
    /* CR0.WP and CR4.SMAP changes act at once */
    *p = pages[1] | PTE_P;
    invlpg(va);
    write_cr0(read_cr0() & ~(uint64_t)CR0_WP);
    check_eq(run_catch(kernel_store, va + 8), VEC_NONE, "wp-off-writes");
    write_cr0(read_cr0() | CR0_WP);
    check_eq(run_catch(kernel_store, va + 8), PF, "wp-on-faults");
    *p = pages[1] | PTE_P | PTE_W;
    invlpg(va);
}

static void global_pages(void)
{
    volatile uint64_t *const p = pte(va);
    write_cr4(read_cr4() | CR4_PGE);
    *p = pages[0] | PTE_P | PTE_W | PTE_G;
    invlpg(va);
    load(va);
    *p = pages[1] | PTE_P | PTE_W | PTE_G;
    write_cr3(read_cr3());
    uint64_t v = load(va);
    check(v == 1 || v == 2, "global-may-survive-cr3");
    invlpg(va);
    check_eq(load(va), 2, "invlpg-drops-global");
    *p = pages[2] | PTE_P | PTE_W | PTE_G;
    write_cr4(read_cr4() & ~(uint64_t)CR4_PGE);
    check_eq(load(va), 3, "pge-clear-drops-global");
    *p = pages[0] | PTE_P | PTE_W | PTE_G;
    write_cr4(read_cr4() | CR4_PGE);
    check_eq(load(va), 1, "pge-set-drops-all");
    *p = pages[1] | PTE_P | PTE_W | PTE_G;
    write_cr4(read_cr4() & ~(uint64_t)CR4_PGE);
    *p = pages[0] | PTE_P | PTE_W;
    invlpg(va);
}

static unsigned invpcid(uint64_t type, uint64_t pcid, uint64_t addr)
{
    struct {
        uint64_t pcid, addr;
    } desc = {pcid, addr};
    return TRY("invpcid %0, %1", ::"m"(desc), "r"(type) : "memory");
}

#define NOFLUSH (1ull << 63)

static void pcid(void)
{
    if (!HAS_PCID) {
        skip("pcid", "the processor has none");
        return;
    }
    volatile uint64_t *const p = pte(va), root = (uint64_t)root_table;
    write_cr3(root);
    write_cr4(read_cr4() | CR4_PCIDE);
    check_eq(read_cr4() & CR4_PCIDE, CR4_PCIDE, "pcide");
    write_cr3(root | 1);
    check_eq(read_cr3(), root | 1, "cr3-reads-pcid");
    load(va);
    *p = pages[1] | PTE_P | PTE_W;
    write_cr3(root | 2 | NOFLUSH);
    check_eq(read_cr3(), root | 2, "noflush-bit-reads-0");
    check_eq(load(va), 2, "other-pcid-sees-new");
    write_cr3(root | 1 | NOFLUSH);
    uint64_t v = load(va);
    check(v == 1 || v == 2, "noflush-may-keep");
    write_cr3(root | 1);
    check_eq(load(va), 2, "cr3-flushes-its-pcid");
    *p = pages[2] | PTE_P | PTE_W;
    write_cr3(root | 2);
    check_eq(load(va), 3, "cr3-flushes-target-pcid");
    *p = pages[0] | PTE_P | PTE_W;
    invlpg(va);
    check_eq(load(va), 1, "invlpg-current-pcid");
    check_eq(try_write_cr4(read_cr4() & ~(uint64_t)CR4_PCIDE), VEC_NONE, "pcide-off-with-pcid");
    write_cr3(root);
    write_cr4(read_cr4() | CR4_PCIDE);
    write_cr3(root | 5);
    write_cr4(read_cr4() & ~(uint64_t)CR4_PCIDE);
    write_cr3(root | 8);
    check_eq(try_write_cr4(read_cr4() | CR4_PCIDE), GP, "pcide-needs-low-cr3-0");
    write_cr3(root);
    write_cr4(read_cr4() | CR4_PCIDE);
    if (!HAS_INVPCID) {
        skip("invpcid", "the processor has none");
    } else {
        write_cr3(root | 3);
        load(va);
        write_cr3(root | 4 | NOFLUSH);
        *p = pages[1] | PTE_P | PTE_W;
        check_eq(invpcid(0, 3, va), VEC_NONE, "invpcid-0");
        write_cr3(root | 3 | NOFLUSH);
        check_eq(load(va), 2, "invpcid-0-flushes");
        write_cr3(root | 4 | NOFLUSH);
        *p = pages[2] | PTE_P | PTE_W;
        check_eq(invpcid(1, 3, 0), VEC_NONE, "invpcid-1");
        write_cr3(root | 3 | NOFLUSH);
        check_eq(load(va), 3, "invpcid-1-flushes");
        *p = pages[0] | PTE_P | PTE_W;
        check_eq(invpcid(2, 0, 0), VEC_NONE, "invpcid-2");
        check_eq(load(va), 1, "invpcid-2-flushes");
        *p = pages[1] | PTE_P | PTE_W;
        check_eq(invpcid(3, 0, 0), VEC_NONE, "invpcid-3");
        check_eq(load(va), 2, "invpcid-3-flushes");
        check_eq(invpcid(4, 0, 0), GP, "invpcid-bad-type");
        check_eq(invpcid(0, 0x1000, va), GP, "invpcid-reserved-pcid");
        check_eq(invpcid(0, 3, 0x800000000000ull), GP, "invpcid-noncanonical");
    }
    write_cr3(root);
    write_cr4(read_cr4() & ~(uint64_t)CR4_PCIDE);
    if (HAS_INVPCID) {
        check_eq(invpcid(0, 0, va), VEC_NONE, "invpcid-0-without-pcide");
        check_eq(invpcid(0, 3, va), GP, "invpcid-pcid-without-pcide");
    }
    check_eq(invpcid(2, 0, 0) == (HAS_INVPCID ? VEC_NONE : UD), 1, "invpcid-presence");
}

/* A second set of tables: same address, other page; code runs across the switch. */
static void address_spaces(void)
{
    uint64_t *other = table_alloc();
    memcpy(other, root_table, 4096);
    other[1] = 0;
    *pte_of(other, va, 1) = pages[3] | PTE_P | PTE_W;
    *pte(va) = pages[0] | PTE_P | PTE_W;
    invlpg(va);
    bool ok = true;
    for (unsigned i = 0; i < 100; i++) {
        write_cr3((uint64_t)other);
        ok &= load(va) == 4;
        write_cr3((uint64_t)root_table);
        ok &= load(va) == 1;
    }
    check(ok, "cr3-switch-100");
    /* code that differs between the spaces */
    static const uint8_t code[2][6] = {{0xb8, 11, 0, 0, 0, 0xc3}, {0xb8, 22, 0, 0, 0, 0xc3}};
    memcpy((void *)(pages[0] + 64), code[0], 6);
    memcpy((void *)(pages[3] + 64), code[1], 6);
    ok = true;
    for (unsigned i = 0; i < 100; i++) {
        unsigned a, b;
        asm volatile("call *%1" : "=a"(a) : "r"(va + 64) : "memory");
        write_cr3((uint64_t)other);
        asm volatile("call *%1" : "=a"(b) : "r"(va + 64) : "memory");
        write_cr3((uint64_t)root_table);
        ok &= a == 11 && b == 22;
    }
    check(ok, "cr3-switch-code");
}

void test_main(void)
{
    for (unsigned i = 0; i < 4; i++) {
        pages[i] = (uint64_t)table_alloc();
        *(uint64_t *)pages[i] = i + 1;
    }
    idt_set_ist(PF, 2);
    accessed_dirty();
    flushes();
    global_pages();
    address_spaces();
    pcid();
}
