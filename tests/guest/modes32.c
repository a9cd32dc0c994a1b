/* SPDX-License-Identifier: MIT */
/*
 * Control and debug registers outside 64-bit mode, and the ways between the modes: protected and real
 * mode, paging, IA-32e mode and back (SDM 3A 9.8, 9.9).
 */
#include "guest32.h"

#define LOW 0x20000u
static uint8_t *const low = (uint8_t *)LOW;
#define SEL(slot) (SEL_FREE + 8 * (slot))

static void set_seg(unsigned slot, uint32_t base, uint32_t limit, unsigned access, unsigned flags)
{
    gdt[SEL_FREE / 8 + slot] = descriptor(base, limit, access, flags);
}

/* A far call of 16-bit code, which returns by LRETL; call16_result is its EAX. */
static struct {
    uint32_t offset;
    uint16_t selector;
} far16;
static uint32_t call16_result;
static void far_call(void)
{
    asm volatile("lcall *%1" : "=a"(call16_result) : "m"(far16) : "ecx", "edx", "memory", "cc");
}
static unsigned call16(unsigned selector, uint32_t offset)
{
    far16.selector = (uint16_t)selector;
    far16.offset = offset;
    return run_catch((void *)far_call, 0);
}

/* ---- control registers ---- */

static void lmsw(uint16_t v) { asm volatile("lmsw %w0" ::"r"(v)); }
USER_TEXT static void user_smsw(uint32_t arg)
{
    (void)arg;
    asm volatile("smsw %%eax" ::: "eax");
}
USER_TEXT static void user_clts(uint32_t arg)
{
    (void)arg;
    asm volatile("clts");
}
USER_TEXT static void user_mov_cr0(uint32_t arg)
{
    (void)arg;
    asm volatile("mov %%cr0, %%eax" ::: "eax");
}

static void test_control(void)
{
    uint32_t cr0 = read_cr0(), v;

    check_eq(cr0 & (CR0_PE | CR0_PG), CR0_PE, "cr0");
    asm volatile("smsw %0" : "=r"(v));
    check_eq(v, cr0, "smsw-32");
    v = 0x12340000;
    asm volatile("smsw %w0" : "+r"(v));
    check_eq(v, 0x12340000 | (cr0 & 0xffff), "smsw-16");
    lmsw((uint16_t)(cr0 & 0xfff0)); /* PE cannot be cleared, TS EM MP can */
    check_eq(read_cr0(), (cr0 & ~0xeu), "lmsw-keeps-pe");
    lmsw(CR0_TS | CR0_PE);
    check_eq(read_cr0() & 0xf, CR0_TS | CR0_PE, "lmsw-ts");
    asm volatile("clts");
    check_eq(read_cr0() & 0xf, CR0_PE, "clts");
    write_cr0(cr0);
    set_seg(0, LOW, 0xff, 0x93, 4);
    low[0x10] = (uint8_t)(CR0_MP | CR0_PE);
    low[0x11] = 0;
    asm volatile("mov %0, %%fs; lmsw %%fs:0x10" ::"r"(SEL(0)));
    check_eq(read_cr0() & 0xf, CR0_MP | CR0_PE, "lmsw-memory");
    check_eq(TRY("lmsw %%fs:0xff", ::), GP, "lmsw-limit");
    asm volatile("smsw %%fs:0x20" ::: "memory");
    check_eq(low[0x20] | low[0x21] << 8, (uint16_t)read_cr0(), "smsw-memory");
    write_cr0(cr0);

    check_eq(try_write_cr0((cr0 | CR0_PG) & ~CR0_PE), GP, "cr0-pg-without-pe");
    check_eq(try_write_cr0(cr0 | CR0_NW), GP, "cr0-nw-without-cd");
    check_eq(try_write_cr0(cr0 | 1u << 28), VEC_NONE, "cr0-reserved-ignored");
    check_eq(read_cr0(), cr0, "cr0-reserved-reads-0");
    check_eq(try_write_cr4(CR4_PCIDE), GP, "cr4-pcide-outside-ia32e");
    check_eq(try_write_cr4(1u << 31), GP, "cr4-reserved");
    write_cr3(0x12345678);
    check_eq(read_cr3(), 0x12345678, "cr3-without-paging");
    write_cr2(0xdeadbeef);
    check_eq(read_cr2(), 0xdeadbeef, "cr2");
    check_eq(TRY("mov %%cr1, %%eax", ::: "eax"), UD, "cr1");
    check_eq(TRY(".byte 0x0f, 0x22, 0xe8", ::), UD, "cr5");
    check_eq(TRY(".byte 0x0f, 0x20, 0xf8", ::: "eax"), UD, "cr7");
    check_eq(call_user(user_mov_cr0, 0), GP, "user-mov-cr0");
    check_eq(call_user(user_clts, 0), GP, "user-clts");
    check_eq(call_user(user_smsw, 0), VEC_NONE, "user-smsw");
    if (HAS_UMIP) {
        write_cr4(CR4_UMIP);
        check_eq(call_user(user_smsw, 0), GP, "user-smsw-umip");
        write_cr4(0);
    }
}

static uint32_t kernel_word(void)
{
    uint32_t v;
    asm volatile("movl 0xc0000000, %0" : "=r"(v)::"memory");
    return v;
}

/* INVLPG's operand has a segment's base, and no limit. */
static void test_invlpg_base(void)
{
    uint32_t *dir = page_alloc(), *table = page_alloc(), *a = page_alloc(), *b = page_alloc();

    *a = 1;
    *b = 2;
    write_cr4(CR4_PSE);
    for (uint32_t i = 0; i < 8; i++)
        dir[i] = i << 22 | PTE_P | PTE_W | PTE_PS;
    dir[0xd00] = 0;
    dir[0x300] = (uint32_t)table | PTE_P | PTE_W;
    table[0] = (uint32_t)a | PTE_P | PTE_W;
    write_cr3((uint32_t)dir);
    write_cr0(read_cr0() | CR0_PG);
    check_eq(kernel_word(), 1, "before");
    table[0] = (uint32_t)b | PTE_P | PTE_W;
    set_seg(0, 0xbff00000, 0xff, 0x93, 4);
    asm volatile("mov %0, %%fs; invlpg %%fs:0x100010" ::"r"(SEL(0)) : "memory");
    check_eq(kernel_word(), 2, "after");
    write_cr0(read_cr0() & ~CR0_PG);
    write_cr4(0);
}

/* ---- debug registers ---- */

static inline void write_dr0(uint32_t v) { asm volatile("mov %0, %%db0" ::"r"(v)); }
static inline void write_dr1(uint32_t v) { asm volatile("mov %0, %%db1" ::"r"(v)); }
static inline void write_dr6(uint32_t v) { asm volatile("mov %0, %%db6" ::"r"(v)); }

extern const uint8_t code16_stop[];
CODE16(code16, "  mov $5, %eax\n"
               "code16_stop:\n"
               "  inc %eax\n"
               "  lretl");

static void test_debug(void)
{
    static uint32_t word[4] __attribute__((aligned(16)));
    uint32_t v;

    check_eq(read_dr7(), 0x400, "dr7");
    write_dr6(0);
    check_eq(read_dr6(), 0xffff0ff0, "dr6-fixed");
    asm volatile(".byte 0x0f, 0x21, 0xf8" : "=a"(v)); /* mov eax, dr7 */
    check_eq(v, 0x400, "mov-dr7");
    check_eq(TRY(".byte 0x0f, 0x21, 0xe0", : "=a"(v)), VEC_NONE, "dr4");
    check_eq(v, 0xffff0ff0, "dr4-is-dr6");
    check_eq(TRY(".byte 0x0f, 0x21, 0xe8", : "=a"(v)), VEC_NONE, "dr5");
    check_eq(v, 0x400, "dr5-is-dr7");
    write_cr4(CR4_DE);
    check_eq(TRY(".byte 0x0f, 0x21, 0xe0", : "=a"(v)), UD, "dr4-de");
    check_eq(TRY(".byte 0x0f, 0x23, 0xe8", ::"a"(0)), UD, "dr5-de");
    write_cr4(0);

    /* Data breakpoints are linear: a segment's base counts. */
    write_dr0((uint32_t)&word[1]);
    write_dr7(0x402 | 0xdu << 16); /* G0, 4 bytes, writes */
    check_eq(TRY("movl $1, %0", : "=m"(word[1])), DB, "write");
    check_eq(read_dr6(), 0xffff0ff1, "write-dr6");
    check_eq(TRY("movl $1, %0", : "=m"(word[2])), VEC_NONE, "write-beside");
    check_eq(TRY("movl %1, %0", : "=r"(v) : "m"(word[1])), VEC_NONE, "read");
    write_dr6(0);
    set_seg(0, (uint32_t)word, 0xffff, 0x93, 4);
    asm volatile("mov %0, %%fs" ::"r"(SEL(0)));
    check_eq(TRY("movb $1, %%fs:7", ::: "memory"), DB, "write-by-base");
    check_eq(TRY("movl $1, %%fs:8", ::: "memory"), VEC_NONE, "beside-by-base");
    /* A string instruction stops behind the iteration that hit. */
    uint32_t edi = 0, ecx = 4;
    fault.vector = VEC_NONE;
    asm volatile("mov %2, %%es; xor %%eax, %%eax\n7: rep stosl" EX_ENTRY "push %%ds; pop %%es"
                 : "+D"(edi), "+c"(ecx) : "r"(SEL(0)) : "eax", "memory");
    check_eq(fault.vector, DB, "stos");
    check_eq(fault.ecx, 2, "stos-ecx");

    /* An instruction breakpoint in 16-bit code with a base. */
    write_dr6(0);
    set_seg(1, (uint32_t)code16, 0xffff, 0x9b, 0);
    write_dr1((uint32_t)code16_stop);
    write_dr7(0x400 | 8);
    check_eq(call16(SEL(1), 0), DB, "execute-16");
    check_eq(fault.eip, (uint32_t)(code16_stop - code16), "execute-16-eip");
    check_eq(read_dr6() & 0xf, 2, "execute-16-dr6");
    write_dr7(0x400);
    check_eq(call16(SEL(1), 0), VEC_NONE, "no-breakpoint");
    check_eq(call16_result, 6, "no-breakpoint-result");

    /* DR7.GD */
    write_dr6(0);
    write_dr7(0x400 | 1u << 13);
    check_eq(TRY("mov %%db0, %0", : "=r"(v)), DB, "gd");
    check_eq(read_dr6(), 0xffff0ff0 | 1u << 13, "gd-dr6");
    check_eq(read_dr7(), 0x400, "gd-cleared");
    write_dr6(0);
}

/* ---- real mode ---- */

CODE16(real_basic, "  mov $0x2000, %bx\n  mov %bx, %ds\n"
                   "  mov %sp, %bp\n"
                   "  mov $0x3000, %bx\n  mov %bx, %ss\n  mov $0x100, %sp\n"
                   "  add $1, %ax\n" /* 16 bits: the high half stays */
                   "  mov %ds, %bx\n"
                   "  movw 2(%si), %dx\n" /* DS */
                   "  movw %ss:(%di), %cx\n"
                   "  push %ax\n  pop %ax\n"
                   "  xor %si, %si\n  mov %si, %ss\n  mov %bp, %sp\n"
                   "  smsw %bp\n"
                   "  lret");
/* Through protected mode and back without a far jump: FS keeps the limit it got there, DS has its 64 KiB. */
CODE16(real_unreal, "  smsw %ax\n  or $1, %al\n  lmsw %ax\n"
                    "  mov $0x10, %bx\n"
                    "  mov %bx, %fs\n"
                    "  mov %cr0, %eax\n  and $0xfe, %al\n  mov %eax, %cr0\n"
                    "  mov $0x100000, %esi\n"
                    "  movl %fs:(%esi), %edx\n"
                    "  mov $1, %edi\n"
                    "  movl %ds:(%esi), %ecx\n"
                    "  mov $2, %edi\n"
                    "  lret");

static void test_real(void)
{
    *(uint16_t *)(low + 0x12) = 0xbeef;
    *(uint16_t *)0x30020 = 0xcafe;
    real = (struct real_regs){.eax = 0x1234ffff, .ebx = 0x55555555, .esi = 0x10, .edi = 0x20};
    check_eq(run_real(real_basic, real_basic_end), VEC_NONE, "runs");
    check_eq(real.eax, 0x12340000, "add-16");
    check_eq(real.ebx, 0x55550000 | LOW >> 4, "ds");
    check_eq((uint16_t)real.edx, 0xbeef, "load-ds");
    check_eq((uint16_t)real.ecx, 0xcafe, "load-ss");
    check_eq(*(uint16_t *)0x300fe, 0, "push-ss");
    check_eq((uint16_t)real.ebp, read_cr0() & 0xfffe, "smsw");
    check_eq(read_cr0() & CR0_PE, CR0_PE, "back");

    real = (struct real_regs){0};
    check_eq(run_real(real_unreal, real_unreal_end), GP, "limit-64k");
    check_eq(real.edx, *(uint32_t *)0x100000, "big-real-read");
    check_eq(real.edi, 1, "big-real-goes-on");
}

/* ---- IA-32e mode ---- */

struct trip {
    uint32_t efer_on, pae_gp, lme_gp, high, pg_gp, cr8, efer_off, compat_high;
};
struct trip trip;
uint64_t idt64[64];
uint32_t trip_gp, trip_resume;
void long_trip(uint32_t cr3, uint32_t sel64);
extern const uint8_t handler64[], pg_with_l[];

asm(".text\n"
    "long_trip:\n"
    "  push %ebx\n  push %ebp\n  push %esi\n  push %edi\n"
    "  mov 20(%esp), %eax\n  mov %eax, %cr3\n"
    "  mov 24(%esp), %eax\n  mov %ax, far64 + 4\n"
    "  mov $0x20, %eax\n  mov %eax, %cr4\n"
    "  mov $0xc0000080, %ecx\n  rdmsr\n  or $0x100, %eax\n  wrmsr\n"
    "  mov %cr0, %eax\n  bts $31, %eax\n  mov %eax, %cr0\n" /* 32-bit code of compatibility mode from here */
    "  rdmsr\n  mov %eax, trip + 0\n"
    "  lidt idt64_ptr\n"
    "  movl $0, trip_gp\n  movl $1f, trip_resume\n"
    "  mov %cr4, %eax\n  btr $5, %eax\n  mov %eax, %cr4\n"
    "1: mov trip_gp, %eax\n  mov %eax, trip + 4\n"
    "  movl $0, trip_gp\n  movl $2f, trip_resume\n"
    "  mov $0xc0000080, %ecx\n  xor %eax, %eax\n  xor %edx, %edx\n  wrmsr\n"
    "2: mov trip_gp, %eax\n  mov %eax, trip + 8\n"
    "  ljmp *far64\n"
    ".code64\n" /* symbols in 32-bit registers: this is a 32-bit object */
    "3: mov $trip, %esi\n"
    "  movabs $0x123456789abcdef0, %rax\n  mov %rax, %r15\n  shr $32, %rax\n  mov %eax, 12(%rsi)\n"
    "  mov $5, %eax\n  mov %rax, %cr8\n  mov %cr8, %rbx\n  mov %ebx, 20(%rsi)\n  xor %eax, %eax\n  mov %rax, %cr8\n"
    "  mov $trip_gp, %edi\n  movl $0, (%rdi)\n  mov $4f, %ebx\n  mov $trip_resume, %eax\n  mov %ebx, (%rax)\n"
    "  mov %cr0, %rax\n  btr $31, %rax\n  mov %rax, %cr0\n"
    "4: mov (%rdi), %eax\n  mov %eax, 16(%rsi)\n"
    "  mov $5f, %ebx\n  push $8\n  push %rbx\n  lretq\n"
    ".code32\n"
    "5: mov %cr0, %eax\n  btr $31, %eax\n  mov %eax, %cr0\n" /* legacy again */
    "  mov $0xc0000080, %ecx\n  rdmsr\n  mov %eax, trip + 24\n"
    "  xor %eax, %eax\n  wrmsr\n  mov %eax, %cr4\n"
    "  lidt idt_ptr\n"
    "  pop %edi\n  pop %esi\n  pop %ebp\n  pop %ebx\n"
    "  ret\n"
    ".code64\n"
    "handler64:\n"
    "  add $8, %rsp\n"
    "  push %rax\n"
    "  mov $trip_gp, %eax\n  incl (%rax)\n"
    "  mov $trip_resume, %eax\n  mov (%rax), %eax\n  mov %rax, 8(%rsp)\n"
    "  pop %rax\n"
    "  iretq\n"
    ".code32\n"
    ".pushsection .data\n"
    "far64: .long 3b, 0\n"
    "idt64_ptr: .word 64 * 8 - 1\n  .long idt64, 0\n"
    ".popsection\n"
    ".code16\n"
    "pg_with_l: mov %cr0, %eax\n  bts $31, %eax\n  mov %eax, %cr0\n  lretl\n"
    ".code32\n");

static void test_long(void)
{
    uint64_t *pml4 = page_alloc(), *pdpt = page_alloc(), *pd = page_alloc();

    pml4[0] = (uint32_t)pdpt | PTE_P | PTE_W;
    pdpt[0] = (uint32_t)pd | PTE_P | PTE_W;
    for (uint32_t i = 0; i < 16; i++)
        pd[i] = i << 21 | PTE_P | PTE_W | PTE_PS;
    set_seg(0, 0, 0xfffff, 0x9b, 8 | 2); /* L */
    uint32_t h = (uint32_t)handler64;
    idt64[2 * GP] = (h & 0xffff) | SEL(0) << 16 | (uint64_t)((h & 0xffff0000) | 0x8e00) << 32;
    for (unsigned i = 0; i < 3; i++) {
        trip = (struct trip){0};
        long_trip((uint32_t)pml4, SEL(0));
        check_eq(trip.efer_on & (EFER_LME | EFER_LMA), EFER_LME | EFER_LMA, "lma");
        check_eq(trip.pae_gp, 1, "cr4-pae-in-ia32e");
        check_eq(trip.lme_gp, 1, "lme-with-paging");
        check_eq(trip.high, 0x12345678, "64-bit");
        check_eq(trip.cr8, 5, "cr8");
        check_eq(trip.pg_gp, 1, "cr0-pg-in-64-bit-code");
        check_eq(trip.efer_off & (EFER_LME | EFER_LMA), EFER_LME, "lma-off");
    }
    /* IA-32e mode is not entered without PAE, nor from code with CS.L. */
    wrmsr(MSR_EFER, EFER_LME);
    check_eq(try_write_cr0(read_cr0() | CR0_PG), GP, "pg-without-pae");
    write_cr4(CR4_PAE);
    write_cr3((uint32_t)pml4);
    check_eq(call16(SEL(0), (uint32_t)pg_with_l), GP, "pg-with-cs-l");
    check_eq((uint32_t)rdmsr(MSR_EFER), EFER_LME, "efer-unchanged");
    wrmsr(MSR_EFER, 0);
    write_cr4(0);
}

void test_main(void)
{
    static void (*const parts[])(void) = {test_control, test_invlpg_base, test_debug, test_real, test_long};
    for (unsigned i = 0; i < ARRAY_SIZE(parts); i++)
        if (guest_arg >> i & 1)
            parts[i]();
}
