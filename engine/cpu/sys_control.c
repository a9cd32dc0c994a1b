/* SPDX-License-Identifier: MIT */
/*
 * Control and debug registers, XCR0, TLB instructions, and cpu->mode, which sums up what translated
 * code depends on (SDM 3A 2.5, 4.10; SDM 2 MOV-1; VM exits: SDM 3C 26.1).
 */
#include "cpu/sys.h"
#include "mmu/mmu.h"

#define CR0_LMSW (X86_CR0_PE | X86_CR0_MP | X86_CR0_EM | X86_CR0_TS)
#define DR6_BD (1ull << 13)
#define DR6_FIXED_1 0xffff0ff0ull
#define DR6_FIXED_0 (1ull << 12)
#define DR7_GD (1ull << 13)
#define DR7_FIXED_1 (1ull << 10)
#define DR7_FIXED_0 0xd800ull

#define INVPCID_BYTES 16u
/* Instruction information: the address has no base or no index register (SDM 3C 28.2.5). */
#define VMX_INFO_NO_INDEX (1u << 22)
#define VMX_INFO_NO_BASE (1u << 27)

/* Qualification of control-register accesses (SDM 3C table 28-3). */
enum { CR_ACCESS_TO = 0, CR_ACCESS_FROM = 1, CR_ACCESS_CLTS = 2, CR_ACCESS_LMSW = 3 };

/* Bits that only code outside 64-bit mode depends on. */
static uint32_t legacy_mode(struct cpu *cpu, uint32_t cs)
{
    uint32_t mode = (cs & X86_AR_DB) != 0 ? CPU_MODE_DB : 0;

    if ((cpu->vmcs.guest_seg[X86_SS].access_rights & X86_AR_DB) != 0) {
        mode |= CPU_MODE_STACK32;
    }
    if (!cpu_in_real_mode(cpu) && !cpu_in_v86_mode(cpu)) {
        mode |= CPU_MODE_PROTECTED;
    }
    for (unsigned seg = X86_ES; seg <= X86_DS; seg++) {
        mode |= cpu_segment_is_flat(cpu, seg) ? CPU_MODE_FLAT(seg) : 0;
    }
    cpu_update_seg_ranges(cpu);
    return mode;
}

void cpu_update_mode(struct cpu *cpu)
{
    const struct vmcs *v = &cpu->vmcs;
    uint32_t cs = v->guest_seg[X86_CS].access_rights;
    unsigned cpl = cpu_cpl(cpu);
    uint32_t mode = cpl | (uint32_t)cpu_idx_at_cpl(cpu, cpl) << CPU_MODE_IDX_SHIFT;

    if (cpu_in_long_mode(cpu) && (cs & X86_AR_L) != 0) {
        mode |= CPU_MODE_LONG;
    }
    if ((mode & CPU_MODE_LONG) == 0) {
        mode |= legacy_mode(cpu, cs);
    }
    if ((cpu->rflags & X86_FLAGS_DF) != 0) {
        mode |= CPU_MODE_DF;
    }
    if ((cpu->rflags & X86_FLAGS_TF) != 0 || cpu->guest_debug_step || cpu->intr_shadow != 0) {
        mode |= CPU_MODE_STEP;
    }
    if ((v->guest_cr0 & (X86_CR0_EM | X86_CR0_TS)) != 0 || (v->guest_cr4 & X86_CR4_OSFXSR) == 0) {
        mode |= CPU_MODE_NO_SSE;
    }
    if ((v->guest_cr4 & X86_CR4_OSXSAVE) == 0 || (v->guest_cr0 & X86_CR0_TS) != 0 ||
        (~cpu->xcr0 & (X86_XCR0_SSE | X86_XCR0_AVX)) != 0) {
        mode |= CPU_MODE_NO_AVX;
    }
    if (cpl == 3 && (v->guest_cr0 & X86_CR0_AM) != 0 && (cpu->rflags & X86_FLAGS_AC) != 0) {
        mode |= CPU_MODE_AC;
    }
    if ((v->guest_dr7 & 0xff) != 0 || cpu->guest_debug_break) {
        mode |= CPU_MODE_BREAK;
    }
    if ((v->guest_cr0 & X86_CR0_PG) != 0) {
        mode |= CPU_MODE_PAGING;
    }
    if ((v->guest_cr4 & X86_CR4_UMIP) != 0) {
        mode |= CPU_MODE_UMIP;
    }
    if ((cpl != 0 && (v->guest_cr4 & X86_CR4_TSD) != 0) || (v->proc_based_ctls & VMX_PROC_RDTSC_EXITING) != 0) {
        mode |= CPU_MODE_TSD;
    }
    cpu->mode = mode;
}

static uint64_t cr_qualification(unsigned cr, unsigned access, unsigned reg)
{
    return cr | access << 4 | (uint64_t)reg << 8;
}

/* ---- CR0 ---- */

static enum cpu_result write_cr0(struct cpu *cpu, uint64_t value, uint64_t qualification, uint32_t len)
{
    const struct vmcs *v = &cpu->vmcs;

    if (((value ^ v->cr0_read_shadow) & v->cr0_mask) != 0) {
        return cpu_vmexit(cpu, VMX_EXIT_CR_ACCESS, qualification, len);
    }
    if ((value & X86_CR0_PG) != 0 && (value & X86_CR0_PE) == 0) {
        return cpu_raise_gp(cpu, 0);
    }
    return cpu_load_cr0(cpu, cpu_keep_masked(cpu, value, v->guest_cr0, v->cr0_mask)) ? CPU_NEXT : cpu_raise_gp(cpu, 0);
}

enum cpu_result sys_clts(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    struct vmcs *v = &cpu->vmcs;

    (void)arg;
    if (cpu_cpl(cpu) != 0) {
        return cpu_raise_gp(cpu, 0);
    }
    if ((v->cr0_mask & X86_CR0_TS) != 0) {
        if ((v->cr0_read_shadow & X86_CR0_TS) != 0) {
            return cpu_vmexit(cpu, VMX_EXIT_CR_ACCESS, cr_qualification(0, CR_ACCESS_CLTS, 0), len);
        }
        return CPU_NEXT; /* the guest's TS is clear, the real one is the host's (SDM 3C 26.3) */
    }
    v->guest_cr0 &= ~X86_CR0_TS;
    cpu_update_mode(cpu);
    return CPU_NEXT;
}

enum cpu_result sys_lmsw(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    struct vmcs *v = &cpu->vmcs;
    uint16_t msw;

    if (cpu_cpl(cpu) != 0) {
        return cpu_raise_gp(cpu, 0);
    }
    if (HELPER_ARG_IS_MEM(arg)) {
        enum cpu_result r = cpu_operand(cpu, arg, 2, MMU_READ);
        if (r == CPU_NEXT) {
            r = cpu_read(cpu, cpu->ea, &msw, 2, cpu_mmu_idx(cpu));
        }
        if (r != CPU_NEXT) {
            return r;
        }
    } else {
        msw = (uint16_t)cpu->gpr[HELPER_ARG_RM(arg)];
    }
    /* PE can be set and not cleared: a clear PE in the source never differs (SDM 3C 26.1.3). */
    uint64_t differs = (msw ^ v->cr0_read_shadow) & v->cr0_mask & (CR0_LMSW & ~X86_CR0_PE);
    bool sets_pe = (msw & X86_CR0_PE) != 0 && (v->cr0_mask & X86_CR0_PE) != 0 && (v->cr0_read_shadow & X86_CR0_PE) == 0;
    if (differs != 0 || sets_pe) {
        bool mem = HELPER_ARG_IS_MEM(arg);
        uint64_t q = cr_qualification(0, CR_ACCESS_LMSW, 0) | (mem ? 1u << 6 : 0) | (uint64_t)msw << 16;
        cpu->vmcs.guest_linear_address = mem ? cpu->ea : 0;
        return cpu_vmexit(cpu, VMX_EXIT_CR_ACCESS, q, len);
    }
    uint64_t writable = CR0_LMSW & ~v->cr0_mask;
    uint64_t kept_pe = v->guest_cr0 & X86_CR0_PE;
    v->guest_cr0 = (v->guest_cr0 & ~writable) | (msw & writable) | kept_pe;
    cpu_update_mode(cpu);
    return CPU_NEXT;
}

enum cpu_result sys_smsw(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    uint64_t value = cpu_guest_cr0(cpu);

    if (cpu_cpl(cpu) != 0 && (cpu->vmcs.guest_cr4 & X86_CR4_UMIP) != 0) {
        return cpu_raise_gp(cpu, 0);
    }
    if (HELPER_ARG_IS_MEM(arg)) {
        uint16_t msw = (uint16_t)value;
        enum cpu_result r = cpu_operand(cpu, arg, 2, MMU_WRITE);
        if (r == CPU_NEXT) {
            r = cpu_check_aligned(cpu, cpu->ea, 2);
        }
        return r == CPU_NEXT ? cpu_write_last(cpu, cpu->ea, &msw, 2, len) : r;
    }
    cpu_set_gpr(cpu, HELPER_ARG_RM(arg), HELPER_ARG_OPSIZE(arg), value);
    return CPU_NEXT;
}

/* ---- CR3, CR4, CR8 ---- */

static enum cpu_result write_cr3(struct cpu *cpu, uint64_t value, uint64_t qualification, uint32_t len)
{
    struct vmcs *v = &cpu->vmcs;

    if (cpu_proc_ctl(cpu, VMX_PROC_CR3_LOAD_EXITING)) {
        bool target = false;
        for (uint32_t i = 0; i < v->cr3_target_count && i < KAGE_ARRAY_SIZE(v->cr3_target); i++) {
            target |= v->cr3_target[i] == value;
        }
        if (!target) {
            return cpu_vmexit(cpu, VMX_EXIT_CR_ACCESS, qualification, len);
        }
    }
    bool noflush = (v->guest_cr4 & X86_CR4_PCIDE) != 0 && (value & X86_CR3_NOFLUSH) != 0;
    if (!cpu_uses_ept(cpu)) { /* one of the CR3-target values, roots of the hypervisor's */
        v->guest_cr3 = value & ~X86_CR3_NOFLUSH;
        mmu_switch_cr3(cpu, noflush);
        return CPU_NEXT;
    }
    if (!cpu_load_cr3(cpu, noflush ? value & ~X86_CR3_NOFLUSH : value)) {
        return cpu_raise_gp(cpu, 0);
    }
    mmu_switch_cr3(cpu, noflush);
    return CPU_NEXT;
}

static enum cpu_result write_cr4(struct cpu *cpu, uint64_t value, uint64_t qualification, uint32_t len)
{
    const struct vmcs *v = &cpu->vmcs;

    if (((value ^ v->cr4_read_shadow) & v->cr4_mask) != 0) {
        return cpu_vmexit(cpu, VMX_EXIT_CR_ACCESS, qualification, len);
    }
    return cpu_load_cr4(cpu, cpu_keep_masked(cpu, value, v->guest_cr4, v->cr4_mask)) ? CPU_NEXT : cpu_raise_gp(cpu, 0);
}

static enum cpu_result write_cr8(struct cpu *cpu, uint64_t value, uint64_t qualification, uint32_t len)
{
    /* The TPR shadow does not exist here: kvm/ takes the exit, or reads cpu->cr8. */
    if (cpu_proc_ctl(cpu, VMX_PROC_CR8_LOAD_EXITING)) {
        return cpu_vmexit(cpu, VMX_EXIT_CR_ACCESS, qualification, len);
    }
    if (value > 15) {
        return cpu_raise_gp(cpu, 0);
    }
    cpu->cr8 = value;
    return CPU_NEXT;
}

/* CR0, CR2, CR3, CR4; CR8 for 64-bit code only. */
static bool cr_exists(const struct cpu *cpu, unsigned cr)
{
    return cr <= 8 && ((cpu_in_64bit_code(cpu) ? 0x11du : 0x1du) >> cr & 1) != 0;
}

/* MOV with control and debug registers moves 64 bits in 64-bit code, else 32, whatever the prefixes. */
static uint64_t operand_mask(const struct cpu *cpu)
{
    return cpu_in_64bit_code(cpu) ? UINT64_MAX : UINT32_MAX;
}

enum cpu_result sys_mov_to_cr(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    unsigned cr = HELPER_ARG_REG(arg), reg = HELPER_ARG_RM(arg);
    uint64_t value = cpu->gpr[reg] & operand_mask(cpu), q = cr_qualification(cr, CR_ACCESS_TO, reg);

    if (!cr_exists(cpu, cr)) {
        return cpu_raise(cpu, X86_EXC_UD);
    }
    if (cpu_cpl(cpu) != 0) {
        return cpu_raise_gp(cpu, 0);
    }
    switch (cr) {
    case 0:
        return write_cr0(cpu, value, q, len);
    case 2:
        cpu->cr2 = value;
        return CPU_NEXT;
    case 3:
        return write_cr3(cpu, value, q, len);
    case 4:
        return write_cr4(cpu, value, q, len);
    default:
        return write_cr8(cpu, value, q, len);
    }
}

enum cpu_result sys_mov_from_cr(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    unsigned cr = HELPER_ARG_REG(arg), reg = HELPER_ARG_RM(arg);
    uint64_t q = cr_qualification(cr, CR_ACCESS_FROM, reg), value;

    if (!cr_exists(cpu, cr)) {
        return cpu_raise(cpu, X86_EXC_UD);
    }
    if (cpu_cpl(cpu) != 0) {
        return cpu_raise_gp(cpu, 0);
    }
    if ((cr == 3 && cpu_proc_ctl(cpu, VMX_PROC_CR3_STORE_EXITING)) ||
        (cr == 8 && cpu_proc_ctl(cpu, VMX_PROC_CR8_STORE_EXITING))) {
        return cpu_vmexit(cpu, VMX_EXIT_CR_ACCESS, q, len);
    }
    switch (cr) {
    case 0:
        value = cpu_guest_cr0(cpu);
        break;
    case 2:
        value = cpu->cr2;
        break;
    case 3:
        value = cpu_guest_cr3(cpu);
        break;
    case 4:
        value = cpu_guest_cr4(cpu);
        break;
    default:
        value = cpu->cr8;
        break;
    }
    cpu->gpr[reg] = value & operand_mask(cpu);
    return CPU_NEXT;
}

/* ---- debug registers ---- */

enum cpu_result sys_mov_dr(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    struct vmcs *v = &cpu->vmcs;
    unsigned dr = HELPER_ARG_REG(arg), reg = HELPER_ARG_RM(arg);
    bool write = HELPER_ARG_IMM8(arg) == 0x23;
    uint64_t value = cpu->gpr[reg] & operand_mask(cpu);

    if (dr > 7 || ((dr == 4 || dr == 5) && (v->guest_cr4 & X86_CR4_DE) != 0)) {
        return cpu_raise(cpu, X86_EXC_UD);
    }
    if (cpu_cpl(cpu) != 0) {
        return cpu_raise_gp(cpu, 0);
    }
    if (cpu_proc_ctl(cpu, VMX_PROC_MOV_DR_EXITING)) {
        return cpu_vmexit(cpu, VMX_EXIT_MOV_DR, dr | (write ? 0 : 1u << 4) | (uint64_t)reg << 8, len);
    }
    if ((v->guest_dr7 & DR7_GD) != 0) {
        return cpu_raise_debug(cpu, DR6_BD);
    }
    if (dr == 4 || dr == 5) {
        dr += 2;
    }
    if (!write) {
        cpu->gpr[reg] = (dr < 4 ? cpu->dr[dr] : dr == 6 ? cpu->dr6 : v->guest_dr7) & operand_mask(cpu);
        return CPU_NEXT;
    }
    if (dr < 4) {
        cpu->dr[dr] = value;
        return CPU_NEXT;
    }
    if (value >> 32 != 0) {
        return cpu_raise_gp(cpu, 0);
    }
    if (dr == 6) {
        cpu->dr6 = (value | DR6_FIXED_1) & ~DR6_FIXED_0;
    } else {
        v->guest_dr7 = (value | DR7_FIXED_1) & ~DR7_FIXED_0;
    }
    cpu_update_mode(cpu);
    return CPU_NEXT;
}

/* MOV with a system register, told apart by its opcode byte. */
enum cpu_result sys_mov_system(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    switch (HELPER_ARG_IMM8(arg)) {
    case 0x20:
        return sys_mov_from_cr(cpu, arg, len);
    case 0x22:
        return sys_mov_to_cr(cpu, arg, len);
    case 0x21:
    case 0x23:
        return sys_mov_dr(cpu, arg, len);
    default:
        return sys_mov_sreg(cpu, arg, len);
    }
}

/* ---- XCR0 ---- */

enum cpu_result sys_xsetbv(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    (void)arg;
    if ((cpu->vmcs.guest_cr4 & X86_CR4_OSXSAVE) == 0) {
        return cpu_raise(cpu, X86_EXC_UD);
    }
    if (cpu_cpl(cpu) != 0) {
        return cpu_raise_gp(cpu, 0);
    }
    return cpu_vmexit(cpu, VMX_EXIT_XSETBV, 0, len);
}

enum cpu_result sys_xgetbv(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    (void)arg;
    (void)len;
    if ((cpu->vmcs.guest_cr4 & X86_CR4_OSXSAVE) == 0) {
        return cpu_raise(cpu, X86_EXC_UD);
    }
    if ((uint32_t)cpu->gpr[X86_RCX] != 0) {
        return cpu_raise_gp(cpu, 0); /* XCR1 (XINUSE) is not offered */
    }
    cpu->gpr[X86_RAX] = (uint32_t)cpu->xcr0;
    cpu->gpr[X86_RDX] = cpu->xcr0 >> 32;
    return CPU_NEXT;
}

/* ---- TLB ---- */

enum cpu_result sys_invlpg(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    if (cpu_cpl(cpu) != 0) {
        return cpu_raise_gp(cpu, 0);
    }
    if (!cpu_in_64bit_code(cpu)) { /* nothing is accessed, nothing is checked */
        cpu->ea = (uint32_t)(cpu->vmcs.guest_seg[HELPER_ARG_SEG(arg)].base + cpu->ea);
    }
    if (cpu_proc_ctl(cpu, VMX_PROC_INVLPG_EXITING)) {
        return cpu_vmexit(cpu, VMX_EXIT_INVLPG, cpu->ea, len);
    }
    if (cpu_is_cpu_canonical(cpu, cpu->ea)) { /* otherwise nothing happens, not even #GP (SDM 2A) */
        mmu_flush_page(cpu, cpu->ea);
    }
    return CPU_NEXT;
}

/*
 * SDM 3C table 28-14. The registers of the address are not known any more: it is told as a displacement without them, and,
 * with all that a segment adds, as the guest-linear address.
 */
static enum cpu_result exit_invpcid(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    uint32_t size = HELPER_ARG_ADDRSIZE(arg) == 8 ? 2 : HELPER_ARG_ADDRSIZE(arg) == 4 ? 1 : 0;
    uint32_t seg = cpu_in_64bit_code(cpu) ? X86_DS : HELPER_ARG_SEG(arg); /* 64-bit code: cpu->ea is linear */
    gva_t offset = cpu->ea;
    enum cpu_result r = cpu_operand(cpu, arg, INVPCID_BYTES, MMU_READ);

    if (r != CPU_NEXT) {
        return r;
    }
    cpu_vmexit(cpu, VMX_EXIT_INVPCID, offset, len);
    cpu->vmcs.exit_instruction_info =
        HELPER_ARG_REG(arg) << 28 | VMX_INFO_NO_BASE | VMX_INFO_NO_INDEX | seg << 15 | size << 7;
    cpu->vmcs.guest_linear_address = cpu->ea;
    return CPU_EXIT;
}

enum cpu_result sys_invpcid(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    uint64_t type = cpu->gpr[HELPER_ARG_REG(arg)] & operand_mask(cpu);
    uint64_t descriptor[2];

    if (!cpu_proc_ctl2(cpu, VMX_PROC2_INVPCID)) {
        return cpu_raise(cpu, X86_EXC_UD);
    }
    if (cpu_cpl(cpu) != 0) {
        return cpu_raise_gp(cpu, 0);
    }
    if (cpu_proc_ctl(cpu, VMX_PROC_INVLPG_EXITING)) {
        return exit_invpcid(cpu, arg, len);
    }
    enum cpu_result r = cpu_operand(cpu, arg, sizeof(descriptor), MMU_READ);
    if (r != CPU_NEXT) {
        return r;
    }
    r = cpu_read(cpu, cpu->ea, descriptor, sizeof(descriptor), cpu_mmu_idx(cpu));
    if (r != CPU_NEXT) {
        return r;
    }
    bool pcide = (cpu->vmcs.guest_cr4 & X86_CR4_PCIDE) != 0;
    bool bad = type > 3 || descriptor[0] >> 12 != 0;
    if (type < 2) {
        bad |= !pcide && descriptor[0] != 0;
    }
    if (bad || (type == 0 && !cpu_is_cpu_canonical(cpu, descriptor[1]))) {
        return cpu_raise_gp(cpu, 0);
    }
    switch (type) {
    case 0:
        mmu_flush_page_pcid(cpu, descriptor[1], (unsigned)descriptor[0]);
        break;
    case 1:
        mmu_flush_pcid(cpu, (unsigned)descriptor[0]);
        break;
    case 2:
        mmu_flush_all(cpu);
        break;
    default:
        mmu_flush_non_global(cpu);
        break;
    }
    return CPU_NEXT;
}
