/* SPDX-License-Identifier: MIT */
/*
 * What a guest that knows KVM may ask for (Documentation/virt/kvm/x86/hypercalls.rst, msr.rst): kicks,
 * interrupts to many processors at once, yielding, steal time, and TLB flushes that a processor which does
 * not run does for itself when it comes back.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <asm/kvm_para.h>
#include <linux/kvm_para.h>

#include "kvm/vcpu.h"
#include "mmu/mmu.h"

#define APIC_ICR_MODE_SHIFT 8
#define APIC_ICR_DEST_MASK 0x000c0800u /* logical, and the shorthands */
#define STEAL_PERIOD_NS 1000000u

/* ---- hypercalls ---- */

static uint64_t pv_kick_cpu(struct kvm_vcpu *vcpu, uint64_t apic_id)
{
    for (unsigned i = 0; i < atomic_load(&vcpu->vm->vcpu_count); i++) {
        struct kvm_vcpu *other = kvm_vm_vcpu(vcpu->vm, i);
        if (other->lapic && lapic_id(other->lapic) == (uint32_t)apic_id)
            kvm_vcpu_request(other, KVM_REQ_UNHALT);
    }
    return 0;
}

/* a0, a1: bits for the APIC IDs from a2 on; a3: the ICR's low word. How many were reached. */
static uint64_t pv_send_ipi(struct kvm_vcpu *vcpu, uint64_t low, uint64_t high, uint64_t first, uint64_t icr, bool is_64)
{
    struct irqchip *chip = kvm_vm_irqchip(vcpu->vm);
    struct apic_msg msg = {
        .vector = (uint8_t)icr, .mode = (icr >> APIC_ICR_MODE_SHIFT) & 7, .assert = true, .x2apic = true};
    uint64_t words[2] = {low, high}, count = 0;
    unsigned bits = is_64 ? 64 : 32;

    if (!chip || (icr & APIC_ICR_DEST_MASK) || (msg.mode != APIC_DM_FIXED && msg.mode != APIC_DM_NMI))
        return (uint64_t)-KVM_EINVAL;
    for (unsigned w = 0; w < 2; w++) {
        for (uint64_t left = words[w]; left; left &= left - 1) {
            uint64_t id = first + w * bits + (unsigned)__builtin_ctzll(left);
            if (id >= IRQCHIP_MAX_VCPUS)
                break;
            msg.dest = (uint32_t)id;
            int reached = irqchip_deliver(chip, vcpu->lapic, &msg);
            count += reached > 0 ? (unsigned)reached : 0;
        }
    }
    return count;
}

/* The processor that the guest wants to run may have to wait for ours: the host's scheduler chooses. */
static uint64_t pv_sched_yield(struct kvm_vcpu *vcpu)
{
    vcpu->counters->directed_yield_attempted++;
    sched_yield();
    return 0;
}

/* Under KVM_CAP_ENFORCE_PV_FEATURE_CPUID a hypercall needs its feature's bit. */
static bool pv_offered(const struct kvm_vcpu *vcpu, uint64_t number)
{
    switch (number) {
    case KVM_HC_KICK_CPU:
        return kvm_limits_has_pv(vcpu, KVM_FEATURE_PV_UNHALT);
    case KVM_HC_SEND_IPI:
        return kvm_limits_has_pv(vcpu, KVM_FEATURE_PV_SEND_IPI);
    case KVM_HC_SCHED_YIELD:
        return kvm_limits_has_pv(vcpu, KVM_FEATURE_PV_SCHED_YIELD);
    default:
        return true;
    }
}

static bool map_gpa_range_is_valid(uint64_t gpa, uint64_t pages)
{
    uint64_t gfn = gpa >> KAGE_PAGE_SHIFT;

    return !(gpa & ~KAGE_PAGE_MASK) && gfn + pages > gfn;
}

uint64_t kvm_pv_hypercall(struct kvm_vcpu *vcpu)
{
    const uint64_t *gpr = vcpu->cpu->gpr;
    bool is_64 = cpu_in_64bit_code(vcpu->cpu);
    uint64_t mask = is_64 ? UINT64_MAX : UINT32_MAX;

    if (cpu_cpl(vcpu->cpu))
        return (uint64_t)-KVM_EPERM;
    if (!pv_offered(vcpu, gpr[X86_RAX] & mask))
        return (uint64_t)-KVM_ENOSYS;
    switch (gpr[X86_RAX] & mask) {
    case KVM_HC_VAPIC_POLL_IRQ:
        return 0;
    case KVM_HC_KICK_CPU:
        return pv_kick_cpu(vcpu, gpr[X86_RCX] & mask);
    case KVM_HC_SEND_IPI:
        return pv_send_ipi(vcpu, gpr[X86_RBX] & mask, gpr[X86_RCX] & mask, gpr[X86_RDX] & mask, gpr[X86_RSI] & mask, is_64);
    case KVM_HC_SCHED_YIELD:
        return pv_sched_yield(vcpu);
    case KVM_HC_MAP_GPA_RANGE: /* the client's, and not valid, or not wanted */
        return (uint64_t)(vcpu->vm->exit_hypercalls & 1u << KVM_HC_MAP_GPA_RANGE ? -KVM_EINVAL : -KVM_ENOSYS);
    default:
        return (uint64_t)-KVM_ENOSYS;
    }
}

/* KVM_HC_MAP_GPA_RANGE is the client's, if it wants it (KVM_CAP_EXIT_HYPERCALL) and its arguments make sense. */
bool kvm_pv_hypercall_to_client(struct kvm_vcpu *vcpu)
{
    const uint64_t *gpr = vcpu->cpu->gpr;
    bool is_64 = cpu_in_64bit_code(vcpu->cpu);
    uint64_t mask = is_64 ? UINT64_MAX : UINT32_MAX;

    if (cpu_cpl(vcpu->cpu) || (gpr[X86_RAX] & mask) != KVM_HC_MAP_GPA_RANGE ||
        !(vcpu->vm->exit_hypercalls & 1u << KVM_HC_MAP_GPA_RANGE) ||
        !map_gpa_range_is_valid(gpr[X86_RBX] & mask, gpr[X86_RCX] & mask))
        return false;
    memset(&vcpu->run->hypercall, 0, sizeof(vcpu->run->hypercall));
    vcpu->run->exit_reason = KVM_EXIT_HYPERCALL;
    vcpu->run->hypercall.nr = KVM_HC_MAP_GPA_RANGE;
    vcpu->run->hypercall.args[0] = gpr[X86_RBX] & mask;
    vcpu->run->hypercall.args[1] = gpr[X86_RCX] & mask;
    vcpu->run->hypercall.args[2] = gpr[X86_RDX] & mask;
    vcpu->run->hypercall.longmode = is_64;
    vcpu->hypercall_at_client = true;
    return true;
}

/* ---- steal time ---- */

/* Time that the vCPU's thread was ready and did not run, from its schedstat; 0 where the host does not tell. */
static uint64_t steal_ns(struct kvm_vcpu *vcpu)
{
    char text[96];

    if (vcpu->schedstat_fd == 0) {
        int fd = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
        vcpu->schedstat_fd = fd >= 0 ? fd : -1;
    }
    if (vcpu->schedstat_fd < 0)
        return 0;
    ssize_t n = pread(vcpu->schedstat_fd, text, sizeof(text) - 1, 0);
    if (n <= 0)
        return 0;
    text[n] = '\0';
    char *second = strchr(text, ' ');
    return second ? strtoull(second, NULL, 10) : 0;
}

void kvm_pv_thread_changed(struct kvm_vcpu *vcpu)
{
    if (vcpu->schedstat_fd > 0)
        close(vcpu->schedstat_fd);
    vcpu->schedstat_fd = 0;
}

static gpa_t steal_gpa(const struct kvm_vcpu *vcpu)
{
    return vcpu->steal_time_msr & KVM_STEAL_VALID_BITS;
}

static void steal_update(struct kvm_vcpu *vcpu)
{
    gpa_t gpa = steal_gpa(vcpu);
    ns_t now = kvm_monotonic_ns();
    struct kvm_steal_time page;

    if (now - vcpu->steal_updated_ns < STEAL_PERIOD_NS)
        return;
    vcpu->steal_updated_ns = now;
    uint64_t total = steal_ns(vcpu);
    if (!mmu_phys_read(vcpu->cpu, gpa, &page, offsetof(struct kvm_steal_time, preempted)))
        return;
    /* Odd while it changes, as kvm-clock's version is. */
    page.version = (page.version | 1u) + 2u;
    bool ok = mmu_phys_write(vcpu->cpu, gpa + offsetof(struct kvm_steal_time, version), &page.version, sizeof(page.version));
    page.steal += total - vcpu->steal_seen_ns;
    vcpu->steal_seen_ns = total;
    atomic_thread_fence(memory_order_release);
    ok = ok && mmu_phys_write(vcpu->cpu, gpa, &page.steal, sizeof(page.steal));
    atomic_thread_fence(memory_order_release);
    page.version++;
    ok = ok && mmu_phys_write(vcpu->cpu, gpa + offsetof(struct kvm_steal_time, version), &page.version, sizeof(page.version));
    if (!ok)
        vcpu->steal_time_msr = 0;
}

void kvm_pv_set_steal_time(struct kvm_vcpu *vcpu, uint64_t value)
{
    vcpu->steal_time_msr = value;
    vcpu->steal_updated_ns = 0;
    vcpu->steal_seen_ns = (value & KVM_MSR_ENABLED) ? steal_ns(vcpu) : 0;
    vcpu->preempted_told = false;
}

/*
 * The processor stops running: others of the guest need not wait for it, and may leave it a TLB flush
 * instead of an interrupt.
 */
void kvm_pv_leave(struct kvm_vcpu *vcpu)
{
    uint8_t preempted = KVM_VCPU_PREEMPTED;

    if (!(vcpu->steal_time_msr & KVM_MSR_ENABLED) || vcpu->preempted_told)
        return;
    vcpu->preempted_told = mmu_phys_exchange_byte(
        vcpu->cpu, steal_gpa(vcpu) + offsetof(struct kvm_steal_time, preempted), &preempted);
    vcpu->counters->preemption_reported += vcpu->preempted_told;
}

/* It runs again: what was left for it is done before anything else. */
void kvm_pv_enter(struct kvm_vcpu *vcpu)
{
    uint8_t preempted = 0;

    if (!(vcpu->steal_time_msr & KVM_MSR_ENABLED))
        return;
    if (vcpu->preempted_told) {
        vcpu->preempted_told = false;
        if (mmu_phys_exchange_byte(vcpu->cpu, steal_gpa(vcpu) + offsetof(struct kvm_steal_time, preempted), &preempted) &&
            (preempted & KVM_VCPU_FLUSH_TLB))
            kvm_shadow_flush(vcpu);
    }
    steal_update(vcpu);
}
