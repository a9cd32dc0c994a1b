/* SPDX-License-Identifier: MIT */
/*
 * Option ROM that starts a bzImage (Plug and Play BIOS specification 1.0A, 3.2; boot.rst, "Real-mode code").
 * Firmware calls the entry at offset 3, then, when it boots from here, the bootstrap entry vector in real mode.
 *
 * Each piece is asked for by one DMA of fw_cfg: select, read all of it to its address. The addresses and
 * lengths are items too; what is in the kernel's header was filled in before. The initrd's address is made
 * lower if firmware says (INT 15h, E801h) that memory ends earlier.
 */
#define FW_CFG_SELECTOR 0x510
#define FW_CFG_DMA_HIGH 0x514
#define FW_CFG_DMA_LOW 0x518

#define DMA_READ_SELECTED 0x0a /* select and read */

#define KERNEL_ADDR 0x07
#define KERNEL_SIZE 0x08
#define INITRD_ADDR 0x0a
#define INITRD_SIZE 0x0b
#define KERNEL_DATA 0x11
#define INITRD_DATA 0x12
#define CMDLINE_ADDR 0x13
#define CMDLINE_SIZE 0x14
#define CMDLINE_DATA 0x15
#define SETUP_ADDR 0x16
#define SETUP_SIZE 0x17
#define SETUP_DATA 0x18

#define SETUP_SEG 0x1000
#define RAMDISK_IMAGE 0x218
#define STACK_TOP 0xfe00

	.section .rodata
	.globl	linux_rom, linux_rom_bytes
	.balign	16
	.code16
linux_rom:
	.byte	0x55, 0xaa
	.byte	(rom_end - linux_rom) / 512
	lretw				/* entry: nothing to set up */
	.org	linux_rom + 0x18
	.word	0			/* no PCI header */
	.word	pnp - linux_rom
	.balign	16
pnp:
	.ascii	"$PnP"
	.byte	1			/* version */
	.byte	2			/* length in units of 16 bytes */
	.word	0			/* no next header */
	.byte	0
	.byte	0			/* checksum; the ROM's own, its last byte, is set where it is offered */
	.long	0			/* no device id */
	.word	maker - linux_rom
	.word	product - linux_rom
	.byte	0x02, 0x00, 0x80	/* type: other storage */
	.byte	0x08			/* an initial program load device */
	.word	0			/* no boot connection vector */
	.word	0			/* no disconnect vector */
	.word	start - linux_rom	/* bootstrap entry vector */
	.word	0
	.word	0			/* no static resources */
maker:	.asciz	"Kage"
product: .asciz	"Kage Linux loader"

/* EAX := the 32-bit item AX; ESI, CX and DX go */
get32:
	movw	$FW_CFG_SELECTOR, %dx
	outw	%ax, %dx
	incw	%dx			/* FW_CFG_DATA */
	movw	$4, %cx
1:	inb	%dx, %al
	shll	$24, %eax
	shrl	$8, %esi
	orl	%eax, %esi
	loop	1b
	movl	%esi, %eax
	retw

/* Reads EBX bytes of item AX to address ECX. The descriptor is on the stack, whose segment is 0. */
dma:
	pushw	%bp
	bswapl	%ecx
	pushl	%ecx			/* address, bits 31..0 */
	pushl	$0			/* address, bits 63..32 */
	bswapl	%ebx
	pushl	%ebx			/* length */
	shll	$16, %eax
	movw	$DMA_READ_SELECTED, %ax
	bswapl	%eax
	pushl	%eax			/* control */
	movw	%sp, %bp
	xorl	%eax, %eax
	movw	$FW_CFG_DMA_HIGH, %dx
	outl	%eax, %dx
	movzwl	%sp, %eax
	bswapl	%eax
	movw	$FW_CFG_DMA_LOW, %dx
	outl	%eax, %dx
1:	movl	(%bp), %eax		/* 0 when it is done */
	testl	%eax, %eax
	jnz	1b
	addw	$16, %sp
	popw	%bp
	retw

/* fetch ADDR, SIZE, DATA */
.macro fetch addr, size, data
	movw	$\size, %ax
	callw	get32
	pushl	%eax
	movw	$\addr, %ax
	callw	get32
	movl	%eax, %ecx
	popl	%ebx
	movw	$\data, %ax
	callw	dma
.endm

start:
	cli
	cld
	xorw	%ax, %ax
	movw	%ax, %ss
	movw	$0x7c00, %sp
	fetch	SETUP_ADDR, SETUP_SIZE, SETUP_DATA
	fetch	KERNEL_ADDR, KERNEL_SIZE, KERNEL_DATA
	fetch	CMDLINE_ADDR, CMDLINE_SIZE, CMDLINE_DATA

	movw	$INITRD_SIZE, %ax
	callw	get32
	testl	%eax, %eax
	jz	boot
	movl	%eax, %ebp		/* size */
	movw	$INITRD_ADDR, %ax
	callw	get32
	pushl	%eax
	/* DX: 64 KiB units of memory above 16 MiB */
	sti
	movw	$0xe801, %ax
	xorw	%cx, %cx
	xorw	%dx, %dx
	int	$0x15
	cli
	testw	%dx, %dx
	jnz	2f
	movw	%bx, %dx
2:	movzwl	%dx, %edx
	shll	$16, %edx
	addl	$0x1000000, %edx
	subl	%ebp, %edx
	andl	$0xfffff000, %edx
	popl	%ecx
	cmpl	%edx, %ecx
	jbe	3f
	movl	%edx, %ecx
3:	movw	$SETUP_SEG, %ax
	movw	%ax, %es
	movl	%ecx, %es:RAMDISK_IMAGE
	movl	%ebp, %ebx
	movw	$INITRD_DATA, %ax
	callw	dma

boot:
	movw	$SETUP_SEG, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %fs
	movw	%ax, %gs
	movw	%ax, %ss
	movw	$STACK_TOP, %sp
	ljmpw	$SETUP_SEG + 0x20, $0

	.balign	512
rom_end:
	.balign	4
linux_rom_bytes:
	.long	rom_end - linux_rom
	.section .note.GNU-stack, "", @progbits
