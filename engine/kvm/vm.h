/* SPDX-License-Identifier: MIT */
/*
 * The VM object: memory slots, vCPUs, the interrupt chips and the clock that they share.
 */
#ifndef KAGE_KVM_VM_H
#define KAGE_KVM_VM_H

#include <pthread.h>

#include "apic/apic.h"
#include "cpu/cpu.h"
#include "kvm/clock.h"
#include "kvm/log.h"
#include "kvm/memslot.h"
#include "kvm/object.h"
#include "kvm/stats.h"

#define KVM_VM_MAX_VCPUS 256u
#define KVM_VM_MAX_VCPU_ID 1024u
#define KVM_VM_MAX_ZONES 128u

struct kvm_vcpu;

struct kvm_vm {
    struct kvm_object object; /* first: objects are cast to it */
    pthread_mutex_t lock;     /* what follows, unless it says otherwise */

    struct ept *ept;
    struct cpu_vm *cpu_vm;
    struct kvm_memslots memslots; /* its own lock */

    /* Grows only; an index below vcpu_count may be read without the lock. */
    struct kvm_vcpu *_Atomic vcpus[KVM_VM_MAX_VCPUS];
    atomic_uint vcpu_count;
    uint32_t boot_cpu_id;

    struct irqchip *_Atomic irqchip; /* set once */
    struct ioeventfd_table *ioeventfds;

    pthread_rwlock_t zones_lock; /* of zones and of every vCPU's coalesced ring: writers */
    pthread_mutex_t ring_lock;
    struct kvm_coalesced_mmio_zone zones[KVM_VM_MAX_ZONES];
    unsigned zone_count;
    struct kvm_coalesced_mmio_ring *_Atomic ring; /* vCPU 0's page, as the kernel has one ring for a VM */

    struct kvm_clock clock; /* its own lock */
    _Atomic uint64_t tsc_offset; /* that vCPUs share unless a client or a guest says otherwise */
    _Atomic bool tsc_set_by_client;

    uint64_t disabled_quirks, x2apic_api;
    uint64_t disabled_exits;   /* KVM_X86_DISABLE_EXITS_* */
    uint64_t exit_hypercalls;  /* KVM_CAP_EXIT_HYPERCALL: by number */
    bool exit_on_emulation_failure;
    uint32_t mmu; /* KAGE_MMU_* */
    struct shadow *shadow;        /* KAGE_MMU_SHADOW; MMU mutex held, as are the two below */
    struct kvm_vcpu *shadow_vcpu; /* whose fault is being handled */
    uint64_t shadow_ticket;       /* of the last TLB flush asked for */
    uint32_t mmu_pages;
    bool mmu_pages_asked; /* KVM_SET_NR_MMU_PAGES */
    uint32_t max_vcpu_id;
    bool exception_payload, triple_fault_event, no_platform_info;
    uint32_t user_space_msr_mask; /* KVM_MSR_EXIT_REASON_* */
    struct kvm_msr_filter_set *_Atomic msr_filter;
    struct kvm_msr_filter_set *msr_filter_retired;
    uint64_t tss_addr, identity_map_addr;
    uint32_t dirty_ring_bytes; /* of each vCPU's ring; 0: bitmaps */

    pthread_mutex_t inspect_lock; /* one looks at a vCPU at a time; taken inside nothing */
    atomic_uint inspectors;       /* in kage_inspect(): it lives until they have left */

    struct kvm_vm_counters *counters; /* own_counters, or in the file */
    struct kvm_vm_counters own_counters;
    struct kvm_stats_file stats_file;
    struct kvm_last_error error;
};

static inline struct kvm_vm *kvm_vm_of(struct kvm_object *object)
{
    return (struct kvm_vm *)(void *)object;
}

static inline struct irqchip *kvm_vm_irqchip(struct kvm_vm *vm)
{
    return atomic_load_explicit(&vm->irqchip, memory_order_acquire);
}

static inline struct kvm_vcpu *kvm_vm_vcpu(struct kvm_vm *vm, unsigned index)
{
    return atomic_load_explicit(&vm->vcpus[index], memory_order_acquire);
}

/* KVM_CREATE_VCPU (vcpu.c): a handle, or -errno. */
int kvm_vcpu_create(struct kvm_vm *vm, uintptr_t id);
/* With the VM: a vCPU's memory stays until then, since other threads may kick it. */
void kvm_vcpu_destroy(struct kvm_vcpu *vcpu);

/* KVM_SET_TSC_KHZ: 0, or -EINVAL for a frequency that cannot be had. */
int kvm_tsc_khz_check(uintptr_t khz);

/* KVM_ENABLE_CAP (caps.c); VM mutex held. */
int kvm_vm_enable_cap(struct kvm_vm *vm, const struct kvm_enable_cap *cap);
static inline bool kvm_vm_has_quirk(const struct kvm_vm *vm, uint64_t quirk)
{
    return !(vm->disabled_quirks & quirk);
}

/* Interrupt chips (irq.c). */
int kvm_irq_create_chip(struct kvm_vm *vm, bool split, uint32_t split_pins);
kvm_ioctl_fn kvm_vm_create_irqchip, kvm_vm_get_irqchip, kvm_vm_set_irqchip, kvm_vm_irq_line, kvm_vm_irq_line_status,
    kvm_vm_set_gsi_routing, kvm_vm_signal_msi, kvm_vm_irqfd, kvm_vm_ioeventfd, kvm_vm_create_pit, kvm_vm_create_pit2,
    kvm_vm_get_pit, kvm_vm_set_pit, kvm_vm_get_pit2, kvm_vm_set_pit2, kvm_vm_reinject_control;

/* Coalesced MMIO and PIO (coalesced.c). */
kvm_ioctl_fn kvm_vm_register_coalesced, kvm_vm_unregister_coalesced;
/* A guest write: true if it went to the ring. */
bool kvm_coalesced_write(struct kvm_vm *vm, bool pio, uint64_t addr, uint32_t len, const void *data);

/* KVM_CAP_X86_USER_SPACE_MSR's filter (msr_filter.c). */
kvm_ioctl_fn kvm_vm_set_msr_filter;
bool kvm_msr_filter_allows(struct kvm_vm *vm, uint32_t index, uint32_t access);
void kvm_msr_filter_fini(struct kvm_vm *vm);

/* Extension ioctls (inspect.c). */
kvm_ioctl_fn kvm_vm_get_error, kvm_vcpu_get_error, kvm_vcpu_dump_vmcs, kvm_vcpu_vmread;

#endif
