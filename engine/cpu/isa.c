/* SPDX-License-Identifier: MIT */
/*
 * Which of the instruction sets that Zydis decodes the host has. An instruction that the host lacks
 * must be #UD before its operands are looked at: a copy would take the page fault first. Sets that
 * are not in the table are in every x86-64 processor, or are what classes.c says.
 */
#include <cpuid.h>

#include "cpu/run.h"
#include "cpu/sys.h"
#include "cpu/translate.h"

enum { EAX, EBX, ECX, EDX };

/* CPUID is slow under a hypervisor: each leaf is asked once. */
enum { L0, L1, L7, L7_1, LX1, LX8, LC1, LEAF_COUNT };
static const struct {
    uint32_t leaf, subleaf;
} leaves[LEAF_COUNT] = {
    [L0] = {0, 0},          [L1] = {1, 0},          [L7] = {7, 0},          [L7_1] = {7, 1},
    [LX1] = {0x80000001, 0}, [LX8] = {0x80000008, 0}, [LC1] = {0xc0000001, 0},
};
static uint32_t host_leaf[LEAF_COUNT][4];

struct feature {
    uint8_t leaf, reg, bit;
};

#define SET(name, lf, rg, b) [ZYDIS_ISA_SET_##name] = {lf, rg, b}
#define SETS_512(name, lf, rg, b) \
    SET(name##_128, lf, rg, b), SET(name##_256, lf, rg, b), SET(name##_512, lf, rg, b)

/* SDM 2A CPUID; APM 3 appendix E. Leaf L0: no feature needed. */
static const struct feature feature_of[ZYDIS_ISA_SET_MAX_VALUE + 1] = {
    SET(SSE3, L1, ECX, 0), SET(SSE3X87, L1, ECX, 0), SET(PCLMULQDQ, L1, ECX, 1), SET(SSSE3, L1, ECX, 9),
    SET(SSSE3MMX, L1, ECX, 9), SET(FMA, L1, ECX, 12), SET(CMPXCHG16B, L1, ECX, 13), SET(SSE4, L1, ECX, 19),
    SET(SSE42, L1, ECX, 20), SET(MOVBE, L1, ECX, 22), SET(POPCNT, L1, ECX, 23), SET(AES, L1, ECX, 25),
    SET(AVX, L1, ECX, 28), SET(AVXAES, L1, ECX, 25), SET(F16C, L1, ECX, 29), SET(RDRAND, L1, ECX, 30),
    SET(BMI2, L7, EBX, 8), SET(AVX2, L7, EBX, 5), SET(AVX2GATHER, L7, EBX, 5), SET(RDSEED, L7, EBX, 18),
    SET(ADOX_ADCX, L7, EBX, 19), SET(CLFLUSHOPT, L7, EBX, 23), SET(CLWB, L7, EBX, 24), SET(SHA, L7, EBX, 29),
    SET(GFNI, L7, ECX, 8), SET(AVX_GFNI, L7, ECX, 8), SET(VAES, L7, ECX, 9), SET(VPCLMULQDQ, L7, ECX, 10),
    SET(RDPID, L7, ECX, 22), SET(MOVDIR, L7, ECX, 27), SET(SERIALIZE, L7, EDX, 14), SET(AVX_VNNI, L7_1, EAX, 4),
    SET(KEYLOCKER, L7, ECX, 23), SET(KEYLOCKER_WIDE, L7, ECX, 23), SET(TSX_LDTRK, L7, EDX, 16),
    SET(SSE4A, LX1, ECX, 6), SET(XOP, LX1, ECX, 11), SET(LWP, LX1, ECX, 15),
    SET(FMA4, LX1, ECX, 16), SET(TBM, LX1, ECX, 21), SET(AMD3DNOW, LX1, EDX, 31),
    SET(CLZERO, LX8, EBX, 0), SET(PADLOCK_ACE, LC1, EDX, 6), SET(PADLOCK_PHE, LC1, EDX, 10),
    SET(PADLOCK_PMM, LC1, EDX, 12), SET(PADLOCK_RNG, LC1, EDX, 2),

    SETS_512(AVX512F, L7, EBX, 16), SET(AVX512F_128N, L7, EBX, 16), SET(AVX512F_SCALAR, L7, EBX, 16),
    SET(AVX512F_KOP, L7, EBX, 16), SETS_512(AVX512DQ, L7, EBX, 17), SET(AVX512DQ_128N, L7, EBX, 17),
    SET(AVX512DQ_SCALAR, L7, EBX, 17), SET(AVX512DQ_KOP, L7, EBX, 17), SETS_512(AVX512_IFMA, L7, EBX, 21),
    SET(AVX512PF_512, L7, EBX, 26), SET(AVX512ER_512, L7, EBX, 27), SET(AVX512ER_SCALAR, L7, EBX, 27),
    SETS_512(AVX512CD, L7, EBX, 28), SETS_512(AVX512BW, L7, EBX, 30), SET(AVX512BW_128N, L7, EBX, 30),
    SET(AVX512BW_KOP, L7, EBX, 30), SETS_512(AVX512_VBMI, L7, ECX, 1), SETS_512(AVX512_VBMI2, L7, ECX, 6),
    SETS_512(AVX512_GFNI, L7, ECX, 8), SETS_512(AVX512_VAES, L7, ECX, 9), SETS_512(AVX512_VPCLMULQDQ, L7, ECX, 10),
    SETS_512(AVX512_VNNI, L7, ECX, 11), SETS_512(AVX512_BITALG, L7, ECX, 12),
    SETS_512(AVX512_VPOPCNTDQ, L7, ECX, 14), SET(AVX512_4VNNIW_512, L7, EDX, 2),
    SET(AVX512_4FMAPS_512, L7, EDX, 3), SET(AVX512_4FMAPS_SCALAR, L7, EDX, 3),
    SETS_512(AVX512_VP2INTERSECT, L7, EDX, 8), SETS_512(AVX512_FP16, L7, EDX, 23),
    SET(AVX512_FP16_128N, L7, EDX, 23), SET(AVX512_FP16_SCALAR, L7, EDX, 23), SETS_512(AVX512_BF16, L7_1, EAX, 5),
};

#define AVX512_XCR0 (X86_XCR0_SSE | X86_XCR0_AVX | X86_XCR0_AVX512)

static bool set_missing[ZYDIS_ISA_SET_MAX_VALUE + 1];
static bool evex_missing, bmi1_missing, vendor_amd;

static bool host_has(struct feature f)
{
    return (host_leaf[f.leaf][f.reg] >> f.bit & 1) != 0;
}

void isa_init(void)
{
    uint32_t max[3] = {__get_cpuid_max(0, NULL), __get_cpuid_max(0x80000000, NULL), __get_cpuid_max(0xc0000000, NULL)};

    for (unsigned i = 0; i < LEAF_COUNT; i++) {
        uint32_t leaf = leaves[i].leaf, *r = host_leaf[i];
        if (leaf <= max[leaf >> 30 == 3 ? 2 : leaf >> 31]) {
            __cpuid_count(leaf, leaves[i].subleaf, r[EAX], r[EBX], r[ECX], r[EDX]);
        }
    }
    for (unsigned i = 0; i < KAGE_ARRAY_SIZE(feature_of); i++) {
        set_missing[i] = feature_of[i].leaf != L0 && !host_has(feature_of[i]);
    }
    bmi1_missing = !host_has((struct feature){L7, EBX, 3});
    evex_missing = !host_has((struct feature){L7, EBX, 16}) || (cpu_host_xcr0() & AVX512_XCR0) != AVX512_XCR0;
    vendor_amd = host_leaf[L0][EBX] == 0x68747541 || host_leaf[L0][EBX] == 0x6f677948; /* "Auth", "Hygo" */
}

bool isa_vendor_amd(void)
{
    return vendor_amd;
}

bool isa_missing(const ZydisDecodedInstruction *z)
{
    switch (z->encoding) {
    case ZYDIS_INSTRUCTION_ENCODING_EVEX:
        if (evex_missing) {
            return true;
        }
        break;
    case ZYDIS_INSTRUCTION_ENCODING_MVEX:
        return true;
    case ZYDIS_INSTRUCTION_ENCODING_VEX:
        if (z->meta.isa_set == ZYDIS_ISA_SET_BMI1) {
            return bmi1_missing;
        }
        if (z->meta.isa_ext == ZYDIS_ISA_EXT_KNC || z->meta.isa_ext == ZYDIS_ISA_EXT_KNCE ||
            z->meta.isa_ext == ZYDIS_ISA_EXT_KNCV) {
            return true;
        }
        if (z->meta.isa_ext == ZYDIS_ISA_EXT_AVX512VEX && evex_missing) {
            return true;
        }
        break;
    default:
        break;
    }
    return set_missing[z->meta.isa_set];
}
