/* SPDX-License-Identifier: MIT */
/*
 * What differs between x86-64 and i386 in the guest programs, which are built for both: names of registers, system
 * calls in assembler text, the widest locked compare-and-exchange.
 */
#ifndef GUEST_ARCH_H
#define GUEST_ARCH_H

#ifdef __x86_64__

#define VECTOR_REGISTERS 16
#define LOCK_CMPXCHG_PAIR "lock cmpxchg16b"
#define YIELD "movl $24, %%eax; syscall\n\t" /* sched_yield */
#define YIELD_CLOBBERS "rax", "rcx", "r11", "memory"

/* In ucontext: PC, A, and two registers X and Y of which the engine keeps copies elsewhere. */
#define REG_PC REG_RIP
#define REG_A REG_RAX
#define REG_X REG_R10
#define REG_Y REG_R11
#define NAME_X "r10"
#define NAME_Y "r11"
/* In ptrace's user_regs_struct. */
#define REGS_PC rip
#define REGS_A rax
#define REGS_C rcx

/* An address that is not canonical. */
#define GP_WITHOUT_ADDRESS (void)*(volatile char *)0x8000000000000000ull

#else

#define VECTOR_REGISTERS 8
#define LOCK_CMPXCHG_PAIR "lock cmpxchg8b"
#define YIELD "movl $158, %%eax; int $0x80\n\t"
#define YIELD_CLOBBERS "eax", "ecx", "memory"

#define REG_PC REG_EIP
#define REG_A REG_EAX
#define REG_X REG_ESI
#define REG_Y REG_EDI
#define NAME_X "esi"
#define NAME_Y "edi"
#define REGS_PC eip
#define REGS_A eax
#define REGS_C ecx

/* A selector beyond the end of the GDT. */
#define GP_WITHOUT_ADDRESS __asm__ volatile("mov %0, %%fs" ::"r"(0xfffb))

#endif
#endif
