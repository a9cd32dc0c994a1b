/* SPDX-License-Identifier: MIT */
/*
 * What identifies a processor in CPUID beside its features: vendor, signature, name, caches, and how many leaves
 * there are. For `host` and `max` only what the user gives is changed: the rest is the accelerator's.
 */
#include <string.h>

#include "vcpu/cpuid_table.h"

#define CACHE_LINE_BYTES 64u
#define LEVEL_BASIC_END 0x3fffffffu
#define LEVEL_EXTENDED 0x80000000u

struct kvm_cpuid_entry2 *cpuid_need(union cpuid_table *table, uint32_t leaf, uint32_t subleaf, uint32_t flags)
{
    struct kvm_cpuid_entry2 *entry = cpuid_find(table, leaf, subleaf);

    if (entry == NULL && table->head.nent < CPUID_ENTRIES_MAX) {
        entry = &table->head.entries[table->head.nent++];
        *entry = (struct kvm_cpuid_entry2){.function = leaf, .index = subleaf, .flags = flags};
    }
    return entry;
}

void cpuid_remove(union cpuid_table *table, uint32_t first, uint32_t last)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < table->head.nent; i++) {
        if (table->head.entries[i].function < first || table->head.entries[i].function > last) {
            table->head.entries[kept++] = table->head.entries[i];
        }
    }
    table->head.nent = kept;
}

/* ---- caches of a named model: typical ones; a guest reads them for its scheduler and to tell its user ---- */

enum cache_type { CACHE_DATA = 1, CACHE_INSTRUCTION = 2, CACHE_UNIFIED = 3 };

struct cache {
    enum cache_type type;
    uint8_t level, ways, ways_code; /* ways_code: as leaf 0x80000006 has it (APM 3 E.4.4) */
    uint16_t kib;
};
#define CACHES 4u

static const struct cache intel_caches[CACHES] = {
    {CACHE_DATA, 1, 8, 6, 32}, {CACHE_INSTRUCTION, 1, 8, 6, 32}, {CACHE_UNIFIED, 2, 16, 8, 4096}, {CACHE_UNIFIED, 3, 16, 8, 16384}};
static const struct cache amd_caches[CACHES] = {
    {CACHE_DATA, 1, 8, 6, 32}, {CACHE_INSTRUCTION, 1, 4, 4, 64}, {CACHE_UNIFIED, 2, 8, 6, 512}, {CACHE_UNIFIED, 3, 16, 8, 8192}};

/* Deterministic cache parameters (SDM 2A CPUID leaf 04H); who shares them is the topology's. */
static bool set_cache_leaf(union cpuid_table *table, uint32_t leaf, const struct cache caches[CACHES])
{
    cpuid_remove(table, leaf, leaf);
    for (unsigned i = 0; i <= CACHES; i++) {
        struct kvm_cpuid_entry2 *e = cpuid_need(table, leaf, i, KVM_CPUID_FLAG_SIGNIFCANT_INDEX);
        if (e == NULL) {
            return false;
        }
        if (i < CACHES) {
            e->eax = (uint32_t)caches[i].type | (uint32_t)caches[i].level << 5 | 1u << 8; /* self-initializing */
            e->ebx = (CACHE_LINE_BYTES - 1) | (caches[i].ways - 1u) << 22;
            e->ecx = caches[i].kib * 1024u / caches[i].ways / CACHE_LINE_BYTES - 1;
            e->edx = caches[i].level == 3 ? 1u << 1 : 0; /* inclusive */
        }
    }
    return true;
}

static uint32_t level_1_cache(const struct cache *c)
{
    return (uint32_t)c->kib << 24 | (uint32_t)c->ways << 16 | 1u << 8 | CACHE_LINE_BYTES;
}

static bool set_caches(union cpuid_table *table, bool amd)
{
    const struct cache *caches = amd ? amd_caches : intel_caches;
    struct kvm_cpuid_entry2 *l2 = cpuid_need(table, 0x80000006u, 0, 0);

    if (l2 == NULL) {
        return false;
    }
    l2->eax = l2->ebx = l2->edx = 0;
    l2->ecx = (uint32_t)caches[2].kib << 16 | (uint32_t)caches[2].ways_code << 12 | (amd ? 1u << 8 : 0) | CACHE_LINE_BYTES;
    if (!amd) {
        struct kvm_cpuid_entry2 *descriptors = cpuid_need(table, 2, 0, 0);
        if (descriptors == NULL) {
            return false;
        }
        descriptors->eax = 0x0000ff01; /* one look; descriptor FFH: leaf 4 has them */
        descriptors->ebx = descriptors->ecx = descriptors->edx = 0;
        return set_cache_leaf(table, 4, caches);
    }
    struct kvm_cpuid_entry2 *l1 = cpuid_need(table, 0x80000005u, 0, 0);
    if (l1 == NULL) {
        return false;
    }
    l1->eax = l1->ebx = 0;
    l1->ecx = level_1_cache(&caches[0]);
    l1->edx = level_1_cache(&caches[1]);
    l2->edx = (uint32_t)caches[3].kib / 512u << 18 | (uint32_t)caches[3].ways_code << 12 | 1u << 8 | CACHE_LINE_BYTES;
    return set_cache_leaf(table, 0x8000001du, caches) && cpuid_need(table, 0x8000001eu, 0, 0) != NULL;
}

/* ---- signature, vendor, name ---- */

/* SDM 2A CPUID, figure 3-6: | extended family 27:20 | extended model 19:16 | family 11:8 | model 7:4 | stepping 3:0 */
static uint32_t signature(uint32_t family, uint32_t model, uint32_t stepping)
{
    uint32_t low = family < 15 ? family : 15;

    return (family - low) << 20 | (model >> 4) << 16 | low << 8 | (model & 0xf) << 4 | stepping;
}

static uint32_t signature_family(uint32_t eax)
{
    uint32_t low = eax >> 8 & 0xf;
    return low == 15 ? low + (eax >> 20 & 0xff) : low;
}

static void set_signature(struct kvm_cpuid_entry2 *e, const struct cpu_model *model)
{
    const struct cpu_definition *d = model->definition;
    uint32_t family = model->family.given ? model->family.value : d != NULL ? d->family : signature_family(e->eax);
    uint32_t number = model->model.given ? model->model.value : d != NULL ? d->model : (e->eax >> 12 & 0xf0) | (e->eax >> 4 & 0xf);
    uint32_t stepping = model->stepping.given ? model->stepping.value : d != NULL ? d->stepping : e->eax & 0xf;

    e->eax = signature(family, number, stepping);
}

static void set_vendor(struct kvm_cpuid_entry2 *e, const char *vendor)
{
    memcpy(&e->ebx, vendor, 4); /* "Genu" "ineI" "ntel" are in EBX, EDX, ECX */
    memcpy(&e->edx, vendor + 4, 4);
    memcpy(&e->ecx, vendor + 8, 4);
}

static bool set_brand(union cpuid_table *table, const char *brand)
{
    char text[CPU_BRAND_BYTES] = {0};

    memcpy(text, brand, strnlen(brand, sizeof(text)));
    for (uint32_t i = 0; i < 3; i++) {
        struct kvm_cpuid_entry2 *e = cpuid_need(table, 0x80000002u + i, 0, 0);
        if (e == NULL) {
            return false;
        }
        memcpy(&e->eax, text + 16 * i, 4);
        memcpy(&e->ebx, text + 16 * i + 4, 4);
        memcpy(&e->ecx, text + 16 * i + 8, 4);
        memcpy(&e->edx, text + 16 * i + 12, 4);
    }
    return true;
}

/* ---- how many leaves ---- */

/* The highest leaf of a class that a model's features, or its own level, ask for. */
static uint32_t level_of(const struct feature_set *features, uint32_t level, bool extended)
{
    for (unsigned w = 0; w < FEATURE_WORDS; w++) {
        uint32_t leaf = feature_registers[w].leaf;
        bool in_class = extended ? leaf >= LEVEL_EXTENDED : leaf <= LEVEL_BASIC_END;
        if (in_class && features->word[w] != 0 && leaf > level) {
            level = leaf;
        }
    }
    return level;
}

int cpuid_set_identity(union cpuid_table *table, const struct cpu_model *model, const char *vendor, const struct feature_set *features)
{
    const struct cpu_definition *d = model->definition;
    const char *brand = model->brand[0] != '\0' ? model->brand : d != NULL ? d->brand : NULL;
    bool amd = memcmp(vendor, CPU_VENDOR_INTEL, CPU_VENDOR_BYTES) != 0;

    if (brand != NULL && !set_brand(table, brand)) {
        return -1;
    }
    if (d != NULL) {
        cpuid_remove(table, 2, 2);
        cpuid_remove(table, 4, 4);
        cpuid_remove(table, 0x80000005u, 0x80000006u);
        cpuid_remove(table, 0x8000001du, 0x8000001eu);
        if (!set_caches(table, amd)) {
            return -1;
        }
        if (amd) {
            cpuid_remove(table, 0x14, 0x1f);
        } else {
            cpuid_remove(table, 0x80000009u, 0x8fffffffu);
        }
    }
    struct kvm_cpuid_entry2 *basic = cpuid_need(table, 0, 0, 0);
    if (basic != NULL) {
        set_vendor(basic, vendor);
        basic->eax = model->level.given ? model->level.value : d != NULL ? level_of(features, d->level, false) : basic->eax;
        uint32_t level = basic->eax;
        cpuid_remove(table, level + 1, LEVEL_BASIC_END);
    }
    struct kvm_cpuid_entry2 *extended = cpuid_need(table, LEVEL_EXTENDED, 0, 0);
    if (extended != NULL) {
        extended->eax = model->xlevel.given ? model->xlevel.value : d != NULL ? level_of(features, d->xlevel, true) : extended->eax;
        uint32_t level = extended->eax;
        cpuid_remove(table, level + 1, 0x8fffffffu);
    }
    struct kvm_cpuid_entry2 *one = cpuid_need(table, 1, 0, 0);
    if (basic == NULL || extended == NULL || one == NULL) {
        return -1;
    }
    set_signature(one, model);
    return 0;
}
