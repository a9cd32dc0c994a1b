/* SPDX-License-Identifier: MIT */
/*
 * Operands that mean something: memory operands that hit the cases' memory (its middle, its page
 * boundaries, its read-only page, its holes), counts that end, divisions that now and then succeed,
 * compare-exchanges that find what they look for, branches that land.
 */
#include "diff.h"

#include <string.h>

#define RAX 0
#define RCX 1
#define RDX 2
#define RBX 3
#define RSP 4

/* Register number of an address register, or -1. */
static int address_reg(ZydisRegister reg)
{
    ZydisRegisterClass cls = ZydisRegisterGetClass(reg);
    return cls == ZYDIS_REGCLASS_GPR64 || cls == ZYDIS_REGCLASS_GPR32 || cls == ZYDIS_REGCLASS_GPR16 ? ZydisRegisterGetId(reg) : -1;
}

static uint64_t width_mask(unsigned width)
{
    return width == 64 ? ~0ull : (1ull << width) - 1;
}

static bool chance(unsigned percent)
{
    return diff_random() % 100 < percent;
}

/* Where a branch goes: an offset in the code segment. */
static uint64_t pick_landing(const struct diff_case *c)
{
    uint64_t r = diff_random();

    if (diff_arch->bits != 64)
        return (r % 8 == 0 ? DIFF_CODE + 0x1ff8 + ((r >> 8) & 15) : r % 16 == 1 ? r : DIFF_CODE + 0x1090 + ((r >> 8) & 0x3f)) -
               diff_seg_base(c, DIFF_CS);

    if (r % 8 == 0)
        return DIFF_CODE + 0x3000 + ((r >> 8) & 0xfff); /* nothing there */
    if (r % 16 == 1)
        return DIFF_DATA + ((r >> 8) & 0x1fff); /* not executable */
    if (r % 32 == 2)
        return r | 1ull << 63; /* not canonical, nearly always */
    return DIFF_CODE + 0x1090 + ((r >> 8) & 0x3f);
}

/* An address for an access of `size` bytes. */
static uint64_t pick_address(unsigned size, bool extent)
{
    uint64_t r = diff_random(), where = r % 100, off = (r >> 8) & 0xffff;
    uint64_t into = size > 1 ? 1 + off % (size - 1) : 1;

    if (extent) /* a string: room on both sides, mostly */
        return where < 80 ? DIFF_DATA + 0x800 + off % 0x1800 : where < 90 ? DIFF_DATA + 0x3000 - off % 64 : DIFF_DATA + off % 64;
    if (where < 55)
        return DIFF_DATA + 0x40 + ((off % 0x2f00) & ~63ull);
    if (where < 70)
        return DIFF_DATA + 0x40 + off % 0x2e00;
    if (where < 80)
        return DIFF_DATA + 0x1000 * (1 + off % 2) - into;
    if (where < 86)
        return DIFF_DATA + 0x3000 + ((off % 0xf00) & ~63ull);
    if (where < 90)
        return DIFF_DATA + 0x3000 - into;
    if (where < 93)
        return DIFF_DATA + 0x4000 - into;
    if (where < 96)
        return DIFF_DATA + 0x4000 + off % 0x800;
    if (where < 98)
        return DIFF_DATA - into;
    if (where < 99)
        return 0xffff900000000000ull + off;
    return r | 1ull << 62;
}

static const struct diff_seg *segment_of(const struct diff_case *c, ZydisRegister segment)
{
    return diff_seg_find(c->sel[ZydisRegisterGetId(segment) % DIFF_SREGS]);
}

static uint64_t segment_base(const struct diff_case *c, ZydisRegister segment)
{
    if (diff_arch->bits != 64) {
        const struct diff_seg *seg = segment_of(c, segment);
        return seg ? seg->base : 0;
    }
    return segment == ZYDIS_REGISTER_FS ? c->in.fs_base : segment == ZYDIS_REGISTER_GS ? c->in.gs_base : 0;
}

static bool in_data(uint64_t address, unsigned size)
{
    unsigned copies = diff_arch->bits == 16 ? DIFF_DATA_COPIES : 1;
    return address >= DIFF_DATA && address + size <= DIFF_DATA + copies * DIFF_DATA_BYTES;
}

/* The linear address of an access at one of its segment's ends, or of the offset's range. */
static uint64_t pick_edge(const struct diff_seg *seg, unsigned size, unsigned width)
{
    uint64_t r = diff_random(), into = r % (size + 1u), end;

    if (!seg || r % 3 == 0 || (seg->pages && seg->limit == 0xfffff))
        end = width_mask(width) + 1;
    else
        end = seg->pages ? ((uint64_t)seg->limit + 1) << 12 : (uint64_t)seg->limit + 1;
    if (seg && seg->down && r % 2)
        end = seg->big ? 1ull << 32 : 1ull << 16;
    return (seg ? seg->base : 0) + end - into;
}

static void put_displacement(uint8_t *code, const ZydisDecodedInstruction *insn, uint64_t value)
{
    memcpy(code + insn->raw.disp.offset, &value, insn->raw.disp.size / 8);
}

static void set_reg(struct diff_case *c, struct diff_place *place, int reg, uint64_t value, unsigned address_width)
{
    /* the upper part of an address register that is wider does not count: leave garbage there */
    if (address_width < 64 && address_width < (diff_arch->bits == 64 ? 64u : 32u))
        value = (value & width_mask(address_width)) | (chance(50) ? diff_random() << address_width : 0);
    c->in.gpr[reg] = diff_arch->bits == 64 ? value : value & 0xffffffff;
    place->pinned |= 1u << reg;
}

/* Small elements for a gather's or scatter's index vector. */
static void place_vsib(struct diff_case *c, ZydisRegister index, bool dirty)
{
    int id = ZydisRegisterGetId(index);

    if (id > 15 || dirty)
        return;
    bool wide = diff_random() & 1;
    for (unsigned i = 0; i < 8; i++) {
        int64_t v = (int64_t)(diff_random() % 0x400) - 0x200;
        uint8_t *at = i < 4 ? c->vec.fx + 160 + id * 16 + i * 4 : c->vec.ymmh[id] + (i - 4) * 4;
        if (!wide || (i & 1) == 0)
            memcpy(at, &v, wide ? 8 : 4);
    }
}

/* Makes the memory operand address `want`, or whatever it addresses already if its registers are taken. Returns false if that is not memory. */
static bool place_memory(struct diff_case *c, struct diff_place *place, uint8_t *code, uint64_t rip, const ZydisDecodedInstruction *insn,
                         const ZydisDecodedOperand *op, uint64_t want, unsigned size, uint64_t *got)
{
    unsigned width = insn->address_width;
    uint64_t mask = width_mask(width), linear = width_mask(diff_arch->bits == 64 ? 64 : 32), seg = segment_base(c, op->mem.segment);
    uint64_t disp = op->mem.disp.has_displacement ? (uint64_t)op->mem.disp.value : 0;
    int base = address_reg(op->mem.base), index = address_reg(op->mem.index);
    uint64_t scale = op->mem.scale ? op->mem.scale : 1, scaled = 0;
    bool vsib = op->mem.type == ZYDIS_MEMOP_TYPE_VSIB;

    if (vsib && width == 16)
        return false;
    if (vsib) {
        place_vsib(c, op->mem.index, place->pinned != 0);
        want = DIFF_DATA + 0x1400;
        index = -1;
    }
    if (op->mem.base == ZYDIS_REGISTER_RIP || op->mem.base == ZYDIS_REGISTER_EIP) {
        uint64_t rel = want - seg - (rip + insn->length);
        if ((int64_t)rel != (int32_t)rel)
            rel = (DIFF_DATA + 0x100) - (rip + insn->length);
        put_displacement(code, insn, rel);
        *got = ((rip + insn->length + rel) & mask) + seg;
        return seg == 0 || in_data(*got, size);
    }
    if (index >= 0) {
        if ((place->dirty >> index) & 1)
            return false;
        if (!((place->pinned >> index) & 1) && index != base)
            set_reg(c, place, index, (diff_random() % 0x200) - 0x100, width);
        scaled = c->in.gpr[index] * scale;
    }
    if (base >= 0 && ((place->dirty >> base) & 1))
        return false;
    if (base >= 0 && !((place->pinned >> base) & 1)) {
        if (base == index) {
            set_reg(c, place, base, (want - seg - disp) / (1 + scale), width);
            scaled = c->in.gpr[base] * scale;
        } else {
            set_reg(c, place, base, want - seg - disp - scaled, width);
        }
    } else if (base < 0 && diff_arch->bits != 64 && insn->raw.disp.size >= 16) {
        disp = want - seg - (vsib ? 0 : scaled);
        put_displacement(code, insn, disp);
    } else if (base < 0 && insn->raw.disp.size >= 32) {
        disp = want - seg - (vsib ? 0 : scaled);
        if (insn->raw.disp.size == 32 && width == 64 && (int64_t)disp != (int32_t)disp)
            disp = DIFF_DATA + 0x200 - seg - scaled;
        put_displacement(code, insn, disp);
        if (insn->raw.disp.size == 32)
            disp = (uint64_t)(int64_t)(int32_t)disp;
        if (seg) /* FS and GS base may be out of a displacement's reach */
            return in_data(((disp + scaled) & mask) + seg, size) && (*got = ((disp + scaled) & mask) + seg, true);
    }
    *got = ((((base >= 0 ? c->in.gpr[base] : 0) + scaled + disp) & mask) + seg) & linear;
    if (diff_arch->bits != 64 && !vsib) /* what is not memory is the segment's end, mostly */
        return true;
    if (vsib)
        return *got >= DIFF_DATA + 0x1000 && *got < DIFF_DATA + 0x2000;
    /* a register that was taken already gives what it gives; it has to be the cases' memory */
    return *got == want || in_data(*got, size) || *got - (DIFF_DATA - 64) < DIFF_DATA_BYTES + 128;
}

static void patch_memory(struct diff_case *c, uint64_t address, uint64_t value, unsigned size)
{
    if (diff_arch->bits == 16 && in_data(address, size))
        address = DIFF_DATA + (address - DIFF_DATA) % DIFF_DATA_BYTES;
    if (address < DIFF_DATA || address + size > DIFF_DATA + DIFF_DATA_RW_BYTES)
        return;
    for (unsigned i = 0; i < DIFF_PATCHES; i++)
        if (!c->patch[i].size) {
            c->patch[i] = (struct diff_patch){(uint16_t)(address - DIFF_DATA), (uint16_t)size, value};
            return;
        }
}

static bool is_free(const struct diff_place *place, int reg)
{
    return !(((place->pinned | place->dirty) >> reg) & 1);
}

static void place_count(struct diff_case *c, struct diff_place *place)
{
    uint64_t r = diff_random(), count = (r >> 8) % 24;

    if (!is_free(place, RCX))
        return;
    if (r % 16 == 0)
        count = 0x200 + (r >> 8) % 0x800;
    set_reg(c, place, RCX, count, 64);
}

/* Makes a compare-exchange find its comparand, now and then. */
static void place_comparand(struct diff_case *c, const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops, uint64_t address)
{
    if (chance(40))
        return;
    if (insn->mnemonic == ZYDIS_MNEMONIC_CMPXCHG) {
        if (ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY)
            patch_memory(c, address, c->in.gpr[RAX], ops[0].size / 8);
    } else if (insn->mnemonic == ZYDIS_MNEMONIC_CMPXCHG8B) {
        patch_memory(c, address, (c->in.gpr[RAX] & 0xffffffff) | c->in.gpr[RDX] << 32, 8);
    } else {
        patch_memory(c, address, c->in.gpr[RAX], 8);
        patch_memory(c, address + 8, c->in.gpr[RDX], 8);
    }
}

static void place_special(struct diff_case *c, struct diff_place *place, const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops)
{
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_DIV:
    case ZYDIS_MNEMONIC_IDIV:
        if (is_free(place, RDX) && chance(75))
            set_reg(c, place, RDX, insn->mnemonic == ZYDIS_MNEMONIC_IDIV && chance(40) ? ~0ull : diff_random() % 4, 64);
        break;
    case ZYDIS_MNEMONIC_LOOP:
    case ZYDIS_MNEMONIC_LOOPE:
    case ZYDIS_MNEMONIC_LOOPNE:
    case ZYDIS_MNEMONIC_JRCXZ:
    case ZYDIS_MNEMONIC_JECXZ:
    case ZYDIS_MNEMONIC_JCXZ:
        if (diff_arch->bits != 64 && is_free(place, RCX))
            set_reg(c, place, RCX, diff_random() % 3 | (chance(30) ? 1ull << 16 : 0), 64);
        else if (is_free(place, RCX))
            set_reg(c, place, RCX, diff_random() % 3 | (chance(30) ? 1ull << 32 : 0), 64);
        break;
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC: /* the bit offset moves the address */
        if (ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY && ops[1].type == ZYDIS_OPERAND_TYPE_REGISTER) {
            int reg = ZydisRegisterGetId(ops[1].reg.value);
            if (is_free(place, reg))
                set_reg(c, place, reg, diff_random() % 0x2000 - 0x1000, 64);
        }
        break;
    case ZYDIS_MNEMONIC_MOV: /* to a segment register */
        if (ops[0].type == ZYDIS_OPERAND_TYPE_REGISTER && ZydisRegisterGetClass(ops[0].reg.value) == ZYDIS_REGCLASS_SEGMENT &&
            ops[1].type == ZYDIS_OPERAND_TYPE_REGISTER && diff_arch->bits != 64) {
            int reg = ZydisRegisterGetId(ops[1].reg.value);
            if (is_free(place, reg) && reg != RSP)
                set_reg(c, place, reg, (diff_random() & 0xffff0000) | diff_seg_random(), 64);
        }
        break;
    default:
        break;
    }
    if (insn->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE))
        place_count(c, place);
}

/* What is taken from the stack. */
static void place_stack(struct diff_case *c, const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops)
{
    const struct diff_seg *ss = diff_seg_find(c->sel[DIFF_SS]);
    uint64_t sp = c->in.gpr[RSP], at = diff_arch->bits == 64 ? sp : ((ss && !ss->big ? sp & 0xffff : sp) + (ss ? ss->base : 0)) & 0xffffffff;

    if (insn->meta.category == ZYDIS_CATEGORY_RET) {
        unsigned size = insn->operand_width / 8u;
        patch_memory(c, at, pick_landing(c), diff_arch->bits == 64 ? 8 : size);
        if (diff_arch->bits != 64 && insn->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
            patch_memory(c, at + size, chance(60) ? c->sel[DIFF_CS] : diff_seg_random(), 2);
    } else if (diff_arch->bits != 64 && insn->mnemonic == ZYDIS_MNEMONIC_POP && ops[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
               ZydisRegisterGetClass(ops[0].reg.value) == ZYDIS_REGCLASS_SEGMENT) {
        patch_memory(c, at, diff_seg_random(), 2);
    }
}

bool diff_place_operands(struct diff_case *c, struct diff_place *place, uint8_t *code, uint64_t rip, const ZydisDecodedInstruction *insn,
                         const ZydisDecodedOperand *ops)
{
    bool string = insn->meta.category == ZYDIS_CATEGORY_STRINGOP;
    bool near_branch = insn->meta.branch_type == ZYDIS_BRANCH_TYPE_NEAR || insn->meta.branch_type == ZYDIS_BRANCH_TYPE_SHORT;
    uint32_t written = 0;

    place->branch = false;
    place_special(c, place, insn, ops);
    for (unsigned i = 0; i < insn->operand_count; i++) {
        const ZydisDecodedOperand *op = &ops[i];
        uint64_t got = 0;

        if (op->type == ZYDIS_OPERAND_TYPE_REGISTER) {
            ZydisRegisterClass cls = ZydisRegisterGetClass(op->reg.value);
            bool high = op->reg.value >= ZYDIS_REGISTER_AH && op->reg.value <= ZYDIS_REGISTER_BH;
            if (cls >= ZYDIS_REGCLASS_GPR8 && cls <= ZYDIS_REGCLASS_GPR64) {
                unsigned id = (unsigned)ZydisRegisterGetId(op->reg.value) - (high ? 4u : 0u);
                if ((op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) && id != RSP)
                    written |= 1u << (id & 15);
                if (near_branch && op->visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT && id != RSP && is_free(place, (int)id))
                    set_reg(c, place, (int)id, pick_landing(c), 64);
            }
        } else if (op->type == ZYDIS_OPERAND_TYPE_POINTER) {
            uint64_t to = pick_landing(c), sel = chance(60) ? c->sel[DIFF_CS] : diff_seg_random();
            unsigned bytes = insn->operand_width / 8u;
            memcpy(code + insn->length - 2 - bytes, &to, bytes);
            memcpy(code + insn->length - 2, &sel, 2);
        } else if (op->type == ZYDIS_OPERAND_TYPE_IMMEDIATE && op->imm.is_relative) {
            place->branch = true;
        } else if (op->type == ZYDIS_OPERAND_TYPE_MEMORY && op->mem.type != ZYDIS_MEMOP_TYPE_AGEN && op->mem.type != ZYDIS_MEMOP_TYPE_MIB) {
            unsigned size = op->size / 8 ? op->size / 8 : 64;
            bool selector = diff_arch->bits != 64 && (insn->mnemonic == ZYDIS_MNEMONIC_LDS || insn->mnemonic == ZYDIS_MNEMONIC_LES ||
                                                      insn->mnemonic == ZYDIS_MNEMONIC_LFS || insn->mnemonic == ZYDIS_MNEMONIC_LGS ||
                                                      insn->mnemonic == ZYDIS_MNEMONIC_LSS || insn->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR ||
                                                      (insn->mnemonic == ZYDIS_MNEMONIC_MOV &&
                                                       ZydisRegisterGetClass(ops[0].reg.value) == ZYDIS_REGCLASS_SEGMENT));
            bool hidden_stack = op->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN && address_reg(op->mem.base) == RSP;
            if (hidden_stack) {
                place_stack(c, insn, ops);
                continue;
            }
            uint64_t want = pick_address(size, string);
            if (diff_arch->bits != 64 && chance(12))
                want = pick_edge(segment_of(c, op->mem.segment), size, insn->address_width);
            if (!place_memory(c, place, code, rip, insn, op, want, size, &got))
                return false;
            if (selector && chance(80))
                patch_memory(c, got + size - 2, diff_seg_random(), 2);
            if (near_branch)
                patch_memory(c, got, pick_landing(c), diff_arch->bits == 64 ? 8 : size);
            if (insn->mnemonic == ZYDIS_MNEMONIC_CMPXCHG || insn->mnemonic == ZYDIS_MNEMONIC_CMPXCHG8B ||
                insn->mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B)
                place_comparand(c, insn, ops, got);
        }
    }
    place->dirty |= written;
    return true;
}
