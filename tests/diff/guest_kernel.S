/* SPDX-License-Identifier: MIT */
/*
 * The guest's kernel, 64-bit, at GUEST_TEXT. Every vector leads here on a stack of its own: it puts
 * the state that the case ended in into the mailbox and writes to port 0x10, on which the VMM takes
 * it and puts the next case there; then it copies the case's code to where it runs (the copy is the
 * guest's own, so that translated code of the case before is dropped the way that the architecture
 * says), loads the registers and returns into the case. Vector state is the VMM's business.
 * Addresses are absolute: guest.c copies this to GUEST_TEXT. The mailbox is struct guest_mailbox.
 */
#define MAILBOX (-0x5fff0000) /* 0xffffffffa0010000 */
#define MB(offset) MAILBOX + (offset)
#define MB_RIP 0x80
#define MB_CS 0x88
#define MB_RFLAGS 0x90
#define MB_RSP 0x98
#define MB_SS 0xa0
#define MB_VECTOR 0xa8
#define MB_ERROR 0xb0
#define MB_CR2 0xb8
#define MB_FS_BASE 0xc0
#define MB_GS_BASE 0xc8
#define MB_SEG 0xd0
#define MB_WINDOW 0x800
#define WINDOW 0x10000f00
#define WINDOW_BYTES 0x200

    .section .rodata
    .globl guest_kernel, guest_kernel_resume, guest_kernel_end
    .hidden guest_kernel, guest_kernel_resume, guest_kernel_end
    .balign 16
guest_kernel:
    .set vector, 0
    .rept 256
    .balign 16
    /* vectors that push an error code: 8, 10-14, 17, 21, 29, 30 */
    .if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30)
    pushq $0
    .endif
    pushq $vector
    jmp common
    .set vector, vector + 1
    .endr

common:
    movq %rax, MB(0x00)
    movq %rcx, MB(0x08)
    movq %rdx, MB(0x10)
    movq %rbx, MB(0x18)
    movq %rbp, MB(0x28)
    movq %rsi, MB(0x30)
    movq %rdi, MB(0x38)
    movq %r8, MB(0x40)
    movq %r9, MB(0x48)
    movq %r10, MB(0x50)
    movq %r11, MB(0x58)
    movq %r12, MB(0x60)
    movq %r13, MB(0x68)
    movq %r14, MB(0x70)
    movq %r15, MB(0x78)
    popq %rax
    movq %rax, MB(MB_VECTOR)
    popq %rax
    movq %rax, MB(MB_ERROR)
    popq %rax
    movq %rax, MB(MB_RIP)
    popq %rax
    movq %rax, MB(MB_CS)
    popq %rax
    movq %rax, MB(MB_RFLAGS)
    popq %rax
    movq %rax, MB(MB_RSP)
    popq %rax
    movq %rax, MB(MB_SS)
    movq %cr2, %rax
    movq %rax, MB(MB_CR2)
    movl %ds, %eax
    movq %rax, MB(MB_SEG)
    movl %es, %eax
    movq %rax, MB(MB_SEG + 8)
    movl %fs, %eax
    movq %rax, MB(MB_SEG + 16)
    movl %gs, %eax
    movq %rax, MB(MB_SEG + 24)
    rdfsbase %rax
    movq %rax, MB(MB_FS_BASE)
    rdgsbase %rax
    movq %rax, MB(MB_GS_BASE)
    outb %al, $0x10

guest_kernel_resume:
    cld
    movq $MB(MB_WINDOW), %rsi
    movl $WINDOW, %edi
    movl $WINDOW_BYTES / 8, %ecx
    rep movsq
    xorl %eax, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %fs
    movl %eax, %gs
    movq %rax, %cr2
    movq MB(MB_FS_BASE), %rax
    wrfsbase %rax
    movq MB(MB_GS_BASE), %rax
    wrgsbase %rax
    pushq MB(MB_SS)
    pushq MB(MB_RSP)
    pushq MB(MB_RFLAGS)
    pushq MB(MB_CS)
    pushq MB(MB_RIP)
    movq MB(0x00), %rax
    movq MB(0x08), %rcx
    movq MB(0x10), %rdx
    movq MB(0x18), %rbx
    movq MB(0x28), %rbp
    movq MB(0x30), %rsi
    movq MB(0x38), %rdi
    movq MB(0x40), %r8
    movq MB(0x48), %r9
    movq MB(0x50), %r10
    movq MB(0x58), %r11
    movq MB(0x60), %r12
    movq MB(0x68), %r13
    movq MB(0x70), %r14
    movq MB(0x78), %r15
    iretq
guest_kernel_end:

    .section .note.GNU-stack, "", @progbits
