/* SPDX-License-Identifier: MIT */
/*
 * Old instructions that 64-bit code has lost, and XLAT: decimal arithmetic, BOUND, ARPL, SALC (SDM
 * 2A/2B). Flags that the manuals call undefined are those of AMD's processors, measured: each of
 * the decimal adjustments sets what the addition or subtraction inside it would.
 */
#include "cpu/sys.h"

static uint32_t parity(unsigned value)
{
    return __builtin_parity(value & 0xff) == 0 ? X86_FLAGS_PF : 0;
}

static uint32_t flags_of_byte(unsigned value)
{
    return parity(value) | ((value & 0x80) != 0 ? X86_FLAGS_SF : 0) | ((value & 0xff) == 0 ? X86_FLAGS_ZF : 0);
}

static void set_flags(struct cpu *cpu, uint32_t flags)
{
    cpu->rflags = (cpu->rflags & ~X86_FLAGS_ARITH) | flags;
}

/* DAA, DAS: a correction of 0, 6, 60h or 66h is added to, or subtracted from, AL. */
static enum cpu_result adjust_packed(struct cpu *cpu, bool subtract)
{
    unsigned al = (unsigned)cpu->gpr[X86_RAX] & 0xff, correction = 0;
    uint32_t flags = 0;

    if ((al & 0xf) > 9 || (cpu->rflags & X86_FLAGS_AF) != 0) {
        correction = 6;
        flags |= X86_FLAGS_AF | (subtract && al < 6 ? X86_FLAGS_CF : 0);
    }
    if (al > 0x99 || (cpu->rflags & X86_FLAGS_CF) != 0) {
        correction |= 0x60;
        flags |= X86_FLAGS_CF;
    }
    unsigned result = (subtract ? al - correction : al + correction) & 0xff;
    bool overflow = ((al ^ result) & (subtract ? al ^ correction : correction ^ result) & 0x80) != 0;
    cpu_set_gpr(cpu, X86_RAX, 1, result);
    set_flags(cpu, flags | flags_of_byte(result) | (overflow ? X86_FLAGS_OF : 0));
    return CPU_NEXT;
}

/* AAA, AAS: AX is moved by 106h; the flags are of that 16-bit sum, PF of its low byte, before AL loses its high digit. */
static enum cpu_result adjust_unpacked(struct cpu *cpu, bool subtract)
{
    unsigned ax = (unsigned)cpu->gpr[X86_RAX] & 0xffff, result = ax;
    uint32_t flags = 0;

    if ((ax & 0xf) > 9 || (cpu->rflags & X86_FLAGS_AF) != 0) {
        result = (subtract ? ax - 0x106 : ax + 0x106) & 0xffff;
        flags = X86_FLAGS_AF | X86_FLAGS_CF;
        if (((subtract ? ax & ~result : result & ~ax) & 0x8000) != 0) {
            flags |= X86_FLAGS_OF;
        }
    }
    flags |= parity(result) | ((result & 0x8000) != 0 ? X86_FLAGS_SF : 0) | (result == 0 ? X86_FLAGS_ZF : 0);
    cpu_set_gpr(cpu, X86_RAX, 2, result & 0xff0f);
    set_flags(cpu, flags);
    return CPU_NEXT;
}

enum cpu_result sys_daa(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    (void)arg;
    (void)len;
    return adjust_packed(cpu, false);
}

enum cpu_result sys_das(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    (void)arg;
    (void)len;
    return adjust_packed(cpu, true);
}

enum cpu_result sys_aaa(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    (void)arg;
    (void)len;
    return adjust_unpacked(cpu, false);
}

enum cpu_result sys_aas(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    (void)arg;
    (void)len;
    return adjust_unpacked(cpu, true);
}

enum cpu_result sys_aam(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    unsigned al = (unsigned)cpu->gpr[X86_RAX] & 0xff, base = HELPER_ARG_IMM8(arg);

    (void)len;
    if (base == 0) {
        return cpu_raise(cpu, X86_EXC_DE);
    }
    cpu_set_gpr(cpu, X86_RAX, 2, al / base << 8 | al % base);
    set_flags(cpu, flags_of_byte(al % base));
    return CPU_NEXT;
}

/* The flags are those of ADD AL, AH * imm8. */
enum cpu_result sys_aad(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    unsigned al = (unsigned)cpu->gpr[X86_RAX] & 0xff, ah = (unsigned)(cpu->gpr[X86_RAX] >> 8) & 0xff;
    unsigned addend = ah * HELPER_ARG_IMM8(arg) & 0xff, sum = al + addend;

    (void)len;
    cpu_set_gpr(cpu, X86_RAX, 2, sum & 0xff);
    set_flags(cpu, flags_of_byte(sum) | (sum > 0xff ? X86_FLAGS_CF : 0) |
                       (((al ^ addend ^ sum) & 0x10) != 0 ? X86_FLAGS_AF : 0) |
                       (((al ^ sum) & (addend ^ sum) & 0x80) != 0 ? X86_FLAGS_OF : 0));
    return CPU_NEXT;
}

/* AL becomes CF, as SBB AL, AL without its flags; documented by AMD's early manuals only. */
enum cpu_result sys_salc(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    (void)arg;
    (void)len;
    cpu_set_gpr(cpu, X86_RAX, 1, (cpu->rflags & X86_FLAGS_CF) != 0 ? 0xff : 0);
    return CPU_NEXT;
}

/* #BR if the signed index lies outside the two bounds at the operand. */
enum cpu_result sys_bound(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    unsigned bytes = HELPER_ARG_OPSIZE(arg);
    uint64_t index = cpu->gpr[HELPER_ARG_REG(arg)];
    uint8_t buf[8];
    int64_t low, high, at;

    (void)len;
    if (!HELPER_ARG_IS_MEM(arg)) {
        return cpu_raise(cpu, X86_EXC_UD);
    }
    enum cpu_result r = cpu_operand(cpu, arg, 2 * bytes, MMU_READ);
    if (r == CPU_NEXT) {
        r = cpu_check_aligned(cpu, cpu->ea, bytes);
    }
    if (r == CPU_NEXT) {
        r = cpu_read(cpu, cpu->ea, buf, 2 * bytes, cpu_mmu_idx(cpu));
    }
    if (r != CPU_NEXT) {
        return r;
    }
    if (bytes == 2) {
        int16_t bounds[2];
        __builtin_memcpy(bounds, buf, sizeof(bounds));
        low = bounds[0];
        high = bounds[1];
        at = (int16_t)index;
    } else {
        int32_t bounds[2];
        __builtin_memcpy(bounds, buf, sizeof(bounds));
        low = bounds[0];
        high = bounds[1];
        at = (int32_t)index;
    }
    return at < low || at > high ? cpu_raise(cpu, X86_EXC_BR) : CPU_NEXT;
}

/* The RPL of a selector is raised to another's; ZF tells whether it was. */
enum cpu_result sys_arpl(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    bool mem = HELPER_ARG_IS_MEM(arg);
    uint16_t source = (uint16_t)cpu->gpr[HELPER_ARG_REG(arg)], dest = (uint16_t)cpu->gpr[HELPER_ARG_RM(arg)];

    if ((cpu->mode & CPU_MODE_PROTECTED) == 0) {
        return cpu_raise(cpu, X86_EXC_UD);
    }
    gva_t offset = cpu->ea;
    if (mem) {
        /* It is written only if it changes, and need not be writable before: so the host's processor has it. */
        enum cpu_result r = cpu_operand(cpu, arg, 2, MMU_READ);
        if (r == CPU_NEXT) {
            r = cpu_check_aligned(cpu, cpu->ea, 2);
        }
        if (r == CPU_NEXT) {
            r = cpu_read(cpu, cpu->ea, &dest, 2, cpu_mmu_idx(cpu));
        }
        if (r != CPU_NEXT) {
            return r;
        }
    }
    if ((dest & 3) >= (source & 3)) {
        cpu->rflags &= ~X86_FLAGS_ZF;
        return CPU_NEXT;
    }
    uint32_t old = cpu->rflags;
    dest = (uint16_t)((dest & ~3u) | (source & 3u));
    cpu->rflags |= X86_FLAGS_ZF;
    if (!mem) {
        cpu_set_gpr(cpu, HELPER_ARG_RM(arg), 2, dest);
        return CPU_NEXT;
    }
    cpu->ea = offset;
    enum cpu_result r = cpu_operand(cpu, arg, 2, MMU_WRITE);
    if (r == CPU_NEXT) {
        r = cpu_write_last(cpu, cpu->ea, &dest, 2, len);
    }
    if (r != CPU_NEXT && !(r == CPU_EXIT && cpu_mmio_posted(cpu))) {
        cpu->rflags = old;
    }
    return r;
}

/* AL = [rBX + AL]; the memory operand that Zydis reports gives cpu->ea without the index. */
enum cpu_result sys_xlat(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    uint64_t offset = cpu->gpr[X86_RBX] + (cpu->gpr[X86_RAX] & 0xff);
    uint8_t value;
    gva_t va;

    (void)len;
    enum cpu_result r =
        cpu_linear(cpu, HELPER_ARG_SEG(arg), offset & cpu_size_mask(HELPER_ARG_ADDRSIZE(arg)), 1, MMU_READ, &va);
    if (r == CPU_NEXT) {
        r = cpu_read(cpu, va, &value, 1, cpu_mmu_idx(cpu));
    }
    if (r == CPU_NEXT) {
        cpu_set_gpr(cpu, X86_RAX, 1, value);
    }
    return r;
}
