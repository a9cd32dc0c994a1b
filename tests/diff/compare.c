/* SPDX-License-Identifier: MIT */
/*
 * What follows from a case's code (liveness of flags), the comparison of two outcomes, and their
 * printing. Not compared: flags that the manual leaves undefined, RF, the x87 instruction and data
 * pointers (a translator's instructions lie elsewhere), and reserved bytes of the FXSAVE image.
 */
#include "diff.h"

#include <inttypes.h>
#include <string.h>

#define FLAGS_RF 0x10000u
#define FLAGS_V86 0x1a0000u /* VM VIF VIP */
#define EXC_DB 1
#define EXC_BP 3
#define EXC_SS 12
#define EXC_GP 13
#define EXC_PF 14
#define EXC_AC 17
#define PF_P 1u
#define PF_U 4u

static const char *const gpr_names[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                          "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

/* By a count of 0 they leave the flags alone; immediate counts are taken for such too. */
static bool may_keep_flags(uint16_t mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_ROL:
    case ZYDIS_MNEMONIC_ROR:
    case ZYDIS_MNEMONIC_RCL:
    case ZYDIS_MNEMONIC_RCR:
    case ZYDIS_MNEMONIC_SHL:
    case ZYDIS_MNEMONIC_SHR:
    case ZYDIS_MNEMONIC_SAR:
    case ZYDIS_MNEMONIC_SHLD:
    case ZYDIS_MNEMONIC_SHRD:
        return true;
    default:
        return false;
    }
}

bool diff_case_analyse(struct diff_case *c)
{
    ZydisDecodedInstruction insn[DIFF_INSNS_MAX];
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    unsigned n = 0;
    bool no_such = false, any_such = false;

    c->ud_real = false;
    c->reads_undefined = c->not_real = c->not_v86 = false;
    memset(c->flags_undefined, 0, sizeof(c->flags_undefined));
    for (size_t at = 0; at < c->code_len; n++) {
        if (n == DIFF_INSNS_MAX || ZYAN_FAILED(ZydisDecoderDecodeFull(&diff_decoder, c->code + at, c->code_len - at, &insn[n], ops))) {
            if (c->name) /* hand-picked ones may be no instructions at all: that raises #UD */
                break;
            return false;
        }
        c->insn_off[n] = (uint8_t)at;
        c->mnemonic[n] = (uint16_t)insn[n].mnemonic;
        c->repeats_compare[n] = (insn[n].attributes & (ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE)) != 0;
        if (diff_user_only(c->mnemonic[n], (uint8_t)insn[n].meta.category) || (insn[n].attributes & ZYDIS_ATTRIB_IS_PRIVILEGED) ||
            insn[n].meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
            c->user_only = true;
        no_such = diff_not_real(&insn[n]);
        c->ud_real = n == 0 && no_such;
        any_such |= no_such;
        c->not_real |= insn[n].meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
        for (unsigned i = 0; i < insn[n].operand_count; i++) /* real mode writes to code segments */
            if (ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY && ops[i].mem.segment == ZYDIS_REGISTER_CS && (ops[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
                c->not_real = true;
        for (unsigned i = 0; i < insn[n].operand_count; i++)
            if (ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER && ZydisRegisterGetClass(ops[i].reg.value) == ZYDIS_REGCLASS_SEGMENT)
                c->user_only = c->not_real = true;
        at += insn[n].length;
    }
    c->insns = (uint8_t)n;
    c->not_real |= n > 1 && any_such;
    for (unsigned i = 0; i < DIFF_SREGS; i++)
        if (!diff_seg_v86(c->sel[i])) {
            c->not_v86 = true;
            c->not_real |= i == DIFF_CS || i == DIFF_SS || !diff_seg_real(c->sel[i]);
        } else if (i != DIFF_CS) { /* code segments can be written there */
            c->not_real |= diff_seg_find(c->sel[i])->code;
        }

    for (unsigned i = 0; i < n; i++) {
        const ZydisAccessedFlags *f = insn[i].cpu_flags;
        uint32_t undefined = c->flags_undefined[i], read = f ? f->tested & undefined : 0;
        if (read & DIFF_FLAGS_ARITH)
            c->reads_undefined = true;
        if (f)
            undefined = (may_keep_flags(c->mnemonic[i]) ? undefined : undefined & ~(f->modified | f->set_0 | f->set_1)) | f->undefined;
        c->flags_undefined[i + 1] |= (uint16_t)(undefined & DIFF_FLAGS_ARITH);
        /* a forward branch joins somewhere behind */
        if (insn[i].meta.branch_type != ZYDIS_BRANCH_TYPE_NONE)
            for (unsigned j = i + 2; j <= n; j++)
                c->flags_undefined[j] |= (uint16_t)(undefined & DIFF_FLAGS_ARITH);
    }
    uint32_t live = DIFF_FLAGS_ARITH;
    for (unsigned i = n; i-- > 0;) {
        const ZydisAccessedFlags *f = insn[i].cpu_flags;
        if (f)
            live = (live & ~(f->modified | f->set_0 | f->set_1 | f->undefined)) | (f->tested & DIFF_FLAGS_ARITH);
        c->flags_live[i] = (uint16_t)live;
    }
    return n > 0 || c->name;
}

/* Flags to compare, given where the case ended. */
static uint64_t flags_mask(const struct diff_case *c, const struct diff_outcome *host, const struct diff_mode *mode)
{
    uint64_t at = host->out.rip - c->in.rip, mask = ~(uint64_t)FLAGS_RF;

    if (host->vector != EXC_BP && host->vector != EXC_DB)
        for (unsigned i = 0; i < c->insns; i++)
            if (c->insn_off[i] == at) {
                /* a fault in the middle: Intel puts back the flags of before, AMD leaves those of the last element (SDM 2B REP) */
                if (c->repeats_compare[i])
                    mask &= ~(uint64_t)DIFF_FLAGS_ARITH;
                /* flags that the sequence overwrites before it reads them, the faulting instruction first, may be gone already */
                if (!mode->strict)
                    mask &= ~(uint64_t)(DIFF_FLAGS_ARITH & ~c->flags_live[i]);
                return mask & ~(uint64_t)c->flags_undefined[i];
            }
    return mask & ~(uint64_t)c->flags_undefined[c->insns];
}

/* Bytes of the FXSAVE image that count. */
static bool fx_compared(size_t i)
{
    if (i < 5 || (i >= 24 && i < 28))
        return true;
    if (i >= 32 && i < 160)
        return (i & 15) < 10;
    return i >= 160 && i < 416;
}

static uint32_t error_mask(const struct diff_outcome *host, const struct diff_mode *mode)
{
    uint32_t mask = ~0u;

    if (host->vector == EXC_PF) {
        if (mode->env != DIFF_LONG && host->cr2 - DIFF_KERNEL32 < DIFF_KERNEL32_BYTES) /* there is the guest's kernel */
            mask &= ~PF_P;
        if (mode->cpl0)
            mask &= ~PF_U;
        /* Linux tells user code that the kernel's half is mapped, so as not to tell what is */
        if (host->cr2 >= (1ull << 47) - 4096) /* the host keeps a guard page below its own half */
            mask &= ~PF_P;
    }
    return mask;
}

static bool report(FILE *out, const char *what, uint64_t host, uint64_t guest)
{
    if (host == guest)
        return true;
    if (out)
        fprintf(out, "  %-12s host %016" PRIx64 "  guest %016" PRIx64 "\n", what, host, guest);
    return false;
}

static bool report_bytes(FILE *out, const char *what, const uint8_t *host, const uint8_t *guest, size_t len)
{
    if (!memcmp(host, guest, len))
        return true;
    if (out) {
        fprintf(out, "  %-12s host ", what);
        for (size_t i = len; i-- > 0;)
            fprintf(out, "%02x", host[i]);
        fprintf(out, "\n  %-12s guest ", "");
        for (size_t i = len; i-- > 0;)
            fprintf(out, host[i] == guest[i] ? ".." : "%02x", guest[i]);
        fprintf(out, "\n");
    }
    return false;
}

static bool compare_vector(FILE *out, const struct diff_vector *host, const struct diff_vector *guest)
{
    char name[32];
    bool same = true;
    uint8_t a[512], b[512];

    for (size_t i = 0; i < 512; i++) {
        a[i] = fx_compared(i) ? host->fx[i] : 0;
        b[i] = fx_compared(i) ? guest->fx[i] : 0;
    }
    if (memcmp(a, b, sizeof(a))) {
        same = false;
        report_bytes(out, "fcw", a, b, 2);
        report_bytes(out, "fsw", a + 2, b + 2, 2);
        report_bytes(out, "ftw", a + 4, b + 4, 1);
        report_bytes(out, "mxcsr", a + 24, b + 24, 4);
        for (size_t i = 0; i < 8; i++) {
            snprintf(name, sizeof(name), "st(%zu)/mm", i);
            report_bytes(out, name, a + 32 + 16 * i, b + 32 + 16 * i, 10);
        }
        for (size_t i = 0; i < 16; i++) {
            snprintf(name, sizeof(name), "xmm%zu", i);
            report_bytes(out, name, a + 160 + 16 * i, b + 160 + 16 * i, 16);
        }
    }
    for (size_t i = 0; i < 16; i++) {
        snprintf(name, sizeof(name), "ymm%zu.high", i);
        same &= report_bytes(out, name, host->ymmh[i], guest->ymmh[i], 16);
        snprintf(name, sizeof(name), "zmm%zu.high", i);
        same &= report_bytes(out, name, host->zmmh[i], guest->zmmh[i], 32);
        snprintf(name, sizeof(name), "zmm%zu", i + 16);
        same &= report_bytes(out, name, host->hi16[i], guest->hi16[i], 64);
    }
    for (size_t i = 0; i < 8; i++) {
        snprintf(name, sizeof(name), "k%zu", i);
        same &= report(out, name, host->k[i], guest->k[i]);
    }
    return same;
}

/* The host's handler sees null selectors as 0 whatever their RPL: it was returned to with IRET. */
static uint64_t selectors(uint64_t seg)
{
    for (unsigned i = 0; i < 64; i += 16)
        if ((seg >> i & 0xfffc) == 0)
            seg &= ~(0xffffull << i);
    return seg;
}

static bool compare_segments(FILE *out, const struct diff_outcome *host, const struct diff_outcome *guest, const struct diff_mode *mode)
{
    bool same = true;

    if (diff_arch->bits == 64) {
        same &= report(out, "fs base", host->out.fs_base, guest->out.fs_base);
        same &= report(out, "gs base", host->out.gs_base, guest->out.gs_base);
        return report(out, "gs:fs:es:ds", selectors(host->out.seg), selectors(guest->out.seg)) && same;
    }
    if (mode->env >= DIFF_REAL || mode->cpl0) /* other selectors, or other privilege in them: such cases do not change them */
        return true;
    same &= report(out, "gs:fs:es:ds", selectors(host->out.seg), selectors(guest->out.seg));
    same &= report(out, "cs", host->out.cs, guest->out.cs);
    return report(out, "ss", host->out.ss, guest->out.ss) && same;
}

/* The instruction that the host stopped at. */
static bool stopped_at(const struct diff_case *c, const struct diff_outcome *host, ZydisDecodedInstruction *insn)
{
    uint64_t at = host->out.rip - c->in.rip;

    return at < c->code_len && ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&diff_decoder, NULL, c->code + at, c->code_len - at, insn));
}

/* Takes the guest's bytes below the stack pointer. */
static void same_below_stack(struct diff_outcome *same, const struct diff_outcome *guest, unsigned bytes)
{
    const struct diff_seg *ss = diff_seg_find(same->out.ss);

    for (unsigned i = 1; i <= bytes; i++) {
        uint64_t sp = same->out.gpr[4] - i;
        uint64_t at = (diff_arch->bits == 64 ? sp : ((ss && !ss->big ? sp & 0xffff : sp) + (ss ? ss->base : 0)) & 0xffffffff) - DIFF_DATA;
        if (at < DIFF_DATA_COPIES * DIFF_DATA_BYTES)
            same->mem[at % DIFF_DATA_BYTES] = guest->mem[at % DIFF_DATA_BYTES];
    }
}

static bool is_access_fault(uint32_t vector)
{
    return vector == EXC_PF || vector == EXC_GP || vector == EXC_SS;
}

/*
 * More of them, in 16- and 32-bit code, where a host's processor does what others do not, or may do it in its own order:
 * which of two operands is looked at first; whether what is misaligned is so before it is beyond the limit; whether a long
 * operand is one access or several, each cut to 16 bits of address.
 */
static bool legacy_differs_rightly(const struct diff_outcome *host, const struct diff_outcome *guest, const ZydisDecodedInstruction *insn)
{
    bool both = is_access_fault(host->vector) && is_access_fault(guest->vector) && host->out.rip == guest->out.rip;
    bool wraps = insn->address_width == 16 && (guest->vector == EXC_GP || guest->vector == EXC_SS || host->vector == EXC_GP || host->vector == EXC_SS);

    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_CMPSB:
    case ZYDIS_MNEMONIC_CMPSW:
    case ZYDIS_MNEMONIC_CMPSD: /* the string instruction */
        return both && insn->meta.category == ZYDIS_CATEGORY_STRINGOP;
    case ZYDIS_MNEMONIC_LDS:
    case ZYDIS_MNEMONIC_LES:
    case ZYDIS_MNEMONIC_LFS:
    case ZYDIS_MNEMONIC_LGS:
    case ZYDIS_MNEMONIC_LSS:
    case ZYDIS_MNEMONIC_BOUND:
    case ZYDIS_MNEMONIC_FLD: /* of 80 bits */
    case ZYDIS_MNEMONIC_FSTP:
    case ZYDIS_MNEMONIC_FBLD:
    case ZYDIS_MNEMONIC_FBSTP:
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_MASKMOVQ:
    case ZYDIS_MNEMONIC_MASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVDQU:
        return both || wraps;
    case ZYDIS_MNEMONIC_POPA: /* some registers are popped, or none */
    case ZYDIS_MNEMONIC_POPAD:
        return both;
    case ZYDIS_MNEMONIC_CALL:
    case ZYDIS_MNEMONIC_JMP:
    case ZYDIS_MNEMONIC_RET:
    case ZYDIS_MNEMONIC_IRET:
    case ZYDIS_MNEMONIC_IRETD:
        return both && (insn->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR || insn->mnemonic == ZYDIS_MNEMONIC_IRET || insn->mnemonic == ZYDIS_MNEMONIC_IRETD);
    case ZYDIS_MNEMONIC_FLDENV:
    case ZYDIS_MNEMONIC_FRSTOR:
        return both || wraps;
    default: /* misaligned, and beyond the end of the stack's segment */
        return host->vector == EXC_GP && guest->vector == EXC_SS && !guest->error && host->out.rip == guest->out.rip &&
               (insn->meta.isa_ext != ZYDIS_ISA_EXT_BASE && insn->meta.isa_ext != ZYDIS_ISA_EXT_X87);
    }
}

/*
 * Differences that are right. INT1 is a trap, RIP is the next instruction's (SDM 2A INT n, APM 3 INT1),
 * but a hypervisor that intercepts #DB may report the instruction's own. A near CALL of a
 * non-canonical address pushes the return address or not before it faults: that is below RSP. And a far
 * RET to another privilege level takes SS:RSP from the stack before it looks at CS on AMD (APM 3 RETF),
 * after it on Intel (SDM 2B RET): #PF, #AC or #GP.
 */
static bool differs_rightly(const struct diff_case *c, const struct diff_outcome *host, const struct diff_outcome *guest, struct diff_outcome *same)
{
    ZydisDecodedInstruction insn;
    /* where the host has gone on, it is the guest's instruction that matters */
    if (diff_arch->bits != 64 && stopped_at(c, host->out.rip != guest->out.rip ? guest : host, &insn) && legacy_differs_rightly(host, guest, &insn)) {
        *same = *guest;
        return true;
    }
    uint64_t slot = host->out.gpr[4] - 8 - DIFF_DATA;

    if (host->vector == EXC_BP || !stopped_at(c, host, &insn))
        return false;
    if (host->vector == EXC_DB && insn.mnemonic == ZYDIS_MNEMONIC_INT1 && guest->out.rip == host->out.rip + insn.length) {
        *same = *host;
        same->out.rip = guest->out.rip;
        return true;
    }
    if (diff_arch->bits == 64 && host->vector == EXC_GP && insn.mnemonic == ZYDIS_MNEMONIC_CALL && slot <= DIFF_DATA_RW_BYTES - 8) {
        *same = *host;
        memcpy(same->mem + slot, guest->mem + slot, 8);
        return true;
    }
    if ((host->vector == EXC_PF || host->vector == EXC_AC) && guest->vector == EXC_GP && insn.mnemonic == ZYDIS_MNEMONIC_RET &&
        insn.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR) {
        *same = *host;
        same->vector = guest->vector;
        same->error = guest->error;
        same->cr2 = guest->cr2;
        return true;
    }
    /* ENTER may try the new end of the stack as it is, aligned or not */
    if (host->vector == EXC_AC && insn.mnemonic == ZYDIS_MNEMONIC_ENTER) {
        *same = *guest;
        return true;
    }
    /* an image that is not aligned is #GP, or #AC where that is enabled (SDM 2A FXSAVE) */
    if (host->vector == EXC_AC && guest->vector == EXC_GP && (insn.mnemonic == ZYDIS_MNEMONIC_FXRSTOR || insn.mnemonic == ZYDIS_MNEMONIC_FXRSTOR64 ||
                                                              insn.mnemonic == ZYDIS_MNEMONIC_XRSTOR || insn.mnemonic == ZYDIS_MNEMONIC_XRSTOR64)) {
        *same = *host;
        same->vector = guest->vector;
        return true;
    }
    /* outside 64-bit code too, a CALL beyond the segment has pushed or not */
    if (diff_arch->bits != 64 && host->vector == EXC_GP && insn.mnemonic == ZYDIS_MNEMONIC_CALL) {
        *same = *host;
        same_below_stack(same, guest, 4);
        return true;
    }
    /* PUSHA that faults has pushed some registers, or none: that is below the stack pointer */
    if ((host->vector == EXC_PF || host->vector == EXC_SS) && (insn.mnemonic == ZYDIS_MNEMONIC_PUSHA || insn.mnemonic == ZYDIS_MNEMONIC_PUSHAD)) {
        *same = *host;
        same_below_stack(same, guest, 32);
        return true;
    }
    /* the order in which a processor reads the image is its own */
    if (host->vector == EXC_PF && guest->vector == EXC_PF && host->cr2 >> 12 == guest->cr2 >> 12 &&
        (insn.mnemonic == ZYDIS_MNEMONIC_FLDENV || insn.mnemonic == ZYDIS_MNEMONIC_FRSTOR)) {
        *same = *host;
        same->cr2 = guest->cr2;
        return true;
    }
    return false;
}

static bool compare(FILE *out, const struct diff_case *c, const struct diff_outcome *host, const struct diff_outcome *guest,
                    const struct diff_mode *mode)
{
    static struct diff_outcome adjusted;
    bool same = true;

    if (host->status != guest->status) {
        static const char *const names[] = {"never ran", "done", "hangs", "system call", "crash", "refused"};
        if (out)
            fprintf(out, "  host: %s; guest: %s (%#x) %.*s\n", names[host->status], names[guest->status], guest->note,
                    (int)sizeof(guest->text), guest->text);
        return false;
    }
    if (differs_rightly(c, host, guest, &adjusted))
        host = &adjusted;
    uint64_t flags = flags_mask(c, host, mode) & ~(uint64_t)(mode->env > DIFF_REAL ? FLAGS_V86 : 0), gpr_mask = diff_arch->bits == 64 ? ~0ull : 0xffffffff;
    uint32_t error = error_mask(host, mode);
    same &= report(out, "vector", host->vector, guest->vector);
    same &= mode->env == DIFF_REAL || report(out, "error", host->error & error, guest->error & error);
    same &= report(out, "cr2", host->cr2, guest->cr2);
    same &= report(out, "rip", host->out.rip, guest->out.rip);
    same &= report(out, "rflags", host->out.rflags & flags, guest->out.rflags & flags);
    for (size_t i = 0; i < 16; i++)
        if (i < diff_arch->gprs)
            same &= report(out, gpr_names[i], host->out.gpr[i] & gpr_mask, guest->out.gpr[i] & gpr_mask);
    same &= compare_segments(out, host, guest, mode);
    same &= compare_vector(out, &host->vec, &guest->vec);
    static uint8_t mem[DIFF_DATA_BYTES];
    memcpy(mem, guest->mem, sizeof(mem));
    memcpy(mem + guest->frame_off, host->mem + guest->frame_off, guest->frame_len);
    if (memcmp(host->mem, mem, DIFF_DATA_BYTES)) {
        same = false;
        unsigned lines = 0;
        for (size_t i = 0; out && i < DIFF_DATA_BYTES && lines < 8; i += 16)
            if (memcmp(host->mem + i, mem + i, 16)) {
                char name[32];
                snprintf(name, sizeof(name), "[%lx]", (unsigned long)DIFF_DATA + i);
                report_bytes(out, name, host->mem + i, mem + i, 16);
                lines++;
            }
    }
    return same;
}

bool diff_same(const struct diff_case *c, const struct diff_outcome *host, const struct diff_outcome *guest, const struct diff_mode *mode)
{
    return compare(NULL, c, host, guest, mode);
}

void diff_print_difference(FILE *out, const struct diff_case *c, const struct diff_outcome *host, const struct diff_outcome *guest,
                           const struct diff_mode *mode)
{
    fprintf(out, "  host ends with vector %u error %#x at %#" PRIx64 "\n", host->vector, host->error, host->out.rip);
    compare(out, c, host, guest, mode);
}

void diff_print_case(FILE *out, const struct diff_case *c)
{
    ZydisFormatter formatter;
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    char text[160];
    uint32_t mxcsr;

    fprintf(out, "case %u%s%s\n", c->id, c->name ? " " : "", c->name ? c->name : "");
    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    for (size_t at = 0; at < c->code_len; at += insn.length) {
        if (ZYAN_FAILED(ZydisDecoderDecodeFull(&diff_decoder, c->code + at, c->code_len - at, &insn, ops)))
            break;
        ZydisFormatterFormatInstruction(&formatter, &insn, ops, insn.operand_count_visible, text, sizeof(text),
                                        c->in.rip + at, NULL);
        fprintf(out, "  %" PRIx64 "  ", c->in.rip + at);
        for (unsigned i = 0; i < insn.length; i++)
            fprintf(out, "%02x", c->code[at + i]);
        fprintf(out, "%*s %s\n", 24 - 2 * insn.length > 0 ? 24 - 2 * insn.length : 0, "", text);
    }
    for (size_t i = 0; i < 16; i++)
        fprintf(out, "  %-3s %016" PRIx64 "%s", gpr_names[i], c->in.gpr[i], i % 4 == 3 ? "\n" : "");
    if (diff_arch->bits != 64)
        fprintf(out, "  es %x cs %x ss %x ds %x fs %x gs %x\n", c->sel[0], c->sel[1], c->sel[2], c->sel[3], c->sel[4], c->sel[5]);
    memcpy(&mxcsr, c->vec.fx + 24, 4);
    fprintf(out, "  rflags %" PRIx64 "  fs %" PRIx64 "  gs %" PRIx64 "  mxcsr %x  fcw %x  fsw %x  ftw %02x  memory %u\n", c->in.rflags, c->in.fs_base,
            c->in.gs_base, mxcsr, c->vec.fx[0] | c->vec.fx[1] << 8, c->vec.fx[2] | c->vec.fx[3] << 8, c->vec.fx[4], c->mem_template);
}
