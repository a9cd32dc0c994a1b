/* SPDX-License-Identifier: MIT */
/*
 * The CPUID feature registers that a guest may see, as two masks each: bits that are offered if
 * the host's processor has them (instructions that run as copies), and bits that are always
 * offered (what the engine does by itself: paging features, system instructions, the APIC).
 * Numbers as in SDM 2A CPUID and APM 3 appendix E.
 */
#ifndef KAGE_KVM_CPUID_FEATURES_H
#define KAGE_KVM_CPUID_FEATURES_H

#include "arch/types.h"

enum { CPUID_EAX, CPUID_EBX, CPUID_ECX, CPUID_EDX };

#define CPUID_BIT(n) (1u << (n))

/* 1.ECX */
#define CPUID_1_ECX_HOST                                                                                               \
    (CPUID_BIT(0) /* SSE3 */ | CPUID_BIT(1) /* PCLMULQDQ */ | CPUID_BIT(9) /* SSSE3 */ | CPUID_BIT(12) /* FMA */ |     \
     CPUID_BIT(13) /* CX16 */ | CPUID_BIT(19) /* SSE4.1 */ | CPUID_BIT(20) /* SSE4.2 */ | CPUID_BIT(22) /* MOVBE */ |  \
     CPUID_BIT(23) /* POPCNT */ | CPUID_BIT(25) /* AES */ | CPUID_BIT(26) /* XSAVE */ | CPUID_BIT(28) /* AVX */ |      \
     CPUID_BIT(29) /* F16C */ | CPUID_BIT(30) /* RDRAND */)
#define CPUID_1_ECX_ALWAYS                                                                                             \
    (CPUID_BIT(17) /* PCID */ | CPUID_BIT(21) /* x2APIC */ | CPUID_BIT(24) /* TSC deadline */ |                        \
     CPUID_BIT(31) /* hypervisor */)
#define CPUID_1_ECX_XSAVE CPUID_BIT(26)
#define CPUID_1_ECX_OSXSAVE CPUID_BIT(27)

/* 1.EDX */
#define CPUID_1_EDX_HOST                                                                                               \
    (CPUID_BIT(0) /* FPU */ | CPUID_BIT(8) /* CX8 */ | CPUID_BIT(15) /* CMOV */ | CPUID_BIT(19) /* CLFSH */ |          \
     CPUID_BIT(23) /* MMX */ | CPUID_BIT(24) /* FXSR */ | CPUID_BIT(25) /* SSE */ | CPUID_BIT(26) /* SSE2 */)
#define CPUID_1_EDX_ALWAYS                                                                                             \
    (CPUID_BIT(1) /* VME */ | CPUID_BIT(2) /* DE */ | CPUID_BIT(3) /* PSE */ | CPUID_BIT(4) /* TSC */ |                \
     CPUID_BIT(5) /* MSR */ | CPUID_BIT(6) /* PAE */ | CPUID_BIT(7) /* MCE */ | CPUID_BIT(9) /* APIC */ |              \
     CPUID_BIT(11) /* SEP */ | CPUID_BIT(12) /* MTRR */ | CPUID_BIT(13) /* PGE */ | CPUID_BIT(14) /* MCA */ |          \
     CPUID_BIT(16) /* PAT */ | CPUID_BIT(17) /* PSE-36 */)
#define CPUID_1_EDX_APIC CPUID_BIT(9)

/* 7.0.EBX; bits that need the ZMM state in XCR0 apart */
#define CPUID_7_EBX_HOST                                                                                               \
    (CPUID_BIT(3) /* BMI1 */ | CPUID_BIT(5) /* AVX2 */ | CPUID_BIT(6) /* FDP_EXCPTN_ONLY */ | CPUID_BIT(8) /* BMI2 */ | \
     CPUID_BIT(9) /* ERMS */ | CPUID_BIT(13) /* no FCS/FDS */ | CPUID_BIT(18) /* RDSEED */ | CPUID_BIT(19) /* ADX */ | \
     CPUID_BIT(23) /* CLFLUSHOPT */ | CPUID_BIT(24) /* CLWB */ | CPUID_BIT(29) /* SHA */ | CPUID_7_EBX_AVX512)
#define CPUID_7_EBX_AVX512                                                                                             \
    (CPUID_BIT(16) /* F */ | CPUID_BIT(17) /* DQ */ | CPUID_BIT(21) /* IFMA */ | CPUID_BIT(28) /* CD */ |              \
     CPUID_BIT(30) /* BW */ | CPUID_BIT(31) /* VL */)
#define CPUID_7_EBX_ALWAYS                                                                                             \
    (CPUID_BIT(0) /* FSGSBASE */ | CPUID_BIT(1) /* TSC_ADJUST */ | CPUID_BIT(7) /* SMEP */ |                           \
     CPUID_BIT(10) /* INVPCID */ | CPUID_BIT(20) /* SMAP */)

/* 7.0.ECX */
#define CPUID_7_ECX_AVX512                                                                                             \
    (CPUID_BIT(1) /* VBMI */ | CPUID_BIT(6) /* VBMI2 */ | CPUID_BIT(11) /* VNNI */ | CPUID_BIT(12) /* BITALG */ |      \
     CPUID_BIT(14) /* VPOPCNTDQ */)
#define CPUID_7_ECX_HOST                                                                                               \
    (CPUID_BIT(8) /* GFNI */ | CPUID_BIT(9) /* VAES */ | CPUID_BIT(10) /* VPCLMULQDQ */ | CPUID_BIT(16) /* LA57 */ |   \
     CPUID_7_ECX_AVX512)
#define CPUID_7_ECX_LA57 CPUID_BIT(16)
#define CPUID_7_ECX_ALWAYS (CPUID_BIT(2) /* UMIP */ | CPUID_BIT(22) /* RDPID */)

/* 7.0.EDX */
#define CPUID_7_EDX_AVX512 (CPUID_BIT(8) /* VP2INTERSECT */ | CPUID_BIT(23) /* FP16 */)
#define CPUID_7_EDX_HOST (CPUID_BIT(4) /* FSRM */ | CPUID_7_EDX_AVX512)
#define CPUID_7_EDX_ALWAYS CPUID_BIT(29) /* ARCH_CAPABILITIES */

/* 7.1.EAX */
#define CPUID_7_1_EAX_AVX512 CPUID_BIT(5) /* BF16 */
#define CPUID_7_1_EAX_HOST                                                                                             \
    (CPUID_BIT(4) /* AVX-VNNI */ | CPUID_BIT(10) /* FZRM */ | CPUID_BIT(11) /* FSRS */ | CPUID_BIT(12) /* FSRC */ |    \
     CPUID_7_1_EAX_AVX512)

/* 0xd.1.EAX: no XSAVES: there is no supervisor state */
#define CPUID_D_1_EAX_HOST (CPUID_BIT(0) /* XSAVEOPT */ | CPUID_BIT(1) /* XSAVEC */ | CPUID_BIT(2) /* XGETBV1 */)

/* 0x80000001.ECX */
#define CPUID_81_ECX_HOST                                                                                              \
    (CPUID_BIT(0) /* LAHF */ | CPUID_BIT(5) /* ABM */ | CPUID_BIT(6) /* SSE4A */ | CPUID_BIT(7) /* MISALIGNSSE */ |    \
     CPUID_BIT(8) /* 3DNOWPREFETCH */ | CPUID_BIT(22) /* TOPOEXT */)
/* 0x80000001.EDX; AMD repeats bits of 1.EDX there */
#define CPUID_81_EDX_MIRROR 0x0183f3ffu
#define CPUID_81_EDX_HOST (CPUID_BIT(22) /* MMXEXT */ | CPUID_BIT(25) /* FXSR_OPT */)
#define CPUID_81_EDX_ALWAYS                                                                                            \
    (CPUID_BIT(11) /* SYSCALL */ | CPUID_BIT(20) /* NX */ | CPUID_BIT(26) /* 1G pages */ | CPUID_BIT(27) /* RDTSCP */ | \
     CPUID_BIT(29) /* LM */)

#define CPUID_87_EDX_HOST CPUID_BIT(8) /* invariant TSC */

/*
 * 0x80000008.EBX and 0x80000021 of AMD. No predictor or buffer is shared with what a guest could
 * leak from in ways that its own mitigations reach, so it is told of no bug, and spends nothing.
 */
#define CPUID_88_EBX_HOST CPUID_BIT(2) /* XSAVEERPTR */
#define CPUID_88_EBX_AMD_ALWAYS (CPUID_BIT(26) /* SSB_NO */ | CPUID_BIT(29) /* BTC_NO */)
#define CPUID_821_EAX_ALWAYS                                                                                           \
    (CPUID_BIT(0) /* no nested data BP */ | CPUID_BIT(2) /* LFENCE serializes */ |                                     \
     CPUID_BIT(6) /* null selector clears base */ | CPUID_BIT(29) /* SRSO_NO */)
#define CPUID_821_ECX_ALWAYS (CPUID_BIT(1) /* TSA_SQ_NO */ | CPUID_BIT(2) /* TSA_L1_NO */)

#endif
