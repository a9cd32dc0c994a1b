/* SPDX-License-Identifier: MIT */
/*
 * Gathers, scatters and masked moves: vector instructions with several memory operands, each with
 * its own fault (SDM 2, VPGATHER, VPSCATTER, VMASKMOV, MASKMOVDQU). They work on the saved vector
 * state (cpu->xsave) and decode themselves, because `arg` has no vector operands. Elements are done
 * in order; a fault leaves the ones before it done and their mask bits clear.
 */
#include <Zydis/Zydis.h>

#include "cpu/sys.h"
#include "mmu/mmu.h"

#define FSW_ES 0x80u
#define ST_OFFSET 32u
#define XMM_OFFSET 160u
#define XSTATE_BV_OFFSET 512u
#define COMP_YMM 2u
#define COMP_OPMASK 5u
#define COMP_ZMM_HIGH 6u
#define COMP_ZMM16 7u
#define MAX_VECTOR_BYTES 64u

struct vec {
    uint8_t b[MAX_VECTOR_BYTES];
};

struct decoded {
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
};

/* ---- the saved vector state ---- */

static void copy(uint8_t *to, const uint8_t *from, unsigned n)
{
    while (n-- > 0) {
        *to++ = *from++;
    }
}

static void zero(uint8_t *to, unsigned n)
{
    while (n-- > 0) {
        *to++ = 0;
    }
}

static uint64_t *xstate_bv(struct cpu *cpu)
{
    return (uint64_t *)(void *)(cpu->xsave + XSTATE_BV_OFFSET);
}

/* The bytes of one register in a component: NULL to read if the component is in its initial state. */
static uint8_t *component(struct cpu *cpu, unsigned i, unsigned offset, bool write)
{
    uint8_t *base = i < 2 ? cpu->xsave + XMM_OFFSET : cpu->xsave + cpu->xcomp[i].offset;

    if (i >= 2 && cpu->xcomp[i].size == 0) {
        return NULL; /* the host does not have it */
    }
    if ((*xstate_bv(cpu) >> i & 1) == 0) {
        if (!write) {
            return NULL;
        }
        zero(base, i < 2 ? 256 : cpu->xcomp[i].size);
        *xstate_bv(cpu) |= 1ull << i;
    }
    return base + offset;
}

static void vector_part(struct cpu *cpu, unsigned comp, unsigned offset, uint8_t *part, unsigned n, bool write)
{
    bool all_zero = true;

    for (unsigned i = 0; write && i < n; i++) {
        all_zero &= part[i] == 0;
    }
    /* Zeroing what is in its initial state needs no component. */
    uint8_t *p = component(cpu, comp, offset, write && !all_zero);
    if (p == NULL && !write) {
        zero(part, n);
    } else if (p != NULL) {
        copy(write ? p : part, write ? part : p, n);
    }
}

static void vector_access(struct cpu *cpu, unsigned reg, struct vec *v, bool write)
{
    if (reg >= 16) {
        vector_part(cpu, COMP_ZMM16, (reg - 16) * 64, v->b, 64, write);
        return;
    }
    vector_part(cpu, 1, reg * 16, v->b, 16, write);
    vector_part(cpu, COMP_YMM, reg * 16, v->b + 16, 16, write);
    vector_part(cpu, COMP_ZMM_HIGH, reg * 32, v->b + 32, 32, write);
}

static uint64_t opmask_read(struct cpu *cpu, unsigned k)
{
    uint64_t value = 0;

    vector_part(cpu, COMP_OPMASK, k * 8, (uint8_t *)&value, 8, false);
    return value;
}

static void opmask_write(struct cpu *cpu, unsigned k, uint64_t value)
{
    vector_part(cpu, COMP_OPMASK, k * 8, (uint8_t *)&value, 8, true);
}

static uint64_t element(const struct vec *v, unsigned i, unsigned bytes)
{
    uint64_t value = 0;

    copy((uint8_t *)&value, v->b + i * bytes, bytes);
    return value;
}

static void set_element(struct vec *v, unsigned i, unsigned bytes, uint64_t value)
{
    copy(v->b + i * bytes, (const uint8_t *)&value, bytes);
}

static bool sign_of(const struct vec *v, unsigned i, unsigned bytes)
{
    return (v->b[i * bytes + bytes - 1] & 0x80) != 0;
}

/* ---- decoding ---- */

static enum cpu_result decode(struct cpu *cpu, uint32_t len, struct decoded *d)
{
    uint8_t code[15];
    ZydisDecoder decoder;
    bool wide = cpu_in_64bit_code(cpu), db = (cpu->mode & CPU_MODE_DB) != 0;
    ZydisMachineMode machine = wide ? ZYDIS_MACHINE_MODE_LONG_64
                               : db ? ZYDIS_MACHINE_MODE_LEGACY_32
                                    : ZYDIS_MACHINE_MODE_LEGACY_16;
    ZydisStackWidth stack = wide ? ZYDIS_STACK_WIDTH_64 : db ? ZYDIS_STACK_WIDTH_32 : ZYDIS_STACK_WIDTH_16;

    for (uint32_t at = 0; at < len && at < sizeof(code);) {
        struct cpu_piece p;
        gva_t va = cpu_va_add(cpu, cpu_code_va(cpu), at);
        uint32_t n = (uint32_t)(KAGE_PAGE_SIZE - (va & ~KAGE_PAGE_MASK));
        struct mmu_map map;
        switch (mmu_translate(cpu, va, MMU_FETCH, cpu_mmu_idx(cpu), &map)) {
        case MMU_OK:
            p = (struct cpu_piece){.host = map.hva};
            break;
        case MMU_FAULT:
            return CPU_FAULT;
        case MMU_EXIT:
            return CPU_EXIT;
        default:
            return cpu_vmexit(cpu, VMX_EXIT_KAGE_UNSUPPORTED, 0, len); /* code in MMIO */
        }
        n = n < len - at ? n : len - at;
        copy(code + at, p.host, n);
        at += n;
    }
    if (!ZYAN_SUCCESS(ZydisDecoderInit(&decoder, machine, stack)) ||
        !ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, code, len, &d->insn, d->op))) {
        return cpu_raise(cpu, X86_EXC_UD);
    }
    return CPU_NEXT;
}

static unsigned register_number(ZydisRegister reg)
{
    return (unsigned)ZydisRegisterGetId(reg);
}

/* Base register and displacement of an operand, without index and segment. */
static uint64_t operand_base(const struct cpu *cpu, const struct decoded *d, const ZydisDecodedOperand *mem)
{
    uint64_t at = (uint64_t)mem->mem.disp.value;

    if (mem->mem.base == ZYDIS_REGISTER_RIP || mem->mem.base == ZYDIS_REGISTER_EIP) {
        at += cpu->rip + d->insn.length;
    } else if (d->insn.raw.modrm.mod == 0 && d->insn.raw.sib.base == 5) {
        /* no base, whatever Zydis says of R13D */
    } else if (mem->mem.base != ZYDIS_REGISTER_NONE) {
        at += cpu->gpr[register_number(mem->mem.base)];
    }
    return at;
}

/* ---- gathers and scatters ---- */

struct vsib_shape {
    ZydisMnemonic mnemonic;
    uint8_t index_bytes, data_bytes;
    bool scatter;
};

static const struct vsib_shape vsib_shapes[] = {
    {ZYDIS_MNEMONIC_VPGATHERDD, 4, 4, false},  {ZYDIS_MNEMONIC_VPGATHERDQ, 4, 8, false},
    {ZYDIS_MNEMONIC_VPGATHERQD, 8, 4, false},  {ZYDIS_MNEMONIC_VPGATHERQQ, 8, 8, false},
    {ZYDIS_MNEMONIC_VGATHERDPS, 4, 4, false},  {ZYDIS_MNEMONIC_VGATHERDPD, 4, 8, false},
    {ZYDIS_MNEMONIC_VGATHERQPS, 8, 4, false},  {ZYDIS_MNEMONIC_VGATHERQPD, 8, 8, false},
    {ZYDIS_MNEMONIC_VPSCATTERDD, 4, 4, true},  {ZYDIS_MNEMONIC_VPSCATTERDQ, 4, 8, true},
    {ZYDIS_MNEMONIC_VPSCATTERQD, 8, 4, true},  {ZYDIS_MNEMONIC_VPSCATTERQQ, 8, 8, true},
    {ZYDIS_MNEMONIC_VSCATTERDPS, 4, 4, true},  {ZYDIS_MNEMONIC_VSCATTERDPD, 4, 8, true},
    {ZYDIS_MNEMONIC_VSCATTERQPS, 8, 4, true},  {ZYDIS_MNEMONIC_VSCATTERQPD, 8, 8, true},
};

struct vsib {
    const struct vsib_shape *shape;
    const ZydisDecodedOperand *mem;
    unsigned count, data_reg, mask_reg;
    bool evex;
    struct vec data, index, vmask;
    uint64_t kmask;
};

static bool vsib_setup(struct cpu *cpu, const struct decoded *d, struct vsib *v)
{
    v->shape = NULL;
    for (size_t i = 0; i < KAGE_ARRAY_SIZE(vsib_shapes); i++) {
        if (vsib_shapes[i].mnemonic == d->insn.mnemonic) {
            v->shape = &vsib_shapes[i];
        }
    }
    if (v->shape == NULL) {
        return false;
    }
    v->evex = d->insn.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX;
    const ZydisDecodedOperand *data = NULL, *mask = NULL;
    v->mem = NULL;
    for (unsigned i = 0; i < d->insn.operand_count_visible; i++) {
        const ZydisDecodedOperand *op = &d->op[i];
        if (op->type == ZYDIS_OPERAND_TYPE_MEMORY) {
            v->mem = op;
        } else if (op->type == ZYDIS_OPERAND_TYPE_REGISTER) {
            bool is_k = ZydisRegisterGetClass(op->reg.value) == ZYDIS_REGCLASS_MASK;
            if (is_k || (data != NULL && !v->evex)) {
                mask = op;
            } else {
                data = op;
            }
        }
    }
    if (data == NULL || v->mem == NULL || (mask == NULL && !v->evex)) {
        return false;
    }
    unsigned wide = v->shape->index_bytes > v->shape->data_bytes ? v->shape->index_bytes : v->shape->data_bytes;
    v->count = d->insn.avx.vector_length / 8u / wide;
    v->data_reg = register_number(data->reg.value);
    v->mask_reg = register_number(v->evex ? d->insn.avx.mask.reg : mask->reg.value);
    vector_access(cpu, v->data_reg, &v->data, false);
    vector_access(cpu, register_number(v->mem->mem.index), &v->index, false);
    if (v->evex) {
        v->kmask = opmask_read(cpu, v->mask_reg);
    } else {
        vector_access(cpu, v->mask_reg, &v->vmask, false);
    }
    return true;
}

static bool vsib_wanted(const struct vsib *v, unsigned i)
{
    return v->evex ? (v->kmask >> i & 1) != 0 : sign_of(&v->vmask, i, v->shape->data_bytes);
}

static void vsib_clear(struct vsib *v, unsigned i)
{
    if (v->evex) {
        v->kmask &= ~(1ull << i);
    } else {
        set_element(&v->vmask, i, v->shape->data_bytes, 0);
    }
}

/* Writes back destination and mask: of a finished instruction, or of the elements before a fault. */
static void vsib_finish(struct cpu *cpu, struct vsib *v, bool finished)
{
    unsigned used = v->count * v->shape->data_bytes;

    if (!v->shape->scatter) {
        if (finished) {
            zero(v->data.b + used, MAX_VECTOR_BYTES - used);
        }
        vector_access(cpu, v->data_reg, &v->data, true);
    }
    if (v->evex) {
        opmask_write(cpu, v->mask_reg, finished ? 0 : v->kmask);
        return;
    }
    if (finished) {
        zero(v->vmask.b, MAX_VECTOR_BYTES);
    }
    vector_access(cpu, v->mask_reg, &v->vmask, true);
}

/* ES CS SS DS FS GS: Zydis numbers them as the encoding does. */
static unsigned segment_number(ZydisRegister seg)
{
    int id = ZydisRegisterGetId(seg);
    return id >= X86_ES && id <= X86_GS ? (unsigned)id : X86_DS;
}

/* Linear address of element i, which is a memory operand of its own. */
static enum cpu_result vsib_address(struct cpu *cpu, const struct decoded *d, const struct vsib *v, unsigned i, gva_t *va)
{
    unsigned bytes = v->shape->data_bytes;
    uint64_t index = element(&v->index, i, v->shape->index_bytes);

    if (v->shape->index_bytes == 4) {
        index = (uint64_t)(int64_t)(int32_t)index;
    }
    uint64_t at = operand_base(cpu, d, v->mem) + index * v->mem->mem.scale;
    enum cpu_result r = cpu_linear(cpu, segment_number(v->mem->mem.segment), d->insn.address_width == 32 ? (uint32_t)at : at,
                                   bytes, v->shape->scatter ? MMU_WRITE : MMU_READ, va);
    /* AMD's processors ask no alignment of gathered elements, Intel's do (SDM 2A 2.4.12, exceptions type 12) */
    return r == CPU_NEXT && !isa_vendor_amd() ? cpu_check_aligned(cpu, *va, bytes) : r;
}

static enum cpu_result vsib_run(struct cpu *cpu, const struct decoded *d, uint32_t len)
{
    struct vsib v;

    if (!vsib_setup(cpu, d, &v)) {
        return cpu_raise(cpu, X86_EXC_UD);
    }
    unsigned bytes = v.shape->data_bytes;
    for (unsigned i = 0; i < v.count; i++) {
        if (!vsib_wanted(&v, i)) {
            vsib_clear(&v, i); /* all of the mask element, not only its sign */
            continue;
        }
        gva_t va;
        uint64_t value = element(&v.data, i, bytes);
        enum cpu_result r = vsib_address(cpu, d, &v, i, &va);
        if (r == CPU_NEXT) {
            r = v.shape->scatter ? cpu_write(cpu, va, &value, bytes, cpu_mmu_idx(cpu))
                                 : cpu_read(cpu, va, &value, bytes, cpu_mmu_idx(cpu));
        }
        bool posted = r == CPU_EXIT && cpu_mmio_posted(cpu);
        if (r == CPU_NEXT || posted) {
            set_element(&v.data, i, bytes, value);
            vsib_clear(&v, i);
        }
        if (r == CPU_NEXT) {
            continue;
        }
        if (v.mem->mem.segment == ZYDIS_REGISTER_SS) {
            r = cpu_stack_result(cpu, r);
        }
        bool left = false;
        for (unsigned j = i; j < v.count; j++) {
            left |= vsib_wanted(&v, j);
        }
        vsib_finish(cpu, &v, posted && !left);
        cpu_advance(cpu, posted && !left ? len : 0);
        return r;
    }
    vsib_finish(cpu, &v, true);
    return CPU_NEXT;
}

enum cpu_result sys_gather(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    struct decoded d;

    (void)arg;
    cpu_fpu_save(cpu);
    enum cpu_result r = decode(cpu, len, &d);
    if (r == CPU_NEXT) {
        r = vsib_run(cpu, &d, len);
    }
    cpu_fpu_load(cpu);
    return r;
}

/* ---- masked moves ---- */

/*
 * Element i of a masked operand: only those under the mask are checked against the segment. In 64-bit code, and where all of it
 * was checked, `at` is linear.
 */
struct masked_operand {
    uint64_t at;
    uint64_t mask; /* of the address size: each element's offset is cut to it, as the host's processor does */
    unsigned seg;
    bool linear;
};

static enum cpu_result masked_address(struct cpu *cpu, const struct masked_operand *m, unsigned i, unsigned bytes,
                                      enum mmu_access access, gva_t *va)
{
    if (m->linear || cpu_in_64bit_code(cpu)) {
        *va = cpu_va_add(cpu, m->at, i * bytes);
        return CPU_NEXT;
    }
    return cpu_linear(cpu, m->seg, (m->at + i * bytes) & m->mask, bytes, access, va);
}

/* Stores the elements whose mask sign is set: all of them are checked before one is written. */
static enum cpu_result masked_store(struct cpu *cpu, const struct masked_operand *m, const struct vec *data, const struct vec *mask,
                                    unsigned count, unsigned bytes, uint32_t len)
{
    unsigned mmio = 0;
    gva_t va[MAX_VECTOR_BYTES];

    for (unsigned i = 0; i < count; i++) {
        struct cpu_piece p;
        if (!sign_of(mask, i, bytes)) {
            continue;
        }
        enum cpu_result r = masked_address(cpu, m, i, bytes, MMU_WRITE, &va[i]);
        if (r == CPU_NEXT) {
            r = cpu_probe(cpu, va[i], bytes, MMU_WRITE, cpu_mmu_idx(cpu));
        }
        if (r == CPU_NEXT) {
            r = cpu_locate(cpu, va[i], MMU_WRITE, cpu_mmu_idx(cpu), &p);
        }
        if (r != CPU_NEXT) {
            return r;
        }
        mmio += p.host == NULL ? 1 : 0;
    }
    if (mmio > 1) { /* cpu->mmio[] posts one contiguous write */
        return cpu_vmexit(cpu, VMX_EXIT_KAGE_UNSUPPORTED, 0, len);
    }
    enum cpu_result result = CPU_NEXT;
    for (unsigned i = 0; i < count; i++) {
        if (sign_of(mask, i, bytes)) {
            enum cpu_result r = cpu_write(cpu, va[i], data->b + i * bytes, bytes, cpu_mmu_idx(cpu));
            result = r != CPU_NEXT ? r : result;
        }
    }
    if (result == CPU_EXIT && cpu_mmio_posted(cpu)) {
        cpu_advance(cpu, len);
    }
    return result;
}

/* VMASKMOVPS/PD, VPMASKMOVD/Q: op0, op1, op2 are destination, mask, source. */
static enum cpu_result masked_move(struct cpu *cpu, const struct decoded *d, uint32_t arg, uint32_t len)
{
    struct masked_operand m = {.at = cpu->ea, .mask = cpu_size_mask(d->insn.address_width / 8u), .seg = HELPER_ARG_SEG(arg)};
    bool wide = d->insn.mnemonic == ZYDIS_MNEMONIC_VMASKMOVPD || d->insn.mnemonic == ZYDIS_MNEMONIC_VPMASKMOVQ;
    unsigned bytes = wide ? 8 : 4, count = d->insn.avx.vector_length / 8u / bytes;
    bool to_memory = d->op[0].type == ZYDIS_OPERAND_TYPE_MEMORY;
    struct vec data = {{0}}, mask;

    vector_access(cpu, register_number(d->op[1].reg.value), &mask, false);
    if (to_memory) {
        vector_access(cpu, register_number(d->op[2].reg.value), &data, false);
        return masked_store(cpu, &m, &data, &mask, count, bytes, len);
    }
    for (unsigned i = 0; i < count; i++) {
        if (sign_of(&mask, i, bytes)) {
            uint64_t value = 0;
            gva_t va;
            enum cpu_result r = masked_address(cpu, &m, i, bytes, MMU_READ, &va);
            if (r == CPU_NEXT) {
                r = cpu_read(cpu, va, &value, bytes, cpu_mmu_idx(cpu));
            }
            if (r != CPU_NEXT) {
                return r;
            }
            set_element(&data, i, bytes, value);
        }
    }
    vector_access(cpu, register_number(d->op[0].reg.value), &data, true);
    return CPU_NEXT;
}

enum cpu_result sys_maskmov(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    struct decoded d;

    cpu_fpu_save(cpu);
    enum cpu_result r = decode(cpu, len, &d);
    if (r == CPU_NEXT) {
        r = masked_move(cpu, &d, arg, len);
    }
    cpu_fpu_load(cpu);
    return r;
}

/* MMi is the physical register Ri; the image holds the stack from its top (SDM 1 9.6). */
static void mmx_read(struct cpu *cpu, unsigned i, struct vec *v)
{
    unsigned top = cpu->xsave[3] >> 3 & 7;

    zero(v->b, MAX_VECTOR_BYTES);
    if ((*xstate_bv(cpu) & X86_XCR0_X87) != 0) {
        copy(v->b, cpu->xsave + ST_OFFSET + ((i - top) & 7) * 16, 8);
    }
}

/* Every MMX instruction sets TOP to 0 and marks all registers as valid. */
static void mmx_enter(struct cpu *cpu)
{
    unsigned top = cpu->xsave[3] >> 3 & 7;
    uint8_t old[128];

    if ((*xstate_bv(cpu) & X86_XCR0_X87) == 0) {
        static const uint8_t init[] = {0x7f, 0x03};
        zero(cpu->xsave, 24);
        zero(cpu->xsave + ST_OFFSET, 128);
        copy(cpu->xsave, init, sizeof(init));
        *xstate_bv(cpu) |= X86_XCR0_X87;
        top = 0;
    }
    copy(old, cpu->xsave + ST_OFFSET, sizeof(old));
    for (unsigned i = 0; i < 8; i++) {
        copy(cpu->xsave + ST_OFFSET + i * 16, old + ((i - top) & 7) * 16, 16);
    }
    cpu->xsave[3] &= (uint8_t)~0x38;
    cpu->xsave[4] = 0xff;
}

/* Unlike VMASKMOV, these fault for bytes that are masked out too, as the SDM allows and AMD's processors do. */
static enum cpu_result bytes_store(struct cpu *cpu, struct masked_operand *m, const struct vec *data,
                                   const struct vec *mask, unsigned count, uint32_t len)
{
    enum cpu_result r = cpu_linear(cpu, m->seg, m->at, count, MMU_WRITE, &m->at);

    m->linear = true;
    if (r == CPU_NEXT && (count == 8 || isa_vendor_amd())) {
        r = cpu_check_aligned(cpu, m->at, count);
    }
    if (r == CPU_NEXT) {
        r = cpu_probe(cpu, m->at, count, MMU_WRITE, cpu_mmu_idx(cpu));
    }
    return r == CPU_NEXT ? masked_store(cpu, m, data, mask, count, 1, len) : r;
}

/* MASKMOVQ, MASKMOVDQU, VMASKMOVDQU: bytes of the first operand to DS:[rDI] under the second's signs. */
static enum cpu_result masked_bytes(struct cpu *cpu, const struct decoded *d, uint32_t len)
{
    bool mmx = d->insn.mnemonic == ZYDIS_MNEMONIC_MASKMOVQ;
    unsigned a = 0, b = 0, found = 0;
    uint64_t size_mask = cpu_size_mask(d->insn.address_width / 8u);
    struct masked_operand m = {.at = cpu->gpr[X86_RDI] & size_mask, .mask = size_mask, .seg = X86_DS};
    struct vec data, mask;

    for (unsigned i = 0; i < d->insn.operand_count; i++) {
        const ZydisDecodedOperand *op = &d->op[i];
        if (op->type == ZYDIS_OPERAND_TYPE_MEMORY) {
            m.seg = segment_number(op->mem.segment);
        } else if (op->type == ZYDIS_OPERAND_TYPE_REGISTER && op->visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT) {
            *(found++ == 0 ? &a : &b) = register_number(op->reg.value);
        }
    }
    if (!mmx) {
        vector_access(cpu, a, &data, false);
        vector_access(cpu, b, &mask, false);
        return bytes_store(cpu, &m, &data, &mask, 16, len);
    }
    if ((*xstate_bv(cpu) & X86_XCR0_X87) != 0 && (cpu->xsave[2] & FSW_ES) != 0) {
        return cpu_raise(cpu, X86_EXC_MF); /* an x87 error waits, as every MMX instruction but EMMS finds out */
    }
    mmx_read(cpu, a, &data);
    mmx_read(cpu, b, &mask);
    mmx_enter(cpu); /* even if the store faults */
    return bytes_store(cpu, &m, &data, &mask, 8, len);
}

enum cpu_result sys_maskmov_implicit(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    struct decoded d;

    (void)arg;
    cpu_fpu_save(cpu);
    enum cpu_result r = decode(cpu, len, &d);
    if (r == CPU_NEXT) {
        r = masked_bytes(cpu, &d, len);
    }
    cpu_fpu_load(cpu);
    return r;
}
