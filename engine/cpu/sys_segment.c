/* SPDX-License-Identifier: MIT */
/*
 * Segmentation: descriptor reads and checks, segment loads, the descriptor-table registers, and
 * LAR, LSL, VERR, VERW (SDM 3A chapter 3 and 5, SDM 2A/2B). Descriptor tables are read with
 * implicit supervisor accesses whatever the CPL.
 */
#include "cpu/sys.h"

#define AR_TYPE_CODE 8u
#define AR_TYPE_CONFORMING 4u
#define AR_TYPE_EXPAND_DOWN 4u
#define AR_TYPE_RW 2u /* writable data, readable code */
#define AR_TYPE_ACCESSED 1u
#define SYS_LDT 2u
#define SYS_TSS_AVAILABLE 9u
#define SYS_TSS_BUSY 11u
#define SYS_CALL_GATE 12u

static unsigned ar_dpl(uint32_t ar)
{
    return (ar & X86_AR_DPL) >> X86_AR_DPL_SHIFT;
}

static bool ar_is_code(uint32_t ar)
{
    return (ar & (X86_AR_S | AR_TYPE_CODE)) == (X86_AR_S | AR_TYPE_CODE);
}

static bool selector_is_null(uint16_t selector)
{
    return (selector & ~3u) == 0;
}

/*
 *  63      56 55 54 53 52  51    48 47 46 45 44 43  40 39        16 15       0
 * | base     |G |DB|L |AVL|limit   |P |DPL  |S |type  | base 23..0 | limit    |
 */
static void descriptor_unpack(struct cpu_descriptor *d, uint64_t low, uint64_t high)
{
    uint32_t limit = (uint32_t)(low & 0xffff) | (uint32_t)(low >> 32 & 0xf0000);

    d->access_rights = (uint32_t)(low >> 40) & 0xf0ff;
    d->limit = (d->access_rights & X86_AR_G) != 0 ? limit << 12 | 0xfff : limit;
    d->base = (low >> 16 & 0xffffff) | (low >> 32 & 0xff000000) | high << 32;
    d->gate_offset = (low & 0xffff) | (low >> 32 & 0xffff0000) | high << 32;
    d->gate_selector = (uint16_t)(low >> 16);
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

    *d = (struct cpu_descriptor){.address = base + offset};
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

/* Sets type bits in byte 5 of the descriptor in memory. */
static enum cpu_result descriptor_set_type(struct cpu *cpu, struct cpu_descriptor *d, uint32_t bits)
{
    if ((d->access_rights & bits) == bits) {
        return CPU_NEXT;
    }
    d->access_rights |= bits;
    uint8_t byte = (uint8_t)d->access_rights;
    enum cpu_result r = cpu_write(cpu, d->address + 5, &byte, 1, cpu_implicit_idx(cpu));
    return r;
}

enum cpu_result cpu_descriptor_set_accessed(struct cpu *cpu, struct cpu_descriptor *d)
{
    return descriptor_set_type(cpu, d, AR_TYPE_ACCESSED);
}

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
    uint32_t error = selector & ~3u;
    unsigned cpl = cpu_cpl(cpu), rpl = selector & 3u;
    struct cpu_descriptor d;
    bool found;

    if (selector_is_null(selector)) {
        return load_null(cpu, seg, selector);
    }
    enum cpu_result r = cpu_descriptor_read(cpu, selector, false, &d, &found);
    if (r != CPU_NEXT) {
        return r;
    }
    uint32_t ar = d.access_rights;
    unsigned dpl = ar_dpl(ar);
    bool good = found && (ar & X86_AR_S) != 0;
    if (seg == X86_SS) {
        good = good && !ar_is_code(ar) && (ar & AR_TYPE_RW) != 0 && rpl == cpl && dpl == cpl;
    } else if (ar_is_code(ar)) {
        good = good && (ar & AR_TYPE_RW) != 0 &&
               ((ar & AR_TYPE_CONFORMING) != 0 || (dpl >= cpl && dpl >= rpl));
    } else {
        good = good && dpl >= cpl && dpl >= rpl;
    }
    if (!good) {
        return cpu_raise_gp(cpu, error);
    }
    if ((ar & X86_AR_P) == 0) {
        return cpu_raise_error(cpu, seg == X86_SS ? X86_EXC_SS : X86_EXC_NP, error);
    }
    r = cpu_descriptor_set_accessed(cpu, &d);
    if (r == CPU_NEXT) {
        cpu_segment_set(cpu, seg, selector, &d);
    }
    return r;
}

/* ---- MOV, PUSH, POP, Lxx ---- */

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
        if (HELPER_ARG_IS_MEM(arg)) {
            return cpu_write_last(cpu, cpu->ea, &selector, 2, len);
        }
        cpu_set_gpr(cpu, HELPER_ARG_RM(arg), HELPER_ARG_OPSIZE(arg), selector);
        return CPU_NEXT;
    }
    if (HELPER_ARG_IS_MEM(arg)) {
        enum cpu_result r = cpu_read(cpu, cpu->ea, &selector, 2, cpu_mmu_idx(cpu));
        if (r != CPU_NEXT) {
            return r;
        }
    } else {
        selector = (uint16_t)cpu->gpr[HELPER_ARG_RM(arg)];
    }
    enum cpu_result r = cpu_segment_load(cpu, seg, selector);
    if (r == CPU_NEXT) {
        shadow_mov_ss(cpu, seg);
    }
    return r;
}

enum cpu_result sys_push_sreg(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    unsigned bytes = HELPER_ARG_OPSIZE(arg) == 2 ? 2 : 8;
    uint64_t value = cpu->vmcs.guest_seg[HELPER_ARG_REG(arg)].selector;
    uint64_t rsp = cpu->gpr[X86_RSP] - bytes;

    enum cpu_result r = cpu_stack_result(cpu, cpu_write_last(cpu, rsp, &value, bytes, len));
    if (r == CPU_NEXT || (r == CPU_EXIT && cpu_mmio_posted(cpu))) {
        cpu->gpr[X86_RSP] = rsp;
    }
    return r;
}

enum cpu_result sys_pop_sreg(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    unsigned bytes = HELPER_ARG_OPSIZE(arg) == 2 ? 2 : 8;
    unsigned seg = HELPER_ARG_REG(arg);
    uint64_t value = 0;

    (void)len;
    enum cpu_result r = cpu_stack_result(cpu, cpu_read(cpu, cpu->gpr[X86_RSP], &value, bytes, cpu_mmu_idx(cpu)));
    if (r == CPU_NEXT) {
        r = cpu_segment_load(cpu, seg, (uint16_t)value);
    }
    if (r == CPU_NEXT) {
        cpu->gpr[X86_RSP] += bytes;
        shadow_mov_ss(cpu, seg);
    }
    return r;
}

/* LFS, LGS, LSS: offset, then selector. */
static enum cpu_result load_far_pointer(struct cpu *cpu, uint32_t arg, unsigned seg)
{
    unsigned bytes = HELPER_ARG_OPSIZE(arg);
    uint8_t raw[10];
    uint64_t offset = 0;
    uint16_t selector;

    enum cpu_result r = cpu_read(cpu, cpu->ea, raw, bytes + 2, cpu_mmu_idx(cpu));
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

/* ---- LAR, LSL, VERR, VERW ---- */

static enum cpu_result selector_operand(struct cpu *cpu, uint32_t arg, uint16_t *selector)
{
    if (HELPER_ARG_IS_MEM(arg)) {
        return cpu_read(cpu, cpu->ea, selector, 2, cpu_mmu_idx(cpu));
    }
    *selector = (uint16_t)cpu->gpr[HELPER_ARG_RM(arg)];
    return CPU_NEXT;
}

static void set_zf(struct cpu *cpu, bool on)
{
    cpu->rflags = (cpu->rflags & ~X86_FLAGS_ZF) | (on ? X86_FLAGS_ZF : 0);
}

/* What LAR and LSL share: the descriptor, if it exists, has an allowed type, and is visible. */
static enum cpu_result query_descriptor(struct cpu *cpu, uint32_t arg, uint32_t system_types, struct cpu_descriptor *d,
                                        bool *visible)
{
    uint16_t selector;
    bool found;

    *visible = false;
    enum cpu_result r = selector_operand(cpu, arg, &selector);
    if (r != CPU_NEXT || selector_is_null(selector)) {
        return r;
    }
    r = cpu_descriptor_read(cpu, selector, cpu_in_long_mode(cpu), d, &found);
    if (r != CPU_NEXT || !found) {
        return r;
    }
    uint32_t ar = d->access_rights;
    if ((ar & X86_AR_S) == 0 && (system_types >> (ar & X86_AR_TYPE) & 1) == 0) {
        return CPU_NEXT;
    }
    bool conforming = ar_is_code(ar) && (ar & AR_TYPE_CONFORMING) != 0;
    *visible = conforming || (ar_dpl(ar) >= cpu_cpl(cpu) && ar_dpl(ar) >= (selector & 3u));
    return CPU_NEXT;
}

enum cpu_result sys_lar(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    static const uint32_t types = 1u << SYS_LDT | 1u << SYS_TSS_AVAILABLE | 1u << SYS_TSS_BUSY | 1u << SYS_CALL_GATE;
    struct cpu_descriptor d;
    bool visible;

    (void)len;
    enum cpu_result r = query_descriptor(cpu, arg, types, &d, &visible);
    if (r == CPU_NEXT) {
        if (visible) {
            /* Bits 19..16 are undefined on Intel, limit 19..16 on AMD (APM 3 LAR). */
            uint32_t limit_high = (d.access_rights & X86_AR_G) != 0 ? d.limit >> 28 : d.limit >> 16;
            uint64_t value = (uint64_t)(d.access_rights & 0xf0ff) << 8 | (uint64_t)limit_high << 16;
            unsigned bytes = HELPER_ARG_OPSIZE(arg);
            cpu_set_gpr(cpu, HELPER_ARG_REG(arg), bytes, bytes == 2 ? value & 0xffff : value);
        }
        set_zf(cpu, visible);
    }
    return r;
}

enum cpu_result sys_lsl(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    static const uint32_t types = 1u << SYS_LDT | 1u << SYS_TSS_AVAILABLE | 1u << SYS_TSS_BUSY;
    struct cpu_descriptor d;
    bool visible;

    (void)len;
    enum cpu_result r = query_descriptor(cpu, arg, types, &d, &visible);
    if (r == CPU_NEXT) {
        if (visible) {
            cpu_set_gpr(cpu, HELPER_ARG_REG(arg), HELPER_ARG_OPSIZE(arg), d.limit);
        }
        set_zf(cpu, visible);
    }
    return r;
}

static enum cpu_result verify(struct cpu *cpu, uint32_t arg, bool write)
{
    struct cpu_descriptor d;
    bool ok;

    enum cpu_result r = query_descriptor(cpu, arg, 0, &d, &ok);
    if (r == CPU_NEXT) {
        bool code = ok && ar_is_code(d.access_rights), rw = ok && (d.access_rights & AR_TYPE_RW) != 0;
        set_zf(cpu, ok && (write ? !code && rw : !code || rw));
    }
    return r;
}

enum cpu_result sys_verr(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    (void)len;
    return verify(cpu, arg, false);
}

enum cpu_result sys_verw(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    (void)len;
    return verify(cpu, arg, true);
}

/* ---- descriptor-table registers ---- */

/*
 * Checks of LGDT, LIDT, LLDT, LTR (load) and SGDT, SIDT, SLDT, STR (store), and the exit. The
 * identity is bits 29..28 of the instruction information (SDM 3C tables 28-10 and 28-11); base,
 * index and displacement are not rebuilt: the linear address of the operand is reported instead.
 */
static enum cpu_result table_check(struct cpu *cpu, uint32_t arg, uint32_t len, uint32_t reason, uint32_t identity,
                                   bool load)
{
    if (cpu_cpl(cpu) != 0 && (load || (cpu->vmcs.guest_cr4 & X86_CR4_UMIP) != 0)) {
        return cpu_raise_gp(cpu, 0);
    }
    if (cpu_proc_ctl2(cpu, VMX_PROC2_DESC_TABLE_EXITING)) {
        enum cpu_result r = cpu_vmexit(cpu, reason, 0, len);
        bool mem = HELPER_ARG_IS_MEM(arg);
        cpu->vmcs.exit_instruction_info = identity << 28 | (mem ? 0 : 1u << 10 | HELPER_ARG_RM(arg) << 3) |
                                          (mem ? HELPER_ARG_SEG(arg) << 15 : 0) | ((arg >> 14 & 3u) - 1u) << 7;
        cpu->vmcs.guest_linear_address = mem ? cpu->ea : 0;
        return r;
    }
    return CPU_NEXT;
}

static enum cpu_result load_table(struct cpu *cpu, uint32_t arg, uint32_t len, uint64_t *base, uint32_t *limit,
                                  uint32_t identity)
{
    uint8_t raw[10];
    uint64_t new_base;
    uint16_t new_limit;

    enum cpu_result r = table_check(cpu, arg, len, VMX_EXIT_GDTR_IDTR, identity, true);
    if (r == CPU_NEXT) {
        r = cpu_read(cpu, cpu->ea, raw, sizeof(raw), cpu_mmu_idx(cpu));
    }
    if (r != CPU_NEXT) {
        return r;
    }
    __builtin_memcpy(&new_limit, raw, 2);
    __builtin_memcpy(&new_base, raw + 2, 8);
    if (!x86_is_canonical(new_base)) {
        return cpu_raise_gp(cpu, 0);
    }
    *base = new_base;
    *limit = new_limit;
    return CPU_NEXT;
}

static enum cpu_result store_table(struct cpu *cpu, uint32_t arg, uint32_t len, uint64_t base, uint32_t limit,
                                   uint32_t identity)
{
    uint8_t raw[10];
    uint16_t limit16 = (uint16_t)limit;

    enum cpu_result r = table_check(cpu, arg, len, VMX_EXIT_GDTR_IDTR, identity, false);
    if (r != CPU_NEXT) {
        return r;
    }
    __builtin_memcpy(raw, &limit16, 2);
    __builtin_memcpy(raw + 2, &base, 8);
    return cpu_write_last(cpu, cpu->ea, raw, sizeof(raw), len);
}

enum cpu_result sys_lgdt(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    return load_table(cpu, arg, len, &cpu->vmcs.guest_gdtr_base, &cpu->vmcs.guest_gdtr_limit, 2);
}

enum cpu_result sys_lidt(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    return load_table(cpu, arg, len, &cpu->vmcs.guest_idtr_base, &cpu->vmcs.guest_idtr_limit, 3);
}

enum cpu_result sys_sgdt(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    return store_table(cpu, arg, len, cpu->vmcs.guest_gdtr_base, cpu->vmcs.guest_gdtr_limit, 0);
}

enum cpu_result sys_sidt(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    return store_table(cpu, arg, len, cpu->vmcs.guest_idtr_base, cpu->vmcs.guest_idtr_limit, 1);
}

/* Reads and checks the system descriptor for LLDT or LTR. */
static enum cpu_result system_descriptor(struct cpu *cpu, uint16_t selector, uint32_t type, struct cpu_descriptor *d)
{
    uint32_t error = selector & ~3u;
    bool found = false;

    if ((selector & 4) == 0) {
        enum cpu_result r = cpu_descriptor_read(cpu, selector, true, d, &found);
        if (r != CPU_NEXT) {
            return r;
        }
    }
    if (!found || (d->access_rights & (X86_AR_S | X86_AR_TYPE)) != type) {
        return cpu_raise_gp(cpu, error);
    }
    if ((d->access_rights & X86_AR_P) == 0) {
        return cpu_raise_error(cpu, X86_EXC_NP, error);
    }
    if (!x86_is_canonical(d->base)) {
        return cpu_raise_gp(cpu, error);
    }
    return CPU_NEXT;
}

enum cpu_result sys_lldt(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    struct cpu_descriptor d;
    uint16_t selector;

    enum cpu_result r = table_check(cpu, arg, len, VMX_EXIT_LDTR_TR, 2, true);
    if (r == CPU_NEXT) {
        r = selector_operand(cpu, arg, &selector);
    }
    if (r != CPU_NEXT) {
        return r;
    }
    if (selector_is_null(selector)) {
        cpu_segment_set_null(cpu, X86_LDTR, selector, 0);
        return CPU_NEXT;
    }
    r = system_descriptor(cpu, selector, SYS_LDT, &d);
    if (r == CPU_NEXT) {
        cpu_segment_set(cpu, X86_LDTR, selector, &d);
    }
    return r;
}

enum cpu_result sys_ltr(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    struct cpu_descriptor d;
    uint16_t selector;

    enum cpu_result r = table_check(cpu, arg, len, VMX_EXIT_LDTR_TR, 3, true);
    if (r == CPU_NEXT) {
        r = selector_operand(cpu, arg, &selector);
    }
    if (r != CPU_NEXT) {
        return r;
    }
    if (selector_is_null(selector)) {
        return cpu_raise_gp(cpu, 0);
    }
    r = system_descriptor(cpu, selector, SYS_TSS_AVAILABLE, &d);
    if (r == CPU_NEXT) {
        r = descriptor_set_type(cpu, &d, SYS_TSS_BUSY);
    }
    if (r == CPU_NEXT) {
        cpu_segment_set(cpu, X86_TR, selector, &d);
    }
    return r;
}

static enum cpu_result store_selector(struct cpu *cpu, uint32_t arg, uint32_t len, unsigned seg, uint32_t identity)
{
    uint16_t selector = cpu->vmcs.guest_seg[seg].selector;

    enum cpu_result r = table_check(cpu, arg, len, VMX_EXIT_LDTR_TR, identity, false);
    if (r != CPU_NEXT) {
        return r;
    }
    if (HELPER_ARG_IS_MEM(arg)) {
        return cpu_write_last(cpu, cpu->ea, &selector, 2, len);
    }
    cpu_set_gpr(cpu, HELPER_ARG_RM(arg), HELPER_ARG_OPSIZE(arg), selector);
    return CPU_NEXT;
}

enum cpu_result sys_sldt(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    return store_selector(cpu, arg, len, X86_LDTR, 0);
}

enum cpu_result sys_str(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    return store_selector(cpu, arg, len, X86_TR, 1);
}
