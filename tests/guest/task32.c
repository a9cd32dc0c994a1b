/* SPDX-License-Identifier: MIT */
/*
 * Task switches (SDM 3A chapter 7): by JMP, CALL, IRET, interrupts and exceptions, with 32- and
 * 16-bit TSSs; busy bits and links; what the new task's TSS may get wrong (table 7-1).
 */
#include "guest32.h"

#define SEL_A SEL_FREE         /* the other task */
#define SEL_GATE (SEL_FREE + 8) /* a task gate to it */
#define SEL_16 (SEL_FREE + 16)
#define SEL_LDT (SEL_FREE + 24)
#define F0 (SEL_FREE + 32)
#define LOW_CODE 0x2000u

struct tss16 {
    uint16_t link, sp0, ss0, sp1, ss1, sp2, ss2, ip, flags, ax, cx, dx, bx, sp, bp, si, di, es, cs, ss, ds, ldt;
} __attribute__((packed));

static struct tss32 a __attribute__((aligned(16)));
static struct tss16 b;
static uint8_t a_stack[1024] __attribute__((aligned(16)));
static uint64_t ldt[4];
/* What the other task saw. */
struct seen {
    uint32_t ran, eax, ebx, ecx, edx, esi, edi, ebp, esp, eflags, tr, cr0, es, ds, fs, gs, ldtr, cr3, error, dr7;
};
extern volatile struct seen seen;
volatile struct seen seen;

static void set(unsigned selector, uint64_t d)
{
    gdt[selector / 8] = d;
}

static unsigned type_of(unsigned selector)
{
    return gdt[selector / 8] >> 40 & 0x1f;
}

/* The body of the other task: notes everything, then goes back as the label says. */
#define NOTE                                                                                                           \
    "mov %eax, %ss:seen+4; mov %ebx, %ss:seen+8; mov %ecx, %ss:seen+12; mov %edx, %ss:seen+16; mov %esi, %ss:seen+20\n" \
    "mov %edi, %ss:seen+24; mov %ebp, %ss:seen+28; mov %esp, %ss:seen+32; pushf; pop %ss:seen+36; str %eax; mov %eax, %ss:seen+40\n" \
    "mov %cr0, %eax; mov %eax, %ss:seen+44; mov %es, %eax; mov %eax, %ss:seen+48; mov %ds, %eax; mov %eax, %ss:seen+52\n" \
    "mov %fs, %eax; mov %eax, %ss:seen+56; mov %gs, %eax; mov %eax, %ss:seen+60; sldt %eax; mov %eax, %ss:seen+64\n"  \
    "mov %cr3, %eax; mov %eax, %ss:seen+68; mov %dr7, %eax; mov %eax, %ss:seen+76; clts; incl %ss:seen\n"
CODE32(task_jmp_back, "1: " NOTE "ljmp $0x38, $0; jmp 1b");
CODE32(task_iret, "1: " NOTE "iret; jmp 1b");
CODE32(task_end, NOTE "jmp catch_longjmp"); /* the caller reloads TR */
CODE32(task_ring3, "mov %ss, %eax; hlt");
CODE32(jmp_a, "mov $0x1234, %esi; ljmp $0x50, $0xdead; mov %esi, %eax; ret");
CODE32(call_a, "lcall $0x50, $0xdead; ret");
CODE32(jmp_gate, "ljmp $0x58, $0; ret");
CODE32(call_gate, "lcall $0x58, $0; ret");
CODE32(call_16, "lcall $0x60, $0; ret");
CODE32(jmp_16, "ljmp $0x60, $0; ret");
CODE32(int_40, "mov %eax, %eax; int $0x40; int_40_back: ret");
CODE32(fault_gp, "mov $0x400, %eax; fault_gp_at: mov %eax, %fs; ret");
CODE32(user_jmp_a, "ljmp $0x50+3, $0");
CODE32(user_call_gate, "lcall $0x58+3, $0; hlt");
CODE32(set_nt_iret, "pushf; orl $0x4000, (%esp); popf; iret");
extern const uint8_t int_40_back[], fault_gp_at[];

static void fresh(const uint8_t *body)
{
    a = (struct tss32){.eip = (uint32_t)body, .eflags = 2, .esp = (uint32_t)(a_stack + sizeof a_stack), .cs = SEL_KCS,
                       .ss = SEL_KDS, .ds = SEL_KDS, .es = SEL_KDS, .eax = 0xa0, .ecx = 0xa1, .edx = 0xa2, .ebx = 0xa3,
                       .ebp = 0xa5, .esi = 0xa6, .edi = 0xa7, .iomap = 104};
    set(SEL_A, descriptor((uint32_t)&a, 103, 0x89, 0));
    set(SEL_GATE, gate(0, SEL_A, 0x85, 0));
    memset((void *)&seen, 0, sizeof seen);
    load_main_tss();
    asm volatile("clts");
}

static void switches(void)
{
    fresh(task_jmp_back);
    a.fs = SEL_UDS;
    a.eflags = 2 | FL_CF;
    write_dr7(0x400 | 0x155); /* L0 to L3 and LE, no condition that is met */
    check_eq(run_catch(jmp_a, 0), VEC_NONE, "jmp-tss");
    check_eq(seen.ran, 1, "jmp-ran");
    check_eq(seen.eax, 0xa0, "jmp-eax");
    check_eq(seen.ebx, 0xa3, "jmp-ebx");
    check_eq(seen.ecx, 0xa1, "jmp-ecx");
    check_eq(seen.edx, 0xa2, "jmp-edx");
    check_eq(seen.esi, 0xa6, "jmp-esi");
    check_eq(seen.edi, 0xa7, "jmp-edi");
    check_eq(seen.ebp, 0xa5, "jmp-ebp");
    check_eq(seen.esp, (uint32_t)(a_stack + sizeof a_stack), "jmp-esp");
    check_eq(seen.eflags, 2 | FL_CF, "jmp-eflags");
    check_eq(seen.tr, SEL_A, "jmp-tr");
    check(seen.cr0 & CR0_TS, "jmp-sets-ts");
    check_eq(seen.fs & 0xffff, SEL_UDS, "jmp-fs");
    check_eq(seen.dr7 & 0x3ff, 0, "jmp-clears-local-breakpoints");
    write_dr7(0x400);
    check_eq(a.link, 0, "jmp-no-link");
    check_eq(type_of(SEL_A), 9, "jmp-back-clears-busy");
    check_eq(type_of(SEL_TSS), 11, "jmp-back-sets-busy");
    check_eq(a.eflags & FL_NT, 0, "jmp-no-nt");
    check_eq(tss.esi, 0x1234, "jmp-saves-esi");
    check_eq(tss.cs, SEL_KCS, "jmp-saves-cs");
    check_eq(read_tr(), SEL_TSS, "jmp-back-tr");
    asm volatile("clts");
    /* the second time it goes on where it left */
    check_eq(run_catch(jmp_gate, 0), VEC_NONE, "jmp-task-gate");
    check_eq(seen.ran, 2, "jmp-task-gate-ran");
    fresh(task_iret);
    check_eq(run_catch(call_a, 0), VEC_NONE, "call-tss");
    check_eq(seen.ran, 1, "call-ran");
    check(seen.eflags & FL_NT, "call-sets-nt");
    check_eq(a.link, SEL_TSS, "call-link");
    check_eq(type_of(SEL_A), 9, "iret-clears-busy");
    check_eq(type_of(SEL_TSS), 11, "call-keeps-busy");
    check_eq(a.eflags & FL_NT, 0, "iret-saves-nt-clear");
    check_eq(read_eflags() & FL_NT, 0, "iret-nt-of-caller");
    check_eq(run_catch(call_gate, 0), VEC_NONE, "call-task-gate");
    check_eq(seen.ran, 2, "call-task-gate-ran");
    /* interrupts */
    idt[0x40] = gate(0, SEL_A, 0x85, 0);
    fresh(task_iret);
    check_eq(run_catch(int_40, 0), VEC_NONE, "int-task-gate");
    check_eq(seen.ran, 1, "int-ran");
    check_eq(seen.esp, (uint32_t)(a_stack + sizeof a_stack), "int-no-error-code");
    check_eq(tss.eip, (uint32_t)int_40_back, "int-saves-next-eip");
    check_eq(run_catch(int_40, 0), VEC_NONE, "int-task-gate-again");
    check_eq(seen.ran, 2, "int-again-ran");
    idt[GP] = gate(0, SEL_A, 0x85, 0);
    fresh(task_end);
    run_catch(fault_gp, 0);
    idt_reset();
    check_eq(seen.ran, 1, "exception-task-gate");
    check_eq(*(uint32_t *)(a_stack + sizeof a_stack - 4), 0x400, "exception-error-code");
    check_eq(seen.esp, (uint32_t)(a_stack + sizeof a_stack - 4), "exception-esp");
    check_eq(tss.eip, (uint32_t)fault_gp_at, "exception-eip");
    check(tss.eflags & FL_RF, "exception-saves-rf");
    load_main_tss();
    /* rings */
    fresh(task_ring3);
    a.cs = SEL_UCS | 3;
    a.ss = a.ds = a.es = SEL_UDS | 3;
    a.esp0 = (uint32_t)(ring0_stack + sizeof ring0_stack);
    a.ss0 = SEL_KDS;
    a.esp = user_esp;
    check_eq(run_catch(jmp_a, 0), VEC_NONE, "jmp-to-ring3");
    check_eq(fault.cs, SEL_UCS | 3, "jmp-to-ring3-cs");
    check_eq(fault.tr, SEL_A, "jmp-to-ring3-tr");
    load_main_tss();
    fresh(task_end);
    check_eq(run_user(user_jmp_a, 0), GP, "jmp-tss-dpl0-from-ring3");
    check_eq(fault.error, SEL_A, "jmp-tss-dpl0-from-ring3-error");
    set(SEL_GATE, gate(0, SEL_A, 0xe5, 0));
    a.eip = (uint32_t)task_iret;
    check_eq(run_user(user_call_gate, 0), VEC_NONE, "task-gate-dpl3-from-ring3");
    check_eq(seen.ran, 1, "task-gate-dpl3-ran");
}

/* ---- 16-bit ---- */

CODE16(task16, "1: mov %ax, %ss:0x3000; mov %sp, %ss:0x3002; mov %fs, %ss:0x3004; clts; iret; jmp 1b");
CODE16(task16_jmp, "1: mov %ax, %ss:0x3000; clts; ljmp $0x38, $0; jmp 1b");

CODE16(task16_fault, "mov %sp, %ss:0x3000; mov %sp, %bx; mov %ss:(%bx), %ax; mov %ax, %ss:0x3002; clts\n"
                     "data32 ljmp $0x08, $catch_longjmp");
static void sixteen(void)
{
    uint16_t *const low = (uint16_t *)0x3000;
    for (unsigned jmp = 0; jmp < 2; jmp++) {
        const uint8_t *code = jmp ? task16_jmp : task16;
        memcpy((void *)LOW_CODE, code, (size_t)((jmp ? task16_jmp_end : task16_end) - code));
        fresh(task_end);
        b = (struct tss16){.ip = LOW_CODE, .flags = 2, .ax = 0x1616, .sp = 0x3ff0, .cs = SEL_CS16, .ss = SEL_DS16,
                           .ds = SEL_DS16, .es = SEL_DS16};
        set(SEL_16, descriptor((uint32_t)&b, 43, 0x81, 0));
        memset(low, 0xee, 16);
        asm volatile("mov %w0, %%fs" ::"r"(SEL_KDS));
        check_eq(run_catch(jmp ? jmp_16 : call_16, 0), VEC_NONE, jmp ? "jmp-tss-16" : "call-tss-16");
        check_eq(low[0], 0x1616, "tss-16-ax");
        if (!jmp) {
            check_eq(low[1], 0x3ff0, "tss-16-sp");
            check_eq(low[2], 0, "tss-16-fs-null");
            check_eq(b.link, SEL_TSS, "tss-16-link");
            check_eq(b.ip, LOW_CODE + (uint32_t)(task16_end - task16) - 2, "tss-16-saves-ip");
        }
        check_eq(type_of(SEL_16), 1, "tss-16-not-busy");
        check_eq(b.cs, SEL_CS16, "tss-16-saves-cs");
        asm volatile("mov %w0, %%fs" ::"r"(0));
    }
    /* from a 16-bit task to a 32-bit one, and an error code of 2 bytes into a 16-bit task */
    b = (struct tss16){.ip = (uint16_t)0x2100, .flags = 2, .sp = 0x3ff0, .cs = SEL_CS16, .ss = SEL_DS16, .ds = SEL_DS16,
                       .es = SEL_DS16};
    memcpy((void *)0x2100, task16_fault, (size_t)(task16_fault_end - task16_fault));
    fresh(task_end);
    set(SEL_16, descriptor((uint32_t)&b, 43, 0x81, 0));
    idt[GP] = gate(0, SEL_16, 0x85, 0);
    run_catch(fault_gp, 0);
    idt_reset();
    load_main_tss();
    check_eq(low[0], 0x3fee, "tss-16-error-code-bytes");
    check_eq(low[1], 0x400, "tss-16-error-code");
}

/* ---- refusals ---- */

enum { OLD, NEW };
static void expect(unsigned v, unsigned vector, unsigned error, unsigned where, const char *name)
{
    check_eq(v << 16 | (fault.error & 0xffff), vector << 16 | error, name);
    check_eq(fault.tr, where == NEW ? SEL_A : SEL_TSS, "fault-in-task");
}

static void refusals(void)
{
    static const struct {
        uint8_t offset; /* of the field in the TSS */
        uint16_t value, vector, error;
        const char *name;
    } fields[] = {
        {offsetof(struct tss32, ldt), 0x400, TS, 0x400, "ldt-beyond"},
        {offsetof(struct tss32, ldt), SEL_KDS, TS, SEL_KDS, "ldt-data"},
        {offsetof(struct tss32, ldt), SEL_LDT | 4, TS, SEL_LDT | 4, "ldt-local"},
        {offsetof(struct tss32, ldt), SEL_LDT, TS, SEL_LDT, "ldt-not-present"},
        {offsetof(struct tss32, cs), 0, TS, 0, "cs-null"},
        {offsetof(struct tss32, cs), 0x400, TS, 0x400, "cs-beyond"},
        {offsetof(struct tss32, cs), SEL_KDS, TS, SEL_KDS, "cs-data"},
        {offsetof(struct tss32, cs), SEL_KCS | 3, TS, SEL_KCS, "cs-dpl"},
        {offsetof(struct tss32, cs), F0, NP, F0, "cs-not-present"},
        {offsetof(struct tss32, ss), 0, TS, 0, "ss-null"},
        {offsetof(struct tss32, ss), 0x400, TS, 0x400, "ss-beyond"},
        {offsetof(struct tss32, ss), SEL_KCS, TS, SEL_KCS, "ss-code"},
        {offsetof(struct tss32, ss), SEL_UDS, TS, SEL_UDS, "ss-dpl"},
        {offsetof(struct tss32, ss), SEL_KDS | 3, TS, SEL_KDS, "ss-rpl"},
        {offsetof(struct tss32, ss), F0 + 8, SS, F0 + 8, "ss-not-present"},
        {offsetof(struct tss32, ds), 0x400, TS, 0x400, "ds-beyond"},
        {offsetof(struct tss32, es), F0 + 16, TS, F0 + 16, "es-execute-only"},
        {offsetof(struct tss32, fs), F0 + 8, NP, F0 + 8, "fs-not-present"},
        {offsetof(struct tss32, gs), SEL_KDS | 3, TS, SEL_KDS, "gs-rpl"},
    };
    set(SEL_LDT, descriptor((uint32_t)ldt, 31, 0x02, 0));
    set(F0, FLAT32(0x1a));
    set(F0 + 8, FLAT32(0x12));
    set(F0 + 16, FLAT32(0x98));
    static struct tss32 h;
    static uint8_t h_stack[1024];
    for (unsigned i = 0; i < ARRAY_SIZE(fields); i++) {
        /* #TS, #NP and #SS have a task of their own: the new task may have no usable stack */
        fresh(task_end);
        *(uint16_t *)((uint8_t *)&a + fields[i].offset) = fields[i].value;
        h = (struct tss32){.eip = (uint32_t)task_end, .eflags = 2, .esp = (uint32_t)(h_stack + sizeof h_stack),
                           .cs = SEL_KCS, .ss = SEL_KDS, .ds = SEL_KDS, .es = SEL_KDS};
        set(SEL_16, descriptor((uint32_t)&h, 103, 0x89, 0));
        idt[TS] = idt[NP] = idt[SS] = gate(0, SEL_16, 0x85, 0);
        idt[fields[i].vector] = gate(0, SEL_16, 0x85, 0);
        run_catch(jmp_a, 0);
        idt_reset();
        check_eq(seen.ran, 1, fields[i].name);
        check_eq(h.link, SEL_A, "fault-in-the-new-task");
        check_eq(*(uint32_t *)(h_stack + sizeof h_stack - 4), fields[i].error, "fault-error");
        check_eq(type_of(SEL_TSS), 9, "fault-behind-the-switch");
        check_eq(a.eip, (uint32_t)task_end, "fault-eip");
        load_main_tss();
    }
    /* before the switch: in the old task */
    fresh(task_end);
    set(SEL_A, descriptor((uint32_t)&a, 103, 0x8b, 0));
    expect(run_catch(jmp_a, 0), GP, SEL_A, OLD, "tss-busy");
    check_eq(fault.eip, (uint32_t)jmp_a + 5, "tss-busy-eip");
    set(SEL_A, descriptor((uint32_t)&a, 103, 0x09, 0));
    expect(run_catch(jmp_a, 0), NP, SEL_A, OLD, "tss-not-present");
    set(SEL_A, descriptor((uint32_t)&a, 102, 0x89, 0));
    expect(run_catch(jmp_a, 0), TS, SEL_A, OLD, "tss-limit");
    check_eq(type_of(SEL_A), 9, "tss-limit-not-busy");
    fresh(task_end);
    set(SEL_GATE, gate(0, SEL_A, 0x05, 0));
    expect(run_catch(call_gate, 0), NP, SEL_GATE, OLD, "task-gate-not-present");
    set(SEL_GATE, gate(0, SEL_A | 4, 0x85, 0));
    expect(run_catch(call_gate, 0), GP, SEL_A | 4, OLD, "task-gate-local");
    set(SEL_GATE, gate(0, SEL_KDS, 0x85, 0));
    expect(run_catch(call_gate, 0), GP, SEL_KDS, OLD, "task-gate-data");
    idt[0x40] = gate(0, 0x400, 0x85, 0);
    expect(run_catch(int_40, 0), GP, 0x400, OLD, "int-task-gate-beyond");
    idt_reset();
    tss.link = 0x400;
    expect(run_catch(set_nt_iret, 0), TS, 0x400, OLD, "iret-link-beyond");
    tss.link = SEL_A;
    expect(run_catch(set_nt_iret, 0), TS, SEL_A, OLD, "iret-link-not-busy");
    tss.link = 0;
    /* EIP and the T bit: the new task has all else */
    fresh(task_end);
    set(F0, descriptor(0, 0xfff, 0x9a, 4));
    a.cs = F0;
    a.eip = 0x1000;
    expect(run_catch(jmp_a, 0), GP, 0, NEW, "eip-limit");
    check_eq(fault.eip, 0x1000, "eip-limit-eip");
    check_eq(fault.cs, F0, "eip-limit-cs");
    load_main_tss();
    fresh(task_end);
    a.trap = 1;
    expect(run_catch(jmp_a, 0), DB, 0, NEW, "t-bit");
    check_eq(fault.dr6 & 0xe00f, 0x8000, "t-bit-dr6-bt");
    check_eq(fault.eip, (uint32_t)task_end, "t-bit-eip");
    check_eq(seen.ran, 0, "t-bit-before-first-instruction");
    load_main_tss();
}

/* ---- LDT, CR3, virtual-8086 mode, double fault ---- */

static uint32_t tables[3][1024] __attribute__((aligned(4096)));
CODE16(task_v86, "mov %cs, %ax; mov %ds, %bx; mov %ss, %cx; hlt");
CODE32(bad_stack, "mov $0x50, %eax; mov %eax, %ss; push %eax");

CODE32(task_cr3, "mov 0x1c00000, %eax; mov %cr3, %ebx; mov %eax, seen+4; mov %ebx, seen+8; clts; ljmp $0x38, $0");
static void contexts(void)
{
    fresh(task_jmp_back);
    set(SEL_LDT, descriptor((uint32_t)ldt, 31, 0x82, 0));
    ldt[1] = FLAT32(0x92);
    a.ldt = SEL_LDT;
    a.gs = 8 | 4;
    check_eq(run_catch(jmp_a, 0), VEC_NONE, "ldt");
    check_eq(seen.ldtr & 0xffff, SEL_LDT, "ldt-loaded");
    check_eq(seen.gs & 0xffff, 8 | 4, "gs-from-ldt");
    check_eq(ldt[1] >> 40 & 1, 1, "gs-from-ldt-accessed");
    uint32_t ldtr;
    asm volatile("sldt %0" : "=r"(ldtr));
    check_eq(ldtr, 0, "ldt-of-old-task-back");
    asm volatile("clts");
    /* CR3: two address spaces with 4 MiB pages; page 7 of the second is another frame */
    for (unsigned i = 0; i < 8; i++)
        tables[0][i] = tables[1][i] = i << 22 | 0x83;
    tables[1][7] = 6u << 22 | 0x83;
    tss.cr3 = (uint32_t)tables[0];
    write_cr4(read_cr4() | 0x10);
    write_cr3((uint32_t)tables[0]);
    write_cr0(read_cr0() | CR0_PG);
    fresh(task_jmp_back);
    tss.cr3 = (uint32_t)tables[0];
    a.cr3 = (uint32_t)tables[1];
    *(volatile uint32_t *)0x1800000 = 0x66666666;
    *(volatile uint32_t *)0x1c00000 = 0x77777777;
    a.eip = (uint32_t)task_cr3;
    check_eq(run_catch(jmp_a, 0), VEC_NONE, "cr3");
    check_eq(seen.ebx, (uint32_t)tables[1], "cr3-loaded");
    check_eq(seen.eax, 0x66666666, "cr3-new-address-space");
    check_eq(read_cr3(), (uint32_t)tables[0], "cr3-back");
    check_eq(*(volatile uint32_t *)0x1c00000, 0x77777777, "cr3-old-address-space");
    asm volatile("clts");
    /* a TSS that is not mapped: #PF in the old task, and nothing has happened */
    fresh(task_end);
    set(SEL_A, descriptor(0x2000000, 103, 0x89, 0));
    check_eq(run_catch(jmp_a, 0), PF, "new-tss-not-mapped");
    check_eq(fault.cr2, 0x2000000, "new-tss-not-mapped-cr2");
    check_eq(fault.tr, SEL_TSS, "new-tss-not-mapped-old-task");
    check_eq(type_of(SEL_A), 9, "new-tss-not-mapped-not-busy");
    write_cr0(read_cr0() & ~CR0_PG);
    /* virtual-8086 mode */
    fresh(task_end);
    memcpy(V86_MEM(V86_CS, 0), task_v86, (size_t)(task_v86_end - task_v86));
    a.eflags = 2 | FL_VM;
    a.cs = V86_CS;
    a.eip = 0;
    a.ss = V86_SS;
    a.esp = V86_SP;
    a.ds = 0x4321;
    a.es = 0x4322;
    a.fs = 0x4323;
    a.gs = 0x4324;
    a.esp0 = (uint32_t)(ring0_stack + sizeof ring0_stack);
    a.ss0 = SEL_KDS;
    check_eq(run_catch(jmp_a, 0), VEC_NONE, "v86-task");
    check(fault.eflags & FL_VM, "v86-task-vm");
    check_eq(fault.eax & 0xffff, V86_CS, "v86-task-cs");
    check_eq(fault.ebx & 0xffff, 0x4321, "v86-task-ds");
    check_eq(fault.gs, 0x4324, "v86-task-gs");
    check_eq(fault.ss, V86_SS, "v86-task-ss");
    load_main_tss();
    /* a double fault has a task, and a stack, of its own */
    struct tss32 kept = df_tss;
    df_tss.eip = (uint32_t)task_end;
    fresh(task_end);
    set(SEL_A, descriptor(0, 0, 0x92, 4)); /* one byte of stack */
    run_catch(bad_stack, 0);
    check_eq(seen.ran, 1, "double-fault-task");
    check_eq(seen.tr, SEL_DF_TSS, "double-fault-tr");
    check_eq(df_tss.link, SEL_TSS, "double-fault-link");
    check_eq(tss.eip, (uint32_t)bad_stack + 7, "double-fault-eip");
    check_eq(*(uint32_t *)(kept.esp - 4), 0, "double-fault-error-code");
    df_tss = kept;
    set(SEL_DF_TSS, descriptor((uint32_t)&df_tss, 103, 0x89, 0));
    load_main_tss();
}

void test_main(void)
{
    static void (*const parts[])(void) = {switches, sixteen, refusals, contexts};
    for (unsigned i = 0; i < ARRAY_SIZE(parts); i++)
        if (guest_arg >> i & 1)
            parts[i]();
}
