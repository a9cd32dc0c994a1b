/* SPDX-License-Identifier: MIT */
/*
 * Memory slots: which guest-physical ranges are which of the client's memory. A sorted array without
 * overlaps; the EPT is filled from it on violations and emptied when a slot goes.
 *
 * The MMU mutex guards slots, bitmaps and EPT together. Its holder never waits for a vCPU; whoever
 * must stop the vCPUs first (a change that no cached translation may survive) takes it after that.
 */
#ifndef KAGE_KVM_MEMSLOT_H
#define KAGE_KVM_MEMSLOT_H

#include <pthread.h>

#include <linux/kvm.h>

#include "arch/types.h"

struct cpu;
struct kvm_vm;
struct kvm_vcpu;

#define KVM_MEMSLOT_MAX 32764u /* ids, as the kernel's KVM_USER_MEM_SLOTS */

struct kvm_memslot {
    gpa_t gpa;
    uint64_t bytes;
    hva_t hva;
    uint32_t id;
    uint32_t flags;         /* KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY */
    uint64_t *dirty_bitmap; /* one bit a page, whole 64-bit words; NULL when not logging: dirty since it was last asked for, and so writable */
};

struct kvm_memslots {
    pthread_mutex_t mmu_lock;
    struct kvm_memslot *slots; /* by gpa */
    size_t count;
    uint64_t manual_dirty_protect; /* KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2's flags */
};

void kvm_memslots_init(struct kvm_memslots *memslots);
void kvm_memslots_fini(struct kvm_memslots *memslots);

/* KVM_SET_USER_MEMORY_REGION, KVM_GET_DIRTY_LOG, KVM_CLEAR_DIRTY_LOG; with the VM mutex held. */
KAGE_MUST_CHECK int kvm_memslot_set(struct kvm_vm *vm, const struct kvm_userspace_memory_region *region);
KAGE_MUST_CHECK int kvm_memslot_get_dirty(struct kvm_vm *vm, const struct kvm_dirty_log *log);
KAGE_MUST_CHECK int kvm_memslot_clear_dirty(struct kvm_vm *vm, const struct kvm_clear_dirty_log *log);

/* The slot that holds gpa, or NULL; MMU mutex held. */
struct kvm_memslot *kvm_memslot_find(struct kvm_memslots *memslots, gpa_t gpa);
struct kvm_memslot *kvm_memslot_by_id(struct kvm_memslots *memslots, uint32_t id);
/* A guest page of a slot with a dirty log is about to be written; false: there is no room to note it. MMU mutex held, as of the next. */
KAGE_MUST_CHECK bool kvm_memslot_note_write(struct kvm_vcpu *vcpu, struct kvm_memslot *slot, gpa_t gpa);
bool kvm_memslot_is_dirty(const struct kvm_memslot *slot, gpa_t gpa); /* and so writable; true without a log */
/* The guest address of a byte of the client's memory, in the first slot that has it; all ones if none has. */
gpa_t kvm_memslot_gpa(struct kvm_vm *vm, hva_t hva);
/* Every vCPU forgets its translations before it runs guest code again; VM mutex held. */
void kvm_memslot_flush_tlbs(struct kvm_vm *vm);
/* The largest EPT level (0 to 2) that one leaf may map gpa with inside its slot. */
unsigned kvm_memslot_level(const struct kvm_memslot *slot, gpa_t gpa);

/* cpu_ops.ept_violation. Called in the middle of guest code: uses nothing with vector registers. */
int kvm_memslot_ept_violation(struct cpu *cpu, gpa_t gpa, uint64_t qualification);

#endif
