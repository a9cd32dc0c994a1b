/* SPDX-License-Identifier: MIT */
/*
 * A VM whose MMU is the shadow one (KVM_CAP_KAGE_MMU): the vCPUs run without EPT, on tables that mmu/shadow.h makes of the guest's own.
 * Here is what that asks of KVM: the exits, the roots, and memory slots. memslots.mmu_lock guards the shadow pages; it is never held over a
 * walk of the guest's tables, nor while waiting for a vCPU.
 */
#ifndef KAGE_KVM_SHADOW_MMU_H
#define KAGE_KVM_SHADOW_MMU_H

#include "kvm/vm.h"
#include "mmu/shadow.h"

struct kvm_vcpu;

KAGE_MUST_CHECK int kvm_shadow_new(struct kvm_vm *vm);
void kvm_shadow_free(struct kvm_vm *vm); /* the vCPUs are gone */
void kvm_shadow_vcpu_fini(struct kvm_vcpu *vcpu);

/* Before VM entry: there is a root for the guest's registers as they are. 0 or -errno. */
KAGE_MUST_CHECK int kvm_shadow_enter(struct kvm_vcpu *vcpu);
/* The guest, or somebody for it, flushes its whole TLB. */
void kvm_shadow_flush(struct kvm_vcpu *vcpu);
/* A client sets registers: it may have changed memory behind the vCPUs' back. */
void kvm_shadow_restored(struct kvm_vcpu *vcpu);

/* Exits: enum kvm_run_result or -errno. */
int kvm_shadow_page_fault(struct kvm_vcpu *vcpu);
int kvm_shadow_cr_access(struct kvm_vcpu *vcpu);
int kvm_shadow_invlpg(struct kvm_vcpu *vcpu);
int kvm_shadow_invpcid(struct kvm_vcpu *vcpu);

/* What a page fault at va, with an error code of the processor's, comes to. */
enum kvm_shadow_fault {
    KVM_SHADOW_FIXED,   /* it may be tried again */
    KVM_SHADOW_GUEST,   /* it is the guest's, with *error */
    KVM_SHADOW_NO_ROOM, /* the dirty ring is full */
    KVM_SHADOW_ONCE,    /* CPU_PF_ONCE; an exit only has it tried again */
};
/* That, or -errno. */
KAGE_MUST_CHECK int kvm_shadow_fault(struct kvm_vcpu *vcpu, gva_t va, uint32_t *error);

/* For shadow_exits.c. The MMU mutex; unlocking tells the counters. */
void kvm_shadow_lock(struct kvm_vm *vm);
void kvm_shadow_unlock(struct kvm_vm *vm);
/* The guest's CR3 was loaded. 0 or -errno. */
KAGE_MUST_CHECK int kvm_shadow_switch_cr3(struct kvm_vcpu *vcpu, bool noflush);
int kvm_shadow_memory_gone(struct kvm_vcpu *vcpu, gva_t va); /* -EFAULT, with the words for it */

/* cpu_ops */
/* An access that the tables refuse, in the middle of guest code (cpu_ops.page_fault). Most faults end here, and are no exits. */
int kvm_shadow_mend(struct cpu *cpu, gva_t va, enum mmu_access access, enum mmu_idx idx, uint32_t *error, gpa_t *gpa);
bool kvm_shadow_guest_page(struct cpu *cpu, const uint64_t *entry, hva_t page, gpa_t *gpa);
bool kvm_shadow_load_cr3(struct cpu *cpu, uint64_t cr3);

/* Changes of slots: with the MMU mutex held and the vCPUs stopped; the caller has them flush. Nothing happens in a VM without shadow pages. */
void kvm_shadow_slot_gone(struct kvm_vm *vm, gpa_t gpa, uint64_t bytes);
void kvm_shadow_slot_new(struct kvm_vm *vm);
/* Takes write rights from the pages of `mask`, bit n for the one at gpa + n pages. */
void kvm_shadow_protect(struct kvm_vm *vm, gpa_t gpa, uint64_t mask);
/* KVM_SET_NR_MMU_PAGES; 0: as many as the slots' size suggests. */
void kvm_shadow_set_pages(struct kvm_vm *vm);
/* Guest memory was written by the engine. */
void kvm_shadow_written(struct kvm_vcpu *vcpu, gpa_t gpa, size_t bytes);

#endif
