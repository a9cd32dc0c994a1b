/* SPDX-License-Identifier: MIT */
/*
 * Random cases: one instruction of a given form, with other registers, addressing, displacement and
 * immediate each time; and sequences of several. Deterministic: all chance comes from diff_random().
 */
#include "diff.h"

#include <string.h>

#define ATTEMPTS 200
#define WINDOW_BOUNDARY 0x100 /* of the two code pages, in the window */
#define SEQUENCE_MAX 8

static bool chance(unsigned percent)
{
    return diff_random() % 100 < percent;
}

/* ---- state ---- */

static uint64_t random_value(void)
{
    static const uint64_t special[] = {
        0, 1, 2, ~0ull, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff, 1ull << 32,
        0x7fffffffffffffff, 1ull << 63, 0xffffffff80000000, 0x5555555555555555, 31, 32, 63, 64,
    };
    uint64_t r = diff_random();

    switch (r & 7) {
    case 0:
    case 1:
        return special[(r >> 8) % (sizeof(special) / sizeof(special[0]))];
    case 2:
        return (r >> 8) & 0xff;
    case 3:
        return (uint64_t)((int64_t)diff_random() >> (8 + ((r >> 8) & 31)));
    default:
        return diff_random();
    }
}

static void random_x87(struct diff_vector *v)
{
    static const uint16_t fcw[] = {0x37f, 0x37f, 0x37f, 0x27f, 0x07f, 0xf7f, 0xb7f, 0x77f, 0x340, 0x37e, 0x37b};
    uint64_t r = diff_random();
    uint16_t control = fcw[(r >> 32) % (sizeof(fcw) / sizeof(fcw[0]))], status = (uint16_t)((r & 7) << 11 | (r & 0x4700));
    uint8_t tags = (r & 3) == 0 ? (uint8_t)(r >> 8) : (r & 3) == 1 ? 0 : 0xff;

    memcpy(v->fx, &control, 2);
    memcpy(v->fx + 2, &status, 2);
    v->fx[4] = tags;
    for (unsigned i = 0; i < 8; i++) {
        uint64_t kind = diff_random(), mantissa = diff_random() | 1ull << 63;
        uint16_t exponent = (uint16_t)(0x3ff0 + (kind >> 8) % 32);
        switch (kind & 15) {
        case 0:
            exponent = 0x7fff; /* infinity, NaN */
            mantissa = (kind & 16) ? 1ull << 63 : mantissa;
            break;
        case 1:
            exponent = 0;
            mantissa = (kind & 16) ? 0 : mantissa >> 1;
            break;
        case 2: /* an MMX register's exponent */
            exponent = 0xffff;
            break;
        case 3:
            exponent = (uint16_t)(kind >> 16); /* unnormal, maybe */
            mantissa = diff_random();
            break;
        case 4: /* small integer */
            mantissa = (1 + (kind >> 20) % 15) << 60;
            mantissa |= 1ull << 63;
            exponent = 0x4002;
            break;
        default:
            break;
        }
        exponent |= (uint16_t)((kind >> 7 & 1) << 15);
        memcpy(v->fx + 32 + i * 16, &mantissa, 8);
        memcpy(v->fx + 32 + i * 16 + 8, &exponent, 2);
    }
}

static void random_vector(void *p, size_t len)
{
    uint8_t *at = p;
    uint64_t kind = diff_random();

    for (size_t i = 0; i < len; i += 8) {
        uint64_t cell;
        /* the template cells hold floats and doubles of all kinds */
        memcpy(&cell, &diff_templates[kind % DIFF_TEMPLATES][(diff_random() % DIFF_DATA_RW_BYTES) & ~7ull], 8);
        memcpy(at + i, &cell, 8);
    }
}

/* Segments, and registers of 32 bits; a stack pointer of 16 bits leaves the upper half to chance. */
static void legacy_state(struct diff_case *c)
{
    diff_seg_pick(c);
    const struct diff_seg *ss = diff_seg_find(c->sel[DIFF_SS]);
    uint64_t r = diff_random(), sp = c->in.gpr[4];

    c->in.fs_base = c->in.gs_base = 0;
    if (ss)
        sp -= ss->base;
    if (r % 16 == 0) /* about to wrap, or at the segment's end */
        sp = ss && !ss->down ? (ss->pages ? 0 : ss->limit + 1) + 8 - (r >> 8) % 17 : 8 - (r >> 8) % 17;
    if (ss && !ss->big)
        sp = (sp & 0xffff) | ((r >> 62) ? 0 : r & 0xffff0000);
    c->in.gpr[4] = sp;
    for (unsigned i = 0; i < 16; i++)
        c->in.gpr[i] = i < diff_arch->gprs ? c->in.gpr[i] & 0xffffffff : 0;
    if (diff_arch->bits == 16) /* numbers of 16 bits are what such code has */
        for (unsigned i = 0; i < 8; i++)
            if (i != 4 && chance(60))
                c->in.gpr[i] &= 0xffff;
}

void diff_gen_state(struct diff_case *c)
{
    static const uint32_t mxcsr[] = {0x1f80, 0x1f80, 0x1f80, 0x1f80, 0x3f80, 0x5f80, 0x7f80, 0x9f80, 0x1fc0, 0x9fc0, 0x1fbf, 0x0000, 0x1d80};
    uint64_t r = diff_random();

    for (unsigned i = 0; i < 16; i++)
        c->in.gpr[i] = random_value();
    c->in.gpr[4] = DIFF_DATA + 0x1400 + ((r & 0x3f) << 3);
    if (r >> 60 == 0)
        c->in.gpr[4] = DIFF_DATA + 0x2000 - (r >> 20) % 9; /* a stack that crosses pages */
    if (r >> 60 == 1)
        c->in.gpr[4] = DIFF_DATA + ((r >> 59) & 1) * 0x3000 + (r >> 20) % 17; /* ... that ends; or is read-only */
    c->in.rflags = 0x202 | (diff_random() & DIFF_FLAGS_ARITH) | (chance(15) ? 0x400 : 0) | (chance(4) ? DIFF_FLAGS_AC : 0);
    c->in.fs_base = DIFF_DATA + 0x100 * (r >> 8 & 15);
    c->in.gs_base = chance(10) ? (r | 0xffff800000000000ull) : DIFF_DATA + 8 * (r >> 16 & 255);
    c->in.seg = 0;
    if (diff_arch->bits != 64)
        legacy_state(c);
    c->mem_template = (uint8_t)(diff_random() % DIFF_TEMPLATES);

    memset(&c->vec, 0, sizeof(c->vec));
    random_x87(&c->vec);
    memcpy(c->vec.fx + 24, &mxcsr[diff_random() % (sizeof(mxcsr) / sizeof(mxcsr[0]))], 4);
    random_vector(c->vec.fx + 160, 256);
    uint64_t xcr0 = diff_host_xcr0();
    if (xcr0 & 4)
        random_vector(c->vec.ymmh, sizeof(c->vec.ymmh));
    if ((xcr0 & 0xe0) == 0xe0) {
        random_vector(c->vec.zmmh, sizeof(c->vec.zmmh));
        random_vector(c->vec.hi16, sizeof(c->vec.hi16));
        for (unsigned i = 0; i < 8; i++)
            c->vec.k[i] = chance(50) ? diff_random() : 0xffff;
    }
}

/* ---- one encoding ---- */

/* Other registers in REX, VEX, EVEX; `head` is the offset of ModRM, or of what follows the opcode. */
static void vary_prefix(uint8_t *b, size_t *head, const struct diff_form *form)
{
    uint8_t r = (uint8_t)diff_random();
    size_t i = 0;

    while (i < *head && (b[i] == 0x66 || b[i] == 0x67 || b[i] == 0xf0 || b[i] == 0xf2 || b[i] == 0xf3))
        i++;
    switch (form->encoding) {
    case ZYDIS_INSTRUCTION_ENCODING_VEX:
    case ZYDIS_INSTRUCTION_ENCODING_XOP:
        if (diff_arch->bits != 64) { /* R and X tell it from LES, LDS and POP; fourth bits of registers do not count */
            b[i + 1] = (uint8_t)((b[i + 1] & 0xdf) | (r & 0x20));
            if ((b[i + 2] & 0x78) != 0x78)
                b[i + 2] = (uint8_t)((b[i + 2] & 0x87) | (diff_random() & 0x78));
            return;
        }
        b[i + 1] = (uint8_t)((b[i + 1] & 0x1f) | (r & 0xe0));
        if ((b[i + 2] & 0x78) != 0x78)
            b[i + 2] = (uint8_t)((b[i + 2] & 0x87) | (diff_random() & 0x78));
        return;
    case ZYDIS_INSTRUCTION_ENCODING_EVEX:
        if (diff_arch->bits != 64)
            return;
        b[i + 1] = (uint8_t)((b[i + 1] & 0x0f) | (r & 0xf0));
        if ((b[i + 2] & 0x78) != 0x78)
            b[i + 2] = (uint8_t)((b[i + 2] & 0x87) | (diff_random() & 0x78));
        if (b[i + 3] & 7)
            b[i + 3] = (uint8_t)((b[i + 3] & 0xf8) | (1 + r % 7));
        return;
    default:
        break;
    }
    if (diff_arch->bits != 64)
        return;
    if ((b[i] & 0xf0) == 0x40) {
        b[i] = (uint8_t)((b[i] & 0xf8) | (r & 7));
    } else if ((r & 0x18) == 0) {
        memmove(b + i + 1, b + i, *head - i);
        b[i] = (uint8_t)(0x40 | (r & 7));
        ++*head;
    }
}

/* Writes an encoding of the form with random operands; returns its length, or 0. */
static size_t vary_encoding(const struct diff_form *form, uint8_t out[15], ZydisDecodedInstruction *insn, ZydisDecodedOperand *ops)
{
    uint8_t b[40];
    size_t head;

    memcpy(b, form->bytes, 15);
    if (form->modrm_off) {
        head = form->modrm_off;
    } else {
        if (ZYAN_FAILED(ZydisDecoderDecodeFull(&diff_decoder, form->bytes, 15, insn, ops)))
            return 0;
        head = insn->raw.disp.size ? insn->raw.disp.offset : insn->raw.imm[0].size ? insn->raw.imm[0].offset : insn->length;
    }
    bool memory = form->modrm_off && form->bytes[form->modrm_off] < 0xc0;
    uint8_t modrm = form->bytes[form->modrm_off];
    vary_prefix(b, &head, form);
    bool addr16 = form->address_width == 16;
    if (chance(memory ? 25 : 3)) { /* a segment override, of which 64-bit mode knows FS and GS */
        static const uint8_t segs[] = {0x64, 0x65, 0x64, 0x65, 0x26, 0x2e, 0x36, 0x3e};
        memmove(b + 1, b, head);
        b[0] = segs[diff_random() & 7];
        head++;
    }
    if (form->modrm_off) {
        uint64_t r = diff_random();
        modrm = (uint8_t)((modrm & 0xc0) | (chance(80) ? r & 0x38 : modrm & 0x38) | (chance(90) ? r & 7 : modrm & 7));
        if (memory)
            modrm = (uint8_t)((modrm & 0x3f) | ((r >> 8) % 3) << 6);
        b[head++] = modrm;
        if (memory && addr16 && ((modrm >> 6) == 2 || (modrm & 0xc7) == 6)) {
            uint16_t disp = (uint16_t)(diff_random() % 0x4000 - 0x2000);
            memcpy(b + head, &disp, 2);
            head += 2;
        } else if (memory && addr16) {
            if (modrm >> 6)
                b[head++] = (uint8_t)diff_random();
        }
        memory = memory && !addr16; /* SIB, and displacements of 32 bits */
        if (memory && (modrm & 7) == 4)
            b[head++] = (uint8_t)(r >> 16);
        if (memory && (modrm >> 6) == 2) { /* a displacement of moderate size */
            int32_t disp = (int32_t)(diff_random() % 0x4000) - 0x2000;
            memcpy(b + head, &disp, 4);
            head += 4;
        } else if (memory && (modrm >> 6) == 1) {
            b[head++] = (uint8_t)diff_random();
        } else if (memory && ((modrm & 7) == 5 || ((modrm & 7) == 4 && (b[head - 1] & 7) == 5))) {
            memset(b + head, 0, 4);
            head += 4;
        }
    }
    if (head > 15)
        return 0;
    uint64_t tail = random_value();
    memcpy(b + head, &tail, 8);
    tail = diff_random();
    memcpy(b + head + 8, &tail, 8);
    if (form->encoding == ZYDIS_INSTRUCTION_ENCODING_3DNOW) /* the opcode is the last byte */
        b[head] = form->bytes[form->len - 1];
    if (ZYAN_FAILED(ZydisDecoderDecodeFull(&diff_decoder, b, 15, insn, ops)) || insn->length > 15 || diff_form_key(insn, ops) != form->key)
        return 0;
    memcpy(out, b, 15);
    return insn->length;
}

/* Sets the distance of the relative branch at `code`. */
static void put_branch(uint8_t *code, const ZydisDecodedInstruction *insn, int64_t distance)
{
    memcpy(code + insn->raw.imm[0].offset, &distance, insn->raw.imm[0].size / 8);
}

static void place_window(struct diff_case *c, size_t len)
{
    uint64_t r = diff_random();

    if (r % 3 == 0 && len > 1)
        c->code_off = (uint16_t)(WINDOW_BOUNDARY - 1 - (r >> 8) % (len - 1)); /* across the page boundary */
    else if (r % 8 == 1)
        c->code_off = (uint16_t)(WINDOW_BOUNDARY - len); /* the instruction behind is on the next page */
    else
        c->code_off = (uint16_t)(0x10 + (r >> 8) % 0x30);
    c->in.rip = DIFF_WINDOW + c->code_off - diff_seg_base(c, DIFF_CS);
}

static void case_reset(struct diff_case *c)
{
    uint32_t id = c->id;

    memset(c, 0, sizeof(*c));
    c->id = id;
    c->form = UINT32_MAX;
    diff_gen_state(c);
}

bool diff_gen_form(struct diff_case *c, uint32_t index)
{
    const struct diff_form *form = &diff_forms[index];
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];

    for (unsigned attempt = 0; attempt < ATTEMPTS; attempt++) {
        struct diff_place place = {0};
        uint8_t code[15];
        size_t len = vary_encoding(form, code, &insn, ops);
        if (!len || diff_vendor_specific(&insn))
            continue;
        case_reset(c);
        c->form = index;
        place_window(c, len);
        place.pinned = 1u << 4;
        if (!diff_place_operands(c, &place, code, c->in.rip, &insn, ops))
            continue;
        if (place.branch) {
            uint64_t r = diff_random();
            put_branch(code, &insn, insn.raw.imm[0].size >= 16 && r % 4 == 0 ? 0x4000 + (int64_t)(r >> 8 & 0xfff) : (int64_t)(r % 100));
        }
        memcpy(c->code, code, len);
        c->code_len = (uint16_t)len;
        if (diff_case_analyse(c))
            return true;
    }
    return false;
}

/* ---- sequences ---- */

static bool sequence_form_ok(const struct diff_form *form)
{
    if (!diff_form_works((uint32_t)(form - diff_forms)) || diff_refused(form->mnemonic, form->isa_set, form->category))
        return false;
    switch (form->category) {
    case ZYDIS_CATEGORY_CALL:
    case ZYDIS_CATEGORY_RET:
    case ZYDIS_CATEGORY_INTERRUPT:
    case ZYDIS_CATEGORY_SYSTEM:
    case ZYDIS_CATEGORY_IO:
    case ZYDIS_CATEGORY_IOSTRINGOP:
    case ZYDIS_CATEGORY_SEGOP:
        return false; /* these end a sequence before it has begun */
    default:
        return form->mnemonic != ZYDIS_MNEMONIC_JMP && !diff_user_only(form->mnemonic, form->category);
    }
}

/* A form for a sequence, general or not; UINT32_MAX if none was found. */
static uint32_t sequence_pick(bool plain)
{
    for (unsigned attempt = 0; attempt < 100000; attempt++) {
        uint32_t index = (uint32_t)(diff_random() % diff_form_count);
        const struct diff_form *form = &diff_forms[index];
        bool general = form->category == ZYDIS_CATEGORY_BINARY || form->category == ZYDIS_CATEGORY_LOGICAL ||
                       form->category == ZYDIS_CATEGORY_DATAXFER || form->category == ZYDIS_CATEGORY_SHIFT ||
                       form->category == ZYDIS_CATEGORY_ROTATE || form->category == ZYDIS_CATEGORY_BITBYTE ||
                       form->category == ZYDIS_CATEGORY_CMOV || form->category == ZYDIS_CATEGORY_SETCC ||
                       form->category == ZYDIS_CATEGORY_COND_BR || form->category == ZYDIS_CATEGORY_PUSH ||
                       form->category == ZYDIS_CATEGORY_POP || form->category == ZYDIS_CATEGORY_MISC ||
                       form->category == ZYDIS_CATEGORY_FLAGOP;
        if (general == plain && sequence_form_ok(form))
            return index;
    }
    return UINT32_MAX;
}

bool diff_gen_sequence(struct diff_case *c)
{
    struct {
        ZydisDecodedInstruction insn;
        size_t at;
    } branch[SEQUENCE_MAX];
    size_t start[SEQUENCE_MAX + 1], branches = 0, len = 0;
    unsigned want = 2 + (unsigned)(diff_random() % (SEQUENCE_MAX - 1)), n = 0;
    struct diff_place place = {.pinned = 1u << 4};
    bool plain = chance(60);
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];

    case_reset(c);
    place_window(c, want * 5);
    for (unsigned attempt = 0; n < want && attempt < ATTEMPTS; attempt++) {
        uint32_t picked = sequence_pick(plain || chance(30));
        if (picked == UINT32_MAX)
            return false;
        const struct diff_form *form = &diff_forms[picked];
        uint8_t code[15];
        size_t size = vary_encoding(form, code, &insn, ops);
        if (!size || len + size > DIFF_CODE_MAX || diff_vendor_specific(&insn))
            continue;
        struct diff_case saved = *c;
        struct diff_place before = place;
        if (!diff_place_operands(c, &place, code, c->in.rip + len, &insn, ops)) {
            *c = saved;
            place = before;
            continue;
        }
        start[n++] = len;
        if (place.branch) {
            branch[branches].insn = insn;
            branch[branches++].at = n - 1;
        }
        memcpy(c->code + len, code, size);
        len += size;
    }
    start[n] = len;
    for (size_t i = 0; i < branches; i++) {
        size_t next = branch[i].at + 1, target = next + diff_random() % 3;
        put_branch(c->code + start[branch[i].at], &branch[i].insn, (int64_t)(start[target < n ? target : n] - start[next]));
    }
    c->code_len = (uint16_t)len;
    return n >= 2 && diff_case_analyse(c) && !c->reads_undefined;
}
