/* SPDX-License-Identifier: MIT */
/*
 * Permissions in 64-bit mode, 4 and 5 levels: see perm.h. The argument: stride, start from bit 20 on, formats from bit 32 on; bit 63
 * leaves out the kinds of access that KVM's emulator is known to do otherwise.
 */
#include "guest.h"
#include "perm.h"

#define CR4_LA57 (1u << 12)
#define SEL_LDT SEL_FREE      /* and the next */
#define SEL_CODE32 (SEL_FREE + 16)
#define LDT_SELECTOR 0x27u    /* entry 4 of the LDT, RPL 3 */

volatile uint64_t perm_cr2;
volatile uint64_t perm_error;
uint64_t perm_rsp;
extern uint8_t perm_pf[], perm_ud[];
void perm_kernel(uint64_t fn, uint64_t va, uint64_t rflags);
void perm_user(uint64_t fn, uint64_t va, uint64_t rflags);
void perm_switch_la57(uint64_t cr3, bool on);

/* A data segment, writable, DPL 3, accessed and not. */
const uint64_t perm_descriptor[2] = {0x00cff3000000ffff, 0x00cff2000000ffff};

extern const uint64_t perm_kernel_fns[PERM_KINDS], perm_user_fns[PERM_KINDS]; /* perm64.S */

static uint64_t base_frame; /* two pages in 2 MiB of their own, behind tables that no large page could be at */

static void set_ldt(uint64_t base)
{
    /* Entry 4 is the descriptor: it lies at base + 32. */
    const uint64_t limit = 39;
    gdt[SEL_LDT / 8] = limit | (base & 0xffffff) << 16 | 0x82ull << 40 | (base >> 24 & 0xff) << 56;
    gdt[SEL_LDT / 8 + 1] = base >> 32;
    asm volatile("lldt %w0" ::"r"(SEL_LDT));
}

int perm_do(struct perm_access a, bool ac, uint64_t va)
{
    const uint64_t flags = 2 | (ac ? FL_AC : 0);
    if (a.kind == IMPLICIT_READ || a.kind == IMPLICIT_WRITE)
        set_ldt(va - (LDT_SELECTOR & ~7u));
    perm_error = ~0ull;
    if (a.user)
        perm_user(perm_user_fns[a.kind], va, flags);
    else
        perm_kernel(perm_kernel_fns[a.kind], va, flags);
    return perm_error == ~0ull ? -1 : (int)perm_error;
}

void perm_flush(uint64_t va) { invlpg(va); }
void perm_flush_all(void) { write_cr3(read_cr3()); }

bool perm_has_context(const struct perm_format *f, const struct perm_context *c)
{
    (void)f;
    return !c->pse && (!c->smep || HAS_SMEP) && (!c->smap || HAS_SMAP);
}

void perm_set_context(const struct perm_context *c)
{
    const uint64_t cr4 = read_cr4() & ~(uint64_t)(CR4_SMEP | CR4_SMAP);
    write_cr0(c->wp ? read_cr0() | CR0_WP : read_cr0() & ~(uint64_t)CR0_WP);
    write_cr4(cr4 | CR4_PGE | (c->smep ? CR4_SMEP : 0) | (c->smap ? CR4_SMAP : 0));
    wrmsr(MSR_EFER, c->nxe ? rdmsr(MSR_EFER) | EFER_NX : rdmsr(MSR_EFER) & ~(uint64_t)EFER_NX);
}

const unsigned perm_format_count = 2;

static void tables_make(struct perm_format *f, uint64_t *root, uint64_t top_index)
{
    uint64_t *table = root;
    for (unsigned level = f->levels; level >= 1; level--) {
        const uint64_t index = level == f->levels ? top_index : 5;
        uint64_t *next = level > 1 ? table_alloc() : NULL;
        f->entry[level] = &table[index];
        f->next[level] = level > 1 ? (uint64_t)next : f->frame[0];
        for (unsigned leaf = 1; leaf <= 3; leaf++)
            if (level >= leaf)
                f->va[leaf] |= index << (3 + 9 * level);
        table = next;
    }
    for (unsigned leaf = 2; leaf <= 3; leaf++)
        f->va[leaf] += f->frame[0] & ((1ull << (3 + 9 * leaf)) - 1);
}

const char *perm_enter(unsigned index, struct perm_format *f)
{
    f->name = index ? "5-level" : "4-level";
    f->levels = 4 + index;
    f->wide = f->ia32e = true;
    f->maxphyaddr = cpuid(0x80000008u, 0).a & 0xff;
    f->pages_1g = HAS_1G;
    f->amd = is_amd();
    if (!base_frame) {
        /* No table in what follows can be taken for a large page: bits 20:13 of its address are not all 0. */
        table_alloc();
        table_alloc();
        base_frame = (uint64_t)table_alloc();
        memset((void *)table_alloc(), 0xc3, 4096);
    }
    f->frame[0] = base_frame;
    f->frame[1] = base_frame + 0x1000;
    if (index && !has_feature(7, 2, 16))
        return "the processor has no 5-level paging";
    uint64_t *root = index ? table_alloc() : root_table;
    tables_make(f, root, 1);
    gdt[SEL_CODE32 / 8] = 0x00cf9b000000ffff;
    if (index) {
        root[0] = (uint64_t)root_table | PTE_P | PTE_W | PTE_U;
        perm_switch_la57((uint64_t)root, true);
    }
    idt_set(PF, perm_pf, 0x8e, 0, SEL_KCS);
    idt_set(UD, perm_ud, 0x8e, 0, SEL_KCS);
    return NULL;
}

void perm_leave(unsigned index)
{
    idt_reset();
    if (index)
        perm_switch_la57((uint64_t)root_table, false);
}

void test_main(void)
{
    perm_run((uint32_t)(guest_arg >> 32) & 0x7fffffff, guest_arg & 0xfffff, guest_arg >> 20 & 0xfff, guest_arg >> 63);
}
