/* SPDX-License-Identifier: MIT */
/*
 * The choice of an MMU as a client makes it, in the KVM API's own words: it holds for every back end.
 */
#include <errno.h>
#include <string.h>

#include "kage.h"

static const char *const mmu_names[] = { [KAGE_MMU_EPT] = "ept", [KAGE_MMU_SHADOW] = "shadow" };
#define MMUS ((int)(sizeof(mmu_names) / sizeof(mmu_names[0])))

int kage_mmu_find(const char *name)
{
    for (int i = 0; i < MMUS; i++)
        if (strcmp(mmu_names[i], name) == 0)
            return i;
    return -1;
}

const char *kage_mmu_name(int mmu)
{
    return mmu >= 0 && mmu < MMUS ? mmu_names[mmu] : NULL;
}

int kage_vm_set_mmu(const struct kvm_backend *backend, int vm, int mmu)
{
    struct kvm_enable_cap cap = { .cap = KVM_CAP_KAGE_MMU, .args = { (uint64_t)mmu } };
    int offered = backend->ioctl(vm, KVM_CHECK_EXTENSION, (void *)(uintptr_t)KVM_CAP_KAGE_MMU);

    if (offered < 0)
        return -1;
    if (mmu < 0 || mmu >= MMUS || !(offered & 1 << mmu)) {
        errno = EOPNOTSUPP;
        return -1;
    }
    return backend->ioctl(vm, KVM_ENABLE_CAP, &cap);
}
