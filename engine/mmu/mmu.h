/* SPDX-License-Identifier: MIT */
/*
 * The processor's memory management unit: the walk of the guest's page tables, the walk of the
 * EPT, and the two-level software TLB. Nothing outside mmu/ turns a guest address into a host
 * pointer.
 */
#ifndef KAGE_MMU_MMU_H
#define KAGE_MMU_MMU_H

#include "arch/x86.h"
#include "cpu/cpu.h"

/* How an access can be served. */
enum mmu_result {
    MMU_OK,    /* map->hva is valid for the rest of the page */
    MMU_FAULT, /* a #PF (or #GP, #SS for a non-canonical address) was recorded with cpu_raise… */
    MMU_MMIO,  /* map->gpa is known, no memory slot is behind it (or the slot is read-only and this is a write) */
    MMU_EXIT,  /* a VM exit was recorded (the slot's host memory is gone, EPT misconfiguration) */
};

struct mmu_map {
    gpa_t gpa;
    uint8_t *hva;
    bool has_code;  /* a write must be followed by cpu_code_written() */
    bool global;    /* the guest's mapping is global */
    bool user;      /* U/S of the guest's mapping */
};

/*
 * Translates va for one access that stays inside its page, with all permission checks, accessed and
 * dirty updates of the regime `idx`, and puts the translation into the TLBs (a write to a page with
 * code is left out of the first level, so that each such write comes here again).
 */
enum mmu_result mmu_translate(struct cpu *cpu, gva_t va, enum mmu_access access, enum mmu_idx idx, struct mmu_map *map);

/* True if the first-level TLB can serve a write to the page of va now, without setting a dirty bit or faulting. */
bool mmu_is_writable_now(struct cpu *cpu, gva_t va, enum mmu_idx idx);

/* The same walk without any side effect or exception, for KVM_TRANSLATE, debuggers and inspection. Returns false if not mapped. */
bool mmu_probe(struct cpu *cpu, gva_t va, gpa_t *gpa, bool *writable, bool *user);

/* Reads or writes guest-physical memory through the EPT; false if no slot backs all of it. */
bool mmu_phys_read(struct cpu *cpu, gpa_t gpa, void *buf, size_t len);
bool mmu_phys_write(struct cpu *cpu, gpa_t gpa, const void *buf, size_t len);
/* Exchanges a byte of it with *value, atomically for other vCPUs. */
bool mmu_phys_exchange_byte(struct cpu *cpu, gpa_t gpa, uint8_t *value);

/* TLB maintenance, as the instructions and controls state it (SDM 3A 4.10.4). */
void mmu_flush_all(struct cpu *cpu);                   /* everything, global too; also the jump cache and code TLB */
void mmu_flush_non_global(struct cpu *cpu);            /* every PCID, not global */
void mmu_flush_pcid(struct cpu *cpu, unsigned pcid);   /* non-global entries of one PCID */
void mmu_flush_page(struct cpu *cpu, gva_t va);        /* INVLPG: current PCID and global entries */
void mmu_flush_page_pcid(struct cpu *cpu, gva_t va, unsigned pcid); /* INVPCID type 0 */
/* MOV to CR3 after vmcs.guest_cr3 was set: switches the address space; flushes unless noflush. */
void mmu_switch_cr3(struct cpu *cpu, bool noflush);
/*
 * PAE paging (CR0.PG and CR4.PAE outside IA-32e mode) starts at vmcs.guest_pdpte[]: loads them from where a value of CR3
 * says. False, with nothing changed: an entry has reserved bits, which is #GP(0) of what loads them (SDM 3A 4.4.1).
 */
KAGE_MUST_CHECK bool mmu_load_pdptes(struct cpu *cpu, uint64_t cr3);
bool mmu_pdpte_is_good(const struct cpu *cpu, uint64_t pdpte);
static inline bool mmu_uses_pdptes(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
    return (cr0 & X86_CR0_PG) != 0 && (cr4 & X86_CR4_PAE) != 0 && (efer & X86_EFER_LMA) == 0;
}
/* First-level write entries that reach host page `page` are dropped: it has translated code now. */
void mmu_protect_host_page(struct cpu *cpu, const uint8_t *page);

/* The jump cache now leads to code in the page of va: a flush of that page must clear it. */
void mmu_note_jump_target(struct cpu *cpu, gva_t va);

/* Reserved address bits of a page-table entry with `bits` physical-address bits (cpu->maxphyaddr_mask). */
#define PTE_RESERVED_ABOVE(bits) (0x000fffffffffffffull & ~((1ull << (bits)) - 1))

KAGE_MUST_CHECK int mmu_init(struct cpu *cpu); /* allocates the second level; -errno */
void mmu_fini(struct cpu *cpu);

/* Size of the first-level TLB in use, 1 to TLB_SIZE (tests run with 1): entries beyond alias to it by flushing. */
void mmu_set_test_tiny_tlb(struct cpu *cpu, bool on);

#endif
