/* SPDX-License-Identifier: MIT */
/*
 * The walk of the guest's page tables (SDM 3A 4.3 to 4.7) and of the EPT below them. A walk first
 * finds out whether the access is allowed, then sets accessed and dirty bits by compare-and-swap,
 * and starts over if an entry changed meanwhile.
 */
#include <errno.h>

#include "mmu/ept.h"
#include "mmu/format.h"
#include "mmu/tlb2.h"


/* The rights that an access takes of the EPT. Of the guest's tables it is a write, since A and D of the EPT are on (SDM 3C 29.3.3.2). */
static uint64_t ept_rights_for(enum mmu_access access)
{
    return access == MMU_FETCH ? EPT_X : access == MMU_WRITE ? EPT_R | EPT_W : EPT_R;
}

/* The exit qualification of an EPT violation (SDM 3C table 28-7). */
static uint64_t ept_qualification(enum mmu_access access, uint64_t gla, uint64_t leaf)
{
    uint64_t q = access == MMU_FETCH ? VMX_EPT_QUAL_FETCH : access == MMU_WRITE ? VMX_EPT_QUAL_WRITE : VMX_EPT_QUAL_READ;

    if ((gla & VMX_EPT_QUAL_GLA_VALID) != 0 && (gla & VMX_EPT_QUAL_GLA_FINAL) == 0 && access == MMU_WRITE) {
        q |= VMX_EPT_QUAL_READ; /* an entry of the guest's tables: bits 0 and 1 together */
    }
    return q | gla | (leaf & (EPT_R | EPT_W | EPT_X)) << 3;
}

enum mmu_result phys_page_uncached(struct cpu *cpu, gpa_t gpa, enum mmu_access access, uint64_t gla_qualification, uint8_t **host,
                                   uint32_t *rights)
{
    const uint64_t needed = ept_rights_for(access);

    for (;;) {
        unsigned level;
        uint64_t e = ept_walk(cpu->vm_ept, gpa, &level);
        if (ept_is_misconfigured(e, level)) {
            return MMU_MMIO;
        }
        if ((e & needed) == needed) {
            uint64_t marks = EPT_A | (access == MMU_WRITE ? EPT_D : 0);
            if ((e & marks) != marks) {
                if (!ept_set_accessed(cpu->vm_ept, gpa, e, access == MMU_WRITE)) {
                    continue;
                }
                e |= marks;
            }
            uint64_t page_bytes = KAGE_PAGE_SIZE << (9 * level);
            uint64_t base = e & EPT_ADDR & ~(page_bytes - 1);
            *host = (uint8_t *)(uintptr_t)(base + (gpa & (page_bytes - 1) & KAGE_PAGE_MASK));
            *rights = ((e & EPT_R) != 0 ? MAP_EPT_READ : 0) | ((e & EPT_X) != 0 ? MAP_EPT_EXEC : 0) |
                      ((e & (EPT_W | EPT_D)) == (EPT_W | EPT_D) ? MAP_EPT_WRITE : 0);
            return MMU_OK;
        }
        uint64_t q = ept_qualification(access, gla_qualification, e);
        cpu_fpu_save(cpu); /* kvm/ may call anything */
        int err = cpu->ops->ept_violation(cpu, gpa, q);
        if (err == -ENOENT) {
            return MMU_MMIO;
        }
        if (err != 0) {
            cpu_vmexit(cpu, VMX_EXIT_EPT_VIOLATION, q, 0);
            cpu->vmcs.guest_physical_address = gpa;
            return MMU_EXIT;
        }
    }
}

enum mmu_result phys_page(struct cpu *cpu, gpa_t gpa, enum mmu_access access, uint64_t gla_qualification, uint8_t **host,
                          uint32_t *rights)
{
    uint64_t gfn = gpa >> KAGE_PAGE_SHIFT;
    struct phys_cache_entry *c = &cpu->tlb2->phys_cache[gfn & (PHYS_CACHE_SIZE - 1)];

    if (c->gfn_plus_1 == gfn + 1 && ept_allows(c->rights, access)) {
        *host = c->host;
        *rights = c->rights;
        return MMU_OK;
    }
    enum mmu_result r = phys_page_uncached(cpu, gpa, access, gla_qualification, host, rights);
    if (r == MMU_OK) {
        *c = (struct phys_cache_entry){.gfn_plus_1 = gfn + 1, .host = *host, .rights = *rights};
    }
    return r;
}

uint32_t walk_error_bits(const struct paging_regime *r, enum mmu_access access, enum mmu_idx idx)
{
    uint32_t error = idx == MMU_IDX_USER ? X86_PF_U : 0;
    bool nx_reported = (r->cr4 & X86_CR4_SMEP) != 0 || ((r->cr4 & X86_CR4_PAE) != 0 && (r->efer & X86_EFER_NX) != 0);

    if (access == MMU_WRITE) {
        error |= X86_PF_W;
    } else if (access == MMU_FETCH && nx_reported) {
        error |= X86_PF_I;
    }
    return error;
}

static uint64_t load_entry(const uint8_t *p, unsigned bytes)
{
    return bytes == 8 ? __atomic_load_n((const uint64_t *)(const void *)p, __ATOMIC_ACQUIRE)
                      : __atomic_load_n((const uint32_t *)(const void *)p, __ATOMIC_ACQUIRE);
}

static bool swap_entry(uint8_t *p, unsigned bytes, uint64_t from, uint64_t to)
{
    if (bytes == 8) {
        return __atomic_compare_exchange_n((uint64_t *)(void *)p, &from, to, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
    }
    uint32_t from32 = (uint32_t)from;
    return __atomic_compare_exchange_n((uint32_t *)(void *)p, &from32, (uint32_t)to, false, __ATOMIC_SEQ_CST,
                                       __ATOMIC_RELAXED);
}

static struct walk_cache_entry *pde_slot(struct tlb2 *t, gva_t va)
{
    return &t->pde_cache[va >> 21 & (PDE_CACHE_SIZE - 1)];
}

static struct walk_cache_entry *pdpte_slot(struct tlb2 *t, gva_t va)
{
    return &t->pdpte_cache[(va >> 30 ^ va >> 39) & (PDPTE_CACHE_SIZE - 1)];
}

/* The lowest entry of the caches that a walk may start from, or NULL. */
static struct walk_cache_entry *cached_entry(struct tlb2 *t, gva_t va)
{
    struct walk_cache_entry *pde = pde_slot(t, va), *pdpte = pdpte_slot(t, va);

    if (pde->stamp == t->pde && pde->region == va >> 21) {
        return pde;
    }
    return pdpte->stamp == t->pde && pdpte->region == va >> 30 ? pdpte : NULL;
}

/*
 * Accessed bits on every level, dirty on the leaf. False: an entry changed under us. Bits are set
 * top down, so that a lower entry is never marked through an upper one that is not.
 */
static bool mark(struct cpu *cpu, const struct format *f, struct walk *w, bool write)
{
    for (unsigned level = w->top; level >= w->level; level--) {
        struct walk_step *s = &w->step[level];
        uint64_t want = X86_PTE_A | (level == w->level && write ? X86_PTE_D : 0);
        if ((s->entry & want) == want) {
            continue;
        }
        if (s->read_only) { /* page tables in ROM: their bits are taken for set, as KVM does */
            s->entry |= want;
            continue;
        }
        if (!swap_entry(s->at, f->entry_bytes, s->entry, s->entry | want)) {
            return false;
        }
        s->entry |= want;
        if (cpu_vm_has_code(cpu->vm, s->gpa)) {
            cpu_code_written(cpu, s->gpa, f->entry_bytes);
        }
    }
    return true;
}

/* SDM 3A 4.4.1: P, and bits that must be 0 in an entry that is present. */
bool mmu_pdpte_is_good(const struct cpu *cpu, uint64_t e)
{
    return (e & X86_PTE_P) == 0 || (e & (0xfff00000000001e6ull | cpu->maxphyaddr_mask)) == 0;
}

bool mmu_load_pdptes(struct cpu *cpu, uint64_t cr3)
{
    uint64_t e[4];

    if (!mmu_phys_read(cpu, cr3 & 0xffffffe0ull, e, sizeof(e))) {
        return false; /* outside memory: all ones */
    }
    for (unsigned i = 0; i < KAGE_ARRAY_SIZE(e); i++) {
        if (!mmu_pdpte_is_good(cpu, e[i])) {
            return false;
        }
    }
    memcpy(cpu->vmcs.guest_pdpte, e, sizeof(e));
    return true;
}

/* The page of an entry at gpa. Tables that can only be read are told by *read_only. */
static enum mmu_result table_page(struct cpu *cpu, gpa_t gpa, unsigned how, uint8_t **host, bool *read_only)
{
    bool quiet = (how & WALK_QUIET) != 0;
    uint32_t rights;
    enum mmu_result (*page)(struct cpu *, gpa_t, enum mmu_access, uint64_t, uint8_t **, uint32_t *) =
        (how & (WALK_CACHED | WALK_PAGES)) != 0 ? phys_page : phys_page_uncached;

    *read_only = false;
    enum mmu_result r = page(cpu, gpa, quiet ? MMU_READ : MMU_WRITE, VMX_EPT_QUAL_GLA_VALID, host, &rights);
    if (r == MMU_MMIO && !quiet) {
        r = page(cpu, gpa, MMU_READ, VMX_EPT_QUAL_GLA_VALID, host, &rights);
        *read_only = r == MMU_OK;
    }
    return r;
}

enum mmu_result walk_guest(struct cpu *cpu, const struct paging_regime *r, gva_t va, enum mmu_access access,
                           enum mmu_idx idx, unsigned how, struct walk *w)
{
    struct tlb2 *t = cpu->tlb2;
    struct format f = paging_format(r);

restart:;
    unsigned level = f.levels;
    uint32_t flags = MAP_USER | MAP_WRITE;
    uint64_t root = f.pae ? r->pdpte[va >> 30 & 3] : r->cr3;
    gpa_t table = table_address(&f, root);
    bool caches = f.index_bits == 9 && (how & WALK_CACHED) != 0;
    struct walk_cache_entry *cached = caches ? cached_entry(t, va) : NULL;
    struct walk_cache_entry found[2] = {{.stamp = 0}, {.stamp = 0}}; /* a PDE, a PDPTE */

    if (cached != NULL) {
        level = cached >= t->pdpte_cache && cached < t->pdpte_cache + PDPTE_CACHE_SIZE ? 2 : 1;
        table = cached->table;
        flags = cached->flags;
    }
    w->top = w->level = level;
    if (f.pae && cached == NULL && (root & X86_PTE_P) == 0) {
        w->error = walk_error_bits(r, access, idx);
        return MMU_FAULT;
    }
    for (;; level--) {
        unsigned shift = KAGE_PAGE_SHIFT + f.index_bits * (level - 1);
        uint64_t index = va >> shift & ((1u << f.index_bits) - 1);
        gpa_t at = table + index * f.entry_bytes;
        struct walk_step *s = &w->step[level];
        uint8_t *host;
        w->level = level;
        s->gpa = at;
        enum mmu_result got = table_page(cpu, at, how, &host, &s->read_only);
        if (got == MMU_MMIO) { /* tables outside memory read as all ones: reserved bits */
            s->entry = ~0ull;
            w->error = walk_error_bits(r, access, idx) | X86_PF_P | X86_PF_RSVD;
            goto refused;
        }
        if (got != MMU_OK) {
            return got;
        }
        s->at = host + (at & ~KAGE_PAGE_MASK);
        uint64_t e = s->entry = load_entry(s->at, f.entry_bytes);
        if ((e & X86_PTE_P) == 0) {
            w->error = walk_error_bits(r, access, idx);
            goto refused;
        }
        bool leaf = is_leaf(r, &f, e, level);
        if (reserved_set(cpu, &f, e, level, leaf)) {
            w->error = walk_error_bits(r, access, idx) | X86_PF_P | X86_PF_RSVD;
            goto refused;
        }
        flags &= (e & X86_PTE_U ? ~0u : ~MAP_USER) & (e & X86_PTE_W ? ~0u : ~MAP_WRITE);
        flags |= f.entry_bytes == 8 && (e & X86_PTE_NX) != 0 ? MAP_NX : 0;
        s->flags = flags;
        if (leaf) {
            break;
        }
        table = table_address(&f, e);
        if (caches && (level == 2 || level == 3)) {
            found[level - 2] = (struct walk_cache_entry){.region = va >> (level == 2 ? 21 : 30), .stamp = t->pde, .table = table, .flags = flags};
        }
    }
    if (!walk_rights_allow(r->cr0, r->cr4, flags, access, idx)) {
        w->error = walk_error_bits(r, access, idx) | X86_PF_P;
        goto refused;
    }
    if ((how & WALK_QUIET) == 0 && !mark(cpu, &f, w, access == MMU_WRITE)) {
        goto restart;
    }
    if (found[0].stamp != 0) { /* only now has every level above its accessed bit */
        *pde_slot(t, va) = found[0];
    }
    if (found[1].stamp != 0) {
        *pdpte_slot(t, va) = found[1];
    }
    uint64_t e = w->step[level].entry;
    w->page_shift = KAGE_PAGE_SHIFT + f.index_bits * (level - 1);
    w->gpa = leaf_address(&f, e, level) | (va & ((1ull << w->page_shift) - 1));
    w->flags = flags | (e & X86_PTE_D ? MAP_DIRTY : 0) | (level > 1 ? MAP_LARGE : 0);
    if ((e & X86_PTE_G) != 0 && (r->cr4 & X86_CR4_PGE) != 0) {
        w->flags |= MAP_GLOBAL;
    }
    return MMU_OK;

refused:
    /* A page fault drops what is cached for its address (SDM 3A 4.10.4.1): it must say what memory says now. */
    if (cached != NULL) {
        cached->stamp = 0;
        goto restart;
    }
    return MMU_FAULT;
}

/* ---- outside of cpu_run() ---- */

struct walk_call {
    struct cpu *cpu;
    const struct paging_regime *r;
    gva_t va;
    enum mmu_access access;
    enum mmu_idx idx;
    unsigned how;
    struct walk *w;
    enum mmu_result result;
};

static void call_walk(void *arg)
{
    struct walk_call *c = arg;
    c->result = walk_guest(c->cpu, c->r, c->va, c->access, c->idx, c->how, c->w);
}

enum mmu_result mmu_walk(struct cpu *cpu, const struct paging_regime *r, gva_t va, enum mmu_access access,
                         enum mmu_idx idx, unsigned how, struct walk *w)
{
    if ((r->cr0 & X86_CR0_PG) == 0) { /* linear addresses are physical */
        *w = (struct walk){.gpa = (uint32_t)va, .flags = MAP_USER | MAP_WRITE | MAP_DIRTY, .page_shift = KAGE_PAGE_SHIFT};
        return MMU_OK;
    }
    bool held = cpu_hold_memory(cpu);
    /* With the memory held, no slot changes; while a flush is still asked for, one has. */
    bool stale = (how & WALK_QUIET) != 0 ||
                 (atomic_load_explicit(&cpu->pending, memory_order_acquire) & CPU_REQ_TLB_FLUSH) != 0;
    struct walk_call c = {cpu, r, va, access, idx, how | (stale ? 0 : WALK_PAGES), w, MMU_EXIT};
    if (!cpu_guarded_call(cpu, call_walk, &c) && (how & WALK_QUIET) == 0) {
        cpu_vmexit(cpu, VMX_EXIT_EPT_VIOLATION, VMX_EPT_QUAL_READ | VMX_EPT_QUAL_GLA_VALID, 0);
        cpu->vmcs.guest_physical_address = w->step[w->level].gpa;
    }
    cpu_release_memory(cpu, held);
    return c.result;
}
