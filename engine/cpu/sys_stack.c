/* SPDX-License-Identifier: MIT */
/*
 * ENTER and XLAT: old instructions that are not worth lowering.
 */
#include "cpu/sys.h"

/*
 * SDM 2A, ENTER: imm16 bytes of locals, imm8 levels of frame pointers copied. The pushes are done
 * one after the other, as the manual has them; registers change at the end, so that a fault in the
 * middle leaves only memory below RSP changed, and the instruction can be run anew.
 */
enum cpu_result sys_enter(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    unsigned bytes = HELPER_ARG_OPSIZE(arg) == 2 ? 2 : 8;
    unsigned levels = (unsigned)(cpu->imm >> 16) & 31, locals = (unsigned)cpu->imm & 0xffff;
    enum mmu_idx idx = cpu_mmu_idx(cpu);
    uint64_t rbp = cpu->gpr[X86_RBP], rsp = cpu->gpr[X86_RSP] - bytes;
    uint64_t new_rbp = rsp, value = rbp;
    unsigned pushes = levels == 0 ? 1 : levels + 1;

    enum cpu_result r = cpu_write(cpu, rsp, &value, bytes, idx);
    for (unsigned i = 1; r == CPU_NEXT && i < pushes; i++) {
        value = new_rbp;
        if (i < levels) {
            r = cpu_read(cpu, rbp - i * bytes, &value, bytes, idx);
        }
        if (r == CPU_NEXT) {
            rsp -= bytes;
            r = cpu_write(cpu, rsp, &value, bytes, idx);
        }
    }
    if (r == CPU_NEXT) {
        r = cpu_probe(cpu, rsp - locals, bytes, MMU_WRITE, idx);
    }
    if (r == CPU_NEXT) {
        cpu_set_gpr(cpu, X86_RBP, bytes, new_rbp);
        cpu->gpr[X86_RSP] = rsp - locals;
    } else if (r == CPU_EXIT && cpu_mmio_posted(cpu)) {
        cpu_mmio_consume(cpu); /* a stack in a device's registers */
        r = cpu_vmexit(cpu, VMX_EXIT_KAGE_UNSUPPORTED, 0, len);
    }
    return cpu_stack_result(cpu, r);
}

/* AL = [RBX + AL]; the memory operand that Zydis reports gives cpu->ea without the index. */
enum cpu_result sys_xlat(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    unsigned seg = HELPER_ARG_SEG(arg);
    uint64_t va = cpu->gpr[X86_RBX] + (cpu->gpr[X86_RAX] & 0xff);
    uint8_t value;

    (void)len;
    if (HELPER_ARG_ADDRSIZE(arg) == 4) {
        va = (uint32_t)va;
    }
    if (seg == X86_FS || seg == X86_GS) {
        va += cpu->vmcs.guest_seg[seg].base;
    }
    enum cpu_result r = cpu_read(cpu, va, &value, 1, cpu_mmu_idx(cpu));
    if (r == CPU_NEXT) {
        cpu_set_gpr(cpu, X86_RAX, 1, value);
    }
    return r;
}

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
