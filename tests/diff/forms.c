/* SPDX-License-Identifier: MIT */
/*
 * Every encoding form of the run's kind of code that Zydis decodes, found by walking the opcode maps: legacy with
 * all mandatory and size prefixes, VEX, and EVEX where the host has AVX-512. Two encodings are of
 * the same form if mnemonic, encoding, sizes and the kinds of all operands agree; which registers
 * and what addressing they use is left to the generator.
 */
#include "diff.h"

#include <stdlib.h>
#include <string.h>

struct diff_form *diff_forms;
size_t diff_form_count;
ZydisDecoder diff_decoder;

#define TABLE_BITS 16
static uint32_t *form_table; /* open addressing; form index + 1 */
static size_t form_room;

/* Mnemonics that only another mode or machine has: why, for the report. */
const char *diff_elsewhere[ZYDIS_MNEMONIC_MAX_VALUE + 1];
static const ZydisDecoder *walker = &diff_decoder;
static const char *walker_reason; /* not NULL: note mnemonics, no forms */

static uint64_t mix(uint64_t h, uint64_t v)
{
    h ^= v + 0x9e3779b97f4a7c15ull + (h << 6) + (h >> 2);
    return h * 0xff51afd7ed558ccdull;
}

uint64_t diff_form_key(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops)
{
    uint64_t h = mix(insn->mnemonic, insn->encoding);

    h = mix(h, insn->opcode_map);
    h = mix(h, insn->operand_width);
    h = mix(h, insn->address_width);
    h = mix(h, insn->avx.vector_length);
    h = mix(h, insn->avx.mask.mode);
    h = mix(h, insn->avx.broadcast.mode);
    h = mix(h, insn->avx.rounding.mode);
    h = mix(h, insn->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE | ZYDIS_ATTRIB_HAS_LOCK));
    for (unsigned i = 0; i < insn->operand_count; i++) {
        const ZydisDecodedOperand *op = &ops[i];
        h = mix(h, op->type);
        h = mix(h, op->encoding);
        h = mix(h, op->size);
        h = mix(h, op->visibility);
        if (op->type == ZYDIS_OPERAND_TYPE_REGISTER) {
            h = mix(h, ZydisRegisterGetClass(op->reg.value));
            /* registers that the opcode names, not ModRM: each counts */
            if (op->encoding == ZYDIS_OPERAND_ENCODING_NONE)
                h = mix(h, op->reg.value);
            /* AH CH DH BH */
            h = mix(h, op->reg.value >= ZYDIS_REGISTER_AH && op->reg.value <= ZYDIS_REGISTER_BH);
        } else if (op->type == ZYDIS_OPERAND_TYPE_MEMORY) {
            h = mix(h, op->mem.type);
        }
    }
    return h;
}

static int form_add(const ZydisDecodedInstruction *insn, uint64_t key, const uint8_t *bytes)
{
    size_t slot = key >> (64 - TABLE_BITS);

    for (; form_table[slot]; slot = (slot + 1) & ((1u << TABLE_BITS) - 1))
        if (diff_forms[form_table[slot] - 1].key == key)
            return 0;
    if (diff_form_count + 1 >= 1u << (TABLE_BITS - 1))
        return -1;
    if (diff_form_count == form_room) {
        form_room = form_room ? form_room * 2 : 4096;
        struct diff_form *grown = realloc(diff_forms, form_room * sizeof(*grown));
        if (!grown)
            return -1;
        diff_forms = grown;
    }
    struct diff_form *form = &diff_forms[diff_form_count++];
    memset(form, 0, sizeof(*form));
    form->key = key;
    form->mnemonic = (uint16_t)insn->mnemonic;
    form->isa_set = (uint8_t)insn->meta.isa_set;
    form->category = (uint8_t)insn->meta.category;
    form->encoding = (uint8_t)insn->encoding;
    form->address_width = (uint8_t)insn->address_width;
    form->len = insn->length;
    form->modrm_off = (insn->attributes & ZYDIS_ATTRIB_HAS_MODRM) ? insn->raw.modrm.offset : 0;
    memcpy(form->bytes, bytes, insn->length);
    form_table[slot] = (uint32_t)diff_form_count;
    return 0;
}

static int try_bytes(const uint8_t *bytes, bool *has_modrm)
{
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];

    if (ZYAN_FAILED(ZydisDecoderDecodeFull(walker, bytes, 15, &insn, ops)))
        return 0;
    if (walker_reason) {
        if (!diff_elsewhere[insn.mnemonic])
            diff_elsewhere[insn.mnemonic] = walker_reason;
        return 0;
    }
    *has_modrm = (insn.attributes & ZYDIS_ATTRIB_HAS_MODRM) != 0;
    return form_add(&insn, diff_form_key(&insn, ops), bytes);
}

/* All ModRM bytes that can make a difference behind the `len` bytes of prefixes and opcode. */
static int walk_modrm(uint8_t *bytes, size_t len, bool all_rm, bool memory_only)
{
    /* memory by SIB without VSIB trouble, so that one form of bytes fits gathers too */
    static const uint8_t sib = 0x0e;
    bool has_modrm = true;
    int err = 0;

    for (unsigned reg = 0; reg < 8 && !err; reg++) {
        memset(bytes + len, 0, 15 - len);
        bytes[len] = (uint8_t)(reg << 3 | 4); /* [rsi + rcx] */
        bytes[len + 1] = sib;
        err = try_bytes(bytes, &has_modrm);
        if (!has_modrm)
            return err;
        if (memory_only)
            continue;
        for (unsigned rm = 0; rm < (all_rm ? 8u : 1u) && !err; rm++) {
            bytes[len] = (uint8_t)(0xc0 | reg << 3 | rm);
            bytes[len + 1] = 0;
            err = try_bytes(bytes, &has_modrm);
        }
    }
    return err;
}

static const uint8_t mandatory[] = {0, 0x66, 0xf3, 0xf2};

static int walk_legacy(void)
{
    static const uint8_t map_bytes[4][2] = {{0, 0}, {0x0f, 0}, {0x0f, 0x38}, {0x0f, 0x3a}};
    uint8_t b[24];
    int err = 0;

    bool long_mode = walker->machine_mode == ZYDIS_MACHINE_MODE_LONG_64;
    for (unsigned lead = 0; lead < 3; lead++)     /* none, LOCK, 67 */
        for (unsigned p = 0; p < 4; p++)
            for (unsigned rex = 0; rex < (long_mode ? 3 : 1); rex++) /* none, 40, 48 */
                for (unsigned map = 0; map < 4; map++)
                    for (unsigned op = 0; op < 256 && !err; op++) {
                        size_t n = 0;
                        if (lead)
                            b[n++] = lead == 1 ? 0xf0 : 0x67;
                        if (mandatory[p])
                            b[n++] = mandatory[p];
                        if (rex)
                            b[n++] = rex == 1 ? 0x40 : 0x48;
                        for (unsigned i = 0; i < 2; i++)
                            if (map_bytes[map][i])
                                b[n++] = map_bytes[map][i];
                        /* prefixes and escapes are not opcodes */
                        bool vex = op == 0xc4 || op == 0xc5 || op == 0x62;
                        if (map == 0 && (op == 0x0f || op == 0x66 || op == 0x67 || op == 0xf0 || op == 0xf2 || op == 0xf3 ||
                                         (op & 0xe7) == 0x26 || op == 0x64 || op == 0x65))
                            continue;
                        if (map == 0 && long_mode && (vex || (op >= 0x40 && op < 0x50)))
                            continue;
                        if (map == 1 && (op == 0x38 || op == 0x3a))
                            continue;
                        b[n++] = (uint8_t)op;
                        err = walk_modrm(b, n, map < 2, map == 0 && vex);
                    }
    return err;
}

/* 3DNow!: 0F 0F ModRM, and the opcode where an immediate would be. */
static int walk_3dnow(void)
{
    bool has_modrm;
    int err = 0;

    for (unsigned op = 0; op < 256 && !err; op++)
        for (unsigned mod = 0; mod < 2 && !err; mod++) {
            const uint8_t b[15] = {0x0f, 0x0f, mod ? 0xc0 : 0x06, (uint8_t)op};
            err = try_bytes(b, &has_modrm);
        }
    return err;
}

/* VEX by its three-byte prefix C4, XOP by 8F: the same layout, other maps. */
static int walk_vex(uint8_t prefix, unsigned first_map, unsigned last_map)
{
    uint8_t b[24];
    int err = 0;

    for (unsigned lead = 0; lead < 2; lead++)
        for (unsigned map = first_map; map <= last_map; map++)
            for (unsigned wlpp = 0; wlpp < 16; wlpp++)
                for (unsigned vvvv = 0; vvvv < 2; vvvv++)
                    for (unsigned op = 0; op < 256 && !err; op++) {
                        size_t n = 0;
                        if (lead)
                            b[n++] = 0x67;
                        b[n++] = prefix;
                        b[n++] = (uint8_t)(0xe0 | map);
                        b[n++] = (uint8_t)((wlpp & 8) << 4 | (vvvv ? 0x68 : 0x78) | (wlpp & 7));
                        b[n++] = (uint8_t)op;
                        err = walk_modrm(b, n, false, false);
                    }
    return err;
}

/* EVEX; or, with its bit 2 of the third byte clear, the MVEX of Xeon Phi. `tails`: how many of the variants (zeroing last) to walk. */
static int walk_evex(uint8_t third, unsigned tails)
{
    static const uint8_t maps[] = {1, 2, 3, 5, 6};
    uint8_t b[24];
    int err = 0;

    for (unsigned map = 0; map < sizeof(maps); map++)
        for (unsigned wpp = 0; wpp < 8; wpp++)
            for (unsigned tail = 0; tail < tails; tail++) /* vvvv, mask, b, LL, z */
                for (unsigned op = 0; op < 256 && !err; op++) {
                    b[0] = 0x62;
                    b[1] = (uint8_t)(0xf0 | maps[map]);
                    b[2] = (uint8_t)((wpp & 4) << 5 | ((tail & 1) ? 0x68 : 0x78) | third | (wpp & 3));
                    b[3] = (uint8_t)(((tail >> 2) & 15) << 4 | 8 | ((tail >> 1) & 1));
                    b[4] = (uint8_t)op;
                    err = walk_modrm(b, 5, false, false);
                }
    return err;
}

/* Mnemonics that this kind of code does not have, by the same walks in another decoder. */
static int note_elsewhere(ZydisMachineMode mode, bool knc, const char *reason)
{
    ZydisDecoder decoder;
    int err;

    if (ZYAN_FAILED(ZydisDecoderInit(&decoder, mode, mode == ZYDIS_MACHINE_MODE_LONG_64 ? ZYDIS_STACK_WIDTH_64 : ZYDIS_STACK_WIDTH_32)))
        return -1;
    if (knc && ZYAN_FAILED(ZydisDecoderEnableMode(&decoder, ZYDIS_DECODER_MODE_KNC, ZYAN_TRUE)))
        return -1;
    walker = &decoder;
    walker_reason = reason;
    if (knc)
        err = walk_evex(0, 64) || walk_vex(0xc4, 1, 3) || walk_legacy();
    else if (mode == ZYDIS_MACHINE_MODE_LONG_64)
        err = walk_evex(4, 128) || walk_vex(0xc4, 1, 3) || walk_vex(0x8f, 8, 10) || walk_legacy();
    else
        err = walk_legacy();
    walker = &diff_decoder;
    walker_reason = NULL;
    return err;
}

int diff_forms_init(void)
{
    bool avx512 = (diff_host_xcr0() & 0xe0) == 0xe0;

    form_table = calloc(1u << TABLE_BITS, sizeof(*form_table));
    if (!form_table || ZYAN_FAILED(ZydisDecoderInit(&diff_decoder, diff_arch->machine, diff_arch->stack)))
        return -1;
    if (walk_legacy() || walk_3dnow() || walk_vex(0xc4, 1, 3) || walk_vex(0x8f, 8, 10))
        return -1;
    /* a host without AVX-512 has to refuse its instructions: a few forms of each show that */
    if (walk_evex(4, avx512 ? 128 : 32))
        return -1;
    int err = diff_arch->bits == 64 ? note_elsewhere(ZYDIS_MACHINE_MODE_LEGACY_32, false, "not in 64-bit mode")
                                    : note_elsewhere(ZYDIS_MACHINE_MODE_LONG_64, false, "64-bit mode only");
    return err || note_elsewhere(ZYDIS_MACHINE_MODE_LONG_64, true, "of the first Xeon Phi only")
               ? -1
               : 0;
}
