/* SPDX-License-Identifier: MIT */
/*
 * Copying an instruction with its operands rewritten: a memory operand becomes [r10 + disp], and
 * guest R10 or R11, which live in gpr[], become a host register loaded before and stored after.
 * The bytes are rewritten in place (prefixes, REX or VEX bits, ModRM); nothing is encoded anew, so
 * what the guest wrote is what the host runs.
 */
#include "cpu/translate.h"

#define R10 X86_R10
#define R11 X86_R11

/* How to change the register fields of a copy. */
struct rewrite {
    bool mem;            /* replace the memory operand */
    struct mem_operand m;
    int reg;             /* new ModRM.reg, or -1 */
    int vvvv;            /* new VEX.vvvv, or -1 */
};

static void emit_rewritten(struct trans *t, const struct insn *in, const uint8_t *bytes, const struct rewrite *rw);

static bool has_high_index(const struct rewrite *rw)
{
    return rw->m.index != EMIT_NO_REG && rw->m.index >= 8;
}

static bool is_dropped_prefix(uint8_t p)
{
    return p == 0x2e || p == 0x36 || p == 0x3e || p == 0x26 || p == 0x64 || p == 0x65 || p == 0x67;
}

/*
 * Does the operand-size attribute choose between 16 and 32 bits? True of general instructions; where
 * 66 is part of the opcode, or means nothing, it is copied as it is.
 */
static bool has_operand_size(const ZydisDecodedInstruction *z)
{
    static const uint32_t map_0f[8] = {
        [2] = 0x0000ffff,                                                                 /* CMOVcc */
        [5] = 1u << 3 | 1u << 4 | 1u << 5 | 1u << 11 | 1u << 12 | 1u << 13 | 1u << 15 |   /* A3 A4 A5 AB AC AD AF */
              1u << 16 | 1u << 17 | 1u << 19 | 1u << 22 | 1u << 23 | 1u << 24 | 1u << 26 | /* B0 B1 B3 B6 B7 B8 BA */
              1u << 27 | 1u << 28 | 1u << 29 | 1u << 30 | 1u << 31,                       /* BB BC BD BE BF */
        [6] = 1u << 0 | 1u << 1 | 0xff00,                                                 /* C0 C1 C8-CF */
    };

    if (z->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY) {
        return false;
    }
    switch (z->opcode_map) {
    case ZYDIS_OPCODE_MAP_DEFAULT:
        return z->opcode < 0xd8 || z->opcode > 0xdf;
    case ZYDIS_OPCODE_MAP_0F:
        return (map_0f[z->opcode / 32] >> (z->opcode % 32) & 1) != 0;
    case ZYDIS_OPCODE_MAP_0F38: /* MOVBE, CRC32 */
        return z->opcode == 0xf0 || z->opcode == 0xf1;
    default:
        return false;
    }
}

/* VEX and EVEX instructions with general registers ignore W outside 64-bit code, where it would mean 64 bits. */
static bool ignores_w(const ZydisDecodedInstruction *z)
{
    if (z->meta.isa_ext == ZYDIS_ISA_EXT_BMI1 || z->meta.isa_ext == ZYDIS_ISA_EXT_BMI2 ||
        z->meta.isa_ext == ZYDIS_ISA_EXT_TBM) {
        return true;
    }
    switch (z->mnemonic) {
    case ZYDIS_MNEMONIC_VMOVD:
    case ZYDIS_MNEMONIC_VPEXTRB:
    case ZYDIS_MNEMONIC_VPEXTRW:
    case ZYDIS_MNEMONIC_VPEXTRD:
    case ZYDIS_MNEMONIC_VPINSRB:
    case ZYDIS_MNEMONIC_VPINSRW:
    case ZYDIS_MNEMONIC_VPINSRD:
    case ZYDIS_MNEMONIC_VCVTSI2SS:
    case ZYDIS_MNEMONIC_VCVTSI2SD:
    case ZYDIS_MNEMONIC_VCVTSS2SI:
    case ZYDIS_MNEMONIC_VCVTSD2SI:
    case ZYDIS_MNEMONIC_VCVTTSS2SI:
    case ZYDIS_MNEMONIC_VCVTTSD2SI:
    case ZYDIS_MNEMONIC_VCVTUSI2SS:
    case ZYDIS_MNEMONIC_VCVTUSI2SD:
    case ZYDIS_MNEMONIC_VCVTSS2USI:
    case ZYDIS_MNEMONIC_VCVTSD2USI:
    case ZYDIS_MNEMONIC_VCVTTSS2USI:
    case ZYDIS_MNEMONIC_VCVTTSD2USI:
    case ZYDIS_MNEMONIC_VPBROADCASTD:
    case ZYDIS_MNEMONIC_VPCMPESTRI: /* lengths in EAX and EDX */
    case ZYDIS_MNEMONIC_VPCMPESTRM:
        return true;
    default:
        return false;
    }
}

/* Bits 7:4 of the last byte name a register (SDM 2A 2.3.8, APM 3 1.6.4). */
static bool names_register_last(const ZydisDecodedInstruction *z)
{
    unsigned op = z->opcode;

    if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_XOP) {
        return z->opcode_map == ZYDIS_OPCODE_MAP_XOP8 && op < 0xc0;
    }
    if (z->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX || z->opcode_map != ZYDIS_OPCODE_MAP_0F3A) {
        return false;
    }
    return (op >= 0x48 && op <= 0x4c) || (op >= 0x5c && op <= 0x5f) || (op & 0xe8) == 0x68;
}

/* ModRM, displacement and immediates of a rewritten instruction. */
static void emit_operands(struct emit *e, const struct insn *in, const uint8_t *bytes, const struct rewrite *rw,
                          unsigned reg)
{
    const ZydisDecodedInstruction *z = &in->z;
    unsigned after = z->raw.modrm.offset + 1u;

    if (rw->mem) {
        bool evex = z->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX;
        if (evex && rw->m.disp != 0) { /* disp8 would be scaled */
            e_b(e, 0x84 | (reg & 7) << 3);
            e_b(e, (rw->m.index == EMIT_NO_REG ? 4u : rw->m.index & 7u) << 3 | (rw->m.base & 7u));
            e_d(e, (uint32_t)rw->m.disp);
        } else {
            e_modrm_mem(e, reg, rw->m.base, rw->m.index, 0, rw->m.disp);
        }
        after += z->raw.sib.offset != 0 ? 1u : 0u;
        after += z->raw.disp.size / 8u;
    } else {
        e_b(e, ((unsigned)bytes[z->raw.modrm.offset] & 0xc7u) | (reg & 7) << 3);
    }
    e_bytes(e, bytes + after, z->length - after);
}

static void emit_vex(struct trans *t, const struct insn *in, const uint8_t *bytes, const struct rewrite *rw)
{
    struct emit *e = &t->e;
    const ZydisDecodedInstruction *z = &in->z;
    unsigned off = z->raw.vex.offset;
    unsigned reg = z->raw.modrm.reg | ((bytes[off + 1] & 0x80u) != 0 ? 0u : 8u); /* R, X, B and vvvv are inverted */
    bool three = z->raw.vex.size == 3;
    unsigned byte_map = three ? bytes[off + 1] & 0x1fu : 1u;
    unsigned byte_w = three ? bytes[off + 2] & 0x80u : 0u;
    unsigned lpp = (three ? bytes[off + 2] : bytes[off + 1]) & 7u;
    bool x = three && (bytes[off + 1] & 0x40u) == 0, b = three && (bytes[off + 1] & 0x20u) == 0;
    unsigned v = (three ? bytes[off + 2] : bytes[off + 1]) >> 3 & 15u; /* inverted, as encoded */
    if (t->legacy) { /* eight registers: the fourth bits are ignored there */
        reg &= 7u;
        v |= 8u;
        x = b = false;
        byte_w = ignores_w(z) ? 0 : byte_w;
    }
    if (rw->reg >= 0) {
        reg = (unsigned)rw->reg;
    }
    if (rw->vvvv >= 0) {
        v = ~(unsigned)rw->vvvv & 15u;
    }
    if (rw->mem) {
        x = has_high_index(rw);
        b = rw->m.base >= 8;
    }
    e_b(e, 0xc4);
    e_b(e, (reg >= 8 ? 0u : 0x80u) | (x ? 0u : 0x40u) | (b ? 0u : 0x20u) | byte_map);
    e_b(e, byte_w | v << 3 | lpp);
    e_b(e, z->opcode);
    emit_operands(e, in, bytes, rw, reg);
    if (t->legacy && names_register_last(z) && !e->overflow) {
        e->p[-1] &= 0x7f; /* of eight registers: the upper bit does not count */
    }
}

static void emit_evex(struct trans *t, const struct insn *in, const uint8_t *bytes, const struct rewrite *rw)
{
    struct emit *e = &t->e;
    const ZydisDecodedInstruction *z = &in->z;
    unsigned off = z->raw.evex.offset;
    uint8_t p0 = bytes[off + 1], p1 = bytes[off + 2], p2 = bytes[off + 3];
    unsigned reg = z->raw.modrm.reg;

    if (t->legacy) {
        p0 |= 0xf0; /* R X B R' */
        p1 = (uint8_t)((p1 | 0x40u) & ~(ignores_w(z) ? 0x80u : 0u));
        p2 |= 0x08; /* V' */
    }
    if (rw->mem) {
        p0 = (uint8_t)((p0 | 0x60u) & ~(rw->m.base >= 8 ? 0x20u : 0u) & ~(has_high_index(rw) ? 0x40u : 0u)); /* X and B, inverted */
        p1 |= 0x04; /* the base must not be read as an index extension */
    }
    if (rw->reg >= 0) {
        p0 = (uint8_t)((p0 | 0x90u) & ~(rw->reg >= 8 ? 0x80u : 0u));
        reg = (unsigned)rw->reg & 7;
    }
    if (rw->vvvv >= 0) {
        p1 = (uint8_t)((p1 & 0x87u) | ((~(unsigned)rw->vvvv & 15u) << 3));
        p2 |= 0x08;
    }
    e_b(e, 0x62);
    e_b(e, p0);
    e_b(e, p1);
    e_b(e, p2);
    e_b(e, z->opcode);
    emit_operands(e, in, bytes, rw, reg);
}

/* Opcodes that 64-bit code lacks but has under another: INC and DEC of one byte, and 82, which is 80. */
static bool emit_old_opcode(struct emit *e, const struct insn *in, const uint8_t *bytes, const struct rewrite *rw,
                            unsigned reg)
{
    uint8_t opcode = in->z.opcode;

    if (opcode >= 0x40 && opcode <= 0x4f) {
        e_b(e, 0xff);
        e_b(e, 0xc0u | (opcode & 0xfu));
        return true;
    }
    if (opcode == 0x82) {
        e_b(e, 0x80);
        emit_operands(e, in, bytes, rw, reg);
        return true;
    }
    return false;
}

static void emit_legacy(struct trans *t, const struct insn *in, const uint8_t *bytes, const struct rewrite *rw)
{
    struct emit *e = &t->e;
    const ZydisDecodedInstruction *z = &in->z;
    bool has_rex = (z->attributes & ZYDIS_ATTRIB_HAS_REX) != 0;
    unsigned rex = has_rex ? bytes[z->raw.rex.offset] & 0xfu : 0;
    unsigned opcode_at = has_rex ? z->raw.rex.offset + 1u : z->raw.prefix_count;
    unsigned reg = z->raw.modrm.reg;
    bool resize = t->legacy && has_operand_size(z);

    /* A REX that is not right before the opcode is ignored by the processor; Zydis then reports none. */
    for (unsigned i = 0; i < opcode_at; i++) {
        if (has_rex && i == z->raw.rex.offset) {
            continue;
        }
        if (!is_dropped_prefix(bytes[i]) && (bytes[i] & 0xf0) != 0x40 && !(resize && bytes[i] == 0x66)) {
            e_b(e, bytes[i]);
        }
    }
    if (resize && z->operand_width == 16) {
        e_b(e, 0x66);
    }
    if (rw->reg >= 0) {
        rex = (rex & ~4u) | (rw->reg >= 8 ? 4u : 0u);
        reg = (unsigned)rw->reg & 7;
    }
    if (rw->mem) {
        rex = (rex & ~3u) | (rw->m.base >= 8 ? 1u : 0u) | (has_high_index(rw) ? 2u : 0u);
    }
    if (rex != 0 || has_rex) {
        e_b(e, 0x40 | rex);
    }
    if (t->legacy && z->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && emit_old_opcode(e, in, bytes, rw, reg)) {
        return;
    }
    if ((z->attributes & ZYDIS_ATTRIB_HAS_MODRM) == 0) {
        e_bytes(e, bytes + opcode_at, z->length - opcode_at);
        return;
    }
    e_bytes(e, bytes + opcode_at, z->raw.modrm.offset - opcode_at);
    emit_operands(e, in, bytes, rw, reg);
}

static void emit_rewritten(struct trans *t, const struct insn *in, const uint8_t *bytes, const struct rewrite *rw)
{
    switch (in->z.encoding) {
    case ZYDIS_INSTRUCTION_ENCODING_VEX:
        emit_vex(t, in, bytes, rw);
        break;
    case ZYDIS_INSTRUCTION_ENCODING_EVEX:
        emit_evex(t, in, bytes, rw);
        break;
    case ZYDIS_INSTRUCTION_ENCODING_LEGACY:
    case ZYDIS_INSTRUCTION_ENCODING_3DNOW:
        emit_legacy(t, in, bytes, rw);
        break;
    default:
        t->failed = true;
        break;
    }
}

static void load_high(struct trans *t, uint8_t mask)
{
    if (mask & 1) {
        e_load_gs(&t->e, R10, OFF_GPR(R10));
    }
    if (mask & 2) {
        e_load_gs(&t->e, R11, OFF_GPR(R11));
    }
}

static void store_high(struct trans *t, uint8_t mask)
{
    if (mask & 1) {
        e_store_gs(&t->e, OFF_GPR(R10), R10);
    }
    if (mask & 2) {
        e_store_gs(&t->e, OFF_GPR(R11), R11);
    }
}

/* The instruction as it is, with guest R10 and R11 brought into the host's. */
static void copy_registers_only(struct trans *t, const struct insn *in)
{
    if (t->legacy) {
        struct rewrite rw = {.reg = -1, .vvvv = -1};
        emit_rewritten(t, in, t->code + in->offset, &rw);
        return;
    }
    load_high(t, in->high_read);
    e_bytes(&t->e, t->code + in->offset, in->z.length);
    store_high(t, in->high_write);
}

/*
 * The ModRM.reg and VEX.vvvv fields of an instruction with a memory operand that name guest R10 or
 * R11. R10 holds the address, so a value that is read goes through R11; what is only written may
 * land in either. MULX is the one instruction that writes both fields.
 */
static void assign_high(const struct insn *in, const uint8_t *bytes, struct rewrite *rw, int *load_from, int store_to[2])
{
    const ZydisDecodedInstruction *z = &in->z;
    bool vex = z->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
    int reg = z->raw.modrm.reg;
    int vvvv = -1;

    if (vex) {
        const uint8_t *p = bytes + z->raw.vex.offset;
        reg |= (p[1] & 0x80) != 0 ? 0 : 8;
        vvvv = (int)(~((unsigned)p[z->raw.vex.size - 1] >> 3) & 15u);
    } else if (z->attributes & ZYDIS_ATTRIB_HAS_REX) {
        reg |= z->raw.rex.R ? 8 : 0;
    } else if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX) {
        reg |= (bytes[z->raw.evex.offset + 1] & 0x80) != 0 ? 0 : 8;
    }
    uint8_t any = in->high_read | in->high_write;
    bool reg_high = (reg == R10 || reg == R11) && (any & (1u << (reg - R10))) != 0;
    bool v_high = vex && (vvvv == R10 || vvvv == R11) && (any & (1u << (vvvv - R10))) != 0;

    *load_from = -1;
    store_to[0] = store_to[1] = -1;
    if (z->mnemonic == ZYDIS_MNEMONIC_MULX) {
        /* Both are destinations, each in its own host register. */
        store_to[0] = reg_high ? reg : -1;
        store_to[1] = v_high ? vvvv : -1;
        return;
    }
    if (reg_high) {
        rw->reg = R11;
        if (in->high_read & (1u << (reg - R10))) {
            *load_from = reg;
        }
        if (in->high_write & (1u << (reg - R10))) {
            store_to[0] = reg;
        }
    }
    if (v_high) {
        rw->vvvv = R11;
        if (in->high_write & (1u << (vvvv - R10)) && !(in->high_read & (1u << (vvvv - R10)))) {
            store_to[0] = vvvv; /* BLSR and its kin: vvvv is the destination */
        } else {
            *load_from = vvvv;
        }
    }
}

/* MMX instructions, and those of the x87 but FNSTCW and FNSTSW; FNSTENV and FNSAVE are helpers. */
static bool waits_for_x87(const ZydisDecodedInstruction *z)
{
    if (z->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && z->opcode >= 0xd8 && z->opcode <= 0xdf) {
        return z->mnemonic != ZYDIS_MNEMONIC_FNSTCW && z->mnemonic != ZYDIS_MNEMONIC_FNSTSW;
    }
    return z->meta.isa_ext == ZYDIS_ISA_EXT_MMX || z->meta.isa_set == ZYDIS_ISA_SET_SSSE3MMX ||
           z->meta.isa_set == ZYDIS_ISA_SET_SSE2MMX;
}

/* XCHG with memory locks without the prefix (SDM 3A 8.1.2.1). */
static uint32_t locked_access(const struct insn *in)
{
    bool locked = (in->z.attributes & ZYDIS_ATTRIB_HAS_LOCK) != 0 || in->z.mnemonic == ZYDIS_MNEMONIC_XCHG;
    return locked && in->mem_write ? ACCESS_LOCKED : 0;
}

static void copy_with_memory(struct trans *t, unsigned i)
{
    const struct insn *in = &t->insns[i];
    struct rewrite rw = {.mem = true, .reg = -1, .vvvv = -1};
    struct emit *e = &t->e;
    int load_from, store_to[2];
    uint32_t access = (in->mem_read ? ACCESS_READ : 0) | (in->mem_write ? ACCESS_WRITE : 0);

    assign_high(in, t->code + in->offset, &rw, &load_from, store_to);
    access |= locked_access(in) | (in->line ? ACCESS_LINE : 0) | (in->aligned ? ACCESS_VECTOR : 0) | (waits_for_x87(&in->z) ? ACCESS_X87 : 0);
    rw.m = lower_access(t, i, access, in->mem_bytes, flags_in_use(t, i));
    if (in->high_byte) {
        /* No REX may appear: the address goes into RDI, whose guest value waits in gpr[]. */
        e_store_gs(e, OFF_GPR(X86_RDI), X86_RDI);
        trans_note(t, i, X86_RDI);
        e_mov_rr(e, X86_RDI, R10);
        rw.m.base = X86_RDI;
    }
    if (load_from >= 0) {
        e_load_gs(e, R11, OFF_GPR(load_from));
    }
    emit_rewritten(t, in, t->code + in->offset, &rw);
    if (in->high_byte) {
        e_load_gs(e, X86_RDI, OFF_GPR(X86_RDI));
        trans_note(t, i, -1);
    }
    if (store_to[0] >= 0) {
        e_store_gs(e, OFF_GPR(store_to[0]), store_to[1] >= 0 || in->z.mnemonic == ZYDIS_MNEMONIC_MULX
                                                 ? (unsigned)store_to[0]
                                                 : R11);
    }
    if (store_to[1] >= 0) {
        e_store_gs(e, OFF_GPR(store_to[1]), (unsigned)store_to[1]);
    }
    lower_access_done(t);
}

/*
 * Outside 64-bit code VZEROUPPER and VZEROALL leave YMM8 to YMM15 alone (SDM 2C): the host's would not. A VEX.128
 * move or XOR of a register clears what is above, each.
 */
static void emit_vzero_low(struct emit *e, bool all)
{
    for (uint8_t r = 0; r < 8; r++) {
        e_b(e, 0xc5); /* vxorps xmm, xmm, xmm or vmovaps xmm, xmm */
        e_b(e, all ? (uint8_t)(0xf8 ^ r << 3) : 0xf8);
        e_b(e, all ? 0x57 : 0x28);
        e_b(e, (uint8_t)(0xc0 | r << 3 | r));
    }
}

void rewrite_copy(struct trans *t, unsigned i)
{
    const struct insn *in = &t->insns[i];
    bool all = in->z.mnemonic == ZYDIS_MNEMONIC_VZEROALL;

    if (t->legacy && (all || in->z.mnemonic == ZYDIS_MNEMONIC_VZEROUPPER)) {
        emit_vzero_low(&t->e, all);
    } else if (in->has_mem) {
        copy_with_memory(t, i);
    } else {
        copy_registers_only(t, in);
    }
}

/* The offset, cut to the address size, then to the operand's. */
static void rewrite_lea_legacy(struct trans *t, const struct insn *in)
{
    struct emit *e = &t->e;
    unsigned reg = in->z.raw.modrm.reg;
    bool short_reg = in->z.operand_width == 16;

    if (in->addr_bytes == 4 && (in->base != EMIT_NO_REG || in->index != EMIT_NO_REG)) {
        if (short_reg) {
            e_b(e, 0x66);
        }
        e_op_mem(e, 0x8d, reg, in->base, in->index, in->scale_log2, (int32_t)in->disp, false);
        return;
    }
    lower_address(t, in->base, in->index, in->scale_log2, in->disp, X86_DS, in->addr_bytes, false, true);
    if (short_reg) {
        e_b(e, 0x66);
    }
    e_b(e, 0x44); /* mov reg, r10d or r10w */
    e_b(e, 0x89);
    e_b(e, 0xc0 | (R10 & 7) << 3 | reg);
}

/* LEA computes on guest values; only a RIP-relative one must be made absolute. */
void rewrite_lea(struct trans *t, unsigned i)
{
    const struct insn *in = &t->insns[i];
    struct emit *e = &t->e;

    if (t->legacy) {
        rewrite_lea_legacy(t, in);
        return;
    }

    if (!in->rip_relative) {
        uint8_t high = 0;
        if (in->base == R10 || in->index == R10) {
            high |= 1;
        }
        if (in->base == R11 || in->index == R11) {
            high |= 2;
        }
        load_high(t, high | in->high_read);
        e_bytes(e, t->code + in->offset, in->z.length);
        store_high(t, in->high_write);
        return;
    }
    unsigned reg = in->z.raw.modrm.reg | ((in->z.attributes & ZYDIS_ATTRIB_HAS_REX) && in->z.raw.rex.R ? 8u : 0u);
    uint64_t value = (uint64_t)in->disp;
    if (in->z.operand_width == 16) {
        load_high(t, in->high_read);
        e_b(e, 0x66);
        if (reg >= 8) {
            e_b(e, 0x41);
        }
        e_b(e, 0xb8 | (reg & 7));
        e_b(e, value & 0xff);
        e_b(e, value >> 8 & 0xff);
    } else {
        e_mov_imm(e, reg, in->z.operand_width == 32 ? (uint32_t)value : value);
    }
    store_high(t, in->high_write);
}

/*
 * BT and its kin with a register bit offset address memory beyond the operand:
 * address + (offset >> log2(bits)) * bytes, offset signed (SDM 2A, BT). R11 becomes the offset in
 * words, then the bit number inside the word; all without touching flags (only CF is defined).
 */
void rewrite_bit_string(struct trans *t, unsigned i)
{
    const struct insn *in = &t->insns[i];
    const ZydisDecodedInstruction *z = &in->z;
    struct emit *e = &t->e;
    unsigned bytes = z->operand_width / 8u;
    unsigned log2_bits = bytes == 8 ? 6 : bytes == 4 ? 5 : 4;
    unsigned reg = z->raw.modrm.reg | ((z->attributes & ZYDIS_ATTRIB_HAS_REX) && z->raw.rex.R ? 8u : 0u);
    uint32_t access = ACCESS_READ | (in->mem_write ? ACCESS_WRITE : 0) | locked_access(in);
    unsigned src = reg;

    /* The bit offset moves the address, which is cut to its size, before the segment's base is added. */
    lower_address(t, in->base, in->index, in->scale_log2, in->disp, X86_DS, in->addr_bytes, in->rip_relative, true);
    if (reg == R10 || reg == R11) {
        e_load_gs(e, R11, OFF_GPR(reg));
        src = R11;
    }
    /* movsx r11, src of the operand size */
    e_b(e, 0x4c | (src >= 8 ? 1u : 0u));
    if (bytes == 8) {
        e_b(e, 0x8b);
    } else if (bytes == 4) {
        e_b(e, 0x63);
    } else {
        e_b(e, 0x0f);
        e_b(e, 0xbf);
    }
    e_b(e, 0xc0 | (R11 & 7) << 3 | (src & 7));
    /* sarx r11, r11, rcx with RCX = log2_bits for the moment */
    e_store_gs(e, OFF_GPR(X86_RCX), X86_RCX);
    e_mov_imm(e, X86_RCX, log2_bits);
    e_b(e, 0xc4);
    e_b(e, 0x42);
    e_b(e, 0xf2);
    e_b(e, 0xf7);
    e_b(e, 0xc0 | (R11 & 7) << 3 | (R11 & 7));
    e_load_gs(e, X86_RCX, OFF_GPR(X86_RCX));
    e_op_mem(e, 0x8d, R10, R10, R11, bytes == 8 ? 3 : bytes == 4 ? 2 : 1, 0, in->addr_bytes == 8);
    if (in->addr_bytes == 2) {
        lower_cut_r10(e);
    }
    e_store_gs(e, OFF(scratch[2]), R10);

    struct rewrite rw = {.mem = true, .reg = R11, .vvvv = -1};
    rw.m = lower_access_at(t, i, access | (in->stack_seg ? ACCESS_STACK : 0), bytes, !t->parked, BASE_SCRATCH, EMIT_NO_REG, 0,
                           0, in->seg, in->addr_bytes, false);
    if (reg == R10 || reg == R11) {
        e_load_gs(e, R11, OFF_GPR(reg));
    } else {
        e_mov_rr(e, R11, reg);
    }
    e_pext_gs(e, R11, R11, bytes == 8 ? OFF(pext_bits[2]) : bytes == 4 ? OFF(pext_bits[1]) : OFF(pext_bits[0]));
    emit_rewritten(t, in, t->code + in->offset, &rw);
    lower_access_done(t);
}

/* MOV between AL/AX/EAX/RAX and an absolute address: A0..A3 become 8A, 8B, 88, 89 with a ModRM. */
void rewrite_moffs(struct trans *t, unsigned i)
{
    const struct insn *in = &t->insns[i];
    struct emit *e = &t->e;
    unsigned bytes = in->mem_bytes;
    bool store = (in->z.opcode & 2) != 0;
    uint8_t opcode = (uint8_t)((store ? 0x88u : 0x8au) | (bytes > 1 ? 1u : 0u));
    struct mem_operand m = lower_access(t, i, store ? ACCESS_WRITE : ACCESS_READ, bytes, flags_in_use(t, i));

    if (bytes == 2) {
        e_b(e, 0x66);
    }
    e_op_mem(e, opcode, X86_RAX, m.base, m.index, 0, m.disp, bytes == 8);
    lower_access_done(t);
}
