/* SPDX-License-Identifier: MIT */
/*
 * What only 16- and 32-bit code has: string instructions by 16-bit addresses and through segments with
 * limits, in protected and real mode; PUSHA, ENTER, decimal arithmetic, BOUND, ARPL, XLAT; x87 images.
 */
#include "guest32.h"

#define LOW 0x20000u /* scratch below 1 MiB */
static uint8_t *const low = (uint8_t *)LOW;

static void set_seg(unsigned slot, uint32_t base, uint32_t limit, unsigned access, unsigned flags)
{
    gdt[SEL_FREE / 8 + slot] = descriptor(base, limit, access, flags);
}
#define SEL(slot) (SEL_FREE + 8 * (slot))

static void fill(uint32_t bytes)
{
    for (uint32_t i = 0; i < bytes; i++)
        low[i] = (uint8_t)(i * 7 + (i >> 8));
}

/* ---- strings ---- */

/* A string instruction with registers in and out. ES is loaded with `es`, FS with `fs` (the source, by prefix). */
struct string_regs {
    uint32_t esi, edi, ecx, eax;
};
#define STRING_BEHIND(pre, insn, r, fs_sel, es_sel)                                                                              \
    ({                                                                                                                 \
        unsigned vec_;                                                                                                 \
        fault.vector = VEC_NONE;                                                                                       \
        asm volatile("mov %5, %%fs; mov %4, %%es; " pre "\n7: " insn EX_ENTRY "push %%ds; pop %%es; cld"                          \
                     : "+S"((r).esi), "+D"((r).edi), "+c"((r).ecx), "+a"((r).eax)                                      \
                     : "r"((uint32_t)(es_sel)), "m"(*(const uint16_t *)&(const uint32_t){fs_sel})                       \
                     : "memory", "cc");                                                                                \
        vec_ = fault.vector;                                                                                           \
        vec_;                                                                                                          \
    })
#define STRING(insn, r, fs_sel, es_sel) STRING_BEHIND("", insn, r, fs_sel, es_sel)

static void test_strings(void)
{
    struct string_regs r;

    fill(0x30000);
    set_seg(0, LOW, 0xffff, 0x93, 0);            /* 64 KiB */
    set_seg(1, LOW + 0x10000, 0x12345, 0x93, 4); /* odd limit */
    set_seg(2, LOW, 0xfff, 0x97, 4);             /* expand-down: 1000h to 4 GiB */
    set_seg(3, LOW, 0xffff, 0x91, 0);            /* read-only */
    set_seg(5, LOW, 0x0fff, 0x97, 0);            /* expand-down: 1000h to ffffh */

    /* 16-bit addresses wrap in 64 KiB; the high halves of the registers stay. */
    r = (struct string_regs){.esi = 0xabcdfffe, .edi = 0x12348000, .ecx = 0x77770004};
    check_eq(STRING("rep; .byte 0x64, 0x67; movsb", r, SEL(0), SEL(0)), VEC_NONE, "movsb16");
    check_eq(r.esi, 0xabcd0002, "movsb16-si");
    check_eq(r.edi, 0x12348004, "movsb16-di");
    check_eq(r.ecx, 0x77770000, "movsb16-cx");
    check(low[0x8000] == low[0xfffe] && low[0x8001] == low[0xffff] && low[0x8002] == low[0] && low[0x8003] == low[1],
          "movsb16-bytes");
    r = (struct string_regs){.edi = 0xffff0002, .ecx = 3, .eax = 0x5566};
    check_eq(STRING_BEHIND("std", "rep; .byte 0x67; stosw", r, SEL(0), SEL(0)), VEC_NONE, "stosw16-down");
    check_eq(r.edi, 0xfffffffc, "stosw16-di");
    check(low[2] == 0x66 && low[0] == 0x66 && low[0xfffe] == 0x66 && low[0xffff] == 0x55, "stosw16-bytes");

    /* A word at ffff is beyond a 64 KiB limit. */
    r = (struct string_regs){.esi = 0xffff};
    check_eq(STRING(".byte 0x64, 0x67; lodsw", r, SEL(0), SEL(0)), GP, "lodsw16-ffff");
    check_eq(r.esi, 0xffff, "lodsw16-unchanged");
    check_eq(fault.error, 0, "lodsw16-error");

    /* The limit stops a run at the exact element. */
    fill(0x30000);
    r = (struct string_regs){.esi = 0x12340, .edi = 0, .ecx = 0x100};
    check_eq(STRING("rep; .byte 0x64; movsb", r, SEL(1), SEL(0)), GP, "limit-source");
    check_eq(r.esi, 0x12346, "limit-source-esi");
    check_eq(r.edi, 6, "limit-source-edi");
    check_eq(r.ecx, 0xfa, "limit-source-ecx");
    check_eq(memcmp(low, low + 0x10000 + 0x12340, 6), 0, "limit-source-bytes");
    r = (struct string_regs){.esi = 0, .edi = 0x11000, .ecx = 0x1000};
    check_eq(STRING("rep; .byte 0x64; movsl", r, SEL(0), SEL(1)), GP, "limit-destination");
    check_eq(r.edi, 0x12344, "limit-destination-edi");
    check_eq(r.ecx, 0x1000 - 0x1344 / 4, "limit-destination-ecx");
    /* Downwards through expand-down: 1000h is the last offset inside. */
    r = (struct string_regs){.esi = 0x1007, .edi = 0x9007, .ecx = 100};
    check_eq(STRING_BEHIND("std", "rep; .byte 0x64; movsb", r, SEL(2), SEL(0)), GP, "expand-down");
    check_eq(r.esi, 0xfff, "expand-down-esi");
    check_eq(r.ecx, 92, "expand-down-ecx");
    r = (struct string_regs){.esi = 0xfffe, .edi = 0x100, .ecx = 100};
    check_eq(STRING("rep; .byte 0x64; movsb", r, SEL(5), SEL(0)), GP, "expand-down-64k");
    check_eq(r.esi, 0x10000, "expand-down-64k-esi");

    /* Types. ES is not overridden by FS. */
    r = (struct string_regs){.esi = 0, .edi = 0, .ecx = 1};
    check_eq(STRING("rep; .byte 0x64; movsb", r, SEL(3), SEL(3)), GP, "read-only-destination");
    check_eq(STRING("rep; .byte 0x64; movsb", r, SEL(3), SEL(0)), VEC_NONE, "read-only-source");
    r = (struct string_regs){.edi = 0x20, .eax = 0x99};
    check_eq(STRING(".byte 0x64; stosb", r, SEL(3), SEL(0)), VEC_NONE, "stos-ignores-override");
    check_eq(low[0x20], 0x99, "stos-went-to-es");

    /* Comparisons. */
    fill(0x100);
    memcpy(low + 0x1000, low, 0x100);
    low[0x1042] ^= 1;
    r = (struct string_regs){.esi = 0x55550000, .edi = 0x66661000, .ecx = 0x100};
    STRING("repe; .byte 0x64, 0x67; cmpsb", r, SEL(0), SEL(0));
    check_eq(r.ecx, 0x100 - 0x43, "cmpsb16-cx");
    check_eq(r.esi, 0x55550043, "cmpsb16-si");
    r = (struct string_regs){.edi = 0x1000, .ecx = 0x10000, .eax = low[0x50]};
    STRING("repne; .byte 0x67; scasb", r, SEL(0), SEL(0)); /* CX is 0 */
    check_eq(r.ecx, 0x10000, "scasb16-no-count");
    check_eq(r.edi, 0x1000, "scasb16-no-move");

    /* Long runs through a base, and a stack-segment override's #SS. */
    fill(0x18000);
    r = (struct string_regs){.esi = 1, .edi = 0x2001, .ecx = 0xc000};
    check_eq(STRING("rep; .byte 0x64; movsb", r, SEL(0), SEL(1)), VEC_NONE, "long-run");
    check_eq(memcmp(low + 1, low + 0x12001, 0xc000), 0, "long-run-bytes");
    /* Overlapping by one byte is a fill, whatever the bases. */
    low[0x100] = 0x42;
    r = (struct string_regs){.esi = 0x100, .edi = 0x101, .ecx = 0x3000};
    STRING("rep; .byte 0x64; movsb", r, SEL(0), SEL(0));
    check(low[0x101] == 0x42 && low[0x1800] == 0x42 && low[0x3100] == 0x42, "overlap");
}

/* REP INS and OUTS by 16-bit addresses, stopped by the limit before the port is touched. */
static void test_port_strings(void)
{
    fill(0x10000);
    set_seg(0, LOW, 0xffff, 0x93, 0);
    set_seg(1, LOW, 0x1ff, 0x93, 0);
    outl(PORT_LOG_CTRL, 0);
    uint32_t esi = 0xaaaaffff, ecx = 3;
    asm volatile("mov %2, %%fs; rep; .byte 0x64, 0x67; outsb" : "+S"(esi), "+c"(ecx) : "r"(SEL(0)), "d"(PORT_TEST) : "memory");
    check_eq(esi, 0xaaaa0002, "outsb16-si");
    check_eq(ecx, 0, "outsb16-cx");
    for (unsigned i = 0; i < 3; i++) {
        (void)inl(PORT_LOG_DATA), (void)inl(PORT_LOG_DATA);
        check_eq(inl(PORT_LOG_DATA), low[i == 0 ? 0xffff : i - 1], "outsb16-byte");
        (void)inl(PORT_LOG_DATA);
    }
    outl(PORT_LOG_CTRL, 0);
    uint32_t edi = 0x1fc;
    ecx = 8;
    fault.vector = VEC_NONE;
    asm volatile("mov %2, %%es\n7: rep; insw" EX_ENTRY "push %%ds; pop %%es"
                 : "+D"(edi), "+c"(ecx) : "r"(SEL(1)), "d"(PORT_TEST) : "memory");
    check_eq(fault.vector, GP, "insw-limit");
    check_eq(edi, 0x200, "insw-limit-edi");
    check_eq(ecx, 6, "insw-limit-ecx");
    (void)inl(PORT_LOG_DATA), (void)inl(PORT_LOG_DATA), (void)inl(PORT_LOG_DATA), (void)inl(PORT_LOG_DATA);
    (void)inl(PORT_LOG_DATA), (void)inl(PORT_LOG_DATA), (void)inl(PORT_LOG_DATA), (void)inl(PORT_LOG_DATA);
    check_eq(inl(PORT_LOG_DATA), ~0u, "insw-two-accesses-only");
}

/* ---- old instructions ---- */

#define FLAGS_OF(insn, eax, flags)                                                                                     \
    ({                                                                                                                 \
        uint32_t a_ = (eax), f_ = (flags);                                                                             \
        asm volatile("push %1; popf; " insn "; pushf; pop %1" : "+a"(a_), "+r"(f_)::"cc");                             \
        (a_ & 0xffff) | (f_ & 0x8d5) << 16;                                                                            \
    })

/* Flags that are defined for all vendors: AF and CF of AAA and AAS; all but OF of DAA, DAS; SF ZF PF of AAM, AAD. */
static void test_decimal(void)
{
    check_eq(FLAGS_OF("daa", 0x12ae, 2) & ~0x8000000u, 0x1214 | 0x15u << 16, "daa");
    check_eq(FLAGS_OF("daa", 0x0079, 2 | 0x11) & ~0x8000000u, 0x00df | 0x91u << 16, "daa-carries");
    check_eq(FLAGS_OF("daa", 0x0034, 2) & ~0x8000000u, 0x0034, "daa-nothing");
    check_eq(FLAGS_OF("das", 0x00ee, 2) & ~0x8000000u, 0x0088 | 0x95u << 16, "das");
    check_eq(FLAGS_OF("das", 0x0003, 2 | 0x10) & ~0x8000000u, 0x00fd | 0x91u << 16, "das-borrows");
    check_eq(FLAGS_OF("aaa", 0x010b, 2) & 0x11ffff, 0x0201 | 0x11u << 16, "aaa");
    check_eq(FLAGS_OF("aaa", 0x0109, 2) & 0x11ffff, 0x0109, "aaa-nothing");
    check_eq(FLAGS_OF("aaa", 0xfffa, 2) & 0x11ffff, 0x0100 | 0x11u << 16, "aaa-ah-carries");
    check_eq(FLAGS_OF("aas", 0x0102, 2 | 0x10) & 0x11ffff, 0xff0c | 0x11u << 16, "aas");
    check_eq(FLAGS_OF("aam", 0x0063, 2) & 0xc4ffff, 0x0909 | 0x04u << 16, "aam");
    check_eq(FLAGS_OF("aam $7", 0xff15, 2) & 0xc4ffff, 0x0300 | 0x44u << 16, "aam-7");
    check_eq(FLAGS_OF("aad", 0x0905, 2) & 0xc4ffff, 0x005f | 0x04u << 16, "aad");
    check_eq(FLAGS_OF("aad $16", 0x0f0f, 2) & 0xc4ffff, 0x00ff | 0x84u << 16, "aad-16");
    check_eq(FLAGS_OF(".byte 0xd6", 0x1200, 3), 0x12ff | 1u << 16, "salc-set");
    check_eq(FLAGS_OF(".byte 0xd6", 0x12ff, 2), 0x1200, "salc-clear");
    check_eq(TRY("aam $0", ::: "eax", "cc"), DE, "aam-0");
}

static void test_bound_arpl_xlat(void)
{
    int32_t bounds[2] = {-5, 10};
    int16_t small[2] = {-5, 10};
    check_eq(TRY("bound %0, %1", ::"r"(-5), "m"(*(int64_t *)bounds)), VEC_NONE, "bound-low");
    check_eq(TRY("bound %0, %1", ::"r"(10), "m"(*(int64_t *)bounds)), VEC_NONE, "bound-high");
    check_eq(TRY("bound %0, %1", ::"r"(-6), "m"(*(int64_t *)bounds)), BR, "bound-below");
    check_eq(TRY("bound %0, %1", ::"r"(11), "m"(*(int64_t *)bounds)), BR, "bound-above");
    check_eq(TRY("bound %w0, %1", ::"r"(0x1fffb), "m"(*(int32_t *)small)), VEC_NONE, "boundw");
    check_eq(TRY("bound %w0, %1", ::"r"(0xfffa), "m"(*(int32_t *)small)), BR, "boundw-below");
    check_eq(TRY(".byte 0x62, 0xc0", ::), UD, "bound-register");

    uint16_t dest = 0x0010;
    uint8_t zf;
    asm volatile("arpl %w2, %0; setz %1" : "+m"(dest), "=q"(zf) : "r"(0x1b) : "cc");
    check_eq(dest << 8 | zf, 0x1301, "arpl-raises");
    asm volatile("arpl %w2, %0; setz %1" : "+m"(dest), "=q"(zf) : "r"(0x1a) : "cc");
    check_eq(dest << 8 | zf, 0x1300, "arpl-keeps");
    uint32_t reg = 0xabcd0041;
    asm volatile("arpl %w2, %w0; setz %1" : "+r"(reg), "=q"(zf) : "r"(3) : "cc");
    check_eq(reg, 0xabcd0043, "arpl-register");

    fill(0x10000);
    set_seg(0, LOW, 0xffff, 0x93, 0);
    uint32_t eax = 0x12345680, ebx = 0x777fffc0;
    asm volatile("mov %2, %%fs; fs addr16 xlat" : "+a"(eax) : "b"(ebx), "r"(SEL(0)));
    check_eq(eax, 0x12345600 | low[0x40], "xlat16");
    ebx = 0x10000;
    check_eq(TRY("fs xlat", : "+a"(eax) : "b"(ebx)), GP, "xlat-limit");
}

CODE16(stack16, "  mov %sp, %cs:stack16_sp - stack16\n"
                "  mov $0x2000, %ax\n  mov %ax, %ds\n"
                "  mov $0x3000, %ax\n  mov %ax, %ss\n  mov $4, %sp\n"
                "  mov $0xa0a0a0a0, %eax\n  mov $0xc1c10000, %ecx\n  mov $0x55555555, %ebp\n  mov $0x77777777, %edi\n"
                "  pusha\n"
                "  mov %sp, 0x100\n"
                "  popa\n"
                "  mov %sp, 0x102\n"
                "  pushal\n"
                "  mov %sp, 0x104\n"
                "  popal\n"
                "  enter $6, $0\n"
                "  mov %sp, 0x106\n"
                "  mov %bp, 0x108\n"
                "  push (%bp)\n"
                "  pop 0x114\n"
                "  enter $4, $3\n"
                "  mov %sp, 0x10a\n"
                "  mov %bp, 0x10c\n"
                "  leave\n"
                "  leave\n"
                "  mov %sp, 0x10e\n"
                "  mov $3, %cx\n"
                "1: incw 0x110\n"
                "  loop 1b\n"
                "  jcxz 2f\n"
                "  incw 0x112\n"
                "2: lss %cs:stack16_sp - stack16, %sp\n"
                "  lret\n"
                "stack16_sp: .word 0, 0");

/* In real mode, with a stack pointer that wraps in the middle of a frame. */
static void test_stack16(void)
{
    const uint16_t *out = (uint16_t *)(low + 0x100);
    memset(low + 0x100, 0, 0x20);
    memset((void *)0x30000, 0, 0x10000);
    real = (struct real_regs){0};
    check_eq(run_real(stack16, stack16_end), VEC_NONE, "runs");
    check_eq(out[0], 0xfff4, "pusha-sp");
    check_eq(out[1], 4, "popa-sp");
    check_eq(out[2], 0xffe4, "pushad-sp");
    check_eq(out[3], 0xfffc, "enter-sp"); /* 4 - 2 - 6 */
    check_eq(out[4], 2, "enter-bp");
    check_eq(out[5], 0xfffc - 2 - 6 - 4, "enter-3-sp");
    check_eq(out[6], 0xfffa, "enter-3-bp");
    check_eq(out[7], 4, "leave-leave-sp");
    check_eq(out[8], 3, "loop-cx");
    check_eq(out[9], 0, "jcxz");
    check_eq(out[10], 0x5555, "enter-pushed-bp");
    check_eq(real.eax, 0xa0a0a0a0, "popa-eax");
    check_eq(real.edi, 0x77777777, "popa-edi");
    check_eq(real.ecx, 0xc1c10000, "loop-keeps-high");
    check_eq(real.ebp, 0x55555555, "leave-ebp");
}

/* The eighth push would be at ffff: #SS, and none of them is done. The handler's stack is just wide enough. */
CODE16(pusha_odd, "  mov $0x3000, %ax\n  mov %ax, %ss\n  mov $15, %sp\n"
                  "  pusha\n"
                  "  lret");

static void test_stack_limit(void)
{
    memset((void *)0x30000, 0xee, 0x10000);
    real = (struct real_regs){0};
    check_eq(run_real(pusha_odd, pusha_odd_end), SS, "pusha-across-the-end");
    check_eq(real.sp, 15, "pusha-sp");
    check_eq(*(uint8_t *)0x3ffff, 0xee, "pusha-pushed-nothing");
}

/* ---- x87 and vector state ---- */

CODE16(real_fpu, "  mov $0x2000, %ax\n  mov %ax, %ds\n"
                 "  fninit\n"
                 "  fld1\n"
                 "  fnstenv 0x400\n"
                 "  data32 fnstenv 0x500\n"
                 "  fnsave 0x600\n"
                 "  frstor 0x600\n"
                 "  fldenv 0x400\n"
                 "  fistps 0x700\n"
                 "  fnstsw 0x702\n"
                 "  lret");

static void test_x87_images(void)
{
    static uint8_t img[160] __attribute__((aligned(16)));
    uint32_t *w = (uint32_t *)img;
    uint16_t *h = (uint16_t *)img;
    uint16_t out;

    write_cr4(read_cr4() | CR4_OSFXSR);
    memset(img, 0x5a, sizeof img);
    asm volatile("fninit; fld1; fldz; fnstenv %0" : "=m"(img));
    check_eq((uint16_t)w[0], 0x37f, "env32-fcw");
    check_eq((uint16_t)w[1], 0x3000, "env32-fsw");
    check_eq((uint16_t)w[2], 0x1fff, "env32-ftw");
    check_eq(img[28], 0x5a, "env32-28-bytes");
    memset(img, 0x5a, sizeof img);
    asm volatile("fninit; fld1; data16 fnstenv %0" : "=m"(img));
    check_eq(h[0], 0x37f, "env16-fcw");
    check_eq(h[1], 0x3800, "env16-fsw");
    check_eq(h[2], 0x3fff, "env16-ftw");
    check_eq(img[14], 0x5a, "env16-14-bytes");
    memset(img, 0x5a, sizeof img);
    asm volatile("fninit; fld1; fldpi; fnsave %0; fnstsw %1" : "=m"(img), "=m"(out));
    check_eq(out, 0, "fnsave-initialises");
    check_eq(img[108], 0x5a, "save32-108-bytes");
    check_eq(img[28 + 10 + 7], 0x80, "save32-st1"); /* 1.0 */
    asm volatile("frstor %1; fnstsw %0; fstp %%st(0); fistps %2" : "=m"(out), "+m"(img), "=m"(h[60]));
    check_eq(out & 0x3800, 0x3000, "frstor-top");
    check_eq(h[60], 1, "frstor-st1");
    memset(img, 0x5a, sizeof img);
    asm volatile("fninit; fld1; data16 fnsave %0" : "=m"(img));
    check_eq(img[94], 0x5a, "save16-94-bytes");
    check_eq(img[14 + 7], 0x80, "save16-st0");
    asm volatile("fninit; fldz; data16 frstor %0; fistps %1" : "+m"(img), "=m"(h[60]));
    check_eq(h[60], 1, "frstor16-st0");

    /* The forms of real mode. */
    memset(low + 0x400, 0x5a, 0x400);
    real = (struct real_regs){0};
    check_eq(run_real(real_fpu, real_fpu_end), VEC_NONE, "real-runs");
    check_eq(*(uint16_t *)(low + 0x400), 0x37f, "real-env16-fcw");
    check_eq(*(uint16_t *)(low + 0x402), 0x3800, "real-env16-fsw");
    check_eq(*(uint16_t *)(low + 0x408) & 0x800, 0, "real-env16-zero-bit");
    check_eq(low[0x40e], 0x5a, "real-env16-14-bytes");
    check_eq(*(uint16_t *)(low + 0x504), 0x3800, "real-env32-fsw");
    check_eq(*(uint32_t *)(low + 0x518) & 0xf0000fff, 0, "real-env32-zero-bits");
    check_eq(low[0x51c], 0x5a, "real-env32-28-bytes");
    check_eq(low[0x65e], 0x5a, "real-save16-94-bytes");
    check_eq(*(uint16_t *)(low + 0x700), 1, "real-frstor-st0");
}

/*
 * The instruction and data pointers. While no exception waits AMD's processors lose them at any switch of tasks, the
 * host's too: only then may a try fail.
 */
static void test_x87_pointers(void)
{
    static uint32_t env[7];
    static uint8_t area[512] __attribute__((aligned(16)));
    static uint32_t zero_word;
    uint16_t cw = 0x37b; /* zero divide is not masked */
    uint32_t at = 0, tries = 0;

    do
        asm volatile("fninit\n1: fldz; fnstenv %0; lea 1b, %1; fstp %%st(0)" : "=m"(env), "=r"(at));
    while (env[3] != at && ++tries < 1000);
    check_eq(env[3], at, "fip");
    check_eq((uint16_t)env[4], SEL_KCS, "fcs");

    write_cr4(read_cr4() | CR4_OSFXSR);
    asm volatile("fninit; fldcw %3; fld1\n1: fdivs (%4); fxsave %2; fnstenv %0; lea 1b, %1; fnclex"
                 : "=m"(env), "=r"(at), "=m"(area) : "m"(cw), "c"(&zero_word));
    check_eq(env[3], at, "waiting-fip");
    check_eq(env[4], 0x0310000 | SEL_KCS, "waiting-fop-fcs"); /* D8 31 */
    check_eq(env[5], (uint32_t)&zero_word, "waiting-fdp");
    check_eq((uint16_t)env[6], SEL_KDS, "waiting-fds");
    check_eq(*(uint16_t *)(area + 6), 0x31, "fxsave-fop");
    check_eq(*(uint32_t *)(area + 8), at, "fxsave-fip");
    check_eq(*(uint32_t *)(area + 16), (uint32_t)&zero_word, "fxsave-fdp");
    check_eq(*(uint16_t *)(area + 20), SEL_KDS, "fxsave-fds");

    /* Values that were loaded come back. */
    static uint32_t loaded[7] = {0xffff037f, 0xffff0000, 0xffffffff, 0x12345678, 0x05aa1234, 0x9abcdef0, 0xffff5678};
    tries = 0;
    do
        asm volatile("fldenv %1; fnstenv %0" : "=m"(env) : "m"(loaded));
    while (env[3] != loaded[3] && ++tries < 1000);
    check_eq(memcmp(env, loaded, sizeof env), 0, "fldenv-fnstenv");
}

static void test_fxsave(void)
{
    static uint8_t a[1024] __attribute__((aligned(64))), b[1024] __attribute__((aligned(64)));
    write_cr4(read_cr4() | CR4_OSFXSR);
    memset(a, 0x5a, sizeof a);
    asm volatile("fninit; pcmpeqd %%xmm7, %%xmm7; pxor %%xmm0, %%xmm0; fxsave %0" : "=m"(a));
    check_eq(a[160] | a[160 + 7 * 16] << 8, 0xff00, "fxsave-xmm0-xmm7");
    check_eq(a[288] << 8 | a[415], 0x5a5a, "fxsave-leaves-xmm8");
    asm volatile("pxor %%xmm7, %%xmm7; fxrstor %1; fxsave %0" : "=m"(b) : "m"(a));
    check_eq(b[160 + 7 * 16], 0xff, "fxrstor-xmm7");
    check_eq(TRY("fxsave %0", : "=m"(a[8])), GP, "fxsave-unaligned");
    set_seg(0, (uint32_t)a, 0x1fe, 0x93, 4);
    asm volatile("mov %0, %%fs" ::"r"(SEL(0)));
    check_eq(TRY("fxsave %%fs:0", ::: "memory"), GP, "fxsave-limit");
    if (!HAS_XSAVE) {
        skip("xsave", "the processor has none");
        return;
    }
    write_cr4(read_cr4() | CR4_OSXSAVE);
    asm volatile("xsetbv" ::"a"(3), "d"(0), "c"(0));
    memset(a, 0, sizeof a);
    memset(a + 288, 0x5a, 128);
    asm volatile("pcmpeqd %%xmm6, %%xmm6; xsave %0" : "+m"(a) : "a"(3), "d"(0));
    check_eq(a[160 + 6 * 16], 0xff, "xsave-xmm6");
    check_eq(a[288] << 8 | a[415], 0x5a5a, "xsave-leaves-xmm8");
    check_eq(a[512] & 2, 2, "xsave-bv");
    asm volatile("pxor %%xmm6, %%xmm6; xrstor %1; fxsave %0" : "=m"(b) : "m"(a), "a"(3), "d"(0));
    check_eq(b[160 + 6 * 16], 0xff, "xrstor-xmm6");
    a[512] = 0;
    asm volatile("xrstor %1; fxsave %0" : "=m"(b) : "m"(a), "a"(3), "d"(0));
    check_eq(b[160 + 6 * 16], 0, "xrstor-initial");
}

static void test_fpu_modes(void)
{
    static const struct { uint32_t cr0; unsigned x87, fwait, mmx; const char *name; } cases[] = {
        {0, VEC_NONE, VEC_NONE, VEC_NONE, "none"},
        {CR0_TS, NM, VEC_NONE, NM, "ts"},
        {CR0_TS | CR0_MP, NM, NM, NM, "ts-mp"},
        {CR0_EM, NM, VEC_NONE, UD, "em"},
        {CR0_EM | CR0_MP, NM, VEC_NONE, UD, "em-mp"},
        {CR0_MP, VEC_NONE, VEC_NONE, VEC_NONE, "mp"},
    };
    uint32_t cr0 = read_cr0() & ~(CR0_TS | CR0_EM | CR0_MP);
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        write_cr0(cr0 | cases[i].cr0);
        check_eq(TRY("fninit", ::), cases[i].x87, cases[i].name);
        check_eq(TRY("fwait", ::), cases[i].fwait, cases[i].name);
        check_eq(TRY("emms", ::), cases[i].mmx, cases[i].name);
        check_eq(TRY("fnsave %0", ::"m"(low[0])), cases[i].x87, cases[i].name);
    }
    write_cr0(cr0);
    /* An unmasked error waits for the next waiting instruction. */
    uint16_t cw = 0x37b; /* zero divide unmasked */
    asm volatile("fninit; fldcw %0; fldz; fld1; fdiv %%st(1), %%st" ::"m"(cw));
    check_eq(TRY("fnstsw %%ax", ::: "eax"), VEC_NONE, "error-waits");
    check_eq(TRY("fwait", ::), MF, "fwait-mf");
    check_eq(TRY("frstor %0", ::"m"(low[0])), MF, "frstor-mf");
    asm volatile("fnclex");
    write_cr0(cr0 | CR0_MP | CR0_NE);
}

USER_DATA static uint32_t user_word[4];
USER_TEXT static void user_misaligned(uint32_t what)
{
    switch (what) {
    case 0:
        asm volatile("movl (%0), %%eax" ::"r"((uint8_t *)user_word + 1) : "eax");
        break;
    case 1:
        asm volatile("lodsl" ::"S"((uint8_t *)user_word + 1) : "eax");
        break;
    case 2:
        asm volatile("lodsb" ::"S"((uint8_t *)user_word + 1) : "eax");
        break;
    case 3:
        asm volatile("fnstenv (%0)" ::"r"((uint8_t *)user_word + 2));
        break;
    case 4:
        asm volatile("mov %%esp, %%ebx; add $-2, %%esp; pusha; mov %%ebx, %%esp" ::: "ebx", "memory");
        break;
    case 5:
        asm volatile("bound %%eax, (%0)" ::"r"((uint8_t *)user_word + 2), "a"(0));
        break;
    default:
        break;
    }
}

static void test_alignment(void)
{
    write_cr0(read_cr0() | CR0_AM);
    user_eflags = 2 | FL_AC;
    check_eq(call_user(user_misaligned, 0), AC, "mov");
    check_eq(fault.error, 0, "error");
    check_eq(call_user(user_misaligned, 1), AC, "lods");
    check_eq(call_user(user_misaligned, 2), VEC_NONE, "lods-byte");
    check_eq(call_user(user_misaligned, 3), AC, "fnstenv");
    check_eq(call_user(user_misaligned, 4), AC, "pusha");
    check_eq(call_user(user_misaligned, 5), AC, "bound");
    user_eflags = 2;
    check_eq(call_user(user_misaligned, 0), VEC_NONE, "ac-clear");
    write_cr0(read_cr0() & ~CR0_AM);
}

void test_main(void)
{
    static void (*const parts[])(void) = {test_strings, test_port_strings, test_decimal, test_bound_arpl_xlat, test_stack16,
                                          test_stack_limit, test_x87_images, test_fxsave, test_fpu_modes, test_alignment, test_x87_pointers};
    for (unsigned i = 0; i < ARRAY_SIZE(parts); i++)
        if (guest_arg >> i & 1)
            parts[i]();
}
