/* SPDX-License-Identifier: MIT */
/*
 * Inspection (kage_inspect.h): what inspect.c, which dispatches, shares with the files of the topics.
 */
#ifndef KAGE_KVM_INSPECT_H
#define KAGE_KVM_INSPECT_H

#include "kage_inspect.h"
#include "kvm/vcpu.h"

/* The answer in the making: elements of one size, as many as fit. */
struct inspect_answer {
    uint8_t *at;
    size_t room, used;
    uint32_t count; /* of all, those without room too */
};

/* A request with its answer. `vcpu` is set for the topics that are a vCPU's. */
struct inspect {
    struct kvm_vm *vm;
    struct kvm_vcpu *vcpu;
    struct kage_inspect *ask;
    struct inspect_answer answer;
};

/* Appends an element, if there is room. */
void inspect_add(struct inspect *inspect, const void *element, size_t bytes);

/* A topic: 0 or -errno. */
typedef int inspect_topic(struct inspect *inspect);

/* inspect_mmu.c */
inspect_topic inspect_walk, inspect_tables, inspect_ranges, inspect_tlb, inspect_slots, inspect_shadow;

/* inspect_call.c */

/*
 * Calls fn while the vCPU is between two VM exits: on its own thread if that is in KVM_RUN, else here with its mutex. 0,
 * or -ETIMEDOUT: its thread did not come by. fn must be short, must not wait for a vCPU, and uses no vector registers.
 */
KAGE_MUST_CHECK int kvm_inspect_call(struct kvm_vcpu *vcpu, void (*fn)(void *), void *arg);
/* The vCPU's thread, between two exits, has seen KVM_REQ_INSPECT. */
void kvm_inspect_serve(struct kvm_vcpu *vcpu);

kvm_ioctl_fn kvm_vm_inspect; /* KAGE_INSPECT */
/* A VM without handles is about to be freed: waits until nobody looks at it any more. */
void kvm_inspect_leave(struct kvm_vm *vm);

#endif
