/* SPDX-License-Identifier: MIT */
/*
 * Looking at the guest's tables, the EPT and the TLBs (see inspect.h). The EPT is read as the processor reads it: from the EPTP, entry by entry.
 */
#include "mmu/inspect.h"

#include "mmu/ept.h"
#include "mmu/format.h"
#include "mmu/tlb2.h"

/* ---- The guest's own tables ---- */

static void put_rights(struct mmu_step *step, uint32_t flags)
{
    step->r = step->present && !step->reserved;
    step->w = step->r && (flags & MAP_WRITE) != 0;
    step->x = step->r && (flags & MAP_NX) == 0;
    step->u = step->r && (flags & MAP_USER) != 0;
}

unsigned guest_walk_steps(const struct cpu *cpu, const struct paging_regime *r, gva_t va, const struct guest_memory *memory,
                          struct mmu_step steps[MMU_STEPS_MAX], struct walk *w)
{
    struct format f = paging_format(r);
    uint64_t root = f.pae ? r->pdpte[va >> 30 & 3] : r->cr3;
    uint32_t flags = MAP_USER | MAP_WRITE;
    unsigned count = 0;

    if (f.pae) {
        struct mmu_step *s = &steps[count++];
        *s = (struct mmu_step){.entry = root, .level = 3, .index = (unsigned)(va >> 30 & 3), .read = true, .in_register = true};
        s->present = (root & X86_PTE_P) != 0;
        put_rights(s, flags);
        if (!s->present) {
            return count;
        }
    }
    gpa_t table = table_address(&f, root);
    for (unsigned level = f.levels;; level--) {
        unsigned shift = KAGE_PAGE_SHIFT + f.index_bits * (level - 1);
        struct mmu_step *s = &steps[count++];
        *s = (struct mmu_step){.table = table, .level = level, .index = (unsigned)(va >> shift & ((1u << f.index_bits) - 1))};
        s->read = memory->read(memory->opaque, table + s->index * f.entry_bytes, &s->entry, f.entry_bytes, &s->host);
        uint64_t e = s->entry;
        s->present = s->read && (e & X86_PTE_P) != 0;
        s->leaf = s->present && is_leaf(r, &f, e, level);
        s->reserved = s->present && reserved_set(cpu, &f, e, level, s->leaf);
        flags &= (e & X86_PTE_U ? ~0u : ~MAP_USER) & (e & X86_PTE_W ? ~0u : ~MAP_WRITE);
        flags |= f.entry_bytes == 8 && (e & X86_PTE_NX) != 0 ? MAP_NX : 0;
        put_rights(s, flags);
        if (!s->r || s->leaf) {
            w->page_shift = shift;
            w->gpa = leaf_address(&f, e, level) | (va & ((1ull << shift) - 1));
            w->flags = flags | (e & X86_PTE_D ? MAP_DIRTY : 0) | (level > 1 ? MAP_LARGE : 0) |
                       ((e & X86_PTE_G) != 0 && (r->cr4 & X86_CR4_PGE) != 0 ? MAP_GLOBAL : 0);
            return count;
        }
        table = table_address(&f, e);
    }
}

/* ---- EPT ---- */

#define ENTRIES 512u
#define EPT_RWX (EPT_R | EPT_W | EPT_X)

/* EPTP (SDM 3C 25.6.11): bits 5..3 are the number of levels less one. */
static unsigned levels_of(uint64_t ept_pointer)
{
    unsigned levels = (unsigned)(ept_pointer >> 3 & 7) + 1;
    return levels < MMU_STEPS_MAX ? levels : MMU_STEPS_MAX;
}

static const uint64_t *table_at(uint64_t entry)
{
    return (const uint64_t *)(uintptr_t)(entry & EPT_ADDR);
}

static uint64_t load(const uint64_t *at)
{
    return __atomic_load_n(at, __ATOMIC_ACQUIRE);
}

static unsigned shift_of(unsigned level)
{
    return KAGE_PAGE_SHIFT + 9 * (level - 1);
}

enum kind { NOTHING, TABLE, PAGE, MISCONFIGURED };

/* W without R is a misconfiguration (SDM 3C 29.3.3.1), by which MMIO is told from what was not asked for yet. */
static enum kind kind_of(uint64_t entry, unsigned level)
{
    if ((entry & EPT_RWX) == 0) {
        return NOTHING;
    }
    if ((entry & (EPT_R | EPT_W)) == EPT_W) {
        return MISCONFIGURED;
    }
    return level == 1 || (entry & EPT_PS) != 0 ? PAGE : TABLE;
}

unsigned ept_walk_steps(uint64_t ept_pointer, gpa_t gpa, struct mmu_step steps[MMU_STEPS_MAX])
{
    unsigned count = 0, levels = levels_of(ept_pointer);
    const uint64_t *table = table_at(ept_pointer);
    uint64_t rights = EPT_RWX;

    if (gpa >> shift_of(levels + 1) != 0) {
        return 0; /* no index reaches it */
    }
    for (unsigned level = levels;; level--) {
        unsigned index = (unsigned)(gpa >> shift_of(level)) & (ENTRIES - 1);
        uint64_t e = load(&table[index]);
        enum kind kind = kind_of(e, level);
        rights &= kind == MISCONFIGURED ? 0 : e;
        steps[count++] = (struct mmu_step){
            .table = (uint64_t)(uintptr_t)table, .entry = e, .host = &table[index], .level = level, .index = index,
            .read = true, .present = kind == TABLE || kind == PAGE, .leaf = kind == PAGE, .mmio = kind == MISCONFIGURED,
            .r = (rights & EPT_R) != 0, .w = (rights & EPT_W) != 0, .x = (rights & EPT_X) != 0, .u = true,
        };
        if (kind != TABLE) {
            return count;
        }
        table = table_at(e);
    }
}

static void count_level(const uint64_t *table, unsigned level, struct ept_level_count levels[MMU_STEPS_MAX])
{
    struct ept_level_count *count = &levels[level - 1];

    count->tables++;
    for (unsigned i = 0; i < ENTRIES; i++) {
        uint64_t e = load(&table[i]);
        enum kind kind = kind_of(e, level);
        count->leaves += kind == PAGE;
        count->mmio += kind == MISCONFIGURED;
        if (kind == TABLE) {
            count->links++;
            count_level(table_at(e), level - 1, levels);
        }
    }
}

unsigned ept_count_levels(uint64_t ept_pointer, struct ept_level_count levels[MMU_STEPS_MAX])
{
    memset(levels, 0, MMU_STEPS_MAX * sizeof(*levels));
    count_level(table_at(ept_pointer), levels_of(ept_pointer), levels);
    return levels_of(ept_pointer);
}

void ept_count_range(uint64_t ept_pointer, gpa_t gpa, uint64_t bytes, uint64_t pages[3])
{
    struct ept_range range;
    gpa_t end = gpa + bytes;

    memset(pages, 0, 3 * sizeof(*pages));
    while (gpa < end && ept_next_range(ept_pointer, gpa, end, &range)) {
        unsigned size = (range.page_shift - KAGE_PAGE_SHIFT) / 9;
        if (size < 3) {
            pages[size] += (range.bytes + (1ull << range.page_shift) - 1) >> range.page_shift;
        }
        gpa = range.gpa + range.bytes;
    }
}

/* The leaf that holds *gpa, or the first above it and below `end`: then *gpa is its start. 0: none. */
static uint64_t find_leaf(uint64_t ept_pointer, gpa_t *gpa, gpa_t end, unsigned *level)
{
    unsigned top = levels_of(ept_pointer);
    gpa_t reach = top < 5 ? 1ull << shift_of(top + 1) : 1ull << 57;

    while (*gpa < end && *gpa < reach) {
        const uint64_t *table = table_at(ept_pointer);
        unsigned l = top;
        uint64_t e = load(&table[*gpa >> shift_of(l) & (ENTRIES - 1)]);
        while (kind_of(e, l) == TABLE) {
            table = table_at(e);
            l--;
            e = load(&table[*gpa >> shift_of(l) & (ENTRIES - 1)]);
        }
        if (kind_of(e, l) == PAGE) {
            *level = l;
            return e;
        }
        *gpa = ((*gpa >> shift_of(l)) + 1) << shift_of(l); /* nothing in all that this entry stands for */
    }
    return 0;
}

bool ept_next_range(uint64_t ept_pointer, gpa_t from, gpa_t end, struct ept_range *range)
{
    unsigned level;
    uint64_t e = find_leaf(ept_pointer, &from, end, &level);

    if (e == 0) {
        return false;
    }
    *range = (struct ept_range){.gpa = from, .page_shift = shift_of(level), .rights = e & EPT_RWX};
    range->host = (e & EPT_ADDR & ~((1ull << range->page_shift) - 1)) + (from & ((1ull << range->page_shift) - 1));
    for (gpa_t at = from;;) {
        gpa_t next = ((at >> range->page_shift) + 1) << range->page_shift;
        range->accessed += (e & EPT_A) != 0;
        range->dirty += (e & EPT_D) != 0;
        range->bytes = (next < end ? next : end) - range->gpa;
        if (next >= end) {
            return true;
        }
        at = next;
        e = find_leaf(ept_pointer, &at, end, &level);
        if (e == 0 || at != next || shift_of(level) != range->page_shift || (e & EPT_RWX) != range->rights ||
            (e & EPT_ADDR & ~((1ull << range->page_shift) - 1)) != range->host + range->bytes) {
            return true;
        }
    }
}

/* ---- TLBs ---- */

unsigned tlb_first_of(const struct cpu *cpu, gva_t va)
{
    unsigned i = (unsigned)(va >> KAGE_PAGE_SHIFT) & (TLB_SIZE - 1), first = 0;

    for (unsigned idx = 0; idx < MMU_IDX_COUNT; idx++) {
        for (unsigned access = MMU_READ; access <= MMU_WRITE; access++) {
            const struct tlb_bank *bank = &cpu->tlb[idx][access];
            bool hit = bank->host[i] != TLB_INVALID && bank->neg_tag[i] == 0 - (va & KAGE_PAGE_MASK);
            first |= (hit ? 1u : 0u) << (2 * idx + access);
        }
    }
    return first;
}

void tlb_summarize(const struct cpu *cpu, struct tlb_summary *summary)
{
    const struct tlb2 *t = cpu->tlb2;

    *summary = (struct tlb_summary){
        .first_size = t->tiny ? 1 : TLB_SIZE, .second_size = TLB2_SIZE,
        .pde_size = PDE_CACHE_SIZE, .pdpte_size = PDPTE_CACHE_SIZE, .phys_size = PHYS_CACHE_SIZE, .pcid = t->pcid,
    };
    for (unsigned idx = 0; idx < MMU_IDX_COUNT; idx++) {
        for (unsigned access = MMU_READ; access <= MMU_WRITE; access++) {
            for (unsigned i = 0; i < TLB_SIZE; i++) {
                summary->first_valid[idx][access] += cpu->tlb[idx][access].host[i] != TLB_INVALID;
            }
        }
    }
    for (unsigned i = 0; i < PDE_CACHE_SIZE; i++) {
        summary->pde_valid += t->pde_cache[i].stamp == t->pde;
    }
    for (unsigned i = 0; i < PDPTE_CACHE_SIZE; i++) {
        summary->pdpte_valid += t->pdpte_cache[i].stamp == t->pde;
    }
    for (unsigned i = 0; i < PHYS_CACHE_SIZE; i++) {
        summary->phys_valid += t->phys_cache[i].gfn_plus_1 != 0;
    }
    for (unsigned i = 0; i < PCID_COUNT; i++) {
        summary->pcids += t->pcid_stamp[i] >= t->oldest_valid;
    }
}

/* The PCID whose stamp it is, PCID_COUNT: none has it any more. */
static unsigned pcid_of(const struct tlb2 *t, uint64_t stamp)
{
    if (stamp == t->current) {
        return t->pcid;
    }
    for (unsigned i = 0; stamp >= t->oldest_valid && i < PCID_COUNT; i++) {
        if (t->pcid_stamp[i] == stamp) {
            return i;
        }
    }
    return PCID_COUNT;
}

static bool view_entry(const struct cpu *cpu, const struct tlb2_entry *e, struct tlb_view *view)
{
    const struct tlb2 *t = cpu->tlb2;
    bool global = e->stamp == t->global;
    unsigned pcid = global ? 0 : pcid_of(t, e->stamp);

    if (e->stamp == 0 || pcid == PCID_COUNT) {
        return false;
    }
    *view = (struct tlb_view){.va = e->va_page, .gpa = e->gpa_page, .host = e->host, .pcid = pcid, .flags = e->flags};
    /* The first level is the current address space's. */
    view->first = global || pcid == t->pcid ? tlb_first_of(cpu, e->va_page) : 0;
    return true;
}

bool tlb_next(const struct cpu *cpu, unsigned *at, struct tlb_view *view)
{
    while (*at < TLB2_SIZE) {
        if (view_entry(cpu, &cpu->tlb2->entries[(*at)++], view)) {
            return true;
        }
    }
    return false;
}

bool tlb_find(const struct cpu *cpu, gva_t va, struct tlb_view *view)
{
    for (unsigned at = 0; tlb_next(cpu, &at, view);) {
        if (view->va == (va & KAGE_PAGE_MASK) && ((view->flags & MAP_GLOBAL) != 0 || view->pcid == cpu->tlb2->pcid)) {
            return true;
        }
    }
    return false;
}
