/* SPDX-License-Identifier: MIT */
/*
 * CPUID: what KVM_GET_SUPPORTED_CPUID offers, made from the host's processor and the masks of
 * cpuid_features.h, and what a vCPU's CPUID instruction answers, from the table that the client set
 * (KVM_SET_CPUID2) and the few bits that follow the vCPU's state.
 */
#include <cpuid.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <asm/kvm_para.h>

#include "kvm/cpuid_features.h"
#include "kvm/vcpu.h"

#define CPUID_PHYS_BITS_MAX 40u
#define CPUID_APIC_BUS_KHZ 1000000u
#define CPUID_TIMING_LEAF 0x40000010u
#define CPUID_XSAVE_LEGACY_BYTES 576u
#define MISC_ENABLE_MWAIT (1ull << 18)
#define CPUID_KVM_FEATURES                                                                                             \
    (1u << KVM_FEATURE_CLOCKSOURCE | 1u << KVM_FEATURE_NOP_IO_DELAY | 1u << KVM_FEATURE_CLOCKSOURCE2 |                 \
     1u << KVM_FEATURE_PV_EOI | 1u << KVM_FEATURE_PV_UNHALT | 1u << KVM_FEATURE_POLL_CONTROL |                         \
     1u << KVM_FEATURE_STEAL_TIME | 1u << KVM_FEATURE_PV_TLB_FLUSH | 1u << KVM_FEATURE_PV_SEND_IPI |                   \
     1u << KVM_FEATURE_PV_SCHED_YIELD | 1u << KVM_FEATURE_CLOCKSOURCE_STABLE_BIT)

static void host_cpuid(uint32_t function, uint32_t index, uint32_t out[4])
{
    __cpuid_count(function, index, out[CPUID_EAX], out[CPUID_EBX], out[CPUID_ECX], out[CPUID_EDX]);
}

#define XCR0_KNOWN (1ull << 63)

static uint64_t host_xcr0(void)
{
    uint32_t regs[4], low, high;

    host_cpuid(1, 0, regs);
    if (!(regs[CPUID_ECX] & CPUID_1_ECX_OSXSAVE))
        return 0;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

/* Asked at each KVM_SET_XSAVE, while CPUID takes a hypervisor's exit: worked out once. Bit 63 marks a known answer. */
uint64_t kvm_cpuid_xcr0_supported(void)
{
    static _Atomic uint64_t known;
    uint64_t answer = atomic_load_explicit(&known, memory_order_relaxed);

    if (answer != 0)
        return answer & ~XCR0_KNOWN;
    uint64_t xcr0 = host_xcr0();
    uint64_t supported = xcr0 & (X86_XCR0_X87 | X86_XCR0_SSE | X86_XCR0_AVX);

    if ((xcr0 & X86_XCR0_AVX512) == X86_XCR0_AVX512 && (supported & X86_XCR0_AVX))
        supported |= X86_XCR0_AVX512;
    atomic_store_explicit(&known, supported | XCR0_KNOWN, memory_order_relaxed);
    return supported;
}

/* Bytes of the XSAVE area with the components of xcr0, in standard or compacted format (SDM 1 13.4). */
static uint32_t xsave_bytes(uint64_t xcr0, bool compacted)
{
    uint32_t bytes = CPUID_XSAVE_LEGACY_BYTES;

    for (unsigned i = 2; i < 63; i++) {
        uint32_t regs[4];
        if (!(xcr0 & (1ull << i)))
            continue;
        host_cpuid(0xd, i, regs);
        if (!compacted) {
            if (regs[CPUID_EAX] + regs[CPUID_EBX] > bytes)
                bytes = regs[CPUID_EAX] + regs[CPUID_EBX];
        } else {
            if (regs[CPUID_ECX] & 2)
                bytes = (bytes + 63u) & ~63u;
            bytes += regs[CPUID_EAX];
        }
    }
    return bytes;
}

bool kvm_cpuid_host_is_amd(void)
{
    uint32_t regs[4];

    host_cpuid(0, 0, regs);
    return regs[CPUID_EBX] == 0x68747541u || regs[CPUID_EBX] == 0x6f677948u; /* "Auth", "Hygo" */
}

/* The table under construction; `full` once there was no room. */
struct cpuid_build {
    struct kvm_cpuid_entry2 *entries;
    uint32_t room, count;
    bool amd, avx512;
};

static struct kvm_cpuid_entry2 *build_add(struct cpuid_build *b, uint32_t function, uint32_t index, uint32_t flags)
{
    static _Thread_local struct kvm_cpuid_entry2 overflow;
    struct kvm_cpuid_entry2 *e = b->count < b->room ? &b->entries[b->count] : &overflow;
    uint32_t regs[4] = { 0 };

    b->count++;
    memset(e, 0, sizeof(*e));
    e->function = function;
    e->index = index;
    e->flags = flags;
    if ((function & 0xf0000000u) != 0x40000000u)
        host_cpuid(function, index, regs);
    e->eax = regs[CPUID_EAX];
    e->ebx = regs[CPUID_EBX];
    e->ecx = regs[CPUID_ECX];
    e->edx = regs[CPUID_EDX];
    return e;
}

static void build_leaf_1(struct cpuid_build *b)
{
    struct kvm_cpuid_entry2 *e = build_add(b, 1, 0, 0);

    e->ebx = (e->ebx & 0x0000ff00u) | 1u << 16; /* CLFLUSH size; one logical processor, APIC ID 0 */
    e->ecx = (e->ecx & CPUID_1_ECX_HOST) | CPUID_1_ECX_ALWAYS;
    e->edx = (e->edx & CPUID_1_EDX_HOST) | CPUID_1_EDX_ALWAYS;
    if (!(kvm_cpuid_xcr0_supported() & X86_XCR0_AVX))
        e->ecx &= ~(CPUID_BIT(28) | CPUID_BIT(12) | CPUID_BIT(29));
    if (!kvm_cpuid_xcr0_supported())
        e->ecx &= ~CPUID_1_ECX_XSAVE;
}

/* Deterministic cache parameters (leaf 4 on Intel, 0x8000001d on AMD): the host's, not shared. */
static void build_caches(struct cpuid_build *b, uint32_t function)
{
    for (uint32_t index = 0; index < 8; index++) {
        struct kvm_cpuid_entry2 *e = build_add(b, function, index, KVM_CPUID_FLAG_SIGNIFCANT_INDEX);
        if (!(e->eax & 0x1f)) {
            e->eax = e->ebx = e->ecx = e->edx = 0;
            return;
        }
        e->eax &= 0x000003ffu; /* no sharing, one core: the client knows the topology */
    }
}

static void build_leaf_7(struct cpuid_build *b)
{
    uint32_t no_zmm = b->avx512 ? 0 : UINT32_MAX;
    uint32_t top[4];
    struct kvm_cpuid_entry2 *e = build_add(b, 7, 0, KVM_CPUID_FLAG_SIGNIFCANT_INDEX);

    top[CPUID_EAX] = e->eax;
    e->eax = top[CPUID_EAX] ? 1 : 0;
    e->ebx = ((e->ebx & CPUID_7_EBX_HOST) | CPUID_7_EBX_ALWAYS) & ~(CPUID_7_EBX_AVX512 & no_zmm);
    e->ecx = ((e->ecx & CPUID_7_ECX_HOST) | CPUID_7_ECX_ALWAYS) & ~(CPUID_7_ECX_AVX512 & no_zmm);
    e->edx = ((e->edx & CPUID_7_EDX_HOST) | CPUID_7_EDX_ALWAYS) & ~(CPUID_7_EDX_AVX512 & no_zmm);
    if (!(kvm_cpuid_xcr0_supported() & X86_XCR0_AVX)) {
        e->ebx &= ~CPUID_BIT(5);
        e->ecx &= ~(CPUID_BIT(9) | CPUID_BIT(10));
    }
    if (!top[CPUID_EAX])
        return;
    e = build_add(b, 7, 1, KVM_CPUID_FLAG_SIGNIFCANT_INDEX);
    e->eax = (e->eax & CPUID_7_1_EAX_HOST) & ~(CPUID_7_1_EAX_AVX512 & no_zmm);
    e->ebx = e->ecx = e->edx = 0;
}

/* Extended topology (leaves 0xb and 0x1f): one thread of one core; the client gives each vCPU its own. */
static void build_topology(struct cpuid_build *b, uint32_t function)
{
    for (uint32_t index = 0; index < 3; index++) {
        struct kvm_cpuid_entry2 *e = build_add(b, function, index, KVM_CPUID_FLAG_SIGNIFCANT_INDEX);
        e->eax = 0;
        e->ebx = index < 2 ? 1 : 0;
        e->ecx = index | (index < 2 ? index + 1 : 0) << 8;
        e->edx = 0;
    }
}

static void build_leaf_d(struct cpuid_build *b)
{
    uint64_t xcr0 = kvm_cpuid_xcr0_supported();
    struct kvm_cpuid_entry2 *e = build_add(b, 0xd, 0, KVM_CPUID_FLAG_SIGNIFCANT_INDEX);

    e->eax = (uint32_t)xcr0;
    e->edx = (uint32_t)(xcr0 >> 32);
    e->ebx = xsave_bytes(xcr0, false);
    e->ecx = e->ebx;
    if (!xcr0) {
        e->ebx = e->ecx = 0;
        return;
    }
    e = build_add(b, 0xd, 1, KVM_CPUID_FLAG_SIGNIFCANT_INDEX);
    e->eax &= CPUID_D_1_EAX_HOST;
    e->ebx = e->eax & CPUID_BIT(1) ? xsave_bytes(xcr0, true) : 0;
    e->ecx = e->edx = 0;
    for (uint32_t i = 2; i < 63; i++) {
        if (!(xcr0 & (1ull << i)))
            continue;
        e = build_add(b, 0xd, i, KVM_CPUID_FLAG_SIGNIFCANT_INDEX);
        e->ecx &= 2;
        e->edx = 0;
    }
}

/*
 * Leaf 0x15: TSC Hz = ECX * EBX / EAX with the APIC timer's 1 GHz as crystal. Guests compute crystal kHz
 * times EBX in 32 bits, which bounds EBX: the best fraction below that bound.
 */
static void build_leaf_15(struct cpuid_build *b)
{
    struct kvm_cpuid_entry2 *e = build_add(b, 0x15, 0, 0);
    uint64_t khz = kvm_host_tsc_khz(), best_error = UINT64_MAX;

    e->ecx = CPUID_APIC_BUS_KHZ * 1000u;
    e->edx = 0;
    for (uint64_t den = 1; den < 4000; den++) {
        uint64_t num = (khz * den + CPUID_APIC_BUS_KHZ / 2) / CPUID_APIC_BUS_KHZ;
        if (!num || num * CPUID_APIC_BUS_KHZ > UINT32_MAX)
            continue;
        uint64_t got = num * CPUID_APIC_BUS_KHZ / den;
        uint64_t error = got > khz ? got - khz : khz - got;
        if (error < best_error) {
            best_error = error;
            e->eax = (uint32_t)den;
            e->ebx = (uint32_t)num;
        }
    }
    e = build_add(b, 0x16, 0, 0);
    e->eax = e->ebx = (uint32_t)(khz / 1000);
    e->ecx = 100;
    e->edx = 0;
}

static void build_kvm_leaves(struct cpuid_build *b)
{
    static const char signature[13] = KVM_SIGNATURE;
    struct kvm_cpuid_entry2 *e = build_add(b, KVM_CPUID_SIGNATURE, 0, 0);

    e->eax = CPUID_TIMING_LEAF;
    memcpy(&e->ebx, &signature[0], 4);
    memcpy(&e->ecx, &signature[4], 4);
    memcpy(&e->edx, &signature[8], 4);
    e = build_add(b, KVM_CPUID_FEATURES, 0, 0);
    e->eax = CPUID_KVM_FEATURES;
    e = build_add(b, CPUID_TIMING_LEAF, 0, 0);
    e->eax = kvm_host_tsc_khz();
    e->ebx = CPUID_APIC_BUS_KHZ;
}

static void build_extended(struct cpuid_build *b)
{
    struct kvm_cpuid_entry2 *e = build_add(b, 0x80000000u, 0, 0);
    uint32_t leaf1[4], leaf7[4];

    host_cpuid(1, 0, leaf1);
    host_cpuid(7, 0, leaf7);
    e->eax = b->amd ? 0x80000021u : 0x80000008u;
    e = build_add(b, 0x80000001u, 0, 0);
    e->ecx &= CPUID_81_ECX_HOST;
    e->edx = (e->edx & CPUID_81_EDX_HOST) | CPUID_81_EDX_ALWAYS;
    if (b->amd)
        e->edx |= ((leaf1[CPUID_EDX] & CPUID_1_EDX_HOST) | CPUID_1_EDX_ALWAYS) & CPUID_81_EDX_MIRROR;
    else
        e->ecx &= ~CPUID_BIT(22);
    for (uint32_t function = 0x80000002u; function <= 0x80000006u; function++)
        build_add(b, function, 0, 0);
    e = build_add(b, 0x80000007u, 0, 0);
    e->eax = e->ebx = e->ecx = 0;
    e->edx &= CPUID_87_EDX_HOST;
    e = build_add(b, 0x80000008u, 0, 0);
    uint32_t phys = e->eax & 0xff;
    e->eax = (phys > CPUID_PHYS_BITS_MAX || phys < 36 ? CPUID_PHYS_BITS_MAX : phys) | (leaf7[CPUID_ECX] & CPUID_7_ECX_LA57 ? 57u : 48u) << 8;
    e->ebx = (e->ebx & CPUID_88_EBX_HOST) | (b->amd ? CPUID_88_EBX_AMD_ALWAYS : 0);
    e->ecx = e->edx = 0;
    if (!b->amd)
        return;
    build_caches(b, 0x8000001du);
    e = build_add(b, 0x8000001eu, 0, 0);
    e->eax = e->ebx = e->ecx = e->edx = 0;
    e = build_add(b, 0x80000021u, 0, 0);
    e->eax = CPUID_821_EAX_ALWAYS;
    e->ebx = e->edx = 0;
    e->ecx = CPUID_821_ECX_ALWAYS;
}

int kvm_cpuid_supported(struct kvm_cpuid2 *cpuid)
{
    struct cpuid_build b = { .entries = cpuid->entries, .room = cpuid->nent, .amd = kvm_cpuid_host_is_amd() };
    struct kvm_cpuid_entry2 *e;
    uint32_t host_max[4];

    b.avx512 = (kvm_cpuid_xcr0_supported() & X86_XCR0_AVX512) != 0;
    host_cpuid(0, 0, host_max);
    e = build_add(&b, 0, 0, 0);
    e->eax = b.amd ? 0xd : host_max[CPUID_EAX] >= 0x1f ? 0x1f : 0x16;
    build_leaf_1(&b);
    if (!b.amd) {
        if (host_max[CPUID_EAX] >= 2)
            build_add(&b, 2, 0, 0);
        build_caches(&b, 4);
    }
    e = build_add(&b, 6, 0, 0);
    e->eax = CPUID_BIT(2); /* ARAT: the APIC timer never stops */
    e->ebx = e->ecx = e->edx = 0;
    build_leaf_7(&b);
    build_topology(&b, 0xb);
    build_leaf_d(&b);
    if (!b.amd) {
        build_leaf_15(&b);
        if (host_max[CPUID_EAX] >= 0x1f)
            build_topology(&b, 0x1f);
    }
    build_kvm_leaves(&b);
    build_extended(&b);
    if (b.count > b.room)
        return -E2BIG;
    cpuid->nent = b.count;
    return 0;
}

/* ---- a vCPU's table ---- */

static const struct kvm_cpuid_entry2 *cpuid_find(const struct kvm_vcpu *vcpu, uint32_t function, uint32_t index)
{
    for (uint32_t i = 0; i < vcpu->cpuid_count; i++) {
        const struct kvm_cpuid_entry2 *e = &vcpu->cpuid[i];
        if (e->function == function && (!(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || e->index == index))
            return e;
    }
    return NULL;
}

uint32_t kvm_cpuid_register(const struct kvm_vcpu *vcpu, uint32_t function, uint32_t index, unsigned reg)
{
    const struct kvm_cpuid_entry2 *e = cpuid_find(vcpu, function, index);
    const uint32_t regs[4] = { e ? e->eax : 0, e ? e->ebx : 0, e ? e->ecx : 0, e ? e->edx : 0 };

    return regs[reg];
}

/* What the processor must know of the new table. */
static void cpuid_apply(struct kvm_vcpu *vcpu)
{
    uint32_t phys = kvm_cpuid_register(vcpu, 0x80000008u, 0, CPUID_EAX) & 0xff;
    uint32_t ext = kvm_cpuid_register(vcpu, 0x80000001u, 0, CPUID_EDX);
    uint64_t xcr0 = kvm_cpuid_register(vcpu, 0xd, 0, CPUID_EAX) |
                    (uint64_t)kvm_cpuid_register(vcpu, 0xd, 0, CPUID_EDX) << 32;

    if (phys < 32 || phys > 52)
        phys = 36;
    vcpu->cpu->maxphyaddr_mask = ~((1ull << phys) - 1) & 0x000fffffffffffffull;
    vcpu->cpu->efer_valid = kvm_limits_efer_valid(vcpu, false);
    vcpu->cpu->has_nx = (ext & CPUID_BIT(20)) != 0;
    vcpu->cpu->has_1g_pages = (ext & CPUID_BIT(26)) != 0;
    vcpu->cpu->has_la57 = (kvm_cpuid_register(vcpu, 7, 0, CPUID_ECX) & CPUID_7_ECX_LA57) != 0;
    uint32_t vendor = kvm_cpuid_register(vcpu, 0, 0, CPUID_ECX);
    vcpu->cpu->no_sysenter64 = vendor == 0x444d4163u;                                   /* AuthenticAMD */
    vcpu->cpu->no_pml4e_bit8 = vcpu->cpu->no_sysenter64 || vendor == 0x656e6975u; /* HygonGenuine */
    vcpu->guest_xcr0_supported = xcr0 & kvm_cpuid_xcr0_supported();
    kvm_vcpu_setup_vmcs(vcpu);
}

static int cpuid_install(struct kvm_vcpu *vcpu, struct kvm_cpuid_entry2 *entries, uint32_t count)
{
    free(vcpu->cpuid);
    vcpu->cpuid = entries;
    vcpu->cpuid_count = count;
    cpuid_apply(vcpu);
    return 0;
}

static int cpuid_alloc(uint32_t count, struct kvm_cpuid_entry2 **entries)
{
    if (count > KVM_CPUID_MAX_ENTRIES)
        return -E2BIG;
    *entries = calloc(count + 1u, sizeof(**entries));
    return *entries ? 0 : -ENOMEM;
}

int kvm_vcpu_set_cpuid2(struct kvm_object *object, void *arg)
{
    struct kvm_vcpu *vcpu = kvm_vcpu_of(object);
    const struct kvm_cpuid2 *client = arg;
    struct kvm_cpuid_entry2 *entries;
    uint32_t count;

    if (kvm_copy_in(&count, &client->nent, sizeof(count)))
        return -EFAULT;
    int err = cpuid_alloc(count, &entries);
    if (err)
        return err;
    if (kvm_copy_in(entries, client->entries, count * sizeof(*entries))) {
        free(entries);
        return -EFAULT;
    }
    for (uint32_t i = 0; i < count; i++) {
        uint32_t virt = (entries[i].eax >> 8) & 0xff;
        if (entries[i].function == 0x80000008u && virt != 48 && virt != 57 && virt != 0) {
            free(entries);
            return -EINVAL;
        }
    }
    return cpuid_install(vcpu, entries, count);
}

int kvm_vcpu_set_cpuid(struct kvm_object *object, void *arg)
{
    struct kvm_vcpu *vcpu = kvm_vcpu_of(object);
    const struct kvm_cpuid *client = arg;
    struct kvm_cpuid_entry2 *entries;
    uint32_t count;

    if (kvm_copy_in(&count, &client->nent, sizeof(count)))
        return -EFAULT;
    int err = cpuid_alloc(count, &entries);
    if (err)
        return err;
    for (uint32_t i = 0; i < count; i++) {
        struct kvm_cpuid_entry e;
        if (kvm_copy_in(&e, &client->entries[i], sizeof(e))) {
            free(entries);
            return -EFAULT;
        }
        entries[i] = (struct kvm_cpuid_entry2){ .function = e.function, .eax = e.eax, .ebx = e.ebx, .ecx = e.ecx,
                                                .edx = e.edx };
    }
    return cpuid_install(vcpu, entries, count);
}

int kvm_vcpu_get_cpuid2(struct kvm_object *object, void *arg)
{
    struct kvm_vcpu *vcpu = kvm_vcpu_of(object);
    struct kvm_cpuid2 *client = arg;
    uint32_t room;

    if (kvm_copy_in(&room, &client->nent, sizeof(room)))
        return -EFAULT;
    bool fits = room >= vcpu->cpuid_count;
    if (fits && kvm_copy_out(client->entries, vcpu->cpuid, vcpu->cpuid_count * sizeof(*vcpu->cpuid)))
        return -EFAULT;
    if (kvm_copy_out(&client->nent, &vcpu->cpuid_count, sizeof(room)))
        return -EFAULT;
    return fits ? 0 : -E2BIG;
}

/* Bits that follow the vCPU's state (SDM 2A CPUID, "OSXSAVE", leaf 0xd EBX, …). */
static void cpuid_dynamic(const struct kvm_vcpu *vcpu, uint32_t function, uint32_t index, uint32_t out[4])
{
    bool apic = (kvm_vcpu_apic_base(vcpu) & APIC_BASE_ENABLE) != 0;

    if (function == 1) {
        out[CPUID_ECX] &= ~CPUID_1_ECX_OSXSAVE;
        if (vcpu->cpu->vmcs.guest_cr4 & X86_CR4_OSXSAVE)
            out[CPUID_ECX] |= CPUID_1_ECX_OSXSAVE;
        if (!kvm_vm_has_quirk(vcpu->vm, KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT)) { /* then it follows the MSR */
            out[CPUID_ECX] &= ~CPUID_BIT(3);
            if (kvm_msr_misc_enable(vcpu) & MISC_ENABLE_MWAIT)
                out[CPUID_ECX] |= CPUID_BIT(3);
        }
    }
    if (function == 0x40000001u && (vcpu->vm->disabled_exits & KVM_X86_DISABLE_EXITS_HLT))
        out[CPUID_EAX] &= ~(1u << KVM_FEATURE_PV_UNHALT); /* nobody would see the halt that it wakes from */
    if ((function == 1 || function == 0x80000001u) && !apic)
        out[CPUID_EDX] &= ~CPUID_1_EDX_APIC;
    if (function == 0xd && index == 0)
        out[CPUID_EBX] = xsave_bytes(vcpu->cpu->xcr0, false);
    if (function == 0xd && index == 1 && (out[CPUID_EAX] & CPUID_BIT(1)))
        out[CPUID_EBX] = xsave_bytes(vcpu->cpu->xcr0 | vcpu->cpu->msr_xss, true);
}

/* Beyond the maximum of its class: Intel answers with the highest basic leaf, AMD with zeros. */
static const struct kvm_cpuid_entry2 *cpuid_out_of_range(const struct kvm_vcpu *vcpu, uint32_t *function, uint32_t index)
{
    const struct kvm_cpuid_entry2 *basic = cpuid_find(vcpu, 0, 0), *class;

    if (!basic || basic->ebx == 0x68747541u || basic->ebx == 0x6f677948u)
        return NULL;
    class = *function < 0x40000000u ? basic : cpuid_find(vcpu, *function & 0xc0000000u, 0);
    if (class && *function <= class->eax)
        return NULL; /* in range, and not there: zeros */
    *function = basic->eax;
    return cpuid_find(vcpu, basic->eax, index);
}

void kvm_cpuid_query(struct kvm_vcpu *vcpu, uint32_t function, uint32_t index, uint32_t out[4])
{
    const struct kvm_cpuid_entry2 *e = cpuid_find(vcpu, function, index);

    memset(out, 0, 4 * sizeof(*out));
    if (!e)
        e = cpuid_out_of_range(vcpu, &function, index);
    if (e) {
        out[CPUID_EAX] = e->eax;
        out[CPUID_EBX] = e->ebx;
        out[CPUID_ECX] = e->ecx;
        out[CPUID_EDX] = e->edx;
        cpuid_dynamic(vcpu, function, index, out);
    } else if (function == 0xb || function == 0x1f) {
        /* an invalid level: its number, and the x2APIC ID (SDM 2A CPUID leaf 0BH) */
        e = cpuid_find(vcpu, function, 1);
        if (e) {
            out[CPUID_ECX] = index & 0xff;
            out[CPUID_EDX] = e->edx;
        }
    }
}
