/* SPDX-License-Identifier: MIT */
/*
 * The shadow MMU of a VM (see shadow_mmu.h): what it is told about memory, page faults, and roots.
 */
#include "kvm/shadow_mmu.h"

#include <errno.h>

#include "kvm/vcpu.h"
#include "mmu/noept.h"

_Static_assert(SHADOW_PTE_ADDR == NOEPT_ADDR && SHADOW_PTE_MMIO == NOEPT_MMIO && SHADOW_PTE_ROM == NOEPT_ROM,
               "the entries that are written are those that the processor reads");

#define PERMILLE 20u            /* shadow pages for a thousand of memory, as KVM_PERMILLE_MMU_PAGES */
#define TABLE_GONE (-EIO)        /* of the guest's, or no room to note that its bits were set: the exit is in the VMCS */
#define SPURIOUS_SUSPICIOUS 4u  /* as many in a row at one place: see is_implicit() */

void kvm_shadow_lock(struct kvm_vm *vm)
{
    pthread_mutex_lock(&vm->memslots.mmu_lock);
}

void kvm_shadow_unlock(struct kvm_vm *vm)
{
    struct shadow_stats stats;

    shadow_get_stats(vm->shadow, &stats);
    vm->counters->shadow = stats;
    pthread_mutex_unlock(&vm->memslots.mmu_lock);
}

/* ---- what the shadow MMU asks for ---- */

static int memory_frame(void *owner, uint64_t gfn, bool write, struct shadow_frame *out)
{
    struct kvm_vm *vm = owner;
    gpa_t gpa = gfn << KAGE_PAGE_SHIFT;
    struct kvm_memslot *slot = kvm_memslot_find(&vm->memslots, gpa);

    if (!slot)
        return -ENOENT;
    bool read_only = (slot->flags & KVM_MEM_READONLY) != 0;
    *out = (struct shadow_frame){ .host = (uint8_t *)(uintptr_t)(slot->hva + (gpa - slot->gpa)), .read_only = read_only,
                                  .max_level = kvm_memslot_level(slot, gpa) + 1, .may_write = !read_only };
    if (slot->dirty_bitmap && !read_only) {
        if (write && !kvm_memslot_note_write(vm->shadow_vcpu, slot, gpa))
            return -ENOSPC;
        out->may_write = kvm_memslot_is_dirty(slot, gpa);
    }
    return 0;
}

static bool memory_read(void *owner, gpa_t gpa, void *buf, size_t bytes)
{
    struct kvm_vm *vm = owner;
    struct kvm_memslot *slot = kvm_memslot_find(&vm->memslots, gpa);

    return slot && !kvm_copy_in(buf, (const void *)(uintptr_t)(slot->hva + (gpa - slot->gpa)), bytes);
}

static uint64_t ask_flush(void *owner)
{
    struct kvm_vm *vm = owner;
    uint64_t ticket = ++vm->shadow_ticket;

    for (unsigned i = 0; i < atomic_load(&vm->vcpu_count); i++)
        cpu_ask_flush(kvm_vm_vcpu(vm, i)->cpu, ticket);
    vm->counters->remote_tlb_flush_requests++;
    vm->counters->remote_tlb_flush++;
    return ticket;
}

static bool has_flushed(void *owner, uint64_t ticket)
{
    struct kvm_vm *vm = owner;

    for (unsigned i = 0; i < atomic_load(&vm->vcpu_count); i++)
        if (!cpu_has_flushed(kvm_vm_vcpu(vm, i)->cpu, ticket))
            return false;
    return true;
}

static const struct shadow_ops memory_ops = { memory_frame, memory_read, ask_flush, has_flushed };

int kvm_shadow_new(struct kvm_vm *vm)
{
    int err = shadow_new(&memory_ops, vm, &vm->shadow);

    if (!err)
        kvm_shadow_set_pages(vm);
    return err;
}

void kvm_shadow_free(struct kvm_vm *vm)
{
    shadow_free(vm->shadow);
    vm->shadow = NULL;
}

void kvm_shadow_vcpu_fini(struct kvm_vcpu *vcpu)
{
    if (!vcpu->vm->shadow)
        return;
    kvm_shadow_lock(vcpu->vm);
    shadow_drop_roots(vcpu->vm->shadow, &vcpu->shadow);
    kvm_shadow_unlock(vcpu->vm);
}

/* ---- memory that shadow pages may use again ---- */

static void reclaim(void *arg)
{
    struct kvm_vm *vm = arg;

    kvm_shadow_lock(vm);
    shadow_reclaim(vm->shadow);
    (void)ask_flush(vm); /* before any runs again */
    kvm_shadow_unlock(vm);
}

static void reclaim_alone(struct kvm_vcpu *vcpu)
{
    cpu_vm_exclusive(vcpu->vm->cpu_vm, vcpu->cpu, reclaim, vcpu->vm);
}

/* ---- roots ---- */

static uint64_t actual_cr3(const struct kvm_vcpu *vcpu)
{
    const struct cpu *cpu = vcpu->cpu;

    return shadow_root_address(&vcpu->shadow) | (cpu->vmcs.guest_cr4 & X86_CR4_PCIDE ? cpu->guest_cr3 & X86_CR3_PCID_MASK : 0);
}

static int set_root(struct kvm_vcpu *vcpu, bool sync, bool *kept)
{
    struct kvm_vm *vm = vcpu->vm;
    const struct paging_regime regime = walk_guest_regime(vcpu->cpu);
    int err;

    for (;;) {
        kvm_shadow_lock(vm);
        if (sync)
            shadow_sync(vm->shadow);
        err = shadow_set_root(vm->shadow, &vcpu->shadow, &regime, vcpu->cpu->has_1g_pages, kept);
        if (!err && !*kept && !sync)
            shadow_sync(vm->shadow); /* unknown here: what its TLB would hold cannot be said */
        kvm_shadow_unlock(vm);
        if (err != -EAGAIN)
            return err;
        reclaim_alone(vcpu);
    }
}

int kvm_shadow_enter(struct kvm_vcpu *vcpu)
{
    struct cpu *cpu = vcpu->cpu;
    const struct paging_regime regime = walk_guest_regime(cpu);
    bool kept;

    if (shadow_has_root(&vcpu->shadow, &regime, cpu->has_1g_pages) && cpu->vmcs.guest_cr3 == actual_cr3(vcpu))
        return 0;
    int err = set_root(vcpu, true, &kept);
    if (err)
        return err;
    cpu->vmcs.guest_cr3 = actual_cr3(vcpu);
    mmu_flush_all(cpu);
    mmu_switch_cr3(cpu, true);
    return 0;
}

int kvm_shadow_switch_cr3(struct kvm_vcpu *vcpu, bool noflush)
{
    bool kept;
    int err = set_root(vcpu, !noflush, &kept);

    if (err)
        return err;
    vcpu->cpu->vmcs.guest_cr3 = actual_cr3(vcpu);
    mmu_switch_cr3(vcpu->cpu, noflush && kept);
    return 0;
}

bool kvm_shadow_load_cr3(struct cpu *cpu, uint64_t cr3)
{
    cpu_fpu_save(cpu); /* it is in the middle of guest code */
    return cpu_load_cr3(cpu, cr3) && kvm_shadow_switch_cr3(cpu->owner, false) == 0;
}

void kvm_shadow_flush(struct kvm_vcpu *vcpu)
{
    if (vcpu->vm->shadow) {
        kvm_shadow_lock(vcpu->vm);
        shadow_sync(vcpu->vm->shadow);
        kvm_shadow_unlock(vcpu->vm);
    }
    mmu_flush_all(vcpu->cpu);
}

void kvm_shadow_restored(struct kvm_vcpu *vcpu)
{
    if (!vcpu->vm->shadow)
        return;
    kvm_shadow_lock(vcpu->vm);
    shadow_sync_forced(vcpu->vm->shadow);
    kvm_shadow_unlock(vcpu->vm);
}

/* ---- page faults ---- */

/*
 * The walk allows the access and everything is as it should be, and yet it faults again and again: it is one that SMAP forbids although EFLAGS.AC
 * is set, because the processor makes it by itself (SDM 3A 4.6.1). The error code does not tell.
 */
static bool is_implicit(struct kvm_vcpu *vcpu, gva_t va, bool spurious)
{
    bool again = spurious && vcpu->shadow_spurious_va == va && vcpu->shadow_spurious_rip == vcpu->cpu->vmcs.guest_rip;

    vcpu->shadow_spurious_va = va;
    vcpu->shadow_spurious_rip = vcpu->cpu->vmcs.guest_rip;
    vcpu->shadow_spurious_count = again ? vcpu->shadow_spurious_count + 1 : 0;
    return vcpu->shadow_spurious_count >= SPURIOUS_SUSPICIOUS;
}

static int map(struct kvm_vcpu *vcpu, gva_t va, const struct paging_regime *regime, const struct walk *w, bool write, bool user,
               bool in_guest, bool *spurious)
{
    struct kvm_vm *vm = vcpu->vm;
    int err;

    for (;;) {
        kvm_shadow_lock(vm);
        vm->shadow_vcpu = vcpu;
        *spurious = false;
        /* Without a root that fits, nothing is done: the next entry sees to that. */
        err = shadow_has_root(&vcpu->shadow, regime, vcpu->cpu->has_1g_pages)
                  ? shadow_map(vm->shadow, &vcpu->shadow, va, w, write, user, spurious) : 0;
        kvm_shadow_unlock(vm);
        if (err != -EAGAIN || in_guest)
            return err;
        reclaim_alone(vcpu);
    }
}

/* What an error code tells of the access; whether EFLAGS.AC counts for it is not in it. */
static void access_of(const struct kvm_vcpu *vcpu, uint32_t error, enum mmu_access *access, enum mmu_idx *idx)
{
    bool explicit_ac = cpu_cpl(vcpu->cpu) < 3 && (vcpu->cpu->vmcs.guest_rflags & X86_FLAGS_AC) != 0;

    *access = (error & X86_PF_W) != 0 ? MMU_WRITE : (error & X86_PF_I) != 0 ? MMU_FETCH : MMU_READ;
    *idx = (error & X86_PF_U) != 0 ? MMU_IDX_USER : explicit_ac ? MMU_IDX_KERNEL_USER : MMU_IDX_KERNEL;
}

/*
 * The guest's kernel writes, with CR0.WP 0, to a user's page that is read-only. The entry that allows it says that it is no user's page
 * (shadow_map.c), and so loses what SMAP forbids: where the guest has SMAP, there is none.
 */
static bool has_no_entry(const struct paging_regime *r, const struct walk *w)
{
    return (r->cr0 & (X86_CR0_PG | X86_CR0_WP)) == X86_CR0_PG && (r->cr4 & X86_CR4_SMAP) && (w->flags & MAP_USER) && !(w->flags & MAP_WRITE);
}

/* enum kvm_shadow_fault or -errno; -EAGAIN only if `in_guest`, where shadow pages cannot be waited for. */
static int fault(struct kvm_vcpu *vcpu, gva_t va, enum mmu_access access, enum mmu_idx idx, bool in_guest, uint32_t *error, gpa_t *gpa,
                 bool *spurious)
{
    struct cpu *cpu = vcpu->cpu;
    const struct paging_regime regime = walk_guest_regime(cpu);
    struct walk w;

    enum mmu_result r = mmu_walk(cpu, &regime, va, access, idx, 0, &w);
    if (r == MMU_EXIT)
        return TABLE_GONE;
    if (r != MMU_OK) {
        kvm_shadow_lock(vcpu->vm);
        shadow_sync_fault(vcpu->vm->shadow, &vcpu->shadow, va);
        kvm_shadow_unlock(vcpu->vm);
        *error = w.error;
        return KVM_SHADOW_GUEST;
    }
    if (access == MMU_WRITE && idx != MMU_IDX_USER && has_no_entry(&regime, &w)) {
        *gpa = w.gpa;
        return KVM_SHADOW_ONCE;
    }
    int err = map(vcpu, va, &regime, &w, access == MMU_WRITE, idx == MMU_IDX_USER, in_guest, spurious);
    if (err)
        return err == -ENOSPC ? KVM_SHADOW_NO_ROOM : err;
    ++*(*spurious ? &vcpu->counters->pf_spurious : &vcpu->counters->pf_fixed);
    return KVM_SHADOW_FIXED;
}

int kvm_shadow_fault(struct kvm_vcpu *vcpu, gva_t va, uint32_t *error)
{
    enum mmu_access access;
    enum mmu_idx idx;
    bool spurious = false;
    gpa_t gpa;

    access_of(vcpu, *error, &access, &idx);
    vcpu->counters->pf_taken++;
    int result = fault(vcpu, va, access, idx, false, error, &gpa, &spurious);
    if (result == KVM_SHADOW_FIXED && is_implicit(vcpu, va, spurious) && idx == MMU_IDX_KERNEL_USER)
        result = fault(vcpu, va, access, MMU_IDX_KERNEL, false, error, &gpa, &spurious);
    vcpu->counters->pf_guest += result == KVM_SHADOW_GUEST;
    return result != TABLE_GONE ? result : kvm_dirty_ring_is_full(vcpu) ? KVM_SHADOW_NO_ROOM : -EFAULT;
}

int kvm_shadow_mend(struct cpu *cpu, gva_t va, enum mmu_access access, enum mmu_idx idx, uint32_t *error, gpa_t *gpa)
{
    struct kvm_vcpu *vcpu = cpu->owner;
    bool spurious = false;
    int result = fault(vcpu, va, access, idx, true, error, gpa, &spurious);

    if (result != KVM_SHADOW_FIXED && result != KVM_SHADOW_GUEST && result != KVM_SHADOW_ONCE)
        return result == TABLE_GONE ? CPU_PF_GONE : CPU_PF_EXITS; /* it is counted then */
    vcpu->counters->pf_taken++;
    vcpu->counters->pf_guest += result == KVM_SHADOW_GUEST;
    return result == KVM_SHADOW_FIXED ? CPU_PF_MENDED : result == KVM_SHADOW_ONCE ? CPU_PF_ONCE : CPU_PF_GUEST;
}

int kvm_shadow_memory_gone(struct kvm_vcpu *vcpu, gva_t va)
{
    kvm_error_set(&vcpu->error, "vCPU %u: the memory behind the tables of linear address 0x%llx is gone (rip 0x%llx)", vcpu->id,
                  (unsigned long long)va, (unsigned long long)vcpu->cpu->vmcs.guest_rip);
    return -EFAULT;
}

int kvm_shadow_page_fault(struct kvm_vcpu *vcpu)
{
    gva_t va = vcpu->cpu->vmcs.exit_qualification;
    uint32_t error = vcpu->cpu->vmcs.exit_intr_error_code;
    int result = kvm_shadow_fault(vcpu, va, &error);

    if (result == KVM_SHADOW_GUEST)
        kvm_event_queue_page_fault(vcpu, va, error);
    if (result == -EFAULT)
        return kvm_shadow_memory_gone(vcpu, va);
    return result < 0 ? result : KVM_RUN_ENTER; /* a ring without room: the loop finds it full */
}

bool kvm_shadow_guest_page(struct cpu *cpu, const uint64_t *entry, hva_t page, gpa_t *gpa)
{
    struct kvm_vcpu *vcpu = cpu->owner;

    pthread_mutex_lock(&vcpu->vm->memslots.mmu_lock);
    bool there = shadow_entry_gpa(entry, page, gpa);
    pthread_mutex_unlock(&vcpu->vm->memslots.mmu_lock);
    return there;
}

/* ---- memory slots ---- */

void kvm_shadow_slot_gone(struct kvm_vm *vm, gpa_t gpa, uint64_t bytes)
{
    if (vm->shadow)
        shadow_drop_range(vm->shadow, gpa >> KAGE_PAGE_SHIFT, bytes >> KAGE_PAGE_SHIFT);
}

void kvm_shadow_slot_new(struct kvm_vm *vm)
{
    if (vm->shadow)
        shadow_drop_mmio(vm->shadow);
}

void kvm_shadow_protect(struct kvm_vm *vm, gpa_t gpa, uint64_t mask)
{
    for (; vm->shadow && mask; mask &= mask - 1)
        shadow_write_protect(vm->shadow, (gpa >> KAGE_PAGE_SHIFT) + (unsigned)__builtin_ctzll(mask), 1);
}

void kvm_shadow_set_pages(struct kvm_vm *vm)
{
    uint64_t pages = 0;

    if (!vm->mmu_pages_asked) {
        for (size_t i = 0; i < vm->memslots.count; i++)
            pages += vm->memslots.slots[i].bytes >> KAGE_PAGE_SHIFT;
        pages = pages * PERMILLE / 1000;
        vm->mmu_pages = (uint32_t)(pages < SHADOW_MIN_PAGES ? SHADOW_MIN_PAGES : pages < UINT32_MAX / 2 ? pages : UINT32_MAX / 2);
    }
    if (vm->shadow)
        shadow_set_max_pages(vm->shadow, vm->mmu_pages);
}

void kvm_shadow_written(struct kvm_vcpu *vcpu, gpa_t gpa, size_t bytes)
{
    if (!vcpu->vm->shadow || !bytes)
        return;
    kvm_shadow_lock(vcpu->vm);
    for (uint64_t gfn = gpa >> KAGE_PAGE_SHIFT; gfn <= (gpa + bytes - 1) >> KAGE_PAGE_SHIFT; gfn++)
        shadow_frame_written(vcpu->vm->shadow, gfn);
    kvm_shadow_unlock(vcpu->vm);
}
