/* SPDX-License-Identifier: MIT */
/*
 * Compatibility mode: ways in and out (far transfers, call gates, IRET, interrupts, SYSCALL, SYSENTER
 * and their returns), segmentation as it is there, and what IA-32e mode takes away.
 */
#include "guest.h"

#define SEL_KCS32 SEL_FREE
#define F1 (SEL_FREE + 8)  /* 16 bytes */
#define F4 (SEL_FREE + 32)
#define END3 0x80 /* INT n that ends ring 3's code, and ring 0's */
#define END0 0x82
#define MSR_STAR 0xc0000081u
#define MSR_LSTAR 0xc0000082u
#define MSR_CSTAR 0xc0000083u
#define MSR_FMASK 0xc0000084u

extern volatile uint64_t seen[16];
volatile uint64_t seen[16];
static uint8_t data[64] __attribute__((aligned(16)));
USER_DATA uint32_t user_data[16];
uint64_t compat_entry, compat_cs, compat_ss, compat_rsp, compat_flags = 2;

/* 32-bit code, in ring 3's pages or in the kernel's. */
#define CODE32(section, name, text)                                                                \
    extern const uint8_t name[], name##_end[];                                                 \
    asm(".pushsection " section "\n.code32\n" #name ":\n" text "\n" #name "_end:\n.code64\n.popsection")
#define USER32(name, text) CODE32(".user.text", name, text)
#define KERNEL32(name, text) CODE32(".text", name, text)

void go_compat(void);
asm("go_compat: pushq compat_ss; pushq compat_rsp; pushq compat_flags; pushq compat_cs; pushq compat_entry\n"
    "mov $0x1111111122222222, %rbx; mov $0x8888888888888888, %r8; mov $0xfffffffffffffff0, %r15; mov %rdi, %rax\n"
    "mov compat_ss, %ecx; mov %ecx, %ds; mov %ecx, %es; xor %ecx, %ecx; iretq");

static unsigned run3(const uint8_t *entry, uint64_t arg)
{
    compat_entry = (uint64_t)entry;
    compat_cs = SEL_UCS32 | 3;
    compat_ss = SEL_UDS | 3;
    compat_rsp = (uint64_t)(user_stack + sizeof user_stack - 64);
    return run_asm(go_compat, arg);
}

static unsigned run0(const uint8_t *entry, uint64_t arg)
{
    static uint8_t stack[4096] __attribute__((aligned(16)));
    gdt[SEL_KCS32 / 8] = 0x00cf9b000000ffff;
    compat_entry = (uint64_t)entry;
    compat_cs = SEL_KCS32;
    compat_ss = SEL_KDS;
    compat_rsp = (uint64_t)(stack + sizeof stack);
    return run_asm(go_compat, arg);
}

static void check_fault(unsigned v, unsigned vector, unsigned error, const char *name)
{
    check_eq(v << 16 | (fault.error & 0xffff), vector << 16 | error, name);
}

/* ---- entering, interrupts, far transfers ---- */

USER32(u_end, "mov %esp, %ecx; mov %cs, %esi; int $0x80");
USER32(u_incs, "inc %eax; mov $-1, %ebx; inc %ebx; lea (%ebx), %edi; int $0x80"); /* 40+r are INC here */
USER32(u_ud, "mov $5, %ecx; ud2");
USER32(u_into, "mov $0x7f, %al; inc %al; into; int $0x80");
USER32(u_to_64, "mov %esp, %esi; ljmp $0x2b, $1f; .code64; 1: mov %rsp, %rcx; mov %r8, %rdi; mov %rbx, %rax; lea 2f(%rip), %rdx\n"
                "push $0x1b; push %rdx; lretq; .code32; 2: int $0x80");
USER32(u_call_64, "mov %esp, %ecx; lcall $0x2b, $1f; mov %esp, %esi; int $0x80; .code64\n1: mov 4(%rsp), %edi; .byte 0xcb; .code32");
USER32(u_ljmp, "push %eax; push $1f; ljmp *(%esp); 1: int $0x80");
USER32(u_ret_imm, "mov %esp, %ecx; push %eax; push %cs; push $1f; lret $4; 1: mov %esp, %esi; int $0x80");
USER32(u_iret, "pushl $0x40ed7 - 0x200; push %cs; push $1f; iret; 1: pushf; pop %ecx; pushl $2; popf; int $0x80");
KERNEL32(k_end, "mov %esp, %ecx; mov %cs, %esi; int $0x82");
KERNEL32(k_iret_same, "mov %esp, %ecx; pushf; push %cs; push $1f; iret; 1: mov %esp, %esi; int $0x82");
KERNEL32(k_iret_nt, "pushf; orl $0x4000, (%esp); popf; pushf; push %cs; push $1f; iret; 1: int $0x82");
KERNEL32(k_iret_user, "pushl $0x23; pushl $0x654321; pushl $2; pushl $0x1b; pushl $u_end; iret");
KERNEL32(k_iret_vm, "pushl $0x20002; push %cs; push $1f; iret; 1: pushf; pop %ecx; int $0x82");
KERNEL32(k_lret_64, "mov %esp, %ecx; push $8; push $1f; lret; .code64; 1: mov %rsp, %rsi; int $0x82; .code32");

static void transfers(void)
{
    check_eq(run3(u_end, 0), END3, "iretq-to-compat");
    check_eq(fault.cs, SEL_UCS32 | 3, "frame-cs");
    check_eq(fault.ss, SEL_UDS | 3, "frame-ss");
    check_eq(fault.rsp, compat_rsp, "frame-rsp");
    check_eq(fault.rip, (uint64_t)u_end_end, "frame-rip-behind-int");
    check_eq(fault.rcx, compat_rsp, "esp");
    check_eq(fault.handler_rsp, (uint64_t)(rsp0_stack + sizeof rsp0_stack) - sizeof(struct frame), "frame-of-8-byte-words");
    check_eq(run3(u_incs, 0xffffffff12345678), END3, "inc-dec");
    check_eq(fault.rax, 0x12345679, "inc-eax");
    check_eq(fault.rdi, 0, "lea-32");
    check_eq(run3(u_ud, 0), UD, "ud2");
    check_eq(fault.rip, (uint64_t)u_ud + 5, "ud2-rip");
    check(fault.rflags & FL_RF, "ud2-rf");
    idt_set_dpl(OF, 3);
    check_eq(run3(u_into, 0), OF, "into");
    idt_set_dpl(OF, 0);
    check_eq(run3(u_into, 0), GP, "into-dpl0");
    check_eq(fault.error, OF * 8 + 2, "into-dpl0-error");
    check_eq(run3(u_to_64, 0), END3, "compat-64-compat");
    check_eq(fault.rcx, fault.rsi, "rsp-in-64");
    check_eq(fault.rdi, 0x8888888888888888, "r8-survives");
    check_eq(run3(u_call_64, 0), END3, "far-call-64");
    check_eq(fault.rdi, SEL_UCS32 | 3, "far-call-64-return-cs");
    check_eq(fault.rcx, fault.rsi, "far-ret-from-64-esp");
    check_eq(run3(u_ljmp, SEL_UCS32 | 3), END3, "far-jmp-memory");
    check_eq(run3(u_ret_imm, 0), END3, "far-ret-imm");
    check_eq(fault.rcx, fault.rsi, "far-ret-imm-esp");
    check_eq(run3(u_iret, 0), END3, "iretd-ring3");
    check_eq(fault.rcx, 0x40cd7, "iretd-ring3-flags");
    check_eq(run0(k_end, 0), END0, "compat-ring0");
    check_eq(fault.cs, SEL_KCS32, "compat-ring0-cs");
    check_eq(fault.rcx, compat_rsp, "compat-ring0-esp");
    check_eq(run0(k_iret_same, 0), END0, "iretd-same");
    check_eq(fault.rcx, fault.rsi, "iretd-same-pops-three");
    check_fault(run0(k_iret_nt, 0), GP, 0, "iretd-nt");
    check_eq(run0(k_iret_user, 0), END3, "iretd-outer");
    check_eq(fault.rsp, 0x654321, "iretd-outer-esp");
    check_eq(run0(k_iret_vm, 0), END0, "iretd-vm-ignored");
    check_eq(fault.rcx & (1u << 17), 0, "iretd-vm-ignored-flags");
    check_eq(run0(k_lret_64, 0), END0, "far-ret-to-64");
    check_eq(fault.rcx, fault.rsi, "far-ret-to-64-rsp");
}

/* ---- call gates, and what is gone ---- */

USER32(u_gate, "mov %esp, %ecx; lcall $0x48+3, $0; u_gate_back: mov %esp, %esi; int $0x80");
KERNEL32(k_gate, "mov %esp, %ecx; lcall $0x48, $0; mov %esp, %esi; int $0x82");
KERNEL32(k_limit, "ljmp $0x48, $0x1000");
KERNEL32(k_jmp_f1, "ljmp $0x48, $0");
void gate_target(void);
asm("gate_target: mov %rsp, seen; mov (%rsp), %rdx; mov %rdx, seen+8; mov 8(%rsp), %rdx; mov %rdx, seen+16; mov 16(%rsp), %rdx\n"
    "mov %rdx, seen+24; mov 24(%rsp), %rdx; mov %rdx, seen+32; mov %ss, seen+40; lretq");
extern const uint8_t u_gate_back[];

static void set_gate16(unsigned selector, uint64_t target, unsigned cs, unsigned access)
{
    gdt[selector / 8] = (target & 0xffff) | (uint64_t)cs << 16 | (uint64_t)access << 40 | (target >> 16 & 0xffff) << 48;
    gdt[selector / 8 + 1] = target >> 32;
}

static void gates(void)
{
    set_gate16(F1, (uint64_t)gate_target, SEL_KCS, 0xec);
    check_eq(run3(u_gate, 0), END3, "call-gate");
    check_eq(seen[0], (uint64_t)(rsp0_stack + sizeof rsp0_stack) - 32, "call-gate-rsp0");
    check_eq(seen[1], (uint64_t)u_gate_back, "call-gate-rip");
    check_eq(seen[2], SEL_UCS32 | 3, "call-gate-cs");
    check_eq(seen[3], fault.rcx, "call-gate-old-rsp");
    check_eq(seen[4], SEL_UDS | 3, "call-gate-old-ss");
    check_eq(seen[5] & 0xffff, 0, "call-gate-null-ss");
    check_eq(fault.rcx, fault.rsi, "call-gate-ret-esp");
    check_eq(run0(k_gate, 0), END0, "call-gate-same");
    check_eq(seen[0], fault.rcx - 16, "call-gate-same-pushes-16");
    set_gate16(F1, (uint64_t)gate_target, SEL_KCS32, 0xec);
    check_fault(run0(k_gate, 0), GP, SEL_KCS32, "call-gate-to-compat");
    set_gate16(F1, (uint64_t)gate_target, SEL_KCS, 0xe4);
    check_fault(run0(k_gate, 0), GP, F1, "call-gate-16-is-gone");
    set_gate16(F1, 0, SEL_TSS, 0xe5);
    check_fault(run0(k_jmp_f1, 0), GP, F1, "task-gate-is-gone");
    gdt[F1 / 8] = (uint64_t)data << 16 | 103 | 0x89ull << 40;
    gdt[F1 / 8 + 1] = 0;
    check_fault(run0(k_jmp_f1, 0), GP, F1, "tss-is-no-target");
    gdt[F1 / 8] = 0x00ef9b000000ffff;
    check_fault(run0(k_jmp_f1, 0), GP, F1, "code-l-and-d");
    gdt[F1 / 8] = 0x00409b0000000fff;
    check_fault(run0(k_limit, 0), GP, 0, "code-limit");
    check_eq(fault.cs, SEL_KCS32, "code-limit-cs");
}

/* ---- segmentation ---- */

USER32(u_based, "mov %eax, %ds; mov 4, %ecx; mov %ds:8, %esi; mov $0x23, %edx; mov %edx, %ds; int $0x80");
USER32(u_limit, "mov %eax, %es; mov %es:15, %cl; mov $1, %esi; mov %es:16, %cl; mov $2, %esi; int $0x80");
USER32(u_read_only, "mov %eax, %es; mov %es:0, %ecx; movl $0, %es:0; int $0x80");
USER32(u_null, "xor %eax, %eax; mov %eax, %es; mov %es:0, %ecx; int $0x80");
USER32(u_ss_null, "xor %eax, %eax; mov %eax, %ss; int $0x80");
USER32(u_push_ds, "mov %esp, %ecx; push %ds; pop %es; push %es; pop %eax; mov %esp, %esi; int $0x80");
USER32(u_les, "les (%eax), %ecx; mov %es, %esi; int $0x80");
USER32(u_ss16, "mov $0x5678, %ecx; mov %eax, %ss; mov $0x7777ff00, %esp; push %ecx; mov %esp, %ecx; int $0x80");
KERNEL32(k_ss_null, "xor %eax, %eax; mov %eax, %ss; int $0x82");
KERNEL32(k_tables, "sgdt (%eax); sidt 8(%eax); int $0x82");
KERNEL32(k_lldt, "lldt %ax; sldt %ecx; xor %eax, %eax; lldt %ax; int $0x82");
KERNEL32(k_lar, "lar %eax, %ecx; setz %dl; lsl %eax, %esi; int $0x82");
USER32(u_vif, "cli; int $0x80");

static uint32_t user_stack_word(unsigned below_top)
{
    return *(volatile uint32_t *)(user_stack + sizeof user_stack - below_top);
}

static void segmentation(void)
{
    gdt[F4 / 8] = (uint64_t)user_data << 16 | 0x0040f30000000000 | 15;
    user_data[1] = 0x12121212;
    user_data[2] = 0x34343434;
    check_eq(run3(u_based, F4 | 3), END3, "ds-base");
    check_eq(fault.rcx, 0x12121212, "ds-base-read");
    check_eq(fault.rsi, 0x34343434, "ds-base-read-2");
    check_fault(run3(u_limit, F4 | 3), GP, 0, "es-limit");
    check_eq(fault.rsi, 1, "es-limit-last-byte");
    gdt[F4 / 8] = (uint64_t)user_data << 16 | 0x0040f10000000000 | 15;
    check_fault(run3(u_read_only, F4 | 3), GP, 0, "es-read-only");
    check_fault(run3(u_null, 0), GP, 0, "es-null-use");
    check_fault(run3(u_ss_null, 0), GP, 0, "ss-null");
    check_fault(run0(k_ss_null, 0), GP, 0, "ss-null-ring0");
    check_eq(run3(u_push_ds, 0), END3, "push-ds-pop-es");
    check_eq(fault.rcx, fault.rsi, "push-pop-esp");
    check_eq((uint16_t)fault.rax, SEL_UDS | 3, "push-es");
    user_data[4] = 0x55667788;
    user_data[5] = SEL_UDS | 3;
    check_eq(run3(u_les, (uint64_t)&user_data[4]), END3, "les");
    check_eq(fault.rcx, 0x55667788, "les-offset");
    /* a stack segment of 16 bits: SP wraps, the rest of ESP stays; IRETQ to it takes SP only */
    const uint64_t base = ((uint64_t)user_stack + sizeof user_stack - 0xff00) & 0xffffff;
    gdt[F4 / 8] = base << 16 | 0x0000f3000000ffff; /* the user's stack ends at offset 0xff00 */
    check_eq(run3(u_ss16, F4 | 3), END3, "ss-16");
    check_eq(fault.rcx, 0x7777fefc, "ss-16-push");
    check_eq(user_stack_word(4), 0x5678, "ss-16-push-value");
    compat_entry = (uint64_t)u_end;
    compat_cs = SEL_UCS32 | 3;
    compat_ss = F4 | 3;
    compat_rsp = 0x76543210;
    check_eq(run_asm(go_compat, 0), END3, "iretq-16-bit-stack");
    check_eq(fault.rsp & 0xffff, 0x3210, "iretq-16-bit-stack-sp");
    check(fault.rsp >> 16 != 0x7654, "iretq-16-bit-stack-keeps-upper-part");
    memset(data, 0xee, 32);
    check_eq(run0(k_tables, (uint64_t)data), END0, "sgdt-sidt");
    check_eq(*(uint32_t *)(data + 2), (uint32_t)(uint64_t)gdt, "sgdt-base");
    check_eq(data[6], 0xee, "sgdt-6-bytes");
    check_eq(*(uint32_t *)(data + 10), (uint32_t)(uint64_t)idt, "sidt-base");
    check_eq(data[14], 0xee, "sidt-6-bytes");
    gdt[F1 / 8] = (uint64_t)data << 16 | 63 | 0x82ull << 40;
    gdt[F1 / 8 + 1] = 0;
    check_eq(run0(k_lldt, F1), END0, "lldt-16-byte-descriptor");
    check_eq(fault.rcx, F1, "sldt");
    gdt[F1 / 8 + 1] = 0x00000f0000000000;
    check_fault(run0(k_lldt, F1), GP, F1, "lldt-upper-half-type");
    gdt[F1 / 8 + 1] = 0;
    gdt[F1 / 8] = 0x0000810000000067;
    check_eq(run0(k_lar, F1), END0, "lar");
    check_fault(run3(u_vif, 0), GP, 0, "cli-ring3");
}

/* ---- SYSCALL, SYSENTER ---- */

USER32(u_syscall, "mov $7, %edx; syscall; u_syscall_back: mov %esp, %esi; int $0x80");
USER32(u_sysenter, "mov %esp, %ecx; mov $1f, %edx; sysenter; 1: mov %esp, %esi; int $0x80");
void cstar_target(void), sysret_to_compat(void), sysenter_target(void);
asm("cstar_target: mov %rcx, seen; mov %r11, seen+8; mov %cs, seen+16; mov %ss, seen+24; mov %rsp, seen+32;\n"
    "mov %r8, seen+40; sysretl\n"
    "sysret_to_compat: mov %rsp, saved_rsp; mov $user_stack + 8192 - 64, %esp; mov %edi, %ecx; mov $0x202, %r11d; cli; sysretl\n"
    "sysenter_target: mov %rsp, seen; mov %cs, seen+8; sysexitl\n");
asm(".pushsection .bss\nsaved_rsp: .skip 8\n.popsection");
extern const uint8_t u_syscall_back[];

static void fast_calls(void)
{
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
    wrmsr(MSR_STAR, (uint64_t)(SEL_UCS32 | 3) << 48 | (uint64_t)SEL_KCS << 32);
    wrmsr(MSR_CSTAR, (uint64_t)cstar_target);
    wrmsr(MSR_LSTAR, (uint64_t)finish);
    wrmsr(MSR_FMASK, FL_IF | FL_DF);
    if (is_amd()) {
        compat_flags = 2 | FL_CF;
        check_eq(run3(u_syscall, 0), END3, "syscall-compat");
        compat_flags = 2;
        check_eq(seen[0], (uint64_t)u_syscall_back, "syscall-rcx");
        check_eq(seen[1], 2 | FL_CF, "syscall-r11");
        check_eq(seen[2] & 0xffff, SEL_KCS, "syscall-cs");
        check_eq(seen[3] & 0xffff, SEL_KDS, "syscall-ss");
        check_eq(seen[4], compat_rsp, "syscall-rsp");
        check_eq(seen[5], 0x8888888888888888, "syscall-r8");
        check_eq(fault.cs, SEL_UCS32 | 3, "sysret-cs");
        check_eq(fault.ss, SEL_UDS | 3, "sysret-ss");
        check_eq(fault.rsi, compat_rsp, "sysret-esp");
    } else {
        check_eq(run3(u_syscall, 0), UD, "syscall-compat-intel");
    }
    compat_entry = 0;
    check_eq(run_asm(sysret_to_compat, (uint64_t)u_end), END3, "sysret-to-compat");
    check_eq(fault.rsi & 0xffff, SEL_UCS32 | 3, "sysret-to-compat-cs");
    check(fault.rflags & FL_IF, "sysret-to-compat-flags");
    static uint8_t stack[256];
    gdt[SEL_FREE / 8 + 4] = 0x00af9b000000ffff;
    gdt[SEL_FREE / 8 + 5] = 0x00cf93000000ffff;
    gdt[SEL_FREE / 8 + 6] = 0x00cffb000000ffff;
    gdt[SEL_FREE / 8 + 7] = 0x00cff3000000ffff;
    wrmsr(0x174, SEL_FREE + 32);
    wrmsr(0x175, (uint64_t)(stack + sizeof stack));
    wrmsr(0x176, (uint64_t)sysenter_target);
    if (is_amd()) {
        check_eq(run3(u_sysenter, 0), UD, "sysenter-compat-amd");
    } else {
        check_eq(run3(u_sysenter, 0), END3, "sysenter-compat");
        check_eq(seen[0], (uint64_t)(stack + sizeof stack), "sysenter-rsp");
        check_eq(seen[1] & 0xffff, SEL_FREE + 32, "sysenter-cs");
        check_eq(fault.cs, (SEL_FREE + 48) | 3, "sysexit-cs");
        check_eq(fault.rsi, compat_rsp, "sysexit-esp");
    }
}

void test_main(void)
{
    static void (*const parts[])(void) = {transfers, gates, segmentation, fast_calls};
    for (unsigned i = 0; i < ARRAY_SIZE(parts); i++)
        if (guest_arg >> i & 1)
            parts[i]();
}
