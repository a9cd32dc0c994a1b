/* SPDX-License-Identifier: MIT */
/*
 * First pass of the translator: decodes the guest code of a block, sums up what the second pass
 * wants to know of each instruction, and works out which arithmetic flags are live. Emits nothing.
 */
#include "cpu/translate.h"

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
    case INSN_BIT_STRING:
        break;
    default: /* leaves the block, or C code looks at RFLAGS */
        in->flags_read = X86_FLAGS_ARITH;
        in->flags_kill = 0;
        break;
    }
    if (in->z.mnemonic == ZYDIS_MNEMONIC_CMPXCHG8B || in->z.mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B) {
        in->flags_kill = X86_FLAGS_ZF;
    }
}

static void sum_up_memory(struct insn *in, const ZydisDecodedOperand *op)
{
    in->has_mem = true;
    in->mem_bytes = (uint16_t)(op->size / 8);
    in->mem_read = (op->actions & ZYDIS_OPERAND_ACTION_MASK_READ) != 0;
    in->mem_write = (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
    in->seg = op->mem.segment == ZYDIS_REGISTER_FS   ? X86_FS
              : op->mem.segment == ZYDIS_REGISTER_GS ? X86_GS
                                                     : X86_DS;
    in->stack_seg = op->mem.segment == ZYDIS_REGISTER_SS;
    in->rip_relative = op->mem.base == ZYDIS_REGISTER_RIP || op->mem.base == ZYDIS_REGISTER_EIP;
    in->base = in->rip_relative ? EMIT_NO_REG : gpr_number(op->mem.base);
    in->index = gpr_number(op->mem.index);
    in->scale_log2 = op->mem.scale == 8 ? 3 : op->mem.scale == 4 ? 2 : op->mem.scale == 2 ? 1 : 0;
    in->disp = op->mem.disp.has_displacement ? op->mem.disp.value : 0;
    in->addr32 = in->z.address_width == 32;
}

static void sum_up_operands(struct trans *t, struct insn *in, const ZydisDecodedOperand *ops)
{
    const ZydisDecodedInstruction *z = &in->z;

    for (unsigned i = 0; i < z->operand_count; i++) {
        const ZydisDecodedOperand *op = &ops[i];
        if (op->type == ZYDIS_OPERAND_TYPE_MEMORY && op->visibility != ZYDIS_OPERAND_VISIBILITY_HIDDEN) {
            sum_up_memory(in, op);
        } else if (op->type == ZYDIS_OPERAND_TYPE_REGISTER) {
            in->high_byte |= is_high_byte(op->reg.value);
            unsigned n = gpr_number(op->reg.value);
            if (n == X86_R10 || n == X86_R11) {
                uint8_t bit = (uint8_t)(1u << (n - X86_R10));
                bool reads = (op->actions & ZYDIS_OPERAND_ACTION_MASK_READ) != 0;
                bool writes = (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
                bool partial = op->size < 32 || (op->actions & ZYDIS_OPERAND_ACTION_CONDWRITE) != 0;
                in->high_read |= reads || (writes && partial) ? bit : 0;
                in->high_write |= writes ? bit : 0;
            }
        }
    }
    if (in->rip_relative) {
        uint64_t next = t->b->va + in->offset + z->length;
        in->disp = (int64_t)(next + (uint64_t)in->disp);
        if (in->addr32) {
            in->disp = (int64_t)(uint32_t)in->disp;
        }
    }
    if (ops[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE && ops[0].imm.is_relative) {
        in->target = t->b->va + in->offset + z->length + (uint64_t)ops[0].imm.value.s;
    }
}

static unsigned log2_bytes(unsigned bits)
{
    return bits <= 8 ? 0 : bits == 16 ? 1 : bits == 32 ? 2 : bits == 64 ? 3 : bits == 128 ? 4 : 5;
}

static void fill_helper_arg(struct insn *in)
{
    const ZydisDecodedInstruction *z = &in->z;
    unsigned reg = z->raw.modrm.reg, rm = z->raw.modrm.rm;
    unsigned seg = X86_DS;

    if (z->attributes & ZYDIS_ATTRIB_HAS_REX) {
        reg |= z->raw.rex.R ? 8u : 0u;
        rm |= z->raw.rex.B ? 8u : 0u;
    }
    if (z->attributes & ZYDIS_ATTRIB_HAS_SEGMENT_FS) {
        seg = X86_FS;
    } else if (z->attributes & ZYDIS_ATTRIB_HAS_SEGMENT_GS) {
        seg = X86_GS;
    }
    unsigned rep = (z->attributes & ZYDIS_ATTRIB_HAS_REPNE)                               ? 2
                   : (z->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE)) != 0 ? 1
                                                                                           : 0;
    unsigned imm8 = (unsigned)(z->raw.imm[0].value.u & 0xff);
    if (z->mnemonic == ZYDIS_MNEMONIC_MOV) {
        imm8 = z->opcode; /* which of the system forms */
    } else if (z->mnemonic == ZYDIS_MNEMONIC_PUSH || z->mnemonic == ZYDIS_MNEMONIC_POP) {
        reg = z->opcode >= 0xa8 ? X86_GS : X86_FS;
    }
    bool immediate_port = (z->mnemonic == ZYDIS_MNEMONIC_IN || z->mnemonic == ZYDIS_MNEMONIC_OUT) && z->opcode < 0xe8;
    in->helper_arg = reg | rm << 5 | (in->has_mem || immediate_port ? 1u << 10 : 0) | log2_bytes(z->operand_width) << 11 |
                     log2_bytes(z->address_width) << 14 | seg << 16 | rep << 19 | imm8 << 24;
}

static bool ends_block(const struct insn *in)
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

/* Decodes one instruction; false: not decodable with the bytes at hand. */
static bool decode(struct trans *t, struct insn *in, const uint8_t *bytes, unsigned avail, bool *too_short)
{
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    ZyanStatus status = ZydisDecoderDecodeFull(&t->decoder, bytes, avail, &in->z, ops);

    *too_short = status == ZYDIS_STATUS_NO_MORE_DATA;
    if (!ZYAN_SUCCESS(status)) {
        return false;
    }
    in->cls = (uint8_t)classify(&in->z, ops, in);
    sum_up_operands(t, in, ops);
    sum_up_flags(in, ops);
    if (in->cls == INSN_HELPER) {
        fill_helper_arg(in);
    }
    return true;
}

enum scan_result scan_block(struct trans *t, gva_t va, gpa_t gpa, const uint8_t *host)
{
    struct cpu *cpu = t->cpu;
    unsigned page_left = (unsigned)(KAGE_PAGE_SIZE - (va & (KAGE_PAGE_SIZE - 1)));
    unsigned avail = page_left < SCAN_MAX_BYTES + 15 ? page_left : SCAN_MAX_BYTES + 15;
    uint8_t *code = t->bytes;
    bool single = (t->mode & CPU_MODE_STEP) != 0 || (t->vm->test_flags & CODE_TEST_SINGLE_INSN) != 0;
    unsigned max = single ? 1 : BLOCK_MAX_INSNS;
    unsigned jccs = 0, off = 0;

    (void)gpa;
    __builtin_memcpy(code, host, avail);
    t->code = code;
    t->count = 0;
    t->b->gpa2 = 0;

    while (t->count < max && off < SCAN_MAX_BYTES) {
        struct insn *in = &t->insns[t->count];
        bool too_short = false;
        memset(in, 0, sizeof(*in));
        in->offset = (uint8_t)off;
        if (off >= avail || !decode(t, in, code + off, avail - off, &too_short)) {
            if (off >= avail || (too_short && t->count > 0)) {
                break; /* the page ends: go on in a block of its own */
            }
            if (too_short && avail == page_left) {
                struct mmu_map map;
                gva_t next = (va & KAGE_PAGE_MASK) + KAGE_PAGE_SIZE;
                enum mmu_idx idx = (t->mode & CPU_MODE_CPL) == 3 ? MMU_IDX_USER : MMU_IDX_KERNEL;
                enum mmu_result r = mmu_translate(cpu, next, MMU_FETCH, idx, &map);
                if (r == MMU_FAULT) {
                    return SCAN_FAULT;
                }
                if (r != MMU_OK || code_page_prepare(cpu, map.gpa, map.hva) != 0) {
                    return SCAN_EXIT;
                }
                __builtin_memcpy(code + avail, map.hva, 15);
                if (decode(t, in, code, avail + 15, &too_short)) {
                    t->b->gpa2 = map.gpa & KAGE_PAGE_MASK;
                    t->count = 1;
                    off = in->z.length;
                    break;
                }
            }
            if (t->count > 0) {
                break; /* let the good ones run first */
            }
            in->cls = INSN_UD;
            in->z.length = 1;
            in->flags_read = X86_FLAGS_ARITH;
        }
        t->count++;
        off += in->z.length;
        if (in->cls == INSN_JCC && ++jccs > SCAN_MAX_JCC) {
            break;
        }
        if (ends_block(in)) {
            break;
        }
    }
    t->b->guest_len = (uint16_t)off;
    work_out_liveness(t, single);
    return SCAN_OK;
}
