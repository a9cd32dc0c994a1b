/* SPDX-License-Identifier: MIT */
/*
 * The topology in CPUID: APIC ids, and which processors share a core, a cache, a package.
 */
#include "vcpu/cpuid_table.h"

/* SDM 2A CPUID leaf 0BH: levels' types */
enum { CPUID_LEVEL_NONE = 0, CPUID_LEVEL_THREAD = 1, CPUID_LEVEL_CORE = 2, CPUID_LEVEL_DIE = 5 };

static void cpuid_set_level(struct kvm_cpuid_entry2 *entry, unsigned type, unsigned shift, unsigned cpus)
{
    entry->eax = shift;
    entry->ebx = cpus;
    entry->ecx = (entry->index & 0xff) | type << 8;
}

/* Extended topology: leaf 0xB has no dies, its second level is the package; 0x1F has them if there is more than one. */
static void cpuid_set_levels(struct kvm_cpuid_entry2 *entry, uint32_t apic_id, const struct cpu_topology *t)
{
    unsigned per_die = t->cores * t->threads, per_package = t->dies * per_die;
    bool dies = entry->function == 0x1f && t->dies > 1;

    switch (entry->index) {
    case 0:
        cpuid_set_level(entry, CPUID_LEVEL_THREAD, topology_core_shift(t), t->threads);
        break;
    case 1:
        cpuid_set_level(entry, CPUID_LEVEL_CORE, dies ? topology_die_shift(t) : topology_package_shift(t), dies ? per_die : per_package);
        break;
    case 2:
        cpuid_set_level(entry, dies ? CPUID_LEVEL_DIE : CPUID_LEVEL_NONE, dies ? topology_package_shift(t) : 0, dies ? per_package : 0);
        break;
    default:
        cpuid_set_level(entry, CPUID_LEVEL_NONE, 0, 0);
        break;
    }
    entry->edx = apic_id;
}

/* Caches of levels 1 and 2 belong to a core, those above to a package (leaf 4; AMD's 0x8000001D has the same fields). */
static void cpuid_set_cache(struct kvm_cpuid_entry2 *entry, const struct cpu_topology *t)
{
    unsigned level = entry->eax >> 5 & 7u;
    unsigned sharing = level <= 2 ? 1u << topology_core_shift(t) : 1u << topology_package_shift(t);
    unsigned cores = 1u << (topology_package_shift(t) - topology_core_shift(t));

    if ((entry->eax & 0x1fu) == 0) {
        return;
    }
    entry->eax = (entry->eax & 0x00003fffu) | (sharing - 1) << 14 | (entry->function == 4 ? (cores - 1) << 26 : 0);
}

void cpuid_set_topology(struct kvm_cpuid_entry2 *entry, uint32_t apic_id, const struct cpu_topology *t)
{
    unsigned per_package = t->dies * t->cores * t->threads;
    unsigned ids = 1u << topology_package_shift(t);

    switch (entry->function) {
    case 1: /* EBX: initial APIC id, ids in a package; EDX.HTT */
        entry->ebx = (entry->ebx & 0x0000ffffu) | apic_id << 24 | (ids & 0xff) << 16;
        entry->edx = (entry->edx & ~(1u << 28)) | (per_package > 1 ? 1u << 28 : 0);
        break;
    case 4:
    case 0x8000001d:
        cpuid_set_cache(entry, t);
        break;
    case 0xb:
    case 0x1f:
        cpuid_set_levels(entry, apic_id, t);
        break;
    case 0x80000001: /* ECX.CmpLegacy: cores, no threads; TopologyExtensions: leaves 0x8000001D and 0x8000001E */
        entry->ecx &= ~(1u << 1) & ~(t->threads == 1 ? 1u << 22 : 0);
        entry->ecx |= per_package > 1 && t->threads == 1 ? 1u << 1 : 0;
        break;
    case 0x80000008: /* ECX: processors in a package, bits of their ids */
        entry->ecx = (entry->ecx & ~0xf0ffu) | (per_package - 1) | topology_package_shift(t) << 12;
        break;
    case 0x8000001e: /* EAX: APIC id; EBX: core, threads in it; ECX: nodes in a package, node (APM 3 E.4.18) */
        entry->eax = apic_id;
        entry->ebx = ((apic_id & (ids - 1)) >> topology_core_shift(t)) | (t->threads - 1) << 8;
        entry->ecx = apic_id >> topology_package_shift(t) & 0xff;
        break;
    default:
        break;
    }
}
