/* SPDX-License-Identifier: MIT */
/*
 * The processor with EPT off, on tables built by hand: guest code runs on them, and every exit that such a guest makes is
 * looked at: page faults by the exception bitmap and their error codes, also while an event is on its way, control
 * registers with masks, MMIO entries, TLB, modes, and what entry refuses.
 *
 * Guest memory is one piece of host memory, RAM bytes, of which guest-physical address 0 is the start. Linear addresses:
 * LOW + x is guest-physical x, for all of it, supervisor and user, unless a test maps it differently.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "cpu/host_pages.h"
#include "cpu/signal.h"
#include "cpu/sys.h"
#include "mmu/ept.h"
#include "mmu/noept.h"
#include "vmx/vmx.h"

#define PAGE KAGE_PAGE_SIZE
#define RAM (8u << 20)
#define LOW 0ull
#define CODE 0x10000u
#define DATA 0x20000u
#define STACK 0x38000u /* its top */
#define GDT 0x3000u
#define IDT 0x4000u
#define TSS 0x5000u
#define HANDLER 0x11000u
#define TABLES 64u
#define SEL_CODE 0x08u
#define SEL_DATA 0x10u
#define SEL_UDATA 0x1bu
#define SEL_UCODE 0x23u
#define SEL_TSS 0x28u

#define P X86_PTE_P
#define W X86_PTE_W
#define U X86_PTE_U
#define NX X86_PTE_NX

/* Guest code as the assembler makes it. */
#define GUEST_CODE(name, mode, text)                                                                                   \
    __asm__(".pushsection .rodata\n" #name "_from:\n" mode "\n" text "\n" #name "_to:\n.code64\n.popsection");         \
    extern const uint8_t name[] __asm__(#name "_from"), name##_to[] __asm__(#name "_to")
#define LOAD(name) load(CODE, name, (size_t)(name##_to - name))

static struct world {
    struct ept *ept;
    struct cpu_vm *vm;
    struct cpu *cpu;
    uint8_t *ram;
    uint64_t (*tables)[512];
    unsigned used;
    uint8_t *msr_bitmap;
    const uint64_t *asked_entry; /* of the last guest_page() */
    hva_t asked_page;
    bool deny_page;
    gpa_t alias;                 /* not 0: guest_page() says this */
    uint64_t task_cr3;
    unsigned task_loads;
    bool deny_task;
} w;

/* ---- the hypervisor ---- */

static int fill_ept(struct cpu *cpu, gpa_t gpa, uint64_t qualification)
{
    (void)cpu, (void)qualification;
    gpa_t page = gpa & KAGE_PAGE_MASK;
    return page < RAM ? ept_map(w.ept, page, (uintptr_t)w.ram + page, 0, EPT_R | EPT_W | EPT_X) : -2 /* ENOENT */;
}

static bool guest_page(struct cpu *cpu, const uint64_t *entry, hva_t page, gpa_t *gpa)
{
    (void)cpu;
    w.asked_entry = entry;
    w.asked_page = page;
    *gpa = w.alias != 0 ? w.alias : page - (uintptr_t)w.ram;
    return !w.deny_page && page >= (uintptr_t)w.ram && page - (uintptr_t)w.ram < RAM;
}

static bool task_load_cr3(struct cpu *cpu, uint64_t cr3)
{
    (void)cpu;
    w.task_cr3 = cr3;
    w.task_loads++;
    return !w.deny_task;
}

static int answer, answers; /* of page_fault(), and how often it is to be given: then CPU_PF_EXITS */
static gva_t answered_va;
static uint64_t mended;

static int page_fault(struct cpu *cpu, gva_t va, enum mmu_access access, enum mmu_idx idx, uint32_t *error, gpa_t *gpa)
{
    (void)access, (void)idx;
    if (answers == 0)
        return CPU_PF_EXITS;
    answers--;
    answered_va = va;
    *error = X86_PF_P | X86_PF_W;
    if (answer == CPU_PF_MENDED)
        ((uint64_t *)(uintptr_t)mended)[va >> 12 & 511] = (uintptr_t)w.ram + (va & KAGE_PAGE_MASK) + (P | W);
    if (answer == CPU_PF_GONE)
        cpu_vmexit(cpu, VMX_EXIT_EPT_VIOLATION, VMX_EPT_QUAL_READ, 0);
    return answer;
}

static const struct cpu_ops ops = {.ept_violation = fill_ept, .guest_page = guest_page, .page_fault = page_fault, .load_cr3 = task_load_cr3};

/* ---- tables ---- */

static uint64_t host_of(gpa_t gpa)
{
    return (uintptr_t)w.ram + gpa;
}

static uint64_t *new_table(void)
{
    assert_true(w.used < TABLES);
    return w.tables[w.used++];
}

static uint64_t *root(void)
{
    return (uint64_t *)(uintptr_t)(w.cpu->vmcs.guest_cr3 & NOEPT_ADDR);
}

/* The entry for va at `level`, 1 to 4 or 5, with tables made on the way (`rights` in them). */
static uint64_t *entry_at(gva_t va, unsigned level, uint64_t rights)
{
    uint64_t *table = root();

    for (unsigned l = w.cpu->vmcs.guest_cr4 & X86_CR4_LA57 ? 5 : 4; l > level; l--) {
        uint64_t *e = &table[va >> (12 + 9 * (l - 1)) & 511];
        if ((*e & P) == 0)
            *e = (uintptr_t)new_table() | rights;
        table = (uint64_t *)(uintptr_t)(*e & NOEPT_ADDR);
    }
    return &table[va >> (12 + 9 * (level - 1)) & 511];
}

static uint64_t *pte(gva_t va)
{
    return entry_at(va, 1, P | W | U);
}

static void map(gva_t va, gpa_t gpa, uint64_t flags)
{
    *pte(va) = host_of(gpa) | flags;
}

/* ---- running ---- */

static void load(gpa_t gpa, const uint8_t *code, size_t bytes)
{
    uintptr_t first = (uintptr_t)w.ram + gpa;

    host_write_begins(first, first + bytes); /* cmocka has SIGSEGV: the engine cannot notice the store */
    memcpy(w.ram + gpa, code, bytes);
    host_write_ends(first, first + bytes);
    cpu_vm_code_invalidate(w.vm, gpa, bytes);
}

static uint32_t run(void)
{
    uint32_t reason;

    w.cpu->vmcs.entry_ctls = VMX_ENTRY_LOAD_EFER | (cpu_in_long_mode(w.cpu) ? VMX_ENTRY_IA32E_MODE : 0);
    cpu_signal_begin_run();
    do {
        reason = vmx_enter(w.cpu);
    } while (reason == VMX_EXIT_EXT_INTR);
    cpu_signal_end_run();
    return reason;
}

static void go(uint64_t rip)
{
    w.cpu->vmcs.guest_rip = w.cpu->rip = rip;
    w.cpu->vmcs.guest_rsp = STACK;
    w.cpu->vmcs.guest_rflags = X86_FLAGS_FIXED;
}

static void step_over(void)
{
    w.cpu->vmcs.guest_rip += w.cpu->vmcs.exit_instruction_len;
    w.cpu->rip = w.cpu->vmcs.guest_rip;
}

/* A page-fault exit, as the manual has it (SDM 3C 28.2.1, 28.2.2). */
#define EXPECT_FAULT(va, error_code)                                                                                   \
    do {                                                                                                               \
        assert_int_equal(run(), VMX_EXIT_EXCEPTION_NMI);                                                               \
        assert_int_equal(w.cpu->vmcs.exit_intr_info,                                                                   \
                         VMX_INFO_VALID | VMX_INFO_ERROR_CODE | VMX_EVENT_HW_EXCEPTION << 8 | X86_EXC_PF);             \
        assert_int_equal(w.cpu->vmcs.exit_qualification, va);                                                          \
        assert_int_equal(w.cpu->vmcs.exit_intr_error_code, error_code);                                                \
    } while (0)

/* OUT to port 0x80 ends a test's code. */
static void expect_end(void)
{
    assert_int_equal(run(), VMX_EXIT_IO);
    assert_int_equal(VMX_IO_PORT(w.cpu->vmcs.exit_qualification), 0x80);
    step_over();
}

static void set_gate(unsigned vector, uint64_t target)
{
    uint64_t gate[2] = {(target & 0xffff) | SEL_CODE << 16 | 0x8e0000000000ull | (target & 0xffff0000) << 32, target >> 32};
    memcpy(w.ram + IDT + vector * 16, gate, sizeof(gate));
}

static void set_msr_bit(uint32_t msr, bool write, bool exits)
{
    uint8_t *byte = w.msr_bitmap + (write ? 2048 : 0) + (msr >= 0xc0000000u ? 1024 : 0) + (msr & 0x1fff) / 8;
    *byte = (uint8_t)((*byte & ~(1u << (msr & 7))) | (exits ? 1u << (msr & 7) : 0));
}

static int setup(void **state)
{
    static const uint64_t gdt[] = {0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cff3000000ffff, 0x00affb000000ffff,
                                   0x00008b0000000067 | (uint64_t)TSS << 16, 0};
    (void)state;
    memset(&w, 0, sizeof(w));
    answers = 0;
    w.ram = mmap(NULL, RAM + (2u << 20), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (w.ram == MAP_FAILED)
        return -1;
    w.ram = (uint8_t *)(((uintptr_t)w.ram + (2u << 20) - 1) & ~(uintptr_t)((2u << 20) - 1));
    w.tables = aligned_alloc(PAGE, TABLES * PAGE);
    w.msr_bitmap = aligned_alloc(PAGE, PAGE);
    if (w.tables == NULL || w.msr_bitmap == NULL || ept_new(&w.ept) != 0 || cpu_vm_new(w.ept, &w.vm) != 0 ||
        cpu_new(w.vm, 0, &ops, NULL, &w.cpu) != 0 || host_range_add((uintptr_t)w.ram, RAM) != 0)
        return -1;
    memset(w.tables, 0, TABLES * PAGE);
    memset(w.msr_bitmap, 0, PAGE);

    struct vmcs *v = &w.cpu->vmcs;
    cpu_signal_attach_thread(w.cpu);
    vmx_init_controls(w.cpu);
    v->msr_bitmap = (uintptr_t)w.msr_bitmap;
    vmx_disable_ept(w.cpu);
    cpu_set_paging(w.cpu, X86_CR0_PE | X86_CR0_ET | X86_CR0_NE | X86_CR0_PG | X86_CR0_WP, 0x7000, X86_CR4_PAE | X86_CR4_PGE,
                   X86_EFER_LME | X86_EFER_LMA | X86_EFER_SCE);
    v->guest_cr3 = (uintptr_t)new_table();
    for (gpa_t gpa = 0; gpa < RAM; gpa += 2u << 20)
        *entry_at(LOW + gpa, 2, P | W | U) = host_of(gpa) | P | W | X86_PTE_PS;
    for (gpa_t gpa = 0; gpa < 2u << 20; gpa += PAGE) { /* the first 2 MiB by pages */
        if (gpa == 0)
            *entry_at(LOW, 2, P | W | U) = (uintptr_t)new_table() | P | W | U;
        map(LOW + gpa, gpa, P | W);
    }
    for (unsigned s = X86_ES; s <= X86_GS; s++)
        v->guest_seg[s] = (struct vmcs_segment){.selector = SEL_DATA, .limit = ~0u, .access_rights = 0xc093};
    v->guest_seg[X86_CS] = (struct vmcs_segment){.selector = SEL_CODE, .limit = ~0u, .access_rights = 0xa09b};
    v->guest_seg[X86_LDTR] = (struct vmcs_segment){.limit = 0xffff, .access_rights = X86_AR_UNUSABLE};
    v->guest_seg[X86_TR] = (struct vmcs_segment){.selector = SEL_TSS, .base = TSS, .limit = 0x67, .access_rights = 0x8b};
    v->guest_gdtr_base = GDT;
    v->guest_gdtr_limit = sizeof(gdt) - 1;
    v->guest_idtr_base = IDT;
    v->guest_idtr_limit = 0xfff;
    memcpy(w.ram + GDT, gdt, sizeof(gdt));
    uint64_t rsp0 = STACK;
    memcpy(w.ram + TSS + 4, &rsp0, 8);
    mmu_flush_all(w.cpu);
    cpu_update_mode(w.cpu);
    go(CODE);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    cpu_signal_detach_thread(w.cpu);
    cpu_free(w.cpu);
    host_pages_forget(w.vm);
    cpu_vm_free(w.vm);
    ept_free(w.ept);
    host_range_remove((uintptr_t)w.ram, RAM);
    munmap(w.ram, RAM);
    free(w.tables);
    free(w.msr_bitmap);
    return 0;
}

static void user_mode(void)
{
    struct vmcs *v = &w.cpu->vmcs;

    for (unsigned s = X86_ES; s <= X86_GS; s++)
        v->guest_seg[s] = (struct vmcs_segment){.selector = SEL_UDATA, .limit = ~0u, .access_rights = 0xc0f3};
    v->guest_seg[X86_CS] = (struct vmcs_segment){.selector = SEL_UCODE, .limit = ~0u, .access_rights = 0xa0fb};
    v->guest_seg[X86_SS] = v->guest_seg[X86_DS];
    cpu_update_mode(w.cpu);
}

/* ---- code, data, accessed and dirty ---- */

GUEST_CODE(store_code, ".code64", "mov %rax, 0x20008; mov 0x20010, %rcx; out %al, $0x80; jmp store_code_from");

static void test_runs(void **state)
{
    (void)state;
    uint64_t value = 0x1122334455667788, got;
    LOAD(store_code);
    memcpy(w.ram + DATA + 0x10, &value, 8);
    w.cpu->gpr[X86_RAX] = 0x8877665544332211;
    expect_end();
    memcpy(&got, w.ram + DATA + 8, 8);
    assert_int_equal(got, 0x8877665544332211);
    assert_int_equal(w.cpu->gpr[X86_RCX], value);
    /* Accessed on every level, dirty in the leaf of what was written only. */
    for (unsigned level = 2; level <= 4; level++)
        assert_int_equal(*entry_at(LOW + DATA, level, 0) & (X86_PTE_A | X86_PTE_D), X86_PTE_A);
    assert_int_equal(*pte(DATA) & (X86_PTE_A | X86_PTE_D), X86_PTE_A | X86_PTE_D);
    assert_int_equal(*pte(CODE) & (X86_PTE_A | X86_PTE_D), X86_PTE_A);
    assert_int_equal(*pte(DATA + PAGE) & (X86_PTE_A | X86_PTE_D), 0);
}

static void test_five_levels_and_large_pages(void **state)
{
    (void)state;
    gva_t va = (1ull << 40) + 0x345678;
    *entry_at(va, 2, P | W | U) = host_of(4u << 20) | P | W | X86_PTE_PS;
    gpa_t gpa = (4u << 20) + (va & 0x1fffff);
    struct mmu_map m;
    assert_int_equal(mmu_translate(w.cpu, va, MMU_WRITE, MMU_IDX_KERNEL, &m), MMU_OK);
    assert_ptr_equal(m.hva, w.ram + gpa);
    assert_int_equal(m.gpa, gpa);
    assert_int_equal(w.asked_page, host_of(gpa & KAGE_PAGE_MASK));
    assert_ptr_equal(w.asked_entry, entry_at(va, 2, 0));
    assert_int_equal(*entry_at(va, 2, 0) & (X86_PTE_A | X86_PTE_D), X86_PTE_A | X86_PTE_D);

    uint64_t four = w.cpu->vmcs.guest_cr3;
    w.cpu->vmcs.guest_cr4 |= X86_CR4_LA57;
    w.cpu->vmcs.guest_cr3 = (uintptr_t)new_table();
    root()[0] = four | P | W | U;
    mmu_flush_all(w.cpu);
    LOAD(store_code);
    expect_end();
    assert_int_equal(root()[0] & (X86_PTE_A | X86_PTE_D), X86_PTE_A);
}

/* ---- page faults that exit ---- */

static void test_faults(void **state)
{
    (void)state;
    struct vmcs *v = &w.cpu->vmcs;
    LOAD(store_code);

    uint64_t was = *pte(DATA);
    *pte(DATA) = 0;
    EXPECT_FAULT(DATA + 8, X86_PF_W);
    assert_int_equal(v->guest_rip, CODE); /* the instruction has not happened */
    assert_int_equal(v->idt_vectoring_info & VMX_INFO_VALID, 0);
    assert_int_equal(w.cpu->cr2, 0);
    EXPECT_FAULT(DATA + 8, X86_PF_W); /* again, as nothing has changed */
    *pte(DATA) = was & ~W;
    EXPECT_FAULT(DATA + 8, X86_PF_W | X86_PF_P);
    *pte(DATA) = was | 1ull << 51; /* with W clear it would be MMIO that cannot be written */
    *pte(DATA) = (was & ~W) | 1ull << 51;
    EXPECT_FAULT(DATA + 8, X86_PF_W | X86_PF_P);
    *pte(DATA) = was;
    expect_end();

    /* Reserved bits: 51 in a table's entry, PS at the fourth level, low address bits of a large page. */
    const struct { unsigned level; uint64_t bits; } reserved[] = {{2, 1ull << 51}, {3, 1ull << 51}, {4, 1ull << 51}, {4, X86_PTE_PS}};
    for (size_t i = 0; i < KAGE_ARRAY_SIZE(reserved); i++) {
        uint64_t *e = entry_at(LOW + CODE, reserved[i].level, 0), kept = *e;
        *e |= reserved[i].bits;
        mmu_flush_all(w.cpu);
        go(CODE);
        EXPECT_FAULT(CODE, X86_PF_P | X86_PF_RSVD | X86_PF_I);
        *e = kept;
    }
    *entry_at(6u << 20, 2, 0) = (host_of(6u << 20) + 0x2000) | P | W | X86_PTE_PS;
    struct mmu_map m;
    assert_int_equal(mmu_translate(w.cpu, 6u << 20, MMU_READ, MMU_IDX_KERNEL, &m), MMU_FAULT);
    assert_int_equal(w.cpu->event.error, X86_PF_P | X86_PF_RSVD);
    w.cpu->event.valid = false;

    /* Fetches, and the user's. */
    *pte(CODE) |= NX;
    mmu_flush_all(w.cpu);
    EXPECT_FAULT(CODE, X86_PF_P | X86_PF_I);
    *pte(CODE) = 0;
    EXPECT_FAULT(CODE, X86_PF_I);
    map(CODE, CODE, P);
    user_mode();
    EXPECT_FAULT(CODE, X86_PF_P | X86_PF_U | X86_PF_I);
    map(CODE, CODE, P | U);
    EXPECT_FAULT(DATA + 8, X86_PF_P | X86_PF_U | X86_PF_W);
    *pte(DATA) |= U;
    assert_int_equal(run(), VMX_EXIT_IO); /* IOPL and TSS: #GP has priority only without unconditional exiting of the TSS */
}

static void test_no_root(void **state)
{
    (void)state;
    w.cpu->vmcs.guest_cr3 = 0;
    mmu_switch_cr3(w.cpu, false);
    EXPECT_FAULT(CODE, X86_PF_I);
}

static void test_page_on_its_way_out(void **state)
{
    (void)state;
    LOAD(store_code);
    w.deny_page = true;
    EXPECT_FAULT(CODE, X86_PF_I);
    w.deny_page = false;
    expect_end();
}

/* What the hypervisor says of a fault before it would exit. */
static void test_faults_seen_to_on_the_spot(void **state)
{
    (void)state;
    LOAD(store_code);
    w.ram[HANDLER] = 0xf4; /* HLT */
    set_gate(X86_EXC_PF, HANDLER);
    mended = *entry_at(LOW, 2, 0) & NOEPT_ADDR;
    *pte(DATA) = 0;
    answer = CPU_PF_MENDED;
    answers = 1;
    expect_end();
    assert_int_equal(answers, 0);
    assert_int_equal(answered_va, DATA + 8);

    answer = CPU_PF_GUEST; /* it does not exit, and has the error code that was given */
    answers = 1;
    *pte(DATA) = 0;
    mmu_flush_all(w.cpu);
    go(CODE);
    assert_int_equal(run(), VMX_EXIT_HLT);
    assert_int_equal(w.cpu->vmcs.guest_rip, HANDLER);
    assert_int_equal(w.cpu->cr2, DATA + 8);
    uint64_t error;
    memcpy(&error, w.ram + w.cpu->vmcs.guest_rsp, 8);
    assert_int_equal(error, X86_PF_P | X86_PF_W);

    answer = CPU_PF_GONE;
    answers = 1;
    go(CODE);
    assert_int_equal(run(), VMX_EXIT_EPT_VIOLATION);
    assert_int_equal(w.cpu->vmcs.guest_rip, CODE);
    EXPECT_FAULT(DATA + 8, X86_PF_W); /* no answer any more */

    /* Two faults of the guest's, one while the other is delivered, are a double fault; the hypervisor's one is not. */
    *pte(STACK - 8) = 0;
    mmu_flush_all(w.cpu);
    answer = CPU_PF_GUEST;
    answers = 1;
    go(CODE);
    load(HANDLER + 1, (const uint8_t *)"\xf4", 1);
    set_gate(X86_EXC_DF, HANDLER + 1);
    EXPECT_FAULT(STACK - 48, X86_PF_W);
    assert_int_equal(w.cpu->vmcs.idt_vectoring_info, VMX_INFO_VALID | VMX_INFO_ERROR_CODE | VMX_EVENT_HW_EXCEPTION << 8 | X86_EXC_PF);
    answers = 2;
    w.cpu->vmcs.guest_seg[X86_TR].base = TSS;
    uint64_t ist = STACK - 2 * PAGE;
    memcpy(w.ram + TSS + 36, &ist, 8);
    w.ram[IDT + X86_EXC_DF * 16 + 4] = 1; /* IST1 */
    go(CODE);
    assert_int_equal(run(), VMX_EXIT_HLT);
    assert_int_equal(w.cpu->vmcs.guest_rip, HANDLER + 1);
}

/* SDM 3C 26.2: with bit 14 set a fault exits if its error code, under the mask, matches; with it clear, if not. */
static void test_error_code_filter(void **state)
{
    (void)state;
    struct vmcs *v = &w.cpu->vmcs;
    LOAD(store_code);
    w.ram[HANDLER] = 0xf4; /* HLT */
    set_gate(X86_EXC_PF, HANDLER);
    for (unsigned i = 0; i < 8; i++) {
        bool bit = (i & 1) != 0, present = (i & 2) != 0, match = (i & 4) != 0;
        v->exception_bitmap = bit ? 1u << X86_EXC_PF : 0;
        v->pf_error_code_mask = X86_PF_P;
        v->pf_error_code_match = match ? X86_PF_P : 0;
        *pte(DATA) = present ? host_of(DATA) | P : 0;
        mmu_flush_all(w.cpu);
        w.cpu->cr2 = 0;
        go(CODE);
        if ((present == match) == bit) {
            EXPECT_FAULT(DATA + 8, (present ? X86_PF_P : 0) | X86_PF_W);
            assert_int_equal(w.cpu->cr2, 0);
        } else { /* it is the guest's */
            assert_int_equal(run(), VMX_EXIT_HLT);
            assert_int_equal(v->guest_rip, HANDLER);
            assert_int_equal(w.cpu->cr2, DATA + 8);
        }
    }
}

/* ---- faults while an event is delivered (SDM 3C 28.2.4) ---- */

GUEST_CODE(int3_code, ".code64", "int3; out %al, $0x80");
GUEST_CODE(int_code, ".code64", "int $0x77; out %al, $0x80");

static void test_vectoring(void **state)
{
    (void)state;
    struct vmcs *v = &w.cpu->vmcs;
    static const uint8_t handler[] = {0xe6, 0x80, 0x48, 0xcf}; /* OUT, IRETQ */
    load(HANDLER, handler, sizeof(handler));
    set_gate(X86_EXC_BP, HANDLER);
    set_gate(X86_EXC_PF, HANDLER);
    set_gate(0x77, HANDLER);
    set_gate(0x41, HANDLER);

    /* INT3, whose gate is not mapped; then it is, and the hypervisor injects it again. */
    LOAD(int3_code);
    uint64_t idt = *pte(IDT);
    *pte(IDT) = 0;
    EXPECT_FAULT(IDT + 16 * X86_EXC_BP, 0);
    assert_int_equal(v->idt_vectoring_info, VMX_INFO_VALID | VMX_EVENT_SW_EXCEPTION << 8 | X86_EXC_BP);
    assert_int_equal(v->exit_instruction_len, 1);
    assert_int_equal(v->guest_rip, CODE);
    *pte(IDT) = idt;
    v->entry_intr_info = v->idt_vectoring_info;
    v->entry_instruction_len = v->exit_instruction_len;
    expect_end();
    uint64_t frame[5];
    memcpy(frame, w.ram + v->guest_rsp, sizeof(frame));
    assert_int_equal(frame[0], CODE + 1);

    /* INT n with its stack away. */
    LOAD(int_code);
    go(CODE);
    uint64_t stack = *pte(STACK - 8);
    *pte(STACK - 8) = stack & ~W;
    mmu_flush_all(w.cpu);
    EXPECT_FAULT(STACK - 40, X86_PF_P | X86_PF_W);
    assert_int_equal(v->idt_vectoring_info, VMX_INFO_VALID | VMX_EVENT_SW_INTR << 8 | 0x77);
    assert_int_equal(v->exit_instruction_len, 2);
    assert_int_equal(v->guest_rsp, STACK);

    /* An interrupt, and a page fault of the guest's own with its error code, both injected. */
    v->guest_rflags |= X86_FLAGS_IF;
    v->entry_intr_info = VMX_INFO_VALID | VMX_EVENT_EXT_INTR << 8 | 0x41;
    EXPECT_FAULT(STACK - 40, X86_PF_P | X86_PF_W);
    assert_int_equal(v->idt_vectoring_info, VMX_INFO_VALID | VMX_EVENT_EXT_INTR << 8 | 0x41);
    w.cpu->cr2 = 0x1234;
    v->entry_intr_info = VMX_INFO_VALID | VMX_INFO_ERROR_CODE | VMX_EVENT_HW_EXCEPTION << 8 | X86_EXC_PF;
    v->entry_exception_error_code = 6;
    EXPECT_FAULT(STACK - 48, X86_PF_P | X86_PF_W);
    assert_int_equal(v->idt_vectoring_info, VMX_INFO_VALID | VMX_INFO_ERROR_CODE | VMX_EVENT_HW_EXCEPTION << 8 | X86_EXC_PF);
    assert_int_equal(v->idt_vectoring_error_code, 6);
    assert_int_equal(w.cpu->cr2, 0x1234);
    *pte(STACK - 8) = stack;
    v->entry_intr_info = v->idt_vectoring_info;
    v->entry_exception_error_code = v->idt_vectoring_error_code;
    expect_end();
    memcpy(frame, w.ram + v->guest_rsp, sizeof(frame));
    assert_int_equal(frame[0], 6);
    assert_int_equal(frame[1], CODE);
    assert_int_equal(w.cpu->cr2, 0x1234);
}

GUEST_CODE(sti_code, ".code64", "sti; mov 0x20000, %al; out %al, $0x80");

/* An instruction that exits has not ended the interrupt shadow before it. */
static void test_sti_shadow(void **state)
{
    (void)state;
    struct vmcs *v = &w.cpu->vmcs;
    LOAD(sti_code);
    v->proc_based_ctls |= VMX_PROC_INTR_WINDOW_EXITING; /* somebody waits for it to end */
    uint64_t was = *pte(DATA);
    *pte(DATA) = 0;
    EXPECT_FAULT(DATA, 0);
    assert_int_equal(v->guest_rip, CODE + 1);
    assert_int_equal(v->guest_interruptibility, VMX_INTR_STI);
    *pte(DATA) = was;
    *pte(CODE) = 0; /* the same of a fetch */
    mmu_flush_all(w.cpu);
    EXPECT_FAULT(CODE + 1, X86_PF_I);
    assert_int_equal(v->guest_interruptibility, VMX_INTR_STI);
    map(CODE, CODE, P | W);
    assert_int_equal(run(), VMX_EXIT_INTR_WINDOW);
    assert_int_equal(v->guest_interruptibility, 0);
    assert_true(v->guest_rip > CODE + 1); /* behind the load, not before it */
}

/* ---- control registers ---- */

GUEST_CODE(read_code, ".code64", "mov %cr0, %rax; mov %cr4, %rbx; smsw %ecx; out %al, $0x80");
GUEST_CODE(write_code, ".code64",
           "mov %rax, %cr0; mov %rbx, %cr4; clts; lmsw %cx; out %al, $0x80; jmp write_code_from");

#define CR0 (X86_CR0_PE | X86_CR0_ET | X86_CR0_NE | X86_CR0_PG | X86_CR0_WP)
#define CR4 (X86_CR4_PAE | X86_CR4_PGE)

static void test_masks(void **state)
{
    (void)state;
    struct vmcs *v = &w.cpu->vmcs;
    LOAD(read_code);
    cpu_set_paging(w.cpu, CR0 & ~X86_CR0_WP, 0x7000, CR4 | X86_CR4_OSFXSR, X86_EFER_LME | X86_EFER_LMA);
    assert_true((v->guest_cr0 & X86_CR0_WP) != 0 && (v->guest_ia32_efer & X86_EFER_NX) != 0);
    expect_end();
    assert_int_equal(w.cpu->gpr[X86_RAX], CR0 & ~X86_CR0_WP);
    assert_int_equal(w.cpu->gpr[X86_RBX], CR4 | X86_CR4_OSFXSR);
    assert_int_equal((uint32_t)w.cpu->gpr[X86_RCX], (CR0 & ~X86_CR0_WP) & 0xffffffff);

    /* Bits that are the guest's own are written without an exit, and seen. */
    LOAD(write_code);
    go(CODE);
    w.cpu->gpr[X86_RAX] = (CR0 & ~X86_CR0_WP) | X86_CR0_TS | X86_CR0_MP;
    w.cpu->gpr[X86_RBX] = CR4 | X86_CR4_DE;
    w.cpu->gpr[X86_RCX] = X86_CR0_PE | X86_CR0_TS;
    expect_end();
    assert_int_equal(cpu_guest_cr0(w.cpu), (CR0 & ~X86_CR0_WP) | X86_CR0_TS);
    assert_int_equal(cpu_guest_cr4(w.cpu), CR4 | X86_CR4_DE);

    /* One that is in the read shadow exits, with the register in the qualification (SDM 3C table 28-3). */
    const struct { uint64_t cr0, cr4; unsigned cr; } change[] = {
        {CR0, CR4 | X86_CR4_DE, 0},
        {(CR0 & ~X86_CR0_WP) | X86_CR0_CD, CR4 | X86_CR4_DE, 0},
        {CR0 & ~(X86_CR0_WP | X86_CR0_PG), CR4 | X86_CR4_DE, 0},
        {CR0 & ~X86_CR0_WP, CR4 & ~X86_CR4_PGE, 4},
        {CR0 & ~X86_CR0_WP, CR4 & ~X86_CR4_PAE, 4},
        {CR0 & ~X86_CR0_WP, CR4 | X86_CR4_SMEP, 4},
        {CR0 & ~X86_CR0_WP, CR4 | X86_CR4_SMAP, 4},
        {CR0 & ~X86_CR0_WP, CR4 | X86_CR4_PSE, 4},
        {CR0 & ~X86_CR0_WP, CR4 | X86_CR4_PCIDE, 4},
        {CR0 & ~X86_CR0_WP, CR4 | X86_CR4_LA57, 4},
    };
    for (size_t i = 0; i < KAGE_ARRAY_SIZE(change); i++) {
        uint64_t actual_cr0 = v->guest_cr0, actual_cr4 = v->guest_cr4;
        go(CODE);
        w.cpu->gpr[X86_RAX] = change[i].cr0;
        w.cpu->gpr[X86_RBX] = change[i].cr4;
        assert_int_equal(run(), VMX_EXIT_CR_ACCESS);
        unsigned reg = change[i].cr == 0 ? X86_RAX : X86_RBX;
        assert_int_equal(v->exit_qualification, change[i].cr | reg << 8);
        assert_int_equal(v->guest_rip, change[i].cr == 0 ? CODE : CODE + 3);
        assert_int_equal(v->exit_instruction_len, 3);
        if (change[i].cr == 0)
            assert_int_equal(v->guest_cr0, actual_cr0);
        assert_int_equal(v->guest_cr4, actual_cr4);
    }
}

GUEST_CODE(cr3_code, ".code64", "mov %cr3, %rsi; mov %rdi, %cr3; invlpg 0x123456(%rbx); out %al, $0x80");
GUEST_CODE(invpcid_code, ".code64", "invpcid %fs:0x40(%rbx), %rdx; out %al, $0x80");
GUEST_CODE(efer_code, ".code64", "mov $0xc0000080, %ecx; rdmsr; wrmsr; out %al, $0x80");

static void test_cr3_and_invalidations(void **state)
{
    (void)state;
    struct vmcs *v = &w.cpu->vmcs;
    uint64_t own = v->guest_cr3;
    LOAD(cr3_code);
    assert_int_equal(run(), VMX_EXIT_CR_ACCESS);
    assert_int_equal(v->exit_qualification, 3 | 1 << 4 | X86_RSI << 8);
    w.cpu->gpr[X86_RSI] = cpu_guest_cr3(w.cpu);
    assert_int_equal(w.cpu->gpr[X86_RSI], 0x7000);
    step_over();
    w.cpu->gpr[X86_RDI] = 0x9000;
    assert_int_equal(run(), VMX_EXIT_CR_ACCESS);
    assert_int_equal(v->exit_qualification, 3 | X86_RDI << 8);
    assert_true(cpu_load_cr3(w.cpu, 0x9000));
    assert_int_equal(cpu_guest_cr3(w.cpu), 0x9000);
    assert_int_equal(v->guest_cr3, own);
    assert_false(cpu_load_cr3(w.cpu, 1ull << 51)); /* beyond the guest's physical addresses */
    assert_int_equal(cpu_guest_cr3(w.cpu), 0x9000);
    step_over();
    w.cpu->gpr[X86_RBX] = 0xffff800000000000;
    assert_int_equal(run(), VMX_EXIT_INVLPG);
    assert_int_equal(v->exit_qualification, 0xffff800000123456);
    step_over();
    expect_end();

    LOAD(invpcid_code);
    go(CODE);
    v->guest_seg[X86_FS].base = 0x100000;
    w.cpu->gpr[X86_RBX] = 0x2000;
    assert_int_equal(run(), VMX_EXIT_INVPCID); /* before its operand is looked at */
    assert_int_equal(v->guest_linear_address, 0x102040);
    assert_int_equal(v->exit_instruction_info >> 28, X86_RDX);
    assert_int_equal(v->exit_instruction_info >> 7 & 7, 2); /* 64-bit addresses */
    assert_int_equal(v->exit_instruction_info & (1u << 22 | 1u << 27), 1u << 22 | 1u << 27);
    step_over();
    expect_end();

    /* EFER goes by the MSR bitmap, and what is read without an exit is the guest's. */
    LOAD(efer_code);
    go(CODE);
    set_msr_bit(MSR_EFER, false, true);
    set_msr_bit(MSR_EFER, true, true);
    assert_int_equal(run(), VMX_EXIT_RDMSR);
    set_msr_bit(MSR_EFER, false, false);
    assert_int_equal(run(), VMX_EXIT_WRMSR);
    assert_int_equal(w.cpu->gpr[X86_RAX], X86_EFER_LME | X86_EFER_LMA | X86_EFER_SCE); /* NX is the hypervisor's */
}

/* What the guest sees and what the processor runs by, through a guest's way into 64-bit mode and out. */
static void test_loads(void **state)
{
    (void)state;
    struct cpu *cpu = w.cpu;
    struct vmcs *v = &cpu->vmcs;
    cpu_reset(cpu, false);
    assert_int_equal(cpu_guest_cr0(cpu), X86_CR0_ET | X86_CR0_CD | X86_CR0_NW);
    assert_true((v->guest_cr0 & X86_CR0_PG) && (v->guest_cr0 & X86_CR0_WP) && !(v->guest_cr0 & X86_CR0_PE));
    assert_int_equal(v->guest_ia32_efer, X86_EFER_NX);
    assert_int_equal(cpu_guest_efer(cpu), 0);

    assert_false(cpu_load_cr0(cpu, X86_CR0_PG));
    assert_false(cpu_load_cr0(cpu, X86_CR0_NW));
    assert_true(cpu_load_cr0(cpu, X86_CR0_PE));
    assert_int_equal(cpu_guest_cr0(cpu), X86_CR0_PE | X86_CR0_ET);
    assert_true(cpu_load_cr4(cpu, X86_CR4_PAE | X86_CR4_SMEP | X86_CR4_SMAP | X86_CR4_PGE));
    assert_int_equal(v->guest_cr4, X86_CR4_PAE); /* rights say nothing without paging */
    assert_false(cpu_load_cr4(cpu, X86_CR4_PCIDE));
    assert_int_equal(cpu_guest_cr4(cpu), X86_CR4_PAE | X86_CR4_SMEP | X86_CR4_SMAP | X86_CR4_PGE);
    assert_true(cpu_load_efer(cpu, X86_EFER_LME));
    assert_false(cpu_load_efer(cpu, 1ull << 20));
    assert_int_equal(cpu_guest_efer(cpu), X86_EFER_LME);
    assert_int_equal(v->guest_ia32_efer & (X86_EFER_LME | X86_EFER_LMA), 0); /* entry wants LME and LMA alike */
    v->guest_seg[X86_TR].access_rights = 0x83; /* a 16-bit TSS keeps out of IA-32e mode */
    assert_false(cpu_load_cr0(cpu, CR0));
    v->guest_seg[X86_TR].access_rights = 0x8b;
    assert_true(cpu_load_cr0(cpu, CR0));
    assert_int_equal(cpu_guest_efer(cpu), X86_EFER_LME | X86_EFER_LMA);
    assert_int_equal(v->guest_ia32_efer, X86_EFER_LME | X86_EFER_LMA | X86_EFER_NX);
    assert_int_equal(v->guest_cr4, X86_CR4_PAE | X86_CR4_SMEP | X86_CR4_SMAP | X86_CR4_PGE);
    assert_true(cpu_in_long_mode(cpu));
    assert_false(cpu_load_efer(cpu, 0)); /* LME while paging */
    assert_false(cpu_load_cr4(cpu, 0));
    assert_true(cpu_load_cr4(cpu, X86_CR4_PAE | X86_CR4_PCIDE));
    assert_int_equal(v->guest_cr4, X86_CR4_PAE | X86_CR4_PCIDE);
    assert_false(cpu_load_cr0(cpu, X86_CR0_PE)); /* PCIDE holds it in IA-32e mode */
    assert_true(cpu_load_cr4(cpu, X86_CR4_PAE));
    assert_true(cpu_load_cr0(cpu, X86_CR0_PE));
    assert_false(cpu_in_long_mode(cpu));
    assert_int_equal(cpu_guest_efer(cpu), X86_EFER_LME);

    /* PAE paging reads the guest's four registers, from guest memory. */
    uint64_t pdptes[4] = {0x5001, 0, 0x6001, 0};
    assert_true(cpu_load_efer(cpu, 0));
    memcpy(w.ram + 0x8000, pdptes, sizeof(pdptes));
    assert_true(cpu_load_cr3(cpu, 0x8000));
    assert_true(cpu_load_cr0(cpu, CR0));
    assert_memory_equal(v->guest_pdpte, pdptes, sizeof(pdptes));
    pdptes[1] = 0x7003; /* W is reserved there */
    memcpy(w.ram + 0x8020, pdptes, sizeof(pdptes));
    assert_false(cpu_load_cr3(cpu, 0x8020));
    assert_int_equal(cpu_guest_cr3(cpu), 0x8000);
}

/* ---- MMIO and read-only memory ---- */

GUEST_CODE(mmio_code, ".code64",
           "mov 0x30008, %eax; mov %ecx, 0x3000c; mov $0x30010, %esi; mov $0x20000, %edi; cmpsl; out %al, $0x80");

static void test_mmio(void **state)
{
    (void)state;
    struct vmcs *v = &w.cpu->vmcs;
    struct cpu_mmio *m = &w.cpu->mmio[0];
    LOAD(mmio_code);
    *pte(0x30000) = 0xfee00000ull | NOEPT_MMIO | P | W | U;
    assert_int_equal(run(), VMX_EXIT_EPT_MISCONFIG);
    assert_int_equal(v->guest_physical_address, 0xfee00008);
    assert_true(m->state == CPU_MMIO_WANTED && !m->is_write && m->len == 4 && m->gpa == 0xfee00008);
    memcpy(m->data, "\x78\x56\x34\x12", 4);
    m->state = CPU_MMIO_DONE;
    assert_int_equal(run(), VMX_EXIT_EPT_MISCONFIG); /* the store */
    assert_int_equal(w.cpu->gpr[X86_RAX], 0x12345678);
    assert_true(m->state == CPU_MMIO_WANTED && m->is_write && m->len == 4 && m->gpa == 0xfee0000c);
    m->state = CPU_MMIO_NONE;
    assert_int_equal(run(), VMX_EXIT_EPT_MISCONFIG); /* the load of CMPS */
    assert_true(m->state == CPU_MMIO_WANTED && m->gpa == 0xfee00010);
    memcpy(m->data, "abcd", 4);
    m->state = CPU_MMIO_DONE;
    /* Its other load waits for the hypervisor's tables; the device is not read twice. */
    uint64_t was = *pte(DATA);
    *pte(DATA) = 0;
    mmu_flush_page(w.cpu, DATA);
    EXPECT_FAULT(DATA, 0);
    assert_int_equal(m->state, CPU_MMIO_DONE);
    *pte(DATA) = was;
    memcpy(w.ram + DATA, "abcd", 4);
    expect_end();
    assert_true((v->guest_rflags & X86_FLAGS_ZF) != 0);
    assert_int_equal(w.cpu->gpr[X86_RDI], DATA + 4);
    assert_int_equal(m->state, CPU_MMIO_NONE);

    /* Rights are looked at as of any page. */
    *pte(0x30000) = 0xfee00000ull | NOEPT_MMIO | P;
    struct mmu_map map;
    assert_int_equal(mmu_translate(w.cpu, 0x30000, MMU_WRITE, MMU_IDX_KERNEL, &map), MMU_FAULT);
    assert_int_equal(w.cpu->event.error, X86_PF_P | X86_PF_W);
    assert_int_equal(mmu_translate(w.cpu, 0x30000, MMU_READ, MMU_IDX_USER, &map), MMU_FAULT);
    assert_int_equal(w.cpu->event.error, X86_PF_P | X86_PF_U);
    w.cpu->event.valid = false;
    assert_int_equal(mmu_translate(w.cpu, 0x30fff, MMU_READ, MMU_IDX_KERNEL, &map), MMU_MMIO);
    assert_int_equal(map.gpa, 0xfee00fff);
    assert_int_equal(*pte(0x30000) & (X86_PTE_A | X86_PTE_D), 0);
}

/* A guest's own page fault, injected, ends what the instruction has asked a device for. */
static void test_mmio_refused(void **state)
{
    (void)state;
    struct vmcs *v = &w.cpu->vmcs;
    struct cpu_mmio *m = &w.cpu->mmio[0];
    LOAD(mmio_code);
    *pte(0x30000) = 0xfee00000ull | NOEPT_MMIO | P | W | U;
    set_gate(X86_EXC_PF, HANDLER);
    w.ram[HANDLER] = 0xf4;
    assert_int_equal(run(), VMX_EXIT_EPT_MISCONFIG);
    m->state = CPU_MMIO_DONE;
    v->entry_intr_info = VMX_INFO_VALID | VMX_INFO_ERROR_CODE | VMX_EVENT_HW_EXCEPTION << 8 | X86_EXC_PF;
    assert_int_equal(run(), VMX_EXIT_HLT);
    assert_int_equal(m->state, CPU_MMIO_NONE);
}

static void test_rom(void **state)
{
    (void)state;
    struct mmu_map map;
    LOAD(store_code);
    memcpy(w.ram + DATA + 0x10, "readonly", 8);
    *pte(DATA) = host_of(DATA) | P | W | NOEPT_ROM;
    w.alias = 0xfff20000; /* the slot's address, not that of other mappings of the same memory */
    w.cpu->gpr[X86_RAX] = 1;
    *pte(CODE) |= X86_PTE_A;
    assert_int_equal(mmu_translate(w.cpu, CODE, MMU_FETCH, MMU_IDX_KERNEL, &map), MMU_OK);
    assert_int_equal(map.gpa, w.alias);
    w.alias = 0;
    mmu_flush_all(w.cpu);
    assert_int_equal(run(), VMX_EXIT_EPT_MISCONFIG);
    assert_true(w.cpu->mmio[0].state == CPU_MMIO_WANTED && w.cpu->mmio[0].is_write && w.cpu->mmio[0].gpa == DATA + 8);
    assert_int_equal(w.cpu->mmio[0].data[0], 1);
    w.cpu->mmio[0].state = CPU_MMIO_NONE;
    expect_end();
    assert_memory_equal(&w.cpu->gpr[X86_RCX], "readonly", 8); /* read as memory */
    assert_int_equal(w.ram[DATA + 8], 0);
    assert_int_equal(*pte(DATA) & (X86_PTE_A | X86_PTE_D), X86_PTE_A);
    *pte(DATA) &= ~W;
    mmu_flush_all(w.cpu);
    go(CODE);
    EXPECT_FAULT(DATA + 8, X86_PF_P | X86_PF_W);
}

/* ---- rights ---- */

/* CR0.WP is the processor's own: what the hypervisor protects stays so, whatever the guest has there. */
static void test_write_protection_holds(void **state)
{
    (void)state;
    LOAD(store_code);
    cpu_set_paging(w.cpu, CR0 & ~X86_CR0_WP, 0x7000, CR4, X86_EFER_LME | X86_EFER_LMA);
    *pte(DATA) &= ~W;
    mmu_flush_all(w.cpu);
    EXPECT_FAULT(DATA + 8, X86_PF_P | X86_PF_W);
}

static void test_smep_and_smap(void **state)
{
    (void)state;
    LOAD(store_code);
    cpu_set_paging(w.cpu, CR0, 0x7000, CR4 | X86_CR4_SMEP | X86_CR4_SMAP, X86_EFER_LME | X86_EFER_LMA);
    *pte(CODE) |= U;
    mmu_flush_all(w.cpu);
    EXPECT_FAULT(CODE, X86_PF_P | X86_PF_I);
    *pte(CODE) &= ~U;
    *pte(DATA) |= U;
    EXPECT_FAULT(DATA + 8, X86_PF_P | X86_PF_W);
    w.cpu->vmcs.guest_rflags |= X86_FLAGS_AC;
    expect_end();
    /* A guest without paging has all of its pages for the user, and is not held to these. */
    cpu_set_paging(w.cpu, CR0 & ~X86_CR0_PG, 0, X86_CR4_SMEP | X86_CR4_SMAP, 0);
    assert_int_equal(w.cpu->vmcs.guest_cr4 & (X86_CR4_SMEP | X86_CR4_SMAP), 0);
}

/* ---- TLB ---- */

static gpa_t where(gva_t va)
{
    struct mmu_map map;

    assert_int_equal(mmu_translate(w.cpu, va, MMU_READ, MMU_IDX_KERNEL, &map), MMU_OK);
    return map.gpa;
}

static void test_tlb(void **state)
{
    (void)state;
    struct vmcs *v = &w.cpu->vmcs;
    gva_t local = 0x100000, global = 0xffff800000200000;
    map(local, 0x100000, P | W);
    map(global, 0x101000, P | W | X86_PTE_G);
    assert_int_equal(where(local), 0x100000);
    assert_int_equal(where(global), 0x101000);
    map(local, 0x102000, P | W);
    map(global, 0x103000, P | W | X86_PTE_G);
    assert_int_equal(where(local), 0x100000); /* until somebody flushes */
    mmu_flush_page(w.cpu, local);
    assert_int_equal(where(local), 0x102000);
    map(local, 0x104000, P | W);
    mmu_switch_cr3(w.cpu, false);
    assert_int_equal(where(local), 0x104000);
    assert_int_equal(where(global), 0x101000); /* global */
    mmu_flush_page(w.cpu, global);
    assert_int_equal(where(global), 0x103000);

    /* With PCIDs, a root of its own for each, and kept translations of both. */
    cpu_set_paging(w.cpu, CR0, 0x7000, CR4 | X86_CR4_PCIDE, X86_EFER_LME | X86_EFER_LMA);
    mmu_flush_all(w.cpu);
    uint64_t first = v->guest_cr3 | 1, second = (uintptr_t)new_table() | 2;
    v->guest_cr3 = first;
    mmu_switch_cr3(w.cpu, false);
    assert_int_equal(where(local), 0x104000);
    v->guest_cr3 = second;
    mmu_switch_cr3(w.cpu, false);
    map(local, 0x105000, P | W);
    assert_int_equal(where(local), 0x105000);
    map(local, 0x106000, P | W);
    v->guest_cr3 = first;
    mmu_switch_cr3(w.cpu, true);
    assert_int_equal(where(local), 0x104000);
    v->guest_cr3 = second;
    mmu_switch_cr3(w.cpu, true);
    assert_int_equal(where(local), 0x105000);
    mmu_flush_pcid(w.cpu, 2);
    assert_int_equal(where(local), 0x106000);

    /* A large page goes as a whole. */
    gva_t large = 0x40000000;
    *entry_at(large, 2, P | W | U) = host_of(2u << 20) | P | W | X86_PTE_PS;
    assert_int_equal(where(large + 0x5000), (2u << 20) + 0x5000);
    *entry_at(large, 2, P | W | U) = host_of(4u << 20) | P | W | X86_PTE_PS;
    mmu_flush_page(w.cpu, large + 0x1000);
    assert_int_equal(where(large + 0x5000), (4u << 20) + 0x5000);
}

/* ---- code: known by guest-physical page, whatever linear address it is written through ---- */

GUEST_CODE(patch_code, ".code64",
           "mov $1, %eax; out %al, $0x80; movb $2, 0x200001; jmp patch_code_from");

static void test_self_modifying_code(void **state)
{
    (void)state;
    LOAD(patch_code);
    map(0x200000, CODE, P | W); /* splits nothing: that 2 MiB page gives way to a table */
    *entry_at(0x200000, 2, 0) = 0;
    map(0x200000, CODE, P | W);
    mmu_flush_all(w.cpu);
    for (unsigned i = 0; i < 3; i++) {
        w.cpu->gpr[X86_RAX] = 0;
        expect_end();
        assert_int_equal(w.cpu->gpr[X86_RAX], i == 0 ? 1 : 2);
    }
}

/* ---- other modes ---- */

GUEST_CODE(real_code, ".code16",
           "mov $0x1234, %ax; mov %ax, 0x100; mov %cr0, %ecx; mov %ecx, %ebx; or $1, %bx; mov %ebx, %cr0; out %al, $0x80");

static void test_real_mode(void **state)
{
    (void)state;
    struct vmcs *v = &w.cpu->vmcs;
    LOAD(real_code);
    cpu_reset(w.cpu, false);
    cpu_set_paging(w.cpu, X86_CR0_ET | X86_CR0_NE, 0, 0, 0);
    v->guest_seg[X86_CS].selector = CODE >> 4;
    v->guest_seg[X86_CS].base = CODE;
    v->guest_seg[X86_DS].selector = DATA >> 4;
    v->guest_seg[X86_DS].base = DATA;
    mmu_flush_all(w.cpu);
    go(0);
    uint64_t was = *pte(DATA);
    *pte(DATA) = 0;
    EXPECT_FAULT(DATA + 0x100, X86_PF_W); /* with an error code, in real mode too */
    *pte(DATA) = was;
    expect_end();
    assert_memory_equal(w.ram + DATA + 0x100, "\x34\x12", 2);
    assert_int_equal(w.cpu->gpr[X86_RCX] & 0xffffffff, X86_CR0_ET | X86_CR0_NE);
    assert_int_equal(cpu_guest_cr0(w.cpu), X86_CR0_ET | X86_CR0_NE | X86_CR0_PE); /* PE is the guest's own */
}

GUEST_CODE(store32_code, ".code32", "mov $0x20000, %edi; mov %eax, %es:0xfffff000(%edi); out %al, $0x80");

static void protected_mode(uint64_t cr0, uint64_t cr3)
{
    struct vmcs *v = &w.cpu->vmcs;

    cpu_set_paging(w.cpu, cr0, cr3, 0, 0);
    v->guest_seg[X86_CS].access_rights = 0xc09b;
    mmu_flush_all(w.cpu);
    cpu_update_mode(w.cpu);
}

static void test_32_bits(void **state)
{
    (void)state;
    LOAD(store32_code);
    protected_mode(X86_CR0_PE | X86_CR0_ET | X86_CR0_NE | X86_CR0_PG, 0x6000);
    w.cpu->gpr[X86_RAX] = 0x61626364;
    uint64_t was = *pte(DATA - PAGE);
    *pte(DATA - PAGE) = 0;
    EXPECT_FAULT(DATA - PAGE, X86_PF_W); /* cut to 32 bits */
    *pte(DATA - PAGE) = was;
    expect_end();
    assert_memory_equal(w.ram + DATA - PAGE, "dcba", 4);
}

/* ---- task switches load CR3 through the hypervisor ---- */

GUEST_CODE(task_code, ".code32", "ljmp $0x30, $0");
GUEST_CODE(task_target, ".code32", "out %al, $0x80");

static void test_task_switch(void **state)
{
    (void)state;
    struct vmcs *v = &w.cpu->vmcs;
    uint32_t tss[26] = {[7] = 0xa000, [8] = HANDLER, [9] = 2, [14] = 0, [18] = SEL_DATA, [19] = SEL_CODE, [20] = SEL_DATA,
                        [21] = SEL_DATA, [22] = SEL_DATA, [23] = SEL_DATA};
    uint64_t descriptor = 0x0000890000000067 | (uint64_t)0x6000 << 16, cs32 = 0x00cf9b000000ffff;
    tss[14] = STACK;
    memcpy(w.ram + 0x6000, tss, sizeof(tss));
    memcpy(w.ram + GDT + 0x30, &descriptor, 8);
    memcpy(w.ram + GDT + SEL_CODE, &cs32, 8);
    LOAD(task_code);
    load(HANDLER, task_target, (size_t)(task_target_to - task_target));
    for (unsigned paging = 0; paging < 2; paging++) {
        protected_mode(X86_CR0_PE | X86_CR0_ET | X86_CR0_NE | (paging ? X86_CR0_PG : 0), 0x6000);
        v->guest_seg[X86_TR].access_rights = 0x8b;
        memcpy(w.ram + GDT + 0x30, &descriptor, 8);
        mmu_flush_all(w.cpu);
        go(CODE);
        expect_end();
        assert_int_equal(v->guest_rip, HANDLER + 2);
        assert_int_equal(w.task_loads, paging);
        v->guest_seg[X86_TR] = (struct vmcs_segment){.selector = SEL_TSS, .base = TSS, .limit = 0x67, .access_rights = 0x8b};
    }
    assert_int_equal(w.task_cr3, 0xa000);
    assert_true((cpu_guest_cr0(w.cpu) & X86_CR0_TS) != 0);
}

/* ---- the guest's own tables, for its hypervisor ---- */

static void put_entry(gpa_t table, gva_t va, unsigned level, uint64_t entry)
{
    memcpy(w.ram + table + (va >> (12 + 9 * (level - 1)) & 511) * 8, &entry, 8);
}

static uint64_t get_entry(gpa_t table, gva_t va, unsigned level)
{
    uint64_t entry;
    memcpy(&entry, w.ram + table + (va >> (12 + 9 * (level - 1)) & 511) * 8, 8);
    return entry;
}

static void test_walk_of_the_guests_tables(void **state)
{
    (void)state;
    gva_t va = 0x7f0012345678;
    gpa_t at[5] = {0, 0x184000, 0x183000, 0x182000, 0x181000}; /* by level */
    for (unsigned level = 4; level > 1; level--)
        put_entry(at[level], va, level, at[level - 1] | P | W | U);
    put_entry(at[1], va, 1, 0x190000 | P | U);
    memcpy(w.ram + 0x190678, "in the guest", 12);
    cpu_set_paging(w.cpu, CR0, 0x181000, CR4, X86_EFER_LME | X86_EFER_LMA);

    gpa_t gpa;
    bool writable, user;
    assert_true(mmu_probe(w.cpu, va, &gpa, &writable, &user)); /* the processor's tables have nothing there */
    assert_int_equal(gpa, 0x190678);
    assert_true(!writable && user);
    assert_int_equal(get_entry(at[1], va, 1) & X86_PTE_A, 0);

    struct paging_regime r = walk_guest_regime(w.cpu);
    struct walk walk;
    assert_int_equal(mmu_walk(w.cpu, &r, va, MMU_READ, MMU_IDX_USER, 0, &walk), MMU_OK);
    assert_int_equal(walk.gpa, 0x190678);
    assert_int_equal(walk.flags, MAP_USER);
    assert_true(walk.top == 4 && walk.level == 1);
    for (unsigned level = 1; level <= 4; level++) {
        assert_int_equal(walk.step[level].gpa, at[level] + (va >> (12 + 9 * (level - 1)) & 511) * 8);
        assert_int_equal(walk.step[level].entry, get_entry(at[level], va, level));
        assert_int_equal(walk.step[level].entry & X86_PTE_A, X86_PTE_A);
        assert_int_equal(walk.step[level].flags, MAP_USER | (level > 1 ? MAP_WRITE : 0));
    }
    assert_int_equal(mmu_walk(w.cpu, &r, va, MMU_WRITE, MMU_IDX_USER, 0, &walk), MMU_FAULT);
    assert_int_equal(walk.error, X86_PF_P | X86_PF_W | X86_PF_U);
    /* A supervisor may, if the guest's own CR0.WP lets it, though the processor's is set. */
    assert_int_equal(mmu_walk(w.cpu, &r, va, MMU_WRITE, MMU_IDX_KERNEL, 0, &walk), MMU_FAULT);
    cpu_set_paging(w.cpu, CR0 & ~X86_CR0_WP, 0x181000, CR4, X86_EFER_LME | X86_EFER_LMA);
    r = walk_guest_regime(w.cpu);
    assert_int_equal(mmu_walk(w.cpu, &r, va, MMU_WRITE, MMU_IDX_KERNEL, WALK_QUIET, &walk), MMU_OK);
    assert_int_equal(get_entry(at[1], va, 1) & X86_PTE_D, 0);
    assert_int_equal(mmu_walk(w.cpu, &r, va, MMU_WRITE, MMU_IDX_KERNEL, 0, &walk), MMU_OK);
    assert_int_equal(get_entry(at[1], va, 1) & X86_PTE_D, X86_PTE_D);
    /* NX is reserved while the guest's EFER.NX is clear, though the processor's is set; and I is not told. */
    put_entry(at[1], va, 1, 0x190000 | P | U | NX);
    assert_int_equal(mmu_walk(w.cpu, &r, va, MMU_FETCH, MMU_IDX_USER, 0, &walk), MMU_FAULT);
    assert_int_equal(walk.error, X86_PF_P | X86_PF_RSVD | X86_PF_U);
    put_entry(at[1], va, 1, 0x190000 | P | U);

    char text[16] = "";
    put_entry(at[1], va + PAGE, 1, 0x195000 | P | U);
    memcpy(w.ram + 0x190ff8, "across a", 8);
    memcpy(w.ram + 0x195000, " border", 8);
    assert_int_equal(mmu_read_virt(w.cpu, (va & KAGE_PAGE_MASK) + 0xff8, text, 16, MMU_IDX_USER, &walk), MMU_OK);
    assert_string_equal(text, "across a border");
    put_entry(at[1], va + PAGE, 1, 0);
    assert_int_equal(mmu_read_virt(w.cpu, (va & KAGE_PAGE_MASK) + 0xff8, text, 16, MMU_IDX_USER, &walk), MMU_FAULT);
    assert_int_equal(walk.error, X86_PF_U);
    put_entry(at[1], va, 1, 0xfee00000 | P | U);
    assert_int_equal(mmu_read_virt(w.cpu, va, text, 4, MMU_IDX_USER, &walk), MMU_MMIO);

    /* Without paging, and with 32-bit tables, whatever the processor walks. */
    cpu_set_paging(w.cpu, X86_CR0_PE | X86_CR0_ET, 0x181000, 0, 0);
    assert_true(mmu_probe(w.cpu, 0x123456, &gpa, &writable, &user));
    assert_int_equal(gpa, 0x123456);
    cpu_set_paging(w.cpu, CR0, 0x1a0000, X86_CR4_PSE, 0);
    uint32_t pde = 0x00400000 | 0x83;
    memcpy(w.ram + 0x1a0000 + 4 * (0x80412345u >> 22), &pde, 4);
    assert_true(mmu_probe(w.cpu, 0x80412345u, &gpa, &writable, &user));
    assert_int_equal(gpa, 0x412345);
    assert_true(writable && !user);
}

/* ---- what entry refuses ---- */

static void test_entry_checks(void **state)
{
    (void)state;
    struct vmcs *v = &w.cpu->vmcs;
    LOAD(store_code);
    /* A guest that could choose its root, or pass over rights, would have all of the client's memory. */
    v->proc_based_ctls &= ~VMX_PROC_CR3_LOAD_EXITING;
    assert_int_equal(run(), VMX_INVALID_CONTROLS);
    v->proc_based_ctls |= VMX_PROC_CR3_LOAD_EXITING;
    for (unsigned i = 0; i < 32; i++) {
        uint64_t bit = 1ull << i;
        if (((X86_CR0_PG | X86_CR0_WP) & bit) != 0) {
            v->cr0_mask &= ~bit;
            assert_int_equal(run(), VMX_INVALID_CONTROLS);
            v->cr0_mask |= bit;
        }
        if (((X86_CR4_PAE | X86_CR4_PCIDE | X86_CR4_LA57 | X86_CR4_SMEP) & bit) != 0) {
            v->cr4_mask &= ~bit;
            assert_int_equal(run(), VMX_INVALID_CONTROLS);
            v->cr4_mask |= bit;
        }
    }
    const struct { size_t offset; uint64_t set, clear; } bad[] = {
        {offsetof(struct vmcs, guest_cr0), 0, X86_CR0_PG},
        {offsetof(struct vmcs, guest_cr0), 0, X86_CR0_WP},
        {offsetof(struct vmcs, guest_cr3), 1ull << 52, 0},
        {offsetof(struct vmcs, guest_cr3), 1ull << 51, 0},
        {offsetof(struct vmcs, guest_cr4), 0, X86_CR4_PAE},
        {offsetof(struct vmcs, guest_ia32_efer), 0, X86_EFER_LME},
    };
    for (size_t i = 0; i < KAGE_ARRAY_SIZE(bad); i++) {
        uint64_t *field = (uint64_t *)(void *)((uint8_t *)v + bad[i].offset), kept = *field;
        *field = (kept | bad[i].set) & ~bad[i].clear;
        assert_int_equal(run(), VMX_EXIT_ENTRY_GUEST_STATE | VMX_EXIT_REASON_ENTRY_FAILURE);
        *field = kept;
    }
    v->guest_pdpte[0] = 1ull << 60 | 1; /* not this processor's business */
    expect_end();
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_runs), TEST(test_five_levels_and_large_pages), TEST(test_faults), TEST(test_no_root), TEST(test_faults_seen_to_on_the_spot),
        TEST(test_page_on_its_way_out), TEST(test_error_code_filter), TEST(test_vectoring), TEST(test_sti_shadow),
        TEST(test_masks), TEST(test_cr3_and_invalidations), TEST(test_loads), TEST(test_mmio), TEST(test_mmio_refused),
        TEST(test_rom), TEST(test_write_protection_holds), TEST(test_smep_and_smap), TEST(test_tlb),
        TEST(test_self_modifying_code), TEST(test_real_mode), TEST(test_32_bits), TEST(test_task_switch),
        TEST(test_walk_of_the_guests_tables), TEST(test_entry_checks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
