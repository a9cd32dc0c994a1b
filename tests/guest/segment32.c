/* SPDX-License-Identifier: MIT */
/*
 * Segmentation and control transfer in 32-bit protected mode: segment loads and limits, system
 * tables, far transfers and call gates, interrupt gates, IRET (SDM 3A chapters 3, 5 and 6).
 */
#include "guest32.h"

#define F0 SEL_FREE
#define F1 (SEL_FREE + 8)
#define F2 (SEL_FREE + 16)
#define F3 (SEL_FREE + 24)
#define LOW_CODE 0x2000u /* below 64 KiB: for 16-bit offsets */

static struct tss32 fault_tss __attribute__((used));
static uint8_t data[64] __attribute__((aligned(16)));
extern volatile uint32_t seen[16];
volatile uint32_t seen[16];

static void set(unsigned selector, uint64_t d)
{
    gdt[selector / 8] = d;
}

/* ---- segment registers ---- */

static unsigned load_ds(unsigned s)
{
    unsigned v = TRY("mov %w0, %%ds", ::"r"(s) : "memory");
    asm volatile("mov %w0, %%ds" ::"r"(SEL_KDS));
    return v;
}
static unsigned load_fs(unsigned s) { return TRY("mov %w0, %%fs", ::"r"(s) : "memory"); }
static unsigned load_ss(unsigned s)
{
    unsigned v = TRY("mov %w0, %%ss", ::"r"(s) : "memory");
    asm volatile("mov %w0, %%ss" ::"r"(SEL_KDS));
    return v;
}

static void check_fault(unsigned v, unsigned vector, unsigned error, const char *name)
{
    check_eq(v << 16 | (v == VEC_NONE ? 0 : fault.error & 0xffff), vector << 16 | error, name);
}

static void loads(void)
{
    check_fault(load_fs(0), VEC_NONE, 0, "fs-null");
    check_fault(TRY("mov %%fs:0, %%eax", ::: "eax"), GP, 0, "fs-null-read");
    check_fault(load_ss(0), GP, 0, "ss-null");
    check_fault(load_ds(0x400), GP, 0x400, "ds-beyond-gdt");
    check_fault(load_ds(F0 | 4), GP, F0 | 4, "ds-no-ldt");
    set(F0, FLAT32(0x12));
    check_fault(load_ds(F0), NP, F0, "ds-not-present");
    check_fault(load_ss(F0), SS, F0, "ss-not-present");
    set(F0, FLAT32(0x90));
    check_fault(load_ss(F0), GP, F0, "ss-read-only");
    check_fault(load_fs(F0), VEC_NONE, 0, "fs-read-only");
    check_eq(gdt[F0 / 8] >> 40 & 0xff, 0x91, "accessed-bit");
    check_fault(TRY("movl $1, %%fs:(%0)", ::"r"(data) : "memory"), GP, 0, "fs-read-only-write");
    set(F0, FLAT32(0x98));
    check_fault(load_ds(F0), GP, F0, "ds-execute-only");
    set(F0, FLAT32(0x9a));
    check_fault(load_fs(F0), VEC_NONE, 0, "fs-readable-code");
    check_fault(load_fs(F0 | 3), GP, F0, "fs-code-rpl3");
    set(F0, FLAT32(0x9e));
    check_fault(load_fs(F0 | 3), VEC_NONE, 0, "fs-conforming-rpl3");
    check_fault(load_ss(SEL_UDS | 3), GP, SEL_UDS, "ss-dpl3");
    check_fault(load_fs(SEL_KDS | 3), GP, SEL_KDS, "fs-rpl3-dpl0");
    check_fault(load_fs(SEL_UDS), VEC_NONE, 0, "fs-dpl3");
    set(F0, descriptor((uint32_t)data, 15, 0x92, 4));
    load_fs(F0);
    check_fault(TRY("mov %%fs:15, %%al", ::: "eax"), VEC_NONE, 0, "limit-last-byte");
    check_fault(TRY("mov %%fs:16, %%al", ::: "eax"), GP, 0, "limit-byte-beyond");
    check_fault(TRY("mov %%fs:13, %%eax", ::: "eax"), GP, 0, "limit-crossed");
    check_fault(TRY("movl $0, %%fs:12", ::: "memory"), VEC_NONE, 0, "limit-last-dword");
    set(F0, descriptor((uint32_t)data, 15, 0x96, 4));
    load_fs(F0);
    check_fault(TRY("mov %%fs:15, %%al", ::: "eax"), GP, 0, "expand-down-below");
    check_fault(TRY("mov %%fs:16, %%al", ::: "eax"), VEC_NONE, 0, "expand-down-above");
    set(F0, descriptor((uint32_t)data, 15, 0x96, 0));
    load_fs(F0);
    check_fault(TRY("mov %%fs:0xffff, %%al", ::: "eax"), VEC_NONE, 0, "expand-down-16-top");
    check_fault(TRY("mov %%fs:0x10000, %%al", ::: "eax"), GP, 0, "expand-down-16-beyond");
    /* an LDT */
    set(F1, descriptor((uint32_t)data, 63, 0x82, 0));
    ((uint64_t *)data)[1] = FLAT32(0x92);
    check_fault(TRY("lldt %w0", ::"r"(F1)), VEC_NONE, 0, "lldt");
    check_fault(load_fs(8 | 4), VEC_NONE, 0, "fs-from-ldt");
    check_eq(((uint64_t *)data)[1] >> 40 & 0xff, 0x93, "accessed-bit-ldt");
    check_fault(load_fs(64 | 4), GP, 64 | 4, "fs-beyond-ldt");
    uint32_t r = 0xffffffff;
    asm volatile("sldt %0" : "=r"(r));
    check_eq(r, F1, "sldt-zero-extends");
    check_fault(TRY("lldt %w0", ::"r"(0)), VEC_NONE, 0, "lldt-null");
    check_fault(load_fs(8 | 4), GP, 8 | 4, "fs-null-ldt");
    check_fault(TRY("lldt %w0", ::"r"(SEL_KDS)), GP, SEL_KDS, "lldt-data");
    set(F1, descriptor((uint32_t)data, 63, 0x02, 0));
    check_fault(TRY("lldt %w0", ::"r"(F1)), NP, F1, "lldt-not-present");
    r = 0xffffffff;
    asm volatile("mov %%cs, %0" : "=r"(r));
    check_eq(r, SEL_KCS, "mov-from-cs-zero-extends");
    check_fault(TRY(".byte 0x8e, 0xc8", ::"a"(SEL_KCS)), UD, 0, "mov-to-cs");
}

CODE32(push_sreg, "mov %esp, %ebx; movl $-1, -4(%esp); push %ds; mov %esp, %ecx; mov (%esp), %edx; mov %ebx, %esp\n"
                  "movl $-1, -4(%esp); data16 push %es; mov %esp, %esi; mov %ebx, %esp; mov %ecx, seen; mov %edx, seen+4\n"
                  "mov %esi, seen+8; mov %ebx, seen+12\n"
                  "pushl $0x10; mov %esp, %ecx; pop %fs; sub %esp, %ecx; mov %ecx, seen+16\n"
                  "pushw $0x10; mov %esp, %ecx; data16 pop %gs; sub %esp, %ecx; mov %ecx, seen+20; mov %gs, seen+24\n"
                  "mov %ebx, %esp; ret");
/* POP SS into a 16-bit stack: the pointer moves as wide as it was. */
CODE32(pop_ss16, "mov %esp, %ebx; pushl 4(%esp); .byte 0x17; nop; mov %esp, %ecx; mov $0x10, %eax; mov %eax, %ss; mov %ebx, %esp\n"
                 "mov %ecx, seen; mov %ebx, seen+4; ret");

static void stack_segments(void)
{
    check_eq(run_catch(push_sreg, 0), VEC_NONE, "push-sreg");
    check_eq(seen[3] - seen[0], 4, "push-ds-moves-4");
    check_eq(seen[1], is_amd() ? SEL_KDS : 0xffff0000 | SEL_KDS, "push-ds-stores");
    check_eq(seen[3] - seen[2], 2, "push-es-16-moves-2");
    check_eq(seen[4], -4u, "pop-fs-moves-4");
    check_eq(seen[5], -2u, "pop-gs-16-moves-2");
    check_eq(seen[6] & 0xffff, SEL_KDS, "pop-gs-16");
    set(F0, FLAT16(0x92));
    check_eq(run_catch(pop_ss16, F0), VEC_NONE, "pop-ss-16");
    check_eq(seen[0], seen[1], "pop-ss-16-esp");
    struct {
        uint32_t offset;
        uint16_t selector;
    } p = {0x12345678, SEL_KDS};
    uint32_t v;
    check_fault(TRY("les (%1), %0", : "=r"(v) : "r"(&p) : "memory"), VEC_NONE, 0, "les");
    check_eq(v, 0x12345678, "les-offset");
    check_fault(TRY("lds (%1), %0", : "=r"(v) : "r"(&p) : "memory"), VEC_NONE, 0, "lds");
    check_fault(TRY("lfs (%1), %0", : "=r"(v) : "r"(&p) : "memory"), VEC_NONE, 0, "lfs");
    check_fault(TRY("lss (%1), %0", : "=r"(v) : "r"(&p) : "memory"), VEC_NONE, 0, "lss");
    p.selector = 0x400;
    v = 7;
    check_fault(TRY("lgs (%1), %0", : "+r"(v) : "r"(&p) : "memory"), GP, 0x400, "lgs-beyond-gdt");
    check_eq(v, 7, "lgs-fault-keeps-register");
    struct {
        uint16_t offset, selector;
    } q = {0x9abc, SEL_KDS};
    v = 0x11110000;
    check_fault(TRY("lesw (%1), %w0", : "+r"(v) : "r"(&q) : "memory"), VEC_NONE, 0, "les-16");
    check_eq(v, 0x11119abc, "les-16-merges");
}

static void tables(void)
{
    uint8_t raw[8];
    memset(raw, 0xee, 8);
    asm volatile("sgdt %0" : "=m"(raw));
    check_eq(*(uint16_t *)raw, GDT_ENTRIES * 8 - 1, "sgdt-limit");
    check_eq(*(uint32_t *)(raw + 2), (uint32_t)gdt, "sgdt-base");
    check_eq(raw[6], 0xee, "sgdt-6-bytes");
    memset(raw, 0xee, 8);
    asm volatile("sidt %0" : "=m"(raw));
    check_eq(*(uint32_t *)(raw + 2), (uint32_t)idt, "sidt-base");
    check_eq(raw[6], 0xee, "sidt-6-bytes");
    const struct table_ptr wide = {0x7ff, 0xab000000 | (uint32_t)idt};
    struct table_ptr back = {0};
    asm volatile(".byte 0x66; lidt %0" ::"m"(wide));
    asm volatile("sidt %0" : "=m"(back));
    check_eq(back.base, (uint32_t)idt & 0xffffff, "lidt-16-base-24-bits");
    asm volatile("lidt %0" ::"m"(wide));
    asm volatile(".byte 0x66; sidt %0" : "=m"(back));
    asm volatile("lidt %0" ::"m"(idt_ptr));
    check_eq(back.base, wide.base, "sidt-16-stores-32-bits");
    /* task register */
    set(F0, descriptor((uint32_t)data, 43, 0x81, 0));
    check_fault(TRY("ltr %w0", ::"r"(F0)), VEC_NONE, 0, "ltr-16");
    check_eq(gdt[F0 / 8] >> 40 & 0xff, 0x83, "ltr-16-busy");
    check_eq(read_tr(), F0, "str");
    check_fault(TRY("ltr %w0", ::"r"(F0)), GP, F0, "ltr-busy");
    check_fault(TRY("ltr %w0", ::"r"(0)), GP, 0, "ltr-null");
    check_fault(TRY("ltr %w0", ::"r"(F0 | 4)), GP, F0 | 4, "ltr-local");
    set(F0, descriptor((uint32_t)data, 43, 0x09, 0));
    check_fault(TRY("ltr %w0", ::"r"(F0)), NP, F0, "ltr-not-present");
    load_main_tss();
    /* LAR and LSL: system types (SDM 2A, tables of LAR and LSL) */
    uint32_t lar = 0, lsl = 0;
    for (unsigned type = 0; type < 16; type++) {
        uint32_t value, z;
        set(F0, descriptor(0x1234, 0x5678, 0x80 | type, 0));
        asm volatile("lar %2, %0; setz %b1" : "=r"(value), "=q"(z) : "r"(F0) : "cc");
        lar |= (z & 1) << type;
        if (type == 5)
            check_eq(value & 0xff00, 0x8500, "lar-task-gate");
        asm volatile("lsl %2, %0; setz %b1" : "=r"(value), "=q"(z) : "r"(F0) : "cc");
        lsl |= (z & 1) << type;
        if (type == 2)
            check_eq(value, 0x5678, "lsl-ldt");
    }
    check_eq(lar, 1u << 1 | 1u << 2 | 1u << 3 | 1u << 4 | 1u << 5 | 1u << 9 | 1u << 11 | 1u << 12, "lar-types");
    check_eq(lsl, 1u << 1 | 1u << 2 | 1u << 3 | 1u << 9 | 1u << 11, "lsl-types");
    uint32_t z;
    set(F0, FLAT32(0x98));
    asm volatile("verr %w1; setz %b0" : "=q"(z) : "r"(F0) : "cc");
    check_eq(z & 1, 0, "verr-execute-only");
    set(F0, FLAT32(0x92));
    asm volatile("verw %w1; setz %b0" : "=q"(z) : "r"(F0) : "cc");
    check_eq(z & 1, 1, "verw-writable");
}

/* ---- far transfers ---- */

CODE32(far_call, "mov %esp, %ebx; lcall $0x08, $1f; jmp 2f\n"
                 "1: mov %esp, %ecx; mov (%esp), %edx; mov 4(%esp), %esi; lret\n"
                 "2: sub %ecx, %ebx; mov %ebx, seen; mov %edx, seen+4; mov %esi, seen+8; ret");
CODE32(far_ret_imm, "mov %esp, %ebx; push %eax; push %eax; push %cs; push $1f; lret $8; 1: sub %esp, %ebx; mov %ebx, seen; ret");
/* LOW_CODE: data16 lret; LOW_CODE + 4: data16 lcall *(pointer), ret */
CODE32(far_call16, "mov %esp, %ebx; mov $0x2004, %ecx; call *%ecx; mov %edx, seen; ret");
CODE32(low_code, "mov %esp, %edx; data16 lret; nop; data16 lcall *seen+32; sub %ebx, %edx; ret");
static uint8_t far_jump_code[] = {0xea, 0, 0, 0, 0, 0, 0}; /* ljmp selector:offset */

static unsigned far_jump(unsigned selector, uint32_t offset)
{
    memcpy(far_jump_code + 1, &offset, 4);
    memcpy(far_jump_code + 5, &selector, 2);
    return run_catch(far_jump_code, 0);
}
static uint8_t far_call_code[] = {0x9a, 0, 0, 0, 0, 0, 0, 0xc3};

static unsigned far_call_to(unsigned selector, uint32_t offset)
{
    memcpy(far_call_code + 1, &offset, 4);
    memcpy(far_call_code + 5, &selector, 2);
    return run_catch(far_call_code, 0);
}

CODE32(gate_target, "mov %esp, seen; mov (%esp), %eax; mov %eax, seen+4; mov 4(%esp), %eax; mov %eax, seen+8; lret");
/* Of a gate with two parameters from ring 3. */
CODE32(inner_target, "push %ds; mov $0x10, %ecx; mov %ecx, %ds; lea 4(%esp), %ecx; mov %ecx, seen\n"
                     "mov 4(%esp), %ecx; mov %ecx, seen+4; mov 8(%esp), %ecx; mov %ecx, seen+8; mov 12(%esp), %ecx; mov %ecx, seen+12\n"
                     "mov 16(%esp), %ecx; mov %ecx, seen+16; mov 20(%esp), %ecx; mov %ecx, seen+20; mov 24(%esp), %ecx\n"
                     "mov %ecx, seen+24; mov %ss, seen+28; pop %ds; lret $8");
CODE32(user_gate, "mov %esp, %ebx; pushl $0x11111111; pushl $0x22222222; lcall $0x58+3, $0; user_gate_back: mov %esp, %ecx; hlt");
CODE32(user_gate_plain, "lcall $0x58+3, $0; hlt");
CODE32(user_gate_jmp, "ljmp $0x58+3, $0");
/* A 16-bit gate: words, and 16-bit registers on the stack; lives at LOW_CODE. */
CODE32(inner_target16, "push %ds; mov $0x10, %ecx; mov %ecx, %ds; lea 4(%esp), %ecx; mov %ecx, seen\n"
                       "mov 4(%esp), %ecx; mov %ecx, seen+4; mov 8(%esp), %ecx; mov %ecx, seen+8; mov 12(%esp), %ecx\n"
                       "mov %ecx, seen+12; pop %ds; mov $0x42, %edi; ljmp $0x08, $inner_leave; nop");
void inner_leave(void);
asm(".pushsection .text\ninner_leave: ud2\n.popsection");
extern const uint8_t user_gate_back[];

static void far_transfers(void)
{
    check_eq(run_catch(far_call, 0), VEC_NONE, "far-call");
    check_eq(seen[0], 8, "far-call-pushes-8");
    check_eq(seen[2], SEL_KCS, "far-call-cs");
    check_eq(run_catch(far_ret_imm, 0), VEC_NONE, "far-ret-imm");
    check_eq(seen[0], 0, "far-ret-imm-esp");
    memcpy((void *)LOW_CODE, low_code, (size_t)(low_code_end - low_code));
    *(uint32_t *)&seen[8] = LOW_CODE | SEL_KCS << 16;
    check_eq(*(uint8_t *)(LOW_CODE + 4), 0x90, "low-code-layout");
    check_eq(run_catch(far_call16, 0), VEC_NONE, "far-call-16");
    check_eq(seen[0], -8u, "far-call-16-pushes-4"); /* behind the near call's 4 */
    check_fault(far_jump(0, 0), GP, 0, "far-jmp-null");
    check_fault(far_jump(0x400, 0), GP, 0x400, "far-jmp-beyond");
    check_fault(far_jump(SEL_KDS, 0), GP, SEL_KDS, "far-jmp-data");
    set(F0, descriptor(0, 0xfff, 0x9a, 4));
    check_fault(far_jump(F0, 0x1000), GP, 0, "far-jmp-limit");
    check_eq(fault.eip, (uint32_t)far_jump_code, "far-jmp-limit-eip");
    check_eq(fault.cs, SEL_KCS, "far-jmp-limit-cs");
    set(F0, FLAT32(0x1a));
    check_fault(far_jump(F0, 0), NP, F0, "far-jmp-not-present");
    set(F0, FLAT32(0xfa));
    check_fault(far_jump(F0, 0), GP, F0, "far-jmp-dpl3");
    check_fault(far_jump(SEL_KCS | 3, 0), GP, SEL_KCS, "far-jmp-rpl3");
    set(F0, FLAT32(0xfe));
    check_fault(far_jump(F0, 0), GP, F0, "far-jmp-conforming-dpl3");
    set(F0, FLAT32(0x9e));
    check_fault(far_call_to(F0 | 3, (uint32_t)gate_target), VEC_NONE, 0, "far-call-conforming-rpl3");
    /* 16-bit code segment: IP wraps nowhere, runs 16-bit code */
    set(F1, gate((uint32_t)gate_target, SEL_KCS, 0x8c, 0));
    check_fault(far_call_to(F1, 0xdead), VEC_NONE, 0, "call-gate-same");
    check_eq(seen[2], SEL_KCS, "call-gate-same-cs");
    set(F1, gate((uint32_t)gate_target, SEL_KCS, 0x0c, 0));
    check_fault(far_call_to(F1, 0), NP, F1, "call-gate-not-present");
    set(F1, gate((uint32_t)gate_target, 0, 0x8c, 0));
    check_fault(far_call_to(F1, 0), GP, 0, "call-gate-null-cs");
    set(F1, gate((uint32_t)gate_target, SEL_KDS, 0x8c, 0));
    check_fault(far_call_to(F1, 0), GP, SEL_KDS, "call-gate-data-cs");
    set(F0, descriptor(0, 0xfff, 0x9a, 4));
    set(F1, gate(0x1000, F0, 0x8c, 0));
    check_fault(far_call_to(F1, 0), GP, 0, "call-gate-limit");
    /* from ring 3 */
    set(F1, gate((uint32_t)inner_target, SEL_KCS, 0xec, 2));
    check_eq(run_user(user_gate, 0), VEC_NONE, "call-gate-inner");
    check_eq(seen[0], (uint32_t)(ring0_stack + sizeof ring0_stack) - 24, "call-gate-inner-esp");
    check_eq(seen[1], (uint32_t)user_gate_back, "call-gate-inner-eip");
    check_eq(seen[2], SEL_UCS | 3, "call-gate-inner-cs");
    check_eq(seen[3], 0x22222222, "call-gate-inner-param-0");
    check_eq(seen[4], 0x11111111, "call-gate-inner-param-1");
    check_eq(seen[5], fault.ebx - 8, "call-gate-inner-old-esp");
    check_eq(seen[6], SEL_UDS | 3, "call-gate-inner-old-ss");
    check_eq(seen[7] & 0xffff, SEL_KDS, "call-gate-inner-ss");
    check_eq(fault.ecx, fault.ebx, "call-gate-ret-imm-releases-both");
    check_eq(fault.ds, SEL_UDS | 3, "call-gate-ret-keeps-user-ds");
    set(F1, gate((uint32_t)inner_target, SEL_KCS, 0x8c, 2));
    check_fault(run_user(user_gate_plain, 0), GP, F1, "call-gate-dpl0-from-3");
    set(F1, gate((uint32_t)inner_target, SEL_KCS, 0xec, 2));
    check_fault(run_user(user_gate_jmp, 0), GP, SEL_KCS, "jmp-gate-inner");
    memcpy((void *)LOW_CODE, inner_target16, (size_t)(inner_target16_end - inner_target16));
    set(F1, gate(LOW_CODE, SEL_KCS, 0xe4, 2));
    check_eq(run_user(user_gate, 0), UD, "call-gate-16-inner");
    check_eq(fault.edi, 0x42, "call-gate-16-ran");
    check_eq(seen[0], (uint32_t)(ring0_stack + sizeof ring0_stack) - 12, "call-gate-16-esp");
    check_eq(seen[1], ((uint32_t)user_gate_back & 0xffff) | (SEL_UCS | 3) << 16, "call-gate-16-cs-ip");
    check_eq(seen[2], 0x22222222, "call-gate-16-params");
    check_eq(seen[3], ((fault.ebx - 8) & 0xffff) | (SEL_UDS | 3) << 16, "call-gate-16-ss-sp");
    /* stacks that the gate refuses */
    set(F1, gate((uint32_t)inner_target, SEL_KCS, 0xec, 0));
    set(F2, FLAT32(0x12));
    static const struct {
        uint32_t ss, vector, error;
        const char *name;
    } bad[] = {
        {0, TS, 0, "inner-ss-null"},           {0x400, TS, 0x400, "inner-ss-beyond"},
        {SEL_KDS | 1, TS, SEL_KDS, "inner-ss-rpl"}, {SEL_UDS, TS, SEL_UDS, "inner-ss-dpl"},
        {SEL_KCS, TS, SEL_KCS, "inner-ss-code"}, {F2, SS, F2, "inner-ss-not-present"},
    };
    extern void fault_task_start(void);
    
    static uint8_t fault_stack[1024];
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        fault_tss = (struct tss32){.eip = (uint32_t)fault_task_start, .eflags = 2, .cs = SEL_KCS, .ss = SEL_KDS,
                                   .ds = SEL_KDS, .es = SEL_KDS, .esp = (uint32_t)(fault_stack + sizeof fault_stack)};
        set(F3, descriptor((uint32_t)&fault_tss, 103, 0x89, 0));
        idt[TS] = idt[SS] = gate(0, F3, 0x85, 0);
        load_main_tss();
        tss.ss0 = bad[i].ss;
        fault.vector = 0;
        seen[0] = seen[1] = 0;
        run_user(user_gate_plain, 0);
        check_eq(seen[0], bad[i].error, bad[i].name);
        check_eq(seen[1], SEL_TSS, "inner-ss-fault-from-main-task");
        check_eq(tss.eip, (uint32_t)user_gate_plain, "inner-ss-fault-eip");
        idt_reset();
        load_main_tss();
    }
}
/* A #TS or #SS that came by a task gate: its error code, and the task it came from. */
asm(".pushsection .text\n.globl fault_task_start\nfault_task_start:\n pop seen\n movzwl fault_tss, %eax\n"
    "mov %eax, seen+4\n clts\n jmp catch_longjmp\n.popsection");

/* ---- interrupts ---- */

static void *low_stub(void) { return (void *)(LOW_CODE + 0x100); }
CODE32(int40, "mov %esp, %ebx; int $0x40; mov %ecx, seen; mov %ebx, seen+4; ret");
CODE32(iretw_stub, "mov %esp, %ecx; mov (%esp), %edx; data16 iret");
CODE32(int_same, "mov %esp, %ebx; sti; int $0x40; cli; ret");
CODE32(user_int40, "int $0x40; hlt");
CODE32(user_into, "mov $0x7f, %al; add $1, %al; into; hlt");
CODE32(user_into_not, "xor %eax, %eax; into; mov $7, %eax; hlt");
CODE32(user_ud, "ud2");
static uint32_t handler_eflags;
static void note_eflags(struct frame32 *f)
{
    (void)f;
    handler_eflags = read_eflags();
}

static void interrupts(void)
{
    irq_handlers[0x40] = note_eflags;
    check_eq(run_catch(int_same, 0), VEC_NONE, "int-same");
    check(!(handler_eflags & FL_IF), "int-gate-clears-if");
    idt_set(0x40, vector_stubs + 0x400, 0x8f, SEL_KCS);
    run_catch(int_same, 0);
    check(handler_eflags & FL_IF, "trap-gate-keeps-if");
    irq_handlers[0x40] = NULL;
    check_eq(run_catch(int_same, 0), 0x40, "int-same-frame");
    check_eq(fault.ebx - fault.handler_esp, sizeof(struct frame32) - 8 - 16, "int-same-pushes-12");
    check_eq(*(uint8_t *)(fault.eip - 2), 0xcd, "int-eip-behind");
    /* 16-bit gates: the program lies below 64 KiB, for its IP to fit */
    memcpy((void *)LOW_CODE, int40, (size_t)(int40_end - int40));
    memcpy(low_stub(), iretw_stub, (size_t)(iretw_stub_end - iretw_stub));
    idt_set(0x40, low_stub(), 0x86, SEL_KCS);
    check_eq(run_catch((void *)LOW_CODE, 0), VEC_NONE, "int-gate-16");
    check_eq(seen[1] - seen[0], 6, "int-gate-16-pushes-6");
    idt_set(0x40, low_stub(), 0x87, SEL_KCS);
    check_eq(run_catch((void *)LOW_CODE, 0), VEC_NONE, "trap-gate-16");
    /* from ring 3 */
    idt_reset();
    idt_set(0x40, vector_stubs + 0x400, 0xee, SEL_KCS);
    check_fault(run_user(user_int40, 0), 0x40, 0, "int-ring3");
    check_eq(fault.cs, SEL_UCS | 3, "int-ring3-cs");
    check_eq(fault.ss, SEL_UDS | 3, "int-ring3-ss");
    check_eq(fault.esp, user_esp, "int-ring3-esp");
    check_eq(fault.handler_esp, (uint32_t)(ring0_stack + sizeof ring0_stack) - (sizeof(struct frame32) - 16), "int-ring3-esp0");
    idt_set(0x40, vector_stubs + 0x400, 0x8e, SEL_KCS);
    check_fault(run_user(user_int40, 0), GP, 0x40 * 8 + 2, "int-ring3-dpl0");
    idt_set(0x40, vector_stubs + 0x400, 0x6e, SEL_KCS);
    check_fault(run_user(user_int40, 0), NP, 0x40 * 8 + 2, "int-not-present");
    idt_set(0x40, vector_stubs + 0x400, 0xec, SEL_KCS);
    check_fault(run_user(user_int40, 0), GP, 0x40 * 8 + 2, "int-call-gate-type");
    idt_set(0x40, vector_stubs + 0x400, 0xee, 0);
    check_fault(run_user(user_int40, 0), GP, 0, "int-null-cs");
    idt_set(0x40, vector_stubs + 0x400, 0xee, SEL_KDS);
    check_fault(run_user(user_int40, 0), GP, SEL_KDS, "int-data-cs");
    set(F0, FLAT32(0x1a));
    idt_set(0x40, vector_stubs + 0x400, 0xee, F0);
    check_fault(run_user(user_int40, 0), NP, F0, "int-cs-not-present");
    set(F0, descriptor(0, 0xfff, 0x9a, 4));
    idt_set(0x40, vector_stubs + 0x400, 0xee, F0);
    check_fault(run_user(user_int40, 0), GP, 0, "int-eip-limit");
    idt_set(UD, vector_stubs + UD * 16, 0x8e, F0);
    check_fault(run_user(user_ud, 0), GP, 1, "ud-eip-limit-ext");
    idt_set(UD, vector_stubs + UD * 16, 0x8e, SEL_KDS);
    check_fault(run_user(user_ud, 0), GP, SEL_KDS | 1, "ud-data-cs-ext");
    idt_set(UD, vector_stubs + UD * 16, 0x0e, SEL_KCS);
    check_fault(run_user(user_ud, 0), NP, UD * 8 + 3, "ud-not-present-ext");
    idt_reset();
    const struct table_ptr small = {0x40 * 8 - 1, (uint32_t)idt};
    asm volatile("lidt %0" ::"m"(small));
    check_fault(TRY("int $0x40", ::), GP, 0x40 * 8 + 2, "idt-limit");
    asm volatile("lidt %0" ::"m"(idt_ptr));
    check_fault(run_user(user_into, 0), GP, OF * 8 + 2, "into-ring3-dpl0");
    idt_set(OF, vector_stubs + OF * 16, 0xee, SEL_KCS);
    check_fault(run_user(user_into, 0), OF, 0, "into");
    check_eq(*(uint8_t *)(fault.eip - 1), 0xce, "into-eip-behind");
    check_fault(run_user(user_into_not, 0), VEC_NONE, 0, "into-no-overflow");
    check_eq(fault.eax, 7, "into-no-overflow-goes-on");
    idt_reset();
}

/* ---- IRET ---- */

static uint32_t iret_frame[5];
CODE32(do_iret, "mov %esp, %ebp; mov iret_frame_at, %esi; pushl 16(%esi); pushl 12(%esi); pushl 8(%esi); pushl 4(%esi); pushl (%esi); iret");
const uint32_t *const iret_frame_at = iret_frame;
CODE32(user_end, "mov %ds, %ecx; mov %fs, %edx; hlt");
CODE32(same_end, "pushf; pop %ecx; mov %ecx, seen; mov %ebp, %esp; ret");
CODE32(user_iret, "push %eax; push %cs; push $1f; iret; 1: pushf; pop %ecx; hlt");

static unsigned iret_to(uint32_t eip, uint32_t cs, uint32_t eflags, uint32_t esp, uint32_t ss)
{
    const uint32_t f[5] = {eip, cs, eflags, esp, ss};
    memcpy(iret_frame, f, sizeof f);
    return run_catch(do_iret, 0);
}

static void irets(void)
{
    const uint32_t end = (uint32_t)user_end, same = (uint32_t)same_end;
    check_fault(iret_to(end, SEL_UCS | 3, 2, user_esp, SEL_UDS | 3), VEC_NONE, 0, "iret-outer");
    check_eq(fault.ecx, 0, "iret-outer-drops-ds");
    check_eq(fault.esp, user_esp, "iret-outer-esp");
    check_fault(iret_to(same, SEL_KCS, 2 | FL_AC, 0, 0), VEC_NONE, 0, "iret-same");
    check(seen[0] & FL_AC, "iret-same-ac");
    check_fault(iret_to(end, 3, 2, 0, 0), GP, 0, "iret-null-cs");
    check_fault(iret_to(end, 0x403, 2, 0, 0), GP, 0x400, "iret-cs-beyond");
    check_fault(iret_to(end, SEL_UDS | 3, 2, 0, 0), GP, SEL_UDS, "iret-cs-data");
    check_fault(iret_to(end, SEL_KCS | 3, 2, user_esp, SEL_UDS | 3), GP, SEL_KCS, "iret-cs-dpl");
    set(F0, FLAT32(0x7a));
    check_fault(iret_to(end, F0 | 3, 2, user_esp, SEL_UDS | 3), NP, F0, "iret-cs-not-present");
    check_fault(iret_to(end, SEL_UCS | 3, 2, user_esp, 3), GP, 0, "iret-null-ss");
    check_fault(iret_to(end, SEL_UCS | 3, 2, user_esp, SEL_UDS), GP, SEL_UDS, "iret-ss-rpl");
    check_fault(iret_to(end, SEL_UCS | 3, 2, user_esp, SEL_KDS | 3), GP, SEL_KDS, "iret-ss-dpl");
    set(F0, FLAT32(0x72));
    check_fault(iret_to(end, SEL_UCS | 3, 2, user_esp, F0 | 3), SS, F0, "iret-ss-not-present");
    set(F0, descriptor(0, 0xfff, 0xfa, 4));
    check_fault(iret_to(0x1000, F0 | 3, 2, user_esp, SEL_UDS | 3), GP, 0, "iret-eip-limit");
    check_eq(fault.cs, SEL_KCS, "iret-eip-limit-cs");
    /* a 16-bit stack takes SP only */
    set(F0, descriptor(0, 0xffff, 0xf2, 0));
    check_fault(iret_to(end, SEL_UCS | 3, 2, 0x12345678, F0 | 3), VEC_NONE, 0, "iret-16-bit-stack");
    check_eq(fault.esp & 0xffff, 0x5678, "iret-16-bit-stack-sp");
    check(fault.esp >> 16 != 0x1234, "iret-16-bit-stack-keeps-upper-half");
    check_eq(run_user(user_iret, 0x200 | FL_IOPL | FL_VM | FL_VIF | FL_AC | 2), VEC_NONE, "iret-ring3");
    check_eq(fault.ecx, FL_AC | 2, "iret-ring3-keeps-if-iopl-vm-vif");
    user_eflags = 2 | FL_IOPL;
    check_eq(run_user(user_iret, FL_IF | 2), VEC_NONE, "iret-ring3-iopl3");
    check_eq(fault.ecx, FL_IF | FL_IOPL | 2, "iret-ring3-iopl3-sets-if");
    user_eflags = 2;
}

/* ---- protected-mode virtual interrupts, SYSENTER, SYSCALL ---- */

CODE32(user_cli, "cli; pushf; pop %ecx; hlt");
CODE32(user_sti, "sti; pushf; pop %ecx; hlt");
static void pvi(void)
{
    check_fault(run_user(user_cli, 0), GP, 0, "cli-iopl0");
    check_fault(run_user(user_sti, 0), GP, 0, "sti-iopl0");
    write_cr4(read_cr4() | CR4_PVI);
    if (!(read_cr4() & CR4_PVI)) {
        skip("pvi", "no CR4.PVI");
        return;
    }
    user_eflags = 2 | FL_VIF;
    check_fault(run_user(user_cli, 0), VEC_NONE, 0, "pvi-cli");
    check_eq(fault.eflags & (FL_VIF | FL_IF), 0, "pvi-cli-clears-vif");
    user_eflags = 2;
    check_fault(run_user(user_sti, 0), VEC_NONE, 0, "pvi-sti");
    check_eq(fault.eflags & (FL_VIF | FL_IF), FL_VIF, "pvi-sti-sets-vif");
    user_eflags = 2 | FL_VIP;
    check_fault(run_user(user_sti, 0), GP, 0, "pvi-sti-vip");
    user_eflags = 2 | FL_IOPL;
    check_fault(run_user(user_sti, 0), VEC_NONE, 0, "pvi-sti-iopl3");
    check_eq(fault.eflags & (FL_VIF | FL_IF), FL_IF, "pvi-sti-iopl3-sets-if");
    user_eflags = 2;
    write_cr4(read_cr4() & ~CR4_PVI);
}

CODE32(user_sysenter, "mov %esp, %ecx; mov $1f, %edx; sysenter; 1: mov $0x77, %eax; hlt");
CODE32(sysenter_entry, "mov %esp, seen; mov %cs, seen+4; mov %ss, seen+8; pushf; pop seen+12; sysexit");
CODE32(user_syscall, "syscall; user_syscall_back: mov $0x88, %eax; pushf; pop %edx; hlt");
CODE32(syscall_entry, "mov %ecx, %ss:seen; mov %cs, %ss:seen+4; mov %ss, %ss:seen+8; pushf; pop %ss:seen+12; sysret");
extern const uint8_t user_syscall_back[];
static uint8_t sysenter_stack[256];

static void fast_calls(void)
{
    set(F0, FLAT32(0x9b));
    set(F1, FLAT32(0x93));
    set(F2, FLAT32(0xfb));
    set(F3, FLAT32(0xf3));
    wrmsr(MSR_SYSENTER_CS, 0);
    check_fault(run_user(user_sysenter, 0), GP, 0, "sysenter-no-cs");
    wrmsr(MSR_SYSENTER_CS, F0);
    wrmsr(MSR_SYSENTER_ESP, (uint32_t)(sysenter_stack + sizeof sysenter_stack));
    wrmsr(MSR_SYSENTER_EIP, (uint32_t)sysenter_entry);
    user_eflags = 2 | FL_IF;
    check_fault(run_user(user_sysenter, 0), VEC_NONE, 0, "sysenter");
    user_eflags = 2;
    check_eq(seen[0], (uint32_t)(sysenter_stack + sizeof sysenter_stack), "sysenter-esp");
    check_eq(seen[1] & 0xffff, F0, "sysenter-cs");
    check_eq(seen[2] & 0xffff, F1, "sysenter-ss");
    check_eq(seen[3] & FL_IF, 0, "sysenter-if");
    check_eq(fault.eax, 0x77, "sysexit-eip");
    check_eq(fault.cs, F2 | 3, "sysexit-cs");
    check_eq(fault.ss, F3 | 3, "sysexit-ss");
    check_eq(fault.esp, user_esp, "sysexit-esp");
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | 1);
    wrmsr(MSR_STAR, (uint64_t)(F2 | 3) << 48 | (uint64_t)F0 << 32 | (uint32_t)syscall_entry);
    if (!is_amd()) {
        check_fault(run_user(user_syscall, 0), UD, 0, "syscall-intel-legacy");
        return;
    }
    user_eflags = 2 | FL_IF;
    check_fault(run_user(user_syscall, 0), VEC_NONE, 0, "syscall-amd-legacy");
    user_eflags = 2;
    check_eq(seen[0], (uint32_t)user_syscall_back, "syscall-ecx");
    check_eq(seen[1] & 0xffff, F0, "syscall-cs");
    check_eq(seen[2] & 0xffff, F1, "syscall-ss");
    check_eq(seen[3] & FL_IF, 0, "syscall-if");
    check_eq(fault.eax, 0x88, "sysret-eip");
    check_eq(fault.cs, F2 | 3, "sysret-cs");
    check_eq(fault.ss, F3 | 3, "sysret-ss");
    check(fault.edx & FL_IF, "sysret-sets-if");
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~1ull);
}

void test_main(void)
{
    static void (*const parts[])(void) = {loads, stack_segments, tables, far_transfers, interrupts, irets, pvi, fast_calls};
    for (unsigned i = 0; i < ARRAY_SIZE(parts); i++)
        if (guest_arg >> i & 1)
            parts[i]();
}
