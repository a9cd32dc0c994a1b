/* SPDX-License-Identifier: MIT */
/*
 * The instruction helpers of engine/cpu/sys_*.c on a fake MMU: guest-virtual [0x10000, 0x20000) is
 * RAM, 0x15000 is not present, 0x18000 is MMIO; everything else faults.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/sys.h"
#include "mmu/mmu.h"

#define RAM_BASE 0x10000u
#define RAM_BYTES 0x10000u
#define HOLE 0x15000u
#define MMIO 0x18000u

static uint8_t ram[RAM_BYTES] __attribute__((aligned(4096)));
static gpa_t code_written_gpa;
static unsigned code_written_len;
static bool code_everywhere, vendor_amd;

enum mmu_result mmu_translate(struct cpu *cpu, gva_t va, enum mmu_access access, enum mmu_idx idx, struct mmu_map *map)
{
    gva_t page = va & KAGE_PAGE_MASK;
    (void)idx;
    if (!cpu_is_canonical(cpu, va)) {
        cpu_raise_error(cpu, X86_EXC_GP, 0);
        return MMU_FAULT;
    }
    if (va < RAM_BASE || va >= RAM_BASE + RAM_BYTES || page == HOLE) {
        cpu_raise_page_fault(cpu, va, access == MMU_WRITE ? X86_PF_W : 0);
        return MMU_FAULT;
    }
    *map = (struct mmu_map){.gpa = va, .hva = ram + (va - RAM_BASE), .has_code = code_everywhere};
    return page == MMIO ? MMU_MMIO : MMU_OK;
}

bool cpu_guarded_call(struct cpu *cpu, void (*fn)(void *), void *arg)
{
    (void)cpu;
    fn(arg);
    return true;
}
void mmu_flush_all(struct cpu *cpu) { (void)cpu; }
void mmu_flush_non_global(struct cpu *cpu) { (void)cpu; }
void mmu_flush_pcid(struct cpu *cpu, unsigned pcid) { (void)cpu, (void)pcid; }
void mmu_flush_page(struct cpu *cpu, gva_t va) { (void)cpu, (void)va; }
void mmu_flush_page_pcid(struct cpu *cpu, gva_t va, unsigned pcid) { (void)cpu, (void)va, (void)pcid; }
void mmu_switch_cr3(struct cpu *cpu, bool noflush) { (void)cpu, (void)noflush; }
static bool pdptes_are_bad;
bool mmu_load_pdptes(struct cpu *cpu, uint64_t cr3)
{
    cpu->vmcs.guest_pdpte[0] = cr3 | X86_PTE_P;
    return !pdptes_are_bad;
}
void cpu_x87_pointers(struct cpu *cpu, uint64_t host_fip, uint64_t host_fdp, unsigned bytes, bool all,
                      struct cpu_x87_pointers *p)
{
    (void)cpu, (void)host_fip, (void)host_fdp, (void)bytes, (void)all;
    *p = (struct cpu_x87_pointers){0};
}
void cpu_fpu_save(struct cpu *cpu) { (void)cpu; }
void cpu_fpu_load(struct cpu *cpu) { (void)cpu; }
bool isa_vendor_amd(void) { return vendor_amd; }

void cpu_code_written(struct cpu *cpu, gpa_t gpa, unsigned len)
{
    (void)cpu;
    code_written_gpa = gpa;
    code_written_len = len;
}

#define ARG(bytes_log2, rep) ((uint32_t)(bytes_log2) << 11 | 3u << 14 | (uint32_t)(rep) << 19 | (uint32_t)X86_DS << 16)

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
    code_everywhere = false;
    code_written_len = 0;
    cpu->rflags = X86_FLAGS_FIXED;
    cpu->rip = 0x1000;
    struct vmcs *v = &cpu->vmcs;
    v->proc_based_ctls2 = VMX_PROC2_EPT;
    v->guest_ia32_efer = X86_EFER_LME | X86_EFER_LMA;
    v->guest_cr0 = X86_CR0_PE | X86_CR0_PG;
    v->guest_cr4 = X86_CR4_PAE;
    v->guest_seg[X86_CS] = (struct vmcs_segment){.selector = 8, .access_rights = 0xa09b, .limit = ~0u};
    v->guest_seg[X86_SS] = (struct vmcs_segment){.selector = 16, .access_rights = 0xc093, .limit = ~0u};
    v->guest_gdtr_base = 0x11000;
    v->guest_gdtr_limit = 0x7f;
    v->guest_idtr_base = 0x12000;
    v->guest_idtr_limit = 0xfff;
    uint64_t gdt[] = {0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cff3000000ffff, 0x00affb000000ffff};
    memcpy(ram + 0x1000, gdt, sizeof(gdt));
    cpu_update_mode(cpu);
    *state = cpu;
    return cpu_sys_init(cpu);
}

static int teardown(void **state)
{
    cpu_sys_fini(*state);
    free(*state);
    return 0;
}

static void set_gate(unsigned vector, uint64_t target, unsigned type)
{
    uint64_t gate[2] = {(target & 0xffff) | 8u << 16 | (uint64_t)(0x80 | type) << 40 | (target & 0xffff0000) << 32,
                        target >> 32};
    memcpy(ram + 0x2000 + vector * 16, gate, 16);
}

static void test_movs_crosses_pages_and_stops_at_fault(void **state)
{
    struct cpu *cpu = *state;
    for (unsigned i = 0; i < 0x1000; i++) {
        ram[0x2800 + i] = (uint8_t)(i * 7);
    }
    cpu->gpr[X86_RSI] = 0x12800;
    cpu->gpr[X86_RDI] = 0x14801; /* 0x15000 is the hole */
    cpu->gpr[X86_RCX] = 0x1000;
    assert_int_equal(sys_movs(cpu, ARG(0, 1), 2), CPU_FAULT);
    assert_int_equal(cpu->gpr[X86_RDI], 0x15000);
    assert_int_equal(cpu->gpr[X86_RSI], 0x12800 + 0x7ff);
    assert_int_equal(cpu->gpr[X86_RCX], 0x1000 - 0x7ff);
    assert_memory_equal(ram + 0x4801, ram + 0x2800, 0x7ff);
    assert_int_equal(cpu->event.vector, X86_EXC_PF);
    assert_int_equal(cpu->event.payload, 0x15000);
}

static void test_movs_down(void **state)
{
    struct cpu *cpu = *state;
    for (unsigned i = 0; i < 64; i++) {
        ram[0x2ff0 + i] = (uint8_t)(i + 1);
    }
    cpu->rflags |= X86_FLAGS_DF;
    cpu->gpr[X86_RSI] = 0x12ff0 + 56;
    cpu->gpr[X86_RDI] = 0x13fe4 + 56;
    cpu->gpr[X86_RCX] = 8;
    assert_int_equal(sys_movs(cpu, ARG(3, 1), 2), CPU_NEXT);
    assert_memory_equal(ram + 0x3fe4, ram + 0x2ff0, 64);
    assert_int_equal(cpu->gpr[X86_RSI], 0x12ff0 - 8);
    assert_int_equal(cpu->gpr[X86_RCX], 0);
}

static void test_stos_tells_code_cache(void **state)
{
    struct cpu *cpu = *state;
    code_everywhere = true;
    cpu->gpr[X86_RDI] = 0x13010;
    cpu->gpr[X86_RAX] = 0xaabbccdd;
    cpu->gpr[X86_RCX] = 4;
    assert_int_equal(sys_stos(cpu, ARG(2, 1), 2), CPU_JUMP);
    assert_int_equal(cpu->rip, 0x1002);
    assert_int_equal(code_written_gpa, 0x13010);
    assert_int_equal(code_written_len, 16);
    assert_int_equal(ram[0x301f], 0xaa);
}

static void test_scas_and_cmps_flags(void **state)
{
    struct cpu *cpu = *state;
    memcpy(ram + 0x3000, "hello\0world", 11);
    memcpy(ram + 0x3100, "help", 4);
    cpu->gpr[X86_RDI] = 0x13000;
    cpu->gpr[X86_RCX] = ~0ull;
    assert_int_equal(sys_scas(cpu, ARG(0, 2), 2), CPU_NEXT);
    assert_int_equal(cpu->gpr[X86_RDI], 0x13006);
    assert_true((cpu->rflags & X86_FLAGS_ZF) != 0);
    cpu->gpr[X86_RSI] = 0x13000;
    cpu->gpr[X86_RDI] = 0x13100;
    cpu->gpr[X86_RCX] = 100;
    assert_int_equal(sys_cmps(cpu, ARG(0, 1), 2), CPU_NEXT);
    assert_int_equal(cpu->gpr[X86_RCX], 96);
    assert_true((cpu->rflags & X86_FLAGS_ZF) == 0);
    assert_true((cpu->rflags & X86_FLAGS_CF) != 0); /* 'l' < 'p' */
}

static void test_mmio_read_then_posted_write(void **state)
{
    struct cpu *cpu = *state;
    uint8_t *host;
    assert_int_equal(cpu_access_prepare(cpu, MMIO + 4, 4, true, true, false, MMU_IDX_KERNEL, &host), CPU_EXIT);
    assert_int_equal(cpu->vmcs.exit_reason, VMX_EXIT_EPT_MISCONFIG);
    assert_int_equal(cpu->mmio[0].state, CPU_MMIO_WANTED);
    assert_false(cpu->mmio[0].is_write);
    cpu->mmio[0].state = CPU_MMIO_DONE;
    memcpy(cpu->mmio[0].data, "\1\2\3\4", 4);
    assert_int_equal(cpu_access_prepare(cpu, MMIO + 4, 4, true, true, false, MMU_IDX_KERNEL, &host), CPU_NEXT);
    assert_memory_equal(host, "\1\2\3\4", 4);
    host[0] = 9;
    assert_int_equal(cpu_access_commit(cpu), CPU_EXIT);
    assert_true(cpu_mmio_posted(cpu));
    assert_int_equal(cpu->mmio[0].gpa, MMIO + 4);
    assert_int_equal(cpu->mmio[0].data[0], 9);
}

static void test_write_across_a_fault_writes_nothing(void **state)
{
    struct cpu *cpu = *state;
    uint64_t value = ~0ull;
    assert_int_equal(cpu_write(cpu, HOLE - 4, &value, 8, MMU_IDX_KERNEL), CPU_FAULT);
    assert_int_equal(ram[0x4ffc], 0);
}

static void test_delivery_and_iret(void **state)
{
    struct cpu *cpu = *state;
    set_gate(X86_EXC_GP, 0xffffffff80001234, 0xe);
    cpu->iflag = 1;
    cpu->gpr[X86_RSP] = 0x14008;
    (void)cpu_raise_error(cpu, X86_EXC_GP, 0x18);
    assert_int_equal(cpu_deliver_event(cpu), CPU_JUMP);
    assert_int_equal(cpu->rip, 0xffffffff80001234);
    assert_int_equal(cpu->gpr[X86_RSP], 0x14000 - 48);
    assert_int_equal(cpu->iflag, 0);
    uint64_t frame[6];
    memcpy(frame, ram + 0x4000 - 48, 48);
    assert_int_equal(frame[0], 0x18);
    assert_int_equal(frame[1], 0x1000);
    assert_int_equal(frame[2], 8);
    assert_int_equal(frame[3], X86_FLAGS_FIXED | X86_FLAGS_IF | X86_FLAGS_RF);
    assert_int_equal(frame[4], 0x14008);
    assert_int_equal(frame[5], 16);
    cpu->gpr[X86_RSP] += 8;
    assert_int_equal(sys_iret(cpu, ARG(3, 0), 2), CPU_JUMP);
    assert_int_equal(cpu->rip, 0x1000);
    assert_int_equal(cpu->gpr[X86_RSP], 0x14008);
    assert_int_equal(cpu->iflag, 1);
}

static void test_double_and_triple_fault(void **state)
{
    struct cpu *cpu = *state;
    set_gate(X86_EXC_DF, 0x2000, 0xe);
    cpu->gpr[X86_RSP] = 0x14000;
    (void)cpu_raise_error(cpu, X86_EXC_GP, 0); /* its gate is absent */
    assert_int_equal(cpu_deliver_event(cpu), CPU_JUMP);
    assert_int_equal(cpu->rip, 0x2000);
    cpu->gpr[X86_RSP] = 0x15800; /* no stack: #PF, #DF, shutdown */
    (void)cpu_raise_error(cpu, X86_EXC_GP, 0);
    assert_int_equal(cpu_deliver_event(cpu), CPU_EXIT);
    assert_int_equal(cpu->vmcs.exit_reason, VMX_EXIT_TRIPLE_FAULT);
}

static void test_syscall_sysret(void **state)
{
    struct cpu *cpu = *state;
    cpu->vmcs.guest_ia32_efer |= X86_EFER_SCE;
    cpu->msr_star = 0x10ull << 48 | 8ull << 32;
    cpu->msr_lstar = 0xffffffff81000000;
    cpu->gpr[X86_RCX] = 0x400000;
    cpu->gpr[X86_R11] = 0x202;
    assert_int_equal(sys_sysret(cpu, ARG(3, 0), 3), CPU_JUMP);
    assert_int_equal(cpu_cpl(cpu), 3);
    assert_int_equal(cpu->vmcs.guest_seg[X86_CS].selector, 0x23);
    assert_int_equal(cpu->mode & CPU_MODE_CPL, 3);
    assert_int_equal(cpu_mmu_idx(cpu), MMU_IDX_USER);
    assert_int_equal(sys_syscall(cpu, 0, 2), CPU_JUMP);
    assert_int_equal(cpu->gpr[X86_RCX], 0x400002);
    assert_int_equal(cpu_cpl(cpu), 0);
    assert_int_equal(cpu->rip, 0xffffffff81000000);
}

static void test_ins_round_trip(void **state)
{
    struct cpu *cpu = *state;
    cpu->vmcs.proc_based_ctls = VMX_PROC_UNCOND_IO_EXITING;
    cpu->gpr[X86_RDX] = 0x1f0;
    cpu->gpr[X86_RDI] = 0x13ffc;
    cpu->gpr[X86_RCX] = 3;
    assert_int_equal(sys_ins(cpu, ARG(1, 1), 2), CPU_EXIT);
    assert_int_equal(cpu->vmcs.exit_reason, VMX_EXIT_IO);
    assert_int_equal(cpu->vmcs.exit_qualification, 0x1f0u << 16 | VMX_IO_STRING | VMX_IO_REP | VMX_IO_IN | 1);
    assert_int_equal(cpu->imm, 2);
    memcpy(cpu->pio_buf, "abcd", 4);
    cpu->vmcs.guest_rip = cpu->rip;
    assert_int_equal(cpu_io_complete(cpu), CPU_NEXT);
    assert_memory_equal(ram + 0x3ffc, "abcd", 4);
    assert_int_equal(cpu->gpr[X86_RCX], 1);
    assert_int_equal(cpu->vmcs.guest_rip, 0x1000);
}

/* ---- 16- and 32-bit code ---- */

#define LEGACY_ARG(op_log2, addr_log2, seg, rep)                                                                       \
    ((uint32_t)(op_log2) << 11 | (uint32_t)(addr_log2) << 14 | (uint32_t)(rep) << 19 | (uint32_t)(seg) << 16)

/* Flat 32-bit protected mode without paging at CPL 0; 64 KiB of FS from RAM_BASE. */
static void use_protected(struct cpu *cpu)
{
    struct vmcs *v = &cpu->vmcs;
    v->guest_ia32_efer = 0;
    v->guest_cr0 = X86_CR0_PE;
    v->guest_cr4 = 0;
    for (unsigned s = X86_ES; s <= X86_GS; s++) {
        v->guest_seg[s] = (struct vmcs_segment){.selector = 16, .limit = UINT32_MAX, .access_rights = 0xc093};
    }
    v->guest_seg[X86_CS].access_rights = 0xc09b;
    v->guest_seg[X86_FS] = (struct vmcs_segment){.base = RAM_BASE, .limit = 0xffff, .access_rights = 0x93};
    cpu_update_mode(cpu);
}

static void test_segment_limits_of_strings(void **state)
{
    struct cpu *cpu = *state;
    use_protected(cpu);
    cpu->vmcs.guest_seg[X86_FS].limit = 0x123;
    cpu->vmcs.guest_seg[X86_SS] = cpu->vmcs.guest_seg[X86_FS];
    cpu_update_mode(cpu);
    for (unsigned seg = X86_SS; seg <= X86_FS; seg += X86_FS - X86_SS) {
        cpu->gpr[X86_RSI] = 0x100;
        cpu->gpr[X86_RDI] = RAM_BASE + 0x1000;
        cpu->gpr[X86_RCX] = 100;
        assert_int_equal(sys_movs(cpu, LEGACY_ARG(1, 2, seg, 1), 2), CPU_FAULT);
        assert_int_equal(cpu->event.vector, seg == X86_SS ? X86_EXC_SS : X86_EXC_GP);
        assert_int_equal(cpu->gpr[X86_RSI], 0x124);
        assert_int_equal(cpu->gpr[X86_RCX], 100 - 0x24 / 2);
    }
    /* The source's segment is asked before the destination's page. */
    cpu->gpr[X86_RSI] = 0x123;
    cpu->gpr[X86_RDI] = HOLE;
    assert_int_equal(sys_movs(cpu, LEGACY_ARG(1, 2, X86_FS, 0), 2), CPU_FAULT);
    assert_int_equal(cpu->event.vector, X86_EXC_GP);
    cpu->gpr[X86_RSI] = 0x100;
    assert_int_equal(sys_movs(cpu, LEGACY_ARG(1, 2, X86_FS, 0), 2), CPU_FAULT);
    assert_int_equal(cpu->event.vector, X86_EXC_PF);
}

static void test_linear_addresses_wrap(void **state)
{
    struct cpu *cpu = *state;
    uint32_t value = 0x44332211;
    use_protected(cpu);
    /* The fake MMU faults beyond its RAM: the second page of the access must be page 0, not page 100000h. */
    assert_int_equal(cpu_write(cpu, 0xfffffffe, &value, 4, MMU_IDX_KERNEL), CPU_FAULT);
    assert_int_equal(cpu->event.payload, 0xfffffffe);
    assert_int_equal(cpu_va_add(cpu, 0xfffffffe, 4), 2);
    assert_int_equal(cpu_va_add(cpu, 0x1000, 4), 0x1004);
    cpu->vmcs.guest_seg[X86_GS] =
        (struct vmcs_segment){.base = 0xfffff000, .limit = UINT32_MAX, .access_rights = 0xc093};
    cpu_update_mode(cpu);
    gva_t va;
    assert_int_equal(cpu_linear(cpu, X86_GS, RAM_BASE + 0x1010, 4, MMU_WRITE, &va), CPU_NEXT);
    assert_int_equal(va, RAM_BASE + 0x10);
}

static void test_io_permission(void **state)
{
    struct cpu *cpu = *state;
    struct vmcs_segment *tr = &cpu->vmcs.guest_seg[X86_TR];
    use_protected(cpu);
    cpu->vmcs.proc_based_ctls = VMX_PROC_UNCOND_IO_EXITING;
    *tr = (struct vmcs_segment){.base = RAM_BASE, .limit = 0x3ff, .access_rights = X86_AR_P | 0xb};
    ram[102] = 0x80; /* the bitmap at 80h: port 1f0 at bit 0 of be */
    ram[0x80 + 0x1f0 / 8] = 0xfe;
    cpu->gpr[X86_RDX] = 0x1f0;
    cpu->vmcs.guest_seg[X86_SS].access_rights |= X86_AR_DPL; /* CPL 3 */
    cpu_update_mode(cpu);
    assert_int_equal(sys_in(cpu, LEGACY_ARG(0, 2, X86_DS, 0), 1), CPU_EXIT);
    assert_int_equal(sys_in(cpu, LEGACY_ARG(1, 2, X86_DS, 0), 1), CPU_FAULT); /* 1f1 is not allowed */
    cpu->rflags |= X86_FLAGS_IOPL;
    assert_int_equal(sys_in(cpu, LEGACY_ARG(1, 2, X86_DS, 0), 1), CPU_EXIT);
    cpu->rflags |= X86_FLAGS_VM; /* asks the bitmap all the same */
    assert_int_equal(sys_in(cpu, LEGACY_ARG(1, 2, X86_DS, 0), 1), CPU_FAULT);
    assert_int_equal(sys_in(cpu, LEGACY_ARG(0, 2, X86_DS, 0), 1), CPU_EXIT);
    tr->access_rights = X86_AR_P | 3; /* a 16-bit TSS has none */
    assert_int_equal(sys_in(cpu, LEGACY_ARG(0, 2, X86_DS, 0), 1), CPU_FAULT);
    assert_int_equal(cpu->event.vector, X86_EXC_GP);
}

static void test_ins_by_segment(void **state)
{
    struct cpu *cpu = *state;
    use_protected(cpu);
    cpu->vmcs.proc_based_ctls = VMX_PROC_UNCOND_IO_EXITING;
    cpu->vmcs.guest_seg[X86_ES] = (struct vmcs_segment){.base = RAM_BASE, .limit = 0xffff, .access_rights = 0x93};
    cpu_update_mode(cpu);
    cpu->gpr[X86_RDX] = 0x1f0;
    cpu->gpr[X86_RDI] = 0xabcd0ffe;
    cpu->gpr[X86_RCX] = 0xffff0008;
    assert_int_equal(sys_ins(cpu, LEGACY_ARG(1, 1, X86_DS, 1), 2), CPU_EXIT);
    assert_int_equal(cpu->vmcs.guest_linear_address, RAM_BASE + 0xffe);
    assert_int_equal(cpu->vmcs.exit_instruction_info >> 7 & 7, 0); /* 16-bit addresses */
    assert_int_equal(cpu->imm, 1); /* to the end of the page */
    memcpy(cpu->pio_buf, "ab", 2);
    cpu->vmcs.guest_rip = cpu->rip;
    assert_int_equal(cpu_io_complete(cpu), CPU_NEXT);
    assert_memory_equal(ram + 0xffe, "ab", 2);
    assert_int_equal(cpu->gpr[X86_RDI], 0xabcd1000);
    assert_int_equal(cpu->gpr[X86_RCX], 0xffff0007);
    assert_int_equal(sys_outs(cpu, LEGACY_ARG(1, 1, X86_FS, 1), 2), CPU_EXIT);
    assert_int_equal(cpu->vmcs.exit_instruction_info >> 15 & 7, X86_FS);
}

static void test_control_registers_outside_64bit(void **state)
{
    struct cpu *cpu = *state;
#define CR_ARG(cr) ((uint32_t)(cr) | X86_RAX << 5 | 2u << 11 | 2u << 14)
    use_protected(cpu);
    cpu->gpr[X86_RAX] = 0xffffffff00012000;
    assert_int_equal(sys_mov_to_cr(cpu, CR_ARG(3), 3), CPU_NEXT);
    assert_int_equal(cpu->vmcs.guest_cr3, 0x12000); /* 32 bits */
    cpu->vmcs.guest_cr0 |= 1ull << 40;
    assert_int_equal(sys_mov_from_cr(cpu, CR_ARG(0), 3), CPU_NEXT);
    assert_int_equal(cpu->gpr[X86_RAX], X86_CR0_PE);
    cpu->vmcs.guest_cr0 = X86_CR0_PE;
    assert_int_equal(sys_mov_from_cr(cpu, CR_ARG(8), 3), CPU_FAULT);
    assert_int_equal(cpu->event.vector, X86_EXC_UD);

    /* PAE: paging does not come on with bad pointers, and CR3 keeps its value. */
    cpu->vmcs.guest_cr4 = X86_CR4_PAE;
    cpu->gpr[X86_RAX] = X86_CR0_PE | X86_CR0_PG;
    pdptes_are_bad = true;
    assert_int_equal(sys_mov_to_cr(cpu, CR_ARG(0), 3), CPU_FAULT);
    assert_int_equal(cpu->event.vector, X86_EXC_GP);
    assert_int_equal(cpu->vmcs.guest_cr0, X86_CR0_PE);
    pdptes_are_bad = false;
    assert_int_equal(sys_mov_to_cr(cpu, CR_ARG(0), 3), CPU_NEXT);
    assert_int_equal(cpu->vmcs.guest_pdpte[0], 0x12001);
    cpu->gpr[X86_RAX] = 0x13000;
    assert_int_equal(sys_mov_to_cr(cpu, CR_ARG(3), 3), CPU_NEXT);
    assert_int_equal(cpu->vmcs.guest_pdpte[0], 0x13001);
    pdptes_are_bad = true;
    cpu->gpr[X86_RAX] = 0x14000;
    assert_int_equal(sys_mov_to_cr(cpu, CR_ARG(3), 3), CPU_FAULT);
    assert_int_equal(cpu->vmcs.guest_cr3, 0x13000);
    pdptes_are_bad = false;
}

/* What is undefined for the manuals is AMD's, measured. */
static void test_decimal_flags(void **state)
{
    struct cpu *cpu = *state;
    static const struct {
        cpu_helper *fn;
        uint8_t imm;
        uint16_t ax, flags, result, out;
    } cases[] = {
        {sys_daa, 0, 0x001a, 0x001, 0x0080, 0x891}, {sys_das, 0, 0x0080, 0x001, 0x0020, 0x801},
        {sys_das, 0, 0x0080, 0x010, 0x007a, 0x810}, {sys_aaa, 0, 0x000c, 0x8c5, 0x0102, 0x015},
        {sys_aaa, 0, 0x5524, 0x8c5, 0x5504, 0x004}, {sys_aaa, 0, 0xaa33, 0x000, 0xaa03, 0x084},
        {sys_aaa, 0, 0xff57, 0x010, 0x000d, 0x011}, {sys_aam, 7, 0xff15, 0x8d5, 0x0300, 0x044},
        {sys_aad, 10, 0x2302, 0x000, 0x0060, 0x014}, {sys_aad, 10, 0x4b02, 0x8d5, 0x00f0, 0x094},
        {sys_aad, 16, 0x0f10, 0x010, 0x0000, 0x045}, {sys_aad, 16, 0x3710, 0x000, 0x0080, 0x880},
        {sys_salc, 0, 0x1234, 0x0d5, 0x12ff, 0x0d5},
    };
    use_protected(cpu);
    for (size_t i = 0; i < KAGE_ARRAY_SIZE(cases); i++) {
        cpu->gpr[X86_RAX] = 0xdead0000u | cases[i].ax;
        cpu->rflags = X86_FLAGS_FIXED | cases[i].flags;
        assert_int_equal(cases[i].fn(cpu, (uint32_t)cases[i].imm << 24, 2), CPU_NEXT);
        assert_int_equal(cpu->gpr[X86_RAX], 0xdead0000u | cases[i].result);
        assert_int_equal(cpu->rflags, X86_FLAGS_FIXED | cases[i].out);
    }
    assert_int_equal(sys_aam(cpu, 0, 2), CPU_FAULT);
    assert_int_equal(cpu->event.vector, X86_EXC_DE);
}

static void test_pusha_popa(void **state)
{
    struct cpu *cpu = *state;
    use_protected(cpu);
    for (unsigned i = 0; i < 8; i++) {
        cpu->gpr[i] = 0x1010101u * (i + 1);
    }
    /* Across the hole: nothing is pushed, the fault is the one of the first push that meets it. */
    cpu->gpr[X86_RSP] = HOLE + 0x1000 + 8;
    assert_int_equal(sys_pusha(cpu, LEGACY_ARG(2, 2, X86_SS, 0), 1), CPU_FAULT);
    assert_int_equal(cpu->event.vector, X86_EXC_PF);
    assert_int_equal(cpu->event.payload, HOLE + 0xffc);
    assert_int_equal(ram[0x6004], 0);
    assert_int_equal(cpu->gpr[X86_RSP], HOLE + 0x1000 + 8);
    cpu->gpr[X86_RSP] = 0x14000;
    assert_int_equal(sys_pusha(cpu, LEGACY_ARG(2, 2, X86_SS, 0), 1), CPU_NEXT);
    assert_int_equal(cpu->gpr[X86_RSP], 0x14000 - 32);
    uint32_t frame[8];
    memcpy(frame, ram + 0x4000 - 32, 32);
    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(frame[i], i == 3 ? 0x14000 : 0x1010101u * (8 - i));
    }
    for (unsigned i = 0; i < 8; i++) {
        cpu->gpr[i] = i == X86_RSP ? cpu->gpr[i] : 0;
    }
    assert_int_equal(sys_popa(cpu, LEGACY_ARG(2, 2, X86_SS, 0), 1), CPU_NEXT);
    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(cpu->gpr[i], i == X86_RSP ? 0x14000 : 0x1010101u * (i + 1));
    }
}

static void test_table_is_sorted(void **state)
{
    (void)state;
    for (size_t i = 1; i < cpu_helper_table_len; i++) {
        assert_true(cpu_helper_table[i - 1].mnemonic < cpu_helper_table[i].mnemonic);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST(test_movs_crosses_pages_and_stops_at_fault),
        TEST(test_movs_down),
        TEST(test_stos_tells_code_cache),
        TEST(test_scas_and_cmps_flags),
        TEST(test_mmio_read_then_posted_write),
        TEST(test_write_across_a_fault_writes_nothing),
        TEST(test_delivery_and_iret),
        TEST(test_double_and_triple_fault),
        TEST(test_syscall_sysret),
        TEST(test_ins_round_trip),
        TEST(test_segment_limits_of_strings),
        TEST(test_linear_addresses_wrap),
        TEST(test_io_permission),
        TEST(test_ins_by_segment),
        TEST(test_control_registers_outside_64bit),
        TEST(test_decimal_flags),
        TEST(test_pusha_popa),
        TEST(test_table_is_sorted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
