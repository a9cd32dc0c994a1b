/* SPDX-License-Identifier: MIT */
/*
 * Byte emitter for the translator's own glue: moves, lea, compares, jumps. Guest instructions are
 * copied from their own bytes (rewrite.c). Emission past the end of the reserved space only sets
 * `overflow`; the transaction is then aborted as a whole.
 *
 * Addresses off GS (struct cpu) are encoded as ModRM mod=00 rm=100, SIB base=101 index=100, disp32.
 */
#ifndef KAGE_CPU_EMIT_H
#define KAGE_CPU_EMIT_H

#include "arch/types.h"
#include "arch/x86.h"

struct emit {
    uint8_t *p;
    uint8_t *end;
    bool overflow;
};

#define EMIT_NO_REG 0xffu

static inline void e_b(struct emit *e, unsigned byte)
{
    if (KAGE_UNLIKELY(e->p >= e->end)) {
        e->overflow = true;
        return;
    }
    *e->p++ = (uint8_t)byte;
}

static inline void e_d(struct emit *e, uint32_t v)
{
    if (KAGE_UNLIKELY(e->end - e->p < 4)) {
        e->overflow = true;
        return;
    }
    __builtin_memcpy(e->p, &v, 4);
    e->p += 4;
}

static inline void e_q(struct emit *e, uint64_t v)
{
    if (KAGE_UNLIKELY(e->end - e->p < 8)) {
        e->overflow = true;
        return;
    }
    __builtin_memcpy(e->p, &v, 8);
    e->p += 8;
}

static inline void e_bytes(struct emit *e, const uint8_t *bytes, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        e_b(e, bytes[i]);
    }
}

static inline bool e_fits_s32(uint64_t v)
{
    return (uint64_t)(int64_t)(int32_t)v == v;
}

/* opcode with a register and a memory operand at gs:[off]; w: REX.W */
static inline void e_op_gs(struct emit *e, unsigned opcode, unsigned reg, uint32_t off, bool w)
{
    e_b(e, 0x65);
    unsigned rex = (w ? 8u : 0u) | (reg >= 8 ? 4u : 0u);
    if (rex != 0) {
        e_b(e, 0x40 | rex);
    }
    e_b(e, opcode);
    e_b(e, ((reg & 7) << 3) | 4);
    e_b(e, 0x25);
    e_d(e, off);
}

/* mov reg64, gs:[off] */
static inline void e_load_gs(struct emit *e, unsigned reg, uint32_t off)
{
    e_op_gs(e, 0x8b, reg, off, true);
}

/* mov gs:[off], reg64 */
static inline void e_store_gs(struct emit *e, uint32_t off, unsigned reg)
{
    e_op_gs(e, 0x89, reg, off, true);
}

/* opcode reg, gs:[index * scale + off] or gs:[base + off]; scale_log2 is ignored for EMIT_NO_REG index */
static inline void e_op_gs_mem(struct emit *e, unsigned opcode, unsigned reg, unsigned base, unsigned index,
                               unsigned scale_log2, uint32_t off)
{
    e_b(e, 0x65);
    e_b(e, 0x48 | (reg >= 8 ? 4u : 0u) | (index != EMIT_NO_REG && index >= 8 ? 2u : 0u) |
               (base != EMIT_NO_REG && base >= 8 ? 1u : 0u));
    e_b(e, opcode);
    if (index == EMIT_NO_REG && (base & 7) != 4) {
        e_b(e, 0x80 | ((reg & 7) << 3) | (base & 7));
    } else if (base == EMIT_NO_REG) {
        e_b(e, ((reg & 7) << 3) | 4);
        e_b(e, (scale_log2 << 6) | ((index & 7) << 3) | 5);
    } else {
        e_b(e, 0x80 | ((reg & 7) << 3) | 4);
        e_b(e, (scale_log2 << 6) | (((index == EMIT_NO_REG ? 4u : index) & 7) << 3) | (base & 7));
    }
    e_d(e, off);
}

static inline void e_mov_rr(struct emit *e, unsigned dst, unsigned src)
{
    e_b(e, 0x48 | (src >= 8 ? 4u : 0u) | (dst >= 8 ? 1u : 0u));
    e_b(e, 0x89);
    e_b(e, 0xc0 | ((src & 7) << 3) | (dst & 7));
}

/* mov reg, imm by the shortest encoding */
static inline void e_mov_imm(struct emit *e, unsigned reg, uint64_t imm)
{
    if (imm <= UINT32_MAX) {
        if (reg >= 8) {
            e_b(e, 0x41);
        }
        e_b(e, 0xb8 | (reg & 7));
        e_d(e, (uint32_t)imm);
    } else if (e_fits_s32(imm)) {
        e_b(e, 0x48 | (reg >= 8 ? 1u : 0u));
        e_b(e, 0xc7);
        e_b(e, 0xc0 | (reg & 7));
        e_d(e, (uint32_t)imm);
    } else {
        e_b(e, 0x48 | (reg >= 8 ? 1u : 0u));
        e_b(e, 0xb8 | (reg & 7));
        e_q(e, imm);
    }
}

/* ModRM (+SIB, disp) of [base + index * scale + disp]; either register may be EMIT_NO_REG */
static inline void e_modrm_mem(struct emit *e, unsigned reg, unsigned base, unsigned index, unsigned scale_log2,
                               int32_t disp)
{
    unsigned r = (reg & 7) << 3;

    if (base == EMIT_NO_REG) {
        e_b(e, r | 4);
        e_b(e, (scale_log2 << 6) | (((index == EMIT_NO_REG ? 4u : index) & 7) << 3) | 5);
        e_d(e, (uint32_t)disp);
        return;
    }
    unsigned mod = disp == 0 && (base & 7) != 5 ? 0 : disp == (int8_t)disp ? 1 : 2;
    if (index == EMIT_NO_REG && (base & 7) != 4) {
        e_b(e, (mod << 6) | r | (base & 7));
    } else {
        e_b(e, (mod << 6) | r | 4);
        e_b(e, (scale_log2 << 6) | (((index == EMIT_NO_REG ? 4u : index) & 7) << 3) | (base & 7));
    }
    if (mod == 1) {
        e_b(e, (uint8_t)disp);
    } else if (mod == 2) {
        e_d(e, (uint32_t)disp);
    }
}

/* opcode reg, [base + index*scale + disp] with REX.W = w (host addresses, no segment) */
static inline void e_op_mem(struct emit *e, unsigned opcode, unsigned reg, unsigned base, unsigned index,
                            unsigned scale_log2, int32_t disp, bool w)
{
    unsigned rex = (w ? 8u : 0u) | (reg >= 8 ? 4u : 0u) | (index != EMIT_NO_REG && index >= 8 ? 2u : 0u) |
                   (base != EMIT_NO_REG && base >= 8 ? 1u : 0u);
    if (rex != 0) {
        e_b(e, 0x40 | rex);
    }
    e_b(e, opcode);
    e_modrm_mem(e, reg, base, index, scale_log2, disp);
}

static inline void e_lea(struct emit *e, unsigned dst, unsigned base, unsigned index, unsigned scale_log2,
                         int32_t disp)
{
    e_op_mem(e, 0x8d, dst, base, index, scale_log2, disp, true);
}

/* pext dst, src, gs:[mask_off]: VEX.LZ.F3.0F38.W1 F5 /r, flags untouched */
static inline void e_pext_gs(struct emit *e, unsigned dst, unsigned src, uint32_t mask_off)
{
    e_b(e, 0x65);
    e_b(e, 0xc4);
    e_b(e, (dst >= 8 ? 0u : 0x80u) | 0x60 | 2);
    e_b(e, 0x80 | ((~src & 15) << 3) | 2);
    e_b(e, 0xf5);
    e_b(e, ((dst & 7) << 3) | 4);
    e_b(e, 0x25);
    e_d(e, mask_off);
}

/* jmp qword gs:[off] */
static inline void e_jmp_gs(struct emit *e, uint32_t off)
{
    e_b(e, 0x65);
    e_b(e, 0xff);
    e_b(e, 0x24);
    e_b(e, 0x25);
    e_d(e, off);
}

/* Patches the rel32 at `field` so that it leads to `target` (both in the writable view). */
static inline void e_patch_rel32(uint8_t *field, const uint8_t *target)
{
    int32_t rel = (int32_t)(target - (field + 4));
    __builtin_memcpy(field, &rel, 4);
}

#endif
