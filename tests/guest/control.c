/* SPDX-License-Identifier: MIT */
/*
 * Control registers, MSRs, CPUID, debug registers and single step, XSETBV and the XSAVE family.
 * Argument: mask of parts.
 */
#include "guest.h"

static void control_registers(void)
{
    const uint64_t cr0 = read_cr0(), cr4 = read_cr4(), cr3 = read_cr3();
    check_eq(try_write_cr0(cr0 & ~1ull), GP, "cr0-pg-without-pe");
    check_eq(try_write_cr0((cr0 | CR0_NW) & ~(uint64_t)CR0_CD), GP, "cr0-nw-without-cd");
    check_eq(try_write_cr0(cr0 | 1ull << 32), GP, "cr0-high-bits");
    check_eq(try_write_cr0(cr0 & ~(uint64_t)CR0_PG), GP, "cr0-pg-off-in-64-bit");
    check_eq(read_cr0(), cr0, "cr0-unchanged");
    check_eq(try_write_cr4(cr4 & ~(uint64_t)CR4_PAE), GP, "cr4-pae-off");
    check_eq(try_write_cr4(cr4 | 1ull << 63), GP, "cr4-bit-63");
    check_eq(try_write_cr4(cr4 | 1ull << 31), GP, "cr4-bit-31");
    check_eq(try_write_cr4(cr4 | 1ull << 15), GP, "cr4-bit-15");
    if (!has_feature(1, 2, 5))
        check_eq(try_write_cr4(cr4 | 1ull << 13), GP, "cr4-vmxe-without-vmx");
    check_eq(try_write_cr3(cr3 | 1ull << 62), GP, "cr3-bit-62");
    check_eq(read_cr3(), cr3, "cr3-unchanged");
    write_cr0(cr0 | CR0_TS);
    check_eq(read_cr0(), cr0 | CR0_TS, "cr0-ts");
    asm volatile("clts");
    check_eq(read_cr0(), cr0, "clts");
    asm volatile("lmsw %w0" ::"r"((cr0 & 0xfff0) | 0xb));
    check_eq(read_cr0() & 0xf, 0xb, "lmsw-sets-ts");
    asm volatile("lmsw %w0" ::"r"(0x2));
    check_eq(read_cr0() & 0xf, 0x3, "lmsw-keeps-pe");
    write_cr0(cr0);
    write_cr8(7);
    check_eq(read_cr8(), 7, "cr8");
    check_eq(TRY("mov %0, %%cr8", ::"r"(0x10ull)), GP, "cr8-reserved");
    write_cr8(0);
    write_cr2(0x123456789abcull);
    check_eq(read_cr2(), 0x123456789abcull, "cr2");
}

static void msrs(void)
{
    uint64_t v;
    const uint64_t efer = rdmsr(MSR_EFER);
    check_eq(efer & 0x500, 0x500, "efer-lme-lma");
    check_eq(try_wrmsr(MSR_EFER, efer | 1ull << 1), GP, "efer-bit-1");
    check_eq(try_wrmsr(MSR_EFER, efer | 1ull << 63), GP, "efer-bit-63");
    check_eq(try_wrmsr(MSR_EFER, efer & ~0x100ull), GP, "efer-lme-off-with-paging");
    check_eq(try_wrmsr(MSR_EFER, efer & ~0x400ull), VEC_NONE, "efer-lma-is-ignored");
    check_eq(rdmsr(MSR_EFER), efer, "efer-unchanged");
    check_eq(try_rdmsr(0x40001234, &v), GP, "rdmsr-unknown");
    check_eq(fault.error, 0, "rdmsr-unknown-error");
    check_eq(try_wrmsr(0x40001234, 0), GP, "wrmsr-unknown");
    wrmsr(0xc0000081, 0x0123456789abcdefull);
    check_eq(rdmsr(0xc0000081), 0x0123456789abcdefull, "star");
    wrmsr(0xc0000084, 0x4700);
    check_eq(rdmsr(0xc0000084), 0x4700, "fmask");
    const uint64_t pat = rdmsr(0x277);
    check_eq(pat, 0x0007040600070406ull, "pat-reset");
    check_eq(try_wrmsr(0x277, 0x0007040600070402ull), GP, "pat-type-2");
    check_eq(try_wrmsr(0x277, 0x0007040600070408ull), GP, "pat-type-8");
    check_eq(try_wrmsr(0x277, 0x0007040600070401ull), VEC_NONE, "pat-wc");
    wrmsr(0x277, pat);
    if (HAS_RDTSCP) {
        uint32_t a, d, c;
        wrmsr(0xc0000103, 0x1234);
        asm volatile("rdtscp" : "=a"(a), "=d"(d), "=c"(c));
        check_eq(c, 0x1234, "rdtscp-aux");
    }
    uint64_t base = rdmsr(MSR_APIC_BASE);
    check_eq(base & 0xfffff900, 0xfee00900, "apic-base-reset");
    check_eq(try_wrmsr(MSR_APIC_BASE, base | 1ull << 9), GP, "apic-base-reserved");
    check_eq(try_wrmsr(MSR_APIC_BASE, (base & ~0x800ull) | 0x400), GP, "apic-base-x2-without-enable");
    /* TSC */
    bool ok = true;
    uint64_t last = rdtsc();
    for (unsigned i = 0; i < 2000; i++) {
        uint64_t now = rdtsc();
        ok &= now >= last;
        last = now;
    }
    check(ok, "rdtsc-monotonic");
    check(rdmsr(0x10) >= last, "tsc-msr");
    wrmsr(0x10, 0);
    check(rdtsc() < 1ull << 36, "tsc-write");
    if (has_feature(7, 1, 1)) {
        wrmsr(0x3b, 0);
        uint64_t t0 = rdtsc();
        wrmsr(0x3b, 1ull << 40);
        uint64_t t1 = rdtsc();
        check(t1 - t0 >= 1ull << 40 && t1 - t0 < (1ull << 40) + (1ull << 36), "tsc-adjust");
        check_eq(rdmsr(0x3b), 1ull << 40, "tsc-adjust-reads");
        wrmsr(0x3b, 0);
    }
    write_cr4(read_cr4() | CR4_TSD);
    check_eq(TRY("rdtsc", ::: "rax", "rdx"), VEC_NONE, "rdtsc-tsd-ring0");
    write_cr4(read_cr4() & ~(uint64_t)CR4_TSD);
}

USER_TEXT static void u_rdtsc(uint64_t a) { asm volatile("rdtsc" ::"r"(a) : "rax", "rdx"); }
USER_TEXT static void u_cpuid(uint64_t a) { asm volatile("xor %%eax, %%eax; cpuid" ::"r"(a) : "rax", "rbx", "rcx", "rdx"); }

static void cpuid_checks(void)
{
    check(cpuid(0, 0).a >= 7, "cpuid-max-leaf");
    check(cpuid(0x80000000u, 0).a >= 0x80000008u, "cpuid-max-extended-leaf");
    check(has_feature(0x80000001u, 3, 29), "cpuid-long-mode");
    struct cpuid c = cpuid(0x80000008u, 0);
    check((c.a & 0xff) >= 36 && (c.a & 0xff) <= 52, "cpuid-maxphys");
    check_eq(c.a >> 8 & 0xff, 48, "cpuid-linear-bits");
    uint64_t sum = 0;
    asm volatile("mov $0xffffffff00000000, %%rax; mov %%rax, %%rbx; mov %%rax, %%rcx; mov %%rax, %%rdx; cpuid; or %%rbx, %%rax; or %%rcx, %%rax; or %%rdx, %%rax; mov %%rax, %0"
                 : "=r"(sum)::"rax", "rbx", "rcx", "rdx");
    check_eq(sum >> 32, 0, "cpuid-clears-high-halves");
    if (HAS_XSAVE) {
        write_cr4(read_cr4() & ~(uint64_t)CR4_OSXSAVE);
        check(!has_feature(1, 2, 27), "cpuid-osxsave-off");
        write_cr4(read_cr4() | CR4_OSXSAVE);
        check(has_feature(1, 2, 27), "cpuid-osxsave-on");
        write_cr4(read_cr4() & ~(uint64_t)CR4_OSXSAVE);
    }
    check_eq(run_user(u_cpuid, 0), VEC_NONE, "user-cpuid");
    write_cr4(read_cr4() | CR4_TSD);
    check_eq(run_user(u_rdtsc, 0), GP, "rdtsc-tsd-ring3");
    write_cr4(read_cr4() & ~(uint64_t)CR4_TSD);
    check_eq(run_user(u_rdtsc, 0), VEC_NONE, "rdtsc-ring3");
    if (has_feature(1, 2, 31) && cpuid(0x40000000, 0).b == 0x4b4d564b) {
        const uint32_t features = cpuid(0x40000001, 0).a;
        check(features >> 3 & 1, "kvm-clocksource2");
        /* kvm-clock page: version even, time moves on */
        volatile uint32_t *const p = (volatile uint32_t *)table_alloc();
        wrmsr(0x4b564d01, (uint64_t)p | 1);
        for (unsigned i = 0; i < 1000 && !p[0]; i++)
            inb(0x80);
        check(p[0] != 0 && !(p[0] & 1), "kvmclock-version");
        check(p[6] != 0, "kvmclock-mul");
        const uint64_t t0 = *(volatile uint64_t *)(p + 2);
        check(t0 <= rdtsc(), "kvmclock-tsc-timestamp");
        wrmsr(0x4b564d01, 0);
    } else {
        skip("kvmclock", "no KVM leaves");
    }
}

static unsigned steps;
static uint64_t step_rips[16];
static void step_handler(struct frame *f)
{
    if (steps < ARRAY_SIZE(step_rips))
        step_rips[steps] = f->rip;
    steps++;
    if (steps >= 12)
        f->rflags &= ~(uint64_t)FL_TF;
}

void step_code(void), step_shadow(void), step_rep(void);
extern uint8_t step_1[], step_2[], step_3[], step_4[], shadow_1[], shadow_2[];
asm("step_code: pushfq; orl $0x100, (%rsp); popfq\n nop\nstep_1: mov $1, %eax\nstep_2: jmp step_3; nop\nstep_3: pushfq; andl $~0x100, (%rsp); popfq\nstep_4: ret\n"
    "step_shadow: pushfq; orl $0x100, (%rsp); mov %ss, %eax; popfq\n mov %eax, %ss\n nop\nshadow_1: pushfq; andl $~0x100, (%rsp); popfq; ret\n"
    "step_rep: mov $3, %ecx; mov $ist_stack, %edi; pushfq; orl $0x100, (%rsp); popfq\n rep stosb\nshadow_2: pushfq; andl $~0x100, (%rsp); popfq; ret\n");

static void debug(void)
{
    irq_handlers[DB] = step_handler;
    steps = 0;
    run_asm(step_code, 0);
    check_eq(step_rips[0], (uint64_t)step_1, "tf-first-after-one-insn");
    check_eq(step_rips[1], (uint64_t)step_2, "tf-second");
    check_eq(step_rips[2], (uint64_t)step_3, "tf-over-jump");
    check_eq(steps, 6, "tf-count"); /* the POPF that clears TF is still stepped */
    check_eq(read_dr6() & (1 << 14), 1 << 14, "dr6-bs");
    steps = 0;
    run_asm(step_shadow, 0);
    check_eq(step_rips[0], (uint64_t)shadow_1, "tf-waits-for-mov-ss-shadow");
    steps = 0;
    run_asm(step_rep, 0);
    check_eq(step_rips[2], (uint64_t)shadow_2, "tf-in-rep-each-iteration");
    irq_handlers[DB] = 0;

    write_dr6(0xffff0ff0);
    static uint64_t watched[2];
    write_dr0((uint64_t)watched);
    write_dr7(0x400 | 2 | 1 << 16 | 3 << 18); /* write, 4 bytes */
    check_eq(TRY("movl $1, (%0)", ::"r"(watched) : "memory"), DB, "dr0-write");
    check_eq(fault.dr6 & 0xf, 1, "dr6-b0");
    check_eq(*(volatile uint32_t *)watched, 1, "dr0-write-is-a-trap");
    check_eq(TRY("mov (%0), %%eax", ::"r"(watched) : "rax"), VEC_NONE, "dr0-write-not-read");
    check_eq(TRY("movl $1, 4(%0)", ::"r"(watched) : "memory"), VEC_NONE, "dr0-next-dword");
    check_eq(TRY("movb $1, 3(%0)", ::"r"(watched) : "memory"), DB, "dr0-last-byte");
    write_dr7(0x400 | 2 | 3 << 16 | 3 << 18);
    check_eq(TRY("mov (%0), %%eax", ::"r"(watched) : "rax"), DB, "dr0-read");
    write_dr6(0xffff0ff0);
    write_dr1((uint64_t)step_1);
    write_dr7(0x400 | 8); /* DR1: execute */
    check_eq(run_asm(step_1, 0) == DB ? fault.rip : 0, (uint64_t)step_1, "dr1-execute-is-a-fault");
    check_eq(fault.dr6 & 0xf, 2, "dr6-b1");
    write_dr7(0x400);
    check_eq(TRY("mov %0, %%dr7", ::"r"(1ull << 32)), GP, "dr7-high-bits");
    check_eq(TRY("mov %0, %%dr6", ::"r"(1ull << 32)), GP, "dr6-high-bits");
    write_dr6(0xffff0ff0);
    check_eq(TRY("mov %%dr4, %%rax", ::: "rax"), VEC_NONE, "dr4-is-dr6");
    write_cr4(read_cr4() | CR4_DE);
    check_eq(TRY("mov %%dr4, %%rax", ::: "rax"), UD, "dr4-with-de");
    write_cr4(read_cr4() & ~(uint64_t)CR4_DE);
    /* I/O breakpoints, with CR4.DE: a trap behind the access, also of a port in the middle of it. */
    static uint8_t two[2] = {1, 2};
    uint64_t rsi = (uint64_t)two, rcx = 2;
    write_dr0(0x501);
    write_dr7(0x400 | 2 | 2 << 16);
    check_eq(TRY("outb %%al, %%dx", ::"a"(0), "d"(0x501)), VEC_NONE, "io-without-de");
    write_cr4(read_cr4() | CR4_DE);
    write_dr6(0xffff0ff0);
    check_eq(TRY("outb %%al, %%dx", ::"a"(0), "d"(0x501)), DB, "io-break-out");
    check_eq(fault.dr6 & 0x400f, 1, "io-break-b0");
    write_dr6(0xffff0ff0);
    check_eq(TRY("inl %%dx, %%eax", : : "d"(0x500) : "rax"), DB, "io-break-in");
    check_eq(TRY("outb %%al, %%dx", ::"a"(0), "d"(0x502)), VEC_NONE, "io-break-other-port");
    check_eq(TRY("rep outsb", : "+S"(rsi), "+c"(rcx) : "d"(0x501)), DB, "io-break-rep");
    check_eq(rcx, 1, "io-break-rep-after-one");
    write_cr4(read_cr4() & ~(uint64_t)CR4_DE);
    write_dr7(0x400);
    write_dr6(0xffff0ff0);

    write_dr7(0x400 | 1 << 13); /* general detect */
    check_eq(TRY("mov %%dr0, %%rax", ::: "rax"), DB, "dr7-gd");
    check_eq(fault.dr6 & 1 << 13, 1 << 13, "dr6-bd");
    check_eq(read_dr7() & 1 << 13, 0, "gd-cleared-in-handler");
    write_dr7(0x400);
}

static unsigned xsetbv(uint32_t index, uint64_t value)
{
    return TRY("xsetbv", ::"c"(index), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)) : "memory");
}

/* EFER.FFXSR: FXSAVE and FXRSTOR of 64-bit kernel code leave XMM registers alone (APM 2 3.1.7). */
static void fast_fxsave(void)
{
    const uint64_t efer = rdmsr(MSR_EFER);
    uint64_t one[2] = {1, 2}, two[2] = {3, 4}, out[2];
    if (!has_feature(0x80000001u, 3, 25)) {
        check_eq(try_wrmsr(MSR_EFER, efer | 1ull << 14), GP, "ffxsr-absent");
        return;
    }
    uint8_t *const area = (uint8_t *)table_alloc();
    write_cr4(read_cr4() | CR4_OSFXSR);
    memset(area, 0x5a, 512);
    check_eq(try_wrmsr(MSR_EFER, efer | 1ull << 14), VEC_NONE, "ffxsr");
    asm volatile("movups %1, %%xmm3\n fxsave (%0)" ::"r"(area), "m"(one) : "memory");
    check_eq(area[160 + 3 * 16], 0x5a, "ffxsr-fxsave");
    asm volatile("movups %2, %%xmm3\n fxrstor (%1)\n movups %%xmm3, %0" : "=m"(out) : "r"(area), "m"(two) : "memory");
    check(out[0] == 3 && out[1] == 4, "ffxsr-fxrstor");
    wrmsr(MSR_EFER, efer);
    asm volatile("movups %1, %%xmm3\n fxsave (%0)" ::"r"(area), "m"(one) : "memory");
    check_eq(area[160 + 3 * 16], 1, "fxsave-xmm3");
    asm volatile("movups %2, %%xmm3\n fxrstor (%1)\n movups %%xmm3, %0" : "=m"(out) : "r"(area), "m"(two) : "memory");
    check(out[0] == 1 && out[1] == 2, "fxrstor-xmm3");
}

static void xsave(void)
{
    fast_fxsave();
    if (!HAS_XSAVE) {
        skip("xsave", "the processor has none");
        return;
    }
    write_cr4((read_cr4() | CR4_OSFXSR) & ~(uint64_t)CR4_OSXSAVE);
    check_eq(xsetbv(0, 1), UD, "xsetbv-without-osxsave");
    check_eq(TRY("xgetbv", ::"c"(0) : "rax", "rdx"), UD, "xgetbv-without-osxsave");
    uint8_t *const area = (uint8_t *)table_alloc(), *const fx = (uint8_t *)table_alloc();
    check_eq(TRY("xsave (%0)", ::"r"(area), "a"(3), "d"(0) : "memory"), UD, "xsave-without-osxsave");
    write_cr4(read_cr4() | CR4_OSXSAVE);
    check_eq(xsetbv(0, 1), VEC_NONE, "xsetbv-x87");
    check_eq(xsetbv(0, 0), GP, "xsetbv-no-x87");
    check_eq(xsetbv(0, 5), GP, "xsetbv-avx-without-sse");
    check_eq(xsetbv(0, 1ull << 62 | 3), GP, "xsetbv-bit-62");
    check_eq(xsetbv(1, 3), GP, "xsetbv-index-1");
    check_eq(xsetbv(0, 3), VEC_NONE, "xsetbv-sse");
    check_eq(cpuid(0xd, 0).b, 576, "cpuid-xsave-size-sse");
    uint32_t lo, hi;
    asm volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    check_eq(lo, 3, "xgetbv");
    check_eq(TRY("xgetbv", ::"c"(9) : "rax", "rdx"), GP, "xgetbv-index-9");
    if (HAS_AVX) {
        check_eq(TRY("vpxor %%ymm0, %%ymm0, %%ymm0", ::), UD, "avx-without-xcr0");
        check_eq(xsetbv(0, 7), VEC_NONE, "xsetbv-avx");
        check_eq(TRY("vpxor %%ymm0, %%ymm0, %%ymm0", ::), VEC_NONE, "avx");
        check_eq(cpuid(0xd, 0).b, 832, "cpuid-xsave-size-avx");
    }
    uint64_t pattern[2] = {0x1122334455667788ull, 0x99aabbccddeeff00ull}, out[2] = {0, 0};
    asm volatile("movups %0, %%xmm5" ::"m"(pattern));
    check_eq(TRY("xsave (%0)", ::"r"(area), "a"(3), "d"(0) : "memory"), VEC_NONE, "xsave");
    check(!memcmp(area + 160 + 5 * 16, pattern, 16), "xsave-xmm5");
    check_eq(area[512] & 2, 2, "xsave-xstate-bv");
    asm volatile("pxor %%xmm5, %%xmm5" ::: "memory");
    check_eq(TRY("xrstor (%0)", ::"r"(area), "a"(3), "d"(0) : "memory"), VEC_NONE, "xrstor");
    asm volatile("movups %%xmm5, %0" : "=m"(out));
    check(!memcmp(out, pattern, 16), "xrstor-xmm5");
    check_eq(TRY("xsave 8(%0)", ::"r"(area), "a"(3), "d"(0) : "memory"), GP, "xsave-unaligned");
    area[512 + 16] = 1;
    check_eq(TRY("xrstor (%0)", ::"r"(area), "a"(3), "d"(0) : "memory"), GP, "xrstor-bad-header");
    area[512 + 16] = 0;
    area[519] = 0x40;
    check_eq(TRY("xrstor (%0)", ::"r"(area), "a"(3), "d"(0) : "memory"), GP, "xrstor-bit-not-in-xcr0");
    check_eq(TRY("fxsave (%0)", ::"r"(fx) : "memory"), VEC_NONE, "fxsave");
    check(!memcmp(fx + 160 + 5 * 16, pattern, 16), "fxsave-xmm5");
    write_cr0(read_cr0() | CR0_TS);
    check_eq(TRY("xsave (%0)", ::"r"(area), "a"(3), "d"(0) : "memory"), NM, "xsave-ts");
    if (HAS_AVX)
        check_eq(TRY("vpxor %%ymm0, %%ymm0, %%ymm0", ::), NM, "avx-ts");
    write_cr0(read_cr0() & ~(uint64_t)CR0_TS);
    check_eq(TRY("xsave (%0)", ::"r"(TEST_VA), "a"(3), "d"(0) : "memory"), PF, "xsave-page-fault");
    check_eq(fault.error, PF_W, "xsave-page-fault-error");
    write_cr4(read_cr4() & ~(uint64_t)CR4_OSXSAVE);
}

/* Control registers moved to a register and back by it: any, RSP too, which is somewhere else in an exit. All keep their values. */
uint64_t move_seen[3];
#define MOVE(cr, reg)                                                                                                            \
    asm(".pushsection .text\nmove_" #cr "_" #reg ": mov %" #reg ", %r11\n mov %" #cr ", %" #reg "\n mov %" #reg ", move_seen\n"   \
        "mov %" #reg ", %" #cr "\n mov %" #reg ", move_seen+8\n mov %r11, %" #reg "\n mov %" #cr ", %rax\n mov %rax, move_seen+16\n" \
        "ret\n.popsection");                                                                                                     \
    void move_##cr##_##reg(void);
#define MOVES(cr) MOVE(cr, rax) MOVE(cr, rcx) MOVE(cr, rbx) MOVE(cr, rsp) MOVE(cr, rbp) MOVE(cr, rdi) MOVE(cr, r10) MOVE(cr, r15)
MOVES(cr0)
MOVES(cr3)
MOVES(cr4)

static void moves(void)
{
#define NAMES(cr) {move_##cr##_rax, move_##cr##_rcx, move_##cr##_rbx, move_##cr##_rsp, move_##cr##_rbp, move_##cr##_rdi, move_##cr##_r10, move_##cr##_r15}
    static void (*const fns[3][8])(void) = {NAMES(cr0), NAMES(cr3), NAMES(cr4)};
    static const char *const names[3][2] = {{"move-cr0", "move-cr0-by-rsp"}, {"move-cr3", "move-cr3-by-rsp"}, {"move-cr4", "move-cr4-by-rsp"}};
    const uint64_t values[3] = {read_cr0(), read_cr3(), read_cr4()};
    for (unsigned cr = 0; cr < 3; cr++) {
        bool good = true;
        for (unsigned i = 0; i < 8; i++) {
            move_seen[0] = move_seen[1] = move_seen[2] = 0;
            asm volatile("call *%0" ::"r"(fns[cr][i]) : "rax", "rcx", "rbx", "rdi", "r10", "r11", "r15", "memory");
            const bool ok = move_seen[0] == values[cr] && move_seen[1] == values[cr] && move_seen[2] == values[cr];
            if (i == 3)
                check(ok, names[cr][1]);
            else
                good &= ok;
        }
        check(good, names[cr][0]);
    }
}

void test_main(void)
{
    static void (*const parts[])(void) = {control_registers, msrs, cpuid_checks, debug, xsave, moves};
    for (unsigned i = 0; i < ARRAY_SIZE(parts); i++)
        if (!guest_arg || (guest_arg >> i & 1))
            parts[i]();
}
