/* SPDX-License-Identifier: MIT */
/*
 * Translation and the TLBs. The first level (struct cpu, read by translated code) is small and is
 * cleared when the address space changes; the second keeps the translations of many PCIDs, so that
 * filling the first again takes no walk.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "cpu/guarded_copy.h"
#include "cpu/sys.h"
#include "mmu/ept.h"
#include "mmu/noept.h"
#include "mmu/tlb2.h"

static bool is_kernel_half(gva_t va)
{
    return (int64_t)va < 0;
}

/* Outside IA-32e mode linear addresses have 32 bits, whatever the base of a table says. */
static gva_t cut(const struct cpu *cpu, gva_t va)
{
    return cpu_in_long_mode(cpu) ? va : (uint32_t)va;
}

static struct tlb2_entry *slot_of(struct tlb2 *t, gva_t va)
{
    uint64_t page = va >> KAGE_PAGE_SHIFT;

    /* User addresses of different PCIDs spread; the kernel half is shared. */
    if (!is_kernel_half(va)) {
        page ^= (uint64_t)t->pcid * 0x5bd;
    }
    return &t->entries[(page ^ page >> TLB2_BITS) & (TLB2_SIZE - 1)];
}

static uint64_t new_stamp(struct tlb2 *t)
{
    return ++t->last_stamp;
}

static uint64_t pcid_stamp(struct tlb2 *t, unsigned pcid)
{
    if (t->pcid_stamp[pcid] < t->oldest_valid) {
        t->pcid_stamp[pcid] = new_stamp(t);
    }
    return t->pcid_stamp[pcid];
}

static unsigned current_pcid(const struct cpu *cpu)
{
    return (cpu->vmcs.guest_cr4 & X86_CR4_PCIDE) != 0 ? (unsigned)(cpu->vmcs.guest_cr3 & X86_CR3_PCID_MASK) : 0;
}

int mmu_init(struct cpu *cpu)
{
    struct tlb2 *t = mmap(NULL, sizeof(*t), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (t == MAP_FAILED) {
        return -ENOMEM;
    }
    cpu->tlb2 = t;
    cpu->vm_ept = cpu_vm_ept(cpu->vm);
    if (cpu->maxphyaddr_mask == 0) {
        cpu->maxphyaddr_mask = PTE_RESERVED_ABOVE(40);
        cpu->has_1g_pages = cpu->has_nx = true;
        cpu->efer_valid = X86_EFER_SCE | X86_EFER_LME | X86_EFER_LMA | X86_EFER_NX;
    }
    t->oldest_valid = 1;
    for (unsigned idx = 0; idx < MMU_IDX_COUNT; idx++) { /* all entries are to be made invalid, not only those that were filled */
        t->bank_log[idx].count = CLEAR_LOG_MAX + 1;
        cpu->jump_log[idx].count = cpu->code_log[idx].count = CLEAR_LOG_MAX + 1;
    }
    mmu_flush_all(cpu);
    return 0;
}

void mmu_fini(struct cpu *cpu)
{
    if (cpu->tlb2 != NULL) {
        munmap(cpu->tlb2, sizeof(*cpu->tlb2));
    }
    cpu->tlb2 = NULL;
}

/* ---- first level ---- */

static void invalidate_entry(struct tlb_bank *bank, unsigned i)
{
    bank->neg_tag[i] = TLB_INVALID;
    bank->host[i] = TLB_INVALID;
}

static void clear_bank(struct cpu *cpu, unsigned idx)
{
    struct tlb2 *t = cpu->tlb2;
    struct clear_log *log = &t->bank_log[idx];

    if (log->count <= CLEAR_LOG_MAX) {
        for (unsigned i = 0; i < log->count; i++) {
            invalidate_entry(&cpu->tlb[idx][MMU_READ], log->index[i]);
            invalidate_entry(&cpu->tlb[idx][MMU_WRITE], log->index[i]);
        }
    } else {
        uint64_t *to = (uint64_t *)(void *)cpu->tlb[idx];
        size_t n = sizeof(cpu->tlb[idx]) / 8;
        __asm__ volatile("rep stosq" : "+D"(to), "+c"(n) : "a"(TLB_INVALID) : "memory");
    }
    log->count = 0;
    t->bank_has_local[idx] = false;
}

static void clear_code(struct cpu *cpu, unsigned idx)
{
    struct tlb2 *t = cpu->tlb2;
    struct clear_log *log = &cpu->jump_log[idx];

    if (log->count <= CLEAR_LOG_MAX) {
        for (unsigned i = 0; i < log->count; i++) {
            cpu->jump_cache[idx][log->index[i]] = (struct jump_cache_entry){.neg_rip = log->index[i] == 0, .host = 0};
        }
    } else {
        memset(cpu->jump_cache[idx], 0, sizeof(cpu->jump_cache[idx]));
        cpu->jump_cache[idx][0].neg_rip = 1;
    }
    log->count = 0;
    log = &cpu->code_log[idx];
    if (log->count <= CLEAR_LOG_MAX) {
        for (unsigned i = 0; i < log->count; i++) {
            cpu->code_tlb[idx][log->index[i]] = 0;
        }
    } else {
        memset(cpu->code_tlb[idx], 0, sizeof(cpu->code_tlb[idx]));
    }
    log->count = 0;
    t->code_has_local[idx] = false;
}

static void fill_entry(struct tlb_bank *bank, unsigned i, gva_t va, uint64_t host_page)
{
    bank->neg_tag[i] = 0 - (va & KAGE_PAGE_MASK);
    bank->host[i] = host_page;
}

/* Bytes that a block of translated code may have behind its first: it may reach into the next page. */
#define BLOCK_BYTES_MAX 1024u

/* Drops what the jump caches have of code in the page, and makes the filter anew of the rest. */
static void flush_jumps_to_page(struct cpu *cpu, gva_t va)
{
    uint64_t page = va >> KAGE_PAGE_SHIFT;

    memset(cpu->jump_filter, 0, sizeof(cpu->jump_filter));
    for (unsigned idx = 0; idx < MMU_IDX_COUNT; idx++) {
        const struct clear_log *log = &cpu->jump_log[idx];
        if (log->count > CLEAR_LOG_MAX) {
            clear_code(cpu, idx);
            continue;
        }
        for (unsigned n = 0; n < log->count; n++) {
            struct jump_cache_entry *e = &cpu->jump_cache[idx][log->index[n]];
            gva_t first = 0 - e->neg_rip, last = first + BLOCK_BYTES_MAX - 1;
            if (e->host == 0) {
                continue;
            }
            if (first >> KAGE_PAGE_SHIFT == page || last >> KAGE_PAGE_SHIFT == page) {
                *e = (struct jump_cache_entry){.neg_rip = log->index[n] == 0, .host = 0};
                continue;
            }
            mmu_note_jump_target(cpu, first);
            mmu_note_jump_target(cpu, last);
        }
    }
}

static void flush_page_everywhere(struct cpu *cpu, gva_t va)
{
    unsigned i = (unsigned)(va >> KAGE_PAGE_SHIFT), bit = i & 4095;
    uint64_t neg_tag = 0 - (va & KAGE_PAGE_MASK);

    for (unsigned idx = 0; idx < MMU_IDX_COUNT; idx++) {
        for (unsigned access = MMU_READ; access <= MMU_WRITE; access++) {
            struct tlb_bank *bank = &cpu->tlb[idx][access];
            if (bank->neg_tag[i & (TLB_SIZE - 1)] == neg_tag) {
                invalidate_entry(bank, i & (TLB_SIZE - 1));
            }
        }
        cpu->code_tlb[idx][i & (CODE_TLB_SIZE - 1)] = 0;
    }
    if (cpu->jump_filter[bit / 64] >> (bit % 64) & 1) {
        flush_jumps_to_page(cpu, va);
    }
}

static void fill_first_level(struct cpu *cpu, gva_t va, enum mmu_access access, enum mmu_idx idx,
                             const struct tlb2_entry *e, bool has_code)
{
    struct tlb2 *t = cpu->tlb2;
    unsigned i = (unsigned)(va >> KAGE_PAGE_SHIFT) & (TLB_SIZE - 1);

    if (t->tiny) {
        for (unsigned b = 0; b < MMU_IDX_COUNT; b++) {
            clear_bank(cpu, b);
        }
    }
    clear_log_note(&t->bank_log[idx], i);
    t->bank_has_local[idx] |= (e->flags & MAP_GLOBAL) == 0;
    fill_entry(&cpu->tlb[idx][MMU_READ], i, va, e->host);
    if (access == MMU_WRITE && !has_code) {
        fill_entry(&cpu->tlb[idx][MMU_WRITE], i, va, e->host);
    } else if (cpu->tlb[idx][MMU_WRITE].neg_tag[i] != 0 - (va & KAGE_PAGE_MASK)) {
        invalidate_entry(&cpu->tlb[idx][MMU_WRITE], i);
    }
}

void mmu_note_jump_target(struct cpu *cpu, gva_t va)
{
    unsigned bit = (unsigned)(va >> KAGE_PAGE_SHIFT) & 4095;
    cpu->jump_filter[bit / 64] |= 1ull << (bit % 64);
}

/* ---- translation ---- */

/* Rights and everything else that the second level knows; false: it takes a walk. */
static bool serves(const struct cpu *cpu, const struct tlb2_entry *e, enum mmu_access access, enum mmu_idx idx)
{
    bool paging = (cpu->vmcs.guest_cr0 & X86_CR0_PG) != 0; /* without it there are no rights */

    if (!ept_allows(e->flags, access) || (access == MMU_WRITE && (e->flags & MAP_DIRTY) == 0)) {
        return false;
    }
    return (e->flags & MAP_HAS_HOST) != 0 &&
           (!paging || walk_rights_allow(cpu->vmcs.guest_cr0, cpu->vmcs.guest_cr4, e->flags, access, idx));
}

static enum mmu_result finish(struct cpu *cpu, gva_t va, enum mmu_access access, enum mmu_idx idx,
                              const struct tlb2_entry *e, struct mmu_map *map)
{
    uint64_t offset = va & ~KAGE_PAGE_MASK;

    map->gpa = e->gpa_page + offset;
    map->hva = (uint8_t *)(uintptr_t)(e->host + offset);
    map->global = (e->flags & MAP_GLOBAL) != 0;
    map->user = (e->flags & MAP_USER) != 0;
    map->has_code = access == MMU_WRITE && cpu_code_write_begins(cpu, e->gpa_page);
    if (access == MMU_FETCH) {
        if (!map->global) {
            struct tlb2 *t = cpu->tlb2;
            if (idx == MMU_IDX_USER) {
                t->code_has_local[MMU_IDX_USER] = true;
            } else {
                t->code_has_local[MMU_IDX_KERNEL] = t->code_has_local[MMU_IDX_KERNEL_USER] = true;
            }
        }
        return MMU_OK;
    }
    fill_first_level(cpu, va, access, idx, e, map->has_code);
    return MMU_OK;
}

bool mmu_is_writable_now(struct cpu *cpu, gva_t va, enum mmu_idx idx)
{
    va = cut(cpu, va);
    struct tlb2 *t = cpu->tlb2;
    const struct tlb2_entry *e = slot_of(t, va);
    struct mmu_map map;

    if (e->va_page != (va & KAGE_PAGE_MASK) || (e->stamp != t->current && e->stamp != t->global) ||
        !serves(cpu, e, MMU_WRITE, idx) || cpu_vm_has_code(cpu->vm, e->gpa_page)) {
        return false;
    }
    finish(cpu, va, MMU_WRITE, idx, e, &map);
    return true;
}

static void note_large(struct tlb2 *t, gva_t va, unsigned shift)
{
    uint64_t *map = shift == 30 ? t->large_1g : t->large_2m;
    unsigned bit = (unsigned)(va >> (shift == 30 ? 30 : 21)) & 4095;

    map[bit / 64] |= 1ull << (bit % 64);
    if (shift == 22) { /* the other half of 4 MiB */
        map[bit / 64] |= 1ull << ((bit ^ 1) % 64);
    }
}

static bool maybe_large(const struct tlb2 *t, gva_t va)
{
    unsigned a = (unsigned)(va >> 21) & 4095, b = (unsigned)(va >> 30) & 4095;

    return (t->large_2m[a / 64] >> (a % 64) & 1) != 0 || (t->large_1g[b / 64] >> (b % 64) & 1) != 0;
}

static uint64_t *global_low_word(struct tlb2 *t, gva_t va, uint64_t *bit)
{
    unsigned n = (unsigned)(va >> KAGE_PAGE_SHIFT) & 4095;

    *bit = 1ull << (n % 64);
    return &t->global_low[n / 64];
}

/* Other PCIDs may have it too, as one of theirs. */
static bool maybe_global_low(struct tlb2 *t, gva_t va)
{
    uint64_t bit;

    return (*global_low_word(t, va, &bit) & bit) != 0 && !is_kernel_half(va);
}

/* Paging off: linear addresses are physical. */
static void identity_walk(gva_t va, struct walk *w)
{
    w->gpa = (uint32_t)va;
    w->flags = MAP_USER | MAP_WRITE | MAP_DIRTY;
    w->page_shift = KAGE_PAGE_SHIFT;
}

/* What the exit qualification says of the linear address (SDM 3C table 28-7, advanced information). */
static uint64_t qualification_of(uint32_t flags)
{
    return ((flags & MAP_USER) != 0 ? VMX_EPT_QUAL_GLA_USER : 0) | ((flags & MAP_WRITE) != 0 ? VMX_EPT_QUAL_GLA_WRITE : 0) |
           ((flags & MAP_NX) != 0 ? VMX_EPT_QUAL_GLA_NX : 0);
}

static void fill_second_level(struct cpu *cpu, struct tlb2_entry *e, gva_t va, gpa_t gpa, uint64_t host, uint32_t flags, unsigned page_shift)
{
    struct tlb2 *t = cpu->tlb2;
    /* Global pages in the user half would have to be found under every PCID: kept as local ones, if there are PCIDs. */
    bool pcids = (cpu->vmcs.guest_cr4 & X86_CR4_PCIDE) != 0;
    bool global = (flags & MAP_GLOBAL) != 0 && (is_kernel_half(va) || !pcids);

    *e = (struct tlb2_entry){
        .va_page = va & KAGE_PAGE_MASK,
        .stamp = global ? t->global : t->current,
        .gpa_page = gpa & KAGE_PAGE_MASK,
        .host = host,
        .flags = (flags & ~MAP_GLOBAL) | (global ? MAP_GLOBAL : 0) | MAP_HAS_HOST,
    };
    if (flags & MAP_LARGE) {
        note_large(t, va, page_shift);
    }
    if ((flags & MAP_GLOBAL) != 0 && !global) {
        uint64_t bit, *word = global_low_word(t, va, &bit);
        *word |= bit;
    }
}

static enum mmu_result page_fault(struct cpu *cpu, struct tlb2_entry *e, gva_t va, uint32_t error)
{
    cpu_raise_page_fault(cpu, va, error);
    /* It drops what the TLBs held of that page, of its rights for other accesses too (SDM 3A 4.10.4.1). */
    if (e->va_page == (va & KAGE_PAGE_MASK)) {
        e->stamp = 0;
    }
    flush_page_everywhere(cpu, va);
    if (maybe_global_low(cpu->tlb2, va)) {
        mmu_flush_all(cpu);
    }
    return MMU_FAULT;
}

static void no_memory(struct mmu_map *map, gpa_t gpa)
{
    map->gpa = gpa;
    map->hva = NULL;
    map->has_code = false;
}

static enum mmu_result fill_through_ept(struct cpu *cpu, gva_t va, enum mmu_access access, enum mmu_idx idx, struct tlb2_entry *e,
                                        struct mmu_map *map)
{
    struct walk w;
    uint8_t *host;
    uint32_t rights;

    if (cpu->vmcs.guest_cr0 & X86_CR0_PG) {
        struct paging_regime regime = walk_actual_regime(cpu);
        enum mmu_result r = walk_guest(cpu, &regime, va, access, idx, WALK_CACHED, &w);
        if (r == MMU_EXIT) {
            cpu->vmcs.guest_linear_address = va;
        }
        if (r != MMU_OK) {
            return r == MMU_FAULT ? page_fault(cpu, e, va, w.error) : r;
        }
    } else {
        identity_walk(va, &w);
    }
    enum mmu_result r = phys_page(cpu, w.gpa, access, VMX_EPT_QUAL_GLA_VALID | VMX_EPT_QUAL_GLA_FINAL | qualification_of(w.flags),
                                  &host, &rights);
    if (r != MMU_OK) {
        no_memory(map, w.gpa);
        if (r == MMU_EXIT) {
            cpu->vmcs.guest_linear_address = va;
        }
        return r;
    }
    fill_second_level(cpu, e, va, w.gpa, (uint64_t)(uintptr_t)host, w.flags | rights, w.page_shift);
    return MMU_OK;
}

/* One write to a page that no entry gives the right to. */
static enum mmu_result write_once(struct cpu *cpu, gva_t va, gpa_t gpa, struct mmu_map *map)
{
    uint8_t *host;
    uint32_t rights;

    cpu->ops->phys_written(cpu, gpa, 1);
    enum mmu_result r = phys_page_uncached(cpu, gpa, MMU_WRITE, VMX_EPT_QUAL_GLA_VALID | VMX_EPT_QUAL_GLA_FINAL, &host, &rights);
    if (r != MMU_OK) {
        no_memory(map, gpa);
        cpu->vmcs.guest_linear_address = va;
        return r;
    }
    *map = (struct mmu_map){.gpa = gpa, .hva = host + (gpa & ~KAGE_PAGE_MASK), .user = true,
                            .has_code = cpu_code_write_begins(cpu, gpa & KAGE_PAGE_MASK)};
    return MMU_OK;
}

#define MENDING_ROUNDS 4u /* another vCPU may undo it meanwhile */

static enum mmu_result fill_without_ept(struct cpu *cpu, gva_t va, enum mmu_access access, enum mmu_idx idx, struct tlb2_entry *e,
                                        struct mmu_map *map, bool *once)
{
    struct noept_walk w;
    gpa_t gpa;

    for (unsigned round = 0;; round++) {
        enum mmu_result r = noept_walk(cpu, va, access, idx, &w);
        if (r == MMU_MMIO) {
            no_memory(map, w.gpa);
            return MMU_MMIO;
        }
        if (r == MMU_OK && cpu->ops->guest_page(cpu, w.entry, w.page, &gpa)) {
            break;
        }
        if (round < MENDING_ROUNDS && cpu->ops->page_fault != NULL) {
            uint32_t error = 0;
            cpu_fpu_save(cpu); /* kvm/ may call anything */
            switch (cpu->ops->page_fault(cpu, va, access, idx, &error, &gpa)) {
            case CPU_PF_MENDED:
                continue;
            case CPU_PF_GUEST:
                page_fault(cpu, e, va, error);
                cpu->event.guests_own = true;
                cpu_mmio_consume(cpu); /* the instruction will ask again */
                return MMU_FAULT;
            case CPU_PF_ONCE:
                *once = true;
                return write_once(cpu, va, gpa, map);
            case CPU_PF_GONE:
                cpu->vmcs.guest_linear_address = va;
                return MMU_EXIT;
            default:
                break;
            }
        }
        if (r == MMU_OK) { /* the entry is on its way out */
            struct paging_regime regime = walk_actual_regime(cpu);
            w.error = walk_error_bits(&regime, access, idx);
        }
        return page_fault(cpu, e, va, w.error);
    }
    if (access == MMU_WRITE && (w.flags & MAP_EPT_WRITE) == 0) {
        no_memory(map, gpa + (va & ~KAGE_PAGE_MASK));
        return MMU_MMIO;
    }
    fill_second_level(cpu, e, va, gpa, w.page, w.flags, w.page_shift);
    return MMU_OK;
}

enum mmu_result mmu_translate(struct cpu *cpu, gva_t va, enum mmu_access access, enum mmu_idx idx, struct mmu_map *map)
{
    va = cut(cpu, va);
    struct tlb2 *t = cpu->tlb2;
    struct tlb2_entry *e = slot_of(t, va);

    cpu->stats[CPU_STAT_TLB_MISSES]++;
    if (e->va_page == (va & KAGE_PAGE_MASK) && (e->stamp == t->current || e->stamp == t->global) &&
        serves(cpu, e, access, idx)) {
        return finish(cpu, va, access, idx, e, map);
    }
    if (!cpu_is_canonical(cpu, va) && cpu_in_long_mode(cpu)) {
        cpu_raise_error(cpu, X86_EXC_GP, 0);
        cpu->event.address = true;
        return MMU_FAULT;
    }
    cpu->stats[CPU_STAT_TLB2_MISSES]++;
    bool once = false;
    enum mmu_result r = cpu_uses_ept(cpu) ? fill_through_ept(cpu, va, access, idx, e, map)
                                          : fill_without_ept(cpu, va, access, idx, e, map, &once);
    return r == MMU_OK && !once ? finish(cpu, va, access, idx, e, map) : r;
}

bool mmu_probe(struct cpu *cpu, gva_t va, gpa_t *gpa, bool *writable, bool *user)
{
    struct paging_regime regime = walk_guest_regime(cpu);
    struct walk w;

    va = cut(cpu, va);
    if (cpu_in_long_mode(cpu) && !cpu_is_canonical(cpu, va)) {
        return false;
    }
    /* A supervisor read with SMAP set aside reaches every present page. */
    if (mmu_walk(cpu, &regime, va, MMU_READ, MMU_IDX_KERNEL_USER, WALK_QUIET, &w) != MMU_OK) {
        return false;
    }
    *gpa = w.gpa;
    *writable = (w.flags & MAP_WRITE) != 0;
    *user = (w.flags & MAP_USER) != 0;
    return true;
}

enum mmu_result mmu_read_virt(struct cpu *cpu, gva_t va, void *buf, size_t len, enum mmu_idx idx, struct walk *w)
{
    struct paging_regime regime = walk_guest_regime(cpu);
    uint8_t *to = buf;

    while (len > 0) {
        gva_t at = cut(cpu, va);
        size_t room = (size_t)(KAGE_PAGE_SIZE - (at & ~KAGE_PAGE_MASK)), n = room < len ? room : len;
        enum mmu_result r = mmu_walk(cpu, &regime, at, MMU_READ, idx, 0, w);
        if (r == MMU_OK && !mmu_phys_read(cpu, w->gpa, to, n)) {
            r = MMU_MMIO;
        }
        if (r != MMU_OK) {
            return r;
        }
        va += n;
        to += n;
        len -= n;
    }
    return MMU_OK;
}

static bool phys_copy_held(struct cpu *cpu, gpa_t gpa, uint8_t *buf, size_t len, bool write)
{
    while (len > 0) {
        uint8_t *host;
        uint32_t rights;
        size_t off = (size_t)(gpa & ~KAGE_PAGE_MASK);
        size_t n = KAGE_PAGE_SIZE - off < len ? KAGE_PAGE_SIZE - off : len;
        if (write && cpu->ops->phys_written != NULL) {
            cpu->ops->phys_written(cpu, gpa, n);
        }
        if (phys_page_uncached(cpu, gpa, write ? MMU_WRITE : MMU_READ, 0, &host, &rights) != MMU_OK) {
            return false;
        }
        if (cpu_guarded_copy(write ? host + off : buf, write ? buf : host + off, n) != 0) { /* the client took it away */
            return false;
        }
        if (write) {
            cpu_code_written(cpu, gpa, (unsigned)n);
        }
        gpa += n;
        buf += n;
        len -= n;
    }
    return true;
}

static bool phys_copy(struct cpu *cpu, gpa_t gpa, uint8_t *buf, size_t len, bool write)
{
    bool held = cpu_hold_memory(cpu); /* from the look at the EPT to the last byte */
    bool ok = phys_copy_held(cpu, gpa, buf, len, write);

    cpu_release_memory(cpu, held);
    return ok;
}

bool mmu_phys_read(struct cpu *cpu, gpa_t gpa, void *buf, size_t len)
{
    return phys_copy(cpu, gpa, buf, len, false);
}

bool mmu_phys_write(struct cpu *cpu, gpa_t gpa, const void *buf, size_t len)
{
    return phys_copy(cpu, gpa, (uint8_t *)(uintptr_t)buf, len, true);
}

struct exchange {
    uint8_t *at, value;
};

static void exchange_byte(void *arg)
{
    struct exchange *x = arg;
    x->value = __atomic_exchange_n(x->at, x->value, __ATOMIC_SEQ_CST);
}

bool mmu_phys_exchange_byte(struct cpu *cpu, gpa_t gpa, uint8_t *value)
{
    uint8_t *host;
    uint32_t rights;
    bool held = cpu_hold_memory(cpu);
    if (cpu->ops->phys_written != NULL) {
        cpu->ops->phys_written(cpu, gpa, 1);
    }
    bool ok = phys_page_uncached(cpu, gpa, MMU_WRITE, 0, &host, &rights) == MMU_OK;

    if (ok) {
        struct exchange x = {.at = host + (gpa & ~KAGE_PAGE_MASK), .value = *value};
        ok = cpu_guarded_call(cpu, exchange_byte, &x);
        *value = x.value;
        cpu_code_written(cpu, gpa, 1);
    }
    cpu_release_memory(cpu, held);
    return ok;
}

/* ---- flushes ---- */

static void clear_first_level(struct cpu *cpu, bool local_only)
{
    struct tlb2 *t = cpu->tlb2;

    cpu->stats[CPU_STAT_TLB_FLUSHES]++;
    for (unsigned idx = 0; idx < MMU_IDX_COUNT; idx++) {
        if (!local_only || t->bank_has_local[idx]) {
            clear_bank(cpu, idx);
        }
        if (!local_only || t->code_has_local[idx]) {
            clear_code(cpu, idx);
        }
    }
    if (!local_only) {
        memset(cpu->jump_filter, 0, sizeof(cpu->jump_filter));
    }
}

void mmu_flush_all(struct cpu *cpu)
{
    struct tlb2 *t = cpu->tlb2;

    t->global = new_stamp(t);
    memset(t->large_2m, 0, sizeof(t->large_2m));
    memset(t->large_1g, 0, sizeof(t->large_1g));
    memset(t->global_low, 0, sizeof(t->global_low));
    memset(t->phys_cache, 0, sizeof(t->phys_cache));
    mmu_flush_non_global(cpu);
    clear_first_level(cpu, false);
}

void mmu_flush_non_global(struct cpu *cpu)
{
    struct tlb2 *t = cpu->tlb2;

    t->oldest_valid = new_stamp(t);
    t->pcid = current_pcid(cpu);
    t->current = pcid_stamp(t, t->pcid);
    t->pde = new_stamp(t);
    clear_first_level(cpu, true);
}

void mmu_flush_pcid(struct cpu *cpu, unsigned pcid)
{
    struct tlb2 *t = cpu->tlb2;

    t->pcid_stamp[pcid & (PCID_COUNT - 1)] = new_stamp(t);
    if (pcid == t->pcid) {
        t->current = t->pcid_stamp[pcid];
        t->pde = new_stamp(t);
        clear_first_level(cpu, true);
    }
}

void mmu_switch_cr3(struct cpu *cpu, bool noflush)
{
    struct tlb2 *t = cpu->tlb2;
    unsigned pcid = current_pcid(cpu);

    if (!noflush) {
        t->pcid_stamp[pcid] = new_stamp(t);
    }
    t->pcid = pcid;
    t->current = pcid_stamp(t, pcid);
    t->pde = new_stamp(t);
    clear_first_level(cpu, true);
}

void mmu_flush_page(struct cpu *cpu, gva_t va)
{
    struct tlb2 *t = cpu->tlb2;
    struct tlb2_entry *e = slot_of(t, va);

    cpu->stats[CPU_STAT_TLB_FLUSH_PAGES]++;
    t->pde = new_stamp(t);
    if (maybe_large(t, va) || maybe_global_low(t, va)) {
        mmu_flush_all(cpu); /* its pieces, or copies, are anywhere */
        return;
    }
    if (e->va_page == (va & KAGE_PAGE_MASK)) {
        e->stamp = 0;
    }
    flush_page_everywhere(cpu, va);
}

void mmu_flush_page_pcid(struct cpu *cpu, gva_t va, unsigned pcid)
{
    struct tlb2 *t = cpu->tlb2;

    if (pcid == t->pcid) {
        mmu_flush_page(cpu, va);
    } else {
        /* Another PCID's entries are only in the second level: dropping more than asked is allowed. */
        t->pcid_stamp[pcid & (PCID_COUNT - 1)] = new_stamp(t);
    }
}

void mmu_protect_host_page(struct cpu *cpu, const uint8_t *page)
{
    for (unsigned idx = 0; idx < MMU_IDX_COUNT; idx++) {
        struct tlb_bank *bank = &cpu->tlb[idx][MMU_WRITE];
        const struct clear_log *log = &cpu->tlb2->bank_log[idx]; /* of the entries that may be in use */
        bool all = log->count > CLEAR_LOG_MAX;
        for (unsigned n = 0, count = all ? TLB_SIZE : log->count; n < count; n++) {
            unsigned i = all ? n : log->index[n];
            if (bank->host[i] == (uint64_t)(uintptr_t)page) {
                invalidate_entry(bank, i);
            }
        }
    }
}

void mmu_set_test_tiny_tlb(struct cpu *cpu, bool on)
{
    cpu->tlb2->tiny = on;
    mmu_flush_all(cpu);
}
