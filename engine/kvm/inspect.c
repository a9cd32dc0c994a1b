/* SPDX-License-Identifier: MIT */
/*
 * The extension ioctls of kage.h: statistics by name, the VMCS as text and by field, last errors.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "kage.h"
#include "kvm/vcpu.h"
#include "mmu/ept.h"
#include "vmx/vmx.h"

/* Names of enum cpu_stat, which are part of kage.h's contract. */
static const char *const cpu_stat_names[CPU_STAT_COUNT] = {
    [CPU_STAT_BLOCKS_TRANSLATED] = "blocks_translated",
    [CPU_STAT_GUEST_BYTES] = "guest_bytes",
    [CPU_STAT_HOST_BYTES] = "host_bytes",
    [CPU_STAT_GUEST_INSNS] = "guest_insns",
    [CPU_STAT_DISPATCHES] = "dispatches",
    [CPU_STAT_JUMP_MISSES] = "jump_misses",
    [CPU_STAT_TLB_MISSES] = "tlb_misses",
    [CPU_STAT_TLB2_MISSES] = "tlb2_misses",
    [CPU_STAT_TLB_FLUSHES] = "tlb_flushes",
    [CPU_STAT_TLB_FLUSH_PAGES] = "tlb_flush_pages",
    [CPU_STAT_SLOW_ACCESSES] = "slow_accesses",
    [CPU_STAT_SMC_INVALIDATIONS] = "smc_invalidations",
    [CPU_STAT_EXCEPTIONS] = "exceptions",
    [CPU_STAT_INTERRUPTS] = "interrupts",
    [CPU_STAT_HELPER_CALLS] = "helper_calls",
    [CPU_STAT_HOST_FAULTS] = "host_faults",
    [CPU_STAT_LINKS] = "links",
    [CPU_STAT_CODE_FLUSHES] = "code_flushes",
};

struct stat_writer {
    struct kage_stats *out;
    uint32_t room, count;
};

static void stat_add(struct stat_writer *w, const char *name, uint64_t value)
{
    if (w->count < w->room) {
        struct kage_stat *entry = &w->out->entries[w->count];
        memset(entry, 0, sizeof(*entry));
        snprintf(entry->name, sizeof(entry->name), "%s", name);
        entry->value = value;
    }
    w->count++;
}

static int stat_end(struct stat_writer *w)
{
    w->out->count = w->count;
    return w->count <= w->room ? 0 : -E2BIG;
}

int kvm_vcpu_get_stats(struct kvm_object *object, void *arg)
{
    const struct kvm_vcpu *vcpu = kvm_vcpu_of(object);
    struct stat_writer w = { .out = arg, .room = ((struct kage_stats *)arg)->count };

    for (size_t i = 0; i < CPU_STAT_COUNT; i++)
        if (cpu_stat_names[i])
            stat_add(&w, cpu_stat_names[i], vcpu->cpu->stats[i]);
    stat_add(&w, "exits", vcpu->exits);
    stat_add(&w, "user_exits", vcpu->user_exits);
    stat_add(&w, "signal_exits", vcpu->signal_exits);
    stat_add(&w, "halts", vcpu->halts);
    stat_add(&w, "halt_ns", vcpu->halt_ns);
    stat_add(&w, "irq_injections", vcpu->irq_injections);
    stat_add(&w, "nmi_injections", vcpu->nmi_injections);
    for (uint32_t reason = 0; reason < VMX_EXIT_COUNT; reason++) {
        char name[40];
        if (!vcpu->exits_by_reason[reason])
            continue;
        snprintf(name, sizeof(name), "exit_%s", vmx_exit_reason_name(reason));
        for (char *c = name; *c; c++)
            *c = *c >= 'A' && *c <= 'Z' ? (char)(*c - 'A' + 'a') : *c == ' ' || *c == '-' || *c == '/' ? '_' : *c;
        stat_add(&w, name, vcpu->exits_by_reason[reason]);
    }
    return stat_end(&w);
}

int kvm_vm_get_stats(struct kvm_object *object, void *arg)
{
    struct kvm_vm *vm = kvm_vm_of(object);
    struct stat_writer w = { .out = arg, .room = ((struct kage_stats *)arg)->count };
    struct ept_stats ept;

    pthread_mutex_lock(&vm->lock);
    pthread_mutex_lock(&vm->memslots.mmu_lock);
    ept_get_stats(vm->ept, &ept);
    stat_add(&w, "memory_slots", vm->memslots.count);
    pthread_mutex_unlock(&vm->memslots.mmu_lock);
    pthread_mutex_unlock(&vm->lock);
    stat_add(&w, "ept_table_pages", ept.table_pages);
    stat_add(&w, "ept_pages_4k", ept.pages_4k);
    stat_add(&w, "ept_pages_2m", ept.pages_2m);
    stat_add(&w, "ept_pages_1g", ept.pages_1g);
    stat_add(&w, "vcpus", atomic_load(&vm->vcpu_count));
    return stat_end(&w);
}

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
    struct kage_text *text = arg;
    size_t length = 0, room = text->bytes;

    if (room)
        text->text[0] = 0;
    for (size_t i = 0; i < vmcs_fields_len; i++) {
        char line[96];
        uint64_t value;
        if (vmcs_read(vmcs, vmcs_fields[i].encoding, &value))
            continue;
        size_t n = (size_t)snprintf(line, sizeof(line), "%s 0x%04x = 0x%llx\n", vmcs_fields[i].name,
                                    vmcs_fields[i].encoding, (unsigned long long)value);
        if (n >= sizeof(line))
            n = sizeof(line) - 1;
        if (length + n < room)
            memcpy(text->text + length, line, n + 1);
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
