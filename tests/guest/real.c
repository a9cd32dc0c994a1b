/* SPDX-License-Identifier: MIT */
/*
 * Real mode (SDM 3A chapter 20): segments, limits kept from protected mode, interrupts through the
 * IVT, far transfers and returns, what is #UD there.
 */
#include "guest32.h"

static unsigned run(const uint8_t *code, const uint8_t *end)
{
    real.eax = 0x11111111;
    real.ebx = 0x22222222;
    return run_real(code, end);
}
#define RUN(code) run(code, code##_end)

#define R(name, text) CODE16(name, text "; lret")
R(r_regs, "mov %cs, %ax; mov $0x4000, %bx; mov %bx, %ds; movw $0xbeef, 0x10; mov $0x4001, %bx; mov %bx, %es\n"
          "mov %es:0, %dx; mov %sp, %cx; smsw %si");
R(r_limit, ".byte 0x67, 0x8a, 0x05; .long 0x10000");
R(r_limit_crossed, "mov %ds:0xffff, %ax");
R(r_last_byte, "mov %ds:0xffff, %al");
R(r_stack, "mov %sp, %cx; mov %ss, %dx; mov $1, %sp; push %ax");
R(r_push_sreg, "mov %sp, %cx; push %fs; mov %sp, %dx; pop %gs; pushl %fs; mov %sp, %si; popl %gs");
R(r_les, "mov %cs, %bx; mov %bx, %ds; les (1f - r_les), %bx; mov %es, %cx; lret; 1: .word 0x1357, 0x2468");

static void segments(void)
{
    check_eq(RUN(r_regs), VEC_NONE, "real");
    check_eq(real.eax, 0x11110000 | REAL_CS, "cs");
    check_eq(real.ecx & 0xffff, 0x7ffc, "sp");
    check_eq(real.edx & 0xffff, 0xbeef, "segment-base");
    check_eq(real.ds, 0x4000, "ds-selector");
    check_eq(real.esi & 1, 0, "msw-pe-clear");
    check_eq(RUN(r_limit), GP, "limit");
    check_eq(real.ip, 0, "limit-ip");
    check_eq(real.cs, REAL_CS, "limit-cs");
    check_eq(RUN(r_limit_crossed), GP, "limit-crossed");
    check_eq(RUN(r_last_byte), VEC_NONE, "limit-last-byte");
    check_eq(RUN(r_push_sreg), VEC_NONE, "push-sreg");
    check_eq((real.ecx - real.edx) & 0xffff, 2, "push-sreg-2");
    check_eq((real.ecx - real.esi) & 0xffff, 4, "push-sreg-4");
    check_eq(RUN(r_les), VEC_NONE, "les");
    check_eq((real.ebx & 0xffff) | real.ecx << 16, 0x24681357, "les-values");
}

/* "Unreal" mode: DS gets 4 GiB in protected mode, and keeps them. */
R(r_unreal, "mov %cr0, %eax; or $1, %al; mov %eax, %cr0; mov $0x10, %bx; mov %bx, %ds; and $0xfe, %al; mov %eax, %cr0\n"
            "mov $0x150000, %esi; mov (%esi), %ecx; xor %bx, %bx; mov %bx, %ds; mov (%esi), %edx\n"
            "mov $0x4000, %bx; mov %bx, %ds; sub $0x40000, %esi; mov (%esi), %edi");
/* A limit of 255 bytes stays, too. */
R(r_small, "mov %cr0, %eax; or $1, %al; mov %eax, %cr0; mov $0x50, %bx; mov %bx, %fs; and $0xfe, %al; mov %eax, %cr0\n"
           "mov $0x4000, %bx; mov %bx, %fs; mov %fs:0xff, %al; mov $7, %si; mov %fs:0x100, %al; mov $8, %si");
static void unreal(void)
{
    *(volatile uint32_t *)0x150000 = 0xcafe0001;
    check_eq(RUN(r_unreal), VEC_NONE, "unreal");
    check_eq(real.ecx, 0xcafe0001, "unreal-read");
    check_eq(real.edx, 0xcafe0001, "unreal-reloaded-read");
    check_eq(real.edi, 0xcafe0001, "unreal-other-base");
    gdt[SEL_FREE / 8] = descriptor(0, 0xff, 0x92, 0);
    check_eq(RUN(r_small), GP, "small-limit");
    check_eq(real.esi & 0xffff, 7, "small-limit-last-byte");
}

/* ---- interrupts ---- */

R(r_int, "mov %sp, %cx; sti; stc; int $0x50; mov %sp, %dx; pushf; pop %di; cli");
CODE16(r_handler, "mov %sp, %bp; mov %ss:(%bp), %ax; mov %ss:2(%bp), %bx; mov %ss:4(%bp), %si; pushf; pop %gs; iret");
R(r_int1, ".byte 0xf1");
R(r_int3, "int3");
R(r_into, "mov $0x7f, %al; inc %al; into");
R(r_div, "xor %bx, %bx; div %bx");
R(r_ud, "ud2");
R(r_tf, "pushf; pop %ax; or $0x100, %ax; push %ax; popf; nop; nop");
R(r_iret_flags, "pushw $0x7ad7 - 0x200; pushw %cs; pushw $1f - r_iret_flags; iret; 1: pushf; pop %bx; pushw $2; popf");
R(r_iretd_flags, "pushl $0x3c7ad7 - 0x200 - 0x3000; pushw $0; pushw %cs; pushl $1f - r_iretd_flags; iretl; 1: pushfl; pop %ebx; pushw $2; popf");
R(r_popfd, "pushl $0x3f7ad7 - 0x200 - 0x3000; popfl; pushfl; pop %ebx; pushw $2; popf");
R(r_lidt, "lidt %cs:(1f - r_lidt); int $0x10; jmp 2f; 1: .word 0x3ff, 0x9000, 0; 2: nop");
CODE16(r_moved_handler, "mov $0x99, %ax; iret");
/* The IVT ends before vector 0x50: #GP. */
R(r_idt_limit, "lidt %cs:(1f - r_idt_limit); int $0x50; jmp 2f; 1: .word 0x13f, 0, 0; 2: nop");

static void interrupts(void)
{
    volatile uint16_t *const ivt = low_words(0);
    memcpy((void *)0x9800, r_handler, (size_t)(r_handler_end - r_handler));
    ivt[0xa0] = 0x800;
    ivt[0xa1] = 0x900;
    check_eq(RUN(r_int), VEC_NONE, "int");
    check_eq(real.ecx & 0xffff, real.edx & 0xffff, "int-iret-sp");
    check_eq((real.ecx - real.ebp) & 0xffff, 6, "int-pushes-6");
    check_eq(real.ebx & 0xffff, REAL_CS, "int-cs");
    check_eq(real.eax & 0xffff, 6, "int-ip");
    check_eq(real.esi & (FL_IF | FL_CF), FL_IF | FL_CF, "int-flags");
    check_eq(real.gs & FL_IF, 0, "int-clears-if");
    check_eq(real.edi & (FL_IF | FL_CF), FL_IF | FL_CF, "iret-flags-back");
    check_eq(RUN(r_int1), DB, "int1");
    check_eq(real.ip, 1, "int1-ip");
    check_eq(RUN(r_int3), BP, "int3");
    check_eq(real.ip, 1, "int3-ip");
    check_eq(RUN(r_into), OF, "into");
    check_eq(RUN(r_div), DE, "de");
    check_eq(real.ip, 2, "de-ip");
    check_eq(real.sp & 0xffff, 0x7ffc, "de-no-error-code");
    check_eq(RUN(r_ud), UD, "ud");
    check_eq(RUN(r_tf), DB, "tf");
    check_eq(real.ip, 8, "tf-ip");
    check_eq(real.frame_flags & FL_TF, FL_TF, "tf-pushed");
    check_eq(RUN(r_iret_flags), VEC_NONE, "iret-16");
    check_eq(real.ebx & 0xffff, 0x78d7, "iret-16-flags");
    check_eq(RUN(r_iretd_flags), VEC_NONE, "iret-32");
    check_eq(real.ebx & ~FL_RF, 0x2448d7, "iret-32-flags");
    check_eq(RUN(r_popfd), VEC_NONE, "popfd");
    check_eq(real.ebx, 0x2448d7, "popfd-flags");
    memset((void *)0x9000, 0, 0x400);
    low_words(0x9000)[0x20] = 0x810;
    low_words(0x9000)[0x21] = 0x900;
    memcpy((void *)0x9810, r_moved_handler, (size_t)(r_moved_handler_end - r_moved_handler));
    check_eq(RUN(r_lidt), VEC_NONE, "lidt");
    check_eq(real.eax & 0xffff, 0x99, "ivt-moved");
    check_eq(RUN(r_idt_limit), GP, "ivt-limit");
    check_eq(real.ip, 6, "ivt-limit-ip");
}

/* ---- transfers and refusals ---- */

R(r_far, "mov %sp, %cx; lcall $0x2100, $8; mov %sp, %dx");
CODE16(r_far_target, "mov %cs, %bx; mov %sp, %si; lret $0");
R(r_far32, "mov %sp, %cx; lcalll $0x2100, $0x20; mov %sp, %dx");
CODE16(r_far32_target, "mov %cs, %bx; mov %sp, %si; lretl");
R(r_far_imm, "mov %sp, %cx; push %ax; push %cs; push $1f - r_far_imm; lret $2; 1: mov %sp, %dx");
R(r_jmp_limit, "ljmpl $0x2100, $0x10000");
R(r_call_limit, "mov %sp, %cx; lcalll $0x2100, $0x10000");
R(r_ret_limit, "pushl $0x1000; pushl $0x10000; lretl");
R(r_iret_limit, "pushl $2; pushl $0x1000; pushl $0x10000; iretl");
R(r_jmp_mem, "mov %cs, %ax; mov %ax, %ds; ljmp *(2f - r_jmp_mem); 2: .word 1f - r_jmp_mem, 0x1000; 1: mov $0x66, %bx");
R(r_sldt, "sldt %ax");
R(r_str, "str %ax");
R(r_lldt, "lldt %ax");
R(r_ltr, "ltr %ax");
R(r_lar, "lar %ax, %bx");
R(r_lsl, "lsl %ax, %bx");
R(r_verr, "verr %ax");
R(r_verw, "verw %ax");
R(r_arpl, "arpl %ax, %bx");
R(r_sysenter, "sysenter");
R(r_sysexit, "sysexit");
R(r_mov_cs, ".byte 0x8e, 0xc8");
R(r_gdt, "sgdt %cs:(1f - r_gdt); mov %cs:(1f - r_gdt), %bx; mov %cs:(1f - r_gdt + 2), %ecx; jmp 2f; 1: .long 0, 0; 2: nop");

static void transfers(void)
{
    memcpy((void *)0x21008, r_far_target, (size_t)(r_far_target_end - r_far_target));
    memcpy((void *)0x21020, r_far32_target, (size_t)(r_far32_target_end - r_far32_target));
    check_eq(RUN(r_far), VEC_NONE, "far-call");
    check_eq(real.ebx & 0xffff, 0x2100, "far-call-cs");
    check_eq((real.ecx - real.esi) & 0xffff, 4, "far-call-pushes-4");
    check_eq(real.ecx & 0xffff, real.edx & 0xffff, "far-ret-sp");
    check_eq(RUN(r_far32), VEC_NONE, "far-call-32");
    check_eq((real.ecx - real.esi) & 0xffff, 8, "far-call-32-pushes-8");
    check_eq(real.ecx & 0xffff, real.edx & 0xffff, "far-ret-32-sp");
    check_eq(RUN(r_far_imm), VEC_NONE, "far-ret-imm");
    check_eq(real.ecx & 0xffff, real.edx & 0xffff, "far-ret-imm-sp");
    check_eq(RUN(r_jmp_mem), VEC_NONE, "far-jmp-memory");
    check_eq(real.ebx & 0xffff, 0x66, "far-jmp-memory-ran");
    check_eq(RUN(r_jmp_limit), GP, "far-jmp-limit");
    check_eq(real.ip, 0, "far-jmp-limit-ip");
    check_eq(RUN(r_call_limit), GP, "far-call-limit");
    check_eq(real.sp & 0xffff, real.ecx & 0xffff, "far-call-limit-pushes-nothing");
    check_eq(RUN(r_ret_limit), GP, "far-ret-limit");
    check_eq(RUN(r_iret_limit), GP, "iret-limit");
    static const struct {
        const uint8_t *code, *end;
        unsigned vector;
        const char *name;
    } t[] = {
        {r_sldt, r_sldt_end, UD, "sldt"}, {r_str, r_str_end, UD, "str"},    {r_lldt, r_lldt_end, UD, "lldt"},
        {r_ltr, r_ltr_end, UD, "ltr"},    {r_lar, r_lar_end, UD, "lar"},    {r_lsl, r_lsl_end, UD, "lsl"},
        {r_verr, r_verr_end, UD, "verr"}, {r_verw, r_verw_end, UD, "verw"}, {r_arpl, r_arpl_end, UD, "arpl"},
        {r_sysenter, r_sysenter_end, GP, "sysenter"}, {r_sysexit, r_sysexit_end, GP, "sysexit"},
        {r_mov_cs, r_mov_cs_end, UD, "mov-to-cs"},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
        check_eq(run(t[i].code, t[i].end), t[i].vector, t[i].name);
    check_eq(RUN(r_gdt), VEC_NONE, "sgdt");
    check_eq(real.ebx & 0xffff, GDT_ENTRIES * 8 - 1, "sgdt-limit");
    check_eq(real.ecx, (uint32_t)gdt, "sgdt-base");
}

/* With SP 1 neither the push nor the #SS of it, nor the double fault, have room: shutdown (SDM 2B, PUSH). */
static void stack_shutdown(void)
{
    RUN(r_stack);
    check(false, "shutdown");
}

void test_main(void)
{
    static void (*const parts[])(void) = {segments, unreal, interrupts, transfers, stack_shutdown};
    for (unsigned i = 0; i < ARRAY_SIZE(parts); i++)
        if (guest_arg >> i & 1)
            parts[i]();
}
