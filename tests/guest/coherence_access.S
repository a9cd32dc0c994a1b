/* SPDX-License-Identifier: MIT */
/*
 * The accesses of coherence.c, each on its processor's struct cpu (GS): 0 stack pointer to come back with, 8 error code, 16 CR2, 24 set
 * while an access is being made. User code ends by UD2. The value that was read, or returned by the code that was called, in RAX.
 */
	.text
	.globl coherence_access, coherence_user, coherence_pf, coherence_ud
coherence_access: /* fn, va, value */
	mov %rsp, %gs:0
	movq $1, %gs:24
	call *%rdi
	movq $0, %gs:24
	ret

coherence_user: /* fn, va, value, stack */
	mov %rsp, %gs:0
	movq $1, %gs:24
	pushq $0x23
	push %rcx
	pushq $0x202
	pushq $0x2b
	push %rdi
	iretq

	.align 16
coherence_pf:
	cmpq $0, %gs:24
	je coherence_bad_pf
	popq %gs:8
	mov %cr2, %rax
	mov %rax, %gs:16
coherence_back:
	mov %gs:0, %rsp
	movq $0, %gs:24
	push %rax
	mov $0x10, %eax
	mov %eax, %ss
	pop %rax
	sti
	ret
coherence_bad_pf:
	jmp vector_stubs + 16 * 14

	.align 16
coherence_ud:
	cmpq $coherence_user_end, (%rsp)
	je coherence_back
	jmp vector_stubs + 16 * 6

kernel_read:
	mov (%rsi), %rax
	ret
kernel_write:
	mov %rdx, (%rsi)
	ret
kernel_fetch:
	xor %eax, %eax
	jmp *%rsi

	.section .user.text, "ax"
user_read:
	mov (%rsi), %rax
	jmp coherence_user_end
user_write:
	mov %rdx, (%rsi)
	jmp coherence_user_end
user_fetch:
	xor %eax, %eax
	call *%rsi
coherence_user_end:
	ud2

	.section .rodata
	.align 8
	.globl coherence_fns
coherence_fns:
	.quad kernel_read, kernel_write, kernel_fetch
	.quad user_read, user_write, user_fetch
	.section .note.GNU-stack, "", @progbits
