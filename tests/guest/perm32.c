/* SPDX-License-Identifier: MIT */
/*
 * Permissions in 32-bit code, with two levels and with PAE: see perm.h. The argument, of 32 bits here: stride, start from bit 16 on,
 * formats from bit 28 on.
 */
#include "guest32.h"
#include "perm.h"

#define SEL_LDT SEL_FREE
#define LDT_SELECTOR 0x27u /* entry 4 of the LDT, RPL 3 */
#define TEST_VA 0xc0000000u
#define LOW_BYTES (32u << 20)

volatile uint64_t perm_cr2;
volatile uint32_t perm_error;
uint32_t perm_esp;
extern uint8_t perm_pf[], perm_ud[], user_start[], user_end[];
void perm_kernel(uint32_t fn, uint32_t va, uint32_t eflags);
void perm_user(uint32_t fn, uint32_t va, uint32_t eflags);
extern const uint32_t perm_kernel_fns[PERM_KINDS], perm_user_fns[PERM_KINDS]; /* perm32.S */

const uint64_t perm_descriptor[2] = {0x00cff3000000ffff, 0x00cff2000000ffff};
static uint32_t base_frame, root[2];

int perm_do(struct perm_access a, bool ac, uint64_t va)
{
    const uint32_t flags = 2 | (ac ? FL_AC : 0);
    if (a.kind == IMPLICIT_READ || a.kind == IMPLICIT_WRITE) {
        gdt[SEL_LDT / 8] = descriptor((uint32_t)va - (LDT_SELECTOR & ~7u), 39, 0x82, 0);
        asm volatile("lldt %w0" ::"r"(SEL_LDT));
    }
    perm_error = ~0u;
    if (a.user)
        perm_user(perm_user_fns[a.kind], (uint32_t)va, flags);
    else
        perm_kernel(perm_kernel_fns[a.kind], (uint32_t)va, flags);
    return (int)perm_error;
}

void perm_flush(uint64_t va) { invlpg((uint32_t)va); }
void perm_flush_all(void) { write_cr3(read_cr3()); }

bool perm_has_context(const struct perm_format *f, const struct perm_context *c)
{
    return (!c->pse || !f->wide) && (!c->smep || HAS_SMEP) && (!c->smap || HAS_SMAP) && (!c->nxe || (f->wide && HAS_NX));
}

void perm_set_context(const struct perm_context *c)
{
    const uint32_t cr4 = read_cr4() & ~(CR4_SMEP | CR4_SMAP | CR4_PSE);
    write_cr0(c->wp ? read_cr0() | CR0_WP : read_cr0() & ~CR0_WP);
    write_cr4(cr4 | CR4_PGE | (c->smep ? CR4_SMEP : 0) | (c->smap ? CR4_SMAP : 0) | (c->pse ? CR4_PSE : 0));
    if (HAS_NX)
        wrmsr(MSR_EFER, c->nxe ? rdmsr(MSR_EFER) | EFER_NX : rdmsr(MSR_EFER) & ~(uint64_t)EFER_NX);
}

const unsigned perm_format_count = 2;

static unsigned maxphyaddr(void)
{
    uint32_t r[4];
    cpuid(0x80000000u, r);
    if (r[0] < 0x80000008u)
        return 36;
    cpuid(0x80000008u, r);
    return r[0] & 0xff;
}

static bool is_user(uint32_t pa)
{
    return pa >= (uint32_t)user_start && pa < (uint32_t)user_end;
}

/* The first 32 MiB one to one, for supervisors but for the image's user pages; and the tables of the address under test. */
static void narrow_make(struct perm_format *f)
{
    uint32_t *dir = page_alloc(), *table = page_alloc();
    for (uint32_t i = 0; i < LOW_BYTES >> 22; i++) {
        uint32_t *t = page_alloc();
        for (uint32_t n = 0; n < 1024; n++)
            t[n] = (i << 22 | n << 12) | PTE_P | PTE_W | (is_user(i << 22 | n << 12) ? PTE_U : 0);
        dir[i] = (uint32_t)t | PTE_P | PTE_W | PTE_U;
    }
    root[0] = (uint32_t)dir;
    f->entry[2] = &dir[TEST_VA >> 22];
    f->next[2] = (uint32_t)table;
    f->entry[1] = &table[5];
    f->va[1] = TEST_VA + 0x5000;
    f->va[2] = TEST_VA + (base_frame & 0x3fffff);
}

static void pae_make(struct perm_format *f)
{
    uint64_t *pdpt = page_alloc(), *low = page_alloc(), *pd = page_alloc(), *table = page_alloc(), *first = page_alloc();
    pdpt[0] = (uint32_t)low | PTE_P;
    pdpt[3] = (uint32_t)pd | PTE_P;
    for (uint32_t i = 0; i < LOW_BYTES >> 21; i++)
        low[i] = i << 21 | PTE_P | PTE_W | PTE_PS;
    for (uint32_t n = 0; n < 512; n++)
        first[n] = n << 12 | PTE_P | PTE_W | (is_user(n << 12) ? PTE_U : 0);
    low[0] = (uint32_t)first | PTE_P | PTE_W | PTE_U;
    root[1] = (uint32_t)pdpt;
    f->entry[3] = &pdpt[3];
    f->next[3] = (uint32_t)pd;
    f->entry[2] = &pd[5];
    f->next[2] = (uint32_t)table;
    f->entry[1] = &table[5];
    f->va[1] = TEST_VA + 0xa05000;
    f->va[2] = TEST_VA + 0xa00000 + (base_frame & 0x1fffff);
}

const char *perm_enter(unsigned index, struct perm_format *f)
{
    f->name = index ? "pae" : "32-bit";
    f->levels = 2 + index;
    f->wide = index;
    f->maxphyaddr = maxphyaddr();
    if (!base_frame) {
        page_alloc(); /* so that bits 20:13 of no table's address are all 0 */
        page_alloc();
        base_frame = (uint32_t)page_alloc();
        memset(page_alloc(), 0xc3, 4096);
    }
    f->frame[0] = f->next[1] = base_frame;
    f->frame[1] = base_frame + 0x1000;
    if (index)
        pae_make(f);
    else
        narrow_make(f);
    idt_set(PF, perm_pf, 0x8e, SEL_KCS);
    idt_set(UD, perm_ud, 0x8e, SEL_KCS);
    asm volatile("mov %0, %%ds; mov %0, %%es" ::"r"(SEL_UDS | 3));
    write_cr4(index ? CR4_PAE : 0);
    write_cr3(root[index]);
    write_cr0(read_cr0() | CR0_PG);
    return NULL;
}

void perm_leave(unsigned index)
{
    (void)index;
    write_cr0(read_cr0() & ~CR0_PG);
    write_cr4(0);
    asm volatile("mov %0, %%ds; mov %0, %%es" ::"r"(SEL_KDS));
    idt_reset();
}

void test_main(void)
{
    perm_run(guest_arg >> 28, guest_arg & 0xffff, guest_arg >> 16 & 0xfff, false);
}
