/* SPDX-License-Identifier: MIT */
/*
 * The walk with EPT off (see noept.h). Tables are read where they are: they are never the client's memory.
 */
#include "mmu/noept.h"

#define INDEX_BITS 9u
#define INDEX_MASK ((1u << INDEX_BITS) - 1)

static bool reserved_set(const struct cpu *cpu, uint64_t e, unsigned level, bool leaf)
{
    uint64_t large = leaf && level > 1 ? ((KAGE_PAGE_SIZE << (INDEX_BITS * (level - 1))) - 1) & ~0x1fffull : 0;

    return (e & NOEPT_MMIO) != 0 || (e & large) != 0 || (level > 3 && (e & X86_PTE_PS) != 0) ||
           ((e & X86_PTE_NX) != 0 && (cpu->vmcs.guest_ia32_efer & X86_EFER_NX) == 0);
}

/* Accessed on every level, dirty on the leaf, top down. False: an entry changed under us. */
static bool mark(uint64_t *const *at, uint64_t *e, unsigned top, unsigned bottom, bool write)
{
    for (unsigned level = top; level >= bottom; level--) {
        uint64_t want = X86_PTE_A | (level == bottom && write ? X86_PTE_D : 0);
        if ((e[level] & want) == want) {
            continue;
        }
        if (!__atomic_compare_exchange_n(at[level], &e[level], e[level] | want, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {
            return false;
        }
        e[level] |= want;
    }
    return true;
}

enum mmu_result noept_walk(struct cpu *cpu, gva_t va, enum mmu_access access, enum mmu_idx idx, struct noept_walk *w)
{
    const struct vmcs *v = &cpu->vmcs;
    unsigned top = (v->guest_cr4 & X86_CR4_LA57) != 0 ? 5 : 4;
    const struct paging_regime regime = walk_actual_regime(cpu);
    uint64_t *at[WALK_MAX_LEVELS + 1], e[WALK_MAX_LEVELS + 1];

restart:;
    uint64_t *table = (uint64_t *)(uintptr_t)(v->guest_cr3 & NOEPT_ADDR);
    uint32_t flags = MAP_USER | MAP_WRITE;
    unsigned level = top;
    bool leaf, mmio;

    for (;; level--) {
        if (table == NULL) {
            w->error = walk_error_bits(&regime, access, idx);
            return MMU_FAULT;
        }
        unsigned shift = KAGE_PAGE_SHIFT + INDEX_BITS * (level - 1);
        at[level] = &table[va >> shift & INDEX_MASK];
        e[level] = __atomic_load_n(at[level], __ATOMIC_ACQUIRE);
        if ((e[level] & X86_PTE_P) == 0) {
            w->error = walk_error_bits(&regime, access, idx);
            return MMU_FAULT;
        }
        leaf = level == 1 || (level <= 3 && (e[level] & X86_PTE_PS) != 0);
        mmio = level == 1 && (e[level] & NOEPT_MMIO) != 0;
        if (!mmio && reserved_set(cpu, e[level], level, leaf)) {
            w->error = walk_error_bits(&regime, access, idx) | X86_PF_P | X86_PF_RSVD;
            return MMU_FAULT;
        }
        flags &= (e[level] & X86_PTE_U ? ~0u : ~MAP_USER) & (e[level] & X86_PTE_W ? ~0u : ~MAP_WRITE);
        flags |= (e[level] & X86_PTE_NX) != 0 ? MAP_NX : 0;
        if (leaf) {
            break;
        }
        table = (uint64_t *)(uintptr_t)(e[level] & NOEPT_ADDR);
    }
    if (!walk_rights_allow(v->guest_cr0, v->guest_cr4, flags, access, idx)) {
        w->error = walk_error_bits(&regime, access, idx) | X86_PF_P;
        return MMU_FAULT;
    }
    if (mmio) {
        w->gpa = (e[level] & NOEPT_ADDR) | (va & ~KAGE_PAGE_MASK);
        return MMU_MMIO;
    }
    bool rom = (e[level] & NOEPT_ROM) != 0;
    if (!mark(at, e, top, level, access == MMU_WRITE && !rom)) {
        goto restart;
    }
    uint64_t size = KAGE_PAGE_SIZE << (INDEX_BITS * (level - 1));
    w->page = (e[level] & NOEPT_ADDR & ~(size - 1)) | (va & (size - 1) & KAGE_PAGE_MASK);
    w->entry = at[level];
    w->page_shift = KAGE_PAGE_SHIFT + INDEX_BITS * (level - 1);
    w->flags = flags | (e[level] & X86_PTE_D ? MAP_DIRTY : 0) | (level > 1 ? MAP_LARGE : 0);
    w->flags |= MAP_EPT_READ | MAP_EPT_EXEC | (rom ? 0 : MAP_EPT_WRITE); /* no second level refuses anything */
    if ((e[level] & X86_PTE_G) != 0 && (v->guest_cr4 & X86_CR4_PGE) != 0) {
        w->flags |= MAP_GLOBAL;
    }
    return MMU_OK;
}
