/* SPDX-License-Identifier: MIT */
/*
 * What the EPT gives an access, and what a violation says of it (SDM 3C table 28-7): a processor that never runs, guest tables in 1 MiB of
 * memory, and a hypervisor that notes each violation and gives exactly the rights that the test wants.
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
#define RAM_BYTES (1u << 20)
#define PML4 0x1000u
#define PDPT 0x2000u
#define PD 0x3000u
#define PT 0x4000u
#define DATA 0x50000ull
#define VA 0x401000ull
#define P_W_U (X86_PTE_P | X86_PTE_W | X86_PTE_U)
#define RWX (EPT_R | EPT_W | EPT_X)

static struct {
    struct cpu_vm vm;
    struct ept *ept;
    struct cpu *cpu;
    uint8_t *ram;
    uint64_t give[RAM_BYTES / PAGE]; /* what a violation maps the page with; 0: it fails */
    unsigned violations;
    gpa_t gpa;
    uint64_t qualification;
} w;

static int fake_ept_violation(struct cpu *cpu, gpa_t gpa, uint64_t qualification)
{
    (void)cpu;
    w.violations++;
    w.gpa = gpa;
    w.qualification = qualification;
    if (gpa >= RAM_BYTES)
        return -ENOENT;
    if (w.give[gpa / PAGE] == 0)
        return -EFAULT;
    return ept_map(w.ept, gpa & KAGE_PAGE_MASK, (hva_t)(uintptr_t)w.ram + (gpa & KAGE_PAGE_MASK), 0, w.give[gpa / PAGE]);
}

static const struct cpu_ops fake_ops = {.ept_violation = fake_ept_violation};

static void entry(gpa_t table, unsigned index, uint64_t value)
{
    memcpy(w.ram + table + 8 * index, &value, 8);
}

static void map_data(uint64_t pte)
{
    entry(PT, VA >> 12 & 511, pte);
    mmu_flush_all(w.cpu);
}

/* Pages of the tables are mapped with all rights, the data page with these. */
static void give_data(uint64_t rights)
{
    for (gpa_t gpa = 0; gpa < RAM_BYTES; gpa += PAGE) {
        w.give[gpa / PAGE] = 0;
        ept_unmap(w.ept, gpa, PAGE);
        if (gpa != DATA && ept_map(w.ept, gpa, (hva_t)(uintptr_t)w.ram + gpa, 0, RWX) != 0)
            fail();
    }
    if (rights != 0 && ept_map(w.ept, DATA, (hva_t)(uintptr_t)w.ram + DATA, 0, rights) != 0)
        fail();
    mmu_flush_all(w.cpu);
    w.violations = 0;
}

static int setup(void **state)
{
    (void)state;
    memset(&w, 0, sizeof(w));
    w.ram = aligned_alloc(PAGE, RAM_BYTES);
    w.cpu = aligned_alloc(4096, (sizeof(struct cpu) + 4095) & ~4095ul);
    if (w.ram == NULL || w.cpu == NULL || ept_new(&w.ept) != 0)
        return -1;
    memset(w.ram, 0, RAM_BYTES);
    memset(w.cpu, 0, sizeof(*w.cpu));
    w.vm.ept = w.ept;
    w.cpu->vm = &w.vm;
    w.cpu->stats = w.cpu->own_stats;
    w.cpu->ops = &fake_ops;
    w.cpu->vmcs.proc_based_ctls2 = VMX_PROC2_EPT;
    w.cpu->vmcs.ept_pointer = ept_pointer(w.ept);
    w.cpu->vmcs.guest_cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_WP;
    w.cpu->vmcs.guest_cr3 = PML4;
    w.cpu->vmcs.guest_cr4 = X86_CR4_PAE;
    w.cpu->vmcs.guest_ia32_efer = X86_EFER_LME | X86_EFER_LMA | X86_EFER_NX;
    entry(PML4, 0, PDPT | P_W_U);
    entry(PDPT, 0, PD | P_W_U);
    entry(PD, VA >> 21, PT | P_W_U);
    entry(PT, VA >> 12 & 511, DATA | P_W_U);
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

static enum mmu_result translate(enum mmu_access access)
{
    struct mmu_map map;

    w.cpu->vmcs.exit_reason = 0;
    w.cpu->vmcs.guest_linear_address = w.cpu->vmcs.guest_physical_address = 0;
    return mmu_translate(w.cpu, VA + 0x123, access, MMU_IDX_USER, &map);
}

/* Each access against each set of rights that can be had, from a walk and from what the TLB then holds. */
static void test_every_right(void **state)
{
    static const uint64_t sets[] = {0, EPT_R, EPT_X, EPT_R | EPT_W, EPT_R | EPT_X, RWX};
    static const uint64_t asks[] = {[MMU_READ] = EPT_R, [MMU_WRITE] = EPT_W, [MMU_FETCH] = EPT_X};

    (void)state;
    for (size_t i = 0; i < sizeof(sets) / sizeof(sets[0]); i++)
        for (unsigned first = 0; first < 3; first++)
            for (unsigned second = 0; second < 3; second++) {
                give_data(sets[i]);
                for (unsigned n = 0; n < 2; n++) {
                    enum mmu_access access = (enum mmu_access)(n == 0 ? first : second);
                    unsigned before = w.violations;
                    enum mmu_result r = translate(access);
                    if (sets[i] & asks[access]) {
                        assert_int_equal(r, MMU_OK);
                        assert_int_equal(w.violations, before);
                        continue;
                    }
                    assert_int_equal(r, MMU_EXIT);
                    assert_int_equal(w.violations, before + 1);
                    assert_int_equal(w.gpa, DATA + 0x123);
                    /* 2..0 the access, 5..3 the entry's rights, 7 and 8 the final address, 9..11 what the guest's tables give. */
                    assert_int_equal(w.qualification, 1u << access | sets[i] << 3 | 0x180 | 0x600);
                    assert_int_equal(w.cpu->vmcs.exit_reason, VMX_EXIT_EPT_VIOLATION);
                    assert_int_equal(w.cpu->vmcs.exit_qualification, w.qualification);
                    assert_int_equal(w.cpu->vmcs.guest_physical_address, DATA + 0x123);
                    assert_int_equal(w.cpu->vmcs.guest_linear_address, VA + 0x123);
                }
            }
}

/* What the guest's own tables give of the linear address. */
static void test_advanced_information(void **state)
{
    (void)state;
    give_data(0);
    for (unsigned bits = 0; bits < 8; bits++) {
        map_data(DATA | X86_PTE_P | (bits & 1 ? X86_PTE_U : 0) | (bits & 2 ? X86_PTE_W : 0) | (bits & 4 ? X86_PTE_NX : 0));
        struct mmu_map map;
        assert_int_equal(mmu_translate(w.cpu, VA, MMU_READ, MMU_IDX_KERNEL_USER, &map), MMU_EXIT);
        assert_int_equal(w.qualification, VMX_EPT_QUAL_READ | 0x180 | bits << 9);
    }
    w.cpu->vmcs.guest_cr0 &= ~X86_CR0_PG;
    w.cpu->vmcs.guest_ia32_efer = 0;
    mmu_flush_all(w.cpu);
    struct mmu_map map;
    assert_int_equal(mmu_translate(w.cpu, DATA, MMU_READ, MMU_IDX_KERNEL_USER, &map), MMU_EXIT);
    assert_int_equal(w.qualification, VMX_EPT_QUAL_READ | 0x180 | 0x600); /* without paging: user mode, writable, executable */
}

/* An access to the guest's tables: read and write at once, since A and D of the EPT are on, and not to the final address. */
static void test_table_walk(void **state)
{
    static const gpa_t tables[] = {PML4, PDPT, PD, PT};
    static const unsigned index[] = {0, 0, VA >> 21, VA >> 12 & 511};

    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        give_data(RWX);
        ept_unmap(w.ept, tables[i], PAGE);
        for (unsigned n = 0; n < 3; n++) { /* whatever the access itself is */
            assert_int_equal(translate((enum mmu_access)n), MMU_EXIT);
            assert_int_equal(w.gpa, tables[i] + 8 * index[i]);
            assert_int_equal(w.qualification, VMX_EPT_QUAL_READ | VMX_EPT_QUAL_WRITE | VMX_EPT_QUAL_GLA_VALID);
            assert_int_equal(w.cpu->vmcs.guest_physical_address, w.gpa);
            assert_int_equal(w.cpu->vmcs.guest_linear_address, VA + 0x123);
        }
        if (ept_map(w.ept, tables[i], (hva_t)(uintptr_t)w.ram + tables[i], 0, EPT_R) != 0)
            fail();
        assert_int_equal(translate(MMU_READ), MMU_EXIT); /* a table that cannot be written serves no walk */
        assert_int_equal(w.qualification & 0x3f, VMX_EPT_QUAL_READ | VMX_EPT_QUAL_WRITE | VMX_EPT_QUAL_ALLOWS_R);
    }
}

/* KVM's own accesses have no linear address. */
static void test_physical_access(void **state)
{
    uint64_t value = 0;

    (void)state;
    give_data(EPT_R | EPT_X);
    assert_true(mmu_phys_read(w.cpu, DATA + 8, &value, 8));
    assert_false(mmu_phys_write(w.cpu, DATA + 8, &value, 8));
    assert_int_equal(w.qualification, VMX_EPT_QUAL_WRITE | VMX_EPT_QUAL_ALLOWS_R | VMX_EPT_QUAL_ALLOWS_X);
    assert_int_equal(w.gpa, DATA + 8);
}

/* A in every entry that was used, D of the leaf by the first write, also where a read has filled every TLB before. */
static void test_accessed_and_dirty(void **state)
{
    unsigned level;

    (void)state;
    give_data(RWX);
    assert_int_equal(ept_walk(w.ept, DATA, &level) & (EPT_A | EPT_D), 0);
    assert_int_equal(translate(MMU_READ), MMU_OK);
    assert_int_equal(ept_walk(w.ept, DATA, &level) & (EPT_A | EPT_D), EPT_A);
    assert_int_equal(ept_walk(w.ept, PT, &level) & (EPT_A | EPT_D), EPT_A | EPT_D); /* a walk writes */
    assert_int_equal(translate(MMU_WRITE), MMU_OK);
    assert_int_equal(ept_walk(w.ept, DATA, &level) & (EPT_A | EPT_D), EPT_A | EPT_D);
    assert_int_equal(w.violations, 0);

    ept_write_protect_pages(w.ept, DATA, 1); /* as when its dirty bit is taken */
    mmu_flush_all(w.cpu);
    w.give[DATA / PAGE] = RWX;
    assert_int_equal(translate(MMU_READ), MMU_OK);
    assert_int_equal(w.violations, 0);
    assert_int_equal(ept_walk(w.ept, DATA, &level) & (EPT_A | EPT_D), EPT_A);
    assert_int_equal(translate(MMU_WRITE), MMU_OK);
    assert_int_equal(w.violations, 1);
    assert_int_equal(ept_walk(w.ept, DATA, &level) & (EPT_A | EPT_D), EPT_A | EPT_D);
}

/* A misconfigured entry ends a walk without a question, for data and for tables. */
static void test_misconfigured(void **state)
{
    (void)state;
    give_data(0);
    assert_int_equal(ept_map_mmio(w.ept, DATA, 0), 0);
    for (unsigned n = 0; n < 3; n++)
        assert_int_equal(translate((enum mmu_access)n), MMU_MMIO);
    assert_int_equal(w.violations, 0);
    ept_unmap(w.ept, PT, PAGE);
    assert_int_equal(ept_map_mmio(w.ept, PT, 0), 0);
    mmu_flush_all(w.cpu);
    assert_int_equal(translate(MMU_READ), MMU_FAULT); /* all ones: reserved bits */
    assert_int_equal(w.cpu->event.error, X86_PF_P | X86_PF_RSVD | X86_PF_U);
    assert_int_equal(w.violations, 0);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_every_right), TEST(test_advanced_information), TEST(test_table_walk), TEST(test_physical_access),
        TEST(test_accessed_and_dirty), TEST(test_misconfigured),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
