/* SPDX-License-Identifier: MIT */
/*
 * Segments and control transfers: segment loads, LAR and relatives, descriptor tables, far transfers,
 * call gates, IRET, SYSCALL/SYSRET, SYSENTER/SYSEXIT, SWAPGS and FSGSBASE. Argument: mask of parts.
 */
#include "guest.h"

#define CODE64(dpl, p) (0x00af1b000000ffffull | (uint64_t)(dpl) << 45 | (uint64_t)(p) << 47)
#define DATA(dpl, p) (0x00cf13000000ffffull | (uint64_t)(dpl) << 45 | (uint64_t)(p) << 47)
#define CONFORMING64 0x00af9f000000ffffull
#define EXEC_ONLY 0x00af99000000ffffull
#define READ_ONLY 0x00cf91000000ffffull
#define FREE(n) (SEL_FREE + 16 * (n))
static volatile uint64_t *slot(unsigned n) { return &gdt[FREE(n) / 8]; }

#define LOAD(seg) static unsigned load_##seg(unsigned sel) { return TRY("mov %w0, %%" #seg, ::"r"(sel) : "memory"); }
LOAD(ds) LOAD(es) LOAD(fs) LOAD(gs) LOAD(ss)

static void expect(unsigned v, unsigned want, uint64_t error, const char *name)
{
    check_eq((uint64_t)v << 32 | (v < 32 ? fault.error : 0), (uint64_t)want << 32 | error, name);
}

static void segment_loads(void)
{
    *slot(0) = DATA(0, 1);
    *slot(1) = DATA(0, 0);
    *slot(2) = CODE64(0, 1);
    *slot(3) = EXEC_ONLY;
    *slot(4) = READ_ONLY;
    *slot(5) = DATA(3, 1);
    expect(load_ds(FREE(0)), VEC_NONE, 0, "ds-data");
    expect(load_es(0), VEC_NONE, 0, "es-null");
    expect(load_fs(3), VEC_NONE, 0, "fs-null-rpl3");
    expect(load_ds(FREE(1)), NP, FREE(1), "ds-not-present");
    expect(load_ds(FREE(2)), VEC_NONE, 0, "ds-readable-code");
    expect(load_ds(FREE(3)), GP, FREE(3), "ds-execute-only");
    expect(load_ds(FREE(0) | 3), GP, FREE(0), "ds-rpl-above-dpl");
    expect(load_ds(0x7f8), GP, 0x7f8, "ds-beyond-gdt");
    expect(load_gs(SEL_TSS), GP, SEL_TSS, "gs-system-descriptor");
    expect(load_ds(FREE(0) | 4), GP, FREE(0) | 4, "ds-ldt-null");
    expect(load_ss(FREE(0)), VEC_NONE, 0, "ss-data");
    expect(load_ss(0), VEC_NONE, 0, "ss-null-ring0");
    expect(load_ss(3), GP, 0, "ss-null-rpl3");
    expect(load_ss(FREE(1)), SS, FREE(1), "ss-not-present");
    expect(load_ss(FREE(2)), GP, FREE(2), "ss-code");
    expect(load_ss(FREE(4)), GP, FREE(4), "ss-read-only");
    expect(load_ss(FREE(5)), GP, FREE(5), "ss-dpl3");
    expect(load_ss(SEL_UDS | 3), GP, SEL_UDS, "ss-rpl3");
    load_ss(SEL_KDS);
    load_ds(SEL_KDS);
    load_es(SEL_KDS);
    /* accessed bit */
    *slot(0) = DATA(0, 1) & ~(1ull << 40);
    load_es(FREE(0));
    check_eq(*slot(0) >> 40 & 1, 1, "load-sets-accessed");
    /* base of FS from a descriptor */
    *slot(0) = DATA(0, 1) | 0x12345ull << 16;
    load_fs(FREE(0));
    check_eq(rdmsr(0xc0000100), 0x12345, "fs-base-from-descriptor");
    load_fs(0);
    uint16_t sel;
    load_es(SEL_UDS | 3);
    asm volatile("mov %%es, %0" : "=r"(sel));
    check_eq(sel, SEL_UDS | 3, "read-es");
    load_es(SEL_KDS);
    asm volatile("push $0x10; pop %%fs; mov %%fs, %0" : "=r"(sel));
    check_eq(sel, 0x10, "pop-fs");
    load_fs(0);
}

static uint64_t lar(unsigned sel, bool *ok)
{
    uint64_t v = 0x5555;
    asm volatile("lar %k2, %k0; setz %1" : "+r"(v), "=qm"(*ok) : "r"(sel) : "cc");
    return v;
}

static uint64_t lsl(unsigned sel, bool *ok)
{
    uint64_t v = 0x5555;
    asm volatile("lsl %k2, %k0; setz %1" : "+r"(v), "=qm"(*ok) : "r"(sel) : "cc");
    return v;
}

static bool verr(unsigned sel) { bool r; asm volatile("verr %w1; setz %0" : "=qm"(r) : "r"(sel) : "cc"); return r; }
static bool verw(unsigned sel) { bool r; asm volatile("verw %w1; setz %0" : "=qm"(r) : "r"(sel) : "cc"); return r; }

static void lar_and_co(void)
{
    bool ok;
    check_eq(lar(SEL_KCS, &ok) & 0xf0ff00, 0xa09b00, "lar-code");
    check(ok, "lar-code-zf");
    check_eq(lar(0, &ok), 0x5555, "lar-null-keeps");
    check(!ok, "lar-null-zf");
    check_eq(lar(0x7f8, &ok), 0x5555, "lar-beyond");
    check_eq(lar(SEL_KDS | 3, &ok), 0x5555, "lar-rpl");
    check_eq(lar(SEL_TSS, &ok), 0x8b00, "lar-tss-busy");
    check_eq(lsl(SEL_KDS, &ok), 0xffffffff, "lsl-data");
    check_eq(lsl(SEL_TSS, &ok), 103, "lsl-tss");
    check_eq(lsl(0, &ok), 0x5555, "lsl-null");
    *slot(3) = EXEC_ONLY;
    *slot(4) = READ_ONLY;
    check(verr(SEL_KDS), "verr-data");
    check(!verr(FREE(3)), "verr-execute-only");
    check(verw(SEL_KDS), "verw-data");
    check(!verw(FREE(4)), "verw-read-only");
    check(!verw(SEL_KCS), "verw-code");
    check(!verr(SEL_TSS), "verr-system");
}

static struct table_ptr user_table_copy;
USER_DATA static struct table_ptr user_table;
USER_TEXT static void u_sgdt(uint64_t a) { asm volatile("sgdt (%0)" ::"r"(a) : "memory"); }
USER_TEXT static void u_sldt(uint64_t a) { asm volatile("sldt %%eax" ::"r"(a) : "rax"); }
USER_TEXT static void u_smsw(uint64_t a) { asm volatile("smsw %%eax" ::"r"(a) : "rax"); }

static void tables(void)
{
    struct table_ptr p;
    asm volatile("sgdt %0" : "=m"(p));
    check(p.base == (uint64_t)gdt && p.limit == GDT_ENTRIES * 8 - 1, "sgdt");
    asm volatile("sidt %0" : "=m"(p));
    check(p.base == (uint64_t)idt && p.limit == sizeof idt - 1, "sidt");
    uint64_t v = ~0ull;
    asm volatile("str %w0" : "+r"(v));
    check_eq(v & 0xffff, SEL_TSS, "str");
    asm volatile("sldt %w0" : "+r"(v));
    check_eq(v & 0xffff, 0, "sldt");
    asm volatile("smsw %0" : "=r"(v));
    check_eq(v & 0xffff, read_cr0() & 0xffff, "smsw");
    struct table_ptr bad = {0xffff, 0x800000000000ull};
    expect(TRY("lgdt %0", ::"m"(bad) : "memory"), GP, 0, "lgdt-noncanonical");
    expect(TRY("lidt %0", ::"m"(bad) : "memory"), GP, 0, "lidt-noncanonical");
    expect(TRY("ltr %w0", ::"r"(SEL_TSS) : "memory"), GP, SEL_TSS, "ltr-busy");
    expect(TRY("ltr %w0", ::"r"(0) : "memory"), GP, 0, "ltr-null");
    expect(TRY("ltr %w0", ::"r"(SEL_KDS) : "memory"), GP, SEL_KDS, "ltr-data");
    expect(TRY("lldt %w0", ::"r"(SEL_KDS) : "memory"), GP, SEL_KDS, "lldt-data");
    /* an LDT with one data descriptor */
    static uint64_t ldt[2] = {0, DATA(0, 1)};
    const uint64_t base = (uint64_t)ldt;
    *slot(0) = 15 | (base & 0xffffff) << 16 | 0x82ull << 40 | (base >> 24 & 0xff) << 56;
    slot(0)[1] = base >> 32;
    expect(TRY("lldt %w0", ::"r"(FREE(0)) : "memory"), VEC_NONE, 0, "lldt");
    expect(load_es(8 | 4), VEC_NONE, 0, "es-from-ldt");
    expect(load_es(16 | 4), GP, 16 | 4, "es-beyond-ldt");
    load_es(SEL_KDS);
    expect(TRY("lldt %w0", ::"r"(0) : "memory"), VEC_NONE, 0, "lldt-null");
    check_eq(run_user(u_sgdt, (uint64_t)&user_table), VEC_NONE, "user-sgdt");
    check_eq(user_table.base, (uint64_t)gdt, "user-sgdt-base");
    if (HAS_UMIP) {
        write_cr4(read_cr4() | CR4_UMIP);
        expect(run_user(u_sgdt, (uint64_t)&user_table), GP, 0, "umip-sgdt");
        expect(run_user(u_sldt, 0), GP, 0, "umip-sldt");
        expect(run_user(u_smsw, 0), GP, 0, "umip-smsw");
        asm volatile("sgdt %0" : "=m"(user_table_copy));
        check_eq(user_table_copy.base, (uint64_t)gdt, "umip-ring0-sgdt");
        write_cr4(read_cr4() & ~(uint64_t)CR4_UMIP);
    } else {
        skip("umip", "the processor has none");
    }
}

/* Far transfers through m16:32, which every processor has; REX.W forms differ between vendors. */
void far_jump(uint64_t), far_call(uint64_t), far_call_ret(uint64_t), far_ret(uint64_t);
asm("far_call_ret: push %rbx; mov %rsp, %rbx; lcall *(%rdi); mov %rsp, far_rsp; mov %rbx, %rsp; pop %rbx; ret\n"
    "far_call_target: movl $0x55, far_mark; lretl\n"
    "far_call: lcall *(%rdi); ret\n"
    "far_jump: ljmp *(%rdi)\n"
    "far_ret: push 8(%rdi); push (%rdi); lretq\n"
    "jump_target: movl $0x77, far_mark; ret\n"
    "gate_target: mov %cs, far_mark; lretq\n");
uint64_t far_rsp;
void far_call_target(void);
uint32_t far_mark;
void jump_target(void), gate_target(void);
USER_TEXT static void u_gate(uint64_t a) { asm volatile("lcall *(%0)" ::"r"(a) : "memory"); }
USER_DATA static struct { uint32_t offset; uint16_t sel; } user_gate = {0, 0};

static void far_transfers(void)
{
    static struct {
        uint32_t offset;
        uint16_t sel;
    } p;
    struct {
        uint64_t offset, sel;
    } q = {(uint64_t)jump_target, SEL_KCS};
    p.offset = (uint32_t)(uint64_t)far_call_target;
    p.sel = SEL_KCS;
    check_eq(run_asm(far_call_ret, (uint64_t)&p), VEC_NONE, "far-call-and-ret");
    check_eq(far_mark, 0x55, "far-call-arrives");
    p.offset = (uint32_t)(uint64_t)jump_target;
    p.sel = SEL_KCS;
    far_mark = 0;
    check_eq(run_asm(far_jump, (uint64_t)&p), VEC_NONE, "far-jmp");
    check_eq(far_mark, 0x77, "far-jmp-arrives");
    far_mark = 0;
    check_eq(run_asm(far_ret, (uint64_t)&q), VEC_NONE, "far-ret");
    check_eq(far_mark, 0x77, "far-ret-arrives");
    p.sel = 0;
    expect(run_asm(far_jump, (uint64_t)&p), GP, 0, "far-jmp-null");
    p.sel = SEL_KDS;
    expect(run_asm(far_jump, (uint64_t)&p), GP, SEL_KDS, "far-jmp-data");
    p.sel = 0x7f8;
    expect(run_asm(far_jump, (uint64_t)&p), GP, 0x7f8, "far-jmp-beyond-gdt");
    p.sel = SEL_UCS | 3;
    expect(run_asm(far_jump, (uint64_t)&p), GP, SEL_UCS, "far-jmp-other-ring");
    *slot(0) = CODE64(0, 0);
    p.sel = FREE(0);
    expect(run_asm(far_jump, (uint64_t)&p), NP, FREE(0), "far-jmp-not-present");
    q.sel = FREE(0);
    expect(run_asm(far_ret, (uint64_t)&q), NP, FREE(0), "far-ret-not-present");
    *slot(0) = CODE64(0, 1) | 1ull << 54;
    expect(run_asm(far_jump, (uint64_t)&p), GP, FREE(0), "far-jmp-l-and-d");
    *slot(0) = CONFORMING64;
    expect(run_asm(far_jump, (uint64_t)&p), VEC_NONE, 0, "far-jmp-conforming");
    q.sel = SEL_KCS;
    q.offset = 0x800000000000ull;
    check_eq(run_asm(far_ret, (uint64_t)&q), GP, "far-ret-noncanonical");
    /* 64-bit call gate */
    const uint64_t t = (uint64_t)gate_target;
    *slot(0) = (t & 0xffff) | (uint64_t)SEL_KCS << 16 | 0xecull << 40 | (t >> 16 & 0xffff) << 48;
    slot(0)[1] = t >> 32;
    p.offset = 0;
    p.sel = FREE(0);
    far_mark = 0;
    check_eq(run_asm(far_call, (uint64_t)&p), VEC_NONE, "call-gate-ring0");
    check_eq(far_mark & 0xffff, SEL_KCS, "call-gate-ring0-cs");
    user_gate.sel = FREE(0) | 3;
    far_mark = 0;
    expect(run_user(u_gate, (uint64_t)&user_gate), VEC_NONE, 0, "call-gate-from-ring3");
    check_eq(far_mark & 0xffff, SEL_KCS, "call-gate-from-ring3-cs");
    *slot(0) &= ~(3ull << 45);
    expect(run_user(u_gate, (uint64_t)&user_gate), GP, FREE(0), "call-gate-dpl0-from-ring3");
    *slot(0) |= 3ull << 45;
    *slot(0) &= ~(1ull << 47);
    expect(run_user(u_gate, (uint64_t)&user_gate), NP, FREE(0), "call-gate-not-present");
    *slot(0) |= 1ull << 47;
    slot(0)[1] |= 1ull << 40;
    expect(run_user(u_gate, (uint64_t)&user_gate), GP, FREE(0), "call-gate-bad-upper-type");
    slot(0)[1] = 0;
    slot(0)[0] = 0;
}

/* IRET with a frame of our making: rip, cs, rflags, rsp, ss at (%rdi). */
void do_iret(uint64_t frame);
asm("do_iret: push 32(%rdi); push 24(%rdi); push 16(%rdi); push 8(%rdi); push (%rdi); iretq\n"
    "iret_target: mov %cs, iret_cs; mov %ss, iret_ss; mov %rsp, iret_rsp; pushfq; pop iret_flags; jmp catch_longjmp\n");
void iret_target(void);
uint64_t iret_cs, iret_ss, iret_rsp, iret_flags;
struct iret_frame { uint64_t rip, cs, rflags, rsp, ss; };

static void iret(void)
{
    struct iret_frame f = {(uint64_t)iret_target, SEL_KCS, 0x46, (uint64_t)(rsp0_stack + 4096), SEL_KDS};
    check_eq(run_asm(do_iret, (uint64_t)&f), VEC_NONE, "iret-ring0");
    check_eq(iret_cs & 0xffff, SEL_KCS, "iret-cs");
    check_eq(iret_rsp, f.rsp, "iret-loads-rsp");
    check_eq(iret_flags & 0xfd5, 0x44, "iret-flags");
    f.ss = 0;
    check_eq(run_asm(do_iret, (uint64_t)&f), VEC_NONE, "iret-null-ss-ring0");
    f.ss = SEL_KDS;
    f.rflags = 2 | FL_AC | FL_ID;
    check_eq(run_asm(do_iret, (uint64_t)&f), VEC_NONE, "iret-ac-id");
    check_eq(iret_flags & (FL_AC | FL_ID), FL_AC | FL_ID, "iret-sets-ac-id");
    f.rflags = 2;
    f.cs = 0;
    expect(run_asm(do_iret, (uint64_t)&f), GP, 0, "iret-null-cs");
    f.cs = SEL_KDS;
    expect(run_asm(do_iret, (uint64_t)&f), GP, SEL_KDS, "iret-data-cs");
    f.cs = 0x7f8;
    expect(run_asm(do_iret, (uint64_t)&f), GP, 0x7f8, "iret-cs-beyond-gdt");
    f.cs = SEL_UCS | 3;
    f.rip = (uint64_t)user_return;
    f.rsp = (uint64_t)user_stack + 4096;
    f.ss = SEL_UDS | 3;
    f.rflags = 2 | FL_IOPL | FL_CF;
    check_eq(run_asm(do_iret, (uint64_t)&f), VEC_NONE, "iret-to-ring3");
    f.ss = SEL_KDS;
    expect(run_asm(do_iret, (uint64_t)&f), GP, SEL_KDS, "iret-ring3-kernel-ss");
    f.ss = 0;
    expect(run_asm(do_iret, (uint64_t)&f), GP, 0, "iret-ring3-null-ss");
    f.ss = SEL_UDS | 3;
    f.rip = 0x800000000000ull;
    check_eq(run_asm(do_iret, (uint64_t)&f), GP, "iret-noncanonical-rip");
    f.rip = (uint64_t)user_return;
    *slot(0) = CODE64(0, 0);
    f.cs = FREE(0);
    expect(run_asm(do_iret, (uint64_t)&f), NP, FREE(0), "iret-cs-not-present");
    *slot(0) = DATA(3, 0);
    f.cs = SEL_UCS | 3;
    f.ss = FREE(0) | 3;
    expect(run_asm(do_iret, (uint64_t)&f), SS, FREE(0), "iret-ss-not-present");
    *slot(0) = CODE64(1, 1);
    *slot(1) = DATA(1, 1);
    f.cs = FREE(0) | 1;
    f.ss = FREE(1) | 1;
    f.rip = (uint64_t)user_return; /* supervisor at CPL 1: the user page may not be fetched with SMEP only */
    check_eq(run_asm(do_iret, (uint64_t)&f), VEC_NONE, "iret-to-ring1");
    *slot(0) = CODE64(2, 1);
    *slot(1) = DATA(2, 1);
    f.cs = FREE(0) | 2;
    f.ss = FREE(1) | 2;
    check_eq(run_asm(do_iret, (uint64_t)&f), VEC_NONE, "iret-to-ring2");
    f.cs = SEL_KCS;
    f.ss = SEL_KDS;
    f.rip = (uint64_t)iret_target;
    f.rflags = 2 | FL_NT;
    check_eq(run_asm(do_iret, (uint64_t)&f), VEC_NONE, "iret-loads-nt");
    write_rflags(2 | FL_NT);
    expect(TRY("iretq", ::: "memory"), GP, 0, "iret-with-nt");
    write_rflags(2);
}

/* SYSCALL: the kernel side records what it got and leaves through catch_longjmp or SYSRET. */
uint64_t sc_rcx, sc_r11, sc_cs, sc_ss, sc_flags, sc_rsp, sysret_rcx, sysret_r11;
void syscall_entry(void), syscall_entry_ret(void), do_sysret(uint64_t), do_sysexit(uint64_t), sysenter_entry(void);
asm("syscall_entry: mov %rcx, sc_rcx; mov %r11, sc_r11; mov %cs, sc_cs; mov %ss, sc_ss; mov %rsp, sc_rsp\n"
    "  mov catch_rsp, %rsp; pushfq; pop sc_flags; jmp catch_longjmp\n"
    "syscall_entry_ret: mov %rcx, sc_rcx; sysretq\n"
    "do_sysret: mov sysret_rcx, %rcx; mov sysret_r11, %r11; mov $user_stack + 8184, %rsp; sysretq\n"
    "sysenter_entry: mov %rsp, sc_rsp; mov %cs, sc_cs; mov %ss, sc_ss; jmp catch_longjmp\n"
    "do_sysexit: mov $user_return, %edx; mov $user_stack + 8184, %ecx; sysexitq\n");
USER_TEXT static void u_syscall(uint64_t a) { asm volatile("stc; syscall" ::"r"(a) : "rcx", "r11", "memory"); }
USER_TEXT static void u_syscall_twice(uint64_t a)
{
    asm volatile("mov $1, %%eax; syscall; mov $2, %%eax; syscall" ::"r"(a) : "rax", "rcx", "r11", "memory");
}
USER_TEXT static void u_sysenter(uint64_t a) { asm volatile("sysenter" ::"r"(a) : "memory"); }
USER_TEXT static void u_segments(uint64_t a)
{
    asm volatile("xor %%eax, %%eax; mov %%cs, %%ax; mov %%ss, %%dx; shl $16, %%edx; or %%edx, %%eax" ::"r"(a) : "rax", "rdx");
}

static void syscalls(void)
{
    const uint64_t efer = rdmsr(MSR_EFER);
    wrmsr(MSR_EFER, efer & ~(uint64_t)EFER_SCE);
    check_eq(run_user(u_syscall, 0), UD, "syscall-without-sce");
    wrmsr(MSR_EFER, efer | EFER_SCE);
    wrmsr(0xc0000081, (uint64_t)(SEL_UCS32 | 3) << 48 | (uint64_t)SEL_KCS << 32);
    wrmsr(0xc0000082, (uint64_t)syscall_entry);
    wrmsr(0xc0000084, FL_CF | FL_IF | FL_DF);
    check_eq(run_user(u_syscall, 0), VEC_NONE, "syscall");
    check_eq(sc_cs & 0xffff, SEL_KCS, "syscall-cs");
    check_eq(sc_ss & 0xffff, SEL_KDS, "syscall-ss");
    check_eq(*(uint16_t *)(sc_rcx - 2), 0x050f, "syscall-rcx-is-next-rip");
    check_eq(sc_r11 & 0x203, 3, "syscall-r11-is-rflags");
    check_eq(sc_flags & FL_CF, 0, "syscall-masks-flags");
    check(sc_rsp > (uint64_t)user_stack && sc_rsp <= (uint64_t)user_stack + 8192, "syscall-keeps-rsp");
    wrmsr(0xc0000082, (uint64_t)syscall_entry_ret);
    check_eq(run_user(u_syscall_twice, 0), VEC_NONE, "sysret");
    check_eq(user_result, 2, "sysret-goes-on");
    sysret_rcx = (uint64_t)u_segments;
    sysret_r11 = 2;
    check_eq(run_asm(do_sysret, 0), VEC_NONE, "sysret-to-function");
    check_eq(user_result, (SEL_UCS | 3) | (uint64_t)(SEL_UDS | 3) << 16, "sysret-cs-ss");
    sysret_rcx = 0x800000000000ull;
    check_eq(run_asm(do_sysret, 0), GP, "sysret-noncanonical");
    if (!is_amd())
        check_eq(fault.cs, SEL_KCS, "sysret-noncanonical-faults-in-ring0");
    wrmsr(MSR_EFER, efer);
    check_eq(try_wrmsr(0xc0000082, 0x800000000000ull), GP, "lstar-noncanonical");
    check_eq(try_wrmsr(0xc0000083, 0x800000000000ull), GP, "cstar-noncanonical");
    /* SYSENTER: AMD processors have none in 64-bit mode */
    wrmsr(0x174, SEL_KCS);
    wrmsr(0x175, (uint64_t)(rsp0_stack + 4096));
    wrmsr(0x176, (uint64_t)sysenter_entry);
    check_eq(rdmsr(0x176), (uint64_t)sysenter_entry, "sysenter-eip-msr");
    if (is_amd()) {
        check_eq(run_user(u_sysenter, 0), UD, "sysenter-amd-ud");
    } else {
        check_eq(run_user(u_sysenter, 0), VEC_NONE, "sysenter");
        check_eq(sc_rsp, (uint64_t)(rsp0_stack + 4096), "sysenter-rsp");
        check_eq(sc_cs & 0xffff, SEL_KCS, "sysenter-cs");
        wrmsr(0x174, 0);
        check_eq(run_user(u_sysenter, 0), GP, "sysenter-null-cs");
        check_eq(run_asm(do_sysexit, 0), GP, "sysexit-null-cs");
    }
}

USER_TEXT static void u_wrfsbase(uint64_t a)
{
    asm volatile("wrfsbase %0; mov %%fs:8, %%rax; mov $0, %%ecx; wrfsbase %%rcx" ::"r"(a) : "rax", "rcx");
}
USER_DATA static uint64_t user_words[2] = {0, 0x1234};

static void bases(void)
{
    wrmsr(0xc0000101, 0x1111);
    wrmsr(0xc0000102, 0xffff800000002222ull);
    asm volatile("swapgs");
    check_eq(rdmsr(0xc0000101), 0xffff800000002222ull, "swapgs-gs-base");
    check_eq(rdmsr(0xc0000102), 0x1111, "swapgs-kernel-gs-base");
    check_eq(try_wrmsr(0xc0000100, 0x800000000000ull), GP, "fs-base-noncanonical");
    check_eq(try_wrmsr(0xc0000101, 0x800000000000ull), GP, "gs-base-noncanonical");
    check_eq(try_wrmsr(0xc0000102, 0x800000000000ull), GP, "kernel-gs-base-noncanonical");
    static uint64_t words[4] = {10, 20, 30, 40};
    uint64_t v;
    wrmsr(0xc0000101, (uint64_t)words);
    asm volatile("mov %%gs:16, %0" : "=r"(v));
    check_eq(v, 30, "gs-relative-load");
    asm volatile("movq $31, %%gs:16" ::: "memory");
    check_eq(*(volatile uint64_t *)&words[2], 31, "gs-relative-store");
    asm volatile(".byte 0x65; lea 16, %0" : "=r"(v));
    check_eq(v, 16, "lea-ignores-base");
    wrmsr(0xc0000100, (uint64_t)words - 8);
    asm volatile("mov %%fs:(%1), %0" : "=r"(v) : "r"(16ull));
    check_eq(v, 20, "fs-relative-load");
    asm volatile("addr32 mov %%fs:(%k1), %0" : "=r"(v) : "r"(16ull));
    check_eq(v, 20, "fs-relative-addr32");
    check_eq(TRY("wrfsbase %0", ::"r"(1ull)), UD, "wrfsbase-without-cr4");
    if (HAS_FSGSBASE) {
        write_cr4(read_cr4() | CR4_FSGSBASE);
        check_eq(TRY("wrgsbase %0", ::"r"(0x3333ull)), VEC_NONE, "wrgsbase");
        asm volatile("rdgsbase %0" : "=r"(v));
        check_eq(v, 0x3333, "rdgsbase");
        check_eq(rdmsr(0xc0000101), 0x3333, "wrgsbase-msr");
        check_eq(TRY("wrfsbase %0", ::"r"(0x800000000000ull)), GP, "wrfsbase-noncanonical");
        check_eq(run_user(u_wrfsbase, (uint64_t)user_words), VEC_NONE, "user-wrfsbase");
        check_eq(user_result, 0x1234, "user-wrfsbase-load");
        write_cr4(read_cr4() & ~(uint64_t)CR4_FSGSBASE);
    }
    wrmsr(0xc0000100, 0);
    wrmsr(0xc0000101, 0);
}

USER_TEXT static void u_in(uint64_t port) { asm volatile("inb %%dx, %%al" ::"d"((uint16_t)port) : "rax"); }
USER_TEXT static void u_inw(uint64_t port) { asm volatile("inw %%dx, %%ax" ::"d"((uint16_t)port) : "rax"); }
USER_TEXT static void u_cli_sti(uint64_t a) { asm volatile("cli; sti" ::"r"(a)); }
USER_TEXT static void u_popf(uint64_t a) { asm volatile("push %0; popfq; pushfq; pop %%rax" ::"r"(a) : "rax", "cc"); }

/* IOPL and the I/O permission bitmap. */
static void io_permission(void)
{
    user_rflags = 2;
    expect(run_user(u_in, 0x80), GP, 0, "io-iopl0");
    user_rflags = 2 | FL_IOPL;
    expect(run_user(u_in, 0x80), VEC_NONE, 0, "io-iopl3");
    expect(run_user(u_cli_sti, 0), VEC_NONE, 0, "cli-iopl3");
    user_rflags = 2;
    expect(run_user(u_cli_sti, 0), GP, 0, "cli-iopl0");
    expect(run_user(u_popf, 2 | FL_IF | FL_IOPL | FL_AC), VEC_NONE, 0, "popf-ring3");
    check_eq(user_result & (FL_IF | FL_IOPL | FL_AC), FL_AC, "popf-ring3-keeps-if-iopl");
    tss.iomap = (uint16_t)((uint8_t *)tss.bitmap - (uint8_t *)&tss);
    memset(tss.bitmap, 0xff, sizeof tss.bitmap);
    gdt[SEL_TSS / 8] = (gdt[SEL_TSS / 8] & ~0x0000020000000000ull & ~0xffffull) | 0x2067; /* not busy, limit over the bitmap */
    asm volatile("ltr %w0" ::"r"(SEL_TSS));
    tss.bitmap[0x80 / 8] = 0xfe;
    expect(run_user(u_in, 0x80), VEC_NONE, 0, "io-bitmap-allows");
    expect(run_user(u_in, 0x81), GP, 0, "io-bitmap-refuses");
    expect(run_user(u_inw, 0x80), GP, 0, "io-bitmap-word-needs-both");
    tss.bitmap[0x80 / 8] = 0xfc;
    expect(run_user(u_inw, 0x80), VEC_NONE, 0, "io-bitmap-word-allows");
}

void test_main(void)
{
    static void (*const parts[])(void) = {segment_loads, lar_and_co, tables, far_transfers, iret, syscalls, bases, io_permission};
    for (unsigned i = 0; i < ARRAY_SIZE(parts); i++)
        if (!guest_arg || (guest_arg >> i & 1))
            parts[i]();
}
