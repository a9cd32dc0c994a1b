/* SPDX-License-Identifier: MIT */
/*
 * Time as guests see it: the TSC's frequency, and kvm-clock (a page by which the guest turns its TSC
 * into nanoseconds; Documentation/virt/kvm/x86/msr.rst). All vCPUs share one reference pair and the host's
 * TSC is invariant, so the pages are marked TSC-stable, as long as the vCPUs' TSCs agree too.
 */
#ifndef KAGE_KVM_CLOCK_H
#define KAGE_KVM_CLOCK_H

#include <pthread.h>

#include "arch/types.h"

struct kvm_vm;
struct kvm_vcpu;

/* The page that MSR_KVM_SYSTEM_TIME_NEW names (struct pvclock_vcpu_time_info). */
struct kvm_pvclock_page {
    uint32_t version; /* odd while it is being written */
    uint32_t pad0;
    uint64_t tsc_timestamp;
    uint64_t system_time_ns;
    uint32_t tsc_to_system_mul;
    int8_t tsc_shift;
    uint8_t flags;
    uint8_t pad[2];
};
_Static_assert(sizeof(struct kvm_pvclock_page) == 32, "pvclock_vcpu_time_info");
#define KVM_PVCLOCK_TSC_STABLE (1u << 0)
#define KVM_PVCLOCK_GUEST_STOPPED (1u << 1)

/* The page that MSR_KVM_WALL_CLOCK_NEW names (struct pvclock_wall_clock). */
struct kvm_wall_clock_page {
    uint32_t version, sec, nsec;
};

struct kvm_clock {
    pthread_mutex_t lock;
    uint64_t reference_tsc;   /* host TSC … */
    int64_t reference_ns;     /* … at which the guest's clock read this */
    uint32_t generation;      /* counts changes of the pair and of what follows: vCPUs renew their pages */
    bool tsc_differs;         /* the vCPUs' TSCs have different offsets: a page is good for its own vCPU only */
};

/* kHz of the host's TSC; measured once in a process. */
uint32_t kvm_host_tsc_khz(void);
uint64_t kvm_host_tsc(void);
/* A span of the host's TSC in nanoseconds, and back. Negative spans allowed. */
int64_t kvm_tsc_to_ns(int64_t tsc);
/* Host CLOCK_MONOTONIC in ns. */
ns_t kvm_monotonic_ns(void);

void kvm_clock_init(struct kvm_clock *clock);
void kvm_clock_fini(struct kvm_clock *clock);
/* The guest's clock at a host TSC. */
int64_t kvm_clock_at(struct kvm_clock *clock, uint64_t host_tsc, uint32_t *generation);

bool kvm_clock_is_stable(struct kvm_clock *clock);
/* A vCPU's TSC offset changed, or there is a new vCPU. */
void kvm_clock_check_tsc(struct kvm_vm *vm);

/* MSR writes; true, or false for #GP. */
bool kvm_clock_set_system_time(struct kvm_vcpu *vcpu, uint64_t value);
bool kvm_clock_set_wall_clock(struct kvm_vcpu *vcpu, uint64_t value);
/* Renews the vCPU's page if something changed; before VM entry. */
void kvm_clock_update(struct kvm_vcpu *vcpu);

/* Host CLOCK_MONOTONIC at which the vCPU's TSC reads guest_tsc. */
ns_t kvm_clock_guest_tsc_to_monotonic(struct kvm_vcpu *vcpu, uint64_t guest_tsc);

#endif
