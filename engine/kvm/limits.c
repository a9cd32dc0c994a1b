/* SPDX-License-Identifier: MIT */
/*
 * What a vCPU's CPUID does not offer does not exist: bits of CR4 and EFER, MSRs, instructions with a control of their
 * own, KVM's paravirtual features. Before the client has set a table nothing is withheld.
 */
#include <asm/kvm_para.h>

#include "kvm/cpuid_features.h"
#include "kvm/vcpu.h"

struct cpuid_bits {
    uint32_t leaf;
    uint8_t reg; /* CPUID_EAX … */
    uint32_t bits;
};

static bool limits_any(const struct kvm_vcpu *vcpu, const struct cpuid_bits *any, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if (kvm_cpuid_register(vcpu, any[i].leaf, any[i].leaf == 0xd ? 1 : 0, any[i].reg) & any[i].bits)
            return true;
    return false;
}

/* ---- CR4 (SDM 3A 2.5: each of these bits is reserved on a processor without the feature) ---- */

static const struct {
    struct cpuid_bits needs;
    uint64_t cr4;
} limits_cr4_bits[] = {
    { { 1, CPUID_ECX, CPUID_BIT(17) }, X86_CR4_PCIDE },
    { { 1, CPUID_ECX, CPUID_BIT(26) }, X86_CR4_OSXSAVE },
    { { 7, CPUID_EBX, CPUID_BIT(0) }, X86_CR4_FSGSBASE },
    { { 7, CPUID_EBX, CPUID_BIT(7) }, X86_CR4_SMEP },
    { { 7, CPUID_EBX, CPUID_BIT(20) }, X86_CR4_SMAP },
    { { 7, CPUID_ECX, CPUID_BIT(2) }, X86_CR4_UMIP },
    { { 7, CPUID_ECX, CPUID_7_ECX_LA57 }, X86_CR4_LA57 },
};

uint64_t kvm_limits_cr4_reserved(const struct kvm_vcpu *vcpu)
{
    uint64_t reserved = (vcpu->cpuid_count ? 0 : X86_CR4_LA57) | X86_CR4_VMXE | X86_CR4_PKE | (1ull << 14) /* SMXE */ | (1ull << 23) /* CET */ |
                        (1ull << 24) /* PKS */;

    for (size_t i = 0; i < KAGE_ARRAY_SIZE(limits_cr4_bits) && vcpu->cpuid_count; i++)
        if (!limits_any(vcpu, &limits_cr4_bits[i].needs, 1))
            reserved |= limits_cr4_bits[i].cr4;
    return reserved;
}

/* ---- EFER ---- */

#define EFER_SUPPORTED (X86_EFER_SCE | X86_EFER_LME | X86_EFER_LMA | X86_EFER_NX | X86_EFER_FFXSR)

uint64_t kvm_limits_efer_valid(const struct kvm_vcpu *vcpu, bool host)
{
    uint32_t extended = kvm_cpuid_register(vcpu, 0x80000001u, 0, CPUID_EDX);
    uint64_t valid = EFER_SUPPORTED;

    if (host || !vcpu->cpuid_count)
        return valid;
    if (!(extended & CPUID_BIT(20)))
        valid &= ~X86_EFER_NX;
    if (!(extended & CPUID_BIT(25)))
        valid &= ~X86_EFER_FFXSR;
    if (!(extended & CPUID_BIT(29)))
        valid &= ~(X86_EFER_LME | X86_EFER_LMA);
    return valid;
}

/* ---- MSRs of features; sorted by number ---- */

static const struct {
    uint32_t index;
    uint8_t count;
    struct cpuid_bits any[2];
} limits_msrs[] = {
    { MSR_IA32_TSC_ADJUST, 1, { { 7, CPUID_EBX, CPUID_BIT(1) } } },
    /* Bit 29: our IA32_ARCH_CAPABILITIES has IBRS_ALL, by which Linux sets SPEC_CTRL.IBRS once and is done. */
    { MSR_IA32_SPEC_CTRL, 2, { { 7, CPUID_EDX, CPUID_BIT(26) | CPUID_BIT(27) | CPUID_BIT(29) | CPUID_BIT(31) },
                               { 0x80000008u, CPUID_EBX, CPUID_BIT(14) | CPUID_BIT(15) | CPUID_BIT(24) } } },
    { MSR_IA32_PRED_CMD, 2, { { 7, CPUID_EDX, CPUID_BIT(26) }, { 0x80000008u, CPUID_EBX, CPUID_BIT(12) } } },
    { MSR_IA32_ARCH_CAPABILITIES, 1, { { 7, CPUID_EDX, CPUID_BIT(29) } } },
    { MSR_IA32_FLUSH_CMD, 1, { { 7, CPUID_EDX, CPUID_BIT(28) } } },
    { MSR_IA32_XSS, 1, { { 0xd, CPUID_EAX, CPUID_BIT(3) } } },
    { MSR_TSC_AUX, 2, { { 0x80000001u, CPUID_EDX, CPUID_BIT(27) }, { 7, CPUID_ECX, CPUID_BIT(22) } } },
    { MSR_VIRT_SPEC_CTRL, 1, { { 0x80000008u, CPUID_EBX, CPUID_BIT(25) } } },
};

/* KVM's own MSRs, which are there without CPUID's word unless KVM_CAP_ENFORCE_PV_FEATURE_CPUID is on. */
static const struct {
    uint32_t index;
    uint8_t feature; /* KVM_FEATURE_* */
} limits_pv_msrs[] = {
    { MSR_KVM_WALL_CLOCK, KVM_FEATURE_CLOCKSOURCE },
    { MSR_KVM_SYSTEM_TIME, KVM_FEATURE_CLOCKSOURCE },
    { MSR_KVM_WALL_CLOCK_NEW, KVM_FEATURE_CLOCKSOURCE2 },
    { MSR_KVM_SYSTEM_TIME_NEW, KVM_FEATURE_CLOCKSOURCE2 },
    { MSR_KVM_ASYNC_PF_EN, KVM_FEATURE_ASYNC_PF },
    { MSR_KVM_ASYNC_PF_INT, KVM_FEATURE_ASYNC_PF_INT },
    { MSR_KVM_ASYNC_PF_ACK, KVM_FEATURE_ASYNC_PF_INT },
    { MSR_KVM_STEAL_TIME, KVM_FEATURE_STEAL_TIME },
    { MSR_KVM_PV_EOI_EN, KVM_FEATURE_PV_EOI },
    { MSR_KVM_POLL_CONTROL, KVM_FEATURE_POLL_CONTROL },
};

bool kvm_limits_has_pv(const struct kvm_vcpu *vcpu, unsigned feature)
{
    return !vcpu->enforce_pv || (kvm_cpuid_register(vcpu, KVM_CPUID_FEATURES, 0, CPUID_EAX) >> feature & 1);
}

bool kvm_limits_has_msr(const struct kvm_vcpu *vcpu, uint32_t index)
{
    if (index == MSR_PLATFORM_INFO && vcpu->vm->no_platform_info)
        return false;
    for (size_t i = 0; i < KAGE_ARRAY_SIZE(limits_msrs) && vcpu->cpuid_count; i++)
        if (limits_msrs[i].index == index)
            return limits_any(vcpu, limits_msrs[i].any, limits_msrs[i].count);
    for (size_t i = 0; i < KAGE_ARRAY_SIZE(limits_pv_msrs) && vcpu->enforce_pv; i++)
        if (limits_pv_msrs[i].index == index)
            return kvm_limits_has_pv(vcpu, limits_pv_msrs[i].feature);
    return true;
}

/* ---- instructions with a control in the VMCS: #UD without it ---- */

uint32_t kvm_limits_proc2(const struct kvm_vcpu *vcpu)
{
    static const struct cpuid_bits tsc_aux[] = { { 0x80000001u, CPUID_EDX, CPUID_BIT(27) }, { 7, CPUID_ECX, CPUID_BIT(22) } };
    static const struct cpuid_bits invpcid = { 7, CPUID_EBX, CPUID_BIT(10) };

    if (!vcpu->cpuid_count)
        return VMX_PROC2_RDTSCP | VMX_PROC2_INVPCID;
    return (limits_any(vcpu, tsc_aux, KAGE_ARRAY_SIZE(tsc_aux)) ? VMX_PROC2_RDTSCP : 0) |
           (limits_any(vcpu, &invpcid, 1) ? VMX_PROC2_INVPCID : 0);
}
