/* SPDX-License-Identifier: MIT */
/*
 * First pass of the translator: decodes the guest code of a block, sums up what the second pass
 * wants to know of each instruction, and works out which arithmetic flags are live. Emits nothing.
 */
#include "cpu/translate.h"

#include <errno.h>

#include "cpu/sys.h"
#include "mmu/mmu.h"

#define SCAN_MAX_BYTES 255u
#define SCAN_MAX_JCC 2u

static bool is_high_byte(ZydisRegister reg)
{
    return reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH;
}

static uint8_t gpr_number(ZydisRegister reg)
{
    ZydisRegister big = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);
    return big >= ZYDIS_REGISTER_RAX && big <= ZYDIS_REGISTER_R15 ? (uint8_t)(big - ZYDIS_REGISTER_RAX) : EMIT_NO_REG;
}

/* Shifts and rotates by a count that may be zero leave the flags alone then. */
static bool flags_written_always(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops)
{
    switch (z->mnemonic) {
    case ZYDIS_MNEMONIC_SHL:
    case ZYDIS_MNEMONIC_SHR:
    case ZYDIS_MNEMONIC_SAR:
    case ZYDIS_MNEMONIC_ROL:
    case ZYDIS_MNEMONIC_ROR:
    case ZYDIS_MNEMONIC_RCL:
    case ZYDIS_MNEMONIC_RCR: {
        const ZydisDecodedOperand *count = &ops[1];
        return count->type == ZYDIS_OPERAND_TYPE_IMMEDIATE &&
               (count->imm.value.u & (z->operand_width == 64 ? 63u : 31u)) != 0;
    }
    case ZYDIS_MNEMONIC_SHLD:
    case ZYDIS_MNEMONIC_SHRD: {
        const ZydisDecodedOperand *count = &ops[2];
        return count->type == ZYDIS_OPERAND_TYPE_IMMEDIATE &&
               (count->imm.value.u & (z->operand_width == 64 ? 63u : 31u)) != 0;
    }
    default:
        return true;
    }
}

static void sum_up_flags(struct insn *in, const ZydisDecodedOperand *ops)
{
    const ZydisAccessedFlags *f = in->z.cpu_flags;

    in->flags_read = in->flags_kill = 0;
    if (f != NULL) {
        in->flags_read = f->tested & X86_FLAGS_ARITH;
        in->flags_kill = (f->modified | f->set_0 | f->set_1 | f->undefined) & X86_FLAGS_ARITH;
        if (!flags_written_always(&in->z, ops)) {
            in->flags_kill = 0;
        }
    }
    switch (in->cls) {
    case INSN_COPY:
    case INSN_LEA:
    case INSN_PUSH:
    case INSN_POP:
    case INSN_DROP:
    case INSN_LEAVE:
    case INSN_MOFFS:
    case INSN_CLI:
    case INSN_SWAPGS:
    case INSN_STI:
    case INSN_RDTSC:
    case INSN_BIT_STRING:
    case INSN_STRING:
        break;
    default: /* leaves the block, or C code looks at RFLAGS */
        in->flags_read = X86_FLAGS_ARITH;
        in->flags_kill = 0;
        break;
    }
    if (in->z.mnemonic == ZYDIS_MNEMONIC_CMPXCHG8B || in->z.mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B) {
        in->flags_kill = X86_FLAGS_ZF;
    }
    bool writes = f != NULL && ((f->modified | f->set_0 | f->set_1 | f->undefined) & X86_FLAGS_ARITH) != 0;
    in->flags_written = writes || in->flags_kill != 0;
}

uint64_t trans_rip(const struct trans *t, unsigned i)
{
    uint64_t rip = t->rip + t->insns[i].offset;
    return t->legacy ? (uint32_t)rip : rip;
}

uint64_t trans_next_rip(const struct trans *t, unsigned i)
{
    uint64_t rip = t->rip + t->insns[i].offset + t->insns[i].z.length;
    return t->legacy ? (uint32_t)rip : rip;
}

static uint8_t segment_number(ZydisRegister reg)
{
    return reg >= ZYDIS_REGISTER_ES && reg <= ZYDIS_REGISTER_GS ? (uint8_t)(reg - ZYDIS_REGISTER_ES) : X86_DS;
}

/* A misaligned operand is #GP, before any page fault (SDM 2A 2.4, exception types 1, 2 and 4). */
static bool wants_alignment(const struct insn *in)
{
    switch (in->z.mnemonic) {
    case ZYDIS_MNEMONIC_CMPXCHG16B:
    case ZYDIS_MNEMONIC_CVTPD2PI:
    case ZYDIS_MNEMONIC_CVTTPD2PI:
        return true;
    default:
        break;
    }
    if (in->z.meta.isa_ext == ZYDIS_ISA_EXT_SHA) {
        return false; /* the host decides: AMD's processors do not ask for it */
    }
    switch (in->z.meta.exception_class) {
    case ZYDIS_EXCEPTION_CLASS_SSE1:
    case ZYDIS_EXCEPTION_CLASS_SSE2:
    case ZYDIS_EXCEPTION_CLASS_SSE4:
        break;
    case ZYDIS_EXCEPTION_CLASS_AVX1:
    case ZYDIS_EXCEPTION_CLASS_E1:
    case ZYDIS_EXCEPTION_CLASS_E1NF:
        return true;
    default:
        return false;
    }
    switch (in->z.mnemonic) {
    case ZYDIS_MNEMONIC_MOVUPS:
    case ZYDIS_MNEMONIC_MOVUPD:
    case ZYDIS_MNEMONIC_MOVDQU:
    case ZYDIS_MNEMONIC_LDDQU:
    case ZYDIS_MNEMONIC_PCMPESTRI:
    case ZYDIS_MNEMONIC_PCMPESTRM:
    case ZYDIS_MNEMONIC_PCMPISTRI:
    case ZYDIS_MNEMONIC_PCMPISTRM:
        return false;
    default:
        return in->mem_bytes == 16;
    }
}

static void sum_up_memory(struct insn *in, const ZydisDecodedOperand *op, bool legacy)
{
    in->has_mem = true;
    in->mem_bytes = (uint16_t)(op->size / 8);
    in->mem_read = (op->actions & ZYDIS_OPERAND_ACTION_MASK_READ) != 0;
    in->mem_write = (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
    if (in->z.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && in->z.opcode >= 0xd8 && in->z.opcode <= 0xdf) { /* x87 */
        in->mem_read = true; /* an unmasked exception leaves memory alone: a bounce buffer must hold what was there */
    }
    switch (in->z.mnemonic) {
    case ZYDIS_MNEMONIC_CLFLUSH:
    case ZYDIS_MNEMONIC_CLFLUSHOPT:
    case ZYDIS_MNEMONIC_CLWB: /* of the byte's line, on no other page */
        in->mem_bytes = 1;
        in->line = true;
        break;
    default:
        break;
    }
    in->aligned = wants_alignment(in);
    in->seg = segment_number(op->mem.segment);
    if (legacy && (in->z.attributes & ZYDIS_ATTRIB_HAS_NOTRACK) != 0) {
        in->seg = X86_DS; /* 3E is the override that it always was: Zydis takes it for another prefix */
    }
    in->stack_seg = in->seg == X86_SS;
    if (!legacy && in->seg != X86_FS && in->seg != X86_GS) {
        in->seg = X86_DS;
    }
    in->rip_relative = op->mem.base == ZYDIS_REGISTER_RIP || op->mem.base == ZYDIS_REGISTER_EIP;
    in->base = in->rip_relative ? EMIT_NO_REG : gpr_number(op->mem.base);
    /* SIB with mod 0 and base 5 has no base, with REX.B and VEX.B too: Zydis sees R13D with 32-bit addresses. */
    if (in->z.raw.sib.offset != 0 && in->z.raw.modrm.mod == 0 && in->z.raw.sib.base == 5) {
        in->base = EMIT_NO_REG;
    }
    in->index = gpr_number(op->mem.index);
    in->scale_log2 = op->mem.scale == 8 ? 3 : op->mem.scale == 4 ? 2 : op->mem.scale == 2 ? 1 : 0;
    in->disp = op->mem.disp.has_displacement ? op->mem.disp.value : 0;
    in->addr_bytes = (uint8_t)(in->z.address_width / 8);
}

static void sum_up_operands(struct trans *t, struct insn *in, const ZydisDecodedOperand *ops)
{
    const ZydisDecodedInstruction *z = &in->z;

    in->moved_reg = -1;
    for (unsigned i = 0; i < z->operand_count; i++) {
        const ZydisDecodedOperand *op = &ops[i];
        if (op->type == ZYDIS_OPERAND_TYPE_MEMORY && op->visibility != ZYDIS_OPERAND_VISIBILITY_HIDDEN) {
            sum_up_memory(in, op, t->legacy);
        } else if (op->type == ZYDIS_OPERAND_TYPE_REGISTER) {
            in->high_byte |= is_high_byte(op->reg.value);
            unsigned n = gpr_number(op->reg.value);
            if (n < 16 && (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0) {
                in->gpr_written |= (uint16_t)(1u << n);
            }
            if (n == X86_R10 || n == X86_R11) {
                uint8_t bit = (uint8_t)(1u << (n - X86_R10));
                bool reads = (op->actions & ZYDIS_OPERAND_ACTION_MASK_READ) != 0;
                bool writes = (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
                bool kept = z->mnemonic == ZYDIS_MNEMONIC_BSF || z->mnemonic == ZYDIS_MNEMONIC_BSR; /* of 0: unchanged */
                bool partial = kept || op->size < 32 || (op->actions & ZYDIS_OPERAND_ACTION_CONDWRITE) != 0;
                in->high_read |= reads || (writes && partial) ? bit : 0;
                in->high_write |= writes ? bit : 0;
            }
        }
    }
    uint64_t next = t->rip + in->offset + z->length;
    if (in->rip_relative) {
        in->disp = (int64_t)(next + (uint64_t)in->disp);
        if (in->addr_bytes == 4) {
            in->disp = (int64_t)(uint32_t)in->disp;
        }
    }
    if (ops[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE && ops[0].imm.is_relative) {
        in->target = next + (uint64_t)ops[0].imm.value.s;
        if (t->legacy) { /* 16-bit operands cut IP (SDM 2A, Jcc) */
            in->target = z->operand_width == 16 ? (uint16_t)in->target : (uint32_t)in->target;
            in->target_bad = in->target > t->b->cs_limit;
        }
    }
}

/* Changes of a register by a constant: ADD, SUB and LEA of all of it, PUSH and POP. */
static void sum_up_motion(const struct trans *t, struct insn *in, const ZydisDecodedOperand *ops)
{
    const ZydisDecodedInstruction *z = &in->z;
    int sign = z->mnemonic == ZYDIS_MNEMONIC_SUB ? -1 : 1;
    unsigned width = t->legacy ? 32 : 64;

    switch (z->mnemonic) {
    case ZYDIS_MNEMONIC_ADD:
    case ZYDIS_MNEMONIC_SUB:
        if (z->operand_width == width && ops[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
            ops[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE && ops[1].imm.value.s > -4096 && ops[1].imm.value.s < 4096) {
            in->moved_reg = (int8_t)gpr_number(ops[0].reg.value);
            in->moved = sign * (int32_t)ops[1].imm.value.s;
        }
        break;
    case ZYDIS_MNEMONIC_LEA:
        if (z->operand_width == width && in->addr_bytes * 8u == width && in->index == EMIT_NO_REG && in->base < 16 &&
            in->base == gpr_number(ops[0].reg.value) && in->disp > -4096 && in->disp < 4096) {
            in->moved_reg = (int8_t)in->base;
            in->moved = (int32_t)in->disp;
        }
        break;
    case ZYDIS_MNEMONIC_PUSH:
    case ZYDIS_MNEMONIC_POP:
        in->gpr_written |= 1u << X86_RSP;
        if (z->mnemonic == ZYDIS_MNEMONIC_POP && ops[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
            gpr_number(ops[0].reg.value) == X86_RSP) {
            break;
        }
        if (t->legacy && (t->mode & CPU_MODE_STACK32) == 0) {
            break; /* SP wraps within ESP */
        }
        in->moved_reg = X86_RSP;
        in->moved = (z->operand_width == 16 ? 2 : t->legacy ? 4 : 8) * (z->mnemonic == ZYDIS_MNEMONIC_PUSH ? -1 : 1);
        break;
    default:
        break;
    }
}

static unsigned log2_bytes(unsigned bits)
{
    return bits <= 8 ? 0 : bits == 16 ? 1 : bits == 32 ? 2 : bits == 64 ? 3 : bits == 128 ? 4 : 5;
}

static bool is_far_pointer(const ZydisDecodedInstruction *z)
{
    switch (z->mnemonic) {
    case ZYDIS_MNEMONIC_LDS:
    case ZYDIS_MNEMONIC_LES:
    case ZYDIS_MNEMONIC_LFS:
    case ZYDIS_MNEMONIC_LGS:
    case ZYDIS_MNEMONIC_LSS:
        return true;
    case ZYDIS_MNEMONIC_CALL:
    case ZYDIS_MNEMONIC_JMP:
        return z->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
    default:
        return false;
    }
}

/* The segment override that an instruction without ModRM obeys, or DS. */
static unsigned override_segment(const ZydisDecodedInstruction *z)
{
    static const struct {
        ZydisInstructionAttributes attribute;
        uint8_t seg;
    } overrides[] = {
        {ZYDIS_ATTRIB_HAS_SEGMENT_CS, X86_CS}, {ZYDIS_ATTRIB_HAS_SEGMENT_SS, X86_SS},
        {ZYDIS_ATTRIB_HAS_SEGMENT_DS, X86_DS}, {ZYDIS_ATTRIB_HAS_SEGMENT_ES, X86_ES},
        {ZYDIS_ATTRIB_HAS_SEGMENT_FS, X86_FS}, {ZYDIS_ATTRIB_HAS_SEGMENT_GS, X86_GS},
    };
    unsigned seg = X86_DS;

    for (size_t i = 0; i < KAGE_ARRAY_SIZE(overrides); i++) {
        seg = (z->attributes & overrides[i].attribute) != 0 ? overrides[i].seg : seg;
    }
    if (z->mnemonic == ZYDIS_MNEMONIC_CLZERO) { /* Zydis tells nothing of the segment of rAX */
        static const uint8_t prefix_of[] = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65};
        for (unsigned i = 0; i < z->raw.prefix_count; i++) {
            for (unsigned n = X86_ES; n <= X86_GS; n++) {
                seg = z->raw.prefixes[i].value == prefix_of[n] ? n : seg;
            }
        }
    }
    return seg;
}

static unsigned helper_segment(const struct trans *t, const struct insn *in)
{
    bool modrm = (in->z.attributes & ZYDIS_ATTRIB_HAS_MODRM) != 0 && in->has_mem;

    if (t->legacy) {
        return modrm ? in->seg : override_segment(&in->z);
    }
    unsigned seg = override_segment(&in->z);
    return seg == X86_FS || seg == X86_GS ? seg : in->stack_seg ? X86_SS : X86_DS;
}

/* The segment register that a PUSH or POP names by its opcode: 06 0E 16 1E and their POPs, 0F A0 A1 A8 A9. */
static unsigned pushed_segment(const ZydisDecodedInstruction *z)
{
    if (z->opcode_map == ZYDIS_OPCODE_MAP_0F) {
        return z->opcode >= 0xa8 ? X86_GS : X86_FS;
    }
    return z->opcode >> 3 & 3u;
}

static void fill_helper_arg(const struct trans *t, struct insn *in)
{
    const ZydisDecodedInstruction *z = &in->z;
    unsigned reg = z->raw.modrm.reg, rm = z->raw.modrm.rm;
    unsigned seg = helper_segment(t, in);

    if (z->attributes & ZYDIS_ATTRIB_HAS_REX) {
        reg |= z->raw.rex.R ? 8u : 0u;
        rm |= z->raw.rex.B ? 8u : 0u;
    }
    unsigned rep = (z->attributes & ZYDIS_ATTRIB_HAS_REPNE)                               ? 2
                   : (z->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE)) != 0 ? 1
                                                                                           : 0;
    unsigned imm8 = (unsigned)(z->raw.imm[0].value.u & 0xff);
    if (z->mnemonic == ZYDIS_MNEMONIC_MOV) {
        imm8 = z->opcode; /* which of the system forms */
        if (z->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT) {
            reg &= 7; /* there are no more segment registers: REX.R is ignored */
        }
    } else if (z->mnemonic == ZYDIS_MNEMONIC_PUSH || z->mnemonic == ZYDIS_MNEMONIC_POP) {
        reg = pushed_segment(z);
    }
    if (z->meta.category == ZYDIS_CATEGORY_COND_BR) {
        imm8 = z->opcode;
    }
    bool immediate_port = (z->mnemonic == ZYDIS_MNEMONIC_IN || z->mnemonic == ZYDIS_MNEMONIC_OUT) && z->opcode < 0xe8;
    unsigned width = z->operand_width;
    if (width == 64 && isa_vendor_amd() && is_far_pointer(z)) {
        width = 32; /* AMD has no 64-bit far pointers (APM 3, CALL, JMP, LFS): REX.W is ignored */
    }
    in->helper_arg = reg | rm << 5 | (in->has_mem || immediate_port ? 1u << 10 : 0) | log2_bytes(width) << 11 |
                     log2_bytes(z->address_width) << 14 | seg << 16 | rep << 19 | imm8 << 24;
}

bool insn_ends_block(const struct insn *in)
{
    switch (in->cls) {
    case INSN_CALL:
    case INSN_RET:
    case INSN_JMP:
    case INSN_LOOP:
    case INSN_UD:
        return true;
    case INSN_HELPER:
        return (in->helper_flags & HELPER_ENDS_BLOCK) != 0;
    default:
        return false;
    }
}

static void work_out_liveness(struct trans *t, bool exact)
{
    uint32_t live = X86_FLAGS_ARITH;

    for (unsigned i = t->count; i-- > 0;) {
        struct insn *in = &t->insns[i];
        in->live_out = exact || live != 0;
        if (in->cls == INSN_JCC) {
            live = X86_FLAGS_ARITH; /* the way out of the block */
        }
        live = (live & ~in->flags_kill) | in->flags_read;
        in->live_in = exact || live != 0;
    }
}

static bool is_indirect(const struct insn *in)
{
    return in->cls == INSN_RET || ((in->cls == INSN_CALL || in->cls == INSN_JMP) && !in->z.raw.imm[0].is_relative);
}

/* Does it take a TLB check? */
static bool accesses_memory(const struct insn *in)
{
    switch (in->cls) {
    case INSN_PUSH: case INSN_POP: case INSN_CALL: case INSN_RET: case INSN_LEAVE:
        return true;
    case INSN_LEA: case INSN_DROP:
        return false;
    default:
        return in->has_mem;
    }
}

/*
 * Flags that are live only because nobody knows what comes behind the block are in the way of every check. Where that pays they
 * are parked in cpu->parked on the way to an exit. An indirect exit takes them there; the target mostly writes its own.
 */
static void plan_flags(struct trans *t)
{
    for (unsigned i = 0; i < t->count; i++) {
        if (!t->insns[i].live_in) {
            continue;
        }
        unsigned j = i;
        bool checks = false, leaves = false;
        for (; j < t->count && !leaves; j++) {
            const struct insn *in = &t->insns[j];
            leaves = insn_leaves(in);
            if (!leaves && (in->flags_read != 0 || in->flags_written)) {
                break;
            }
            checks |= accesses_memory(in);
        }
        if (j == t->count) { /* an exit is reached */
            t->insns[i].park = checks || is_indirect(&t->insns[j - 1]);
            return;
        }
        i = j; /* on behind the one that reads or writes them */
    }
}

/* Opcodes that 64-bit code gave to other instructions: ARPL is MOVSXD there, BOUND EVEX, LES and LDS VEX. */
static bool means_another(const ZydisDecodedInstruction *z)
{
    if (z->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY || z->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT) {
        return false;
    }
    return z->opcode == 0x62 || z->opcode == 0x63 || z->opcode == 0xc4 || z->opcode == 0xc5;
}

/* A copy may name memory only where it can be rewritten: in ModRM. Any other would be the host's memory. */
static bool copy_is_safe(const struct trans *t, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops)
{
    if (t->legacy && means_another(z)) {
        return false;
    }
    for (unsigned i = 0; i < z->operand_count; i++) {
        if (ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
            (ops[i].encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM || ops[i].mem.type != ZYDIS_MEMOP_TYPE_MEM)) {
            return false;
        }
    }
    return true;
}

/* Decodes one instruction; false: not decodable with the bytes at hand. */
static bool decode(struct trans *t, struct insn *in, const uint8_t *bytes, unsigned avail, bool *too_short, bool *too_long)
{
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    const ZydisDecoder *decoder = &t->decoders[!t->legacy ? DECODE_64 : (t->mode & CPU_MODE_DB) != 0 ? DECODE_32 : DECODE_16];
    ZyanStatus status = ZydisDecoderDecodeFull(decoder, bytes, avail, &in->z, ops);

    *too_short = status == ZYDIS_STATUS_NO_MORE_DATA;
    *too_long = status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG; /* #GP, not #UD (SDM 2A 2.3.11) */
    if (!ZYAN_SUCCESS(status)) {
        return false;
    }
    in->cls = (uint8_t)classify(t, &in->z, ops, in);
    if (in->cls == INSN_COPY && !copy_is_safe(t, &in->z, ops)) {
        in->cls = INSN_UD;
    }
    sum_up_operands(t, in, ops);
    if (in->target_bad && in->cls != INSN_JCC && in->cls != INSN_HELPER) {
        in->fn = in->cls == INSN_LOOP ? sys_loop : sys_gp;
        in->cls = INSN_HELPER;
        in->helper_flags = HELPER_ENDS_BLOCK;
    }
    sum_up_motion(t, in, ops);
    if (in->cls == INSN_HELPER) {
        fill_helper_arg(t, in);
        if (lower_string_serves(t, in)) {
            in->cls = INSN_STRING;
            in->gpr_written |= 1u << X86_RSI | 1u << X86_RDI; /* Zydis lists them as addresses only */
        }
    }
    sum_up_flags(in, ops);
    return true;
}

/* The bytes of an instruction that goes on in the next page, in t->bytes; it becomes the block's only one. */
static enum scan_result scan_straddling(struct trans *t, struct insn *in, gva_t va, unsigned page_left, unsigned avail,
                                        bool *decoded, bool *too_long)
{
    struct cpu *cpu = t->cpu;
    gva_t next = (va & KAGE_PAGE_MASK) + KAGE_PAGE_SIZE;
    enum mmu_idx idx = (t->mode & CPU_MODE_CPL) == 3 ? MMU_IDX_USER : MMU_IDX_KERNEL;
    bool too_short;
    struct mmu_map map;

    if (t->legacy) {
        next = (uint32_t)next;
    }
    enum mmu_result r = mmu_translate(cpu, next, MMU_FETCH, idx, &map);
    if (r == MMU_FAULT) {
        return SCAN_FAULT;
    }
    int err = r == MMU_OK ? code_page_prepare(cpu, map.gpa, map.hva) : 0;
    if (err == -EAGAIN) {
        return SCAN_AGAIN;
    }
    if (r != MMU_OK || err != 0) {
        return SCAN_EXIT;
    }
    __builtin_memcpy(t->bytes + page_left, map.hva, 15);
    *decoded = decode(t, in, t->bytes, avail, &too_short, too_long);
    if (*decoded && in->z.length > page_left) {
        t->b->gpa2 = map.gpa & KAGE_PAGE_MASK;
        t->second_page = map.hva;
    }
    return SCAN_OK;
}

enum scan_result scan_block(struct trans *t, gva_t va, gpa_t gpa, const uint8_t *host)
{
    struct cpu *cpu = t->cpu;
    unsigned page_left = (unsigned)(KAGE_PAGE_SIZE - (va & (KAGE_PAGE_SIZE - 1)));
    unsigned avail = page_left < SCAN_MAX_BYTES + 15 ? page_left : SCAN_MAX_BYTES + 15;
    uint64_t limit_left = t->legacy ? (uint64_t)t->b->cs_limit - t->rip + 1 : UINT64_MAX; /* RIP is inside */
    uint8_t *code = t->bytes;
    bool single = (t->mode & CPU_MODE_STEP) != 0 || (t->vm->test_flags & CODE_TEST_SINGLE_INSN) != 0;
    unsigned max = single ? 1 : BLOCK_MAX_INSNS;
    unsigned jccs = 0, off = 0;

    (void)gpa;
    __builtin_memcpy(code, host, avail);
    if (limit_left < avail) {
        avail = (unsigned)limit_left;
    }
    t->code = code;
    t->count = 0;
    t->b->gpa2 = 0;
    t->second_page = NULL;

    while (t->count < max && off < SCAN_MAX_BYTES) {
        struct insn *in = &t->insns[t->count];
        bool too_short = false, too_long = false;
        memset(in, 0, sizeof(*in));
        in->offset = (uint8_t)off;
        if (off >= avail || !decode(t, in, code + off, avail - off, &too_short, &too_long)) {
            if (off >= avail || (too_short && t->count > 0)) {
                break; /* the page ends: go on in a block of its own */
            }
            if (too_short && avail == page_left && limit_left > page_left) {
                bool decoded;
                unsigned more = limit_left - page_left < 15 ? (unsigned)(limit_left - page_left) : 15;
                enum scan_result r = scan_straddling(t, in, va, page_left, avail + more, &decoded, &too_long);
                if (r != SCAN_OK) {
                    return r;
                }
                if (decoded) {
                    t->count = 1;
                    off = in->z.length;
                    break;
                }
            }
            if (t->count > 0) {
                break; /* let the good ones run first */
            }
            if (limit_left < 15 && too_short) {
                cpu_raise_gp(cpu, 0); /* the instruction goes beyond CS's limit */
                return SCAN_FAULT;
            }
            in->cls = INSN_UD;
            if (too_long) {
                in->cls = INSN_HELPER;
                in->fn = sys_too_long;
                in->helper_flags = HELPER_ENDS_BLOCK;
            }
            in->z.length = 1;
            in->flags_read = X86_FLAGS_ARITH;
        }
        t->count++;
        off += in->z.length;
        if (in->cls == INSN_JCC && ++jccs > SCAN_MAX_JCC) {
            break;
        }
        if (insn_ends_block(in)) {
            break;
        }
    }
    t->b->guest_len = (uint16_t)off;
    work_out_liveness(t, single);
    plan_flags(t);
    return SCAN_OK;
}
