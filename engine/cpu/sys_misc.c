/* SPDX-License-Identifier: MIT */
/*
 * Flag instructions, and instructions that mainly exit: HLT, CPUID, VMCALL, MONITOR, PAUSE, cache
 * control (SDM 3C 26.1.2 and 26.1.3), or are never valid here.
 */
#include "cpu/segment.h"

/* ---- flags ---- */

/* CLI and STI: IOPL, or at CPL 3 with CR4.PVI, in virtual-8086 mode CR4.VME, the virtual flag (SDM 2A CLI, STI; 3A 20.3, 20.4). */
static bool iopl_allows(const struct cpu *cpu)
{
    return cpu_cpl(cpu) <= cpu_iopl(cpu);
}

static bool uses_vif(const struct cpu *cpu)
{
    uint64_t bit = cpu_in_v86_mode(cpu) ? X86_CR4_VME : X86_CR4_PVI;

    return cpu_cpl(cpu) == 3 && (cpu->vmcs.guest_cr4 & bit) != 0;
}

/*
 * PUSHF and POPF of virtual-8086 mode below IOPL 3: the monitor's, by #GP, but with CR4.VME their 16-bit
 * forms run on VIF (SDM 3A table 20-2). *virtual_if: so they do.
 */
static bool v86_flags_fault(const struct cpu *cpu, unsigned bytes, bool *virtual_if)
{
    *virtual_if = cpu_in_v86_mode(cpu) && cpu_iopl(cpu) < 3;
    return *virtual_if && (bytes != 2 || (cpu->vmcs.guest_cr4 & X86_CR4_VME) == 0);
}

enum cpu_result sys_cli(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    (void)arg;
    (void)len;
    if (iopl_allows(cpu)) {
        cpu->iflag = 0;
    } else if (uses_vif(cpu)) {
        cpu->rflags &= ~X86_FLAGS_VIF;
    } else {
        return cpu_raise_gp(cpu, 0);
    }
    return CPU_NEXT;
}

enum cpu_result sys_sti(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    (void)arg;
    (void)len;
    if (iopl_allows(cpu)) {
        if (cpu->iflag == 0) {
            cpu->iflag = 1;
            cpu->intr_shadow = VMX_INTR_STI;
            cpu_update_mode(cpu);
        }
    } else if (uses_vif(cpu) && (cpu->rflags & X86_FLAGS_VIP) == 0) {
        cpu->rflags |= X86_FLAGS_VIF;
    } else {
        return cpu_raise_gp(cpu, 0);
    }
    return CPU_NEXT;
}

static enum cpu_result set_ac(struct cpu *cpu, bool on)
{
    if (cpu_cpl(cpu) != 0) {
        return cpu_raise(cpu, X86_EXC_UD);
    }
    cpu->rflags = (cpu->rflags & ~X86_FLAGS_AC) | (on ? X86_FLAGS_AC : 0);
    cpu_update_mode(cpu);
    return CPU_NEXT;
}

enum cpu_result sys_clac(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    (void)arg;
    (void)len;
    return set_ac(cpu, false);
}

enum cpu_result sys_stac(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    (void)arg;
    (void)len;
    return set_ac(cpu, true);
}

enum cpu_result sys_cld(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    (void)arg;
    (void)len;
    cpu->rflags &= ~X86_FLAGS_DF;
    cpu_update_mode(cpu);
    return CPU_NEXT;
}

enum cpu_result sys_std(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    (void)arg;
    (void)len;
    cpu->rflags |= X86_FLAGS_DF;
    cpu_update_mode(cpu);
    return CPU_NEXT;
}

/* Bytes that PUSHF and POPF move. */
static unsigned flags_bytes(const struct cpu *cpu, uint32_t arg)
{
    return HELPER_ARG_OPSIZE(arg) == 2 ? 2 : cpu_in_64bit_code(cpu) ? 8 : 4;
}

enum cpu_result sys_pushf(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    unsigned bytes = flags_bytes(cpu, arg);
    uint64_t value = cpu_rflags(cpu) & ~(uint64_t)(X86_FLAGS_RF | X86_FLAGS_VM);
    uint64_t sp = cpu->gpr[X86_RSP] - bytes;
    bool virtual_if;
    gva_t va;

    if (v86_flags_fault(cpu, bytes, &virtual_if)) {
        return cpu_raise_gp(cpu, 0);
    }
    if (virtual_if) {
        value = (value & ~(uint64_t)X86_FLAGS_IF) | X86_FLAGS_IOPL | ((value & X86_FLAGS_VIF) != 0 ? X86_FLAGS_IF : 0);
    }
    enum cpu_result r = cpu_stack_va(cpu, sp, bytes, MMU_WRITE, &va);
    if (r == CPU_NEXT) {
        r = cpu_stack_result(cpu, cpu_write_last(cpu, va, &value, bytes, len));
    }
    if (r == CPU_NEXT || (r == CPU_EXIT && cpu_mmio_posted(cpu))) {
        cpu_set_sp(cpu, sp);
    }
    return r;
}

enum cpu_result sys_popf(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    unsigned bytes = flags_bytes(cpu, arg);
    uint32_t changes = X86_FLAGS_ARITH | X86_FLAGS_TF | X86_FLAGS_DF | X86_FLAGS_NT | X86_FLAGS_AC | X86_FLAGS_ID;
    uint64_t value = 0, old = cpu_rflags(cpu);
    bool virtual_if;
    gva_t va;

    (void)len;
    if (v86_flags_fault(cpu, bytes, &virtual_if)) {
        return cpu_raise_gp(cpu, 0);
    }
    enum cpu_result r = cpu_stack_va(cpu, cpu->gpr[X86_RSP], bytes, MMU_READ, &va);
    if (r == CPU_NEXT) {
        r = cpu_stack_result(cpu, cpu_read(cpu, va, &value, bytes, cpu_mmu_idx(cpu)));
    }
    if (r != CPU_NEXT) {
        return r;
    }
    if (cpu_cpl(cpu) == 0) {
        changes |= X86_FLAGS_IOPL;
    }
    if (iopl_allows(cpu)) {
        changes |= X86_FLAGS_IF;
    }
    if (bytes == 2) {
        changes &= 0xffff;
    }
    if (virtual_if) {
        if ((value & X86_FLAGS_TF) != 0 || ((value & X86_FLAGS_IF) != 0 && (old & X86_FLAGS_VIP) != 0)) {
            return cpu_raise_gp(cpu, 0);
        }
        changes |= X86_FLAGS_VIF;
        value = (value & ~(uint64_t)X86_FLAGS_VIF) | ((value & X86_FLAGS_IF) != 0 ? X86_FLAGS_VIF : 0);
    }
    cpu_set_sp(cpu, cpu->gpr[X86_RSP] + bytes);
    cpu_set_rflags(cpu, (old & ~(uint64_t)(changes | X86_FLAGS_RF)) | (value & changes));
    cpu_update_mode(cpu);
    return CPU_NEXT;
}

/* ---- instructions that exit ---- */

static enum cpu_result privileged_exit(struct cpu *cpu, uint32_t reason, uint32_t len)
{
    return cpu_cpl(cpu) != 0 ? cpu_raise_gp(cpu, 0) : cpu_vmexit(cpu, reason, 0, len);
}

enum cpu_result sys_hlt(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    (void)arg;
    /* Without HLT exiting the hypervisor still has to make the thread wait: the exit is the same. */
    return privileged_exit(cpu, VMX_EXIT_HLT, len);
}

enum cpu_result sys_cpuid(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    (void)arg;
    return cpu_vmexit(cpu, VMX_EXIT_CPUID, 0, len);
}

enum cpu_result sys_invd(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    (void)arg;
    return privileged_exit(cpu, VMX_EXIT_INVD, len);
}

enum cpu_result sys_wbinvd(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    (void)arg;
    if (cpu_proc_ctl2(cpu, VMX_PROC2_WBINVD_EXITING)) {
        return privileged_exit(cpu, VMX_EXIT_WBINVD, len);
    }
    return cpu_cpl(cpu) != 0 ? cpu_raise_gp(cpu, 0) : CPU_NEXT; /* host caches are coherent */
}

enum cpu_result sys_monitor(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    uint8_t byte;

    if (cpu_cpl(cpu) != 0) {
        return cpu_raise(cpu, X86_EXC_UD);
    }
    if (cpu_proc_ctl(cpu, VMX_PROC_MONITOR_EXITING)) {
        return cpu_vmexit(cpu, VMX_EXIT_MONITOR, 0, len);
    }
    if ((uint32_t)cpu->gpr[X86_RCX] != 0) {
        return cpu_raise_gp(cpu, 0);
    }
    uint64_t at = cpu->gpr[X86_RAX] & cpu_size_mask(HELPER_ARG_ADDRSIZE(arg));
    gva_t va;
    enum cpu_result r = cpu_linear(cpu, HELPER_ARG_SEG(arg), at, 1, MMU_READ, &va);
    return r == CPU_NEXT ? cpu_read(cpu, va, &byte, 1, cpu_mmu_idx(cpu)) : r; /* faults as a load does */
}

enum cpu_result sys_mwait(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    (void)arg;
    if (cpu_cpl(cpu) != 0) {
        return cpu_raise(cpu, X86_EXC_UD);
    }
    if (cpu_proc_ctl(cpu, VMX_PROC_MWAIT_EXITING)) {
        return cpu_vmexit(cpu, VMX_EXIT_MWAIT, 0, len);
    }
    return (cpu->gpr[X86_RCX] & ~1ull) != 0 ? cpu_raise_gp(cpu, 0) : CPU_NEXT; /* any wake-up ends the wait */
}

/*
 * PAUSE-loop exiting (SDM 3C 26.1.3): PAUSEs at CPL 0 that follow each other within ple_gap are one loop; it
 * exits when it has lasted for ple_window.
 */
static bool pause_loop_exits(struct cpu *cpu)
{
    uint64_t now = __builtin_ia32_rdtsc();

    if (now - cpu->pause_last > cpu->vmcs.ple_gap) {
        cpu->pause_first = now;
    }
    cpu->pause_last = now;
    if (now - cpu->pause_first <= cpu->vmcs.ple_window) {
        return false;
    }
    cpu->pause_first = now;
    return true;
}

enum cpu_result sys_pause(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    (void)arg;
    if (cpu_proc_ctl(cpu, VMX_PROC_PAUSE_EXITING) ||
        (cpu_proc_ctl2(cpu, VMX_PROC2_PAUSE_LOOP_EXITING) && cpu_cpl(cpu) == 0 && pause_loop_exits(cpu))) {
        return cpu_vmexit(cpu, VMX_EXIT_PAUSE, 0, len);
    }
    __builtin_ia32_pause();
    return CPU_NEXT;
}

enum cpu_result sys_vmcall(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    (void)arg;
    return cpu_vmexit(cpu, VMX_EXIT_VMCALL, 0, len);
}

/*
 * RDRAND and RDSEED: an exit, or the host's own. CF says success; the other flags are cleared.
 * The three sizes differ in what they write (SDM 2B).
 */
static enum cpu_result random_number(struct cpu *cpu, uint32_t arg, uint32_t len, bool seed)
{
    unsigned bytes = HELPER_ARG_OPSIZE(arg);
    uint64_t value;
    uint8_t ok;

    if (cpu_proc_ctl2(cpu, seed ? VMX_PROC2_RDSEED_EXITING : VMX_PROC2_RDRAND_EXITING)) {
        enum cpu_result r = cpu_vmexit(cpu, seed ? VMX_EXIT_RDSEED : VMX_EXIT_RDRAND, 0, len);
        cpu->vmcs.exit_instruction_info = HELPER_ARG_RM(arg) << 3 | (bytes >> 2) << 11;
        return r;
    }
    if (seed) {
        __asm__ volatile("rdseed %0\n\tsetc %1" : "=r"(value), "=qm"(ok) : : "cc");
    } else {
        __asm__ volatile("rdrand %0\n\tsetc %1" : "=r"(value), "=qm"(ok) : : "cc");
    }
    cpu_set_gpr(cpu, HELPER_ARG_RM(arg), bytes, ok != 0 ? value : 0);
    cpu->rflags = (cpu->rflags & ~X86_FLAGS_ARITH) | (ok != 0 ? X86_FLAGS_CF : 0);
    return CPU_NEXT;
}

enum cpu_result sys_rdrand(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    return random_number(cpu, arg, len, false);
}

enum cpu_result sys_rdseed(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    return random_number(cpu, arg, len, true);
}

/* A near branch whose target lies beyond CS's limit. */
enum cpu_result sys_gp(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    (void)arg;
    (void)len;
    return cpu_raise_gp(cpu, 0);
}

enum cpu_result sys_ud(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    (void)arg;
    (void)len;
    return cpu_raise(cpu, X86_EXC_UD);
}

/* More than 15 bytes. */
enum cpu_result sys_too_long(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    (void)arg;
    (void)len;
    return cpu_raise_error(cpu, X86_EXC_GP, 0);
}

/* Clears the cache line at rAX (APM 3, CLZERO), all of which must lie in the segment. */
enum cpu_result sys_clzero(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    static const uint8_t zeros[64];
    unsigned seg = HELPER_ARG_SEG(arg);
    uint64_t at = cpu->gpr[X86_RAX] & cpu_size_mask(HELPER_ARG_ADDRSIZE(arg));
    gva_t va;

    enum cpu_result r = cpu_linear(cpu, seg, at, 1, MMU_WRITE, &va);
    if (r == CPU_NEXT && !cpu_in_64bit_code(cpu)) {
        r = cpu_linear(cpu, seg, (uint32_t)(at - (va & 63)), sizeof(zeros), MMU_WRITE, &va);
    }
    return r == CPU_NEXT ? cpu_write_last(cpu, va & ~63ull, zeros, sizeof(zeros), len) : r;
}
