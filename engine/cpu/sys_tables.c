/* SPDX-License-Identifier: MIT */
/*
 * LAR, LSL, VERR and VERW, and the descriptor-table registers: GDTR, IDTR, LDTR, TR (SDM 2A/2B).
 * Real and virtual-8086 mode have GDTR and IDTR only: the rest is #UD there.
 */
#include "cpu/segment.h"

/* ---- LAR, LSL, VERR, VERW ---- */

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
    if (!cpu_is_protected(cpu)) {
        return cpu_raise(cpu, X86_EXC_UD);
    }
    enum cpu_result r = cpu_selector_operand(cpu, arg, &selector);
    if (r != CPU_NEXT || selector_is_null(selector)) {
        return r;
    }
    r = cpu_descriptor_read(cpu, selector, cpu_in_long_mode(cpu), d, &found);
    if (r != CPU_NEXT || !found) {
        return r;
    }
    uint32_t ar = d->access_rights;
    if ((ar & X86_AR_S) == 0 && !ar_is_system(ar, system_types)) {
        return CPU_NEXT;
    }
    *visible = ar_is_conforming(ar) || (ar_dpl(ar) >= cpu_cpl(cpu) && ar_dpl(ar) >= (selector & 3u));
    return CPU_NEXT;
}

/* System descriptors that LAR and LSL know (SDM 2A, tables of LAR and LSL); IA-32e mode has no others. */
#define LSL_TYPES_64 (1u << SYS_LDT | 1u << SYS_TSS | 1u << SYS_TSS_BUSY)
#define LSL_TYPES (LSL_TYPES_64 | 1u << SYS_TSS16 | 1u << SYS_TSS16_BUSY)
#define LAR_TYPES_64 (LSL_TYPES_64 | 1u << SYS_CALL_GATE)
#define LAR_TYPES (LSL_TYPES | 1u << SYS_CALL_GATE | 1u << SYS_CALL_GATE16 | 1u << SYS_TASK_GATE)

enum cpu_result sys_lar(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    uint32_t types = cpu_in_long_mode(cpu) ? LAR_TYPES_64 : LAR_TYPES;
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
    uint32_t types = cpu_in_long_mode(cpu) ? LSL_TYPES_64 : LSL_TYPES;
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

/* Limit and base in memory: 10 bytes in 64-bit code, else 6, of which a 16-bit LGDT or LIDT uses 24 bits of base. */
static unsigned table_operand_bytes(const struct cpu *cpu)
{
    return cpu_in_64bit_code(cpu) ? 10 : 6;
}

static enum cpu_result load_table(struct cpu *cpu, uint32_t arg, uint32_t len, uint64_t *base, uint32_t *limit,
                                  uint32_t identity)
{
    unsigned bytes = table_operand_bytes(cpu);
    uint8_t raw[10] = {0};
    uint64_t new_base;
    uint16_t new_limit;

    enum cpu_result r = table_check(cpu, arg, len, VMX_EXIT_GDTR_IDTR, identity, true);
    if (r == CPU_NEXT) {
        r = cpu_operand(cpu, arg, bytes, MMU_READ);
    }
    if (r == CPU_NEXT) {
        r = cpu_read(cpu, cpu->ea, raw, bytes, cpu_mmu_idx(cpu));
    }
    if (r != CPU_NEXT) {
        return r;
    }
    __builtin_memcpy(&new_limit, raw, 2);
    __builtin_memcpy(&new_base, raw + 2, 8);
    if (bytes == 6 && HELPER_ARG_OPSIZE(arg) == 2) {
        new_base &= 0xffffff;
    }
    if (!cpu_is_cpu_canonical(cpu, new_base)) {
        return cpu_raise_gp(cpu, 0);
    }
    *base = new_base;
    *limit = new_limit;
    return CPU_NEXT;
}

/* All 32 bits of the base are stored with a 16-bit operand too: only the 286 had 24. */
static enum cpu_result store_table(struct cpu *cpu, uint32_t arg, uint32_t len, uint64_t base, uint32_t limit,
                                   uint32_t identity)
{
    unsigned bytes = table_operand_bytes(cpu);
    uint8_t raw[10];
    uint16_t limit16 = (uint16_t)limit;

    enum cpu_result r = table_check(cpu, arg, len, VMX_EXIT_GDTR_IDTR, identity, false);
    if (r == CPU_NEXT) {
        r = cpu_operand(cpu, arg, bytes, MMU_WRITE);
    }
    if (r == CPU_NEXT) {
        r = cpu_check_aligned(cpu, cpu->ea, 4);
    }
    if (r != CPU_NEXT) {
        return r;
    }
    __builtin_memcpy(raw, &limit16, 2);
    __builtin_memcpy(raw + 2, &base, 8);
    return cpu_write_last(cpu, cpu->ea, raw, bytes, len);
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

/* LLDT, LTR, SLDT and STR: table_check(), behind the check of the mode. */
static enum cpu_result selector_check(struct cpu *cpu, uint32_t arg, uint32_t len, uint32_t identity, bool load)
{
    if (!cpu_is_protected(cpu)) {
        return cpu_raise(cpu, X86_EXC_UD);
    }
    return table_check(cpu, arg, len, VMX_EXIT_LDTR_TR, identity, load);
}

/* Reads and checks the system descriptor for LLDT or LTR: one of `types`, a mask of SYS_* bits. */
static enum cpu_result system_descriptor(struct cpu *cpu, uint16_t selector, uint32_t types, struct cpu_descriptor *d)
{
    uint32_t error = selector & ~3u;
    bool found = false;

    if ((selector & 4) == 0) {
        enum cpu_result r = cpu_descriptor_read(cpu, selector, true, d, &found);
        if (r != CPU_NEXT) {
            return r;
        }
    }
    if (!found || !ar_is_system(d->access_rights, types)) {
        return cpu_raise_gp(cpu, error);
    }
    if ((d->access_rights & X86_AR_P) == 0) {
        return cpu_raise_error(cpu, X86_EXC_NP, error);
    }
    if (!cpu_is_cpu_canonical(cpu, d->base)) {
        return cpu_raise_gp(cpu, error);
    }
    return CPU_NEXT;
}

enum cpu_result sys_lldt(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    struct cpu_descriptor d;
    uint16_t selector;

    enum cpu_result r = selector_check(cpu, arg, len, 2, true);
    if (r == CPU_NEXT) {
        r = cpu_selector_operand(cpu, arg, &selector);
    }
    if (r != CPU_NEXT) {
        return r;
    }
    if (selector_is_null(selector)) {
        cpu_segment_set_null(cpu, X86_LDTR, selector, 0);
        return CPU_NEXT;
    }
    r = system_descriptor(cpu, selector, 1u << SYS_LDT, &d);
    if (r == CPU_NEXT) {
        cpu_segment_set(cpu, X86_LDTR, selector, &d);
    }
    return r;
}

enum cpu_result sys_ltr(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    struct cpu_descriptor d;
    uint16_t selector;

    enum cpu_result r = selector_check(cpu, arg, len, 3, true);
    if (r == CPU_NEXT) {
        r = cpu_selector_operand(cpu, arg, &selector);
    }
    if (r != CPU_NEXT) {
        return r;
    }
    if (selector_is_null(selector)) {
        return cpu_raise_gp(cpu, 0);
    }
    uint32_t types = 1u << SYS_TSS | (cpu_in_long_mode(cpu) ? 0 : 1u << SYS_TSS16);
    r = system_descriptor(cpu, selector, types, &d);
    if (r == CPU_NEXT) {
        r = cpu_descriptor_set_busy(cpu, &d, true);
    }
    if (r == CPU_NEXT) {
        cpu_segment_set(cpu, X86_TR, selector, &d);
    }
    return r;
}

static enum cpu_result store_selector(struct cpu *cpu, uint32_t arg, uint32_t len, unsigned seg, uint32_t identity)
{
    enum cpu_result r = selector_check(cpu, arg, len, identity, false);
    return r == CPU_NEXT ? cpu_store_selector(cpu, arg, len, cpu->vmcs.guest_seg[seg].selector) : r;
}

enum cpu_result sys_sldt(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    return store_selector(cpu, arg, len, X86_LDTR, 0);
}

enum cpu_result sys_str(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    return store_selector(cpu, arg, len, X86_TR, 1);
}
