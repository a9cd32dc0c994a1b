/* SPDX-License-Identifier: MIT */
/*
 * The checks of VM entry on the guest-state area, for a processor with "unrestricted guest": real,
 * virtual-8086, protected and IA-32e mode (SDM 3C 27.3.1). A state that passes is one that the
 * processor could have come to by itself; its code relies on that.
 */
#include "vmx/vmx.h"

#include "mmu/noept.h"

#define AR_TYPE_ACCESSED 1u
#define AR_TYPE_RW 2u /* writable data, readable code */
#define AR_TYPE_CONFORMING 4u
#define AR_TYPE_CODE 8u
#define AR_RESERVED 0xfffe0f00u
#define AR_V86 0xf3u
#define SYS_TSS_16_BUSY 3u
#define SYS_TSS_BUSY 11u
#define SYS_LDT 2u
#define SELECTOR_TI 4u
#define RFLAGS_RESERVED 0xffffffffffc08028ull

static bool in_ia32e(const struct vmcs *v)
{
    return (v->guest_ia32_efer & X86_EFER_LMA) != 0;
}

static bool in_v86(const struct vmcs *v)
{
    return (v->guest_rflags & X86_FLAGS_VM) != 0;
}

static bool is_usable(const struct vmcs_segment *s)
{
    return (s->access_rights & X86_AR_UNUSABLE) == 0;
}

static unsigned type_of(const struct vmcs_segment *s)
{
    return s->access_rights & X86_AR_TYPE;
}

static unsigned dpl_of(const struct vmcs_segment *s)
{
    return (s->access_rights & X86_AR_DPL) >> X86_AR_DPL_SHIFT;
}

/* ---- control registers and MSRs (27.3.1.1) ---- */

static bool control_registers_are_good(const struct cpu *cpu)
{
    const struct vmcs *v = &cpu->vmcs;
    uint64_t cr0 = v->guest_cr0, cr4 = v->guest_cr4, efer = v->guest_ia32_efer;
    bool lma = in_ia32e(v), paging = (cr0 & X86_CR0_PG) != 0;

    if (!cpu_uses_ept(cpu)) { /* PG stands for the hypervisor's tables, and CR3 has one's host address */
        if (!paging || (cr0 & X86_CR0_WP) == 0 || v->guest_cr3 >> 52 != 0 || (v->guest_cr3 & NOEPT_MMIO) != 0) {
            return false;
        }
    } else if ((paging && (cr0 & X86_CR0_PE) == 0) || (v->guest_cr3 & (cpu->maxphyaddr_mask | 0xfff0000000000000ull)) != 0) {
        return false;
    }
    if ((cr0 >> 32) != 0 || (cr4 & X86_CR4_VMXE) != 0) {
        return false;
    }
    if ((cr0 & X86_CR0_NW) != 0 && (cr0 & X86_CR0_CD) == 0) {
        return false;
    }
    return !(lma != (paging && (efer & X86_EFER_LME) != 0) || (lma && (cr4 & X86_CR4_PAE) == 0) ||
             (!lma && (cr4 & X86_CR4_PCIDE) != 0));
}

/* ---- segment registers (27.3.1.2) ---- */

/* G is 0 if the limit's low 12 bits are not all ones, and 1 if its high 12 are not all zeros. */
static bool granularity_is_good(const struct vmcs_segment *s)
{
    bool g = (s->access_rights & X86_AR_G) != 0;

    return !(g && (s->limit & 0xfff) != 0xfff) && !(!g && (s->limit & 0xfff00000u) != 0);
}

static bool v86_segment_is_good(const struct vmcs_segment *s)
{
    return s->base == (uint64_t)s->selector << 4 && s->limit == 0xffff && s->access_rights == AR_V86;
}

static bool code_segment_is_good(const struct vmcs *v)
{
    const struct vmcs_segment *cs = &v->guest_seg[X86_CS], *ss = &v->guest_seg[X86_SS];

    if (in_ia32e(v) && (cs->access_rights & (X86_AR_L | X86_AR_DB)) == (X86_AR_L | X86_AR_DB)) {
        return false;
    }
    switch (type_of(cs)) {
    case AR_TYPE_RW | AR_TYPE_ACCESSED: /* data: of a guest that came from real mode without a far branch */
        return dpl_of(cs) == 0;
    case AR_TYPE_CODE | AR_TYPE_ACCESSED:
    case AR_TYPE_CODE | AR_TYPE_RW | AR_TYPE_ACCESSED:
        return dpl_of(cs) == dpl_of(ss);
    case AR_TYPE_CODE | AR_TYPE_CONFORMING | AR_TYPE_ACCESSED:
    case AR_TYPE_CODE | AR_TYPE_CONFORMING | AR_TYPE_RW | AR_TYPE_ACCESSED:
        return dpl_of(cs) <= dpl_of(ss);
    default:
        return false;
    }
}

static bool segment_is_good(const struct cpu *cpu, unsigned seg)
{
    const struct vmcs *v = &cpu->vmcs;
    const struct vmcs_segment *s = &v->guest_seg[seg];
    unsigned type = type_of(s);
    bool wide_base = seg == X86_FS || seg == X86_GS;

    if (wide_base && !cpu_is_cpu_canonical(cpu, s->base)) {
        return false;
    }
    if (seg == X86_SS && (type_of(&v->guest_seg[X86_CS]) == (AR_TYPE_RW | AR_TYPE_ACCESSED) ||
                          (v->guest_cr0 & X86_CR0_PE) == 0) && dpl_of(s) != 0) {
        return false;
    }
    if (seg != X86_CS && !is_usable(s)) {
        return true;
    }
    if ((s->access_rights & (X86_AR_P | X86_AR_S)) != (X86_AR_P | X86_AR_S) ||
        (s->access_rights & (AR_RESERVED & ~(seg == X86_CS ? X86_AR_UNUSABLE : 0u))) != 0 || !granularity_is_good(s)) {
        return false;
    }
    if (!wide_base && s->base >> 32 != 0) {
        return false;
    }
    if (seg == X86_CS) {
        return code_segment_is_good(v);
    }
    if (seg == X86_SS) {
        return (type & ~AR_TYPE_CONFORMING) == (AR_TYPE_RW | AR_TYPE_ACCESSED); /* bit 2 is expand-down here */
    }
    return (type & AR_TYPE_ACCESSED) != 0 && ((type & AR_TYPE_CODE) == 0 || (type & AR_TYPE_RW) != 0);
}

static bool system_segments_are_good(const struct cpu *cpu)
{
    const struct vmcs *v = &cpu->vmcs;
    const struct vmcs_segment *tr = &v->guest_seg[X86_TR], *ldtr = &v->guest_seg[X86_LDTR];

    if (!is_usable(tr) || (tr->access_rights & (X86_AR_P | X86_AR_S)) != X86_AR_P ||
        (tr->access_rights & AR_RESERVED) != 0 || (tr->selector & SELECTOR_TI) != 0 || !granularity_is_good(tr) ||
        !cpu_is_cpu_canonical(cpu, tr->base)) {
        return false;
    }
    if (type_of(tr) != SYS_TSS_BUSY && (in_ia32e(v) || type_of(tr) != SYS_TSS_16_BUSY)) {
        return false;
    }
    return !is_usable(ldtr) ||
           ((ldtr->access_rights & (X86_AR_TYPE | X86_AR_P | X86_AR_S)) == (SYS_LDT | X86_AR_P) &&
            (ldtr->access_rights & AR_RESERVED) == 0 && (ldtr->selector & SELECTOR_TI) == 0 &&
            granularity_is_good(ldtr) && cpu_is_cpu_canonical(cpu, ldtr->base));
}

static bool segments_are_good(const struct cpu *cpu)
{
    const struct vmcs *v = &cpu->vmcs;

    for (unsigned seg = X86_ES; seg <= X86_GS; seg++) {
        if (in_v86(v) ? !v86_segment_is_good(&v->guest_seg[seg]) : !segment_is_good(cpu, seg)) {
            return false;
        }
    }
    return system_segments_are_good(cpu);
}

/* ---- descriptor tables, RIP and RFLAGS, the rest (27.3.1.3 to 27.3.1.6) ---- */

static bool rip_and_rflags_are_good(const struct cpu *cpu)
{
    const struct vmcs *v = &cpu->vmcs;
    bool wide = in_ia32e(v) && (v->guest_seg[X86_CS].access_rights & X86_AR_L) != 0;
    uint32_t info = v->entry_intr_info;

    if (wide ? !cpu_is_cpu_canonical(cpu, v->guest_rip) : v->guest_rip >> 32 != 0) {
        return false;
    }
    if ((v->guest_rflags & (X86_FLAGS_FIXED | RFLAGS_RESERVED)) != X86_FLAGS_FIXED) {
        return false;
    }
    if (in_v86(v) && (in_ia32e(v) || (v->guest_cr0 & X86_CR0_PE) == 0)) {
        return false;
    }
    bool interrupt = (info & (VMX_INFO_VALID | VMX_INFO_TYPE)) == (VMX_INFO_VALID | VMX_EVENT_EXT_INTR << VMX_INFO_TYPE_SHIFT);
    return !interrupt || (v->guest_rflags & X86_FLAGS_IF) != 0;
}

static bool activity_is_good(const struct vmcs *v)
{
    uint32_t shadow = v->guest_interruptibility;
    unsigned type = (v->entry_intr_info & VMX_INFO_TYPE) >> VMX_INFO_TYPE_SHIFT;

    if (v->guest_activity_state > VMX_ACTIVITY_WAIT_SIPI || (shadow & ~0x1fu) != 0 ||
        (shadow & (VMX_INTR_STI | VMX_INTR_MOV_SS)) == (VMX_INTR_STI | VMX_INTR_MOV_SS)) {
        return false;
    }
    if ((shadow & VMX_INTR_STI) != 0 && (v->guest_rflags & X86_FLAGS_IF) == 0) {
        return false;
    }
    if ((v->entry_intr_info & VMX_INFO_VALID) == 0) {
        return true;
    }
    return !(type == VMX_EVENT_EXT_INTR && (shadow & (VMX_INTR_STI | VMX_INTR_MOV_SS)) != 0) &&
           !(type == VMX_EVENT_NMI && (shadow & VMX_INTR_MOV_SS) != 0);
}

static bool pdptes_are_good(const struct cpu *cpu)
{
    const struct vmcs *v = &cpu->vmcs;

    if (!cpu_uses_ept(cpu) || !mmu_uses_pdptes(v->guest_cr0, v->guest_cr4, v->guest_ia32_efer)) {
        return true;
    }
    for (unsigned i = 0; i < KAGE_ARRAY_SIZE(v->guest_pdpte); i++) {
        if (!mmu_pdpte_is_good(cpu, v->guest_pdpte[i])) {
            return false;
        }
    }
    return true;
}

bool vmx_guest_state_is_good(const struct cpu *cpu)
{
    const struct vmcs *v = &cpu->vmcs;

    return control_registers_are_good(cpu) && segments_are_good(cpu) && cpu_is_cpu_canonical(cpu, v->guest_gdtr_base) &&
           cpu_is_cpu_canonical(cpu, v->guest_idtr_base) && v->guest_gdtr_limit <= 0xffff && v->guest_idtr_limit <= 0xffff &&
           rip_and_rflags_are_good(cpu) && activity_is_good(v) && pdptes_are_good(cpu);
}
