/* SPDX-License-Identifier: MIT */
/*
 * ENTER, PUSHA and POPA, and LOOP where the host's cannot serve: instructions around the stack that
 * are not worth lowering. Their stack accesses are all checked before anything changes.
 */
#include "cpu/sys.h"

/* Where `bytes` at offset `at` of the stack segment are, after the checks of limit and alignment. */
enum cpu_result cpu_stack_va(struct cpu *cpu, uint64_t at, unsigned bytes, enum mmu_access access, gva_t *va)
{
    enum cpu_result r = cpu_linear(cpu, X86_SS, at & cpu_size_mask(cpu_stack_bytes(cpu)), bytes, access, va);

    return r == CPU_NEXT ? cpu_check_aligned(cpu, *va, bytes) : r;
}

static enum cpu_result stack_read(struct cpu *cpu, uint64_t at, uint64_t *value, unsigned bytes)
{
    gva_t va;
    enum cpu_result r = cpu_stack_va(cpu, at, bytes, MMU_READ, &va);

    *value = 0;
    return r == CPU_NEXT ? cpu_read(cpu, va, value, bytes, cpu_mmu_idx(cpu)) : r;
}

static enum cpu_result stack_write(struct cpu *cpu, uint64_t at, uint64_t value, unsigned bytes)
{
    gva_t va;
    enum cpu_result r = cpu_stack_va(cpu, at, bytes, MMU_WRITE, &va);

    return r == CPU_NEXT ? cpu_write(cpu, va, &value, bytes, cpu_mmu_idx(cpu)) : r;
}

/* Several accesses of one instruction to a stack in a device's registers are not carried. */
static enum cpu_result refuse_mmio(struct cpu *cpu, enum cpu_result r, uint32_t len)
{
    if (r != CPU_EXIT || cpu->vmcs.exit_reason != VMX_EXIT_EPT_MISCONFIG) {
        return r;
    }
    gpa_t gpa = cpu->vmcs.guest_physical_address;
    cpu_mmio_consume(cpu);
    r = cpu_vmexit(cpu, VMX_EXIT_KAGE_UNSUPPORTED, 0, len);
    cpu->vmcs.guest_physical_address = gpa;
    return r;
}

/*
 * SDM 2A, ENTER: imm16 bytes of locals, imm8 levels of frame pointers copied. The pushes are done
 * one after the other, as the manual has them; registers change at the end, so that a fault in the
 * middle leaves only memory below RSP changed, and the instruction can be run anew.
 */
enum cpu_result sys_enter(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    unsigned bytes = HELPER_ARG_OPSIZE(arg);
    unsigned levels = (unsigned)(cpu->imm >> 16) & 31, locals = (unsigned)cpu->imm & 0xffff;

    if (cpu_in_64bit_code(cpu) && bytes != 2) {
        bytes = 8;
    }
    uint64_t rbp = cpu->gpr[X86_RBP], rsp = cpu->gpr[X86_RSP] - bytes;
    uint64_t value = rbp;
    unsigned pushes = levels == 0 ? 1 : levels + 1;
    /* A 16-bit stack pointer leaves the rest of ESP alone, which a 32-bit frame pointer takes too. */
    uint64_t sp_mask = cpu_size_mask(cpu_stack_bytes(cpu));
    uint64_t new_rbp = (cpu->gpr[X86_RSP] & ~sp_mask) | (rsp & sp_mask);

    enum cpu_result r = stack_write(cpu, rsp, value, bytes);
    for (unsigned i = 1; r == CPU_NEXT && i < pushes; i++) {
        value = new_rbp;
        if (i < levels) {
            r = stack_read(cpu, rbp - i * bytes, &value, bytes);
        }
        if (r == CPU_NEXT) {
            rsp -= bytes;
            r = stack_write(cpu, rsp, value, bytes);
        }
    }
    if (r == CPU_NEXT) { /* the frame ends with a place that can be written */
        gva_t va;
        r = cpu_linear(cpu, X86_SS, (rsp - locals) & sp_mask, bytes, MMU_WRITE, &va);
        if (r == CPU_NEXT) {
            r = cpu_probe(cpu, va, bytes, MMU_WRITE, cpu_mmu_idx(cpu));
        }
    }
    if (r == CPU_NEXT) {
        cpu_set_gpr(cpu, X86_RBP, bytes, new_rbp);
        cpu_set_sp(cpu, rsp - locals);
    } else if (r == CPU_EXIT && cpu_mmio_posted(cpu)) {
        r = refuse_mmio(cpu, r, len);
    }
    return cpu_stack_result(cpu, r);
}

/* ---- PUSHA, POPA ---- */

/*
 *  PUSHA's frame, upwards from the new stack pointer, is the registers' encoding backwards:
 *  | (E)DI | (E)SI | (E)BP | (E)SP before | (E)BX | (E)DX | (E)CX | (E)AX |
 */
#define PUSHA_ITEMS 8u

/* All of the frame at `at` in one piece: no wrap, inside the segment, in one page. */
static bool frame_is_simple(const struct cpu *cpu, uint64_t at, unsigned bytes, enum mmu_access access)
{
    uint64_t base = cpu->vmcs.guest_seg[X86_SS].base, all = PUSHA_ITEMS * bytes;

    return at + all - 1 <= cpu_size_mask(cpu_stack_bytes(cpu)) && cpu_linear_is_good(cpu, X86_SS, at, all, access) &&
           ((base + at) & ~KAGE_PAGE_MASK) + all <= KAGE_PAGE_SIZE;
}

enum cpu_result sys_pusha(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    unsigned bytes = HELPER_ARG_OPSIZE(arg);
    uint64_t sp = cpu_sp(cpu), mask = cpu_size_mask(cpu_stack_bytes(cpu));
    uint64_t bottom = (sp - PUSHA_ITEMS * bytes) & mask;
    uint8_t frame[PUSHA_ITEMS * 4];
    enum cpu_result r = CPU_NEXT;
    gva_t va = 0;

    for (unsigned i = 0; i < PUSHA_ITEMS; i++) {
        __builtin_memcpy(frame + i * bytes, &cpu->gpr[X86_RDI - i], bytes);
    }
    if (frame_is_simple(cpu, bottom, bytes, MMU_WRITE)) {
        r = cpu_stack_va(cpu, sp - bytes, bytes, MMU_WRITE, &va);
        if (r == CPU_NEXT) { /* a fault is the first push's */
            r = cpu_probe(cpu, va, bytes, MMU_WRITE, cpu_mmu_idx(cpu));
        }
        if (r == CPU_NEXT) {
            r = cpu_write_last(cpu, va - (PUSHA_ITEMS - 1) * bytes, frame, PUSHA_ITEMS * bytes, len);
        }
        if (r == CPU_NEXT || (r == CPU_EXIT && cpu_mmio_posted(cpu))) {
            cpu_set_sp(cpu, bottom);
        }
        return r;
    }
    for (unsigned i = 1; r == CPU_NEXT && i <= PUSHA_ITEMS; i++) {
        r = cpu_stack_va(cpu, sp - i * bytes, bytes, MMU_WRITE, &va);
        if (r == CPU_NEXT) {
            r = cpu_probe(cpu, va, bytes, MMU_WRITE, cpu_mmu_idx(cpu));
        }
    }
    for (unsigned i = 1; r == CPU_NEXT && i <= PUSHA_ITEMS; i++) {
        uint64_t value = 0;
        __builtin_memcpy(&value, frame + (PUSHA_ITEMS - i) * bytes, bytes);
        r = stack_write(cpu, sp - i * bytes, value, bytes);
    }
    if (r == CPU_NEXT) {
        cpu_set_sp(cpu, bottom);
    }
    return refuse_mmio(cpu, r, len);
}

enum cpu_result sys_popa(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    unsigned bytes = HELPER_ARG_OPSIZE(arg);
    uint64_t sp = cpu_sp(cpu);
    uint8_t frame[PUSHA_ITEMS * 4];
    bool simple = frame_is_simple(cpu, sp, bytes, MMU_READ);
    enum cpu_result r = CPU_NEXT;
    gva_t va;

    if (simple) {
        r = cpu_stack_va(cpu, sp, bytes, MMU_READ, &va);
        if (r == CPU_NEXT) {
            r = cpu_read(cpu, va, frame, PUSHA_ITEMS * bytes, cpu_mmu_idx(cpu));
        }
    }
    for (unsigned i = 0; r == CPU_NEXT && i < PUSHA_ITEMS; i++) {
        uint64_t value = 0;
        if (simple) {
            __builtin_memcpy(&value, frame + i * bytes, bytes);
        } else {
            r = stack_read(cpu, sp + i * bytes, &value, bytes);
        }
        if (r == CPU_NEXT && X86_RDI - i != X86_RSP) { /* its value is thrown away */
            cpu_set_gpr(cpu, X86_RDI - i, bytes, value);
        }
    }
    if (r != CPU_NEXT) {
        /* What was popped before a fault stays, as on AMD's processors; ESP does not move. */
        return simple ? r : refuse_mmio(cpu, r, len);
    }
    cpu_set_sp(cpu, sp + PUSHA_ITEMS * bytes);
    return CPU_NEXT;
}

/* ---- LOOP ---- */

/*
 * LOOP, LOOPE, LOOPNE and JCXZ where the host's cannot serve: with 16-bit addresses, or with a target
 * beyond CS's limit. imm8 is the opcode (E0 to E3), cpu->imm the target.
 */
enum cpu_result sys_loop(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    unsigned opcode = HELPER_ARG_IMM8(arg), bytes = HELPER_ARG_ADDRSIZE(arg);
    uint64_t count = cpu->gpr[X86_RCX] & cpu_size_mask(bytes);
    bool zf = (cpu->rflags & X86_FLAGS_ZF) != 0, taken = count == 0;

    (void)len;
    if (opcode != 0xe3) {
        count = (count - 1) & cpu_size_mask(bytes);
        taken = count != 0 && (opcode == 0xe2 || zf == (opcode == 0xe1));
    }
    if (taken && cpu->imm > cpu->vmcs.guest_seg[X86_CS].limit) {
        return cpu_raise_gp(cpu, 0);
    }
    if (opcode != 0xe3) {
        cpu_set_gpr(cpu, X86_RCX, bytes, count);
    }
    if (!taken) {
        return CPU_NEXT;
    }
    cpu->rip = cpu->imm;
    return CPU_JUMP;
}
