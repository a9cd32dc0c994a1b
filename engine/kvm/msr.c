/* SPDX-License-Identifier: MIT */
/*
 * Model-specific registers: one table of those that KVM answers (the processor's own are reached
 * through cpu_get_msr and cpu_set_msr), for RDMSR and WRMSR exits and for KVM_GET_MSRS and KVM_SET_MSRS.
 * An MSR that is not in the table raises #GP, as with kvm.ignore_msrs=0.
 */
#include <errno.h>
#include <string.h>

#include <asm/kvm_para.h>

#include "cpu/sys.h"
#include "kvm/cpuid_features.h"
#include "kvm/vcpu.h"

#define MSR_LIST_MAX 256u /* entries of KVM_GET/SET_MSRS stay below it */
#define MSR_GP (-1)

/* IA32_ARCH_CAPABILITIES (SDM 4 table 2-2): nothing that a guest could mitigate leaks here. */
#define ARCH_CAP_KAGE                                                                                                  \
    (1ull << 0 /* RDCL_NO */ | 1ull << 1 /* IBRS_ALL */ | 1ull << 3 /* SKIP_L1DFL_VMENTRY */ |                         \
     1ull << 4 /* SSB_NO */ | 1ull << 5 /* MDS_NO */ | 1ull << 6 /* IF_PSCHANGE_MC_NO */ | 1ull << 8 /* TAA_NO */ |    \
     1ull << 13 /* SBDR_SSDP_NO */ | 1ull << 14 /* FBSDP_NO */ | 1ull << 15 /* PSDP_NO */ | 1ull << 20 /* BHI_NO */ |  \
     1ull << 24 /* PBRSB_NO */ | 1ull << 26 /* GDS_NO */ | 1ull << 27 /* RFDS_NO */ | 1ull << 62 /* ITS_NO */)

#define MCG_CTL_P (1ull << 8)
#define MCG_SER_P (1ull << 24)
#define MCE_BANKS_DEFAULT 10u

#define MTRR_VAR_COUNT 8u
#define MTRR_CAP (1ull << 10 | 1ull << 8 | MTRR_VAR_COUNT) /* WC, fixed ranges */

#define AMD_UCODE_REV 0x01000065ull
#define INTEL_UCODE_REV (0x100000000ull)

struct msr_desc;
typedef int msr_get_fn(struct kvm_vcpu *vcpu, const struct msr_desc *desc, uint32_t index, uint64_t *value);
typedef int msr_set_fn(struct kvm_vcpu *vcpu, const struct msr_desc *desc, uint32_t index, uint64_t value, bool host);

#define MSR_SAVE (1u << 0)    /* in KVM_GET_MSR_INDEX_LIST */
#define MSR_FEATURE (1u << 1) /* in KVM_GET_MSR_FEATURE_INDEX_LIST */

/* MSRs first to first + count - 1. valid and reset are of those that get_stored and set_stored serve. */
struct msr_desc {
    uint32_t first, count;
    msr_get_fn *get;
    msr_set_fn *set;
    uint32_t flags;
    uint64_t valid, reset;
};

static size_t msr_slot(const struct msr_desc *desc);

static int get_stored(struct kvm_vcpu *vcpu, const struct msr_desc *desc, uint32_t index, uint64_t *value)
{
    (void)index;
    *value = vcpu->msr[msr_slot(desc)];
    return 0;
}

static int set_stored(struct kvm_vcpu *vcpu, const struct msr_desc *desc, uint32_t index, uint64_t value, bool host)
{
    (void)index, (void)host;
    if (value & ~desc->valid)
        return MSR_GP;
    vcpu->msr[msr_slot(desc)] = value;
    return 0;
}

/* The client may set it; a guest that tries gets #GP. */
static int set_stored_host(struct kvm_vcpu *vcpu, const struct msr_desc *desc, uint32_t index, uint64_t value, bool host)
{
    return host ? set_stored(vcpu, desc, index, value, host) : MSR_GP;
}

/* The same, but a guest's write is ignored. */
static int set_stored_host_ignore(struct kvm_vcpu *vcpu, const struct msr_desc *desc, uint32_t index, uint64_t value,
                                  bool host)
{
    return host ? set_stored(vcpu, desc, index, value, host) : 0;
}

/* A constant, in `reset`. */
static int get_const(struct kvm_vcpu *vcpu, const struct msr_desc *desc, uint32_t index, uint64_t *value)
{
    (void)vcpu, (void)index;
    *value = desc->reset;
    return 0;
}

static int get_gp(struct kvm_vcpu *vcpu, const struct msr_desc *desc, uint32_t index, uint64_t *value)
{
    (void)vcpu, (void)desc, (void)index, (void)value;
    return MSR_GP;
}

static int set_gp(struct kvm_vcpu *vcpu, const struct msr_desc *desc, uint32_t index, uint64_t value, bool host)
{
    (void)vcpu, (void)index;
    return host && value == desc->reset ? 0 : MSR_GP;
}

static int set_ignore(struct kvm_vcpu *vcpu, const struct msr_desc *desc, uint32_t index, uint64_t value, bool host)
{
    (void)vcpu, (void)desc, (void)index, (void)value, (void)host;
    return 0;
}

static int get_processor(struct kvm_vcpu *vcpu, const struct msr_desc *desc, uint32_t index, uint64_t *value)
{
    (void)desc;
    return cpu_get_msr(vcpu->cpu, index, value) ? MSR_GP : 0;
}

static int set_processor(struct kvm_vcpu *vcpu, const struct msr_desc *desc, uint32_t index, uint64_t value, bool host)
{
    (void)desc, (void)host;
    if (cpu_set_msr(vcpu->cpu, index, value))
        return MSR_GP;
    cpu_update_mode(vcpu->cpu);
    return 0;
}

/* LMA follows CR0.PG for the guest; an ioctl sets EFER as it is (api.rst 4.19). */
static int set_efer(struct kvm_vcpu *vcpu, const struct msr_desc *desc, uint32_t index, uint64_t value, bool host)
{
    if (host) {
        if (value & ~kvm_limits_efer_valid(vcpu, true))
            return MSR_GP;
        struct cpu *cpu = vcpu->cpu;
        cpu_set_paging(cpu, cpu_guest_cr0(cpu), cpu_guest_cr3(cpu), cpu_guest_cr4(cpu), value);
        return 0;
    }
    return set_processor(vcpu, desc, index, value, host);
}

/* ---- time ---- */

void kvm_tsc_set_offset(struct kvm_vcpu *vcpu, uint64_t offset)
{
    __atomic_store_n(&vcpu->cpu->tsc_offset, offset, __ATOMIC_RELAXED); /* kvm_clock_check_tsc() of another vCPU reads it */
    vcpu->cpu->vmcs.tsc_offset = offset;
    vcpu->clock_dirty = true;
    if (vcpu->lapic)
        lapic_timer_restart(vcpu->lapic);
    kvm_clock_check_tsc(vcpu->vm);
}

/*
 * A client sets each vCPU's TSC a little later than the one before. A value that would put it within a
 * second of what it set before is meant to be equal to that, and so is 0, the value of a new one; as the kernel
 * takes them (kvm_synchronize_tsc). The first that it sets is what it says, however young the guest that is restored.
 */
void kvm_tsc_write(struct kvm_vcpu *vcpu, uint64_t guest_tsc, bool host)
{
    uint64_t offset = guest_tsc - kvm_host_tsc();

    if (host) {
        uint64_t shared = atomic_load(&vcpu->vm->tsc_offset);
        uint64_t second = (uint64_t)kvm_host_tsc_khz() * 1000;
        bool again = guest_tsc && atomic_exchange(&vcpu->vm->tsc_set_by_client, true);
        if (!guest_tsc || (again && offset - shared + second < 2 * second))
            offset = shared;
        else
            atomic_store(&vcpu->vm->tsc_offset, offset);
    } else {
        vcpu->tsc_adjust += offset - vcpu->cpu->tsc_offset;
    }
    kvm_tsc_set_offset(vcpu, offset);
}

static int get_tsc(struct kvm_vcpu *vcpu, const struct msr_desc *desc, uint32_t index, uint64_t *value)
{
    (void)desc, (void)index;
    *value = kvm_host_tsc() + vcpu->cpu->tsc_offset;
    return 0;
}

static int set_tsc(struct kvm_vcpu *vcpu, const struct msr_desc *desc, uint32_t index, uint64_t value, bool host)
{
    (void)desc, (void)index;
    kvm_tsc_write(vcpu, value, host);
    return 0;
}

static int get_tsc_adjust(struct kvm_vcpu *vcpu, const struct msr_desc *desc, uint32_t index, uint64_t *value)
{
    (void)desc, (void)index;
    *value = vcpu->tsc_adjust;
    return 0;
}

static int set_tsc_adjust(struct kvm_vcpu *vcpu, const struct msr_desc *desc, uint32_t index, uint64_t value, bool host)
{
    (void)desc, (void)index;
    if (!host)
        kvm_tsc_set_offset(vcpu, vcpu->cpu->tsc_offset + value - vcpu->tsc_adjust);
    vcpu->tsc_adjust = value;
    return 0;
}

static int get_tsc_deadline(struct kvm_vcpu *vcpu, const struct msr_desc *desc, uint32_t index, uint64_t *value)
{
    (void)desc, (void)index;
    *value = vcpu->lapic ? lapic_tsc_deadline(vcpu->lapic) : 0;
    return 0;
}

static int set_tsc_deadline(struct kvm_vcpu *vcpu, const struct msr_desc *desc, uint32_t index, uint64_t value, bool host)
{
    (void)desc, (void)index, (void)host;
    if (vcpu->lapic)
        lapic_set_tsc_deadline(vcpu->lapic, value);
    return 0;
}

static int get_system_time(struct kvm_vcpu *vcpu, const struct msr_desc *desc, uint32_t index, uint64_t *value)
{
    (void)desc;
    *value = vcpu->system_time_old == (index == MSR_KVM_SYSTEM_TIME) ? vcpu->system_time_msr : 0;
    return 0;
}

static int set_system_time(struct kvm_vcpu *vcpu, const struct msr_desc *desc, uint32_t index, uint64_t value, bool host)
{
    (void)desc;
    bool old = index == MSR_KVM_SYSTEM_TIME;
    if (host && !value && old != vcpu->system_time_old)
        return 0; /* the client restores both numbers: the one that is off must not turn the other off */
    vcpu->system_time_old = old;
    return kvm_clock_set_system_time(vcpu, value) ? 0 : MSR_GP;
}

static int set_wall_clock(struct kvm_vcpu *vcpu, const struct msr_desc *desc, uint32_t index, uint64_t value, bool host)
{
    (void)index;
    vcpu->msr[msr_slot(desc)] = value;
    if (!host)
        kvm_clock_set_wall_clock(vcpu, value);
    return 0;
}

static int get_steal_time(struct kvm_vcpu *vcpu, const struct msr_desc *desc, uint32_t index, uint64_t *value)
{
    (void)desc, (void)index;
    *value = vcpu->steal_time_msr;
    return 0;
}

static int set_steal_time(struct kvm_vcpu *vcpu, const struct msr_desc *desc, uint32_t index, uint64_t value, bool host)
{
    (void)desc, (void)index, (void)host;
    if (value & KVM_STEAL_RESERVED_MASK)
        return MSR_GP;
    kvm_pv_set_steal_time(vcpu, value);
    return 0;
}

static int get_pv_eoi(struct kvm_vcpu *vcpu, const struct msr_desc *desc, uint32_t index, uint64_t *value)
{
    (void)desc, (void)index;
    *value = vcpu->pv_eoi_msr;
    return 0;
}

static int set_pv_eoi(struct kvm_vcpu *vcpu, const struct msr_desc *desc, uint32_t index, uint64_t value, bool host)
{
    (void)desc, (void)index, (void)host;
    if ((value & KVM_MSR_ENABLED) && (value & 2))
        return MSR_GP; /* 4-byte alignment */
    vcpu->pv_eoi_msr = value;
    vcpu->pv_eoi_armed = false;
    return 0;
}

/* Features that are not offered: only "off" can be written. */
static int set_disabled(struct kvm_vcpu *vcpu, const struct msr_desc *desc, uint32_t index, uint64_t value, bool host)
{
    (void)vcpu, (void)desc, (void)index, (void)host;
    return value & KVM_MSR_ENABLED ? MSR_GP : 0;
}

/* ---- APIC ---- */

static int get_apic_base(struct kvm_vcpu *vcpu, const struct msr_desc *desc, uint32_t index, uint64_t *value)
{
    (void)desc, (void)index;
    *value = kvm_vcpu_apic_base(vcpu);
    return 0;
}

static int set_apic_base(struct kvm_vcpu *vcpu, const struct msr_desc *desc, uint32_t index, uint64_t value, bool host)
{
    (void)desc, (void)index;
    if (vcpu->lapic)
        return lapic_set_base(vcpu->lapic, value, host) ? MSR_GP : 0;
    vcpu->user_apic_base = value;
    return 0;
}

static int get_x2apic(struct kvm_vcpu *vcpu, const struct msr_desc *desc, uint32_t index, uint64_t *value)
{
    (void)desc;
    return vcpu->lapic && !lapic_x2apic_read(vcpu->lapic, index, value) ? 0 : MSR_GP;
}

static int set_x2apic(struct kvm_vcpu *vcpu, const struct msr_desc *desc, uint32_t index, uint64_t value, bool host)
{
    (void)desc, (void)host;
    return vcpu->lapic && !lapic_x2apic_write(vcpu->lapic, index, value) ? 0 : MSR_GP;
}

/* ---- MTRRs: kept and given back; the engine's memory is write-back whatever they say ---- */

static bool mtrr_type_valid(unsigned type)
{
    return type < 8 && ((1u << type) & 0x73u) != 0; /* UC WC WT WP WB */
}

static int mtrr_fixed_index(uint32_t index)
{
    if (index == 0x250)
        return 0;
    if (index == 0x258 || index == 0x259)
        return (int)(index - 0x258 + 1);
    return (int)(index - 0x268 + 3);
}

static int get_mtrr_fixed(struct kvm_vcpu *vcpu, const struct msr_desc *desc, uint32_t index, uint64_t *value)
{
    (void)desc;
    *value = vcpu->mtrr_fix[mtrr_fixed_index(index)];
    return 0;
}

static int set_mtrr_fixed(struct kvm_vcpu *vcpu, const struct msr_desc *desc, uint32_t index, uint64_t value, bool host)
{
    (void)desc, (void)host;
    for (unsigned i = 0; i < 8; i++)
        if (!mtrr_type_valid((value >> (8 * i)) & 0xff))
            return MSR_GP;
    vcpu->mtrr_fix[mtrr_fixed_index(index)] = value;
    return 0;
}

static int get_mtrr_var(struct kvm_vcpu *vcpu, const struct msr_desc *desc, uint32_t index, uint64_t *value)
{
    *value = vcpu->mtrr_var[index - desc->first];
    return 0;
}

static int set_mtrr_var(struct kvm_vcpu *vcpu, const struct msr_desc *desc, uint32_t index, uint64_t value, bool host)
{
    uint64_t reserved = vcpu->cpu->maxphyaddr_mask | ~0x000fffffffffffffull;
    bool mask = (index - desc->first) & 1;

    (void)host;
    if (host && mask)
        value &= ~reserved; /* QEMU writes the mask for its own idea of the width */
    if (value & (reserved | (mask ? 0x7ffu : 0xf00u)))
        return MSR_GP;
    if (!mask && !mtrr_type_valid(value & 0xff))
        return MSR_GP;
    vcpu->mtrr_var[index - desc->first] = value;
    return 0;
}

static int set_mtrr_def_type(struct kvm_vcpu *vcpu, const struct msr_desc *desc, uint32_t index, uint64_t value, bool host)
{
    return mtrr_type_valid(value & 0xff) ? set_stored(vcpu, desc, index, value, host) : MSR_GP;
}

/* ---- machine check ---- */

uint64_t kvm_msr_mce_cap_supported(void)
{
    return MCG_CTL_P | MCG_SER_P; /* the banks are KVM_CAP_MCE's */
}

static int get_mcg(struct kvm_vcpu *vcpu, const struct msr_desc *desc, uint32_t index, uint64_t *value)
{
    const uint64_t values[] = { vcpu->mcg_cap, vcpu->mcg_status, vcpu->mcg_ctl };

    (void)desc;
    if (index == 0x17b && !(vcpu->mcg_cap & MCG_CTL_P))
        return MSR_GP;
    *value = values[index - 0x179];
    return 0;
}

static int set_mcg(struct kvm_vcpu *vcpu, const struct msr_desc *desc, uint32_t index, uint64_t value, bool host)
{
    (void)desc;
    if (index == 0x17a) {
        vcpu->mcg_status = value;
        return 0;
    }
    if (index == 0x179)
        return MSR_GP;
    if (!(vcpu->mcg_cap & MCG_CTL_P) && !(host && !value))
        return MSR_GP;
    if (value != 0 && value != UINT64_MAX)
        return MSR_GP;
    vcpu->mcg_ctl = value;
    return 0;
}

static int get_mce_bank(struct kvm_vcpu *vcpu, const struct msr_desc *desc, uint32_t index, uint64_t *value)
{
    uint32_t offset = index - desc->first;

    if (offset / 4 >= (vcpu->mcg_cap & 0xff))
        return MSR_GP;
    *value = vcpu->mce_bank[offset];
    return 0;
}

static int set_mce_bank(struct kvm_vcpu *vcpu, const struct msr_desc *desc, uint32_t index, uint64_t value, bool host)
{
    uint32_t offset = index - desc->first;

    if (offset / 4 >= (vcpu->mcg_cap & 0xff))
        return MSR_GP;
    /* CTL: all or nothing, but for Linux's clearing of bit 10 of bank 4 (K8) and bit 0 of a bank (P6). */
    if (offset % 4 == 0 && value != 0 && (value | (1ull << 10) | 1) != UINT64_MAX)
        return MSR_GP;
    /* STATUS: the guest may only clear it, unless HWCR.McStatusWrEn. */
    uint64_t hwcr = 0;
    if (!host && offset % 4 == 1 && value != 0 && (kvm_msr_get(vcpu, 0xc0010015u, &hwcr, true) || !(hwcr & (1ull << 18))))
        return MSR_GP;
    vcpu->mce_bank[offset] = value;
    return 0;
}

/* ---- the others ---- */

static int get_debugctl(struct kvm_vcpu *vcpu, const struct msr_desc *desc, uint32_t index, uint64_t *value)
{
    (void)desc, (void)index;
    *value = vcpu->cpu->vmcs.guest_ia32_debugctl;
    return 0;
}

static int set_debugctl(struct kvm_vcpu *vcpu, const struct msr_desc *desc, uint32_t index, uint64_t value, bool host)
{
    (void)index, (void)host;
    if (value & ~desc->valid)
        return MSR_GP;
    vcpu->cpu->vmcs.guest_ia32_debugctl = 0; /* LBR and BTF read as off: nothing is recorded */
    return 0;
}

static int set_hwcr(struct kvm_vcpu *vcpu, const struct msr_desc *desc, uint32_t index, uint64_t value, bool host)
{
    value &= ~0x148ull; /* flush filter disable, TLB cache disable, MONITOR: accepted, no effect */
    return set_stored(vcpu, desc, index, value, host);
}

static int get_platform_info(struct kvm_vcpu *vcpu, const struct msr_desc *desc, uint32_t index, uint64_t *value)
{
    (void)desc, (void)index;
    *value = (uint64_t)((vcpu->tsc_khz + 50000) / 100000 & 0xff) << 8; /* maximum non-turbo ratio, of 100 MHz */
    return 0;
}

#define STORED get_stored, set_stored
#define PROCESSOR get_processor, set_processor
#define ZERO get_const, set_ignore

/* Sorted by number. Names as in SDM 4 and the APM. */
static const struct msr_desc msr_table[] = {
    { 0x0, 2, ZERO, 0, 0, 0 },                                             /* P5_MC_ADDR, P5_MC_TYPE */
    { MSR_IA32_TSC, 1, get_tsc, set_tsc, MSR_SAVE, 0, 0 },
    { MSR_KVM_WALL_CLOCK, 1, get_stored, set_wall_clock, MSR_SAVE, 0, 0 },
    { MSR_KVM_SYSTEM_TIME, 1, get_system_time, set_system_time, MSR_SAVE, 0, 0 },
    { 0x17, 1, ZERO, 0, 0, 0 },                                            /* IA32_PLATFORM_ID */
    { MSR_IA32_APIC_BASE, 1, get_apic_base, set_apic_base, 0, 0, 0 },
    { 0x2a, 1, ZERO, 0, 0, 0 },                                            /* EBL_CR_POWERON */
    { 0x34, 1, get_stored, set_stored_host, MSR_SAVE, UINT64_MAX, 0 },     /* SMI_COUNT */
    { 0x3a, 1, get_stored, set_stored_host, MSR_SAVE, UINT64_MAX, 1 },     /* IA32_FEATURE_CONTROL: locked */
    { MSR_IA32_TSC_ADJUST, 1, get_tsc_adjust, set_tsc_adjust, MSR_SAVE, 0, 0 },
    { MSR_IA32_SPEC_CTRL, 1, STORED, MSR_SAVE, 0x487, 0 },
    { MSR_IA32_PRED_CMD, 1, get_gp, set_ignore, 0, 0, 0 },
    { 0x79, 1, get_gp, set_ignore, 0, 0, 0 },                              /* IA32_BIOS_UPDT_TRIG */
    { MSR_IA32_BIOS_SIGN_ID, 1, get_stored, set_stored_host_ignore, MSR_SAVE | MSR_FEATURE, UINT64_MAX, 0 },
    { 0xc1, 2, ZERO, 0, 0, 0 },                                            /* IA32_PMC0, 1 */
    { 0xcd, 1, get_const, set_gp, 0, 0, 3 },                               /* MSR_FSB_FREQ: 100 MHz */
    { MSR_PLATFORM_INFO, 1, get_platform_info, set_stored_host_ignore, MSR_SAVE, UINT64_MAX, 0 },
    { MSR_IA32_MTRRCAP, 1, get_const, set_gp, 0, 0, MTRR_CAP },
    { MSR_IA32_ARCH_CAPABILITIES, 1, get_stored, set_stored_host, MSR_SAVE | MSR_FEATURE, UINT64_MAX,
      ARCH_CAP_KAGE },
    { MSR_IA32_FLUSH_CMD, 1, get_gp, set_ignore, 0, 0, 0 },
    { 0x11e, 1, get_const, set_ignore, 0, 0, 0xbe702111ull },              /* BBL_CR_CTL3 */
    { 0x140, 1, STORED, MSR_SAVE, 0, 0 },                                  /* MISC_FEATURES_ENABLES */
    { MSR_IA32_SYSENTER_CS, 3, PROCESSOR, MSR_SAVE, 0, 0 },
    { 0x179, 3, get_mcg, set_mcg, 0, 0, 0 },                               /* IA32_MCG_CAP, STATUS, CTL */
    { 0x186, 2, ZERO, 0, 0, 0 },                                           /* IA32_PERFEVTSEL0, 1 */
    { 0x198, 1, get_const, set_gp, 0, 0, 1000ull | 4ull << 40 },           /* IA32_PERF_STATUS */
    { 0x199, 1, ZERO, 0, 0, 0 },                                           /* IA32_PERF_CTL */
    { MSR_IA32_MISC_ENABLE, 1, STORED, MSR_SAVE, UINT64_MAX, 1ull | 1ull << 11 | 1ull << 12 }, /* no BTS, no PEBS */
    { MSR_IA32_DEBUGCTL, 1, get_debugctl, set_debugctl, 0, 3, 0 },
    { 0x1db, 4, ZERO, 0, 0, 0 },                                           /* last branch, last exception */
    { 0x200, 2 * MTRR_VAR_COUNT, get_mtrr_var, set_mtrr_var, 0, 0, 0 },
    { 0x250, 1, get_mtrr_fixed, set_mtrr_fixed, 0, 0, 0 },
    { 0x258, 2, get_mtrr_fixed, set_mtrr_fixed, 0, 0, 0 },
    { 0x268, 8, get_mtrr_fixed, set_mtrr_fixed, 0, 0, 0 },
    { MSR_IA32_PAT, 1, PROCESSOR, MSR_SAVE, 0, 0 },
    { 0x2ff, 1, get_stored, set_mtrr_def_type, 0, 0xcff, 0 },
    { 0x345, 1, get_gp, set_gp, 0, 0, 0 },                                 /* IA32_PERF_CAPABILITIES: no PDCM */
    { 0x400, 4 * KVM_MCE_BANKS, get_mce_bank, set_mce_bank, 0, 0, 0 },
    { 0x606, 1, ZERO, 0, 0, 0 },                                           /* MSR_RAPL_POWER_UNIT */
    { MSR_IA32_TSC_DEADLINE, 1, get_tsc_deadline, set_tsc_deadline, MSR_SAVE, 0, 0 },
    { MSR_X2APIC_FIRST, 0x100, get_x2apic, set_x2apic, 0, 0, 0 },
    { MSR_IA32_XSS, 1, STORED, 0, 0, 0 },
    { MSR_KVM_WALL_CLOCK_NEW, 1, get_stored, set_wall_clock, MSR_SAVE, 0, 0 },
    { MSR_KVM_SYSTEM_TIME_NEW, 1, get_system_time, set_system_time, MSR_SAVE, 0, 0 },
    { MSR_KVM_ASYNC_PF_EN, 1, get_const, set_disabled, MSR_SAVE, 0, 0 },
    { MSR_KVM_STEAL_TIME, 1, get_steal_time, set_steal_time, MSR_SAVE, 0, 0 },
    { MSR_KVM_PV_EOI_EN, 1, get_pv_eoi, set_pv_eoi, MSR_SAVE, 0, 0 },
    { MSR_KVM_POLL_CONTROL, 1, STORED, MSR_SAVE, 1, 1 },
    { MSR_KVM_ASYNC_PF_INT, 1, STORED, MSR_SAVE, 0xff, 0 },
    { MSR_KVM_ASYNC_PF_ACK, 1, get_const, set_ignore, 0, 0, 0 },
    { MSR_EFER, 1, get_processor, set_efer, 0, 0, 0 },
    { MSR_STAR, 4, PROCESSOR, MSR_SAVE, 0, 0 },
    { MSR_FS_BASE, 2, PROCESSOR, 0, 0, 0 },
    { MSR_KERNEL_GS_BASE, 1, PROCESSOR, MSR_SAVE, 0, 0 },
    { MSR_TSC_AUX, 1, PROCESSOR, MSR_SAVE, 0, 0 },
    { 0xc0000104u, 1, get_const, set_gp, 0, 0, 1ull << 32 },               /* TSC_RATIO: 1 */
    { 0xc0010000u, 8, ZERO, 0, 0, 0 },                                     /* PerfEvtSel, PerfCtr */
    { 0xc0010010u, 1, ZERO, 0, 0, 0 },                                     /* SYSCFG */
    { 0xc0010015u, 1, get_stored, set_hwcr, 0, 1ull << 18 | 1ull << 24, 1ull << 24 }, /* HWCR: TscFreqSel */
    { 0xc001001au, 1, ZERO, 0, 0, 0 },                                     /* TOP_MEM */
    { 0xc001001du, 1, ZERO, 0, 0, 0 },                                     /* TOP_MEM2 */
    { 0xc001001fu, 1, ZERO, 0, 0, 0 },                                     /* NB_CFG */
    { 0xc0010055u, 1, ZERO, 0, 0, 0 },                                     /* Interrupt Pending */
    { 0xc0010058u, 1, ZERO, 0, 0, 0 },                                     /* MMIO configuration base */
    { 0xc0010112u, 2, ZERO, 0, 0, 0 },                                     /* SMM_ADDR, SMM_MASK */
    { 0xc0010114u, 1, get_const, set_gp, 0, 0, 1ull << 4 },                /* VM_CR: SVME disabled */
    { 0xc0010117u, 1, get_stored, set_stored_host, MSR_SAVE, UINT64_MAX, 0 }, /* VM_HSAVE_PA */
    { MSR_VIRT_SPEC_CTRL, 1, STORED, MSR_SAVE, 4, 0 },                     /* SSBD */
    { 0xc0010200u, 12, ZERO, 0, 0, 0 },                                    /* PerfEvtSel and PerfCtr 0 to 5 */
    { 0xc0011022u, 1, ZERO, 0, 0, 0 },                                     /* DC_CFG */
    { 0xc0011029u, 1, STORED, MSR_FEATURE, UINT64_MAX, 2 },                /* DE_CFG: LFENCE serializes */
    { 0xc001102au, 1, ZERO, 0, 0, 0 },                                     /* BU_CFG2 */
};
_Static_assert(KAGE_ARRAY_SIZE(msr_table) <= KVM_VCPU_MSR_SLOTS, "kvm_vcpu.msr has a slot for each row");

static size_t msr_slot(const struct msr_desc *desc)
{
    return (size_t)(desc - msr_table);
}

static const struct msr_desc *msr_find(uint32_t index)
{
    size_t low = 0, high = KAGE_ARRAY_SIZE(msr_table);

    while (low < high) {
        size_t mid = low + (high - low) / 2;
        const struct msr_desc *desc = &msr_table[mid];
        if (index < desc->first)
            high = mid;
        else if (index - desc->first >= desc->count)
            low = mid + 1;
        else
            return desc;
    }
    return NULL;
}

int kvm_msr_get(struct kvm_vcpu *vcpu, uint32_t index, uint64_t *value, bool host)
{
    const struct msr_desc *desc = msr_find(index);

    if (!desc)
        return KVM_MSR_UNKNOWN;
    if (!host && !kvm_limits_has_msr(vcpu, index))
        return MSR_GP;
    if (host && desc->get == get_gp) {
        *value = desc->reset;
        return 0;
    }
    return desc->get(vcpu, desc, index, value);
}

int kvm_msr_set(struct kvm_vcpu *vcpu, uint32_t index, uint64_t value, bool host)
{
    const struct msr_desc *desc = msr_find(index);

    if (!desc)
        return KVM_MSR_UNKNOWN;
    return host || kvm_limits_has_msr(vcpu, index) ? desc->set(vcpu, desc, index, value, host) : MSR_GP;
}

void kvm_msr_reset(struct kvm_vcpu *vcpu, bool init)
{
    if (init)
        return; /* INIT keeps them (SDM 3A table 9-1) */
    for (size_t i = 0; i < KAGE_ARRAY_SIZE(msr_table); i++)
        vcpu->msr[i] = msr_table[i].reset;
    uint32_t vendor = kvm_cpuid_register(vcpu, 0, 0, CPUID_EBX);
    vcpu->msr[msr_slot(msr_find(MSR_IA32_BIOS_SIGN_ID))] = vendor == 0x68747541u ? AMD_UCODE_REV : INTEL_UCODE_REV;
    memset(vcpu->mtrr_var, 0, sizeof(vcpu->mtrr_var));
    memset(vcpu->mtrr_fix, 0, sizeof(vcpu->mtrr_fix));
    memset(vcpu->mce_bank, 0, sizeof(vcpu->mce_bank));
    vcpu->mcg_cap = MCE_BANKS_DEFAULT;
    vcpu->mcg_status = vcpu->mcg_ctl = 0;
    for (size_t i = 0; i < KVM_MCE_BANKS; i++)
        vcpu->mce_bank[4 * i] = UINT64_MAX;
    vcpu->tsc_adjust = 0;
    vcpu->system_time_msr = vcpu->pv_eoi_msr = vcpu->steal_time_msr = 0;
    vcpu->preempted_told = false;
    vcpu->pv_eoi_armed = false;
}

uint64_t kvm_msr_misc_enable(const struct kvm_vcpu *vcpu)
{
    return vcpu->msr[msr_slot(msr_find(MSR_IA32_MISC_ENABLE))];
}

/* ---- ioctls ---- */

/* One entry of a list: 0, or anything else to stop there. vcpu: NULL for the system's. */
typedef int msr_entry_fn(struct kvm_vcpu *vcpu, struct kvm_msr_entry *entry);

/* A list of entries goes in whole and, after a read, out whole; the answer is how many were done. */
static int msr_list_io(struct kvm_vcpu *vcpu, struct kvm_msrs *client, msr_entry_fn *fn, bool read)
{
    struct kvm_msr_entry entries[MSR_LIST_MAX];
    uint32_t count, i;

    if (kvm_copy_in(&count, &client->nmsrs, sizeof(count)))
        return -EFAULT;
    if (count >= MSR_LIST_MAX)
        return -E2BIG;
    if (kvm_copy_in(entries, client->entries, count * sizeof(entries[0])))
        return -EFAULT;
    for (i = 0; i < count; i++)
        if (fn(vcpu, &entries[i]))
            break;
    if (read && kvm_copy_out(client->entries, entries, count * sizeof(entries[0])))
        return -EFAULT;
    return (int)i;
}

static int msr_entry_get(struct kvm_vcpu *vcpu, struct kvm_msr_entry *entry)
{
    uint64_t value = 0;
    int err = kvm_msr_get(vcpu, entry->index, &value, true);

    if (!err)
        entry->data = value;
    return err;
}

static int msr_entry_set(struct kvm_vcpu *vcpu, struct kvm_msr_entry *entry)
{
    int err = kvm_msr_set(vcpu, entry->index, entry->data, true);

    if (err)
        kvm_log(KAGE_LOG_DEBUG, "KVM_SET_MSRS: 0x%x = 0x%llx refused", entry->index, (unsigned long long)entry->data);
    return err;
}

static int msr_entry_get_feature(struct kvm_vcpu *vcpu, struct kvm_msr_entry *entry)
{
    const struct msr_desc *desc = msr_find(entry->index);

    (void)vcpu;
    if (!desc || !(desc->flags & MSR_FEATURE))
        return -1;
    entry->data = desc->first == MSR_IA32_BIOS_SIGN_ID ? INTEL_UCODE_REV : desc->reset;
    return 0;
}

int kvm_vcpu_get_msrs(struct kvm_object *object, void *arg)
{
    return msr_list_io(kvm_vcpu_of(object), arg, msr_entry_get, true);
}

int kvm_vcpu_set_msrs(struct kvm_object *object, void *arg)
{
    return msr_list_io(kvm_vcpu_of(object), arg, msr_entry_set, false);
}

int kvm_msr_get_features(struct kvm_msrs *client)
{
    return msr_list_io(NULL, client, msr_entry_get_feature, true);
}

int kvm_msr_index_list(struct kvm_msr_list *client, bool features)
{
    uint32_t wanted = features ? MSR_FEATURE : MSR_SAVE, room, count = 0;
    uint32_t indices[MSR_LIST_MAX];

    if (kvm_copy_in(&room, &client->nmsrs, sizeof(room)))
        return -EFAULT;
    for (size_t i = 0; i < KAGE_ARRAY_SIZE(msr_table); i++)
        for (uint32_t k = 0; (msr_table[i].flags & wanted) && k < msr_table[i].count && count < MSR_LIST_MAX; k++)
            indices[count++] = msr_table[i].first + k;
    if (kvm_copy_out(&client->nmsrs, &count, sizeof(count)))
        return -EFAULT;
    if (count > room)
        return -E2BIG;
    return kvm_copy_out(client->indices, indices, count * sizeof(indices[0]));
}

int kvm_vcpu_setup_mce(struct kvm_object *object, void *arg)
{
    struct kvm_vcpu *vcpu = kvm_vcpu_of(object);
    uint64_t cap;

    memcpy(&cap, arg, sizeof(cap));
    if (!(cap & 0xff) || (cap & 0xff) > KVM_MCE_BANKS || (cap & ~(kvm_msr_mce_cap_supported() | 0xff00ff)))
        return -EINVAL;
    vcpu->mcg_cap = cap;
    vcpu->mcg_ctl = cap & MCG_CTL_P ? UINT64_MAX : 0;
    for (uint32_t bank = 0; bank < (cap & 0xff); bank++)
        vcpu->mce_bank[4 * bank] = UINT64_MAX;
    return 0;
}

/* KVM_X86_SET_MCE (api.rst 4.107): an uncorrected error raises #MC if the guest has it on, a corrected one is only noted. */
int kvm_vcpu_set_mce(struct kvm_object *object, void *arg)
{
    struct kvm_vcpu *vcpu = kvm_vcpu_of(object);
    const struct kvm_x86_mce *mce = arg;
    const uint64_t val = 1ull << 63, over = 1ull << 62, uc = 1ull << 61;

    if (mce->bank >= (vcpu->mcg_cap & 0xff) || !(mce->status & val))
        return -EINVAL;
    uint64_t *bank = &vcpu->mce_bank[4u * mce->bank];
    if ((mce->status & uc) && (vcpu->mcg_cap & MCG_CTL_P) && vcpu->mcg_ctl != UINT64_MAX)
        return 0;
    if ((mce->status & uc) && bank[0] != UINT64_MAX)
        return 0;
    if (mce->status & uc) {
        if ((vcpu->mcg_status & 4) || !(vcpu->cpu->vmcs.guest_cr4 & X86_CR4_MCE)) {
            vcpu->triple_fault_pending = true;
            return 0;
        }
        bank[1] = mce->status | (bank[1] & val ? over : 0);
        vcpu->mcg_status = mce->mcg_status;
        kvm_event_queue_exception(vcpu, X86_EXC_MC, false, 0);
    } else if (!(bank[1] & val) || !(bank[1] & uc)) {
        bank[1] = mce->status | (bank[1] & val ? over : 0);
    } else {
        bank[1] |= over;
        return 0;
    }
    bank[2] = mce->addr;
    bank[3] = mce->misc;
    return 0;
}
