/* SPDX-License-Identifier: MIT */
/*
 * Exception and interrupt entry (one stub a vector), and the two ways to run code that may fault:
 * run_catch() in ring 0 and run_user() in ring 3. Both save the callee-saved registers and RSP in
 * catch_rsp; catch_longjmp() comes back from any stack.
 */
	.text
	.globl vector_stubs
	.align 16
vector_stubs:
	.set i, 0
	.rept 256
	.align 16
	.if i == 8 || (i >= 10 && i <= 14) || i == 17 || i == 21
	.else
	push $0
	.endif
	push $i
	jmp common
	.set i, i + 1
	.endr

common:
	push %rax
	push %rbx
	push %rcx
	push %rdx
	push %rsi
	push %rdi
	push %rbp
	push %r8
	push %r9
	push %r10
	push %r11
	push %r12
	push %r13
	push %r14
	push %r15
	cld
	mov %rsp, %rdi
	mov %rsp, %rbx
	and $-16, %rsp
	call exception
	mov %rbx, %rsp
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %r11
	pop %r10
	pop %r9
	pop %r8
	pop %rbp
	pop %rdi
	pop %rsi
	pop %rdx
	pop %rcx
	pop %rbx
	pop %rax
	add $16, %rsp
	iretq

	.macro save_context
	push %rbx
	push %rbp
	push %r12
	push %r13
	push %r14
	push %r15
	pushfq
	mov %rsp, catch_rsp
	.endm

	/* unsigned run_catch(fn, arg); also run_asm() */
	.globl run_catch, run_asm
run_catch:
run_asm:
	movq $0xffff, fault
	save_context
	mov %rdi, %rax
	mov %rsi, %rdi
	call *%rax
	.globl catch_longjmp
catch_longjmp:
	mov catch_rsp, %rsp
	movq $0, catch_rsp
	mov $0x10, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	popfq
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %rbp
	pop %rbx
	mov fault, %eax
	ret

	/* unsigned run_user(fn, arg) */
	.globl run_user
run_user:
	movq $0xffff, fault
	save_context
	mov %rdi, %rax
	mov %rsi, %rdi
	pushq $0x23
	pushq $user_stack + 8192 - 8
	pushq user_rflags
	pushq $0x2b
	push %rax
	xor %eax, %eax
	xor %ebx, %ebx
	xor %ebp, %ebp
	iretq

	.section .user.text, "ax"
	.globl user_return
user_return:
	ud2 /* exception() takes #UD here for the end of user code */
	.section .note.GNU-stack, "", @progbits
