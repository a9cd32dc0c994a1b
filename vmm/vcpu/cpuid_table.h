/* SPDX-License-Identifier: MIT */
/*
 * A table for KVM_SET_CPUID2 under construction, or as KVM_GET_CPUID2 gives it. Private to the cpuid*.c files and state.c.
 */
#ifndef KAGE_VCPU_CPUID_TABLE_H
#define KAGE_VCPU_CPUID_TABLE_H

#include <stdint.h>

#include <kage.h>

#include "vcpu/cpu_model.h"
#include "vcpu/topology.h"

#define CPUID_ENTRIES_MAX 100 /* kvmtool's number: back ends know clients that give no more */

/* kvm_cpuid2 ends in its entries: `room` is where they lie. */
union cpuid_table {
    struct kvm_cpuid2 head;
    uint8_t room[sizeof(struct kvm_cpuid2) + CPUID_ENTRIES_MAX * sizeof(struct kvm_cpuid_entry2)];
};

static inline uint32_t *cpuid_word(struct kvm_cpuid_entry2 *entry, unsigned reg)
{
    uint32_t *const words[] = {&entry->eax, &entry->ebx, &entry->ecx, &entry->edx};
    return words[reg];
}

static inline struct kvm_cpuid_entry2 *cpuid_find(union cpuid_table *table, uint32_t leaf, uint32_t subleaf)
{
    for (uint32_t i = 0; i < table->head.nent; i++) {
        if (table->head.entries[i].function == leaf && table->head.entries[i].index == subleaf) {
            return &table->head.entries[i];
        }
    }
    return NULL;
}

/* The entry, made of zeros if it is not there; NULL: no room. `flags` of a new one: KVM_CPUID_FLAG_*. */
struct kvm_cpuid_entry2 *cpuid_need(union cpuid_table *table, uint32_t leaf, uint32_t subleaf, uint32_t flags);
/* Removes the leaves from first to last. */
void cpuid_remove(union cpuid_table *table, uint32_t first, uint32_t last);

/* What a model is apart from its features: vendor, signature, name, caches, levels. 0 or -1: no room (cpuid_model.c). */
int cpuid_set_identity(union cpuid_table *table, const struct cpu_model *model, const char *vendor, const struct feature_set *features);

/* Leaves that state APIC ids and what is shared by whom (cpuid_topology.c). */
void cpuid_set_topology(struct kvm_cpuid_entry2 *entry, uint32_t apic_id, const struct cpu_topology *topology);

#endif
