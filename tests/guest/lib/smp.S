/* SPDX-License-Identifier: MIT */
/*
 * Where a processor starts after SIPI: real mode, CS = vector << 8, IP = 0. The code between ap_begin and ap_end is copied to a
 * page below 1 MiB; it notes what it finds, goes to 64-bit mode in one step, and on to ap_main().
 */
	.section .text
	.globl ap_begin, ap_end
	.code16
ap_begin:
	cli
	mov %edx, %esi
	mov %ss, %dx
	mov %ds, %di
	mov %cs, %ax
	mov %ax, %ds
	mov %ax, %ss
	mov $0x0ff8, %esp /* the end of this page */
	pushfl
	mov %cr0, %ebp
	lgdtl ap_gdtr - ap_begin
	mov $0x20, %eax /* PAE */
	mov %eax, %cr4
	mov ap_cr3 - ap_begin, %eax
	mov %eax, %cr3
	mov $0xc0000080, %ecx
	push %dx
	xor %edx, %edx
	mov $0x900, %eax /* NXE, LME */
	wrmsr
	pop %dx
	pop %ebx
	mov $0x80010033, %eax /* PG WP NE ET MP PE */
	mov %eax, %cr0
	ljmpl $0x08, $ap_long
	.align 8
ap_gdtr: .word 32 * 8 - 1
	.long gdt
	.align 4
	.globl ap_cr3
ap_cr3:	.long 0
ap_end:

	.code64
ap_long:
	/* ESI EDX, DX SS, DI DS, EBP CR0, EBX EFLAGS, all of real mode; the processor's number is its initial APIC ID */
	mov %edx, %r8d
	mov %ebx, %r9d
	mov $1, %eax
	cpuid
	shr $24, %ebx
	mov %ebx, %r10d
	mov $0x10, %eax
	mov %ds, %ax
	mov %ax, %r11w /* CS of real mode: DS holds it still */
	mov $0x10, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	xor %eax, %eax
	mov %eax, %fs
	mov %eax, %gs
	imul $20, %r10, %rax
	mov %r11w, ap_report(%rax)
	mov %di, ap_report+2(%rax)
	mov %r8w, ap_report+4(%rax)
	mov %ebp, ap_report+8(%rax)
	mov %esi, ap_report+12(%rax)
	mov %r9d, ap_report+16(%rax)
	mov %r10d, %edi
	mov %r10d, %eax
	inc %eax
	shl $13, %eax /* 8 KiB of stack each */
	lea ap_stacks(%rax), %rsp
	push $2
	popfq
	xor %ebp, %ebp
	call ap_main
	ud2

	.section .bss
	.align 4096
	.globl ap_stacks
ap_stacks: .skip 16 * 8192
	.section .note.GNU-stack, "", @progbits
