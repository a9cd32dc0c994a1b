/* SPDX-License-Identifier: MIT */
/*
 * Exception entry in 32-bit protected mode, and the ways to run code that may fault: ring 0, ring 3,
 * virtual-8086 mode, real mode. Each saves the callee-saved registers and ESP in catch_esp;
 * catch_longjmp() comes back from any stack.
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
	pushal
	push %ds
	push %es
	push %fs
	push %gs
	mov $0x10, %eax
	mov %eax, %ds
	mov %eax, %es
	cld
	mov %esp, %eax
	mov %esp, %ebx
	and $-16, %esp
	sub $12, %esp
	push %eax
	call exception
	mov %ebx, %esp
	add $8, %esp /* FS and GS are as they were, and may not be loadable any more */
	pop %es
	pop %ds
	popal
	add $8, %esp
	iret

	/* unsigned run_catch(entry, arg) */
	.globl run_catch
run_catch:
	call save_catch
	movl $0xffff, fault
	mov 24(%esp), %eax /* entry: behind 4 registers and the return address */
	pushl 28(%esp)
	call *%eax
	jmp catch_longjmp

	/* Pushes EBX ESI EDI EBP under the return address and notes ESP. */
save_catch:
	pop %eax
	push catch_esp
	push %ebx
	push %esi
	push %edi
	push %ebp
	mov %esp, catch_esp
	sub $4, %esp
	mov %eax, (%esp)
	ret

	.globl catch_longjmp
catch_longjmp:
	mov $0x10, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	mov catch_esp, %esp
	xor %eax, %eax
	mov %eax, %fs
	mov %eax, %gs
	pop %ebp
	pop %edi
	pop %esi
	pop %ebx
	pop catch_esp
	push $2
	popf
	mov fault, %eax
	ljmp $0x08, $1f /* may come from another code segment */
1:	ret

	/* unsigned run_user(entry, arg) */
	.globl run_user
run_user:
	call save_catch
	movl $0xffff, fault
	mov 24(%esp), %ecx
	mov 28(%esp), %eax
	pushl user_ss
	pushl user_esp
	pushl user_eflags
	pushl user_cs
	push %ecx
	mov user_ss, %edx
	mov %edx, %ds
	mov %edx, %es
	iret

	/* unsigned enter_v86(arg, eflags) */
	.globl enter_v86
enter_v86:
	call save_catch
	movl $0xffff, fault
	mov 24(%esp), %eax
	mov 28(%esp), %ecx
	or $0x20002, %ecx
	movzwl v86_ds, %edx
	add $3, %edx
	push %edx /* GS */
	dec %edx
	push %edx
	sub $2, %edx
	push %edx /* DS */
	inc %edx
	push %edx /* ES */
	pushl $0x3000
	pushl $0xff00
	push %ecx
	pushl $0x2000
	pushl $0
	iret

/* ---- real mode ---- */

#define REAL_REGS 0x1000
#define LOW 0x2000
#define AT(label) (label - low_start + LOW)

	.globl enter_real
enter_real: /* the code lies at 0x10000, the thunk at 0x2000, registers at 0x1000 */
	call save_catch
	lidt real_idt_ptr
	ljmp $0x18, $AT(low_pm16)

	.globl low_start, low_end
low_start:
	.code16
low_pm16:
	mov $0x20, %ax
	mov %ax, %ds
	mov %ax, %es
	mov %ax, %fs
	mov %ax, %gs
	mov %ax, %ss
	mov %cr0, %eax
	and $0xfe, %al
	mov %eax, %cr0
	ljmp $0, $AT(low_real)
low_real:
	xor %ax, %ax
	mov %ax, %ds
	mov %ax, %es
	mov %ax, %fs
	mov %ax, %gs
	mov %ax, %ss
	mov $0x8000, %esp
	movw $0xffff, REAL_REGS + 50
	mov REAL_REGS + 0, %eax
	mov REAL_REGS + 4, %ebx
	mov REAL_REGS + 8, %ecx
	mov REAL_REGS + 12, %edx
	mov REAL_REGS + 16, %esi
	mov REAL_REGS + 20, %edi
	mov REAL_REGS + 24, %ebp
	lcall $0x1000, $0
	mov %eax, %cs:REAL_REGS + 0
	pushfl
	pop %eax
	mov %eax, %cs:REAL_REGS + 28
low_save:
	mov %ebx, %cs:REAL_REGS + 4
	mov %ecx, %cs:REAL_REGS + 8
	mov %edx, %cs:REAL_REGS + 12
	mov %esi, %cs:REAL_REGS + 16
	mov %edi, %cs:REAL_REGS + 20
	mov %ebp, %cs:REAL_REGS + 24
	mov %esp, %cs:REAL_REGS + 32
	mov %ds, %cs:REAL_REGS + 36
	mov %es, %cs:REAL_REGS + 38
	mov %fs, %cs:REAL_REGS + 40
	mov %gs, %cs:REAL_REGS + 42
	mov %ss, %cs:REAL_REGS + 44
	cli
	cld
	mov %cr0, %eax
	or $1, %al
	mov %eax, %cr0
	ljmpl $0x08, $real_back
low_fault: /* vector, IP, CS, FLAGS are on the stack */
	mov %eax, %cs:REAL_REGS + 0
	pushfl
	pop %eax
	mov %eax, %cs:REAL_REGS + 28
	pop %ax
	mov %ax, %cs:REAL_REGS + 50
	pop %ax
	mov %ax, %cs:REAL_REGS + 48
	pop %ax
	mov %ax, %cs:REAL_REGS + 46
	pop %ax
	mov %ax, %cs:REAL_REGS + 52
	jmp low_save
	.globl low_stubs
	.align 8
low_stubs:
	.set i, 0
	.rept 64
	.align 8
	push $i
	jmp low_fault
	.set i, i + 1
	.endr
low_end:
	.code32
real_back:
	mov $0x10, %eax
	mov %eax, %ds
	lidt idt_ptr
	jmp catch_longjmp

	.section .rodata
	.align 4
	.word 0
real_idt_ptr: .word 0x3ff
	.long 0
	.section .note.GNU-stack, "", @progbits
