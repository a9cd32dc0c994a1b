/* SPDX-License-Identifier: MIT */
/*
 * Counters, and the descriptors that show them (KVM_GET_STATS_FD, api.rst 4.133). A descriptor is a read-only file over a
 * memfd in which the counters themselves lie: what is counted is what a read finds, with nothing to refresh.
 */
#ifndef KAGE_KVM_STATS_H
#define KAGE_KVM_STATS_H

#include "cpu/cpu.h"
#include "kvm/object.h"
#include "mmu/shadow.h"

/* Each is the file's data block as it is: 64-bit words, one writer (the thread in KVM_RUN) unless it says otherwise. */
struct kvm_vcpu_counters {
    /* by the kernel's names */
    uint64_t exits, mmio_exits, signal_exits, request_irq_exits;
    uint64_t halt_wakeup, halt_wait_ns, blocking, irq_injections, nmi_injections, req_event;
    uint64_t directed_yield_attempted, preemption_reported, insn_emulation_fail;
    uint64_t pf_taken, pf_fixed, pf_emulate, pf_spurious, pf_mmio_spte_created, pf_guest;
    uint64_t never; /* of what does not exist here: halt polling */
    /* the engine's */
    uint64_t user_exits, halts, dirty_ring_exits;
    uint64_t cpu[64]; /* enum cpu_stat */
    uint64_t exit[VMX_EXIT_COUNT];
};

struct kvm_vm_counters { /* VM mutex or MMU mutex held */
    uint64_t remote_tlb_flush, remote_tlb_flush_requests;
    uint64_t pages_4k, pages_2m, pages_1g;
    uint64_t memory_slots, memory_slot_changes, vcpus, ept_violations, dirty_pages;
    uint64_t ept_table_pages, ept_mmio_entries;
    struct shadow_stats shadow;
};

/* One file; made when it is first asked for. */
struct kvm_stats_file {
    int fd; /* -1: not made */
    void *map;
    size_t map_bytes;
};

void kvm_stats_file_init(struct kvm_stats_file *file);
void kvm_stats_file_fini(struct kvm_stats_file *file);

kvm_ioctl_fn kvm_vm_get_stats_fd, kvm_vcpu_get_stats_fd; /* a descriptor of its own, with an offset of its own */
kvm_ioctl_fn kvm_vm_get_stats, kvm_vcpu_get_stats;       /* KAGE_GET_STATS */

#endif
