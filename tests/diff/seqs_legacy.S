/* SPDX-License-Identifier: MIT */
/*
 * Hand-picked cases of 32- and 16-bit code, as those in seqs_table.S. Registers, as offsets in their segments:
 *   ebx  DATA + 0x400            ebp  4 bytes before a page boundary
 *   esi  DATA + 0x800            edi  DATA + 0x1800        esp  DATA + 0x1600
 * Segments are segs.c's usual ones; their selectors by name below.
 */
    .intel_syntax noprefix

    .macro CASE name
    .section .rodata.diff_names, "a"
77: .asciz "\name"
    .section .data.rel.ro.diff_seqs, "aw"
    .quad 77b, 78f, 79f
    .section .rodata.diff_code, "a"
78:
    .endm
    .macro END
79:
    .endm
    .macro TABLE_START name
    .section .data.rel.ro.diff_seqs, "aw"
    .balign 8
    .globl \name, \name\()_end
    .hidden \name, \name\()_end
\name:
    .endm
    .macro TABLE_END name
    .section .data.rel.ro.diff_seqs, "aw"
\name\()_end:
    .endm

    .set USER_CS32, 0x23
    .set USER_CS64, 0x33
    .set USER_DS, 0x2b
    /* segs.c's table32 */
    .set CODE_SMALL, 1 << 3 | 7
    .set DATA_16K, 3 << 3 | 7
    .set DATA_4K, 4 << 3 | 7
    .set DOWN_BIG, 5 << 3 | 7
    .set DOWN_SMALL, 6 << 3 | 7
    .set READ_ONLY, 7 << 3 | 7
    .set STACK_12K, 8 << 3 | 7
    .set CODE_16BIT, 11 << 3 | 7
    .set STACK_16BIT, 12 << 3 | 7
    .set CODE_EXEC_ONLY, 13 << 3 | 7
    .set ABSENT, 14 << 3 | 7

    .section .rodata.diff_code, "a"
    .code32
TABLE_START diff_seq32_table

CASE "inc and dec by one byte keep the carry"
    stc
    inc eax
    dec ecx
    inc ax
    dec sp
    inc sp
    setc al
    clc
    dec edx
    inc ebx
    setc dl
END
CASE "pusha and popa"
    pushad
    popad
    pushaw
    popaw
    pushad
    mov eax, [esp + 12]
    add esp, 32
END
CASE "popa skips esp"
    pushad
    mov dword ptr [esp + 12], 0x1234
    mov dword ptr [esp], 0x77777777
    popad
END
CASE "pusha at the end of the stack's page"
    mov esp, ebp
    sub esp, 0x1ffc - 0x10
    pushad
END
CASE "bcd"
    daa
    setc cl
    mov al, ch
    das
    lahf
    mov ax, dx
    aaa
    aas
    aam
    aad
    aam 16
    aad 7
    .byte 0xd6 # SALC
END
CASE "aam 0"
    aam 0
END
CASE "salc both ways"
    stc
    .byte 0xd6
    mov ah, al
    clc
    .byte 0xd6
END
CASE "bound inside"
    mov dword ptr [ebx], -5
    mov dword ptr [ebx + 4], 100
    mov eax, 100
    bound eax, [ebx]
    mov eax, -5
    bound eax, [ebx]
    mov eax, 101
    bound eax, [ebx]
END
CASE "bound of 16 bits"
    mov dword ptr [ebx], 0x00640000
    mov ax, 0x64
    bound ax, [ebx]
    mov ax, -1
    bound ax, [ebx]
END
CASE "into"
    xor eax, eax
    into
    mov al, 0x7f
    add al, 1
    into
END
CASE "arpl"
    mov ax, 0x10
    mov cx, 0x13
    arpl ax, cx
    setz dl
    arpl ax, cx
    setz dh
    mov word ptr [ebx], 1
    arpl [ebx], cx
END
CASE "arpl without a change of a read-only page"
    xor ecx, ecx
    arpl [ebx + 0x2c00], cx
    setz al
END
CASE "arpl with a change of a read-only page"
    mov cl, 3
    arpl [ebx + 0x2c00], cx
    arpl [ebx + 0x2c02], cx
    arpl [ebx + 0x2c04], cx
    arpl [ebx + 0x2c06], cx
    arpl [ebx + 0x2c10], cx
END
CASE "arpl without a change of a read-only segment"
    mov eax, READ_ONLY
    mov ds, eax
    xor ecx, ecx
    arpl [0x400], cx
END
CASE "opcode 82"
    .byte 0x82, 0xc0, 0x7f # add al, 0x7f
    .byte 0x82, 0x03, 0xff # add byte ptr [ebx], -1
    .byte 0x82, 0xdd, 0x01 # sbb ch, 1
    setc dl
END
CASE "segment registers pushed and popped"
    push ds
    push es
    push ss
    push cs
    push fs
    push gs
    pop eax
    pop ecx
    pop edx
    pop eax
    pop es
    pop ds
END
CASE "segment registers pushed by 16 bits"
    push ds
    .byte 0x66, 0x06 # push es
    .byte 0x66, 0x1e # push ds
    .byte 0x66, 0x07 # pop es
    pop ax
    pop ds
END
CASE "push of a segment register writes its half"
    mov dword ptr [esp - 4], 0x12345678
    push fs
    pop eax
END
CASE "load of a segment by mov"
    mov eax, DATA_4K
    mov es, eax
    mov ecx, es:[0x10]
    mov es:[0xffc], ecx
    mov es:[0xffd], ecx
END
CASE "lds les lfs lgs lss"
    mov dword ptr [ebx], 0x123
    mov word ptr [ebx + 4], DATA_16K
    les ecx, [ebx]
    lfs edx, [ebx]
    lgs ax, [ebx + 2]
END
CASE "lss"
    mov dword ptr [ebx], 0x1500
    mov word ptr [ebx + 4], STACK_12K
    lss esp, [ebx]
    push eax
    pop ecx
    push dword ptr [esp]
END
CASE "lds of a bad selector"
    mov dword ptr [ebx], 0x123
    mov word ptr [ebx + 4], 0x1007
    lds eax, [ebx]
END
CASE "lds of an absent segment"
    mov word ptr [ebx + 4], ABSENT
    lds eax, [ebx]
END
CASE "ss of a code segment"
    mov eax, CODE_SMALL
    mov ss, eax
END
CASE "ss of a read-only segment"
    mov eax, READ_ONLY
    mov ss, eax
END
CASE "ds of an execute-only segment"
    mov eax, CODE_EXEC_ONLY
    mov ds, eax
END
CASE "clflush of an execute-only segment"
    jmp 1f
1:  push CODE_EXEC_ONLY
    call 2f
2:  pop eax
    .byte 0x83, 0xc0, 3f - 2b # add eax, 3f - 2b
    and eax, 0xffff
    push eax
    retf
3:  clflush cs:[0x100]
    clflushopt cs:[0x100]
    mov al, cs:[0x100]
END
CASE "a write to a read-only segment"
    mov eax, READ_ONLY
    mov ds, eax
    mov ecx, [0x400]
    mov [0x400], ecx
END
CASE "a write through cs"
    mov cs:[ebx], eax
END
CASE "a write through cs after one through ds"
    mov [ebx], eax
    mov [ebx + 4], ecx
    mov cs:[ebx], edx
END
CASE "a write through cs at the head of a group"
    inc dword ptr [ebx + 0x80]
    mov dword ptr cs:[ebx], edx
    mov [ebx], eax
    mov [ebx + 4], ecx
END
CASE "a write through cs to a constant address"
    inc dword ptr [ebx]
    mov dword ptr cs:[0x10010400], edx
END
CASE "an access through a null selector"
    xor eax, eax
    mov es, eax
    mov ecx, es:[ebx]
END
CASE "limit of an expand-down segment"
    mov eax, DOWN_BIG
    mov es, eax
    mov ecx, es:[0x800]
    mov es:[0x900], ecx
    mov ecx, es:[0x7ff]
END
CASE "expand-down of 64 KiB ends there"
    mov eax, DOWN_SMALL
    mov es, eax
    mov ecx, es:[0x400]
    mov es:[0x10000], ecx
END
CASE "limit by the last byte"
    mov eax, DATA_4K
    mov es, eax
    mov al, es:[0xfff]
    mov ax, es:[0xffe]
    movups xmm0, es:[0xff0]
    mov ax, es:[0xfff]
END
CASE "limit with strings"
    mov eax, DATA_4K
    mov es, eax
    mov edi, 0xff0
    mov ecx, 100
    rep stosb
END
CASE "limit with strings, backward"
    mov eax, DATA_4K
    mov ds, eax
    mov esi, 0x20
    mov ecx, 100
    std
    rep lodsd
END
CASE "limit of fs and gs"
    mov eax, fs:[0]
    mov gs:[4], eax
    add fs:[ebx - 0x400], eax
    mov eax, gs:[0x2ffd]
END
CASE "a limit seen by x87 and vectors"
    mov eax, DATA_4K
    mov es, eax
    fld qword ptr es:[0xff8]
    movdqu xmm1, es:[0xfe8]
    fst qword ptr es:[0xff9]
END
CASE "lar lsl verr verw"
    mov eax, DATA_4K
    lar ecx, eax
    setz dl
    lsl edx, eax
    verw ax
    setz al
    mov cx, READ_ONLY
    verw cx
    setz ah
    verr cx
    lsl ecx, ecx
END
CASE "lsl of pages"
    mov eax, USER_DS
    lsl ecx, eax
    lsl dx, ax
    mov eax, 15 << 3 | 7
    lsl eax, eax
END
CASE "moffs"
    mov eax, fs:[0x40]
    mov fs:[0x48], al
    mov fs:[0x4a], ax
    .byte 0x64, 0x67, 0xa1, 0x40, 0x00 # mov eax, fs:[0x40]
    .byte 0x64, 0x67, 0xa3, 0x50, 0x00 # mov fs:[0x50], eax
END
CASE "16-bit addresses"
    .byte 0x64, 0x67, 0x8b, 0x07 # mov eax, fs:[bx]
    mov bx, 0x40
    mov si, 0x20
    mov di, 0x10
    mov eax, fs:[bx + si]
    add fs:[bx + di + 4], eax
    mov ecx, fs:[si]
    mov fs:[di - 4], cx
    mov al, fs:[bx + 0x101]
    lea edx, [bx + si - 1]
    lea cx, [bp + di]
    mov edx, fs:[0x80]
END
CASE "16-bit addresses wrap"
    mov bx, 0xfff0
    mov si, 0x30
    mov eax, fs:[bx + si]
    mov fs:[bx + si + 8], eax
    mov cx, fs:[bx + 0x20]
END
CASE "16-bit addresses by bp are the stack's"
    mov eax, ebp
    mov eax, ss
    mov ebp, 0x1234
    lea eax, [bp + si]
    mov ecx, 0
    mov ecx, fs:[bp - 0x1200]
END
CASE "loop by cx and by ecx"
    mov ecx, 0x10003
1:  inc eax
    addr16 loop 1b
    mov edx, ecx
    mov ecx, 3
2:  inc eax
    loop 2b
END
CASE "jcxz and jecxz"
    mov ecx, 0x10000
    jcxz 1f
    inc eax
1:  jecxz 2f
    inc edx
2:  xor ecx, ecx
    jecxz 3f
    inc eax
3:  nop
END
CASE "loope loopne"
    mov ecx, 4
1:  cmp eax, eax
    loope 1b
    mov ecx, 0x30004
2:  cmp ecx, 0x30002
    addr16 loopne 2b
END
CASE "near branches with 16-bit operands cut eip"
    .byte 0x66, 0xeb, 0x00 # jmp
END
CASE "call and ret"
    call 1f
    jmp 3f
1:  call 2f
    ret
2:  pop eax
    push eax
    ret 0
3:  nop
END
CASE "ret with an immediate"
    push eax
    push ecx
    call 1f
    jmp 2f
1:  ret 8
2:  nop
END
CASE "call by register and memory"
    call 1f
1:  pop eax
    .byte 0x83, 0xc0, 3f - 1b # add eax, 3f - 1b
    call eax
    mov [ebx], eax
    call dword ptr [ebx]
    jmp 4f
3:  inc ecx
    ret
4:  nop
END
CASE "enter and leave"
    enter 32, 0
    mov [ebp - 8], eax
    leave
    enter 16, 3
    leave
    .byte 0x66, 0xc8, 8, 0, 1 # enterw 8, 1
    .byte 0x66, 0xc9          # leavew
END
CASE "push and pop in all sizes"
    push 0x12345678
    .byte 0x66, 0x68, 0x34, 0x12 # push 0x1234
    push -1
    .byte 0x66, 0x6a, 0xfe # push -2
    push dword ptr [ebx]
    push word ptr [ebx + 4]
    pop eax
    pop cx
    pop dword ptr [esi]
    pop word ptr [esi + 8]
    pop eax
    pop ecx
END
CASE "pop to memory by esp"
    push eax
    push ecx
    pop dword ptr [esp]
    pop dword ptr [esp + 4]
END
CASE "a 16-bit stack"
    mov ecx, esp
    mov eax, STACK_16BIT
    mov ss, eax
    mov esp, 0x56781400
    push eax
    pushad
    popad
    call 1f
1:  pop edx
    enter 8, 1
    leave
    mov eax, [esp]
    push esp
    pop edx
END
CASE "a 16-bit stack wraps"
    mov eax, STACK_16BIT
    mov ss, eax
    mov esp, 0xabcd0002
    pop ax
    mov edx, esp
END
CASE "the stack's limit"
    mov eax, STACK_12K
    mov ss, eax
    mov esp, 0x3000
    push eax
    pop ecx
    pop ecx
END
CASE "the stack's bottom"
    mov eax, STACK_12K
    mov ss, eax
    mov esp, 2
    push ax
    push eax
END
CASE "an expand-down stack"
    mov eax, DOWN_BIG
    mov ss, eax
    mov esp, 0x808
    push eax
    push ecx
    push edx
END
CASE "ebp's segment is the stack's"
    mov eax, STACK_12K
    mov ss, eax
    mov ebp, 0x2ffe
    mov cx, [ebp]
    mov ecx, [ebp]
END
CASE "esp's too, with ds by prefix"
    mov eax, STACK_12K
    mov ss, eax
    mov esp, 0x2ffe
    mov ecx, es:[ebx]
    mov ecx, [esp]
END
CASE "pushf and popf at cpl 3"
    pushfd
    pop eax
    or eax, 0x3f7fd7 & ~0x100 & ~0x40000 & ~0x4000
    push eax
    popfd
    pushfd
    pop ecx
    pushfw
    popfw
END
CASE "far jump and call inside"
    push cs
    call 1f
1:  pop eax
    .byte 0x83, 0xc0, 2f - 1b # add eax, 2f - 1b
    push eax
    retf
    ud2
2:  inc ecx
END
CASE "far call through memory, and back"
    call 1f
1:  pop eax
    .byte 0x83, 0xc0, 2f - 1b # add eax, 2f - 1b
    mov [ebx], eax
    mov [ebx + 4], cs
    call fword ptr [ebx]
    jmp 3f
2:  inc ecx
    retf
3:  nop
END
CASE "far jump to another code segment"
    .byte 0xea # jmp CODE_SMALL:0xf80
    .long 0xf80
    .word CODE_SMALL
END
CASE "far jump beyond the segment"
    .byte 0xea # jmp CODE_SMALL:0x2000
    .long 0x2000
    .word CODE_SMALL
END
CASE "far jump to data"
    .byte 0xea # jmp DATA_16K:0
    .long 0
    .word DATA_16K
END
CASE "far jump to the kernel"
    .byte 0xea # jmp 0x10:0
    .long 0
    .word 0x10
END
CASE "far jump of 16 bits"
    .byte 0x66, 0xea, 0x80, 0x0f, CODE_SMALL, 0
END
CASE "to 16-bit code and on there"
    .byte 0xea # jmp CODE_16BIT:0x1080
    .long 0x1080
    .word CODE_16BIT
END
CASE "to 64-bit code"
    call 1f
1:  pop eax
    .byte 0x83, 0xc0, 2f - 1b # add eax, 2f - 1b
    push USER_CS64
    push eax
    retf
    ud2
    .code64
2:  mov rcx, 0x1122334455667788
    shr rcx, 8
    .code32
END
CASE "xlat"
    mov eax, 0x37
    xlatb
    movzx ecx, al
    mov bx, 0x40
    .byte 0x64, 0x67, 0xd7
END
CASE "strings in all sizes"
    mov ecx, 10
    rep movsb
    rep stosd
    mov ecx, 7
    rep movsw
    mov ecx, 5
    repe cmpsd
    mov ecx, 3
    repne scasb
    lodsw
    cmpsb
END
CASE "strings with 16-bit addresses and a segment"
    push fs
    pop es
    mov esi, 0x12340010
    mov edi, 0x56780020
    mov ecx, 0x10005
    .byte 0x64, 0x67, 0xf3, 0xa4 # rep movsb from fs
    mov cl, 3
    .byte 0x67, 0xf3, 0xab # rep stosd
END
CASE "strings with 16-bit addresses wrap"
    push fs
    pop es
    mov edi, 0xfffc
    xor esi, esi
    mov ecx, 8
    .byte 0x64, 0x67, 0xf3, 0xa4 # rep movsb from fs
END
CASE "strings read through cs"
    call 1f
1:  pop esi
    movsd [edi], cs:[esi]
    lods eax, cs:[esi]
END
CASE "high-byte registers with memory"
    mov ah, [ebx]
    mov ch, [esi]
    add dh, [edi]
    sub [ebx + 1], bh
    xchg dh, [esi + 3]
    adc ah, fs:[3]
    cmp [edi], ch
    sete ah
    setb byte ptr [ebx]
    rol bh, cl
    mul ch
END
CASE "all eight registers with memory"
    add [ebx], eax
    add [ebx + 4], ecx
    add [ebx + 8], edx
    add [ebx + 12], ebx
    add [ebx + 16], esp
    add [ebx + 20], ebp
    add [ebx + 24], esi
    add [ebx + 28], edi
    mov esi, [ebx + edi * 1 - 0x1800 + 0x400]
END
CASE "addresses wrap at 4 GiB"
    mov eax, 0xffffff00
    mov ecx, [ebx + eax + 0x120]
    mov edx, [eax + ebx * 1 + 0x108]
    lea esi, [eax + eax * 8 + 0x7fffffff]
END
CASE "cmpxchg8b bswap movbe crc32"
    mov [ebx], eax
    mov [ebx + 4], edx
    lock cmpxchg8b [ebx]
    bswap ecx
    movbe edx, [esi]
    movbe [edi], cx
    crc32 eax, dl
    crc32 ecx, dword ptr [esi]
    popcnt edx, [esi]
END
CASE "bmi and vex"
    andn eax, ecx, [ebx]
    pdep edx, eax, ecx
    mulx eax, ecx, [ebx]
    rorx edx, ecx, 9
    vaddps ymm1, ymm2, [ebx]
    vmovdqu [esi], ymm1
    vpinsrd xmm3, xmm1, eax, 2
    vzeroupper
END
CASE "x87 and mmx"
    fninit
    fld qword ptr [ebx]
    fild dword ptr [esi]
    faddp
    fistp word ptr [edi]
    movq mm0, [ebx]
    paddb mm0, mm1
    movq [esi], mm0
    emms
END
CASE "fnstenv of 16 and 32 bits"
    fninit
    fld1
    .byte 0x66
    fnstenv [ebx]
    mov dword ptr [ebx + 6], 0
    mov dword ptr [ebx + 10], 0
    .byte 0x66
    fldenv [ebx]
END
CASE "fxsave leaves the part of xmm8 to xmm15"
    fxsave [ebx]
    xor eax, eax
    mov [ebx + 6], ax
    mov [ebx + 8], eax
    mov [ebx + 12], eax
    mov [ebx + 16], eax
    mov [ebx + 20], eax
END
CASE "fxrstor leaves xmm8 to xmm15"
    fxsave [ebx]
    xor eax, eax
    mov [ebx + 6], ax
    mov [ebx + 8], eax
    mov [ebx + 12], eax
    mov [ebx + 16], eax
    mov [ebx + 20], eax
    dec eax
    mov [ebx + 0x120], eax
    mov [ebx + 0x194], eax
    mov [ebx + 0xa4], eax
    fxrstor [ebx]
END
CASE "xsave and xrstor leave ymm8 to ymm15"
    mov eax, 7
    xor edx, edx
    mov [ebx + 512], edx
    mov [ebx + 516], edx
    mov [ebx + 520], edx
    mov [ebx + 524], edx
    mov [ebx + 528], edx
    mov [ebx + 532], edx
    xsave [ebx]
    xor eax, eax
    mov [ebx + 6], ax
    mov [ebx + 8], eax
    mov [ebx + 12], eax
    mov [ebx + 16], eax
    mov [ebx + 20], eax
    dec eax
    mov [ebx + 0x120], eax
    mov [ebx + 0x2c4], eax
    mov [ebx + 0x244], eax
    mov eax, 7
    xrstor [ebx]
END
CASE "xrstor of initial states leaves ymm8 to ymm15"
    mov eax, 7
    xor edx, edx
    xor ecx, ecx
    mov [ebx + 512], ecx
    mov [ebx + 516], edx
    mov [ebx + 520], edx
    mov [ebx + 524], edx
    mov [ebx + 528], edx
    mov [ebx + 532], edx
    mov dword ptr [ebx + 24], 0x1f80
    xrstor [ebx]
END
CASE "xsaveopt and xsavec of sse"
    mov eax, 2
    xor edx, edx
    mov [ebx + 512], edx
    mov [ebx + 516], edx
    mov [ebx + 520], edx
    mov [ebx + 524], edx
    mov [ebx + 528], edx
    mov [ebx + 532], edx
    xsavec [ebx]
    pxor xmm0, xmm0
    xrstor [ebx]
    mov [ebx + 512], edx
    mov [ebx + 520], edx
    mov [ebx + 524], edx
END
CASE "fnsave and frstor of 32 bits"
    fninit
    fldpi
    fld1
    fnsave [ebx]
    xor eax, eax
    mov [ebx + 12], eax
    mov [ebx + 16], eax
    mov [ebx + 20], eax
    mov [ebx + 24], eax
    frstor [ebx]
END
CASE "fnsave and frstor of 16 bits"
    fninit
    fldpi
    .byte 0x66
    fnsave [ebx]
    xor eax, eax
    mov [ebx + 6], eax
    mov [ebx + 10], eax
    .byte 0x66
    frstor [ebx]
END
CASE "sysexit is the kernel's"
    sysexit
END
CASE "code changes the instruction behind"
    call 1f
1:  pop eax
    .byte 0x83, 0xc0, 2f - 1b # add eax, 2f - 1b
    mov byte ptr [eax + 1], 0x55
2:  mov cl, 0x11
    inc edx
END
CASE "no syscall by int"
    int 0x20
END
TABLE_END diff_seq32_table

    /* segs.c's table16 */
    .set RM_CODE, 1 << 3 | 7
    .set RM_DATA, 3 << 3 | 7
    .set RM_DATA_100, 4 << 3 | 7
    .set DATA_8K, 5 << 3 | 7
    .set DOWN_64K, 6 << 3 | 7
    .set DOWN_4G, 7 << 3 | 7
    .set STACK_32BIT, 10 << 3 | 7
    .set DATA_ALL, 11 << 3 | 7

    .section .rodata.diff_code, "a"
    .code16
TABLE_START diff_seq16_table

CASE "16: inc dec pusha popa"
    stc
    inc ax
    dec cx
    setc al
    pushaw
    popaw
    pushad
    popad
END
CASE "16: pusha wraps"
    mov sp, 8
    pushaw
    mov bx, sp
    popaw
END
CASE "16: pushad wraps"
    mov sp, 0x10
    pushad
END
CASE "16: push at 1"
    mov sp, 1
    push ax
END
CASE "16: push at 0"
    mov sp, 0
    push ax
    pop cx
    push eax
    pop edx
END
CASE "16: pop at ffff"
    mov sp, 0xffff
    pop ax
END
CASE "16: pop at fffe"
    mov sp, 0xfffe
    pop ax
    mov cx, sp
    pop ax
END
CASE "16: a word at ffff"
    mov bx, 0xffff
    mov al, [bx]
    mov ax, [bx]
END
CASE "16: a dword at fffd"
    mov bx, 0xfffd
    mov ax, [bx]
    mov eax, [bx]
END
CASE "16: a word at ffff of the stack"
    mov bp, 0xffff
    mov al, [bp]
    mov ax, [bp]
END
CASE "16: all forms of addresses"
    mov bx, 0x100
    mov bp, 0x200
    mov si, 0x30
    mov di, 0x40
    mov ax, [bx + si]
    add ax, [bx + di]
    add ax, [bp + si]
    add ax, [bp + di]
    add ax, [si]
    add ax, [di]
    add ax, [0x1234]
    add ax, [bx]
    add ax, [bx + si + 5]
    add ax, [bp + di - 5]
    add ax, [bp + 0x1000]
    add [bx + 0x2fff], al
    add ax, [si - 0x40]
END
CASE "16: addresses wrap"
    mov bx, 0xff00
    mov si, 0x180
    mov ax, [bx + si]
    mov [bx + si + 0x90], ax
    mov al, [bx + 0x7f80]
    lea dx, [bx + si - 0x100]
    lea edx, [bx + si]
END
CASE "16: 32-bit addresses"
    mov ebx, 0x1000
    mov esi, 0x20
    mov eax, [ebx + esi * 4]
    mov [ebx + 8], eax
    add word ptr [esi + esi], 5
    lea eax, [ebx + esi * 8 + 0x12345678]
    lea ax, [ebx + esi]
    mov al, [ebx + ebx * 8 + 0x6fff]
    mov al, [ebx + ebx * 8 + 0x7000]
END
CASE "16: unreal"
    mov ax, DATA_ALL
    mov fs, ax
    mov eax, 0x60010
    mov ecx, fs:[eax]
    mov fs:[eax + 4], cx
END
CASE "16: segment arithmetic by registers"
    mov ax, ds
    mov cx, es
    mov dx, cs
    mov [bx], ss
    mov ax, fs
    push gs
    pop ax
END
CASE "16: segments pushed and popped"
    push ds
    push es
    pop ds
    pop es
    push fs
    push gs
    pop fs
    pop gs
    push cs
    pop ax
    push ss
    pop ss
    pop eax
END
CASE "16: segments pushed by 32 bits"
    .byte 0x66, 0x1e # push ds
    .byte 0x66, 0x0f, 0xa0 # push fs
    pop eax
    pop ecx
    .byte 0x66, 0x16
    .byte 0x66, 0x17
END
CASE "16: lds les"
    mov dword ptr [bx], RM_DATA_100 << 16 | 0x44
    les di, [bx]
    mov ax, es:[di]
    lds si, [bx]
    mov ax, [si]
END
CASE "16: bcd and salc"
    aaa
    daa
    aam
    aad
    das
    aas
    .byte 0xd6
END
CASE "16: bound into arpl"
    mov dword ptr [bx], 0x00100000
    mov ax, 5
    bound ax, [bx]
    xor ax, ax
    into
    mov ax, 0x11
    bound ax, [bx]
END
CASE "16: arpl"
    mov ax, 3
    arpl [bx], ax
END
CASE "16: loop jcxz"
    mov ecx, 0x50002
1:  inc ax
    loop 1b
    jcxz 2f
    inc dx
2:  .byte 0x67
    jcxz 3f
    mov ecx, 2
3:  inc dx
    .byte 0x67
    loop 3b
END
CASE "16: call ret jmp"
    call 1f
    jmp 3f
1:  .byte 0x66, 0xe8 # call rel32
    .long 2f - 4f
4:  ret
2:  .byte 0x66, 0xc3 # ret, 32 bits
3:  nop
END
CASE "16: jumps wrap at 64 KiB"
    .byte 0xe9
    .word 0x7ff0
END
CASE "16: a 32-bit jump beyond"
    .byte 0x66, 0xe9
    .long 0x10000
END
CASE "16: call through memory"
    call 1f
1:  pop ax
    .byte 0x83, 0xc0, 2f - 1b # add eax, 2f - 1b
    mov [bx], ax
    call [bx]
    call ax
    jmp 3f
2:  inc cx
    ret
3:  nop
END
CASE "16: call through ds by bp"
    mov bp, 0x400
    call 1f
1:  pop ax
    .byte 0x83, 0xc0, 2f - 1b # add ax, 2f - 1b
    mov [bx], ax
    .byte 0x3e, 0xff, 0x56, 0x00 # call ds:[bp]
    .byte 0x3e, 0x8b, 0x46, 0x00 # mov ax, ds:[bp]
    jmp 3f
2:  inc cx
    ret
3:  nop
END
CASE "16: far"
    push cs
    call 1f
1:  pop ax
    .byte 0x83, 0xc0, 2f - 1b # add eax, 2f - 1b
    push ax
    retf
    ud2
2:  inc cx
END
CASE "16: far through memory"
    call 1f
1:  pop ax
    .byte 0x83, 0xc0, 2f - 1b # add eax, 2f - 1b
    mov [bx], ax
    mov [bx + 2], cs
    .byte 0xff, 0x1f # call far [bx]
    jmp 3f
2:  retf
3:  nop
END
CASE "16: to 32-bit code"
    .byte 0xea
    .word 0x1080, 14 << 3 | 7
END
CASE "16: enter leave"
    enter 16, 0
    mov [bp - 4], ax
    leave
    enter 8, 3
    leave
    .byte 0x66, 0xc8, 8, 0, 1
    .byte 0x66, 0xc9
END
CASE "16: enter at the bottom"
    mov sp, 2
    enter 16, 0
END
CASE "16: a 32-bit stack"
    mov ax, STACK_32BIT
    mov ss, ax
    mov esp, 0x1500
    push ax
    push eax
    call 1f
1:  pop ax
    pop eax
    pop ax
    mov ax, [esp - 4]
END
CASE "16: pushf popf"
    pushf
    pop ax
    or ax, 0xfd7 & ~0x100
    and ax, ~0x200
    push ax
    popf
    pushfd
    pop ecx
END
CASE "16: strings"
    mov cx, 5
    rep movsb
    mov cx, 4
    rep stosw
    mov cx, 3
    rep movsd
    mov cx, 9
    repe cmpsw
    mov cx, 9
    repne scasb
    lodsb
END
CASE "16: strings wrap"
    mov si, 0xfffe
    mov di, 0x20
    mov cx, 3
    rep movsw
    mov di, 0xfff0
    mov cx, 20
    rep stosb
END
CASE "16: a string's word at ffff"
    mov si, 0xfffb
    mov cx, 5
    rep lodsw
END
CASE "16: strings backward wrap"
    mov di, 3
    mov cx, 8
    std
    rep stosb
    cld
END
CASE "16: strings with 32-bit addresses"
    mov esi, 0x800
    mov edi, 0x900
    mov ecx, 4
    .byte 0x67, 0xf3, 0xa4
    mov ecx, 0x10002
    mov edi, 0xfffe
    .byte 0x67, 0xf3, 0xab
END
CASE "16: strings with a segment"
    mov si, 0x10
    mov cx, 4
    rep movsw es:[di], fs:[si]
    lods ax, word ptr ss:[si]
END
CASE "16: xlat"
    mov al, 0xf0
    xlatb
    mov bx, 0xff80
    mov al, 0xff
    xlatb
    mov al, 3
    .byte 0x64
    xlatb
END
CASE "16: moffs"
    mov al, [0x1234]
    mov [0x1240], ax
    mov eax, [0xfffc]
    mov [0xfffd], ax
    mov fs:[0x10], al
    .byte 0x67, 0xa1
    .long 0x400
END
CASE "16: high-byte registers"
    mov ah, [bx]
    add ch, [si]
    xchg dh, [di]
    sub [bx + 1], bh
    add [bp], ah
    mul ch
END
CASE "16: limits"
    mov ax, DATA_8K
    mov es, ax
    mov al, es:[0x1fff]
    mov ax, es:[0x1fff]
END
CASE "16: expand-down"
    mov ax, DOWN_64K
    mov es, ax
    mov al, es:[0x400]
    mov es:[0xfffe], ax
    mov ax, es:[0xffff]
END
CASE "16: x87 sse"
    fninit
    fld dword ptr [bx]
    fstp qword ptr [si]
    movups xmm0, [bx]
    paddd xmm0, xmm1
    movups [di], xmm0
    cvtsi2sd xmm2, dword ptr [bx]
END
CASE "16: fnstenv fnsave of real mode's layout"
    fninit
    fld1
    fnstenv [bx]
    xor eax, eax
    mov [bx + 6], eax
    mov [bx + 10], eax
    fldenv [bx]
    .byte 0x66
    fnstenv [si]
    mov [si + 12], eax
    mov [si + 16], eax
    mov [si + 20], eax
    mov [si + 24], eax
END
CASE "16: fxsave"
    fxsave [bx]
    xor eax, eax
    mov [bx + 6], ax
    mov [bx + 8], eax
    mov [bx + 12], eax
    mov [bx + 16], eax
    mov [bx + 20], eax
END
CASE "16: vex"
    vaddps xmm0, xmm1, xmm2
END
CASE "16: bt with an offset"
    mov ax, -20
    bts [bx], ax
    mov eax, 1000
    btc [bx], eax
    setc al
END
CASE "16: imul shld cmpxchg xadd bswap movzx"
    imul cx, [bx], 300
    shld dx, ax, 5
    cmpxchg [si], cx
    xadd [di], ax
    bswap ecx
    movzx eax, byte ptr [bx]
    movsx edx, word ptr [bx]
    lock cmpxchg8b [bx]
END
CASE "16: hlt is the kernel's"
    hlt
END
CASE "16: code changes the instruction behind"
    call 1f
1:  pop si
    .byte 0x83, 0xc6, 2f - 1b # add si, 2f - 1b
    mov byte ptr cs:[si + 1], 0x55
2:  mov cl, 0x11
END
CASE "16: div by zero and overflow"
    mov dx, 0
    mov ax, 1000
    mov cx, 7
    div cx
    mov cl, 1
    mov ax, 0x1000
    div cl
END
TABLE_END diff_seq16_table
    .section .note.GNU-stack, "", @progbits
