/* SPDX-License-Identifier: MIT */
/*
 * Console, results, exceptions and modes of the 32-bit guest tests. Memory: real mode's thunk and
 * code below 0x18000, virtual-8086 mode's code and stack at 0x20000 and 0x30000, the image at 1 MiB.
 */
#include "guest32.h"

#include <stdarg.h>

#define PORT_CONSOLE 0xe9
#define PORT_EXIT 0xf4

volatile struct fault fault;
irq_fn *volatile irq_handlers[256];
uint32_t guest_arg, catch_esp;
uint32_t user_eflags = 2, user_cs = SEL_UCS | 3, user_ss = SEL_UDS | 3, user_esp;
uint8_t user_stack[4096] __attribute__((aligned(16))), ring0_stack[8192] __attribute__((aligned(16)));
static uint8_t df_stack[4096] __attribute__((aligned(16)));
uint64_t idt[256] __attribute__((aligned(16)));
struct tss32 tss __attribute__((aligned(16))), df_tss __attribute__((aligned(16)));
const struct table_ptr idt_ptr = {sizeof idt - 1, (uint32_t)idt};
uint16_t v86_ds = 0x4000;
struct real_regs real;
static unsigned failures;

extern const uint32_t ex_start[], ex_end[];
extern const uint8_t low_start[], low_end[], low_stubs[];
_Noreturn void catch_longjmp(void);
void exception(struct frame32 *f);
void enter_v86(uint32_t arg, uint32_t eflags);
void enter_real(void);
_Noreturn void guest_start(void);

_Static_assert(offsetof(struct real_regs, vector) == 50, "entry32.S");
_Static_assert(offsetof(struct tss32, redirection) == 104, "SDM 3A figure 7-2");

void *memcpy(void *dst, const void *src, size_t n)
{
    void *d = dst;
    asm volatile("rep movsb" : "+D"(d), "+S"(src), "+c"(n)::"memory");
    return dst;
}

void *memset(void *dst, int c, size_t n)
{
    void *d = dst;
    asm volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(c) : "memory");
    return dst;
}

int memcmp(const void *a, const void *b, size_t n)
{
    const uint8_t *x = a, *y = b;
    for (; n; n--, x++, y++)
        if (*x != *y)
            return *x < *y ? -1 : 1;
    return 0;
}

static void put(char c)
{
    outb(PORT_CONSOLE, (uint8_t)c);
}

static void put_number(uint32_t v, unsigned base)
{
    char buf[12];
    unsigned n = 0;
    do
        buf[n++] = "0123456789abcdef"[v % base];
    while (v /= base);
    while (n)
        put(buf[--n]);
}

void print(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    for (; *fmt; fmt++) {
        if (*fmt != '%') {
            put(*fmt);
            continue;
        }
        switch (*++fmt) {
        case 's':
            for (const char *s = va_arg(ap, const char *); *s; s++)
                put(*s);
            break;
        case 'c':
            put((char)va_arg(ap, int));
            break;
        default:
            put_number(va_arg(ap, uint32_t), *fmt == 'x' ? 16 : 10);
        }
    }
    va_end(ap);
}

void check(bool ok, const char *name)
{
    failures += !ok;
    print("%s %s\n", ok ? "PASS" : "FAIL", name);
}

void check_eq(uint32_t got, uint32_t expected, const char *name)
{
    if (got == expected) {
        print("PASS %s\n", name);
        return;
    }
    failures++;
    print("FAIL %s: got %x expected %x\n", name, got, expected);
}

void skip(const char *name, const char *why)
{
    print("SKIP %s: %s\n", name, why);
}

void finish(void)
{
    outb(PORT_EXIT, failures ? 1 : 0);
    for (;;)
        asm volatile("cli; hlt");
}

/* ---- exceptions ---- */

static void record(const struct frame32 *f)
{
    const bool vm = f->eflags & FL_VM, outer = vm || (f->cs & 3) != 0;
    fault.vector = f->vector;
    fault.error = f->error;
    fault.eip = f->eip;
    fault.cs = f->cs;
    fault.eflags = f->eflags;
    fault.esp = outer ? f->esp : (uint32_t)&f->esp;
    fault.ss = outer ? f->ss : 0;
    fault.es = vm ? f->v86_es : f->es;
    fault.ds = vm ? f->v86_ds : f->ds;
    fault.fs = vm ? f->v86_fs : f->fs;
    fault.gs = vm ? f->v86_gs : f->gs;
    fault.eax = f->eax;
    fault.ebx = f->ebx;
    fault.ecx = f->ecx;
    fault.edx = f->edx;
    fault.esi = f->esi;
    fault.edi = f->edi;
    fault.ebp = f->ebp;
    fault.handler_esp = (uint32_t)f;
    fault.handler_ds = f->ds;
    fault.handler_gs = f->gs;
    fault.tr = read_tr();
    if (f->vector == PF)
        fault.cr2 = read_cr2();
    if (f->vector == DB)
        fault.dr6 = read_dr6();
}

static bool is_end(const struct frame32 *f)
{
    const bool vm = f->eflags & FL_VM;
    const uint32_t eip = vm ? ((f->cs & 0xffff) << 4) + (f->eip & 0xffff) : f->eip;
    return f->vector == GP && (vm || (f->cs & 3) == 3) && f->error == 0 && eip < 0x200000 && *(const uint8_t *)eip == 0xf4;
}

/* C side of every entry: a test's handler, the end of outer code, a TRY, a run_…(), or a failure. */
void exception(struct frame32 *f)
{
    if (irq_handlers[f->vector]) {
        irq_handlers[f->vector](f);
        return;
    }
    record(f);
    if (is_end(f))
        fault.vector = VEC_NONE;
    for (const uint32_t *e = ex_start; !(f->eflags & FL_VM) && e != ex_end; e += 2) {
        bool trap = f->vector == DB || f->vector == BP || f->vector == OF || f->vector >= 32;
        if (e[0] == f->eip || (trap && e[1] == f->eip)) {
            f->eip = e[1];
            f->eflags &= ~FL_TF;
            return;
        }
    }
    if (catch_esp)
        catch_longjmp();
    print("FAIL unexpected-exception: vector %u error %x eip %x cs %x eflags %x\n", f->vector, f->error, f->eip, f->cs,
          f->eflags);
    failures++;
    finish();
}

uint64_t descriptor(uint32_t base, uint32_t limit, unsigned access, unsigned flags)
{
    return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)access << 40 |
           (uint64_t)(limit >> 16 & 15) << 48 | (uint64_t)flags << 52 | (uint64_t)(base >> 24) << 56;
}

uint64_t gate(uint32_t offset, unsigned selector, unsigned access, unsigned words)
{
    return (offset & 0xffff) | selector << 16 | (uint64_t)words << 32 | (uint64_t)access << 40 |
           (uint64_t)(offset >> 16) << 48;
}

void idt_set(unsigned vector, const void *entry, unsigned access, unsigned selector)
{
    idt[vector] = gate((uint32_t)entry, selector, access, 0);
}

void idt_reset(void)
{
    for (unsigned i = 0; i < 256; i++)
        idt_set(i, vector_stubs + 16 * i, 0x8e, SEL_KCS);
    idt[DF] = gate(0, SEL_DF_TSS, 0x85, 0);
}

USER_DATA static uint32_t call_stack[1024];
extern const uint8_t user_call[];
asm(".pushsection .user.text, \"ax\"\nuser_call: pop %eax\n call *%eax\n hlt\n.popsection");

unsigned call_user(void (*fn)(uint32_t), uint32_t arg)
{
    const uint32_t old = user_esp;
    call_stack[ARRAY_SIZE(call_stack) - 2] = (uint32_t)fn;
    call_stack[ARRAY_SIZE(call_stack) - 1] = arg;
    user_esp = (uint32_t)&call_stack[ARRAY_SIZE(call_stack) - 2];
    run_user(user_call, 0);
    user_esp = old;
    return fault.vector;
}

/* The double fault's task. */
static void double_fault(void)
{
    print("FAIL double-fault: tr of the old task %x eip %x cs %x\n", df_tss.link, tss.eip, tss.cs);
    failures++;
    finish();
}

void load_main_tss(void)
{
    tss.link = 0;
    tss.esp0 = (uint32_t)(ring0_stack + sizeof ring0_stack);
    tss.ss0 = SEL_KDS;
    tss.trap = 0;
    tss.iomap = offsetof(struct tss32, bitmap);
    tss.end = 0xff;
    gdt[SEL_TSS / 8] = descriptor((uint32_t)&tss, sizeof tss - 1, 0x89, 0);
    asm volatile("ltr %w0" ::"r"(SEL_TSS));
}

/* ---- modes ---- */

unsigned run_v86(const uint8_t *code, const uint8_t *end, uint32_t arg, uint32_t eflags)
{
    memcpy(V86_MEM(V86_CS, 0), code, (size_t)(end - code));
    enter_v86(arg, eflags);
    return fault.vector;
}

unsigned run_real(const uint8_t *code, const uint8_t *end)
{
    volatile uint16_t *const ivt = low_words(0);
    void *const low_regs = (void *)low_words(0x1000);
    memcpy((void *)0x10000, code, (size_t)(end - code));
    memcpy((void *)0x2000, low_start, (size_t)(low_end - low_start));
    for (unsigned i = 0; i < 64; i++) {
        ivt[2 * i] = (uint16_t)(0x2000 + (low_stubs - low_start) + 8 * i);
        ivt[2 * i + 1] = 0;
    }
    memcpy(low_regs, &real, sizeof real);
    enter_real();
    memcpy(&real, low_regs, sizeof real);
    return real.vector;
}

void cpuid(uint32_t leaf, uint32_t r[4])
{
    asm volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(0));
}

bool is_amd(void)
{
    uint32_t r[4];
    cpuid(0, r);
    return r[2] == 0x444d4163; /* "cAMD" */
}

bool has_feature(uint32_t leaf, unsigned reg, unsigned bit)
{
    uint32_t r[4];
    cpuid(leaf & 0x80000000u, r);
    if (r[0] < leaf)
        return false;
    cpuid(leaf, r);
    return r[reg] >> bit & 1;
}

void *page_alloc(void)
{
    static uint32_t next_page = 0x200000;
    void *p = (void *)next_page;
    next_page += 4096;
    return memset(p, 0, 4096);
}

void guest_start(void)
{
    idt_reset();
    asm volatile("lidt %0" ::"m"(idt_ptr));
    user_esp = (uint32_t)(user_stack + sizeof user_stack);
    df_tss.eip = (uint32_t)double_fault;
    df_tss.eflags = 2;
    df_tss.esp = (uint32_t)(df_stack + sizeof df_stack);
    df_tss.cs = SEL_KCS;
    df_tss.ss = df_tss.ds = df_tss.es = SEL_KDS;
    gdt[SEL_DF_TSS / 8] = descriptor((uint32_t)&df_tss, 103, 0x89, 0);
    load_main_tss();
    test_main();
    finish();
}
