/* SPDX-License-Identifier: MIT */
/*
 * Start of every image, at 1 MiB. The runner enters `start64` (the first byte) in 64-bit mode with
 * RDI = argument and the first 4 GiB mapped one to one. The PVH entry lets the same image start
 * under other monitors (-kernel image.elf), where it builds the same page tables by itself.
 */
#ifndef PVH_ARG
#define PVH_ARG 0
#endif
	.section .start, "ax"
	.code64
	.globl start64
start64:
	mov %rdi, guest_arg
	lea boot_stack_top, %rsp
	lgdt gdt_ptr
	pushq $0x08
	pushq $1f
	lretq
1:	mov $0x10, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	xor %eax, %eax
	mov %eax, %fs
	mov %eax, %gs
	push $2
	popfq
	xor %ebp, %ebp
	call guest_start
	ud2

	.section .note.pvh, "a"
	.align 4
	.long 4, 4, 18
	.asciz "Xen"
	.long pvh_start

	.section .text
	.code32
pvh_start:
	cli
	mov $pvh_pml4, %eax
	mov $pvh_pdpt, %ebx
	lea 3(%ebx), %ecx
	mov %ecx, (%eax)
	mov $pvh_pd, %ecx
	xor %edx, %edx
1:	lea 3(%ecx), %esi
	mov %esi, (%ebx,%edx,8)
	add $4096, %ecx
	inc %edx
	cmp $4, %edx
	jne 1b
	xor %edx, %edx
	mov $0x83, %esi
2:	mov %esi, pvh_pd(,%edx,8)
	add $0x200000, %esi
	inc %edx
	cmp $2048, %edx
	jne 2b
	mov %eax, %cr3
	mov $0x20, %eax
	mov %eax, %cr4
	mov $0xc0000080, %ecx
	rdmsr
	or $0x100, %eax
	wrmsr
	mov $0x80000031, %eax
	mov %eax, %cr0
	lgdt gdt_ptr
	mov $PVH_ARG, %edi
	ljmp $0x08, $start64

	.section .data
	.align 16
	.globl gdt, gdt_ptr
gdt:	.quad 0
	.quad 0x00af9b000000ffff /* 08 kernel code */
	.quad 0x00cf93000000ffff /* 10 kernel data */
	.quad 0x00cffb000000ffff /* 18 user code, 32-bit: for SYSRET's layout */
	.quad 0x00cff3000000ffff /* 20 user data */
	.quad 0x00affb000000ffff /* 28 user code */
	.fill 26, 8, 0           /* 30 TSS, 40.. for the tests */
	.align 16
	.word 0, 0, 0
gdt_ptr: .word 32 * 8 - 1
	.quad gdt

	.section .bss
	.align 4096
pvh_pml4: .skip 4096
pvh_pdpt: .skip 4096
pvh_pd:	.skip 4096 * 4
	.skip 32768
boot_stack_top:
	.section .note.GNU-stack, "", @progbits
