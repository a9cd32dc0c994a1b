/* SPDX-License-Identifier: MIT */
/*
 * The walk of the guest's page tables and both TLB levels, on a processor that never runs: page
 * tables are built in 16 MiB of RAM, the EPT is filled by a fake hypervisor, and what
 * mmu_translate() answers and leaves in the first-level TLB is compared with the manual's rules.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/code_cache.h"
#include "mmu/ept.h"
#include "mmu/mmu.h"

#define PAGE KAGE_PAGE_SIZE
#define RAM_BYTES (16u << 20)
#define GONE_GPA 0x40000000ull /* a slot whose host memory went away */
#define MMIO_GPA 0xfee00000ull

/* Where the page tables stand, and what they map. */
#define PML4 0x1000u
#define PDPT 0x2000u
#define PD 0x3000u
#define PT 0x4000u
#define OTHER_PML4 0x5000u /* a second address space with tables of its own */
#define DATA 0x100000ull
#define VA 0x7f1234567000ull
#define KVA 0xffff800012345000ull
#define P_W_U (X86_PTE_P | X86_PTE_W | X86_PTE_U)

struct world {
    struct cpu_vm vm;
    struct ept *ept;
    struct cpu *cpu;
    uint8_t *ram;
    bool read_only; /* RAM above 8 MiB is a read-only slot */
    unsigned violations;
    uint64_t last_qualification;
};

static struct world w;

static int fake_ept_violation(struct cpu *cpu, gpa_t gpa, uint64_t qualification)
{
    uint64_t prot = EPT_R | EPT_W | EPT_X;

    (void)cpu;
    w.violations++;
    w.last_qualification = qualification;
    if ((gpa & KAGE_PAGE_MASK) == GONE_GPA)
        return -EFAULT;
    if (gpa >= RAM_BYTES)
        return -ENOENT;
    if (w.read_only && gpa >= RAM_BYTES / 2) {
        prot &= ~EPT_W;
        if (qualification & VMX_EPT_QUAL_WRITE)
            return -ENOENT;
    }
    gpa &= KAGE_PAGE_MASK;
    return ept_map(w.ept, gpa, (hva_t)(uintptr_t)w.ram + gpa, 0, prot);
}

static const struct cpu_ops fake_ops = {.ept_violation = fake_ept_violation};

static uint64_t *entry_at(gpa_t table, unsigned index)
{
    return (uint64_t *)(void *)(w.ram + table + 8 * index);
}

static unsigned index_of(gva_t va, unsigned level)
{
    return (unsigned)(va >> (12 + 9 * level)) & 511;
}

/* Tables down to PT for va, with the given bits in every level above it. */
static void build(gva_t va, gpa_t root, uint64_t upper)
{
    *entry_at(root, index_of(va, 3)) = PDPT | upper;
    *entry_at(PDPT, index_of(va, 2)) = PD | upper;
    *entry_at(PD, index_of(va, 1)) = PT | upper;
}

static void set_pte(gva_t va, uint64_t entry)
{
    *entry_at(PT, index_of(va, 0)) = entry;
}

static int setup(void **state)
{
    (void)state;
    memset(&w, 0, sizeof(w));
    w.ram = aligned_alloc(2u << 20, RAM_BYTES);
    w.cpu = aligned_alloc(4096, (sizeof(struct cpu) + 4095) & ~4095ul);
    if (w.ram == NULL || w.cpu == NULL || ept_new(&w.ept) != 0)
        return -1;
    memset(w.ram, 0, RAM_BYTES);
    memset(w.cpu, 0, sizeof(*w.cpu));
    w.vm.ept = w.ept;
    w.cpu->vm = &w.vm;
    w.cpu->stats = w.cpu->own_stats;
    w.cpu->ops = &fake_ops;
    w.cpu->maxphyaddr_mask = 0x000fff0000000000ull; /* 40 bits */
    w.cpu->has_1g_pages = w.cpu->has_nx = true;
    w.cpu->vmcs.proc_based_ctls2 = VMX_PROC2_EPT;
    w.cpu->vmcs.ept_pointer = ept_pointer(w.ept);
    w.cpu->vmcs.guest_cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_WP;
    w.cpu->vmcs.guest_cr3 = PML4;
    w.cpu->vmcs.guest_cr4 = X86_CR4_PAE | X86_CR4_PGE;
    w.cpu->vmcs.guest_ia32_efer = X86_EFER_LME | X86_EFER_LMA | X86_EFER_NX;
    return mmu_init(w.cpu);
}

static int teardown(void **state)
{
    (void)state;
    mmu_fini(w.cpu);
    ept_free(w.ept);
    free(w.cpu);
    free(w.ram);
    return 0;
}

/* ---- what the first level holds ---- */

static const uint8_t *first_level(gva_t va, enum mmu_access access, enum mmu_idx idx)
{
    const struct tlb_bank *bank = &w.cpu->tlb[idx][access];
    unsigned i = (va >> 12) & (TLB_SIZE - 1);
    uint64_t offset = va + bank->neg_tag[i];

    return offset < PAGE ? (const uint8_t *)(uintptr_t)(bank->host[i] + offset) : NULL;
}

static enum mmu_result translate(gva_t va, enum mmu_access access, enum mmu_idx idx, struct mmu_map *map)
{
    memset(map, 0, sizeof(*map));
    memset(&w.cpu->event, 0, sizeof(w.cpu->event));
    return mmu_translate(w.cpu, va, access, idx, map);
}

static void assert_reaches(gva_t va, enum mmu_access access, enum mmu_idx idx, gpa_t gpa)
{
    struct mmu_map map;

    assert_int_equal(translate(va, access, idx, &map), MMU_OK);
    assert_int_equal(map.gpa, gpa);
    assert_ptr_equal(map.hva, w.ram + gpa);
    if (access != MMU_FETCH)
        assert_ptr_equal(first_level(va, access, idx), w.ram + gpa);
}

static void assert_page_fault(gva_t va, enum mmu_access access, enum mmu_idx idx, uint32_t error)
{
    struct mmu_map map;

    assert_int_equal(translate(va, access, idx, &map), MMU_FAULT);
    assert_true(w.cpu->event.valid);
    assert_int_equal(w.cpu->event.vector, X86_EXC_PF);
    assert_int_equal(w.cpu->event.payload, va);
    assert_int_equal(w.cpu->event.error, error);
    if (access != MMU_FETCH)
        assert_null(first_level(va, access, idx));
}

/* ---- access rights ---- */

/* SDM 3A 4.6.1, said once more and differently: true if allowed. */
static bool manual_allows(bool user_page, bool writable, bool nx, enum mmu_access access, enum mmu_idx idx)
{
    bool wp = (w.cpu->vmcs.guest_cr0 & X86_CR0_WP) != 0;
    bool smep = (w.cpu->vmcs.guest_cr4 & X86_CR4_SMEP) != 0;
    bool smap = (w.cpu->vmcs.guest_cr4 & X86_CR4_SMAP) != 0;

    if (idx == MMU_IDX_USER && !user_page)
        return false;
    if (access == MMU_FETCH)
        return !nx && !(idx != MMU_IDX_USER && user_page && smep);
    if (idx == MMU_IDX_KERNEL && user_page && smap)
        return false;
    if (access == MMU_READ)
        return true;
    return writable || (idx != MMU_IDX_USER && !wp);
}

static void check_one_combination(unsigned bits)
{
    uint64_t upper = X86_PTE_P | (bits & 1 ? X86_PTE_W : 0) | (bits & 2 ? X86_PTE_U : 0) | (bits & 4 ? X86_PTE_NX : 0);
    uint64_t leaf =
        X86_PTE_P | (bits & 8 ? X86_PTE_W : 0) | (bits & 16 ? X86_PTE_U : 0) | (bits & 32 ? X86_PTE_NX : 0);
    bool user_page = (bits & 2) && (bits & 16), writable = (bits & 1) && (bits & 8), nx = (bits & 4) || (bits & 32);

    build(VA, PML4, P_W_U);
    *entry_at(PD, index_of(VA, 1)) = PT | upper;
    set_pte(VA, DATA | leaf);
    mmu_flush_all(w.cpu);
    /* Twice: by a walk, and with what the second level then holds. */
    for (unsigned n = 0; n < 2 * MMU_IDX_COUNT * 3; n++) {
        enum mmu_idx idx = (enum mmu_idx)(n / 3 % MMU_IDX_COUNT);
        enum mmu_access access = (enum mmu_access)(n % 3);

        if (idx == MMU_IDX_KERNEL_USER && access == MMU_FETCH)
            continue; /* fetches have no such regime */
        if (manual_allows(user_page, writable, nx, access, idx)) {
            assert_reaches(VA + 8, access, idx, DATA + 8);
        } else {
            uint32_t error = X86_PF_P | (access == MMU_WRITE ? X86_PF_W : 0) | (idx == MMU_IDX_USER ? X86_PF_U : 0) |
                             (access == MMU_FETCH ? X86_PF_I : 0);
            assert_page_fault(VA + 8, access, idx, error);
        }
    }
}

static void test_every_permission(void **state)
{
    (void)state;
    for (unsigned regime = 0; regime < 8; regime++) {
        w.cpu->vmcs.guest_cr0 = X86_CR0_PE | X86_CR0_PG | (regime & 1 ? X86_CR0_WP : 0);
        w.cpu->vmcs.guest_cr4 = X86_CR4_PAE | (regime & 2 ? X86_CR4_SMEP : 0) | (regime & 4 ? X86_CR4_SMAP : 0);
        for (unsigned bits = 0; bits < 64; bits++)
            check_one_combination(bits);
    }
}

static void test_fetch_bit_of_error_code(void **state)
{
    (void)state;
    assert_page_fault(VA, MMU_FETCH, MMU_IDX_USER, X86_PF_U | X86_PF_I);
    w.cpu->vmcs.guest_ia32_efer &= ~X86_EFER_NX;
    mmu_flush_all(w.cpu);
    assert_page_fault(VA, MMU_FETCH, MMU_IDX_USER, X86_PF_U);
    w.cpu->vmcs.guest_cr4 |= X86_CR4_SMEP;
    assert_page_fault(VA, MMU_FETCH, MMU_IDX_KERNEL, X86_PF_I);
}

static void test_not_present_and_reserved(void **state)
{
    static const struct {
        unsigned level; /* 0: PTE … 3: PML4E */
        uint64_t set;
        bool one_g, nx;
    } reserved[] = {
        {0, 1ull << 40, true, true}, {0, 1ull << 51, true, true}, {1, 1ull << 45, true, true},
        {3, X86_PTE_PS, true, true}, {2, X86_PTE_PS, false, true}, {2, X86_PTE_PS | 1ull << 13, true, true},
        {1, X86_PTE_PS | 1ull << 20, true, true}, {0, X86_PTE_NX, true, false}, {3, X86_PTE_NX, true, false},
    };
    static const gpa_t table[4] = {PT, PD, PDPT, PML4};

    (void)state;
    for (unsigned level = 0; level < 4; level++) {
        build(VA, PML4, P_W_U);
        set_pte(VA, DATA | P_W_U);
        *entry_at(table[level], index_of(VA, level)) &= ~X86_PTE_P;
        mmu_flush_all(w.cpu);
        assert_page_fault(VA, MMU_WRITE, MMU_IDX_USER, X86_PF_W | X86_PF_U);
    }
    for (unsigned i = 0; i < KAGE_ARRAY_SIZE(reserved); i++) {
        build(VA, PML4, P_W_U);
        set_pte(VA, DATA | P_W_U);
        uint64_t *e = entry_at(table[reserved[i].level], index_of(VA, reserved[i].level));
        /* A leaf's address must not bring reserved bits of its own. */
        *e = (reserved[i].set & X86_PTE_PS ? P_W_U : *e) | reserved[i].set;
        w.cpu->has_1g_pages = reserved[i].one_g;
        w.cpu->vmcs.guest_ia32_efer = X86_EFER_LME | X86_EFER_LMA | (reserved[i].nx ? X86_EFER_NX : 0);
        mmu_flush_all(w.cpu);
        assert_page_fault(VA, MMU_READ, MMU_IDX_KERNEL, X86_PF_P | X86_PF_RSVD);
        assert_int_equal(*e & X86_PTE_A, 0);
    }
}

/* Bits 62:52 mean nothing in 4-level paging, and G without CR4.PGE is ignored. */
static void test_ignored_bits(void **state)
{
    struct mmu_map map;

    (void)state;
    build(VA, PML4, P_W_U | 0x7ff0000000000e00ull);
    set_pte(VA, DATA | P_W_U | X86_PTE_G | 0x7ff0000000000e00ull);
    w.cpu->vmcs.guest_cr4 &= ~X86_CR4_PGE;
    assert_int_equal(translate(VA, MMU_READ, MMU_IDX_USER, &map), MMU_OK);
    assert_int_equal(map.gpa, DATA);
    assert_true(map.user);
    assert_false(map.global);
}

static void test_non_canonical(void **state)
{
    static const gva_t bad[] = {0x0000800000000000ull, 0xffff7fffffffffffull, 1ull << 63};
    struct mmu_map map;

    (void)state;
    for (unsigned i = 0; i < KAGE_ARRAY_SIZE(bad); i++) {
        assert_int_equal(translate(bad[i], MMU_READ, MMU_IDX_KERNEL, &map), MMU_FAULT);
        assert_int_equal(w.cpu->event.vector, X86_EXC_GP);
        assert_true(w.cpu->event.has_error);
        assert_int_equal(w.cpu->event.error, 0);
    }
}

/* ---- accessed and dirty ---- */

static void test_accessed_dirty(void **state)
{
    (void)state;
    build(VA, PML4, P_W_U);
    set_pte(VA, DATA | X86_PTE_P | X86_PTE_W); /* supervisor page */
    assert_page_fault(VA, MMU_WRITE, MMU_IDX_USER, X86_PF_P | X86_PF_W | X86_PF_U);
    assert_int_equal(*entry_at(PT, index_of(VA, 0)) & (X86_PTE_A | X86_PTE_D), 0);
    assert_int_equal(*entry_at(PML4, index_of(VA, 3)) & X86_PTE_A, 0);

    assert_reaches(VA, MMU_READ, MMU_IDX_KERNEL, DATA);
    assert_int_equal(*entry_at(PT, index_of(VA, 0)), DATA | X86_PTE_P | X86_PTE_W | X86_PTE_A);
    assert_int_equal(*entry_at(PD, index_of(VA, 1)), PT | P_W_U | X86_PTE_A);
    assert_int_equal(*entry_at(PDPT, index_of(VA, 2)), PD | P_W_U | X86_PTE_A);
    assert_int_equal(*entry_at(PML4, index_of(VA, 3)), PDPT | P_W_U | X86_PTE_A);
    assert_null(first_level(VA, MMU_WRITE, MMU_IDX_KERNEL)); /* or D would be missed */

    assert_reaches(VA, MMU_WRITE, MMU_IDX_KERNEL, DATA);
    assert_int_equal(*entry_at(PT, index_of(VA, 0)), DATA | X86_PTE_P | X86_PTE_W | X86_PTE_A | X86_PTE_D);
    assert_int_equal(*entry_at(PD, index_of(VA, 1)), PT | P_W_U | X86_PTE_A); /* no D above the leaf */
}

/* An access that is denied below must not let a later one skip the accessed bits above. */
static void test_accessed_after_denied(void **state)
{
    (void)state;
    build(VA, PML4, P_W_U);
    *entry_at(PD, index_of(VA, 1)) |= X86_PTE_A;
    set_pte(VA, DATA | X86_PTE_P);
    assert_page_fault(VA, MMU_READ, MMU_IDX_USER, X86_PF_P | X86_PF_U);
    assert_reaches(VA, MMU_READ, MMU_IDX_KERNEL, DATA);
    assert_true((*entry_at(PML4, index_of(VA, 3)) & X86_PTE_A) != 0);
    assert_true((*entry_at(PDPT, index_of(VA, 2)) & X86_PTE_A) != 0);
}

/* ---- page sizes and modes ---- */

static void test_large_pages(void **state)
{
    (void)state;
    build(VA, PML4, P_W_U);
    *entry_at(PD, index_of(VA, 1)) = 0x400000 | P_W_U | X86_PTE_PS | 1ull << 12; /* PAT is no address bit */
    assert_reaches(VA + 0x123, MMU_WRITE, MMU_IDX_USER, 0x400000 + (VA & 0x1fffff) + 0x123);
    assert_true((*entry_at(PD, index_of(VA, 1)) & X86_PTE_D) != 0);
    mmu_flush_all(w.cpu);
    *entry_at(PDPT, index_of(VA, 2)) = P_W_U | X86_PTE_PS;
    gva_t va = (VA & ~0x3fffffffull) + 0xabcdef;
    assert_reaches(va, MMU_WRITE, MMU_IDX_USER, 0xabcdef);
}

static void test_paging_off(void **state)
{
    (void)state;
    w.cpu->vmcs.guest_cr0 = X86_CR0_PE;
    w.cpu->vmcs.guest_ia32_efer = 0;
    w.cpu->vmcs.guest_cr4 = X86_CR4_SMAP | X86_CR4_SMEP;
    mmu_flush_all(w.cpu);
    for (unsigned idx = 0; idx < MMU_IDX_COUNT; idx++) {
        assert_reaches(DATA + 5, MMU_WRITE, (enum mmu_idx)idx, DATA + 5);
        assert_reaches(DATA + 7, MMU_FETCH, (enum mmu_idx)idx, DATA + 7);
    }
}

static void test_legacy_paging(void **state)
{
    const gva_t va = 0xc0123456u;

    (void)state;
    w.cpu->vmcs.guest_ia32_efer = 0;
    w.cpu->vmcs.guest_cr4 = X86_CR4_PSE;
    uint32_t *pde = (uint32_t *)(void *)(w.ram + PML4 + (va >> 22) * 4);
    uint32_t *pte = (uint32_t *)(void *)(w.ram + PT + ((va >> 12) & 1023) * 4);
    *pde = PT | 7;
    *pte = (uint32_t)DATA | 7;
    mmu_flush_all(w.cpu);
    assert_reaches(va, MMU_WRITE, MMU_IDX_USER, DATA + 0x456);
    assert_int_equal(*pde, PT | 0x27);
    assert_int_equal(*pte, DATA | 0x67);
    *pde = 0x400000 | 0x87; /* 4 MiB */
    mmu_flush_all(w.cpu);
    assert_reaches(va, MMU_READ, MMU_IDX_USER, 0x400000 + (va & 0x3fffff));
    *pde |= 1u << 21;
    mmu_flush_all(w.cpu);
    assert_page_fault(va, MMU_READ, MMU_IDX_USER, X86_PF_P | X86_PF_RSVD | X86_PF_U);
}

/* The 32-bit entry for va in table `table`, of which each entry maps 1 << shift bytes. */
static uint32_t *entry32(gpa_t table, gva_t va, unsigned shift)
{
    return (uint32_t *)(void *)(w.ram + table + (va >> shift & 1023) * 4);
}

static void use_legacy(uint64_t cr4)
{
    w.cpu->vmcs.guest_ia32_efer = 0;
    w.cpu->vmcs.guest_cr4 = cr4;
    mmu_flush_all(w.cpu);
}

/* Without CR4.PSE bit 7 of a directory entry means nothing. */
static void test_no_pse(void **state)
{
    const gva_t va = 0x00400000u;

    (void)state;
    use_legacy(0);
    *entry32(PML4, va, 22) = PT | 0x87;
    *entry32(PT, va, 12) = (uint32_t)DATA | 0x187; /* PAT, and G without CR4.PGE */
    assert_reaches(va, MMU_READ, MMU_IDX_USER, DATA);
    use_legacy(X86_CR4_PSE);
    struct mmu_map map;
    assert_int_equal(translate(va, MMU_READ, MMU_IDX_USER, &map), MMU_MMIO); /* the table's address is bits of PSE-36 */
    assert_int_equal(map.gpa, (uint64_t)(PT >> 13) << 32);
}

/* Bits 20..13 of a 4 MiB entry are address bits 39..32; those beyond the physical-address width are reserved. */
static void test_pse36(void **state)
{
    const gva_t va = 0x80000123u;
    struct mmu_map map;

    (void)state;
    use_legacy(X86_CR4_PSE);
    *entry32(PML4, va, 22) = 0xfec00000u | 0xa5u << 13 | 0x87;
    assert_int_equal(translate(va, MMU_READ, MMU_IDX_USER, &map), MMU_MMIO);
    assert_int_equal(map.gpa, 0xa5fec00123ull);
    w.cpu->maxphyaddr_mask = 0x000ffff000000000ull; /* 36 bits */
    mmu_flush_all(w.cpu);
    assert_page_fault(va, MMU_READ, MMU_IDX_USER, X86_PF_P | X86_PF_RSVD | X86_PF_U);
    *entry32(PML4, va, 22) = 0xfec00000u | 0x05u << 13 | 0x87;
    assert_int_equal(translate(va, MMU_READ, MMU_IDX_USER, &map), MMU_MMIO);
    assert_int_equal(map.gpa, 0x5fec00123ull);
}

/* NX and its bit of the error code do not exist without PAE. */
static void test_no_nx_without_pae(void **state)
{
    const gva_t va = 0x1000u;

    (void)state;
    use_legacy(0);
    w.cpu->vmcs.guest_ia32_efer = X86_EFER_NX;
    *entry32(PML4, va, 22) = PT | 7;
    assert_page_fault(va, MMU_FETCH, MMU_IDX_USER, X86_PF_U);
    *entry32(PT, va, 12) = (uint32_t)DATA | 7;
    assert_reaches(va, MMU_FETCH, MMU_IDX_USER, DATA);
}

/* INVLPG in one half of a 4 MiB page drops what came from the other. */
static void test_invlpg_4m(void **state)
{
    const gva_t va = 0xc0400000u;

    (void)state;
    use_legacy(X86_CR4_PSE);
    *entry32(PML4, va, 22) = 0x400000 | 0x83;
    assert_reaches(va + 0x1000, MMU_WRITE, MMU_IDX_KERNEL, 0x401000);
    assert_reaches(va + 0x3ff000, MMU_WRITE, MMU_IDX_KERNEL, 0x7ff000);
    *entry32(PML4, va, 22) = 0x800000 | 0x83;
    mmu_flush_page(w.cpu, va + 0x3ff000);
    assert_null(first_level(va + 0x1000, MMU_READ, MMU_IDX_KERNEL));
    assert_reaches(va + 0x1000, MMU_WRITE, MMU_IDX_KERNEL, 0x801000);
}

/* A 32-bit kernel's global pages stay across MOV to CR3, wherever they are; INVLPG and a flush of all reach them. */
static void test_global_32bit(void **state)
{
    static const gva_t at[] = {0x00001000u, 0xc0002000u};

    (void)state;
    use_legacy(X86_CR4_PGE);
    for (unsigned i = 0; i < KAGE_ARRAY_SIZE(at); i++) {
        *entry32(PML4, at[i], 22) = PT | 7;
        *entry32(PT, at[i], 12) = (uint32_t)DATA | 0x107;
        assert_reaches(at[i], MMU_READ, MMU_IDX_KERNEL, DATA);
        *entry32(PT, at[i], 12) = (uint32_t)(DATA + PAGE) | 0x107;
        mmu_switch_cr3(w.cpu, false);
        assert_reaches(at[i], MMU_READ, MMU_IDX_KERNEL, DATA);
        mmu_flush_page(w.cpu, at[i]);
        assert_reaches(at[i], MMU_READ, MMU_IDX_KERNEL, DATA + PAGE);
        *entry32(PT, at[i], 12) = (uint32_t)DATA | 0x107;
        mmu_flush_all(w.cpu);
        assert_reaches(at[i], MMU_READ, MMU_IDX_KERNEL, DATA);
    }
}

#define PAE_ROOT (PML4 + 0x20) /* the four entries need no page of their own */

static uint64_t *pdpte_of(gva_t va)
{
    return (uint64_t *)(void *)(w.ram + PAE_ROOT) + (va >> 30);
}

static void use_pae(gva_t va, uint64_t efer)
{
    w.cpu->vmcs.guest_ia32_efer = efer;
    w.cpu->vmcs.guest_cr3 = PAE_ROOT | 0x18; /* PWT and PCD are no address bits */
    memset(w.ram + PAE_ROOT, 0, 32);
    *pdpte_of(va) = PD | X86_PTE_P | 0xe18;
    *entry_at(PD, index_of(va, 1)) = PT | P_W_U;
    set_pte(va, DATA | P_W_U);
    assert_true(mmu_load_pdptes(w.cpu, w.cpu->vmcs.guest_cr3));
    mmu_flush_all(w.cpu);
}

static void test_pae(void **state)
{
    const gva_t va = 0xbfe12345u;

    (void)state;
    w.cpu->vmcs.guest_cr4 = X86_CR4_PAE;
    use_pae(va, 0);
    assert_reaches(va, MMU_WRITE, MMU_IDX_USER, DATA + 0x345);
    assert_int_equal(*pdpte_of(va), PD | X86_PTE_P | 0xe18); /* no accessed bit */
    assert_int_equal(*entry_at(PD, index_of(va, 1)), PT | P_W_U | X86_PTE_A);
    assert_int_equal(*entry_at(PT, index_of(va, 0)), DATA | P_W_U | X86_PTE_A | X86_PTE_D);
    assert_page_fault(va + (1u << 30), MMU_READ, MMU_IDX_KERNEL, 0);

    /* The registers count, not memory, until they are loaded again. */
    *pdpte_of(va) = 0;
    mmu_flush_all(w.cpu);
    assert_reaches(va, MMU_READ, MMU_IDX_USER, DATA + 0x345);
    assert_true(mmu_load_pdptes(w.cpu, w.cpu->vmcs.guest_cr3));
    mmu_switch_cr3(w.cpu, false);
    assert_page_fault(va, MMU_READ, MMU_IDX_USER, X86_PF_U);

    use_pae(va, 0);
    *entry_at(PD, index_of(va, 1)) = 0x400000 | P_W_U | X86_PTE_PS;
    mmu_flush_all(w.cpu);
    assert_reaches(va, MMU_READ, MMU_IDX_USER, 0x400000 + (va & 0x1fffff));
}

static void test_pae_reserved(void **state)
{
    static const uint64_t bad_pdpte[] = {2, 4, 0x20, 0x40, 0x80, 0x100, 1ull << 40, 1ull << 52, 1ull << 63};
    static const uint64_t bad_entry[] = {1ull << 40, 1ull << 52, 1ull << 62, X86_PTE_NX};
    const gva_t va = 0x40001000u;

    (void)state;
    w.cpu->vmcs.guest_cr4 = X86_CR4_PAE;
    use_pae(va, 0);
    for (unsigned i = 0; i < KAGE_ARRAY_SIZE(bad_pdpte); i++) {
        uint64_t before[4];
        memcpy(before, w.cpu->vmcs.guest_pdpte, sizeof(before));
        *pdpte_of(0xffffffffu) = 0x6000 | X86_PTE_P | bad_pdpte[i];
        assert_false(mmu_load_pdptes(w.cpu, w.cpu->vmcs.guest_cr3));
        assert_memory_equal(before, w.cpu->vmcs.guest_pdpte, sizeof(before));
        *pdpte_of(0xffffffffu) = bad_pdpte[i] & ~X86_PTE_P; /* nothing is reserved in one that is not present */
        assert_true(mmu_load_pdptes(w.cpu, w.cpu->vmcs.guest_cr3));
    }
    for (unsigned i = 0; i < 2 * KAGE_ARRAY_SIZE(bad_entry); i++) {
        use_pae(va, 0);
        *entry_at(i & 1 ? PD : PT, index_of(va, i & 1)) |= bad_entry[i / 2];
        assert_page_fault(va, MMU_READ, MMU_IDX_USER, X86_PF_P | X86_PF_RSVD | X86_PF_U);
    }
    use_pae(va, X86_EFER_NX);
    *entry_at(PD, index_of(va, 1)) |= X86_PTE_NX;
    assert_reaches(va, MMU_READ, MMU_IDX_USER, DATA);
    assert_page_fault(va, MMU_FETCH, MMU_IDX_USER, X86_PF_P | X86_PF_I | X86_PF_U);
    assert_false(mmu_load_pdptes(w.cpu, MMIO_GPA)); /* outside memory: all ones */
}

/* Without paging there are no rights, and no SMEP and SMAP; addresses have 32 bits. */
static void test_paging_off_rights(void **state)
{
    (void)state;
    use_legacy(X86_CR4_SMEP | X86_CR4_SMAP);
    w.cpu->vmcs.guest_cr0 = X86_CR0_PE | X86_CR0_WP;
    mmu_flush_all(w.cpu);
    for (unsigned n = 0; n < 2 * MMU_IDX_COUNT * 3; n++)
        assert_reaches(DATA + 4, (enum mmu_access)(n % 3), (enum mmu_idx)(n / 3 % MMU_IDX_COUNT), DATA + 4);
    uint64_t walks = w.cpu->stats[CPU_STAT_TLB2_MISSES];
    assert_reaches(DATA, MMU_READ, MMU_IDX_KERNEL, DATA);
    assert_int_equal(w.cpu->stats[CPU_STAT_TLB2_MISSES], walks);
    struct mmu_map map;
    assert_int_equal(translate(0x7700000000ull + DATA, MMU_READ, MMU_IDX_KERNEL, &map), MMU_OK);
    assert_int_equal(map.gpa, DATA);
}

/* ---- flushes ---- */

static void map_two(void)
{
    build(VA, PML4, P_W_U);
    build(KVA, PML4, P_W_U);
    set_pte(VA, DATA | P_W_U);
    set_pte(KVA, (DATA + PAGE) | X86_PTE_P | X86_PTE_W | X86_PTE_G);
    assert_int_not_equal(index_of(VA, 0), index_of(KVA, 0));
}

/* Same tables, other leaf: what is found tells whether the old translation was still in use. */
static void move_leaves(void)
{
    set_pte(VA, (DATA + 0x10000) | P_W_U | X86_PTE_A | X86_PTE_D);
    set_pte(KVA, (DATA + 0x11000) | X86_PTE_P | X86_PTE_W | X86_PTE_G | X86_PTE_A | X86_PTE_D);
}

static void fill_two(void)
{
    map_two();
    assert_reaches(VA, MMU_READ, MMU_IDX_USER, DATA);
    assert_reaches(KVA, MMU_WRITE, MMU_IDX_KERNEL, DATA + PAGE);
    move_leaves();
}

static void test_invlpg(void **state)
{
    (void)state;
    fill_two();
    uint64_t walks = w.cpu->stats[CPU_STAT_TLB2_MISSES];
    assert_reaches(VA, MMU_READ, MMU_IDX_USER, DATA); /* the second level serves it */
    assert_int_equal(w.cpu->stats[CPU_STAT_TLB2_MISSES], walks);
    mmu_flush_page(w.cpu, VA + 5);
    assert_null(first_level(VA, MMU_READ, MMU_IDX_USER));
    assert_non_null(first_level(KVA, MMU_WRITE, MMU_IDX_KERNEL));
    assert_reaches(VA, MMU_READ, MMU_IDX_USER, DATA + 0x10000);
    mmu_flush_page(w.cpu, KVA); /* global pages too */
    assert_null(first_level(KVA, MMU_WRITE, MMU_IDX_KERNEL));
    assert_reaches(KVA, MMU_READ, MMU_IDX_KERNEL, DATA + 0x11000);
}

/* INVLPG of any address in a large page drops all of it (SDM 3A 4.10.4.1). */
static void test_invlpg_large(void **state)
{
    gva_t first = VA & ~0x1fffffull;

    (void)state;
    build(VA, PML4, P_W_U);
    *entry_at(PD, index_of(VA, 1)) = 0x400000 | P_W_U | X86_PTE_PS;
    for (unsigned i = 0; i < 8; i++)
        assert_reaches(first + i * 0x3f000, MMU_WRITE, MMU_IDX_USER, 0x400000 + i * 0x3f000);
    *entry_at(PD, index_of(VA, 1)) = 0x600000 | P_W_U | X86_PTE_PS;
    mmu_flush_page(w.cpu, first + 0x1ff000);
    for (unsigned i = 0; i < 8; i++) {
        assert_null(first_level(first + i * 0x3f000, MMU_WRITE, MMU_IDX_USER));
        assert_reaches(first + i * 0x3f000, MMU_READ, MMU_IDX_USER, 0x600000 + i * 0x3f000);
    }
}

static void test_cr3_without_pcid(void **state)
{
    (void)state;
    fill_two();
    mmu_switch_cr3(w.cpu, false);
    assert_null(first_level(VA, MMU_READ, MMU_IDX_USER));
    assert_reaches(KVA, MMU_READ, MMU_IDX_KERNEL, DATA + PAGE); /* global: stays */
    assert_reaches(VA, MMU_READ, MMU_IDX_USER, DATA + 0x10000);
}

static void test_kernel_bank_with_local_page(void **state)
{
    (void)state;
    map_two();
    set_pte(VA, DATA | X86_PTE_P | X86_PTE_W); /* supervisor, not global */
    assert_reaches(VA, MMU_WRITE, MMU_IDX_KERNEL, DATA);
    assert_reaches(VA, MMU_WRITE, MMU_IDX_KERNEL_USER, DATA);
    mmu_switch_cr3(w.cpu, false);
    assert_null(first_level(VA, MMU_WRITE, MMU_IDX_KERNEL));
    assert_null(first_level(VA, MMU_WRITE, MMU_IDX_KERNEL_USER));
    assert_null(first_level(VA, MMU_READ, MMU_IDX_KERNEL));
}

static void switch_to(gpa_t root, unsigned pcid, bool noflush)
{
    w.cpu->vmcs.guest_cr3 = root | pcid;
    mmu_switch_cr3(w.cpu, noflush);
}

/* Address space 1 is filled and left; each row flushes something in space 2; 1 is asked again. */
static void test_pcid(void **state)
{
    static const struct {
        unsigned kind; /* 0 none, 1 space 1, 2 space 2, 3 page of 1, 4 page of 2, 5 non-global, 6 all, 7 back with flush */
        bool local_kept, global_kept;
    } rows[] = {{0, true, true}, {1, false, true}, {2, true, true}, {3, false, true},
                {4, true, true}, {5, false, true}, {6, false, false}, {7, false, true}};

    (void)state;
    w.cpu->vmcs.guest_cr4 |= X86_CR4_PCIDE;
    for (unsigned i = 0; i < KAGE_ARRAY_SIZE(rows); i++) {
        unsigned kind = rows[i].kind;

        mmu_flush_all(w.cpu);
        switch_to(PML4, 1, false);
        fill_two();
        memcpy(w.ram + OTHER_PML4, w.ram + PML4, PAGE);
        switch_to(OTHER_PML4, 2, true);
        assert_null(first_level(VA, MMU_READ, MMU_IDX_USER));
        assert_reaches(VA, MMU_READ, MMU_IDX_USER, DATA + 0x10000); /* space 2 had nothing cached */
        if (kind == 1 || kind == 2)
            mmu_flush_pcid(w.cpu, kind);
        else if (kind == 3 || kind == 4)
            mmu_flush_page_pcid(w.cpu, VA, kind - 2);
        else if (kind == 5)
            mmu_flush_non_global(w.cpu);
        else if (kind == 6)
            mmu_flush_all(w.cpu);
        switch_to(PML4, 1, kind != 7);
        assert_reaches(VA, MMU_READ, MMU_IDX_USER, rows[i].local_kept ? DATA : DATA + 0x10000);
        assert_reaches(KVA, MMU_READ, MMU_IDX_KERNEL, rows[i].global_kept ? DATA + PAGE : DATA + 0x11000);
    }
}

/* A page fault drops what was cached for its address, upper levels included: rights may be raised without INVLPG. */
static void test_rights_raised_without_invlpg(void **state)
{
    (void)state;
    build(VA, PML4, P_W_U);
    *entry_at(PD, index_of(VA, 1)) = PT | X86_PTE_P | X86_PTE_U;
    set_pte(VA, DATA | P_W_U);
    assert_reaches(VA, MMU_READ, MMU_IDX_USER, DATA);
    mmu_flush_page(w.cpu, VA);
    assert_reaches(VA, MMU_READ, MMU_IDX_USER, DATA); /* now the PDE may be cached: A was set in all */
    assert_page_fault(VA, MMU_WRITE, MMU_IDX_USER, X86_PF_P | X86_PF_W | X86_PF_U);
    *entry_at(PD, index_of(VA, 1)) |= X86_PTE_W;
    assert_reaches(VA, MMU_WRITE, MMU_IDX_USER, DATA);
    /* The same for a page table that comes to stand elsewhere after a fault. */
    set_pte(VA + PAGE, 0);
    assert_page_fault(VA + PAGE, MMU_READ, MMU_IDX_USER, X86_PF_U);
    *entry_at(0x6000, index_of(VA + PAGE, 0)) = (DATA + PAGE) | P_W_U;
    *entry_at(PD, index_of(VA, 1)) = 0x6000 | P_W_U;
    assert_reaches(VA + PAGE, MMU_READ, MMU_IDX_USER, DATA + PAGE);
}

/*
 * The paging-structure caches (SDM 3A 4.10.3): what is cached of an upper level may serve until a flush, and none survives one: INVLPG of any
 * address, a load of CR3, INVPCID. A fault on the way is looked at again in memory.
 */
static void test_structure_caches(void **state)
{
    static void (*const flushes[])(struct cpu *) = {mmu_flush_all, mmu_flush_non_global};
    enum { PD2 = 0x6000, PT2 = 0x7000, PDPT2 = 0x8000 };
    const gva_t far = VA + (2ull << 21); /* another page table of the same directory */

    (void)state;
    for (unsigned level = 1; level <= 2; level++) /* what is changed: a PDPTE, a PML4E */
        for (unsigned how = 0; how < 5; how++) {
            memset(w.ram + PD2, 0, 3 * PAGE);
            build(VA, PML4, P_W_U);
            set_pte(VA, DATA | P_W_U);
            mmu_flush_all(w.cpu);
            assert_reaches(VA, MMU_READ, MMU_IDX_USER, DATA);
            *entry_at(PD2, index_of(far, 1)) = PT2 | P_W_U;
            *entry_at(PT2, index_of(far, 0)) = (DATA + PAGE) | P_W_U;
            *entry_at(PDPT2, index_of(VA, 2)) = PD2 | P_W_U;
            assert_page_fault(far, MMU_READ, MMU_IDX_USER, X86_PF_U); /* its directory is cached, and has no entry */
            if (level == 1)
                *entry_at(PDPT, index_of(VA, 2)) = PD2 | P_W_U;
            else
                *entry_at(PML4, index_of(VA, 3)) = PDPT2 | P_W_U;
            if (how < 2)
                flushes[how](w.cpu);
            else if (how == 2)
                mmu_flush_page(w.cpu, 0x1234000);
            else if (how == 3)
                mmu_switch_cr3(w.cpu, false);
            /* how 4: without a flush, after a fault that told of the old entry: not present to present needs none */
            assert_reaches(far, MMU_READ, MMU_IDX_USER, DATA + PAGE);
        }
    /* Rights of upper levels that are cached count, and PDPTEs of other regions are others. */
    build(VA, PML4, P_W_U);
    *entry_at(PDPT, index_of(VA, 2)) = PD | X86_PTE_P | X86_PTE_U;
    *entry_at(PDPT, index_of(VA, 2) ^ 1) = PD | P_W_U;
    set_pte(VA, DATA | P_W_U);
    set_pte(VA + PAGE, (DATA + PAGE) | P_W_U);
    mmu_flush_all(w.cpu);
    assert_reaches(VA, MMU_READ, MMU_IDX_USER, DATA);
    assert_page_fault(VA + PAGE, MMU_WRITE, MMU_IDX_USER, X86_PF_P | X86_PF_W | X86_PF_U);
    assert_reaches((VA + PAGE) ^ (1ull << 30), MMU_WRITE, MMU_IDX_USER, DATA + PAGE);
    assert_page_fault(VA, MMU_WRITE, MMU_IDX_USER, X86_PF_P | X86_PF_W | X86_PF_U);
}

static void test_tiny(void **state)
{
    (void)state;
    map_two();
    mmu_set_test_tiny_tlb(w.cpu, true);
    assert_reaches(VA, MMU_READ, MMU_IDX_USER, DATA);
    assert_reaches(KVA, MMU_READ, MMU_IDX_KERNEL, DATA + PAGE);
    assert_null(first_level(VA, MMU_READ, MMU_IDX_USER));
    mmu_set_test_tiny_tlb(w.cpu, false);
    assert_reaches(VA, MMU_READ, MMU_IDX_USER, DATA);
    assert_reaches(KVA, MMU_READ, MMU_IDX_KERNEL, DATA + PAGE);
    assert_non_null(first_level(VA, MMU_READ, MMU_IDX_USER));
}

/* ---- the code side ---- */

static void test_jump_cache_flushes(void **state)
{
    struct jump_cache_entry *user = &w.cpu->jump_cache[MMU_IDX_USER][7];

    (void)state;
    w.cpu->mode = MMU_IDX_USER << CPU_MODE_IDX_SHIFT | 3;
    map_two();
    assert_reaches(VA, MMU_FETCH, MMU_IDX_USER, DATA);
    *user = (struct jump_cache_entry){.neg_rip = 0 - VA, .host = 1};
    w.cpu->jump_log[MMU_IDX_USER] = (struct clear_log){.count = 1, .index = {7}};
    w.cpu->code_tlb[MMU_IDX_USER][(VA >> 12) & (CODE_TLB_SIZE - 1)] = 5;
    mmu_note_jump_target(w.cpu, VA);
    mmu_flush_page(w.cpu, VA + PAGE); /* another page: kept */
    assert_int_equal(user->host, 1);
    mmu_flush_page(w.cpu, VA);
    assert_int_equal(user->host, 0);
    assert_int_equal(w.cpu->code_tlb[MMU_IDX_USER][(VA >> 12) & (CODE_TLB_SIZE - 1)], 0);

    assert_reaches(VA, MMU_FETCH, MMU_IDX_USER, DATA);
    *user = (struct jump_cache_entry){.neg_rip = 0 - VA, .host = 1};
    w.cpu->jump_log[MMU_IDX_USER] = (struct clear_log){.count = 1, .index = {7}};
    mmu_switch_cr3(w.cpu, false);
    assert_int_equal(user->host, 0);
    /* An empty entry 0 must not match RIP 0. */
    for (unsigned idx = 0; idx < MMU_IDX_COUNT; idx++)
        assert_int_not_equal(w.cpu->jump_cache[idx][0].neg_rip, 0);
}

static void test_code_page(void **state)
{
    static _Atomic uint32_t page_index[RAM_BYTES / PAGE];
    static struct code_page pages[2];
    struct mmu_map map;

    (void)state;
    map_two();
    assert_reaches(VA, MMU_WRITE, MMU_IDX_USER, DATA);
    pages[1].gpa = DATA;
    pages[1].watched = true;
    page_index[DATA / PAGE] = 1;
    w.vm.page_index = page_index;
    w.vm.pages = pages;
    w.vm.max_gfn = RAM_BYTES / PAGE;
    mmu_protect_host_page(w.cpu, w.ram + DATA);
    assert_null(first_level(VA, MMU_WRITE, MMU_IDX_USER));
    assert_non_null(first_level(VA, MMU_READ, MMU_IDX_USER));
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(translate(VA, MMU_WRITE, MMU_IDX_USER, &map), MMU_OK);
        assert_true(map.has_code);
        assert_null(first_level(VA, MMU_WRITE, MMU_IDX_USER));
    }
    pages[1].watched = false; /* let go: data again */
    assert_int_equal(translate(VA, MMU_WRITE, MMU_IDX_USER, &map), MMU_OK);
    assert_false(map.has_code);
    assert_non_null(first_level(VA, MMU_WRITE, MMU_IDX_USER));
    w.vm.max_gfn = 0;
}

/* ---- the EPT below ---- */

static void test_mmio_and_exit(void **state)
{
    struct mmu_map map;

    (void)state;
    map_two();
    set_pte(VA, MMIO_GPA | P_W_U);
    assert_int_equal(translate(VA + 0xb0, MMU_WRITE, MMU_IDX_USER, &map), MMU_MMIO);
    assert_int_equal(map.gpa, MMIO_GPA + 0xb0);
    assert_null(first_level(VA, MMU_WRITE, MMU_IDX_USER));
    assert_int_equal(w.last_qualification & 7, VMX_EPT_QUAL_WRITE);
    assert_true((w.last_qualification & VMX_EPT_QUAL_GLA_FINAL) != 0);

    set_pte(VA, GONE_GPA | P_W_U);
    mmu_flush_page(w.cpu, VA);
    assert_int_equal(translate(VA + 8, MMU_READ, MMU_IDX_USER, &map), MMU_EXIT);
    assert_int_equal(w.cpu->vmcs.exit_reason, VMX_EXIT_EPT_VIOLATION);
    assert_int_equal(w.cpu->vmcs.guest_physical_address, GONE_GPA + 8);
    assert_int_equal(w.cpu->vmcs.guest_linear_address, VA + 8);

    /* Page tables where there is no memory. */
    *entry_at(PD, index_of(VA, 1)) = MMIO_GPA | P_W_U;
    mmu_flush_page(w.cpu, VA);
    assert_page_fault(VA, MMU_READ, MMU_IDX_USER, X86_PF_P | X86_PF_RSVD | X86_PF_U);
}

static void test_read_only_slot(void **state)
{
    struct mmu_map map;

    (void)state;
    w.read_only = true;
    map_two();
    set_pte(VA, (RAM_BYTES / 2) | P_W_U);
    for (unsigned i = 0; i < 2; i++) {
        assert_reaches(VA, MMU_READ, MMU_IDX_USER, RAM_BYTES / 2);
        assert_int_equal(translate(VA + 4, MMU_WRITE, MMU_IDX_USER, &map), MMU_MMIO);
        assert_int_equal(map.gpa, RAM_BYTES / 2 + 4);
        assert_null(first_level(VA, MMU_WRITE, MMU_IDX_USER));
    }
}

/* Dirty logging: after write protection and a flush the first write, and it alone, asks the hypervisor. */
static void test_write_protected(void **state)
{
    (void)state;
    map_two();
    assert_reaches(VA, MMU_WRITE, MMU_IDX_USER, DATA);
    ept_write_protect(w.ept, DATA, PAGE);
    mmu_flush_all(w.cpu);
    unsigned before = w.violations;
    assert_reaches(VA, MMU_READ, MMU_IDX_USER, DATA);
    assert_int_equal(w.violations, before);
    assert_null(first_level(VA, MMU_WRITE, MMU_IDX_USER));
    assert_reaches(VA, MMU_WRITE, MMU_IDX_USER, DATA);
    assert_int_equal(w.violations, before + 1);
    unsigned level;
    assert_int_equal(ept_walk(w.ept, DATA, &level) & (EPT_A | EPT_D), EPT_A | EPT_D);
    assert_reaches(VA, MMU_WRITE, MMU_IDX_USER, DATA);
    assert_int_equal(w.violations, before + 1);
}

static void test_probe(void **state)
{
    gpa_t gpa = 0;
    bool writable, user;

    (void)state;
    map_two();
    set_pte(VA, DATA | X86_PTE_P | X86_PTE_U);
    assert_true(mmu_probe(w.cpu, VA + 0x321, &gpa, &writable, &user));
    assert_int_equal(gpa, DATA + 0x321);
    assert_false(writable);
    assert_true(user);
    assert_true(mmu_probe(w.cpu, KVA, &gpa, &writable, &user));
    assert_true(writable);
    assert_false(user);
    assert_false(mmu_probe(w.cpu, VA + 2 * PAGE, &gpa, &writable, &user));
    assert_int_equal(*entry_at(PT, index_of(VA, 0)), DATA | X86_PTE_P | X86_PTE_U);
    assert_int_equal(*entry_at(PML4, index_of(VA, 3)), PDPT | P_W_U);
    assert_false(w.cpu->event.valid);
}

static void test_phys(void **state)
{
    char buf[8] = "";

    (void)state;
    assert_true(mmu_phys_write(w.cpu, DATA + PAGE - 3, "abcdefg", 8));
    assert_memory_equal(w.ram + DATA + PAGE - 3, "abcdefg", 8);
    assert_true(mmu_phys_read(w.cpu, DATA + PAGE - 3, buf, 8));
    assert_string_equal(buf, "abcdefg");
    assert_false(mmu_phys_read(w.cpu, RAM_BYTES - 4, buf, 8));
    assert_false(mmu_phys_write(w.cpu, MMIO_GPA, buf, 1));
}

/* Between a change of slots and the vCPU's flush, kvm/ must not be led to memory that is gone. */
static void test_phys_after_unmap(void **state)
{
    char buf[8] = "";

    (void)state;
    map_two();
    assert_reaches(VA, MMU_READ, MMU_IDX_USER, DATA);
    assert_true(mmu_phys_read(w.cpu, DATA, buf, 8));
    ept_unmap(w.ept, DATA, PAGE);
    assert_int_equal(ept_map(w.ept, DATA, (hva_t)(uintptr_t)w.ram + 0x200000, 0, EPT_R | EPT_W), 0);
    memcpy(w.ram + 0x200000, "moved..", 8);
    assert_true(mmu_phys_read(w.cpu, DATA, buf, 8));
    assert_string_equal(buf, "moved..");
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_every_permission), TEST(test_fetch_bit_of_error_code), TEST(test_not_present_and_reserved),
        TEST(test_ignored_bits), TEST(test_non_canonical), TEST(test_accessed_dirty),
        TEST(test_accessed_after_denied), TEST(test_large_pages), TEST(test_paging_off), TEST(test_legacy_paging),
        TEST(test_no_pse), TEST(test_pse36), TEST(test_no_nx_without_pae), TEST(test_invlpg_4m),
        TEST(test_global_32bit), TEST(test_pae), TEST(test_pae_reserved), TEST(test_paging_off_rights),
        TEST(test_invlpg), TEST(test_invlpg_large), TEST(test_cr3_without_pcid),
        TEST(test_kernel_bank_with_local_page), TEST(test_pcid), TEST(test_rights_raised_without_invlpg), TEST(test_structure_caches),
        TEST(test_tiny), TEST(test_jump_cache_flushes), TEST(test_code_page), TEST(test_mmio_and_exit),
        TEST(test_read_only_slot), TEST(test_write_protected), TEST(test_probe), TEST(test_phys),
        TEST(test_phys_after_unmap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
