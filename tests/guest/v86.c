/* SPDX-License-Identifier: MIT */
/*
 * Virtual-8086 mode (SDM 3A 20.2, 20.3): what traps to the monitor by IOPL and what does not, the frame
 * of an interrupt, segment loads, far transfers, the I/O bitmap, and CR4.VME's virtual interrupt flag
 * and redirected INT n.
 */
#include "guest32.h"

#define IOPL3 FL_IOPL

static unsigned run(const uint8_t *code, const uint8_t *end, uint32_t eflags)
{
    return run_v86(code, end, 0x12345678, eflags);
}
#define RUN(code, eflags) run(code, code##_end, eflags)

static void check_fault(unsigned v, unsigned vector, unsigned error, const char *name)
{
    check_eq(v << 16 | (v == VEC_NONE ? 0 : fault.error & 0xffff), vector << 16 | error, name);
}

CODE16(v_regs, "mov %cs, %bx; mov %ss, %cx; mov %sp, %dx; mov %ds, %si; mov $0x9999, %di; mov %di, %fs; hlt");
CODE16(v_mov_ds, "mov $0x5000, %bx; mov %bx, %ds; movw $0xbeef, 0x10; push %ds; pop %es; mov %es:0x10, %ax\n"
                 "mov $0x5001, %cx; push %cx; pop %ss; mov %ss:0, %dx; mov $0x3000, %cx; mov %cx, %ss; hlt");
CODE16(v_limit, ".byte 0x67, 0x8a, 0x05; .long 0x10000; hlt");
CODE16(v_limit_word, "mov %ds:0xffff, %ax; hlt");
CODE16(v_stack_limit, "mov $1, %sp; push %ax; hlt");
CODE16(v_stack_wrap, "xor %sp, %sp; push %ax; mov %sp, %bx; hlt");
CODE16(v_hlt, "hlt");
CODE16(v_ud, "ud2");

static void basics(void)
{
    check_fault(RUN(v_regs, 0), VEC_NONE, 0, "v86");
    check_eq(fault.eax, 0x12345678, "v86-eax");
    check_eq(fault.ebx & 0xffff, V86_CS, "v86-cs");
    check_eq(fault.ecx & 0xffff, V86_SS, "v86-ss");
    check_eq(fault.edx & 0xffff, V86_SP, "v86-sp");
    check_eq(fault.esi & 0xffff, v86_ds, "v86-ds");
    check_eq(fault.cs, V86_CS, "frame-cs");
    check_eq(fault.eip, (uint32_t)(v_regs_end - v_regs) - 1, "frame-ip");
    check_eq(fault.ss, V86_SS, "frame-ss");
    check_eq(fault.esp, V86_SP, "frame-esp");
    check_eq(fault.es, v86_ds + 1u, "frame-es");
    check_eq(fault.ds, v86_ds, "frame-ds");
    check_eq(fault.fs, 0x9999, "frame-fs");
    check_eq(fault.gs, v86_ds + 3u, "frame-gs");
    check_eq(fault.handler_ds, 0, "handler-ds-null");
    check_eq(fault.handler_gs, 0, "handler-gs-null");
    check_eq(fault.eflags & (FL_VM | 2), FL_VM | 2, "frame-eflags-vm");
    check_eq(fault.handler_esp, (uint32_t)(ring0_stack + sizeof ring0_stack) - sizeof(struct frame32), "frame-size");
    check_fault(RUN(v_ud, 0), UD, 0, "v86-ud");
    check(fault.eflags & FL_RF, "v86-ud-rf");
    check_fault(RUN(v_mov_ds, 0), VEC_NONE, 0, "v86-segment-loads");
    check_eq(fault.eax & 0xffff, 0xbeef, "v86-mov-ds-base");
    check_eq(fault.edx & 0xffff, 0xbeef, "v86-pop-ss-base");
    check_fault(RUN(v_limit, 0), GP, 0, "v86-limit");
    check_fault(RUN(v_limit_word, 0), GP, 0, "v86-limit-crossed");
    check_fault(RUN(v_stack_limit, 0), SS, 0, "v86-stack-limit");
    check_fault(RUN(v_stack_wrap, 0), VEC_NONE, 0, "v86-stack-wrap");
    check_eq(fault.ebx & 0xffff, 0xfffe, "v86-stack-wrap-sp");
}

/* ---- IOPL ---- */

CODE16(v_cli, "cli; hlt");
CODE16(v_sti, "sti; hlt");
CODE16(v_pushf, "pushf; pop %bx; hlt");
CODE16(v_pushfd, "pushfl; pop %ebx; hlt");
CODE16(v_popf, "push $0x7ad7; popf; pushfl; pop %ebx; hlt");
CODE16(v_popfd, "pushl $0x3f7ad7; popfl; pushfl; pop %ebx; hlt");
CODE16(v_iret, "pushw $0x3202; pushw %cs; pushw $1f - v_iret; iret; hlt; 1: mov $0x77, %bx; hlt");
CODE16(v_iretd, "pushl $0x3202; pushw $0; pushw %cs; pushl $1f - v_iretd; iretl; hlt; 1: mov $0x77, %bx; hlt");
CODE16(v_int21, "int $0x21; mov $0x21, %bx; hlt");
CODE16(v_int3, "int3; hlt");
CODE16(v_into, "mov $0x7f, %al; inc %al; into; hlt");

static void iopl(void)
{
    static const struct {
        const uint8_t *code, *end;
        const char *name;
    } traps[] = {
        {v_cli, v_cli_end, "iopl0-cli"},       {v_sti, v_sti_end, "iopl0-sti"},       {v_pushf, v_pushf_end, "iopl0-pushf"},
        {v_pushfd, v_pushfd_end, "iopl0-pushfd"}, {v_popf, v_popf_end, "iopl0-popf"}, {v_popfd, v_popfd_end, "iopl0-popfd"},
        {v_iret, v_iret_end, "iopl0-iret"},    {v_iretd, v_iretd_end, "iopl0-iretd"}, {v_int21, v_int21_end, "iopl0-int"},
    };
    idt_set(0x21, vector_stubs + 0x210, 0xee, SEL_KCS);
    for (unsigned i = 0; i < ARRAY_SIZE(traps); i++) {
        unsigned v = run(traps[i].code, traps[i].end, 2u << 12);
        /* #GP of the instruction itself, not of the HLT behind it: HLT is told apart by the runner's library */
        check_fault(v, GP, 0, traps[i].name);
    }
    check_fault(RUN(v_cli, IOPL3 | FL_IF), VEC_NONE, 0, "iopl3-cli");
    check_eq(fault.eflags & FL_IF, 0, "iopl3-cli-clears-if");
    check_fault(RUN(v_sti, IOPL3), VEC_NONE, 0, "iopl3-sti");
    check_eq(fault.eflags & FL_IF, FL_IF, "iopl3-sti-sets-if");
    check_fault(RUN(v_pushfd, IOPL3 | FL_IF), VEC_NONE, 0, "iopl3-pushfd");
    check_eq(fault.ebx, IOPL3 | FL_IF | 2, "pushfd-hides-vm");
    check_fault(RUN(v_popf, IOPL3), VEC_NONE, 0, "iopl3-popf");
    check_eq(fault.ebx & 0x7fd7, 0x7ad7, "iopl3-popf-flags");
    check_fault(RUN(v_popfd, IOPL3), VEC_NONE, 0, "iopl3-popfd");
    check_eq(fault.ebx, (0x3f7ad7 & ~(FL_VIF | FL_VIP | FL_RF | FL_VM)) | IOPL3, "iopl3-popfd-flags");
    check_fault(RUN(v_iret, IOPL3), VEC_NONE, 0, "iopl3-iret");
    check_eq(fault.ebx & 0xffff, 0x77, "iopl3-iret-ip");
    check_eq(fault.eflags & FL_IF, FL_IF, "iopl3-iret-if");
    check_fault(RUN(v_iretd, IOPL3), VEC_NONE, 0, "iopl3-iretd");
    check_eq(fault.ebx & 0xffff, 0x77, "iopl3-iretd-ip");
    check_fault(RUN(v_int21, IOPL3), 0x21, 0, "iopl3-int");
    check_eq(fault.eip, 2, "iopl3-int-ip-behind");
    idt_set(0x21, vector_stubs + 0x210, 0x8e, SEL_KCS);
    check_fault(RUN(v_int21, IOPL3), GP, 0x21 * 8 + 2, "iopl3-int-gate-dpl0");
    /* the gate's code must be at CPL 0 */
    gdt[SEL_FREE / 8] = FLAT32(0xfa);
    idt_set(0x21, vector_stubs + 0x210, 0xee, SEL_FREE);
    check_fault(RUN(v_int21, IOPL3), GP, SEL_FREE, "int-code-dpl3");
    gdt[SEL_FREE / 8] = FLAT32(0x9e);
    check_fault(RUN(v_int21, IOPL3), GP, SEL_FREE, "int-code-conforming");
    /* INT3 and INTO know no IOPL */
    check_fault(RUN(v_int3, 0), GP, BP * 8 + 2, "int3-gate-dpl0");
    idt_set(BP, vector_stubs + BP * 16, 0xee, SEL_KCS);
    check_fault(RUN(v_int3, 0), BP, 0, "int3");
    idt_set(OF, vector_stubs + OF * 16, 0xee, SEL_KCS);
    check_fault(RUN(v_into, 0), OF, 0, "into");
    idt_reset();
}

/* ---- instructions that do not exist, privileged ones, transfers ---- */

#define V(name, text) CODE16(name, text "; hlt")
V(v_cr0, "mov %cr0, %eax");
V(v_lgdt, "lgdt 0");
V(v_clts, "clts");
V(v_lldt, "lldt %ax");
V(v_ltr, "ltr %ax");
V(v_sldt, "sldt %ax");
V(v_str, "str %ax");
V(v_lar, "lar %ax, %bx");
V(v_lsl, "lsl %ax, %bx");
V(v_verr, "verr %ax");
V(v_arpl, "arpl %ax, %bx");
V(v_sgdt, "sgdt 0x100");
V(v_smsw, "smsw %bx");
CODE16(v_far, "mov %sp, %bp; lcall $0x2100, $0; mov %sp, %di; hlt");
CODE16(v_far_target, "mov %cs, %bx; mov %sp, %si; pop %cx; pop %dx; push %dx; push %cx; lret");
CODE16(v_far32, "mov %sp, %bp; lcalll $0x2100, $0; hlt");
CODE16(v_far32_target, "mov %sp, %si; lretl");
CODE16(v_jmp_limit, "ljmpl $0x2000, $0x10000; hlt");
CODE16(v_jmp_mem, "mov %cs, %ax; mov %ax, %ds; ljmp *(2f - v_jmp_mem); 2: .word 1f - v_jmp_mem, 0x2000; 1: mov $0x66, %bx; hlt");
CODE16(v_les, "mov %cs, %ax; mov %ax, %ds; les (2f - v_les), %bx; mov %es, %cx; hlt; 2: .word 0x1357, 0x2468");

static void instructions(void)
{
    static const struct {
        const uint8_t *code, *end;
        unsigned vector;
        const char *name;
    } t[] = {
        {v_cr0, v_cr0_end, GP, "v86-mov-cr0"}, {v_lgdt, v_lgdt_end, GP, "v86-lgdt"}, {v_clts, v_clts_end, GP, "v86-clts"},
        {v_lldt, v_lldt_end, UD, "v86-lldt"},  {v_ltr, v_ltr_end, UD, "v86-ltr"},    {v_sldt, v_sldt_end, UD, "v86-sldt"},
        {v_str, v_str_end, UD, "v86-str"},     {v_lar, v_lar_end, UD, "v86-lar"},    {v_lsl, v_lsl_end, UD, "v86-lsl"},
        {v_verr, v_verr_end, UD, "v86-verr"},  {v_arpl, v_arpl_end, UD, "v86-arpl"}, {v_sgdt, v_sgdt_end, VEC_NONE, "v86-sgdt"},
        {v_smsw, v_smsw_end, VEC_NONE, "v86-smsw"},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
        check_fault(run(t[i].code, t[i].end, 0), t[i].vector, 0, t[i].name);
    memcpy(V86_MEM(0x2100, 0), v_far_target, (size_t)(v_far_target_end - v_far_target));
    check_fault(RUN(v_far, 0), VEC_NONE, 0, "far-call");
    check_eq(fault.ebx & 0xffff, 0x2100, "far-call-cs");
    check_eq((fault.ebp - fault.esi) & 0xffff, 4, "far-call-pushes-4");
    check_eq(fault.edx & 0xffff, V86_CS, "far-call-return-cs");
    check_eq(fault.edi & 0xffff, V86_SP, "far-ret-sp");
    memcpy(V86_MEM(0x2100, 0), v_far32_target, (size_t)(v_far32_target_end - v_far32_target));
    check_fault(RUN(v_far32, 0), VEC_NONE, 0, "far-call-32");
    check_eq((fault.ebp - fault.esi) & 0xffff, 8, "far-call-32-pushes-8");
    check_fault(RUN(v_jmp_limit, 0), GP, 0, "far-jmp-limit");
    check_eq(fault.eip, 0, "far-jmp-limit-ip");
    check_fault(RUN(v_jmp_mem, 0), VEC_NONE, 0, "far-jmp-memory");
    check_eq(fault.ebx & 0xffff, 0x66, "far-jmp-memory-ran");
    check_fault(RUN(v_les, 0), VEC_NONE, 0, "les");
    check_eq((fault.ebx & 0xffff) | fault.ecx << 16, 0x24681357, "les-values");
}

/* ---- I/O ---- */

V(v_in, "in $0x80, %al");
V(v_out16, "mov $0x87, %dx; out %ax, %dx");

static void ports(void)
{
    memset(tss.bitmap, 0xff, sizeof tss.bitmap);
    check_fault(RUN(v_in, 0), GP, 0, "in-denied");
    check_fault(RUN(v_in, IOPL3), GP, 0, "in-denied-at-iopl3");
    tss.bitmap[0x80 / 8] = 0xfe;
    check_fault(RUN(v_in, 0), VEC_NONE, 0, "in-allowed");
    tss.bitmap[0x80 / 8] = 0x7f;
    check_fault(RUN(v_out16, 0), GP, 0, "out-16-half-denied");
    tss.bitmap[0x88 / 8] = 0xfe;
    check_fault(RUN(v_out16, 0), VEC_NONE, 0, "out-16-allowed");
}

/* ---- CR4.VME ---- */

CODE16(v_popf_if, "push $0x202; popf; hlt");
CODE16(v_popf_tf, "push $0x102; popf; hlt");
CODE16(v_popf_0, "push $2; popf; hlt");
CODE16(v_redirected, "mov %sp, %bp; int $0x21; mov %sp, %di; hlt");
/* The program's own handler: notes FLAGS as pushed, and its flags. */
CODE16(v_handler, "mov %sp, %si; mov %ss:4(%si), %bx; mov %ss:(%si), %cx; mov %ss:2(%si), %dx; iret");
CODE16(v_handler_end_here, "mov %sp, %si; mov %ss:4(%si), %bx; hlt");

static void vme(void)
{
    volatile uint16_t *const ivt = low_words(0);
    uint32_t r[4];
    cpuid(1, r);
    if (!(r[3] & 2)) {
        skip("vme", "CPUID has no VME");
        return;
    }
    write_cr4(read_cr4() | CR4_VME);
    check_fault(RUN(v_cli, FL_VIF | FL_IF), VEC_NONE, 0, "vme-cli");
    check_eq(fault.eflags & (FL_VIF | FL_IF), FL_IF, "vme-cli-clears-vif");
    check_fault(RUN(v_sti, 0), VEC_NONE, 0, "vme-sti");
    check_eq(fault.eflags & (FL_VIF | FL_IF), FL_VIF, "vme-sti-sets-vif");
    check_fault(RUN(v_sti, FL_VIP), GP, 0, "vme-sti-vip");
    check_fault(RUN(v_pushf, FL_VIF), VEC_NONE, 0, "vme-pushf");
    check_eq(fault.ebx & 0xffff, FL_IF | FL_IOPL | 2, "vme-pushf-vif");
    check_fault(RUN(v_pushf, FL_IF), VEC_NONE, 0, "vme-pushf-no-vif");
    check_eq(fault.ebx & 0xffff, FL_IOPL | 2, "vme-pushf-hides-if");
    check_fault(RUN(v_pushfd, 0), GP, 0, "vme-pushfd");
    check_fault(RUN(v_popfd, 0), GP, 0, "vme-popfd");
    check_fault(RUN(v_iretd, 0), GP, 0, "vme-iretd");
    check_fault(RUN(v_popf_if, 0), VEC_NONE, 0, "vme-popf");
    check_eq(fault.eflags & (FL_VIF | FL_IF | FL_IOPL), FL_VIF, "vme-popf-sets-vif");
    check_fault(RUN(v_popf_0, FL_VIF | FL_IF), VEC_NONE, 0, "vme-popf-0");
    check_eq(fault.eflags & (FL_VIF | FL_IF), FL_IF, "vme-popf-clears-vif");
    check_fault(RUN(v_popf_if, FL_VIP), GP, 0, "vme-popf-vip");
    check_fault(RUN(v_popf_tf, 0), GP, 0, "vme-popf-tf");
    check_fault(RUN(v_iret, 0), VEC_NONE, 0, "vme-iret");
    check_eq(fault.eflags & (FL_VIF | FL_IF | FL_IOPL), FL_VIF, "vme-iret-sets-vif");
    check_fault(RUN(v_iret, FL_VIP), GP, 0, "vme-iret-vip");
    check_fault(RUN(v_cli, IOPL3 | FL_IF | FL_VIF), VEC_NONE, 0, "vme-iopl3-cli");
    check_eq(fault.eflags & (FL_VIF | FL_IF), FL_VIF, "vme-iopl3-cli-clears-if");
    /* INT n by the redirection bitmap */
    memset(tss.redirection, 0xff, sizeof tss.redirection);
    idt_set(0x21, vector_stubs + 0x210, 0xee, SEL_KCS);
    check_fault(RUN(v_redirected, 0), GP, 0, "vme-int-trapped");
    check_fault(RUN(v_redirected, IOPL3), 0x21, 0, "vme-int-iopl3-idt");
    tss.redirection[0x21 / 8] &= (uint8_t)~(1u << (0x21 & 7));
    memcpy(V86_MEM(0x2200, 0x10), v_handler, (size_t)(v_handler_end - v_handler));
    ivt[0x42] = 0x10;
    ivt[0x43] = 0x2200;
    check_fault(RUN(v_redirected, FL_VIF), VEC_NONE, 0, "vme-int-redirected");
    check_eq(fault.ebx & 0xffff, FL_IF | FL_IOPL | 2, "vme-int-pushes-vif");
    check_eq((fault.ebp - fault.esi) & 0xffff, 6, "vme-int-pushes-6");
    check_eq(fault.ecx & 0xffff, 4, "vme-int-ip");
    check_eq(fault.edx & 0xffff, V86_CS, "vme-int-cs");
    check_eq(fault.edi & 0xffff, V86_SP, "vme-iret-sp");
    check_eq(fault.eflags & (FL_VIF | FL_IF), FL_VIF, "vme-int-iret-vif");
    check_fault(RUN(v_redirected, FL_VIF | IOPL3), VEC_NONE, 0, "vme-int-redirected-iopl3");
    check_eq(fault.ebx & 0xffff, FL_IOPL | 2, "vme-int-iopl3-pushes-if");
    memcpy(V86_MEM(0x2200, 0x10), v_handler_end_here, (size_t)(v_handler_end_here_end - v_handler_end_here));
    check_fault(RUN(v_redirected, FL_VIF | FL_IF), VEC_NONE, 0, "vme-int-handler");
    check_eq(fault.eflags & (FL_VIF | FL_IF), FL_IF, "vme-int-clears-vif");
    check_eq(fault.cs, 0x2200, "vme-int-handler-cs");
    check_fault(RUN(v_redirected, FL_VIF | FL_IF | IOPL3), VEC_NONE, 0, "vme-int-handler-iopl3");
    check_eq(fault.eflags & (FL_VIF | FL_IF), FL_VIF, "vme-int-iopl3-clears-if");
    idt_reset();
    write_cr4(read_cr4() & ~CR4_VME);
}

void test_main(void)
{
    static void (*const parts[])(void) = {basics, iopl, instructions, ports, vme};
    for (unsigned i = 0; i < ARRAY_SIZE(parts); i++)
        if (guest_arg >> i & 1)
            parts[i]();
}
