/* SPDX-License-Identifier: MIT */
/*
 * RDMSR, WRMSR, the time-stamp counter, and the FS and GS base instructions. MSRs that are the
 * processor's own state are served here when the MSR bitmap lets them through; every other MSR
 * belongs to the hypervisor and exits.
 */
#include <errno.h>

#include "cpu/sys.h"
#include "mmu/mmu.h"

static uint64_t host_tsc(void)
{
    return __builtin_ia32_rdtsc();
}

static bool pat_is_valid(uint64_t pat)
{
    for (unsigned i = 0; i < 8; i++, pat >>= 8) {
        uint64_t type = pat & 0xff;
        if (type > 7 || type == 2 || type == 3) {
            return false;
        }
    }
    return true;
}

/* MSRs that are one field of struct cpu and need at most a check for a canonical address. */
struct msr_row {
    uint32_t msr;
    uint32_t offset;
    uint8_t bytes;
    bool canonical;
};

#define MSR_ROW(msr_, field, canonical_)                                                                               \
    {msr_, (uint32_t)offsetof(struct cpu, field), (uint8_t)sizeof(((struct cpu *)0)->field), canonical_}

static const struct msr_row msr_rows[] = {
    MSR_ROW(MSR_IA32_SYSENTER_CS, vmcs.guest_sysenter_cs, false),
    MSR_ROW(MSR_IA32_SYSENTER_ESP, vmcs.guest_sysenter_esp, true),
    MSR_ROW(MSR_IA32_SYSENTER_EIP, vmcs.guest_sysenter_eip, true),
    MSR_ROW(MSR_STAR, msr_star, false),
    MSR_ROW(MSR_LSTAR, msr_lstar, true),
    MSR_ROW(MSR_CSTAR, msr_cstar, true),
    MSR_ROW(MSR_FS_BASE, vmcs.guest_seg[X86_FS].base, true),
    MSR_ROW(MSR_GS_BASE, vmcs.guest_seg[X86_GS].base, true),
    MSR_ROW(MSR_KERNEL_GS_BASE, msr_kernel_gs_base, true),
};

static const struct msr_row *msr_find(uint32_t msr)
{
    for (size_t i = 0; i < KAGE_ARRAY_SIZE(msr_rows); i++) {
        if (msr_rows[i].msr == msr) {
            return &msr_rows[i];
        }
    }
    return NULL;
}

int cpu_get_msr(struct cpu *cpu, uint32_t msr, uint64_t *value)
{
    const struct msr_row *row = msr_find(msr);

    if (row != NULL) {
        const uint8_t *field = (const uint8_t *)cpu + row->offset;
        *value = row->bytes == 4 ? *(const uint32_t *)(const void *)field : *(const uint64_t *)(const void *)field;
        return 0;
    }
    switch (msr) {
    case MSR_IA32_TSC:
        *value = host_tsc() + cpu->tsc_offset;
        return 0;
    case MSR_IA32_PAT:
        *value = cpu->vmcs.guest_ia32_pat;
        return 0;
    case MSR_EFER:
        *value = cpu_guest_efer(cpu);
        return 0;
    case MSR_SYSCALL_MASK:
        *value = cpu->msr_syscall_mask;
        return 0;
    case MSR_TSC_AUX:
        *value = cpu->msr_tsc_aux;
        return 0;
    default:
        return -ENOENT;
    }
}

int cpu_set_msr(struct cpu *cpu, uint32_t msr, uint64_t value)
{
    const struct msr_row *row = msr_find(msr);

    if (row != NULL) {
        uint8_t *field = (uint8_t *)cpu + row->offset;
        if (row->canonical && !cpu_is_cpu_canonical(cpu, value)) {
            return -EINVAL;
        }
        if (row->bytes == 4) {
            *(uint32_t *)(void *)field = (uint32_t)value;
        } else {
            *(uint64_t *)(void *)field = value;
        }
        return 0;
    }
    switch (msr) {
    case MSR_IA32_TSC:
        cpu->tsc_offset = value - host_tsc();
        cpu->vmcs.tsc_offset = cpu->tsc_offset;
        return 0;
    case MSR_IA32_PAT:
        if (!pat_is_valid(value)) {
            return -EINVAL;
        }
        cpu->vmcs.guest_ia32_pat = value;
        return 0;
    case MSR_EFER:
        return cpu_load_efer(cpu, value) ? 0 : -EINVAL;
    case MSR_SYSCALL_MASK:
        if (value >> 32 != 0) {
            return -EINVAL;
        }
        cpu->msr_syscall_mask = value;
        return 0;
    case MSR_TSC_AUX:
        if (value >> 32 != 0) {
            return -EINVAL;
        }
        cpu->msr_tsc_aux = (uint32_t)value;
        return 0;
    default:
        return -ENOENT;
    }
}

/*
 * The MSR bitmap (SDM 3C 25.6.9), 1 KiB each: read low, read high, write low, write high.
 * low: 0 to 1fff, high: c0000000 to c0001fff. Set bits, and MSRs outside both ranges, exit.
 */
static bool msr_exits(const struct cpu *cpu, uint32_t msr, bool write)
{
    const uint8_t *map = (const uint8_t *)(uintptr_t)cpu->vmcs.msr_bitmap;
    bool high = msr >= 0xc0000000u;
    uint32_t bit = msr & 0x1fff;

    if (!cpu_proc_ctl(cpu, VMX_PROC_USE_MSR_BITMAPS) || map == NULL || (msr & ~0x1fffu) != (high ? 0xc0000000u : 0)) {
        return true;
    }
    return (map[(write ? 2048u : 0u) + (high ? 1024u : 0u) + bit / 8] >> (bit & 7) & 1) != 0;
}

enum cpu_result sys_rdmsr(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    uint32_t msr = (uint32_t)cpu->gpr[X86_RCX];
    uint64_t value;

    (void)arg;
    if (cpu_cpl(cpu) != 0) {
        return cpu_raise_gp(cpu, 0);
    }
    if (msr_exits(cpu, msr, false) || cpu_get_msr(cpu, msr, &value) != 0) {
        return cpu_vmexit(cpu, VMX_EXIT_RDMSR, 0, len);
    }
    cpu->gpr[X86_RAX] = (uint32_t)value;
    cpu->gpr[X86_RDX] = value >> 32;
    return CPU_NEXT;
}

enum cpu_result sys_wrmsr(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    uint32_t msr = (uint32_t)cpu->gpr[X86_RCX];
    uint64_t value = (uint32_t)cpu->gpr[X86_RAX] | cpu->gpr[X86_RDX] << 32;

    (void)arg;
    if (cpu_cpl(cpu) != 0) {
        return cpu_raise_gp(cpu, 0);
    }
    if (msr_exits(cpu, msr, true)) {
        return cpu_vmexit(cpu, VMX_EXIT_WRMSR, 0, len);
    }
    switch (cpu_set_msr(cpu, msr, value)) {
    case 0:
        return CPU_NEXT;
    case -EINVAL:
        return cpu_raise_gp(cpu, 0);
    default:
        return cpu_vmexit(cpu, VMX_EXIT_WRMSR, 0, len);
    }
}

/* ---- counters ---- */

static bool tsc_forbidden(const struct cpu *cpu)
{
    return (cpu->vmcs.guest_cr4 & X86_CR4_TSD) != 0 && cpu_cpl(cpu) != 0;
}

static void return_tsc(struct cpu *cpu, uint64_t tsc)
{
    tsc += cpu->tsc_offset;

    cpu->gpr[X86_RAX] = (uint32_t)tsc;
    cpu->gpr[X86_RDX] = tsc >> 32;
}

enum cpu_result sys_rdtsc(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    (void)arg;
    if (tsc_forbidden(cpu)) {
        return cpu_raise_gp(cpu, 0);
    }
    if (cpu_proc_ctl(cpu, VMX_PROC_RDTSC_EXITING)) {
        return cpu_vmexit(cpu, VMX_EXIT_RDTSC, 0, len);
    }
    return_tsc(cpu, host_tsc());
    return CPU_NEXT;
}

enum cpu_result sys_rdtscp(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    (void)arg;
    if (!cpu_proc_ctl2(cpu, VMX_PROC2_RDTSCP)) {
        return cpu_raise(cpu, X86_EXC_UD);
    }
    if (tsc_forbidden(cpu)) {
        return cpu_raise_gp(cpu, 0);
    }
    if (cpu_proc_ctl(cpu, VMX_PROC_RDTSC_EXITING)) {
        return cpu_vmexit(cpu, VMX_EXIT_RDTSCP, 0, len);
    }
    __asm__ volatile("lfence" ::: "memory"); /* RDTSCP waits for all before it (SDM 2B) */
    return_tsc(cpu, host_tsc());
    cpu->gpr[X86_RCX] = cpu->msr_tsc_aux;
    return CPU_NEXT;
}

/* RDPID reads the guest's TSC_AUX; the host's would be the host kernel's. */
enum cpu_result sys_rdpid(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    (void)len;
    if (!cpu_proc_ctl2(cpu, VMX_PROC2_RDTSCP)) {
        return cpu_raise(cpu, X86_EXC_UD);
    }
    cpu->gpr[HELPER_ARG_RM(arg)] = cpu->msr_tsc_aux;
    return CPU_NEXT;
}

enum cpu_result sys_rdpmc(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    (void)arg;
    if (cpu_cpl(cpu) != 0 && (cpu->vmcs.guest_cr4 & X86_CR4_PCE) == 0) {
        return cpu_raise_gp(cpu, 0);
    }
    if (cpu_proc_ctl(cpu, VMX_PROC_RDPMC_EXITING)) {
        return cpu_vmexit(cpu, VMX_EXIT_RDPMC, 0, len);
    }
    return cpu_raise_gp(cpu, 0); /* there are no counters */
}

/* ---- FS and GS bases ---- */

enum cpu_result sys_swapgs(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    uint64_t *base = &cpu->vmcs.guest_seg[X86_GS].base;
    uint64_t old = *base;

    (void)arg;
    (void)len;
    if ((cpu->mode & CPU_MODE_LONG) == 0) {
        return cpu_raise(cpu, X86_EXC_UD);
    }
    if (cpu_cpl(cpu) != 0) {
        return cpu_raise_gp(cpu, 0);
    }
    *base = cpu->msr_kernel_gs_base;
    cpu->msr_kernel_gs_base = old;
    return CPU_NEXT;
}

static bool fsgsbase_allowed(const struct cpu *cpu)
{
    return (cpu->vmcs.guest_cr4 & X86_CR4_FSGSBASE) != 0 && (cpu->mode & CPU_MODE_LONG) != 0;
}

static enum cpu_result read_base(struct cpu *cpu, uint32_t arg, unsigned seg)
{
    if (!fsgsbase_allowed(cpu)) {
        return cpu_raise(cpu, X86_EXC_UD);
    }
    cpu_set_gpr(cpu, HELPER_ARG_RM(arg), HELPER_ARG_OPSIZE(arg) == 8 ? 8 : 4, cpu->vmcs.guest_seg[seg].base);
    return CPU_NEXT;
}

static enum cpu_result write_base(struct cpu *cpu, uint32_t arg, unsigned seg)
{
    uint64_t value = cpu->gpr[HELPER_ARG_RM(arg)];

    if (!fsgsbase_allowed(cpu)) {
        return cpu_raise(cpu, X86_EXC_UD);
    }
    if (HELPER_ARG_OPSIZE(arg) != 8) {
        value = (uint32_t)value;
    }
    if (!cpu_is_cpu_canonical(cpu, value)) {
        return cpu_raise_gp(cpu, 0);
    }
    cpu->vmcs.guest_seg[seg].base = value;
    return CPU_NEXT;
}

enum cpu_result sys_rdfsbase(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    (void)len;
    return read_base(cpu, arg, X86_FS);
}

enum cpu_result sys_rdgsbase(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    (void)len;
    return read_base(cpu, arg, X86_GS);
}

enum cpu_result sys_wrfsbase(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    (void)len;
    return write_base(cpu, arg, X86_FS);
}

enum cpu_result sys_wrgsbase(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    (void)len;
    return write_base(cpu, arg, X86_GS);
}
