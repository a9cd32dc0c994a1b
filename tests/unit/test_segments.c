/* SPDX-License-Identifier: MIT */
/*
 * Segmentation, gates and tasks of engine/cpu on a fake MMU: what guest tests cannot see (the vendors,
 * VM-exit information, memory that must not have changed), and random tables: whatever a guest puts
 * there, an instruction that faults leaves the processor as it was. Linear memory: 128 KiB from 0, the
 * page 0x5000 is not present.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/segment.h"
#include "mmu/mmu.h"

#define RAM_BYTES 0x20000u
#define HOLE 0x5000u
#define GDT 0x1000u
#define IDT 0x2000u
#define TSS_A 0x3000u
#define TSS_B 0x3100u
#define SEL_CODE 0x08u
#define SEL_DATA 0x10u
#define SEL_UCODE 0x18u
#define SEL_UDATA 0x20u
#define SEL_TSS_A 0x28u
#define SEL_TSS_B 0x30u
#define SEL_FREE 0x38u

static uint8_t ram[RAM_BYTES] __attribute__((aligned(4096)));
static bool vendor_amd;

enum mmu_result mmu_translate(struct cpu *cpu, gva_t va, enum mmu_access access, enum mmu_idx idx, struct mmu_map *map)
{
    (void)idx;
    if (va >= RAM_BYTES || (va & KAGE_PAGE_MASK) == HOLE) {
        cpu_raise_page_fault(cpu, va, access == MMU_WRITE ? X86_PF_W : 0);
        return MMU_FAULT;
    }
    *map = (struct mmu_map){.gpa = va, .hva = ram + va};
    return MMU_OK;
}

void mmu_flush_all(struct cpu *cpu) { (void)cpu; }
void mmu_flush_non_global(struct cpu *cpu) { (void)cpu; }
void mmu_flush_pcid(struct cpu *cpu, unsigned pcid) { (void)cpu, (void)pcid; }
void mmu_flush_page(struct cpu *cpu, gva_t va) { (void)cpu, (void)va; }
void mmu_flush_page_pcid(struct cpu *cpu, gva_t va, unsigned pcid) { (void)cpu, (void)va, (void)pcid; }
void mmu_switch_cr3(struct cpu *cpu, bool noflush) { (void)cpu, (void)noflush; }
bool mmu_load_pdptes(struct cpu *cpu, uint64_t cr3) { (void)cpu, (void)cr3; return true; }
void cpu_x87_pointers(struct cpu *cpu, uint64_t host_fip, uint64_t host_fdp, unsigned bytes, bool all,
                      struct cpu_x87_pointers *p)
{
    (void)cpu, (void)host_fip, (void)host_fdp, (void)bytes, (void)all;
    *p = (struct cpu_x87_pointers){0};
}
void cpu_fpu_save(struct cpu *cpu) { (void)cpu; }
void cpu_fpu_load(struct cpu *cpu) { (void)cpu; }
bool isa_vendor_amd(void) { return vendor_amd; }
void cpu_code_written(struct cpu *cpu, gpa_t gpa, unsigned len) { (void)cpu, (void)gpa, (void)len; }

#define ARG(bytes_log2) ((uint32_t)(bytes_log2) << 11 | 2u << 14 | (uint32_t)X86_DS << 16)
#define ARG_REG(bytes_log2, reg) (ARG(bytes_log2) | (uint32_t)(reg))

static void put(uint32_t at, uint64_t value, unsigned bytes)
{
    memcpy(ram + at, &value, bytes);
}

static uint64_t get(uint32_t at, unsigned bytes)
{
    uint64_t value = 0;
    memcpy(&value, ram + at, bytes);
    return value;
}

static uint64_t descriptor(uint32_t base, uint32_t limit, unsigned access, unsigned flags)
{
    return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)access << 40 |
           (uint64_t)(limit >> 16 & 15) << 48 | (uint64_t)flags << 52 | (uint64_t)(base >> 24) << 56;
}

static void set_descriptor(unsigned selector, uint64_t d)
{
    put(GDT + (selector & ~7u), d, 8);
}

/* 32-bit protected mode, CPL 0, flat. */
static void protected_mode(struct cpu *cpu)
{
    struct vmcs *v = &cpu->vmcs;

    cpu->rflags = X86_FLAGS_FIXED;
    cpu->iflag = 0;
    cpu->rip = 0x8000;
    cpu->intr_shadow = 0;
    cpu->event.valid = false;
    memset(cpu->gpr, 0, sizeof(cpu->gpr));
    cpu->gpr[X86_RSP] = 0x7000;
    memset(v, 0, sizeof(*v));
    v->proc_based_ctls2 = VMX_PROC2_EPT;
    v->guest_cr0 = X86_CR0_PE | X86_CR0_ET;
    v->guest_gdtr_base = GDT;
    v->guest_gdtr_limit = 0xff;
    v->guest_idtr_base = IDT;
    v->guest_idtr_limit = 0x7ff;
    for (unsigned s = X86_ES; s <= X86_GS; s++) {
        v->guest_seg[s] = (struct vmcs_segment){.selector = SEL_DATA, .access_rights = AR_FLAT_DATA, .limit = ~0u};
    }
    v->guest_seg[X86_CS] = (struct vmcs_segment){.selector = SEL_CODE, .access_rights = AR_FLAT_CODE32, .limit = ~0u};
    v->guest_seg[X86_LDTR] = (struct vmcs_segment){.access_rights = X86_AR_UNUSABLE};
    v->guest_seg[X86_TR] =
        (struct vmcs_segment){.selector = SEL_TSS_A, .access_rights = X86_AR_P | SYS_TSS_BUSY, .limit = 103, .base = TSS_A};
    set_descriptor(SEL_CODE, descriptor(0, 0xfffff, 0x9b, 0xc));
    set_descriptor(SEL_DATA, descriptor(0, 0xfffff, 0x93, 0xc));
    set_descriptor(SEL_UCODE, descriptor(0, 0xfffff, 0xfb, 0xc));
    set_descriptor(SEL_UDATA, descriptor(0, 0xfffff, 0xf3, 0xc));
    set_descriptor(SEL_TSS_A, descriptor(TSS_A, 103, 0x8b, 0));
    set_descriptor(SEL_TSS_B, descriptor(TSS_B, 103, 0x89, 0));
    put(TSS_A + 4, 0x7800, 4);
    put(TSS_A + 8, SEL_DATA, 4);
    cpu_update_mode(cpu);
}

static void real_mode(struct cpu *cpu)
{
    struct vmcs *v = &cpu->vmcs;

    protected_mode(cpu);
    v->guest_cr0 = X86_CR0_ET;
    v->guest_idtr_base = 0;
    v->guest_idtr_limit = 0x3ff;
    for (unsigned s = X86_ES; s <= X86_GS; s++) {
        v->guest_seg[s] = (struct vmcs_segment){.access_rights = AR_REAL_DATA, .limit = 0xffff};
    }
    v->guest_seg[X86_CS].access_rights |= AR_TYPE_CODE;
    cpu_update_mode(cpu);
}

static int setup(void **state)
{
    struct cpu *cpu = aligned_alloc(64, (sizeof(*cpu) + 63) & ~63ul);
    if (cpu == NULL) {
        return -1;
    }
    memset(cpu, 0, sizeof(*cpu));
    cpu->stats = cpu->own_stats;
    for (unsigned i = 0; i < MMU_IDX_COUNT; i++) {
        for (unsigned a = 0; a < 2; a++) {
            for (unsigned e = 0; e < TLB_SIZE; e++) {
                cpu->tlb[i][a].neg_tag[e] = cpu->tlb[i][a].host[e] = TLB_INVALID;
            }
        }
    }
    memset(ram, 0, sizeof(ram));
    vendor_amd = false;
    protected_mode(cpu);
    *state = cpu;
    return cpu_sys_init(cpu);
}

static int teardown(void **state)
{
    cpu_sys_fini(*state);
    free(*state);
    return 0;
}

static void test_push_sreg_by_vendor(void **state)
{
    struct cpu *cpu = *state;
    for (unsigned amd = 0; amd < 2; amd++) {
        vendor_amd = amd != 0;
        protected_mode(cpu);
        put(0x6ffc, 0xffffffff, 4);
        assert_int_equal(sys_push_sreg(cpu, ARG_REG(2, X86_DS), 1), CPU_NEXT);
        assert_int_equal(cpu->gpr[X86_RSP], 0x6ffc);
        assert_int_equal(get(0x6ffc, 4), amd ? SEL_DATA : 0xffff0000 | SEL_DATA);
    }
}

static void test_syscall_by_vendor(void **state)
{
    struct cpu *cpu = *state;
    cpu->vmcs.guest_ia32_efer = X86_EFER_SCE;
    cpu->msr_star = (uint64_t)(SEL_UCODE | 3) << 48 | (uint64_t)SEL_CODE << 32 | 0x9000;
    assert_int_equal(sys_syscall(cpu, ARG(2), 2), CPU_FAULT);
    assert_int_equal(cpu->event.vector, X86_EXC_UD);
    vendor_amd = true;
    cpu->iflag = 1;
    assert_int_equal(sys_syscall(cpu, ARG(2), 2), CPU_JUMP);
    assert_int_equal(cpu->rip, 0x9000);
    assert_int_equal(cpu->gpr[X86_RCX], 0x8002);
    assert_int_equal(cpu->iflag, 0);
    assert_int_equal(sys_sysret(cpu, ARG(2), 2), CPU_JUMP);
    assert_int_equal(cpu->rip, 0x8002);
    assert_int_equal(cpu_cpl(cpu), 3);
    assert_int_equal(cpu->iflag, 1);
}

/* Three words from SP 2: one at 0, two at the top of the segment. */
static void test_frame_wraps_with_sp(void **state)
{
    struct cpu *cpu = *state;
    real_mode(cpu);
    put(0x21 * 4, 0x44440123, 4);
    cpu->gpr[X86_RSP] = 0xabcd0002;
    cpu->vmcs.guest_seg[X86_SS].base = 0x10000;
    (void)cpu_raise_software(cpu, 0x21, VMX_EVENT_SW_INTR, 2);
    assert_int_equal(cpu_deliver_event(cpu), CPU_JUMP);
    assert_int_equal(cpu->gpr[X86_RSP], 0xabcdfffc);
    assert_int_equal(get(0x10000, 2), X86_FLAGS_FIXED);
    assert_int_equal(get(0x1fffe, 2), 0);
    assert_int_equal(get(0x1fffc, 2), 0x8002);
    assert_int_equal(cpu->rip, 0x123);
    assert_int_equal(cpu->vmcs.guest_seg[X86_CS].base, 0x44440);
}

static void test_frame_is_all_or_nothing(void **state)
{
    struct cpu *cpu = *state;
    cpu->gpr[X86_RSP] = HOLE + 0x1004;
    put(HOLE + 0x1000, 0x55555555, 4);
    cpu->imm = (uint64_t)SEL_CODE << 32 | 0x9000;
    assert_int_equal(sys_call_far(cpu, ARG(2), 7), CPU_FAULT);
    assert_int_equal(cpu->event.vector, X86_EXC_PF);
    assert_int_equal(get(HOLE + 0x1000, 4), 0x55555555);
    assert_int_equal(cpu->gpr[X86_RSP], HOLE + 0x1004);
    assert_int_equal(cpu->rip, 0x8000);
}

/* The frame of a 16-bit stack that wraps into the hole: the part at the bottom stays unwritten. */
static void test_wrapped_frame_is_all_or_nothing(void **state)
{
    struct cpu *cpu = *state;
    real_mode(cpu);
    cpu->vmcs.guest_seg[X86_SS].base = (uint32_t)(HOLE + 0x1000 - 0x10000); /* offset 0xffff is the hole's last byte */
    cpu->gpr[X86_RSP] = 2;
    (void)cpu_raise_software(cpu, 0x21, VMX_EVENT_SW_INTR, 2);
    assert_int_equal(cpu_deliver_event(cpu), CPU_EXIT);
    assert_int_equal(cpu->vmcs.exit_reason, VMX_EXIT_TRIPLE_FAULT);
    assert_int_equal(cpu->gpr[X86_RSP], 2);
}

static void test_no_error_codes_in_real_mode(void **state)
{
    struct cpu *cpu = *state;
    real_mode(cpu);
    cpu->vmcs.exception_bitmap = 1u << X86_EXC_GP;
    (void)cpu_raise_error(cpu, X86_EXC_GP, 0x18);
    assert_int_equal(cpu_deliver_event(cpu), CPU_EXIT);
    assert_int_equal(cpu->vmcs.exit_intr_info & VMX_INFO_ERROR_CODE, 0);
    /* injected with one all the same: it is not pushed */
    put(X86_EXC_GP * 4, 0x00000456, 4);
    cpu->event = (struct cpu_event){.valid = true, .has_error = true, .vector = X86_EXC_GP, .type = VMX_EVENT_HW_EXCEPTION};
    assert_int_equal(cpu_deliver_event(cpu), CPU_JUMP);
    assert_int_equal(cpu->gpr[X86_RSP], 0x7000 - 6);
}

static void test_nmi_blocks_through_every_gate(void **state)
{
    struct cpu *cpu = *state;
    put(IDT + 2 * 8, descriptor(0, 0, 0, 0) | 0x9000 | SEL_CODE << 16 | 0x8eull << 40, 8);
    cpu->event = (struct cpu_event){.valid = true, .vector = X86_EXC_NMI, .type = VMX_EVENT_NMI};
    assert_int_equal(cpu_deliver_event(cpu), CPU_JUMP);
    assert_true(cpu->nmi_blocked);
    assert_int_equal(sys_iret(cpu, ARG(2), 1), CPU_JUMP);
    assert_false(cpu->nmi_blocked);
    put(TSS_B + 0x20, 0x9000, 4);
    put(TSS_B + 0x24, 2, 4);
    put(TSS_B + 0x4c, SEL_CODE, 4);
    put(TSS_B + 0x50, SEL_DATA, 4);
    put(IDT + 2 * 8, (uint64_t)SEL_TSS_B << 16 | 0x85ull << 40, 8);
    cpu->event = (struct cpu_event){.valid = true, .vector = X86_EXC_NMI, .type = VMX_EVENT_NMI};
    assert_int_equal(cpu_deliver_event(cpu), CPU_JUMP);
    assert_true(cpu->nmi_blocked);
    assert_int_equal(cpu->vmcs.guest_seg[X86_TR].selector, SEL_TSS_B);
    assert_true((cpu->rflags & X86_FLAGS_NT) != 0);
    assert_int_equal(sys_iret(cpu, ARG(2), 1), CPU_JUMP);
    assert_false(cpu->nmi_blocked);
    assert_int_equal(cpu->vmcs.guest_seg[X86_TR].selector, SEL_TSS_A);
}

/* The old TSS cannot be written: nothing of the switch has happened. */
static void test_task_switch_faults_before_it_begins(void **state)
{
    struct cpu *cpu = *state;
    uint8_t before[0x5000];
    cpu->vmcs.guest_seg[X86_TR].base = HOLE - 0x30;
    cpu->imm = (uint64_t)SEL_TSS_B << 32;
    memcpy(before, ram, sizeof(before));
    assert_int_equal(sys_jmp_far(cpu, ARG(2), 7), CPU_FAULT);
    assert_int_equal(cpu->event.vector, X86_EXC_PF);
    assert_int_equal(cpu->vmcs.guest_seg[X86_TR].selector, SEL_TSS_A);
    assert_int_equal(cpu->rip, 0x8000);
    assert_memory_equal(before, ram, sizeof(before));
}

/* ---- random tables ---- */

static uint64_t seed;

static uint32_t rnd(uint32_t below)
{
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(seed >> 33) % below;
}

static uint16_t random_selector(void)
{
    return (uint16_t)(rnd(4) == 0 ? rnd(0x10000) : (rnd(0x20) << 3 | (rnd(8) == 0 ? 4 : 0) | (rnd(2) == 0 ? 3 : rnd(4))));
}

static void random_tables(void)
{
    static const uint8_t kinds[] = {0x9b, 0x93, 0xfb, 0xf3, 0x9f, 0xff, 0x89, 0x8b, 0x81, 0x83, 0x84, 0x8c, 0xec, 0xe4, 0x85, 0xe5, 0x82, 0x8e, 0x86};
    for (unsigned i = 0; i < 0x20; i++) {
        uint32_t access = rnd(3) == 0 ? rnd(256) : kinds[rnd(sizeof(kinds))];
        uint64_t d = descriptor(rnd(RAM_BYTES), rnd(4) == 0 ? rnd(256) : 0xfffff, access, rnd(4) == 0 ? rnd(16) : 0xc);
        if ((access & 0x10) == 0 && rnd(4) != 0) { /* a gate with a selector that may be good */
            d = (d & ~0xffff0000ull) | (uint64_t)(rnd(0x20) << 3 | rnd(4)) << 16;
        }
        put(GDT + i * 8, d, 8);
        put(IDT + i * 8, d ^ (rnd(2) == 0 ? 0 : 6ull << 40), 8);
    }
    for (unsigned i = 0; i < 0x200; i += 2) {
        put(TSS_A + i, rnd(3) == 0 ? random_selector() : rnd(0x10000), 2);
    }
    for (unsigned i = 0x6f00; i < 0x7100; i += 4) {
        put(i, rnd(2) == 0 ? random_selector() : rnd(RAM_BYTES) | (rnd(8) == 0 ? X86_FLAGS_VM : 0), 4);
    }
}

struct snapshot {
    uint64_t gpr[16], rip, rflags;
    struct vmcs_segment seg[X86_SEG_COUNT];
};

static struct snapshot snapshot(const struct cpu *cpu)
{
    struct snapshot s;
    memset(&s, 0, sizeof(s));
    memcpy(s.gpr, cpu->gpr, sizeof(s.gpr));
    memcpy(s.seg, cpu->vmcs.guest_seg, sizeof(s.seg));
    s.rip = cpu->rip;
    s.rflags = cpu_rflags(cpu);
    return s;
}

/* What must hold wherever the processor has come to. */
static void check_state(const struct cpu *cpu)
{
    const struct vmcs_segment *cs = &cpu->vmcs.guest_seg[X86_CS], *ss = &cpu->vmcs.guest_seg[X86_SS];

    assert_true((cs->access_rights & X86_AR_P) != 0);
    assert_true(cpu->rip >> 32 == 0 && cpu->gpr[X86_RSP] >> 32 == 0);
    if (cpu_in_v86_mode(cpu)) {
        for (unsigned s = X86_ES; s <= X86_GS; s++) {
            const struct vmcs_segment *seg = &cpu->vmcs.guest_seg[s];
            assert_true(seg->base == (uint64_t)seg->selector << 4 && seg->limit == 0xffff && seg->access_rights == AR_V86);
        }
    } else if ((ss->access_rights & X86_AR_UNUSABLE) == 0) {
        assert_int_equal(cs->selector & 3u, cpu_cpl(cpu));
        assert_int_equal(ss->selector & 3u, cpu_cpl(cpu));
        assert_true(ar_is_code(cs->access_rights));
    }
    for (unsigned s = X86_ES; s <= X86_GS; s++) {
        const struct vmcs_segment *seg = &cpu->vmcs.guest_seg[s];
        if (s != X86_SS && s != X86_CS && !cpu_in_v86_mode(cpu) && (seg->access_rights & X86_AR_UNUSABLE) == 0) {
            assert_true(ar_is_conforming(seg->access_rights) || ar_dpl(seg->access_rights) >= cpu_cpl(cpu));
        }
    }
}

static enum cpu_result random_instruction(struct cpu *cpu)
{
    static const uint8_t segs[] = {X86_ES, X86_SS, X86_DS, X86_FS, X86_GS};
    uint32_t size = 1 + rnd(2), seg = segs[rnd(sizeof(segs))];

    switch (rnd(8)) {
    case 0:
        return sys_jmp_far(cpu, ARG(size), 7);
    case 1:
        return sys_call_far(cpu, ARG(size), 7);
    case 2:
        cpu->imm = rnd(2) == 0 ? 0 : rnd(64);
        return sys_ret_far(cpu, ARG(size), 3);
    case 3:
        return sys_iret(cpu, ARG(size), 1);
    case 4:
        return sys_pop_sreg(cpu, ARG_REG(size, seg), 1);
    case 5:
        cpu->gpr[X86_RAX] = random_selector();
        return sys_mov_sreg(cpu, 0x8eu << 24 | ARG_REG(size, seg), 2);
    case 6:
        return sys_popf(cpu, ARG(size), 1);
    default:
        (void)cpu_raise_software(cpu, rnd(0x20), VMX_EVENT_SW_INTR, 2);
        return cpu_deliver_event(cpu);
    }
}

static void test_faults_leave_the_processor_alone(void **state)
{
    struct cpu *cpu = *state;
    unsigned jumps = 0, faults = 0, tasks = 0, v86 = 0;

    for (unsigned round = 0; round < 150000; round++) {
        seed = round * 0x9e3779b97f4a7c15ull;
        protected_mode(cpu);
        random_tables();
        if (rnd(4) != 0) {
            protected_mode(cpu); /* with the usual first descriptors */
        }
        if (rnd(3) == 0) { /* ring 3 */
            cpu->vmcs.guest_seg[X86_CS].selector = SEL_UCODE | 3;
            cpu->vmcs.guest_seg[X86_CS].access_rights |= AR_DPL3;
            for (unsigned s = X86_ES; s <= X86_GS; s++) {
                if (s != X86_CS) {
                    cpu->vmcs.guest_seg[s].selector = SEL_UDATA | 3;
                    cpu->vmcs.guest_seg[s].access_rights |= AR_DPL3;
                }
            }
        }
        cpu->rflags |= rnd(8) == 0 ? X86_FLAGS_NT : 0;
        cpu_update_mode(cpu);
        cpu->imm = (uint64_t)random_selector() << 32 | rnd(RAM_BYTES);
        for (unsigned step = 0; step < 4; step++) {
            cpu->vmcs.guest_cr0 &= ~X86_CR0_TS; /* a task switch sets it */
            struct snapshot before = snapshot(cpu);
            enum cpu_result r = random_instruction(cpu);
            if (r == CPU_EXIT) {
                assert_int_equal(cpu->vmcs.exit_reason, VMX_EXIT_TRIPLE_FAULT);
                break;
            }
            if (r == CPU_FAULT) {
                assert_true(cpu->event.valid);
                faults++;
                if ((cpu->vmcs.guest_cr0 & X86_CR0_TS) == 0) {
                    before.gpr[X86_RAX] = cpu->gpr[X86_RAX];
                    struct snapshot after = snapshot(cpu);
                    assert_memory_equal(&before, &after, sizeof(after));
                }
                cpu->event.valid = false;
            }
            tasks += (cpu->vmcs.guest_cr0 & X86_CR0_TS) != 0;
            v86 += cpu_in_v86_mode(cpu);
            jumps += r == CPU_JUMP;
            check_state(cpu);
        }
    }
    assert_true(jumps > 5000 && faults > 5000 && tasks > 500 && v86 > 50);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST(test_push_sreg_by_vendor),
        TEST(test_syscall_by_vendor),
        TEST(test_frame_wraps_with_sp),
        TEST(test_frame_is_all_or_nothing),
        TEST(test_wrapped_frame_is_all_or_nothing),
        TEST(test_no_error_codes_in_real_mode),
        TEST(test_nmi_blocks_through_every_gate),
        TEST(test_task_switch_faults_before_it_begins),
        TEST(test_faults_leave_the_processor_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
