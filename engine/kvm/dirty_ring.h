/* SPDX-License-Identifier: MIT */
/*
 * KVM_CAP_DIRTY_LOG_RING(_ACQ_REL) (api.rst 8.29): instead of a bitmap for each slot the client gets a ring for each vCPU,
 * mapped behind its struct kvm_run, with one entry for each page that became dirty.
 *
 *     flags of an entry:   0 free  ->  DIRTY (we publish)  ->  RESET (the client has taken it)  ->  0 (KVM_RESET_DIRTY_RINGS)
 *
 * A slot's bitmap stays, as the engine's own note of which pages are in a ring and writable.
 */
#ifndef KAGE_KVM_DIRTY_RING_H
#define KAGE_KVM_DIRTY_RING_H

#include <pthread.h>

#include "kvm/object.h"

struct kvm_memslot;
struct kvm_vcpu;
struct kvm_vm;

#define KVM_DIRTY_RING_MAX_BYTES (65536u * sizeof(struct kvm_dirty_gfn))

/* MMU mutex held. */
struct kvm_dirty_ring {
    struct kvm_dirty_gfn *gfns; /* the client writes here too; NULL: no ring */
    uint32_t entries;           /* a power of two */
    uint32_t dirty_index, reset_index;
};

/* KVM_ENABLE_CAP; VM mutex held. */
KAGE_MUST_CHECK int kvm_dirty_ring_enable(struct kvm_vm *vm, uint64_t bytes);
/* Maps a new vCPU's ring from its file; nothing if the VM has none. 0 or -errno. */
KAGE_MUST_CHECK int kvm_dirty_ring_map(struct kvm_vcpu *vcpu, int fd);
void kvm_dirty_ring_unmap(struct kvm_vcpu *vcpu);
/* Bytes of a vCPU's file up to the ring's end. */
size_t kvm_dirty_ring_file_bytes(const struct kvm_vm *vm);

/* One page became dirty. False: no room; the page must stay write-protected. by_guest: it must leave room for the engine. */
bool kvm_dirty_ring_push(struct kvm_vcpu *vcpu, const struct kvm_memslot *slot, uint64_t page, bool by_guest);
/* The vCPU must not run before the client has made room: KVM_EXIT_DIRTY_RING_FULL. */
bool kvm_dirty_ring_is_full(const struct kvm_vcpu *vcpu);

kvm_ioctl_fn kvm_vm_reset_dirty_rings;

#endif
