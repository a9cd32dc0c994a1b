/* SPDX-License-Identifier: MIT */
/*
 * Start of every 32-bit image, at 1 MiB. The runner enters `start64` (the first byte) in 64-bit mode
 * with RDI = argument; it leaves IA-32e mode by way of compatibility mode. The PVH entry is in
 * 32-bit protected mode already.
 */
#ifndef PVH_ARG
#define PVH_ARG 0
#endif
	.section .start, "ax"
	.code64
	.globl start64
start64:
	cli
	mov %edi, guest_arg(%rip) /* there is no other relocation for it in a 32-bit object */
	lea boot_stack_top(%rip), %rsp
	lgdt gdt_ptr(%rip)
	lea 1f(%rip), %rax
	pushq $0x08
	push %rax
	lretq
	.code32
1:	mov %cr0, %eax
	and $0x7fffffff, %eax
	mov %eax, %cr0
	mov $0xc0000080, %ecx
	rdmsr
	and $~0x100, %eax
	wrmsr
	xor %eax, %eax
	mov %eax, %cr3
	mov %eax, %cr4
	jmp start32

	.section .note.pvh, "a"
	.align 4
	.long 4, 4, 18
	.asciz "Xen"
	.long pvh_start

	.section .text
pvh_start:
	cli
	lgdt gdt_ptr
	ljmp $0x08, $1f
1:	movl $PVH_ARG, guest_arg
start32:
	mov $0x10, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	mov $boot_stack_top, %esp
	xor %eax, %eax
	mov %eax, %fs
	mov %eax, %gs
	push $2
	popf
	xor %ebp, %ebp
	call guest_start
	ud2

	.section .data
	.align 16
	.globl gdt, gdt_ptr
gdt:	.quad 0
	.quad 0x00cf9b000000ffff /* 08 kernel code */
	.quad 0x00cf93000000ffff /* 10 kernel data */
	.quad 0x00009b000000ffff /* 18 16-bit code */
	.quad 0x000093000000ffff /* 20 16-bit data */
	.quad 0x00cffb000000ffff /* 28 user code */
	.quad 0x00cff3000000ffff /* 30 user data */
	.fill 57, 8, 0           /* 38 TSS, 40 double-fault TSS, 50.. for the tests */
	.align 16
	.word 0
gdt_ptr: .word 64 * 8 - 1
	.long gdt, 0

	.section .bss
	.align 4096
	.skip 32768
boot_stack_top:
	.section .note.GNU-stack, "", @progbits
