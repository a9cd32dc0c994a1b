/* SPDX-License-Identifier: MIT */
/*
 * What the test covers: every mnemonic of Zydis is run, or refused here with a reason, or belongs to
 * another mode or machine. One that is none of these is a failure of the test.
 */
#include "diff.h"

#include <stdlib.h>
#include <string.h>

#define EXC_UD 6

#define NONDETERMINISTIC "not deterministic"
#define HOST_KERNEL "enters the host's kernel: guest tests"
#define HOST_UMIP "the host's kernel may emulate it (UMIP): guest tests"
#define HAND_PICKED "hand-picked cases only: its image holds pointers into translated code"
#define WAITS "waits for the host"
#define HYPERVISOR "reaches the host's hypervisor, or needs VMX or SVM: guest tests"
#define NOT_FOR_GUESTS "not given to guests"
#define OWN_CPUID "guests see their own: guest tests"

/* Refused by generated cases; hand-picked ones may have them all the same. */
static const struct {
    uint16_t mnemonic;
    const char *reason;
} refused_mnemonics[] = {
    {ZYDIS_MNEMONIC_CPUID, OWN_CPUID},
    {ZYDIS_MNEMONIC_XGETBV, OWN_CPUID},
    {ZYDIS_MNEMONIC_RDTSC, NONDETERMINISTIC},
    {ZYDIS_MNEMONIC_RDTSCP, NONDETERMINISTIC},
    {ZYDIS_MNEMONIC_RDPMC, NONDETERMINISTIC},
    {ZYDIS_MNEMONIC_RDRAND, NONDETERMINISTIC},
    {ZYDIS_MNEMONIC_RDSEED, NONDETERMINISTIC},
    {ZYDIS_MNEMONIC_RDPID, NONDETERMINISTIC},
    {ZYDIS_MNEMONIC_RDPRU, NONDETERMINISTIC},
    {ZYDIS_MNEMONIC_SYSCALL, HOST_KERNEL},
    {ZYDIS_MNEMONIC_SYSENTER, HOST_KERNEL},
    {ZYDIS_MNEMONIC_SGDT, HOST_UMIP},
    {ZYDIS_MNEMONIC_SIDT, HOST_UMIP},
    {ZYDIS_MNEMONIC_SLDT, HOST_UMIP},
    {ZYDIS_MNEMONIC_STR, HOST_UMIP},
    {ZYDIS_MNEMONIC_SMSW, HOST_UMIP},
    {ZYDIS_MNEMONIC_FXSAVE, HAND_PICKED},
    {ZYDIS_MNEMONIC_FXSAVE64, HAND_PICKED},
    {ZYDIS_MNEMONIC_FNSAVE, HAND_PICKED},
    {ZYDIS_MNEMONIC_FNSTENV, HAND_PICKED},
    {ZYDIS_MNEMONIC_XSAVE, HAND_PICKED},
    {ZYDIS_MNEMONIC_XSAVE64, HAND_PICKED},
    {ZYDIS_MNEMONIC_XSAVEC, HAND_PICKED},
    {ZYDIS_MNEMONIC_XSAVEC64, HAND_PICKED},
    {ZYDIS_MNEMONIC_XSAVEOPT, HAND_PICKED},
    {ZYDIS_MNEMONIC_XSAVEOPT64, HAND_PICKED},
    {ZYDIS_MNEMONIC_MONITORX, WAITS},
    {ZYDIS_MNEMONIC_MWAITX, WAITS},
};

/* The same bytes are VEX or EVEX prefixes there. */
static const uint16_t not_in_64bit[] = {ZYDIS_MNEMONIC_BOUND, ZYDIS_MNEMONIC_LDS, ZYDIS_MNEMONIC_LES};

static const struct {
    uint8_t isa_set;
    const char *reason;
} refused_sets[] = {
    {ZYDIS_ISA_SET_VTX, HYPERVISOR},
    {ZYDIS_ISA_SET_VMFUNC, HYPERVISOR},
    {ZYDIS_ISA_SET_SVM, HYPERVISOR},
    {ZYDIS_ISA_SET_SMX, HYPERVISOR},
    {ZYDIS_ISA_SET_SNP, HYPERVISOR},
    {ZYDIS_ISA_SET_TDX, HYPERVISOR},
    {ZYDIS_ISA_SET_AMD_INVLPGB, HYPERVISOR},
    {ZYDIS_ISA_SET_SGX, NOT_FOR_GUESTS},
    {ZYDIS_ISA_SET_SGX_ENCLV, NOT_FOR_GUESTS},
    {ZYDIS_ISA_SET_PCONFIG, NOT_FOR_GUESTS},
    {ZYDIS_ISA_SET_MCOMMIT, NOT_FOR_GUESTS},
    {ZYDIS_ISA_SET_WAITPKG, NOT_FOR_GUESTS},
    {ZYDIS_ISA_SET_UINTR, NOT_FOR_GUESTS},
    {ZYDIS_ISA_SET_KEYLOCKER, NOT_FOR_GUESTS},
    {ZYDIS_ISA_SET_KEYLOCKER_WIDE, NOT_FOR_GUESTS},
    {ZYDIS_ISA_SET_AMX_BF16, NOT_FOR_GUESTS},
    {ZYDIS_ISA_SET_AMX_INT8, NOT_FOR_GUESTS},
    {ZYDIS_ISA_SET_AMX_TILE, NOT_FOR_GUESTS},
    {ZYDIS_ISA_SET_PKU, NOT_FOR_GUESTS},
    {ZYDIS_ISA_SET_ENQCMD, NOT_FOR_GUESTS},
    {ZYDIS_ISA_SET_HRESET, NOT_FOR_GUESTS},
    {ZYDIS_ISA_SET_PT, NOT_FOR_GUESTS},
    {ZYDIS_ISA_SET_RTM, NOT_FOR_GUESTS},
    {ZYDIS_ISA_SET_TSX_LDTRK, NOT_FOR_GUESTS},
    {ZYDIS_ISA_SET_LWP, NOT_FOR_GUESTS},
    {ZYDIS_ISA_SET_PADLOCK_ACE, NOT_FOR_GUESTS},
    {ZYDIS_ISA_SET_PADLOCK_PHE, NOT_FOR_GUESTS},
    {ZYDIS_ISA_SET_PADLOCK_PMM, NOT_FOR_GUESTS},
    {ZYDIS_ISA_SET_PADLOCK_RNG, NOT_FOR_GUESTS},
    {ZYDIS_ISA_SET_CET, NOT_FOR_GUESTS},
    {ZYDIS_ISA_SET_MPX, NOT_FOR_GUESTS},
    {ZYDIS_ISA_SET_XSAVES, NOT_FOR_GUESTS},
    {ZYDIS_ISA_SET_MONITOR, WAITS},
};

/* In sets that every x86-64 processor has, but #UD at CPL 3, or always. */
static const uint16_t undefined_by_design[] = {
    ZYDIS_MNEMONIC_UD0, ZYDIS_MNEMONIC_UD1, ZYDIS_MNEMONIC_UD2, ZYDIS_MNEMONIC_RSM,
};

static const uint8_t base_sets[] = {
    ZYDIS_ISA_SET_I86,  ZYDIS_ISA_SET_I186, ZYDIS_ISA_SET_I386,       ZYDIS_ISA_SET_I486, ZYDIS_ISA_SET_PPRO,   ZYDIS_ISA_SET_PENTIUMMMX,
    ZYDIS_ISA_SET_X87,  ZYDIS_ISA_SET_SSE,  ZYDIS_ISA_SET_SSE2,       ZYDIS_ISA_SET_CMOV, ZYDIS_ISA_SET_SSE2MMX, ZYDIS_ISA_SET_SSEMXCSR,
    ZYDIS_ISA_SET_FCMOV, ZYDIS_ISA_SET_LONGMODE, ZYDIS_ISA_SET_FXSAVE, ZYDIS_ISA_SET_FXSAVE64,
};

static uint32_t *form_runs, *form_works;
static uint32_t mnemonic_runs[ZYDIS_MNEMONIC_MAX_VALUE + 1], mnemonic_works[ZYDIS_MNEMONIC_MAX_VALUE + 1];
static uint8_t mnemonic_set[ZYDIS_MNEMONIC_MAX_VALUE + 1], mnemonic_category[ZYDIS_MNEMONIC_MAX_VALUE + 1];

const char *diff_refused(uint16_t mnemonic, uint8_t isa_set, uint8_t category)
{
    (void)category;
    for (size_t i = 0; i < sizeof(not_in_64bit) / sizeof(not_in_64bit[0]); i++)
        if (diff_arch->bits == 64 && not_in_64bit[i] == mnemonic)
            return "not in 64-bit mode";
    for (size_t i = 0; i < sizeof(refused_mnemonics) / sizeof(refused_mnemonics[0]); i++)
        if (refused_mnemonics[i].mnemonic == mnemonic)
            return refused_mnemonics[i].reason;
    for (size_t i = 0; i < sizeof(refused_sets) / sizeof(refused_sets[0]); i++)
        if (refused_sets[i].isa_set == isa_set)
            return refused_sets[i].reason;
    return NULL;
}

/* Something else, or something bad, at CPL 0. */
bool diff_user_only(uint16_t mnemonic, uint8_t category)
{
    switch (category) {
    case ZYDIS_CATEGORY_SYSTEM:
    case ZYDIS_CATEGORY_IO:
    case ZYDIS_CATEGORY_IOSTRINGOP:
    case ZYDIS_CATEGORY_INTERRUPT:
    case ZYDIS_CATEGORY_SEGOP:
    case ZYDIS_CATEGORY_SYSCALL:
    case ZYDIS_CATEGORY_SYSRET:
    case ZYDIS_CATEGORY_SMAP:
        return true;
    default:
        break;
    }
    return mnemonic == ZYDIS_MNEMONIC_CLI || mnemonic == ZYDIS_MNEMONIC_STI || mnemonic == ZYDIS_MNEMONIC_POPF ||
           mnemonic == ZYDIS_MNEMONIC_POPFD || mnemonic == ZYDIS_MNEMONIC_POPFQ || mnemonic == ZYDIS_MNEMONIC_IRET || mnemonic == ZYDIS_MNEMONIC_IRETD ||
           mnemonic == ZYDIS_MNEMONIC_IRETQ;
}

/* Real and virtual-8086 mode know no selectors, and no VEX. */
bool diff_not_real(const ZydisDecodedInstruction *insn)
{
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_ARPL:
    case ZYDIS_MNEMONIC_LAR:
    case ZYDIS_MNEMONIC_LSL:
    case ZYDIS_MNEMONIC_VERR:
    case ZYDIS_MNEMONIC_VERW:
    case ZYDIS_MNEMONIC_LLDT:
    case ZYDIS_MNEMONIC_LTR:
        return true;
    default:
        return insn->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY && insn->encoding != ZYDIS_INSTRUCTION_ENCODING_3DNOW;
    }
}

/* Encodings that Intel and AMD are known to take differently: the engine takes one side, whatever the host. */
bool diff_vendor_specific(const ZydisDecodedInstruction *insn)
{
    bool near_branch = insn->meta.branch_type == ZYDIS_BRANCH_TYPE_NEAR || insn->meta.branch_type == ZYDIS_BRANCH_TYPE_SHORT;

    /* 66 on a near branch: AMD cuts RIP to 16 bits, Intel ignores it */
    return diff_arch->bits == 64 && near_branch && (insn->attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE);
}

int diff_cover_init(void)
{
    form_runs = calloc(diff_form_count, sizeof(*form_runs));
    form_works = calloc(diff_form_count, sizeof(*form_works));
    if (!form_runs || !form_works)
        return -1;
    /* the first form of a mnemonic is its oldest: SSE before AVX before AVX-512 */
    for (size_t i = diff_form_count; i-- > 0;) {
        mnemonic_set[diff_forms[i].mnemonic] = diff_forms[i].isa_set;
        mnemonic_category[diff_forms[i].mnemonic] = diff_forms[i].category;
    }
    return 0;
}

void diff_cover_case(const struct diff_case *c, const struct diff_outcome *host)
{
    bool works = host->vector != EXC_UD;

    if (c->form != UINT32_MAX) {
        form_runs[c->form]++;
        form_works[c->form] += works;
    }
    for (unsigned i = 0; i < c->insns; i++) {
        mnemonic_runs[c->mnemonic[i]]++;
        mnemonic_works[c->mnemonic[i]] += works;
    }
}

bool diff_form_tried(uint32_t form)
{
    return form_runs[form] > 0;
}

bool diff_form_works(uint32_t form)
{
    return form_works[form] > 0;
}

static bool is_base(uint16_t mnemonic)
{
    if (memchr(base_sets, mnemonic_set[mnemonic], sizeof(base_sets)) == NULL)
        return false;
    for (size_t i = 0; i < sizeof(undefined_by_design) / sizeof(undefined_by_design[0]); i++)
        if (undefined_by_design[i] == mnemonic)
            return false;
    return true;
}

struct tally {
    unsigned mnemonics, covered, undefined, refused;
    unsigned long runs;
};

static void print_tallies(FILE *out, const char *title, const struct tally *t, size_t count, const char *(*name)(size_t))
{
    fprintf(out, "%-24s %9s %9s %9s %9s %9s\n", title, "mnemonics", "covered", "#UD here", "refused", "runs");
    for (size_t i = 0; i < count; i++)
        if (t[i].mnemonics)
            fprintf(out, "%-24s %9u %9u %9u %9u %9lu\n", name(i), t[i].mnemonics, t[i].covered, t[i].undefined, t[i].refused, t[i].runs);
}

static const char *set_name(size_t i)
{
    return ZydisISASetGetString((ZydisISASet)i);
}

static const char *category_name(size_t i)
{
    return ZydisCategoryGetString((ZydisInstructionCategory)i);
}

unsigned diff_cover_report(FILE *out, bool verbose, bool complete)
{
    static struct tally sets[ZYDIS_ISA_SET_MAX_VALUE + 1], categories[ZYDIS_CATEGORY_MAX_VALUE + 1];
    struct tally all = {0};
    unsigned missing = 0, elsewhere = 0, forms_run = 0;

    for (uint16_t m = 1; m <= ZYDIS_MNEMONIC_MAX_VALUE; m++) {
        const char *name = ZydisMnemonicGetString((ZydisMnemonic)m), *reason = diff_refused(m, mnemonic_set[m], mnemonic_category[m]);
        struct tally *counted[] = {&all, &sets[mnemonic_set[m]], &categories[mnemonic_category[m]]};
        bool covered = mnemonic_works[m] > 0, undefined = !covered && mnemonic_runs[m] > 0 && !is_base(m);

        if (!mnemonic_set[m] && !reason)
            reason = diff_elsewhere[m];
        for (size_t i = 0; i < 3; i++) {
            counted[i]->mnemonics++;
            counted[i]->runs += mnemonic_runs[m];
            counted[i]->covered += covered;
            counted[i]->undefined += undefined;
            counted[i]->refused += !covered && !undefined && reason;
        }
        elsewhere += !mnemonic_set[m];
        if (verbose && !covered && (undefined || reason))
            fprintf(out, "  %-16s %s\n", name, undefined ? "#UD on this host" : reason);
        if (!covered && !undefined && !reason && complete) {
            fprintf(out, "not covered, and no reason given: %s%s\n", name, mnemonic_runs[m] ? " (always #UD)" : "");
            missing++;
        }
    }
    for (size_t i = 0; i < diff_form_count; i++)
        forms_run += form_runs[i] > 0;
    sets[0] = categories[0] = (struct tally){0};
    if (verbose) {
        print_tallies(out, "ISA set", sets, ZYDIS_ISA_SET_MAX_VALUE + 1, set_name);
        print_tallies(out, "category", categories, ZYDIS_CATEGORY_MAX_VALUE + 1, category_name);
    }
    fprintf(out, "coverage: %u mnemonics: %u run, %u raise #UD on this host, %u refused (%u of other modes and machines), ", all.mnemonics,
            all.covered, all.undefined, all.refused, elsewhere);
    if (complete)
        fprintf(out, "%u missing; ", missing);
    fprintf(out, "%u of %zu encoding forms\n", forms_run, diff_form_count);
    return missing;
}
