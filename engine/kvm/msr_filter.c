/* SPDX-License-Identifier: MIT */
/*
 * KVM_X86_SET_MSR_FILTER: which MSR accesses of the guest are denied, so that they raise #GP or go to
 * the client (KVM_CAP_X86_USER_SPACE_MSR). A filter is immutable once installed.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kvm/vcpu.h"

struct kvm_msr_filter_set {
    struct kvm_msr_filter_set *next_retired;
    bool default_allow;
    unsigned count;
    struct {
        uint32_t flags, base, nmsrs;
        uint8_t *bitmap;
    } ranges[KVM_MSR_FILTER_MAX_RANGES];
};

static void filter_free(struct kvm_msr_filter_set *set)
{
    if (!set)
        return;
    for (unsigned i = 0; i < set->count; i++)
        free(set->ranges[i].bitmap);
    free(set);
}

void kvm_msr_filter_fini(struct kvm_vm *vm)
{
    filter_free(atomic_load(&vm->msr_filter));
    while (vm->msr_filter_retired) {
        struct kvm_msr_filter_set *set = vm->msr_filter_retired;
        vm->msr_filter_retired = set->next_retired;
        filter_free(set);
    }
}

bool kvm_msr_filter_allows(struct kvm_vm *vm, uint32_t index, uint32_t access)
{
    const struct kvm_msr_filter_set *set = atomic_load_explicit(&vm->msr_filter, memory_order_acquire);

    if (!set || (index >= MSR_X2APIC_FIRST && index <= MSR_X2APIC_LAST))
        return true; /* x2APIC MSRs are never filtered (api.rst 4.97) */
    for (unsigned i = 0; i < set->count; i++) {
        uint32_t offset = index - set->ranges[i].base;
        if ((set->ranges[i].flags & access) && index >= set->ranges[i].base && offset < set->ranges[i].nmsrs)
            return (set->ranges[i].bitmap[offset / 8] >> (offset % 8)) & 1;
    }
    return set->default_allow;
}

static int filter_add_range(struct kvm_msr_filter_set *set, const struct kvm_msr_filter_range *range)
{
    size_t bytes = ((size_t)range->nmsrs + 63) / 64 * 8;

    if (!range->nmsrs)
        return 0;
    if ((range->flags & ~(uint32_t)(KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE)) || !range->flags ||
        bytes > KVM_MSR_FILTER_MAX_BITMAP_SIZE)
        return -EINVAL;
    uint8_t *bitmap = malloc(bytes);
    if (!bitmap)
        return -ENOMEM;
    if (kvm_copy_in(bitmap, range->bitmap, bytes)) { /* whole words, as the kernel reads them */
        free(bitmap);
        return -EFAULT;
    }
    set->ranges[set->count].flags = range->flags;
    set->ranges[set->count].base = range->base;
    set->ranges[set->count].nmsrs = range->nmsrs;
    set->ranges[set->count].bitmap = bitmap;
    set->count++;
    return 0;
}

int kvm_vm_set_msr_filter(struct kvm_object *object, void *arg)
{
    struct kvm_vm *vm = kvm_vm_of(object);
    const struct kvm_msr_filter *filter = arg;
    bool deny = (filter->flags & KVM_MSR_FILTER_DEFAULT_DENY) != 0, empty = true;
    int err = 0;

    if (filter->flags & ~(uint32_t)KVM_MSR_FILTER_DEFAULT_DENY)
        return -EINVAL;
    for (unsigned i = 0; i < KVM_MSR_FILTER_MAX_RANGES; i++)
        empty = empty && !filter->ranges[i].nmsrs;
    if (empty && deny)
        return -EINVAL;
    struct kvm_msr_filter_set *set = calloc(1, sizeof(*set));
    if (!set)
        return -ENOMEM;
    set->default_allow = !deny;
    for (unsigned i = 0; i < KVM_MSR_FILTER_MAX_RANGES && !err; i++)
        err = filter_add_range(set, &filter->ranges[i]);
    if (err) {
        filter_free(set);
        return err;
    }
    pthread_mutex_lock(&vm->lock);
    struct kvm_msr_filter_set *old = atomic_exchange(&vm->msr_filter, set);
    if (old) { /* a vCPU may be reading it */
        old->next_retired = vm->msr_filter_retired;
        vm->msr_filter_retired = old;
    }
    pthread_mutex_unlock(&vm->lock);
    for (unsigned i = 0; i < atomic_load(&vm->vcpu_count); i++)
        kvm_vcpu_request(kvm_vm_vcpu(vm, i), KVM_REQ_MSR_FILTER);
    return 0;
}
