/* SPDX-License-Identifier: MIT */
/*
 * Paging permissions against a model: every combination of P, W, U and NX at each level, and mixed
 * ones at all levels, with 4 KiB, 2 MiB and 1 GiB pages, for every CR0.WP, SMEP, SMAP, EFLAGS.AC,
 * CPL and kind of access. Then reserved bits. The argument is the stride: 1 tries every case.
 */
#include "guest.h"

enum kind { READ, WRITE, FETCH, KINDS };
enum { BIT_P = 1, BIT_W = 2, BIT_U = 4, BIT_NX = 8 };

struct context {
    bool wp, smep, smap, ac, user;
};

#define CASES 320u
static uint8_t cases[CASES][4]; /* [case][level - 1], BIT_* */
static uint64_t *tables[5];     /* tables[level]: holds the entry of that level */
static const uint64_t va = TEST_VA;
static uint64_t page; /* 4 KiB target, with a RET in it */

/* SDM 3A 4.6 and 4.7. Returns the error code, or -1 if the access is allowed. */
static int model(const struct context *c, const uint8_t *bits, unsigned leaf, enum kind kind)
{
    unsigned all = BIT_P | BIT_W | BIT_U, any_nx = 0;
    const unsigned error = (kind == WRITE ? PF_W : 0) | (c->user ? PF_U : 0) | (kind == FETCH ? PF_I : 0);
    for (unsigned level = 4; level >= leaf; level--) {
        if (!(bits[level - 1] & BIT_P))
            return (int)error;
        all &= bits[level - 1];
        any_nx |= bits[level - 1] & BIT_NX;
    }
    bool ok;
    const bool user_page = all & BIT_U, writable = all & BIT_W;
    if (c->user)
        ok = user_page && (kind != WRITE || writable) && (kind != FETCH || !any_nx);
    else if (kind == FETCH)
        ok = !any_nx && !(user_page && c->smep);
    else
        ok = !(user_page && c->smap && !c->ac) && (kind == READ || writable || !c->wp);
    return ok ? -1 : (int)(error | PF_P);
}

static void set_tables(const uint8_t *bits, unsigned leaf)
{
    for (unsigned level = 4; level >= leaf; level--) {
        uint64_t target = level > leaf ? (uint64_t)tables[level - 1] : level == 1 ? page : page & ~((1ull << (3 + 9 * level)) - 1);
        const unsigned b = bits[level - 1];
        uint64_t e = target | (b & BIT_P ? PTE_P : 0) | (b & BIT_W ? PTE_W : 0) | (b & BIT_U ? PTE_U : 0) |
                     (b & BIT_NX ? PTE_NX : 0) | (level == leaf && level > 1 ? PTE_PS : 0);
        uint64_t *slot = &tables[level][va >> (3 + 9 * level) & 511];
        *slot = e;
    }
    write_cr3((uint64_t)root_table); /* also the caches of upper levels */
}

USER_TEXT static void user_read(uint64_t a) { asm volatile("mov (%0), %%al" ::"r"(a) : "rax"); }
USER_TEXT static void user_write(uint64_t a) { asm volatile("movb $1, (%0)" ::"r"(a) : "memory"); }
USER_TEXT static void user_fetch(uint64_t a) { asm volatile("call *%0" ::"r"(a) : "memory"); }
static void kernel_read(uint64_t a) { asm volatile("mov (%0), %%al" ::"r"(a) : "rax"); }
static void kernel_write(uint64_t a) { asm volatile("movb $1, (%0)" ::"r"(a) : "memory"); }
void kernel_fetch(uint64_t a);
asm("kernel_fetch: jmp *%rdi"); /* the target is a RET to our caller */

static unsigned do_access(const struct context *c, enum kind kind, uint64_t a)
{
    static test_fn *const fns[2][KINDS] = {{kernel_read, kernel_write, kernel_fetch},
                                           {user_read, user_write, user_fetch}};
    unsigned v;
    user_rflags = 2 | (c->ac ? FL_AC : 0);
    if (c->user)
        return run_user(fns[1][kind], a);
    const uint64_t flags = read_rflags();
    write_rflags(c->ac ? flags | FL_AC : flags & ~(uint64_t)FL_AC);
    v = run_catch(fns[0][kind], a);
    write_rflags(flags & ~(uint64_t)FL_AC);
    return v;
}

static void context_name(char *out, const struct context *c, unsigned leaf, enum kind kind)
{
    const char *parts[] = {leaf == 1 ? "4k" : leaf == 2 ? "2m" : "1g", c->wp ? "-wp" : "", c->smep ? "-smep" : "",
                           c->smap ? "-smap" : "", c->ac ? "-ac" : "", c->user ? "-user" : "-kernel",
                           kind == READ ? "-read" : kind == WRITE ? "-write" : "-fetch"};
    for (unsigned i = 0; i < ARRAY_SIZE(parts); i++)
        for (const char *s = parts[i]; *s; s++)
            *out++ = *s;
    *out = 0;
}

static unsigned stride, first;

static void run_context(const struct context *c, unsigned leaf, enum kind kind)
{
    char name[64];
    unsigned bad = 0, start = stride > 1 ? first++ % stride : 0;
    uint64_t target = leaf == 1 ? va : va + (page & ((1ull << (3 + 9 * leaf)) - 1));
    context_name(name, c, leaf, kind);
    for (unsigned i = start; i < CASES; i += stride) {
        set_tables(cases[i], leaf);
        const int expected = model(c, cases[i], leaf, kind);
        const unsigned v = do_access(c, kind, target);
        const bool ok = expected < 0 ? v == VEC_NONE
                                     : v == PF && fault.error == (unsigned)expected && fault.cr2 == target;
        if (!ok && ++bad <= 3)
            print("%s: entries 4..1 %x %x %x %x (P=1 W=2 U=4 NX=8): got vector %x error %lx cr2 %lx, expected error %x\n",
                  name, cases[i][3], cases[i][2], cases[i][1], cases[i][0], v, fault.error, fault.cr2, (uint32_t)expected);
    }
    check_eq(bad, 0, name);
}

static void make_cases(void)
{
    unsigned n = 0;
    uint32_t random = 12345;
    for (unsigned level = 0; level < 4; level++)
        for (unsigned b = 0; b < 16; b++, n++)
            for (unsigned l = 0; l < 4; l++)
                cases[n][l] = (uint8_t)(l == level ? b : BIT_P | BIT_W | BIT_U);
    for (; n < CASES; n++)
        for (unsigned l = 0; l < 4; l++) {
            random = random * 1103515245 + 12345;
            cases[n][l] = (uint8_t)(random >> 20 & 15) | (random >> 26 & 7 ? BIT_P : 0);
        }
}

static void permissions(unsigned leaf)
{
    for (unsigned i = 0; i < 32 * KINDS; i++) {
        const struct context c = {i & 1, i & 2, i & 4, i & 8, i & 16};
        if ((c.smep && !HAS_SMEP) || (c.smap && !HAS_SMAP))
            continue;
        write_cr0(c.wp ? read_cr0() | CR0_WP : read_cr0() & ~(uint64_t)CR0_WP);
        write_cr4((read_cr4() & ~(uint64_t)(CR4_SMEP | CR4_SMAP)) | (c.smep ? CR4_SMEP : 0) | (c.smap ? CR4_SMAP : 0));
        run_context(&c, leaf, (enum kind)(i / 32));
    }
    write_cr0(read_cr0() | CR0_WP);
    write_cr4(read_cr4() & ~(uint64_t)(CR4_SMEP | CR4_SMAP));
}

static unsigned probe(unsigned level, unsigned leaf, uint64_t set)
{
    static const uint8_t open[4] = {7, 7, 7, 7};
    set_tables(open, leaf);
    tables[level][va >> (3 + 9 * level) & 511] |= set;
    write_cr3((uint64_t)root_table);
    unsigned v = run_catch(kernel_read, va);
    tables[level][va >> (3 + 9 * level) & 511] &= ~set;
    write_cr3((uint64_t)root_table);
    return v == PF ? (unsigned)fault.error | 0x100 : v;
}

static void reserved(void)
{
    const unsigned maxphys = cpuid(0x80000008u, 0).a & 0xff;
    const unsigned rsvd = 0x100 | PF_P | PF_RSVD;
    if (maxphys < 52) {
        check_eq(probe(1, 1, 1ull << 51), rsvd, "reserved-4k-bit51");
        check_eq(probe(1, 1, 1ull << maxphys), rsvd, "reserved-4k-maxphys");
        check_eq(probe(2, 1, 1ull << maxphys), rsvd, "reserved-pde-maxphys");
        check_eq(probe(3, 1, 1ull << maxphys), rsvd, "reserved-pdpte-maxphys");
        check_eq(probe(4, 1, 1ull << maxphys), rsvd, "reserved-pml4e-maxphys");
    }
    check_eq(probe(4, 1, PTE_PS), rsvd, "reserved-pml4e-ps");
    check_eq(probe(2, 2, 1ull << 13), rsvd, "reserved-2m-bit13");
    check_eq(probe(2, 2, 1ull << 20), rsvd, "reserved-2m-bit20");
    check_eq(probe(2, 2, 1ull << 12), VEC_NONE, "2m-pat-bit");
    if (HAS_1G) {
        check_eq(probe(3, 3, 1ull << 13), rsvd, "reserved-1g-bit13");
        check_eq(probe(3, 3, 1ull << 29), rsvd, "reserved-1g-bit29");
    }
    check_eq(probe(1, 1, 0x7full << 52), VEC_NONE, "ignored-bits-62-52");
    check_eq(probe(1, 1, 7ull << 9), VEC_NONE, "ignored-bits-11-9");
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~(uint64_t)EFER_NX);
    check_eq(probe(1, 1, PTE_NX), rsvd, "reserved-nx-without-nxe");
    check_eq(probe(3, 1, PTE_NX), rsvd, "reserved-pdpte-nx-without-nxe");
    static const uint8_t open[4] = {7, 7, 7, 7}, absent[4] = {6, 7, 7, 7};
    set_tables(open, 1);
    check_eq(run_catch(kernel_fetch, va), VEC_NONE, "fetch-without-nxe");
    set_tables(absent, 1);
    check_eq(run_catch(kernel_fetch, va), PF, "fetch-absent-without-nxe");
    check_eq(fault.error, HAS_SMEP && (read_cr4() & CR4_SMEP) ? PF_I : 0, "no-I-bit-without-nxe-and-smep");
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NX);
}

void test_main(void)
{
    stride = guest_arg ? (unsigned)guest_arg : 1;
    idt_set_ist(PF, 2);
    tables[4] = root_table;
    for (unsigned level = 3; level >= 1; level--)
        tables[level] = table_alloc();
    page = (uint64_t)table_alloc();
    memset((void *)page, 0xc3, 4096);
    *(uint8_t *)page = 0xc3;
    make_cases();
    if (stride < 64) {
        permissions(1);
        permissions(2);
        if (HAS_1G)
            permissions(3);
    }
    reserved();
}
