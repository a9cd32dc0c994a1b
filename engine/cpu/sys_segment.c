/* SPDX-License-Identifier: MIT */
/*
 * Segment registers: descriptor reads and checks, and the instructions that load and store a
 * selector (SDM 3A chapter 3 and 5, SDM 2A/2B). Descriptor tables are read with implicit supervisor
 * accesses whatever the CPL.
 */
#include "cpu/segment.h"

/*
 *  63      56 55 54 53 52  51    48 47 46 45 44 43  40 39        16 15       0
 * | base     |G |DB|L |AVL|limit   |P |DPL  |S |type  | base 23..0 | limit    |
 *  63               48             47 46 45 44 43  40  36..32  31    16 15        0
 * | offset 31..16     |            |P |DPL  |S |type  | words | selector | offset  |   a gate
 */
static void descriptor_unpack(struct cpu_descriptor *d, uint64_t low, uint64_t high)
{
    uint32_t limit = (uint32_t)(low & 0xffff) | (uint32_t)(low >> 32 & 0xf0000);

    d->access_rights = (uint32_t)(low >> 40) & 0xf0ff;
    d->limit = (d->access_rights & X86_AR_G) != 0 ? limit << 12 | 0xfff : limit;
    d->base = (low >> 16 & 0xffffff) | (low >> 32 & 0xff000000) | high << 32;
    d->gate_offset = (low & 0xffff) | (low >> 32 & 0xffff0000) | high << 32;
    d->gate_selector = (uint16_t)(low >> 16);
    d->gate_words = (uint8_t)(low >> 32) & 31;
}

enum cpu_result cpu_descriptor_read(struct cpu *cpu, uint16_t selector, bool system16, struct cpu_descriptor *d,
                                    bool *found)
{
    const struct vmcs *v = &cpu->vmcs;
    const struct vmcs_segment *ldtr = &v->guest_seg[X86_LDTR];
    bool local = (selector & 4) != 0;
    uint64_t base = local ? ldtr->base : v->guest_gdtr_base;
    uint32_t limit = local ? ldtr->limit : v->guest_gdtr_limit;
    uint32_t offset = selector & 0xfff8u;
    uint64_t raw[2] = {0, 0};

    system16 = system16 && cpu_in_long_mode(cpu);
    *d = (struct cpu_descriptor){.address = cpu_system_va(cpu, base + offset)};
    *found = false;
    if ((local && (ldtr->access_rights & X86_AR_UNUSABLE) != 0) || offset + 7 > limit) {
        return CPU_NEXT;
    }
    enum cpu_result r = cpu_read(cpu, d->address, &raw[0], 8, cpu_implicit_idx(cpu));
    if (r != CPU_NEXT) {
        return r;
    }
    if (system16 && (raw[0] >> 44 & 1) == 0) {
        if (offset + 15 > limit) {
            return CPU_NEXT;
        }
        r = cpu_read(cpu, d->address + 8, &raw[1], 8, cpu_implicit_idx(cpu));
        if (r != CPU_NEXT) {
            return r;
        }
    }
    descriptor_unpack(d, raw[0], raw[1]);
    if (system16 && (d->access_rights & X86_AR_S) == 0 && (raw[1] >> 40 & 0x1f) != 0) {
        return CPU_NEXT; /* the upper half has a type: not a 16-byte descriptor */
    }
    *found = true;
    return CPU_NEXT;
}

/* Writes the type into byte 5 of the descriptor in memory, if it changed. */
static enum cpu_result descriptor_set_type(struct cpu *cpu, struct cpu_descriptor *d, uint32_t access_rights)
{
    uint8_t byte = (uint8_t)access_rights;

    if (d->access_rights == access_rights) {
        return CPU_NEXT;
    }
    d->access_rights = access_rights;
    return cpu_write(cpu, cpu_system_va(cpu, d->address + 5), &byte, 1, cpu_implicit_idx(cpu));
}

enum cpu_result cpu_descriptor_set_accessed(struct cpu *cpu, struct cpu_descriptor *d)
{
    return descriptor_set_type(cpu, d, d->access_rights | AR_TYPE_ACCESSED);
}

enum cpu_result cpu_descriptor_set_busy(struct cpu *cpu, struct cpu_descriptor *d, bool busy)
{
    return descriptor_set_type(cpu, d, busy ? d->access_rights | SYS_BUSY_BIT : d->access_rights & ~SYS_BUSY_BIT);
}

/* ---- putting a segment into its register ---- */

void cpu_segment_set(struct cpu *cpu, unsigned seg, uint16_t selector, const struct cpu_descriptor *d)
{
    cpu->vmcs.guest_seg[seg] = (struct vmcs_segment){
        .base = d->base, .limit = d->limit, .access_rights = d->access_rights, .selector = selector};
}

void cpu_segment_set_null(struct cpu *cpu, unsigned seg, uint16_t selector, unsigned dpl)
{
    struct vmcs_segment *s = &cpu->vmcs.guest_seg[seg];
    uint32_t dpl_bits = (uint32_t)dpl << X86_AR_DPL_SHIFT;

    *s = (struct vmcs_segment){.selector = selector, .access_rights = X86_AR_UNUSABLE | dpl_bits};
}

void cpu_segment_set_flat(struct cpu *cpu, unsigned seg, uint16_t selector, uint32_t access_rights)
{
    cpu->vmcs.guest_seg[seg] =
        (struct vmcs_segment){.limit = 0xffffffff, .access_rights = access_rights, .selector = selector};
}

struct vmcs_segment cpu_v86_segment(uint16_t selector)
{
    return (struct vmcs_segment){
        .base = (uint32_t)selector << 4, .limit = 0xffff, .access_rights = AR_V86, .selector = selector};
}

/*
 * Virtual-8086 mode fixes limit and rights (SDM 3A 20.2.1). Real mode changes base and selector only:
 * what protected mode has loaded stays, which is how a program gets more than 64 KiB there. Of a
 * segment that protected mode left unusable there is nothing to keep.
 */
void cpu_segment_set_real(struct cpu *cpu, unsigned seg, uint16_t selector)
{
    struct vmcs_segment *s = &cpu->vmcs.guest_seg[seg];

    if (cpu_in_v86_mode(cpu)) {
        *s = cpu_v86_segment(selector);
        return;
    }
    if ((s->access_rights & (X86_AR_UNUSABLE | X86_AR_P)) != X86_AR_P) {
        s->limit = 0xffff;
        s->access_rights = AR_REAL_DATA | (seg == X86_CS ? AR_TYPE_CODE : 0);
    }
    s->selector = selector;
    s->base = (uint32_t)selector << 4;
}

/* ---- checks ---- */

static bool code_dpl_is_good(uint32_t ar, enum code_use use, unsigned cpl, unsigned rpl)
{
    unsigned dpl = ar_dpl(ar);
    bool conforming = ar_is_conforming(ar);

    switch (use) {
    case CODE_DIRECT:
        return conforming ? dpl <= cpl : dpl == cpl && rpl <= cpl;
    case CODE_JMP_GATE:
        return conforming ? dpl <= cpl : dpl == cpl;
    case CODE_CALL_GATE:
    case CODE_INTERRUPT:
        return dpl <= cpl;
    case CODE_RETURN:
        return rpl >= cpl && (conforming ? dpl <= rpl : dpl == rpl);
    default:
        return conforming ? dpl <= rpl : dpl == rpl;
    }
}

enum cpu_result cpu_code_descriptor(struct cpu *cpu, uint16_t selector, enum code_use use, uint32_t ext,
                                    struct cpu_descriptor *d)
{
    unsigned vector = use == CODE_TASK ? X86_EXC_TS : X86_EXC_GP;
    uint32_t error = selector_error(selector, ext);
    bool found;

    if (selector_is_null(selector)) {
        return cpu_raise_error(cpu, vector, ext);
    }
    enum cpu_result r = cpu_descriptor_read(cpu, selector, false, d, &found);
    if (r != CPU_NEXT) {
        return r;
    }
    uint32_t ar = d->access_rights;
    if (!found || !ar_is_code(ar) || !code_dpl_is_good(ar, use, cpu_cpl(cpu), selector & 3u)) {
        return cpu_raise_error(cpu, vector, error);
    }
    /* In IA-32e mode gates lead to 64-bit code only, and L with D is no code segment. */
    bool gate = use == CODE_JMP_GATE || use == CODE_CALL_GATE || use == CODE_INTERRUPT;
    uint32_t l_db = ar & (X86_AR_L | X86_AR_DB);
    bool bad_l = cpu_in_long_mode(cpu) && (gate ? l_db != X86_AR_L : l_db == (X86_AR_L | X86_AR_DB));
    if (bad_l && (use == CODE_JMP_GATE || use == CODE_CALL_GATE)) {
        return cpu_raise_gp(cpu, error);
    }
    if ((ar & X86_AR_P) == 0) {
        return cpu_raise_error(cpu, X86_EXC_NP, error);
    }
    return bad_l ? cpu_raise_gp(cpu, error) : CPU_NEXT;
}

enum cpu_result cpu_check_rip(struct cpu *cpu, uint64_t rip, const struct cpu_descriptor *cs, uint32_t ext)
{
    bool is_64 = cpu_in_long_mode(cpu) && (cs->access_rights & X86_AR_L) != 0;

    return (is_64 ? cpu_is_canonical(cpu, rip) : rip <= cs->limit) ? CPU_NEXT : cpu_raise_gp(cpu, ext);
}

enum cpu_result cpu_stack_descriptor(struct cpu *cpu, uint16_t selector, unsigned cpl, unsigned vector, uint32_t ext,
                                     struct cpu_descriptor *d)
{
    uint32_t error = selector_error(selector, ext);
    bool found;

    enum cpu_result r = cpu_descriptor_read(cpu, selector, false, d, &found);
    if (r != CPU_NEXT) {
        return r;
    }
    uint32_t ar = d->access_rights;
    bool writable = (ar & (X86_AR_S | AR_TYPE_CODE | AR_TYPE_RW)) == (X86_AR_S | AR_TYPE_RW);
    if (!found || !writable || (selector & 3u) != cpl || ar_dpl(ar) != cpl) {
        return cpu_raise_error(cpu, vector, error);
    }
    return (ar & X86_AR_P) == 0 ? cpu_raise_error(cpu, X86_EXC_SS, error) : CPU_NEXT;
}

enum cpu_result cpu_data_descriptor(struct cpu *cpu, uint16_t selector, unsigned vector, uint32_t ext,
                                    struct cpu_descriptor *d)
{
    uint32_t error = selector_error(selector, ext);
    unsigned cpl = cpu_cpl(cpu), rpl = selector & 3u;
    bool found;

    enum cpu_result r = cpu_descriptor_read(cpu, selector, false, d, &found);
    if (r != CPU_NEXT) {
        return r;
    }
    uint32_t ar = d->access_rights;
    bool readable = (ar & X86_AR_S) != 0 && (!ar_is_code(ar) || (ar & AR_TYPE_RW) != 0);
    bool dpl_ok = ar_is_conforming(ar) || (ar_dpl(ar) >= cpl && ar_dpl(ar) >= rpl);
    if (!found || !readable || !dpl_ok) {
        return cpu_raise_error(cpu, vector, error);
    }
    return (ar & X86_AR_P) == 0 ? cpu_raise_error(cpu, X86_EXC_NP, error) : CPU_NEXT;
}

/* A null selector: SS allows it in 64-bit mode below CPL 3, with RPL = CPL (SDM 3A 5.7.1). */
static enum cpu_result load_null(struct cpu *cpu, unsigned seg, uint16_t selector)
{
    unsigned cpl = cpu_cpl(cpu);

    if (seg == X86_SS) {
        if ((cpu->mode & CPU_MODE_LONG) == 0 || cpl == 3 || (selector & 3u) != cpl) {
            return cpu_raise_gp(cpu, 0);
        }
    }
    /* Intel keeps nothing of the old descriptor: base is cleared, also for FS and GS. */
    cpu_segment_set_null(cpu, seg, selector, cpl);
    return CPU_NEXT;
}

enum cpu_result cpu_segment_load(struct cpu *cpu, unsigned seg, uint16_t selector)
{
    struct cpu_descriptor d;

    if (!cpu_is_protected(cpu)) {
        cpu_segment_set_real(cpu, seg, selector);
        return CPU_NEXT;
    }
    if (selector_is_null(selector)) {
        return load_null(cpu, seg, selector);
    }
    enum cpu_result r = seg == X86_SS ? cpu_stack_descriptor(cpu, selector, cpu_cpl(cpu), X86_EXC_GP, 0, &d)
                                      : cpu_data_descriptor(cpu, selector, X86_EXC_GP, 0, &d);
    if (r == CPU_NEXT) {
        r = cpu_descriptor_set_accessed(cpu, &d);
    }
    if (r == CPU_NEXT) {
        cpu_segment_set(cpu, seg, selector, &d);
    }
    return r;
}

/* ---- MOV, PUSH, POP, Lxx ---- */

enum cpu_result cpu_selector_operand(struct cpu *cpu, uint32_t arg, uint16_t *selector)
{
    if (!HELPER_ARG_IS_MEM(arg)) {
        *selector = (uint16_t)cpu->gpr[HELPER_ARG_RM(arg)];
        return CPU_NEXT;
    }
    enum cpu_result r = cpu_operand(cpu, arg, 2, MMU_READ);
    if (r == CPU_NEXT) {
        r = cpu_check_aligned(cpu, cpu->ea, 2);
    }
    return r == CPU_NEXT ? cpu_read(cpu, cpu->ea, selector, 2, cpu_mmu_idx(cpu)) : r;
}

enum cpu_result cpu_store_selector(struct cpu *cpu, uint32_t arg, uint32_t len, uint16_t selector)
{
    if (!HELPER_ARG_IS_MEM(arg)) {
        cpu_set_gpr(cpu, HELPER_ARG_RM(arg), HELPER_ARG_OPSIZE(arg), selector);
        return CPU_NEXT;
    }
    enum cpu_result r = cpu_operand(cpu, arg, 2, MMU_WRITE);
    if (r == CPU_NEXT) {
        r = cpu_check_aligned(cpu, cpu->ea, 2);
    }
    return r == CPU_NEXT ? cpu_write_last(cpu, cpu->ea, &selector, 2, len) : r;
}

/* Loading SS holds back interrupts and debug exceptions for one instruction (SDM 3A 6.8.3). */
static void shadow_mov_ss(struct cpu *cpu, unsigned seg)
{
    if (seg == X86_SS) {
        cpu->intr_shadow = VMX_INTR_MOV_SS;
    }
    cpu_update_mode(cpu);
}

enum cpu_result sys_mov_sreg(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    unsigned seg = HELPER_ARG_REG(arg);
    bool load = HELPER_ARG_IMM8(arg) == 0x8e;
    uint16_t selector;

    if (seg > X86_GS || (load && seg == X86_CS)) {
        return cpu_raise(cpu, X86_EXC_UD);
    }
    if (!load) {
        selector = cpu->vmcs.guest_seg[seg].selector;
        return cpu_store_selector(cpu, arg, len, selector);
    }
    enum cpu_result r = cpu_selector_operand(cpu, arg, &selector);
    if (r == CPU_NEXT) {
        r = cpu_segment_load(cpu, seg, selector);
    }
    if (r == CPU_NEXT) {
        shadow_mov_ss(cpu, seg);
    }
    return r;
}

/* Operand size of PUSH and POP: in 64-bit code 8, or 2 with a prefix. */
static unsigned stack_operand(const struct cpu *cpu, uint32_t arg)
{
    return HELPER_ARG_OPSIZE(arg) == 2 ? 2 : cpu_in_64bit_code(cpu) ? 8 : 4;
}

/*
 * A 32-bit PUSH moves the stack pointer by four. Intel's processors store the selector alone and
 * leave the upper half as it was (SDM 2B, PUSH); AMD's store four bytes.
 */
enum cpu_result sys_push_sreg(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    unsigned bytes = stack_operand(cpu, arg), stored = bytes == 4 && !isa_vendor_amd() ? 2 : bytes;
    uint64_t value = cpu->vmcs.guest_seg[HELPER_ARG_REG(arg)].selector;
    uint64_t sp = cpu->gpr[X86_RSP] - bytes;
    gva_t va;

    enum cpu_result r = cpu_stack_va(cpu, sp, stored, MMU_WRITE, &va);
    if (r == CPU_NEXT) {
        r = cpu_stack_result(cpu, cpu_write_last(cpu, va, &value, stored, len));
    }
    if (cpu_stored(cpu, r)) {
        cpu_set_sp(cpu, sp);
    }
    return r;
}

enum cpu_result sys_pop_sreg(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    unsigned bytes = stack_operand(cpu, arg), sp_bytes = cpu_stack_bytes(cpu), seg = HELPER_ARG_REG(arg);
    uint64_t value = 0, sp = cpu->gpr[X86_RSP];
    gva_t va;

    (void)len;
    enum cpu_result r = cpu_stack_va(cpu, sp, bytes, MMU_READ, &va);
    if (r == CPU_NEXT) {
        r = cpu_stack_result(cpu, cpu_read(cpu, va, &value, bytes, cpu_mmu_idx(cpu)));
    }
    if (r == CPU_NEXT) {
        r = cpu_segment_load(cpu, seg, (uint16_t)value);
    }
    if (r == CPU_NEXT) {
        cpu_set_gpr(cpu, X86_RSP, sp_bytes, sp + bytes); /* as wide as before POP SS */
        shadow_mov_ss(cpu, seg);
    }
    return r;
}

/* LDS, LES, LFS, LGS, LSS: offset, then selector. */
static enum cpu_result load_far_pointer(struct cpu *cpu, uint32_t arg, unsigned seg)
{
    unsigned bytes = HELPER_ARG_OPSIZE(arg);
    uint8_t raw[10];
    uint64_t offset = 0;
    uint16_t selector;

    enum cpu_result r = cpu_operand(cpu, arg, bytes + 2, MMU_READ);
    if (r == CPU_NEXT) {
        r = cpu_check_aligned(cpu, cpu->ea, bytes);
    }
    if (r == CPU_NEXT) {
        r = cpu_read(cpu, cpu->ea, raw, bytes + 2, cpu_mmu_idx(cpu));
    }
    if (r != CPU_NEXT) {
        return r;
    }
    for (unsigned i = bytes; i-- > 0;) {
        offset = offset << 8 | raw[i];
    }
    selector = (uint16_t)(raw[bytes] | raw[bytes + 1] << 8);
    r = cpu_segment_load(cpu, seg, selector);
    if (r == CPU_NEXT) {
        cpu_set_gpr(cpu, HELPER_ARG_REG(arg), bytes, offset);
        cpu_update_mode(cpu); /* LSS shadows nothing (SDM 3A 6.8.3) */
    }
    return r;
}

enum cpu_result sys_lds(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    (void)len;
    return load_far_pointer(cpu, arg, X86_DS);
}

enum cpu_result sys_les(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    (void)len;
    return load_far_pointer(cpu, arg, X86_ES);
}

enum cpu_result sys_lfs(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    (void)len;
    return load_far_pointer(cpu, arg, X86_FS);
}

enum cpu_result sys_lgs(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    (void)len;
    return load_far_pointer(cpu, arg, X86_GS);
}

enum cpu_result sys_lss(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    (void)len;
    return load_far_pointer(cpu, arg, X86_SS);
}
