/* SPDX-License-Identifier: MIT */
/*
 * Console, results, exceptions and page tables of the guest tests. Memory: the image lies in
 * 1 to 2 MiB, pages for tables are taken from 2 MiB up, RAM ends at 32 MiB. The identity map is
 * supervisor-only but for the image's .user sections.
 */
#include "guest.h"

#include <stdarg.h>

volatile struct fault fault;
irq_fn *volatile irq_handlers[256];
uint64_t guest_arg, user_rflags = 2, user_result, catch_rsp;
uint8_t user_stack[8192] __attribute__((section(".user.data"), aligned(16)));
uint8_t ist_stack[7][4096] __attribute__((aligned(16)));
uint8_t rsp0_stack[8192] __attribute__((aligned(16)));
struct idt_gate idt[256] __attribute__((aligned(16)));
struct tss tss __attribute__((aligned(16)));
uint64_t root_table[512] __attribute__((aligned(4096)));
static unsigned failures;
static uint64_t next_page = 0x200000;

extern uint8_t vector_stubs[], user_start[], user_end[];
extern const uint64_t ex_start[], ex_end[];
_Noreturn void catch_longjmp(void);
void exception(struct frame *f);
_Noreturn void guest_start(void);

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

static void put_number(uint64_t v, unsigned base)
{
    char buf[24];
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
        bool wide = *++fmt == 'l';
        if (wide)
            fmt++;
        if (*fmt == 's')
            for (const char *s = va_arg(ap, const char *); *s; s++)
                put(*s);
        else if (*fmt == 'c')
            put((char)va_arg(ap, int));
        else if (*fmt == 'p')
            put_number(va_arg(ap, uint64_t), 16);
        else if (*fmt == 'x' || *fmt == 'u')
            put_number(wide ? va_arg(ap, uint64_t) : va_arg(ap, uint32_t), *fmt == 'x' ? 16 : 10);
        else
            put('%');
    }
    va_end(ap);
}

void check(bool ok, const char *name)
{
    failures += !ok;
    print("%s %s\n", ok ? "PASS" : "FAIL", name);
}

void check_eq(uint64_t got, uint64_t expected, const char *name)
{
    if (got == expected) {
        print("PASS %s\n", name);
        return;
    }
    failures++;
    print("FAIL %s: got %lx expected %lx\n", name, got, expected);
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

static void record(const struct frame *f)
{
    fault.vector = f->vector;
    fault.error = f->error;
    fault.rip = f->rip;
    fault.cs = f->cs;
    fault.rflags = f->rflags;
    fault.rsp = f->rsp;
    fault.ss = f->ss;
    fault.rax = f->rax;
    fault.rcx = f->rcx;
    fault.rsi = f->rsi;
    fault.rdi = f->rdi;
    fault.handler_rsp = (uint64_t)f;
    if (f->vector == PF)
        fault.cr2 = read_cr2();
    if (f->vector == DB)
        fault.dr6 = read_dr6();
}

/* C side of every entry: a test's handler, the end of user code, a TRY, a run_catch(), or a failure. */
void exception(struct frame *f)
{
    if (irq_handlers[f->vector]) {
        irq_handlers[f->vector](f);
        return;
    }
    if (f->vector == UD && f->rip == (uint64_t)user_return) {
        user_result = f->rax;
        catch_longjmp();
    }
    for (const uint64_t *e = ex_start; e != ex_end; e += 2) {
        bool trap = f->vector == DB || f->vector == BP || f->vector == OF || f->vector >= 32;
        if (e[0] == f->rip || (trap && e[1] == f->rip)) {
            record(f);
            f->rip = e[1];
            f->rflags &= ~(uint64_t)FL_TF;
            return;
        }
    }
    record(f);
    if (catch_rsp)
        catch_longjmp();
    print("FAIL unexpected-exception: vector %u error %lx rip %lx cs %lx rsp %lx cr2 %lx\n", (uint32_t)f->vector,
          f->error, f->rip, f->cs, f->rsp, read_cr2());
    failures++;
    finish();
}

void idt_set(unsigned vector, void *entry, unsigned type_attr, unsigned ist, unsigned selector)
{
    uint64_t a = (uint64_t)entry;
    idt[vector] = (struct idt_gate){(uint16_t)a,           (uint16_t)selector,  (uint8_t)ist, (uint8_t)type_attr,
                    (uint16_t)(a >> 16), (uint32_t)(a >> 32), 0};
}

void idt_set_ist(unsigned vector, unsigned ist)
{
    idt[vector].ist = (uint8_t)ist;
}

void idt_set_dpl(unsigned vector, unsigned dpl)
{
    idt[vector].type_attr = (uint8_t)((idt[vector].type_attr & ~0x60u) | dpl << 5);
}

void idt_set_present(unsigned vector, bool present)
{
    idt[vector].type_attr = (uint8_t)((idt[vector].type_attr & 0x7fu) | (present ? 0x80u : 0));
}

void idt_reset(void)
{
    for (unsigned i = 0; i < 256; i++)
        idt_set(i, vector_stubs + 16 * i, 0x8e, 0, SEL_KCS);
    idt_set_dpl(0x80, 3);
    idt_set_ist(DF, 1);
}

void exceptions_init(void)
{
    idt_reset();
    const struct table_ptr p = {sizeof idt - 1, (uint64_t)idt};
    asm volatile("lidt %0" ::"m"(p));
    tss.rsp[0] = (uint64_t)(rsp0_stack + sizeof rsp0_stack);
    for (unsigned i = 0; i < 7; i++)
        tss.ist[i] = (uint64_t)(ist_stack[i] + sizeof ist_stack[i]);
    tss.iomap = sizeof tss;
    uint64_t base = (uint64_t)&tss, limit = 103;
    gdt[SEL_TSS / 8] = limit | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
    gdt[SEL_TSS / 8 + 1] = base >> 32;
    asm volatile("ltr %w0" ::"r"(SEL_TSS));
    *(uint64_t *)(user_stack + sizeof user_stack - 8) = (uint64_t)user_return;
}

/* ---- paging ---- */

uint64_t *table_alloc(void)
{
    uint64_t *t = (uint64_t *)next_page;
    next_page += 4096;
    memset(t, 0, 4096);
    return t;
}

uint64_t *pte_of(uint64_t *root, uint64_t va, unsigned level)
{
    uint64_t *table = root;
    for (unsigned l = 4; l > level; l--) {
        uint64_t *e = &table[va >> (3 + 9 * l) & 511];
        if (!(*e & PTE_P))
            *e = (uint64_t)table_alloc() | PTE_P | PTE_W | PTE_U;
        table = (uint64_t *)(*e & PTE_ADDR);
    }
    return &table[va >> (3 + 9 * level) & 511];
}

void map_page(uint64_t va, uint64_t pa, uint64_t flags)
{
    *pte_of(root_table, va, 1) = pa | flags;
    invlpg(va);
}

static void paging_init(void)
{
    for (uint64_t va = 0x200000; va < 1ull << 32; va += 0x200000)
        *pte_of(root_table, va, 2) = va | PTE_P | PTE_W | PTE_PS | PTE_A | PTE_D;
    for (uint64_t va = 0; va < 0x200000; va += 4096) {
        bool user = va >= (uint64_t)user_start && va < (uint64_t)user_end;
        *pte_of(root_table, va, 1) = va | PTE_P | PTE_W | PTE_A | PTE_D | (user ? PTE_U : 0);
    }
    write_cr3((uint64_t)root_table);
}

/* ---- CPU ---- */

bool is_amd(void)
{
    struct cpuid c = cpuid(0, 0);
    return c.c == 0x444d4163; /* "cAMD" */
}

bool has_feature(uint32_t leaf, unsigned reg, unsigned bit)
{
    if (cpuid(leaf & 0x80000000u, 0).a < leaf)
        return false;
    struct cpuid c = cpuid(leaf, 0);
    uint32_t r[4] = {c.a, c.b, c.c, c.d};
    return r[reg] >> bit & 1;
}

bool have_test_device(void)
{
    return inl(PORT_PRESENT) == 0x4b414745;
}

void guest_start(void)
{
    exceptions_init();
    paging_init();
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NX);
    write_cr0((read_cr0() & ~(uint64_t)(CR0_CD | CR0_NW | CR0_EM | CR0_TS)) | CR0_MP | CR0_NE | CR0_WP);
    test_main();
    finish();
}
