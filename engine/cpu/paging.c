/* SPDX-License-Identifier: MIT */
/*
 * Loads of CR0, CR3, CR4 and EFER: their checks, and what follows from them for paging and IA-32e mode (SDM 3A 2.5, 4.1,
 * 9.8.5; SDM 2 MOV-1, WRMSR). With EPT they change the VMCS' guest-state area. With EPT off they change what the guest
 * sees, and the processor's own registers become what tables of the hypervisor's, in the 64-bit format, ask for.
 */
#include "cpu/sys.h"
#include "mmu/mmu.h"

#define CR0_RESERVED_ABOVE 32
#define CR4_KNOWN                                                                                                      \
    (X86_CR4_VME | X86_CR4_PVI | X86_CR4_TSD | X86_CR4_DE | X86_CR4_PSE | X86_CR4_PAE | X86_CR4_MCE | X86_CR4_PGE |    \
     X86_CR4_PCE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_UMIP | X86_CR4_FSGSBASE | X86_CR4_PCIDE |             \
     X86_CR4_OSXSAVE | X86_CR4_SMEP | X86_CR4_SMAP | X86_CR4_LA57)
#define CR4_FLUSHES (X86_CR4_PSE | X86_CR4_PAE | X86_CR4_PGE | X86_CR4_LA57 | X86_CR4_SMEP | X86_CR4_SMAP | X86_CR4_PCIDE)
#define CR0_DEFINED                                                                                                    \
    (X86_CR0_PE | X86_CR0_MP | X86_CR0_EM | X86_CR0_TS | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP | X86_CR0_AM |           \
     X86_CR0_NW | X86_CR0_CD | X86_CR0_PG)
#define CR0_FLUSHES (X86_CR0_PG | X86_CR0_WP | X86_CR0_PE)
#define CR0_LOADS_PDPTES (X86_CR0_PG | X86_CR0_CD | X86_CR0_NW) /* SDM 3A 4.4.1 */
#define CR4_LOADS_PDPTES (X86_CR4_PAE | X86_CR4_PGE | X86_CR4_PSE | X86_CR4_SMEP)

/* The registers that a load replaces and is judged by: all of them, masked bits too, are the VMCS' with EPT. */
struct registers {
    uint64_t cr0, cr3, cr4, efer;
};

static struct registers registers_of(const struct cpu *cpu)
{
    const struct vmcs *v = &cpu->vmcs;

    if (cpu_uses_ept(cpu)) {
        return (struct registers){v->guest_cr0, v->guest_cr3, v->guest_cr4, v->guest_ia32_efer};
    }
    return (struct registers){cpu_guest_cr0(cpu), cpu->guest_cr3, cpu_guest_cr4(cpu), cpu->guest_efer};
}

/*
 * Supervisor writes must never pass over a page that is write-protected for the hypervisor's sake, and the guest must not
 * be without paging: WP and PG are always set, PG while PE is clear too. Tables are in the 64-bit format whatever mode the
 * guest is in, and always know NX. Rights of the guest's that say something only with paging go with its own CR0.PG.
 */
static void set_without_ept(struct cpu *cpu, const struct registers *r)
{
    struct vmcs *v = &cpu->vmcs;
    bool paging = (r->cr0 & X86_CR0_PG) != 0, lma = (r->efer & X86_EFER_LMA) != 0;
    uint64_t rights = (paging ? X86_CR4_SMEP | X86_CR4_SMAP | X86_CR4_PGE : 0) | (lma ? X86_CR4_PCIDE | X86_CR4_LA57 : 0);

    v->cr0_read_shadow = r->cr0;
    v->cr4_read_shadow = r->cr4;
    cpu->guest_cr3 = r->cr3;
    cpu->guest_efer = r->efer;
    v->guest_cr0 = r->cr0 | X86_CR0_PG | X86_CR0_WP;
    v->guest_cr4 = (r->cr4 & ~CPU_NOEPT_CR4_MASK) | (r->cr4 & rights) | X86_CR4_PAE;
    v->guest_ia32_efer = (r->efer & ~X86_EFER_LME) | (lma ? X86_EFER_LME : 0) | X86_EFER_NX;
}

static void set_registers(struct cpu *cpu, const struct registers *r)
{
    struct vmcs *v = &cpu->vmcs;

    if (cpu_uses_ept(cpu)) {
        v->guest_cr0 = r->cr0;
        v->guest_cr3 = r->cr3;
        v->guest_cr4 = r->cr4;
        v->guest_ia32_efer = r->efer;
    } else {
        set_without_ept(cpu, r);
    }
    v->entry_ctls = (v->entry_ctls & ~VMX_ENTRY_IA32E_MODE) | ((r->efer & X86_EFER_LMA) != 0 ? VMX_ENTRY_IA32E_MODE : 0);
    cpu_update_mode(cpu);
}

void cpu_set_paging(struct cpu *cpu, uint64_t cr0, uint64_t cr3, uint64_t cr4, uint64_t efer)
{
    set_registers(cpu, &(struct registers){cr0, cr3, cr4, efer});
}

/* PAE paging that starts here reads its four registers. False: they have reserved bits. */
static bool load_pdptes(struct cpu *cpu, const struct registers *r)
{
    return !mmu_uses_pdptes(r->cr0, r->cr4, r->efer) || mmu_load_pdptes(cpu, r->cr3);
}

static void flush_with_ept(struct cpu *cpu)
{
    if (cpu_uses_ept(cpu)) {
        mmu_flush_all(cpu);
    }
}

/* Enters or leaves IA-32e mode as CR0.PG changes; false: the change raises #GP (SDM 3A 9.8.5). */
static bool switch_paging(const struct cpu *cpu, struct registers *r, uint64_t new_cr0)
{
    bool was = (r->cr0 & X86_CR0_PG) != 0, is = (new_cr0 & X86_CR0_PG) != 0;

    if (was == is) {
        return true;
    }
    if (is) {
        if ((r->efer & X86_EFER_LME) == 0) {
            return true;
        }
        if ((r->cr4 & X86_CR4_PAE) == 0 || (cpu->vmcs.guest_seg[X86_CS].access_rights & X86_AR_L) != 0 ||
            (cpu->vmcs.guest_seg[X86_TR].access_rights & X86_AR_TYPE) < 8) {
            return false;
        }
        r->efer |= X86_EFER_LMA;
        return true;
    }
    if ((r->cr4 & X86_CR4_PCIDE) != 0 || (cpu->mode & CPU_MODE_LONG) != 0) {
        return false;
    }
    r->efer &= ~X86_EFER_LMA;
    return true;
}

bool cpu_load_cr0(struct cpu *cpu, uint64_t value)
{
    struct registers r = registers_of(cpu);

    if (value >> CR0_RESERVED_ABOVE != 0 || ((value & X86_CR0_PG) != 0 && (value & X86_CR0_PE) == 0) ||
        ((value & X86_CR0_NW) != 0 && (value & X86_CR0_CD) == 0)) {
        return false;
    }
    value = (value & CR0_DEFINED) | X86_CR0_ET;
    uint64_t changed = r.cr0 ^ value;
    if (!switch_paging(cpu, &r, value)) {
        return false;
    }
    r.cr0 = value;
    bool pdptes = (changed & CR0_LOADS_PDPTES) != 0 && mmu_uses_pdptes(r.cr0, r.cr4, r.efer);
    if (pdptes && !load_pdptes(cpu, &r)) {
        return false;
    }
    set_registers(cpu, &r);
    if (pdptes || (changed & CR0_FLUSHES) != 0) {
        flush_with_ept(cpu);
    }
    return true;
}

bool cpu_load_cr3(struct cpu *cpu, uint64_t value)
{
    struct registers r = registers_of(cpu);

    if ((value & cpu->maxphyaddr_mask) != 0 || value >> 52 != 0) {
        return false;
    }
    r.cr3 = value;
    if (!load_pdptes(cpu, &r)) {
        return false;
    }
    if (cpu_uses_ept(cpu)) {
        cpu->vmcs.guest_cr3 = value;
    } else {
        cpu->guest_cr3 = value;
    }
    return true;
}

bool cpu_load_cr4(struct cpu *cpu, uint64_t value)
{
    struct registers r = registers_of(cpu);
    uint64_t changed = r.cr4 ^ value;
    bool lma = (r.efer & X86_EFER_LMA) != 0;

    if ((value & ~cpu->vmcs.cr4_mask & ~CR4_KNOWN) != 0 || (!cpu_uses_ept(cpu) && (value & ~CR4_KNOWN) != 0)) {
        return false;
    }
    if (lma && ((value & X86_CR4_PAE) == 0 || (changed & X86_CR4_LA57) != 0)) {
        return false;
    }
    if ((changed & value & X86_CR4_PCIDE) != 0 && (!lma || (r.cr3 & X86_CR3_PCID_MASK) != 0)) {
        return false;
    }
    r.cr4 = value;
    if ((changed & CR4_LOADS_PDPTES) != 0 && !load_pdptes(cpu, &r)) {
        return false;
    }
    set_registers(cpu, &r);
    if ((changed & CR4_FLUSHES) != 0) { /* with PCIDs the TLB keeps global pages of user addresses another way */
        flush_with_ept(cpu);
    }
    return true;
}

bool cpu_load_efer(struct cpu *cpu, uint64_t value)
{
    struct registers r = registers_of(cpu);
    uint64_t changed = r.efer ^ value;

    if ((value & ~cpu->efer_valid) != 0 || ((changed & X86_EFER_LME) != 0 && (r.cr0 & X86_CR0_PG) != 0)) {
        return false;
    }
    r.efer = (value & ~X86_EFER_LMA) | (r.efer & X86_EFER_LMA); /* LMA is read-only */
    set_registers(cpu, &r);
    if ((changed & X86_EFER_NX) != 0) {
        flush_with_ept(cpu);
    }
    return true;
}
