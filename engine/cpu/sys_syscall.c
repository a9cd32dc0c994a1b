/* SPDX-License-Identifier: MIT */
/*
 * SYSCALL, SYSENTER and their returns, and the software interrupts (SDM 2, the instructions' pages;
 * APM 3 for AMD's forms outside 64-bit code).
 */
#include "cpu/segment.h"

/* ---- SYSCALL and SYSENTER ---- */

/*
 * Outside 64-bit code SYSCALL and SYSRET are AMD's: Intel's processors raise #UD. Compatibility mode
 * has a target of its own, CSTAR; legacy mode goes to STAR[31:0] and saves no flags (APM 3, SYSCALL).
 */
static bool syscall_exists(const struct cpu *cpu)
{
    return (cpu->vmcs.guest_ia32_efer & X86_EFER_SCE) != 0 &&
           (cpu_in_64bit_code(cpu) || (isa_vendor_amd() && !cpu_in_real_mode(cpu)));
}

static enum cpu_result syscall_legacy(struct cpu *cpu, uint16_t selector, uint32_t len)
{
    cpu->gpr[X86_RCX] = cpu_next_rip(cpu, len);
    cpu->rip = (uint32_t)cpu->msr_star;
    cpu->rflags &= ~(X86_FLAGS_VM | X86_FLAGS_RF);
    cpu->iflag = 0;
    cpu_segment_set_flat(cpu, X86_CS, selector, AR_FLAT_CODE32);
    cpu_segment_set_flat(cpu, X86_SS, (uint16_t)(selector + 8), AR_FLAT_DATA);
    return cpu_jumped(cpu, CPU_NEXT);
}

enum cpu_result sys_syscall(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    uint16_t selector = (uint16_t)(cpu->msr_star >> 32) & 0xfffc;

    (void)arg;
    if (!syscall_exists(cpu)) {
        return cpu_raise(cpu, X86_EXC_UD);
    }
    if (!cpu_in_long_mode(cpu)) {
        return syscall_legacy(cpu, selector, len);
    }
    uint64_t flags = cpu_rflags(cpu);
    cpu->gpr[X86_RCX] = cpu_next_rip(cpu, len);
    cpu->gpr[X86_R11] = flags & ~(uint64_t)X86_FLAGS_RF;
    cpu->rip = cpu_in_64bit_code(cpu) ? cpu->msr_lstar : cpu->msr_cstar;
    cpu_set_rflags(cpu, flags & ~cpu->msr_syscall_mask & ~(uint64_t)X86_FLAGS_RF);
    cpu_segment_set_flat(cpu, X86_CS, selector, AR_FLAT_CODE64);
    cpu_segment_set_flat(cpu, X86_SS, (uint16_t)(selector + 8), AR_FLAT_DATA);
    return cpu_jumped(cpu, CPU_NEXT);
}

enum cpu_result sys_sysret(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    bool to_64 = HELPER_ARG_OPSIZE(arg) == 8;
    uint16_t base = (uint16_t)(cpu->msr_star >> 48);
    uint64_t rip = cpu->gpr[X86_RCX];

    (void)len;
    if (!syscall_exists(cpu)) {
        return cpu_raise(cpu, X86_EXC_UD);
    }
    if (cpu_cpl(cpu) != 0 || (to_64 && !cpu_is_canonical(cpu, rip))) {
        return cpu_raise_gp(cpu, 0);
    }
    cpu->rip = to_64 ? rip : (uint32_t)rip;
    if (cpu_in_long_mode(cpu)) {
        cpu_set_rflags(cpu, cpu->gpr[X86_R11] & 0x3c7fd7); /* RF, VM and reserved bits clear (SDM 2B) */
    } else {
        cpu->iflag = 1; /* of the legacy form (APM 3, SYSRET) */
    }
    uint16_t cs = (uint16_t)((to_64 ? base + 16 : base) | 3), ss = (uint16_t)((base + 8) | 3);
    cpu_segment_set_flat(cpu, X86_CS, cs, (to_64 ? AR_FLAT_CODE64 : AR_FLAT_CODE32) | AR_DPL3);
    cpu_segment_set_flat(cpu, X86_SS, ss, AR_FLAT_DATA | AR_DPL3);
    return cpu_jumped(cpu, CPU_NEXT);
}

enum cpu_result sys_sysenter(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    struct vmcs *v = &cpu->vmcs;
    uint16_t selector = (uint16_t)v->guest_sysenter_cs & 0xfffc;

    (void)arg;
    (void)len;
    if (cpu->no_sysenter64 && cpu_in_long_mode(cpu)) {
        return cpu_raise(cpu, X86_EXC_UD);
    }
    if ((v->guest_cr0 & X86_CR0_PE) == 0 || selector == 0) {
        return cpu_raise_gp(cpu, 0);
    }
    bool lm = cpu_in_long_mode(cpu);
    cpu->rflags &= ~(X86_FLAGS_VM | X86_FLAGS_RF);
    cpu->iflag = 0;
    cpu->gpr[X86_RSP] = lm ? v->guest_sysenter_esp : (uint32_t)v->guest_sysenter_esp;
    cpu->rip = lm ? v->guest_sysenter_eip : (uint32_t)v->guest_sysenter_eip;
    cpu_segment_set_flat(cpu, X86_CS, selector, lm ? AR_FLAT_CODE64 : AR_FLAT_CODE32);
    cpu_segment_set_flat(cpu, X86_SS, (uint16_t)(selector + 8), AR_FLAT_DATA);
    return cpu_jumped(cpu, CPU_NEXT);
}

enum cpu_result sys_sysexit(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    struct vmcs *v = &cpu->vmcs;
    bool to_64 = HELPER_ARG_OPSIZE(arg) == 8;
    uint16_t base = (uint16_t)v->guest_sysenter_cs;
    uint64_t rip = cpu->gpr[X86_RDX], rsp = cpu->gpr[X86_RCX];

    (void)len;
    if (cpu_cpl(cpu) != 0) { /* on AMD, too, before the mode is looked at */
        return cpu_raise_gp(cpu, 0);
    }
    if (cpu->no_sysenter64 && cpu_in_long_mode(cpu)) {
        return cpu_raise(cpu, X86_EXC_UD);
    }
    if ((base & 0xfffcu) == 0 || (v->guest_cr0 & X86_CR0_PE) == 0 ||
        (to_64 && (!cpu_is_canonical(cpu, rip) || !cpu_is_canonical(cpu, rsp)))) {
        return cpu_raise_gp(cpu, 0);
    }
    cpu->rip = to_64 ? rip : (uint32_t)rip;
    cpu->gpr[X86_RSP] = to_64 ? rsp : (uint32_t)rsp;
    uint16_t cs = (uint16_t)(base + (to_64 ? 32 : 16)) | 3, ss = (uint16_t)((base + (to_64 ? 40 : 24)) | 3);
    cpu_segment_set_flat(cpu, X86_CS, cs, (to_64 ? AR_FLAT_CODE64 : AR_FLAT_CODE32) | AR_DPL3);
    cpu_segment_set_flat(cpu, X86_SS, ss, AR_FLAT_DATA | AR_DPL3);
    return cpu_jumped(cpu, CPU_NEXT);
}

/* ---- software interrupts ---- */

enum cpu_result sys_int(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    /* In virtual-8086 mode the monitor's, unless CR4.VME asks the redirection bitmap at delivery (SDM 3A 20.3). */
    if (cpu_in_v86_mode(cpu) && cpu_iopl(cpu) < 3 && (cpu->vmcs.guest_cr4 & X86_CR4_VME) == 0) {
        return cpu_raise_gp(cpu, 0);
    }
    return cpu_raise_software(cpu, HELPER_ARG_IMM8(arg), VMX_EVENT_SW_INTR, len);
}

enum cpu_result sys_int3(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    (void)arg;
    return cpu_raise_software(cpu, X86_EXC_BP, VMX_EVENT_SW_EXCEPTION, len);
}

enum cpu_result sys_int1(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    (void)arg;
    return cpu_raise_software(cpu, X86_EXC_DB, VMX_EVENT_PRIV_SW_EXCEPTION, len);
}

enum cpu_result sys_into(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    (void)arg;
    if (cpu_in_64bit_code(cpu)) {
        return cpu_raise(cpu, X86_EXC_UD);
    }
    bool overflow = (cpu->rflags & X86_FLAGS_OF) != 0;
    return overflow ? cpu_raise_software(cpu, X86_EXC_OF, VMX_EVENT_SW_EXCEPTION, len) : CPU_NEXT;
}
