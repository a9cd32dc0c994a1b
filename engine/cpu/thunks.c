/* SPDX-License-Identifier: MIT */
/*
 * The border between C and translated code. Everything here is a naked function: a few moves
 * between the host's registers and struct cpu, which GS points at. On the guest's side RSP is the
 * guest's, so nothing may be pushed before the host's stack is back.
 */
#include "cpu/run.h"
#include "cpu/translate.h"

#pragma GCC diagnostic ignored "-Wunused-parameter" /* naked functions take theirs from registers */

#define GPR(n) "%%gs:%c[gpr]+8*" #n
/* clang-format off */
#define SAVE_REGS                                                                                  \
    "movq %%rax, " GPR(0) "\n movq %%rcx, " GPR(1) "\n movq %%rdx, " GPR(2) "\n movq %%rbx, " GPR(3) "\n" \
    "movq %%rsp, " GPR(4) "\n movq %%rbp, " GPR(5) "\n movq %%rsi, " GPR(6) "\n movq %%rdi, " GPR(7) "\n" \
    "movq %%r8, " GPR(8) "\n movq %%r9, " GPR(9) "\n movq %%r12, " GPR(12) "\n movq %%r13, " GPR(13) "\n" \
    "movq %%r14, " GPR(14) "\n movq %%r15, " GPR(15) "\n movq %%gs:%c[host_rsp], %%rsp\n"
/* Arithmetic flags into cpu->rflags; clobbers RAX and RCX. */
#define SAVE_FLAGS                                                                                 \
    "pushfq\n popq %%rax\n andl %[arith], %%eax\n movl %%gs:%c[rflags], %%ecx\n"                   \
    "andl %[not_arith], %%ecx\n orl %%ecx, %%eax\n movl %%eax, %%gs:%c[rflags]\n"
#define LOAD_FLAGS                                                                                 \
    "movl %%gs:%c[rflags], %%eax\n andl %[arith], %%eax\n orl $0x202, %%eax\n pushq %%rax\n popfq\n"
#define LOAD_CALLER_SAVED                                                                          \
    "movq " GPR(0) ", %%rax\n movq " GPR(1) ", %%rcx\n movq " GPR(2) ", %%rdx\n movq " GPR(6) ", %%rsi\n" \
    "movq " GPR(7) ", %%rdi\n movq " GPR(8) ", %%r8\n movq " GPR(9) ", %%r9\n movq " GPR(4) ", %%rsp\n"
#define LOAD_CALLEE_SAVED                                                                          \
    "movq " GPR(3) ", %%rbx\n movq " GPR(5) ", %%rbp\n movq " GPR(12) ", %%r12\n movq " GPR(13) ", %%r13\n" \
    "movq " GPR(14) ", %%r14\n movq " GPR(15) ", %%r15\n"
/* Back to the caller of cpu_enter_code(), the guest's registers being saved. */
#define LEAVE                                                                                      \
    "movq %%gs:%c[host_rsp], %%rsp\n addq $8, %%rsp\n popq %%r15\n popq %%r14\n popq %%r13\n popq %%r12\n" \
    "popq %%rbx\n popq %%rbp\n movl %%gs:%c[leave_link], %%eax\n ret\n"
/* The flags are parked: into RFLAGS with them. */
#define UNPARK                                                                                     \
    "movq %%rax, " GPR(0) "\n movzwl %%gs:%c[parked], %%eax\n addb $127, %%al\n sahf\n movq " GPR(0) ", %%rax\n"
/* clang-format on */
#define OPERANDS                                                                                   \
    ::[gpr] "i"(offsetof(struct cpu, gpr)), [host_rsp] "i"(offsetof(struct cpu, host_rsp)),        \
        [rflags] "i"(offsetof(struct cpu, rflags)), [rip] "i"(offsetof(struct cpu, rip)),          \
        [leave_link] "i"(offsetof(struct cpu, leave_link)),                                        \
        [scratch] "i"(offsetof(struct cpu, scratch)), [parked] "i"(offsetof(struct cpu, parked)), [self] "i"(offsetof(struct cpu, self)),      \
        [arith] "i"(X86_FLAGS_ARITH), [not_arith] "i"((int)~X86_FLAGS_ARITH),                      \
        [access_flags] "i"(ACCESS_FLAGS)

/* uint64_t cpu_enter_code(struct cpu *, const void *code): the link wanted on leaving, or 0 */
__attribute__((naked)) uint64_t cpu_enter_code(struct cpu *cpu, const void *code)
{
    __asm__("pushq %%rbp\n pushq %%rbx\n pushq %%r12\n pushq %%r13\n pushq %%r14\n pushq %%r15\n subq $8, %%rsp\n"
            "movq %%rsp, %%gs:%c[host_rsp]\n movq %%rsi, %%gs:%c[scratch]\n"
            "movl $0, %%gs:%c[leave_link]\n" LOAD_FLAGS LOAD_CALLEE_SAVED LOAD_CALLER_SAVED
            "jmpq *%%gs:%c[scratch]\n" OPERANDS);
}

#define LEAVE_BODY \
    "movl $0, %%gs:%c[leave_link]\n" SAVE_REGS SAVE_FLAGS LEAVE
__attribute__((naked)) static void thunk_leave(void) { __asm__(LEAVE_BODY OPERANDS); }
__attribute__((naked)) static void parked_leave(void) { __asm__(UNPARK LEAVE_BODY OPERANDS); }

#define LINK_BODY \
    "movl %%r10d, %%gs:%c[leave_link]\n" SAVE_REGS SAVE_FLAGS LEAVE
__attribute__((naked)) static void thunk_link(void) { __asm__(LINK_BODY OPERANDS); }
__attribute__((naked)) static void parked_link(void) { __asm__(UNPARK LINK_BODY OPERANDS); }

/* After a host fault the signal handler has saved everything, and sends the thread here. */
__attribute__((naked)) void cpu_leave_after_fault(void)
{
    __asm__("movl $0, %%gs:%c[leave_link]\n" LEAVE OPERANDS);
}

#define SLOW_BODY \
    SAVE_REGS SAVE_FLAGS \
    "movq %%r11, %%rbx\n movq %%gs:%c[self], %%rdi\n movq %%r11, %%rsi\n" \
    "call cpu_slow_access\n" \
    "testq %%rax, %%rax\n jz 1f\n" \
    "movq %%rax, %%r11\n movq %%gs:%c[scratch], %%r10\n" \
    "testl %[access_flags], (%%rbx)\n movq " GPR(3) ", %%rbx\n jz 2f\n" LOAD_FLAGS "2:\n" LOAD_CALLER_SAVED \
    "jmpq *%%r11\n" \
    "1: movl $0, %%gs:%c[leave_link]\n" LEAVE
__attribute__((naked)) static void thunk_slow(void) { __asm__(SLOW_BODY OPERANDS); }
__attribute__((naked)) static void parked_slow(void) { __asm__(UNPARK SLOW_BODY OPERANDS); }

#define COMMIT_BODY \
    SAVE_REGS SAVE_FLAGS \
    "movq %%gs:%c[self], %%rdi\n movq %%r11, %%rsi\n" \
    "call cpu_slow_commit\n" \
    "testq %%rax, %%rax\n jz 1f\n movq %%rax, %%r11\n" LOAD_FLAGS LOAD_CALLER_SAVED "jmpq *%%r11\n" \
    "1: movl $0, %%gs:%c[leave_link]\n" LEAVE
__attribute__((naked)) static void thunk_commit(void) { __asm__(COMMIT_BODY OPERANDS); }
__attribute__((naked)) static void parked_commit(void) { __asm__(UNPARK COMMIT_BODY OPERANDS); }

#define HELPER_BODY \
    SAVE_REGS SAVE_FLAGS \
    "movq %%gs:%c[self], %%rdi\n movq %%r11, %%rsi\n" \
    "call cpu_call_helper\n" \
    "testq %%rax, %%rax\n jz 1f\n" \
    "movq %%rax, %%r11\n" LOAD_FLAGS LOAD_CALLEE_SAVED LOAD_CALLER_SAVED "jmpq *%%r11\n" \
    "1: movl $0, %%gs:%c[leave_link]\n" LEAVE
__attribute__((naked)) static void thunk_helper(void) { __asm__(HELPER_BODY OPERANDS); }
__attribute__((naked)) static void parked_helper(void) { __asm__(UNPARK HELPER_BODY OPERANDS); }

#define JUMP_BODY \
    "movq %%r10, %%gs:%c[rip]\n" SAVE_REGS SAVE_FLAGS \
    "movq %%gs:%c[self], %%rdi\n movq %%r11, %%rsi\n" \
    "call cpu_jump_miss\n" \
    "testq %%rax, %%rax\n jz 1f\n" \
    "movq %%rax, %%r11\n" LOAD_FLAGS LOAD_CALLER_SAVED "jmpq *%%r11\n" \
    "1: movl $0, %%gs:%c[leave_link]\n" LEAVE
__attribute__((naked)) static void thunk_jump(void) { __asm__(JUMP_BODY OPERANDS); }
__attribute__((naked)) static void parked_jump(void) { __asm__(UNPARK JUMP_BODY OPERANDS); }

#define THUNK(place, name) [place] = (const void *)thunk_##name, [THUNK_PARKED + (place)] = (const void *)parked_##name
const void *const cpu_thunk_table[THUNK_COUNT] = {
    THUNK(THUNK_LEAVE, leave),   THUNK(THUNK_LINK, link),     THUNK(THUNK_SLOW, slow),
    THUNK(THUNK_COMMIT, commit), THUNK(THUNK_HELPER, helper), THUNK(THUNK_JUMP, jump),
};
