/* SPDX-License-Identifier: MIT */
/*
 * Every exception that software can cause, from ring 0 and ring 3: vector, error code, pushed RIP
 * and flags; IDT faults and their error codes; INT n and DPL; double faults and stack switching.
 */
#include "guest.h"

static uint8_t data[64] __attribute__((aligned(64)));
USER_DATA static uint8_t user_data[64] __attribute__((aligned(64)));
USER_DATA static uint32_t user_mxcsr = 0x1f80;

#define USER_INSN(name, insn) USER_TEXT static void name(uint64_t a) { asm volatile(insn ::"D"(a) : "rax", "rcx", "rdx", "memory"); }
USER_INSN(u_int3, "int3")
USER_INSN(u_int1, ".byte 0xf1")
USER_INSN(u_int20, "int $0x20")
USER_INSN(u_int21, "int $0x21")
USER_INSN(u_ud2, "ud2")
USER_INSN(u_hlt, "hlt")
USER_INSN(u_in, "inb $0x80, %%al")
USER_INSN(u_rdmsr, "xor %%ecx, %%ecx; rdmsr")
USER_INSN(u_cr0, "mov %%cr0, %%rax")
USER_INSN(u_lgdt, "lgdt (%0)")
USER_INSN(u_invlpg, "invlpg (%0)")
USER_INSN(u_clts, "clts")
USER_INSN(u_wbinvd, "wbinvd")
USER_INSN(u_dr7, "mov %%dr7, %%rax")
USER_INSN(u_ltr, "xor %%eax, %%eax; ltr %%ax")
USER_INSN(u_swapgs, "swapgs")
USER_INSN(u_sysret, "sysretq")
USER_INSN(u_div0, "xor %%edx, %%edx; mov $1, %%eax; xor %%ecx, %%ecx; div %%ecx")
USER_INSN(u_read, "mov (%0), %%rax")
USER_INSN(u_unaligned, "mov 1(%0), %%rax")
USER_INSN(u_aligned, "mov 8(%0), %%rax")
USER_INSN(u_byte, "mov 1(%0), %%al")

void push_bad(void), call_bad(void), jump_bad(void), ret_bad(void);
asm("push_bad: mov %rdi, %rsp; push %rax; ret\n"
    "call_bad: mov %rdi, %rsp; call 1f; 1: ret\n"
    "jump_bad: jmp *%rdi\n"
    "ret_bad: push %rdi; ret\n");

static void divide(void)
{
    uint32_t a = 1, d = 0;
    check_eq(TRY("divl %2", : "+a"(a), "+d"(d) : "r"(0) : "cc"), DE, "de-div-zero");
    a = 0, d = 5;
    check_eq(TRY("divl %2", : "+a"(a), "+d"(d) : "r"(2) : "cc"), DE, "de-div-overflow");
    a = 0x80000000u, d = 0xffffffffu;
    check_eq(TRY("idivl %2", : "+a"(a), "+d"(d) : "r"(-1) : "cc"), DE, "de-idiv-min");
    check_eq(a, 0x80000000u, "de-keeps-rax");
    uint64_t qa = 1, qd = 0;
    check_eq(TRY("divq %2", : "+a"(qa), "+d"(qd) : "r"(0ull) : "cc"), DE, "de-divq");
    check_eq(TRY("divb %b1", : "+a"(a) : "r"(0) : "cc"), DE, "de-divb");
    *(uint64_t *)data = 0;
    a = 1, d = 0;
    check_eq(TRY("divl (%2)", : "+a"(a), "+d"(d) : "r"(data) : "cc", "memory"), DE, "de-div-memory");
}

static void simple(void)
{
    check_eq(TRY("int3", ::), BP, "bp");
    asm volatile("lea 1f, %%rax; 1:" ::: "rax");
    check_eq(TRY("int3", ::), BP, "bp-again");
    check_eq(*(uint8_t *)(fault.rip - 1), 0xcc, "bp-rip-behind");
    check_eq(TRY(".byte 0xf1", ::), DB, "int1");
    check_eq(*(uint8_t *)(fault.rip - 1), 0xf1, "int1-rip-behind");
    check_eq(TRY("ud2", ::), UD, "ud2");
    check_eq(*(uint8_t *)fault.rip, 0x0f, "ud2-rip-at");
    check_eq(TRY(".byte 0x0f, 0xff, 0xc0", ::), UD, "ud0");
    check_eq(TRY(".byte 0x0f, 0xb9, 0xc0", ::), UD, "ud1");
    check_eq(TRY(".byte 0x06", ::), UD, "push-es-64");
    check_eq(TRY(".byte 0xce", ::), UD, "into-64");
    check_eq(TRY(".byte 0x27", ::), UD, "daa-64");
    check_eq(TRY(".byte 0x60", ::), UD, "pusha-64");
    check_eq(TRY(".byte 0x9a, 0, 0, 0, 0, 0, 0", ::), UD, "far-call-direct-64");
    check_eq(TRY(".byte 0xea, 0, 0, 0, 0, 0, 0", ::), UD, "far-jmp-direct-64");
    check_eq(TRY(".byte 0xf0, 0x90", ::), UD, "lock-nop");
    check_eq(TRY(".byte 0xf0, 0x01, 0xc0", ::), UD, "lock-add-register");
    check_eq(TRY(".byte 0xf0, 0x8b, 0x00", ::"a"(data)), UD, "lock-mov");
    check_eq(TRY(".byte 0x0f, 0x20, 0xc8", ::: "rax"), UD, "mov-cr1");
    check_eq(TRY(".byte 0x0f, 0x20, 0xe8", ::: "rax"), UD, "mov-cr5");
    check_eq(TRY(".byte 0x8e, 0xc8", ::"a"(0)), UD, "mov-to-cs");
    check_eq(TRY(".byte 0x0f, 0xc7, 0xc8", ::: "rax"), UD, "cmpxchg8b-register");
    check_eq(TRY(".byte 0x8d, 0xc0", ::), UD, "lea-register");
    check_eq(TRY(".byte 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x90", ::), GP,
             "gp-insn-too-long");
    check_eq(fault.error, 0, "gp-insn-too-long-error");
    check_eq(TRY(".byte 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x90", ::), VEC_NONE,
             "insn-15-bytes");
}

static void int_n(void)
{
    idt_set_dpl(0x21, 3);
    check_eq(TRY("int $0x20", ::), 0x20, "int-n-ring0");
    check_eq(*(uint8_t *)(fault.rip - 2), 0xcd, "int-n-rip-behind");
    check_eq(run_user(u_int21, 0), 0x21, "int-n-ring3-dpl3");
    check_eq(fault.cs, SEL_UCS | 3, "int-n-ring3-cs");
    check_eq(fault.ss, SEL_UDS | 3, "int-n-ring3-ss");
    check_eq(fault.handler_rsp, (uint64_t)(rsp0_stack + sizeof rsp0_stack) - sizeof(struct frame), "int-n-uses-rsp0");
    check_eq(run_user(u_int20, 0), GP, "int-n-ring3-dpl0");
    check_eq(fault.error, 0x20 * 8 + 2, "int-n-ring3-dpl0-error");
    check_eq(run_user(u_int3, 0), GP, "bp-ring3-dpl0");
    check_eq(fault.error, 3 * 8 + 2, "bp-ring3-dpl0-error");
    idt_set_dpl(BP, 3);
    check_eq(run_user(u_int3, 0), BP, "bp-ring3-dpl3");
    idt_set_present(0x20, false);
    check_eq(TRY("int $0x20", ::), NP, "idt-not-present");
    check_eq(fault.error, 0x20 * 8 + 2, "idt-not-present-error");
    idt_set_present(0x20, true);
    idt[0x20].type_attr = 0x85; /* task gate: none in 64-bit mode */
    check_eq(TRY("int $0x20", ::), GP, "idt-task-gate");
    check_eq(fault.error, 0x20 * 8 + 2, "idt-task-gate-error");
    idt[0x20].type_attr = 0x82;
    check_eq(TRY("int $0x20", ::), GP, "idt-ldt-type");
    idt_reset();
    idt[0x20].selector = 0;
    check_eq(TRY("int $0x20", ::), GP, "idt-null-cs");
    check_eq(fault.error, 0, "idt-null-cs-error");
    idt[0x20].selector = SEL_KDS;
    check_eq(TRY("int $0x20", ::), GP, "idt-data-cs");
    check_eq(fault.error, SEL_KDS, "idt-data-cs-error");
    idt[0x20].selector = 0x400;
    check_eq(TRY("int $0x20", ::), GP, "idt-cs-beyond-gdt");
    check_eq(fault.error, 0x400, "idt-cs-beyond-gdt-error");
    idt[0x20].selector = SEL_UCS;
    check_eq(TRY("int $0x20", ::), GP, "idt-cs-dpl3");
    check_eq(fault.error, SEL_UCS, "idt-cs-dpl3-error");
    gdt[SEL_FREE / 8] = 0x00af1b000000ffff;
    idt[0x20].selector = SEL_FREE;
    check_eq(TRY("int $0x20", ::), NP, "idt-cs-not-present");
    check_eq(fault.error, SEL_FREE, "idt-cs-not-present-error");
    gdt[SEL_FREE / 8] = 0x00cf9b000000ffff;
    check_eq(TRY("int $0x20", ::), GP, "idt-cs-32bit");
    check_eq(fault.error, SEL_FREE, "idt-cs-32bit-error");
    idt_reset();
    struct table_ptr p = {0x20 * 16 - 1, (uint64_t)idt};
    asm volatile("lidt %0" ::"m"(p));
    check_eq(TRY("int $0x20", ::), GP, "idt-limit");
    check_eq(fault.error, 0x20 * 8 + 2, "idt-limit-error");
    p.limit = sizeof idt - 1;
    asm volatile("lidt %0" ::"m"(p));
}

static void int_n_double_fault(void)
{
    idt_set_present(NP, false);
    idt_set_present(0x20, false);
    check_eq(TRY("int $0x20", ::), DF, "df-np-in-np");
    idt_reset();
}

static void privileged(void)
{
    static const struct {
        test_fn *fn;
        const char *name;
    } insns[] = {
        {u_hlt, "user-hlt"},       {u_in, "user-in"},       {u_rdmsr, "user-rdmsr"}, {u_cr0, "user-mov-cr0"},
        {u_lgdt, "user-lgdt"},     {u_invlpg, "user-invlpg"}, {u_clts, "user-clts"}, {u_wbinvd, "user-wbinvd"},
        {u_dr7, "user-mov-dr7"},   {u_ltr, "user-ltr"},     {u_swapgs, "user-swapgs"}, {u_sysret, "user-sysret"},
    };
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
    for (unsigned i = 0; i < ARRAY_SIZE(insns); i++) {
        unsigned v = run_user(insns[i].fn, (uint64_t)user_data);
        check_eq((uint64_t)v << 32 | fault.error, (uint64_t)GP << 32, insns[i].name);
    }
    check_eq(run_user(u_ud2, 0), UD, "user-ud2");
    check_eq(run_user(u_int1, 0), DB, "user-int1");
    check_eq(run_user(u_div0, 0), DE, "user-de");
    check_eq(run_user(u_read, (uint64_t)data), PF, "user-reads-kernel");
    check_eq(fault.error, PF_P | PF_U, "user-reads-kernel-error");
    check_eq(fault.cr2, (uint64_t)data, "user-reads-kernel-cr2");
    check_eq(run_user(u_read, 0x0000800000000000ull), GP, "user-noncanonical");
}

static void fpu(void)
{
    const uint64_t cr0 = read_cr0(), cr4 = read_cr4();
    write_cr4(cr4 & ~(uint64_t)CR4_OSFXSR);
    check_eq(TRY("addps %%xmm0, %%xmm0", ::), UD, "sse-no-osfxsr");
    write_cr4(cr4 | CR4_OSFXSR | CR4_OSXMMEXCPT);
    check_eq(TRY("addps %%xmm0, %%xmm0", ::), VEC_NONE, "sse-osfxsr");
    write_cr0(cr0 | CR0_TS);
    check_eq(TRY("addps %%xmm0, %%xmm0", ::), NM, "nm-sse-ts");
    check_eq(TRY("fld1", ::), NM, "nm-x87-ts");
    check_eq(TRY("fwait", ::), NM, "nm-fwait-ts-mp");
    check_eq(TRY("emms", ::), NM, "nm-mmx-ts");
    check_eq(TRY("fxsave (%0)", ::"r"((uint64_t)table_alloc()) : "memory"), NM, "nm-fxsave-ts");
    check_eq(TRY("prefetcht0 (%0)", ::"r"(data)), VEC_NONE, "prefetch-ts");
    write_cr0((cr0 | CR0_TS) & ~(uint64_t)CR0_MP);
    check_eq(TRY("fwait", ::), VEC_NONE, "fwait-ts-no-mp");
    write_cr0(cr0 | CR0_TS);
    asm volatile("clts");
    check_eq(TRY("fninit", ::), VEC_NONE, "clts");
    write_cr0(cr0 | CR0_EM);
    check_eq(TRY("fld1", ::), NM, "nm-x87-em");
    check_eq(TRY("addps %%xmm0, %%xmm0", ::), UD, "ud-sse-em");
    write_cr0(cr0);
    /* #MF: unmasked zero divide, reported by the next waiting instruction */
    uint16_t cw = 0x37b;
    asm volatile("fninit; fldcw %0; fld1; fldz; fdivrp" ::"m"(cw));
    check_eq(TRY("fwait", ::), MF, "mf");
    check_eq(TRY("fld1", ::), MF, "mf-next-x87");
    check_eq(TRY("fnclex", ::), VEC_NONE, "fnclex");
    check_eq(TRY("fwait", ::), VEC_NONE, "mf-cleared");
    asm volatile("fninit");
    /* #XM: unmasked divide by zero */
    user_mxcsr = 0x1f80 & ~(1u << 9);
    asm volatile("ldmxcsr %0; xorps %%xmm0, %%xmm0; pcmpeqd %%xmm1, %%xmm1; pslld $25, %%xmm1; psrld $2, %%xmm1" ::"m"(
        user_mxcsr));
    check_eq(TRY("divps %%xmm0, %%xmm1", ::), XM, "xm");
    write_cr4((cr4 | CR4_OSFXSR) & ~(uint64_t)CR4_OSXMMEXCPT);
    user_mxcsr = 0x1f80 & ~(1u << 9);
    asm volatile("ldmxcsr %0" ::"m"(user_mxcsr));
    check_eq(TRY("divps %%xmm0, %%xmm1", ::), UD, "xm-without-osxmmexcpt");
    write_cr4(cr4 | CR4_OSFXSR | CR4_OSXMMEXCPT);
    user_mxcsr = 0x1f80;
    asm volatile("ldmxcsr %0" ::"m"(user_mxcsr));
    user_mxcsr = 0x10000;
    check_eq(TRY("ldmxcsr %0", ::"m"(user_mxcsr)), GP, "gp-mxcsr-reserved");
    check_eq(TRY("movaps 1(%0), %%xmm0", ::"r"(data)), GP, "gp-movaps-unaligned");
    check_eq(TRY("movups 1(%0), %%xmm0", ::"r"(data)), VEC_NONE, "movups-unaligned");
    check_eq(TRY("fxsave 8(%0)", ::"r"((uint64_t)table_alloc()) : "memory"), GP, "gp-fxsave-unaligned");
}

static void alignment(void)
{
    const uint64_t cr0 = read_cr0();
    write_cr0(cr0 | CR0_AM);
    user_rflags = 2 | FL_AC;
    check_eq(run_user(u_unaligned, (uint64_t)user_data), AC, "ac-ring3");
    check_eq(fault.error, 0, "ac-error");
    check_eq(run_user(u_aligned, (uint64_t)user_data), VEC_NONE, "ac-aligned");
    check_eq(run_user(u_byte, (uint64_t)user_data), VEC_NONE, "ac-byte");
    user_rflags = 2;
    check_eq(run_user(u_unaligned, (uint64_t)user_data), VEC_NONE, "ac-flag-clear");
    user_rflags = 2 | FL_AC;
    write_cr0(cr0 & ~(uint64_t)CR0_AM);
    check_eq(run_user(u_unaligned, (uint64_t)user_data), VEC_NONE, "ac-am-clear");
    write_cr0(cr0 | CR0_AM);
    write_rflags(2 | FL_AC);
    check_eq(TRY("mov 1(%0), %%rax", ::"r"(data) : "rax"), VEC_NONE, "ac-ring0");
    write_rflags(2);
    write_cr0(cr0);
    user_rflags = 2;
}

static void noncanonical(void)
{
    const uint64_t bad = 0x0000800000000000ull;
    check_eq(TRY("mov (%0), %%rax", ::"r"(bad) : "rax"), GP, "noncanonical-read");
    check_eq(fault.error, 0, "noncanonical-read-error");
    check_eq(TRY("mov %%rax, (%0)", ::"r"(bad) : "memory"), GP, "noncanonical-write");
    check_eq(TRY("mov (%0), %%rax", ::"r"(0xffff7fffffffffffull) : "rax"), GP, "noncanonical-read-high");
    check_eq(TRY("movb (%0), %%al", ::"r"(0x00007fffffffffffull) : "rax"), PF, "canonical-last-byte");
    map_page(0x00007ffffffff000ull, (uint64_t)table_alloc(), PTE_P | PTE_W);
    check_eq(TRY("mov (%0), %%rax", ::"r"(0x00007ffffffffffcull) : "rax"), GP, "noncanonical-straddle");
    fault.vector = VEC_NONE;
    asm volatile("push %%rbp; mov %0, %%rbp; 7: mov (%%rbp), %%rax" EX_ENTRY "pop %%rbp" ::"b"(bad) : "rax");
    check_eq(fault.vector, SS, "noncanonical-rbp");
    check_eq(fault.error, 0, "noncanonical-rbp-error");
    const uint64_t bad_stack = bad + 0x1000; /* what is pushed at `bad` itself goes to the last canonical page */
    check_eq(run_asm(push_bad, bad_stack), SS, "noncanonical-push");
    check_eq(fault.rsp, bad_stack, "noncanonical-push-rsp");
    check_eq(run_asm(call_bad, bad_stack), SS, "noncanonical-call-stack");
    check_eq(run_asm(jump_bad, bad), GP, "noncanonical-jump");
    check_eq(run_asm(ret_bad, bad), GP, "noncanonical-ret");
    check_eq(run_asm(push_bad, TEST_VA + 0x1000), PF, "page-fault-push");
    check_eq(fault.cr2, TEST_VA + 0xff8, "page-fault-push-cr2");
    check_eq(fault.error, PF_W, "page-fault-push-error");
    check_eq(fault.rsp, TEST_VA + 0x1000, "page-fault-push-rsp");
}

/* A fault whose frame cannot be pushed is a double fault: #DF runs on IST 1. */
static void double_fault(void)
{
    idt_set_ist(SS, 0);
    idt_set_ist(GP, 0);
    idt_set_ist(PF, 0);
    check_eq(run_asm(push_bad, TEST_VA + 0x1000), DF, "df-pf-on-bad-stack");
    check_eq(fault.error, 0, "df-error");
    check_eq(fault.handler_rsp, tss.ist[0] - sizeof(struct frame), "df-on-ist1");
    check_eq(fault.rsp, TEST_VA + 0x1000, "df-rsp");
    idt_set_present(PF, false);
    check_eq(TRY("mov (%0), %%rax", ::"r"(TEST_VA) : "rax"), DF, "df-pf-then-np");
    idt_reset();
    idt_set_present(UD, false);
    check_eq(TRY("ud2", ::), NP, "benign-then-np-is-np");
    check_eq(fault.error, UD * 8 + 2 + 1, "external-bit-in-error");
    idt_reset();
    idt_set_ist(UD, 7);
    check_eq(TRY("ud2", ::), UD, "ist7");
    check_eq(fault.handler_rsp, tss.ist[6] - sizeof(struct frame), "ist7-stack");
    tss.ist[6] -= 8; /* the processor aligns to 16 */
    check_eq(TRY("ud2", ::), UD, "ist-unaligned");
    check_eq(fault.handler_rsp, (tss.ist[6] & ~15ull) - sizeof(struct frame), "ist-is-aligned");
    tss.ist[6] += 8;
    check_eq(run_user(u_ud2, 0), UD, "ist-from-ring3");
    check_eq(fault.handler_rsp, tss.ist[6] - sizeof(struct frame), "ist-from-ring3-stack");
    idt_reset();
}

/* The argument is a mask of the parts to run; 0: all. */
void test_main(void)
{
    static void (*const parts[])(void) = {divide, simple, int_n, privileged, fpu, alignment, noncanonical, double_fault,
                                           int_n_double_fault};
    for (unsigned i = 0; i < ARRAY_SIZE(parts); i++) {
        if (guest_arg && !(guest_arg >> i & 1))
            continue;
        idt_reset();
        idt_set_ist(SS, 2);
        idt_set_ist(PF, 3);
        idt_set_ist(GP, 4);
        parts[i]();
    }
}
