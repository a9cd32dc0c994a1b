/* SPDX-License-Identifier: MIT */
/*
 * The extension ioctls of kage.h that show the VMCS and last errors (statistics: stats.c), and KAGE_INSPECT (kage_inspect.h):
 * finding the VM and the vCPU, and the topics that need no table walked.
 */
#include "kvm/inspect.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mmu/ept.h"
#include "mmu/inspect.h"
#include "vmx/vmx.h"

int kvm_vm_get_error(struct kvm_object *object, void *arg)
{
    return kvm_error_get(&kvm_vm_of(object)->error, arg);
}

int kvm_vcpu_get_error(struct kvm_object *object, void *arg)
{
    return kvm_error_get(&kvm_vcpu_of(object)->error, arg);
}

int kvm_vcpu_dump_vmcs(struct kvm_object *object, void *arg)
{
    const struct vmcs *vmcs = &kvm_vcpu_of(object)->cpu->vmcs;
    struct kage_text *client = arg;
    size_t length = 0;
    uint32_t room;

    if (kvm_copy_in(&room, &client->bytes, sizeof(room)) || (room && kvm_copy_out(client->text, "", 1)))
        return -EFAULT;
    for (size_t i = 0; i < vmcs_fields_len; i++) {
        char line[96];
        uint64_t value;
        if (vmcs_read(vmcs, vmcs_fields[i].encoding, &value))
            continue;
        size_t n = (size_t)snprintf(line, sizeof(line), "%s 0x%04x = 0x%llx\n", vmcs_fields[i].name,
                                    vmcs_fields[i].encoding, (unsigned long long)value);
        if (n >= sizeof(line))
            n = sizeof(line) - 1;
        if (length + n < room && kvm_copy_out(client->text + length, line, n + 1))
            return -EFAULT;
        length += n;
    }
    return (int)length;
}

int kvm_vcpu_vmread(struct kvm_object *object, void *arg)
{
    struct kage_vmcs_field *field = arg;
    uint64_t value = 0;
    int err = vmcs_read(&kvm_vcpu_of(object)->cpu->vmcs, field->encoding, &value);

    field->value = value;
    return err;
}

/* ---- KAGE_INSPECT ---- */

/* libc's functions use vector registers, which at a vCPU's safe point are the guest's no more; strings are copied by hand all the same. */
static void copy_name(char *to, size_t room, const char *name)
{
    size_t n = 0;

    for (; n + 1 < room && name[n]; n++)
        to[n] = name[n];
    memset(to + n, 0, room - n);
}

void inspect_add(struct inspect *inspect, const void *element, size_t bytes)
{
    struct inspect_answer *answer = &inspect->answer;

    answer->count++;
    if (answer->room - answer->used < bytes)
        return;
    memcpy(answer->at + answer->used, element, bytes);
    answer->used += bytes;
}

static unsigned count_vms(void);

static bool count_page(void *arg, const struct shadow_page_info *info)
{
    (void)info;
    ++*(uint64_t *)arg;
    return true;
}

static int inspect_vm(struct inspect *inspect)
{
    struct kvm_vm *vm = inspect->vm;
    struct kvm_memslots *memslots = &vm->memslots;
    struct kage_inspect_vm out = { .mmu = vm->mmu, .vms = count_vms(), .vcpus = atomic_load(&vm->vcpu_count) };

    pthread_mutex_lock(&memslots->mmu_lock);
    out.slots = (uint32_t)memslots->count;
    for (size_t i = 0; i < memslots->count; i++)
        out.memory_bytes += memslots->slots[i].bytes;
    if (vm->shadow) {
        struct shadow_stats stats;
        shadow_get_stats(vm->shadow, &stats);
        shadow_each_page(vm->shadow, count_page, &out.table_pages); /* stats.pages counts those too that wait to be used again */
        out.max_table_pages = stats.max_pages;
        out.pages[0] = stats.pages_4k;
        out.pages[1] = stats.pages_2m;
        out.pages[2] = stats.pages_1g;
    } else {
        struct ept_stats stats;
        ept_get_stats(vm->ept, &stats);
        out.ept_pointer = ept_pointer(vm->ept);
        out.table_pages = stats.table_pages;
        out.pages[0] = stats.pages_4k;
        out.pages[1] = stats.pages_2m;
        out.pages[2] = stats.pages_1g;
    }
    pthread_mutex_unlock(&memslots->mmu_lock);
    inspect_add(inspect, &out, sizeof(out));
    return 0;
}

static void vcpu_look(void *arg)
{
    struct inspect *inspect = arg;
    const struct kvm_vcpu *vcpu = inspect->vcpu;
    const struct cpu *cpu = vcpu->cpu;
    const struct vmcs *vmcs = &cpu->vmcs;
    struct kage_inspect_vcpu out = {
        .rip = vmcs->guest_rip, .rflags = vmcs->guest_rflags, .cr0 = cpu_guest_cr0(cpu), .cr2 = cpu->cr2,
        .cr3 = cpu_guest_cr3(cpu), .cr4 = cpu_guest_cr4(cpu), .cr8 = kvm_vcpu_cr8(vcpu), .efer = cpu_guest_efer(cpu), .xcr0 = cpu->xcr0,
        .actual_cr0 = vmcs->guest_cr0, .actual_cr3 = vmcs->guest_cr3, .actual_cr4 = vmcs->guest_cr4,
        .actual_efer = vmcs->guest_ia32_efer, .cs_base = vmcs->guest_seg[X86_CS].base,
        .cs_selector = vmcs->guest_seg[X86_CS].selector, .tsc_offset = cpu->tsc_offset, .exits = vcpu->counters->exits,
        .id = vcpu->id, .mp_state = vcpu->mp_state, .cpl = cpu->mode & CPU_MODE_CPL, .in_run = vcpu->in_run,
        .code_bits = cpu_in_64bit_code(cpu) ? 64 : cpu->mode & CPU_MODE_DB ? 32 : 16, .exit_reason = vmcs->exit_reason,
    };

    memcpy(out.gpr, cpu->gpr, sizeof(out.gpr));
    out.gpr[X86_RSP] = vmcs->guest_rsp;
    copy_name(out.exit_name, sizeof(out.exit_name), vmx_exit_reason_name(vmcs->exit_reason & 0xffff));
    inspect_add(inspect, &out, sizeof(out));
}

static int inspect_vcpu(struct inspect *inspect)
{
    return kvm_inspect_call(inspect->vcpu, vcpu_look, inspect);
}

static void vmcs_look(void *arg)
{
    struct inspect *inspect = arg;

    for (size_t i = 0; i < vmcs_fields_len; i++) {
        struct kage_inspect_field out = { .encoding = vmcs_fields[i].encoding, .width = vmcs_fields[i].width,
                                          .read_only = vmcs_fields[i].read_only };
        uint64_t value = 0;
        if (vmcs_read(&inspect->vcpu->cpu->vmcs, out.encoding, &value))
            continue;
        out.value = value;
        copy_name(out.name, sizeof(out.name), vmcs_fields[i].name);
        inspect_add(inspect, &out, sizeof(out));
    }
}

static int inspect_vmcs(struct inspect *inspect)
{
    return kvm_inspect_call(inspect->vcpu, vmcs_look, inspect);
}

static int inspect_exits(struct inspect *inspect)
{
    const uint64_t *counts = inspect->vcpu->counters->exit;

    for (uint32_t reason = 0; reason < VMX_EXIT_COUNT; reason++) {
        struct kage_inspect_exit out = { .reason = reason, .count = __atomic_load_n(&counts[reason], __ATOMIC_RELAXED) };
        if (!out.count)
            continue;
        copy_name(out.name, sizeof(out.name), vmx_exit_reason_name(reason));
        inspect_add(inspect, &out, sizeof(out));
    }
    return 0;
}

static int inspect_stats(struct inspect *inspect)
{
    enum { ROOM = 512 };
    struct kage_stats *stats = calloc(1, sizeof(*stats) + ROOM * sizeof(stats->entries[0]));

    if (!stats)
        return -ENOMEM;
    stats->count = ROOM;
    int err = inspect->vcpu ? kvm_vcpu_get_stats(&inspect->vcpu->object, stats) : kvm_vm_get_stats(&inspect->vm->object, stats);
    for (uint32_t i = 0; !err && i < stats->count; i++)
        inspect_add(inspect, &stats->entries[i], sizeof(stats->entries[i]));
    free(stats);
    return err;
}

enum topic_needs { NEEDS_VM, NEEDS_VCPU, NEEDS_EITHER };

static const struct {
    inspect_topic *look;
    enum topic_needs needs;
} topics[KAGE_INSPECT_TOPICS] = {
    [KAGE_INSPECT_VM] = { inspect_vm, NEEDS_VM },
    [KAGE_INSPECT_VCPU] = { inspect_vcpu, NEEDS_VCPU },
    [KAGE_INSPECT_VMCS] = { inspect_vmcs, NEEDS_VCPU },
    [KAGE_INSPECT_WALK] = { inspect_walk, NEEDS_VCPU },
    [KAGE_INSPECT_TABLES] = { inspect_tables, NEEDS_VM },
    [KAGE_INSPECT_RANGES] = { inspect_ranges, NEEDS_VM },
    [KAGE_INSPECT_TLB] = { inspect_tlb, NEEDS_VCPU },
    [KAGE_INSPECT_SLOTS] = { inspect_slots, NEEDS_VM },
    [KAGE_INSPECT_EXITS] = { inspect_exits, NEEDS_VCPU },
    [KAGE_INSPECT_STATS] = { inspect_stats, NEEDS_EITHER },
    [KAGE_INSPECT_SHADOW] = { inspect_shadow, NEEDS_VM },
};

static int inspect_object(struct kvm_vm *vm, struct kage_inspect *ask)
{
    struct inspect inspect = { .vm = vm, .ask = ask };

    if (ask->topic >= KAGE_INSPECT_TOPICS || (ask->flags & ~KAGE_INSPECT_GPA))
        return -EINVAL;
    enum topic_needs needs = topics[ask->topic].needs;
    if (needs == NEEDS_VCPU || (needs == NEEDS_EITHER && ask->vcpu != KAGE_INSPECT_WHOLE_VM)) {
        if (ask->vcpu >= atomic_load(&vm->vcpu_count))
            return -EINVAL;
        inspect.vcpu = kvm_vm_vcpu(vm, ask->vcpu);
    }
    inspect.answer.room = ask->bytes < KAGE_INSPECT_MAX_BYTES ? ask->bytes : KAGE_INSPECT_MAX_BYTES;
    inspect.answer.at = calloc(1, inspect.answer.room + 1);
    if (!inspect.answer.at)
        return -ENOMEM;
    int err = topics[ask->topic].look(&inspect);
    if (!err && kvm_copy_out((void *)(uintptr_t)ask->data, inspect.answer.at, inspect.answer.used))
        err = -EFAULT;
    free(inspect.answer.at);
    ask->bytes = (uint32_t)inspect.answer.used;
    ask->count = inspect.answer.count;
    return err;
}

int kvm_vm_inspect(struct kvm_object *object, void *arg)
{
    return inspect_object(kvm_vm_of(object), arg);
}

/* ---- kage_inspect() ---- */

/* Of the VMs that have a handle, or a vCPU's, in this process, the oldest one after a given. */
struct next_vm {
    uint64_t after;
    struct kvm_vm *vm;
};

static void next_vm_look(struct kvm_object *object, void *arg)
{
    struct next_vm *next = arg;
    struct kvm_vm *vm = object->kind == KVM_KIND_VM ? kvm_vm_of(object) : object->kind == KVM_KIND_VCPU ? kvm_vcpu_of(object)->vm : NULL;

    if (!vm || vm->object.serial <= next->after || (next->vm && next->vm->object.serial <= vm->object.serial))
        return;
    /* Not a reference: the last of those closes descriptors, which is for a thread that has them. */
    if (next->vm)
        atomic_fetch_sub(&next->vm->inspectors, 1);
    atomic_fetch_add(&vm->inspectors, 1);
    next->vm = vm;
}

/* The VM of a number, kept by `inspectors`, or NULL; `count`: of those before it. */
static struct kvm_vm *find_vm(unsigned number, unsigned *count)
{
    struct next_vm next = { 0 };

    for (*count = 0;; ++*count) {
        next.vm = NULL;
        kvm_handle_each(next_vm_look, &next);
        if (!next.vm || *count == number)
            return next.vm;
        next.after = next.vm->object.serial;
        atomic_fetch_sub(&next.vm->inspectors, 1);
    }
}

static unsigned count_vms(void)
{
    unsigned count;

    (void)find_vm(UINT_MAX, &count);
    return count;
}

void kvm_inspect_leave(struct kvm_vm *vm)
{
    while (atomic_load(&vm->inspectors))
        usleep(100);
}

int kage_inspect(struct kage_inspect *ask)
{
    unsigned before;
    struct kvm_vm *vm = find_vm(ask->vm, &before);
    int err = -ENODEV;

    if (vm) {
        err = inspect_object(vm, ask);
        atomic_fetch_sub(&vm->inspectors, 1);
    }
    if (!err)
        return 0;
    errno = -err;
    return -1;
}
