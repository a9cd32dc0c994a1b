/* SPDX-License-Identifier: MIT */
/* The accesses of perm32.c: see perm64.S. EDX is the address. */
	.text
	.globl perm_kernel, perm_user, perm_pf, perm_ud
perm_kernel: /* fn, va, eflags */
	mov 4(%esp), %ecx
	mov 8(%esp), %edx
	mov %esp, perm_esp
	pushl 12(%esp)
	popfl
	call *%ecx
	push $2
	popfl
	ret

perm_user:
	mov 4(%esp), %ecx
	mov 8(%esp), %edx
	mov 12(%esp), %eax
	mov %esp, perm_esp
	pushl $0x33
	pushl $perm_user_stack
	push %eax
	pushl $0x2b
	push %ecx
	iretl

	.align 16
perm_pf:
	popl perm_error
	mov %cr2, %eax
	mov %eax, perm_cr2
perm_back:
	mov perm_esp, %esp
	push $2
	popfl
	ret

	.align 16
perm_ud:
	cmpl $perm_user_end, (%esp)
	je perm_back
	movl $0xdead, perm_error
	jmp perm_back

kernel_read:
	mov (%edx), %al
	ret
kernel_write:
	movb $1, (%edx)
	ret
kernel_modify:
	addb $1, (%edx)
	ret
kernel_fetch:
	jmp *%edx
kernel_implicit:
	mov $0x27, %eax
	mov %eax, %fs
	ret

	.section .user.text, "ax"
user_read:
	mov (%edx), %al
	jmp perm_user_end
user_write:
	movb $1, (%edx)
	jmp perm_user_end
user_modify:
	addb $1, (%edx)
	jmp perm_user_end
user_fetch:
	call *%edx
	jmp perm_user_end
user_implicit:
	mov $0x27, %eax
	mov %eax, %fs
perm_user_end:
	ud2

	.section .user.data, "aw"
	.align 16
	.skip 64
perm_user_stack:
	.skip 16

	.section .rodata
	.align 4
	.globl perm_kernel_fns, perm_user_fns
perm_kernel_fns:
	.long kernel_read, kernel_write, kernel_modify, kernel_fetch, kernel_implicit, kernel_implicit
perm_user_fns:
	.long user_read, user_write, user_modify, user_fetch, user_implicit, user_implicit
	.section .note.GNU-stack, "", @progbits
