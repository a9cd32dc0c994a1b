/* SPDX-License-Identifier: MIT */
/*
 * ENTER and XLAT: old instructions that are not worth lowering.
 */
#include "cpu/sys.h"

/* SDM 2A, ENTER: imm16 bytes of locals, imm8 levels of frame pointers copied. */
enum cpu_result sys_enter(struct cpu *cpu, uint32_t arg, uint32_t len)
{
    unsigned bytes = HELPER_ARG_OPSIZE(arg) == 2 ? 2 : 8;
    unsigned levels = (unsigned)(cpu->imm >> 16) & 31, locals = (unsigned)cpu->imm & 0xffff;
    enum mmu_idx idx = cpu_mmu_idx(cpu);
    uint64_t frame[33];
    uint64_t rbp = cpu->gpr[X86_RBP], rsp = cpu->gpr[X86_RSP];
    uint64_t new_rbp = rsp - bytes;
    uint8_t image[33 * 8];
    unsigned n = 0;

    frame[n++] = rbp;
    for (unsigned i = 1; i < levels; i++) {
        uint64_t value = 0;
        enum cpu_result r = cpu_read(cpu, rbp - i * bytes, &value, bytes, idx);
        if (r != CPU_NEXT) {
            return r;
        }
        frame[n++] = value;
    }
    if (levels > 0) {
        frame[n++] = new_rbp;
    }
    for (unsigned i = 0; i < n; i++) { /* the stack grows down: last pushed, lowest address */
        memcpy(image + (n - 1 - i) * bytes, &frame[i], bytes);
    }
    uint64_t new_rsp = rsp - n * bytes;
    enum cpu_result r = cpu_probe(cpu, new_rsp - locals, bytes, MMU_WRITE, idx);
    if (r != CPU_NEXT) {
        return r;
    }
    r = cpu_write_last(cpu, new_rsp, image, n * bytes, len);
    if (r == CPU_NEXT || (r == CPU_EXIT && cpu_mmio_posted(cpu))) {
        cpu_set_gpr(cpu, X86_RBP, bytes, new_rbp);
        cpu->gpr[X86_RSP] = new_rsp - locals;
    }
    return r;
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
