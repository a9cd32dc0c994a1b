/* SPDX-License-Identifier: MIT */
/*
 * Constants of the x86-64 architecture, spelled as in the Intel SDM and AMD APM.
 * Numbers only: no state, no functions with side effects.
 */
#ifndef KAGE_ARCH_X86_H
#define KAGE_ARCH_X86_H

#include "arch/types.h"

/* RFLAGS (SDM 1 3.4.3) */
#define X86_FLAGS_CF (1u << 0)
#define X86_FLAGS_FIXED (1u << 1)
#define X86_FLAGS_PF (1u << 2)
#define X86_FLAGS_AF (1u << 4)
#define X86_FLAGS_ZF (1u << 6)
#define X86_FLAGS_SF (1u << 7)
#define X86_FLAGS_TF (1u << 8)
#define X86_FLAGS_IF (1u << 9)
#define X86_FLAGS_DF (1u << 10)
#define X86_FLAGS_OF (1u << 11)
#define X86_FLAGS_IOPL (3u << 12)
#define X86_FLAGS_IOPL_SHIFT 12
#define X86_FLAGS_NT (1u << 14)
#define X86_FLAGS_RF (1u << 16)
#define X86_FLAGS_VM (1u << 17)
#define X86_FLAGS_AC (1u << 18)
#define X86_FLAGS_VIF (1u << 19)
#define X86_FLAGS_VIP (1u << 20)
#define X86_FLAGS_ID (1u << 21)
#define X86_FLAGS_ARITH                                                                            \
    (X86_FLAGS_CF | X86_FLAGS_PF | X86_FLAGS_AF | X86_FLAGS_ZF | X86_FLAGS_SF | X86_FLAGS_OF)
#define X86_FLAGS_VALID 0x3f7fd7u

/* Control registers (SDM 3A 2.5) */
#define X86_CR0_PE (1ull << 0)
#define X86_CR0_MP (1ull << 1)
#define X86_CR0_EM (1ull << 2)
#define X86_CR0_TS (1ull << 3)
#define X86_CR0_ET (1ull << 4)
#define X86_CR0_NE (1ull << 5)
#define X86_CR0_WP (1ull << 16)
#define X86_CR0_AM (1ull << 18)
#define X86_CR0_NW (1ull << 29)
#define X86_CR0_CD (1ull << 30)
#define X86_CR0_PG (1ull << 31)

#define X86_CR3_PCID_MASK 0xfffull
#define X86_CR3_NOFLUSH (1ull << 63)

#define X86_CR4_VME (1ull << 0)
#define X86_CR4_PVI (1ull << 1)
#define X86_CR4_TSD (1ull << 2)
#define X86_CR4_DE (1ull << 3)
#define X86_CR4_PSE (1ull << 4)
#define X86_CR4_PAE (1ull << 5)
#define X86_CR4_MCE (1ull << 6)
#define X86_CR4_PGE (1ull << 7)
#define X86_CR4_PCE (1ull << 8)
#define X86_CR4_OSFXSR (1ull << 9)
#define X86_CR4_OSXMMEXCPT (1ull << 10)
#define X86_CR4_UMIP (1ull << 11)
#define X86_CR4_LA57 (1ull << 12)
#define X86_CR4_VMXE (1ull << 13)
#define X86_CR4_FSGSBASE (1ull << 16)
#define X86_CR4_PCIDE (1ull << 17)
#define X86_CR4_OSXSAVE (1ull << 18)
#define X86_CR4_SMEP (1ull << 20)
#define X86_CR4_SMAP (1ull << 21)
#define X86_CR4_PKE (1ull << 22)

#define X86_EFER_SCE (1ull << 0)
#define X86_EFER_LME (1ull << 8)
#define X86_EFER_LMA (1ull << 10)
#define X86_EFER_NX (1ull << 11)
#define X86_EFER_FFXSR (1ull << 14) /* AMD: FXSAVE and FXRSTOR of the kernel leave XMM registers out */
#define X86_EFER_FFXSR (1ull << 14)

#define X86_XCR0_X87 (1ull << 0)
#define X86_XCR0_SSE (1ull << 1)
#define X86_XCR0_AVX (1ull << 2)
#define X86_XCR0_AVX512 (7ull << 5)

/* Exception vectors (SDM 3A 6.3.1) */
enum {
    X86_EXC_DE = 0,
    X86_EXC_DB = 1,
    X86_EXC_NMI = 2,
    X86_EXC_BP = 3,
    X86_EXC_OF = 4,
    X86_EXC_BR = 5,
    X86_EXC_UD = 6,
    X86_EXC_NM = 7,
    X86_EXC_DF = 8,
    X86_EXC_TS = 10,
    X86_EXC_NP = 11,
    X86_EXC_SS = 12,
    X86_EXC_GP = 13,
    X86_EXC_PF = 14,
    X86_EXC_MF = 16,
    X86_EXC_AC = 17,
    X86_EXC_MC = 18,
    X86_EXC_XM = 19,
};

#define X86_DR6_BS (1u << 14)

/* Page-fault error code (SDM 3A 4.7) */
#define X86_PF_P (1u << 0)
#define X86_PF_W (1u << 1)
#define X86_PF_U (1u << 2)
#define X86_PF_RSVD (1u << 3)
#define X86_PF_I (1u << 4)

/* Page-table entries (SDM 3A 4.5) */
#define X86_PTE_P (1ull << 0)
#define X86_PTE_W (1ull << 1)
#define X86_PTE_U (1ull << 2)
#define X86_PTE_A (1ull << 5)
#define X86_PTE_D (1ull << 6)
#define X86_PTE_PS (1ull << 7)
#define X86_PTE_G (1ull << 8)
#define X86_PTE_NX (1ull << 63)

/* General-purpose registers, in encoding order */
enum {
    X86_RAX, X86_RCX, X86_RDX, X86_RBX, X86_RSP, X86_RBP, X86_RSI, X86_RDI,
    X86_R8, X86_R9, X86_R10, X86_R11, X86_R12, X86_R13, X86_R14, X86_R15,
};

/* Segment registers, in encoding order; the last two only index state */
enum { X86_ES, X86_CS, X86_SS, X86_DS, X86_FS, X86_GS, X86_LDTR, X86_TR, X86_SEG_COUNT };

/*
 * Segment access rights, as the VMCS holds them (SDM 3C 25.4.1):
 *   16   15  14  13  12  11..8  7   6..5  4   3..0
 *   U    G   D/B L   AVL  0     P   DPL   S   type
 */
#define X86_AR_TYPE 0xfu
#define X86_AR_S (1u << 4)
#define X86_AR_DPL_SHIFT 5
#define X86_AR_DPL (3u << 5)
#define X86_AR_P (1u << 7)
#define X86_AR_AVL (1u << 12)
#define X86_AR_L (1u << 13)
#define X86_AR_DB (1u << 14)
#define X86_AR_G (1u << 15)
#define X86_AR_UNUSABLE (1u << 16)

/* MSRs that the engine knows by name */
#define MSR_IA32_TSC 0x10
#define MSR_IA32_APIC_BASE 0x1b
#define MSR_IA32_TSC_ADJUST 0x3b
#define MSR_IA32_SPEC_CTRL 0x48
#define MSR_IA32_PRED_CMD 0x49
#define MSR_PLATFORM_INFO 0xce
#define MSR_IA32_FLUSH_CMD 0x10b
#define MSR_VIRT_SPEC_CTRL 0xc001011fu
#define MSR_IA32_BIOS_SIGN_ID 0x8b
#define MSR_IA32_MTRRCAP 0xfe
#define MSR_IA32_ARCH_CAPABILITIES 0x10a
#define MSR_IA32_SYSENTER_CS 0x174
#define MSR_IA32_SYSENTER_ESP 0x175
#define MSR_IA32_SYSENTER_EIP 0x176
#define MSR_IA32_MISC_ENABLE 0x1a0
#define MSR_IA32_DEBUGCTL 0x1d9
#define MSR_IA32_PAT 0x277
#define MSR_IA32_TSC_DEADLINE 0x6e0
#define MSR_X2APIC_FIRST 0x800
#define MSR_X2APIC_LAST 0x8ff
#define MSR_IA32_XSS 0xda0
#define MSR_EFER 0xc0000080u
#define MSR_STAR 0xc0000081u
#define MSR_LSTAR 0xc0000082u
#define MSR_CSTAR 0xc0000083u
#define MSR_SYSCALL_MASK 0xc0000084u
#define MSR_FS_BASE 0xc0000100u
#define MSR_GS_BASE 0xc0000101u
#define MSR_KERNEL_GS_BASE 0xc0000102u
#define MSR_TSC_AUX 0xc0000103u

#define X86_LA48_BITS 48u
#define X86_LA57_BITS 57u

/* True if `va` is canonical for linear addresses of so many bits (SDM 1 3.3.7.1). */
static inline bool x86_is_canonical(gva_t va, unsigned bits)
{
    unsigned rest = 64 - bits;
    return (gva_t)((int64_t)(va << rest) >> rest) == va;
}

#endif
