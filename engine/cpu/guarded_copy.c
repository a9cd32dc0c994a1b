/* SPDX-License-Identifier: MIT */
#include "cpu/guarded_copy.h"

/* REP MOVSB keeps RCX exact at a fault (SDM 2B "REP"): it is what is left, and the result. */
__asm__(".pushsection .text\n"
        ".globl cpu_guarded_copy\n"
        ".hidden cpu_guarded_copy_insn, cpu_guarded_copy_end\n"
        ".globl cpu_guarded_copy_insn, cpu_guarded_copy_end\n"
        ".type cpu_guarded_copy, @function\n"
        "cpu_guarded_copy:\n"
        "    mov %rdx, %rcx\n"
        "cpu_guarded_copy_insn:\n"
        "    rep movsb\n"
        "cpu_guarded_copy_end:\n"
        "    mov %rcx, %rax\n"
        "    ret\n"
        ".size cpu_guarded_copy, . - cpu_guarded_copy\n"
        ".popsection\n");

extern const char cpu_guarded_copy_insn[], cpu_guarded_copy_end[];

bool cpu_guarded_copy_resume(uintptr_t pc, uintptr_t *resume)
{
    if (pc != (uintptr_t)cpu_guarded_copy_insn) {
        return false;
    }
    *resume = (uintptr_t)cpu_guarded_copy_end;
    return true;
}
