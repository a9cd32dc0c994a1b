/* SPDX-License-Identifier: MIT */
/*
 * Which way each instruction is carried over. Everything that Zydis decodes and that is not named
 * here or in cpu_helper_table is copied: the host processor decides what it does, and its #UD is
 * the guest's. Instructions that act on the whole machine must be named: a copy would act on ours.
 */
#include "cpu/sys.h"
#include "cpu/translate.h"

#define M(name) ZYDIS_MNEMONIC_##name
#define JCC(name) [M(name)] = INSN_JCC

static const uint8_t class_of[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {
    [M(NOP)] = INSN_DROP, [M(PREFETCH)] = INSN_DROP, [M(PREFETCHNTA)] = INSN_DROP, [M(PREFETCHT0)] = INSN_DROP,
    [M(PREFETCHT1)] = INSN_DROP, [M(PREFETCHT2)] = INSN_DROP, [M(PREFETCHW)] = INSN_DROP,
    [M(PREFETCHWT1)] = INSN_DROP, [M(ENDBR32)] = INSN_DROP, [M(ENDBR64)] = INSN_DROP, [M(CLDEMOTE)] = INSN_DROP,
    [M(FENI8087_NOP)] = INSN_DROP, [M(FDISI8087_NOP)] = INSN_DROP, [M(FSETPM287_NOP)] = INSN_DROP,
    /* Shadow stacks are not offered: these are NOPs then. */
    [M(RDSSPD)] = INSN_DROP, [M(RDSSPQ)] = INSN_DROP,

    [M(LEA)] = INSN_LEA, [M(PUSH)] = INSN_PUSH, [M(POP)] = INSN_POP, [M(CALL)] = INSN_CALL, [M(RET)] = INSN_RET,
    [M(JMP)] = INSN_JMP, [M(LEAVE)] = INSN_LEAVE,
    JCC(JB), JCC(JBE), JCC(JL), JCC(JLE), JCC(JNB), JCC(JNBE), JCC(JNL), JCC(JNLE), JCC(JNO), JCC(JNP), JCC(JNS),
    JCC(JNZ), JCC(JO), JCC(JP), JCC(JS), JCC(JZ),
    [M(LOOP)] = INSN_LOOP, [M(LOOPE)] = INSN_LOOP, [M(LOOPNE)] = INSN_LOOP, [M(JRCXZ)] = INSN_LOOP,
    [M(JECXZ)] = INSN_LOOP, [M(JCXZ)] = INSN_LOOP,
    [M(BT)] = INSN_BIT_STRING, [M(BTS)] = INSN_BIT_STRING, [M(BTR)] = INSN_BIT_STRING, [M(BTC)] = INSN_BIT_STRING,
    [M(CLI)] = INSN_CLI, [M(SWAPGS)] = INSN_SWAPGS,
    [M(STI)] = INSN_STI, [M(RDTSC)] = INSN_RDTSC,

    /* Not offered in CPUID, or without meaning outside what we carry. */
    [M(VMXON)] = INSN_UD, [M(VMXOFF)] = INSN_UD, [M(VMLAUNCH)] = INSN_UD, [M(VMRESUME)] = INSN_UD,
    [M(VMPTRLD)] = INSN_UD, [M(VMPTRST)] = INSN_UD, [M(VMCLEAR)] = INSN_UD, [M(VMREAD)] = INSN_UD,
    [M(VMWRITE)] = INSN_UD, [M(VMFUNC)] = INSN_UD, [M(INVEPT)] = INSN_UD, [M(INVVPID)] = INSN_UD,
    [M(VMRUN)] = INSN_UD, [M(VMLOAD)] = INSN_UD, [M(VMSAVE)] = INSN_UD, [M(CLGI)] = INSN_UD, [M(STGI)] = INSN_UD,
    [M(SKINIT)] = INSN_UD, [M(INVLPGA)] = INSN_UD, [M(INVLPGB)] = INSN_UD, [M(TLBSYNC)] = INSN_UD,
    [M(RMPADJUST)] = INSN_UD, [M(RMPUPDATE)] = INSN_UD, [M(PVALIDATE)] = INSN_UD, [M(PSMASH)] = INSN_UD,
    [M(GETSEC)] = INSN_UD, [M(ENCLS)] = INSN_UD, [M(ENCLU)] = INSN_UD, [M(ENCLV)] = INSN_UD, [M(RSM)] = INSN_UD,
    [M(PCONFIG)] = INSN_UD, [M(RDPRU)] = INSN_UD, [M(MCOMMIT)] = INSN_UD, [M(RDPKRU)] = INSN_UD,
    [M(WRPKRU)] = INSN_UD, [M(XBEGIN)] = INSN_UD, [M(XEND)] = INSN_UD, [M(XABORT)] = INSN_UD, [M(XTEST)] = INSN_UD,
    [M(UMONITOR)] = INSN_UD, [M(UMWAIT)] = INSN_UD, [M(TPAUSE)] = INSN_UD, [M(MONITORX)] = INSN_UD,
    [M(MWAITX)] = INSN_UD, [M(ENQCMD)] = INSN_UD, [M(ENQCMDS)] = INSN_UD, [M(MOVDIR64B)] = INSN_UD,
    [M(SENDUIPI)] = INSN_UD, [M(UIRET)] = INSN_UD, [M(CLUI)] = INSN_UD, [M(STUI)] = INSN_UD, [M(TESTUI)] = INSN_UD,
    [M(HRESET)] = INSN_UD, [M(LOADIWKEY)] = INSN_UD, [M(SEAMCALL)] = INSN_UD, [M(SEAMRET)] = INSN_UD,
    [M(SEAMOPS)] = INSN_UD, [M(TDCALL)] = INSN_UD, [M(XRSTORS)] = INSN_UD, [M(XRSTORS64)] = INSN_UD,
    [M(XSAVES)] = INSN_UD, [M(XSAVES64)] = INSN_UD, [M(LLWPCB)] = INSN_UD, [M(SLWPCB)] = INSN_UD,
    [M(LWPINS)] = INSN_UD, [M(LWPVAL)] = INSN_UD, [M(INCSSPD)] = INSN_UD, [M(INCSSPQ)] = INSN_UD,
    [M(RSTORSSP)] = INSN_UD, [M(SAVEPREVSSP)] = INSN_UD, [M(SETSSBSY)] = INSN_UD, [M(CLRSSBSY)] = INSN_UD,
    [M(WRSSD)] = INSN_UD, [M(WRSSQ)] = INSN_UD, [M(WRUSSD)] = INSN_UD, [M(WRUSSQ)] = INSN_UD,
    [M(BNDCL)] = INSN_DROP, [M(BNDCN)] = INSN_DROP, [M(BNDCU)] = INSN_DROP, [M(BNDLDX)] = INSN_DROP,
    [M(BNDMK)] = INSN_DROP, [M(BNDMOV)] = INSN_DROP, [M(BNDSTX)] = INSN_DROP,
    [M(LDTILECFG)] = INSN_UD, [M(STTILECFG)] = INSN_UD, [M(TILELOADD)] = INSN_UD, [M(TILELOADDT1)] = INSN_UD,
    [M(TILESTORED)] = INSN_UD, [M(TILERELEASE)] = INSN_UD, [M(TILEZERO)] = INSN_UD,
    [M(UD0)] = INSN_UD, [M(UD1)] = INSN_UD,
    [M(UD2)] = INSN_UD, [M(XRESLDTRK)] = INSN_UD, [M(XSUSLDTRK)] = INSN_UD,
    [M(PTWRITE)] = INSN_UD, [M(V4FMADDPS)] = INSN_UD, [M(V4FMADDSS)] = INSN_UD, [M(V4FNMADDPS)] = INSN_UD,
    [M(V4FNMADDSS)] = INSN_UD, [M(VP4DPWSSD)] = INSN_UD, [M(VP4DPWSSDS)] = INSN_UD,
};

static uint16_t helper_of[ZYDIS_MNEMONIC_MAX_VALUE + 1]; /* index + 1 into cpu_helper_table */

void classify_init(void)
{
    for (size_t i = 0; i < cpu_helper_table_len; i++) {
        helper_of[cpu_helper_table[i].mnemonic] = (uint16_t)(i + 1);
    }
    isa_init();
}

static bool is_segment_register(ZydisRegister reg)
{
    return ZydisRegisterGetClass(reg) == ZYDIS_REGCLASS_SEGMENT;
}

static enum insn_class use_helper(struct insn *in, cpu_helper *fn, uint32_t flags)
{
    in->fn = fn;
    in->helper_flags = flags;
    return INSN_HELPER;
}

/* MOV has forms that touch control, debug and segment registers; PUSH and POP those of FS and GS. */
static enum insn_class classify_mov(const ZydisDecodedInstruction *z, struct insn *in)
{
    if (z->opcode_map == ZYDIS_OPCODE_MAP_0F) {
        switch (z->opcode) {
        case 0x20:
        case 0x21:
            return use_helper(in, sys_mov_system, 0);
        case 0x22:
        case 0x23:
            return use_helper(in, sys_mov_system, HELPER_ENDS_BLOCK);
        default:
            return INSN_UD; /* test registers */
        }
    }
    if (z->opcode == 0x8c) {
        return use_helper(in, sys_mov_system, 0);
    }
    if (z->opcode == 0x8e) {
        return use_helper(in, sys_mov_system, HELPER_ENDS_BLOCK);
    }
    return z->opcode >= 0xa0 && z->opcode <= 0xa3 ? INSN_MOFFS : INSN_COPY;
}

static enum insn_class classify_far(const ZydisDecodedInstruction *z, struct insn *in)
{
    cpu_helper *fn = z->mnemonic == M(CALL) ? sys_call_far : z->mnemonic == M(JMP) ? sys_jmp_far : sys_ret_far;
    return use_helper(in, fn, HELPER_ENDS_BLOCK);
}

/* LOOP and its kin count in CX: the host's 64-bit code cannot. */
static bool counts_in_cx(const struct trans *t, const ZydisDecodedInstruction *z)
{
    return t->legacy && z->address_width == 16 && (enum insn_class)class_of[z->mnemonic] == INSN_LOOP;
}

enum insn_class classify(const struct trans *t, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops, struct insn *in)
{
    if (isa_missing(z) ||
        (t->legacy && (t->mode & CPU_MODE_PROTECTED) == 0 && z->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
         z->encoding != ZYDIS_INSTRUCTION_ENCODING_3DNOW)) { /* no VEX in real and virtual-8086 mode (SDM 2A 2.3.1) */
        return INSN_UD;
    }
    if (counts_in_cx(t, z)) {
        return use_helper(in, sys_loop, HELPER_ENDS_BLOCK);
    }
    switch (z->mnemonic) {
    case M(MOV):
        return classify_mov(z, in);
    case M(NOP): /* PREFETCH of a register is no instruction to AMD, and a NOP to Intel */
        return z->opcode == 0x0d && z->opcode_map == ZYDIS_OPCODE_MAP_0F && z->raw.modrm.mod == 3 ? INSN_COPY : INSN_DROP;
    case M(PAUSE): /* with REX.B it is XCHG of R8 and rAX */
        if ((z->attributes & ZYDIS_ATTRIB_HAS_REX) != 0 && z->raw.rex.B) {
            return INSN_COPY;
        }
        break;
    case M(CLD): /* the block's mode has DF */
    case M(STD):
        if (((t->mode & CPU_MODE_DF) != 0) == (z->mnemonic == M(STD))) {
            return INSN_DROP;
        }
        break;
    case M(PUSH):
    case M(POP):
        if (ops[0].type == ZYDIS_OPERAND_TYPE_REGISTER && is_segment_register(ops[0].reg.value)) {
            return use_helper(in, z->mnemonic == M(PUSH) ? sys_push_sreg : sys_pop_sreg,
                              z->mnemonic == M(POP) ? HELPER_ENDS_BLOCK : 0);
        }
        return z->mnemonic == M(PUSH) ? INSN_PUSH : INSN_POP;
    case M(CALL):
    case M(JMP):
    case M(RET):
        if (z->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR) {
            return classify_far(z, in);
        }
        break;
    case M(BT):
    case M(BTS):
    case M(BTR):
    case M(BTC):
        return ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY && ops[1].type == ZYDIS_OPERAND_TYPE_REGISTER
                   ? INSN_BIT_STRING
                   : INSN_COPY;
    case M(MOVSD):
    case M(CMPSD):
        if (z->meta.category != ZYDIS_CATEGORY_STRINGOP) {
            return INSN_COPY;
        }
        break;
    default:
        break;
    }
    unsigned h = helper_of[z->mnemonic];
    if (h != 0 && class_of[z->mnemonic] == INSN_COPY) {
        in->helper = &cpu_helper_table[h - 1];
        return use_helper(in, in->helper->fn, in->helper->flags);
    }
    return (enum insn_class)class_of[z->mnemonic];
}
