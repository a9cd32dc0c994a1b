/* SPDX-License-Identifier: MIT */
/*
 * The accesses of perm64.c. A fault comes back to the caller of perm_kernel() or perm_user() by the stack pointer that these left:
 * what they call changes no register that a callee saves. User code ends by UD2.
 */
	.text
	.globl perm_kernel, perm_user, perm_pf, perm_ud
perm_kernel: /* fn, va, rflags */
	mov %rsp, perm_rsp
	push %rdx
	popfq
	call *%rdi
	push $2
	popfq
	ret

perm_user:
	mov %rsp, perm_rsp
	pushq $0x23
	pushq $user_stack + 8192 - 64
	push %rdx
	pushq $0x2b
	push %rdi
	iretq

	.align 16
perm_pf:
	popq perm_error
	mov %cr2, %rax
	mov %rax, perm_cr2
perm_back:
	mov perm_rsp, %rsp
	mov $0x10, %eax
	mov %eax, %ss
	push $2
	popfq
	ret

	.align 16
perm_ud:
	cmpq $perm_user_end, (%rsp)
	je perm_back
	movq $0xdead, perm_error
	jmp perm_back


kernel_read:
	mov (%rsi), %al
	ret
kernel_write:
	movb $1, (%rsi)
	ret
kernel_modify:
	addb $1, (%rsi)
	ret
kernel_fetch:
	jmp *%rsi
kernel_implicit:
	mov $0x27, %eax
	mov %eax, %fs
	ret

	.section .user.text, "ax"
user_read:
	mov (%rsi), %al
	jmp perm_user_end
user_write:
	movb $1, (%rsi)
	jmp perm_user_end
user_modify:
	addb $1, (%rsi)
	jmp perm_user_end
user_fetch:
	call *%rsi
	jmp perm_user_end
user_implicit:
	mov $0x27, %eax
	mov %eax, %fs
perm_user_end:
	ud2

	.section .rodata
	.align 8
	.globl perm_kernel_fns, perm_user_fns
perm_kernel_fns:
	.quad kernel_read, kernel_write, kernel_modify, kernel_fetch, kernel_implicit, kernel_implicit
perm_user_fns:
	.quad user_read, user_write, user_modify, user_fetch, user_implicit, user_implicit

	/* void perm_switch_la57(cr3, on): by way of compatibility mode and no paging; CR4.LA57 may not change otherwise (SDM 3A 4.1.2). */
	.text
	.globl perm_switch_la57
perm_switch_la57:
	push %rbx
	mov %rsp, %rbx
	pushq $0x50
	lea 1f, %rax
	push %rax
	lretq
	.code32
1:	mov %cr0, %eax
	and $0x7fffffff, %eax
	mov %eax, %cr0
	mov %cr4, %eax
	and $~0x1000, %eax
	test %esi, %esi
	jz 2f
	or $0x1000, %eax
2:	mov %eax, %cr4
	mov %edi, %cr3
	mov %cr0, %eax
	or $0x80000000, %eax
	mov %eax, %cr0
	ljmp $0x08, $3f
	.code64
3:	mov %rbx, %rsp
	pop %rbx
	ret
	.section .note.GNU-stack, "", @progbits
