/* SPDX-License-Identifier: MIT */
/*
 * Hand-picked cases. Each is code, position independent, 160 bytes at most, that runs into the INT3 behind
 * it. seqs.c runs each from several states, random but for these registers:
 *   rbx  DATA + 0x400                 rbp  4 bytes before a page boundary
 *   rsi  DATA + 0x800                 rdi  DATA + 0x1800
 *   r12  the read-only page           r13  4 bytes before the read-only page
 *   r14  the unmapped page            r15  the code window, behind the case
 *   fs   DATA + 0x100                 gs   DATA + 0x200
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

    .section .data.rel.ro.diff_seqs, "aw"
    .balign 8
    .globl diff_seq_table, diff_seq_table_end
    .hidden diff_seq_table, diff_seq_table_end
diff_seq_table:

/* ---- flags: chains, and across everything that a translator may put in between ---- */

CASE "adc chain"
    add rax, rcx
    adc rdx, r8
    adc r9, r10
    adc r11, 0
    setc al
    seto cl
END
CASE "sbb chain through memory"
    sub rax, [rbx]
    sbb rdx, [rbx + 8]
    sbb [rsi], r9
    sbb [rsi + 8], r10
    sbb r11, r11
END
CASE "adc chain across pages"
    add [rbp], rax
    adc [rbp + 0x1000 - 4], rdx
    adc r9, [rbp]
    setc al
    sets cl
    setp dl
END
CASE "adcx adox interleaved"
    adcx rax, rcx
    adox rdx, r8
    adcx r9, [rbx]
    adox r10, [rbp]
    adcx r11, rax
    adox r11, rdx
    setc al
    seto ah
END
CASE "flags live across loads"
    cmp rax, rcx
    mov r8, [rbx]
    mov [rsi], r9
    mov r10, [rbp]
    mov fs:[0x20], r10
    cmovb rdx, [rbx + 16]
    setle al
END
CASE "flags live across push and pop"
    cmp eax, ecx
    push rax
    push qword ptr [rbx]
    pop rdx
    pop qword ptr [rsi]
    seta al
    setg cl
    seto dl
END
CASE "flags live across a vector load"
    ptest xmm0, xmm1
    movups xmm2, [rbp]
    movaps [rbx], xmm3
    setz al
    setc cl
    seto dl
END
CASE "flags live across string instructions"
    mov ecx, 7
    cmp rax, rdx
    rep movsb
    movsq
    stosd
    lodsb
    setb al
    setle dl
END
CASE "flags live across a taken branch"
    cmp rax, rcx
    jae 1f
    mov rdx, [rbx]
1:  mov r8, [rsi]
    adc rdx, r8
    setb al
END
CASE "lahf sahf"
    add al, cl
    lahf
    mov rdx, [rbx]
    xor ebx, ebx
    sahf
    adc rdx, 0
    lahf
    seto cl
END
CASE "pushf popf"
    add eax, ecx
    pushfq
    mov rdx, [rbx]
    xor edx, edx
    popfq
    adc rdx, r8
    pushfq
    pop rax
END
CASE "popf of everything that CPL 3 may set"
    push 0x3f4fd5 - 0x30000 - 0x100
    popfq
    nop
    pushfq
    pop rax
END
CASE "popf sets the trap flag"
    pushfq
    or dword ptr [rsp], 0x100
    popfq
    inc rax
    inc rcx
END
CASE "popf sets the trap flag, a memory access follows"
    pushfq
    or dword ptr [rsp], 0x100
    popfq
    add [rbx], rax
    inc rcx
END
CASE "trap flag, then a repeated string instruction"
    mov ecx, 3
    pushfq
    or dword ptr [rsp], 0x100
    popfq
    rep movsb
    inc rax
END
CASE "trap flag, then a branch"
    pushfq
    or dword ptr [rsp], 0x100
    popfq
    jmp 1f
    inc rcx
1:  inc rax
END
CASE "popf 16-bit"
    push rax
    popfw
    pushfw
    pop cx
END
CASE "clc stc cmc cld std"
    stc
    cmc
    setc al
    std
    lodsb
    cld
    lodsb
    stc
    adc rcx, [rbx]
END
CASE "inc and dec keep carry"
    add rax, rcx
    inc qword ptr [rbx]
    dec rdx
    inc dword ptr [rbp]
    adc r8, 0
    setc cl
END
CASE "shift by zero keeps flags"
    add rax, rdx
    mov ecx, 0x40
    shl r8, cl
    shr qword ptr [rbx], cl
    rol r9, cl
    rcl dword ptr [rbp], cl
    setc al
    seto dl
    setz r8b
END
CASE "shifts by cl"
    mov cl, 33
    shl eax, cl
    setc r8b
    sar rdx, cl
    setc r9b
    rcr r10, cl
    rcl r11, 1
    setc al
END
CASE "shld shrd"
    mov cl, 12
    shld rax, rdx, cl
    shrd [rbx], r8, cl
    shld [rbp], r9, 7
    shrd eax, edx, 31
END
CASE "bit tests far from their operand"
    mov rax, -9000
    bts [rsi + 0x7e8], rax
    setc dl
    mov ecx, 8200
    btc [rbx], ecx
    setc r8b
    btr qword ptr [rbp], 63
    adc r9, 0
END
CASE "lock forms"
    lock add [rbx], rax
    lock xadd [rsi], rcx
    lock inc dword ptr [rdi]
    lock bts dword ptr [rbx + 8], 5
    lock neg byte ptr [rbx + 1]
    lock not word ptr [rbx + 2]
    xchg [rsi], rdx
    setc al
END
CASE "lock across a page boundary"
    lock add [rbp], rax
    lock xadd [rbp + 1], rcx
    xchg [rbp], rdx
END
CASE "lock cmpxchg succeeds and fails"
    mov rax, [rbx]
    lock cmpxchg [rbx], rcx
    setz dl
    lock cmpxchg [rbx], r8
    setz r9b
    mov rax, [rbp]
    lock cmpxchg [rbp], r10
END
CASE "cmpxchg8b"
    mov eax, [rsi]
    mov edx, [rsi + 4]
    lock cmpxchg8b [rsi]
    setz r8b
    cmpxchg8b [rdi + 3]
    setz r9b
END
CASE "cmpxchg16b"
    mov rax, [rbx]
    mov rdx, [rbx + 8]
    lock cmpxchg16b [rbx]
    setz r8b
    cmpxchg16b [rsi]
    setz r9b
END
CASE "cmpxchg16b misaligned"
    add rax, rdx
    cmpxchg16b [rbx + 8]
END
CASE "cmpxchg on the read-only page"
    cmpxchg [r12], rcx
    inc r8
END

/* ---- faults: where, what, and what has happened by then ---- */

CASE "division by zero"
    add r8, r9
    xor ecx, ecx
    div rcx
END
CASE "division overflow"
    mov rdx, rcx
    or rdx, 1
    mov ecx, 1
    div rcx
END
CASE "idiv of the smallest number"
    mov rax, 1
    ror rax, 1
    cqo
    mov rcx, -1
    idiv rcx
END
CASE "division by memory on two pages"
    xor edx, edx
    mov rax, r8
    or byte ptr [rbp], 1
    div qword ptr [rbp]
    add rdx, rax
END
CASE "division by zero in memory"
    mov qword ptr [rbx], 0
    inc r8
    div dword ptr [rbx]
    inc r8
END
CASE "store to the read-only page"
    add rax, rcx
    mov r8, [r12]
    mov [r12], rax
    inc r9
END
CASE "store across into the read-only page"
    mov rcx, [r13]
    mov [r13], rax
    inc r9
END
CASE "read-modify-write of the read-only page"
    add r8, rdx
    add [r12 + 8], rax
    inc r9
END
CASE "xchg with the read-only page"
    xchg rax, [r12]
END
CASE "load from nowhere"
    sub rax, rcx
    mov rdx, [r14]
    inc r9
END
CASE "load across into nowhere"
    mov rdx, [r14 - 4]
    inc r9
END
CASE "load of a non-canonical address"
    mov rcx, 0x800000000000
    mov rax, [rcx]
END
CASE "load across the canonical boundary"
    mov rcx, 0x7ffffffffffc
    mov rax, [rcx]
END
CASE "stack access to a non-canonical address"
    mov rbp, 0x800000000000
    mov rax, [rbp + 8]
END
CASE "push to a non-canonical stack"
    mov rcx, 0x800000000000
    mov rsp, rcx
    mov r8, 1
    push rax
END
CASE "push to nowhere leaves rsp"
    mov rsp, r14
    add rsp, 8
    push rax
END
CASE "push across into nowhere"
    lea rsp, [r14 + 4]
    push rax
END
CASE "pop from nowhere leaves rsp"
    mov rsp, r14
    pop rax
END
CASE "pop to the read-only page leaves rsp"
    pop qword ptr [r12]
END
CASE "push from nowhere leaves rsp"
    push qword ptr [r14]
END
CASE "pop with a base of rsp"
    pop qword ptr [rsp + 8]
    pop qword ptr [rsp]
    push qword ptr [rsp + 16]
    push [rsp]
END
CASE "push and pop of rsp"
    push rsp
    pop rax
    push rsp
    add qword ptr [rsp], 16
    pop rsp
    .byte 0x66, 0x68, 0x34, 0x12 # push word 0x1234
    pop cx
END
CASE "call to nowhere has pushed"
    call r14
END
CASE "call with a stack that is not there"
    mov rsp, r14
    call 1f
    nop
1:  nop
END
CASE "indirect call through nowhere leaves rsp"
    call [r14]
END
CASE "jump to data that is not executable"
    jmp rbx
END
CASE "jump to a non-canonical address"
    mov rax, 0x8000000000000000
    jmp rax
END
CASE "return to a non-canonical address"
    mov rax, 0x8000000000000000
    push rax
    ret
END
CASE "call of a non-canonical address"
    mov rax, 0x8000000000000000
    call rax
END
CASE "movaps misaligned"
    addps xmm1, xmm2
    movaps xmm0, [rbx + 8]
END
CASE "movaps misaligned store"
    movaps [rbp], xmm0
END
CASE "sse operand misaligned"
    paddd xmm0, [rbx + 1]
END
CASE "vex operand misaligned is fine"
    vpaddd xmm0, xmm1, [rbx + 1]
    vpaddd ymm3, ymm2, [rbp]
END
CASE "alignment check"
    pushfq
    or dword ptr [rsp], 0x40000
    popfq
    mov rax, [rbx]
    mov rcx, [rbx + 1]
END
CASE "alignment check of a store"
    pushfq
    or dword ptr [rsp], 0x40000
    popfq
    mov [rbx + 2], eax
END
CASE "alignment check passes"
    pushfq
    or dword ptr [rsp], 0x40000
    popfq
    mov [rbx + 2], ax
    movups xmm0, [rbx + 3]
    add [rbx + 8], rcx
    pushfq
    and dword ptr [rsp], ~0x40000
    popfq
    mov rcx, [rbx + 1]
END
CASE "int3"
    inc rax
    int3
    inc rax
END
CASE "int 3 in two bytes"
    .byte 0xcd, 3
    inc rax
END
CASE "int 4 and other vectors"
    int 4
END
CASE "int without permission"
    add rax, rcx
    int 0x20
END
CASE "icebp"
    .byte 0xf1
    inc rax
END
CASE "ud2"
    add rax, rcx
    ud2
END
CASE "privileged"
    add rax, rcx
    hlt
END
CASE "lock where it cannot be"
    .byte 0xf0, 0x01, 0xc8
END
CASE "lock on a load"
    .byte 0xf0, 0x8b, 0x03
END
CASE "too long an instruction"
    .fill 14, 1, 0x66
    add rax, rcx
END
CASE "fifteen bytes are not too long"
    .fill 12, 1, 0x66
    add rax, rcx
END
CASE "instruction across into an unmapped page"
    mov rax, r15
    and rax, -0x1000
    add rax, 0xfff
    mov byte ptr [rax], 0x48
    jmp rax
END
CASE "unmasked simd exception"
    mov dword ptr [rbx], 0x1d80
    ldmxcsr [rbx]
    mov dword ptr [rsi], 0
    movss xmm0, [rsi]
    mov dword ptr [rsi + 4], 0x3f800000
    movss xmm1, [rsi + 4]
    divss xmm1, xmm0
END
CASE "ldmxcsr of reserved bits"
    mov dword ptr [rbx], 0x11f80
    ldmxcsr [rbx]
END

/* ---- control flow ---- */

CASE "call and ret"
    call 1f
    inc rcx
    jmp 2f
1:  inc rax
    ret
2:  inc rdx
END
CASE "nested calls"
    call 1f
    jmp 3f
1:  call 2f
    inc rax
    ret
2:  inc rcx
    ret 0
3:  nop
END
CASE "ret with a count"
    sub rsp, 32
    call 1f
    jmp 2f
1:  ret 16
2:  nop
END
CASE "indirect jump by table"
    lea rax, [rip + 1f]
    mov [rbx], rax
    jmp [rbx]
    ud2
1:  lea rax, [rip + 2f]
    jmp rax
    ud2
2:  inc rcx
END
CASE "call through rsp"
    lea rax, [rip + 1f]
    push rax
    call [rsp]
    nop
1:  pop rdx
END
CASE "ret to a pushed address"
    lea rax, [rip + 1f]
    push rax
    ret
    ud2
1:  inc rcx
END
CASE "loop"
    mov ecx, 20
    xor eax, eax
1:  add rax, rcx
    loop 1b
END
CASE "loopne and loope"
    mov ecx, 30
1:  dec edx
    test dl, 15
    loopne 1b
    mov ecx, 5
2:  cmp ecx, ecx
    loope 2b
END
CASE "loop with a 32-bit count"
    mov rcx, 0x100000003
1:  inc rax
    addr32 loop 1b
END
CASE "jrcxz and jecxz"
    mov rcx, 0x100000000
    jrcxz 1f
    jecxz 2f
1:  inc rax
2:  xor ecx, ecx
    jrcxz 3f
    inc rax
3:  nop
END
CASE "a loop that reads and writes memory"
    mov ecx, 100
1:  mov rax, [rsi + rcx * 8]
    add [rdi + rcx * 8 - 0x200], rax
    adc rdx, 0
    dec ecx
    jnz 1b
END
CASE "a loop that walks over page boundaries"
    mov ecx, 400
    lea rsi, [rbx - 0x300]
1:  add rax, [rsi + 1]
    xor [rsi + 3], eax
    add rsi, 13
    dec ecx
    jnz 1b
END
CASE "a loop of indirect calls"
    mov ecx, 9
    lea rdx, [rip + 2f]
    lea r8, [rip + 3f]
1:  call rdx
    xchg rdx, r8
    dec ecx
    jnz 1b
    jmp 4f
2:  add rax, rcx
    ret
3:  sub rax, 1
    ret
4:  nop
END
CASE "far return to the same segment"
    lea rax, [rip + 1f]
    push 0x33
    push rax
    .byte 0x48, 0xcb # REX.W RETF
1:  inc rcx
END
CASE "far return to a null selector"
    push 0
    push rax
    .byte 0x48, 0xcb # REX.W RETF
END
CASE "far return to a data segment"
    push 0x2b
    push rax
    .byte 0x48, 0xcb # REX.W RETF
END
CASE "iretq to the same level"
    lea rax, [rip + 1f]
    mov rdx, rsp
    push 0x2b
    push rdx
    push 0x4d7
    push 0x33
    push rax
    iretq
1:  nop
    cld
END
CASE "iretq to a null selector"
    push 0x2b
    push rsp
    push 0x2
    push 0
    push rax
    iretq
END
CASE "far jump through memory"
    lea rax, [rip + 1f]
    mov [rbx], rax
    mov word ptr [rbx + 8], 0x33
    .byte 0x48 # REX.W
    jmp fword ptr [rbx]
    ud2
1:  inc rcx
END
CASE "far call through memory"
    lea rax, [rip + 1f]
    mov [rbx], eax
    mov word ptr [rbx + 4], 0x33
    call fword ptr [rbx]
    ud2
1:  nop
END
CASE "privilege comes before a stack address that is not canonical"
    mov rbp, 0x8000000000000000
    ltr [rbp + 8]
END
CASE "lar of a stack address that is not canonical"
    mov rbp, 0x8000000000000000
    lar eax, [rbp + 8]
END
CASE "far jump to the kernel's segment"
    mov word ptr [rbx + 8], 0x10
    .byte 0x48 # REX.W
    jmp fword ptr [rbx]
END
CASE "enter and leave"
    enter 32, 0
    mov [rbp - 8], rax
    leave
    enter 16, 3
    leave
END
CASE "enter with levels from another frame"
    mov rbp, rsi
    enter 8, 2
    nop
END
CASE "enter to a stack that ends"
    lea rsp, [r14 + 8]
    enter 0x2000, 0
END
CASE "leave with a frame pointer to nowhere"
    mov rbp, r14
    leave
END
CASE "xlat"
    mov eax, 0x37
    xlatb
    mov ecx, eax
    .byte 0x64 # FS
    xlatb
END

/* ---- self-modifying code ---- */

CASE "code changes the instruction behind"
    mov byte ptr [rip + 1f + 1], 0x55
1:  mov al, 0x11
    inc rcx
END
CASE "code changes an instruction further on in the block"
    mov byte ptr [rip + 1f + 1], 0x55
    inc rcx
    inc rdx
1:  mov al, 0x11
END
CASE "a loop that changes itself"
    mov ecx, 5
    xor eax, eax
1:  add eax, 1
    inc byte ptr [rip + 1b + 2]
    dec ecx
    jnz 1b
END
CASE "code written, then called"
    mov dword ptr [r15], 0xc3c0ff48
    call r15
    mov dword ptr [r15], 0xc3c8ff48
    call r15
    call r15
END
CASE "code written by rep movs, then called"
    mov rdi, r15
    lea rsi, [rip + 1f]
    mov ecx, 4
    rep movsb
    call r15
    jmp 2f
1:  inc rax
    ret
2:  nop
END
CASE "code written by a vector store, then called"
    mov dword ptr [rbx], 0xc3c0ff48
    movups xmm0, [rbx]
    movups [r15], xmm0
    call r15
END
CASE "code pushed, then called"
    mov rdx, rsp
    lea rsp, [r15 + 8]
    mov rax, 0x909090c3c0ff4890
    push rax
    mov rsp, rdx
    call r15
END
CASE "a store to a page with code, beside the code"
    mov qword ptr [r15 + 16], rax
    lock inc dword ptr [r15 + 16]
    mov rcx, [r15 + 16]
    add [r15 + 17], rcx
    xchg [r15 + 16], rdx
END
CASE "branch changed to fall through"
    mov word ptr [rip + 1f], 0x9090
    xor eax, eax
1:  jz 2f
    inc rcx
2:  inc rdx
END

/* ---- strings ---- */

CASE "rep movs forward and back"
    mov ecx, 100
    rep movsq
    std
    mov ecx, 50
    rep movsd
    mov ecx, 9
    rep movsb
    cld
END
CASE "rep movs overlapping by one"
    lea rdi, [rsi + 1]
    mov ecx, 300
    rep movsb
END
CASE "rep movs backward overlapping"
    lea rdi, [rsi + 3]
    mov ecx, 64
    std
    rep movsq
    cld
END
CASE "rep movs faults in the middle"
    lea rdi, [r13 - 37]
    mov ecx, 100
    rep movsb
END
CASE "rep movs faults in an element"
    lea rdi, [r13 - 36]
    mov ecx, 100
    rep movsq
END
CASE "rep movs reads nowhere in the middle"
    lea rsi, [r14 - 61]
    mov ecx, 20
    rep movsd
END
CASE "rep stos faults in the middle"
    lea rdi, [r13 - 50]
    mov ecx, 100
    rep stosw
END
CASE "rep stos backward faults"
    lea rdi, [rbx - 0x400 + 64]
    mov ecx, 100
    std
    rep stosq
END
CASE "rep with a count of zero does not touch memory"
    mov rdi, r14
    mov rsi, r14
    xor ecx, ecx
    rep movsb
    rep stosq
    repe cmpsb
    repne scasb
END
CASE "repe cmps"
    mov ecx, 40
    mov rdi, rsi
    mov byte ptr [rsi + 100], 1
    lea rdx, [rsi + 100]
    repe cmpsd
    seta al
    mov ecx, 40
    repne cmpsb
    setb dl
END
CASE "repne scas"
    mov eax, [rdi + 60]
    mov ecx, 40
    repne scasd
    setz dl
    mov ecx, 500
    xor eax, eax
    repe scasb
END
CASE "repne scas faults"
    lea rdi, [r14 - 16]
    mov ecx, 100
    mov rax, 0x123456789abcdef
    repne scasq
END
CASE "strings with 32-bit addresses"
    mov rcx, 0x500000007
    mov rax, 0x700000000
    add rsi, rax
    add rdi, rax
    addr32 rep movsb
    addr32 rep stosd
    addr32 lodsq
END
CASE "strings with a segment"
    mov rsi, 0x40
    mov ecx, 10
    rep movsb [rdi], fs:[rsi]
    lods al, gs:[rsi]
END
CASE "ins and outs"
    mov ecx, 3
    rep outsb
END

/* ---- data ---- */

CASE "bswap movbe"
    bswap rax
    bswap ecx
    movbe rdx, [rbx]
    movbe [rsi], r8d
    movbe r9w, [rbp + 3]
END
CASE "crc32"
    crc32 rax, qword ptr [rbx]
    crc32 eax, cl
    crc32 edx, word ptr [rbp + 3]
END
CASE "high-byte registers"
    mov ah, [rbx]
    add ch, dh
    mov [rsi], bh
    xchg dh, [rdi]
    cmp ah, ch
    sete dl
    movzx eax, ch
END
CASE "partial registers"
    mov eax, ecx
    mov ax, dx
    mov al, [rbx]
    movsx rcx, al
    movsxd rdx, dword ptr [rbx]
    mov r10w, ax
    mov r11b, r10b
    mov r10d, r11d
END
CASE "r10 and r11 everywhere"
    lea r10, [rbx + 8]
    mov r11, 2
    mov [r10 + r11 * 4], r10
    add r11, [r10 + r11 * 8]
    xchg r10, r11
    mov rax, r10
    shl r10, 3
    adc r11, r10
    push r10
    push r11
    pop r10
    pop r11
    xchg r11, rax
END
CASE "r10 and r11 in vector instructions"
    lea r10, [rbx]
    lea r11, [rsi]
    movups xmm0, [r10]
    pinsrq xmm0, r11, 1
    pextrq r10, xmm0, 0
    movq xmm3, r11
    cvtsi2sd xmm4, r10
    pmovmskb r10d, xmm0
    movmskpd r11d, xmm4
END
CASE "rip-relative data on the code page"
    mov rax, [rip + 1f]
    lea rcx, [rip + 1f]
    add [rip + 1f], rcx
    cmp rax, [rip + 1f]
    jmp 2f
1:  .fill 8, 1, 0x90
2:  nop
END
CASE "segment bases"
    mov rax, fs:[0]
    mov gs:[8], rax
    .byte 0x64
    lea rcx, [rax]
    mov eax, 16
    add rcx, gs:[rax]
    mov rdx, fs:[rip + 1f - 0x10000000]
1:  nop
END
CASE "rdfsbase wrfsbase"
    rdfsbase rax
    wrfsbase rbx
    mov rcx, fs:[8]
    rdgsbase rdx
    wrgsbase rsi
    mov gs:[0], rax
    wrfsbase eax
END
CASE "wrfsbase of a non-canonical address"
    mov rax, 0x800000000000
    wrfsbase rax
END
CASE "segment registers"
    mov ax, ds
    mov ecx, es
    mov edx, cs
    mov r8, ss
    mov r9d, fs
    mov [rbx], cs
    mov [rbx + 2], gs
END
CASE "segment loads"
    mov eax, 0x2b
    mov ds, eax
    mov es, ax
    mov ecx, ds
    mov ss, eax
    mov edx, 0
    mov ds, edx
END
CASE "fs takes its base from the descriptor"
    mov eax, 0x2b
    mov fs, eax
    rdfsbase rcx
    mov rdx, fs:[rbx]
END
CASE "segment load of the kernel's selector"
    mov eax, 0x18
    mov ds, eax
END
CASE "segment load beyond the table"
    mov eax, 0xfff0
    mov es, eax
END
CASE "segment load of a code segment into ss"
    mov eax, 0x33
    mov ss, eax
END
CASE "push and pop of fs"
    push fs
    pop rax
    push 0x2b
    pop gs
    mov ecx, gs
END
CASE "lar lsl verr verw"
    mov eax, 0x2b
    lar ecx, eax
    setz r8b
    lsl edx, eax
    verr ax
    setz r9b
    verw ax
    setz r10b
    mov eax, 0x33
    lar eax, eax
END
CASE "lar of a null selector"
    xor eax, eax
    lar ecx, eax
    setz r8b
    mov eax, 0x10
    verw ax
    setz r9b
    lsl edx, eax
END
CASE "lea with 32-bit addresses"
    lea eax, [rbx + rcx * 4 + 7]
    lea rdx, [ebx + ecx * 2]
    lea r8w, [r9 + r10]
    lea r9, [r13d * 8 - 5]
END
CASE "loads with 32-bit addresses"
    mov rax, 0xffffffff00000000
    or rbx, rax
    mov rcx, [ebx]
    mov ecx, 0xffffffff
    add [ebx + ecx + 1], rdx
    mov r8, [ebx + 8]
END
CASE "absolute addresses"
    movabs rax, [0x10010408]
    movabs [0x10010fff], eax
    mov rcx, ds:[0x10010410]
    addr32 movabs al, [0x10010400]
END
CASE "bsf and bsr of zero"
    xor eax, eax
    mov rcx, rdx
    bsf rcx, rax
    bsr r8d, eax
    bsf r9, [rbx]
    tzcnt r10, rax
    lzcnt r11, rax
END
CASE "bmi"
    andn rax, rcx, [rbx]
    bextr rdx, [rbp], rcx
    blsr r8, r9
    blsi r9, [rsi]
    bzhi r10, r8, rax
    pdep r11, rcx, [rbx]
    pext rcx, rdx, r11
    mulx r8, r9, [rsi]
    rorx rax, [rbp], 17
    shlx rdx, [rbx], rcx
END
CASE "mul imul"
    mul rcx
    imul rdx, [rbx], 77
    imul r8, r9
    imul qword ptr [rbp]
    imul cl
    mul byte ptr [rsi]
END
CASE "cmov reads memory whether or not"
    cmp rax, rax
    cmovne rcx, [r14]
END
CASE "cmov clears the upper half whether or not"
    cmp rax, rax
    cmovne ecx, edx
    cmove r8d, [rbx]
END
CASE "setcc to memory"
    cmp rax, rcx
    seta [rbx]
    setg [rbp + 3]
    sets [rsi]
    setp [rdi]
END
CASE "nontemporal and fences"
    movnti [rbx], rax
    movntdq [rbx + 16], xmm0
    sfence
    lfence
    mfence
    prefetcht0 [r14]
    prefetchw [rbx]
    clflush [rbx]
    mov rcx, [rbx]
END
CASE "clflush of nowhere"
    clflush [r14]
END
CASE "maskmov"
    mov rdi, rbp
    maskmovdqu xmm0, xmm1
    maskmovq mm0, mm1
    emms
END
CASE "vmaskmov beside a hole"
    vpcmpeqd xmm1, xmm1, xmm1
    vpslldq xmm1, xmm1, 8
    lea rax, [r14 - 8]
    vpxor xmm1, xmm1, xmm1
    vmaskmovps xmm2, xmm1, [r14]
    vmaskmovps [r14], xmm1, xmm3
END
CASE "vmaskmov half in a hole"
    vpcmpeqd xmm1, xmm1, xmm1
    vpsrldq xmm1, xmm1, 8
    vmaskmovps xmm2, xmm1, [r14 - 8]
    vpslldq xmm1, xmm1, 8
    vpmaskmovd xmm2, xmm1, [r14 - 8]
END
CASE "gather faults in the middle"
    vpcmpeqd ymm1, ymm1, ymm1
    vpxor ymm2, ymm2, ymm2
    mov dword ptr [rbx + 16], 0x7000
    vmovdqu xmm2, [rbx + 4]
    vpsrld ymm2, ymm2, 24
    mov eax, 0x100000
    vpinsrd xmm2, xmm2, eax, 2
    vpgatherdd ymm3, [rbx + ymm2 * 1], ymm1
END
CASE "vzeroupper and vzeroall"
    vaddps ymm0, ymm1, ymm2
    vzeroupper
    addps xmm0, xmm3
    vmovaps ymm4, ymm0
    vzeroall
END
CASE "sse keeps the upper half, vex clears it"
    movaps xmm0, xmm1
    vmovaps xmm2, xmm3
    addps xmm4, [rbx]
    vaddps xmm5, xmm6, [rbx]
    vaddps ymm7, ymm8, [rbp]
END
CASE "comparisons into flags"
    ucomisd xmm0, xmm1
    setp al
    setb cl
    comiss xmm2, [rbx]
    seta dl
    vptest ymm0, [rbp]
    setz r8b
END
CASE "pcmpistri"
    movups xmm0, [rbx]
    pcmpistri xmm0, [rsi], 0x0c
    setc al
    pcmpestrm xmm0, [rbp], 0x40
    seto dl
END

/* ---- x87 and MMX ---- */

CASE "x87 arithmetic"
    fninit
    fld qword ptr [rbx]
    fld dword ptr [rsi]
    fild word ptr [rdi]
    faddp st(1), st
    fmul st, st(1)
    fstp qword ptr [rbp]
    fnstsw ax
    fistp dword ptr [rbx]
END
CASE "x87 constants and transcendentals"
    fninit
    fldpi
    fldl2e
    fyl2x
    fld1
    fsin
    fptan
    fnstsw ax
END
CASE "x87 stack overflow"
    fninit
    fld1
    fldz
    fld1
    fld1
    fld1
    fld1
    fld1
    fld1
    fld1
    fnstsw ax
END
CASE "x87 stack underflow"
    fninit
    faddp st(1), st
    fnstsw ax
    fstp qword ptr [rbx]
END
CASE "x87 unmasked exception comes with the next instruction"
    fninit
    mov word ptr [rbx], 0x37b
    fldcw [rbx]
    fld1
    fldz
    fdivp st(1), st
    inc rax
    fld1
    inc rcx
END
CASE "x87 error that waits comes with maskmovq"
    fninit
    mov word ptr [rbx], 0x37b
    fldcw [rbx]
    fld1
    fldz
    fdivp st(1), st
    mov rdi, rbx
    maskmovq mm0, mm1
    inc rcx
END
CASE "x87 fwait reports"
    fninit
    mov word ptr [rbx], 0x37e
    fldcw [rbx]
    fstp st(0)
    inc rax
    fwait
    inc rcx
END
CASE "x87 extended precision memory"
    fninit
    fld tbyte ptr [rbx]
    fld tbyte ptr [rbp]
    fmulp st(1), st
    fstp tbyte ptr [rsi + 3]
    fbld tbyte ptr [rdi]
    fbstp tbyte ptr [rdi + 16]
END
CASE "x87 compare"
    fninit
    fld qword ptr [rbx]
    fld qword ptr [rsi]
    fcomi st, st(1)
    setb al
    seta cl
    fcmovb st, st(1)
    fucompp
    fnstsw ax
    sahf
    setp dl
END
CASE "x87 integer and rounding"
    fninit
    mov word ptr [rbx], 0xf7f
    fldcw [rbx]
    fld qword ptr [rsi]
    fist word ptr [rdi]
    fisttp qword ptr [rdi + 8]
    fild qword ptr [rdi + 8]
    frndint
    fscale
    fxtract
END
CASE "fnstenv and fldenv"
    fninit
    fld1
    fnstenv [rbx]
    mov dword ptr [rbx + 12], 0
    mov qword ptr [rbx + 16], 0
    mov dword ptr [rbx + 24], 0
    fldenv [rbx]
    fld1
    faddp st(1), st
END
CASE "fnsave and frstor"
    fninit
    fldpi
    fld1
    fnsave [rbx]
    mov dword ptr [rbx + 12], 0
    mov qword ptr [rbx + 16], 0
    mov dword ptr [rbx + 24], 0
    frstor [rbx]
    faddp st(1), st
END
CASE "fxsave and fxrstor"
    fxsave64 [rbx]
    mov word ptr [rbx + 6], 0
    mov qword ptr [rbx + 8], 0
    mov qword ptr [rbx + 16], 0
    pxor xmm0, xmm0
    fninit
    fxrstor64 [rbx]
    paddd xmm0, xmm1
END
CASE "fxsave misaligned"
    fxsave [rbx + 8]
END
CASE "fxrstor of reserved mxcsr bits"
    fxsave [rbx]
    mov word ptr [rbx + 6], 0
    mov qword ptr [rbx + 8], 0
    mov qword ptr [rbx + 16], 0
    mov dword ptr [rbx + 24], 0x1001f80
    fxrstor [rbx]
END
CASE "xsave and xrstor of sse"
    mov eax, 2
    xor edx, edx
    mov qword ptr [rbx + 512], rdx
    mov qword ptr [rbx + 520], rdx
    mov qword ptr [rbx + 528], rdx
    xsave [rbx]
    pxor xmm0, xmm0
    pcmpeqd xmm5, xmm5
    xrstor [rbx]
    xor ecx, ecx
    mov [rbx + 512], rcx
END
CASE "xsave and xrstor of avx"
    mov eax, 6
    xor edx, edx
    mov qword ptr [rbx + 512], rdx
    mov qword ptr [rbx + 520], rdx
    mov qword ptr [rbx + 528], rdx
    xsave64 [rbx]
    vzeroall
    xrstor64 [rbx]
    xor ecx, ecx
    mov [rbx + 512], rcx
END
CASE "xsavec and xsaveopt"
    mov eax, 2
    xor edx, edx
    mov qword ptr [rbx + 512], rdx
    mov qword ptr [rbx + 520], rdx
    mov qword ptr [rbx + 528], rdx
    xsavec [rbx]
    pxor xmm0, xmm0
    xrstor [rbx]
    mov [rbx + 512], rdx
    mov [rbx + 520], rdx
END
CASE "xsaveopt"
    mov eax, 2
    xor edx, edx
    mov qword ptr [rsi + 512], rdx
    mov qword ptr [rsi + 520], rdx
    mov qword ptr [rsi + 528], rdx
    xsaveopt [rsi]
    pxor xmm0, xmm0
    xrstor [rsi]
    mov [rsi + 512], rdx
END
CASE "xsave misaligned"
    mov eax, 3
    xor edx, edx
    xsave [rbx + 16]
END
CASE "xrstor of a bad header"
    mov eax, 7
    xor edx, edx
    mov qword ptr [rbx + 520], 1
    xrstor [rbx]
END
CASE "mmx and x87 share registers"
    fninit
    movq mm0, [rbx]
    paddb mm0, [rsi]
    movq2dq xmm0, mm0
    movdq2q mm1, xmm1
    fnstsw ax
    emms
    fld1
END
CASE "mmx across pages"
    movq mm3, [rbp]
    paddw mm3, mm4
    movq [rbp + 1], mm3
    pshufw mm5, [rbp], 0x1b
END
CASE "clzero"
    mov rax, rbx
    add rax, 13
    clzero
    mov rcx, [rbx]
END
CASE "endbr and reserved nops"
    endbr64
    nop dword ptr [r14]
    .byte 0x0f, 0x1c, 0x03
    .byte 0x0f, 0x19, 0xc0
    xchg ax, ax
    pause
    inc rax
END

    .section .data.rel.ro.diff_seqs, "aw"
diff_seq_table_end:
    .section .note.GNU-stack, "", @progbits
